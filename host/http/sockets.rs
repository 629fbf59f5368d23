//! Listening sockets that this process didn't bind: another process hands them over, or the service manager has bound
//! them. A configured address takes the one that is bound to it.

use std::{
    iter, mem,
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
    /// `None` of a socket to listen at. Otherwise it leads to a process that may still have connections of QUIC at the
    /// address `name`, and takes their packets by it: the key by which their IDs are known.
    pub key: Option<[u8; 32]>,
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
        self.take(|socket| socket.key.is_none() && socket.is(Type::DGRAM) && socket.address() == Some(address))
    }

    /// Takes the ways to the processes that may still have connections at the UDP port of an address, with their keys.
    pub(super) fn formers(&self, address: SocketAddr) -> Vec<([u8; 32], OwnedFd)> {
        let name = address.to_string();
        let next = || self.take(|socket| socket.key.is_some() && socket.name == name);
        iter::from_fn(next).filter_map(|socket| Some((socket.key?, socket.fd))).collect()
    }

    fn take(&self, suits: impl Fn(&Socket) -> bool) -> Option<Socket> {
        let mut sockets = self.0.lock();
        let at = sockets.iter().position(suits)?;
        Some(sockets.remove(at))
    }

    /// Closes those that are left, and returns which of them were to be listened at.
    pub(super) fn close(&self) -> Vec<String> {
        let left = mem::take(&mut *self.0.lock());
        left.iter().filter(|socket| socket.key.is_none()).map(Socket::shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, UdpSocket},
        os::unix::net::{UnixDatagram, UnixListener},
    };

    use super::*;

    fn socket(name: &str, fd: impl Into<OwnedFd>) -> Socket {
        Socket { name: name.to_owned(), fd: fd.into(), owns_file: false, key: None }
    }

    #[test]
    fn the_ways_to_earlier_processes_go_with_their_address_and_are_listened_at_by_nobody() {
        let way = |name: &str, key: u8| {
            let (end, _) = UnixDatagram::pair().unwrap();
            Socket { key: Some([key; 32]), ..socket(name, end) }
        };
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = udp.local_addr().unwrap();
        let name = at.to_string();
        let sockets = Sockets::new(vec![way(&name, 1), socket("", udp), way("192.0.2.1:9", 2), way(&name, 3)]);
        let keys: Vec<_> = sockets.formers(at).into_iter().map(|(key, _)| key[0]).collect();
        assert_eq!(keys, [1, 3]);
        assert!(sockets.datagram(at).is_some_and(|socket| socket.key.is_none()));
        assert_eq!(sockets.close(), Vec::<String>::new());
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
