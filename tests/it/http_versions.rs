//! HTTP/1.0, HTTP/1.1 and HTTP/2, on cleartext and TLS, streaming both ways.

use std::path::PathBuf;

use http::Version;
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use crate::harness::{
    client::{Conn, piped, raw},
    eventually,
    liar::crlf,
    node::Node,
    origin::{Origin, Reply, Taps},
    sealed,
};

/// A certificate for `localhost` in PEM files.
pub(crate) struct Certificate {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    _dir: TempDir,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self { der: made.cert.der().clone(), certificate, key, _dir: dir }
    }
}

async fn echo() -> Origin {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ok(seen.body.clone()).header("cache-control", "no-store"));
    origin
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_serves_many_requests() {
    let origin = echo().await;
    let node = Node::builder().origin(&origin.url()).start().await;
    for (mut conn, version) in [(node.h1().await, Version::HTTP_11), (node.h2().await, Version::HTTP_2)] {
        for n in 0..20 {
            let body = sealed(&n.to_string(), 1000);
            let response = conn.send(node.post("/echo").body(body.clone())).await;
            assert_eq!((response.version, response.status), (version, 200));
            assert!(response.body == body, "request {n} of {version:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_speaks_what_both_sides_prefer() {
    let (origin, certificate) = (echo().await, Certificate::new());
    let node = Node::builder().origin(&origin.url()).tls(&certificate.certificate, &certificate.key).start().await;
    for (offered, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1", "h2"], Version::HTTP_2),
        (&["h2"], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let mut conn = Conn::tls(node.address, &certificate.der, offered).await.unwrap();
        let response = conn.send(node.post("/tls").host("localhost").body("secret")).await;
        assert_eq!((response.version, response.text()), (version, "secret"), "{offered:?}");
    }
    assert!(Conn::tls(node.address, &certificate.der, &["nonsense/1"]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_0_gets_its_response_and_a_close() {
    let origin = Origin::start().await;
    origin.on("/old", |_| Reply::fresh(60, "old friend"));
    let node = Node::builder().origin(&origin.url()).start().await;
    let said = raw(node.address, &crlf("GET /old HTTP/1.0\nHost: shop.test\n\n"), false).await;
    let text = String::from_utf8(said).unwrap();
    assert!(text.starts_with("HTTP/1.") && text.contains(" 200 ") && text.ends_with("old friend"), "{text}");
    assert!(!text.to_ascii_lowercase().contains("transfer-encoding"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_get_their_responses_in_order() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ok(format!("<{}>", seen.target)).header("cache-control", "no-store"));
    let node = Node::builder().origin(&origin.url()).start().await;
    let requests = "GET /1 HTTP/1.1\nHost: a.test\n\nGET /2 HTTP/1.1\nHost: a.test\n\n\
        GET /3 HTTP/1.1\nHost: a.test\nConnection: close\n\n";
    let text = String::from_utf8(raw(node.address, &crlf(requests), false).await).unwrap();
    let at = ["</1>", "</2>", "</3>"].map(|body| text.find(body));
    assert!(at.is_sorted() && at[0].is_some(), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_body_streams_up() {
    let origin = echo().await;
    let node = Node::builder().origin(&origin.url()).start().await;
    for (path, mut conn) in [("/h1", node.h1().await), ("/h2", node.h2().await)] {
        let (pipe, body) = piped();
        let ask = node.post(path).stream(body);
        let response = tokio::spawn(async move { conn.send(ask).await });
        pipe.send(Ok("first ".into())).await.unwrap();
        eventually("the first piece at the origin", async || origin.body_bytes(path) == 6).await;
        pipe.send(Ok("second".into())).await.unwrap();
        drop(pipe);
        assert_eq!(response.await.unwrap().text(), "first second", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_body_streams_down_stored_or_not() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    for (path, control) in [("/kept", "max-age=60"), ("/passing", "no-store")] {
        let feed = taps.clone();
        origin.on(path, move |_| Reply::ok("").header("cache-control", control).fed(&feed));
    }
    let node = Node::builder().origin(&origin.url()).start().await;
    for (target, mut conn) in [
        ("/kept?1", node.h1().await),
        ("/kept?2", node.h2().await),
        ("/passing?1", node.h1().await),
        ("/passing?2", node.h2().await),
    ] {
        let ask = node.get(target);
        let opening = tokio::spawn(async move {
            let opened = conn.open(ask).await.unwrap();
            (opened, conn)
        });
        let pipe = taps.next().await;
        pipe.send(Ok("first ".into())).await.unwrap();
        let (mut opened, _conn) = opening.await.unwrap();
        assert_eq!(opened.piece().await.unwrap().unwrap(), "first ", "{target}");
        pipe.send(Ok("second".into())).await.unwrap();
        drop(pipe);
        assert_eq!(opened.whole().await.unwrap().text(), "second", "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_whole_both_ways() {
    let origin = echo().await;
    let node = Node::builder().origin(&origin.url()).start().await;
    let body = sealed("large", 8 * 1024 * 1024);
    for mut conn in [node.h1().await, node.h2().await] {
        let response = conn.send(node.post("/echo").body(body.clone())).await;
        assert!(response.body == body, "{:?}: {} bytes", response.version, response.body.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_one_connection_stay_on_it() {
    let origin = Origin::start().await;
    origin
        .on("/hop", |_| Reply::fresh(60, "x").header("connection", "x-hop").header("x-hop", "1").header("x-end", "2"));
    let node = Node::builder().origin(&origin.url()).start().await;
    let ask = node.get("/hop").header("connection", "x-mine").header("x-mine", "1").header("te", "gzip");
    let response = ask.header("x-through", "2").send().await;
    assert_eq!((response.header("x-hop"), response.header("x-end")), ("", "2"));
    let seen = &origin.seen("/hop")[0];
    assert_eq!((seen.header("x-mine"), seen.header("te"), seen.header("x-through")), ("", "", "2"));
    assert_eq!(node.hit("/hop").await.header("x-hop"), "");
}
