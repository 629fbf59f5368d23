//! What this room counts.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::{balance::Rank, failure::Failure, outbound::Fetched};

/// What the pools count. One for all pools of a node: the pool is a label. Its rows are there for as long as a pool of
/// that name is.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<OutcomeLabels, Counter>,
    attempts: Family<RankLabels, Counter>,
    retries: Family<PoolLabels, Counter>,
    ejections: Family<PoolLabels, Counter>,
    bodies_broken: Family<PoolLabels, Counter>,
    inflight: Family<PoolLabels, Gauge>,
    head_seconds: Family<PoolLabels, Histogram>,
    coding_bytes: Family<CodingLabels, Counter>,
    spool: SpoolMeters,
    pools: Arc<Mutex<HashMap<Arc<str>, Rows>>>,
}

/// The rows of one name.
#[derive(Debug, Default)]
struct Rows {
    /// Pools that count in them: while one takes another's place there are two.
    pools: usize,
    failures: HashSet<&'static str>,
    codings: HashSet<CodingLabels>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    pool: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RankLabels {
    pool: Arc<str>,
    zone: &'static str,
    backup: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodingLabels {
    pool: Arc<str>,
    message: &'static str,
    coding: &'static str,
    form: &'static str,
}

impl Metrics {
    /// Fresh counters, not yet registered.
    #[must_use]
    pub fn new() -> Self {
        let histogram: fn() -> Histogram = head_histogram;
        Self {
            requests: Family::default(),
            attempts: Family::default(),
            retries: Family::default(),
            ejections: Family::default(),
            bodies_broken: Family::default(),
            inflight: Family::default(),
            head_seconds: Family::new_with_constructor(histogram),
            coding_bytes: Family::default(),
            spool: SpoolMeters::default(),
            pools: Arc::default(),
        }
    }

    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "origin_requests",
            "Requests to a pool, by outcome: response, or the reason why there was none",
            self.requests.clone(),
        );
        registry.register(
            "origin_attempts",
            "Attempts at endpoints of the node's own zone or others, and at backups",
            self.attempts.clone(),
        );
        registry.register("origin_retries", "Attempts after the first", self.retries.clone());
        registry.register("origin_ejections", "Endpoints ejected for failed requests", self.ejections.clone());
        registry.register(
            "origin_bodies_broken",
            "Response bodies that stalled or broke off after their head had arrived",
            self.bodies_broken.clone(),
        );
        registry.register(
            "origin_inflight",
            "Requests that hold a connection, until the end of the response body",
            self.inflight.clone(),
        );
        registry.register(
            "origin_response_head_seconds",
            "From the start of an attempt to the response's head",
            self.head_seconds.clone(),
        );
        registry.register(
            "origin_coding_bytes",
            "Bytes of bodies that were sent or came in a content coding, in that and without it",
            self.coding_bytes.clone(),
        );
        let spool = &self.spool;
        registry.register(
            "origin_spool_memory_bytes",
            "Bytes of bodies that wait in memory for their origin or their client",
            spool.memory_bytes.clone(),
        );
        registry.register("origin_spool_disk_bytes", "Bytes of the spool's files", spool.disk_bytes.clone());
        registry.register(
            "origin_spool_full",
            "Pieces of responses for which neither memory nor the spool had room",
            spool.full.clone(),
        );
        registry.register("origin_spool_errors", "Failed writes to the spool's files", spool.errors.clone());
    }

    /// The handles of the node's spool.
    pub(super) fn of_spool(&self) -> SpoolMeters {
        self.spool.clone()
    }

    /// The handles of one pool.
    pub(super) fn of_pool(&self, pool: &Arc<str>) -> Meters {
        self.pools.lock().entry(Arc::clone(pool)).or_default().pools += 1;
        let labels = PoolLabels { pool: Arc::clone(pool) };
        Meters {
            pool: Arc::clone(pool),
            metrics: self.clone(),
            responses: self.requests.get_or_create_owned(&outcome(pool, RESPONSE)),
            first_attempts: self.attempts.get_or_create_owned(&rank(pool, Rank::default())),
            retries: self.retries.get_or_create_owned(&labels),
            ejections: self.ejections.get_or_create_owned(&labels),
            bodies_broken: self.bodies_broken.get_or_create_owned(&labels),
            inflight: self.inflight.get_or_create_owned(&labels),
            head_seconds: self.head_seconds.get_or_create_owned(&labels),
        }
    }

    /// Notes that a pool of this name is no more. The rows go with the last.
    fn release(&self, pool: &Arc<str>) {
        let mut pools = self.pools.lock();
        let Some(rows) = pools.get_mut(pool) else { return };
        rows.pools = rows.pools.saturating_sub(1);
        if rows.pools > 0 {
            return;
        }
        let Some(Rows { failures, codings, .. }) = pools.remove(pool) else { return };
        for word in failures.into_iter().chain([RESPONSE]) {
            self.requests.remove(&outcome(pool, word));
        }
        for labels in codings {
            self.coding_bytes.remove(&labels);
        }
        // By being in the own zone or not, however far away.
        for (is_backup, distance) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
            self.attempts.remove(&rank(pool, Rank { is_backup, distance }));
        }
        let labels = PoolLabels { pool: Arc::clone(pool) };
        for family in [&self.retries, &self.ejections, &self.bodies_broken] {
            family.remove(&labels);
        }
        self.inflight.remove(&labels);
        self.head_seconds.remove(&labels);
    }
}

/// The outcome of a request that had a response.
const RESPONSE: &str = "response";

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The handles of the spool.
#[derive(Clone, Debug, Default)]
pub(super) struct SpoolMeters {
    pub(super) memory_bytes: Gauge,
    pub(super) disk_bytes: Gauge,
    pub(super) full: Counter,
    pub(super) errors: Counter,
}

/// The handles of one pool, looked up once.
#[derive(Debug)]
pub(super) struct Meters {
    pool: Arc<str>,
    metrics: Metrics,
    responses: Counter,
    /// Attempts at endpoints that come before all others.
    first_attempts: Counter,
    pub(super) retries: Counter,
    pub(super) ejections: Counter,
    pub(super) bodies_broken: Counter,
    pub(super) inflight: Gauge,
    pub(super) head_seconds: Histogram,
}

impl Meters {
    /// Counts the bytes of a body in a content coding, and without it.
    pub(super) fn coded(&self, message: &'static str, coding: &'static str, coded: usize, plain: usize) {
        for (form, bytes) in [("coded", coded), ("plain", plain)] {
            let labels = CodingLabels { pool: Arc::clone(&self.pool), message, coding, form };
            self.metrics.coding_bytes.get_or_create(&labels).inc_by(bytes as u64);
            self.note(|rows| rows.codings.insert(labels));
        }
    }

    /// Counts an attempt at an endpoint of this rank.
    pub(super) fn attempt(&self, of: Rank) {
        if of == Rank::default() {
            self.first_attempts.inc();
        } else {
            self.metrics.attempts.get_or_create(&rank(&self.pool, of)).inc();
        }
    }

    /// Counts a fetch.
    pub(super) fn count(&self, fetch: &Result<Fetched, Failure>) {
        match fetch {
            Ok(_) => self.responses.inc(),
            Err(failure) => {
                let word = failure.reason();
                self.note(|rows| rows.failures.insert(word));
                self.metrics.requests.get_or_create(&outcome(&self.pool, word)).inc()
            }
        };
    }

    /// Notes a row, so that it goes with its pool.
    fn note(&self, note: impl FnOnce(&mut Rows) -> bool) {
        if let Some(rows) = self.metrics.pools.lock().get_mut(&self.pool) {
            note(rows);
        }
    }
}

impl Drop for Meters {
    fn drop(&mut self) {
        self.metrics.release(&self.pool);
    }
}

fn outcome(pool: &Arc<str>, outcome: &'static str) -> OutcomeLabels {
    OutcomeLabels { pool: Arc::clone(pool), outcome }
}

fn rank(pool: &Arc<str>, rank: Rank) -> RankLabels {
    RankLabels {
        pool: Arc::clone(pool),
        zone: if rank.distance > 0 { "other" } else { "own" },
        backup: if rank.is_backup { "true" } else { "false" },
    }
}

/// From a millisecond to about a minute.
fn head_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_registered_under_the_rooms_name() {
        let metrics = Metrics::new();
        let meters = metrics.of_pool(&Arc::from("models"));
        meters.retries.inc();
        meters.attempt(Rank::default());
        meters.attempt(Rank { is_backup: true, distance: 2 });
        meters.head_seconds.observe(0.5);
        meters.coded("request", "zstd", 10, 40);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "origin_requests_total{pool=\"models\",outcome=\"response\"} 0",
            "origin_attempts_total{pool=\"models\",zone=\"own\",backup=\"false\"} 1",
            "origin_attempts_total{pool=\"models\",zone=\"other\",backup=\"true\"} 1",
            "origin_retries_total{pool=\"models\"} 1",
            "origin_ejections_total{pool=\"models\"} 0",
            "origin_bodies_broken_total{pool=\"models\"} 0",
            "origin_inflight{pool=\"models\"} 0",
            "origin_coding_bytes_total{pool=\"models\",message=\"request\",coding=\"zstd\",form=\"coded\"} 10",
            "origin_coding_bytes_total{pool=\"models\",message=\"request\",coding=\"zstd\",form=\"plain\"} 40",
            "origin_spool_memory_bytes 0",
            "origin_spool_disk_bytes 0",
            "origin_spool_full_total 0",
            "origin_spool_errors_total 0",
            "origin_response_head_seconds_count{pool=\"models\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn rows_go_with_the_last_pool_of_their_name() {
        let (metrics, mut registry) = (Metrics::new(), Registry::default());
        metrics.register(&mut registry);
        let tells_of_it = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text.contains("pool=\"models\"")
        };
        let (former, next) = (metrics.of_pool(&Arc::from("models")), metrics.of_pool(&Arc::from("models")));
        former.coded("request", "zstd", 10, 40);
        former.head_seconds.observe(0.5);
        drop(former);
        assert!(tells_of_it());
        drop(next);
        assert!(!tells_of_it() && metrics.pools.lock().is_empty());
    }
}
