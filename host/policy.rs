//! What a policy is asked and what it answers, in plain values, and the native default.
//! The `plugin` room implements [`Policy`] with WebAssembly; nothing else knows that.

pub mod facts;
pub mod key;

use std::{borrow::Cow, fmt};

use thiserror::Error;

pub use facts::{Facts, Input};
pub use key::{KeyPlan, KeyVerdict, Material};

/// A loaded policy of one generation. Calls are synchronous and bounded in time by the implementation.
pub trait Policy: Send + Sync + fmt::Debug {
    /// Name and generation as they appear in `Cache-Status` and the access log: `tenant-key@1a2b3c4d`.
    fn label(&self) -> &str;

    /// Name and version of the component, as its author gave them: `tenant-key 0.1.0`.
    fn version(&self) -> &str;

    /// How the key is made; known at load, so that a recipe costs no call.
    fn key_plan(&self) -> &KeyPlan;

    /// Derives key material from the values of [`KeyPlan::Call`]'s inputs, in their order, as [`Facts::read`] gives them.
    ///
    /// # Errors
    /// A [`Fault`], counted by the implementation; the caller falls back as the route says.
    fn derive_key(&self, values: &[Option<Cow<'_, [u8]>>]) -> Result<KeyVerdict, Fault>;
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
    /// A word for metrics and `Cache-Status`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Trap(_) => "trap",
            Self::Overrun { .. } => "overrun",
            Self::TooLarge { .. } => "too-large",
            Self::Own { .. } => "fault",
            Self::NoInstance(_) => "no-instance",
            Self::Open => "breaker-open",
        }
    }
}
