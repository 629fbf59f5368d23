//! The pace around the real scheduler, in simulated time, beside one that sends whenever a slot is free.

#[path = "../../../benches/support/simulation.rs"]
mod simulation;

use std::time::Duration;

use self::simulation::{Demand, FURTHER, Figures, FixedWait, Greedy, LOADS, Load, Model, Run};
use super::Adaptive;
use crate::batch;

/// What issues and benchmarks speak of, a quick one, one that takes the same for any batch, and one that gains little.
const MODELS: [Model; 4] = [
    Model { fixed: 0.02, per_item: 0.001 },
    Model { fixed: 0.005, per_item: 0.0002 },
    Model { fixed: 0.1, per_item: 0.0 },
    Model { fixed: 0.002, per_item: 0.003 },
];

const fn run(model: Model, load: Load, slots: usize, seed: u64) -> Run {
    Run { model, load, slots, wait_max: Duration::from_millis(10), seed, items: 1_500 }
}

fn adaptive(run: &Run) -> Figures {
    run.figures(Box::new(Adaptive::new()))
}

fn greedy(run: &Run) -> Figures {
    run.figures(Box::new(Greedy))
}

/// Checks that a run is never more than 2 % slower than a greedy one, nor more than 5 % later where it can't be slower.
fn assert_no_worse(run: &Run) {
    let (ours, theirs) = (adaptive(run), greedy(run));
    let said = format!("{}, {:?}, {} slots, seed {}", run.load.name, run.model, run.slots, run.seed);
    assert!(ours.rate >= 0.98 * theirs.rate, "{said}: {ours:?}, greedy {theirs:?}");
    let is_open = matches!(run.load.demand, Demand::Open { .. });
    assert!(!is_open || ours.p99 <= 1.05 * theirs.p99, "{said}: {ours:?}, greedy {theirs:?}");
}

/// Checks each in a thread of its own.
fn assert_none_worse(runs: impl IntoIterator<Item = Vec<Run>>) {
    std::thread::scope(|scope| {
        for runs in runs {
            scope.spawn(move || runs.iter().for_each(assert_no_worse));
        }
    });
}

#[test]
fn no_load_is_served_worse_than_greedily() {
    let all = |model, seed| LOADS.map(|load| run(model, load, 1, seed)).to_vec();
    assert_none_worse(MODELS.map(|model| all(model, 1)).into_iter().chain([all(MODELS[0], 2)]));
}

#[test]
fn neither_are_classes_lists_slow_clients_and_several_slots() {
    let further = [MODELS[0], MODELS[2]].map(|model| FURTHER.map(|load| run(model, load, 1, 3)).to_vec());
    let slots = [MODELS[0], MODELS[1]].map(|model| LOADS.map(|load| run(model, load, 2, 4)).to_vec());
    assert_none_worse(further.into_iter().chain(slots));
}

#[test]
fn clients_that_ask_again_come_to_share_their_batches() {
    for (name, part) in [("8 looping", 0.9), ("24 looping", 0.9), ("64 looping", 0.97)] {
        for seed in 1..=3 {
            let load = LOADS.into_iter().find(|load| load.name == name).unwrap();
            let run = run(MODELS[0], load, 1, seed);
            let (ours, ideal) = (adaptive(&run), run.ideal().unwrap());
            assert!(ours.rate >= part * ideal, "{name}, seed {seed}: {ours:?} of {ideal} a second");
        }
    }
}

#[test]
fn a_lone_client_is_never_kept_waiting() {
    for model in MODELS {
        let lone = LOADS.into_iter().find(|load| load.name == "1 looping").unwrap();
        let run = run(model, lone, 1, 1);
        let (ours, theirs, fixed) = (adaptive(&run), greedy(&run), run.figures(Box::new(FixedWait)));
        assert_eq!((ours.p50, ours.p99, ours.size), (theirs.p50, theirs.p99, 1.0), "{model:?}");
        assert!(fixed.p50 >= theirs.p50 + 0.0099, "what a fixed wait does: {fixed:?}");
    }
}

#[test]
fn the_operators_bound_stands() {
    let eight = LOADS.into_iter().find(|load| load.name == "8 looping").unwrap();
    let of = |wait_max| adaptive(&Run { wait_max, ..run(MODELS[0], eight, 1, 1) });
    let (none, some) = (of(Duration::ZERO), of(Duration::from_millis(10)));
    let theirs = greedy(&run(MODELS[0], eight, 1, 1));
    assert_eq!(none, theirs, "a bound of nothing makes it greedy");
    assert!(some.rate > 1.3 * none.rate, "{some:?} and {none:?}");
}

#[test]
fn a_seed_makes_the_same_figures_again() {
    for load in &LOADS[8..] {
        let run = run(MODELS[0], *load, 2, 5);
        assert_eq!(adaptive(&run), adaptive(&run), "{}", load.name);
    }
}
