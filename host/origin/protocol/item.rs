//! What protocols read and make: requests and responses, and the questions and answers in them.

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

/// A request for one or more questions, as it is sent to a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
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

/// A request body as questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// How the reply must look.
    pub shape: Shape,
    /// The questions in the client's order; none if the client sent an empty array.
    pub questions: Vec<Question>,
}

/// Whether the client asked one question or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The reply is the answer itself.
    Single,
    /// The reply is a list of answers, even if it is a list of one.
    Many,
}

/// One question. Clones share their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The body as if the client had asked just this.
    pub body: Bytes,
    /// What the default key compares: the question's JSON without insignificant white space, members sorted (OpenAI's
    /// `input` leads), escapes in their shortest form, numbers as written. Every member counts, `user` too; to leave
    /// one out is a policy's business. A body that isn't JSON stands for itself.
    pub canonical: Bytes,
    /// Only questions with equal groups may travel together.
    pub group: Bytes,
    /// The part of `body` that a joined request lists.
    pub(super) item: Range<usize>,
}

impl Question {
    /// The bytes by which this question counts in a batch.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.item.len()
    }

    pub(super) fn item(&self) -> &[u8] {
        self.body.get(self.item.clone()).unwrap_or_default()
    }
}

/// One question's answer, as if it had been asked alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The header fields that describe the body; they replace those of the response that brought it.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl From<Bytes> for Answer {
    /// An answer for which the header fields of the whole response hold.
    fn from(body: Bytes) -> Self {
        Self { headers: HeaderMap::new(), body }
    }
}

/// One question's failure; the others of its batch are not touched by it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the question was answered with status {status}")]
pub struct ItemError {
    /// The status of a reply to this question alone.
    pub status: u16,
    /// The body of such a reply.
    pub body: Bytes,
}

/// What became of one question.
pub type Outcome = Result<Answer, ItemError>;

/// What became of one question, wherever it is held: its answer comes with the header fields it would have alone.
pub type Reported<'r> = Result<Message<'r>, &'r ItemError>;

/// An outcome as it is told if its header fields are all there are.
#[cfg(test)]
pub(super) fn reported(outcome: &Outcome) -> Reported<'_> {
    outcome.as_ref().map(|answer| Message { headers: &answer.headers, body: &answer.body })
}

/// What the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The header fields that describe the body.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}
