use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::*;
use crate::{
    config::{PoolProtocol, Translation},
    origin::protocol::item::outcome_ref,
};

fn rule(protocol: PoolProtocol) -> Translation {
    Translation { model: Some("m".to_owned()), ..Translation::new(protocol) }
}

fn asked(client: &Translated, target: &'static str, body: &[u8], rule: Translation) -> Result<Split, Malformed> {
    let (target, headers) = (PathAndQuery::from_static(target), HeaderMap::new());
    let (body, translation, indivisible) = (Bytes::copy_from_slice(body), Arc::new(rule), ["late_chunking".to_owned()]);
    let rules = SplitRules { items_max: 8, indivisible: &indivisible, translation: Some(&translation) };
    client.split(&Received { target: &target, headers: &headers, body: &body }, &rules)
}

fn embeddings(body: &Value, rule: Translation) -> Result<Split, Malformed> {
    asked(&OPENAI, "/v1/embeddings", body.to_string().as_bytes(), rule)
}

fn joined(client: &Translated, split: &Split) -> JoinedRequest {
    client.join(&PathAndQuery::from_static("/own?n=1"), &split.items.iter().collect::<Vec<_>>())
}

/// Returns the reply to a request whose model responds with this.
fn replied(client: &Translated, split: &Split, headers: &HeaderMap, body: &[u8]) -> JoinedReply {
    let (items, body) = (split.items.iter().collect::<Vec<_>>(), Bytes::copy_from_slice(body));
    let outcomes = client.split_response(Message { headers, body: &body }, &items).unwrap();
    client.join_outcomes(split.form.clone(), &outcomes.iter().map(outcome_ref).collect::<Vec<_>>())
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn kserve_reply(rows: &Value, width: usize) -> Value {
    let shape = [rows.as_array().unwrap().len() / width, width];
    json!({"model_name": "m", "outputs": [{"name": "e", "datatype": "FP32", "shape": shape, "data": rows}]})
}

#[test]
fn an_embedding_of_another_length_than_most_is_not_trusted() {
    let split = embeddings(&json!({"input": ["a", "b", "c"]}), rule(PoolProtocol::JsonArray)).unwrap();
    let items: Vec<&Item> = split.items.iter().collect();
    let headers = HeaderMap::new();
    for (body, wanted) in [
        ("[[1,2],[3,4],[5,6]]", [None, None, None]),
        ("[[1,2],[3],[5,6]]", [None, Some(true), None]),
        ("[[1],[3,4],[5,6,7]]", [Some(true), Some(true), Some(true)]),
        ("[[1,2],\"x\",[5,6]]", [None, Some(false), None]),
    ] {
        let body = Bytes::from(body);
        let outcomes = OPENAI.split_response(Message { headers: &headers, body: &body }, &items).unwrap();
        let found: Vec<Option<bool>> = outcomes.iter().map(|outcome| Some(outcome.as_ref().err()?.differs)).collect();
        assert_eq!(found, wanted, "{body:?}");
        assert!(outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|error| error.retry_alone));
    }
}

#[test]
fn what_is_usual_decides_which_embedding_is_not_trusted() {
    let mut split = embeddings(&json!({"input": ["a", "b", "c"]}), rule(PoolProtocol::JsonArray)).unwrap();
    split.items[0].usual = Some(Shape::Numbers(2));
    let items: Vec<&Item> = split.items.iter().collect();
    let headers = HeaderMap::new();
    for (body, wanted) in [
        ("[[1,2],[3,4],[5,6]]", &[true, true, true][..]),
        ("[[1],[3,4],[5]]", &[false, true, false]),
        ("[[1,2],[3]]", &[true, false]),
        ("[[1,2]]", &[true]),
        ("[[1]]", &[false]),
    ] {
        let body = Bytes::from(body);
        let response = Message { headers: &headers, body: &body };
        let outcomes = OPENAI.split_response(response, &items[..wanted.len()]).unwrap();
        let is_trusted = |outcome: &Outcome| outcome.as_ref().is_ok_and(|one| one.storable && one.joinable);
        assert_eq!(outcomes.iter().map(is_trusted).collect::<Vec<_>>(), wanted, "{body:?}");
        assert_eq!(outcomes.iter().all(Result::is_ok), wanted.len() == 1 || !wanted.contains(&false), "{body:?}");
    }
}

#[test]
fn texts_become_rows_of_a_tensor_and_rows_embeddings() {
    let call = json!({"model": "org/m", "input": ["a", "b"], "user": "u", "dimensions": null});
    let rule = Translation { model: None, ..rule(PoolProtocol::KServe) };
    let split = embeddings(&call, rule).unwrap();
    let request = joined(&OPENAI, &split);
    assert_eq!(request.target, "/v2/models/org%2Fm/infer");
    assert_eq!(request.headers[CONTENT_TYPE], "application/json");
    let input = json!({"name": "input", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "b"]});
    assert_eq!(parsed(&request.body), json!({"inputs": [input]}));
    let reply =
        replied(&OPENAI, &split, &HeaderMap::new(), kserve_reply(&json!([0.5, 1.25, 2, 3]), 2).to_string().as_bytes());
    let wanted = json!({
        "object": "list", "model": "org/m",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, 1.25]},
            {"object": "embedding", "index": 1, "embedding": [2, 3]},
        ],
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    });
    assert_eq!((reply.status, parsed(&reply.body)), (200, wanted));
}

#[test]
fn the_operator_says_how_tensors_look() {
    let rule = Translation {
        path: Some("/v2/models/{model}/versions/3/infer".to_owned()),
        input: "ids".to_owned(),
        output: Some("e".to_owned()),
        datatype: Some("INT32"),
        ..rule(PoolProtocol::KServe)
    };
    let call = json!({"model": "other", "input": [[1, 2], [3, 4]], "encoding_format": "base64"});
    let split = embeddings(&call, rule.clone()).unwrap();
    let request = joined(&OPENAI, &split);
    assert_eq!(request.target, "/v2/models/m/versions/3/infer");
    let input = json!({"name": "ids", "datatype": "INT32", "shape": [2, 2], "data": [1, 2, 3, 4]});
    assert_eq!(parsed(&request.body), json!({"inputs": [input], "outputs": [{"name": "e"}]}));
    let mut body = kserve_reply(&json!([1.5, -2, 0, 1]), 2);
    let other = json!({"name": "f", "datatype": "FP32", "shape": [2, 1], "data": [7, 8]});
    body["outputs"].as_array_mut().unwrap().insert(0, other);
    let reply = parsed(&replied(&OPENAI, &split, &HeaderMap::new(), body.to_string().as_bytes()).body);
    assert_eq!(reply["data"][0]["embedding"], "AADAPwAAAMA=");
    assert_eq!(reply["model"], "other");

    let flat = Translation { flat: true, binary: true, ..rule };
    let split = embeddings(&json!({"input": "a"}), flat).unwrap();
    let request = joined(&OPENAI, &split);
    let length: usize = request.headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let (head, data) = request.body.split_at(length);
    assert_eq!(data, b"\x01\0\0\0a");
    let head = parsed(head);
    assert_eq!(head["inputs"][0]["shape"], json!([1]));
    assert_eq!(head["parameters"], json!({"binary_data_output": true}));
}

#[test]
fn inputs_of_one_length_share_a_request() {
    let call = json!({"model": "x", "input": [[1, 2], [3, 4], [5, 6, 7]]});
    let items = embeddings(&call, rule(PoolProtocol::KServe)).unwrap().items;
    assert_eq!(items[0].group, items[1].group);
    assert_ne!(items[0].group, items[2].group);
    // The form of the response is each client's own.
    let packed =
        embeddings(&json!({"input": [1, 2], "encoding_format": "base64"}), rule(PoolProtocol::KServe)).unwrap();
    assert_eq!(packed.items[0].group, items[0].group);
    assert_ne!(packed.items[0].canonical, items[0].canonical);
    let elsewhere = Translation { model: None, ..rule(PoolProtocol::KServe) };
    let named = embeddings(&json!({"model": "y", "input": [1, 2]}), elsewhere).unwrap();
    assert_ne!(named.items[0].group, items[0].group, "another model");
}

#[test]
fn what_has_no_place_is_refused_by_its_name() {
    let unnamed = || Translation { model: None, ..rule(PoolProtocol::KServe) };
    for (call, rule, param) in [
        (json!({"input": "a", "dimensions": 3}), rule(PoolProtocol::KServe), "dimensions"),
        (json!({"input": "a", "encoding_format": "ubinary"}), rule(PoolProtocol::KServe), "encoding_format"),
        (json!({"input": "a"}), unnamed(), "model"),
        (json!({"input": "a", "model": 5}), rule(PoolProtocol::KServe), "model"),
        (json!({"input": "a", "model": ".."}), unnamed(), "model"),
        (json!({"input": {"text": "a"}}), rule(PoolProtocol::KServe), "input"),
        (json!({"input": ["a", [1]]}), rule(PoolProtocol::JsonArray), "input"),
        (json!({"input": ["a"], "late_chunking": true}), rule(PoolProtocol::KServeGrpc), "late_chunking"),
        (json!({"input": [99_999_999_999_999_999_999_f64]}), rule(PoolProtocol::KServe), "input"),
    ] {
        let refused = embeddings(&call, rule).unwrap_err();
        assert_eq!(refused.param(), Some(param), "{call}: {refused}");
        let reply = OPENAI.refusal(&refused);
        let error = parsed(&reply.body)["error"].take();
        assert_eq!((reply.status, &error["param"]), (400, &json!(param)), "{error}");
    }
    // It is told no member that it hasn't sent.
    let refused = embeddings(&json!({"model": "x", "contents": ["a"]}), rule(PoolProtocol::KServe)).unwrap_err();
    assert!(refused.param().is_none() && !refused.to_string().contains("`input`"), "{refused}");
    for element in ["{\"a\":1}", "[1,[2]]", "null", "[]"] {
        let refused = asked(&JSON_ARRAY, "/x", format!("[{element}]").as_bytes(), rule(PoolProtocol::KServe));
        assert!(matches!(refused, Err(Malformed::Untranslatable { .. })), "{element}: {refused:?}");
    }
}

#[test]
fn elements_of_arrays_are_recoded_whatever_they_are() {
    let body = b"[{\"a\": [1, 2.5, \"x\"]}, null]";
    let split = asked(&JSON_ARRAY, "/x", body, rule(PoolProtocol::MsgPackArray)).unwrap();
    let request = joined(&JSON_ARRAY, &split);
    assert_eq!(request.target, "/own?n=1");
    assert_eq!(request.headers[CONTENT_TYPE], "application/msgpack");
    assert_eq!(&request.body[..], b"\x92\x81\xa1a\x93\x01\xcb\x40\x04\0\0\0\0\0\0\xa1x\xc0");
    let said = b"\x92\x81\xa5error\x82\xa6status\xcd\x01\xa6\xa7message\xa2no\x91\xca\x3f\xc0\0\0";
    let reply = replied(&JSON_ARRAY, &split, &HeaderMap::new(), said);
    assert_eq!(parsed(&reply.body), json!([{"error": {"status": 422, "message": "no"}}, [1.5]]));

    let split = asked(&MSGPACK_ARRAY, "/x", b"\x92\x01\xa1a", rule(PoolProtocol::JsonArray)).unwrap();
    assert_eq!(&joined(&MSGPACK_ARRAY, &split).body[..], b"[1,\"a\"]");
    let reply = replied(&MSGPACK_ARRAY, &split, &HeaderMap::new(), b"[2, {\"b\": true}]");
    assert_eq!(&reply.body[..], b"\x92\x02\x81\xa1b\xc3");
    assert!(asked(&MSGPACK_ARRAY, "/x", b"\x91\xc4\x01\0", rule(PoolProtocol::JsonArray)).is_err(), "bytes");
}

#[test]
fn arrays_stand_behind_embeddings_and_tensors() {
    let split = embeddings(&json!({"model": "x", "input": ["a", "b"]}), rule(PoolProtocol::JsonArray)).unwrap();
    assert_eq!(&joined(&OPENAI, &split).body[..], b"[\"a\",\"b\"]");
    let reply = parsed(&replied(&OPENAI, &split, &HeaderMap::new(), b"[[1.0, 2e0], [3, 4]]").body);
    assert_eq!(reply["data"][1]["embedding"], json!([3, 4]));

    let input = json!({"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3.5, 4]});
    let body = json!({"id": "7", "inputs": [input]}).to_string();
    let split = asked(&KSERVE, "/v2/models/k/infer", body.as_bytes(), rule(PoolProtocol::JsonArray)).unwrap();
    assert_eq!(&joined(&KSERVE, &split).body[..], b"[[1,2],[3.5,4]]");
    let reply = parsed(&replied(&KSERVE, &split, &HeaderMap::new(), b"[\"low\", \"high\"]").body);
    let output = json!({"name": "output", "datatype": "BYTES", "shape": [2], "data": ["low", "high"]});
    assert_eq!(reply, json!({"id": "7", "model_name": "k", "outputs": [output]}));
}

#[test]
fn a_model_that_says_too_little_or_too_much_costs_its_own_item_only() {
    let split = embeddings(&json!({"model": "x", "input": ["a", "b"]}), rule(PoolProtocol::JsonArray)).unwrap();
    let items: Vec<&Item> = split.items.iter().collect();
    for bad in ["null", "\"word\"", "[[1,2],[3,4]]", "[]", "[NaN]", "{\"embedding\":[1]}", "[true]"] {
        let (headers, body) = (HeaderMap::new(), Bytes::from(format!("[{bad},[1,2]]")));
        let outcomes = OPENAI.split_response(Message { headers: &headers, body: &body }, &items).unwrap();
        assert!(outcomes[0].as_ref().is_err_and(|error| error.status == 502 && error.retry_alone), "{bad}");
        assert!(outcomes[1].is_ok(), "{bad}");
    }
    let (headers, body) = (HeaderMap::new(), Bytes::from_static(b"[[1]]"));
    let refused = OPENAI.split_response(Message { headers: &headers, body: &body }, &items);
    assert_eq!(refused, Err(BadResponse::Count { asked: 2, found: 1 }));
}

#[test]
fn failures_are_worded_as_the_client_knows_them() {
    let call = json!({"model": "x", "input": "a"});
    let none = HeaderMap::new();
    for (protocol, status, body, wanted) in [
        (PoolProtocol::KServe, 400, "{\"error\": \"too long\"}", Some("too long")),
        (PoolProtocol::KServe, 400, "{\"error\": \"shape of 'x'\"}", Some("shape of 'input'")),
        (PoolProtocol::KServe, 500, "<h1>", Some("the model failed with status 500")),
        (PoolProtocol::JsonArray, 422, "{\"detail\": \"no\"}", Some("no")),
        (PoolProtocol::JsonArray, 200, "{\"error\": \"no\"}", None),
        (PoolProtocol::KServeGrpc, 200, "", Some("the model's response has no `grpc-status`")),
    ] {
        let named = Translation { input: "x".to_owned(), ..rule(protocol) };
        let split = embeddings(&call, named).unwrap();
        let body = Bytes::from(body);
        let arrival = Arrival { status, headers: &none, trailers: &none, body: &body };
        let failed = OPENAI.failed(&arrival, &split.items.iter().collect::<Vec<_>>());
        let message = failed.map(|error| parsed(&error.body)["error"]["message"].as_str().unwrap().to_owned());
        assert_eq!(message.as_deref(), wanted, "{protocol:?} {status}");
    }
    let fields = ["content-type", "inference-header-content-length", "grpc-status", "x-model"];
    let fields = fields.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
    let kept = OPENAI.for_clients(&HeaderMap::from_iter(fields)).unwrap();
    assert_eq!(kept, HeaderMap::from_iter([(HeaderName::from_static("x-model"), HeaderValue::from_static("1"))]));
}

#[test]
fn tensors_reach_a_model_over_grpc_and_come_back_as_the_client_wants_them() {
    let inputs = json!([
        {"name": "x", "datatype": "INT8", "shape": [2, 2], "data": [1, -1, 2, -2]},
        {"name": "t", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "bc"]},
    ]);
    let call = json!({
        "id": "mine", "inputs": inputs, "parameters": {"binary_data_output": true, "p": 5},
        "outputs": [{"name": "t", "parameters": {"binary_data": false}}, {"name": "x"}],
    });
    let rule = Translation { model: None, ..rule(PoolProtocol::KServeGrpc) };
    let target = "/v2/models/k/versions/2/infer";
    let split = asked(&KSERVE, target, call.to_string().as_bytes(), rule).unwrap();
    let request = joined(&KSERVE, &split);
    assert_eq!(request.target, "/inference.GRPCInferenceService/ModelInfer");
    // The model responds with what it was sent: the fields of an input and of an output have the same numbers, but for
    // that of the bytes, which is 7 there and 6 here. `outputs`, which is 6 there, comes first.
    let sent = &request.body[5..];
    let echo = super::super::kserve::grpc::results(&request.body, 2);
    assert!(echo.is_err(), "a request is no response: {echo:?}");
    assert!(sent.windows(4).any(|window| window == b"\x01\0\0\0"), "the length of a text before it");
    assert!(sent.windows(4).any(|window| window == [1, 0xff, 2, 0xfe]), "the numbers as bytes");
    let sound = |at: usize| split.items[at].upstream.as_ref().unwrap().item.weight();
    assert_eq!((sound(0), sound(1)), (2 + 5, 2 + 6));
}

#[test]
fn a_query_goes_on_and_what_of_a_target_has_no_place_is_refused() {
    let texts = json!({"model": "x", "input": ["a"]}).to_string();
    let input = json!({"name": "i", "datatype": "FP32", "shape": [1, 1], "data": [0.5]});
    let tensors = json!({"inputs": [input]}).to_string();
    let own = |protocol| Translation { model: None, ..rule(protocol) };
    let at = |path: &str, protocol| Translation { path: Some(path.to_owned()), ..rule(protocol) };
    let embeddings = "/v1/embeddings?api-version=2";
    // the client, its request and target, the pool, and where requests are sent or what of the target is refused
    for (client, body, asked_at, pool, wanted) in [
        (&OPENAI, &texts, embeddings, rule(PoolProtocol::KServe), Ok("/v2/models/m/infer?api-version=2")),
        (&OPENAI, &texts, "/v1/embeddings?", rule(PoolProtocol::KServe), Ok("/v2/models/m/infer")),
        (&OPENAI, &texts, embeddings, at("/predict", PoolProtocol::JsonArray), Ok("/predict?api-version=2")),
        (&OPENAI, &texts, embeddings, rule(PoolProtocol::JsonArray), Ok("/own?n=1")),
        (&OPENAI, &texts, embeddings, rule(PoolProtocol::KServeGrpc), Err("query")),
        (&KSERVE, &tensors, "/v2/models/k/versions/2/infer", own(PoolProtocol::JsonArray), Ok("/own?n=1")),
        (&KSERVE, &tensors, "/v2/models/k/versions/2/infer", at("/predict", PoolProtocol::JsonArray), Err("version")),
        (&KSERVE, &tensors, "/v2/models/k/versions/2/infer", rule(PoolProtocol::KServeGrpc), Err("version")),
        (
            &KSERVE,
            &tensors,
            "/v2/models/k/infer",
            rule(PoolProtocol::KServeGrpc),
            Ok("/inference.GRPCInferenceService/ModelInfer"),
        ),
    ] {
        let found = asked(client, asked_at, body.as_bytes(), pool.clone());
        let found = match &found {
            Ok(split) => Ok(joined(client, split).target),
            Err(malformed) => Err(malformed.param().unwrap()),
        };
        let found = found.as_ref().map(|target| target.as_str()).map_err(|param| *param);
        assert_eq!(found, wanted, "{asked_at} for {pool:?}");
    }
}
