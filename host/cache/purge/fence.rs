//! The fence: how long this node may serve what it has stored without asking, after it last read a log that it follows.
//!
//! Whoever purges waits until every node has applied the purge or its fence has certainly expired. So the fence is
//! counted from the moment *before* a read was sent, on a clock that only goes forward and counts suspension.
//!
//! Two things are to be told apart: to be *in step*, which takes a read of the whole log, and to be *awaited*, which takes
//! no more than to be on the list of members. One that is awaited asks the origin once a key and period; one that isn't,
//! for each request.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    clock::Uptime,
    config::CutOff,
    planted::{Plant, planted},
};

/// Whether stored responses may be served without asking. Shared by all requests; takes no lock.
#[derive(Debug)]
pub struct Fence {
    period: Duration,
    /// How long a node that is out of touch is waited for at all.
    lost: Duration,
    cut_off: CutOff,
    /// The last read of the log began then, in milliseconds of [`Uptime`]; 0 before the first, [`ALONE`] without a region.
    read: AtomicU64,
    /// The others have had a word of this node that is at least as late as this, so that they wait for its fence until
    /// `lost` after it; 0 if they have none.
    word: AtomicU64,
    /// Since then they have done so without a gap.
    since: AtomicU64,
}

/// When the last read of the log began, as it was known at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Observed(u64);

impl Observed {
    fn age(self, now: Uptime) -> Option<Duration> {
        match self.0 {
            0 | ALONE => None,
            read => Some(now.since(Uptime(read))),
        }
    }
}

/// The node has no region.
const ALONE: u64 = u64::MAX;

impl Fence {
    /// The fence of a node of a region that has yet to read its log.
    #[must_use]
    pub const fn new(period: Duration, lost: Duration, cut_off: CutOff) -> Self {
        let (read, word, since) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { period, lost, cut_off, read, word, since }
    }

    /// The fence of a node that has a log of its own, which always holds.
    #[must_use]
    pub const fn alone() -> Self {
        let (read, word, since) = (AtomicU64::new(ALONE), AtomicU64::new(0), AtomicU64::new(0));
        Self { period: Duration::ZERO, lost: Duration::ZERO, cut_off: CutOff::Ask, read, word, since }
    }

    /// Notes that a step of the log, which began at `began` and has come back by `now`, has put this node on its list.
    pub fn signed_on(&self, began: Uptime, now: Uptime) {
        if !self.is_awaited(now, now) {
            // The others may have given it up meanwhile, or never known it. Before the word: see `is_awaited`. Times are
            // in whole milliseconds, so what was fetched in this one may have been fetched before.
            self.since.store(now.0 + 1, Ordering::Release);
        }
        self.word.fetch_max(began.0.max(1), Ordering::Release);
    }

    /// Takes the place of a member that has ended without signing off and whose last word was no earlier than `word`: all
    /// that this process has fetched was fetched while others waited for that one. Nothing if this process has signed on.
    pub fn inherit(&self, word: Uptime) {
        let _ = self.word.compare_exchange(0, word.0.max(1), Ordering::Release, Ordering::Relaxed);
    }

    /// Whether each purge that was made since `from`, and is complete at `now`, has waited for this node or its fence.
    fn is_awaited(&self, from: Uptime, now: Uptime) -> bool {
        // In this order: whoever sees a word after a gap sees the end of the gap as well.
        let word = self.word.load(Ordering::Acquire);
        let since = self.since.load(Ordering::Acquire);
        // One that serves whatever happens is never given up.
        let counts = self.serves() || now.since(Uptime(word)) + self.period < self.lost;
        word != 0 && from.0 >= since && counts
    }

    /// Whether the node is configured to go on serving past its fence.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.cut_off == CutOff::Serve
    }

    /// Notes that all records of the log that were there at `began` have been applied.
    pub fn renew(&self, began: Uptime) {
        self.read.fetch_max(began.0.max(1), Ordering::Release);
    }

    /// Whether the log has ever been read to its end.
    #[must_use]
    pub fn has_read(&self) -> bool {
        self.read.load(Ordering::Acquire) != 0
    }

    /// Ends all that this node may serve without asking, for good: purges are made without waiting for it from now on.
    /// Nothing may call [`Fence::signed_on`] or [`Fence::renew`] after that.
    pub fn end(&self) {
        self.word.store(0, Ordering::Release);
        self.read.store(0, Ordering::Release);
    }

    /// Whether this node has no region.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.read.load(Ordering::Relaxed) == ALONE
    }

    /// Returns when the last read of the log began. Who judges an entry asks this before looking at the purge table, so
    /// that what is concluded from a read isn't believed of a table from before it.
    #[must_use]
    pub fn observe(&self) -> Observed {
        Observed(self.read.load(Ordering::Acquire))
    }

    /// How long ago the last read of the log began; `None` before the first, and without a region.
    #[must_use]
    pub fn age(&self, now: Uptime) -> Option<Duration> {
        self.observe().age(now)
    }

    /// What is left of the fence; zero past it.
    #[must_use]
    pub fn left(&self, now: Uptime) -> Duration {
        self.age(now).map_or(Duration::ZERO, |age| self.period.saturating_sub(age))
    }

    /// Whether the node is in step with the log at `now`.
    #[must_use]
    pub fn holds(&self, now: Uptime) -> bool {
        self.is_alone() || self.age(now).is_some_and(|age| age < self.period)
    }

    /// Whether what was fetched at `fetched` may be served at `now` without asking, as far as the fence goes.
    ///
    /// A node that is cut off asks the origin once a key and period: who purges waits for a period after the purge, so
    /// what was fetched less than a period ago was fetched after any purge that is complete by now. That is so only for
    /// as long as the others count with this node at all, and whether or not it has ever read the log.
    #[must_use]
    pub fn lets(&self, observed: Observed, fetched: Uptime, now: Uptime) -> bool {
        if observed.0 == ALONE || planted(Plant::FenceIgnored) {
            return true;
        }
        if observed.age(now).is_some_and(|age| age < self.period || self.serves()) {
            return true;
        }
        let is_recent = self.serves() || now.since(fetched) < self.period;
        fetched.0 != 0 && is_recent && self.is_awaited(fetched, now)
    }

    /// Whether a request that came at `came` may share a fetch that began at `began`, given that the fence did not hold
    /// when it came: in any case if it came first, else as [`Fence::lets`] would serve what was fetched.
    #[must_use]
    pub fn shares(&self, began: Uptime, came: Uptime) -> bool {
        if came <= began {
            return true;
        }
        match self.observe().0 {
            ALONE => true,
            read if read != 0 && self.serves() => true,
            _ => (self.serves() || came.since(began) < self.period) && self.is_awaited(began, came),
        }
    }
}

/// How long whoever purges waits for a fence of `period` to have expired for certain: clocks run at slightly different
/// rates, and are read in whole milliseconds.
#[must_use]
pub fn certainly(period: Duration) -> Duration {
    period + period / 50 + Duration::from_millis(50)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(4);
    const LOST: Duration = Duration::from_secs(60);

    fn lets(fence: &Fence, fetched: u64, now: u64) -> bool {
        fence.lets(fence.observe(), Uptime(fetched), Uptime(now))
    }

    fn read_at(ms: u64, cut_off: CutOff) -> Fence {
        let fence = Fence::new(PERIOD, LOST, cut_off);
        fence.signed_on(Uptime(ms), Uptime(ms));
        fence.renew(Uptime(ms));
        fence
    }

    #[test]
    fn without_a_region_everything_may_be_served() {
        let fence = Fence::alone();
        assert!(fence.holds(Uptime(u64::MAX - 1)) && lets(&fence, 0, 9) && fence.age(Uptime(9)).is_none());
    }

    #[test]
    fn before_the_log_is_read_nothing_may() {
        for cut_off in [CutOff::Ask, CutOff::Serve] {
            let fence = Fence::new(PERIOD, LOST, cut_off);
            assert!(!fence.holds(Uptime(5)) && !lets(&fence, 5, 5), "{cut_off:?}");
        }
    }

    #[test]
    fn past_its_end_nothing_may_nor_is_a_fetch_shared_that_began_before() {
        for fence in [Fence::alone(), read_at(10_000, CutOff::Ask), read_at(10_000, CutOff::Serve)] {
            assert!(fence.holds(Uptime(10_001)) && lets(&fence, 10_000, 10_001));
            fence.end();
            assert!(!fence.holds(Uptime(10_002)) && !fence.is_alone());
            assert!(!lets(&fence, 10_002, 10_002), "{fence:?}");
            assert!(!fence.shares(Uptime(10_001), Uptime(10_002)) && fence.shares(Uptime(10_002), Uptime(10_002)));
        }
    }

    #[test]
    fn past_the_fence_only_what_was_fetched_within_a_period() {
        let fence = read_at(10_000, CutOff::Ask);
        for (fetched, now, wanted) in [
            (0, 10_000, true),
            (0, 13_999, true),
            (0, 14_000, false),
            (12_000, 15_999, true),
            (12_000, 16_000, false),
            (20_000, 20_000, true),
            // 10,000 + 60,000 - 4,000: from then on nobody waits for this node any more.
            (65_999, 65_999, true),
            (66_000, 66_000, false),
        ] {
            assert_eq!(lets(&fence, fetched, now), wanted, "fetched {fetched}, now {now}");
        }
        fence.renew(Uptime(70_000));
        assert!(lets(&fence, 0, 73_999));
        fence.renew(Uptime(50_000));
        assert!(lets(&fence, 0, 73_999), "an older read takes nothing away");
    }

    /// Between the two, a purge that was made after the fetch need not have waited for this node.
    #[test]
    fn what_was_fetched_before_the_node_signed_on_is_asked_about() {
        let fence = Fence::new(PERIOD, LOST, CutOff::Ask);
        assert!(!lets(&fence, 10_000, 10_000), "nobody knows of it");
        fence.signed_on(Uptime(10_000), Uptime(10_200));
        // The log has yet to be read to its end, or to be confirmed by the others.
        assert!(!fence.holds(Uptime(10_200)) && !lets(&fence, 0, 10_200), "of others it knows nothing yet");
        for (fetched, now, wanted) in [
            (10_200, 10_300, false),
            (10_201, 10_300, true),
            (10_201, 14_200, true),
            (10_201, 14_201, false),
            (65_999, 65_999, true),
            (66_000, 66_000, false),
        ] {
            assert_eq!(lets(&fence, fetched, now), wanted, "fetched {fetched}, now {now}");
        }
        // In time: nobody has given it up.
        fence.signed_on(Uptime(65_000), Uptime(65_100));
        assert!(lets(&fence, 63_000, 66_000));
        // Too late: it may have been given up in between.
        fence.signed_on(Uptime(125_000), Uptime(125_001));
        assert!(!lets(&fence, 125_001, 125_002) && lets(&fence, 125_002, 125_002));
        assert!(!fence.shares(Uptime(125_001), Uptime(125_003)) && fence.shares(Uptime(125_002), Uptime(125_003)));
    }

    #[test]
    fn a_process_stands_in_for_the_member_that_it_was() {
        let fence = Fence::new(PERIOD, LOST, CutOff::Ask);
        fence.inherit(Uptime(10_000));
        assert!(!fence.holds(Uptime(10_001)) && !fence.has_read(), "it has read nothing itself");
        for (fetched, now, wanted) in [
            (0, 10_001, false),
            (10_001, 10_001, true),
            (10_001, 14_000, true),
            (10_001, 14_001, false),
            (65_999, 65_999, true),
            (66_000, 66_000, false),
        ] {
            assert_eq!(lets(&fence, fetched, now), wanted, "fetched {fetched}, now {now}");
        }
        fence.signed_on(Uptime(20_000), Uptime(20_000));
        fence.inherit(Uptime(70_000));
        assert!(lets(&fence, 19_000, 20_000) && !lets(&fence, 76_000, 76_000), "it has a word of its own");
        let serving = Fence::new(PERIOD, LOST, CutOff::Serve);
        serving.inherit(Uptime(10_000));
        assert!(lets(&serving, 10_001, 999_000) && !lets(&serving, 0, 10_001), "purges wait for it in any case");
    }

    #[test]
    fn a_node_may_be_configured_to_go_on() {
        let fence = read_at(10_000, CutOff::Serve);
        assert!(!fence.holds(Uptime(99_000)) && lets(&fence, 0, 99_000));
    }

    #[test]
    fn a_fetch_is_shared_while_others_count_with_this_node() {
        let fence = read_at(10_000, CutOff::Ask);
        for (began, came, wanted) in [
            (20_000, 20_000, true),
            (20_000, 23_999, true),
            (20_000, 24_000, false),
            (65_900, 65_999, true),
            // From here on no purge waits for this node.
            (65_999, 66_000, false),
            (66_000, 66_000, true),
            (66_001, 66_000, true),
            // Before it had signed on.
            (8_000, 9_000, false),
        ] {
            assert_eq!(fence.shares(Uptime(began), Uptime(came)), wanted, "began {began}, came {came}");
        }
        assert!(read_at(10_000, CutOff::Serve).shares(Uptime(11_000), Uptime(99_000)));
        let unknown = Fence::new(PERIOD, LOST, CutOff::Serve);
        assert!(unknown.shares(Uptime(5), Uptime(5)) && !unknown.shares(Uptime(5), Uptime(6)), "nobody knows of it");
    }

    #[test]
    fn certainly_is_later_than_the_fence() {
        assert!(certainly(PERIOD) > PERIOD && certainly(Duration::from_millis(1)) > Duration::from_millis(50));
    }
}
