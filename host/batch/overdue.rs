//! Batches under way that take far longer than expected. Their endpoint has probably stopped: it accepts, and never
//! responds. Until its time is over such a batch has a slot of the pool, which nothing comes of, while other endpoints
//! could use it. So it counts no more, but never so many that a pool without any working endpoint is sent more and
//! more. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// When a batch is overdue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverdueRule {
    /// How many times as long as expected it may take; 0 means any time.
    pub factor: u32,
    /// How long it may take in any case.
    pub least: Duration,
    /// Overdue batches that don't count. There must be an endpoint left for the others.
    pub overlooked_max: usize,
}

/// The batches under way.
#[derive(Debug)]
pub(super) struct Overdue {
    rule: OverdueRule,
    /// No more than a pool has slots, and those that are overlooked.
    batches: Vec<Batch>,
}

#[derive(Debug)]
struct Batch {
    class: u64,
    sent: Instant,
    /// From then on it is overdue; `None` if nothing was expected.
    due: Option<Instant>,
}

impl Overdue {
    pub(super) const fn new(rule: OverdueRule) -> Self {
        Self { rule, batches: Vec::new() }
    }

    const fn is_off(&self) -> bool {
        self.rule.factor == 0 || self.rule.overlooked_max == 0
    }

    /// Notes that a batch of a class is sent, which is expected to take so long.
    pub(super) fn sent(&mut self, class: u64, expected: Option<Duration>, now: Instant) {
        if !self.is_off() {
            let patience = expected.map(|expected| expected.saturating_mul(self.rule.factor).max(self.rule.least));
            let due = patience.and_then(|patience| now.checked_add(patience));
            self.batches.push(Batch { class, sent: now, due });
        }
    }

    /// Notes that a batch of a class is back that was sent at about this time: by the clock of its own task, which is a
    /// little later.
    pub(super) fn back(&mut self, class: u64, sent: Instant) {
        let apart = |batch: &Batch| batch.sent.max(sent).saturating_duration_since(batch.sent.min(sent));
        let own = self.batches.iter().enumerate().filter(|(_, batch)| batch.class == class);
        if let Some((at, _)) = own.min_by_key(|(_, batch)| apart(batch)) {
            self.batches.swap_remove(at);
        }
    }

    /// Returns how many batches are overdue and count no more.
    pub(super) fn overlooked(&self, now: Instant) -> usize {
        let overdue = self.batches.iter().filter(|batch| batch.due.is_some_and(|due| due <= now));
        overdue.count().min(self.rule.overlooked_max)
    }

    /// Returns when a further batch will be overlooked unless one comes back; `None` if none will.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.batches.iter().filter_map(|batch| batch.due).filter(|due| *due > now).min();
        due.filter(|_| self.overlooked(now) < self.rule.overlooked_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_batch_is_overdue_after_a_multiple_of_what_was_expected_and_a_while_at_least() {
        let start = Instant::now();
        // The multiple, the least time, what is expected; when it is overdue, in milliseconds.
        for (factor, least, expected, wanted) in [
            (4, 100, Some(50), Some(200)),
            (4, 300, Some(50), Some(300)),
            (4, 100, None, None),
            (0, 100, Some(50), None),
        ] {
            let mut overdue = Overdue::new(OverdueRule { factor, least: MS(least), overlooked_max: 1 });
            overdue.sent(7, expected.map(MS), start);
            assert_eq!(overdue.next(start), wanted.map(|millis| start + MS(millis)), "{factor}, {least}");
            let late = wanted.unwrap_or(1_000_000);
            let counts = [late - 1, late].map(|millis| overdue.overlooked(start + MS(millis)));
            assert_eq!(counts, [0, usize::from(wanted.is_some())], "{factor}, {least}");
        }
    }

    #[test]
    fn only_so_many_are_overlooked_and_those_that_come_back_no_more() {
        let start = Instant::now();
        let mut overdue = Overdue::new(OverdueRule { factor: 2, least: MS(10), overlooked_max: 2 });
        for sent in [0, 10, 20] {
            overdue.sent(7, Some(MS(100)), start + MS(sent));
        }
        overdue.sent(8, Some(MS(100)), start + MS(10));
        assert_eq!(overdue.next(start), Some(start + MS(200)));
        let late = start + MS(1_000);
        assert_eq!((overdue.overlooked(late), overdue.next(late)), (2, None));
        for sent in [11, 20, 1] {
            overdue.back(7, start + MS(sent));
        }
        assert_eq!(overdue.overlooked(late), 1, "that of the other class");
        overdue.back(7, start + MS(10));
        assert_eq!(overdue.overlooked(late), 1, "none of its class is there");
        overdue.back(8, start + MS(12));
        assert_eq!(overdue.overlooked(late), 0);
    }

    #[test]
    fn the_only_endpoint_is_never_sent_more() {
        let start = Instant::now();
        let mut overdue = Overdue::new(OverdueRule { factor: 2, least: MS(10), overlooked_max: 0 });
        overdue.sent(7, Some(MS(1)), start);
        assert_eq!((overdue.overlooked(start + MS(9_000)), overdue.next(start)), (0, None));
    }
}
