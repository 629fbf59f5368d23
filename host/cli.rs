//! What the command line says, beyond what `main` takes itself.

pub(crate) mod admin;
pub(crate) mod central;
pub(crate) mod diff;
pub(crate) mod nodes;
mod output;
pub(crate) mod policy;
pub(crate) mod why;
