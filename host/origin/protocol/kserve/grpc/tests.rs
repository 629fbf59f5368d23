use proptest::prelude::*;

use super::*;

fn tensor(name: &str, datatype: Datatype, dims: &[usize], elements: &str) -> Tensor {
    let elements = Elements::Json(elements.as_bytes().to_vec());
    Tensor { name: name.to_owned(), datatype, dims: dims.to_vec(), elements }
}

fn request(tensors: Vec<Tensor>) -> Request {
    Request { tensors, ..Request::default() }
}

fn output(datatype: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferTensor {
    let (name, datatype) = ("y".to_owned(), datatype.to_owned());
    InferTensor { name, datatype, shape: shape.to_vec(), contents, ..InferTensor::default() }
}

fn response(outputs: Vec<InferTensor>, raw: &[&'static [u8]]) -> Bytes {
    let raw_output_contents = raw.iter().map(|bytes| Bytes::from_static(bytes)).collect();
    framed(&ModelInferResponse { outputs, raw_output_contents, ..ModelInferResponse::default() })
}

/// Returns the bytes of each output of each row.
fn rows(body: &Bytes, asked: usize) -> Result<Vec<Vec<Vec<u8>>>, BadResponse> {
    let bytes = |tensor: &Tensor| tensor.raw().unwrap().into_owned();
    Ok(results(body, asked)?.iter().map(|row| row.tensors.iter().map(bytes).collect()).collect())
}

#[test]
fn rows_share_a_call_along_the_first_dimension() {
    let row = |text: &str, numbers: &str| {
        let tensors = vec![tensor("t", Datatype::Bytes, &[1], text), tensor("x", Datatype::Int16, &[2], numbers)];
        let wanted = Request {
            tensors,
            parameters: Parameters::from([
                ("p".to_owned(), Parameter::Number(0.5)),
                ("u".to_owned(), Parameter::Unsigned(5)),
            ]),
            outputs: vec![("y".to_owned(), Parameters::from([("k".to_owned(), Parameter::Integer(3))]))],
            version: None,
        };
        item(&wanted, "m", "2").unwrap()
    };
    let (one, other) = (row("\"a\"", "1,-1"), row("\"bc\"", "2,3"));
    assert_eq!(one.group, other.group);
    let joined = join(&[&one, &other]);
    assert_eq!(joined.target, METHOD);
    let field = |name: &str| joined.headers[name].to_str().unwrap();
    assert_eq!((field("content-type"), field("te")), ("application/grpc", "trailers"));
    let sent = ModelInferRequest::decode(unframed(&joined.body).unwrap()).unwrap();
    assert_eq!((sent.model_name.as_str(), sent.model_version.as_str()), ("m", "2"));
    let shapes: Vec<&[i64]> = sent.inputs.iter().map(|input| &input.shape[..]).collect();
    assert_eq!(shapes, [&[2, 1][..], &[2, 2]]);
    let contents: Vec<&[u8]> = sent.raw_input_contents.iter().map(|bytes| &bytes[..]).collect();
    assert_eq!(contents, [&b"\x01\0\0\0a\x02\0\0\0bc"[..], b"\x01\0\xff\xff\x02\0\x03\0"]);
    assert_eq!(sent.parameters["p"].parameter_choice, Some(ParameterChoice::Double(0.5)));
    assert_eq!(sent.parameters["u"].parameter_choice, Some(ParameterChoice::Uint64(5)));
    assert_eq!(sent.outputs[0].parameters["k"].parameter_choice, Some(ParameterChoice::Int64(3)));
}

#[test]
fn what_is_not_alike_has_another_group() {
    let group = |tensor: Tensor, model: &str| item(&request(vec![tensor]), model, "").unwrap().group;
    let base = group(tensor("x", Datatype::Int64, &[1], "1"), "m");
    for other in [
        group(tensor("z", Datatype::Int64, &[1], "1"), "m"),
        group(tensor("x", Datatype::Int32, &[1], "1"), "m"),
        group(tensor("x", Datatype::Int64, &[2], "1,1"), "m"),
        group(tensor("x", Datatype::Int64, &[1], "1"), "n"),
    ] {
        assert_ne!(base, other);
    }
    let half = tensor("x", Datatype::Fp16, &[1], "1");
    assert_eq!(item(&request(vec![half]), "m", ""), None, "it would lose precision");
}

#[test]
fn elements_of_every_type_are_read_as_bytes_or_numbers() {
    let some = |set: fn(&mut InferTensorContents)| {
        let mut contents = InferTensorContents::default();
        set(&mut contents);
        Some(contents)
    };
    let pair = |one: &[u8], other: &[u8]| Some(vec![vec![one.to_vec()], vec![other.to_vec()]]);
    for (datatype, contents, wanted) in [
        ("BOOL", some(|it| it.bool_contents = vec![true, false]), pair(b"\x01", b"\0")),
        ("INT8", some(|it| it.int_contents = vec![-1, 2]), pair(b"\xff", b"\x02")),
        ("INT16", some(|it| it.int_contents = vec![-1, 2]), pair(b"\xff\xff", b"\x02\0")),
        ("INT32", some(|it| it.int_contents = vec![-1, 2]), pair(b"\xff\xff\xff\xff", b"\x02\0\0\0")),
        ("INT64", some(|it| it.int64_contents = vec![1, 2]), pair(b"\x01\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0")),
        ("UINT8", some(|it| it.uint_contents = vec![255, 2]), pair(b"\xff", b"\x02")),
        ("UINT16", some(|it| it.uint_contents = vec![1, 2]), pair(b"\x01\0", b"\x02\0")),
        ("UINT32", some(|it| it.uint_contents = vec![1, 2]), pair(b"\x01\0\0\0", b"\x02\0\0\0")),
        ("UINT64", some(|it| it.uint64_contents = vec![1, 2]), pair(b"\x01\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0")),
        ("FP32", some(|it| it.fp32_contents = vec![1.5, 2.0]), pair(b"\0\0\xc0\x3f", b"\0\0\0\x40")),
        ("FP64", some(|it| it.fp64_contents = vec![1.5, 2.0]), pair(b"\0\0\0\0\0\0\xf8\x3f", b"\0\0\0\0\0\0\0\x40")),
        (
            "BYTES",
            some(|it| it.bytes_contents = vec![Bytes::from_static(b"a"), Bytes::new()]),
            pair(b"\x01\0\0\0a", b"\0\0\0\0"),
        ),
        ("INT8", some(|it| it.int_contents = vec![128, 2]), None),
        ("UINT8", some(|it| it.uint_contents = vec![256, 2]), None),
        ("INT32", some(|it| it.int_contents = vec![1]), None),
        ("INT32", some(|it| it.int64_contents = vec![1, 2]), None),
        ("INT32", some(|it| (it.int_contents, it.bool_contents) = (vec![1, 2], vec![true])), None),
        ("FP16", some(|it| it.uint_contents = vec![1, 2]), None),
        ("COMPLEX", some(|it| it.int_contents = vec![1, 2]), None),
        ("INT32", None, None),
    ] {
        let found = rows(&response(vec![output(datatype, &[2], contents.clone())], &[]), 2);
        assert_eq!(found.ok(), wanted, "{datatype} {contents:?}");
    }
    let raw = response(vec![output("FP16", &[2, 2], None)], &[b"aabbccdd"]);
    assert_eq!(rows(&raw, 2).unwrap(), [[b"aabb".to_vec()], [b"ccdd".to_vec()]]);
}

#[test]
fn what_lies_about_itself_is_refused() {
    let one = || vec![output("UINT8", &[1], None)];
    assert_eq!(rows(&response(one(), &[b"a"]), 1).unwrap(), [[b"a".to_vec()]]);
    for (body, asked) in [
        (response(one(), &[b"ab"]), 1),
        (response(one(), &[b""]), 1),
        (response(one(), &[b"a", b"b"]), 1),
        (response(one(), &[]), 1),
        (response(one(), &[b"a"]), 2),
        (response(vec![], &[]), 1),
        (response(vec![output("UINT8", &[], None)], &[b"a"]), 1),
        (response(vec![output("UINT8", &[-1], None)], &[b"a"]), 1),
        (response(vec![output("UINT8", &[1, i64::MAX, 4], None)], &[b"a"]), 1),
        (response(vec![output("BYTES", &[1], None)], &[b"\xff\xff\xff\xff"]), 1),
    ] {
        assert!(rows(&body, asked).is_err(), "{body:?} {asked}");
    }
}

#[test]
fn the_version_and_the_parameters_of_a_response_are_its_rows() {
    let given = |number| {
        let choice = Some(ParameterChoice::Uint64(number));
        BTreeMap::from([("p".to_owned(), InferParameter { parameter_choice: choice })])
    };
    let wanted = |number| Parameters::from([("p".to_owned(), Parameter::Unsigned(number))]);
    for rows in [1_u8, 2] {
        let output = InferTensor { parameters: given(u64::MAX), ..output("UINT8", &[rows.into()], None) };
        let body = framed(&ModelInferResponse {
            model_version: "2".to_owned(),
            parameters: given(1),
            outputs: vec![output],
            raw_output_contents: vec![Bytes::from(vec![7_u8; rows.into()])],
            ..ModelInferResponse::default()
        });
        for row in results(&body, rows.into()).unwrap() {
            assert_eq!((row.version.as_deref(), row.parameters), (Some("2"), wanted(1)));
            // Which of several rows they are for, nobody can tell.
            let own = if rows == 1 { vec![("y".to_owned(), wanted(u64::MAX))] } else { Vec::new() };
            assert_eq!(row.outputs, own);
        }
    }
}

#[test]
fn a_frame_is_all_of_the_body() {
    let whole = response(vec![output("UINT8", &[1], None)], &[b"a"]);
    for length in 0..whole.len() {
        assert!(results(&whole.slice(..length), 1).is_err(), "{length} bytes");
    }
    let with = |at: usize, byte: u8| {
        let mut changed = whole.to_vec();
        changed[at] = byte;
        Bytes::from(changed)
    };
    assert!(results(&with(0, 1), 1).is_err(), "compressed");
    assert!(results(&with(1, 0xff), 1).is_err(), "a length that isn't there");
    assert!(results(&[&whole[..], &whole[..]].concat().into(), 1).is_err(), "two messages");
}

proptest! {
    #[test]
    fn whatever_comes_is_no_reason_to_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), asked in 0_usize..4) {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(&bytes);
        drop(results(&framed.into(), asked));
        drop(results(&bytes.into(), asked));
    }

    #[test]
    fn a_changed_byte_is_no_reason_to_panic(at in 0_usize..60, byte in any::<u8>()) {
        let contents = InferTensorContents { fp32_contents: vec![1.0, 2.0], ..InferTensorContents::default() };
        let mut body = response(vec![output("FP32", &[2], Some(contents)), output("INT8", &[2], None)], &[]).to_vec();
        if let Some(place) = body.get_mut(at) {
            *place = byte;
        }
        drop(results(&body.into(), 2));
    }

    #[test]
    fn numbers_arrive_as_they_were_sent(numbers in prop::collection::vec(any::<i32>(), 1..20)) {
        let texts: Vec<String> = numbers.iter().map(i32::to_string).collect();
        let one = item(&request(vec![tensor("x", Datatype::Int32, &[numbers.len()], &texts.join(","))]), "m", "");
        let joined = join(&[&one.unwrap()]);
        let sent = ModelInferRequest::decode(unframed(&joined.body).unwrap()).unwrap();
        let raw_output_contents = sent.raw_input_contents.clone();
        let reply =
            ModelInferResponse { outputs: sent.inputs, raw_output_contents, ..ModelInferResponse::default() };
        let tensors = results(&framed(&reply), 1).unwrap().remove(0).tensors;
        prop_assert_eq!(tensors[0].value().unwrap(), format!("[{}]", texts.join(",")).into_bytes());
    }
}
