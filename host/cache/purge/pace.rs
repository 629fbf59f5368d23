//! When a node that purges looks at the list of members next, and how many reports a node has under way. Pure.
//!
//! Where it hears what they report, a look is for what nobody says: that a fence is over, that a member was signed off,
//! that the log has lost the purge. Else it is how it learns who has applied the purge.

use std::time::Duration;

use crate::clock::Uptime;

/// Between the first two looks, where nothing is heard; then twice as long each time, up to the other.
const ASK: Duration = Duration::from_millis(2);
const ASK_MAX: Duration = Duration::from_millis(64);

/// The same where it hears what members report.
const CHECK: Duration = Duration::from_millis(250);
const CHECK_MAX: Duration = Duration::from_millis(1_000);

/// Reports of a node that are under way at a time. What is applied meanwhile is in the next one.
const REPORTS_MAX: usize = 4;

/// A log that takes so long for a report has more to do than it can. Fewer that say more help it.
const SLOW: Duration = Duration::from_millis(250);

/// Returns how many reports may be under way at a time if the last one took so long.
#[must_use]
pub fn reports_max(took: Duration) -> usize {
    if took < SLOW { REPORTS_MAX } else { 1 }
}

/// How long it is until the next look.
#[derive(Debug)]
pub struct Pace {
    ask: Duration,
    check: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { ask: ASK, check: CHECK }
    }
}

impl Pace {
    /// Returns when to look again after a look that ended at `now`. `is_heard` says that what members report of the purge
    /// is heard, and `due` when time alone may make it complete.
    pub fn next(&mut self, now: Uptime, is_heard: bool, due: Option<Uptime>) -> Uptime {
        let (pause, longest) = if is_heard { (&mut self.check, CHECK_MAX) } else { (&mut self.ask, ASK_MAX) };
        let next = now.plus(*pause);
        *pause = longest.min(*pause * 2);
        due.map_or(next, |due| next.min(due.max(now.plus(ASK))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_frequent_only_where_nothing_is_heard() {
        let mut pace = Pace::default();
        let mut pauses = |is_heard| {
            let pause = |_| pace.next(Uptime(1_000), is_heard, None).0 - 1_000;
            (0..8).map(pause).collect::<Vec<u64>>()
        };
        assert_eq!(pauses(false), [2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(pauses(true), [250, 500, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000]);
        assert_eq!(pauses(false)[0], 64);
    }

    #[test]
    fn a_slow_log_gets_one_report_of_a_node_at_a_time() {
        for (took_ms, wanted) in [(0, 4), (160, 4), (249, 4), (250, 1), (5_000, 1)] {
            assert_eq!(reports_max(Duration::from_millis(took_ms)), wanted, "{took_ms} ms");
        }
    }

    #[test]
    fn a_look_is_never_later_than_the_time_at_which_a_fence_is_over() {
        for (due, wanted) in [(1_100, 1_100), (1_250, 1_250), (1_251, 1_250), (1_000, 1_002), (900, 1_002)] {
            let next = Pace::default().next(Uptime(1_000), true, Some(Uptime(due)));
            assert_eq!(next, Uptime(wanted), "due at {due}");
        }
    }
}
