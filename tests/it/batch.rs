//! Items: gathered into batches, each distinct one sent once, each with a result or an error of its own.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{
    client::Response,
    eventually, found,
    model::{ARRAY, EMBEDDINGS, batches, doubling, embedding, vector},
    node::{Builder, Node},
    origin::{Gate, Origin, Reply},
};

/// A node for items of this protocol whose responses are stored.
fn asking(origin: &Origin, protocol: &str) -> Builder {
    Node::builder().origin(&origin.url()).infer(protocol).route("ttl_ms = 600000")
}

async fn doubled(node: &Node, item: &Value) -> Response {
    node.post(ARRAY).json(item).send().await
}

/// Asks for the embeddings of `inputs` and checks that each is in its place.
async fn embedded(node: &Node, inputs: &[String]) -> Value {
    let response = node.post(EMBEDDINGS).json(&json!({"model": "m", "input": inputs})).send().await;
    assert_eq!(response.status, 200, "{}", response.text());
    let list = response.json();
    let data = list["data"].as_array().unwrap();
    assert_eq!(data.len(), inputs.len());
    for (index, (entry, input)) in data.iter().zip(inputs).enumerate() {
        assert_eq!((&entry["index"], &entry["embedding"]), (&json!(index), &vector(input)), "{input}");
    }
    assert_eq!((&list["object"], &list["model"]), (&json!("list"), &json!("m")));
    list
}

fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("text number {n}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_posts_become_few_batches_and_each_gets_its_own_response() {
    let origin = Origin::start().await;
    doubling(&origin, Gate::opened());
    let batch = "size_max = 16\nwait_us_max = 20000\nconcurrency = 1";
    let node = asking(&origin, "json-array").set("pool.web.batch", batch).start().await;
    let conn = node.h2().await;
    let mut asks = JoinSet::new();
    for n in 0..64 {
        let (mut stream, ask) = (conn.stream(), node.post(ARRAY).json(&json!({"n": n})));
        asks.spawn(async move { (n, stream.send(ask).await) });
    }
    for (n, response) in asks.join_all().await {
        assert_eq!((response.status, response.json()), (200, json!({"double": 2 * n})));
    }
    let sent = batches(&origin, ARRAY);
    assert_eq!(sent.iter().map(Vec::len).sum::<usize>(), 64, "each item once");
    assert!(sent.iter().all(|batch| batch.len() <= 16) && sent.len() <= 16, "{} batches", sent.len());

    for n in 0..64 {
        let response = doubled(&node, &json!({"n": n})).await;
        assert_eq!((response.is_hit(), response.json()), (true, json!({"double": 2 * n})), "{:?}", response.cache());
    }
    assert_eq!(batches(&origin, ARRAY).len(), sent.len(), "known items aren't sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_thirty_two_inputs_twelve_are_new_and_twelve_are_sent() {
    let origin = Origin::start().await;
    embedding(&origin, Gate::opened());
    let node = asking(&origin, "openai-embeddings").set("pool.web.batch", "size_max = 32").start().await;
    embedded(&node, &texts(0..20)).await;
    let mut inputs = texts(20..32);
    inputs.extend(texts(0..20));
    inputs.rotate_left(5);
    let list = embedded(&node, &inputs).await;
    let sent: Vec<Value> = batches(&origin, EMBEDDINGS).into_iter().skip(1).flatten().collect();
    let asked: BTreeSet<&str> = sent.iter().filter_map(Value::as_str).collect();
    let new = texts(20..32);
    assert_eq!(asked, new.iter().map(String::as_str).collect::<BTreeSet<_>>());
    assert_eq!(sent.len(), 12);
    let bytes: usize = inputs.iter().map(String::len).sum();
    assert_eq!(list["usage"], json!({"prompt_tokens": bytes, "total_tokens": bytes}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_stands_twice_in_a_request_is_sent_once() {
    let origin = Origin::start().await;
    embedding(&origin, Gate::opened());
    let node = asking(&origin, "openai-embeddings").start().await;
    let inputs = ["a", "b", "a", "a", "b"].map(str::to_owned);
    embedded(&node, &inputs).await;
    assert_eq!(batches(&origin, EMBEDDINGS).concat().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_overlap_share_what_they_have_in_common() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    embedding(&origin, gate.clone());
    let batch = "size_max = 32\nwait_us_max = 1000\nconcurrency = 8";
    let node = asking(&origin, "openai-embeddings").set("pool.web.batch", batch).start().await;
    let (left, right) = (texts(0..10), texts(5..15));
    let watching = async {
        eventually("fifteen under way", async || batches(&origin, EMBEDDINGS).concat().len() >= 15).await;
        gate.open();
    };
    tokio::join!(embedded(&node, &left), embedded(&node, &right), watching);
    assert_eq!(batches(&origin, EMBEDDINGS).concat().len(), 15);
}

/// Counts a model's requests: `begun` when one has arrived, `responded` when the test lets its response through. `most`
/// is the most that it had at once.
#[derive(Default)]
struct AtOnce {
    begun: AtomicUsize,
    responded: AtomicUsize,
    most: AtomicUsize,
}

impl AtOnce {
    fn begins(&self) {
        let begun = self.begun.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(begun - self.responded.load(SeqCst), SeqCst);
    }

    /// Lets the responses to `count` requests through, each when its request has come.
    async fn respond(&self, gate: &Gate, count: usize) {
        for one in 1..=count {
            eventually("a request", async || self.begun.load(SeqCst) >= one).await;
            self.responded.fetch_add(1, SeqCst);
            gate.release(1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_whose_result_was_purged_before_they_came_share_another_one() {
    const CLIENTS: u32 = 8;
    let (origin, gate) = (Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let node = asking(&origin, "json-array").set("pool.web.batch", "size_max = 1\nconcurrency = 16").start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    let mut ask = || {
        let (mut stream, request) = (conn.stream(), node.post(ARRAY).json(&json!({"n": 1})));
        asks.spawn(async move { stream.send(request).await });
    };
    ask();
    eventually("the fetch", async || origin.hits(ARRAY) == 1).await;
    node.purge_url(ARRAY, false).await;
    for _ in 0..CLIENTS {
        ask();
    }
    node.took_over_h2(1 + CLIENTS).await;
    gate.open();
    for response in asks.join_all().await {
        assert_eq!((response.status, response.json()), (200, json!({"double": 2})));
    }
    assert_eq!(batches(&origin, ARRAY).concat().len(), 2, "one before the purge and one after it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_with_one_slot_sends_one_batch_at_a_time_whoever_asks() {
    const CLIENTS: usize = 12;
    let (origin, gate, model) = (Origin::start().await, Gate::closed(), Arc::new(AtOnce::default()));
    let (held, counting) = (gate.clone(), Arc::clone(&model));
    origin.on(ARRAY, move |seen| {
        counting.begins();
        let asked: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
        let responses: Vec<Value> =
            asked.iter().map(|item| json!({"n": item["n"], "who": seen.header("authorization")})).collect();
        Reply::ok(Value::Array(responses).to_string()).behind(&held)
    });
    let node = asking(&origin, "json-array").set("pool.web.batch", "concurrency = 1").start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for n in 0..CLIENTS {
        let (mut stream, who) = (conn.stream(), format!("Bearer {n}"));
        let ask = node.post(ARRAY).header("authorization", &who).json(&json!({"n": n}));
        asks.spawn(async move { (n, who, stream.send(ask).await) });
    }
    node.took_over_h2(u32::try_from(CLIENTS).unwrap()).await;
    model.respond(&gate, CLIENTS).await;
    for (n, who, response) in asks.join_all().await {
        assert_eq!((response.status, response.json()), (200, json!({"n": n, "who": who})));
    }
    assert_eq!((origin.hits(ARRAY), model.most.load(SeqCst)), (CLIENTS, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_to_one_pool_share_its_slots() {
    let (origin, gate, model) = (Origin::start().await, Gate::closed(), Arc::new(AtOnce::default()));
    for path in ["/left", "/right"] {
        let (held, counting) = (gate.clone(), Arc::clone(&model));
        origin.on(path, move |_| {
            counting.begins();
            Reply::ok(json!([path]).to_string()).behind(&held)
        });
    }
    let mut builder = Node::builder().origin(&origin.url()).set("pool.web.batch", "concurrency = 1");
    for path in ["/left", "/right"] {
        let mode = "mode = \"infer\"\nprotocol = \"json-array\"";
        builder =
            builder.route_before(&format!("name = \"{}\"\npath = \"{path}\"\npool = \"web\"\n{mode}", &path[1..]));
    }
    let node = builder.start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for path in ["/left", "/right"] {
        let (mut stream, ask) = (conn.stream(), node.post(path).json(&json!({"n": 1})));
        asks.spawn(async move { (path, stream.send(ask).await) });
    }
    node.took_over_h2(2).await;
    model.respond(&gate, 2).await;
    for (path, response) in asks.join_all().await {
        assert_eq!((response.status, response.json()), (200, json!(path)));
    }
    assert_eq!(model.most.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_items_error_is_its_own_and_is_not_stored() {
    let origin = Origin::start().await;
    doubling(&origin, Gate::opened());
    let node = asking(&origin, "json-array").start().await;
    let items = json!([{"n": 1}, {"n": "x"}, {"n": 3}]);
    for _ in 0..2 {
        let response = doubled(&node, &items).await;
        let list = response.json();
        assert_eq!((response.status, &list[0], &list[2]), (200, &json!({"double": 2}), &json!({"double": 6})));
        assert_eq!(list[1]["error"]["status"], 422);
    }
    let sent = batches(&origin, ARRAY).concat();
    assert_eq!(sent.iter().filter(|item| item["n"] == "x").count(), 2, "sent again");
    assert_eq!(sent.len(), 4, "and nothing else is");
    let alone = doubled(&node, &json!({"n": "x"})).await;
    assert_eq!((alone.status, &alone.json()["error"]["status"]), (422, &json!(422)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_models_failure_reaches_all_its_clients_and_is_not_stored() {
    let origin = Origin::start().await;
    let node = asking(&origin, "json-array").set("pool.web", "attempts_max = 1").start().await;
    // Of one item what the model says is the response, unless it is a list that isn't the item's.
    for (status, body, alone_status) in
        [(500, "broken", 500), (200, "<h1>not JSON</h1>", 200), (200, "[1, 2, 3]", 502), (200, "{\"double\": 2}", 200)]
    {
        origin.on(ARRAY, move |_| Reply::says(status, body));
        let response = doubled(&node, &json!([{"n": 1}, {"n": 2}])).await;
        if status == 500 {
            assert_eq!((response.status, response.text()), (500, body));
        } else {
            let list = response.json();
            let all_failed = list.as_array().is_some_and(|list| list.iter().all(|item| item["error"].is_object()));
            assert!(all_failed && response.status == 200, "{}: {list}", response.status);
        }
        for alone in [json!({"n": 3}), json!([{"n": 3}])] {
            let hits = origin.hits(ARRAY);
            let response = doubled(&node, &alone).await;
            assert_eq!(origin.hits(ARRAY), hits + 1, "nothing is stored");
            if alone_status == 502 {
                assert!(response.text().contains("3 results for 1 items"), "{}", response.text());
            } else {
                assert_eq!((response.status, response.text()), (alone_status, body), "{alone}");
            }
        }
    }
    doubling(&origin, Gate::opened());
    let response = doubled(&node, &json!([{"n": 1}, {"n": 2}])).await;
    assert_eq!((response.status, response.json()), (200, json!([{"double": 2}, {"double": 4}])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_unavailable_costs_no_item_its_response() {
    for protocol in ["json-array", "plain"] {
        let (failing, sound) = (Origin::start().await, Origin::start().await);
        failing.on(ARRAY, |_| Reply::status(503));
        doubling(&sound, Gate::opened());
        let node = Node::builder()
            .endpoints(&[failing.url(), sound.url()])
            .infer(protocol)
            .set("pool.web", "attempts_max = 2")
            .set("pool.web.eject", "failures = 1000000")
            .start()
            .await;
        let mut asked = 0;
        // Either is drawn with equal chances.
        while asked < 8 || failing.total() == 0 {
            let response = doubled(&node, &json!([{"n": asked}])).await;
            assert_eq!((response.status, response.json()), (200, json!([{"double": 2 * asked}])), "{protocol}");
            asked += 1;
        }
        let refused = u32::try_from(failing.total()).unwrap();
        let retries = node.metric("holm_origin_retries_total", "pool=\"web\"").await;
        assert_eq!((retries, sound.total()), (f64::from(refused), asked), "{protocol}: each 503 led to the other");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_cannot_be_split_is_400_and_the_model_gets_no_request() {
    let origin = Origin::start().await;
    embedding(&origin, Gate::opened());
    let node = asking(&origin, "openai-embeddings").start().await;
    for body in ["", "{", "[]", "7", "{\"input\": NaN}"] {
        let response = node.post(EMBEDDINGS).header("content-type", "application/json").body(body).send().await;
        assert_eq!(response.status, 400, "{body}: {}", response.text());
        assert!(response.json()["error"]["message"].is_string(), "{body}: {}", response.text());
    }
    assert_eq!(origin.total(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_item_in_another_spelling_is_a_hit_and_another_clients_is_not() {
    let origin = Origin::start().await;
    doubling(&origin, Gate::opened());
    let node = asking(&origin, "json-array").start().await;
    let ask = |body: &'static str| node.post(ARRAY).header("content-type", "application/json").body(body);
    assert!(!ask("{\"n\":1,\"m\":2}").send().await.is_hit());
    assert!(ask(" { \"m\" : 2 , \"n\" : 1 } ").send().await.is_hit());
    assert!(!ask("{\"n\":1,\"m\":3}").send().await.is_hit());
    assert!(!ask("{\"n\":1,\"m\":2}").header("authorization", "Bearer b").send().await.is_hit());
    assert!(ask("{\"n\":1,\"m\":2}").header("authorization", "Bearer b").send().await.is_hit());
    assert!(!ask("{\"n\":1,\"m\":2}").header("authorization", "Bearer c").send().await.is_hit());
    assert_eq!(batches(&origin, ARRAY).len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_are_stored_only_if_somebody_says_so_and_the_client_agrees() {
    let origin = Origin::start().await;
    doubling(&origin, Gate::opened());
    let node = Node::builder().origin(&origin.url()).infer("json-array").start().await;
    for asked in 1..=2 {
        doubled(&node, &json!({"n": 1})).await;
        assert_eq!(batches(&origin, ARRAY).len(), asked, "neither origin nor route calls it reusable");
    }
    let node = asking(&origin, "json-array").start().await;
    for asked in 3..=4 {
        node.post(ARRAY).json(&json!({"n": 1})).header("cache-control", "no-store").send().await;
        assert_eq!(batches(&origin, ARRAY).len(), asked, "the client refuses");
    }
    doubled(&node, &json!({"n": 1})).await;
    assert!(doubled(&node, &json!({"n": 1})).await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_items_are_stored_by_their_body_and_sent_alone() {
    let origin = Origin::start().await;
    origin.on("/chat", |seen| Reply::ok([&b"echo "[..], &seen.body[..]].concat()));
    let node = asking(&origin, "plain").start().await;
    let ask = |body: &'static str| node.post("/chat").body(body).send();
    assert_eq!(ask("hello").await.text(), "echo hello");
    let again = found("a hit", async || Some(ask("hello").await).filter(Response::is_hit)).await;
    assert_eq!(again.text(), "echo hello");
    assert_eq!(ask("hello!").await.text(), "echo hello!");
    assert_eq!(origin.hits("/chat"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_response_is_stored_for_its_own_client() {
    let origin = Origin::start().await;
    origin.on("/chat", |seen| Reply::ok(seen.header("authorization").to_owned()));
    let node = Node::builder().origin(&origin.url()).infer("plain").route("ttl_ms = 60000").start().await;
    let ask = |user: &str| node.post("/chat").header("authorization", user).body("hello").send();
    for user in ["Bearer a", "Bearer b"] {
        let first = ask(user).await;
        assert_eq!((first.status, first.is_hit(), first.text()), (200, false, user));
        let again = found("a hit", async || Some(ask(user).await).filter(Response::is_hit)).await;
        assert_eq!(again.text(), user);
    }
    assert_eq!(ask("Bearer a").await.text(), "Bearer a");
    assert_eq!(origin.hits("/chat"), 2);
}

/// A model that numbers its responses and sends this `Cache-Control`.
fn numbering(origin: &Origin, control: &'static str, gate: Gate) {
    let responded = AtomicUsize::new(0);
    origin.on(ARRAY, move |seen| {
        let asked: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
        let responses: Vec<Value> = asked.iter().map(|_| json!({"number": responded.fetch_add(1, SeqCst)})).collect();
        let reply = Reply::ok(Value::Array(responses).to_string()).header("cache-control", control);
        reply.header("set-cookie", "who=first").behind(&gate)
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_wants_it_new_renews_it_for_all() {
    let origin = Origin::start().await;
    numbering(&origin, "max-age=600", Gate::opened());
    let node = asking(&origin, "json-array").start().await;
    let item = json!({"n": 1});
    assert_eq!(doubled(&node, &item).await.json(), json!({"number": 0}));
    let anew = node.post(ARRAY).json(&item).header("cache-control", "no-cache").send().await;
    assert_eq!((anew.is_hit(), anew.json()), (false, json!({"number": 1})));
    let later = doubled(&node, &item).await;
    assert_eq!((later.is_hit(), later.json()), (true, json!({"number": 1})));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_response_is_for_its_own_client() {
    const CLIENTS: u32 = 8;
    let (origin, gate) = (Origin::start().await, Gate::closed());
    numbering(&origin, "private", gate.clone());
    let node = asking(&origin, "json-array").start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for _ in 0..CLIENTS {
        let (mut stream, ask) = (conn.stream(), node.post(ARRAY).json(&json!({"n": 1})));
        asks.spawn(async move { stream.send(ask).await });
    }
    node.took_over_h2(CLIENTS).await;
    eventually("the first", async || batches(&origin, ARRAY).len() == 1).await;
    assert_eq!(batches(&origin, ARRAY).concat().len(), 1, "the others wait for it");
    gate.open();
    let responses = asks.join_all().await;
    assert!(responses.iter().all(|response| response.status == 200 && !response.is_hit()), "{responses:?}");
    let different: BTreeSet<&str> = responses.iter().map(Response::text).collect();
    assert_eq!((different.len(), batches(&origin, ARRAY).concat().len()), (8, 8), "{different:?}");

    let later = doubled(&node, &json!({"n": 1})).await;
    assert_eq!((later.is_hit(), later.json()), (false, json!({"number": 8})), "nothing was stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_models_cookie_reaches_nobody() {
    let origin = Origin::start().await;
    for control in ["public, max-age=600", "max-age=600", "private"] {
        numbering(&origin, control, Gate::opened());
        let node = Node::builder().origin(&origin.url()).infer("json-array").start().await;
        for body in [json!({"n": 1}), json!({"n": 1}), json!([{"n": 1}, {"n": 2}])] {
            let response = doubled(&node, &body).await;
            assert_eq!((response.status, response.header("set-cookie")), (200, ""), "{control}: {body}");
        }
    }
    origin.on(ARRAY, |_| Reply::status(429).header("set-cookie", "who=first"));
    let node = asking(&origin, "json-array").start().await;
    let refused = doubled(&node, &json!({"n": 1})).await;
    assert_eq!((refused.status, refused.header("set-cookie")), (429, ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn organizations_share_neither_a_batch_nor_a_response() {
    let origin = Origin::start().await;
    embedding(&origin, Gate::opened());
    let batch = "size_max = 16\nwait_us_max = 50000\nconcurrency = 8";
    let node = asking(&origin, "openai-embeddings").set("pool.web.batch", batch).start().await;
    let ask = |organization: &str, input: &str| {
        let ask = node.post(EMBEDDINGS).header("openai-organization", organization);
        ask.json(&json!({"model": "m", "input": [input]})).send()
    };
    let (left, right) = tokio::join!(ask("left", "a"), ask("right", "b"));
    assert!(left.status == 200 && right.status == 200 && !left.is_hit() && !right.is_hit());
    assert!(!ask("right", "a").await.is_hit(), "left's response isn't right's");
    assert!(ask("left", "a").await.is_hit() && ask("right", "b").await.is_hit());

    let sent = origin.seen(EMBEDDINGS).into_iter().zip(batches(&origin, EMBEDDINGS));
    let mut sent: Vec<String> =
        sent.map(|(seen, inputs)| format!("{} {}", seen.header("openai-organization"), Value::Array(inputs))).collect();
    sent.sort();
    assert_eq!(sent, ["left [\"a\"]", "right [\"a\"]", "right [\"b\"]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_response_is_served_while_the_model_fails() {
    let origin = Origin::start().await;
    doubling(&origin, Gate::opened());
    let route = "ttl_ms = 1\nstale_if_error_ms = 600000";
    let node = Node::builder().origin(&origin.url()).infer("json-array").route(route).start().await;
    assert_eq!(doubled(&node, &json!({"n": 1})).await.json(), json!({"double": 2}));
    origin.on(ARRAY, |_| Reply::status(500));
    eventually("the model failing", async || {
        let response = doubled(&node, &json!({"n": 1})).await;
        assert_eq!((response.status, response.json()), (200, json!({"double": 2})), "{:?}", response.cache());
        origin.hits(ARRAY) >= 2
    })
    .await;
    let list = doubled(&node, &json!([{"n": 1}, {"n": 2}])).await.json();
    assert_eq!(list[0], json!({"double": 2}), "a result that is known is returned beside one that isn't");
    assert!(list[1]["error"].is_object(), "{list}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_over_the_size_of_a_part_comes_whole_each_time() {
    let origin = Origin::start().await;
    let one = json!({"text": "x".repeat(10_000)});
    let body = json!([one]).to_string();
    origin.on(ARRAY, move |_| Reply::ok(body.clone()));
    let node = asking(&origin, "json-array").set("cache", "part_bytes = \"4KiB\"").start().await;
    for asked in 1..=3 {
        let got = doubled(&node, &json!({"n": 1})).await;
        assert_eq!((got.status, got.json()), (200, one.clone()), "sent {asked} times");
    }
    assert_eq!(doubled(&node, &json!([{"n": 1}])).await.json(), json!([one]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_throws_away_nothing_that_was_fetched_since_the_request_came_and_nothing_purged_is_called_stored() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let node = asking(&origin, "json-array").set("pool.web.batch", "size_max = 1\nconcurrency = 16").start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    let mut ask = || {
        let (mut stream, request) = (conn.stream(), node.post(ARRAY).json(&json!({"n": 1})));
        asks.spawn(async move { stream.send(request).await });
    };
    ask();
    eventually("the fetch", async || origin.hits(ARRAY) == 1).await;
    node.purge_url(ARRAY, false).await;
    ask();
    node.took_over_h2(2).await;
    // The log goes on between the second request and the fetch that is for it.
    node.purge_url("/another", false).await;
    gate.release(1);
    eventually("the fetch since then", async || origin.hits(ARRAY) == 2).await;
    node.purge_url(ARRAY, false).await;
    gate.open();
    for response in asks.join_all().await {
        assert_eq!((response.status, response.json()), (200, json!({"double": 2})));
        assert!(!response.cache().has("stored"), "{:?}", response.cache());
    }
    assert_eq!(origin.hits(ARRAY), 2, "it came before the second purge");
    for wanted in ["stored", "hit"] {
        let response = doubled(&node, &json!({"n": 1})).await;
        assert!(response.cache().has(wanted), "{wanted}: {:?}", response.cache());
    }
    assert_eq!(origin.hits(ARRAY), 3, "who came after it gets nothing from before");
}
