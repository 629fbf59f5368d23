//! The current state of a pool: times and failures of its last responses. Pure but for the lock around it.

use parking_lot::Mutex;

use crate::{
    clock::Uptime,
    policy::{PoolStats, facts::POOL_STATS_MS},
};

/// Responses that the statistics cover.
const RESPONSES_MAX: usize = 1024;

/// The last responses of a pool.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    /// Time to the head in microseconds, and whether it failed; a ring once it is full.
    responses: Vec<(u32, bool)>,
    next: usize,
    /// The latest summary, and when it is out of date.
    summary: Option<(Uptime, PoolStats)>,
}

impl Recent {
    /// An attempt ended after `us` microseconds.
    pub(super) fn record(&self, us: u128, failed: bool) {
        self.0.lock().record(u32::try_from(us).unwrap_or(u32::MAX), failed);
    }

    /// Times and failures by now, with the counts that `present` adds. Taken anew at most ten times a second.
    pub(super) fn summary(&self, now: Uptime, present: impl FnOnce() -> PoolStats) -> PoolStats {
        let mut window = self.0.lock();
        if let Some((until, summary)) = window.summary
            && now < until
        {
            return summary;
        }
        let summary = window.summarize(present());
        window.summary = Some((Uptime(now.0 - now.0 % POOL_STATS_MS + POOL_STATS_MS), summary));
        summary
    }
}

impl Window {
    fn record(&mut self, us: u32, failed: bool) {
        if self.responses.len() < RESPONSES_MAX {
            self.responses.push((us, failed));
        } else {
            self.responses[self.next] = (us, failed);
            self.next = (self.next + 1) % RESPONSES_MAX;
        }
    }

    fn summarize(&self, present: PoolStats) -> PoolStats {
        let mut times: Vec<u32> = self.responses.iter().filter(|(_, failed)| !failed).map(|(us, _)| *us).collect();
        times.sort_unstable();
        let failed = self.responses.len() - times.len();
        // Of the times in order, the one that so many in a hundred don't exceed.
        let at = |percent: usize| {
            times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied().map_or(0, u64::from)
        };
        let error_ppm = (failed * 1_000_000).checked_div(self.responses.len()).unwrap_or(0);
        PoolStats { p50_us: at(50), p99_us: at(99), error_ppm: u32::try_from(error_ppm).unwrap_or(u32::MAX), ..present }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(recent: &Recent, now: u64) -> PoolStats {
        recent.summary(Uptime(now), || PoolStats { endpoints: 2, ..PoolStats::default() })
    }

    #[test]
    fn times_and_failures() {
        let recent = Recent::default();
        assert_eq!(summary(&recent, 0), PoolStats { endpoints: 2, ..PoolStats::default() });
        (1..=100).for_each(|us| recent.record(us, false));
        (0..25).for_each(|_| recent.record(9_999, true));
        assert_eq!(summary(&recent, 99).p50_us, 0, "taken ten times a second");
        let now = summary(&recent, 100);
        assert_eq!((now.p50_us, now.p99_us, now.error_ppm), (50, 99, 200_000));
    }

    #[test]
    fn only_the_last_responses_count() {
        let recent = Recent::default();
        (0..RESPONSES_MAX).for_each(|_| recent.record(7, true));
        (0..RESPONSES_MAX).for_each(|_| recent.record(u128::MAX, false));
        let now = summary(&recent, 0);
        assert_eq!((now.p50_us, now.error_ppm), (u64::from(u32::MAX), 0));
    }
}
