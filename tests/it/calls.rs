//! Clients that speak gRPC, on routes whose bodies are split.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    harness::{
        client::{Ask, Conn, full, piped},
        eventually,
        h2::H2Origin,
        model::vector,
        node::{Node, NodeHandle},
        origin::{Gate, Origin},
    },
    translated::{
        InferRequest, InferResponse, METHOD, Parameter, Tensor, fields, floats, json_reply, over_grpc, responds, texts,
        translating,
    },
};

const LIVE: &str = "/inference.GRPCInferenceService/ServerLive";

/// The path of the model in the REST protocol.
const INFER: &str = "/v2/models/k/infer";

/// Returns the bytes of a tensor of texts.
fn raw(texts: &[&str]) -> Vec<u8> {
    let length = |text: &str| u32::try_from(text.len()).unwrap().to_le_bytes();
    texts.iter().flat_map(|text| [&length(text)[..], text.as_bytes()].concat()).collect()
}

/// Returns the message of a call with a row for each text.
fn message(id: &str, texts: &[&str]) -> Vec<u8> {
    let shape = vec![i64::try_from(texts.len()).unwrap(), 1];
    let input = Tensor { name: "t".to_owned(), datatype: "BYTES".to_owned(), shape };
    let (model_name, id, inputs, raw) = ("k".to_owned(), id.to_owned(), vec![input], vec![raw(texts).into()]);
    InferRequest { model_name, id, inputs, raw, ..InferRequest::default() }.encode_to_vec()
}

/// Returns a message with its length before it.
fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// How a call ended.
#[derive(Debug)]
struct Ended {
    code: String,
    why: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Ended {
    fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the message of a call that has succeeded, and the numbers of its only output.
    fn result(&self) -> (InferResponse, Vec<f64>) {
        assert_eq!(self.code, "0", "{self:?}");
        let response = InferResponse::decode(self.body.slice(5..)).unwrap();
        assert_eq!(framed(0, &response.encode_to_vec()).len(), self.body.len());
        let numbers =
            response.raw[0].chunks_exact(4).map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())));
        let numbers = numbers.collect();
        (response, numbers)
    }
}

/// Sends a call and checks that the response is one of gRPC.
async fn ended(conn: &mut Conn, ask: Ask) -> Ended {
    let opened = conn.open(ask).await.unwrap();
    assert_eq!((opened.status, &opened.headers["content-type"]), (200, &HeaderValue::from_static("application/grpc")));
    let headers = opened.headers.clone();
    let (body, trailers) = opened.with_trailers().await.unwrap();
    assert_eq!(body.is_empty(), trailers.is_empty(), "{trailers:?}");
    let said = if body.is_empty() { &headers } else { &trailers };
    let text = |name: &str| said.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    let (code, why) = (text("grpc-status"), text("grpc-message"));
    Ended { code, why, headers, body }
}

fn ask(node: &NodeHandle, method: &str) -> Ask {
    node.ask(Method::POST, method).header("content-type", "application/grpc").header("te", "trailers")
}

/// Calls the model for these texts.
async fn infer(node: &NodeHandle, id: &str, texts: &[&str]) -> Ended {
    ended(&mut node.h2().await, ask(node, METHOD).body(framed(0, &message(id, texts)))).await
}

fn wanted(texts: &[&str]) -> Vec<f64> {
    texts.iter().flat_map(|text| floats(&vector(text))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_split_stored_and_joined() {
    let (origin, calls) = over_grpc().await;
    let node = translating(&origin.url(), "kserve", "kserve-grpc").start().await;
    let first = infer(&node, "mine", &["a", "b"]).await;
    let (response, numbers) = first.result();
    assert_eq!((response.id.as_str(), &response.outputs[0].shape[..]), ("mine", &[2, 2][..]));
    assert_eq!(numbers, wanted(&["a", "b"]));
    assert!(first.field("cache-status").contains("fwd="), "{first:?}");

    let (response, numbers) = infer(&node, "", &["c", "b", "c"]).await.result();
    assert_eq!((response.id.as_str(), numbers), ("", wanted(&["c", "b", "c"])), "no `id` but the client's own");
    let sent: Vec<Vec<String>> = calls.lock().iter().map(|call| texts(&call.raw[0])).collect();
    assert_eq!(sent, [vec!["a", "b"], vec!["c"]]);

    let again = infer(&node, "again", &["b"]).await;
    assert!(again.field("cache-status").contains("hit"), "{again:?}");
    assert_eq!((again.result().0.id.as_str(), again.result().1), ("again", wanted(&["b"])));
}

/// A model over REST that embeds texts which come as binary data, and gives its responses a name of its own.
fn over_rest(origin: &Origin, gate: Gate) {
    origin.on(INFER, move |seen| {
        let length: usize = seen.header("inference-header-content-length").parse().unwrap();
        let (_, binary) = seen.body.split_at(length);
        let texts = texts(binary);
        let data: Vec<Value> = texts.iter().flat_map(|text| vector(text).as_array().unwrap().clone()).collect();
        let output = json!({"name": "e", "datatype": "FP32", "shape": [texts.len(), 2], "data": data});
        json_reply(200, &json!({"id": "the model's own", "model_name": "k", "outputs": [output]})).behind(&gate)
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_over_rest_serves_calls_and_both_share_what_is_stored() {
    let origin = Origin::start().await;
    over_rest(&origin, Gate::opened());
    let node = Node::builder().origin(&origin.url()).infer("kserve").route("ttl_ms = 600000").start().await;
    for texts in [&["a"][..], &["a", "b"], &["b", "c", "d"]] {
        let (response, numbers) = infer(&node, "mine", texts).await.result();
        assert_eq!((response.id.as_str(), numbers), ("mine", wanted(texts)));
    }
    let hits = origin.hits(INFER);
    assert_eq!(hits, 3);
    let input = json!({
        "name": "t", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": raw(&["a"]).len()},
    });
    let head = json!({"inputs": [input], "parameters": {"binary_data_output": true}}).to_string();
    let request = node
        .post(INFER)
        .header("content-type", "application/octet-stream")
        .header("inference-header-content-length", &head.len().to_string())
        .body([head.as_bytes(), &raw(&["a"])].concat());
    let reply = request.send().await;
    assert!(reply.status == 200 && reply.is_hit(), "{}", reply.text());
    assert_eq!((reply.json().get("id"), origin.hits(INFER)), (None, hits), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_and_the_parameters_of_a_call_reach_a_model_over_grpc_as_they_were_given() {
    let (origin, calls) = over_grpc().await;
    let node = Node::builder().origin(&origin.url()).infer("kserve").route("ttl_ms = 600000");
    let node = node.set("pool.web", "protocol = \"kserve-grpc\"").start().await;
    let signed = |number| Parameter { signed: Some(number), ..Parameter::default() };
    let unsigned = |number| Parameter { unsigned: Some(number), ..Parameter::default() };
    let asked = [("3", signed(5)), ("3", unsigned(5)), ("3", unsigned(u64::MAX)), ("4", signed(5)), ("", signed(-5))];
    for (at, (version, parameter)) in asked.iter().enumerate() {
        for is_again in [false, true] {
            let call = InferRequest {
                model_version: (*version).to_owned(),
                parameters: [("p".to_owned(), parameter.clone())].into(),
                ..InferRequest::decode(&message("mine", &["a", "b"])[..]).unwrap()
            };
            let body = framed(0, &call.encode_to_vec());
            let ended = ended(&mut node.h2().await, ask(&node, METHOD).body(body)).await;
            let (response, numbers) = ended.result();
            assert_eq!((numbers, response.model_version.as_str()), (wanted(&["a", "b"]), *version));
            let calls = calls.lock();
            assert_eq!(calls.len(), at + 1, "{version} {parameter:?}: again: {is_again}");
            assert_eq!((&calls[at].model_version, &calls[at].parameters), (&call.model_version, &call.parameters));
            assert_eq!(response.parameters.len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_has_a_code_and_no_message() {
    let (origin, _) = over_grpc().await;
    let node = translating(&origin.url(), "kserve", "kserve-grpc").start().await;
    for (texts, code, why) in [
        (&["bad"][..], "3", "a bad word"),
        (&["x", "bad"], "3", "a bad word"),
        (&["busy"], "14", "try later"),
        (&["mute"], "14", "the model's response has no `grpc-status`"),
    ] {
        let failed = infer(&node, "", texts).await;
        assert_eq!((failed.code.as_str(), failed.why.as_str()), (code, why), "{texts:?}");
        assert!(failed.body.is_empty() && !failed.field("cache-status").is_empty(), "{failed:?}");
    }
    let others = infer(&node, "", &["x"]).await;
    assert!(others.field("cache-status").contains("hit"), "one's mistake is one's own: {others:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_one_message_however_it_arrives() {
    let (origin, _) = over_grpc().await;
    let node = translating(&origin.url(), "kserve", "kserve-grpc").start().await;
    let good = framed(0, &message("", &["a"]));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&message("", &["a"])).unwrap();
    let packed = framed(1, &gzip.finish().unwrap());
    for (what, body, encoding, code) in [
        ("as it is", good.clone(), "", "0"),
        ("in gzip", packed.clone(), "gzip", "0"),
        ("compressed without a word", packed.clone(), "", "13"),
        ("compressed in a way that isn't known", packed, "snappy", "12"),
        ("compressed, it says", framed(1, &message("", &["a"])), "gzip", "13"),
        ("nothing", Vec::new(), "", "12"),
        ("two messages", [&good[..], &good[..]].concat(), "", "12"),
        ("a byte too many", [&good[..], b"\0"].concat(), "", "12"),
        ("a byte too few", good[..good.len() - 1].to_vec(), "", "13"),
        ("half a prefix", good[..3].to_vec(), "", "13"),
        ("another flag", framed(7, &message("", &["a"])), "", "13"),
        ("no request", framed(0, b"\xff\xff"), "", "13"),
        ("no model", framed(0, b""), "", "3"),
        ("a field that isn't known", framed(0, &[&message("", &["a"])[..], b"\x48\x01"].concat()), "", "3"),
    ] {
        let pieces: Vec<io::Result<Frame<Bytes>>> =
            body.iter().map(|byte| Ok(Frame::data(Bytes::copy_from_slice(&[*byte])))).collect();
        for body in [full(body), StreamBody::new(stream::iter(pieces)).boxed_unsync()] {
            let call = ask(&node, METHOD).stream(body);
            let call = if encoding.is_empty() { call } else { call.header("grpc-encoding", encoding) };
            let found = ended(&mut node.h2().await, call).await;
            assert_eq!(found.code, code, "{what}: {}", found.why);
            assert!(code == "0" || !found.why.is_empty(), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_end_is_refused_by_its_length_or_in_time() {
    let (origin, calls) = over_grpc().await;
    let node = translating(&origin.url(), "kserve", "kserve-grpc").start().await;
    let whole = framed(0, &message("", &["a"]));
    for (sent, time, code) in [(&b"\0\xff\xff\xff\xff"[..], "", "8"), (&whole[..], "300m", "4"), (&whole[..], "x", "3")]
    {
        let (pipe, body) = piped();
        pipe.try_send(Ok(Bytes::copy_from_slice(sent))).unwrap();
        let call = ask(&node, METHOD).stream(body);
        let call = if time.is_empty() { call } else { call.header("grpc-timeout", time) };
        let found = ended(&mut node.h2().await, call).await;
        assert_eq!(found.code, code, "{}", found.why);
        drop(pipe);
    }
    assert_eq!(calls.lock().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_waiting_costs_the_model_nothing_more() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    over_rest(&origin, gate.clone());
    let node = Node::builder().origin(&origin.url()).infer("kserve").route("ttl_ms = 600000").start().await;
    let call = ask(&node, METHOD).header("grpc-timeout", "500m").body(framed(0, &message("", &["a"])));
    let late = ended(&mut node.h2().await, call).await;
    assert_eq!(late.code, "4", "{}", late.why);
    gate.open();
    // What was sent is paid for, and stored.
    eventually("the result in memory", async || {
        let again = infer(&node, "", &["a"]).await;
        again.field("cache-status").contains("hit")
    })
    .await;
    assert_eq!(origin.hits(INFER), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_are_passed_on_where_the_pool_speaks_grpc() {
    let live = Bytes::from_static(b"\0\0\0\0\x02\x08\x01");
    let said = live.clone();
    let origin = H2Origin::start(100, None, move |request: Request<Incoming>| {
        let said = if request.uri().path() == LIVE { vec![said.clone()] } else { Vec::new() };
        async move { responds(said, Some(fields(&[("grpc-status", "0")]))) }
    })
    .await;
    let node = translating(&origin.url(), "kserve", "kserve-grpc").start().await;
    let passed = ended(&mut node.h2().await, ask(&node, LIVE).body(framed(0, b""))).await;
    assert_eq!((passed.code.as_str(), passed.body), ("0", live));

    let embeddings = translating(&origin.url(), "openai-embeddings", "kserve-grpc").start().await;
    let rest = Node::builder().origin(&origin.url()).infer("kserve").start().await;
    for (node, method) in [(&embeddings, METHOD), (&embeddings, LIVE), (&rest, LIVE)] {
        let refused = ended(&mut node.h2().await, ask(node, method).body(framed(0, b""))).await;
        assert_eq!(refused.code, "12", "{method}: {}", refused.why);
    }
    let old = node.post(METHOD).header("content-type", "application/grpc").body(framed(0, b"")).send().await;
    assert_eq!(old.status, 505, "{}", old.text());
    assert_eq!(origin.versions().len(), 1);
}
