//! UDP sockets.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
};

use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

/// Binds a socket whose buffers have `bytes` each, as far as the system gives them. With `reuse_port` other sockets that
/// say so may have the same port, and the system gives each client's packets to one of them.
pub(super) fn open(address: SocketAddr, reuse_port: bool, bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    resize(&socket, address, bytes)?;
    Ok(socket.into())
}

/// Returns a socket that somebody else has bound to `address`, with buffers of this size.
pub(super) fn taken(fd: OwnedFd, address: SocketAddr, bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::from(fd);
    socket.set_nonblocking(true)?;
    resize(&socket, address, bytes)?;
    Ok(socket.into())
}

/// Gives the buffers of a socket `bytes` each, as far as the system does; if it gives less, the log says so.
pub(super) fn resize(socket: &Socket, address: SocketAddr, bytes: usize) -> io::Result<()> {
    // A socket with smaller buffers works, and what it got is looked at below.
    let _ = socket.set_recv_buffer_size(bytes);
    let _ = socket.set_send_buffer_size(bytes);
    let (received, sent) = (given(socket.recv_buffer_size()?), given(socket.send_buffer_size()?));
    if received < bytes || sent < bytes {
        warn!(
            %address,
            wanted = bytes,
            receive = received,
            send = sent,
            "the system gives the UDP socket smaller buffers than `http3.socket_bytes`, so that packets of HTTP/3 are \
             lost under load; raise `net.core.rmem_max` and `net.core.wmem_max` (sysctl) to that many bytes"
        );
    }
    Ok(())
}

/// Returns the bytes of packets that a buffer of this size has room for: Linux doubles what it is asked for, for its own
/// book-keeping.
const fn given(size: usize) -> usize {
    if cfg!(target_os = "linux") { size / 2 } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_the_buffers_it_is_given_and_a_taken_port_is_refused() {
        let socket = open("127.0.0.1:0".parse().unwrap(), false, 64 * 1024).unwrap();
        let size = socket2::SockRef::from(&socket).recv_buffer_size().unwrap();
        assert!(given(size) >= 64 * 1024, "{size}");
        let error = open(socket.local_addr().unwrap(), true, 64 * 1024).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // More than any system gives: it works all the same.
        open("127.0.0.1:0".parse().unwrap(), false, 1 << 30).unwrap();
    }

    #[test]
    fn a_port_is_shared_by_those_that_say_so() {
        let first = open("127.0.0.1:0".parse().unwrap(), true, 64 * 1024).unwrap();
        let same = first.local_addr().unwrap();
        assert!(open(same, true, 64 * 1024).is_ok());
        assert!(open(same, false, 64 * 1024).is_err());
    }
}
