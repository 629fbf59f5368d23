//! The fence: how long this node may serve what it has stored without asking, after it last read its region's log.
//!
//! Whoever purges waits until every node has applied the purge or its fence has certainly expired. So the fence is
//! counted from the moment *before* a read was sent, on a clock that only goes forward and counts suspension.

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
        Self { period, lost, cut_off, read: AtomicU64::new(0) }
    }

    /// The fence of a node that has a log of its own, which always holds.
    #[must_use]
    pub const fn alone() -> Self {
        Self { period: Duration::ZERO, lost: Duration::ZERO, cut_off: CutOff::Ask, read: AtomicU64::new(ALONE) }
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

    /// Whether the node is in step with its region at `now`.
    #[must_use]
    pub fn holds(&self, now: Uptime) -> bool {
        self.is_alone() || self.age(now).is_some_and(|age| age < self.period)
    }

    /// Whether what was fetched at `fetched` may be served at `now` without asking, as far as the fence goes.
    ///
    /// A node that is cut off asks the origin once a key and period: who purges waits for a period after the purge, so
    /// what was fetched less than a period ago was fetched after any purge that is complete by now. That is so only for
    /// as long as the others count with this node at all.
    #[must_use]
    pub fn lets(&self, observed: Observed, fetched: Uptime, now: Uptime) -> bool {
        if observed.0 == ALONE || planted(Plant::FenceIgnored) {
            return true;
        }
        let Some(age) = observed.age(now) else { return false };
        age < self.period
            || match self.cut_off {
                CutOff::Serve => true,
                CutOff::Ask => fetched.0 != 0 && age + self.period < self.lost && now.since(fetched) < self.period,
            }
    }

    /// Whether a request that came at `came` may share a fetch that began at `began`, given that the fence did not hold
    /// when it came: in any case if it came first, else as [`Fence::lets`] would serve what was fetched. A read since then
    /// shows nothing of the time before.
    #[must_use]
    pub fn shares(&self, began: Uptime, came: Uptime) -> bool {
        if came <= began {
            return true;
        }
        match (self.observe().0, self.cut_off) {
            (0, _) => false,
            (ALONE, _) | (_, CutOff::Serve) => true,
            (read, CutOff::Ask) => {
                let counts = read <= came.0 && came.since(Uptime(read)) + self.period < self.lost;
                counts && came.since(began) < self.period
            }
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
