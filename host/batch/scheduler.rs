//! Which class of a pool gets the next free slot. Pure: events and the time are its arguments.
//!
//! The slots are the pool's, and its tenants share them: of those that have something waiting, the one that has been
//! served least by its weight is next. The classes in which a tenant has items stand in its line, as items stand in that
//! of their class: each takes a slot in its turn and then stands at the end again, so that none is kept out by another,
//! however many items that one has. A higher priority goes before what joined its line within the last second, and
//! before other tenants.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    time::{Duration, Instant},
};

use super::{
    backlog::Backlog,
    concurrency::Concurrency,
    former::{Former, FormerRule, Step, Terms, Turn},
    line::{Line, Rank},
    overdue::{Overdue, OverdueRule},
    pace::{Estimate, Offer, Pace, Returned, Why},
    shares::{Share, Shares, Tenant, by_tenant},
    surcharge::{Further, surcharge},
};
use crate::config;

#[cfg(test)]
mod tests;

/// A full queue is searched for items that no request waits for at most this often: under overload it would cost the
/// most when it helps least.
const SWEEP_EVERY: Duration = Duration::from_millis(10);

/// How long slots are left to tenants which want less than their share, since one of them asked last.
const GUARDED_FOR: Duration = Duration::from_secs(10);

/// The queue is searched for items that have passed their deadline at most this often.
const EXPIRE_EVERY: Duration = Duration::from_millis(1);

/// The limits of a pool's scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerRule {
    /// The limits of each class, and of the queue.
    pub former: FormerRule,
    /// Batches under way at once, of all classes together; fewer if the model gains nothing by them.
    pub concurrency: usize,
    /// How many may be under way in any case.
    pub concurrency_min: usize,
    /// Classes that wait or are under way at once. The items of one request that are of a further class are a class of
    /// their own, and each is sent alone.
    pub classes_max: usize,
    /// Tenants whose shares are told apart; further ones share one.
    pub tenants_max: usize,
    /// When a batch takes so long that its slot counts no more.
    pub overdue: OverdueRule,
    /// Slots that are left to tenants which want less than their share, as long as there are such.
    pub guard: usize,
}

impl From<config::Batch> for SchedulerRule {
    fn from(batch: config::Batch) -> Self {
        let config::Batch {
            size_max,
            bytes_max,
            padded,
            wait_max,
            queue_max,
            concurrency,
            concurrency_min,
            classes_max,
            tenants_max,
            overdue_factor,
            overdue_least,
            guard,
            endpoints,
            ..
        } = batch;
        let former = FormerRule { size_max, bytes_max, padded, wait_max, queue_max };
        // One for each endpoint, but the last one that works.
        let overlooked_max = endpoints.saturating_sub(1);
        let overdue = OverdueRule { factor: overdue_factor, least: overdue_least, overlooked_max };
        Self { former, concurrency, concurrency_min, classes_max, tenants_max, overdue, guard }
    }
}

/// The classes of one pool, what waits in each, and how many batches are under way. A class is known only as long as
/// something of it waits or is under way.
pub struct Scheduler<K, T> {
    rule: SchedulerRule,
    pace: Box<dyn Pace>,
    classes: HashMap<QueueId<K>, Former<T>>,
    /// The classes in which a tenant has something waiting, or had until it was dropped.
    lines: BTreeMap<Tenant, Line<QueueId<K>>>,
    shares: Shares,
    backlog: Backlog,
    concurrency: Concurrency,
    under_way: usize,
    /// Those of them that take far longer than expected, and how many of these count no more.
    overdue: Overdue,
    overlooked: usize,
    /// Until when slots are left to tenants that want less than their share.
    guarded_until: Option<Instant>,
    /// A batch came back while items were waiting, and none was sent since.
    freed: bool,
    /// Since when a slot has been free; `None` while none is.
    free_since: Option<Instant>,
    /// Items that the pace wasn't told of yet: by class, when, how many.
    arrived: Vec<(u64, Instant, usize)>,
    /// Makes the numbers of classes for the pace.
    hasher: RandomState,
    guests: Guests,
    /// Classes of items that are sent alone, and how many there have ever been.
    alone: usize,
    numbered: u64,
    swept: Option<Instant>,
    /// No deadline of an item that waits is earlier.
    expires: Option<Instant>,
    expired: Option<Instant>,
}

/// Batches of other pools that want a slot of this one.
#[derive(Clone, Copy, Debug, Default)]
struct Guests {
    waiting: usize,
    /// Whether one got the last slot that was given away.
    had_turn: bool,
}

/// The identity of a queue: a class's, or that of items which are sent alone because there are too many classes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueId<K> {
    /// The class.
    pub class: K,
    /// The number of its items, if they are sent alone.
    alone: Option<u64>,
}

impl<K> QueueId<K> {
    /// Whether it is that of items which are sent alone.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.alone.is_some()
    }
}

/// A batch to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<K, T> {
    /// The queue that it is from, for [`Scheduler::finished`].
    pub queue_id: QueueId<K>,
    /// Its items; never empty.
    pub items: Vec<T>,
    /// Why it is sent now.
    pub why: Why,
    /// What each item costs, and the tenant it counts for, for [`Scheduler::divided`].
    pub costs: Vec<(Tenant, u64)>,
    /// How long batches like it took of late; `None` if that isn't known.
    pub expected: Option<Duration>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<K, T> {
    /// Send this batch, and decide again; call [`Scheduler::finished`] when it is back.
    Send(Batch<K, T>),
    /// Decide again then, unless something happens before.
    WaitUntil(Instant),
    /// Nothing can be done until something happens: nothing waits, or every slot is taken.
    Idle,
}

/// A request is refused as a whole, before any of its items is sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused<T> {
    /// Its items.
    pub items: Vec<T>,
    /// Why it is refused.
    pub why: Refusal,
    /// When what waits now will have been served, in whole seconds from 1 to 60.
    pub retry_after: Duration,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full, and the tenant has its share of it.
    Full,
    /// It can't be served before its deadline.
    Late,
}

impl<K: Clone + Eq + Hash, T> Scheduler<K, T> {
    /// Returns a scheduler that has nothing to do yet.
    #[must_use]
    pub fn new(rule: SchedulerRule, pace: Box<dyn Pace>) -> Self {
        // A zero would keep items waiting for ever, or out.
        let former = FormerRule {
            size_max: rule.former.size_max.max(1),
            queue_max: rule.former.queue_max.max(1),
            ..rule.former
        };
        let rule = SchedulerRule { former, concurrency: rule.concurrency.max(1), ..rule };
        Self {
            rule,
            pace,
            classes: HashMap::new(),
            lines: BTreeMap::new(),
            shares: Shares::new(rule.tenants_max, former.bytes_max as u64),
            backlog: Backlog::new(former.size_max),
            concurrency: Concurrency::new(rule.concurrency_min, rule.concurrency),
            under_way: 0,
            overdue: Overdue::new(rule.overdue),
            overlooked: 0,
            guarded_until: None,
            freed: false,
            free_since: None,
            arrived: Vec::new(),
            hasher: RandomState::new(),
            guests: Guests::default(),
            alone: 0,
            numbered: 0,
            swept: None,
            expires: None,
            expired: None,
        }
    }

    /// Takes in a request of one item; see [`Scheduler::arrive_together`].
    ///
    /// # Errors
    /// [`Refused`] with the item.
    pub fn arrive(
        &mut self,
        class: &K,
        item: T,
        terms: Terms,
        now: Instant,
        keep: impl FnMut(&T) -> bool,
    ) -> Result<(), Refused<T>> {
        self.arrive_together(vec![(class.clone(), vec![(item, terms)])], now, keep)
    }

    /// Takes in the items of one request by their classes, each once; their wait counts from `now`. They are all of the
    /// first one's tenant, with its weight. As long as the queue isn't full, or the tenant has less than its share of it,
    /// a request is taken in however many items it has: of those of a class, only as many as two batches may have take
    /// places, so that it is served in pieces. In a full queue room is made by dropping items that `keep` is false for.
    /// Further items of a request that was taken in before ([`Terms::admitted`]) have places in any case: there are no
    /// more of them than the request has items.
    ///
    /// # Errors
    /// [`Refused`] with all items, if there is no room, or the deadline of one can't be met.
    pub fn arrive_together(
        &mut self,
        groups: Vec<(K, Vec<(T, Terms)>)>,
        now: Instant,
        keep: impl FnMut(&T) -> bool,
    ) -> Result<(), Refused<T>> {
        let Some((_, first)) = groups.iter().flat_map(|(_, items)| items).next() else { return Ok(()) };
        let (tenant, weight, is_admitted) = (self.shares.row_of(first.tenant), first.weight, first.admitted);
        if !is_admitted && !self.has_room(tenant) {
            self.sweep(now, keep);
        }
        let why = if is_admitted {
            None
        } else if !self.has_room(tenant) {
            Some(Refusal::Full)
        } else {
            groups.iter().any(|(class, items)| self.is_late(tenant, class, items, now)).then_some(Refusal::Late)
        };
        if let Some(why) = why {
            let items: Vec<T> = groups.into_iter().flat_map(|(_, items)| items).map(|(item, _)| item).collect();
            let waiting = self.shares.items() + items.len();
            let retry_after = self.backlog.retry_after(waiting, self.slots(), self.pace.estimate().as_ref());
            return Err(Refused { items, why, retry_after });
        }
        self.shares.weigh(tenant, weight);
        if self.rule.guard > 0 && self.shares.is_light(tenant) {
            self.guarded_until = Some(now + GUARDED_FOR);
        }
        for (class, items) in groups {
            if !items.is_empty() {
                note(&mut self.arrived, self.hasher.hash_one(&class), now, items.len());
                self.take_in(tenant, class, items, now);
            }
        }
        Ok(())
    }

    /// Takes in further places of items that wait already in a class: those that another request for them would have
    /// had. They are no arrivals for the pace. Returns whether there was room for them, which they share with the other
    /// items of their tenant; those of a class of which nothing waits have none.
    pub fn hasten(&mut self, class: &K, items: Vec<(T, Terms)>, now: Instant) -> bool {
        let Some((_, first)) = items.first() else { return false };
        let (tenant, weight) = (self.shares.row_of(first.tenant), first.weight);
        let queue_id = QueueId { class: class.clone(), alone: None };
        if !self.has_room(tenant) || !self.classes.contains_key(&queue_id) {
            return false;
        }
        self.shares.weigh(tenant, weight);
        self.take_in(tenant, queue_id.class, items, now);
        true
    }

    fn has_room(&self, tenant: Tenant) -> bool {
        self.shares.has_room(tenant, self.rule.former.queue_max)
    }

    /// Whether the first deadline of these items passes before all of them could be served, even if everything that
    /// isn't certain went well. With nothing to do, a pool tries: how fast it is now is known only then.
    fn is_late(&self, tenant: Tenant, class: &K, items: &[(T, Terms)], now: Instant) -> bool {
        let Some(rank) = items.iter().map(|(_, terms)| terms.rank()).reduce(Rank::best) else {
            return false;
        };
        let Some(deadline) = items.iter().filter_map(|(_, terms)| terms.late_from()).min() else {
            return false;
        };
        if deadline <= now || self.under_way == 0 && self.shares.items() == 0 {
            return deadline <= now;
        }
        let queue_id = QueueId { class: class.clone(), alone: None };
        let own = self.classes.get(&queue_id).map_or(0, |former| former.ahead(tenant, rank, now));
        // Others take turns by their weights until then, as far as they have anything waiting.
        let ahead = self.shares.until_sent(tenant, own);
        let estimate = self.pace.estimate();
        let finish = self.backlog.finish(ahead + items.len(), self.slots(), estimate.as_ref()).unwrap_or_default();
        now + finish > deadline
    }

    fn take_in(&mut self, tenant: Tenant, class: K, mut items: Vec<(T, Terms)>, now: Instant) {
        let ranks = items.iter().map(|(_, terms)| terms.rank());
        let Some(rank) = ranks.reduce(Rank::best) else { return };
        let deadline = items.iter().filter_map(|(_, terms)| terms.deadline).min();
        self.expires = [self.expires, deadline].into_iter().flatten().min();
        let queue_id = self.queue_for(class);
        if queue_id.is_alone() {
            items.iter_mut().for_each(|(_, terms)| terms.size_max = Some(1));
        }
        let former = self.classes.entry(queue_id.clone()).or_insert_with(|| Former::new(self.rule.former));
        former.arrive(tenant, items, now, &mut self.shares);
        let line = self.lines.entry(tenant).or_insert_with(Line::new);
        match former.in_line(tenant) {
            Some(known) if !rank.precedes(known) => {}
            Some(_) => {
                former.set_in_line(tenant, Some(rank));
                if let Some(at) = line.position(|other| *other == queue_id) {
                    line.raise(at, rank, now);
                }
            }
            None => {
                former.set_in_line(tenant, Some(rank));
                line.join(queue_id, rank, now);
            }
        }
    }

    /// Returns the queue for the items of a class.
    fn queue_for(&mut self, class: K) -> QueueId<K> {
        let queue_id = QueueId { class, alone: None };
        if self.classes.contains_key(&queue_id) || self.classes() < self.rule.classes_max {
            return queue_id;
        }
        self.alone += 1;
        self.numbered += 1;
        QueueId { alone: Some(self.numbered), ..queue_id }
    }

    /// Drops the items that `keep` is false for, if that wasn't done just now.
    fn sweep(&mut self, now: Instant, mut keep: impl FnMut(&T) -> bool) {
        if is_due(&mut self.swept, now, SWEEP_EVERY) {
            for former in self.classes.values_mut() {
                former.sweep(&mut self.shares, &mut keep);
            }
        }
    }

    /// Takes out the items that have passed their deadlines. They are to be refused: a result would come too late.
    pub fn expire(&mut self, now: Instant) -> Vec<T> {
        let mut expired = Vec::new();
        if self.expires.is_some_and(|expires| expires <= now) && is_due(&mut self.expired, now, EXPIRE_EVERY) {
            for former in self.classes.values_mut() {
                former.expire(now, &mut self.shares, &mut expired);
            }
            self.expires = self.classes.values().filter_map(Former::first_deadline).min();
        }
        expired
    }

    /// Returns what to do now. It is to be called after anything happened, until it no longer returns [`Next::Send`].
    /// An item that `keep` is false for is dropped instead of sent; the decision is then made anew without it.
    pub fn next(&mut self, now: Instant, mut keep: impl FnMut(&T) -> bool) -> Next<K, T> {
        for (class, at, items) in self.arrived.drain(..) {
            self.pace.on_arrival(class, at, items);
        }
        // Guests come and go without saying when.
        self.overlooked = self.overdue.overlooked(now);
        self.concurrency.observe(self.taken(), now);
        let expires = self.expires.map(|at| self.expired.map_or(at, |expired| at.max(expired + EXPIRE_EVERY)));
        let patience = self.concurrency.patience(self.taken(), now);
        // What waits while no slot is free has one when a batch is overdue.
        let overdue = self.overdue.next(now).filter(|_| self.is_wanted() && self.taken() >= self.slots());
        let mut wake = [expires, patience, overdue].into_iter().flatten().min();
        if let Some(slot) = self.free_slot(now) {
            let (guard, mut waiting): (usize, Vec<QueueId<K>>) = (self.guard(now), Vec::new());
            for tenant in self.tenants(now) {
                let guarded = guard > 0 && self.shares.is_light(tenant);
                if !guarded && slot.free <= guard {
                    wake = [wake, self.guarded_until].into_iter().flatten().min();
                    continue;
                }
                match self.offer(slot, (tenant, guarded), now, &mut waiting, &mut keep) {
                    Step::Send { items, why, costs } => {
                        // The last one that was asked is the one that sends.
                        let Some(queue_id) = waiting.pop() else { break };
                        self.left(&queue_id, items.len(), &by_tenant(&costs), now);
                        let class = self.hasher.hash_one(&queue_id.class);
                        let expected = self.pace.typical(class, items.len());
                        self.overdue.sent(class, expected, now);
                        return Next::Send(Batch { queue_id, items, why, costs, expected });
                    }
                    Step::WaitUntil(time) => wake = Some(wake.map_or(time, |wake| wake.min(time))),
                    Step::Idle => {}
                }
            }
        }
        wake.map_or(Next::Idle, Next::WaitUntil)
    }

    /// Returns a slot that is free, as it is offered to each class in turn; `None` if none is.
    fn free_slot(&mut self, now: Instant) -> Option<Offer> {
        let slots = self.slots();
        let free = slots.checked_sub(self.taken()).filter(|free| *free > 0)?;
        let since = *self.free_since.get_or_insert(now);
        Some(Offer { class: 0, since, free, slots, freed: self.freed })
    }

    /// Returns how many batches may be under way now.
    fn slots(&self) -> usize {
        self.concurrency.slots()
    }

    /// Returns how many slots are taken: by all batches under way, but for those that count no more.
    const fn taken(&self) -> usize {
        self.under_way.saturating_sub(self.overlooked)
    }

    /// Whether a batch of this pool or of another one wants a slot.
    fn is_wanted(&self) -> bool {
        !self.lines.is_empty() || self.guests.waiting > 0
    }

    /// Notes that a slot was given away.
    fn take_slot(&mut self) {
        self.under_way += 1;
        if self.taken() >= self.slots() {
            self.free_since = None;
        }
    }

    /// Returns the tenants in the order of their turns.
    fn tenants(&self, now: Instant) -> Vec<Tenant> {
        let heads = || self.lines.iter().filter_map(|(tenant, line)| Some((*tenant, line.get(0)?)));
        let top = heads().map(|(_, entry)| entry.rank.priority).max().unwrap_or_default();
        let mut tenants: Vec<_> = heads()
            .map(|(tenant, entry)| (Reverse(entry.level(top, now)), self.shares.standing(tenant), tenant))
            .collect();
        tenants.sort_unstable();
        tenants.into_iter().map(|(.., tenant)| tenant).collect()
    }

    /// Returns how many of the free slots are left to tenants that want less than their share.
    fn guard(&self, now: Instant) -> usize {
        let is_on = self.guarded_until.is_some_and(|until| now < until);
        if is_on { self.rule.guard.min(self.slots().saturating_sub(1)) } else { 0 }
    }

    /// Offers a free slot to the classes in a tenant's line, but for those that have been asked. Returns what the first
    /// one that sends does, or until when all of them wait. Beside the tenant is whether the batch is for such as want
    /// less than their share only.
    fn offer(
        &mut self,
        slot: Offer,
        (tenant, guarded): (Tenant, bool),
        now: Instant,
        asked: &mut Vec<QueueId<K>>,
        mut keep: impl FnMut(&T) -> bool,
    ) -> Step<T> {
        let crowded = self.shares.places() >= self.rule.former.queue_max;
        let (mut at, mut wake): (usize, Option<Instant>) = (0, None);
        while let Some(entry) = self.lines.get(&tenant).and_then(|line| line.get(at)) {
            if asked.contains(&entry.what) {
                at += 1;
                continue;
            }
            let queue_id = entry.what.clone();
            let offer = Offer { class: self.hasher.hash_one(&queue_id.class), ..slot };
            let turn = Turn { now, tenant, offer, crowded, guarded };
            let former = self.classes.get_mut(&queue_id).filter(|former| former.rank(tenant).is_some());
            let step =
                former.map_or(Step::Idle, |former| former.next(&turn, &mut *self.pace, &mut self.shares, &mut keep));
            match step {
                Step::Send { .. } => {
                    asked.push(queue_id);
                    return step;
                }
                Step::WaitUntil(time) => {
                    wake = Some(wake.map_or(time, |wake| wake.min(time)));
                    asked.push(queue_id);
                    at += 1;
                }
                Step::Idle => self.requeue(tenant, &queue_id, now),
            }
        }
        wake.map_or(Step::Idle, Step::WaitUntil)
    }

    /// Notes that a batch of this queue was sent; what else its tenants have waiting there joins their lines again.
    fn left(&mut self, queue_id: &QueueId<K>, items: usize, served: &[(Tenant, u64)], now: Instant) {
        let served = &self.charged(items, served)[..];
        self.take_slot();
        self.concurrency.observe(self.taken(), now);
        self.freed = false;
        self.guests.had_turn = false;
        self.shares.serve(served);
        if self.shares.items() >= self.rule.former.size_max {
            self.backlog.on_full(items);
        }
        for (tenant, _) in served {
            self.requeue(*tenant, queue_id, now);
        }
    }

    /// Returns what a batch of so many items costs its tenants. It is no less than its share of the time that a full one
    /// takes: a slot is as taken by a single item that can't share a batch.
    fn charged(&self, items: usize, served: &[(Tenant, u64)]) -> Vec<(Tenant, u64)> {
        let sum: u64 = served.iter().map(|(_, cost)| *cost).sum();
        let least = self.least_cost(items);
        let scaled =
            |cost: u64| if sum == 0 || sum >= least { cost } else { (cost as f64 / sum as f64 * least as f64) as u64 };
        served.iter().map(|(tenant, cost)| (*tenant, scaled(*cost))).collect()
    }

    /// Returns what a request of so many items costs at least, by the time that it takes.
    fn least_cost(&self, items: usize) -> u64 {
        self.pace.estimate().map_or(0, |estimate| self.rule.former.least_cost(items, &estimate))
    }

    /// Charges the requests that a batch with these costs took beyond the first, because it was divided: to the tenants
    /// whose items were at fault.
    pub fn divided(&mut self, costs: &[(Tenant, u64)], further: &Further) {
        let charges = surcharge(costs, further, |items, cost| cost.max(self.least_cost(items)));
        self.shares.surcharge(&charges);
    }

    /// Puts a queue at the end of a tenant's line, or out of it if nothing of the tenant's waits there any more.
    fn requeue(&mut self, tenant: Tenant, queue_id: &QueueId<K>, now: Instant) {
        let Some(line) = self.lines.get_mut(&tenant) else { return };
        if let Some(at) = line.position(|other| other == queue_id) {
            line.remove(at);
        }
        let former = self.classes.get_mut(queue_id);
        let rank = former.as_ref().and_then(|former| former.rank(tenant));
        if let Some(rank) = rank {
            line.join(queue_id.clone(), rank, now);
        } else if line.is_empty() {
            self.lines.remove(&tenant);
        }
        if let Some(former) = former {
            former.set_in_line(tenant, rank);
            if former.is_idle() {
                self.forget(queue_id);
            }
        }
    }

    fn forget(&mut self, queue_id: &QueueId<K>) {
        if self.classes.remove(queue_id).is_some() && queue_id.is_alone() {
            self.alone -= 1;
        }
    }

    /// Notes that a batch of this queue came back at `at`: its slot is free.
    pub fn finished(&mut self, queue_id: &QueueId<K>, returned: &Returned, at: Instant) {
        let class = self.hasher.hash_one(&queue_id.class);
        self.pace.on_batch(class, returned, at);
        self.concurrency.observe(self.taken(), at);
        self.concurrency.on_batch(class, returned, at, &*self.pace);
        self.under_way = self.under_way.saturating_sub(1);
        self.overdue.back(class, at.checked_sub(returned.took).unwrap_or(at));
        self.overlooked = self.overdue.overlooked(at);
        self.concurrency.observe(self.taken(), at);
        if self.taken() < self.slots() {
            self.free_since.get_or_insert(at);
        } else {
            // There are fewer than there were.
            self.free_since = None;
        }
        self.freed = !self.lines.is_empty();
        if let Some(former) = self.classes.get_mut(queue_id) {
            former.finished();
            if former.is_idle() {
                self.forget(queue_id);
            }
        }
        self.backlog.on_batch(returned);
    }

    /// Returns what the pace has measured, if it measures anything.
    #[must_use]
    pub fn estimate(&self) -> Option<Estimate> {
        self.pace.estimate()
    }

    /// Notes that a batch of another pool wants a slot of this one.
    pub fn guest_arrives(&mut self) {
        self.guests.waiting += 1;
    }

    /// Gives a free slot to a guest, if one waits whose turn it is; guests and the pool's own batches take turns. Call
    /// [`Scheduler::guest_left`] when it is done.
    pub fn admit_guest(&mut self) -> bool {
        let is_its_turn = !self.guests.had_turn || self.lines.is_empty();
        let is_admitted = self.guests.waiting > 0 && self.taken() < self.slots() && is_its_turn;
        if is_admitted {
            self.guests = Guests { waiting: self.guests.waiting - 1, had_turn: true };
            self.take_slot();
        }
        is_admitted
    }

    /// Notes that a guest has done with its slot.
    pub fn guest_left(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.freed = !self.lines.is_empty();
    }

    /// Returns the number of classes of which something waits or is under way, without those of items that are sent
    /// alone.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes.len() - self.alone
    }

    /// Returns what waits, and for whom.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            items: self.shares.items(),
            tenants: self.shares.active(),
            largest_share: self.shares.largest(),
            slots: self.slots(),
        }
    }

    /// Returns the tenants that were served most, those first, at most so many.
    pub(super) fn top_tenants(&self, tenants: usize) -> Vec<Share> {
        self.shares.top(tenants)
    }

    /// Whether nothing is waiting and nothing under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.shares.items() == 0 && self.under_way == 0
    }
}

/// What waits in a scheduler, and for whom.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Items that wait.
    pub items: usize,
    /// Tenants that have items waiting.
    pub tenants: usize,
    /// The largest share that one tenant had of what was served last, by cost, over 64 full batches; 0 before.
    pub largest_share: f64,
    /// Batches that may be under way.
    pub slots: usize,
}

/// Notes items for the pace; those that arrive at the same time are noted together.
fn note(arrived: &mut Vec<(u64, Instant, usize)>, class: u64, now: Instant, items: usize) {
    match arrived.last_mut() {
        Some((last, at, known)) if (*last, *at) == (class, now) => *known += items,
        _ => arrived.push((class, now, items)),
    }
}

/// Whether something that was last done at `last` is done again; if so, that is noted.
fn is_due(last: &mut Option<Instant>, now: Instant, every: Duration) -> bool {
    let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= every);
    if is_due {
        *last = Some(now);
    }
    is_due
}

impl<K, T> fmt::Debug for Scheduler<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, pace, under_way, .. } = self;
        f.debug_struct("Scheduler")
            .field("rule", rule)
            .field("pace", pace)
            .field("under_way", under_way)
            .finish_non_exhaustive()
    }
}
