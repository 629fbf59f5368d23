//! What etcd says of a log by itself: watches of its keys.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, timeout};

use super::{End, EtcdLog, notices, unreachable};
use crate::{
    cache::purge::{
        Error,
        log::{Tied, Word, Words},
        table::Cursor,
    },
    etcd::{Event, Watch, Watched},
};

impl EtcdLog {
    /// Waits for a record after `from`, or for anything else that is to be read.
    pub(super) async fn wait(&self, from: Cursor, time: Duration) -> Result<(), Error> {
        let mut words = self.words(self.keys.watched(), self.followed.load(Ordering::Relaxed) + 1);
        let is_news = |word: &Word| match word {
            Word::Record(log, tied) => *log != from.log || tied.entry.position > from.position,
            Word::Report(_) | Word::Change => true,
        };
        let news = async {
            while let Some(words) = words.next().await {
                if words?.iter().any(is_news) {
                    break;
                }
            }
            Ok::<_, Error>(())
        };
        timeout(time, news).await.unwrap_or(Ok(()))
    }

    /// Watches a range of keys from a revision on, 0 for the present one: first nothing, when the watch is open. From the
    /// present on a server tells at once; what it has to look up first it tells up to 100 ms later.
    pub(super) fn words(&self, (first, last): (Bytes, Bytes), from: i64) -> Words<'_> {
        let words = stream::try_unfold(None, move |open: Option<Watch>| {
            let (first, last) = (first.clone(), last.clone());
            async move {
                let Some(mut watch) = open else {
                    let watch = self.etcd.watch_range(first, last, from).await.map_err(unreachable)?;
                    return Ok(Some((Vec::new(), Some(watch))));
                };
                let words = match watch.next().await.map_err(unreachable)? {
                    Watched::Events { events, .. } => self.told(events),
                    Watched::Progress { .. } => Vec::new(),
                    Watched::Compacted { revision } => {
                        return Err(Error::Log(format!("what was before revision {revision} is compacted")));
                    }
                };
                Ok::<_, Error>(Some((words, Some(watch))))
            }
        });
        Box::pin(words)
    }

    /// Takes in what a watch has brought, and returns it as words. Each record is where the next append is to follow.
    fn told(&self, events: Vec<Event>) -> Vec<Word> {
        let late = self.keys.late();
        for text in events.iter().filter(|event| event.key == late).filter_map(|event| event.value.as_ref()) {
            self.turns.lock().call(text, Instant::now());
        }
        let words = notices::words(&self.keys, events);
        for word in &words {
            if let Word::Record(log, Tied { entry, .. }) = word {
                self.turns.lock().appended(entry.link);
                let told = End { log: *log, position: entry.position, link: entry.link };
                let is_later =
                    |end: End| told.log.is_after(end.log) || told.log == end.log && told.position > end.position;
                let mut end = self.end.lock();
                if end.is_none_or(is_later) {
                    *end = Some(told);
                }
            }
        }
        words
    }
}
