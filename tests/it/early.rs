//! Early data (0-RTT): what somebody may send again is served from fresh hits in memory, and has no effect.

use http::Method;

use crate::{
    harness::{
        client::{Ask, Response},
        eventually, found,
        h3::{EarlyClient, H3Conn},
        node::{Builder, Node, NodeHandle},
        origin::{Origin, Reply},
        relay::Relay,
        repository, within,
    },
    http_versions::Certificate,
};

/// A node that takes early data.
fn early(origin: &Origin, certificate: &Certificate) -> Builder {
    let builder = Node::builder().origin(&origin.url()).http3(&certificate.certificate, &certificate.key);
    builder.set("http3", "early_data = true")
}

async fn origin() -> Origin {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    origin.on("/kept", |_| Reply::fresh(600, "kept").header("etag", "\"1\""));
    origin
}

async fn requests(node: &NodeHandle) -> f64 {
    node.metric("holm_http_early_requests_total", "").await
}

async fn stored(conn: &H3Conn, node: &NodeHandle, path: &str) {
    found("a hit", async || Some(conn.send(node.get(path)).await).filter(Response::is_hit)).await;
}

/// Sends a request in early data that reaches the node before the handshake can end. Returns its connection and the
/// response.
async fn sent_early(client: &EarlyClient, node: &NodeHandle, relay: &Relay, ask: Ask) -> (H3Conn, Response) {
    let before = requests(node).await;
    relay.hold();
    let conn = found("a session", async || client.open_early(relay.address()).await).await;
    let asking = tokio::spawn(async move {
        let response = conn.send(ask).await;
        (conn, response)
    });
    eventually("the request", async || requests(node).await > before).await;
    relay.release();
    within("the response", asking).await.unwrap()
}

/// Makes a request.
type Make = fn(&NodeHandle) -> Ask;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_hit_is_served_at_once_and_all_else_is_too_early() {
    let (origin, certificate) = (origin().await, Certificate::new());
    let node = early(&origin, &certificate).start().await;
    let client = EarlyClient::new(&certificate.der);
    let first = client.open(node.address).await;
    stored(&first, &node, "/kept").await;
    let cases: [(Make, u16, u16); 9] = [
        (|node| node.get("/kept"), 200, 200),
        (|node| node.ask(Method::HEAD, "/kept"), 200, 200),
        (|node| node.get("/kept").header("if-none-match", "\"1\""), 304, 304),
        (|node| node.get("/kept").header("range", "bytes=0-0"), 206, 206),
        (|node| node.get("/kept").header("cache-control", "no-cache"), 425, 200),
        (|node| node.get("/else"), 425, 200),
        (|node| node.ask(Method::HEAD, "/else"), 425, 200),
        (|node| node.post("/kept").header("content-length", "4").body("body"), 425, 200),
        (|node| node.ask(Method::DELETE, "/other"), 425, 200),
    ];
    for (number, (make, status, later)) in cases.into_iter().enumerate() {
        let (before, relay) = (origin.total(), Relay::start(node.address).await);
        let (conn, response) = sent_early(&client, &node, &relay, make(&node)).await;
        assert_eq!(response.status, status, "{number}");
        assert_eq!(origin.total(), before, "{number}");
        if status == 425 {
            assert_eq!(response.header("content-type"), "application/problem+json", "{number}");
            assert_eq!(response.header("cache-control"), "no-store", "{number}");
            assert_eq!(response.cache().get("detail"), "early-data", "{number}");
        } else {
            assert!(response.is_hit(), "{number}");
        }
        assert_eq!(conn.send(make(&node)).await.status, later, "{number} after the handshake");
        if make(&node).into_request("https").unwrap().method() == Method::POST {
            stored(&conn, &node, "/kept").await;
        }
    }
    assert!(origin.seen("/else").iter().all(|seen| seen.header("early-data").is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_that_are_sent_again_reach_no_origin() {
    let (origin, certificate) = (origin().await, Certificate::new());
    let node = early(&origin, &certificate).set("timeouts", "first_byte_ms = 500").start().await;
    let client = EarlyClient::new(&certificate.der);
    stored(&client.open(node.address).await, &node, "/kept").await;
    for (path, status) in [("/else", 425), ("/kept", 200)] {
        let (before, relay) = (origin.total(), Relay::start(node.address).await);
        let (conn, response) = sent_early(&client, &node, &relay, node.get(path)).await;
        assert_eq!(response.status, status, "{path}");
        drop(conn);
        let failed = async || node.metric("holm_http_connections_closed_total", "reason=\"handshake\"").await;
        let (failures, early) = (failed().await, requests(&node).await);
        // As long as the node remembers the connection the packets belong to that one.
        eventually("a connection by them", async || {
            relay.repeat().await;
            failed().await > failures
        })
        .await;
        assert_eq!((requests(&node).await, origin.total()), (early, before), "{path}: a session is resumed once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_setting_a_client_waits_for_the_handshake() {
    let (origin, certificate) = (origin().await, Certificate::new());
    let node = Node::builder().origin(&origin.url()).http3(&certificate.certificate, &certificate.key).start().await;
    let client = EarlyClient::new(&certificate.der);
    stored(&client.open(node.address).await, &node, "/kept").await;
    assert!(client.open_early(node.address).await.is_none());
    assert_eq!(client.open(node.address).await.send(node.get("/else")).await.status, 200);
    assert_eq!(requests(&node).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_an_exchange_unless_clients_were_promised_more() {
    let (origin, certificate) = (origin().await, Certificate::new());
    let builder = early(&origin, &certificate);
    let node = builder.start().await;
    let client = EarlyClient::new(&certificate.der);
    stored(&client.open(node.address).await, &node, "/kept").await;
    node.adopt(&builder.clone().set("http3", "unvalidated_max = 50")).await.unwrap();
    let relay = Relay::start(node.address).await;
    assert_eq!(sent_early(&client, &node, &relay, node.get("/kept")).await.1.status, 200);

    node.adopt(&builder.set("limits", "streams_max = 7")).await.unwrap();
    let before = requests(&node).await;
    relay.hold();
    let conn = found("a session", async || client.open_early(relay.address()).await).await;
    relay.release();
    // It is the client's to send it again once it knows that its early data wasn't taken.
    let _ = conn.try_send(node.get("/else")).await;
    assert_eq!(requests(&node).await, before);
    assert_eq!(client.open(node.address).await.send(node.get("/kept")).await.text(), "kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_policy_is_called_for_the_key_nothing_is_served_from_early_data() {
    let origin = origin().await;
    for (table, status) in [("{}", 200), ("{ require_tenant = true }", 425)] {
        let file = repository("plugins/dist/tenant-key.wasm");
        let node = Node::builder().origin(&origin.url()).policy("keys", &file, table).route("policy = \"keys\"");
        let node = node.start().await;
        let ask = || node.get("/kept").header("x-tenant", "acme");
        found("a hit", async || Some(ask().send().await).filter(Response::is_hit)).await;
        let early = ask().header("early-data", "1").send().await;
        assert_eq!(early.status, status, "{table}");
    }
}
