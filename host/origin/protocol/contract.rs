//! The trait that each protocol implements.

use std::fmt;

use http::{HeaderName, uri::PathAndQuery};

use super::{
    fault::{BadAnswer, Malformed},
    item::{ItemError, Joined, Message, Outcome, Question, Received, Reply, Reported, Shape, Split},
};

/// How a request is split into questions, how questions share one request to a model, and the way back. No I/O.
pub trait Protocol: fmt::Debug + Send + Sync {
    /// Whether questions can share a request. Those of a protocol that doesn't batch go the way of plain HTTP.
    fn batches(&self) -> bool {
        true
    }

    /// Whether a header field describes a request's body as a whole, beside those of HTTP itself (`Content-*`). A
    /// question isn't keyed by such a field, and it isn't sent on: [`Protocol::join`] makes it anew.
    fn describes_body(&self, _: &HeaderName) -> bool {
        false
    }

    /// Splits a request. Of JSON members with the same name the last counts; a body that repeats one is sent on in its
    /// canonical form, so that an origin which takes the first can't answer another question than the one that is keyed.
    ///
    /// # Errors
    /// [`Malformed`] if the request is no question of this protocol, or more than `items_max` of them.
    fn split(&self, request: &Received<'_>, items_max: usize) -> Result<Split, Malformed>;

    /// Makes one request for all these questions, whose groups and target must be equal. A protocol that doesn't batch takes
    /// one question only.
    fn join(&self, target: &PathAndQuery, questions: &[&Question]) -> Joined;

    /// Returns what became of each of `questions`, which were asked by [`Protocol::join`], in their order. `response` is a
    /// successful one.
    ///
    /// # Errors
    /// [`BadAnswer`] if it can't be told which answer is whose; then none is given to anybody.
    fn split_response(&self, response: Message<'_>, questions: &[&Question]) -> Result<Vec<Outcome>, BadAnswer>;

    /// Makes the reply to a request that was split into as many questions as there are `outcomes`. A single answer stays as it
    /// is, byte for byte.
    fn join_outcomes(&self, shape: Shape, outcomes: &[Reported<'_>]) -> Reply;

    /// Words a failure of this node, or of an origin that gave no usable body, as the protocol does. `param` is the member of
    /// the request that is at fault, if it is one.
    fn failure(&self, status: u16, message: &str, param: Option<&str>) -> ItemError;

    /// Makes the reply to a request that can't be split.
    fn refusal(&self, malformed: &Malformed) -> Reply {
        self.reply_to_all(&self.failure(400, &malformed.to_string(), malformed.param()))
    }

    /// Makes the reply to a request that failed as a whole.
    fn reply_to_all(&self, error: &ItemError) -> Reply {
        self.join_outcomes(Shape::Single, &[Err(error)])
    }
}
