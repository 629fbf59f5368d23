//! The claim on a node's name: what its holder says there, and what a process that starts does about it. Pure.
//!
//! A holder renews its claim all the time it lives, and a claim that isn't renewed expires. So a process that starts
//! waits until the claim is gone, which a process that was killed has left, or until it is renewed, which only a live
//! one does. It needn't wait for one whose directory it has, and not for the one whose place it takes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Uptime;

/// How many times as long as a claim lasts a process waits that finds it held by another one again and again.
const ROUNDS: u32 = 3;

/// How long it is tried again where nobody can say who has the name, if nobody was seen to have it.
const ERROR_TIME: Duration = Duration::from_secs(3);

/// What the holder of a name says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// One life of its process, as text.
    pub(super) process: String,
    /// The same as the purge log knows it: who has its directory afterwards knows by this that it has ended.
    pub(super) life: Option<u64>,
    /// Grows with each renewal, where a renewal writes the claim anew.
    pub(super) beat: u64,
    /// Where clients connect.
    pub(super) addresses: Vec<String>,
    /// Where its admin API listens, if it has one.
    pub(super) admin: Option<String>,
    /// The order that it has read last.
    pub(super) order: Option<String>,
}

impl Claim {
    /// Returns it as it is written.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads it; `None` if it is none that this version understands.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Names the holder of a claim for a person.
    pub(super) fn holder(text: &str) -> String {
        let Some(claim) = Self::read(text) else { return "one that this version can't read of".to_owned() };
        let admin = claim.admin.map(|admin| format!(", admin API at {admin}")).unwrap_or_default();
        format!("at {}{admin}", claim.addresses.join(" "))
    }
}

/// A process that starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Starter<'s> {
    /// Lives that have certainly ended, because this process has their directory.
    pub(super) ended: &'s [u64],
    /// The process itself, since the reply to a claim of its own may have been lost; `None` if it only looks.
    pub(super) own: Option<&'s str>,
    /// The process whose place this one takes: no other one's name passes on to it.
    pub(super) former: Option<&'s str>,
}

/// What it does about a name that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Puts its own claim in the place of that one.
    Take,
    /// Looks again soon.
    Wait,
    /// Ends: the holder lives.
    Refuse,
}

/// A claim that stands in the way of a process which starts.
#[derive(Debug)]
pub(super) struct Watch {
    held: String,
    since: Uptime,
    began: Uptime,
    /// When it was last told who has the name.
    heard: Uptime,
    /// For which time a claim lasts, and what it means that one is there for longer without having changed.
    lasts: Duration,
    unchanged: Step,
}

impl Watch {
    /// Begins. A claim is gone when it wasn't renewed for `lasts`; `unchanged` is what is done about one that stays, as
    /// it was, for longer.
    pub(super) const fn new(lasts: Duration, unchanged: Step, now: Uptime) -> Self {
        Self { held: String::new(), since: now, began: now, heard: now, lasts, unchanged }
    }

    /// Whether the process goes on without knowing who has the name, which can't be told at `now`: after a few seconds,
    /// or when the claim would be gone that was seen last. One that takes another's place has looked before, and that
    /// one waits for it without its directories.
    pub(super) fn gives_up(&self, starter: &Starter<'_>, now: Uptime) -> bool {
        let patience = match (self.has_begun(), starter.own.and(starter.former)) {
            (true, _) => self.lasts,
            (false, None) => ERROR_TIME,
            (false, Some(_)) => Duration::ZERO,
        };
        now.since(self.heard) >= patience || now.since(self.began) >= self.lasts * ROUNDS
    }

    /// Whether it has seen a claim.
    pub(super) fn has_begun(&self) -> bool {
        !self.held.is_empty()
    }

    /// Says what is done about the claim that is found at `now`.
    pub(super) fn look(&mut self, held: &str, starter: &Starter<'_>, now: Uptime) -> Step {
        let holder = Claim::read(held);
        let has_ended = |claim: &Claim| claim.life.is_some_and(|life| starter.ended.contains(&life));
        let is_passed_on = |process: &str| starter.own == Some(process) || starter.former == Some(process);
        self.heard = now;
        if holder.as_ref().is_some_and(|holder| is_passed_on(&holder.process) || has_ended(holder)) {
            return Step::Take;
        }
        if now.since(self.began) >= self.lasts * ROUNDS {
            return Step::Refuse;
        }
        if self.held != held {
            let before = Claim::read(&self.held);
            if holder.zip(before).is_some_and(|(holder, before)| holder.process == before.process) {
                return Step::Refuse;
            }
            held.clone_into(&mut self.held);
            self.since = now;
        }
        if now.since(self.since) >= self.lasts { self.unchanged } else { Step::Wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(6);

    fn held(process: &str, life: u64, beat: u64) -> String {
        let addresses = vec!["192.0.2.7:80".to_owned()];
        Claim { process: process.to_owned(), life: Some(life), beat, addresses, ..Claim::default() }.text()
    }

    fn at(seconds: u64) -> Uptime {
        Uptime(1_000_000 + 1_000 * seconds)
    }

    /// What is done about each of these claims, found at these seconds.
    fn steps(starter: &Starter<'_>, unchanged: Step, found: &[(u64, String)]) -> Vec<Step> {
        let mut watch = Watch::new(LASTS, unchanged, at(0));
        found.iter().map(|(second, held)| watch.look(held, starter, at(*second))).collect()
    }

    #[test]
    fn a_name_is_taken_of_those_that_have_ended_and_refused_by_those_that_live() {
        use Step::{Refuse, Take, Wait};
        let anew = Starter { own: Some("z"), ended: &[], former: None };
        let after = Starter { own: Some("z"), ended: &[7], former: None };
        let successor = Starter { own: Some("z"), ended: &[], former: Some("a") };
        let silent = [(0, held("a", 7, 1)), (5, held("a", 7, 1)), (6, held("a", 7, 1))];
        assert_eq!(steps(&anew, Take, &silent), [Wait, Wait, Take], "no renewal, and yet it hasn't expired");
        assert_eq!(steps(&anew, Refuse, &silent), [Wait, Wait, Refuse], "only a renewal keeps it there");
        assert_eq!(steps(&after, Refuse, &silent[..1]), [Take], "its directory is this process's");
        assert_eq!(steps(&successor, Refuse, &silent[..1]), [Take]);
        let anothers = [(0, held("b", 8, 1)), (2, held("b", 8, 2))];
        assert_eq!(steps(&successor, Take, &anothers), [Wait, Refuse], "it isn't the one whose place is taken");
        assert_eq!(steps(&after, Take, &[(0, held("b", 8, 1)), (1, held("b", 8, 2))]), [Wait, Refuse]);
        let other = [(0, held("a", 7, 1)), (5, held("b", 8, 1)), (10, held("b", 8, 1)), (11, held("b", 8, 1))];
        assert_eq!(steps(&anew, Take, &other), [Wait, Wait, Wait, Take], "counted from the other's claim on");
        let many: Vec<(u64, String)> = (0..19).map(|n| (n, held(&format!("p{n}"), n, 1))).collect();
        let done = steps(&anew, Take, &many);
        assert!(done[..18].iter().all(|step| *step == Wait) && done[18] == Refuse, "{done:?}");
    }

    #[test]
    fn a_place_that_cannot_be_asked_is_tried_again_for_a_while() {
        let mut watch = Watch::new(LASTS, Step::Refuse, at(0));
        let starter = Starter { own: Some("z"), ended: &[], former: None };
        assert!(!watch.gives_up(&starter, at(2)) && watch.gives_up(&starter, at(3)), "nobody was seen");
        let looks = Starter { own: None, former: Some("a"), ..starter };
        assert!(!watch.gives_up(&looks, at(2)) && watch.gives_up(&looks, at(3)));
        assert!(watch.gives_up(&Starter { former: Some("a"), ..starter }, at(0)), "another process waits");
        assert_eq!(watch.look(&held("a", 7, 1), &starter, at(1)), Step::Wait);
        assert!(!watch.gives_up(&starter, at(6)) && watch.gives_up(&starter, at(7)), "one that may live was seen");
        assert_eq!(watch.look(&held("a", 7, 2), &starter, at(6)), Step::Refuse, "it is renewed, whatever was between");
        assert_eq!(watch.look(&held("z", 9, 0), &starter, at(6)), Step::Take, "its own, whose reply was lost");
        assert_eq!(watch.look(&held("b", 8, 1), &starter, at(17)), Step::Wait);
        assert!(watch.gives_up(&starter, at(18)), "it doesn't go on for ever");
    }

    #[test]
    fn what_cannot_be_read_is_waited_for_as_any_other() {
        let starter = Starter { own: Some("z"), ended: &[7], former: None };
        let found = [(0, "of v2"), (3, "another of v2"), (9, "another of v2")].map(|(at, held)| (at, held.to_owned()));
        assert_eq!(steps(&starter, Step::Take, &found), [Step::Wait, Step::Wait, Step::Take]);
        assert_eq!(Claim::holder(&held("a", 7, 1)), "at 192.0.2.7:80");
        assert!(Claim::holder("v2").contains("can't read"));
    }
}
