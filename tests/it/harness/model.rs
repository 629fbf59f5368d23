//! Models: origins whose requests may have several items.

use serde_json::{Value, json};

use super::{
    client::Response,
    node::NodeHandle,
    origin::{Gate, Origin, Reply, Seen},
};

/// The path of a model that responds to a JSON array, element by element.
pub(crate) const ARRAY: &str = "/double";

/// The path of an embeddings model.
pub(crate) const EMBEDDINGS: &str = "/v1/embeddings";

/// Sends this call to the model at [`EMBEDDINGS`].
pub(crate) async fn embedded(node: &NodeHandle, call: &Value) -> Response {
    node.post(EMBEDDINGS).json(call).send().await
}

/// Returns the body of a request.
pub(crate) fn call(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap()
}

/// A model at [`ARRAY`]: the result of `{"n": 3}` is `{"double": 6}`, that of an element without a number by an error
/// of its own.
pub(crate) fn doubling(origin: &Origin, gate: Gate) {
    origin.on(ARRAY, move |seen| {
        let responses: Vec<Value> = items(seen).iter().map(double).collect();
        Reply::ok(Value::Array(responses).to_string()).header("content-type", "application/json").behind(&gate)
    });
}

fn double(item: &Value) -> Value {
    match item["n"].as_i64() {
        Some(number) => json!({"double": 2 * number}),
        None => json!({"error": {"status": 422, "message": "n is not a number"}}),
    }
}

/// A model at [`EMBEDDINGS`]. It lists its embeddings in reverse, as `index` allows, and counts a token for each byte.
pub(crate) fn embedding(origin: &Origin, gate: Gate) {
    origin.on(EMBEDDINGS, move |seen| {
        let texts = items(seen);
        let entry = |(index, text): (usize, &Value)| {
            json!({"object": "embedding", "index": index, "embedding": vector(text.as_str().unwrap_or_default())})
        };
        let data: Vec<Value> = texts.iter().enumerate().rev().map(entry).collect();
        let tokens: usize = texts.iter().map(|text| text.as_str().map_or(0, str::len)).sum();
        let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
        let response = json!({"object": "list", "data": data, "model": "m", "usage": usage});
        Reply::ok(response.to_string()).header("content-type", "application/json").behind(&gate)
    });
}

/// Returns the embedding of a text.
pub(crate) fn vector(text: &str) -> Value {
    let digest = blake3::hash(text.as_bytes());
    let [first, second, ..] = *digest.as_bytes();
    json!([f32::from(first) / 256.0, f32::from(second) / 256.0])
}

/// Returns the items of each request that a model has had.
pub(crate) fn batches(origin: &Origin, path: &str) -> Vec<Vec<Value>> {
    origin.seen(path).iter().map(items).collect()
}

fn items(seen: &Seen) -> Vec<Value> {
    match serde_json::from_slice(&seen.body).unwrap() {
        Value::Array(items) => items,
        Value::Object(mut call) => match call.remove("input").unwrap_or_default() {
            Value::Array(inputs) => inputs,
            input => vec![input],
        },
        other => panic!("a model was sent {other}"),
    }
}
