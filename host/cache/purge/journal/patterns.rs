//! The durable copy of the patterns that were purged, and of the floor beside them.
//!
//! A version that knows no patterns reads the rows and a floor. So the floor that it finds is the last pattern's
//! position: it has all that is older confirmed by the origin, and loses none of those purges. The floor as it is stands
//! beside that, with what tells that no such version has written anything since: how far the log was applied, the floor
//! that was stated, and the number of rows, which is another once some were folded.

use std::collections::HashMap;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};

use super::packed::{halves, journal, pair};
use crate::cache::purge::{
    Error,
    table::{self, PatternRow, Position, Row},
};

/// Patterns as text, with the positions at which they were purged hard and softly.
pub(super) type Definition = TableDefinition<'static, &'static str, [u8; 16]>;

/// Those of the log that the node follows.
pub(super) const FOLLOWED: Definition = TableDefinition::new("patterns");

/// Those of the purges of this node alone.
pub(super) const ALONE: Definition = TableDefinition::new("own patterns");

/// The names under which the floor is, with the number of rows, and what was written with it.
pub(super) struct Names {
    pub(super) floor: &'static str,
    pub(super) written_with: &'static str,
}

/// Puts the patterns back into a table that has been `applied` so far. Those beyond it are of a log before that one, which
/// a version that knows none has left here.
pub(super) fn load(
    read: &ReadTransaction,
    place: Definition,
    applied: u64,
    table: &mut table::Table,
) -> Result<(), Error> {
    for entry in read.open_table(place).map_err(journal)?.iter().map_err(journal)? {
        let (text, row) = entry.map_err(journal)?;
        let (hard, soft) = halves(row.value());
        if hard.max(soft) > applied {
            continue;
        }
        table.restore_pattern(text.value(), Row { hard: Position(hard), soft: Position(soft) });
    }
    Ok(())
}

/// Makes the copy what the patterns are. Most often it is that already.
pub(super) fn write(write: &WriteTransaction, place: Definition, patterns: &[PatternRow]) -> Result<(), Error> {
    let mut rows = write.open_table(place).map_err(journal)?;
    if patterns.is_empty() && rows.is_empty().map_err(journal)? {
        return Ok(());
    }
    let packed = |known: &PatternRow| pair(known.row.hard.0, known.row.soft.0);
    let known = patterns.iter().map(|known| (known.pattern.as_str(), packed(known)));
    let wanted: HashMap<&str, [u8; 16]> = known.collect();
    rows.retain(|text, row| wanted.get(text) == Some(&row)).map_err(journal)?;
    for (text, row) in &wanted {
        if rows.get(text).map_err(journal)?.is_none() {
            rows.insert(text, row).map_err(journal)?;
        }
    }
    Ok(())
}

/// Returns the floor: the one that is kept beside the one that is `stated`, if they were written together and last.
/// `count` is the number of rows, and `applied` how far the log was.
pub(super) fn floor(
    meta: &impl ReadableTable<&'static str, [u8; 16]>,
    names: &Names,
    (applied, stated): (u64, u64),
    count: u64,
) -> Result<u64, Error> {
    let number = |name: &str| meta.get(name).map_err(journal).map(|found| found.map(|packed| halves(packed.value())));
    let is_last = number(names.written_with)? == Some((applied, stated));
    let kept = number(names.floor)?.filter(|(_, rows)| is_last && *rows == count);
    Ok(kept.map_or(stated, |(floor, _)| floor))
}

/// Keeps the floor beside the one that is `stated`.
pub(super) fn write_floor(
    meta: &mut Table<'_, &'static str, [u8; 16]>,
    names: &Names,
    floor: u64,
    (applied, stated): (u64, u64),
    count: u64,
) -> Result<(), Error> {
    if floor == stated {
        meta.remove(names.floor).map_err(journal)?;
        meta.remove(names.written_with).map_err(journal)?;
        return Ok(());
    }
    meta.insert(names.floor, &pair(floor, count)).map_err(journal)?;
    meta.insert(names.written_with, &pair(applied, stated)).map_err(journal)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{FOLLOWED as PLACE, Journal, META, Snapshot},
        *,
    };
    use crate::{
        cache::{
            purge::{
                Incarnation, Kind, Reach, Record,
                table::{Room, Table},
            },
            tag::Tag,
        },
        message::pattern::Pattern,
    };

    const LOG: Incarnation = Incarnation(42);

    /// A journal with two rows, and between them a pattern at the position 2.
    fn written(dir: &std::path::Path) -> Journal {
        let pattern = Pattern::parse("http://a/*").unwrap();
        let reaches = [Reach::Entries, Reach::Pattern(pattern), Reach::Entries];
        let records: Vec<Record> = (1..)
            .zip(reaches)
            .map(|(at, reach)| Record { position: Position(at), tag: tag(at), kind: Kind::Hard, reach })
            .collect();
        let (journal, mut table) = (Journal::open(dir).unwrap(), Table::new(LOG, Room::rows(10)));
        records.iter().for_each(|record| drop(table.apply(record)));
        journal.write(&Snapshot::from(&table), &records, &[]).unwrap();
        journal
    }

    fn tag(at: u64) -> Tag {
        Tag::named(&at.to_le_bytes())
    }

    fn loaded(journal: &Journal) -> (Position, usize) {
        let table = journal.load(Room::rows(10)).unwrap().unwrap();
        (table.floor(), table.patterns().len())
    }

    /// Works on the file as a version does that knows no patterns. Returns the floor that it finds.
    fn as_before(journal: &Journal, work: impl FnOnce(&WriteTransaction, u64, u64)) -> u64 {
        let done = journal.with(|database| {
            let write = database.begin_write().unwrap();
            let (applied, floor) = {
                let meta = write.open_table(META).unwrap();
                let packed = meta.get(PLACE.applied).unwrap().unwrap().value();
                halves(packed)
            };
            work(&write, applied, floor);
            write.commit().unwrap();
            Ok(floor)
        });
        done.unwrap()
    }

    fn apply(write: &WriteTransaction, applied: u64, floor: u64) {
        write.open_table(META).unwrap().insert(PLACE.applied, &pair(applied, floor)).unwrap();
    }

    #[test]
    fn a_version_that_knows_no_patterns_finds_a_floor_above_them_and_this_one_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let journal = written(dir.path());
        assert_eq!(loaded(&journal), (Position(0), 1));
        assert_eq!(as_before(&journal, |_, _, _| {}), 2);
        assert_eq!(loaded(&journal), (Position(0), 1), "it has changed nothing");
    }

    #[test]
    fn once_such_a_version_has_written_its_floor_counts() {
        let fold = |write: &WriteTransaction, applied, floor| {
            write.open_table(PLACE.rows).unwrap().remove(tag(1).as_bytes()).unwrap();
            apply(write, applied, floor);
        };
        let works: [&dyn Fn(&WriteTransaction, u64, u64); 3] = [
            &|write, applied, floor| apply(write, applied + 1, floor),
            // A record of a pattern that it could not read.
            &|write, applied, _| apply(write, applied + 1, applied + 1),
            &fold,
        ];
        for (work, wanted) in works.into_iter().zip([2, 4, 2]) {
            let dir = tempfile::tempdir().unwrap();
            let journal = written(dir.path());
            as_before(&journal, work);
            assert_eq!(loaded(&journal), (Position(wanted), 1));
            // What this version writes next has that floor.
            let table = journal.load(Room::rows(10)).unwrap().unwrap();
            journal.write(&Snapshot::from(&table), &[], &[]).unwrap();
            assert_eq!(loaded(&journal).0, Position(wanted));
        }
    }
}
