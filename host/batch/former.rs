//! The queue of one class: which items share a batch, and in which order. Pure: events and the time are its arguments.
//! Whether there is a slot for a batch is decided by the pool's `scheduler`, and when it is sent by its pace.
//!
//! The items of one request are a *party*. Those of each tenant stand in line; one of which a batch took items stands at
//! the end again with the rest, so that a list doesn't keep out what comes after it. Of several tenants, the next item
//! is of the one that has been served least by its weight.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    line::{Entry, Line, Rank},
    pace::{Estimate, Offer, Outlook, Pace, Verdict, Why},
    shares::{Shares, Standing, Tenant, Weight},
};

/// Batches of the longest size among which similar items are looked for.
const LOOK_AHEAD: usize = 8;

/// Full batches of a party that take places in the queue; the rest of it waits with its request.
const PARTY_BATCHES: usize = 2;

/// The limits of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerRule {
    /// Items of one batch.
    pub size_max: usize,
    /// Bytes of one batch's items; an item that is larger is sent alone.
    pub bytes_max: usize,
    /// Whether the model pads each item to the longest of its batch: then a batch counts as its longest item times
    /// their number, and items of similar size are sent together.
    pub padded: bool,
    /// How long the oldest item may wait for others while a slot is free.
    pub wait_max: Duration,
    /// Items waiting in all classes together; requests beyond are refused.
    pub queue_max: usize,
}

/// The queue of one class and how many batches of it are under way.
#[derive(Debug)]
pub(super) struct Former<T> {
    rule: FormerRule,
    queues: BTreeMap<Tenant, TenantQueue<T>>,
    items: usize,
    under_way: usize,
}

/// The terms on which an item is batched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What it counts for in [`FormerRule::bytes_max`].
    pub bytes: usize,
    /// Higher ones are sent first: an item is overtaken by those, in its first second.
    pub priority: u8,
    /// The tenant that it is served for.
    pub tenant: Tenant,
    /// What that tenant counts for beside others.
    pub weight: Weight,
    /// Within a priority and a tenant, earlier ones are sent first. An item that is still waiting then is not sent, and
    /// a request whose items can't be back by then is refused as late.
    pub deadline: Option<Instant>,
    /// A request whose items can't be back by then is refused as late. What was taken in stays: others may wait for the
    /// item, too.
    pub late_by: Option<Instant>,
    /// Until when its request waits. It orders as the deadline does, and nothing else: others may wait for the item,
    /// too, and that a client gives up early doesn't make a pool late.
    pub wanted_by: Option<Instant>,
    /// Bounds its wait, beside [`FormerRule::wait_max`].
    pub wait_max: Option<Duration>,
    /// Bounds the batch that it is in, beside [`FormerRule::size_max`].
    pub size_max: Option<usize>,
    /// Its request was taken in before, and items of it may have been sent: it has a place though the queue is full,
    /// and isn't refused as late.
    pub admitted: bool,
}

impl Terms {
    /// Returns the time before which the item should be back: what is sent first within a priority and a tenant.
    pub(super) fn back_by(&self) -> Option<Instant> {
        [self.deadline, self.wanted_by].into_iter().flatten().min()
    }

    /// Returns the time from which on its result is late.
    pub(super) fn late_from(&self) -> Option<Instant> {
        [self.deadline, self.late_by].into_iter().flatten().min()
    }

    /// Returns its rank among others.
    pub(super) fn rank(&self) -> Rank {
        Rank::of(self.priority, self.back_by())
    }
}

/// What a tenant has waiting in a class.
#[derive(Debug)]
struct TenantQueue<T> {
    parties: Line<Party<T>>,
    /// The rank by which the class waits for its turn in the tenant's line.
    in_line: Option<Rank>,
}

impl<T> Default for TenantQueue<T> {
    fn default() -> Self {
        Self { parties: Line::new(), in_line: None }
    }
}

/// Items of one request and of one priority; never empty while it stands in line.
#[derive(Debug)]
struct Party<T> {
    arrived: Instant,
    items: VecDeque<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    terms: Terms,
}

/// A free slot, as the scheduler offers it to a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) now: Instant,
    /// The tenant whose turn it is: its first item is in the batch.
    pub(super) tenant: Tenant,
    /// The slot.
    pub(super) offer: Offer,
    /// Whether the queue can't grow.
    pub(super) crowded: bool,
    /// Whether the batch is for tenants that want less than their share, and is filled with items of no other.
    pub(super) guarded: bool,
}

/// What to do with a slot that is free.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<T> {
    /// Send these together, in this order; call [`Former::finished`] when they are back.
    Send {
        /// The batch; never empty.
        items: Vec<T>,
        /// Why now.
        why: Why,
        /// What each costs, and the tenant it counts for, in their order.
        costs: Vec<(Tenant, u64)>,
    },
    /// Decide again then, unless something happens before.
    WaitUntil(Instant),
    /// Nothing waits.
    Idle,
}

impl<T> Former<T> {
    /// Returns a former with an empty queue.
    pub(super) fn new(rule: FormerRule) -> Self {
        // A zero would keep items waiting for ever.
        let rule = FormerRule { size_max: rule.size_max.max(1), ..rule };
        Self { rule, queues: BTreeMap::new(), items: 0, under_way: 0 }
    }

    /// Takes in items of one request; their wait counts from `now`.
    pub(super) fn arrive(&mut self, tenant: Tenant, items: Vec<(T, Terms)>, now: Instant, shares: &mut Shares) {
        let mut parties: Vec<(Rank, Party<T>)> = Vec::with_capacity(1);
        for (item, terms) in items {
            let rank = terms.rank();
            match parties.iter_mut().find(|(known, _)| known.priority == rank.priority) {
                Some((best, party)) => {
                    *best = best.best(rank);
                    party.items.push_back(Waiting { item, terms });
                }
                None => parties.push((rank, Party { arrived: now, items: VecDeque::from([Waiting { item, terms }]) })),
            }
        }
        parties.sort_by_key(|(rank, _)| Reverse(rank.priority));
        let queue = self.queues.entry(tenant).or_default();
        for (rank, party) in parties {
            self.items += party.items.len();
            shares.enter(tenant, party.items.len(), self.rule.places(party.items.len()));
            queue.parties.join(party, rank, now);
        }
    }

    /// Notes that a batch of this class came back.
    pub(super) fn finished(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Returns what to do with a slot that is free. An item that `keep` is false for is dropped instead of sent; the
    /// decision is then made anew without it.
    pub(super) fn next(
        &mut self,
        turn: &Turn,
        pace: &mut dyn Pace,
        shares: &mut Shares,
        mut keep: impl FnMut(&T) -> bool,
    ) -> Step<T> {
        let Turn { now, offer, .. } = *turn;
        while let Some(NextBatch { picks, size_max, full, times: Times { since, due, deadline } }) =
            self.next_batch(turn, shares)
        {
            let (items, under_way) = (picks.len(), self.under_way);
            let outlook = Outlook { items, size_max, since, due, full, under_way, deadline, offer, now };
            let why = match pace.next(&outlook) {
                Verdict::Send(why) => why,
                Verdict::WaitUntil(time) if time.min(due) > now => return Step::WaitUntil(time.min(due)),
                Verdict::WaitUntil(_) => Why::Due,
            };
            let gone: Vec<Pick> =
                picks.iter().filter(|pick| !self.get(**pick).is_some_and(&mut keep)).copied().collect();
            if gone.is_empty() {
                self.under_way += 1;
                let costs = self.costs(&picks);
                return Step::Send { items: self.take(&picks, now, shares), why, costs };
            }
            self.remove(&gone, shares);
            self.tidy();
        }
        Step::Idle
    }

    /// Drops what waits and `keep` is false for.
    pub(super) fn sweep(&mut self, shares: &mut Shares, mut keep: impl FnMut(&T) -> bool) {
        self.edit(shares, |items| items.retain(|waiting| keep(&waiting.item)));
    }

    /// Takes out what has passed its deadline.
    pub(super) fn expire(&mut self, now: Instant, shares: &mut Shares, expired: &mut Vec<T>) {
        let is_past = |waiting: &Waiting<T>| waiting.terms.deadline.is_some_and(|deadline| deadline <= now);
        self.edit(shares, |items| {
            if items.iter().any(is_past) {
                let (past, rest): (VecDeque<_>, VecDeque<_>) = std::mem::take(items).into_iter().partition(is_past);
                expired.extend(past.into_iter().map(|waiting| waiting.item));
                *items = rest;
            }
        });
    }

    /// Returns the first deadline of what waits.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        let parties = self.queues.values().flat_map(|queue| queue.parties.iter());
        parties.flat_map(|entry| &entry.what.items).filter_map(|waiting| waiting.terms.deadline).min()
    }

    /// Lets `edit` take items out of each party.
    fn edit(&mut self, shares: &mut Shares, mut edit: impl FnMut(&mut VecDeque<Waiting<T>>)) {
        for (tenant, queue) in &mut self.queues {
            for entry in queue.parties.iter_mut() {
                let items = &mut entry.what.items;
                let before = items.len();
                edit(items);
                self.items -= before - items.len();
                self.rule.left(shares, *tenant, before, items.len());
            }
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        for queue in self.queues.values_mut() {
            queue.parties.retain(|party| !party.items.is_empty());
        }
    }

    /// Whether nothing is waiting, no tenant's line has the class in it, and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.is_empty() && self.under_way == 0
    }

    /// Returns the rank by which the class waits in a tenant's line; `None` if it doesn't.
    pub(super) fn in_line(&self, tenant: Tenant) -> Option<Rank> {
        self.queues.get(&tenant).and_then(|queue| queue.in_line)
    }

    /// Notes the rank by which the class waits in a tenant's line. Without one nothing of the tenant's may be waiting.
    pub(super) fn set_in_line(&mut self, tenant: Tenant, rank: Option<Rank>) {
        match (rank, self.queues.get_mut(&tenant)) {
            (Some(_), Some(queue)) => queue.in_line = rank,
            (None, Some(_)) => drop(self.queues.remove(&tenant)),
            (_, None) => {}
        }
    }

    /// Returns the highest rank of what the tenant has in the batch that would be sent next; `None` if nothing waits.
    pub(super) fn rank(&self, tenant: Tenant) -> Option<Rank> {
        let mut items = 0;
        let is_next = |entry: &&Entry<Party<T>>| {
            let is_next = items < self.rule.size_max;
            items += entry.what.items.len();
            is_next
        };
        self.queues.get(&tenant)?.parties.iter().take_while(is_next).map(|entry| entry.rank).reduce(Rank::best)
    }

    /// Returns the number of a tenant's items that stand before one of this rank that arrives now.
    pub(super) fn ahead(&self, tenant: Tenant, rank: Rank, now: Instant) -> usize {
        let Some(TenantQueue { parties, .. }) = self.queues.get(&tenant) else { return 0 };
        let before = parties.overtaking(parties.len(), rank, now);
        parties.iter().take(before).map(|entry| entry.what.items.len()).sum()
    }

    /// Returns the batch that would be sent now; `None` if nothing waits.
    fn next_batch(&self, turn: &Turn, shares: &Shares) -> Option<NextBatch> {
        let mut batch =
            Gathering { rule: self.rule, picks: Vec::new(), bytes: 0, longest: 0, size_max: self.rule.size_max };
        let mut order = Order::of(self, turn, shares);
        let mut times: Option<Times> = None;
        let mut add = |batch: &mut Gathering, member: &Member| {
            let is_added = batch.add(member);
            if is_added {
                let own = self.times(member, turn);
                times = Some(times.map_or(own, |times| times.earliest(own)));
            }
            is_added
        };
        add(&mut batch, &order.next()?);
        if self.rule.padded {
            for member in similar(batch.longest, order.take(self.rule.size_max.saturating_mul(LOOK_AHEAD))) {
                add(&mut batch, &member);
            }
        } else {
            while order.next().is_some_and(|member| add(&mut batch, &member)) {}
        }
        let items = batch.picks.len();
        let full = items == batch.size_max || items < self.items || batch.bytes >= self.rule.bytes_max;
        let (size_max, full) = (batch.size_max, full || turn.crowded);
        times.map(|times| NextBatch { picks: batch.picks, size_max, full, times })
    }

    /// Returns the times of an item. It waits for others only since a slot has been free: before that it couldn't be
    /// sent.
    fn times(&self, member: &Member, turn: &Turn) -> Times {
        let Member { terms, arrived, .. } = member;
        let since = (*arrived).max(turn.offer.since);
        let wait_max = self.rule.wait_max;
        let due = since + terms.wait_max.map_or(wait_max, |own| own.min(wait_max));
        // Sent in time for its result is the pace's business; later than then it isn't held by any.
        let back_by = terms.back_by();
        Times { since, due: back_by.map_or(due, |back_by| due.min(back_by)), deadline: back_by }
    }

    fn waiting(&self, pick: Pick) -> Option<&Waiting<T>> {
        self.queues.get(&pick.tenant)?.parties.get(pick.party)?.what.items.get(pick.item)
    }

    fn get(&self, pick: Pick) -> Option<&T> {
        self.waiting(pick).map(|waiting| &waiting.item)
    }

    /// Returns the tenant and the cost of each item of a batch.
    fn costs(&self, picks: &[Pick]) -> Vec<(Tenant, u64)> {
        let cost = |pick: &Pick| self.waiting(*pick).map_or(0, |waiting| self.rule.cost(&waiting.terms));
        picks.iter().map(|pick| (pick.tenant, cost(pick))).collect()
    }

    /// Takes a batch out, in this order. The parties that it is taken from go to the end of their line.
    fn take(&mut self, picks: &[Pick], now: Instant, shares: &mut Shares) -> Vec<T> {
        let items = self.remove(picks, shares);
        let mut parties: Vec<(Tenant, usize)> = picks.iter().map(|pick| (pick.tenant, pick.party)).collect();
        parties.sort_unstable_by_key(|party| Reverse(*party));
        parties.dedup();
        self.rejoin(&parties, now);
        items
    }

    /// Takes items out, in this order; their parties stay where they are, even if they are empty.
    fn remove(&mut self, picks: &[Pick], shares: &mut Shares) -> Vec<T> {
        // From behind, so that the places before stay as they are.
        let mut from_behind: Vec<usize> = (0..picks.len()).collect();
        from_behind.sort_unstable_by_key(|index| Reverse(picks[*index]));
        let mut removed: Vec<Option<T>> = picks.iter().map(|_| None).collect();
        for index in from_behind {
            let Pick { tenant, party, item } = picks[index];
            let queue = self.queues.get_mut(&tenant);
            let Some(entry) = queue.and_then(|queue| queue.parties.get_mut(party)) else { continue };
            let before = entry.what.items.len();
            removed[index] = entry.what.items.remove(item).map(|waiting| waiting.item);
            self.items -= before - entry.what.items.len();
            self.rule.left(shares, tenant, before, entry.what.items.len());
        }
        removed.into_iter().flatten().collect()
    }

    /// Puts what is left of these parties at the end of their line. They are given from behind.
    fn rejoin(&mut self, parties: &[(Tenant, usize)], now: Instant) {
        let mut left = Vec::new();
        for (tenant, party) in parties {
            let entry = self.queues.get_mut(tenant).and_then(|queue| queue.parties.remove(*party));
            left.extend(entry.filter(|entry| !entry.what.items.is_empty()).map(|entry| (*tenant, entry)));
        }
        for (tenant, Entry { what, rank, .. }) in left.into_iter().rev() {
            if let Some(queue) = self.queues.get_mut(&tenant) {
                queue.parties.join(what, rank, now);
            }
        }
    }
}

impl FormerRule {
    /// Returns what an item costs: the larger of its shares of a batch, in bytes and in items, in bytes.
    pub(super) fn cost(&self, terms: &Terms) -> u64 {
        let item = self.bytes_max / self.size_max.max(1);
        terms.bytes.max(item).max(1) as u64
    }

    /// Returns what a batch of so many items costs by its time, of which a full one takes as much as [`Self::bytes_max`].
    pub(super) fn least_cost(&self, items: usize, estimate: &Estimate) -> u64 {
        let time = |items: usize| estimate.fixed.as_secs_f64() + estimate.per_item.as_secs_f64() * items as f64;
        let full = time(self.size_max.max(items));
        if full > 0.0 { (self.bytes_max as f64 * time(items) / full) as u64 } else { 0 }
    }

    /// Returns the places that so many items of one party take in the queue.
    fn places(&self, items: usize) -> usize {
        items.min(self.size_max.max(1).saturating_mul(PARTY_BATCHES))
    }

    /// Notes that a party of a tenant has fewer items.
    fn left(&self, shares: &mut Shares, tenant: Tenant, before: usize, after: usize) {
        for items in after..before {
            shares.leave(tenant, self.places(items + 1) - self.places(items));
        }
    }
}

/// The place of an item: its tenant, the party in the tenant's line, the item in the party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pick {
    tenant: Tenant,
    party: usize,
    item: usize,
}

/// An item that may be in a batch.
#[derive(Clone, Copy)]
struct Member {
    pick: Pick,
    terms: Terms,
    arrived: Instant,
}

/// The items of a class in the order in which they are due to be served.
struct Order<'a, T> {
    rule: FormerRule,
    cursors: Vec<Cursor<'a, T>>,
    /// The tenant of the first one.
    first: Option<Tenant>,
    shares: &'a Shares,
    now: Instant,
}

/// A tenant's items, and what it would have been served if those before were.
struct Cursor<'a, T> {
    tenant: Tenant,
    weight: Weight,
    parties: &'a Line<Party<T>>,
    party: usize,
    item: usize,
    standing: Standing,
}

impl<'a, T> Order<'a, T> {
    fn of(former: &'a Former<T>, turn: &Turn, shares: &'a Shares) -> Self {
        let may_join = |tenant: Tenant| !turn.guarded || tenant == turn.tenant || shares.is_light(tenant);
        let waits = former.queues.iter().filter(|(tenant, queue)| !queue.parties.is_empty() && may_join(**tenant));
        let cursors = waits.map(|(tenant, queue)| Cursor {
            tenant: *tenant,
            weight: shares.weight(*tenant),
            parties: &queue.parties,
            party: 0,
            item: 0,
            standing: shares.standing(*tenant),
        });
        Self { rule: former.rule, cursors: cursors.collect(), first: Some(turn.tenant), shares, now: turn.now }
    }

    /// Returns the index of the tenant whose item is next.
    fn choose(&mut self) -> Option<usize> {
        let first = self.first.take();
        if self.cursors.len() < 2 {
            return (!self.cursors.is_empty()).then_some(0);
        }
        if let Some(at) = first.and_then(|first| self.cursors.iter().position(|cursor| cursor.tenant == first)) {
            return Some(at);
        }
        let heads = || self.cursors.iter().filter_map(|cursor| cursor.parties.get(cursor.party));
        let top = heads().map(|entry| entry.rank.priority).max()?;
        let levels = heads().map(|entry| Reverse(entry.level(top, self.now)));
        let standings = self.cursors.iter().map(|cursor| cursor.standing);
        levels.zip(standings).enumerate().min_by_key(|(_, standing)| *standing).map(|(at, _)| at)
    }
}

impl<T> Iterator for Order<'_, T> {
    type Item = Member;

    fn next(&mut self) -> Option<Member> {
        let at = self.choose()?;
        let cursor = self.cursors.get_mut(at)?;
        let Cursor { tenant, party, item, .. } = *cursor;
        let entry = cursor.parties.get(party)?;
        let terms = entry.what.items.get(item)?.terms;
        cursor.item += 1;
        if cursor.item >= entry.what.items.len() {
            (cursor.party, cursor.item) = (party + 1, 0);
        }
        cursor.standing = cursor.standing.after(self.shares.charge(self.rule.cost(&terms), cursor.weight));
        if cursor.party >= cursor.parties.len() {
            // The order of cursors doesn't matter: of equal standing is nobody but those that were never served.
            self.cursors.remove(at);
        }
        Some(Member { pick: Pick { tenant, party, item }, terms, arrived: entry.what.arrived })
    }
}

/// Returns these items, those first whose size is closest to `bytes`.
fn similar(bytes: usize, members: impl Iterator<Item = Member>) -> Vec<Member> {
    let mut members: Vec<Member> = members.collect();
    members.sort_by_key(|member| member.terms.bytes.abs_diff(bytes));
    members
}

/// A batch that is being put together.
struct Gathering {
    rule: FormerRule,
    picks: Vec<Pick>,
    bytes: usize,
    longest: usize,
    /// The bound of its members.
    size_max: usize,
}

impl Gathering {
    /// Adds an item if it fits. The first one does in any case: larger than a batch may be, it is sent alone.
    fn add(&mut self, member: &Member) -> bool {
        let Terms { bytes, size_max, .. } = member.terms;
        let (items, longest) = (self.picks.len() + 1, self.longest.max(bytes));
        let bytes = if self.rule.padded { longest.saturating_mul(items) } else { self.bytes.saturating_add(bytes) };
        let narrowed = size_max.map_or(self.size_max, |own| self.size_max.min(own.max(1)));
        if items > 1 && (bytes > self.rule.bytes_max || items > narrowed) {
            return false;
        }
        self.picks.push(member.pick);
        (self.bytes, self.longest, self.size_max) = (bytes, longest, narrowed);
        true
    }
}

/// The items of a class that would be sent together.
struct NextBatch {
    picks: Vec<Pick>,
    /// How many there may be.
    size_max: usize,
    /// Waiting longer can't make the batch larger.
    full: bool,
    times: Times,
}

/// The times that matter to an item, and of a batch the first ones of its members.
#[derive(Clone, Copy)]
struct Times {
    /// Since when it could have been sent.
    since: Instant,
    /// When it has waited long enough.
    due: Instant,
    /// When its result must be there, if there is such a time.
    deadline: Option<Instant>,
}

impl Times {
    fn earliest(self, other: Self) -> Self {
        Self {
            since: self.since.min(other.since),
            due: self.due.min(other.due),
            deadline: [self.deadline, other.deadline].into_iter().flatten().min(),
        }
    }
}

#[cfg(test)]
mod tests;
