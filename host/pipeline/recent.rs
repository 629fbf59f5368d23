//! What the keys of recently stored responses were made of. `holm why` compares a request with them, because tiers store
//! keys and not what these were made of, and can't be searched.
//!
//! Bounded in memory by [`SLOTS`] and in time by [`NOTED_PER_SECOND_MAX`]: it costs nothing on a hit, and less than 1 % of
//! a core however much is stored.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::inputs::{self, Difference, Input};
use crate::{cache::key::Key, clock::Uptime};

/// Keys that are remembered, each in the slot that its first bytes name.
const SLOTS: usize = 512;

/// Keys that are noted in one second; one takes about 3 µs, and 20 µs if it is made of a large body.
const NOTED_PER_SECOND_MAX: u64 = 256;

/// Candidates for the nearest entry. Not all that are remembered are still stored.
const NEAR_MAX: usize = 8;

/// What keys of stored responses were made of.
pub(super) struct Recent {
    slots: Box<[Mutex<Option<Arc<Record>>>]>,
    /// A second of uptime in its upper bits, and how many keys were noted in it.
    pace: AtomicU64,
}

/// The lower bits of `pace`.
const COUNT_BITS: u32 = 16;

/// A key under which a response was stored, and its inputs.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: Key,
    inputs: Vec<Input>,
}

/// A key like another one, and what differs.
#[derive(Debug)]
pub(super) struct Near {
    pub(super) record: Arc<Record>,
    pub(super) differs: Vec<Difference>,
}

impl Recent {
    /// Remembers nothing yet.
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Mutex::default()).collect(), pace: AtomicU64::new(0) }
    }

    /// Remembers a key, unless it is remembered already or there were too many in this second.
    pub(super) fn note(&self, key: &Key, now: Uptime, inputs: impl FnOnce() -> Vec<Input>) {
        let slot = self.slot(key);
        let is_known = slot.lock().as_ref().is_some_and(|record| record.key == *key);
        if is_known || !self.has_time(now) {
            return;
        }
        let record = Arc::new(Record { key: *key, inputs: inputs() });
        *slot.lock() = Some(record);
    }

    fn slot(&self, key: &Key) -> &Mutex<Option<Arc<Record>>> {
        let [a, b, ..] = *key.as_bytes();
        &self.slots[usize::from(u16::from_le_bytes([a, b])) % SLOTS]
    }

    fn has_time(&self, now: Uptime) -> bool {
        let second = now.0 / 1000;
        let next = |pace: u64| match (pace >> COUNT_BITS == second, pace & ((1 << COUNT_BITS) - 1)) {
            (false, _) => Some((second << COUNT_BITS) + 1),
            (true, count) => (count < NOTED_PER_SECOND_MAX).then_some(pace + 1),
        };
        self.pace.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Returns the keys whose inputs differ least, the nearest first.
    pub(super) fn nearest(&self, key: &Key, inputs: &[Input]) -> Vec<Near> {
        let mut near = Vec::new();
        for slot in &self.slots {
            let Some(record) = slot.lock().clone().filter(|record| record.key != *key) else { continue };
            let differs = inputs::differences(inputs, &record.inputs);
            if is_near(inputs.len(), &differs) {
                near.push(Near { record, differs });
            }
        }
        near.sort_by_key(|near| near.differs.len());
        near.truncate(NEAR_MAX);
        near
    }
}

/// Whether a key with these differences is worth mentioning: it differs in one input, or has the same path.
fn is_near(inputs: usize, differs: &[Difference]) -> bool {
    let has_path = |one: &Difference| one.here.name == "path" || one.here.name == "authority";
    differs.len() <= 1 || 2 * differs.len() <= inputs && !differs.iter().any(has_path)
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recent")
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::{
        config,
        pipeline::{advice::Advice, route::Route},
        policy::{Facts, Notes, facts::tests::request},
    };

    fn inputs(target: &'static str) -> Vec<Input> {
        let config = config::Route::new("r", "p");
        let route = Route::nowhere(config);
        let (head, notes) = (request(Method::GET, target, &[]), Notes::default());
        inputs::of(&route, &Advice::default(), &Facts::new(&head, None, &notes), None)
    }

    fn key(first: u8) -> Key {
        Key::from_bytes([first; 32])
    }

    #[test]
    fn the_nearest_differs_least() {
        let recent = Recent::new();
        for (number, target) in [(1, "/a?x=2"), (2, "/b"), (3, "/c?x=2"), (4, "/a?x=1")] {
            recent.note(&key(number), Uptime(5), || inputs(target));
        }
        let near = |number, target| -> Vec<(Key, usize)> {
            let near = recent.nearest(&key(number), &inputs(target));
            near.iter().map(|near| (near.record.key, near.differs.len())).collect()
        };
        assert_eq!(near(4, "/a?x=1"), [(key(1), 1)], "not the key itself, and none of another path and query");
        assert_eq!(near(9, "/d"), [(key(2), 1)]);
        assert!(near(9, "/e?y=7").is_empty());
    }

    #[test]
    fn no_more_is_noted_than_there_is_time_for() {
        let recent = Recent::new();
        let (mut made, numbers) = (0, 0..2_000_u32);
        for number in numbers {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            bytes.rotate_right(30);
            recent.note(&Key::from_bytes(bytes), Uptime(1_999), || {
                made += 1;
                Vec::new()
            });
        }
        assert_eq!(made, NOTED_PER_SECOND_MAX);
        recent.note(&key(7), Uptime(2_000), || {
            made += 1;
            Vec::new()
        });
        recent.note(&key(7), Uptime(2_000), || panic!("it is known"));
        assert_eq!(made, NOTED_PER_SECOND_MAX + 1, "in the next second there is");
    }
}
