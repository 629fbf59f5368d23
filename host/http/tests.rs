//! The whole room over loopback sockets.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use ::http::{Method, StatusCode, Version, header};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tracing::Level;

use super::*;
use crate::message::{Body, BodyError, Request, Response, problem::problem};

/// Far beyond what anything here takes; only a failure reaches it.
const FOREVER: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);

async fn within<F: Future>(future: F) -> F::Output {
    timeout(FOREVER, future).await.expect("in time")
}

fn limits() -> config::Limits {
    config::Limits {
        connections_max: 32,
        streams_max: 8,
        headers_max: 20,
        header_bytes_max: 16 * 1024,
        body_bytes_max: 10,
        items_max: 1,
        ..config::Limits::default()
    }
}

fn timeouts() -> config::Timeouts {
    config::Timeouts {
        first_byte: FOREVER,
        headers: FOREVER,
        body: FOREVER,
        send: FOREVER,
        rate_bytes_min: 0,
        rate_window: FOREVER,
        idle: FOREVER,
        linger: FOREVER,
        drain: FOREVER,
        drain_delay: FOREVER,
    }
}

/// A handler that responds by path, and lets a test see and steer it.
#[derive(Clone, Default)]
struct Script {
    started: Arc<Notify>,
    go_on: Arc<Notify>,
    dropped: Arc<Notify>,
}

impl Handler for Script {
    async fn handle(&self, request: Request, arrival: Arrival) -> Response {
        match request.head.target.path() {
            "/hello" => Response::new(format!("hello {}", request.head.authority()).into()),
            "/first" => Response::new(arrival.since_accept.is_some().to_string().into()),
            "/wait" => {
                self.started.notify_one();
                self.go_on.notified().await;
                Response::new("waited".to_owned().into())
            }
            "/panic" => panic!("on purpose"),
            "/endless" => Response::new(Body::stream(Endless { dropped: self.dropped.clone() })),
            "/broken" => Response::new(Body::stream(Broken { pieces: 1 })),
            _ => match request.body.collect(1000).await {
                Ok(bytes) => Response::new(bytes.into()),
                Err(error) => problem(StatusCode::BAD_REQUEST, "Bad body", &error.to_string()),
            },
        }
    }
}

/// A body without an end, which notifies the test when it is dropped.
struct Endless {
    dropped: Arc<Notify>,
}

impl HttpBody for Endless {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 64 * 1024])))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.dropped.notify_one();
    }
}

/// A body that fails after some pieces.
struct Broken {
    pieces: usize,
}

impl HttpBody for Broken {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = match self.pieces.checked_sub(1) {
            Some(left) => {
                self.pieces = left;
                Ok(Frame::data(Bytes::from_static(b"piece")))
            }
            None => Err(BodyError::Broken("on purpose".to_owned())),
        };
        Poll::Ready(Some(next))
    }
}

/// A running server.
struct Site {
    address: SocketAddr,
    script: Script,
    metrics: Metrics,
    drain: CancellationToken,
    running: JoinHandle<Drained>,
}

impl Site {
    async fn start(limits: &config::Limits, timeouts: &config::Timeouts) -> Self {
        Self::start_with(None, limits, timeouts).await
    }

    async fn start_with(tls: Option<config::ListenTls>, limits: &config::Limits, timeouts: &config::Timeouts) -> Self {
        let listen = config::Listen { tls, ..config::Listen::new("127.0.0.1:0".parse().unwrap()) };
        let server = Server::bind(&[listen], limits, timeouts).await.unwrap_or_else(|error| panic!("{error}"));
        let (script, drain) = (Script::default(), CancellationToken::new());
        Self {
            address: server.addresses()[0],
            metrics: server.metrics(),
            running: tokio::spawn(server.run(script.clone(), drain.clone())),
            script,
            drain,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `text` on a connection of its own and reads until the server closes.
    async fn talk(&self, text: &str) -> String {
        let mut stream = self.connect().await;
        // The server may refuse and close before it has read everything.
        let _ = stream.write_all(text.as_bytes()).await;
        read_all(&mut stream).await
    }

    async fn stop(self) -> Drained {
        self.drain.cancel();
        within(self.running).await.unwrap()
    }
}

/// Reads to the end; a reset is an end, too.
async fn read_all<R: AsyncRead + Unpin>(stream: &mut R) -> String {
    let mut bytes = Vec::new();
    let _ = within(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until `end` has come.
async fn read_until<R: AsyncRead + Unpin>(stream: &mut R, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let read = within(stream.read_buf(&mut bytes)).await.unwrap();
        assert_ne!(read, 0, "closed after {}", bytes.escape_ascii());
    }
    String::from_utf8(bytes).unwrap()
}

/// Reads until one of `ends` has come.
async fn read_until_either<R: AsyncRead + Unpin>(stream: &mut R, ends: [&str; 2]) -> String {
    let mut bytes = Vec::new();
    while !ends.iter().any(|end| bytes.ends_with(end.as_bytes())) {
        let read = within(stream.read_buf(&mut bytes)).await.unwrap();
        assert_ne!(read, 0, "closed after {}", bytes.escape_ascii());
    }
    String::from_utf8(bytes).unwrap()
}

type Http2 = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

async fn connect_http2(site: &Site) -> Http2 {
    let io = TokioIo::new(site.connect().await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get(site: &Site, path: &str) -> ::http::Request<Empty<Bytes>> {
    ::http::Request::get(format!("http://{}{path}", site.address)).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn http_1_responds_in_a_row_on_one_connection() {
    let site = Site::start(&limits(), &timeouts()).await;
    let mut stream = site.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET /hello HTTP/1.1\r\nHost: Example.org\r\n\r\n").await.unwrap();
        let answer = read_until(&mut stream, "hello example.org").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-length: 17\r\n"), "{answer}");
    }
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await.unwrap();
    read_until(&mut stream, "\r\n\r\nabc").await;
    assert_eq!(site.metrics.accepted.get(), 1);
    assert_eq!(site.stop().await, Drained { finished: 1, cut: 0 });
}

#[tokio::test]
async fn http_2_responds_without_an_http_1_request_first() {
    let site = Site::start(&limits(), &timeouts()).await;
    let mut sender = connect_http2(&site).await;
    let response = within(sender.send_request(get(&site, "/hello"))).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body, format!("hello {}", site.address));

    let mut head = get(&site, "/hello");
    *head.method_mut() = Method::HEAD;
    let response = within(sender.send_request(head)).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_LENGTH], body.len().to_string());
    assert!(within(response.into_body().collect()).await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn the_first_request_of_a_connection_is_timed_from_its_accept_and_no_other() {
    let site = Site::start(&limits(), &timeouts()).await;
    let mut stream = site.connect().await;
    for is_first in [true, false] {
        stream.write_all(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        read_until(&mut stream, &format!("\r\n\r\n{is_first}")).await;
    }
    let mut sender = connect_http2(&site).await;
    for is_first in [true, false] {
        let response = within(sender.send_request(get(&site, "/first"))).await.unwrap();
        let body = within(response.into_body().collect()).await.unwrap().to_bytes();
        assert_eq!(body, is_first.to_string());
    }
    let (mut registry, mut text) = (prometheus_client::registry::Registry::default(), String::new());
    site.metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("http_accept_to_head_seconds_count 2\n"), "{text}");
}

#[tokio::test]
async fn tls_speaks_what_alpn_chose() {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("crt"), dir.path().join("key"));
    std::fs::write(&certificate, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let files = config::Certificate::Files { pair: config::Tls { certificate, key }, ocsp: None };
    let site = Site::start_with(Some(config::ListenTls::new(vec![files])), &limits(), &timeouts()).await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();

    for (alpn, version) in [("http/1.1", Version::HTTP_11), ("h2", Version::HTTP_2)] {
        client.alpn_protocols = vec![alpn.into()];
        let connector = TlsConnector::from(Arc::new(client.clone()));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = within(connector.connect(name, site.connect().await)).await.unwrap();
        let io = TokioIo::new(stream);
        let request = get(&site, "/hello");
        let response = if version == Version::HTTP_2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            within(sender.send_request(request)).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            // A client that speaks to an origin names the host in `Host`; in absolute-form it must do so as well.
            let mut request = request;
            let host = site.address.to_string().parse().unwrap();
            request.headers_mut().insert(header::HOST, host);
            within(sender.send_request(request)).await.unwrap()
        };
        assert_eq!((response.status(), response.version()), (StatusCode::OK, version));
    }

    let not_tls = site.talk("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!not_tls.contains("hello"), "{not_tls}");
    let metrics = site.metrics.clone();
    site.stop().await;
    assert_eq!((metrics.handshakes_failed.get(), metrics.closes("handshake")), (1, 1));
}

#[tokio::test]
async fn what_is_too_large_or_ambiguous_is_refused() {
    let site = Site::start(&limits(), &timeouts()).await;
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nB: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "B: c\r\n".repeat(20));
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(20_000));
    let unended = format!("GET /{}", "x".repeat(20_000));
    let cases = [
        (large.as_str(), "431"),
        (many.as_str(), "431"),
        // RFC 9110, section 15.5.15.
        (target.as_str(), "414"),
        (unended.as_str(), "414"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", "413"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "501"),
        ("{no http at all}\r\n\r\n", "400"),
        ("GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "400"),
    ];
    for (text, status) in cases {
        let answer = site.talk(text).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{text:.60} -> {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        for line in ["content-type: application/problem+json", "cache-control: no-store", "connection: close"] {
            assert!(head.contains(line), "{text:.60} -> {line} in {answer}");
        }
        assert!(body.contains(&format!("\"status\":{status}")), "{text:.60} -> {answer}");
    }
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                   b\r\nhello world\r\n0\r\n\r\n";
    let answer = site.talk(chunked).await;
    assert!(answer.contains("larger than 10 bytes"), "{answer}");
    assert_eq!((site.metrics.rejects(413), site.metrics.rejects(431)), (1, 2));
}

#[tokio::test]
async fn what_cannot_be_parsed_behind_a_good_request_is_refused_in_words_too() {
    let site = Site::start(&limits(), &timeouts()).await;
    let answer = site.talk("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n{no http at all}\r\n\r\n").await;
    let refusal = answer.split_once("hello a").unwrap().1;
    assert!(refusal.starts_with("HTTP/1.1 400 ") && refusal.ends_with('}'), "{answer}");
    assert_eq!(site.metrics.rejects(400), 1);
}

#[tokio::test]
async fn a_request_of_http_1_0_is_for_the_address_that_it_came_to_unless_it_names_another() {
    let site = Site::start(&limits(), &timeouts()).await;
    for (text, host) in [
        ("GET /hello HTTP/1.0\r\n\r\n", site.address.to_string()),
        ("GET /hello HTTP/1.0\r\nHost: a\r\n\r\n", "a".to_owned()),
    ] {
        let answer = site.talk(text).await;
        assert!(answer.ends_with(&format!("hello {host}")), "{answer}");
    }
}

/// The body ends with the line that its parser takes for the last one, and what comes after that is a request.
#[tokio::test]
async fn a_bare_line_feed_ends_no_trailers() {
    let site = Site::start(&limits(), &timeouts()).await;
    let next = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
    for (field, end) in
        [("", "0\r\n\n"), ("", "0\r\nx: 1\n\n"), ("Trailer: x\r\n", "0\r\n\n"), ("", "0\r\nx: 1\r\n\r\n")]
    {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{field}Transfer-Encoding: chunked\r\n\r\n");
        let answer = site.talk(&format!("{head}1\r\nx\r\n{end}{next}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{field}{end:?}: {answer}");
    }
    let announced = "POST / HTTP/1.1\r\nHost: a\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                     1\r\ny\r\n0\r\nx: 1\r\n\r\n";
    let answer = site.talk(announced).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\ny"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_request_of_two_lengths_smuggles_nothing() {
    let site = Site::start(&limits(), &timeouts()).await;
    let answer = site
        .talk(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(!answer.contains("hello"), "{answer}");
}

#[tokio::test]
async fn slow_clients_are_closed_for_the_right_reason() {
    let hello = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
    let cases = [
        ("first-byte", "", config::Timeouts { first_byte: SHORT, ..timeouts() }),
        ("headers", "GET /hello HTTP/1.1\r\nHo", config::Timeouts { headers: SHORT, ..timeouts() }),
        ("first-byte", "PRI * HT", config::Timeouts { first_byte: SHORT, ..timeouts() }),
        ("idle", hello, config::Timeouts { idle: SHORT, ..timeouts() }),
    ];
    for (reason, text, timeouts) in cases {
        let site = Site::start(&limits(), &timeouts).await;
        site.talk(text).await;
        let metrics = site.metrics.clone();
        site.stop().await;
        assert_eq!(metrics.closes(reason), 1, "{reason} {text}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed() {
    let site = Site::start(&limits(), &config::Timeouts { send: SHORT, ..timeouts() }).await;
    let mut stream = site.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within(site.script.dropped.notified()).await;

    let mut sender = connect_http2(&site).await;
    // Its connection goes on reading frames; only the stream's window stays shut, and only the stream is reset.
    let unread = within(sender.send_request(get(&site, "/endless"))).await.unwrap();
    within(site.script.dropped.notified()).await;
    assert!(within(unread.into_body().collect()).await.is_err(), "a body that is cut isn't whole");
    assert!(within(sender.send_request(get(&site, "/hello"))).await.is_ok(), "the connection goes on");
    drop(sender);

    let metrics = site.metrics.clone();
    site.stop().await;
    assert_eq!((metrics.closes("send"), metrics.resets("send")), (1, 1));
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_requests() {
    let limits = config::Limits { client_connections_max: 2, client_streams_max: 1, ..limits() };
    let site = Site::start(&config::Limits { trusted_proxies: Vec::new(), ..limits.clone() }, &timeouts()).await;
    let mut first = site.connect().await;
    first.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within(site.script.started.notified()).await;

    let mut second = site.connect().await;
    second.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let refused = read_until(&mut second, "}").await;
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("retry-after: 1\r\n"), "{refused}");
    assert!(refused.contains("application/problem+json"), "{refused}");
    assert_eq!(site.talk("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await, "", "a third connection is closed");
    assert_eq!((site.metrics.rejects(429), site.metrics.closes("client-limit")), (1, 1));

    site.script.go_on.notify_waiters();
    read_until(&mut first, "waited").await;
    let mut again = String::new();
    while !again.ends_with("hello a") {
        // The first request is over a moment after its last byte has arrived.
        second.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        again = read_until_either(&mut second, ["hello a", "}"]).await;
    }
    drop((first, second));

    let trusting = Site::start(&limits, &timeouts()).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut stream = trusting.connect().await;
        stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        within(trusting.script.started.notified()).await;
        open.push(stream);
    }
    trusting.script.go_on.notify_waiters();
}

#[tokio::test]
async fn a_broken_response_never_looks_complete() {
    let site = Site::start(&limits(), &timeouts()).await;
    let answer = site.talk("GET /broken HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");

    // To HTTP/1.0 a close would be the end of the body.
    let mut old = site.connect().await;
    old.write_all(b"GET /broken HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
    let end = within(old.read_to_end(&mut Vec::new())).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let mut sender = connect_http2(&site).await;
    let collected = match within(sender.send_request(get(&site, "/broken"))).await {
        Ok(response) => within(response.into_body().collect()).await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(collected.is_err());
}

#[tokio::test]
async fn a_panic_ends_its_connection_and_no_other() {
    let site = Site::start(&limits(), &timeouts()).await;
    assert_eq!(site.talk("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await, "");
    let mut sender = connect_http2(&site).await;
    assert!(within(sender.send_request(get(&site, "/panic"))).await.is_err());
    assert!(within(sender.send_request(get(&site, "/hello"))).await.is_ok());
    assert_eq!(site.metrics.panics.get(), 2);
    drop(sender);
    let metrics = site.metrics.clone();
    site.stop().await;
    assert_eq!(metrics.open.get(), 0);
}

#[tokio::test]
async fn the_drain_lets_requests_finish() {
    let site = Site::start(&limits(), &timeouts()).await;
    let mut stream = site.connect().await;
    stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within(site.script.started.notified()).await;
    let mut sender = connect_http2(&site).await;
    let request = get(&site, "/wait");
    let asking = tokio::spawn(async move { sender.send_request(request).await });
    within(site.script.started.notified()).await;

    site.drain.cancel();
    let address = site.address;
    let script = site.script.clone();
    let stopping = tokio::spawn(site.stop());
    // The listener closes first of all.
    within(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    script.go_on.notify_waiters();

    let answer = read_all(&mut stream).await;
    assert!(answer.ends_with("waited") && answer.contains("connection: close"), "{answer}");
    assert_eq!(within(asking).await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(within(stopping).await.unwrap().cut, 0);
}

#[tokio::test]
async fn the_drain_cuts_what_takes_too_long() {
    let site = Site::start(&limits(), &config::Timeouts { drain: SHORT, ..timeouts() }).await;
    let mut idle = site.connect().await;
    idle.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut idle, "hello a").await;
    let mut busy = site.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within(site.script.started.notified()).await;
    assert_eq!(site.stop().await, Drained { finished: 1, cut: 1 });
    assert_eq!(read_all(&mut busy).await, "");
}

#[tokio::test]
async fn connections_over_the_limit_wait_their_turn() {
    let site = Site::start(&config::Limits { connections_max: 1, ..limits() }, &timeouts()).await;
    let mut first = site.connect().await;
    first.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within(site.script.started.notified()).await;
    let mut second = site.connect().await;
    second.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(site.metrics.accepted.get(), 1);
    site.script.go_on.notify_waiters();
    read_until(&mut first, "waited").await;
    assert_eq!(site.metrics.accepted.get(), 1);
    drop(first);
    read_until(&mut second, "hello a").await;
    assert_eq!(site.metrics.accepted.get(), 2);
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Story(Arc<Mutex<Vec<u8>>>);

impl io::Write for Story {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns what is logged at `level` of a connection with two requests, one line for each event.
async fn logged(level: Level) -> Vec<String> {
    let story = Story::default();
    let sink = story.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(move || sink.clone()).finish();
    // All tasks of a test run on its own thread.
    let guard = tracing::subscriber::set_default(subscriber);
    let site = Site::start(&limits(), &timeouts()).await;
    let hello = "GET /hello HTTP/1.1\r\nHost: a\r\n";
    site.talk(&format!("{hello}\r\n{hello}Connection: close\r\n\r\n")).await;
    site.stop().await;
    drop(guard);
    let text = String::from_utf8(story.0.lock().clone()).unwrap();
    text.lines().filter(|line| line.contains("holm::http")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_connection_tells_its_story_in_a_span_and_only_at_debug() {
    let lines = logged(Level::DEBUG).await;
    let wanted: [&[&str]; 3] = [
        &["connection accepted", "tls=false"],
        &["protocol detected", "tls=false", "protocol=\"http/1\""],
        &["connection closed", "protocol=\"http/1\"", "reason=\"done\"", "requests=2", "unfinished=0"],
    ];
    assert_eq!(lines.len(), wanted.len(), "{lines:#?}");
    for (line, pieces) in lines.iter().zip(wanted) {
        assert!(line.contains("connection{peer=127.0.0.1:"), "{line}");
        assert!(pieces.iter().all(|piece| line.contains(piece)), "{line} has not {pieces:?}");
    }
    assert_eq!(logged(Level::INFO).await, Vec::<String>::new());
}
