//! Policies, their generations, trials and experiments: `GET /policies`, and the outcome of a change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;

/// A policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Name in the configuration.
    pub name: String,
    /// Whether another generation is being compiled.
    pub loading: bool,
    /// The active one first, then the one on trial, then those that are kept.
    pub generations: Vec<GenerationInfo>,
    /// The trial, if there is one.
    pub trial: Option<TrialInfo>,
    /// The last trial that is over.
    pub last_trial: Option<EndedTrial>,
    /// The results of the active one's experiments.
    pub experiments: Vec<ExperimentInfo>,
    /// The last events.
    pub events: Vec<Event>,
}

/// One generation of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationInfo {
    /// The digest's first eight digits.
    pub generation: String,
    /// blake3 over component, configuration and limits, in hex.
    pub digest: String,
    /// `active`, `shadow`, `canary`, `cooling` (requests are still under way with it) or `kept`.
    pub state: String,
    /// Name in the component's manifest.
    pub component: String,
    /// Version in the component's manifest.
    pub version: String,
    /// How keys are made.
    pub plan: String,
    /// The hooks that the component exports.
    pub hooks: Vec<HookInfo>,
    /// Faults so far, by kind; kinds that didn't occur are left out.
    pub faults: BTreeMap<String, u64>,
    /// Live instances.
    pub instances: usize,
    /// Their linear memory, in bytes.
    pub memory_bytes: i64,
}

/// A hook that a component exports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookInfo {
    /// Its name.
    pub name: String,
    /// The inputs that it reads.
    pub reads: Vec<String>,
    /// Calls so far.
    pub calls: u64,
    /// Verdicts that were remembered, and so took no call.
    pub memo_hits: u64,
    /// Whether its verdicts are remembered: `on`, `off` (it doesn't pay at present) or `stateful`.
    pub memo: String,
    /// Calls without a verdict.
    pub faults: u64,
    /// Whether it is not being called at present, because it faulted too often.
    pub breaker_open: bool,
    /// Mean time of a call in nanoseconds, of those that were timed.
    pub mean_ns: u64,
    /// Mean fuel of a call; 0 where it isn't counted.
    pub mean_fuel: u64,
}

/// The state of a trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialInfo {
    /// The generation.
    pub generation: String,
    /// `shadow` or `canary`.
    pub mode: String,
    /// Since when, in milliseconds since 1970.
    pub since: Timestamp,
    /// Requests that it decided for, or that came while it was compared.
    pub requests: u64,
    /// Calls with a verdict, all hooks together.
    pub calls: u64,
    /// Calls without a verdict.
    pub faults: u64,
    /// Decisions that were compared.
    pub compared: u64,
    /// Those that were made otherwise, as far as that counts.
    pub disagreed: u64,
    /// Whether the origin fails too often for a promotion.
    pub origin_fails: bool,
    /// The same of each hook that was called: it is judged by itself.
    pub hooks: Vec<TrialHookInfo>,
    /// An example of each kind of difference.
    pub examples: Vec<Example>,
}

/// The state of one hook's trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialHookInfo {
    /// Its name.
    pub name: String,
    /// Calls with a verdict.
    pub calls: u64,
    /// Calls without a verdict.
    pub faults: u64,
    /// Decisions that were compared; of keys, requests.
    pub compared: u64,
    /// Those that were made otherwise, as far as that counts; of keys, requests that share a response otherwise.
    pub disagreed: u64,
    /// Decisions that could not be compared.
    pub skipped: u64,
}

/// A trial that is over: the members of the trial, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedTrial {
    /// The trial.
    // Without a fraction anywhere: such numbers don't survive being flattened when they are read from text.
    #[serde(flatten)]
    pub trial: TrialInfo,
    /// When it ended, in milliseconds since 1970.
    pub ended: Timestamp,
    /// How, as text.
    pub outcome: String,
}

/// A request, or a pair of them, that a generation on trial treats otherwise than the active one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The hook.
    pub hook: String,
    /// What is different: of keys how responses are shared, of others where the decisions differ, or a fault.
    pub kind: String,
    /// How often this kind was met.
    pub times: u64,
    /// Method and URL of the request.
    pub request: String,
    /// The other request of a pair that newly shares, or no longer shares, a response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
    /// What the active generation decides; of a pair, for `request` and for `with` if these differ.
    pub active: Value,
    /// The same of the one on trial.
    pub trial: Value,
    /// Where the decisions, or the keys of the pair, differ: pointers (RFC 6901).
    pub differs: Vec<String>,
}

/// An experiment and its results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExperimentInfo {
    /// Its name.
    pub name: String,
    /// The input that is drawn by.
    pub unit: String,
    /// Its arms.
    pub arms: Vec<ArmInfo>,
}

/// An arm of an experiment and its results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmInfo {
    /// Its name.
    pub name: String,
    /// Its weight.
    pub weight: u32,
    /// Requests served.
    pub requests: u64,
    /// Those served from the cache.
    pub hits: u64,
    /// Hits by requests. None if there was no request.
    pub hit_rate: Option<Estimate>,
    /// Mean latency in microseconds. None before the second request.
    pub latency_us: Option<Estimate>,
    /// Mean cost of a request in millionths of what the operator counts in. None if there was no request.
    pub cost_micro: Option<f64>,
    /// By how much its hit rate is above the first arm's. None unless both had requests.
    pub hit_rate_above_first: Option<Estimate>,
}

/// A value that was measured, and the interval that has the true one in 95 of 100 experiments.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// As measured.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// An event of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at: Timestamp,
    /// What happened, as text.
    pub what: String,
}

/// The outcome of a load, a promotion or a rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The generation.
    pub generation: String,
    /// `active`, `shadow` or `canary`.
    pub state: String,
    /// Whether it was there already.
    pub unchanged: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn trial() -> Value {
        json!({
            "generation": "cccccccc", "mode": "shadow", "since": 1, "requests": 1_005, "calls": 5, "faults": 0,
            "compared": 5, "disagreed": 1, "origin_fails": true,
            "hooks": [{"name": "key", "calls": 5, "faults": 0, "compared": 4, "disagreed": 1, "skipped": 2}],
            "examples": [
                {"hook": "admit", "kind": "store/ttl_ms", "times": 7, "request": "GET /", "differs": ["/store/ttl_ms"],
                    "active": {"store": {"ttl_ms": 0.250}}, "trial": null},
                {"hook": "key", "kind": "newly shared", "times": 1, "request": "GET /b", "with": "GET /a",
                    "active": [1, 2], "trial": {"lookup": ["t"]}, "differs": []},
            ]
        })
    }

    fn policy() -> Value {
        let hook = json!({"name": "key", "reads": ["path"], "calls": 1_200, "memo_hits": 3, "memo": "on", "faults": 1,
            "breaker_open": true, "mean_ns": 1_500, "mean_fuel": 0});
        let generation = json!({"generation": "aaaaaaaa", "digest": "d", "state": "active", "component": "tenant-key",
            "version": "0.1.0", "plan": "call: path", "hooks": [hook], "faults": {"trap": 1}, "instances": 2,
            "memory_bytes": -1});
        let arm = json!({"name": "small", "weight": 9, "requests": 40, "hits": 10,
            "hit_rate": {"value": 0.25, "low": 0.2, "high": 0.3}, "latency_us": null, "cost_micro": 1.5,
            "hit_rate_above_first": null});
        let mut ended = trial();
        ended["ended"] = json!(60_000);
        ended["outcome"] = json!("promoted by the operator");
        json!({
            "name": "tenants", "loading": true, "generations": [generation], "trial": trial(), "last_trial": ended,
            "experiments": [{"name": "size", "unit": "path", "arms": [arm]}],
            "events": [{"at": 0, "what": "started with aaaaaaaa"}]
        })
    }

    /// The names are what scripts and dashboards read.
    #[test]
    fn what_is_written_has_these_names_and_is_read_again() {
        let written = policy();
        let read: PolicyInfo = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), written);
        assert_eq!(serde_json::from_str::<PolicyInfo>(&written.to_string()).unwrap(), read);
        let loaded = json!({"generation": "aaaaaaaa", "state": "active", "unchanged": false});
        let read: Loaded = serde_json::from_value(loaded.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), loaded);
    }

    #[test]
    fn members_of_a_later_version_are_passed_over() {
        let mut later = policy();
        later["last_trial"]["verdict"] = json!({"share": 0.5});
        later["owner"] = json!("shop");
        assert_eq!(
            serde_json::from_value::<PolicyInfo>(later).unwrap(),
            serde_json::from_value::<PolicyInfo>(policy()).unwrap()
        );
    }
}
