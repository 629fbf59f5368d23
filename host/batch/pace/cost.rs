//! How long a model takes for a batch, by its number of items: a fixed part and a part for each. Pure.

use std::{collections::VecDeque, sync::Arc, time::Duration};

/// What an older batch counts for beside the next one: about fifty count.
const DECAY: f64 = 0.98;

/// How much the spread of sizes, in items squared, must be for the slope to be believed rather than the one before.
const SPREAD_MIN: f64 = 0.25;

/// By how much a time must differ from what is expected to be an outlier, and how many are taken for outliers in turn
/// before they are taken for what the model does now.
const OUTLIER_FACTOR: f64 = 3.0;
const OUTLIERS_MAX: u32 = 3;

/// Batches after which a fit knows what an outlier is, and is preferred to that of the pool.
const KNOWN_AFTER: u32 = 5;

/// Fits that are known for one pool; those used least recently give way.
const FITS_MAX: usize = 256;

/// Seconds that a batch takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// However few items are in it.
    pub(super) fixed: f64,
    /// For each of them.
    pub(super) per_item: f64,
}

impl Cost {
    /// Returns the time for so many items.
    pub(super) fn of(&self, items: usize) -> Duration {
        // Both are sums of durations, so that this is one; a bound keeps a defect from becoming a panic.
        Duration::try_from_secs_f64(self.fixed + self.per_item * items as f64).unwrap_or_default()
    }
}

/// Seconds for a batch, as a straight line that is fitted to those that came back, the later the more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fit {
    /// Decayed sums: of ones, items, seconds, items squared, and items times seconds.
    weight: f64,
    items: f64,
    seconds: f64,
    squares: f64,
    products: f64,
    per_item: f64,
    seen: u32,
    outliers: u32,
}

impl Fit {
    /// Takes in a batch that came back.
    pub(super) fn add(&mut self, items: f64, seconds: f64) {
        for sum in [&mut self.weight, &mut self.items, &mut self.seconds, &mut self.squares, &mut self.products] {
            *sum *= DECAY;
        }
        self.weight += 1.0;
        self.items += items;
        self.seconds += seconds;
        self.squares += items * items;
        self.products += items * seconds;
        self.seen = self.seen.saturating_add(1);
        let (mean_items, mean_seconds) = self.means();
        let spread = (self.squares / self.weight - mean_items * mean_items).max(0.0);
        let together = self.products / self.weight - mean_items * mean_seconds;
        // Batches of one size show no slope: then the one before stands, at first that all is fixed.
        let slope = (together + SPREAD_MIN * self.per_item) / (spread + SPREAD_MIN);
        self.per_item = slope.clamp(0.0, mean_seconds / mean_items.max(1.0));
    }

    /// Returns the time, bounded if it is an outlier. A model that is different from now on is believed after a few:
    /// what was known of it is forgotten then.
    fn tempered(&mut self, items: f64, seconds: f64) -> f64 {
        let Cost { fixed, per_item } = self.cost();
        let expected = fixed + per_item * items;
        let bounds = (expected / OUTLIER_FACTOR, expected * OUTLIER_FACTOR);
        if self.seen < KNOWN_AFTER || (bounds.0..=bounds.1).contains(&seconds) {
            self.outliers = 0;
            return seconds;
        }
        self.outliers += 1;
        if self.outliers <= OUTLIERS_MAX {
            return seconds.clamp(bounds.0, bounds.1);
        }
        *self = Self::default();
        seconds
    }

    fn means(&self) -> (f64, f64) {
        let weight = self.weight.max(f64::MIN_POSITIVE);
        (self.items / weight, self.seconds / weight)
    }

    /// Returns the line.
    fn cost(&self) -> Cost {
        let (items, seconds) = self.means();
        Cost { fixed: (seconds - self.per_item * items).max(0.0), per_item: self.per_item }
    }

    /// Whether enough came back to rely on it.
    const fn is_known(&self) -> bool {
        self.seen >= KNOWN_AFTER
    }
}

/// The fits of a pool: one for each class and endpoint, and one for all.
#[derive(Debug, Default)]
pub(super) struct Costs {
    pool: Fit,
    /// Those used last at the end.
    fits: VecDeque<Row>,
}

/// The fit of a class at an endpoint.
#[derive(Debug, Default)]
struct Row {
    class: u64,
    endpoint: Option<Arc<str>>,
    fit: Fit,
    /// Batches of the class that came back from there, the later the more.
    recent: f64,
}

impl Row {
    fn is(&self, class: u64, endpoint: Option<&Arc<str>>) -> bool {
        self.class == class && self.endpoint.as_ref() == endpoint
    }
}

impl Costs {
    pub(super) fn add(&mut self, class: u64, endpoint: Option<&Arc<str>>, items: usize, seconds: f64) {
        let items = items as f64;
        self.fits.iter_mut().filter(|row| row.class == class).for_each(|row| row.recent *= DECAY);
        let at = self.fits.iter().rposition(|row| row.is(class, endpoint));
        let known = at.and_then(|at| self.fits.remove(at));
        let mut row = known.unwrap_or_else(|| Row { class, endpoint: endpoint.cloned(), ..Row::default() });
        let seconds = row.fit.tempered(items, seconds);
        row.fit.add(items, seconds);
        row.recent += 1.0;
        self.pool.add(items, seconds);
        if self.fits.len() >= FITS_MAX {
            self.fits.pop_front();
        }
        self.fits.push_back(row);
    }

    /// Returns the cost of a class at an endpoint, if it is known.
    pub(super) fn at(&self, class: u64, endpoint: Option<&Arc<str>>) -> Option<Cost> {
        let row = self.fits.iter().rev().find(|row| row.is(class, endpoint))?;
        row.fit.is_known().then(|| row.fit.cost())
    }

    /// Returns the cost that is to be expected for a class. Which endpoint gets a batch isn't known when it is sent, so
    /// that it is the mean of those that are known, by how many batches each had of late: a slow one has few, and one that
    /// is out of service soon counts for nothing. It is the pool's if none is known.
    pub(super) fn of(&self, class: u64) -> Cost {
        let known = self.fits.iter().filter(|row| row.class == class && row.fit.is_known());
        let (weight, sum) = known.fold((0.0_f64, Cost::default()), |(weight, sum), Row { fit, recent, .. }| {
            let Cost { fixed, per_item } = fit.cost();
            let sum = Cost { fixed: sum.fixed + recent * fixed, per_item: sum.per_item + recent * per_item };
            (weight + recent, sum)
        });
        if weight > 0.0 { Cost { fixed: sum.fixed / weight, per_item: sum.per_item / weight } } else { self.pool() }
    }

    /// Returns that of all classes together.
    pub(super) fn pool(&self) -> Cost {
        self.pool.cost()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a fit of batches of these sizes, in turn, on a model of 20 ms + 1 ms·n.
    fn fitted(sizes: &[u32], batches: usize) -> Fit {
        let mut fit = Fit::default();
        for size in sizes.iter().copied().cycle().take(batches).map(f64::from) {
            fit.add(size, 0.02 + 0.001 * size);
        }
        fit
    }

    #[track_caller]
    fn assert_near(cost: Cost, fixed: f64, per_item: f64) {
        let near = |is: f64, wanted: f64| (is - wanted).abs() <= 0.05 * wanted + 1e-5;
        assert!(near(cost.fixed, fixed) && near(cost.per_item, per_item), "{cost:?}, not {fixed} and {per_item}");
    }

    #[test]
    fn a_line_is_found() {
        assert_near(fitted(&[1, 7, 32], 60).cost(), 0.02, 0.001);
    }

    #[test]
    fn batches_of_one_size_show_no_slope_and_leave_the_one_before() {
        assert_near(fitted(&[8], 60).cost(), 0.028, 0.0);
        let mut fit = fitted(&[1, 7, 32], 60);
        for _ in 0..600 {
            fit.add(8.0, 0.028);
        }
        assert_near(fit.cost(), 0.02, 0.001);
    }

    #[test]
    fn neither_part_is_negative() {
        let mut fit = Fit::default();
        // Larger batches take less time, and then more than in proportion.
        for (size, seconds) in [(1.0, 0.05), (20.0, 0.01)].into_iter().cycle().take(40) {
            fit.add(size, seconds);
            assert!(fit.cost().fixed >= 0.0 && fit.cost().per_item >= 0.0, "{fit:?}");
        }
        for (size, seconds) in [(1.0, 0.001), (20.0, 0.4)].into_iter().cycle().take(200) {
            fit.add(size, seconds);
            assert!(fit.cost().fixed >= 0.0 && fit.cost().per_item >= 0.0, "{fit:?}");
        }
    }

    #[test]
    fn one_that_took_far_too_long_says_little_and_a_few_in_turn_say_all() {
        let mut costs = Costs::default();
        let mut add = |batches: usize, fixed: f64, per_item: f64| {
            for size in [1_u32, 7, 32].into_iter().cycle().take(batches) {
                costs.add(1, None, size as usize, fixed + per_item * f64::from(size));
            }
            costs.of(1)
        };
        assert_near(add(60, 0.02, 0.001), 0.02, 0.001);
        let Cost { fixed, per_item } = add(1, 30.0, 0.0);
        assert!((fixed + 7.0 * per_item - 0.027).abs() < 0.003, "{fixed} and {per_item}");
        assert_near(add(60, 0.2, 0.01), 0.2, 0.01);
    }

    #[test]
    fn a_class_has_a_cost_of_its_own_once_that_is_known_and_the_pools_before() {
        let mut costs = Costs::default();
        let endpoint: Arc<str> = Arc::from("one");
        for _ in 0..10 {
            for size in [1_u32, 16] {
                costs.add(1, Some(&endpoint), size as usize, 0.1 + 0.01 * f64::from(size));
            }
        }
        assert_near(costs.of(1), 0.1, 0.01);
        assert_near(costs.of(2), 0.1, 0.01);
        for size in [1_u32, 16, 1, 16] {
            costs.add(2, Some(&endpoint), size as usize, 0.001 * f64::from(size));
        }
        assert!(costs.of(2).fixed > 0.05, "four say nothing: {:?}", costs.of(2));
        for size in [1_u32, 16].repeat(30) {
            costs.add(2, Some(&endpoint), size as usize, 0.001 * f64::from(size));
        }
        assert_near(costs.of(2), 0.0, 0.001);
        assert_near(costs.of(1), 0.1, 0.01);
    }

    #[test]
    fn a_class_costs_the_mean_of_its_endpoints() {
        let mut costs = Costs::default();
        for (name, seconds) in [("quick", 0.01), ("slow", 0.03)] {
            for _ in 0..KNOWN_AFTER {
                costs.add(1, Some(&Arc::from(name)), 4, seconds);
            }
        }
        assert_near(costs.of(1), 0.02, 0.0);
    }

    #[test]
    fn an_endpoint_counts_by_the_batches_that_it_has_of_late() {
        let (quick, slow): (Arc<str>, Arc<str>) = (Arc::from("quick"), Arc::from("slow"));
        let mut costs = Costs::default();
        for _ in 0..40 {
            costs.add(1, Some(&slow), 4, 0.05);
            for _ in 0..5 {
                costs.add(1, Some(&quick), 4, 0.01);
            }
        }
        // By their number it would be 0.03.
        assert!((costs.of(1).of(4).as_secs_f64() - 0.1 / 6.0).abs() < 0.001, "{:?}", costs.of(1));
        for _ in 0..300 {
            costs.add(1, Some(&quick), 4, 0.01);
        }
        assert_near(costs.of(1), 0.01, 0.0);
    }

    #[test]
    fn no_more_fits_are_remembered_than_allowed() {
        let mut costs = Costs::default();
        for class in 0..2 * FITS_MAX as u64 {
            costs.add(class, None, 1, 0.01);
        }
        assert_eq!(costs.fits.len(), FITS_MAX);
    }
}
