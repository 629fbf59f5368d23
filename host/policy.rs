//! Calls of policies and their decisions, in plain values, and the native defaults.
//! The `plugin` room implements [`Policy`] with WebAssembly; nothing else knows that.

pub mod consult;
pub mod decision;
pub mod difference;
pub mod edit;
pub mod experiment;
pub mod facts;
mod fault;
pub mod fields;
pub mod hook;
mod json;
pub mod key;
mod material;
mod notes;
pub mod partition;
mod pools;
pub mod query;
pub mod tenancy;
pub mod tokens;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

pub use decision::{
    Admission, Candidate, Choice, Decision, Grouping, Hint, HookCall, KeyVerdict, RequestEdits, Storage,
};
pub use experiment::Experiment;
pub use facts::{Facts, Input, ResponseFacts};
pub use fault::Fault;
pub use hook::Hook;
pub use key::KeyPlan;
pub use material::Material;
pub use notes::{Arm, Notes};
pub use pools::{PoolStats, Pools};

use crate::{clock::Timestamp, message::RequestHead};

/// A loaded policy of one generation. Calls are synchronous and bounded in time by the implementation.
pub trait Policy: Send + Sync + fmt::Debug {
    /// Returns name and generation as they appear in `Cache-Status` and the access log: `tenant-key@1a2b3c4d`.
    fn label(&self) -> &Arc<str>;

    /// Returns how the key is made; known at load, so that a recipe costs no call.
    fn key_plan(&self) -> &KeyPlan;

    /// Returns a digest of what its key material means: of its recipe, or of the component's name, version and inputs.
    /// Part of every key that it makes, so that what one recipe or version stored is not found by another.
    fn meaning(&self) -> &[u8; 32];

    /// Returns the inputs of a hook; `None` if the policy doesn't have it. For a recipe, the inputs of its parts.
    fn reads(&self, hook: Hook) -> Option<&[Input]>;

    /// Returns the experiments it declares.
    fn experiments(&self) -> &[Experiment];

    /// Returns the verdict of a hook on the values of its inputs, in their order, as [`Facts::read`] gives them. The
    /// verdict is valid until `until`, if one of them changes by itself. [`consult`] reads the values.
    ///
    /// # Errors
    /// A [`Fault`], counted by the implementation; the caller falls back as the route says.
    fn decide(
        &self,
        call: &HookCall<'_>,
        values: &[Option<Cow<'_, [u8]>>],
        until: Option<Timestamp>,
    ) -> Result<Arc<Decision>, Fault>;

    /// Records the outcome of a request whose arms were drawn.
    fn observe(&self, arms: &[Arm], outcome: &Outcome);

    /// Whether any hook reads the body.
    fn needs_body(&self) -> bool;
}

/// The outcome of a request, for the arms it was in.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Whether it was served from the cache.
    pub hit: bool,
    /// From the request's head to the response's end.
    pub latency: Duration,
    /// The cost of the candidate that responded; 0 for what was served from the cache.
    pub cost_micro: u64,
}

/// A policy whose generations come and go while requests are under way.
pub trait Roster: Send + Sync + fmt::Debug {
    /// Returns the generation that decides for a request, in every hook.
    fn choose(&self, request: &RequestHead) -> Chosen;

    /// Returns the generation that would decide, without a shadow: nothing is counted, and no trial is judged.
    fn preview(&self, request: &RequestHead) -> Chosen;

    /// Records the origin's response to a request that a generation decided for: `failed` if there was none or one of
    /// 5xx.
    fn origin_responded(&self, failed: bool);
}

/// The generation that decides for one request.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The generation.
    pub policy: Arc<dyn Policy>,
    /// The generation that decides if that faults: the active one, where `policy` is a canary.
    pub fallback: Option<Arc<dyn Policy>>,
    /// A generation whose decisions are compared with `policy`'s; where `policy` is a canary, the comparison of its
    /// keys with the active one's.
    pub shadow: Option<Arc<dyn Shadow>>,
}

/// A generation that is tried on live traffic without deciding anything.
pub trait Shadow: Send + Sync + fmt::Debug {
    /// Whether decisions of this hook are compared.
    fn compares(&self, hook: Hook) -> bool;

    /// Takes a call and its decision (`None`: the policy doesn't have the hook), to compare it later with its own. Of a
    /// canary's key `decided` isn't used.
    fn witness(&self, call: &HookCall<'_>, facts: &Facts<'_>, decided: Option<&Result<Arc<Decision>, Fault>>);
}
