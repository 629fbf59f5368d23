//! The outcome of a purge: `POST /purge`.

use serde::{Deserialize, Serialize};

use super::Problem;

/// The outcome of a purge, node by node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeReport {
    /// Whether no node can serve what was purged any more: none is missing.
    pub complete: bool,
    /// Where the purge is in the region's log.
    pub position: String,
    /// Nodes that have applied it.
    pub applied: Vec<String>,
    /// Nodes that are out of touch, and revalidate what was stored before the purge before they serve it.
    pub expired: Vec<String>,
    /// Nodes of neither kind when the time was up.
    pub missing: Vec<String>,
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
