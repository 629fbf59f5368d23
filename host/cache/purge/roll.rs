//! The nodes that a purge counts with, as this node has seen them. Pure.
//!
//! The log's server keeps the list of members, and may lose it, together with the log or by itself. Who was on it is
//! carried on here, until it reports again, has been signed off, or has been silent for so long that it counts with nobody
//! itself. To be missing on the list is no sign-off: that is written down beside it.

use std::time::Duration;

use super::{
    fence::certainly,
    log::{Appended, Listed, Member, Report},
    table::{Incarnation, Position},
};
use crate::clock::{self, Uptime};

/// What this node knows of its region.
#[derive(Debug)]
pub struct Roll {
    fence: Duration,
    lost: Duration,
    /// The log and its server, and since when this node has followed them without a lapse.
    place: Option<Place>,
    since: Uptime,
    /// The longest time until they are lost that members of this region are known to have had.
    longest: Duration,
    seen: Vec<Seen>,
    /// The list of a log was read in this life of the process.
    has_looked: bool,
    /// Processes whose directory this one holds.
    ended: Vec<u64>,
}

/// A log's incarnation, and its server.
type Place = (Incarnation, Option<String>);

#[derive(Debug)]
struct Seen {
    member: Member,
    /// When its last word was first seen.
    at: Uptime,
    /// It is on the log's own list.
    listed: bool,
    /// Its word has changed since the last look.
    lively: bool,
    /// Its word was looked at since this node came to the log's place, and has changed since then.
    looked: bool,
    spoken: bool,
}

impl Seen {
    fn is(&self, member: &Member) -> bool {
        self.member.instance == member.instance && self.member.node == member.node
    }
}

impl Roll {
    /// An empty roll.
    #[must_use]
    pub const fn new(fence: Duration, lost: Duration) -> Self {
        Self {
            fence,
            lost,
            place: None,
            since: Uptime(0),
            longest: lost,
            seen: Vec::new(),
            has_looked: false,
            ended: Vec::new(),
        }
    }

    /// Puts back what the process before knew.
    pub fn restore(&mut self, members: Vec<Member>, now: Uptime) {
        let seen = |member| Seen { member, at: now, listed: true, lively: false, looked: false, spoken: false };
        self.seen = members.into_iter().map(seen).collect();
        self.note_longest();
    }

    /// Notes that the process of this number has certainly ended, whatever a list says.
    pub fn ended(&mut self, instance: u64) {
        self.ended.push(instance);
        self.seen.retain(|seen| seen.member.instance != instance);
    }

    /// Returns what a disk is to have of the roll: names and limits, in an order that doesn't depend on anything else, and
    /// nothing of what was reported. Without the process of this number, which will have ended by then.
    #[must_use]
    pub fn roster(&self, instance: u64) -> Vec<Member> {
        let others = self.seen.iter().map(|seen| &seen.member).filter(|member| member.instance != instance);
        let unreported = |member: &Member| Member {
            log: Incarnation(0),
            report: Report { applied: Position(0), beat: 0, ..member.report },
            ..member.clone()
        };
        let mut members: Vec<Member> = others.map(unreported).collect();
        members.sort_unstable_by(|one, other| (&one.node, one.instance).cmp(&(&other.node, other.instance)));
        members
    }

    /// Returns the members that a log which begins now is to have on its list. If this process has never read a list,
    /// there may be more than it knows.
    #[must_use]
    pub fn known(&self) -> Vec<Member> {
        let mut known = self.look_back();
        if !self.has_looked && !known.iter().any(Member::is_strangers) {
            known.push(Member::strangers(self.longest_fence(), self.longest));
        }
        known
    }

    /// Returns the members that are carried on although the log's list doesn't have them.
    #[must_use]
    pub fn unlisted(&self) -> Vec<Member> {
        self.seen.iter().filter(|seen| !seen.listed).map(|seen| seen.member.clone()).collect()
    }

    /// Whether purges wait for nodes of which nothing is known.
    #[must_use]
    pub fn has_strangers(&self) -> bool {
        self.seen.iter().any(|seen| seen.member.is_strangers())
    }

    /// Notes that this node read the log of this place to its end; `lapsed` if its fence had expired before. Returns
    /// whether it has just come there.
    pub fn read(&mut self, log: Incarnation, server: Option<String>, lapsed: bool, now: Uptime) -> bool {
        let place = Some((log, server));
        let has_come = lapsed || place != self.place;
        if has_come {
            (self.place, self.since) = (place, now);
            self.seen.iter_mut().for_each(|seen| (seen.looked, seen.spoken) = (false, false));
        }
        has_come
    }

    /// From when on the members are all there are, for a purge that was appended at `appended`.
    #[must_use]
    pub fn known_from(&self, purge: &Appended, appended: Uptime) -> Uptime {
        let fence = self.certain_fence();
        match &self.place {
            Some((log, server)) if *log == purge.log && server.is_some() && *server == purge.server => {
                self.since.plus(fence)
            }
            _ => appended.plus(fence),
        }
    }

    /// Whether what this place's log says may be relied on: all others have read it as well and found it to be the one
    /// they know, or had a fence's time to.
    ///
    /// As long as a log only grows, nobody need be waited for. It is for one case, a log that was put back to an older
    /// state: this node was cut off and had read it up to 5; 6 was purged, applied by others, and complete since this
    /// node's fence was over; the server came back with what it had at 5. To this node that looks like a log in which
    /// nothing has happened, to any other like one that has lost a record. Until then this node is awaited all the same,
    /// so that it confirms what it has once a key and fence period (`fence.rs`), and is ready.
    #[must_use]
    pub fn is_confirmed(&self, instance: u64, now: Uptime) -> bool {
        // Nodes of which nothing is known are of a log before this one.
        let is_other = |member: &Member| member.instance != instance && !member.is_strangers();
        let mut others = self.seen.iter().filter(|seen| is_other(&seen.member));
        now >= self.since.plus(self.certain_fence()) || others.all(|seen| seen.spoken)
    }

    /// Takes the log's list, and returns it with those that are carried on: all that were known and are neither on it nor
    /// signed off, since a list may be lost or put back without any other sign of it.
    pub fn look(&mut self, listed: Listed, now: Uptime) -> Vec<Member> {
        let Listed { log, mut members, left, .. } = listed;
        members.retain(|member| !self.ended.contains(&member.instance));
        // Before the log has begun there is nothing to be known.
        self.has_looked |= log != Incarnation(0);
        let before = std::mem::take(&mut self.seen);
        // What it has said since the log was asked, it said after that.
        let has_left =
            |seen: &Seen| left.iter().any(|member| seen.is(member) && seen.member.report.beat <= member.report.beat);
        // One that serves whatever happens is never given up by itself.
        let counts =
            |seen: &Seen| seen.member.report.fence_ms.is_none() || now.since(seen.at) < self.certain_loss(&seen.member);
        let carried = before.iter().filter(|seen| !has_left(seen) && counts(seen));
        let carried: Vec<_> = carried.filter(|seen| !members.iter().any(|member| seen.is(member))).collect();
        let mut after: Vec<Seen> = carried
            .into_iter()
            .map(|seen| Seen { member: seen.member.clone(), listed: false, lively: false, ..*seen })
            .collect();
        for member in members {
            let known = before.iter().find(|seen| seen.is(&member));
            // An earlier word is none of its own: another node put it back with what that one knew.
            let lively = known.is_some_and(|seen| seen.member.report.beat < member.report.beat);
            let at = known.filter(|_| !lively).map_or(now, |seen| seen.at);
            // What the list says at first may be older than what was known.
            let spoken = known.is_some_and(|seen| seen.spoken || seen.looked && lively);
            after.push(Seen { member, at, listed: true, lively, looked: true, spoken });
        }
        self.seen = after;
        self.note_longest();
        self.look_back()
    }

    /// Returns the members of the last look.
    #[must_use]
    pub fn look_back(&self) -> Vec<Member> {
        self.seen.iter().map(|seen| seen.member.clone()).collect()
    }

    /// Members that have been silent for so long that they count with nobody any more: to be signed off.
    #[must_use]
    pub fn lost(&self, now: Uptime) -> Vec<Member> {
        let lost = |seen: &&Seen| {
            // One that serves whatever happens is for the operator to sign off.
            seen.listed
                && seen.member.report.fence_ms.is_some()
                && now.since(seen.at) >= self.certain_loss(&seen.member)
        };
        self.seen.iter().filter(lost).map(|seen| seen.member.clone()).collect()
    }

    /// Whether another process reports under this name.
    #[must_use]
    pub fn has_namesake(&self, node: &str, instance: u64) -> bool {
        self.seen.iter().any(|seen| seen.lively && seen.member.node == node && seen.member.instance != instance)
    }

    /// Returns the nodes whose fence, or time until they are lost, isn't this node's.
    #[must_use]
    pub fn differing(&self) -> Vec<String> {
        let (fence_ms, lost_ms) = (clock::millis(self.fence), clock::millis(self.lost));
        let differs =
            |report: &Report| report.lost_ms != lost_ms || report.fence_ms.is_some_and(|other| other != fence_ms);
        let differing = self.seen.iter().filter(|seen| differs(&seen.member.report) && !seen.member.is_strangers());
        let mut names: Vec<String> = differing.map(|seen| seen.member.node.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns all members of this name.
    #[must_use]
    pub fn named(&self, node: &str) -> Vec<Member> {
        self.seen.iter().filter(|seen| seen.member.node == node).map(|seen| seen.member.clone()).collect()
    }

    /// Forgets a member that was signed off.
    pub fn forget(&mut self, member: &Member) {
        self.seen.retain(|seen| !seen.is(member));
    }

    /// How long any node may serve without asking after its last read of the log, for certain. Another node's fence may be
    /// longer than this one's, and it's the other one that serves by it.
    fn certain_fence(&self) -> Duration {
        certainly(self.longest_fence())
    }

    fn longest_fence(&self) -> Duration {
        let others = self.seen.iter().filter_map(|seen| seen.member.report.fence_ms);
        others.map(Duration::from_millis).fold(self.fence, Duration::max)
    }

    fn note_longest(&mut self) {
        let all = self.seen.iter().map(|seen| Duration::from_millis(seen.member.report.lost_ms));
        self.longest = all.fold(self.longest, Duration::max);
    }

    /// How long a member may be silent and still count with being waited for, for certain: the longer of what it says and
    /// what this node has. Of nodes of which nothing is known, the longest that any has had.
    fn certain_loss(&self, member: &Member) -> Duration {
        let own = if member.is_strangers() { self.longest } else { self.lost };
        certainly(own.max(Duration::from_millis(member.report.lost_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::purge::table::Link;

    const FENCE: Duration = Duration::from_secs(4);
    const LOST: Duration = Duration::from_secs(60);

    fn member(node: &str, instance: u64, beat: u64) -> Member {
        let report = Report { applied: Position(0), fence_ms: Some(4_000), lost_ms: 60_000, beat };
        Member { node: node.to_owned(), instance, log: Incarnation(1), report }
    }

    fn listed(members: Vec<Member>) -> Listed {
        Listed { log: Incarnation(1), server: server("s"), members, ..Listed::default() }
    }

    /// A list on which those that are missing have been signed off.
    fn left(members: Vec<Member>, left: Vec<Member>) -> Listed {
        Listed { left, ..listed(members) }
    }

    fn names(members: &[Member]) -> String {
        members.iter().map(|member| member.node.as_str()).collect()
    }

    fn server(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn a_member_that_leaves_is_gone_and_one_that_a_lost_list_had_is_carried_on() {
        let mut roll = Roll::new(FENCE, LOST);
        assert_eq!(names(&roll.look(listed(vec![member("a", 1, 1), member("b", 2, 1)]), Uptime(1))), "ab");
        let gone = left(vec![member("a", 1, 2)], vec![member("b", 2, 1)]);
        assert_eq!(names(&roll.look(gone, Uptime(2))), "a", "it signed off");
        roll.look(listed(vec![member("a", 1, 2), member("c", 3, 1)]), Uptime(3));
        let anew = |beat| Listed { server: server("t"), ..listed(vec![member("a", 1, beat)]) };
        assert_eq!(names(&roll.look(anew(3), Uptime(4))), "ca");
        assert_eq!(names(&roll.look(anew(3), Uptime(61_252))), "ca");
        assert_eq!(names(&roll.look(anew(4), Uptime(61_253))), "a", "silent for too long");
    }

    /// The log is the same, its server too, and this node was never away.
    #[test]
    fn who_is_missing_on_a_list_that_was_put_back_has_not_left() {
        let mut roll = Roll::new(FENCE, LOST);
        roll.read(Incarnation(1), server("s"), true, Uptime(1));
        roll.look(listed(vec![member("a", 1, 1), member("b", 2, 7)]), Uptime(1));
        let without = || listed(vec![member("a", 1, 2)]);
        assert_eq!(names(&roll.look(without(), Uptime(2))), "ba");
        assert_eq!(names(&roll.unlisted()), "b", "to be signed on again");
        assert!(!roll.read(Incarnation(1), server("s"), false, Uptime(3)));
        let earlier = left(vec![member("a", 1, 2)], vec![member("b", 2, 6)]);
        assert_eq!(names(&roll.look(earlier, Uptime(3))), "ba", "it has spoken since it was signed off");
        assert_eq!(names(&roll.look(left(vec![member("a", 1, 3)], vec![member("b", 2, 7)]), Uptime(4))), "a");
        assert_eq!(names(&roll.look(without(), Uptime(5))), "a", "and is gone");
        roll.look(listed(vec![member("a", 1, 4), member("b", 2, 8)]), Uptime(6));
        assert_eq!(names(&roll.look(listed(vec![member("a", 1, 4)]), Uptime(61_255))), "ba");
        assert_eq!(names(&roll.look(listed(vec![member("a", 1, 5)]), Uptime(61_256))), "a", "silent for too long");
    }

    #[test]
    fn the_process_whose_directory_this_one_holds_is_waited_for_by_no_list() {
        let mut roll = Roll::new(FENCE, LOST);
        roll.look(listed(vec![member("a", 1, 1), member("b", 2, 1)]), Uptime(1));
        roll.ended(1);
        assert_eq!(names(&roll.look_back()), "b");
        let anew = Listed { server: server("t"), ..listed(vec![member("a", 1, 1), member("a", 3, 1)]) };
        assert_eq!(names(&roll.look(anew, Uptime(2))), "ba", "somebody put it back");
        assert!(roll.look_back().iter().all(|member| member.instance != 1));
    }

    #[test]
    fn what_a_disk_has_of_the_roll_outlives_the_process() {
        let mut roll = Roll::new(FENCE, LOST);
        assert_eq!(roll.known(), [Member::strangers(FENCE, LOST)], "a list may have been lost");
        roll.look(Listed { log: Incarnation(0), ..Listed::default() }, Uptime(1));
        assert_eq!(names(&roll.known()), "*", "there was none");
        let mut serving = member("s", 3, 9);
        serving.report.fence_ms = None;
        roll.look(listed(vec![serving, member("a", 1, 5), member("b", 2, 7)]), Uptime(1));
        assert_eq!((names(&roll.known()), roll.unlisted()), ("sab".to_owned(), vec![]));
        let roster = roll.roster(1);
        assert_eq!(names(&roster), "bs", "without this process");
        let restored = || {
            let mut roll = Roll::new(FENCE, LOST);
            roll.restore(roster.clone(), Uptime(5));
            roll
        };
        let mut same = restored();
        assert_eq!(names(&same.known()), "bs*", "the list may have had more since");
        let gone = left(vec![member("b", 2, 8)], vec![member("s", 3, 0)]);
        assert_eq!(names(&same.look(gone, Uptime(6))), "b", "the other has signed off");
        let mut other = restored();
        assert_eq!(names(&other.look(listed(vec![member("b", 2, 8)]), Uptime(6))), "sb", "the list was lost");
        assert_eq!((names(&other.unlisted()), names(&other.known())), ("s".to_owned(), "sb".to_owned()));
    }

    #[test]
    fn nodes_of_which_nothing_is_known_confirm_no_log_and_are_lost_in_time() {
        let mut roll = Roll::new(FENCE, LOST);
        roll.read(Incarnation(1), server("s"), true, Uptime(1_000));
        roll.look(listed(vec![Member::strangers(FENCE * 2, LOST), member("a", 1, 1)]), Uptime(1_000));
        assert!(roll.is_confirmed(1, Uptime(1_000)) && roll.differing().is_empty() && roll.has_strangers());
        assert!(roll.lost(Uptime(62_249)).is_empty());
        assert_eq!(names(&roll.lost(Uptime(62_250))), "*a");
    }

    /// Whoever isn't known may have the limits of any that is.
    #[test]
    fn nodes_of_which_nothing_is_known_have_the_longest_limits_that_are_known() {
        let mut patient = member("p", 2, 0);
        (patient.report.fence_ms, patient.report.lost_ms) = (Some(10_000), 90_000);
        let mut roll = Roll::new(FENCE, LOST);
        roll.restore(vec![patient.clone()], Uptime(1));
        let longest = Member::strangers(Duration::from_secs(10), Duration::from_secs(90));
        assert_eq!(roll.known(), [patient.clone(), longest]);
        let mut roll = Roll::new(FENCE, LOST);
        roll.look(listed(vec![Member::strangers(FENCE, LOST), patient.clone()]), Uptime(1));
        roll.look(left(vec![Member::strangers(FENCE, LOST)], vec![patient]), Uptime(2));
        assert!(roll.lost(Uptime(91_850)).is_empty());
        assert_eq!(names(&roll.lost(Uptime(91_851))), "*");
    }

    #[test]
    fn an_operator_signs_off_whom_he_knows_to_be_dead() {
        let mut roll = Roll::new(FENCE, LOST);
        roll.look(listed(vec![member("a", 1, 1), member("b", 2, 1), member("b", 3, 1)]), Uptime(1));
        let gone = roll.named("b");
        assert_eq!(gone.len(), 2);
        gone.iter().for_each(|member| roll.forget(member));
        let gone = listed(vec![member("a", 1, 1)]);
        assert_eq!(names(&roll.look(gone, Uptime(2))), "a", "forgotten at once");
    }

    #[test]
    fn the_silent_are_signed_off_after_a_while_but_for_those_that_serve_in_any_case() {
        let mut roll = Roll::new(FENCE, LOST);
        let mut serving = member("s", 3, 1);
        serving.report.fence_ms = None;
        for (now, beat) in [(1, 1), (50_000, 2), (61_000, 3)] {
            roll.look(listed(vec![member("a", 1, beat), member("b", 2, 1), serving.clone()]), Uptime(now));
        }
        assert_eq!(names(&roll.lost(Uptime(61_000))), "", "not for certain");
        assert_eq!(names(&roll.lost(Uptime(61_260))), "b");
    }

    #[test]
    fn of_limits_that_differ_the_longer_counts() {
        let mut roll = Roll::new(FENCE, LOST);
        let mut patient = member("p", 2, 1);
        (patient.report.fence_ms, patient.report.lost_ms) = (Some(10_000), 90_000);
        let mut hasty = member("h", 3, 1);
        hasty.report.lost_ms = 1_000;
        roll.look(listed(vec![member("a", 1, 1)]), Uptime(1));
        assert!(roll.differing().is_empty());
        roll.look(listed(vec![member("a", 1, 1), patient, hasty]), Uptime(1));
        assert_eq!(roll.differing(), ["h", "p"]);
        assert_eq!(
            names(&roll.lost(Uptime(61_251))),
            "ah",
            "one that counts for less is waited for as long as this one"
        );
        assert_eq!(names(&roll.lost(Uptime(91_850))), "ah");
        assert_eq!(names(&roll.lost(Uptime(91_851))), "aph");
        roll.read(Incarnation(1), server("s"), true, Uptime(1_000));
        let purge = Appended { log: Incarnation(1), position: Position(1), link: Link(1), server: server("s") };
        assert_eq!(roll.known_from(&purge, Uptime(9_000)), Uptime(11_250), "as long as the longest fence");
        assert!(!roll.is_confirmed(1, Uptime(11_249)) && roll.is_confirmed(1, Uptime(11_250)));
        // What a list has lost is carried on by the same measure.
        let anew = Listed { server: server("t"), ..listed(vec![]) };
        assert_eq!(names(&roll.look(anew, Uptime(91_850))), "p");
    }

    #[test]
    fn two_processes_of_one_name_are_noticed_when_both_report() {
        let mut roll = Roll::new(FENCE, LOST);
        roll.look(listed(vec![member("a", 1, 1), member("a", 2, 1)]), Uptime(1));
        assert!(!roll.has_namesake("a", 1), "it may have been this node's life before");
        roll.look(listed(vec![member("a", 1, 2), member("a", 2, 1)]), Uptime(2));
        assert!(!roll.has_namesake("a", 1));
        roll.look(listed(vec![member("a", 1, 3), member("a", 2, 2)]), Uptime(3));
        assert!(roll.has_namesake("a", 1));
    }

    #[test]
    fn a_place_is_confirmed_when_all_others_have_spoken_there_or_had_their_time() {
        let mut roll = Roll::new(FENCE, LOST);
        roll.read(Incarnation(1), server("s"), true, Uptime(1_000));
        assert!(roll.is_confirmed(1, Uptime(1_000)), "there is nobody else");
        roll.look(listed(vec![member("a", 1, 1), member("b", 2, 1)]), Uptime(1_000));
        assert!(!roll.is_confirmed(1, Uptime(1_000)), "that may be from before");
        roll.look(listed(vec![member("a", 1, 1), member("b", 2, 2)]), Uptime(1_100));
        assert!(roll.is_confirmed(1, Uptime(1_100)));
        roll.read(Incarnation(1), server("s"), true, Uptime(1_200));
        roll.look(listed(vec![member("a", 1, 1), member("b", 2, 3)]), Uptime(1_200));
        roll.look(listed(vec![member("a", 1, 1), member("b", 2, 2)]), Uptime(1_300));
        assert!(!roll.is_confirmed(1, Uptime(1_300)), "another node has signed it on again");
        roll.read(Incarnation(1), server("t"), false, Uptime(2_000));
        assert!(!roll.is_confirmed(1, Uptime(6_129)) && roll.is_confirmed(1, Uptime(6_130)));
    }

    #[test]
    fn all_are_known_a_fence_after_the_place_was_met() {
        let mut roll = Roll::new(FENCE, LOST);
        let purge = |server| Appended { log: Incarnation(1), position: Position(1), link: Link(1), server };
        assert_eq!(roll.known_from(&purge(server("s")), Uptime(9_000)), Uptime(13_130), "nothing is known");
        roll.read(Incarnation(1), server("s"), true, Uptime(1_000));
        roll.read(Incarnation(1), server("s"), false, Uptime(2_000));
        assert_eq!(roll.known_from(&purge(server("s")), Uptime(9_000)), Uptime(5_130));
        assert_eq!(roll.known_from(&purge(server("t")), Uptime(9_000)), Uptime(13_130), "restarted meanwhile");
        assert_eq!(roll.known_from(&purge(None), Uptime(9_000)), Uptime(13_130), "it doesn't say");
        roll.read(Incarnation(1), server("s"), true, Uptime(8_000));
        assert_eq!(roll.known_from(&purge(server("s")), Uptime(9_000)), Uptime(12_130), "this node was away");
    }
}
