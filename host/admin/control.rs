//! The operations of the node that the admin API serves.

use std::pin::Pin;

use super::{
    config::ConfigFailure,
    drain::{Drain, DrainFailure},
    policy::{PolicyAction, PolicyFailure},
    purge::{Purge, PurgeFailure},
    why::Why,
};
use crate::report::{
    BatchingInfo, ConfigInfo, ConfigReload, DrainInfo, Loaded, NodesInfo, PolicyInfo, PoolInfo, PurgeReport, WhyReport,
};

/// A future that a [`Control`] returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The outcome of signing off a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignOffReport {
    /// Processes of that name that purges no longer wait for.
    pub signed_off: usize,
    /// Processes of that name for which there was no time; `None` if there was no time to count them.
    pub left: Option<usize>,
}

/// The operations of the node that the admin API serves.
pub trait Control: Send + Sync {
    /// Purges, and waits until the region's live nodes have applied it or the time for that is up.
    fn purge(&self, purge: Purge) -> BoxFuture<'_, Result<PurgeReport, PurgeFailure>>;

    /// Signs a node of the region off that is known not to serve any more, as far as the time for a purge allows.
    fn sign_off(&self, node: String) -> BoxFuture<'_, Result<SignOffReport, PurgeFailure>>;

    /// Returns what would be done with a request now, and why.
    fn why(&self, why: Why) -> BoxFuture<'_, WhyReport>;

    /// Whether this node may be sent requests.
    ///
    /// # Errors
    /// The reasons why not, as text.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// Returns all metrics as OpenMetrics text, version 1.0.0.
    fn metrics(&self) -> String;

    /// Returns the pools, their endpoints and their state.
    fn pools(&self) -> Vec<PoolInfo>;

    /// Returns how long the batches of each pool took; pools that had none are left out.
    fn batching(&self) -> Vec<BatchingInfo>;

    /// Returns the nodes of the region, as far as this one has heard of them.
    fn nodes(&self) -> NodesInfo;

    /// Has the node, or all of its region, stop after a delay, or calls that off.
    fn drain(&self, drain: Drain) -> BoxFuture<'_, Result<DrainInfo, DrainFailure>>;

    /// Returns the policies and their generations.
    fn policies(&self) -> Vec<PolicyInfo>;

    /// Loads, promotes or rolls back a policy, and returns the generation with its state.
    fn policy(&self, name: String, action: PolicyAction) -> BoxFuture<'_, Result<Loaded, PolicyFailure>>;

    /// Returns the configuration that holds, without secrets.
    fn config(&self) -> ConfigInfo;

    /// Reads the configuration's file again, and adopts it as a whole.
    fn reload(&self) -> BoxFuture<'_, Result<ConfigReload, ConfigFailure>>;
}
