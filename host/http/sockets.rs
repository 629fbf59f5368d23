//! Listening sockets that this process didn't bind: another process hands them over, or the service manager has bound
//! them. A configured address takes the one that is bound to it.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use socket2::{SockRef, Type};

use crate::config;

/// A listening socket.
#[derive(Debug)]
pub struct Socket {
    /// The address as the configuration of its former owner has it; empty if nobody says.
    pub name: String,
    /// The socket.
    pub fd: OwnedFd,
    /// Whether the file of a Unix socket is this process's from now on, which removes it when it ends.
    pub owns_file: bool,
}

impl Socket {
    /// Returns the bound address; `None` of a Unix socket, or if the system can't tell.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        SockRef::from(&self.fd).local_addr().ok()?.as_socket()
    }

    fn path(&self) -> Option<PathBuf> {
        SockRef::from(&self.fd).local_addr().ok()?.as_pathname().map(Path::to_owned)
    }

    fn is(&self, kind: Type) -> bool {
        SockRef::from(&self.fd).r#type().is_ok_and(|own| own == kind)
    }

    /// Returns what it is, for logs.
    fn shown(&self) -> String {
        match (self.address(), self.path()) {
            (Some(address), _) => address.to_string(),
            (None, Some(path)) => format!("unix:{}", path.display()),
            (None, None) => self.name.clone(),
        }
    }
}

/// Sockets that no address has taken yet.
#[derive(Debug, Default)]
pub struct Sockets(Mutex<Vec<Socket>>);

impl Sockets {
    /// Returns these sockets, to be taken.
    #[must_use]
    pub const fn new(sockets: Vec<Socket>) -> Self {
        Self(Mutex::new(sockets))
    }

    /// Takes the stream socket of an address.
    pub(super) fn stream(&self, listen: &config::Listen) -> Option<Socket> {
        let is_bound = |socket: &Socket| match &listen.unix {
            Some(unix) => socket.path().as_deref() == Some(&*unix.path),
            None => socket.address() == Some(listen.address),
        };
        // A port that the system chose is known by what was asked for.
        let name = listen.name();
        self.take(|socket| socket.is(Type::STREAM) && is_bound(socket))
            .or_else(|| self.take(|socket| socket.is(Type::STREAM) && socket.name == name))
    }

    /// Takes the datagram socket that is bound to an address.
    pub(super) fn datagram(&self, address: SocketAddr) -> Option<Socket> {
        self.take(|socket| socket.is(Type::DGRAM) && socket.address() == Some(address))
    }

    fn take(&self, suits: impl Fn(&Socket) -> bool) -> Option<Socket> {
        let mut sockets = self.0.lock();
        let at = sockets.iter().position(suits)?;
        Some(sockets.remove(at))
    }

    /// Closes those that are left, and returns what they are.
    pub(super) fn close(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock()).iter().map(Socket::shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, UdpSocket},
        os::unix::net::UnixListener,
    };

    use super::*;

    fn socket(name: &str, fd: impl Into<OwnedFd>) -> Socket {
        Socket { name: name.to_owned(), fd: fd.into(), owns_file: false }
    }

    #[test]
    fn an_address_takes_the_socket_that_is_bound_to_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (tcp, udp, chosen) =
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap(), TcpListener::bind(any).unwrap());
        let (at_tcp, at_udp, at_chosen) =
            (tcp.local_addr().unwrap(), udp.local_addr().unwrap(), chosen.local_addr().unwrap());
        let path = dir.path().join("holm.sock");
        let unix = UnixListener::bind(&path).unwrap();
        let sockets =
            Sockets::new(vec![socket("", tcp), socket("", udp), socket("127.0.0.1:0", chosen), socket("", unix)]);
        assert!(sockets.stream(&config::Listen::new(at_udp)).is_none(), "it is for datagrams");
        assert!(sockets.datagram(at_tcp).is_none(), "it is for streams");
        let taken = sockets.stream(&config::Listen::new(at_tcp)).unwrap();
        assert_eq!(taken.address(), Some(at_tcp));
        assert!(sockets.stream(&config::Listen::new(at_tcp)).is_none(), "it is taken");
        let taken = sockets.stream(&config::Listen::new(any)).unwrap();
        assert_eq!(taken.address(), Some(at_chosen), "a port that was chosen is known by its name");
        assert!(sockets.datagram(at_udp).is_some());
        let wanted = config::UnixSocket { path: path.clone(), mode: 0o660 };
        let listen = config::Listen { unix: Some(wanted), ..config::Listen::new(any) };
        assert!(sockets.stream(&listen).is_some());
        assert!(sockets.close().is_empty(), "all are taken");
    }
}
