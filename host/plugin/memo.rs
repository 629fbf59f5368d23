//! Verdicts of one generation, remembered by the values they were given for. Its memory is bounded by its entries and
//! their longest key; a table that is never written to takes none.

use std::{hash::BuildHasher, sync::Arc};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use crate::clock::Uptime;

/// Keys that are longer are not remembered: comparing them would cost as much as many a call.
pub(super) const KEY_BYTES_MAX: usize = 2048;

/// The most shards, each with a lock, so that threads seldom contend.
const SHARDS_MAX: usize = 16;

/// Entries that a key may take the place of: enough to choose from, few enough to look through.
const WAYS_MAX: usize = 4;

/// Verdicts by key.
pub(super) struct Memo<V> {
    /// Seeded anew for each memo, so that clients can't aim at one set.
    hasher: RandomState,
    ways: usize,
    sets: usize,
    shards: Box<[Shard<V>]>,
}

/// Padded to a cache line: a lock that one core takes doesn't slow down its neighbour.
#[repr(align(64))]
struct Shard<V>(Mutex<Table<V>>);

struct Table<V> {
    /// Set after set; empty until something is put.
    slots: Vec<Option<Entry<V>>>,
    /// Counts uses, to tell old ones from recent ones.
    tick: u64,
    /// The latest time that was passed in: what had expired by then has expired.
    seen: Uptime,
}

struct Entry<V> {
    hash: u64,
    key: Box<[u8]>,
    expires: Option<Uptime>,
    /// The tick of its last use.
    used: u64,
    verdict: Arc<V>,
}

/// The shard and set of a key.
struct Bucket {
    hash: u64,
    shard: usize,
    /// The first slot of its set.
    first: usize,
}

impl<V> Memo<V> {
    /// Returns an empty memo of at most so many entries; with none it never remembers. From 4 on it is a multiple of 4.
    pub(super) fn new(entries_max: usize) -> Self {
        let ways = entries_max.min(WAYS_MAX);
        let sets = entries_max.checked_div(ways).unwrap_or(0);
        let shards = (0..sets.min(SHARDS_MAX)).map(|_| Shard(Mutex::new(Table::new()))).collect();
        Self { hasher: RandomState::default(), ways, sets, shards }
    }

    /// Returns the verdict for a key, unless it has expired. `now` is called only if it can expire.
    pub(super) fn get(&self, key: &[u8], now: impl Fn() -> Uptime) -> Option<Arc<V>> {
        let bucket = self.bucket(key)?;
        let mut table = self.shards[bucket.shard].0.lock();
        table.get(&bucket, self.ways, key, now)
    }

    /// Remembers a verdict until it expires, or is replaced.
    pub(super) fn put(&self, key: Box<[u8]>, verdict: Arc<V>, expires: Option<Uptime>) {
        let Some(bucket) = self.bucket(&key) else { return };
        let entry = Entry { hash: bucket.hash, key, expires, used: 0, verdict };
        let slots = self.slots(bucket.shard);
        // What was replaced is dropped after the lock is free again.
        let replaced = self.shards[bucket.shard].0.lock().put(&bucket, self.ways, slots, entry);
        drop(replaced);
    }

    fn bucket(&self, key: &[u8]) -> Option<Bucket> {
        if self.sets == 0 || key.len() > KEY_BYTES_MAX {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        let set = ((u128::from(hash) * self.sets as u128) >> 64) as usize;
        Some(Bucket { hash, shard: set % self.shards.len(), first: set / self.shards.len() * self.ways })
    }

    /// Returns how many slots a shard has: sets are distributed round robin.
    fn slots(&self, shard: usize) -> usize {
        (self.sets - shard).div_ceil(self.shards.len()) * self.ways
    }
}

impl<V> Table<V> {
    const fn new() -> Self {
        Self { slots: Vec::new(), tick: 0, seen: Uptime(0) }
    }

    fn get(&mut self, bucket: &Bucket, ways: usize, key: &[u8], now: impl Fn() -> Uptime) -> Option<Arc<V>> {
        let set = self.slots.get_mut(bucket.first..bucket.first + ways)?;
        let entry = set.iter_mut().flatten().find(|entry| entry.is_of(bucket.hash, key))?;
        if let Some(expires) = entry.expires {
            let now = now();
            self.seen = self.seen.max(now);
            if expires <= now {
                return None;
            }
        }
        self.tick += 1;
        entry.used = self.tick;
        Some(Arc::clone(&entry.verdict))
    }

    /// Puts it in the place of the same key, else a free one, else one that has expired, else the least recently used.
    fn put(&mut self, bucket: &Bucket, ways: usize, slots: usize, mut entry: Entry<V>) -> Option<Entry<V>> {
        if self.slots.is_empty() {
            self.slots.resize_with(slots, || None);
        }
        self.tick += 1;
        entry.used = self.tick;
        let seen = self.seen;
        let set = self.slots.get_mut(bucket.first..bucket.first + ways)?;
        let slot = set.iter_mut().min_by_key(|slot| match slot {
            Some(old) if old.is_of(entry.hash, &entry.key) => (0, 0),
            None => (1, 0),
            Some(old) if old.expires.is_some_and(|expires| expires <= seen) => (2, old.used),
            Some(old) => (3, old.used),
        })?;
        slot.replace(entry)
    }
}

impl<V> Entry<V> {
    /// Whether it is the entry of this key, by its bytes: a hash may be shared.
    fn is_of(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && *self.key == *key
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::HashMap, thread};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn never() -> Uptime {
        panic!("asked the time")
    }

    fn put<V>(memo: &Memo<V>, key: &[u8], verdict: Arc<V>, expires: Option<Uptime>) {
        memo.put(key.into(), verdict, expires);
    }

    fn remembered<V>(memo: &Memo<V>) -> usize {
        memo.shards.iter().map(|shard| shard.0.lock().slots.iter().flatten().count()).sum()
    }

    fn allocated<V>(memo: &Memo<V>) -> usize {
        memo.shards.iter().map(|shard| shard.0.lock().slots.len()).sum()
    }

    #[test]
    fn remembers_what_was_put_and_asks_no_clock() {
        let memo = Memo::new(64);
        assert_eq!(memo.get(b"a", never), None);
        assert_eq!(allocated(&memo), 0, "nothing is allocated for looking");
        put(&memo, b"a", Arc::new(1), None);
        put(&memo, b"", Arc::new(2), None);
        put(&memo, b"a", Arc::new(3), None);
        assert_eq!(memo.get(b"a", never).as_deref(), Some(&3));
        assert_eq!(memo.get(b"", never).as_deref(), Some(&2));
        assert_eq!(memo.get(b"b", never), None);
        assert_eq!(remembered(&memo), 2);
    }

    #[test]
    fn never_more_than_its_entries() {
        for (entries_max, wanted) in
            [(0, 0), (1, 1), (3, 3), (4, 4), (5, 4), (63, 60), (64, 64), (100, 100), (1_000, 1_000), (1_023, 1_020)]
        {
            let memo = Memo::new(entries_max);
            (0..20_000_u32).for_each(|key| put(&memo, &key.to_le_bytes(), Arc::new(key), None));
            assert_eq!(remembered(&memo), wanted, "{entries_max} at most");
            assert_eq!(allocated(&memo), wanted);
            let found =
                (0..20_000_u32).filter_map(|key| memo.get(&key.to_le_bytes(), never).map(|verdict| (key, *verdict)));
            let found: Vec<_> = found.collect();
            assert!(found.len() == wanted && found.iter().all(|(key, verdict)| key == verdict));
        }
    }

    #[test]
    fn long_keys_are_not_remembered() {
        let memo = Memo::new(4);
        let key = [7; KEY_BYTES_MAX + 1];
        for (length, wanted) in [(KEY_BYTES_MAX, Some(1)), (KEY_BYTES_MAX + 1, None)] {
            put(&memo, &key[..length], Arc::new(1), None);
            assert_eq!(memo.get(&key[..length], never).as_deref().copied(), wanted);
        }
    }

    #[test]
    fn what_expires_is_not_given_from_then_on() {
        let memo = Memo::new(4);
        put(&memo, b"a", Arc::new(1), Some(Uptime(10)));
        for (now, wanted) in [(9, Some(1)), (10, None), (11, None)] {
            assert_eq!(memo.get(b"a", || Uptime(now)).as_deref().copied(), wanted, "at {now}");
        }
        put(&memo, b"a", Arc::new(2), None);
        assert_eq!(memo.get(b"a", never).as_deref(), Some(&2), "put anew, it doesn't expire");
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let memo = Memo::new(4);
        (b'a'..=b'd').for_each(|key| put(&memo, &[key], Arc::new(key), None));
        memo.get(b"a", never);
        put(&memo, b"e", Arc::new(b'e'), None);
        let left: Vec<u8> = (b'a'..=b'e').filter(|key| memo.get(&[*key], never).is_some()).collect();
        assert_eq!(left, b"acde");
    }

    #[test]
    fn the_expired_make_room_first() {
        let memo = Memo::new(4);
        let time = Cell::new(0);
        let now = || Uptime(time.get());
        put(&memo, b"a", Arc::new(1), None);
        put(&memo, b"b", Arc::new(1), Some(Uptime(5)));
        put(&memo, b"c", Arc::new(1), Some(Uptime(50)));
        put(&memo, b"d", Arc::new(1), None);
        time.set(6);
        memo.get(b"c", now);
        put(&memo, b"e", Arc::new(1), None);
        let left: Vec<u8> = (b'a'..=b'e').filter(|key| memo.get(&[*key], now).is_some()).collect();
        assert_eq!(left, b"acde", "b had expired, a was the oldest");
    }

    #[test]
    fn a_shared_hash_is_no_shared_verdict() {
        let memo = Memo::new(4);
        put(&memo, b"a", Arc::new(1), None);
        let hash = memo.hasher.hash_one(&b"b"[..]);
        memo.shards[0].0.lock().slots.iter_mut().flatten().for_each(|entry| entry.hash = hash);
        assert_eq!(memo.get(b"b", never), None);
    }

    #[test]
    fn threads_get_what_belongs_to_the_key() {
        let memo = Memo::new(100);
        thread::scope(|scope| {
            for start in 0..4_u32 {
                let memo = &memo;
                scope.spawn(move || {
                    for step in 0..5_000 {
                        let key = ((start + step) * 7 % 300).to_le_bytes();
                        match memo.get(&key, never) {
                            Some(verdict) => assert_eq!(*verdict, key),
                            None => put(memo, &key, Arc::new(key), None),
                        }
                    }
                });
            }
        });
        assert!(remembered(&memo) <= 100);
    }

    proptest! {
        /// It may forget; what it returns is what was put last, and hasn't expired.
        #[test]
        fn it_never_lies(
            entries_max in 0..40_usize,
            steps in vec((any::<bool>(), 0..30_u8, any::<u16>(), proptest::option::of(0..100_u64)), 0..200),
        ) {
            let memo = Memo::new(entries_max);
            let mut model = HashMap::new();
            for (now, (puts, key, verdict, expires)) in steps.into_iter().enumerate() {
                let (now, expires) = (Uptime(now as u64), expires.map(Uptime));
                if puts {
                    put(&memo, &[key], Arc::new(verdict), expires);
                    model.insert(key, (verdict, expires));
                } else if let Some(found) = memo.get(&[key], || now) {
                    let (verdict, expires) = model[&key];
                    prop_assert_eq!(*found, verdict);
                    prop_assert!(expires.is_none_or(|expires| expires > now));
                }
                prop_assert!(remembered(&memo) <= entries_max);
            }
        }
    }
}
