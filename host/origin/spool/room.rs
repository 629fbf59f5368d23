//! How much room bodies that wait have: the node as a whole, and each client address as its share of it, so that one
//! address can't fill it for all. What a body holds is a [`Grant`].

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

use crate::message::network::ClientNetwork;

/// Bytes that may be held: by all bodies together, or by those of one client address.
pub(super) struct Budget {
    used: AtomicU64,
    max: u64,
    gauge: Option<Gauge>,
}

impl Budget {
    /// A budget of `max` bytes; `gauge` shows how many are held.
    pub(super) const fn new(max: u64, gauge: Option<Gauge>) -> Self {
        Self { used: AtomicU64::new(0), max, gauge }
    }

    /// Takes bytes; false if there are no more.
    fn take(&self, bytes: u64) -> bool {
        // Taken first and looked at then: of two that come at once, at most one too many finds no room.
        let fits = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.max;
        if fits {
            self.show(bytes, 1);
        } else {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Takes bytes whether or not there are more.
    fn force(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.show(bytes, 1);
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.show(bytes, -1);
    }

    fn show(&self, bytes: u64, sign: i64) {
        if let Some(gauge) = &self.gauge {
            gauge.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX) * sign);
        }
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// Where bytes are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    /// In memory.
    Memory,
    /// In files.
    Disk,
}

/// What one client address may hold of each medium, and holds.
pub(super) struct Share {
    memory: Budget,
    disk: Budget,
    network: ClientNetwork,
    shares: Arc<Shares>,
}

impl Share {
    const fn of(&self, medium: Medium) -> &Budget {
        match medium {
            Medium::Memory => &self.memory,
            Medium::Disk => &self.disk,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut rows = self.shares.rows.lock();
        // Another one may have been made since the last use of this one ended.
        if rows.get(&self.network).is_some_and(|row| row.strong_count() == 0) {
            rows.remove(&self.network);
        }
    }
}

/// The shares of all client addresses that hold something, or are about to. Never more than there are bodies under way.
pub(super) struct Shares {
    memory_max: u64,
    disk_max: u64,
    rows: Mutex<HashMap<ClientNetwork, Weak<Share>>>,
}

impl Shares {
    /// Shares of `each` bytes of all that there is, and the same fraction of memory as of disk.
    pub(super) fn new(memory: u64, disk: u64, each: u64) -> Arc<Self> {
        let whole = memory.saturating_add(disk);
        Arc::new(Self {
            memory_max: fraction(memory, each, whole),
            disk_max: fraction(disk, each, whole),
            rows: Mutex::default(),
        })
    }

    /// The share of a client address.
    pub(super) fn of(self: &Arc<Self>, network: ClientNetwork) -> Arc<Share> {
        let mut rows = self.rows.lock();
        if let Some(share) = rows.get(&network).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Share {
            memory: Budget::new(self.memory_max, None),
            disk: Budget::new(self.disk_max, None),
            network,
            shares: Arc::clone(self),
        });
        rows.insert(network, Arc::downgrade(&share));
        share
    }

    /// Client addresses that have a share.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rows.lock().len()
    }
}

/// `bytes` times `each` by `whole`, at most `bytes`.
fn fraction(bytes: u64, each: u64, whole: u64) -> u64 {
    if each >= whole {
        return bytes;
    }
    u64::try_from(u128::from(bytes) * u128::from(each) / u128::from(whole)).unwrap_or(bytes)
}

/// What one body holds of a medium; given back when it is dropped.
pub(super) struct Grant {
    whole: Arc<Budget>,
    share: Option<Arc<Share>>,
    medium: Medium,
    bytes: u64,
}

impl Grant {
    /// A grant of no bytes, out of `whole` and of the client's share, if it is limited.
    pub(super) const fn new(whole: Arc<Budget>, share: Option<Arc<Share>>, medium: Medium) -> Self {
        Self { whole, share, medium, bytes: 0 }
    }

    /// Bytes that are held.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn own(&self) -> Option<&Budget> {
        self.share.as_ref().map(|share| share.of(self.medium))
    }

    /// Takes more; false if the client or the node has no more.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        if self.own().is_some_and(|own| !own.take(bytes)) {
            return false;
        }
        if !self.whole.take(bytes) {
            if let Some(own) = self.own() {
                own.give_back(bytes);
            }
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Takes more whether or not there is more.
    pub(super) fn force(&mut self, bytes: u64) {
        if let Some(own) = self.own() {
            own.force(bytes);
        }
        self.whole.force(bytes);
        self.bytes += bytes;
    }

    /// Gives bytes back.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        if let Some(own) = self.own() {
            own.give_back(bytes);
        }
        self.whole.give_back(bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn network(text: &str) -> ClientNetwork {
        ClientNetwork::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_share_is_the_same_fraction_of_memory_and_disk() {
        for ((memory, disk, each), expected) in [
            ((64, 1024, 272), (16, 256)),
            ((64, 1024, 0), (0, 0)),
            ((64, 1024, 5_000), (64, 1024)),
            ((64, 0, 16), (16, 0)),
            ((0, 0, 16), (0, 0)),
            ((0, 0, 0), (0, 0)),
        ] {
            let shares = Shares::new(memory, disk, each);
            assert_eq!((shares.memory_max, shares.disk_max), expected, "{each} of {memory} and {disk}");
        }
    }

    #[test]
    fn a_client_has_its_share_and_the_others_have_the_rest() {
        let (whole, shares) = (Arc::new(Budget::new(100, None)), Shares::new(100, 0, 30));
        let grant = |text: &str| Grant::new(Arc::clone(&whole), Some(shares.of(network(text))), Medium::Memory);
        let (mut one, mut same, mut other) = (grant("192.0.2.1"), grant("192.0.2.1"), grant("192.0.2.2"));
        assert!(one.grow(20) && !same.grow(11) && same.grow(10), "two bodies of one client have one share");
        assert!(other.grow(30) && !other.grow(1));
        assert_eq!((whole.used(), shares.len()), (60, 2));

        let mut unlimited = Grant::new(Arc::clone(&whole), None, Medium::Memory);
        assert!(unlimited.grow(40));
        drop(one);
        assert!(same.grow(20) && !same.grow(1), "what a body held is its client's again");
        let mut third = grant("192.0.2.3");
        assert!(!third.grow(1), "the whole is full");
        assert_eq!(shares.of(network("192.0.2.3")).memory.used(), 0, "and so nothing of the share is taken");
        drop((same, other, unlimited, third));
        assert_eq!((whole.used(), shares.len()), (0, 0), "no row is left behind");
    }
}
