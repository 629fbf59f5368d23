//! What a disk says of the process that was the region's member on this directory: a sign-on that outlives it. Pure.
//!
//! The others can't tell a member that stands still from one that has ended: they wait for its fence with each purge, for
//! `lost_ms` after its last word. So a process that starts on the member's directory, and can't reach the log, may do what
//! the member might do if it stood still and went on: ask the origin about all that was stored before, and then once a key
//! and fence period (`fence.rs`).
//!
//! The note is written after the member was put on the log's list, and withdrawn before it is taken off. Whatever fails in
//! between leaves either no note, or a member that nobody has signed off.

use std::time::Duration;

use crate::{cache::tag::Tag, clock::Uptime};

/// How often the last word is written down anew, as a part of the time for which it counts. The note may be too old,
/// which costs a process that starts the rest of that time; it is never too new.
const REFRESHES: u32 = 16;

/// A process that is on the list of the region's log, as its disk has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The process.
    pub instance: u64,
    /// Its last word was no earlier than this.
    pub word: Uptime,
    /// The digest of its [`Terms`].
    pub terms: Tag,
}

/// Everything by which others count with a process. Under the same terms they count with the next one on its directory.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'t> {
    /// The node's name, by which an operator signs it off.
    pub node: &'t str,
    /// Its fence in milliseconds; `None` if it goes on serving when it is cut off.
    pub fence_ms: Option<u64>,
    /// How long it counts after its last word, in milliseconds.
    pub lost_ms: u64,
    /// The log that has it on its list.
    pub log: Tag,
    /// By which clock its last word was, and in which file that is written.
    pub clock: &'t str,
}

impl Terms<'_> {
    /// Returns the same value for the same terms.
    #[must_use]
    pub fn digest(&self) -> Tag {
        let Self { node, fence_ms, lost_ms, log, clock } = self;
        Tag::named(format!("{node:?} {fence_ms:?} {lost_ms} {log:?} {clock:?}").as_bytes())
    }
}

impl Membership {
    /// Returns when the others heard of the member last, or a moment before that, for a process that starts at `now` on
    /// these terms; `None` if they don't count with that process.
    #[must_use]
    pub fn last_word(&self, terms: Tag, now: Uptime) -> Option<Uptime> {
        (self.terms == terms && self.word <= now).then_some(self.word)
    }
}

/// Whether a note that has the word of `noted`, if there is one, is to be written anew at `now`.
#[must_use]
pub fn is_due(noted: Option<Uptime>, lost: Duration, now: Uptime) -> bool {
    noted.is_none_or(|noted| now.since(noted) >= lost / REFRESHES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_on_the_same_terms_takes_the_members_place() {
        let log = Tag::named(b"log");
        let same = Terms { node: "n", fence_ms: Some(4_000), lost_ms: 60_000, log, clock: "boot" };
        let member = Membership { instance: 1, word: Uptime(1_000), terms: same.digest() };
        let table = [
            ("the same", same, 5_000, true),
            ("in the same millisecond", same, 1_000, true),
            ("by a clock that went back", same, 999, false),
            ("another name", Terms { node: "m", ..same }, 5_000, false),
            ("another fence", Terms { fence_ms: Some(4_001), ..same }, 5_000, false),
            ("one that serves when it is cut off", Terms { fence_ms: None, ..same }, 5_000, false),
            ("lost later", Terms { lost_ms: 60_001, ..same }, 5_000, false),
            ("another log", Terms { log: Tag::named(b"other"), ..same }, 5_000, false),
            ("another start of the machine, or another file", Terms { clock: "boot 2", ..same }, 5_000, false),
        ];
        for (name, terms, now, wanted) in table {
            let word = member.last_word(terms.digest(), Uptime(now));
            assert_eq!(word, wanted.then_some(Uptime(1_000)), "{name}");
        }
    }

    #[test]
    fn a_note_is_written_at_once_and_then_now_and_then() {
        let lost = Duration::from_secs(16);
        for (noted, now, wanted) in
            [(None, 5, true), (Some(5), 5, false), (Some(5), 1_004, false), (Some(5), 1_005, true)]
        {
            assert_eq!(is_due(noted.map(Uptime), lost, Uptime(now)), wanted, "{noted:?} {now}");
        }
    }
}
