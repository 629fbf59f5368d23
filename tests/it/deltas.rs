//! Deltas from what a client has to what is stored (RFC 9842, Compression Dictionary Transport).

use std::io::Read;

use http::Method;
use sha2::{Digest, Sha256};

use crate::{
    harness::{
        client::{Ask, Conn, Response},
        found,
        node::{Builder, Node},
        origin::{Origin, Reply},
    },
    http_versions::Certificate,
};

const MAIN: &str = "/app/main.js";

/// What browsers accept.
const ALL: &str = "gzip, deflate, br, zstd, dcb, dcz";

/// Both names that a reply with deltas varies by.
const VARY: &str = "accept-encoding, available-dictionary";

/// What a response says of the paths that it is a dictionary for.
const MATCH: &str = "match=\"/app/*.js\"";

/// A bundle that says its version, of about 70 KiB.
fn bundle(version: u32) -> String {
    let functions: String = (0..2_000).map(|n| format!("function f{n}(a){{return a*{}}}\n", n * 7_919)).collect();
    functions.replace("f777(", &format!("f{version}_777(")) + &format!("version={version};\n")
}

fn script(body: impl Into<bytes::Bytes>) -> Reply {
    Reply::fresh(600, body).header("content-type", "text/javascript")
}

/// Returns the name of a dictionary, as clients send it.
fn name(dictionary: &str) -> String {
    let hash = Sha256::digest(dictionary);
    sfv::ItemSerializer::new().bare_item(&hash[..]).finish()
}

/// Returns a body without the coding `dcz`, whose beginning must be as RFC 9842 says (section 5).
fn decoded(body: &[u8], dictionary: &str) -> String {
    let (prefix, frame) = body.split_at(40);
    assert_eq!(prefix[..8], [0x5e, 0x2a, 0x4d, 0x18, 0x20, 0, 0, 0]);
    assert_eq!(prefix[8..], Sha256::digest(dictionary)[..]);
    let mut plain = String::new();
    let decoder = zstd::stream::read::Decoder::with_ref_prefix(frame, dictionary.as_bytes());
    decoder.unwrap().read_to_string(&mut plain).unwrap();
    plain
}

/// Returns a body that may have one of the codings without a dictionary.
fn plain(reply: &Response) -> String {
    match reply.header("content-encoding") {
        "" => reply.text().to_owned(),
        "zstd" => String::from_utf8(zstd::stream::decode_all(&*reply.body).unwrap()).unwrap(),
        other => panic!("unexpected coding {other}"),
    }
}

/// A node before an origin, over TLS.
struct Site {
    origin: Origin,
    node: Node,
    certificate: Certificate,
}

impl Site {
    async fn start() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(more: impl FnOnce(Builder) -> Builder) -> Self {
        let (origin, certificate) = (Origin::start().await, Certificate::new());
        let builder = Node::builder().origin(&origin.url()).tls(&certificate.certificate, &certificate.key);
        let builder = builder.route("compress = [\"zstd\"]\ndeltas = [\"/app/*.js\"]");
        let node = more(builder).start().await;
        Self { origin, node, certificate }
    }

    async fn send(&self, ask: Ask) -> Response {
        let mut conn = Conn::tls(self.node.address, &self.certificate.der, &["h2"]).await.unwrap();
        conn.send(ask.host("localhost")).await
    }

    /// A request of a browser that has no dictionary.
    fn get(&self, path: &str) -> Ask {
        self.node.get(path).header("accept-encoding", ALL)
    }

    /// A request of a browser that has this one.
    fn ask(&self, method: Method, path: &str, dictionary: &str) -> Ask {
        let ask = self.node.ask(method, path).header("accept-encoding", ALL);
        ask.header("available-dictionary", &name(dictionary))
    }

    /// Serves this at a path, and asks until it is found in the cache.
    async fn publish(&self, path: &str, body: &str) {
        let body = body.to_owned();
        self.origin.on(path, move |_| script(body.clone()));
        found("a hit", async || Some(self.send(self.get(path)).await).filter(Response::is_hit)).await;
    }

    /// Purges a URL.
    async fn purge(&self, path: &str, soft: bool) {
        self.node.purge(&serde_json::json!({"url": format!("https://localhost{path}"), "soft": soft})).await;
    }

    /// Asks with a dictionary until the delta comes.
    async fn delta(&self, path: &str, dictionary: &str) -> Response {
        found("a delta", async || {
            let reply = self.send(self.ask(Method::GET, path, dictionary)).await;
            assert_eq!(reply.status, 200);
            Some(reply).filter(|reply| reply.header("content-encoding") == "dcz")
        })
        .await
    }

    /// Returns the bytes of all bodies that deltas were made of.
    async fn made(&self) -> f64 {
        self.node.metric("holm_reply_coding_bytes_total", "coding=\"dcz\",form=\"plain\"").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_the_former_version_gets_the_difference() {
    let (site, old, new) = (Site::start().await, bundle(1), bundle(2));
    site.origin.on(MAIN, |_| script(bundle(1)));
    let first = site.send(site.get(MAIN)).await;
    assert_eq!((first.text(), first.header("use-as-dictionary"), first.header("vary")), (&*old, MATCH, VARY));
    site.publish(MAIN, &old).await;
    site.purge(MAIN, true).await;
    site.publish(MAIN, &new).await;

    let delta = site.delta(MAIN, &old).await;
    assert_eq!(decoded(&delta.body, &old), new);
    assert!(delta.is_hit() && delta.body.len() < 300, "{} bytes", delta.body.len());
    assert_eq!(delta.header("content-length"), delta.body.len().to_string());
    assert_eq!((delta.header("vary"), delta.header("use-as-dictionary")), (VARY, MATCH));
    assert_eq!(delta.header("content-type"), "text/javascript");
    let tag = delta.header("etag");
    assert!(tag.starts_with('"') && tag.ends_with("-dcz\""), "{tag}");

    let known = site.send(site.ask(Method::GET, MAIN, &old).header("if-none-match", tag)).await;
    assert_eq!((known.status, known.header("etag"), known.header("vary")), (304, tag, VARY));
    let head = site.send(site.ask(Method::HEAD, MAIN, &old)).await;
    for name in ["content-encoding", "content-length", "etag", "vary", "use-as-dictionary"] {
        assert_eq!(head.header(name), delta.header(name), "{name}");
    }
    let part = site.send(site.ask(Method::GET, MAIN, &old).header("range", "bytes=0-8")).await;
    assert_eq!((part.status, part.text(), part.header("use-as-dictionary")), (206, "function ", ""));
    let kept = site.send(site.ask(Method::GET, MAIN, &old).header("cache-control", "no-transform")).await;
    assert_eq!((kept.text(), kept.header("vary")), (&*new, VARY));

    for _ in 0..10 {
        let again = site.send(site.ask(Method::GET, MAIN, &old)).await;
        assert_eq!((again.is_hit(), &again.body), (true, &delta.body));
    }
    let own = site.delta(MAIN, &new).await;
    assert_eq!(decoded(&own.body, &new), new, "to what it is already");
    assert_ne!(own.header("etag"), tag);
    assert_eq!(site.made().await, 2.0 * new.len() as f64, "each is made once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_has_no_part_in_it() {
    let site = Site::start().await;
    for (path, is_sent) in [("/app/1.js", false), ("/1.js", true)] {
        site.origin.on(path, |_| script(bundle(1)));
        site.send(site.ask(Method::GET, path, &bundle(2)).header("dictionary-id", "\"7\"")).await;
        let seen = site.origin.seen(path);
        for name in ["available-dictionary", "dictionary-id"] {
            assert!(seen.len() == 1 && seen[0].header(name).is_empty() != is_sent, "{path}: {seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_forms_of_a_response_say_that_it_is_a_dictionary() {
    let site = Site::start().await;
    site.publish(MAIN, &bundle(1)).await;
    let zstd = found("a coded bundle", async || {
        Some(site.send(site.get(MAIN)).await).filter(|reply| reply.header("content-encoding") == "zstd")
    })
    .await;
    assert_eq!((zstd.header("use-as-dictionary"), zstd.header("vary")), (MATCH, "accept-encoding"));
    let mut vary: Vec<&str> = zstd.headers.get_all("vary").iter().map(|line| line.to_str().unwrap()).collect();
    vary.sort_unstable();
    assert_eq!(vary, ["accept-encoding", "available-dictionary"]);
    let plain = site.send(site.node.get(MAIN)).await;
    assert_eq!((plain.text(), plain.header("use-as-dictionary"), plain.header("vary")), (&*bundle(1), MATCH, VARY));

    let own = "match=\"/app/own/*\", id=\"7\"";
    site.origin.on("/app/own.js", move |_| script(bundle(1)).header("use-as-dictionary", own));
    for _ in 0..2 {
        let reply = site.send(site.get("/app/own.js")).await;
        assert_eq!(reply.header("use-as-dictionary"), own, "what the origin says");
        assert_eq!(reply.headers.get_all("use-as-dictionary").iter().count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_known_dictionary_there_is_no_delta() {
    let (site, old, new) = (Site::start().await, bundle(1), bundle(2));
    site.publish("/app/1.js", &old).await;
    site.publish("/app/2.js", &new).await;
    let ask = |accepts: &str, dictionary: &str| {
        let ask = site.node.get("/app/2.js").header("accept-encoding", accepts);
        ask.header("available-dictionary", dictionary)
    };
    let known = name(&old);
    for (what, ask) in [
        ("another", ask(ALL, &name("never served"))),
        ("unreadable", ask(ALL, &known.replace(':', ""))),
        ("two", ask(ALL, &known).header("available-dictionary", &known)),
        ("no dcz", ask("zstd, dcb", &known)),
        ("dcz least", ask("zstd, dcz;q=0.5", &known)),
        (
            "a page that may not read it",
            ask(ALL, &known).header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "no-cors"),
        ),
    ] {
        let reply = site.send(ask).await;
        assert_eq!((reply.status, plain(&reply)), (200, new.clone()), "{what}");
    }
    assert_eq!(site.made().await, 0.0);
    let delta = site.delta("/app/2.js", &old).await;
    assert_eq!(decoded(&delta.body, &old), new, "of another path of the pattern");

    let insecure = Node::builder().origin(&site.origin.url()).route("deltas = [\"/app/*.js\"]").start().await;
    for _ in 0..2 {
        let reply = insecure.get("/app/1.js").header("accept-encoding", ALL).send().await;
        assert_eq!((reply.text(), reply.header("use-as-dictionary"), reply.header("vary")), (&*old, "", ""));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_purged_is_a_dictionary_no_more() {
    let (site, old, new) = (Site::start().await, bundle(1), bundle(2));
    site.publish("/app/1.js", &old).await;
    site.publish("/app/2.js", &new).await;
    site.publish("/app/3.js", &bundle(3)).await;
    let delta = site.delta("/app/2.js", &old).await;
    assert_eq!(decoded(&delta.body, &old), new);
    // Out of date is what a dictionary is meant to be.
    site.purge("/app/1.js", true).await;
    assert_eq!(site.send(site.ask(Method::GET, "/app/2.js", &old)).await.body, delta.body);

    site.purge("/app/1.js", false).await;
    // A delta that was made, and one that wasn't.
    for (path, wanted) in [("/app/2.js", new), ("/app/3.js", bundle(3))] {
        for _ in 0..3 {
            let reply = site.send(site.ask(Method::GET, path, &old)).await;
            assert_eq!((reply.is_hit(), plain(&reply)), (true, wanted.clone()), "{path}");
        }
    }
}

/// What is published again is public again: then, and not before, it is a dictionary once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_hard_purge_only_what_is_published_again_is_a_dictionary() {
    let (site, old, new) = (Site::start().await, bundle(1), bundle(2));
    site.publish(MAIN, &old).await;
    site.purge(MAIN, true).await;
    site.publish(MAIN, &new).await;
    assert_eq!(decoded(&site.delta(MAIN, &old).await.body, &old), new);
    // The former version has the tag of its URL as well.
    site.purge(MAIN, false).await;
    site.publish(MAIN, &new).await;
    for _ in 0..3 {
        let reply = site.send(site.ask(Method::GET, MAIN, &old)).await;
        assert_eq!((reply.is_hit(), plain(&reply)), (true, new.clone()), "what was purged isn't shown by a difference");
    }
    assert_eq!(decoded(&site.delta(MAIN, &new).await.body, &new), new, "the new one was published after it");

    site.publish("/app/again.js", &old).await;
    assert_eq!(decoded(&site.delta(MAIN, &old).await.body, &old), new, "by the other path it is public again");
    site.purge("/app/again.js", false).await;
    for _ in 0..3 {
        let reply = site.send(site.ask(Method::GET, MAIN, &old)).await;
        assert_eq!((reply.is_hit(), plain(&reply)), (true, new.clone()));
    }
    site.publish("/app/again.js", &old).await;
    assert_eq!(decoded(&site.delta(MAIN, &old).await.body, &old), new, "a delta that was purged is made again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_is_stored_in_parts_has_deltas_too() {
    let site = Site::with(|builder| builder.set("cache", "part_bytes = \"16KiB\"")).await;
    let (old, new) = (bundle(1), bundle(2));
    site.publish("/app/1.js", &old).await;
    site.publish("/app/2.js", &new).await;
    let delta = site.delta("/app/2.js", &old).await;
    assert_eq!(decoded(&delta.body, &old), new);
    assert_eq!(site.origin.total(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_dictionary_makes_room() {
    let site = Site::with(|builder| builder.route("deltas_max = 2")).await;
    for version in 1..=3 {
        site.publish(&format!("/app/{version}.js"), &bundle(version)).await;
        // It is stored as a dictionary before the next one is.
        let path = format!("/app/{version}.js");
        assert_eq!(decoded(&site.delta(&path, &bundle(version)).await.body, &bundle(version)), bundle(version));
    }
    assert_eq!(decoded(&site.delta("/app/3.js", &bundle(2)).await.body, &bundle(2)), bundle(3));
    let without = site.send(site.ask(Method::GET, "/app/3.js", &bundle(1))).await;
    assert_eq!(plain(&without), bundle(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_for_all_takes_no_part() {
    let site = Site::start().await;
    let replies: [fn() -> Reply; 6] = [
        || script(bundle(1)).header("vary", "cookie"),
        || Reply::ok(bundle(1)).header("content-type", "text/javascript").header("cache-control", "private, max-age=9"),
        || {
            let reply = Reply::ok(bundle(1)).header("content-type", "text/javascript");
            reply.header("cache-control", "public, max-age=600").header("set-cookie", "a=b")
        },
        || Reply::fresh(600, bundle(1)).header("content-type", "image/png"),
        || Reply::ok(bundle(1)).header("content-type", "text/css").header("cache-control", "max-age=9, no-transform"),
        || script("small"),
    ];
    for (at, reply) in replies.into_iter().enumerate() {
        let path = format!("/app/{at}.js");
        site.origin.on(&path, move |_| reply());
        for _ in 0..3 {
            let reply = site.send(site.ask(Method::GET, &path, &bundle(1))).await;
            assert_eq!((reply.status, reply.header("use-as-dictionary")), (200, ""), "{path}");
            let varies = reply.headers.get_all("vary").iter().any(|line| line.to_str().unwrap().contains("dictionary"));
            assert!(!varies, "{path}");
        }
    }
    assert_eq!(site.made().await, 0.0);
}
