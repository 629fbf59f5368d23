//! Policy components: their files, their configuration, their limits.

use std::collections::BTreeMap;

use serde_json::Number;

use crate::config::{
    Memo, Plugins, Policy, PolicyLimits, PolicySource, Rollout, RolloutMode,
    findings::Findings,
    raw::{self, Named},
    units::{DAY_MS, GIB, KIB, MIB, MINUTE_MS, TIB},
};

const MODES: [(&str, RolloutMode); 3] =
    [("swap", RolloutMode::Swap), ("shadow", RolloutMode::Shadow), ("canary", RolloutMode::Canary)];

pub(super) fn plugins(raw: &raw::Plugins, findings: &mut Findings<'_>) -> Plugins {
    let base = Plugins::default();
    Plugins {
        cache_dir: raw.cache_dir.as_ref().map(|given| findings.path(given, "cache of compiled policies")),
        cache_bytes_max: findings.bytes(
            "cache_bytes_max",
            &raw.cache_bytes_max,
            base.cache_bytes_max,
            &(MIB..=16 * TIB),
        ),
        watch: raw.watch.unwrap_or(base.watch),
    }
}

pub(super) fn policies(raw: &Named<raw::Policy>, findings: &mut Findings<'_>) -> BTreeMap<String, Policy> {
    raw.iter().map(|(name, raw)| (findings.name(name, "policy"), policy(raw, findings))).collect()
}

fn policy(raw: &raw::Policy, findings: &mut Findings<'_>) -> Policy {
    Policy {
        source: PolicySource::File(findings.file(&raw.file, "policy")),
        config: config(raw, findings),
        limits: limits(&raw.limits, findings),
        memo: memo(&raw.memo, findings),
        rollout: rollout(&raw.rollout, findings),
    }
}

fn memo(raw: &raw::Memo, findings: &mut Findings<'_>) -> Memo {
    let base = Memo::default();
    Memo {
        entries_max: findings.count("entries_max", &raw.entries_max, base.entries_max, &(0..=1_000_000)),
        check_every: findings.count("check_every", &raw.check_every, base.check_every, &(1..=1_000_000_000)),
    }
}

fn rollout(raw: &raw::Rollout, findings: &mut Findings<'_>) -> Rollout {
    let base = Rollout::default();
    let ppm = &(0..=1_000_000);
    Rollout {
        mode: raw.mode.as_ref().and_then(|given| findings.word("mode", given, &MODES)).unwrap_or(base.mode),
        canary_percent: findings.count("canary_percent", &raw.canary_percent, base.canary_percent, &(1..=100)),
        canary_header: raw.canary_header.as_ref().and_then(|given| findings.header(given)),
        hold: findings.millis("hold_ms", &raw.hold_ms, base.hold, &(0..=DAY_MS)),
        requests_min: findings.count("requests_min", &raw.requests_min, base.requests_min, &(1..=1_000_000_000)),
        faults_ppm_max: findings.count("faults_ppm_max", &raw.faults_ppm_max, base.faults_ppm_max, ppm),
        disagreements_ppm_max: findings.count(
            "disagreements_ppm_max",
            &raw.disagreements_ppm_max,
            base.disagreements_ppm_max,
            ppm,
        ),
        latency_percent_max: findings.count(
            "latency_percent_max",
            &raw.latency_percent_max,
            base.latency_percent_max,
            &(100..=100_000),
        ),
        origin_failures_ppm_max: findings.count(
            "origin_failures_ppm_max",
            &raw.origin_failures_ppm_max,
            base.origin_failures_ppm_max,
            ppm,
        ),
        kept_max: findings.count("kept_max", &raw.kept_max, base.kept_max, &(0..=100)),
    }
}

fn config(raw: &raw::Policy, findings: &mut Findings<'_>) -> String {
    let Some(given) = &raw.config else { return "{}".to_owned() };
    let Some(object) = object(given.get_ref()) else {
        let message = "a policy's config is handed over as JSON, which has no `inf` and no `nan`";
        findings.refuse(given.span(), message, "write finite numbers, or text");
        return "{}".to_owned();
    };
    object.to_string()
}

fn limits(raw: &raw::PolicyLimits, findings: &mut Findings<'_>) -> PolicyLimits {
    let base = PolicyLimits::default();
    PolicyLimits {
        // From one page of linear memory to all that 32 bits can address.
        memory_bytes_max: findings.bytes(
            "memory_bytes_max",
            &raw.memory_bytes_max,
            base.memory_bytes_max,
            &(64 * KIB..=4 * GIB),
        ),
        call: findings.micros("call_us", &raw.call_us, base.call, &(10..=10_000_000)),
        load: findings.millis("load_ms", &raw.load_ms, base.load, &(1..=10 * MINUTE_MS)),
        instances_max: findings.count("instances_max", &raw.instances_max, base.instances_max, &(1..=10_000)),
        wait: findings.micros("wait_us", &raw.wait_us, base.wait, &(0..=1_000_000)),
        calls_max: findings.count("calls_max", &raw.calls_max, base.calls_max, &(1..=1_000_000_000_000)),
        result_bytes_max: findings.bytes(
            "result_bytes_max",
            &raw.result_bytes_max,
            base.result_bytes_max,
            &(64..=64 * MIB),
        ),
        result_items_max: findings.count(
            "result_items_max",
            &raw.result_items_max,
            base.result_items_max,
            &(1..=1_024),
        ),
        log_per_second_max: findings.count(
            "log_per_second_max",
            &raw.log_per_second_max,
            base.log_per_second_max,
            &(0..=10_000),
        ),
        breaker: findings.breaker(&raw.breaker, base.breaker),
    }
}

/// Returns a table as JSON; `None` if a number has no JSON.
fn object(table: &toml::Table) -> Option<serde_json::Value> {
    let members = table.iter().map(|(key, value)| Some((key.clone(), json(value)?)));
    members.collect::<Option<serde_json::Map<_, _>>>().map(serde_json::Value::Object)
}

fn json(value: &toml::Value) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    Some(match value {
        toml::Value::String(text) => Json::String(text.clone()),
        toml::Value::Integer(number) => Json::Number(Number::from(*number)),
        toml::Value::Float(number) => Json::Number(Number::from_f64(*number)?),
        toml::Value::Boolean(flag) => Json::Bool(*flag),
        // JSON has no dates; text in RFC 3339 is the usual form.
        toml::Value::Datetime(date) => Json::String(date.to_string()),
        toml::Value::Array(values) => Json::Array(values.iter().map(json).collect::<Option<Vec<_>>>()?),
        toml::Value::Table(table) => object(table)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_json(text: &str) -> Option<String> {
        let table: toml::Table = text.parse().unwrap();
        object(&table).map(|json| json.to_string())
    }

    #[test]
    fn tables_become_json() {
        let table = [
            ("", "{}"),
            ("a = 1\nb = \"x\"\nc = true", r#"{"a":1,"b":"x","c":true}"#),
            ("a = [1.5, 2.0]\n[b.c]\nd = []", r#"{"a":[1.5,2.0],"b":{"c":{"d":[]}}}"#),
            ("day = 2026-01-02", r#"{"day":"2026-01-02"}"#),
        ];
        for (text, json) in table {
            assert_eq!(as_json(text).as_deref(), Some(json), "{text}");
        }
    }

    #[test]
    fn what_json_cannot_say_is_found_at_any_depth() {
        for text in ["a = inf", "a = [1.0, nan]", "[b.c]\nd = -inf"] {
            assert_eq!(as_json(text), None, "{text}");
        }
    }
}
