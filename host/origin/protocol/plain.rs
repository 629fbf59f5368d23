//! Plain bodies: the whole body is one item.

use bytes::Bytes;
use http::{HeaderMap, uri::PathAndQuery};

use super::{
    contract::Protocol,
    fault::{BadResponse, Malformed},
    item::{
        Item, ItemError, ItemResponse, JoinedReply, JoinedRequest, Message, Outcome, OutcomeRef, Received, ReplyForm,
        Split, SplitRules,
    },
    json,
};

/// Bodies of any kind, one item each.
#[derive(Debug)]
pub(super) struct Plain;

impl Protocol for Plain {
    fn batches(&self) -> bool {
        false
    }

    fn split(&self, request: &Received<'_>, _: &SplitRules<'_>) -> Result<Split, Malformed> {
        Ok(Split { form: ReplyForm::Single, items: vec![item_of(request.body)] })
    }

    /// Joins the only item into a request, whose header fields stay the client's.
    fn join(&self, target: &PathAndQuery, items: &[&Item]) -> JoinedRequest {
        let body = items.first().map(|item| item.body.clone()).unwrap_or_default();
        JoinedRequest { target: target.clone(), headers: HeaderMap::new(), body }
    }

    /// Fails for more than one item, so that a mistake of the caller can't give one's result to another.
    fn split_response(&self, response: Message<'_>, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse> {
        match items.len() {
            1 => Ok(vec![Ok(ItemResponse::from(response.body.clone()))]),
            asked => Err(BadResponse::Count { asked, found: 1 }),
        }
    }

    /// Returns the only result as the reply, whose header fields stay the model's.
    fn join_outcomes(&self, _: ReplyForm, outcomes: &[OutcomeRef<'_>]) -> JoinedReply {
        json::unsplit(self, outcomes)
    }

    fn failure(&self, status: u16, message: &str, _: Option<&str>) -> ItemError {
        json::failure(status, message)
    }
}

/// Returns the whole body as one item. One that is JSON is keyed by its canonical form, any other by its bytes.
/// Either is sent as the client wrote it, because a model may depend on the order of members; one that repeats a member
/// is sent in its canonical form.
#[must_use]
pub fn item_of(body: &Bytes) -> Item {
    let canonical = json::text(body).and_then(|text| json::canonical(text, 0)).ok();
    let (body, canonical) = match canonical {
        Some(canonical) if canonical.repeated => (canonical.text.clone(), canonical.text),
        Some(canonical) => (body.clone(), canonical.text),
        None => (body.clone(), body.clone()),
    };
    Item::new(body, canonical, Bytes::new())
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
            let item = item_of(&Bytes::from(body));
            assert_eq!(item.body, sent, "{body}");
            assert_eq!(item.canonical, canonical, "{body}");
            let joined = Plain.join(&PathAndQuery::from_static("/chat?n=1"), &[&item]);
            assert_eq!((joined.target.as_str(), joined.headers.len()), ("/chat?n=1", 0), "{body}");
            assert_eq!(joined.body, sent, "{body}");
        }
    }

    #[test]
    fn two_items_get_no_response_at_all() {
        let one = item_of(&Bytes::from_static(b"1"));
        let (headers, body) = (HeaderMap::new(), Bytes::from_static(b"2"));
        let response = Message { headers: &headers, body: &body };
        assert_eq!(Plain.split_response(response, &[&one]), Ok(vec![Ok(ItemResponse::from(body.clone()))]));
        let refused = Plain.split_response(response, &[&one, &one]);
        assert_eq!(refused, Err(BadResponse::Count { asked: 2, found: 1 }));
    }
}
