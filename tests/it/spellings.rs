//! One resource in many spellings: none escapes its route, all are purged together, and what can't be purged isn't
//! stored.

use serde_json::{Value, json};

use crate::harness::{
    client::Response,
    found,
    node::Node,
    origin::{Origin, Reply},
};

/// Ways to write `/account` that some origin takes for it, or for something below it.
const ACCOUNT: [&str; 44] = [
    "/account",
    "/account/",
    "/account?x",
    "//account",
    "//account?x",
    "///account",
    "/./account",
    "/././account",
    "/x/../account",
    "/x/y/../../account",
    "/x/%2e%2e/account",
    "/x/%2E%2e/account",
    "/x/.%2e/account",
    "/%2e/account",
    "/x//../account",
    "/%61ccount",
    "/%61%63%63ount",
    "/accoun%74",
    "/account/.",
    "/account/x/..",
    "/account//",
    "/account;x",
    "/account;jsessionid=1",
    "/account;x/",
    "/;/account",
    "/;x/account",
    "/x/..;/account",
    "/x/..;a=b/account",
    "/x/..%3B/account",
    "/account%3Bx",
    "/%2Faccount",
    "/%2faccount",
    "/account%2F",
    "/account%2fx",
    "/x%2F..%2Faccount",
    "/x/..%2faccount",
    "/x/..%2Faccount",
    "/x/%2e%2e%2faccount",
    "/x/..%5caccount",
    "/account%5Cx",
    "/x\\..\\account",
    "/\\account",
    "/../account",
    "/x/../../account",
];

/// Those of them that are no path at all.
const ABOVE_ROOT: [&str; 2] = ["/../account", "/x/../../account"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_a_private_path_is_shared() {
    let origin = Origin::start().await;
    origin.on("*", |seen| {
        let is_account = lax(&seen.target).iter().any(|path| path.starts_with("/account"));
        Reply::ok(if is_account { format!("account of {}", seen.header("cookie")) } else { "public".to_owned() })
    });
    for sent in ["normalized", "as-received"] {
        let forward = format!("forward_path = \"{sent}\"");
        let private = format!("name = \"private\"\npath = \"/account\"\npool = \"web\"\n{forward}");
        let rest = format!("ttl_ms = 60000\n{forward}");
        let node = Node::builder().origin(&origin.url()).route_before(&private).route(&rest).start().await;
        let get = async |target: &str, who: &str| node.get(target).header("cookie", who).send().await;
        for target in ACCOUNT {
            get(target, "ann").await;
        }
        // What comes later has been stored, so what came before has been as well, if it ever is.
        for target in ["/public", "/x%2Fy", "/x;y", "/x//y"] {
            node.fetch(target).await;
            assert_eq!(node.hit(target).await.text(), "public", "{target} is shared as ever");
        }
        for target in ACCOUNT {
            let response = get(target, "bob").await;
            let wanted = if ABOVE_ROOT.contains(&target) { 400 } else { 200 };
            assert_eq!(response.status, wanted, "{sent}: {target}: {}", response.text());
            assert!(wanted == 400 || response.text() == "account of bob", "{sent}: {target}: {}", response.text());
        }
        let ambiguous = get("/x/..;/account", "bob").await;
        assert_eq!((ambiguous.cache().get("fwd"), ambiguous.cache().get("detail")), ("bypass", "ambiguous-path"));
    }
}

/// The paths that origins which decode everything may take a target for: parameters dropped before or afterwards.
fn lax(target: &str) -> [String; 2] {
    let path = target.split('?').next().unwrap();
    [resolved(&decoded(&without_parameters(path))), resolved(&without_parameters(&decoded(path)))]
}

fn without_parameters(path: &str) -> String {
    path.split('/').map(|segment| segment.split(';').next().unwrap()).collect::<Vec<_>>().join("/")
}

fn decoded(path: &str) -> String {
    let mut pieces = path.split('%');
    let mut whole = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let (digits, rest) = piece.split_at(2);
        whole.push(char::from(u8::from_str_radix(digits, 16).unwrap()));
        whole.push_str(rest);
    }
    whole.replace('\\', "/")
}

fn resolved(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    format!("/{}", segments.join("/"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_sees_what_was_matched_or_what_came() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    let node = Node::builder().origin(&origin.url()).route("forward_path = \"normalized\"").start().await;
    assert_eq!(node.fetch("//a/./%62?q=%7e//..").await.text(), "/a/b?q=%7e//..", "a query stays as it is");
    node.hit("/a/b?q=%7e//..").await;

    let node = Node::builder().origin(&origin.url()).start().await;
    for target in ["/a/b", "/a//b", "/a/%62"] {
        assert_eq!(node.fetch(target).await.text(), target);
        assert_eq!(node.hit(target).await.text(), target, "each spelling is stored by itself");
    }
    let unresolved = node.fetch("/x/../a/b").await;
    assert_eq!((unresolved.text(), unresolved.cache().get("fwd")), ("/x/../a/b", "bypass"));
    node.purge(&json!({"url": "http://shop.test/a/./b"})).await;
    for target in ["/a/b", "/a//b", "/a/%62"] {
        assert!(node.cached(target).await.is_none(), "{target} is purged with the others");
    }
}

/// Stores what a host says to a target, and waits until it's there.
async fn store(node: &Node, host: &str, target: &str) {
    node.get(target).host(host).send().await;
    found("a hit", async || cached(node, host, target).await.filter(Response::is_hit)).await;
}

async fn cached(node: &Node, host: &str, target: &str) -> Option<Response> {
    let response = node.get(target).host(host).header("cache-control", "only-if-cached").send().await;
    (response.status != 504).then_some(response)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_is_purged_by_any_of_its_spellings() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    let node = Node::builder().origin(&origin.url()).route("forward_path = \"normalized\"").start().await;
    let asked = [
        ("shop.example", "/caf%C3%A9/~x?q=a|b~&j={1}"),
        ("Shop.Example:80", "/caf%c3%a9/%7Ex?q=a%7cb%7e&j=%7b1}"),
        ("shop.example.", "//café/./~x?q=a%7Cb~&j={1%7D"),
        ("SHOP.example.:80", "/z/%2e%2E/caf%C3%a9//%7ex?q=a|b~&j={1}"),
    ];
    let purged = [
        "http://shop.example/caf%C3%A9/~x?q=a|b~&j={1}",
        "HTTP://SHOP.EXAMPLE:80/café/~x?q=a|b~&j={1}#top",
        "http://shop.example./caf%c3%a9/%7ex?q=a%7cb%7E&j=%7b1%7d",
        "http://shop.example:0080//café/./x/../~x?q=a%7Cb~&j={1}",
        "http://shop.example:/caf%C3%A9//%7Ex?%71=%61|b~&j={1}#",
        "Http://shop%2eexample/%63af%C3%A9/~x?q=a|b~&j=%7B1}",
    ];
    for (host, target) in asked {
        for url in purged {
            store(&node, host, target).await;
            node.purge(&json!({"url": url})).await;
            assert!(cached(&node, host, target).await.is_none(), "{host} {target} by {url}");
        }
    }
    for (host, target, url) in [
        ("[::1]:9", "/v6", "http://[::1]:9/v6"),
        ("[::1]:9", "/v6", "http://[0:0:0:0:0:0:0:1]:9/v6"),
        ("[0:0::1]", "/v6", "http://[::1]:80/v6"),
        ("xn--bcher-kva.example", "/b%C3%BC", "http://bücher.example/bü"),
        ("xn--bcher-kva.example:81", "/", "http://BÜCHER.example:81"),
        ("a.example:8080", "/", "http://a.example:8080"),
        ("a.example", "/?", "http://a.example?"),
        ("a.example", "/a%20b", "http://a.example/a b"),
        ("a.example", "/a%2fb", "http://a.example/a%2Fb"),
        ("a.example", "/%zz%", "http://a.example/%zz%"),
        ("a.example", "/q?b=2&a=1", "http://a.example/q?b=2&a=1"),
        ("a.example", "/q?a[]=1", "http://a.example/q?a%5B%5D=1"),
    ] {
        store(&node, host, target).await;
        node.purge(&json!({"url": url})).await;
        assert!(cached(&node, host, target).await.is_none(), "{host} {target} by {url}");
    }
    for (target, url) in [("/a%2Fb", "/a/b"), ("/q?b=2&a=1", "/q?a=1&b=2"), ("/p?", "/p"), ("/a+b", "/a%20b")] {
        store(&node, "a.example", target).await;
        node.purge(&json!({"url": format!("http://a.example{url}")})).await;
        assert!(cached(&node, "a.example", target).await.is_some(), "{target} is another resource than {url}");
    }
}

async fn refusal(node: &Node, what: &Value) -> String {
    let response = node.try_purge(what).await;
    assert_eq!(response.status, 400, "{what}: {}", response.text());
    response.json()["detail"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_that_can_have_no_effect_is_refused() {
    let origin = Origin::start().await;
    let node = Node::builder().origin(&origin.url()).start().await;
    for (url, reason) in [
        ("/a", "it isn't absolute"),
        ("shop.example/a", "it isn't absolute"),
        ("//shop.example/a", "it isn't absolute"),
        ("ftp://shop.example/a", "its scheme is neither"),
        ("http://me@shop.example/a", "it has a user name"),
        ("http://*.shop.example/", "no host that a request could name"),
        ("http://shop.example:99999/", "no host that a request could name"),
        ("http:///a", "no host that a request could name"),
        ("http://shop.example/../a", "leads above the root"),
        ("http://shop.example/a\n", "white space"),
    ] {
        let said = refusal(&node, &json!({"url": url})).await;
        assert!(said.contains(reason) && said.contains("allowed is http:// or https://"), "{url}: {said}");
    }
    for tag in ["", " a", "a ", "a\nb", &"x".repeat(1025)] {
        let said = refusal(&node, &json!({"tag": tag})).await;
        assert!(said.contains("1 to 1024 bytes"), "{tag:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tag_of_what_is_stored_purges_it() {
    let origin = Origin::start().await;
    let tags: Vec<String> = (0..1024).map(|n| format!("node:{n}")).collect();
    let (listed, more) = (tags.join(","), format!("{},more", tags.join(",")));
    origin.on("/many", move |_| Reply::fresh(600, "many").header("cache-tag", &listed));
    origin.on("/more", move |_| Reply::fresh(600, "more").header("cache-tag", &more));
    origin.on("/long", |_| Reply::fresh(600, "long").header("surrogate-key", &"x".repeat(1025)));
    origin.on("/longest", |_| Reply::fresh(600, "longest").header("surrogate-key", &"x".repeat(1024)));
    let node = Node::builder().origin(&origin.url()).start().await;
    for tag in ["node:0", "node:128", "node:250", "node:1023"] {
        node.fetch("/many").await;
        node.hit("/many").await;
        node.purge(&json!({"tag": tag})).await;
        assert!(node.cached("/many").await.is_none(), "{tag}");
    }
    node.fetch("/longest").await;
    node.hit("/longest").await;
    node.purge(&json!({"tag": "x".repeat(1024)})).await;
    assert!(node.cached("/longest").await.is_none());
    for (target, detail) in [("/more", "too-many-tags"), ("/long", "bad-tag")] {
        let response = node.fetch(target).await;
        assert_eq!(
            (response.status, response.cache().has("stored"), response.cache().get("detail")),
            (200, false, detail)
        );
    }
    assert_eq!(node.metric("holm_cache_tags_refused_total", "").await, 2.0);

    let few = Node::builder().origin(&origin.url()).set("cache", "object_tags_max = 1023").start().await;
    assert_eq!(few.fetch("/many").await.cache().get("detail"), "too-many-tags");
}
