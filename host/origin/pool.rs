//! A named set of endpoints.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Uri, uri::PathAndQuery};
use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    balance::{self, Member, NoEndpoint, Standing},
    clients::{ClientShare, Clients},
    dial::Dialers,
    endpoint::Endpoint,
    failure::{Fault, Reason},
    following::{Holding, follow},
    health::Tracker,
    ledger::{Claim, Held, Ledger, Slot},
    metrics::Metrics,
    probe,
    recoding::Codings,
    spool::{Room, Spool},
    succession,
};
use crate::{
    clock::{self, Uptime},
    config,
    policy::PoolStats,
    report::{EndpointInfo, PoolInfo},
};

/// A named set of endpoints that serve the same requests. Cheap to share; lives as long as its configuration holds or a
/// request uses it.
///
/// One endpoint takes at most `connections_max` requests at a time, each from when its body has been read until its
/// response body has arrived; further ones wait in the order they came, at most `waiting_max` in the whole pool and
/// none longer than `connect`.
pub struct Pool {
    pub(super) name: Arc<str>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) limits: Limits,
    pub(super) bounds: Bounds,
    pub(super) codings: Codings,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// What it was made from.
    config: config::Pool,
    waiting: Semaphore,
    check: Option<Arc<probe::Check>>,
    /// Cancelled when nobody uses the pool any more.
    stop: CancellationToken,
}

/// What the pools of a node have in common: room for bodies that wait, and the limits per client address. Clones are the
/// same.
#[derive(Clone)]
pub struct Bounds {
    pub(super) spool: Arc<Spool>,
    clients: Arc<Clients>,
    /// The limits they were made of.
    limits: Arc<config::Limits>,
}

impl Bounds {
    /// The bounds of one node, counted in `metrics`.
    #[must_use]
    pub fn new(limits: &config::Limits, metrics: &Metrics) -> Self {
        Self { spool: Spool::new(limits, metrics), clients: Clients::new(limits), limits: Arc::new(limits.clone()) }
    }

    /// Whether these limits make the same bounds.
    #[must_use]
    pub fn suit(&self, limits: &config::Limits) -> bool {
        // Those that are named here are other rooms'. One that is new counts, until it is named as well.
        let own = config::Limits {
            connections_max: self.limits.connections_max,
            streams_max: self.limits.streams_max,
            headers_max: self.limits.headers_max,
            header_bytes_max: self.limits.header_bytes_max,
            body_bytes_max: self.limits.body_bytes_max,
            items_max: self.limits.items_max,
            client_connections_max: self.limits.client_connections_max,
            client_streams_max: self.limits.client_streams_max,
            forwarding_proxies: self.limits.forwarding_proxies.clone(),
            ..limits.clone()
        };
        own == *self.limits
    }

    /// The room that bodies of this client have while they wait.
    pub(super) fn room(&self, client: Option<IpAddr>) -> Room {
        self.spool.room(self.clients.limited(client))
    }
}

/// What bounds a fetch.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) connect: Duration,
    pub(super) response: Duration,
    pub(super) idle: Duration,
    body: Duration,
    pub(super) attempts_max: u32,
}

/// Why a pool can't be built.
#[derive(Debug, Error)]
pub enum Error {
    /// A pool without members.
    #[error("pool {pool} has no endpoints; it needs at least one")]
    NoEndpoints {
        /// The pool.
        pool: String,
    },
    /// Not the URL of an endpoint.
    #[error("pool {pool}: {url} is no endpoint; allowed is http://host:port or https://host:port, with a normal path")]
    Url {
        /// The pool.
        pool: String,
        /// The URL.
        url: Uri,
    },
    /// Not a path to check.
    #[error("pool {pool}: {path:?} is no path for health checks; allowed is a path that begins with /")]
    HealthPath {
        /// The pool.
        pool: String,
        /// The path.
        path: String,
    },
    /// A file that TLS needs can't be read or used.
    #[error("pool {pool}: TLS can't be set up: {reason}")]
    Tls {
        /// The pool.
        pool: String,
        /// Which file, and what is wrong with it.
        reason: String,
    },
}

impl Pool {
    /// A pool whose metrics aren't registered, with the default bounds to itself. Opens no connection.
    ///
    /// # Errors
    /// [`Error`], if the configuration doesn't make a pool.
    pub fn new(name: &str, config: &config::Pool) -> Result<Arc<Self>, Error> {
        let metrics = Metrics::new();
        let bounds = Bounds::new(&config::Limits::default(), &metrics);
        Self::of_node(name, config, &metrics, &bounds, None)
    }

    /// A pool that counts in `metrics` and keeps to `bounds`, which all pools of a node share. Opens no connection.
    ///
    /// The endpoints that `former`, the pool that had its name, has as well keep their health and their statistics, and
    /// if the configuration wants the same connections, those and their places too.
    ///
    /// # Errors
    /// [`Error`], if the configuration doesn't make a pool.
    pub fn of_node(
        name: &str,
        config: &config::Pool,
        metrics: &Metrics,
        bounds: &Bounds,
        former: Option<&Self>,
    ) -> Result<Arc<Self>, Error> {
        let endpoints = endpoints(name, config, former)?;
        let check = config.health.as_ref().map(|health| check(name, health)).transpose()?;
        let name: Arc<str> = name.into();
        let tracker = Tracker::new(endpoints.len(), config.eject, config.health.as_ref());
        let mut ledger = Ledger::new(Arc::clone(&name), tracker, metrics.of_pool(&name));
        if let Some(former) = former {
            let place = |said| succession::place_of(said, &former.config);
            let places = config.endpoints.iter().map(place).enumerate();
            let known = places.filter_map(|(index, at)| at.map(|at| (index, at)));
            ledger.take_over(&former.ledger, known, config.health == former.config.health);
        }
        Ok(Arc::new(Self {
            name,
            ledger: Arc::new(ledger),
            limits: Limits {
                connect: config.connect,
                response: config.response,
                idle: config.idle,
                body: config.body,
                attempts_max: config.attempts_max.max(1),
            },
            bounds: bounds.clone(),
            codings: Codings::of(config),
            endpoints,
            config: config.clone(),
            waiting: Semaphore::new(config.waiting_max.min(Semaphore::MAX_PERMITS)),
            check,
            stop: CancellationToken::new(),
        }))
    }

    /// Runs active health checks and looks names up again until `stop` is cancelled or nobody uses the pool any more;
    /// this doesn't count as use. Ends at once when there are neither. Without it a name is looked up when it is first
    /// connected to, and when none of its addresses can be.
    pub fn watch(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let (endpoints, ledger, check) = (self.endpoints.clone(), Arc::clone(&self.ledger), self.check.clone());
        let (name, holding, unused) = (Arc::clone(&self.name), Holding::of(&self.config), self.stop.clone());
        async move {
            let mut tasks = JoinSet::new();
            if let Some(check) = check {
                probe::begin(&mut tasks, &endpoints, &ledger, &check);
            }
            for endpoint in endpoints.into_iter().filter(|endpoint| endpoint.reach().name().is_some()) {
                tasks.spawn(follow(endpoint, Arc::clone(&name), holding));
            }
            if tasks.is_empty() {
                return;
            }
            tokio::select! {
                () = unused.cancelled() => {}
                () = stop.cancelled() => {}
            }
            tasks.shutdown().await;
        }
    }

    /// Returns the token that is cancelled when nobody uses the pool any more.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// At least one endpoint isn't down by its active checks.
    #[must_use]
    pub fn available(&self) -> bool {
        self.ledger.standings().iter().any(|standing| *standing != Standing::Down)
    }

    /// How the pool does, as policies see it. Taken anew at most ten times a second.
    #[must_use]
    pub fn stats(&self, now: Uptime) -> PoolStats {
        self.ledger.recent.summary(now, || {
            let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let healthy = self.ledger.standings().iter().filter(|standing| **standing == Standing::Up).count();
            let inflight: usize = self.endpoints.iter().map(|endpoint| endpoint.places.taken()).sum();
            let wanted: usize = self.endpoints.iter().map(|endpoint| endpoint.places.wanted()).sum();
            PoolStats {
                endpoints: count(self.endpoints.len()),
                healthy: count(healthy),
                inflight: count(inflight),
                queued: count(wanted.saturating_sub(inflight)),
                ..PoolStats::default()
            }
        })
    }

    /// Returns what an operator wants to know of it.
    #[must_use]
    pub fn info(&self) -> PoolInfo {
        let now = clock::uptime();
        let endpoints: Vec<_> = self.endpoints.iter().map(|endpoint| self.inspect(endpoint, now)).collect();
        let waiting = endpoints.iter().map(|endpoint| endpoint.waiting).sum();
        PoolInfo { name: self.name.to_string(), waiting, endpoints }
    }

    fn inspect(&self, endpoint: &Endpoint, now: Uptime) -> EndpointInfo {
        let (standing, ejected_until, counts) = self.ledger.inspect(endpoint.index, now);
        let inflight = endpoint.places.taken();
        let addresses = endpoint.reach().name().map(|name| name.known()).unwrap_or_default();
        EndpointInfo {
            address: endpoint.address.to_string(),
            addresses: addresses.iter().map(SocketAddr::to_string).collect(),
            weight: endpoint.config.weight,
            backup: endpoint.config.backup,
            zone: endpoint.config.zone.clone(),
            inflight,
            waiting: endpoint.places.wanted().saturating_sub(inflight),
            healthy: standing != Standing::Down,
            ejected_until: ejected_until.map(|until| clock::now().plus(until.since(now))),
            ok: counts.ok,
            failed: counts.failed,
        }
    }

    /// Returns how long the body of a response to a batch may take in all. Its reader keeps to that: what goes on to a
    /// client may take as long as it comes.
    #[must_use]
    pub const fn body_time(&self) -> Duration {
        self.limits.body
    }

    /// Counts a response that came in a content coding.
    pub fn decoded(&self, coding: &'static str, coded: usize, plain: usize) {
        self.ledger.meters.coded("response", coding, coded, plain);
    }

    /// The endpoint that takes the next attempt, of a batch or of another request.
    pub(super) fn choose(&self, tried: &[usize], is_batch: bool) -> Result<Arc<Endpoint>, NoEndpoint> {
        let standings = self.ledger.standings();
        let members: Vec<_> = standings
            .into_iter()
            .zip(&self.endpoints)
            .map(|(standing, endpoint)| Member {
                standing,
                rank: endpoint.rank,
                weight: endpoint.config.weight,
                load: endpoint.places.wanted(),
                full: endpoint.places.is_full(),
            })
            .collect();
        let random = fastrand::u64(..);
        let index = if is_batch {
            let now = clock::uptime();
            let gain =
                |(endpoint, member): (&Arc<Endpoint>, &Member)| endpoint.congestion.lock().gain(member.load, now);
            let gains: Vec<f64> = self.endpoints.iter().zip(&members).map(gain).collect();
            balance::pick_for_batch(&members, &gains, tried, random)?
        } else {
            balance::pick(&members, tried, random)?
        };
        self.endpoints.get(index).cloned().ok_or(NoEndpoint::Tried)
    }

    /// A place at the endpoint, at once or after a wait of at most `connect` among a bounded number. A request that
    /// `streams` holds it while its client is waited for, so it needs one of those that are lent so.
    pub(super) async fn place(
        &self,
        endpoint: &Arc<Endpoint>,
        client: Option<IpAddr>,
        streams: bool,
    ) -> Result<Slot, Fault> {
        let client = self.client_share(client)?;
        let deadline = Instant::now() + self.limits.connect;
        let lent = if streams {
            Some(self.permit(&endpoint.places.lent, "lent to slow clients ", deadline).await?)
        } else {
            None
        };
        let claim = Claim::new(endpoint);
        let place = self.permit(claim.free(), "", deadline).await?;
        Ok(Slot::new(&self.ledger, claim, Held { _place: place, _lent: lent, _client: client }))
    }

    fn client_share(&self, client: Option<IpAddr>) -> Result<Option<ClientShare>, Fault> {
        self.bounds.clients.enter(client).map_err(|full| {
            let limit = full.limit;
            let detail =
                format!("this client's address has {limit} requests on their way to origins, and may have no more");
            Fault::new(Reason::ClientLimit, detail)
        })
    }

    /// A permit, at once if one is free and no other request waits for it, else first come, first served until the
    /// deadline.
    async fn permit(
        &self,
        free: &Arc<Semaphore>,
        kind: &str,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, Fault> {
        if let Ok(permit) = Arc::clone(free).try_acquire_owned() {
            return Ok(permit);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            let detail = format!("all connections {kind}are busy and no more requests may wait");
            return Err(Fault::new(Reason::PoolFull, detail));
        };
        match timeout_at(deadline, Arc::clone(free).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => {
                let limit_ms = clock::millis(self.limits.connect);
                let detail = format!("no connection {kind}became free within {limit_ms} ms");
                Err(Fault::new(Reason::WaitTimeout, detail))
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).finish_non_exhaustive()
    }
}

fn endpoints(name: &str, config: &config::Pool, former: Option<&Pool>) -> Result<Vec<Arc<Endpoint>>, Error> {
    let pool = || name.to_owned();
    if config.endpoints.is_empty() {
        return Err(Error::NoEndpoints { pool: pool() });
    }
    let dialers = Dialers::new(config).map_err(|error| Error::Tls { pool: pool(), reason: error.to_string() })?;
    let former = former.filter(|former| succession::keeps_connections(&former.config, config));
    let known = |said: &config::Endpoint| {
        let former = former?;
        former.endpoints.get(succession::place_of(said, &former.config)?).map(|endpoint| &**endpoint)
    };
    let endpoint = |(index, said): (usize, &config::Endpoint)| {
        Endpoint::new(index, said, config, &dialers, known(said))
            .map(Arc::new)
            .ok_or_else(|| Error::Url { pool: pool(), url: said.url.clone() })
    };
    config.endpoints.iter().enumerate().map(endpoint).collect()
}

fn check(name: &str, health: &config::Health) -> Result<Arc<probe::Check>, Error> {
    let wrong = || Error::HealthPath { pool: name.to_owned(), path: health.path.clone() };
    if !health.path.starts_with('/') {
        return Err(wrong());
    }
    let target = PathAndQuery::try_from(health.path.as_str()).map_err(|_| wrong())?;
    Ok(Arc::new(probe::Check { target, interval: health.interval, timeout: health.timeout }))
}
