//! The state of a node and its region.

use serde::{Deserialize, Serialize};

use super::Problem;

/// Whether a node may be sent requests: `GET /readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether it may.
    pub ready: bool,
    /// Why it may not, as text. Empty, and left out, if it may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// A node that purges no longer wait for: `POST /nodes/NAME/sign-off`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOff {
    /// Its name.
    pub node: String,
    /// Processes that had signed on with the name.
    pub signed_off: usize,
}

/// Signing off that wasn't completed in time: a problem (RFC 9457) with what was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncompleteSignOff {
    /// The problem.
    #[serde(flatten)]
    pub problem: Problem<'static>,
    /// The node's name.
    pub node: String,
    /// Processes of that name that purges no longer wait for.
    pub signed_off: usize,
    /// Processes of that name for which there was no time; `None` if it isn't known how many.
    pub left: Option<usize>,
}
