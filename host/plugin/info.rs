//! The state of a plugin, for the admin API and metrics.

use super::{component::Plugin, memo_gate::State, metrics::Metrics, rollout::Counts, shadow::Trial};
use crate::{
    policy::{
        Hook, KeyPlan,
        experiment::{Summary, difference},
        key::{Part, Transform},
    },
    report::{ArmInfo, ExperimentInfo, GenerationInfo, HookInfo, TrialHookInfo, TrialInfo},
};

impl Plugin {
    /// Returns the generation's state for the admin API; `state` is its place in the rollout.
    #[must_use]
    pub fn info(&self, state: &str) -> GenerationInfo {
        GenerationInfo {
            generation: self.generation.short().to_owned(),
            digest: self.generation.digest.clone(),
            state: state.to_owned(),
            component: self.component.0.clone(),
            version: self.component.1.clone(),
            plan: plan(&self.key_plan),
            hooks: self.generation.hooks.iter().map(|hook| self.hook_info(*hook)).collect(),
            faults: self.tally.faults().into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect(),
            instances: self.instances.live(),
            memory_bytes: self.tally.memory_bytes(),
        }
    }

    fn hook_info(&self, hook: Hook) -> HookInfo {
        let tally = self.tally.of(hook);
        HookInfo {
            name: hook.name().to_owned(),
            reads: self.reads[hook.index()].iter().flatten().map(ToString::to_string).collect(),
            calls: tally.map_or(0, |tally| tally.calls()),
            memo_hits: tally.map_or(0, |tally| tally.memo_hits()),
            memo: self.remembered.state(hook).as_str().to_owned(),
            faults: tally.map_or(0, |tally| tally.faults()),
            breaker_open: self.health[hook.index()].is_open(),
            mean_ns: tally.map_or(0, |tally| tally.mean_ns()),
            mean_fuel: tally.map_or(0, |tally| tally.mean_fuel()),
        }
    }

    /// Updates the metrics of the arms of its experiments.
    pub(super) fn refresh_arms(&self, policy: &str, metrics: &Metrics) {
        for (experiment, stats) in self.experiments.iter().zip(&self.arms) {
            for (arm, stats) in experiment.arms.iter().zip(stats) {
                metrics.arm(policy, &experiment.name, &arm.name, &stats.summary());
            }
        }
    }

    /// Updates the metrics that are computed on demand.
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

/// Returns the state of a trial.
pub(super) fn trial(trial: &Trial, mode: &str) -> TrialInfo {
    let counts = trial.counts();
    let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
    TrialInfo {
        generation: trial.plugin.generation.short().to_owned(),
        mode: mode.to_owned(),
        since: trial.since,
        requests: trial.requests(),
        calls: sum(|hook| hook.calls),
        faults: sum(|hook| hook.faults),
        compared: sum(|hook| hook.compared),
        disagreed: sum(|hook| hook.disagreed),
        origin_fails: trial.origin_fails(),
        hooks: Hook::ALL.into_iter().zip(&counts).filter_map(|(hook, counts)| trial_hook(hook, counts)).collect(),
        examples: trial.examples(),
    }
}

/// Returns the state of one hook's trial; `None` if it was never called.
fn trial_hook(hook: Hook, counts: &Counts) -> Option<TrialHookInfo> {
    let Counts { calls, faults, compared, disagreed, skipped, .. } = *counts;
    let was_called = calls > 0 || compared > 0 || skipped > 0;
    was_called.then(|| TrialHookInfo { name: hook.name().to_owned(), calls, faults, compared, disagreed, skipped })
}

/// Returns the results of a generation's experiments.
pub(super) fn experiments(plugin: &Plugin) -> Vec<ExperimentInfo> {
    let stats = plugin.experiments.iter().zip(&plugin.arms);
    stats
        .map(|(experiment, stats)| {
            let summaries: Vec<Summary> = stats.iter().map(|stats| stats.summary()).collect();
            let arms = experiment.arms.iter().zip(&summaries).map(|(arm, summary)| ArmInfo {
                name: arm.name.clone(),
                weight: arm.weight,
                requests: summary.requests,
                hits: summary.hits,
                hit_rate: summary.hit_rate,
                latency_us: summary.latency_us,
                cost_micro: summary.cost_micro,
                hit_rate_above_first: difference(summary, &summaries[0]),
            });
            ExperimentInfo { name: experiment.name.clone(), unit: experiment.unit.to_string(), arms: arms.collect() }
        })
        .collect()
}

/// Returns a plan as text.
pub(super) fn plan(plan: &KeyPlan) -> String {
    let list = |words: Vec<String>| words.join(", ");
    match plan {
        KeyPlan::Native => "native".to_owned(),
        KeyPlan::Recipe(parts) => format!("recipe: {}", list(parts.iter().map(part).collect())),
        KeyPlan::Call(inputs) => format!("call: {}", list(inputs.iter().map(ToString::to_string).collect())),
    }
}

fn part(part: &Part) -> String {
    match part.transform {
        Transform::Identity => part.input.to_string(),
        transform => format!("{} {}", part.input, transform.name()),
    }
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
