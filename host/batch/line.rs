//! A queue in which higher ranks go first, but overtake only what came within the last second. What a tenant has waiting
//! in a class waits in one, and so do the classes in which a tenant has something waiting.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What has waited for so long isn't overtaken any more, so that a low priority doesn't starve.
const OVERTAKEN_MAX: Duration = Duration::from_secs(1);

/// The queue, first come, first served within a rank. It is ordered when something joins it or is raised, and never
/// because time has passed.
#[derive(Debug)]
pub(super) struct Line<T> {
    entries: VecDeque<Entry<T>>,
}

/// An entry of the queue.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) what: T,
    pub(super) rank: Rank,
    pub(super) since: Instant,
}

/// What an entry's place depends on: higher priorities first, within one the earliest deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rank {
    pub(super) priority: u8,
    /// `None` is later than any.
    pub(super) deadline: Option<Instant>,
}

impl Rank {
    pub(super) const fn of(priority: u8, deadline: Option<Instant>) -> Self {
        Self { priority, deadline }
    }

    /// Whether it goes before `other`.
    pub(super) fn precedes(self, other: Self) -> bool {
        let earlier = match (self.deadline, other.deadline) {
            (Some(own), Some(theirs)) => own < theirs,
            (Some(_), None) => true,
            (None, _) => false,
        };
        self.priority > other.priority || self.priority == other.priority && earlier
    }

    /// Returns the one of both that goes first.
    pub(super) fn best(self, other: Self) -> Self {
        if other.precedes(self) { other } else { self }
    }
}

impl<T> Entry<T> {
    /// Returns the priority by which it is compared with entries of other lines, of which `top` is the highest: no other
    /// overtakes what has waited for a second.
    pub(super) fn level(&self, top: u8, now: Instant) -> u8 {
        let is_aged = now.saturating_duration_since(self.since) >= OVERTAKEN_MAX;
        if is_aged { self.rank.priority.max(top) } else { self.rank.priority }
    }
}

impl<T> Line<T> {
    pub(super) const fn new() -> Self {
        Self { entries: VecDeque::new() }
    }

    /// Puts `what` at the end, or before those of lower rank there that joined within the last second.
    pub(super) fn join(&mut self, what: T, rank: Rank, now: Instant) {
        let at = self.overtaking(self.entries.len(), rank, now);
        self.entries.insert(at, Entry { what, rank, since: now });
    }

    /// Gives the entry at `at` a higher rank, by which it overtakes those right before it.
    pub(super) fn raise(&mut self, at: usize, rank: Rank, now: Instant) {
        let to = self.overtaking(at, rank, now);
        if let Some(entry) = self.entries.remove(at) {
            self.entries.insert(to, Entry { rank, ..entry });
        }
    }

    /// Returns the index that something of this rank at `end` moves to.
    pub(super) fn overtaking(&self, end: usize, rank: Rank, now: Instant) -> usize {
        let is_overtaken =
            |ahead: &&Entry<T>| rank.precedes(ahead.rank) && now.saturating_duration_since(ahead.since) < OVERTAKEN_MAX;
        end - self.entries.iter().take(end).rev().take_while(is_overtaken).count()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn get(&self, at: usize) -> Option<&Entry<T>> {
        self.entries.get(at)
    }

    pub(super) fn position(&self, is: impl Fn(&T) -> bool) -> Option<usize> {
        self.entries.iter().position(|entry| is(&entry.what))
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Entry<T>> {
        self.entries.get_mut(at)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry<T>> {
        self.entries.iter_mut()
    }

    pub(super) fn remove(&mut self, at: usize) -> Option<Entry<T>> {
        self.entries.remove(at)
    }

    /// Drops those that `keep` is false for.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.entries.retain(|entry| keep(&entry.what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn names(line: &Line<&'static str>) -> Vec<&'static str> {
        line.iter().map(|entry| entry.what).collect()
    }

    const fn of(priority: u8) -> Rank {
        Rank { priority, deadline: None }
    }

    #[test]
    fn a_priority_overtakes_what_came_within_a_second() {
        let start = Instant::now();
        let mut line = Line::new();
        for (name, priority, millis) in [("a", 0, 0), ("b", 5, 500), ("c", 0, 600), ("d", 0, 700)] {
            line.join(name, of(priority), start + Duration::from_millis(millis));
        }
        assert_eq!(names(&line), ["b", "a", "c", "d"]);
        line.join("e", of(5), start + SECOND);
        assert_eq!(names(&line), ["b", "a", "e", "c", "d"], "nobody passes what has waited for a second");
        line.join("f", of(9), start + SECOND * 3);
        assert_eq!(names(&line), ["b", "a", "e", "c", "d", "f"]);
    }

    #[test]
    fn within_a_priority_the_earliest_deadline_goes_first() {
        let start = Instant::now();
        let mut line = Line::new();
        for (name, priority, deadline) in [
            ("none", 0, None),
            ("late", 0, Some(9)),
            ("soon", 0, Some(3)),
            ("high", 1, Some(30)),
            ("soon too", 0, Some(3)),
        ] {
            let deadline = deadline.map(|seconds| start + SECOND * seconds);
            line.join(name, Rank { priority, deadline }, start);
        }
        assert_eq!(names(&line), ["high", "soon", "soon too", "late", "none"]);
        line.join("sooner", Rank { priority: 0, deadline: Some(start + SECOND * 2) }, start + SECOND);
        assert_eq!(
            names(&line),
            ["high", "soon", "soon too", "late", "none", "sooner"],
            "not past what waited a second"
        );
    }

    #[test]
    fn what_is_raised_passes_those_right_before_it_and_keeps_its_age() {
        let start = Instant::now();
        let mut line = Line::new();
        for (name, priority) in [("a", 7), ("b", 0), ("c", 0), ("d", 0)] {
            line.join(name, of(priority), start);
        }
        line.raise(2, of(5), start + SECOND / 2);
        assert_eq!(names(&line), ["a", "c", "b", "d"]);
        line.raise(3, of(9), start + SECOND);
        assert_eq!(names(&line), ["a", "c", "b", "d"], "all others have waited for a second");
        assert_eq!(line.get(1).map(|entry| (entry.rank.priority, entry.since)), Some((5, start)));
        line.join("e", of(10), start + SECOND);
        assert_eq!(names(&line), ["a", "c", "b", "d", "e"], "and so has what was raised");
    }

    #[test]
    fn what_has_waited_for_a_second_counts_as_much_as_the_highest() {
        let start = Instant::now();
        let entry = Entry { what: (), rank: of(3), since: start };
        assert_eq!((entry.level(9, start), entry.level(9, start + SECOND), entry.level(1, start + SECOND)), (3, 9, 3));
    }
}
