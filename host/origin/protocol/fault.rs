//! Why a request's or a response's body can't be split.

use thiserror::Error;

/// Why a request's body can't be split: refused with 400.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The body can't be read; the text says at which line and column.
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
    /// The body can't be read as MessagePack.
    #[error("the body is not MessagePack: {why} at byte {at}")]
    NotMessagePack {
        /// Where.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// The length of a KServe request's JSON isn't a number, or is more than the body has.
    #[error("`inference-header-content-length` must be a number of at most {max}, the length of the body")]
    HeaderLength {
        /// The body's length.
        max: usize,
    },
    /// Something that the protocol of the model has no place for.
    #[error("{what} can't be sent to this model, which speaks another protocol: {why}")]
    Untranslatable {
        /// What.
        what: String,
        /// Why not.
        why: &'static str,
        /// The member of the request that it is or belongs to, if it is one.
        member: Option<String>,
    },
    /// More items than a request may have.
    #[error("{count} items are more than the {max} that one request may have")]
    TooMany {
        /// Items of the request.
        count: usize,
        /// The limit.
        max: usize,
    },
}

impl Malformed {
    /// Returns the fault of a member that the protocol of the model has no place for.
    pub(super) fn untranslatable(member: &str, why: &'static str) -> Self {
        Self::Untranslatable { what: format!("`{member}`"), why, member: Some(member.to_owned()) }
    }

    /// Returns the member of the body that is at fault, if it is one.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::TooMany { .. } => Some("input"),
            Self::Untranslatable { member, .. } => member.as_deref(),
            Self::NotJson(_)
            | Self::NotAnObject { .. }
            | Self::TooDeep { .. }
            | Self::NotMessagePack { .. }
            | Self::HeaderLength { .. } => None,
        }
    }
}

/// Why a model's response to a batch can't be split into results.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadResponse {
    /// Not JSON, or JSON of another form.
    #[error("the response is not {wanted}: {why}")]
    Unreadable {
        /// What it should be.
        wanted: &'static str,
        /// What is wrong with it, and where.
        why: String,
    },
    /// A list of another length.
    #[error("{found} results for {asked} items")]
    Count {
        /// Items of the request.
        asked: usize,
        /// Results found.
        found: usize,
    },
    /// It can't be told which item an entry is for.
    #[error("it can't be told whose entry {position} is: its index is out of range, taken, missing or not a number")]
    Index {
        /// Place of the entry in the list.
        position: usize,
    },
}
