//! Protocols of models: how a request is split into items, how items share one request, and the way back. No I/O.
//!
//! `contract` is the trait, `item` and `fault` are its types; each protocol is a file of its own, and [`of`]
//! finds it by its name in the configuration. A further one is a file, its name in `config::Protocol` and a line in
//! [`of`].
//!
//! The text of a number is never read as a number: `1`, `1.0` and `10e-1` are three different items, and an
//! embedding's digits reach the client as the model wrote them.
//!
//! What a protocol can read and not split is one whole item: it is sent as it came, alone, and its response is the
//! reply. What a model says in another form than the protocol's to a single item is the reply as well.
//!
//! A pool may speak another protocol than the clients of a route: then [`translated`] has the clients' one, whose items
//! are sent in the pool's.

mod contract;
mod fault;
mod item;
mod json;
mod json_array;
mod kserve;
mod lenient;
mod msgpack;
mod openai;
mod plain;
mod tensor;
#[cfg(test)]
mod tests;
mod translate;

pub use contract::Protocol;
pub use fault::{BadResponse, Malformed};
pub(crate) use item::majority;
pub use item::{
    Arrival, Item, ItemError, ItemResponse, JoinedReply, JoinedRequest, Message, Outcome, OutcomeRef, Received,
    ReplyForm, Shape, Split, SplitRules,
};
pub(super) use kserve::grpc::status_of_head;
pub use kserve::grpc::{
    Call, Framing, METHOD as MODEL_INFER, Misframed, Uncallable, Unframed, call_response, code_of as call_code_of,
    status_fields as call_status_fields,
};
pub use plain::item_of as whole;

use crate::config;

/// Returns the protocol of this name.
#[must_use]
pub fn of(name: config::Protocol) -> &'static dyn Protocol {
    match name {
        config::Protocol::Plain => &plain::Plain,
        config::Protocol::JsonArray => &json_array::JsonArray,
        config::Protocol::OpenAiEmbeddings => &openai::OpenAi,
        config::Protocol::KServe => &kserve::KServe,
        config::Protocol::MsgPackArray => &msgpack::MsgPackArray,
    }
}

/// Returns the protocol of this name for clients of a pool that speaks another one.
#[must_use]
pub fn translated(name: config::Protocol) -> &'static dyn Protocol {
    match name {
        config::Protocol::Plain => &plain::Plain,
        config::Protocol::JsonArray => &translate::JSON_ARRAY,
        config::Protocol::OpenAiEmbeddings => &translate::OPENAI,
        config::Protocol::KServe => &translate::KSERVE,
        config::Protocol::MsgPackArray => &translate::MSGPACK_ARRAY,
    }
}
