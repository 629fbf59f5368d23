//! The table's durable copy: a small embedded database beside the disk tier, one transaction per batch of records.

use std::{
    fs,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{
    Error,
    table::{Cursor, Incarnation, Kind, Link, Position, Record, Row, Table},
};
use crate::cache::tag::Tag;

const ROWS: TableDefinition<'_, [u8; 16], [u8; 16]> = TableDefinition::new("purged");
const META: TableDefinition<'_, &str, [u8; 16]> = TableDefinition::new("state");

/// The database. After an error it is opened anew: one write that failed for want of space would fail all that follow.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    database: Mutex<Option<Database>>,
}

impl Journal {
    /// Opens or creates `dir/purge.redb`.
    ///
    /// # Errors
    /// What the file system or the database says. A damaged file is an error, not an empty table: silently starting
    /// anew could bring purged entries back.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|error| Error::Journal(error.to_string()))?;
        let path = dir.join("purge.redb");
        let mut database = open(&path)?;
        // What opens may still be damaged where nobody has looked yet.
        let is_whole = guarded(&path, || database.check_integrity().map_err(journal))?;
        if !is_whole {
            return Err(Error::Journal(format!("{}: it is damaged", path.display())));
        }
        Ok(Self { path, database: Mutex::new(Some(database)) })
    }

    /// Rebuilds the table; `None` if nothing was ever written.
    ///
    /// # Errors
    /// What the database says.
    pub fn load(&self, rows_max: usize) -> Result<Option<Table>, Error> {
        self.with(|database| load(database, rows_max))
    }

    /// Returns the number that the process had that wrote here before, and writes down this one's.
    ///
    /// # Errors
    /// What the database says.
    pub fn sign(&self, instance: u64) -> Result<Option<u64>, Error> {
        self.with(|database| {
            let write = database.begin_write().map_err(journal)?;
            let before = {
                let mut meta = write.open_table(META).map_err(journal)?;
                let before = meta.insert("instance", &pair(instance, 0)).map_err(journal)?;
                before.map(|packed| halves(packed.value()).0)
            };
            write.commit().map_err(journal)?;
            Ok(before)
        })
    }

    /// Makes `records`, already applied to `table`, durable; `folded` rows leave. Returns when it's on disk.
    ///
    /// # Errors
    /// What the database says; then the records aren't durable and must not be acknowledged.
    pub fn write(&self, table: &Snapshot, records: &[Record], folded: &[Tag]) -> Result<(), Error> {
        self.commit(false, table, records, folded)
    }

    /// Empties the rows, because the log is another one, and writes down what the new table is of.
    ///
    /// # Errors
    /// What the database says.
    pub fn reset(&self, table: &Snapshot, records: &[Record], folded: &[Tag]) -> Result<(), Error> {
        self.commit(true, table, records, folded)
    }

    fn commit(&self, anew: bool, table: &Snapshot, records: &[Record], folded: &[Tag]) -> Result<(), Error> {
        self.with(|database| {
            let write = database.begin_write().map_err(journal)?;
            if anew {
                write.delete_table(ROWS).map_err(journal)?;
            }
            write_rows(&write, records, folded)?;
            write_meta(&write, table)?;
            write.commit().map_err(journal)
        })
    }

    /// Works on the database, and forgets it after an error.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, Error> {
        let mut slot = self.database.lock();
        let database = match slot.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        let done = guarded(&self.path, || work(&database))?;
        *slot = Some(database);
        Ok(done)
    }
}

fn open(path: &Path) -> Result<Database, Error> {
    guarded(path, || {
        let database = Database::create(path).map_err(journal)?;
        let write = database.begin_write().map_err(journal)?;
        write.open_table(ROWS).map_err(journal)?;
        write.open_table(META).map_err(journal)?;
        write.commit().map_err(journal)?;
        Ok(database)
    })
}

/// Names the file in an error. A damaged one makes the database panic in places; that is an error like any other.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    match outcome.unwrap_or_else(|_| Err(Error::Journal("it is damaged".to_owned()))) {
        Err(Error::Journal(reason)) => Err(Error::Journal(format!("{}: {reason}", path.display()))),
        other => other,
    }
}

fn load(database: &Database, rows_max: usize) -> Result<Option<Table>, Error> {
    let read = database.begin_read().map_err(journal)?;
    let meta = read.open_table(META).map_err(journal)?;
    let number = |name: &str| meta.get(name).map_err(journal).map(|found| found.map(|packed| halves(packed.value())));
    let Some((log, link)) = number("log")? else { return Ok(None) };
    let mut table = Table::new(Incarnation(log), rows_max);
    for entry in read.open_table(ROWS).map_err(journal)?.iter().map_err(journal)? {
        let (tag, row) = entry.map_err(journal)?;
        let (hard, soft) = halves(row.value());
        table.restore(Tag::from_bytes(tag.value()), Row { hard: Position(hard), soft: Position(soft) });
    }
    if let Some((applied, floor)) = number("applied")? {
        table.raise_floor(Position(floor));
        table.advance(Position(applied));
    }
    table.link(Link(link));
    Ok(Some(table))
}

fn write_rows(write: &WriteTransaction, records: &[Record], folded: &[Tag]) -> Result<(), Error> {
    let mut rows = write.open_table(ROWS).map_err(journal)?;
    for record in records {
        let known = rows.get(record.tag.as_bytes()).map_err(journal)?.map(|row| halves(row.value()));
        let (hard, soft) = known.unwrap_or_default();
        let (hard, soft) = match record.kind {
            Kind::Hard => (hard.max(record.position.0), soft),
            Kind::Soft => (hard, soft.max(record.position.0)),
        };
        rows.insert(record.tag.as_bytes(), &pair(hard, soft)).map_err(journal)?;
    }
    for tag in folded {
        rows.remove(tag.as_bytes()).map_err(journal)?;
    }
    Ok(())
}

fn write_meta(write: &WriteTransaction, table: &Snapshot) -> Result<(), Error> {
    let mut meta = write.open_table(META).map_err(journal)?;
    let Cursor { log, position, link } = table.cursor;
    for (name, value) in [("log", pair(log.0, link.0)), ("applied", pair(position.0, table.floor.0))] {
        meta.insert(name, &value).map_err(journal)?;
    }
    Ok(())
}

/// What the journal keeps of a table beside its rows.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// The log, and how far it was read.
    pub cursor: Cursor,
    /// Below this everything counts as purged.
    pub floor: Position,
}

impl From<&Table> for Snapshot {
    fn from(table: &Table) -> Self {
        Self { cursor: table.cursor(), floor: table.floor() }
    }
}

fn pair(first: u64, second: u64) -> [u8; 16] {
    let mut packed = [0; 16];
    packed[..8].copy_from_slice(&first.to_le_bytes());
    packed[8..].copy_from_slice(&second.to_le_bytes());
    packed
}

fn halves(packed: [u8; 16]) -> (u64, u64) {
    let value = u128::from_le_bytes(packed);
    #[expect(clippy::cast_possible_truncation, reason = "the low and high halves are meant")]
    (value as u64, (value >> 64) as u64)
}

fn journal(error: impl std::fmt::Display) -> Error {
    Error::Journal(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{super::table::Standing, *};
    use crate::cache::purge::Mark;

    const LOG: Incarnation = Incarnation(42);

    fn record(position: u64, tag: Tag) -> Record {
        Record { position: Position(position), tag, kind: Kind::Soft, url: false }
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let tag = Tag::named(b"a");
        let record = record(3, tag);
        {
            let journal = Journal::open(dir.path()).unwrap();
            assert!(journal.load(10).unwrap().is_none());
            assert_eq!(journal.sign(7).unwrap(), None);
            let mut table = Table::new(LOG, 10);
            let folded = table.apply(&record);
            table.link(Link(33));
            journal.write(&Snapshot::from(&table), &[record], &folded).unwrap();
        }
        let journal = Journal::open(dir.path()).unwrap();
        let table = journal.load(10).unwrap().unwrap();
        assert_eq!(table.cursor(), Cursor { log: LOG, position: Position(3), link: Link(33) });
        let before = Mark { log: LOG, position: Position(2), ..Mark::default() };
        assert_eq!(table.check([tag], &before), Standing::Stale);
        assert_eq!(journal.sign(8).unwrap(), Some(7));
        let other = Table::new(Incarnation(43), 10);
        journal.reset(&Snapshot::from(&other), &[], &[]).unwrap();
        assert_eq!(journal.load(10).unwrap().unwrap().row(&tag), None);
    }

    #[test]
    fn after_an_error_it_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let failed: Result<(), Error> = journal.with(|_| Err(Error::Journal("no space".to_owned())));
        assert!(failed.is_err() && journal.database.lock().is_none());
        let table = Table::new(LOG, 10);
        journal.write(&Snapshot::from(&table), &[record(1, Tag::named(b"a"))], &[]).unwrap();
        assert!(journal.load(10).unwrap().is_some());
    }

    #[test]
    fn a_damaged_file_is_an_error_wherever_the_damage_is() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let records: Vec<Record> = (1..200).map(|at| record(at, Tag::named(&at.to_le_bytes()))).collect();
        journal.write(&Snapshot::from(&Table::new(LOG, 10)), &records, &[]).unwrap();
        drop(journal);
        let whole = fs::read(dir.path().join("purge.redb")).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 60) {
            let damaged = tempfile::tempdir().unwrap();
            let mut bytes = whole.clone();
            let end = bytes.len().min(at + 512);
            bytes[at..end].fill(0xa5);
            fs::write(damaged.path().join("purge.redb"), bytes).unwrap();
            // Either it is found out, or what is read is what was written: never a panic, and never a purge less.
            if let Ok(Some(table)) = Journal::open(damaged.path()).and_then(|journal| journal.load(1_000)) {
                let lost = records.iter().find(|record| table.row(&record.tag).is_none());
                assert_eq!(lost, None, "damage at {at}");
            }
        }
    }
}
