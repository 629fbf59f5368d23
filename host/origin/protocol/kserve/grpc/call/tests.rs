use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::origin::protocol::{
    contract::Protocol,
    item::{Received, ReplyForm, SplitRules},
    kserve::KServe,
};

fn input(datatype: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferTensor {
    let (name, datatype) = ("x".to_owned(), datatype.to_owned());
    InferTensor { name, datatype, shape: shape.to_vec(), contents, ..InferTensor::default() }
}

fn request(inputs: Vec<InferTensor>, raw: &[&'static [u8]]) -> ModelInferRequest {
    let raw_input_contents = raw.iter().map(|bytes| Bytes::from_static(bytes)).collect();
    ModelInferRequest { model_name: "m".to_owned(), inputs, raw_input_contents, ..ModelInferRequest::default() }
}

fn read(request: &ModelInferRequest) -> Result<Call, Uncallable> {
    Call::read(&request.encode_to_vec().into(), false)
}

fn parameters(choice: ParameterChoice) -> BTreeMap<String, InferParameter> {
    BTreeMap::from([("p".to_owned(), InferParameter { parameter_choice: Some(choice) })])
}

/// Returns the JSON of a call, and what follows it.
fn parts(call: &Call) -> (Value, &[u8]) {
    let length: usize = call.headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let (head, binary) = call.body.split_at(length);
    (serde_json::from_slice(head).unwrap(), binary)
}

#[test]
fn a_call_is_a_request_of_the_rest_protocol() {
    let texts = InferTensorContents { bytes_contents: vec!["a".into(), "bc".into()], ..InferTensorContents::default() };
    let outputs = vec![InferRequestedOutputTensor { name: "y".to_owned(), ..InferRequestedOutputTensor::default() }];
    let call = read(&ModelInferRequest {
        model_version: "2".to_owned(),
        id: "mine".to_owned(),
        parameters: parameters(ParameterChoice::Double(0.5)),
        outputs,
        ..request(vec![input("BYTES", &[2, 1], Some(texts))], &[])
    })
    .unwrap();
    assert_eq!((call.target.as_str(), call.id.as_str()), ("/v2/models/m/versions/2/infer", "mine"));
    let wanted = json!({
        "inputs": [{"name": "x", "datatype": "BYTES", "shape": [2, 1], "parameters": {"binary_data_size": 11}}],
        "outputs": [{"name": "y"}],
        "parameters": {"p": 0.5, "binary_data_output": true},
    });
    assert_eq!(parts(&call), (wanted, &b"\x01\0\0\0a\x02\0\0\0bc"[..]));
}

#[test]
fn bytes_and_numbers_are_the_same_items() {
    let numbers = InferTensorContents { int_contents: vec![1, -1], ..InferTensorContents::default() };
    let one = read(&request(vec![input("INT16", &[2, 1], Some(numbers))], &[])).unwrap();
    let other = read(&request(vec![input("INT16", &[2, 1], None)], &[b"\x01\0\xff\xff"])).unwrap();
    assert_eq!(one, other);
    let rules = SplitRules { items_max: 8, indivisible: &[], translation: None };
    let received = Received { target: &one.target, headers: &one.headers, body: &one.body };
    let split = KServe.split(&received, &rules).unwrap();
    assert_eq!((split.items.len(), split.form), (2, ReplyForm::Rows { id: None }));
}

#[test]
fn what_contradicts_itself_is_refused_by_its_name() {
    let eight = || input("UINT8", &[1], None);
    let numbers = InferTensorContents { uint_contents: vec![1], ..InferTensorContents::default() };
    let wide = InferTensorContents { uint_contents: vec![256], ..InferTensorContents::default() };
    let other = InferTensorContents { int64_contents: vec![1], ..InferTensorContents::default() };
    let mixed = InferTensorContents { int64_contents: vec![1], ..numbers.clone() };
    let beside = numbers.clone();
    let text = ParameterChoice::String("r".to_owned());
    let region = BTreeMap::from([(SHARED_MEMORY.to_owned(), InferParameter { parameter_choice: Some(text) })]);
    let named = |name: &str| ModelInferRequest { model_name: name.to_owned(), ..request(vec![eight()], &[b"a"]) };
    let given = |choice| ModelInferRequest { parameters: parameters(choice), ..request(vec![eight()], &[b"a"]) };
    let unset = BTreeMap::from([("p".to_owned(), InferParameter { parameter_choice: None })]);
    let taken = BTreeMap::from([("binary_data_size".to_owned(), InferParameter { parameter_choice: None })]);
    for (request, wanted) in [
        (named(""), "model_name"),
        (named(".."), "model_name"),
        (named("a/../b"), "model_name"),
        (named("a\\b"), "model_name"),
        (named("a;b"), "model_name"),
        (ModelInferRequest { model_version: "../1".to_owned(), ..named("m") }, "model_version"),
        (request(vec![eight()], &[b"a", b"b"]), "raw_input_contents"),
        (request(vec![eight(), eight()], &[b"a"]), "raw_input_contents"),
        (request(vec![input("UINT8", &[1], Some(numbers))], &[b"a"]), "contents"),
        (request(vec![input("UINT8", &[1], Some(wide))], &[]), "contents"),
        (request(vec![input("UINT8", &[1], Some(mixed))], &[]), "contents"),
        (request(vec![input("UINT8", &[0], Some(other))], &[]), "contents"),
        (request(vec![InferTensor { parameters: region, ..input("UINT8", &[1], Some(beside)) }], &[]), "contents"),
        (request(vec![input("COMPLEX", &[1], None)], &[]), "contents"),
        (given(ParameterChoice::Double(f64::NAN)), "parameters"),
        (ModelInferRequest { parameters: unset, ..named("m") }, "parameters"),
        (ModelInferRequest { parameters: taken, ..named("m") }, "parameters"),
    ] {
        let refused = read(&request).unwrap_err();
        assert!(matches!(refused, Uncallable::Invalid { field, .. } if field == wanted), "{wanted}: {refused}");
        assert_eq!(refused.code(), 3);
    }
    let unknown = [&request(vec![eight()], &[b"a"]).encode_to_vec()[..], b"\x48\x01"].concat();
    let unknown = Call::read(&unknown.into(), false).unwrap_err();
    assert_eq!((unknown.code(), unknown), (3, Uncallable::Unknown { message: "ModelInferRequest", number: 9 }));
    let broken = Call::read(&Bytes::from_static(b"\x0a\x09m"), false).unwrap_err();
    assert_eq!(broken.code(), 13, "{broken}");
    assert_eq!(read(&named("a b%2f")).unwrap().target, "/v2/models/a%20b%252f/infer");
}

#[test]
fn numbers_without_a_sign_are_named_for_models_that_tell_them_apart() {
    let given = |choice, is_native| {
        let call =
            ModelInferRequest { parameters: parameters(choice), ..request(vec![input("UINT8", &[1], None)], &[b"a"]) };
        let call = Call::read(&call.encode_to_vec().into(), is_native).unwrap();
        parts(&call).0["parameters"].take()
    };
    let plain = json!({"p": 5, "binary_data_output": true});
    assert_eq!(given(ParameterChoice::Uint64(5), false), plain);
    assert_eq!(given(ParameterChoice::Int64(5), true), plain);
    let named = json!({"p": 5, "binary_data_output": true, "holm_uint64": ["p"]});
    assert_eq!(given(ParameterChoice::Uint64(5), true), named);
    let large = json!({"p": u64::MAX, "binary_data_output": true, "holm_uint64": ["p"]});
    assert_eq!(given(ParameterChoice::Uint64(u64::MAX), true), large);
}

#[test]
fn data_in_shared_memory_is_not_in_the_call() {
    let region = InferParameter { parameter_choice: Some(ParameterChoice::String("r".to_owned())) };
    let shared =
        InferTensor { parameters: BTreeMap::from([(SHARED_MEMORY.to_owned(), region)]), ..input("UINT8", &[1], None) };
    let call = read(&request(vec![shared, input("UINT8", &[1], None)], &[b"a"])).unwrap();
    let (head, binary) = parts(&call);
    assert_eq!((&head["inputs"][0]["parameters"], binary), (&json!({"shared_memory_region": "r"}), &b"a"[..]));
}

fn answered(head: &Value, binary: &[u8]) -> Result<ModelInferResponse, BadResponse> {
    let head = head.to_string();
    let name = HeaderName::from_static("inference-header-content-length");
    let headers = HeaderMap::from_iter([(name, HeaderValue::from(head.len()))]);
    let body = Bytes::from([head.as_bytes(), binary].concat());
    let framed = call_response(Message { headers: &headers, body: &body }, "mine")?;
    assert_eq!(framed[..5], [&[0][..], &u32::try_from(framed.len() - 5).unwrap().to_be_bytes()[..]].concat());
    Ok(ModelInferResponse::decode(framed.slice(5..)).unwrap())
}

#[test]
fn a_response_has_bytes_whatever_the_model_wrote() {
    let reply = answered(
        &json!({
            "id": "the model's", "model_name": "m", "model_version": "2", "parameters": {"n": 3, "none": null},
            "outputs": [
                {"name": "y", "datatype": "FP16", "shape": [1, 1], "parameters": {"binary_data_size": 2}},
                {"name": "z", "datatype": "INT16", "shape": [1, 2], "data": [[1, -1]]},
                {"name": "s", "datatype": "INT8", "shape": [1], "parameters": {"shared_memory_region": "r"}},
            ],
        }),
        b"ab",
    )
    .unwrap();
    assert_eq!((&reply.id[..], &reply.model_name[..], &reply.model_version[..]), ("mine", "m", "2"));
    assert_eq!(reply.parameters["n"].parameter_choice, Some(ParameterChoice::Int64(3)));
    assert_eq!(reply.parameters.len(), 1);
    let raw: Vec<&[u8]> = reply.raw_output_contents.iter().map(|bytes| &bytes[..]).collect();
    assert_eq!(raw, [&b"ab"[..], b"\x01\0\xff\xff", b""]);
    assert_eq!(reply.outputs[1].shape, [1, 2]);
}

#[test]
fn a_response_that_cannot_be_read_is_none() {
    let output = |more: &str| {
        let text = format!("{{\"name\": \"y\", \"datatype\": \"INT8\", \"shape\": [1]{more}}}");
        let output: Value = serde_json::from_str(&text).unwrap();
        json!({ "outputs": [output] })
    };
    assert!(answered(&output(", \"data\": [7]"), b"").is_ok());
    for (head, binary) in [
        (json!({"error": "no"}), &b""[..]),
        (json!([1]), b""),
        (output(""), b""),
        (output(", \"data\": [300]"), b""),
        (output(", \"data\": [1, 2]"), b""),
        (output(", \"data\": [7]"), b"a"),
        (output(", \"parameters\": {\"binary_data_size\": 2}"), b"a"),
        (output(", \"data\": [7], \"parameters\": {\"binary_data_size\": 1}"), b"a"),
        (output(", \"data\": [7], \"parameters\": {\"a\": [1]}"), b""),
    ] {
        assert!(answered(&head, binary).is_err(), "{head}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_no_reason_to_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        drop(Call::read(&Bytes::from(bytes.clone()), true));
        let body = Bytes::from(bytes);
        drop(call_response(Message { headers: &HeaderMap::new(), body: &body }, ""));
    }
}
