//! Invalidations that this node applies by itself, at once, before the region's log has taken them. Pure.

use std::collections::{HashMap, VecDeque};

use super::table::{Mark, Standing};
use crate::cache::tag::Tag;

/// What this node has invalidated by itself, numbered in its own order. Bounded: past its limit the oldest fold into a
/// floor below which everything is to be confirmed by the origin.
#[derive(Debug)]
pub struct Local {
    rows: HashMap<Tag, u64>,
    by_age: VecDeque<(u64, Tag)>,
    count: u64,
    floor: u64,
    rows_max: usize,
}

impl Local {
    /// An empty table of at most so many rows.
    #[must_use]
    pub fn new(rows_max: usize) -> Self {
        Self { rows: HashMap::new(), by_age: VecDeque::new(), count: 0, floor: 0, rows_max }
    }

    /// Returns how many invalidations there have been.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Returns the number below which an entry's mark calls for a check; zero if none does.
    #[must_use]
    pub fn horizon(&self) -> u64 {
        if self.rows.is_empty() && self.floor == 0 { 0 } else { self.count }
    }

    /// Takes the floor away, because the region's table knows of all that lies below it. Returns whether there was one.
    pub const fn lift_floor(&mut self) -> bool {
        let was_raised = self.floor > 0;
        self.floor = 0;
        was_raised
    }

    /// Has everything be confirmed by the origin whose fetch has begun by now.
    pub const fn raise_floor(&mut self) {
        self.count += 1;
        self.floor = self.count;
    }

    /// Invalidates everything with this tag whose fetch has begun by now.
    pub fn add(&mut self, tag: Tag) -> u64 {
        self.count += 1;
        self.rows.insert(tag, self.count);
        self.by_age.push_back((self.count, tag));
        if self.by_age.len() > 2 * self.rows_max + 16 {
            // One tag again and again leaves many numbers of which only the last counts.
            self.by_age.retain(|(number, tag)| self.rows.get(tag) == Some(number));
        }
        while self.rows.len() > self.rows_max {
            let Some((number, tag)) = self.by_age.pop_front() else { break };
            if self.rows.get(&tag) == Some(&number) {
                self.rows.remove(&tag);
                self.floor = number;
            }
        }
        self.count
    }

    /// Forgets an invalidation that the region's log has taken and this node has applied, unless there has been another
    /// of its tag.
    pub fn settle(&mut self, tag: &Tag, number: u64) {
        if self.rows.get(tag).is_some_and(|last| *last <= number) {
            self.rows.remove(tag);
        }
        while self.by_age.front().is_some_and(|(number, tag)| self.rows.get(tag) != Some(number)) {
            self.by_age.pop_front();
        }
    }

    /// Judges what was fetched at `mark` and carries `tags`.
    #[must_use]
    pub fn check(&self, tags: impl IntoIterator<Item = Tag>, mark: &Mark) -> Standing {
        if self.floor > mark.local {
            return Standing::Doubtful;
        }
        if self.rows.is_empty() {
            return Standing::Good;
        }
        let gone = tags.into_iter().any(|tag| self.rows.get(&tag).is_some_and(|number| *number > mark.local));
        if gone { Standing::Gone } else { Standing::Good }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(local: u64) -> Mark {
        Mark { local, ..Mark::default() }
    }

    fn tag(name: u8) -> Tag {
        Tag::named(&[name])
    }

    #[test]
    fn what_was_fetched_before_its_invalidation_is_gone_until_that_is_settled() {
        let mut local = Local::new(10);
        let first = local.add(tag(1));
        assert_eq!(local.check([tag(1)], &mark(0)), Standing::Gone);
        assert_eq!(local.check([tag(2)], &mark(0)), Standing::Good);
        assert_eq!(local.check([tag(1)], &mark(first)), Standing::Good, "fetched afterwards");
        let second = local.add(tag(1));
        local.settle(&tag(1), first);
        assert_eq!(local.check([tag(1)], &mark(first)), Standing::Gone, "there was another");
        local.settle(&tag(1), second);
        assert_eq!(local.check([tag(1)], &mark(first)), Standing::Good, "the region's table knows it now");
        assert!(local.by_age.is_empty());
    }

    #[test]
    fn a_floor_makes_all_that_is_older_doubtful() {
        let mut local = Local::new(2);
        local.raise_floor();
        assert_eq!(local.check([tag(1)], &mark(0)), Standing::Doubtful);
        assert_eq!(local.check([tag(1)], &mark(local.count())), Standing::Good);
        assert_eq!(local.horizon(), 1);
        assert!(local.lift_floor() && !local.lift_floor());
        assert_eq!(local.check([tag(1)], &mark(0)), Standing::Good);
    }

    #[test]
    fn a_row_that_folds_makes_what_is_older_doubtful() {
        let mut local = Local::new(2);
        for name in 1..=3 {
            local.add(tag(name));
        }
        assert_eq!(local.check([tag(1)], &mark(0)), Standing::Doubtful);
        assert_eq!(local.check([tag(9)], &mark(1)), Standing::Good);
        assert_eq!(local.check([tag(3)], &mark(1)), Standing::Gone);
        for _ in 0..1_000 {
            local.add(tag(3));
        }
        assert!(local.by_age.len() <= 21, "one tag again and again is bounded as well");
    }
}
