//! How often a fault that may come with every look-up is logged.

use std::time::Duration;

use crate::clock::Uptime;

/// At most one line in this time.
const PAUSE: Duration = Duration::from_secs(60);

/// Lets one line a minute through, and counts what it holds back.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    /// From when on the next line is let through.
    next: Uptime,
    held_back: u64,
}

impl Seldom {
    /// Whether an event is to be logged now: with the number of those before it that weren't.
    pub(super) fn admit(&mut self, now: Uptime) -> Option<u64> {
        if now < self.next {
            self.held_back += 1;
            return None;
        }
        self.next = now.plus(PAUSE);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_and_then_one_a_minute_with_the_count_of_the_others() {
        let mut seldom = Seldom::default();
        for (at, wanted) in [
            (5_000, Some(0)),
            (5_000, None),
            (64_999, None),
            (65_000, Some(2)),
            (65_001, None),
            (500_000, Some(1)),
            (560_000, Some(0)),
        ] {
            assert_eq!(seldom.admit(Uptime(at)), wanted, "at {at}");
        }
    }
}
