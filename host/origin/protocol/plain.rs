//! The whole body is one question.

use bytes::Bytes;

use super::{Answer, BadAnswer, Outcome, Question, Shape, Split, json};

/// A body that is JSON is keyed by its canonical form, any other by its bytes. Either is sent as the client wrote it,
/// because a model may care for the order of members; one that repeats a member is sent in its canonical form.
pub(super) fn split(body: &Bytes) -> Split {
    let canonical = json::text(body).and_then(|text| json::canonical(text, 0)).ok();
    let (body, canonical) = match canonical {
        Some(canonical) if canonical.repeated => (canonical.text.clone(), canonical.text),
        Some(canonical) => (body.clone(), canonical.text),
        None => (body.clone(), body.clone()),
    };
    let item = 0..body.len();
    Split { shape: Shape::Single, questions: vec![Question { body, canonical, group: Bytes::new(), item }] }
}

pub(super) fn join_questions(questions: &[&Question]) -> Bytes {
    questions.first().map(|question| question.body.clone()).unwrap_or_default()
}

/// Fails for more than one question, so that a mistake of the caller can't give one's answer to another.
pub(super) fn split_answers(body: &Bytes, questions: &[&Question]) -> Result<Vec<Outcome>, BadAnswer> {
    match questions.len() {
        1 => Ok(vec![Ok(Answer { body: body.clone() })]),
        asked => Err(BadAnswer::Count { asked, found: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_keyed_by_its_meaning_and_sent_as_written() {
        for (body, sent, canonical) in [
            ("{\"b\": 1, \"a\": 2}", "{\"b\": 1, \"a\": 2}", "{\"a\":2,\"b\":1}"),
            ("{\"a\": 1, \"a\": 2}", "{\"a\":2}", "{\"a\":2}"),
            (" [1] ", " [1] ", "[1]"),
            ("{broken", "{broken", "{broken"),
            ("", "", ""),
        ] {
            let split = split(&Bytes::from(body));
            assert_eq!(split.shape, Shape::Single, "{body}");
            assert_eq!(split.questions[0].body, sent, "{body}");
            assert_eq!(split.questions[0].canonical, canonical, "{body}");
            assert_eq!(join_questions(&[&split.questions[0]]), sent, "{body}");
        }
    }

    #[test]
    fn two_questions_get_no_answer_at_all() {
        let one = split(&Bytes::from_static(b"1")).questions.remove(0);
        let body = Bytes::from_static(b"2");
        assert_eq!(split_answers(&body, &[&one]), Ok(vec![Ok(Answer { body: body.clone() })]));
        assert_eq!(split_answers(&body, &[&one, &one]), Err(BadAnswer::Count { asked: 2, found: 1 }));
    }
}
