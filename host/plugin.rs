//! Policies that are WebAssembly components: loading, limits, instances, calls.
//!
//! A [`Plugin`] is one generation of one policy and never changes; a reload makes another, and a [`Generations`] has
//! them all. To the rest of the program they are [`crate::policy::Policy`] and [`crate::policy::Roster`]; no other room
//! depends on wasmtime or the bindings.

mod compiled;
mod component;
mod contract;
mod declared;
mod diagnostics;
mod engine;
mod error;
mod examples;
mod exports;
mod generation;
mod generations;
mod health;
mod hook;
mod info;
mod inputs;
mod instance;
mod kept;
mod limits;
mod manifest;
mod memo;
mod memo_gate;
mod metrics;
mod remember;
mod rollout;
mod shadow;
mod state;
#[cfg(test)]
mod tests;

pub use self::{
    component::Plugin,
    engine::{Engine, EngineLimits},
    error::{Error, Flaw, Refusal, Unmade},
    generations::{Generations, Introduction, Refused},
    metrics::Metrics,
};
pub(crate) use generation::COMPONENT_BYTES_MAX;
