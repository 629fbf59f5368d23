//! Keeps the wall clock to its places. It may be set by an hour at any moment, either way: what lasts (breakers,
//! ejections, trials, batches, flights, fences) is measured by a clock that only goes forward, and what was purged by
//! running numbers, so that no setting of the clock ends or prolongs anything, or loses a purge.

use super::{collect, tokens};
use crate::harness::repository;

/// Files, and rooms or parts of them, that measure what lasts or keep the order of purges.
const LASTING: [&str; 15] = [
    "batch",
    "breaker.rs",
    "cache/collapse.rs",
    "cache/purge",
    "etcd",
    "http",
    "origin",
    "pipeline/prefetch.rs",
    "pipeline/upstream.rs",
    "plugin/health.rs",
    "plugin/instance.rs",
    "plugin/kept.rs",
    "plugin/memo.rs",
    "plugin/remember.rs",
    "plugin/rollout.rs",
];

/// Files that show a moment to others and decide nothing by it: the end of an ejection, the `Date` of a response.
const SHOWN: [&str; 2] = ["http/fronts/quic/date.rs", "origin/pool.rs"];

#[test]
fn what_lasts_is_not_measured_by_the_wall_clock() {
    let host = repository("host");
    let mut sources = Vec::new();
    collect(&host, &host, &mut sources);
    for place in LASTING {
        assert!(sources.iter().any(|(path, _)| is_in(path, place)), "{place} is no more");
    }
    let is_lasting = |path: &str| LASTING.iter().any(|place| is_in(path, place)) && !SHOWN.contains(&path);
    let readers: Vec<&str> = sources
        .iter()
        .filter(|(path, text)| is_lasting(path) && reads_wall_clock(text))
        .map(|(path, _)| path.as_str())
        .collect();
    assert!(readers.is_empty(), "these measure what lasts, and know the wall clock: {readers:?}");
}

#[test]
fn what_reads_the_wall_clock_is_found() {
    for (text, wanted) in [
        ("use crate::clock::{self, Timestamp};", true),
        ("let now = clock::now();", true),
        ("let now = crate::clock :: now();", true),
        ("use crate::clock::{now, uptime};", true),
        ("fn f(at: std::time::SystemTime) {}", true),
        ("let now = clock::uptime(); let then = Instant::now(); // clock::now()", false),
        ("fn f(now: Uptime) -> Uptime { now.plus(self.now) }", false),
    ] {
        assert_eq!(reads_wall_clock(text), wanted, "{text}");
    }
}

/// Whether the file is this place, or lies in it.
fn is_in(path: &str, place: &str) -> bool {
    let rest = path.strip_prefix(place);
    rest.is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
}

fn reads_wall_clock(text: &str) -> bool {
    let tokens = tokens(text);
    let names = tokens.iter().any(|token| matches!(*token, "Timestamp" | "SystemTime"));
    let calls = tokens.windows(3).any(|path| path == ["clock", "::", "now"]);
    let imports = tokens.windows(4).any(|path| path == ["clock", "::", "{", "now"]);
    names || calls || imports
}
