//! How many bytes of bodies the node holds outside of its tiers, and how many it may hold.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Bytes that a body may hold even when the budget is exhausted: with less than that it could not go on at all.
pub const SCARCE_BYTES: usize = 64 << 10;

/// The share of a budget that readers of stored bodies leave to bodies that arrive: one in so many.
const ARRIVALS_SHARE: u64 = 4;

/// The share of a budget within which parts are read ahead: one in so many.
const AHEAD_SHARE: u64 = 2;

/// A number of bytes, and how many of them are held.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    held: AtomicU64,
    freed: Notify,
    gauge: Gauge,
}

impl Budget {
    /// A budget of `limit` bytes; `gauge` shows how many are held.
    #[must_use]
    pub fn new(limit: u64, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicU64::new(0), freed: Notify::new(), gauge })
    }

    /// Holds `bytes`, if the budget has room for them.
    #[must_use]
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        self.take_up_to(self.limit, bytes)
    }

    /// Holds `bytes` of a stored body for those who read it, if a quarter of the budget stays free: however
    /// much is read, and however slowly, something more can be stored.
    #[must_use]
    pub fn take_to_read(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        self.take_up_to(self.limit - self.limit / ARRIVALS_SHARE, bytes)
    }

    /// Holds `bytes` of a stored body that are read ahead of their turn, if half of the budget stays free.
    #[must_use]
    pub fn take_ahead(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        self.take_up_to(self.limit / AHEAD_SHARE, bytes)
    }

    fn take_up_to(self: &Arc<Self>, limit: u64, bytes: usize) -> Option<Held> {
        let within = |held: u64| held.checked_add(bytes as u64).filter(|sum| *sum <= limit);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).ok()?;
        Some(self.hold(bytes))
    }

    /// Holds `bytes` even if that exceeds the budget. Only for what is limited otherwise.
    #[must_use]
    pub fn force(self: &Arc<Self>, bytes: usize) -> Held {
        self.held.fetch_add(bytes as u64, Ordering::Relaxed);
        self.hold(bytes)
    }

    /// Holds `bytes` as soon as there is room for them; `None` if there is none within `time`.
    pub async fn take_within(self: &Arc<Self>, bytes: usize, time: Duration) -> Option<Held> {
        self.within(time, || self.take(bytes)).await
    }

    /// Attempts something that needs room, now and whenever bytes are released; `None` if it doesn't succeed within
    /// `time`.
    pub async fn within<T>(&self, time: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + time;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // From here on no release is missed.
            freed.as_mut().enable();
            if let Some(taken) = attempt() {
                return Some(taken);
            }
            timeout_at(deadline, freed).await.ok()?;
        }
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.gauge.inc_by(signed(bytes));
        Held { budget: Arc::clone(self), bytes }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Bytes that are held until this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    /// The bytes of `owner`, counted as held until the last slice of them is dropped, wherever that is.
    #[must_use]
    pub fn over<T: AsRef<[u8]> + Send + 'static>(self, owner: T) -> Bytes {
        Bytes::from_owner(Counted { owner, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes as u64, Ordering::Relaxed);
        self.budget.gauge.dec_by(signed(self.bytes));
        self.budget.freed.notify_waiters();
    }
}

struct Counted<T> {
    owner: T,
    _held: Held,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Counted<T> {
    fn as_ref(&self) -> &[u8] {
        self.owner.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn what_is_held_is_counted_until_its_last_slice_is_dropped() {
        let budget = Budget::new(10, Gauge::default());
        let bytes = budget.take(8).unwrap().over(vec![7; 8]);
        assert_eq!((budget.held(), budget.take(3).is_none()), (8, true));
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert_eq!((budget.held(), &slice[..]), (8, &[7, 7][..]));
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.take_within(3, LONG).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(slice);
        assert!(waiting.await.unwrap(), "a release is noticed");
        assert_eq!((budget.held(), budget.gauge.get()), (0, 0));
    }

    #[test]
    fn readers_leave_a_quarter_to_what_arrives() {
        let budget = Budget::new(16, Gauge::default());
        assert!(budget.take_to_read(13).is_none());
        let read = budget.take_to_read(12).unwrap();
        assert!(budget.take_to_read(1).is_none());
        let arriving = budget.take(4).unwrap();
        assert!(budget.take(1).is_none());
        drop(read);
        assert!(budget.take_ahead(5).is_none());
        drop(budget.take_ahead(4).expect("half of the budget stays free"));
        assert!(budget.take_to_read(8).is_some(), "what arrives counts as well");
        drop(arriving);
    }

    #[tokio::test]
    async fn a_wait_has_an_end_and_what_must_be_is_held_beyond_the_limit() {
        let budget = Budget::new(10, Gauge::default());
        let held = budget.force(20);
        assert!(budget.take_within(1, Duration::from_millis(1)).await.is_none());
        assert_eq!((budget.held(), budget.gauge.get()), (20, 20));
        drop(held);
        assert!(budget.take(10).is_some());
    }
}
