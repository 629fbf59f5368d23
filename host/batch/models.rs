//! What each model of a pool has served, in a table of bounded size. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::report::ModelInfo;

/// The row of all models that have none of their own.
const OTHER: &str = "other";

/// Bytes of the longest name that has a row of its own.
const NAME_MAX: usize = 128;

/// The models of one pool, by the names that requests say. Only those that responded have a row, so that names which
/// clients make up take no place.
#[derive(Debug)]
pub struct Models {
    models_max: usize,
    rows: BTreeMap<Arc<str>, Row>,
}

/// A batch that a model responded to.
#[derive(Clone, Copy, Debug)]
pub struct ModelBatch {
    /// Its items.
    pub items: usize,
    /// Prompt tokens that the model says it has read for it.
    pub tokens: u64,
    /// From its sending until its responses were there.
    pub took: Duration,
}

/// Sums over the batches of a model.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    batches: u64,
    items: u64,
    tokens: u64,
    took: Duration,
}

impl Models {
    /// Returns a table of so many models, and a further row for all others.
    #[must_use]
    pub const fn new(models_max: usize) -> Self {
        Self { models_max, rows: BTreeMap::new() }
    }

    /// Counts a batch, and returns the name of the row that it counts in.
    pub fn add(&mut self, model: &str, batch: &ModelBatch) -> Arc<str> {
        let name = self.name_for(model);
        let row = self.rows.entry(Arc::clone(&name)).or_default();
        row.batches += 1;
        row.items += batch.items as u64;
        row.tokens = row.tokens.saturating_add(batch.tokens);
        row.took = row.took.saturating_add(batch.took);
        name
    }

    fn name_for(&self, model: &str) -> Arc<str> {
        if let Some((known, _)) = self.rows.get_key_value(model) {
            return Arc::clone(known);
        }
        let known = self.rows.len() - usize::from(self.rows.contains_key(OTHER));
        let has_room = known < self.models_max && model.len() <= NAME_MAX;
        Arc::from(if has_room { model } else { OTHER })
    }

    /// Returns what each has served.
    #[must_use]
    pub fn infos(&self) -> Vec<ModelInfo> {
        let info = |(model, row): (&Arc<str>, &Row)| ModelInfo {
            model: model.to_string(),
            batches: row.batches,
            items: row.items,
            tokens: row.tokens,
            took_us: u64::try_from(row.took.as_micros()).unwrap_or(u64::MAX) / row.batches.max(1),
        };
        self.rows.iter().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(items: usize, millis: u64) -> ModelBatch {
        ModelBatch { items, tokens: 10, took: Duration::from_millis(millis) }
    }

    #[test]
    fn each_model_has_a_row_and_those_beyond_share_one() {
        let mut models = Models::new(2);
        let long = "m".repeat(NAME_MAX + 1);
        for (model, row) in [("a", "a"), ("a", "a"), (long.as_str(), "other"), ("b", "b"), ("c", "other"), ("a", "a")] {
            assert_eq!(&*models.add(model, &batch(4, 20)), row, "{model}");
        }
        models.add("b", &batch(8, 40));
        let rows: Vec<_> = models
            .infos()
            .into_iter()
            .map(|info| (info.model, info.batches, info.items, info.tokens, info.took_us))
            .collect();
        let row = |model: &str, batches: u64, items: u64, took_us: u64| {
            (model.to_owned(), batches, items, 10 * batches, took_us)
        };
        assert_eq!(rows, [row("a", 3, 12, 20_000), row("b", 2, 12, 30_000), row("other", 2, 8, 20_000)]);
    }

    #[test]
    fn without_room_all_count_as_others() {
        let mut models = Models::new(0);
        assert_eq!(&*models.add("a", &batch(1, 1)), "other");
        assert_eq!(models.infos().len(), 1);
    }
}
