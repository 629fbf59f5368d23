//! MessagePack as JSON and back, and the tensor of an item as MessagePack.

use super::value::{Head, Reader, write_head};
use crate::origin::protocol::{
    json::{DEPTH_MAX, Node},
    tensor::{Scalar, Tensor},
};

/// Returns a value as JSON; `None` if it has something that JSON has no form for: bytes, an extension, a number that is
/// none, a key that is no text.
pub(in crate::origin::protocol) fn to_json(value: &[u8]) -> Option<Vec<u8>> {
    let (mut reader, mut out) = (Reader::of(value), Vec::new());
    write(&mut reader, 0, &mut out)?;
    reader.end().ok()?;
    Some(out)
}

fn write(reader: &mut Reader<'_>, depth: usize, out: &mut Vec<u8>) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    match reader.head().ok()? {
        Head::Nil => out.extend_from_slice(b"null"),
        Head::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        Head::Unsigned(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Head::Negative(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Head::Float32(bits) => {
            let number = Some(f32::from_bits(bits)).filter(|number| number.is_finite())?;
            serde_json::to_writer(out, &number).ok()?;
        }
        Head::Float64(bits) => {
            let number = Some(f64::from_bits(bits)).filter(|number| number.is_finite())?;
            serde_json::to_writer(out, &number).ok()?;
        }
        Head::Text(length) => write_text(reader, length, out)?,
        Head::Binary(_) | Head::Extension(..) => return None,
        Head::Array(count) => {
            out.push(b'[');
            for place in 0..count {
                separate(place, out);
                write(reader, depth + 1, out)?;
            }
            out.push(b']');
        }
        Head::Map(count) => {
            out.push(b'{');
            for place in 0..count {
                separate(place, out);
                let Head::Text(length) = reader.head().ok()? else { return None };
                write_text(reader, length, out)?;
                out.push(b':');
                write(reader, depth + 1, out)?;
            }
            out.push(b'}');
        }
    }
    Some(())
}

fn separate(place: usize, out: &mut Vec<u8>) {
    if place > 0 {
        out.push(b',');
    }
}

fn write_text(reader: &mut Reader<'_>, length: usize, out: &mut Vec<u8>) -> Option<()> {
    let text = str::from_utf8(reader.take(length).ok()?).ok()?;
    serde_json::to_writer(out, text).ok()
}

/// Returns a JSON value as MessagePack; `None` if a number of it is out of range, or a string no text.
pub(in crate::origin::protocol) fn of_json(value: &Node<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    write_node(value, &mut out)?;
    Some(out)
}

fn write_node(value: &Node<'_>, out: &mut Vec<u8>) -> Option<()> {
    match value {
        Node::Word("null") => write_head(Head::Nil, out),
        Node::Word(word @ ("true" | "false")) => write_head(Head::Bool(*word == "true"), out),
        Node::Word(number) => write_head(number_of(number)?, out),
        Node::Text(escaped) => write_escaped(escaped, out)?,
        Node::List(items) => {
            write_head(Head::Array(items.len()), out);
            for item in items {
                write_node(item, out)?;
            }
        }
        Node::Object(members) => {
            write_head(Head::Map(members.len()), out);
            for (name, member) in members {
                write_escaped(name, out)?;
                write_node(member, out)?;
            }
        }
    }
    Some(())
}

/// Returns the number that JSON writes so: a whole one exactly, another as the nearest of 8 bytes.
fn number_of(text: &str) -> Option<Head> {
    if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) && text != "-0" {
        let unsigned = text.parse().ok().map(Head::Unsigned);
        return unsigned.or_else(|| text.parse().ok().map(Head::Negative));
    }
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite())?;
    Some(Head::Float64(number.to_bits()))
}

fn write_escaped(escaped: &str, out: &mut Vec<u8>) -> Option<()> {
    let text: String = serde_json::from_str(&format!("\"{escaped}\"")).ok()?;
    write_bytes(Head::Text(text.len()), text.as_bytes(), out);
    Some(())
}

fn write_bytes(head: Head, bytes: &[u8], out: &mut Vec<u8>) {
    write_head(head, out);
    out.extend_from_slice(bytes);
}

/// Returns a tensor as arrays within arrays, each number as wide as it is there; `None` if its elements don't fit it.
pub(in crate::origin::protocol) fn of_tensor(tensor: &Tensor) -> Option<Vec<u8>> {
    // Of nothing there may be very many arrays.
    (!tensor.dims.contains(&0)).then_some(())?;
    let mut out = Vec::new();
    nest(&tensor.dims, &mut tensor.scalars()?.iter(), &mut out)?;
    Some(out)
}

fn nest<'s>(dims: &[usize], scalars: &mut impl Iterator<Item = &'s Scalar<'s>>, out: &mut Vec<u8>) -> Option<()> {
    let Some((dim, inner)) = dims.split_first() else {
        write_scalar(scalars.next()?, out);
        return Some(());
    };
    write_head(Head::Array(*dim), out);
    for _ in 0..*dim {
        nest(inner, scalars, out)?;
    }
    Some(())
}

fn write_scalar(scalar: &Scalar<'_>, out: &mut Vec<u8>) {
    match scalar {
        Scalar::Bool(value) => write_head(Head::Bool(*value), out),
        Scalar::Unsigned(number) => write_head(Head::Unsigned(*number), out),
        Scalar::Signed(number) => {
            let head = u64::try_from(*number).map_or(Head::Negative(*number), Head::Unsigned);
            write_head(head, out);
        }
        Scalar::Single(number) => write_head(Head::Float32(number.to_bits()), out),
        Scalar::Double(number) => write_head(Head::Float64(number.to_bits()), out),
        Scalar::Bytes(bytes) => match str::from_utf8(bytes) {
            Ok(text) => write_bytes(Head::Text(text.len()), text.as_bytes(), out),
            Err(_) => write_bytes(Head::Binary(bytes.len()), bytes, out),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::origin::protocol::{
        json,
        tensor::{Datatype, Elements},
    };

    fn packed(text: &str) -> Option<Vec<u8>> {
        of_json(&json::parse(json::text(text.as_bytes()).unwrap(), 0).unwrap().node)
    }

    fn there_and_back(text: &str) -> Option<String> {
        to_json(&packed(text)?).map(|json| String::from_utf8(json).unwrap())
    }

    #[test]
    fn what_both_have_a_form_for_comes_back() {
        for (written, wanted) in [
            ("null", Some("null")),
            ("[true, false]", Some("[true,false]")),
            ("[0, 127, 128, 65536, 18446744073709551615]", Some("[0,127,128,65536,18446744073709551615]")),
            ("[-1, -128, -9223372036854775808]", Some("[-1,-128,-9223372036854775808]")),
            ("[1.5, 1e2, -0.25]", Some("[1.5,100.0,-0.25]")),
            (r#"{"b": {"a": []}, "\u0061": "\"é\n"}"#, Some(r#"{"a":"\"é\n","b":{"a":[]}}"#)),
            ("18446744073709551616", None),
            ("1e999", None),
            (r#""\ud800""#, None),
        ] {
            assert_eq!(there_and_back(written).as_deref(), wanted, "{written}");
        }
        assert_eq!(there_and_back("-0").as_deref(), Some("-0.0"));
    }

    #[test]
    fn what_json_has_no_form_for_is_not_made_up() {
        for value in [
            &b"\xc4\x01\xff"[..],        // bytes
            b"\xd4\x01\x00",             // an extension
            b"\xca\x7f\xc0\x00\x00",     // not a number
            b"\xcb\x7f\xf0\0\0\0\0\0\0", // infinity
            b"\xa1\xff",                 // a string that is no UTF-8
            b"\x81\x01\x02",             // a key that is a number
            b"\x01\x02",                 // two values
            b"\xdd\xff\xff\xff\xff",     // an array of more than there is
            b"\xdb\xff\xff\xff\xff",     // a text of more than there is
            b"\xc1",
            b"",
        ] {
            assert_eq!(to_json(value), None, "{value:x?}");
        }
        let deep = [vec![0x91; DEPTH_MAX + 2], vec![0xc0]].concat();
        assert_eq!(to_json(&deep), None);
    }

    #[test]
    fn a_tensors_numbers_stay_as_wide_as_they_are() {
        let tensor = |datatype, dims: &[usize], elements: &str| Tensor {
            name: "y".to_owned(),
            datatype,
            dims: dims.to_vec(),
            elements: Elements::Json(Vec::from(elements)),
        };
        for (tensor, wanted) in [
            (tensor(Datatype::Fp32, &[2], "1.5,2"), Some(b"\x92\xca\x3f\xc0\0\0\xca\x40\0\0\0".to_vec())),
            (tensor(Datatype::Fp64, &[], "1.5"), Some(b"\xcb\x3f\xf8\0\0\0\0\0\0".to_vec())),
            (tensor(Datatype::Int64, &[1, 2], "-1,7"), Some(b"\x91\x92\xff\x07".to_vec())),
            (tensor(Datatype::Bytes, &[1], "\"a\""), Some(b"\x91\xa1a".to_vec())),
            (tensor(Datatype::Fp32, &[3], "1.5,2"), None),
            (tensor(Datatype::Fp32, &[1_000_000_000, 0], ""), None),
        ] {
            assert_eq!(of_tensor(&tensor), wanted, "{tensor:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_becomes_json_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(json) = to_json(&bytes) {
                prop_assert!(serde_json::from_slice::<Value>(&json).is_ok());
            }
        }
    }
}
