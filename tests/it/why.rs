//! `holm why` and `POST /why`: what would be done with a request, and why; and that asking changes nothing.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    LIMIT,
    client::{Ask, Response},
    eventually,
    node::{Node, url},
    origin::{Origin, Reply, Seen},
    process::run,
    repository,
};

async fn asked(node: &Node, what: &Value) -> Response {
    Ask::new(node.admin, Method::POST, "/why").json(what).send().await
}

async fn why(node: &Node, what: Value) -> Value {
    let response = asked(node, &what).await;
    assert_eq!(response.status, 200, "{what}: {}", response.text());
    response.json()
}

async fn front(origin: &Origin) -> Node {
    Node::builder().origin(&origin.url()).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_names_the_one_input_that_differs() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    let node = front(&origin).await;
    node.hit_after_fetch("/a?x=1").await;
    node.hit_after_fetch("/other").await;
    for _ in 0..2 {
        let report = why(&node, json!({"url": url("/a?x=2")})).await;
        assert_eq!((&report["plan"], &report["reason"]), (&json!("look-up"), &json!("keyed-by-head")), "{report}");
        assert_eq!((&report["route"]["path"], &report["route"]["place"]), (&json!("/"), &json!(1)), "{report}");
        let lookup = &report["lookups"][0];
        assert_eq!((&lookup["outcome"], &lookup["next"]), (&json!("miss"), &json!("collapse")), "{report}");
        assert_eq!(lookup["rule"]["section"], "RFC 9111, section 4", "{report}");
        let inputs = lookup["inputs"].as_array().unwrap();
        assert!(inputs.iter().any(|input| input["name"] == "query-all" && input["value"] == "x=2"), "{report}");
        let differs = lookup["nearest"]["differs"].as_array().unwrap();
        assert_eq!(differs.len(), 1, "{report}");
        assert_eq!(differs[0]["name"], "query-all", "{report}");
        assert_eq!((&differs[0]["here"]["value"], &differs[0]["there"]["value"]), (&json!("x=2"), &json!("x=1")));
    }
    assert_eq!(origin.hits("/a?x=2"), 0, "nothing was fetched");
    assert!(node.cached("/a?x=2").await.is_none(), "and nothing stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_described_with_the_rule_that_decides() {
    let origin = Origin::start().await;
    origin.on("/a", |_| Reply::fresh(600, "abc").header("surrogate-key", "red blue"));
    let node = front(&origin).await;
    node.hit_after_fetch("/a").await;
    let report = why(&node, json!({"url": "HTTP://Shop.TEST:80/a"})).await;
    let lookup = &report["lookups"][0];
    let stored = &lookup["stored"];
    assert_eq!((&lookup["outcome"], &lookup["next"]), (&json!("hit"), &json!("serve")), "{report}");
    assert_eq!(lookup["rule"]["section"], "RFC 9111, section 4.2", "{report}");
    assert_eq!((&stored["tier"], &stored["lifetime_ms"]), (&json!("memory"), &json!(600_000)), "{report}");
    assert_eq!((&stored["lifetime_from"], &stored["length"]), (&json!("max-age"), &json!(3)), "{report}");
    assert_eq!((&stored["tags"], &stored["purged"]), (&json!(["red", "blue"]), &json!("no")), "{report}");

    let reload = json!({"url": url("/a"), "headers": [["cache-control", "no-cache"]]});
    let lookup = why(&node, reload).await["lookups"][0].clone();
    assert_eq!(
        (&lookup["outcome"], &lookup["rule"]["section"]),
        (&json!("stale"), &json!("RFC 9111, section 5.2.1.4"))
    );

    node.purge(&json!({"tag": "red"})).await;
    let lookup = why(&node, json!({"url": url("/a")})).await["lookups"][0].clone();
    assert_eq!((&lookup["outcome"], &lookup["stored"]["purged"]), (&json!("miss"), &json!("hard")), "{lookup}");
    assert!(lookup["rule"]["text"].as_str().unwrap().contains("purged"), "{lookup}");
    assert_eq!(origin.hits("/a"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variant_differs_in_the_field_that_selects_it() {
    let origin = Origin::start().await;
    origin.on("/v", |_| Reply::fresh(600, "v").header("vary", "accept-language"));
    let node = front(&origin).await;
    let ask = |language: &str| node.get("/v").header("accept-language", language).send();
    ask("de").await;
    eventually("a hit", async || ask("de").await.is_hit()).await;
    let lookup = |report: Value| report["lookups"][0].clone();
    let of = |language: &str| json!({"url": url("/v"), "headers": [["Accept-Language", language]]});
    let same = lookup(why(&node, of("de")).await);
    assert_eq!((&same["outcome"], &same["stored"]["vary"]), (&json!("hit"), &json!(["accept-language"])), "{same}");
    let other = lookup(why(&node, of("fr")).await);
    assert_eq!(other["rule"]["section"], "RFC 9111, section 4.1", "{other}");
    let differs = other["nearest"]["differs"].as_array().unwrap();
    assert_eq!((differs.len(), &differs[0]["name"]), (1, &json!("vary(accept-language)")), "{other}");
    assert_eq!((&differs[0]["here"]["value"], &differs[0]["there"]["value"]), (&json!("fr"), &json!("de")), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_and_bodies_are_compared_and_never_shown() {
    let origin = Origin::start().await;
    origin.on("/m", |seen| Reply::ok(seen.body.clone()));
    let node = Node::builder().origin(&origin.url()).infer("plain").route("ttl_ms = 600000").start().await;
    let ask = || node.post("/m").header("authorization", "Bearer hush-1").body("private").send();
    assert_eq!(ask().await.status, 200);
    eventually("a hit", async || ask().await.is_hit()).await;
    let of = |token: &str, body: &str| json!({"url": url("/m"), "method": "POST", "headers": [["authorization", token]], "body": body});
    for (what, name) in
        [(of("Bearer hush-2", "private"), "header(authorization)"), (of("Bearer hush-1", "PRIVATE"), "body")]
    {
        let response = asked(&node, &what).await;
        assert!(!response.text().contains("hush") && !response.text().contains("private"), "{}", response.text());
        let report = response.json();
        let differs = report["lookups"][0]["nearest"]["differs"].as_array().unwrap().clone();
        assert_eq!((differs.len(), &differs[0]["name"]), (1, &json!(name)), "{report}");
    }
    let same = why(&node, of("Bearer hush-1", "private")).await;
    assert_eq!(same["lookups"][0]["outcome"], "hit", "{same}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_item_has_a_look_up_of_its_own() {
    let origin = Origin::start().await;
    origin.on("/items", |seen| Reply::ok(seen.body.clone()));
    let node = Node::builder().origin(&origin.url()).infer("json-array").route("ttl_ms = 600000").start().await;
    let ask = || node.post("/items").json(&json!([{"n": 1}])).send();
    ask().await;
    eventually("a hit", async || ask().await.is_hit()).await;
    let body = json!([{"n": 1}, {"n": 2}]).to_string();
    let headers = json!([["content-type", "application/json"]]);
    let report = why(&node, json!({"url": url("/items"), "method": "POST", "headers": headers, "body": body})).await;
    let outcomes: Vec<&Value> = report["lookups"].as_array().unwrap().iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, [&json!("hit"), &json!("miss")], "{report}");
    assert_eq!(report["lookups"][1]["nearest"]["differs"][0]["name"], "body", "{report}");
    let many = json!((0..20).collect::<Vec<u32>>()).to_string();
    let report = why(&node, json!({"url": url("/items"), "method": "POST", "headers": headers, "body": many})).await;
    assert_eq!((report["lookups"].as_array().unwrap().len(), &report["left_out"]), (16, &json!(4)), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policys_part_is_named_with_its_generation_and_hook() {
    let (origin, file) = (Origin::start().await, repository("plugins/dist/tenant-key.wasm"));
    origin.on("*", |seen| Reply::fresh(600, seen.header("x-tenant").to_owned()));
    let builder = Node::builder().origin(&origin.url()).route("policy = \"key\"");
    let node = builder.policy("key", &file, "{ require_tenant = true }").start().await;
    let ask = || node.get("/x").header("x-tenant", "acme").send();
    ask().await;
    eventually("a hit", async || ask().await.is_hit()).await;

    let report = why(&node, json!({"url": url("/x")})).await;
    let lookup = &report["lookups"][0];
    assert_eq!((&lookup["outcome"], &lookup["rule"]["hook"]), (&json!("bypass"), &json!("key")), "{report}");
    assert_eq!(lookup["rule"]["policy"], report["policy"], "{report}");
    assert!(lookup["rule"]["text"].as_str().unwrap().contains("no tenant"), "{report}");

    let report = why(&node, json!({"url": url("/x"), "headers": [["x-tenant", "umbrella"]]})).await;
    let lookup = &report["lookups"][0];
    assert_eq!(lookup["made_by"], report["policy"], "{report}");
    let differs = lookup["nearest"]["differs"].as_array().unwrap();
    assert_eq!(differs.len(), 1, "{report}");
    assert!(differs[0]["name"].as_str().unwrap().contains("x-tenant"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_passed_on_or_no_question_says_so() {
    let origin = Origin::start().await;
    let node = Node::builder().origin(&origin.url()).route("hosts = [\"shop.test\"]").start().await;
    let post = why(&node, json!({"url": url("/a"), "method": "POST"})).await;
    assert_eq!((&post["plan"], &post["reason"], &post["lookups"]), (&json!("pass"), &json!("method"), &json!([])));
    assert_eq!(post["rule"]["section"], "RFC 9111, section 4", "{post}");
    let strange = why(&node, json!({"url": "http://strange.test/"})).await;
    assert_eq!((&strange["plan"], &strange["route"]), (&json!("none"), &Value::Null), "{strange}");
    for wrong in [json!({}), json!({"url": "/a"}), json!({"url": url("/a"), "headers": [["a b", "c"]]})] {
        let refused = asked(&node, &wrong).await;
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.text());
    }
    assert_eq!(origin.total(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_it_in_words() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "x"));
    let node = front(&origin).await;
    node.hit_after_fetch("/a?x=1").await;
    let admin = node.admin.to_string();
    let output = run(&["why", "--admin", &admin, &url("/a?x=2"), "-H", "accept: */*"], LIMIT).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("differs query-all: \"x=2\" here, \"x=1\" there"), "{said}");
    let output = run(&["why", "--admin", &admin, "--json", &url("/a?x=1")], LIMIT).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["lookups"][0]["outcome"], "hit", "{report}");
    for wrong in [&["/a"][..], &["-H", "no colon", &url("/a")], &["--body", "/none", &url("/a")]] {
        let arguments = [&["why", "--admin", &admin][..], wrong].concat();
        assert!(!run(&arguments, LIMIT).await.status.success(), "{wrong:?}");
    }
}

/// What is done with a request, as the report says it and as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// It is served from the cache.
    Served,
    /// It is fetched, and what comes may be stored.
    Fetched,
    /// It is put together from parts, some of which are fetched.
    Parts,
    /// It is passed on.
    Passed,
    /// The node responds itself, and asks nobody.
    Own,
}

fn said(report: &Value) -> Done {
    let lookup = &report["lookups"][0];
    let is_look_up = report["plan"] == "look-up";
    let word = if is_look_up { &lookup["next"] } else { &report["plan"] };
    match word.as_str().unwrap() {
        "serve" | "serve-and-refresh" => Done::Served,
        "collapse" | "fetch-alone" => Done::Fetched,
        "slices" => Done::Parts,
        "bypass" | "pass" => Done::Passed,
        "refuse" | "own" | "none" => Done::Own,
        other => panic!("unknown word {other}: {report}"),
    }
}

/// Returns what was done: whether the origin was asked, and how the response says that it was forwarded.
fn seen(response: &Response, was_asked: bool, was_said: Done) -> Done {
    let cache = response.cache();
    match (was_asked, cache.get("fwd")) {
        (false, _) if response.is_hit() => Done::Served,
        (false, _) => Done::Own,
        (true, _) if was_said == Done::Parts && response.status == 206 && cache.get("fwd") != "bypass" => Done::Parts,
        (true, "bypass" | "method") => Done::Passed,
        // Whether the response may be stored `fwd` doesn't say, where the client's directives are the reason.
        (true, "request") => was_said,
        (true, "uri-miss" | "vary-miss" | "stale") => Done::Fetched,
        (true, other) => panic!("forwarded as {other}: {cache:?}"),
    }
}

/// Parts of 4 KiB.
fn part(seen: &Seen) -> Reply {
    const LENGTH: usize = 3 * 4096;
    let range = seen.header("range").strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let range = range.and_then(|(first, last)| Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?)));
    let Some((first, last)) = range else { return Reply::fresh(600, "x".repeat(LENGTH)).header("etag", "\"1\"") };
    let last = last.min(LENGTH - 1);
    let range = format!("bytes {first}-{last}/{LENGTH}");
    let reply = Reply::says(206, "x".repeat(last + 1 - first)).header("content-range", &range);
    reply.header("etag", "\"1\"").header("cache-control", "max-age=600")
}

/// The method, the target, the header fields and the body of a request.
type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

const ROWS: &[Row] = &[
    // What is stored, and what isn't.
    ("GET", "/a", &[], ""),
    ("GET", "/b", &[], ""),
    ("HEAD", "/a", &[], ""),
    ("GET", "/a?x", &[], ""),
    ("GET", "/%61", &[], ""),
    ("GET", "/a", &[("cache-control", "no-cache")], ""),
    ("GET", "/a", &[("cache-control", "no-store")], ""),
    ("GET", "/c", &[("cache-control", "only-if-cached")], ""),
    ("GET", "/a", &[("authorization", "Basic YTpi")], ""),
    ("GET", "/d", &[("range", "bytes=0-1")], ""),
    ("GET", "/stale", &[], ""),
    ("GET", "/stale", &[("cache-control", "max-stale=600")], ""),
    ("GET", "/stale", &[("cache-control", "only-if-cached")], ""),
    ("POST", "/a2", &[], "x"),
    // Variants.
    ("GET", "/vary", &[("accept-language", "de")], ""),
    ("GET", "/vary", &[("accept-language", "fr")], ""),
    // Queries that mean the same (`No-Vary-Search`), and one that doesn't.
    ("GET", "/search?q=1&utm=2", &[], ""),
    ("GET", "/search?q=2", &[], ""),
    ("GET", "/search?utm=3&q=1", &[("cache-control", "only-if-cached")], ""),
    // Parts: all of them, some, none, and what isn't put together here.
    ("GET", "/parts", &[("range", "bytes=10-4105")], ""),
    ("GET", "/parts", &[("range", "bytes=10-4105"), ("cache-control", "only-if-cached")], ""),
    ("GET", "/parts", &[("range", "bytes=10-9000"), ("cache-control", "only-if-cached")], ""),
    ("GET", "/parts", &[("range", "bytes=10-9000")], ""),
    ("GET", "/parts/2", &[("range", "bytes=1-2")], ""),
    ("GET", "/parts/3", &[("range", "bytes=0-1,5-6")], ""),
    ("GET", "/parts/4", &[("range", "bytes=0-1"), ("if-none-match", "\"2\"")], ""),
    ("GET", "/parts/5", &[("range", "bytes=0-1"), ("cache-control", "no-cache")], ""),
    // Rewrites: paths that can be written, and that can't.
    ("GET", "/api/x", &[], ""),
    ("GET", "/api/x%2f..%2fy", &[], ""),
    ("GET", "/api/x%2f..%2fy", &[("cache-control", "no-store")], ""),
    ("GET", "/old/x?y", &[], ""),
    ("GET", "/old/x%2f..%2fy", &[], ""),
    // Bodies larger than a route takes.
    ("POST", "/small", &[], "12345"),
    ("POST", "/small", &[], "1234"),
    ("GET", "/a", &[("connection", "upgrade"), ("upgrade", "websocket")], ""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_is_what_is_done() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    origin.on("/stale", |_| Reply::ok("x").header("cache-control", "max-age=0").header("etag", "\"1\""));
    origin.on("/vary", |_| Reply::fresh(600, "v").header("vary", "accept-language"));
    origin.on("/search", |seen| {
        Reply::fresh(600, seen.target.clone()).header("no-vary-search", "key-order, params=(\"utm\")")
    });
    for path in ["/parts", "/parts/2", "/parts/3", "/parts/4", "/parts/5"] {
        origin.on(path, part);
    }
    let mut builder = Node::builder().origin(&origin.url()).set("cache", "part_bytes = \"4KiB\"");
    for route in [
        "name = \"parts\"\npath = \"/parts\"\npool = \"web\"\nrange_miss = \"parts\"",
        "name = \"api\"\npath = \"/api\"\npool = \"web\"\nrewrite = { strip_prefix = \"/api\" }",
        "name = \"old\"\npath = \"/old\"\nrewrite = { strip_prefix = \"/old\" }\n\
         redirect = { status = 301, to = \"https://{host}/new{path}{query}\" }",
        "name = \"small\"\npath = \"/small\"\npool = \"web\"\nbody_bytes_max = 4",
    ] {
        builder = builder.route_before(route);
    }
    let node = builder.start().await;
    node.hit_after_fetch("/a").await;
    node.hit_after_fetch("/search?q=1").await;
    node.fetch("/stale").await;
    node.stale("/stale").await;
    let german = || node.get("/vary").header("accept-language", "de").send();
    german().await;
    eventually("a variant", async || german().await.is_hit()).await;
    for range in ["bytes=0-1", "bytes=4096-4097"] {
        let part = || node.get("/parts").header("range", range).send();
        eventually("a part", async || part().await.is_hit()).await;
    }
    for (method, target, headers, body) in ROWS {
        let fields: Vec<[&str; 2]> = headers.iter().map(|(name, value)| [*name, *value]).collect();
        let what = json!({"url": url(target), "method": method, "headers": fields, "body": body});
        let report = why(&node, what.clone()).await;
        let total = origin.total();
        let ask = node.ask(method.parse().unwrap(), target).body(*body);
        let ask = headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value));
        let response = ask.send().await;
        let said = said(&report);
        assert_eq!(seen(&response, origin.total() > total, said), said, "{what}: {report}\n{:?}", response.headers);
    }
}

impl Node {
    /// Fetches it, and waits until it is stored.
    async fn hit_after_fetch(&self, target: &str) {
        self.fetch(target).await;
        self.hit(target).await;
    }
}
