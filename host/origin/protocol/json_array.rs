//! A JSON array is many questions, any other JSON value is one. The model is always sent an array, of one element if
//! need be, and answers with an array of the same length in the same order.

use bytes::Bytes;
use http::uri::PathAndQuery;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    contract::Protocol,
    fault::{BadAnswer, Malformed},
    item::{Answer, ItemError, Joined, Message, Outcome, Question, Received, Reply, Reported, Shape, Split},
    json,
};

/// The status of an error that states none.
const STATUS_DEFAULT: u16 = 502;

/// Arrays of any JSON values. An error keeps its place among the answers.
#[derive(Debug)]
pub(super) struct JsonArray;

impl Protocol for JsonArray {
    fn split(&self, request: &Received<'_>, items_max: usize) -> Result<Split, Malformed> {
        split(request.body, items_max)
    }

    fn join(&self, target: &PathAndQuery, questions: &[&Question]) -> Joined {
        Joined { target: target.clone(), headers: json::headers(), body: join_questions(questions) }
    }

    fn split_response(&self, response: Message<'_>, questions: &[&Question]) -> Result<Vec<Outcome>, BadAnswer> {
        split_answers(response.body, questions)
    }

    fn join_outcomes(&self, shape: Shape, outcomes: &[Reported<'_>]) -> Reply {
        match shape {
            Shape::Single => json::alone(self, outcomes),
            Shape::Many => join_answers(outcomes),
        }
    }

    fn failure(&self, status: u16, message: &str, _: Option<&str>) -> ItemError {
        json::failure(status, message)
    }
}

fn split(body: &Bytes, items_max: usize) -> Result<Split, Malformed> {
    let text = json::text(body)?;
    if !text.get().starts_with('[') {
        return Ok(Split { shape: Shape::Single, questions: vec![question(body, text, 0)?] });
    }
    let elements: Vec<&RawValue> =
        serde_json::from_str(text.get()).map_err(|error| Malformed::NotJson(error.to_string()))?;
    if elements.len() > items_max {
        return Err(Malformed::TooMany { count: elements.len(), max: items_max });
    }
    let questions = elements.into_iter().map(|element| question(body, element, 1)).collect::<Result<_, _>>()?;
    Ok(Split { shape: Shape::Many, questions })
}

/// The element as the client wrote it; one that repeats a member, in its canonical form.
fn question(body: &Bytes, element: &RawValue, depth: usize) -> Result<Question, Malformed> {
    let canonical = json::canonical(element, depth)?;
    let body = if canonical.repeated { canonical.text.clone() } else { body.slice_ref(element.get().as_bytes()) };
    let item = 0..body.len();
    Ok(Question { body, canonical: canonical.text, group: Bytes::new(), item })
}

fn join_questions(questions: &[&Question]) -> Bytes {
    let mut body = Vec::with_capacity(questions.iter().map(|question| question.weight() + 1).sum::<usize>() + 2);
    json::write_list(questions.iter().map(|question| question.item()), &mut body);
    body.into()
}

fn split_answers(body: &Bytes, questions: &[&Question]) -> Result<Vec<Outcome>, BadAnswer> {
    let elements: Vec<&RawValue> = json::read(body, "a JSON array")?;
    if elements.len() != questions.len() {
        return Err(BadAnswer::Count { asked: questions.len(), found: elements.len() });
    }
    Ok(elements.into_iter().map(outcome).collect())
}

/// An element that is an error fits in as it is; one that isn't recognisable as an error in its place is worded anew.
fn join_answers(outcomes: &[Reported<'_>]) -> Reply {
    let elements: Vec<Bytes> = outcomes.iter().copied().map(element).collect();
    let mut body = Vec::with_capacity(elements.iter().map(|element| element.len() + 1).sum::<usize>() + 2);
    json::write_list(elements.iter().map(|element| &element[..]), &mut body);
    json::reply(200, body.into())
}

/// The bytes are copied: an answer that is kept must not keep its whole batch in memory.
fn outcome(element: &RawValue) -> Outcome {
    let body = Bytes::copy_from_slice(element.get().as_bytes());
    match error_status(element.get()) {
        Some(status) => Err(ItemError { status, body }),
        None => Ok(Answer::from(body)),
    }
}

fn element(outcome: Reported<'_>) -> Bytes {
    match outcome {
        Ok(answer) => answer.body.clone(),
        Err(error) => match std::str::from_utf8(&error.body).ok().and_then(error_status) {
            Some(_) => error.body.clone(),
            None => json::failure(error.status, &error.to_string()).body,
        },
    }
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

/// The status of an element that is `{"error": …}` and nothing else; `None` for an answer.
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
    use crate::origin::protocol::item::reported;

    fn asked(body: &'static str) -> Split {
        split(&Bytes::from_static(body.as_bytes()), 4).unwrap()
    }

    fn answered(body: &'static str, questions: usize) -> Result<Vec<Outcome>, BadAnswer> {
        let one = asked("1").questions.remove(0);
        split_answers(&Bytes::from_static(body.as_bytes()), &vec![&one; questions])
    }

    #[test]
    fn an_array_is_many_questions_and_anything_else_is_one() {
        for (body, shape, questions, sent) in [
            ("[]", Shape::Many, vec![], "[]"),
            ("[ 1 ]", Shape::Many, vec!["1"], "[1]"),
            (" [1, {\"b\" :2, \"a\":3}] ", Shape::Many, vec!["1", "{\"b\" :2, \"a\":3}"], "[1,{\"b\" :2, \"a\":3}]"),
            ("[[1],[2]]", Shape::Many, vec!["[1]", "[2]"], "[[1],[2]]"),
            ("[{\"a\": 1, \"a\": 2}]", Shape::Many, vec!["{\"a\":2}"], "[{\"a\":2}]"),
            (" {\"a\": 1} ", Shape::Single, vec!["{\"a\": 1}"], "[{\"a\": 1}]"),
            ("\"text\"", Shape::Single, vec!["\"text\""], "[\"text\"]"),
            ("null", Shape::Single, vec!["null"], "[null]"),
        ] {
            let split = asked(body);
            let bodies: Vec<&Bytes> = split.questions.iter().map(|question| &question.body).collect();
            assert_eq!(split.shape, shape, "{body}");
            assert_eq!(bodies, questions, "{body}");
            assert_eq!(join_questions(&split.questions.iter().collect::<Vec<_>>()), sent, "{body}");
        }
    }

    #[test]
    fn the_canonical_form_is_that_of_the_element() {
        let split = asked("[{\"b\": 1, \"a\": 2.0}, [ 1 ]]");
        assert_eq!(split.questions[0].canonical, "{\"a\":2.0,\"b\":1}");
        assert_eq!(split.questions[1].canonical, "[1]");
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
    fn every_element_is_an_answer_in_its_place() {
        let outcomes = answered(r#" [ {"x" : 1.50}, {"error":{"status":400}} ] "#, 2).unwrap();
        assert_eq!(outcomes[0], Ok(Answer::from(Bytes::from_static(br#"{"x" : 1.50}"#))));
        let failed = ItemError { status: 400, body: Bytes::from_static(br#"{"error":{"status":400}}"#) };
        assert_eq!(outcomes[1], Err(failed));
        let reply = join_answers(&outcomes.iter().map(reported).collect::<Vec<_>>());
        assert_eq!((reply.status, &reply.body[..]), (200, &br#"[{"x" : 1.50},{"error":{"status":400}}]"#[..]));
    }

    #[test]
    fn a_list_of_another_length_is_nobodys_answer() {
        assert_eq!(answered("[1]", 2), Err(BadAnswer::Count { asked: 2, found: 1 }));
        assert_eq!(answered("[1,2,3]", 2), Err(BadAnswer::Count { asked: 2, found: 3 }));
        for body in ["{}", "1", "[1", "not json"] {
            assert!(matches!(answered(body, 1), Err(BadAnswer::Unreadable { .. })), "{body}");
        }
    }

    #[test]
    fn an_origins_page_can_not_break_the_array() {
        let page = ItemError { status: 503, body: Bytes::from_static(b"<h1>Sorry</h1>") };
        let one = Ok(Answer::from(Bytes::from_static(b"1")));
        let reply = join_answers(&[Err(&page), reported(&one)]);
        let elements: Vec<serde_json::Value> = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(elements[0]["error"]["status"], 503);
        assert_eq!(elements[1], 1);
        assert_eq!(join_answers(&[]).body, "[]");
    }
}
