//! holm: a WebAssembly-extensible edge cache and batching node. See `docs/ARCHITECTURE.md` for the map.

pub mod app;
pub mod batch;
pub mod breaker;
pub mod cache;
pub mod clock;
pub mod config;
pub mod demo;
pub mod http;
pub mod message;
pub mod origin;
pub mod pipeline;
pub mod plugin;
pub mod policy;
pub mod telemetry;
