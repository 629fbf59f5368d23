//! How connections end: what was sent arrives whatever the client still sends, clients that half-close get their
//! response, and nobody is waited for without a bound.

use std::{io, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpSocket, TcpStream},
    time::sleep,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    harness::{
        client::{raw, read_to_close},
        eventually,
        liar::{Liar, Lie, crlf},
        node::{Node, NodeHandle},
        origin::{Gate, Origin, Reply, Taps},
        quoted, sealed, within,
    },
    http_versions::Certificate,
};

/// Far more than the buffers between a client and a node hold.
const UPLOAD: usize = 8 << 20;

/// Connects by TLS to `localhost`.
async fn connect_tls(node: &NodeHandle, certificate: &Certificate) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(node.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Connections that are open, whether HTTP on them is over or not.
async fn open(node: &NodeHandle) -> f64 {
    node.metric("holm_http_connections_open", "").await
}

async fn closed(node: &NodeHandle, reason: &str) -> f64 {
    node.metric("holm_http_connections_closed_total", &format!("reason=\"{reason}\"")).await
}

async fn connect(node: &NodeHandle, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(&crlf(request)).await.unwrap();
    stream
}

/// Sends all of `bytes` and reads only then, as simple clients do. Neither may fail: that is what a reset would do.
async fn sends_all_then_reads<S: AsyncRead + AsyncWrite>(stream: S, bytes: &[u8]) -> io::Result<String> {
    let (mut read, mut write) = split(stream);
    within("the upload", write.write_all(bytes)).await?;
    write.flush().await?;
    let mut said = Vec::new();
    within("the refusal", read.read_to_end(&mut said)).await?;
    Ok(String::from_utf8(said).unwrap())
}

/// Whether a response has all that it states.
fn is_whole(said: &str) -> bool {
    let Some((head, body)) = said.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
    length.is_some_and(|length| length.trim().parse::<usize>().ok() == Some(body.len()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_reaches_a_client_that_goes_on_uploading() {
    let origin = Origin::start().await;
    let limits = "body_bytes_max = 1000\nheader_bytes_max = \"16KiB\"";
    let node = Node::builder().origin(&origin.url()).set("limits", limits).start().await;
    let length = format!("Content-Length: {UPLOAD}");
    for (begin, status) in [
        (format!("POST /up HTTP/1.1\nHost: shop.test\n{length}\n\n"), "413"),
        (format!("POST /up HTTP/1.1\nHost: a\nHost: b\n{length}\n\n"), "400"),
        // These two are refused by the parser.
        (format!("POST /up HTTP/1.1\nHost: shop.test\nno colon\n{length}\n\n"), "400"),
        ("GET /up HTTP/1.1\nHost: shop.test\nx-long: ".to_owned(), "431"),
    ] {
        let bytes = [crlf(&begin), vec![b'x'; UPLOAD]].concat();
        for round in 0..50 {
            let stream = TcpStream::connect(node.address).await.unwrap();
            let said = sends_all_then_reads(stream, &bytes).await;
            let said = said.unwrap_or_else(|error| panic!("{begin} in round {round}: {error}"));
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")) && is_whole(&said), "{begin}: {said}");
        }
    }
    eventually("all sockets being closed", async || open(&node).await < 1.0).await;
    assert_eq!(origin.total(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_reaches_a_client_of_tls_that_goes_on_uploading() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    let builder = Node::builder().origin(&origin.url()).set("limits", "body_bytes_max = 1000");
    let node = builder.tls(&certificate.certificate, &certificate.key).start().await;
    let begin = format!("POST /up HTTP/1.1\nHost: localhost\nContent-Length: {UPLOAD}\n\n");
    let bytes = [crlf(&begin), vec![b'x'; UPLOAD]].concat();
    for _ in 0..10 {
        let said = sends_all_then_reads(connect_tls(&node, &certificate).await, &bytes).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 413 ") && is_whole(&said), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_response_arrives_although_more_was_sent_than_is_read() {
    let (origin, body) = (Origin::start().await, sealed("last", 1 << 20));
    let large = body.clone();
    origin.on("*", move |_| Reply::ok(large.clone()).header("cache-control", "no-store"));
    let node = Node::builder().origin(&origin.url()).start().await;
    for _ in 0..20 {
        let mut client = connect(&node, "GET /1 HTTP/1.1\nHost: shop.test\nConnection: close\n\n").await;
        client.write_all(&crlf("GET /2 HTTP/1.1\nHost: shop.test\n\n").repeat(2_000)).await.unwrap();
        let mut said = Vec::new();
        within("the response", client.read_to_end(&mut said)).await.unwrap();
        assert!(said.ends_with(&body), "{} bytes", said.len());
    }
    assert_eq!(origin.hits("/2"), 0);
}

/// What comes before the reset lies in the node's socket, since the client has hardly any room for it and reads late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_takes_no_complete_response_with_it() {
    let (origin, first) = (Origin::start().await, sealed("first", 30_000));
    let whole = first.clone();
    origin.on("/whole", move |_| Reply::ok(whole.clone()).header("cache-control", "no-store"));
    let broken = "HTTP/1.1 200 OK\nCache-Control: no-store\nTransfer-Encoding: chunked\n\n7\na piece\n";
    let liar = Liar::start(Lie::SayAndStall(crlf(broken))).await;
    let node = Node::builder()
        .origin(&origin.url())
        .set("pool.liar", &format!("endpoints = [{}]\nattempts_max = 1\nidle_ms = 300", quoted(&liar.url())))
        .route_before("name = \"broken\"\npath = \"/broken\"\npool = \"liar\"\nmode = \"http\"")
        .start()
        .await;
    for round in 1..=3 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = socket.connect(node.address).await.unwrap();
        let fields = "HTTP/1.0\nHost: shop.test\nConnection: keep-alive\n\n";
        client.write_all(&crlf(&format!("GET /whole {fields}GET /broken {fields}"))).await.unwrap();
        eventually("the end", async || closed(&node, "aborted").await >= f64::from(round)).await;

        let mut said = Vec::new();
        let end = within("the end", client.read_to_end(&mut said)).await;
        let is_there = said.windows(first.len()).any(|bytes| bytes == &first[..]);
        assert!(is_there, "round {round}: {} bytes, then {end:?}", said.len());
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "to HTTP/1.0 a close would be its end");
    }
    eventually("all sockets being closed", async || open(&node).await < 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_half_closes_gets_its_response() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    for path in ["/get", "/post", "/tls", "/two", "/long"] {
        let gate = Gate::closed();
        origin.on(path, move |seen| {
            let slow = gate.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(500)).await;
                slow.release(1);
            });
            Reply::ok(format!("<{}>", seen.body.len())).header("cache-control", "no-store").behind(&gate)
        });
    }
    let node = Node::builder().origin(&origin.url()).start().await;
    let get = |path: &str| crlf(&format!("GET {path} HTTP/1.1\nHost: shop.test\n\n"));
    let post = crlf("POST /post HTTP/1.1\nHost: shop.test\nContent-Length: 4\n\nbody");
    // Longer than what is read ahead while the first of them is served.
    let long = crlf(&format!("GET /long HTTP/1.1\nHost: shop.test\nx-long: {}\n\n", "x".repeat(5_000))).repeat(4);
    let two = get("/two").repeat(2);
    for (request, body, times) in [(get("/get"), "<0>", 1), (post, "<4>", 1), (two, "<0>", 2), (long, "<0>", 4)] {
        let said = String::from_utf8(raw(node.address, &request, true).await).unwrap();
        assert_eq!(said.matches("HTTP/1.1 200 ").count(), times, "{said}");
        assert!(said.ends_with(body), "{said}");
    }
    let hits = ["/get", "/post", "/two", "/long"].map(|path| origin.hits(path));
    assert_eq!(hits, [1, 1, 2, 4]);

    let builder = Node::builder().origin(&origin.url());
    let node = builder.tls(&certificate.certificate, &certificate.key).start().await;
    let mut client = connect_tls(&node, &certificate).await;
    client.write_all(&crlf("GET /tls HTTP/1.1\nHost: localhost\n\n")).await.unwrap();
    client.shutdown().await.unwrap();
    let mut said = String::new();
    within("the response", client.read_to_string(&mut said)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("<0>"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_cut_off_by_a_half_close_is_not_sent_on() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::ok("accepted"));
    let node = Node::builder().origin(&origin.url()).start().await;
    for rest in ["Content-Length: 10\n\nhello", "Transfer-Encoding: chunked\n\n5\nhello\n", "Content-Length: 10\n\n"] {
        let request = crlf(&format!("POST /cut HTTP/1.1\nHost: shop.test\n{rest}"));
        let said = String::from_utf8(raw(node.address, &request, true).await).unwrap();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{rest}: {said}");
    }
    assert_eq!(origin.total(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_of_a_client_that_has_gone_is_given_up() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    origin.on("/held", move |_| Reply::ok("held").behind(&gate));
    let node = Node::builder().origin(&origin.url()).start().await;
    for (round, resets) in [(1, true), (2, false)] {
        let client = connect(&node, "POST /held HTTP/1.1\nHost: shop.test\nContent-Length: 4\n\nbody").await;
        eventually("the request", async || origin.hits("/held") == round).await;
        if resets {
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        } else {
            // An end that comes sooner could be that of the request alone.
            sleep(Duration::from_millis(1_500)).await;
        }
        drop(client);
        eventually("its place", async || node.metric("holm_origin_inflight", "").await < 1.0).await;
    }
}

/// A client, with TLS or without, that can go in the ways in which clients go.
enum Leaver {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Leaver {
    async fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await.unwrap(),
            Self::Tls(stream) => {
                stream.write_all(bytes).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }

    /// Resets the connection, or ends its sending side. A client that ends and reads on looks the same as one that has
    /// closed its socket, and it is returned, since a socket that is closed with bytes unread is reset.
    async fn leave(mut self, resets: bool) -> Option<Self> {
        if resets {
            let stream = match &self {
                Self::Plain(stream) => stream,
                Self::Tls(stream) => stream.get_ref().0,
            };
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
            return None;
        }
        match &mut self {
            Self::Plain(stream) => stream.shutdown().await.unwrap(),
            Self::Tls(stream) => stream.shutdown().await.unwrap(),
        }
        Some(self)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_of_a_client_that_has_gone_is_given_up_whatever_it_sent_ahead() {
    let (origin, certificate) = (Origin::start().await, Certificate::new());
    let (gate, taps) = (Gate::closed(), Taps::default());
    let held = taps.clone();
    origin.on("/held", move |_| Reply::ok("").fed(&held).behind(&gate));
    let builder = Node::builder().origin(&origin.url()).set("timeouts", "drain_ms = 120_000");
    let plain = builder.start().await;
    let tls = builder.tls(&certificate.certificate, &certificate.key).start().await;
    let post = crlf("POST /held HTTP/1.1\nHost: localhost\nContent-Length: 4\n\nbody");
    let half = crlf("GET /next HTTP/1.1\nHost: local");
    // The last is more than is read ahead.
    let aheads = [b"\r\n".to_vec(), half.clone(), [half, vec![b'x'; 6_000]].concat()];

    // The second time the nodes drain at once.
    for drains in [false, true] {
        let (mut clients, mut exchanges) = (Vec::new(), Vec::new());
        for (ahead, resets, is_tls) in aheads.iter().flat_map(|ahead| {
            [(true, true), (true, false), (false, true), (false, false)].map(|(resets, is_tls)| (ahead, resets, is_tls))
        }) {
            let mut client = if is_tls {
                Leaver::Tls(Box::new(connect_tls(&tls, &certificate).await))
            } else {
                Leaver::Plain(TcpStream::connect(plain.address).await.unwrap())
            };
            client.send(&post).await;
            exchanges.push(taps.next().await);
            // By now the request is being served.
            client.send(ahead).await;
            clients.push((client, resets));
        }
        // An end that comes sooner could be that of the requests alone. What lies unread is seen a little late.
        sleep(Duration::from_secs(3)).await;
        assert!(exchanges.iter().all(|exchange| !exchange.is_closed()), "the origin is still busy");
        let mut left = Vec::new();
        for (client, resets) in clients {
            left.push(client.leave(resets).await);
        }
        if drains {
            // Sooner than the origin's time is over, or the drain's.
            plain.stop().await;
            tls.stop().await;
            return;
        }
        for exchange in exchanges {
            within("the end of its exchange at the origin", exchange.closed()).await;
        }
        for node in [&plain, &tls] {
            eventually("its place", async || node.metric("holm_origin_inflight", "").await < 1.0).await;
            eventually("its socket", async || open(node).await < 1.0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_closes_is_waited_for_within_a_bound() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::ok("done"));
    let node = Node::builder().origin(&origin.url()).set("timeouts", "linger_ms = 400").start().await;
    let mut silent = connect(&node, "GET / HTTP/1.1\nHost: shop.test\nConnection: close\n\n").await;
    assert!(read_to_close(&mut silent).await.ends_with(b"done"));
    eventually("the silent one being closed", async || open(&node).await < 1.0).await;

    let (mut read, mut write) = connect(&node, "{no http at all}\n\n").await.into_split();
    let sending = tokio::spawn(async move {
        while write.write_all(b"more").await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    let mut head = [0; 12];
    within("the refusal", read.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 400");
    within("the end of its patience", sending).await.unwrap();
    eventually("the other being closed", async || open(&node).await < 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_counts_until_its_socket_is_closed() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::ok("done"));
    let limits = "client_connections_max = 3\ntrusted_proxies = []";
    let node = Node::builder().origin(&origin.url()).set("limits", limits).start().await;
    let asking = "GET / HTTP/1.1\nHost: shop.test\nConnection: close\n\n";
    let mut finished = Vec::new();
    for _ in 0..3 {
        let mut client = connect(&node, asking).await;
        assert!(read_to_close(&mut client).await.ends_with(b"done"));
        finished.push(client);
    }
    let mut fourth = TcpStream::connect(node.address).await.unwrap();
    assert!(read_to_close(&mut fourth).await.is_empty(), "refused while the others are there");
    drop(finished);
    eventually("its place", async || raw(node.address, &crlf(asking), false).await.ends_with(b"done")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_not_held_up_by_those_that_never_close() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::ok("done"));
    // More than a test waits for anything.
    let node = Node::builder().origin(&origin.url()).set("timeouts", "linger_ms = 120_000\ndrain_ms = 120_000");
    let node = node.start().await;
    let asking = "GET / HTTP/1.1\nHost: shop.test\nConnection: close\n\n";
    let (mut read, mut write) = connect(&node, asking).await.into_split();
    let mut said = Vec::new();
    within("the response", read.read_to_end(&mut said)).await.unwrap();
    let sending = tokio::spawn(async move {
        while write.write_all(b"more").await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(open(&node).await > 0.0, "it is waited for");
    node.stop().await;
    within("the socket", sending).await.unwrap();
}
