//! `Proxy-Status` (RFC 9209): why a client has a response of the node's own, or one that is stale.

use crate::harness::{
    client::Response,
    eventually,
    node::Node,
    origin::{Origin, Reply},
};

fn lines(response: &Response) -> Vec<&str> {
    response.headers.get_all("proxy-status").iter().map(|line| line.to_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_origin_sends_has_only_what_those_behind_the_node_say() {
    let origin = Origin::start().await;
    origin.on("/fine", |_| Reply::fresh(600, "x"));
    origin.on("/failed", |_| Reply::status(502).header("proxy-status", "inner; error=connection_refused"));
    let node = Node::builder().origin(&origin.url()).set("pool.web", "attempts_max = 1").start().await;
    assert!(lines(&node.fetch("/fine").await).is_empty() && lines(&node.hit("/fine").await).is_empty());
    assert_eq!(lines(&node.fetch("/failed").await), ["inner; error=connection_refused"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_served_in_place_of_an_error_names_it_after_those_further_in() {
    let origin = Origin::start().await;
    let stale = "max-age=0, stale-if-error=600";
    origin.on("/s", move |_| Reply::ok("old").header("cache-control", stale).header("proxy-status", "inner"));
    let node = Node::builder().origin(&origin.url()).set("pool.web", "attempts_max = 1").start().await;
    node.fetch("/s").await;
    node.stale("/s").await;
    origin.on("/s", |_| Reply::status(503));
    let response = node.fetch("/s").await;
    assert_eq!((response.status, response.text()), (200, "old"));
    assert_eq!(lines(&response), ["inner", "n1; received-status=503; details=\"origin-error\""]);
    assert_eq!((response.cache().get("fwd"), response.cache().get("fwd-status")), ("stale", "503"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_the_nodes_own_names_its_rule() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::ok("x"));
    let node = Node::builder().origin(&origin.url()).route("hosts = [\"shop.test\"]").start().await;
    let offline = node.get("/x").header("cache-control", "only-if-cached").send().await;
    assert_eq!(lines(&offline), ["n1; error=proxy_internal_response; details=\"only-if-cached\""]);
    assert!(!offline.cache().has("fwd"), "it didn't go forward: {:?}", offline.cache());
    let strange = node.get("/x").host("strange.test").send().await;
    assert_eq!((strange.status, lines(&strange)), (404, vec!["n1; error=destination_not_found"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variant_that_is_not_stored_names_the_fields_that_select_it() {
    let origin = Origin::start().await;
    origin.on("/v", |_| Reply::fresh(600, "v").header("vary", "accept-language"));
    let node = Node::builder().origin(&origin.url()).start().await;
    let ask = |language: &str| node.get("/v").header("accept-language", language).send();
    ask("de").await;
    eventually("a hit", async || ask("de").await.is_hit()).await;
    let other = ask("fr").await;
    assert_eq!(other.cache().get("fwd"), "vary-miss", "{:?}", other.cache());
    assert_eq!(other.cache().get("detail"), "vary:accept-language");
}
