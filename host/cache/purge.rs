//! Purging. Not by finding entries: a purge is appended to a log, and an entry is good only if none of its tags
//! was purged after its fetch began. The log is a Redis Stream shared by the region's nodes, or, on a node without
//! Redis, this node's own counter; either way the resulting table is kept on disk where there is a disk tier.

pub mod journal;
pub mod stream;
pub mod table;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use thiserror::Error;
use tokio::sync::{Mutex, watch};

pub use self::table::{Kind, LogId, Mark, Position, Record, Standing};
use self::{
    journal::{Journal, Snapshot},
    stream::Stream,
};
use super::{key::Key, tag::Tag};
use table::Table;

/// Why a purge could not be made, or the table not opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The durable table failed.
    #[error("the purge table on disk: {0}")]
    Journal(String),
    /// The region's log can't be reached; the purge may or may not take effect, and is to be made again.
    #[error("the region's purge log can't be reached, make the purge again: {0}")]
    Log(String),
}

/// What to purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What this URL (scheme, host, path and query as clients send them) is answered with.
    Url(String),
    /// One key.
    Key(Key),
    /// Everything with this tag.
    Tag(String),
}

impl Scope {
    const fn is_url(&self) -> bool {
        matches!(self, Self::Url(_))
    }

    fn tag(&self) -> Tag {
        match self {
            Self::Url(url) => Tag::url(url),
            Self::Key(key) => Tag::key(key),
            Self::Tag(name) => Tag::named(name.as_bytes()),
        }
    }
}

/// Who has applied a purge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Where the purge stands in the log.
    pub position: Position,
    /// Nodes that have applied it.
    pub applied: Vec<String>,
    /// Live nodes that haven't in time.
    pub missing: Vec<String>,
}

/// What only a writer needs.
#[derive(Debug, Default)]
struct Writing {
    /// What this node knew of its region's log when it stopped, until it meets that log again.
    parked: Option<Table>,
    /// Applied in memory, but not yet on disk: a write failed.
    unsaved: Vec<Record>,
    /// Rows that left the table with them.
    folded: Vec<Tag>,
}

/// Records that may be unsaved; past it the floor is raised instead, which costs revalidations but no memory.
const UNSAVED_MAX: usize = 10_000;

/// A local log goes on this far behind what was durable: positions that were given out but not saved before a crash are
/// in the marks of entries on disk, and must not be given out again.
const POSITIONS_SKIPPED: u64 = 1 << 32;

/// What a hit has to know without taking a lock.
#[derive(Clone, Copy, Debug)]
struct Glance {
    log: LogId,
    version: u64,
    latest_url: Position,
}

/// The node's view of what was purged.
#[derive(Debug)]
pub struct Purger {
    node: String,
    table: RwLock<Table>,
    glance: ArcSwap<Glance>,
    journal: Option<Arc<Journal>>,
    stream: Option<Stream>,
    /// Serialises writers, so that positions reach the journal in order.
    writing: Mutex<Writing>,
    applied: watch::Sender<Position>,
    rows_max: usize,
}

impl Purger {
    /// Opens the durable table in `dir` if there is one, and prepares to follow the region's log if there is one.
    ///
    /// # Errors
    /// [`Error::Journal`] if the durable table can't be opened or read.
    pub fn open(
        node: &str,
        rows_max: usize,
        dir: Option<&std::path::Path>,
        stream: Option<Stream>,
    ) -> Result<Arc<Self>, Error> {
        let journal = dir.map(Journal::open).transpose()?.map(Arc::new);
        let loaded = journal.as_ref().map(|journal| journal.load(rows_max)).transpose()?.flatten();
        // A node that has yet to meet its region's log can't know what was purged while it was away: it starts with a
        // log of its own, so that what it has on disk is doubtful until then.
        let own = || Table::new(LogId(fastrand::u64(1..)), rows_max);
        let (table, parked) = match (loaded, &stream) {
            (Some(mut table), None) => {
                let major = table.mark().position.major.saturating_add(POSITIONS_SKIPPED);
                table.advance(Position { major, minor: 0 });
                (table, None)
            }
            (parked, Some(_)) => (own(), parked),
            (None, None) => (own(), None),
        };
        if let (None, Some(journal)) = (&stream, &journal) {
            // The identity of a log that only this node has must survive it.
            journal.keep(&Snapshot::from(&table))?;
        }
        let mark = table.mark();
        let glance = Glance { log: mark.log, version: 1, latest_url: table.latest_url() };
        Ok(Arc::new(Self {
            node: node.to_owned(),
            table: RwLock::new(table),
            glance: ArcSwap::from_pointee(glance),
            journal,
            stream,
            writing: Mutex::new(Writing { parked, ..Writing::default() }),
            applied: watch::Sender::new(mark.position),
            rows_max,
        }))
    }

    /// Where the log stands for a fetch that begins now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.table.read().mark()
    }

    /// May the tiers that others write to be read? Not while the region's log is still to be caught up with.
    #[must_use]
    pub fn in_step(&self) -> bool {
        self.stream.as_ref().is_none_or(Stream::in_step)
    }

    /// Judges an entry on a hit. `checked` remembers the table version at which it was last found good, so that a hit
    /// after no purge takes no lock. `url` is given where a policy may let several URLs share one entry, each of which
    /// can be purged; it is asked for only if some URL was purged since the entry's fetch.
    #[must_use]
    pub fn check(&self, tags: &[Tag], mark: &Mark, checked: &AtomicU64, url: Option<impl FnOnce() -> Tag>) -> Standing {
        let glance = self.glance.load();
        let url_purged = url.is_some() && (glance.log != mark.log || glance.latest_url > mark.position);
        if !url_purged && checked.load(Ordering::Relaxed) == glance.version {
            return Standing::Good;
        }
        let asked = url.filter(|_| url_purged).map(|url| url());
        let standing = self.table.read().check(tags.iter().copied().chain(asked), mark);
        if standing == Standing::Good {
            checked.store(glance.version, Ordering::Relaxed);
        }
        standing
    }

    /// Purges, and returns when every live node of the region has applied it or `ack` is over.
    ///
    /// # Errors
    /// [`Error`]: it isn't known to be purged.
    pub async fn purge(self: &Arc<Self>, scope: &Scope, kind: Kind, ack: Duration) -> Result<Receipt, Error> {
        let (tag, url) = (scope.tag(), scope.is_url());
        let Some(stream) = &self.stream else {
            let position = self.append_locally(tag, kind, url).await?;
            return Ok(Receipt { position, applied: vec![self.node.clone()], missing: Vec::new() });
        };
        let position = stream.append(tag, kind, url).await?;
        Ok(stream.acknowledged(position, ack).await)
    }

    /// Purges a URL that an unsafe method changed (RFC 9111, section 4.4), and returns when this node has applied it.
    /// The log carries it to the region's other nodes, but nobody waits for them.
    ///
    /// # Errors
    /// [`Error`]: it isn't known to be purged.
    pub async fn invalidate(self: &Arc<Self>, url: &str) -> Result<(), Error> {
        let tag = Tag::url(url);
        match &self.stream {
            None => self.append_locally(tag, Kind::Hard, true).await.map(drop),
            Some(stream) => {
                let position = stream.append(tag, Kind::Hard, true).await?;
                let mut applied = self.applied.subscribe();
                let caught_up = applied.wait_for(|here| *here >= position);
                // The log is followed by this very node: a second is ample, and the answer must not wait longer.
                let _ = tokio::time::timeout(Duration::from_secs(1), caught_up).await;
                Ok(())
            }
        }
    }

    /// Judges an answer that is still on its way, or just in: was it purged since its fetch began?
    #[must_use]
    pub fn is_outdated(&self, tags: &[Tag], mark: &Mark) -> bool {
        self.table.read().check(tags.iter().copied(), mark) != Standing::Good
    }

    /// Judges what is stored, for a request of the URL with this tag: was it purged hard since its fetch began?
    #[must_use]
    pub fn is_gone(&self, tags: &[Tag], mark: &Mark, url: Tag) -> bool {
        self.table.read().check(tags.iter().copied().chain([url]), mark) == Standing::Gone
    }

    /// Follows the region's log until `stop`; returns at once on a node without one.
    pub async fn follow(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        if let Some(stream) = &self.stream {
            stream.follow(&self, stop).await;
        }
    }

    async fn append_locally(self: &Arc<Self>, tag: Tag, kind: Kind, url: bool) -> Result<Position, Error> {
        let mut writing = self.writing.lock().await;
        let position = Position { major: self.mark().position.major + 1, minor: 0 };
        self.commit(&mut writing, vec![Record { position, tag, kind, url }]).await?;
        Ok(position)
    }

    /// Applies what the stream delivered up to `position`.
    async fn deliver(self: &Arc<Self>, records: Vec<Record>) -> Result<(), Error> {
        let mut writing = self.writing.lock().await;
        self.commit(&mut writing, records).await
    }

    /// Up to where purges are applied and durable: what this node may acknowledge.
    fn durable(&self) -> Position {
        *self.applied.borrow()
    }

    /// Applies records in memory first, so that no hit can slip between, then on disk, then tells who waits.
    /// What the disk refuses is kept and written with the next records: it must not be forgotten at a restart.
    async fn commit(self: &Arc<Self>, writing: &mut Writing, records: Vec<Record>) -> Result<(), Error> {
        let snapshot = {
            let mut table = self.table.write();
            writing.folded.extend(records.iter().flat_map(|record| table.apply(record)));
            writing.unsaved.extend(records);
            // A tag that was folded and then purged again has a row.
            writing.folded.retain(|tag| table.row(tag).is_none());
            if writing.unsaved.len() > UNSAVED_MAX {
                let applied = table.mark().position;
                table.raise_floor(applied);
                writing.unsaved.clear();
            }
            Snapshot::from(&*table)
        };
        self.republish();
        let (records, folded) = (writing.unsaved.clone(), writing.folded.clone());
        self.with_journal(move |journal| journal.write(&snapshot, &records, &folded)).await?;
        (writing.unsaved, writing.folded) = (Vec::new(), Vec::new());
        self.applied.send_replace(snapshot.applied);
        Ok(())
    }

    /// Adopts the region's log: the one it knew when it stopped, or another; then what it has is doubtful from now on.
    async fn adopt(self: &Arc<Self>, log: LogId) -> Result<(), Error> {
        let mut writing = self.writing.lock().await;
        let known = writing.parked.take().filter(|table| table.mark().log == log);
        let is_new = known.is_none();
        let snapshot = {
            let mut table = self.table.write();
            *table = known.unwrap_or_else(|| Table::new(log, self.rows_max));
            Snapshot::from(&*table)
        };
        self.republish();
        if is_new {
            // Purges of a log that is gone say nothing about this one.
            (writing.unsaved, writing.folded) = (Vec::new(), Vec::new());
            self.with_journal(move |journal| journal.reset(&snapshot)).await?;
        }
        self.applied.send_replace(snapshot.applied);
        Ok(())
    }

    /// The log no longer reaches back to what was applied: everything before `floor` is doubtful from now on.
    async fn lose(self: &Arc<Self>, floor: Position) -> Result<(), Error> {
        let _turn = self.writing.lock().await;
        let snapshot = {
            let mut table = self.table.write();
            table.raise_floor(floor);
            Snapshot::from(&*table)
        };
        self.republish();
        self.with_journal(move |journal| journal.write(&snapshot, &[], &[])).await?;
        self.applied.send_replace(snapshot.applied);
        Ok(())
    }

    async fn with_journal(
        &self,
        work: impl FnOnce(&Journal) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let Some(journal) = self.journal.clone() else { return Ok(()) };
        let done = tokio::task::spawn_blocking(move || work(&journal)).await;
        done.unwrap_or_else(|error| Err(Error::Journal(error.to_string())))
    }

    fn republish(&self) {
        let (log, latest_url) = {
            let table = self.table.read();
            (table.mark().log, table.latest_url())
        };
        self.glance.rcu(|glance| Glance { log, latest_url, version: glance.version + 1 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const ACK: Duration = Duration::from_secs(1);

    fn check(purger: &Purger, url: &str, mark: &Mark, checked: &AtomicU64) -> Standing {
        purger.check(&[Tag::named(b"t")], mark, checked, Some(|| Tag::url(url)))
    }

    #[tokio::test]
    async fn a_remembered_good_check_does_not_outlive_a_purge() {
        let purger = Purger::open("n", 10, None, None).unwrap();
        let (mark, checked) = (purger.mark(), AtomicU64::new(0));
        assert_eq!(check(&purger, "a", &mark, &checked), Standing::Good);
        purger.purge(&Scope::Tag("t".into()), Kind::Soft, ACK).await.unwrap();
        assert_eq!(check(&purger, "a", &mark, &checked), Standing::Stale);
    }

    #[tokio::test]
    async fn a_url_that_shares_its_entry_can_be_purged_by_itself() {
        let purger = Purger::open("n", 10, None, None).unwrap();
        let (mark, checked) = (purger.mark(), AtomicU64::new(0));
        purger.purge(&Scope::Url("b".into()), Kind::Hard, ACK).await.unwrap();
        assert_eq!(check(&purger, "a", &mark, &checked), Standing::Good);
        assert_eq!(check(&purger, "b", &mark, &checked), Standing::Gone, "although the entry itself was just good");
    }

    #[tokio::test]
    async fn what_the_disk_refused_is_written_with_what_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let mark = {
            let purger = Purger::open("n", 10, Some(dir.path()), None).unwrap();
            let mark = purger.mark();
            {
                // As `commit` leaves it when the journal fails.
                let mut writing = purger.writing.lock().await;
                let position = Position { major: mark.position.major + 1, minor: 0 };
                let record = Record { position, tag: Tag::named(b"t"), kind: Kind::Hard, url: false };
                purger.table.write().apply(&record);
                writing.unsaved.push(record);
            }
            assert_eq!(purger.durable(), mark.position, "not acknowledged");
            purger.purge(&Scope::Tag("other".into()), Kind::Hard, ACK).await.unwrap();
            mark
        };
        let purger = Purger::open("n", 10, Some(dir.path()), None).unwrap();
        assert_eq!(check(&purger, "a", &mark, &AtomicU64::new(0)), Standing::Gone);
    }

    #[tokio::test]
    async fn a_local_log_never_gives_a_position_twice() {
        let dir = tempfile::tempdir().unwrap();
        let unsaved = {
            let purger = Purger::open("n", 10, Some(dir.path()), None).unwrap();
            // An entry fetched after a purge that never reached the disk.
            let mark = purger.mark();
            Mark { position: Position { major: mark.position.major + 5, minor: 0 }, ..mark }
        };
        let purger = Purger::open("n", 10, Some(dir.path()), None).unwrap();
        purger.purge(&Scope::Tag("t".into()), Kind::Hard, ACK).await.unwrap();
        assert_eq!(check(&purger, "a", &unsaved, &AtomicU64::new(0)), Standing::Gone);
    }

    #[tokio::test]
    async fn what_a_node_of_a_region_has_is_doubtful_until_it_meets_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let redis = config::Redis::new("redis://127.0.0.1:1");
        let stream = || stream::Stream::new("n", "ns", &redis, &config::Purge::default()).unwrap();
        let log = LogId(7);
        let mark = {
            let purger = Purger::open("n", 10, Some(dir.path()), Some(stream())).unwrap();
            purger.adopt(log).await.unwrap();
            purger.mark()
        };
        let purger = Purger::open("n", 10, Some(dir.path()), Some(stream())).unwrap();
        assert_eq!(check(&purger, "a", &mark, &AtomicU64::new(0)), Standing::Doubtful);
        purger.adopt(log).await.unwrap();
        assert_eq!(check(&purger, "a", &mark, &AtomicU64::new(0)), Standing::Good);
    }

    #[tokio::test]
    async fn local_purges_are_durable_before_they_are_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mark = {
            let purger = Purger::open("n", 10, Some(dir.path()), None).unwrap();
            let mark = purger.mark();
            let receipt = purger.purge(&Scope::Tag("t".into()), Kind::Hard, ACK).await.unwrap();
            assert_eq!(receipt.applied, ["n"]);
            mark
        };
        let purger = Purger::open("n", 10, Some(dir.path()), None).unwrap();
        assert_eq!(check(&purger, "a", &mark, &AtomicU64::new(0)), Standing::Gone);
        assert_eq!(check(&purger, "a", &purger.mark(), &AtomicU64::new(0)), Standing::Good);
    }
}
