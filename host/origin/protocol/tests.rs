//! Properties of every protocol: a request through the node has the model's own response.

use bytes::Bytes;
use http::{HeaderMap, uri::PathAndQuery};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{item::outcome_ref, *};
use crate::config::Protocol::{JsonArray, KServe, MsgPackArray, OpenAiEmbeddings, Plain};

fn split(protocol: config::Protocol, body: &Bytes) -> Split {
    let (target, headers) = (PathAndQuery::from_static("/"), HeaderMap::new());
    let rules = SplitRules { items_max: usize::MAX, indivisible: &[], translation: None };
    of(protocol).split(&Received { target: &target, headers: &headers, body }, &rules).unwrap()
}

/// Splits `body`, calls `model` with requests of at most `size` items, and joins the results.
fn ask(protocol: config::Protocol, body: &Bytes, size: usize, model: impl Fn(&Bytes) -> Bytes) -> JoinedReply {
    let target = PathAndQuery::from_static("/v1/model?n=1");
    let split = split(protocol, body);
    let protocol = of(protocol);
    let items: Vec<&Item> = split.items.iter().collect();
    let mut outcomes = Vec::new();
    for batch in items.chunks(size) {
        assert!(batch.iter().all(|item| item.group == batch[0].group));
        let joined = protocol.join(&target, batch);
        assert_eq!(joined.target, target);
        let (headers, body) = (HeaderMap::new(), model(&joined.body));
        outcomes.extend(protocol.split_response(Message { headers: &headers, body: &body }, batch).unwrap());
    }
    protocol.join_outcomes(split.form, &outcomes.iter().map(outcome_ref).collect::<Vec<_>>())
}

fn parsed(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn bytes(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_string_pretty(value).unwrap())
}

/// Returns each element as its own result, and an error for `{"fail": …}`.
fn echo(body: &Bytes) -> Bytes {
    let one = |element: &Value| match element.get("fail") {
        Some(status) => json!({ "error": { "status": status } }),
        None => json!({ "echo": element }),
    };
    match parsed(body) {
        Value::Array(elements) => bytes(&elements.iter().map(one).collect()),
        element => bytes(&one(&element)),
    }
}

/// Returns an embedding that is a digest of its input, and a token for each of its characters; entries come in reverse
/// order.
fn embed(body: &Bytes) -> Bytes {
    let body = parsed(body);
    let inputs = match &body["input"] {
        Value::Array(items) if !items[0].is_number() => items.clone(),
        one => vec![one.clone()],
    };
    let tokens: usize = inputs.iter().map(|input| input.to_string().len()).sum();
    let entry = |(index, input): (usize, &Value)| {
        let digest = blake3::hash(input.to_string().as_bytes());
        json!({ "object": "embedding", "index": index, "embedding": digest.as_bytes()[..] })
    };
    let mut data: Vec<Value> = inputs.iter().enumerate().map(entry).collect();
    data.reverse();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    bytes(&json!({ "object": "list", "data": data, "model": body["model"], "usage": usage }))
}

fn sorted(mut reply: Value) -> Value {
    if let Some(data) = reply["data"].as_array_mut() {
        data.sort_by_key(|entry| entry["index"].as_u64());
    }
    reply
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map("[a-c\"\\\\é]{0,3}", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn input() -> impl Strategy<Value = Value> {
    let tokens = || prop::collection::vec(any::<u32>(), 1..5).prop_map(Value::from);
    prop_oneof![
        ".{0,8}".prop_map(Value::from),
        prop::collection::vec(".{0,8}", 1..9).prop_map(Value::from),
        tokens(),
        prop::collection::vec(tokens(), 1..9).prop_map(Value::Array),
    ]
}

proptest! {
    #[test]
    fn asking_a_json_model_through_us_is_asking_it(body in value(), size in 1_usize..6) {
        let body = bytes(&body);
        let reply = ask(JsonArray, &body, size, echo);
        prop_assert_eq!(reply.status, 200);
        prop_assert_eq!(parsed(&reply.body), parsed(&echo(&body)));
    }

    #[test]
    fn asking_for_embeddings_through_us_is_asking_for_them(
        input in input(),
        model in ".{0,4}",
        size in 1_usize..6,
    ) {
        let body = bytes(&json!({ "model": model, "input": input, "user": "u" }));
        let reply = ask(OpenAiEmbeddings, &body, size, embed);
        prop_assert_eq!(reply.status, 200);
        prop_assert_eq!(sorted(parsed(&reply.body)), sorted(parsed(&embed(&body))));
    }

    #[test]
    fn a_plain_body_comes_and_goes_untouched(body in prop::collection::vec(any::<u8>(), 0..40)) {
        let body = Bytes::from(body);
        prop_assert_eq!(ask(Plain, &body, 1, Bytes::clone).body, body);
    }

    #[test]
    fn white_space_and_order_make_no_other_item_and_content_does(one in value(), other in value()) {
        let key = |body: &[u8]| {
            split(Plain, &Bytes::copy_from_slice(body)).items[0].canonical.clone()
        };
        let compact = key(one.to_string().as_bytes());
        prop_assert_eq!(&compact, &key(&bytes(&one)));
        prop_assert_eq!(&compact, &key(&compact), "the canonical form is its own canonical form");
        prop_assert_eq!(parsed(&compact), parsed(&bytes(&one)));
        if one != other {
            prop_assert_ne!(compact, key(&bytes(&other)));
        }
    }
}

/// Every protocol that batches.
const BATCHING: [config::Protocol; 4] = [JsonArray, OpenAiEmbeddings, KServe, MsgPackArray];

/// Returns requests and responses that are nearly right: pieces of such, in any order.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &str = r#"{ } [ ] , : " \ "input": "inputs": "outputs": "data": "index": "embedding": "shape": "name":
        "datatype": "parameters": "binary_data_size": "error": "id": "FP32" "BYTES" "a" NaN -Infinity null 1 2 0.0 -1
        [1,2] 18446744073709551615"#;
    let pieces: Vec<&str> = PIECES.split_ascii_whitespace().collect();
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        prop::collection::vec(prop::sample::select(pieces), 0..40).prop_map(|pieces| pieces.concat().into_bytes()),
        // A request and a response that have lost a byte, or have another in its place.
        (prop::sample::select(WHOLE_ONES.to_vec()), any::<prop::sample::Index>(), prop::option::of(any::<u8>()))
            .prop_map(|(text, place, byte)| {
                let mut bytes = text.as_bytes().to_vec();
                let place = place.index(bytes.len());
                drop(bytes.splice(place..=place, byte));
                bytes
            }),
    ]
}

const WHOLE_ONES: [&str; 6] = [
    r#"{"input":["a",[1,2]],"model":"m"}"#,
    r#"{"input":[[1],[2,3]]}"#,
    r#"{"data":[{"index":0,"embedding":[1,NaN]},{"index":null,"embedding":"AA=="}],"usage":{"total_tokens":3}}"#,
    r#"{"id":1,"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2],[3,4]]}]}"#,
    "{\"outputs\":[{\"shape\":[2],\"datatype\":\"BYTES\",\"parameters\":{\"binary_data_size\":9}}]}\u{1}\0\0\0a\0\0\0\0",
    r#"[1,{"error":{"status":429}},NaN]"#,
];

proptest! {
    #[test]
    fn hostile_bytes_make_no_protocol_panic(
        request in pieces(),
        response in pieces(),
        json_bytes in prop::option::of(0_usize..90),
    ) {
        let target = PathAndQuery::from_static("/v2/models/m/infer");
        let mut headers = HeaderMap::new();
        if let Some(length) = json_bytes {
            headers.insert("inference-header-content-length", length.into());
        }
        let indivisible = ["late_chunking".to_owned()];
        let rules = SplitRules { items_max: 4, indivisible: &indivisible, translation: None };
        let (request, response) = (Bytes::from(request), Bytes::from(response));
        for protocol in BATCHING.map(of) {
            let model = Message { headers: &headers, body: &response };
            // What comes from a tier may be as odd.
            for form in [ReplyForm::Many, ReplyForm::Whole, ReplyForm::Rows { id: Some(Bytes::from_static(b"1")) }] {
                for results in [&[Ok(model)][..], &[Ok(model), Ok(model)][..]] {
                    protocol.join_outcomes(form.clone(), results);
                }
            }
            let Ok(split) = protocol.split(&Received { target: &target, headers: &headers, body: &request }, &rules) else {
                continue;
            };
            prop_assert!(split.items.len() <= 4);
            prop_assert!(split.form != ReplyForm::Whole || (split.items.len() == 1 && split.items[0].whole));
            let items: Vec<&Item> = split.items.iter().collect();
            for count in 1..=items.len() {
                protocol.join(&target, &items[..count]);
                if let Ok(outcomes) = protocol.split_response(model, &items[..count]) {
                    prop_assert_eq!(outcomes.len(), count);
                    protocol.join_outcomes(split.form.clone(), &outcomes.iter().map(outcome_ref).collect::<Vec<_>>());
                }
            }
        }
    }
}

#[test]
fn an_error_is_its_own_in_a_list_and_the_status_of_a_single_item() {
    let many = Bytes::from_static(br#"[1,{"fail":429},3]"#);
    let reply = ask(JsonArray, &many, 8, echo);
    assert_eq!(reply.status, 200);
    assert_eq!(parsed(&reply.body), json!([{ "echo": 1 }, { "error": { "status": 429 } }, { "echo": 3 }]));
    let reply = ask(JsonArray, &Bytes::from_static(br#"{"fail":429}"#), 8, echo);
    assert_eq!((reply.status, parsed(&reply.body)), (429, json!({ "error": { "status": 429 } })));
}

#[test]
fn a_failure_speaks_the_protocol() {
    for (protocol, wanted) in [
        (Plain, json!({ "error": { "status": 503, "message": "m" } })),
        (JsonArray, json!({ "error": { "status": 503, "message": "m" } })),
        (OpenAiEmbeddings, json!({ "error": { "message": "m", "type": "server_error", "param": null, "code": null } })),
        (KServe, json!({ "error": "m" })),
    ] {
        let failure = of(protocol).failure(503, "m", None);
        assert_eq!((failure.status, parsed(&failure.body)), (503, wanted), "{protocol:?}");
        let reply = of(protocol).reply_to_all(&failure);
        assert_eq!((reply.status, &reply.body), (503, &failure.body), "{protocol:?}");
        assert_eq!(reply.headers["content-type"], "application/json", "{protocol:?}");
    }
}

#[test]
fn numbers_that_differ_past_a_float_are_different_items() {
    let body = Bytes::from_static(b"[12345678901234567890123, 12345678901234567890124, 1, 1.0]");
    let split = split(JsonArray, &body);
    for (index, item) in split.items.iter().enumerate() {
        for other in &split.items[..index] {
            assert_ne!(item.canonical, other.canonical);
        }
    }
    let joined = of(JsonArray).join(&PathAndQuery::from_static("/"), &split.items.iter().collect::<Vec<_>>());
    assert_eq!(joined.body.len(), body.len() - 3);
    assert_eq!(joined.headers["content-type"], "application/json");
}
