//! JSON arrays: an array is many items, any other JSON value is one. An array is sent to the model in any case, of one
//! element if need be, and the response is an array of the same length in the same order.

use std::borrow::Cow;

use bytes::Bytes;
use http::uri::PathAndQuery;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    contract::Protocol,
    fault::{BadResponse, Malformed},
    item::{
        EMBEDDED_BYTES_MAX, Item, ItemError, ItemResponse, JoinedReply, JoinedRequest, Message, Outcome, OutcomeRef,
        Received, ReplyForm, Split, SplitRules, response_to_all,
    },
    json,
    lenient::Text,
};

/// The levels within which the model's words stand in a reply: the list, the element, and its error.
const LEVELS_AROUND: usize = 3;

/// The status of an error that states none.
const STATUS_DEFAULT: u16 = 502;

/// Arrays of any JSON values. An error keeps its place among the results.
#[derive(Debug)]
pub(super) struct JsonArray;

impl Protocol for JsonArray {
    fn split(&self, request: &Received<'_>, rules: &SplitRules<'_>) -> Result<Split, Malformed> {
        split(request.body, rules.items_max)
    }

    fn join(&self, target: &PathAndQuery, items: &[&Item]) -> JoinedRequest {
        JoinedRequest { target: target.clone(), headers: json::headers(), body: join_items(items) }
    }

    fn split_response(&self, response: Message<'_>, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse> {
        split_results(response.body, items)
    }

    fn join_outcomes(&self, form: ReplyForm, outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
        match form {
            ReplyForm::Many => join_results(outcomes),
            ReplyForm::Single | ReplyForm::Whole | ReplyForm::Rows { .. } => json::alone(self, outcomes),
        }
    }

    fn failure(&self, status: u16, message: &str, _: Option<&str>) -> ItemError {
        json::failure(status, message)
    }
}

fn split(body: &Bytes, items_max: usize) -> Result<Split, Malformed> {
    let text = json::text(body)?;
    if !text.get().starts_with('[') {
        return Ok(Split { form: ReplyForm::Single, items: vec![item_of(body, text, 0)?] });
    }
    let elements: Vec<&RawValue> =
        serde_json::from_str(text.get()).map_err(|error| Malformed::NotJson(error.to_string()))?;
    if elements.len() > items_max {
        return Err(Malformed::TooMany { count: elements.len(), max: items_max });
    }
    let items = elements.into_iter().map(|element| item_of(body, element, 1)).collect::<Result<_, _>>()?;
    Ok(Split { form: ReplyForm::Many, items })
}

/// Returns the element as the client wrote it; one that repeats a member, in its canonical form.
fn item_of(body: &Bytes, element: &RawValue, depth: usize) -> Result<Item, Malformed> {
    let canonical = json::canonical(element, depth)?;
    let body = if canonical.repeated { canonical.text.clone() } else { body.slice_ref(element.get().as_bytes()) };
    Ok(Item::new(body, canonical.text, Bytes::new()))
}

fn join_items(items: &[&Item]) -> Bytes {
    let mut body = Vec::with_capacity(items.iter().map(|item| item.weight() + 1).sum::<usize>() + 2);
    json::write_list(items.iter().map(|item| item.listed()), &mut body);
    body.into()
}

fn split_results(body: &Bytes, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse> {
    let text = Text::of(body);
    let elements: Vec<&RawValue> = json::read(text.readable(), "a JSON array")?;
    if elements.len() != items.len() {
        return Err(BadResponse::Count { asked: items.len(), found: elements.len() });
    }
    let is_alone = items.len() == 1;
    Ok(elements.into_iter().map(|element| outcome(&text, element, is_alone)).collect())
}

/// Joins results. An element that is an error stays as it is; one that isn't recognisable as an error in its place is
/// worded anew, around what the model has said. What the model says of all of them is the reply.
fn join_results(outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
    if let Some(error) = response_to_all(outcomes) {
        return json::of_error(error);
    }
    let mut room = EMBEDDED_BYTES_MAX;
    let elements: Vec<Bytes> = outcomes.iter().map(|outcome| element(*outcome, &mut room)).collect();
    let mut body = Vec::with_capacity(elements.iter().map(|element| element.len() + 1).sum::<usize>() + 2);
    json::write_list(elements.iter().map(|element| &element[..]), &mut body);
    json::reply(200, body.into())
}

/// Returns the outcome in an element. The bytes are copied: a result that is stored must not keep its whole batch in
/// memory. One with `NaN` in it is given to the client that sent the item alone, which may be able to read it.
fn outcome(text: &Text<'_>, element: &RawValue, is_alone: bool) -> Outcome {
    let readable = element.get().as_bytes();
    let body = Bytes::copy_from_slice(text.written(readable));
    let is_json = text.words_in(readable) == 0;
    match error_status(element.get()) {
        Some(status) => Err(ItemError::new(status, body)),
        None if is_json || is_alone => {
            Ok(ItemResponse { storable: is_json, joinable: is_json, ..ItemResponse::from(body) })
        }
        None => Err(json::failure(STATUS_DEFAULT, "the result of this item is not JSON").alone()),
    }
}

/// Returns an outcome as an element. `room` is how many bytes of the model's words may still be embedded.
fn element(outcome: OutcomeRef<'_>, room: &mut usize) -> Bytes {
    match outcome {
        Ok(response) => response.body.clone(),
        Err(error) => match std::str::from_utf8(&error.body).ok().and_then(error_status) {
            Some(_) => error.body.clone(),
            None => worded(error, room),
        },
    }
}

/// Returns `{"error": {"status": …, "message": …, "body": …}}`, with the model's own words in `body`: as JSON if they
/// are, else as text. `body` is missing where the model has said nothing, or there is no room.
fn worded(error: &ItemError, room: &mut usize) -> Bytes {
    let (status, message) =
        if error.is_unread() { (STATUS_DEFAULT, json::UNREAD.to_owned()) } else { (error.status, error.to_string()) };
    let left = room.checked_sub(error.body.len()).filter(|_| error.is_response);
    let Some(left) = left else { return json::failure(status, &message).body };
    *room = left;
    let own = json::text(&error.body).ok().filter(|own| json::parse(own, LEVELS_AROUND).is_ok()).map(RawValue::get);
    let own =
        own.map_or_else(|| Cow::Owned(Value::from(String::from_utf8_lossy(&error.body)).to_string()), Cow::Borrowed);
    let message = Value::from(message);
    Bytes::from(format!(r#"{{"error":{{"status":{status},"message":{message},"body":{own}}}}}"#))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnlyError<'t> {
    #[serde(borrow)]
    error: &'t RawValue,
}

#[derive(Deserialize)]
struct Stated {
    status: u16,
}

/// Returns the status of an element that is `{"error": …}` and nothing else; `None` for a result.
fn error_status(element: &str) -> Option<u16> {
    let only: OnlyError<'_> = object(element)?;
    let stated = object::<Stated>(only.error.get()).map(|error| error.status);
    Some(stated.filter(|status| (400..=599).contains(status)).unwrap_or(STATUS_DEFAULT))
}

/// Reads an object. The first byte is looked at because serde takes an array for a struct, too.
fn object<'t, T: Deserialize<'t>>(text: &'t str) -> Option<T> {
    if text.starts_with('{') { serde_json::from_str(text).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::protocol::item::outcome_ref;

    fn asked(body: &'static str) -> Split {
        split(&Bytes::from_static(body.as_bytes()), 4).unwrap()
    }

    fn responded(body: &'static str, items: usize) -> Result<Vec<Outcome>, BadResponse> {
        let one = asked("1").items.remove(0);
        split_results(&Bytes::from_static(body.as_bytes()), &vec![&one; items])
    }

    #[test]
    fn an_array_is_many_items_and_anything_else_is_one() {
        for (body, form, items, sent) in [
            ("[]", ReplyForm::Many, vec![], "[]"),
            ("[ 1 ]", ReplyForm::Many, vec!["1"], "[1]"),
            (
                " [1, {\"b\" :2, \"a\":3}] ",
                ReplyForm::Many,
                vec!["1", "{\"b\" :2, \"a\":3}"],
                "[1,{\"b\" :2, \"a\":3}]",
            ),
            ("[[1],[2]]", ReplyForm::Many, vec!["[1]", "[2]"], "[[1],[2]]"),
            ("[{\"a\": 1, \"a\": 2}]", ReplyForm::Many, vec!["{\"a\":2}"], "[{\"a\":2}]"),
            (" {\"a\": 1} ", ReplyForm::Single, vec!["{\"a\": 1}"], "[{\"a\": 1}]"),
            ("\"text\"", ReplyForm::Single, vec!["\"text\""], "[\"text\"]"),
            ("null", ReplyForm::Single, vec!["null"], "[null]"),
        ] {
            let split = asked(body);
            let bodies: Vec<&Bytes> = split.items.iter().map(|item| &item.body).collect();
            assert_eq!(split.form, form, "{body}");
            assert_eq!(bodies, items, "{body}");
            assert_eq!(join_items(&split.items.iter().collect::<Vec<_>>()), sent, "{body}");
        }
    }

    #[test]
    fn the_canonical_form_is_that_of_the_element() {
        let split = asked("[{\"b\": 1, \"a\": 2.0}, [ 1 ]]");
        assert_eq!(split.items[0].canonical, "{\"a\":2.0,\"b\":1}");
        assert_eq!(split.items[1].canonical, "[1]");
    }

    #[test]
    fn what_is_not_json_or_too_long_is_refused() {
        for body in ["", "{", "[1,]", "[1] 2", "\u{feff}[]"] {
            let refused = split(&Bytes::from(body), 4);
            assert!(matches!(refused, Err(Malformed::NotJson(_))), "{body:?}: {refused:?}");
        }
        assert!(split(&Bytes::from_static(b"[1,2,3,4]"), 4).is_ok());
        let refused = split(&Bytes::from_static(b"[1,2,3,4,5]"), 4);
        assert_eq!(refused, Err(Malformed::TooMany { count: 5, max: 4 }));
    }

    #[test]
    fn only_an_object_with_nothing_but_an_error_is_one() {
        for (element, status) in [
            (r#"{"error":{"status":429,"message":"slow down"}}"#, Some(429)),
            (r#"{"error":{"status":"429"}}"#, Some(502)),
            (r#"{"error":{"status":200}}"#, Some(502)),
            (r#"{"error":{"status":600}}"#, Some(502)),
            (r#"{"error":[404]}"#, Some(502)),
            (r#"{"error":"out of memory"}"#, Some(502)),
            (r#"{"error":null,"result":1}"#, None),
            (r#"{"result":{"error":1}}"#, None),
            (r#"["error"]"#, None),
            ("[1]", None),
            ("7", None),
        ] {
            assert_eq!(error_status(element), status, "{element}");
        }
    }

    #[test]
    fn every_element_is_the_response_to_its_item() {
        let outcomes = responded(r#" [ {"x" : 1.50}, {"error":{"status":400}} ] "#, 2).unwrap();
        assert_eq!(outcomes[0], Ok(ItemResponse::from(Bytes::from_static(br#"{"x" : 1.50}"#))));
        let failed = ItemError::new(400, Bytes::from_static(br#"{"error":{"status":400}}"#));
        assert_eq!(outcomes[1], Err(failed));
        let reply = join_results(&outcomes.iter().map(outcome_ref).collect::<Vec<_>>());
        assert_eq!((reply.status, &reply.body[..]), (200, &br#"[{"x" : 1.50},{"error":{"status":400}}]"#[..]));
    }

    #[test]
    fn a_list_of_another_length_is_refused() {
        assert_eq!(responded("[1]", 2), Err(BadResponse::Count { asked: 2, found: 1 }));
        assert_eq!(responded("[1,2,3]", 2), Err(BadResponse::Count { asked: 2, found: 3 }));
        for body in ["{}", "1", "[1", "not json"] {
            assert!(matches!(responded(body, 1), Err(BadResponse::Unreadable { .. })), "{body}");
        }
    }

    #[test]
    fn a_result_that_is_no_json_costs_the_others_nothing() {
        let outcomes = responded(r#"[{"x":NaN}, {"x":2}, [-Infinity]]"#, 3).unwrap();
        assert_eq!(outcomes[1], Ok(ItemResponse::from(Bytes::from_static(br#"{"x":2}"#))));
        for bad in [&outcomes[0], &outcomes[2]] {
            assert!(bad.as_ref().is_err_and(|error| error.status == 502 && error.retry_alone), "{bad:?}");
        }
        let alone = responded(r#"[{"x":NaN}]"#, 1).unwrap();
        let body = Bytes::from_static(br#"{"x":NaN}"#);
        let given = ItemResponse { storable: false, joinable: false, ..ItemResponse::from(body) };
        assert_eq!(alone, [Ok(given)]);
        let refused = responded(r#"[{"error":{"status":422,"at":NaN}}]"#, 1).unwrap();
        assert!(refused[0].as_ref().is_err_and(|error| error.status == 422 && !error.retry_alone), "{refused:?}");
    }

    #[test]
    fn a_reply_is_json_whatever_a_model_has_in_its_errors() {
        let outcomes = responded(r#"[{"error":{"status":422,"at":NaN}},{"x":2}]"#, 2).unwrap();
        let reply = join_results(&outcomes.iter().map(outcome_ref).collect::<Vec<_>>());
        let list: Vec<serde_json::Value> = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((list[0]["error"]["status"].as_u64(), list[1]["x"].as_u64()), (Some(422), Some(2)));
    }

    fn responses(outcomes: &[(u16, &str)]) -> JoinedReply {
        let error =
            |(status, body): &(u16, &str)| ItemError::response(*status, Bytes::copy_from_slice(body.as_bytes()));
        let errors: Vec<ItemError> = outcomes.iter().map(error).collect();
        join_results(&errors.iter().map(Err).collect::<Vec<OutcomeRef<'_>>>())
    }

    #[test]
    fn what_the_model_says_of_all_items_is_the_reply() {
        let detail = r#"{"detail":[{"loc":["body",0]}]}"#;
        let page = "<h1>Sorry</h1>";
        for outcomes in [&[(422, detail)][..], &[(422, detail); 3], &[(502, page); 2], &[(200, "no list")]] {
            let reply = responses(outcomes);
            let (status, body) = outcomes[0];
            assert_eq!((reply.status, reply.headers.len(), &reply.body[..]), (status, 0, body.as_bytes()));
        }
    }

    #[test]
    fn what_the_model_says_of_one_stands_in_its_place() {
        let detail = r#"{ "detail": 1.50 }"#;
        let element = |status: u16, body: &str| {
            let message = format!("the item failed with status {status}");
            format!(r#"{{"error":{{"status":{status},"message":"{message}","body":{body}}}}}"#)
        };
        let busy = r#"{"error":"busy"}"#;
        let reply = responses(&[(422, detail), (422, "\"oops\""), (500, "a \"page\""), (503, busy)]);
        let wanted =
            [element(422, detail), element(422, "\"oops\""), element(500, "\"a \\\"page\\\"\""), busy.to_owned()];
        assert_eq!((reply.status, &reply.body[..]), (200, format!("[{}]", wanted.join(",")).as_bytes()));
        // A response that can't be read belongs to one item only.
        let reply = responses(&[(200, "{\"double\":2}"); 2]);
        let elements: Vec<Value> = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((reply.status, elements.len(), &elements[1]["error"]["status"]), (200, 2, &Value::from(502)));
        assert_eq!(elements[1]["error"]["body"]["double"], 2);
    }

    #[test]
    fn what_is_too_deep_or_too_much_does_not_spoil_the_list() {
        let said = |status: u16, body: &str| ItemError::response(status, Bytes::copy_from_slice(body.as_bytes()));
        let elements = |errors: &[ItemError]| -> Vec<Value> {
            let reply = join_results(&errors.iter().map(Err).collect::<Vec<OutcomeRef<'_>>>());
            serde_json::from_slice(&reply.body).unwrap()
        };
        let deep = format!("{}{}", "[".repeat(126), "]".repeat(126));
        assert_eq!(elements(&[said(422, &deep), said(400, "x")])[0]["error"]["body"], deep);
        let much = "x".repeat(EMBEDDED_BYTES_MAX / 2 + 1);
        let has_body: Vec<bool> = elements(&[said(422, &much), said(400, &much), said(400, "x")])
            .iter()
            .map(|element| !element["error"]["body"].is_null())
            .collect();
        assert_eq!(has_body, [true, false, true]);
    }

    #[test]
    fn an_origins_page_can_not_break_the_array() {
        let page = ItemError::new(503, Bytes::from_static(b"<h1>Sorry</h1>"));
        let one = Ok(ItemResponse::from(Bytes::from_static(b"1")));
        let reply = join_results(&[Err(&page), outcome_ref(&one)]);
        let elements: Vec<serde_json::Value> = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(elements[0]["error"]["status"], 503);
        assert_eq!(elements[1], 1);
        assert_eq!(join_results(&[]).body, "[]");
    }
}
