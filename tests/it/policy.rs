//! Policy components, real ones: which requests share a response, and what happens to a policy that misbehaves.

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use serde_json::json;

use crate::harness::{
    client::Response,
    eventually, found,
    model::{EMBEDDINGS, embedding},
    node::{Builder, Node},
    origin::{Gate, Origin, Reply},
    process::run,
    repository,
};

fn component(name: &str) -> PathBuf {
    repository("plugins/dist").join(format!("{name}.wasm"))
}

/// An origin that tells every tenant its own, and a node whose policy has this configuration.
async fn tenants(config: &str) -> (Origin, Builder) {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, format!("{} of {}", seen.target, seen.header("x-tenant"))));
    let builder = Node::builder().origin(&origin.url()).policy("keys", &component("tenant-key"), config);
    (origin, builder.route("policy = \"keys\""))
}

/// A node whose policy obeys a request's header field `x-do`.
async fn mad(limits: &str) -> (Origin, Builder) {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "from the origin"));
    let builder = Node::builder().origin(&origin.url()).policy("mad", &component("mad"), "{ do = \"ask\" }");
    (origin, builder.route("policy = \"mad\"").set("policy.mad.limits", limits))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_never_share_and_the_order_of_a_query_does_not_matter() {
    // As a recipe, which the host evaluates, and as a call for each request: the outcome is the same.
    for config in ["{}", "{ require_tenant = true }"] {
        let (origin, builder) = tenants(config).await;
        let node = builder.start().await;
        let ask = |tenant: &str, target: &str| node.get(target).header("x-tenant", tenant);
        for tenant in ["acme", "umbrella"] {
            let response = ask(tenant, "/x?a=1&b=2").send().await;
            assert_eq!(
                (response.is_hit(), response.text()),
                (false, format!("/x?a=1&b=2 of {tenant}").as_str()),
                "{config}"
            );
            eventually("storing", async || ask(tenant, "/x?a=1&b=2").send().await.is_hit()).await;
        }
        for (tenant, target) in [("acme", "/x?b=2&a=1"), ("umbrella", "/x?a=1&&b=2"), ("ACME", "/x?a=1&b=2")] {
            let response = ask(tenant, target).send().await;
            let own = format!("/x?a=1&b=2 of {}", tenant.to_ascii_lowercase());
            assert_eq!((response.is_hit(), response.text()), (true, own.as_str()), "{config}: {tenant} {target}");
        }
        assert!(!ask("acme", "/x?a=2&b=1").send().await.is_hit(), "{config}");
        assert!(!ask("acme", "/x?a=1&b=2").host("other.test").send().await.is_hit(), "{config}");
        assert_eq!(origin.total(), 4, "{config}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_may_keep_a_request_out_of_the_cache() {
    let (origin, builder) = tenants("{ require_tenant = true }").await;
    let node = builder.start().await;
    for asked in 1..=2 {
        let response = node.fetch("/x").await;
        assert_eq!((response.status, response.cache().get("fwd")), (200, "bypass"), "{:?}", response.cache());
        assert!(response.cache().get("detail").contains("no tenant"), "{:?}", response.cache());
        assert_eq!(origin.hits("/x"), asked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_chooses_the_fields_of_a_body_that_count() {
    let (origin, builder) = tenants("{ body = [\"/model\", \"/input\"] }").await;
    origin.on("/ask", |seen| Reply::ok(seen.body.clone()));
    let node = builder.infer("plain").route("ttl_ms = 600000").start().await;
    let ask = |body: &'static str| node.post("/ask").header("x-tenant", "a").body(body).send();
    let first = ask(r#"{"model":"m","input":{"b":1,"a":2},"user":"1"}"#).await;
    let same = found("a hit", async || {
        Some(ask(r#"{"user":"2", "input":{"a":2, "b":1}, "model":"m"}"#).await).filter(Response::is_hit)
    })
    .await;
    assert_eq!((first.is_hit(), same.text()), (false, first.text()));
    assert_eq!(origin.hits("/ask"), 1);
    assert!(!ask(r#"{"model":"m","input":{"b":1,"a":3}}"#).await.is_hit());
    assert!(!ask(r#"{"model":"M","input":{"b":1,"a":2}}"#).await.is_hit());
    assert!(!ask("not json").await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_whose_body_is_in_its_key_reaches_the_origin_with_it() {
    let (origin, builder) = tenants("{ body = [\"/q\"] }").await;
    origin.on("/search", |seen| Reply::fresh(600, seen.body.clone()));
    let node = builder.start().await;
    let ask = |q: u32| node.get("/search").json(&json!({"q": q})).send();
    for q in [1, 2] {
        let first = ask(q).await;
        assert_eq!((first.status, first.is_hit(), first.json()), (200, false, json!({"q": q})));
        found("a hit", async || Some(ask(q).await).filter(Response::is_hit)).await;
    }
    for q in [1, 2] {
        let again = ask(q).await;
        assert_eq!((again.is_hit(), again.json()), (true, json!({"q": q})));
    }
    assert_eq!(origin.hits("/search"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_whose_body_is_not_in_its_key_passes_by_the_cache() {
    let (origin, builder) = mad("").await;
    origin.on("/search", |seen| Reply::fresh(600, seen.body.clone()));
    let node = builder.start().await;
    for q in [1, 2, 1] {
        let response = node.get("/search").header("x-do", "behave").json(&json!({"q": q})).send().await;
        assert_eq!((response.cache().get("fwd"), response.json()), ("bypass", json!({"q": q})));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_policy_reads_reaches_the_model() {
    let (origin, builder) = tenants("{ body = [\"/model\", \"/input\"] }").await;
    let gate = Gate::closed();
    gate.open();
    embedding(&origin, gate);
    let node = builder.infer("openai-embeddings").route("ttl_ms = 600000").start().await;
    let body = json!({"model": "m", "input": "a"});
    let ask = |tenant: &str| node.post(EMBEDDINGS).header("x-tenant", tenant).json(&body).send();
    for tenant in ["acme", "umbrella"] {
        let first = ask(tenant).await;
        assert_eq!((first.status, first.is_hit()), (200, false), "{tenant}: {}", first.text());
        assert!(ask(tenant).await.is_hit(), "{tenant}");
    }
    let sent: Vec<String> = origin.seen(EMBEDDINGS).iter().map(|seen| seen.header("x-tenant").to_owned()).collect();
    assert_eq!(sent, ["acme", "umbrella"]);
}

/// Orders for `mad`, and the kinds of fault that they cause.
const MISDEEDS: [(&str, &str); 7] = [
    ("trap", "trap"),
    ("recurse", "trap"),
    ("alloc", "trap"),
    ("loop", "overrun"),
    ("large", "too-large"),
    ("giant", "too-large"),
    ("fault", "fault"),
];

const HASTY: &str = "call_us = 400000\nresult_bytes_max = 4096\nbreaker = { failures = 1000 }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_in_the_key_goes_past_the_cache() {
    let (origin, builder) = mad(HASTY).await;
    let node = builder.start().await;
    for (order, kind) in MISDEEDS {
        let target = format!("/{order}");
        for asked in 1..=2 {
            let response = node.get(&target).header("x-do", order).send().await;
            let status = response.cache();
            assert_eq!((response.status, status.get("fwd"), status.has("stored")), (200, "bypass", false), "{order}");
            assert!(status.get("detail").ends_with(&format!(":{kind}")), "{order}: {status:?}");
            assert_eq!(origin.hits(&target), asked, "{order}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_faults_costs_its_opinion_and_not_the_response() {
    let (origin, builder) = mad(HASTY).await;
    let node = builder.route("on_fault = \"native\"").start().await;
    for (order, kind) in MISDEEDS {
        let (before, target) = (faults(&node, kind).await, format!("/{order}"));
        let mut asked = 0.0;
        eventually("the native key finding it", async || {
            asked += 1.0;
            let response = node.get(&target).header("x-do", order).send().await;
            assert_eq!((response.status, response.text()), (200, "from the origin"), "{order}: {:?}", response.cache());
            response.is_hit()
        })
        .await;
        assert_eq!(origin.hits(&target), 1, "{order}");
        assert_eq!(faults(&node, kind).await - before, asked, "{order} is counted as {kind}");
    }
    let good = node.get("/good").header("x-do", "behave").send().await;
    let detail = good.cache().get("detail").to_owned();
    assert!(
        good.status == 200 && detail.starts_with("mad@") && !detail.contains(':'),
        "{detail}: it isn't held against those who behave"
    );
}

/// Faults of this kind so far.
async fn faults(node: &Node, kind: &str) -> f64 {
    node.metric("holm_plugin_faults_total", &format!("kind=\"{kind}\"")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_keeps_faulting_is_no_longer_called() {
    let (_origin, builder) = mad("breaker = { failures = 3, open_ms = 60000, open_ms_max = 60000 }").await;
    let node = builder.start().await;
    for n in 0..10 {
        assert_eq!(node.get(&format!("/{n}")).header("x-do", "trap").send().await.status, 200);
    }
    assert_eq!(faults(&node, "trap").await, 3.0);
    // With the breaker open even an order to bypass isn't heard: the request goes past the cache for another reason.
    let response = node.get("/b").header("x-do", "bypass").send().await;
    let status = response.cache();
    assert_eq!(status.get("fwd"), "bypass");
    assert!(status.get("detail").ends_with(":breaker-open"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_may_refuse_rather_than_decide_without_its_policy() {
    let (origin, builder) = mad("").await;
    let node = builder.route("on_fault = \"refuse\"").start().await;
    let refused = node.get("/x").header("x-do", "trap").send().await;
    assert_eq!((refused.status, refused.header("content-type")), (503, "application/problem+json"));
    assert!(!refused.cache().get("detail").is_empty(), "{:?}", refused.headers);
    assert_eq!(origin.total(), 0);
    assert_eq!(node.get("/x").header("x-do", "behave").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_cannot_be_used_is_refused_at_the_start() {
    let origin = Origin::start().await;
    let started = async |name: &str, config: &str| {
        let builder = Node::builder().origin(&origin.url()).policy("p", &component(name), config);
        builder.route("policy = \"p\"").set("policy.p.limits", "load_ms = 500").try_start().await.err()
    };
    for (name, config, words) in [
        ("nosy", "{}", "clock"),
        ("tenant-key", "{ tenant = \"x\" }", "unknown field"),
        ("mad", "{ do = \"refuse-config\" }", "not in the mood"),
        ("mad", "{ do = \"trap-in-config\" }", ""),
        ("mad", "{ do = \"loop-in-config\" }", ""),
        ("mad", "{ do = \"read-bad-header\" }", ""),
        ("mad", "{ do = \"read-unknown\" }", "input moon-phase(full) is none that this node knows"),
        ("mad", "{ do = \"long-recipe\" }", ""),
    ] {
        let refused = started(name, config).await;
        assert!(refused.as_ref().is_some_and(|error| error.contains(words)), "{name} {config}: {refused:?}");
    }
    assert_eq!(started("tenant-key", "{}").await, None);
}

/// What a node would refuse at its start is reported before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_is_checked_with_its_policies() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("holm.toml");
    let checked = async |policies: bool| {
        let mut words: Vec<OsString> = vec!["check".into(), file.clone().into()];
        words.extend(policies.then(|| "--policies".into()));
        let output = run(&words, Duration::from_secs(60)).await;
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        (output.status.code(), said.concat())
    };
    let with = |config: &str| {
        Node::builder()
            .origin("http://127.0.0.1:9")
            .policy("good", &component("tenant-key"), "{}")
            .policy("other", &component("tenant-key"), config)
            .policy("third", &component("mad"), "{ do = \"refuse-config\" }")
    };
    fs::write(&file, with("{ tenant = \"x\" }").text()).unwrap();
    assert_eq!(checked(false).await.0, Some(0), "what only the components know isn't checked");
    let (code, text) = checked(true).await;
    assert_eq!(code, Some(1), "{text}");
    for words in
        ["policy `good` loads: tenant-key 0.1.0, with key", "policy `other`", "unknown field", "not in the mood"]
    {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    let good = Node::builder().origin("http://127.0.0.1:9").policy("good", &component("tenant-key"), "{}");
    fs::write(&file, good.text()).unwrap();
    let (code, text) = checked(true).await;
    assert!(code == Some(0) && text.contains("policy `good` loads"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_api_lists_policies() {
    let (_origin, builder) = tenants("{}").await;
    let node = builder.start().await;
    let list = node.admin("/policies").send().await.json();
    assert!(list.to_string().contains("keys"), "{list}");
    assert_ne!(list, json!([]));
}
