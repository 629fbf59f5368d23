//! Whether a reader's cursor is a point of a log. Pure.

use crate::cache::purge::{
    log::Followed,
    table::{Cursor, Incarnation, Link, Position},
};

/// What was found of a log, in one step.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The incarnation, if there is one that can be read.
    pub(super) id: Option<Incarnation>,
    /// The last record's position and link.
    pub(super) state: Option<(Position, Link)>,
    /// The links of the records at the cursor's position.
    pub(super) here: Vec<Link>,
    /// The position of the oldest record, and the link of the one before it.
    pub(super) first: Option<(Position, Link)>,
}

/// What shows that a cursor is a point of the log, and has to hold still in the step that believes the reader's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// It stands before the first record.
    Start,
    /// The record that it names is there.
    Record,
    /// It is the end of the log.
    State,
    /// The oldest record names the one before it.
    First,
    /// Nothing does: what would bear witness is no longer there. The report isn't believed.
    Missing,
}

/// Returns what shows that the cursor is a point of the log.
///
/// # Errors
/// What the reader has to be told instead.
pub(super) fn proof(from: Cursor, found: &Found) -> Result<Proof, Followed> {
    let (Some(id), Some((last, tip))) = (found.id, found.state) else { return Err(Followed::Other(Incarnation(0))) };
    if id != from.log {
        return Err(Followed::Other(id));
    }
    if from.position > last {
        return Err(Followed::Forked);
    }
    if from.position == Position(0) {
        return Ok(Proof::Start);
    }
    if from.position == last {
        return if tip == from.link { Ok(Proof::State) } else { Err(Followed::Forked) };
    }
    if !found.here.is_empty() {
        return if found.here.contains(&from.link) { Ok(Proof::Record) } else { Err(Followed::Forked) };
    }
    match found.first {
        Some((first, before)) if first.0 == from.position.0 + 1 => {
            if before == from.link {
                Ok(Proof::First)
            } else {
                Err(Followed::Forked)
            }
        }
        // It isn't there though an older one is.
        Some((first, _)) if first <= from.position => Err(Followed::Forked),
        _ => Ok(Proof::Missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Incarnation = Incarnation(1);

    fn found(last: u64, here: &[u64], first: Option<(u64, u64)>) -> Found {
        Found {
            id: Some(LOG),
            state: Some((Position(last), Link(last * 11))),
            here: here.iter().map(|link| Link(*link)).collect(),
            first: first.map(|(position, before)| (Position(position), Link(before))),
        }
    }

    #[test]
    fn a_cursor_is_believed_only_where_something_bears_witness() {
        let forked = || Err(Followed::Forked);
        let table = [
            ("before the first", (0, 0), found(5, &[], Some((1, 0))), Ok(Proof::Start)),
            ("an empty log", (0, 0), found(0, &[], None), Ok(Proof::Start)),
            ("in the middle", (3, 33), found(5, &[33], Some((1, 0))), Ok(Proof::Record)),
            ("in another history", (3, 34), found(5, &[33], Some((1, 0))), forked()),
            ("at the end", (5, 55), found(5, &[], None), Ok(Proof::State)),
            ("at another end", (5, 56), found(5, &[55], Some((1, 0))), forked()),
            ("past the end", (6, 66), found(5, &[], Some((1, 0))), forked()),
            ("before the oldest", (3, 33), found(9, &[], Some((4, 33))), Ok(Proof::First)),
            ("before the oldest of another history", (3, 34), found(9, &[], Some((4, 33))), forked()),
            ("trimmed", (3, 33), found(9, &[], Some((7, 66))), Ok(Proof::Missing)),
            ("all gone", (3, 33), found(9, &[], None), Ok(Proof::Missing)),
            ("a hole", (3, 33), found(9, &[], Some((2, 11))), forked()),
        ];
        for (name, (position, link), found, wanted) in table {
            let from = Cursor { log: LOG, position: Position(position), link: Link(link) };
            assert_eq!(proof(from, &found), wanted, "{name}");
        }
    }

    #[test]
    fn a_log_that_is_not_whole_is_none_and_another_is_named() {
        let from = Cursor { log: LOG, position: Position(0), link: Link(0) };
        let other = |log| Err(Followed::Other(Incarnation(log)));
        let table = [
            (Found::default(), other(0)),
            (Found { state: None, ..found(5, &[], None) }, other(0)),
            (Found { id: None, ..found(5, &[], None) }, other(0)),
            (Found { id: Some(Incarnation(2)), ..found(5, &[], None) }, other(2)),
        ];
        for (found, wanted) in table {
            assert_eq!(proof(from, &found), wanted, "{found:?}");
        }
    }
}
