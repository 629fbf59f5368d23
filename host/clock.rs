//! Two clocks. [`Timestamp`] is wall-clock time, for freshness, dates and logs: it may be set back or forward at any
//! moment. [`Uptime`] only goes forward and counts suspension: everything that lasts (breakers, ejections, trials,
//! fences) is measured with it. Pure cores take either as an argument; only edges call [`now`] and [`uptime`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch. Comparable between the nodes of a region as far as their clocks agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Returns the time `duration` after this one; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// Returns how long ago `earlier` was; zero if it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Returns the whole seconds since the Unix epoch.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

/// Returns the current time.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// Milliseconds since this machine started, time in suspension included. Not comparable between machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(pub u64);

impl Uptime {
    /// Returns the moment `duration` after this one; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// Returns how long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Returns the current moment. No setting of the system clock moves it.
#[must_use]
pub fn uptime() -> Uptime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Uptime(seconds.saturating_mul(1000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000))
}

/// Returns a duration in whole milliseconds; saturates instead of wrapping.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
