//! How a policy fails.

use thiserror::Error;

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
    /// The component returned its own error.
    #[error("returned fault {code}: {detail}")]
    Own {
        /// The component's code.
        code: u16,
        /// The component's words, shortened.
        detail: String,
    },
    /// No instance was to be had: too many busy, or instantiation failed.
    #[error("no instance: {0}")]
    NoInstance(String),
    /// The policy faulted too often and isn't called at present.
    #[error("not asked: its breaker is open")]
    Open,
}

impl Fault {
    /// The words of [`Fault::kind`].
    pub const KINDS: [&str; 7] = ["trap", "overrun", "too-large", "malformed", "fault", "no-instance", "breaker-open"];

    /// Returns a word for metrics and `Cache-Status`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        Self::KINDS[self.index()]
    }

    /// Returns the place of its kind in [`Fault::KINDS`].
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
}
