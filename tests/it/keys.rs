//! Which requests share a response: keys fall closed, and whatever a model is sent is in the key or isn't sent.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use crate::harness::{
    client::{Ask, Response},
    found,
    model::{ARRAY, EMBEDDINGS, batches, doubling, embedding},
    node::{Builder, Node},
    origin::{Gate, Origin, Reply},
    repository,
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A node in front of this origin whose policy is `tenant-key`, by this table.
fn tenants(origin: &Origin, table: &str) -> Builder {
    let file = repository("plugins/dist/tenant-key.wasm");
    Node::builder().origin(&origin.url()).policy("keys", &file, table).route("policy = \"keys\"\nttl_ms = 600000")
}

async fn repeated(ask: impl Fn() -> Ask) -> Response {
    found("a hit", async || Some(ask().send().await).filter(Response::is_hit)).await
}

/// A request in a spelling of its own: its content coding and its body.
type Spelling = (&'static str, fn(&str) -> Vec<u8>);

const SPELLINGS: [(&str, Spelling); 11] = [
    ("plain", ("", |q| format!(r#"{{"model":"m","input":"{q}"}}"#).into_bytes())),
    ("gzip", ("gzip", |q| gzip(format!(r#"{{"model":"m","input":"{q}"}}"#).as_bytes()))),
    ("half an emoji", ("", |q| format!(r#"{{"model":"m","input":"{q}\ud83d"}}"#).into_bytes())),
    ("a byte order mark", ("", |q| format!("\u{feff}{{\"model\":\"m\",\"input\":\"{q}\"}}").into_bytes())),
    ("NaN", ("", |q| format!(r#"{{"model":"m","input":"{q}","top_p":NaN}}"#).into_bytes())),
    ("a trailing comma", ("", |q| format!(r#"{{"model":"m","input":"{q}",}}"#).into_bytes())),
    ("capitals", ("", |q| format!(r#"{{"model":"m","INPUT":"{q}"}}"#).into_bytes())),
    ("a coding nobody knows", ("snappy", |q| format!(r#"{{"model":"m","input":"{q}"}}"#).into_bytes())),
    ("a broken coding", ("gzip", |q| format!(r#"{{"model":"m","input":"{q}"}}"#).into_bytes())),
    ("a form", ("", |q| format!("model=m&input={q}").into_bytes())),
    (
        "great depth",
        ("", |q| format!(r#"{{"model":"m","input":"{q}","x":{}{}}}"#, "[".repeat(200), "]".repeat(200)).into_bytes()),
    ),
];

fn spelled(node: &Node, target: &str, (coding, body): Spelling, input: &str) -> Ask {
    let ask = node.post(target).header("x-tenant", "acme").body(body(input));
    if coding.is_empty() { ask } else { ask.header("content-encoding", coding) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_a_policy_cannot_read_are_never_taken_for_one_another() {
    for table in ["{ body = [\"/model\", \"/input\"] }", "{ body = [\"/model\", \"/input\"], require_tenant = true }"] {
        let origin = Origin::start().await;
        origin.on("*", |seen| Reply::ok(seen.body.clone()));
        let node = tenants(&origin, table).infer("plain").start().await;
        for (at, (name, spelling)) in SPELLINGS.into_iter().enumerate() {
            let target = format!("/ask/{at}");
            for input in ["salary of ann", "weather"] {
                let ask = || spelled(&node, &target, spelling, input);
                let response = ask().send().await;
                assert_eq!((response.status, response.is_hit()), (200, false), "{name}: {input}");
                assert_eq!(response.body, spelling.1(input), "{name}: {input}");
                assert_eq!(repeated(ask).await.body, spelling.1(input), "{name}: {input} is known to itself");
            }
        }
        assert_eq!(origin.total(), 2 * SPELLINGS.len(), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_whose_body_cannot_be_read_is_keyed_by_it() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.body.clone()));
    let node = tenants(&origin, "{ body = [\"/q\"] }").start().await;
    for body in ["{\"q\":1,}", "{\"q\":2,}"] {
        let ask = || node.get("/search").header("x-tenant", "acme").body(body);
        assert_eq!(ask().send().await.text(), body);
        assert_eq!(repeated(ask).await.text(), body);
    }
    assert_eq!(origin.hits("/search"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_request_is_read_decoded() {
    let origin = Origin::start().await;
    embedding(&origin, Gate::opened());
    let builder = Node::builder().origin(&origin.url()).infer("openai-embeddings").route("ttl_ms = 600000");
    let node = builder.set("limits", "body_bytes_max = \"64KiB\"").start().await;
    let input = json!({"model": "m", "input": "a"}).to_string();
    let ask = |coding: &str, body: Vec<u8>| node.post(EMBEDDINGS).header("content-encoding", coding).body(body).send();
    assert_eq!(ask("gzip", gzip(input.as_bytes())).await.status, 200);
    assert_eq!(origin.seen(EMBEDDINGS)[0].header("content-encoding"), "");
    assert!(node.post(EMBEDDINGS).body(input.clone()).send().await.is_hit(), "it is the same item");
    let unknown = ask("snappy", input.clone().into_bytes()).await;
    assert_eq!((unknown.status, unknown.header("accept-encoding")), (415, "gzip, deflate, br, zstd"));
    assert_eq!(ask("gzip", input.into_bytes()).await.status, 400);
    assert_eq!(ask("gzip", gzip(&[b' '; 100_000])).await.status, 413);
    assert_eq!(origin.total(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_is_compressed_unasked_is_read() {
    let origin = Origin::start().await;
    origin.on(ARRAY, |_| {
        let reply = Reply::ok(gzip(b"[{\"double\":2},{\"double\":4}]")).header("content-encoding", "gzip");
        reply.header("vary", "accept-encoding")
    });
    let node = Node::builder().origin(&origin.url()).infer("json-array").route("ttl_ms = 600000").start().await;
    let response = node.post(ARRAY).json(&json!([{"n": 1}, {"n": 2}])).header("accept-encoding", "gzip").send().await;
    assert_eq!((response.status, response.header("content-encoding")), (200, ""), "{:?}", response.headers);
    assert_eq!(response.json(), json!([{"double": 2}, {"double": 4}]));
}

const CREDENTIALS: [&str; 9] = [
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
    "apikey",
    "cf-aig-authorization",
    "x-functions-key",
    "x-auth-token",
];

/// A model that demands the credential that its query names.
fn guarded(origin: &Origin) {
    origin.on("*", |seen| {
        let wanted = seen.target.split('?').nth(1).unwrap_or_default();
        if seen.header(wanted) != "good" {
            return Reply::status(401);
        }
        if seen.body.starts_with(b"[") { Reply::ok("[\"paid\"]") } else { Reply::ok("\"paid\"") }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_one_client_paid_for_is_not_given_to_others() {
    for protocol in ["plain", "json-array"] {
        let origin = Origin::start().await;
        guarded(&origin);
        let node = Node::builder().origin(&origin.url()).infer(protocol).route("ttl_ms = 600000").start().await;
        // By a policy that knows nothing of credentials, too.
        let policy = tenants(&origin, "{ body = [\"\"] }").infer(protocol).start().await;
        for node in [&node, &policy] {
            for name in CREDENTIALS {
                let ask = || node.post(&format!("/chat?{name}")).json(&json!({"n": 1}));
                let paid = ask().header(name, "good").send().await;
                assert_eq!((paid.status, paid.text()), (200, "\"paid\""), "{protocol}: {name}");
                repeated(|| ask().header(name, "good")).await;
                assert_eq!(ask().header(name, "stolen").send().await.status, 401, "{protocol}: {name}");
                assert_eq!(ask().send().await.status, 401, "{protocol}: {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_model_is_sent_tells_items_apart_and_what_it_is_not_sent_does_not() {
    for protocol in ["plain", "json-array"] {
        let origin = Origin::start().await;
        doubling(&origin, Gate::opened());
        let builder = Node::builder().origin(&origin.url()).infer(protocol).route("ttl_ms = 600000");
        let node = builder.route("ignore_headers = [\"x-turn\"]").start().await;
        let ask = || node.post(ARRAY).json(&json!([{"n": 1}]));
        ask().send().await;
        for (name, value) in [
            ("x-turn", "2"),
            ("user-agent", "a"),
            ("x-forwarded-for", "192.0.2.7"),
            ("traceparent", "a"),
            ("range", ""),
        ] {
            repeated(|| ask().header(name, value)).await;
        }
        assert_eq!(origin.hits(ARRAY), 1, "{protocol}");
        let seen = origin.seen(ARRAY).remove(0);
        assert_eq!((seen.header("x-turn"), seen.header("x-forwarded-for")), ("", ""), "{protocol}");
        for name in ["anthropic-beta", "anthropic-version", "openai-beta", "x-anything"] {
            for value in ["one", "two"] {
                let response = ask().header(name, value).send().await;
                assert!(!response.is_hit(), "{protocol}: {name}: {value}");
                repeated(|| ask().header(name, value)).await;
                assert_eq!(origin.seen(ARRAY).last().unwrap().header(name), value, "{protocol}");
            }
        }
        assert_eq!(batches(&origin, ARRAY).len(), 9, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_policys_key_what_it_does_not_read_is_not_sent() {
    let origin = Origin::start().await;
    origin
        .on("*", |seen| Reply::ok(format!("{:?}", seen.headers.keys().map(|name| name.as_str()).collect::<Vec<_>>())));
    let node = tenants(&origin, "{ body = [\"/q\"] }").infer("plain").start().await;
    let ask = || node.post("/chat").header("x-tenant", "acme").json(&json!({"q": 1}));
    let first = ask().header("x-user", "1").header("openai-beta", "b").send().await;
    for (name, sent) in [("x-tenant", true), ("openai-beta", true), ("content-type", true), ("x-user", false)] {
        assert_eq!(first.text().contains(&format!("\"{name}\"")), sent, "{name}: {}", first.text());
    }
    repeated(|| ask().header("x-user", "2").header("openai-beta", "b")).await;
    assert!(!ask().header("openai-beta", "c").send().await.is_hit());
    assert_eq!(origin.hits("/chat"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_reads_no_item_is_refused_unless_the_operator_wants_it() {
    let origin = Origin::start().await;
    let refused = tenants(&origin, "{}").infer("plain").try_start().await.err().unwrap_or_default();
    assert!(refused.contains("policy `keys`") && refused.contains("key_without_body"), "{refused}");
    let wanted = tenants(&origin, "{}").infer("plain").route("key_without_body = true").try_start().await;
    assert!(wanted.is_ok());
    assert!(tenants(&origin, "{}").try_start().await.is_ok(), "an http route needs no body");
}
