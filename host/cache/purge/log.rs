//! What a purge log is to the rest of the room, whichever engine carries it.

use std::{fmt, time::Duration};

use futures_util::{future::BoxFuture, stream::BoxStream};

use super::{
    Error,
    table::{Cursor, Incarnation, Kind, Link, Position, Reach, Record},
};
use crate::{cache::tag::Tag, clock};

/// Between two attempts while a log can't be reached.
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// A log that all nodes of a region append to and follow.
///
/// Nothing is promised by the engine alone: it may lose its last records, be put back to an older state, or be emptied.
/// That is noticed by what each record carries (its number and the link of the one before), and ends the incarnation.
pub trait Log: Send + Sync + fmt::Debug {
    /// Tells it from other logs: where it is, as this node was told.
    fn identity(&self) -> Tag;

    /// Appends purges in their order, and returns where the last one stands. If the log has to begin for that, `known`
    /// members are put on its list in the same step, unless they are on it.
    ///
    /// # Errors
    /// [`Error::Log`]: it isn't known whether they have been appended.
    fn append<'a>(&'a self, purges: &'a [Append], known: &'a [Member]) -> BoxFuture<'a, Result<Appended, Error>>;

    /// Signs `member` on with its report, checks that `from` is a point of this log, and reads what follows it: one step
    /// for the log, so that a purge afterwards counts with this node, and one before is in what was read. A report is
    /// believed only if `from` is a point of the log.
    ///
    /// # Errors
    /// [`Error::Log`]: the log can't be reached.
    fn follow<'a>(&'a self, member: &'a Member, from: Cursor) -> BoxFuture<'a, Result<Followed, Error>>;

    /// Waits until there is a record after `from`, or `time` is over.
    ///
    /// # Errors
    /// [`Error::Log`]: the log can't be reached.
    fn wait<'a>(&'a self, from: Cursor, time: Duration) -> BoxFuture<'a, Result<(), Error>>;

    /// Begins a new incarnation, if `from` is still the present one, with `known` members as [`Log::append`].
    ///
    /// # Errors
    /// [`Error::Log`]: the log can't be reached.
    fn begin_anew<'a>(&'a self, from: Incarnation, known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>>;

    /// The nodes that have signed on and not off, which of those that are `known` have been signed off, and whether the
    /// log still has `purge`.
    ///
    /// # Errors
    /// [`Error::Log`]: the log can't be reached.
    fn members<'a>(&'a self, purge: Option<&'a Appended>, known: &'a [Member]) -> BoxFuture<'a, Result<Listed, Error>>;

    /// Puts members on the list that aren't on it and haven't been signed off; leaves the others as they are.
    ///
    /// # Errors
    /// [`Error::Log`]: the log can't be reached.
    fn sign_on<'a>(&'a self, known: &'a [Member]) -> BoxFuture<'a, Result<(), Error>>;

    /// Signs a member off, and records that; unless it has reported since, if `unless_changed`.
    ///
    /// # Errors
    /// [`Error::Log`]: the log can't be reached.
    fn sign_off<'a>(&'a self, member: &'a Member, unless_changed: bool) -> BoxFuture<'a, Result<(), Error>>;

    /// Returns what the log says of its records by itself, from now on: first nothing, when it has begun to. `None` for a
    /// log that has to be asked; then [`Log::wait`] tells when.
    ///
    /// What is said moves no fence: that nothing was said for a while says nothing of what was appended.
    fn notices(&self) -> Option<Words<'_>> {
        None
    }

    /// Returns what the log says of its records and of what members report, from now on. `None` for a log that has to be
    /// asked, by [`Log::members`].
    fn reports(&self) -> Option<Words<'_>> {
        None
    }

    /// Reports that a member, which is on the list, has applied the log up to `at`. Nothing is read, so it confirms nothing
    /// to the member. Returns whether it is believed, as [`Log::follow`] would.
    ///
    /// # Errors
    /// [`Error::Log`]: the log can't be reached.
    fn report(&self, _member: Member, _at: Cursor) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(std::future::ready(Ok(false)))
    }
}

/// What a log says by itself, in the order in which it happened and without a gap; an error ends it.
pub type Words<'l> = BoxStream<'l, Result<Vec<Word>, Error>>;

/// Something that a log says by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A record was appended to this incarnation.
    Record(Incarnation, Tied),
    /// A member has reported.
    Report(Member),
    /// Something else has changed that is to be read.
    Change,
}

/// A purge to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// What it purges.
    pub tag: Tag,
    /// How.
    pub kind: Kind,
    /// What the tag stands for.
    pub reach: Reach,
}

/// Where a purge stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The log's incarnation.
    pub log: Incarnation,
    /// Its position.
    pub position: Position,
    /// Its link.
    pub link: Link,
    /// The server that took it: a name that another server, or the same one after a restart, doesn't have.
    pub server: Option<String>,
}

/// What a node reports when it reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it has applied and made durable.
    pub applied: Position,
    /// Its fence in milliseconds; `None` if it goes on serving when it is cut off.
    pub fence_ms: Option<u64>,
    /// How long it counts with being waited for after it last read the log, in milliseconds. Past that it serves nothing
    /// without asking.
    pub lost_ms: u64,
    /// Its own clock, so that another word of it can be told from the same.
    pub beat: u64,
}

/// A node that has signed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, which the operator gave.
    pub node: String,
    /// One life of its process.
    pub instance: u64,
    /// The incarnation by whose table it judges what it has stored.
    pub log: Incarnation,
    /// What it said last.
    pub report: Report,
}

/// The name of the member that stands for nodes of which nothing is known.
pub const STRANGERS: &str = "*";

impl Member {
    /// Returns the member that stands for nodes of which nothing is known. A log that is begun by a node that knows of no
    /// earlier one may have been wiped, and its list with it: for `lost` purges wait for a fence in any case.
    #[must_use]
    pub fn strangers(fence: Duration, lost: Duration) -> Self {
        let report = Report {
            applied: Position(0),
            fence_ms: Some(clock::millis(fence)),
            lost_ms: clock::millis(lost),
            beat: 0,
        };
        Self { node: STRANGERS.to_owned(), instance: 0, log: Incarnation(0), report }
    }

    /// Whether this is [`Member::strangers`]. No process has the number zero.
    #[must_use]
    pub fn is_strangers(&self) -> bool {
        self.instance == 0 && self.node == STRANGERS
    }
}

/// The members of a log at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The log's incarnation.
    pub log: Incarnation,
    /// The server, as in [`Appended::server`].
    pub server: Option<String>,
    /// Those that have signed on and not off.
    pub members: Vec<Member>,
    /// Those that were asked about, aren't on the list, and have said nothing that is known since they were signed off.
    /// Whoever is in neither was lost with the list.
    pub left: Vec<Member>,
    /// The purge that was asked about is no longer in the incarnation that took it, and no bound explains that.
    pub lost: bool,
}

/// What reading on brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Records, in order and without a gap.
    Records {
        /// What follows the cursor.
        entries: Vec<Entry>,
        /// The log's last position at that moment.
        last: Position,
        /// The server, as in [`Appended::server`].
        server: Option<String>,
    },
    /// The records up to this position are no longer there, as the log's bound has it; what follows is. With the link of
    /// the last one that is missing.
    Trimmed(Position, Link),
    /// The log has another incarnation.
    Other(Incarnation),
    /// The cursor is no point of this log: it has lost records, or was put back to an older state.
    Forked,
}

/// One record of the log as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub position: Position,
    /// Its link.
    pub link: Link,
    /// What it says; `None` if this node can't understand it, and so everything may have been purged.
    pub record: Option<Record>,
}

/// A record with what ties it to the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tied {
    /// The record.
    pub entry: Entry,
    /// The link of the record before it.
    pub before: Link,
}

/// Takes records for what they are: those that follow `from` without a gap. Pure.
///
/// `trimmed` says that the first one is the oldest that the log still has, so that a gap before it is the log's bound at
/// work and not a loss.
#[must_use]
pub fn chained(
    from: Cursor,
    records: Vec<Tied>,
    last: (Position, Link),
    trimmed: bool,
    server: Option<String>,
) -> Followed {
    let mut at = from;
    if trimmed
        && let Some(first) = records.first()
        && first.entry.position.0 > at.position.0 + 1
    {
        return Followed::Trimmed(Position(first.entry.position.0 - 1), first.before);
    }
    let mut entries = Vec::with_capacity(records.len());
    for Tied { entry, before } in records {
        if entry.position.0 != at.position.0 + 1 || at.link != before {
            return Followed::Forked;
        }
        at = Cursor { position: entry.position, link: entry.link, ..at };
        entries.push(entry);
    }
    if entries.is_empty() && last.0 > at.position {
        // Records that were counted are not there, and nothing is left that would bear witness.
        return Followed::Trimmed(last.0, last.1);
    }
    Followed::Records { entries, last: last.0, server }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Incarnation = Incarnation(1);

    fn tied(position: u64, link: u64, before: u64) -> Tied {
        Tied { entry: Entry { position: Position(position), link: Link(link), record: None }, before: Link(before) }
    }

    fn cursor(position: u64, link: u64) -> Cursor {
        Cursor { log: LOG, position: Position(position), link: Link(link) }
    }

    fn what(followed: &Followed) -> String {
        match followed {
            Followed::Records { entries, .. } => format!("{} records", entries.len()),
            Followed::Trimmed(position, _) => format!("trimmed to {position}"),
            Followed::Other(_) => "other".to_owned(),
            Followed::Forked => "forked".to_owned(),
        }
    }

    #[test]
    fn a_gap_is_a_value_and_never_silence() {
        let table = [
            ("nothing new", cursor(5, 55), vec![], 5, false, "0 records"),
            ("the next", cursor(5, 55), vec![tied(6, 66, 55)], 6, false, "1 records"),
            ("the next two", cursor(5, 55), vec![tied(6, 66, 55), tied(7, 77, 66)], 7, false, "2 records"),
            ("from the start", cursor(0, 0), vec![tied(1, 11, 0)], 1, true, "1 records"),
            ("another history", cursor(5, 55), vec![tied(6, 66, 54)], 6, false, "forked"),
            ("another history later", cursor(5, 55), vec![tied(6, 66, 55), tied(7, 77, 65)], 7, false, "forked"),
            ("a gap in the middle", cursor(5, 55), vec![tied(6, 66, 55), tied(8, 88, 77)], 8, false, "forked"),
            ("a gap at once", cursor(5, 55), vec![tied(7, 77, 66)], 7, false, "forked"),
            ("trimmed", cursor(5, 55), vec![tied(9, 99, 88)], 9, true, "trimmed to 8"),
            ("behind what was trimmed", cursor(8, 88), vec![tied(9, 99, 88)], 9, true, "1 records"),
            ("all trimmed", cursor(5, 55), vec![], 9, true, "trimmed to 9"),
            ("all gone", cursor(5, 55), vec![], 9, false, "trimmed to 9"),
        ];
        for (name, from, records, last, trimmed, wanted) in table {
            assert_eq!(what(&chained(from, records, (Position(last), Link(1)), trimmed, None)), wanted, "{name}");
        }
    }
}
