//! Limits on what a client sends, and on the time it takes.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::harness::{
    client::{piped, raw, read_to_close},
    liar::crlf,
    node::Node,
    origin::{Origin, Reply, Taps},
    within,
};

async fn node_with(table: &str, lines: &str, origin: &Origin) -> Node {
    origin.on("*", |seen| Reply::ok(seen.body.len().to_string()).header("cache-control", "no-store"));
    Node::builder().origin(&origin.url()).set(table, lines).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_413_declared_or_not() {
    let origin = Origin::start().await;
    let node = node_with("limits", "body_bytes_max = 1000", &origin).await;
    assert_eq!(node.post("/fits").body(vec![b'x'; 1000]).send().await.text(), "1000");

    let declared = node.post("/declared").body(vec![b'x'; 1001]).send().await;
    assert_eq!((declared.status, origin.hits("/declared")), (413, 0));
    assert_eq!(declared.header("content-type"), "application/problem+json");
    assert_eq!(declared.cache().get("detail"), "refused");

    let (pipe, body) = piped();
    let response = tokio::spawn(node.post("/chunked").stream(body).send());
    for _ in 0..3 {
        // Refused pieces are what this is about.
        let _ = pipe.send(Ok(vec![b'x'; 400].into())).await;
    }
    drop(pipe);
    assert_eq!(response.await.unwrap().status, 413);
    assert!(origin.seen("/chunked").iter().all(|seen| seen.body.len() <= 1000));

    let mut conn = node.h2().await;
    assert_eq!(conn.send(node.post("/h2").body(vec![b'x'; 1001])).await.status, 413);
    assert_eq!(conn.send(node.post("/h2").body(vec![b'x'; 1000])).await.text(), "1000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_or_too_long_headers_are_431() {
    let origin = Origin::start().await;
    let node = node_with("limits", "headers_max = 20\nheader_bytes_max = \"16KiB\"", &origin).await;
    let many = |count: usize| (0..count).fold(node.get("/many"), |ask, n| ask.header(&format!("x-{n}"), "1"));
    let long = |length: usize| node.get("/long").header("x-long", &"y".repeat(length));
    assert_eq!(many(15).send().await.status, 200);
    assert_eq!(many(30).send().await.status, 431);
    assert_eq!(long(8_000).send().await.status, 200);
    assert_eq!(long(20_000).send().await.status, 431);
    let line = node.get(&format!("/{}", "z".repeat(20_000))).send().await;
    assert_eq!(line.status, 414);

    let mut conn = node.h2().await;
    assert_eq!(conn.send(many(15)).await.status, 200);
    assert_eq!(conn.send(many(30)).await.status, 431);
    for length in [20_000, 50_000] {
        assert_eq!(conn.send(node.get(&format!("/{}", "z".repeat(length)))).await.status, 414, "{length}");
    }
    assert_eq!(origin.total(), 3);
}

/// Sends `bytes` to a node with these timeouts and no more; what comes back until the node closes.
async fn sends_and_waits(timeouts: &str, bytes: &str) -> String {
    let origin = Origin::start().await;
    let node = node_with("timeouts", timeouts, &origin).await;
    String::from_utf8(raw(node.address, &crlf(bytes), false).await).unwrap()
}

fn is_refusal(said: &str) -> bool {
    said.is_empty() || said.starts_with("HTTP/1.1 408") || said.starts_with("HTTP/1.1 400")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_says_nothing_is_cut() {
    assert_eq!(sends_and_waits("first_byte_ms = 200", "").await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_ends_its_headers_is_cut() {
    let said = sends_and_waits("headers_ms = 200", "GET / HTTP/1.1\nHost: shop.test\n").await;
    assert!(is_refusal(&said), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_ends_its_body_is_cut() {
    let said = sends_and_waits("body_ms = 200", "POST / HTTP/1.1\nHost: shop.test\nContent-Length: 10\n\n12345").await;
    assert!(is_refusal(&said), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_after_its_response() {
    let said = sends_and_waits("idle_ms = 200", "GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cut_and_its_fetch_given_up() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    let feed = taps.clone();
    origin.on("/endless", move |_| Reply::ok("").header("cache-control", "no-store").fed(&feed));
    let node = Node::builder().origin(&origin.url()).set("timeouts", "send_ms = 300").start().await;
    let mut client = TcpStream::connect(node.address).await.unwrap();
    client.write_all(&crlf("GET /endless HTTP/1.1\nHost: shop.test\n\n")).await.unwrap();
    let pipe = taps.next().await;
    within("the node giving up", async { while pipe.send(Ok(vec![b'x'; 100_000].into())).await.is_ok() {} }).await;
    read_to_close(&mut client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_past_the_limit_wait_their_turn() {
    let origin = Origin::start().await;
    let node = node_with("limits", "connections_max = 3", &origin).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut conn = node.h1().await;
        assert_eq!(conn.send(node.get("/x")).await.status, 200);
        open.push(conn);
    }
    let mut fourth = tokio::spawn(node.get("/x").send());
    assert!(timeout(Duration::from_millis(300), &mut fourth).await.is_err(), "served although the limit is reached");
    assert_eq!(node.admin("/healthz").send().await.status, 200, "the admin address has places of its own");
    drop(open.pop());
    assert_eq!(within("the fourth's turn", fourth).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_past_the_limit_wait_their_turn() {
    let origin = Origin::start().await;
    let node = node_with("limits", "streams_max = 2", &origin).await;
    let mut conn = node.h2().await;
    // Only with the first response can a client know the limit.
    assert_eq!(conn.send(node.get("/x")).await.status, 200);
    let mut asks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (mut stream, ask) = (conn.stream(), node.get("/x"));
        asks.spawn(async move { stream.send(ask).await.status });
    }
    assert!(within("all of them", asks.join_all()).await.iter().all(|status| *status == 200));
}
