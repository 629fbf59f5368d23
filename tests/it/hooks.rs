//! The effects of a policy's hooks on requests. The policy is `lane` (`plugins/lane`), which has all of them.

use serde_json::{Value, json};

use crate::harness::{
    client::Response,
    eventually, found,
    model::{ARRAY, batches, doubling},
    node::{Builder, Node, samples},
    origin::{Gate, Origin, Reply, Taps},
    repository,
};

const PREMIUM: &str = "{ premium = [\"acme\"] }";

/// A node with `lane` in every hook, in front of this origin.
fn lane(origin: &Origin) -> Builder {
    let file = repository("plugins/dist/lane-rust.wasm");
    Node::builder().origin(&origin.url()).policy("lane", &file, PREMIUM).route("policy = \"lane\"")
}

fn chat_request(n: u32) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": format!("question {n}")}], "user": "u-1", "metadata": {"trace": n}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_policy_sets_aside_is_not_sent_and_does_not_tell_requests_apart() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ok(seen.body.clone()));
    let node = lane(&origin).infer("plain").route("ttl_ms = 600000").start().await;
    let ask = |body: Value| node.post("/chat").header("x-tenant", "umbrella").header("x-debug", "1").json(&body).send();
    let first = ask(chat_request(1)).await;
    assert_eq!((first.status, first.is_hit()), (200, false), "{:?}", first.headers);
    let seen = origin.seen("/chat").remove(0);
    let sent: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(sent, json!({"model": "m", "messages": chat_request(1)["messages"]}));
    assert_eq!((seen.header("x-lane"), seen.header("x-debug")), ("slow", ""));
    let mut other = chat_request(1);
    other["user"] = json!("u-2");
    found("a hit", async || Some(ask(other.clone()).await).filter(Response::is_hit)).await;
    assert_eq!(origin.hits("/chat"), 1);
    let mut urgent = chat_request(2);
    urgent["priority"] = json!("high");
    ask(urgent).await;
    let seen = origin.seen("/chat").pop().unwrap();
    assert_eq!(seen.header("x-lane"), "fast");
    assert_eq!(serde_json::from_slice::<Value>(&seen.body).unwrap()["stream"], json!(false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_through_is_shaped_as_well() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::ok("done"));
    let node = lane(&origin).start().await;
    let response = node.post("/orders").header("x-tenant", "acme").json(&chat_request(1)).send().await;
    assert_eq!((response.status, response.cache().get("fwd")), (200, "method"), "{:?}", response.headers);
    let seen = origin.seen("/orders").remove(0);
    assert_eq!(serde_json::from_slice::<Value>(&seen.body).unwrap().get("user"), None);
    assert_eq!(seen.header("x-lane"), "fast", "acme is premium");
    assert_eq!(seen.header("content-length"), seen.body.len().to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_a_batch_are_shaped_each_by_itself() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    gate.open();
    doubling(&origin, gate);
    let node = lane(&origin).infer("json-array").start().await;
    let body = json!([{"messages": 1, "n": 1, "user": "u-1"}, {"messages": 2, "n": 2, "metadata": {}, "user": "u-2"}]);
    let response = node.post(ARRAY).header("x-tenant", "acme").json(&body).send().await;
    assert_eq!(response.json(), json!([{"double": 2}, {"double": 4}]));
    assert_eq!(batches(&origin, ARRAY), [[json!({"messages": 1, "n": 1}), json!({"messages": 2, "n": 2})]]);
    assert_eq!(origin.seen(ARRAY)[0].header("x-lane"), "fast");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_share_a_batch_only_within_their_group() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    gate.open();
    doubling(&origin, gate);
    let node = lane(&origin).infer("json-array").start().await;
    let body = json!([
        {"model": "a", "messages": 1, "n": 1},
        {"model": "b", "messages": 1, "n": 2},
        {"model": "a", "messages": 2, "n": 3},
    ]);
    let response = node.post(ARRAY).header("x-tenant", "t").json(&body).send().await;
    assert_eq!(response.json(), json!([{"double": 2}, {"double": 4}, {"double": 6}]));
    let mut sizes: Vec<usize> = batches(&origin, ARRAY).iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_says_what_is_stored_and_what_it_is_purged_by() {
    let origin = Origin::start().await;
    origin.on("/page", |_| Reply::fresh(600, "page").header("surrogate-key", "pages"));
    let node = lane(&origin).start().await;
    let ask = || node.get("/page").header("x-tenant", "ACME").send();
    for tag in ["tenant:acme", "pages"] {
        let before = origin.hits("/page");
        ask().await;
        found("a hit", async || Some(ask().await).filter(Response::is_hit)).await;
        assert_eq!(origin.hits("/page"), before + 1);
        node.purge(&json!({"tag": tag})).await;
    }
    assert!(!ask().await.is_hit(), "purged by the origin's own tag");
    let missing = node.get("/missing").header("x-tenant", "acme").send().await;
    let detail = missing.cache().get("detail").to_owned();
    assert!(missing.status == 404 && detail.starts_with("lane@") && detail.ends_with(":uncacheable"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_response_is_ruled_on_when_its_head_has_come() {
    let (origin, taps) = (Origin::start().await, Taps::default());
    let feed = taps.clone();
    origin.on("/events", move |_| Reply::fresh(600, "").header("content-type", "text/event-stream").fed(&feed));
    let node = lane(&origin).start().await;
    for asked in 1..=2 {
        let mut opened = node.get("/events").header("x-tenant", "t").open().await.unwrap();
        let pipe = taps.next().await;
        pipe.send(Ok("data: 1\n\n".into())).await.unwrap();
        assert_eq!(opened.piece().await.unwrap().unwrap(), "data: 1\n\n");
        drop(pipe);
        opened.whole().await.unwrap();
        // By its own head it could be stored for ten minutes; the policy takes that away.
        eventually("the second request", async || origin.hits("/events") == asked).await;
    }
}

/// Two pools of one origin each: `web`, dear, and `cheap`.
async fn two(expensive: &Origin, cheap: &Origin) -> Builder {
    lane(expensive).set("pool.cheap", &format!("endpoints = [\"{}\"]", cheap.url())).route(
        "candidates = [{ pool = \"web\", model = \"m-large\", cost_micro = 900 }, { pool = \"cheap\", model = \"m-small\", cost_micro = 20 }]",
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_orders_the_candidates_and_the_next_one_is_tried_when_one_fails() {
    let (expensive, cheap) = (Origin::start().await, Origin::start().await);
    expensive.on("*", |seen| Reply::ok(seen.body.clone()));
    cheap.on("*", |seen| Reply::ok(seen.body.clone()));
    let node = two(&expensive, &cheap).await.infer("plain").start().await;
    let ask = |n: u32| node.post("/chat").header("x-tenant", "t").json(&chat_request(n)).send();
    assert_eq!(ask(1).await.json()["model"], json!("m-small"));
    assert_eq!((expensive.total(), cheap.total()), (0, 1));
    cheap.on("*", |_| Reply::status(503));
    let fallen = ask(2).await;
    assert_eq!((fallen.status, &fallen.json()["model"]), (200, &json!("m-large")));
    cheap.stop().await;
    assert_eq!(ask(3).await.json()["model"], json!("m-large"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_had_an_effect_is_not_sent_to_the_next_one() {
    let (expensive, cheap) = (Origin::start().await, Origin::start().await);
    cheap.on("*", |_| Reply::status(503));
    expensive.on("*", |_| Reply::ok("done twice"));
    let node = two(&expensive, &cheap).await.start().await;
    let order = |n: u32| node.post("/orders").header("x-tenant", "t").json(&chat_request(n)).send();
    assert_eq!(order(1).await.status, 503);
    assert_eq!((expensive.total(), cheap.total()), (0, 1));
    cheap.stop().await;
    assert_eq!(order(2).await.status, 200, "nobody was there to take it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_is_overtaken_by_the_next_one() {
    let (expensive, cheap, gate) = (Origin::start().await, Origin::start().await, Gate::closed());
    let held = gate.clone();
    cheap.on("*", move |_| Reply::ok("late").behind(&held));
    expensive.on("*", |_| Reply::ok("in time"));
    let node = two(&expensive, &cheap).await.start().await;
    let response = node.get("/page").header("x-tenant", "acme").send().await;
    assert_eq!((response.text(), expensive.total()), ("in time", 1));
    let patient = tokio::spawn(node.get("/other").header("x-tenant", "t").send());
    eventually("the request", async || cheap.hits("/other") == 1).await;
    gate.open();
    assert_eq!(patient.await.unwrap().text(), "late", "only premium tenants are hedged for");
    assert_eq!(expensive.hits("/other"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_will_be_requested_next_is_there_already() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.target.clone()));
    let node = lane(&origin).start().await;
    let ask = |page: u32| node.get(&format!("/list?page={page}")).header("x-tenant", "t").send();
    ask(1).await;
    assert_eq!(origin.hits("/list?page=2"), 0, "only a hit is a reason to look ahead");
    found("a hit", async || Some(ask(1).await).filter(Response::is_hit)).await;
    // The hint has no header fields, so it has no tenant, and is fetched past the cache.
    eventually("the next page", async || origin.hits("/list?page=2") == 1).await;
    eventually("its count", async || node.metric("holm_prefetch_hints_total", "outcome=\"fetched\"").await == 1.0)
        .await;
    ask(1).await;
    ask(1).await;
    assert_eq!(origin.hits("/list?page=2"), 1, "a hint is followed once in a while");
    assert_eq!(origin.hits("/list?page=3"), 0, "what is fetched ahead suggests nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn experiments_report_their_arms() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "page"));
    let node = lane(&origin).start().await;
    for n in 0..60 {
        node.get("/page").header("x-tenant", "t").header("x-user", &format!("user-{n}")).send().await;
    }
    node.get("/page").header("x-tenant", "t").send().await;
    let policy = node.admin("/policies").send().await.json()[0].clone();
    let experiment = &policy["experiments"][0];
    assert_eq!((&experiment["name"], &experiment["unit"]), (&json!("size"), &json!("header(x-user)")));
    let arms = experiment["arms"].as_array().unwrap();
    let requests: Vec<u64> = arms.iter().map(|arm| arm["requests"].as_u64().unwrap()).collect();
    assert_eq!(requests.iter().sum::<u64>(), 60, "who has no unit is in no arm: {experiment}");
    assert!(requests[0] > requests[1] && arms[0]["hits"].as_u64().unwrap() > 0, "{experiment}");
    let rate = &arms[0]["hit_rate"];
    assert!(rate["low"].as_f64() < rate["value"].as_f64() && rate["high"].as_f64() <= Some(1.0), "{rate}");
    let text = node.admin("/metrics").send().await.text().to_owned();
    let of = |of: &str| {
        let labels = format!("arm=\"small\",of=\"{of}\"");
        samples(&text).find(|sample| sample.0 == "holm_plugin_experiment" && sample.1.contains(&labels)).map(|it| it.2)
    };
    assert_eq!(of("requests"), Some(requests[0] as f64));
    assert!(of("latency_us_low").is_some() && of("hit_rate_high").is_some(), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_name_the_generation_that_decided() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "page"));
    let node = lane(&origin).start().await;
    let ask = || node.get("/page").header("x-tenant", "t").send();
    ask().await;
    let hit = found("a hit", async || Some(ask().await).filter(Response::is_hit)).await;
    let generation = node.admin("/policies").send().await.json()[0]["generations"][0]["generation"].clone();
    assert_eq!(hit.cache().get("detail"), format!("lane@{}:memory", generation.as_str().unwrap()));
    let text = node.admin("/metrics").send().await.text().to_owned();
    for name in ["holm_plugin_calls_total", "holm_plugin_memo_hits_total", "holm_plugin_call_seconds_count"] {
        let labels = format!("policy=\"lane\",generation={generation},hook=\"key\"");
        let value = samples(&text).find(|sample| sample.0 == name && sample.1.contains(&labels)).map(|it| it.2);
        assert!(value.is_some_and(|value| value >= 1.0), "{name}: {value:?}");
    }
}

/// `lane` sets `x-lane`; what the client sends of that name says nothing about the response.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_varies_by_what_the_policy_sets_is_not_shared() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::fresh(600, seen.header("x-lane").to_owned()).header("vary", "x-lane"));
    let node = lane(&origin).infer("plain").start().await;
    let ask = |priority: &str| {
        let mut body = chat_request(1);
        body["priority"] = json!(priority);
        node.post("/chat").header("x-tenant", "t").json(&body).send()
    };
    for _ in 0..2 {
        assert_eq!(ask("high").await.text(), "fast");
        assert_eq!(ask("low").await.text(), "slow");
    }
    assert_eq!(origin.hits("/chat"), 4);
}
