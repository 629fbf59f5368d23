//! A circuit breaker without a clock or a lock of its own: the time and outcomes are its arguments.

use std::time::Duration;

use crate::{clock::Uptime, config};

/// A circuit breaker: decides whether a call may be made, by the outcomes of those before.
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    rule: config::Breaker,
    state: State,
}

/// The state, by which a call is let through or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Calls go through; so many failed in a row.
    Closed { failures: u32 },
    /// No call until then.
    Open { until: Uptime, lasted: Duration },
    /// One call probes whether it works again; if its outcome isn't reported by `until`, the next may probe.
    Probing { until: Uptime, lasted: Duration },
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It may.
    Yes,
    /// It may, as the one probe of an open breaker.
    Probe,
    /// It may not.
    No,
}

impl Breaker {
    /// Returns a closed breaker.
    #[must_use]
    pub const fn new(rule: config::Breaker) -> Self {
        Self { rule, state: State::Closed { failures: 0 } }
    }

    /// Returns whether a call may be made now. After [`Permit::Yes`] and [`Permit::Probe`] the outcome must be reported
    /// by [`Breaker::record`].
    pub fn permit(&mut self, now: Uptime) -> Permit {
        match self.state {
            State::Closed { .. } => Permit::Yes,
            State::Open { until, lasted } | State::Probing { until, lasted } if now >= until => {
                self.state = State::Probing { until: now.plus(self.rule.open), lasted };
                Permit::Probe
            }
            State::Open { .. } | State::Probing { .. } => Permit::No,
        }
    }

    /// Reports the outcome of a permitted call. Returns true if this report opened the breaker.
    pub fn record(&mut self, ok: bool, now: Uptime) -> bool {
        if ok {
            // A late success of a call from before the opening doesn't close the breaker: only a probe does.
            if !matches!(self.state, State::Open { .. }) {
                self.state = State::Closed { failures: 0 };
            }
            return false;
        }
        match self.state {
            State::Closed { failures } if failures + 1 < self.rule.failures => {
                self.state = State::Closed { failures: failures + 1 };
                false
            }
            State::Closed { .. } => self.open(self.rule.open, now),
            State::Probing { lasted, .. } => self.open((lasted * 2).min(self.rule.open_max), now),
            State::Open { .. } => false,
        }
    }

    /// Whether calls are refused or probed at present.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    fn open(&mut self, lasted: Duration, now: Uptime) -> bool {
        self.state = State::Open { until: now.plus(lasted), lasted };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(config::Breaker {
            failures: 2,
            open: Duration::from_millis(100),
            open_max: Duration::from_millis(300),
        })
    }

    #[test]
    fn opens_after_its_failures_probes_once_and_doubles() {
        let mut it = breaker();
        assert!(!it.record(false, Uptime(0)));
        assert!(it.record(false, Uptime(0)));
        assert_eq!(it.permit(Uptime(99)), Permit::No);
        assert_eq!(it.permit(Uptime(100)), Permit::Probe);
        assert_eq!(it.permit(Uptime(101)), Permit::No, "one probe at a time");
        assert!(it.record(false, Uptime(101)));
        assert_eq!(it.permit(Uptime(300)), Permit::No, "open twice as long");
        assert_eq!(it.permit(Uptime(301)), Permit::Probe);
        it.record(true, Uptime(302));
        assert_eq!(it.permit(Uptime(302)), Permit::Yes);
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let mut it = breaker();
        for _ in 0..5 {
            it.record(false, Uptime(0));
            it.record(true, Uptime(0));
        }
        assert!(!it.is_open());
    }

    #[test]
    fn a_probe_that_never_reports_lets_another_try() {
        let mut it = breaker();
        it.record(false, Uptime(0));
        it.record(false, Uptime(0));
        assert_eq!(it.permit(Uptime(100)), Permit::Probe);
        assert_eq!(it.permit(Uptime(200)), Permit::Probe);
    }
}
