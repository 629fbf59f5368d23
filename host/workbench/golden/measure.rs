//! What calls cost: their time, and the instructions they burn.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::super::{evaluate::evaluate, record::Record};
use crate::{plugin::Plugin, policy::Hook, report::HookInfo};

/// Passes over all records whose times are told apart; the median holds.
const PASSES: usize = 5;

/// A pass is repeated for so long, so that a few records measure well, too.
const PASS_TIME: Duration = Duration::from_millis(20);

/// What the calls of one hook cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Costs {
    /// Records that it was called for.
    pub(super) records: u64,
    timed: [Sum; PASSES],
    fuel: Sum,
}

/// Calls, and what they cost together.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    calls: u64,
    cost: f64,
}

impl Sum {
    fn mean(self) -> Option<f64> {
        (self.calls > 0).then(|| self.cost / self.calls as f64)
    }

    fn add(&mut self, more: Self) {
        self.calls += more.calls;
        self.cost += more.cost;
    }
}

impl Costs {
    /// The median of the passes' means, in nanoseconds; `None` if there was no call.
    pub(super) fn call_ns(&self) -> Option<f64> {
        let mut means: Vec<f64> = self.timed.iter().filter_map(|sum| sum.mean()).collect();
        means.sort_by(f64::total_cmp);
        means.get(means.len() / 2).copied()
    }

    /// The mean; `None` if there was no call.
    pub(super) fn call_fuel(&self) -> Option<u64> {
        self.fuel.mean().map(|mean| mean.round() as u64)
    }
}

/// Times the calls of a plugin that times them all, and has been called before: nothing is done for the first time.
pub(super) fn time(plugin: &Plugin, records: &[Record], costs: &mut BTreeMap<Hook, Costs>) {
    for (hook, _) in sums(plugin, |_| 0.0) {
        let costs = costs.entry(hook).or_default();
        costs.records += records.iter().filter(|record| record.hook_call(hook).is_some()).count() as u64;
    }
    if records.is_empty() {
        return;
    }
    let cost = |means: (u64, u64)| means.0 as f64;
    for pass in 0..PASSES {
        let before = sums(plugin, cost);
        let begun = Instant::now();
        while {
            ask_all(plugin, records);
            begun.elapsed() < PASS_TIME
        } {}
        for (hook, more) in since(&before, sums(plugin, cost)) {
            costs.entry(hook).or_default().timed[pass].add(more);
        }
    }
}

/// Counts the instructions, after a pass that is not counted. The plugin's engine counts fuel.
pub(super) fn fuel(plugin: &Plugin, records: &[Record], costs: &mut BTreeMap<Hook, Costs>) {
    ask_all(plugin, records);
    let cost = |means: (u64, u64)| means.1 as f64;
    let before = sums(plugin, cost);
    ask_all(plugin, records);
    for (hook, more) in since(&before, sums(plugin, cost)) {
        costs.entry(hook).or_default().fuel.add(more);
    }
}

/// Calls the hooks for all records; the verdicts don't matter here.
fn ask_all(plugin: &Plugin, records: &[Record]) {
    let _said = evaluate(plugin, records);
}

/// Calls of each hook so far, and what they cost: by their mean time and their mean fuel.
fn sums(plugin: &Plugin, cost: impl Fn((u64, u64)) -> f64) -> BTreeMap<Hook, Sum> {
    let hooks = plugin.info("").hooks.into_iter();
    let sum = |info: HookInfo| {
        let cost = cost((info.mean_ns, info.mean_fuel)) * info.calls as f64;
        Some((Hook::named(&info.name)?, Sum { calls: info.calls, cost }))
    };
    hooks.filter_map(sum).collect()
}

fn since(before: &BTreeMap<Hook, Sum>, now: BTreeMap<Hook, Sum>) -> impl Iterator<Item = (Hook, Sum)> {
    now.into_iter().map(|(hook, now)| {
        let before = before.get(&hook).copied().unwrap_or_default();
        (hook, Sum { calls: now.calls - before.calls, cost: now.cost - before.cost })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_passes_holds() {
        let mut costs = Costs::default();
        assert_eq!((costs.call_ns(), costs.call_fuel()), (None, None));
        for (pass, cost) in [500.0, 100.0, 90_000.0, 300.0, 200.0].into_iter().enumerate() {
            costs.timed[pass].add(Sum { calls: 1, cost });
        }
        costs.fuel.add(Sum { calls: 2, cost: 3.0 });
        assert_eq!((costs.call_ns(), costs.call_fuel()), (Some(300.0), Some(2)));
    }
}
