//! What the plugin room counts.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::policy::Fault;

type ByPolicy = [(&'static str, String); 1];
type ByFault = [(&'static str, String); 2];

/// Handles of the room's metrics; clones count into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: Family<ByPolicy, Counter>,
    faults: Family<ByFault, Counter>,
    seconds: Family<ByPolicy, Histogram>,
    created: Family<ByPolicy, Counter>,
    retired: Family<ByPolicy, Counter>,
    live: Family<ByPolicy, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that nothing has been counted in.
    #[must_use]
    pub fn new() -> Self {
        Self {
            calls: Family::default(),
            faults: Family::default(),
            seconds: Family::new_with_constructor(call_seconds as fn() -> Histogram),
            created: Family::default(),
            retired: Family::default(),
            live: Family::default(),
        }
    }

    /// Adds them to what the node reports.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("plugin_calls", "Calls of a policy's hooks", self.calls.clone());
        registry.register("plugin_faults", "Questions that a policy gave no verdict on, by kind", self.faults.clone());
        registry.register("plugin_call_seconds", "Time of a call, of every sixteenth", self.seconds.clone());
        registry.register("plugin_instances_created", "Instances made", self.created.clone());
        registry.register("plugin_instances_retired", "Instances replaced after calls_max calls", self.retired.clone());
        registry.register("plugin_instances_live", "Instances there are", self.live.clone());
    }
}

/// From half a microsecond, a small policy's call, to 16 ms, more than the default limit.
fn call_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_000_5, 2.0, 16))
}

/// What one generation counts: its own numbers, and the policy's, whose handles are looked up once.
pub(super) struct Tally {
    calls: AtomicU64,
    faults: [FaultTally; KINDS.len()],
    policy_calls: Counter,
    policy_seconds: Histogram,
    created: Counter,
    retired: Counter,
    live: Gauge,
}

struct FaultTally {
    kind: &'static str,
    count: AtomicU64,
    policy_count: Counter,
}

/// What [`Fault::kind`] says.
const KINDS: [&str; 6] = ["trap", "overrun", "too-large", "fault", "no-instance", "breaker-open"];

/// One call in so many is timed: two readings of the clock would be a tenth of a short one.
const TIMED: u64 = 16;

impl Tally {
    pub(super) fn new(metrics: Metrics, policy: &str) -> Self {
        let Metrics { calls, faults, seconds, created, retired, live } = metrics;
        let name = [("policy", policy.to_owned())];
        let fault = |kind: &'static str| FaultTally {
            kind,
            count: AtomicU64::new(0),
            policy_count: faults.get_or_create_owned(&[("policy", policy.to_owned()), ("kind", kind.to_owned())]),
        };
        Self {
            calls: AtomicU64::new(0),
            faults: KINDS.map(fault),
            policy_calls: calls.get_or_create_owned(&name),
            policy_seconds: seconds.get_or_create_owned(&name),
            created: created.get_or_create_owned(&name),
            retired: retired.get_or_create_owned(&name),
            live: live.get_or_create_owned(&name),
        }
    }

    /// A call begins; it is timed if it is one of the sample.
    pub(super) fn call(&self) -> Option<Instant> {
        self.policy_calls.inc();
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        before.is_multiple_of(TIMED).then(Instant::now)
    }

    pub(super) fn answered(&self, timer: Option<Instant>) {
        if let Some(begun) = timer {
            self.policy_seconds.observe(begun.elapsed().as_secs_f64());
        }
    }

    pub(super) fn fault(&self, fault: &Fault) {
        if let Some(tally) = self.faults.iter().find(|tally| tally.kind == fault.kind()) {
            tally.count.fetch_add(1, Ordering::Relaxed);
            tally.policy_count.inc();
        }
    }

    pub(super) fn retired(&self) {
        self.retired.inc();
    }

    /// An instance is made; it counts as live until what is returned is dropped.
    pub(super) fn instance(&self) -> Live {
        self.created.inc();
        self.live.inc();
        Live(self.live.clone())
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Faults by kind, without those that didn't occur.
    pub(super) fn faults(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.faults.iter().map(|tally| (tally.kind, tally.count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// A live instance, as far as counting goes.
#[derive(Debug)]
pub(super) struct Live(Gauge);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_is_counted() {
        let tally = Tally::new(Metrics::new(), "p");
        let faults = [
            Fault::Trap("t".into()),
            Fault::Overrun { limit_us: 1 },
            Fault::TooLarge { bytes: 2, limit: 1 },
            Fault::Own { code: 1, detail: "d".into() },
            Fault::NoInstance("n".into()),
            Fault::Open,
        ];
        faults.iter().for_each(|fault| tally.fault(fault));
        assert_eq!(tally.faults(), BTreeMap::from(KINDS.map(|kind| (kind, 1))));
    }

    #[test]
    fn generations_count_by_themselves_and_into_the_policy() {
        let metrics = Metrics::new();
        let (old, new) = (Tally::new(metrics.clone(), "p"), Tally::new(metrics.clone(), "p"));
        let _live = old.instance();
        drop(new.instance());
        assert!(old.call().is_some(), "the first is timed");
        assert!(old.call().is_none());
        new.call();
        let name = [("policy", "p".to_owned())];
        assert_eq!((old.calls(), new.calls()), (2, 1));
        assert_eq!(metrics.calls.get_or_create(&name).get(), 3);
        assert_eq!(metrics.created.get_or_create(&name).get(), 2);
        assert_eq!(metrics.live.get_or_create(&name).get(), 1);
    }
}
