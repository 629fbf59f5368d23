//! holm: a WebAssembly-extensible edge cache and batching node. See `docs/ARCHITECTURE.md` for the map.

// Tables of cases are long, and owned values read better in them.
#![cfg_attr(
    test,
    allow(clippy::needless_pass_by_value, clippy::redundant_clone, clippy::too_many_lines, clippy::type_complexity)
)]

pub mod admin;
pub mod app;
pub mod batch;
pub mod breaker;
pub mod cache;
pub mod clock;
pub mod config;
pub mod demo;
pub mod etcd;
mod figures;
pub mod http;
pub mod message;
pub mod origin;
pub mod pipeline;
pub mod planted;
pub mod plugin;
pub mod policy;
pub mod registry;
pub mod report;
pub mod telemetry;
pub mod workbench;
