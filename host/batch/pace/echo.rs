//! The echo of a batch: the items that follow its return, because the clients that got their responses ask again. Pure.

use std::{collections::VecDeque, time::Instant};

/// Ages of a batch that came back are counted in bins, whose edges grow by the root of two: from 50 µs to 2 s.
const BINS: usize = 32;
const SHORTEST: f64 = 50e-6;
const EDGES: [f64; BINS + 1] = edges();

const fn edges() -> [f64; BINS + 1] {
    let mut edges = [0.0; BINS + 1];
    let (mut bin, mut edge) = (1, SHORTEST);
    while bin <= BINS {
        edges[bin] = edge;
        edge *= std::f64::consts::SQRT_2;
        bin += 1;
    }
    edges
}

/// What everything before counts for when another batch comes back, so that about thirty batches count.
const DECAY: f64 = 0.97;

/// Batches that may be followed at once; the oldest are given up.
const RECENT_MAX: usize = 32;

/// What is taken as seen before anything is: in each bin one item that could have been followed, and this part of it
/// was. So that few items show little.
const PRIOR_ITEMS: f64 = 1.0;
const PRIOR_FOLLOWED: f64 = 0.05;

/// The part of all arrivals that is always held possible to follow nothing.
const UNRELATED_MIN: f64 = 0.02;

/// A pause counts as so many usual ones at most: a quiet night must not make the morning's arrivals look like an echo.
const PAUSE_MAX: f64 = 4.0;

/// Batches after which the mean rate of arrivals is known.
const BATCHES_MIN: f64 = 2.0;

/// Of a batch of which less is left, in items, all are taken to have been followed.
const LEFT_MIN: f64 = 0.2;

/// Learns how likely each item of a class that came back is followed by another, and how soon. Which item follows which
/// isn't known: an arrival counts for all batches that it may follow, and for none of them, each as far as it is likely.
#[derive(Debug, Default)]
pub(super) struct Echo {
    hazards: Hazards,
    recent: VecDeque<Batch>,
    /// Arrivals, those among them that follow nothing, the seconds in which they came, and batches that came back. What
    /// is older counts less.
    arrivals: f64,
    unrelated: f64,
    seconds: f64,
    batches: f64,
    last: Option<Instant>,
}

/// A batch that came back, and may be followed.
#[derive(Clone, Copy, Debug)]
struct Batch {
    at: Instant,
    /// Its items that weren't followed yet.
    left: f64,
    /// The age up to which that was counted, in seconds.
    age: f64,
}

impl Echo {
    /// Notes that items arrived together.
    pub(super) fn arrived(&mut self, at: Instant, items: f64) {
        self.grow_older(at);
        self.arrivals += items;
        let unrelated = (self.unrelated / self.seconds.max(SHORTEST)).max(UNRELATED_MIN * self.rate());
        let pull = |batch: &Batch, hazards: &Hazards| batch.left * hazards.of(bin_of(batch.age));
        let pulls: f64 = self.recent.iter().map(|batch| pull(batch, &self.hazards)).sum();
        let each = items / (unrelated + pulls).max(f64::MIN_POSITIVE);
        let mut follow = 0.0;
        let mut followed = [0.0; RECENT_MAX];
        for (batch, followed) in self.recent.iter_mut().zip(&mut followed) {
            *followed = (each * pull(batch, &self.hazards)).min(batch.left);
            batch.left -= *followed;
            follow += *followed;
        }
        for (batch, followed) in self.recent.iter().zip(followed) {
            self.hazards.follow(bin_of(batch.age), followed);
        }
        self.unrelated += items - follow;
    }

    /// Notes that a batch came back.
    pub(super) fn returned(&mut self, at: Instant, items: f64) {
        self.grow_older(at);
        if let Some(last) = self.last {
            let usual = self.seconds / self.batches.max(f64::MIN_POSITIVE);
            let pause_max = if self.batches < 0.5 { f64::INFINITY } else { PAUSE_MAX * usual };
            self.seconds += seconds_between(last, at).min(pause_max);
            self.batches += 1.0;
            self.decay();
        }
        self.last = Some(at);
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Batch { at, left: items, age: 0.0 });
    }

    fn decay(&mut self) {
        let sums = [&mut self.arrivals, &mut self.unrelated, &mut self.seconds, &mut self.batches];
        for sum in sums.into_iter().chain(&mut self.hazards.followed).chain(&mut self.hazards.exposed) {
            *sum *= DECAY;
        }
    }

    /// Counts the time until `now` in which what came back wasn't followed.
    fn grow_older(&mut self, now: Instant) {
        for batch in &mut self.recent {
            let age = seconds_between(batch.at, now);
            while batch.age < age.min(EDGES[BINS]) {
                let bin = bin_of(batch.age);
                let until = age.min(EDGES[bin + 1]);
                self.hazards.exposed[bin] += batch.left * (until - batch.age);
                batch.age = until;
            }
        }
        self.recent.retain(|batch| batch.age < EDGES[BINS] && batch.left > LEFT_MIN);
    }

    /// Returns the mean rate of arrivals, in items a second.
    pub(super) fn rate(&self) -> f64 {
        self.arrivals / self.seconds.max(SHORTEST)
    }

    /// Whether enough batches came back for the mean rate to say anything.
    fn knows_rate(&self) -> bool {
        self.batches >= BATCHES_MIN
    }

    /// Returns how many items can be expected to follow within so many seconds from `now`.
    pub(super) fn expected(&self, now: Instant, within: f64) -> f64 {
        self.prospect(now).within(within)
    }

    /// Returns the wait that weighs most, in seconds, if that is more than zero. `weight` is called with waits, none of
    /// them longer than `longest`, with the number of items that can be expected within each beyond those that come at
    /// the mean rate, and with that of those that follow later, within `busy` seconds.
    pub(super) fn best_wait(
        &self,
        now: Instant,
        longest: f64,
        busy: f64,
        weight: impl Fn(f64, f64, f64) -> f64,
    ) -> Option<f64> {
        if longest < SHORTEST || !self.knows_rate() {
            return None;
        }
        let (prospect, rate) = (self.prospect(now), self.rate());
        let in_all = prospect.within(busy);
        let waits = EDGES.into_iter().skip(1).take_while(|wait| *wait <= longest);
        let weighed = waits.map(|wait| {
            let followed = prospect.within(wait);
            (wait, weight(wait, followed - rate * wait, (in_all - followed).max(0.0)))
        });
        let best = weighed.max_by(|(_, one), (_, other)| one.total_cmp(other));
        best.filter(|(_, weight)| *weight > 0.0).map(|(wait, _)| wait)
    }

    fn prospect(&self, now: Instant) -> Prospect {
        let likelihood = self.hazards.summed();
        let mut batches = [(0.0, 0.0, 0.0); RECENT_MAX];
        for (batch, place) in self.recent.iter().zip(&mut batches) {
            let age = seconds_between(batch.at, now);
            *place = (batch.left, age, likelihood.below(age));
        }
        Prospect { batches, count: self.recent.len(), likelihood }
    }
}

/// What is to be expected from now on.
struct Prospect {
    /// Of each batch what is left of it, its age, and the hazard up to that.
    batches: [(f64, f64, f64); RECENT_MAX],
    count: usize,
    likelihood: Summed,
}

impl Prospect {
    /// Returns how many items are expected to follow within so many seconds.
    fn within(&self, seconds: f64) -> f64 {
        let batches = self.batches.iter().take(self.count);
        // Of an item that wasn't followed so far it is as likely as the hazard in between says.
        batches.map(|(left, age, below)| -left * (below - self.likelihood.below(age + seconds)).exp_m1()).sum()
    }
}

/// How often items that came back are followed in each bin of their age, if they weren't before.
#[derive(Debug, Default)]
struct Hazards {
    /// Items that were followed.
    followed: [f64; BINS],
    /// Items that could have been, times the seconds for which.
    exposed: [f64; BINS],
}

impl Hazards {
    fn follow(&mut self, bin: usize, items: f64) {
        if let Some(followed) = self.followed.get_mut(bin) {
            *followed += items;
        }
    }

    /// Returns the rate in a bin, for each item and second.
    fn of(&self, bin: usize) -> f64 {
        if bin >= BINS {
            return 0.0;
        }
        (self.followed[bin] + PRIOR_FOLLOWED) / (self.exposed[bin] + PRIOR_ITEMS * width(bin))
    }

    fn summed(&self) -> Summed {
        let rates = std::array::from_fn(|bin| self.of(bin));
        let mut sums = [0.0; BINS + 1];
        for (bin, rate) in rates.iter().enumerate() {
            sums[bin + 1] = sums[bin] + rate * width(bin);
        }
        Summed { rates, sums }
    }
}

/// Hazards, added up below each edge.
struct Summed {
    rates: [f64; BINS],
    sums: [f64; BINS + 1],
}

impl Summed {
    /// Returns the hazard up to an age.
    fn below(&self, age: f64) -> f64 {
        let bin = bin_of(age);
        self.sums[bin] + self.rates.get(bin).map_or(0.0, |rate| rate * (age - EDGES[bin]))
    }
}

/// Returns the bin of an age; [`BINS`] if it is too old for any.
fn bin_of(age: f64) -> usize {
    EDGES[1..].partition_point(|edge| *edge <= age)
}

fn width(bin: usize) -> f64 {
    EDGES[bin + 1] - EDGES[bin]
}

pub(super) fn seconds_between(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    /// Batches of four, each of which is followed by `follow` items after so many seconds; the next is back after 30 ms.
    fn echoed(start: Instant, rounds: usize, follow: usize, seconds: f64) -> (Echo, Instant) {
        let (mut echo, mut now) = (Echo::default(), start);
        for _ in 0..rounds {
            echo.returned(now, 4.0);
            for _ in 0..follow {
                echo.arrived(after(now, seconds), 1.0);
            }
            now = after(now, 0.03);
        }
        echo.returned(now, 4.0);
        (echo, now)
    }

    #[test]
    fn an_edge_is_in_the_bin_above_it() {
        for (age, bin) in [(0.0, 0), (49e-6, 0), (50e-6, 1), (70e-6, 1), (71e-6, 2), (1.0, 29), (3.0, BINS)] {
            assert_eq!(bin_of(age), bin, "{age}");
        }
        assert!(EDGES.is_sorted() && EDGES[BINS] > 2.0, "{EDGES:?}");
    }

    #[test]
    fn what_follows_each_batch_is_expected_after_the_next() {
        let (echo, now) = echoed(Instant::now(), 30, 4, 0.001);
        let expected = [0.0005, 0.0015, 0.02].map(|within| echo.expected(now, within));
        assert!(expected[0] < 0.3, "too early: {expected:?}");
        assert!(expected[1] > 3.0 && expected[2] < 4.01, "not one more than came back: {expected:?}");
        let late = after(now, 0.004);
        assert!(echo.expected(late, 0.02) < 1.0, "nothing followed so late: {}", echo.expected(late, 0.02));
    }

    #[test]
    fn an_item_is_followed_once() {
        let (mut echo, now) = echoed(Instant::now(), 30, 4, 0.001);
        echo.arrived(after(now, 0.001), 3.0);
        let left = echo.expected(after(now, 0.001), 0.02);
        assert!(left < 1.1, "{left} after three of four have come");
        echo.arrived(after(now, 0.001), 1.0);
        let left = echo.expected(after(now, 0.001), 0.02);
        assert!(left < 0.2, "{left} after all four have come");
    }

    #[test]
    fn only_as_many_are_expected_as_have_followed() {
        let (echo, now) = echoed(Instant::now(), 60, 1, 0.001);
        let expected = echo.expected(now, 0.02);
        assert!((0.8..1.4).contains(&expected), "{expected} of four");
    }

    #[test]
    fn a_steady_stream_is_no_echo() {
        let (start, mut echo) = (Instant::now(), Echo::default());
        for milli in 0..3_000_u32 {
            let now = after(start, f64::from(milli) / 1e3);
            if milli % 30 == 0 {
                echo.returned(now, 30.0);
            }
            echo.arrived(after(now, 0.0005), 1.0);
        }
        let now = after(start, 3.0);
        echo.returned(now, 30.0);
        assert!((echo.rate() - 1000.0).abs() < 20.0, "{}", echo.rate());
        let wait = echo.best_wait(now, 0.02, 0.05, |_, joining, _| joining - 1.0);
        assert_eq!(wait, None, "none of them brings one item more than the mean rate");
    }

    #[test]
    fn a_quiet_night_does_not_make_an_echo_of_the_morning() {
        let (mut echo, now) = echoed(Instant::now(), 60, 4, 0.015);
        let before = echo.rate();
        echo.returned(after(now, 36_000.0), 4.0);
        assert!(echo.rate() > 0.8 * before, "{} after {before}", echo.rate());
    }

    #[test]
    fn nothing_is_waited_for_before_the_rate_is_known() {
        for (rounds, known) in [(1, false), (2, false), (3, true)] {
            let (echo, now) = echoed(Instant::now(), rounds, 4, 0.001);
            assert_eq!(echo.best_wait(now, 1.0, 1.0, |_, _, _| 1.0).is_some(), known, "{rounds}");
        }
    }
}
