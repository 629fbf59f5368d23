//! The cache as the other rooms see it: its tiers and what was purged, opened together and asked in one look-up.

use std::{sync::Arc, time::Duration};

use http::header::COOKIE;
use parking_lot::Mutex;
use thiserror::Error;
use tracing::warn;

use super::{
    Metrics,
    body::{budget::Budget, lending::Lending},
    dictionary::shelf::Shelf,
    entry::{Head, Object, PARTS_MAX, Value},
    fetches::{Fetch, Fetches},
    key::Key,
    lookup::{self, Demand, Outcome},
    purge::{self, Purges, Standing},
    search,
    store::{self, Tier, Tiers, leases::Lease, lock::DirLock, shared::RedisLookup},
    tag::{self, UrlTags},
    vary,
};
use crate::{
    clock::{self, Timestamp, Uptime},
    config,
    message::RequestHead,
};

/// Why the cache could not be opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The tiers.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The purge table or log.
    #[error(transparent)]
    Purge(#[from] purge::Error),
}

/// A look-up's result.
#[derive(Debug)]
pub struct Found {
    /// The key under which the response is stored, or will be: of the variant, if one is known to be selected.
    pub key: Key,
    /// What it's good for.
    pub outcome: Outcome,
    /// Where it was found.
    pub tier: Tier,
    /// The key was of a variant.
    pub varied: bool,
    /// Requests for this key don't wait for each other at present.
    pub uncacheable: bool,
}

/// What a look-up needs to know of a request.
pub struct Query<'a> {
    /// The request's key.
    pub key: Key,
    /// The request, to select a variant.
    pub head: &'a RequestHead,
    /// Its demands on a cache.
    pub demand: &'a Demand,
    /// Makes what stands for its URL, if its key may be shared by several: all of it if it is given true.
    pub url: Option<&'a (dyn Fn(bool) -> UrlTags + Sync)>,
    /// The current time.
    pub now: Timestamp,
}

/// The node's cache.
#[derive(Debug)]
pub struct Cache {
    pub(super) config: config::Cache,
    pub(super) tiers: Tiers,
    pub(super) lending: Arc<Lending>,
    pub(super) shelf: Mutex<Shelf>,
    purger: Arc<Purges>,
    search_rules: search::Rules,
    fetches: Arc<Fetches>,
    pub(super) metrics: Metrics,
    object_bytes_max: u64,
    /// Dropped after what it guards.
    lock: Mutex<Option<DirLock>>,
}

impl Cache {
    /// Opens the tiers and the purge table.
    ///
    /// # Errors
    /// [`Error`] if the disk tier, the purge table or the Redis URL is unusable, or another node uses the disk tier. A Redis
    /// that is down is no error.
    pub async fn open(node: &str, config: &config::Cache, metrics: Metrics) -> Result<Arc<Self>, Error> {
        Self::open_in(node, config, None, metrics).await
    }

    /// The same for a node that follows the world's purge log as well, if there is one.
    ///
    /// # Errors
    /// As [`Cache::open`]. A log that can't be reached is no error.
    pub async fn open_in(
        node: &str,
        config: &config::Cache,
        world: Option<purge::World>,
        metrics: Metrics,
    ) -> Result<Arc<Self>, Error> {
        // First of all: neither the store's files nor the purge table may be touched beside another node's.
        let lock = config.disk.as_ref().map(|disk| DirLock::take(&disk.dir)).transpose()?;
        let bodies = Budget::new(config.bodies_bytes_max, metrics.bodies_bytes.clone());
        let tiers = Tiers::open(config, &bodies, &metrics).await?;
        let log = match &config.redis {
            Some(redis) => {
                let log = purge::redis::RedisLog::new(&config.namespace, redis, &config.purge)?;
                Some(Arc::new(log) as Arc<dyn purge::log::Log>)
            }
            None => None,
        };
        let dir = config.disk.as_ref().map(|disk| disk.dir.as_path());
        let purger = Purges::open(node, &config.purge, dir, log, world, &metrics)?;
        let object_bytes_max = largest_body(config);
        if object_bytes_max < config.object_bytes_max {
            let configured = config.object_bytes_max;
            warn!(configured, object_bytes_max, "larger bodies than the tiers can hold pass without being stored");
        }
        Ok(Arc::new(Self {
            config: config.clone(),
            tiers,
            lending: Lending::new(bodies),
            shelf: Mutex::new(Shelf::new(config.dictionaries_bytes_max)),
            purger,
            search_rules: search::Rules::new(config.search_rules_max),
            fetches: Fetches::new(),
            metrics,
            object_bytes_max,
            lock: Mutex::new(lock),
        }))
    }

    /// What was purged.
    #[must_use]
    pub const fn purger(&self) -> &Arc<Purges> {
        &self.purger
    }

    /// What the last responses for paths have said of their queries.
    #[must_use]
    pub const fn search_rules(&self) -> &search::Rules {
        &self.search_rules
    }

    /// Begins a fetch for a request with this key: what comes of it replaces nothing that a later one has stored. To be
    /// called before the request is sent.
    #[must_use]
    pub fn begin_fetch(&self, primary: &Key) -> Arc<Fetch> {
        self.begin_leased(primary, None)
    }

    /// Begins a fetch under a lease, if the region has given one: see [`Cache::join_region`].
    #[must_use]
    pub fn begin_leased(&self, primary: &Key, lease: Option<Lease>) -> Arc<Fetch> {
        self.fetches.begin(primary, lease)
    }

    /// The counts.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Limits and lifetimes.
    #[must_use]
    pub const fn config(&self) -> &config::Cache {
        &self.config
    }

    /// Returns the bytes of the largest body that is stored: what the configuration says, unless no tier could hold that.
    #[must_use]
    pub const fn object_bytes_max(&self) -> u64 {
        self.object_bytes_max
    }

    /// Looks in memory; never waits. `None` if another tier might know more.
    #[must_use]
    pub fn peek(&self, query: &Query<'_>) -> Option<Found> {
        let found = match self.tiers.memory(&query.key) {
            Some(Value::Varies(names)) => {
                let key = vary::variant(&query.key, &names, query.head);
                self.found(query, key, self.tiers.memory(&key), Tier::Memory, true)
            }
            value => self.found(query, query.key, value, Tier::Memory, false),
        };
        let settled = found.uncacheable || matches!(found.outcome, Outcome::Hit(_) | Outcome::Grace(_));
        (settled || !self.tiers.has_deeper()).then_some(found)
    }

    /// Looks in memory, and in every other tier if that might know more.
    pub async fn look_up(&self, query: &Query<'_>) -> Found {
        if let Some(mut found) = self.peek(query) {
            found.uncacheable = found.uncacheable || self.has_cookie_mark(&found.outcome, &found.key, query.head);
            return found;
        }
        let mut redis = self.tiers.redis_lookup();
        let mut found = self.look_deeper(query, &mut redis).await;
        redis.finish();
        found.uncacheable = found.uncacheable || self.has_cookie_mark(&found.outcome, &found.key, query.head);
        found
    }

    /// Whether a response that isn't served was found not to be stored lately for a request that has a cookie, as this one
    /// has ([`super::admit::Refusal::Cookie`]).
    pub(super) fn has_cookie_mark(&self, outcome: &Outcome, key: &Key, head: &RequestHead) -> bool {
        !matches!(outcome, Outcome::Hit(_) | Outcome::Grace(_)) && self.is_marked_for_cookie(key, head)
    }

    /// Whether the request has a cookie, and the response to one wasn't stored lately.
    #[must_use]
    pub fn is_marked_for_cookie(&self, key: &Key, head: &RequestHead) -> bool {
        if !head.headers.contains_key(COOKIE) {
            return false;
        }
        let mark = self.tiers.memory(&key.with_cookie());
        matches!(mark, Some(Value::Uncacheable(until)) if clock::uptime() < until)
    }

    async fn look_deeper(&self, query: &Query<'_>, redis: &mut RedisLookup<'_>) -> Found {
        let first = self.reach(query, query.key, false, redis).await;
        let Err(names) = first else { return first.unwrap_or_else(|_| self.miss(query.key, false)) };
        let key = vary::variant(&query.key, &names, query.head);
        self.reach(query, key, true, redis).await.unwrap_or_else(|_| self.miss(key, true))
    }

    /// Returns the fields by which the response under a key varies, as memory has them.
    #[must_use]
    pub fn varying(&self, key: &Key) -> Option<Arc<[http::HeaderName]>> {
        match self.tiers.memory(key) {
            Some(Value::Varies(names)) => Some(names),
            _ => None,
        }
    }

    /// The value under one key from whichever tier has the best; `Err` with the names it varies by.
    async fn reach(
        &self,
        query: &Query<'_>,
        key: Key,
        varied: bool,
        redis: &mut RedisLookup<'_>,
    ) -> Result<Found, Arc<[http::HeaderName]>> {
        let mut best = self.miss(key, varied);
        for tier in [Tier::Memory, Tier::Disk, Tier::Redis] {
            let value = match tier {
                Tier::Memory => self.tiers.memory(&key),
                Tier::Disk => self.tiers.disk(&key).await,
                // What a node that is out of step finds here may have been purged: see `Purges::in_step`.
                Tier::Redis if self.purger.in_step() => redis.get(&key).await,
                Tier::Redis => None,
            };
            if let (Some(Value::Varies(names)), false) = (&value, varied) {
                if tier == Tier::Redis {
                    self.tiers.insert_local(key, Value::Varies(Arc::clone(names)));
                }
                return Err(Arc::clone(names));
            }
            let found = self.found(query, key, value, tier, varied);
            if rank(&found.outcome) > rank(&best.outcome) || found.uncacheable {
                best = found;
            }
            if best.uncacheable || matches!(best.outcome, Outcome::Hit(_)) {
                break;
            }
        }
        if best.tier == Tier::Redis
            && let Outcome::Hit(object) | Outcome::Grace(object) | Outcome::Stale { object, .. } = &best.outcome
        {
            self.tiers.insert_local(key, Value::Object(Arc::clone(object)));
        }
        Ok(best)
    }

    /// Judges what a tier has under a key.
    pub(super) fn found(&self, query: &Query<'_>, key: Key, value: Option<Value>, tier: Tier, varied: bool) -> Found {
        let mut found = Found { tier, ..self.miss(key, varied) };
        match value {
            Some(Value::Object(object)) => {
                let standing = self.purger.check(&object.head.subject(), &object.checked, query.url);
                found.outcome = lookup::judge(object, standing, query.demand, query.now, self.config.clock_skew);
            }
            Some(Value::Uncacheable(until)) => found.uncacheable = clock::uptime() < until,
            // A part has a key that no request has; a second `Varies` would be a loop.
            Some(Value::Part(_) | Value::Varies(_)) | None => {}
        }
        found
    }

    #[expect(clippy::unused_self, reason = "the empty form of what this cache finds")]
    fn miss(&self, key: Key, varied: bool) -> Found {
        Found { key, outcome: Outcome::Miss, tier: Tier::Memory, varied, uncacheable: false }
    }

    /// Whether what is stored was purged since it was looked up for this URL. Then it is neither to be renewed nor to
    /// be fallen back on.
    #[must_use]
    pub fn is_gone(&self, object: &Object, url: &str) -> bool {
        self.purger.is_gone(&object.head.subject(), &tag::of_url(url, true))
    }

    /// Whether nothing that this node knows of was purged of what is stored since its fetch began, for a request of this
    /// URL. Only then is it served because its origin can't be reached.
    #[must_use]
    pub fn is_good(&self, object: &Object, url: &str) -> bool {
        let by_url = |prefixes| tag::of_url(url, prefixes);
        self.purger.check(&object.head.subject(), &object.checked, Some(&by_url)) == Standing::Good
    }

    /// Whether what is stored may be served for a request of this URL whose origin has failed: if that `if_error` permits it,
    /// unless it was purged since it was looked up; if being out of reach permits it, only while nothing was purged of it.
    #[must_use]
    pub fn may_stand_in(&self, object: &Object, url: &str, if_error: bool, if_unreachable: bool) -> bool {
        if_error && !self.is_gone(object, url) || if_unreachable && self.is_good(object, url)
    }

    /// Judges what is stored by its own tags, whatever URL it is asked for by.
    pub(super) fn standing(&self, object: &Object) -> Standing {
        self.purger.check(&object.head.subject(), &object.checked, None::<&fn(bool) -> UrlTags>)
    }

    /// Lets requests for `key` go on without waiting for each other, for a while.
    pub fn mark_uncacheable(&self, key: Key, now: Uptime, time: Option<Duration>) {
        let until = now.plus(time.unwrap_or(self.config.collapse.uncacheable));
        self.tiers.insert_local(key, Value::Uncacheable(until));
    }

    /// Does the same because of what a fetch has brought, and for the nodes that wait for that as well.
    pub fn mark_uncacheable_by(&self, fetch: &Fetch, key: Key, now: Uptime, time: Option<Duration>) {
        self.mark_uncacheable(key, now, time);
        fetch.note_uncacheable(time.unwrap_or(self.config.collapse.uncacheable));
    }

    /// Stores a renewed or finished object under its key, and under `index` the fields it varies by. Not if it has been
    /// purged meanwhile, or if what is stored there is newer: either way it would only take another's place. Returns
    /// whether it is stored.
    pub(super) fn store(
        &self,
        fetch: &Fetch,
        key: Key,
        object: &Arc<Object>,
        index: Option<(Key, Arc<[http::HeaderName]>)>,
        now: Timestamp,
    ) -> bool {
        let head = &object.head;
        let primary = index.as_ref().map_or(key, |(primary, _)| *primary);
        // What is stored by a rule of its path may come from requests with other keys (`No-Vary-Search`).
        let is_ordered = fetch.is_for(&primary);
        if self.standing(object) == Standing::Gone || self.has_newer(&key, head, is_ordered, now) {
            return false;
        }
        let left_ms = head.left_ms(now);
        let names = index.as_ref().map(|(_, names)| Arc::clone(names));
        let order = self.tiers.has_redis().then(|| fetch.order(head));
        fetch.store(&key, names.as_ref(), || {
            self.metrics.stored.inc();
            let mut is_shared = self.tiers.insert(key, Value::Object(Arc::clone(object)), left_ms, order.as_ref());
            if let Some((primary, names)) = index {
                is_shared &= self.tiers.insert(primary, Value::Varies(names), left_ms, order.as_ref());
            }
            if is_shared {
                fetch.note_shared();
            }
        })
    }

    /// Whether memory has a newer response that another process has stored. Those of this one are known to the fetches, if
    /// it `is_ordered`.
    fn has_newer(&self, key: &Key, head: &Head, is_ordered: bool, now: Timestamp) -> bool {
        let Some(Value::Object(stored)) = self.tiers.memory(key) else { return false };
        if stored.head.mark.at == Uptime::default() {
            return stored.head.is_newer_than(head, now, self.config.clock_skew);
        }
        // Fetched by this process: one clock tells the order.
        !is_ordered && stored.head.mark.at > head.mark.at
    }

    /// Lets requests for `key` that have a cookie go on without waiting for each other, for a while: each may get another
    /// response. Those without one aren't meant.
    pub fn mark_uncacheable_with_cookie(&self, key: &Key, now: Uptime) {
        self.mark_uncacheable(key.with_cookie(), now, None);
    }

    /// Writes out and closes the tiers.
    pub async fn close(&self) {
        self.tiers.close().await;
    }

    /// Closes the disk, so that another process may open it, while requests are still served here: out of memory once the
    /// origin has confirmed it. To be called when the purger has stopped after [`Purges::give_way`].
    pub async fn release(&self) {
        self.metrics.released.set(1);
        self.close().await;
        self.purger.close();
        self.lock.lock().take();
    }
}

/// Returns the bytes of the largest body that can be stored. What is larger than the disk would push all else out of it
/// and its own beginning as well; how much Redis holds, nobody knows here.
fn largest_body(config: &config::Cache) -> u64 {
    let by_head = PARTS_MAX.saturating_mul(config.part_bytes as u64);
    let by_disk = match (&config.disk, &config.redis) {
        // A few of its blocks are always being emptied.
        (Some(disk), None) => disk.bytes as u64 / 4 * 3,
        _ => u64::MAX,
    };
    config.object_bytes_max.min(by_head).min(by_disk)
}

/// The better of two tiers' outcomes is served.
pub(super) const fn rank(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Miss => 0,
        Outcome::Stale { .. } => 1,
        Outcome::Grace(_) => 2,
        Outcome::Hit(_) => 3,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{super::codec, *};

    #[test]
    fn no_body_is_stored_that_no_tier_could_hold() {
        const GIB: u64 = 1 << 30;
        let disk = |gib: usize| {
            let mut disk = config::Disk::new("unused");
            disk.bytes = gib << 30;
            Some(disk)
        };
        let redis = || Some(config::Redis::new("redis://127.0.0.1"));
        for (disk, redis, part_bytes, object_bytes_max, wanted) in [
            (None, None, 1 << 20, GIB, GIB),
            (disk(16), None, 1 << 20, 10 * GIB, 10 * GIB),
            (disk(8), None, 1 << 20, 10 * GIB, 6 * GIB),
            (disk(8), redis(), 1 << 20, 10 * GIB, 10 * GIB),
            (None, redis(), 4 << 10, 10 * GIB, 2 * GIB),
            (disk(1024), None, 1 << 20, 1024 * GIB, 512 * GIB),
        ] {
            let config = config::Cache { disk, redis, part_bytes, object_bytes_max, ..config::Cache::default() };
            assert_eq!(largest_body(&config), wanted, "{config:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_another_clock_stored_ahead_of_ours_is_asked_about() {
        let config = config::Cache { clock_skew: Duration::from_secs(5), ..config::Cache::default() };
        let cache = Cache::open("n", &config, Metrics::default()).await.unwrap();
        let request = crate::policy::facts::tests::request(http::Method::GET, "/", &[]);
        let now = Timestamp(1_000_000);
        for (ahead_ms, hit) in [(0, true), (5_000, true), (5_001, false), (3_600_000, false)] {
            let mut head = codec::tests::head(0);
            (head.mark, head.stored_at) = (cache.purger().mark(), Timestamp(now.0 + ahead_ms));
            let key = Key::from_bytes([7; 32]);
            cache.tiers.insert_local(key, Value::Object(Object::new(head, Bytes::new())));
            let query = Query { key, head: &request, demand: &Demand::default(), url: None, now };
            let outcome = cache.look_up(&query).await.outcome;
            let as_wanted = match &outcome {
                Outcome::Hit(_) => hit,
                Outcome::Stale { if_error, .. } => !hit && !if_error,
                Outcome::Grace(_) | Outcome::Miss => false,
            };
            assert!(as_wanted, "{ahead_ms} ms ahead: {outcome:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_marker_lasts_by_the_clock_that_nobody_sets() {
        let cache = Cache::open("n", &config::Cache::default(), Metrics::default()).await.unwrap();
        let request = crate::policy::facts::tests::request(http::Method::GET, "/", &[]);
        let key = Key::from_bytes([7; 32]);
        for (marked, seconds, wanted) in [(clock::uptime(), 600, true), (Uptime(0), 0, false)] {
            cache.mark_uncacheable(key, marked, Some(Duration::from_secs(seconds)));
            // Whatever the wall clock says.
            for now in [Timestamp(0), clock::now(), Timestamp(u64::MAX)] {
                let query = Query { key, head: &request, demand: &Demand::default(), url: None, now };
                let what = format!("marked at {marked:?}, asked at {now:?}");
                assert_eq!(cache.look_up(&query).await.uncacheable, wanted, "{what}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_mark_of_a_cookie_is_for_requests_that_have_one() {
        use crate::policy::facts::tests::request;
        let cache = Cache::open("n", &config::Cache::default(), Metrics::default()).await.unwrap();
        let (key, other) = (Key::from_bytes([7; 32]), Key::from_bytes([8; 32]));
        cache.mark_uncacheable_with_cookie(&key, clock::uptime());
        for (key, fields, wanted) in [
            (key, &[("cookie", "a=b")][..], true),
            (key, &[("x-cookie", "a=b")], false),
            (key, &[], false),
            (other, &[("cookie", "a=b")], false),
        ] {
            let head = request(http::Method::GET, "/", fields);
            let query = Query { key, head: &head, demand: &Demand::default(), url: None, now: clock::now() };
            let (found, inspected) = (cache.look_up(&query).await, cache.inspect(&query).await);
            assert_eq!((found.uncacheable, inspected.uncacheable), (wanted, wanted), "{key:?} {fields:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_directory_in_use_is_refused_before_anything_in_it_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirLock::take(dir.path()).unwrap();
        let config = config::Cache { disk: Some(config::Disk::new(dir.path())), ..config::Cache::default() };
        let refused = Cache::open("n", &config, Metrics::default()).await.unwrap_err();
        assert!(matches!(refused, Error::Store(store::Error::InUse { .. })), "{refused}");
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["lock"], "nothing was made beside the lock");
        drop(held);
    }
}
