//! The places at one endpoint: how many requests it may have at a time, and how many hold or want one.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

/// The places at one endpoint.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// The share of them that may be held while a client is waited for: half, so that slow clients leave the rest to
    /// others.
    pub(super) lent: Arc<Semaphore>,
    /// Requests that hold a place or wait for one.
    wanted: AtomicUsize,
    max: usize,
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        let lent = Arc::new(Semaphore::new((max / 2).max(1)));
        Self { free: Arc::new(Semaphore::new(max)), lent, wanted: AtomicUsize::new(0), max }
    }

    /// Requests that hold a place or wait for one.
    pub(super) fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Requests that hold a place.
    pub(super) fn taken(&self) -> usize {
        self.max.saturating_sub(self.free.available_permits())
    }

    /// No place is free.
    pub(super) fn is_full(&self) -> bool {
        self.wanted() >= self.max
    }

    /// The permits of free places.
    pub(super) const fn free(&self) -> &Arc<Semaphore> {
        &self.free
    }

    /// Counts a request that holds a place or waits for one, until [`Places::unwant`].
    pub(super) fn want(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts it no longer.
    pub(super) fn unwant(&self) {
        self.wanted.fetch_sub(1, Ordering::Relaxed);
    }
}
