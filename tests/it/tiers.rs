//! Memory, disk and Redis: what each keeps, and that none of them can fail a request.

use std::time::Duration;

use crate::harness::{
    eventually, is_sealed,
    load::{Load, sealed_origin},
    node::Node,
    origin::{Origin, Reply},
    redis::Redis,
    sealed,
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
