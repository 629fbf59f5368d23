//! What an operator wants to know of a plugin.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Metrics, Plugin, examples::Example, generations::Event, rollout::Counts, shadow::Trial, worth::State};
use crate::{
    clock::Timestamp,
    policy::{
        Hook, KeyPlan,
        experiment::{Estimate, Summary, difference},
        key::{Part, Transform},
    },
};

/// A policy as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyInfo {
    /// Name in the configuration.
    pub name: String,
    /// Is another generation being compiled?
    pub loading: bool,
    /// The active one first, then the one on trial, then those that are kept.
    pub generations: Vec<GenerationInfo>,
    /// How the one on trial does.
    pub trial: Option<TrialInfo>,
    /// How the last one did that is over.
    pub last_trial: Option<EndedTrial>,
    /// How the arms of the active one's experiments do.
    pub experiments: Vec<ExperimentInfo>,
    /// What happened last.
    pub events: Vec<Event>,
}

/// One generation of a policy.
#[derive(Clone, Debug, Serialize)]
pub struct GenerationInfo {
    /// The digest's first eight digits.
    pub generation: String,
    /// blake3 over component, configuration and limits, in hex.
    pub digest: String,
    /// `active`, `shadow`, `canary`, `cooling` (requests are still under way with it) or `kept`.
    pub state: &'static str,
    /// Name in the component's manifest.
    pub component: String,
    /// Version in the component's manifest.
    pub version: String,
    /// How keys are made.
    pub plan: String,
    /// What the component exports.
    pub hooks: Vec<HookInfo>,
    /// Faults so far, by kind; kinds that didn't occur are left out.
    pub faults: BTreeMap<&'static str, u64>,
    /// Live instances.
    pub instances: usize,
    /// Their linear memory.
    pub memory_bytes: i64,
}

/// A hook that a component exports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookInfo {
    /// Its name.
    pub name: &'static str,
    /// What it reads.
    pub reads: Vec<String>,
    /// Calls so far.
    pub calls: u64,
    /// Questions answered from memory.
    pub memo_hits: u64,
    /// Are its verdicts remembered: `on`, `off` (it doesn't pay at present) or `stateful`?
    pub memo: &'static str,
    /// Questions without a verdict.
    pub faults: u64,
    /// Is it not being asked at present, because it faulted too often?
    pub breaker_open: bool,
    /// Mean time of a call in nanoseconds, of those that were timed.
    pub mean_ns: u64,
    /// Mean fuel of a call; 0 where it isn't counted.
    pub mean_fuel: u64,
}

/// How a generation on trial does.
#[derive(Clone, Debug, Serialize)]
pub struct TrialInfo {
    /// Which.
    pub generation: String,
    /// `shadow` or `canary`.
    pub mode: &'static str,
    /// Since when, in milliseconds since 1970.
    pub since: Timestamp,
    /// Requests that it decided for, or that came while it was compared.
    pub requests: u64,
    /// Questions that it answered, all hooks together.
    pub calls: u64,
    /// Questions without a verdict.
    pub faults: u64,
    /// Decisions that were compared.
    pub compared: u64,
    /// Those that were made otherwise, as far as that counts.
    pub disagreed: u64,
    /// Whether the origin fails too often for a promotion.
    pub origin_fails: bool,
    /// The same of each hook that was asked: it is judged by itself.
    pub hooks: Vec<TrialHookInfo>,
    /// An example of each kind of difference.
    pub examples: Vec<Example>,
}

/// How a hook of a generation on trial does.
#[derive(Clone, Debug, Serialize)]
pub struct TrialHookInfo {
    /// Its name.
    pub name: &'static str,
    /// Questions that it answered.
    pub calls: u64,
    /// Questions without a verdict.
    pub faults: u64,
    /// Decisions that were compared; of keys, requests.
    pub compared: u64,
    /// Those that were made otherwise, as far as that counts; of keys, requests that share a response otherwise.
    pub disagreed: u64,
    /// Decisions that could not be compared.
    pub skipped: u64,
}

/// A trial that is over.
#[derive(Clone, Debug, Serialize)]
pub struct EndedTrial {
    /// What it showed.
    #[serde(flatten)]
    pub trial: TrialInfo,
    /// When it ended, in milliseconds since 1970.
    pub ended: Timestamp,
    /// How, in words.
    pub outcome: String,
}

/// How an experiment goes.
#[derive(Clone, Debug, Serialize)]
pub struct ExperimentInfo {
    /// Its name.
    pub name: String,
    /// What it is drawn for.
    pub unit: String,
    /// Its arms.
    pub arms: Vec<ArmInfo>,
}

/// How an arm does.
#[derive(Clone, Debug, Serialize)]
pub struct ArmInfo {
    /// Its name.
    pub name: String,
    /// Its weight.
    pub weight: u32,
    /// What was measured.
    #[serde(flatten)]
    pub summary: Summary,
    /// By how much its hit rate is above the first arm's, with the interval that has the true difference in 95 of 100
    /// experiments.
    pub hit_rate_above_first: Option<Estimate>,
}

impl Plugin {
    /// What an operator wants to know of it; `state` is what it is at present.
    #[must_use]
    pub fn info(&self, state: &'static str) -> GenerationInfo {
        GenerationInfo {
            generation: self.generation.short().to_owned(),
            digest: self.generation.digest.clone(),
            state,
            component: self.component.0.clone(),
            version: self.component.1.clone(),
            plan: plan(&self.key_plan),
            hooks: self.generation.hooks.iter().map(|hook| self.hook_info(*hook)).collect(),
            faults: self.tally.faults(),
            instances: self.instances.live(),
            memory_bytes: self.tally.memory_bytes(),
        }
    }

    fn hook_info(&self, hook: Hook) -> HookInfo {
        let tally = self.tally.of(hook);
        HookInfo {
            name: hook.name(),
            reads: self.reads[hook.index()].iter().flatten().map(ToString::to_string).collect(),
            calls: tally.map_or(0, |tally| tally.calls()),
            memo_hits: tally.map_or(0, |tally| tally.memo_hits()),
            memo: self.remembered.state(hook).as_str(),
            faults: tally.map_or(0, |tally| tally.faults()),
            breaker_open: self.health[hook.index()].is_open(),
            mean_ns: tally.map_or(0, |tally| tally.mean_ns()),
            mean_fuel: tally.map_or(0, |tally| tally.mean_fuel()),
        }
    }

    /// Writes down how the arms of its experiments do.
    pub(super) fn refresh_arms(&self, policy: &str, metrics: &Metrics) {
        for (experiment, stats) in self.experiments.iter().zip(&self.arms) {
            for (arm, stats) in experiment.arms.iter().zip(stats) {
                metrics.arm(policy, &experiment.name, &arm.name, &stats.summary());
            }
        }
    }

    /// Writes down what is only known when it is asked for.
    pub(super) fn refresh_metrics(&self) {
        for hook in &self.generation.hooks {
            let Some(tally) = self.tally.of(*hook) else { continue };
            tally.memo_state.set(match self.remembered.state(*hook) {
                State::On => 1,
                State::Off => 0,
                State::Stateful => -1,
            });
        }
    }
}

impl TrialInfo {
    pub(super) fn new(trial: &Trial, mode: &'static str) -> Self {
        let counts = trial.counts();
        let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
        let hooks = Hook::ALL.into_iter().zip(&counts).map(|(hook, counts)| TrialHookInfo::new(hook, counts));
        Self {
            generation: trial.plugin.generation.short().to_owned(),
            mode,
            since: trial.since,
            requests: trial.requests(),
            calls: sum(|hook| hook.calls),
            faults: sum(|hook| hook.faults),
            compared: sum(|hook| hook.compared),
            disagreed: sum(|hook| hook.disagreed),
            origin_fails: trial.origin_fails(),
            hooks: hooks.filter(TrialHookInfo::was_asked).collect(),
            examples: trial.examples(),
        }
    }
}

impl TrialHookInfo {
    fn new(hook: Hook, counts: &Counts) -> Self {
        let Counts { calls, faults, compared, disagreed, skipped, .. } = *counts;
        Self { name: hook.name(), calls, faults, compared, disagreed, skipped }
    }

    const fn was_asked(&self) -> bool {
        self.calls > 0 || self.compared > 0 || self.skipped > 0
    }
}

/// How the arms of a generation do.
pub(super) fn experiments(plugin: &Plugin) -> Vec<ExperimentInfo> {
    let stats = plugin.experiments.iter().zip(&plugin.arms);
    stats
        .map(|(experiment, stats)| {
            let summaries: Vec<Summary> = stats.iter().map(|stats| stats.summary()).collect();
            let arms = experiment.arms.iter().zip(&summaries).map(|(arm, summary)| ArmInfo {
                name: arm.name.clone(),
                weight: arm.weight,
                summary: *summary,
                hit_rate_above_first: difference(summary, &summaries[0]),
            });
            ExperimentInfo { name: experiment.name.clone(), unit: experiment.unit.to_string(), arms: arms.collect() }
        })
        .collect()
}

/// A plan in words.
pub(super) fn plan(plan: &KeyPlan) -> String {
    let list = |words: Vec<String>| words.join(", ");
    match plan {
        KeyPlan::Native => "native".to_owned(),
        KeyPlan::Recipe(parts) => format!("recipe: {}", list(parts.iter().map(part).collect())),
        KeyPlan::Call(inputs) => format!("call: {}", list(inputs.iter().map(ToString::to_string).collect())),
    }
}

fn part(part: &Part) -> String {
    let transform = match part.transform {
        Transform::Identity => return part.input.to_string(),
        Transform::Lowercase => "lowercase",
        Transform::SortQuery => "sort-query",
        Transform::DropQuery => "drop-query",
        Transform::JsonCanonical => "json-canonical",
    };
    format!("{} {transform}", part.input)
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;
    use crate::policy::Input;

    #[test]
    fn plans_read_well() {
        let recipe = KeyPlan::Recipe(vec![
            Part { input: Input::Header(ACCEPT), transform: Transform::Lowercase },
            Part { input: Input::Path, transform: Transform::Identity },
        ]);
        assert_eq!(plan(&recipe), "recipe: header(accept) lowercase, path");
        let call = KeyPlan::Call(vec![Input::BodyJson("/model".into()), Input::ClientPrefix(24)]);
        assert_eq!(plan(&call), "call: body-json(/model), client-prefix(24)");
        assert_eq!(plan(&KeyPlan::Native), "native");
    }
}
