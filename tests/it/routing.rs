//! What routes say beside host, path and pool: conditions, rewriting, edits, responses of their own, limits.

use http::Method;

use crate::harness::{
    client::{Ask, Response, piped},
    eventually, found,
    liar::Refusing,
    node::Node,
    origin::{Gate, Origin, Reply},
};

/// Sends it until it is a hit: storing goes on after the response's last byte.
async fn hit(ask: impl Fn() -> Ask) -> Response {
    found("a hit", async || Some(ask().send().await).filter(Response::is_hit)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_told_apart_by_a_header_field_never_share_an_entry() {
    let origin = Origin::start().await;
    // It doesn't say that it looks at the field.
    origin.on("/p", |seen| Reply::fresh(600, if seen.header("x-beta").is_empty() { "plain" } else { "beta" }));
    let beta = "name = \"beta\"\nheaders = { x-beta = true }\npool = \"web\"";
    let node = Node::builder().origin(&origin.url()).route_before(beta).start().await;
    let (plain, beta) = (|| node.get("/p"), || node.get("/p").header("x-beta", "1"));
    for _ in 0..2 {
        let before = origin.hits("/p");
        for (response, text) in [(plain().send().await, "plain"), (beta().send().await, "beta")] {
            assert_eq!((response.text(), response.header("vary")), (text, "x-beta"));
        }
        for (response, text) in [(hit(plain).await, "plain"), (hit(beta).await, "beta")] {
            assert_eq!((response.text(), response.header("vary")), (text, "x-beta"));
        }
        assert_eq!(origin.hits("/p"), before + 2);
        // One URL for both.
        node.purge_url("/p", false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_most_specific_route_takes_a_request() {
    let mut builder = Node::builder().origin("http://127.0.0.1:1").route("methods = [\"LINK\"]");
    for (name, lines) in [
        ("path", ""),
        ("read", "methods = [\"GET\", \"HEAD\"]"),
        ("two", "headers = { x-version = \"2\" }\nmethods = [\"GET\"]"),
        ("three", "headers = { x-version = \"2\" }\nquery = { debug = true, v = \"a b\" }"),
    ] {
        builder =
            builder.route_before(&format!("name = \"{name}\"\npath = \"/a\"\n{lines}\nrespond.body = \"{name}\""));
    }
    let longer = "name = \"longer\"\npath = \"/a/b\"\nrespond = { body = \"longer\" }";
    let host = "name = \"host\"\nhosts = [\"other.test\"]\nrespond = { body = \"host\" }";
    let node = builder.route_before(longer).route_before(host).start().await;
    for (method, host, target, version, wanted) in [
        (Method::GET, "shop.test", "/a", "", "read"),
        (Method::GET, "shop.test", "/%61/x", "", "read"),
        (Method::POST, "shop.test", "/a", "", "path"),
        (Method::GET, "shop.test", "/a", "2", "two"),
        (Method::GET, "shop.test", "/a", "3", "read"),
        (Method::GET, "shop.test", "/a?debug&v=a+b", "2", "three"),
        (Method::POST, "shop.test", "/a?v=a%20b&d%65bug=1", "2", "three"),
        (Method::POST, "shop.test", "/a?v=a%20b&v=c&debug", "2", "path"),
        (Method::GET, "shop.test", "/a/b?debug&v=a+b", "2", "longer"),
        (Method::GET, "other.test", "/a/b", "2", "host"),
        (Method::GET, "shop.test", "/b", "2", "404"),
    ] {
        let mut ask = node.ask(method.clone(), target).host(host);
        if !version.is_empty() {
            ask = ask.header("x-version", version);
        }
        let response = ask.send().await;
        let found = if response.status == 200 { response.text().to_owned() } else { response.status.to_string() };
        assert_eq!(found, wanted, "{method} {host}{target} {version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewritten_path_is_the_origins_and_the_clients_is_the_keys() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    let route = |prefix: &str| {
        let rewrite = format!("rewrite = {{ strip_prefix = \"/api\", prefix = \"{prefix}\" }}");
        let route = format!("name = \"api\"\npath = \"/api\"\npool = \"web\"\n{rewrite}");
        Node::builder().origin(&origin.url()).route_before(&route)
    };
    let node = route("/v2").start().await;
    for (target, sent) in [("/api/x?y=/api", "/v2/x?y=/api"), ("/api", "/v2"), ("/api/%7Ea%2Fb", "/v2/~a%2Fb")] {
        assert_eq!(node.fetch(target).await.text(), sent, "{target}");
        assert_eq!(node.hit(target).await.text(), sent, "{target}");
    }
    assert!(node.fetch("/./api//x?y=/api").await.is_hit(), "its spellings share an entry");
    for target in ["/api/..%2Fadmin", "/api/..%5Cadmin", "/api/..;/admin", "/api/x%2F..%2F..%2Fadmin"] {
        let response = node.fetch(target).await;
        assert_eq!((response.status, response.cache().get("detail")), (400, "unsafe-path"), "{target}");
    }
    assert_eq!(node.fetch("/apix").await.text(), "/apix", "another route's");
    node.purge_url("/api", false).await;
    assert!(node.cached("/api").await.is_none() && node.cached("/api/x?y=/api").await.is_some());
    // What was fetched from another path isn't served.
    node.adopt(&route("/v3")).await.unwrap();
    assert_eq!(node.fetch("/api/x?y=/api").await.text(), "/v3/x?y=/api");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_fields_are_edited_on_both_ways_and_stored_as_they_came() {
    let origin = Origin::start().await;
    origin.on("*", |seen| {
        let sent = format!("{} {} {}", seen.header("x-edge"), seen.header("cookie"), seen.header("x-kept"));
        Reply::fresh(600, sent).header("etag", "\"1\"").header("server", "secret").header("vary", "accept")
    });
    let edits = "request_headers = { set = { x-edge = \"holm\" }, remove = [\"cookie\"] }\n\
                 response_headers = { set = { cache-control = \"no-cache\", x-frame-options = \"DENY\" }, remove = [\"server\"] }";
    let node = Node::builder().origin(&origin.url()).route(edits).start().await;
    let ask = || node.get("/x").header("cookie", "a=b").header("x-edge", "client").header("x-kept", "1");
    let check = |response: &Response, status: u16| {
        assert_eq!(response.status, status);
        let fields = ["cache-control", "x-frame-options", "server", "vary", "etag"].map(|name| response.header(name));
        assert_eq!(fields, ["no-cache", "DENY", "", "accept", "\"1\""]);
    };
    let first = ask().send().await;
    assert_eq!(first.text(), "holm  1");
    check(&first, 200);
    // It is stored for as long as the origin says, not as the client is told.
    let stored = hit(ask).await;
    check(&stored, 200);
    assert!(stored.cache().ttl() > 500, "{:?}", stored.cache());
    check(&ask().header("if-none-match", "\"1\"").send().await, 304);
    check(&node.ask(Method::HEAD, "/x").send().await, 200);
    assert_eq!(origin.total(), 1);
    let mut conn = node.h2().await;
    check(&conn.send(ask()).await, 200);

    // An error of the node's own isn't given a lifetime.
    let refusing = Refusing::new();
    let lost = Node::builder().origin(&refusing.url()).route(edits).start().await;
    let response = lost.fetch("/x").await;
    assert_eq!((response.status, response.header("cache-control")), (502, "no-store"));
    assert_eq!(response.header("x-frame-options"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_and_fixed_responses_need_no_origin() {
    let moved = "name = \"moved\"\npath = \"/old\"\nrewrite = { strip_prefix = \"/old\" }\n\
                 redirect = { status = 301, to = \"https://{host}/new{path}{query}\" }";
    let robots = "name = \"robots\"\npath = \"/robots.txt\"\nrespond = { status = 404, body = \"none\" }\n\
                  response_headers = { set = { cache-control = \"max-age=60\" } }";
    let refusing = Refusing::new();
    let node = Node::builder().origin(&refusing.url()).route_before(moved).route_before(robots).start().await;
    for (target, host, location) in [
        ("/old/x?y=%20z", "Shop.Test:8080", "https://shop.test/new/x?y=%20z"),
        ("/old", "shop.test", "https://shop.test/new/"),
        ("//old//evil.test", "shop.test", "https://shop.test/new/evil.test"),
        ("/old/%0d%0aset-cookie:%20a", "shop.test", "https://shop.test/new/%0D%0Aset-cookie:%20a"),
    ] {
        for method in [Method::GET, Method::HEAD, Method::POST] {
            let response = node.ask(method, target).host(host).send().await;
            assert_eq!((response.status, response.header("location")), (301, location), "{target}");
            assert!(response.body.is_empty() && !response.headers.contains_key("cache-status"), "{target}");
        }
    }
    assert_eq!(node.get("/old/x").host("shop.test@evil.test").send().await.status, 400);
    assert_eq!(node.fetch("/old/..%2fx").await.status, 400);
    for method in [Method::GET, Method::HEAD] {
        let response = node.ask(method.clone(), "/robots.txt").send().await;
        let fields = ["content-type", "content-length", "cache-control"].map(|name| response.header(name));
        assert_eq!((response.status, fields), (404, ["text/plain; charset=utf-8", "4", "max-age=60"]), "{method}");
        assert_eq!(response.text(), if method == Method::GET { "none" } else { "" });
        assert!(!response.headers.contains_key("cache-status"));
    }
    let mut conn = node.h2().await;
    assert_eq!(conn.send(node.get("/robots.txt")).await.text(), "none");
    eventually("the requests counted", async || {
        node.metric("holm_requests_total", "route=\"robots\",verdict=\"own\"").await == 3.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_limits_bodies_and_the_time_until_a_response_begins() {
    let (origin, never) = (Origin::start().await, Gate::closed());
    origin.on("*", |seen| Reply::fresh(600, seen.body.len().to_string()));
    origin.on("/late", move |_| Reply::ok("late").behind(&never));
    let late = "name = \"late\"\npath = \"/late\"\npool = \"web\"\nresponse_ms = 50";
    let large = "name = \"large\"\npath = \"/large\"\npool = \"web\"";
    let node = Node::builder().origin(&origin.url()).route_before(late).route_before(large);
    let node = node.route("body_bytes_max = 1000").start().await;

    let response = node.fetch("/late").await;
    assert_eq!((response.status, response.cache().get("detail")), (504, "route-timeout"));

    assert_eq!(node.post("/fits").body(vec![b'x'; 1000]).send().await.text(), "1000");
    assert_eq!(node.post("/large").body(vec![b'x'; 1001]).send().await.text(), "1001");
    let declared = node.post("/declared").body(vec![b'x'; 1001]).send().await;
    assert_eq!((declared.status, origin.hits("/declared")), (413, 0));
    assert_eq!(declared.header("content-type"), "application/problem+json");
    let (pipe, body) = piped();
    let response = tokio::spawn(node.post("/chunked").stream(body).send());
    for _ in 0..3 {
        // Refused pieces are what this is about.
        let _ = pipe.send(Ok(vec![b'x'; 400].into())).await;
    }
    drop(pipe);
    assert_eq!(response.await.unwrap().status, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_limits_the_requests_that_memory_does_not_serve() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("*", |_| Reply::fresh(600, "quick"));
    origin.on("/one/slow", move |_| Reply::ok("slow").behind(&held));
    let one = "name = \"one\"\npath = \"/one\"\npool = \"web\"\nrequests_max = 1";
    let node = Node::builder().origin(&origin.url()).route_before(one).start().await;
    node.fetch("/one/hit").await;
    node.hit("/one/hit").await;
    let slow = found("a place for the slow one", async || {
        // The request before may hold it for a moment.
        let asked = tokio::spawn(node.get("/one/slow").send());
        eventually("the slow one", async || asked.is_finished() || origin.hits("/one/slow") == 1).await;
        (!asked.is_finished()).then_some(asked)
    })
    .await;
    let full = node.fetch("/one/x").await;
    assert_eq!((full.status, full.header("retry-after"), full.cache().get("detail")), (503, "1", "route-full"));
    assert_eq!(full.header("content-type"), "application/problem+json");
    assert!(node.fetch("/one/hit").await.is_hit(), "memory needs no place");
    assert_eq!(node.fetch("/two").await.status, 200, "another route's");
    gate.open();
    assert_eq!(slow.await.unwrap().text(), "slow");
    eventually("the place being free", async || node.fetch("/one/x").await.status == 200).await;
}
