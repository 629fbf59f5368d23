//! Decides when a batch leaves and who is in it. Pure: it is told what happens and what time it is.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::config;

/// What one former may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerRule {
    /// Items of one batch.
    pub size_max: usize,
    /// Bytes of one batch's items; an item that is larger travels alone.
    pub bytes_max: usize,
    /// What the oldest item may wait for company while a slot is free.
    pub wait_max: Duration,
    /// Items waiting; further ones are refused.
    pub queue_max: usize,
    /// Batches under way at once.
    pub concurrency: usize,
}

impl From<config::Batch> for FormerRule {
    fn from(batch: config::Batch) -> Self {
        let config::Batch { size_max, bytes_max, wait_max, queue_max, concurrency, classes_max: _ } = batch;
        Self { size_max, bytes_max, wait_max, queue_max, concurrency }
    }
}

/// The queue of one class and what of it is under way. First come, first served, but for those of a higher priority.
#[derive(Debug)]
pub struct Former<T> {
    rule: FormerRule,
    waiting: VecDeque<Waiting<T>>,
    under_way: usize,
    /// A batch came back while items were waiting, and none has left since.
    freed: bool,
}

/// On what terms an item travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What it counts for in [`FormerRule::bytes_max`].
    pub bytes: usize,
    /// Higher ones leave first: an item is overtaken by those, in its first second.
    pub priority: u8,
    /// Bounds its wait, beside [`FormerRule::wait_max`].
    pub wait_max: Option<Duration>,
    /// Bounds the batch that it is in, beside [`FormerRule::size_max`].
    pub size_max: Option<usize>,
}

/// What has waited for so long isn't overtaken any more, so that a low priority is not a life sentence.
const OVERTAKEN_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    terms: Terms,
    since: Instant,
}

/// The queue is full; the item comes back to be refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// Send these together, oldest first, and ask again; tell [`Former::finished`] when they are back.
    Send {
        /// The batch; never empty.
        items: Vec<T>,
        /// Why now.
        why: Why,
    },
    /// Ask again then, unless something happens before.
    WaitUntil(Instant),
    /// Nothing can be done until something happens: nothing waits, or every slot is taken.
    Idle,
}

/// Why a batch leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing is under way: the model would stand idle while we wait.
    Idle,
    /// No further item fits into it, or into the queue.
    Full,
    /// A batch came back; this one has been gathering in the meantime.
    Freed,
    /// One of its members has waited long enough.
    Due,
}

impl Why {
    /// A word for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Full => "full",
            Self::Freed => "freed",
            Self::Due => "due",
        }
    }
}

impl<T> Former<T> {
    /// A former with an empty queue.
    #[must_use]
    pub fn new(rule: FormerRule) -> Self {
        // A zero would keep items waiting for ever.
        let rule = FormerRule { size_max: rule.size_max.max(1), concurrency: rule.concurrency.max(1), ..rule };
        Self { rule, waiting: VecDeque::new(), under_way: 0, freed: false }
    }

    /// An item arrived; its wait counts from `now`.
    ///
    /// # Errors
    /// [`Full`] with the item, if `queue_max` others are waiting.
    pub fn arrive(&mut self, item: T, terms: Terms, now: Instant) -> Result<(), Full<T>> {
        if self.is_full() {
            return Err(Full(item));
        }
        let overtaken = |ahead: &&Waiting<T>| {
            ahead.terms.priority < terms.priority && now.saturating_duration_since(ahead.since) < OVERTAKEN_MAX
        };
        let place = self.waiting.len() - self.waiting.iter().rev().take_while(overtaken).count();
        self.waiting.insert(place, Waiting { item, terms, since: now });
        Ok(())
    }

    /// A batch came back: its slot is free.
    pub fn finished(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.freed = !self.waiting.is_empty();
    }

    /// What to do now. Call it after anything happened, until it no longer says [`Step::Send`]. An item that `keep`
    /// is false for is dropped instead of sent; the decision is then made anew without it.
    pub fn next(&mut self, now: Instant, mut keep: impl FnMut(&T) -> bool) -> Step<T> {
        loop {
            let load = self.load();
            let why = match decide(&self.outlook(load, now)) {
                Verdict::Send(why) => why,
                Verdict::WaitUntil(time) => return Step::WaitUntil(time),
                Verdict::Idle => return Step::Idle,
            };
            if self.drop_gone(load.items, &mut keep) == 0 {
                self.under_way += 1;
                self.freed = false;
                let items = self.waiting.drain(..load.items).map(|waiting| waiting.item).collect();
                return Step::Send { items, why };
            }
        }
    }

    /// Drops every waiting item that `keep` is false for, and says how many they were.
    pub fn sweep(&mut self, keep: impl FnMut(&T) -> bool) -> usize {
        self.drop_gone(self.waiting.len(), keep)
    }

    /// Would another item be refused?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= self.rule.queue_max
    }

    /// Is nothing waiting and nothing under way?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0
    }

    /// The batch that would leave now.
    fn load(&self) -> Load {
        let (mut items, mut bytes, mut size_max) = (0, 0_usize, self.rule.size_max);
        // Of those that wait as long as all may, the oldest is due first; the others have their own time.
        let (mut oldest, mut hasty): (Option<Instant>, Option<Instant>) = (None, None);
        for waiting in self.waiting.iter().take(self.rule.size_max) {
            let sum = bytes.saturating_add(waiting.terms.bytes);
            let narrowed = waiting.terms.size_max.map_or(size_max, |own| size_max.min(own.max(1)));
            // The first one goes in any case: larger than a batch may be, it travels alone.
            if items > 0 && (sum > self.rule.bytes_max || items + 1 > narrowed) {
                break;
            }
            match waiting.terms.wait_max {
                None => oldest = Some(oldest.map_or(waiting.since, |oldest| oldest.min(waiting.since))),
                Some(own) => {
                    let due = waiting.since + own.min(self.rule.wait_max);
                    hasty = Some(hasty.map_or(due, |hasty| hasty.min(due)));
                }
            }
            (items, bytes, size_max) = (items + 1, sum, narrowed);
        }
        let due = oldest.map(|oldest| oldest + self.rule.wait_max).into_iter().chain(hasty).min();
        let full = items == size_max || items < self.waiting.len() || bytes >= self.rule.bytes_max;
        Load { items, due, full: full || self.is_full() }
    }

    fn outlook(&self, load: Load, now: Instant) -> Outlook {
        Outlook {
            due: load.due,
            full: load.full,
            freed: self.freed,
            under_way: self.under_way,
            concurrency: self.rule.concurrency,
            now,
        }
    }

    /// Drops those of the first `count` items that `keep` is false for.
    fn drop_gone(&mut self, count: usize, mut keep: impl FnMut(&T) -> bool) -> usize {
        let (mut at, mut end) = (0, count);
        while at < end {
            match self.waiting.get(at) {
                Some(waiting) if keep(&waiting.item) => at += 1,
                _ => {
                    self.waiting.remove(at);
                    end -= 1;
                }
            }
        }
        count - end
    }
}

/// The items at the head of the queue that fit into one batch.
#[derive(Clone, Copy)]
struct Load {
    items: usize,
    /// When the first of them has waited long enough; `None` if nothing waits.
    due: Option<Instant>,
    full: bool,
}

/// All that the decision looks at.
struct Outlook {
    /// When the first item has waited long enough; `None` if nothing waits.
    due: Option<Instant>,
    /// Waiting longer can't make the batch larger.
    full: bool,
    /// A batch came back while these were gathering.
    freed: bool,
    under_way: usize,
    concurrency: usize,
    now: Instant,
}

enum Verdict {
    Send(Why),
    WaitUntil(Instant),
    Idle,
}

/// The rule. With nothing under way waiting can't pay: the model would do nothing meanwhile. With something under way
/// items gather at no cost until the model is free again, so the model's own pace makes the batches.
fn decide(outlook: &Outlook) -> Verdict {
    let Some(due) = outlook.due else { return Verdict::Idle };
    if outlook.under_way >= outlook.concurrency {
        return Verdict::Idle;
    }
    match outlook {
        Outlook { full: true, .. } => Verdict::Send(Why::Full),
        Outlook { under_way: 0, .. } => Verdict::Send(Why::Idle),
        Outlook { freed: true, .. } => Verdict::Send(Why::Freed),
        Outlook { now, .. } if *now >= due => Verdict::Send(Why::Due),
        _ => Verdict::WaitUntil(due),
    }
}

#[cfg(test)]
mod tests;
