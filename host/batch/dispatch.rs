//! The edge around a pool's scheduler: takes items in, sends batches, and hands out their results.

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, pending},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::sleep_until,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    class::Class,
    former::Terms,
    measured::{Fit, Measured},
    metrics::{Gauges, Metrics},
    pace::{Adaptive, Estimate, Outcome, Pace, Returned, Why},
    scheduler::{Batch, Next, QueueId, Refusal, Refused, Scheduler, SchedulerRule},
    shares::{Share, Tenant},
    surcharge::Further,
    ticket::{Interested, Pending, Queued, QueuedItem, Rejected, Reply, Ticket},
};
use crate::{
    config,
    report::{BatchingInfo, TenantInfo},
};

/// Tenants whose shares are reported.
const TENANTS_SHOWN: usize = 10;

/// Divided batches of a pool that have given their slots back and wait for turns: a further one keeps its own, so that
/// no more are under way than a pool can serve.
const SEARCHES_MAX: usize = 8;

/// The results of one batch.
#[derive(Clone, Debug)]
pub struct BatchResult<O> {
    /// One for each item, in their order.
    pub results: Vec<O>,
    /// How it went, for the pool's pace.
    pub outcome: Outcome,
    /// The endpoint that responded, if one did.
    pub endpoint: Option<Arc<str>>,
    /// The requests that it took beyond the first, if it was divided.
    pub further: Further,
}

/// What one request for a batch, or for a part of it, has brought.
pub enum Progress<O> {
    /// A result for each item.
    Over(BatchResult<O>),
    /// The batch is divided. `rest` makes one more request, in a slot of its own.
    Divided {
        /// How the batch went, for the pool's pace.
        outcome: Outcome,
        /// The endpoint that responded, if one did.
        endpoint: Option<Arc<str>>,
        /// The next request.
        rest: Results<O>,
    },
}

/// The future of one request for a batch.
pub type Results<O> = Pin<Box<dyn Future<Output = Progress<O>> + Send>>;

/// Sends one batch.
pub type SendBatch<I, O> = Arc<dyn Fn(Class, Vec<I>, Sending) -> Results<O> + Send + Sync>;

/// What is known of a batch that is sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Why it is sent.
    pub why: Why,
    /// How long batches like it took of late; `None` if that isn't known.
    pub expected: Option<Duration>,
}

/// Items of one class, each with its terms.
type Members<I> = Vec<(I, Terms)>;

/// Makes the pace of a pool, at the start and after a panic of the one before.
type MakePace = Box<dyn Fn() -> Box<dyn Pace> + Send + Sync>;

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

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// Returns a batcher that has nothing to do yet. Its scheduler is a task of the current runtime.
    #[must_use]
    pub fn new(rule: config::Batch, send: SendBatch<I, O>, metrics: Metrics) -> Arc<Self> {
        Self::paced(rule, Box::new(|| -> Box<dyn Pace> { Box::new(Adaptive::new()) }), send, metrics)
    }

    fn paced(rule: config::Batch, pace: MakePace, send: SendBatch<I, O>, metrics: Metrics) -> Arc<Self> {
        let rule = SchedulerRule::from(rule);
        let state = State {
            scheduler: Scheduler::new(rule, pace()),
            returned: Vec::new(),
            gauges: metrics.gauges(),
            guests: VecDeque::new(),
            guests_left: 0,
            charges: Vec::new(),
            searches: 0,
        };
        let (state, measured, happened) = (Mutex::new(state), Mutex::new(Measured::new()), Notify::new());
        let shared = Arc::new(Shared { rule, pace, send, metrics, state, measured, happened });
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

    /// Like [`Batcher::submit`] for items that belong together, each with its terms. Returns one [`Pending`] an item, in
    /// their order.
    pub fn submit_all(&self, class: &Class, items: Vec<(I, Terms)>) -> Vec<Pending<I, O>> {
        self.submit_request(vec![(class.clone(), items)]).pop().unwrap_or_default()
    }

    /// Submits the items of one request by their classes, each class once. The scheduler sees them at once, so that an
    /// idle backend doesn't get the first alone, and takes them in or refuses them as a whole. Returns one [`Pending`] an
    /// item, in their order.
    pub fn submit_request(&self, groups: Vec<(Class, Members<I>)>) -> Vec<Vec<Pending<I, O>>> {
        let since = Instant::now();
        let queue = |class: &Class, party: usize, (item, terms): (I, Terms)| {
            let (reply, result) = oneshot::channel();
            let ticket = Ticket::new(class.clone(), terms, party, item, reply);
            let pending = Pending::new(result, &ticket, self.shared.metrics.lost.clone());
            ((QueuedItem::first(ticket, since), terms), pending)
        };
        let (submission, mut pending): (Vec<_>, Vec<Vec<Pending<I, O>>>) = groups
            .into_iter()
            .map(|(class, items)| {
                let party = items.len();
                let queued = items.into_iter().map(|item| queue(&class, party, item));
                let (items, pending): (Vec<_>, Vec<_>) = queued.unzip();
                ((class, items), pending)
            })
            .unzip();
        let is_taken_in = self.shared.take(submission, since);
        pending.iter_mut().flatten().for_each(|pending| pending.note(is_taken_in));
        pending
    }

    /// Has items that wait already sent as early as they would be if another request that waits for them, too, had
    /// submitted them on these terms: each gets a further place in the queue, if that may come before those that it
    /// has. The tenant whose place comes first pays. The places go when the request does. What can't be queued for it,
    /// because it has its share of a full queue, stays where it is.
    pub fn hasten(&self, items: &[(Queued<I, O>, Terms)], interested: &Interested) {
        let mut waiting: Vec<(_, Members<_>)> = Vec::new();
        for (queued, terms) in items {
            let Some(ticket) = queued.ticket() else { continue };
            let of = (ticket.class(), terms.tenant);
            match waiting.iter_mut().find(|((class, tenant), _): &&mut ((Class, _), _)| (class, *tenant) == of) {
                Some((_, known)) => known.push((ticket, *terms)),
                None => waiting.push(((ticket.class().clone(), terms.tenant), vec![(ticket, *terms)])),
            }
        }
        let now = Instant::now();
        for ((class, _), tickets) in waiting {
            let (party, size_max) = (tickets.len(), self.shared.rule.former.size_max);
            let place = |(ticket, terms): (Arc<Ticket<I, O>>, Terms)| {
                let terms = ticket.improve(terms, party, size_max, interested)?;
                Some((QueuedItem::further(ticket, now, interested.clone()), terms))
            };
            self.shared.hasten(&class, tickets.into_iter().filter_map(place).collect(), now);
        }
    }

    /// Returns how long batches took, for a report on the pool of this name.
    #[must_use]
    pub fn info(&self, pool: &str) -> BatchingInfo {
        let (estimate, load, tenants) = {
            let state = self.shared.state.lock();
            (state.scheduler.estimate(), state.scheduler.load(), state.scheduler.top_tenants(TENANTS_SHOWN))
        };
        let fit = estimate.map(|Estimate { fixed, per_item, .. }| Fit { fixed, per_item });
        let info = self.shared.measured.lock().info(pool, fit);
        BatchingInfo { slots: load.slots, tenants: tenants.iter().map(tenant_info).collect(), ..info }
    }
}

fn tenant_info(share: &Share) -> TenantInfo {
    // From 0 to 1,000,000; the cast saturates.
    let part_ppm = (share.part * 1e6).round() as u32;
    TenantInfo { tenant: share.tenant.to_string(), part_ppm, waiting: share.items }
}

/// The slots of a pool, for batches that come from another pool because that one failed.
pub trait Slots: fmt::Debug + Send + Sync {
    /// Waits for a slot; `None` if there is no scheduler any more. Guests and the pool's own batches take turns. A future
    /// that is dropped gives its turn up.
    fn slot(&self) -> SlotFuture<'_>;
}

/// The future of a slot.
pub type SlotFuture<'a> = Pin<Box<dyn Future<Output = Option<SlotPermit>> + Send + 'a>>;

impl<I: Send + 'static, O: Send + 'static> Slots for Batcher<I, O> {
    fn slot(&self) -> SlotFuture<'_> {
        let given = self.shared.state.lock().guest();
        self.shared.happened.notify_one();
        Box::pin(async move { given.await.ok() })
    }
}

/// A slot of a pool that a batch of another one has, or a part of a divided one. Dropping it gives it back.
pub struct SlotPermit(Weak<dyn TakeBack>);

trait TakeBack: Send + Sync {
    fn take_back(&self);
}

impl<I: Send, O: Send> TakeBack for Shared<I, O> {
    fn take_back(&self) {
        self.state.lock().guests_left += 1;
        self.happened.notify_one();
    }
}

impl fmt::Debug for SlotPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SlotPermit")
    }
}

impl Drop for SlotPermit {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.take_back();
        }
    }
}

/// The state that a batcher, its task and its batches share.
struct Shared<I, O> {
    rule: SchedulerRule,
    pace: MakePace,
    send: SendBatch<I, O>,
    metrics: Metrics,
    state: Mutex<State<I, O>>,
    measured: Mutex<Measured>,
    /// Wakes the task: an item arrived, or a batch came back.
    happened: Notify,
}

struct State<I, O> {
    scheduler: Scheduler<Class, QueuedItem<I, O>>,
    /// Batches that came back since the scheduler's last decision; no more than were under way.
    returned: Vec<Back>,
    gauges: Gauges,
    /// Batches of other pools and parts of divided ones that wait for a slot, as many as the scheduler knows.
    guests: VecDeque<oneshot::Sender<SlotPermit>>,
    /// How many of them have given their slots back since the scheduler's last decision.
    guests_left: usize,
    /// Divided batches that are over since then: what each item costs, and what they took beyond the first request.
    charges: Vec<(Vec<(Tenant, u64)>, Further)>,
    /// Divided batches under way that have given their slots back.
    searches: usize,
}

impl<I, O> State<I, O> {
    /// Takes in one that waits for a slot.
    fn guest(&mut self) -> oneshot::Receiver<SlotPermit> {
        let (give, given) = oneshot::channel();
        self.scheduler.guest_arrives();
        self.guests.push_back(give);
        given
    }
}

/// A batch that came back.
struct Back {
    queue_id: QueueId<Class>,
    returned: Returned,
    at: Instant,
}

/// What is to be done, and what has passed its deadline.
struct Decision<I, O> {
    expired: Vec<QueuedItem<I, O>>,
    todo: Todo<I, O>,
}

enum Todo<I, O> {
    Next(Next<Class, QueuedItem<I, O>>),
    /// A guest gets a slot, if it is still there.
    Admit(Option<oneshot::Sender<SlotPermit>>),
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
            let Decision { expired, todo } = self.decide();
            if !expired.is_empty() {
                let refused = refuse(&expired, Rejected::Expired);
                self.metrics.refused("expired", refused);
            }
            match todo {
                Todo::Next(Next::Send(batch)) => self.launch(batch),
                Todo::Next(Next::WaitUntil(time)) => return Some(time),
                Todo::Next(Next::Idle) => return None,
                Todo::Admit(guest) => self.admit(guest),
            }
        }
    }

    fn decide(&self) -> Decision<I, O> {
        let mut state = self.state.lock();
        let State { scheduler, returned, gauges, guests, guests_left, charges, .. } = &mut *state;
        for (costs, further) in charges.drain(..) {
            scheduler.divided(&costs, &further);
        }
        for Back { queue_id, returned, at } in returned.drain(..) {
            scheduler.finished(&queue_id, &returned, at);
            if let Some(estimate) = scheduler.estimate() {
                gauges.set_measured(&estimate);
            }
        }
        for _ in 0..std::mem::take(guests_left) {
            scheduler.guest_left();
        }
        let now = Instant::now();
        let expired = scheduler.expire(now);
        let todo = if scheduler.admit_guest() {
            Todo::Admit(guests.pop_front())
        } else {
            match scheduler.next(now, |queued| queued.is_awaited(&self.metrics.withdrawn)) {
                // Nothing of the pool's own wants the slot, or not yet.
                Next::Idle | Next::WaitUntil(_) if scheduler.admit_guest() => Todo::Admit(guests.pop_front()),
                next => Todo::Next(next),
            }
        };
        gauges.set(scheduler.classes(), &scheduler.load());
        Decision { expired, todo }
    }

    /// Gives a slot to a guest. If it has gone in the meantime, the slot comes back.
    fn admit(self: &Arc<Self>, guest: Option<oneshot::Sender<SlotPermit>>) {
        let shared = Arc::downgrade(self);
        let permit = SlotPermit(shared);
        if let Some(guest) = guest {
            drop(guest.send(permit));
        }
    }

    /// Sends a batch. Each has a task of its own, so that a slow one doesn't hold up the others, and a panic ends only
    /// itself.
    fn launch(self: &Arc<Self>, batch: Batch<Class, QueuedItem<I, O>>) {
        let Batch { queue_id, items, why, costs, expected } = batch;
        let since = Instant::now();
        let (mut members, mut waits) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        let mut own_costs = Vec::with_capacity(items.len());
        // One that stands in the batch from two of its places is taken once.
        for (queued, cost) in items.iter().zip(costs) {
            if let Some(member) = queued.take() {
                members.push(member);
                waits.push(since.saturating_duration_since(queued.since));
                own_costs.push(cost);
            }
        }
        let is_alone = queue_id.is_alone();
        let (shared, further) = (Arc::downgrade(self), Further::default());
        let slot = Slot { shared, queue_id, costs: own_costs, since, came_back: None, has_passed: false, further };
        if members.is_empty() {
            // All were withdrawn just now. Dropping the slot gives it back.
            return;
        }
        self.metrics.sent(why, waits.into_iter());
        if is_alone {
            self.metrics.alone.inc();
        }
        tokio::spawn(carry(Arc::clone(&self.send), slot, members, Sending { why, expected }));
    }

    /// Takes in the items of one request, or refuses them. Returns whether they were taken in.
    fn take(&self, submission: Vec<(Class, Members<QueuedItem<I, O>>)>, now: Instant) -> bool {
        let taken = {
            let mut state = self.state.lock();
            let State { scheduler, gauges, .. } = &mut *state;
            let keep = |queued: &QueuedItem<I, O>| queued.is_awaited(&self.metrics.withdrawn);
            let taken = scheduler.arrive_together(submission, now, keep);
            gauges.set(scheduler.classes(), &scheduler.load());
            taken
        };
        self.happened.notify_one();
        let is_taken_in = taken.is_ok();
        if let Err(Refused { items, why, retry_after }) = taken {
            let (reason, rejected) = match why {
                Refusal::Full => ("queue-full", Rejected::QueueFull { retry_after }),
                Refusal::Late => ("deadline", Rejected::Late { retry_after }),
            };
            let refused = refuse(&items, rejected);
            self.metrics.refused(reason, refused);
        }
        is_taken_in
    }

    /// Takes in further places of items of a class that wait already.
    fn hasten(&self, class: &Class, places: Members<QueuedItem<I, O>>, now: Instant) {
        let items = places.len();
        if items == 0 {
            return;
        }
        let is_taken = {
            let mut state = self.state.lock();
            let State { scheduler, gauges, .. } = &mut *state;
            let is_taken = scheduler.hasten(class, places, now);
            gauges.set(scheduler.classes(), &scheduler.load());
            is_taken
        };
        if is_taken {
            self.metrics.hastened.inc_by(items as u64);
            self.happened.notify_one();
        }
    }

    /// Begins with an empty scheduler: the state of the other one may be inconsistent. What waits in it is rejected as
    /// lost.
    fn begin_anew(&self) {
        let fresh = Scheduler::new(self.rule, (self.pace)());
        let mut state = self.state.lock();
        let former = (std::mem::replace(&mut state.scheduler, fresh), std::mem::take(&mut state.guests));
        drop(state);
        drop(former);
    }
}

impl<I, O> Shared<I, O> {
    /// Notes how long a batch took, if it shows how long the model takes.
    fn measure(&self, items: usize, took: Duration, outcome: Outcome) {
        if outcome == Outcome::Responded {
            self.metrics.came_back(took);
            self.measured.lock().add(items, took);
        }
    }
}

/// A slot of the pool, while a batch has it. It is given back when the batch is divided, or else when its task ends,
/// however it ends.
struct Slot<I, O> {
    shared: Weak<Shared<I, O>>,
    queue_id: QueueId<Class>,
    /// What each item costs, and the tenant it counts for.
    costs: Vec<(Tenant, u64)>,
    since: Instant,
    came_back: Option<(Outcome, Duration, Option<Arc<str>>)>,
    /// Whether the batch is divided and has given it back.
    has_passed: bool,
    further: Further,
}

impl<I, O> Slot<I, O> {
    /// Notes how the batch went, whose time is over now.
    fn note(&mut self, outcome: Outcome, endpoint: Option<Arc<str>>) {
        self.came_back = Some((outcome, self.since.elapsed(), endpoint));
    }

    /// Returns what the scheduler is to know of the batch.
    fn back(&mut self, shared: &Shared<I, O>) -> Back {
        let came_back = self.came_back.take();
        let (outcome, took, endpoint) = came_back.unwrap_or_else(|| (Outcome::Lost, self.since.elapsed(), None));
        let (items, queue_id) = (self.costs.len(), self.queue_id.clone());
        shared.measure(items, took, outcome);
        Back { queue_id, returned: Returned { items, took, outcome, endpoint }, at: Instant::now() }
    }

    /// Has others take turns with the parts of the batch, which is divided: gives the slot back at once, and returns the
    /// turn of the next part. `None` if too many batches do so already, or there is no scheduler any more: then it has the
    /// slot that it had, if any.
    fn pass(&mut self, outcome: Outcome, endpoint: Option<Arc<str>>) -> Option<oneshot::Receiver<SlotPermit>> {
        let shared = self.shared.upgrade()?;
        let mut state = shared.state.lock();
        if !self.has_passed {
            if state.searches >= SEARCHES_MAX {
                return None;
            }
            self.note(outcome, endpoint);
            let back = self.back(&shared);
            state.returned.push(back);
            state.searches += 1;
            self.has_passed = true;
        }
        let turn = state.guest();
        drop(state);
        shared.happened.notify_one();
        Some(turn)
    }
}

impl<I, O> Drop for Slot<I, O> {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let back = (!self.has_passed).then(|| self.back(&shared));
        let (costs, further) = (std::mem::take(&mut self.costs), std::mem::take(&mut self.further));
        // The scheduler is notified by its own task: a pace that panics must not do so within another panic.
        let mut state = shared.state.lock();
        state.returned.extend(back);
        state.searches = state.searches.saturating_sub(usize::from(self.has_passed));
        if !further.requests.is_empty() {
            state.charges.push((costs, further));
        }
        drop(state);
        shared.happened.notify_one();
    }
}

/// Sends a batch and hands out its results, then gives its slot back. If there isn't one for each item, none is handed
/// out: which is whose is unknown. The channels are dropped then, which rejects the items as lost.
async fn carry<I, O>(send: SendBatch<I, O>, mut slot: Slot<I, O>, batch: Vec<(I, Reply<O>)>, sending: Sending) {
    let class = slot.queue_id.class.clone();
    let (items, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let mut progress = send(class, items, sending).await;
    let BatchResult { results, outcome, endpoint, further } = loop {
        progress = match progress {
            Progress::Over(result) => break result,
            Progress::Divided { outcome, endpoint, rest } => {
                let turn = slot.pass(outcome, endpoint);
                // Held until the part is back. There is none if the scheduler has begun anew.
                let _permit = match turn {
                    Some(turn) => turn.await.ok(),
                    None => None,
                };
                rest.await
            }
        };
    };
    slot.further = further;
    let (sent, returned) = (replies.len(), results.len());
    if returned != sent {
        let pool = &slot.queue_id.class.pool;
        tracing::error!(%pool, sent, returned, "a batch came back with the wrong number of results");
        return;
    }
    slot.note(outcome, endpoint);
    for (reply, result) in replies.into_iter().zip(results) {
        // It doesn't matter if the request has gone in the meantime.
        let _ = reply.send(Ok(result));
    }
}

/// Refuses items, and returns how many. Of those that had several places the others are left to be dropped.
fn refuse<I, O>(items: &[QueuedItem<I, O>], rejected: Rejected) -> usize {
    items.iter().filter(|queued| queued.refuse(rejected)).count()
}

#[cfg(test)]
mod tests;
