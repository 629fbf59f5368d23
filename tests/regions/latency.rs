//! How long purges of the world take while nothing fails.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::topology::{ROUND_TRIPS_MS, World};
use crate::{client, history::Scope};

/// What issue 14 allows beyond the slowest round trip, in milliseconds.
const ALLOWED_MS: u64 = 20;

/// What purges took that were complete, by region.
pub(super) struct Latencies {
    /// Each when the one before was done, whoever made that.
    alone: Vec<Vec<Duration>>,
    /// Those of the three regions at the same time.
    together: Vec<Vec<Duration>>,
}

/// Purges through the first node of each region, for half of this time one region after the other, for the other half all
/// at once.
pub(super) async fn measure(world: &Arc<World>, time: Duration) -> Latencies {
    let regions = world.redis.len();
    let each = time / u32::try_from(2 * regions).unwrap();
    let mut alone = Vec::new();
    for region in 0..regions {
        alone.push(purges(Arc::clone(world), region, each).await);
    }
    let begin = |region: usize| tokio::spawn(purges(Arc::clone(world), region, time / 2));
    let tasks: Vec<_> = (0..regions).map(begin).collect();
    let mut together = Vec::new();
    for task in tasks {
        together.push(task.await.unwrap());
    }
    Latencies { alone, together }
}

async fn purges(world: Arc<World>, region: usize, time: Duration) -> Vec<Duration> {
    let node = world.shape.nodes_of(region).start;
    let paths: Vec<String> = world.clients.resources.iter().map(|resource| resource.path.clone()).collect();
    let mut latencies = Vec::new();
    let mut end = None;
    for path in paths.into_iter().cycle() {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        world.origin.change(&path);
        let begun = Instant::now();
        let is_complete = client::purge(&world.clients, node, Scope::Url(path), None, false, None).await;
        match end {
            // The first one waits until it is certain who else follows a log that has just begun.
            None => end = Some(Instant::now() + time),
            Some(_) if is_complete => latencies.push(begun.elapsed()),
            Some(_) => {}
        }
    }
    latencies
}

/// Prints the distributions beside what they are compared with. That isn't a test: it says as much of the machine as of
/// holm.
pub(super) fn report(latencies: &Latencies) {
    for (how, by_region) in [("one at a time", &latencies.alone), ("three at a time", &latencies.together)] {
        for (region, (latencies, round_trip)) in by_region.iter().zip(ROUND_TRIPS_MS).enumerate() {
            let (count, bound) = (latencies.len(), bound_ms(round_trip));
            let verdict = verdict(latencies, bound + ALLOWED_MS);
            println!(
                "regions: {count:>8} purges of the world without a fault, {how}, from r{region}: {}, {verdict} p + s + \
                 {ALLOWED_MS} ms = {round_trip} + {} + {ALLOWED_MS} = {} ms",
                summary(latencies),
                bound - round_trip,
                bound + ALLOWED_MS
            );
        }
        let all = by_region.concat();
        let limit = slowest_ms() + ALLOWED_MS;
        println!(
            "regions: {:>8} of them in all: {}, {} the slowest round trip + {ALLOWED_MS} ms = {limit} ms, less than \
             p + s from the slowest",
            all.len(),
            summary(&all),
            verdict(&all, limit)
        );
    }
}

fn slowest_ms() -> u64 {
    ROUND_TRIPS_MS.iter().max().copied().unwrap_or_default()
}

/// What no purge that waits for all nodes is faster than, `p + s` (docs/REGIONS.md): the round trip to etcd of the node that
/// purges, and that of the farthest one. What is allowed beyond is for two commits of etcd, one of a node's disk, and the
/// machine.
fn bound_ms(round_trip_ms: u64) -> u64 {
    round_trip_ms + slowest_ms()
}

fn verdict(latencies: &[Duration], limit_ms: u64) -> &'static str {
    let is_within = quantile(latencies, 99).is_some_and(|p99| p99 <= Duration::from_millis(limit_ms));
    if is_within { "within" } else { "beyond" }
}

fn summary(latencies: &[Duration]) -> String {
    let quantile = |percent| quantile(latencies, percent).unwrap_or_default().as_millis();
    format!("p50 {} ms, p99 {} ms", quantile(50), quantile(99))
}

fn quantile(latencies: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied()
}

#[test]
fn a_purge_is_compared_with_two_round_trips_and_what_is_allowed_beyond() {
    assert_eq!(ROUND_TRIPS_MS.map(bound_ms), [44, 60, 80]);
    let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
    assert_eq!([98, 99].map(|limit| verdict(&values, limit)), ["beyond", "within"]);
    assert_eq!(verdict(&[], 99), "beyond", "that proves nothing");
}

#[test]
fn a_quantile_is_one_of_the_values() {
    let values: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
    assert_eq!(
        [50, 99, 100].map(|percent| quantile(&values, percent)),
        [100, 198, 200].map(|ms| Some(Duration::from_millis(ms)))
    );
    assert_eq!(quantile(&values[..1], 99), Some(Duration::from_millis(200)));
    assert_eq!(quantile(&[], 99), None);
}
