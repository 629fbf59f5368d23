//! The configuration: `GET /config` and `POST /config/reload`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Problem;
use crate::clock::Timestamp;

/// The configuration that holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigInfo {
    /// How many configurations the node has had, this one included.
    pub generation: u64,
    /// Since when it holds, in milliseconds since 1970.
    pub since: Timestamp,
    /// The file that it was read from; `None` if it came from flags.
    pub file: Option<String>,
    /// Tables and keys as in a file, with every default and without secrets.
    pub config: Value,
}

/// A key that has another value in another configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// The key, with its tables.
    pub key: String,
    /// The former value; `None` if there was none. A table if it is a listener, a pool, a policy or a route as a whole.
    pub old: Option<Value>,
    /// The new value, of the same kinds.
    pub new: Option<Value>,
    /// Whether a running node can't take it.
    pub needs_restart: bool,
}

/// A configuration that was read again and adopted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigReload {
    /// How many configurations the node has had, this one included. The same as before if nothing has changed.
    pub generation: u64,
    /// What has changed.
    pub changes: Vec<ConfigChange>,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFinding {
    /// File, line and column; the file alone if something is missing altogether.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What is allowed, if that can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

/// A configuration that was refused: a problem (RFC 9457) with everything that is wrong. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedConfig {
    /// The problem.
    #[serde(flatten)]
    pub problem: Problem<'static>,
    /// What is wrong with the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<ConfigFinding>,
    /// Keys whose new values need a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<String>,
}
