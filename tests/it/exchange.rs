//! A configuration that is exchanged while requests are under way.

use serde_json::Value;

use crate::harness::{
    eventually,
    load::{Load, sealed_origin},
    node::{Builder, Node, NodeHandle},
    origin::{Origin, Reply, Taps},
    within,
};

async fn addresses(handle: &NodeHandle) -> Vec<String> {
    let pools = handle.admin("/pools").send().await.json();
    let endpoints = pools.as_array().unwrap().iter().flat_map(|pool| pool["endpoints"].as_array().unwrap());
    endpoints.map(|endpoint| endpoint["address"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_by_the_configuration_that_it_began_with() {
    let (old, new, taps) = (Origin::start().await, Origin::start().await, Taps::default());
    let feed = taps.clone();
    old.on("*", move |_| Reply::ok("").header("content-length", "8").fed(&feed));
    new.on("*", |_| Reply::fresh(600, "new"));
    let node = Node::builder().origin(&old.url()).start().await;

    let asked = tokio::spawn(node.get("/a").open());
    let pipe = taps.next().await;
    pipe.send(Ok("old".into())).await.unwrap();
    let asked = within("the old origin's head", asked).await.unwrap().unwrap();
    node.adopt(&Node::builder().origin(&new.url())).await.unwrap();
    assert_eq!(node.fetch("/b").await.text(), "new");
    assert_eq!(addresses(&node).await, [new.url().replace("http://", "")]);

    pipe.send(Ok(" one!".into())).await.unwrap();
    drop(pipe);
    assert_eq!(within("the old response", asked.whole()).await.unwrap().text(), "old one!");
    assert_eq!((old.total(), new.total()), (1, 1));
    eventually("both in the route's metrics", async || {
        node.metric("holm_requests_total", "route=\"all\"").await == 2.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_is_wrong_changes_nothing() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "page"));
    let builder = Node::builder().origin(&origin.url());
    let node = builder.start().await;
    let absent = std::path::Path::new("absent.wasm");
    let refused = node.adopt(&builder.clone().policy("p", absent, "{}").route("policy = \"p\"")).await.unwrap_err();
    assert!(refused.contains("policy `p`") && refused.contains("can't be read"), "{refused}");
    assert_eq!(node.fetch("/a").await.text(), "page");
    assert_eq!(node.admin("/policies").send().await.json(), Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_exchanges_fail_no_request() {
    let origin = Origin::start().await;
    sealed_origin(&origin, "one", 500);
    let route = "name = \"some\"\npath = \"/some\"\npool = \"web\"\nmode = \"http\"";
    let configurations: [Builder; 3] = [
        Node::builder().origin(&origin.url()),
        Node::builder().origin(&origin.url()).set("pool.web", "waiting_max = 1000"),
        Node::builder().origin(&origin.url()).route_before(route),
    ];
    let node = configurations[0].start().await;
    let load = Load::start(&node, 8, |n| format!("/{}/{}", ["some", "more"][n % 2], n % 1_000));
    for round in 0..100 {
        node.adopt(&configurations[round % configurations.len()]).await.unwrap();
        load.more(10).await;
    }
    let (bad, _) = load.finish().await;
    assert!(bad.is_empty(), "{} bad responses: {:?}", bad.len(), &bad[..bad.len().min(3)]);
    // The last one was the first configuration: the route of the third is gone, and its rows with it.
    assert_eq!(node.metric("holm_requests_total", "route=\"some\"").await, 0.0);
    assert!(node.metric("holm_requests_total", "route=\"all\"").await >= 500.0);
}
