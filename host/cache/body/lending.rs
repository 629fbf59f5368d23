//! Parts that are being read. Each is counted in the budget once, however many read it and whether or not the memory
//! tier holds it as well: it may leave that at any moment.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::{Budget, Held};
use crate::cache::key::{Key, KeyHash};

/// Parts that are read at once while the budget is exhausted. Each is there only until a piece of it has been copied.
const SCARCE_READS: usize = 4;

/// The parts that are being read.
#[derive(Debug)]
pub struct Lending {
    budget: Arc<Budget>,
    parts: Mutex<HashMap<Key, Weak<Lent>, KeyHash>>,
    scarce: Arc<Semaphore>,
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
        Arc::new(Self { budget, parts: Mutex::default(), scarce: Arc::new(Semaphore::new(SCARCE_READS)) })
    }

    /// What all bodies may hold together.
    #[must_use]
    pub const fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The part under this key, if somebody reads it.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Lent>> {
        self.parts.lock().get(key)?.upgrade()
    }

    /// Notes that a part is being read. If it is already, the bytes that are there count.
    #[must_use]
    pub fn lend(self: &Arc<Self>, key: Key, bytes: Bytes, held: Held) -> Arc<Lent> {
        let mut parts = self.parts.lock();
        if let Some(lent) = parts.get(&key).and_then(Weak::upgrade) {
            return lent;
        }
        let lent = Arc::new(Lent { key, bytes, lending: Arc::clone(self), _held: held });
        parts.insert(key, Arc::downgrade(&lent));
        lent
    }

    /// Room for reading a part of `bytes`. Waits only while the budget is exhausted and others read as well.
    pub(super) async fn room(&self, bytes: usize) -> Room {
        if let Some(held) = self.budget.take(bytes) {
            return Room { held: Some(held), _turn: None };
        }
        Room { held: None, _turn: Arc::clone(&self.scarce).acquire_owned().await.ok() }
    }
}

/// A part that is being read.
#[derive(Debug)]
pub struct Lent {
    key: Key,
    bytes: Bytes,
    lending: Arc<Lending>,
    _held: Held,
}

impl Lent {
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

impl Drop for Lent {
    fn drop(&mut self) {
        let mut parts = self.lending.parts.lock();
        // Somebody else may have begun to read the same part since.
        if parts.get(&self.key).is_some_and(|lent| lent.strong_count() == 0) {
            parts.remove(&self.key);
        }
    }
}

struct Reading(Arc<Lent>);

impl AsRef<[u8]> for Reading {
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
}
