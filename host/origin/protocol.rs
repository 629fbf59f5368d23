//! How a request is split into questions, how questions share one request to a model, and the way back. No I/O.
//!
//! `contract` is the trait, `item` and `fault` are what it speaks of; each protocol is a file of its own, and [`of`] finds
//! it by its name in the configuration. A further one is a file, its name in `config::Protocol` and a line in [`of`].
//!
//! The text of a number is never read as a number: `1`, `1.0` and `10e-1` are three different questions, and an
//! embedding's digits reach the client as the model wrote them.

mod contract;
mod fault;
mod item;
mod json;
mod json_array;
mod openai;
mod plain;
#[cfg(test)]
mod tests;

pub use contract::Protocol;
pub use fault::{BadAnswer, Malformed};
pub use item::{Answer, ItemError, Joined, Message, Outcome, Question, Received, Reply, Reported, Shape, Split};
pub use plain::question as whole;

use crate::config;

/// The protocol of this name.
#[must_use]
pub fn of(name: config::Protocol) -> &'static dyn Protocol {
    match name {
        config::Protocol::Plain => &plain::Plain,
        config::Protocol::JsonArray => &json_array::JsonArray,
        config::Protocol::OpenAiEmbeddings => &openai::OpenAi,
    }
}
