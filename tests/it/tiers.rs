//! Memory, disk and Redis: what each keeps, and that none of them can fail a request.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{
    client::Ask,
    eventually, found, is_sealed,
    load::{Load, sealed_origin},
    node::{Node, url},
    origin::{Origin, Reply},
    proxy::Proxy,
    redis::Redis,
    sealed, within,
};

const BIG: usize = 5 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_disk_is_there_after_a_restart() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 10_000);
    let builder = Node::builder().origin(&origin.url()).disk(dir.path());
    let node = builder.start().await;
    let targets: Vec<String> = (0..20).map(|n| format!("/kept/{n}")).collect();
    for target in &targets {
        node.fetch(target).await;
        node.hit(target).await;
    }
    node.stop().await;

    let node = builder.start().await;
    for target in &targets {
        let response = node.fetch(target).await;
        assert_eq!(
            (response.is_hit(), response.cache().get("detail")),
            (true, "disk"),
            "{target}: {:?}",
            response.cache()
        );
        assert!(is_sealed(&response.body) && response.header("x-for") == target);
        assert_eq!(origin.hits(target), 1, "{target}");
    }
    eventually("promotion", async || node.fetch("/kept/0").await.cache().get("detail") == "memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_region_share_a_redis() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.on("/shared", |_| Reply::fresh(600, sealed("shared", 5000)).header("x-own", "kept").header("etag", "\"1\""));
    let builder = Node::builder().origin(&origin.url()).redis(&redis);
    let one = builder.start().await;
    let two = builder.name("n2").start().await;

    one.fetch("/shared").await;
    let hit = two.hit("/shared").await;
    assert_eq!((hit.cache().get("detail"), hit.cache().node.as_str()), ("redis", "n2"));
    assert_eq!((&hit.body, hit.header("x-own"), hit.header("etag")), (&sealed("shared", 5000), "kept", "\"1\""));
    eventually("promotion", async || two.fetch("/shared").await.cache().get("detail") == "memory").await;
    assert_eq!(origin.hits("/shared"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_that_share_a_redis_do_not_share_responses() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).redis(&redis);
    let one = builder.clone().set("cache", "namespace = \"one\"").start().await;
    let same = builder.clone().name("n2").set("cache", "namespace = \"one\"").start().await;
    let other = builder.name("n3").set("cache", "namespace = \"two\"").start().await;
    one.fetch("/x").await;
    same.hit("/x").await;
    assert!(other.cached("/x").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_body_is_the_same_from_memory_and_from_redis() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let body = sealed("big", BIG);
    let sent = body.clone();
    origin.on("/big", move |_| Reply::fresh(600, sent.clone()).header("etag", "\"big\""));
    let builder = Node::builder().origin(&origin.url()).redis(&redis);
    let one = builder.start().await;
    let two = builder.name("n2").start().await;

    assert!(one.fetch("/big").await.body == body, "from the origin");
    let hit = one.hit("/big").await;
    assert!(hit.body == body && hit.header("content-length") == BIG.to_string(), "from {:?}", hit.cache());
    let hit = two.hit("/big").await;
    assert!(hit.body == body && hit.cache().get("detail") == "redis", "from {:?}", hit.cache());
    assert_eq!(hit.header("etag"), "\"big\"");
    let head = two.ask(http::Method::HEAD, "/big").send().await;
    assert_eq!((head.status, head.is_hit(), head.body.len()), (200, true, 0));
    assert_eq!(origin.hits("/big"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_body_survives_a_restart_on_disk_alone() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    let body = sealed("big", BIG);
    let sent = body.clone();
    origin.on("/big", move |_| Reply::fresh(600, sent.clone()));
    let builder = Node::builder().origin(&origin.url()).disk(dir.path());
    let node = builder.start().await;
    node.fetch("/big").await;
    node.hit("/big").await;
    node.stop().await;
    let node = builder.start().await;
    let hit = node.fetch("/big").await;
    assert!(hit.body == body && hit.cache().get("detail") == "disk", "from {:?}", hit.cache());
    assert_eq!(origin.hits("/big"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_may_freeze_stop_and_start_under_load_without_a_failed_request() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 2000);
    let node = Node::builder().origin(&origin.url()).redis_within(&redis, 50).start().await;
    // Every second request is for something new, so that every tier is read all the time.
    let load = Load::start(&node, 8, |n| if n % 2 == 0 { format!("/new/{n}") } else { format!("/old/{}", n % 50) });
    load.more(200).await;
    redis.freeze();
    load.more(300).await;
    redis.thaw();
    load.more(200).await;
    redis.stop();
    load.more(300).await;
    redis.start_again().await;
    load.more(300).await;
    redis.freeze();
    load.more(100).await;
    redis.stop();
    load.more(100).await;
    let (wrong, slowest) = load.finish().await;
    assert!(wrong.is_empty(), "{} failed, first {:?}", wrong.len(), wrong.first());
    assert!(slowest < Duration::from_secs(5), "a request took {slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_used_again_when_it_is_back() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).redis(&redis);
    let one = builder.start().await;
    let two = builder.name("n2").start().await;
    redis.stop();
    for n in 0..20 {
        assert_eq!(one.fetch(&format!("/away/{n}")).await.status, 200);
    }
    redis.start_again().await;
    let mut n = 0;
    eventually("sharing again", async || {
        n += 1;
        let target = format!("/back/{n}");
        one.fetch(&target).await;
        two.cached(&target).await.is_some_and(|hit| hit.cache().get("detail") == "redis")
    })
    .await;
}

/// A proxy in front of a Redis, and the URL of the Redis through it.
async fn distant(redis: &Redis) -> (Proxy, String) {
    let proxy = Proxy::start(redis.url().trim_start_matches("redis://")).await;
    let url = format!("redis://{}", proxy.address());
    (proxy, url)
}

/// How many values a cache has stored in Redis.
async fn stored(redis: &Redis) -> usize {
    redis.ask(redis::cmd("EVAL").arg("return #redis.call('KEYS', '*:o:*')").arg(0)).await
}

/// How often Redis has run a command since its counts began.
async fn calls(redis: &Redis, command: &str) -> usize {
    let counts: String = redis.ask(redis::cmd("INFO").arg("commandstats")).await;
    let name = format!("cmdstat_{command}:calls=");
    let count = counts.lines().find_map(|line| line.strip_prefix(name.as_str())?.split(',').next()?.parse().ok());
    count.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_objects_fetched_at_once_all_reach_a_redis_that_is_a_millisecond_away() {
    const ROUNDS: usize = 10;
    const CLIENTS: usize = 50;
    const EACH: usize = 20;
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 1_000);
    let (proxy, through) = distant(&redis).await;
    let node = &Node::builder().origin(&origin.url()).redis_at(&through, 2000).start().await;
    proxy.delay(Duration::from_millis(1));
    for round in 0..ROUNDS {
        let client = |number: usize| async move {
            let mut connection = node.h1().await;
            for n in 0..EACH {
                let target = format!("/{round}/{number}/{n}");
                assert_eq!(connection.send(node.get(&target)).await.status, 200, "{target}");
            }
        };
        within("a thousand requests", join_all((0..CLIENTS).map(client))).await;
    }
    eventually("all of them in Redis", async || stored(&redis).await == ROUNDS * CLIENTS * EACH).await;
    assert_eq!(node.metric("holm_cache_redis_writes_dropped_total", "").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_is_one_round_trip_to_redis() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.on("*", |_| Reply::fresh(600, sealed("varies", 500)).header("vary", "accept-language"));
    let (proxy, through) = distant(&redis).await;
    let one = Node::builder().origin(&origin.url()).redis(&redis).start().await;
    let two = Node::builder().origin(&origin.url()).redis_at(&through, 2000).name("n2").start().await;
    let targets: Vec<String> = (0..20).map(|n| format!("/{n}")).collect();
    for target in &targets {
        one.fetch(target).await;
    }
    eventually("names and variants in Redis", async || stored(&redis).await == 2 * targets.len()).await;
    proxy.delay(Duration::from_millis(5));
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    for target in &targets {
        assert_eq!(two.fetch(&format!("/missing{target}")).await.status, 200);
    }
    assert_eq!((calls(&redis, "get").await, calls(&redis, "mget").await), (targets.len(), 0), "nothing is stored");
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    for target in &targets {
        assert_eq!(two.fetch(target).await.cache().get("detail"), "redis");
    }
    assert_eq!(calls(&redis, "get").await, 2 * targets.len(), "the names, and the variant");
    for target in &targets {
        let response = two.get(target).header("accept-language", "eo").send().await;
        assert!(response.status == 200 && !response.is_hit());
    }
    assert_eq!(calls(&redis, "get").await, 3 * targets.len(), "the names are known");
}

/// Each step of these look-ups would be in time by itself; both together aren't.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_steps_of_a_look_up_share_one_budget_and_a_redis_too_slow_for_it_is_left_alone() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.on("*", |_| Reply::fresh(600, sealed("varies", 500)).header("vary", "accept-language"));
    let (proxy, through) = distant(&redis).await;
    let one = Node::builder().origin(&origin.url()).redis(&redis).start().await;
    // Once the breaker has opened it stays so.
    let breaker = "breaker = { failures = 3, open_ms = 60_000, open_ms_max = 60_000 }";
    let lines = format!("url = \"{through}\"\nbudget_ms = 100\n{breaker}");
    let builder = Node::builder().origin(&origin.url()).set("cache.redis", &lines).fence(700).name("n2");
    let two = builder.start().await;
    eventually("being in step", async || two.metric("holm_cache_purge_in_step", "").await > 0.5).await;
    let targets: Vec<String> = (0..8).map(|n| format!("/{n}")).collect();
    for target in &targets {
        one.fetch(target).await;
    }
    eventually("names and variants in Redis", async || stored(&redis).await == 2 * targets.len()).await;
    two.fetch("/warm").await;
    eventually("the connection for writes", async || stored(&redis).await == 2 * targets.len() + 2).await;
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    proxy.delay(Duration::from_millis(60));
    let before = origin.total();
    for response in join_all(targets.iter().map(|target| two.fetch(target))).await {
        assert!(response.status == 200 && !response.is_hit(), "{:?}", response.cache());
    }
    assert_eq!(origin.total(), before + targets.len());
    let skipped = two.metric("holm_cache_redis_skipped_total", "").await;
    let asked = calls(&redis, "get").await;
    two.fetch("/later").await;
    assert_eq!(two.metric("holm_cache_redis_skipped_total", "").await, skipped + 1.0);
    assert!(asked > 2 && calls(&redis, "get").await == asked, "{asked} steps, and none after them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_body_are_read_by_one_command_or_else_one_by_one() {
    const PARTS: usize = 32;
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let body = sealed("big", PARTS * (64 << 10));
    let sent = body.clone();
    origin.on("/big", move |_| Reply::fresh(600, sent.clone()));
    let builder = Node::builder().origin(&origin.url()).set("cache", "part_bytes = \"64KiB\"\npart_ms = 20_000");
    let one = builder.clone().redis(&redis).start().await;
    one.fetch("/big").await;
    eventually("the head and the parts in Redis", async || stored(&redis).await == 1 + PARTS).await;
    let without = redis.user("without").await;
    redis.command(&["ACL", "SETUSER", "without", "-mget"]).await;

    // The head tells which parts there are, and the first of them whether there is a body.
    for (name, url, commands) in [("n2", redis.url(), (2, 1)), ("n3", without, (1 + PARTS, 0))] {
        let node = builder.clone().redis_at(&url, 2000).name(name).start().await;
        redis.command(&["CONFIG", "RESETSTAT"]).await;
        let response = node.fetch("/big").await;
        assert!(response.body == body && response.cache().get("detail") == "redis", "{name}: {:?}", response.cache());
        assert_eq!((calls(&redis, "get").await, calls(&redis, "mget").await), commands, "{name}");
        assert_eq!(node.metric("holm_cache_parts_missing_total", "").await, 0.0, "{name}");
    }
    assert_eq!(origin.hits("/big"), 1);
}

/// A write may wait in a queue or a socket while its URL is purged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_arrives_after_a_purge_is_never_served() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).redis(&redis);
    let one = builder.start().await;
    one.fetch("/x").await;
    let name = found("its being in Redis", async || redis.values().await.into_keys().next()).await;
    let late: Vec<u8> = redis.ask(redis::cmd("GET").arg(&name)).await;
    redis.ask::<()>(redis::cmd("DEL").arg(&name)).await;
    sealed_origin(&origin, "v2", 500);
    one.purge_url("/x", false).await;
    let two = builder.name("n2").start().await;
    redis.ask::<()>(redis::cmd("SET").arg(&name).arg(late).arg("PX").arg(600_000)).await;
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    for node in [&two, &one] {
        assert_eq!(node.fetch("/x").await.header("x-version"), "v2");
    }
    assert!(calls(&redis, "get").await > 0, "what was written late was looked at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_ends_amid_writes_costs_these_and_no_purge() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    sealed_origin(&origin, "v1", 2000);
    let (proxy, through) = distant(&redis).await;
    let mut process = Node::builder().origin(&origin.url()).redis_at(&through, 500).spawn().await;
    proxy.delay(Duration::from_millis(20));
    let load = Load::start(&process, 16, |n| format!("/{n}"));
    load.more(500).await;
    redis.stop();
    load.more(500).await;
    redis.start_again().await;
    load.more(500).await;
    let (wrong, _) = load.finish().await;
    assert!(wrong.is_empty(), "{} failed, first {:?}", wrong.len(), wrong.first());
    assert!(process.metric("holm_cache_redis_errors_total", "").await > 0.0);
    let mut n = 0;
    eventually("writing again", async || {
        n += 1;
        process.fetch(&format!("/back/{n}")).await;
        stored(&redis).await > 0
    })
    .await;

    process.fetch("/x").await;
    sealed_origin(&origin, "v2", 2000);
    let purge = json!({"url": url("/x")});
    eventually("a purge", async || {
        Ask::new(process.admin, http::Method::POST, "/purge").json(&purge).send().await.status == 200
    })
    .await;
    assert_eq!(process.fetch("/x").await.header("x-version"), "v2");
    assert!(process.is_alive() && !process.said().contains("panicked"), "{}", process.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_on_one_directory_is_refused() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 500);
    let builder = Node::builder().origin(&origin.url()).disk(dir.path());
    let node = builder.start().await;
    let Err(refused) = builder.clone().name("n2").try_start().await else { panic!("two nodes on one directory") };
    for words in ["another node", &dir.path().display().to_string()] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    // The first one notices nothing.
    node.fetch("/x").await;
    node.hit("/x").await;
    node.stop().await;
    builder.name("n2").start().await.hit("/x").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_read_is_one_line_in_the_log() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 60_000);
    let builder = Node::builder().origin(&origin.url()).disk(dir.path()).memory("1MiB");
    let mut process = builder.spawn().await;
    let targets: Vec<String> = (0..40).map(|n| format!("/d/{n}")).collect();
    for target in &targets {
        process.fetch(target).await;
        process.hit(target).await;
    }
    process.signal("TERM");
    assert!(process.ended().await.success());

    let process = builder.spawn().await;
    for entry in std::fs::read_dir(dir.path().join("objects")).unwrap() {
        std::fs::File::options().write(true).open(entry.unwrap().path()).unwrap().set_len(0).unwrap();
    }
    for target in &targets {
        let response = process.fetch(target).await;
        assert!(response.status == 200 && is_sealed(&response.body), "{target}");
    }
    assert!(process.metric("holm_cache_disk_errors_total", "").await > 5.0);
    let said = process.said();
    let lines = |words: &str| said.lines().filter(|line| line.contains(words)).count();
    assert_eq!(lines("a read from the disk tier failed"), 1, "{said}");
    assert!(lines("a value on disk was gone") <= 1 && lines("block engine load") == 0, "{said}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_no_request() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 60_000);
    // Past a limit on file sizes the system sends XFSZ, which ends a process that doesn't expect it.
    let mut process = Node::builder().origin(&origin.url()).disk(dir.path()).spawn().await;
    let limit = |bytes: &str| {
        let id = process.id().to_string();
        let status = std::process::Command::new("prlimit").args(["--pid", &id, &format!("--fsize={bytes}:")]).status();
        assert!(status.unwrap().success(), "prlimit");
    };
    let load = Load::start(&process, 4, |n| format!("/d/{}", n % 600));
    load.more(200).await;
    limit("4096");
    load.more(1000).await;
    limit("unlimited");
    load.more(200).await;
    let (wrong, _) = load.finish().await;
    assert!(wrong.is_empty(), "{} failed, first {:?}", wrong.len(), wrong.first());
    let said = process.said();
    // foyer's own writer may panic at a failed write, in its own threads: the tier is then without new values.
    let ours = said.lines().filter(|line| line.starts_with("thread '") && !line.starts_with("thread 'holm-disk'"));
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(process.is_alive());
}
