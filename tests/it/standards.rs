//! What the standards of HTTP caching leave to the operator, or have added since RFC 9111: targeted fields (RFC 9213),
//! `Surrogate-Control`, reloads, what is served while an origin is out of reach, cookies, and what a client may say of
//! itself. `docs/HTTP-CACHING.md` describes all of it.

use tokio::task::JoinSet;

use crate::harness::{
    client::Response,
    eventually, found,
    node::{Node, NodeHandle},
    origin::{Gate, Origin, Reply, Taps},
};

type Fields = &'static [(&'static str, &'static str)];

async fn front(origin: &Origin, route: &str) -> Node {
    Node::builder().origin(&origin.url()).route(route).start().await
}

fn reply(fields: Fields) -> Reply {
    fields.iter().fold(Reply::ok("x"), |reply, (name, value)| reply.header(name, value))
}

/// Whether the response to this path is stored, by its own account, and served to the next client.
async fn is_shared(node: &NodeHandle, origin: &Origin, path: &str) -> bool {
    let first = node.fetch(path).await;
    assert_eq!(first.status, 200, "{path}");
    if first.cache().has("stored") {
        node.hit(path).await;
        return true;
    }
    assert!(!node.fetch(path).await.is_hit(), "{path}");
    assert_eq!(origin.hits(path), 2, "{path}");
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_targeted_field_decides_instead_of_cache_control() {
    const CASES: [(&str, bool, Fields); 12] = [
        ("/cdn", true, &[("cdn-cache-control", "max-age=60")]),
        ("/over", true, &[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")]),
        ("/expired", true, &[("expires", "0"), ("cdn-cache-control", "max-age=60")]),
        ("/forbids", false, &[("cache-control", "max-age=60"), ("cdn-cache-control", "private")]),
        ("/broken", false, &[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60, &&")]),
        ("/own", true, &[("cdn-cache-control", "no-store"), ("example-cache-control", "max-age=60")]),
        ("/other", false, &[("cache-control", "no-store"), ("other-cache-control", "max-age=60")]),
        ("/surrogate", true, &[("cache-control", "no-store"), ("surrogate-control", "max-age=60;holm")]),
        ("/abc", false, &[("cache-control", "no-store"), ("surrogate-control", "max-age=60;abc")]),
        ("/later", true, &[("surrogate-control", "no-store"), ("cdn-cache-control", "max-age=60")]),
        ("/no-store", false, &[("cache-control", "max-age=60"), ("surrogate-control", "no-store")]),
        ("/old", false, &[("cdn-cache-control", "max-age=60"), ("age", "90")]),
    ];
    let origin = Origin::start().await;
    for (path, _, fields) in CASES {
        origin.on(path, move |_| reply(fields));
    }
    let list = "targeted = [\"Example-Cache-Control\", \"CDN-Cache-Control\", \"Surrogate-Control\"]";
    let node = front(&origin, list).await;
    for (path, wanted, _) in CASES {
        assert_eq!(is_shared(&node, &origin, path).await, wanted, "{path}");
    }
    assert_eq!(origin.seen("/cdn")[0].header("surrogate-capability"), "holm=\"Surrogate/1.0\"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_for_the_node_alone_reach_no_client() {
    let fields: Fields = &[
        ("example-cache-control", "max-age=60"),
        ("surrogate-control", "max-age=60"),
        ("cdn-cache-control", "max-age=60"),
    ];
    let origin = Origin::start().await;
    origin.on("/kept", move |_| reply(fields));
    origin.on("/private", move |_| reply(&[("example-cache-control", "private"), ("surrogate-control", "x")]));
    origin.on("/error", move |_| Reply::status(500).header("surrogate-control", "x"));
    let node =
        front(&origin, "targeted = [\"Example-Cache-Control\", \"CDN-Cache-Control\", \"Surrogate-Control\"]").await;
    let seen = |response: &Response| {
        let has = |name| response.headers.contains_key(name);
        (has("example-cache-control"), has("surrogate-control"), has("cdn-cache-control"))
    };
    assert_eq!(seen(&node.fetch("/kept").await), (false, false, true));
    assert_eq!(seen(&node.hit("/kept").await), (false, false, true), "CDN-Cache-Control may be for others as well");
    assert_eq!(seen(&node.fetch("/private").await), (false, false, false));
    assert_eq!(seen(&node.fetch("/error").await), (false, false, false));
    assert_eq!(seen(&node.post("/kept").send().await), (false, false, true), "nor with what is passed on");

    let none = front(&origin, "targeted = []").await;
    assert_eq!(seen(&none.fetch("/kept").await), (true, true, true), "what isn't on the list is the origin's business");
    assert_eq!(origin.seen("/kept").last().unwrap().header("surrogate-capability"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_knows_the_targeted_field_of_what_it_renews() {
    let origin = Origin::start().await;
    origin.on("/r", |seen| match seen.header("if-none-match") {
        "\"v1\"" => Reply::status(304).header("etag", "\"v1\""),
        _ => Reply::ok("r")
            .header("cache-control", "no-store")
            .header("surrogate-control", "max-age=1")
            .header("etag", "\"v1\""),
    });
    let node = front(&origin, "").await;
    node.fetch("/r").await;
    let renewed = found("a renewal", async || {
        Some(node.fetch("/r").await).filter(|response| response.cache().get("fwd-status") == "304")
    })
    .await;
    assert_eq!((renewed.status, renewed.text(), renewed.cache().has("stored")), (200, "r", true));
    assert!(!renewed.headers.contains_key("surrogate-control"), "{:?}", renewed.headers);
    assert_eq!(renewed.header("cache-control"), "no-store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_client_claims_is_in_no_response_for_another() {
    const NAMES: [&str; 14] = [
        "forwarded",
        "front-end-https",
        "surrogate-capability",
        "true-client-ip",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-forwarded-server",
        "x-host",
        "x-http-method-override",
        "x-original-url",
        "x-rewrite-url",
    ];
    let origin = Origin::start().await;
    origin.on("*", |seen| {
        let said: Vec<&str> = NAMES.iter().map(|name| seen.header(name)).collect();
        Reply::fresh(60, said.join(" "))
    });
    let node = front(&origin, "").await;
    for name in NAMES {
        let path = format!("/{name}");
        let first = node.get(&path).header(name, "evil.example").send().await;
        assert!(!first.text().contains("evil"), "{name}: {}", first.text());
        let next = node.hit(&path).await;
        assert!(!next.text().contains("evil"), "{name}: {}", next.text());
    }
    // Nothing is stored of an unsafe method: what it means is the client's and the origin's to say.
    let changed = node.post("/p").header("x-http-method-override", "DELETE").header("forwarded", "evil").send().await;
    assert!(changed.text().contains("DELETE") && !changed.text().contains("evil"), "{}", changed.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_is_believed_and_what_it_says_is_in_the_key() {
    let origin = Origin::start().await;
    origin.on("/p", |seen| {
        let said = ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-for"].map(|name| seen.header(name));
        Reply::fresh(60, said.join(" "))
    });
    let proxies = "forwarding_proxies = [\"127.0.0.0/8\"]";
    let node = Node::builder().origin(&origin.url()).set("limits", proxies).start().await;
    let ask = |proto: &str, host: &str| {
        let ask = node.get("/p").header("x-forwarded-proto", proto).header("x-forwarded-host", host);
        ask.header("x-forwarded-for", "192.0.2.1").send()
    };
    assert_eq!(ask("https", "One.example").await.text(), "https one.example 192.0.2.1, 127.0.0.1");
    assert_eq!(ask("http", "one.example").await.text(), "http one.example 192.0.2.1, 127.0.0.1");
    assert_eq!(ask("https", "two.example").await.text(), "https two.example 192.0.2.1, 127.0.0.1");
    eventually("a hit", async || ask("https", "one.example:443").await.is_hit()).await;
    assert_eq!(origin.hits("/p"), 3);
    // The URL that it is purged by is the one that its client used.
    node.purge(&serde_json::json!({"url": "https://one.example/p"})).await;
    assert!(!ask("https", "one.example").await.is_hit());
    assert!(ask("http", "one.example").await.is_hit());
}

/// Sends so many requests with this directive at once, and returns their responses, and how many fetches were made.
/// The origin's responses wait for the gate until all requests are there.
async fn reloads(route: &str, control: &str, count: u32) -> (Vec<Response>, usize) {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    // It has an age, so that it is older than `max-age=0` allows.
    origin.on("/p", |_| Reply::fresh(600, "old").header("etag", "\"1\"").header("age", "5"));
    let node = front(&origin, route).await;
    node.fetch("/p").await;
    node.hit("/p").await;
    let held = gate.clone();
    origin.on("/p", move |_| Reply::fresh(600, "new").header("etag", "\"2\"").behind(&held));
    let conn = node.h2().await;
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let (mut stream, ask) = (conn.stream(), node.get("/p").header("cache-control", control));
        clients.spawn(async move { stream.send(ask).await });
    }
    node.took_over_h2(count).await;
    gate.open();
    (clients.join_all().await, origin.hits("/p") - 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_at_once_share_a_fetch_unless_the_route_says_otherwise() {
    for control in ["no-cache", "max-age=0"] {
        let (responses, fetches) = reloads("", control, 20).await;
        assert!(responses.iter().all(|response| response.text() == "new"), "{control}: {:?}", responses[0].cache());
        assert_eq!(fetches, 1, "{control}");
        let collapsed = responses.iter().filter(|response| response.cache().has("collapsed")).count();
        assert_eq!(collapsed, 19, "{control}");

        let (responses, fetches) = reloads("reload = \"honour\"", control, 5).await;
        assert!(responses.iter().all(|response| response.text() == "new"), "{control}");
        assert_eq!(fetches, 5, "{control}");

        let (responses, fetches) = reloads("reload = \"ignore\"", control, 5).await;
        assert!(responses.iter().all(|response| response.is_hit() && response.text() == "old"), "{control}");
        assert_eq!(fetches, 0, "{control}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_with_no_cache_is_cut_from_the_whole_where_reloads_share_that() {
    let origin = Origin::start().await;
    origin.on("/p", |_| Reply::fresh(600, "0123456789"));
    for (route, fwd, status, text) in
        [("", "uri-miss", 206, "234"), ("reload = \"honour\"", "bypass", 200, "0123456789")]
    {
        let node = front(&origin, route).await;
        let ask = node.get("/p").header("cache-control", "no-cache").header("range", "bytes=2-4");
        let response = ask.send().await;
        let cache = response.cache();
        assert_eq!((response.status, response.text()), (status, text), "{route:?}: {cache:?}");
        assert_eq!((cache.get("fwd"), cache.has("stored")), (fwd, fwd != "bypass"), "{route:?}: {cache:?}");
    }
    let ranges: Vec<String> = origin.seen("/p").iter().map(|seen| seen.header("range").to_owned()).collect();
    assert_eq!(ranges, ["", "bytes=2-4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_joins_no_fetch_whose_response_has_begun() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    let feed = taps.clone();
    origin.on("/p", move |_| Reply::fresh(600, "").fed(&feed));
    let node = front(&origin, "").await;
    let reload = || node.get("/p").header("cache-control", "no-cache");
    // The head of the first one's response is there, and its body isn't.
    let first = reload().open().await.unwrap();
    let one = taps.next().await;
    let second = reload().open().await.unwrap();
    let two = taps.next().await;
    assert_eq!(origin.hits("/p"), 2);
    one.send(Ok("one".into())).await.unwrap();
    two.send(Ok("two".into())).await.unwrap();
    drop((one, two));
    assert_eq!((first.whole().await.unwrap().text(), second.whole().await.unwrap().text()), ("one", "two"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_events_are_passed_unless_they_say_for_how_long_they_are_good() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    let feed = taps.clone();
    origin.on("/events", move |_| Reply::ok("").header("content-type", "text/event-stream").fed(&feed));
    origin.on("/list", |_| Reply::fresh(60, "data: 1\n\n").header("content-type", "text/event-stream"));
    let node = front(&origin, "ttl_ms = 60000").await;
    let mut ann = node.get("/events").open().await.unwrap();
    let to_ann = taps.next().await;
    to_ann.send(Ok("data: for ann\n\n".into())).await.unwrap();
    assert_eq!(ann.piece().await.unwrap().unwrap(), "data: for ann\n\n");
    let mut bob = node.get("/events").open().await.unwrap();
    let to_bob = taps.next().await;
    to_bob.send(Ok("data: for bob\n\n".into())).await.unwrap();
    assert_eq!(bob.piece().await.unwrap().unwrap(), "data: for bob\n\n", "each has a stream of its own");
    drop((ann, bob));
    // When its client has left, so has the node.
    eventually("the streams' end", async || {
        let _ = to_ann.try_send(Ok(":\n\n".into()));
        let _ = to_bob.try_send(Ok(":\n\n".into()));
        to_ann.is_closed() && to_bob.is_closed()
    })
    .await;
    node.fetch("/list").await;
    node.hit("/list").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_served_while_the_origin_is_out_of_reach() {
    const CASES: [(&str, bool, Fields); 8] = [
        ("/plain", true, &[("cache-control", "max-age=1")]),
        ("/tagged", true, &[("cache-control", "max-age=1"), ("etag", "\"1\"")]),
        ("/must", false, &[("cache-control", "max-age=1, must-revalidate"), ("etag", "\"1\"")]),
        ("/proxy", false, &[("cache-control", "max-age=1, proxy-revalidate"), ("etag", "\"1\"")]),
        ("/shared", false, &[("cache-control", "s-maxage=1"), ("etag", "\"1\"")]),
        ("/no-cache", false, &[("cache-control", "no-cache"), ("etag", "\"1\"")]),
        ("/never", false, &[("cache-control", "max-age=0"), ("etag", "\"1\"")]),
        ("/soft", false, &[("cache-control", "max-age=600"), ("etag", "\"1\"")]),
    ];
    let origin = Origin::start().await;
    for (path, _, fields) in CASES {
        origin.on(path, move |_| reply(fields));
    }
    let node = Node::builder().origin(&origin.url()).set("pool.web", "attempts_max = 1").start().await;
    for (path, ..) in CASES {
        assert!(node.fetch(path).await.cache().has("stored"), "{path}");
    }
    node.purge_url("/soft", true).await;
    // Nothing of this asks the origin.
    let asked = |path| node.get(path).header("cache-control", "only-if-cached, max-stale").send();
    eventually("the end of their lives", async || {
        for path in ["/plain", "/tagged"] {
            let response = asked(path).await;
            if response.status != 200 || response.cache().ttl() >= 0 {
                return false;
            }
        }
        for path in ["/must", "/proxy", "/shared"] {
            if asked(path).await.status != 504 {
                return false;
            }
        }
        true
    })
    .await;
    let elsewhere = Node::builder().origin(&origin.url()).route("stale_if_unreachable_ms = 0").start().await;
    elsewhere.fetch("/plain").await;
    origin.stop().await;
    for (path, wanted, _) in CASES {
        let response = node.fetch(path).await;
        assert_eq!(response.status, if wanted { 200 } else { 502 }, "{path}: {:?}", response.cache());
        let cache = response.cache();
        assert!(cache.get("detail").starts_with("connect"), "{path}: {cache:?}");
        assert_eq!((cache.has("hit"), cache.get("fwd")), (false, "stale"), "{path}: {cache:?}");
    }
    let forced = node.get("/plain").header("cache-control", "no-cache").send().await;
    assert_eq!(forced.status, 502, "the client takes nothing but the origin's word");
    eventually("the end of what isn't kept for that", async || elsewhere.fetch("/plain").await.status == 502).await;
    node.purge_url("/plain", false).await;
    assert_eq!(node.fetch("/plain").await.status, 502, "what was purged is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_origin_is_not_taken_for_its_absence() {
    let origin = Origin::start().await;
    origin.on("/p", |_| Reply::fresh(1, "old"));
    let node = front(&origin, "").await;
    node.fetch("/p").await;
    origin.on("/p", |_| Reply::status(503));
    eventually("the error", async || {
        let response = node.fetch("/p").await;
        assert!(response.status == 503 || response.is_hit(), "{:?}", response.cache());
        response.status == 503
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_with_cookies_are_stored_as_the_route_says() {
    const CASES: [(&str, [bool; 3], Fields); 5] = [
        ("/public", [true, true, false], &[("cache-control", "public, max-age=60")]),
        ("/shared", [true, true, false], &[("cache-control", "s-maxage=60")]),
        ("/cdn", [true, true, false], &[("cdn-cache-control", "max-age=60")]),
        ("/explicit", [false, true, false], &[("cache-control", "max-age=60")]),
        ("/default", [false, false, false], &[]),
    ];
    for (at, rule) in ["shared", "explicit", "never"].into_iter().enumerate() {
        let origin = Origin::start().await;
        for (path, _, fields) in CASES {
            origin.on(path, move |_| reply(fields).header("set-cookie", "a=b"));
        }
        let node = front(&origin, &format!("ttl_ms = 60000\nstore_set_cookie = \"{rule}\"")).await;
        for (path, wanted, _) in CASES {
            assert_eq!(is_shared(&node, &origin, path).await, wanted[at], "{rule}: {path}");
        }
    }
}
