//! The operators' view: metrics, health, the access log, request ids and traces.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{
    eventually, found,
    model::{EMBEDDINGS, embedding},
    node::{Node, samples},
    origin::{Gate, Origin, Reply},
};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The log's whole lines.
fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The line of the request with this id.
async fn logged(log: &Path, id: &str) -> Value {
    found("the request's line", async || lines(log).into_iter().find(|line| line["id"] == id)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_openmetrics_and_count_what_happened() {
    let origin = Origin::start().await;
    origin.on("/x", |_| Reply::fresh(600, "x"));
    let node = Node::builder().origin(&origin.url()).start().await;
    node.fetch("/x").await;
    node.hit("/x").await;
    let hits = node.metric("holm_requests_total", "hit-memory").await;
    for _ in 0..5 {
        assert!(node.fetch("/x").await.is_hit());
    }
    assert_eq!(node.fetch("/none").await.status, 404);
    eventually("the requests counted", async || node.metric("holm_requests_total", "hit-memory").await == hits + 5.0)
        .await;
    eventually("the 404 counted", async || node.metric("holm_responses_total", "status=\"4xx\"").await == 1.0).await;
    assert_eq!(node.metric("holm_origin_requests_total", "").await, 2.0);

    let page = node.admin("/metrics").send().await;
    assert!(page.header("content-type").starts_with("application/openmetrics-text"), "{:?}", page.headers);
    let text = page.text();
    assert!(text.ends_with("# EOF\n"), "without its end a scraper refuses it");
    for room in ["holm_http_", "holm_requests_", "holm_origin_", "holm_cache_", "holm_batch_", "process_"] {
        assert!(samples(text).any(|sample| sample.0.starts_with(room)), "{room} is missing in\n{text}");
    }
    for (name, _, value) in samples(text) {
        assert!(value.is_finite() && value >= 0.0, "{name} {value}");
        assert!(!name.contains("_total_total"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_pool_shows_how_long_its_batches_took_and_what_they_read() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    gate.open();
    embedding(&origin, gate);
    let node = Node::builder().origin(&origin.url()).infer("openai-embeddings").route("ttl_ms = 600000");
    let node = node.set("pool.web.batch", "size_max = 32\nconcurrency = 1").start().await;
    assert_eq!(node.admin("/batching").send().await.json(), json!([]), "nothing was sent yet");
    // The last one is stored, so that no model reads it.
    for inputs in [json!("abc"), json!(["d", "ef", "g", "h"]), json!(["abc", "ef"])] {
        assert_eq!(node.post(EMBEDDINGS).json(&json!({"model": "m", "input": inputs})).send().await.status, 200);
    }
    let info = found("both batches", async || {
        let info = node.admin("/batching").send().await.json();
        (info[0]["batches"] == 2).then_some(info)
    })
    .await;
    assert_eq!(info[0]["pool"], "web", "{info}");
    let (slots, tenants) = (&info[0]["slots"], info[0]["tenants"].as_array().unwrap());
    assert_eq!((slots, tenants.len(), &tenants[0]["part_ppm"]), (&json!(1), 1, &json!(1_000_000)), "{info}");
    let models =
        json!([{"model": "m", "batches": 2, "items": 5, "tokens": 8, "took_us": info[0]["models"][0]["took_us"]}]);
    assert_eq!(info[0]["models"], models, "{info}");
    assert_eq!(node.metric("holm_batch_model_items_total", "model=\"m\"").await, 5.0);
    let points = info[0]["points"].as_array().unwrap();
    let sizes: Vec<_> = points.iter().map(|point| (point["size_min"].as_u64(), point["batches"].as_u64())).collect();
    assert_eq!(sizes, [(Some(1), Some(1)), (Some(4), Some(1))], "{info}");
    for point in points {
        assert!(point["took_us"].as_u64().is_some_and(|took| took > 0) && point["fitted_us"].is_u64(), "{info}");
    }
    for (name, count) in [
        ("holm_batch_service_seconds_count", 2.0),
        ("holm_batch_size_count", 2.0),
        ("holm_batch_wait_seconds_count", 5.0),
        ("holm_batch_items_total", 5.0),
        ("holm_batch_tokens_total", 8.0),
    ] {
        assert_eq!(node.metric(name, "pool=\"web\"").await, count, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_a_line_with_the_verdict_of_each_stage() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("/x", |_| Reply::fresh(600, "0123456789"));
    let log = dir.path().join("access.log");
    let node = Node::builder().origin(&origin.url()).access_log(&log).start().await;
    let miss = node.get("/x?q=%22%20").header("x-request-id", "mine-1").header("traceparent", TRACE).send().await;
    node.hit("/x?q=%22%20").await;
    node.h2().await.send(node.get("/x?q=%22%20").header("x-request-id", "mine-2")).await;
    node.post("/none").header("x-request-id", "mine-3").send().await;

    let first = logged(&log, "mine-1").await;
    for (field, value) in [
        ("client", "127.0.0.1"),
        ("version", "HTTP/1.1"),
        ("method", "GET"),
        ("scheme", "http"),
        ("authority", "shop.test"),
        ("target", "/x?q=%22%20"),
        ("route", "all"),
        ("lookup", "miss"),
        ("fwd", "uri-miss"),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
    ] {
        assert_eq!(first[field], value, "{field} in {first}");
    }
    assert_eq!((&first["status"], &first["bytes_out"], &first["attempts"]), (&200.into(), &10.into(), &1.into()));
    assert_eq!((&first["stored"], &first["collapsed"]), (&true.into(), &false.into()));
    assert!(first["key"].as_str().is_some_and(|key| key.len() == 64), "{first}");
    assert!(first["endpoint"].as_str().is_some_and(|endpoint| origin.url().ends_with(endpoint)), "{first}");
    assert!(first["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{first}");
    assert!(first["duration_us"].as_u64().is_some_and(|took| took > 0), "{first}");
    assert!(first["accept_us"].as_u64().is_some(), "its connection's first request: {first}");
    assert_eq!(miss.header("x-request-id"), "mine-1");

    let second = logged(&log, "mine-2").await;
    assert_eq!(
        (&second["version"], &second["lookup"], &second["tier"]),
        (&"HTTP/2".into(), &"hit".into(), &"memory".into())
    );
    assert_eq!(second["key"], first["key"]);
    assert_eq!((&second["attempts"], second.get("endpoint")), (&0.into(), None));

    let third = logged(&log, "mine-3").await;
    assert_eq!((&third["method"], &third["fwd"], &third["status"]), (&"POST".into(), &"method".into(), &404.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_and_traces_reach_the_origin_and_come_back() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::ok("x").header("cache-control", "no-store"));
    let node = Node::builder().origin(&origin.url()).start().await;
    let own = node.get("/own").header("x-request-id", "abc-1").header("traceparent", TRACE).header("tracestate", "a=1");
    assert_eq!(own.send().await.header("x-request-id"), "abc-1");
    let seen = &origin.seen("/own")[0];
    assert_eq!((seen.header("x-request-id"), seen.header("tracestate")), ("abc-1", "a=1"));
    assert_eq!(seen.header("traceparent").get(..35), TRACE.get(..35), "the same trace");

    let (first, second) = (node.fetch("/made").await, node.fetch("/made").await);
    let (first, second) = (first.header("x-request-id"), second.header("x-request-id"));
    assert!(first.len() >= 16 && first != second, "{first} and {second}");
    assert_eq!(origin.seen("/made")[0].header("x-request-id"), first);

    let wrong = node.get("/wrong").header("x-request-id", "not good").header("traceparent", "00-bad");
    assert_ne!(wrong.send().await.header("x-request-id"), "not good");
    assert_eq!(origin.seen("/wrong")[0].header("traceparent"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_node_say_what_happened_where_people_look() {
    let refusing = crate::harness::liar::Refusing::new();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let node = Node::builder().origin(&refusing.url()).access_log(&log).start().await;
    let response = node.get("/x").header("x-request-id", "lost-1").send().await;
    let problem = response.json();
    assert_eq!((response.status, response.header("content-type")), (502, "application/problem+json"));
    assert_eq!(problem["status"], 502);
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
    }
    assert_eq!((response.header("x-request-id"), response.cache().node.as_str()), ("lost-1", "n1"));
    let line = logged(&log, "lost-1").await;
    assert_eq!(line["status"], 502);
    assert!(line["detail"].as_str().is_some_and(|detail| detail.contains("connect-refused")), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_readiness_are_told_apart() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/slow", move |_| Reply::ok("slow").behind(&held));
    let process = Node::builder().origin(&origin.url()).spawn().await;
    assert_eq!(process.admin("/healthz").send().await.status, 200);
    assert_eq!(process.admin("/readyz").send().await.status, 200);
    let pools = process.admin("/pools").send().await.json();
    assert!(pools.to_string().contains(origin.url().trim_start_matches("http://")), "{pools}");
    assert_eq!(process.admin("/nonsense").send().await.status, 404);

    let slow = tokio::spawn(process.get("/slow").send());
    eventually("the slow request", async || origin.hits("/slow") == 1).await;
    process.signal("TERM");
    eventually("no longer ready", async || {
        process.admin("/readyz").try_send().await.map_or(true, |it| it.status == 503)
    })
    .await;
    gate.open();
    assert_eq!(slow.await.unwrap().text(), "slow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_no_route_are_404_and_the_most_specific_route_takes_a_request() {
    let origin = Origin::start().await;
    origin.on("*", |seen| Reply::ok(seen.target.clone()).header("cache-control", "no-store"));
    let refusing = crate::harness::liar::Refusing::new();
    let node = Node::builder()
        .origin(&refusing.url())
        .set("pool.good", &format!("endpoints = [\"{}\"]", origin.url()))
        .route_before("name = \"api\"\nhosts = [\"shop.test\"]\npath = \"/api\"\npool = \"good\"")
        .route_before("name = \"behind\"\npath = \"/api/x\"\npool = \"web\"")
        .route_before("name = \"host\"\nhosts = [\"*.good.test\"]\npool = \"good\"")
        .route("hosts = [\"shop.test\"]")
        .start()
        .await;
    for (host, target, status) in [
        ("shop.test", "/api", 200),
        ("shop.test", "/api/x", 200),
        ("shop.test", "/apix", 502),
        ("a.b.good.test", "/apix", 200),
        ("good.test", "/apix", 404),
        ("elsewhere.test", "/", 404),
    ] {
        assert_eq!(node.get(target).host(host).send().await.status, status, "{host}{target}");
    }
}
