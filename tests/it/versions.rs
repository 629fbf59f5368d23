//! The same requests over HTTP/1.1, HTTP/2 and HTTP/3: they get the same responses, and reach the origin as the same.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response as Head, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    harness::{
        client::{Ask, Conn, Failure, OutBody, Response},
        eventually, found,
        h2::H2Origin,
        h3::H3Conn,
        liar::{Liar, Lie, crlf},
        node::{Builder, Node, NodeHandle},
        origin::{Gate, Origin, Reply, Seen},
        sealed, within,
    },
    http_versions::Certificate,
};

const VERSIONS: [&str; 3] = ["1.1", "2", "3"];

/// A connection that speaks one of them.
enum Client {
    Tcp(Conn),
    Quic(H3Conn),
}

impl Client {
    async fn open(node: &NodeHandle, certificate: &Certificate, version: &str) -> Self {
        let offered = match version {
            "1.1" => "http/1.1",
            "2" => "h2",
            _ => return Self::Quic(H3Conn::open(node.address, &certificate.der).await.unwrap()),
        };
        Self::Tcp(Conn::tls(node.address, &certificate.der, &[offered]).await.unwrap())
    }

    /// Returns the whole response with its trailers.
    async fn send(&mut self, ask: Ask) -> Result<(Response, HeaderMap), Failure> {
        match self {
            Self::Tcp(conn) => {
                let opened = conn.open(ask).await?;
                let (status, version, headers) = (opened.status, opened.version, opened.headers.clone());
                let (body, trailers) = opened.with_trailers().await?;
                Ok((Response { status, version, headers, body }, trailers))
            }
            Self::Quic(conn) => conn.ask(ask).await?.whole().await,
        }
    }
}

/// A node that speaks all of them in front of this origin.
fn all(origin: &str, certificate: &Certificate) -> Builder {
    Node::builder().origin(origin).http3(&certificate.certificate, &certificate.key)
}

/// A body of unknown length in one piece, with these trailers.
fn unsized_body(body: impl Into<Bytes>, trailers: Option<(&'static str, &'static str)>) -> OutBody {
    let trailers = trailers
        .map(|(name, value)| HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]));
    let body: Bytes = body.into();
    let frames = [Frame::data(body)].into_iter().chain(trailers.map(Frame::trailers)).map(Ok);
    StreamBody::new(stream::iter(frames.collect::<Vec<std::io::Result<Frame<Bytes>>>>())).boxed_unsync()
}

/// Makes a request whose target ends in this query.
type Make = fn(&NodeHandle, &str) -> Ask;

/// Requests one after the other, each with what it leads to: the status, `hit` if it is repeated until it is one, and the
/// body after a colon if it isn't only to be the same. `purge` is a call of the admin API.
type Steps = &'static [(&'static str, Make)];

fn get(node: &NodeHandle, path: &str, at: &str) -> Ask {
    node.get(&format!("{path}{at}"))
}

fn kept(node: &NodeHandle, at: &str) -> Ask {
    get(node, "/kept", at)
}

fn many(node: &NodeHandle, at: &str, count: usize, length: usize) -> Ask {
    (0..count).fold(get(node, "/echo", at), |ask, n| ask.header(&format!("x-{n}"), &"y".repeat(length)))
}

const STORED: &[(&str, Steps)] = &[
    ("a miss and a hit", &[("200: kept", kept), ("200 hit: kept", kept)]),
    ("HEAD of what isn't stored", &[("200: ", |node, at| node.ask(Method::HEAD, &format!("/kept{at}")))]),
    (
        "HEAD of what is stored",
        &[("200 hit", kept), ("200 hit: ", |node, at| node.ask(Method::HEAD, &format!("/kept{at}")))],
    ),
    ("304", &[("200 hit", kept), ("304 hit: ", |node, at| kept(node, at).header("if-none-match", "\"1\""))]),
    ("206", &[("200 hit", kept), ("206 hit: ep", |node, at| kept(node, at).header("range", "bytes=1-2"))]),
    ("206 of what isn't stored", &[("206: ep", |node, at| kept(node, at).header("range", "bytes=1-2"))]),
    ("a byte", &[("200 hit", kept), ("206 hit: k", |node, at| kept(node, at).header("range", "bytes=0-0"))]),
    ("416", &[("200 hit", kept), ("416", |node, at| kept(node, at).header("range", "bytes=9-"))]),
    (
        "only-if-cached",
        &[("504", |node, at| kept(node, at).header("cache-control", "only-if-cached")), ("200: kept", kept)],
    ),
    (
        "purge",
        &[
            ("200 hit", kept),
            ("purge", |node, at| {
                let what = json!({"url": format!("https://shop.test/kept{at}"), "soft": false});
                Ask::new(node.admin, Method::POST, "/purge").json(&what)
            }),
            ("200: kept", kept),
        ],
    ),
    (
        "another spelling of the host",
        &[("200 hit", kept), ("200 hit: kept", |node, at| kept(node, at).host("Shop.Test.:443"))],
    ),
    (
        "a hit in early data",
        &[("200 hit", kept), ("200 hit: kept", |node, at| kept(node, at).header("early-data", "1"))],
    ),
    ("another host", &[("200 hit", kept), ("200: kept", |node, at| kept(node, at).host("other.test"))]),
];

const PASSED: &[(&str, Steps)] = &[
    (
        "POST with a length",
        &[("200: body", |node, at| node.post(&format!("/echo{at}")).header("content-length", "4").body("body"))],
    ),
    (
        "POST without a length",
        &[("200: body", |node, at| node.post(&format!("/echo{at}")).stream(unsized_body("body", None)))],
    ),
    (
        "POST of 3 MB",
        &[("200", |node, at| {
            node.post(&format!("/echo{at}")).header("content-length", "3000000").body(sealed("up", 3_000_000))
        })],
    ),
    (
        "POST of 3 MB without a length",
        &[("200", |node, at| node.post(&format!("/echo{at}")).stream(unsized_body(sealed("up", 3_000_000), None)))],
    ),
    (
        "Expect",
        &[("200: body", |node, at| {
            node.post(&format!("/echo{at}")).header("expect", "100-continue").header("content-length", "4").body("body")
        })],
    ),
    ("DELETE", &[("200", |node, at| node.ask(Method::DELETE, &format!("/echo{at}")))]),
    ("OPTIONS", &[("200", |node, at| node.ask(Method::OPTIONS, &format!("/echo{at}")))]),
    ("an unknown method", &[("200", |node, at| node.ask(Method::from_bytes(b"BREW").unwrap(), &format!("/echo{at}")))]),
    ("no content", &[("204: ", |node, at| get(node, "/empty", at))]),
    ("not found", &[("404", |node, at| get(node, "/nowhere", at))]),
    ("a failure of the origin", &[("503", |node, at| get(node, "/failing", at))]),
    (
        "cookies",
        &[("200: a=1; b=2; c=3", |node, at| {
            get(node, "/cookie", at).header("cookie", "a=1").header("cookie", "b=2; c=3")
        })],
    ),
    ("one cookie", &[("200: a=1", |node, at| get(node, "/cookie", at).header("cookie", "a=1"))]),
    (
        "two fields of one name",
        &[("200", |node, at| {
            get(node, "/echo", at).header("x-two", "1").header("x-two", "2").header("accept", "a").header("accept", "b")
        })],
    ),
    ("large header fields", &[("200", |node, at| many(node, at, 20, 300))]),
    ("another spelling of the path", &[("404", |node, at| get(node, "/x/./%65cho", at))]),
];

const REFUSED: &[(&str, Steps)] = &[
    ("too large header fields", &[("431", |node, at| many(node, at, 1, 9_000))]),
    ("too many header fields", &[("431", |node, at| many(node, at, 60, 1))]),
    ("an over-long target", &[("414", |node, at| node.get(&format!("/{}{at}", "x".repeat(9_000))))]),
    ("a target above the root", &[("400", |node, at| get(node, "/../echo", at))]),
    ("a method that isn't allowed", &[("405", |node, at| node.ask(Method::TRACE, &format!("/echo{at}")))]),
    (
        "another expectation",
        &[("417", |node, at| {
            node.post(&format!("/echo{at}")).header("expect", "tea").header("content-length", "4").body("body")
        })],
    ),
    ("early data that no hit serves", &[("425", |node, at| kept(node, at).header("early-data", "1"))]),
    (
        "early data with an effect",
        &[("425", |node, at| {
            node.post(&format!("/echo{at}")).header("early-data", "0").header("content-length", "4").body("body")
        })],
    ),
    ("a host that is none", &[("400", |node, at| get(node, "/echo", at).host("a:99999"))]),
];

/// Fields of one connection or of one moment, and those that a client adds by itself.
const OWN: [&str; 12] = [
    "age",
    "alt-svc",
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "user-agent",
    "x-request-id",
];

/// Returns the fields that matter, in order.
fn fields(headers: &HeaderMap, but: &[&str]) -> Vec<(String, String)> {
    let read = |(name, value): (&HeaderName, &HeaderValue)| {
        let value = value.to_str().unwrap();
        let lasting = value.split(';').filter(|parameter| !parameter.trim().starts_with("ttl="));
        (name.as_str().to_owned(), lasting.collect::<Vec<_>>().join(";"))
    };
    let mut fields: Vec<_> = headers.iter().map(read).filter(|(name, _)| !but.contains(&name.as_str())).collect();
    fields.sort();
    fields
}

/// A response, but for what may differ.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    fields: Vec<(String, String)>,
    body: Bytes,
}

/// A request at the origin, but for what may differ.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    method: Method,
    fields: Vec<(String, String)>,
    body: Bytes,
}

impl Asked {
    fn of(seen: &Seen) -> Self {
        Self { method: seen.method.clone(), fields: fields(&seen.headers, &OWN), body: seen.body.clone() }
    }
}

/// Does what the steps say in one version, and returns the responses.
async fn done(
    node: &NodeHandle,
    certificate: &Certificate,
    version: &str,
    at: &str,
    (name, steps): (&str, Steps),
) -> Vec<Told> {
    let mut told = Vec::new();
    for (expected, make) in steps {
        if *expected == "purge" {
            assert_eq!(make(node, at).send().await.status, 200, "{name}");
            continue;
        }
        let (head, text) = expected.split_once(": ").map_or((*expected, None), |(head, text)| (head, Some(text)));
        let is_wanted = |response: &Response| !head.ends_with(" hit") || response.is_hit();
        let response = found(name, async || {
            let mut client = Client::open(node, certificate, version).await;
            let response = within(name, client.send(make(node, at))).await;
            let response = response.unwrap_or_else(|error| panic!("{name} over {version}: {error}")).0;
            Some(response).filter(is_wanted)
        })
        .await;
        let Response { status, headers, body, .. } = response;
        assert_eq!(status.to_string(), head[..3], "{name} over {version}: {}", String::from_utf8_lossy(&body));
        if let Some(text) = text {
            assert_eq!(body, text, "{name} over {version}");
        }
        // Where a body's length was unknown at first it depends on the version whether it is stated.
        if let Some(stated) = headers.get("content-length").filter(|_| !body.is_empty()) {
            assert_eq!(stated.to_str().unwrap(), body.len().to_string(), "{name} over {version}");
        }
        told.push(Told { status, fields: fields(&headers, &OWN), body });
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_requests_get_the_same_responses() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("/kept", |_| Reply::fresh(600, "kept").header("etag", "\"1\"").header("x-kept", "1"));
    origin.on("/echo", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    origin.on("/x/echo", |_| Reply::ok("spelled").header("cache-control", "no-store"));
    origin.on("/cookie", |seen| Reply::ok(seen.header("cookie").to_owned()).header("cache-control", "no-store"));
    origin.on("/empty", |_| Reply::says(204, ""));
    origin.on("/failing", |_| Reply::status(503));
    let limits = "headers_max = 50\nheader_bytes_max = \"8KiB\"";
    // Which of two versions meets an endpoint that is taken out must not matter.
    let pool = "attempts_max = 1";
    let node = all(&origin.url(), &certificate).set("limits", limits).set("pool.web", pool).start().await;
    for (number, case) in [STORED, PASSED, REFUSED].concat().into_iter().enumerate() {
        let mut first = None;
        for version in VERSIONS {
            let at = format!("?{number}&v={version}");
            let before = origin.total();
            let told = done(&node, &certificate, version, &at, case).await;
            let seen = |path: &str| origin.seen(&format!("{path}{at}"));
            let mut asked: Vec<_> =
                ["/kept", "/echo", "/x/echo", "/cookie"].iter().flat_map(|path| seen(path)).collect();
            asked.retain(|seen| seen.header("host") == "shop.test");
            let mut asked: Vec<_> = asked.iter().map(Asked::of).collect();
            asked.dedup();
            if REFUSED.iter().any(|refused| refused.0 == case.0) {
                assert_eq!(origin.total(), before, "{} over {version}", case.0);
            }
            match &first {
                None => first = Some((told, asked)),
                Some(first) => assert_eq!((&first.0, &first.1), (&told, &asked), "{} over {version}", case.0),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_up_from_all_and_down_to_those_that_may_get_them_unannounced() {
    let certificate = Certificate::new();
    let origin = H2Origin::start(100, None, |request| async move {
        let collected = request.into_body().collect().await.unwrap();
        let up = collected.trailers().and_then(|trailers| trailers.get("x-up").cloned());
        let mut response = Head::new(unsized_body(collected.to_bytes(), Some(("x-down", "2"))));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.headers_mut().insert("x-seen", up.unwrap_or_else(|| HeaderValue::from_static("none")));
        response
    })
    .await;
    let node = all(&origin.url(), &certificate).set("pool.web", "http = \"2\"").start().await;
    for version in VERSIONS {
        let body = unsized_body("body", Some(("x-up", "1")));
        let mut ask = node.post("/rpc").header("te", "trailers").stream(body);
        if version == "1.1" {
            ask = ask.header("trailer", "x-up");
        }
        let (response, trailers) = Client::open(&node, &certificate, version).await.send(ask).await.unwrap();
        let told = (response.status, response.text(), response.header("x-seen"));
        assert_eq!(told, (200, "body", "1"), "{version}");
        let down = trailers.get("x-down").map(HeaderValue::as_bytes);
        assert_eq!(down, (version != "1.1").then_some(&b"2"[..]), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_breaks_off_is_an_error_in_every_version() {
    let (certificate, head) = (Certificate::new(), "HTTP/1.1 200 OK\nCache-Control: max-age=600\n");
    for lie in [
        Lie::Say(crlf(&format!("{head}Content-Length: 1000\n\nonly this"))),
        Lie::SayAndReset(crlf(&format!("{head}Transfer-Encoding: chunked\n\n9\nonly this\n"))),
        Lie::SayAndStall(crlf(&format!("{head}Transfer-Encoding: chunked\n\n9\nonly this\n"))),
    ] {
        let words = format!("{lie:?}");
        let liar = Liar::start(lie).await;
        let limits = "idle_ms = 300\nattempts_max = 1";
        let node = all(&liar.url(), &certificate).set("pool.web", limits).start().await;
        for version in VERSIONS {
            let ask = node.get(&format!("/x?{version}"));
            if let Ok((response, _)) = Client::open(&node, &certificate, version).await.send(ask).await {
                // A fault that is seen before the head has left becomes a status.
                assert!(response.status >= 500, "{words} over {version}: {}", response.text());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_late_gets_all_of_it() {
    let (origin, certificate, large) = (Origin::start().await, Certificate::new(), sealed("late", 8 << 20));
    let body = large.clone();
    origin.on("/large", move |_| Reply::ok(body.clone()).header("cache-control", "no-store"));
    let node = all(&origin.url(), &certificate).start().await;
    for version in VERSIONS {
        let ask = node.get(&format!("/large?{version}"));
        let mut read = Vec::new();
        match Client::open(&node, &certificate, version).await {
            Client::Tcp(mut conn) => {
                let mut opened = conn.open(ask).await.unwrap();
                busy(&node).await;
                while let Some(piece) = opened.piece().await {
                    read.extend_from_slice(&piece.unwrap());
                }
            }
            Client::Quic(conn) => {
                let mut opened = conn.ask(ask).await.unwrap();
                busy(&node).await;
                while let Some(piece) = opened.piece().await.unwrap() {
                    read.extend_from_slice(&piece);
                }
            }
        }
        assert!(read == large, "{} bytes over {version}", read.len());
    }
}

/// Has the node do other things, so that a client which doesn't read falls behind.
async fn busy(node: &NodeHandle) {
    for _ in 0..30 {
        node.admin("/readyz").send().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_differs_from_the_authority_is_refused() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |_| Reply::fresh(60, "x"));
    let node = all(&origin.url(), &certificate).start().await;
    let ask = |host: &str| node.get("/x").header("host", host);
    // In HTTP/1.1 an absolute target counts, whatever `Host` says (RFC 9112, section 3.2.2).
    let mut h2 = Client::open(&node, &certificate, "2").await;
    let mut h3 = Client::open(&node, &certificate, "3").await;
    for client in [&mut h2, &mut h3] {
        assert_eq!(client.send(ask("shop.test")).await.unwrap().0.status, 200, "the same twice");
    }
    // Over HTTP/3 the client's library doesn't send such a request.
    assert_eq!(h2.send(ask("other.test")).await.unwrap().0.status, 400);
    assert!(origin.seen("/x").iter().all(|seen| seen.header("host") == "shop.test"));
}

/// An HTTP/2 header section, each field spelled out (RFC 7541, section 6.2.2).
fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_stream_is_reset_without_an_error_is_not_sent_on_as_whole() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |seen| Reply::ok(seen.body.clone()));
    let node = all(&origin.url(), &certificate).start().await;
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    let head = |method: &'static str, path: &'static str| {
        let pseudo = [(":method", method), (":scheme", "https"), (":authority", "shop.test"), (":path", path)];
        section(&[&pseudo[..], &[("content-type", "application/json")]].concat())
    };
    let mut stream = tls(&node, &certificate).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    stream.write_all(&[&preface[..], &frame(4, 0, 0, &[])].concat()).await.unwrap();
    // Fewer than the library takes for a flood.
    for id in (1..20).step_by(2) {
        let cut = [frame(1, 4, id, &head("QUERY", "/cut")), frame(0, 0, id, b"[1]"), frame(3, 0, id, &[0; 4])];
        stream.write_all(&cut.concat()).await.unwrap();
    }
    let whole = [frame(1, 4, 21, &head("QUERY", "/whole")), frame(0, 1, 21, b"[1]")];
    stream.write_all(&whole.concat()).await.unwrap();
    eventually("the whole request", async || origin.hits("/whole") == 1).await;
    assert_eq!(origin.hits("/cut"), 0);
}

/// Sends a request with this field over HTTP/2, spelled out since no library sends it; returns the kinds of the frames
/// that come back on its stream.
async fn kinds(node: &NodeHandle, certificate: &Certificate, field: (&str, &str)) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "shop.test"), (":path", "/x")];
    let block = section(&[&pseudo[..], &[field]].concat());
    // END_STREAM and END_HEADERS.
    let head = [&[0, 0, u8::try_from(block.len()).unwrap(), 1, 0x5, 0, 0, 0, 1][..], &block].concat();
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], b"12345678"].concat();
    let mut stream = tls(node, certificate).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    stream.write_all(&[&preface[..], &SETTINGS, &head, &ping].concat()).await.unwrap();
    let mut kinds = Vec::new();
    loop {
        let mut frame = [0; 9];
        if within("a frame", stream.read_exact(&mut frame)).await.is_err() {
            return kinds;
        }
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if frame[8] == 1 {
            kinds.push(frame[3]);
        }
        // RST_STREAM, GOAWAY, or the end of a response.
        let is_response = frame[8] == 1 && frame[3] <= 1 && frame[4] & 1 == 1;
        if matches!(frame[3], 3 | 7) || is_response {
            return kinds;
        }
    }
}

async fn tls(node: &NodeHandle, certificate: &Certificate) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(node.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_a_connection_are_refused_where_they_are_malformed() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    origin.on("*", |_| Reply::ok("x").header("cache-control", "no-store"));
    let node = all(&origin.url(), &certificate).start().await;
    let plain = kinds(&node, &certificate, ("x-plain", "1")).await;
    assert_eq!(plain.first(), Some(&1), "a response to what is well-formed: {plain:?}");
    let before = origin.total();
    for (name, value) in [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("upgrade", "websocket"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
    ] {
        let kinds = kinds(&node, &certificate, (name, value)).await;
        assert!(!kinds.contains(&1), "{name} over HTTP/2: {kinds:?}");
        let mut h3 = Client::open(&node, &certificate, "3").await;
        let error = h3.send(node.get("/x").header(name, value)).await.unwrap_err().to_string();
        assert!(error.contains("H3_MESSAGE_ERROR"), "{name}: {error}");
    }
    assert_eq!(origin.total(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_http_3_has_500_requests_at_once() {
    let (origin, certificate, gate) = (Origin::start().await, Certificate::new(), Gate::closed());
    let behind = gate.clone();
    origin.on("*", move |seen| Reply::ok(seen.target.clone()).header("cache-control", "no-store").behind(&behind));
    let node = all(&origin.url(), &certificate)
        .set("limits", "streams_max = 500")
        .set("pool.web", "connections_max = 500")
        .start()
        .await;
    let conn = Arc::new(H3Conn::open(node.address, &certificate.der).await.unwrap());
    let mut asks = JoinSet::new();
    for number in 0..500 {
        let (conn, ask) = (Arc::clone(&conn), node.get(&format!("/{number}")));
        asks.spawn(async move { (number, conn.send(ask).await) });
    }
    eventually("all at the origin", async || origin.total() == 500).await;
    gate.open();
    for (number, response) in within("the responses", asks.join_all()).await {
        assert_eq!((response.status, response.text()), (200, format!("/{number}").as_str()));
    }
    assert_eq!(origin.total(), 500);
}
