//! The edge around the formers: a task for each class, which carries out what its former says.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use thiserror::Error;
use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::JoinSet,
    time::sleep_until,
};

use super::{Class, Former, FormerRule, Full, Metrics, Step, Terms, Why};
use crate::config;

/// A class without work for this long gives up its task; its next item starts another.
const CLASS_IDLE: Duration = Duration::from_secs(60);

/// A full queue is searched for items whose asker has gone at most this often.
const SWEEP_EVERY: Duration = Duration::from_millis(10);

/// The answers to one batch, on their way.
pub type Answers<O> = Pin<Box<dyn Future<Output = Vec<O>> + Send>>;

/// Sends one batch and gives an answer to each of its items, in their order.
pub type SendBatch<I, O> = Arc<dyn Fn(Class, Vec<I>) -> Answers<O> + Send + Sync>;

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

/// Takes items and gives back answers; in between they travel in batches.
pub struct Batcher<I, O> {
    rule: config::Batch,
    send: SendBatch<I, O>,
    metrics: Metrics,
    class_idle: Duration,
    /// Whoever puts something into an inbox, or ends a class's task, holds this lock.
    inboxes: Mutex<HashMap<Class, mpsc::Sender<Party<I, O>>>>,
}

/// Items that arrive together, because one request asked them all: they are not torn apart by chance.
type Party<I, O> = Vec<Asked<I, O>>;

/// An item and who waits for its answer. If nobody does any more, `reply` is closed.
struct Asked<I, O> {
    item: I,
    terms: Terms,
    since: Instant,
    left: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<O, Rejected>>,
}

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// A batcher that has nothing to do yet.
    #[must_use]
    pub fn new(rule: config::Batch, send: SendBatch<I, O>, metrics: Metrics) -> Arc<Self> {
        Self::with_class_idle(rule, send, metrics, CLASS_IDLE)
    }

    fn with_class_idle(
        rule: config::Batch,
        send: SendBatch<I, O>,
        metrics: Metrics,
        class_idle: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { rule, send, metrics, class_idle, inboxes: Mutex::new(HashMap::new()) })
    }

    /// Waits for the answer to `item`, which travels on these terms. If the returned future is dropped before the item
    /// has left, it won't leave; once it has left, its batch goes on without it.
    ///
    /// An item whose class would be one more than `classes_max` is sent alone and at once: it has no former, so it is
    /// not held back by `concurrency` and `queue_max`, only by the limits of the pool it is sent to.
    ///
    /// # Errors
    /// [`Rejected`]; there is always an answer or this.
    pub async fn submit(self: &Arc<Self>, class: Class, item: I, terms: Terms) -> Result<O, Rejected> {
        let mut pending = self.enlist(class, vec![(item, terms)]);
        match pending.pop() {
            Some(pending) => pending.answer().await,
            None => Err(Rejected::Lost),
        }
    }

    /// Like [`Batcher::submit`] for items that belong together, each with its terms: they are seen by the former at
    /// once, so that an idle backend doesn't get the first alone. One [`Pending`] an item, in their order.
    pub fn enlist(self: &Arc<Self>, class: Class, items: Vec<(I, Terms)>) -> Vec<Pending<O>> {
        let since = Instant::now();
        let (party, pending) = items
            .into_iter()
            .map(|(item, terms)| {
                let (reply, answer) = oneshot::channel();
                let left = Arc::new(AtomicBool::new(false));
                let pending = Pending { answer, left: Arc::clone(&left), lost: self.metrics.lost.clone() };
                (Asked { item, terms, since, left, reply }, pending)
            })
            .unzip();
        self.place(class, party);
        pending
    }

    fn place(self: &Arc<Self>, class: Class, party: Party<I, O>) {
        let mut inboxes = self.inboxes.lock();
        let party = match inboxes.get(&class) {
            Some(inbox) => match inbox.try_send(party) {
                Ok(()) => return,
                Err(TrySendError::Full(party)) => return self.refuse_all(party),
                // The class's task has ended without saying so, which takes a panic: another takes its place.
                Err(TrySendError::Closed(party)) => party,
            },
            None if inboxes.len() >= self.rule.classes_max => {
                for asked in party {
                    self.metrics.alone.inc();
                    tokio::spawn(carry(Arc::clone(&self.send), class.clone(), vec![asked]));
                }
                return;
            }
            None => party,
        };
        let inbox = self.open(class.clone());
        // A new inbox has room for one; if it hadn't, those who wait would notice that they are dropped.
        let _ = inbox.try_send(party);
        inboxes.insert(class, inbox);
    }

    fn refuse_all(&self, party: Party<I, O>) {
        for asked in party {
            // It doesn't matter if the asker has gone in the meantime.
            let _ = asked.reply.send(Err(refuse(&self.metrics, self.rule)));
        }
    }

    fn open(self: &Arc<Self>, class: Class) -> mpsc::Sender<Party<I, O>> {
        let (sender, inbox) = mpsc::channel(self.rule.queue_max.clamp(1, Semaphore::MAX_PERMITS));
        let task = ClassTask {
            class,
            batcher: Arc::downgrade(self),
            rule: self.rule,
            send: Arc::clone(&self.send),
            metrics: self.metrics.clone(),
            class_idle: self.class_idle,
            inbox,
            former: Former::new(FormerRule::from(self.rule)),
            batches: JoinSet::new(),
            swept: None,
            _counted: Counted::new(self.metrics.classes.clone()),
        };
        tokio::spawn(task.run());
        sender
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
    /// Has it?
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

/// What serves one class until it has been idle for long.
struct ClassTask<I, O> {
    class: Class,
    batcher: Weak<Batcher<I, O>>,
    rule: config::Batch,
    send: SendBatch<I, O>,
    metrics: Metrics,
    class_idle: Duration,
    inbox: mpsc::Receiver<Party<I, O>>,
    former: Former<Asked<I, O>>,
    /// Each batch has a task of its own, so that a slow one doesn't hold up the others, and a panic ends only itself.
    batches: JoinSet<()>,
    swept: Option<Instant>,
    _counted: Counted,
}

enum Event<I, O> {
    /// Items arrived.
    Asked(Party<I, O>),
    /// A batch came back, or panicked.
    Finished,
    /// The former wanted to be asked now.
    Due,
    /// Nothing happened for a long time.
    Idle,
    /// The batcher is gone, and with it everybody who waited.
    Abandoned,
}

impl<I: Send + 'static, O: Send + 'static> ClassTask<I, O> {
    async fn run(mut self) {
        loop {
            let wake = self.send_ready();
            match self.event(wake).await {
                Event::Asked(party) => self.take_all(party),
                Event::Finished => self.former.finished(),
                Event::Due => {}
                Event::Idle if self.retire() => return,
                Event::Idle => {}
                Event::Abandoned => {
                    // What is under way is not cut off.
                    self.batches.detach_all();
                    return;
                }
            }
        }
    }

    /// Sends all that may leave now, and says when to try again.
    fn send_ready(&mut self) -> Option<Instant> {
        loop {
            let withdrawn = &self.metrics.withdrawn;
            let keep = |asked: &Asked<I, O>| {
                let keep = is_awaited(asked);
                withdrawn.inc_by(u64::from(!keep));
                keep
            };
            match self.former.next(Instant::now(), keep) {
                Step::Send { items, why } => self.send(items, why),
                Step::WaitUntil(time) => return Some(time),
                Step::Idle => return None,
            }
        }
    }

    fn send(&mut self, batch: Vec<Asked<I, O>>, why: Why) {
        self.metrics.sent(why, batch.len());
        for asked in &batch {
            self.metrics.wait.observe(asked.since.elapsed().as_secs_f64());
        }
        self.batches.spawn(carry(Arc::clone(&self.send), self.class.clone(), batch));
    }

    async fn event(&mut self, wake: Option<Instant>) -> Event<I, O> {
        let idle = self.former.is_idle();
        let alarm = wake.unwrap_or_else(|| Instant::now() + self.class_idle);
        tokio::select! {
            party = self.inbox.recv() => party.map_or(Event::Abandoned, Event::Asked),
            Some(_) = self.batches.join_next() => Event::Finished,
            () = sleep_until(alarm.into()), if idle || wake.is_some() => if idle { Event::Idle } else { Event::Due },
        }
    }

    /// Takes a batch's worth of what has arrived, so that what came together can leave together.
    fn take_all(&mut self, first: Party<I, O>) {
        let mut party = Some(first);
        let mut taken = 0;
        while let Some(items) = party {
            taken += items.len();
            items.into_iter().for_each(|asked| self.take(asked));
            party = if taken < self.rule.size_max { self.inbox.try_recv().ok() } else { None };
        }
    }

    fn take(&mut self, asked: Asked<I, O>) {
        if !is_awaited(&asked) {
            self.metrics.withdrawn.inc();
            return;
        }
        if self.former.is_full() {
            self.sweep(Instant::now());
        }
        let (terms, since) = (asked.terms, asked.since);
        if let Err(Full(asked)) = self.former.arrive(asked, terms, since) {
            // It doesn't matter if the asker has gone in the meantime.
            let _ = asked.reply.send(Err(refuse(&self.metrics, self.rule)));
        }
    }

    /// Makes room in a full queue. Not on every arrival: under overload that would cost the most when it helps least.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|last| now.duration_since(last) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        let gone = self.former.sweep(is_awaited);
        self.metrics.withdrawn.inc_by(gone as u64);
    }

    /// Gives up the class's place, unless an item arrived in the last moment. Nothing can arrive under the lock.
    fn retire(&self) -> bool {
        let Some(batcher) = self.batcher.upgrade() else { return true };
        let mut inboxes = batcher.inboxes.lock();
        let retires = self.inbox.is_empty();
        if retires {
            inboxes.remove(&self.class);
        }
        retires
    }
}

/// Sends a batch and hands out its answers. If there isn't one for each item, nobody gets any: whose is whose can't be
/// told. Whoever gets none notices that the other end of its channel is dropped.
async fn carry<I, O>(send: SendBatch<I, O>, class: Class, batch: Vec<Asked<I, O>>) {
    batch.iter().for_each(|asked| asked.left.store(true, Ordering::Release));
    let (items, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|asked| (asked.item, asked.reply)).unzip();
    let pool = Arc::clone(&class.pool);
    let answers = send(class, items).await;
    let (asked, answered) = (replies.len(), answers.len());
    if answered != asked {
        tracing::error!(%pool, asked, answered, "a batch came back with the wrong number of answers");
        return;
    }
    for (reply, answer) in replies.into_iter().zip(answers) {
        // It doesn't matter if the asker has gone in the meantime.
        let _ = reply.send(Ok(answer));
    }
}

fn is_awaited<I, O>(asked: &Asked<I, O>) -> bool {
    !asked.reply.is_closed()
}

fn refuse(metrics: &Metrics, rule: config::Batch) -> Rejected {
    metrics.queue_full.inc();
    Rejected::QueueFull { queue_max: rule.queue_max }
}

/// Counts a class for as long as its task lives, however it ends.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
