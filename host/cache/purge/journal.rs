//! The table's durable copy, and the invalidations that wait for the log: a small embedded database beside the disk tier,
//! one transaction per batch.

mod packed;
mod patterns;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::UNIX_EPOCH,
};

use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

use self::packed::{halves, journal, pair};
use super::{
    Error,
    busy::Busy,
    log::{Member, Report},
    membership::Membership,
    pending::Change,
    table::{Cursor, Incarnation, Kind, Link, PatternRow, Position, Reach, Record, Room, Row, Table},
};
use crate::{cache::tag::Tag, clock::Uptime};

const ROWS: TableDefinition<'_, [u8; 16], [u8; 16]> = TableDefinition::new("purged");
const META: TableDefinition<'_, &str, [u8; 16]> = TableDefinition::new("state");
/// Rows of the purges of this node alone.
const OWN: TableDefinition<'_, [u8; 16], [u8; 16]> = TableDefinition::new("own");
/// Tags of invalidations that wait for the log.
const WAITING: TableDefinition<'_, [u8; 16], ()> = TableDefinition::new("waiting");

/// The members of the region's log by name and process, with their fence ([`SERVES`] if they have none) and the time until
/// they are lost, in milliseconds.
const MEMBERS: TableDefinition<'_, (&str, u64), [u8; 16]> = TableDefinition::new("members");

/// Where the copy of a table is: its rows and patterns, and the names in [`META`] of its log, of how far that was
/// applied together with a floor, and of what else is kept of the floor.
struct Place {
    rows: TableDefinition<'static, [u8; 16], [u8; 16]>,
    patterns: patterns::Definition,
    log: &'static str,
    applied: &'static str,
    floor: patterns::Names,
}

/// The table of the log that the node follows.
const FOLLOWED: Place = Place {
    rows: ROWS,
    patterns: patterns::FOLLOWED,
    log: "log",
    applied: "applied",
    floor: patterns::Names { floor: "floor", written_with: "floor written with" },
};

/// The table of the purges of this node alone, beside that of its region's log.
const ALONE: Place = Place {
    rows: OWN,
    patterns: patterns::ALONE,
    log: "own log",
    applied: "own applied",
    floor: patterns::Names { floor: "own floor", written_with: "own floor written with" },
};

/// The files of the region's log, or the node's own, and of the world's.
const FILE: &str = "purge.redb";
const WORLD_FILE: &str = "purge-world.redb";

/// Stands for the fence of a member that goes on serving when it is cut off.
const SERVES: u64 = u64::MAX;

/// The name in [`META`] of the note that the log has taken invalidations which may not be saved here.
const BUSY: &str = "busy";

/// The name in [`META`] that is there while invalidations found no room in [`WAITING`].
const OVERFLOWED: &str = "overflowed";

/// The names in [`META`] of the process that wrote here last, and of what [`Journal::clock`] was to it.
const INSTANCE: &str = "instance";
const CLOCK: &str = "clock";

/// The names in [`META`] of the process that is on the log's list, with its last word, and of its terms.
const MEMBER: &str = "member";
const TERMS: &str = "terms";

/// The database. After an error it is opened anew: one write that failed for want of space would fail all that follow.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    database: Mutex<Option<Database>>,
    /// This process signs off: it is no member any more, whatever is still under way.
    has_left: AtomicBool,
    /// The file is another process's from now on.
    is_closed: AtomicBool,
}

impl Journal {
    /// Opens or creates `dir/purge.redb`.
    ///
    /// # Errors
    /// What the file system or the database says. A damaged file is an error, not an empty table: silently starting
    /// anew could bring purged entries back.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_file(dir, FILE)
    }

    /// Opens or creates `dir/purge-world.redb`, for the world's log.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_world(dir: &Path) -> Result<Self, Error> {
        Self::open_file(dir, WORLD_FILE)
    }

    fn open_file(dir: &Path, file: &str) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|error| Error::Journal(error.to_string()))?;
        let path = dir.join(file);
        let mut database = open(&path)?;
        // What opens may still be damaged where nobody has looked yet.
        let is_whole = guarded(&path, || database.check_integrity().map_err(journal))?;
        if !is_whole {
            return Err(Error::Journal(format!("{}: it is damaged", path.display())));
        }
        Ok(Self {
            path,
            database: Mutex::new(Some(database)),
            has_left: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Closes the file for good, so that another process may open it. Waits for what is being written.
    pub fn close(&self) {
        let mut slot = self.database.lock();
        // Under the lock, so that nothing is written after it.
        self.is_closed.store(true, Ordering::Relaxed);
        drop(slot.take());
    }

    /// Rebuilds the table, `None` if nothing was ever written, and deletes rows for which it has no room.
    ///
    /// # Errors
    /// What the database says.
    pub fn load(&self, room: Room) -> Result<Option<Table>, Error> {
        self.load_from(&FOLLOWED, room)
    }

    /// The same of the purges of this node alone.
    ///
    /// # Errors
    /// What the database says.
    pub fn load_own(&self, room: Room) -> Result<Option<Table>, Error> {
        self.load_from(&ALONE, room)
    }

    fn load_from(&self, place: &Place, room: Room) -> Result<Option<Table>, Error> {
        let Some((table, folded)) = self.with(|database| load(database, place, room))? else { return Ok(None) };
        if !folded.is_empty() || table.patterns_dropped() > 0 {
            // Together with the floor that stands for them. Else they would fold again at each start.
            self.commit(place, false, &Snapshot::from(&table), &[], &folded)?;
        }
        Ok(Some(table))
    }

    /// Returns the invalidations that waited for the log when the process before ended, and whether there were more than
    /// could be kept.
    ///
    /// # Errors
    /// What the database says.
    pub fn waiting(&self) -> Result<(Vec<Tag>, bool), Error> {
        self.with(|database| {
            let read = database.begin_read().map_err(journal)?;
            let mut tags = Vec::new();
            for entry in read.open_table(WAITING).map_err(journal)?.iter().map_err(journal)? {
                tags.push(Tag::from_bytes(entry.map_err(journal)?.0.value()));
            }
            let meta = read.open_table(META).map_err(journal)?;
            let overflowed = meta.get(OVERFLOWED).map_err(journal)?.is_some();
            Ok((tags, overflowed))
        })
    }

    /// Makes a change of what waits for the log durable.
    ///
    /// # Errors
    /// What the database says; then nothing has changed.
    pub fn keep_waiting(&self, change: &Change) -> Result<(), Error> {
        self.with(|database| {
            let write = database.begin_write().map_err(journal)?;
            write_waiting(&write, change)?;
            write.commit().map_err(journal)
        })
    }

    /// Returns the members that the process before knew.
    ///
    /// # Errors
    /// What the database says.
    pub fn roster(&self) -> Result<Vec<Member>, Error> {
        self.with(|database| {
            let read = database.begin_read().map_err(journal)?;
            let mut roster = Vec::new();
            for entry in read.open_table(MEMBERS).map_err(journal)?.iter().map_err(journal)? {
                let (key, limits) = entry.map_err(journal)?;
                let ((node, instance), (fence, lost_ms)) = (key.value(), halves(limits.value()));
                let fence_ms = Some(fence).filter(|fence| *fence != SERVES);
                let report = Report { applied: Position(0), fence_ms, lost_ms, beat: 0 };
                roster.push(Member { node: node.to_owned(), instance, log: Incarnation(0), report });
            }
            Ok(roster)
        })
    }

    /// Writes down which members are known.
    ///
    /// # Errors
    /// What the database says; then nothing has changed.
    pub fn keep_roster(&self, roster: &[Member]) -> Result<(), Error> {
        self.with(|database| {
            let write = database.begin_write().map_err(journal)?;
            write_roster(&write, roster)?;
            write.commit().map_err(journal)
        })
    }

    /// Returns the note that the log has taken invalidations which may not be saved here.
    ///
    /// # Errors
    /// What the database says.
    pub fn busy(&self) -> Result<Option<Busy>, Error> {
        self.with(|database| {
            let read = database.begin_read().map_err(journal)?;
            let meta = read.open_table(META).map_err(journal)?;
            let noted = meta.get(BUSY).map_err(journal)?.map(|packed| halves(packed.value()));
            Ok(noted.map(|(log, server)| Busy { log: Incarnation(log), server }))
        })
    }

    /// Writes that note down, or deletes it.
    ///
    /// # Errors
    /// What the database says; then nothing has changed.
    pub fn note_busy(&self, busy: Option<Busy>) -> Result<(), Error> {
        self.with(|database| {
            let write = database.begin_write().map_err(journal)?;
            {
                let mut meta = write.open_table(META).map_err(journal)?;
                if let Some(Busy { log, server }) = busy {
                    meta.insert(BUSY, &pair(log.0, server)).map_err(journal)?;
                } else {
                    meta.remove(BUSY).map_err(journal)?;
                }
            }
            write.commit().map_err(journal)
        })
    }

    /// Returns the number of the process that wrote here before, if it has certainly ended, and writes down this one's.
    ///
    /// A process that had this very file, in this start of the machine, has: no two use a directory at once. If `clock`,
    /// which is [`Journal::clock`], is another one, or isn't known, this may be a copy, and what it copied may still run
    /// elsewhere. Then what is written here of a member is of no use to any process, and is deleted.
    ///
    /// # Errors
    /// What the database says.
    pub fn sign(&self, instance: u64, clock: Option<&str>) -> Result<Option<u64>, Error> {
        let clock = clock.map(|clock| Tag::named(clock.as_bytes()));
        self.with(|database| {
            let write = database.begin_write().map_err(journal)?;
            let before = {
                let mut meta = write.open_table(META).map_err(journal)?;
                let former = meta.get(CLOCK).map_err(journal)?.map(|packed| Tag::from_bytes(packed.value()));
                let before = meta.get(INSTANCE).map_err(journal)?.map(|packed| halves(packed.value()).0);
                meta.insert(INSTANCE, &pair(instance, 0)).map_err(journal)?;
                if let Some(clock) = &clock {
                    meta.insert(CLOCK, clock.as_bytes()).map_err(journal)?;
                } else {
                    meta.remove(CLOCK).map_err(journal)?;
                }
                let is_same = clock.is_some() && clock == former;
                if !is_same {
                    meta.remove(MEMBER).map_err(journal)?;
                    meta.remove(TERMS).map_err(journal)?;
                }
                before.filter(|_| is_same)
            };
            write.commit().map_err(journal)?;
            Ok(before)
        })
    }

    /// Names the clock of [`Uptime`] and this database: after another start of the machine, in another namespace of time,
    /// or in a copy of the file it is another name. `None` if that can't be known.
    #[must_use]
    pub fn clock(&self) -> Option<String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        // There is none on old kernels, and then only one clock.
        let time = fs::read_link("/proc/self/ns/time").unwrap_or_default();
        // The kernel uses a namespace's number again, for one whose clock may be another.
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        let offsets: Vec<&str> = offsets.split_whitespace().collect();
        let file = fs::metadata(&self.path).ok()?;
        // And a file system a file's number; when the file was made it isn't told by all.
        let made = file.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let boot = Some(boot.trim()).filter(|boot| !boot.is_empty())?;
        let (time, offsets, made) = (time.display(), offsets.join(" "), made.as_nanos());
        Some(format!("{boot} {time} {offsets} {}:{} {made}", file.dev(), file.ino()))
    }

    /// Returns the process that was on the log's list and hadn't signed off, when the one before ended.
    ///
    /// # Errors
    /// What the database says.
    pub fn membership(&self) -> Result<Option<Membership>, Error> {
        self.with(|database| {
            let read = database.begin_read().map_err(journal)?;
            let meta = read.open_table(META).map_err(journal)?;
            let member = meta.get(MEMBER).map_err(journal)?.map(|packed| halves(packed.value()));
            let terms = meta.get(TERMS).map_err(journal)?.map(|packed| Tag::from_bytes(packed.value()));
            let both = member.zip(terms);
            Ok(both.map(|((instance, word), terms)| Membership { instance, word: Uptime(word), terms }))
        })
    }

    /// Writes down that a process is on the log's list, in place of an earlier one, or that none is. After
    /// [`Journal::leave`] none is.
    ///
    /// # Errors
    /// What the database says; then nothing has changed.
    pub fn keep_membership(&self, member: Option<&Membership>) -> Result<(), Error> {
        self.with(|database| {
            // Nobody else uses the database meanwhile: what was on its way when the process left is no more written.
            let member = member.filter(|_| !self.has_left.load(Ordering::Relaxed));
            let write = database.begin_write().map_err(journal)?;
            {
                let mut meta = write.open_table(META).map_err(journal)?;
                if let Some(Membership { instance, word, terms }) = member {
                    meta.insert(MEMBER, &pair(*instance, word.0)).map_err(journal)?;
                    meta.insert(TERMS, terms.as_bytes()).map_err(journal)?;
                } else {
                    meta.remove(MEMBER).map_err(journal)?;
                    meta.remove(TERMS).map_err(journal)?;
                }
            }
            write.commit().map_err(journal)
        })
    }

    /// Deletes that, for a process that is about to sign off.
    ///
    /// # Errors
    /// What the database says; then it must not sign off.
    pub fn leave(&self) -> Result<(), Error> {
        self.has_left.store(true, Ordering::Relaxed);
        self.keep_membership(None)
    }

    /// Makes `records`, already applied to `table`, durable; `folded` rows leave. Returns when it's on disk.
    ///
    /// # Errors
    /// What the database says; then the records aren't durable and must not be acknowledged.
    pub fn write(&self, table: &Snapshot, records: &[Record], folded: &[Tag]) -> Result<(), Error> {
        self.commit(&FOLLOWED, false, table, records, folded)
    }

    /// Makes purges of this node alone durable, which are applied afterwards; `folded` rows leave.
    ///
    /// # Errors
    /// What the database says; then they may be on disk, and must not be applied or acknowledged.
    pub fn write_own(&self, table: &Snapshot, records: &[Record], folded: &[Tag]) -> Result<(), Error> {
        self.commit(&ALONE, false, table, records, folded)
    }

    /// Empties the rows, because the log is another one, and writes down what the new table is of.
    ///
    /// # Errors
    /// What the database says.
    pub fn reset(&self, table: &Snapshot, records: &[Record], folded: &[Tag]) -> Result<(), Error> {
        self.commit(&FOLLOWED, true, table, records, folded)
    }

    fn commit(
        &self,
        place: &Place,
        anew: bool,
        table: &Snapshot,
        records: &[Record],
        folded: &[Tag],
    ) -> Result<(), Error> {
        self.with(|database| {
            let write = database.begin_write().map_err(journal)?;
            if anew {
                write.delete_table(place.rows).map_err(journal)?;
            }
            write_rows(&write, place, records, folded)?;
            patterns::write(&write, place.patterns, &table.patterns)?;
            write_meta(&write, place, table)?;
            write.commit().map_err(journal)
        })
    }

    /// Works on the database, and forgets it after an error.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, Error> {
        let mut slot = self.database.lock();
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(Error::Succeeded);
        }
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
        write.open_table(OWN).map_err(journal)?;
        write.open_table(patterns::FOLLOWED).map_err(journal)?;
        write.open_table(patterns::ALONE).map_err(journal)?;
        write.open_table(META).map_err(journal)?;
        write.open_table(WAITING).map_err(journal)?;
        write.open_table(MEMBERS).map_err(journal)?;
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

/// The table, and the tags whose rows it has no room for.
fn load(database: &Database, place: &Place, room: Room) -> Result<Option<(Table, Vec<Tag>)>, Error> {
    let read = database.begin_read().map_err(journal)?;
    let meta = read.open_table(META).map_err(journal)?;
    let number = |name: &str| meta.get(name).map_err(journal).map(|found| found.map(|packed| halves(packed.value())));
    let Some((log, link)) = number(place.log)? else { return Ok(None) };
    let mut table = Table::new(Incarnation(log), room);
    let mut folded = Vec::new();
    let rows = read.open_table(place.rows).map_err(journal)?;
    for entry in rows.iter().map_err(journal)? {
        let (tag, row) = entry.map_err(journal)?;
        let (hard, soft) = halves(row.value());
        let row = Row { hard: Position(hard), soft: Position(soft) };
        folded.extend(table.restore(Tag::from_bytes(tag.value()), row));
    }
    let said = number(place.applied)?;
    patterns::load(&read, place.patterns, said.map_or(u64::MAX, |(applied, _)| applied), &mut table)?;
    if let Some((applied, stated)) = said {
        let count = rows.len().map_err(journal)?;
        let floor = patterns::floor(&meta, &place.floor, (applied, stated), count)?;
        table.raise_floor(Position(floor));
        table.advance(Position(applied));
    }
    table.link(Link(link));
    Ok(Some((table, folded)))
}

fn write_rows(write: &WriteTransaction, place: &Place, records: &[Record], folded: &[Tag]) -> Result<(), Error> {
    let mut rows = write.open_table(place.rows).map_err(journal)?;
    let of_tags = records.iter().filter(|record| !matches!(record.reach, Reach::Pattern(_)));
    for record in of_tags {
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

fn write_meta(write: &WriteTransaction, place: &Place, table: &Snapshot) -> Result<(), Error> {
    let count = write.open_table(place.rows).map_err(journal)?.len().map_err(journal)?;
    let mut meta = write.open_table(META).map_err(journal)?;
    let Cursor { log, position, link } = table.cursor;
    // A version that knows no patterns takes all that was purged by one for doubtful.
    let latest = table.patterns.last().map(|row| row.row.latest()).unwrap_or_default();
    let stated = table.floor.max(latest);
    for (name, value) in [(place.log, pair(log.0, link.0)), (place.applied, pair(position.0, stated.0))] {
        meta.insert(name, &value).map_err(journal)?;
    }
    patterns::write_floor(&mut meta, &place.floor, table.floor.0, (position.0, stated.0), count)
}

fn write_waiting(write: &WriteTransaction, change: &Change) -> Result<(), Error> {
    let mut waiting = write.open_table(WAITING).map_err(journal)?;
    // In this order: what was taken by the log may have come again since.
    for tag in &change.release {
        waiting.remove(tag.as_bytes()).map_err(journal)?;
    }
    for tag in &change.hold {
        waiting.insert(tag.as_bytes(), ()).map_err(journal)?;
    }
    let mut meta = write.open_table(META).map_err(journal)?;
    if change.overflowed {
        meta.insert(OVERFLOWED, &pair(1, 0)).map_err(journal)?;
    } else {
        meta.remove(OVERFLOWED).map_err(journal)?;
    }
    Ok(())
}

fn write_roster(write: &WriteTransaction, roster: &[Member]) -> Result<(), Error> {
    write.delete_table(MEMBERS).map_err(journal)?;
    let mut members = write.open_table(MEMBERS).map_err(journal)?;
    for Member { node, instance, report, .. } in roster {
        let limits = pair(report.fence_ms.unwrap_or(SERVES), report.lost_ms);
        members.insert((node.as_str(), *instance), &limits).map_err(journal)?;
    }
    Ok(())
}

/// What the journal keeps of a table beside its rows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The log, and how far it was read.
    pub cursor: Cursor,
    /// Below this everything counts as purged.
    pub floor: Position,
    /// The patterns.
    pub patterns: Arc<Vec<PatternRow>>,
}

impl From<&Table> for Snapshot {
    fn from(table: &Table) -> Self {
        Self { cursor: table.cursor(), floor: table.floor(), patterns: Arc::clone(table.patterns()) }
    }
}

/// Does work on the database on a thread that may block. It is done as a whole, whether or not it is waited for.
///
/// # Errors
/// Those of the work; [`Error::Journal`] if it panicked.
pub(super) async fn blocking(work: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Result<(), Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(journal(error)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::table::{Reach, Standing},
        *,
    };
    use crate::cache::purge::Mark;

    const LOG: Incarnation = Incarnation(42);

    fn record(position: u64, tag: Tag) -> Record {
        Record { position: Position(position), tag, kind: Kind::Soft, reach: Reach::Entries }
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let tag = Tag::named(b"a");
        let record = record(3, tag);
        {
            let journal = Journal::open(dir.path()).unwrap();
            assert!(journal.load(Room::rows(10)).unwrap().is_none());
            assert_eq!(journal.sign(7, Some("here")).unwrap(), None);
            let mut table = Table::new(LOG, Room::rows(10));
            let folded = table.apply(&record);
            table.link(Link(33));
            journal.write(&Snapshot::from(&table), &[record], &folded).unwrap();
        }
        let journal = Journal::open(dir.path()).unwrap();
        let table = journal.load(Room::rows(10)).unwrap().unwrap();
        assert_eq!(table.cursor(), Cursor { log: LOG, position: Position(3), link: Link(33) });
        let before = Mark { log: LOG, position: Position(2), ..Mark::default() };
        assert_eq!(table.check([tag], &before), Standing::Stale);
        assert_eq!(journal.sign(8, Some("here")).unwrap(), Some(7));
        let other = Table::new(Incarnation(43), Room::rows(10));
        journal.reset(&Snapshot::from(&other), &[], &[]).unwrap();
        assert_eq!(journal.load(Room::rows(10)).unwrap().unwrap().row(&tag), None);
    }

    #[test]
    fn rows_that_the_table_has_no_room_for_are_deleted_when_it_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let records: Vec<Record> = (1..=10).map(|at| record(at, Tag::named(&at.to_le_bytes()))).collect();
        let mut table = Table::new(LOG, Room::rows(100));
        records.iter().for_each(|record| drop(table.apply(record)));
        journal.write(&Snapshot::from(&table), &records, &[]).unwrap();
        assert_eq!(journal.load(Room::rows(3)).unwrap().unwrap().floor(), Position(7));
        let table = journal.load(Room::rows(100)).unwrap().unwrap();
        let left: Vec<u64> = records.iter().filter(|it| table.row(&it.tag).is_some()).map(|it| it.position.0).collect();
        assert_eq!((left, table.floor()), (vec![8, 9, 10], Position(7)), "the floor stands for those that are gone");
    }

    #[test]
    fn what_waits_is_there_after_reopening_until_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let tag = |name: u8| Tag::named(&[name]);
        let change = |hold: &[u8], release: &[u8], overflowed| Change {
            hold: hold.iter().map(|name| tag(*name)).collect(),
            release: release.iter().map(|name| tag(*name)).collect(),
            overflowed,
            ..Change::default()
        };
        let sorted = |names: &[u8]| {
            let mut tags: Vec<Tag> = names.iter().map(|name| tag(*name)).collect();
            tags.sort_unstable();
            tags
        };
        let steps = [
            (change(&[1, 2], &[], false), sorted(&[1, 2]), false),
            (change(&[3], &[1, 3], true), sorted(&[2, 3]), true),
            (change(&[], &[2, 3, 9], false), vec![], false),
        ];
        assert_eq!(Journal::open(dir.path()).unwrap().waiting().unwrap(), (vec![], false));
        for (change, waiting, overflowed) in steps {
            Journal::open(dir.path()).unwrap().keep_waiting(&change).unwrap();
            assert_eq!(Journal::open(dir.path()).unwrap().waiting().unwrap(), (waiting, overflowed), "{change:?}");
        }
    }

    #[test]
    fn the_members_and_the_note_of_a_busy_period_are_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let member = |node: &str, instance, fence_ms| {
            let report = Report { applied: Position(0), fence_ms, lost_ms: 60_000, beat: 0 };
            Member { node: node.to_owned(), instance, log: Incarnation(0), report }
        };
        let members = vec![member("a", 1, Some(4_000)), member("a", 2, None), member("b", 1, Some(100))];
        let steps = [
            (members, Some(Busy::new(LOG, Some("s")))),
            (vec![member("c", 9, None)], None),
            (vec![], Some(Busy::new(LOG, None))),
        ];
        {
            let journal = Journal::open(dir.path()).unwrap();
            assert_eq!((journal.roster().unwrap(), journal.busy().unwrap()), (vec![], None));
        }
        for (roster, busy) in steps {
            let journal = Journal::open(dir.path()).unwrap();
            journal.keep_roster(&roster).unwrap();
            journal.note_busy(busy).unwrap();
            drop(journal);
            let journal = Journal::open(dir.path()).unwrap();
            assert_eq!((journal.roster().unwrap(), journal.busy().unwrap()), (roster, busy));
        }
    }

    #[test]
    fn who_is_a_member_is_there_after_reopening_until_it_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let member = |instance| Membership { instance, word: Uptime(7 * instance), terms: Tag::named(b"terms") };
        {
            let journal = Journal::open(dir.path()).unwrap();
            assert_eq!(journal.membership().unwrap(), None);
            journal.keep_membership(Some(&member(1))).unwrap();
            journal.keep_membership(Some(&member(2))).unwrap();
        }
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.membership().unwrap(), Some(member(2)));
        journal.leave().unwrap();
        // As if it had been on its way.
        journal.keep_membership(Some(&member(2))).unwrap();
        assert_eq!(journal.membership().unwrap(), None);
        drop(journal);
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.membership().unwrap(), None);
        journal.keep_membership(Some(&member(3))).unwrap();
        assert_eq!(journal.membership().unwrap(), Some(member(3)));
    }

    #[test]
    fn only_a_process_on_this_very_file_and_start_of_the_machine_has_certainly_ended() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let steps = [
            (Some("here"), None),
            (Some("here"), Some(1)),
            // A copy, or another start: from then on it is this file.
            (Some("there"), None),
            (Some("there"), Some(3)),
            (None, None),
            (None, None),
            (Some("there"), None),
        ];
        for (number, (clock, before)) in (1..).zip(steps) {
            let member = Membership { instance: 99, word: Uptime(1), terms: Tag::named(b"terms") };
            journal.keep_membership(Some(&member)).unwrap();
            assert_eq!(journal.sign(number, clock).unwrap(), before, "{number}");
            assert_eq!(journal.membership().unwrap(), before.map(|_| member), "{number}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_copy_of_the_file_is_another_one() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let clock = |at: usize| Journal::open(dirs[at].path()).unwrap().clock().unwrap();
        let first = clock(0);
        assert_eq!(clock(0), first, "opened again");
        fs::copy(dirs[0].path().join("purge.redb"), dirs[1].path().join("purge.redb")).unwrap();
        assert_ne!(clock(1), first);
    }

    #[test]
    fn after_an_error_it_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let failed: Result<(), Error> = journal.with(|_| Err(Error::Journal("no space".to_owned())));
        assert!(failed.is_err() && journal.database.lock().is_none());
        let table = Table::new(LOG, Room::rows(10));
        journal.write(&Snapshot::from(&table), &[record(1, Tag::named(b"a"))], &[]).unwrap();
        assert!(journal.load(Room::rows(10)).unwrap().is_some());
    }

    #[test]
    fn a_damaged_file_is_an_error_wherever_the_damage_is() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let records: Vec<Record> = (1..200).map(|at| record(at, Tag::named(&at.to_le_bytes()))).collect();
        journal.write(&Snapshot::from(&Table::new(LOG, Room::rows(10))), &records, &[]).unwrap();
        drop(journal);
        let whole = fs::read(dir.path().join("purge.redb")).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 60) {
            let damaged = tempfile::tempdir().unwrap();
            let mut bytes = whole.clone();
            let end = bytes.len().min(at + 512);
            bytes[at..end].fill(0xa5);
            fs::write(damaged.path().join("purge.redb"), bytes).unwrap();
            // Either it is found out, or what is read is what was written: never a panic, and never a purge less.
            if let Ok(Some(table)) = Journal::open(damaged.path()).and_then(|journal| journal.load(Room::rows(1_000))) {
                let lost = records.iter().find(|record| table.row(&record.tag).is_none());
                assert_eq!(lost, None, "damage at {at}");
            }
        }
    }
}
