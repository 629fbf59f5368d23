//! What the command line says, beyond what `main` takes itself.

pub(crate) mod policy;
