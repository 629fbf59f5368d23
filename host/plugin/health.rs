//! A hook's breaker, behind a flag: for a healthy one a call reads only that, without a lock or a clock.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::{
    breaker::{Breaker, Permit},
    clock::Uptime,
    config,
};

pub(super) struct Health {
    /// Set while the breaker has failures to remember. Written under the lock, so that it agrees with it.
    failing: AtomicBool,
    breaker: Mutex<Breaker>,
}

impl Health {
    pub(super) fn new(rule: config::Breaker) -> Self {
        Self { failing: AtomicBool::new(false), breaker: Mutex::new(Breaker::new(rule)) }
    }

    /// Whether the hook may be called.
    pub(super) fn permit(&self, now: &impl Fn() -> Uptime) -> bool {
        !self.failing.load(Ordering::Relaxed) || self.breaker.lock().permit(now()) != Permit::No
    }

    /// Reports the outcome of a permitted call. Returns true if this report opened the breaker.
    pub(super) fn record(&self, ok: bool, now: &impl Fn() -> Uptime) -> bool {
        if ok && !self.failing.load(Ordering::Relaxed) {
            return false;
        }
        let mut breaker = self.breaker.lock();
        let opened = breaker.record(ok, now());
        self.failing.store(!ok || breaker.is_open(), Ordering::Relaxed);
        opened
    }

    pub(super) fn is_open(&self) -> bool {
        self.breaker.lock().is_open()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;

    fn health() -> Health {
        let millis = Duration::from_millis;
        Health::new(config::Breaker { failures: 2, open: millis(100), open_max: millis(100) })
    }

    #[test]
    fn the_healthy_path_asks_no_clock() {
        let never = || -> Uptime { panic!("asked the time") };
        let health = health();
        for _ in 0..3 {
            assert!(health.permit(&never));
            assert!(!health.record(true, &never));
        }
    }

    #[test]
    fn it_opens_probes_and_heals() {
        let time = Cell::new(0);
        let now = || Uptime(time.get());
        let health = health();
        assert!(!health.record(false, &now));
        assert!(health.record(false, &now));
        assert!(health.is_open() && !health.permit(&now));
        // A call that was under way when it opened doesn't close it.
        health.record(true, &now);
        assert!(!health.permit(&now));
        time.set(100);
        assert!(health.permit(&now), "the probe");
        assert!(!health.permit(&now), "one at a time");
        health.record(true, &now);
        assert!(!health.is_open());
        assert!(health.permit(&|| -> Uptime { panic!("asked the time") }));
    }
}
