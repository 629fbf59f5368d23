//! The outcome of a purge: `POST /purge`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Problem;

/// The outcome of a purge, node by node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeReport {
    /// Whether no node can serve what was purged any more: none is missing.
    pub complete: bool,
    /// The nodes that it was for: `node`, `region` or `world`. Empty from a node of a version before there were scopes.
    #[serde(default)]
    pub scope: String,
    /// Where the purge is in the log.
    pub position: String,
    /// Nodes that have applied it, those of the world's log as `REGION/NODE`.
    pub applied: Vec<String>,
    /// Nodes that are out of touch, and revalidate what was stored before the purge before they serve it.
    pub expired: Vec<String>,
    /// Nodes of neither kind when the time was up.
    pub missing: Vec<String>,
    /// The regions of the world, and whether none of their nodes is missing. Empty, and left out, for other scopes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub regions: BTreeMap<String, bool>,
}

/// A purge that is in the log, but not complete: a problem (RFC 9457) with the members of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncompletePurge {
    /// The problem.
    #[serde(flatten)]
    pub problem: Problem<'static>,
    /// Which nodes are missing.
    #[serde(flatten)]
    pub report: PurgeReport,
}
