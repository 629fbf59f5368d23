//! How long purges of the world take while nothing fails.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::topology::{ROUND_TRIPS_MS, World};
use crate::{client, history::Scope};

/// What issue 14 allows beyond the slowest round trip, in milliseconds.
const ALLOWED_MS: u64 = 20;

/// Purges through the first node of each region at once, for this time. Returns what those took that were complete, by
/// region.
pub(super) async fn measure(world: &Arc<World>, time: Duration) -> Vec<Vec<Duration>> {
    let begin = |region: usize| tokio::spawn(purges(Arc::clone(world), region, time));
    let tasks: Vec<_> = (0..world.redis.len()).map(begin).collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.push(task.await.unwrap());
    }
    latencies
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

/// Prints the distribution beside what is wanted of it. That isn't a test: it says as much of the machine as of holm.
pub(super) fn report(latencies: &[Vec<Duration>]) {
    for (region, (latencies, round_trip)) in latencies.iter().zip(ROUND_TRIPS_MS).enumerate() {
        let from = format!("from r{region}, {round_trip} ms from etcd");
        println!("regions: {:>8} purges of the world without a fault {from}: {}", latencies.len(), summary(latencies));
    }
    let all = latencies.concat();
    let limit = ROUND_TRIPS_MS.iter().max().copied().unwrap_or_default() + ALLOWED_MS;
    let is_within = quantile(&all, 99).is_some_and(|p99| p99 <= Duration::from_millis(limit));
    let verdict = if is_within { "within" } else { "beyond" };
    println!(
        "regions: {:>8} of them in all: {}, {verdict} the slowest round trip + 20 ms = {limit} ms",
        all.len(),
        summary(&all)
    );
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
fn a_quantile_is_one_of_the_values() {
    let values: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
    assert_eq!(
        [50, 99, 100].map(|percent| quantile(&values, percent)),
        [100, 198, 200].map(|ms| Some(Duration::from_millis(ms)))
    );
    assert_eq!(quantile(&values[..1], 99), Some(Duration::from_millis(200)));
    assert_eq!(quantile(&[], 99), None);
}
