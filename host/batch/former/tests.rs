use super::*;
use crate::batch::pace::{Gather, Returned};

const RULE: FormerRule =
    FormerRule { size_max: 10, bytes_max: 1_000, wait_max: Duration::from_millis(10), queue_max: 100 };

/// Returns the terms of an item without bounds of its own.
fn of(bytes: usize) -> Terms {
    Terms { bytes, ..Terms::default() }
}

/// What leaves when the model has nothing to do.
fn sent<T>(former: &mut Former<T>, now: Instant) -> Vec<T> {
    former.finished();
    match former.next(now, false, &Gather, |_| true) {
        Step::Send { items, .. } => items,
        Step::WaitUntil(_) | Step::Idle => Vec::new(),
    }
}

/// Returns a former of which a batch is under way, so that items gather.
fn busy(rule: FormerRule, start: Instant) -> Former<&'static str> {
    let mut former = Former::new(rule);
    former.arrive("first", of(1), start).unwrap();
    assert_eq!(sent(&mut former, start), ["first"]);
    former
}

#[test]
fn a_higher_priority_leaves_first_but_overtakes_nobody_who_has_waited_for_a_second() {
    let start = Instant::now();
    let with = |priority| Terms { priority, ..of(1) };
    let mut former = busy(FormerRule { size_max: 2, ..RULE }, start);
    for (item, priority) in [("low", 0), ("high", 9), ("low too", 0), ("high too", 9), ("middle", 5)] {
        former.arrive(item, with(priority), start).unwrap();
    }
    assert_eq!(former.priority(), Some(9));
    assert_eq!(sent(&mut former, start), ["high", "high too"]);
    assert_eq!(former.priority(), Some(5));
    assert_eq!(sent(&mut former, start), ["middle", "low"]);
    former.arrive("late", with(9), start + Duration::from_secs(1)).unwrap();
    assert_eq!(former.priority(), Some(9), "the highest of those that leave next");
    assert_eq!(sent(&mut former, start), ["low too", "late"]);
    assert_eq!(former.priority(), None);
}

#[test]
fn an_items_own_bounds_narrow_those_of_its_batch() {
    let start = Instant::now();
    let mut former = busy(RULE, start);
    for (item, size_max) in [("a", None), ("b", Some(3)), ("c", None), ("d", None), ("e", Some(0)), ("f", None)] {
        former.arrive(item, Terms { size_max, ..of(1) }, start).unwrap();
    }
    assert_eq!(sent(&mut former, start), ["a", "b", "c"]);
    assert_eq!(sent(&mut former, start), ["d"], "the next one wants to be alone");
    assert_eq!(sent(&mut former, start), ["e"]);
    assert_eq!(sent(&mut former, start), ["f"]);
}

#[test]
fn an_items_own_wait_ends_that_of_its_batch() {
    let start = Instant::now();
    let mut former = busy(RULE, start);
    former.arrive("patient", of(1), start).unwrap();
    let step = former.next(start, false, &Gather, |_| true);
    assert_eq!(step, Step::WaitUntil(start + Duration::from_millis(10)));
    let hasty = Terms { wait_max: Some(Duration::from_millis(2)), ..of(1) };
    former.arrive("hasty", hasty, start + Duration::from_millis(1)).unwrap();
    let step = former.next(start, false, &Gather, |_| true);
    assert_eq!(step, Step::WaitUntil(start + Duration::from_millis(3)));
    let step = former.next(start + Duration::from_millis(3), false, &Gather, |_| true);
    assert_eq!(step, Step::Send { items: vec!["patient", "hasty"], why: Why::Due });
}

#[test]
fn a_sweep_finds_the_gone_wherever_they_stand_and_looks_seldom() {
    let now = Instant::now();
    let mut former = Former::new(FormerRule { size_max: 2, ..RULE });
    for item in 0..6 {
        former.arrive(item, of(1), now).unwrap();
    }
    former.sweep(now, |item| item % 2 == 0);
    former.sweep(now + SWEEP_EVERY / 2, |_| panic!("it has just been swept"));
    assert_eq!(sent(&mut former, now), [0, 2]);
    former.sweep(now + SWEEP_EVERY, |_| false);
    assert_eq!(sent(&mut former, now), Vec::<i32>::new());
}

/// Never content, or too late.
#[derive(Debug)]
struct Waits(Duration);

impl Pace for Waits {
    fn on_batch(&mut self, _: &Returned) {}

    fn next(&self, outlook: &Outlook) -> Verdict {
        Verdict::WaitUntil(outlook.now + self.0)
    }
}

#[test]
fn a_pace_can_hold_nothing_longer_than_the_operator_allows_and_wakes_nobody_at_once() {
    let start = Instant::now();
    let mut former = Former::new(RULE);
    former.arrive("a", of(1), start).unwrap();
    let ten = start + Duration::from_millis(10);
    assert_eq!(former.next(start, false, &Waits(Duration::from_secs(9)), |_| true), Step::WaitUntil(ten));
    let step = former.next(ten, false, &Waits(Duration::from_secs(9)), |_| true);
    assert_eq!(step, Step::Send { items: vec!["a"], why: Why::Due });
    former.arrive("b", of(1), start).unwrap();
    let step = former.next(start, true, &Waits(Duration::ZERO), |_| true);
    assert_eq!(step, Step::Send { items: vec!["b"], why: Why::Due });
}
