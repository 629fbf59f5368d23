//! Listening sockets and the accept loop.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use super::{
    connection::{self, Builders},
    tls,
};
use crate::{
    config,
    http::{
        error::Error,
        handler::Handler,
        shared::{Admitted, Shared},
    },
    message::Scheme,
};

/// Connections that wait in the kernel while all slots are taken; the kernel lowers it to `somaxconn`.
const BACKLOG: i32 = 4096;

/// Pause after an accept that failed for lack of a resource, which another try at once would not bring back.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Bytes that a socket takes without having sent them. The kernel would take megabytes for each client that doesn't
/// read, and progress of one that reads slowly would show only when a third of them has been read.
const UNSENT_MAX: u32 = 64 * 1024;

/// One listening address.
pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Loads the certificate, if there is one, then binds.
    pub(super) async fn bind(listen: &config::Listen) -> Result<Self, Error> {
        let tls = match &listen.tls {
            Some(files) => Some(tls::acceptor(files).await?),
            None => None,
        };
        let refused = |reason| Error::Listen { address: listen.address, reason };
        let socket = open(listen.address).map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        Ok(Self { socket, address, tls })
    }

    /// Returns the bound address.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the drain begins; the socket closes on return.
    pub(super) async fn accept<H: Handler>(self, shared: Arc<Shared<H>>, builders: Arc<Builders>) {
        let scheme = if self.tls.is_some() { Scheme::Https } else { Scheme::Http };
        loop {
            let next = tokio::select! {
                biased;
                () = shared.drain.cancelled() => return,
                next = self.next(&shared) => next,
            };
            match next {
                Ok((stream, client, slot)) => {
                    let Some(Admitted { peer, open, span }) = shared.admit(client, scheme, slot) else { continue };
                    let common = (shared.clone(), builders.clone());
                    let served = connection::serve(common, stream, self.tls.clone(), peer, open);
                    shared.spawn(span, served);
                }
                Err(error) => {
                    shared.metrics.accept_errors.inc();
                    if !is_of_the_client(&error) {
                        tracing::warn!(%error, address = %self.address, "cannot accept");
                        sleep(BACK_OFF).await;
                    }
                }
            }
        }
    }

    /// Takes a slot first and a connection then, so that what exceeds the limit waits in the kernel and costs nothing
    /// here.
    async fn next<H>(&self, shared: &Shared<H>) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let slot = shared.slot().await?;
        let (stream, client) = self.socket.accept().await?;
        // Without it small responses may wait for the client's delayed ACK; a socket that refuses still works.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_MAX);
        Ok((stream, client, slot))
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether the error concerns just the connection that was about to be accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_chooses_a_port_and_a_taken_one_is_refused_by_name() {
        let any = config::Listen { address: "127.0.0.1:0".parse().unwrap(), tls: None };
        let first = Listener::bind(&any).await.ok().unwrap();
        assert_ne!(first.address().port(), 0);
        let taken = config::Listen { address: first.address(), tls: None };
        let error = Listener::bind(&taken).await.err().unwrap().to_string();
        assert!(error.contains(&first.address().to_string()), "{error}");
    }

    #[test]
    fn only_errors_of_one_connection_are_retried_at_once() {
        assert!(is_of_the_client(&ErrorKind::ConnectionAborted.into()));
        // EMFILE, by its number on Linux.
        assert!(!is_of_the_client(&io::Error::from_raw_os_error(24)));
    }
}
