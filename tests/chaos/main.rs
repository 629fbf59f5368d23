//! Proof that holds under faults: clients send requests to a region of real processes while its nodes, its Redis and
//! its origin are killed, frozen, cut off, filled up and lied to, and a checker decides from the history whether each
//! response was allowed. `tests/chaos/run` runs it; plain `cargo test` tests the checker itself, on nodes with planted
//! bugs as well.

// A helper of a test may panic as the test itself may, and nobody counts the bytes of a test's future.
#![allow(clippy::unwrap_used, clippy::large_futures)]

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

mod catalogue;
mod checker;
mod client;
mod drive;
mod history;
mod meta;
mod node;
mod origin;
mod process;
mod proxy;
mod redis;
#[path = "../regions/regions.rs"]
mod regions;
mod schedule;
mod stamp;
mod wire;

/// The time that the head of a response may take from the origin to a node, in microseconds: the machine may be busy.
const SLACK: history::Micros = 1_000_000;
/// Violations that are shown.
const SHOWN: usize = 10;

/// `tests/chaos/run SECONDS SEED`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is set to: tests/chaos/run SECONDS SEED"]
async fn region() {
    let (seconds, seed) = (number("HOLM_CHAOS_SECONDS", 20), number("HOLM_CHAOS_SEED", 1));
    println!("chaos: {seconds} s from seed {seed}");
    let events = drive::run(seed, seconds, &folder().join(seed.to_string())).await;
    judge("chaos", seed, seconds, &events);
    let counts = checker::counts(&events);
    for what in ["hits", "responses 200"].into_iter().chain((seconds >= 20).then_some("purges complete")) {
        assert!(counts.contains_key(what), "the run proves nothing, it had no {what}: {counts:?}");
    }
}

/// Reports on a run of `tests/{run}/run`. Fails, and says what there is to be looked at, if a response wasn't allowed.
fn judge(run: &str, seed: u64, seconds: u64, events: &[history::Event]) {
    let (said, file) = (folder_of(run).join(seed.to_string()), folder_of(run).join(format!("{seed}.jsonl")));
    let violations = report(events);
    if violations > 0 {
        history::write(&file, events).unwrap();
        let (said, file) = (said.display(), file.display());
        panic!(
            "{violations} responses weren't allowed.\n  the history: {file}\n  what the nodes said: {said}\n  \
             check it again: tests/{run}/run check {file}\n  run it again: tests/{run}/run {seconds} {seed}"
        );
    }
}

/// `tests/chaos/run check FILE`
#[test]
#[ignore = "checks a written history: tests/chaos/run check FILE"]
fn check() {
    let file = std::env::var("HOLM_CHAOS_HISTORY").unwrap_or_else(|_| panic!("HOLM_CHAOS_HISTORY names the file"));
    let events = history::read(Path::new(&file)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report(&events), 0, "responses weren't allowed");
}

/// Prints what there was and what was wrong, and returns how much was.
fn report(events: &[history::Event]) -> usize {
    for (what, count) in checker::counts(events) {
        println!("chaos: {count:>8} {what}");
    }
    let begun = Instant::now();
    let violations = checker::check(events, SLACK);
    println!("chaos: {:>8} violations, found in {:?}", violations.len(), begun.elapsed());
    for violation in violations.iter().take(SHOWN) {
        println!("chaos: {violation}");
    }
    violations.len()
}

/// The directory that histories of `tests/chaos` are written to.
fn folder() -> PathBuf {
    folder_of("chaos")
}

/// The directory of the runs of this name in the target directory.
fn folder_of(run: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join(run)
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Err(_) => default,
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is a whole number, not {text:?}")),
    }
}
