//! Black-box tests of the whole node: real sockets, a real Redis, real components, and the program as a process.

// A helper of a test may panic as the test itself may, and nobody counts the bytes of a test's future.
#![allow(clippy::unwrap_used, clippy::large_futures)]

mod arrays;
mod batch;
mod bodies;
mod caching;
mod certificates;
mod closing;
mod collapse;
mod compression;
mod exchange;
mod generations;
mod harness;
mod hooks;
mod http1;
mod http3;
mod http_versions;
mod isolation;
mod keys;
mod languages;
mod layering;
mod limits;
mod malformed;
mod minilm;
mod origin_faults;
mod origins_h2;
mod policy;
mod process;
mod protocols;
mod proxied;
mod purge;
mod queue;
mod ranges;
mod region;
mod reload;
mod seeing;
mod sharing;
mod slow_sockets;
mod spellings;
mod standards;
mod stories;
mod tenants;
mod tiers;
mod translated;
mod workbench;
