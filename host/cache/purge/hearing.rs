//! Hearing what a log's members report while a purge of this node waits for them.
//!
//! Each member reports at least once a second, so all of them would hear as many words as there are pairs of members. Only
//! a node that purges listens: from before its purge is appended until a while after the last one is done.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    heard::Heard,
    log::{Appended, Log, Member, RETRY, Word, Words},
};

/// How long it goes on after the last purge: to begin takes a round trip, and purges come in groups.
const LINGER: Duration = Duration::from_secs(1);

/// What this node hears of its log.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    heard: Mutex<Heard>,
    /// Counts what was heard, so that those who wait look again.
    news: watch::Sender<u64>,
    /// Purges that wait.
    listeners: AtomicUsize,
    /// One has come.
    begins: Notify,
}

/// A purge for which is listened, until it is dropped.
#[derive(Debug)]
pub(super) struct Listening<'h>(&'h Hearing);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hearing {
    /// Has the log listened to. To be called before a purge is appended, so that its record is heard as well.
    pub(super) fn listen(&self) -> Listening<'_> {
        self.listeners.fetch_add(1, Ordering::Relaxed);
        self.begins.notify_one();
        Listening(self)
    }

    /// Returns what changes whenever something was heard.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Whether what members report of a purge is heard.
    pub(super) fn has(&self, purge: &Appended) -> bool {
        self.heard.lock().has(purge)
    }

    /// How often something was heard that only a look at the list tells the meaning of.
    pub(super) fn changes(&self) -> u64 {
        self.heard.lock().changes()
    }

    /// Notes in a list of members, which was read after the purge was appended, who has reported since to have applied it.
    pub(super) fn note(&self, purge: &Appended, members: &mut [Member]) {
        self.heard.lock().note(purge, members);
    }

    /// Listens whenever a purge waits. Never ends.
    pub(super) async fn run(&self, log: &dyn Log) {
        loop {
            self.begins.notified().await;
            if self.listeners.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let Some(words) = log.reports() else { return std::future::pending().await };
            self.hear(words).await;
            self.take(None);
            if self.listeners.load(Ordering::Relaxed) > 0 {
                // It broke off. Those that wait ask meanwhile.
                sleep(RETRY).await;
                self.begins.notify_one();
            }
        }
    }

    /// Listens until the log says nothing more, or nobody has waited for a while.
    async fn hear(&self, mut words: Words<'_>) {
        let mut idle: Option<Instant> = None;
        loop {
            match timeout(LINGER, words.next()).await {
                Ok(Some(Ok(words))) => self.take(Some(words)),
                Ok(Some(Err(_)) | None) => return,
                Err(_) => {}
            }
            if self.listeners.load(Ordering::Relaxed) > 0 {
                idle = None;
            } else if idle.get_or_insert_with(Instant::now).elapsed() >= LINGER {
                return;
            }
        }
    }

    /// Takes words in, or that some may have been missed.
    fn take(&self, words: Option<Vec<Word>>) {
        {
            let mut heard = self.heard.lock();
            match words {
                Some(words) => words.into_iter().for_each(|word| heard.take(word)),
                None => heard.forget(),
            }
        }
        self.news.send_modify(|count| *count += 1);
    }
}
