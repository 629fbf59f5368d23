//! How long what waits will take, by what has been measured. Pure.

use std::time::Duration;

use super::pace::{Outcome, Returned};

/// The weight of the newest measurement.
const NEWEST: f64 = 0.125;

/// The bounds of what a client is asked to wait.
const RETRY: std::ops::RangeInclusive<u64> = 1..=60;

/// How fast a pool works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backlog {
    concurrency: usize,
    /// Items of a batch that could have been full; the most that one may have, before any was seen.
    size: f64,
    /// Seconds that a batch takes; `None` before any has come back with an answer.
    took: Option<f64>,
}

impl Backlog {
    pub(super) fn new(size_max: usize, concurrency: usize) -> Self {
        // Sizes are far smaller than the first integer that an f64 can't hold.
        Self { concurrency: concurrency.max(1), size: size_max.max(1) as f64, took: None }
    }

    /// Notes the size of a batch, where more than a full one was waiting.
    pub(super) fn on_full(&mut self, items: usize) {
        self.size += (items as f64 - self.size) * NEWEST;
    }

    /// Notes how long a batch took. Failures come faster or slower than answers, and say nothing about those.
    pub(super) fn on_batch(&mut self, returned: &Returned) {
        if returned.outcome == Outcome::Responded {
            let took = returned.took.as_secs_f64();
            self.took = Some(self.took.map_or(took, |known| known + (took - known) * NEWEST));
        }
    }

    #[cfg(test)]
    fn service(&self) -> Option<Duration> {
        self.took.and_then(|took| Duration::try_from_secs_f64(took).ok())
    }

    /// Returns how long it takes at least until the last of so many items has its response, if they are sent first.
    pub(super) fn finish(&self, items: usize) -> Option<Duration> {
        let batches = (items as f64 / self.size).ceil();
        let rounds = (batches / self.concurrency as f64).ceil();
        self.took.and_then(|took| Duration::try_from_secs_f64(took * rounds).ok())
    }

    /// Returns when it makes sense to ask again while so many items wait: when they are served, in whole seconds.
    pub(super) fn retry_after(&self, items: usize) -> Duration {
        let batches = (items as f64 / self.size).ceil();
        let seconds = self.took.unwrap_or_default() * batches / self.concurrency as f64;
        // The cast saturates.
        Duration::from_secs((seconds.ceil() as u64).clamp(*RETRY.start(), *RETRY.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returned(millis: u64, outcome: Outcome) -> Returned {
        Returned { items: 1, took: Duration::from_millis(millis), outcome, endpoint: None }
    }

    #[test]
    fn the_time_to_ask_again_is_that_of_the_backlog_within_bounds() {
        // items of a batch, its milliseconds, concurrency, items waiting, seconds
        for (size, millis, concurrency, items, wanted) in [
            (32, 50, 1, 0, 1),
            (32, 50, 1, 4_096, 7),
            (32, 50, 4, 4_096, 2),
            (32, 50, 1, 1_000_000, 60),
            (1, 1_000, 1, 3, 3),
            (1, 1_001, 1, 3, 4),
        ] {
            let mut backlog = Backlog::new(size, concurrency);
            assert_eq!(backlog.retry_after(items), Duration::from_secs(1), "nothing is known yet");
            backlog.on_batch(&returned(millis, Outcome::Responded));
            assert_eq!(backlog.retry_after(items), Duration::from_secs(wanted), "{items} of {size}");
        }
    }

    #[test]
    fn what_is_measured_follows_the_model_and_ignores_failures() {
        let mut backlog = Backlog::new(32, 2);
        assert_eq!((backlog.service(), backlog.finish(5)), (None, None));
        backlog.on_batch(&returned(100, Outcome::Responded));
        backlog.on_batch(&returned(1, Outcome::Failed));
        assert_eq!(backlog.service(), Some(Duration::from_millis(100)));
        for (items, rounds) in [(1, 1), (32, 1), (64, 1), (65, 2), (129, 3)] {
            assert_eq!(backlog.finish(items), Some(Duration::from_millis(100 * rounds)), "{items}");
        }
        for _ in 0..100 {
            backlog.on_batch(&returned(10, Outcome::Responded));
            backlog.on_full(8);
        }
        let rounds = backlog.finish(64).unwrap().as_secs_f64() / backlog.service().unwrap().as_secs_f64();
        assert!(backlog.service().unwrap() < Duration::from_millis(11) && (rounds - 4.0).abs() < 1.1, "{rounds}");
    }
}
