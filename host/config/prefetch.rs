//! Fetching ahead, as policies suggest it.

use std::time::Duration;

/// Fetching ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// Fetches under way at once.
    pub concurrency: usize,
    /// Fetches waiting; further ones are dropped and counted.
    pub queue_max: usize,
    /// How likely, in percent, a hint must be.
    pub confidence_percent_min: u32,
    /// How long the same hint isn't followed again.
    pub again: Duration,
    /// How long one fetch may take.
    pub time_max: Duration,
}
