//! Content codings on both sides: replies to clients, batches to models, and what models respond.

use std::io::Read;

use flate2::read::GzDecoder;
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{
    client::{Ask, Response},
    found,
    model::{ARRAY, EMBEDDINGS, embedding},
    node::{Builder, Node},
    origin::{Gate, Origin, Reply, Seen},
};

const CODINGS: [&str; 3] = ["zstd", "br", "gzip"];

/// Returns a body without its coding, as another implementation than the node's own reading of it has it.
fn decoded(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        "" => plain.extend_from_slice(body),
        "zstd" => plain = zstd::stream::decode_all(body).unwrap(),
        "br" => brotli_decompressor::BrotliDecompress(&mut &*body, &mut plain).unwrap(),
        "gzip" => {
            GzDecoder::new(body).read_to_end(&mut plain).unwrap();
        }
        other => panic!("unexpected coding {other}"),
    }
    plain
}

fn encoded(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    match coding {
        "zstd" => encoded = zstd::stream::encode_all(body, 1).unwrap(),
        "gzip" => {
            let mut encoder = flate2::read::GzEncoder::new(body, flate2::Compression::fast());
            encoder.read_to_end(&mut encoded).unwrap();
        }
        other => panic!("unexpected coding {other}"),
    }
    encoded
}

/// A model at [`ARRAY`] with a text for each item, which understands all codings; `respond` makes its response to so
/// many texts.
fn model(origin: &Origin, respond: impl Fn(&Seen, String) -> Reply + Send + Sync + 'static) {
    origin.on(ARRAY, move |seen| {
        let items: Vec<Value> = serde_json::from_slice(&decoded(seen.header("content-encoding"), &seen.body)).unwrap();
        let texts: Vec<Value> = items.iter().map(text).collect();
        respond(seen, Value::Array(texts).to_string())
    });
}

fn text(item: &Value) -> Value {
    json!({"text": format!("{} {}", item["n"], "the quick brown fox jumps over the lazy dog ".repeat(6))})
}

fn says(_: &Seen, body: String) -> Reply {
    Reply::ok(body).header("content-type", "application/json")
}

/// A list of so many items, of which the first is `from`.
fn list(from: usize, count: usize) -> Value {
    (from..from + count).map(|n| json!({"n": n})).collect()
}

fn texts(from: usize, count: usize) -> Value {
    let Value::Array(items) = list(from, count) else { panic!("a list") };
    items.iter().map(text).collect()
}

fn node(origin: &Origin, protocol: &str) -> Builder {
    let route = "ttl_ms = 600000\ncompress = [\"zstd\", \"br\", \"gzip\"]";
    Node::builder().origin(&origin.url()).infer(protocol).route(route).set("pool.web.batch", "size_max = 1000")
}

async fn repeated(ask: impl Fn() -> Ask) -> Response {
    found("a hit", async || Some(ask().send().await).filter(Response::is_hit)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_coding_brings_the_same_bytes() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    gate.open();
    embedding(&origin, gate);
    model(&origin, says);
    let words: Vec<String> = (0..400).map(|n| format!("word {n}")).collect();
    for (protocol, target, asked) in [
        ("json-array", ARRAY, list(0, 20)),
        // Larger than what is encoded without another thread.
        ("json-array", ARRAY, list(0, 600)),
        ("openai-embeddings", EMBEDDINGS, json!({"model": "m", "input": words})),
    ] {
        let node = node(&origin, protocol).start().await;
        node.post(target).json(&asked).send().await;
        let plain = repeated(|| node.post(target).json(&asked)).await;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, ""));
        assert_eq!(plain.header("vary"), "accept-encoding", "to other clients it may be coded");
        let (mut coded_bytes, mut plain_bytes) = (0, 0);
        for coding in CODINGS {
            let reply = node.post(target).json(&asked).header("accept-encoding", coding).send().await;
            assert_eq!((reply.status, reply.header("content-encoding")), (200, coding), "{protocol}");
            assert_eq!(decoded(coding, &reply.body), plain.body, "{protocol} {coding}");
            assert_eq!(reply.header("content-length"), reply.body.len().to_string(), "{protocol} {coding}");
            assert_eq!(reply.header("content-type"), plain.header("content-type"));
            assert_eq!(reply.header("vary"), "accept-encoding");
            assert!(reply.is_hit() && reply.body.len() < plain.body.len(), "{protocol} {coding}");
            coded_bytes += reply.body.len();
            plain_bytes += plain.body.len();
        }
        for (form, bytes) in [("coded", coded_bytes), ("plain", plain_bytes)] {
            let counted = node.metric("holm_reply_coding_bytes_total", &format!("form=\"{form}\"")).await;
            assert_eq!(counted, bytes as f64, "{protocol} {form}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_what_it_likes_best_and_never_what_it_cannot_read() {
    let origin = Origin::start().await;
    model(&origin, says);
    let node = node(&origin, "json-array").start().await;
    let asked = list(0, 20);
    for (accepts, wanted) in [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.9", "gzip"),
        ("br;q=0, *", "zstd"),
        ("zstd;q=0, *", "br"),
        ("deflate", ""),
        ("gzip;q=0", ""),
        ("identity, gzip;q=0.5", ""),
        // What is acceptable isn't there: the client gets what is.
        ("identity;q=0", ""),
        ("*;q=0", ""),
        ("", ""),
    ] {
        // Ranges and conditions are for GET: a route of models reads neither.
        let ask = node.post(ARRAY).json(&asked).header("accept-encoding", accepts);
        let reply = ask.header("range", "bytes=0-9").header("if-none-match", "*").send().await;
        assert_eq!((reply.status, reply.header("content-encoding")), (200, wanted), "{accepts}");
        let plain: Value = serde_json::from_slice(&decoded(wanted, &reply.body)).unwrap();
        assert_eq!(plain, texts(0, 20), "{accepts}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_bodies_and_those_that_must_stay_as_they_are_do() {
    let origin = Origin::start().await;
    model(&origin, says);
    let node = node(&origin, "json-array").start().await;
    let ask = |items: usize, accepts: &str| node.post(ARRAY).json(&list(0, items)).header("accept-encoding", accepts);
    assert_eq!(ask(1, "gzip").send().await.header("content-encoding"), "");
    let only = ask(1, "gzip, identity;q=0").send().await;
    assert_eq!(only.header("content-encoding"), "gzip", "no other is acceptable");
    let kept = ask(20, "gzip").header("cache-control", "no-transform").send().await;
    assert_eq!((kept.header("content-encoding"), kept.json()), ("", texts(0, 20)));
    assert_eq!(ask(20, "gzip").send().await.header("content-encoding"), "gzip");

    // What the model says holds for each of its results, from the model and from the cache.
    model(&origin, |seen, body| says(seen, body).header("cache-control", "max-age=600, no-transform"));
    for _ in 0..2 {
        let kept = node.post(ARRAY).json(&list(100, 20)).header("accept-encoding", "gzip").send().await;
        assert_eq!((kept.header("content-encoding"), kept.json()), ("", texts(100, 20)));
    }
    let mixed: Value =
        [list(0, 20), list(100, 1)].iter().flat_map(|items| items.as_array().unwrap()).cloned().collect();
    let kept = node.post(ARRAY).json(&mixed).header("accept-encoding", "gzip").send().await;
    assert_eq!(kept.header("content-encoding"), "");

    let node = Node::builder().origin(&origin.url()).infer("json-array").start().await;
    let plain = node.post(ARRAY).json(&list(0, 20)).header("accept-encoding", "gzip").send().await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", ""), "its route doesn't compress");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_reply_takes_the_memory_of_what_is_sent() {
    let origin = Origin::start().await;
    model(&origin, says);
    let builder = node(&origin, "json-array").memory("64MiB");
    let cache = "bodies_bytes_max = \"1MiB\"\npart_bytes = \"64KiB\"\npart_ms = 20";
    let node = builder.set("limits", "items_max = 4_000").set("cache", cache).start().await;
    // More than the bodies may take that are being sent.
    let asked = list(0, 4_000);
    let ask = || node.post(ARRAY).json(&asked);
    for round in 0..2 {
        let refused = ask().send().await;
        assert_eq!(refused.status, 503, "{round}");
        assert!(refused.header("cache-status").contains("bodies-full"), "{round}: {:?}", refused.headers);
        let reply = ask().header("accept-encoding", "zstd").send().await;
        assert_eq!(reply.status, 200, "{round}");
        assert!(decoded("zstd", &reply.body).len() > 1 << 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_sent_in_the_pools_coding() {
    for coding in ["zstd", "br", "gzip", "none"] {
        let origin = Origin::start().await;
        model(&origin, says);
        let node = node(&origin, "json-array").set("pool.web", &format!("request_coding = \"{coding}\"")).start().await;
        let reply = node.post(ARRAY).json(&list(0, 400)).send().await;
        assert_eq!((reply.status, reply.json()), (200, texts(0, 400)), "{coding}");
        let reply = node.post(ARRAY).json(&list(1_000, 1)).send().await;
        assert_eq!(reply.json(), texts(1_000, 1), "{coding}");
        let seen = origin.seen(ARRAY);
        let sent: Vec<(bool, &str)> =
            seen.iter().map(|seen| (seen.body.len() < 100, seen.header("content-encoding"))).collect();
        let wanted = if coding == "none" { "" } else { coding };
        assert!(sent.contains(&(false, wanted)) && sent.contains(&(true, "")), "{coding}: {sent:?}");
        assert!(seen.iter().all(|seen| seen.header("content-length") == seen.body.len().to_string()), "{coding}");

        let bytes = async |form: &str| {
            let labels = format!("message=\"request\",coding=\"{coding}\",form=\"{form}\"");
            node.metric("holm_origin_coding_bytes_total", &labels).await
        };
        let (coded, plain) = (bytes("coded").await, bytes("plain").await);
        assert!(if coding == "none" { plain == 0.0 } else { 0.0 < coded && coded < plain }, "{coded} of {plain}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_reads_no_coding_is_asked_without_and_remembered() {
    let origin = Origin::start().await;
    model(
        &origin,
        |seen, body| {
            if seen.header("content-encoding").is_empty() { says(seen, body) } else { Reply::status(415) }
        },
    );
    // The second sending is no attempt of those that the operator limits.
    let node = node(&origin, "json-array").set("pool.web", "request_coding = \"gzip\"\nattempts_max = 1").start().await;
    for from in [0, 1_000, 2_000] {
        let reply = node.post(ARRAY).json(&list(from, 400)).send().await;
        assert_eq!((reply.status, reply.json()), (200, texts(from, 400)));
    }
    let seen = origin.seen(ARRAY);
    let codings: Vec<&str> = seen.iter().map(|seen| seen.header("content-encoding")).collect();
    assert_eq!(codings.iter().filter(|coding| **coding == "gzip").count(), 1, "{codings:?}");
    assert!(codings.len() >= 4, "{codings:?}");

    // What is refused without a coding as well is the client's to know, once.
    model(&origin, |_, _| Reply::status(415));
    let refused = node.post(ARRAY).json(&list(9_000, 400)).send().await;
    assert_eq!((refused.status, refused.text()), (415, "415"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_follow_one_another_are_one_body() {
    let origin = Origin::start().await;
    let halves = |coding: &str, body: &str| {
        let (one, other) = body.as_bytes().split_at(body.len() / 2);
        [encoded(coding, one), encoded(coding, other)].concat()
    };
    model(&origin, move |seen, body| {
        let coding = if seen.header("x-coding") == "zstd" { "zstd" } else { "gzip" };
        says(seen, String::new()).with_body(halves(coding, &body)).header("content-encoding", coding)
    });
    let node = node(&origin, "json-array").set("limits", "body_bytes_max = \"64KiB\"").start().await;
    for (at, coding) in ["gzip", "zstd"].into_iter().enumerate() {
        let asked = list(100 * at, 20);
        let body = halves(coding, &asked.to_string());
        let ask = node.post(ARRAY).header("content-encoding", coding).header("x-coding", coding).body(body);
        let reply = ask.send().await;
        assert_eq!((reply.status, reply.json()), (200, texts(100 * at, 20)), "{coding}");
        // Each within the limit, and together over it.
        let padded = format!("[{}1]", " ".repeat(100_000));
        let ask = node.post(ARRAY).header("content-encoding", coding).body(halves(coding, &padded));
        assert_eq!(ask.send().await.status, 413, "{coding}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_asked_for_what_is_read_and_no_bomb_is() {
    for (wanted, asked) in [("response_coding = true", "zstd, br, gzip"), ("", "identity")] {
        let origin = Origin::start().await;
        model(&origin, |seen, body| {
            // One that compresses whatever it is asked for.
            let coding = if seen.header("accept-encoding").contains("zstd") { "zstd" } else { "gzip" };
            let reply = Reply::ok(encoded(coding, body.as_bytes())).header("content-encoding", coding);
            reply.header("content-type", "application/json")
        });
        let limit = "object_bytes_max = \"64KiB\"";
        let node = node(&origin, "json-array").set("pool.web", wanted).set("cache", limit).start().await;
        let reply = node.post(ARRAY).json(&list(0, 50)).send().await;
        assert_eq!((reply.status, reply.json()), (200, texts(0, 50)));
        assert_eq!(reply.header("content-encoding"), "");
        let seen = origin.seen(ARRAY);
        assert!(seen.iter().all(|seen| seen.header("accept-encoding") == asked), "{seen:?}");
        let coding = if wanted.is_empty() { "gzip" } else { "zstd" };
        let bytes = async |form: &str| {
            let labels = format!("message=\"response\",coding=\"{coding}\",form=\"{form}\"");
            node.metric("holm_origin_coding_bytes_total", &labels).await
        };
        let (coded, plain) = (bytes("coded").await, bytes("plain").await);
        assert!(0.0 < coded && coded < plain, "{coded} of {plain}");

        origin.on(ARRAY, |_| {
            let bomb = format!("[{}]", " ".repeat(1 << 20));
            Reply::ok(encoded("gzip", bomb.as_bytes())).header("content-encoding", "gzip")
        });
        let refused = node.post(ARRAY).json(&json!({"n": -1})).send().await;
        assert_eq!(refused.status, 502);
        assert!(refused.text().contains("more than 65536 bytes"), "{}", refused.text());
    }
}

const PAGE: &str = "/page";

/// A page that says its version.
fn page(version: u32) -> String {
    format!("<h1>version {version}</h1>\n{}", "<p>the quick brown fox jumps over the lazy dog</p>\n".repeat(100))
}

fn html(body: impl Into<bytes::Bytes>) -> Reply {
    Reply::fresh(600, body).header("content-type", "text/html; charset=utf-8").header("etag", "\"v\"")
}

/// A node whose `http` route compresses what is stored.
async fn site(origin: &Origin) -> Node {
    Node::builder().origin(&origin.url()).route("compress = [\"zstd\", \"br\", \"gzip\"]").start().await
}

/// Asks for the page until it comes in this coding.
async fn coded(node: &Node, coding: &str) -> Response {
    found("a coded page", async || {
        let reply = node.get(PAGE).header("accept-encoding", coding).send().await;
        assert_eq!((reply.status, reply.header("vary")), (200, "accept-encoding"));
        Some(reply).filter(|reply| reply.header("content-encoding") == coding)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_page_has_a_variant_for_each_coding_with_a_validator_of_its_own() {
    let origin = Origin::start().await;
    origin.on(PAGE, |_| html(page(1)).header("accept-ranges", "bytes"));
    let node = site(&origin).await;
    let mut tags = vec!["\"v\"".to_owned()];
    for coding in CODINGS {
        let reply = coded(&node, coding).await;
        assert_eq!((reply.is_hit(), decoded(coding, &reply.body)), (true, page(1).into_bytes()), "{coding}");
        assert_eq!(reply.header("content-length"), reply.body.len().to_string(), "{coding}");
        assert_eq!((reply.header("content-type"), reply.header("accept-ranges")), ("text/html; charset=utf-8", ""));
        let tag = reply.header("etag");
        assert!(tag.starts_with('"') && !tags.contains(&tag.to_owned()), "{coding}: {tag}");
        tags.push(tag.to_owned());
        let ask = |method| node.ask(method, PAGE).header("accept-encoding", coding);
        let known = ask(Method::GET).header("if-none-match", tag).send().await;
        assert_eq!((known.status, known.header("etag"), known.header("vary")), (304, tag, "accept-encoding"));
        let head = ask(Method::HEAD).send().await;
        for name in ["content-encoding", "content-length", "etag", "vary"] {
            assert_eq!(head.header(name), reply.header(name), "{coding}: {name}");
        }
        for (name, value) in [("range", "bytes=0-9"), ("cache-control", "no-transform")] {
            let plain = ask(Method::GET).header(name, value).send().await;
            assert_eq!((plain.header("content-encoding"), plain.header("etag")), ("", "\"v\""), "{coding}: {name}");
        }
    }
    let plain = node.get(PAGE).send().await;
    assert_eq!((plain.text(), plain.header("etag")), (&*page(1), "\"v\""));
    assert_eq!((plain.header("vary"), plain.header("content-encoding")), ("accept-encoding", ""));
    assert_eq!(node.get(PAGE).header("if-none-match", "\"v\"").send().await.status, 304);
    assert_eq!(origin.hits(PAGE), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variant_is_made_once_and_goes_with_its_original() {
    let origin = Origin::start().await;
    origin.on(PAGE, |_| html(page(1)));
    let node = site(&origin).await;
    assert_eq!(node.get(PAGE).send().await.header("vary"), "accept-encoding", "of the first reply, too");
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for _ in 0..50 {
        let (mut stream, ask) = (conn.stream(), node.get(PAGE).header("accept-encoding", "zstd"));
        asks.spawn(async move { stream.send(ask).await });
    }
    for reply in asks.join_all().await {
        assert_eq!(decoded(reply.header("content-encoding"), &reply.body), page(1).into_bytes());
    }
    coded(&node, "zstd").await;
    let made = async || node.metric("holm_reply_coding_bytes_total", "form=\"plain\"").await;
    assert_eq!(made().await, page(1).len() as f64);

    origin.on(PAGE, |_| html(page(2)));
    node.purge_url(PAGE, false).await;
    for _ in 0..2 {
        let reply = node.get(PAGE).header("accept-encoding", "zstd").send().await;
        assert_eq!(decoded(reply.header("content-encoding"), &reply.body), page(2).into_bytes());
    }
    assert_eq!(decoded("zstd", &coded(&node, "zstd").await.body), page(2).into_bytes());
    assert_eq!(made().await, (page(1).len() + page(2).len()) as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_worth_a_coding_or_must_not_have_one_is_served_as_it_is() {
    let (origin, mut noise) = (Origin::start().await, vec![0; 4_096]);
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let noise = bytes::Bytes::from(noise);
    let node = site(&origin).await;
    let replies: [fn(bytes::Bytes) -> Reply; 6] = [
        |_| Reply::fresh(600, page(1)).header("content-type", "image/png"),
        |_| Reply::fresh(600, page(1)),
        |_| Reply::ok(page(1)).header("content-type", "text/html").header("cache-control", "max-age=9, no-transform"),
        |_| html(encoded("gzip", page(1).as_bytes())).header("content-encoding", "gzip"),
        |_| html("<p>small</p>"),
        html,
    ];
    for (at, reply) in replies.into_iter().enumerate() {
        let (path, noise) = (format!("/{at}"), noise.clone());
        origin.on(&path, move |_| reply(noise.clone()));
        let first = node.get(&path).send().await;
        for _ in 0..3 {
            let hit = node.get(&path).header("accept-encoding", "zstd, br").send().await;
            assert_eq!((hit.is_hit(), &hit.body), (true, &first.body), "{path}");
            assert_eq!(hit.header("content-encoding"), first.header("content-encoding"), "{path}");
            let is_eligible = at >= 4;
            assert_eq!(hit.header("vary"), if is_eligible { "accept-encoding" } else { "" }, "{path}");
        }
    }
    assert_eq!(node.metric("holm_reply_coding_bytes_total", "").await, 0.0);
}
