//! The tiers by name, and what one of them replies.

use crate::cache::entry::Value;

/// Where a value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// This node's memory.
    Memory,
    /// This node's disk.
    Disk,
    /// The region's Redis.
    Redis,
}

impl Tier {
    /// A word for `Cache-Status` and the access log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Redis => "redis",
        }
    }
}

/// A tier's reply to a look-up.
#[derive(Clone, Debug)]
pub enum TierReply {
    /// It has this.
    Found(Value),
    /// It has nothing under the key, or nothing that can be read.
    Missing,
    /// It failed, or took too long: it may have the value.
    NoReply,
}
