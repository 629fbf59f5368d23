//! What was purged, as this node knows it: applied, made durable, and asked about on each hit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout, timeout_at},
};
use tracing::info;

use super::{
    Error,
    busy::Note,
    extent::Extent,
    fence::Fence,
    journal::{self, Journal, Snapshot},
    listing::lower_bits,
    local::Local,
    log::{Append, Appended, Log},
    pending::{self, Pending},
    receipt::{Receipt, SignedOff},
    region::{Region, UNREACHED},
    seen::Seen,
    table::{Cursor, Incarnation, Kind, Mark, Point, Position, Reach, Record, Room, Standing, Subject, Table},
};
use crate::{
    cache::{
        Metrics,
        key::Key,
        tag::{self, Tag, UrlTags},
    },
    clock::{self, Uptime},
    config,
    message::pattern::Pattern,
};

/// What to purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The responses to this URL (scheme, host, path and query as clients send them).
    Url(String),
    /// One key.
    Key(Key),
    /// Everything with this tag.
    Tag(String),
    /// The responses to all URLs at or below this one, which has no query.
    Prefix(String),
    /// The responses to all URLs that match this.
    Pattern(Pattern),
    /// The responses of an origin (scheme, host and port) that belong to a cache group of this name (RFC 9875).
    Group {
        /// The origin.
        origin: String,
        /// The name.
        name: String,
    },
}

impl Scope {
    /// Returns what is appended for it.
    ///
    /// # Errors
    /// [`Error::Prefix`]: nothing that is stored has a tag for it.
    pub(super) fn appends(&self, kind: Kind) -> Result<Vec<Append>, Error> {
        let (tag, reach) = match self {
            Self::Url(url) => (Tag::url(url), Reach::Url),
            Self::Key(key) => (Tag::key(key), Reach::Entries),
            Self::Tag(name) => (Tag::named(name.as_bytes()), Reach::Entries),
            Self::Group { origin, name } => (Tag::group(origin, name), Reach::Entries),
            Self::Prefix(prefix) => (Tag::prefix(prefix).ok_or(Error::Prefix)?, Reach::Prefix),
            Self::Pattern(pattern) => (Tag::pattern(pattern), Reach::Pattern(pattern.clone())),
        };
        let mut appends = vec![Append { tag, kind, reach }];
        if let Self::Url(url) = self
            && url.contains('?')
        {
            // What is served for several queries may be so for this one. Without a query its URL is a tag of all such.
            appends.push(Append { tag: Tag::search(url), kind, reach: Reach::Entries });
        }
        Ok(appends)
    }
}

/// Where things stood in one log when a request came.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    mark: Mark,
    /// The fence held, so that all purges that were complete by then had been applied.
    in_step: bool,
}

/// What has been applied.
#[derive(Debug)]
pub(super) struct State {
    pub(super) table: Table,
    pub(super) local: Local,
    /// What was purged on this node alone, if anything ever was, beside a log that others follow as well.
    pub(super) own: Option<Table>,
}

impl State {
    /// Judges what a purge may mean, for a request of the URL that `asked` stands for, as far as that counts.
    fn check(&self, subject: &Subject<'_>, asked: &UrlTags) -> Standing {
        let (tags, mark, text) = (subject.tags.iter().chain(asked.iter()).copied(), subject.mark, asked.text());
        let standing = self.table.check(tags.clone(), mark).max(self.local.check(tags.clone(), mark));
        let standing = standing.max(self.table.check_patterns(subject, text));
        match &self.own {
            Some(own) => standing.max(own.check_own(tags, mark)).max(own.check_own_patterns(subject, text)),
            None => standing,
        }
    }

    fn mark(&self) -> Mark {
        let Cursor { log, position, .. } = self.table.cursor();
        let own = self.own.as_ref().map(|own| Point::from(own.cursor())).unwrap_or_default();
        Mark { log, position, own, local: self.local.count(), at: clock::uptime(), ..Mark::default() }
    }
}

/// What only a writer needs.
#[derive(Debug, Default)]
pub(super) struct Writing {
    /// What this node knew of its region's log when it stopped, until it meets that log again.
    pub(super) parked: Option<Table>,
    /// Applied in memory, but not yet on disk: a write failed.
    pub(super) unsaved: Vec<Record>,
    /// Rows that left the table with them.
    folded: Vec<Tag>,
    /// The log was changed for another, which the disk doesn't know yet.
    anew: bool,
    /// Rows that left the table of the purges of this node alone, and are still on disk.
    pub(super) own_folded: Vec<Tag>,
}

/// Records that may be unsaved; past it the floor is raised instead, which costs revalidations but no memory.
const UNSAVED_MAX: usize = 10_000;

/// A local log goes on this far behind what was durable: positions that were given out but not saved before a crash are
/// in the marks of entries on disk, and must not be given out again.
const POSITIONS_SKIPPED: u64 = 1 << 32;

/// What a hit has to know without taking a lock.
#[derive(Clone, Copy, Debug)]
struct Glance {
    log: Incarnation,
    version: u64,
    latest_url: Position,
    latest_prefix: Position,
    local: u64,
    /// The same of the purges of this node alone.
    own: Point,
    own_prefix: Position,
}

impl Glance {
    fn of(state: &State, version: u64) -> Self {
        let (table, own) = (&state.table, state.own.as_ref());
        Self {
            log: table.cursor().log,
            version,
            latest_url: table.latest_url(),
            latest_prefix: table.latest_prefix(),
            local: state.local.horizon(),
            own: own.map(|own| Point { log: own.cursor().log, position: own.latest_url() }).unwrap_or_default(),
            own_prefix: own.map(Table::latest_prefix).unwrap_or_default(),
        }
    }

    /// Whether a URL may have been purged since `mark`, be it by a prefix.
    fn has_newer_url(&self, mark: &Mark) -> bool {
        self.log != mark.log
            || self.latest_url > mark.position
            || self.local > mark.local
            || self.own.position > self.own_mark(mark)
    }

    /// Whether a prefix or pattern may have been.
    fn has_newer_prefix(&self, mark: &Mark) -> bool {
        self.log != mark.log || self.latest_prefix > mark.position || self.own_prefix > self.own_mark(mark)
    }

    fn own_mark(&self, mark: &Mark) -> Position {
        if mark.own.log == self.own.log { mark.own.position } else { Position::default() }
    }
}

/// The node's view of what was purged, by one log.
#[derive(Debug)]
pub struct Purger {
    pub(super) node: String,
    /// Whose log it is.
    pub(super) extent: Extent,
    pub(super) state: RwLock<State>,
    glance: ArcSwap<Glance>,
    pub(super) fence: Fence,
    /// When the log's own table came to count, in milliseconds of [`Uptime`]; 0 before.
    caught_up: AtomicU64,
    pub(super) journal: Option<Arc<Journal>>,
    pub(super) region: Option<Region>,
    /// Serialises writers, so that positions reach the journal in order.
    pub(super) writing: Mutex<Writing>,
    pub(super) applied: watch::Sender<Cursor>,
    /// Something that is applied isn't durable yet.
    pub(super) unsaved: AtomicBool,
    pub(super) pending: Arc<Pending>,
    pub(super) busy: parking_lot::Mutex<Note>,
    pub(super) seen: Seen,
    pub(super) room: Room,
    pub(super) invalidations_max: usize,
    /// Another process has, or is about to have, what was purged: this one hears of it no more.
    pub(super) succeeded: AtomicBool,
    pub(super) metrics: Metrics,
}

impl Purger {
    /// Opens the durable table in `dir` if there is one, and prepares to follow the region's log if there is one.
    ///
    /// # Errors
    /// [`Error::Journal`] if the durable table can't be opened or read.
    pub fn open(
        node: &str,
        config: &config::Purge,
        dir: Option<&std::path::Path>,
        log: Option<Arc<dyn Log>>,
        metrics: Metrics,
    ) -> Result<Arc<Self>, Error> {
        let extent = if log.is_some() { Extent::Region } else { Extent::Node };
        let journal = dir.map(Journal::open).transpose()?;
        Self::put_together((node, extent), config, journal, log, metrics)
    }

    /// Opens the durable table of the world's log in `dir` if there is one, and prepares to follow that log, in which the
    /// node has the name `node`.
    ///
    /// # Errors
    /// [`Error::Journal`] if the durable table can't be opened or read.
    pub fn open_world(
        node: &str,
        config: &config::Purge,
        dir: Option<&std::path::Path>,
        log: Arc<dyn Log>,
        metrics: Metrics,
    ) -> Result<Arc<Self>, Error> {
        let journal = dir.map(Journal::open_world).transpose()?;
        Self::put_together((node, Extent::World), config, journal, Some(log), metrics)
    }

    fn put_together(
        (node, extent): (&str, Extent),
        config: &config::Purge,
        journal: Option<Journal>,
        log: Option<Arc<dyn Log>>,
        metrics: Metrics,
    ) -> Result<Arc<Self>, Error> {
        let room = Room { rows: config.tags_max, patterns: config.patterns_max };
        let journal = journal.map(Arc::new);
        let loaded = journal.as_ref().map(|journal| journal.load(room)).transpose()?.flatten();
        // A node that has yet to meet its region's log can't know what was purged while it was away: it starts with a
        // log of its own, so that what it has on disk is doubtful until then.
        // Its incarnation comes before any of a region's.
        let own = || Table::new(Incarnation(lower_bits()), room);
        let (table, parked) = match (loaded, &log) {
            (Some(mut table), None) => {
                table.advance(Position(table.cursor().position.0.saturating_add(POSITIONS_SKIPPED)));
                (table, None)
            }
            (parked, Some(_)) => (own(), parked),
            (None, None) => (own(), None),
        };
        if let (None, Some(journal)) = (&log, &journal) {
            // The identity of a log that only this node has must survive it.
            journal.write(&Snapshot::from(&table), &[], &[])?;
        }
        let fence = match &log {
            Some(_) => Fence::new(config.fence, config.lost, config.cut_off),
            None => Fence::alone(),
        };
        let region = log.map(|log| Region::new(node, log, config, journal.as_deref())).transpose()?;
        let own = journal.as_deref().map(|journal| journal.load_own(room)).transpose()?.flatten();
        // A log of its own is on this disk anyway.
        let patience = if region.is_some() { pending::HOLD_AFTER } else { Duration::MAX };
        let (local, pending) = restore(journal.as_deref(), config.invalidations_max, patience)?;
        let left = journal.as_deref().map(Journal::busy).transpose()?.flatten();
        let cursor = table.cursor();
        let state = State { table, local, own };
        let glance = Glance::of(&state, 1);
        Ok(Arc::new(Self {
            node: node.to_owned(),
            extent,
            state: RwLock::new(state),
            glance: ArcSwap::from_pointee(glance),
            fence,
            caught_up: AtomicU64::new(0),
            journal,
            region,
            writing: Mutex::new(Writing { parked, ..Writing::default() }),
            applied: watch::Sender::new(cursor),
            unsaved: AtomicBool::new(false),
            pending: Arc::new(pending),
            busy: parking_lot::Mutex::new(Note { on_disk: left, left, refused: false }),
            seen: Seen::default(),
            room,
            invalidations_max: config.invalidations_max,
            succeeded: AtomicBool::new(false),
            metrics,
        }))
    }

    /// Returns the mark of a fetch that begins now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.state.read().mark()
    }

    /// Returns whose log it is.
    #[must_use]
    pub const fn extent(&self) -> Extent {
        self.extent
    }

    /// Returns how far the log is applied.
    #[must_use]
    pub fn point(&self) -> Point {
        self.state.read().table.cursor().into()
    }

    /// Returns the mark of a fetch that begins now and whose response may be stored under a URL with this tag.
    #[must_use]
    pub fn begin(&self, url: &Tag) -> Mark {
        // Noted first: an invalidation that finds nothing noted has the fetch begin after it.
        self.seen.add(url);
        self.mark()
    }

    /// Notes that what is fetched of this URL from now on may be stored for other queries as well. To be called before
    /// [`Purger::begin`].
    pub fn foresee(&self, url: &str) {
        if self.is_shared() {
            return;
        }
        if url.contains('?') {
            // Without a query that is the tag that `begin` notes.
            self.seen.add(&Tag::url(tag::without_query(url)));
        }
        self.seen.add(&Tag::search(url));
    }

    /// Returns where things stand for a request that comes now.
    #[must_use]
    pub fn arrived(&self) -> Moment {
        Moment { in_step: self.in_step(), mark: self.mark() }
    }

    /// Whether the log has been read to its end within the fence, so that tiers that others write to may be read. Always so
    /// for a log of this node's own.
    #[must_use]
    pub fn in_step(&self) -> bool {
        self.fence.is_alone() || self.fence.holds(clock::uptime())
    }

    /// Whether what is stored is served although the log wasn't read within the fence, because the node is configured so.
    #[must_use]
    pub fn is_serving_cut_off(&self) -> bool {
        self.fence.serves() && !self.fence.holds(clock::uptime())
    }

    /// Whether the node has yet to catch up with the log after its start. Whether that is the log they know, the others are
    /// waited for only briefly: what is stored is confirmed until they have said it.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        if self.fence.is_alone() || self.fence.has_read() || self.succeeded.load(Ordering::Relaxed) {
            return false;
        }
        let caught_up = self.caught_up.load(Ordering::Relaxed);
        caught_up == 0 || clock::uptime().since(Uptime(caught_up)) < CONFIRM_TIME
    }

    /// Notes that the log's own table counts.
    pub(super) fn note_caught_up(&self) {
        let now = clock::uptime().0.max(1);
        let _ = self.caught_up.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the log has replied lately.
    #[must_use]
    pub fn has_reached(&self) -> bool {
        let now = clock::uptime();
        let is_recent = |region: &Region| now.since(Uptime(region.reached.load(Ordering::Relaxed))) < RECENT;
        self.region.as_ref().is_none_or(is_recent)
    }

    /// Judges an entry on a hit. `checked` remembers the table version at which it was last found good, so that a hit
    /// after no purge takes no lock. `url` is given where a policy may let several URLs share one entry, each of which
    /// can be purged; it is asked for only if some URL was purged since the entry's fetch, and for the tags of its prefixes
    /// and its text only if some prefix or pattern was.
    #[must_use]
    pub fn check(
        &self,
        subject: &Subject<'_>,
        checked: &AtomicU64,
        url: Option<impl FnOnce(bool) -> UrlTags>,
    ) -> Standing {
        let observed = self.fence.observe();
        let standing = self.check_purged(subject, checked, url);
        if self.fence.is_alone() || self.fence.lets(observed, subject.mark.at, clock::uptime()) {
            standing
        } else {
            standing.max(Standing::Unconfirmed)
        }
    }

    fn check_purged(
        &self,
        subject: &Subject<'_>,
        checked: &AtomicU64,
        url: Option<impl FnOnce(bool) -> UrlTags>,
    ) -> Standing {
        let glance = self.glance.load();
        let url_purged = url.is_some() && glance.has_newer_url(subject.mark);
        if !url_purged && checked.load(Ordering::Relaxed) == glance.version {
            return Standing::Good;
        }
        let prefix_purged = glance.has_newer_prefix(subject.mark);
        let asked = url.filter(|_| url_purged).map(|url| url(prefix_purged)).unwrap_or_default();
        let standing = self.state.read().check(subject, &asked);
        if standing == Standing::Good {
            checked.store(glance.version, Ordering::Relaxed);
        }
        standing
    }

    /// Purges, and returns when no node that follows the log can serve what it purged any more, or `ack` is over.
    ///
    /// # Errors
    /// [`Error`]: it isn't known to be purged.
    pub async fn purge(&self, scope: &Scope, kind: Kind, ack: Duration) -> Result<Receipt, Error> {
        if self.succeeded.load(Ordering::Acquire) {
            return Err(Error::Succeeded);
        }
        let appends = scope.appends(kind)?;
        match &self.region {
            None => self.purge_alone(&appends).await,
            Some(region) => {
                let (end, known) = (Instant::now() + ack, region.known());
                let _listening = region.hearing.listen();
                let appended = timeout(ack, region.log.append(&appends, &known)).await;
                let appended = appended.unwrap_or_else(|_| Err(Error::Log("no reply in time".to_owned())))?;
                let receipt = region.acknowledged(&appended, ack, self.applied.subscribe()).await?;
                let Appended { log, position, link, .. } = appended;
                self.saved(receipt, Cursor { log, position, link }, end).await
            }
        }
    }

    /// Returns the receipt of a purge of this node alone.
    pub(super) fn done_here(&self, position: Position) -> Receipt {
        Receipt { position, applied: vec![self.node.clone()], ..Receipt::default() }
    }

    /// Purges on a node whose log no other follows.
    pub(super) async fn purge_alone(&self, appends: &[Append]) -> Result<Receipt, Error> {
        let (position, saved) = self.append_locally(appends, false).await;
        saved?;
        Ok(self.done_here(position))
    }

    /// Waits until `end` for the purge at `at` to be on this node's own disk, if it has one: the log alone may lose it.
    async fn saved(&self, mut receipt: Receipt, at: Cursor, end: Instant) -> Result<Receipt, Error> {
        let mut applied = self.applied.subscribe();
        while self.journal.is_some() && !self.is_durable(at) {
            if self.unsaved.load(Ordering::Relaxed) {
                return Err(Error::Journal("it refused the purge, make it again".to_owned()));
            }
            if timeout_at(end, applied.changed()).await.is_err() && !self.unsaved.load(Ordering::Relaxed) {
                receipt.expired.retain(|name| *name != self.node);
                if !receipt.missing.contains(&self.node) {
                    receipt.missing.push(self.node.clone());
                }
                break;
            }
        }
        Ok(receipt)
    }

    /// Whether what stands there is applied and on disk, if there is one, or a later incarnation took its place.
    pub(super) fn is_durable(&self, at: Cursor) -> bool {
        let applied = *self.applied.borrow();
        applied.log.covers(applied.position, at.log, at.position)
    }

    /// Signs a node off that is known not to serve any more, so that no purge waits for it: each process of that name but
    /// this one, for as long as `ack` isn't over.
    ///
    /// # Errors
    /// [`Error::Log`]: the log can't be reached.
    pub async fn sign_off(&self, node: &str, ack: Duration) -> Result<SignedOff, Error> {
        let Some(region) = &self.region else { return Ok(SignedOff::default()) };
        let end = Instant::now() + ack;
        let Ok(listed) = timeout_at(end, region.listed(None)).await else { return Ok(SignedOff::unknown()) };
        let listed = listed?;
        let members = {
            let mut roll = region.roll.lock();
            roll.look(listed, clock::uptime());
            // It runs: meant are those that it was before.
            roll.named(node).into_iter().filter(|member| member.instance != region.instance).collect::<Vec<_>>()
        };
        let mut outcome = SignedOff { done: 0, left: Some(members.len()) };
        for member in &members {
            // Before this node forgets it: one for which there was no time can be signed off by another attempt.
            let Ok(signed_off) = timeout_at(end, region.log.sign_off(member, false)).await else { break };
            signed_off?;
            region.roll.lock().forget(member);
            outcome = SignedOff { done: outcome.done + 1, left: outcome.left.map(|left| left - 1) };
        }
        Ok(outcome)
    }

    /// Judges a response that is still on its way, or just in, for a request that came at `arrived`: whether it may
    /// have been purged between the beginning of its fetch and then. What was fetched since then is current whatever
    /// was purged meanwhile. Of a fetch that began before, a purge after `arrived` counts as well: the table has the
    /// last one of each tag only, and there may have been another before. `url` makes the tags of the request's URL.
    #[must_use]
    pub fn is_outdated(&self, subject: &Subject<'_>, arrived: &Moment, url: impl FnOnce() -> UrlTags) -> bool {
        if !subject.mark.covers(&arrived.mark) {
            // Another URL of the same key may have led the flight.
            let asked = url();
            if self.state.read().check(subject, &asked) != Standing::Good {
                return true;
            }
        }
        !arrived.in_step && !self.fence.shares(subject.mark.at, arrived.mark.at)
    }

    /// Judges what is stored, for a request of the URL with these tags: whether it was purged hard since its fetch began.
    #[must_use]
    pub fn is_gone(&self, subject: &Subject<'_>, url: &UrlTags) -> bool {
        self.state.read().check(subject, url) == Standing::Gone
    }

    /// Brings the gauges up to date.
    pub fn refresh_metrics(&self) {
        let metrics = &self.metrics;
        let now = clock::uptime();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.purge_in_step.set(i64::from(self.in_step()));
        let (waiting, held) = self.pending.count();
        metrics.purge_invalidations_waiting.set(gauge(waiting as u64));
        metrics.purge_invalidations_held.set(gauge(held as u64));
        let patterns = {
            let state = self.state.read();
            state.table.patterns().len() + state.own.as_ref().map_or(0, |own| own.patterns().len())
        };
        metrics.purge_patterns.set(gauge(patterns as u64));
        let Some(region) = &self.region else { return };
        let applied = self.applied.borrow().position.0;
        let last = Some(region.last.load(Ordering::Relaxed)).filter(|last| *last != UNREACHED).unwrap_or(0);
        metrics.purge_strangers.set(i64::from(region.roll.lock().has_strangers()));
        metrics.purge_lag_records.set(gauge(last.saturating_sub(applied)));
        metrics.purge_lag_ms.set(self.fence.age(now).map_or(-1, |age| gauge(clock::millis(age))));
        metrics.purge_fence_ms.set(gauge(clock::millis(self.fence.left(now))));
    }

    /// Applies purges to this node's own log, and says whether they are durable. With `all`, everything that was fetched
    /// before is to be confirmed as well.
    pub(super) async fn append_locally(&self, appends: &[Append], all: bool) -> (Position, Result<(), Error>) {
        let mut writing = self.writing.lock().await;
        let mut position = self.state.read().table.cursor().position;
        let records = appends.iter().map(|append| {
            position.0 += 1;
            Record { position, tag: append.tag, kind: append.kind, reach: append.reach.clone() }
        });
        let records = records.collect();
        if all {
            // A position that no mark has: what was fetched at the last one is meant, too.
            position.0 += 1;
        }
        let further = |table: &mut Table| {
            if all {
                table.raise_floor(position);
            }
        };
        (position, self.commit(&mut writing, records, further).await)
    }

    /// Applies records in memory first, so that no hit can slip between, then on disk, then notifies those that wait.
    /// What the disk refuses is held and written with the next records: it must not be forgotten at a restart.
    pub(super) async fn commit(
        &self,
        writing: &mut Writing,
        records: Vec<Record>,
        further: impl FnOnce(&mut Table),
    ) -> Result<(), Error> {
        let snapshot = {
            let mut state = self.state.write();
            let table = &mut state.table;
            let dropped = table.patterns_dropped();
            writing.folded.extend(records.iter().flat_map(|record| table.apply(record)));
            self.metrics.purge_patterns_dropped.inc_by(table.patterns_dropped() - dropped);
            further(table);
            writing.unsaved.extend(records);
            // A tag that was folded and then purged again has a row.
            writing.folded.retain(|tag| table.row(tag).is_none());
            if writing.unsaved.len() > UNSAVED_MAX {
                let applied = table.cursor().position;
                table.raise_floor(applied);
                // Nor is what the disk has of it worth anything below that floor.
                (writing.unsaved, writing.folded, writing.anew) = (Vec::new(), Vec::new(), true);
            }
            Snapshot::from(&*table)
        };
        self.republish();
        self.save(writing, snapshot).await
    }

    /// Tries again to make durable what the disk refused.
    pub(super) async fn save_again(&self) -> Result<(), Error> {
        let mut writing = self.writing.lock().await;
        let snapshot = Snapshot::from(&self.state.read().table);
        self.save(&mut writing, snapshot).await
    }

    /// Makes another table the one that counts, at once and as a whole, with what it has on top of what the disk has of
    /// it: records, and rows that left it. `anew` if what the disk has is of another log.
    pub(super) async fn swap_in(
        &self,
        writing: &mut Writing,
        table: Table,
        anew: bool,
        (records, folded): (Vec<Record>, Vec<Tag>),
    ) -> Result<(), Error> {
        let snapshot = Snapshot::from(&table);
        // A tag that was folded and then purged again has a row.
        let folded: Vec<Tag> = folded.into_iter().filter(|tag| table.row(tag).is_none()).collect();
        self.metrics.purge_patterns_dropped.inc_by(table.patterns_dropped());
        self.state.write().table = table;
        self.republish();
        if anew {
            // Purges of a log that is gone say nothing about this one.
            (writing.unsaved, writing.folded) = (Vec::new(), Vec::new());
            writing.anew = true;
        }
        writing.unsaved.extend(records);
        writing.folded.extend(folded);
        self.save(writing, snapshot).await
    }

    async fn save(&self, writing: &mut Writing, snapshot: Snapshot) -> Result<(), Error> {
        let cursor = snapshot.cursor;
        if let Some(journal) = self.journal.clone() {
            let (records, folded, anew) = (writing.unsaved.clone(), writing.folded.clone(), writing.anew);
            let write = move || {
                if anew {
                    journal.reset(&snapshot, &records, &folded)
                } else {
                    journal.write(&snapshot, &records, &folded)
                }
            };
            let written = journal::blocking(write).await;
            self.unsaved.store(written.is_err(), Ordering::Relaxed);
            written?;
        }
        (writing.unsaved, writing.folded, writing.anew) = (Vec::new(), Vec::new(), false);
        self.applied.send_replace(cursor);
        Ok(())
    }

    pub(super) fn republish(&self) {
        // Read anew whenever another has published meanwhile, which may have known more.
        self.glance.rcu(|glance| Glance::of(&self.state.read(), glance.version + 1));
    }
}

/// Brings back what waited for the log when the process before ended: it holds on this node at once, and waits on.
///
/// # Errors
/// [`Error::Journal`]
fn restore(journal: Option<&Journal>, tags_max: usize, patience: Duration) -> Result<(Local, Pending), Error> {
    let (mut local, pending) = (Local::new(tags_max), Pending::new(tags_max, patience));
    let (waiting, overflowed) = journal.map(Journal::waiting).transpose()?.unwrap_or_default();
    if !waiting.is_empty() {
        info!(count = waiting.len(), "invalidations from before the start have yet to reach the purge log");
    }
    if overflowed {
        local.raise_floor();
        pending.restore_overflow();
    }
    for tag in waiting {
        pending.restore(tag, local.add(tag));
    }
    Ok((local, pending))
}

/// How long a node that has read its log isn't ready because others have yet to confirm it. They read it at least once a
/// second; one that hasn't within two is out of touch, or has ended.
const CONFIRM_TIME: Duration = Duration::from_secs(2);

/// A log that hasn't replied for this long is out of reach.
const RECENT: Duration = Duration::from_secs(5);
