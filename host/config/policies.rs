//! Policies: where their components are, what they may use, and which generation decides.

use std::{path::PathBuf, time::Duration};

use http::HeaderName;

use super::Breaker;

/// What applies to all policies.
#[derive(Clone, Debug)]
pub struct Plugins {
    /// The directory of compiled components, so that a restart doesn't compile them again.
    pub cache_dir: Option<PathBuf>,
    /// Bytes of compiled components that are stored there; past it those used least recently are deleted.
    pub cache_bytes_max: u64,
    /// Whether a component is loaded again when its file changes.
    pub watch: bool,
}

/// A policy component.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The source of the component.
    pub source: PolicySource,
    /// The operator's table for `configure`, as JSON.
    pub config: String,
    /// The limits of an instance.
    pub limits: PolicyLimits,
    /// How verdicts are remembered.
    pub memo: Memo,
    /// How another generation takes over.
    pub rollout: Rollout,
}

/// How verdicts of a policy are remembered.
#[derive(Clone, Copy, Debug)]
pub struct Memo {
    /// Verdicts that are remembered, all hooks together; 0 remembers none.
    pub entries_max: usize,
    /// One remembered verdict in so many is checked by calling the policy again.
    pub check_every: u64,
}

/// How another generation of a policy takes over.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// What a new generation does first.
    pub mode: RolloutMode,
    /// Share of clients, in percent, that a canary decides for.
    pub canary_percent: u8,
    /// The header field that tells clients apart, beside their addresses.
    pub canary_header: Option<HeaderName>,
    /// How long a generation on trial must stay within its bounds before it takes over.
    pub hold: Duration,
    /// Calls that each of its hooks must have had by then.
    pub requests_min: u64,
    /// Share of a hook's calls that may fault, in a million.
    pub faults_ppm_max: u32,
    /// Share of a hook's decisions, in a million, that may be others: a shadow's; a canary's where requests newly share
    /// a response.
    pub disagreements_ppm_max: u32,
    /// Mean time of a hook's calls, in percent of the active generation's.
    pub latency_percent_max: u32,
    /// Share of the origin's last responses, in a million, that may have failed; while it is larger, a generation on
    /// trial doesn't take over.
    pub origin_failures_ppm_max: u32,
    /// Former generations that are kept to roll back to.
    pub kept_max: usize,
}

/// What a new generation does first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RolloutMode {
    /// It takes over at once.
    #[default]
    Swap,
    /// It is called beside the active one and decides nothing.
    Shadow,
    /// It decides for a share of the clients.
    Canary,
}

/// The source of a component.
#[derive(Clone, Debug)]
pub enum PolicySource {
    /// A `.wasm` file.
    File(PathBuf),
    /// Bytes that the program carries (`holm demo`).
    Embedded(&'static [u8]),
}

/// Limits of a policy's instances.
#[derive(Clone, Copy, Debug)]
pub struct PolicyLimits {
    /// Linear memory of one instance in bytes.
    pub memory_bytes_max: usize,
    /// Time of one call; past it the call is ended and its instance discarded.
    pub call: Duration,
    /// Time of `configure` and `plan`, once at load.
    pub load: Duration,
    /// Live instances.
    pub instances_max: usize,
    /// How long a call waits for an instance when all are busy.
    pub wait: Duration,
    /// Calls after which an instance is replaced.
    pub calls_max: u64,
    /// Bytes of one result.
    pub result_bytes_max: usize,
    /// Items of any list in a result, beside what the contract allows.
    pub result_items_max: usize,
    /// Messages that are written to the log in a second; further ones are dropped, and counted in the next.
    pub log_per_second_max: u32,
    /// When a hook that keeps faulting is no longer called.
    pub breaker: Breaker,
}
