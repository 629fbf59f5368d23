//! HTTP/3: the same conversation as over TCP, and the ends of streams and connections that are its own.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use crate::{
    harness::{
        client::{Conn, Failure, OutBody, piped},
        eventually, found,
        h2::H2Origin,
        h3::H3Conn,
        liar::{Liar, Lie, crlf},
        node::{Builder, Node, NodeHandle},
        origin::{Gate, Origin, Reply, Taps},
        quoted,
        relay::Relay,
        repository, sealed, within,
    },
    http_versions::Certificate,
};

/// A node that speaks HTTP/3 in front of this origin.
fn http3(origin: &str, certificate: &Certificate) -> Builder {
    Node::builder().origin(origin).http3(&certificate.certificate, &certificate.key)
}

async fn connect(node: &NodeHandle, certificate: &Certificate) -> H3Conn {
    H3Conn::open(node.address, &certificate.der).await.unwrap()
}

async fn resets(node: &NodeHandle, reason: &str) -> f64 {
    node.metric("holm_http_streams_reset_total", &format!("reason=\"{reason}\"")).await
}

async fn open(node: &NodeHandle) -> f64 {
    node.metric("holm_http_connections_open", "").await
}

/// A body in pieces, with one trailer.
fn trailed(pieces: Vec<Bytes>, name: &'static str, value: &str) -> OutBody {
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())]);
    let frames = pieces.into_iter().map(|piece| Ok(Frame::data(piece))).chain([Ok(Frame::trailers(trailers))]);
    StreamBody::new(stream::iter(frames.collect::<Vec<std::io::Result<Frame<Bytes>>>>())).boxed_unsync()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_serves_misses_hits_and_uploads() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("/kept", |_| Reply::fresh(60, "kept"));
    origin.on("/empty", |_| Reply::says(204, ""));
    origin.on("/echo", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    let node = http3(&origin.url(), &certificate).start().await;
    let conn = connect(&node, &certificate).await;
    assert_eq!(conn.send(node.get("/kept")).await.text(), "kept");
    let hit = found("a hit", async || Some(conn.send(node.get("/kept")).await).filter(|response| response.is_hit()));
    let hit = hit.await;
    assert_eq!((hit.status, hit.text(), hit.header("content-length")), (200, "kept", "4"));
    assert!(httpdate::parse_http_date(hit.header("date")).is_ok(), "{:?}", hit.headers);
    let head = conn.send(node.ask(Method::HEAD, "/kept")).await;
    assert_eq!((head.status, head.text(), head.header("content-length")), (200, "", "4"));
    let nothing = conn.send(node.get("/empty")).await;
    assert_eq!((nothing.status, nothing.text()), (204, ""));
    assert!(httpdate::parse_http_date(nothing.header("date")).is_ok(), "{:?}", nothing.headers);

    let body = sealed("up", 3_000_000);
    for stated in [true, false] {
        let mut ask = node.post("/echo").body(body.clone());
        if stated {
            ask = ask.header("content-length", "3000000");
        }
        let response = conn.send(ask).await;
        assert!(response.status == 200 && response.body == body, "{} bytes", response.body.len());
    }
    assert!(node.metric("holm_http_requests_total", "version=\"3\"").await >= 6.0);
    assert_eq!(origin.hits("/kept"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_download_is_whole() {
    let (origin, certificate, body) = (Origin::start().await, Certificate::new(), sealed("large", 50_000_000));
    let large = body.clone();
    origin.on("/large", move |_| Reply::ok(large.clone()).header("cache-control", "no-store"));
    let node = http3(&origin.url(), &certificate).start().await;
    let conn = connect(&node, &certificate).await;
    let mut opened = conn.ask(node.get("/large")).await.unwrap();
    let mut read = 0;
    while let Some(piece) = opened.piece().await.unwrap() {
        assert!(body[read..].starts_with(&piece), "other bytes after {read}");
        read += piece.len();
    }
    assert_eq!(read, body.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_both_ways() {
    let certificate = Certificate::new();
    let origin = H2Origin::start(100, None, |request| async move {
        let collected = request.into_body().collect().await.unwrap();
        let up = collected.trailers().and_then(|trailers| trailers.get("x-up").cloned());
        let up = up.unwrap_or_else(|| HeaderValue::from_static("none"));
        let mut response = Response::new(trailed(vec![collected.to_bytes()], "x-down", "2"));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.headers_mut().insert("x-seen", up);
        response
    })
    .await;
    let node = http3(&origin.url(), &certificate).set("pool.web", "http = \"2\"").start().await;
    let conn = connect(&node, &certificate).await;
    let ask = node.post("/rpc").header("te", "trailers").stream(trailed(vec!["body".into()], "x-up", "1"));
    let (response, trailers) = conn.ask(ask).await.unwrap().whole().await.unwrap();
    assert_eq!((response.status, response.text(), response.header("x-seen")), (200, "body", "1"));
    assert_eq!(trailers["x-down"], "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_many_requests_at_once() {
    let (origin, certificate, gate) = (Origin::start().await, Certificate::new(), Gate::closed());
    let behind = gate.clone();
    origin.on("*", move |seen| Reply::ok(seen.target.clone()).header("cache-control", "no-store").behind(&behind));
    let node = http3(&origin.url(), &certificate).start().await;
    let conn = Arc::new(connect(&node, &certificate).await);
    let mut asks = JoinSet::new();
    for number in 0..100 {
        let (conn, ask) = (Arc::clone(&conn), node.get(&format!("/{number}")));
        asks.spawn(async move { (number, conn.send(ask).await) });
    }
    eventually("all at the origin", async || origin.total() == 100).await;
    gate.open();
    for (number, response) in within("the responses", asks.join_all()).await {
        assert_eq!((response.status, response.text()), (200, format!("/{number}").as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_breaks_off_never_looks_whole() {
    let (certificate, head) = (Certificate::new(), "HTTP/1.1 200 OK\nCache-Control: max-age=600\n");
    for lie in [
        Lie::Say(crlf(&format!("{head}Content-Length: 1000\n\nonly this"))),
        Lie::SayAndStall(crlf(&format!("{head}Content-Length: 1000\n\nonly this"))),
        Lie::Say(crlf(&format!("{head}Transfer-Encoding: chunked\n\n9\nonly this\n"))),
        Lie::SayAndReset(crlf(&format!("{head}Transfer-Encoding: chunked\n\n9\nonly this\n"))),
    ] {
        let words = format!("{lie:?}");
        let liar = Liar::start(lie).await;
        let limits = "idle_ms = 300\nattempts_max = 1";
        let node = http3(&liar.url(), &certificate).set("pool.web", limits).start().await;
        let conn = connect(&node, &certificate).await;
        match conn.try_send(node.get("/x")).await {
            // A fault that is seen before the head has left may become a 5xx; a whole 200 may not follow.
            Ok(response) => assert!(response.status >= 500, "{words}: {} {}", response.status, response.text()),
            Err(error) => assert!(error.to_string().contains("H3_INTERNAL_ERROR"), "{words}: {error}"),
        }
        // The connection isn't affected.
        assert!(conn.ask(node.get("/y")).await.is_ok() || liar.asked() > 1, "{words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gives_up_frees_its_place() {
    let (origin, certificate, taps) = (Origin::start().await, Certificate::new(), Taps::default());
    let feed = taps.clone();
    origin.on("/endless", move |_| Reply::ok("").header("cache-control", "no-store").fed(&feed));
    origin.on("/never", {
        let gate = Gate::closed();
        move |_| Reply::ok("").behind(&gate)
    });
    origin.on("/free", |_| Reply::ok("free").header("cache-control", "no-store"));
    let limits = "client_streams_max = 1\ntrusted_proxies = []";
    let node = http3(&origin.url(), &certificate).set("limits", limits).start().await;
    let conn = connect(&node, &certificate).await;
    let others = connect(&node, &certificate).await;

    // In the middle of a response.
    let opening = conn.ask(node.get("/endless"));
    let feeding = async {
        let pipe = taps.next().await;
        pipe.send(Ok("a piece".into())).await.unwrap();
        pipe
    };
    let (opened, pipe) = tokio::join!(opening, feeding);
    let mut opened = opened.unwrap();
    assert_eq!(opened.piece().await.unwrap().unwrap(), "a piece");
    assert_eq!(others.send(node.get("/free")).await.status, 429);
    drop(opened);
    eventually("the request", async || others.send(node.get("/free")).await.status == 200).await;
    drop(pipe);

    // Before the response, by closing the connection.
    let ask = node.get("/never");
    let waiting = tokio::spawn(async move { conn.ask(ask).await.is_err() });
    eventually("the request at the origin", async || origin.hits("/never") == 1).await;
    waiting.abort();
    drop(waiting.await);
    eventually("the request", async || others.send(node.get("/free")).await.status == 200).await;
    eventually("the connection", async || open(&node).await < 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_the_rules_is_refused_or_reset() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    let limits = "header_bytes_max = \"8KiB\"\nbody_bytes_max = 1000";
    let node = http3(&origin.url(), &certificate).set("limits", limits).start().await;
    let conn = connect(&node, &certificate).await;

    let large = conn.send(node.get("/large").header("x-large", &"x".repeat(9_000))).await;
    assert_eq!(large.status, 431);
    assert!(large.text().contains("too large"), "{}", large.text());
    let long = conn.send(node.post("/long").body(vec![b'x'; 100_000])).await;
    assert!(long.status == 413 || long.status == 400, "{}: {}", long.status, long.text());
    let two_hosts = conn.send(node.get("/hosts").header("host", "shop.test")).await;
    assert_eq!(two_hosts.status, 200, "the same twice");

    let refused =
        async |ask| conn.try_send(ask).await.map(|response| response.status).map_err(|error| error.to_string());
    for ask in [
        node.post("/short").header("content-length", "10").body("abc"),
        node.post("/long").header("content-length", "2").body("abc"),
        node.get("/connection").header("connection", "close"),
        node.get("/coding").header("transfer-encoding", "chunked"),
        node.get("/te").header("te", "gzip"),
    ] {
        let error = refused(ask).await.unwrap_err();
        assert!(error.contains("H3_MESSAGE_ERROR"), "{error}");
    }
    assert_eq!(conn.send(node.get("/after")).await.status, 200, "the connection goes on");
    assert_eq!(origin.hits("/connection") + origin.hits("/coding") + origin.hits("/te"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_the_client_breaks_off_does_not_reach_the_origin_as_whole() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    let node = http3(&origin.url(), &certificate).start().await;
    let conn = connect(&node, &certificate).await;
    let (pipe, body) = piped();
    let ask = node.post("/cut").stream(body);
    let cutting = async {
        pipe.send(Ok("a piece".into())).await.unwrap();
        pipe.send(Err(std::io::Error::other("gone"))).await.unwrap();
    };
    let (response, ()) = tokio::join!(conn.try_send(ask), cutting);
    assert!(response.is_err() || response.is_ok_and(|response| response.status >= 400));
    assert_eq!(conn.send(node.post("/next").body("next")).await.text(), "next");
    assert!(origin.seen("/cut").is_empty() || origin.seen("/cut")[0].body != "a piece");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_requests_finish_and_refuses_others() {
    let (origin, certificate, gate) = (Origin::start().await, Certificate::new(), Gate::closed());
    let (behind, body) = (gate.clone(), sealed("last", 500_000));
    let last = body.clone();
    origin.on("/last", move |_| Reply::ok(last.clone()).header("cache-control", "no-store").behind(&behind));
    let node = http3(&origin.url(), &certificate).start().await;
    let handle: NodeHandle = (*node).clone();
    let conn = Arc::new(connect(&handle, &certificate).await);
    let idle = connect(&handle, &certificate).await;
    assert_eq!(idle.send(handle.get("/else")).await.status, 404);
    let (asking, ask) = (Arc::clone(&conn), handle.get("/last"));
    let last = tokio::spawn(async move { asking.send(ask).await });
    eventually("the request at the origin", async || origin.hits("/last") == 1).await;

    let stopping = tokio::spawn(node.stop());
    eventually("connections being refused", async || H3Conn::open(handle.address, &certificate.der).await.is_err())
        .await;
    eventually("further requests being refused", async || conn.try_send(handle.get("/more")).await.is_err()).await;
    eventually("the idle connection", async || open(&handle).await < 2.0).await;
    gate.open();
    let response = last.await.unwrap();
    assert!(response.status == 200 && response.body == body, "{}: {} bytes", response.status, response.body.len());
    stopping.await.unwrap();
    assert_eq!(origin.hits("/more"), 0);
}

/// A node at the same kind of address without HTTP/3, and otherwise the same.
fn tcp(origin: &str, certificate: &Certificate) -> Builder {
    let builder = Node::builder().origin(origin).tls(&certificate.certificate, &certificate.key);
    builder.set("http3", "socket_bytes = \"64KiB\"")
}

/// Returns what responses over TCP say of HTTP/3.
async fn told(node: &NodeHandle, certificate: &Certificate) -> String {
    let mut conn = Conn::tls(node.address, &certificate.der, &["h2"]).await.unwrap();
    conn.send(node.get("/told")).await.header("alt-svc").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_gets_and_loses_http_3_while_the_node_runs() {
    let (origin, certificate, gate) = (Origin::start().await, Certificate::new(), Gate::closed());
    let (behind, body) = (gate.clone(), sealed("last", 500_000));
    let last = body.clone();
    origin.on("*", |seen| Reply::ok(seen.target.clone()).header("cache-control", "no-store"));
    origin.on("/last", move |_| Reply::ok(last.clone()).header("cache-control", "no-store").behind(&behind));
    let (without, with) = (tcp(&origin.url(), &certificate), http3(&origin.url(), &certificate));
    // Its port was chosen for TCP alone: for UDP anybody may have it.
    let node = found("a port that is free for UDP as well", async || {
        let node = without.start().await;
        assert_eq!(told(&node, &certificate).await, "");
        match node.adopt(&with).await {
            Ok(()) => Some(node),
            Err(error) => {
                assert!(error.contains("in use"), "{error}");
                None
            }
        }
    })
    .await;
    assert_eq!(told(&node, &certificate).await, format!("h3=\":{}\"; ma=86400", node.address.port()));
    let conn = Arc::new(connect(&node, &certificate).await);
    assert_eq!(conn.send(node.get("/a")).await.text(), "/a");
    let (asking, ask) = (Arc::clone(&conn), node.get("/last"));
    let last = tokio::spawn(async move { asking.send(ask).await });
    eventually("the request at the origin", async || origin.hits("/last") == 1).await;

    // What is under way goes on, and nothing else.
    node.adopt(&without).await.unwrap();
    assert_eq!(told(&node, &certificate).await, "");
    eventually("connections being refused", async || H3Conn::open(node.address, &certificate.der).await.is_err()).await;
    eventually("further requests being refused", async || conn.try_send(node.get("/more")).await.is_err()).await;

    // Its port is bound still.
    node.adopt(&with).await.unwrap();
    eventually("connections", async || H3Conn::open(node.address, &certificate.der).await.is_ok()).await;
    assert_eq!(connect(&node, &certificate).await.send(node.get("/b")).await.text(), "/b");
    gate.open();
    let response = last.await.unwrap();
    assert!(response.status == 200 && response.body == body, "{}: {} bytes", response.status, response.body.len());
    assert_eq!(origin.hits("/more"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_limits_hold_for_connections_that_come_after_them() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |_| Reply::ok("x").header("cache-control", "no-store"));
    let builder = http3(&origin.url(), &certificate);
    let node = builder.start().await;
    let before = connect(&node, &certificate).await;
    let large = || node.get("/large").header("x-large", &"x".repeat(9_000));
    assert_eq!(before.send(large()).await.status, 200);
    node.adopt(&builder.set("limits", "header_bytes_max = \"8KiB\"")).await.unwrap();
    assert_eq!(connect(&node, &certificate).await.send(large()).await.status, 431);
    assert_eq!(before.send(large()).await.status, 200, "an open connection keeps its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gives_up_its_requests_unsent_loses_its_connection() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |_| Reply::ok("x"));
    let node = http3(&origin.url(), &certificate).start().await;
    let (conn, other) = (connect(&node, &certificate).await, connect(&node, &certificate).await);
    let abandoning = async {
        let mut count = 0;
        while conn.abandon().await.is_ok() {
            count += 1;
        }
        count
    };
    let count = within("the connection's end", abandoning).await;
    assert!(count >= 1_000, "a thousand of them may happen, not {count}");
    eventually("the connection", async || {
        node.metric("holm_http_connections_closed_total", "reason=\"malformed\"").await > 0.0
    })
    .await;
    assert_eq!(other.send(node.get("/x")).await.text(), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cut_and_its_other_requests_are_not() {
    let (origin, certificate, large) = (Origin::start().await, Certificate::new(), sealed("large", 4 << 20));
    origin.on("/large", move |_| Reply::ok(large.clone()).header("cache-control", "no-store"));
    origin.on("/small", |_| Reply::ok("small").header("cache-control", "no-store"));
    for (timeouts, reason) in
        [("send_ms = 300\nrate_bytes_min = 0", "send"), ("rate_bytes_min = \"1MiB\"\nrate_window_ms = 300", "rate")]
    {
        let node = http3(&origin.url(), &certificate).set("timeouts", timeouts).start().await;
        let conn = H3Conn::ahead(node.address, &certificate.der, 20_000).await.unwrap();
        let unread = conn.ask(node.get("/large")).await.unwrap();
        eventually(reason, async || resets(&node, reason).await > 0.0).await;
        let cut: Result<_, Failure> = unread.whole().await;
        assert!(cut.is_err(), "{reason}: a body that is cut isn't whole");
        assert_eq!(conn.send(node.get("/small")).await.text(), "small", "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_with_its_body_is_told_when_it_is_wanted() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    let node = http3(&origin.url(), &certificate).start().await;
    let conn = connect(&node, &certificate).await;
    let ask = |path: &str| node.post(path).header("expect", "100-continue").header("content-length", "4").body("body");
    assert_eq!(conn.send_when_wanted(ask("/echo")).await.unwrap().text(), "body");
    // One that doesn't wait isn't told.
    assert_eq!(conn.send(ask("/echo")).await.text(), "body");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |_| Reply::ok("x"));
    let node = http3(&origin.url(), &certificate).set("timeouts", "idle_ms = 300\nfirst_byte_ms = 2_000").start().await;
    let used = connect(&node, &certificate).await;
    used.send(node.get("/x")).await;
    let _unused = connect(&node, &certificate).await;
    for reason in ["idle", "first-byte"] {
        let label = format!("reason=\"{reason}\"");
        eventually(reason, async || node.metric("holm_http_connections_closed_total", &label).await > 0.0).await;
    }
    assert!(used.try_send(node.get("/x")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_gives_its_places_back() {
    let (origin, certificate, large) = (Origin::start().await, Certificate::new(), sealed("large", 4 << 20));
    origin.on("/large", move |_| Reply::ok(large.clone()).header("cache-control", "no-store"));
    origin.on("/small", |_| Reply::ok("small").header("cache-control", "no-store"));
    let timeouts = "idle_ms = 2_000\nsend_ms = 1_000\nrate_bytes_min = 0";
    let limits = "client_connections_max = 1\nclient_streams_max = 1\ntrusted_proxies = []";
    let node = http3(&origin.url(), &certificate).set("timeouts", timeouts).set("limits", limits).start().await;
    for is_asking in [true, false] {
        let relay = Relay::start(node.address).await;
        let conn = found("a place", async || H3Conn::ahead(relay.address(), &certificate.der, 20_000).await.ok()).await;
        assert_eq!(conn.send(node.get("/small")).await.text(), "small");
        // In the middle of a response, or between two requests.
        let unread = if is_asking { Some(conn.ask(node.get("/large")).await.unwrap()) } else { None };
        relay.lose();
        assert!(H3Conn::open(node.address, &certificate.der).await.is_err(), "it has the only place");
        eventually("the place", async || H3Conn::open(node.address, &certificate.der).await.is_ok()).await;
        drop(unread);
    }
    eventually("the connections", async || open(&node).await < 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_may_be_anybody_show_their_address_first() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |_| Reply::ok("x"));
    let node = http3(&origin.url(), &certificate).set("http3", "unvalidated_max = 0").start().await;
    assert_eq!(connect(&node, &certificate).await.send(node.get("/x")).await.text(), "x");
    assert!(node.metric("holm_http_quic_retries_total", "").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_over_tcp_tell_of_http_3() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("/own", |_| Reply::ok("x").header("alt-svc", "clear"));
    origin.on("/none", |_| Reply::ok("x"));
    for (listener, port) in [("", None), ("http3_port = 443", Some(443))] {
        let builder = http3(&origin.url(), &certificate).set("http3", "advertised_ms = 60_000");
        let node = builder.listener(listener).start().await;
        let words = format!("h3=\":{}\"; ma=60", port.unwrap_or(node.address.port()));
        for offered in ["h2", "http/1.1"] {
            let mut conn = Conn::tls(node.address, &certificate.der, &[offered]).await.unwrap();
            assert_eq!(conn.send(node.get("/none")).await.header("alt-svc"), words, "{offered}");
            assert_eq!(conn.send(node.get("/own")).await.header("alt-svc"), "clear", "{offered}");
        }
        let over_quic = connect(&node, &certificate).await.send(node.get("/none")).await;
        assert_eq!(over_quic.header("alt-svc"), "", "it is there already");
    }
    let plain = Node::builder().origin(&origin.url()).start().await;
    assert_eq!(plain.fetch("/none").await.header("alt-svc"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_never_end_take_no_more_memory_than_one_connection_may_have() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |_| Reply::ok("served"));
    let limits = "receive_bytes_max = \"64KiB\"";
    let node = http3(&origin.url(), &certificate).set("http3", limits).start().await;
    let conn = Arc::new(connect(&node, &certificate).await);
    // HEADERS of 60,000 bytes, of which 50,000 come. One head may have twice 64 KiB and something by default, and so may
    // all together: that is less than three of these.
    let head = [&[0x01, 0x80, 0x00, 0xea, 0x60][..], &[0; 50_000]].concat();
    let (refused, mut streams) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for _ in 0..10 {
        let (conn, head, refused) = (Arc::clone(&conn), head.clone(), Arc::clone(&refused));
        streams.spawn(async move {
            // H3_EXCESSIVE_LOAD.
            if conn.stopped(&head).await == Some(0x107) {
                refused.fetch_add(1, SeqCst);
            }
        });
    }
    // A stream that is refused frees what it had, so that others may come as far as their own limits.
    eventually("one being refused", async || refused.load(SeqCst) >= 1).await;
    let upload = node.post("/upload").body(vec![b'x'; 1_000_000]);
    assert_eq!(conn.send(upload).await.text(), "served", "the connection goes on, and has its credit");
    streams.abort_all();
}

/// The Python that has aioquic; `tests/run` installs it and sets it.
const AIOQUIC: &str = "HOLM_AIOQUIC";

/// Its client reads some megabytes a second.
const AIOQUIC_TIME: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_nothing_in_common_with_the_node_sees_the_same() {
    let Some(python) = std::env::var_os(AIOQUIC).filter(|python| !python.is_empty()) else {
        eprintln!("skipped: tests/run installs aioquic and sets {AIOQUIC}");
        return;
    };
    let (origin, certificate, large) = (Origin::start().await, Certificate::new(), sealed("large", 50_000_000));
    let body = large.clone();
    origin.on("/large", move |_| Reply::ok(body.clone()).header("cache-control", "no-store"));
    origin.on("/kept", |_| Reply::fresh(60, "kept"));
    origin.on("/echo", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    let broken = "HTTP/1.1 200 OK\nCache-Control: no-store\nTransfer-Encoding: chunked\n\n7\na piece\n";
    let liar = Liar::start(Lie::SayAndStall(crlf(broken))).await;
    let pool = format!("endpoints = [{}]\nattempts_max = 1\nidle_ms = 500", quoted(&liar.url()));
    let node = http3(&origin.url(), &certificate)
        .set("pool.liar", &pool)
        .route_before("name = \"broken\"\npath = \"/broken\"\npool = \"liar\"\nmode = \"http\"")
        .start()
        .await;

    let commands = ["get /kept", "post /echo 3000000", "get /large", "get /broken", "leave /large", "get /kept"];
    let mut command = Command::new(python);
    command.arg("-B").arg(repository("tests/it/http3/client.py")).arg(node.address.port().to_string()).args(commands);
    let running = spawn_blocking(move || command.output().unwrap());
    let output = timeout(AIOQUIC_TIME, running).await.expect("done in time").unwrap();
    let (said, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    let said: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let whole = |body: &[u8]| json!({"status": 200, "length": body.len(), "crc": crc(body), "whole": true});
    let upload = vec![b'x'; 3_000_000];
    for (at, expected) in [(0, whole(b"kept")), (1, whole(&upload)), (2, whole(&large)), (5, whole(b"kept"))] {
        assert_eq!(said[at], expected, "{}", commands[at]);
    }
    // H3_INTERNAL_ERROR.
    assert!(said[3]["whole"].is_null() && said[3]["reset"] == 0x102, "{}", said[3]);
    assert_eq!(said[4], json!({"left": true}));
    eventually("the connection being closed", async || open(&node).await < 1.0).await;
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
