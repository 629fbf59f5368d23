//! Protocols of models: what is split, what is sent as it came, and what comes back where a model says less, or more,
//! than it should.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{
    eventually,
    model::{ARRAY, EMBEDDINGS, call, embedded, vector},
    node::{Builder, Node},
    origin::{Gate, Origin, Reply},
};

const KSERVE: &str = "/v2/models/m/infer";

/// The field with the length of the JSON before a KServe message's binary data.
const JSON_BYTES: &str = "inference-header-content-length";

/// A node for items of this protocol whose results are stored.
fn asking(origin: &Origin, protocol: &str) -> Builder {
    Node::builder().origin(&origin.url()).infer(protocol).route("ttl_ms = 600000")
}

/// Returns the inputs of a call as a list.
fn inputs(call: &Value) -> Vec<Value> {
    match &call["input"] {
        Value::Array(inputs) if !inputs.first().is_some_and(Value::is_number) => inputs.clone(),
        input => vec![input.clone()],
    }
}

fn json_reply(body: impl Into<Bytes>) -> Reply {
    Reply::ok(body).header("content-type", "application/json")
}

/// A model for embeddings that words its list of entries in its own way.
fn wording(origin: &Origin, word: impl Fn(Vec<Value>) -> Vec<Value> + Send + Sync + 'static) {
    origin.on(EMBEDDINGS, move |seen| {
        let entry = |(index, input): (usize, &Value)| json!({"index": index, "embedding": vector(&input.to_string())});
        let data = word(inputs(&call(seen)).iter().enumerate().map(entry).collect());
        json_reply(json!({"object": "list", "data": data, "model": "m"}).to_string())
    });
}

/// Replaces the index of each entry.
fn with_index(entries: Vec<Value>, index: impl Fn(usize) -> Option<Value>) -> Vec<Value> {
    let one = |(place, entry): (usize, Value)| match index(place) {
        Some(index) => json!({"index": index, "embedding": entry["embedding"]}),
        None => json!({"embedding": entry["embedding"]}),
    };
    entries.into_iter().enumerate().map(one).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_input_has_its_own_embedding_however_the_model_numbers_them() {
    type Wording = fn(Vec<Value>) -> Vec<Value>;
    let wordings: [(&str, Wording); 6] = [
        ("none", |entries| with_index(entries, |_| None)),
        ("null", |entries| with_index(entries, |_| Some(Value::Null))),
        ("no zero", |entries| with_index(entries, |place| (place > 0).then(|| json!(place)))),
        ("floats", |entries| with_index(entries, |place| Some(json!(place as f64)))),
        ("in reverse", |entries| entries.into_iter().rev().collect()),
        ("no zero, in reverse", |entries| {
            with_index(entries, |place| (place > 0).then(|| json!(place))).into_iter().rev().collect()
        }),
    ];
    let origin = Origin::start().await;
    let node = asking(&origin, "openai-embeddings").start().await;
    for (name, word) in wordings {
        wording(&origin, word);
        let texts = ["one", "two", "three"].map(|text| format!("{text}: {name}"));
        let response = embedded(&node, &json!({"model": "m", "input": texts})).await;
        assert_eq!(response.status, 200, "{name}: {}", response.text());
        for (index, (entry, text)) in response.json()["data"].as_array().unwrap().iter().zip(&texts).enumerate() {
            let wanted = json!({"index": index, "embedding": vector(&json!(text).to_string())});
            assert_eq!(*entry, wanted, "{name}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedding_that_is_no_json_costs_no_neighbour_its_own_and_is_not_stored() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    origin.on(EMBEDDINGS, move |seen| {
        let entry = |input: &Value| match input.as_str() {
            Some("degenerate") => "{\"embedding\": [NaN, 1.0]}".to_owned(),
            _ => json!({"embedding": vector(&input.to_string())}).to_string(),
        };
        let data: Vec<String> = inputs(&call(seen)).iter().map(entry).collect();
        json_reply(format!("{{\"object\": \"list\", \"data\": [{}]}}", data.join(", "))).behind(&held)
    });
    let batch = "size_max = 8\nconcurrency = 1\nwait_us_max = 0";
    let node = asking(&origin, "openai-embeddings").set("pool.web.batch", batch).start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    // The first keeps the model busy, so that the others share a batch.
    for text in ["first", "degenerate", "a", "b", "c"] {
        let (mut stream, ask) = (conn.stream(), node.post(EMBEDDINGS).json(&json!({"input": text})));
        asks.spawn(async move { (text, stream.send(ask).await) });
        if text == "first" {
            eventually("the first", async || origin.hits(EMBEDDINGS) == 1).await;
        }
    }
    node.took_over_h2(5).await;
    gate.open();
    for (text, response) in asks.join_all().await {
        if text != "degenerate" {
            assert_eq!(response.status, 200, "{text}: {}", response.text());
            assert_eq!(response.json()["data"][0]["embedding"], vector(&json!(text).to_string()), "{text}");
        }
    }
    // Alone its client gets what it would get from the model, each time from the model.
    let alone = json!({"input": "degenerate"});
    for _ in 0..2 {
        let hits = origin.hits(EMBEDDINGS);
        let response = embedded(&node, &alone).await;
        let wanted = "{\"object\": \"list\", \"data\": [{\"embedding\": [NaN, 1.0]}]}";
        assert_eq!((response.status, response.text(), response.is_hit()), (200, wanted, false));
        assert_eq!(origin.hits(EMBEDDINGS), hits + 1);
    }
    assert!(embedded(&node, &json!({"input": "a"})).await.is_hit(), "the others' are");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_with_a_result_that_is_no_json_fails_by_its_index_and_the_others_are_stored() {
    let origin = Origin::start().await;
    origin.on(EMBEDDINGS, |seen| {
        let entry = |input: &Value| match input.as_str() {
            Some("degenerate") => "{\"embedding\": [NaN, 1.0]}".to_owned(),
            Some("empty") => "{\"embedding\": null}".to_owned(),
            _ => json!({"embedding": vector(&input.to_string())}).to_string(),
        };
        let data: Vec<String> = inputs(&call(seen)).iter().map(entry).collect();
        json_reply(format!("{{\"object\": \"list\", \"data\": [{}]}}", data.join(", ")))
    });
    let node = asking(&origin, "openai-embeddings").start().await;
    for (bad, good) in [("degenerate", ["a", "b", "c"]), ("empty", ["d", "e", "f"])] {
        let response = embedded(&node, &json!({"input": [good[0], good[1], bad, good[2]]})).await;
        let error = response.json()["error"].clone();
        assert_eq!((response.status, &error["param"]), (502, &json!("input[2]")), "{bad}: {}", response.text());
        assert_eq!(response.cache().get("detail"), "bad-response", "{bad}");
        // A retry without it costs nothing.
        let hits = origin.hits(EMBEDDINGS);
        let again = embedded(&node, &json!({"input": good})).await;
        assert_eq!((again.status, again.is_hit(), origin.hits(EMBEDDINGS)), (200, true, hits), "{bad}");
        // Twice the same is a list, too; alone, also in a list of one, it is the model's own response.
        assert_eq!(embedded(&node, &json!({"input": [bad, bad]})).await.status, 502, "{bad}");
        for alone in [json!(bad), json!([bad])] {
            let response = embedded(&node, &json!({"input": alone})).await;
            let wanted = if bad == "empty" { "null" } else { "[NaN, 1.0]" };
            let wanted = format!("{{\"object\": \"list\", \"data\": [{{\"embedding\": {wanted}}}]}}");
            assert_eq!((response.status, response.text()), (200, &*wanted), "{alone}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_no_json_is_an_error_in_its_place_where_arrays_have_one() {
    let origin = Origin::start().await;
    origin.on(ARRAY, |seen| {
        let items: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
        let result = |item: &Value| if *item == json!(2) { "{\"x\":NaN}".to_owned() } else { format!("[{item}]") };
        json_reply(format!("[{}]", items.iter().map(result).collect::<Vec<_>>().join(",")))
    });
    let node = asking(&origin, "json-array").start().await;
    let response = node.post(ARRAY).json(&json!([1, 2, 3])).send().await;
    let list = response.json();
    assert_eq!((response.status, &list[0], &list[2]), (200, &json!([1]), &json!([3])), "{list}");
    assert_eq!(list[1]["error"]["status"], 502, "{list}");
    assert!(list[1]["error"]["message"].as_str().unwrap().contains("index 1"), "{list}");
    for (asked, wanted) in [(json!(2), "{\"x\":NaN}"), (json!([2]), "[{\"x\":NaN}]")] {
        let response = node.post(ARRAY).json(&asked).send().await;
        assert_eq!((response.status, response.text()), (200, wanted), "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_split_reaches_the_model_as_it_came_and_is_known_again() {
    let origin = Origin::start().await;
    origin.on(EMBEDDINGS, |seen| json_reply(json!({"echo": call(seen)}).to_string()).header("x-model", "m"));
    let node = asking(&origin, "openai-embeddings").start().await;
    let bodies = [
        r#"{ "model": "m", "messages": [{"role": "user", "content": "a"}] }"#,
        r#"{"model": "m", "input": [{"text": "a"}, {"image": "b"}]}"#,
        r#"{"model": "m", "input": {"text": "a"}}"#,
        r#"{"model": "m", "input": ["a", [1, 2]]}"#,
        r#"{"model": "m", "input": ["a", null]}"#,
        r#"{"model": "m", "input": []}"#,
    ];
    for body in bodies {
        let ask = || node.post(EMBEDDINGS).header("content-type", "application/json").body(body).send();
        let first = ask().await;
        assert_eq!((first.status, first.is_hit(), first.header("x-model")), (200, false, "m"), "{body}");
        assert_eq!(origin.seen(EMBEDDINGS).last().map(|seen| seen.body.clone()), Some(Bytes::from(body)));
        let again = ask().await;
        assert_eq!((again.is_hit(), &again.body, again.header("x-model")), (true, &first.body, "m"), "{body}");
    }
    assert_eq!(origin.hits(EMBEDDINGS), bodies.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_as_it_came_keeps_its_media_type_and_is_shared_where_no_model_can_read_it_otherwise() {
    let origin = Origin::start().await;
    origin.on(EMBEDDINGS, |seen| json_reply(json!({"echo": call(seen)}).to_string()));
    let node = asking(&origin, "openai-embeddings").start().await;
    for (media_type, body, is_shared) in [
        ("application/json", r#"{"messages":["a"]}"#, true),
        ("application/json; charset=utf-8", r#"{ "messages" : ["a"] }"#, true),
        ("text/plain", r#"{"messages":["b"]}"#, false),
        ("application/json", r#"{"messages":["c"],"messages":["d"]}"#, false),
    ] {
        let ask = || node.post(EMBEDDINGS).header("content-type", media_type).body(body).send();
        let hits = origin.hits(EMBEDDINGS);
        let responses = [ask().await, ask().await];
        assert!(responses.iter().all(|response| response.status == 200), "{media_type} {body}");
        assert_eq!(responses[1].is_hit(), is_shared, "{media_type} {body}");
        for seen in &origin.seen(EMBEDDINGS)[hits..] {
            assert_eq!((seen.header("content-type"), &seen.body[..]), (media_type, body.as_bytes()));
        }
    }
    // One that was stored under the usual media type isn't for one that is called otherwise.
    let ask = node.post(EMBEDDINGS).header("content-type", "text/plain").body(r#"{"messages":["a"]}"#);
    assert!(!ask.send().await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_embedding_has_the_right_index_from_the_model_and_from_the_cache() {
    let origin = Origin::start().await;
    let node = asking(&origin, "openai-embeddings").start().await;
    for (entry, text) in [("\"index\": 7, ", "seven"), ("", "none"), ("\"index\": 0.0, ", "float")] {
        let body = format!("{{\"data\": [{{{entry}\"embedding\": [0.50]}}]}}");
        origin.on(EMBEDDINGS, move |_| json_reply(body.clone()));
        for input in [json!(text), json!([text])] {
            let response = embedded(&node, &json!({"input": input})).await;
            let wanted: Value = serde_json::from_str(r#"{"index": 0, "embedding": [0.50]}"#).unwrap();
            assert_eq!((response.status, &response.json()["data"][0]), (200, &wanted), "{text}");
            assert!(response.text().contains("0.50"), "the digits are the model's: {}", response.text());
        }
    }
}

/// A model whose embedding of an input depends on all inputs of the request.
fn contextual(origin: &Origin) {
    origin.on(EMBEDDINGS, |seen| {
        let inputs = inputs(&call(seen));
        let context = Value::from(inputs.clone()).to_string();
        let entry = |(index, input): (usize, &Value)| {
            json!({"index": index, "embedding": vector(&format!("{input} in {context}"))})
        };
        let data: Vec<Value> = inputs.iter().enumerate().map(entry).collect();
        json_reply(json!({"data": data}).to_string())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_that_belong_together_stay_together() {
    for (extra, member, is_split) in [
        ("", json!({"late_chunking": true}), false),
        ("", json!({"late_chunking": false}), true),
        ("indivisible = [\"chapter\"]", json!({"chapter": 4}), false),
        ("indivisible = []", json!({"late_chunking": true}), true),
    ] {
        let origin = Origin::start().await;
        contextual(&origin);
        let node = asking(&origin, "openai-embeddings").route(extra).start().await;
        let documents = [["Berlin is big.", "It has lakes."], ["Rome is old.", "It has lakes."]];
        for document in documents {
            let mut call = member.clone();
            call["input"] = json!(document);
            let response = embedded(&node, &call).await;
            assert_eq!(response.status, 200, "{}", response.text());
            let context = json!(document).to_string();
            let wanted = vector(&format!("\"It has lakes.\" in {context}"));
            let is_the_models = response.json()["data"][1]["embedding"] == wanted;
            assert!(is_the_models || is_split, "{member} {extra}: {}", response.text());
        }
        let sent: usize = origin.seen(EMBEDDINGS).iter().map(|seen| inputs(&call(seen)).len()).sum();
        assert_eq!(
            sent,
            if is_split { 3 } else { 4 },
            "{member} {extra}: an input that both have is sent once if split"
        );
    }
}

/// A KServe model that doubles the numbers of its input `x`, and counts the requests that it gets.
fn doubling_tensors(origin: &Origin, gate: &Gate) {
    let (gate, asked) = (gate.clone(), AtomicUsize::new(0));
    origin.on(KSERVE, move |seen| {
        let number = asked.fetch_add(1, SeqCst);
        let length = seen.header(JSON_BYTES).parse().unwrap_or(seen.body.len());
        let (head, data) = seen.body.split_at(length);
        let input = serde_json::from_slice::<Value>(head).unwrap()["inputs"][0].take();
        let mut output = json!({"name": "y", "datatype": input["datatype"], "shape": input["shape"]});
        let reply = if data.is_empty() {
            let doubled: Vec<i64> =
                input["data"].as_array().unwrap().iter().map(|number| 2 * number.as_i64().unwrap()).collect();
            output["data"] = json!(doubled);
            json_reply(json!({"model_name": "m", "id": format!("own-{number}"), "outputs": [output]}).to_string())
        } else {
            let doubled: Vec<u8> = data.iter().map(|byte| 2 * byte).collect();
            output["parameters"] = json!({"binary_data_size": doubled.len()});
            let head = json!({"model_name": "m", "outputs": [output]}).to_string();
            let reply = Reply::ok([head.as_bytes(), &doubled[..]].concat()).header(JSON_BYTES, &head.len().to_string());
            reply.header("content-type", "application/octet-stream")
        };
        reply.behind(&gate)
    });
}

fn tensor(rows: &[[i64; 2]]) -> Value {
    let data: Vec<i64> = rows.iter().flatten().copied().collect();
    json!({"name": "x", "datatype": "INT8", "shape": [rows.len(), 2], "data": data})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_tensors_are_batched_and_each_client_gets_its_own() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    doubling_tensors(&origin, &gate);
    let batch = "size_max = 16\nconcurrency = 1\nwait_us_max = 0";
    let node = asking(&origin, "kserve").set("pool.web.batch", batch).start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for n in 0..5_i64 {
        let request = json!({"id": format!("mine-{n}"), "inputs": [tensor(&[[n, 10], [n, 20]])]});
        let (mut stream, ask) = (conn.stream(), node.post(KSERVE).json(&request));
        asks.spawn(async move { (n, stream.send(ask).await) });
        if n == 0 {
            eventually("the first", async || origin.hits(KSERVE) == 1).await;
        }
    }
    node.took_over_h2(5).await;
    gate.open();
    for (n, response) in asks.join_all().await {
        let output = json!({"name": "y", "datatype": "INT8", "shape": [2, 2], "data": [2 * n, 20, 2 * n, 40]});
        let wanted = json!({"id": format!("mine-{n}"), "model_name": "m", "outputs": [output]});
        assert_eq!((response.status, response.json()), (200, wanted));
    }
    assert_eq!(origin.hits(KSERVE), 2, "the four that waited went together");
    let row = node.post(KSERVE).json(&json!({"id": "again", "inputs": [tensor(&[[3, 20]])]})).send().await;
    assert_eq!((row.is_hit(), &row.json()["outputs"][0]["data"]), (true, &json!([6, 40])), "{}", row.text());
    assert_eq!(row.json()["id"], "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_tensors_are_cut_and_put_together_and_sequences_are_let_through() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    gate.open();
    doubling_tensors(&origin, &gate);
    let node = asking(&origin, "kserve").start().await;
    let ask = |rows: &[[u8; 2]], parameters: &Value| {
        let size = json!({"binary_data_size": 2 * rows.len()});
        let input = json!({"name": "x", "datatype": "INT8", "shape": [rows.len(), 2], "parameters": size});
        let head = json!({"inputs": [input], "parameters": parameters}).to_string();
        let body = [head.as_bytes(), &rows.concat()[..]].concat();
        node.post(KSERVE).header(JSON_BYTES, &head.len().to_string()).body(body).send()
    };
    let (plain, sequence) = (json!({"deep": 1}), json!({"sequence_id": 7}));
    let first = ask(&[[1, 2], [3, 4]], &plain).await;
    let length: usize = first.header(JSON_BYTES).parse().unwrap();
    assert_eq!((first.status, &first.body[length..]), (200, &b"\x02\x04\x06\x08"[..]));
    let head: Value = serde_json::from_slice(&first.body[..length]).unwrap();
    assert_eq!(head["outputs"][0]["shape"], json!([2, 2]));
    // One row is known, and one is new.
    let second = ask(&[[3, 4], [5, 6]], &plain).await;
    let length: usize = second.header(JSON_BYTES).parse().unwrap();
    assert_eq!((second.status, &second.body[length..]), (200, &b"\x06\x08\x0a\x0c"[..]));
    assert!(origin.seen(KSERVE)[1].body.ends_with(&[5, 6]), "{:?}", origin.seen(KSERVE)[1]);
    assert!(ask(&[[5, 6]], &plain).await.is_hit());
    assert_eq!(origin.hits(KSERVE), 2);
    // A step of a sequence is another step each time.
    for step in 3..5 {
        let response = ask(&[[1, 2]], &sequence).await;
        assert_eq!((response.status, response.is_hit(), origin.hits(KSERVE)), (200, false, step));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messagepack_lists_are_split_as_json_lists_are() {
    let origin = Origin::start().await;
    // Doubles numbers below 64, which are a byte each; any other element is an error.
    origin.on(ARRAY, |seen| {
        let mut body = vec![seen.body[0]];
        for element in &seen.body[1..] {
            match element {
                0..64 => body.push(2 * element),
                _ => body.extend_from_slice(b"\x81\xa5error\x81\xa6status\xcd\x01\xa6"),
            }
        }
        Reply::ok(body).header("content-type", "application/x-msgpack")
    });
    let node = asking(&origin, "msgpack-array").start().await;
    let ask = |body: &'static [u8]| node.post(ARRAY).header("content-type", "application/x-msgpack").body(body).send();
    let first = ask(b"\x93\x01\x7f\x03").await;
    assert_eq!((first.status, first.header("content-type")), (200, "application/x-msgpack"));
    assert_eq!(&first.body[..], b"\x93\x02\x81\xa5error\x81\xa6status\xcd\x01\xa6\x06");
    assert_eq!(origin.seen(ARRAY)[0].header("content-type"), "application/x-msgpack");
    let one = ask(b"\xcc\x03").await;
    assert_eq!((one.is_hit(), &one.body[..]), (true, &b"\x06"[..]), "the same number in another form");
    let refused = ask(b"\x7f").await;
    assert_eq!((refused.status, &refused.body[..]), (422, &b"\x81\xa5error\x81\xa6status\xcd\x01\xa6"[..]));
    let malformed = ask(b"\x92\x01").await;
    assert_eq!((malformed.status, malformed.header("content-type")), (400, "application/msgpack"));
    assert_eq!(origin.hits(ARRAY), 2);
}
