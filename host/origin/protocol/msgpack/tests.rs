use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::origin::protocol::item::outcome_ref;

/// Returns a value in MessagePack.
fn packed(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    pack(value, &mut out);
    out
}

fn pack(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => write_head(Head::Nil, out),
        Value::Bool(value) => write_head(Head::Bool(*value), out),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => write_head(Head::Unsigned(number), out),
            (None, Some(number)) => write_head(Head::Negative(number), out),
            (None, None) => write_head(Head::Float64(number.as_f64().unwrap().to_bits()), out),
        },
        Value::String(text) => write_text(text, out),
        Value::Array(elements) => {
            write_head(Head::Array(elements.len()), out);
            elements.iter().for_each(|element| pack(element, out));
        }
        Value::Object(members) => {
            write_head(Head::Map(members.len()), out);
            for (name, value) in members {
                write_text(name, out);
                pack(value, out);
            }
        }
    }
}

fn asked(body: &[u8]) -> Result<Split, Malformed> {
    split(&Bytes::copy_from_slice(body), &Bytes::from_static(MEDIA_TYPE.as_bytes()), 4)
}

fn canonical(body: &[u8]) -> Bytes {
    asked(&[&[0x91][..], body].concat()).unwrap().items.remove(0).canonical
}

fn joined(items: &[Item]) -> JoinedRequest {
    MsgPackArray.join(&PathAndQuery::from_static("/m"), &items.iter().collect::<Vec<_>>())
}

fn replied(form: ReplyForm, outcomes: &[Outcome]) -> JoinedReply {
    MsgPackArray.join_outcomes(form, &outcomes.iter().map(outcome_ref).collect::<Vec<_>>())
}

#[test]
fn what_is_written_is_what_others_read() {
    for value in [
        json!([
            null,
            true,
            false,
            0,
            127,
            128,
            255,
            256,
            65_535,
            65_536,
            4_294_967_295_u64,
            4_294_967_296_u64,
            u64::MAX
        ]),
        json!([-1, -32, -33, -128, -129, -32_768, -32_769, i64::from(i32::MIN), i64::from(i32::MIN) - 1, i64::MIN]),
        json!(["", "x".repeat(31), "x".repeat(32), "x".repeat(255), "x".repeat(256), "x".repeat(65_536)]),
        json!({"a": vec![0; 15], "b": vec![0; 16], "c": vec![0; 65_536]}),
        json!((0..16).map(|n| (format!("{n:02}"), json!(n))).collect::<serde_json::Map<_, _>>()),
    ] {
        let bytes = packed(&value);
        let read: Value = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(read, value);
        assert_eq!(canonical(&bytes), bytes, "the shortest form is the canonical one");
    }
}

#[test]
fn an_array_is_many_items_and_anything_else_is_one() {
    let split = asked(&packed(&json!([1, {"a": "b"}]))).unwrap();
    assert_eq!((split.form, split.items.len()), (ReplyForm::Many, 2));
    assert_eq!(split.items[1].body, packed(&json!({"a": "b"})));
    let request = joined(&split.items);
    assert_eq!(
        (&request.body[..], request.headers["content-type"].as_bytes()),
        (&packed(&json!([1, {"a": "b"}]))[..], MEDIA_TYPE.as_bytes())
    );
    let split = asked(&packed(&json!({"a": 1}))).unwrap();
    assert_eq!((split.form, split.items.len()), (ReplyForm::Single, 1));
    assert_eq!(joined(&split.items).body, packed(&json!([{"a": 1}])));
    let split = asked(&[0x90]).unwrap();
    assert_eq!((split.form, split.items.len()), (ReplyForm::Many, 0));
}

#[test]
fn one_canonical_form_for_one_meaning() {
    for (one, other, same) in [
        (&b"\x01"[..], &b"\xcc\x01"[..], true),
        (&b"\x01"[..], &b"\xd3\0\0\0\0\0\0\0\x01"[..], true),
        (&b"\xff"[..], &b"\xd1\xff\xff"[..], true),
        (&b"\xa1a"[..], &b"\xdb\0\0\0\x01a"[..], true),
        (&b"\xc4\x01a"[..], &b"\xc6\0\0\0\x01a"[..], true),
        (&b"\x91\x01"[..], &b"\xdd\0\0\0\x01\x01"[..], true),
        (&b"\xd4\x05a"[..], &b"\xc7\x01\x05a"[..], true),
        (&b"\x82\xa1a\x01\xa1b\x02"[..], &b"\xde\0\x02\xa1b\x02\xa1a\x01"[..], true),
        (&b"\x81\xa1a\x82\x02\x01\x01\x02"[..], &b"\x81\xa1a\x82\x01\x02\x02\x01"[..], true),
        (&b"\x82\xa1a\x01\xa1a\x02"[..], &b"\x81\xa1a\x02"[..], true),
        (&b"\x01"[..], &b"\xcb\x3f\xf0\0\0\0\0\0\0"[..], false),
        (&b"\xca\x3f\x80\0\0"[..], &b"\xcb\x3f\xf0\0\0\0\0\0\0"[..], false),
        (&b"\xa1a"[..], &b"\xc4\x01a"[..], false),
        (&b"\xc0"[..], &b"\xc2"[..], false),
        (&b"\x92\x91\x01\x02"[..], &b"\x92\x01\x91\x02"[..], false),
    ] {
        assert_eq!(canonical(one) == canonical(other), same, "{one:x?} {other:x?}");
    }
    let repeated = asked(b"\x91\x82\xa1a\x01\xa1a\x02").unwrap();
    assert_eq!(joined(&repeated.items).body, &b"\x91\x81\xa1a\x02"[..], "sent as it is keyed");
}

#[test]
fn what_is_no_messagepack_or_too_much_is_refused() {
    for body in [&b""[..], &b"\xc1"[..], &b"\x91"[..], &b"\x90\x01"[..], &b"\xdd\xff\xff\xff\xff"[..], &b"\xa2a"[..]] {
        assert!(matches!(asked(body), Err(Malformed::NotMessagePack { .. } | Malformed::TooMany { .. })), "{body:x?}");
    }
    assert_eq!(asked(&[0x95, 1, 2, 3, 4, 5]), Err(Malformed::TooMany { count: 5, max: 4 }));
    let nested = |levels: usize| [vec![0x91_u8; levels], vec![0x01]].concat();
    assert!(asked(&nested(100)).is_ok());
    assert!(matches!(asked(&nested(100_000)), Err(Malformed::TooDeep { .. })));
    let reply = MsgPackArray.refusal(&asked(b"").unwrap_err());
    let error: Value = rmp_serde::from_slice(&reply.body).unwrap();
    assert_eq!((reply.status, reply.headers["content-type"].as_bytes()), (400, MEDIA_TYPE.as_bytes()));
    assert_eq!(
        error["error"],
        json!({"status": 400, "message": "the body is not MessagePack: it ends too early at byte 0"})
    );
}

#[test]
fn every_element_is_a_result_in_its_place() {
    let body =
        Bytes::from(packed(&json!([{"x": 1}, {"error": {"message": "no", "status": 422}}, {"error": 1, "x": 2}])));
    let outcomes = split_results(&body, 3).unwrap();
    assert_eq!(outcomes[0], Ok(ItemResponse::from(Bytes::from(packed(&json!({"x": 1}))))));
    assert!(outcomes[1].as_ref().is_err_and(|error| error.status == 422), "{outcomes:?}");
    assert!(outcomes[2].is_ok());
    let reply = replied(ReplyForm::Many, &outcomes);
    assert_eq!((reply.status, &reply.body[..]), (200, &body[..]));
    let page: Outcome = Err(ItemError::new(503, Bytes::from_static(b"<h1>Sorry</h1>")));
    let reply: Value = rmp_serde::from_slice(&replied(ReplyForm::Many, std::slice::from_ref(&page)).body).unwrap();
    assert_eq!(reply[0]["error"]["status"], 503);
    let alone = replied(ReplyForm::Single, &[page]);
    assert_eq!((alone.status, alone.headers.len(), &alone.body[..]), (503, 0, &b"<h1>Sorry</h1>"[..]));
    for (body, found) in [(json!([1]), 1), (json!([1, 2, 3]), 3)] {
        let refused = split_results(&Bytes::from(packed(&body)), 2);
        assert_eq!(refused, Err(BadResponse::Count { asked: 2, found }), "{body}");
    }
    let a_map = &b"\x81\x01\x02"[..];
    for (body, asked) in [(&b"\x92\x01"[..], 2), (&b"\x91\x01\x01"[..], 1), (&b""[..], 0), (a_map, 1), (a_map, 2)] {
        let refused = split_results(&Bytes::from_static(body), asked);
        assert!(matches!(refused, Err(BadResponse::Unreadable { .. })), "{body:x?}: {refused:?}");
    }
}

#[test]
fn what_the_model_says_is_the_reply_to_all_or_stands_in_its_place() {
    let says = |status, body: &'static [u8]| -> Outcome { Err(ItemError::response(status, Bytes::from_static(body))) };
    let (detail, page) = (&b"\x81\xa6detail\xa2no"[..], &b"<h1>Sorry</h1>"[..]);
    for outcomes in [&[says(422, detail)][..], &[says(422, detail), says(422, detail)], &[says(200, page)]] {
        let reply = replied(ReplyForm::Many, outcomes);
        let Err(error) = &outcomes[0] else { panic!("an error") };
        assert_eq!((reply.status, reply.headers.len(), &reply.body), (error.status, 0, &error.body));
    }
    let reply = replied(ReplyForm::Many, &[says(422, detail), says(500, page), says(200, detail)]);
    let list: Value = rmp_serde::from_slice(&reply.body).unwrap();
    let message = "the item failed with status 422";
    assert_eq!(list[0]["error"], json!({"status": 422, "message": message, "body": {"detail": "no"}}));
    assert_eq!((&list[1]["error"]["body"], &list[2]["error"]["status"]), (&json!("<h1>Sorry</h1>"), &json!(502)));
}

#[test]
fn the_name_that_the_client_has_for_the_format_is_kept() {
    for (given, wanted) in [
        (Some("application/x-msgpack"), "application/x-msgpack"),
        (Some("Application/VND.msgpack; v=1"), "application/vnd.msgpack"),
        (Some("application/octet-stream"), MEDIA_TYPE),
        (None, MEDIA_TYPE),
    ] {
        let headers = given.map(|given| fields(HeaderValue::from_static(given))).unwrap_or_default();
        assert_eq!(media_type(&headers), wanted, "{given:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = asked(&bytes);
        let _ = split_results(&Bytes::from(bytes.clone()), 2);
        let _ = error_status(&bytes);
    }

    #[test]
    fn what_is_read_is_its_own_canonical_form(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(split) = asked(&bytes) {
            for item in split.items {
                prop_assert_eq!(canonical(&item.canonical), item.canonical);
            }
        }
    }
}
