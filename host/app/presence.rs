//! This node among those of its region, as people see them: what it says of itself every few seconds, what the others
//! said, and what all are asked to do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    attendance::{Attendance, BEAT, STATES, WORD_BYTES_MAX},
    draining::{Draining, Stopping},
    exchange::Exchange,
    policies::Policies,
};
use crate::{
    admin::{Drain, DrainFailure},
    cache::nodes::{NodeList, NodeListError},
    clock::{self, Timestamp},
    config::Config,
    report::{DrainInfo, NodeFacts, NodesInfo},
};

/// How long an order to all nodes counts: several times as long as they take to read it. A node that is cut off for as
/// long doesn't get it.
const ORDER_TIME: Duration = Duration::from_secs(30);

/// What all nodes of a region are asked to do.
#[derive(Debug, Deserialize, Serialize)]
struct Order {
    /// Tells it from the one before.
    id: String,
    /// Calls off the drain.
    cancel: bool,
}

/// What doesn't change while the process lives.
#[derive(Debug)]
pub(super) struct Identity {
    name: String,
    process: String,
    started: Timestamp,
    addresses: Vec<String>,
    admin: Option<String>,
}

impl Identity {
    /// Names a process that begins now.
    pub(super) fn new(name: &str, addresses: &[SocketAddr], admin: Option<SocketAddr>) -> Self {
        Self {
            name: name.to_owned(),
            process: format!("{:016x}", fastrand::u64(..)),
            started: clock::now(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            admin: admin.map(|admin| admin.to_string()),
        }
    }
}

/// The presence of this node in its region.
pub(super) struct Presence {
    /// `None` without a Redis: then this node is alone.
    list: Option<NodeList>,
    identity: Identity,
    exchange: Arc<Exchange>,
    policies: Arc<Policies>,
    pub(super) draining: Arc<Draining>,
    attendance: Mutex<Attendance>,
    beat: AtomicU64,
    /// Why the list couldn't be reached last.
    error: Mutex<Option<String>>,
    /// The last order, whether or not it was for this process; the outer `None` before the first look.
    order: Mutex<Option<Option<String>>>,
    metrics: Metrics,
}

/// How many nodes of the region are in each state; clones count into the same.
#[derive(Clone, Default)]
pub(super) struct Metrics(Family<[(&'static str, &'static str); 1], Gauge>);

impl Metrics {
    /// Adds them to what the node reports.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("nodes", "Processes of the region, by state", self.0.clone());
    }
}

impl Presence {
    /// Prepares.
    ///
    /// # Errors
    /// [`NodeListError`] if the URL of Redis isn't one.
    pub(super) fn new(
        config: &Config,
        identity: Identity,
        exchange: Arc<Exchange>,
        policies: Arc<Policies>,
        metrics: Metrics,
    ) -> Result<Self, NodeListError> {
        let list =
            config.cache.redis.as_ref().map(|redis| NodeList::new(&config.cache.namespace, redis)).transpose()?;
        Ok(Self {
            list,
            identity,
            exchange,
            policies,
            draining: Arc::default(),
            attendance: Mutex::new(Attendance::new(config.cache.purge.lost)),
            beat: AtomicU64::new(0),
            error: Mutex::default(),
            order: Mutex::default(),
            metrics,
        })
    }

    /// Says that this node is there, until `stop`; then signs off.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(list) = &self.list else { return };
        loop {
            let said = async {
                self.say(list).await;
                tokio::time::sleep(BEAT).await;
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = said => {}
            }
        }
        if let Err(error) = list.remove(std::slice::from_ref(&self.identity.process)).await {
            debug!(%error, "this node couldn't be taken off the list of nodes");
        }
    }

    /// Says what this node is by now, and hears the others.
    async fn say(&self, list: &NodeList) {
        let facts = self.facts();
        let word = serde_json::to_string(&facts).unwrap_or_default();
        self.attendance.lock().hear_own(facts, clock::uptime());
        if word.len() > WORD_BYTES_MAX {
            *self.error.lock() = Some(format!("what this node says of itself is over {WORD_BYTES_MAX} bytes"));
            return;
        }
        let process = &self.identity.process;
        let listed = match list.say(process, &word).await {
            Ok(listed) => listed,
            Err(error) => return self.note_error(&error),
        };
        *self.error.lock() = None;
        let removed = self.attendance.lock().hear(process, &listed.nodes, clock::uptime());
        if let Err(error) = list.remove(&removed).await {
            self.note_error(&error);
        }
        self.obey(listed.order);
    }

    fn note_error(&self, error: &NodeListError) {
        let text = error.to_string();
        let mut last = self.error.lock();
        if last.as_ref() != Some(&text) {
            warn!(%error, "the other nodes can't be seen");
        }
        *last = Some(text);
    }

    /// Does what all nodes are asked to, unless it was so before this process began.
    fn obey(&self, order: Option<String>) {
        let Some(before) = self.order.lock().replace(order.clone()) else { return };
        let Some(text) = order.filter(|order| before.as_ref() != Some(order)) else { return };
        let Ok(Order { cancel, .. }) = serde_json::from_str(&text) else {
            warn!("what the nodes of the region are asked to do can't be read; this node does nothing about it");
            return;
        };
        info!(cancel, "all nodes of the region are asked to drain, or no longer to");
        // One that stops already does what is asked.
        let _ = self.carry_out(cancel);
    }

    fn carry_out(&self, cancel: bool) -> Result<(), Stopping> {
        if cancel { self.draining.call_off() } else { self.draining.begin(self.delay()) }
    }

    /// Drains this node, or all of the region, or calls that off.
    ///
    /// # Errors
    /// [`DrainFailure`] says why not.
    pub(super) async fn drain(&self, drain: Drain) -> Result<DrainInfo, DrainFailure> {
        if drain.region {
            let list = self.list.as_ref().ok_or(DrainFailure::Alone)?;
            let order = Order { id: format!("{:016x}", fastrand::u64(..)), cancel: drain.cancel };
            let text = serde_json::to_string(&order).unwrap_or_default();
            list.order(&text, ORDER_TIME).await.map_err(|error| DrainFailure::Unreachable(error.to_string()))?;
            // Done below, and not again when it is read.
            *self.order.lock() = Some(Some(text));
        }
        self.carry_out(drain.cancel).map_err(|_| DrainFailure::Stopping)?;
        Ok(DrainInfo { draining: !drain.cancel, region: drain.region, delay_ms: clock::millis(self.delay()) })
    }

    fn delay(&self) -> Duration {
        self.exchange.serving().config.timeouts.drain_delay
    }

    /// Returns the nodes of the region.
    pub(super) fn nodes(&self) -> NodesInfo {
        let (own, now) = (&self.identity.process, clock::uptime());
        // What is said of this one is of now.
        let facts = self.facts();
        let mut attendance = self.attendance.lock();
        attendance.hear_own(facts, now);
        NodesInfo { shared: self.list.is_some(), error: self.error.lock().clone(), nodes: attendance.nodes(own, now) }
    }

    /// Brings the gauges up to date.
    pub(super) fn refresh_metrics(&self) {
        let nodes = self.nodes().nodes;
        for state in STATES {
            let count = nodes.iter().filter(|node| node.state == state).count();
            self.metrics.0.get_or_create(&[("state", state)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn facts(&self) -> NodeFacts {
        let serving = self.exchange.serving();
        let config = &serving.config;
        let policies = self.policies.info().into_iter().filter_map(|policy| {
            let active = policy.generations.into_iter().find(|generation| generation.state == "active")?;
            Some((policy.name, active.generation))
        });
        NodeFacts {
            name: self.identity.name.clone(),
            process: self.identity.process.clone(),
            beat: self.beat.fetch_add(1, Ordering::Relaxed),
            started: self.identity.started,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            zone: config.zone.clone(),
            addresses: self.identity.addresses.clone(),
            admin: self.identity.admin.clone(),
            config_generation: self.exchange.generation(),
            config_digest: config.digest.map(|digest| digest.to_hex().to_string()),
            central_generation: config.generation.as_ref().map(|generation| generation.number),
            policies: policies.collect(),
            draining: self.draining.is_begun(),
        }
    }
}
