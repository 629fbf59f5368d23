//! Purging: by URL, prefix, pattern, key and tag, hard and soft, in every tier, on every node, for ever.

use std::path::Path;

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::harness::{
    LIMIT,
    client::Ask,
    eventually, found,
    liar::crlf,
    load::sealed_origin,
    model::{ARRAY, batches, doubling},
    node::{Node, url},
    origin::{Gate, Origin, Reply, Taps},
    process::run,
    redis::Redis,
    repository,
};

async fn fill(node: &Node, targets: &[&str]) {
    for target in targets {
        node.fetch(target).await;
        node.hit(target).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_is_purged_and_no_other() {
    let origin = Origin::start().await;
    sealed_origin(&origin, "v1", 500);
    let node = Node::builder().origin(&origin.url()).start().await;
    fill(&node, &["/a", "/a?x=1", "/b"]).await;
    let receipt = node.purge_url("/a", false).await;
    assert_eq!((&receipt["applied"], &receipt["missing"]), (&json!(["n1"]), &json!([])), "{receipt}");
    assert!(!node.fetch("/a").await.is_hit());
    assert!(node.fetch("/a?x=1").await.is_hit() && node.fetch("/b").await.is_hit());
    assert!(node.hit("/a").await.is_hit(), "what was fetched after a purge is good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_takes_all_that_is_at_or_below_it() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    let node = Node::builder().origin(&origin.url()).start().await;
    let all = ["/", "/a", "/a?x=1", "/a/b", "/a/b/c?x=2", "/a;v=1/b", "/%40me/x", "/ab", "/b/a"];
    fill(&node, &all).await;
    for (prefix, gone) in [
        ("/a/b", &["/a/b", "/a/b/c?x=2"][..]),
        ("/%61/", &["/a", "/a?x=1", "/a/b", "/a/b/c?x=2", "/a;v=1/b"]),
        ("/a/b/*", &["/a/b", "/a/b/c?x=2"]),
        ("/@me", &["/%40me/x"]),
        ("/none", &[]),
        ("/*", &all),
    ] {
        let receipt = node.purge(&json!({"prefix": url(prefix)})).await;
        assert_eq!(receipt["complete"], true, "{receipt}");
        for target in all {
            assert_eq!(node.cached(target).await.is_none(), gone.contains(&target), "{prefix}: {target}");
        }
        fill(&node, gone).await;
    }
    let other = node.purge(&json!({"prefix": "http://other.test/"})).await;
    assert_eq!(other["complete"], true);
    assert!(node.cached("/a").await.is_some(), "another host's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_marks_stale_and_reaches_responses_under_way() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/p/slow", move |_| Reply::fresh(600, "old").behind(&held));
    origin.on("/p/kept", |_| Reply::fresh(600, "kept").header("etag", "\"1\""));
    let node = Node::builder().origin(&origin.url()).start().await;
    fill(&node, &["/p/kept"]).await;
    node.purge(&json!({"prefix": url("/p"), "soft": true})).await;
    assert_eq!(node.fetch("/p/kept").await.cache().get("fwd"), "stale");

    let early = tokio::spawn(node.get("/p/slow").send());
    eventually("the fetch", async || origin.hits("/p/slow") == 1).await;
    node.purge(&json!({"prefix": url("/p")})).await;
    origin.on("/p/slow", |_| Reply::fresh(600, "new"));
    let late = tokio::spawn(node.get("/p/slow").send());
    gate.open();
    assert_eq!(early.await.unwrap().text(), "old");
    assert_eq!(late.await.unwrap().text(), "new", "a request from after the purge");
    assert_eq!(node.fetch("/p/slow").await.text(), "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_reaches_every_node_and_outlives_restarts() {
    let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).redis(&redis);
    let one = builder.start().await;
    let second = builder.name("n2").disk(dir.path());
    let two = second.start().await;
    fill(&one, &["/p/x", "/q"]).await;
    fill(&two, &["/p/x", "/p/y", "/q"]).await;
    let receipt = one.purge(&json!({"prefix": url("/p")})).await;
    assert_eq!(names(&receipt["applied"]), ["n1", "n2"], "{receipt}");
    for target in ["/p/x", "/p/y"] {
        assert!(one.cached(target).await.is_none() && two.cached(target).await.is_none(), "{target}");
    }
    two.stop().await;
    let two = second.start().await;
    assert!(two.cached("/p/y").await.is_none(), "it is on the disk, and purged");
    eventually("the one that stays being good again", async || two.cached("/q").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_of_urls_that_share_an_entry_takes_each_of_them() {
    let (origin, file) = (Origin::start().await, repository("plugins/dist/tenant-key.wasm"));
    origin.on("*", |seen| Reply::fresh(600, seen.header("x-tenant").to_owned()));
    let node = Node::builder().origin(&origin.url()).policy("key", &file, "{}").route("policy = \"key\"").start().await;
    let ask = |target: &str| node.get(target).header("x-tenant", "acme").send();
    // Its key has the parameters in one order.
    ask("/p/x?a=1&b=2").await;
    eventually("a hit", async || ask("/p/x?b=2&a=1").await.is_hit()).await;
    node.purge(&json!({"prefix": url("/p")})).await;
    assert!(!ask("/p/x?b=2&a=1").await.is_hit());
    eventually("what was fetched since", async || ask("/p/x?b=2&a=1").await.is_hit()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_takes_all_urls_that_match() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    let node = Node::builder().origin(&origin.url()).start().await;
    let all = ["/", "/item/1.json", "/de/item/2.json", "/item/1.html", "/item/1.json?v=2", "/search?q=shoes&p=1"];
    fill(&node, &all).await;
    for (pattern, gone) in [
        ("/*/item/*.json", &["/de/item/2.json"][..]),
        ("/item/*.json", &["/item/1.json"]),
        ("/%69tem//*.json*", &["/item/1.json", "/item/1.json?v=2"]),
        ("/*.json", &["/item/1.json", "/de/item/2.json"]),
        ("/search?q=sho*", &["/search?q=shoes&p=1"]),
        ("/*?*", &["/item/1.json?v=2", "/search?q=shoes&p=1"]),
        ("/none*", &[]),
        ("/*", &all),
    ] {
        let receipt = node.purge(&json!({"pattern": url(pattern)})).await;
        assert_eq!(receipt["complete"], true, "{receipt}");
        for target in all {
            assert_eq!(node.cached(target).await.is_none(), gone.contains(&target), "{pattern}: {target}");
        }
        fill(&node, gone).await;
    }
    node.purge(&json!({"pattern": "http://other.test/*"})).await;
    assert!(node.cached("/item/1.json").await.is_some(), "another host's");
    assert_eq!(node.metric("holm_cache_purge_patterns", "").await, 9.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_marks_stale_and_reaches_responses_under_way() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/p/slow", move |_| Reply::fresh(600, "old").behind(&held));
    origin.on("/p/kept", |_| Reply::fresh(600, "kept").header("etag", "\"1\""));
    let node = Node::builder().origin(&origin.url()).start().await;
    fill(&node, &["/p/kept"]).await;
    node.purge(&json!({"pattern": url("/*/kept*"), "soft": true})).await;
    assert_eq!(node.fetch("/p/kept").await.cache().get("fwd"), "stale");
    assert_eq!(origin.seen("/p/kept")[1].header("if-none-match"), "\"1\"", "what is there is used");

    let early = tokio::spawn(node.get("/p/slow").send());
    eventually("the fetch", async || origin.hits("/p/slow") == 1).await;
    node.purge(&json!({"pattern": url("/*slow")})).await;
    origin.on("/p/slow", |_| Reply::fresh(600, "new"));
    let late = tokio::spawn(node.get("/p/slow").send());
    gate.open();
    assert_eq!(early.await.unwrap().text(), "old");
    assert_eq!(late.await.unwrap().text(), "new", "a request from after the purge");
    assert_eq!(node.fetch("/p/slow").await.text(), "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_reaches_every_node_and_outlives_restarts() {
    let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).redis(&redis);
    let one = builder.start().await;
    let second = builder.name("n2").disk(dir.path());
    let two = second.start().await;
    fill(&one, &["/p/x.json", "/p/x.html"]).await;
    fill(&two, &["/p/x.json", "/p/y.json", "/p/x.html"]).await;
    let receipt = one.purge(&json!({"pattern": url("/p/*.json")})).await;
    assert_eq!(names(&receipt["applied"]), ["n1", "n2"], "{receipt}");
    for target in ["/p/x.json", "/p/y.json"] {
        assert!(one.cached(target).await.is_none() && two.cached(target).await.is_none(), "{target}");
    }
    assert!(one.cached("/p/x.html").await.is_some() && two.cached("/p/x.html").await.is_some());
    two.stop().await;
    let two = second.start().await;
    assert!(two.cached("/p/y.json").await.is_none(), "it is on the disk, and purged");
    eventually("the one that stays being good again", async || two.cached("/p/x.html").await.is_some()).await;
    assert!(two.cached("/p/y.json").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_of_one_node_is_on_its_disk_and_takes_nothing_from_others() {
    let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).redis(&redis);
    let one = builder.start().await;
    let second = builder.name("n2").disk(dir.path());
    let two = second.start().await;
    fill(&one, &["/p/x.json", "/p/x.html"]).await;
    fill(&two, &["/p/x.json", "/p/x.html"]).await;
    let receipt = two.purge(&json!({"pattern": url("/p/*.json"), "scope": "node"})).await;
    assert_eq!(names(&receipt["applied"]), ["n2"], "{receipt}");
    assert!(two.cached("/p/x.json").await.is_none() && one.cached("/p/x.json").await.is_some());
    two.stop().await;
    let two = second.start().await;
    eventually("trust in what is stored", async || two.cached("/p/x.html").await.is_some()).await;
    assert!(two.cached("/p/x.json").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_outlives_a_restart_and_leaves_the_rest_as_it_was() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    let builder = Node::builder().origin(&origin.url()).disk(dir.path());
    let node = builder.start().await;
    fill(&node, &["/gone/1", "/gone/2", "/stays"]).await;
    node.purge(&json!({"pattern": url("/gone/*")})).await;
    fill(&node, &["/gone/2"]).await;
    node.stop().await;
    let node = builder.start().await;
    assert!(node.cached("/gone/1").await.is_none());
    assert!(node.cached("/gone/2").await.is_some(), "fetched since");
    assert!(node.cached("/stays").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_that_is_forgotten_has_what_it_may_mean_revalidated() {
    let origin = Origin::start().await;
    origin.on("*", |seen| match seen.header("if-none-match") {
        "\"1\"" => Reply::status(304).header("cache-control", "max-age=600"),
        _ => Reply::fresh(600, seen.target.clone()).header("etag", "\"1\""),
    });
    let node = Node::builder().origin(&origin.url()).set("cache.purge", "patterns_max = 1").start().await;
    fill(&node, &["/a/1", "/b/1", "/c/1"]).await;
    node.purge(&json!({"pattern": url("/a/2*")})).await;
    assert!(node.cached("/a/1").await.is_some(), "it doesn't match");
    node.purge(&json!({"pattern": url("/b/*")})).await;
    assert!(node.cached("/a/1").await.is_none(), "whether it matched isn't known any more");
    assert!(node.cached("/b/1").await.is_none() && node.cached("/c/1").await.is_some());
    assert_eq!(node.fetch("/a/1").await.text(), "/a/1");
    assert_eq!(origin.seen("/a/1")[1].header("if-none-match"), "\"1\"");
    node.hit("/a/1").await;
    assert_eq!(node.metric("holm_cache_purge_patterns_dropped_total", "").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_takes_what_is_served_for_other_queries_or_has_it_revalidated() {
    let origin = Origin::start().await;
    origin.on("/p", |seen| Reply::fresh(600, seen.target.clone()).header("no-vary-search", "params=(\"utm\")"));
    let node = Node::builder().origin(&origin.url()).start().await;
    fill(&node, &["/p?utm=1"]).await;
    assert_eq!(node.hit("/p?utm=2").await.text(), "/p?utm=1");
    node.purge(&json!({"pattern": url("/q*")})).await;
    assert!(node.cached("/p?utm=2").await.is_some(), "another path");
    // By the URL of its fetch, by one that it was served for, and by one that nobody has asked for.
    for pattern in ["/p?utm=1*", "/p?utm=2*", "/*utm=9"] {
        node.purge(&json!({"pattern": url(pattern)})).await;
        for target in ["/p?utm=1", "/p?utm=2"] {
            assert!(node.cached(target).await.is_none(), "{pattern}: {target}");
        }
        fill(&node, &["/p?utm=1"]).await;
        node.hit("/p?utm=2").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_takes_what_a_post_was_answered_with() {
    let origin = Origin::start().await;
    origin.on("/m/x", |_| Reply::fresh(600, "{}").header("content-type", "application/json"));
    let node = Node::builder().origin(&origin.url()).infer("plain").start().await;
    let ask = || node.post("/m/x").json(&json!({"n": 1})).send();
    eventually("a hit", async || ask().await.is_hit()).await;
    node.purge(&json!({"pattern": url("/n/*")})).await;
    assert!(ask().await.is_hit());
    node.purge(&json!({"pattern": url("/m/*")})).await;
    assert!(!ask().await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_of_urls_that_share_an_entry_takes_each_of_them() {
    let (origin, file) = (Origin::start().await, repository("plugins/dist/tenant-key.wasm"));
    origin.on("*", |seen| Reply::fresh(600, seen.header("x-tenant").to_owned()));
    let node = Node::builder().origin(&origin.url()).policy("key", &file, "{}").route("policy = \"key\"").start().await;
    let ask = |target: &str| node.get(target).header("x-tenant", "acme").send();
    // Its key has the parameters in one order.
    for pattern in ["/p/*a=1", "/p/x?b=2*"] {
        ask("/p/x?a=1&b=2").await;
        eventually("a hit", async || ask("/p/x?b=2&a=1").await.is_hit()).await;
        node.purge(&json!({"pattern": url(pattern)})).await;
        assert!(!ask("/p/x?b=2&a=1").await.is_hit(), "{pattern}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_takes_items_and_those_under_way() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let node = Node::builder().origin(&origin.url()).infer("json-array").route("ttl_ms = 600000").start().await;
    let ask = || node.post(ARRAY).json(&json!({"n": 7})).send();
    let early = tokio::spawn(ask());
    eventually("the batch", async || batches(&origin, ARRAY).len() == 1).await;
    node.purge(&json!({"pattern": url("/dou*")})).await;
    let late = tokio::spawn(ask());
    gate.open();
    assert_eq!((early.await.unwrap().status, late.await.unwrap().status), (200, 200));
    assert_eq!(batches(&origin, ARRAY).len(), 2, "a request from after the purge gets a result of its own");
    assert!(found("a hit", async || Some(ask().await).filter(|response| response.is_hit())).await.is_hit());
    node.purge(&json!({"pattern": url("/other*")})).await;
    assert!(ask().await.is_hit());
    node.purge(&json!({"pattern": url("/dou*")})).await;
    assert!(!ask().await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_takes_all_that_carry_it() {
    let origin = Origin::start().await;
    origin.on("/red", |_| Reply::fresh(600, "r").header("surrogate-key", "shoes red"));
    origin.on("/blue", |_| Reply::fresh(600, "b").header("cache-tag", "shoes,blue"));
    origin.on("/own", |_| Reply::fresh(600, "o").header("x-tags", "hats shoes-not"));
    let node = Node::builder().origin(&origin.url()).route("tag_headers = [\"x-tags\"]").start().await;
    let all = ["/red", "/blue", "/own"];
    fill(&node, &all).await;
    for (tag, gone) in [("shoes", &["/red", "/blue"][..]), ("red", &["/red"]), ("hats", &["/own"]), ("none", &[])] {
        node.purge(&json!({"tag": tag})).await;
        for target in all {
            assert_eq!(node.cached(target).await.is_none(), gone.contains(&target), "{tag}: {target}");
        }
        fill(&node, gone).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_purged_as_the_access_log_names_it() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let log = dir.path().join("access.log");
    let node = Node::builder().origin(&origin.url()).access_log(&log).start().await;
    fill(&node, &["/a", "/b"]).await;
    let key = found("the key of /a", async || logged_key(&log, "/a")).await;
    node.purge(&json!({"key": key})).await;
    assert!(node.cached("/a").await.is_none() && node.cached("/b").await.is_some());
}

fn logged_key(log: &Path, target: &str) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == target).find_map(|line| Some(line["key"].as_str()?.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_purge_marks_stale() {
    let origin = Origin::start().await;
    origin.on("/kept", |seen| match seen.header("if-none-match") {
        "\"1\"" => Reply::status(304).header("cache-control", "max-age=600"),
        _ => Reply::fresh(600, "kept").header("etag", "\"1\""),
    });
    origin.on("/grace", |_| Reply::ok("grace").header("cache-control", "max-age=600, stale-while-revalidate=600"));
    let node = Node::builder().origin(&origin.url()).start().await;
    fill(&node, &["/kept", "/grace"]).await;

    node.purge_url("/kept", true).await;
    let renewed = node.fetch("/kept").await;
    assert_eq!((renewed.status, renewed.text(), renewed.cache().get("fwd")), (200, "kept", "stale"));
    assert_eq!(origin.seen("/kept")[1].header("if-none-match"), "\"1\"", "what is there is used");
    node.hit("/kept").await;

    node.purge_url("/grace", true).await;
    let stale = node.fetch("/grace").await;
    assert_eq!((stale.status, stale.text()), (200, "grace"));
    eventually("the refresh", async || origin.hits("/grace") == 2).await;
    eventually("freshness", async || node.fetch("/grace").await.cache().ttl() > 0).await;

    node.purge_url("/kept", false).await;
    assert!(node.cached("/kept").await.is_none());
    node.fetch("/kept").await;
    assert_eq!(origin.seen("/kept")[2].header("if-none-match"), "", "what was purged hard isn't even revalidated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_began_before_a_purge_brings_nothing_back() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/slow", move |_| Reply::fresh(600, "old").behind(&held));
    let node = Node::builder().origin(&origin.url()).start().await;
    let early = tokio::spawn(node.get("/slow").send());
    eventually("the fetch", async || origin.hits("/slow") == 1).await;
    node.purge_url("/slow", false).await;
    origin.on("/slow", |_| Reply::fresh(600, "new"));
    let late = tokio::spawn(node.get("/slow").send());
    gate.open();
    assert_eq!(early.await.unwrap().text(), "old", "a request from before the purge may get what was true then");
    assert_eq!(late.await.unwrap().text(), "new", "one from after it may not");
    assert_eq!(node.fetch("/slow").await.text(), "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_purged_leaves_its_successor_alone_when_it_ends() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    let feed = taps.clone();
    origin.on("/stream", move |_| Reply::fresh(600, "").fed(&feed));
    let node = Node::builder().origin(&origin.url()).start().await;
    let old = node.get("/stream").open();
    let (old, pipe) = tokio::join!(old, async {
        let pipe = taps.next().await;
        pipe.send(Ok("old".into())).await.unwrap();
        pipe
    });
    node.purge_url("/stream", false).await;
    origin.on("/stream", |_| Reply::fresh(600, "new"));
    assert_eq!(node.fetch("/stream").await.text(), "new");
    assert_eq!(node.hit("/stream").await.text(), "new");
    drop(pipe);
    assert_eq!(old.unwrap().whole().await.unwrap().text(), "old");
    eventually("its end", async || node.metric("holm_cache_flights", "").await == 0.0).await;
    assert_eq!(node.fetch("/stream").await.text(), "new");
    assert_eq!(origin.hits("/stream"), 2, "what was stored is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_purged_during_a_refresh_is_not_fallen_back_on() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    origin.on("/s", |_| Reply::ok("old").header("cache-control", "max-age=0, stale-if-error=600"));
    let node = Node::builder().origin(&origin.url()).set("pool.web", "attempts_max = 1").start().await;
    node.fetch("/s").await;
    node.stale("/s").await;
    let before = origin.hits("/s");
    let held = gate.clone();
    origin.on("/s", move |_| Reply::status(503).behind(&held));
    let refresh = tokio::spawn(node.get("/s").send());
    eventually("the refresh", async || origin.hits("/s") > before).await;
    node.purge_url("/s", false).await;
    gate.open();
    let response = refresh.await.unwrap();
    assert_eq!(response.status, 503, "{}: {:?}", response.text(), response.cache());
    assert_ne!(response.text(), "old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_outdates_the_fetch_that_is_under_way() {
    let origin = Origin::start().await;
    let node = Node::builder().origin(&origin.url()).start().await;
    for method in [http::Method::POST, http::Method::PUT] {
        let (target, gate) = (format!("/{method}"), Gate::closed());
        let held = gate.clone();
        origin.on(&target, move |seen| match seen.method {
            http::Method::GET => Reply::fresh(600, "old").behind(&held),
            _ => Reply::ok("done"),
        });
        let early = tokio::spawn(node.get(&target).send());
        eventually("the fetch", async || origin.seen(&target).len() == 1).await;
        assert_eq!(node.ask(method, &target).body("change").send().await.text(), "done");
        origin.on(&target, |_| Reply::fresh(600, "new"));
        gate.open();
        assert_eq!(early.await.unwrap().status, 200);
        let after = node.fetch(&target).await;
        assert_eq!((after.is_hit(), after.text()), (false, "new"), "{target}");
        assert_eq!((node.hit(&target).await.text(), origin.hits(&target)), ("new", 3), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_client_left_outdates_as_well() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/x", move |seen| match seen.method {
        http::Method::GET => Reply::fresh(600, "old"),
        _ => Reply::ok("done").behind(&held),
    });
    let node = Node::builder().origin(&origin.url()).start().await;
    node.fetch("/x").await;
    node.hit("/x").await;
    let mut leaving = TcpStream::connect(node.address).await.unwrap();
    leaving.write_all(&crlf("POST /x HTTP/1.1\nHost: shop.test\nContent-Length: 6\n\nchange")).await.unwrap();
    eventually("the write", async || origin.seen("/x").iter().any(|seen| seen.method == http::Method::POST)).await;
    // By a reset: an end so soon after the request would be that of the request alone.
    socket2::SockRef::from(&leaving).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(leaving);
    eventually("the invalidation", async || node.cached("/x").await.is_none()).await;
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_outlives_a_restart() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()).header("surrogate-key", "all"));
    let builder = Node::builder().origin(&origin.url()).disk(dir.path());
    let node = builder.start().await;
    fill(&node, &["/gone", "/stays"]).await;
    node.purge_url("/gone", false).await;
    node.stop().await;
    let node = builder.start().await;
    assert!(node.cached("/gone").await.is_none());
    assert!(node.cached("/stays").await.is_some());
    node.purge(&json!({"tag": "all"})).await;
    node.stop().await;
    assert!(builder.start().await.cached("/stays").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_outlives_kill_9_right_after_its_acknowledgement() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 20_000);
    // So little memory that nearly everything is on disk.
    let builder = Node::builder().origin(&origin.url()).disk(dir.path()).memory("1MiB");
    let process = builder.spawn().await;
    let targets: Vec<String> = (0..200).map(|n| format!("/p/{n}")).collect();
    for target in &targets {
        process.fetch(target).await;
    }
    sealed_origin(&origin, "v2", 20_000);
    for target in &targets[..100] {
        process.purge_url(target, false).await;
    }
    process.kill();
    let process = builder.spawn().await;
    let mut hits = 0;
    for (index, target) in targets.iter().enumerate() {
        let response = process.fetch(target).await;
        hits += usize::from(response.is_hit());
        assert!(index >= 100 || response.header("x-version") == "v2", "{target} came back: {:?}", response.cache());
    }
    assert!(hits > 0, "nothing was on disk, so nothing was tried");
}

/// A write that fails for want of space fails no purge that comes after it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purging_goes_on_once_the_disk_has_room_again() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let node = Node::builder().origin(&origin.url()).disk(dir.path()).spawn().await;
    node.fetch("/x").await;
    node.hit("/x").await;
    let limit = |bytes: &str| {
        let pid = node.id().to_string();
        let limited = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).status();
        assert!(limited.unwrap().success());
    };
    limit("1000:unlimited");
    let refused = node.try_purge(&json!({"url": url("/x")})).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    sealed_origin(&origin, "v2", 500);
    assert_eq!(node.fetch("/x").await.header("x-version"), "v2", "it has been applied all the same");
    limit("unlimited:unlimited");
    node.purge_url("/x", false).await;
    assert!(node.cached("/x").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_reaches_every_node_of_the_region_before_it_returns() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).redis(&redis);
    let nodes = [builder.start().await, builder.clone().name("n2").start().await, builder.name("n3").start().await];
    for round in 0..5 {
        let target = format!("/round/{round}");
        for node in &nodes {
            node.fetch(&target).await;
            node.hit(&target).await;
        }
        let receipt = nodes[round % 3].purge_url(&target, false).await;
        assert_eq!(names(&receipt["applied"]), ["n1", "n2", "n3"], "{receipt}");
        for node in &nodes {
            assert!(node.cached(&target).await.is_none(), "{receipt}");
        }
    }
}

fn names(list: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = list.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_catches_up_before_it_serves() {
    let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).redis_within(&redis, 100);
    let one = builder.start().await;
    let away = builder.name("n2").disk(dir.path());
    let two = away.start().await;
    fill(&two, &["/gone", "/stays"]).await;
    two.stop().await;
    sealed_origin(&origin, "v2", 500);
    let receipt = one.purge_url("/gone", false).await;
    assert_eq!(names(&receipt["applied"]), ["n1"], "nobody waits for a node that has left: {receipt}");

    // It has the old response on its disk, and cannot learn of the purge yet.
    redis.freeze();
    let two = away.at_once().start().await;
    assert_eq!(two.fetch("/gone").await.header("x-version"), "v2");
    redis.thaw();
    eventually("the one that stays being good again", async || two.cached("/stays").await.is_some()).await;
    assert_eq!(two.fetch("/stays").await.header("x-version"), "v1");
    assert_eq!(two.fetch("/gone").await.header("x-version"), "v2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_names_the_nodes_that_have_not_applied_it_in_time() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).redis(&redis).set("cache.purge", "ack_ms = 500").at_once();
    let one = builder.start().await;
    // Else each purge of a region whose log has just begun waits for a fence, which is longer than that.
    let said = Ask::new(one.admin, http::Method::POST, "/nodes/*/sign-off").json(&json!({})).send().await;
    assert_eq!(said.status, 200, "{}", said.text());
    let two = builder.name("n2").spawn().await;
    two.fetch("/x").await;
    two.hit("/x").await;
    sealed_origin(&origin, "v2", 500);
    two.signal("STOP");
    let response = one.try_purge(&json!({"url": url("/x")})).await;
    let receipt = response.json();
    assert_eq!((response.status, names(&receipt["missing"])), (504, vec!["n2"]), "{receipt}");
    assert_eq!(names(&receipt["applied"]), ["n1"], "{receipt}");
    two.signal("CONT");
    eventually("catching up", async || two.fetch("/x").await.header("x-version") == "v2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_that_cannot_be_logged_is_refused() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let node = Node::builder().origin(&origin.url()).redis(&redis).start().await;
    redis.stop();
    let response = node.try_purge(&json!({"tag": "x"})).await;
    assert_eq!((response.status, response.header("content-type")), (503, "application/problem+json"));
    redis.start_again().await;
    eventually("purging again", async || node.try_purge(&json!({"tag": "x"})).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_purge_is_refused_with_its_reason() {
    let origin = Origin::start().await;
    let node = Node::builder().origin(&origin.url()).start().await;
    for wrong in [
        json!({}),
        json!([]),
        json!({"url": "x", "tag": "y"}),
        json!({"key": "not hex"}),
        json!({"tag": 7}),
        json!({"tag": "x", "soft": "yes"}),
        json!({"tags": "x"}),
        json!({"prefix": "/a"}),
        json!({"prefix": "http://shop.test/a?b"}),
        json!({"prefix": "http://shop.test/a*"}),
        json!({"prefix": "http://shop.test/*/b"}),
        json!({"prefix": format!("http://shop.test{}", "/x".repeat(16))}),
        json!({"pattern": "http://shop.test/a"}),
        json!({"pattern": "/a*"}),
        json!({"pattern": "http://*.test/a"}),
        json!({"pattern": "http://shop.test/*/../a"}),
        json!({"pattern": "http://shop.test/%2*"}),
        json!({"pattern": format!("http://shop.test/{}", "*x".repeat(17))}),
        json!({"pattern": format!("http://shop.test/*{}", "x".repeat(2_048))}),
        json!({"pattern": "http://shop.test/a*", "url": "http://shop.test/a"}),
    ] {
        let response = node.try_purge(&wrong).await;
        assert_eq!(response.status, 400, "{wrong}: {}", response.text());
        assert!(response.json()["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{wrong}");
    }
    assert_eq!(node.admin("/purge").send().await.status, 405);
    let text = Ask::new(node.admin, http::Method::POST, "/purge").header("content-type", "text/plain").body("{}");
    assert_eq!(text.send().await.status, 415);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_purges_too() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()).header("surrogate-key", "t").header("etag", "\"1\""));
    let node = Node::builder().origin(&origin.url()).start().await;
    let admin = node.admin.to_string();
    fill(&node, &["/a", "/b", "/c"]).await;
    let purge = async |scope: &[&str]| {
        let mut arguments = vec!["purge", "--admin", &admin];
        arguments.extend(scope);
        run(&arguments, LIMIT).await
    };
    let output = purge(&["--url", &url("/a")]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(node.cached("/a").await.is_none() && node.cached("/b").await.is_some());
    assert!(purge(&["--url", &url("/b"), "--soft"]).await.status.success());
    assert_eq!(node.fetch("/b").await.cache().get("fwd"), "stale");
    assert!(purge(&["--tag", "t"]).await.status.success());
    assert!(node.cached("/c").await.is_none());
    fill(&node, &["/d/e", "/f"]).await;
    assert!(purge(&["--prefix", &url("/d/*")]).await.status.success());
    assert!(node.cached("/d/e").await.is_none() && node.cached("/f").await.is_some());
    fill(&node, &["/d/e", "/f"]).await;
    assert!(purge(&["--pattern", &url("/*/e")]).await.status.success());
    assert!(node.cached("/d/e").await.is_none() && node.cached("/f").await.is_some());
    let wrongs: [&[&str]; 5] = [
        &[],
        &["--key", "zz"],
        &["--tag", "a", "--url", "b"],
        &["--prefix", "http://shop.test/*.css"],
        &["--pattern", "http://shop.test/a.css"],
    ];
    for wrong in wrongs {
        assert!(!purge(wrong).await.status.success(), "{wrong:?}");
    }
}
