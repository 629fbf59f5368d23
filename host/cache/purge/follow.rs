//! Following the region's log: catching up before anything stored is trusted, and keeping the fence up from then on.

use std::{collections::VecDeque, convert::Infallible, sync::atomic::Ordering, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Error, Purger, RETRY, Region,
    log::{Append, Appended, Entry, Followed},
    pending::Invalidation,
    table::{Cursor, Incarnation, Kind, Position, Record, Table},
};
use crate::{
    cache::tag::Tag,
    clock::{self, Uptime},
};

/// How long one read of the log waits for news, at most.
const WAIT_MAX: Duration = Duration::from_millis(1_000);

/// What a stopping node may take to hand on its last invalidations and to sign off.
const LEAVE_TIME: Duration = Duration::from_millis(1_000);

/// A table that is being brought up to date while another one counts.
#[derive(Debug)]
struct Candidate {
    table: Table,
    /// What was read on top of what the disk has of it.
    records: Vec<Record>,
    /// The disk has nothing of it.
    anew: bool,
}

/// What a follower remembers from one connection to the next.
#[derive(Debug, Default)]
struct Reader {
    candidate: Option<Candidate>,
    /// Incarnations that this node has followed and left.
    left: VecDeque<Incarnation>,
    swept: Uptime,
    /// The last thing that was worth a warning, so that it is said once.
    warned: Option<&'static str>,
}

/// Incarnations that are remembered.
const LEFT_MAX: usize = 64;

impl Purger {
    /// Follows the region's log and hands invalidations on to it, until `stop`.
    pub async fn run(self: std::sync::Arc<Self>, stop: CancellationToken) {
        let following = async {
            match &self.region {
                Some(region) => self.follow(region).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = following => {}
            () = self.drain() => {}
        }
        if timeout(LEAVE_TIME, self.leave()).await.is_err() {
            warn!("stopped without having signed off from the region's purge log");
        }
    }

    async fn leave(&self) {
        let batch = self.pending.take();
        if !batch.is_empty()
            && let Err(error) = self.hand_on(&batch).await
        {
            warn!(%error, count = batch.len(), "invalidations were not handed on to the purge log");
        }
        let Some(region) = &self.region else { return };
        let cursor = *self.applied.borrow();
        let member = region.member(&self.node, cursor, cursor.position, clock::uptime());
        if let Err(error) = region.log.sign_off(&member, false).await {
            warn!(%error, "could not sign off from the region's purge log");
        }
    }

    async fn follow(&self, region: &Region) {
        let mut reader = Reader::default();
        loop {
            let Err(error) = self.follow_once(region, &mut reader).await;
            reader.warn("unreachable", || {
                warn!(%error, "the region's purge log is out of reach; past the fence, what is stored is confirmed by the origin");
            });
            sleep(RETRY).await;
        }
    }

    /// Reads on until the log is out of reach.
    async fn follow_once(&self, region: &Region, reader: &mut Reader) -> Result<Infallible, Error> {
        loop {
            let began = clock::uptime();
            let live = self.state.read().table.cursor();
            let cursor = reader.candidate.as_ref().map_or(live, |candidate| candidate.table.cursor());
            let durable = Some(*self.applied.borrow()).filter(|applied| applied.log == cursor.log);
            let durable = durable.map_or(Position::default(), |applied| applied.position.min(cursor.position));
            let member = region.member(&self.node, cursor, durable, began);
            match region.log.follow(&member, cursor).await? {
                Followed::Records { entries, last, server } => {
                    region.last.store(last.0, Ordering::Relaxed);
                    let news = !entries.is_empty();
                    let at = self.take_in(reader, entries).await;
                    if at.position < last {
                        continue;
                    }
                    self.reach_end(region, reader, at, server, began).await;
                    if !news {
                        self.sweep(region, reader).await?;
                        region.log.wait(at, WAIT_MAX.min(region.fence / 4)).await?;
                    }
                }
                Followed::Trimmed(floor, link) => {
                    reader.warn("trimmed", || {
                        warn!(%floor, "the purge log was trimmed past this node: older entries are confirmed by the origin");
                    });
                    self.raise_floor(reader, floor, link).await;
                }
                Followed::Other(Incarnation(0)) => region.log.begin_anew(Incarnation(0)).await?,
                Followed::Other(log) if reader.left.contains(&log) => {
                    // It was put back to a state that this node has seen the end of.
                    warn!("the purge log has gone back to an older incarnation; it begins anew");
                    region.log.begin_anew(log).await?;
                }
                Followed::Other(log) => self.meet(reader, log, live).await,
                Followed::Forked => {
                    self.metrics.purge_logs_lost.inc();
                    warn!(at = %cursor.position, "the purge log has lost records or was put back to an older state; it begins anew");
                    region.log.begin_anew(cursor.log).await?;
                }
            }
        }
    }

    /// Prepares a table for a log that isn't the one that counts: the one it knew when it stopped, or an empty one.
    async fn meet(&self, reader: &mut Reader, log: Incarnation, live: Cursor) {
        let parked = self.writing.lock().await.parked.take().filter(|table| table.cursor().log == log);
        if self.fence.has_read() {
            if reader.left.len() == LEFT_MAX {
                reader.left.pop_front();
            }
            reader.left.push_back(live.log);
        }
        let anew = parked.is_none();
        let table = parked.unwrap_or_else(|| Table::new(log, self.rows_max));
        reader.candidate = Some(Candidate { table, records: Vec::new(), anew });
    }

    /// Takes records in, and returns how far the log has been read then.
    async fn take_in(&self, reader: &mut Reader, entries: Vec<Entry>) -> Cursor {
        let unreadable = entries.iter().filter(|entry| entry.record.is_none()).count();
        if unreadable > 0 {
            self.metrics.purge_unreadable.inc_by(unreadable as u64);
            reader.warn("unreadable", || {
                warn!(
                    unreadable,
                    "records of the purge log can't be read: everything older is confirmed by the origin"
                );
            });
        }
        if let Some(candidate) = &mut reader.candidate {
            for entry in &entries {
                absorb(&mut candidate.table, entry);
            }
            candidate.records.extend(entries.iter().filter_map(|entry| entry.record));
            return candidate.table.cursor();
        }
        if !entries.is_empty() {
            let records = entries.iter().filter_map(|entry| entry.record).collect();
            let mut writing = self.writing.lock().await;
            let saved =
                self.commit(&mut writing, records, |table| entries.iter().for_each(|entry| note(table, entry))).await;
            reader.note_saved(saved);
        }
        self.state.read().table.cursor()
    }

    async fn raise_floor(&self, reader: &mut Reader, floor: Position, link: super::table::Link) {
        let raise = |table: &mut Table| {
            table.raise_floor(floor);
            table.link(link);
        };
        match &mut reader.candidate {
            Some(candidate) => raise(&mut candidate.table),
            None => {
                let mut writing = self.writing.lock().await;
                let saved = self.commit(&mut writing, Vec::new(), raise).await;
                reader.note_saved(saved);
            }
        }
    }

    /// Everything that was in the log when the read began has been applied.
    async fn reach_end(&self, region: &Region, reader: &mut Reader, at: Cursor, server: Option<String>, began: Uptime) {
        if let Some(Candidate { table, records, anew }) = reader.candidate.take() {
            let mut writing = self.writing.lock().await;
            let saved = self.swap_in(&mut writing, table, anew, records).await;
            reader.note_saved(saved);
        }
        let lapsed = !self.fence.holds(began);
        if lapsed {
            info!(position = %at.position, "in step with the region's purge log");
            reader.warned = None;
        }
        if let Some(before) = region.before.filter(|_| !self.fence.has_read()) {
            // Its directory is this process's now, so it has ended.
            let mut member = region.member(&self.node, at, at.position, began);
            member.instance = before;
            if let Err(error) = region.log.sign_off(&member, false).await {
                warn!(%error, "could not sign off the process that had this directory before");
            }
        }
        region.roll.lock().read(at.log, server, lapsed, clock::uptime());
        self.fence.renew(began);
    }

    /// Looks after the list of members, now and then.
    async fn sweep(&self, region: &Region, reader: &mut Reader) -> Result<(), Error> {
        let now = clock::uptime();
        if now.since(reader.swept) < region.fence / 2 {
            return Ok(());
        }
        reader.swept = now;
        let listed = region.log.members().await?;
        let (lost, namesake) = {
            let mut roll = region.roll.lock();
            roll.look(listed, now);
            (roll.lost(now), roll.has_namesake(&self.node, region.instance))
        };
        for member in lost {
            warn!(node = member.node, "a node has been silent for so long that purges no longer wait for it");
            region.log.sign_off(&member, true).await?;
        }
        self.metrics.purge_namesakes.set(i64::from(namesake));
        if namesake {
            reader.warn("namesake", || {
                warn!(node = self.node, "another node of this region has this node's name; give each its own");
            });
        }
        Ok(())
    }

    /// Hands invalidations on to the log, in batches, until it is dropped.
    async fn drain(&self) {
        let mut warned = false;
        let mut unsettled: VecDeque<(Cursor, Vec<Invalidation>)> = VecDeque::new();
        loop {
            let batch = self.pending.next().await;
            match self.hand_on(&batch).await {
                Ok(at) => {
                    warned = false;
                    self.pending.done(&batch);
                    unsettled.push_back((at, batch));
                }
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        warn!(%error, "the purge log takes no invalidations; this node has applied them, and hands them on later");
                    }
                    self.pending.put_back(&batch);
                    sleep(RETRY).await;
                }
            }
            self.settle(&mut unsettled).await;
        }
    }

    async fn hand_on(&self, batch: &[Invalidation]) -> Result<Cursor, Error> {
        let append = |one: &Invalidation| Append { tag: one.tag, kind: Kind::Hard, url: true };
        let appends: Vec<Append> = batch.iter().map(append).collect();
        let Some(region) = &self.region else {
            self.append_locally(&appends).await?;
            return Ok(*self.applied.borrow());
        };
        if self.pending.take_overflow() {
            warn!(
                "more invalidations than may wait for the purge log; it begins anew, and all nodes confirm what they have"
            );
            let log = self.applied.borrow().log;
            region.log.begin_anew(log).await.inspect_err(|_| self.pending.overflow())?;
        }
        let Appended { log, position, .. } = region.log.append(&appends).await?;
        Ok(Cursor { log, position, ..Cursor::default() })
    }

    /// Forgets what the log knows and this node has applied from it.
    async fn settle(&self, unsettled: &mut VecDeque<(Cursor, Vec<Invalidation>)>) {
        if let Some((last, _)) = unsettled.back() {
            let mut applied = self.applied.subscribe();
            let reached = applied.wait_for(|at| at.log != last.log || at.position >= last.position);
            // Not to be waited for if others are to be handed on: it is settled with them.
            let _ = timeout(RETRY, reached).await;
        }
        let at = *self.applied.borrow();
        while let Some((cursor, batch)) = unsettled.pop_front() {
            if cursor.log == at.log && cursor.position > at.position {
                unsettled.push_front((cursor, batch));
                break;
            }
            let mut state = self.state.write();
            for one in batch {
                state.local.settle(&one.tag, one.number());
            }
        }
    }
}

impl Reader {
    /// Says something once, until the log has been read to its end again after a lapse.
    fn warn(&mut self, what: &'static str, say: impl FnOnce()) {
        if self.warned != Some(what) {
            self.warned = Some(what);
            say();
        }
    }

    /// What the disk refused is written with what comes next, and not acknowledged before.
    fn note_saved(&mut self, saved: Result<(), Error>) {
        if let Err(error) = saved {
            self.warn("unsaved", || warn!(%error, "purges are applied but not yet durable"));
        }
    }
}

/// Applies a record to a table that doesn't count yet.
fn absorb(table: &mut Table, entry: &Entry) {
    if let Some(record) = &entry.record {
        let _folded: Vec<Tag> = table.apply(record);
    }
    note(table, entry);
}

/// Notes how far the log has been read; what couldn't be understood may have purged anything.
fn note(table: &mut Table, entry: &Entry) {
    if entry.record.is_none() {
        table.raise_floor(entry.position);
    }
    table.advance(entry.position);
    table.link(entry.link);
}
