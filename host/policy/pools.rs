//! How pools do, as policies see it.

use std::fmt;

/// How a pool does at present: times and rates of its last responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PoolStats {
    /// Members.
    pub endpoints: u32,
    /// Members that take requests.
    pub healthy: u32,
    /// Requests that hold a connection.
    pub inflight: u32,
    /// Requests that wait for one.
    pub queued: u32,
    /// Median time to the response's head, in microseconds.
    pub p50_us: u64,
    /// The same, of 99 in a hundred.
    pub p99_us: u64,
    /// Failed requests in a million.
    pub error_ppm: u32,
}

/// Tells how pools do.
pub trait Pools: Send + Sync + fmt::Debug {
    /// Returns the state of the pool of this name.
    fn stats(&self, pool: &str) -> Option<PoolStats>;
}
