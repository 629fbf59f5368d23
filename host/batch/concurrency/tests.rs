//! The slots by sequences of batches, and in simulated time with the real scheduler and its pace in front of a model.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use fastrand::Rng;
use proptest::prelude::*;

use super::*;
use crate::batch::{
    former::{FormerRule, Terms},
    overdue::OverdueRule,
    pace::{Adaptive, Outlook, Verdict, Why},
    scheduler::{Batch, Next, QueueId, Scheduler, SchedulerRule},
};

/// Knows what a batch takes: 20 ms, and 1 ms for each item.
#[derive(Debug)]
struct Known;

impl Pace for Known {
    fn on_arrival(&mut self, _: u64, _: Instant, _: usize) {}

    fn on_batch(&mut self, _: u64, _: &Returned, _: Instant) {}

    fn next(&mut self, _: &Outlook) -> Verdict {
        Verdict::Send(Why::Idle)
    }

    fn expected(&self, _: u64, _: Option<&Arc<str>>, items: usize) -> Option<Duration> {
        Some(Duration::from_millis(20 + items as u64))
    }
}

/// Batches of four that come back one after the other.
struct Feed {
    concurrency: Concurrency,
    now: Instant,
}

impl Feed {
    fn new(least: usize, bound: usize) -> Self {
        Self { concurrency: Concurrency::new(least, bound), now: Instant::now() }
    }

    /// Has a batch come back that took so many milliseconds, with so many under way.
    fn back(&mut self, at_once: usize, millis: u64, outcome: Outcome) {
        self.concurrency.observe(at_once, self.now);
        let took = Duration::from_millis(millis);
        self.now += took;
        let returned = Returned { items: 4, took, outcome, endpoint: None };
        self.concurrency.on_batch(0, &returned, self.now, &Known);
    }

    /// Has so many come back with all slots taken, and returns the slots after that.
    fn saturate(&mut self, batches: usize, millis: impl Fn(usize) -> u64) -> usize {
        for _ in 0..batches {
            let slots = self.concurrency.slots();
            self.back(slots, millis(slots), Outcome::Responded);
        }
        self.concurrency.slots()
    }
}

/// The milliseconds of a batch at a model that works on so many at once.
fn workers(count: usize) -> impl Fn(usize) -> u64 {
    move |at_once| 24 * at_once.max(count) as u64 / count as u64
}

#[test]
fn a_model_that_works_on_one_batch_after_the_other_comes_to_have_one() {
    for bound in [2, 3, 4, 16, 64] {
        let mut feed = Feed::new(1, bound);
        assert_eq!(feed.saturate(FEWER_AFTER as usize - 1, workers(1)), bound, "nothing is tried before");
        feed.saturate(600, workers(1));
        assert_eq!(feed.concurrency.limit, 1, "of {bound}");
    }
}

#[test]
fn a_model_that_works_on_several_at_once_keeps_as_many() {
    for (bound, count, least, most) in [(4, 4, 4, 4), (8, 4, 4, 5), (64, 8, 8, 10), (2, 2, 2, 2), (3, 5, 3, 3)] {
        let mut feed = Feed::new(1, bound);
        feed.saturate(20_000, workers(count));
        let limit = feed.concurrency.limit;
        assert!((least..=most).contains(&limit), "{limit} of {bound} for {count}");
    }
}

#[test]
fn what_shows_without_a_trial_needs_none() {
    for (millis, limit) in [(24, 2), (48, 1)] {
        let mut feed = Feed::new(1, 2);
        for _ in 0..40 {
            feed.back(1, 24, Outcome::Responded);
            feed.back(2, millis, Outcome::Responded);
        }
        assert_eq!(feed.concurrency.limit, limit, "{millis} ms with two at once");
    }
}

#[test]
fn a_lucky_or_unlucky_batch_is_not_taken_for_the_model() {
    let mut feed = Feed::new(1, 2);
    for round in 0..1_000 {
        let lucky = if round % 50 == 0 { 1 } else { 24 };
        let unlucky = if round % 50 == 25 { 3_000 } else { 24 };
        feed.back(1, lucky, Outcome::Responded);
        feed.back(2, unlucky, Outcome::Responded);
        assert_eq!(feed.concurrency.slots(), 2, "round {round}");
    }
}

#[test]
fn more_are_tried_again_after_a_while_and_only_if_all_are_taken() {
    let mut feed = Feed::new(1, 2);
    feed.saturate(2_100, workers(1));
    assert_eq!(feed.concurrency.limit, 1);
    // Batches with pauses that are longer than they are.
    for _ in 0..1_000 {
        feed.back(1, 24, Outcome::Responded);
        feed.concurrency.observe(0, feed.now);
        feed.now += Duration::from_millis(100);
        assert_eq!(feed.concurrency.slots(), 1);
    }
    feed.saturate(200, workers(2));
    assert_eq!(feed.concurrency.limit, 2, "the model works on two now");
}

#[test]
fn a_trial_of_fewer_in_which_nothing_comes_back_is_given_up() {
    let mut feed = Feed::new(1, 2);
    assert_eq!(feed.saturate(FEWER_AFTER as usize, workers(2)), 1, "one of two is tried");
    feed.concurrency.observe(1, feed.now);
    assert_eq!(feed.concurrency.patience(0, feed.now), None, "what isn't taken is not stuck");
    let until = feed.concurrency.patience(1, feed.now).unwrap();
    assert_eq!(until, feed.now + Duration::from_millis(4 * 24), "four times as long as one took");
    assert_eq!((feed.concurrency.patience(1, until), feed.concurrency.slots()), (None, 2));
}

#[test]
fn an_endpoint_that_has_too_many_gets_fewer_and_then_one_more_after_the_other() {
    let mut feed = Feed::new(1, 8);
    // Those that were sent before the limit was lowered don't lower it again.
    let begun = feed.now;
    for batch in 0..16 {
        // Half of them.
        feed.back(8, 5, if batch % 2 == 0 { Outcome::Responded } else { Outcome::Overloaded });
    }
    for _ in 0..7 {
        let returned = Returned { items: 4, took: feed.now - begun, outcome: Outcome::Overloaded, endpoint: None };
        feed.concurrency.on_batch(0, &returned, feed.now, &Known);
    }
    assert_eq!(feed.concurrency.slots(), 4);
    for slots in 5..=6 {
        feed.saturate(MORE_AFTER as usize, workers(8));
        assert_eq!(feed.concurrency.slots(), slots, "one more is tried");
        feed.saturate(TRIAL_MIN, workers(8));
        assert_eq!(feed.concurrency.limit, slots);
    }
    feed.saturate(MORE_AFTER as usize, workers(8));
    feed.back(7, 5, Outcome::Overloaded);
    assert_eq!(feed.concurrency.slots(), 6, "it refused the seventh");
    assert_eq!(feed.saturate(MORE_AFTER as usize, workers(8)), 6, "which is tried less often from then on");
}

#[test]
fn refusals_that_fewer_batches_under_way_do_not_make_rarer_cost_no_slots_for_long() {
    for seed in 0..20 {
        let (mut feed, mut random, mut sum) = (Feed::new(1, 8), Rng::with_seed(seed), 0);
        for _ in 0..5_000 {
            let outcome = if random.f64() < 0.05 { Outcome::Overloaded } else { Outcome::Responded };
            feed.back(feed.concurrency.slots(), 24, outcome);
            assert!(feed.concurrency.limit >= 4, "{seed}: {} of 8", feed.concurrency.limit);
            sum += feed.concurrency.limit;
        }
        assert!(sum >= 7 * 5_000, "{seed}: {sum} in 5000 batches");
        feed.saturate(1_000, workers(8));
        assert_eq!(feed.concurrency.limit, 8, "{seed}");
    }
}

#[test]
fn an_endpoint_that_is_not_overloaded_any_more_soon_gets_all_batches_again() {
    // Quick batches, and such that only a few come in minutes.
    for (millis, batches_max) in [(24, 600), (5_000, 150)] {
        let mut feed = Feed::new(1, 8);
        for batch in 0..3_000 {
            let slots = feed.concurrency.slots();
            feed.back(slots, millis, if batch % slots >= 2 { Outcome::Overloaded } else { Outcome::Responded });
        }
        assert!(feed.concurrency.limit <= 3, "{} slots while it took two", feed.concurrency.limit);
        let mut batches = 0;
        while feed.concurrency.limit < 8 {
            feed.back(feed.concurrency.slots(), millis, Outcome::Responded);
            batches += 1;
            assert!(batches <= batches_max, "{millis} ms: {} slots", feed.concurrency.limit);
        }
    }
}

#[test]
fn the_operators_bounds_stand() {
    for (least, bound, wanted) in [(3, 8, 3), (8, 8, 8), (9, 8, 8), (0, 0, 1)] {
        let mut feed = Feed::new(least, bound);
        for _ in 0..400 {
            feed.back(bound, 24, Outcome::Overloaded);
        }
        assert_eq!(feed.concurrency.slots(), wanted, "{least} to {bound}");
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        20 => Just(Outcome::Responded),
        1 => Just(Outcome::Overloaded),
        1 => Just(Outcome::Failed),
        1 => Just(Outcome::Lost),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_back_the_slots_are_within_the_bounds(
        least in 0_usize..5,
        bound in 0_usize..20,
        batches in prop::collection::vec((0_usize..25, 0_u64..200, outcome()), 0..400),
    ) {
        let mut feed = Feed::new(least, bound);
        (feed.concurrency.fewer_after, feed.concurrency.more_after) = (5, 5);
        for (at_once, millis, outcome) in batches {
            feed.back(at_once, millis, outcome);
            let bound = bound.max(1);
            prop_assert!((least.clamp(1, bound)..=bound).contains(&feed.concurrency.slots()));
        }
    }
}

/// A model that takes 20 ms for a batch and 1 ms for each item, times `slowness`, for as many batches at once as it has
/// workers; what comes beyond waits for one.
#[derive(Clone, Copy)]
struct Model {
    workers: usize,
    slowness: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asks,
    Returns(usize),
    /// The scheduler wanted to be asked again; the latest of such wishes counts.
    Wakes(usize),
}

/// Clients that ask again when they have their responses, the scheduler and a model.
struct World {
    model: Model,
    scheduler: Scheduler<u8, u64>,
    random: Rng,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, usize, Event)>>,
    planned: usize,
    wakes: usize,
    /// When each worker is free.
    free: Vec<Instant>,
    /// Batches by their number: the queue they are from, their items, and when they were sent.
    sent: Vec<(QueueId<u8>, usize, Instant)>,
    asked: u64,
    last_sent: Option<u64>,
}

impl World {
    fn new(model: Model, clients: usize, least: usize, bound: usize) -> Self {
        let wait_max = Duration::from_millis(10);
        let former = FormerRule { size_max: 32, bytes_max: usize::MAX, padded: false, wait_max, queue_max: usize::MAX };
        let rule = SchedulerRule {
            former,
            concurrency: bound,
            concurrency_min: least,
            classes_max: 1,
            tenants_max: 1,
            overdue: OverdueRule::default(),
            guard: 0,
        };
        let mut world = Self {
            model,
            scheduler: Scheduler::new(rule, Box::new(Adaptive::new())),
            random: Rng::with_seed(7),
            now: Instant::now(),
            events: BinaryHeap::new(),
            planned: 0,
            wakes: 0,
            free: Vec::new(),
            sent: Vec::new(),
            asked: 0,
            last_sent: None,
        };
        for _ in 0..clients {
            let after = 0.005 * world.random.f64();
            world.plan(after, Event::Asks);
        }
        world
    }

    fn plan(&mut self, after: f64, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((self.now + Duration::from_secs_f64(after), self.planned, event)));
    }

    /// Lets so many batches come back, and returns the items a second and the slots that there were for most of them.
    fn pass(&mut self, batches: usize) -> (f64, usize) {
        let (from, mut items, mut slots) = (self.now, 0, Vec::new());
        while slots.len() < batches
            && let Some(Reverse((at, _, event))) = self.events.pop()
        {
            self.now = at;
            match event {
                Event::Wakes(wish) if wish != self.wakes => continue,
                Event::Wakes(_) => {}
                Event::Asks => self.ask(),
                Event::Returns(batch) => {
                    items += self.come_back(batch);
                    slots.push(self.scheduler.load().slots);
                }
            }
            self.settle();
        }
        slots.sort_unstable();
        (items as f64 / self.now.duration_since(from).as_secs_f64(), slots[batches / 2])
    }

    fn ask(&mut self) {
        let taken = self.scheduler.arrive(&0, self.asked, Terms::default(), self.now, |_| true);
        assert!(taken.is_ok(), "the queue has no limit");
        self.asked += 1;
    }

    fn come_back(&mut self, batch: usize) -> usize {
        let (queue_id, items, sent) = self.sent[batch].clone();
        let took = self.now.duration_since(sent);
        let returned = Returned { items, took, outcome: Outcome::Responded, endpoint: None };
        self.scheduler.finished(&queue_id, &returned, self.now);
        for _ in 0..items {
            let after = 0.0003 - 0.0007 * (1.0 - self.random.f64()).ln();
            self.plan(after, Event::Asks);
        }
        items
    }

    fn settle(&mut self) {
        self.wakes += 1;
        loop {
            match self.scheduler.next(self.now, |_| true) {
                Next::Send(Batch { queue_id, items, .. }) => {
                    for item in &items {
                        assert!(self.last_sent.is_none_or(|last| last < *item), "in the order of their arrival");
                        self.last_sent = Some(*item);
                    }
                    let back = self.serve(items.len()).duration_since(self.now).as_secs_f64();
                    self.plan(back, Event::Returns(self.sent.len()));
                    self.sent.push((queue_id, items.len(), self.now));
                }
                Next::WaitUntil(time) => {
                    let wish = self.wakes;
                    return self.plan(time.duration_since(self.now).as_secs_f64(), Event::Wakes(wish));
                }
                Next::Idle => return,
            }
        }
    }

    /// Gives a batch to the worker that is free first, and returns when it is back.
    fn serve(&mut self, items: usize) -> Instant {
        let Model { workers, slowness } = self.model;
        self.free.sort_unstable();
        self.free.resize(workers, self.now);
        let (at, free) = self.free.iter().enumerate().min_by_key(|(_, free)| **free).unwrap();
        let took = (0.02 + 0.001 * items as f64) * slowness * (0.95 + 0.1 * self.random.f64());
        let back = self.now.max(*free) + Duration::from_secs_f64(took);
        self.free[at] = back;
        back
    }
}

const SERIAL: Model = Model { workers: 1, slowness: 1.0 };
const PARALLEL: Model = Model { workers: 4, slowness: 1.0 };

#[test]
fn few_slots_for_a_serial_model_make_fuller_batches_and_lose_nothing() {
    let rate = |least, bound| {
        let mut world = World::new(SERIAL, 8, least, bound);
        world.pass(2_600);
        world.pass(600)
    };
    let ((adapted, slots), (one, _), (four, _)) = (rate(1, 4), rate(1, 1), rate(4, 4));
    assert!(slots <= 2, "{slots} slots");
    assert!(adapted >= 0.95 * one && adapted >= 1.2 * four, "{adapted} a second; with one {one}, with four {four}");
}

#[test]
fn a_model_of_four_workers_is_given_four() {
    for (clients, bound) in [(16, 4), (32, 8)] {
        let mut world = World::new(PARALLEL, clients, 1, bound);
        world.pass(2_400);
        let (adapted, slots) = world.pass(800);
        assert!((4..=bound).contains(&slots), "{slots} slots of {bound} for {clients} clients");
        let mut fixed = World::new(PARALLEL, clients, bound, bound);
        fixed.pass(800);
        let (all, _) = fixed.pass(800);
        // Which clients come to share a batch is chance.
        assert!(adapted >= 0.93 * all, "{clients} clients, {bound} slots: {adapted} a second; with all of them {all}");
    }
}

#[test]
fn a_model_that_becomes_slower_or_serial_is_followed() {
    let mut world = World::new(PARALLEL, 16, 1, 4);
    world.pass(300);
    world.model.slowness = 5.0;
    assert_eq!(world.pass(600).1, 4, "slower, it works on four as before");
    world.model.slowness = 1.0;
    assert_eq!(world.pass(300).1, 4, "quick again");
    world.model = SERIAL;
    world.pass(2_200);
    assert!(world.pass(200).1 <= 2, "it works on one now");
    world.model = PARALLEL;
    world.pass(1_500);
    assert_eq!(world.pass(200).1, 4, "and on four again");
}
