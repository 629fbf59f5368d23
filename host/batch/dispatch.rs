//! The edge around a pool's scheduler: takes items in, sends batches, and hands out their results.

use std::{
    fmt,
    future::{Future, pending},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use thiserror::Error;
use tokio::{
    sync::{Notify, oneshot},
    time::sleep_until,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    class::Class,
    former::{Full, Terms},
    metrics::Metrics,
    pace::{Gather, Outcome, Pace, Returned, Why},
    scheduler::{Batch, Next, QueueId, Scheduler, SchedulerRule},
};
use crate::config;

/// The results of one batch.
#[derive(Clone, Debug)]
pub struct BatchResult<O> {
    /// One for each item, in their order.
    pub results: Vec<O>,
    /// How it went, for the pool's pace.
    pub outcome: Outcome,
}

/// The future of one batch's results.
pub type Results<O> = Pin<Box<dyn Future<Output = BatchResult<O>> + Send>>;

/// Sends one batch, which is sent now for this reason.
pub type SendBatch<I, O> = Arc<dyn Fn(Class, Vec<I>, Why) -> Results<O> + Send + Sync>;

/// Makes the pace of a pool, at the start and after a panic of the one before.
type MakePace = Box<dyn Fn() -> Box<dyn Pace> + Send + Sync>;

/// Why an item got no result.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Rejected {
    /// Too many items of its class are waiting.
    #[error("{queue_max} items of the same class are waiting already")]
    QueueFull {
        /// The limit.
        queue_max: usize,
    },
    /// Its batch came back without a result for each item, or sending it failed in an unforeseen way.
    #[error("the batch of this item came to nothing")]
    Lost,
}

/// Takes the items for one pool and gives back their results; in between they are sent in batches, of which at most
/// `concurrency` are under way.
pub struct Batcher<I, O> {
    shared: Arc<Shared<I, O>>,
    /// Ends the scheduler's task with the batcher. What is under way is not cut off.
    _stop: DropGuard,
}

impl<I, O> fmt::Debug for Batcher<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("rule", &self.shared.rule).finish_non_exhaustive()
    }
}

/// An item, and the channel to the request that waits for its result. If none does any more, `reply` is closed.
struct QueuedItem<I, O> {
    item: I,
    since: Instant,
    left: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<O, Rejected>>,
}

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// Returns a batcher that has nothing to do yet. Its scheduler is a task of the current runtime.
    #[must_use]
    pub fn new(rule: config::Batch, send: SendBatch<I, O>, metrics: Metrics) -> Arc<Self> {
        Self::paced(rule, Box::new(|| -> Box<dyn Pace> { Box::new(Gather) }), send, metrics)
    }

    fn paced(rule: config::Batch, pace: MakePace, send: SendBatch<I, O>, metrics: Metrics) -> Arc<Self> {
        let rule = SchedulerRule::from(rule);
        let state = State {
            scheduler: Scheduler::new(rule, pace()),
            returned: Vec::new(),
            classes: Counted { gauge: metrics.classes.clone(), count: 0 },
        };
        let shared = Arc::new(Shared { rule, pace, send, metrics, state: Mutex::new(state), happened: Notify::new() });
        let stop = CancellationToken::new();
        tokio::spawn(run(Arc::clone(&shared), stop.clone()));
        Arc::new(Self { shared, _stop: stop.drop_guard() })
    }

    /// Submits `item` on these terms, and waits for its result. If the returned future is dropped before the item was
    /// sent, it isn't sent; after that, its batch goes on without it.
    ///
    /// # Errors
    /// [`Rejected`]; there is always a result or this.
    pub async fn submit(&self, class: &Class, item: I, terms: Terms) -> Result<O, Rejected> {
        let mut pending = self.submit_all(class, vec![(item, terms)]);
        match pending.pop() {
            Some(pending) => pending.result().await,
            None => Err(Rejected::Lost),
        }
    }

    /// Like [`Batcher::submit`] for items that belong together, each with its terms: the scheduler sees them at once,
    /// so that an idle backend doesn't get the first alone. Returns one [`Pending`] an item, in their order.
    pub fn submit_all(&self, class: &Class, items: Vec<(I, Terms)>) -> Vec<Pending<O>> {
        let since = Instant::now();
        let (submission, pending): (Vec<_>, Vec<_>) = items
            .into_iter()
            .map(|(item, terms)| {
                let (reply, result) = oneshot::channel();
                let left = Arc::new(AtomicBool::new(false));
                let pending = Pending { result, left: Arc::clone(&left), lost: self.shared.metrics.lost.clone() };
                ((QueuedItem { item, since, left, reply }, terms), pending)
            })
            .unzip();
        self.shared.take(class, submission);
        pending
    }
}

/// The pending result of one item. Dropping it withdraws the item if it wasn't sent yet.
#[derive(Debug)]
pub struct Pending<O> {
    result: oneshot::Receiver<Result<O, Rejected>>,
    left: Arc<AtomicBool>,
    lost: Counter,
}

/// Whether an item was sent with its batch, after which it can't be withdrawn.
#[derive(Clone, Debug)]
pub struct Departure(Arc<AtomicBool>);

impl Departure {
    /// Whether it was sent.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl<O> Pending<O> {
    /// Returns a handle to whether the item was sent.
    #[must_use]
    pub fn departure(&self) -> Departure {
        Departure(Arc::clone(&self.left))
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// [`Rejected`]; there is always a result or this.
    pub async fn result(self) -> Result<O, Rejected> {
        // The other end is dropped unused when the batch comes to nothing.
        let outcome = self.result.await.unwrap_or(Err(Rejected::Lost));
        if matches!(outcome, Err(Rejected::Lost)) {
            self.lost.inc();
        }
        outcome
    }
}

/// The state that a batcher, its task and its batches share.
struct Shared<I, O> {
    rule: SchedulerRule,
    pace: MakePace,
    send: SendBatch<I, O>,
    metrics: Metrics,
    state: Mutex<State<I, O>>,
    /// Wakes the task: an item arrived, or a batch came back.
    happened: Notify,
}

struct State<I, O> {
    scheduler: Scheduler<Class, QueuedItem<I, O>>,
    /// Batches that came back since the scheduler's last decision; no more than were under way.
    returned: Vec<(QueueId<Class>, Returned)>,
    classes: Counted,
}

/// Runs the scheduler whenever something happens, until the batcher is gone, and with it all that waited.
async fn run<I: Send + 'static, O: Send + 'static>(shared: Arc<Shared<I, O>>, stop: CancellationToken) {
    // A defect in a pace must not leave a pool without its scheduler for ever.
    while AssertUnwindSafe(shared.schedule(&stop)).catch_unwind().await.is_err() {
        tracing::error!("a batch scheduler panicked and begins anew; what was waiting gets no result");
        shared.begin_anew();
    }
}

impl<I: Send + 'static, O: Send + 'static> Shared<I, O> {
    async fn schedule(self: &Arc<Self>, stop: &CancellationToken) {
        loop {
            let wake = self.send_ready();
            let alarm = async {
                match wake {
                    Some(time) => sleep_until(time.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = self.happened.notified() => {}
                () = alarm => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Sends all batches that are due now, and returns when to try again.
    fn send_ready(self: &Arc<Self>) -> Option<Instant> {
        loop {
            let next = {
                let mut state = self.state.lock();
                let State { scheduler, returned, classes } = &mut *state;
                for (queue_id, returned) in returned.drain(..) {
                    scheduler.finished(&queue_id, &returned);
                }
                let next = scheduler.next(Instant::now(), |queued| self.is_awaited(queued));
                classes.set(scheduler.classes());
                next
            };
            match next {
                Next::Send(batch) => self.launch(batch),
                Next::WaitUntil(time) => return Some(time),
                Next::Idle => return None,
            }
        }
    }

    /// Sends a batch. Each has a task of its own, so that a slow one doesn't hold up the others, and a panic ends only
    /// itself.
    fn launch(self: &Arc<Self>, batch: Batch<Class, QueuedItem<I, O>>) {
        let Batch { queue_id, items, why } = batch;
        self.metrics.sent(why, items.len());
        if queue_id.is_alone() {
            self.metrics.alone.inc();
        }
        let since = Instant::now();
        for queued in &items {
            queued.left.store(true, Ordering::Release);
            self.metrics.wait.observe(since.saturating_duration_since(queued.since).as_secs_f64());
        }
        let slot = Slot { shared: Arc::downgrade(self), queue_id, items: items.len(), since, came_back: None };
        tokio::spawn(carry(Arc::clone(&self.send), slot, items, why));
    }

    /// Takes in the items of one request, and refuses those that there is no room for.
    fn take(&self, class: &Class, submission: Vec<(QueuedItem<I, O>, Terms)>) {
        let mut refused = Vec::new();
        {
            let mut state = self.state.lock();
            for (queued, terms) in submission {
                let since = queued.since;
                let taken = state.scheduler.arrive(class, queued, terms, since, |queued| self.is_awaited(queued));
                refused.extend(taken.err().map(|Full(queued)| queued));
            }
            let classes = state.scheduler.classes();
            state.classes.set(classes);
        }
        self.happened.notify_one();
        for queued in refused {
            self.metrics.queue_full.inc();
            // It doesn't matter if the request has gone in the meantime.
            let _ = queued.reply.send(Err(Rejected::QueueFull { queue_max: self.rule.former.queue_max }));
        }
    }

    /// Whether a request waits for it still; if not, it is counted as withdrawn.
    fn is_awaited(&self, queued: &QueuedItem<I, O>) -> bool {
        let is_awaited = !queued.reply.is_closed();
        self.metrics.withdrawn.inc_by(u64::from(!is_awaited));
        is_awaited
    }

    /// Begins with an empty scheduler: the state of the other one may be inconsistent. What waits in it is rejected as
    /// lost.
    fn begin_anew(&self) {
        let fresh = Scheduler::new(self.rule, (self.pace)());
        let former = std::mem::replace(&mut self.state.lock().scheduler, fresh);
        drop(former);
    }
}

/// A slot of the pool, while a batch has it. It is given back when the batch's task ends, however it ends.
struct Slot<I, O> {
    shared: Weak<Shared<I, O>>,
    queue_id: QueueId<Class>,
    items: usize,
    since: Instant,
    came_back: Option<(Outcome, Duration)>,
}

impl<I, O> Drop for Slot<I, O> {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let (outcome, took) = self.came_back.unwrap_or_else(|| (Outcome::Lost, self.since.elapsed()));
        let returned = Returned { items: self.items, took, outcome };
        // The scheduler is notified by its own task: a pace that panics must not do so within another panic.
        shared.state.lock().returned.push((self.queue_id.clone(), returned));
        shared.happened.notify_one();
    }
}

/// Sends a batch and hands out its results, then gives its slot back. If there isn't one for each item, none is handed
/// out: which is whose is unknown. The channels are dropped then, which rejects the items as lost.
async fn carry<I, O>(send: SendBatch<I, O>, mut slot: Slot<I, O>, batch: Vec<QueuedItem<I, O>>, why: Why) {
    let class = slot.queue_id.class.clone();
    let (items, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|queued| (queued.item, queued.reply)).unzip();
    let BatchResult { results, outcome } = send(class, items, why).await;
    let (sent, returned) = (replies.len(), results.len());
    if returned != sent {
        let pool = &slot.queue_id.class.pool;
        tracing::error!(%pool, sent, returned, "a batch came back with the wrong number of results");
        return;
    }
    slot.came_back = Some((outcome, slot.since.elapsed()));
    for (reply, result) in replies.into_iter().zip(results) {
        // It doesn't matter if the request has gone in the meantime.
        let _ = reply.send(Ok(result));
    }
}

/// Counts the classes of one scheduler in a gauge that all schedulers share.
struct Counted {
    gauge: Gauge,
    count: i64,
}

impl Counted {
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
mod tests;
