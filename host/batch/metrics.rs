//! The metrics of the batch room.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{
    models::ModelBatch,
    pace::{Estimate, Why},
    scheduler::Load,
};

type SecondsByPool = Family<PoolLabels, Gauge<f64, AtomicU64>>;

/// Handles of the room's metrics; clones count into the same. The rows of a pool are there for as long as something counts
/// for it.
#[derive(Clone, Debug)]
pub struct Metrics {
    batches: Family<DepartureLabels, Counter>,
    items: Family<PoolLabels, Counter>,
    size: Family<PoolLabels, Histogram>,
    wait: Family<PoolLabels, Histogram>,
    service: Family<PoolLabels, Histogram>,
    tokens: Family<PoolLabels, Counter>,
    model_batches: Family<ModelLabels, Counter>,
    model_items: Family<ModelLabels, Counter>,
    model_tokens: Family<ModelLabels, Counter>,
    model_seconds: Family<ModelLabels, Counter<f64, AtomicU64>>,
    pub(super) refused: Family<[(&'static str, &'static str); 1], Counter>,
    pub(super) withdrawn: Counter,
    pub(super) hastened: Counter,
    pub(super) lost: Counter,
    pub(super) alone: Counter,
    pub(super) classes: Gauge,
    pub(super) divided: Counter,
    pub(super) further: Counter,
    pub(super) waiting: Family<PoolLabels, Gauge>,
    pub(super) tenants: Family<PoolLabels, Gauge>,
    slots: Family<PoolLabels, Gauge>,
    pub(super) largest_share: Family<PoolLabels, Gauge<f64, AtomicU64>>,
    pub(super) cost_fixed: SecondsByPool,
    pub(super) cost_item: SecondsByPool,
    pub(super) held: SecondsByPool,
    pools: Arc<Mutex<HashMap<Arc<str>, Rows>>>,
    pool: Arc<str>,
    /// That of all handles that were made at once for this pool.
    _user: Option<Arc<User>>,
}

/// The rows of one pool's name.
#[derive(Debug, Default)]
struct Rows {
    /// Pools that count in them: while one takes another's place there are two.
    users: usize,
    reasons: HashSet<&'static str>,
    models: HashSet<Arc<str>>,
}

/// One that counts in the rows of a pool.
#[derive(Debug)]
struct User {
    metrics: Metrics,
    pool: Arc<str>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.metrics.release(&self.pool);
    }
}

/// The pool that a row is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PoolLabels {
    pub(super) pool: Arc<str>,
}

/// The model that a batch was for, and its pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    pool: Arc<str>,
    model: Arc<str>,
}

/// The pool that a batch was sent to, and why it was sent then.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DepartureLabels {
    pool: Arc<str>,
    why: &'static str,
}

/// Upper bounds in seconds: an item's wait may be a tenth of a millisecond, and a model take ten seconds.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

fn sizes() -> Histogram {
    Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0])
}

fn times() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that nothing has been counted in.
    #[must_use]
    pub fn new() -> Self {
        Self {
            batches: Family::default(),
            items: Family::default(),
            size: Family::new_with_constructor(sizes as fn() -> Histogram),
            wait: Family::new_with_constructor(times as fn() -> Histogram),
            service: Family::new_with_constructor(times as fn() -> Histogram),
            tokens: Family::default(),
            model_batches: Family::default(),
            model_items: Family::default(),
            model_tokens: Family::default(),
            model_seconds: Family::default(),
            refused: Family::default(),
            withdrawn: Counter::default(),
            hastened: Counter::default(),
            lost: Counter::default(),
            alone: Counter::default(),
            classes: Gauge::default(),
            divided: Counter::default(),
            further: Counter::default(),
            waiting: Family::default(),
            tenants: Family::default(),
            slots: Family::default(),
            largest_share: Family::default(),
            cost_fixed: Family::default(),
            cost_item: Family::default(),
            held: Family::default(),
            pools: Arc::default(),
            pool: Arc::from(""),
            _user: None,
        }
    }

    /// Returns handles that count what a pool of this name does.
    #[must_use]
    pub fn of_pool(&self, pool: &str) -> Self {
        let pool: Arc<str> = pool.into();
        self.pools.lock().entry(Arc::clone(&pool)).or_default().users += 1;
        let user = User { metrics: Self { _user: None, ..self.clone() }, pool: Arc::clone(&pool) };
        Self { pool, _user: Some(Arc::new(user)), ..self.clone() }
    }

    /// Notes that one that counted for a pool is no more. The rows go with the last.
    fn release(&self, pool: &Arc<str>) {
        let mut pools = self.pools.lock();
        let Some(rows) = pools.get_mut(pool) else { return };
        rows.users = rows.users.saturating_sub(1);
        if rows.users > 0 {
            return;
        }
        let Some(Rows { reasons, models, .. }) = pools.remove(pool) else { return };
        for why in reasons {
            self.batches.remove(&DepartureLabels { pool: Arc::clone(pool), why });
        }
        for model in models {
            let labels = ModelLabels { pool: Arc::clone(pool), model };
            for family in [&self.model_batches, &self.model_items, &self.model_tokens] {
                family.remove(&labels);
            }
            self.model_seconds.remove(&labels);
        }
        let labels = PoolLabels { pool: Arc::clone(pool) };
        for family in [&self.items, &self.tokens] {
            family.remove(&labels);
        }
        for family in [&self.size, &self.wait, &self.service] {
            family.remove(&labels);
        }
        for family in [&self.waiting, &self.tenants, &self.slots] {
            family.remove(&labels);
        }
        for family in [&self.largest_share, &self.cost_fixed, &self.cost_item, &self.held] {
            family.remove(&labels);
        }
    }

    /// Notes a row, so that it goes with its pool.
    fn note(&self, note: impl FnOnce(&mut Rows) -> bool) {
        if let Some(rows) = self.pools.lock().get_mut(&self.pool) {
            note(rows);
        }
    }

    /// Adds them to what the node reports.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("batch_batches", "Batches sent, by why they left", self.batches.clone());
        registry.register("batch_items", "Items sent in batches", self.items.clone());
        registry.register("batch_size", "Items of one batch", self.size.clone());
        registry.register("batch_wait_seconds", "Time an item waited for its batch to leave", self.wait.clone());
        registry.register("batch_refused", "Items refused, by why", self.refused.clone());
        registry.register(
            "batch_withdrawn",
            "Items whose client went away before they were sent",
            self.withdrawn.clone(),
        );
        registry.register(
            "batch_hastened",
            "Further places of items that waited already, for requests that would have had better ones",
            self.hastened.clone(),
        );
        registry.register("batch_lost", "Items of batches that came back without a result for each", self.lost.clone());
        registry.register("batch_alone", "Items sent alone because there were too many classes", self.alone.clone());
        registry.register(
            "batch_classes",
            "Classes of which something waits or is under way at present",
            self.classes.clone(),
        );
        registry.register(
            "batch_divided",
            "Batches of which items were sent again, in pieces or alone, because they failed together",
            self.divided.clone(),
        );
        registry.register("batch_divided_requests", "Requests that took beyond the first", self.further.clone());
        self.register_of_pools(registry);
        self.register_of_models(registry);
    }

    fn register_of_models(&self, registry: &mut Registry) {
        registry.register("batch_model_batches", "Batches that a model responded to", self.model_batches.clone());
        registry.register("batch_model_items", "Items in them", self.model_items.clone());
        registry.register("batch_model_tokens", "Prompt tokens of them, as it counts", self.model_tokens.clone());
        registry.register("batch_model_service_seconds", "What they took altogether", self.model_seconds.clone());
    }

    fn register_of_pools(&self, registry: &mut Registry) {
        registry.register(
            "batch_service_seconds",
            "From sending a batch until its responses were there, of those that the model responded to",
            self.service.clone(),
        );
        registry.register("batch_tokens", "Prompt tokens of batches, as the models count them", self.tokens.clone());
        registry.register("batch_waiting", "Items waiting at present", self.waiting.clone());
        registry.register("batch_tenants", "Tenants that have items waiting at present", self.tenants.clone());
        registry.register("batch_slots", "Batches that may be under way at present", self.slots.clone());
        registry.register(
            "batch_largest_share",
            "The largest share that one tenant had of what was served last, by cost",
            self.largest_share.clone(),
        );
        registry.register(
            "batch_cost_fixed_seconds",
            "What a batch takes however few items are in it, as measured",
            self.cost_fixed.clone(),
        );
        registry.register("batch_cost_item_seconds", "What each item adds to that", self.cost_item.clone());
        registry.register(
            "batch_held_seconds",
            "How long the last batch was held for items that were expected to follow another",
            self.held.clone(),
        );
    }

    /// Counts a batch of which items were sent again, in so many further requests.
    pub fn divided(&self, further: usize) {
        self.divided.inc();
        self.further.inc_by(further as u64);
    }

    /// Counts what the model says that it has read for a batch.
    pub fn read(&self, tokens: u64) {
        self.tokens.get_or_create(&self.labels()).inc_by(tokens);
    }

    /// Counts a batch that a model responded to. There must not be more names than a table of [`super::Models`] has.
    pub fn of_model(&self, model: Arc<str>, batch: &ModelBatch) {
        self.note(|rows| rows.models.insert(Arc::clone(&model)));
        let labels = ModelLabels { pool: Arc::clone(&self.pool), model };
        self.model_batches.get_or_create(&labels).inc();
        self.model_items.get_or_create(&labels).inc_by(batch.items as u64);
        self.model_tokens.get_or_create(&labels).inc_by(batch.tokens);
        self.model_seconds.get_or_create(&labels).inc_by(batch.took.as_secs_f64());
    }

    fn labels(&self) -> PoolLabels {
        PoolLabels { pool: Arc::clone(&self.pool) }
    }

    /// Counts a batch that is sent now, and how long each of its items has waited.
    pub(super) fn sent(&self, why: Why, waits: impl ExactSizeIterator<Item = Duration>) {
        let labels = self.labels();
        self.note(|rows| rows.reasons.insert(why.as_str()));
        self.batches.get_or_create(&DepartureLabels { pool: Arc::clone(&self.pool), why: why.as_str() }).inc();
        self.items.get_or_create(&labels).inc_by(waits.len() as u64);
        // A batch is far smaller than the first integer that an f64 can't hold.
        self.size.get_or_create(&labels).observe(waits.len() as f64);
        let wait = self.wait.get_or_create_owned(&labels);
        waits.for_each(|waited| wait.observe(waited.as_secs_f64()));
    }

    /// Counts how long the model took for a batch.
    pub(super) fn came_back(&self, took: Duration) {
        self.service.get_or_create(&self.labels()).observe(took.as_secs_f64());
    }

    pub(super) fn refused(&self, reason: &'static str, items: usize) {
        self.refused.get_or_create(&[("reason", reason)]).inc_by(items as u64);
    }

    /// Returns the gauges of one scheduler, which may share their rows with that of an earlier pool of this name.
    pub(super) fn gauges(&self) -> Gauges {
        let labels = self.labels();
        Gauges {
            classes: Counted::of(self.classes.clone()),
            waiting: Counted::of(self.waiting.get_or_create(&labels).clone()),
            tenants: Counted::of(self.tenants.get_or_create(&labels).clone()),
            slots: Counted::of(self.slots.get_or_create(&labels).clone()),
            largest_share: self.largest_share.get_or_create(&labels).clone(),
            measured: [&self.cost_fixed, &self.cost_item, &self.held]
                .map(|gauges| gauges.get_or_create(&labels).clone()),
        }
    }
}

/// What one scheduler adds to the gauges.
pub(super) struct Gauges {
    classes: Counted,
    waiting: Counted,
    tenants: Counted,
    slots: Counted,
    largest_share: Gauge<f64, AtomicU64>,
    /// The fixed cost of a batch, that of an item, and how long the last batch was held.
    measured: [Gauge<f64, AtomicU64>; 3],
}

impl Gauges {
    pub(super) fn set(&mut self, classes: usize, load: &Load) {
        self.classes.set(classes);
        self.waiting.set(load.items);
        self.tenants.set(load.tenants);
        self.slots.set(load.slots);
        self.largest_share.set(load.largest_share);
    }

    /// Shows what the pool's pace has measured.
    pub(super) fn set_measured(&self, estimate: &Estimate) {
        let Estimate { fixed, per_item, held } = *estimate;
        for (gauge, value) in self.measured.iter().zip([fixed, per_item, held]) {
            gauge.set(value.as_secs_f64());
        }
    }
}

/// Counts something of one scheduler in a gauge that several share.
struct Counted {
    gauge: Gauge,
    count: i64,
}

impl Counted {
    const fn of(gauge: Gauge) -> Self {
        Self { gauge, count: 0 }
    }

    fn set(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.gauge.inc_by(count - self.count);
        self.count = count;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
impl Metrics {
    /// Returns the items that were sent to this pool.
    pub(super) fn items(&self, pool: &str) -> u64 {
        self.items.get_or_create(&PoolLabels { pool: pool.into() }).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_shows_by_pool() {
        let (metrics, mut registry) = (Metrics::new(), Registry::default());
        metrics.register(&mut registry);
        let (models, other) = (metrics.of_pool("models"), metrics.of_pool("other"));
        models.sent(Why::Full, [Duration::ZERO, Duration::from_millis(3)].into_iter());
        other.sent(Why::Idle, [Duration::ZERO].into_iter());
        models.came_back(Duration::from_millis(30));
        models.read(14);
        let batch = ModelBatch { items: 3, tokens: 14, took: Duration::from_millis(500) };
        models.of_model(Arc::from("small"), &batch);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"batch_batches_total{pool="models",why="full"} 1"#,
            r#"batch_batches_total{pool="other",why="idle"} 1"#,
            r#"batch_items_total{pool="models"} 2"#,
            r#"batch_size_bucket{le="2.0",pool="models"} 1"#,
            r#"batch_wait_seconds_count{pool="models"} 2"#,
            r#"batch_service_seconds_bucket{le="0.05",pool="models"} 1"#,
            r#"batch_service_seconds_bucket{le="0.025",pool="models"} 0"#,
            r#"batch_tokens_total{pool="models"} 14"#,
            r#"batch_model_batches_total{pool="models",model="small"} 1"#,
            r#"batch_model_items_total{pool="models",model="small"} 3"#,
            r#"batch_model_tokens_total{pool="models",model="small"} 14"#,
            r#"batch_model_service_seconds_total{pool="models",model="small"} 0.5"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        let (again, clone) = (metrics.of_pool("models"), models.clone());
        let gauges = models.gauges();
        drop(models);
        drop(clone);
        let tells_of = |pool: &str| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text.contains(&format!("pool=\"{pool}\""))
        };
        assert!(tells_of("models"), "another pool of this name is there");
        drop((again, gauges));
        assert!(!tells_of("models") && tells_of("other"));
    }
}
