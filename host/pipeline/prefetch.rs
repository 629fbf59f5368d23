//! Fetching ahead: what a policy suggests is put into the cache before it is requested.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Method};
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::sync::Semaphore;

use crate::{
    clock::{self, Uptime},
    config,
    message::{RequestHead, target},
    policy::Hint,
};

/// Hints that are remembered for each one that may wait, so that none is followed twice in a row.
const REMEMBERED_PER_WAITING: usize = 16;

/// Follows hints, within its limits.
#[derive(Debug)]
pub(super) struct Prefetcher {
    rule: config::Prefetch,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    followed: Mutex<HashMap<u64, Uptime>>,
    metrics: Metrics,
}

/// Counts of hints by their outcome.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(Family<[(&'static str, &'static str); 1], Counter>);

impl Metrics {
    /// Adds them to what the node reports.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("prefetch_hints", "Hints of policies, by outcome", self.0.clone());
    }

    fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&[("outcome", outcome)]).inc();
    }
}

impl Prefetcher {
    pub(super) fn new(rule: config::Prefetch, metrics: Metrics) -> Self {
        Self {
            places: Arc::new(Semaphore::new(rule.concurrency)),
            rule,
            waiting: AtomicUsize::new(0),
            followed: Mutex::default(),
            metrics,
        }
    }

    /// Returns what follows hints by this rule: itself, with all that it remembers, if the rule is the same.
    pub(super) fn under(self: &Arc<Self>, rule: config::Prefetch) -> Arc<Self> {
        if self.rule == rule { Arc::clone(self) } else { Arc::new(Self::new(rule, self.metrics.clone())) }
    }

    /// Returns the requests that these hints suggest after one with this head, as far as they are to be made now. Each
    /// counts as waiting until [`Prefetcher::run`].
    pub(super) fn wanted(&self, hints: &[Hint], head: &RequestHead, now: Uptime) -> Vec<RequestHead> {
        let wanted = |hint| {
            let ahead = ahead(head, hint)?;
            self.wants(hint, &ahead.url(), now).then(|| {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                ahead
            })
        };
        hints.iter().filter_map(wanted).collect()
    }

    /// Makes one of these requests when it has a place, and counts the outcome that `fetching` returns.
    pub(super) async fn run(&self, fetching: impl Future<Output = &'static str>) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // A stream that never ends isn't waited for.
        let outcome = tokio::time::timeout(self.rule.time_max, fetching).await.unwrap_or("failed");
        self.metrics.count(outcome);
        drop(place);
    }

    /// Whether a hint is to be followed. If not, the reason is counted.
    fn wants(&self, hint: &Hint, url: &str, now: Uptime) -> bool {
        let outcome = if u64::from(hint.confidence_ppm) < u64::from(self.rule.confidence_percent_min) * 10_000 {
            "unlikely"
        } else if self.rule.concurrency == 0 || self.waiting.load(Ordering::Relaxed) >= self.rule.queue_max {
            "dropped"
        } else if !self.is_new(hint, url, now) {
            "repeated"
        } else {
            return true;
        };
        self.metrics.count(outcome);
        false
    }

    fn is_new(&self, hint: &Hint, url: &str, now: Uptime) -> bool {
        let again = clock::millis(self.rule.again);
        if again == 0 {
            return true;
        }
        let mut parts: Vec<&[u8]> = vec![url.as_bytes()];
        parts.extend(hint.headers.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]));
        let hint = crate::policy::experiment::stable_hash(&parts);
        let mut followed = self.followed.lock();
        let room = self.rule.queue_max.saturating_mul(REMEMBERED_PER_WAITING);
        if followed.len() >= room {
            followed.retain(|_, until| *until > now);
        }
        if followed.len() >= room {
            // Followed once too often is better than remembered without a limit.
            followed.clear();
        }
        if followed.get(&hint).is_some_and(|until| *until > now) {
            return false;
        }
        followed.insert(hint, now.plus(Duration::from_millis(again)));
        true
    }
}

/// Returns the request that a hint suggests: as the same client would send it, with the hint's header fields only.
fn ahead(head: &RequestHead, hint: &Hint) -> Option<RequestHead> {
    let mut headers = HeaderMap::with_capacity(hint.headers.len());
    for (name, value) in &hint.headers {
        headers.append(name.clone(), value.clone());
    }
    let (target, received) = target::normalise(hint.path.parse().ok()?).ok()?;
    Some(RequestHead { method: Method::GET, target, received, headers, ..head.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(confidence_ppm: u32) -> Hint {
        Hint { path: "/2".to_owned(), headers: vec![], confidence_ppm }
    }

    #[test]
    fn a_hint_is_followed_once_and_only_if_it_is_likely() {
        let prefetcher = Prefetcher::new(config::Prefetch::default(), Metrics::default());
        let wants = |ppm, url, now| prefetcher.wants(&hint(ppm), url, Uptime(now));
        assert!(!wants(499_999, "http://a/2", 0));
        assert!(wants(500_000, "http://a/2", 0));
        assert!(!wants(900_000, "http://a/2", 9_999));
        assert!(wants(900_000, "http://b/2", 9_999));
        assert!(wants(900_000, "http://a/2", 10_000), "however often it was met in between");
        prefetcher.waiting.store(256, Ordering::Relaxed);
        assert!(!wants(900_000, "http://a/3", 0));
    }

    #[test]
    fn no_more_hints_wait_than_may() {
        let rule = config::Prefetch { queue_max: 2, ..config::Prefetch::default() };
        let prefetcher = Prefetcher::new(rule, Metrics::default());
        let hints: Vec<Hint> =
            (0..5).map(|n| Hint { path: format!("/{n}"), headers: vec![], confidence_ppm: 1_000_000 }).collect();
        let head = crate::policy::facts::tests::request(Method::GET, "/", &[]);
        let wanted = prefetcher.wanted(&hints, &head, Uptime(0));
        assert_eq!(wanted.iter().map(|head| head.target.path()).collect::<Vec<_>>(), ["/0", "/1"]);
        assert_eq!(prefetcher.waiting.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let rule = config::Prefetch { queue_max: 2, ..config::Prefetch::default() };
        let prefetcher = Prefetcher::new(rule, Metrics::default());
        for n in 0..1_000 {
            assert!(prefetcher.wants(&hint(1_000_000), &format!("http://a/{n}"), Uptime(0)));
            assert!(prefetcher.followed.lock().len() <= 2 * REMEMBERED_PER_WAITING);
        }
    }
}
