//! How much of a pool each of its tenants has been served, and whose turn it is. Pure.
//!
//! A counter for each tenant grows by what its items cost, divided by its weight (start-time fair queueing). Of the
//! tenants that wait, the one with the smallest counter is next, so that those with enough to do are served by their
//! weights, however much each asks. The *floor* follows the smallest: it is what the tenant served last had been served
//! before. A new tenant begins there, and one that asked for less than its share is lifted to a few batches below it: so
//! much it may catch up at once, which keeps a small tenant's bursts short beside one that floods the pool.

use std::{cmp::Reverse, collections::BTreeMap, fmt};

use crate::config;

/// The unit of fairness: all items that count for the same tenant share its turns. It is a digest, so that no
/// credentials are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(u64);

impl Tenant {
    /// The tenants for which there is no row of their own.
    const OTHERS: Self = Self(u64::MAX);

    /// Returns the tenant of this digest. The default is the one of all items whose tenant isn't known.
    #[must_use]
    pub const fn of_digest(digest: u64) -> Self {
        Self(digest)
    }
}

/// What a tenant counts for beside others: of two that have enough to do, one of twice the weight is served twice as
/// much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(u32);

impl Weight {
    /// The weight of tenants for which none is given.
    pub const ONE: Self = Self(1);

    /// Returns this weight, or the nearest one that is allowed: 1 to [`config::TENANT_WEIGHT_MAX`].
    #[must_use]
    pub fn of(weight: u32) -> Self {
        Self(weight.clamp(1, config::TENANT_WEIGHT_MAX))
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OTHERS => f.write_str("others"),
            Self(digest) => write!(f, "{digest:016x}"),
        }
    }
}

/// Returns the sums of these costs by tenant, in the order in which the tenants come first.
pub(super) fn by_tenant(costs: &[(Tenant, u64)]) -> Vec<(Tenant, u64)> {
    let mut sums: Vec<(Tenant, u64)> = Vec::new();
    for (tenant, cost) in costs {
        match sums.iter_mut().find(|(known, _)| known == tenant) {
            Some((_, sum)) => *sum = sum.saturating_add(*cost),
            None => sums.push((*tenant, *cost)),
        }
    }
    sums
}

/// Full batches that a tenant may be behind the floor at most, whatever its weight: more would shut others out for as
/// long as it catches up, after it had nothing to do or has waited behind a higher priority.
const BEHIND_MAX: u128 = 4;

/// How finely counters count, so that little is lost when a cost is divided by a weight.
const PRECISION: u128 = 1 << 20;

/// Full batches over which the largest share is measured.
const MEASURED_OVER: u128 = 64;

/// The tenants of one pool.
#[derive(Debug)]
pub(super) struct Shares {
    tenants_max: usize,
    /// The cost of a full batch.
    full: u128,
    rows: BTreeMap<Tenant, Row>,
    floor: u128,
    turns: u64,
    /// The weights of all rows, and of those whose tenants have items waiting.
    weights: u64,
    weights_active: u64,
    active: usize,
    items: usize,
    places: usize,
    measured: Measured,
}

/// What is known of one tenant.
#[derive(Debug, Default)]
struct Row {
    /// What it has been served, by its weight; see [`Shares::charge`].
    counter: u128,
    weight: Weight,
    /// The turn in which it was served last.
    turn: u64,
    /// Its items that wait, and the places in the queue that they take.
    items: usize,
    places: usize,
    /// What it has been served since the shares were measured last.
    recent: u128,
    /// What it has been served since it is known.
    served: u128,
}

/// What a tenant has been served, and what it has waiting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    pub(super) tenant: Tenant,
    /// Its part of what all tenants that are known were served, by cost.
    pub(super) part: f64,
    /// Its items that wait.
    pub(super) items: usize,
}

/// The largest share of any tenant.
#[derive(Debug, Default)]
struct Measured {
    recent: u128,
    largest: f64,
}

/// A tenant's place among others: the smallest is next. Of equal counters, it is the one whose last turn is longest ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    counter: u128,
    turn: u64,
}

impl Shares {
    /// Returns a table of so many tenants; `full` is the cost of a full batch.
    pub(super) fn new(tenants_max: usize, full: u64) -> Self {
        Self {
            tenants_max: tenants_max.max(1),
            full: u128::from(full.max(1)),
            rows: BTreeMap::new(),
            floor: 0,
            turns: 0,
            weights: 0,
            weights_active: 0,
            active: 0,
            items: 0,
            places: 0,
            measured: Measured::default(),
        }
    }

    /// Returns the tenant that items of `tenant` count for: itself, unless too many others have items waiting.
    pub(super) fn row_of(&mut self, tenant: Tenant) -> Tenant {
        if self.rows.contains_key(&tenant) || self.rows.len() < self.tenants_max || self.forget_one() {
            return tenant;
        }
        Tenant::OTHERS
    }

    /// Forgets the tenant without items waiting that has been served least, if there is one.
    fn forget_one(&mut self) -> bool {
        let idle = self.rows.iter().filter(|(_, row)| row.items == 0);
        let Some(tenant) = idle.min_by_key(|(_, row)| row.counter).map(|(tenant, _)| *tenant) else { return false };
        let Some(row) = self.rows.remove(&tenant) else { return false };
        self.weights -= u64::from(row.weight.0);
        true
    }

    /// Returns the row of a tenant; a new one begins at the floor.
    fn row(&mut self, tenant: Tenant) -> &mut Row {
        let Self { rows, weights, floor, .. } = self;
        rows.entry(tenant).or_insert_with(|| {
            *weights += u64::from(Weight::ONE.0);
            Row { counter: *floor, ..Row::default() }
        })
    }

    /// Notes the weight of a tenant, which holds for what it is served from now on. Tenants that share a row have none
    /// of their own.
    pub(super) fn weigh(&mut self, tenant: Tenant, weight: Weight) {
        if tenant == Tenant::OTHERS {
            return;
        }
        let row = self.row(tenant);
        let (before, is_active) = (u64::from(row.weight.0), row.items > 0);
        row.weight = weight;
        self.weights = self.weights - before + u64::from(weight.0);
        if is_active {
            self.weights_active = self.weights_active - before + u64::from(weight.0);
        }
    }

    /// Returns the weight of a tenant.
    pub(super) fn weight(&self, tenant: Tenant) -> Weight {
        self.rows.get(&tenant).map(|row| row.weight).unwrap_or_default()
    }

    /// Whether the queue has room for another request of this tenant. A full one has for those that have less than
    /// their share of it: nobody is refused because of what others have waiting.
    pub(super) fn has_room(&self, tenant: Tenant, queue_max: usize) -> bool {
        let row = self.rows.get(&tenant);
        let (own, is_active) = row.map_or((0, false), |row| (row.places, row.items > 0));
        let tenants = self.active + usize::from(!is_active);
        self.places < queue_max || own < (queue_max / tenants).max(1)
    }

    /// Notes that items of a tenant wait, and the places in the queue that they take.
    pub(super) fn enter(&mut self, tenant: Tenant, items: usize, places: usize) {
        if items == 0 {
            return;
        }
        let row = self.row(tenant);
        let (weight, is_new) = (u64::from(row.weight.0), row.items == 0);
        row.items += items;
        row.places += places;
        if is_new {
            self.active += 1;
            self.weights_active += weight;
        }
        self.items += items;
        self.places += places;
    }

    /// Notes that one of a tenant's items doesn't wait any more.
    pub(super) fn leave(&mut self, tenant: Tenant, places: usize) {
        let Some(row) = self.rows.get_mut(&tenant) else { return };
        row.items -= 1;
        row.places -= places;
        self.items -= 1;
        self.places -= places;
        if row.items == 0 {
            self.active -= 1;
            self.weights_active -= u64::from(row.weight.0);
        }
    }

    /// Notes the cost of a batch by tenant. The first is the one whose turn it was.
    pub(super) fn serve(&mut self, served: &[(Tenant, u64)]) {
        let Some((first, _)) = served.first() else { return };
        let floor = self.standing(*first).counter;
        let cost: u128 = served.iter().map(|(_, cost)| u128::from(*cost)).sum();
        self.turns += 1;
        let turn = self.turns;
        for (tenant, cost) in served {
            // One that isn't known begins at the floor.
            self.row(*tenant);
            if let Some(row) = self.count(*tenant, *cost) {
                row.turn = turn;
            }
        }
        self.floor = floor.max(self.floor + self.rise(cost));
        self.measure(cost);
    }

    /// Counts what a tenant was served, and returns its row; `None` if it isn't known.
    fn count(&mut self, tenant: Tenant, cost: u64) -> Option<&mut Row> {
        let counter = self.standing(tenant).counter + self.charge(cost, self.weight(tenant));
        let row = self.rows.get_mut(&tenant)?;
        row.counter = counter;
        row.recent += u128::from(cost);
        row.served += u128::from(cost);
        Some(row)
    }

    /// Returns by how much the floor rises at least. Of `tenants_max` tenants that are served by their weights, each
    /// would have got so much. So nobody waits for ever behind others that always come back.
    fn rise(&self, cost: u128) -> u128 {
        let (tenants_max, weights) = (self.tenants_max as u128, u128::from(self.weights));
        if weights <= tenants_max { cost * PRECISION } else { cost * tenants_max * PRECISION / weights }
    }

    /// Charges tenants for what a batch of theirs cost beyond its own request, which is known only when it is back. It is
    /// nobody's turn.
    pub(super) fn surcharge(&mut self, charges: &[(Tenant, u64)]) {
        let mut sum = 0;
        for (tenant, cost) in charges {
            // One that has gone in the meantime isn't known again for that.
            if self.count(*tenant, *cost).is_some() {
                sum += u128::from(*cost);
            }
        }
        self.floor += self.rise(sum);
        self.measure(sum);
    }

    fn measure(&mut self, cost: u128) {
        self.measured.recent += cost;
        if self.measured.recent < self.full * MEASURED_OVER {
            return;
        }
        let largest = self.rows.values().map(|row| row.recent).max().unwrap_or_default();
        // A ratio for people.
        self.measured = Measured { recent: 0, largest: largest as f64 / self.measured.recent as f64 };
        self.rows.values_mut().for_each(|row| row.recent = 0);
    }

    /// Returns by how much the counter of a tenant of this weight grows.
    pub(super) fn charge(&self, cost: u64, weight: Weight) -> u128 {
        self.charged(u128::from(cost), weight)
    }

    fn charged(&self, cost: u128, weight: Weight) -> u128 {
        let charge = cost * self.tenants_max as u128 * PRECISION;
        // This is done for each item, and a division of so large a number takes long.
        if weight == Weight::ONE { charge } else { charge / u128::from(weight.0) }
    }

    /// Returns a tenant's place among those that wait.
    pub(super) fn standing(&self, tenant: Tenant) -> Standing {
        let Some(Row { counter, weight, turn, .. }) = self.rows.get(&tenant) else {
            return Standing { counter: self.floor, turn: 0 };
        };
        let behind_max = self.charged(self.full * BEHIND_MAX, *weight);
        Standing { counter: (*counter).max(self.floor.saturating_sub(behind_max)), turn: *turn }
    }

    /// Whether a tenant that is known wants less than its share: it is a full batch behind the floor, or more.
    pub(super) fn is_light(&self, tenant: Tenant) -> bool {
        let behind = |row: &Row| row.counter + self.charged(self.full, row.weight) <= self.floor;
        self.rows.get(&tenant).is_some_and(behind)
    }

    /// Returns how many items are sent, by their shares, until so many of a tenant's are that wait now.
    pub(super) fn until_sent(&self, tenant: Tenant, items: usize) -> usize {
        let until = items as u128 * u128::from(self.weights_active) / u128::from(self.weight(tenant).0);
        usize::try_from(until).unwrap_or(usize::MAX).min(self.items)
    }

    /// Returns the number of tenants that have items waiting.
    pub(super) const fn active(&self) -> usize {
        self.active
    }

    /// Returns the number of all items that wait.
    pub(super) const fn items(&self) -> usize {
        self.items
    }

    /// Returns the places in the queue that are taken.
    pub(super) const fn places(&self) -> usize {
        self.places
    }

    /// Returns what the tenants that were served most have been served, those first, at most so many.
    pub(super) fn top(&self, tenants: usize) -> Vec<Share> {
        let all: u128 = self.rows.values().map(|row| row.served).sum();
        let mut rows: Vec<(&Tenant, &Row)> = self.rows.iter().filter(|(_, row)| row.served > 0).collect();
        rows.sort_by_key(|(tenant, row)| (Reverse(row.served), **tenant));
        let share = |(tenant, row): (&Tenant, &Row)| Share {
            tenant: *tenant,
            // A ratio for people.
            part: row.served as f64 / all as f64,
            items: row.items,
        };
        rows.into_iter().take(tenants).map(share).collect()
    }

    /// Returns the largest share that any tenant had of what was served, when it was measured last.
    pub(super) const fn largest(&self) -> f64 {
        self.measured.largest
    }
}

impl Standing {
    /// Returns the place of a tenant that would have been served so much more.
    pub(super) const fn after(self, charge: u128) -> Self {
        Self { counter: self.counter + charge, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Tenant = Tenant(1);
    const B: Tenant = Tenant(2);
    const C: Tenant = Tenant(3);

    fn shares(tenants_max: usize) -> Shares {
        Shares::new(tenants_max, 10)
    }

    /// Returns the tenants in the order of their turns.
    fn turns(shares: &Shares) -> Vec<Tenant> {
        let mut waiting: Vec<Tenant> =
            shares.rows.iter().filter(|(_, row)| row.items > 0).map(|(tenant, _)| *tenant).collect();
        waiting.sort_by_key(|tenant| shares.standing(*tenant));
        waiting
    }

    #[test]
    fn the_least_served_is_next_and_of_equals_the_one_whose_turn_is_longest_ago() {
        let mut shares = shares(8);
        for tenant in [A, B, C] {
            shares.enter(tenant, 100, 100);
        }
        let mut seen = Vec::new();
        for cost in [3, 2, 1, 1, 1, 2, 1] {
            let next = turns(&shares)[0];
            shares.serve(&[(next, cost)]);
            seen.push(next);
        }
        // Costs: A 3, B 2, C 1+1, then B and C at 2: B waited longer.
        assert_eq!(seen, [A, B, C, C, B, C, A]);
    }

    #[test]
    fn a_new_tenant_begins_at_the_floor_and_none_gets_rid_of_what_it_was_served() {
        let mut shares = shares(8);
        shares.enter(A, 100, 100);
        for _ in 0..50 {
            shares.serve(&[(A, 10)]);
        }
        shares.enter(B, 1, 1);
        assert_eq!(turns(&shares), [B, A], "it is served before the next batch of the other");
        shares.serve(&[(B, 10)]);
        shares.serve(&[(A, 10)]);
        assert_eq!(turns(&shares), [B, A], "but not for what it hadn't asked for");
        shares.serve(&[(B, 30)]);
        shares.leave(B, 1);
        shares.enter(B, 1, 1);
        assert_eq!(turns(&shares), [A, B], "it was served more, and going away doesn't change that");
    }

    #[test]
    fn a_tenant_that_had_nothing_to_do_or_no_turn_catches_up_within_bounds() {
        for idle in [false, true] {
            let mut shares = shares(2);
            shares.enter(A, 1_000, 1_000);
            shares.enter(B, 1_000, 1_000);
            if idle {
                (0..1_000).for_each(|_| shares.leave(B, 1));
            }
            for _ in 0..500 {
                shares.serve(&[(A, 10)]);
            }
            if idle {
                shares.enter(B, 1_000, 1_000);
            }
            let mut turns_of_b = 0;
            while turns(&shares)[0] == B {
                shares.serve(&[(B, 10)]);
                turns_of_b += 1;
            }
            assert!((3..=8).contains(&turns_of_b), "{turns_of_b}");
        }
    }

    #[test]
    fn a_tenant_is_light_while_it_is_a_batch_behind() {
        let mut shares = shares(8);
        shares.enter(A, 1_000, 1_000);
        assert!(!shares.is_light(A) && !shares.is_light(B), "one that isn't known is at the floor");
        shares.enter(B, 2, 2);
        for _ in 0..10 {
            shares.serve(&[(A, 10)]);
        }
        assert!(shares.is_light(B) && !shares.is_light(A));
        shares.serve(&[(B, 10)]);
        assert!(shares.is_light(B), "it may catch up by a few");
        for _ in 0..3 {
            shares.serve(&[(B, 10)]);
        }
        assert!(!shares.is_light(B), "it has its share");
    }

    #[test]
    fn nobody_waits_for_ever_behind_tenants_that_always_come_back() {
        let mut shares = shares(4);
        shares.enter(A, 10, 10);
        shares.serve(&[(A, 10)]);
        let mut others = 0;
        loop {
            let other = Tenant(100 + others);
            let row = shares.row_of(other);
            shares.enter(row, 1, 1);
            if turns(&shares)[0] == A {
                break;
            }
            shares.serve(&[(row, 1)]);
            shares.leave(row, 1);
            others += 1;
            assert!(others < 100, "it starves");
        }
    }

    #[test]
    fn turns_follow_the_weights_also_after_they_change() {
        let mut shares = shares(8);
        for tenant in [A, B, C] {
            shares.enter(tenant, 1_000, 1_000);
        }
        for weights in [[4, 2, 1], [1, 1, 5]] {
            for (tenant, weight) in [A, B, C].into_iter().zip(weights) {
                shares.weigh(tenant, Weight::of(weight));
            }
            let mut served: BTreeMap<Tenant, u32> = BTreeMap::new();
            for _ in 0..700 {
                let next = turns(&shares)[0];
                shares.serve(&[(next, 10)]);
                *served.entry(next).or_default() += 1;
            }
            let each = 700 / weights.iter().sum::<u32>();
            for (tenant, weight) in [A, B, C].into_iter().zip(weights) {
                assert!(served[&tenant].abs_diff(each * weight) <= 5, "{weights:?}: {served:?}");
            }
        }
    }

    #[test]
    fn a_tenant_that_returns_catches_up_by_a_few_batches_whatever_its_weight() {
        for (own, others) in [(1_u32, 4), (4, 1), (1, 1), (1_000, 1_000)] {
            let mut shares = shares(2);
            for (tenant, weight) in [(A, others), (B, own)] {
                shares.enter(tenant, 1_000, 1_000);
                shares.weigh(tenant, Weight::of(weight));
            }
            (0..1_000).for_each(|_| shares.leave(B, 1));
            for _ in 0..500 {
                shares.serve(&[(A, 10)]);
            }
            shares.enter(B, 1_000, 1_000);
            let mut turns_of_b = 0;
            while turns(&shares)[0] == B {
                shares.serve(&[(B, 10)]);
                turns_of_b += 1;
            }
            // Four, and those that are due for the last one of the other.
            let due = own.div_ceil(others);
            assert!((4..=4 + due + 1).contains(&turns_of_b), "{own} beside {others}: {turns_of_b}");
        }
    }

    #[test]
    fn what_is_sent_until_a_tenant_has_had_its_turns_goes_by_the_weights() {
        let mut shares = shares(2);
        for (tenant, weight) in [(A, 3), (B, 1)] {
            shares.enter(tenant, 100, 100);
            shares.weigh(tenant, Weight::of(weight));
        }
        assert_eq!([A, B].map(|tenant| shares.until_sent(tenant, 30)), [40, 120]);
        assert_eq!(shares.until_sent(B, 90), 200, "no more than there are");
        assert_eq!(shares.row_of(C), Tenant::OTHERS);
        shares.enter(Tenant::OTHERS, 10, 10);
        shares.weigh(Tenant::OTHERS, Weight::of(9));
        assert_eq!(shares.until_sent(Tenant::OTHERS, 10), 50, "those without a row have no weight of their own");
        (0..100).for_each(|_| shares.leave(B, 1));
        assert_eq!(shares.until_sent(A, 30), 40);
        assert_eq!(shares.row_of(C), C, "in the place of one that has nothing to do");
        shares.weigh(C, Weight::of(5));
        assert_eq!((shares.weights, shares.weights_active), (9, 4));
    }

    #[test]
    fn a_weight_has_bounds() {
        assert_eq!([0, 1, 7, 1_000, 1_001].map(|weight| Weight::of(weight).0), [1, 1, 7, 1_000, 1_000]);
        assert_eq!(Weight::default(), Weight::ONE);
    }

    #[test]
    fn tenants_too_many_share_a_row_and_idle_ones_make_room() {
        let mut shares = shares(2);
        for tenant in [A, B] {
            assert_eq!(shares.row_of(tenant), tenant);
            shares.enter(tenant, 1, 1);
        }
        assert_eq!(shares.row_of(C), Tenant::OTHERS);
        shares.leave(A, 1);
        assert_eq!(shares.row_of(C), C);
        assert_eq!((shares.active(), shares.items()), (1, 1));
    }

    #[test]
    fn a_full_queue_has_room_for_those_below_their_share() {
        let mut shares = shares(8);
        assert!(shares.has_room(A, 4));
        shares.enter(A, 4, 4);
        assert!(!shares.has_room(A, 4), "it has all of it");
        for count in 0..2 {
            assert!(shares.has_room(B, 4), "{count} of 2");
            shares.enter(B, 1, 1);
        }
        assert!(!shares.has_room(B, 4));
        assert!(shares.has_room(C, 4), "at least one");
    }

    #[test]
    fn what_a_batch_cost_later_counts_in_its_tenants_turns() {
        let mut shares = shares(8);
        for tenant in [A, B] {
            shares.enter(tenant, 100, 100);
            shares.serve(&[(tenant, 10)]);
        }
        shares.surcharge(&[(A, 30), (C, 30)]);
        for turn in 0..3 {
            assert_eq!(turns(&shares)[0], B, "turn {turn}");
            shares.serve(&[(B, 10)]);
        }
        assert_eq!(turns(&shares)[0], A, "now the other was served as much");
        assert!(!shares.rows.contains_key(&C), "nothing of it is here");
    }

    #[test]
    fn the_tenants_that_were_served_most_come_first() {
        let mut shares = shares(8);
        for (tenant, cost) in [(A, 10), (B, 30), (C, 20)] {
            shares.enter(tenant, 2, 2);
            shares.serve(&[(tenant, cost)]);
        }
        shares.surcharge(&[(A, 20)]);
        let top: Vec<_> = shares.top(2).into_iter().map(|share| (share.tenant, share.part, share.items)).collect();
        assert_eq!(top, [(A, 0.375, 2), (B, 0.375, 2)]);
        assert_eq!(shares.top(9).len(), 3);
        assert_eq!((A.to_string().as_str(), Tenant::OTHERS.to_string().as_str()), ("0000000000000001", "others"));
    }

    #[test]
    fn the_largest_share_is_measured_over_many_batches() {
        let mut shares = shares(8);
        for _ in 0..32 {
            shares.serve(&[(A, 15), (B, 5)]);
        }
        assert!((shares.largest() - 0.75).abs() < 0.001, "{}", shares.largest());
    }
}
