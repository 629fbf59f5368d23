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
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    attendance::{Attendance, BEAT, STATES, WORD_BYTES_MAX},
    claim::{Claim, Starter},
    draining::{Draining, Stopping},
    error::Error,
    exchange::Exchange,
    orders::{Order, Orders, Receipt, Taken},
    places::{Places, Region, Whose},
    policies::Policies,
    world_nodes::{self, WorldNodes},
};
use crate::{
    admin::{Drain, DrainFailure, Whom},
    cache::{
        nodes::{NodeList, NodeListError},
        purge::Lives,
    },
    clock::{self, Timestamp, Uptime},
    config::Config,
    etcd,
    report::{DrainInfo, DrainOrder, NodeFacts, NodesInfo},
};

/// How long an order to all nodes counts. A node that is cut off for as long doesn't get it.
const ORDER_TIME: Duration = Duration::from_secs(600);

/// How long it is waited until all nodes have read an order, and the time between two looks: nodes look every three
/// seconds at least.
const READ_TIME: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(250);

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
    places: Places,
    /// The name of its region, if it has one.
    region: Option<String>,
    identity: Identity,
    exchange: Arc<Exchange>,
    policies: Arc<Policies>,
    pub(super) draining: Arc<Draining>,
    attendance: Mutex<Attendance>,
    beat: AtomicU64,
    /// Why the list couldn't be reached last.
    error: Mutex<Option<String>>,
    /// The orders to the region that this process has read.
    orders: Mutex<Orders>,
    /// What it has last said under its name in Redis.
    said: Mutex<String>,
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
    /// The URL of Redis isn't one, or etcd can't be used as it is configured.
    pub(super) fn new(
        config: &Config,
        identity: Identity,
        exchange: Arc<Exchange>,
        policies: Arc<Policies>,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        Ok(Self {
            places: Places::new(config)?,
            region: config.region.as_ref().map(|region| region.name.clone()),
            identity,
            exchange,
            policies,
            draining: Arc::default(),
            attendance: Mutex::new(Attendance::new(config.cache.purge.lost)),
            beat: AtomicU64::new(0),
            error: Mutex::default(),
            orders: Mutex::default(),
            said: Mutex::default(),
            metrics,
        })
    }

    /// Returns which process this is.
    pub(super) fn process(&self) -> &str {
        &self.identity.process
    }

    /// Takes the node's name, also of `former`, the process whose place this one takes. Waits some seconds for one that
    /// has been killed, unless this process has its directory.
    ///
    /// # Errors
    /// [`Error::NameTaken`]: another live process has it.
    pub(super) async fn take_name(&self, former: Option<&str>) -> Result<(), Error> {
        let (in_region, in_world) = self.exchange.cache().purger().lives();
        let ended = |lives: &Option<Lives>| lives.as_ref().map(|lives| lives.ended.clone()).unwrap_or_default();
        let (ended_there, ended_in_world) = (ended(&in_region), ended(&in_world));
        let own = Some(self.process());
        let claims = [
            (self.claim(in_region, 0), Starter { own, ended: &ended_there, former }),
            (self.claim(in_world, 0), Starter { own, ended: &ended_in_world, former }),
        ];
        *self.said.lock() = claims[0].0.text();
        self.places.take_name(&self.identity.name, claims).await
    }

    fn claim(&self, lives: Option<Lives>, beat: u64) -> Claim {
        Claim {
            process: self.identity.process.clone(),
            life: lives.map(|lives| lives.own),
            beat,
            addresses: self.identity.addresses.clone(),
            admin: self.identity.admin.clone(),
            order: self.orders.lock().last().cloned(),
        }
    }

    /// Says that this node is there, until `stop`; then signs off.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::join!(self.run_in_region(&stop), self.run_in_world(&stop));
    }

    async fn run_in_region(&self, stop: &CancellationToken) {
        let Some(list) = &self.places.redis else { return };
        loop {
            let said = async {
                // The others are to know at once that an order was read.
                if !self.say(list).await {
                    sleep(BEAT).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = said => {}
            }
        }
        let removed = list.remove(std::slice::from_ref(&self.identity.process)).await;
        let freed = self.free_name(list).await;
        if let Err(error) = removed.and(freed) {
            debug!(%error, "this node couldn't be taken off the list of nodes");
        }
    }

    /// Gives the node's name up in Redis, unless another process has it.
    async fn free_name(&self, list: &NodeList) -> Result<(), NodeListError> {
        let mut said = self.said.lock().clone();
        // The reply to a renewal may not have been waited for.
        if let Some(held) = list.claim(&self.identity.name, &said, &said).await?
            && self.is_own(&held)
        {
            said = held;
        }
        list.free(&self.identity.name, &said).await
    }

    async fn run_in_world(&self, stop: &CancellationToken) {
        let Some(world) = &self.places.etcd else { return };
        let mut is_cut_off = false;
        loop {
            let said = async {
                let said = self.say_in_world(world).await;
                if let Err(error) = &said
                    && !is_cut_off
                {
                    warn!(%error, "orders to the region can't be read from etcd");
                }
                is_cut_off = said.is_err();
                sleep(world_nodes::BEAT).await;
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = said => {}
            }
        }
        world.leave().await;
    }

    /// Says what this node is by now, and hears the others. Returns whether it has read an order that is new.
    async fn say(&self, list: &NodeList) -> bool {
        let facts = self.facts();
        let word = serde_json::to_string(&facts).unwrap_or_default();
        self.attendance.lock().hear_own(facts, clock::uptime());
        if word.len() > WORD_BYTES_MAX {
            *self.error.lock() = Some(format!("what this node says of itself is over {WORD_BYTES_MAX} bytes"));
            return false;
        }
        let process = &self.identity.process;
        let listed = match list.say(process, &word).await {
            Ok(listed) => listed,
            Err(error) => {
                self.note_error(&error);
                return false;
            }
        };
        *self.error.lock() = None;
        let removed = self.attendance.lock().hear(process, &listed.nodes, clock::uptime());
        if let Err(error) = list.remove(&removed).await {
            self.note_error(&error);
        }
        self.keep_name(list).await;
        listed.order.is_some_and(|order| self.obey(&order))
    }

    /// Has the claim on the node's name last. One that another process has is left to it: that both live is seen by
    /// their words, and by the list of the purge log.
    async fn keep_name(&self, list: &NodeList) {
        let (lives, _) = self.exchange.cache().purger().lives();
        let claim = self.claim(lives, self.beat.load(Ordering::Relaxed));
        let (word, mut expected) = (claim.text(), self.said.lock().clone());
        // Twice, if the reply to an earlier one was lost.
        for _ in 0..2 {
            match list.claim(&self.identity.name, &expected, &word).await {
                Ok(None) => {
                    *self.said.lock() = word;
                    return;
                }
                Ok(Some(held)) if self.is_own(&held) => expected = held,
                Ok(Some(held)) => {
                    debug!(holder = Claim::holder(&held), "another process has this node's name");
                    return;
                }
                Err(error) => {
                    debug!(%error, "the claim on this node's name isn't renewed");
                    return;
                }
            }
        }
    }

    fn is_own(&self, held: &str) -> bool {
        Claim::read(held).is_some_and(|claim| claim.process == self.identity.process)
    }

    /// Has the claim on the node's name in etcd last, and reads what its region is asked.
    async fn say_in_world(&self, world: &WorldNodes) -> Result<(), etcd::Error> {
        let is_leased = world.renew().await?;
        let (held, order) = world.look().await?;
        if let Some(order) = order {
            self.obey(&order);
        }
        let (_, lives) = self.exchange.cache().purger().lives();
        // A renewal of the lease writes nothing, so that it needs no beat.
        let word = self.claim(lives, 0).text();
        let held = held.unwrap_or_default();
        if (held != word || !is_leased) && (held.is_empty() || self.is_own(&held)) {
            world.claim(&held, &word).await?;
        }
        Ok(())
    }

    fn note_error(&self, error: &NodeListError) {
        let text = error.to_string();
        let mut last = self.error.lock();
        if last.as_ref() != Some(&text) {
            warn!(%error, "the other nodes can't be seen");
        }
        *last = Some(text);
    }

    /// Does what the nodes of the region are asked to, if this process is meant. Returns whether it is new.
    fn obey(&self, text: &str) -> bool {
        let Ok(order) = serde_json::from_str::<Order>(text) else {
            debug!("what the nodes of the region are asked to do can't be read; this node does nothing about it");
            return false;
        };
        let taken = self.orders.lock().take(&order, &self.identity.process, clock::now());
        if taken == Taken::Meant {
            info!(cancel = order.cancel, "the nodes of the region are asked to drain, or no longer to");
            // One that stops already does what is asked.
            let _ = self.carry_out(order.cancel);
        }
        if taken == Taken::Over {
            debug!("what the nodes of the region were asked to do counts no more; this node does nothing about it");
        }
        matches!(taken, Taken::Meant | Taken::ForOthers)
    }

    fn carry_out(&self, cancel: bool) -> Result<(), Stopping> {
        if cancel { self.draining.call_off() } else { self.draining.begin(self.delay()) }
    }

    /// Drains this node, or all of a region, or calls that off.
    ///
    /// # Errors
    /// [`DrainFailure`] says why not.
    pub(super) async fn drain(&self, drain: Drain) -> Result<DrainInfo, DrainFailure> {
        let Drain { cancel, whom } = drain;
        let order = match &whom {
            Whom::Node => None,
            Whom::OwnRegion => Some(self.ask(Whose::Own, cancel).await?),
            Whom::Region(name) if self.region.as_ref() == Some(name) => Some(self.ask(Whose::Own, cancel).await?),
            Whom::Region(name) => Some(self.ask(Whose::Of(name), cancel).await?),
        };
        let is_meant = match &whom {
            Whom::Node | Whom::OwnRegion => true,
            Whom::Region(name) => self.region.as_ref() == Some(name),
        };
        // Last, so that this node doesn't end while it waits for the others; a later order may have come meanwhile.
        let is_last = order.as_ref().is_none_or(|(_, id)| self.orders.lock().last() == Some(id));
        if is_meant && is_last {
            self.carry_out(cancel).map_err(|_| DrainFailure::Stopping)?;
        }
        let draining = if is_meant && !is_last { self.draining.is_begun() } else { !cancel };
        let order = order.map(|(order, _)| order);
        Ok(DrainInfo { draining, region: order.is_some(), delay_ms: clock::millis(self.delay()), order })
    }

    /// Asks the nodes of a region to drain, or no longer to, and waits until they have read it. This one has. Returns the
    /// order's id as well.
    async fn ask(&self, whose: Whose<'_>, cancel: bool) -> Result<(DrainOrder, String), DrainFailure> {
        let has_place = match whose {
            Whose::Own => self.places.redis.is_some() || self.places.etcd.is_some(),
            Whose::Of(_) => self.places.etcd.is_some(),
        };
        let there = self.places.region(whose).await;
        match whose {
            Whose::Own if !has_place => return Err(DrainFailure::Alone),
            Whose::Of(name) if !has_place => return Err(DrainFailure::Elsewhere(name.to_owned())),
            _ if there.reached == 0 => return Err(DrainFailure::Unreachable(there.errors.join("; "))),
            Whose::Of(name) if there.known.is_empty() => return Err(DrainFailure::Unknown(name.to_owned())),
            Whose::Own | Whose::Of(_) => {}
        }
        let order = loop {
            let order = self.order(whose, &there, cancel);
            if !matches!(whose, Whose::Own) {
                break order;
            }
            // It is carried out by the one who asks here, and not when it is read. Where another one has come meanwhile,
            // the next is later than that.
            if self.orders.lock().take(&order, &self.identity.process, clock::now()) != Taken::Known {
                break order;
            }
        };
        let text = serde_json::to_string(&order).unwrap_or_default();
        let (taken, refused) = self.places.give(whose, &text, ORDER_TIME).await;
        if taken == 0 {
            return Err(DrainFailure::Unreachable(refused.join("; ")));
        }
        let errors = there.errors.into_iter().chain(refused).collect();
        let mut receipt = Receipt::new(there.known.into_iter().map(|known| known.name));
        if matches!(whose, Whose::Own) {
            receipt.note(&self.identity.name);
        }
        let began = clock::uptime();
        self.hear_readers(whose, &order, &mut receipt, began).await;
        let (read, unread) = receipt.into_names();
        Ok((DrainOrder { read, unread, counts_ms: clock::millis(ORDER_TIME), errors }, order.id))
    }

    /// Returns an order to the processes that are known, which is given after all those that are.
    fn order(&self, whose: Whose<'_>, there: &Region, cancel: bool) -> Order {
        let own = self.orders.lock().last().filter(|_| matches!(whose, Whose::Own)).cloned();
        let mut whom: Vec<String> = there.known.iter().map(|known| known.process.clone()).collect();
        whom.sort_unstable();
        whom.dedup();
        let before = there.orders.iter().chain(&own);
        Order::new(cancel, whom, before, (clock::now(), ORDER_TIME, fastrand::u64(..)))
    }

    /// Notes which nodes have read an order, until all have or the time for that is over.
    async fn hear_readers(&self, whose: Whose<'_>, order: &Order, receipt: &mut Receipt, began: Uptime) {
        while !receipt.is_complete() && clock::uptime().since(began) < READ_TIME {
            sleep(LOOK).await;
            let readers = self.places.region(whose).await.known.into_iter();
            for reader in readers.filter(|known| known.order.as_ref() == Some(&order.id)) {
                receipt.note(&reader.name);
            }
        }
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
        let (shared, error) = (self.places.redis.is_some(), self.error.lock().clone());
        NodesInfo { shared, error, nodes: attendance.nodes(own, now) }
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
            order: self.orders.lock().last().cloned(),
        }
    }
}
