//! What results of a class usually are like. Each batch has one vote, however many items it has, so that one request's
//! odd items don't outvote what is known. Pure: the time is an argument.

use std::{collections::HashMap, time::Duration};

use super::quarantine::Digest;
use crate::clock::Uptime;

/// Votes from which on it is known what is usual.
const VOTES_MIN: u32 = 8;

/// Votes that count: after as many others it isn't known any more.
const VOTES_MAX: u32 = 64;

/// A table of classes, each until no result of the usual kind has come for a while.
#[derive(Debug)]
pub struct Usual<T> {
    classes_max: usize,
    lasts: Duration,
    rows: HashMap<Digest, Row<T>>,
}

#[derive(Debug)]
struct Row<T> {
    kind: T,
    votes: u32,
    until: Uptime,
}

impl<T: Copy + PartialEq> Usual<T> {
    /// Returns an empty table of at most `classes_max` classes. What is usual is so for `lasts` after the last batch
    /// that was like it.
    #[must_use]
    pub fn new(classes_max: usize, lasts: Duration) -> Self {
        Self { classes_max, lasts, rows: HashMap::new() }
    }

    /// Takes in the kind of a batch's results. A further class has no place in a table that is full of others whose
    /// time isn't over.
    pub fn add(&mut self, class: Digest, kind: T, now: Uptime) {
        let until = now.plus(self.lasts);
        match self.rows.get_mut(&class).filter(|row| now < row.until) {
            Some(row) if row.kind == kind => {
                row.votes = (row.votes + 1).min(VOTES_MAX);
                row.until = until;
                return;
            }
            Some(row) if row.votes > 1 => {
                row.votes -= 1;
                return;
            }
            _ => {}
        }
        if !self.rows.contains_key(&class) && self.rows.len() >= self.classes_max {
            // One vote says little, and keeps nobody out.
            self.rows.retain(|_, row| now < row.until && row.votes > 1);
            if self.rows.len() >= self.classes_max {
                return;
            }
        }
        self.rows.insert(class, Row { kind, votes: 1, until });
    }

    /// Returns what results of a class usually are like, if that is known.
    #[must_use]
    pub fn of(&self, class: &Digest, now: Uptime) -> Option<T> {
        self.rows.get(class).filter(|row| row.votes >= VOTES_MIN && now < row.until).map(|row| row.kind)
    }

    /// Whether nothing is known of any class.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: fn(u64) -> Uptime = Uptime;
    const CLASS: Digest = [1; 32];

    fn table(classes_max: usize) -> Usual<char> {
        Usual::new(classes_max, Duration::from_millis(100))
    }

    /// Adds each kind in its turn.
    fn add(table: &mut Usual<char>, kinds: &str, now: u64) {
        kinds.chars().for_each(|kind| table.add(CLASS, kind, T(now)));
    }

    #[test]
    fn what_most_batches_are_like_is_usual_from_eight_on() {
        let eight = "aaaaaaaa";
        for (kinds, wanted) in [
            (String::new(), None),
            (eight[1..].to_owned(), None),
            (eight.to_owned(), Some('a')),
            (format!("{eight}b"), None),
            (format!("b{}", &eight[1..]), None),
            (format!("b{eight}"), Some('a')),
            (format!("{}{}", eight.repeat(4), "b".repeat(24)), Some('a')),
            (format!("{}{}", eight.repeat(4), "b".repeat(25)), None),
            (format!("{}{}", eight.repeat(100), "b".repeat(64 + 8)), Some('b')),
        ] {
            let mut table = table(8);
            add(&mut table, &kinds, 0);
            assert_eq!(table.of(&CLASS, T(1)), wanted, "{kinds}");
            assert_eq!(table.of(&[2; 32], T(1)), None);
        }
    }

    #[test]
    fn it_is_forgotten_when_nothing_like_it_has_come_for_a_while() {
        let mut table = table(8);
        add(&mut table, "aaaaaaaaaa", 0);
        add(&mut table, "b", 60);
        assert_eq!([99, 100].map(|now| table.of(&CLASS, T(now))), [Some('a'), None], "others don't make it last");
        add(&mut table, "a", 99);
        assert_eq!(table.of(&CLASS, T(198)), Some('a'));
        add(&mut table, "bbbbbbbb", 199);
        assert_eq!(table.of(&CLASS, T(200)), Some('b'));
    }

    #[test]
    fn a_full_table_takes_a_class_in_whose_place_is_free() {
        let mut table = table(1);
        add(&mut table, "aa", 0);
        table.add([2; 32], 'b', T(1));
        assert_eq!(table.rows.keys().collect::<Vec<_>>(), [&CLASS]);
        table.add([2; 32], 'b', T(100));
        assert_eq!(table.rows.keys().collect::<Vec<_>>(), [&[2; 32]]);
        let mut none = Usual::new(0, Duration::from_millis(100));
        none.add(CLASS, 'a', T(0));
        assert!(none.is_empty());
    }
}
