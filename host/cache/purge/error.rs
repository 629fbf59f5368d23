//! How purging fails.

use thiserror::Error;

/// Why a purge could not be made, or the table not opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The durable table failed.
    #[error("the purge table on disk: {0}")]
    Journal(String),
    /// A prefix that no stored response has a tag for.
    #[error("a prefix has fewer than {} segments", crate::message::target::PREFIXES_MAX)]
    Prefix,
    /// The region's log can't be reached; the purge may or may not take effect, and is to be made again.
    #[error("the region's purge log can't be reached, make the purge again: {0}")]
    Log(String),
    /// Another process has the purges of this node from now on.
    #[error("another process takes this one's place, make the purge again")]
    Succeeded,
}
