//! What a configuration has from one place for many nodes.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// How a node follows the central configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Central {
    /// The directory of the last generation that the node took, and of the components that it names.
    pub dir: PathBuf,
}

/// A generation of the central configuration, as a node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number. A later generation has a higher one.
    pub number: u64,
    /// Digest of its record, in hex: two stores may have different ones under one number.
    pub digest: String,
    /// The central part as TOML.
    pub text: String,
    /// The files of its policies' components, by the names of the policies.
    pub components: BTreeMap<String, PathBuf>,
    /// The bytes of its record, as they were read; empty if it was never pushed.
    pub record: Arc<[u8]>,
}

impl Generation {
    /// Returns its name in messages.
    #[must_use]
    pub fn name(&self) -> String {
        format!("generation {} of the central configuration", self.number)
    }
}
