//! Connections that a balancer passes on with the client's address ahead (PROXY protocol).

use crate::harness::{
    client::raw,
    eventually,
    liar::crlf,
    node::Node,
    origin::{Origin, Reply},
};

const REQUEST: &str = "GET /who HTTP/1.1\nHost: shop.test\nConnection: close\n\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_is_the_one_that_the_balancer_names() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ok(seen.header("x-forwarded-for").to_owned()).header("cache-control", "no-store"));
    let node = Node::builder().origin(&origin.url()).listen("proxy_protocol = [\"127.0.0.0/8\"]").start().await;
    let version_1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n".to_vec();
    let version_2 =
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x21, 0x11, 0, 12, 192, 0, 2, 8, 198, 51, 100, 1, 0x12, 0x67, 0, 80]].concat();
    // The balancer speaks for itself.
    let own = b"PROXY UNKNOWN\r\n".to_vec();
    for (header, wanted) in [(version_1, "192.0.2.7"), (version_2, "192.0.2.8"), (own, "127.0.0.1")] {
        let said = raw(node.address, &[header, crlf(REQUEST)].concat(), false).await;
        let text = String::from_utf8(said).unwrap();
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with(wanted), "{wanted}: {text}");
    }

    assert!(raw(node.address, &crlf(REQUEST), false).await.is_empty(), "a connection of the balancer has a header");
    let reason = "reason=\"proxy-header\"";
    eventually("the count", async || node.metric("holm_http_connections_closed_total", reason).await == 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_elsewhere_no_header_is_taken() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ok(seen.header("x-forwarded-for").to_owned()).header("cache-control", "no-store"));
    let node = Node::builder().origin(&origin.url()).listen("proxy_protocol = [\"192.0.2.0/24\"]").start().await;
    let said = raw(node.address, &crlf(REQUEST), false).await;
    assert!(String::from_utf8(said).unwrap().ends_with("127.0.0.1"));

    let claimed = [b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n".to_vec(), crlf(REQUEST)].concat();
    let said = String::from_utf8(raw(node.address, &claimed, false).await).unwrap();
    assert!(!said.contains("192.0.2.7") && !said.contains("200 OK"), "{said}");
    assert_eq!(origin.hits("/who"), 1);
}
