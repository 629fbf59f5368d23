//! When a batch leaves: the adaptive pace beside a greedy one and a fixed wait, around the real scheduler in simulated
//! time. Without sockets: it shows the rule, and nothing of the machine.
//! `cargo bench --bench batching`

#[path = "support/simulation.rs"]
mod simulation;

use std::time::Duration;

use holm::batch;
use simulation::{FURTHER, Figures, FixedWait, Greedy, LOADS, Load, Model, Run};

const MODELS: [(&str, Model); 4] = [
    ("20 ms + 1 ms·n", Model { fixed: 0.02, per_item: 0.001 }),
    ("5 ms + 0.2 ms·n", Model { fixed: 0.005, per_item: 0.0002 }),
    ("100 ms", Model { fixed: 0.1, per_item: 0.0 }),
    ("2 ms + 3 ms·n", Model { fixed: 0.002, per_item: 0.003 }),
];

const SEEDS: u64 = 5;

fn main() {
    // Without `cargo bench`, as in `cargo test --all-targets`, it is only to be seen that it runs.
    let items = if std::env::args().any(|argument| argument == "--bench") { 10_000 } else { 200 };
    for (name, model) in MODELS {
        println!("\nA model of {name}, at most 32 items a batch, one slot. Greedy = 1.00.");
        heading();
        for load in LOADS.into_iter().chain(FURTHER) {
            row(model, load, 1, items);
        }
    }
    println!("\nThe first of them with two slots.");
    heading();
    for load in LOADS {
        row(MODELS[0].1, load, 2, items);
    }
}

fn heading() {
    println!(
        "{:28} {:>9} {:>9} {:>9} {:>6} {:>6} {:>6} | {:>6} {:>7} {:>6}",
        "", "greedy/s", "10 ms/s", "ours/s", "rate", "p50", "p99", "ideal", "greedy", "10 ms"
    );
}

/// Prints the means of a few seeds; the shares of the ideal only where there is one.
fn row(model: Model, load: Load, slots: usize, items: usize) {
    let runs: Vec<[Figures; 3]> = (1..=SEEDS)
        .map(|seed| {
            let run = Run { model, load, slots, wait_max: Duration::from_millis(10), seed, items };
            let paces: [Box<dyn batch::Pace>; 3] =
                [Box::new(Greedy), Box::new(FixedWait), Box::new(batch::Adaptive::new())];
            paces.map(|pace| run.figures(pace))
        })
        .collect();
    let mean = |of: fn(&Figures) -> f64| {
        [0, 1, 2].map(|pace| runs.iter().map(|run| of(&run[pace])).sum::<f64>() / SEEDS as f64)
    };
    let [greedy, fixed, ours] = mean(|figures| figures.rate);
    let share = |[greedy, _, ours]: [f64; 3]| ours / greedy;
    let (p50, p99) = (share(mean(|figures| figures.p50)), share(mean(|figures| figures.p99)));
    let sizes = mean(|figures| figures.size);
    let run = Run { model, load, slots, wait_max: Duration::ZERO, seed: 0, items };
    let ideal = run
        .ideal()
        .filter(|_| slots == 1)
        .map_or_else(String::new, |ideal| format!("{:6.2} {:7.2} {:6.2}", ours / ideal, greedy / ideal, fixed / ideal));
    println!(
        "{:28} {greedy:9.1} {fixed:9.1} {ours:9.1} {:6.2} {p50:6.2} {p99:6.2} | {ideal:21} {:4.1} a batch, greedy {:4.1}",
        load.name,
        ours / greedy,
        sizes[2],
        sizes[0],
    );
}
