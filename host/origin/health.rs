//! The health of endpoints: active checks and passive ejection. A state machine without a clock of its own.

use std::time::Duration;

use super::balance::Standing;
use crate::{clock::Uptime, config};

/// An ejection grows to at most this many times the configured one.
const EJECTION_GROWTH_MAX: u32 = 10;

/// The health of a pool's members.
#[derive(Debug)]
pub(super) struct Tracker {
    members: Vec<Member>,
    eject: config::Eject,
    healthy_after: u32,
    unhealthy_after: u32,
}

/// What is known of one member.
#[derive(Clone, Copy, Debug, Default)]
struct Member {
    check: Check,
    conduct: Conduct,
    counts: Counts,
}

/// Requests by outcome, since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Served to the end.
    pub(super) ok: u64,
    /// Failed, or responded with 502 to 504.
    pub(super) failed: u64,
}

/// What active checks say. Without checks a member stays up.
#[derive(Clone, Copy, Debug)]
enum Check {
    /// So many checks in a row were bad.
    Up { bad: u32 },
    /// So many checks in a row were good.
    Down { good: u32 },
}

impl Default for Check {
    fn default() -> Self {
        Self::Up { bad: 0 }
    }
}

/// What requests say.
#[derive(Clone, Copy, Debug)]
enum Conduct {
    /// So many requests in a row failed.
    Trusted { failures: u32 },
    /// Left out from `since` to `until`. After that it is on probation: one failure ejects it again, for longer.
    Ejected { since: Uptime, until: Uptime, lasted: Duration },
}

impl Default for Conduct {
    fn default() -> Self {
        Self::Trusted { failures: 0 }
    }
}

/// What a check changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The member is back.
    Up,
    /// The member is out.
    Down,
}

impl Tracker {
    /// A tracker of `count` members, all of them up.
    pub(super) fn new(count: usize, eject: config::Eject, health: Option<&config::Health>) -> Self {
        Self {
            members: vec![Member::default(); count],
            eject,
            healthy_after: health.map_or(1, |health| health.healthy_after.max(1)),
            unhealthy_after: health.map_or(1, |health| health.unhealthy_after.max(1)),
        }
    }

    /// Takes over what `former` knows of a member; with `checks` also what active checks said.
    pub(super) fn take_over(&mut self, index: usize, former: &Self, at: usize, checks: bool) {
        if let (Some(member), Some(known)) = (self.members.get_mut(index), former.members.get(at)) {
            let check = if checks { known.check } else { member.check };
            *member = Member { check, ..*known };
        }
    }

    /// A member's standing now. What active checks say weighs more than an ejection.
    pub(super) fn standing(&self, index: usize, now: Uptime) -> Standing {
        match self.members.get(index) {
            Some(Member { check: Check::Up { .. }, conduct, .. }) if conduct.ejected_until(now).is_some() => {
                Standing::Ejected
            }
            Some(Member { check: Check::Up { .. }, .. }) => Standing::Up,
            Some(Member { check: Check::Down { .. }, .. }) | None => Standing::Down,
        }
    }

    /// All standings, in the members' order.
    pub(super) fn standings(&self, now: Uptime) -> impl Iterator<Item = Standing> {
        (0..self.members.len()).map(move |index| self.standing(index, now))
    }

    /// When a member's ejection ends, if it is ejected now.
    pub(super) fn ejected_until(&self, index: usize, now: Uptime) -> Option<Uptime> {
        self.members.get(index).and_then(|member| member.conduct.ejected_until(now))
    }

    /// A member's requests by outcome.
    pub(super) fn counts(&self, index: usize) -> Counts {
        self.members.get(index).map(|member| member.counts).unwrap_or_default()
    }

    /// Takes the outcome of a request that began at `started`. Returns the end of the ejection this brought about.
    ///
    /// A success ends all distrust, even during an ejection (panic mode sends requests then); but the outcome of a
    /// request from before the ejection says nothing about the member since.
    pub(super) fn record(&mut self, index: usize, ok: bool, started: Uptime, now: Uptime) -> Option<Uptime> {
        let member = self.members.get_mut(index)?;
        if ok {
            member.counts.ok += 1;
        } else {
            member.counts.failed += 1;
        }
        match member.conduct {
            Conduct::Ejected { since, .. } if started < since => None,
            _ if ok => {
                member.conduct = Conduct::default();
                None
            }
            Conduct::Ejected { until, .. } if now < until => None,
            Conduct::Ejected { lasted, .. } => {
                let longest = self.eject.duration.saturating_mul(EJECTION_GROWTH_MAX);
                self.eject(index, lasted.saturating_mul(2).min(longest), now)
            }
            Conduct::Trusted { failures } => {
                let failures = failures.saturating_add(1);
                member.conduct = Conduct::Trusted { failures };
                let enough = failures >= self.eject.failures.max(1);
                if enough { self.eject(index, self.eject.duration, now) } else { None }
            }
        }
    }

    /// Takes the outcome of an active check.
    pub(super) fn checked(&mut self, index: usize, ok: bool) -> Option<Turn> {
        let member = self.members.get_mut(index)?;
        let (check, turn) = match (member.check, ok) {
            (Check::Up { .. }, true) => (Check::Up { bad: 0 }, None),
            (Check::Up { bad }, false) if bad + 1 >= self.unhealthy_after => {
                (Check::Down { good: 0 }, Some(Turn::Down))
            }
            (Check::Up { bad }, false) => (Check::Up { bad: bad + 1 }, None),
            (Check::Down { .. }, false) => (Check::Down { good: 0 }, None),
            (Check::Down { good }, true) if good + 1 >= self.healthy_after => (Check::Up { bad: 0 }, Some(Turn::Up)),
            (Check::Down { good }, true) => (Check::Down { good: good + 1 }, None),
        };
        member.check = check;
        turn
    }

    /// Ejects a member if the pool can do without it.
    fn eject(&mut self, index: usize, lasted: Duration, now: Uptime) -> Option<Uptime> {
        if !self.can_spare(index, now) {
            return None;
        }
        let until = now.plus(lasted);
        self.members.get_mut(index)?.conduct = Conduct::Ejected { since: now, until, lasted };
        Some(until)
    }

    /// Somebody else stays up, and the share that may be ejected isn't used up.
    fn can_spare(&self, index: usize, now: Uptime) -> bool {
        let ejected = self.members.iter().filter(|member| member.conduct.ejected_until(now).is_some()).count();
        let others_up = (0..self.members.len())
            .filter(|other| *other != index)
            .any(|other| self.standing(other, now) == Standing::Up);
        others_up && ejected < self.ejected_max()
    }

    /// How many may be ejected at once. A small pool's share rounds up to one, else its ejection would be off.
    fn ejected_max(&self) -> usize {
        match self.eject.percent_max {
            0 => 0,
            percent => (self.members.len() * percent.min(100) as usize / 100).max(1),
        }
    }
}

impl Conduct {
    fn ejected_until(self, now: Uptime) -> Option<Uptime> {
        match self {
            Self::Ejected { until, .. } if now < until => Some(until),
            Self::Ejected { .. } | Self::Trusted { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: fn(u64) -> Uptime = Uptime;

    fn tracker(count: usize, percent_max: u32) -> Tracker {
        let eject = config::Eject { failures: 3, duration: Duration::from_millis(100), percent_max };
        Tracker::new(count, eject, None)
    }

    fn checks(healthy_after: u32, unhealthy_after: u32) -> Tracker {
        let health = config::Health {
            path: "/health".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_after,
            unhealthy_after,
        };
        let eject = config::Eject { failures: 1, duration: Duration::from_millis(100), percent_max: 100 };
        Tracker::new(2, eject, Some(&health))
    }

    /// An outcome at a time of a request that began right then, and the ejection's end it is to bring about.
    type Step = (u64, bool, Option<u64>);

    #[test]
    fn ejection_and_return() {
        let cases: &[(&str, &[Step])] = &[
            ("three in a row", &[(0, false, None), (1, false, None), (2, false, Some(102))]),
            (
                "a success between",
                &[(0, false, None), (1, false, None), (2, true, None), (3, false, None), (4, false, None)],
            ),
            (
                "one more failure after the return ejects for twice as long",
                &[
                    (0, false, None),
                    (0, false, None),
                    (0, false, Some(100)),
                    (100, false, Some(300)),
                    (300, false, Some(700)),
                ],
            ),
            (
                "up to ten times",
                &[
                    (0, false, None),
                    (0, false, None),
                    (0, false, Some(100)),
                    (100, false, Some(300)),
                    (300, false, Some(700)),
                    (700, false, Some(1500)),
                    (1500, false, Some(2500)),
                    (2500, false, Some(3500)),
                ],
            ),
            (
                "a success resets the streak and the growth",
                &[
                    (0, false, None),
                    (0, false, None),
                    (0, false, Some(100)),
                    (100, true, None),
                    (101, false, None),
                    (102, false, None),
                    (103, false, Some(203)),
                ],
            ),
            (
                "failures during the ejection don't prolong it",
                &[
                    (0, false, None),
                    (0, false, None),
                    (0, false, Some(100)),
                    (50, false, None),
                    (100, false, Some(300)),
                ],
            ),
        ];
        for (name, steps) in cases {
            let mut it = tracker(2, 100);
            for (at, ok, expected) in *steps {
                assert_eq!(it.record(0, *ok, T(*at), T(*at)), expected.map(T), "{name} at {at}");
            }
        }
    }

    #[test]
    fn outcomes_from_before_the_ejection_are_counted_but_change_nothing() {
        let mut it = tracker(2, 100);
        for _ in 0..3 {
            it.record(0, false, T(10), T(20));
        }
        assert_eq!(it.record(0, true, T(19), T(50)), None);
        assert_eq!(it.standing(0, T(50)), Standing::Ejected);
        assert_eq!(it.record(0, false, T(19), T(130)), None, "a late failure doesn't eject again");
        assert_eq!(it.record(0, true, T(60), T(70)), None);
        assert_eq!(it.standing(0, T(70)), Standing::Up, "a success of panic mode brings it back at once");
        assert_eq!(it.counts(0), Counts { ok: 2, failed: 4 });
    }

    #[test]
    fn how_many_may_be_ejected() {
        let cases =
            [(1, 100, 0), (2, 100, 1), (2, 50, 1), (3, 10, 1), (4, 50, 2), (10, 30, 3), (10, 100, 9), (4, 0, 0)];
        for (count, percent_max, expected) in cases {
            let mut it = tracker(count, percent_max);
            for index in 0..count {
                for _ in 0..3 {
                    it.record(index, false, T(0), T(0));
                }
            }
            let ejected = it.standings(T(1)).filter(|standing| *standing == Standing::Ejected).count();
            assert_eq!(ejected, expected, "{count} members, {percent_max} %");
        }
    }

    #[test]
    fn the_last_member_that_checks_find_up_is_not_ejected() {
        let mut it = checks(1, 1);
        assert_eq!(it.checked(1, false), Some(Turn::Down));
        assert_eq!(it.record(0, false, T(0), T(0)), None);
        assert_eq!(it.standing(0, T(0)), Standing::Up);
    }

    #[test]
    fn checks_turn_a_member_after_their_streaks() {
        let mut it = checks(2, 3);
        let steps = [
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(Turn::Down)),
            (true, None),
            (false, None),
            (true, None),
            (true, Some(Turn::Up)),
        ];
        for (at, (ok, expected)) in steps.into_iter().enumerate() {
            assert_eq!(it.checked(0, ok), expected, "step {at}");
        }
    }

    #[test]
    fn a_successor_knows_what_was_known() {
        let mut former = checks(1, 1);
        former.record(1, false, T(0), T(0));
        former.checked(0, false);
        let until = former.ejected_until(1, T(50));
        for (with_checks, standing) in [(true, Standing::Down), (false, Standing::Up)] {
            let mut next = checks(1, 1);
            next.take_over(1, &former, 0, with_checks);
            next.take_over(0, &former, 1, with_checks);
            next.take_over(0, &former, 9, with_checks);
            assert!(until.is_some());
            assert_eq!((next.standing(1, T(50)), next.counts(1)), (standing, former.counts(0)));
            assert_eq!((next.ejected_until(0, T(50)), next.counts(0)), (until, former.counts(1)));
        }
    }

    #[test]
    fn down_weighs_more_than_ejected() {
        let mut it = checks(1, 1);
        assert_eq!(it.record(0, false, T(0), T(0)), Some(T(100)));
        it.checked(0, false);
        assert_eq!(it.standing(0, T(1)), Standing::Down);
        it.checked(0, true);
        assert_eq!(it.standing(0, T(1)), Standing::Ejected);
        assert_eq!(it.standing(0, T(100)), Standing::Up);
    }

    proptest! {
        #[test]
        fn somebody_always_stays(
            percent_max in 0_u32..=100,
            steps in prop::collection::vec((0_usize..5, any::<bool>(), 0_u64..60), 0..200),
        ) {
            let mut it = tracker(5, percent_max);
            let mut now = 0;
            for (index, ok, pause) in steps {
                now += pause;
                let until = it.record(index, ok, T(now), T(now));
                prop_assert!(it.standings(T(now)).any(|standing| standing == Standing::Up));
                prop_assert!(until.is_none_or(|until| until > T(now) && until <= T(now + 1000)));
            }
        }
    }
}
