//! The operations of the node behind the admin API.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use super::{exchange::Exchange, policies::Policies, presence::Presence, reload::Reloader};
use crate::{
    admin::{
        Api, BoxFuture, ConfigFailure, Control, Drain, DrainFailure, Extent, Gate, PolicyAction, PolicyFailure, Purge,
        PurgeFailure, Scope, SignOffReport, Why,
    },
    cache::{key::Key, purge},
    http::{Arrival, Handler},
    message::{Request, Response},
    report::{
        BatchingInfo, ConfigInfo, ConfigReload, DrainInfo, Loaded, NodesInfo, PolicyInfo, PoolInfo, PurgeReport,
        WhyReport,
    },
    telemetry::Registry,
};

const STARTING: u8 = 0;
const OPEN: u8 = 1;
const CLOSING: u8 = 2;

/// Why a node isn't ready that is about to stop, or stops.
const DRAINING: &str = "the node is draining";

/// The node behind the admin API.
pub(super) struct Controls {
    registry: Registry,
    exchange: Arc<Exchange>,
    policies: Arc<Policies>,
    reloader: Arc<Reloader>,
    presence: Arc<Presence>,
    phase: AtomicU8,
    /// It has been ready: what comes later is no start.
    was_ready: AtomicBool,
    since: Instant,
}

/// A node that can't reach a purge log for this long takes requests all the same.
const REACH_TIME: Duration = Duration::from_secs(5);

impl Controls {
    pub(super) fn new(
        registry: Registry,
        policies: Arc<Policies>,
        reloader: Arc<Reloader>,
        presence: Arc<Presence>,
    ) -> Self {
        Self {
            registry,
            exchange: Arc::clone(reloader.exchange()),
            policies,
            reloader,
            presence,
            phase: AtomicU8::new(STARTING),
            was_ready: AtomicBool::new(false),
            since: Instant::now(),
        }
    }

    /// This node among those of its region.
    pub(super) const fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// From now on clients are served.
    pub(super) fn opened(&self) {
        self.phase.store(OPEN, Ordering::Release);
    }

    /// From now on only what is in flight is served.
    pub(super) fn closing(&self) {
        self.phase.store(CLOSING, Ordering::Release);
    }

    /// Whether all purge logs have been caught up with once, or what is missing for that.
    fn has_caught_up(&self) -> Result<(), Vec<String>> {
        let cache = self.exchange.cache();
        let behind: Vec<_> = cache.purger().logs().filter(|log| log.is_catching_up()).collect();
        if behind.is_empty() || self.was_ready.load(Ordering::Relaxed) {
            return Ok(());
        }
        let is_early = self.since.elapsed() < REACH_TIME;
        let reason = |log: &&Arc<purge::Purger>| {
            let whose = log.extent();
            if log.has_reached() {
                return Some(format!("the node is catching up with the {whose}'s purge log"));
            }
            is_early.then(|| format!("the node has yet to reach the {whose}'s purge log"))
        };
        let reasons: Vec<String> = behind.iter().filter_map(reason).collect();
        if reasons.is_empty() {
            // It asks the origin for whatever it serves, and does that as well as any node.
            self.was_ready.store(true, Ordering::Relaxed);
            return Ok(());
        }
        Err(reasons)
    }

    /// How long a purge of the region waits until it is complete.
    fn ack(&self) -> Duration {
        self.exchange.serving().config.cache.purge.ack
    }
}

impl Control for Controls {
    fn purge(&self, purge: Purge) -> BoxFuture<'_, Result<PurgeReport, PurgeFailure>> {
        Box::pin(async move {
            let scope = match purge.scope {
                Scope::Url(url) => purge::Scope::Url(url),
                Scope::Key(key) => purge::Scope::Key(Key::from_bytes(key)),
                Scope::Tag(tag) => purge::Scope::Tag(tag),
                Scope::Prefix(prefix) => purge::Scope::Prefix(prefix),
                Scope::Pattern(pattern) => purge::Scope::Pattern(pattern),
                Scope::Group { origin, name } => purge::Scope::Group { origin, name },
            };
            let kind = if purge.soft { purge::Kind::Soft } else { purge::Kind::Hard };
            let extent = purge.extent.map(|extent| match extent {
                Extent::Node => purge::Extent::Node,
                Extent::Region => purge::Extent::Region,
                Extent::World => purge::Extent::World,
            });
            let cache = self.exchange.cache();
            let purged = cache.purger().purge(extent, &scope, kind, self.ack()).await;
            let (extent, receipt) = purged.map_err(|error| failure(&error))?;
            cache.metrics().purges.inc();
            Ok(report(extent, receipt))
        })
    }

    fn sign_off(&self, node: String) -> BoxFuture<'_, Result<SignOffReport, PurgeFailure>> {
        Box::pin(async move {
            let signed_off = self.exchange.cache().purger().sign_off(&node, self.ack()).await;
            let purge::SignedOff { done, left } = signed_off.map_err(|error| failure(&error))?;
            Ok(SignOffReport { signed_off: done, left })
        })
    }

    fn why(&self, why: Why) -> BoxFuture<'_, WhyReport> {
        let pipeline = Arc::clone(&self.exchange.serving().pipeline);
        Box::pin(async move { pipeline.why(why.head, why.body).await })
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        // A pool that is down is no reason: what is stored can still be served.
        match self.phase.load(Ordering::Acquire) {
            STARTING => Err(vec!["the node is starting".to_owned()]),
            OPEN if self.presence.draining.is_begun() => Err(vec![DRAINING.to_owned()]),
            OPEN => self.has_caught_up(),
            _ => Err(vec![DRAINING.to_owned()]),
        }
    }

    fn metrics(&self) -> String {
        let open = i64::try_from(self.exchange.serving().pipeline.flights_open()).unwrap_or(i64::MAX);
        let cache = self.exchange.cache();
        cache.metrics().flights.set(open);
        cache.purger().refresh_metrics(cache.metrics());
        self.policies.refresh_metrics();
        self.reloader.refresh_metrics();
        self.presence.refresh_metrics();
        self.registry.encode()
    }

    fn pools(&self) -> Vec<PoolInfo> {
        self.exchange.serving().pools().map(|pool| pool.info()).collect()
    }

    fn batching(&self) -> Vec<BatchingInfo> {
        self.exchange.serving().batching().filter(|info| info.batches > 0).collect()
    }

    fn nodes(&self) -> NodesInfo {
        self.presence.nodes()
    }

    fn drain(&self, drain: Drain) -> BoxFuture<'_, Result<DrainInfo, DrainFailure>> {
        let presence = Arc::clone(&self.presence);
        Box::pin(async move {
            // Beside the request, so that a client that leaves doesn't leave half of it done.
            let draining = tokio::spawn(async move { presence.drain(drain).await });
            draining.await.unwrap_or_else(|error| Err(DrainFailure::Unreachable(error.to_string())))
        })
    }

    fn policies(&self) -> Vec<PolicyInfo> {
        self.policies.info()
    }

    fn policy(&self, name: String, action: PolicyAction) -> BoxFuture<'_, Result<Loaded, PolicyFailure>> {
        Box::pin(async move { self.policies.act(&name, action).await })
    }

    fn config(&self) -> ConfigInfo {
        self.exchange.info()
    }

    fn reload(&self) -> BoxFuture<'_, Result<ConfigReload, ConfigFailure>> {
        let reloader = Arc::clone(&self.reloader);
        Box::pin(async move {
            // Beside the request, so that a client that leaves doesn't leave half of it done.
            let reloading = tokio::spawn(async move { reloader.reload().await });
            reloading.await.unwrap_or_else(|error| Err(ConfigFailure::Refused(error.to_string())))
        })
    }
}

fn report(extent: purge::Extent, receipt: purge::Receipt) -> PurgeReport {
    let regions = if extent == purge::Extent::World { receipt.regions() } else { BTreeMap::new() };
    PurgeReport {
        complete: receipt.missing.is_empty(),
        scope: extent.to_string(),
        position: receipt.position.to_string(),
        applied: receipt.applied,
        expired: receipt.expired,
        missing: receipt.missing,
        regions,
    }
}

fn failure(error: &purge::Error) -> PurgeFailure {
    match error {
        purge::Error::Extent { .. } => PurgeFailure::Scope(error.to_string()),
        _ => PurgeFailure::Failed(error.to_string()),
    }
}

/// Serves the admin API through the same kind of listener as everything else.
#[derive(Clone)]
pub(super) struct AdminHandler(Api);

impl AdminHandler {
    pub(super) fn new(controls: &Arc<Controls>, gate: Gate) -> Self {
        Self(Api::new(Arc::clone(controls) as Arc<dyn Control>, gate))
    }
}

impl Handler for AdminHandler {
    async fn handle(&self, request: Request, _: Arrival) -> Response {
        self.0.respond(request).await
    }
}
