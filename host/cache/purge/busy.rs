//! What a node's disk says of invalidations that the log has taken and that this node may have yet to read back and save.
//! Pure.
//!
//! Should the node and the log's server end together, a log that comes back without its last records may look right to
//! the node, whose disk didn't have them either. One note for a whole busy period shows that there may have been some.

use super::table::Incarnation;
use crate::cache::tag::Tag;

/// A time in which the log took invalidations from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// The log that took them.
    pub log: Incarnation,
    /// Its server, as a digest of the name that it has until it is restarted; zero if that isn't known, or there were
    /// several.
    pub server: u64,
}

/// The note of a busy period.
#[derive(Debug, Default)]
pub struct Note {
    /// What the disk says now.
    pub on_disk: Option<Busy>,
    /// What the process before left there, until it is known whether the log still has what it took then.
    pub left: Option<Busy>,
    /// The disk refused it last.
    pub refused: bool,
}

impl Busy {
    /// The log of this incarnation has taken something, on this server.
    #[must_use]
    pub fn new(log: Incarnation, server: Option<&str>) -> Self {
        Self { log, server: server.map_or(0, digest) }
    }

    /// Returns one that stands for both, of which `later` is the later.
    #[must_use]
    pub fn joined(self, later: Self) -> Self {
        if self == later { self } else { Self { log: later.log, server: 0 } }
    }

    /// Whether a node may go on with the log that it finds: its server has run on since it took what it took, or the
    /// log has begun anew, so that all nodes confirm what they had before.
    #[must_use]
    pub fn is_kept_by(&self, log: Incarnation, server: Option<&str>) -> bool {
        let same_server = self.server != 0 && server.map(digest) == Some(self.server);
        log.is_after(self.log) || log == self.log && same_server
    }
}

/// Never zero.
fn digest(server: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *Tag::named(server.as_bytes()).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h]) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn log(number: u64, random: u64) -> Incarnation {
        Incarnation((number << 32) | random)
    }

    #[test]
    fn a_log_is_gone_on_with_only_if_its_server_ran_on_or_it_began_anew() {
        let busy = Busy::new(log(3, 1), Some("s"));
        let unknown = Busy::new(log(3, 1), None);
        let several = busy.joined(Busy::new(log(3, 1), Some("t")));
        assert_eq!((busy.joined(busy), several, several.joined(busy)), (busy, unknown, unknown));
        let table = [
            ("the same", busy, log(3, 1), Some("s"), true),
            ("restarted", busy, log(3, 1), Some("t"), false),
            ("it doesn't say", busy, log(3, 1), None, false),
            ("it didn't say", unknown, log(3, 1), None, false),
            ("one of several", several, log(3, 1), Some("t"), false),
            ("a later incarnation", busy, log(4, 9), Some("t"), true),
            ("another of that number", busy, log(3, 2), Some("s"), false),
            ("an older one", busy, log(2, 1), Some("s"), false),
        ];
        for (name, busy, log, server, wanted) in table {
            assert_eq!(busy.is_kept_by(log, server), wanted, "{name}");
        }
    }
}
