//! Config → [`App`] → run(drain): the one place that knows every room, and wires them.

mod control;
mod edge;
mod policies;

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use thiserror::Error;
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
};
use crate::{
    batch::Batcher,
    cache::{self, Cache, key::KeySpace},
    config::{self, Config},
    http, origin,
    origin::Pool,
    pipeline::{self, Destination, Pipeline, Route, Routes, infer::Batchers},
    plugin,
    policy::Roster,
    telemetry::{AccessLog, Registry, Requests, access},
};

pub use self::policies::{CheckedPolicy, check_policies};

/// What the last lines of the access log may take to be written when the node stops.
const LOG_CLOSE_TIME: Duration = Duration::from_secs(2);

/// Why a node can't start.
#[derive(Debug, Error)]
pub enum Error {
    /// A listener.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The admin API's listener.
    #[error("the admin API: {0}")]
    Admin(#[source] http::Error),
    /// The tiers or the purge log.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// A pool.
    #[error("pool {name}: {reason}")]
    Pool {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        reason: Box<origin::Error>,
    },
    /// A policy.
    #[error(transparent)]
    Policy(#[from] plugin::Error),
    /// A route names what isn't there; `config` refuses such files, so only code can bring it about.
    #[error("route {route} names {what} {name}, which is not configured")]
    Dangling {
        /// The route.
        route: String,
        /// A pool or a policy.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The bug that a debug build is to have isn't known.
    #[cfg(debug_assertions)]
    #[error(transparent)]
    Planted(#[from] crate::planted::UnknownBug),
    /// The access log can't be opened.
    #[error("the access log: {0}")]
    AccessLog(#[source] io::Error),
}

/// A node that is bound and loaded, but accepts nothing yet.
pub struct App {
    server: http::Server,
    addresses: Vec<SocketAddr>,
    admin: Option<(http::Server, SocketAddr)>,
    edge: Edge,
    controls: Arc<Controls>,
    cache: Arc<Cache>,
    pools: BTreeMap<String, Arc<Pool>>,
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
        let cache_metrics = cache::Metrics::default();
        let origin_metrics = origin::Metrics::new();
        let batch_metrics = crate::batch::Metrics::new();
        let policy_metrics = plugin::Metrics::new();
        let pipeline_metrics = pipeline::Metrics::default();
        let requests = Requests::new();
        let log = Arc::new(AccessLog::start(config.log.clone()).map_err(Error::AccessLog)?);
        registry.register_with(|registry| {
            server.metrics().register(registry);
            cache_metrics.register(registry);
            origin_metrics.register(registry);
            batch_metrics.register(registry);
            policy_metrics.register(registry);
            pipeline_metrics.register(registry);
            requests.register(registry);
            log.metrics().register(registry);
        });

        let policies = Arc::new(Policies::start(&config, &policy_metrics).await?);
        let pools = make_pools(&config, &origin_metrics)?;
        let cache = Cache::open(&config.node, &config.cache, cache_metrics).await?;
        let routes = make_routes(&config, &pools, &policies)?;
        let pipeline = Pipeline::new(
            config.node.clone(),
            Routes::new(routes),
            make_batchers(&config, &batch_metrics),
            Arc::clone(&cache),
            config.limits.clone(),
            config.prefetch,
            pipeline_metrics,
        );
        let controls = Arc::new(Controls::new(
            registry,
            Arc::clone(&cache),
            Arc::clone(&pipeline),
            pools.values().map(Arc::clone).collect(),
            Arc::clone(&policies),
            config.cache.purge.ack,
        ));
        let names = config.routes.iter().map(|route| route.name.as_str());
        Ok(Self {
            addresses: server.addresses(),
            server,
            admin,
            edge: Edge::new(pipeline, &requests, names, config.log.access != config::AccessLog::Off, Arc::clone(&log)),
            controls,
            cache,
            pools,
            policies,
            log,
        })
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

    /// Serves until `drain` is cancelled, then lets requests in flight finish, and closes the tiers.
    pub async fn run(self, drain: CancellationToken) -> http::Drained {
        let stop = CancellationToken::new();
        let mut background = JoinSet::new();
        background.spawn(Arc::clone(self.cache.purger()).run(stop.clone()));
        for pool in self.pools.values() {
            background.spawn(Arc::clone(pool).watch(stop.clone()));
        }
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
        let drained = self.server.run(self.edge, drain).await;
        closing.abort();
        // The admin API answers until the last client is served: who drains a node wants to watch it.
        stop.cancel();
        while background.join_next().await.is_some() {}
        self.cache.close().await;
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

fn make_pools(config: &Config, metrics: &origin::Metrics) -> Result<BTreeMap<String, Arc<Pool>>, Error> {
    let bounds = origin::Bounds::new(&config.limits, metrics);
    let make = |(name, pool): (&String, &config::Pool)| {
        let made = Pool::of_node(name, pool, metrics, &bounds);
        Ok((name.clone(), made.map_err(|reason| Error::Pool { name: name.clone(), reason: Box::new(reason) })?))
    };
    config.pools.iter().map(make).collect()
}

/// A pool's questions gather in one place, whichever routes lead to it: its slots are theirs together.
fn make_batchers(config: &Config, metrics: &crate::batch::Metrics) -> Batchers {
    let make = |(name, pool): (&String, &config::Pool)| {
        (Arc::<str>::from(name.as_str()), Batcher::new(pool.batch, pipeline::infer::sender(), metrics.clone()))
    };
    config.pools.iter().map(make).collect()
}

fn make_routes(
    config: &Config,
    pools: &BTreeMap<String, Arc<Pool>>,
    policies: &Policies,
) -> Result<Vec<Arc<Route>>, Error> {
    let destination = |route: &config::Route, to: &config::Candidate| -> Result<Destination, Error> {
        let dangling = || Error::Dangling { route: route.name.clone(), what: "pool", name: to.pool.clone() };
        Ok(Destination {
            name: to.pool.as_str().into(),
            pool: Arc::clone(pools.get(&to.pool).ok_or_else(dangling)?),
            model: to.model.as_deref().map(Into::into),
            cost_micro: to.cost_micro,
        })
    };
    let make = |(index, route): (usize, &config::Route)| {
        let dangling =
            |name: &String| Error::Dangling { route: route.name.clone(), what: "policy", name: name.clone() };
        let policy = match &route.policy {
            None => None,
            Some(name) => Some(policies.get(name).ok_or_else(|| dangling(name))?),
        };
        let alone = [config::Candidate { pool: route.pool.clone(), model: None, cost_micro: 0 }];
        let candidates = if route.candidates.is_empty() { &alone[..] } else { &route.candidates };
        Ok(Arc::new(Route {
            index,
            config: route.clone(),
            keys: KeySpace::new(&config.cache.namespace, &route.name),
            destinations: candidates.iter().map(|to| destination(route, to)).collect::<Result<_, _>>()?,
            policy: policy.map(|policy| Arc::clone(policy) as Arc<dyn Roster>),
        }))
    };
    config.routes.iter().enumerate().map(make).collect()
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
