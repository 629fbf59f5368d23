//! Invalidations that the log has yet to take: one for a tag, however often it is asked for. Those that it doesn't take
//! soon are to be kept on disk as well.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::{
    cache::tag::Tag,
    clock::{self, Uptime},
};

/// Invalidations taken by one append.
const BATCH: usize = 512;

/// How long the log may take before an invalidation is kept on disk as well: longer than a log in good health needs, so
/// that it costs no write then, and short enough for the disk to have it before the client's response is due.
pub const HOLD_AFTER: Duration = Duration::from_millis(75);

/// A bounded queue of invalidations.
#[derive(Debug)]
pub struct Pending {
    queue: Mutex<Queue>,
    news: Notify,
    /// Something may be for the disk.
    changed: Notify,
    /// Serialises changes of what the disk has.
    writing: Mutex<()>,
    /// All invalidations up to this number have been taken by the log, or are on disk.
    safe: watch::Sender<u64>,
    tags_max: usize,
}

#[derive(Debug)]
struct Queue {
    /// By the number of the first of its tag, so that the oldest go first.
    order: BTreeMap<u64, Tag>,
    tags: HashMap<Tag, Numbers>,
    /// Taken out, and neither done nor put back.
    under_way: HashMap<Tag, Numbers>,
    /// The number of the last invalidation, whether or not there was room for it.
    last: u64,
    /// Invalidations for which there was no room, and how many of them have been made up for.
    turned_away: u64,
    made_up: u64,
    disk: Disk,
}

/// What the disk has of the queue.
#[derive(Debug)]
struct Disk {
    /// How long the log may take before the disk is to have an invalidation as well.
    patience: Duration,
    held: HashSet<Tag>,
    /// Still on disk, but not waiting any more.
    released: Vec<Tag>,
    overflowed: bool,
    /// Something that isn't known to be on disk has waited since then.
    since: Option<Uptime>,
    /// The log didn't take the last batch.
    failing: bool,
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

/// What became of an invalidation that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It waits.
    Queued,
    /// One of the same tag waited already, and stands for both.
    Joined,
    /// There was no room: see [`Pending::overflow`].
    TurnedAway,
}

/// What the disk has yet to learn of the queue.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Tags that it is to keep from now on.
    pub hold: Vec<Tag>,
    /// Tags that it needn't keep any more, unless they are among `hold`.
    pub release: Vec<Tag>,
    /// Whether invalidations were turned away that have yet to be made up for.
    pub overflowed: bool,
    /// Nothing of this is news to the disk.
    pub(super) is_empty: bool,
    /// With this on disk all invalidations up to this number are safe.
    pub(super) upto: u64,
}

impl Invalidation {
    /// The number that this node gave to the last one of its tag.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.numbers.last
    }
}

impl Pending {
    /// An empty queue for at most so many tags, of which the disk is to have what the log doesn't take within `patience`.
    #[must_use]
    pub fn new(tags_max: usize, patience: Duration) -> Self {
        Self {
            queue: Mutex::new(Queue::new(patience)),
            news: Notify::new(),
            changed: Notify::new(),
            writing: Mutex::default(),
            safe: watch::Sender::new(0),
            tags_max,
        }
    }

    /// Adds an invalidation.
    pub fn add(&self, tag: Tag, number: u64) -> Added {
        let numbers = Numbers { first: number, last: number };
        let added = self.queue.lock().add(tag, numbers, self.tags_max, clock::uptime());
        self.notify();
        added
    }

    /// Adds an invalidation that is on disk, from the process before.
    pub fn restore(&self, tag: Tag, number: u64) {
        let numbers = Numbers { first: number, last: number };
        let mut queue = self.queue.lock();
        match queue.add(tag, numbers, self.tags_max, clock::uptime()) {
            Added::Queued | Added::Joined => {
                queue.disk.held.insert(tag);
            }
            // The mark that there were too many takes its place.
            Added::TurnedAway => queue.disk.released.push(tag),
        }
    }

    /// Notes that the process before turned invalidations away, as the disk says.
    pub fn restore_overflow(&self) {
        let mut queue = self.queue.lock();
        queue.turned_away += 1;
        queue.disk.overflowed = true;
    }

    /// Notes that another process turned invalidations away.
    pub fn overflowed(&self) {
        self.queue.lock().turned_away += 1;
        self.notify();
    }

    /// Waits until the log has taken the invalidation of this number, or it is on disk.
    pub async fn safe(&self, number: u64) {
        // The sender lives as long as this.
        let _ = self.safe.subscribe().wait_for(|safe| *safe >= number).await;
    }

    /// Waits for invalidations, and takes the oldest out. None are taken out if only an overflow is to be made up for.
    pub async fn next(&self) -> Vec<Invalidation> {
        loop {
            let batch = self.take();
            if !batch.is_empty() || self.overflow().is_some() {
                return batch;
            }
            self.news.notified().await;
        }
    }

    /// Takes the oldest out, if there are any.
    pub fn take(&self) -> Vec<Invalidation> {
        self.queue.lock().pop()
    }

    /// Notes that the log has taken what was taken out last. Unless that is `safe` now, the disk keeps what it has of it.
    pub fn done(&self, safe: bool) {
        let all = self.queue.lock().done(safe, clock::uptime());
        if safe {
            self.advance(all);
        }
        self.changed.notify_one();
    }

    /// Puts what was taken out last back in its places: the log hasn't taken it, or nobody knows whether it has.
    pub fn put_back(&self) {
        let now = clock::uptime();
        let mut queue = self.queue.lock();
        queue.disk.failing = true;
        for (tag, numbers) in std::mem::take(&mut queue.under_way) {
            queue.add(tag, numbers, usize::MAX, now);
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Adds invalidations again that the log has lost.
    pub fn again(&self, batch: &[Invalidation]) {
        let now = clock::uptime();
        let mut queue = self.queue.lock();
        for Invalidation { tag, numbers } in batch {
            queue.add(*tag, *numbers, usize::MAX, now);
        }
        drop(queue);
        self.notify();
    }

    /// How many tags wait, and how many of them are on disk.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        let again = queue.under_way.keys().filter(|tag| queue.tags.contains_key(*tag)).count();
        (queue.tags.len() + queue.under_way.len() - again, queue.disk.held.len())
    }

    /// Whether the log has taken everything, and everything that was turned away has been made up for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        queue.tags.is_empty() && queue.under_way.is_empty() && !queue.has_overflowed()
    }

    /// How many invalidations have been turned away so far; `None` if all of these have been made up for.
    #[must_use]
    pub fn overflow(&self) -> Option<u64> {
        let queue = self.queue.lock();
        queue.has_overflowed().then_some(queue.turned_away)
    }

    /// Notes that the first so many that were turned away have been made up for.
    pub fn make_up(&self, turned_away: u64) {
        let mut queue = self.queue.lock();
        queue.made_up = queue.made_up.max(turned_away);
        drop(queue);
        self.changed.notify_one();
    }

    /// Waits until there is something to be written to disk.
    pub async fn overdue(&self) {
        loop {
            let wait = self.queue.lock().due(clock::uptime());
            match wait {
                Some(time) if time.is_zero() => return,
                Some(time) => {
                    // Whichever comes first, it is looked at anew.
                    let _ = timeout(time, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Whether the disk is up to date, and whatever waits is on it.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        // In this order: what is being written is no news any more.
        let has_news = self.queue.lock().due(clock::uptime()).is_some();
        !has_news && !self.writing.is_locked()
    }

    /// Brings the disk up to date by `write`; with `all`, even of what hasn't waited for long.
    ///
    /// # Errors
    /// Those of `write`, after which the change has yet to be written.
    pub fn write_down<E>(&self, all: bool, write: impl FnOnce(&Change) -> Result<(), E>) -> Result<(), E> {
        let _one_at_a_time = self.writing.lock();
        let change = self.queue.lock().change(all, clock::uptime());
        if !change.is_empty
            && let Err(error) = write(&change)
        {
            self.queue.lock().undo(change, clock::uptime());
            return Err(error);
        }
        self.queue.lock().apply(&change);
        self.advance(change.upto);
        Ok(())
    }

    fn notify(&self) {
        self.news.notify_one();
        self.changed.notify_one();
    }

    fn advance(&self, safe: u64) {
        self.safe.send_if_modified(|known| {
            let is_news = safe > *known;
            *known = safe.max(*known);
            is_news
        });
    }
}

impl Queue {
    fn new(patience: Duration) -> Self {
        Self {
            order: BTreeMap::new(),
            tags: HashMap::new(),
            under_way: HashMap::new(),
            last: 0,
            turned_away: 0,
            made_up: 0,
            disk: Disk {
                patience,
                held: HashSet::new(),
                released: Vec::new(),
                overflowed: false,
                since: None,
                failing: false,
            },
        }
    }

    fn add(&mut self, tag: Tag, numbers: Numbers, tags_max: usize, now: Uptime) -> Added {
        self.last = self.last.max(numbers.last);
        // Also if the disk has its tag, or there is no room: then a change with nothing in it shows that it's safe.
        self.disk.since.get_or_insert(now);
        let known = self.tags.get(&tag).copied();
        if known.is_none() && self.tags.len() >= tags_max {
            self.turned_away += 1;
            return Added::TurnedAway;
        }
        let Numbers { first, last } = known.map_or(numbers, |known| Numbers {
            first: known.first.min(numbers.first),
            last: known.last.max(numbers.last),
        });
        if let Some(known) = self.tags.insert(tag, Numbers { first, last }) {
            self.order.remove(&known.first);
        }
        self.order.insert(first, tag);
        if known.is_some() { Added::Joined } else { Added::Queued }
    }

    fn pop(&mut self) -> Vec<Invalidation> {
        let mut batch = Vec::with_capacity(self.order.len().min(BATCH));
        while batch.len() < BATCH
            && let Some((_, tag)) = self.order.pop_first()
        {
            batch.extend(self.tags.remove(&tag).map(|numbers| Invalidation { tag, numbers }));
        }
        self.under_way.extend(batch.iter().map(|one| (one.tag, one.numbers)));
        batch
    }

    /// Returns the number up to which all have been taken.
    fn done(&mut self, safe: bool, now: Uptime) -> u64 {
        let batch = std::mem::take(&mut self.under_way);
        for tag in batch.keys() {
            if safe && !self.tags.contains_key(tag) && self.disk.held.remove(tag) {
                self.disk.released.push(*tag);
            }
        }
        self.disk.failing = false;
        // Those that are left came while the log took the others, or a moment before.
        self.disk.since = (!self.tags.is_empty()).then_some(now);
        let last = batch.values().map(|numbers| numbers.last).max().unwrap_or(0);
        // What came later than one that still waits may have been taken before it.
        self.order.keys().next().map_or(last, |left| left.saturating_sub(1).min(last))
    }

    const fn has_overflowed(&self) -> bool {
        self.turned_away > self.made_up
    }

    /// How long until there is something to be written to disk; `None` if there is nothing.
    fn due(&self, now: Uptime) -> Option<Duration> {
        if !self.disk.released.is_empty() || self.disk.overflowed != self.has_overflowed() {
            return Some(Duration::ZERO);
        }
        self.disk.since.map(|since| self.patience().saturating_sub(now.since(since)))
    }

    const fn patience(&self) -> Duration {
        if self.disk.failing { Duration::ZERO } else { self.disk.patience }
    }

    fn change(&mut self, all: bool, now: Uptime) -> Change {
        let overflowed = self.has_overflowed();
        let release = std::mem::take(&mut self.disk.released);
        let waited = self.disk.since.is_some_and(|since| now.since(since) >= self.patience());
        let (mut hold, mut upto): (Vec<Tag>, u64) = (Vec::new(), 0);
        if all || waited {
            self.disk.since = None;
            let under_way = self.under_way.keys().filter(|tag| !self.tags.contains_key(*tag));
            let waiting = self.tags.keys().chain(under_way);
            hold.extend(waiting.filter(|tag| !self.disk.held.contains(*tag)));
            upto = self.last;
        }
        let is_empty = hold.is_empty() && release.is_empty() && overflowed == self.disk.overflowed;
        Change { hold, release, overflowed, is_empty, upto }
    }

    fn apply(&mut self, change: &Change) {
        self.disk.overflowed = change.overflowed;
        for tag in &change.hold {
            if self.tags.contains_key(tag) || self.under_way.contains_key(tag) {
                self.disk.held.insert(*tag);
            } else {
                // The log has taken it meanwhile.
                self.disk.released.push(*tag);
            }
        }
    }

    fn undo(&mut self, change: Change, now: Uptime) {
        self.disk.released.extend(change.release);
        if change.upto > 0 {
            self.disk.since.get_or_insert(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: u8) -> Tag {
        Tag::named(&[name])
    }

    /// Whether the invalidation of this number is safe.
    async fn is_safe(pending: &Pending, number: u64) -> bool {
        timeout(Duration::from_millis(1), pending.safe(number)).await.is_ok()
    }

    /// Brings a disk up to date, and returns what was new to it; empty if nothing was.
    fn written(pending: &Pending, disk: &mut HashSet<Tag>) -> Change {
        let mut written = Change { is_empty: true, ..Change::default() };
        let write = |change: &Change| {
            change.release.iter().for_each(|tag| assert!(disk.remove(tag), "only what is there is released"));
            disk.extend(&change.hold);
            written = change.clone();
            Ok::<(), ()>(())
        };
        pending.write_down(false, write).unwrap();
        written
    }

    #[tokio::test]
    async fn one_append_serves_all_who_ask_for_the_same() {
        let pending = Pending::new(10, HOLD_AFTER);
        for (name, number, added) in [(1, 1, Added::Queued), (2, 2, Added::Queued), (1, 3, Added::Joined)] {
            assert_eq!(pending.add(tag(name), number), added);
        }
        let batch = pending.next().await;
        let tags: Vec<_> = batch.iter().map(|one| (one.tag, one.number())).collect();
        assert_eq!(tags, [(tag(1), 3), (tag(2), 2)]);
        pending.put_back();
        assert!(!is_safe(&pending, 1).await);
        assert_eq!(pending.count(), (2, 0));
        pending.next().await;
        pending.done(true);
        assert!(is_safe(&pending, 3).await);
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_remembers_that_it_was_full_until_that_is_made_up_for() {
        let pending = Pending::new(1, HOLD_AFTER);
        let added = [(1, 1), (1, 2), (2, 3)].map(|(name, number)| pending.add(tag(name), number));
        assert_eq!(added, [Added::Queued, Added::Joined, Added::TurnedAway]);
        assert_eq!(pending.overflow(), Some(1));
        assert_eq!(pending.next().await.len(), 1);
        pending.done(true);
        assert_eq!(pending.next().await.len(), 0, "there is something to be done although nothing waits");
        assert_eq!((pending.add(tag(2), 4), pending.add(tag(3), 5)), (Added::Queued, Added::TurnedAway));
        pending.make_up(1);
        assert_eq!(pending.overflow(), Some(2), "another was turned away meanwhile");
        pending.make_up(2);
        assert_eq!(pending.overflow(), None);
    }

    #[test]
    fn what_the_log_takes_in_time_is_not_for_the_disk() {
        let mut queue = Queue::new(HOLD_AFTER);
        assert_eq!(queue.due(Uptime(1_000)), None);
        queue.add(tag(1), Numbers { first: 1, last: 1 }, 10, Uptime(1_000));
        assert_eq!(queue.due(Uptime(1_000)), Some(HOLD_AFTER));
        assert!(queue.change(false, Uptime(1_074)).is_empty);
        assert_eq!(queue.pop().len(), 1);
        assert_eq!(queue.done(true, Uptime(1_074)), 1);
        assert_eq!(queue.due(Uptime(9_000)), None);
        assert!(queue.change(false, Uptime(9_000)).is_empty);
        queue.add(tag(2), Numbers { first: 2, last: 2 }, 10, Uptime(9_000));
        assert_eq!(queue.due(Uptime(9_075)), Some(Duration::ZERO));
        let change = queue.change(false, Uptime(9_075));
        assert_eq!((change.hold, change.upto), (vec![tag(2)], 2));
    }

    #[tokio::test]
    async fn what_the_log_does_not_take_is_on_disk_until_it_does() {
        let (pending, mut disk) = (Pending::new(10, HOLD_AFTER), HashSet::new());
        pending.add(tag(1), 1);
        pending.next().await;
        pending.put_back();
        pending.overdue().await;
        let refused = pending.write_down(false, |_| Err("no space"));
        assert!(refused.is_err() && !pending.is_kept() && !is_safe(&pending, 1).await);
        assert_eq!(written(&pending, &mut disk).hold, [tag(1)]);
        assert!(is_safe(&pending, 1).await && pending.is_kept());
        pending.add(tag(1), 2);
        assert!(written(&pending, &mut disk).is_empty, "the disk has its tag already");
        assert!(is_safe(&pending, 2).await);
        pending.next().await;
        pending.add(tag(1), 3);
        pending.done(true);
        assert!(written(&pending, &mut disk).release.is_empty(), "there is another of its tag");
        pending.next().await;
        pending.done(true);
        assert_eq!(written(&pending, &mut disk).release, [tag(1)]);
        assert!(disk.is_empty());
    }

    #[tokio::test]
    async fn what_is_taken_while_it_is_written_does_not_stay_on_disk() {
        let (pending, mut disk) = (Pending::new(10, HOLD_AFTER), HashSet::new());
        pending.add(tag(1), 1);
        pending.next().await;
        let write = |change: &Change| {
            disk.extend(&change.hold);
            pending.done(true);
            Ok::<(), ()>(())
        };
        pending.write_down(true, write).unwrap();
        assert_eq!(pending.count(), (0, 0));
        assert_eq!(written(&pending, &mut disk).release, [tag(1)]);
    }

    #[tokio::test]
    async fn what_the_log_took_is_safe_only_with_the_note_that_it_did() {
        let (pending, mut disk) = (Pending::new(10, HOLD_AFTER), HashSet::from([tag(1)]));
        pending.restore(tag(1), 1);
        pending.add(tag(2), 2);
        assert_eq!(pending.next().await.len(), 2);
        pending.done(false);
        assert!(!is_safe(&pending, 2).await);
        assert!(written(&pending, &mut disk).release.is_empty() && disk.contains(&tag(1)));
        pending.add(tag(1), 3);
        pending.next().await;
        pending.done(true);
        assert!(is_safe(&pending, 3).await);
        assert_eq!(written(&pending, &mut disk).release, [tag(1)]);
    }

    #[tokio::test]
    async fn what_the_process_before_left_waits_on() {
        let (pending, mut disk) = (Pending::new(1, HOLD_AFTER), HashSet::from([tag(1), tag(2)]));
        pending.restore(tag(1), 1);
        pending.restore(tag(2), 2);
        assert!(pending.overflow().is_some(), "less may wait than did");
        let change = written(&pending, &mut disk);
        assert_eq!((change.release, change.overflowed), (vec![tag(2)], true));
        assert_eq!(pending.next().await.len(), 1);
        pending.done(true);
        pending.make_up(1);
        let change = written(&pending, &mut disk);
        assert_eq!((change.release, change.overflowed), (vec![tag(1)], false));
    }
}
