//! The interface that a component may import: messages to the node's log.

use std::sync::Arc;

use holm_bindings::holm::policy::diagnostics::Level;
use parking_lot::Mutex;
use tracing::{debug, trace};

use crate::clock::{self, Uptime};

/// The log messages of one generation. All its instances share the quota.
pub(super) struct Voice {
    label: Arc<str>,
    per_second_max: u32,
    quota: Mutex<Quota>,
}

impl Voice {
    pub(super) fn new(label: Arc<str>, per_second_max: u32) -> Self {
        Self { label, per_second_max, quota: Mutex::default() }
    }

    pub(super) fn say(&self, level: Level, message: &str) {
        let Some(lost) = self.quota.lock().spend(self.per_second_max, clock::uptime()) else { return };
        let policy = &*self.label;
        let message: String =
            message.chars().take(MESSAGE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
        match level {
            Level::Trace => trace!(target: "policy", policy, lost, "{message}"),
            _ => debug!(target: "policy", policy, severity = word(level), lost, "{message}"),
        }
    }
}

const MESSAGE_CHARS_MAX: usize = 1024;

/// The messages of the current second.
#[derive(Debug, Default)]
struct Quota {
    second: u64,
    said: u32,
    lost: u64,
}

impl Quota {
    /// Returns how many messages were dropped before this one; `None` if this one may not be written.
    fn spend(&mut self, per_second_max: u32, now: Uptime) -> Option<u64> {
        let second = now.0 / 1000;
        if second != self.second {
            self.second = second;
            self.said = 0;
        }
        if self.said >= per_second_max {
            self.lost += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.lost))
    }
}

/// Whether a level is logged. Whatever level a policy chooses, for the operator it is `debug`; only `trace` stays.
pub(super) fn enabled(level: Level) -> bool {
    match level {
        Level::Trace => tracing::enabled!(target: "policy", tracing::Level::TRACE),
        _ => tracing::enabled!(target: "policy", tracing::Level::DEBUG),
    }
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_talks_too_much_is_cut_and_the_next_second_tells() {
        let mut quota = Quota::default();
        for _ in 0..50 {
            assert_eq!(quota.spend(50, Uptime(5_999)), Some(0));
        }
        assert_eq!(quota.spend(50, Uptime(5_999)), None);
        assert_eq!(quota.spend(50, Uptime(5_999)), None);
        assert_eq!(quota.spend(50, Uptime(6_000)), Some(2));
        assert_eq!(quota.spend(50, Uptime(6_000)), Some(0));
        assert_eq!(quota.spend(0, Uptime(7_000)), None, "none at all");
    }
}
