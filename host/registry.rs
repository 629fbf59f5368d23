//! Components from OCI registries, by the digests of their manifests (the OCI distribution specification, "Pull").
//!
//! `reference` says which is meant, `manifest` finds the component among what a manifest names, `challenge` reads where a
//! token is to be had: all three are pure. `pull` is their edge, for the command line; nodes ask no registry.

mod challenge;
mod error;
mod manifest;
mod pull;
mod reference;

pub use self::{
    error::Error,
    pull::pull,
    reference::{Reference, ReferenceInvalid, SCHEME},
};
