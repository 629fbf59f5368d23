//! Fetches under way, and what was stored while they were: a response whose fetch began earlier, and took longer, doesn't
//! replace one that a later fetch has stored meanwhile. No tier is asked for that, so that it holds wherever the later
//! one is by now. Of what other processes store nothing is known here: for that a fetch may have a lease of its region.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderName;
use parking_lot::Mutex;

use super::{
    entry::Head,
    key::{Key, KeyHash},
    lease::{End, Order},
    store::leases::Lease,
};

/// Keys spread over this many locks.
const SHARDS: usize = 64;

/// Responses (variants) under one request's key that are remembered while older fetches are under way. Beyond that the
/// older ones aren't stored.
const STORED_MAX: usize = 64;

/// Fetches under way, by the key of their request.
#[derive(Debug)]
pub struct Fetches {
    shards: Vec<Mutex<Shard>>,
    /// The number of the next one.
    next: AtomicU64,
}

type Shard = HashMap<Key, Under, KeyHash>;

/// What happens under one key, for as long as a fetch is under way.
#[derive(Debug, Default)]
struct Under {
    open: BTreeSet<u64>,
    /// What was stored by fetches that began after the first of those that are open.
    stored: Vec<Stored>,
    /// Fetches with lower numbers store nothing.
    floor: u64,
}

#[derive(Debug)]
struct Stored {
    number: u64,
    key: Key,
    /// The fields that it varies by.
    names: Option<Arc<[HeaderName]>>,
}

impl Fetches {
    /// Returns a table without fetches. It has as many rows as there are fetches under way.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::default())).collect();
        Arc::new(Self { shards, next: AtomicU64::new(0) })
    }

    /// Begins a fetch for a request with this key, under a lease if the region has given one. To be called before the
    /// request is sent.
    #[must_use]
    pub fn begin(self: &Arc<Self>, primary: &Key, lease: Option<Lease>) -> Arc<Fetch> {
        let mut shard = self.shard(primary).lock();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        shard.entry(*primary).or_default().open.insert(number);
        Arc::new(Fetch { fetches: Arc::clone(self), primary: *primary, number, lease })
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        &self.shards[usize::from(key.as_bytes()[31]) % SHARDS]
    }
}

/// A fetch that is under way until this is dropped.
#[derive(Debug)]
pub struct Fetch {
    fetches: Arc<Fetches>,
    primary: Key,
    number: u64,
    /// Ends with the fetch.
    lease: Option<Lease>,
}

impl Fetch {
    /// Returns by which a response of this fetch replaces others in Redis.
    #[must_use]
    pub fn order(&self, head: &Head) -> Order {
        self.lease.as_ref().map_or_else(|| Order::of(head), |lease| lease.order(head))
    }

    /// Notes that all of the response waits to be written to Redis, where other nodes find it when the fetch has ended.
    pub fn note_shared(&self) {
        if let Some(lease) = &self.lease {
            lease.note_stored();
        }
    }

    /// Has other nodes that wait for this fetch make their own: they would get nothing of this one for too long.
    pub fn release_others(&self) {
        if let Some(lease) = &self.lease {
            lease.end(End::Ended);
        }
    }

    /// Has the nodes of the region fetch without waiting for each other for so long.
    pub fn note_uncacheable(&self, time: Duration) {
        if let Some(lease) = &self.lease {
            lease.end(End::Uncacheable(time));
        }
    }

    /// Has `store` put the response under `key`, and returns true; unless a fetch that began later has stored one that it
    /// would replace: under the same key, or by other fields that the response varies by. No other fetch for this
    /// request's key stores meanwhile, so `store` must be short.
    pub fn store(&self, key: &Key, names: Option<&Arc<[HeaderName]>>, store: impl FnOnce()) -> bool {
        let mut shard = self.fetches.shard(&self.primary).lock();
        // It is there for as long as the fetch is.
        let Some(under) = shard.get_mut(&self.primary) else { return false };
        if under.is_overtaken(self.number, key, names) {
            return false;
        }
        store();
        under.note(Stored { number: self.number, key: *key, names: names.cloned() });
        true
    }

    /// Whether it is for a request with this key.
    #[must_use]
    pub fn is_for(&self, primary: &Key) -> bool {
        self.primary == *primary
    }

    /// Whether a fetch that began later has stored something under `key`.
    #[must_use]
    pub fn is_overtaken(&self, key: &Key) -> bool {
        let shard = self.fetches.shard(&self.primary).lock();
        let is_newer = |stored: &Stored| stored.number > self.number && stored.key == *key;
        shard.get(&self.primary).is_some_and(|under| self.number < under.floor || under.stored.iter().any(is_newer))
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut shard = self.fetches.shard(&self.primary).lock();
        let Some(under) = shard.get_mut(&self.primary) else { return };
        under.open.remove(&self.number);
        if under.open.is_empty() {
            shard.remove(&self.primary);
        } else {
            under.forget();
        }
    }
}

impl Under {
    fn is_overtaken(&self, number: u64, key: &Key, names: Option<&Arc<[HeaderName]>>) -> bool {
        let is_replaced = |stored: &Stored| stored.key == *key || stored.names.as_ref() != names;
        number < self.floor || self.stored.iter().any(|stored| stored.number > number && is_replaced(stored))
    }

    fn note(&mut self, stored: Stored) {
        self.stored.retain(|former| former.key != stored.key);
        self.stored.push(stored);
        self.forget();
        if self.stored.len() <= STORED_MAX {
            return;
        }
        if let Some(oldest) = (0..self.stored.len()).min_by_key(|at| self.stored[*at].number) {
            self.floor = self.floor.max(self.stored.swap_remove(oldest).number);
        }
    }

    /// Forgets what no fetch under way is older than.
    fn forget(&mut self) {
        if let Some(first) = self.open.first() {
            self.stored.retain(|stored| stored.number > *first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: Key = Key::from_bytes([1; 32]);

    fn key(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
    }

    fn names(names: &[&'static str]) -> Arc<[HeaderName]> {
        names.iter().copied().map(HeaderName::from_static).collect()
    }

    #[test]
    fn what_began_earlier_replaces_nothing_that_began_later() {
        let fetches = Fetches::new();
        let (slow, quick) = (fetches.begin(&PRIMARY, None), fetches.begin(&PRIMARY, None));
        assert!(!slow.is_overtaken(&PRIMARY));
        assert!(quick.store(&PRIMARY, None, || ()));
        assert!(slow.is_overtaken(&PRIMARY) && !quick.is_overtaken(&PRIMARY));
        drop(quick);
        assert!(!slow.store(&PRIMARY, None, || panic!("it would replace the newer one")));
        let later = fetches.begin(&PRIMARY, None);
        assert!(later.store(&PRIMARY, None, || ()));
        drop((slow, later));
        assert!(fetches.shards.iter().all(|shard| shard.lock().is_empty()), "nothing is left behind");
    }

    #[test]
    fn variants_are_apart_as_long_as_they_are_chosen_alike() {
        let by = |list: &[&'static str]| Some(names(list));
        for (later, earlier, wanted) in [
            ((2, by(&["accept"])), (3, by(&["accept"])), true),
            ((2, by(&["accept"])), (2, by(&["accept"])), false),
            ((2, by(&["accept"])), (3, by(&["cookie"])), false),
            ((2, by(&["accept"])), (1, None), false),
            ((1, None), (2, by(&["accept"])), false),
        ] {
            let fetches = Fetches::new();
            let (slow, quick) = (fetches.begin(&PRIMARY, None), fetches.begin(&PRIMARY, None));
            assert!(quick.store(&key(later.0), later.1.as_ref(), || ()));
            let stored = slow.store(&key(earlier.0), earlier.1.as_ref(), || ());
            assert_eq!(stored, wanted, "{earlier:?} after {later:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_falls_to_the_safe_side() {
        let fetches = Fetches::new();
        let slow = fetches.begin(&PRIMARY, None);
        for byte in 0..=u8::MAX {
            assert!(fetches.begin(&PRIMARY, None).store(&key(byte), Some(&names(&["accept"])), || ()));
        }
        let rows = fetches.shard(&PRIMARY).lock().get(&PRIMARY).map_or(0, |under| under.stored.len());
        assert_eq!(rows, STORED_MAX);
        for byte in [0, u8::MAX] {
            assert!(!slow.store(&key(byte), Some(&names(&["accept"])), || ()), "{byte}");
        }
        drop(slow);
        assert!(fetches.begin(&PRIMARY, None).store(&key(0), None, || ()), "the next one is new");
    }
}
