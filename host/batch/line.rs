//! A queue in which higher priorities go first, but overtake only what came within the last second. The items of a
//! class wait in one, and so do the classes of a pool.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What has waited for so long isn't overtaken any more, so that a low priority doesn't starve.
const OVERTAKEN_MAX: Duration = Duration::from_secs(1);

/// The queue, first come, first served within a priority. It is ordered when something joins it or is raised, and never
/// because time has passed.
#[derive(Debug)]
pub(super) struct Line<T> {
    entries: VecDeque<Entry<T>>,
}

/// An entry of the queue.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) what: T,
    pub(super) priority: u8,
    pub(super) since: Instant,
}

impl<T> Line<T> {
    pub(super) const fn new() -> Self {
        Self { entries: VecDeque::new() }
    }

    /// Puts `what` at the end, or before those of lower priority there that joined within the last second.
    pub(super) fn join(&mut self, what: T, priority: u8, now: Instant) {
        let at = self.overtaking(self.entries.len(), priority, now);
        self.entries.insert(at, Entry { what, priority, since: now });
    }

    /// Gives the entry at `at` a higher priority, by which it overtakes those right before it.
    pub(super) fn raise(&mut self, at: usize, priority: u8, now: Instant) {
        let to = self.overtaking(at, priority, now);
        if let Some(entry) = self.entries.remove(at) {
            self.entries.insert(to, Entry { priority, ..entry });
        }
    }

    /// Returns the index that something of this priority at `end` moves to.
    fn overtaking(&self, end: usize, priority: u8, now: Instant) -> usize {
        let is_overtaken =
            |ahead: &&Entry<T>| ahead.priority < priority && now.saturating_duration_since(ahead.since) < OVERTAKEN_MAX;
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

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.iter()
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.entries.remove(at);
    }

    /// Takes the first `count` out.
    pub(super) fn take(&mut self, count: usize) -> impl Iterator<Item = T> {
        self.entries.drain(..count.min(self.entries.len())).map(|entry| entry.what)
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

    #[test]
    fn a_priority_overtakes_what_came_within_a_second() {
        let start = Instant::now();
        let mut line = Line::new();
        for (name, priority, millis) in [("a", 0, 0), ("b", 5, 500), ("c", 0, 600), ("d", 0, 700)] {
            line.join(name, priority, start + Duration::from_millis(millis));
        }
        assert_eq!(names(&line), ["b", "a", "c", "d"]);
        line.join("e", 5, start + SECOND);
        assert_eq!(names(&line), ["b", "a", "e", "c", "d"], "nobody passes what has waited for a second");
        line.join("f", 9, start + SECOND * 3);
        assert_eq!(names(&line), ["b", "a", "e", "c", "d", "f"]);
    }

    #[test]
    fn what_is_raised_passes_those_right_before_it_and_keeps_its_age() {
        let start = Instant::now();
        let mut line = Line::new();
        for (name, priority) in [("a", 7), ("b", 0), ("c", 0), ("d", 0)] {
            line.join(name, priority, start);
        }
        line.raise(2, 5, start + SECOND / 2);
        assert_eq!(names(&line), ["a", "c", "b", "d"]);
        line.raise(3, 9, start + SECOND);
        assert_eq!(names(&line), ["a", "c", "b", "d"], "all others have waited for a second");
        assert_eq!(line.get(1).map(|entry| (entry.priority, entry.since)), Some((5, start)));
        line.join("e", 10, start + SECOND);
        assert_eq!(names(&line), ["a", "c", "b", "d", "e"], "and so has what was raised");
    }
}
