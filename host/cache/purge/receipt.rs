//! Whether a purge is complete: every node has applied it, or can't serve what it purged any more. Pure.

use std::{collections::BTreeMap, time::Duration};

use super::{
    fence::certainly,
    log::{Appended, Member},
    table::Position,
};
use crate::clock::Uptime;

/// Which nodes have applied a purge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Where the purge stands in the log.
    pub position: Position,
    /// Nodes that have applied it.
    pub applied: Vec<String>,
    /// Nodes that haven't, and ask the origin before they serve anything that was stored before it: their fence expired.
    pub expired: Vec<String>,
    /// Nodes that have neither in time. Empty for a purge that is complete.
    pub missing: Vec<String>,
}

/// How far signing off a node's processes came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignedOff {
    /// Processes that were signed off.
    pub done: usize,
    /// Processes that were not, because the time was over; `None` if it was before anything was known of them.
    pub left: Option<usize>,
}

impl SignedOff {
    /// The time was over before the log's list was there.
    #[must_use]
    pub const fn unknown() -> Self {
        Self { done: 0, left: None }
    }

    /// Returns what was done on two lists, on each of which a process of the node is once.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let left = self.left.zip(other.left).map(|(one, other)| one.max(other));
        Self { done: self.done.max(other.done), left }
    }
}

/// What is known of the log at the time of a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standpoint {
    /// When the purge had been appended.
    pub appended: Uptime,
    /// From then on every node that may serve without asking is among the members. Later than now for a while after the
    /// log began anew, or its server was restarted, or this node came back to it.
    pub known_from: Uptime,
}

/// Judges a purge by what the members last said, and whether it is complete.
#[must_use]
pub fn judge(members: &[Member], purge: &Appended, point: &Standpoint, now: Uptime) -> (Receipt, bool) {
    let mut receipt = Receipt { position: purge.position, ..Receipt::default() };
    let mut known = now >= point.known_from;
    for member in members {
        let is_expired = member.report.fence_ms.is_some_and(|fence| is_over(Duration::from_millis(fence), point, now));
        if member.is_strangers() {
            // They have no names.
            known &= is_expired;
            continue;
        }
        let names = if member.log.covers(member.report.applied, purge.log, purge.position) {
            &mut receipt.applied
        } else if is_expired {
            &mut receipt.expired
        } else {
            &mut receipt.missing
        };
        names.push(member.node.clone());
    }
    receipt.tidy();
    let complete = receipt.missing.is_empty() && known;
    (receipt, complete)
}

/// Returns when time alone may make a purge complete that isn't at `now`: the next fence is over, or all are known.
#[must_use]
pub fn due(members: &[Member], purge: &Appended, point: &Standpoint, now: Uptime) -> Option<Uptime> {
    let is_missing = |member: &&Member| !member.log.covers(member.report.applied, purge.log, purge.position);
    let fences = members.iter().filter(is_missing).filter_map(|member| member.report.fence_ms);
    // Times are in whole milliseconds.
    let over = |fence| point.appended.plus(certainly(Duration::from_millis(fence)) + Duration::from_millis(1));
    fences.map(over).chain([point.known_from]).filter(|at| *at > now).min()
}

/// A node that hadn't read the purge when it was appended had begun its last read before.
fn is_over(fence: Duration, point: &Standpoint, now: Uptime) -> bool {
    now.since(point.appended) >= certainly(fence)
}

impl Receipt {
    /// Returns the regions of the nodes whose names have one (`eu/node-1`), and whether the purge is complete in each.
    #[must_use]
    pub fn regions(&self) -> BTreeMap<String, bool> {
        let region = |name: &String| name.split_once('/').map(|(region, _)| region.to_owned());
        let mut regions: BTreeMap<String, bool> =
            self.applied.iter().chain(&self.expired).filter_map(region).map(|region| (region, true)).collect();
        regions.extend(self.missing.iter().filter_map(region).map(|region| (region, false)));
        regions
    }

    /// Names each node once, under the worst that is known of it: two processes may have one name.
    fn tidy(&mut self) {
        for names in [&mut self.applied, &mut self.expired, &mut self.missing] {
            names.sort_unstable();
            names.dedup();
        }
        let Self { applied, expired, missing, .. } = self;
        expired.retain(|name| !missing.contains(name));
        applied.retain(|name| !missing.contains(name) && !expired.contains(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::purge::{
        log::Report,
        table::{Incarnation, Link},
    };

    fn member(node: &str, log: u64, applied: u64, fence_ms: Option<u64>) -> Member {
        let report = Report { applied: Position(applied), fence_ms, lost_ms: 60_000, beat: 0 };
        Member { node: node.to_owned(), instance: 0, log: Incarnation(log << 32), report }
    }

    fn judged(members: &[Member], known_after_ms: u64, after_ms: u64) -> (String, bool) {
        let purge = Appended { log: Incarnation(1 << 32), position: Position(7), link: Link(1), server: None };
        let point = Standpoint { appended: Uptime(1_000), known_from: Uptime(1_000 + known_after_ms) };
        let (receipt, complete) = judge(members, &purge, &point, Uptime(1_000 + after_ms));
        let part = |names: &[String]| names.join(" ");
        (format!("{}|{}|{}", part(&receipt.applied), part(&receipt.expired), part(&receipt.missing)), complete)
    }

    #[test]
    fn a_region_is_complete_if_none_of_its_nodes_is_missing() {
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let receipt = Receipt {
            applied: names(&["eu/a", "us/a", "n1"]),
            expired: names(&["ap/a"]),
            missing: names(&["eu/b", "(nodes that have not reported yet)"]),
            ..Receipt::default()
        };
        let regions: Vec<(String, bool)> = receipt.regions().into_iter().collect();
        assert_eq!(regions, [("ap", true), ("eu", false), ("us", true)].map(|(name, is)| (name.to_owned(), is)));
    }

    #[test]
    fn a_node_is_signed_off_when_it_is_on_neither_list() {
        let off = |done, left| SignedOff { done, left };
        for (one, other, wanted) in [
            (off(1, Some(0)), off(1, Some(0)), off(1, Some(0))),
            (off(0, Some(0)), off(1, Some(0)), off(1, Some(0))),
            (off(1, Some(0)), off(0, Some(1)), off(1, Some(1))),
            (off(1, Some(0)), SignedOff::unknown(), off(1, None)),
        ] {
            assert_eq!((one.and(other), other.and(one)), (wanted, wanted));
        }
    }

    #[test]
    fn a_look_is_due_when_the_next_fence_is_over() {
        let purge = Appended { log: Incarnation(1 << 32), position: Position(7), link: Link(1), server: None };
        let point =
            |known_after_ms: u64| Standpoint { appended: Uptime(1_000), known_from: Uptime(1_000 + known_after_ms) };
        let (done, late) = (member("a", 1, 7, Some(4_000)), member("b", 1, 6, Some(4_000)));
        let (later, never) = (member("c", 1, 6, Some(9_000)), member("d", 1, 6, None));
        let table = [
            ("nobody is missing", vec![done.clone()], 0, 0, None),
            ("one is", vec![done.clone(), late.clone(), later.clone()], 0, 0, Some(5_131)),
            ("its fence is over", vec![done.clone(), late.clone(), later], 0, 4_131, Some(10_231)),
            ("that of one that goes on serving never is", vec![done, never], 0, 0, None),
            ("not all may be known", vec![late], 3_000, 0, Some(4_000)),
        ];
        for (name, members, known_after, after, wanted) in table {
            let due = due(&members, &purge, &point(known_after), Uptime(1_000 + after));
            assert_eq!(due, wanted.map(Uptime), "{name}");
        }
    }

    #[test]
    fn a_purge_is_complete_when_nobody_can_serve_what_it_purged() {
        let strangers = Member::strangers(Duration::from_secs(4), Duration::from_secs(60));
        let (done, late) = (member("a", 1, 7, Some(4_000)), member("b", 1, 6, Some(4_000)));
        let table = [
            ("all have applied it", vec![done.clone(), member("b", 1, 9, None)], 0, 0, "a b||", true),
            ("one hasn't", vec![done.clone(), late.clone()], 0, 4_100, "a||b", false),
            ("its fence has expired", vec![done.clone(), late], 0, 4_130, "a|b|", true),
            ("one that goes on serving", vec![done.clone(), member("c", 1, 6, None)], 0, 99_000, "a||c", false),
            ("not all may be known", vec![done.clone()], 4_130, 4_100, "a||", false),
            ("now they are", vec![done.clone()], 4_130, 4_130, "a||", true),
            ("one began anew", vec![done.clone(), member("b", 2, 0, Some(4_000))], 0, 0, "a b||", true),
            ("one that hasn't begun anew yet", vec![done.clone(), member("b", 0, 9, Some(4_000))], 0, 0, "a||b", false),
            ("two of one name", vec![done.clone(), member("a", 1, 6, Some(4_000))], 0, 0, "||a", false),
            ("there may be others", vec![done.clone(), strangers.clone()], 0, 4_100, "a||", false),
            ("which would have no fence left", vec![done, strangers], 0, 4_130, "a||", true),
            ("nobody at all", vec![], 0, 0, "||", true),
        ];
        for (name, members, known_after, after, wanted, complete) in table {
            assert_eq!(judged(&members, known_after, after), (wanted.to_owned(), complete), "{name}");
        }
    }
}
