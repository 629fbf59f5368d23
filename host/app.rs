//! Config → [`App`] → run(drain): the one place that knows every room, and wires them.
//!
//! What a configuration is made into is a `Serving`, which `serving` assembles and `exchange` exchanges while the node
//! runs. `reload` reads its file again: on HUP, for the admin API, when `watching` sees it change, and with what
//! `central` has from one place for many nodes. `edge` is where requests come in, `control` what the admin API may ask;
//! `policies` leads policies to other generations, which `components` loads; `tiers` opens the cache with its purge
//! logs. `takeover` is how another process takes the place of this one, `service_manager` what systemd says and is
//! told. `presence` is this node among those of its region, which meet in `places`: it takes its name there (`claim`),
//! says that it is there (`attendance`), and does what all are asked to (`orders`, `draining`).

mod admin_server;
mod attendance;
pub mod central;
mod claim;
mod components;
mod control;
mod draining;
mod edge;
mod error;
mod exchange;
mod orders;
mod places;
mod policies;
mod presence;
mod reload;
mod sampling;
pub mod service_manager;
mod serving;
mod takeover;
mod tiers;
mod watching;
mod world_nodes;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    admin_server::AdminServer,
    control::{AdminHandler, Controls},
    edge::Edge,
    places::Places,
    policies::Policies,
    presence::{Identity, Presence},
    reload::Reloader,
    service_manager::State,
    serving::{Base, Metrics},
    takeover::{Former, Inherited, Offer, Place},
};
use crate::{
    cache,
    config::{self, Config},
    http::{self, Socket, Sockets},
    telemetry::{self, AccessLog, Registry, access},
};

pub use self::{
    components::{CheckedPolicy, check_policies},
    error::{AdminError, Error},
    exchange::Exchange,
};

/// What the last lines of the access log may take to be written when the node stops.
const LOG_CLOSE_TIME: Duration = Duration::from_secs(2);

/// A node that is bound and loaded, but accepts nothing yet.
pub struct App {
    server: http::Server,
    addresses: Vec<SocketAddr>,
    admin: Option<AdminServer>,
    exchange: Arc<Exchange>,
    controls: Arc<Controls>,
    reloader: Arc<Reloader>,
    /// Where another process may ask for the place of this one.
    offer: Option<Offer>,
    /// The process whose place this one takes.
    former: Option<Former>,
}

impl App {
    /// Binds the addresses, opens the tiers, loads the policies.
    ///
    /// # Errors
    /// [`Error`] names what can't be opened, bound or loaded.
    pub async fn start(config: Config) -> Result<Self, Error> {
        Self::start_with(config, Vec::new()).await
    }

    /// The same, where an address takes one of `sockets` if it is bound to it.
    ///
    /// # Errors
    /// [`Error`] names what can't be opened, bound or loaded.
    pub async fn start_with(config: Config, sockets: Vec<Socket>) -> Result<Self, Error> {
        let config = Box::pin(central::resumed(config)).await;
        let at = config.admin.as_ref().map(|admin| admin.address);
        let (admin, clients) = sockets.into_iter().partition(|socket| at.is_some() && socket.address() == at);
        let inherited = Inherited { clients: Sockets::new(clients), admin: Sockets::new(admin) };
        Box::pin(Self::assemble(config, inherited, None)).await
    }

    /// Takes the place of the process that can be asked for it at `takeover.socket`, with its listening sockets: when this
    /// returns that one accepts no more, so [`App::run`] is to follow. Starts like any other if there is none. Until then
    /// that process goes on as if nothing had been.
    ///
    /// # Errors
    /// [`Error`] names what can't be opened, bound or loaded, or what that process has said.
    pub async fn take_over(config: Config, sockets: Vec<Socket>) -> Result<Self, Error> {
        let path = config.takeover.socket.as_ref().ok_or(Error::NoTakeover)?;
        let former = Former::find(path, config.takeover.ready).await.map_err(Error::Takeover)?;
        let Some(mut former) = former else {
            info!(socket = %path.display(), "no process to take the place of; starting as any other");
            return Self::start_with(config, sockets).await;
        };
        let config = Box::pin(central::resumed(config)).await;
        let inherited = former.sockets().await.map_err(Error::Takeover)?;
        // What is wrong with them is better found while that process has everything.
        for policy in check_policies(&config).await? {
            policy.outcome?;
        }
        Box::pin(Self::assemble(config, inherited, Some(former))).await
    }

    async fn assemble(config: Config, inherited: Inherited, mut former: Option<Former>) -> Result<Self, Error> {
        #[cfg(debug_assertions)]
        announce_planted_bug()?;
        telemetry::set_filter(&config.log.filter);
        let offer = config.takeover.socket.clone().map(|path| offered(path, former.is_some())).transpose()?;
        // Two processes that read one UDP socket would take each other's packets.
        let listen = if former.is_some() { without_quic(&config.listen) } else { config.listen.clone() };
        let server = http::Server::inherit(&listen, &config.limits, &config.timeouts, inherited.clients).await?;
        let admin = AdminServer::bind(&config, inherited.admin).await?;
        if former.is_none() {
            for socket in server.listeners().close_unused() {
                warn!(socket, "no address of the configuration is that of this socket, which was handed over");
            }
        }
        let registry = Registry::new();
        let (cache_metrics, metrics) = (cache::Metrics::default(), Metrics::default());
        let (config_metrics, node_metrics) = (reload::Metrics::default(), presence::Metrics::default());
        registry.register_with(|registry| {
            server.metrics().register(registry);
            cache_metrics.register(registry);
            metrics.origin.register(registry);
            metrics.batch.register(registry);
            metrics.plugin.register(registry);
            metrics.pipeline.register(registry);
            metrics.requests.register(registry);
            metrics.log.register(registry);
            config_metrics.register(registry);
            node_metrics.register(registry);
        });
        if let Some(former) = &mut former {
            // A name that is another's is better found while that process has its directories.
            Places::new(&config)?.see_name(&config.node, former.process()).await?;
            former.release().await.map_err(Error::Takeover)?;
        }
        let cache = tiers::open(&config, cache_metrics).await?;
        let base = Base { node: config.node.clone(), cache, metrics: Arc::new(metrics) };
        let exchange = Exchange::begin(base, &config, server.listeners()).await?;
        let policies = Arc::new(Policies::new(Arc::clone(&exchange)));
        let admin_certificates = admin.as_ref().map(|admin| admin.server.certificates()).unwrap_or_default();
        let reloader = Reloader::new(Arc::clone(&exchange), Arc::clone(&policies), admin_certificates, config_metrics);
        let reloader = Arc::new(reloader);
        let identity = Identity::new(&config.node, &server.addresses(), admin.as_ref().map(|admin| admin.address));
        let presence = Presence::new(&config, identity, Arc::clone(&exchange), Arc::clone(&policies), node_metrics)
            .map(Arc::new)?;
        if let Err(error) = presence.take_name(former.as_ref().map(Former::process)).await {
            exchange.close().await;
            return Err(error);
        }
        let controls = Arc::new(Controls::new(registry, policies, Arc::clone(&reloader), presence));
        if let Some(former) = &mut former {
            exchange.follow_purges();
            let begun = former.begin(exchange.cache().purger()).await;
            if let Err(error) = begun {
                exchange.close().await;
                return Err(Error::Takeover(error));
            }
        }
        Ok(Self { addresses: server.addresses(), server, admin, exchange, controls, reloader, offer, former })
    }

    /// The addresses that clients connect to, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The admin API's address.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.address)
    }

    /// Returns what has the node go on by another configuration while it runs.
    #[must_use]
    pub fn exchange(&self) -> Arc<Exchange> {
        Arc::clone(&self.exchange)
    }

    /// Serves until `drain` is cancelled, then lets requests in flight finish, and closes the tiers.
    pub async fn run(mut self, drain: CancellationToken) -> http::Drained {
        let stop = CancellationToken::new();
        let mut background = JoinSet::new();
        self.exchange.follow_purges();
        self.succeed(&mut background, &stop);
        background.spawn(watching::watch(Arc::clone(&self.reloader), stop.clone()));
        let controls = Arc::clone(&self.controls);
        let page: central::Page = Arc::new(move || crate::admin::Control::metrics(&*controls));
        background.spawn(central::follow(Arc::clone(&self.reloader), page, stop.clone()));
        background.spawn(on_hangup(self.reloader, stop.clone()));
        if let Some(AdminServer { server, gate, .. }) = self.admin {
            let handler = AdminHandler::new(&self.controls, gate);
            // Its own: it stops before the rest if another process takes the place of this one.
            let stop = stop.child_token();
            background.spawn(async move {
                server.run(handler, stop).await;
            });
        }
        self.controls.presence().draining.serves_until(drain.clone());
        background.spawn(Arc::clone(self.controls.presence()).run(stop.clone()));
        self.controls.opened();
        let closing = {
            let (controls, drain) = (Arc::clone(&self.controls), drain.clone());
            tokio::spawn(async move {
                drain.cancelled().await;
                controls.closing();
            })
        };
        let drained = self.server.run(Edge::new(Arc::clone(&self.exchange)), drain).await;
        closing.abort();
        // The admin API is available until the last client is served, so that a drain can be watched.
        stop.cancel();
        while background.join_next().await.is_some() {}
        self.exchange.close().await;
        if let Some(log) = &self.exchange.serving().log {
            close_log(Arc::clone(log)).await;
        }
        drained
    }

    /// Finishes the takeover of another process's place, and offers the place of this one.
    fn succeed(&mut self, background: &mut JoinSet<()>, stop: &CancellationToken) {
        let exchange = &self.exchange;
        if let Some(former) = self.former.take() {
            let (following, stop) = (former.follow(Arc::clone(exchange)), stop.clone());
            background.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = following => {}
                }
            });
        }
        let Some(offer) = self.offer.take() else { return };
        let admin = self.admin.as_ref().map(|admin| admin.server.listeners());
        let process = self.controls.presence().process().to_owned();
        let place = Place { exchange: Arc::clone(exchange), admin, process };
        match offer.publish() {
            Ok(offer) => {
                background.spawn(offer.serve(place, stop.clone()));
            }
            Err(error) => warn!(%error, "no other process can take the place of this one"),
        }
    }
}

/// Binds the socket at which another process may ask for the place of this one.
fn offered(path: PathBuf, is_successor: bool) -> Result<Offer, Error> {
    let bound = Offer::bind(path.clone(), is_successor);
    bound.map_err(|reason| Error::TakeoverSocket { path, reason: explained(reason) })
}

/// Says what to do if another process has the socket.
fn explained(reason: io::Error) -> io::Error {
    if reason.kind() != io::ErrorKind::AddrInUse {
        return reason;
    }
    io::Error::new(reason.kind(), "a process runs there; `--takeover` takes its place, TERM ends it")
}

/// Returns the addresses without HTTP/3.
fn without_quic(listen: &[config::Listen]) -> Vec<config::Listen> {
    listen.iter().map(|listen| config::Listen { http3: None, ..listen.clone() }).collect()
}

/// Says which bug is planted, if one is. A name that stands for none keeps the node from starting.
#[cfg(debug_assertions)]
fn announce_planted_bug() -> Result<(), Error> {
    if let Some(plant) = crate::planted::chosen()? {
        warn!(bug = plant.name(), "a bug is planted: this node is wrong on purpose");
    }
    Ok(())
}

/// HUP: log rotation has moved the file away, or the operator has changed the configuration, policies or certificates.
async fn on_hangup(reloader: Arc<Reloader>, stop: CancellationToken) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            warn!(%error, "HUP can't be watched; it neither reopens the access log nor reloads the configuration");
            return;
        }
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangups.recv() => {
                if let Some(log) = &reloader.exchange().serving().log {
                    log.reopen();
                }
                service_manager::notify(State::Reloading);
                reloader.on_hangup().await;
                service_manager::notify(State::Ready);
            }
        }
    }
}

async fn close_log(log: Arc<AccessLog>) {
    let closed = tokio::task::spawn_blocking(move || log.close(LOG_CLOSE_TIME)).await;
    if let Ok(Err(error)) = closed {
        let error: access::StillWriting = error;
        warn!(%error, "the access log is incomplete");
    }
}
