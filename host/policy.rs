//! What a policy is asked and what it answers, in plain values, and the native default.
//! The `plugin` room implements [`Policy`] with WebAssembly; nothing else knows that.

pub mod consult;
pub mod decision;
pub mod difference;
pub mod edit;
pub mod experiment;
pub mod facts;
pub mod fields;
pub mod hook;
mod json;
pub mod key;
mod notes;
pub mod partition;
pub mod tokens;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use thiserror::Error;

pub use decision::{Admission, Candidate, Choice, Decision, Grouping, Hint, PoolStats, Question, Shape, Storage};
pub use experiment::Experiment;
pub use facts::{Answer, Facts, Input, Pools};
pub use hook::Hook;
pub use key::{KeyPlan, KeyVerdict, Material};
pub use notes::{Arm, Notes};

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

/// Why a policy gave no verdict.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// The component trapped.
    #[error("trapped: {0}")]
    Trap(String),
    /// The call took longer than its limit.
    #[error("took longer than {limit_us} µs")]
    Overrun {
        /// The limit in microseconds.
        limit_us: u64,
    },
    /// The verdict is over a limit.
    #[error("result of {bytes} bytes or more is over the limit of {limit}")]
    TooLarge {
        /// Size met.
        bytes: usize,
        /// `result_bytes_max`.
        limit: usize,
    },
    /// The verdict makes no sense.
    #[error("its verdict is malformed: {0}")]
    Malformed(String),
    /// The component answered with its own error.
    #[error("answered with fault {code}: {detail}")]
    Own {
        /// The component's code.
        code: u16,
        /// The component's words, shortened.
        detail: String,
    },
    /// No instance was to be had: too many busy, or instantiation failed.
    #[error("no instance: {0}")]
    NoInstance(String),
    /// The policy faulted too often and isn't asked at present.
    #[error("not asked: its breaker is open")]
    Open,
}

impl Fault {
    /// The words of [`Fault::kind`].
    pub const KINDS: [&str; 7] = ["trap", "overrun", "too-large", "malformed", "fault", "no-instance", "breaker-open"];

    /// A word for metrics and `Cache-Status`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        Self::KINDS[self.index()]
    }

    /// The place of its kind in [`Fault::KINDS`].
    #[must_use]
    pub const fn index(&self) -> usize {
        match self {
            Self::Trap(_) => 0,
            Self::Overrun { .. } => 1,
            Self::TooLarge { .. } => 2,
            Self::Malformed(_) => 3,
            Self::Own { .. } => 4,
            Self::NoInstance(_) => 5,
            Self::Open => 6,
        }
    }

    /// A policy that answers another hook's question; implementations rule it out.
    #[must_use]
    pub fn mismatch(asked: Hook, answered: &Decision) -> Self {
        Self::Malformed(format!("{} was asked, {} answered", asked.name(), answered.hook().name()))
    }
}
