//! The minimum rate of a client: so many bytes in each window of the time that is spent waiting for it. Pure. A limit on
//! single pauses is none on the whole: it starts anew with each byte.

use std::time::Duration;

use crate::{clock::millis, config::Timeouts, message::BodyError};

/// How late a wait may be looked at before that is our doing and not the client's.
const LATE: Duration = Duration::from_secs(1);

/// The minimum rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Bytes a second; 0 for no minimum.
    rate: u64,
    window: Duration,
}

impl Pace {
    /// The configured minimum.
    pub(super) const fn of(timeouts: &Timeouts) -> Self {
        Self { rate: timeouts.rate_bytes_min, window: timeouts.rate_window }
    }

    /// Bytes that have to come within a window.
    pub(super) fn bytes_min(&self) -> u64 {
        let bytes = u128::from(self.rate) * self.window.as_millis() / 1000;
        // Of a rate that rounds to nothing a byte is left.
        u64::try_from(bytes).unwrap_or(u64::MAX).max(u64::from(self.rate > 0))
    }

    /// The window, if there is a minimum.
    pub(super) fn window(&self) -> Option<Duration> {
        (self.rate > 0).then_some(self.window)
    }

    /// What a body that is too slow fails with.
    pub(super) fn error(&self) -> BodyError {
        BodyError::TooSlow { rate: self.rate, window_ms: millis(self.window) }
    }
}

/// What one client has brought, or taken, in the window that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) pace: Pace,
    bytes: u64,
    waited: Duration,
}

impl Account {
    /// A window of which nothing has passed.
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

    /// How long the client may be waited for from now on, if there is a minimum.
    pub(super) fn left(&self) -> Option<Duration> {
        self.pace.window().map(|window| window.saturating_sub(self.waited))
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

    proptest! {
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
