//! The state of a node and its region.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::clock::Timestamp;

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

/// What a node says of itself to its region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// One life of its process, as text.
    pub process: String,
    /// How often it has said this; it grows as long as the process lives.
    pub beat: u64,
    /// When it started, by its own clock, in milliseconds since 1970.
    pub started: Timestamp,
    /// The program's version.
    pub version: String,
    /// Its zone; `None` if it has none.
    pub zone: Option<String>,
    /// Where clients connect.
    pub addresses: Vec<String>,
    /// Where its admin API listens, if it has one.
    pub admin: Option<String>,
    /// How many configurations it has had.
    pub config_generation: u64,
    /// Digest of the file that it has read last, in hex; `None` if it was started from flags.
    pub config_digest: Option<String>,
    /// The number of the generation of the central configuration that it runs by; `None`, and left out, if it runs by its
    /// own file alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub central_generation: Option<u64>,
    /// The active generation of each policy, by the first digits of its digest.
    pub policies: BTreeMap<String, String>,
    /// Whether it takes no more requests than it has, or is about to.
    pub draining: bool,
    /// The order to its region that it has read last, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

/// A node of the region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// `live`, `draining`, `unknown` (it hasn't been heard twice yet), `suspected` (it has been silent for a while) or
    /// `gone` (for so long that purges no longer wait for it). One that has signed off is no longer there.
    pub state: String,
    /// Since it was heard last, in milliseconds.
    pub silent_ms: u64,
    /// Whether it is the process that responds.
    pub own: bool,
    /// Whether another live process has its name.
    pub namesake: bool,
    /// What it has said last.
    pub said: NodeFacts,
}

/// The nodes of a region: `GET /nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesInfo {
    /// Whether there is a Redis that nodes share; without one there is this node alone.
    pub shared: bool,
    /// Why the list is out of date, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The nodes, by their names.
    pub nodes: Vec<NodeInfo>,
}

/// A drain that begins, or is called off: `POST /drain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainInfo {
    /// Whether it begins.
    pub draining: bool,
    /// Whether all nodes of a region are asked to.
    pub region: bool,
    /// How long the node that was asked goes on accepting requests before it stops, in milliseconds from when the drain
    /// begins: its `timeouts.drain_delay_ms`. Other nodes of the region have their own. Of a drain that is called off it
    /// is what the drain would take if it began now.
    pub delay_ms: u64,
    /// The order to a region; `None`, and left out, for a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<DrainOrder>,
}

/// An order to the nodes of a region, and who has read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainOrder {
    /// The nodes that have read it.
    pub read: Vec<String>,
    /// The nodes that it is for and that hadn't read it by the time that was waited: they do if they can within
    /// `counts_ms`.
    pub unread: Vec<String>,
    /// From when it was given until it counts no more, in milliseconds.
    pub counts_ms: u64,
    /// Why a list of nodes couldn't be read or didn't take the order, if one was reached at least. Empty, and left out,
    /// if none was missed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}
