//! Listening sockets and the accept loop.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener as StdUnixListener,
    },
    sync::{Arc, Weak},
    time::Duration,
};

use ::http::HeaderValue;
use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug};

use super::{
    advertisement,
    connection::{self, Builders},
    proxy, tls,
};
use crate::{
    config,
    http::{
        error::Error,
        handler::Handler,
        shared::{Admitted, Rules, Shared},
        slots::Slot,
        socket_file::SocketFile,
        sockets::{Socket as Inherited, Sockets},
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
pub(in crate::http) struct Listener {
    acceptor: Arc<Acceptor>,
    handle: Handle,
}

/// A listening socket.
enum Acceptor {
    Tcp(TcpListener),
    /// `None` if the file is somebody else's.
    Unix(UnixListener, Option<SocketFile>),
}

impl Acceptor {
    /// Accepts a connection. A client of a Unix socket has the address that is `configured` for it.
    async fn accept(&self, configured: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Tcp(socket) => socket.accept().await,
            Self::Unix(socket, _) => {
                let (stream, _) = socket.accept().await?;
                // All that is done with a stream is done by its descriptor, whatever the family of its addresses is.
                let stream = std::net::TcpStream::from(OwnedFd::from(stream.into_std()?));
                Ok((TcpStream::from_std(stream)?, configured))
            }
        }
    }

    fn copy(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(socket) => socket.as_fd().try_clone_to_owned(),
            Self::Unix(socket, _) => socket.as_fd().try_clone_to_owned(),
        }
    }

    const fn file(&self) -> Option<&SocketFile> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, file) => file.as_ref(),
        }
    }
}

/// What may be changed of a listener while it accepts; clones are of the same.
#[derive(Clone)]
pub(in crate::http) struct Handle {
    address: SocketAddr,
    /// The name of a Unix socket.
    name: Option<Arc<str>>,
    /// The socket, as long as it accepts.
    acceptor: Weak<Acceptor>,
    settings: Arc<ArcSwap<Settings>>,
    stop: CancellationToken,
}

/// What holds for connections that a listener accepts from now on.
pub(in crate::http) struct Settings {
    /// `None` for cleartext.
    tls: Option<TlsAcceptor>,
    /// Networks whose connections begin with the client's address.
    proxies: Vec<Cidr>,
    /// The `Alt-Svc` of responses that have none.
    alternative: Option<HeaderValue>,
}

impl Settings {
    /// Returns those of the configuration for an address whose port is `port`; without certificates it speaks cleartext.
    pub(in crate::http) fn new(
        listen: &config::Listen,
        certificates: Option<&Certificates>,
        port: u16,
    ) -> Result<Self, Error> {
        Ok(Self::with(listen, certificates.map(tls::acceptor).transpose()?, port))
    }

    fn with(listen: &config::Listen, tls: Option<TlsAcceptor>, port: u16) -> Self {
        let alternative = listen.http3.as_ref().and_then(|http3| advertisement::of(http3, port));
        Self { tls, proxies: listen.proxy_protocol.clone(), alternative }
    }
}

impl Handle {
    /// Returns the bound address.
    pub(in crate::http) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address as a URL, for logs.
    pub(in crate::http) fn url(&self) -> String {
        let scheme = self.scheme().as_str();
        match &self.name {
            Some(name) => format!("{scheme}://{name}"),
            None => format!("{scheme}://{}", self.address),
        }
    }

    /// Returns a copy of the socket, for another process; `None` if it is closed.
    pub(in crate::http) fn copy(&self) -> io::Result<Option<OwnedFd>> {
        self.acceptor.upgrade().map(|acceptor| acceptor.copy()).transpose()
    }

    /// Whether it is a Unix socket whose file this process removes.
    pub(in crate::http) fn owns_file(&self) -> bool {
        self.acceptor.upgrade().is_some_and(|acceptor| acceptor.file().is_some())
    }

    /// Leaves the file of a Unix socket to another process.
    pub(in crate::http) fn leave_file(&self) {
        if let Some(file) = self.acceptor.upgrade().as_deref().and_then(Acceptor::file) {
            file.leave();
        }
    }

    /// Returns the scheme of connections that are accepted from now on.
    pub(in crate::http) fn scheme(&self) -> Scheme {
        if self.settings.load().tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// Returns the settings of the configuration with the same TLS as now, so that tickets of sessions stay good.
    pub(in crate::http) fn settings_of(&self, listen: &config::Listen) -> Settings {
        Settings::with(listen, self.settings.load().tls.clone(), self.address.port())
    }

    /// Sets what holds for connections that are accepted from now on.
    pub(in crate::http) fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Has the socket closed, and connections that came by it finish what is under way.
    pub(in crate::http) fn close(&self) {
        self.stop.cancel();
    }

    #[cfg(test)]
    pub(in crate::http) fn is_closed(&self) -> bool {
        self.stop.is_cancelled()
    }

    #[cfg(test)]
    pub(in crate::http) fn proxies(&self) -> usize {
        self.settings.load().proxies.len()
    }
}

/// The rules for new connections, and what follows from them.
struct Current<H> {
    rules: Arc<Rules>,
    shared: Arc<Shared<H>>,
    builders: Arc<Builders>,
}

impl<H: Handler> Current<H> {
    fn new(server: &Shared<H>, rules: Arc<Rules>, drain: &CancellationToken, retire: &CancellationToken) -> Self {
        let shared = Arc::new(server.under(&rules, drain.clone(), retire.clone()));
        let builders = Arc::new(Builders::new(&rules.limits, &rules.timeouts, &shared.metrics));
        Self { rules, shared, builders }
    }
}

impl Listener {
    /// Binds an address, or takes the one of `sockets` that is bound to it; without certificates it speaks cleartext.
    pub(in crate::http) fn bind(
        listen: &config::Listen,
        certificates: Option<&Certificates>,
        sockets: &Sockets,
    ) -> Result<Self, Error> {
        let refused = |reason| Error::Listen { address: listen.name(), reason };
        let acceptor = match sockets.stream(listen) {
            Some(inherited) => taken(inherited, listen),
            None => open(listen),
        };
        let acceptor = Arc::new(acceptor.map_err(refused)?);
        let address = match &*acceptor {
            Acceptor::Tcp(socket) => socket.local_addr().map_err(refused)?,
            Acceptor::Unix(..) => listen.address,
        };
        let settings = Arc::new(ArcSwap::from_pointee(Settings::new(listen, certificates, address.port())?));
        let name = listen.unix.as_ref().map(|_| listen.name().into());
        let handle =
            Handle { address, name, acceptor: Arc::downgrade(&acceptor), settings, stop: CancellationToken::new() };
        Ok(Self { acceptor, handle })
    }

    /// Returns what may be changed of it.
    pub(in crate::http) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Accepts until the drain begins, another process does or it is closed, by the rules that hold when a connection
    /// comes; the socket closes on return.
    pub(super) async fn accept<H: Handler>(self, server: Arc<Shared<H>>, rules: Arc<ArcSwap<Rules>>) {
        // A process that never comes as far as this leaves it to the one that it was to succeed.
        if let Some(file) = self.acceptor.file() {
            file.own();
        }
        let drain = server.drain.child_token();
        let retire = drain.child_token();
        let mut current = Current::new(&server, rules.load_full(), &drain, &retire);
        loop {
            let next = tokio::select! {
                biased;
                () = drain.cancelled() => return,
                () = self.handle.stop.cancelled() => return drain.cancel(),
                () = server.retirement.begun() => return retire.cancel(),
                next = self.next(&server) => next,
            };
            match next {
                Ok((stream, client, slot)) => {
                    let latest = rules.load_full();
                    if !Arc::ptr_eq(&latest, &current.rules) {
                        current = Current::new(&server, latest, &drain, &retire);
                    }
                    self.admit(&current, stream, client, slot);
                }
                Err(error) => {
                    server.metrics.accept_errors.inc();
                    if !is_of_the_client(&error) {
                        tracing::warn!(%error, address = self.handle.url(), "cannot accept");
                        sleep(BACK_OFF).await;
                    }
                }
            }
        }
    }

    /// Serves a connection, behind a balancer once its client's address has been read.
    fn admit<H: Handler>(&self, current: &Current<H>, stream: TcpStream, client: SocketAddr, slot: Slot) {
        let settings = self.handle.settings.load();
        let (tls, alternative) = (settings.tls.clone(), settings.alternative.clone());
        let accepted = Accepted { stream, client, slot, tls, alternative };
        let common = (current.shared.clone(), current.builders.clone());
        if settings.proxies.iter().any(|network| network.contains(client.ip())) {
            current.shared.spawn(Span::none(), proxied(common, accepted));
        } else {
            begin(common, accepted);
        }
    }

    /// Takes a slot first and a connection then, so that what exceeds the limit waits in the kernel and costs nothing
    /// here.
    async fn next<H>(&self, shared: &Shared<H>) -> io::Result<(TcpStream, SocketAddr, Slot)> {
        let slot = shared.slot().await?;
        let (stream, client) = self.acceptor.accept(self.handle.address).await?;
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
    slot: Slot,
    tls: Option<TlsAcceptor>,
    /// The `Alt-Svc` of its responses that have none.
    alternative: Option<HeaderValue>,
}

/// Serves a connection, if its client may have another one.
fn begin<H: Handler>(common: (Arc<Shared<H>>, Arc<Builders>), accepted: Accepted) {
    let Accepted { stream, client, slot, tls, alternative } = accepted;
    let shared = common.0.clone();
    let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
    if let Some(Admitted { mut peer, open, span }) = shared.admit(client, scheme, slot) {
        peer.local = stream.local_addr().ok();
        shared.spawn(span, connection::serve(common, stream, (tls, alternative), peer, open));
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

fn open(listen: &config::Listen) -> io::Result<Acceptor> {
    if let Some(unix) = &listen.unix {
        let (socket, file) = SocketFile::bind(&unix.path, unix.mode)?;
        return Ok(Acceptor::Unix(UnixListener::from_std(socket)?, Some(file)));
    }
    let socket = Socket::new(Domain::for_address(listen.address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(listen.reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.address.into())?;
    socket.listen(BACKLOG)?;
    Ok(Acceptor::Tcp(TcpListener::from_std(socket.into())?))
}

/// Returns a socket that somebody else has bound.
fn taken(inherited: Inherited, listen: &config::Listen) -> io::Result<Acceptor> {
    let Inherited { fd, owns_file, .. } = inherited;
    let socket = Socket::from(fd);
    socket.set_nonblocking(true)?;
    // The service manager may not have it listen yet; on one that does it sets the length of its queue.
    socket.listen(BACKLOG)?;
    let Some(unix) = &listen.unix else { return Ok(Acceptor::Tcp(TcpListener::from_std(socket.into())?)) };
    let file = owns_file.then(|| SocketFile::lent(&unix.path)).transpose()?;
    let socket = StdUnixListener::from(OwnedFd::from(socket));
    Ok(Acceptor::Unix(UnixListener::from_std(socket)?, file))
}

/// Whether the error concerns just the connection that was about to be accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(listen: &config::Listen) -> Result<Listener, Error> {
        Listener::bind(listen, None, &Sockets::default())
    }

    #[tokio::test]
    async fn a_copy_is_the_same_socket_and_closing_one_leaves_the_other() {
        let any = config::Listen::new("127.0.0.1:0".parse().unwrap());
        let former = bind(&any).ok().unwrap();
        let (address, fd) = (former.handle().address(), former.handle().copy().unwrap().unwrap());
        let sockets = Sockets::new(vec![Inherited { name: any.name(), fd, owns_file: false, key: None }]);
        let next = Listener::bind(&any, None, &sockets).ok().unwrap();
        assert_eq!(next.handle().address(), address);
        let handle = former.handle().clone();
        drop(former);
        assert!(handle.copy().unwrap().is_none(), "a handle keeps no socket open");
        let client = std::net::TcpStream::connect(address).unwrap();
        let (_, peer) = next.acceptor.accept(address).await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }

    #[tokio::test]
    async fn the_file_of_a_unix_socket_goes_with_the_last_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holm.sock");
        let listen = config::Listen::unix(path.clone());
        let former = bind(&listen).ok().unwrap();
        let refused = bind(&listen).err().unwrap().to_string();
        assert!(refused.contains(&listen.name()), "{refused}");
        let fd = former.handle().copy().unwrap().unwrap();
        let owns_file = former.handle().owns_file();
        let sockets = Sockets::new(vec![Inherited { name: listen.name(), fd, owns_file, key: None }]);
        let next = Listener::bind(&listen, None, &sockets).ok().unwrap();
        former.handle().leave_file();
        drop(former);
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (stream, address) = next.acceptor.accept(listen.address).await.unwrap();
        assert_eq!(address, listen.address);
        // It accepts, so that the file is its own.
        next.acceptor.file().unwrap().own();
        drop((stream, client, next));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_system_chooses_a_port_and_a_taken_one_is_refused_by_name() {
        let any = config::Listen::new("127.0.0.1:0".parse().unwrap());
        let first = bind(&any).ok().unwrap();
        let address = first.handle().address();
        assert_ne!(address.port(), 0);
        let error = bind(&config::Listen::new(address)).err().unwrap().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }

    #[tokio::test]
    async fn an_address_is_shared_by_those_that_say_so() {
        let any = config::Listen { reuse_port: true, ..config::Listen::new("127.0.0.1:0".parse().unwrap()) };
        let first = bind(&any).ok().unwrap();
        let same = config::Listen { address: first.handle().address(), ..any };
        assert!(bind(&same).is_ok());
        assert!(bind(&config::Listen { reuse_port: false, ..same }).is_err());
    }

    #[test]
    fn only_errors_of_one_connection_are_retried_at_once() {
        assert!(is_of_the_client(&ErrorKind::ConnectionAborted.into()));
        // EMFILE, by its number on Linux.
        assert!(!is_of_the_client(&io::Error::from_raw_os_error(24)));
    }
}
