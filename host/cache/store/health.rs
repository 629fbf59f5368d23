//! Whether Redis is used at present, by the outcomes of look-ups and writes.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing::warn;

use crate::{
    breaker::{Breaker, Permit},
    cache::Metrics,
    clock, config,
};

/// The breaker of the Redis tier, and the counts that go with it.
pub(super) struct Health {
    breaker: Mutex<Breaker>,
    pub(super) metrics: Metrics,
}

impl Health {
    pub(super) fn new(rule: config::Breaker, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self { breaker: Mutex::new(Breaker::new(rule)), metrics: metrics.clone() })
    }

    /// Returns whether a look-up may be made now. If it may, its outcome is to be reported.
    pub(super) fn permits(&self) -> bool {
        let is_permitted = self.breaker.lock().permit(clock::uptime()) != Permit::No;
        if !is_permitted {
            self.metrics.redis_skipped.inc();
        }
        is_permitted
    }

    pub(super) fn is_open(&self) -> bool {
        self.breaker.lock().is_open()
    }

    pub(super) fn succeeded(&self) {
        self.breaker.lock().record(true, clock::uptime());
    }

    /// Reports one failed call. An opening is worth a line in the log, a single failure only a count.
    pub(super) fn failed(&self, reason: &str) {
        let opened = self.breaker.lock().record(false, clock::uptime());
        if opened {
            warn!(reason, "the Redis tier fails; it is left alone for a while");
        }
    }
}
