//! Nodes of other regions that are told what is stored here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;
use serde_json::json;
use tokio::time::sleep;

use crate::harness::{
    etcd::{Etcd, is_there},
    eventually, found, free_address,
    node::{Builder, Node, NodeHandle},
    origin::{Gate, Origin, Reply},
    quoted,
    redis::Redis,
};

/// The field that makes a request an announcement.
const FIELD: &str = "x-holm-replicate";

/// A node that takes what nodes of this machine announce.
fn node(origin: &Origin, name: &str) -> Builder {
    Node::builder().name(name).origin(&origin.url()).set("limits", "forwarding_proxies = [\"127.0.0.0/8\"]")
}

/// Has a node announce what is hot, and what is below `/assets`, to the nodes of this pool.
fn announcing(node: Builder, pool: &str) -> Builder {
    node.route(&format!("replicate = {{ tags = [\"hot\"], prefixes = [\"/assets\"], to = [{}] }}", quoted(pool)))
}

/// The same, to the nodes at `far`.
fn telling(node: Builder, far: &str) -> Builder {
    announcing(node.set("pool.far", &format!("endpoints = [{}]", quoted(far))), "far")
}

/// Has a node ask `parent` before the origin.
fn below(node: Builder, parent: &str) -> Builder {
    node.set("pool.shield", &format!("endpoints = [{}]", quoted(parent))).route("parents = \"shield\"")
}

fn url(node: &NodeHandle) -> String {
    format!("http://{}", node.address)
}

async fn sent(node: &NodeHandle, outcome: &str) -> f64 {
    node.metric("holm_replications_sent_total", &format!("outcome=\"{outcome}\"")).await
}

async fn received(node: &NodeHandle, outcome: &str) -> f64 {
    node.metric("holm_replications_received_total", &format!("outcome=\"{outcome}\"")).await
}

/// Whose announcements are counted: those that a node sent, or those that it received.
enum Count<'n> {
    Sent(&'n NodeHandle),
    Received(&'n NodeHandle),
}

use Count::{Received, Sent};

/// Waits until so many announcements have met with this outcome.
async fn counted(of: Count<'_>, outcome: &str, count: f64) {
    eventually(outcome, async || match &of {
        Sent(node) => sent(node, outcome).await >= count,
        Received(node) => received(node, outcome).await >= count,
    })
    .await;
}

/// Responds with the number of the request for the path, hot and fresh for a while.
fn numbered(origin: &Origin, path: &str) {
    let count = Arc::new(AtomicUsize::new(0));
    origin.on(path, move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        Reply::fresh(600, number.to_string()).header("surrogate-key", "hot")
    });
}

/// Returns what was announced of `target` to a server that is none of these nodes.
async fn announcement(catcher: &Origin, target: &str) -> String {
    let seen = found("the announcement", async || catcher.seen(target).pop()).await;
    assert_eq!(seen.method, Method::HEAD);
    seen.header(FIELD).to_owned()
}

/// Announces `target` to a node, and returns the status of its response.
async fn announce(node: &NodeHandle, target: &str, said: &str) -> u16 {
    node.ask(Method::HEAD, target).header(FIELD, said).send().await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_chosen_is_a_hit_in_the_other_region_and_nothing_goes_round() {
    let origin = Origin::start().await;
    numbered(&origin, "/hot");
    origin.on("/assets/a.css", |_| Reply::fresh(600, "css"));
    origin.on("/cold", |_| Reply::fresh(600, "cold").header("surrogate-key", "cold"));
    let eu = node(&origin, "eu").start().await;
    let us = announcing(below(node(&origin, "us"), &url(&eu)), "shield").start().await;
    eu.adopt(&telling(node(&origin, "eu"), &url(&us))).await.unwrap();
    // What a parent has stored counts as of two seconds before, and then this node has to have been there.
    sleep(Duration::from_secs(4)).await;
    for (target, text) in [("/cold", "cold"), ("/hot", "1"), ("/assets/a.css", "css")] {
        assert_eq!(eu.fetch(target).await.text(), text);
    }
    for (target, text) in [("/hot", "1"), ("/assets/a.css", "css")] {
        assert_eq!(us.hit(target).await.text(), text);
        assert_eq!(origin.hits(target), 1, "{target}: the other region has it from this one");
    }
    counted(Sent(&eu), "taken", 2.0).await;
    counted(Received(&us), "fetched", 2.0).await;
    assert!(us.cached("/cold").await.is_none());
    assert_eq!(us.metric("holm_parent_requests_total", "outcome=\"used\"").await, 2.0);
    // It announces what its own clients ask for, and not what it was told of.
    assert_eq!(us.metric("holm_replications_sent_total", "").await, 0.0);
    assert_eq!(eu.metric("holm_replications_received_total", "").await, 0.0);
    numbered(&origin, "/assets/b");
    assert_eq!(us.fetch("/assets/b").await.text(), "1");
    us.hit("/assets/b").await;
    assert_eq!(origin.hits("/assets/b"), 1);
    assert_eq!(us.metric("holm_replications_sent_total", "").await, 0.0, "it came from those that would be told");
    assert_eq!(eu.metric("holm_replications_sent_total", "").await, 2.0, "it was fetched for another node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_region_fetches_the_same_variant_and_sends_nothing_of_the_client() {
    let origin = Origin::start().await;
    let public = "public, max-age=600";
    origin.on("/assets/v", move |seen| {
        Reply::ok(seen.header("accept-language").to_owned())
            .header("cache-control", public)
            .header("vary", "accept-language")
    });
    let us = node(&origin, "us").start().await;
    let eu = telling(node(&origin, "eu"), &url(&us)).start().await;
    let ask = eu.get("/assets/v").header("accept-language", "de").header("authorization", "Bearer secret");
    assert_eq!(ask.header("cookie", "session=secret").header("cache-control", "max-age=5").send().await.text(), "de");
    counted(Received(&us), "fetched", 1.0).await;
    let seen = origin.seen("/assets/v");
    assert_eq!(seen.len(), 2);
    for (name, wanted) in
        [("accept-language", "de"), ("authorization", ""), ("cookie", ""), ("cache-control", ""), (FIELD, "")]
    {
        assert_eq!(seen[1].header(name), wanted, "{name}");
    }
    let german = async || {
        let ask = us.get("/assets/v").header("accept-language", "de").header("cache-control", "only-if-cached");
        ask.send().await.text() == "de"
    };
    eventually("the variant", german).await;
    // What varies by the client's credentials is announced to nobody.
    origin.on("/assets/c", move |_| Reply::ok("mine").header("cache-control", public).header("vary", "cookie"));
    eu.get("/assets/c").header("cookie", "session=secret").send().await;
    counted(Sent(&eu), "personal", 1.0).await;
    assert_eq!(origin.hits("/assets/c"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_for_a_clients_region_is_announced_whatever_the_name_of_the_field() {
    let origin = Origin::start().await;
    origin.on("/assets/r", |seen| Reply::fresh(600, format!("for {}", seen.header("x-forwarded-country"))));
    let near = |name: &str| {
        let region = "name = \"here\"\nclient_field = \"X-Forwarded-Country\"";
        node(&origin, name).set("region", region).route("key_client_region = true")
    };
    let us = near("us").start().await;
    let eu = telling(near("eu"), &url(&us)).start().await;
    assert_eq!(eu.get("/assets/r").header("x-forwarded-country", "fr").send().await.text(), "for fr");
    counted(Received(&us), "fetched", 1.0).await;
    eventually("the response for that region", async || {
        let ask = us.get("/assets/r").header("x-forwarded-country", "fr").header("cache-control", "only-if-cached");
        ask.send().await.text() == "for fr"
    })
    .await;
    assert_eq!(origin.hits("/assets/r"), 2, "one fetch for each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_shared_is_not_stored_because_it_was_announced() {
    let origin = Origin::start().await;
    let count = Arc::new(AtomicUsize::new(0));
    origin.on("/assets/p", move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::fresh(600, "for all"),
        _ => Reply::ok("for one").header("cache-control", "private, max-age=600"),
    });
    let us = node(&origin, "us").start().await;
    let eu = telling(node(&origin, "eu"), &url(&us)).start().await;
    eu.fetch("/assets/p").await;
    counted(Received(&us), "not-stored", 1.0).await;
    assert!(us.cached("/assets/p").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announcement_brings_back_nothing_that_was_purged_before() {
    let (origin, catcher) = (Origin::start().await, Origin::start().await);
    for path in ["/hot", "/here"] {
        numbered(&origin, path);
    }
    let eu = telling(node(&origin, "eu"), &catcher.url()).start().await;
    let us = below(node(&origin, "us"), &url(&eu)).start().await;
    for path in ["/hot", "/here"] {
        assert_eq!(eu.fetch(path).await.text(), "1");
        eu.hit(path).await;
    }
    let (hot, here) = (announcement(&catcher, "/hot").await, announcement(&catcher, "/here").await);
    // Everywhere, before the announcement is there.
    for node in [&eu, &us] {
        node.purge_url("/hot", false).await;
    }
    assert_eq!(announce(&us, "/hot", &hot).await, 202);
    assert_eq!(us.hit("/hot").await.text(), "2");
    // Here alone: the node that announces it has it still.
    us.purge_url("/here", false).await;
    assert_eq!(announce(&us, "/here", &here).await, 202);
    assert_eq!(us.hit("/here").await.text(), "2");
    assert_eq!(eu.hit("/here").await.text(), "1");
}

/// The node of a region with a Redis of its own, which follows the world's log.
fn regional(origin: &Origin, etcd: &Etcd, redis: &Redis, name: &str) -> Builder {
    node(origin, name)
        .redis(redis)
        .set("region", &format!("name = {}", quoted(name)))
        .set("global", &format!("etcd = [{}]\ntimeout_ms = 500", quoted(&etcd.url())))
        .set("global.purge", "fence_ms = 700\nack_ms = 10_000")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_of_the_world_before_the_announcement_leaves_nothing_old() {
    if !is_there() {
        return;
    }
    let (origin, catcher, etcd) = (Origin::start().await, Origin::start().await, Etcd::start().await);
    numbered(&origin, "/hot");
    let (near, far) = (Redis::start().await, Redis::start().await);
    let eu = telling(regional(&origin, &etcd, &near, "eu"), &catcher.url()).start().await;
    let us = below(regional(&origin, &etcd, &far, "us"), &url(&eu)).route("parents_share_purges = true").start().await;
    assert_eq!(eu.fetch("/hot").await.text(), "1");
    eu.hit("/hot").await;
    let said = announcement(&catcher, "/hot").await;
    let receipt = us.purge(&json!({"tag": "hot", "scope": "world"})).await;
    assert_eq!(receipt["complete"], json!(true), "{receipt}");
    assert_eq!(announce(&us, "/hot", &said).await, 202);
    counted(Received(&us), "fetched", 1.0).await;
    for node in [&us, &eu] {
        assert_ne!(node.fetch("/hot").await.text(), "1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_older_than_what_was_announced_is_refreshed() {
    let origin = Origin::start().await;
    origin.on("/hot", |_| Reply::fresh(600, "old").header("age", "100").header("surrogate-key", "hot"));
    let (catcher, us) = (Origin::start().await, node(&origin, "us").start().await);
    let eu = node(&origin, "eu")
        .set("pool.us", &format!("endpoints = [{}]", quoted(&url(&us))))
        .set("pool.catcher", &format!("endpoints = [{}]", quoted(&catcher.url())))
        .route("replicate = { tags = [\"hot\"], to = [\"us\", \"catcher\"] }")
        .start()
        .await;
    eu.fetch("/hot").await;
    assert_eq!(us.hit("/hot").await.text(), "old");
    counted(Received(&us), "fetched", 1.0).await;
    origin.on("/hot", |_| Reply::fresh(600, "new").header("surrogate-key", "hot"));
    assert_eq!(eu.get("/hot").header("cache-control", "no-cache").send().await.text(), "new");
    counted(Received(&us), "refreshed", 1.0).await;
    eventually("the newer one", async || us.hit("/hot").await.text() == "new").await;
    assert_eq!(origin.hits("/hot"), 4);
    // What isn't older stays.
    let said = announcement(&catcher, "/hot").await;
    let (terms, _) = said.split_once(';').expect("terms and an age");
    assert_eq!(announce(&us, "/hot", &format!("{terms}; age_ms=3600000")).await, 202);
    counted(Received(&us), "stored-already", 1.0).await;
    assert_eq!(origin.hits("/hot"), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_announcement_is_refused_and_so_is_one_by_other_rules() {
    let (origin, catcher) = (Origin::start().await, Origin::start().await);
    origin.on("*", |_| Reply::fresh(600, "x"));
    let eu = telling(node(&origin, "eu"), &catcher.url()).start().await;
    eu.fetch("/assets/x").await;
    let said = announcement(&catcher, "/assets/x").await;
    counted(Sent(&eu), "refused", 1.0).await;
    let distrusting = Node::builder().name("us").origin(&origin.url()).start().await;
    assert_eq!(announce(&distrusting, "/assets/y", &said).await, 403);
    assert_eq!(received(&distrusting, "stranger").await, 1.0);
    let us = node(&origin, "us").start().await;
    let edits = node(&origin, "edits").route("request_headers = { set = { x-edge = \"1\" } }").start().await;
    let none = node(&origin, "none").set("replicate", "fetch_concurrency = 0").start().await;
    for (node, value, status, outcome) in [
        (&us, "nonsense", 400, "malformed"),
        (&us, "0123456789abcdef0123456789abcdef; age_ms=0", 409, "other-terms"),
        (&edits, said.as_str(), 409, "other-terms"),
        (&none, said.as_str(), 429, "busy"),
    ] {
        assert_eq!(announce(node, "/assets/y", value).await, status, "{outcome}");
        assert_eq!(received(node, outcome).await, 1.0, "{outcome}");
    }
    assert_eq!(us.get("/assets/y").header(FIELD, &said).send().await.status, 400, "it isn't taken for a GET");
    assert_eq!(origin.total(), 1, "nothing was fetched");
    // And by the node's own mark, if it is told of its own response.
    let alone = node(&origin, "alone").start().await;
    alone.adopt(&telling(node(&origin, "alone"), &url(&alone))).await.unwrap();
    alone.fetch("/assets/own").await;
    counted(Sent(&alone), "refused", 1.0).await;
    assert_eq!((received(&alone, "own").await, origin.hits("/assets/own")), (1.0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_out_or_slow_costs_clients_nothing_and_is_counted() {
    let (origin, slow, gate) = (Origin::start().await, Origin::start().await, Gate::closed());
    origin.on("*", |_| Reply::fresh(600, "0123456789"));
    let held = gate.clone();
    slow.on("*", move |_| Reply::status(200).behind(&held));
    let eu = telling(node(&origin, "eu"), &format!("http://{}", free_address())).start().await;
    assert_eq!(eu.fetch("/assets/1").await.text(), "0123456789");
    eu.hit("/assets/1").await;
    counted(Sent(&eu), "failed", 1.0).await;
    // One is being sent, one waits, and the third is one too many.
    let rule = "concurrency = 1\nqueue_max = 1\nsend_ms_max = 60_000";
    let eu = telling(node(&origin, "eu"), &slow.url()).set("replicate", rule).start().await;
    eu.fetch("/assets/2").await;
    eventually("the first announcement", async || slow.hits("/assets/2") == 1).await;
    for target in ["/assets/3", "/assets/4"] {
        assert_eq!(eu.fetch(target).await.text(), "0123456789");
        eu.hit(target).await;
    }
    counted(Sent(&eu), "queue-full", 1.0).await;
    gate.open();
    counted(Sent(&eu), "refused", 2.0).await;
    assert_eq!((slow.total(), sent(&eu, "queue-full").await), (2, 1.0));
    // A body that is larger than may be announced.
    let rule = "object_bytes_max = 9";
    let eu = telling(node(&origin, "eu"), &slow.url()).set("replicate", rule).start().await;
    eu.fetch("/assets/5").await;
    counted(Sent(&eu), "too-large", 1.0).await;
    assert_eq!(slow.hits("/assets/5"), 0);
}
