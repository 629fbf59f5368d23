//! Fetching ahead: what a policy thinks will be asked next is put into the cache before it is.

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

use super::{Advice, Pipeline, Served};
use crate::{
    clock::{self, Uptime},
    config,
    message::{Body, Request, RequestHead, target},
    policy::{Decision, Facts, Hint, Question},
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

/// What became of hints.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Family<[(&'static str, &'static str); 1], Counter>);

impl Metrics {
    /// Adds them to what the node reports.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("prefetch_hints", "Hints of policies, by what became of them", self.0.clone());
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

    /// Is a hint to be followed? If not, it is counted why.
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

impl Pipeline {
    /// Asks the policy what will be asked after a GET, and sees to it.
    pub(super) fn look_ahead(self: &Arc<Self>, advice: &Advice, facts: &Facts<'_>, hit: bool) {
        let head = facts.request();
        let Some(Ok(decision)) = advice.ask(&Question::Prefetch { hit }, facts) else { return };
        let Decision::Prefetch(hints) = &*decision else { return };
        for hint in hints {
            let Some(ahead) = ahead(head, hint) else { continue };
            if self.prefetcher.wants(hint, &ahead.url(), clock::uptime()) {
                self.prefetcher.waiting.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(Arc::clone(self).fetch_ahead(ahead));
            }
        }
    }

    async fn fetch_ahead(self: Arc<Self>, head: RequestHead) {
        let place = Arc::clone(&self.prefetcher.places).acquire_owned().await;
        self.prefetcher.waiting.fetch_sub(1, Ordering::Relaxed);
        let fetching = Box::pin(self.fetched(head));
        // What streams for ever is none of ours.
        let outcome = tokio::time::timeout(self.prefetcher.rule.time_max, fetching).await.unwrap_or("failed");
        self.prefetcher.metrics.count(outcome);
        drop(place);
    }

    /// Fetches it, and says what came of that.
    async fn fetched(self: &Arc<Self>, head: RequestHead) -> &'static str {
        let Served { response, trail } = self.answer(Request { head, body: Body::Empty }).await;
        // Read to its end, or it wouldn't be kept.
        let read = response.into_body().collect(self.cache.config().object_bytes_max).await;
        match (trail.failed || read.is_err(), trail.forward.is_none()) {
            (true, _) => "failed",
            (false, true) => "stored-already",
            (false, false) => "fetched",
        }
    }
}

/// The request that a hint foresees: as the same client would send it, with the hint's header fields only.
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
    fn what_is_remembered_is_bounded() {
        let rule = config::Prefetch { queue_max: 2, ..config::Prefetch::default() };
        let prefetcher = Prefetcher::new(rule, Metrics::default());
        for n in 0..1_000 {
            assert!(prefetcher.wants(&hint(1_000_000), &format!("http://a/{n}"), Uptime(0)));
            assert!(prefetcher.followed.lock().len() <= 2 * REMEMBERED_PER_WAITING);
        }
    }
}
