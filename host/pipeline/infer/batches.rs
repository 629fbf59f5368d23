//! Where the items of a pool gather, and which of them are sent alone.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    model::{BatchItem, Group, ItemResult},
    send::{Sent, Step, send},
};
use crate::{
    batch::{
        self, Apart, BatchResult, Batcher, Class, Digest, Interested, ModelBatch, Models, Pending, Progress,
        Quarantine, Queued, Results, SendBatch, Sending, SlotFuture, Slots, Terms, Usual,
    },
    clock::{self, Uptime},
    config,
    origin::protocol::{Item, Shape, majority},
    report::BatchingInfo,
};

/// Where the items of one pool gather.
#[derive(Debug)]
pub struct Batches {
    batcher: Arc<Batcher<BatchItem, ItemResult>>,
    known: Arc<Known>,
}

/// What is known of a pool's items, tenants and models by the batches that came back.
#[derive(Debug)]
struct Known {
    quarantine: Mutex<Quarantine>,
    /// Those in quarantine whose results were unlike the others of a response.
    differing: Mutex<Quarantine>,
    /// What results are like, by class and candidate.
    usual: Mutex<Usual<Shape>>,
    apart: Mutex<Apart>,
    models: Mutex<Models>,
    metrics: batch::Metrics,
}

impl Known {
    /// Takes in a batch that is back after so long.
    fn note(&self, class: &Class, items: &[BatchItem], sent: &Sent, took: Duration) {
        let Sent { results, is_served, candidate, further, differing, .. } = sent;
        if !further.requests.is_empty() {
            self.metrics.divided(further.requests.len());
        }
        let tokens = tokens(results);
        self.metrics.read(tokens);
        if *is_served && let Some(model) = model(items, *candidate) {
            let served = ModelBatch { items: items.len(), tokens, took };
            let model = self.models.lock().add(&model, &served);
            self.metrics.of_model(model, &served);
        }
        if !further.unfit.is_empty() {
            hold(&mut self.quarantine.lock(), class, items, &further.unfit);
            set_aside(&mut self.apart.lock(), items, &further.unfit);
        }
        if !differing.is_empty() {
            hold(&mut self.differing.lock(), class, items, differing);
        }
        if let Some(candidate) = *candidate
            && let Some(shape) = most(items, results, candidate)
        {
            self.usual.lock().add(of_candidate(class, candidate), shape, clock::uptime());
        }
    }

    /// Notes with items what results of their classes usually are like.
    fn foresee(&self, groups: &mut [Group], now: Uptime) {
        let usual = self.usual.lock();
        if usual.is_empty() {
            return;
        }
        for (class, items) in groups {
            let Some((first, _)) = items.first() else { continue };
            let of = |candidate: usize| Some((candidate, usual.of(&of_candidate(class, candidate), now)?));
            let expected: Arc<[(usize, Shape)]> = (0..first.route.destinations.len()).filter_map(of).collect();
            items.iter_mut().for_each(|(batch_item, _)| batch_item.expected = Arc::clone(&expected));
        }
    }
}

/// A batch under way.
struct Launched {
    known: Arc<Known>,
    class: Class,
    items: Arc<[BatchItem]>,
    begun: Instant,
}

impl Launched {
    /// Returns what a request for the batch, or for a part of it, has brought.
    fn progress(self, step: Step) -> Progress<ItemResult> {
        match step {
            Step::Over(sent) => {
                self.known.note(&self.class, &self.items, &sent, self.begun.elapsed());
                let Sent { results, outcome, further, .. } = sent;
                let endpoint = results.first().and_then(|result| result.endpoint.clone());
                Progress::Over(BatchResult { results, outcome, endpoint, further })
            }
            Step::Divided(division) => Progress::Divided {
                outcome: division.outcome(),
                endpoint: division.endpoint(),
                rest: Box::pin(async move { self.progress(division.step().await) }),
            },
        }
    }
}

/// Where items gather, by the name of their pool.
pub type Batchers = BTreeMap<Arc<str>, Arc<Batches>>;

impl Batches {
    /// Returns a place where nothing waits yet. Its scheduler is a task of the current runtime.
    #[must_use]
    pub fn new(rule: config::Batch, metrics: batch::Metrics) -> Arc<Self> {
        let known = Arc::new(Known {
            quarantine: Mutex::new(Quarantine::new(rule.quarantine_max, rule.quarantine)),
            differing: Mutex::new(Quarantine::new(rule.quarantine_max, rule.quarantine)),
            usual: Mutex::new(Usual::new(rule.quarantine_max, rule.quarantine)),
            apart: Mutex::new(Apart::new(rule.tenants_max, rule.quarantine)),
            models: Mutex::new(Models::new(rule.models_max)),
            metrics: metrics.clone(),
        });
        let shared = Arc::clone(&known);
        let sender = move |class: Class, items: Vec<BatchItem>, sending: Sending| -> Results<ItemResult> {
            let known = Arc::clone(&shared);
            Box::pin(async move {
                let (items, begun): (Arc<[BatchItem]>, Instant) = (items.into(), Instant::now());
                let step = send(Arc::clone(&items), sending).await;
                Launched { known, class, items, begun }.progress(step)
            })
        };
        let sender: SendBatch<BatchItem, ItemResult> = Arc::new(sender);
        Arc::new(Self { batcher: Batcher::new(rule, sender, metrics), known })
    }

    /// Returns how long batches took, for a report on the pool of this name.
    #[must_use]
    pub fn info(&self, pool: &str) -> BatchingInfo {
        let models = self.known.models.lock().infos();
        BatchingInfo { models, ..self.batcher.info(pool) }
    }

    /// Submits the items of one request; those that failed in company a short while ago are sent alone, and those of a
    /// tenant of which several did only with each other.
    fn submit_request(&self, mut groups: Vec<Group>) -> Vec<Vec<Pending<BatchItem, ItemResult>>> {
        let now = clock::uptime();
        self.known.foresee(&mut groups, now);
        if !self.known.quarantine.lock().is_empty(now) {
            for (class, items) in &mut groups {
                for (batch_item, terms) in items {
                    let digest = digest(class, &batch_item.item);
                    if self.known.quarantine.lock().holds(&digest, now) {
                        terms.size_max = Some(1);
                        batch_item.has_differed = self.known.differing.lock().holds(&digest, now);
                    }
                }
            }
        }
        // A request is queued as a whole, for the tenant of its first item: that one is at fault, too.
        let first = groups.iter().flat_map(|(_, items)| items).next().map(|(batch_item, _)| batch_item.account);
        if let Some(account) = first {
            let apart = Some(account.tenant).filter(|tenant| self.known.apart.lock().holds(*tenant, now));
            for (class, items) in &mut groups {
                class.apart = apart;
                items.iter_mut().for_each(|(batch_item, _)| batch_item.account = account);
            }
        }
        self.batcher.submit_request(groups)
    }

    /// Gives items that wait already further places in the queue, for a request that waits for them, too.
    pub(super) fn hasten(&self, items: &[(Queued<BatchItem, ItemResult>, Terms)], interested: &Interested) {
        self.batcher.hasten(items, interested);
    }
}

impl Slots for Batches {
    fn slot(&self) -> SlotFuture<'_> {
        self.batcher.slot()
    }
}

/// Submits the items of one request, those for one pool together: it takes them in or refuses them as a whole. Returns
/// the pending results of each group in the order of its items; `None` where a pool has no batcher, which `app` rules
/// out.
pub(super) fn submit_groups(
    batchers: &Batchers,
    groups: Vec<Group>,
) -> Vec<Vec<Option<Pending<BatchItem, ItemResult>>>> {
    let mut pending: Vec<Vec<_>> = groups.iter().map(|(_, items)| items.iter().map(|_| None).collect()).collect();
    let mut by_pool: BTreeMap<Arc<str>, Vec<(usize, Group)>> = BTreeMap::new();
    for (index, group) in groups.into_iter().enumerate() {
        by_pool.entry(Arc::clone(&group.0.pool)).or_default().push((index, group));
    }
    for (pool, groups) in by_pool {
        let Some(batches) = batchers.get(&pool) else { continue };
        let (indices, groups): (Vec<usize>, Vec<Group>) = groups.into_iter().unzip();
        for (index, submitted) in indices.into_iter().zip(batches.submit_request(groups)) {
            pending[index] = submitted.into_iter().map(Some).collect();
        }
    }
    pending
}

/// Has unfit items sent alone for a while. One that was alone shows nothing about company; it stays if it is there.
fn hold(quarantine: &mut Quarantine, class: &Class, items: &[BatchItem], unfit: &[usize]) {
    for batch_item in unfit.iter().filter_map(|at| items.get(*at)) {
        let (digest, now) = (digest(class, &batch_item.item), clock::uptime());
        if items.len() > 1 || quarantine.holds(&digest, now) {
            quarantine.insert(digest, now);
        }
    }
}

/// Returns what most results of a batch, which this candidate brought, are like. An item that was odd before, or in odd
/// company, has no say again unless its result is as usual.
fn most(items: &[BatchItem], results: &[ItemResult], candidate: usize) -> Option<Shape> {
    let said = |(batch_item, result): (&BatchItem, &ItemResult)| {
        let shape = result.shape()?;
        (!batch_item.has_differed || batch_item.usual(Some(candidate)) == Some(shape)).then_some(shape)
    };
    majority(&items.iter().zip(results).filter_map(said).collect::<Vec<_>>())
}

/// Notes whose items failed while others of their batch didn't.
fn set_aside(apart: &mut Apart, items: &[BatchItem], unfit: &[usize]) {
    let now = clock::uptime();
    // Where all fail, it is nobody's fault among them.
    if items.len() > unfit.len() {
        for batch_item in unfit.iter().filter_map(|at| items.get(*at)) {
            apart.failed(batch_item.account.tenant, now);
        }
    }
}

/// Returns the model that responded to a batch: the candidate's own, or the one that its items name.
fn model(items: &[BatchItem], candidate: Option<usize>) -> Option<String> {
    let first = items.first()?;
    let own = candidate.and_then(|at| first.route.destinations.get(at)?.model.as_deref());
    own.map(str::to_owned).or_else(|| first.protocol.model(&first.route.target_sent(&first.head), &first.item))
}

/// Returns the tokens that the model says it has read for a batch.
fn tokens(results: &[ItemResult]) -> u64 {
    let counts = results.iter().filter_map(|result| result.outcome.as_ref().ok()).map(|response| response.tokens);
    counts.fold(0, u64::saturating_add)
}

/// Returns a digest of a class and of one of its candidates, which may have another model.
fn of_candidate(class: &Class, candidate: usize) -> Digest {
    let mut digest = blake3::Hasher::new();
    digest.update(&(class.group.len() as u64).to_le_bytes());
    digest.update(&class.group);
    digest.update(&(candidate as u64).to_le_bytes());
    *digest.finalize().as_bytes()
}

/// Returns a digest of an item and of what it has in common with its class: the target and the credentials, too.
fn digest(class: &Class, item: &Item) -> Digest {
    let mut digest = blake3::Hasher::new();
    digest.update(&(class.group.len() as u64).to_le_bytes());
    digest.update(&class.group);
    digest.update(&item.canonical);
    *digest.finalize().as_bytes()
}
