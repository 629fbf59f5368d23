//! How purging fails.

use thiserror::Error;

use super::extent::Extent;

/// Why a purge could not be made, or the table not opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The durable table failed.
    #[error("the purge table on disk: {0}")]
    Journal(String),
    /// A prefix that no stored response has a tag for.
    #[error("a prefix has fewer than {} segments", crate::message::target::PREFIXES_MAX)]
    Prefix,
    /// The log can't be reached; the purge may or may not take effect, and is to be made again.
    #[error("the purge log can't be reached, make the purge again: {0}")]
    Log(String),
    /// The node has no log of that extent, or nowhere to keep such a purge. Nothing was purged.
    #[error(
        "the scope `{wanted}` is not one of this node: `node` takes a disk tier where there is a Redis, `region` a Redis, \
         `world` the table `[global]`; allowed is {allowed}"
    )]
    Extent {
        /// What was wanted.
        wanted: Extent,
        /// What there is, as text.
        allowed: String,
    },
    /// Another process has the purges of this node from now on.
    #[error("another process takes this one's place, make the purge again")]
    Succeeded,
}
