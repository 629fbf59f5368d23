//! How long what waits will take, by what has been measured. Pure.

use std::time::Duration;

use super::pace::{Estimate, Outcome, Returned};

/// The weight of the newest measurement.
const NEWEST: f64 = 0.125;

/// The bounds of what a client is asked to wait.
const RETRY: std::ops::RangeInclusive<u64> = 1..=60;

/// How fast a pool works: by the cost that its pace has fitted, and without one by the mean of its batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backlog {
    /// Items of a batch that could have been full; the most that one may have, before any was seen.
    size: f64,
    /// Seconds that a batch takes; `None` before any has come back with an answer.
    took: Option<f64>,
}

impl Backlog {
    pub(super) const fn new(size_max: usize) -> Self {
        // Sizes are far smaller than the first integer that an f64 can't hold.
        Self { size: if size_max == 0 { 1.0 } else { size_max as f64 }, took: None }
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

    /// Returns the seconds that a batch of so many items takes; `None` before any has come back with a response.
    fn service(&self, items: f64, fitted: Option<&Estimate>) -> Option<f64> {
        let fitted = fitted.map(|fit| fit.fixed.as_secs_f64() + fit.per_item.as_secs_f64() * items);
        // Before anything was measured the line is zero.
        fitted.filter(|seconds| *seconds > 0.0).or(self.took)
    }

    /// Returns how many batches so many items make, and the seconds that each of them takes.
    fn batches(&self, items: usize, fitted: Option<&Estimate>) -> (f64, Option<f64>) {
        let batches = (items as f64 / self.size).ceil();
        (batches, self.service(items as f64 / batches.max(1.0), fitted))
    }

    /// Returns how long it takes at least until the last of so many items has its response, if they are sent first to
    /// so many slots.
    pub(super) fn finish(&self, items: usize, slots: usize, fitted: Option<&Estimate>) -> Option<Duration> {
        let (batches, service) = self.batches(items, fitted);
        let rounds = (batches / slots.max(1) as f64).ceil();
        service.and_then(|seconds| Duration::try_from_secs_f64(seconds * rounds).ok())
    }

    /// Returns when it makes sense to ask again while so many items wait for so many slots: when they are served, in
    /// whole seconds.
    pub(super) fn retry_after(&self, items: usize, slots: usize, fitted: Option<&Estimate>) -> Duration {
        let (batches, service) = self.batches(items, fitted);
        let seconds = service.unwrap_or_default() * batches / slots.max(1) as f64;
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
            let mut backlog = Backlog::new(size);
            let retry_after = |backlog: &Backlog| backlog.retry_after(items, concurrency, None);
            assert_eq!(retry_after(&backlog), Duration::from_secs(1), "nothing is known yet");
            backlog.on_batch(&returned(millis, Outcome::Responded));
            assert_eq!(retry_after(&backlog), Duration::from_secs(wanted), "{items} of {size}");
        }
    }

    #[test]
    fn the_fitted_cost_says_what_batches_of_the_size_that_waits_will_take() {
        let mut backlog = Backlog::new(32);
        // What came back so far was small.
        backlog.on_batch(&returned(120, Outcome::Responded));
        let fit = |fixed, per_item| Estimate {
            fixed: Duration::from_millis(fixed),
            per_item: Duration::from_millis(per_item),
            held: Duration::ZERO,
        };
        let known = fit(100, 20);
        for (items, millis) in [(1, 120), (32, 740), (64, 1_480), (40, 1_000)] {
            assert_eq!(backlog.finish(items, 1, Some(&known)), Some(Duration::from_millis(millis)), "{items}");
        }
        assert_eq!(backlog.retry_after(320, 2, Some(&known)), Duration::from_secs(4));
        assert_eq!(backlog.finish(32, 1, Some(&fit(0, 0))), Some(Duration::from_millis(120)), "nothing is fitted yet");
    }

    #[test]
    fn what_is_measured_follows_the_model_and_ignores_failures() {
        let mut backlog = Backlog::new(32);
        let finish = |backlog: &Backlog, items| backlog.finish(items, 2, None);
        assert_eq!(finish(&backlog, 5), None);
        backlog.on_batch(&returned(100, Outcome::Responded));
        backlog.on_batch(&returned(1, Outcome::Failed));
        for (items, rounds) in [(1, 1), (32, 1), (64, 1), (65, 2), (129, 3)] {
            assert_eq!(finish(&backlog, items), Some(Duration::from_millis(100 * rounds)), "{items}");
        }
        for _ in 0..100 {
            backlog.on_batch(&returned(10, Outcome::Responded));
            backlog.on_full(8);
        }
        let one = finish(&backlog, 1).unwrap();
        let rounds = finish(&backlog, 64).unwrap().as_secs_f64() / one.as_secs_f64();
        assert!(one < Duration::from_millis(11) && (rounds - 4.0).abs() < 1.1, "{rounds}");
    }
}
