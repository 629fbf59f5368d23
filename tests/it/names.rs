//! Names of origins by their records: services of SRV, and TTLs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::json;

use crate::harness::{
    dns::{Dns, Fault},
    eventually,
    node::{Builder, Node},
    origin::{Origin, Reply},
};

const SERVICE: &str = "_http._tcp.origin.example";
const SERVICE_URL: &str = "srv+http://_http._tcp.origin.example";

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Responds to everything with a word, unstored, and closes the connection: the next request has one of its own.
fn says(origin: &Origin, word: &'static str) {
    origin.on("*", move |_| Reply::ok(word).header("cache-control", "no-store").header("connection", "close"));
}

async fn saying(word: &'static str) -> Origin {
    let origin = Origin::start().await;
    says(&origin, word);
    origin
}

/// A server that knows the addresses of the hosts of the service.
async fn dns() -> Dns {
    let dns = Dns::start().await;
    for name in ["a.example", "b.example"] {
        dns.addresses(name, 600, &[LOCAL]);
    }
    dns
}

/// A pool with this endpoint, which is never ejected. After a look-up that failed there is another one soon.
fn pool(dns: &Dns, url: &str) -> Builder {
    pool_after(dns, url, 100)
}

/// The same, where the next look-up comes so long after one without a TTL.
fn pool_after(dns: &Dns, url: &str, ms: u64) -> Builder {
    let builder = Node::builder().origin(url).set("dns", &dns.lines());
    builder.set("pool.web", &format!("dns_ttl_ms = {ms}")).set("pool.web.eject", "failures = 1_000_000")
}

/// Waits until the name has been asked for so often that a look-up has failed: none asks more than six times, and
/// another one may have been under way.
async fn asked_again(dns: &Dns, name: &str) {
    let before = dns.asked(name);
    eventually("further look-ups", async || dns.asked(name) >= before + 8).await;
}

async fn responds(node: &Node, word: &str) -> bool {
    node.fetch("/page").await.text() == word
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_has_the_hosts_of_its_records_by_priority() {
    let (first, second) = (saying("first").await, saying("second").await);
    let dns = dns().await;
    let hosts = [(20, 9, second.address().port(), "b.example"), (10, 1, first.address().port(), "a.example")];
    dns.service(SERVICE, 600, &hosts);
    let node = pool(&dns, &format!("{SERVICE_URL}/v1")).start().await;
    for _ in 0..10 {
        assert_eq!(node.fetch("/page").await.text(), "first");
    }
    assert_eq!(second.total(), 0);
    assert_eq!(first.seen("/v1/page")[0].header("host"), "origin.example");

    let pools = node.admin("/pools").send().await.json();
    let endpoint = &pools[0]["endpoints"][0];
    assert_eq!(endpoint["address"], json!(format!("{SERVICE_URL}/v1")), "{pools}");
    assert_eq!(endpoint["addresses"], json!([first.address().to_string(), second.address().to_string()]), "{pools}");

    // One that can't be connected to costs no request.
    let address = first.address();
    first.stop().await;
    for _ in 0..10 {
        let response = node.fetch("/page").await;
        assert_eq!((response.status, response.text()), (200, "second"));
    }
    let first = Origin::start_at(address).await;
    says(&first, "first again");
    assert!(responds(&node, "first again").await, "it is the first one as soon as it is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_of_one_priority_have_their_shares_of_connections() {
    let (many, few) = (saying("many").await, saying("few").await);
    let dns = dns().await;
    let hosts = [(5, 30, many.address().port(), "a.example"), (5, 10, few.address().port(), "b.example")];
    dns.service(SERVICE, 600, &hosts);
    let node = pool(&dns, SERVICE_URL).start().await;
    for n in 0..400 {
        assert_eq!(node.fetch(&format!("/{n}")).await.status, 200);
    }
    // 100 are to be expected, with a standard deviation of 9.
    let few = few.total();
    assert!((50..=150).contains(&few), "{few} of 400");
    assert_eq!(few + many.total(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_looked_up_again_when_their_time_is_over() {
    let (old, new) = (saying("old").await, saying("new").await);
    let dns = dns().await;
    dns.service(SERVICE, 1, &[(1, 1, old.address().port(), "a.example")]);
    // Nothing but the TTL leads to another look-up.
    let node = pool_after(&dns, SERVICE_URL, 3_600_000).start().await;
    assert!(responds(&node, "old").await);
    dns.service(SERVICE, 600, &[(1, 1, new.address().port(), "b.example")]);
    eventually("the new record", async || responds(&node, "new").await).await;

    // Now it holds for long, and nobody asks.
    let asked = dns.asked(SERVICE);
    for _ in 0..20 {
        assert!(responds(&node, "new").await);
    }
    assert_eq!(dns.asked(SERVICE), asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_record_holds_for_longer_than_the_configuration_says() {
    let (old, new) = (saying("old").await, saying("new").await);
    let dns = dns().await;
    dns.service(SERVICE, 86_400, &[(1, 1, old.address().port(), "a.example")]);
    let node = pool_after(&dns, SERVICE_URL, 3_600_000).set("dns", "ttl_ms_max = 1_000").start().await;
    assert!(responds(&node, "old").await);
    dns.service(SERVICE, 86_400, &[(1, 1, new.address().port(), "a.example")]);
    eventually("the new record", async || responds(&node, "new").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_name_is_asked_for_by_its_records_if_its_pool_says_so() {
    let old = saying("old").await;
    let port = old.address().port();
    let other = IpAddr::from([127, 0, 0, 2]);
    let new = Origin::start_at(SocketAddr::new(other, port)).await;
    says(&new, "new");
    let dns = Dns::start().await;
    dns.addresses("origin.example", 1, &[LOCAL]);
    let builder = pool_after(&dns, &format!("http://origin.example:{port}"), 3_600_000);
    let node = builder.set("pool.web", "dns = \"records\"").start().await;
    assert!(responds(&node, "old").await);
    assert_eq!(old.seen("/page")[0].header("host"), format!("origin.example:{port}"));
    dns.addresses("origin.example", 600, &[other]);
    eventually("the new address", async || responds(&node, "new").await).await;

    // The system's resolver is asked where the pool doesn't say so, and no other server.
    let asked = dns.asked("localhost") + dns.asked("origin.example");
    let node = pool(&dns, &format!("http://localhost:{port}")).start().await;
    assert!(responds(&node, "old").await);
    assert_eq!(dns.asked("localhost") + dns.asked("origin.example"), asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_holds_while_look_ups_fail() {
    let (old, new) = (saying("old").await, saying("new").await);
    for fault in [Fault::NoSuchName, Fault::ServerFailure, Fault::Garbage, Fault::Cut, Fault::TooLong] {
        let dns = dns().await;
        dns.service(SERVICE, 1, &[(1, 1, old.address().port(), "a.example")]);
        let node = pool(&dns, SERVICE_URL).start().await;
        assert!(responds(&node, "old").await, "{fault:?}");
        dns.break_with(SERVICE, fault);
        asked_again(&dns, SERVICE).await;
        assert!(responds(&node, "old").await, "{fault:?}");
        dns.service(SERVICE, 600, &[(1, 1, new.address().port(), "a.example")]);
        eventually("the new record", async || responds(&node, "new").await).await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_an_address_is_left_out_until_it_has_one() {
    let (first, second) = (saying("first").await, saying("second").await);
    let dns = dns().await;
    for fault in [Fault::NoSuchName, Fault::ServerFailure] {
        dns.break_with("a.example", fault);
        let hosts = [(1, 0, first.address().port(), "a.example"), (2, 0, second.address().port(), "b.example")];
        dns.service(SERVICE, 1, &hosts);
        let node = pool(&dns, SERVICE_URL).start().await;
        assert!(responds(&node, "second").await, "{fault:?}");
        dns.addresses("a.example", 600, &[LOCAL]);
        eventually("the first host", async || responds(&node, "first").await).await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_is_too_long_for_a_packet_is_read_over_tcp() {
    let origin = saying("long").await;
    let dns = dns().await;
    dns.service(SERVICE, 600, &[(1, 1, origin.address().port(), "a.example")]);
    dns.lengthen();
    let node = pool(&dns, SERVICE_URL).start().await;
    assert!(responds(&node, "long").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_nobody_knows_is_an_origin_that_cannot_be_connected_to() {
    let origin = saying("there").await;
    let dns = dns().await;
    let node = pool(&dns, SERVICE_URL).start().await;
    let response = node.fetch("/page").await;
    assert_eq!((response.status, response.cache().get("detail")), (502, "connect-failed"));

    dns.service(SERVICE, 1, &[(1, 1, origin.address().port(), "a.example")]);
    eventually("the service", async || responds(&node, "there").await).await;

    // The root as a host: the service isn't there, which is no failure of the look-up.
    dns.service(SERVICE, 1, &[(0, 0, 0, ".")]);
    eventually("the end of the service", async || node.fetch("/page").await.status == 502).await;
    let pools = node.admin("/pools").send().await.json();
    assert_eq!(pools[0]["endpoints"][0]["addresses"], json!([]), "{pools}");
    dns.service(SERVICE, 600, &[(1, 1, origin.address().port(), "a.example")]);
    eventually("the service again", async || responds(&node, "there").await).await;
}
