//! Regions of clients: who is believed to state them, and which keys have them.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    client::Ask,
    node::{Builder, Node, NodeHandle, url},
    origin::{Origin, Reply},
};

/// A node that is told the regions of its clients, and an origin that says which it was told.
async fn builder() -> (Origin, Builder) {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, format!("region: {}", seen.header("x-region"))));
    let region = "name = \"here\"\nclient_field = \"X-Region\"";
    let builder = Node::builder().origin(&origin.url()).set("region", region);
    (origin, builder)
}

fn ask(node: &NodeHandle, regions: &[&str]) -> Ask {
    regions.iter().fold(node.get("/x"), |ask, region| ask.header("x-region", region))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_keys_by_the_regions_that_trusted_proxies_state() {
    let (origin, builder) = builder().await;
    let trusting = builder.set("limits", "forwarding_proxies = [\"127.0.0.0/8\"]").route("key_client_region = true");
    let node = trusting.start().await;
    for (regions, wanted) in [
        (&["EU"][..], "region: eu"),
        (&["us"], "region: us"),
        (&["eu"], "region: eu"),
        (&[], "region: "),
        (&["eu, us"], "region: "),
        (&["eu", "us"], "region: "),
    ] {
        assert_eq!(ask(&node, regions).send().await.text(), wanted, "{regions:?}");
    }
    assert_eq!(origin.hits("/x"), 3, "of eu, of us, and of those that aren't known");
    let what = json!({"url": url("/x"), "headers": [["x-region", "EU"]]});
    let report = Ask::new(node.admin, Method::POST, "/why").json(&what).send().await.json();
    let inputs = report["lookups"][0]["inputs"].as_array().unwrap();
    let region = inputs.iter().find(|input| input["name"] == "client-region").map(|input| input["value"].clone());
    assert_eq!(region, Some(json!("eu")), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is_believed_and_no_other_key_has_a_region() {
    let (origin, builder) = builder().await;
    let node = builder.start().await;
    for regions in [&["eu"][..], &["us"], &[]] {
        assert_eq!(ask(&node, regions).send().await.text(), "region: ");
    }
    assert_eq!(origin.hits("/x"), 1);
    let what = json!({"url": url("/x"), "headers": [["x-region", "eu"]]});
    let report = Ask::new(node.admin, Method::POST, "/why").json(&what).send().await.json();
    let is_region = |input: &Value| input["name"] == "client-region";
    assert!(!report["lookups"][0]["inputs"].as_array().unwrap().iter().any(is_region), "{report}");
}
