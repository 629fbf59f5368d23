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
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{Span, debug};

use super::{
    connection::{self, Builders},
    proxy, tls,
};
use crate::{
    config,
    http::{
        error::Error,
        handler::Handler,
        shared::{Admitted, Shared},
        tls::Certificates,
    },
    message::{Scheme, network::Cidr},
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
    /// Networks whose connections begin with the client's address.
    proxies: Vec<Cidr>,
}

impl Listener {
    /// Binds an address; without certificates it speaks cleartext.
    pub(super) fn bind(listen: &config::Listen, certificates: Option<&Certificates>) -> Result<Self, Error> {
        let tls = certificates.map(tls::acceptor).transpose()?;
        let refused = |reason| Error::Listen { address: listen.address, reason };
        let socket = open(listen).map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        Ok(Self { socket, address, tls, proxies: listen.proxy_protocol.clone() })
    }

    /// Returns the bound address.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the drain begins; the socket closes on return.
    pub(super) async fn accept<H: Handler>(self, shared: Arc<Shared<H>>, builders: Arc<Builders>) {
        loop {
            let next = tokio::select! {
                biased;
                () = shared.drain.cancelled() => return,
                next = self.next(&shared) => next,
            };
            match next {
                Ok((stream, client, slot)) => {
                    let accepted = Accepted { stream, client, slot, tls: self.tls.clone() };
                    let common = (shared.clone(), builders.clone());
                    if self.proxies.iter().any(|network| network.contains(client.ip())) {
                        shared.spawn(Span::none(), proxied(common, accepted));
                    } else {
                        begin(common, accepted);
                    }
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

/// A connection that nothing has been read of.
struct Accepted {
    stream: TcpStream,
    client: SocketAddr,
    slot: OwnedSemaphorePermit,
    tls: Option<TlsAcceptor>,
}

/// Serves a connection, if its client may have another one.
fn begin<H: Handler>(common: (Arc<Shared<H>>, Arc<Builders>), accepted: Accepted) {
    let Accepted { stream, client, slot, tls } = accepted;
    let shared = common.0.clone();
    let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
    if let Some(Admitted { mut peer, open, span }) = shared.admit(client, scheme, slot) {
        peer.local = stream.local_addr().ok();
        shared.spawn(span, connection::serve(common, stream, tls, peer, open));
    }
}

/// Reads the client's address, which a balancer sends first, in the time that a first byte may take, and serves the
/// connection then.
async fn proxied<H: Handler>(common: (Arc<Shared<H>>, Arc<Builders>), mut accepted: Accepted) {
    let shared = &common.0;
    let reading = timeout(shared.timeouts.first_byte, proxy::read(&mut accepted.stream));
    let read = tokio::select! {
        biased;
        () = shared.drain.cancelled() => return,
        read = reading => read.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())),
    };
    match read {
        Ok(named) => {
            accepted.client = named.unwrap_or(accepted.client);
            begin(common, accepted);
        }
        Err(error) => {
            shared.metrics.accepted.inc();
            shared.metrics.closed("proxy-header");
            debug!(%error, balancer = %accepted.client, "connection refused: it doesn't begin with the client's address");
        }
    }
}

fn open(listen: &config::Listen) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen.address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(listen.reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.address.into())?;
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
        let any = config::Listen::new("127.0.0.1:0".parse().unwrap());
        let first = Listener::bind(&any, None).ok().unwrap();
        assert_ne!(first.address().port(), 0);
        let error = Listener::bind(&config::Listen::new(first.address()), None).err().unwrap().to_string();
        assert!(error.contains(&first.address().to_string()), "{error}");
    }

    #[tokio::test]
    async fn an_address_is_shared_by_those_that_say_so() {
        let any = config::Listen { reuse_port: true, ..config::Listen::new("127.0.0.1:0".parse().unwrap()) };
        let first = Listener::bind(&any, None).ok().unwrap();
        let same = config::Listen { address: first.address(), ..any };
        assert!(Listener::bind(&same, None).is_ok());
        assert!(Listener::bind(&config::Listen { reuse_port: false, ..same }, None).is_err());
    }

    #[test]
    fn only_errors_of_one_connection_are_retried_at_once() {
        assert!(is_of_the_client(&ErrorKind::ConnectionAborted.into()));
        // EMFILE, by its number on Linux.
        assert!(!is_of_the_client(&io::Error::from_raw_os_error(24)));
    }
}
