//! The whole body is one question.

use bytes::Bytes;
use http::{HeaderMap, uri::PathAndQuery};

use super::{
    contract::Protocol,
    fault::{BadAnswer, Malformed},
    item::{Answer, ItemError, Joined, Message, Outcome, Question, Received, Reply, Reported, Shape, Split},
    json,
};

/// Bodies of any kind, one question each.
#[derive(Debug)]
pub(super) struct Plain;

impl Protocol for Plain {
    fn batches(&self) -> bool {
        false
    }

    fn split(&self, request: &Received<'_>, _: usize) -> Result<Split, Malformed> {
        Ok(Split { shape: Shape::Single, questions: vec![question(request.body)] })
    }

    /// The header fields stay the client's.
    fn join(&self, target: &PathAndQuery, questions: &[&Question]) -> Joined {
        let body = questions.first().map(|question| question.body.clone()).unwrap_or_default();
        Joined { target: target.clone(), headers: HeaderMap::new(), body }
    }

    /// Fails for more than one question, so that a mistake of the caller can't give one's answer to another.
    fn split_response(&self, response: Message<'_>, questions: &[&Question]) -> Result<Vec<Outcome>, BadAnswer> {
        match questions.len() {
            1 => Ok(vec![Ok(Answer::from(response.body.clone()))]),
            asked => Err(BadAnswer::Count { asked, found: 1 }),
        }
    }

    /// The header fields of an answer stay the model's.
    fn join_outcomes(&self, _: Shape, outcomes: &[Reported<'_>]) -> Reply {
        match outcomes.first() {
            Some(Ok(answer)) => Reply { status: 200, headers: HeaderMap::new(), body: answer.body.clone() },
            Some(Err(_)) | None => json::alone(self, outcomes),
        }
    }

    fn failure(&self, status: u16, message: &str, _: Option<&str>) -> ItemError {
        json::failure(status, message)
    }
}

/// The whole body as one question. One that is JSON is keyed by its canonical form, any other by its bytes. Either is
/// sent as the client wrote it, because a model may care for the order of members; one that repeats a member is sent in
/// its canonical form.
#[must_use]
pub fn question(body: &Bytes) -> Question {
    let canonical = json::text(body).and_then(|text| json::canonical(text, 0)).ok();
    let (body, canonical) = match canonical {
        Some(canonical) if canonical.repeated => (canonical.text.clone(), canonical.text),
        Some(canonical) => (body.clone(), canonical.text),
        None => (body.clone(), body.clone()),
    };
    let item = 0..body.len();
    Question { body, canonical, group: Bytes::new(), item }
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
            let question = question(&Bytes::from(body));
            assert_eq!(question.body, sent, "{body}");
            assert_eq!(question.canonical, canonical, "{body}");
            let joined = Plain.join(&PathAndQuery::from_static("/chat?n=1"), &[&question]);
            assert_eq!((joined.target.as_str(), joined.headers.len()), ("/chat?n=1", 0), "{body}");
            assert_eq!(joined.body, sent, "{body}");
        }
    }

    #[test]
    fn two_questions_get_no_answer_at_all() {
        let one = question(&Bytes::from_static(b"1"));
        let (headers, body) = (HeaderMap::new(), Bytes::from_static(b"2"));
        let response = Message { headers: &headers, body: &body };
        assert_eq!(Plain.split_response(response, &[&one]), Ok(vec![Ok(Answer::from(body.clone()))]));
        let refused = Plain.split_response(response, &[&one, &one]);
        assert_eq!(refused, Err(BadAnswer::Count { asked: 2, found: 1 }));
    }
}
