//! Pools that speak another protocol than their clients.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::{Value, json};

use crate::harness::{
    client::{self, OutBody, full},
    h2::H2Origin,
    model::{call, embedded, vector},
    node::{Builder, Node},
    origin::{Origin, Reply},
};

const INFER: &str = "/v2/models/m/infer";

/// A node whose results are stored, for clients of one protocol, before a pool of another.
pub(crate) fn translating(url: &str, client: &str, pool: &str) -> Builder {
    let pool = format!("protocol = \"{pool}\"\ntranslate.model = \"m\"");
    Node::builder().origin(url).infer(client).route("ttl_ms = 600000").set("pool.web", &pool)
}

pub(crate) fn json_reply(status: u16, body: &Value) -> Reply {
    Reply::says(status, body.to_string()).header("content-type", "application/json")
}

pub(crate) fn floats(numbers: &Value) -> Vec<f64> {
    numbers.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Checks that the reply has the embedding of each text, in their order.
fn check(response: &client::Response, texts: &[&str]) {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), "application/json");
    let reply = response.json();
    let data = reply["data"].as_array().unwrap();
    assert_eq!(data.len(), texts.len(), "{reply}");
    for (index, (entry, text)) in data.iter().zip(texts).enumerate() {
        assert_eq!((entry["index"].as_u64(), &entry["object"]), (Some(index as u64), &json!("embedding")), "{reply}");
        assert_eq!(floats(&entry["embedding"]), floats(&vector(text)), "{text}");
    }
}

/// Returns the texts in the one tensor of each request that a KServe model has had.
fn rows(origin: &Origin) -> Vec<Value> {
    origin.seen(INFER).iter().map(|seen| call(seen)["inputs"][0]["data"].take()).collect()
}

/// A KServe model that embeds texts, and fails as a whole for `bad`.
fn kserve(origin: &Origin) {
    origin.on(INFER, |seen| {
        let texts = call(seen)["inputs"][0]["data"].take();
        let texts: Vec<&str> = texts.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        if texts.contains(&"bad") {
            return json_reply(400, &json!({"error": "a bad word"}));
        }
        let data: Vec<Value> = texts.iter().flat_map(|text| vector(text).as_array().unwrap().clone()).collect();
        let output = json!({"name": "e", "datatype": "FP32", "shape": [texts.len(), 2], "data": data});
        json_reply(200, &json!({"model_name": "m", "outputs": [output]}))
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embeddings_come_from_a_kserve_model_and_are_stored_as_the_client_wants_them() {
    let origin = Origin::start().await;
    kserve(&origin);
    let node = translating(&origin.url(), "openai-embeddings", "kserve").start().await;
    let ask = |texts: &[&str]| json!({"model": "gpt", "input": texts});
    let first = embedded(&node, &ask(&["a", "b"])).await;
    check(&first, &["a", "b"]);
    assert_eq!(first.json()["model"], "gpt");
    assert_eq!(first.json()["usage"], json!({"prompt_tokens": 0, "total_tokens": 0}));
    assert_eq!(rows(&origin), [json!(["a", "b"])]);

    let mixed = embedded(&node, &ask(&["b", "c", "a", "c"])).await;
    check(&mixed, &["b", "c", "a", "c"]);
    assert_eq!(rows(&origin)[1..], [json!(["c"])], "what is known isn't sent");
    let again = embedded(&node, &ask(&["a", "b"])).await;
    assert!(again.is_hit());
    assert_eq!(again.body, first.body);

    let packed = embedded(&node, &json!({"model": "gpt", "input": "a", "encoding_format": "base64"})).await;
    let embedding = packed.json()["data"][0]["embedding"].take();
    assert!(embedding.as_str().is_some_and(|text| text.len() == 12 && text.ends_with('=')), "{embedding}");
    assert_eq!(rows(&origin).len(), 3, "another response, so another item");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_translated_is_refused_and_a_bad_item_costs_the_others_nothing() {
    let origin = Origin::start().await;
    kserve(&origin);
    let node = translating(&origin.url(), "openai-embeddings", "kserve").start().await;
    for (call, param) in [
        (json!({"model": "gpt", "input": "a", "dimensions": 8}), "dimensions"),
        (json!({"model": "gpt", "input": [{"text": "a"}]}), "input"),
        (json!({"model": "gpt", "input": ["a"], "late_chunking": true}), "late_chunking"),
    ] {
        let refused = embedded(&node, &call).await;
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!(param)), "{}", refused.text());
    }
    assert_eq!(origin.total(), 0);

    let failed = embedded(&node, &json!({"model": "gpt", "input": ["a", "bad", "b"]})).await;
    assert_eq!((failed.status, failed.header("content-type")), (400, "application/json"));
    let error = failed.json()["error"].take();
    assert_eq!((&error["message"], &error["type"]), (&json!("a bad word"), &json!("invalid_request_error")));
    let others = embedded(&node, &json!({"model": "gpt", "input": ["a", "b"]})).await;
    check(&others, &["a", "b"]);
    assert!(others.is_hit(), "{:?}", rows(&origin));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embeddings_come_from_a_model_that_takes_a_list() {
    let origin = Origin::start().await;
    origin.on("/predict", |seen| {
        let texts = call(seen);
        let texts = texts.as_array().unwrap().iter().map(|text| vector(text.as_str().unwrap()));
        json_reply(200, &texts.collect())
    });
    let node = translating(&origin.url(), "openai-embeddings", "json-array")
        .set("pool.web", "translate.path = \"/predict\"")
        .start()
        .await;
    check(&embedded(&node, &json!({"input": ["a", "b"]})).await, &["a", "b"]);
    assert_eq!(origin.seen("/predict").iter().map(call).collect::<Vec<_>>(), [json!(["a", "b"])]);

    let packed = Origin::start().await;
    packed.on("/own", |seen| {
        assert_eq!(&seen.body[..], b"\x92\xa1a\x81\xa1b\x07");
        assert_eq!(seen.header("content-type"), "application/msgpack");
        Reply::ok(&b"\x92\x01\xca\x3f\xc0\0\0"[..]).header("content-type", "application/msgpack")
    });
    let node = translating(&packed.url(), "json-array", "msgpack-array").start().await;
    let reply = node.post("/own").json(&json!(["a", {"b": 7}])).send().await;
    assert_eq!((reply.status, reply.text(), reply.header("content-type")), (200, "[1,1.5]", "application/json"));
}

pub(crate) const METHOD: &str = "/inference.GRPCInferenceService/ModelInfer";

/// A request, as far as these tests look at it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InferRequest {
    #[prost(string, tag = "1")]
    pub(crate) model_name: String,
    #[prost(string, tag = "2")]
    pub(crate) model_version: String,
    #[prost(string, tag = "3")]
    pub(crate) id: String,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(crate) parameters: BTreeMap<String, Parameter>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) inputs: Vec<Tensor>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub(crate) raw: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InferResponse {
    #[prost(string, tag = "1")]
    pub(crate) model_name: String,
    #[prost(string, tag = "2")]
    pub(crate) model_version: String,
    #[prost(string, tag = "3")]
    pub(crate) id: String,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(crate) parameters: BTreeMap<String, Parameter>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) outputs: Vec<Tensor>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(crate) raw: Vec<Bytes>,
}

/// A parameter that is a whole number, with a sign or without one.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Parameter {
    #[prost(int64, optional, tag = "2")]
    pub(crate) signed: Option<i64>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) unsigned: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Tensor {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub(crate) shape: Vec<i64>,
}

/// Returns the texts of a tensor, each of which begins with its length.
pub(crate) fn texts(mut raw: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = raw.split_first_chunk::<4>() {
        let (text, after) = rest.split_at(u32::from_le_bytes(*length) as usize);
        texts.push(String::from_utf8(text.to_vec()).unwrap());
        raw = after;
    }
    texts
}

pub(crate) fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

pub(crate) fn responds(pieces: Vec<Bytes>, trailers: Option<HeaderMap>) -> Response<OutBody> {
    let frames = pieces.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers)).map(Ok);
    let frames: Vec<io::Result<Frame<Bytes>>> = frames.collect();
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// The requests that a model over gRPC has had.
pub(crate) type Calls = Arc<Mutex<Vec<InferRequest>>>;

/// A model over gRPC that embeds texts. It fails for `bad`, isn't there for `busy`, says nothing of success for `mute`,
/// says it in the head for `hasty`, has another status than 200 for `made`, and computes no number for `nan`.
async fn infer(request: Request<Incoming>, calls: Calls) -> Response<OutBody> {
    let (head, body) = request.into_parts();
    let is = |name: &str, value: &str| head.headers.get(name).is_some_and(|found| found == value);
    if head.uri.path() != METHOD || !is("content-type", "application/grpc") || !is("te", "trailers") {
        return Response::builder().status(415).body(full("no call")).unwrap();
    }
    let body = body.collect().await.unwrap().to_bytes();
    let call = InferRequest::decode(body.slice(5..)).unwrap();
    let texts = texts(&call.raw[0]);
    // What it says of itself is what it was asked for.
    let (model_version, parameters) = (call.model_version.clone(), call.parameters.clone());
    calls.lock().push(call);
    let has = |word: &str| texts.iter().any(|text| text == word);
    if has("bad") {
        return responds(Vec::new(), Some(fields(&[("grpc-status", "3"), ("grpc-message", "a bad%20word")])));
    }
    if has("busy") {
        let mut response = Response::new(full(""));
        *response.headers_mut() = fields(&[("content-type", "application/grpc"), ("grpc-status", "14")]);
        response.headers_mut().insert("grpc-message", HeaderValue::from_static("try later"));
        return response;
    }
    let embedding = |text: &String| if text == "nan" { vec![f64::NAN, 1.0] } else { floats(&vector(text)) };
    let numbers = texts.iter().flat_map(embedding);
    let raw: Vec<u8> = numbers.flat_map(|number| (number as f32).to_le_bytes()).collect();
    let shape = vec![i64::try_from(texts.len()).unwrap(), 2];
    let output = Tensor { name: "e".to_owned(), datatype: "FP32".to_owned(), shape };
    let (model_name, id) = ("m".to_owned(), "the model's own".to_owned());
    let (outputs, raw) = (vec![output], vec![raw.into()]);
    let message = InferResponse { model_name, model_version, id, parameters, outputs, raw };
    let encoded = message.encode_to_vec();
    let prefix = [&[0][..], &u32::try_from(encoded.len()).unwrap().to_be_bytes()[..]].concat();
    let trailers = (!has("mute") && !has("hasty")).then(|| fields(&[("grpc-status", "0")]));
    let mut response = responds(vec![prefix.into(), encoded.into()], trailers);
    if has("hasty") {
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
    }
    if has("made") {
        *response.status_mut() = StatusCode::CREATED;
    }
    response
}

/// Starts that model.
pub(crate) async fn over_grpc() -> (H2Origin, Calls) {
    let calls = Calls::default();
    let noted = Arc::clone(&calls);
    let origin = H2Origin::start(100, None, move |request| infer(request, Arc::clone(&noted))).await;
    (origin, calls)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embeddings_come_from_a_model_over_grpc() {
    let (origin, calls) = over_grpc().await;
    let node = translating(&origin.url(), "openai-embeddings", "kserve-grpc").start().await;
    check(&embedded(&node, &json!({"model": "gpt", "input": ["a", "bc"]})).await, &["a", "bc"]);
    {
        let calls = calls.lock();
        let [call] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!((call.model_name.as_str(), texts(&call.raw[0])), ("m", vec!["a".to_owned(), "bc".to_owned()]));
        let Tensor { name, datatype, shape } = &call.inputs[0];
        assert_eq!((name.as_str(), datatype.as_str(), &shape[..]), ("input", "BYTES", &[2, 1][..]));
    }
    assert!(embedded(&node, &json!({"model": "gpt", "input": ["bc", "a"]})).await.is_hit());
    assert_eq!(calls.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_says_of_its_success_is_heard() {
    let (origin, calls) = over_grpc().await;
    let node = translating(&origin.url(), "openai-embeddings", "kserve-grpc").start().await;
    for (text, status, message) in [
        ("bad", 400, "a bad word"),
        ("busy", 503, "try later"),
        ("mute", 502, "the model's response has no `grpc-status`"),
        ("hasty", 502, "the model's response has no `grpc-status`"),
        ("made", 502, "the model failed with status 502"),
    ] {
        for _ in 0..2 {
            let failed = embedded(&node, &json!({"model": "gpt", "input": text})).await;
            let error = failed.json()["error"].take();
            assert_eq!((failed.status, &error["message"]), (status, &json!(message)), "{text}");
            let grpc = failed.headers.keys().find(|name| name.as_str().starts_with("grpc-"));
            assert_eq!(grpc, None, "fields of the model's protocol");
        }
    }
    assert!(calls.lock().len() >= 10, "no failure is stored");
    // The bad one of several is found, and the others have their results.
    let failed = embedded(&node, &json!({"model": "gpt", "input": ["x", "bad", "y"]})).await;
    assert_eq!(failed.status, 400);
    let others = embedded(&node, &json!({"model": "gpt", "input": ["x", "y"]})).await;
    check(&others, &["x", "y"]);
    assert!(others.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_over_rest_come_from_a_model_over_grpc() {
    let (origin, calls) = over_grpc().await;
    let node = translating(&origin.url(), "kserve", "kserve-grpc").start().await;
    let inputs = json!([
        {"name": "t", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "b"]},
        {"name": "x", "datatype": "INT16", "shape": [2, 2], "data": [1, 2, 3, -4]},
    ]);
    let reply = node.post("/v2/models/k/infer").json(&json!({"id": "mine", "inputs": inputs})).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = reply.json();
    assert_eq!((&reply["id"], &reply["model_name"]), (&json!("mine"), &json!("k")));
    let output = &reply["outputs"][0];
    assert_eq!((&output["name"], &output["shape"]), (&json!("e"), &json!([2, 2])));
    let wanted: Vec<f64> = ["a", "b"].iter().flat_map(|text| floats(&vector(text))).collect();
    assert_eq!(floats(&output["data"]), wanted);
    let calls = calls.lock();
    assert_eq!(calls[0].raw[1], &b"\x01\0\x02\0\x03\0\xfc\xff"[..]);
    assert_eq!(calls[0].inputs[1].shape, [2, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_not_of_its_tensors_type_is_no_result_and_costs_the_others_nothing() {
    for (datatype, spoiled) in [
        ("FP32", json!(null)),
        ("FP32", json!("1.5")),
        ("FP32", json!(true)),
        ("FP32", json!(1e300)),
        ("UINT8", json!(300)),
        ("UINT8", json!(-1)),
        ("INT64", json!(1.5)),
        ("BOOL", json!(1)),
        ("BYTES", json!(1)),
    ] {
        let (origin, words) = (Origin::start().await, format!("{datatype} {spoiled}"));
        let sound = match datatype {
            "BOOL" => json!(true),
            "BYTES" => json!("word"),
            _ => json!(7),
        };
        let good = sound.clone();
        origin.on(INFER, move |seen| {
            let texts = call(seen)["inputs"][0]["data"].take();
            let texts = texts.as_array().unwrap();
            let row = |text: &Value| [if text == "bad" { spoiled.clone() } else { good.clone() }, good.clone()];
            let data: Vec<Value> = texts.iter().flat_map(row).collect();
            let output = json!({"name": "e", "datatype": datatype, "shape": [texts.len(), 2], "data": data});
            json_reply(200, &json!({"model_name": "m", "outputs": [output]}))
        });
        let node = translating(&origin.url(), "json-array", "kserve").start().await;
        let reply = node.post("/own").json(&json!(["a", "bad", "b"])).send().await;
        let list = reply.json();
        assert_eq!(reply.status, 200, "{words}: {list}");
        assert_eq!((&list[0], &list[2]), (&json!([sound, sound]), &json!([sound, sound])), "{words}: {list}");
        assert_eq!(list[1]["error"]["status"], 502, "{words}: {list}");
        let others = node.post("/own").json(&json!(["b", "a"])).send().await;
        assert!(others.status == 200 && others.is_hit(), "{words}: {}", others.text());
        for _ in 0..2 {
            let before = origin.hits(INFER);
            let alone = node.post("/own").json(&json!("bad")).send().await;
            assert_eq!(alone.status, 502, "{words}: {}", alone.text());
            assert_eq!(origin.hits(INFER), before + 1, "{words}: it isn't stored");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_is_none_is_no_result_for_clients_that_could_write_it_either() {
    let (origin, calls) = over_grpc().await;
    let node = translating(&origin.url(), "msgpack-array", "kserve-grpc").start().await;
    let ask = async |body: &'static [u8]| {
        node.post("/own").header("content-type", "application/msgpack").body(body).send().await
    };
    let mixed = ask(&b"\x92\xa1a\xa3nan"[..]).await;
    // An array of two, the first of them one of two numbers.
    assert_eq!((mixed.status, &mixed.body[..2]), (200, &b"\x92\x92"[..]), "{:?}", mixed.body);
    let other = ask(&b"\x91\xa1a"[..]).await;
    assert!(other.status == 200 && other.is_hit(), "{:?}", other.body);
    for _ in 0..2 {
        let before = calls.lock().len();
        let alone = ask(&b"\xa3nan"[..]).await;
        assert_eq!(alone.status, 502, "{:?}", alone.body);
        assert_eq!(calls.lock().len(), before + 1, "it isn't stored");
    }
}
