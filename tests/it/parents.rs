//! Nodes that ask another node before the origin.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{task::JoinSet, time::sleep};

use crate::harness::{
    eventually, free_address,
    node::{Builder, Node, NodeHandle},
    origin::{Gate, Origin, Reply},
    quoted,
};

/// A node that others may ask as their parent.
fn parent(origin: &Origin) -> Builder {
    Node::builder().name("parent").origin(&origin.url()).set("limits", "forwarding_proxies = [\"127.0.0.0/8\"]")
}

/// Has a node ask `parent` first.
fn below(node: Builder, parent: &str) -> Builder {
    node.set("pool.shield", &format!("endpoints = [{}]", quoted(parent))).route("parents = \"shield\"")
}

/// A node that asks `parent` first and doesn't share its purges.
fn child(origin: &Origin, parent: &str) -> Builder {
    below(Node::builder().name("child").origin(&origin.url()), parent)
}

/// Waits until nodes that have just started know what was purged at them for longer than a parent's `Age` may be off.
async fn remembered() {
    sleep(Duration::from_secs(4)).await;
}

/// A node that asks `parent` first; what is purged here has been purged there.
fn sharing(origin: &Origin, parent: &str) -> Builder {
    child(origin, parent).route("parents_share_purges = true")
}

fn url(node: &NodeHandle) -> String {
    format!("http://{}", node.address)
}

async fn asked(node: &NodeHandle, outcome: &str) -> f64 {
    node.metric("holm_parent_requests_total", &format!("outcome=\"{outcome}\"")).await
}

/// Responds with the number of the request, fresh for a while.
fn numbered(origin: &Origin, path: &str) {
    let count = Arc::new(AtomicUsize::new(0));
    origin.on(path, move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        Reply::fresh(600, number.to_string()).header("surrogate-key", "numbers")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_missing_key_everywhere_is_one_fetch_at_the_origin() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/a", move |_| Reply::fresh(600, "a").behind(&held));
    let parent = parent(&origin).start().await;
    let (one, two) = (sharing(&origin, &url(&parent)).start().await, sharing(&origin, &url(&parent)).start().await);
    remembered().await;
    let mut asking = JoinSet::new();
    for node in [&one, &two, &one, &two] {
        asking.spawn(node.get("/a").header("x-holm-child", "spoofed").send());
    }
    for node in [&parent, &parent] {
        asking.spawn(node.get("/a").send());
    }
    eventually("the fetch", async || origin.hits("/a") == 1).await;
    // Those of the parent's own clients, and one of each child.
    eventually("all requests", async || parent.metric("holm_http_requests_total", "").await >= 4.0).await;
    gate.open();
    while let Some(response) = asking.join_next().await {
        let response = response.unwrap();
        assert!(response.status == 200 && response.text() == "a", "{response:?}");
        assert_eq!(response.header("x-holm-parent"), "");
    }
    assert_eq!(origin.hits("/a"), 1);
    assert_eq!(origin.seen("/a")[0].header("x-holm-child"), "");
    assert_eq!((asked(&one, "used").await, asked(&two, "used").await), (1.0, 1.0));
    assert_eq!(one.hit("/a").await.text(), "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_parent_that_responds_the_origin_is_asked_once() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    // Nobody is there; it isn't a node; it fails.
    let (stranger, failing) = (Origin::start().await, Origin::start().await);
    stranger.on("*", |_| Reply::fresh(600, "not the origin's").header("x-holm-parent", "0123456789abcdef"));
    failing.on("*", |_| Reply::status(503));
    for (parent, outcome) in
        [(format!("http://{}", free_address()), "failed"), (stranger.url(), "refused"), (failing.url(), "refused")]
    {
        let (node, target) = (child(&origin, &parent).start().await, format!("/{outcome}?{parent}"));
        let response = node.fetch(&target).await;
        assert!(response.status == 200 && response.text() == target, "{response:?}");
        assert_eq!((origin.hits(&target), asked(&node, outcome).await), (1, 1.0), "{parent}");
        assert_eq!(node.hit(&target).await.text(), target);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parents_own_failure_or_another_route_leads_to_the_origin() {
    let (origin, gone) = (Origin::start().await, free_address());
    origin.on("*", |_| Reply::fresh(600, "from the origin"));
    let cut_off = parent(&origin).set("pool.gone", &format!("endpoints = [\"http://{gone}\"]"));
    let cut_off = cut_off.route_before("name = \"far\"\npath = \"/far\"\npool = \"gone\"").start().await;
    let edits = parent(&origin).route("request_headers = { set = { x-edge = \"1\" } }").start().await;
    let far = "name = \"far\"\npath = \"/far\"\npool = \"web\"\nparents = \"shield\"";
    for (parent, target) in [(&cut_off, "/far"), (&edits, "/edited")] {
        let node = child(&origin, &url(parent)).route_before(far).start().await;
        let response = node.fetch(target).await;
        assert!(response.status == 200 && response.text() == "from the origin", "{response:?}");
        assert_eq!((origin.hits(target), asked(&node, "refused").await), (1, 1.0), "{target}");
    }
    // A response that the parent's origin gave is the response, whatever it says.
    origin.on("/missing", |_| Reply::says(404, "gone for good").header("cache-control", "max-age=600"));
    let whole = parent(&origin).start().await;
    let node = child(&origin, &url(&whole)).start().await;
    let response = node.fetch("/missing").await;
    assert_eq!((response.status, response.text()), (404, "gone for good"));
    assert_eq!((origin.hits("/missing"), asked(&node, "used").await), (1, 1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_each_others_parents_neither_go_round_nor_wait_for_each_other() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/both", move |_| Reply::fresh(600, "both").behind(&held));
    origin.on("/one", |_| Reply::fresh(600, "one"));
    let one = parent(&origin).start().await;
    let two = below(parent(&origin).name("two"), &url(&one)).start().await;
    one.adopt(&below(parent(&origin), &url(&two))).await.unwrap();
    let response = one.fetch("/one").await;
    assert!(response.status == 200 && response.text() == "one", "{response:?}");
    assert_eq!((origin.hits("/one"), asked(&one, "used").await), (1, 1.0));
    let mut asking = JoinSet::new();
    for node in [&one, &two] {
        asking.spawn(node.get("/both").send());
    }
    // Each leads a fetch for its own client, and one for the other.
    eventually("both fetches", async || origin.hits("/both") == 2).await;
    gate.open();
    while let Some(response) = asking.join_next().await {
        assert_eq!(response.unwrap().text(), "both");
    }
    // And one that is its own parent knows its mark.
    let alone = parent(&origin).name("alone").start().await;
    alone.adopt(&below(parent(&origin).name("alone"), &url(&alone))).await.unwrap();
    origin.on("/alone", |_| Reply::fresh(600, "alone"));
    let response = alone.fetch("/alone").await;
    assert!(response.status == 200 && response.text() == "alone", "{response:?}");
    assert_eq!((origin.hits("/alone"), asked(&alone, "refused").await), (1, 1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn age_validators_and_the_statuses_of_both_caches_come_through() {
    let origin = Origin::start().await;
    origin.on("/old", |_| Reply::fresh(600, "0123456789").header("age", "1").header("etag", "\"1\""));
    origin.on("/range", |_| Reply::fresh(600, "0123456789").header("etag", "\"2\""));
    origin.on("/brief", |seen| match seen.header("if-none-match") {
        "\"3\"" => Reply::status(304).header("cache-control", "max-age=600").header("etag", "\"3\""),
        _ => Reply::fresh(1, "brief").header("etag", "\"3\""),
    });
    let parent = parent(&origin).start().await;
    let node = sharing(&origin, &url(&parent)).start().await;
    remembered().await;
    parent.fetch("/old").await;
    parent.hit("/old").await;
    let response = node.fetch("/old").await;
    let age: u64 = response.header("age").parse().unwrap();
    assert!((1..60).contains(&age), "{response:?}");
    let statuses: Vec<&str> =
        response.headers.get_all("cache-status").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(statuses.len() == 2 && statuses[0].starts_with("parent; hit"), "{statuses:?}");
    assert!(statuses[1].starts_with("child; fwd=uri-miss; fwd-status=200"), "{statuses:?}");
    let hit = node.hit("/old").await;
    assert!(hit.header("age").parse::<u64>().unwrap() >= age && hit.cache().ttl() <= 599, "{hit:?}");
    // A client's condition and its range are the node's own matter: the whole is stored.
    let response = node.get("/old").header("if-none-match", "\"1\"").send().await;
    assert_eq!(response.status, 304);
    for (range, wanted) in [("bytes=2-4", "234"), ("bytes=7-", "789")] {
        let response = node.get("/range").header("range", range).send().await;
        assert_eq!((response.status, response.text()), (206, wanted));
    }
    assert_eq!((origin.hits("/old"), origin.hits("/range")), (1, 1));
    // What is stale here is renewed by the parent.
    node.fetch("/brief").await;
    remembered().await;
    let response = node.fetch("/brief").await;
    assert_eq!((response.status, response.text()), (200, "brief"));
    let cache = response.cache();
    assert!(cache.get("fwd") == "stale" && cache.get("fwd-status") == "304", "{cache:?}");
    assert_eq!(origin.hits("/brief"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_purged_here_alone_isnt_brought_back_by_a_parent() {
    // Whether or not the parent applies what is purged in the world: it hears of none of these.
    for below in [child, sharing] {
        nothing_is_brought_back(below).await;
    }
}

async fn nothing_is_brought_back(below: fn(&Origin, &str) -> Builder) {
    let origin = Origin::start().await;
    for path in ["/url", "/tag", "/soft", "/pattern"] {
        numbered(&origin, path);
    }
    let parent = parent(&origin).start().await;
    let node = below(&origin, &url(&parent)).start().await;
    for path in ["/url", "/soft", "/pattern"] {
        assert_eq!(node.fetch(path).await.text(), "1");
        assert_eq!(parent.hit(path).await.text(), "1");
        node.hit(path).await;
    }
    // What the node has never stored has tags as well.
    parent.fetch("/tag").await;
    parent.hit("/tag").await;
    node.purge_url("/url", false).await;
    assert_eq!(node.fetch("/url").await.text(), "2", "the parent still has the first");
    node.purge_url("/soft", true).await;
    assert_eq!(node.fetch("/soft").await.text(), "2");
    node.purge(&json!({"pattern": crate::harness::node::url("/pat*")})).await;
    assert_eq!(node.fetch("/pattern").await.text(), "2");
    node.purge(&json!({"tag": "numbers"})).await;
    assert_eq!(node.fetch("/tag").await.text(), "2");
    assert_eq!(asked(&node, "outdated").await, 4.0);
    for path in ["/url", "/tag", "/soft", "/pattern"] {
        assert_eq!(parent.hit(path).await.text(), "1", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_something_newer_goes_to_the_origin() {
    let origin = Origin::start().await;
    numbered(&origin, "/n");
    let parent = parent(&origin).start().await;
    let node = sharing(&origin, &url(&parent)).start().await;
    assert_eq!(node.fetch("/n").await.text(), "1");
    node.hit("/n").await;
    let response = node.get("/n").header("cache-control", "no-cache").send().await;
    assert_eq!(response.text(), "2");
    assert_eq!(parent.hit("/n").await.text(), "1");
    assert_eq!(node.metric("holm_parent_requests_total", "").await, 1.0, "by the first alone");
}
