//! How much of a pool each of its tenants has been served, and whose turn it is. Pure.
//!
//! A counter for each tenant grows by what its items cost (start-time fair queueing). Of the tenants that wait, the one
//! with the smallest counter is next, so that those with enough to do are served equally, however much each asks. The
//! *floor* follows the smallest: it is what the tenant served last had been served before. A new tenant begins there, and
//! one that asked for less than its share is lifted to a few batches below it: so much it may catch up at once, which
//! keeps a small tenant's bursts short beside one that floods the pool.

use std::collections::BTreeMap;

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

/// Full batches that a tenant may be behind the floor at most: more would shut others out for as long as it catches up,
/// after it had nothing to do or has waited behind a higher priority.
const BEHIND_MAX: u128 = 4;

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
    active: usize,
    items: usize,
    places: usize,
    measured: Measured,
}

/// What is known of one tenant.
#[derive(Debug, Default)]
struct Row {
    /// What it has been served, [`Shares::tenants_max`] for each unit of cost.
    counter: u128,
    /// The turn in which it was served last.
    turn: u64,
    /// Its items that wait, and the places in the queue that they take.
    items: usize,
    places: usize,
    /// What it has been served since the shares were measured last.
    recent: u128,
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
        self.rows.remove(&tenant).is_some()
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
        let floor = self.floor;
        let row = self.rows.entry(tenant).or_insert_with(|| Row { counter: floor, ..Row::default() });
        self.active += usize::from(row.items == 0);
        row.items += items;
        row.places += places;
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
        }
    }

    /// Notes the cost of a batch by tenant. The first is the one whose turn it was.
    pub(super) fn serve(&mut self, served: &[(Tenant, u64)]) {
        let Some((first, _)) = served.first() else { return };
        let floor = self.standing(*first).counter;
        let cost: u128 = served.iter().map(|(_, cost)| u128::from(*cost)).sum();
        self.turns += 1;
        for (tenant, cost) in served {
            let counter = self.standing(*tenant).counter + self.charge(*cost);
            let row = self.rows.entry(*tenant).or_default();
            (row.counter, row.turn) = (counter, self.turns);
            row.recent += u128::from(*cost);
        }
        // Of `tenants_max` tenants that are served equally, each would have got so much. So the floor also rises if
        // there are always others that come back, and nobody waits behind those for ever.
        self.floor = floor.max(self.floor + cost);
        self.measure(cost);
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

    /// Returns by how much a counter grows.
    pub(super) fn charge(&self, cost: u64) -> u128 {
        u128::from(cost) * self.tenants_max as u128
    }

    /// Returns a tenant's place among those that wait.
    pub(super) fn standing(&self, tenant: Tenant) -> Standing {
        let (counter, turn) = self.rows.get(&tenant).map_or((self.floor, 0), |row| (row.counter, row.turn));
        let behind_max = self.full * BEHIND_MAX * self.tenants_max as u128;
        Standing { counter: counter.max(self.floor.saturating_sub(behind_max)), turn }
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
    fn the_largest_share_is_measured_over_many_batches() {
        let mut shares = shares(8);
        for _ in 0..32 {
            shares.serve(&[(A, 15), (B, 5)]);
        }
        assert!((shares.largest() - 0.75).abs() < 0.001, "{}", shares.largest());
    }
}
