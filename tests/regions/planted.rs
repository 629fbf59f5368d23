//! Whether a run would notice: bugs that are planted in nodes of two regions are found, and nothing is without them.

use std::time::Duration;

use holm::planted::Plant;
use tokio::time::{Instant, sleep};

use super::{
    etcd,
    faults::{Fault, Links},
    topology::{Shape, World},
};
use crate::{
    SLACK,
    catalogue::Sort,
    checker::{self, Rule},
    client::{self, Client, Wish},
    folder_of,
    history::Scope,
    meta, node,
    proxy::Mode,
};

const SEED: u64 = 11;
const SHAPE: Shape = Shape { regions: 2, nodes: 1, members: 1 };
/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Purges, through the first region, what the other one has stored while it is cut off from etcd, or not. Returns the
/// rules that its node breaks then.
async fn broken(name: &str, plant: Option<Plant>, is_cut_off: bool) -> Vec<Rule> {
    let said = folder_of("regions").join("planted").join(name);
    let world = World::start(SHAPE, SEED, &said, plant).await;
    let lasts = |resource: &&crate::catalogue::Resource| {
        resource.sort == Sort::Plain && resource.ttl_s == 600 && !resource.may_be_stale() && resource.length < 1 << 20
    };
    let path = world.clients.resources.iter().find(lasts).unwrap().path.clone();
    let mut far = Client::new(&world.clients, 0, 1, SEED);
    meta::stored(&mut far, &path, "").await;
    if is_cut_off {
        world.begin(Fault::Links(Links::Region(1), Mode::Cut)).await;
    }
    world.origin.change(&path);
    let end = Instant::now() + PATIENCE;
    while !client::purge(&world.clients, 0, Scope::Url(path.clone()), None, false, None).await {
        assert!(Instant::now() < end, "{name}: no purge is complete");
        sleep(Duration::from_millis(50)).await;
    }
    far.get(&path, "", Wish::Any).await;
    let violations = checker::check(&world.finish().await, SLACK);
    violations.iter().map(|violation| violation.rule).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build can have bugs planted")]
async fn a_purge_that_another_region_ignores_is_found() {
    if !etcd::is_wanted() {
        return;
    }
    let table = [
        ("in-step", None, false, vec![]),
        ("cut-off", None, true, vec![]),
        ("purge-ignored", Some(Plant::PurgeIgnored), false, vec![Rule::Purged]),
        ("fence-ignored", Some(Plant::FenceIgnored), true, vec![Rule::Purged]),
    ];
    for (name, plant, is_cut_off, wanted) in table {
        assert_eq!(broken(name, plant, is_cut_off).await, wanted, "{name}");
    }
}

/// Else the faults of clocks would be none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_clock_is_where_it_is_set() {
    if !etcd::is_wanted() || !node::can_set_clocks() {
        return;
    }
    let said = folder_of("regions").join("planted").join("clock");
    let world = World::start(Shape { regions: 1, nodes: 1, members: 1 }, SEED, &said, None).await;
    let admin = world.clients.places.get(0).unwrap().admin;
    // Ahead only: the HTTP library sends the date that it has until the clock is past it.
    world.set_clock(0, 7_200);
    let wanted = holm::clock::now().seconds() + 7_200;
    let end = Instant::now() + PATIENCE;
    while client::clock(admin).await.is_none_or(|seconds| seconds.abs_diff(wanted) > 60) {
        assert!(Instant::now() < end, "the clock isn't two hours ahead");
        sleep(Duration::from_millis(50)).await;
    }
}
