//! The types of protocols: requests and responses, and the items and results in them.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, uri::PathAndQuery};
use thiserror::Error;

/// A request as a client sent it, its body decoded.
#[derive(Clone, Copy, Debug)]
pub struct Received<'r> {
    /// Path and query.
    pub target: &'r PathAndQuery,
    /// Its header fields.
    pub headers: &'r HeaderMap,
    /// Its body.
    pub body: &'r Bytes,
}

/// A request for one or more items, as it is sent to a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedRequest {
    /// Path and query.
    pub target: PathAndQuery,
    /// The header fields that describe the body; they replace those that are sent anyway.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Header fields and body of a response, decoded.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    /// Its header fields.
    pub headers: &'m HeaderMap,
    /// Its body.
    pub body: &'m Bytes,
}

/// A request's body as items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// How the reply must look.
    pub form: ReplyForm,
    /// The items in the client's order; none if the client sent an empty array.
    pub items: Vec<Item>,
}

/// The form of a reply: whether the client sent one item or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyForm {
    /// The reply is the result itself.
    Single,
    /// The reply is a list of results, even if it is a list of one.
    Many,
}

/// One item of a request. Clones share their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The body as if the client had sent just this.
    pub body: Bytes,
    /// What the default key compares: the item's JSON without insignificant white space, members sorted (OpenAI's
    /// `input` leads), escapes in their shortest form, numbers as written. Every member counts, `user` too; a policy
    /// may leave one out. For a body that isn't JSON, the body.
    pub canonical: Bytes,
    /// Only items with equal groups may share a request.
    pub group: Bytes,
    /// The part of `body` that a joined request lists.
    pub(super) span: Range<usize>,
}

impl Item {
    /// Returns the bytes by which this item counts in a batch.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.span.len()
    }

    pub(super) fn listed(&self) -> &[u8] {
        self.body.get(self.span.clone()).unwrap_or_default()
    }
}

/// The response to one item, as if it had been sent alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemResponse {
    /// The header fields that describe the body; they replace those of the response that brought it.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl From<Bytes> for ItemResponse {
    /// Returns a response with the header fields of the whole one.
    fn from(body: Bytes) -> Self {
        Self { headers: HeaderMap::new(), body }
    }
}

/// The failure of one item; the others of its batch are not affected by it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the item failed with status {status}")]
pub struct ItemError {
    /// The status of a reply to this item alone.
    pub status: u16,
    /// The body of such a reply.
    pub body: Bytes,
    /// Whether the item should be sent again, alone: the model responded, but not with a result for this item that
    /// could be read.
    pub retry_alone: bool,
}

impl ItemError {
    /// Returns an error that isn't to be retried.
    #[must_use]
    pub const fn new(status: u16, body: Bytes) -> Self {
        Self { status, body, retry_alone: false }
    }
}

/// The outcome of one item.
pub type Outcome = Result<ItemResponse, ItemError>;

/// The outcome of one item by reference, with the header fields that its response would have alone.
pub type OutcomeRef<'r> = Result<Message<'r>, &'r ItemError>;

/// Returns an outcome by reference, with no other header fields than its own.
#[cfg(test)]
pub(super) fn outcome_ref(outcome: &Outcome) -> OutcomeRef<'_> {
    outcome.as_ref().map(|answer| Message { headers: &answer.headers, body: &answer.body })
}

/// The reply to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedReply {
    /// The status.
    pub status: u16,
    /// The header fields that describe the body.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}
