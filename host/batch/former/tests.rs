use super::*;
use crate::batch::{
    pace::{Gather, Returned},
    shares::by_tenant,
};

const RULE: FormerRule =
    FormerRule { size_max: 10, bytes_max: 1_000, padded: false, wait_max: Duration::from_millis(10), queue_max: 100 };

const A: Tenant = Tenant::of_digest(1);
const B: Tenant = Tenant::of_digest(2);

/// Returns the terms of an item without bounds of its own.
fn of(bytes: usize) -> Terms {
    Terms { bytes, ..Terms::default() }
}

/// A former with its tenants.
struct Bench<T> {
    former: Former<T>,
    shares: Shares,
    /// Since when a slot has been free; for long, if nothing is said.
    free_since: Option<Instant>,
}

impl<T> Bench<T> {
    fn new(rule: FormerRule) -> Self {
        Self { former: Former::new(rule), shares: Shares::new(8, rule.bytes_max as u64), free_since: None }
    }

    fn arrive(&mut self, item: T, terms: Terms, now: Instant) {
        self.arrive_together(vec![(item, terms)], now);
    }

    fn arrive_together(&mut self, items: Vec<(T, Terms)>, now: Instant) {
        self.former.arrive(items[0].1.tenant, items, now, &mut self.shares);
    }

    fn step(&mut self, now: Instant, pace: &mut dyn Pace) -> Step<T> {
        let tenant = self.former.queues.keys().copied().min_by_key(|tenant| self.shares.standing(*tenant));
        let since = self.free_since.or(now.checked_sub(Duration::from_secs(60))).unwrap_or(now);
        let offer = Offer { class: 0, since, free: 1, slots: 1, freed: false };
        let turn = Turn { now, tenant: tenant.unwrap_or_default(), offer, crowded: false, guarded: false };
        self.former.next(&turn, pace, &mut self.shares, |_| true)
    }

    /// Returns what leaves when the model has nothing to do.
    fn sent(&mut self, now: Instant) -> Vec<T> {
        self.former.finished();
        match self.step(now, &mut Gather) {
            Step::Send { items, costs, .. } => {
                self.shares.serve(&by_tenant(&costs));
                items
            }
            Step::WaitUntil(_) | Step::Idle => Vec::new(),
        }
    }

    fn priority(&self) -> Option<u8> {
        self.former.rank(Tenant::default()).map(|rank| rank.priority)
    }
}

/// Returns a former of which a batch is under way, so that items gather.
fn busy(rule: FormerRule, start: Instant) -> Bench<&'static str> {
    let mut bench = Bench::new(rule);
    bench.arrive("first", of(1), start);
    assert_eq!(bench.sent(start), ["first"]);
    bench
}

#[test]
fn a_higher_priority_leaves_first_but_overtakes_nobody_who_has_waited_for_a_second() {
    let start = Instant::now();
    let with = |priority| Terms { priority, ..of(1) };
    let mut bench = busy(FormerRule { size_max: 2, ..RULE }, start);
    for (item, priority) in [("low", 0), ("high", 9), ("low too", 0), ("high too", 9), ("middle", 5)] {
        bench.arrive(item, with(priority), start);
    }
    assert_eq!(bench.priority(), Some(9));
    assert_eq!(bench.sent(start), ["high", "high too"]);
    assert_eq!(bench.priority(), Some(5));
    assert_eq!(bench.sent(start), ["middle", "low"]);
    bench.arrive("late", with(9), start + Duration::from_secs(1));
    assert_eq!(bench.priority(), Some(9), "the highest of those that leave next");
    assert_eq!(bench.sent(start), ["low too", "late"]);
    assert_eq!(bench.priority(), None);
}

#[test]
fn within_a_priority_the_earliest_deadline_leaves_first() {
    let start = Instant::now();
    let mut bench = busy(FormerRule { size_max: 2, ..RULE }, start);
    for (item, priority, seconds) in [("never", 0, None), ("late", 0, Some(9)), ("soon", 0, Some(3)), ("high", 1, None)]
    {
        let deadline = seconds.map(|seconds| start + Duration::from_secs(seconds));
        bench.arrive(item, Terms { priority, deadline, ..of(1) }, start);
    }
    assert_eq!(bench.sent(start), ["high", "soon"]);
    assert_eq!(bench.sent(start), ["late", "never"]);
}

#[test]
fn an_items_own_bounds_narrow_those_of_its_batch() {
    let start = Instant::now();
    let mut bench = busy(RULE, start);
    for (item, size_max) in [("a", None), ("b", Some(3)), ("c", None), ("d", None), ("e", Some(0)), ("f", None)] {
        bench.arrive(item, Terms { size_max, ..of(1) }, start);
    }
    assert_eq!(bench.sent(start), ["a", "b", "c"]);
    assert_eq!(bench.sent(start), ["d"], "the next one wants to be alone");
    assert_eq!(bench.sent(start), ["e"]);
    assert_eq!(bench.sent(start), ["f"]);
}

#[test]
fn an_items_own_wait_ends_that_of_its_batch() {
    let start = Instant::now();
    let after = |millis| start + Duration::from_millis(millis);
    let mut bench = busy(RULE, start);
    bench.arrive("patient", of(1), start);
    assert_eq!(bench.step(start, &mut Gather), Step::WaitUntil(after(10)));
    bench.arrive("hasty", Terms { wait_max: Some(Duration::from_millis(2)), ..of(1) }, after(1));
    assert_eq!(bench.step(after(1), &mut Gather), Step::WaitUntil(after(3)));
    bench.arrive("urgent", Terms { deadline: Some(after(2)), ..of(1) }, after(1));
    assert_eq!(bench.step(after(1), &mut Gather), Step::WaitUntil(after(2)));
    let Step::Send { items, why, .. } = bench.step(after(2), &mut Gather) else { panic!("it is due") };
    assert_eq!((items, why), (vec!["urgent", "patient", "hasty"], Why::Due));
}

#[test]
fn lists_take_turns_with_what_comes_after_them() {
    let now = Instant::now();
    let mut bench = Bench::new(FormerRule { size_max: 2, ..RULE });
    bench.arrive_together((0..5).map(|item| (item, of(1))).collect(), now);
    bench.arrive(10, of(1), now);
    bench.arrive_together((20..23).map(|item| (item, of(1))).collect(), now);
    let batches: Vec<Vec<i32>> = (0..5).map(|_| bench.sent(now)).collect();
    assert_eq!(batches, [vec![0, 1], vec![10, 20], vec![2, 3], vec![21, 22], vec![4]]);
}

#[test]
fn tenants_share_a_batch_by_what_they_have_been_served() {
    let now = Instant::now();
    let mut bench = Bench::new(FormerRule { size_max: 4, ..RULE });
    for item in 0..8 {
        bench.arrive(item, Terms { tenant: A, ..of(1) }, now);
    }
    for item in 10..13 {
        bench.arrive(item, Terms { tenant: B, ..of(1) }, now);
    }
    assert_eq!(bench.sent(now), [0, 10, 1, 11]);
    bench.arrive(13, Terms { tenant: B, ..of(900) }, now);
    assert_eq!(bench.sent(now), [2, 12, 3, 13]);
    bench.arrive(14, Terms { tenant: B, ..of(1) }, now);
    assert_eq!(bench.sent(now), [4, 5, 6, 14], "a larger item costs more");
    assert_eq!(bench.sent(now), [7]);
}

#[test]
fn where_padding_costs_similar_lengths_are_sent_together() {
    let now = Instant::now();
    let mut bench = Bench::new(FormerRule { padded: true, bytes_max: 100, ..RULE });
    for bytes in [20, 50, 21, 1, 19, 2, 22, 500, 20] {
        bench.arrive(bytes, of(bytes), now);
    }
    // The budget is the longest times their number.
    assert_eq!(bench.sent(now), [20, 20, 21, 19]);
    assert_eq!(bench.sent(now), [50, 22], "the first in order is in, whatever fits it");
    assert_eq!(bench.sent(now), [1, 2]);
    assert_eq!(bench.sent(now), [500], "what is larger than a batch may be is sent alone");
    assert_eq!((bench.sent(now), bench.shares.items(), bench.shares.places()), (vec![], 0, 0));
}

#[test]
fn a_list_takes_places_for_two_batches_at_most() {
    let now = Instant::now();
    let mut bench = Bench::new(FormerRule { size_max: 2, ..RULE });
    bench.arrive_together((0..7).map(|item| (item, of(1))).collect(), now);
    let mut seen = vec![(bench.shares.items(), bench.shares.places())];
    while !bench.sent(now).is_empty() {
        seen.push((bench.shares.items(), bench.shares.places()));
    }
    assert_eq!(seen, [(7, 4), (5, 4), (3, 3), (1, 1), (0, 0)]);
}

#[test]
fn a_sweep_finds_the_gone_wherever_they_stand() {
    let now = Instant::now();
    let mut bench = Bench::new(FormerRule { size_max: 2, ..RULE });
    for item in 0..6 {
        bench.arrive(item, of(1), now);
    }
    bench.former.sweep(&mut bench.shares, |item| item % 2 == 0);
    assert_eq!((bench.sent(now), bench.shares.items()), (vec![0, 2], 1));
    bench.former.sweep(&mut bench.shares, |_| false);
    assert_eq!((bench.sent(now), bench.shares.items()), (vec![], 0));
}

#[test]
fn what_has_passed_its_deadline_is_taken_out_and_the_rest_stays() {
    let now = Instant::now();
    let after = |millis| now + Duration::from_millis(millis);
    let mut bench = Bench::new(RULE);
    let list = [(1, 5), (2, 7), (3, 5)].map(|(item, millis)| (item, Terms { deadline: Some(after(millis)), ..of(1) }));
    bench.arrive_together(list.to_vec(), now);
    bench.arrive(4, of(1), now);
    let mut expired = Vec::new();
    bench.former.expire(after(4), &mut bench.shares, &mut expired);
    assert_eq!((&expired[..], bench.former.first_deadline()), (&[][..], Some(after(5))));
    bench.former.expire(after(5), &mut bench.shares, &mut expired);
    assert_eq!((&expired[..], bench.former.first_deadline()), (&[1, 3][..], Some(after(7))));
    assert_eq!(bench.shares.items(), 2);
    assert_eq!(bench.sent(after(5)), [2, 4]);
}

#[test]
fn what_its_request_no_longer_waits_for_stays_and_goes_first() {
    let now = Instant::now();
    let after = |millis| now + Duration::from_millis(millis);
    let mut bench = busy(FormerRule { size_max: 1, ..RULE }, now);
    bench.arrive("anytime", of(1), now);
    bench.arrive("soon", Terms { wanted_by: Some(after(5)), ..of(1) }, now);
    let mut expired = Vec::new();
    bench.former.expire(after(9), &mut bench.shares, &mut expired);
    assert!(expired.is_empty() && bench.former.first_deadline().is_none(), "others may wait for it");
    assert_eq!(bench.sent(after(9)), ["soon"]);
}

/// Never content, or too late.
#[derive(Debug)]
struct Waits(Duration);

impl Pace for Waits {
    fn on_arrival(&mut self, _: u64, _: Instant, _: usize) {}

    fn on_batch(&mut self, _: u64, _: &Returned, _: Instant) {}

    fn next(&mut self, outlook: &Outlook) -> Verdict {
        Verdict::WaitUntil(outlook.now + self.0)
    }
}

#[test]
fn a_pace_can_hold_nothing_longer_than_the_operator_allows_and_wakes_nobody_at_once() {
    let start = Instant::now();
    let mut bench = Bench::new(RULE);
    bench.arrive("a", of(1), start);
    let ten = start + Duration::from_millis(10);
    assert_eq!(bench.step(start, &mut Waits(Duration::from_secs(9))), Step::WaitUntil(ten));
    for (mut pace, at, wanted) in [(Waits(Duration::from_secs(9)), ten, "a"), (Waits(Duration::ZERO), start, "b")] {
        let Step::Send { items, why, .. } = bench.step(at, &mut pace) else { panic!("{wanted} is due") };
        assert_eq!((items, why), (vec![wanted], Why::Due));
        bench.arrive("b", of(1), start);
    }
}

#[test]
fn a_wait_counts_from_when_a_slot_was_free() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut bench = Bench::new(RULE);
    bench.arrive("a", of(1), start);
    bench.arrive("hasty", Terms { wait_max: Some(Duration::from_millis(4)), ..of(1) }, at(52));
    let mut patient = Waits(Duration::from_secs(9));
    bench.free_since = Some(at(50));
    let step = bench.step(at(52), &mut patient);
    assert_eq!(step, Step::WaitUntil(at(56)), "the one that came before had to wait, and hasn't chosen to");
    let Step::Send { items, why, .. } = bench.step(at(56), &mut patient) else { panic!("both are due") };
    assert_eq!((items, why), (vec!["a", "hasty"], Why::Due));
    bench.arrive("b", of(1), start);
    bench.free_since = Some(at(57));
    assert_eq!(bench.step(at(57), &mut patient), Step::WaitUntil(at(67)));
}
