//! How long a pool's batches took, by their number of items: what an operator reads beside the fitted line. Pure.

use std::time::Duration;

use crate::report::{BatchingInfo, FitInfo, PointInfo};

/// What an older batch of a size counts for beside the next one: about twenty count.
const DECAY: f64 = 0.95;

/// Sizes up to this one have a bucket each; of larger ones each doubling has eight.
const SINGLE: usize = 32;
const PER_DOUBLING: usize = 8;

/// The last bucket takes whatever is larger than the others do.
const BUCKETS: usize = SINGLE + 4 * PER_DOUBLING;

/// After so many batches of other sizes a mean is no longer shown: the model may have changed.
const SHOWN_FOR: u64 = 10_000;

/// Decayed means of service times by size, in a table that doesn't grow.
#[derive(Debug)]
pub(super) struct Measured {
    buckets: [Bucket; BUCKETS],
    batches: u64,
}

/// The batches of some sizes.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    batches: u64,
    /// The number of the pool's batch that was the last of these.
    last: u64,
    /// Decayed sums: of ones, items and seconds.
    weight: f64,
    items: f64,
    seconds: f64,
}

/// The time of a batch as a line over its number of items.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fit {
    /// However few items are in it.
    pub(super) fixed: Duration,
    /// For each of them.
    pub(super) per_item: Duration,
}

impl Fit {
    /// Returns the time for so many items.
    fn of(&self, items: f64) -> Duration {
        seconds(self.fixed.as_secs_f64() + self.per_item.as_secs_f64() * items)
    }
}

impl Measured {
    /// Returns a table without a batch.
    pub(super) const fn new() -> Self {
        let empty = Bucket { batches: 0, last: 0, weight: 0.0, items: 0.0, seconds: 0.0 };
        Self { buckets: [empty; BUCKETS], batches: 0 }
    }

    /// Takes in a batch that the model responded to.
    pub(super) fn add(&mut self, items: usize, took: Duration) {
        self.batches += 1;
        let bucket = &mut self.buckets[index(items)];
        for sum in [&mut bucket.weight, &mut bucket.items, &mut bucket.seconds] {
            *sum *= DECAY;
        }
        bucket.weight += 1.0;
        // A batch is far smaller than the first integer that an f64 can't hold.
        bucket.items += items as f64;
        bucket.seconds += took.as_secs_f64();
        bucket.batches += 1;
        bucket.last = self.batches;
    }

    /// Returns the means beside a fitted line, by size. Slots, tenants and models aren't known here.
    pub(super) fn info(&self, pool: &str, fit: Option<Fit>) -> BatchingInfo {
        let point = |(at, bucket): (usize, &Bucket)| {
            let (items, took) = bucket.means();
            let (size_min, size_max) = sizes(at);
            PointInfo {
                size_min,
                size_max,
                batches: bucket.batches,
                took_us: micros(seconds(took)),
                fitted_us: fit.map(|fit| micros(fit.of(items))),
            }
        };
        BatchingInfo {
            pool: pool.to_owned(),
            batches: self.batches,
            fit: fit.map(|fit| FitInfo { fixed_us: micros(fit.fixed), per_item_ns: nanos(fit.per_item) }),
            points: self.shown().map(point).collect(),
            slots: 0,
            tenants: Vec::new(),
            models: Vec::new(),
        }
    }

    /// Returns the buckets that have had a batch lately, with their places.
    fn shown(&self) -> impl Iterator<Item = (usize, &Bucket)> {
        let batches = self.batches;
        let is_shown = move |bucket: &Bucket| bucket.batches > 0 && batches - bucket.last < SHOWN_FOR;
        self.buckets.iter().enumerate().filter(move |found| is_shown(found.1))
    }
}

impl Bucket {
    /// Returns the mean number of items, and of seconds.
    fn means(&self) -> (f64, f64) {
        let weight = self.weight.max(f64::MIN_POSITIVE);
        (self.items / weight, self.seconds / weight)
    }
}

/// Returns the place of the bucket for batches of this size.
fn index(items: usize) -> usize {
    let below = items.saturating_sub(1);
    let Some(doubling) = (below / SINGLE).checked_ilog2() else { return below };
    let first = SINGLE << doubling;
    // Less than the word's bits.
    let doubling = doubling as usize;
    let within = (below - first) / (first / PER_DOUBLING);
    (SINGLE + doubling * PER_DOUBLING + within).min(BUCKETS - 1)
}

/// Returns the sizes of the bucket at this place; the last has no largest.
fn sizes(at: usize) -> (usize, Option<usize>) {
    let Some(above) = at.checked_sub(SINGLE) else { return (at + 1, Some(at + 1)) };
    let first = SINGLE << (above / PER_DOUBLING);
    let width = first / PER_DOUBLING;
    let min = first + width * (above % PER_DOUBLING) + 1;
    (min, (at + 1 < BUCKETS).then(|| min + width - 1))
}

/// Returns a time in seconds that comes from sums of durations; a defect doesn't become a panic.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A model of 20 ms a batch and 1 ms an item.
    fn took(items: usize) -> Duration {
        Duration::from_micros(20_000 + 1_000 * items as u64)
    }

    fn measured(sizes: impl IntoIterator<Item = usize>) -> Measured {
        let mut measured = Measured::new();
        sizes.into_iter().for_each(|items| measured.add(items, took(items)));
        measured
    }

    fn points(measured: &Measured) -> Vec<(usize, Option<usize>, u64, u64)> {
        let info = measured.info("models", None);
        info.points.into_iter().map(|point| (point.size_min, point.size_max, point.batches, point.took_us)).collect()
    }

    #[test]
    fn each_size_up_to_32_has_a_point_of_its_own_and_larger_ones_share() {
        let measured = measured([1, 32, 32, 33, 36, 37, 4_000, 9_000]);
        assert_eq!(
            points(&measured),
            [
                (1, Some(1), 1, 21_000),
                (32, Some(32), 2, 52_000),
                // 33 and 36, the later one for a little more.
                (33, Some(36), 2, 54_538),
                (37, Some(40), 1, 57_000),
                (481, None, 2, 6_584_102),
            ]
        );
    }

    #[test]
    fn the_fit_stands_beside_each_point() {
        let measured = measured([1, 4, 8, 8, 32, 100]);
        let fit = Fit { fixed: Duration::from_millis(20), per_item: Duration::from_millis(1) };
        let info = measured.info("models", Some(fit));
        assert_eq!((info.pool.as_str(), info.batches, info.points.len()), ("models", 6, 5));
        for point in &info.points {
            assert!(point.fitted_us.unwrap().abs_diff(point.took_us) <= 1, "{point:?}");
        }
    }

    #[test]
    fn a_mean_follows_the_model_and_one_of_long_ago_is_not_shown() {
        let mut measured = measured([8; 100]);
        measured.add(4, took(4));
        for _ in 0..200 {
            measured.add(8, Duration::from_millis(5));
        }
        assert_eq!(points(&measured), [(4, Some(4), 1, 24_000), (8, Some(8), 300, 5_000)]);
        for _ in 0..SHOWN_FOR {
            measured.add(8, Duration::from_millis(5));
        }
        assert_eq!(points(&measured).len(), 1);
    }

    proptest! {
        #[test]
        fn every_size_is_among_those_of_its_bucket(items in 1_usize..5_000) {
            let (min, max) = sizes(index(items));
            prop_assert!(min <= items && max.is_none_or(|max| items <= max), "{items}: {min} to {max:?}");
        }
    }

    #[test]
    fn the_buckets_follow_each_other_without_a_gap() {
        for at in 1..BUCKETS {
            assert_eq!(sizes(at - 1).1.map(|max| max + 1), Some(sizes(at).0), "{at}");
        }
        assert_eq!((sizes(0).0, sizes(BUCKETS - 1).1), (1, None));
    }
}
