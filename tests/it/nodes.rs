//! Which nodes a region has, and how they are drained.

use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::{
    client::{Ask, Response},
    eventually, found,
    node::{Builder, Node, NodeHandle},
    origin::{Origin, Reply},
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
    let alone = drain(&node, &json!({"region": true})).await;
    assert_eq!(alone.status, 409, "{}", alone.text());
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
    assert_eq!(drain(&nodes[1], &json!({"region": true})).await.status, 200);
    assert!(!is_ready(&nodes[1]).await);
    eventually("the other's drain", async || !is_ready(&nodes[0]).await).await;
    // A node that comes now wasn't meant.
    let later = builder.clone().name("n3").start().await;
    see(&later, &[("n1", "draining"), ("n2", "draining"), ("n3", "live")]).await;
    assert_eq!(drain(&nodes[0], &json!({"region": true, "cancel": true})).await.status, 200);
    eventually("the other's being called back", async || is_ready(&nodes[1]).await).await;
    assert!(is_ready(&nodes[0]).await && is_ready(&later).await);
}
