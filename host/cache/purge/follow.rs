//! Following a log that others follow as well: catching up before anything stored is trusted, and keeping the fence up from
//! then on.

use std::{collections::VecDeque, convert::Infallible, sync::atomic::Ordering, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Error, Purger, journal,
    log::{Entry, Followed, Member, RETRY},
    membership,
    region::Region,
    table::{Cursor, Incarnation, Position, Record, Table},
};
use crate::{
    cache::tag::Tag,
    clock::{self, Uptime},
};

/// How long one read of the log waits for news, at most.
const WAIT_MAX: Duration = Duration::from_millis(1_000);

/// The same while the log is to be confirmed by the others.
const CONFIRM_WAIT: Duration = Duration::from_millis(25);

/// What a stopping node may take to hand on its last invalidations and to sign off.
const LEAVE_TIME: Duration = Duration::from_millis(1_000);

/// A table that is being brought up to date while another one counts.
#[derive(Debug)]
struct Candidate {
    table: Table,
    /// What was read on top of what the disk has of it.
    records: Vec<Record>,
    /// Rows that left the table meanwhile.
    folded: Vec<Tag>,
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
    /// The log's end has been reached, but not everybody else has found it to be the log they know.
    unconfirmed: bool,
    /// The last thing that was worth a warning, so that it is said once.
    warned: Option<&'static str>,
    /// Nodes whose limits are known to differ from this one's.
    differing: Vec<String>,
    /// What the disk has of the members.
    roster: Option<Vec<Member>>,
    /// The last word of this process that its disk has.
    noted: Option<Uptime>,
    /// The processes before on this node's directory are off the list.
    has_succeeded: bool,
}

/// Incarnations that are remembered.
const LEFT_MAX: usize = 64;

impl Purger {
    /// Follows the log and hands invalidations on to it, until `stop`.
    pub async fn run(self: std::sync::Arc<Self>, stop: CancellationToken) {
        let following = async {
            let Some(region) = &self.region else { return std::future::pending().await };
            tokio::join!(self.follow(region), self.heed(region), region.hearing.run(&*region.log));
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = following => {}
            () = self.drain() => {}
            () = self.hold() => {}
        }
        // Before the others no longer wait for this node: it serves on, and hears of no purge any more.
        if self.succeeded.load(Ordering::Acquire) {
            self.fence.end();
        }
        if timeout(LEAVE_TIME, self.leave()).await.is_err() {
            warn!(log = %self.extent, "stopped without having signed off from the purge log");
        }
        self.hold_rest().await;
    }

    async fn leave(&self) {
        self.hand_on_rest().await;
        if let Some(region) = &self.region
            && let Err(error) = self.sign_off_itself(region).await
        {
            warn!(log = %self.extent, %error, "could not sign off from the purge log");
        }
    }

    /// Signs this process off. The disk says so first: whether a log that fails has done it can't be known, and a process
    /// that starts must not take the place of a member that isn't on the list. So where the log is out of reach anyway,
    /// or the disk refuses, nothing is done, and this one stays a member.
    async fn sign_off_itself(&self, region: &Region) -> Result<(), Error> {
        if let Some(journal) = self.journal.clone() {
            region.log.members(None, &[]).await?;
            journal::blocking(move || journal.leave()).await?;
        }
        let cursor = *self.applied.borrow();
        let member = region.member(&self.node, cursor, cursor.position, clock::uptime());
        region.log.sign_off(&member, false).await
    }

    async fn follow(&self, region: &Region) {
        let mut reader = Reader::default();
        loop {
            let Err(error) = self.follow_once(region, &mut reader).await;
            // Only now: where the log can be reached, its list says better than the disk who is a member.
            if let Some(word) = region.inherited {
                self.fence.inherit(word);
            }
            reader.warn("unreachable", || {
                warn!(log = %self.extent, %error, "the purge log is out of reach; past the fence, what is stored is confirmed by the origin");
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
            // Of the table that counts, not of a candidate: nobody may take a purge for applied before it takes effect.
            let member = region.member(&self.node, live, durable, began);
            let followed = region.log.follow(&member, cursor).await?;
            let now = clock::uptime();
            region.reached.store(now.0, Ordering::Relaxed);
            if matches!(followed, Followed::Records { .. } | Followed::Trimmed(..)) {
                self.fence.signed_on(began, now);
            }
            match followed {
                Followed::Records { entries, last, server } => {
                    region.last.store(last.0, Ordering::Relaxed);
                    let read_to = entries.last().map_or(cursor.position, |entry| entry.position);
                    // What notices have told meanwhile is of another history, or may be: the next read tells.
                    let Some((at, news)) = self.take_in(region, reader, cursor, entries).await else { continue };
                    // What notices have told beyond what was read doesn't show that this has reached the end.
                    if at.position < last || read_to < last {
                        continue;
                    }
                    self.reach_end(region, reader, at, server, began).await?;
                    if !news {
                        self.sweep(region, reader).await?;
                        let wait = if reader.unconfirmed { CONFIRM_WAIT } else { WAIT_MAX };
                        self.pause(region, at, wait.min(region.fence / 4)).await?;
                    }
                }
                Followed::Trimmed(floor, link) => {
                    reader.warn("trimmed", || {
                        warn!(log = %self.extent, %floor, "the purge log was trimmed past this node: older entries are confirmed by the origin");
                    });
                    self.raise_floor(reader, cursor, floor, link).await;
                }
                Followed::Other(Incarnation(0)) => region.log.begin_anew(Incarnation(0), &region.known()).await?,
                Followed::Other(log) if reader.left.contains(&log) => {
                    // It was put back to a state that this node has seen the end of.
                    warn!(log = %self.extent, "the purge log has gone back to an older incarnation; it begins anew");
                    region.log.begin_anew(log, &region.known()).await?;
                }
                Followed::Other(log) if self.knows_later(log, live).await => {
                    warn!(log = %self.extent, "the purge log has gone back to an older state; it begins anew");
                    region.log.begin_anew(log, &region.known()).await?;
                }
                Followed::Other(log) => self.meet(reader, log, live).await,
                Followed::Forked => {
                    self.metrics.purge_logs_lost.inc();
                    warn!(log = %self.extent, at = %cursor.position, "the purge log has lost records or was put back to an older state; it begins anew");
                    region.log.begin_anew(cursor.log, &region.known()).await?;
                }
            }
        }
    }

    /// Whether this node has followed an incarnation that began after `log`, now or before it was started.
    async fn knows_later(&self, log: Incarnation, live: Cursor) -> bool {
        let parked = self.writing.lock().await.parked.as_ref().map(|table| table.cursor().log);
        live.log.is_after(log) || parked.is_some_and(|parked| parked.is_after(log))
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
        let table = parked.unwrap_or_else(|| Table::new(log, self.room));
        reader.candidate = Some(Candidate { table, records: Vec::new(), folded: Vec::new(), anew });
    }

    /// Waits for something to read, at most for `time`. A log that says by itself what is appended is read before that
    /// only where this is in doubt.
    async fn pause(&self, region: &Region, at: Cursor, time: Duration) -> Result<(), Error> {
        if !region.is_told.load(Ordering::Relaxed) {
            return region.log.wait(at, time).await;
        }
        // Either is a reason to read.
        let _ = timeout(time, region.doubt.notified()).await;
        Ok(())
    }

    /// Takes in the records that follow `from`. Returns how far the log has been read then, and whether there were any that
    /// notices hadn't told. `None` if these have led elsewhere, so that what was read says nothing of the table.
    async fn take_in(
        &self,
        region: &Region,
        reader: &mut Reader,
        from: Cursor,
        entries: Vec<Entry>,
    ) -> Option<(Cursor, bool)> {
        if let Some(candidate) = &mut reader.candidate {
            for entry in &entries {
                candidate.folded.extend(absorb(&mut candidate.table, entry));
            }
            candidate.records.extend(entries.iter().filter_map(|entry| entry.record.clone()));
            let read = (candidate.table.cursor(), !entries.is_empty());
            self.note_unreadable(reader, &entries);
            return Some(read);
        }
        let mut writing = self.writing.lock().await;
        let at = self.state.read().table.cursor();
        let entries = region.trail.lock().lacking(from, at, entries)?;
        self.note_unreadable(reader, &entries);
        if entries.is_empty() {
            return Some((at, false));
        }
        region.trail.lock().add(at.log, &entries);
        let records = entries.iter().filter_map(|entry| entry.record.clone()).collect();
        let saved =
            self.commit(&mut writing, records, |table| entries.iter().for_each(|entry| note(table, entry))).await;
        reader.note_saved(saved);
        Some((self.state.read().table.cursor(), true))
    }

    fn note_unreadable(&self, reader: &mut Reader, entries: &[Entry]) {
        let unreadable = entries.iter().filter(|entry| entry.record.is_none()).count();
        if unreadable > 0 {
            self.metrics.purge_unreadable.inc_by(unreadable as u64);
            reader.warn("unreadable", || {
                warn!(
                    log = %self.extent,
                    unreadable,
                    "records of the purge log can't be read: everything older is confirmed by the origin"
                );
            });
        }
    }

    async fn raise_floor(&self, reader: &mut Reader, from: Cursor, floor: Position, link: super::table::Link) {
        let raise = |table: &mut Table| {
            table.raise_floor(floor);
            table.link(link);
        };
        match &mut reader.candidate {
            Some(candidate) => raise(&mut candidate.table),
            None => {
                let mut writing = self.writing.lock().await;
                // Notices may have led it on since it was read that what follows is missing.
                if self.state.read().table.cursor() != from {
                    return;
                }
                let saved = self.commit(&mut writing, Vec::new(), raise).await;
                reader.note_saved(saved);
            }
        }
    }

    /// Everything that was in the log when the read began has been applied.
    async fn reach_end(
        &self,
        region: &Region,
        reader: &mut Reader,
        at: Cursor,
        server: Option<String>,
        began: Uptime,
    ) -> Result<(), Error> {
        if self.is_doubted(at, server.as_deref()) {
            warn!(
                "the purge log's server was restarted, or is another one, since it took this node's last invalidations; \
                 the log begins anew, and all nodes confirm what they have"
            );
            region.log.begin_anew(at.log, &region.known()).await?;
            self.busy.lock().left = None;
            return Ok(());
        }
        if let Some(Candidate { table, records, folded, anew }) = reader.candidate.take() {
            let mut writing = self.writing.lock().await;
            let saved = self.swap_in(&mut writing, table, anew, (records, folded)).await;
            reader.note_saved(saved);
        }
        self.note_caught_up();
        // What isn't durable isn't reported, and past this node's fence nobody waits for it. So that has to end.
        let is_refused = self.unsaved.load(Ordering::Relaxed);
        let lapsed = !is_refused && !self.fence.holds(began);
        reader.unconfirmed |= region.roll.lock().read(at.log, server, lapsed && !reader.unconfirmed, began);
        if reader.unconfirmed {
            let listed = region.listed(None).await?;
            // Who has spoken of an incarnation that began since has said nothing of this one.
            let is_same = listed.log == at.log;
            reader.unconfirmed = {
                let mut roll = region.roll.lock();
                roll.look(listed, clock::uptime());
                !is_same || !roll.is_confirmed(region.instance, clock::uptime())
            };
            self.keep_roll(region, reader).await?;
        }
        if !reader.unconfirmed && !is_refused {
            if lapsed {
                info!(log = %self.extent, position = %at.position, "in step with the purge log");
                reader.warned = None;
            }
            self.fence.renew(began);
        }
        self.succeed(region, reader, began).await
    }

    /// Whether the log that was found may have lost invalidations that it took from the process before. If not, that
    /// process is done with.
    fn is_doubted(&self, at: Cursor, server: Option<&str>) -> bool {
        let mut note = self.busy.lock();
        let is_doubted = note.left.is_some_and(|left| !left.is_kept_by(at.log, server));
        if !is_doubted {
            note.left = None;
        }
        is_doubted
    }

    /// Writes down, now and then, that this process is a member, whose last word was at `word`. Then those before it on its
    /// directory, which have ended, are signed off: never sooner, since the disk may still say that one of them is.
    async fn succeed(&self, region: &Region, reader: &mut Reader, word: Uptime) -> Result<(), Error> {
        let due = self.journal.clone().filter(|_| membership::is_due(reader.noted, region.lost, word));
        if let Some(journal) = due {
            let member = region.membership(word);
            match journal::blocking(move || journal.keep_membership(member.as_ref())).await {
                Ok(()) => reader.noted = Some(word),
                Err(error) => reader.warn("member", || {
                    warn!(log = %self.extent, %error, "that this node is a member is not on disk; it is tried again");
                }),
            }
        }
        if reader.has_succeeded || reader.noted.is_none() {
            return Ok(());
        }
        for before in &region.before {
            let mut member = region.member(&self.node, Cursor::default(), Position::default(), word);
            member.instance = *before;
            region.log.sign_off(&member, false).await?;
        }
        reader.has_succeeded = true;
        Ok(())
    }

    /// Signs those on again that the log's list has lost, and writes down which members there are.
    async fn keep_roll(&self, region: &Region, reader: &mut Reader) -> Result<(), Error> {
        let (unlisted, roster) = {
            let roll = region.roll.lock();
            (roll.unlisted(), roll.roster(region.instance))
        };
        if !unlisted.is_empty() {
            region.log.sign_on(&unlisted).await?;
        }
        let Some(journal) = self.journal.clone().filter(|_| reader.roster.as_ref() != Some(&roster)) else {
            return Ok(());
        };
        let kept = roster.clone();
        match journal::blocking(move || journal.keep_roster(&kept)).await {
            Ok(()) => reader.roster = Some(roster),
            Err(error) => {
                reader.warn(
                    "roll",
                    || warn!(log = %self.extent, %error, "the other members are not on disk; it is tried again"),
                );
            }
        }
        Ok(())
    }

    /// Looks after the list of members, now and then.
    async fn sweep(&self, region: &Region, reader: &mut Reader) -> Result<(), Error> {
        let now = clock::uptime();
        if now.since(reader.swept) < region.fence / 2 {
            return Ok(());
        }
        reader.swept = now;
        let listed = region.listed(None).await?;
        // Another node that knew it may have put it back when the list was lost.
        if reader.has_succeeded {
            for before in listed.members.iter().filter(|member| region.before.contains(&member.instance)) {
                region.log.sign_off(before, false).await?;
            }
        }
        let (lost, namesake, differing) = {
            let mut roll = region.roll.lock();
            roll.look(listed, now);
            (roll.lost(now), roll.has_namesake(&self.node, region.instance), roll.differing())
        };
        self.keep_roll(region, reader).await?;
        if differing.iter().any(|name| !reader.differing.contains(name)) {
            warn!(
                log = %self.extent,
                nodes = differing.join(" "),
                "nodes have another `fence_ms` or `lost_ms` than this one: purges wait for the longest"
            );
        }
        reader.differing = differing;
        for member in lost {
            if member.is_strangers() {
                info!(log = %self.extent, "purges no longer wait for nodes of which nothing is known");
            } else {
                warn!(log = %self.extent, node = member.node, "a node has been silent for so long that purges no longer wait for it");
            }
            region.log.sign_off(&member, true).await?;
        }
        self.metrics.purge_namesakes.set(i64::from(namesake));
        if namesake {
            reader.warn("namesake", || {
                warn!(log = %self.extent, node = self.node, "another node has this node's name; give each its own");
            });
        }
        Ok(())
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
            self.warn("unsaved", || {
                warn!(%error, "purges are applied but not yet durable; past the fence, what is stored is confirmed by the origin");
            });
        }
    }
}

/// Applies a record to a table that doesn't count yet. Returns the tags whose rows were folded away.
fn absorb(table: &mut Table, entry: &Entry) -> Vec<Tag> {
    let folded = entry.record.as_ref().map(|record| table.apply(record)).unwrap_or_default();
    note(table, entry);
    folded
}

/// Notes how far the log has been read; what couldn't be understood may have purged anything.
pub(super) fn note(table: &mut Table, entry: &Entry) {
    if entry.record.is_none() {
        table.raise_floor(entry.position);
    }
    table.advance(entry.position);
    table.link(entry.link);
}
