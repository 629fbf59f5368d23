//! HTTP/2 to origins, gRPC on its way through, and the name and the certificates of an origin.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    harness::{
        client::{OutBody, full, piped},
        eventually,
        h2::{H2Origin, Wire, WireOrigin},
        node::{Builder, Node},
        origin::{Origin, Reply},
        process::Process,
        quoted, within,
    },
    http_versions::Certificate,
};

/// Streams that an origin allows, if it isn't about that.
const STREAMS: u32 = 200;

fn http2(url: &str) -> Builder {
    Node::builder().origin(url).set("pool.web", "http = \"2\"")
}

fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// A body in pieces, with trailers.
fn trailed(pieces: Vec<Bytes>, trailers: HeaderMap) -> OutBody {
    let pieces = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
    let frames: Vec<io::Result<Frame<Bytes>>> = pieces.chain([Ok(Frame::trailers(trailers))]).collect();
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

/// Responds with what it was sent, unstored.
async fn echo(request: Request<Incoming>) -> Response<OutBody> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut response = Response::new(full(body));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_share_connections_up_to_the_limit_of_the_peer() {
    for (streams_max, connections) in [(10, 10), (64, 2), (STREAMS, 1)] {
        let gate = Arc::new(Semaphore::new(0));
        let behind = Arc::clone(&gate);
        let origin = H2Origin::start(streams_max, None, move |request| {
            let behind = Arc::clone(&behind);
            async move {
                drop(behind.acquire().await);
                echo(request).await
            }
        })
        .await;
        let node = http2(&origin.url()).start().await;
        let (conn, mut asks) = (node.h2().await, JoinSet::new());
        for n in 0..100 {
            let (mut conn, ask) = (conn.stream(), node.post("/echo").body(n.to_string()));
            asks.spawn(async move { (n, conn.send(ask).await) });
        }
        eventually("all requests at the origin", async || origin.in_flight() == 100).await;
        assert_eq!(origin.connections(), connections, "of {streams_max} streams");
        assert!(origin.most() <= streams_max as usize, "{} at once on a connection", origin.most());
        gate.add_permits(1);
        while let Some(done) = within("the responses", asks.join_next()).await {
            let (n, response) = done.unwrap();
            assert_eq!((response.status, response.text()), (200, n.to_string().as_str()));
        }
        assert!(origin.versions().iter().all(|version| *version == Version::HTTP_2));
    }
}

/// Processes ten requests on each of the first two connections, and all on the others.
async fn processes_ten(number: usize, mut wire: Wire, processed: Arc<AtomicUsize>) -> io::Result<()> {
    for request in 1.. {
        let stream = wire.next_request().await?;
        if number < 2 && request > 10 {
            continue;
        }
        if number < 2 && request == 10 {
            wire.go_away(stream).await?;
        }
        processed.fetch_add(1, SeqCst);
        wire.respond(stream).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_given_up_costs_no_request_that_was_not_processed() {
    let processed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&processed);
    let origin = WireOrigin::start(move |number, wire| processes_ten(number, wire, Arc::clone(&count))).await;
    // POSTs, which may not be repeated if they may have been processed; and one attempt that counts.
    let node = http2(&origin.url()).set("pool.web", "attempts_max = 1").start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for n in 0..100 {
        let (mut conn, ask) = (conn.stream(), node.post("/do").body(n.to_string()));
        asks.spawn(async move { conn.send(ask).await });
    }
    while let Some(done) = within("the responses", asks.join_next()).await {
        let response = done.unwrap();
        assert_eq!(response.status, 200, "{:?}", response.cache());
    }
    assert_eq!(processed.load(SeqCst), 100, "each once");
}

/// Processes ten requests, says so and closes, which resets the connection if there is more to read.
async fn closes_after_ten(mut wire: Wire, processed: Arc<AtomicUsize>) -> io::Result<()> {
    for request in 1..=10 {
        let stream = wire.next_request().await?;
        if request == 10 {
            wire.go_away(stream).await?;
        }
        processed.fetch_add(1, SeqCst);
        wire.respond(stream).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_reset_right_after_its_goaway_costs_no_request() {
    const ROUNDS: usize = 20;
    const AT_ONCE: usize = 40;
    let processed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&processed);
    let origin = WireOrigin::start(move |_, wire| closes_after_ten(wire, Arc::clone(&count))).await;
    let node = http2(&origin.url()).set("pool.web", "attempts_max = 1").start().await;
    let conn = node.h2().await;
    for round in 0..ROUNDS {
        let mut asks = JoinSet::new();
        for _ in 0..AT_ONCE {
            // Without a body, so that the origin has all of each request that it processes.
            let (mut conn, ask) = (conn.stream(), node.post("/do"));
            asks.spawn(async move { conn.send(ask).await });
        }
        while let Some(done) = within("the responses", asks.join_next()).await {
            let response = done.unwrap();
            assert_eq!(response.status, 200, "in round {round}: {:?}", response.cache());
        }
        assert_eq!(processed.load(SeqCst), (round + 1) * AT_ONCE, "each once");
    }
}

/// Begins a response to each request and gives it up without an error: at once, or when it may.
async fn gives_up(mut wire: Wire, may: Option<Arc<Semaphore>>) -> io::Result<()> {
    loop {
        let stream = wire.next_request().await?;
        wire.begin(stream, b"first half;").await?;
        if let Some(may) = &may {
            may.acquire().await.unwrap().forget();
        }
        wire.abandon(stream).await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_given_up_without_an_error_is_no_whole_response() {
    let origin = WireOrigin::start(|_, wire| gives_up(wire, None)).await;
    let node = http2(&origin.url()).set("pool.web", "attempts_max = 1").start().await;
    // If the beginning comes late, the client has its head already.
    if let Ok(response) = node.get("/at-once").try_send().await {
        assert_eq!((response.status, response.cache().get("detail")), (502, "invalid-response"));
    }
    assert!(node.cached("/at-once").await.is_none());

    let may = Arc::new(Semaphore::new(0));
    let given = Arc::clone(&may);
    let origin = WireOrigin::start(move |_, wire| gives_up(wire, Some(Arc::clone(&given)))).await;
    let node = http2(&origin.url()).set("pool.web", "attempts_max = 1").start().await;
    let mut opened = node.get("/later").open().await.unwrap();
    assert_eq!(opened.piece().await.unwrap().unwrap(), "first half;");
    may.add_permits(1);
    assert!(opened.piece().await.unwrap().is_err(), "it ended in good order");
    assert!(node.cached("/later").await.is_none());
}

/// Refuses so many requests on the first connection, and processes the others.
async fn refuses(number: usize, mut wire: Wire, most: usize, asked: Arc<AtomicUsize>) -> io::Result<()> {
    for request in 0.. {
        let stream = wire.next_request().await?;
        asked.fetch_add(1, SeqCst);
        if number == 0 && request < most || most == usize::MAX {
            wire.refuse(stream).await?;
        } else {
            wire.respond(stream).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_stream_is_sent_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let origin = WireOrigin::start(move |number, wire| refuses(number, wire, 5, Arc::clone(&count))).await;
    let node = http2(&origin.url()).set("pool.web", "attempts_max = 1").start().await;
    let mut conn = node.h2().await;
    for n in 0..20 {
        let response = conn.send(node.post("/do").body(n.to_string())).await;
        assert_eq!(response.status, 200, "{n}: {:?}", response.cache());
    }
    assert_eq!(asked.load(SeqCst), 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_processes_nothing_is_not_asked_for_ever() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let origin = WireOrigin::start(move |number, wire| refuses(number, wire, usize::MAX, Arc::clone(&count))).await;
    let node = http2(&origin.url()).start().await;
    let response = node.post("/do").body("x").send().await;
    assert_eq!((response.status, response.cache().get("detail")), (502, "connection-closed"));
    assert!(asked.load(SeqCst) <= 10, "asked {} times", asked.load(SeqCst));
}

/// Responds to the first request of a connection, and closes it as the head of the next one comes.
async fn forgets(mut wire: Wire, resets: bool, asked: Arc<AtomicUsize>) -> io::Result<()> {
    let first = wire.next_request().await?;
    asked.fetch_add(1, SeqCst);
    wire.respond_with(first, b"[1]").await?;
    wire.next_request().await?;
    asked.fetch_add(1, SeqCst);
    if resets { wire.reset() } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_connection_that_closes_as_a_request_comes_costs_none_that_may_be_repeated() {
    for (protocol, resets) in [("json-array", false), ("json-array", true), ("plain", false), ("plain", true)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let origin = WireOrigin::start(move |_, wire| forgets(wire, resets, Arc::clone(&count))).await;
        let node = http2(&origin.url()).infer(protocol).set("pool.web", "attempts_max = 1").start().await;
        for n in 0..8 {
            let response = node.post("/do").json(&serde_json::json!([n])).send().await;
            assert_eq!((response.status, response.text()), (200, "[1]"), "{protocol}, reset {resets}, {n}");
        }
        // All but the first met a connection that closed.
        assert_eq!(asked.load(SeqCst), 1 + 2 * 7, "{protocol}, reset {resets}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_may_have_had_effect_is_not_repeated_when_a_used_connection_closes() {
    for resets in [false, true] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let origin = WireOrigin::start(move |_, wire| forgets(wire, resets, Arc::clone(&count))).await;
        let node = http2(&origin.url()).set("pool.web", "attempts_max = 3").start().await;
        assert_eq!(node.post("/pay").body("10").send().await.status, 200);
        let failed = node.post("/pay").body("10").send().await;
        assert_eq!((failed.status, failed.cache().get("detail")), (502, "connection-reset"), "reset {resets}");
        assert_eq!(asked.load(SeqCst), 2, "reset {resets}");
    }
}

/// Says nothing on the first connection, and responds on the others.
async fn silent_at_first(number: usize, mut wire: Wire) -> io::Result<()> {
    loop {
        let stream = wire.next_request().await?;
        if number > 0 {
            wire.respond(stream).await?;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_which_a_head_did_not_come_in_time_takes_no_further_requests() {
    let origin = WireOrigin::start(silent_at_first).await;
    let node = http2(&origin.url()).set("pool.web", "response_ms = 1000").start().await;
    let late = node.post("/do").body("x").send().await;
    assert_eq!((late.status, late.cache().get("detail")), (504, "response-timeout"));
    for n in 0..3 {
        assert_eq!(node.post("/do").body(n.to_string()).send().await.status, 200, "{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_reset_is_broken_and_the_connection_goes_on() {
    let origin = H2Origin::start(STREAMS, None, |request: Request<Incoming>| async move {
        if request.uri().path() != "/broken" {
            return echo(request).await;
        }
        let (pipe, body) = piped();
        tokio::spawn(async move {
            pipe.send(Ok("first".into())).await.unwrap();
            pipe.send(Err(io::Error::other("broken"))).await.unwrap();
        });
        Response::new(body)
    })
    .await;
    let node = http2(&origin.url()).start().await;
    let mut conn = node.h2().await;
    let mut opened = conn.open(node.post("/broken").body("x")).await.unwrap();
    let whole = loop {
        match opened.piece().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(_)) => {}
        }
    };
    // One that breaks off before anything was passed on is a failure with a status of its own.
    assert!(!whole || opened.status == 502, "a body that broke off must not look whole");
    assert_eq!(conn.send(node.post("/echo").body("fine")).await.text(), "fine");
    assert_eq!(origin.connections(), 1);
}

async fn says_nothing(mut wire: Wire) -> io::Result<()> {
    loop {
        wire.next_request().await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_sign_of_life_is_given_up() {
    let origin = WireOrigin::start(|_, wire| says_nothing(wire)).await;
    let node = http2(&origin.url()).set("pool.web", "ping_ms = 50\nping_timeout_ms = 50").start().await;
    let response = node.fetch("/silent").await;
    // Not after `response_ms`, which would be 504.
    assert_eq!((response.status, response.cache().get("detail")), (502, "connection-reset"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_connection_is_closed() {
    for keep_alive_ms in [0, 50] {
        let origin = H2Origin::start(STREAMS, None, echo).await;
        let lines = format!("keep_alive_ms = {keep_alive_ms}");
        let node = http2(&origin.url()).set("pool.web", &lines).start().await;
        for n in 0..3 {
            assert_eq!(node.post("/echo").body(n.to_string()).send().await.text(), n.to_string());
        }
        eventually("the connection closing", async || origin.open() == 0).await;
        assert_eq!(node.post("/echo").body("again").send().await.text(), "again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_speak_what_requests_do() {
    let origin = H2Origin::start(STREAMS, None, echo).await;
    let checks = "path = \"/healthz\"\ninterval_ms = 10\nhealthy_after = 1";
    let node = http2(&origin.url()).set("pool.web.health", checks).start().await;
    eventually("some checks", async || origin.versions().len() >= 3).await;
    assert!(origin.versions().iter().all(|version| *version == Version::HTTP_2));
    assert_eq!(node.post("/echo").body("x").send().await.text(), "x");
}

/// Responds to a call with its body, and says in trailers what came with it.
async fn call(request: Request<Incoming>) -> Response<OutBody> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap();
    let mut trailers = fields(&[("grpc-status", "0"), ("set-cookie", "a=b")]);
    trailers.extend(
        body.trailers().and_then(|sent| sent.get("x-sum")).map(|sum| (HeaderName::from_static("x-sum"), sum.clone())),
    );
    let te = head.headers.get(header::TE).cloned();
    let mut response = Response::new(trailed(vec![body.to_bytes()], trailers));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().extend(te.map(|te| (HeaderName::from_static("x-te"), te)));
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_both_ways_and_calls_of_grpc_are_not_stored() {
    for mode in ["http", "plain"] {
        let origin = H2Origin::start(STREAMS, None, call).await;
        let builder = http2(&origin.url()).route("ttl_ms = 60_000");
        let builder = if mode == "plain" { builder.infer("plain") } else { builder };
        let node = builder.start().await;
        let mut conn = node.h2().await;
        for _ in 0..2 {
            let message = vec![Bytes::from_static(b"\0\0\0\0\x02"), Bytes::from_static(b"hi")];
            let sent = fields(&[("x-sum", "7"), ("authorization", "none of the head")]);
            let ask = node.post("/p.Service/Call").header("content-type", "application/grpc").header("te", "trailers");
            let opened = conn.open(ask.stream(trailed(message, sent))).await.unwrap();
            assert_eq!((opened.status, &opened.headers["x-te"]), (200, &HeaderValue::from_static("trailers")));
            let (body, trailers) = opened.with_trailers().await.unwrap();
            assert_eq!(body.as_ref(), b"\0\0\0\0\x02hi");
            assert_eq!(trailers, fields(&[("grpc-status", "0"), ("x-sum", "7")]), "{mode}");
        }
        assert_eq!(origin.versions().len(), 2, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_of_a_slow_client_wait_with_its_body() {
    let body = Bytes::from(vec![b'x'; 4 << 20]);
    let sent = body.clone();
    let origin = H2Origin::start(STREAMS, None, move |_| {
        let body = sent.clone();
        async move { Response::new(trailed(vec![body], fields(&[("grpc-status", "0")]))) }
    })
    .await;
    let node = http2(&origin.url()).start().await;
    let mut conn = node.h2().await;
    let opened = conn.open(node.post("/p.Service/List").body("x")).await.unwrap();
    // The origin is through with it although nothing has been read.
    eventually("the place being free", async || node.metric("holm_origin_inflight", "web").await == 0.0).await;
    let (found, trailers) = opened.with_trailers().await.unwrap();
    assert!(found == body, "{} bytes", found.len());
    assert_eq!(trailers, fields(&[("grpc-status", "0")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_streams_both_ways_at_once() {
    let origin = H2Origin::start(STREAMS, None, |request: Request<Incoming>| async move {
        Response::new(request.into_body().map_err(io::Error::other).boxed_unsync())
    })
    .await;
    let node = http2(&origin.url()).start().await;
    let mut conn = node.h2().await;
    let (pipe, body) = piped();
    let ask = node.post("/p.Service/Chat").header("content-type", "application/grpc").header("te", "trailers");
    let opening = tokio::spawn(async move { (conn.open(ask.stream(body)).await.unwrap(), conn) });
    pipe.send(Ok("0".into())).await.unwrap();
    let (mut opened, _conn) = within("the head while the body is open", opening).await.unwrap();
    assert_eq!(opened.piece().await.unwrap().unwrap(), "0");
    for n in 1..5 {
        pipe.send(Ok(n.to_string().into())).await.unwrap();
        assert_eq!(opened.piece().await.unwrap().unwrap(), n.to_string());
    }
    drop(pipe);
    // The end may come with a frame of its own.
    assert!(opened.piece().await.is_none_or(|piece| piece.unwrap().is_empty()));
}

fn server(certificate: &Certificate, offered: &[&str], wants_certificate: bool) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = if wants_certificate {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(vec![certificate.der.clone()], key).unwrap();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_is_the_one_that_both_sides_want() {
    let certificate = Certificate::new();
    let ca = format!("ca = {}", path(&certificate.certificate));
    for (http, offered, wanted) in [
        ("auto", &["h2", "http/1.1"][..], Ok(Version::HTTP_2)),
        ("auto", &["h2"], Ok(Version::HTTP_2)),
        ("auto", &["http/1.1"], Ok(Version::HTTP_11)),
        ("auto", &[], Ok(Version::HTTP_11)),
        ("1.1", &["h2", "http/1.1"], Ok(Version::HTTP_11)),
        ("2", &["http/1.1", "h2"], Ok(Version::HTTP_2)),
        ("2", &["http/1.1"], Err("tls-failed")),
        ("2", &[], Err("connect-failed")),
    ] {
        let origin = H2Origin::start(STREAMS, Some(server(&certificate, offered, false)), echo).await;
        let builder = Node::builder().origin(&origin.https_url()).set("pool.web", &format!("http = \"{http}\""));
        let node = builder.set("pool.web.tls", &ca).start().await;
        for n in 0..3 {
            let response = node.post("/echo").body(n.to_string()).send().await;
            match wanted {
                Ok(_) => assert_eq!((response.status, response.text()), (200, n.to_string().as_str()), "{http}"),
                Err(word) => assert_eq!(response.cache().get("detail"), word, "{http}, {offered:?}"),
            }
        }
        let wanted = wanted.map_or_else(|_| Vec::new(), |version| vec![version; 3]);
        assert_eq!(origin.versions(), wanted, "{http}, {offered:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_trusted_and_shown_as_configured() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let origin = H2Origin::start(STREAMS, Some(server(&certificate, &["h2"], true)), echo).await;
    let (trusted, key) = (path(&certificate.certificate), path(&certificate.key));
    let own = format!("certificate = {trusted}\nkey = {key}");
    let named = "server_name = \"localhost\"";
    let by_address = format!("https://{}", origin.address());
    for (url, tls, wanted) in [
        (origin.https_url(), format!("ca = {trusted}\n{own}"), 200),
        // By its address, under the name that its certificate has.
        (by_address.clone(), format!("ca = {trusted}\n{own}\n{named}"), 200),
        (by_address, format!("ca = {trusted}\n{own}"), 502),
        (origin.https_url(), format!("ca = {trusted}"), 502),
        (origin.https_url(), format!("ca = {}\n{own}", path(&other.certificate)), 502),
    ] {
        let node = http2(&url).set("pool.web.tls", &tls).start().await;
        let response = node.post("/echo").body("x").send().await;
        assert_eq!(response.status, wanted, "{url}\n{tls}\n{:?}", response.cache());
    }
    let unusable = http2(&origin.https_url()).set("pool.web.tls", &format!("ca = {key}")).try_start().await;
    assert!(unusable.err().is_some_and(|error| error.contains("TLS can't be set up")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_names_trusted_certificates() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let origin = H2Origin::start(STREAMS, Some(server(&certificate, &["http/1.1"], false)), echo).await;
    let config = Node::builder().origin(&origin.https_url()).text();
    for (file, wanted) in [(&certificate.certificate, 200), (&other.certificate, 502)] {
        let process = Process::serve_in(&config, "SSL_CERT_FILE", OsStr::new(file)).await;
        let response = process.post("/echo").body("x").send().await;
        assert_eq!(response.status, wanted, "{:?}", response.cache());
    }
}

/// Responds with the name that it was called by.
async fn named(request: Request<Incoming>) -> Response<OutBody> {
    let (head, _) = request.into_parts();
    assert!(!head.headers.contains_key(header::HOST), "HTTP/2 names it once");
    let name = head.uri.authority().map(ToString::to_string).unwrap_or_default();
    let mut response = Response::new(full(name));
    response.headers_mut().insert("x-client", head.headers["x-forwarded-host"].clone());
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_is_named_as_configured() {
    let origin = Origin::start().await;
    origin
        .on("*", |seen| Reply::ok(seen.header("host").to_owned()).header("x-client", seen.header("x-forwarded-host")));
    let h2_origin = H2Origin::start(STREAMS, None, named).await;
    for (url, http) in [(origin.url(), "1.1"), (h2_origin.url(), "2")] {
        let by_name = url.replace("127.0.0.1", "localhost");
        let authority = by_name.trim_start_matches("http://").to_owned();
        for (url, host, wanted) in [
            (&url, "auto", "shop.test"),
            (&by_name, "auto", authority.as_str()),
            (&by_name, "client", "shop.test"),
            (&url, "origin.example", "origin.example"),
            (&by_name, "origin.example:81", "origin.example:81"),
        ] {
            let lines = format!("http = \"{http}\"\nhost = \"{host}\"");
            let node = Node::builder().origin(url).set("pool.web", &lines).start().await;
            let response = node.fetch("/").await;
            assert_eq!((response.text(), response.header("x-client")), (wanted, "shop.test"), "{url}, {host}");
        }
    }
}
