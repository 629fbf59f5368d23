//! The cache: what is stored where, what it's good for, who fetches it, and what was purged.
//!
//! The rules are pure (`control`, `targeted`, `freshness`, `ahead`, `vary`, `search`, `groups`, `admit`, `conditional`,
//! `range`, `slice`, `lookup`, `lease`, `purge::table`); the edges are `store` (tiers), `purge` (log and table), `collapse`
//! (flights), `region` (what another node of the region fetches), `coded` (variants in a content coding), `dictionary` (for
//! deltas) and `body` (reading and taking in bodies).
//! [`Cache`] opens the tiers and the purge table, and looks things up in them.

pub mod admit;
pub mod ahead;
pub mod body;
pub mod codec;
pub mod coded;
pub mod collapse;
pub mod conditional;
pub mod control;
pub mod dictionary;
pub mod entry;
mod facade;
pub mod fetches;
pub mod freshness;
pub mod groups;
pub mod inspect;
pub mod key;
pub mod lease;
pub mod lookup;
mod metrics;
pub mod nodes;
pub mod purge;
pub mod range;
pub mod record;
pub mod region;
pub mod search;
pub mod slice;
pub mod status;
pub mod store;
pub mod tag;
pub mod targeted;
pub mod vary;

pub use self::{
    facade::{Cache, Error, Found, Query},
    metrics::{Metrics, WorldMetrics},
};
