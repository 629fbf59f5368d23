//! What a node says of its policies, for a person to read.

use std::fmt;

use serde_json::Value;

use super::super::{
    diff,
    show::{Table, bytes, count, nanoseconds},
    time,
};
use crate::report::{EndedTrial, Estimate, Example, ExperimentInfo, GenerationInfo, HookInfo, PolicyInfo, TrialInfo};

/// Events that are shown.
const EVENTS_MAX: usize = 8;

/// A part of the report, as it is shown.
struct Shown<'a, T>(&'a T);

/// Shows all policies of a node, or the one of this name.
pub(super) fn shown(policies: &[PolicyInfo], name: Option<&str>) -> Result<String, String> {
    let chosen = policies.iter().filter(|policy| name.is_none_or(|name| policy.name == name));
    let chosen: Vec<String> = chosen.map(|policy| Shown(policy).to_string()).collect();
    match (name, chosen.is_empty()) {
        (None, true) => Ok("the node has no policies".to_owned()),
        (Some(name), true) => {
            let known: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(format!("the node has no policy `{name}`; it has: {known}"))
        }
        _ => Ok(chosen.join("\n").trim_end().to_owned()),
    }
}

impl fmt::Display for Shown<'_, PolicyInfo> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyInfo { name, loading, generations, trial, last_trial, experiments, events } = self.0;
        writeln!(f, "{name}{}", if *loading { ", and another generation is being compiled" } else { "" })?;
        write!(f, "{}", table_of(generations))?;
        if let Some(active) = generations.first() {
            write!(f, "\n  keys: {}\n{}", active.plan, hooks(active))?;
        }
        if let Some(trial) = trial {
            write!(f, "\n{}", Shown(trial))?;
        }
        if let Some(trial) = last_trial {
            write!(f, "\n{}", Shown(trial))?;
        }
        for experiment in experiments {
            write!(f, "\n{}", Shown(experiment))?;
        }
        if !events.is_empty() {
            writeln!(f, "\n  last events")?;
        }
        let skipped = events.len().saturating_sub(EVENTS_MAX);
        events.iter().skip(skipped).try_for_each(|event| writeln!(f, "  {}  {}", time::format(event.at), event.what))
    }
}

fn table_of(generations: &[GenerationInfo]) -> Table {
    let headings =
        ["generation", "state", "component", "calls", "from memo", "faults", "mean", "instances", "memory", ""];
    let mut table = Table::new(&headings, &[3, 4, 5, 6, 7, 8]).indented(2);
    for it in generations {
        let sum = |of: fn(&HookInfo) -> u64| it.hooks.iter().map(of).sum::<u64>();
        let calls = sum(|hook| hook.calls);
        let spent: f64 = it.hooks.iter().map(|hook| hook.mean_ns as f64 * hook.calls as f64).sum();
        let mean = if calls > 0 { nanoseconds(spent / calls as f64) } else { "-".to_owned() };
        table.row([
            it.generation.clone(),
            it.state.clone(),
            format!("{} {}", it.component, it.version),
            count(calls),
            count(sum(|hook| hook.memo_hits)),
            count(sum(|hook| hook.faults)),
            mean,
            count(it.instances as u64),
            bytes(u64::try_from(it.memory_bytes).unwrap_or(0)),
            remarks(it),
        ]);
    }
    table
}

/// What isn't as it should be.
fn remarks(generation: &GenerationInfo) -> String {
    let faults = generation.faults.iter();
    let mut remarks: Vec<String> = faults.map(|(kind, times)| format!("{kind} {}", count(*times))).collect();
    let open = generation.hooks.iter().filter(|hook| hook.breaker_open);
    remarks.extend(open.map(|hook| format!("{} isn't asked at present: its breaker is open", hook.name)));
    remarks.join(", ")
}

fn hooks(generation: &GenerationInfo) -> Table {
    let mut table = Table::new(&["hook", "calls", "from memo", "faults", "mean", "memo"], &[1, 2, 3, 4]).indented(2);
    for hook in &generation.hooks {
        let mean = if hook.calls > 0 { nanoseconds(hook.mean_ns as f64) } else { "-".to_owned() };
        let [calls, memo_hits, faults] = [hook.calls, hook.memo_hits, hook.faults].map(count);
        table.row([hook.name.clone(), calls, memo_hits, faults, mean, hook.memo.clone()]);
    }
    table
}

impl fmt::Display for Shown<'_, TrialInfo> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TrialInfo { generation, mode, since, requests, origin_fails, .. } = self.0;
        let (since, requests) = (time::format(*since), count(*requests));
        writeln!(f, "  on trial: {generation} as {mode} since {since}: {requests} requests")?;
        if *origin_fails {
            writeln!(f, "  its origin fails too often: it isn't promoted before that is over")?;
        }
        findings(f, self.0)
    }
}

/// What a trial has done, and what it does otherwise.
fn findings(f: &mut fmt::Formatter<'_>, trial: &TrialInfo) -> fmt::Result {
    let headings = ["hook", "calls", "faults", "compared", "otherwise", "skipped"];
    let mut table = Table::new(&headings, &[1, 2, 3, 4, 5]).indented(4);
    for hook in &trial.hooks {
        let numbers = [hook.calls, hook.faults, hook.compared, hook.disagreed, hook.skipped].map(count);
        table.row(std::iter::once(hook.name.clone()).chain(numbers));
    }
    write!(f, "{table}")?;
    trial.examples.iter().try_for_each(|example| write!(f, "{}", Shown(example)))
}

impl fmt::Display for Shown<'_, EndedTrial> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EndedTrial { trial, ended, outcome } = self.0;
        let TrialInfo { generation, mode, since, .. } = trial;
        let [since, ended] = [*since, *ended].map(time::format);
        writeln!(f, "  last trial: {generation} as {mode}, from {since} to {ended}, {outcome}")?;
        findings(f, trial)
    }
}

impl fmt::Display for Shown<'_, Example> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Example { hook, kind, times, request, with, active, trial, .. } = self.0;
        writeln!(f, "    {hook}, {kind}, {} times: {request}", count(*times))?;
        let Some(with) = with else {
            return f.write_str(&marked([active, trial], ["active", "trial"]));
        };
        writeln!(f, "      and {with}")?;
        // One side has an own key for each of the two.
        for (side, keys) in [("active", active), ("trial", trial)] {
            match keys {
                Value::Array(pair) if pair.len() == 2 => {
                    writeln!(f, "      {side}, of the first and of the other:")?;
                    f.write_str(&marked([&pair[0], &pair[1]], ["first", "other"]))?;
                }
                both => writeln!(f, "      {side}: both {both}")?,
            }
        }
        Ok(())
    }
}

/// Where two values differ, and what either has there.
fn marked([one, other]: [&Value; 2], names: [&str; 2]) -> String {
    match diff::differences(one, other) {
        same if same.is_empty() => format!("        {one}\n"),
        differences => diff::render(&differences, names, 8),
    }
}

impl fmt::Display for Shown<'_, ExperimentInfo> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ExperimentInfo { name, unit, arms } = self.0;
        writeln!(f, "  experiment {name} by {unit}")?;
        let headings = ["arm", "weight", "requests", "hit rate", "above the first", "latency", "cost"];
        let mut table = Table::new(&headings, &[1, 2]).indented(2);
        for arm in arms {
            table.row([
                arm.name.clone(),
                arm.weight.to_string(),
                count(arm.requests),
                interval(arm.hit_rate, percent),
                interval(arm.hit_rate_above_first, percent),
                interval(arm.latency_us, |us| nanoseconds(us * 1_000.0)),
                arm.cost_micro.map_or_else(|| "-".to_owned(), |micro| format!("{:.6}", micro / 1e6)),
            ]);
        }
        write!(f, "{table}")
    }
}

/// A value with the interval that has the true one in 95 of 100 experiments.
fn interval(estimate: Option<Estimate>, show: fn(f64) -> String) -> String {
    estimate.map_or_else(
        || "-".to_owned(),
        |Estimate { value, low, high }| format!("{} ({} to {})", show(value), show(low), show(high)),
    )
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listing() -> Vec<PolicyInfo> {
        let hook = json!({"name": "key", "reads": [], "calls": 1_200, "memo_hits": 3_400, "memo": "on", "faults": 1,
            "breaker_open": true, "mean_ns": 1_500, "mean_fuel": 0});
        let generation = |name: &str, state: &str| {
            json!({"generation": name, "digest": "d", "state": state, "component": "tenant-key", "version": "0.1.0",
                "plan": "call: path", "hooks": [hook], "faults": {"trap": 1}, "instances": 2,
                "memory_bytes": 131_072})
        };
        let estimate = json!({"value": 0.25, "low": 0.2, "high": 0.3});
        let arm = |name: &str, asked: bool| {
            let known = if asked { estimate.clone() } else { Value::Null };
            json!({"name": name, "weight": 9, "requests": 40, "hits": 10, "hit_rate": known, "latency_us": known,
                "cost_micro": 1_500_000.0, "hit_rate_above_first": null})
        };
        let trial = json!({
            "generation": "cccccccc", "mode": "shadow", "since": 0, "requests": 1_005, "calls": 5, "faults": 0,
            "compared": 5, "disagreed": 1, "origin_fails": true,
            "hooks": [{"name": "key", "calls": 5, "faults": 0, "compared": 1_234, "disagreed": 1, "skipped": 2}],
            "examples": [
                {"hook": "admit", "kind": "store/ttl_ms", "times": 7, "request": "GET /", "differs": ["/store/ttl_ms"],
                    "active": {"store": {"ttl_ms": 1}}, "trial": {"store": {"ttl_ms": 2}}},
                {"hook": "key", "kind": "newly shared", "times": 1, "request": "GET /b", "with": "GET /a",
                    "active": [{"lookup": ["t", "/b"]}, {"lookup": ["t", "/a"]}], "trial": {"lookup": ["t"]},
                    "differs": ["/lookup/1"]},
            ]
        });
        let mut ended = trial.clone();
        ended["ended"] = json!(60_000);
        ended["outcome"] = json!("no longer tried: key faulted");
        let policy = json!({
            "name": "tenants", "loading": true,
            "generations": [generation("aaaaaaaa", "active"), generation("bbbbbbbb", "kept")],
            "trial": trial, "last_trial": ended,
            "experiments": [{"name": "size", "unit": "header(x-user)", "arms": [arm("small", true), arm("large", false)]}],
            "events": [{"at": 0, "what": "started with aaaaaaaa"}]
        });
        serde_json::from_value(json!([policy])).unwrap()
    }

    #[test]
    fn all_that_a_node_says_is_shown() {
        let text = shown(&listing(), None).unwrap();
        for words in [
            "tenants, and another generation is being compiled\n",
            "aaaaaaaa    active  tenant-key 0.1.0  1,200      3,400       1  1.50 µs          2  128.0 KiB  trap 1, key isn't asked at present: its breaker is open\n",
            "  keys: call: path\n",
            "  key   1,200      3,400       1  1.50 µs  on\n",
            "  on trial: cccccccc as shadow since 1970-01-01T00:00:00Z: 1,005 requests\n  its origin fails too often",
            "    key       5       0     1,234          1        2\n",
            "    admit, store/ttl_ms, 7 times: GET /\n        /store/ttl_ms  active  1\n                       trial   2\n",
            "    key, newly shared, 1 times: GET /b\n      and GET /a\n      active, of the first and of the other:\n",
            "        /lookup/1  first  \"/b\"\n                   other  \"/a\"\n      trial: both {\"lookup\":[\"t\"]}\n",
            "  last trial: cccccccc as shadow, from 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z, no longer tried: key faulted\n",
            "  experiment size by header(x-user)\n",
            "25.0 % (20.0 % to 30.0 %)",
            "1.500000",
            "1970-01-01T00:00:00Z  started with aaaaaaaa",
        ] {
            assert!(text.contains(words), "{words:?} in\n{text}");
        }
        assert_eq!(shown(&listing(), Some("tenants")).unwrap(), text);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let wrong = shown(&listing(), Some("tenant")).unwrap_err();
        assert_eq!(wrong, "the node has no policy `tenant`; it has: tenants");
        assert_eq!(shown(&[], None).unwrap(), "the node has no policies");
        assert_eq!(shown(&[], Some("a")).unwrap_err(), "the node has no policy `a`; it has: none");
    }
}
