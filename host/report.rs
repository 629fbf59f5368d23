//! The state of a node as plain values: the JSON of the admin API.
//! The rooms fill these types, `admin` writes them, and the command line reads them again, so that there is one
//! definition of each. They have no behaviour, and any room may use them.
//!
//! A reader ignores members it doesn't know: a node may be of a later version. A word that may have further values one
//! day, such as a generation's state, is therefore text and not an enum.

mod batching;
mod config;
mod node;
mod policy;
mod pool;
mod problem;
mod purge;
mod why;

pub use self::{
    batching::{BatchingInfo, FitInfo, ModelInfo, PointInfo, TenantInfo},
    config::{ConfigChange, ConfigFinding, ConfigInfo, ConfigReload, RefusedConfig},
    node::{DrainInfo, DrainOrder, IncompleteSignOff, NodeFacts, NodeInfo, NodesInfo, Readiness, SignedOff},
    policy::{
        ArmInfo, EndedTrial, Estimate, Event, Example, ExperimentInfo, GenerationInfo, HookInfo, Loaded, PolicyInfo,
        TrialHookInfo, TrialInfo,
    },
    pool::{EndpointInfo, PoolInfo},
    problem::Problem,
    purge::{IncompletePurge, PurgeReport},
    why::{WhyDifference, WhyInput, WhyLookup, WhyNearest, WhyReport, WhyRoute, WhyRule, WhyStored},
};
