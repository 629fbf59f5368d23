//! How many batches of a pool are under way at once: as many as its model gains by, and never more than the operator
//! allows. Pure: events and the time are its arguments.
//!
//! A batch that took `t` while `n` were under way, and was expected to take `c`, shows a *normalised latency* `t / c`. By
//! Little's law a model that has `n` batches at a time does the work of `n / (t / c)` of them. If it does no more with
//! all slots taken than with half of them, its batches queue at the model instead of here, where they would become
//! fuller. So latencies with all slots taken are compared with those with at most half of them: natural ones where the
//! load has both, else those of a short trial. Both are compared with what the same fit says now, so that a model that
//! becomes slower or faster changes both. Only recent batches count, and the mean of several instead of the smallest, so
//! that no outlier stays.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use self::refusals::{Advice, Refusals};
use super::pace::{Outcome, Pace, Returned};

mod refusals;
#[cfg(test)]
mod tests;

/// Batches that are remembered, and twice as many more as may be under way.
const SAMPLES: usize = 128;

/// The part of the slots from which on all count as taken.
const BUSY_PART: f64 = 0.8;

/// By how much the mean number under way may be above that of a few slots which were meant to be taken.
const TOLERANCE: f64 = 0.25;

/// The part of its slots that a model must do the work of, or has fewer from then on.
const WORTH_PART: f64 = 0.75;

/// Batches with few and with all slots taken that are compared without a trial, and how many come in between.
const QUIET_MIN: usize = 12;
const BUSY_MIN: usize = 24;
const WEIGH_EVERY: u32 = 64;

/// Batches of a trial that are compared, and how many may pass, beside those under way, until there are so many.
const TRIAL_MIN: usize = 8;
const TRIAL_PATIENCE: usize = 24;

/// Batches with all slots taken between trials of fewer: so many that a trial is seen in none of a hundred latencies,
/// unless the last one showed that fewer do.
const FEWER_AGAIN: u32 = 64;
const FEWER_AFTER: u32 = 2_000;
const FEWER_MAX: u32 = 8_000;

/// The same between trials of more; doubled by each that showed no gain. After so long a few are enough: batches may be
/// slow.
const MORE_AFTER: u32 = 64;
const MORE_MAX: u32 = 512;
const MORE_ANYHOW_AFTER: Duration = Duration::from_secs(60);
const MORE_ANYHOW_MIN: u32 = 16;

/// How many times as long as the slowest batch of late nothing may come back in a trial of fewer, before it is given up:
/// what has its slots may be stuck.
const TRIAL_STALLED: f64 = 4.0;

/// The normalised latency that a batch may count with at most, in the median of those it is compared among.
const OUTLIER_MAX: f64 = 4.0;

/// The slots of a pool.
#[derive(Debug)]
pub(super) struct Concurrency {
    least: usize,
    bound: usize,
    limit: usize,
    trial: Option<Trial>,
    occupancy: Occupancy,
    samples: VecDeque<Sample>,
    /// How many of them each endpoint responded to.
    endpoints: BTreeMap<Arc<str>, usize>,
    /// Batches since the limit was last compared with fewer without a trial.
    unweighed: u32,
    /// Batches with all slots taken: since the limit was compared with fewer, and since it was with more.
    unproven: u32,
    used: u32,
    fewer_after: u32,
    more_after: u32,
    refusals: Refusals,
    /// How many slots there were when an endpoint last had too much to do.
    refused_at: Option<usize>,
    /// When the limit was last lowered or raised for that.
    cut: Option<Instant>,
    /// When a trial of more last ended.
    tried_more: Option<Instant>,
}

/// Another number of slots for a short while.
#[derive(Clone, Copy, Debug)]
struct Trial {
    slots: usize,
    /// Batches that came back since it began, and those among them that show what it is for.
    batches: usize,
    seen: usize,
}

/// A batch that the model responded to.
#[derive(Debug)]
struct Sample {
    class: u64,
    endpoint: Option<Arc<str>>,
    items: usize,
    seconds: f64,
    /// The mean number of batches under way meanwhile, itself among them.
    at_once: f64,
}

/// Samples that are compared with others.
#[derive(Clone, Debug, Default)]
struct Group {
    at_once: f64,
    /// Seconds that each took, and that it was expected to take.
    times: Vec<(f64, f64)>,
}

impl Concurrency {
    /// Returns all slots that the operator allows: from `least` to `bound`, both at least one.
    pub(super) fn new(least: usize, bound: usize) -> Self {
        let bound = bound.max(1);
        Self {
            least: least.clamp(1, bound),
            bound,
            limit: bound,
            trial: None,
            occupancy: Occupancy::new(bound),
            samples: VecDeque::new(),
            endpoints: BTreeMap::new(),
            unweighed: 0,
            unproven: 0,
            used: 0,
            fewer_after: FEWER_AFTER,
            more_after: MORE_AFTER,
            refusals: Refusals::new(),
            refused_at: None,
            cut: None,
            tried_more: None,
        }
    }

    /// Returns how many batches may be under way now.
    pub(super) fn slots(&self) -> usize {
        self.trial.map_or(self.limit, |trial| trial.slots)
    }

    /// Whether the operator leaves a choice.
    const fn adapts(&self) -> bool {
        self.least < self.bound
    }

    /// Notes how many batches are under way from `at` on.
    pub(super) fn observe(&mut self, under_way: usize, at: Instant) {
        if self.adapts() {
            self.occupancy.set(under_way, at);
        }
    }

    /// Gives up a trial of fewer in which the batches under way take all slots and none has come back for long: with an
    /// endpoint that is stuck, others would wait for it. Returns when that is to be looked at again.
    pub(super) fn patience(&mut self, under_way: usize, now: Instant) -> Option<Instant> {
        let is_blocked = self.trial.is_some_and(|trial| trial.slots < self.limit && under_way >= trial.slots);
        if !is_blocked {
            return None;
        }
        let slowest = self.samples.iter().map(|sample| sample.seconds).fold(0.0, f64::max);
        let stalled = Duration::try_from_secs_f64(slowest * TRIAL_STALLED).ok()?;
        let until = self.occupancy.points.back()?.at + stalled;
        if now < until {
            return Some(until);
        }
        self.rest();
        None
    }

    /// Notes that a batch of a class came back at `at`. It is still counted as under way.
    pub(super) fn on_batch(&mut self, class: u64, returned: &Returned, at: Instant, pace: &dyn Pace) {
        if !self.adapts() {
            return;
        }
        let Returned { items, took, outcome, endpoint } = returned;
        let sent = at.checked_sub(*took).unwrap_or(at);
        let is_refused = match outcome {
            Outcome::Responded => false,
            Outcome::Overloaded => true,
            Outcome::Failed | Outcome::Lost => return,
        };
        self.heed(is_refused, sent, at);
        if is_refused {
            return;
        }
        let at_once = self.occupancy.mean(sent, at).max(1.0);
        // With the pause before it, so that a single slot which is seldom taken doesn't count as one that is.
        let of_late = self.occupancy.mean(sent.checked_sub(*took).unwrap_or(sent), at);
        let (endpoint, seconds) = (endpoint.clone(), took.as_secs_f64());
        self.remember(Sample { class, endpoint, items: *items, seconds, at_once });
        match self.trial.take() {
            Some(trial) => self.go_on(trial, at_once, at, pace),
            None => self.watch(of_late, at, pace),
        }
    }

    /// Decides after a batch, while there is no trial, whether there is to be one, or what shows without. So many batches
    /// were under way of late.
    fn watch(&mut self, of_late: f64, at: Instant, pace: &dyn Pace) {
        let is_busy = of_late >= BUSY_PART * self.limit as f64;
        if is_busy {
            self.unproven = self.unproven.saturating_add(1);
            self.used = self.used.saturating_add(1);
        }
        self.unweighed += 1;
        if self.limit > self.least && self.unweighed >= WEIGH_EVERY {
            self.unweighed = 0;
            let (quiet, busy) = (self.fewer() as f64 + TOLERANCE, BUSY_PART * self.limit as f64);
            if let Some(useful) = self.useful(quiet, busy, QUIET_MIN, BUSY_MIN, pace) {
                return self.conclude_fewer(self.least, useful, at);
            }
        }
        if self.limit > self.least && self.unproven >= self.fewer_after {
            self.trial = Some(Trial { slots: self.fewer(), batches: 0, seen: 0 });
        } else if self.limit < self.bound && is_busy && self.may_try_more(at) {
            self.trial = Some(Trial { slots: self.more(), batches: 0, seen: 0 });
        }
    }

    /// Whether it is time for a trial of more.
    fn may_try_more(&self, at: Instant) -> bool {
        let is_long_ago = || {
            let since = self.tried_more.max(self.cut);
            since.is_some_and(|since| at.saturating_duration_since(since) >= MORE_ANYHOW_AFTER)
        };
        self.used >= self.more_after || self.used >= MORE_ANYHOW_MIN && is_long_ago()
    }

    /// Returns the slots of a trial of fewer.
    fn fewer(&self) -> usize {
        (self.limit / 2).max(self.least)
    }

    /// Returns the slots of a trial of more: one more where twice as many are as many as an endpoint refused.
    fn more(&self) -> usize {
        let doubled = self.limit.saturating_mul(2);
        let is_too_many = self.refused_at.is_some_and(|refused| doubled >= refused);
        let slots = if is_too_many { self.limit + 1 } else { doubled };
        slots.min(self.bound)
    }

    /// Takes in a batch that came back during a trial.
    fn go_on(&mut self, mut trial: Trial, at_once: f64, at: Instant, pace: &dyn Pace) {
        let (slots, limit) = (trial.slots as f64, self.limit as f64);
        let is_more = trial.slots > self.limit;
        let (quiet, busy) = if is_more {
            (limit + TOLERANCE, (BUSY_PART * slots).max(limit + TOLERANCE))
        } else {
            (slots + TOLERANCE, BUSY_PART * limit)
        };
        if is_more {
            self.tried_more = Some(at);
        }
        trial.batches += 1;
        trial.seen += usize::from(if is_more { at_once >= busy } else { at_once <= quiet });
        if trial.seen >= TRIAL_MIN {
            let useful = self.useful(quiet, busy, TRIAL_MIN, TRIAL_MIN, pace);
            match useful {
                _ if is_more => self.conclude_more(trial.slots, useful),
                Some(useful) => self.conclude_fewer(trial.slots, useful, at),
                None => self.rest(),
            }
        } else if trial.batches >= TRIAL_PATIENCE + 2 * trial.slots.max(self.limit) {
            // There is too little to do for it.
            self.rest();
        } else {
            self.trial = Some(trial);
        }
    }

    /// Ends a comparison with fewer slots, by how many batches the model does the work of with all of them.
    fn conclude_fewer(&mut self, least: usize, useful: f64, at: Instant) {
        let is_worth = useful >= WORTH_PART * self.limit as f64;
        if is_worth {
            self.fewer_after = self.fewer_after.saturating_mul(2).clamp(FEWER_AFTER, FEWER_MAX);
        } else {
            // The cast saturates.
            self.limit = (useful.round() as usize).clamp(least, self.limit - 1);
            self.fewer_after = FEWER_AGAIN;
            self.samples.clear();
            self.endpoints.clear();
            self.used = 0;
            self.tried_more = Some(at);
        }
        self.unproven = 0;
    }

    /// Ends a trial of more slots, by how many batches the model does the work of with all of them; `None` if nothing
    /// shows that, and the operator's word stands.
    fn conclude_more(&mut self, slots: usize, useful: Option<f64>) {
        let least_useful = WORTH_PART * slots as f64;
        match useful.filter(|useful| *useful < least_useful) {
            None => {
                self.limit = slots;
                self.more_after = MORE_AFTER;
                self.fewer_after = self.fewer_after.max(FEWER_AFTER);
                self.refused_at = self.refused_at.filter(|refused| slots < *refused);
            }
            Some(useful) => {
                // The cast saturates.
                self.limit = (useful.round() as usize).clamp(self.limit, slots - 1);
                self.more_after = self.more_after.saturating_mul(2).min(MORE_MAX);
            }
        }
        self.rest();
    }

    /// Begins to count anew, without a trial.
    const fn rest(&mut self) {
        self.trial = None;
        self.unproven = 0;
        self.used = 0;
    }

    /// Takes in whether an endpoint refused a batch because it had too much to do. A round of batches lowers the limit
    /// once, to as many as weren't refused, and by half at most.
    fn heed(&mut self, is_refused: bool, sent: Instant, at: Instant) {
        if self.cut.is_some_and(|cut| sent < cut) {
            return;
        }
        if self.trial.is_some_and(|trial| trial.slots > self.limit) {
            if is_refused {
                (self.refused_at, self.cut, self.tried_more) = (Some(self.slots()), Some(at), Some(at));
                self.more_after = self.more_after.saturating_mul(2).min(MORE_MAX);
                self.rest();
            }
            return;
        }
        let endpoints = self.endpoints();
        match self.refusals.after(is_refused, self.limit, endpoints) {
            Advice::Stay => {}
            Advice::Lower(_) if self.limit == self.least => {}
            Advice::Lower(slots) => {
                self.refusals.lowered_from(self.limit);
                (self.refused_at, self.cut) = (Some(self.slots()), Some(at));
                self.limit = slots.max(self.least);
                self.more_after = MORE_AFTER;
                self.rest();
            }
            Advice::Restore(slots) => {
                (self.refused_at, self.cut) = (None, Some(at));
                self.limit = slots.clamp(self.limit, self.bound);
                self.rest();
            }
        }
    }

    fn remember(&mut self, sample: Sample) {
        if self.samples.len() >= SAMPLES + 2 * self.bound
            && let Some(endpoint) = self.samples.pop_front().and_then(|oldest| oldest.endpoint)
            && let Some(count) = self.endpoints.get_mut(&endpoint)
        {
            *count -= 1;
            if *count == 0 {
                self.endpoints.remove(&endpoint);
            }
        }
        if let Some(endpoint) = &sample.endpoint {
            *self.endpoints.entry(Arc::clone(endpoint)).or_default() += 1;
        }
        self.samples.push_back(sample);
    }

    /// Returns how many endpoints responded lately; at least one.
    fn endpoints(&self) -> usize {
        self.endpoints.len().max(1)
    }

    /// Returns how many batches at once the model does the work of if all slots are taken, compared with those batches
    /// for which at most `quiet` were under way, and which it works on all at once; `None` if it shows with too few.
    fn useful(&self, quiet: f64, busy: f64, quiet_min: usize, busy_min: usize, pace: &dyn Pace) -> Option<f64> {
        let count = |is_one: &dyn Fn(f64) -> bool| self.samples.iter().filter(|sample| is_one(sample.at_once)).count();
        // Most often there are too few, and no fit need be looked up.
        if count(&|at_once| at_once <= quiet) < quiet_min || count(&|at_once| at_once >= busy) < busy_min {
            return None;
        }
        let (mut few, mut all) = (Group::default(), Group::default());
        for sample in &self.samples {
            let group = match sample.at_once {
                at_once if at_once <= quiet => &mut few,
                at_once if at_once >= busy => &mut all,
                _ => continue,
            };
            group.add(sample, pace);
        }
        if few.times.len() < quiet_min || all.times.len() < busy_min {
            return None;
        }
        Some(all.at_once / all.times.len() as f64 * few.latency() / all.latency())
    }
}

impl Group {
    /// Adds a sample, if what it was to be expected to take is known.
    fn add(&mut self, sample: &Sample, pace: &dyn Pace) {
        let Some(expected) = pace.expected(sample.class, sample.endpoint.as_ref(), sample.items) else { return };
        let expected = expected.as_secs_f64();
        if expected > 0.0 {
            self.at_once += sample.at_once;
            self.times.push((sample.seconds, expected));
        }
    }

    /// Returns the mean normalised latency, which no outlier decides.
    fn latency(mut self) -> f64 {
        self.times.sort_unstable_by(|(a, for_a), (b, for_b)| (a / for_a).total_cmp(&(b / for_b)));
        let (seconds, expected) = self.times.get(self.times.len() / 2).copied().unwrap_or((1.0, 1.0));
        let most = OUTLIER_MAX * seconds / expected;
        let seconds: f64 = self.times.iter().map(|(seconds, expected)| seconds.min(most * expected)).sum();
        let expected: f64 = self.times.iter().map(|(_, expected)| expected).sum();
        (seconds / expected.max(f64::MIN_POSITIVE)).max(f64::MIN_POSITIVE)
    }
}

/// How many batches were under way at any time of late.
#[derive(Debug)]
struct Occupancy {
    points: VecDeque<Point>,
    points_max: usize,
}

/// From here on so many were under way. `sum` is the number times the seconds until here.
#[derive(Clone, Copy, Debug)]
struct Point {
    at: Instant,
    batches: usize,
    sum: f64,
}

impl Occupancy {
    /// Returns one that remembers enough for so many batches at once.
    const fn new(bound: usize) -> Self {
        Self { points: VecDeque::new(), points_max: 64 + bound.saturating_mul(4) }
    }

    fn set(&mut self, batches: usize, at: Instant) {
        let (at, sum) = match self.points.back() {
            Some(last) if last.batches == batches => return,
            Some(last) => {
                let at = at.max(last.at);
                (at, self.sum(at))
            }
            None => (at, 0.0),
        };
        if self.points.len() >= self.points_max {
            self.points.pop_front();
        }
        self.points.push_back(Point { at, batches, sum });
    }

    fn sum(&self, at: Instant) -> f64 {
        let behind = self.points.partition_point(|point| point.at <= at);
        match behind.checked_sub(1).and_then(|last| self.points.get(last)) {
            Some(point) => point.sum + point.batches as f64 * at.saturating_duration_since(point.at).as_secs_f64(),
            None => self.points.front().map_or(0.0, |first| first.sum),
        }
    }

    /// Returns the mean number of batches under way between two times, as far as it is remembered.
    fn mean(&self, from: Instant, to: Instant) -> f64 {
        let from = self.points.front().map_or(from, |first| from.max(first.at));
        let seconds = to.saturating_duration_since(from).as_secs_f64();
        let now = self.points.back().map_or(1.0, |last| last.batches as f64);
        if seconds > 0.0 { (self.sum(to) - self.sum(from)) / seconds } else { now }
    }
}
