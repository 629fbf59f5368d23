//! The files that a configuration needs.

use std::path::PathBuf;

use super::Config;

impl Config {
    /// Returns those of its needed files that are gone by now. The node runs by what it read of them; it wouldn't start.
    #[must_use]
    pub fn files_gone(&self) -> Vec<PathBuf> {
        self.needed.iter().filter(|file| !file.exists()).cloned().collect()
    }
}
