//! Why a configuration that was read again isn't adopted.

use axum::http::StatusCode;
use thiserror::Error;

use super::reply::problem;
use crate::report::{ConfigFinding, RefusedConfig};

/// Why a configuration isn't adopted. Nothing has changed then.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigFailure {
    /// There is no file to be read.
    #[error("the node was started from flags: there is no file to be read again")]
    NoFile,
    /// The file is wrong.
    #[error("{}", lines(.0))]
    Invalid(Vec<ConfigFinding>),
    /// These keys have other values, which hold after a restart.
    #[error("needs a restart: {}", .0.join(", "))]
    NeedsRestart(Vec<String>),
    /// Something of it can't be made.
    #[error("{0}")]
    Refused(String),
}

impl ConfigFailure {
    /// Returns the status of the response, and its body.
    pub(super) fn report(self) -> (StatusCode, RefusedConfig) {
        let detail = match &self {
            Self::Invalid(_) => "the configuration is wrong; nothing has changed".to_owned(),
            Self::NoFile => self.to_string(),
            Self::NeedsRestart(_) | Self::Refused(_) => format!("{self}; nothing has changed"),
        };
        let (status, findings, needs_restart) = match self {
            Self::Invalid(findings) => (StatusCode::UNPROCESSABLE_ENTITY, findings, Vec::new()),
            Self::NeedsRestart(keys) => (StatusCode::CONFLICT, Vec::new(), keys),
            Self::NoFile | Self::Refused(_) => (StatusCode::CONFLICT, Vec::new(), Vec::new()),
        };
        (status, RefusedConfig { problem: problem(status, detail), findings, needs_restart })
    }
}

fn lines(findings: &[ConfigFinding]) -> String {
    let line = |finding: &ConfigFinding| match &finding.allowed {
        Some(allowed) => format!("{}: {} ({allowed})", finding.place, finding.message),
        None => format!("{}: {}", finding.place, finding.message),
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}
