//! The tiers and their limits.

use crate::config::{
    Cache, Collapse, CutOff, Disk, Memory, Purge, Redis,
    findings::Findings,
    raw,
    units::{ByteSize, DAY_MS, GIB, HOUR_MS, KIB, MIB, MINUTE_MS, TIB},
};

/// How many parts `bodies_bytes_max` must have room for.
const PARTS_MIN: u64 = 8;

pub(super) fn cache(raw: &raw::Cache, findings: &mut Findings<'_>) -> Cache {
    let base = Cache::default();
    let part_bytes = findings.bytes("part_bytes", &raw.part_bytes, base.part_bytes, &(4 * KIB..=16 * MIB));
    Cache {
        namespace: raw.namespace.as_ref().map_or(base.namespace, |given| findings.name(given, "namespace")),
        object_bytes_max: findings.bytes("object_bytes_max", &raw.object_bytes_max, base.object_bytes_max, &(1..=TIB)),
        part_bytes,
        clock_skew: findings.millis("clock_skew_ms", &raw.clock_skew_ms, base.clock_skew, &(0..=HOUR_MS)),
        object_tags_max: findings.count("object_tags_max", &raw.object_tags_max, base.object_tags_max, &(1..=100_000)),
        search_rules_max: findings.count(
            "search_rules_max",
            &raw.search_rules_max,
            base.search_rules_max,
            &(0..=10_000_000),
        ),
        part_time: findings.millis("part_ms", &raw.part_ms, base.part_time, &(1..=MINUTE_MS)),
        bodies_bytes_max: bodies_bytes_max(raw, part_bytes as u64, base.bodies_bytes_max, findings),
        dictionaries_bytes_max: findings.bytes(
            "dictionaries_bytes_max",
            &raw.dictionaries_bytes_max,
            base.dictionaries_bytes_max,
            &(0..=TIB),
        ),
        memory: memory(&raw.memory, findings),
        disk: raw.disk.as_ref().map(|raw| disk(raw, findings)),
        redis: raw.redis.as_ref().map(|raw| redis(raw, findings)),
        collapse: collapse(&raw.collapse, findings),
        purge: purge(&raw.purge, &base.purge, findings),
    }
}

/// Checks `bodies_bytes_max`: with less than a few parts, nothing in parts could be stored or read without stalling.
fn bodies_bytes_max(raw: &raw::Cache, part_bytes: u64, default: u64, findings: &mut Findings<'_>) -> u64 {
    let bytes = findings.bytes("bodies_bytes_max", &raw.bodies_bytes_max, default, &(MIB..=16 * TIB));
    let least = PARTS_MIN * part_bytes;
    if let Some(given) = &raw.bodies_bytes_max
        && bytes < least
    {
        findings.refuse(
            given.span(),
            format!("`bodies_bytes_max` is less than {PARTS_MIN} parts of a body"),
            format!("allowed is {}, as long as `part_bytes` is {}, or more", ByteSize(least), ByteSize(part_bytes)),
        );
    }
    bytes
}

fn memory(raw: &raw::Memory, findings: &mut Findings<'_>) -> Memory {
    let base = Memory::default();
    let bytes = findings.bytes("bytes", &raw.bytes, base.bytes, &(MIB..=16 * TIB));
    let default = base.value_bytes_max.min(bytes);
    let value_bytes_max = findings.bytes("value_bytes_max", &raw.value_bytes_max, default, &(1..=16 * TIB));
    if let Some(given) = &raw.value_bytes_max
        && value_bytes_max > bytes
    {
        findings.refuse(
            given.span(),
            "`value_bytes_max` is more than the memory tier holds",
            format!("allowed is its `bytes`, {}, or less", ByteSize(bytes as u64)),
        );
    }
    Memory { bytes, value_bytes_max }
}

fn disk(raw: &raw::Disk, findings: &mut Findings<'_>) -> Disk {
    let base = Disk::new(findings.path(&raw.dir, "disk tier"));
    Disk { bytes: findings.bytes("bytes", &raw.bytes, base.bytes, &(64 * MIB..=1024 * TIB)), ..base }
}

fn redis(raw: &raw::Redis, findings: &mut Findings<'_>) -> Redis {
    // The URL may hold a password, so a message shows none of it; only the excerpt of the operator's own file does.
    if let Some(fault) = url_fault(raw.url.get_ref()) {
        findings.refuse(raw.url.span(), fault, "write `redis://host:port` or, with TLS, `rediss://host:port`");
    }
    let base = Redis::new(raw.url.get_ref().as_str());
    Redis {
        budget: findings.millis("budget_ms", &raw.budget_ms, base.budget, &(1..=10_000)),
        // Redis itself takes no larger values.
        value_bytes_max: findings.bytes(
            "value_bytes_max",
            &raw.value_bytes_max,
            base.value_bytes_max,
            &(1..=512 * MIB),
        ),
        writes_queued_max: findings.count(
            "writes_queued_max",
            &raw.writes_queued_max,
            base.writes_queued_max,
            &(1..=1_000_000),
        ),
        writes_at_once_max: findings.count(
            "writes_at_once_max",
            &raw.writes_at_once_max,
            base.writes_at_once_max,
            &(1..=100_000),
        ),
        writes_at_once_bytes_max: findings.bytes(
            "writes_at_once_bytes_max",
            &raw.writes_at_once_bytes_max,
            base.writes_at_once_bytes_max,
            &(4 * KIB..=512 * MIB),
        ),
        parts_at_once_bytes_max: findings.bytes(
            "parts_at_once_bytes_max",
            &raw.parts_at_once_bytes_max,
            base.parts_at_once_bytes_max,
            &(4 * KIB..=512 * MIB),
        ),
        lease: findings.millis("lease_ms", &raw.lease_ms, base.lease, &(0..=MINUTE_MS)),
        lease_wait: findings.millis("lease_wait_ms", &raw.lease_wait_ms, base.lease_wait, &(1..=10 * MINUTE_MS)),
        breaker: findings.breaker(&raw.breaker, base.breaker),
        ..base
    }
}

fn collapse(raw: &raw::Collapse, findings: &mut Findings<'_>) -> Collapse {
    let base = Collapse::default();
    Collapse {
        flights_max: findings.count("flights_max", &raw.flights_max, base.flights_max, &(1..=10_000_000)),
        lag_bytes_max: findings.bytes("lag_bytes_max", &raw.lag_bytes_max, base.lag_bytes_max, &(4 * KIB..=GIB)),
        uncacheable: findings.millis("uncacheable_ms", &raw.uncacheable_ms, base.uncacheable, &(0..=HOUR_MS)),
    }
}

/// Checks what is given of the purges of a region or of all; what isn't is as in `base`.
pub(super) fn purge(raw: &raw::Purge, base: &Purge, findings: &mut Findings<'_>) -> Purge {
    let words = [("ask", CutOff::Ask), ("serve", CutOff::Serve)];
    let fence = findings.millis("fence_ms", &raw.fence_ms, base.fence, &(100..=MINUTE_MS));
    let lost = findings.millis("lost_ms", &raw.lost_ms, base.lost, &(1_000..=DAY_MS));
    if let Some(given) = &raw.lost_ms
        && lost < fence * 2
    {
        let allowed = format!("allowed is {} or more", (fence * 2).as_millis());
        findings.refuse(given.span(), "`lost_ms` is less than two times `fence_ms`", allowed);
    }
    Purge {
        tags_max: findings.count("tags_max", &raw.tags_max, base.tags_max, &(1..=100_000_000)),
        patterns_max: findings.count("patterns_max", &raw.patterns_max, base.patterns_max, &(1..=1_024)),
        log_max: findings.count("log_max", &raw.log_max, base.log_max, &(1..=100_000_000)),
        ack: findings.millis("ack_ms", &raw.ack_ms, base.ack, &(1..=10 * MINUTE_MS)),
        fence,
        cut_off: raw.cut_off.as_ref().and_then(|given| findings.word("cut_off", given, &words)).unwrap_or(base.cut_off),
        lost: lost.max(fence * 2),
        invalidations_max: findings.count(
            "invalidations_max",
            &raw.invalidations_max,
            base.invalidations_max,
            &(1..=10_000_000),
        ),
    }
}

fn url_fault(url: &str) -> Option<&'static str> {
    let Some(rest) = url.strip_prefix("redis://").or_else(|| url.strip_prefix("rediss://")) else {
        return Some("the URL of Redis has another scheme than `redis` and `rediss`");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.is_empty() || host.starts_with(':') {
        return Some("the URL of Redis names no host");
    }
    let graphic = url.bytes().all(|byte| byte.is_ascii_graphic());
    (!graphic).then_some("the URL of Redis has a space in it, or something else that is written as `%20` there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_urls() {
        for url in
            ["redis://localhost", "rediss://10.0.0.1:6380/2", "redis://user:pa@ss@cache.local:6379?protocol=resp3"]
        {
            assert_eq!(url_fault(url), None, "{url}");
        }
        let table = [
            ("http://localhost", "scheme"),
            ("localhost:6379", "scheme"),
            ("redis://", "no host"),
            ("redis://:6379", "no host"),
            ("redis://user:pass@/0", "no host"),
            ("redis://two words", "a space"),
        ];
        for (url, reason) in table {
            assert!(url_fault(url).is_some_and(|fault| fault.contains(reason)), "{url}");
        }
    }
}
