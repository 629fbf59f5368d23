//! The queue in front of a model: lists longer than it, what is refused and when to ask again, shares of tenants, slots.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{
    client::{Conn, Response},
    eventually,
    model::{ARRAY, EMBEDDINGS, batches, doubling, embedding, vector},
    node::{Builder, Node},
    origin::{Gate, Origin, Reply},
};

fn asking(origin: &Origin, protocol: &str, batch: &str) -> Builder {
    Node::builder().origin(&origin.url()).infer(protocol).set("pool.web.batch", batch)
}

/// Sends the item `n` on a stream of its own, with these credentials.
fn ask(node: &Node, conn: &Conn, asks: &mut JoinSet<(u64, Response)>, n: u64, who: &str) {
    let mut stream = conn.stream();
    let request = node.post(ARRAY).header("authorization", who).json(&json!({"n": n}));
    asks.spawn(async move { (n, stream.send(request).await) });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_longer_than_the_queue_are_answered_also_several_at_once() {
    let origin = Origin::start().await;
    embedding(&origin, Gate::opened());
    let node = asking(&origin, "openai-embeddings", "queue_max = 100\nconcurrency = 1").start().await;
    let list = |list: usize| -> Vec<String> { (0..500).map(|n| format!("text {n} of list {list}")).collect() };
    let posts = [0, 1].map(|n| {
        let inputs = list(n);
        let request = node.post(EMBEDDINGS).json(&json!({"model": "m", "input": inputs}));
        async move { (inputs, request.send().await) }
    });
    for (inputs, response) in futures_util::future::join_all(posts).await {
        assert_eq!(response.status, 200, "{}", response.text());
        let vectors: Vec<Value> =
            response.json()["data"].as_array().unwrap().iter().map(|entry| entry["embedding"].clone()).collect();
        assert_eq!(vectors, inputs.iter().map(|input| vector(input)).collect::<Vec<_>>());
    }
    assert_eq!(batches(&origin, EMBEDDINGS).concat().len(), 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_whole_requests_and_has_room_for_other_tenants() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let node = asking(&origin, "json-array", "size_max = 1\nqueue_max = 4\nconcurrency = 1").start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for n in 0..5 {
        ask(&node, &conn, &mut asks, n, "Bearer greedy");
        // The first one is under way.
        node.waiting(f64::from(u32::try_from(n).unwrap())).await;
    }
    let list = json!([{"n": 5}, {"n": 6}]);
    let refused = node.post(ARRAY).header("authorization", "Bearer greedy").json(&list).send().await;
    assert_eq!(node.metric("holm_batch_refused_total", "reason=\"queue-full\"").await, 2.0);
    assert_eq!(refused.header("retry-after"), "1");
    ask(&node, &conn, &mut asks, 7, "Bearer modest");
    node.waiting(5.0).await;
    gate.open();
    for (n, response) in asks.join_all().await {
        assert_eq!((response.status, response.json()), (200, json!({"double": 2 * n})));
    }
    let asked: Vec<Value> = batches(&origin, ARRAY).concat();
    assert_eq!(asked.len(), 6, "nothing of the refused request was sent");
    assert_eq!(asked[1], json!({"n": 7}), "the tenant that was served least is next");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_refused_with_one_of_its_items_whatever_the_others_are() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let batch = "size_max = 1\nqueue_max = 4\nconcurrency = 1";
    let node = asking(&origin, "json-array", batch).route("ttl_ms = 600000").start().await;
    gate.release(1);
    assert_eq!(node.post(ARRAY).json(&json!({"n": 100})).send().await.status, 200);
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for n in 0..5 {
        let (mut stream, request) = (conn.stream(), node.post(ARRAY).json(&json!({"n": n})));
        asks.spawn(async move { (n, stream.send(request).await) });
        // The first one is under way.
        node.waiting(f64::from(n)).await;
    }
    // 100 is known, 1 is asked for already, and 200 is new.
    for numbers in [&[100, 200][..], &[200, 1], &[1, 100, 200, 200]] {
        let list: Vec<Value> = numbers.iter().map(|n| json!({ "n": n })).collect();
        let refused = node.post(ARRAY).json(&json!(list)).send().await;
        assert_eq!((refused.status, refused.cache().get("detail")), (429, "queue-full"), "{numbers:?}");
        assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|after| after > 0), "{numbers:?}");
        assert!(refused.header("holm-usage").contains("sent=0"), "{}", refused.header("holm-usage"));
    }
    gate.open();
    for (n, response) in asks.join_all().await {
        assert_eq!((response.status, response.json()), (200, json!({"double": 2 * n})));
    }
    assert!(!batches(&origin, ARRAY).concat().contains(&json!({"n": 200})), "nothing of them was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_asks_for_again_has_a_place_in_a_full_queue_once_others_of_its_items_have() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let batch = "size_max = 1\nqueue_max = 4\nconcurrency = 1";
    let node = asking(&origin, "json-array", batch).route("ttl_ms = 600000").start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    let mut ask = |items: Value, wanted: Value| {
        let (mut stream, request) = (conn.stream(), node.post(ARRAY).json(&items));
        asks.spawn(async move { (wanted, stream.send(request).await) });
    };
    ask(json!({"n": 1}), json!({"double": 2}));
    eventually("a batch", async || origin.hits(ARRAY) == 1).await;
    node.purge_url(ARRAY, false).await;
    // It waits for 1 in vain, since that was purged, and has 2 sent as soon as it knows.
    ask(json!([{"n": 1}, {"n": 2}]), json!([{"double": 2}, {"double": 4}]));
    node.waiting(1.0).await;
    for n in [3, 4] {
        ask(json!({ "n": n }), json!({"double": 2 * n}));
        node.waiting(f64::from(n - 1)).await;
    }
    // A list takes two places although one is left: the queue is full with one of them gone as well.
    ask(json!([{"n": 5}, {"n": 6}, {"n": 7}]), json!([{"double": 10}, {"double": 12}, {"double": 14}]));
    node.waiting(6.0).await;
    gate.release(1);
    eventually("the other item being sent", async || origin.hits(ARRAY) == 2).await;
    node.waiting(6.0).await;
    let refused = node.post(ARRAY).json(&json!([{"n": 8}])).send().await;
    assert_eq!((refused.status, refused.header("holm-usage")), (429, "items=1, sent=0"), "one that is new");
    gate.open();
    for (wanted, response) in asks.join_all().await {
        assert_eq!((response.status, response.json()), (200, wanted.clone()));
        let items = wanted.as_array().map_or(1, Vec::len);
        assert_eq!(response.header("holm-usage"), format!("items={items}, sent={items}"), "{wanted}");
    }
    assert_eq!(batches(&origin, ARRAY).concat().len(), 8, "1 twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tenant_is_what_the_route_says() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let batch = "size_max = 1\nqueue_max = 2\nconcurrency = 1";
    let node = asking(&origin, "json-array", batch).route("tenant = \"none\"").start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for n in 0..3 {
        ask(&node, &conn, &mut asks, n, &format!("Bearer {n}"));
        node.waiting(f64::from(u32::try_from(n).unwrap())).await;
    }
    let refused = node.post(ARRAY).header("authorization", "Bearer other").json(&json!({"n": 9})).send().await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"), "all are one tenant's");
    gate.open();
    assert!(asks.join_all().await.iter().all(|(_, response)| response.status == 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_to_one_tenant_is_sent_for_another_that_waits_for_the_same() {
    const FULL: u64 = 40;
    const SHARED: u64 = 16;
    let (origin, gate) = (Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let batch = format!("size_max = 1\nqueue_max = {FULL}\nconcurrency = 1");
    let team = "tenant = \"header:x-team\"\nignore_headers = [\"x-team\"]";
    let node = asking(&origin, "json-array", &batch).route(team).start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    let mut ask = |n: u64, team: &'static str| {
        let (mut stream, request) = (conn.stream(), node.post(ARRAY).header("x-team", team).json(&json!({"n": n})));
        asks.spawn(async move { (n, team, stream.send(request).await) });
    };
    ask(0, "greedy");
    eventually("a batch", async || origin.hits(ARRAY) == 1).await;
    for n in 1..=FULL {
        ask(n, "greedy");
    }
    node.waiting(40.0).await;
    for n in 100..100 + SHARED {
        ask(n, "greedy");
        ask(n, "modest");
    }
    node.waiting(56.0).await;
    gate.open();
    for (n, team, response) in asks.join_all().await {
        if response.status != 200 {
            assert_eq!((response.status, team, n >= 100), (429, "greedy", true), "{n}: {}", response.text());
            continue;
        }
        assert_eq!(response.json(), json!({"double": 2 * n}), "{team}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_pool_is_dead_takes_a_slot_of_the_next_one() {
    const CLIENTS: u64 = 6;
    let (dead, origin, gate) = (Origin::start().await, Origin::start().await, Gate::closed());
    let (begun, responded, most) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (held, begins, responses, at_once) =
        (gate.clone(), Arc::clone(&begun), Arc::clone(&responded), Arc::clone(&most));
    origin.on(ARRAY, move |seen| {
        let begun = begins.fetch_add(1, SeqCst) + 1;
        at_once.fetch_max(begun - responses.load(SeqCst), SeqCst);
        let items: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
        Reply::ok(Value::Array(items).to_string()).behind(&held)
    });
    let url = dead.url();
    dead.stop().await;
    let node = Node::builder()
        .origin(&url)
        .infer("json-array")
        .set("pool.web.batch", "concurrency = 6")
        .set("pool.spare", &format!("endpoints = [\"{}\"]\nconnect_ms = 60_000", origin.url()))
        .set("pool.spare.batch", "concurrency = 1")
        .route("candidates = [{ pool = \"web\" }, { pool = \"spare\" }]")
        .start()
        .await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for n in 0..CLIENTS {
        ask(&node, &conn, &mut asks, n, &format!("Bearer {n}"));
    }
    node.took_over_h2(u32::try_from(CLIENTS).unwrap()).await;
    for one in 1..=usize::try_from(CLIENTS).unwrap() {
        eventually("a batch", async || begun.load(SeqCst) >= one).await;
        responded.fetch_add(1, SeqCst);
        gate.release(1);
    }
    for (n, response) in asks.join_all().await {
        assert_eq!((response.status, response.json()), (200, json!({"n": n})));
    }
    assert_eq!(most.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_that_another_candidate_makes_good_lower_the_slots_of_the_pool_that_refused() {
    let (busy, origin) = (Origin::start().await, Origin::start().await);
    busy.on(ARRAY, |_| Reply::says(429, "too many"));
    doubling(&origin, Gate::opened());
    let node = asking(&busy, "json-array", "concurrency = 8")
        .set("pool.spare", &format!("endpoints = [\"{}\"]", origin.url()))
        .route("candidates = [{ pool = \"web\" }, { pool = \"spare\" }]")
        .start()
        .await;
    for n in 0..20 {
        let response = node.post(ARRAY).json(&json!({"n": n})).send().await;
        assert_eq!((response.status, response.json()), (200, json!({"double": 2 * n})));
    }
    assert_eq!(busy.hits(ARRAY), 20);
    eventually("fewer slots", async || node.metric("holm_batch_slots", "pool=\"web\"").await < 8.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_each_endpoint_of_a_pool_has_one_batch() {
    // Fewer than show how endpoints differ: here it is the gate that makes some batches take longer than others.
    const ROUNDS: u64 = 4;
    let gate = Gate::closed();
    let mut origins = Vec::new();
    for _ in 0..4 {
        let origin = Origin::start().await;
        doubling(&origin, gate.clone());
        origins.push(origin);
    }
    let urls: Vec<String> = origins.iter().map(Origin::url).collect();
    let node = Node::builder().endpoints(&urls).infer("json-array").start().await;
    let hits = || origins.iter().map(|origin| origin.hits(ARRAY)).collect::<Vec<usize>>();
    // How long a batch takes is known after the first.
    gate.release(1);
    assert_eq!(node.post(ARRAY).json(&json!({"n": 0})).send().await.status, 200);
    let conn = node.h2().await;
    for round in 0..ROUNDS {
        let (before, mut asks) = (hits(), JoinSet::new());
        for n in 0..4 {
            ask(&node, &conn, &mut asks, 4 * round + n, "Bearer one");
            let sent = before.iter().sum::<usize>() + usize::try_from(n).unwrap() + 1;
            eventually("the batch", async || hits().iter().sum::<usize>() == sent).await;
        }
        let new: Vec<usize> = hits().iter().zip(&before).map(|(after, before)| after - before).collect();
        assert_eq!(new, [1; 4], "round {round}");
        gate.release(4);
        assert!(asks.join_all().await.iter().all(|(_, response)| response.status == 200));
    }
}
