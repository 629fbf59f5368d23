//! What unsafe methods invalidate: here at once, on the region's other nodes by way of the log, in batches. While the log
//! takes none, they are kept on disk, so that neither a restart nor a crash loses them.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::sleep;
use tracing::warn;

use super::{
    Error, Purger,
    busy::Busy,
    journal,
    log::{Append, Appended, RETRY},
    pending::{Added, Invalidation},
    table::{Cursor, Incarnation, Kind, Position, Reach},
};
use crate::{
    cache::tag::Tag,
    planted::{Plant, planted},
};

/// Between two attempts to make durable what the disk refused.
const SAVE_AGAIN: Duration = Duration::from_millis(1_000);

/// How long nothing may have been handed on before the disk's note that something was is taken back.
const QUIET: Duration = Duration::from_millis(2_000);

/// Batches that wait to be read back; past it they are joined.
const UNSETTLED_MAX: usize = 64;

/// Invalidations that the log has taken, and this node may have yet to read from it.
#[derive(Debug)]
struct Unsettled {
    /// Where the last of them stands.
    at: Cursor,
    /// The log that counted when they were handed on.
    live: Incarnation,
    batch: Vec<Invalidation>,
}

/// Invalidations that the log has just taken.
#[derive(Debug)]
struct Taken {
    /// Where the last of them stands.
    at: Cursor,
    /// What the disk is to note of it; `None` if the log is this node's own.
    busy: Option<Busy>,
}

impl Purger {
    /// Whether something may be stored under the URL with this tag, or be on its way. No is certain.
    #[must_use]
    pub fn may_hold(&self, url: &Tag) -> bool {
        self.is_shared() || self.succeeded.load(Ordering::Relaxed) || self.seen.may_have(url)
    }

    /// Whether other processes store for this node as well, or have before it was started: what they have stored isn't known
    /// here.
    pub(super) const fn is_shared(&self) -> bool {
        self.region.is_some() || self.journal.is_some()
    }

    /// Invalidates a URL, or a group, that an unsafe method changed (RFC 9111, section 4.4; RFC 9875, section 3). From now on
    /// this node serves nothing of it that was fetched before. Returns when the log has taken it, which carries it to the region's other nodes, or when it is
    /// on disk until the log does; dropping the future takes nothing back.
    pub async fn invalidate(&self, url: Tag) {
        if planted(Plant::WriteIgnored) {
            return;
        }
        let (number, added) = {
            let mut state = self.state.write();
            let number = state.local.add(url);
            // In the order of the numbers: else a later one that is taken would speak for this one.
            (number, self.pending.add(url, number))
        };
        self.republish();
        self.metrics.purge_invalidations.inc();
        if added == Added::Joined {
            self.metrics.purge_invalidations_coalesced.inc();
        }
        self.pending.safe(number).await;
    }

    /// Hands invalidations on to the log, in batches, until it is dropped.
    pub(super) async fn drain(&self) {
        let mut warned = false;
        let mut unsettled: VecDeque<Unsettled> = VecDeque::new();
        let mut last = Cursor::default();
        let mut applied = self.applied.subscribe();
        loop {
            let batch = tokio::select! {
                batch = self.pending.next() => Some(batch),
                _ = applied.changed(), if !unsettled.is_empty() => None,
                () = self.refused(), if self.journal.is_some() => {
                    // It was said when it failed first.
                    let _ = self.save_again().await;
                    continue;
                }
                () = sleep(QUIET), if unsettled.is_empty() && self.busy.lock().on_disk.is_some() => {
                    self.note_quiet(last).await;
                    continue;
                }
            };
            if let Some(batch) = batch {
                let live = self.state.read().table.cursor().log;
                match self.hand_on(&batch).await {
                    Ok(Taken { at, busy }) => {
                        warned = false;
                        last = at;
                        let is_safe = self.note_busy(busy).await;
                        self.metrics.purge_invalidations_appended.inc_by(batch.len() as u64);
                        self.pending.done(is_safe);
                        unsettled.push_back(Unsettled { at, live, batch });
                    }
                    Err(error) => {
                        self.pending.put_back();
                        if !std::mem::replace(&mut warned, true) {
                            warn!(%error, "the purge log takes no invalidations; this node has applied them, and hands them on later");
                        }
                        sleep(RETRY).await;
                    }
                }
            }
            self.settle(&mut unsettled);
        }
    }

    /// Waits until something is to be saved again. That may begin at any time.
    async fn refused(&self) {
        loop {
            sleep(SAVE_AGAIN).await;
            if self.unsaved.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Hands on what is left, for a node that stops.
    pub(super) async fn hand_on_rest(&self) {
        // What was being handed on may have been taken or not; twice does no harm.
        self.pending.put_back();
        loop {
            let batch = self.pending.take();
            if batch.is_empty() && self.pending.overflow().is_none() {
                return;
            }
            let Taken { busy, .. } = match self.hand_on(&batch).await {
                Ok(taken) => taken,
                Err(error) => {
                    self.pending.put_back();
                    warn!(%error, count = self.pending.count().0, "invalidations were not handed on to the purge log");
                    return;
                }
            };
            self.metrics.purge_invalidations_appended.inc_by(batch.len() as u64);
            self.pending.done(self.note_busy(busy).await);
        }
    }

    /// Has the disk say, if it doesn't yet, that the log has taken invalidations which may not be saved here. Returns
    /// whether it does, or there is none.
    async fn note_busy(&self, busy: Option<Busy>) -> bool {
        let (Some(journal), Some(busy)) = (self.journal.clone(), busy) else { return true };
        let on_disk = self.busy.lock().on_disk;
        let noted = on_disk.map_or(busy, |known| known.joined(busy));
        if on_disk == Some(noted) {
            return true;
        }
        let written = journal::blocking(move || journal.note_busy(Some(noted))).await;
        let mut note = self.busy.lock();
        let was_refused = std::mem::replace(&mut note.refused, written.is_err());
        match written {
            Ok(()) => note.on_disk = Some(noted),
            Err(error) if !was_refused => {
                warn!(%error, "the purge log takes invalidations, which this node's disk can't note; they are replied to with a delay");
            }
            Err(_) => {}
        }
        !note.refused
    }

    /// Takes that back if all that was handed on, up to `last`, has been read back and saved.
    async fn note_quiet(&self, last: Cursor) {
        let Some(journal) = self.journal.clone() else { return };
        let is_known = self.fence.has_read() && self.busy.lock().left.is_none();
        if !is_known || self.unsaved.load(Ordering::Relaxed) || !self.is_durable(last) || !self.pending.is_idle() {
            return;
        }
        // Nothing else writes it at the same time. If it fails, it is tried again.
        if journal::blocking(move || journal.note_busy(None)).await.is_ok() {
            self.busy.lock().on_disk = None;
        }
    }

    /// Appends a batch, and returns where its last one stands. More than could wait are made up for first.
    async fn hand_on(&self, batch: &[Invalidation]) -> Result<Taken, Error> {
        let append = |one: &Invalidation| Append { tag: one.tag, kind: Kind::Hard, reach: Reach::Url };
        let appends: Vec<Append> = batch.iter().map(append).collect();
        let overflow = self.pending.overflow();
        let Some(region) = &self.region else {
            let (position, saved) = self.append_locally(&appends, overflow.is_some()).await;
            match (overflow, saved) {
                (Some(_), Err(error)) => return Err(error),
                (None, Err(error)) => warn!(%error, "invalidations are applied but not yet durable"),
                (Some(turned_away), Ok(())) => self.pending.make_up(turned_away),
                (None, Ok(())) => {}
            }
            let at = Cursor { position, ..self.state.read().table.cursor() };
            return Ok(Taken { at, busy: None });
        };
        if let Some(turned_away) = overflow {
            let before = region.log.members(None, &[]).await?.log;
            region.log.begin_anew(before, &region.known()).await?;
            warn!(
                "there were more invalidations than may wait for the purge log; it begins anew, and all nodes confirm \
                 what they have"
            );
            self.pending.make_up(turned_away);
        }
        if appends.is_empty() {
            let listed = region.log.members(None, &[]).await?;
            let at = Cursor { log: listed.log, ..Cursor::default() };
            return Ok(Taken { at, busy: Some(Busy::new(at.log, listed.server.as_deref())) });
        }
        let Appended { log, position, link, server } = region.log.append(&appends, &region.known()).await?;
        Ok(Taken { at: Cursor { log, position, link }, busy: Some(Busy::new(log, server.as_deref())) })
    }

    /// Forgets what the log knows and this node has applied from it. What the log has lost is handed on again.
    fn settle(&self, unsettled: &mut VecDeque<Unsettled>) {
        while unsettled.len() > UNSETTLED_MAX {
            // The log takes them, and this node can't read it: they are settled with later ones.
            let (Some(first), Some(second)) = (unsettled.pop_front(), unsettled.pop_front()) else { break };
            let batch = joined(first.batch, second.batch, self.invalidations_max);
            unsettled.push_front(Unsettled { batch, ..second });
        }
        let mut state = self.state.write();
        let now = state.table.cursor();
        let mut has_settled = false;
        while let Some(Unsettled { at, live, batch }) = unsettled.pop_front() {
            let is_behind = if at.log == now.log {
                at.position > now.position
            } else {
                now.log == live || at.log.is_after(now.log)
            };
            if is_behind {
                unsettled.push_front(Unsettled { at, live, batch });
                break;
            }
            // In an incarnation that the node has come to since, everything older is doubtful.
            let first = Position((at.position.0 + 1).saturating_sub(batch.len() as u64));
            let is_known = |one: &Invalidation| at.log != now.log || state.table.knows(&one.tag, first);
            let (known, lost): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_known);
            has_settled |= !known.is_empty();
            for one in known {
                state.local.settle(&one.tag, one.number());
            }
            self.pending.again(&lost);
        }
        if unsettled.is_empty() && self.pending.is_idle() {
            // Nothing is left that only this node knows of.
            has_settled |= state.local.lift_floor();
        }
        drop(state);
        if has_settled {
            // Each version makes the next hit of every entry look into the table.
            self.republish();
        }
    }

    /// Keeps on disk what the log doesn't take, until it is dropped.
    pub(super) async fn hold(&self) {
        if self.journal.is_none() {
            return std::future::pending().await;
        }
        let mut warned = false;
        loop {
            self.pending.overdue().await;
            match self.write_down(false).await {
                Ok(()) => warned = false,
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        warn!(%error, "invalidations that wait for the purge log are in memory only");
                    }
                    sleep(SAVE_AGAIN).await;
                }
            }
        }
    }

    /// Keeps on disk what is left, for a node that stops: it is handed on at its next start.
    pub(super) async fn hold_rest(&self) {
        if self.pending.is_kept() {
            return;
        }
        if let Err(error) = self.write_down(true).await {
            let (waiting, held) = self.pending.count();
            warn!(%error, count = waiting.saturating_sub(held), "invalidations that the purge log has not taken are lost");
        }
    }

    async fn write_down(&self, all: bool) -> Result<(), Error> {
        let Some(journal) = self.journal.clone() else { return Ok(()) };
        let pending = Arc::clone(&self.pending);
        // As a whole, even if no request waits for it any more: one change must not overtake another.
        journal::blocking(move || pending.write_down(all, |change| journal.keep_waiting(change))).await
    }
}

/// One batch of two: the last invalidation of each tag, and at most so many of the latest. One that is left out stays
/// invalid on this node.
fn joined(mut batch: Vec<Invalidation>, later: Vec<Invalidation>, tags_max: usize) -> Vec<Invalidation> {
    batch.extend(later);
    batch.sort_unstable_by_key(|one| (one.tag, Reverse(one.number())));
    batch.dedup_by_key(|one| one.tag);
    batch.sort_unstable_by_key(|one| Reverse(one.number()));
    batch.truncate(tags_max);
    batch
}

#[cfg(test)]
mod tests {
    use super::{super::pending::Pending, *};

    #[test]
    fn batches_that_cannot_be_read_back_are_joined_within_bounds() {
        let pending = Pending::new(100, Duration::MAX);
        let batch = |names: &[u8], from: u64| {
            for (name, number) in names.iter().zip(from..) {
                pending.add(Tag::named(&[*name]), number);
            }
            let batch = pending.take();
            pending.done(true);
            batch
        };
        let joined = joined(batch(&[1, 2, 3], 1), batch(&[4, 1], 4), 3);
        let left: Vec<_> = joined.iter().map(|one| (one.tag, one.number())).collect();
        assert_eq!(left, [(1, 5), (4, 4), (3, 3)].map(|(name, number)| (Tag::named(&[name]), number)));
    }
}
