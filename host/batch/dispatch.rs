//! The edge around a pool's scheduler: takes items in, sends the batches that leave, and hands out what comes back.

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
    pace::{Gather, Outcome, Pace, Returned},
    scheduler::{Batch, Next, Scheduler, SchedulerRule, Seat},
};
use crate::config;

/// What came back for one batch.
#[derive(Clone, Debug)]
pub struct BatchResult<O> {
    /// One for each item, in their order.
    pub results: Vec<O>,
    /// How it went, for the pool's pace.
    pub outcome: Outcome,
}

/// The results of one batch, on their way.
pub type Results<O> = Pin<Box<dyn Future<Output = BatchResult<O>> + Send>>;

/// Sends one batch.
pub type SendBatch<I, O> = Arc<dyn Fn(Class, Vec<I>) -> Results<O> + Send + Sync>;

/// Makes the pace of a pool, at the start and after a panic of the one before.
type MakePace = Box<dyn Fn() -> Box<dyn Pace> + Send + Sync>;

/// Why an item got no answer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Rejected {
    /// Too many items of its class are waiting.
    #[error("{queue_max} questions of the same kind are waiting already")]
    QueueFull {
        /// The limit.
        queue_max: usize,
    },
    /// Its batch came back without an answer to each item, or sending it failed in an unforeseen way.
    #[error("the batch that carried the question came to nothing")]
    Lost,
}

/// Takes the items for one pool and gives back answers; in between they are sent in batches, of which at most
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

/// An item, and the way to the request that waits for its answer. If none does any more, `reply` is closed.
struct Asked<I, O> {
    item: I,
    since: Instant,
    left: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<O, Rejected>>,
}

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// A batcher that has nothing to do yet. Its scheduler is a task of the current runtime.
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

    /// Waits for the answer to `item`, which is sent on these terms. If the returned future is dropped before the item
    /// has left, it won't leave; once it has left, its batch goes on without it.
    ///
    /// # Errors
    /// [`Rejected`]; there is always an answer or this.
    pub async fn submit(&self, class: &Class, item: I, terms: Terms) -> Result<O, Rejected> {
        let mut pending = self.enlist(class, vec![(item, terms)]);
        match pending.pop() {
            Some(pending) => pending.answer().await,
            None => Err(Rejected::Lost),
        }
    }

    /// Like [`Batcher::submit`] for items that belong together, each with its terms: the scheduler sees them at once, so
    /// that an idle backend doesn't get the first alone. One [`Pending`] an item, in their order.
    pub fn enlist(&self, class: &Class, items: Vec<(I, Terms)>) -> Vec<Pending<O>> {
        let since = Instant::now();
        let (party, pending): (Vec<_>, Vec<_>) = items
            .into_iter()
            .map(|(item, terms)| {
                let (reply, answer) = oneshot::channel();
                let left = Arc::new(AtomicBool::new(false));
                let pending = Pending { answer, left: Arc::clone(&left), lost: self.shared.metrics.lost.clone() };
                ((Asked { item, since, left, reply }, terms), pending)
            })
            .unzip();
        self.shared.take(class, party);
        pending
    }
}

/// The answer to one item, on its way. Dropping it withdraws the item if it hasn't left yet.
#[derive(Debug)]
pub struct Pending<O> {
    answer: oneshot::Receiver<Result<O, Rejected>>,
    left: Arc<AtomicBool>,
    lost: Counter,
}

/// Tells whether an item has left with its batch; then it can't be withdrawn.
#[derive(Clone, Debug)]
pub struct Departure(Arc<AtomicBool>);

impl Departure {
    /// Whether it has left.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl<O> Pending<O> {
    /// What tells whether the item has left.
    #[must_use]
    pub fn departure(&self) -> Departure {
        Departure(Arc::clone(&self.left))
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// [`Rejected`]; there is always an answer or this.
    pub async fn answer(self) -> Result<O, Rejected> {
        // The other end is dropped unused when the batch comes to nothing.
        let outcome = self.answer.await.unwrap_or(Err(Rejected::Lost));
        if matches!(outcome, Err(Rejected::Lost)) {
            self.lost.inc();
        }
        outcome
    }
}

/// What a batcher, its task and its batches share.
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
    scheduler: Scheduler<Class, Asked<I, O>>,
    /// Batches that came back since the scheduler was asked; no more than were under way.
    returned: Vec<(Seat<Class>, Returned)>,
    classes: Counted,
}

/// Asks the scheduler whenever something happens, until the batcher is gone, and with it everybody who waited.
async fn run<I: Send + 'static, O: Send + 'static>(shared: Arc<Shared<I, O>>, stop: CancellationToken) {
    // A defect in a pace must not leave a pool without its scheduler for ever.
    while AssertUnwindSafe(shared.schedule(&stop)).catch_unwind().await.is_err() {
        tracing::error!("a batch scheduler panicked and begins anew; what was waiting gets no answer");
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

    /// Sends all that may leave now, and returns when to try again.
    fn send_ready(self: &Arc<Self>) -> Option<Instant> {
        loop {
            let next = {
                let mut state = self.state.lock();
                let State { scheduler, returned, classes } = &mut *state;
                for (seat, returned) in returned.drain(..) {
                    scheduler.finished(&seat, &returned);
                }
                let next = scheduler.next(Instant::now(), |asked| self.is_awaited(asked));
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

    /// Each batch has a task of its own, so that a slow one doesn't hold up the others, and a panic ends only itself.
    fn launch(self: &Arc<Self>, batch: Batch<Class, Asked<I, O>>) {
        let Batch { seat, items, why } = batch;
        self.metrics.sent(why, items.len());
        if seat.is_alone() {
            self.metrics.alone.inc();
        }
        for asked in &items {
            asked.left.store(true, Ordering::Release);
            self.metrics.wait.observe(asked.since.elapsed().as_secs_f64());
        }
        let slot =
            Slot { shared: Arc::downgrade(self), seat, items: items.len(), since: Instant::now(), came_back: None };
        tokio::spawn(carry(Arc::clone(&self.send), slot, items));
    }

    /// Takes in what one request asks, and refuses what there is no room for.
    fn take(&self, class: &Class, party: Vec<(Asked<I, O>, Terms)>) {
        let mut refused = Vec::new();
        {
            let mut state = self.state.lock();
            for (asked, terms) in party {
                let since = asked.since;
                let taken = state.scheduler.arrive(class, asked, terms, since, |asked| self.is_awaited(asked));
                refused.extend(taken.err().map(|Full(asked)| asked));
            }
            let classes = state.scheduler.classes();
            state.classes.set(classes);
        }
        self.happened.notify_one();
        for asked in refused {
            self.metrics.queue_full.inc();
            // It doesn't matter if the asker has gone in the meantime.
            let _ = asked.reply.send(Err(Rejected::QueueFull { queue_max: self.rule.former.queue_max }));
        }
    }

    /// Whether somebody waits for it still; if not, it is counted.
    fn is_awaited(&self, asked: &Asked<I, O>) -> bool {
        let is_awaited = !asked.reply.is_closed();
        self.metrics.withdrawn.inc_by(u64::from(!is_awaited));
        is_awaited
    }

    /// Begins with an empty scheduler: what the other one holds may not hold together. Whoever waits in it notices.
    fn begin_anew(&self) {
        let fresh = Scheduler::new(self.rule, (self.pace)());
        let former = std::mem::replace(&mut self.state.lock().scheduler, fresh);
        drop(former);
    }
}

/// A slot of the pool, while a batch has it. It is given back when the batch's task ends, however it ends.
struct Slot<I, O> {
    shared: Weak<Shared<I, O>>,
    seat: Seat<Class>,
    items: usize,
    since: Instant,
    came_back: Option<(Outcome, Duration)>,
}

impl<I, O> Drop for Slot<I, O> {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let (outcome, took) = self.came_back.unwrap_or_else(|| (Outcome::Lost, self.since.elapsed()));
        let returned = Returned { items: self.items, took, outcome };
        // The scheduler is told by its own task: a pace that panics must not do so within another panic.
        shared.state.lock().returned.push((self.seat.clone(), returned));
        shared.happened.notify_one();
    }
}

/// Sends a batch and hands out its answers, then gives its slot back. If there isn't one for each item, nobody gets any:
/// whose is whose can't be told. Whoever gets none notices that the other end of its channel is dropped.
async fn carry<I, O>(send: SendBatch<I, O>, mut slot: Slot<I, O>, batch: Vec<Asked<I, O>>) {
    let class = slot.seat.class.clone();
    let pool = Arc::clone(&class.pool);
    let (items, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|asked| (asked.item, asked.reply)).unzip();
    let BatchResult { results, outcome } = send(class, items).await;
    let (asked, answered) = (replies.len(), results.len());
    if answered != asked {
        tracing::error!(%pool, asked, answered, "a batch came back with the wrong number of answers");
        return;
    }
    slot.came_back = Some((outcome, slot.since.elapsed()));
    for (reply, result) in replies.into_iter().zip(results) {
        // It doesn't matter if the asker has gone in the meantime.
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
