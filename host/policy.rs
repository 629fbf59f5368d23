//! What a policy is asked and what it answers, in plain values, and the native default.
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
pub mod tokens;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

pub use decision::{Admission, Candidate, Choice, Decision, Grouping, Hint, KeyVerdict, Question, Shape, Storage};
pub use experiment::Experiment;
pub use facts::{Answer, Facts, Input};
pub use fault::Fault;
pub use hook::Hook;
pub use key::KeyPlan;
pub use material::Material;
pub use notes::{Arm, Notes};
pub use pools::{PoolStats, Pools};

use crate::{clock::Timestamp, message::RequestHead};

/// A loaded policy of one generation. Calls are synchronous and bounded in time by the implementation.
pub trait Policy: Send + Sync + fmt::Debug {
    /// Name and generation as they appear in `Cache-Status` and the access log: `tenant-key@1a2b3c4d`.
    fn label(&self) -> &Arc<str>;

    /// How the key is made; known at load, so that a recipe costs no call.
    fn key_plan(&self) -> &KeyPlan;

    /// A digest of what its key material means: of its recipe, or of the component's name, version and inputs. Part of
    /// every key that it makes, so that what one recipe or version stored is not found by another.
    fn meaning(&self) -> &[u8; 32];

    /// What a hook reads; `None` if the policy doesn't have it. For a recipe, the inputs of its parts.
    fn reads(&self, hook: Hook) -> Option<&[Input]>;

    /// The experiments it declares.
    fn experiments(&self) -> &[Experiment];

    /// Answers a question from the values of the hook's inputs, in their order, as [`Facts::read`] gives them. The
    /// answer is good until `until`, if one of them changes by itself. [`consult`] reads the values.
    ///
    /// # Errors
    /// A [`Fault`], counted by the implementation; the caller falls back as the route says.
    fn decide(
        &self,
        question: &Question<'_>,
        values: &[Option<Cow<'_, [u8]>>],
        until: Option<Timestamp>,
    ) -> Result<Arc<Decision>, Fault>;

    /// Takes how a request went whose arms were drawn.
    fn observe(&self, arms: &[Arm], outcome: &Outcome);

    /// Does any hook read the body?
    fn needs_body(&self) -> bool;
}

/// How a request went, for the arms it was in.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Answered from the cache.
    pub hit: bool,
    /// From the request's head to the response's end.
    pub latency: Duration,
    /// What the candidate that answered costs; 0 for what the cache answered.
    pub cost_micro: u64,
}

/// A policy whose generations come and go while requests are under way.
pub trait Roster: Send + Sync + fmt::Debug {
    /// The generation that decides for a request, for all of its way.
    fn choose(&self, request: &RequestHead) -> Chosen;

    /// Takes how an origin did with a request that a generation decided for: `failed` if it gave no response or one of
    /// 5xx.
    fn origin_responded(&self, failed: bool);
}

/// Who decides for one request.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The generation.
    pub policy: Arc<dyn Policy>,
    /// Asked instead if that faults: the active one, where `policy` is a canary.
    pub instead: Option<Arc<dyn Policy>>,
    /// A generation whose decisions are compared with `policy`'s; where `policy` is a canary, the comparison of its
    /// keys with the active one's.
    pub shadow: Option<Arc<dyn Shadow>>,
}

/// A generation that is tried on live traffic without a say.
pub trait Shadow: Send + Sync + fmt::Debug {
    /// Whether decisions of this hook are compared.
    fn compares(&self, hook: Hook) -> bool;

    /// Is told what was asked and what was decided (`None`: nothing, the policy doesn't have the hook), and finds out by
    /// itself, later, what it would have said. Of a canary's key `decided` isn't looked at.
    fn witness(&self, question: &Question<'_>, facts: &Facts<'_>, decided: Option<&Result<Arc<Decision>, Fault>>);
}
