//! What was heard of a log while purges wait: which records it has, and which of its members have reported since. Pure.
//!
//! A report counts for a purge only if it was heard after the purge's own record, on the same way and without a gap: then
//! it was made in a history that has that record. A number alone proves nothing, since a log that was put back gives the
//! same numbers to others.

use std::collections::{HashMap, VecDeque};

use super::{
    log::{Appended, Member, Tied, Word},
    table::{Incarnation, Link, Position},
};

/// Records that are remembered. A purge whose record isn't among them any more is looked after by asking.
const RECORDS_MAX: usize = 4_096;

/// Processes whose reports are remembered. With more nothing is.
const REPORTS_MAX: usize = 65_536;

/// What was heard since the last gap. It has at most one report of each member.
#[derive(Debug, Default)]
pub struct Heard {
    /// Words since the beginning.
    count: u64,
    /// Records, with the number of the word.
    records: VecDeque<(u64, Incarnation, Position, Link)>,
    /// The last report of each process, by its number.
    reports: HashMap<u64, Said>,
    changes: u64,
}

/// A report.
#[derive(Debug)]
struct Said {
    /// The number of the word.
    at: u64,
    node: String,
    log: Incarnation,
    applied: Position,
}

impl Heard {
    /// Takes a word in.
    pub fn take(&mut self, word: Word) {
        self.count += 1;
        match word {
            Word::Record(log, Tied { entry, .. }) => {
                if self.records.len() == RECORDS_MAX {
                    self.records.pop_front();
                }
                self.records.push_back((self.count, log, entry.position, entry.link));
            }
            Word::Report(Member { node, instance, log, report }) => {
                let before = self.reports.get(&instance).filter(|said| said.log == log && said.node == node);
                // Two of its reports may overtake each other. What it has applied it has applied.
                if before.is_some_and(|said| said.applied > report.applied) {
                    return;
                }
                if self.reports.len() == REPORTS_MAX && !self.reports.contains_key(&instance) {
                    self.forget();
                }
                self.reports.insert(instance, Said { at: self.count, node, log, applied: report.applied });
            }
            Word::Change => self.changes += 1,
        }
    }

    /// Forgets all: words may have been missed.
    pub fn forget(&mut self) {
        self.records = VecDeque::new();
        self.reports = HashMap::new();
        self.changes += 1;
    }

    /// How often something was heard that only a look at the list tells the meaning of.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether the record of a purge was heard, so that what members report of it is heard as well.
    #[must_use]
    pub fn has(&self, purge: &Appended) -> bool {
        self.told(purge).is_some()
    }

    /// Notes in a list of members, which was read after the purge was appended, who has reported since to have applied it.
    pub fn note(&self, purge: &Appended, members: &mut [Member]) {
        let Some(told) = self.told(purge) else { return };
        for member in members {
            let said = self.reports.get(&member.instance).filter(|said| said.node == member.node && said.at > told);
            if let Some(said) = said.filter(|said| said.log.covers(said.applied, purge.log, purge.position)) {
                member.log = said.log;
                member.report.applied = said.applied;
            }
        }
    }

    /// Returns the number of the word that told of a purge's record.
    fn told(&self, purge: &Appended) -> Option<u64> {
        let wanted = (purge.log, purge.position, purge.link);
        let found = self.records.iter().rev().find(|(_, log, position, link)| (*log, *position, *link) == wanted);
        found.map(|(at, ..)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::purge::log::{Entry, Report};

    const LOG: Incarnation = Incarnation(1 << 32);
    const LATER: Incarnation = Incarnation(2 << 32);

    fn record(position: u64, link: u64) -> Word {
        let entry = Entry { position: Position(position), link: Link(link), record: None };
        Word::Record(LOG, Tied { entry, before: Link(0) })
    }

    fn member(instance: u64, log: Incarnation, applied: u64) -> Member {
        let report = Report { applied: Position(applied), fence_ms: Some(4_000), lost_ms: 60_000, beat: 1 };
        Member { node: format!("n{instance}"), instance, log, report }
    }

    fn report(instance: u64, applied: u64) -> Word {
        Word::Report(member(instance, LOG, applied))
    }

    fn purge() -> Appended {
        Appended { log: LOG, position: Position(7), link: Link(77), server: None }
    }

    /// Returns who of two members that the list has at 6 has applied the purge at 7 by what was heard.
    fn applied(words: Vec<Word>) -> Vec<u64> {
        let mut heard = Heard::default();
        words.into_iter().for_each(|word| heard.take(word));
        applied_by(&heard)
    }

    fn applied_by(heard: &Heard) -> Vec<u64> {
        let mut members = vec![member(1, LOG, 6), member(2, LOG, 6)];
        heard.note(&purge(), &mut members);
        let has = |member: &&Member| member.log.covers(member.report.applied, LOG, Position(7));
        members.iter().filter(has).map(|member| member.instance).collect()
    }

    #[test]
    fn a_report_counts_only_after_the_purges_own_record() {
        let later = Word::Report(member(2, LATER, 0));
        let namesake = Word::Report(Member { node: "other".to_owned(), ..member(2, LOG, 7) });
        let table = [
            ("nothing", vec![], vec![]),
            ("the record alone", vec![record(7, 77)], vec![]),
            ("one", vec![record(7, 77), report(1, 7)], vec![1]),
            ("both, one of them further", vec![record(7, 77), report(1, 9), record(8, 88), report(2, 7)], vec![1, 2]),
            ("before the record", vec![report(1, 7), record(7, 77)], vec![]),
            ("without the record", vec![report(1, 7), report(2, 8)], vec![]),
            ("after another record of that number", vec![record(7, 76), report(1, 7)], vec![]),
            ("not as far", vec![record(7, 77), report(1, 6)], vec![]),
            ("an earlier one that was late", vec![record(7, 77), report(1, 7), report(1, 6)], vec![1]),
            ("one that began anew", vec![record(7, 77), later], vec![2]),
            ("one that isn't on the list", vec![record(7, 77), report(3, 7)], vec![]),
            ("another of that number", vec![record(7, 77), namesake], vec![]),
        ];
        for (name, words, wanted) in table {
            assert_eq!(applied(words), wanted, "{name}");
        }
    }

    #[test]
    fn after_a_gap_only_what_is_heard_anew_counts() {
        let mut heard = Heard::default();
        [record(7, 77), report(1, 7)].into_iter().for_each(|word| heard.take(word));
        assert!(heard.has(&purge()) && heard.changes() == 0);
        heard.forget();
        assert!(!heard.has(&purge()) && heard.changes() == 1, "it is to be looked after");
        heard.take(report(2, 7));
        assert!(applied_by(&heard).is_empty());
        [record(7, 77), report(2, 7)].into_iter().for_each(|word| heard.take(word));
        assert_eq!(applied_by(&heard), [2], "its record is told of once more");
        heard.take(Word::Change);
        assert_eq!(heard.changes(), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut heard = Heard::default();
        for number in 1..=RECORDS_MAX as u64 + 9 {
            heard.take(record(number, number * 11));
        }
        assert!(heard.records.len() == RECORDS_MAX && !heard.has(&purge()));
        for instance in 1..=2 * REPORTS_MAX as u64 + 9 {
            heard.take(report(instance, 1));
            assert!(heard.reports.len() <= REPORTS_MAX);
        }
        assert!(heard.records.is_empty(), "too many are a gap");
        (0..9).for_each(|applied| heard.take(report(1, applied)));
        assert_eq!(heard.reports.len(), 10, "one report of each");
    }
}
