//! Regions under faults: three of two real nodes, each region with a Redis of its own, and an etcd of three members that
//! all of them share and that is far away. `tests/regions/run` runs it. Clients read, and purges of the world and of
//! regions are sent, while nodes, engines and what is between them fail. The checker of `tests/chaos` decides: after a
//! purge that was acknowledged as complete no node that it was for serves what it purged.
//!
//! It is a module of `tests/chaos`, whose clients, origin, proxy, history and checker it uses.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    checker, folder_of,
    history::{Event, Purge},
    judge, number,
};

mod etcd;
mod faults;
mod latency;
mod planted;
mod topology;

/// `tests/regions/run SECONDS SEED`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is set to: tests/regions/run SECONDS SEED"]
async fn world() {
    let (seconds, seed) = (number("HOLM_CHAOS_SECONDS", 20), number("HOLM_CHAOS_SEED", 1));
    println!("regions: {seconds} s from seed {seed}");
    let folder = folder_of("regions").join(seed.to_string());
    let (events, latencies) = topology::run(seed, seconds, &folder).await;
    latency::report(&latencies);
    let purges = purges(&events);
    for (what, count) in &purges {
        println!("regions: {count:>8} {what}");
    }
    judge("regions", seed, seconds, &events);
    let counts = checker::counts(&events);
    for what in ["hits", "responses 200"] {
        assert!(counts.contains_key(what), "the run proves nothing, it had no {what}: {counts:?}");
    }
    for what in ["purges of the world: complete", "purges of a region: complete"] {
        assert!(seconds < 20 || purges.contains_key(what), "the run proves nothing, it had no {what}: {purges:?}");
    }
}

/// Counts purges by the nodes that they were for and by what became of them.
fn purges(events: &[Event]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for event in events {
        let Event::Purge(purge) = event else { continue };
        let whom = if purge.nodes.is_none() { "the world" } else { "a region" };
        for what in ["tried", outcome(purge)] {
            *counts.entry(format!("purges of {whom}: {what}")).or_insert(0) += 1;
        }
    }
    counts
}

const fn outcome(purge: &Purge) -> &'static str {
    match purge.status {
        _ if purge.complete => "complete",
        503 => "refused, 503",
        504 => "not complete in time, 504",
        0 => "no response",
        _ => "another error",
    }
}

/// The time at the beginning in which nothing fails.
fn healthy_time(seconds: u64) -> Duration {
    Duration::from_secs((seconds / 6).clamp(3, 20))
}

#[test]
fn a_purge_is_counted_by_whom_it_is_for_and_what_became_of_it() {
    let purge = |status: u16, nodes| {
        Event::Purge(Purge {
            node: 0,
            scope: crate::history::Scope::Tag("g0".to_owned()),
            soft: false,
            sent: 1,
            done: 2,
            status,
            complete: status == 200,
            applied: Vec::new(),
            nodes,
        })
    };
    let counts = purges(&[purge(200, None), purge(503, None), purge(504, Some(0..2))]);
    for (what, wanted) in [
        ("purges of the world: tried", 2),
        ("purges of the world: complete", 1),
        ("purges of the world: refused, 503", 1),
        ("purges of a region: tried", 1),
        ("purges of a region: not complete in time, 504", 1),
    ] {
        assert_eq!(counts.get(what), Some(&wanted), "{what}");
    }
    assert_eq!([20, 60, 600].map(healthy_time), [3, 10, 20].map(Duration::from_secs));
}
