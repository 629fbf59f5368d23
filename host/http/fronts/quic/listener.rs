//! The UDP port of one address, and its accept loop.

use std::{
    future::pending,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime};
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{
    CLOSING,
    connection::{self, Arriving, Unvalidated},
    connection_id::{Ids, Key},
    datagrams::Datagrams,
    session::Code,
    settings::Settings,
    socket,
};
use crate::{
    config::Http3,
    http::{
        error::Error,
        handler::Handler,
        metrics::Metrics,
        retirement::Retirement,
        shared::{Admitted, Rules, Shared},
        slots::Slot,
        tls::Certificates,
    },
    message::Scheme,
};

/// How long connections are accepted whose first packets have come before another process began to read them.
const ARRIVED: Duration = Duration::from_millis(500);

/// One UDP port.
pub(in crate::http) struct Listener {
    endpoint: Endpoint,
    handle: Handle,
    /// The one that had the port before, and refuses what comes there until this one accepts.
    former: Option<Handle>,
    /// Handshakes under way with clients whose address may not be theirs.
    unvalidated: Arc<AtomicUsize>,
}

/// What may be changed of a listener while it accepts; clones are of the same.
#[derive(Clone)]
pub(in crate::http) struct Handle {
    address: SocketAddr,
    reuse_port: bool,
    settings: Arc<ArcSwap<Settings>>,
    /// What the settings of all its connections have in common, such as the keys of tokens.
    template: ServerConfig,
    /// There as long as the listener is: while connections are open, the port can't be bound again.
    open: Arc<Mutex<Option<Open>>>,
    stop: CancellationToken,
    /// Cancelled when another listener accepts at this port.
    succeeded: CancellationToken,
}

/// A socket, and QUIC on it.
#[derive(Clone)]
struct Open {
    endpoint: Endpoint,
    /// Another handle of the same socket.
    socket: Arc<UdpSocket>,
    datagrams: Arc<Datagrams>,
}

/// A socket that another process has bound.
pub(in crate::http) struct Inherited {
    pub(in crate::http) socket: OwnedFd,
    /// Ways to the processes that may still have connections on it, each with the key of its connection IDs.
    pub(in crate::http) formers: Vec<([u8; 32], OwnedFd)>,
}

/// The rules and settings for new connections, and what follows from them.
struct Current<H> {
    rules: Arc<Rules>,
    settings: Arc<Settings>,
    shared: Arc<Shared<H>>,
    server: Arc<ServerConfig>,
}

impl Handle {
    /// Returns the settings of the configuration with the same TLS as now, so that tickets of sessions stay good.
    pub(in crate::http) fn settings_of(&self, http3: &Http3) -> Settings {
        self.settings.load().with(http3)
    }

    /// Sets what holds for connections that are accepted from now on.
    pub(in crate::http) fn set(&self, settings: Settings) {
        let bytes = settings.http3.socket_bytes;
        let former = self.settings.swap(Arc::new(settings));
        if former.http3.socket_bytes != bytes
            && let Some(open) = &*self.open.lock()
        {
            // One that keeps its buffers works.
            let _ = socket::resize(&socket2::SockRef::from(&*open.socket), self.address, bytes);
        }
    }

    /// Returns the bound address.
    pub(in crate::http) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has further connections refused, those that are open finish what is under way, and the socket closed after that.
    pub(in crate::http) fn close(&self) {
        self.stop.cancel();
    }

    /// Returns a copy of the socket, for another process, and what that needs to pass on the packets of connections that
    /// are open here; `None` if it is closed.
    ///
    /// # Errors
    /// The system gives none, or the processes of too many upgrades still have connections.
    pub(in crate::http) fn copy(&self) -> io::Result<Option<Inherited>> {
        let open = self.open.lock();
        let Some(open) = &*open else { return Ok(None) };
        let socket = open.socket.as_fd().try_clone_to_owned()?;
        let formers = open.datagrams.prepare(self.settings.load().http3.socket_bytes)?;
        let formers = formers.into_iter().map(|(key, way)| (key.to_bytes(), way)).collect();
        Ok(Some(Inherited { socket, formers }))
    }

    /// Leaves the socket to the process that has got the last copy.
    pub(in crate::http) fn divert(&self) {
        if let Some(open) = &*self.open.lock() {
            open.datagrams.divert();
        }
    }

    fn is_diverted(&self) -> bool {
        self.open.lock().as_ref().is_some_and(|open| open.datagrams.is_diverted())
    }

    fn count(&self, metrics: &Metrics) {
        if let Some(open) = &*self.open.lock() {
            open.datagrams.count(metrics.datagrams_dropped.clone());
        }
    }

    /// Whether the socket is there still.
    pub(in crate::http) fn is_open(&self) -> bool {
        self.open.lock().is_some()
    }

    #[cfg(test)]
    pub(in crate::http) fn is_closed(&self) -> bool {
        self.stop.is_cancelled()
    }
}

impl Listener {
    /// Binds the UDP port of an address, on which TCP is bound already; with `reuse_port` other processes may bind it as
    /// well. `closing` are listeners that have been closed and may have the port still, the last one at the end: its
    /// socket is taken over then. `inherited` is the port's socket if another process has bound it.
    ///
    /// # Errors
    /// The port can't be bound, or TLS can't be set up.
    pub(in crate::http) fn bind(
        (address, reuse_port): (SocketAddr, bool),
        http3: &Http3,
        certificates: &Certificates,
        (closing, inherited): (&[Handle], Option<Inherited>),
    ) -> Result<Self, Error> {
        let settings = Settings::new(http3, certificates)?;
        let at_port = |handle: &&Handle| (handle.address, handle.reuse_port) == (address, reuse_port);
        let former =
            closing.iter().rev().filter(at_port).find_map(|handle| Some((handle, handle.open.lock().clone()?)));
        let (template, open, former) = match former {
            Some((former, open)) => (former.template.clone(), open, Some(former.clone())),
            None => {
                let template = settings.template();
                let open = open((address, reuse_port, inherited), http3, template.clone())
                    .map_err(|reason| refused(address, &reason))?;
                (template, open, None)
            }
        };
        let handle = Handle {
            address,
            reuse_port,
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            template,
            open: Arc::new(Mutex::new(Some(open.clone()))),
            stop: CancellationToken::new(),
            succeeded: CancellationToken::new(),
        };
        Ok(Self { endpoint: open.endpoint, handle, former, unvalidated: Arc::default() })
    }

    /// Returns what may be changed of it.
    pub(in crate::http) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Accepts until the drain begins, another process does or it is closed, by the rules that hold when a connection comes.
    /// From then on what still comes is refused, so that clients needn't wait to try elsewhere; the socket closes with the
    /// last connection. `reading` is dropped when another process may read it: at once if that passes on the packets of
    /// the connections here, and otherwise when those have had time to finish.
    pub(super) async fn accept<H: Handler>(
        self,
        server: Arc<Shared<H>>,
        rules: Arc<ArcSwap<Rules>>,
        reading: TaskTrackerToken,
    ) {
        if let Some(former) = &self.former {
            former.succeeded.cancel();
        }
        self.handle.count(&server.metrics);
        let mut reading = Some(reading);
        let drain = server.drain.child_token();
        let end = async {
            tokio::select! {
                () = self.handle.stop.cancelled() => {}
                () = server.retirement.begun() => {}
            }
        };
        self.serve(&server, &rules, &drain, end).await;
        if self.handle.is_diverted() {
            drop(reading.take());
            self.serve(&server, &rules, &drain, sleep(ARRIVED)).await;
        }
        drain.cancel();
        tokio::select! {
            () = self.refuse() => return,
            () = self.gives_way(&server.retirement) => {}
        }
        self.endpoint.close(Code::NoError.value().into(), b"");
        let _ = timeout(CLOSING, self.endpoint.wait_idle()).await;
    }

    /// Accepts until the drain begins, or until `end`.
    async fn serve<H: Handler>(
        &self,
        server: &Shared<H>,
        rules: &ArcSwap<Rules>,
        drain: &CancellationToken,
        end: impl Future<Output = ()>,
    ) {
        let mut end = pin!(end);
        let mut current = Current::new(server, rules.load_full(), &self.handle, drain);
        loop {
            let next = tokio::select! {
                biased;
                () = drain.cancelled() => return,
                () = end.as_mut() => return,
                next = self.next(server) => next,
            };
            let Some((incoming, slot)) = next else { return };
            if !current.holds(rules, &self.handle) {
                current = Current::new(server, rules.load_full(), &self.handle, drain);
            }
            self.admit(&current, incoming, slot);
        }
    }

    /// Takes a slot first and a connection then, so that what exceeds the limit waits and costs little. Clients that may
    /// be anybody get no further than a Retry while there are many of them.
    async fn next<H>(&self, shared: &Shared<H>) -> Option<(Incoming, Slot)> {
        let slot = shared.slot().await.ok()?;
        loop {
            let incoming = self.endpoint.accept().await?;
            let unvalidated_max = self.handle.settings.load().http3.unvalidated_max;
            let is_loaded = self.unvalidated.load(Ordering::Relaxed) >= unvalidated_max;
            if incoming.remote_address_validated() || !is_loaded {
                return Some((incoming, slot));
            }
            if incoming.retry().is_ok() {
                shared.metrics.retries.inc();
            }
            // However many there are, others have their turn.
            yield_now().await;
        }
    }

    /// Serves a connection, if its client may have another one.
    fn admit<H: Handler>(&self, current: &Current<H>, incoming: Incoming, slot: Slot) {
        let (shared, address) = (&current.shared, self.handle.address);
        let unvalidated = (!incoming.remote_address_validated()).then(|| Unvalidated::begin(&self.unvalidated));
        let admitted = shared.admit(incoming.remote_address(), Scheme::Https, slot);
        let Some(Admitted { mut peer, open, span }) = admitted else { return incoming.refuse() };
        let ip = incoming.local_ip().unwrap_or(address.ip());
        peer.local = Some(SocketAddr::new(ip, address.port()));
        let Http3 { send_bytes_max, receive_bytes_max, .. } = current.settings.http3;
        let takes_early_data = current.settings.takes_early_data();
        let server = Arc::clone(&current.server);
        let arriving = Arriving {
            incoming,
            server,
            unvalidated,
            send_bytes_max,
            gathered_bytes_max: receive_bytes_max.into(),
            takes_early_data,
        };
        shared.spawn(span, connection::serve(Arc::clone(shared), arriving, peer, open));
    }

    /// Refuses connections as long as others are open, unless another listener accepts them.
    async fn refuse(&self) {
        loop {
            tokio::select! {
                biased;
                () = self.handle.succeeded.cancelled() => return,
                () = self.endpoint.wait_idle() => return,
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => incoming.refuse(),
                    None => return,
                },
            }
            yield_now().await;
        }
    }

    /// Waits until another process is to read the socket that doesn't pass on what is for this one: two would take each
    /// other's packets. Until then connections have their time to finish.
    async fn gives_way(&self, retirement: &Retirement) {
        retirement.begun().await;
        if self.handle.is_diverted() {
            return pending().await;
        }
        sleep(retirement.grace()).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // So that the socket isn't held by those who only know of it.
        self.handle.open.lock().take();
    }
}

impl<H: Handler> Current<H> {
    fn new(server: &Shared<H>, rules: Arc<Rules>, handle: &Handle, drain: &CancellationToken) -> Self {
        let shared = Arc::new(server.under(&rules, drain.clone(), drain.clone()));
        let settings = handle.settings.load_full();
        let server = Arc::new(settings.server(&handle.template, &rules.limits, &rules.timeouts));
        Self { rules, settings, shared, server }
    }

    /// Whether nothing has been exchanged since it was made.
    fn holds(&self, rules: &ArcSwap<Rules>, handle: &Handle) -> bool {
        Arc::ptr_eq(&self.rules, &rules.load()) && Arc::ptr_eq(&self.settings, &handle.settings.load())
    }
}

fn open(
    (address, reuse_port, inherited): (SocketAddr, bool, Option<Inherited>),
    http3: &Http3,
    template: ServerConfig,
) -> io::Result<Open> {
    let (socket, formers) = match inherited {
        Some(Inherited { socket, formers }) => (socket::taken(socket, address, http3.socket_bytes)?, formers),
        None => (socket::open(address, reuse_port, http3.socket_bytes)?, Vec::new()),
    };
    let same = Arc::new(socket.try_clone()?);
    let formers = formers.into_iter().map(|(key, way)| (Key::from_bytes(key), way)).collect();
    let datagrams = Arc::new(Datagrams::new(socket, formers)?);
    let (key, mut config) = (datagrams.key(), EndpointConfig::default());
    config.cid_generator(move || Box::new(Ids::new(key)));
    let reader: Arc<dyn AsyncUdpSocket> = datagrams.clone();
    let endpoint = Endpoint::new_with_abstract_socket(config, Some(template), reader, Arc::new(TokioRuntime))?;
    Ok(Open { endpoint, socket: same, datagrams })
}

fn refused(address: SocketAddr, reason: &io::Error) -> Error {
    let reason = io::Error::new(reason.kind(), format!("UDP, for HTTP/3: {reason}"));
    Error::Listen { address: address.to_string(), reason }
}
