//! Content codings on both sides: replies to clients, batches to models, and what models respond.

use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

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
    assert_eq!(refused.json().as_array().map(Vec::len), Some(400), "an error for each item");
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
