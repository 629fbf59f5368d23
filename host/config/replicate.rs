//! Having responses in other regions before they are requested there.

use std::time::Duration;

use super::units::MIB;

/// Which stored responses of a route are announced to nodes of other regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicate {
    /// A response that has any of these tags is.
    pub tags: Vec<String>,
    /// So is one whose path lies at or below any of these, in their normal form.
    pub prefixes: Vec<String>,
    /// Names of the pools of nodes that they are announced to, one for each region; at least one.
    pub to: Vec<String>,
}

/// The limits of announcements, of those that are sent and of those that are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replication {
    /// Announcements that are being sent at once; none are sent if it is 0.
    pub concurrency: usize,
    /// Announcements that wait to be sent; further ones are dropped and counted.
    pub queue_max: usize,
    /// Bytes of these, and as many of those that wait to be fetched; further ones are dropped and counted.
    pub queue_bytes_max: usize,
    /// Bytes of the largest body that is announced.
    pub object_bytes_max: u64,
    /// How long sending one may take.
    pub send: Duration,
    /// Announced responses that are being fetched at once; none are taken if it is 0.
    pub fetch_concurrency: usize,
    /// Announced responses that wait to be fetched; further ones are refused and counted.
    pub fetch_queue_max: usize,
    /// How long fetching one may take, its body included.
    pub fetch: Duration,
}

impl Default for Replication {
    /// 8 announcements at once and 1,024 waiting, 1 MiB of them, of bodies up to 16 MiB, 5 s each; 4 fetches at once
    /// and 1,024 waiting, 30 s each.
    fn default() -> Self {
        Self {
            concurrency: 8,
            queue_max: 1_024,
            queue_bytes_max: 1 << 20,
            object_bytes_max: 16 * MIB,
            send: Duration::from_secs(5),
            fetch_concurrency: 4,
            fetch_queue_max: 1_024,
            fetch: Duration::from_secs(30),
        }
    }
}
