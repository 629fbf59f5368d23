//! Invalidations that the log has yet to take: one for a tag, however often it is asked for.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::cache::tag::Tag;

/// Invalidations taken by one append.
const BATCH: usize = 512;

/// A bounded queue of invalidations.
#[derive(Debug)]
pub struct Pending {
    queue: Mutex<Queue>,
    news: Notify,
    /// All invalidations up to this number have been taken by the log.
    taken: watch::Sender<u64>,
    tags_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    /// By the number of the first of its tag, so that the oldest go first.
    order: BTreeMap<u64, Tag>,
    tags: HashMap<Tag, Numbers>,
    /// Taken out, and neither done nor put back.
    under_way: Vec<Invalidation>,
    overflowed: bool,
}

/// The first and the last invalidation of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    first: u64,
    last: u64,
}

/// An invalidation on its way into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidation {
    /// What it invalidates.
    pub tag: Tag,
    numbers: Numbers,
}

impl Invalidation {
    /// The number that this node gave to the last one of its tag.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.numbers.last
    }
}

impl Pending {
    /// An empty queue for at most so many tags.
    #[must_use]
    pub fn new(tags_max: usize) -> Self {
        Self { queue: Mutex::default(), news: Notify::new(), taken: watch::Sender::new(0), tags_max }
    }

    /// Adds an invalidation. `false` if there is no room: see [`Pending::take_overflow`].
    pub fn add(&self, tag: Tag, number: u64) -> bool {
        let added = self.queue.lock().add(tag, Numbers { first: number, last: number }, self.tags_max);
        self.news.notify_one();
        added
    }

    /// Waits until the log has taken the invalidation of this number.
    pub async fn taken(&self, number: u64) {
        // The sender lives as long as this.
        let _ = self.taken.subscribe().wait_for(|taken| *taken >= number).await;
    }

    /// Waits for invalidations, and takes the oldest out.
    pub async fn next(&self) -> Vec<Invalidation> {
        loop {
            let batch = self.take();
            if !batch.is_empty() {
                return batch;
            }
            self.news.notified().await;
        }
    }

    /// Takes the oldest out, if there are any.
    pub fn take(&self) -> Vec<Invalidation> {
        self.queue.lock().pop()
    }

    /// Notes that the log has taken what was taken out last.
    pub fn done(&self) {
        let (batch, left) = {
            let mut queue = self.queue.lock();
            let left = queue.order.keys().next().copied();
            (std::mem::take(&mut queue.under_way), left)
        };
        let last = batch.iter().map(Invalidation::number).max().unwrap_or(0);
        // What came later than one that still waits may have been taken before it.
        let all = left.map_or(last, |left| left.saturating_sub(1).min(last));
        self.taken.send_modify(|taken| *taken = all.max(*taken));
    }

    /// Puts what was taken out last back in its places: the log hasn't taken it, or nobody knows whether it has.
    pub fn put_back(&self) {
        let mut queue = self.queue.lock();
        for Invalidation { tag, numbers } in std::mem::take(&mut queue.under_way) {
            queue.add(tag, numbers, usize::MAX);
        }
    }

    /// Adds invalidations again that the log has lost.
    pub fn again(&self, batch: &[Invalidation]) {
        let mut queue = self.queue.lock();
        for Invalidation { tag, numbers } in batch {
            queue.add(*tag, *numbers, usize::MAX);
        }
        drop(queue);
        self.news.notify_one();
    }

    /// How many wait.
    #[must_use]
    pub fn count(&self) -> usize {
        self.queue.lock().tags.len()
    }

    /// Whether invalidations were turned away since the last time.
    pub fn take_overflow(&self) -> bool {
        std::mem::take(&mut self.queue.lock().overflowed)
    }

    /// Notes that what was turned away has yet to be made up for.
    pub fn overflow(&self) {
        self.queue.lock().overflowed = true;
    }
}

impl Queue {
    fn add(&mut self, tag: Tag, numbers: Numbers, tags_max: usize) -> bool {
        let Numbers { first, last } = match self.tags.get(&tag) {
            Some(known) => Numbers { first: known.first.min(numbers.first), last: known.last.max(numbers.last) },
            None if self.tags.len() >= tags_max => {
                self.overflowed = true;
                return false;
            }
            None => numbers,
        };
        if let Some(known) = self.tags.insert(tag, Numbers { first, last }) {
            self.order.remove(&known.first);
        }
        self.order.insert(first, tag);
        true
    }

    fn pop(&mut self) -> Vec<Invalidation> {
        let mut batch = Vec::with_capacity(self.order.len().min(BATCH));
        while batch.len() < BATCH
            && let Some((_, tag)) = self.order.pop_first()
        {
            batch.extend(self.tags.remove(&tag).map(|numbers| Invalidation { tag, numbers }));
        }
        self.under_way.extend_from_slice(&batch);
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn tag(name: u8) -> Tag {
        Tag::named(&[name])
    }

    #[tokio::test]
    async fn one_append_serves_all_who_ask_for_the_same() {
        let pending = Pending::new(10);
        for (name, number) in [(1, 1), (2, 2), (1, 3)] {
            assert!(pending.add(tag(name), number));
        }
        let batch = pending.next().await;
        let tags: Vec<_> = batch.iter().map(|one| (one.tag, one.number())).collect();
        assert_eq!(tags, [(tag(1), 3), (tag(2), 2)]);
        pending.put_back();
        assert!(timeout(Duration::from_millis(1), pending.taken(1)).await.is_err());
        pending.next().await;
        pending.done();
        pending.taken(2).await;
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_says_when_it_was_full() {
        let pending = Pending::new(1);
        assert!(pending.add(tag(1), 1) && pending.add(tag(1), 2) && !pending.add(tag(2), 3));
        assert!(pending.take_overflow() && !pending.take_overflow());
        assert_eq!(pending.next().await.len(), 1);
        assert!(pending.add(tag(2), 4));
    }
}
