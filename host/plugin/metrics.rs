//! The metrics of the plugin room.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{
    policy::{Fault, Hook, experiment::Summary},
    report::Estimate,
};

/// `policy`.
type ByPolicy = [(&'static str, String); 1];
/// `policy`, `generation`.
type ByGeneration = [(&'static str, String); 2];
/// `policy`, `generation`, `hook`.
type ByHook = [(&'static str, String); 3];
/// `policy`, `generation`, `hook`, `kind`.
type ByFault = [(&'static str, String); 4];

/// `policy`, `experiment`, `arm`, `of`.
type ByArm = [(&'static str, String); 4];

/// Handles of the room's metrics; clones count into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: Family<ByHook, Counter>,
    memo_hits: Family<ByHook, Counter>,
    memo_state: Family<ByHook, Gauge>,
    disagreements: Family<ByHook, Counter>,
    faults: Family<ByFault, Counter>,
    seconds: Family<ByHook, Histogram>,
    memory: Family<ByGeneration, Gauge>,
    live: Family<ByGeneration, Gauge>,
    created: Family<ByPolicy, Counter>,
    retired: Family<ByPolicy, Counter>,
    loads: Family<[(&'static str, String); 2], Counter>,
    experiments: Family<ByArm, Gauge<f64, AtomicU64>>,
    shadowed: Family<ByPolicy, Counter>,
    unshadowed: Family<ByPolicy, Counter>,
    /// Tallies of each generation: one that is loaded again may meet the one that is on its way out.
    tallies: Arc<Mutex<HashMap<ByGeneration, usize>>>,
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
            memo_hits: Family::default(),
            memo_state: Family::default(),
            disagreements: Family::default(),
            faults: Family::default(),
            seconds: Family::new_with_constructor(call_seconds as fn() -> Histogram),
            memory: Family::default(),
            live: Family::default(),
            created: Family::default(),
            retired: Family::default(),
            loads: Family::default(),
            experiments: Family::default(),
            shadowed: Family::default(),
            unshadowed: Family::default(),
            tallies: Arc::default(),
        }
    }

    /// Adds them to what the node reports.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("plugin_calls", "Calls of a policy's hooks", self.calls.clone());
        registry.register("plugin_memo_hits", "Verdicts used from memory", self.memo_hits.clone());
        registry.register(
            "plugin_memo_state",
            "Whether verdicts of a hook are remembered: 1 yes, 0 not while it costs more than it saves, -1 no more, \
             because the policy disagreed with itself",
            self.memo_state.clone(),
        );
        registry.register(
            "plugin_memo_disagreements",
            "Remembered verdicts that the policy disagreed with when it was called again",
            self.disagreements.clone(),
        );
        registry.register("plugin_faults", "Calls of a policy without a verdict, by kind", self.faults.clone());
        registry.register("plugin_call_seconds", "Time of a call, of every sixteenth", self.seconds.clone());
        registry.register("plugin_memory_bytes", "Linear memory of the instances there are", self.memory.clone());
        registry.register("plugin_instances_live", "Instances there are", self.live.clone());
        registry.register("plugin_instances_created", "Instances made", self.created.clone());
        registry.register("plugin_instances_retired", "Instances replaced after calls_max calls", self.retired.clone());
        registry.register("plugin_loads", "Generations requested, by outcome", self.loads.clone());
        registry.register(
            "plugin_experiment",
            "How the arms of an active generation's experiments do: requests, hits, hit rate and mean latency with their \
             95 % intervals, mean cost",
            self.experiments.clone(),
        );
        registry.register("plugin_shadow_decisions", "Decisions compared with a shadow's", self.shadowed.clone());
        registry.register(
            "plugin_shadow_decisions_skipped",
            "Decisions not compared, because too many were waiting",
            self.unshadowed.clone(),
        );
    }

    /// Counts a load of a generation, by its outcome.
    pub(super) fn loaded(&self, policy: &str, outcome: &'static str) {
        self.loads.get_or_create_owned(&[("policy", policy.to_owned()), ("outcome", outcome.to_owned())]).inc();
    }

    /// Sets the gauges of an arm.
    pub(super) fn arm(&self, policy: &str, experiment: &str, arm: &str, summary: &Summary) {
        let set = |of: &str, value: f64| {
            let row = [("policy", policy), ("experiment", experiment), ("arm", arm), ("of", of)];
            self.experiments.get_or_create_owned(&row.map(|(name, value)| (name, value.to_owned()))).set(value);
        };
        set("requests", summary.requests as f64);
        set("hits", summary.hits as f64);
        if let Some(cost) = summary.cost_micro {
            set("cost_micro", cost);
        }
        for (name, estimate) in [("hit_rate", summary.hit_rate), ("latency_us", summary.latency_us)] {
            if let Some(Estimate { value, low, high }) = estimate {
                set(name, value);
                set(&format!("{name}_low"), low);
                set(&format!("{name}_high"), high);
            }
        }
    }

    /// Forgets all arms: another generation may have others. Those of active ones are written again with each reading.
    pub(super) fn clear_arms(&self) {
        self.experiments.clear();
    }

    /// Returns the counters of compared and skipped decisions.
    pub(super) fn shadow(&self, policy: &str) -> (Counter, Counter) {
        let name = [("policy", policy.to_owned())];
        (self.shadowed.get_or_create_owned(&name), self.unshadowed.get_or_create_owned(&name))
    }
}

/// Returns a histogram from half a microsecond, a small policy's call, to 16 ms, more than the default limit.
fn call_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_000_5, 2.0, 16))
}

/// The counts of one generation. Its rows are removed from the node's metrics with it.
pub(super) struct Tally {
    metrics: Metrics,
    policy: String,
    generation: String,
    hooks: [Option<HookTally>; Hook::ALL.len()],
    created: Counter,
    retired: Counter,
    live: Gauge,
    memory: Gauge,
    /// Whether every call is timed, because it is compared with another generation's.
    exact: AtomicBool,
}

/// The counts of one hook of a generation.
pub(super) struct HookTally {
    calls: Counter,
    memo_hits: Counter,
    pub(super) memo_state: Gauge,
    pub(super) disagreements: Counter,
    seconds: Histogram,
    faults: [Counter; Fault::KINDS.len()],
    timed: AtomicU64,
    timed_ns: AtomicU64,
    burned: AtomicU64,
}

/// The sums over the calls of one hook of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) calls: u64,
    pub(super) memo_hits: u64,
    pub(super) faults: u64,
    /// Faults that came before a call: no instance, or an open breaker.
    pub(super) uncalled: u64,
    pub(super) timed: u64,
    pub(super) timed_ns: u64,
}

/// The range of those faults in [`Fault::KINDS`].
const UNCALLED: std::ops::RangeFrom<usize> = 5..;

impl Sums {
    /// Returns the calls, and the faults that came before a call.
    pub(super) const fn asked(&self) -> u64 {
        self.calls + self.memo_hits + self.uncalled
    }
}

/// One call in so many is timed: two readings of the clock would be a tenth of a short one.
const TIMED: u64 = 16;

impl Tally {
    pub(super) fn new(metrics: &Metrics, policy: &str, generation: &str, hooks: &[Hook]) -> Self {
        let name = [("policy", policy.to_owned())];
        let both = by_generation(policy, generation);
        *metrics.tallies.lock().entry(both.clone()).or_default() += 1;
        Self {
            hooks: Hook::ALL
                .map(|hook| hooks.contains(&hook).then(|| HookTally::new(metrics, policy, generation, hook))),
            created: metrics.created.get_or_create_owned(&name),
            retired: metrics.retired.get_or_create_owned(&name),
            live: metrics.live.get_or_create_owned(&both),
            memory: metrics.memory.get_or_create_owned(&both),
            metrics: metrics.clone(),
            policy: policy.to_owned(),
            generation: generation.to_owned(),
            exact: AtomicBool::new(false),
        }
    }

    /// Returns the tally of a hook which the component exports.
    pub(super) fn of(&self, hook: Hook) -> Option<&HookTally> {
        self.hooks[hook.index()].as_ref()
    }

    /// Counts a call that begins; returns its timer if it is one of the sample.
    pub(super) fn call(&self, hook: Hook) -> Option<Instant> {
        let before = self.of(hook)?.calls.inc();
        (before.is_multiple_of(TIMED) || self.exact.load(Ordering::Relaxed)).then(Instant::now)
    }

    /// Counts the time of a call that has ended, and returns it.
    pub(super) fn responded(&self, hook: Hook, timer: Option<Instant>) -> Option<Duration> {
        let took = timer?.elapsed();
        self.of(hook)?.timed(took);
        Some(took)
    }

    /// Counts the fuel of a call.
    pub(super) fn burned(&self, hook: Hook, fuel: u64) {
        if let Some(tally) = self.of(hook) {
            tally.burned.fetch_add(fuel, Ordering::Relaxed);
        }
    }

    /// Counts the use of a remembered verdict, and returns how many there have been by now.
    pub(super) fn memo_hit(&self, hook: Hook) -> u64 {
        self.of(hook).map_or(0, |tally| tally.memo_hits.inc()) + 1
    }

    pub(super) fn fault(&self, hook: Hook, fault: &Fault) {
        if let Some(tally) = self.of(hook) {
            tally.faults[fault.index()].inc();
        }
    }

    /// Sets whether every call is timed from now on, or a sample.
    pub(super) fn set_exact(&self, exact: bool) {
        self.exact.store(exact, Ordering::Relaxed);
    }

    pub(super) fn retired(&self) {
        self.retired.inc();
    }

    /// Counts an instance that is made; it counts as live until what is returned is dropped.
    pub(super) fn instance(&self) -> Live {
        self.created.inc();
        self.live.inc();
        Live { live: self.live.clone(), memory: self.memory.clone(), bytes: 0 }
    }

    /// Returns the sums by [`Hook::index`].
    pub(super) fn sums(&self) -> [Sums; Hook::ALL.len()] {
        Hook::ALL.map(|hook| self.of(hook).map(HookTally::sums).unwrap_or_default())
    }

    pub(super) fn memory_bytes(&self) -> i64 {
        self.memory.get()
    }

    /// Returns the faults by kind, without those that didn't occur.
    pub(super) fn faults(&self) -> BTreeMap<&'static str, u64> {
        let mut faults = BTreeMap::new();
        for tally in self.hooks.iter().flatten() {
            for (kind, count) in Fault::KINDS.into_iter().zip(&tally.faults) {
                *faults.entry(kind).or_default() += count.get();
            }
        }
        faults.retain(|_, count| *count > 0);
        faults
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        // A thousand reloads must not leave a thousand rows; but another tally of the same generation goes on counting.
        let both = by_generation(&self.policy, &self.generation);
        let mut tallies = self.metrics.tallies.lock();
        match tallies.get_mut(&both) {
            Some(count) if *count > 1 => {
                *count -= 1;
                return;
            }
            _ => drop(tallies.remove(&both)),
        }
        for hook in Hook::ALL.into_iter().filter(|hook| self.of(*hook).is_some()) {
            let row = by_hook(&self.policy, &self.generation, hook);
            self.metrics.calls.remove(&row);
            self.metrics.memo_hits.remove(&row);
            self.metrics.memo_state.remove(&row);
            self.metrics.disagreements.remove(&row);
            self.metrics.seconds.remove(&row);
            for kind in Fault::KINDS {
                self.metrics.faults.remove(&by_fault(&row, kind));
            }
        }
        self.metrics.live.remove(&both);
        self.metrics.memory.remove(&both);
    }
}

impl HookTally {
    fn new(metrics: &Metrics, policy: &str, generation: &str, hook: Hook) -> Self {
        let row = by_hook(policy, generation, hook);
        Self {
            calls: metrics.calls.get_or_create_owned(&row),
            memo_hits: metrics.memo_hits.get_or_create_owned(&row),
            memo_state: metrics.memo_state.get_or_create_owned(&row),
            disagreements: metrics.disagreements.get_or_create_owned(&row),
            seconds: metrics.seconds.get_or_create_owned(&row),
            faults: Fault::KINDS.map(|kind| metrics.faults.get_or_create_owned(&by_fault(&row, kind))),
            timed: AtomicU64::new(0),
            timed_ns: AtomicU64::new(0),
            burned: AtomicU64::new(0),
        }
    }

    fn sums(&self) -> Sums {
        Sums {
            calls: self.calls(),
            memo_hits: self.memo_hits(),
            faults: self.faults(),
            uncalled: self.faults[UNCALLED].iter().map(Counter::get).sum(),
            timed: self.timed.load(Ordering::Relaxed),
            timed_ns: self.timed_ns.load(Ordering::Relaxed),
        }
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.get()
    }

    pub(super) fn memo_hits(&self) -> u64 {
        self.memo_hits.get()
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.iter().map(Counter::get).sum()
    }

    /// Returns the mean fuel of a call; 0 where it isn't counted.
    pub(super) fn mean_fuel(&self) -> u64 {
        self.burned.load(Ordering::Relaxed) / self.calls().max(1)
    }

    /// Returns the mean time of a timed call, in nanoseconds.
    pub(super) fn mean_ns(&self) -> u64 {
        self.timed_ns.load(Ordering::Relaxed) / self.timed.load(Ordering::Relaxed).max(1)
    }

    fn timed(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
        self.timed.fetch_add(1, Ordering::Relaxed);
        self.timed_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

fn by_generation(policy: &str, generation: &str) -> ByGeneration {
    [("policy", policy.to_owned()), ("generation", generation.to_owned())]
}

fn by_hook(policy: &str, generation: &str, hook: Hook) -> ByHook {
    [("policy", policy.to_owned()), ("generation", generation.to_owned()), ("hook", hook.name().to_owned())]
}

fn by_fault(row: &ByHook, kind: &'static str) -> ByFault {
    let [policy, generation, hook] = row.clone();
    [policy, generation, hook, ("kind", kind.to_owned())]
}

/// The count of a live instance.
#[derive(Debug)]
pub(super) struct Live {
    live: Gauge,
    memory: Gauge,
    bytes: i64,
}

impl Live {
    /// Sets the bytes of its linear memory.
    pub(super) fn holds(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if bytes != self.bytes {
            self.memory.inc_by(bytes - self.bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.live.dec();
        self.memory.dec_by(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults() -> [Fault; Fault::KINDS.len()] {
        [
            Fault::Trap("t".into()),
            Fault::Overrun { limit_us: 1 },
            Fault::TooLarge { bytes: 2, limit: 1 },
            Fault::Malformed("m".into()),
            Fault::Own { code: 1, detail: "d".into() },
            Fault::NoInstance("n".into()),
            Fault::Open,
        ]
    }

    #[test]
    fn every_kind_of_fault_is_counted() {
        let tally = Tally::new(&Metrics::new(), "p", "1", &[Hook::Key]);
        faults().iter().for_each(|fault| tally.fault(Hook::Key, fault));
        assert_eq!(tally.faults(), BTreeMap::from(Fault::KINDS.map(|kind| (kind, 1))));
        let sums = tally.sums()[Hook::Key.index()];
        assert_eq!((sums.faults, sums.uncalled, sums.asked()), (7, 2, 2));
    }

    #[test]
    fn a_generation_takes_its_rows_with_it() {
        let metrics = Metrics::new();
        let (old, new) =
            (Tally::new(&metrics, "p", "1", &[Hook::Key, Hook::Admit]), Tally::new(&metrics, "p", "2", &[Hook::Key]));
        let mut live = old.instance();
        live.holds(70);
        drop(Tally::new(&metrics, "p", "1", &[Hook::Key]));
        drop(new.instance());
        assert!(old.call(Hook::Key).is_some(), "the first is timed");
        assert!(old.call(Hook::Key).is_none());
        old.set_exact(true);
        assert!(old.call(Hook::Key).is_some(), "every one is timed");
        new.call(Hook::Key);
        let calls = |tally: &Tally| tally.sums().map(|sums| sums.calls);
        assert_eq!((calls(&old), calls(&new), old.memory_bytes()), ([3, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], 70));
        let shown = || {
            let mut registry = Registry::default();
            metrics.register(&mut registry);
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        assert!(shown().contains(r#"plugin_calls_total{policy="p",generation="1",hook="admit"} 0"#), "{}", shown());
        drop(live);
        drop(old);
        assert!(!shown().contains(r#"generation="1""#), "{}", shown());
        assert!(shown().contains(r#"plugin_calls_total{policy="p",generation="2",hook="key"} 1"#), "{}", shown());
    }
}
