//! Which dictionaries are stored, in the order in which they were. Pure.

use std::collections::VecDeque;

use crate::cache::key::Key;

/// Dictionaries at most, all together: each is looked at when one is added.
const DICTIONARIES_MAX: usize = 4_096;

/// The stored dictionaries, the newest last. The tiers have their bodies.
#[derive(Debug)]
pub struct Shelf {
    entries: VecDeque<Entry>,
    bytes: u64,
    bytes_max: u64,
}

#[derive(Debug)]
struct Entry {
    line: Key,
    key: Key,
    bytes: u64,
}

/// What is to be done about a dictionary.
#[derive(Debug, PartialEq, Eq)]
pub enum Added {
    /// It is to be stored, and those with these keys are to be removed.
    Stored(Vec<Key>),
    /// It is larger than all may be together.
    TooLarge,
}

impl Shelf {
    /// Returns an empty shelf for so many bytes.
    #[must_use]
    pub const fn new(bytes_max: u64) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds a dictionary, of which `line` may have `line_max`; one that is there becomes the newest. The oldest make room:
    /// of its line first, then of all.
    pub fn add(&mut self, line: Key, key: Key, bytes: u64, line_max: usize) -> Added {
        if bytes > self.bytes_max {
            return Added::TooLarge;
        }
        let known = self.entries.iter().position(|entry| entry.key == key);
        if let Some(entry) = known.and_then(|at| self.entries.remove(at)) {
            self.bytes -= entry.bytes;
        }
        let mut removed = Vec::new();
        let mut in_line = self.entries.iter().filter(|entry| entry.line == line).count();
        while in_line >= line_max.max(1) {
            let Some(oldest) = self.entries.iter().position(|entry| entry.line == line) else { break };
            removed.extend(self.take(oldest));
            in_line -= 1;
        }
        while self.bytes + bytes > self.bytes_max || self.entries.len() >= DICTIONARIES_MAX {
            let Some(key) = self.take(0) else { break };
            removed.push(key);
        }
        self.bytes += bytes;
        self.entries.push_back(Entry { line, key, bytes });
        Added::Stored(removed)
    }

    fn take(&mut self, at: usize) -> Option<Key> {
        let entry = self.entries.remove(at)?;
        self.bytes -= entry.bytes;
        Some(entry.key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Key {
        Key::from_bytes([number; 32])
    }

    #[test]
    fn the_oldest_make_room() {
        let mut shelf = Shelf::new(100);
        let mut add = |line, number, bytes| shelf.add(key(line), key(number), bytes, 2);
        let stored = |removed: &[u8]| Added::Stored(removed.iter().copied().map(key).collect());
        for (line, number, bytes, wanted) in [
            (200, 1, 10, stored(&[])),
            (200, 2, 10, stored(&[])),
            (201, 3, 10, stored(&[])),
            (200, 1, 10, stored(&[])),
            // Of its line the second is the oldest now.
            (200, 4, 10, stored(&[2])),
            (202, 5, 101, Added::TooLarge),
            (202, 5, 80, stored(&[3])),
            (202, 6, 100, stored(&[1, 4, 5])),
        ] {
            assert_eq!(add(line, number, bytes), wanted, "{number}");
        }
    }

    proptest! {
        #[test]
        fn it_is_never_over_its_limits(added in prop::collection::vec((0..3_u8, 0..20_u8, 0..40_u64), 0..60)) {
            let mut shelf = Shelf::new(64);
            let mut stored = std::collections::BTreeMap::new();
            for (line, number, bytes) in added {
                if let Added::Stored(removed) = shelf.add(key(100 + line), key(number), bytes, 3) {
                    for key in removed {
                        prop_assert!(stored.remove(key.as_bytes()).is_some());
                    }
                    stored.insert(*key(number).as_bytes(), (line, bytes));
                }
                prop_assert!(stored.values().map(|(_, bytes)| bytes).sum::<u64>() <= 64);
                for of in 0..3 {
                    prop_assert!(stored.values().filter(|(line, _)| *line == of).count() <= 3);
                }
                prop_assert_eq!(stored.len(), shelf.entries.len());
            }
        }
    }
}
