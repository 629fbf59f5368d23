//! What the service manager (systemd) says and is told: sockets that it has bound, and what the node is doing.

use std::{
    env, io,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::net::{SocketAddr, UnixDatagram},
    },
    process,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    time::{ClockId, clock_gettime},
};
use tracing::debug;

use crate::http::Socket;

/// The number of the first descriptor that is handed over (sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// More sockets than a unit has.
const SOCKETS_MAX: RawFd = 10_000;

/// Returns the sockets that the service manager has bound for this process (`LISTEN_FDS`), at the first call.
#[must_use]
pub fn sockets() -> Vec<Socket> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name: &str| env::var(name).ok();
    let Some(count) = handed_over(variable("LISTEN_PID").as_deref(), variable("LISTEN_FDS").as_deref(), process::id())
    else {
        return Vec::new();
    };
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let own = |number: RawFd| {
        // SAFETY: the service manager has opened these for this process, as `LISTEN_PID` says, so that nothing else here
        // has opened or owns them; and they are taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        // One that doesn't take it is no descriptor at all; it is found out when it is used.
        let _ = fcntl_setfd(&fd, FdFlags::CLOEXEC);
        // Its file, if it has one, is the service manager's. `LISTEN_FDNAMES` isn't needed: the address tells.
        Socket { name: String::new(), fd, owns_file: false, key: None }
    };
    (FIRST..FIRST + count).map(own).collect()
}

/// Returns how many sockets are for the process `own`.
fn handed_over(process: Option<&str>, count: Option<&str>, own: u32) -> Option<RawFd> {
    let process: u32 = process?.parse().ok()?;
    let count: RawFd = count?.parse().ok()?;
    (process == own && (1..=SOCKETS_MAX).contains(&count)).then_some(count)
}

/// A state that the service manager is told of (sd_notify(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The node serves.
    Ready,
    /// The node serves in the place of another process, and is the service's main one.
    Succeeded,
    /// The node reads its configuration again; [`State::Ready`] follows.
    Reloading,
    /// The node drains.
    Stopping,
}

impl State {
    fn text(self) -> String {
        match self {
            Self::Ready => "READY=1".to_owned(),
            Self::Succeeded => format!("MAINPID={}\nREADY=1", process::id()),
            Self::Reloading => {
                let now = clock_gettime(ClockId::Monotonic);
                let us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
                format!("RELOADING=1\nMONOTONIC_USEC={us}")
            }
            Self::Stopping => "STOPPING=1".to_owned(),
        }
    }
}

/// Tells the service manager, if there is one that listens (`NOTIFY_SOCKET`).
pub fn notify(state: State) {
    let Some(to) = env::var_os("NOTIFY_SOCKET").filter(|to| !to.is_empty()) else { return };
    let sent = to.to_str().map_or_else(|| Err(io::ErrorKind::InvalidInput.into()), |to| send(to, &state.text()));
    if let Err(error) = sent {
        debug!(%error, ?state, "the service manager can't be told");
    }
}

fn send(to: &str, text: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address(to)?)?;
    Ok(())
}

/// Returns the address of a socket whose name begins with `@` if it has no file.
#[cfg(target_os = "linux")]
fn address(name: &str) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

#[cfg(not(target_os = "linux"))]
fn address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_pathname(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_for_the_process_that_is_named() {
        for (process, count, wanted) in [
            (Some("7"), Some("2"), Some(2)),
            (Some("8"), Some("2"), None),
            (Some("7"), Some("0"), None),
            (Some("7"), Some("-1"), None),
            (Some("7"), Some("1000000"), None),
            (Some("x"), Some("2"), None),
            (Some("7"), None, None),
            (None, Some("2"), None),
        ] {
            assert_eq!(handed_over(process, count, 7), wanted, "{process:?} {count:?}");
        }
    }

    #[test]
    fn the_service_manager_is_told_in_a_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let told = |state: State| {
            send(path.to_str().unwrap(), &state.text()).unwrap();
            let mut space = [0; 256];
            let length = manager.recv(&mut space).unwrap();
            String::from_utf8(space[..length].to_vec()).unwrap()
        };
        assert_eq!(told(State::Ready), "READY=1");
        assert_eq!(told(State::Succeeded), format!("MAINPID={}\nREADY=1", process::id()));
        assert!(told(State::Reloading).starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(told(State::Stopping), "STOPPING=1");
        assert!(send("/nowhere/at/all", "READY=1").is_err());
    }
}
