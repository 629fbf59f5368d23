use proptest::prelude::*;

use super::*;
use crate::origin::protocol::json;

fn of_value(text: &str, numbers: Option<Datatype>, single: &[usize]) -> Result<Tensor, &'static str> {
    let value = json::parse(json::text(text.as_bytes()).unwrap(), 0).unwrap();
    Tensor::of_value("x", &value.node, numbers, single)
}

fn tensor(datatype: Datatype, dims: &[usize], elements: Elements) -> Tensor {
    Tensor { name: "x".to_owned(), datatype, dims: dims.to_vec(), elements }
}

fn text(bytes: Option<Vec<u8>>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn a_json_value_is_a_tensor_if_it_is_alike_throughout() {
    for (value, datatype, dims, flat) in [
        ("\"a\\u0062, ]\"", Datatype::Bytes, &[1][..], "\"ab, ]\""),
        ("7", Datatype::Int64, &[1], "7"),
        ("-1.50", Datatype::Fp32, &[1], "-1.50"),
        ("true", Datatype::Bool, &[1], "true"),
        ("[1, 2, 3]", Datatype::Int64, &[3], "1,2,3"),
        ("[1, 2.0]", Datatype::Fp32, &[2], "1,2.0"),
        ("[[1.5], [2e1]]", Datatype::Fp32, &[2, 1], "1.5,2e1"),
        ("[[\"a\", \"b\"]]", Datatype::Bytes, &[1, 2], "\"a\",\"b\""),
    ] {
        let found = of_value(value, None, &[1]).unwrap();
        assert_eq!((found.datatype, &found.dims[..]), (datatype, dims), "{value}");
        assert_eq!(found.flat().unwrap(), flat.as_bytes(), "{value}");
    }
    assert!(of_value("7", None, &[]).unwrap().dims.is_empty());
    assert_eq!(of_value("7", Some(Datatype::Fp64), &[1]).unwrap().datatype, Datatype::Fp64);
}

#[test]
fn what_is_no_tensor_is_refused() {
    let deep = format!("{}1{}", "[".repeat(DIMS_MAX), "]".repeat(DIMS_MAX));
    for (value, numbers) in [
        ("null", None),
        ("{}", None),
        ("[]", None),
        ("[[], []]", None),
        ("[1, null]", None),
        ("[1, {\"a\": 1}]", None),
        ("[1, [2]]", None),
        ("[[1], 2]", None),
        ("[[1], [2, 3]]", None),
        ("[[1, 2], [[3], [4]]]", None),
        ("[1, \"a\"]", None),
        ("[true, 1]", None),
        ("[9223372036854775808]", None),
        ("[1e39]", None),
        ("256", Some(Datatype::Uint8)),
        ("-1", Some(Datatype::Uint64)),
        ("1.0", Some(Datatype::Int32)),
        ("\"\\ud800\"", None),
        (deep.as_str(), None),
    ] {
        assert!(of_value(value, numbers, &[1]).is_err(), "{value} {numbers:?}");
    }
}

#[test]
fn elements_of_every_type_are_the_same_as_json_and_as_bytes() {
    for (datatype, flat, raw) in [
        (Datatype::Bool, "true,false", &b"\x01\0"[..]),
        (Datatype::Uint8, "0,255", b"\0\xff"),
        (Datatype::Uint16, "1,65535", b"\x01\0\xff\xff"),
        (Datatype::Uint32, "1,4294967295", b"\x01\0\0\0\xff\xff\xff\xff"),
        (Datatype::Uint64, "1,18446744073709551615", b"\x01\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
        (Datatype::Int8, "-128,127", b"\x80\x7f"),
        (Datatype::Int16, "-2,1", b"\xfe\xff\x01\0"),
        (Datatype::Int32, "-2,1", b"\xfe\xff\xff\xff\x01\0\0\0"),
        (Datatype::Int64, "-2,1", b"\xfe\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\0"),
        (Datatype::Fp32, "1.5,-2.0", b"\0\0\xc0\x3f\0\0\0\xc0"),
        (Datatype::Fp64, "1.5,-2.0", b"\0\0\0\0\0\0\xf8\x3f\0\0\0\0\0\0\0\xc0"),
        (Datatype::Bytes, "\"a\",\"\"", b"\x01\0\0\0a\0\0\0\0"),
    ] {
        let json = tensor(datatype, &[2], Elements::Json(flat.as_bytes().to_vec()));
        assert_eq!(json.raw().as_deref(), Some(raw), "{datatype:?}");
        let bytes = tensor(datatype, &[2], Elements::Raw(raw.to_vec()));
        assert_eq!(bytes.flat().as_deref(), Some(flat.as_bytes()), "{datatype:?}");
    }
    for (datatype, raw, flat) in [
        (Datatype::Fp16, &b"\0\x3e\x01\0"[..], "1.5,5.9604645e-8"),
        (Datatype::Fp16, b"\xff\x7b\0\x80", "65504.0,-0.0"),
        (Datatype::Bf16, b"\xc0\x3f\0\xc0", "1.5,-2.0"),
    ] {
        let half = tensor(datatype, &[2], Elements::Raw(raw.to_vec()));
        assert_eq!(half.flat().as_deref(), Some(flat.as_bytes()), "{raw:x?}");
        let json = tensor(datatype, &[2], Elements::Json(flat.as_bytes().to_vec()));
        assert_eq!(json.raw(), None, "it could lose precision");
    }
    for datatype in Datatype::ALL {
        assert_eq!(Datatype::of(datatype.name()), Some(datatype));
    }
}

#[test]
fn what_json_has_no_form_for_is_not_made_up() {
    for (datatype, raw) in [
        (Datatype::Fp32, &b"\0\0\xc0\x7f"[..]),
        (Datatype::Fp32, b"\0\0\x80\xff"),
        (Datatype::Fp16, b"\0\x7c"),
        (Datatype::Fp16, b"\x01\x7c"),
        (Datatype::Fp64, b"\0\0\0\0\0\0\xf8\x7f"),
        (Datatype::Bytes, b"\x01\0\0\0\xff"),
        (Datatype::Bytes, b"\xff\xff\xff\xff"),
        (Datatype::Bytes, b"\0\0"),
        (Datatype::Bool, b"\x02"),
        (Datatype::Int16, b"\x01"),
        (Datatype::Int16, b"\x01\0\x01\0"),
    ] {
        assert_eq!(tensor(datatype, &[1], Elements::Raw(raw.to_vec())).flat(), None, "{datatype:?} {raw:x?}");
    }
}

#[test]
fn values_are_nested_by_the_dimensions_and_vectors_are_lists() {
    let of = |dims: &[usize], flat: &str| tensor(Datatype::Fp32, dims, Elements::Json(flat.as_bytes().to_vec()));
    for (dims, flat, value, vector) in [
        (&[][..], "1", Some("1"), None),
        (&[1], "1.0", Some("[1.0]"), Some("[1.0]")),
        (&[3], "1,2,3e0", Some("[1,2,3e0]"), Some("[1,2,3e0]")),
        (&[2, 2], "1,2,3,4", Some("[[1,2],[3,4]]"), None),
        (&[1, 2, 1], "1,2", Some("[[[1],[2]]]"), Some("[1,2]")),
        (&[2], "1,2,3", None, None),
        (&[3], "1,2", None, None),
        (&[0], "", None, None),
        (&[1_000_000_000, 0], "", None, None),
        (&[usize::MAX, 2], "1", None, None),
    ] {
        let tensor = of(dims, flat);
        assert_eq!(text(tensor.value()).as_deref(), value, "{dims:?} {flat}");
        assert_eq!(text(tensor.vector()).as_deref(), vector, "{dims:?} {flat}");
    }
    assert_eq!(of(&[2], "1.5,-2").singles().unwrap(), b"\0\0\xc0\x3f\0\0\0\xc0");
    let words = tensor(Datatype::Bytes, &[1], Elements::Json(b"\"a\"".to_vec()));
    assert_eq!((words.vector(), words.singles()), (None, None));
}

proptest! {
    #[test]
    fn whatever_comes_is_no_reason_to_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        dims in prop::collection::vec(0_usize..4, 0..4),
        at in 0_usize..14,
    ) {
        for elements in [Elements::Raw(bytes.clone()), Elements::Json(bytes.clone())] {
            let tensor = tensor(Datatype::ALL[at], &dims, elements);
            drop((tensor.scalars(), tensor.flat(), tensor.raw(), tensor.value(), tensor.vector(), tensor.singles()));
        }
    }

    #[test]
    fn numbers_of_four_bytes_are_written_so_that_they_can_be_read_again(bits in any::<u32>()) {
        let number = f32::from_bits(bits);
        prop_assume!(number.is_finite());
        let raw = number.to_le_bytes().to_vec();
        let there = tensor(Datatype::Fp32, &[1], Elements::Raw(raw.clone()));
        let back = tensor(Datatype::Fp32, &[1], Elements::Json(there.flat().unwrap().into_owned()));
        prop_assert_eq!(back.raw().unwrap().into_owned(), raw);
    }
}
