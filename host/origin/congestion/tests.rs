//! Batches in simulated time at endpoints that differ: a batch that comes back is followed by another one, so that all
//! slots of the pool are always taken.

use fastrand::Rng;

use super::*;
use crate::origin::balance::{Member, Rank, Standing, pick, pick_for_batch};

/// An endpoint that works on so many batches at once, each for so many milliseconds; what comes beyond waits.
#[derive(Clone, Copy)]
struct Model {
    workers: usize,
    millis: f64,
}

const fn model(workers: usize, millis: f64) -> Model {
    Model { workers, millis }
}

/// A batch under way.
#[derive(Clone, Copy)]
struct Sent {
    member: usize,
    at: f64,
    back: f64,
    at_once: usize,
}

struct World {
    models: Vec<Model>,
    /// When each worker of each endpoint is free.
    free: Vec<Vec<f64>>,
    congestion: Vec<Congestion>,
    under_way: Vec<Sent>,
    expected: f64,
    measures: bool,
    now: f64,
    random: Rng,
}

impl World {
    /// Returns a pool of which all slots are taken. Batches go where they add most, if that is measured.
    fn new(models: &[Model], slots: usize, measures: bool) -> Self {
        let mut world = Self {
            models: models.to_vec(),
            free: models.iter().map(|model| vec![0.0; model.workers]).collect(),
            congestion: vec![Congestion::default(); models.len()],
            under_way: Vec::new(),
            expected: 0.0,
            measures,
            now: 0.0,
            random: Rng::with_seed(7),
        };
        for _ in 0..slots {
            world.send();
        }
        world
    }

    fn load(&self, member: usize) -> usize {
        self.under_way.iter().filter(|sent| sent.member == member).count()
    }

    /// The simulated time on the clock.
    fn uptime(&self) -> Uptime {
        Uptime(self.now as u64)
    }

    fn send(&mut self) {
        let loads = (0..self.models.len()).map(|member| self.load(member));
        let member = |load| Member { standing: Standing::Up, rank: Rank::default(), weight: 1, load, full: false };
        let members: Vec<Member> = loads.map(member).collect();
        let (now, random) = (self.uptime(), self.random.u64(..));
        let gains: Vec<f64> = self
            .congestion
            .iter()
            .zip(&members)
            .map(|(congestion, member)| congestion.gain(member.load, now))
            .collect();
        let is_measured = self.measures && self.expected > 0.0;
        let picked =
            if is_measured { pick_for_batch(&members, &gains, &[], random) } else { pick(&members, &[], random) };
        let member = picked.unwrap();
        let took = self.models[member].millis * (0.8 + 0.4 * self.random.f64());
        let workers = &mut self.free[member];
        let first = workers.iter().copied().fold(f64::INFINITY, f64::min);
        let at = workers.iter().position(|free| *free == first).unwrap();
        let back = self.now.max(first) + took;
        workers[at] = back;
        let at_once = members[member].load + 1;
        self.under_way.push(Sent { member, at: self.now, back, at_once });
    }

    /// Lets so many batches come back, and returns how many were worked on at once, in batches of the first endpoint.
    fn pass(&mut self, batches: usize) -> f64 {
        let from = self.now;
        for _ in 0..batches {
            let first = self.under_way.iter().map(|sent| sent.back).fold(f64::INFINITY, f64::min);
            let at = self.under_way.iter().position(|sent| sent.back == first).unwrap();
            let Sent { member, at, back, at_once } = self.under_way.swap_remove(at);
            self.now = back;
            let took = back - at;
            self.expected = if self.expected > 0.0 { 0.98 * self.expected + 0.02 * took } else { took };
            let now = self.uptime();
            self.congestion[member].add(at_once, took / self.expected, now);
            self.send();
        }
        batches as f64 * self.models[0].millis / (self.now - from)
    }
}

/// Returns the work of a pool after it has settled, by what is measured and by chance.
fn work(models: &[Model], slots: usize) -> (f64, f64) {
    let of = |measures: bool| {
        let mut world = World::new(models, slots, measures);
        world.pass(2_000);
        world.pass(4_000)
    };
    (of(true), of(false))
}

#[test]
fn as_many_slots_as_endpoints_are_one_batch_for_each() {
    let (measured, by_chance) = work(&[model(1, 28.0); 8], 8);
    assert!(measured > 7.8 && by_chance < 7.0, "{measured} of 8 at work, by chance {by_chance}");
}

#[test]
fn an_endpoint_that_works_on_one_at_a_time_has_one_beside_a_parallel_one() {
    let (measured, by_chance) = work(&[model(1, 28.0), model(4, 28.0)], 5);
    assert!(measured > 4.8 && by_chance < 4.0, "{measured} of 5 at work, by chance {by_chance}");
}

#[test]
fn a_slow_endpoint_has_few_while_a_quick_one_has_room_and_its_share_else() {
    let (measured, by_chance) = work(&[model(8, 28.0), model(4, 140.0)], 8);
    assert!(measured > 7.5 && by_chance < 6.0, "{measured} of 8 at work, by chance {by_chance}");
    // The quick one has no room for a second.
    let (measured, _) = work(&[model(1, 28.0), model(1, 140.0)], 2);
    assert!(measured > 1.15, "{measured} of 1.2");
}

#[test]
fn an_endpoint_that_has_stopped_holds_its_share_of_the_slots_and_no_more() {
    for slots in [3, 6, 12] {
        let mut world = World::new(&[model(4, 28.0); 3], slots, true);
        world.pass(500);
        world.models[1].millis = 1e9;
        world.pass(2_000);
        assert!(world.load(1) <= slots / 3 + 1, "{} of {slots}", world.load(1));
    }
}

#[test]
fn equal_endpoints_have_equal_loads() {
    let mut world = World::new(&[model(4, 28.0); 4], 8, true);
    for _ in 0..4_000 {
        world.pass(1);
        assert!((0..4).all(|member| world.load(member) <= 4), "at {}", world.now);
    }
}

#[test]
fn what_was_measured_long_ago_counts_for_nothing() {
    let mut congestion = Congestion::default();
    for batch in 0..40 {
        let at_once = 1 + batch % 3;
        congestion.add(at_once, at_once as f64, Uptime(1_000));
    }
    assert!(congestion.gain(2, Uptime(1_000)) < 0.05, "one at a time");
    assert!(congestion.gain(0, Uptime(1_000)) > 0.9);
    let later = Uptime(1_000 + FORGOTTEN_AFTER + 1);
    assert!((congestion.gain(2, later) - 1.0).abs() < f64::EPSILON);
    congestion.add(2, 1.0, later);
    assert_eq!(congestion.seen, 1);
}
