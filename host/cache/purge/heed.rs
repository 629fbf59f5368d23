//! Taking in what a log says by itself: a record is applied when its notice comes, and not a round trip later, and is
//! reported at once.
//!
//! That moves the table, and nothing else. What a node may serve without asking still hangs on reads that began at a known
//! time and reached the log's end (`follow.rs`), which go on beside this as ever: a notice that doesn't come, comes late,
//! twice or out of order costs time.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{
    Error, Purger,
    follow::note,
    log::{RETRY, Tied, Word, Words},
    notice, pace,
    region::Region,
};
use crate::clock;

/// Batches of words that are taken in at once, with one write to the disk, if they are there.
const BATCHES_MAX: usize = 64;

/// A report under way: whether it was believed, and how long it took.
type Reporting<'r> = BoxFuture<'r, (Result<bool, Error>, Duration)>;

/// What became of notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heeded {
    /// The table had all of them.
    Nothing,
    /// They are applied and durable.
    Applied,
    /// The log is to be read.
    Doubt,
}

impl Purger {
    /// Takes in what the log says by itself, if it does. Never ends.
    pub(super) async fn heed(&self, region: &Region) {
        loop {
            let Some(words) = region.log.notices() else { return std::future::pending().await };
            let error = self.heed_on(region, words).await;
            debug!(log = %self.extent, ?error, "the purge log says nothing by itself; it is read meanwhile");
            region.is_told.store(false, Ordering::Relaxed);
            region.doubt.notify_one();
            sleep(RETRY).await;
        }
    }

    /// Takes in what the log says until it ends. Returns why it has, if that is known.
    async fn heed_on(&self, region: &Region, words: Words<'_>) -> Option<Error> {
        let mut words = words.ready_chunks(BATCHES_MAX);
        let mut reports: FuturesUnordered<Reporting<'_>> = FuturesUnordered::new();
        let (mut is_owed, mut is_refused, mut last) = (false, false, Duration::ZERO);
        loop {
            tokio::select! {
                // A report that is due doesn't wait for the disk that the next records go to.
                biased;
                Some((reported, took)) = reports.next() => {
                    last = took;
                    if !matches!(reported, Ok(true)) {
                        // The next read reports as well.
                        region.doubt.notify_one();
                    }
                }
                batches = words.next() => {
                    let batches: Result<Vec<Vec<Word>>, Error> = batches?.into_iter().collect();
                    let batches = match batches {
                        Ok(batches) => batches,
                        Err(error) => return Some(error),
                    };
                    if !region.is_told.swap(true, Ordering::Relaxed) {
                        // What was appended before is read; what is appended from now on is said.
                        region.doubt.notify_one();
                    }
                    match self.take_notice(region, batches.into_iter().flatten().collect()).await {
                        Ok(Heeded::Nothing) => {}
                        Ok(Heeded::Applied) => (is_owed, is_refused) = (true, false),
                        Ok(Heeded::Doubt) => region.doubt.notify_one(),
                        Err(error) => {
                            if !std::mem::replace(&mut is_refused, true) {
                                warn!(log = %self.extent, %error, "purges are applied but not yet durable; they are not reported");
                            }
                            region.doubt.notify_one();
                        }
                    }
                }
            }
            if is_owed && reports.len() < pace::reports_max(last) {
                reports.push(self.report(region));
                is_owed = false;
            }
        }
    }

    /// Applies records that were said to have been appended, if they are what follows.
    ///
    /// # Errors
    /// [`Error::Journal`]: they are applied, and not durable.
    async fn take_notice(&self, region: &Region, words: Vec<Word>) -> Result<Heeded, Error> {
        let mut writing = self.writing.lock().await;
        // While a table is being prepared for another log this is of the one that counts, which nothing of it fits.
        let at = self.state.read().table.cursor();
        let count = words.len();
        let record = |word: Word| match word {
            Word::Record(log, tied) if log == at.log => Some(tied),
            _ => None,
        };
        let told: Vec<Tied> = words.into_iter().filter_map(record).collect();
        let is_all = told.len() == count;
        let Some(entries) = notice::following(at, &told) else { return Ok(Heeded::Doubt) };
        if !entries.is_empty() {
            region.trail.lock().add(at.log, &entries);
            let records = entries.iter().filter_map(|entry| entry.record.clone()).collect();
            self.commit(&mut writing, records, |table| entries.iter().for_each(|entry| note(table, entry))).await?;
        }
        Ok(match (is_all, entries.is_empty()) {
            (false, _) => Heeded::Doubt,
            (true, true) => Heeded::Nothing,
            (true, false) => Heeded::Applied,
        })
    }

    /// Reports what is durable. The incarnation is that of what is durable, too: a table that has taken its place since is
    /// reported by the next read.
    fn report<'r>(&self, region: &'r Region) -> Reporting<'r> {
        let applied = *self.applied.borrow();
        let member = region.member(&self.node, applied, applied.position, clock::uptime());
        let sent = Instant::now();
        Box::pin(region.log.report(member, applied).map(move |reported| (reported, sent.elapsed())))
    }
}
