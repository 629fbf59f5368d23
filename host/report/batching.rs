//! How long the batches of a pool took: `GET /batching`.

use serde::{Deserialize, Serialize};

/// The batching of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchingInfo {
    /// The pool's name.
    pub pool: String,
    /// Batches that its model responded to, since start.
    pub batches: u64,
    /// The line that is fitted to the times; `None` before batches of two sizes are known.
    pub fit: Option<FitInfo>,
    /// The times as measured, by size. Of sizes that there was no batch of for long, none.
    pub points: Vec<PointInfo>,
    /// Batches that may be under way at present.
    pub slots: usize,
    /// The tenants that were served most, those first.
    pub tenants: Vec<TenantInfo>,
    /// The models that requests named, by name.
    pub models: Vec<ModelInfo>,
}

/// What a model has served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its name, or `other` for all that there is no room for.
    pub model: String,
    /// Batches that it responded to, since start.
    pub batches: u64,
    /// Items in them.
    pub items: u64,
    /// Prompt tokens that it says it has read for them.
    pub tokens: u64,
    /// Microseconds that one of them took, on average.
    pub took_us: u64,
}

/// What a tenant has of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantInfo {
    /// A digest that stands for it, or `others` for all that there is no room for.
    pub tenant: String,
    /// Its part of what the known tenants were served, by cost, in a million.
    pub part_ppm: u32,
    /// Its items that wait.
    pub waiting: usize,
}

/// The time of a batch as a line over its number of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FitInfo {
    /// Microseconds for a batch, however few items are in it.
    pub fixed_us: u64,
    /// Nanoseconds for each item.
    pub per_item_ns: u64,
}

/// The mean time of batches of some sizes; a later batch counts for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointInfo {
    /// Items in the smallest of them.
    pub size_min: usize,
    /// Items in the largest of them; `None` if it has no bound.
    pub size_max: Option<usize>,
    /// Their number, since start.
    pub batches: u64,
    /// Microseconds from the sending to the responses, on average.
    pub took_us: u64,
    /// Microseconds by the fitted line; `None` if there is none.
    pub fitted_us: Option<u64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The names are what scripts and dashboards read.
    #[test]
    fn what_is_written_has_these_names_and_is_read_again() {
        let written = json!({
            "pool": "models", "batches": 9, "fit": {"fixed_us": 20_000, "per_item_ns": 1_000_000},
            "models": [{"model": "m", "batches": 9, "items": 70, "tokens": 700, "took_us": 28_000}],
            "slots": 2, "tenants": [{"tenant": "00000000000000ff", "part_ppm": 750_000, "waiting": 3}],
            "points": [
                {"size_min": 8, "size_max": 8, "batches": 7, "took_us": 28_100, "fitted_us": 28_000},
                {"size_min": 481, "size_max": null, "batches": 2, "took_us": 520_000, "fitted_us": null},
            ]
        });
        let read: BatchingInfo = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), written);
    }
}
