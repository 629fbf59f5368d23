//! The types of protocols: requests and responses, and the items and results in them.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_TYPE, HeaderValue},
    uri::PathAndQuery,
};
use thiserror::Error;

use crate::config;

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

/// The rules by which a route's requests are split.
#[derive(Clone, Copy, Debug)]
pub struct SplitRules<'r> {
    /// Items that a request may have.
    pub items_max: usize,
    /// Names of members that make a request indivisible, unless their value is `false` or `null`.
    pub indivisible: &'r [String],
    /// How items are sent to a pool that speaks another protocol, if it does.
    pub translation: Option<&'r Arc<config::Translation>>,
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

/// A response of a model as it arrived, decoded.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'m> {
    /// Its status.
    pub status: u16,
    /// Its header fields.
    pub headers: &'m HeaderMap,
    /// Its trailers.
    pub trailers: &'m HeaderMap,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyForm {
    /// The reply is the result itself.
    Single,
    /// The reply is a list of results, even if it is a list of one.
    Many,
    /// The reply is the model's response byte for byte, with the model's own header fields: the request couldn't be
    /// split, and its one item is [`Item::whole`].
    Whole,
    /// The reply is tensors with a row for each item.
    Rows {
        /// The name that the client gave its request, as JSON; the reply repeats it.
        id: Option<Bytes>,
    },
}

impl ReplyForm {
    /// Whether the reply is the one result, with that result's header fields.
    #[must_use]
    pub const fn is_one_result(&self) -> bool {
        matches!(self, Self::Single | Self::Whole)
    }
}

/// One item of a request. Clones share their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The body as if the client had sent just this.
    pub body: Bytes,
    /// What the default key compares: the item's JSON without insignificant white space, members sorted (OpenAI's
    /// `input` leads), escapes in their shortest form, numbers as written. Every member counts, `user` too; a policy
    /// may leave one out. MessagePack has the counterpart of that, and tensors are flat. For any other body, the body.
    pub canonical: Bytes,
    /// Only items with equal groups may share a request.
    pub group: Bytes,
    /// Whether it is a request that couldn't be split: it is sent as it came, and shares a request with no other item.
    pub whole: bool,
    /// Whether its result may be stored, and given to others that wait for the same. It may not if the response depends
    /// on more than what is sent, such as a sequence's earlier requests, or on what no key has: a media type of the
    /// client's own, or the first of two members of one name.
    pub shareable: bool,
    /// What the client calls its body's media type, if the item is whole; then it is sent with it.
    pub(super) media_types: Vec<HeaderValue>,
    /// The part of `body` that a joined request lists.
    pub(super) span: Range<usize>,
    /// The parts of `body` that a joined request takes up one by one, for protocols with more than one.
    pub(super) parts: Vec<Range<usize>>,
    /// What is sent to a pool that speaks another protocol than the client.
    pub(super) upstream: Option<Arc<Upstream>>,
    /// What results of items of its group usually are like, if that is known.
    pub(super) usual: Option<Shape>,
}

/// What the results of one model are alike in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// So many numbers.
    Numbers(usize),
    /// So many characters of base64.
    Text(usize),
    /// Several vectors, or a sparse one.
    Other,
}

/// An item in the protocol of its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) item: Item,
    /// Where it is sent, unless that is where the client sent it.
    pub(super) target: Option<PathAndQuery>,
    pub(super) terms: Terms,
    pub(super) translation: Arc<config::Translation>,
}

/// How a client wants the response to an item that is translated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// The model that it names, and its version if it names one.
    pub(super) model: String,
    pub(super) version: String,
    /// Whether an embedding is to be base64.
    pub(super) is_base64: bool,
    /// Which outputs are to be binary data.
    pub(super) packing: Packing,
    /// The name of the format.
    pub(super) media_type: Bytes,
}

/// Which outputs of a model a client wants as binary data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Packing {
    /// Those that it says nothing of.
    pub(super) by_default: bool,
    pub(super) outputs: BTreeMap<String, bool>,
}

impl Packing {
    pub(super) fn packs(&self, output: &str) -> bool {
        self.outputs.get(output).copied().unwrap_or(self.by_default)
    }
}

impl Item {
    /// Returns an item that counts with all its bytes, and is listed with all of them in a joined request.
    pub(super) fn new(body: Bytes, canonical: Bytes, group: Bytes) -> Self {
        let span = 0..body.len();
        let (media_types, parts) = (Vec::new(), Vec::new());
        let (upstream, usual) = (None, None);
        Self { body, canonical, group, whole: false, shareable: true, media_types, span, parts, upstream, usual }
    }

    /// Returns this item of a group of which results usually are like this, if that is known.
    #[must_use]
    pub fn expecting(self, usual: Option<Shape>) -> Self {
        Self { usual, ..self }
    }

    /// Returns an item that is a request which can't be split.
    pub(super) fn unsplit(body: Bytes, canonical: Bytes) -> Self {
        Self { whole: true, ..Self::new(body, canonical, Bytes::from_static(WHOLE)) }
    }

    /// Returns this whole item with the media type that its client calls it by in these header fields. `usual` is sent if
    /// there is none. What is called anything else isn't shared: the media type is in no key, and a model may read the
    /// same bytes in another way.
    pub(super) fn called(self, headers: &HeaderMap, usual: &str) -> Self {
        let media_types: Vec<HeaderValue> = headers.get_all(CONTENT_TYPE).iter().cloned().collect();
        let shareable = self.shareable && (media_types.is_empty() || is_usual(&media_types, usual));
        Self { media_types, shareable, ..self }
    }

    /// Returns this item without its client's media type: for one that a policy has made of an item that had none.
    #[must_use]
    pub fn uncalled(self) -> Self {
        Self { media_types: Vec::new(), ..self }
    }

    /// Returns the header fields of a request with this item alone: `usual`, with the client's own media type if it is
    /// whole and there is one.
    pub(super) fn fields(&self, mut usual: HeaderMap) -> HeaderMap {
        if !self.media_types.is_empty() {
            usual.remove(CONTENT_TYPE);
        }
        for own in &self.media_types {
            usual.append(CONTENT_TYPE, own.clone());
        }
        usual
    }

    /// Returns this whole item with another body, its key unchanged.
    #[must_use]
    pub fn with_body(&self, body: Bytes) -> Self {
        Self { span: 0..body.len(), body, ..self.clone() }
    }

    /// Returns the bytes by which this item counts in a batch.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.upstream.as_ref().map_or(self.span.len(), |upstream| upstream.item.span.len())
    }

    pub(super) fn listed(&self) -> &[u8] {
        self.body.get(self.span.clone()).unwrap_or_default()
    }
}

/// Whether these are one media type, and it is this one, which has no parameters. JSON is always UTF-8.
fn is_usual(given: &[HeaderValue], usual: &str) -> bool {
    let [given] = given else { return false };
    let mut parts = given.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_it = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(usual.as_bytes()));
    let mut parameters = parts.filter(|parameter| !parameter.is_empty());
    is_it && parameters.all(|parameter| parameter.eq_ignore_ascii_case(b"charset=utf-8"))
}

/// The beginning of the group of whole items, which that of no other item begins with.
pub(super) const WHOLE: &[u8] = b"whole";

/// The response to one item, as if it had been sent alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemResponse {
    /// The header fields that describe the body; they replace those of the response that brought it.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Whether it may be stored. One that some clients can't read (`NaN` in JSON) is given to those who wait for it and
    /// isn't.
    pub storable: bool,
    /// Whether it can stand in the reply to a request of several items. A result that is no valid JSON, or that lacks
    /// what the protocol wants of it, is given only to a client that sent its item alone.
    pub joinable: bool,
    /// Prompt tokens that the model says it has read for the item; 0 if it doesn't say.
    pub tokens: u64,
    /// What it is like, if that should be what all results of its group are like.
    pub shape: Option<Shape>,
}

impl From<Bytes> for ItemResponse {
    /// Returns a response with the header fields of the whole one.
    fn from(body: Bytes) -> Self {
        Self { headers: HeaderMap::new(), body, storable: true, joinable: true, tokens: 0, shape: None }
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
    /// Whether that is because the result is unlike those of most others in its response, though it can be read: alone
    /// it would look right, and it isn't to be trusted then either.
    pub differs: bool,
    /// Whether `body` is a response of the model as a whole, and neither an element of one nor worded by this node.
    pub is_response: bool,
}

impl ItemError {
    /// Returns an error that isn't to be retried.
    #[must_use]
    pub const fn new(status: u16, body: Bytes) -> Self {
        Self { status, body, retry_alone: false, differs: false, is_response: false }
    }

    /// Returns the error of an item whose client gets the model's response as it is: one of failure, or a successful one
    /// that can't be read.
    #[must_use]
    pub const fn response(status: u16, body: Bytes) -> Self {
        Self { status, body, retry_alone: false, differs: false, is_response: true }
    }

    /// Whether it is a successful response that can't be read.
    #[must_use]
    pub const fn is_unread(&self) -> bool {
        self.is_response && self.status < 300
    }

    /// Returns an error after which the item should be sent again, alone.
    pub(super) fn alone(self) -> Self {
        Self { retry_alone: true, ..self }
    }

    /// Returns the error of an item whose result is unlike those of most others in its response, if it `differs`.
    pub(super) fn differing(self, differs: bool) -> Self {
        Self { differs, ..self }
    }
}

/// Returns what more than half of these are, if there is such a thing.
pub(crate) fn majority<T: PartialEq + Copy>(all: &[T]) -> Option<T> {
    // The only one that can be (Boyer and Moore's vote).
    let (candidate, _) = all.iter().fold((None, 0_usize), |(candidate, votes), one| match votes {
        0 => (Some(*one), 1),
        _ if candidate == Some(*one) => (candidate, votes + 1),
        _ => (candidate, votes - 1),
    });
    let alike = all.iter().filter(|one| Some(**one) == candidate).count();
    candidate.filter(|_| 2 * alike > all.len())
}

/// Bytes of what the items of a request have in common, which each of them repeats and so does the name of a batch's class.
pub(super) const SHARED_BYTES_MAX: usize = 16 * 1024;

/// What all items together may repeat of it: a small body of many items must not take many times its size in memory.
const REPEATED_BYTES_MAX: usize = 2 << 20;

/// Whether so many items may each repeat this many bytes. A request whose items may not isn't split.
pub(super) const fn may_repeat(bytes: usize, items: usize) -> bool {
    bytes <= SHARED_BYTES_MAX && bytes.saturating_mul(items) <= REPEATED_BYTES_MAX
}

/// The outcome of one item.
pub type Outcome = Result<ItemResponse, ItemError>;

/// The outcome of one item by reference, with the header fields that its response would have alone.
pub type OutcomeRef<'r> = Result<Message<'r>, &'r ItemError>;

/// Bytes of what a model has said in its failures that the reply to a list takes up beside its results.
pub(super) const EMBEDDED_BYTES_MAX: usize = 1 << 20;

/// Bytes of a response up to which it is compared with another one byte by byte.
const COMPARED_BYTES_MAX: usize = 64 << 10;

/// Returns the model's response that is the reply to a whole request: its only item's, or the one failure of all its
/// items. One that can't be read is no response to several: what belongs to which of them isn't known.
pub(super) fn response_to_all<'r>(outcomes: &[OutcomeRef<'r>]) -> Option<&'r ItemError> {
    let (first, others) = outcomes.split_first()?;
    let first = first.err().filter(|error| error.is_response)?;
    let is_same = |other: &OutcomeRef<'_>| other.is_err_and(|other| is_same_response(first, other));
    let is_common = || !first.is_unread() && others.iter().all(is_same);
    (others.is_empty() || is_common()).then_some(first)
}

fn is_same_response(one: &ItemError, other: &ItemError) -> bool {
    let (body, another) = (&one.body, &other.body);
    let is_shared = (body.as_ptr(), body.len()) == (another.as_ptr(), another.len());
    let is_equal = || body.len() <= COMPARED_BYTES_MAX && body == another;
    other.is_response && one.status == other.status && (is_shared || is_equal())
}

/// Returns an outcome by reference, with no other header fields than its own.
#[cfg(test)]
pub(super) fn outcome_ref(outcome: &Outcome) -> OutcomeRef<'_> {
    outcome.as_ref().map(|response| Message { headers: &response.headers, body: &response.body })
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
