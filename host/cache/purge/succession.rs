//! Another process takes this one's place, its disk included. This one finishes what it serves: it hears of no purge any
//! more, so nothing that is stored is served without asking, and what unsafe methods invalidate is bequeathed.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Purger, pending::Invalidation};
use crate::cache::tag::Tag;

/// How long a process that takes a bequest waits for it to outlive this process as well.
const SAFE_TIME: Duration = Duration::from_millis(250);

/// Invalidations that another process is to make.
#[derive(Debug)]
pub struct Bequest {
    batch: Vec<Invalidation>,
    /// More than could wait: everything is to be confirmed. How many of them there have been.
    overflow: Option<u64>,
}

impl Bequest {
    /// Returns the tags of URLs.
    pub fn tags(&self) -> impl ExactSizeIterator<Item = Tag> {
        self.batch.iter().map(|one| one.tag)
    }

    /// Whether all that is stored is to be confirmed by the origin.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.overflow.is_some()
    }
}

impl Purger {
    /// Has this node leave the place that it has to another process, once [`Purger::run`] is stopped. From now on no purge
    /// is made here.
    pub fn give_way(&self) {
        self.succeeded.store(true, Ordering::Release);
    }

    /// Closes the durable table, once [`Purger::run`] has ended after [`Purger::give_way`].
    pub fn close(&self) {
        if let Some(journal) = &self.journal {
            journal.close();
        }
    }

    /// Waits for invalidations to bequeath. To be followed by [`Purger::bequeathed`] or [`Purger::keep`].
    pub async fn bequest(&self) -> Bequest {
        let batch = self.pending.next().await;
        Bequest { batch, overflow: self.pending.overflow() }
    }

    /// Returns invalidations to bequeath, if there are any now.
    pub fn bequest_now(&self) -> Option<Bequest> {
        let bequest = Bequest { batch: self.pending.take(), overflow: self.pending.overflow() };
        let is_empty = bequest.batch.is_empty() && !bequest.is_everything();
        (!is_empty).then_some(bequest)
    }

    /// Notes that the other process has made them, and whether they outlive it.
    pub fn bequeathed(&self, bequest: &Bequest, safe: bool) {
        if let Some(turned_away) = bequest.overflow {
            self.pending.make_up(turned_away);
        }
        self.pending.done(safe);
    }

    /// Puts them back: it isn't known whether the other process has made them.
    pub fn keep(&self) {
        self.pending.put_back();
    }

    /// Makes the invalidations of the process whose place this one has taken. They hold at once; returns whether they are
    /// handed on or on disk, too, after waiting shortly for that.
    pub async fn take_bequest(&self, tags: impl Iterator<Item = Tag>, is_everything: bool) -> bool {
        if is_everything {
            self.invalidate_all();
        }
        timeout(SAFE_TIME, join_all(tags.map(|tag| self.invalidate(tag)))).await.is_ok()
    }

    /// Has everything that is stored confirmed by the origin, here and in the region: another process has lost count of
    /// what was invalidated.
    fn invalidate_all(&self) {
        self.state.write().local.raise_floor();
        self.pending.overflowed();
        self.republish();
    }
}
