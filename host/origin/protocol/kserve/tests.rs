use proptest::prelude::*;
use serde_json::{Value, json};

use super::{super::item::SHARED_BYTES_MAX, *};
use crate::origin::protocol::item::outcome_ref;

const TARGET: &str = "/v2/models/m/infer";

fn asked_at(target: &'static str, headers: &HeaderMap, body: &Bytes) -> Result<Split, Malformed> {
    let target = PathAndQuery::from_static(target);
    let indivisible = ["atomic".to_owned()];
    let rules = SplitRules { items_max: 8, indivisible: &indivisible, translation: None };
    KServe.split(&Received { target: &target, headers, body }, &rules)
}

fn asked(body: &Value) -> Result<Split, Malformed> {
    asked_at(TARGET, &HeaderMap::new(), &Bytes::from(body.to_string()))
}

/// Returns a message of JSON with binary data behind it.
fn binary(json: &Value, data: &[u8]) -> (HeaderMap, Bytes) {
    let json = json.to_string();
    (headers(Some(json.len())), Bytes::from([json.as_bytes(), data].concat()))
}

fn joined(items: &[Item]) -> (HeaderMap, Bytes) {
    let joined = KServe.join(&PathAndQuery::from_static(TARGET), &items.iter().collect::<Vec<_>>());
    (joined.headers, joined.body)
}

fn responded(headers: &HeaderMap, body: &Bytes, items: &[Item]) -> Result<Vec<Outcome>, BadResponse> {
    KServe.split_response(Message { headers, body }, &items.iter().collect::<Vec<_>>())
}

fn replied(form: ReplyForm, outcomes: &[Outcome]) -> JoinedReply {
    KServe.join_outcomes(form, &outcomes.iter().map(outcome_ref).collect::<Vec<_>>())
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn input(shape: &Value, data: &Value) -> Value {
    json!({"name": "x", "datatype": "FP32", "shape": shape, "data": data})
}

#[test]
fn rows_are_items_and_share_a_request_again() {
    let body = r#"{"id": "7", "parameters": {"b": 1}, "inputs": [
        {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1.0, 2e0, 3, 4.50]},
        {"name": "t", "shape": [2], "datatype": "BYTES", "data": ["a, ]", "\u0062"]}
    ], "outputs": [{"name": "y"}]}"#;
    let split = asked_at(TARGET, &HeaderMap::new(), &Bytes::from(body)).unwrap();
    assert_eq!(split.form, ReplyForm::Rows { id: Some(Bytes::from_static(b"\"7\"")) });
    let bodies: Vec<&Bytes> = split.items.iter().map(|item| &item.body).collect();
    let row = |x: &str, t: &str| {
        format!(
            r#"{{"outputs":[{{"name":"y"}}],"parameters":{{"b":1}},"inputs":[{{"datatype":"FP32","name":"x","shape":[1,2],"data":[{x}]}},{{"datatype":"BYTES","name":"t","shape":[1],"data":["{t}"]}}]}}"#
        )
    };
    assert_eq!(bodies, [&row("1.0,2e0", "a, ]"), &row("3,4.50", "b")]);
    assert!(split.items.iter().all(|item| item.canonical == item.body && item.shareable && !item.whole));
    let (fields, body) = joined(&split.items);
    let both = row("1.0,2e0,3,4.50", "a, ]\",\"b").replace("[1,2]", "[2,2]").replace("[1]", "[2]");
    assert_eq!((&body[..], fields["content-type"].as_bytes()), (both.as_bytes(), &b"application/json"[..]));
    assert_eq!(joined(&split.items[..1]).1, row("1.0,2e0", "a, ]"));
}

#[test]
fn nested_and_flat_data_are_the_same_item() {
    let flat = asked(&json!({"inputs": [input(&json!([2, 2]), &json!([1, 2, 3, 4]))]})).unwrap();
    let nested = asked(&json!({"id": 1, "inputs": [input(&json!([2, 2]), &json!([[1, 2], [3, 4]]))]})).unwrap();
    assert_eq!(flat.items, nested.items, "nor does the name of the request matter");
    let other = asked(&json!({"inputs": [input(&json!([4, 1]), &json!([1, 2, 3, 4]))]})).unwrap();
    assert_ne!(flat.items[0].group, other.items[0].group, "rows of another shape don't share a request");
    assert_ne!(flat.items[0].canonical, other.items[0].canonical);
}

#[test]
fn binary_rows_are_cut_and_put_together() {
    let request = json!({"inputs": [
        {"name": "x", "datatype": "INT16", "shape": [2, 2], "parameters": {"binary_data_size": 8}},
        {"name": "t", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11, "z": 1}},
        {"name": "n", "datatype": "INT8", "shape": [2], "data": [5, 6]}
    ]});
    let (fields, body) = binary(&request, b"aabbccdd\x01\0\0\0A\x02\0\0\0BC");
    let split = asked_at(TARGET, &fields, &body).unwrap();
    assert_eq!(split.items.len(), 2);
    for (item, data) in split.items.iter().zip([&b"aabb\x01\0\0\0A"[..], &b"ccdd\x02\0\0\0BC"[..]]) {
        assert!(item.body.ends_with(data), "{item:?}");
    }
    let (own, body) = joined(&split.items);
    let length: usize = own[HEADER_LENGTH].to_str().unwrap().parse().unwrap();
    assert_eq!(
        (&body[length..], own["content-type"].as_bytes()),
        (&b"aabbccdd\x01\0\0\0A\x02\0\0\0BC"[..], &b"application/octet-stream"[..])
    );
    assert_eq!(parsed(&body[..length]), request);
    // One that is sent alone is framed as well, and is the same item again.
    let (own, body) = joined(&split.items[1..]);
    let again = asked_at(TARGET, &own, &body).unwrap();
    assert_eq!(again.items, split.items[1..]);
}

#[test]
fn what_cannot_be_divided_is_sent_as_it_came() {
    let fits = || input(&json!([2]), &json!([1, 2]));
    for body in [
        json!({}),
        json!({"inputs": []}),
        json!({"inputs": {}}),
        json!({"inputs": [1]}),
        json!({"inputs": [{"name": "x"}]}),
        json!({"inputs": [input(&json!([]), &json!([1]))]}),
        json!({"inputs": [input(&json!([0]), &json!([]))]}),
        json!({"inputs": [input(&json!([2]), &json!([1]))]}),
        json!({"inputs": [input(&json!([2]), &json!([1, {}]))]}),
        json!({"inputs": [input(&json!([-2]), &json!([1, 2]))]}),
        json!({"inputs": [input(&json!([2, 2]), &json!([[1, 2], [3]]))]}),
        json!({"inputs": [fits(), input(&json!([1]), &json!([1]))]}),
        json!({"inputs": [fits()], "parameters": {"atomic": true}}),
        json!({"inputs": [fits()], "atomic": 1}),
        json!({"inputs": [fits()], "parameters": {"long": "x".repeat(SHARED_BYTES_MAX)}}),
        json!({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]}),
    ] {
        let split = asked(&body).unwrap();
        assert_eq!((split.form, split.items.len()), (ReplyForm::Whole, 1), "{body}");
        let item = &split.items[0];
        assert!(item.whole && item.shareable, "{body}");
        assert_eq!(joined(&split.items).1, body.to_string());
    }
    let divisible = asked(&json!({"inputs": [fits()], "parameters": {"atomic": false}})).unwrap();
    assert_eq!(divisible.items.len(), 2);
}

#[test]
fn what_depends_on_more_than_the_request_is_not_shared() {
    let fits = || input(&json!([2]), &json!([1, 2]));
    let shared = json!({"shared_memory_region": "r", "shared_memory_byte_size": 8});
    for body in [
        json!({"inputs": [fits()], "parameters": {"sequence_id": 5}}),
        json!({"inputs": [fits()], "parameters": {"sequence_start": true}}),
        json!({"inputs": [fits()], "outputs": [{"name": "y", "parameters": shared}]}),
        json!({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": shared}]}),
    ] {
        let split = asked(&body).unwrap();
        assert!(split.form == ReplyForm::Whole && !split.items[0].shareable, "{body}");
    }
    for target in ["/v2/models/m/generate", "/v2/repository/index", "/v2/models/m/load"] {
        let split = asked_at(target, &HeaderMap::new(), &Bytes::new()).unwrap();
        assert!(split.form == ReplyForm::Whole && !split.items[0].shareable, "{target}");
    }
    let text = json!({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["\"sequence_id\":1"]}]});
    assert_eq!(asked(&text).unwrap().form, ReplyForm::Rows { id: None }, "a text that only says so");
}

#[test]
fn whole_requests_with_binary_data_keep_their_frame() {
    let json =
        json!({"inputs": [{"name": "x", "shape": [1], "datatype": "ODD", "parameters": {"binary_data_size": 3}}]});
    let (fields, body) = binary(&json, b"abc");
    let split = asked_at(TARGET, &fields, &body).unwrap();
    assert_eq!(split.form, ReplyForm::Whole);
    assert_eq!(joined(&split.items), (fields, body.clone()));
    // The same bytes with their frame elsewhere are another request.
    let raw = asked_at(TARGET, &headers(Some(0)), &body).unwrap();
    assert_ne!(raw.items[0].canonical, split.items[0].canonical);
    assert_eq!(joined(&raw.items), (headers(Some(0)), body.clone()));
    let repeated = br#"{"a":1,"a":2}"#;
    let body = Bytes::from([&repeated[..], &b"abc"[..]].concat());
    let split = asked_at(TARGET, &headers(Some(repeated.len())), &body).unwrap();
    assert_eq!(joined(&split.items), (headers(Some(repeated.len())), body));
    assert!(!split.items[0].shareable, "which of the two a model reads isn't known");
}

#[test]
fn whole_requests_have_their_clients_media_type() {
    let binary = &br#"{"inputs":[]}abc"#[..];
    for (body, json_bytes, given, sent, shareable) in [
        (&b"{}"[..], None, None, "application/json", true),
        (b"{}", None, Some("application/json"), "application/json", true),
        (b"{}", None, Some("text/plain"), "text/plain", false),
        (binary, Some(13), None, BINARY, true),
        (binary, Some(13), Some("Application/Octet-Stream"), "Application/Octet-Stream", true),
        (binary, Some(13), Some("application/json"), "application/json", false),
        (binary, Some(0), Some("image/png"), "image/png", false),
    ] {
        let mut fields = json_bytes.map(|length| headers(Some(length))).unwrap_or_default();
        fields.remove(CONTENT_TYPE);
        if let Some(given) = given {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static(given));
        }
        let split = asked_at(TARGET, &fields, &Bytes::from_static(body)).unwrap();
        assert_eq!((&split.form, split.items[0].shareable), (&ReplyForm::Whole, shareable), "{given:?}");
        let (own, sent_body) = joined(&split.items);
        assert_eq!((own[CONTENT_TYPE].as_bytes(), &sent_body[..]), (sent.as_bytes(), body), "{given:?}");
        assert_eq!(own.get(HEADER_LENGTH), fields.get(HEADER_LENGTH), "{given:?}");
    }
}

#[test]
fn what_is_no_request_is_refused() {
    let none = HeaderMap::new();
    let field =
        |value| HeaderMap::from_iter([(HeaderName::from_static(HEADER_LENGTH), HeaderValue::from_static(value))]);
    for (fields, body, message) in [
        (&none, "{", "the body is not JSON: EOF while parsing an object at line 1 column 1"),
        (&none, "[]", "the body must be a JSON object, not an array"),
        (&field("9"), "{}", "`inference-header-content-length` must be a number of at most 2, the length of the body"),
        (
            &field("two"),
            "{}",
            "`inference-header-content-length` must be a number of at most 2, the length of the body",
        ),
        (
            &none,
            r#"{"inputs":[{"name":"x","datatype":"INT8","shape":[9],"data":[1,2,3,4,5,6,7,8,9]}]}"#,
            "9 items are more than the 8 that one request may have",
        ),
    ] {
        let reply = KServe.refusal(&asked_at(TARGET, fields, &Bytes::from(body)).unwrap_err());
        assert_eq!((reply.status, parsed(&reply.body)), (400, json!({"error": message})), "{body}");
    }
}

#[test]
fn rows_of_a_response_are_the_items_own() {
    let items = asked(&json!({"inputs": [input(&json!([2]), &json!([1, 2]))]})).unwrap().items;
    let response = r#"{"id":"of the batch","model_name":"m","outputs":[
        {"name":"y","datatype":"FP32","shape":[2,2],"data":[1.0, 2e0,3, 4.50]},
        {"name":"z","datatype":"FP32","shape":[2,1],"data":[[5],[6]],"parameters":{"classification":1}}]}"#;
    let outcomes = responded(&HeaderMap::new(), &Bytes::from(response), &items).unwrap();
    let second = outcomes[1].as_ref().unwrap();
    let wanted = concat!(
        r#"{"model_name":"m","outputs":[{"datatype":"FP32","name":"y","shape":[1,2],"data":[3, 4.50]},"#,
        r#"{"datatype":"FP32","name":"z","parameters":{"classification":1},"shape":[1,1],"data":[[6]]}]}"#
    );
    assert_eq!((&second.body[..], second.storable), (wanted.as_bytes(), true));
    let reply = replied(ReplyForm::Rows { id: Some(Bytes::from_static(b"\"mine\"")) }, &outcomes);
    let wanted = json!({"id": "mine", "model_name": "m", "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": parsed(b"[1.0,2e0,3,4.50]")},
        {"name": "z", "datatype": "FP32", "shape": [2, 1], "data": [[5], [6]], "parameters": {"classification": 1}}
    ]});
    assert_eq!((reply.status, parsed(&reply.body)), (200, wanted));
}

#[test]
fn what_results_do_not_agree_on_is_in_no_reply() {
    let result = |version: &str, common: u8, own: u8| {
        let parameters = json!({"common": 1, "own": own});
        let output = json!({"name": "y", "datatype": "INT8", "shape": [1], "data": [7], "parameters": parameters});
        let parameters = json!({ "p": common });
        let response = json!({
            "model_name": "m", "model_version": version, "parameters": parameters, "outputs": [output],
        });
        Ok(ItemResponse::from(Bytes::from(response.to_string())))
    };
    for (other, version, parameters, own) in [
        (result("1", 2, 3), json!("1"), json!({"p": 2}), json!({"common": 1, "own": 3})),
        (result("1", 2, 4), json!("1"), json!({"p": 2}), json!({"common": 1})),
        (result("1", 5, 3), json!("1"), Value::Null, json!({"common": 1, "own": 3})),
        (result("9", 2, 3), Value::Null, json!({"p": 2}), json!({"common": 1, "own": 3})),
    ] {
        let reply = parsed(&replied(ReplyForm::Rows { id: None }, &[result("1", 2, 3), other]).body);
        assert_eq!((&reply["model_name"], &reply["outputs"][0]["data"]), (&json!("m"), &json!([7, 7])));
        assert_eq!((&reply["model_version"], &reply["parameters"]), (&version, &parameters), "{reply}");
        assert_eq!(reply["outputs"][0]["parameters"], own, "{reply}");
    }
}

#[test]
fn a_single_result_has_the_clients_id_and_else_stays_as_it_is() {
    let items = asked(&json!({"inputs": [input(&json!([1]), &json!([1]))]})).unwrap().items;
    let body =
        Bytes::from_static(br#"{ "outputs" : [{"name":"y","datatype":"FP32","shape":[1],"data":[NaN]}], "id":"x" }"#);
    let outcomes = responded(&HeaderMap::new(), &body, &items).unwrap();
    let own = r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[NaN]}]}"#;
    assert!(outcomes[0].as_ref().is_ok_and(|response| !response.storable && response.body == own), "{outcomes:?}");
    assert_eq!(replied(ReplyForm::Rows { id: None }, &outcomes).body, own, "a model's `id` is nobody's");
    let reply = replied(ReplyForm::Rows { id: Some(Bytes::from_static(b"8")) }, &outcomes);
    let wanted = r#"{"id":8,"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[NaN]}]}"#;
    assert_eq!((reply.status, &reply.body[..]), (200, wanted.as_bytes()));
    // What is no response of the protocol's is passed on as it is, and so is what has no `id`.
    for body in [r#"{ "error": "busy", "id": "x" }"#, r#"{ "outputs" : [] }"#, "[1]", "no JSON"] {
        let outcomes = responded(&HeaderMap::new(), &Bytes::from(body), &items).unwrap();
        assert!(outcomes[0].as_ref().is_ok_and(|response| response.body == body && response.headers.is_empty()));
    }

    let (fields, body) = binary(
        &json!({"id": "x", "outputs": [
            {"name": "y", "datatype": "INT8", "shape": [1, 2], "parameters": {"binary_data_size": 2}}
        ]}),
        b"ab",
    );
    let outcomes = responded(&fields, &body, &items).unwrap();
    let response = outcomes[0].as_ref().unwrap();
    let length: usize = response.headers[HEADER_LENGTH].to_str().unwrap().parse().unwrap();
    assert!(response.storable && response.body[length..] == *b"ab", "{response:?}");
    assert_eq!(parsed(&response.body[..length]).get("id"), None);

    let (fields, body) = binary(
        &json!({"outputs": [{"name": "y", "datatype": "INT8", "shape": [1, 2], "parameters": {"binary_data_size": 2}}]}),
        b"ab",
    );
    let outcomes = responded(&fields, &body, &items).unwrap();
    assert!(outcomes[0].as_ref().is_ok_and(|response| response.storable), "{outcomes:?}");
    // The fields of the response that brought it are the result's, as the pipeline has them.
    let response = Message { headers: &fields, body: &body };
    let reply = KServe.join_outcomes(ReplyForm::Rows { id: None }, &[Ok(response)]);
    assert_eq!((reply.headers, reply.body), (fields.clone(), body.clone()));
    let reply = KServe.join_outcomes(ReplyForm::Rows { id: Some(Bytes::from_static(b"8")) }, &[Ok(response)]);
    let length: usize = reply.headers[HEADER_LENGTH].to_str().unwrap().parse().unwrap();
    assert_eq!((&reply.body[length..], parsed(&reply.body[..length])["id"].clone()), (&b"ab"[..], json!(8)));
}

#[test]
fn a_row_that_is_no_json_costs_the_others_nothing() {
    let items = asked(&json!({"inputs": [input(&json!([3]), &json!([1, 2, 3]))]})).unwrap().items;
    for data in ["[1,2,NaN,4,5,6]", "[[1,2],[-Infinity,4],[5,6]]"] {
        let body = format!(r#"{{"outputs":[{{"name":"y","datatype":"FP32","shape":[3,2],"data":{data}}}]}}"#);
        let outcomes = responded(&HeaderMap::new(), &Bytes::from(body), &items).unwrap();
        assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
        assert!(outcomes[1].as_ref().is_err_and(|error| error.status == 502 && error.retry_alone), "{outcomes:?}");
    }
}

#[test]
fn what_is_no_json_beside_the_rows_is_left_out_if_it_can_be() {
    let items = asked(&json!({"inputs": [input(&json!([2]), &json!([1, 2]))]})).unwrap().items;
    // What a response and its tensor have beside the rows, and whether a row can stand beside others.
    for (beside, of_tensor, wanted) in [("NaN", "1", true), ("1", "NaN", false)] {
        let body = format!(
            r#"{{"parameters":{{"took":{beside}}},"outputs":[{{"name":"y","datatype":"FP32","shape":[2,1],
            "data":[1,2],"parameters":{{"scale":{of_tensor}}}}}]}}"#
        );
        let outcomes = responded(&HeaderMap::new(), &Bytes::from(body), &items).unwrap();
        for outcome in &outcomes {
            let response = outcome.as_ref().unwrap();
            assert_eq!((response.storable, response.joinable), (false, wanted), "{beside}, {of_tensor}");
            assert_eq!(serde_json::from_slice::<Value>(&response.body).is_ok(), wanted, "{beside}, {of_tensor}");
        }
    }
    let alone =
        Bytes::from_static(br#"{"took":NaN,"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[1]}]}"#);
    let response = responded(&HeaderMap::new(), &alone, &items[..1]).unwrap().remove(0).unwrap();
    assert_eq!((response.storable, response.joinable, response.body), (false, true, alone));
    let spoiled = Bytes::from_static(br#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[NaN]}]}"#);
    let response = responded(&HeaderMap::new(), &spoiled, &items[..1]).unwrap().remove(0).unwrap();
    assert!(!response.storable && !response.joinable && response.body == spoiled);
}

#[test]
fn a_response_that_fits_nobody_is_refused() {
    let items = asked(&json!({"inputs": [input(&json!([2]), &json!([1, 2]))]})).unwrap().items;
    let output = |shape: &str, data: &str| {
        format!(r#"{{"outputs":[{{"name":"y","datatype":"INT8","shape":{shape},"data":{data}}}]}}"#)
    };
    for (body, wanted) in [
        (output("[1,2]", "[1,2]"), Some(BadResponse::Count { asked: 2, found: 1 })),
        (output("[3]", "[1,2,3]"), Some(BadResponse::Count { asked: 2, found: 3 })),
        (output("[2]", "[1]"), None),
        (output("[]", "[1]"), None),
        (output("[4611686018427387904,8]", "[1]"), None),
        (r#"{"outputs":[]}"#.to_owned(), None),
        (r#"{"error":"x"}"#.to_owned(), None),
        ("upstream request timeout".to_owned(), None),
    ] {
        let refused = responded(&HeaderMap::new(), &Bytes::from(body.clone()), &items).unwrap_err();
        match wanted {
            Some(wanted) => assert_eq!(refused, wanted, "{body}"),
            None => assert!(matches!(refused, BadResponse::Unreadable { .. }), "{body}: {refused:?}"),
        }
    }
}

#[test]
fn results_that_do_not_fit_together_are_refused_and_forms_do_not_matter() {
    let one = |shape: &str, data: &str| {
        let body = format!(r#"{{"outputs":[{{"name":"y","datatype":"INT8","shape":{shape},"data":{data}}}]}}"#);
        Ok(ItemResponse::from(Bytes::from(body)))
    };
    let rows = || ReplyForm::Rows { id: None };
    let reply = replied(rows(), &[one("[1,2]", "[1, 2]"), one("[1,2]", "[[3, 4]]")]);
    assert_eq!(parsed(&reply.body)["outputs"][0]["data"], json!([1, 2, 3, 4]));
    for other in [one("[1,3]", "[1,2,3]"), one("[2,2]", "[1,2,3,4]"), Ok(ItemResponse::from(Bytes::from_static(b"{}")))]
    {
        assert_eq!(replied(rows(), &[one("[1,2]", "[1,2]"), other]).status, 502);
    }
    let failed = || Err(ItemError::response(429, Bytes::from_static(b"slow down")));
    for outcomes in [&[one("[1,2]", "[1,2]"), failed()][..], &[failed()]] {
        let reply = replied(rows(), outcomes);
        assert_eq!((reply.status, reply.headers.len(), &reply.body[..]), (429, 0, &b"slow down"[..]));
    }
}

/// A model that returns its inputs as outputs.
fn echo(fields: &HeaderMap, body: &Bytes) -> (HeaderMap, Bytes) {
    let length = json_bytes(fields, body.len()).unwrap().unwrap_or(body.len());
    let mut json = parsed(&body[..length]);
    let outputs = json["inputs"].take();
    let json = json!({"model_name": "m", "outputs": outputs}).to_string();
    let own = if length < body.len() { headers(Some(json.len())) } else { headers(None) };
    (own, Bytes::from([json.as_bytes(), &body[length..]].concat()))
}

proptest! {
    #[test]
    fn each_row_comes_back_as_it_was(
        rows in prop::collection::vec((prop::collection::vec(any::<i16>(), 3), "[a-c\"\\\\é]{0,4}"), 1..8),
        is_binary in any::<bool>(),
        is_nested in any::<bool>(),
        size in 1_usize..5,
    ) {
        let count = rows.len();
        let texts: Vec<&String> = rows.iter().map(|(_, text)| text).collect();
        let text = json!({"name": "t", "datatype": "BYTES", "shape": [count], "data": texts});
        let numbers: Vec<&Vec<i16>> = rows.iter().map(|(numbers, _)| numbers).collect();
        let (fields, body) = if is_binary {
            let data: Vec<u8> = numbers.iter().flat_map(|row| row.iter()).flat_map(|number| number.to_le_bytes()).collect();
            let size = json!({"binary_data_size": data.len()});
            let numbers = json!({"name": "x", "datatype": "INT16", "shape": [count, 3], "parameters": size});
            binary(&json!({"id": "i", "inputs": [numbers, text]}), &data)
        } else {
            let data = if is_nested { json!(numbers) } else { json!(numbers.iter().copied().flatten().collect::<Vec<_>>()) };
            let numbers = json!({"name": "x", "datatype": "INT16", "shape": [count, 3], "data": data});
            (headers(None), Bytes::from(json!({"id": "i", "inputs": [numbers, text]}).to_string()))
        };
        let split = asked_at(TARGET, &fields, &body).unwrap();
        prop_assert_eq!(split.items.len(), count);
        let mut results = Vec::new();
        for batch in split.items.chunks(size) {
            let (fields, body) = joined(batch);
            let (fields, body) = echo(&fields, &body);
            for outcome in responded(&fields, &body, batch).unwrap() {
                let ItemResponse { headers, body, storable, .. } = outcome.unwrap();
                prop_assert!(storable);
                // As the pipeline has them: those of the response, unless the result has its own.
                results.push((if headers.is_empty() { fields.clone() } else { headers }, body));
            }
        }
        let results: Vec<OutcomeRef<'_>> = results.iter().map(|(headers, body)| Ok(Message { headers, body })).collect();
        let reply = KServe.join_outcomes(split.form, &results);
        prop_assert_eq!(reply.status, 200);
        let length = json_bytes(&reply.headers, reply.body.len()).unwrap().unwrap_or(reply.body.len());
        let json = parsed(&reply.body[..length]);
        prop_assert_eq!(&json["id"], "i");
        let outputs = &json["outputs"];
        prop_assert_eq!(&outputs[1]["data"], &json!(texts));
        prop_assert_eq!(&outputs[0]["shape"], &json!([count, 3]));
        let flat: Vec<i16> = rows.iter().flat_map(|(numbers, _)| numbers.clone()).collect();
        if is_binary {
            let bytes: Vec<u8> = flat.iter().flat_map(|number| number.to_le_bytes()).collect();
            prop_assert_eq!(&reply.body[length..], &bytes[..]);
        } else {
            prop_assert_eq!(&outputs[0]["data"], &json!(flat));
        }
    }
}
