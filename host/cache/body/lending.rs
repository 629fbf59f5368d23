//! Stored bodies and parts of them that are being read. Each is counted in the budget once, however many read it and
//! whether or not the memory tier holds it as well: it may leave that at any moment.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::{Budget, Held};
use crate::cache::key::{Key, KeyHash};

/// Parts, or bodies in one piece, that are read from tiers at once while the budget is exhausted, and as many that are
/// read from origins. Each is there only until a piece of it has been copied.
const SCARCE_READS: usize = 4;

/// Where a body is in memory: its address and its length.
type Place = (usize, usize);

/// What is being read.
#[derive(Debug)]
pub struct Lending {
    budget: Arc<Budget>,
    parts: Mutex<HashMap<Key, Weak<LentPart>, KeyHash>>,
    /// Bodies in one piece. Under one key there may be several in memory, and under several keys the same one.
    wholes: Mutex<HashMap<Place, Weak<Whole>>>,
    scarce: Arc<Semaphore>,
    /// Has turns of its own: an origin may take its time, and a tier's readers aren't to wait for it.
    scarce_refills: Arc<Semaphore>,
}

/// What a read of a part may hold.
#[derive(Debug)]
pub(super) struct Room {
    /// The whole part; without it, the budget is exhausted: a piece of the part, and the part only while this lives.
    pub(super) held: Option<Held>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Lending {
    /// Nothing is being read yet.
    #[must_use]
    pub fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            budget,
            parts: Mutex::default(),
            wholes: Mutex::default(),
            scarce: Arc::new(Semaphore::new(SCARCE_READS)),
            scarce_refills: Arc::new(Semaphore::new(SCARCE_READS)),
        })
    }

    /// What all bodies may hold together.
    #[must_use]
    pub const fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The part under this key, if somebody reads it.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<LentPart>> {
        self.parts.lock().get(key)?.upgrade()
    }

    /// Notes that a part is being read. If it is already, the bytes that are there count.
    #[must_use]
    pub fn lend(self: &Arc<Self>, key: Key, bytes: Bytes, held: Held) -> Arc<LentPart> {
        let mut parts = self.parts.lock();
        if let Some(lent) = parts.get(&key).and_then(Weak::upgrade) {
            return lent;
        }
        let lent = Arc::new(LentPart { key, bytes, lending: Arc::clone(self), _held: held });
        parts.insert(key, Arc::downgrade(&lent));
        lent
    }

    /// A body in one piece for one more reader. It counts as held until its last reader has dropped it. `None` if there
    /// is no room for it.
    #[must_use]
    pub fn lend_whole(self: &Arc<Self>, bytes: &Bytes) -> Option<Bytes> {
        Some(Bytes::from_owner(ReadingWhole(self.whole(bytes)?)))
    }

    fn whole(self: &Arc<Self>, bytes: &Bytes) -> Option<Arc<Whole>> {
        let mut wholes = self.wholes.lock();
        // While it is there, nothing else can be in its place.
        if let Some(whole) = wholes.get(&place(bytes)).and_then(Weak::upgrade) {
            return Some(whole);
        }
        let held = self.budget.take_to_read(bytes.len())?;
        let whole = Arc::new(Whole { bytes: bytes.clone(), lending: Arc::clone(self), _held: held });
        wholes.insert(place(bytes), Arc::downgrade(&whole));
        Some(whole)
    }

    /// Room for reading a part of `bytes` from a tier. Waits only while the budget is exhausted and others read as well.
    pub(super) async fn room(&self, bytes: usize) -> Room {
        self.room_or_turn(bytes, &self.scarce).await
    }

    /// Room for reading a part of `bytes` from its origin. Waits only while the budget is exhausted and others do so as
    /// well.
    pub(super) async fn room_to_refill(&self, bytes: usize) -> Room {
        self.room_or_turn(bytes, &self.scarce_refills).await
    }

    async fn room_or_turn(&self, bytes: usize, turns: &Arc<Semaphore>) -> Room {
        if let Some(held) = self.budget.take_to_read(bytes) {
            return Room { held: Some(held), _turn: None };
        }
        Room { held: None, _turn: Arc::clone(turns).acquire_owned().await.ok() }
    }

    /// A turn at reading from a tier what there is no room for.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.scarce).acquire_owned().await.ok()
    }
}

fn place(bytes: &Bytes) -> Place {
    (bytes.as_ptr().addr(), bytes.len())
}

/// A part that is being read.
#[derive(Debug)]
pub struct LentPart {
    key: Key,
    bytes: Bytes,
    lending: Arc<Lending>,
    _held: Held,
}

impl LentPart {
    /// Its bytes from `from` on; the part counts as being read until they are dropped.
    #[must_use]
    pub fn slice(self: &Arc<Self>, from: usize) -> Bytes {
        let whole = Bytes::from_owner(Reading(Arc::clone(self)));
        if from == 0 { whole } else { whole.slice(from.min(whole.len())..) }
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Drop for LentPart {
    fn drop(&mut self) {
        let mut parts = self.lending.parts.lock();
        // Another request may have begun to read the same part since.
        if parts.get(&self.key).is_some_and(|lent| lent.strong_count() == 0) {
            parts.remove(&self.key);
        }
    }
}

struct Reading(Arc<LentPart>);

impl AsRef<[u8]> for Reading {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// A body in one piece that is being read.
#[derive(Debug)]
struct Whole {
    bytes: Bytes,
    lending: Arc<Lending>,
    _held: Held,
}

impl Drop for Whole {
    fn drop(&mut self) {
        let place = place(&self.bytes);
        let mut wholes = self.lending.wholes.lock();
        // Another request may have begun to read the same body since.
        if wholes.get(&place).is_some_and(|whole| whole.strong_count() == 0) {
            wholes.remove(&place);
        }
    }
}

struct ReadingWhole(Arc<Whole>);

impl AsRef<[u8]> for ReadingWhole {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[tokio::test]
    async fn a_part_is_counted_once_and_until_nobody_reads_it() {
        let budget = Budget::new(10, Gauge::default());
        let lending = Lending::new(Arc::clone(&budget));
        let key = Key::from_bytes([1; 32]);
        let lend = || lending.lend(key, Bytes::from_static(b"01234567"), budget.force(8));
        let (one, other) = (lend(), lend());
        assert_eq!((budget.held(), Arc::ptr_eq(&one, &other), one.len()), (8, true, 8));
        let bytes = one.slice(6);
        drop((one, other));
        assert_eq!((budget.held(), &bytes[..], lending.get(&key).is_some()), (8, &b"67"[..], true));
        assert!(lending.room(3).await.held.is_none(), "there is no room for three more");
        drop(bytes);
        assert_eq!((budget.held(), lending.get(&key).is_some(), lending.parts.lock().len()), (0, false, 0));
        assert!(lending.room(3).await.held.is_some());
    }

    #[test]
    fn a_body_in_one_piece_is_counted_once_and_until_nobody_reads_it() {
        let budget = Budget::new(16, Gauge::default());
        let lending = Lending::new(Arc::clone(&budget));
        let (body, other) = (Bytes::from(vec![1_u8; 8]), Bytes::from(vec![1_u8; 8]));
        let (one, another) = (lending.lend_whole(&body).unwrap(), lending.lend_whole(&body.clone()).unwrap());
        assert_eq!((budget.held(), &one[..]), (8, &body[..]));
        assert!(lending.lend_whole(&other).is_none(), "it has the same bytes, but elsewhere");
        let slice = another.slice(7..);
        drop((one, another));
        assert_eq!((budget.held(), lending.lend_whole(&body).is_some()), (8, true));
        drop(slice);
        assert_eq!((budget.held(), lending.wholes.lock().len()), (0, 0));
        assert!(lending.lend_whole(&other).is_some());
    }
}
