//! The trait that each protocol implements.

use std::fmt;

use http::{HeaderMap, HeaderName, uri::PathAndQuery};

use super::{
    fault::{BadResponse, Malformed},
    item::{
        Arrival, Item, ItemError, JoinedReply, JoinedRequest, Message, Outcome, OutcomeRef, Received, ReplyForm, Split,
        SplitRules,
    },
};

/// A protocol: how a request is split into items, how items share one request to a model, and how the response is split
/// and the results are joined. No I/O.
pub trait Protocol: fmt::Debug + Send + Sync {
    /// Whether items can share a request. Those of a protocol that doesn't batch are served as plain HTTP is.
    fn batches(&self) -> bool {
        true
    }

    /// Whether a header field describes a request's body as a whole, beside those of HTTP itself (`Content-*`). An item
    /// isn't keyed by such a field, and it isn't sent on: [`Protocol::join`] makes it anew.
    fn describes_body(&self, _: &HeaderName) -> bool {
        false
    }

    /// Splits a request. Of JSON members with the same name the last counts; an item that repeats one is sent on in its
    /// canonical form, so that an origin which takes the first can't respond to another item than the one that is
    /// keyed. A request that can be read and that this protocol can't split becomes one whole item
    /// ([`ReplyForm::Whole`]), whose response is the reply: it is sent byte for byte and by its client's media type, and
    /// isn't shared if it repeats a member or the media type isn't the usual one.
    ///
    /// # Errors
    /// [`Malformed`] if the request can't be read, or has more items than it may.
    fn split(&self, request: &Received<'_>, rules: &SplitRules<'_>) -> Result<Split, Malformed>;

    /// Makes one request for all these items, whose groups and target must be equal. A protocol that doesn't batch
    /// takes one item only, and so does any if the item is whole.
    fn join(&self, target: &PathAndQuery, items: &[&Item]) -> JoinedRequest;

    /// Returns the result of each of `items`, which were sent by [`Protocol::join`], in their order. `response` is a
    /// successful one. An item whose own result can't be read, while it can be told which are the others', gets an
    /// error that says `retry_alone`. A result that can't be read and is the only one is passed on as it is, and marked
    /// as not to be stored. If the first item says what results usually are like ([`Item::expecting`]), that decides
    /// which of them are odd, and not what most of the response are like.
    ///
    /// # Errors
    /// [`BadResponse`] if it can't be told which result is whose; then no item gets one. A single item has two cases: a
    /// response of another form than the protocol's ([`BadResponse::Unreadable`]: a page, an error with the status of
    /// success) is the model's own word, and its client gets it as it is, unstored ([`ItemError::is_unread`]). With a
    /// wrong number of results ([`BadResponse::Count`]) it is a failure: one of them would be taken for the item's.
    fn split_response(&self, response: Message<'_>, items: &[&Item]) -> Result<Vec<Outcome>, BadResponse>;

    /// Returns the failure that a response is for all of `items`; `None` if it is a successful one. Its own body is told,
    /// if clients can read it.
    fn failed(&self, arrival: &Arrival<'_>, _: &[&Item]) -> Option<ItemError> {
        let is_success = (200..300).contains(&arrival.status);
        (!is_success).then(|| ItemError::response(arrival.status, arrival.body.clone()))
    }

    /// Returns those of a response's header fields that are for clients; `None` if all are, because its body is, too.
    fn for_clients(&self, _: &HeaderMap) -> Option<HeaderMap> {
        None
    }

    /// Makes the reply to a request that was split into as many items as there are `outcomes`. A single result stays as
    /// it is, byte for byte, and so does a response of the model's that is the failure of all of them.
    fn join_outcomes(&self, form: ReplyForm, outcomes: &[OutcomeRef<'_>]) -> JoinedReply;

    /// Returns what the model says that a result cost (tokens, for instance): its counts by their names, none if it gives
    /// none.
    fn usage(&self, _: Message<'_>) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// Returns the name of the model that an item which is sent to this target is for, if its request says one.
    fn model(&self, _: &PathAndQuery, _: &Item) -> Option<String> {
        None
    }

    /// Words a failure of this node, or of an origin that gave no usable body, as the protocol does. `param` is the
    /// member of the request that is at fault, if it is one.
    fn failure(&self, status: u16, message: &str, param: Option<&str>) -> ItemError;

    /// Makes the reply to a request that can't be split.
    fn refusal(&self, malformed: &Malformed) -> JoinedReply {
        self.reply_to_all(&self.failure(400, &malformed.to_string(), malformed.param()))
    }

    /// Makes the reply to a request that failed as a whole.
    fn reply_to_all(&self, error: &ItemError) -> JoinedReply {
        self.join_outcomes(ReplyForm::Single, &[Err(error)])
    }
}
