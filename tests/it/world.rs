//! Purges of one node, of a region and of the world: two regions of two nodes, each with a Redis of its own, and one etcd.

use serde_json::json;

use crate::harness::{
    LIMIT,
    etcd::{Etcd, is_there},
    eventually,
    load::sealed_origin,
    node::{Builder, Node, NodeHandle, url},
    origin::{Origin, Reply},
    process::{Process, run},
    quoted,
    redis::Redis,
};

/// Of both logs.
const FENCE_MS: u64 = 700;

/// Makes nodes of one region.
struct Region<'a> {
    name: &'a str,
    redis: Redis,
    etcd: &'a Etcd,
    fence_ms: u64,
}

impl<'a> Region<'a> {
    async fn start(name: &'a str, etcd: &'a Etcd) -> Self {
        Self { name, redis: Redis::start().await, etcd, fence_ms: FENCE_MS }
    }

    fn node(&self, origin: &Origin, name: &str) -> Builder {
        let fence_ms = self.fence_ms;
        let builder = Node::builder().origin(&origin.url()).redis(&self.redis).fence(FENCE_MS).name(name);
        builder
            .set("region", &format!("name = {}", quoted(self.name)))
            .set("global", &format!("etcd = [{}]\ntimeout_ms = 500", quoted(&self.etcd.url())))
            .set("global.purge", &format!("fence_ms = {fence_ms}\nack_ms = 10_000"))
    }
}

/// Fetches it, and waits until it is a hit.
async fn fill(node: &NodeHandle, target: &str) {
    node.fetch(target).await;
    node.hit(target).await;
}

async fn version(node: &NodeHandle, target: &str) -> String {
    node.fetch(target).await.header("x-version").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_of_the_world_is_complete_on_all_nodes_and_names_them() {
    if !is_there() {
        return;
    }
    let (origin, etcd) = (Origin::start().await, Etcd::start().await);
    sealed_origin(&origin, "v1", 500);
    let (eu, us) = (Region::start("eu", &etcd).await, Region::start("us", &etcd).await);
    let mut nodes = Vec::new();
    for region in [&eu, &us] {
        for name in ["n1", "n2"] {
            nodes.push(region.node(&origin, name).start().await);
        }
    }
    for node in &nodes {
        fill(node, "/x").await;
    }
    for region in [&eu, &us] {
        eventually("its value in Redis", async || !region.redis.values().await.is_empty()).await;
    }
    sealed_origin(&origin, "v2", 500);
    let receipt = nodes[0].purge_url("/x", false).await;
    assert_eq!((&receipt["complete"], &receipt["scope"]), (&json!(true), &json!("world")), "{receipt}");
    assert_eq!(receipt["applied"], json!(["eu/n1", "eu/n2", "us/n1", "us/n2"]), "{receipt}");
    assert_eq!(receipt["regions"], json!({"eu": true, "us": true}), "{receipt}");
    for node in &nodes {
        assert_eq!(version(node, "/x").await, "v2", "neither from memory nor from Redis");
    }
    assert!(nodes[3].hit("/x").await.is_hit(), "what was fetched since is good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_of_a_region_leaves_what_the_others_have() {
    if !is_there() {
        return;
    }
    let (origin, etcd) = (Origin::start().await, Etcd::start().await);
    sealed_origin(&origin, "v1", 500);
    let (eu, us) = (Region::start("eu", &etcd).await, Region::start("us", &etcd).await);
    let (one, two) = (eu.node(&origin, "n1").start().await, eu.node(&origin, "n2").start().await);
    let far = us.node(&origin, "n1").start().await;
    for node in [&one, &two, &far] {
        fill(node, "/x").await;
    }
    sealed_origin(&origin, "v2", 500);
    let receipt = one.purge(&json!({"url": url("/x"), "scope": "region"})).await;
    assert_eq!((&receipt["scope"], &receipt["applied"]), (&json!("region"), &json!(["n1", "n2"])), "{receipt}");
    assert_eq!(receipt.get("regions"), None);
    assert_eq!((version(&one, "/x").await, version(&two, "/x").await), ("v2".to_owned(), "v2".to_owned()));
    let hit = far.fetch("/x").await;
    assert!(hit.is_hit() && hit.header("x-version") == "v1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_of_the_world_waits_for_the_fence_of_a_node_that_stands_still() {
    if !is_there() {
        return;
    }
    let (origin, etcd) = (Origin::start().await, Etcd::start().await);
    sealed_origin(&origin, "v1", 500);
    let (eu, us) = (Region::start("eu", &etcd).await, Region::start("us", &etcd).await);
    let one = eu.node(&origin, "n1").start().await;
    let far: Process = us.node(&origin, "n2").spawn().await;
    fill(&far, "/x").await;
    sealed_origin(&origin, "v2", 500);
    far.signal("STOP");
    let receipt = one.purge_url("/x", false).await;
    far.signal("CONT");
    assert_eq!((&receipt["applied"], &receipt["expired"]), (&json!(["eu/n1"]), &json!(["us/n2"])), "{receipt}");
    assert_eq!(receipt["regions"], json!({"eu": true, "us": true}), "{receipt}");
    assert_eq!(version(&far, "/x").await, "v2");
}

/// What it says by itself breaks off then, and begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purges_of_the_world_go_on_after_etcd_was_started_again() {
    if !is_there() {
        return;
    }
    let (origin, etcd) = (Origin::start().await, Etcd::start().await);
    sealed_origin(&origin, "v0", 500);
    let (eu, us) = (Region::start("eu", &etcd).await, Region::start("us", &etcd).await);
    let nodes = [eu.node(&origin, "n1").start().await, us.node(&origin, "n1").start().await];
    for (life, new) in ["v1", "v2", "v3"].into_iter().enumerate() {
        for node in &nodes {
            fill(node, "/x").await;
        }
        sealed_origin(&origin, new, 500);
        let receipt = nodes[life % 2].purge_url("/x", false).await;
        assert_eq!(receipt["applied"], json!(["eu/n1", "us/n1"]), "{receipt}");
        for node in &nodes {
            assert_eq!(version(node, "/x").await, new);
        }
        etcd.kill();
        etcd.start_again().await;
        for node in &nodes {
            eventually("step", async || node.metric("holm_cache_purge_world_in_step", "").await > 0.5).await;
            eventually("a purge", async || node.try_purge(&json!({"tag": "none"})).await.status == 200).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_etcd_the_world_is_not_purged_and_a_region_is() {
    if !is_there() {
        return;
    }
    let (origin, etcd) = (Origin::start().await, Etcd::start().await);
    origin.on("*", |seen| match seen.header("if-none-match") {
        "\"1\"" => Reply::status(304).header("cache-control", "max-age=600"),
        _ => Reply::fresh(600, "x").header("etag", "\"1\""),
    });
    let eu = Region { fence_ms: 5_000, ..Region::start("eu", &etcd).await };
    let node = eu.node(&origin, "n1").start().await;
    for target in ["/x", "/y"] {
        fill(&node, target).await;
    }
    etcd.kill();
    assert!(node.fetch("/x").await.is_hit(), "within the fence");
    let refused = node.try_purge(&json!({"url": url("/x")})).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    let receipt = node.purge(&json!({"url": url("/y"), "scope": "region"})).await;
    assert_eq!((&receipt["complete"], &receipt["applied"]), (&json!(true), &json!(["n1"])), "{receipt}");
    assert!(node.cached("/y").await.is_none());
    let in_step = async || node.metric("holm_cache_purge_world_in_step", "").await;
    eventually("the fence's end", async || in_step().await < 0.5).await;
    // Not for what was fetched less than a fence ago.
    eventually("the origin being asked", async || {
        let confirmed = node.fetch("/x").await;
        assert_eq!(confirmed.text(), "x");
        confirmed.cache().get("fwd") == "stale"
    })
    .await;
    assert_eq!(node.admin("/readyz").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_serves_on_without_etcd_says_so() {
    if !is_there() {
        return;
    }
    let (origin, etcd) = (Origin::start().await, Etcd::start().await);
    sealed_origin(&origin, "v1", 500);
    let eu = Region::start("eu", &etcd).await;
    let node = eu.node(&origin, "n1").set("global.purge", "cut_off = \"serve\"").start().await;
    fill(&node, "/x").await;
    assert_eq!(node.fetch("/x").await.cache().get("detail"), "memory");
    etcd.kill();
    eventually("the fence's end", async || node.fetch("/x").await.cache().get("detail") == "cut-off").await;
    assert!(node.fetch("/x").await.is_hit());
}

/// Its own disk keeps it, and neither the region's Redis nor a restart brings back what it took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_of_one_node_outlives_its_process_and_leaves_the_others() {
    let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).redis(&redis).fence(FENCE_MS);
    let two = builder.clone().name("n2").start().await;
    let builder = builder.disk(dir.path());
    let one = builder.start().await;
    for node in [&one, &two] {
        fill(node, "/x").await;
    }
    eventually("its value in Redis", async || !redis.values().await.is_empty()).await;
    let receipt = one.purge(&json!({"url": url("/x"), "scope": "node"})).await;
    assert_eq!((&receipt["scope"], &receipt["applied"]), (&json!("node"), &json!(["n1"])), "{receipt}");
    assert!(one.cached("/x").await.is_none() && two.fetch("/x").await.is_hit());
    one.stop().await;
    sealed_origin(&origin, "v2", 500);
    let one = builder.start().await;
    assert_eq!(version(&one, "/x").await, "v2");
    assert!(one.hit("/x").await.is_hit(), "what was fetched since is good");
    let refused = two.try_purge(&json!({"url": url("/x"), "scope": "node"})).await;
    assert_eq!(refused.status, 400, "it has no disk: {}", refused.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_that_is_not_configured_is_refused_with_those_that_are() {
    let origin = Origin::start().await;
    let node = Node::builder().origin(&origin.url()).start().await;
    for scope in ["region", "world"] {
        let refused = node.try_purge(&json!({"tag": "a", "scope": scope})).await;
        assert_eq!(refused.status, 400, "{scope}");
        assert!(refused.text().contains("allowed is node"), "{}", refused.text());
    }
    let admin = node.admin.to_string();
    for (scope, code) in [("world", Some(1)), ("node", Some(0)), ("galaxy", Some(2))] {
        let said = run(&["purge", "--admin", admin.as_str(), "--tag", "a", "--scope", scope], LIMIT).await;
        assert_eq!(said.status.code(), code, "{scope}: {said:?}");
    }
}
