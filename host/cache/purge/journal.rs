//! The table's durable copy: a small embedded database beside the disk tier, one transaction per batch of records.

use std::{fs, path::Path};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    Error,
    table::{LogId, Position, Record, Row, Table},
};
use crate::cache::tag::Tag;

const ROWS: TableDefinition<'_, [u8; 16], [u8; 32]> = TableDefinition::new("rows");
const META: TableDefinition<'_, &str, [u8; 16]> = TableDefinition::new("meta");

/// The open database.
#[derive(Debug)]
pub struct Journal {
    database: Database,
}

impl Journal {
    /// Opens or creates `dir/purge.redb`.
    ///
    /// # Errors
    /// What the file system or the database says. A damaged file is an error, not an empty table: silently starting
    /// anew could bring purged entries back.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|error| Error::Journal(error.to_string()))?;
        let database = Database::create(dir.join("purge.redb")).map_err(journal)?;
        let write = database.begin_write().map_err(journal)?;
        write.open_table(ROWS).map_err(journal)?;
        write.open_table(META).map_err(journal)?;
        write.commit().map_err(journal)?;
        Ok(Self { database })
    }

    /// Rebuilds the table; `None` if nothing was ever written.
    ///
    /// # Errors
    /// What the database says.
    pub fn load(&self, rows_max: usize) -> Result<Option<Table>, Error> {
        let read = self.database.begin_read().map_err(journal)?;
        let meta = read.open_table(META).map_err(journal)?;
        let Some(log) = meta.get("log").map_err(journal)?.map(|value| position(value.value()).major) else {
            return Ok(None);
        };
        let mut table = Table::new(LogId(log), rows_max);
        for entry in read.open_table(ROWS).map_err(journal)?.iter().map_err(journal)? {
            let (tag, row) = entry.map_err(journal)?;
            table.restore(Tag::from_bytes(tag.value()), unpack(&row.value()));
        }
        if let Some(floor) = meta.get("floor").map_err(journal)? {
            table.raise_floor(position(floor.value()));
        }
        if let Some(applied) = meta.get("applied").map_err(journal)? {
            table.advance(position(applied.value()));
        }
        Ok(Some(table))
    }

    /// Makes `records`, already applied to `table`, durable; `folded` rows leave. Returns when it's on disk.
    ///
    /// # Errors
    /// What the database says; then the records aren't durable and must not be acknowledged.
    pub fn write(&self, table: &Snapshot, records: &[Record], folded: &[Tag]) -> Result<(), Error> {
        let write = self.database.begin_write().map_err(journal)?;
        {
            let mut rows = write.open_table(ROWS).map_err(journal)?;
            for record in records {
                let known = rows.get(record.tag.as_bytes()).map_err(journal)?.map(|row| unpack(&row.value()));
                let row = merged(known.unwrap_or_default(), record);
                rows.insert(record.tag.as_bytes(), &pack(&row)).map_err(journal)?;
            }
            for tag in folded {
                rows.remove(tag.as_bytes()).map_err(journal)?;
            }
        }
        self.write_meta(&write, table)?;
        write.commit().map_err(journal)
    }

    /// Writes down what a new table is of.
    ///
    /// # Errors
    /// What the database says.
    pub fn keep(&self, table: &Snapshot) -> Result<(), Error> {
        self.write(table, &[], &[])
    }

    /// Empties the rows: the log is another one.
    ///
    /// # Errors
    /// What the database says.
    pub fn reset(&self, table: &Snapshot) -> Result<(), Error> {
        let write = self.database.begin_write().map_err(journal)?;
        write.delete_table(ROWS).map_err(journal)?;
        write.open_table(ROWS).map_err(journal)?;
        self.write_meta(&write, table)?;
        write.commit().map_err(journal)
    }

    #[expect(clippy::unused_self, reason = "reads as a step of the journal's transactions")]
    fn write_meta(&self, write: &redb::WriteTransaction, table: &Snapshot) -> Result<(), Error> {
        let mut meta = write.open_table(META).map_err(journal)?;
        let log = Position { major: table.log.0, minor: 0 };
        for (name, value) in [("log", log), ("floor", table.floor), ("applied", table.applied)] {
            meta.insert(name, &bytes(value)).map_err(journal)?;
        }
        Ok(())
    }
}

/// What the journal keeps of a table beside its rows.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// The log.
    pub log: LogId,
    /// What was applied of it.
    pub applied: Position,
    /// Below this everything counts as purged.
    pub floor: Position,
}

impl From<&Table> for Snapshot {
    fn from(table: &Table) -> Self {
        let mark = table.mark();
        Self { log: mark.log, applied: mark.position, floor: table.floor() }
    }
}

fn merged(mut row: Row, record: &Record) -> Row {
    match record.kind {
        super::Kind::Hard => row.hard = row.hard.max(record.position),
        super::Kind::Soft => row.soft = row.soft.max(record.position),
    }
    row
}

fn bytes(position: Position) -> [u8; 16] {
    let mut packed = [0; 16];
    packed[..8].copy_from_slice(&position.major.to_le_bytes());
    packed[8..].copy_from_slice(&position.minor.to_le_bytes());
    packed
}

fn position(packed: [u8; 16]) -> Position {
    let value = u128::from_le_bytes(packed);
    #[expect(clippy::cast_possible_truncation, reason = "the low and high halves are meant")]
    Position { major: value as u64, minor: (value >> 64) as u64 }
}

fn pack(row: &Row) -> [u8; 32] {
    let mut packed = [0; 32];
    packed[..16].copy_from_slice(&bytes(row.hard));
    packed[16..].copy_from_slice(&bytes(row.soft));
    packed
}

fn unpack(packed: &[u8; 32]) -> Row {
    let (mut hard, mut soft) = ([0; 16], [0; 16]);
    hard.copy_from_slice(&packed[..16]);
    soft.copy_from_slice(&packed[16..]);
    Row { hard: position(hard), soft: position(soft) }
}

fn journal(error: impl std::fmt::Display) -> Error {
    Error::Journal(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{super::table::Standing, *};
    use crate::cache::purge::{Kind, Mark};

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let tag = Tag::named(b"a");
        let record = Record { position: Position { major: 3, minor: 7 }, tag, kind: Kind::Soft, url: false };
        {
            let journal = Journal::open(dir.path()).unwrap();
            assert!(journal.load(10).unwrap().is_none());
            let mut table = Table::new(LogId(42), 10);
            let folded = table.apply(&record);
            journal.write(&Snapshot::from(&table), &[record], &folded).unwrap();
        }
        let table = Journal::open(dir.path()).unwrap().load(10).unwrap().unwrap();
        assert_eq!(table.mark(), Mark { log: LogId(42), position: record.position });
        let before = Mark { log: LogId(42), position: Position { major: 3, minor: 6 } };
        assert_eq!(table.check([tag], &before), Standing::Stale);
    }
}
