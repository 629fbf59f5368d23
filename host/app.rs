//! Config → [`App`] → run(drain): the one place that knows every room, and wires them.
//!
//! What a configuration is made into is a `Serving`, which `serving` assembles and `exchange` exchanges while the node
//! runs. `edge` is where requests come in, `control` what the admin API may ask; `policies` leads policies to other
//! generations, which `components` loads.

mod components;
mod control;
mod edge;
mod error;
mod exchange;
mod policies;
mod sampling;
mod serving;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{
    control::{AdminHandler, Controls},
    edge::Edge,
    policies::Policies,
    serving::{Base, Metrics},
};
use crate::{
    cache::{self, Cache},
    config::{self, Config},
    http,
    telemetry::{AccessLog, Registry, access},
};

pub use self::{
    components::{CheckedPolicy, check_policies},
    error::Error,
    exchange::Exchange,
};

/// What the last lines of the access log may take to be written when the node stops.
const LOG_CLOSE_TIME: Duration = Duration::from_secs(2);

/// A node that is bound and loaded, but accepts nothing yet.
pub struct App {
    server: http::Server,
    addresses: Vec<SocketAddr>,
    admin: Option<(http::Server, SocketAddr)>,
    exchange: Arc<Exchange>,
    controls: Arc<Controls>,
    policies: Arc<Policies>,
    log: Arc<AccessLog>,
}

impl App {
    /// Binds the addresses, opens the tiers, loads the policies.
    ///
    /// # Errors
    /// [`Error`] names what can't be opened, bound or loaded.
    pub async fn start(config: Config) -> Result<Self, Error> {
        #[cfg(debug_assertions)]
        announce_planted_bug()?;
        let server = http::Server::bind(&config.listen, &config.limits, &config.timeouts).await?;
        let admin = bind_admin(&config).await?;
        let registry = Registry::new();
        let (cache_metrics, metrics) = (cache::Metrics::default(), Metrics::default());
        let log = Arc::new(AccessLog::start(config.log.clone()).map_err(Error::AccessLog)?);
        registry.register_with(|registry| {
            server.metrics().register(registry);
            cache_metrics.register(registry);
            metrics.origin.register(registry);
            metrics.batch.register(registry);
            metrics.plugin.register(registry);
            metrics.pipeline.register(registry);
            metrics.requests.register(registry);
            log.metrics().register(registry);
        });
        let base = Base {
            node: config.node.clone(),
            cache: Cache::open(&config.node, &config.cache, cache_metrics).await?,
            metrics,
            log: (config.log.access != config::AccessLog::Off).then(|| Arc::clone(&log)),
        };
        let exchange = Exchange::begin(base, &config).await?;
        let policies = Arc::new(Policies::new(Arc::clone(&exchange), &config));
        let ack = config.cache.purge.ack;
        let controls = Controls::new(registry, Arc::clone(&exchange), Arc::clone(&policies), ack);
        Ok(Self { addresses: server.addresses(), server, admin, controls: Arc::new(controls), exchange, policies, log })
    }

    /// The addresses that clients connect to, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The admin API's address.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(_, address)| *address)
    }

    /// Returns what has the node go on by another configuration while it runs.
    #[must_use]
    pub fn exchange(&self) -> Arc<Exchange> {
        Arc::clone(&self.exchange)
    }

    /// Serves until `drain` is cancelled, then lets requests in flight finish, and closes the tiers.
    pub async fn run(self, drain: CancellationToken) -> http::Drained {
        let stop = CancellationToken::new();
        let mut background = JoinSet::new();
        background.spawn(Arc::clone(self.exchange.cache().purger()).run(stop.clone()));
        background.spawn(Arc::clone(&self.policies).watch(stop.clone()));
        background.spawn(on_hangup(Arc::clone(&self.log), Arc::clone(&self.policies), stop.clone()));
        if let Some((server, _)) = self.admin {
            let handler = AdminHandler::new(&self.controls);
            let stop = stop.clone();
            background.spawn(async move {
                server.run(handler, stop).await;
            });
        }
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
        close_log(self.log).await;
        drained
    }
}

/// Says which bug is planted, if one is. A name that stands for none keeps the node from starting.
#[cfg(debug_assertions)]
fn announce_planted_bug() -> Result<(), Error> {
    if let Some(plant) = crate::planted::chosen()? {
        warn!(bug = plant.name(), "a bug is planted: this node is wrong on purpose");
    }
    Ok(())
}

async fn bind_admin(config: &Config) -> Result<Option<(http::Server, SocketAddr)>, Error> {
    let Some(address) = config.admin else { return Ok(None) };
    let listen = config::Listen { address, tls: None };
    let timeouts = config::Timeouts { drain: Duration::from_secs(1), ..config.timeouts.clone() };
    let server = http::Server::bind(&[listen], &config.limits, &timeouts).await.map_err(Error::Admin)?;
    let bound = server.addresses().first().copied().unwrap_or(address);
    Ok(Some((server, bound)))
}

/// HUP: log rotation has moved the file away, or the operator has changed policies.
async fn on_hangup(log: Arc<AccessLog>, policies: Arc<Policies>, stop: CancellationToken) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            warn!(%error, "HUP can't be watched; the access log won't be reopened, nor policies reloaded");
            return;
        }
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangups.recv() => {
                log.reopen();
                policies.reload().await;
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
