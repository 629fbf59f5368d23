//! HTTP's caching rules (RFC 9111), as a client sees them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use crate::harness::{
    eventually, found,
    node::Node,
    origin::{Gate, Origin, Reply, Taps},
    sealed,
};

async fn front(origin: &Origin) -> Node {
    Node::builder().origin(&origin.url()).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_is_followed_by_hits_from_memory() {
    let origin = Origin::start().await;
    origin.on("/a", |_| Reply::fresh(60, sealed("a", 2000)).header("x-own", "kept").header("etag", "\"1\""));
    let node = front(&origin).await;

    let miss = node.fetch("/a").await;
    let cache = miss.cache();
    assert_eq!((miss.status, cache.node.as_str(), cache.has("hit")), (200, "n1", false));
    assert_eq!(
        (cache.get("fwd"), cache.get("fwd-status"), cache.has("stored")),
        ("uri-miss", "200", true),
        "{cache:?}"
    );

    node.hit("/a").await;
    let hit = node.fetch("/a").await;
    let cache = hit.cache();
    assert_eq!((hit.status, cache.has("hit"), cache.get("detail")), (200, true, "memory"), "{cache:?}");
    assert!((30..=60).contains(&cache.ttl()), "{cache:?}");
    assert!(hit.header("age").parse::<u64>().is_ok_and(|age| age < 30), "{:?}", hit.headers);
    assert_eq!((hit.header("x-own"), hit.header("etag"), hit.header("content-length")), ("kept", "\"1\"", "2000"));
    assert_eq!((&miss.body, &hit.body), (&sealed("a", 2000), &sealed("a", 2000)));
    assert_eq!(origin.hits("/a"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_origins_read_as_another_poisons_no_variant() {
    let origin = Origin::start().await;
    // As CGI hands fields on.
    origin.on("*", |seen| {
        let is_read = |name: &str| name.replace('_', "-") == "x-foo";
        let read = seen.headers.iter().find(|(name, _)| is_read(name.as_str()));
        let value = read.map_or("none", |(_, value)| value.to_str().unwrap()).to_owned();
        Reply::fresh(600, value).header("vary", "X-Foo")
    });
    let node = front(&origin).await;
    for path in ["/a", "/b"] {
        assert_eq!(node.get(path).header("x_foo", "evil").send().await.text(), "none");
        assert_eq!(node.fetch(path).await.text(), "none");
        assert_eq!(node.get(path).header("x-foo", "own").send().await.text(), "own");
    }
    let passing = Node::builder().origin(&origin.url()).route("underscores_in_headers = true").start().await;
    assert_eq!(passing.get("/a").header("x_foo", "known").send().await.text(), "known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_shared_is_not() {
    const RESPONSES: [(&str, &[(&str, &str)]); 6] = [
        ("/no-store", &[("cache-control", "no-store, max-age=60")]),
        ("/private", &[("cache-control", "private, max-age=60")]),
        ("/cookie", &[("cache-control", "max-age=60"), ("set-cookie", "id=1")]),
        ("/shared-max-age", &[("cache-control", "max-age=60, s-maxage=0")]),
        ("/vary-any", &[("cache-control", "max-age=60"), ("vary", "*")]),
        ("/silent", &[]),
    ];
    let origin = Origin::start().await;
    for (path, fields) in RESPONSES {
        origin
            .on(path, move |_| fields.iter().fold(Reply::ok("mine"), |reply, (name, value)| reply.header(name, value)));
    }
    let node = front(&origin).await;
    for (path, _) in RESPONSES {
        for asked in 1..=3 {
            let response = node.fetch(path).await;
            assert_eq!((response.status, response.is_hit(), response.text()), (200, false, "mine"), "{path}");
            assert_eq!(origin.hits(path), asked, "{path}");
        }
        assert!(node.cached(path).await.is_none(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authorized_response_is_shared_only_if_it_says_so() {
    let origin = Origin::start().await;
    origin.on("/mine", |seen| Reply::fresh(60, seen.header("authorization").to_owned()));
    origin.on("/all", |_| Reply::ok("all").header("cache-control", "public, max-age=60"));
    let node = front(&origin).await;
    for user in ["Bearer a", "Bearer b", "Bearer a"] {
        let response = node.get("/mine").header("authorization", user).send().await;
        assert_eq!((response.text(), response.is_hit()), (user, false));
    }
    // A response to a request without credentials isn't shared with one that has some either.
    assert_eq!(node.fetch("/mine").await.text(), "");
    node.hit("/mine").await;
    assert_eq!(node.get("/mine").header("authorization", "Bearer a").send().await.text(), "Bearer a");

    node.get("/all").header("authorization", "Bearer a").send().await;
    node.hit("/all").await;
    assert!(node.get("/all").header("authorization", "Bearer b").send().await.is_hit());
    assert_eq!(origin.hits("/all"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_state_a_lifetime_is_understood() {
    let origin = Origin::start().await;
    let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600));
    origin.on("/expires", move |_| Reply::ok("e").header("expires", &later));
    origin.on("/s-maxage", |_| Reply::ok("s").header("cache-control", "max-age=0, s-maxage=60"));
    origin.on("/public-cookie", |_| {
        Reply::ok("c").header("cache-control", "public, max-age=60").header("set-cookie", "a=b")
    });
    origin.on("/missing", |_| Reply::status(404).header("cache-control", "max-age=60"));
    let node = front(&origin).await;
    for path in ["/expires", "/s-maxage", "/public-cookie", "/missing"] {
        let first = node.fetch(path).await;
        let hit = node.hit(path).await;
        assert_eq!((hit.status, &hit.body), (first.status, &first.body), "{path}");
        assert!(node.fetch(path).await.is_hit(), "{path}");
        assert_eq!(origin.hits(path), 1, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_may_give_lifetimes_to_responses_that_state_none() {
    let origin = Origin::start().await;
    origin.on("/plain", |_| Reply::ok("p"));
    origin.on("/error", |_| Reply::status(500));
    let node = Node::builder().origin(&origin.url()).route("ttl_ms = 60000").start().await;
    node.fetch("/plain").await;
    assert!((30..=60).contains(&node.hit("/plain").await.cache().ttl()));
    for asked in 1..=2 {
        assert_eq!(node.fetch("/error").await.status, 500);
        assert_eq!(origin.hits("/error"), asked, "an error isn't stored unless it says so");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn age_at_the_origin_counts() {
    let origin = Origin::start().await;
    origin.on("/old", |_| Reply::fresh(60, "o").header("age", "40"));
    let node = front(&origin).await;
    node.fetch("/old").await;
    let hit = node.hit("/old").await;
    assert!(hit.header("age").parse::<u64>().is_ok_and(|age| (40..60).contains(&age)), "{:?}", hit.headers);
    assert!(hit.cache().ttl() <= 20, "{:?}", hit.cache());
}

/// More digits than any number has.
const MANY: &str = "99999999999999999999999";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ages_and_lifetimes_of_any_length_are_counted() {
    let origin = Origin::start().await;
    origin.on("/lasting", |_| {
        let control = format!("max-age={MANY}, stale-while-revalidate={MANY}, stale-if-error={MANY}");
        Reply::ok("l").header("cache-control", &control)
    });
    origin.on("/ancient", |_| Reply::fresh(60, "a").header("age", MANY));
    let node = front(&origin).await;
    node.fetch("/lasting").await;
    let hit = node.hit("/lasting").await;
    assert!(hit.cache().ttl() > (1 << 31) - 60, "{:?}", hit.cache());
    for asked in 1..=3 {
        assert!(!node.fetch("/ancient").await.is_hit(), "older than it may be");
        assert_eq!(origin.hits("/ancient"), asked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_a_response_is_passed_on() {
    let origin = Origin::start().await;
    origin.on("/kept", |_| Reply::fresh(6000, "k").header("age", "500"));
    origin.on("/own", |_| Reply::ok("o").header("cache-control", "private, max-age=6000").header("age", "500"));
    let node = front(&origin).await;
    for path in ["/kept", "/own"] {
        let miss = node.fetch(path).await;
        assert!(!miss.is_hit());
        assert!(miss.header("age").parse::<u64>().is_ok_and(|age| age >= 500), "{path}: {:?}", miss.headers);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variants_live_side_by_side() {
    let origin = Origin::start().await;
    origin.on("/v", |seen| {
        Reply::fresh(60, format!("in {}", seen.header("accept-language"))).header("vary", "Accept-Language")
    });
    let node = front(&origin).await;
    let ask = |language: &str| node.get("/v").header("accept-language", language).send();

    assert_eq!(ask("en").await.cache().get("fwd"), "uri-miss");
    eventually("the first variant", async || ask("en").await.is_hit()).await;
    let other = ask("de").await;
    assert_eq!((other.cache().get("fwd"), other.text()), ("vary-miss", "in de"));
    eventually("the second variant", async || ask("de").await.is_hit()).await;
    for language in ["en", "de", "en"] {
        let response = ask(language).await;
        assert_eq!((response.is_hit(), response.text()), (true, format!("in {language}").as_str()));
    }
    assert_eq!(origin.hits("/v"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holm_itself_tells_the_origin_selects_variants_too() {
    let origin = Origin::start().await;
    origin.on("/by-address", |_| Reply::fresh(60, "a").header("vary", "X-Forwarded-For"));
    origin.on("/by-scheme", |seen| {
        Reply::fresh(60, seen.header("x-forwarded-proto").to_owned()).header("vary", "X-Forwarded-Proto")
    });
    let node = front(&origin).await;
    for asked in 1..=2 {
        assert!(!node.fetch("/by-address").await.is_hit());
        assert_eq!(origin.hits("/by-address"), asked, "a response to one address is nobody else's");
    }
    assert!(node.cached("/by-address").await.is_none());

    assert_eq!(node.fetch("/by-scheme").await.text(), "http");
    assert_eq!(node.hit("/by-scheme").await.text(), "http");
    // What the client claims never reaches the origin, so it selects nothing.
    assert!(node.get("/by-scheme").header("x-forwarded-proto", "https").send().await.is_hit());
    assert_eq!(origin.hits("/by-scheme"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_and_query_are_part_of_the_key_and_the_hosts_case_is_not() {
    let origin = Origin::start().await;
    origin.on("/q", |seen| Reply::fresh(60, format!("{} {}", seen.header("host"), seen.target)));
    let node = front(&origin).await;
    node.fetch("/q?a=1").await;
    node.hit("/q?a=1").await;
    assert!(node.get("/q?a=1").host("SHOP.test").send().await.is_hit());
    assert!(!node.fetch("/q?a=2").await.is_hit());
    assert!(!node.fetch("/q").await.is_hit());
    assert!(!node.get("/q?a=1").host("other.test").send().await.is_hit());
    assert_eq!(origin.total(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_response_is_fetched_again() {
    let origin = Origin::start().await;
    origin.on("/brief", |_| Reply::fresh(1, "b"));
    let node = front(&origin).await;
    assert_eq!(node.fetch("/brief").await.text(), "b");
    eventually("expiry", async || node.fetch("/brief").await.text() == "b" && origin.hits("/brief") >= 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_304_of_the_origin_renews_what_is_stored() {
    let origin = Origin::start().await;
    origin.on("/r", |seen| match seen.header("if-none-match") {
        "\"v1\"" => Reply::status(304).header("cache-control", "max-age=600").header("etag", "\"v1\""),
        _ => Reply::fresh(1, sealed("r", 3000)).header("etag", "\"v1\""),
    });
    let node = front(&origin).await;
    node.fetch("/r").await;
    let renewed = found("a renewal", async || {
        Some(node.fetch("/r").await).filter(|response| response.cache().get("fwd") == "stale")
    })
    .await;
    assert_eq!((renewed.status, &renewed.body), (200, &sealed("r", 3000)));
    assert_eq!(renewed.cache().get("fwd-status"), "304");
    assert_eq!(origin.seen("/r")[1].header("if-none-match"), "\"v1\"");
    let hit = node.hit("/r").await;
    assert!(hit.cache().ttl() > 60, "the lifetime of the 304 counts: {:?}", hit.cache());
    assert_eq!(hit.body, sealed("r", 3000));
    assert_eq!(origin.hits("/r"), 2);
}

/// An origin without tags that went back to an older version: all that it can say to `If-Modified-Since` is that it has
/// nothing newer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_304_about_an_older_version_renews_nothing() {
    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const WITHDRAWN: &str = "Mon, 07 Nov 1994 08:49:37 GMT";
    for control in ["max-age=1", "no-cache"] {
        let (origin, is_back) = (Origin::start().await, Arc::new(AtomicBool::new(false)));
        let went_back = Arc::clone(&is_back);
        origin.on("/page", move |seen| {
            let is_back = went_back.load(SeqCst);
            let (text, modified) = if is_back { ("old", OLD) } else { ("withdrawn", WITHDRAWN) };
            let reply = match seen.header("if-modified-since") {
                "" => Reply::ok(text),
                _ => Reply::status(304),
            };
            let control = if is_back { "max-age=600" } else { control };
            reply.header("cache-control", control).header("last-modified", modified)
        });
        let node = front(&origin).await;
        assert_eq!(node.fetch("/page").await.text(), "withdrawn", "{control}");
        eventually("a renewal", async || node.fetch("/page").await.cache().get("fwd-status") == "304").await;
        is_back.store(true, SeqCst);
        let asked = origin.hits("/page");
        let response = node.get("/page").header("cache-control", "no-cache").send().await;
        assert_eq!((response.status, response.text()), (200, "old"), "{control}: {:?}", response.cache());
        let seen = origin.seen("/page");
        let conditions: Vec<_> = seen[asked..].iter().map(|seen| seen.header("if-modified-since")).collect();
        assert_eq!(conditions, [WITHDRAWN, ""], "{control}: once more, without a condition");
        eventually("the old one being stored", async || {
            let response = node.fetch("/page").await;
            response.is_hit() && response.text() == "old"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_turns_private_is_not_shared() {
    let (origin, asked) = (Origin::start().await, AtomicUsize::new(0));
    origin.on("/r", move |seen| match (asked.fetch_add(1, SeqCst), seen.header("if-none-match")) {
        (0, _) => Reply::fresh(1, "for all").header("etag", "\"v1\""),
        (_, "\"v1\"") => Reply::status(304).header("cache-control", "private").header("etag", "\"v1\""),
        (number, _) => Reply::ok(format!("own {number}")).header("cache-control", "private"),
    });
    let node = front(&origin).await;
    assert_eq!(node.fetch("/r").await.text(), "for all");
    let changed =
        found("the change", async || Some(node.fetch("/r").await).filter(|response| response.text() != "for all"))
            .await;
    assert_eq!((changed.text(), changed.is_hit()), ("own 2", false), "after the 304 it is fetched as a whole");
    assert_eq!(origin.seen("/r")[1].header("if-none-match"), "\"v1\"");
    assert!(node.cached("/r").await.is_none());
    for text in ["own 3", "own 4"] {
        let response = node.fetch("/r").await;
        assert_eq!((response.text(), response.is_hit()), (text, false));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_response_replaces_the_old_one() {
    let origin = Origin::start().await;
    origin.on("/c", |seen| match seen.header("if-none-match") {
        "" => Reply::fresh(1, "old").header("etag", "\"v1\""),
        _ => Reply::fresh(600, "new").header("etag", "\"v2\""),
    });
    let node = front(&origin).await;
    assert_eq!(node.fetch("/c").await.text(), "old");
    eventually("the change", async || node.fetch("/c").await.text() == "new").await;
    assert_eq!(node.hit("/c").await.text(), "new");
    assert_eq!(origin.hits("/c"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_it_gets_304() {
    let origin = Origin::start().await;
    let then = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(3600));
    let modified = then.clone();
    origin.on("/e", move |_| Reply::fresh(60, "e").header("etag", "\"v1\"").header("last-modified", &modified));
    let node = front(&origin).await;

    let first = node.get("/e").header("if-none-match", "\"v1\"").send().await;
    assert_eq!((first.status, first.text()), (304, ""), "even when it had to be fetched");
    assert_eq!(origin.seen("/e")[0].header("if-none-match"), "", "what is to be stored is fetched as a whole");
    node.hit("/e").await;
    for (name, value, status) in [
        ("if-none-match", "\"v1\"", 304),
        ("if-none-match", "\"v0\", W/\"v1\"", 304),
        ("if-none-match", "\"v2\"", 200),
        ("if-modified-since", then.as_str(), 304),
    ] {
        let response = node.get("/e").header(name, value).send().await;
        assert_eq!(response.status, status, "{name}: {value}");
        assert_eq!((response.text(), response.header("etag")), (if status == 304 { "" } else { "e" }, "\"v1\""));
    }
    assert_eq!(origin.hits("/e"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_its_own_private_response_gets_304() {
    let origin = Origin::start().await;
    origin.on("/p", |seen| {
        let reply = if seen.header("if-none-match") == "\"v1\"" { Reply::status(304) } else { Reply::ok("p") };
        reply.header("cache-control", "private, max-age=60").header("etag", "\"v1\"")
    });
    let node = front(&origin).await;
    for asked in 1..=3 {
        let response = node.get("/p").header("if-none-match", "\"v1\"").send().await;
        assert_eq!(
            (response.status, response.text(), response.header("etag")),
            (304, "", "\"v1\""),
            "asked {asked} times"
        );
        assert_eq!((response.is_hit(), origin.hits("/p")), (false, asked));
    }
    let other = node.get("/p").header("if-none-match", "\"v0\"").send().await;
    assert_eq!((other.status, other.text()), (200, "p"));
    assert!(node.cached("/p").await.is_none());
    assert_eq!(origin.seen("/p")[1].header("if-none-match"), "\"v1\"", "known to be private: the origin decides");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsafe_method_that_succeeds_invalidates() {
    let origin = Origin::start().await;
    origin.on("/u", |seen| match (seen.method.as_str(), &seen.body[..]) {
        ("POST", b"wrong") => Reply::status(500),
        ("POST" | "DELETE", _) => Reply::ok("done"),
        _ => Reply::fresh(60, "u"),
    });
    let node = front(&origin).await;
    node.fetch("/u").await;
    node.hit("/u").await;
    assert_eq!(node.post("/u").body("wrong").send().await.status, 500);
    assert!(node.fetch("/u").await.is_hit(), "a failure changes nothing");

    let posted = node.post("/u").body("right").send().await;
    assert_eq!((posted.text(), posted.cache().get("fwd")), ("done", "method"));
    assert!(!node.fetch("/u").await.is_hit());
    node.hit("/u").await;
    assert_eq!(node.ask(http::Method::DELETE, "/u").send().await.text(), "done");
    assert!(!node.fetch("/u").await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_is_served_from_what_get_stored() {
    let origin = Origin::start().await;
    origin.on("/h", |_| Reply::fresh(60, sealed("h", 1000)));
    let node = front(&origin).await;
    node.fetch("/h").await;
    node.hit("/h").await;
    let head = node.ask(http::Method::HEAD, "/h").send().await;
    assert_eq!((head.status, head.is_hit(), head.header("content-length")), (200, true, "1000"));
    assert!(head.body.is_empty());
    assert_eq!(origin.hits("/h"), 1);

    origin.on("/first", |_| Reply::fresh(60, "whole"));
    assert_eq!(node.ask(http::Method::HEAD, "/first").send().await.status, 200);
    assert_eq!(node.fetch("/first").await.text(), "whole", "HEAD first must not leave an empty body behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_is_served_while_one_refresh_runs_in_the_background() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    let first = AtomicBool::new(true);
    origin.on("/s", move |_| {
        if first.swap(false, SeqCst) {
            Reply::ok("old").header("cache-control", "max-age=1, stale-while-revalidate=600")
        } else {
            Reply::fresh(600, "new").behind(&held)
        }
    });
    let node = front(&origin).await;
    node.fetch("/s").await;
    eventually("the refresh", async || {
        let response = node.fetch("/s").await;
        assert_eq!((response.status, response.text()), (200, "old"), "nobody waits for the refresh");
        origin.hits("/s") == 2
    })
    .await;
    for _ in 0..20 {
        let response = node.fetch("/s").await;
        assert_eq!((response.text(), response.is_hit()), ("old", true), "{:?}", response.cache());
        assert!(response.cache().ttl() <= 0, "{:?}", response.cache());
    }
    gate.open();
    eventually("the new response", async || node.fetch("/s").await.text() == "new").await;
    assert_eq!(origin.hits("/s"), 2, "one refresh for all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_is_served_when_the_origin_fails() {
    let origin = Origin::start().await;
    let first = AtomicBool::new(true);
    origin.on("/s", move |_| {
        if first.swap(false, SeqCst) {
            Reply::ok("old").header("cache-control", "max-age=1, stale-if-error=600")
        } else {
            Reply::status(503)
        }
    });
    let node = front(&origin).await;
    node.fetch("/s").await;
    eventually("a response of the failing origin", async || {
        let response = node.fetch("/s").await;
        assert_eq!((response.status, response.text()), (200, "old"), "{:?}", response.cache());
        origin.hits("/s") >= 2
    })
    .await;
    origin.stop().await;
    let response = node.fetch("/s").await;
    assert_eq!((response.status, response.text()), (200, "old"), "an origin that is gone fails as well");
    assert!(
        response.cache().get("ttl").starts_with('-') || response.cache().get("ttl") == "0",
        "{:?}",
        response.cache()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_directives_are_followed() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(60, "x"));
    let node = front(&origin).await;
    let ask = |path: &str, control: &str| node.get(path).header("cache-control", control).send();

    assert_eq!(ask("/only", "only-if-cached").await.status, 504);
    assert_eq!(origin.hits("/only"), 0);

    for asked in 1..=2 {
        assert!(!ask("/secret", "no-store").await.is_hit());
        assert_eq!(origin.hits("/secret"), asked);
    }
    assert!(node.cached("/secret").await.is_none(), "no-store leaves nothing behind");

    node.fetch("/again").await;
    node.hit("/again").await;
    let forced = ask("/again", "no-cache").await;
    assert_eq!((forced.cache().get("fwd"), origin.hits("/again")), ("request", 2));
    assert!(node.fetch("/again").await.is_hit());
    assert!(ask("/again", "max-age=30").await.is_hit());
    assert!(!ask("/again", "min-fresh=90").await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_object_limit_passes_but_is_not_stored() {
    let origin = Origin::start().await;
    let taps = Taps::default();
    let feed = taps.clone();
    origin.on("/declared", |_| Reply::fresh(60, sealed("d", 3000)));
    origin.on("/streamed", move |_| Reply::fresh(60, "").fed(&feed));
    let node = Node::builder().origin(&origin.url()).set("cache", "object_bytes_max = 2000").start().await;

    for asked in 1..=2 {
        let response = node.fetch("/declared").await;
        assert_eq!((&response.body, response.is_hit()), (&sealed("d", 3000), false));
        assert_eq!(origin.hits("/declared"), asked);
    }
    for asked in 1..=2 {
        let reading = tokio::spawn(node.get("/streamed").send());
        let pipe = taps.next().await;
        for _ in 0..3 {
            pipe.send(Ok(vec![b'x'; 1000].into())).await.unwrap();
        }
        drop(pipe);
        let response = reading.await.unwrap();
        assert_eq!((response.body.len(), response.is_hit()), (3000, false));
        assert_eq!(origin.hits("/streamed"), asked);
    }
    assert!(node.cached("/declared").await.is_none());
    assert!(node.cached("/streamed").await.is_none());
}
