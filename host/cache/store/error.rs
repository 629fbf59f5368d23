//! How opening the tiers fails.

/// Why the tiers could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk tier.
    #[error("the disk tier in {dir}: {reason}")]
    Disk {
        /// Its directory.
        dir: String,
        /// What the store says.
        reason: String,
    },
    /// Another process holds the disk tier's directory.
    #[error("the disk tier in {dir} is used by another node: give each node a directory of its own, or stop the other")]
    InUse {
        /// The directory.
        dir: String,
    },
    /// The Redis tier's URL.
    #[error("the Redis tier: {0}")]
    Redis(String),
}
