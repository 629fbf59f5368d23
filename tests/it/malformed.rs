//! Hundreds of requests that break HTTP in one way each: refused or cut off, and never a panic.

use std::{net::SocketAddr, sync::Arc};

use tokio::{sync::Semaphore, task::JoinSet};

use crate::harness::{
    client::raw,
    liar::crlf,
    node::Node,
    origin::{Origin, Reply},
};

/// Requests under way at once.
const AT_ONCE: usize = 16;

/// A request and what is wrong with it.
type Wrong = (String, Vec<u8>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_or_cut_and_harm_nobody() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ok(seen.body.clone()));
    let timeouts = "first_byte_ms = 500\nheaders_ms = 500\nbody_ms = 500\nidle_ms = 500";
    let process = Node::builder().origin(&origin.url()).set("timeouts", timeouts).spawn().await;

    let requests = all();
    assert!(requests.len() >= 200, "{} requests", requests.len());
    let (turns, mut clients) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for request in requests {
        let (turns, address) = (Arc::clone(&turns), process.address);
        clients.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            accepted(address, request).await
        });
    }
    let accepted: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    assert!(accepted.is_empty(), "{} were not refused:\n{}", accepted.len(), accepted.join("\n"));

    let good = process.post("/still").body("here").send().await;
    assert_eq!((good.status, good.text()), (200, "here"));
    assert_eq!(process.metric("holm_http_panics_total", "").await, 0.0);
    assert!(!process.said().contains("panicked"), "{}", process.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_two_framings_smuggles_nothing() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ok(seen.target.clone()).header("cache-control", "no-store"));
    let node = Node::builder().origin(&origin.url()).start().await;
    for framings in [
        "Transfer-Encoding: chunked\nContent-Length: 5",
        "Content-Length: 5\nTransfer-Encoding: chunked",
        "Content-Length: 44\nTransfer-Encoding: chunked",
    ] {
        let request = format!("POST /seen HTTP/1.1\nHost: a\n{framings}\n\n0\n\nGET /smuggled HTTP/1.1\nHost: a\n\n");
        let said = String::from_utf8(raw(node.address, &crlf(&request), false).await).unwrap();
        assert!(said.matches("HTTP/1.1 ").count() <= 1, "{framings}: {said}");
        assert_eq!(origin.hits("/smuggled"), 0, "{framings}");
    }
}

/// Sends a request and half-closes; what came back, if it is anything but a refusal or nothing.
async fn accepted(address: SocketAddr, (words, bytes): Wrong) -> Option<String> {
    let said = raw(address, &bytes, true).await;
    let status = said.strip_prefix(b"HTTP/1.1 ").or_else(|| said.strip_prefix(b"HTTP/1.0 "));
    // Without a status line it was cut off, or refused in HTTP/2's own way.
    let refused =
        status.is_none_or(|rest| rest.starts_with(b"4") || rest.starts_with(b"501") || rest.starts_with(b"505"));
    (!refused).then(|| format!("{words}: {} got {}", bytes.escape_ascii(), said.escape_ascii()))
}

fn all() -> Vec<Wrong> {
    let mut all = Vec::new();
    for (words, requests) in [
        ("method", bytes_in("GE\u{1}T / HTTP/1.1\nHost: a\n\n", b"\0\x01\x1f\"(),/:;<=>?@[\\]{}\x7f\x80\xff")),
        ("target", bytes_in("GET /a\u{1}b HTTP/1.1\nHost: a\n\n", b"\0\x01\x02\x0b\x0c\x0e\x1b\x1f\x7f")),
        (
            "field name",
            bytes_in("GET / HTTP/1.1\nHost: a\nx\u{1}y: 1\n\n", b"\0\x01\x1f \t\"(),/;<=>?@[\\]{}\x7f\x80\xff"),
        ),
        (
            "field value",
            bytes_in("GET / HTTP/1.1\nHost: a\nx: y\u{1}z\n\n", b"\0\x01\x02\x07\x08\x0b\x0c\x0e\x1b\x1f\x7f"),
        ),
        ("version", texts("GET / {}\nHost: a\n\n", VERSIONS)),
        ("host", texts("GET / HTTP/1.1\nHost: {}\n\n", HOSTS)),
        ("head", texts("{}\n\n", HEADS)),
        ("length", texts("POST / HTTP/1.1\nHost: a\nContent-Length: {}\n\nabcdef", LENGTHS)),
        ("coding", texts("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: {}\n\n3\nabc\n0\n\n", CODINGS)),
        ("framing", texts("POST / HTTP/1.1\nHost: a\n{}\n\n3\nabc\n0\n\n", FRAMINGS)),
        ("chunk", texts("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n{}", CHUNKS)),
        ("cut", cuts("POST /cut HTTP/1.1\nHost: shop.test\nContent-Length: 4\nAccept: */*\n\nabcd")),
        ("noise", noise()),
        ("other protocol", OTHERS.iter().map(|bytes| bytes.to_vec()).collect()),
    ] {
        all.extend(requests.into_iter().map(|request| (words.to_owned(), request)));
    }
    all
}

/// The template with its one U+0001 replaced by each of `bytes`, which may be no characters at all.
fn bytes_in(template: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let template = crlf(template);
    let at = template.iter().position(|byte| *byte == 1).unwrap();
    let with = |byte: &u8| [&template[..at], &[*byte], &template[at + 1..]].concat();
    bytes.iter().map(with).collect()
}

fn texts(template: &str, texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| crlf(&template.replace("{}", text))).collect()
}

/// A good request that ends too early, at every byte.
fn cuts(request: &str) -> Vec<Vec<u8>> {
    let whole = crlf(request);
    (1..whole.len()).map(|end| whole[..end].to_vec()).collect()
}

/// Bytes without sense, the same in every run.
fn noise() -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut one = |length: usize| -> Vec<u8> { (0..length).map(|_| random.u8(..)).collect() };
    (1..=32).map(|n| [one(n * n), b"\r\n\r\n".to_vec()].concat()).collect()
}

const VERSIONS: &[&str] = &[
    "HTTP/0.9",
    "HTTP/1.2",
    "HTTP/2.0",
    "HTTP/3.0",
    "HTTP/11",
    "HTTP/1.",
    "HTTP/1.1x",
    "http/1.1",
    "HTTPS/1.1",
    "1.1",
];

const HOSTS: &[&str] = &[
    "",
    " ",
    "a b",
    "a/b",
    "a@b",
    "a:b",
    "a:99999",
    "a:-1",
    "a:80:80",
    "[::1",
    "::1]",
    "[::1]x",
    "[a]",
    "a\\b",
    "<a>",
    "\"a\"",
    "a%",
    "a%2",
    "a%zz",
    "a?b",
    "a#b",
    "a^b",
    "a|b",
    "{a}",
    "a\nHost: a",
    "a\nHost: b",
    "\u{fc}.test",
];

const HEADS: &[&str] = &[
    "GET / HTTP/1.1",
    "GET /",
    "GET",
    "/ HTTP/1.1\nHost: a",
    " GET / HTTP/1.1\nHost: a",
    "GET  HTTP/1.1\nHost: a",
    "GET a HTTP/1.1\nHost: a",
    "GET * HTTP/1.1\nHost: a",
    "GET ?q HTTP/1.1\nHost: a",
    "GET ftp://a/ HTTP/1.1\nHost: a",
    "GET http:// HTTP/1.1\nHost: a",
    "GET http://u@a/ HTTP/1.1\nHost: a",
    "GET / / HTTP/1.1\nHost: a",
    "CONNECT a:80 HTTP/1.1\nHost: a",
    "TRACE / HTTP/1.1\nHost: a",
    "GET / HTTP/1.1\nHost: a\n folded",
    "GET / HTTP/1.1\n Host: a",
    "GET / HTTP/1.1\nHost: a\nno colon",
    "GET / HTTP/1.1\nHost: a\n: no name",
    "GET / HTTP/1.1\nHost : a",
    "GET / HTTP/1.1\nHost: a\nExpect: nonsense",
];

const LENGTHS: &[&str] = &[
    "-1",
    "+3",
    "3.0",
    "0x3",
    "3a",
    "a3",
    "3 3",
    "3, 3",
    "3, 4",
    "three",
    "99999999999999999999",
    "",
    "3\nContent-Length: 4",
    "18446744073709551616",
];

const CODINGS: &[&str] = &[
    "gzip",
    "identity",
    "chunked, gzip",
    "gzip, chunked",
    "chunked chunked",
    "xchunked",
    "chunkedx",
    "chunked;q=1",
    "\"chunked\"",
    "chunked, identity",
    "chunked\nTransfer-Encoding: x",
    ", x",
];

const FRAMINGS: &[&str] = &["Transfer-Encoding : chunked", "Content-Length : 3", "Transfer-Encoding: chunked\n , x"];

const CHUNKS: &[&str] = &[
    "g\nabc\n0\n\n",
    "-3\nabc\n0\n\n",
    "+3\nabc\n0\n\n",
    "0x3\nabc\n0\n\n",
    "3abc\n0\n\n",
    "3\nabcd\n0\n\n",
    "3\nabc0\n\n",
    "FFFFFFFFFFFFFFFFF\nabc\n0\n\n",
    "\n\n",
    "3\nabc\n",
    "5\nabc\n0\n\n",
    "3\nabc\nzz\n\n",
];

const OTHERS: &[&[u8]] = &[
    b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot frames at all, but words",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x04\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff",
    b"PRI * HTTP/2.0\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"EHLO mail.test\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"\r\n\r\n\r\n\r\n",
    b"\x05\x01\x00",
    b"\0\0\0\0\0\0\0\0",
];
