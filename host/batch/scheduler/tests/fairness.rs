//! Shares of tenants in simulated time, by seeded loads.

use std::collections::{BTreeMap, BinaryHeap};

use proptest::prelude::*;

use super::*;
use crate::batch::{
    Weight,
    pace::{Outlook, Verdict},
};

/// Requests of one tenant: so many a second, at random times, of so many items each.
#[derive(Clone, Copy)]
struct Load {
    tenant: u64,
    class: char,
    per_second: f64,
    items: usize,
    terms: Terms,
}

const LOAD: Load = Load {
    tenant: 0,
    class: 'a',
    per_second: 0.0,
    items: 1,
    terms: Terms {
        bytes: 1,
        priority: 0,
        tenant: Tenant::of_digest(0),
        weight: Weight::ONE,
        deadline: None,
        late_by: None,
        wanted_by: None,
        wait_max: None,
        size_max: None,
        admitted: false,
    },
};

/// The time a batch takes, in milliseconds, up to a tenth more or less.
#[derive(Clone, Copy)]
struct Model {
    fixed: f64,
    item: f64,
}

/// Random numbers (xorshift64*).
struct Random(u64);

impl Random {
    /// Returns a number from 0 up to 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns the time between two of so many random events a second, in microseconds.
    fn gap(&mut self, per_second: f64) -> u64 {
        (-(1.0 - self.next()).ln() / per_second * 1e6) as u64
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Occurs {
    Arrives(usize),
    Returns(usize),
}

/// What became of the items of one load.
#[derive(Default)]
struct Fate {
    /// From the arrival of each item to its response, in microseconds.
    latencies: Vec<u64>,
    /// Items that left in the second half, when queues are as long as they get.
    served: u64,
    /// The longest time between two of them.
    starved: u64,
    refused: usize,
    left: u64,
}

impl Fate {
    fn p99(&self) -> u64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted[sorted.len() * 99 / 100]
    }
}

struct Simulation {
    scheduler: Scheduler<char, (usize, u64)>,
    model: Model,
    random: Random,
    start: Instant,
    events: BinaryHeap<Reverse<(u64, Occurs)>>,
    out: Vec<Option<(QueueId<char>, Vec<(usize, u64)>, u64)>>,
    fates: BTreeMap<usize, Fate>,
    admitted: usize,
}

/// Plays these loads for so many seconds and then until all is served, and returns what became of each.
fn simulate(rule: SchedulerRule, model: Model, loads: &[Load], seconds: u64) -> BTreeMap<usize, Fate> {
    let mut simulation = Simulation {
        scheduler: Scheduler::new(rule, Box::new(Gather)),
        model,
        random: Random(0x9E37_79B9_7F4A_7C15),
        start: Instant::now(),
        events: BinaryHeap::new(),
        out: Vec::new(),
        fates: BTreeMap::new(),
        admitted: 0,
    };
    for (index, load) in loads.iter().enumerate() {
        let at = simulation.random.gap(load.per_second);
        simulation.events.push(Reverse((at, Occurs::Arrives(index))));
    }
    let end = seconds * 1_000_000;
    let mut wake: Option<u64> = None;
    loop {
        let event = simulation.events.peek().map(|Reverse((at, _))| *at);
        let Some(now) = [event, wake].into_iter().flatten().min() else { break };
        if event == Some(now) {
            let Some(Reverse((_, occurs))) = simulation.events.pop() else { break };
            simulation.occurs(occurs, loads, now, end);
        }
        wake = simulation.settle(now, end);
    }
    let arrived: usize = simulation.fates.values().map(|fate| fate.latencies.len()).sum();
    assert_eq!(arrived, simulation.admitted, "each item has one response");
    assert!(simulation.scheduler.is_idle() && simulation.scheduler.classes() == 0);
    simulation.fates
}

impl Simulation {
    fn instant(&self, at: u64) -> Instant {
        self.start + Duration::from_micros(at)
    }

    fn occurs(&mut self, occurs: Occurs, loads: &[Load], now: u64, end: u64) {
        match occurs {
            Occurs::Arrives(index) => {
                let load = loads[index];
                let terms = Terms { tenant: Tenant::of_digest(load.tenant), ..load.terms };
                let items = (0..load.items).map(|_| ((index, now), terms)).collect();
                match self.scheduler.arrive_together(vec![(load.class, items)], self.instant(now), |_| true) {
                    Ok(()) => self.admitted += load.items,
                    Err(_) => self.fates.entry(index).or_default().refused += load.items,
                }
                let next = now + self.random.gap(load.per_second);
                if next < end {
                    self.events.push(Reverse((next, Occurs::Arrives(index))));
                }
            }
            Occurs::Returns(index) => {
                let Some((queue_id, items, since)) = self.out[index].take() else { return };
                let took = Duration::from_micros(now - since);
                let returned = Returned { items: items.len(), took, outcome: Outcome::Responded, endpoint: None };
                self.scheduler.finished(&queue_id, &returned, self.instant(now));
                for (index, arrived) in items {
                    self.fates.entry(index).or_default().latencies.push(now - arrived);
                }
            }
        }
    }

    fn settle(&mut self, now: u64, end: u64) -> Option<u64> {
        loop {
            match self.scheduler.next(self.instant(now), |_| true) {
                Next::Send(Batch { queue_id, items, .. }) => {
                    for (index, arrived) in &items {
                        let fate = self.fates.entry(*index).or_default();
                        fate.starved = fate.starved.max(now - fate.left.max(*arrived));
                        fate.left = now;
                        fate.served += u64::from((end / 2..end).contains(&now));
                    }
                    let jitter = 0.9 + 0.2 * self.random.next();
                    let took = (self.model.fixed + self.model.item * items.len() as f64) * jitter * 1_000.0;
                    self.events.push(Reverse((now + took as u64, Occurs::Returns(self.out.len()))));
                    self.out.push(Some((queue_id, items, now)));
                }
                Next::WaitUntil(time) => return Some((time - self.start).as_micros() as u64 + 1),
                Next::Idle => return None,
            }
        }
    }
}

fn rule(concurrency: usize, size_max: usize) -> SchedulerRule {
    let wait_max = Duration::from_millis(2);
    let former = FormerRule { size_max, bytes_max: 1 << 20, padded: false, wait_max, queue_max: 4_096 };
    SchedulerRule { former, concurrency, ..RULE }
}

#[test]
fn a_small_tenant_hardly_notices_one_that_floods_the_pool() {
    // slots, items of a batch, its milliseconds and those of an item, the small tenant's share of the capacity, its class
    for (slots, size, fixed, item, share, class) in [
        (8, 32, 20.0, 0.1, 0.05, 'b'),
        (8, 32, 20.0, 0.1, 0.15, 'a'),
        (8, 32, 20.0, 0.1, 0.3, 'a'),
        (1, 32, 20.0, 0.1, 0.05, 'a'),
        (1, 32, 20.0, 0.1, 0.05, 'b'),
        (1, 32, 20.0, 0.1, 0.3, 'a'),
    ] {
        let full = fixed + item * size as f64;
        let capacity = (slots * size) as f64 / full * 1_000.0;
        let small = Load { tenant: 2, class, per_second: capacity * share, ..LOAD };
        let flood = Load { tenant: 1, per_second: f64::max(small.per_second * 10.0, capacity * 1.5), ..LOAD };
        let model = Model { fixed, item };
        let alone = simulate(rule(slots, size), model, &[small], 20)[&0].p99();
        let both = simulate(rule(slots, size), model, &[flood, small], 20);
        let case =
            format!("{slots} slots of {size}, {share} of class {class}: alone {alone}, beside {}", both[&1].p99());
        assert!(both[&1].p99() * 10 <= alone * 12, "{case}");
        assert!(both[&0].refused > 0 && both[&1].refused == 0, "{case}");
    }
}

#[test]
fn guarded_slots_keep_a_small_tenant_as_quick_as_alone_beside_a_flood() {
    let model = Model { fixed: 20.0, item: 1.0 };
    let capacity = 8.0 * 32.0 / 52.0 * 1_000.0;
    let flood = Load { tenant: 1, per_second: capacity * 1.5, ..LOAD };
    let guarded = |guard| SchedulerRule { guard, ..rule(8, 32) };
    let most = simulate(guarded(0), model, &[flood], 20)[&0].served as f64;
    // Slots, the small tenant's part of the capacity, and the part of its own that the flood is left.
    for (guard, share, left) in [(2, 0.002, 0.65), (4, 0.01, 0.35)] {
        let small = Load { tenant: 2, per_second: capacity * share, ..LOAD };
        let alone = simulate(rule(8, 32), model, &[small], 40)[&0].p99();
        let both = simulate(guarded(guard), model, &[flood, small], 40);
        let (beside, served) = (both[&1].p99(), both[&0].served as f64 / 2.0);
        assert!(beside * 10 <= alone * 12, "{guard} slots, {share}: alone {alone}, beside {beside}");
        assert!(served >= most * left, "{guard} slots, {share}: {served} of {most}");
    }
    let alone = simulate(guarded(2), model, &[flood], 20)[&0].served as f64;
    assert!(alone >= 0.99 * most, "nobody else is there: {alone} of {most}");
}

/// Where the flood's batches take much longer than the small tenant's, one of them may be under way.
#[test]
fn a_small_tenant_waits_for_what_is_under_way_and_little_more() {
    for (slots, item, share, class) in
        [(1, 1.0, 0.05, 'a'), (1, 1.0, 0.3, 'b'), (8, 1.0, 0.15, 'b'), (8, 1.0, 0.05, 'a')]
    {
        let full = 20.0 + item * 32.0;
        let capacity = (slots * 32) as f64 / full * 1_000.0;
        let small = Load { tenant: 2, class, per_second: capacity * share, ..LOAD };
        let flood = Load { tenant: 1, per_second: f64::max(small.per_second * 10.0, capacity * 1.5), ..LOAD };
        let model = Model { fixed: 20.0, item };
        let alone = simulate(rule(slots, 32), model, &[small], 20)[&0].p99();
        let both = simulate(rule(slots, 32), model, &[flood, small], 20)[&1].p99();
        assert!(
            both <= alone + (full * 1_500.0) as u64,
            "{slots} slots, {share} of {class}: alone {alone}, beside {both}"
        );
    }
}

#[test]
fn tenants_that_have_enough_to_do_are_served_equally() {
    let heavy = Terms { bytes: 100 << 10, ..LOAD.terms };
    for (name, loads, cost) in [
        ("ten times the requests", [(1, 'a', 6_000.0, 1, LOAD.terms), (2, 'a', 600.0, 1, LOAD.terms)], [1, 1]),
        ("of another class", [(1, 'a', 6_000.0, 1, LOAD.terms), (2, 'b', 600.0, 1, LOAD.terms)], [1, 1]),
        ("lists", [(1, 'a', 6.0, 1_000, LOAD.terms), (2, 'a', 600.0, 1, LOAD.terms)], [1, 1]),
        ("large items", [(1, 'a', 600.0, 1, heavy), (2, 'b', 600.0, 1, LOAD.terms)], [100 << 10, 32 << 10]),
    ] {
        let loads =
            loads.map(|(tenant, class, per_second, items, terms)| Load { tenant, class, per_second, items, terms });
        let fates = simulate(rule(1, 32), Model { fixed: 20.0, item: 1.0 }, &loads, 60);
        let [one, other] = [0, 1].map(|index| fates[&index].served * cost[index]);
        let apart = one.abs_diff(other) as f64 / one.min(other) as f64;
        assert!(apart <= 0.05, "{name}: {one} and {other}");
    }
}

#[test]
fn tenants_that_have_enough_to_do_are_served_by_their_weights() {
    // The weights and the requests a second of two tenants, the class of the second, the items of its requests.
    for (weights, per_second, class, items) in [
        ([1, 3], [6_000.0, 700.0], 'a', 1),
        ([1, 3], [6_000.0, 700.0], 'b', 1),
        ([3, 1], [6_000.0, 700.0], 'b', 1),
        ([1, 3], [6_000.0, 7.0], 'a', 100),
        ([1, 1], [6_000.0, 700.0], 'b', 1),
    ] {
        let terms = weights.map(|weight| Terms { weight: Weight::of(weight), ..LOAD.terms });
        let flood = Load { tenant: 1, per_second: per_second[0], terms: terms[0], ..LOAD };
        let other = Load { tenant: 2, class, per_second: per_second[1], items, terms: terms[1] };
        let fates = simulate(rule(1, 32), Model { fixed: 20.0, item: 1.0 }, &[flood, other], 60);
        let [one, two] = [0, 1].map(|index| fates[&index].served as f64 / f64::from(weights[index]));
        assert!((one - two).abs() <= 0.05 * one.min(two), "{weights:?}, {class}, {items}: {one} and {two}");
    }
}

/// Returns how many items tenants of these weights are served while each of them always has some waiting, in one class
/// or each in its own.
fn saturated(rule: SchedulerRule, weights: &[u32], list: usize, apart: bool) -> Vec<usize> {
    let (mut now, mut scheduler) = (Instant::now(), Scheduler::new(rule, Box::new(Gather)));
    let (mut waiting, mut served) = (vec![0; weights.len()], vec![0; weights.len()]);
    let mut out = VecDeque::new();
    for _ in 0..100 * weights.iter().sum::<u32>() {
        for (tenant, weight) in weights.iter().enumerate() {
            let terms = Terms { tenant: Tenant::of_digest(tenant as u64), weight: Weight::of(*weight), ..of(1) };
            while waiting[tenant] < 3 * rule.former.size_max {
                let items = (0..list).map(|_| (tenant, terms)).collect();
                let class = if apart { tenant } else { 0 };
                scheduler.arrive_together(vec![(class, items)], now, |_| true).expect("the queue has room");
                waiting[tenant] += list;
            }
        }
        while let Next::Send(batch) = scheduler.next(now, |_| true) {
            for tenant in batch.items {
                waiting[tenant] -= 1;
                served[tenant] += 1;
            }
            out.push_back(batch.queue_id);
        }
        now += Duration::from_millis(5);
        if let Some(queue_id) = out.pop_front() {
            scheduler.finished(&queue_id, &RETURNED, now);
        }
    }
    served
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_the_weights_what_is_served_follows_them(
        weights in prop::collection::vec(1_u32..=8, 2..5),
        concurrency in 1_usize..4,
        list in 1_usize..8,
        apart in any::<bool>(),
    ) {
        let rule = slots(concurrency);
        let rule = SchedulerRule { former: FormerRule { queue_max: 4_096, ..rule.former }, ..rule };
        let served = saturated(rule, &weights, list, apart);
        let (items, all) = (served.iter().sum::<usize>() as f64, f64::from(weights.iter().sum::<u32>()));
        for (served, weight) in served.into_iter().zip(&weights) {
            let of_its_share = served as f64 / items / (f64::from(*weight) / all);
            prop_assert!((0.95..=1.05).contains(&of_its_share), "of weight {}: {}", weight, of_its_share);
        }
    }
}

#[test]
fn a_low_priority_is_served_beside_a_flood_of_a_higher_one() {
    // Within a tenant's class only what came within a second goes before it, which takes this flood three.
    for (tenant, class, seconds) in [(1, 'a', 4), (1, 'b', 2), (2, 'a', 2), (2, 'b', 2)] {
        let urgent = Terms { priority: 9, ..LOAD.terms };
        let flood = Load { tenant: 1, class: 'a', per_second: 2_000.0, terms: urgent, ..LOAD };
        let low = Load { tenant, class, per_second: 5.0, ..LOAD };
        let fates = simulate(rule(1, 32), Model { fixed: 20.0, item: 1.0 }, &[flood, low], 20);
        let starved = fates[&1].starved;
        assert!(starved < seconds * 1_000_000, "{tenant} {class}: {starved} µs");
    }
}

#[test]
fn an_item_that_others_wait_for_is_sent_from_the_place_that_comes_first() {
    let tenant = |digest| Terms { tenant: Tenant::of_digest(digest), ..of(1) };
    // On which terms another request would have submitted the last item of a list, and the batch in which it is then.
    for (terms, batch) in [
        (None, 10),
        (Some(tenant(2)), 1),
        (Some(Terms { priority: 5, ..tenant(1) }), 1),
        // A short request takes turns with a list.
        (Some(tenant(1)), 2),
    ] {
        let (start, mut scheduler) = (Instant::now(), Scheduler::new(slots(1), Box::new(Gather)));
        let list = (0..30_u32).map(|item| (item, tenant(1))).collect();
        scheduler.arrive_together(vec![('a', list)], start, |_| true).expect("the queue has room");
        if let Some(terms) = terms {
            assert!(scheduler.hasten(&'a', vec![(29, terms)], start), "{terms:?}");
        }
        let (mut sent, mut batches) = (Vec::new(), Vec::new());
        while let Next::Send(next) = scheduler.next(start, |item| !sent.contains(item)) {
            scheduler.finished(&next.queue_id, &RETURNED, start);
            sent.extend(next.items.iter().copied());
            batches.push(next.items);
        }
        let found = batches.iter().position(|items| items.contains(&29));
        assert_eq!(found, Some(batch - 1), "{terms:?}: {batches:?}");
        sent.sort_unstable();
        assert_eq!(sent, (0..30).collect::<Vec<_>>(), "{terms:?}: each once");
        assert!(scheduler.is_idle() && scheduler.classes() == 0);
    }
}

#[test]
fn what_waits_gets_no_further_place_where_there_is_no_room_or_nothing_waits() {
    let (now, mut scheduler) = (Instant::now(), Scheduler::new(slots(1), Box::new(Gather)));
    assert!(!scheduler.hasten(&'a', vec![(0, of(1))], now), "nothing waits");
    for item in 0..9 {
        scheduler.arrive(&'a', item, of(1), now, |_| true).expect("the queue has room");
    }
    assert!(!scheduler.hasten(&'a', vec![(8, Terms { priority: 9, ..of(1) })], now), "the tenant has all of it");
    let other = Terms { tenant: Tenant::of_digest(2), ..of(1) };
    assert!(scheduler.hasten(&'a', vec![(8, other)], now), "the other one has nothing");
}

/// Sends at once, and has measured a model that takes as long for one item as for many.
#[derive(Debug)]
struct Flat;

impl Pace for Flat {
    fn on_arrival(&mut self, _: u64, _: Instant, _: usize) {}

    fn on_batch(&mut self, _: u64, _: &Returned, _: Instant) {}

    fn next(&mut self, _: &Outlook) -> Verdict {
        Verdict::Send(Why::Idle)
    }

    fn estimate(&self) -> Option<Estimate> {
        Some(Estimate { fixed: Duration::from_millis(40), per_item: Duration::ZERO, held: Duration::ZERO })
    }
}

#[test]
fn a_tenant_whose_items_are_sent_alone_has_its_share_of_the_slots_and_no_more() {
    let rule = slots(1);
    let full = rule.former.size_max;
    let (mut now, mut scheduler) = (Instant::now(), Scheduler::new(rule, Box::new(Flat)));
    let (lists, alone) = (Tenant::of_digest(1), Tenant::of_digest(2));
    let mut sent = [0_usize; 2];
    for _ in 0..200 {
        let list = (0..full).map(|_| (0_usize, Terms { tenant: lists, ..of(1) })).collect();
        // Both want more than there is; what the queue refuses doesn't matter.
        scheduler.arrive_together(vec![('a', list)], now, |_| true).ok();
        for class in ['b', 'c'] {
            let terms = Terms { tenant: alone, size_max: Some(1), ..of(1) };
            scheduler.arrive(&class, 1_usize, terms, now, |_| true).ok();
        }
        let Next::Send(batch) = scheduler.next(now, |_| true) else { panic!("a slot is free") };
        sent[batch.items[0]] += 1;
        now += Duration::from_millis(40);
        scheduler.finished(&batch.queue_id, &RETURNED, now);
    }
    assert!(sent[0].abs_diff(sent[1]) <= 4, "{sent:?}");
}
