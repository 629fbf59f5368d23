//! One fetch per region: nodes that lack the same response make one request, whatever happens to the one that makes it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use holm::{
    cache::{
        Metrics,
        body::budget::Budget,
        entry::{Head, Layout, Object, Value},
        freshness::Lifetimes,
        key::Key,
        lease::{self, Ask, Order, Token},
        purge::Mark,
        store::{Tier, Tiers},
        tag::Urls,
    },
    clock::{self, Timestamp},
    config,
};
use http::{HeaderMap, StatusCode};
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use crate::harness::{
    client::Response,
    eventually, found,
    model::{ARRAY, batches, doubling},
    node::{Builder, Node},
    origin::{Gate, Origin, Reply, Taps},
    redis::Redis,
    sealed, within,
};

const NODES: usize = 4;
const CLIENTS: usize = 100;

const WAITED: &str = "holm_cache_leases_waited_total";
const TAKEN: &str = "holm_cache_leases_taken_total";
const TAKEN_OVER: &str = "holm_cache_leases_taken_over_total";

/// A node that waits for others for longer than a test lasts.
fn builder(origin: &Origin, redis: &Redis) -> Builder {
    let lines = "lease_ms = 60_000\nlease_wait_ms = 600_000";
    Node::builder().origin(&origin.url()).redis(redis).set("cache.redis", lines)
}

/// Starts so many nodes, `n1` and so on.
async fn region(builder: &Builder, count: usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    for n in 1..=count {
        nodes.push(builder.clone().name(&format!("n{n}")).start().await);
    }
    nodes
}

async fn sum(nodes: &[Node], metric: &str) -> f64 {
    let mut sum = 0.0;
    for node in nodes {
        sum += node.metric(metric, "").await;
    }
    sum
}

/// Has each node send a request for `target`: the first one has the lease before the others ask.
async fn ask_all(nodes: &[Node], origin: &Origin, target: &str) -> JoinSet<Response> {
    let mut clients = JoinSet::new();
    clients.spawn(nodes[0].get(target).send());
    eventually("the fetch of the first node", async || origin.hits(target) == 1).await;
    for node in &nodes[1..] {
        clients.spawn(node.get(target).send());
    }
    eventually("the others waiting", async || sum(nodes, WAITED).await > nodes.len() as f64 - 1.5).await;
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_at_each_of_four_nodes_make_one_fetch() {
    let (origin, redis, gate) = (Origin::start().await, Redis::start().await, Gate::closed());
    let (body, held) = (sealed("hot", 20_000), gate.clone());
    let sent = body.clone();
    origin.on("/hot", move |_| Reply::fresh(600, sent.clone()).behind(&held));
    let nodes = region(&builder(&origin, &redis), NODES).await;

    let mut clients = JoinSet::new();
    for node in nodes.iter().cycle().take(NODES * CLIENTS) {
        clients.spawn(node.get("/hot").send());
    }
    eventually("three nodes waiting", async || sum(&nodes, WAITED).await > 2.5).await;
    gate.open();
    let responses = within("all responses", clients.join_all()).await;
    assert_eq!(responses.len(), NODES * CLIENTS);
    assert!(responses.iter().all(|response| response.status == 200 && response.body == body));
    assert_eq!((origin.hits("/hot"), sum(&nodes, TAKEN).await), (1, 1.0));
    assert_eq!(sum(&nodes, TAKEN_OVER).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_amid_the_body_costs_one_more_fetch() {
    let (origin, redis, taps) = (Origin::start().await, Redis::start().await, Taps::default());
    let (body, feed) = (sealed("hot", 20_000), taps.clone());
    origin.on("/hot", move |_| Reply::fresh(600, "").header("content-length", "20000").fed(&feed));
    let short = Node::builder().origin(&origin.url()).redis(&redis).set("cache.redis", "lease_ms = 500");
    let leader = short.clone().name("leader").spawn().await;
    let nodes = region(&short, NODES - 1).await;

    let lost = tokio::spawn(leader.get("/hot").try_send());
    let first = taps.next().await;
    first.send(Ok(body.slice(..5_000))).await.unwrap();
    let mut clients = JoinSet::new();
    for node in nodes.iter().cycle().take(nodes.len() * 10) {
        clients.spawn(node.get("/hot").send());
    }
    eventually("all other nodes waiting", async || sum(&nodes, WAITED).await > nodes.len() as f64 - 0.5).await;
    leader.kill();
    assert!(lost.await.unwrap().is_err(), "its client's response broke off");

    let second = taps.next().await;
    second.send(Ok(body.clone())).await.unwrap();
    drop((first, second));
    for response in within("all responses", clients.join_all()).await {
        assert!(response.status == 200 && response.body == body, "{} bytes", response.body.len());
    }
    assert_eq!(origin.hits("/hot"), 2);
    assert_eq!(sum(&nodes, TAKEN_OVER).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_redis_stands_still_each_node_fetches_for_itself() {
    let (origin, redis, gate) = (Origin::start().await, Redis::start().await, Gate::closed());
    for target in ["/before", "/after"] {
        let held = gate.clone();
        origin.on(target, move |_| Reply::fresh(600, sealed(target, 500)).behind(&held));
    }
    let lines = "lease_ms = 60_000\nlease_wait_ms = 600_000";
    let builder = Node::builder().origin(&origin.url()).redis_within(&redis, 100).set("cache.redis", lines);
    let nodes = region(&builder, NODES).await;

    // Those that wait already, and those that come now.
    let mut clients = ask_all(&nodes, &origin, "/before").await;
    redis.freeze();
    for node in &nodes {
        clients.spawn(node.get("/after").send());
    }
    for target in ["/before", "/after"] {
        eventually("a fetch by each node", async || origin.hits(target) == NODES).await;
    }
    gate.open();
    let responses = within("all responses", clients.join_all()).await;
    assert!(responses.iter().all(|response| response.status == 200), "{responses:?}");
    assert_eq!((origin.hits("/before"), origin.hits("/after")), (NODES, NODES));
    redis.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uncacheable_response_makes_no_node_queue() {
    let (origin, redis, gate) = (Origin::start().await, Redis::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/mine", move |_| Reply::ok("mine").header("cache-control", "no-store").behind(&held));
    let builder = builder(&origin, &redis);
    let nodes = region(&builder, NODES).await;
    let clients = ask_all(&nodes, &origin, "/mine").await;
    gate.release(1);
    // All at once, while none of them has a response yet.
    eventually("the fetches of all others", async || origin.hits("/mine") == NODES).await;
    gate.open();
    for response in within("all responses", clients.join_all()).await {
        assert_eq!((response.status, response.text()), (200, "mine"));
    }
    // A node that has never asked for it knows it from the region.
    let late = builder.name("late").start().await;
    assert_eq!(late.fetch("/mine").await.text(), "mine");
    assert_eq!((late.metric(TAKEN, "").await, late.metric(WAITED, "").await), (0.0, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_makes_no_node_queue() {
    let (origin, redis, gate) = (Origin::start().await, Redis::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/failing", move |_| Reply::status(500).behind(&held));
    let nodes = region(&builder(&origin, &redis), NODES).await;
    let clients = ask_all(&nodes, &origin, "/failing").await;
    gate.release(1);
    eventually("the fetches of all others", async || origin.hits("/failing") == NODES).await;
    gate.open();
    for response in within("all responses", clients.join_all()).await {
        assert_eq!(response.status, 500);
    }
}

/// Its readers would get nothing of it before its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_larger_than_a_value_of_redis_is_waited_for_by_no_other_node() {
    const LENGTH: usize = 5 << 20;
    let (origin, redis, taps) = (Origin::start().await, Redis::start().await, Taps::default());
    let (body, feed) = (sealed("large", LENGTH), taps.clone());
    origin.on("/large", move |_| Reply::fresh(600, "").header("content-length", &LENGTH.to_string()).fed(&feed));
    let nodes = region(&builder(&origin, &redis), 2).await;
    let first = tokio::spawn(nodes[0].get("/large").send());
    let slow = taps.next().await;
    slow.send(Ok(body.slice(..1_000))).await.unwrap();
    let second = tokio::spawn(nodes[1].get("/large").send());
    let quick = taps.next().await;
    quick.send(Ok(body.clone())).await.unwrap();
    drop(quick);
    assert_eq!(within("the second response", second).await.unwrap().body, body);
    slow.send(Ok(body.slice(1_000..))).await.unwrap();
    drop(slow);
    assert_eq!(within("the first response", first).await.unwrap().body, body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_purged_while_a_node_waits_is_not_served_by_it() {
    let (origin, redis, gate) = (Origin::start().await, Redis::start().await, Gate::closed());
    let held = gate.clone();
    origin.on("/x", move |_| Reply::fresh(600, "old").behind(&held));
    let nodes = region(&builder(&origin, &redis), 2).await;
    let first = tokio::spawn(nodes[0].get("/x").send());
    eventually("the fetch", async || origin.hits("/x") == 1).await;
    nodes[0].purge_url("/x", false).await;
    origin.on("/x", |_| Reply::fresh(600, "new"));
    let second = tokio::spawn(nodes[1].get("/x").send());
    eventually("the other node waiting", async || nodes[1].metric(WAITED, "").await > 0.5).await;
    gate.open();
    within("the first response", first).await.unwrap();
    assert_eq!(within("the second response", second).await.unwrap().text(), "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_does_not_wait_for_the_one_that_has_sent_it_the_request() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.on("/x", |_| Reply::fresh(600, "x"));
    let back = builder(&origin, &redis).name("back").start().await;
    let lines = "lease_ms = 60_000\nlease_wait_ms = 600_000";
    let front = Node::builder().origin(&format!("http://{}", back.address)).redis(&redis).set("cache.redis", lines);
    let front = front.name("front").start().await;
    assert_eq!(front.fetch("/x").await.text(), "x");
    assert_eq!((origin.hits("/x"), back.metric(WAITED, "").await), (1, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_is_made_once_in_a_region() {
    let (origin, redis, gate) = (Origin::start().await, Redis::start().await, Gate::closed());
    let (held, count) = (gate.clone(), AtomicUsize::new(0));
    origin.on("/x", move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::ok("v1").header("cache-control", "max-age=1, stale-while-revalidate=600"),
        _ => Reply::fresh(600, "v2").behind(&held),
    });
    let nodes = region(&builder(&origin, &redis), 2).await;
    nodes[0].fetch("/x").await;
    nodes[1].stale("/x").await;
    eventually("a refresh by one, and the other waiting", async || {
        for node in &nodes {
            assert_eq!(node.fetch("/x").await.text(), "v1");
        }
        origin.hits("/x") == 2 && sum(&nodes, WAITED).await > 0.5
    })
    .await;
    gate.open();
    for node in &nodes {
        eventually("what was refreshed", async || node.fetch("/x").await.text() == "v2").await;
    }
    assert_eq!(origin.hits("/x"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_asked_for_at_two_nodes_is_sent_once_and_holds_up_no_other() {
    let (origin, redis, gate) = (Origin::start().await, Redis::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let builder = builder(&origin, &redis).infer("json-array").route("ttl_ms = 600000");
    let nodes = region(&builder, 2).await;
    let first = tokio::spawn(nodes[0].post(ARRAY).json(&json!([{"n": 3}])).send());
    eventually("the first item", async || origin.hits(ARRAY) == 1).await;
    let second = tokio::spawn(nodes[1].post(ARRAY).json(&json!([{"n": 3}, {"n": 4}])).send());
    eventually("the other item, and the wait for the first", async || {
        origin.hits(ARRAY) == 2 && nodes[1].metric(WAITED, "").await > 0.5
    })
    .await;
    gate.open();
    let first = within("the first reply", first).await.unwrap();
    assert_eq!(first.json(), json!([{"double": 6}]));
    let second = within("the second reply", second).await.unwrap();
    assert_eq!(second.json(), json!([{"double": 6}, {"double": 8}]));
    let mut sent: Vec<Json> = batches(&origin, ARRAY).concat();
    sent.sort_by_key(|item| item["n"].as_u64());
    assert_eq!(sent, [json!({"n": 3}), json!({"n": 4})]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_another_node_fetched_in_vain_has_a_place_in_a_full_queue_once_others_of_its_request_have() {
    let (origin, redis, gate) = (Origin::start().await, Redis::start().await, Gate::closed());
    let (held, asked) = (gate.clone(), AtomicUsize::new(0));
    origin.on(ARRAY, move |seen| {
        if asked.fetch_add(1, Ordering::SeqCst) == 0 {
            return Reply::says(422, "not now").behind(&held);
        }
        let items: Vec<Json> = serde_json::from_slice(&seen.body).unwrap();
        Reply::ok(Json::Array(items).to_string()).behind(&held)
    });
    let builder = builder(&origin, &redis).infer("json-array").route("ttl_ms = 600000");
    let nodes = region(&builder.set("pool.web.batch", "size_max = 1\nqueue_max = 2\nconcurrency = 1"), 2).await;
    let first = tokio::spawn(nodes[0].post(ARRAY).json(&json!({"n": 3})).send());
    eventually("the first item", async || origin.hits(ARRAY) == 1).await;
    let second = tokio::spawn(nodes[1].post(ARRAY).json(&json!([{"n": 3}, {"n": 4}])).send());
    eventually("the other item, and the wait for the first", async || {
        origin.hits(ARRAY) == 2 && nodes[1].metric(WAITED, "").await > 0.5
    })
    .await;
    let others = json!([{"n": 5}, {"n": 6}, {"n": 7}]);
    let third = tokio::spawn(nodes[1].post(ARRAY).json(&others).send());
    nodes[1].waiting(3.0).await;
    gate.release(1);
    assert_eq!(within("the first reply", first).await.unwrap().status, 422);
    nodes[1].waiting(4.0).await;
    gate.open();
    let second = within("the second reply", second).await.unwrap();
    assert_eq!((second.status, second.json()), (200, json!([{"n": 3}, {"n": 4}])), "{}", second.text());
    assert_eq!(second.header("holm-usage"), "items=2, sent=2");
    assert_eq!(within("the third reply", third).await.unwrap().json(), others);
}

/// The tiers of a node, and its counts.
async fn tiers(redis: &Redis) -> (Tiers, Metrics) {
    let config = config::Cache {
        redis: Some(config::Redis {
            budget: Duration::from_secs(2),
            lease: Duration::from_secs(60),
            ..config::Redis::new(redis.url())
        }),
        clock_skew: Duration::from_secs(2),
        ..config::Cache::default()
    };
    let metrics = Metrics::default();
    let bodies = Budget::new(1 << 30, Gauge::default());
    (Tiers::open(&config, &bodies, &metrics).await.unwrap(), metrics)
}

fn response(body: &'static str) -> Arc<Object> {
    let now = clock::now();
    let head = Head {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        own: HeaderMap::new(),
        requested_at: now,
        stored_at: now,
        initial_age_ms: 0,
        fetch_ms: 1,
        lifetimes: Lifetimes { ttl_ms: 600_000, ..Lifetimes::default() },
        tags: Vec::new(),
        urls: Urls::Unknown,
        mark: Mark::default(),
        for_authorized: false,
        forbids_stale: false,
        length: body.len() as u64,
        layout: Layout::Whole,
    };
    Object::new(head, Bytes::from_static(body.as_bytes()))
}

const KEY: Key = Key::from_bytes([7; 32]);
const NOTHING_KNOWN: Ask = Ask { seen: None, waits_for: None, has: Timestamp(0) };

/// Returns the reply to a question for the lease of [`KEY`], once Redis is connected.
async fn asked(tiers: &Tiers) -> lease::Reply {
    found("a reply of Redis", async || {
        let reply = tiers.leases().unwrap().ask(&KEY, &NOTHING_KNOWN, b"").await;
        (reply != lease::Reply::None).then_some(reply)
    })
    .await
}

async fn granted(tiers: &Tiers) -> Token {
    match asked(tiers).await {
        lease::Reply::Granted(token) => token,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_write_under_a_lease_that_has_passed_on_is_refused() {
    let redis = Redis::start().await;
    let ((one, metrics), (two, _)) = (tiers(&redis).await, tiers(&redis).await);
    let (old, new) = (response("old"), response("new"));
    let put = |tiers: &Tiers, object: &Arc<Object>, order: &Order| {
        assert!(tiers.insert(KEY, Value::Object(Arc::clone(object)), 600_000, Some(order)));
    };
    let token = granted(&one).await;
    let outdated = one.leases().unwrap().begin(&KEY, token);
    assert_eq!(asked(&two).await, lease::Reply::Held(token));
    assert_eq!(asked(&one).await, lease::Reply::Own);

    // As if the node had stood still until its lease was over.
    let name = [&b"{holm}:l:"[..], KEY.as_bytes()].concat();
    redis.ask::<()>(redis::cmd("DEL").arg(&name)).await;
    let next = granted(&two).await;
    assert!(next > token, "{next:?} after {token:?}");
    let current = two.leases().unwrap().begin(&KEY, next);

    let late = outdated.order(&old.head);
    put(&one, &old, &late);
    drop(outdated);
    put(&one, &old, &late);
    eventually("refusals while the other node fetches", async || metrics.redis_writes_older.get() == 2).await;
    assert!(redis.values().await.is_empty());
    assert_eq!(asked(&one).await, lease::Reply::Held(next), "the lease of another isn't ended");

    put(&two, &new, &current.order(&new.head));
    current.note_stored();
    drop(current);
    eventually("the note that it is stored", async || asked(&one).await == lease::Reply::Landed(Some(next))).await;
    put(&one, &old, &late);
    eventually("a refusal once it is stored", async || metrics.redis_writes_older.get() == 3).await;
    let Some(Value::Object(stored)) = two.glance(Tier::Redis, &KEY).await else { panic!("nothing is stored") };
    assert_eq!(stored.body, "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_response_of_another_node_replaces_no_newer_one() {
    let redis = Redis::start().await;
    let hour = clock::millis(Duration::from_secs(3_600));
    let future = clock::now().0 + hour;
    // Token, time of the request, `Date`; clocks differ by 2 s.
    let cases = [
        ((0, 52_001, 1), (0, 50_000, 9), false),
        ((0, 50_000, 9), (0, 52_001, 1), true),
        ((0, 52_000, 2), (0, 50_000, 1), false),
        ((0, 50_000, 2), (0, 52_000, 1), false),
        ((0, 52_000, 1), (0, 50_000, 1), true),
        ((0, future, 9), (0, 50_000, 1), true),
        ((5, 50_000, 1), (4, 60_000, 9), false),
        ((4, 60_000, 9), (5, 50_000, 1), true),
        ((4, 50_000, 1), (4, 50_000, 1), true),
        ((5, 60_000, 1), (0, 50_000, 9), false),
        ((0, 50_000, 9), (5, 60_000, 1), true),
    ];
    for (index, (stored, own, is_replaced)) in cases.into_iter().enumerate() {
        let (tiers, metrics) = tiers(&redis).await;
        let key = Key::from_bytes([u8::try_from(index).unwrap(); 32]);
        for ((token, requested_at, made), body) in [(stored, "stored"), (own, "own")] {
            let order = Order { token, requested_at, made, lease: None };
            let value = Value::Part(Bytes::from_static(body.as_bytes()));
            assert!(tiers.insert(key, value, 600_000, Some(&order)));
        }
        // Writes out what waits.
        tiers.close().await;
        let what = format!("{own:?} after {stored:?}");
        assert_eq!(metrics.redis_writes_older.get(), u64::from(!is_replaced), "{what}");
        let name = [&b"{holm}:o:"[..], key.as_bytes()].concat();
        let value: Vec<u8> = redis.ask(redis::cmd("GET").arg(&name)).await;
        assert!(value.ends_with(if is_replaced { &b"own"[..] } else { b"stored" }), "{what}");
    }
}
