//! Looking at what is stored without serving it. Nothing is fetched, counted or brought into another tier. The memory
//! tier's own count of an entry's uses is the one thing that can't be avoided.

use std::sync::Arc;

use http::HeaderName;

use super::{
    Cache, Query,
    entry::{Object, Value},
    facade::rank,
    key::Key,
    lookup::{self, Because, Outcome},
    purge::Standing,
    store::Tier,
    vary,
};
use crate::clock;

/// What a look-up would find.
#[derive(Debug)]
pub struct Inspected {
    /// The key under which the response is stored, or would be: of the variant, if one is known to be selected.
    pub key: Key,
    /// The fields that the response varies by, if that is known.
    pub names: Option<Arc<[HeaderName]>>,
    /// What is stored, whether or not it may be used.
    pub stored: Option<Stored>,
    /// What that is good for.
    pub outcome: Outcome,
    /// Whether requests for this key don't wait for each other at present.
    pub uncacheable: bool,
}

/// A stored response, where it is, and what is known of it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The response.
    pub object: Arc<Object>,
    /// Where it is.
    pub tier: Tier,
    /// What the purge table says of it.
    pub standing: Standing,
    /// Why it may be used for the request, or may not.
    pub because: Because,
}

impl Cache {
    /// Returns what [`Cache::look_up`] would find.
    pub async fn inspect(&self, query: &Query<'_>) -> Inspected {
        let mut inspected = match self.inspect_key(query, query.key, None).await {
            Ok(inspected) => inspected,
            Err(names) => {
                let key = vary::variant(&query.key, &names, query.head);
                let known = Some(Arc::clone(&names));
                self.inspect_key(query, key, known).await.unwrap_or_else(|names| nothing(key, Some(names)))
            }
        };
        let is_marked = self.has_cookie_mark(&inspected.outcome, &inspected.key, query.head);
        inspected.uncacheable = inspected.uncacheable || is_marked;
        inspected
    }

    /// Looks under one key in all tiers; `Err` with the names it varies by.
    async fn inspect_key(
        &self,
        query: &Query<'_>,
        key: Key,
        names: Option<Arc<[HeaderName]>>,
    ) -> Result<Inspected, Arc<[HeaderName]>> {
        let mut best = nothing(key, names);
        for tier in [Tier::Memory, Tier::Disk, Tier::Redis] {
            if tier == Tier::Redis && !self.purger().in_step() {
                break;
            }
            match self.tiers.glance(tier, &key).await {
                Some(Value::Varies(names)) if best.names.is_none() => return Err(names),
                Some(Value::Uncacheable(until)) if clock::uptime() < until => {
                    (best.uncacheable, best.outcome, best.stored) = (true, Outcome::Miss, None);
                    break;
                }
                Some(Value::Object(object)) => self.weigh(query, object, tier, &mut best),
                Some(Value::Uncacheable(_) | Value::Varies(_) | Value::Part(_)) | None => {}
            }
            // What memory has and may be served is served without a look at the others.
            let is_settled = tier == Tier::Memory && matches!(best.outcome, Outcome::Grace(_));
            if is_settled || matches!(best.outcome, Outcome::Hit(_)) {
                break;
            }
        }
        Ok(best)
    }

    /// Takes what a tier has if it is better than what another one has.
    fn weigh(&self, query: &Query<'_>, object: Arc<Object>, tier: Tier, best: &mut Inspected) {
        let skew = self.config().clock_skew;
        let standing = self.purger().check(&object.head.subject(), &object.checked, query.url);
        let because = lookup::because(&object, standing, query.demand, query.now, skew);
        let outcome = lookup::judge(Arc::clone(&object), standing, query.demand, query.now, skew);
        if best.stored.is_none() || rank(&outcome) > rank(&best.outcome) {
            best.stored = Some(Stored { object, tier, standing, because });
            best.outcome = outcome;
        }
    }

    /// Returns the response under a key in this node's memory or on its disk, unless it was purged.
    pub async fn present(&self, key: &Key) -> Option<(Arc<Object>, Tier)> {
        for tier in [Tier::Memory, Tier::Disk] {
            let Some(Value::Object(object)) = self.tiers.glance(tier, key).await else { continue };
            if self.standing(&object) != Standing::Gone {
                return Some((object, tier));
            }
        }
        None
    }
}

const fn nothing(key: Key, names: Option<Arc<[HeaderName]>>) -> Inspected {
    Inspected { key, names, stored: None, outcome: Outcome::Miss, uncacheable: false }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        cache::{Metrics, codec, lookup::Demand},
        clock::Timestamp,
        config,
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_inspection_finds_what_a_look_up_does() {
        let cache = Cache::open("n", &config::Cache::default(), Metrics::default()).await.unwrap();
        let request = crate::policy::facts::tests::request(http::Method::GET, "/", &[("accept", "a")]);
        let demand = Demand::default();
        let query = |key, now| Query { key, head: &request, demand: &demand, url: None, now: Timestamp(now) };
        let (plain, varied) = (Key::from_bytes([1; 32]), Key::from_bytes([2; 32]));
        let names: Arc<[HeaderName]> = Arc::new([http::header::ACCEPT]);
        let variant = vary::variant(&varied, &names, &request);
        for key in [plain, variant] {
            let mut head = codec::tests::head(0);
            head.mark = cache.purger().mark();
            cache.tiers.insert_local(key, Value::Object(Object::new(head, Bytes::new())));
        }
        cache.tiers.insert_local(varied, Value::Varies(Arc::clone(&names)));
        for (key, stored_under, names) in [(plain, plain, None), (varied, variant, Some(&names))] {
            for (now, because) in [(1_000_000, Because::Fresh), (1_057_502, Because::Stale), (9_000_000, Because::Over)]
            {
                let query = query(key, now);
                let (found, inspected) = (cache.look_up(&query).await, cache.inspect(&query).await);
                assert_eq!((inspected.key, inspected.names.as_ref()), (stored_under, names));
                assert_eq!(inspected.key, found.key);
                assert_eq!(rank(&inspected.outcome), rank(&found.outcome), "{now}");
                assert_eq!(inspected.stored.map(|stored| stored.because), Some(because), "{now}");
            }
        }
        let missing = cache.inspect(&query(Key::from_bytes([3; 32]), 1_000_000)).await;
        assert!(missing.stored.is_none() && matches!(missing.outcome, Outcome::Miss));
        assert!(cache.present(&plain).await.is_some() && cache.present(&varied).await.is_none());
    }
}
