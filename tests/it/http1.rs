//! HTTP/1 as clients and origins write it who don't keep to every letter, and what it can be switched to.

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::{client::conn::http2, ext::Protocol};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::harness::{
    client::raw,
    eventually, free_address,
    liar::{Liar, crlf},
    node::Node,
    origin::{Origin, Reply},
    process::Process,
    within,
};

/// Sends raw bytes and returns what comes back.
async fn said(node: &Node, request: &str) -> String {
    String::from_utf8_lossy(&raw(node.address, &crlf(request), false).await).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_of_http_1_0_without_a_host_are_served_here_and_by_the_admin_api() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(60, format!("<{}>", seen.header("host"))));
    let node = Node::builder().origin(&origin.url()).start().await;
    let own = format!("<{}>", node.address);
    for request in ["GET / HTTP/1.0\n\n", "OPTIONS / HTTP/1.0\n\n", "GET / HTTP/1.0\nUser-Agent: check\n\n"] {
        let said = said(&node, request).await;
        assert!(said.contains(" 200 ") && said.ends_with(&own), "{request:?}: {said}");
    }
    let named = said(&node, "GET / HTTP/1.0\nHost: shop.test\n\n").await;
    assert!(named.ends_with("<shop.test>"), "another entry: {named}");
    let ready = raw(node.admin, &crlf("GET /readyz HTTP/1.0\n\n"), false).await;
    assert!(ready.starts_with(b"HTTP/1.0 200 "), "{}", ready.escape_ascii());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_with_raw_characters_reaches_the_origin_as_it_is_and_is_purged_by_its_url() {
    let origin = raw_origin().await;
    let node = Node::builder().origin(&origin.url).start().await;
    let target = "/x?q={\"a\":[<1>,|^`]}";
    let get = format!("GET {target} HTTP/1.1\nHost: shop.test\nConnection: close\n\n");
    let first = said(&node, &get).await;
    assert!(first.contains(" 200 ") && first.ends_with(&format!("<{target}>")), "{first}");
    eventually("a hit", async || said(&node, &get).await.contains("hit")).await;
    let encoded = node.fetch("/x?q={%22a%22:[%3C1%3E,|^`]}").await;
    assert!(!encoded.is_hit() && encoded.text().contains("%22"), "another entry: {encoded:?}");
    node.purge_url(target, false).await;
    assert!(!said(&node, &get).await.contains("hit"), "purged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_character_that_stands_for_a_raw_one_is_not_taken_from_a_client() {
    let origin = raw_origin().await;
    let node = Node::builder().origin(&origin.url).start().await;
    let get = |target: &str| format!("GET {target} HTTP/1.1\nHost: shop.test\nConnection: close\n\n");
    for target in ["/x?q=\u{E022}", "/x?q=\"\u{E03C}", "/x?\u{E03E}=1"] {
        let refused = said(&node, &get(target)).await;
        assert!(refused.contains(" 400 ") && refused.contains("percent-encoded"), "{target}: {refused}");
    }
    let mut h2 = node.h2().await;
    assert_eq!(h2.send(node.get("/x?q=\u{E022}")).await.status, 400);
    assert_eq!(node.fetch("/x?q=%EE%80%A2").await.status, 200);
    // One that is refused leaves nothing behind for the next.
    assert_eq!(h2.send(node.get("/x?q=1")).await.status, 200);
}

/// An origin that says what target it was asked for, as it was written.
struct RawOrigin {
    url: String,
    task: JoinHandle<()>,
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn raw_origin() -> RawOrigin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(respond(stream));
        }
    });
    RawOrigin { url, task }
}

/// Responds to requests without a body, or switches to a protocol in which each side says a few bytes.
async fn respond(mut stream: TcpStream) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap();
        if head.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n") {
            let fields = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Accept: x\n\n";
            stream.write_all(&crlf(&format!("HTTP/1.1 101 Switching Protocols\n{fields}"))).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let mut said = [0; 4];
            stream.read_exact(&mut said).await.unwrap();
            stream.write_all(&said).await.unwrap();
            return;
        }
        let (status, body) = if head.to_ascii_lowercase().contains("\r\nsec-websocket-key:") {
            ("426 Upgrade Required", "upgrade".to_owned())
        } else {
            ("200 OK", format!("<{target}>"))
        };
        let fields = format!("Cache-Control: max-age=60\nContent-Length: {}", body.len());
        let _ =
            stream.write_all(&[crlf(&format!("HTTP/1.1 {status}\n{fields}\n\n")), body.into_bytes()].concat()).await;
    }
}

const WEBSOCKET: &str = "Host: shop.test\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: x\n\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_a_tunnel_that_is_counted_and_never_stored() {
    let origin = raw_origin().await;
    let node = Node::builder().origin(&origin.url).start().await;
    let mut client = TcpStream::connect(node.address).await.unwrap();
    client.write_all(&crlf(&format!("GET /chat HTTP/1.1\n{WEBSOCKET}"))).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"hello") {
        assert_ne!(within("the switch", client.read_buf(&mut said)).await.unwrap(), 0, "{}", said.escape_ascii());
    }
    let head = String::from_utf8_lossy(&said).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for line in ["\r\nupgrade: websocket\r\n", "\r\nconnection: upgrade\r\n", "\r\nsec-websocket-accept: x\r\n"] {
        assert!(head.contains(line), "{line:?} in {head}");
    }
    assert!(node.metric("holm_origin_inflight", "").await >= 1.0, "it holds a place");
    client.write_all(b"echo").await.unwrap();
    let mut rest = Vec::new();
    within("the end", client.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"echo");
    eventually("the place free", async || node.metric("holm_origin_inflight", "").await < 1.0).await;

    let page = node.fetch("/chat").await;
    assert_eq!((page.status, page.text()), (200, "</chat>"));
}

/// Opens an HTTP/2 connection to a node, which has told by then what it can.
async fn streams(node: &Node) -> http2::SendRequest<Empty<Bytes>> {
    let stream = TokioIo::new(TcpStream::connect(node.address).await.unwrap());
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let plain = Request::get("http://shop.test/plain").body(Empty::new()).unwrap();
    assert_eq!(within("a response", sender.send_request(plain)).await.unwrap().status(), 200);
    sender
}

fn extended_connect(protocol: &'static str) -> Request<Empty<Bytes>> {
    let request = Request::connect("http://shop.test/chat").header("sec-websocket-version", "13");
    let mut request = request.body(Empty::new()).unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_over_http_2_is_a_tunnel_on_a_stream() {
    let origin = raw_origin().await;
    let node = Node::builder().origin(&origin.url).start().await;
    let mut sender = streams(&node).await;
    let response = within("the tunnel", sender.send_request(extended_connect("websocket"))).await.unwrap();
    assert_eq!(response.status(), 200);
    for name in ["sec-websocket-accept", "upgrade", "connection"] {
        assert!(!response.headers().contains_key(name), "{name} in {:?}", response.headers());
    }
    let mut client = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut said = [0; 5];
    within("the origin's bytes", client.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"hello");
    assert!(node.metric("holm_origin_inflight", "").await >= 1.0, "it holds a place");
    let plain = Request::get("http://shop.test/beside").body(Empty::new()).unwrap();
    assert_eq!(within("a response beside it", sender.send_request(plain)).await.unwrap().status(), 200);
    client.write_all(b"echo").await.unwrap();
    client.flush().await.unwrap();
    let mut rest = Vec::new();
    within("the end", client.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"echo");
    eventually("the place free", async || node.metric("holm_origin_inflight", "").await < 1.0).await;
    let other = within("a refusal", sender.send_request(extended_connect("connect-udp"))).await.unwrap();
    assert_eq!(other.status(), 501);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_on_a_stream_ends_when_both_are_silent_and_is_none_where_none_is_allowed() {
    let origin = raw_origin().await;
    let node = Node::builder().origin(&origin.url).set("timeouts", "idle_ms = 500").start().await;
    let mut sender = streams(&node).await;
    let response = within("the tunnel", sender.send_request(extended_connect("websocket"))).await.unwrap();
    let mut client = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut said = Vec::new();
    within("the end", client.read_to_end(&mut said)).await.unwrap();
    assert_eq!(said, b"hello");
    eventually("the place free", async || node.metric("holm_origin_inflight", "").await < 1.0).await;

    let node = Node::builder().origin(&origin.url).route("websocket = false").start().await;
    let mut sender = streams(&node).await;
    let refused = within("a refusal", sender.send_request(extended_connect("websocket"))).await.unwrap();
    assert_eq!(refused.status(), 501);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_websocket_is_allowed_it_is_refused_and_a_426_is_not_stored() {
    let origin = raw_origin().await;
    let node = Node::builder().origin(&origin.url).route("websocket = false").start().await;
    let mut client = TcpStream::connect(node.address).await.unwrap();
    client.write_all(&crlf(&format!("GET /chat HTTP/1.1\n{WEBSOCKET}"))).await.unwrap();
    let mut said = String::new();
    while !said.ends_with('}') {
        let mut piece = [0; 1024];
        let length = within("the refusal", client.read(&mut piece)).await.unwrap();
        assert_ne!(length, 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
    assert!(said.starts_with("HTTP/1.1 501 ") && said.contains("cache-control: no-store"), "{said}");

    let old = node.get("/old").header("sec-websocket-key", "x").send().await;
    assert_eq!(old.status, 426);
    assert_eq!(node.fetch("/old").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_back_is_refused_at_once() {
    // The address of a node that is started a moment later as its own origin.
    let address = free_address();
    let own = format!("http://{address}");
    let text = Node::builder().origin(&own).text().replacen("127.0.0.1:0", &address.to_string(), 1);
    let process = Process::serve(&text).await;
    for (method, body) in [("GET", ""), ("POST", "x")] {
        let before = process.metric("holm_http_requests_total", "version=\"1.1\"").await;
        let request = format!(
            "{method} /loop HTTP/1.1\nHost: shop.test\nConnection: close\nContent-Length: {}\n\n{body}",
            body.len()
        );
        let said = String::from_utf8(raw(process.address, &crlf(&request), false).await).unwrap();
        assert!(said.starts_with("HTTP/1.1 508 "), "{method}: {said}");
        let after = process.metric("holm_http_requests_total", "version=\"1.1\"").await;
        assert!(after - before < 10.0, "{method}: {}", after - before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_with_hundreds_of_fields_is_passed_on_and_stored_and_one_with_more_than_allowed_is_a_failure() {
    let origin = Origin::start().await;
    origin.on("*", |seen| {
        let count: usize = seen.target.rsplit('=').next().unwrap().parse().unwrap();
        (0..count).fold(Reply::fresh(60, "ok"), |reply, n| reply.header("link", &format!("</{n}>")))
    });
    let node = Node::builder().origin(&origin.url()).set("pool.web", "response_headers_max = 450").start().await;
    for count in [90, 101, 400] {
        let target = format!("/x?n={count}");
        assert_eq!(node.fetch(&target).await.headers.get_all("link").iter().count(), count);
        assert_eq!(node.hit(&target).await.headers.get_all("link").iter().count(), count);
    }
    let more = node.fetch("/x?n=460").await;
    assert_eq!((more.status, more.cache().get("detail")), (502, "invalid-response"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_codings_and_chunks_that_break_at_once_are_failures_with_a_status() {
    for text in [
        "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n5\nhello\n0\n\n",
        "HTTP/1.1 200 OK\nTransfer-Encoding: xchunked\n\nhello",
    ] {
        let liar = Liar::says(text).await;
        let node = Node::builder().origin(&liar.url()).start().await;
        let response = node.fetch("/x").await;
        assert_eq!((response.status, response.cache().get("detail")), (502, "invalid-response"), "{text}");
        assert_eq!(liar.asked(), 1, "{text}");
    }
    // Here a busy machine may notice it when the head has gone.
    let liar = Liar::says("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nnone\nhello\n0\n\n").await;
    let node = Node::builder().origin(&liar.url()).start().await;
    let response = node.get("/x").try_send().await;
    assert!(response.is_err() || response.is_ok_and(|response| response.status == 502));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_has_a_body_a_count_and_a_line_in_the_log() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    let log = dir.path().join("access.log");
    let node = Node::builder().origin(&origin.url()).access_log(&log).start().await;
    let cases = [
        ("GET / HTTP/2.0\nHost: a\n\n", "505"),
        ("GE(T / HTTP/1.1\nHost: a\n\n", "400"),
        ("GET /a HTTP/1.1\n\n", "400"),
        ("TRACE /b HTTP/1.1\nHost: a\n\n", "405"),
    ];
    for (request, status) in cases {
        let said = said(&node, request).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        for line in ["cache-control: no-store", "cache-status: n1; ", "content-type: application/problem+json"] {
            assert!(said.contains(line), "{line} in {said}");
        }
        assert!(said.ends_with('}') && said.contains("x-request-id: "), "{said}");
    }
    assert_eq!(node.metric("holm_http_rejects_total", "status=\"400\"").await, 2.0);
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the lines", async || lines().lines().count() >= cases.len()).await;
    for (status, target) in [("505", ""), ("400", ""), ("400", "/a"), ("405", "/b")] {
        let wanted = [format!("\"status\":{status}"), format!("\"target\":\"{target}\"")];
        let is_there = lines().lines().any(|line| wanted.iter().all(|piece| line.contains(piece)));
        assert!(is_there, "{wanted:?} in {}", lines());
    }
    assert_eq!(origin.total(), 0);
}
