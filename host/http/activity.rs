//! The state of a connection's requests, whichever front it came by: a few relaxed atomics and one reading
//! of the clock per request. A front decides from them, and from what it measures itself, whether a client takes too
//! long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;

use crate::clock::millis;

/// One request in the upper half of [`Activity::requests`].
const BEGUN: u64 = 1 << 32;

/// The state of a connection's requests. Times are milliseconds since it was accepted.
pub(super) struct Activity {
    opened: Instant,
    /// In the lower half the requests whose response isn't finished, in the upper one all that ever began, modulo 2^32.
    /// One number, so that the count for the log costs a request nothing.
    requests: AtomicU64,
    idle_since: AtomicU64,
    /// Characters that the front has marked in the target of the request to come.
    marked: AtomicUsize,
    panics: Counter,
}

impl Activity {
    /// Returns a connection that has just been accepted; a panic while one of its requests is served is counted in
    /// `panics`.
    pub(super) fn new(panics: Counter) -> Self {
        let (requests, idle_since, marked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicUsize::new(0));
        Self { opened: Instant::now(), requests, idle_since, marked, panics }
    }

    /// Returns milliseconds since the connection was accepted.
    pub(super) fn millis(&self) -> u64 {
        millis(self.opened.elapsed())
    }

    /// Returns the time since the connection was accepted, in whole milliseconds.
    pub(super) fn now(&self) -> Duration {
        Duration::from_millis(self.millis())
    }

    /// Returns the instant that lies `at` after acceptance.
    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.opened + at
    }

    /// Returns the number of requests whose response isn't finished. Read before the times, which are stored ahead of
    /// it.
    pub(super) fn in_flight(&self) -> u32 {
        low(self.requests.load(Ordering::Acquire))
    }

    /// Whether no request is in flight, without an order towards the times.
    pub(super) fn is_idle(&self) -> bool {
        low(self.requests.load(Ordering::Relaxed)) == 0
    }

    /// Returns all requests that have begun.
    pub(super) fn begun(&self) -> u32 {
        low(self.requests.load(Ordering::Relaxed) >> 32)
    }

    /// Returns when the last request ended; meaningless while one is in flight.
    pub(super) fn idle_since(&self) -> Duration {
        Duration::from_millis(self.idle_since.load(Ordering::Relaxed))
    }

    /// Notes how many characters the front has marked (`message::raw_query`) in the target of the request to come.
    pub(super) fn mark(&self, characters: usize) {
        self.marked.store(characters, Ordering::Relaxed);
    }

    /// Returns how many characters were marked in the target of the request that has just come.
    pub(super) fn take_marked(&self) -> usize {
        // Nearly always the look is all there is to do.
        if self.marked.load(Ordering::Relaxed) == 0 { 0 } else { self.marked.swap(0, Ordering::Relaxed) }
    }

    /// Counts idleness from this moment on, in milliseconds since acceptance.
    pub(super) fn idle_from(&self, millis: u64) {
        self.idle_since.store(millis, Ordering::Relaxed);
    }
}

/// Returns the lower half.
#[expect(clippy::cast_possible_truncation, reason = "the upper half is another number")]
const fn low(requests: u64) -> u32 {
    requests as u32
}

/// A request in flight: lives until the last piece of its response's body.
pub(super) struct InFlight {
    activity: Arc<Activity>,
    is_first: bool,
}

impl InFlight {
    /// Notes that a request's header section is complete.
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        let before = activity.requests.fetch_add(BEGUN + 1, Ordering::Relaxed);
        Self { activity: activity.clone(), is_first: before < BEGUN }
    }

    /// Whether it is the first request of its connection.
    pub(super) const fn is_first(&self) -> bool {
        self.is_first
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Every front's tasks unwind through here, so that no front has to look for panics itself.
        if std::thread::panicking() {
            self.activity.panics.inc();
        }
        // Stored ahead of the count: a reader that sees no request in flight must not see the idleness of before.
        self.activity.idle_from(self.activity.millis());
        self.activity.requests.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_while_they_are_served_and_in_all() {
        let activity = Arc::new(Activity::new(Counter::default()));
        let counts = || (activity.in_flight(), activity.begun(), activity.is_idle());
        assert_eq!(counts(), (0, 0, true));
        let first = InFlight::begin(&activity);
        let second = InFlight::begin(&activity);
        assert_eq!((first.is_first(), second.is_first()), (true, false));
        assert_eq!(counts(), (2, 2, false));
        drop((first, second));
        assert_eq!(counts(), (0, 2, true));
        assert!(!InFlight::begin(&activity).is_first(), "others are over");
    }

    #[test]
    fn the_count_of_all_wraps_and_leaves_the_other_alone() {
        let activity = Arc::new(Activity::new(Counter::default()));
        activity.requests.store(u64::from(u32::MAX) << 32, Ordering::Relaxed);
        let request = InFlight::begin(&activity);
        assert_eq!((activity.in_flight(), activity.begun()), (1, 0));
        drop(request);
        assert_eq!((activity.in_flight(), activity.begun()), (0, 0));
    }

    #[test]
    fn a_panic_is_counted_once() {
        let panics = Counter::default();
        let activity = Arc::new(Activity::new(panics.clone()));
        let in_flight = InFlight::begin(&activity);
        let unwound: std::thread::Result<()> = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _in_flight = in_flight;
            panic!("on purpose");
        }));
        assert!(unwound.is_err());
        assert_eq!(panics.get(), 1);
    }
}
