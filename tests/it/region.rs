//! Faults of a region's log, of its server and of its nodes, under which no purged response may be served.

use serde_json::{Value, json};

use crate::harness::{
    LIMIT,
    client::Ask,
    eventually,
    load::sealed_origin,
    node::{Builder, Node, url},
    origin::{Origin, Reply},
    process::run,
    redis::Redis,
};

const FENCE_MS: u64 = 600;

/// A node of a region whose purges wait long enough for any fence.
fn node(origin: &Origin, redis: &Redis) -> Builder {
    Node::builder().origin(&origin.url()).redis_within(redis, 100).fence(FENCE_MS)
}

fn names<'v>(receipt: &'v Value, part: &str) -> Vec<&'v str> {
    receipt[part].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stood_still_serves_nothing_that_was_purged_meanwhile() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let one = node(&origin, &redis).start().await;
    let two = node(&origin, &redis).name("n2").spawn().await;
    let targets: Vec<String> = (0..50).map(|n| format!("/x/{n}")).collect();
    for target in &targets {
        two.fetch(target).await;
    }
    two.hit(&targets[49]).await;
    sealed_origin(&origin, "v2", 500);
    two.signal("STOP");
    for target in &targets {
        // The first waits for the fence; so does each that is purged while the node is out of touch.
        let response = one.try_purge(&json!({"url": url(target)})).await;
        let receipt = response.json();
        assert_eq!((response.status, names(&receipt, "expired")), (200, vec!["n2"]), "{receipt}");
        if target == "/x/3" {
            break;
        }
    }
    two.signal("CONT");
    let asked = targets[..4].iter().map(|target| two.fetch(target));
    for response in futures_util::future::join_all(asked).await {
        assert_eq!(response.header("x-version"), "v2");
    }
    eventually("being in step", async || two.metric("holm_cache_purge_in_step", "").await > 0.5).await;
    assert_eq!(two.hit("/x/9").await.header("x-version"), "v1", "what wasn't purged is good again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_right_to_read_asks_the_origin() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let one = node(&origin, &redis).start().await;
    let user = redis.user("two").await;
    let two = Node::builder().origin(&origin.url()).redis_at(&user, 100).fence(FENCE_MS).name("n2").start().await;
    two.fetch("/x").await;
    two.hit("/x").await;
    redis.command(&["ACL", "SETUSER", "two", "-xread", "-xrange", "-eval", "-evalsha"]).await;
    sealed_origin(&origin, "v2", 500);
    let receipt = one.purge_url("/x", false).await;
    assert_eq!((names(&receipt, "applied"), names(&receipt, "expired")), (vec!["n1"], vec!["n2"]), "{receipt}");
    assert_eq!(two.fetch("/x").await.header("x-version"), "v2");
    assert_eq!(two.admin("/healthz").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_after_its_server_stood_still_names_every_node() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let builder = node(&origin, &redis);
    let nodes = [builder.start().await, builder.clone().name("n2").start().await, builder.name("n3").start().await];
    for node in &nodes {
        node.fetch("/x").await;
        node.hit("/x").await;
    }
    redis.freeze();
    let left = async |node: &Node| node.metric("holm_cache_purge_fence_ms", "").await;
    eventually("all fences' end", async || left(&nodes[0]).await + left(&nodes[1]).await + left(&nodes[2]).await < 0.5)
        .await;
    sealed_origin(&origin, "v2", 500);
    redis.thaw();
    eventually("a purge", async || {
        let response = nodes[1].try_purge(&json!({"url": url("/x")})).await;
        let receipt = response.json();
        if response.status == 200 {
            assert_eq!(names(&receipt, "applied").len() + names(&receipt, "expired").len(), 3, "{receipt}");
        }
        response.status == 200
    })
    .await;
    for node in &nodes {
        assert_eq!(node.fetch("/x").await.header("x-version"), "v2");
    }
}

/// What was purged since the copy was made isn't in the log any more, and positions are given a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_restored_from_an_older_copy_brings_nothing_back() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let builder = node(&origin, &redis);
    let nodes = [builder.start().await, builder.clone().name("n2").start().await];
    redis.command(&["SAVE"]).await;
    for node in &nodes {
        for target in ["/a", "/b", "/c"] {
            node.fetch(target).await;
            node.hit(target).await;
        }
    }
    for n in 0..5 {
        nodes[0].purge(&json!({"tag": format!("{n}")})).await;
    }
    sealed_origin(&origin, "v2", 500);
    nodes[0].purge_url("/a", false).await;
    redis.stop();
    redis.start_again().await;
    eventually("a purge", async || nodes[1].try_purge(&json!({"url": url("/b")})).await.status == 200).await;
    for node in &nodes {
        for target in ["/a", "/b"] {
            assert_eq!(node.fetch(target).await.header("x-version"), "v2", "{target}");
        }
    }
    let receipt = nodes[1].purge_url("/c", false).await;
    assert_eq!(names(&receipt, "applied"), ["n1", "n2"], "{receipt}");
    assert_eq!(nodes[0].fetch("/c").await.header("x-version"), "v2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_everything_brings_nothing_back() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let builder = node(&origin, &redis);
    let nodes = [builder.start().await, builder.clone().name("n2").start().await];
    for node in &nodes {
        node.fetch("/a").await;
        node.hit("/a").await;
    }
    sealed_origin(&origin, "v2", 500);
    redis.command(&["FLUSHALL"]).await;
    let response = nodes[0].try_purge(&json!({"url": url("/a")})).await;
    assert_eq!(response.status, 200, "{}", response.text());
    for node in &nodes {
        assert_eq!(node.fetch("/a").await.header("x-version"), "v2");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_wrote_into_the_log_stops_nothing() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.on("/x", |seen| match seen.header("if-none-match") {
        "\"1\"" => Reply::status(304).header("cache-control", "max-age=600"),
        _ => Reply::fresh(600, "x").header("etag", "\"1\""),
    });
    let node = node(&origin, &redis).start().await;
    node.fetch("/x").await;
    node.hit("/x").await;
    let log = "{holm}:purge:log";
    redis.command(&["XADD", log, "*", "tag", "0123456789abcdef", "kind", "hard", "origin", "eu"]).await;
    eventually("being in step again", async || node.metric("holm_cache_purge_logs_lost_total", "").await > 0.5).await;
    let commands = async || {
        let info = redis.command(&["INFO", "stats"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = commands().await;
    for _ in 0..20 {
        node.admin("/readyz").send().await;
    }
    // A node that spins sends thousands in this time.
    assert!(commands().await - before < 200);
    eventually("the entry's confirmation", async || node.fetch("/x").await.cache().get("fwd") == "stale").await;
    let receipt = node.purge_url("/x", false).await;
    assert_eq!(names(&receipt, "applied"), ["n1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_fence_the_origin_is_asked_once_and_its_failure_is_covered() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let stated = "max-age=600, stale-if-error=600";
    origin.on("/x", move |seen| match seen.header("if-none-match") {
        "\"1\"" => Reply::status(304).header("cache-control", stated),
        _ => Reply::ok("x").header("etag", "\"1\"").header("cache-control", stated),
    });
    // A long fence, so that all of what follows is within one.
    let node = node(&origin, &redis).fence(3_000).start().await;
    node.fetch("/x").await;
    node.hit("/x").await;
    redis.stop();
    eventually("the fence's end", async || node.metric("holm_cache_purge_fence_ms", "").await < 0.5).await;
    let before = origin.hits("/x");
    eventually("the confirmation", async || {
        let responses = futures_util::future::join_all((0..50).map(|_| node.fetch("/x"))).await;
        assert!(responses.iter().all(|response| response.status == 200 && response.text() == "x"));
        origin.hits("/x") > before
    })
    .await;
    for _ in 0..50 {
        node.fetch("/x").await;
    }
    assert_eq!(origin.hits("/x") - before, 1, "one request a key and fence, for all clients");
    origin.on("/x", |_| Reply::status(503));
    eventually("the fence's end", async || node.fetch("/x").await.cache().get("detail") == "origin-error").await;
    assert_eq!(node.fetch("/x").await.text(), "x", "a failing origin is covered as ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_serves_when_cut_off_holds_purges_up_until_it_is_signed_off() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let one = node(&origin, &redis).set("cache.purge", "ack_ms = 1500").start().await;
    let two = node(&origin, &redis).set("cache.purge", "cut_off = \"serve\"").name("n2").spawn().await;
    two.fetch("/x").await;
    two.hit("/x").await;
    two.signal("STOP");
    let response = one.try_purge(&json!({"url": url("/x")})).await;
    assert_eq!((response.status, names(&response.json(), "missing")), (504, vec!["n2"]));
    let admin = one.admin.to_string();
    let said = run(&["purge", "--admin", admin.as_str(), "--sign-off", "n2"], LIMIT).await;
    assert!(String::from_utf8_lossy(&said.stdout).contains("\"signed_off\":1"), "{said:?}");
    assert_eq!(one.try_purge(&json!({"url": url("/x")})).await.status, 200);
    two.signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_seen_on_its_node_whatever_the_log_does() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let node = node(&origin, &redis).start().await;
    let faults: [(&str, &[&[&str]]); 3] = [
        ("full", &[&["CONFIG", "SET", "maxmemory-policy", "noeviction"], &["CONFIG", "SET", "maxmemory", "1"]]),
        ("read-only", &[&["CONFIG", "SET", "maxmemory", "0"], &["REPLICAOF", "127.0.0.1", "1"]]),
        ("as it was", &[&["REPLICAOF", "NO", "ONE"]]),
    ];
    for (name, commands) in faults {
        let target = format!("/{}", name.replace(' ', "-"));
        origin.on(&target, |seen| match seen.method {
            http::Method::GET => Reply::fresh(600, "old").header("vary", "x-v"),
            _ => Reply::ok("done"),
        });
        for variant in ["1", "2"] {
            node.get(&target).header("x-v", variant).send().await;
        }
        for command in commands {
            redis.command(command).await;
        }
        node.post(&target).body("change").send().await;
        origin.on(&target, |_| Reply::fresh(600, "new").header("vary", "x-v"));
        for variant in ["1", "2"] {
            assert_eq!(node.get(&target).header("x-v", variant).send().await.text(), "new", "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_not_ready_before_it_has_caught_up() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let node = node(&origin, &redis).start().await;
    assert_eq!(node.metric("holm_cache_purge_in_step", "").await, 1.0);
    assert!(node.metric("holm_cache_purge_fence_ms", "").await > 0.0);
    redis.freeze();
    let away = self::node(&origin, &redis).name("n2").launch().await.unwrap();
    eventually("being up, and not ready for want of the log", async || {
        let response = away.admin("/readyz").send().await;
        assert_eq!(response.status, 503, "{}", response.text());
        response.text().contains("purge log")
    })
    .await;
    assert_eq!(away.admin("/healthz").send().await.status, 200);
    redis.thaw();
    eventually("being ready", async || away.admin("/readyz").send().await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_of_one_name_are_noticed_and_a_purge_waits_for_both() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let builder = node(&origin, &redis);
    // One that can't tell whether its name is taken starts all the same.
    let user = redis.user("two").await;
    redis.command(&["ACL", "SETUSER", "two", "-psetex"]).await;
    let other = Node::builder().origin(&origin.url()).redis_at(&user, 100).fence(FENCE_MS);
    let nodes = [other.start().await, builder.start().await];
    for node in &nodes {
        node.fetch("/x").await;
        node.hit("/x").await;
    }
    for node in &nodes {
        eventually("the other one of its name", async || node.metric("holm_cache_purge_namesakes", "").await > 0.5)
            .await;
    }
    sealed_origin(&origin, "v2", 500);
    let receipt = nodes[0].purge_url("/x", false).await;
    assert_eq!(names(&receipt, "applied"), ["n1"], "{receipt}");
    for node in &nodes {
        assert_eq!(node.fetch("/x").await.header("x-version"), "v2");
    }
}

/// The log begins anew by the write itself, which this node has yet to notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_seen_right_after_the_log_was_wiped() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.on("/x", |seen| match seen.method {
        http::Method::GET => Reply::fresh(600, "old"),
        _ => Reply::ok("done"),
    });
    let node = node(&origin, &redis).fence(4_000).start().await;
    // Else each purge of a region whose log has just begun waits for a fence.
    let said = Ask::new(node.admin, http::Method::POST, "/nodes/*/sign-off").json(&json!({})).send().await;
    assert_eq!(said.status, 200, "{}", said.text());
    for n in 0..5 {
        node.purge(&json!({"tag": format!("{n}")})).await;
    }
    node.fetch("/x").await;
    node.hit("/x").await;
    redis.command(&["FLUSHALL"]).await;
    node.post("/x").body("change").send().await;
    origin.on("/x", |_| Reply::fresh(600, "new"));
    for _ in 0..20 {
        assert_eq!(node.fetch("/x").await.text(), "new");
    }
}

/// The write is nowhere but on the disk of the node that took it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_during_an_outage_outlives_its_node() {
    for signal in ["KILL", "TERM"] {
        let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
        origin.on("/x", |seen| match seen.method {
            http::Method::GET => Reply::fresh(600, "old"),
            _ => Reply::ok("done"),
        });
        let other = node(&origin, &redis).start().await;
        let builder = node(&origin, &redis).name("n2").disk(dir.path());
        let mut writer = builder.spawn().await;
        for handle in [&*other, &*writer] {
            handle.fetch("/x").await;
            handle.hit("/x").await;
        }
        redis.command(&["SAVE"]).await;
        redis.stop();
        assert_eq!(writer.post("/x").body("change").send().await.text(), "done");
        let held = async || writer.metric("holm_cache_purge_invalidations_held", "").await;
        eventually("its being on disk", async || held().await > 0.5).await;
        writer.signal(signal);
        writer.ended().await;
        origin.on("/x", |_| Reply::fresh(600, "new"));
        redis.start_again().await;
        assert_eq!(other.hit("/x").await.text(), "old", "{signal}: it has not learned of the purge");
        let writer = builder.spawn().await;
        assert_eq!(writer.fetch("/x").await.text(), "new", "{signal}");
        eventually("the purge on the other node", async || other.fetch("/x").await.text() == "new").await;
        let waiting = async || writer.metric("holm_cache_purge_invalidations_held", "").await;
        eventually("the disk's release", async || waiting().await < 0.5).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purges_no_longer_wait_for_a_lost_node_and_that_one_asks_for_each_request() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let lost = "lost_ms = 3000";
    let one = node(&origin, &redis).set("cache.purge", lost).start().await;
    let user = redis.user("two").await;
    let two = Node::builder().origin(&origin.url()).redis_at(&user, 100).fence(FENCE_MS).name("n2");
    let two = two.set("cache.purge", lost).start().await;
    two.fetch("/x").await;
    two.hit("/x").await;
    redis.command(&["ACL", "SETUSER", "two", "-xread", "-xrange", "-eval", "-evalsha"]).await;
    let receipt = one.purge_url("/other", false).await;
    assert_eq!((names(&receipt, "applied"), names(&receipt, "expired")), (vec!["n1"], vec!["n2"]), "{receipt}");
    eventually("its being lost", async || {
        let receipt = one.purge_url("/other", false).await;
        names(&receipt, "applied") == ["n1"] && names(&receipt, "expired").is_empty()
    })
    .await;
    sealed_origin(&origin, "v2", 500);
    one.purge_url("/x", false).await;
    for _ in 0..5 {
        let before = origin.hits("/x");
        assert_eq!(two.fetch("/x").await.header("x-version"), "v2");
        assert_eq!(origin.hits("/x") - before, 1, "nobody counts with its fence any more");
    }
    redis.command(&["ACL", "SETUSER", "two", "+@all"]).await;
    eventually("its being waited for again", async || {
        let receipt = one.purge_url("/other", false).await;
        names(&receipt, "applied") == ["n1", "n2"]
    })
    .await;
    // What it stored while it was lost is confirmed first, so the origin may get one request more.
    eventually("a hit", async || two.fetch("/x").await.is_hit()).await;
    assert_eq!(two.hit("/x").await.header("x-version"), "v2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_differ_are_noticed_once_and_the_longer_one_counts() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let one = node(&origin, &redis).set("cache.purge", "lost_ms = 1300").spawn().await;
    let user = redis.user("two").await;
    let two = Node::builder().origin(&origin.url()).redis_at(&user, 100).fence(FENCE_MS).name("n2");
    let two = two.set("cache.purge", "lost_ms = 60000").start().await;
    two.fetch("/x").await;
    two.hit("/x").await;
    let words = "another `fence_ms` or `lost_ms`";
    eventually("a warning", async || one.said().contains(words)).await;
    redis.command(&["ACL", "SETUSER", "two", "-xread", "-xrange", "-eval", "-evalsha"]).await;
    sealed_origin(&origin, "v2", 500);
    // Each waits for the fence of the node that is out of touch: together for longer than this one's `lost_ms`.
    for _ in 0..4 {
        let receipt = one.purge_url("/x", false).await;
        assert_eq!((names(&receipt, "applied"), names(&receipt, "expired")), (vec!["n1"], vec!["n2"]), "{receipt}");
        assert_eq!(two.fetch("/x").await.header("x-version"), "v2");
    }
    assert_eq!(one.said().matches(words).count(), 1, "{}", one.said());
}

/// Then it isn't known whether the server was restarted since, and with it which nodes have signed on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_not_be_asked_who_it_is_costs_each_purge_a_fence_and_no_more() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let user = redis.user("node").await;
    redis.command(&["ACL", "SETUSER", "node", "-info"]).await;
    let builder = Node::builder().origin(&origin.url()).redis_at(&user, 100).fence(FENCE_MS);
    sealed_origin(&origin, "v1", 500);
    let nodes = [builder.start().await, builder.name("n2").start().await];
    for version in ["v2", "v3"] {
        for node in &nodes {
            node.fetch("/x").await;
            node.hit("/x").await;
        }
        sealed_origin(&origin, version, 500);
        let began = std::time::Instant::now();
        let receipt = nodes[0].purge_url("/x", false).await;
        assert_eq!(names(&receipt, "applied"), ["n1", "n2"], "{receipt}");
        assert!(began.elapsed().as_millis() >= u128::from(FENCE_MS), "not all may have been known sooner");
        for node in &nodes {
            assert_eq!(node.fetch("/x").await.header("x-version"), version);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_off_ends_in_time_though_the_log_does_not_reply() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let one = node(&origin, &redis).set("cache.purge", "ack_ms = 300").at_once().start().await;
    redis.freeze();
    let response = Ask::new(one.admin, http::Method::POST, "/nodes/n2/sign-off").json(&json!({})).send().await;
    redis.thaw();
    let known = response.json();
    assert_eq!(
        (response.status, known.get("left"), &known["signed_off"]),
        (504, Some(&Value::Null), &json!(0)),
        "{known}"
    );
}

/// The second node's user isn't there any more after the server was wiped, so it stays cut off and serves on.
async fn cut_off_node(origin: &Origin, redis: &Redis, cut_off: &str) -> Node {
    let user = redis.user("two").await;
    let two = Node::builder().origin(&origin.url()).redis_at(&user, 100).fence(FENCE_MS).name("n2");
    let two = two.set("cache.purge", &format!("cut_off = \"{cut_off}\"")).start().await;
    two.fetch("/x").await;
    two.hit("/x").await;
    two
}

/// Whether a process of this name is on the log's list.
async fn is_listed(redis: &Redis, name: &str) -> bool {
    redis.command(&["HKEYS", "{holm}:purge:members"]).await.contains(&format!("{name}/"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_is_known_though_the_server_was_wiped_and_the_purging_node_is_another() {
    for (cut_off, status, part) in [("ask", 200, "expired"), ("serve", 504, "missing")] {
        let (origin, redis) = (Origin::start().await, Redis::start().await);
        sealed_origin(&origin, "v1", 500);
        let builder = node(&origin, &redis).set("cache.purge", "ack_ms = 2000");
        let one = builder.spawn().await;
        let two = cut_off_node(&origin, &redis, cut_off).await;
        let receipt = one.purge_url("/other", false).await;
        assert_eq!(names(&receipt, "applied"), ["n1", "n2"], "{receipt}");
        redis.stop();
        redis.start_again().await;
        eventually("the list's being carried on", async || is_listed(&redis, "n2").await).await;
        one.kill();
        let one = builder.at_once().spawn().await;
        // Fetched within a fence of the purge, so that only the wait for its fence has it revalidated.
        two.fetch("/x").await;
        sealed_origin(&origin, "v2", 500);
        let response = one.try_purge(&json!({"url": url("/x")})).await;
        let receipt = response.json();
        assert_eq!(response.status, status, "{cut_off}: {receipt}");
        assert!(names(&receipt, part).contains(&"n2"), "{cut_off}: {receipt}");
        if status == 200 {
            assert_eq!(two.fetch("/x").await.header("x-version"), "v2");
        }
    }
}

/// Then nobody knows of the node that is cut off, but everybody knows that there may be one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_that_was_known_is_lost_purges_wait_for_a_fence_until_the_operator_knows_better() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let builder = node(&origin, &redis);
    let one = builder.spawn().await;
    let two = cut_off_node(&origin, &redis, "ask").await;
    one.kill();
    redis.stop();
    redis.start_again().await;
    let one = builder.spawn().await;
    assert!(!is_listed(&redis, "n2").await);
    // What follows on the log's beginning is over.
    one.purge_url("/other", false).await;
    two.fetch("/x").await;
    sealed_origin(&origin, "v2", 500);
    let receipt = one.purge_url("/x", false).await;
    assert_eq!((names(&receipt, "applied"), names(&receipt, "expired")), (vec!["n1"], vec![]), "{receipt}");
    assert_eq!(two.fetch("/x").await.header("x-version"), "v2");
    let strangers = async || one.metric("holm_cache_purge_strangers", "").await;
    assert_eq!(strangers().await, 1.0);
    let admin = one.admin.to_string();
    let said = run(&["purge", "--admin", admin.as_str(), "--sign-off", "*"], LIMIT).await;
    assert!(String::from_utf8_lossy(&said.stdout).contains("\"signed_off\":1"), "{said:?}");
    eventually("their being forgotten", async || strangers().await < 0.5).await;
    one.purge_url("/x", false).await;
}

/// A write that the log took, that this node hadn't read back, and that the server lost with its last second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_outlives_its_node_and_the_last_second_of_its_server() {
    let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
    origin.on("/x", |seen| match seen.method {
        http::Method::GET => Reply::fresh(600, "old"),
        _ => Reply::ok("done"),
    });
    let user = redis.user("node").await;
    let builder = Node::builder().origin(&origin.url()).redis_at(&user, 100).fence(FENCE_MS).disk(dir.path());
    let node = builder.spawn().await;
    node.purge_url("/other", false).await;
    node.fetch("/x").await;
    node.hit("/x").await;
    eventually("its value in Redis", async || !redis.values().await.is_empty()).await;
    redis.command(&["SAVE"]).await;
    // The log takes what this node appends, and the node can't read it.
    redis.command(&["ACL", "SETUSER", "node", "-xread", "-xrange"]).await;
    assert_eq!(node.post("/x").body("change").send().await.text(), "done");
    let taken = async || node.metric("holm_cache_purge_invalidations_appended_total", "").await;
    eventually("the log's having taken it", async || taken().await > 0.5).await;
    let held = async || node.metric("holm_cache_purge_invalidations_held", "").await;
    eventually("the disk's release", async || held().await < 0.5).await;
    node.kill();
    origin.on("/x", |_| Reply::fresh(600, "new"));
    redis.stop();
    redis.start_again().await;
    redis.user("node").await;
    let node = builder.spawn().await;
    assert_eq!(node.fetch("/x").await.text(), "new");
    eventually("being in step", async || node.metric("holm_cache_purge_in_step", "").await > 0.5).await;
    assert_eq!(node.fetch("/x").await.text(), "new");
}

/// A purge that is durable nowhere may be undone by a server that loses it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_that_its_nodes_disk_refuses_is_not_acknowledged() {
    let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let node = node(&origin, &redis).disk(dir.path()).spawn().await;
    for target in ["/x", "/y"] {
        node.fetch(target).await;
        node.hit(target).await;
    }
    let limit = |bytes: &str| {
        let pid = node.id().to_string();
        let limited = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).status();
        assert!(limited.unwrap().success());
    };
    limit("1000:unlimited");
    sealed_origin(&origin, "v2", 500);
    let refused = node.try_purge(&json!({"url": url("/x")})).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(node.fetch("/x").await.header("x-version"), "v2", "it has been applied all the same");
    eventually("the fence's end", async || node.metric("holm_cache_purge_in_step", "").await < 0.5).await;
    assert_eq!(node.fetch("/y").await.header("x-version"), "v2", "others may not know what it has applied");
    limit("unlimited:unlimited");
    eventually("being in step", async || node.metric("holm_cache_purge_in_step", "").await > 0.5).await;
    let receipt = node.purge_url("/x", false).await;
    assert_eq!(names(&receipt, "applied"), ["n1"], "{receipt}");
}

/// Makes `origin` respond to `/x` with what can be confirmed.
fn confirming_origin(origin: &Origin) {
    origin.on("/x", |seen| match seen.header("if-none-match") {
        "\"1\"" => Reply::status(304).header("cache-control", "max-age=600"),
        _ => Reply::fresh(600, "x").header("etag", "\"1\""),
    });
}

/// To the others it is a member that stands still: its disk says that they know it, and that it didn't sign off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_starts_while_the_server_is_out_asks_once_a_key_and_fence() {
    let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
    confirming_origin(&origin);
    let builder = node(&origin, &redis).fence(3_000).disk(dir.path());
    let node = builder.spawn().await;
    node.fetch("/x").await;
    node.hit("/x").await;
    redis.stop();
    node.kill();
    let node = builder.at_once().spawn().await;
    node.fetch("/x").await;
    node.hit("/x").await;
    let (before, began) = (origin.hits("/x"), std::time::Instant::now());
    for _ in 0..50 {
        assert_eq!(node.fetch("/x").await.text(), "x");
    }
    let periods = usize::try_from(began.elapsed().as_millis() / 3_000).unwrap() + 1;
    let asked = origin.hits("/x") - before;
    assert!(asked <= periods, "{asked} requests to the origin in {periods} fences");
    assert_eq!(node.metric("holm_cache_purge_in_step", "").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purges_wait_for_a_node_that_was_started_again_while_it_was_cut_off() {
    let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let one = node(&origin, &redis).fence(2_000).start().await;
    let user = redis.user("two").await;
    let builder = Node::builder().origin(&origin.url()).redis_at(&user, 100).fence(2_000).name("n2").disk(dir.path());
    let two = builder.spawn().await;
    two.fetch("/x").await;
    two.hit("/x").await;
    redis.command(&["ACL", "SETUSER", "two", "-xread", "-xrange", "-eval", "-evalsha"]).await;
    two.kill();
    let two = builder.at_once().spawn().await;
    for (version, next) in [("v1", "v2"), ("v2", "v3")] {
        // Fetched within a fence of the purge, and served without asking: only the wait for its fence ends that.
        two.fetch("/x").await;
        assert_eq!(two.hit("/x").await.header("x-version"), version);
        sealed_origin(&origin, next, 500);
        let began = std::time::Instant::now();
        let receipt = one.purge_url("/x", false).await;
        assert_eq!((names(&receipt, "applied"), names(&receipt, "expired")), (vec!["n1"], vec!["n2"]), "{receipt}");
        assert!(began.elapsed().as_millis() >= 2_000, "its fence can't have expired sooner");
        assert_eq!(two.fetch("/x").await.header("x-version"), next);
    }
}

/// What the copy says of a process may be so on the original: it is another file, and who has it may still be there.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_on_a_copy_of_a_killed_nodes_directory_takes_nothing_from_that_one() {
    for name in ["n2", "n3"] {
        let (origin, redis, dirs) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
        sealed_origin(&origin, "v1", 500);
        let (dir, copy) = (dirs.path().join("original"), dirs.path().join("copy"));
        let one = node(&origin, &redis).fence(2_000).start().await;
        let user = redis.user("two").await;
        let builder = Node::builder().origin(&origin.url()).redis_at(&user, 100).fence(2_000).name("n2").disk(&dir);
        let two = builder.spawn().await;
        two.fetch("/x").await;
        two.hit("/x").await;
        two.kill();
        let copied = std::process::Command::new("cp").arg("-a").args([&dir, &copy]).status();
        assert!(copied.unwrap().success());
        let on_copy = node(&origin, &redis).fence(2_000).name(name).disk(&copy).at_once().spawn().await;
        let in_step = async || on_copy.metric("holm_cache_purge_in_step", "").await > 0.5;
        eventually("the other's being in step", in_step).await;
        redis.command(&["ACL", "SETUSER", "two", "-xread", "-xrange", "-eval", "-evalsha"]).await;
        let two = builder.at_once().spawn().await;
        two.fetch("/x").await;
        assert_eq!(two.hit("/x").await.header("x-version"), "v1", "it has taken its own place");
        sealed_origin(&origin, "v2", 500);
        let began = std::time::Instant::now();
        let receipt = one.purge_url("/x", false).await;
        assert!(began.elapsed().as_millis() >= 2_000, "its fence can't have expired sooner: {receipt}");
        assert!(names(&receipt, "expired").contains(&"n2"), "{receipt}");
        assert_eq!(two.fetch("/x").await.header("x-version"), "v2");
    }
}

/// A list that was lost by itself: the log and its server are what they were, and no node was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_is_signed_on_again_though_only_the_list_was_lost() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let one = node(&origin, &redis).start().await;
    let two = cut_off_node(&origin, &redis, "ask").await;
    let receipt = one.purge_url("/other", false).await;
    assert_eq!(names(&receipt, "applied"), ["n1", "n2"], "{receipt}");
    redis.command(&["ACL", "SETUSER", "two", "-xread", "-xrange", "-eval", "-evalsha"]).await;
    redis.command(&["DEL", "{holm}:purge:members"]).await;
    eventually("its being listed again", async || is_listed(&redis, "n2").await).await;
    two.fetch("/x").await;
    sealed_origin(&origin, "v2", 500);
    let receipt = one.purge_url("/x", false).await;
    assert_eq!((names(&receipt, "applied"), names(&receipt, "expired")), (vec!["n1"], vec!["n2"]), "{receipt}");
    assert_eq!(two.fetch("/x").await.header("x-version"), "v2");
    // To sign off is more than to be missing.
    let said = Ask::new(one.admin, http::Method::POST, "/nodes/n2/sign-off").json(&json!({})).send().await;
    let known = said.json();
    assert_eq!((said.status, &known["signed_off"]), (200, &json!(1)), "{known}");
    let receipt = one.purge_url("/x", false).await;
    assert_eq!((names(&receipt, "applied"), names(&receipt, "expired")), (vec!["n1"], vec![]), "{receipt}");
    assert!(!is_listed(&redis, "n2").await);
}

/// That it left once is nothing that a node which starts later may take for its last word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_left_and_came_back_is_not_taken_for_one_that_left() {
    let (origin, redis, dir) = (Origin::start().await, Redis::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let builder = node(&origin, &redis).disk(dir.path());
    let one = builder.spawn().await;
    let two = cut_off_node(&origin, &redis, "ask").await;
    let receipt = one.purge_url("/other", false).await;
    assert_eq!(names(&receipt, "applied"), ["n1", "n2"], "{receipt}");
    let said = Ask::new(one.admin, http::Method::POST, "/nodes/n2/sign-off").json(&json!({})).send().await;
    assert_eq!(said.status, 200);
    eventually("its being listed again", async || is_listed(&redis, "n2").await).await;
    let receipt = one.purge_url("/other", false).await;
    assert_eq!(names(&receipt, "applied"), ["n1", "n2"], "{receipt}");
    redis.command(&["ACL", "SETUSER", "two", "-xread", "-xrange", "-eval", "-evalsha"]).await;
    redis.command(&["DEL", "{holm}:purge:members"]).await;
    one.kill();
    let one = builder.spawn().await;
    eventually("being in step", async || one.metric("holm_cache_purge_in_step", "").await > 0.5).await;
    two.fetch("/x").await;
    sealed_origin(&origin, "v2", 500);
    let receipt = one.purge_url("/x", false).await;
    assert!(names(&receipt, "expired").contains(&"n2"), "{receipt}");
    assert_eq!(two.fetch("/x").await.header("x-version"), "v2");
}

/// Whether the log is the one that the killed node knew, is known a fence later. A load balancer needn't wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_ready_soon_though_a_member_of_its_region_was_killed() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    confirming_origin(&origin);
    let builder = node(&origin, &redis).fence(30_000).at_once();
    let _one = builder.start().await;
    let two = builder.clone().name("n2").spawn().await;
    eventually("being in step", async || two.metric("holm_cache_purge_in_step", "").await > 0.5).await;
    two.kill();
    let three = builder.name("n3").start().await;
    three.fetch("/x").await;
    three.hit("/x").await;
    let before = origin.hits("/x");
    for _ in 0..20 {
        three.fetch("/x").await;
    }
    assert_eq!(origin.hits("/x"), before, "once a key and fence");
    assert_eq!(three.metric("holm_cache_purge_in_step", "").await, 0.0, "it doesn't know yet");
}
