//! Config → [`App`] → run(drain): the one place that knows every room, and wires them.
//!
//! What a configuration is made into is a `Serving`, which `serving` assembles and `exchange` exchanges while the node
//! runs. `reload` reads its file again: on HUP, for the admin API, and when `watching` sees it change. `edge` is where
//! requests come in, `control` what the admin API may ask; `policies` leads policies to other generations, which
//! `components` loads.

mod admin_server;
mod components;
mod control;
mod edge;
mod error;
mod exchange;
mod policies;
mod reload;
mod sampling;
mod serving;
mod watching;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{
    admin_server::AdminServer,
    control::{AdminHandler, Controls},
    edge::Edge,
    policies::Policies,
    reload::Reloader,
    serving::{Base, Metrics},
};
use crate::{
    cache::{self, Cache},
    config::Config,
    http,
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
}

impl App {
    /// Binds the addresses, opens the tiers, loads the policies.
    ///
    /// # Errors
    /// [`Error`] names what can't be opened, bound or loaded.
    pub async fn start(config: Config) -> Result<Self, Error> {
        #[cfg(debug_assertions)]
        announce_planted_bug()?;
        telemetry::set_filter(&config.log.filter);
        let server = http::Server::bind(&config.listen, &config.limits, &config.timeouts).await?;
        let admin = AdminServer::bind(&config).await?;
        let registry = Registry::new();
        let (cache_metrics, metrics) = (cache::Metrics::default(), Metrics::default());
        let config_metrics = reload::Metrics::default();
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
        });
        let cache = Cache::open(&config.node, &config.cache, cache_metrics).await?;
        let base = Base { node: config.node.clone(), cache, metrics };
        let exchange = Exchange::begin(base, &config, server.listeners()).await?;
        let policies = Arc::new(Policies::new(Arc::clone(&exchange)));
        let admin_certificates = admin.as_ref().map(|admin| admin.server.certificates()).unwrap_or_default();
        let reloader = Reloader::new(Arc::clone(&exchange), Arc::clone(&policies), admin_certificates, config_metrics);
        let reloader = Arc::new(reloader);
        let controls = Arc::new(Controls::new(registry, policies, Arc::clone(&reloader)));
        Ok(Self { addresses: server.addresses(), server, admin, exchange, controls, reloader })
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
    pub async fn run(self, drain: CancellationToken) -> http::Drained {
        let stop = CancellationToken::new();
        let mut background = JoinSet::new();
        background.spawn(Arc::clone(self.exchange.cache().purger()).run(stop.clone()));
        background.spawn(watching::watch(Arc::clone(&self.reloader), stop.clone()));
        background.spawn(on_hangup(self.reloader, stop.clone()));
        if let Some(AdminServer { server, gate, .. }) = self.admin {
            let handler = AdminHandler::new(&self.controls, gate);
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
        if let Some(log) = &self.exchange.serving().log {
            close_log(Arc::clone(log)).await;
        }
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
                reloader.on_hangup().await;
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
