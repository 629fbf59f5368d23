//! What was added to HTTP caching since RFC 9111, as a client sees it: QUERY (RFC 10008), cache groups (RFC 9875),
//! `No-Vary-Search` (draft 10) and `Incremental` (RFC 10036). The rows of the tables cite the sentences that they are
//! written from; the pure rules have tables of their own (`policy/query.rs`, `cache/groups.rs`, `cache/search.rs`,
//! `message/incremental.rs`).

use std::io::Write;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{
    LIMIT,
    client::{Ask, Response, piped},
    eventually, found,
    node::{Node, NodeHandle},
    origin::{Gate, Origin, Reply, Taps},
    process::run,
};

const JSON: &str = "application/json";

async fn front(origin: &Origin, route: &str) -> Node {
    Node::builder().origin(&origin.url()).route(route).start().await
}

fn query(node: &NodeHandle, target: &str, media_type: &str, body: impl Into<Bytes>) -> Ask {
    node.ask(Method::QUERY, target).header("content-type", media_type).body(body)
}

/// Returns what is stored for a request, as soon as it is stored.
async fn hit(ask: impl Fn() -> Ask) -> Response {
    found("a hit", async || {
        let response = ask().header("cache-control", "only-if-cached").send().await;
        (response.status != 504 && response.is_hit()).then_some(response)
    })
    .await
}

/// Whether nothing is stored for a request.
async fn is_missing(ask: Ask) -> bool {
    ask.header("cache-control", "only-if-cached").send().await.status == 504
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// RFC 10008, 2.7: "The response to a QUERY method is cacheable; a cache MAY use it to satisfy subsequent QUERY
/// requests".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_served_to_those_who_ask_the_same() {
    let origin = Origin::start().await;
    origin.on("/q", |seen| Reply::fresh(60, seen.body.clone()).header("accept-query", "\"application/json\""));
    let node = front(&origin, "").await;
    let first = query(&node, "/q", JSON, r#"{"a":1,"b":[2]}"#).send().await;
    assert_eq!((first.status, first.text()), (200, r#"{"a":1,"b":[2]}"#));
    assert_eq!(first.header("accept-query"), "\"application/json\"", "3: for the client to read");
    assert!(first.cache().has("stored"), "{:?}", first.cache());
    // "caches MAY remove semantically insignificant differences from request content", by its media type and by "removing
    // content encoding(s)"; the request itself isn't changed.
    let spelled = hit(|| query(&node, "/q", JSON, "{ \"b\" : [2], \"a\" : 1 }")).await;
    assert_eq!((spelled.text(), spelled.header("accept-query")), (r#"{"a":1,"b":[2]}"#, "\"application/json\""));
    hit(|| query(&node, "/q", JSON, gzip(r#"{"b":[2],"a":1}"#)).header("content-encoding", "gzip")).await;
    assert_eq!(origin.seen("/q").len(), 1);
    // The key "MUST incorporate the request content and related metadata".
    for (target, media_type, body) in [
        ("/q", JSON, r#"{"a":1,"b":[3]}"#),
        ("/q", JSON, r#"{"a":1.0,"b":[2]}"#),
        ("/q", JSON, r#"{"a":1,"a":1,"b":[2]}"#),
        ("/q", JSON, ""),
        ("/q", "application/json; charset=utf-8", r#"{"a":1,"b":[2]}"#),
        ("/q", "application/vnd.q+json", r#"{"a":1,"b":[2]}"#),
        ("/q", "text/plain", r#"{"a":1,"b":[2]}"#),
        ("/q?", JSON, r#"{"a":1,"b":[2]}"#),
        ("/q?x", JSON, r#"{"a":1,"b":[2]}"#),
    ] {
        assert!(is_missing(query(&node, target, media_type, body)).await, "{target} {media_type} {body}");
    }
    let language = query(&node, "/q", JSON, r#"{"a":1,"b":[2]}"#).header("content-language", "en");
    assert!(is_missing(language).await);
    // "Clients can indicate, using the no-transform cache directive, that they wish that no such transformation happens".
    let exact = query(&node, "/q", JSON, r#"{"a":1,"b":[2]}"#).header("cache-control", "no-transform");
    assert!(is_missing(exact).await);
    // Other methods have nothing to do with it.
    assert!(is_missing(node.get("/q")).await && is_missing(node.ask(Method::HEAD, "/q")).await);
    assert!(!node.post("/q").header("content-type", JSON).body(r#"{"a":1,"b":[2]}"#).send().await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_cannot_be_keyed_is_passed_on_whole() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(60, seen.body.clone()));
    let node = front(&origin, "query_body_bytes_max = 100").await;
    let (large, bomb) = ("x".repeat(101), " ".repeat(2_000));
    // Name, what it has beside its path, its body, and the reason.
    for (path, fields, body, detail) in [
        // 2: "Servers MUST fail the request if the Content-Type request field is missing".
        ("/untyped", &[][..], b"x".to_vec(), ""),
        ("/twice", &[("content-type", JSON), ("content-type", "text/plain")], b"{}".to_vec(), ""),
        ("/broken", &[("content-type", JSON), ("content-encoding", "gzip")], b"{}".to_vec(), ""),
        ("/unknown", &[("content-type", JSON), ("content-encoding", "snappy")], b"{}".to_vec(), ""),
        ("/bomb", &[("content-type", JSON), ("content-encoding", "gzip")], gzip(&bomb), ""),
        ("/large", &[("content-type", JSON)], large.clone().into_bytes(), "large-body"),
    ] {
        for asked in 1..=2 {
            let ask = node.ask(Method::QUERY, path).body(body.clone());
            let ask = fields.iter().fold(ask, |ask, (name, value)| ask.header(name, value));
            let response = ask.send().await;
            let cache = response.cache();
            assert_eq!((response.status, &response.body[..]), (200, &body[..]), "{path}");
            assert_eq!((cache.get("fwd"), cache.get("detail")), ("bypass", detail), "{path}: {cache:?}");
            assert_eq!(origin.hits(path), asked, "{path}");
        }
    }
    // One that doesn't say how long it is, either.
    let (pipe, stream) = piped();
    let ask = query(&node, "/stream", JSON, "").stream(stream);
    let sent = tokio::spawn(ask.send());
    for piece in [&large[..60], &large[60..]] {
        pipe.send(Ok(Bytes::copy_from_slice(piece.as_bytes()))).await.unwrap();
    }
    drop(pipe);
    let response = sent.await.unwrap();
    assert_eq!((response.text(), response.cache().get("detail")), (large.as_str(), "large-body"));
    assert_eq!(origin.seen("/stream")[0].body, large.as_bytes());
}

/// RFC 10008, 2: "QUERY requests are safe", and 2.6: "A conditional QUERY requests that the selected representation be
/// returned in the response only under the circumstances described by the conditional header field(s)".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_safe_conditional_and_purged_with_its_url() {
    let origin = Origin::start().await;
    origin.on("/q", |seen| match seen.method.as_str() {
        "POST" => Reply::ok("changed"),
        _ => Reply::fresh(60, seen.body.clone()).header("etag", "\"1\""),
    });
    let node = front(&origin, "").await;
    let ask = || query(&node, "/q", "text/plain", "one");
    node.fetch("/q").await;
    ask().send().await;
    hit(ask).await;
    assert!(node.hit("/q").await.is_hit(), "a QUERY invalidates nothing");
    let conditional = ask().header("if-none-match", "\"1\"").send().await;
    assert_eq!((conditional.status, conditional.is_hit()), (304, true));
    let range = ask().header("range", "bytes=1-").send().await;
    assert_eq!((range.status, range.text()), (206, "ne"), "2.8: as for GET");
    node.post("/q").body("x").send().await;
    assert!(is_missing(ask()).await, "an unsafe method invalidates it");
    ask().send().await;
    hit(ask).await;
    node.purge_url("/q", false).await;
    assert!(is_missing(ask()).await, "and so does a purge of its URL");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_queries_at_once_are_one_fetch() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/q", move |seen| Reply::fresh(60, seen.body.clone()).behind(&held));
    let node = front(&origin, "").await;
    let conn = node.h2().await;
    let mut clients = JoinSet::new();
    for number in 0..10 {
        let body = format!("{{{}\"a\":1}}", " ".repeat(number));
        let (mut stream, ask) = (conn.stream(), query(&node, "/q", JSON, body));
        clients.spawn(async move { stream.send(ask).await });
    }
    node.took_over_h2(10).await;
    gate.open();
    let responses = clients.join_all().await;
    assert!(responses.iter().all(|response| response.text() == responses[0].text()), "one response for all");
    assert_eq!(origin.hits("/q"), 1);
}

/// An origin that doesn't understand a coding fails for those alone that use it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_to_a_query_in_a_content_coding_is_not_for_a_plain_one() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/q", move |seen| match seen.header("content-encoding") {
        "" => Reply::fresh(60, seen.body.clone()),
        _ => Reply::status(500).behind(&held),
    });
    let node = front(&origin, "").await;
    let coded = query(&node, "/q", JSON, gzip(r#"{"a":1}"#)).header("content-encoding", "gzip");
    let coded = tokio::spawn(coded.send());
    eventually("the fetch", async || origin.hits("/q") == 1).await;
    let (mut conn, ask) = (node.h2().await, query(&node, "/q", JSON, r#"{"a":1}"#));
    let plain = tokio::spawn(async move { conn.send(ask).await });
    node.took_over_h2(1).await;
    gate.open();
    let plain = plain.await.unwrap();
    assert_eq!((plain.status, plain.text()), (200, r#"{"a":1}"#));
    assert_eq!(coded.await.unwrap().status, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_takes_queries_as_it_says() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(60, seen.body.clone()));
    let passing = front(&origin, "query_key = \"pass\"").await;
    for asked in 1..=2 {
        let response = query(&passing, "/pass", JSON, "{}").send().await;
        assert_eq!((response.text(), response.cache().get("fwd")), ("{}", "method"));
        assert_eq!(origin.hits("/pass"), asked);
    }
    let exact = front(&origin, "query_key = \"exact\"").await;
    query(&exact, "/exact", JSON, "{}").send().await;
    hit(|| query(&exact, "/exact", JSON, "{}")).await;
    assert!(is_missing(query(&exact, "/exact", JSON, "{ }")).await, "another spelling is another request");
}

/// RFC 9875, 3: "A cache that receives a Cache-Group-Invalidation header field on a response to an unsafe request MAY
/// invalidate any stored responses that share groups with any of the listed groups."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsafe_method_invalidates_the_groups_that_its_response_names() {
    const STORED: [&str; 5] = ["/ab", "/b", "/upper", "/tagged", "/none"];
    let origin = Origin::start().await;
    for (path, field, value) in [
        ("/ab", "cache-groups", "\"a\", \"b\";x=1"),
        ("/b", "cache-groups", "\"b\""),
        ("/upper", "cache-groups", "\"A\""),
        ("/tagged", "cache-tag", "a"),
        ("/none", "x-groups", "\"a\""),
    ] {
        origin.on(path, move |_| Reply::fresh(600, path).header(field, value));
    }
    let node = front(&origin, "").await;
    // The method, the status and the field of a response, the host that is asked, and what of the stored is gone then.
    for (method, status, said, host, gone) in [
        (Method::POST, 200, "\"a\"", "shop.test", &["/ab"][..]),
        (Method::DELETE, 200, "\"b\", \"c\"", "shop.test", &["/ab", "/b"]),
        (Method::POST, 200, "\"c\"", "shop.test", &[]),
        // What the method has done says the origin, whatever became of the request itself.
        (Method::POST, 500, "\"a\"", "shop.test", &["/ab"]),
        // 3: it "MUST be ignored on responses to requests that have a safe method".
        (Method::GET, 200, "\"a\"", "shop.test", &[]),
        (Method::QUERY, 200, "\"a\"", "shop.test", &[]),
        // 2.1: "They both share the same URI origin".
        (Method::POST, 200, "\"a\"", "other.test", &[]),
        // Which groups are meant isn't known: all of them.
        (Method::POST, 200, "a", "shop.test", &["/ab", "/b", "/upper"]),
    ] {
        for path in STORED {
            node.fetch(path).await;
            node.hit(path).await;
        }
        origin.on("/change", move |_| Reply::status(status).header("cache-group-invalidation", said));
        node.ask(method.clone(), "/change").host(host).send().await;
        for path in STORED {
            let is_gone = node.cached(path).await.is_none();
            assert_eq!(is_gone, gone.contains(&path), "{method} {status} {said} at {host}: {path}");
        }
    }
    // Groups are no tags.
    node.purge(&json!({"tag": "b"})).await;
    assert!(node.cached("/none").await.is_some());
    for path in ["/ab", "/b"] {
        node.fetch(path).await;
        node.hit(path).await;
    }
    node.purge(&json!({"tag": "a"})).await;
    assert!(node.cached("/ab").await.is_some() && node.cached("/tagged").await.is_none());
}

/// Groups are purged by the admin API as well, by the origin that they are of (RFC 9875, 2.1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_an_origin_is_purged_in_any_spelling_of_that() {
    const STORED: [&str; 3] = ["/a", "/upper", "/tagged"];
    let origin = Origin::start().await;
    for (path, field, value) in
        [("/a", "cache-groups", "\"a\""), ("/upper", "cache-groups", "\"A\""), ("/tagged", "cache-tag", "a")]
    {
        origin.on(path, move |_| Reply::fresh(600, path).header(field, value));
    }
    let node = front(&origin, "").await;
    let admin = node.admin.to_string();
    // The name, the origin, whether it is purged by the command line, and what of the stored is gone then.
    for (name, at, by_command, gone) in [
        ("a", "http://shop.test", false, &["/a"][..]),
        ("A", "HTTP://Shop.TEST.:80/", false, &["/upper"]),
        ("a", "http://SHOP.test/", true, &["/a"]),
        ("a", "https://shop.test", false, &[]),
        ("a", "http://shop.test:81", true, &[]),
        ("b", "http://shop.test", false, &[]),
    ] {
        for path in STORED {
            node.fetch(path).await;
            node.hit(path).await;
        }
        if by_command {
            let said = run(&["purge", "--admin", &admin, "--group", name, "--origin", at], LIMIT).await;
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        } else {
            node.purge(&json!({"group": name, "origin": at})).await;
        }
        for path in STORED {
            let is_gone = node.cached(path).await.is_none();
            assert_eq!(is_gone, gone.contains(&path), "{name} of {at}: {path}");
        }
    }
    for wrong in [
        json!({"group": "a"}),
        json!({"group": "a", "origin": "http://shop.test/a"}),
        json!({"group": "gr\u{f6}\u{df}e", "origin": "http://shop.test"}),
        json!({"tag": "a", "origin": "http://shop.test"}),
    ] {
        let refused = Ask::new(node.admin, Method::POST, "/purge").json(&wrong).send().await;
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.text());
    }
    for wrong in [&["--group", "a"][..], &["--origin", "http://shop.test"], &["--tag", "a", "--origin", "http://a"]] {
        let arguments = [&["purge", "--admin", &admin][..], wrong].concat();
        assert!(!run(&arguments, LIMIT).await.status.success(), "{wrong:?}");
    }
    assert!(node.cached("/a").await.is_some(), "what is refused has no effect");
}

/// RFC 9875, 2: "Implementations MUST support at least 32 groups in a field value, with up to at least 32 characters in
/// each member."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_whose_groups_are_not_known_is_not_stored() {
    let list = |count: usize, chars: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("\"{number:0>chars$}\"")).collect();
        names.join(", ")
    };
    let origin = Origin::start().await;
    for (path, groups) in [
        ("/32", list(32, 32)),
        ("/many", list(65, 2)),
        ("/long", list(1, 257)),
        ("/token", "scripts".to_owned()),
        ("/cut", "\"a".to_owned()),
    ] {
        origin.on(path, move |_| Reply::fresh(600, "x").header("cache-groups", &groups));
    }
    let (node, without) = (front(&origin, "").await, front(&origin, "cache_groups = false").await);
    node.fetch("/32").await;
    node.hit("/32").await;
    for (path, detail) in [("/many", "too-many-tags"), ("/long", "bad-tag"), ("/token", "bad-tag"), ("/cut", "bad-tag")]
    {
        let cache = node.fetch(path).await.cache();
        assert_eq!((cache.has("stored"), cache.get("detail")), (false, detail), "{path}: {cache:?}");
        without.fetch(path).await;
        without.hit(path).await;
    }
    origin.on("/change", |_| Reply::ok("").header("cache-group-invalidation", &format!("\"{:0>32}\"", 31)));
    node.post("/change").send().await;
    assert!(node.cached("/32").await.is_none(), "the last of 32 groups with 32 characters");
}

/// The draft, 6: a stored response may be reused if its target URI and the presented one "match or are equivalent modulo
/// URL variation config".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_is_served_for_all_urls_that_it_says_are_equivalent() {
    let origin = Origin::start().await;
    // Path, the rule, the first request's query, those that are served with its response, those that aren't.
    for (path, rule, first, same, others) in [
        (
            "/params",
            "params=(\"utm\")",
            "?id=1&utm=1",
            &["?id=1", "?utm=2&id=1", "?%75tm&id=%31"][..],
            &["?id=2", "", "?ID=1"][..],
        ),
        ("/order", "key-order", "?a=1&b=2", &["?b=2&a=1", "?b=2&&a=1"], &["?a=1", "?a=2&b=2", "?a=1&b=2&c"]),
        ("/except", "except=(\"id\")", "?id=1&x", &["?y&id=1", "?id=1"], &["?id=2&x", "?x", "?id=1&id=1"]),
        ("/all", "except=()", "", &["?", "?x=1", "?y"], &[]),
        // Whatever can't be read is no rule: "caches will just cause fewer cache hits".
        ("/true", "params=?1", "?x=1", &[], &["?x=2", ""]),
        ("/both", "params=(\"x\"), except=(\"y\")", "?x=1", &[], &["?x=2"]),
        ("/broken", "params=(\"x\"", "?x=1", &[], &["?x=2"]),
    ] {
        origin.on(path, move |seen| Reply::fresh(600, seen.target.clone()).header("no-vary-search", rule));
        let node = front(&origin, "").await;
        let target = format!("{path}{first}");
        node.fetch(&target).await;
        assert_eq!(node.hit(&target).await.text(), target);
        for query in same {
            assert_eq!(node.hit(&format!("{path}{query}")).await.text(), target, "{rule}: {query}");
        }
        for query in others {
            assert!(node.cached(&format!("{path}{query}")).await.is_none(), "{rule}: {query}");
        }
        assert_eq!(node.hit(&target).await.header("no-vary-search"), rule);
        assert_eq!(origin.total(), 1 + origin_total_before(path), "{rule}");
    }
    let without = front(&origin, "no_vary_search = false").await;
    without.fetch("/order?a=1&b=2").await;
    without.hit("/order?a=1&b=2").await;
    assert!(without.cached("/order?b=2&a=1").await.is_none());
}

/// Requests that the origin has had for the paths before this one: one for each.
fn origin_total_before(path: &str) -> usize {
    ["/params", "/order", "/except", "/all", "/true", "/both", "/broken"]
        .iter()
        .position(|known| *known == path)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_for_several_urls_is_purged_by_each_of_them() {
    let origin = Origin::start().await;
    let rule = "params=(\"utm\")";
    origin.on("/p", move |seen| match seen.method.as_str() {
        "POST" => Reply::ok("changed"),
        _ => Reply::fresh(600, seen.target.clone()).header("no-vary-search", rule),
    });
    let node = front(&origin, "").await;
    let stored = async || {
        node.fetch("/p?utm=1").await;
        node.hit("/p?utm=2").await;
        node.hit("/p").await;
    };
    // By the one that it was fetched by, by another that was served, by one that nobody has asked for, without a query.
    for purged in ["/p?utm=1", "/p?utm=2", "/p?utm=never", "/p"] {
        stored().await;
        node.purge_url(purged, false).await;
        for target in ["/p?utm=1", "/p?utm=2", "/p?utm=3", "/p"] {
            assert!(node.cached(target).await.is_none(), "{purged} is purged: {target}");
        }
    }
    for changed in ["/p?utm=1", "/p?utm=never", "/p"] {
        stored().await;
        node.post(changed).body("x").send().await;
        assert!(node.cached("/p?utm=2").await.is_none() && node.cached("/p").await.is_none(), "{changed} is changed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsafe_method_invalidates_what_another_route_serves_for_several_urls() {
    let origin = Origin::start().await;
    origin.on("/p", |seen| match seen.method.as_str() {
        "POST" => Reply::ok("changed"),
        _ => Reply::fresh(600, seen.target.clone()).header("no-vary-search", "params=(\"utm\")"),
    });
    let write = "name = \"write\"\npath = \"/p\"\npool = \"web\"\nmethods = [\"POST\"]\nno_vary_search = false";
    let node = Node::builder().origin(&origin.url()).route_before(write).start().await;
    node.fetch("/p?utm=1").await;
    assert_eq!(node.hit("/p?utm=2").await.text(), "/p?utm=1");
    assert_eq!(node.post("/p?utm=never").body("x").send().await.text(), "changed");
    for target in ["/p?utm=1", "/p?utm=2"] {
        assert!(node.cached(target).await.is_none(), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_response_replaces_no_newer_one_of_the_same_rule() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/p", move |seen| {
        let reply =
            if seen.target == "/p?utm=1" { Reply::fresh(600, "old").behind(&held) } else { Reply::fresh(600, "new") };
        reply.header("no-vary-search", "params=(\"utm\")")
    });
    let node = front(&origin, "").await;
    let slow = tokio::spawn(node.get("/p?utm=1").send());
    eventually("the slow fetch", async || origin.hits("/p?utm=1") == 1).await;
    assert_eq!(node.fetch("/p?utm=2").await.text(), "new");
    assert_eq!(node.hit("/p?utm=3").await.text(), "new");
    gate.open();
    assert_eq!(slow.await.unwrap().text(), "old", "its client asked before the other did");
    eventually("the end of both flights", async || node.metric("holm_cache_flights", "").await == 0.0).await;
    assert_eq!(node.hit("/p?utm=3").await.text(), "new");
    assert_eq!(origin.total(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_response_is_served_by_a_rule_that_it_does_not_state() {
    let origin = Origin::start().await;
    origin.on("/p", |seen| Reply::fresh(600, seen.target.clone()).header("no-vary-search", "params=(\"a\")"));
    let node = front(&origin, "").await;
    node.fetch("/p?a=1&b=1").await;
    assert_eq!(node.hit("/p?a=2&b=1").await.text(), "/p?a=1&b=1");
    // From now on another rule is declared, under which the first response isn't found.
    origin.on("/p", |seen| Reply::fresh(600, seen.target.clone()).header("no-vary-search", "params=(\"b\")"));
    node.fetch("/p?a=9&b=9").await;
    assert_eq!(node.hit("/p?a=9&b=8").await.text(), "/p?a=9&b=9");
    assert!(node.cached("/p?a=1&b=9").await.is_none() && node.cached("/p?a=8&b=9").await.is_none());
    // One that states none is for its own URL.
    origin.on("/p", |seen| Reply::fresh(600, seen.target.clone()));
    node.fetch("/p?a=7&b=7").await;
    assert_eq!(node.hit("/p?a=7&b=7").await.text(), "/p?a=7&b=7");
    assert!(node.cached("/p?a=7&b=6").await.is_none());
    // A response varies as well, within what is equivalent.
    origin.on("/v", |seen| {
        let reply = Reply::fresh(600, seen.header("accept-language").to_owned());
        reply.header("no-vary-search", "params=(\"utm\")").header("vary", "accept-language")
    });
    let ask = |target: &str, language: &str| node.get(target).header("accept-language", language);
    for language in ["en", "de"] {
        ask("/v?utm=1", language).send().await;
        assert_eq!(hit(|| ask("/v?utm=2", language)).await.text(), language);
    }
    assert!(is_missing(ask("/v?utm=2", "fr")).await);
}

/// RFC 10036, 3: "intermediaries SHOULD transmit the header section downstream and continuously forward the bytes of the
/// message content as they arrive".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_asks_for_it_is_forwarded_as_it_comes() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    origin.on("/up", |seen| Reply::ok(seen.body.clone()));
    let fed = taps.clone();
    origin.on("/down", move |_| Reply::ok("").fed(&fed).header("incremental", "?1"));
    let node = front(&origin, "ttl_ms = 60000").await;
    // A body that states its length is otherwise read before its request is sent on.
    let (pipe, body) = piped();
    let ask = node.post("/up").header("incremental", "?1").header("content-length", "8").stream(body);
    let sent = tokio::spawn(ask.send());
    pipe.send(Ok(Bytes::from_static(b"abcd"))).await.unwrap();
    eventually("the first half at the origin", async || origin.body_bytes("/up") == 4).await;
    pipe.send(Ok(Bytes::from_static(b"efgh"))).await.unwrap();
    drop(pipe);
    assert_eq!(sent.await.unwrap().text(), "abcdefgh");
    // 3: "applies to each HTTP message", so that a response says it for itself; and one that does is no one else's.
    let opening = tokio::spawn(node.get("/down").open());
    let tap = taps.next().await;
    let mut opened = opening.await.unwrap().unwrap();
    assert_eq!((opened.status, opened.headers["incremental"].to_str().unwrap()), (200, "?1"));
    tap.send(Ok(Bytes::from_static(b"one"))).await.unwrap();
    assert_eq!(opened.piece().await.unwrap().unwrap(), "one");
    drop(tap);
    let cache = opened.headers["cache-status"].to_str().unwrap();
    assert!(cache.contains("detail=incremental") && !cache.contains("stored"), "{cache}");
}

/// RFC 10036, 3: "If an intermediary decides outright to refuse forwarding the message body incrementally, the
/// intermediary MUST generate an error response"; 4.1: "SHOULD respond with a 501 (Not Implemented) error with an
/// incremental_refused Proxy-Status response header field".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_forwarded_as_it_comes_is_refused() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(60, seen.body.clone()));
    for protocol in ["plain", "json-array"] {
        let node = Node::builder().origin(&origin.url()).infer(protocol).start().await;
        let refused = node.post("/m").header("incremental", "?1").json(&json!([1])).send().await;
        assert_eq!(
            (refused.status, refused.header("proxy-status")),
            (501, "n1; error=incremental_refused"),
            "{protocol}"
        );
        let served = node.post("/m").header("incremental", "?0").json(&json!([1])).send().await;
        assert_eq!(served.status, 200, "{protocol}: {}", served.text());
    }
    // A QUERY that asks for it isn't read for its key.
    let node = front(&origin, "").await;
    let passed = query(&node, "/q", JSON, "{}").header("incremental", "?1").send().await;
    assert_eq!((passed.text(), passed.cache().get("fwd")), ("{}", "bypass"));
}
