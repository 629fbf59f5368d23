//! A/B experiments: the draw of arms, and their results.

use std::time::Duration;

use parking_lot::Mutex;

use super::Input;
use crate::report::Estimate;

/// The standard normal distribution has 95 % of its mass within this distance of 0.
const Z_95: f64 = 1.959_963_984_540_054;

/// An experiment that a policy declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// Its name; it is part of the draw, so that experiments don't share their arms' clients.
    pub name: String,
    /// The input that is drawn by: requests with the same value get the same arm.
    pub unit: Input,
    /// The alternatives.
    pub arms: Vec<Arm>,
}

/// One of the alternatives of an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// Its share is this by the sum of all arms'.
    pub weight: u32,
}

impl Experiment {
    /// Returns the place of the arm that a unit gets: the same on every node and after every restart.
    #[must_use]
    pub fn draw(&self, unit: &[u8]) -> usize {
        let total = self.arms.iter().map(|arm| u64::from(arm.weight)).sum();
        let mut point = below(total, stable_hash(&[self.name.as_bytes(), unit]));
        let drawn = self.arms.iter().position(|arm| match point.checked_sub(u64::from(arm.weight)) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        });
        drawn.unwrap_or(0)
    }
}

/// Returns the first eight bytes of blake3 over parts, each after its length. Not for keys: too short to resist a
/// search for collisions.
#[must_use]
pub fn stable_hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Spreads hashes evenly over the numbers below `end`; 0 if there are none. A larger `end` moves none down.
#[must_use]
pub fn below(end: u64, hash: u64) -> u64 {
    ((u128::from(hash) * u128::from(end)) >> 64) as u64
}

/// The results of one arm. Shared by all requests that drew it.
#[derive(Debug, Default)]
pub struct Stats(Mutex<Sums>);

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    requests: u64,
    hits: u64,
    latency_us: u128,
    /// Of squares, so that the spread is known.
    latency_us_squared: u128,
    cost_micro: u128,
}

impl Stats {
    /// Records a request: whether it was a hit, its latency and its cost.
    pub fn record(&self, hit: bool, latency: Duration, cost_micro: u64) {
        // More than an hour is an hour: it bounds the sums.
        let latency_us = latency.as_micros().min(u128::from(u32::MAX));
        let mut sums = self.0.lock();
        sums.requests += 1;
        sums.hits += u64::from(hit);
        sums.latency_us += latency_us;
        sums.latency_us_squared += latency_us * latency_us;
        sums.cost_micro += u128::from(cost_micro);
    }

    /// Returns the results by now.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let sums = *self.0.lock();
        let Sums { requests, hits, cost_micro, .. } = sums;
        let asked = requests > 0;
        Summary {
            requests,
            hits,
            hit_rate: asked.then(|| rate(hits, requests)),
            latency_us: sums.latency_us(),
            cost_micro: asked.then(|| cost_micro as f64 / requests as f64),
        }
    }
}

impl Sums {
    /// By the normal approximation. The spread of a single one isn't known.
    fn latency_us(&self) -> Option<Estimate> {
        if self.requests < 2 {
            return None;
        }
        let count = self.requests as f64;
        let mean = self.latency_us as f64 / count;
        // Rounding can leave less than nothing if all took about the same.
        let variance = ((self.latency_us_squared as f64 - self.latency_us as f64 * mean) / (count - 1.0)).max(0.0);
        let half = Z_95 * (variance / count).sqrt();
        Some(Estimate { value: mean, low: (mean - half).max(0.0), high: mean + half })
    }
}

/// The results of one arm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Requests served.
    pub requests: u64,
    /// Those served from the cache.
    pub hits: u64,
    /// Hits by requests, with Wilson's interval. None if there was no request.
    pub hit_rate: Option<Estimate>,
    /// Mean latency in microseconds. None before the second request.
    pub latency_us: Option<Estimate>,
    /// Mean cost of a request in millionths of what the operator counts in. None if there was no request.
    pub cost_micro: Option<f64>,
}

/// Returns a share of trials, of which there was at least one, with Wilson's interval.
fn rate(hits: u64, trials: u64) -> Estimate {
    let (low, high) = wilson(hits, trials, Z_95);
    Estimate { value: hits as f64 / trials as f64, low, high }
}

/// By how much the hit rate of `one` is above that of `other`, with Newcombe's interval (his method 10): arms differ if
/// 0 lies outside it. None unless both had requests.
#[must_use]
pub fn difference(one: &Summary, other: &Summary) -> Option<Estimate> {
    let (one, other) = (one.hit_rate?, other.hit_rate?);
    let value = one.value - other.value;
    let below = (one.value - one.low).hypot(other.high - other.value);
    let above = (one.high - one.value).hypot(other.value - other.low);
    Some(Estimate { value, low: value - below, high: value + above })
}

/// Wilson's score interval of a share, as far out as `z` standard deviations. Unlike the textbook's it holds for few
/// trials and for shares near 0 and 1. Without trials it is everything.
#[must_use]
pub fn wilson(hits: u64, trials: u64, z: f64) -> (f64, f64) {
    if trials == 0 {
        return (0.0, 1.0);
    }
    let (hits, trials, z2) = (hits.min(trials) as f64, trials as f64, z * z);
    let share = hits / trials;
    let middle = (share + z2 / (2.0 * trials)) / (1.0 + z2 / trials);
    let half = z * (share * (1.0 - share) / trials + z2 / (4.0 * trials * trials)).sqrt() / (1.0 + z2 / trials);
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(name: &str, weights: &[u32]) -> Experiment {
        let arms = weights.iter().enumerate().map(|(at, weight)| Arm { name: format!("arm-{at}"), weight: *weight });
        Experiment { name: name.to_owned(), unit: Input::Method, arms: arms.collect() }
    }

    /// Returns how often each arm is drawn for the units `0` to `count`.
    fn drawn(experiment: &Experiment, count: u32) -> Vec<u32> {
        let mut times = vec![0; experiment.arms.len()];
        (0..count).for_each(|unit| times[experiment.draw(unit.to_string().as_bytes())] += 1);
        times
    }

    fn close(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() < 0.000_06
    }

    #[test]
    fn arms_get_their_shares() {
        for weights in [&[1][..], &[1, 1], &[9, 1], &[0, 3, 0, 7], &[u32::MAX, u32::MAX, u32::MAX], &[1; 16]] {
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            let count = 100_000;
            for (times, weight) in drawn(&experiment("size", weights), count).into_iter().zip(weights) {
                let (share, wanted) = (f64::from(times) / f64::from(count), f64::from(*weight) / total);
                assert!((share - wanted).abs() < 0.006, "{share} for {weight} of {weights:?}");
                assert!(*weight > 0 || times == 0);
            }
        }
    }

    #[test]
    fn a_draw_is_the_same_everywhere() {
        let size = experiment("size", &[1, 1, 1, 1]);
        let arms: Vec<usize> = ["", "a", "b", "c", "d", "e", "f", "g"].map(|unit| size.draw(unit.as_bytes())).into();
        assert_eq!(arms, [3, 2, 0, 3, 3, 2, 3, 2], "an update must not mix up running experiments");
    }

    #[test]
    fn experiments_are_independent_and_borders_count() {
        let (one, other) = (experiment("one", &[1, 1]), experiment("other", &[1, 1]));
        let both = (0..10_000_u32).filter(|unit| {
            let unit = unit.to_be_bytes();
            one.draw(&unit) == 0 && other.draw(&unit) == 0
        });
        assert!((2_300..2_700).contains(&both.count()));
        assert_ne!(stable_hash(&[b"ab", b"c"]), stable_hash(&[b"a", b"bc"]));
    }

    #[test]
    fn an_experiment_without_weights_draws_the_first() {
        for weights in [&[][..], &[0, 0]] {
            assert_eq!(experiment("none", weights).draw(b"a"), 0);
        }
    }

    #[test]
    fn raising_the_last_arm_moves_units_to_it_only() {
        let (before, after) = (experiment("size", &[9, 1]), experiment("size", &[5, 5]));
        for unit in 0..1_000_u32 {
            let unit = unit.to_be_bytes();
            assert!(before.draw(&unit) <= after.draw(&unit));
        }
    }

    #[test]
    fn intervals_of_wilson() {
        for (hits, trials, low, high) in [
            (0, 0, 0.0, 1.0),
            (10, 100, 0.0552, 0.1744),
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
            (1, 1, 0.2065, 1.0),
            (10, 10, 0.7225, 1.0),
            (11, 10, 0.7225, 1.0),
            (500_000_000_000, 1_000_000_000_000, 0.5, 0.5),
        ] {
            let (l, h) = wilson(hits, trials, Z_95);
            assert!(close(l, low) && close(h, high), "{hits} of {trials}: {l} to {h}");
        }
    }

    fn arm(hits: u64, requests: u64) -> Summary {
        let stats = Stats::default();
        (0..requests).for_each(|at| stats.record(at < hits, Duration::ZERO, 0));
        stats.summary()
    }

    #[test]
    fn differences_of_newcombe() {
        for (one, other, value, low, high) in [
            ((56, 70), (48, 80), 0.2, 0.0524, 0.3339),
            ((9, 10), (3, 10), 0.6, 0.1705, 0.8090),
            ((6, 7), (2, 7), 0.5714, 0.0582, 0.8062),
            ((5, 56), (0, 29), 0.0893, -0.0381, 0.1926),
            ((0, 10), (0, 20), 0.0, -0.1611, 0.2775),
            ((0, 10), (0, 10), 0.0, -0.2775, 0.2775),
            ((10, 10), (0, 20), 1.0, 0.6791, 1.0),
        ] {
            let found = difference(&arm(one.0, one.1), &arm(other.0, other.1)).unwrap();
            let right = close(found.value, value) && close(found.low, low) && close(found.high, high);
            assert!(right, "{one:?} and {other:?}: {found:?}");
        }
        assert_eq!(difference(&arm(1, 2), &arm(0, 0)), None);
    }

    #[test]
    fn latency_and_cost() {
        let stats = Stats::default();
        assert_eq!(
            stats.summary(),
            Summary { requests: 0, hits: 0, hit_rate: None, latency_us: None, cost_micro: None }
        );
        stats.record(true, Duration::from_micros(2), 1);
        let one = stats.summary();
        assert_eq!((one.latency_us, one.cost_micro), (None, Some(1.0)));
        for latency_us in [4, 4, 4, 5, 5, 7, 9] {
            stats.record(false, Duration::from_micros(latency_us), 3);
        }
        // Mean 5, sum of squared distances 32: the sample's variance is 32/7.
        let Summary { latency_us: Some(latency), cost_micro, requests: 8, hits: 1, .. } = stats.summary() else {
            panic!("{:?}", stats.summary());
        };
        let half = 1.959_964 * (32.0_f64 / 7.0 / 8.0).sqrt();
        assert!(close(latency.value, 5.0) && close(latency.low, 5.0 - half) && close(latency.high, 5.0 + half));
        assert_eq!(cost_micro, Some(2.75));
    }

    #[test]
    fn extremes_are_bounded() {
        let stats = Stats::default();
        (0..3).for_each(|_| stats.record(true, Duration::MAX, u64::MAX));
        let latency = stats.summary().latency_us.unwrap();
        assert_eq!(latency, Estimate { value: latency.value, low: latency.value, high: latency.value });
        assert!(stats.summary().cost_micro.unwrap().is_finite());
    }
}
