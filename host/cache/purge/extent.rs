//! How far a purge reaches.

use std::fmt;

/// The nodes that a purge is for, from the narrowest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// The node that makes it.
    Node,
    /// All nodes that follow the same log as the node's region.
    Region,
    /// All nodes that follow the world's log.
    World,
}

impl Extent {
    /// Returns its name in the admin API, in logs and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Region => "region",
            Self::World => "world",
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
