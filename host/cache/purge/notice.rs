//! What of the records that a log says by itself follows a table, and how that goes together with what is read of the same
//! log meanwhile. Pure.
//!
//! A notice is taken for what it is only if it is the very next record: of the table's incarnation, at its next position,
//! with its link. In any doubt nothing is taken, and the log is read.

use std::collections::VecDeque;

use super::{
    log::{Entry, Tied},
    table::{Cursor, Incarnation, Link, Position},
};

/// Records that are remembered. If more come by notice while one read is under way, the read is repeated.
const TRAIL_MAX: usize = 4_096;

/// Returns what of `told` follows a table that stands at `at`; nothing if the table has all of it. `None` if anything
/// doesn't fit, or can't be understood.
#[must_use]
pub fn following(at: Cursor, told: &[Tied]) -> Option<Vec<Entry>> {
    let mut at = at;
    let mut entries = Vec::new();
    for Tied { entry, before } in told {
        // Said twice, after a watch was opened anew, or late, after it was read.
        if entry.position < at.position || (entry.position == at.position && entry.link == at.link) {
            continue;
        }
        let is_next = entry.position.0 == at.position.0.saturating_add(1) && *before == at.link;
        if !is_next || entry.record.is_none() {
            return None;
        }
        at = Cursor { position: entry.position, link: entry.link, ..at };
        entries.push(entry.clone());
    }
    Some(entries)
}

/// The last records that a table took, by which it is told what history it has.
#[derive(Debug, Default)]
pub struct Trail {
    log: Incarnation,
    points: VecDeque<(Position, Link)>,
}

impl Trail {
    /// Notes that the table of this incarnation took these.
    pub fn add(&mut self, log: Incarnation, entries: &[Entry]) {
        if self.log != log {
            (self.log, self.points) = (log, VecDeque::new());
        }
        self.points.extend(entries.iter().map(|entry| (entry.position, entry.link)));
        self.points.drain(..self.points.len().saturating_sub(TRAIL_MAX));
    }

    /// Whether this very record was taken, and not another one at its position.
    #[must_use]
    pub fn has(&self, log: Incarnation, position: Position, link: Link) -> bool {
        self.log == log && self.points.contains(&(position, link))
    }

    /// Returns what a table lacks of `entries`, which a read has brought that began when the table stood at `from`. It
    /// stands at `at` now, because of notices. `None` if that isn't certainly a point of the history which was read.
    #[must_use]
    pub fn lacking(&self, from: Cursor, at: Cursor, mut entries: Vec<Entry>) -> Option<Vec<Entry>> {
        if at == from {
            return Some(entries);
        }
        if at.log != from.log || at.position <= from.position {
            return None;
        }
        // The log ended at `from` when it was read, and the table has been there.
        let Some((last, link)) = entries.last().map(|entry| (entry.position, entry.link)) else {
            return Some(entries);
        };
        if last < at.position {
            return self.has(at.log, last, link).then(Vec::new);
        }
        let here = entries.iter().find(|entry| entry.position == at.position)?;
        if here.link != at.link {
            return None;
        }
        entries.retain(|entry| entry.position > at.position);
        Some(entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::{
        purge::table::{Kind, Reach, Record},
        tag::Tag,
    };

    const LOG: Incarnation = Incarnation(1);

    fn entry(position: u64, link: u64) -> Entry {
        let position = Position(position);
        let record = Record { position, tag: Tag::named(b"t"), kind: Kind::Hard, reach: Reach::Entries };
        Entry { position, link: Link(link), record: Some(record) }
    }

    fn tied(position: u64, link: u64, before: u64) -> Tied {
        Tied { entry: entry(position, link), before: Link(before) }
    }

    fn cursor(position: u64, link: u64) -> Cursor {
        Cursor { log: LOG, position: Position(position), link: Link(link) }
    }

    fn positions(entries: Option<Vec<Entry>>) -> Option<Vec<u64>> {
        entries.map(|entries| entries.iter().map(|entry| entry.position.0).collect())
    }

    #[test]
    fn a_notice_is_taken_only_if_it_is_the_very_next_record() {
        let unreadable = Tied { entry: Entry { record: None, ..entry(6, 66) }, before: Link(55) };
        let table = [
            ("nothing", vec![], Some(vec![])),
            ("the next", vec![tied(6, 66, 55)], Some(vec![6])),
            ("the next two", vec![tied(6, 66, 55), tied(7, 77, 66)], Some(vec![6, 7])),
            ("one that it has", vec![tied(5, 55, 44)], Some(vec![])),
            ("one from before", vec![tied(3, 33, 22)], Some(vec![])),
            ("once more, and the next", vec![tied(4, 44, 33), tied(5, 55, 44), tied(6, 66, 55)], Some(vec![6])),
            ("the next, twice", vec![tied(6, 66, 55), tied(6, 66, 55)], Some(vec![6])),
            ("a gap", vec![tied(7, 77, 66)], None),
            ("a gap after the next", vec![tied(6, 66, 55), tied(8, 88, 77)], None),
            ("another history", vec![tied(6, 66, 54)], None),
            ("another history of what it has", vec![tied(5, 56, 44)], None),
            ("another history later", vec![tied(6, 66, 55), tied(7, 77, 65)], None),
            ("out of order", vec![tied(7, 77, 66), tied(6, 66, 55)], None),
            ("what can't be understood", vec![unreadable], None),
        ];
        for (name, told, wanted) in table {
            assert_eq!(positions(following(cursor(5, 55), &told)), wanted, "{name}");
        }
    }

    #[test]
    fn a_read_and_notices_go_together_only_if_they_are_of_one_history() {
        let mut trail = Trail::default();
        trail.add(LOG, &[entry(6, 66), entry(7, 77)]);
        let other = Cursor { log: Incarnation(2), ..cursor(7, 77) };
        let table = [
            ("no notice meanwhile", cursor(5, 55), vec![entry(6, 66)], Some(vec![6])),
            ("nothing read", cursor(7, 77), vec![], Some(vec![])),
            ("as far", cursor(7, 77), vec![entry(6, 66), entry(7, 77)], Some(vec![])),
            ("the read is ahead", cursor(6, 66), vec![entry(6, 66), entry(7, 77)], Some(vec![7])),
            ("the notices are ahead", cursor(7, 77), vec![entry(6, 66)], Some(vec![])),
            ("ahead in another history", cursor(7, 77), vec![entry(6, 65)], None),
            ("as far in another history", cursor(7, 77), vec![entry(6, 66), entry(7, 76)], None),
            ("another incarnation", other, vec![entry(6, 66), entry(7, 77)], None),
            ("further back", cursor(4, 44), vec![entry(6, 66)], None),
        ];
        for (name, at, entries, wanted) in table {
            assert_eq!(positions(trail.lacking(cursor(5, 55), at, entries)), wanted, "{name}");
        }
        assert!(trail.has(LOG, Position(6), Link(66)) && !trail.has(LOG, Position(6), Link(65)));
        trail.add(Incarnation(2), &[entry(1, 11)]);
        assert!(!trail.has(LOG, Position(6), Link(66)) && trail.has(Incarnation(2), Position(1), Link(11)));
        assert_eq!(trail.lacking(cursor(5, 55), cursor(7, 77), vec![entry(6, 66)]), None, "that was forgotten");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut trail = Trail::default();
        (1..=3 * TRAIL_MAX as u64).for_each(|position| trail.add(LOG, &[entry(position, position)]));
        assert_eq!(trail.points.len(), TRAIL_MAX);
        assert_eq!(trail.points.back(), Some(&(Position(3 * TRAIL_MAX as u64), Link(3 * TRAIL_MAX as u64))));
    }

    proptest! {
        /// In whichever order, however often and with whichever gaps records are told: a table has a prefix of the log,
        /// without a gap.
        #[test]
        fn no_record_is_passed_over(told in prop::collection::vec(1..9_u64, 0..40)) {
            let mut at = cursor(0, 0);
            let mut applied = Vec::new();
            for position in told {
                let one = tied(position, position * 11, (position - 1) * 11);
                for entry in following(at, &[one]).unwrap_or_default() {
                    at = cursor(entry.position.0, entry.link.0);
                    applied.push(entry.position.0);
                }
            }
            let wanted: Vec<u64> = (1..=applied.len() as u64).collect();
            prop_assert_eq!(applied, wanted);
        }
    }
}
