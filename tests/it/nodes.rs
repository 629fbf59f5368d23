//! Which nodes a region has, and how they are drained.

use std::ffi::OsStr;

use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::{
    LIMIT,
    client::{Ask, Response},
    etcd::{Etcd, is_there},
    eventually, found,
    node::{Builder, Node, NodeHandle},
    origin::{Origin, Reply},
    process::{Process, run, words},
    quoted,
    redis::Redis,
};

async fn builder() -> (Origin, Builder) {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "served"));
    let builder = Node::builder().origin(&origin.url()).set("timeouts", "drain_delay_ms = 600_000");
    (origin, builder)
}

/// Returns what a node says of all, by their names and states.
async fn states(node: &NodeHandle) -> Vec<(String, String)> {
    let report = node.admin("/nodes").send().await.json();
    let text = |node: &Value, member: &str| node[member].as_str().unwrap().to_owned();
    report["nodes"].as_array().unwrap().iter().map(|node| (text(node, "name"), text(node, "state"))).collect()
}

async fn see(node: &NodeHandle, wanted: &[(&str, &str)]) {
    eventually("the states of the nodes", async || {
        let seen = states(node).await;
        seen.iter().map(|(name, state)| (name.as_str(), state.as_str())).eq(wanted.iter().copied())
    })
    .await;
}

async fn drain(node: &NodeHandle, what: &Value) -> Response {
    Ask::new(node.admin, Method::POST, "/drain").json(what).send().await
}

/// Whether an order was read by two nodes, which are all that it is for.
fn is_read_by_both(order: &Value) -> bool {
    (&order["read"], &order["unread"]) == (&json!(["n1", "n2"]), &json!([]))
}

async fn is_ready(node: &NodeHandle) -> bool {
    node.admin("/readyz").send().await.status == 200
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_knows_itself() {
    let (_origin, builder) = builder().await;
    let node = builder.start().await;
    let report = node.admin("/nodes").send().await.json();
    assert_eq!((&report["shared"], report.get("error")), (&json!(false), None));
    let own = &report["nodes"][0];
    assert_eq!((&own["name"], &own["state"], &own["own"]), (&json!("n1"), &json!("live"), &json!(true)));
    assert_eq!(own["said"]["addresses"], json!([node.address.to_string()]));
    assert_eq!(own["said"]["version"], json!(env!("CARGO_PKG_VERSION")));
    assert_eq!(node.metric("holm_nodes", "state=\"live\"").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_of_a_region_see_each_other_come_and_go() {
    let ((_origin, builder), redis) = (builder().await, Redis::start().await);
    let one = builder.clone().redis(&redis).start().await;
    let two = builder.clone().redis(&redis).name("n2").start().await;
    let three = builder.clone().redis(&redis).name("n3").spawn().await;
    for node in [&*one, &*two] {
        see(node, &[("n1", "live"), ("n2", "live"), ("n3", "live")]).await;
    }
    one.adopt(&builder.redis(&redis).route("grace_ms = 5")).await.unwrap();
    found("its second configuration", async || {
        let report = two.admin("/nodes").send().await.json();
        (report["nodes"][0]["said"]["config_generation"] == json!(2)).then_some(())
    })
    .await;
    // One signs off, and one can't.
    two.stop().await;
    three.kill();
    see(&one, &[("n1", "live"), ("n3", "suspected")]).await;
    assert_eq!(one.metric("holm_nodes", "state=\"suspected\"").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_drains_isnt_ready_serves_on_and_can_be_called_back() {
    let (_origin, builder) = builder().await;
    let node = builder.start().await;
    let begun = drain(&node, &json!({})).await;
    assert_eq!((begun.status, &begun.json()["delay_ms"]), (200, &json!(600_000)), "{}", begun.text());
    let readiness = node.admin("/readyz").send().await;
    assert_eq!((readiness.status, &readiness.json()["reasons"]), (503, &json!(["the node is draining"])));
    assert_eq!(states(&node).await, [("n1".to_owned(), "draining".to_owned())]);
    assert_eq!(node.fetch("/x").await.status, 200);
    assert_eq!(drain(&node, &json!({"cancel": true})).await.status, 200);
    assert!(is_ready(&node).await);
    for region in [json!(true), json!("eu")] {
        let alone = drain(&node, &json!({"region": region})).await;
        assert_eq!(alone.status, 409, "{}", alone.text());
    }
    assert!(is_ready(&node).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_its_delay_a_node_that_drains_stops_as_by_term() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "served"));
    let node = Node::builder().origin(&origin.url()).set("timeouts", "drain_delay_ms = 0").start().await;
    assert_eq!(node.fetch("/x").await.status, 200);
    assert_eq!(drain(&node, &json!({})).await.status, 200);
    eventually("its end", async || TcpStream::connect(node.address).await.is_err()).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_drained_and_called_back_through_any_of_its_nodes() {
    let ((_origin, builder), redis) = (builder().await, Redis::start().await);
    let builder = builder.redis(&redis);
    let nodes = [builder.start().await, builder.clone().name("n2").start().await];
    see(&nodes[0], &[("n1", "live"), ("n2", "live")]).await;
    see(&nodes[1], &[("n1", "live"), ("n2", "live")]).await;
    let asked = drain(&nodes[1], &json!({"region": true})).await;
    let order = asked.json()["order"].clone();
    assert!(asked.status == 200 && is_read_by_both(&order), "{order}");
    assert!(!is_ready(&nodes[1]).await && !is_ready(&nodes[0]).await);
    // A node that comes now wasn't meant.
    let later = builder.clone().name("n3").start().await;
    see(&later, &[("n1", "draining"), ("n2", "draining"), ("n3", "live")]).await;
    assert_eq!(drain(&nodes[0], &json!({"region": true, "cancel": true})).await.status, 200);
    eventually("the other's being called back", async || is_ready(&nodes[1]).await).await;
    assert!(is_ready(&nodes[0]).await && is_ready(&later).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_read_an_order_is_named_and_does_as_asked_when_it_can() {
    let ((_origin, builder), redis) = (builder().await, Redis::start().await);
    let one = builder.clone().redis(&redis).start().await;
    let user = redis.user("two").await;
    let two = builder.redis_at(&user, 2000).name("n2").start().await;
    see(&one, &[("n1", "live"), ("n2", "live")]).await;
    redis.command(&["ACL", "SETUSER", "two", "-getrange"]).await;
    let admin = one.admin.to_string();
    let said = run(&["drain", "--admin", &admin, "--region"], LIMIT).await;
    assert_eq!(said.status.code(), Some(3), "{}", words(&said));
    assert!(words(&said).contains("n1: not ready") && words(&said).contains("not read yet by n2"), "{}", words(&said));
    assert!(is_ready(&two).await && !is_ready(&one).await);
    let left: i64 = redis.ask(redis::cmd("PTTL").arg("{holm}:nodes:order")).await;
    assert!((1..=600_000).contains(&left), "{left}");
    redis.command(&["ACL", "SETUSER", "two", "+getrange"]).await;
    eventually("its drain", async || !is_ready(&two).await).await;
    let said = run(&["drain", "--admin", &admin, "--region", "--undo"], LIMIT).await;
    assert_eq!(said.status.code(), Some(0), "{}", words(&said));
    assert!(is_ready(&one).await && is_ready(&two).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_drained_from_another_one_which_is_not() {
    if !is_there() {
        return;
    }
    let ((_origin, builder), etcd) = (builder().await, Etcd::start().await);
    let (eu, us) = (Redis::start().await, Redis::start().await);
    let of = |region: &str, redis: &Redis, name: &str| {
        let global = format!("etcd = [{}]\ntimeout_ms = 500", quoted(&etcd.url()));
        let builder = builder.clone().redis(redis).name(name).set("region", &format!("name = {}", quoted(region)));
        builder.set("global", &global).set("global.purge", "fence_ms = 700\nack_ms = 10_000")
    };
    let (one, two) = (of("eu", &eu, "n1").start().await, of("eu", &eu, "n2").start().await);
    let far = of("us", &us, "n1").start().await;
    let unknown = drain(&far, &json!({"region": "ap"})).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
    for (cancel, node) in [(false, &far), (true, &far), (false, &one), (true, &two)] {
        let asked = drain(node, &json!({"region": "eu", "cancel": cancel})).await;
        let order = asked.json()["order"].clone();
        assert!(asked.status == 200 && is_read_by_both(&order), "{order}");
        assert_eq!((is_ready(&one).await, is_ready(&two).await), (cancel, cancel), "{cancel}");
        assert!(is_ready(&far).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_cut_off_from_etcd_can_be_drained() {
    if !is_there() {
        return;
    }
    let ((_origin, builder), etcd, redis) = (builder().await, Etcd::start().await, Redis::start().await);
    let global = format!("etcd = [{}]\ntimeout_ms = 500", quoted(&etcd.url()));
    let builder = builder.redis(&redis).set("region", "name = \"eu\"").set("global", &global);
    let builder = builder.set("global.purge", "fence_ms = 700\nack_ms = 10_000");
    let (one, two) = (builder.start().await, builder.clone().name("n2").start().await);
    etcd.kill();
    let asked = drain(&one, &json!({"region": "eu"})).await;
    let order = asked.json()["order"].clone();
    assert!(asked.status == 200 && is_read_by_both(&order), "{order}");
    assert!(!order["errors"].as_array().unwrap().is_empty(), "{order}");
    assert!(!is_ready(&one).await && !is_ready(&two).await);
    let elsewhere = drain(&one, &json!({"region": "us"})).await;
    assert_eq!(elsewhere.status, 503, "{}", elsewhere.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_a_live_node_has_is_refused_with_its_address() {
    let ((_origin, builder), redis) = (builder().await, Redis::start().await);
    let builder = builder.redis(&redis);
    let one = builder.start().await;
    let Err(refused) = builder.try_start().await else { panic!("two nodes of one name") };
    for words in ["has the name `n1`", &one.address.to_string(), &one.admin.to_string()] {
        assert!(refused.contains(words), "{refused}");
    }
    assert_eq!(one.fetch("/x").await.status, 200);
    see(&one, &[("n1", "live")]).await;
    one.stop().await;
    let next = builder.start().await;
    assert_eq!(next.fetch("/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_a_live_node_of_the_region_has_in_etcd_is_refused() {
    if !is_there() {
        return;
    }
    let ((_origin, builder), etcd) = (builder().await, Etcd::start().await);
    let of = |region: &str| {
        let global = format!("etcd = [{}]", quoted(&etcd.url()));
        builder.clone().set("region", &format!("name = {}", quoted(region))).set("global", &global)
    };
    let one = of("eu").start().await;
    let Err(refused) = of("eu").try_start().await else { panic!("two nodes of one name") };
    assert!(refused.contains(&one.address.to_string()), "{refused}");
    let far = of("us").start().await;
    assert_eq!(far.fetch("/x").await.status, 200, "the region is a part of the name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_has_its_name_back() {
    for has_disk in [true, false] {
        let ((_origin, builder), redis) = (builder().await, Redis::start().await);
        let (dir, other) = (tempfile::tempdir().unwrap(), builder.clone().name("n2").redis(&redis).start().await);
        let builder = builder.redis(&redis);
        let builder = if has_disk { builder.disk(dir.path()) } else { builder };
        let killed = builder.spawn().await;
        see(&other, &[("n1", "live"), ("n2", "live")]).await;
        killed.kill();
        // Without its directory it is another one than the killed one, which purges wait for: nothing says that it ended.
        let back = if has_disk { builder.spawn().await } else { Process::serve(&builder.text()).await };
        if has_disk && cfg!(target_os = "linux") {
            assert!(!back.said().contains("the node's name is taken"), "{}", back.said());
        }
        // The former process is no longer listed once it has been silent for a while.
        see(&back, &[("n1", "live"), ("n2", "live")]).await;
        assert_eq!(back.fetch("/x").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_keeps_the_name() {
    let ((_origin, builder), redis, dir) = (builder().await, Redis::start().await, tempfile::tempdir().unwrap());
    let socket = quoted(&dir.path().join("takeover.sock").display().to_string());
    let builder = builder.redis(&redis).set("takeover", &format!("socket = {socket}\ngrace_ms = 1_000"));
    let mut old = builder.spawn().await;
    let next = Process::succeed(&builder.text()).await;
    assert!(old.ended().await.success(), "{}", old.said());
    assert_eq!(next.address, old.address);
    let without = Node::builder().origin("http://127.0.0.1:1").redis(&redis);
    let Err(refused) = without.try_start().await else { panic!("two nodes of one name") };
    assert!(refused.contains(&next.address.to_string()), "{refused}");
    see(&next, &[("n1", "live")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_takes_no_name_of_another_live_node() {
    let ((_origin, builder), redis) = (builder().await, Redis::start().await);
    let (dir, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let builder = builder.redis(&redis);
    let other = builder.clone().name("n2").start().await;
    let socket = quoted(&dir.path().join("takeover.sock").display().to_string());
    let builder = builder.disk(disk.path()).set("takeover", &format!("socket = {socket}\ngrace_ms = 1_000"));
    let mut old = builder.spawn().await;
    see(&other, &[("n1", "live"), ("n2", "live")]).await;
    let file = dir.path().join("next.toml");
    std::fs::write(&file, builder.clone().name("n2").text()).unwrap();
    let arguments = [OsStr::new("serve"), OsStr::new("--config"), file.as_os_str(), OsStr::new("--takeover")];
    let refused = run(&arguments, LIMIT).await;
    let said = words(&refused);
    assert!(!refused.status.success() && said.contains("has the name `n2`"), "{said}");
    assert!(said.contains(&other.address.to_string()), "{said}");
    // It had everything all the time.
    assert!(old.is_alive() && !old.said().contains("gets its directories"), "{}", old.said());
    assert_eq!(old.fetch("/x").await.status, 200);
    see(&other, &[("n1", "live"), ("n2", "live")]).await;
    // Another name that nobody has is free for it.
    std::fs::write(&file, builder.clone().name("n3").text()).unwrap();
    let next = Process::succeed(&std::fs::read_to_string(&file).unwrap()).await;
    assert!(old.ended().await.success(), "{}", old.said());
    see(&other, &[("n2", "live"), ("n3", "live")]).await;
    assert_eq!(next.fetch("/x").await.status, 200);
}
