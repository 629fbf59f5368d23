//! The minimum rate of a client: so many bytes in each window of the time that is spent waiting for it. Pure. A limit
//! on single pauses doesn't bound the whole: it starts anew with each byte.

use std::time::Duration;

use super::end::Reason;
use crate::{clock::millis, config::Timeouts, message::BodyError};

/// How many windows of the minimum rate a client may be waited for at most, whatever it has taken before.
const CREDIT_WINDOWS: u32 = 20;

/// What a client's system takes within this time of the first wait may lie in its buffers, unread.
pub(super) const SETTLING: Duration = Duration::from_millis(500);

/// How late a wait may be checked before the delay is this node's and not the client's.
const LATE: Duration = Duration::from_secs(1);

/// The minimum rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Bytes a second; 0 for no minimum.
    rate: u64,
    window: Duration,
}

impl Pace {
    /// Returns the configured minimum.
    pub(super) const fn of(timeouts: &Timeouts) -> Self {
        Self { rate: timeouts.rate_bytes_min, window: timeouts.rate_window }
    }

    /// Returns bytes that have to come within a window.
    pub(super) fn bytes_min(&self) -> u64 {
        let bytes = u128::from(self.rate) * self.window.as_millis() / 1000;
        // A rate that rounds to nothing is one byte.
        u64::try_from(bytes).unwrap_or(u64::MAX).max(u64::from(self.rate > 0))
    }

    /// Returns the window, if there is a minimum.
    pub(super) fn window(&self) -> Option<Duration> {
        (self.rate > 0).then_some(self.window)
    }

    /// Returns the time that so many bytes take at the minimum rate, if there is one.
    fn worth(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Returns the error of a body that is too slow.
    pub(super) fn error(&self) -> BodyError {
        BodyError::TooSlow { rate: self.rate, window_ms: millis(self.window) }
    }
}

/// What one client has sent, or read, in the current window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) pace: Pace,
    bytes: u64,
    waited: Duration,
}

impl Account {
    /// Returns an account at the start of a window.
    pub(super) const fn new(pace: Pace) -> Self {
        Self { pace, bytes: 0, waited: Duration::ZERO }
    }

    /// Books a wait that ended with so many bytes. The window begins anew once enough have come.
    pub(super) fn book(&mut self, bytes: u64, waited: Duration) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited = self.waited.saturating_add(waited);
        let late = self.pace.window().is_none_or(|window| self.waited > window.saturating_add(LATE));
        if late || self.bytes >= self.pace.bytes_min() {
            *self = Self::new(self.pace);
        }
    }

    /// Returns how long the client may be waited for from now on, if there is a minimum.
    pub(super) fn left(&self) -> Option<Duration> {
        self.pace.window().map(|window| window.saturating_sub(self.waited))
    }
}

/// How long a client that reads a response is waited for: a window of the minimum rate at first, less the time spent
/// waiting, and for each byte that it takes the time that the byte lasts at that rate.
///
/// A reader's progress shows in steps, of tens of kilobytes if its buffers are large. So a step buys the time until the
/// next one, also if that is longer than a single pause may be: a client that keeps the rate and shows steps of one
/// size is never cut after the first. The credit is bounded, and a client that only fills its buffers has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Credit {
    pace: Pace,
    /// How long the client may still be waited for in all.
    left: Duration,
    /// The part of it that the client has earned; the rest, which each client is given, is spent first.
    earned: Duration,
}

impl Credit {
    /// Returns a client that has taken nothing yet.
    pub(super) const fn new(pace: Pace) -> Self {
        Self { pace, left: pace.window, earned: Duration::ZERO }
    }

    /// Books a wait in which the client took so many bytes. Unless it is certain that it `reads`, they make up for what
    /// it was waited for, and earn nothing beyond.
    pub(super) fn book(&mut self, bytes: u64, waited: Duration, reads: bool) {
        let Some(window) = self.pace.window() else { return };
        let late = waited > self.left.saturating_add(LATE);
        self.left = if late { window } else { self.left.saturating_sub(waited) };
        self.earned = self.earned.min(self.left);
        let worth = self.pace.worth(bytes);
        let most = if reads { window.saturating_mul(CREDIT_WINDOWS) } else { window };
        self.left = self.left.saturating_add(worth).min(most).max(self.left);
        if reads {
            self.earned = self.earned.saturating_add(worth).min(self.left);
        }
    }

    /// Whether the client owes nothing, so that its progress needn't be looked at while its socket has room.
    pub(super) fn is_full(&self) -> bool {
        self.pace.window().is_none_or(|window| self.left >= window)
    }

    /// Returns how long the client may be waited for from now on, and the limit that it exceeds then. `send` bounds a
    /// single pause of a client that has earned no longer one.
    pub(super) fn allowed(&self, send: Duration) -> (Duration, Reason) {
        if self.pace.window().is_none() {
            (send, Reason::Send)
        } else if self.earned > send {
            (self.earned, Reason::Rate)
        } else if self.left < send {
            (self.left, Reason::Rate)
        } else {
            (send, Reason::Send)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Pace = Pace { rate: 100, window: Duration::from_secs(10) };

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn single_bytes_do_not_start_the_window_anew() {
        let mut account = Account::new(PACE);
        for second in 0..9 {
            assert_eq!(account.left(), Some(secs(10 - second)));
            account.book(1, secs(1));
        }
        account.book(1000, secs(0));
        assert_eq!(account.left(), Some(secs(10)), "enough came");
    }

    #[test]
    fn what_was_looked_at_late_is_not_the_clients_fault() {
        let mut account = Account::new(PACE);
        account.book(1, secs(60));
        assert_eq!(account.left(), Some(secs(10)));
        account.book(1, Duration::from_millis(10_500));
        assert_eq!(account.left(), Some(secs(0)), "nearly in time is too late");
    }

    #[test]
    fn without_a_rate_there_is_no_window_and_a_small_one_wants_a_byte() {
        let mut account = Account::new(Pace { rate: 0, ..PACE });
        account.book(0, secs(1_000));
        assert_eq!(account.left(), None);
        assert_eq!(Pace { rate: 1, window: Duration::from_millis(100) }.bytes_min(), 1);
    }

    #[test]
    fn a_step_buys_the_time_until_the_next() {
        use Reason::{Rate, Send};
        // Bytes, seconds waited for them, and whether the client certainly reads; then what it may take from then on.
        type Steps = &'static [(u64, u64, bool)];
        let cases: [(&str, Steps, (u64, Reason)); 13] = [
            ("nothing yet", &[], (5, Send)),
            ("nothing for a while", &[(0, 3, false)], (5, Send)),
            ("nothing for nearly a window", &[(0, 9, false)], (1, Rate)),
            ("buffers that were filled", &[(1_000_000, 0, false)], (5, Send)),
            ("buffers that were filled after a wait", &[(0, 9, false), (1_000_000, 0, false)], (5, Send)),
            ("a few bytes", &[(100, 4, true)], (5, Send)),
            ("bytes that are too few", &[(100, 4, true), (100, 4, true), (100, 4, true)], (1, Rate)),
            ("a step", &[(3_000, 4, true)], (30, Rate)),
            ("a step, and a wait since", &[(3_000, 4, true), (0, 20, true)], (16, Rate)),
            ("a step, and a wait longer than it", &[(3_000, 4, true), (0, 32, true)], (4, Rate)),
            ("a step for each wait", &[(3_000, 4, true), (3_000, 29, true), (3_000, 29, true)], (38, Rate)),
            ("much", &[(1_000_000, 4, true)], (200, Rate)),
            ("a look that was late", &[(1, 60, false)], (5, Send)),
        ];
        for (name, steps, expected) in cases {
            let mut credit = Credit::new(PACE);
            for (bytes, waited, reads) in steps {
                credit.book(*bytes, secs(*waited), *reads);
            }
            let (allowed, reason) = credit.allowed(secs(5));
            assert_eq!((allowed.as_secs(), reason), expected, "{name}: {credit:?}");
        }
    }

    #[test]
    fn without_a_rate_only_single_pauses_are_bounded() {
        let mut credit = Credit::new(Pace { rate: 0, ..PACE });
        credit.book(1_000_000, secs(1_000), true);
        assert_eq!((credit.allowed(secs(5)), credit.is_full()), ((secs(5), Reason::Send), true));
    }

    proptest! {
        /// Whoever keeps the rate is never cut, in steps of whatever size the credit holds, once the first one has
        /// come.
        #[test]
        fn a_reader_above_the_rate_is_never_cut(
            step in 1_u64..20_000,
            parts in prop::collection::vec(0_u32..1000, 1..100),
        ) {
            let (mut credit, send) = (Credit::new(PACE), secs(5));
            credit.book(step, PACE.worth(step).min(secs(4)), true);
            for thousandths in parts {
                let pause = PACE.worth(step) * thousandths / 1000;
                prop_assert!(credit.allowed(send).0 > pause, "{:?} after {:?}", credit, pause);
                credit.book(step, pause, true);
            }
        }

        /// Whatever a client has taken, it is cut in the end once it stops; and one that may not have read soon.
        #[test]
        fn patience_has_a_bound(takes in prop::collection::vec((0_u64..100_000, 0_u64..12, any::<bool>()), 0..50)) {
            let (mut credit, send) = (Credit::new(PACE), secs(5));
            for (bytes, waited, reads) in &takes {
                credit.book(*bytes, secs(*waited), *reads);
            }
            let bound = if takes.iter().any(|take| take.2) { secs(200) } else { send };
            prop_assert!(credit.allowed(send).0 <= bound);
        }

        /// Whoever keeps the rate is never cut, however its bytes are spread over a second.
        #[test]
        fn a_client_that_keeps_the_rate_has_always_time_left(pieces in prop::collection::vec(1_u64..10, 1..200)) {
            let mut account = Account::new(PACE);
            for seconds_tenth in pieces {
                prop_assert!(account.left().unwrap() > Duration::ZERO);
                account.book(seconds_tenth * 10, Duration::from_millis(seconds_tenth * 100));
            }
        }
    }
}
