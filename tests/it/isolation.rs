//! One item's mistake is its own, and what a model says of the moment reaches the client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::harness::{
    client::Response,
    eventually, found,
    model::{ARRAY, EMBEDDINGS, batches},
    node::{Builder, Node},
    origin::{Gate, Origin, Reply},
};

/// A model at [`ARRAY`] that is busy with `{"busy": …}` until the gate lets it go on, and says what `respond` does to
/// other items.
fn model(origin: &Origin, gate: &Gate, respond: impl Fn(&[Value]) -> Reply + Send + Sync + 'static) {
    let held = gate.clone();
    origin.on(ARRAY, move |seen| {
        let items: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
        let is_busy = items.iter().any(|item| !item["busy"].is_null());
        if is_busy { Reply::ok(json!([0]).to_string()).behind(&held) } else { respond(&items) }
    });
}

fn double(item: &Value) -> Value {
    json!({"double": 2 * item["n"].as_i64().unwrap()})
}

fn doubles(items: &[Value]) -> Reply {
    let doubles: Vec<Value> = items.iter().map(double).collect();
    Reply::ok(Value::Array(doubles).to_string()).header("content-type", "application/json")
}

fn is_bad(item: &Value) -> bool {
    item["bad"] == true
}

fn good(n: usize) -> Value {
    json!({"n": n})
}

fn bad(n: usize) -> Value {
    json!({"n": n, "bad": true})
}

const REFUSAL: &str = r#"{"error":{"status":400,"message":"maximum context length is 8192 tokens"}}"#;

/// Refuses all items for the sake of one.
fn strict(items: &[Value]) -> Reply {
    if items.iter().any(is_bad) {
        let refusal = Reply::says(400, REFUSAL).header("content-type", "application/problem+json; charset=utf-8");
        return refusal.header("x-upstream", "strict");
    }
    doubles(items)
}

/// A node with one slot, so that items gather while the model is busy.
fn asking(origin: &Origin) -> Builder {
    let node = Node::builder().origin(&origin.url()).infer("json-array").route("ttl_ms = 600000");
    node.set("pool.web.batch", "concurrency = 1\nsize_max = 32")
}

/// Has these items asked for by as many clients while the model is busy with another, so that they share a batch.
async fn together(node: &Node, origin: &Origin, gate: &Gate, items: &[Value]) -> Vec<Response> {
    together_of(node, origin, gate, &items.iter().map(|item| (item, None)).collect::<Vec<_>>()).await
}

/// The same for items of teams, which the requests name in `x-team`.
async fn together_of(node: &Node, origin: &Origin, gate: &Gate, items: &[(&Value, Option<&str>)]) -> Vec<Response> {
    let (conn, mut asks, before) = (node.h2().await, JoinSet::new(), origin.hits(ARRAY));
    let (mut stream, ask) = (conn.stream(), node.post(ARRAY).json(&json!({"busy": before})));
    let busy = tokio::spawn(async move { stream.send(ask).await });
    eventually("the model being busy", async || origin.hits(ARRAY) > before).await;
    let taken = node.metric("holm_http_requests_total", "version=\"2\"").await as u32;
    for (at, (item, team)) in items.iter().enumerate() {
        let (mut stream, mut ask) = (conn.stream(), node.post(ARRAY).json(item));
        if let Some(team) = team {
            ask = ask.header("x-team", team);
        }
        asks.spawn(async move { (at, stream.send(ask).await) });
    }
    node.took_over_h2(taken + u32::try_from(items.len()).unwrap()).await;
    eventually("all items waiting", async || node.metric("holm_batch_waiting", "").await >= items.len() as f64).await;
    gate.release(1);
    assert_eq!(busy.await.unwrap().status, 200);
    let mut responses = asks.join_all().await;
    responses.sort_by_key(|(at, _)| *at);
    responses.into_iter().map(|(_, response)| response).collect()
}

/// The items of each request since the model was busy last.
fn since_busy(origin: &Origin) -> Vec<Vec<Value>> {
    let sent = batches(origin, ARRAY);
    let busy = sent.iter().rposition(|items| !items[0]["busy"].is_null());
    sent[busy.map_or(0, |at| at + 1)..].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_item_costs_no_other_its_result_and_has_the_models_own_words() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    model(&origin, &gate, strict);
    let node = asking(&origin).start().await;
    let mut items: Vec<Value> = (0..9).map(good).collect();
    items.push(bad(9));
    let responses = together(&node, &origin, &gate, &items).await;
    for (response, item) in responses.iter().zip(&items).take(9) {
        assert_eq!((response.status, response.json()), (200, double(item)), "{item}");
    }
    let refused = &responses[9];
    assert_eq!((refused.status, refused.text()), (400, REFUSAL));
    assert_eq!(refused.header("content-type"), "application/problem+json; charset=utf-8");
    assert_eq!(refused.header("x-upstream"), "strict");
    let sent = since_busy(&origin);
    assert_eq!(sent[0].len(), 10, "they shared a batch");
    assert!(sent.len() <= 1 + 6, "{sent:?}");
    assert_eq!(node.metric("holm_batch_divided_total", "").await, 1.0);

    // Known to fail in company, it is sent alone.
    let mut items: Vec<Value> = (10..19).map(good).collect();
    items.push(bad(9));
    let responses = together(&node, &origin, &gate, &items).await;
    let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
    assert_eq!(statuses, [[200; 9].as_slice(), &[400]].concat());
    let sent = since_busy(&origin);
    assert!(sent.iter().all(|items| items.len() == 1 || !items.iter().any(is_bad)), "{sent:?}");
    assert_eq!(sent.concat().len(), 10, "each once: {sent:?}");
    assert_eq!(node.metric("holm_batch_divided_total", "").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_a_batch_fails_for_one_item_the_others_have_their_results() {
    let internal: fn(&[Value]) -> Reply = |_| Reply::says(500, r#"{"error":{"status":500,"message":"oops"}}"#);
    let too_large: fn(&[Value]) -> Reply = |_| Reply::says(413, "too large");
    let unprocessable: fn(&[Value]) -> Reply = |_| Reply::says(422, "unprocessable");
    let too_few: fn(&[Value]) -> Reply = |items| {
        let others: Vec<Value> = items.iter().filter(|item| !is_bad(item)).map(double).collect();
        Reply::ok(Value::Array(others).to_string())
    };
    let not_a_number: fn(&[Value]) -> Reply = |items| {
        let word = |item: &Value| if is_bad(item) { "NaN".to_owned() } else { double(item).to_string() };
        Reply::ok(format!("[{}]", items.iter().map(word).collect::<Vec<_>>().join(",")))
    };
    let page: fn(&[Value]) -> Reply = |_| Reply::ok("<h1>Sorry</h1>");
    for (failing, status) in
        [(internal, 500), (too_large, 413), (unprocessable, 422), (too_few, 502), (not_a_number, 502), (page, 502)]
    {
        let (origin, gate) = (Origin::start().await, Gate::closed());
        model(&origin, &gate, move |items| if items.iter().any(is_bad) { failing(items) } else { doubles(items) });
        let node = asking(&origin).start().await;
        let items = [good(1), good(2), bad(3), good(4), good(5)];
        let responses = together(&node, &origin, &gate, &items).await;
        for (response, item) in responses.iter().zip(&items) {
            if is_bad(item) {
                // Whether the client of a result that isn't JSON gets the model's body is its protocol's business.
                assert!(
                    response.status == status || status == 502,
                    "{status}: {} {}",
                    response.status,
                    response.text()
                );
            } else {
                assert_eq!((response.status, response.json()), (200, double(item)), "{status}: {item}");
            }
        }
        let sent = since_busy(&origin);
        assert!(sent.len() <= 1 + 4, "{status}: {sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_bad_items_of_a_list_keep_to_the_budget() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    model(&origin, &gate, strict);
    let node = asking(&origin).start().await;
    let items: Vec<Value> = (0..32).map(|n| if n == 5 || n == 23 { bad(n) } else { good(n) }).collect();
    let response = node.post(ARRAY).json(&Value::Array(items.clone())).send().await;
    let list = response.json();
    let refusal: Value = serde_json::from_str(REFUSAL).unwrap();
    let mut served = 0;
    for (item, result) in items.iter().zip(list.as_array().unwrap()) {
        let is_good = *result == double(item);
        assert!(is_good && !is_bad(item) || *result == refusal, "{item}: {result}");
        served += usize::from(is_good);
    }
    assert!(served >= 25, "{served} have their results");
    assert!(origin.hits(ARRAY) <= 1 + 10, "{} requests", origin.hits(ARRAY));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_item_in_two_hundred_costs_no_other_its_result() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    model(&origin, &gate, strict);
    let node = asking(&origin).start().await;
    for wave in 0..4 {
        let items: Vec<Value> =
            (100 * wave..100 * (wave + 1)).map(|n| if n % 200 == 150 { bad(n) } else { good(n) }).collect();
        for (response, item) in together(&node, &origin, &gate, &items).await.iter().zip(&items) {
            assert_eq!(response.status, if is_bad(item) { 400 } else { 200 }, "{item}: {}", response.text());
        }
    }
}

/// Returns the sizes of the batches since the model was busy last, smallest first.
fn sizes(origin: &Origin) -> Vec<usize> {
    let mut sizes: Vec<usize> = since_busy(origin).iter().map(Vec::len).collect();
    sizes.sort_unstable();
    sizes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_items_failed_in_company_again_and_again_shares_no_batch_with_others_for_a_while() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    model(&origin, &gate, strict);
    // The field isn't sent on, or items of different teams would never share a batch.
    let node = asking(&origin).route("tenant = \"header:x-team\"\nignore_headers = [\"x-team\"]").start().await;
    // Each time another bad item, none of which is known.
    for round in 0..3 {
        let spoiler = bad(1_000 + round);
        let others: Vec<Value> = (10 * round..10 * round + 9).map(good).collect();
        let mut items: Vec<_> = others.iter().map(|item| (item, Some("sound"))).collect();
        items.push((&spoiler, Some("spoils")));
        let responses = together_of(&node, &origin, &gate, &items).await;
        let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
        assert_eq!(statuses, [[200; 9].as_slice(), &[400]].concat(), "{round}");
        assert_eq!(since_busy(&origin)[0].len(), 10, "{round}: they shared a batch");
    }
    let (others, own): (Vec<Value>, Vec<Value>) = ((100..106).map(good).collect(), (2_000..2_002).map(good).collect());
    let mut items: Vec<_> = others.iter().map(|item| (item, Some("sound"))).collect();
    items.extend(own.iter().map(|item| (item, Some("spoils"))));
    for (response, (item, _)) in together_of(&node, &origin, &gate, &items).await.iter().zip(&items) {
        assert_eq!((response.status, response.json()), (200, double(item)), "{item}");
    }
    assert_eq!(sizes(&origin), [2, 6], "{:?}", since_busy(&origin));
    let mixed = |items: &Vec<Value>| items.iter().any(|item| own.contains(item)) && items.len() > own.len();
    assert!(!since_busy(&origin).iter().any(mixed), "{:?}", since_busy(&origin));

    // The others share batches as before, and so does it with itself.
    for team in ["sound", "spoils"] {
        let items: Vec<Value> = (0..5).map(|n| json!({"n": n, "team": team})).collect();
        let items: Vec<_> = items.iter().map(|item| (item, Some(team))).collect();
        let responses = together_of(&node, &origin, &gate, &items).await;
        assert!(responses.iter().all(|response| response.status == 200), "{team}");
        assert_eq!(sizes(&origin), [5], "{team}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_items_of_the_only_tenant_share_batches_whatever_failed() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    model(&origin, &gate, strict);
    let node = asking(&origin).start().await;
    for round in 0..4 {
        let mut items: Vec<Value> = (10 * round..10 * round + 9).map(good).collect();
        items.push(bad(1_000 + round));
        let responses = together(&node, &origin, &gate, &items).await;
        let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
        assert_eq!(statuses, [[200; 9].as_slice(), &[400]].concat(), "{round}");
        assert_eq!(since_busy(&origin)[0].len(), 10, "{round}: they shared a batch");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_refuses_everything_is_asked_a_few_times() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    model(&origin, &gate, |_| Reply::says(500, r#"{"error":{"status":500}}"#));
    let node = asking(&origin).start().await;
    let items: Vec<Value> = (0..32).map(good).collect();
    for round in 1..=2 {
        let response = node.post(ARRAY).json(&Value::Array(items.clone())).send().await;
        assert_eq!((response.status, response.text()), (500, r#"{"error":{"status":500}}"#));
        assert_eq!(origin.hits(ARRAY), 5 * round, "nothing shows that single items are to blame");
    }
}

/// What a model of FastAPI says, which is no error as arrays have them.
const DETAIL: &str = r#"{"detail":[{"loc":["body",0,"n"],"msg":"too large","input":1.50}]}"#;

fn detail() -> Reply {
    Reply::says(422, DETAIL).header("content-type", "application/problem+json").header("retry-after", "3")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_model_says_in_its_own_words_reaches_the_client() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    model(&origin, &gate, |items| if items.iter().any(is_bad) { detail() } else { doubles(items) });
    let node = asking(&origin).start().await;
    for asked in [bad(1), json!([bad(2)]), json!([bad(3), bad(4), bad(5)])] {
        let response = node.post(ARRAY).json(&asked).send().await;
        assert_eq!((response.status, response.text()), (422, DETAIL), "{asked}");
        let said = ["content-type", "retry-after"].map(|name| response.header(name).to_owned());
        assert_eq!(said, ["application/problem+json", "3"], "{asked}");
    }
    let response = node.post(ARRAY).json(&json!([good(1), bad(6), good(2)])).send().await;
    let list = response.json();
    assert_eq!((response.status, response.header("content-type")), (200, "application/json"));
    assert_eq!((&list[0], &list[2]), (&double(&good(1)), &double(&good(2))));
    let own: Value = serde_json::from_str(DETAIL).unwrap();
    assert_eq!((&list[1]["error"]["status"], &list[1]["error"]["body"]), (&json!(422), &own), "{list}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_pass_on_what_a_model_says_as_well() {
    let tensor = r#"{"inputs":[{"name":"x","datatype":"INT8","shape":[2],"data":[1,2]}]}"#;
    for (protocol, target, bodies) in [
        ("msgpack-array", ARRAY, [&b"\x01"[..], b"\x91\x01", b"\x93\x01\x02\x03"]),
        ("kserve", "/v2/models/m/infer", [tensor.as_bytes(), tensor.as_bytes(), b"{}"]),
        ("openai-embeddings", EMBEDDINGS, [&br#"{"input":"a"}"#[..], br#"{"input":["a","b"]}"#, br#"{"input":{}}"#]),
    ] {
        let origin = Origin::start().await;
        origin.on(target, |_| detail());
        let node = Node::builder().origin(&origin.url()).infer(protocol).start().await;
        for body in bodies {
            let response = node.post(target).body(body).send().await;
            assert_eq!((response.status, response.text()), (422, DETAIL), "{protocol}");
            assert_eq!(response.header("content-type"), "application/problem+json", "{protocol}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_the_place_of_a_result_is_its_clients_alone_and_is_sent_alone_from_then_on() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let page = || Reply::ok("<h1>Sorry</h1>").header("content-type", "text/html");
    model(&origin, &gate, move |items| if items.iter().any(is_bad) { page() } else { doubles(items) });
    let node = asking(&origin).start().await;
    for round in 0..2 {
        let items = [good(10 * round), good(10 * round + 1), bad(3), good(10 * round + 2), good(10 * round + 3)];
        let responses = together(&node, &origin, &gate, &items).await;
        for (response, item) in responses.iter().zip(&items).filter(|(_, item)| !is_bad(item)) {
            assert_eq!((response.status, response.json()), (200, double(item)), "{round}: {item}");
        }
        let page = &responses[2];
        assert_eq!((page.status, page.text(), page.is_hit()), (200, "<h1>Sorry</h1>", false), "{round}");
        assert_eq!(page.header("content-type"), "text/html");
        let mixed = since_busy(&origin).iter().filter(|items| items.len() > 1 && items.iter().any(is_bad)).count();
        assert!(if round == 0 { mixed > 0 } else { mixed == 0 }, "{round}: {:?}", since_busy(&origin));
    }
}

/// A model whose embeddings of texts that begin with `odd` have another length than others.
fn lengths(origin: &Origin) {
    origin.on(EMBEDDINGS, |seen| {
        let call: Value = serde_json::from_slice(&seen.body).unwrap();
        let inputs = match &call["input"] {
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        let entry = |(index, input): (usize, &Value)| {
            let is_odd = input.as_str().is_some_and(|text| text.starts_with("odd"));
            let vector = if is_odd { json!([1.0]) } else { json!([1.0, 2.0]) };
            json!({"object": "embedding", "index": index, "embedding": vector})
        };
        let data: Vec<Value> = inputs.iter().enumerate().map(entry).collect();
        let list = json!({"object": "list", "data": data, "model": "m"});
        Reply::ok(list.to_string()).header("content-type", "application/json")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedding_of_another_length_than_its_neighbours_is_not_trusted_when_it_comes_alone() {
    let origin = Origin::start().await;
    lengths(&origin);
    let node = Node::builder().origin(&origin.url()).infer("openai-embeddings").route("ttl_ms = 600000");
    let node = node.start().await;
    let ask = async |input: Value| node.post(EMBEDDINGS).json(&json!({"model": "m", "input": input})).send().await;
    let list = ask(json!(["a", "odd", "b"])).await;
    assert_eq!((list.status, &list.json()["error"]["param"]), (502, &json!("input[1]")), "{}", list.text());
    for _ in 0..2 {
        let alone = ask(json!("odd")).await;
        assert_eq!((alone.status, alone.is_hit()), (200, false), "{}", alone.text());
        assert_eq!(alone.json()["data"][0]["embedding"], json!([1.0]), "it is what the model says");
    }
    assert!(ask(json!(["a", "b"])).await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedding_of_the_usual_length_is_trusted_whatever_comes_with_it_and_another_one_is_not() {
    let origin = Origin::start().await;
    lengths(&origin);
    let node = Node::builder().origin(&origin.url()).infer("openai-embeddings").route("ttl_ms = 600000");
    let node = node.start().await;
    let ask = async |input: Value| node.post(EMBEDDINGS).json(&json!({"model": "m", "input": input})).send().await;
    // A few more than make it usual: each batch of odd ones is a vote against it.
    for n in 0..12 {
        assert_eq!(ask(json!(format!("text {n}"))).await.status, 200);
    }
    let list = ask(json!(["one", "odd"])).await;
    assert_eq!((list.status, &list.json()["error"]["param"]), (502, &json!("input[1]")), "{}", list.text());
    let mut inputs: Vec<String> = (0..17).map(|n| format!("odd {n}")).collect();
    inputs.push("two".to_owned());
    assert_eq!(ask(json!(inputs)).await.status, 502);
    assert!(ask(json!(["one", "two"])).await.is_hit(), "neither a tie nor being outvoted costs them anything");
    for _ in 0..2 {
        let alone = ask(json!("odd and alone from the beginning")).await;
        let (status, cache) = (alone.status, alone.cache());
        assert_eq!((status, cache.has("hit"), cache.has("stored")), (200, false, false), "{}", alone.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_says_nothing_about_items_is_told_to_all_and_asked_once() {
    for (status, retry_after) in [(429, "30"), (429, ""), (503, "7"), (401, "")] {
        let (origin, gate) = (Origin::start().await, Gate::closed());
        model(&origin, &gate, move |_| {
            let refusal = Reply::says(status, r#"{"error":{"message":"no"}}"#).header("x-should-retry", "true");
            if retry_after.is_empty() { refusal } else { refusal.header("retry-after", retry_after) }
        });
        let node = asking(&origin).start().await;
        let items: Vec<Value> = (0..10).map(good).collect();
        for response in together(&node, &origin, &gate, &items).await {
            assert_eq!((response.status, response.text()), (status, r#"{"error":{"message":"no"}}"#));
            assert_eq!((response.header("retry-after"), response.header("x-should-retry")), (retry_after, "true"));
        }
        let sent: Vec<usize> = since_busy(&origin).iter().map(Vec::len).collect();
        assert_eq!(sent, [10], "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_doubt_when_a_part_is_refused_for_another_reason_is_not_blamed() {
    let (origin, gate, asked) = (Origin::start().await, Gate::closed(), AtomicUsize::new(0));
    model(&origin, &gate, move |items| match asked.fetch_add(1, SeqCst) {
        0 => Reply::says(400, REFUSAL),
        1 => doubles(items),
        _ => Reply::says(429, "slow down").header("retry-after", "30"),
    });
    let node = asking(&origin).start().await;
    let items: Vec<Value> = (0..5).map(good).collect();
    let responses = together(&node, &origin, &gate, &items).await;
    let served = responses.iter().filter(|response| response.status == 200).count();
    let refused =
        responses.iter().filter(|response| (response.status, response.header("retry-after")) == (429, "30")).count();
    assert_eq!((served, refused, since_busy(&origin).len()), (2, 3, 3), "{responses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_gets_the_strictest_of_what_its_responses_say() {
    let origin = Origin::start().await;
    origin.on(EMBEDDINGS, |seen| {
        let call: Value = serde_json::from_slice(&seen.body).unwrap();
        let is_first = call["input"].as_array().is_some_and(|inputs| inputs.contains(&json!("0")));
        let [after, remaining, reset, retry, id] =
            if is_first { ["7", "3", "1m2s", "true", "a"] } else { ["30", "0", "900ms", "false", "b"] };
        Reply::says(429, r#"{"error":{"message":"slow down","type":"rate_limit_error"}}"#)
            .header("content-type", "application/json; charset=utf-8")
            .header("retry-after", after)
            .header("x-ratelimit-remaining-requests", remaining)
            .header("x-ratelimit-reset-requests", reset)
            .header("x-should-retry", retry)
            .header("request-id", id)
            .header("x-other", "of one response")
    });
    let node = Node::builder().origin(&origin.url()).infer("openai-embeddings");
    let node = node.set("pool.web.batch", "size_max = 2").start().await;
    let ask = |inputs: Value| node.post(EMBEDDINGS).json(&json!({"model": "m", "input": inputs})).send();
    let response = ask(json!(["0", "1", "2", "3"])).await;
    assert_eq!(origin.hits(EMBEDDINGS), 2);
    assert_eq!((response.status, response.json()["error"]["message"].as_str()), (429, Some("slow down")));
    for (name, wanted) in [
        ("content-type", "application/json; charset=utf-8"),
        ("retry-after", "30"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "1m2s"),
        ("x-should-retry", "false"),
        ("request-id", "a, b"),
        ("x-other", ""),
    ] {
        let found = response.header(name);
        // Which of them came first doesn't matter.
        assert!(found == wanted || name == "request-id" && found == "b, a", "{name}: {found}");
    }
    let response = ask(json!(["2", "3"])).await;
    assert_eq!((response.header("retry-after"), response.header("request-id")), ("30", "b"), "of one it is unchanged");
    let response = ask(json!("2")).await;
    assert_eq!((response.header("request-id"), response.header("x-other")), ("b", "of one response"));
}

/// The path of a model that isn't batched.
const CHAT: &str = "/chat";

/// A node whose model says this beside its results, at [`ARRAY`] and at [`CHAT`].
async fn saying(headers: &'static [(&'static str, &'static str)]) -> (Origin, Node) {
    let origin = Origin::start().await;
    let add = move |reply: Reply| headers.iter().fold(reply, |reply, (name, value)| reply.header(name, value));
    origin.on(ARRAY, move |_| add(Reply::ok("[1]")));
    origin.on(CHAT, move |_| add(Reply::ok("1")));
    let chat = format!("name = \"chat\"\npath = \"{CHAT}\"\npool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"");
    let node = asking(&origin).route_before(&format!("{chat}\nttl_ms = 600000")).start().await;
    (origin, node)
}

/// Asks until it is known, and returns the first response and a hit.
async fn asked_and_known(node: &Node, path: &str) -> (Response, Response) {
    let ask = || node.post(path).json(&json!({"n": 1})).send();
    let first = ask().await;
    let known = found("a hit", async || Some(ask().await).filter(Response::is_hit)).await;
    (first, known)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_model_says_of_the_moment_is_not_said_again_later() {
    let headers = &[("x-ratelimit-remaining-requests", "9"), ("x-request-id", "m-1"), ("x-model", "m")];
    let (origin, node) = saying(headers).await;
    for path in [ARRAY, CHAT] {
        let (first, known) = asked_and_known(&node, path).await;
        assert_eq!((first.status, known.status, origin.hits(path)), (200, 200, 1), "{path}");
        let said = |response: &Response| {
            let names = ["x-ratelimit-remaining-requests", "x-upstream-request-id", "x-model"];
            names.map(|name| response.header(name).to_owned())
        };
        assert_eq!(said(&first), ["9", "m-1", "m"], "{path}");
        assert_eq!(said(&known), ["", "", "m"], "{path}");
        assert_ne!(first.header("x-request-id"), "m-1", "{path}: that is this node's");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_of_a_network_on_the_way_keeps_nothing_from_being_stored_and_goes_to_nobody_else() {
    let (origin, node) = saying(&[("set-cookie", "__cf_bm=abc; path=/; HttpOnly")]).await;
    for path in [ARRAY, CHAT] {
        let (_, known) = asked_and_known(&node, path).await;
        assert_eq!((known.header("set-cookie"), origin.hits(path)), ("", 1), "{path}");
    }
}

/// A model that reads a second request on each connection and closes it without a word.
struct Forgetful {
    url: String,
    task: JoinHandle<()>,
}

impl Forgetful {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(respond_once(stream));
            }
        });
        Self { url, task }
    }
}

impl Drop for Forgetful {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond_once(mut stream: TcpStream) {
    if read_request(&mut stream).await.is_some() {
        // The node may have left; a test that minds will notice.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]").await;
        read_request(&mut stream).await;
    }
}

/// Reads a request with a body of stated length, and returns that, in lower case; `None` if there was none.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() >= length.parse().unwrap() {
                return Some(body.to_owned());
            }
        }
        if !matches!(stream.read_buf(&mut read).await, Ok(length) if length > 0) {
            return None;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_closes_just_as_a_request_comes_costs_nobody_the_response() {
    for protocol in ["json-array", "plain"] {
        let models = [Forgetful::start().await, Forgetful::start().await];
        let node = Node::builder().endpoints(&models.each_ref().map(|model| &model.url)).infer(protocol);
        let node = node.set("pool.web", "attempts_max = 1").set("pool.web.eject", "failures = 1").start().await;
        let mut n = 0;
        eventually("a connection that was closed", async || {
            n += 1;
            let response = node.post(ARRAY).json(&good(n)).send().await;
            assert_eq!(response.status, 200, "{protocol}, {n}: {}", response.text());
            n >= 10 && node.metric("holm_origin_retries_total", "pool=\"web\"").await > 0.0
        })
        .await;
        assert_eq!(node.metric("holm_origin_ejections_total", "pool=\"web\"").await, 0.0, "{protocol}");
    }
}

/// A model at any path that doubles, and breaks off before its response to some batches or in the middle of it.
struct Brittle {
    url: String,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Brittle {
    /// Starts a model that breaks off for batches that `breaks` picks.
    async fn start(point: Point, breaks: fn(&[Value]) -> bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(respond_or_break(stream, point, breaks, Arc::clone(&count)));
            }
        });
        Self { url, asked, task }
    }

    /// Returns the requests so far.
    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

impl Drop for Brittle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond_or_break(mut stream: TcpStream, point: Point, breaks: fn(&[Value]) -> bool, asked: Arc<AtomicUsize>) {
    while let Some(body) = read_request(&mut stream).await {
        asked.fetch_add(1, SeqCst);
        let items: Vec<Value> = serde_json::from_str(&body).unwrap();
        let padding = match point {
            Point::BeforeHead if breaks(&items) => {
                // Makes the coming close a reset.
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            Point::BeforeHead => 0,
            Point::After(padding) => padding,
        };
        let doubles = Value::Array(items.iter().map(double).collect()).to_string();
        let results = doubles.replacen('[', &format!("[{}", " ".repeat(padding)), 1);
        let said = if breaks(&items) { results.len() - doubles.len() / 2 } else { results.len() };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", results.len());
        let bytes = [head.as_bytes(), &results.as_bytes()[..said]].concat();
        if stream.write_all(&bytes).await.is_err() || said < results.len() {
            return;
        }
    }
}

/// Where a response breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// With a reset instead of its head.
    BeforeHead,
    /// In the middle of its results, which this many bytes of white space come before.
    After(usize),
}

/// What has come before a response breaks off: nearly nothing, or more than is looked at before it is passed on.
const WITHIN: [Point; 2] = [Point::After(0), Point::After(100_000)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_response_breaks_off_is_met_in_parts_by_another_endpoint() {
    for point in WITHIN {
        let (broken, sound) = (Brittle::start(point, |_| true).await, Brittle::start(point, |_| false).await);
        let eject = "failures = 1\nduration_ms = 60000\npercent_max = 50";
        let node = Node::builder().endpoints(&[&broken.url, &sound.url]).infer("json-array");
        let node = node.set("pool.web.batch", "concurrency = 1\nsize_max = 32").set("pool.web.eject", eject);
        let node = node.start().await;
        let mut n = 0;
        eventually("a batch that met the broken one", async || {
            let items: Vec<Value> = (n..n + 10).map(good).collect();
            n += 10;
            let response = node.post(ARRAY).json(&Value::Array(items.clone())).send().await;
            let wanted: Vec<Value> = items.iter().map(double).collect();
            assert_eq!((response.status, response.json()), (200, Value::Array(wanted)), "{point:?}");
            broken.asked() > 0
        })
        .await;
        assert_eq!(broken.asked(), 1, "{point:?}: it was ejected");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_breaks_the_response_off_costs_no_other_its_result() {
    for point in WITHIN.into_iter().chain([Point::BeforeHead]) {
        let brittle = Brittle::start(point, |items| items.iter().any(is_bad)).await;
        let node = Node::builder().origin(&brittle.url).infer("json-array");
        let node = node.set("pool.web.batch", "concurrency = 1\nsize_max = 32").start().await;
        let items: Vec<Value> = (0..10).map(|n| if n == 5 { bad(n) } else { good(n) }).collect();
        let response = node.post(ARRAY).json(&Value::Array(items.clone())).send().await;
        let list = response.json();
        assert_eq!(response.status, 200, "{point:?}: {list}");
        for (item, result) in items.iter().zip(list.as_array().unwrap()) {
            if is_bad(item) {
                assert_eq!(result["error"]["status"], 502, "{point:?}: {list}");
            } else {
                assert_eq!(*result, double(item), "{point:?}: {list}");
            }
        }
        // A reset may be one of the connection alone, and is retried.
        let is_retried = point == Point::BeforeHead;
        assert!(is_retried || brittle.asked() <= 1 + 6, "{point:?}: {} requests", brittle.asked());
        let alone = node.post(ARRAY).json(&bad(5)).send().await;
        assert_eq!(alone.status, 502, "{point:?}: {}", alone.text());
    }
}
