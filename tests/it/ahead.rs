//! Refreshing ahead of expiry: what is asked for often is fetched anew before it is stale.

use std::time::Duration;

use crate::harness::{
    eventually, found,
    node::{Node, NodeHandle},
    origin::{Gate, Origin, Reply},
};

/// How long the origin takes for what is then fresh for [`FRESH`] seconds: a fetch's time is a tenth of that, so that
/// somebody who asks all the time refreshes it long before its end.
const COST: Duration = Duration::from_millis(400);
const FRESH: u64 = 4;

/// Asks once; the response is a hit on what is fresh.
async fn ask(node: &NodeHandle) -> i64 {
    let response = node.fetch("/hot").await;
    let cache = response.cache();
    assert!(response.is_hit() && !cache.has("fwd") && cache.get("detail") == "memory", "{cache:?}");
    assert!(cache.ttl() >= 0, "it is never stale: {cache:?}");
    cache.ttl()
}

/// Asks until the origin is asked a second time, and then a while longer.
async fn ask_until_refreshed(node: &NodeHandle, origin: &Origin) {
    found("a refresh", async || {
        ask(node).await;
        (origin.hits("/hot") == 2).then_some(())
    })
    .await;
    for _ in 0..20 {
        ask(node).await;
    }
    assert_eq!(origin.hits("/hot"), 2, "one fetch, whatever becomes of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_often_is_refreshed_once_before_it_is_stale() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/hot", move |seen| match seen.header("if-none-match") {
        "\"1\"" => Reply::status(304).header("cache-control", "max-age=600").header("etag", "\"1\"").behind(&held),
        _ => Reply::fresh(FRESH, "hot").header("etag", "\"1\"").after(COST),
    });
    let node = Node::builder().origin(&origin.url()).route("refresh_ahead = true").start().await;
    node.fetch("/hot").await;
    node.hit("/hot").await;
    ask_until_refreshed(&node, &origin).await;
    gate.open();
    found("its new life", async || (ask(&node).await > 60).then_some(())).await;
    assert_eq!(origin.hits("/hot"), 2);
    assert_eq!(node.metric("holm_cache_refreshed_ahead_total", "").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_brings_nothing_leaves_what_is_fresh() {
    let origin = Origin::start().await;
    origin.on("/hot", move |seen| match seen.header("if-none-match") {
        "\"1\"" => Reply::status(404).header("cache-control", "no-store"),
        _ => Reply::fresh(FRESH, "hot").header("etag", "\"1\"").after(COST),
    });
    let node = Node::builder().origin(&origin.url()).route("refresh_ahead = true").start().await;
    node.fetch("/hot").await;
    node.hit("/hot").await;
    ask_until_refreshed(&node, &origin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_route_does_not_say_so_nothing_is_fetched_before_it_is_stale() {
    let origin = Origin::start().await;
    origin.on("/hot", |_| Reply::fresh(FRESH, "hot").after(COST));
    let node = Node::builder().origin(&origin.url()).start().await;
    node.fetch("/hot").await;
    node.hit("/hot").await;
    found("its end", async || {
        let is_hit = node.fetch("/hot").await.is_hit();
        assert_eq!(origin.hits("/hot"), if is_hit { 1 } else { 2 });
        (!is_hit).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_else_may_be_fetched_what_is_fresh_is_served_all_the_same() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/hot", |_| Reply::fresh(FRESH, "hot").after(COST));
    origin.on("/slow", move |_| Reply::ok("slow").behind(&held));
    let node = Node::builder().origin(&origin.url()).route("refresh_ahead = true\nrequests_max = 1").start().await;
    node.fetch("/hot").await;
    node.hit("/hot").await;
    let slow = tokio::spawn(node.get("/slow").send());
    eventually("the route's only place being taken", async || origin.hits("/slow") == 1).await;
    found("the last second of its life", async || (ask(&node).await == 0).then_some(())).await;
    assert_eq!(origin.hits("/hot"), 1);
    gate.open();
    assert_eq!(slow.await.unwrap().text(), "slow");
}
