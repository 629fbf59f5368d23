//! How a request body is split into questions, how questions share one request to a model, and the way back. No I/O.
//!
//! The text of a number is never read as a number: `1`, `1.0` and `10e-1` are three different questions, and an
//! embedding's digits reach the client as the model wrote them.

mod json;
mod json_array;
mod openai;
mod plain;
#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;
use thiserror::Error;

use crate::config::Protocol;

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
    /// The part of `body` that [`join_questions`] lists.
    item: Range<usize>,
}

impl Question {
    /// The bytes by which this question counts in a batch.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.item.len()
    }

    fn item(&self) -> &[u8] {
        self.body.get(self.item.clone()).unwrap_or_default()
    }
}

/// One question's answer, as if it had been asked alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The body.
    pub body: Bytes,
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

/// What the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

impl From<ItemError> for Reply {
    fn from(error: ItemError) -> Self {
        Self { status: error.status, body: error.body }
    }
}

/// Why a request body is no question: answered 400.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The body can't be read; the words say at which line and column.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// The protocol wants an object.
    #[error("the body must be a JSON object, not {found}")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// Arrays and objects within each other.
    #[error("the body nests deeper than {max} levels")]
    TooDeep {
        /// The limit.
        max: usize,
    },
    /// Nothing is asked.
    #[error("`input` is missing")]
    InputMissing,
    /// An empty list asks nothing.
    #[error("`{at}` must not be empty")]
    InputEmpty {
        /// Where: `input` or `input[3]`.
        at: String,
    },
    /// Not text, and not token ids.
    #[error("`{at}` must be {wanted}, not {found}")]
    InputType {
        /// Where: `input` or `input[3]`.
        at: String,
        /// What is allowed there.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// More questions than a request may ask.
    #[error("{count} questions are more than the {max} that one request may ask")]
    TooMany {
        /// Questions asked.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// Every question repeats the members beside `input`, so they must be small.
    #[error("the members beside `input` take {bytes} bytes; {max} are allowed")]
    SharedTooLarge {
        /// Their size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

impl Malformed {
    /// The reply to the client, in the protocol's words.
    #[must_use]
    pub fn reply(&self, protocol: Protocol) -> Reply {
        let param = match self {
            Self::InputMissing | Self::InputEmpty { .. } | Self::InputType { .. } | Self::TooMany { .. } => {
                Some("input")
            }
            Self::NotJson(_) | Self::NotAnObject { .. } | Self::TooDeep { .. } | Self::SharedTooLarge { .. } => None,
        };
        worded(protocol, 400, &self.to_string(), param).into()
    }
}

/// Why a model's answer to a batch can't be given to those who asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadAnswer {
    /// Not JSON, or JSON of another form.
    #[error("the answer is not {wanted}: {why}")]
    Unreadable {
        /// What it should be.
        wanted: &'static str,
        /// What is wrong with it, and where.
        why: String,
    },
    /// A list of another length.
    #[error("{found} answers to {asked} questions")]
    Count {
        /// Questions asked.
        asked: usize,
        /// Answers found.
        found: usize,
    },
    /// It can't be told which question an entry answers.
    #[error("entry {position} has an index that is out of range, taken or not a number")]
    Index {
        /// Place of the entry in the list.
        position: usize,
    },
}

/// Can questions of this protocol share a request?
#[must_use]
pub const fn batchable(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Plain => false,
        Protocol::JsonArray | Protocol::OpenAiEmbeddings => true,
    }
}

/// Splits a body. Of members with the same name the last counts; a body that repeats one is sent on in its canonical
/// form, so that an origin which takes the first can't answer another question than the one that is keyed.
///
/// # Errors
/// [`Malformed`] if the body is no question of this protocol, or more than `items_max` of them.
pub fn split(protocol: Protocol, body: &Bytes, items_max: usize) -> Result<Split, Malformed> {
    match protocol {
        Protocol::Plain => Ok(plain::split(body)),
        Protocol::JsonArray => json_array::split(body, items_max),
        Protocol::OpenAiEmbeddings => openai::split(body, items_max),
    }
}

/// The body of one request for all these questions, whose groups must be equal. A protocol that isn't
/// [`batchable`] takes one question only.
#[must_use]
pub fn join_questions(protocol: Protocol, questions: &[&Question]) -> Bytes {
    match protocol {
        Protocol::Plain => plain::join_questions(questions),
        Protocol::JsonArray => json_array::join_questions(questions),
        Protocol::OpenAiEmbeddings => openai::join_questions(questions),
    }
}

/// What became of each of `questions`, which were asked by [`join_questions`], in their order. `body` is that of a
/// successful response.
///
/// # Errors
/// [`BadAnswer`] if it can't be told which answer is whose; then none is given to anybody.
pub fn split_answers(protocol: Protocol, body: &Bytes, questions: &[&Question]) -> Result<Vec<Outcome>, BadAnswer> {
    match protocol {
        Protocol::Plain => plain::split_answers(body, questions),
        Protocol::JsonArray => json_array::split_answers(body, questions),
        Protocol::OpenAiEmbeddings => openai::split_answers(body, questions),
    }
}

/// The reply to a request that was split into as many questions as there are `outcomes`. A single answer stays as it
/// is, byte for byte. In a JSON array an error keeps its place among the answers; OpenAI has no errors per item, so
/// there the first is the whole reply.
#[must_use]
pub fn join_answers(protocol: Protocol, shape: Shape, outcomes: &[Outcome]) -> Reply {
    match (shape, protocol) {
        (Shape::Many, Protocol::JsonArray) => json_array::join_answers(outcomes),
        (Shape::Many, Protocol::OpenAiEmbeddings) => openai::join_answers(outcomes),
        (Shape::Single, _) | (_, Protocol::Plain) => match outcomes.first() {
            Some(outcome) => alone(outcome),
            None => failure(protocol, 502, "the question was not answered").into(),
        },
    }
}

/// A failure of our own, or of an origin that gave no usable body, in the protocol's words.
#[must_use]
pub fn failure(protocol: Protocol, status: u16, message: &str) -> ItemError {
    worded(protocol, status, message, None)
}

fn alone(outcome: &Outcome) -> Reply {
    match outcome {
        Ok(answer) => Reply { status: 200, body: answer.body.clone() },
        Err(error) => error.clone().into(),
    }
}

fn worded(protocol: Protocol, status: u16, message: &str, param: Option<&str>) -> ItemError {
    let body = match protocol {
        Protocol::Plain | Protocol::JsonArray => {
            serde_json::json!({ "error": { "status": status, "message": message } })
        }
        Protocol::OpenAiEmbeddings => {
            let kind = openai::error_type(status);
            serde_json::json!({ "error": { "message": message, "type": kind, "param": param, "code": null } })
        }
    };
    ItemError { status, body: Bytes::from(body.to_string()) }
}
