//! What a node was to run by and doesn't, what it says of that, and when it tries again.

use std::time::Duration;

use super::record::{Outcome, Pointer};
use crate::clock::Uptime;

/// Until a node tries for the first time again what it refused; each further time takes twice as long.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// How long it takes at most.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// What a head asks of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The generation that it is to run by; `None` for its own file alone.
    pub(super) generation: Option<Pointer>,
    /// The revision of the head.
    pub(super) head: i64,
}

/// Whether what keeps a node from a generation may be over before there is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It may: a file isn't there yet, an address is in use, a component can't be read.
    Passing,
    /// It is the generation, or the node as it was started.
    Lasting,
}

/// A generation that the node couldn't take, or did worse by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declined {
    asked: Asked,
    outcome: Outcome,
    reason: String,
    /// Which configuration the node had: by another one it may take what it refused.
    own: u64,
    /// How often in succession it was refused.
    times: u32,
    /// When it is tried again, if by itself.
    again: Option<Uptime>,
}

impl Declined {
    /// Returns what was refused at `now`, when `former` was what was declined before.
    pub(super) fn refused(
        asked: Asked,
        (reason, cause): (String, Cause),
        own: u64,
        former: Option<&Self>,
        now: Uptime,
    ) -> Self {
        let times = former.filter(|former| former.asked == asked).map_or(0, |former| former.times).saturating_add(1);
        let again = (cause == Cause::Passing).then(|| now.plus(pause(times)));
        Self { asked, outcome: Outcome::Refused, reason, own, times, again }
    }

    /// Returns what the node did worse by. It isn't tried again until it is asked for again.
    pub(super) const fn worse(asked: Asked, reason: String) -> Self {
        Self { asked, outcome: Outcome::Worse, reason, own: 0, times: 0, again: None }
    }

    /// Whether it goes without another attempt that this is asked for, by a node with the configuration `own`.
    pub(super) fn still(&self, asked: &Asked, own: u64, now: Uptime) -> bool {
        let is_same_node = self.outcome == Outcome::Worse || self.own == own;
        self.asked == *asked && is_same_node && !self.is_due(now)
    }

    /// Whether it is time for another attempt.
    pub(super) fn is_due(&self, now: Uptime) -> bool {
        self.again.is_some_and(|again| now >= again)
    }

    /// Whether it says of the generation what another does.
    pub(super) fn says_as(&self, other: &Self) -> bool {
        self.asked.generation == other.asked.generation && self.reason == other.reason
    }

    /// Returns what became of it.
    pub(super) const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Returns why.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }
}

/// Returns how long to wait after so many attempts.
fn pause(times: u32) -> Duration {
    let factor = 2_u32.saturating_pow(times.saturating_sub(1));
    PAUSE_MIN.saturating_mul(factor).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(number: u64, head: i64) -> Asked {
        Asked { generation: Some(Pointer { number, digest: "d".repeat(64) }), head }
    }

    fn refused(cause: Cause, former: Option<&Declined>, now: u64) -> Declined {
        Declined::refused(asked(2, 10), ("why".to_owned(), cause), 1, former, Uptime(now))
    }

    #[test]
    fn what_was_refused_is_tried_again_when_it_may_be_otherwise() {
        let (passing, lasting) = (refused(Cause::Passing, None, 0), refused(Cause::Lasting, None, 0));
        let worse = Declined::worse(asked(2, 10), "why".to_owned());
        // What is asked, by which configuration of the node, when; and whether each is still declined.
        for (asked, own, now, wanted) in [
            (asked(2, 10), 1, 4_999, [true, true, true]),
            (asked(2, 10), 1, 5_000, [false, true, true]),
            (asked(2, 10), 1, u64::MAX, [false, true, true]),
            // The node has another configuration.
            (asked(2, 10), 2, 0, [false, false, true]),
            // Somebody asks again, or for another one; or the store has another history.
            (asked(2, 11), 1, 0, [false, false, false]),
            (asked(3, 10), 1, 0, [false, false, false]),
            (Asked { generation: None, head: 10 }, 1, 0, [false, false, false]),
        ] {
            let found = [&passing, &lasting, &worse].map(|declined| declined.still(&asked, own, Uptime(now)));
            assert_eq!(found, wanted, "{asked:?} {own} {now}");
        }
        assert_eq!((passing.outcome(), worse.outcome()), (Outcome::Refused, Outcome::Worse));
        assert_eq!((passing.reason(), worse.reason()), ("why", "why"));
    }

    #[test]
    fn attempts_become_rarer_and_never_cease() {
        let mut last: Option<Declined> = None;
        let mut now = 0;
        for wanted in [5, 10, 20, 40, 80, 160, 300, 300] {
            let next = refused(Cause::Passing, last.as_ref(), now);
            assert!(!next.is_due(Uptime(now + wanted * 1_000 - 1)), "{wanted}");
            now += wanted * 1_000;
            assert!(next.is_due(Uptime(now)), "{wanted}");
            last = Some(next);
        }
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
        let last = last.expect("the last one");
        let other = Declined::refused(asked(2, 11), ("other".to_owned(), Cause::Passing), 1, Some(&last), Uptime(0));
        assert!(other.is_due(Uptime(5_000)), "asked again, it begins anew");
        assert!(last.says_as(&refused(Cause::Passing, None, 0)) && !last.says_as(&other));
    }
}
