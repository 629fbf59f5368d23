use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::{sync::Semaphore, task::JoinHandle};

use super::*;
use crate::batch::{
    Interest,
    metrics::PoolLabels,
    pace::{Gather, Outlook, Verdict},
};

const RULE: config::Batch = config::Batch {
    size_max: 32,
    bytes_max: usize::MAX,
    padded: false,
    // Long enough that no test passes because time has passed.
    wait_max: Duration::from_secs(600),
    queue_max: 100,
    concurrency: 1,
    concurrency_min: 1,
    models_max: 1,
    classes_max: 8,
    quarantine_max: 0,
    quarantine: Duration::ZERO,
    tenants_max: 8,
    overdue_factor: 0,
    overdue_least: Duration::ZERO,
    guard: 0,
    endpoints: 1,
};

/// Of a queue that is hardly worth mentioning.
const FULL: Rejected = Rejected::QueueFull { retry_after: Duration::from_secs(1) };

/// Answers that spoil a batch.
const PANICS: u32 = 1001;
const RESULTS_TOO_FEW: u32 = 1002;
const RESULTS_TOO_MANY: u32 = 1003;
const DIVIDED: u32 = 1004;
const SEARCHED: u32 = 1005;

/// A model that keeps each batch until it is given a permit, then answers each item with its thousandfold.
struct Model {
    permits: Semaphore,
    seen: Mutex<Vec<(Class, Vec<u32>)>>,
}

impl Model {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self { permits: Semaphore::new(permits), seen: Mutex::new(Vec::new()) })
    }

    fn batches(&self) -> Vec<Vec<u32>> {
        self.seen.lock().iter().map(|(_, items)| items.clone()).collect()
    }

    /// Makes a request for a batch, or for a part of one that is divided, after which there are so many more.
    fn answer(self: Arc<Self>, class: Class, items: Vec<u32>, more: usize) -> Results<u32> {
        Box::pin(async move {
            let result = self.respond(class.clone(), items.clone()).await;
            if more == 0 {
                return Progress::Over(result);
            }
            let rest = self.answer(class, items, more - 1);
            Progress::Divided { outcome: Outcome::Failed, endpoint: None, rest }
        })
    }

    async fn respond(&self, class: Class, items: Vec<u32>) -> BatchResult<u32> {
        self.seen.lock().push((class, items.clone()));
        self.permits.acquire().await.unwrap().forget();
        assert!(!items.contains(&PANICS), "asked to panic");
        let mut results: Vec<u32> = items.iter().map(|item| item * 1000).collect();
        if items.contains(&RESULTS_TOO_FEW) {
            results.clear();
        }
        if items.contains(&RESULTS_TOO_MANY) {
            results.push(0);
        }
        let at_fault = items.iter().position(|item| *item == DIVIDED);
        let further =
            at_fault.map_or_else(Further::default, |at| Further { requests: vec![vec![0], vec![1]], unfit: vec![at] });
        BatchResult { results, outcome: Outcome::Responded, endpoint: None, further }
    }
}

/// A pace that measures nothing, which remembers what came back, and panics as often as it is told to.
#[derive(Debug, Default)]
struct Noting {
    returned: Mutex<Vec<(usize, Outcome)>>,
    panics: AtomicUsize,
}

#[derive(Debug)]
struct Noted(Arc<Noting>);

impl Pace for Noted {
    fn on_arrival(&mut self, _: u64, _: Instant, _: usize) {}

    fn on_batch(&mut self, _: u64, returned: &Returned, _: Instant) {
        self.0.returned.lock().push((returned.items, returned.outcome));
    }

    fn next(&mut self, outlook: &Outlook) -> Verdict {
        let panics = &self.0.panics;
        let told = panics.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert!(told.is_err(), "ordered to panic");
        Gather.next(outlook)
    }
}

struct Bench {
    model: Arc<Model>,
    batcher: Arc<Batcher<u32, u32>>,
    metrics: Metrics,
    pace: Arc<Noting>,
    asked: Arc<AtomicUsize>,
}

impl Bench {
    fn new(rule: config::Batch, permits: usize) -> Self {
        let (model, metrics, pace) = (Model::new(permits), Metrics::new().of_pool("pool"), Arc::<Noting>::default());
        let (answering, noting) = (Arc::clone(&model), Arc::clone(&pace));
        let send: SendBatch<u32, u32> = Arc::new(move |class: Class, items: Vec<u32>, _: Sending| -> Results<u32> {
            let more = if items.contains(&SEARCHED) { 2 } else { 0 };
            Arc::clone(&answering).answer(class, items, more)
        });
        let paced: MakePace = Box::new(move || -> Box<dyn Pace> { Box::new(Noted(Arc::clone(&noting))) });
        let batcher = Batcher::paced(rule, paced, send, metrics.clone());
        Self { model, batcher, metrics, pace, asked: Arc::default() }
    }

    /// Returns a bench whose model holds the batch `[0]`.
    async fn held(rule: config::Batch) -> (Self, JoinHandle<Result<u32, Rejected>>) {
        let bench = Self::new(rule, 0);
        let first = bench.ask("a", 0);
        until(|| bench.model.batches() == [[0]]).await;
        (bench, first)
    }

    fn ask(&self, group: &'static str, item: u32) -> JoinHandle<Result<u32, Rejected>> {
        let (batcher, asked) = (Arc::clone(&self.batcher), Arc::clone(&self.asked));
        tokio::spawn(async move {
            // Nothing is awaited between this and the item's being taken in.
            asked.fetch_add(1, Ordering::Relaxed);
            batcher.submit(&class(group), item, Terms { bytes: 1, ..Terms::default() }).await
        })
    }

    /// Waits until so many have asked in all.
    async fn taken(&self, count: usize) {
        until(|| self.asked.load(Ordering::Relaxed) == count).await;
    }

    /// Returns how many items were refused for this reason.
    fn refused(&self, reason: &'static str) -> u64 {
        self.metrics.refused.get_or_create(&[("reason", reason)]).get()
    }

    /// Waits until the scheduler knows of so many classes.
    async fn classes(&self, count: i64) {
        until(|| self.metrics.classes.get() == count).await;
    }
}

fn class(group: &'static str) -> Class {
    Class { pool: Arc::from("pool"), group: Bytes::from_static(group.as_bytes()), apart: None }
}

async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), met).await.expect("the condition is met in time");
}

async fn outcome(asked: JoinHandle<Result<u32, Rejected>>) -> Result<u32, Rejected> {
    tokio::time::timeout(Duration::from_secs(20), asked).await.expect("an outcome in time").unwrap()
}

#[tokio::test]
async fn what_arrives_while_a_batch_is_out_leaves_in_full_batches() {
    let (bench, first) = Bench::held(RULE).await;
    let others: Vec<_> = (1..=64).map(|item| bench.ask("a", item)).collect();
    bench.taken(65).await;
    bench.model.permits.add_permits(3);
    assert_eq!(outcome(first).await, Ok(0));
    for (item, other) in (1..).zip(others) {
        assert_eq!(outcome(other).await, Ok(item * 1000));
    }
    let batches: Vec<Vec<u32>> = vec![vec![0], (1..=32).collect(), (33..=64).collect()];
    assert_eq!(bench.model.batches(), batches);
    assert_eq!(bench.metrics.items("pool"), 65);
}

#[tokio::test]
async fn a_batch_that_the_model_responded_to_is_measured_and_no_other() {
    let (bench, first) = Bench::held(RULE).await;
    let others: Vec<_> = (1..=4).map(|item| bench.ask("a", item)).collect();
    bench.taken(5).await;
    bench.model.permits.add_permits(3);
    assert_eq!(outcome(first).await, Ok(0));
    for other in others {
        assert!(outcome(other).await.is_ok());
    }
    until(|| bench.batcher.info("pool").batches == 2).await;
    assert_eq!(outcome(bench.ask("a", RESULTS_TOO_FEW)).await, Err(Rejected::Lost));
    until(|| bench.pace.returned.lock().len() == 3).await;
    let info = bench.batcher.info("pool");
    let points: Vec<_> = info.points.iter().map(|point| (point.size_min, point.size_max, point.batches)).collect();
    assert_eq!((info.batches, points), (2, vec![(1, Some(1), 1), (4, Some(4), 1)]));
}

#[tokio::test]
async fn others_take_turns_with_the_parts_of_a_batch_that_is_divided() {
    let bench = Bench::new(RULE, 0);
    let divided = bench.ask("a", SEARCHED);
    until(|| bench.model.batches().len() == 1).await;
    let other = bench.ask("b", 7);
    bench.classes(2).await;
    bench.model.permits.add_permits(2);
    until(|| bench.model.batches().len() == 3).await;
    assert_eq!(bench.model.batches()[2], [7], "it needn't wait until all parts are back");
    bench.model.permits.add_permits(2);
    assert_eq!((outcome(other).await, outcome(divided).await), (Ok(7_000), Ok(1_005_000)));
    assert_eq!(bench.model.batches().len(), 4);
    // Of the divided batch, the first request alone says how the model does.
    until(|| *bench.pace.returned.lock() == [(1, Outcome::Failed), (1, Outcome::Responded)]).await;
    // All have given their slots back.
    bench.model.permits.add_permits(1);
    assert_eq!(outcome(bench.ask("a", 1)).await, Ok(1_000));
}

#[tokio::test]
async fn no_more_divided_batches_than_a_few_wait_for_turns() {
    let bench = Bench::new(config::Batch { size_max: 1, ..RULE }, 0);
    let divided: Vec<_> = (0..20).map(|_| bench.ask("a", SEARCHED)).collect();
    bench.taken(20).await;
    let mut searches = 0;
    for request in 1..=60 {
        until(|| bench.model.batches().len() == request).await;
        searches = searches.max(bench.batcher.shared.state.lock().searches);
        bench.model.permits.add_permits(1);
    }
    for one in divided {
        assert_eq!(outcome(one).await, Ok(1_005_000));
    }
    assert_eq!(searches, SEARCHES_MAX);
    until(|| bench.batcher.shared.state.lock().searches == 0).await;
}

#[tokio::test]
async fn what_a_divided_batch_took_is_charged_to_the_tenant_whose_item_was_at_fault() {
    // An item costs a hundred.
    let (bench, first) = Bench::held(config::Batch { bytes_max: 3_200, ..RULE }).await;
    let submit = |tenant, items: &[u32]| {
        let terms = Terms { bytes: 1, tenant: Tenant::of_digest(tenant), ..Terms::default() };
        bench.batcher.submit_all(&class("a"), items.iter().map(|item| (*item, terms)).collect())
    };
    let pending = [submit(1, &[1, 2]), submit(2, &[DIVIDED])];
    bench.model.permits.add_permits(2);
    assert_eq!(outcome(first).await, Ok(0));
    for one in pending.into_iter().flatten() {
        assert!(one.result().await.is_ok());
    }
    // 100 for the first item, 200 for two, 100 for the one at fault, and 200 for the further requests.
    let most = || bench.batcher.info("pool").tenants.first().map(|most| (most.tenant.clone(), most.part_ppm));
    until(|| most() == Some((Tenant::of_digest(2).to_string(), 500_000))).await;
    assert_eq!(bench.model.batches()[1].len(), 3, "they shared a batch");
}

#[tokio::test]
async fn an_item_that_others_wait_for_is_sent_once_and_from_the_place_that_comes_first() {
    for size_max in [2, 32] {
        let (bench, first) = Bench::held(config::Batch { size_max, ..RULE }).await;
        let terms = |tenant| Terms { bytes: 1, tenant: Tenant::of_digest(tenant), ..Terms::default() };
        let list = (1..=10).map(|item| (item, terms(1))).collect();
        let pending = bench.batcher.submit_all(&class("a"), list);
        let (stays, goes) = (Interest::default(), Interest::default());
        bench.batcher.hasten(&[(pending[9].queued(), terms(2))], &stays.handle());
        bench.batcher.hasten(&[(pending[8].queued(), terms(3))], &goes.handle());
        bench.batcher.hasten(&[(pending[7].queued(), terms(1))], &stays.handle());
        let further = if size_max == 2 { 3 } else { 2 };
        assert_eq!(bench.metrics.hastened.get(), further, "{size_max}: of a short list, none is before the others");
        drop(goes);
        let handle = pending[9].queued();
        assert!(!handle.has_left());
        bench.model.permits.add_permits(100);
        assert_eq!(outcome(first).await, Ok(0));
        for (item, pending) in (1..).zip(pending) {
            assert_eq!(pending.result().await, Ok(item * 1000), "{size_max}");
        }
        assert!(handle.has_left());
        let batches = bench.model.batches();
        assert!(batches[1].contains(&10), "{size_max}: {batches:?}");
        let of_gone = batches.iter().position(|items| items.contains(&9));
        assert!(size_max > 2 || of_gone > Some(3), "its request has gone: {batches:?}");
        let mut sent = batches.concat();
        sent.sort_unstable();
        assert_eq!(sent, (0..=10).collect::<Vec<_>>(), "{size_max}: each once");
        assert_eq!((bench.metrics.withdrawn.get(), bench.metrics.lost.get()), (0, 0), "{size_max}");
    }
}

#[tokio::test]
async fn who_goes_away_is_not_asked_for() {
    let (bench, first) = Bench::held(RULE).await;
    let (goes, stays) = (bench.ask("a", 1), bench.ask("a", 2));
    bench.taken(3).await;
    goes.abort();
    assert!(goes.await.unwrap_err().is_cancelled());
    bench.model.permits.add_permits(2);
    assert_eq!(outcome(stays).await, Ok(2000));
    assert_eq!(outcome(first).await, Ok(0));
    assert_eq!(bench.model.batches(), [[0], [2]]);
    assert_eq!(bench.metrics.withdrawn.get(), 1);
}

#[tokio::test]
async fn a_batch_goes_on_when_one_of_its_clients_goes_away() {
    let (bench, first) = Bench::held(RULE).await;
    first.abort();
    let next = bench.ask("a", 1);
    bench.taken(2).await;
    bench.model.permits.add_permits(2);
    assert_eq!(outcome(next).await, Ok(1000));
    assert_eq!(bench.metrics.withdrawn.get(), 0);
}

#[tokio::test]
async fn a_batch_that_comes_to_nothing_leaves_nobody_waiting_and_the_class_working() {
    let bench = Bench::new(RULE, 100);
    for spoilt in [PANICS, RESULTS_TOO_FEW, RESULTS_TOO_MANY] {
        assert_eq!(outcome(bench.ask("a", spoilt)).await, Err(Rejected::Lost), "{spoilt}");
        assert_eq!(outcome(bench.ask("a", 5)).await, Ok(5000), "after {spoilt}");
    }
    assert_eq!(bench.metrics.lost.get(), 3);
    bench.classes(0).await;
    let wanted = [(1, Outcome::Lost), (1, Outcome::Responded)].repeat(3);
    assert_eq!(*bench.pace.returned.lock(), wanted, "the pace is told how each batch went");
}

#[tokio::test]
async fn a_full_queue_refuses_until_somebody_goes_away() {
    let rule = config::Batch { queue_max: 2, ..RULE };
    let (bench, first) = Bench::held(rule).await;
    let (goes, stays) = (bench.ask("a", 1), bench.ask("a", 2));
    bench.taken(3).await;
    goes.abort();
    assert!(goes.await.unwrap_err().is_cancelled());
    let takes_its_place = bench.ask("a", 3);
    bench.taken(4).await;
    assert_eq!(outcome(bench.ask("a", 4)).await, Err(FULL));
    assert_eq!(bench.refused("queue-full"), 1);
    bench.model.permits.add_permits(2);
    assert_eq!(outcome(first).await, Ok(0));
    assert_eq!(outcome(stays).await, Ok(2000));
    assert_eq!(outcome(takes_its_place).await, Ok(3000));
    assert_eq!(bench.model.batches(), [vec![0], vec![2, 3]]);
}

#[tokio::test]
async fn a_request_larger_than_the_queue_is_answered_and_one_too_many_is_refused_as_a_whole() {
    let (bench, first) = Bench::held(config::Batch { queue_max: 40, ..RULE }).await;
    let terms = Terms { bytes: 1, ..Terms::default() };
    let list = |items: std::ops::Range<u32>| vec![(class("a"), items.map(|item| (item, terms)).collect::<Vec<_>>())];
    let taken = bench.batcher.submit_request(list(1..101)).remove(0);
    let groups = [list(101..103), vec![(class("b"), vec![(103, terms)])]].concat();
    for (pending, wanted) in bench.batcher.submit_request(groups).into_iter().flatten().zip(101..) {
        assert_eq!(pending.result().await, Err(FULL), "{wanted}");
    }
    assert_eq!(bench.refused("queue-full"), 3);
    bench.model.permits.add_permits(100);
    assert_eq!(outcome(first).await, Ok(0));
    for (item, pending) in (1..).zip(taken) {
        assert_eq!(pending.result().await, Ok(item * 1000));
    }
    assert_eq!(bench.model.batches().concat(), (0..101).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_passes_its_deadline_while_it_waits_is_refused_then_and_never_sent() {
    let (bench, first) = Bench::held(RULE).await;
    let terms = Terms { bytes: 1, deadline: Some(Instant::now() + Duration::from_millis(20)), ..Terms::default() };
    // The model is still at work on the first.
    assert_eq!(bench.batcher.submit(&class("a"), 1, terms).await, Err(Rejected::Expired));
    assert_eq!(bench.refused("expired"), 1);
    bench.model.permits.add_permits(1);
    assert_eq!(outcome(first).await, Ok(0));
    bench.classes(0).await;
    assert_eq!(bench.model.batches(), [[0]]);
}

#[tokio::test]
async fn what_cannot_meet_its_deadline_is_refused_at_once() {
    let (bench, first) = Bench::held(RULE).await;
    let terms = Terms { bytes: 1, deadline: Some(Instant::now()), ..Terms::default() };
    let late = Err(Rejected::Late { retry_after: Duration::from_secs(1) });
    assert_eq!(bench.batcher.submit(&class("a"), 1, terms).await, late);
    assert_eq!(bench.refused("deadline"), 1);
    bench.model.permits.add_permits(1);
    assert_eq!(outcome(first).await, Ok(0));
}

#[tokio::test]
async fn a_batch_of_another_pool_has_a_slot_of_its_own() {
    let bench = Bench::new(RULE, 0);
    let permit = bench.batcher.slot().await.expect("a slot is free");
    let waits = bench.ask("a", 1);
    bench.taken(1).await;
    let gives_up = bench.batcher.slot();
    drop(gives_up);
    let mut next = bench.batcher.slot();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(bench.model.batches().is_empty() && (&mut next).now_or_never().is_none(), "the slot is taken");
    drop(permit);
    // The pool's own batch goes first, since a guest had the last turn.
    until(|| bench.model.batches() == [[1]]).await;
    bench.model.permits.add_permits(1);
    assert_eq!(outcome(waits).await, Ok(1000));
    let permit = next.await.expect("a slot is free again");
    drop((permit, bench));
}

#[tokio::test]
async fn classes_do_not_mix() {
    let rule = config::Batch { concurrency: 2, ..RULE };
    let bench = Bench::new(rule, 0);
    let asked: Vec<_> = (0..8).map(|item| bench.ask(if item % 2 == 0 { "even" } else { "odd" }, item)).collect();
    bench.taken(8).await;
    bench.model.permits.add_permits(100);
    for (item, asked) in (0..).zip(asked) {
        assert_eq!(outcome(asked).await, Ok(item * 1000));
    }
    for (class, items) in bench.model.seen.lock().iter() {
        let even = class.group == "even";
        assert!(items.iter().all(|item| (item % 2 == 0) == even), "{class:?}: {items:?}");
    }
}

#[tokio::test]
async fn all_classes_of_a_pool_share_its_slots() {
    const GROUPS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let bench = Bench::new(config::Batch { concurrency: 2, ..RULE }, 0);
    let asked: Vec<_> = GROUPS.into_iter().zip(1..).map(|(group, item)| bench.ask(group, item)).collect();
    bench.taken(6).await;
    for out in 2..=6 {
        until(|| bench.model.batches().len() == out).await;
        // Whatever else could run has run.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.model.batches().len(), out, "two are out, and no more");
        bench.model.permits.add_permits(1);
    }
    bench.model.permits.add_permits(1);
    for (item, asked) in (1..).zip(asked) {
        assert_eq!(outcome(asked).await, Ok(item * 1000));
    }
}

#[tokio::test]
async fn a_class_too_many_is_sent_alone_and_in_its_turn() {
    let rule = config::Batch { classes_max: 1, queue_max: 2, ..RULE };
    let (bench, first) = Bench::held(rule).await;
    let others = [bench.ask("b", 1), bench.ask("b", 2)];
    bench.taken(3).await;
    assert_eq!(outcome(bench.ask("c", 3)).await, Err(FULL));
    assert_eq!((bench.metrics.classes.get(), bench.model.batches().len()), (1, 1));
    bench.model.permits.add_permits(3);
    assert_eq!(outcome(first).await, Ok(0));
    for (item, other) in (1..).zip(others) {
        assert_eq!(outcome(other).await, Ok(item * 1000));
    }
    assert_eq!(bench.model.batches(), [[0], [1], [2]]);
    assert_eq!(bench.metrics.alone.get(), 2);
}

#[tokio::test]
async fn a_class_without_work_gives_up_its_place_and_comes_back() {
    let bench = Bench::new(RULE, 100);
    for item in [1, 2] {
        assert_eq!(outcome(bench.ask("a", item)).await, Ok(item * 1000));
        bench.classes(0).await;
    }
}

#[tokio::test]
async fn a_pace_that_panics_costs_what_waits_and_not_the_pool() {
    let (bench, first) = Bench::held(RULE).await;
    let waits = bench.ask("a", 1);
    bench.taken(2).await;
    bench.pace.panics.store(1, Ordering::Relaxed);
    bench.model.permits.add_permits(100);
    assert_eq!(outcome(first).await, Ok(0));
    assert_eq!(outcome(waits).await, Err(Rejected::Lost));
    assert_eq!(outcome(bench.ask("a", 2)).await, Ok(2000));
    bench.classes(0).await;
}

#[tokio::test]
async fn a_scheduler_ends_with_its_batcher_and_what_is_under_way_does_not() {
    let bench = Bench::new(RULE, 0);
    let ask = |group, item| bench.batcher.submit_all(&class(group), vec![(item, Terms::default())]).remove(0);
    let out = ask("a", 7);
    until(|| bench.model.batches() == [[7]]).await;
    let waits = ask("b", 8);
    let (shared, model, classes) =
        (Arc::downgrade(&bench.batcher.shared), Arc::clone(&bench.model), bench.metrics.classes.clone());
    drop(bench);
    until(|| shared.strong_count() == 0 && classes.get() == 0).await;
    assert_eq!(waits.result().await, Err(Rejected::Lost));
    model.permits.add_permits(1);
    assert_eq!(out.result().await, Ok(7000));
    assert_eq!(model.batches(), [[7]]);
}

#[tokio::test]
async fn what_the_pace_of_a_pool_has_measured_is_shown() {
    let (model, metrics) = (Model::new(100), Metrics::new().of_pool("pool"));
    let answering = Arc::clone(&model);
    let send: SendBatch<u32, u32> = Arc::new(move |class: Class, items: Vec<u32>, _: Sending| -> Results<u32> {
        Arc::clone(&answering).answer(class, items, 0)
    });
    let batcher = Batcher::new(RULE, send, metrics.clone());
    assert_eq!(batcher.submit(&class("a"), 1, Terms::default()).await, Ok(1000));
    let labels = PoolLabels { pool: Arc::from("pool") };
    let fixed = || metrics.cost_fixed.get(&labels).map(|gauge| gauge.get());
    until(|| fixed().is_some_and(|fixed| fixed > 0.0)).await;
}
