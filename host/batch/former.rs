//! The queue of one class: which items share a batch, and in which order. Pure: events and the time are its arguments.
//! Whether there is a slot for a batch is decided by the pool's `scheduler`, and when it is sent by its pace.

use std::time::{Duration, Instant};

use super::{
    line::{Entry, Line},
    pace::{Outlook, Pace, Verdict, Why},
};

/// A full queue is searched for items that no request waits for at most this often.
const SWEEP_EVERY: Duration = Duration::from_millis(10);

/// The limits of one former.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerRule {
    /// Items of one batch.
    pub size_max: usize,
    /// Bytes of one batch's items; an item that is larger is sent alone.
    pub bytes_max: usize,
    /// How long the oldest item may wait for others while a slot is free.
    pub wait_max: Duration,
    /// Items waiting; further ones are refused.
    pub queue_max: usize,
}

/// The queue of one class and how many batches of it are under way. First come, first served, but for those of a higher
/// priority.
#[derive(Debug)]
pub struct Former<T> {
    rule: FormerRule,
    waiting: Line<Waiting<T>>,
    under_way: usize,
    swept: Option<Instant>,
}

/// The terms on which an item is batched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What it counts for in [`FormerRule::bytes_max`].
    pub bytes: usize,
    /// Higher ones are sent first: an item is overtaken by those, in its first second.
    pub priority: u8,
    /// Bounds its wait, beside [`FormerRule::wait_max`].
    pub wait_max: Option<Duration>,
    /// Bounds the batch that it is in, beside [`FormerRule::size_max`].
    pub size_max: Option<usize>,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    terms: Terms,
}

/// The queue is full; the item comes back to be refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// What to do with a slot that is free.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// Send these together, in this order; call [`Former::finished`] when they are back.
    Send {
        /// The batch; never empty.
        items: Vec<T>,
        /// Why now.
        why: Why,
    },
    /// Decide again then, unless something happens before.
    WaitUntil(Instant),
    /// Nothing waits.
    Idle,
}

impl<T> Former<T> {
    /// Returns a former with an empty queue.
    #[must_use]
    pub fn new(rule: FormerRule) -> Self {
        // A zero would keep items waiting for ever, or out.
        let rule = FormerRule { size_max: rule.size_max.max(1), queue_max: rule.queue_max.max(1), ..rule };
        Self { rule, waiting: Line::new(), under_way: 0, swept: None }
    }

    /// Takes an item in; its wait counts from `now`.
    ///
    /// # Errors
    /// [`Full`] with the item, if `queue_max` others are waiting.
    pub fn arrive(&mut self, item: T, terms: Terms, now: Instant) -> Result<(), Full<T>> {
        if self.is_full() {
            return Err(Full(item));
        }
        self.waiting.join(Waiting { item, terms }, terms.priority, now);
        Ok(())
    }

    /// Notes that a batch of this class came back.
    pub fn finished(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Returns what to do with a slot that is free now; `freed` says whether a batch of the pool came back since one
    /// was sent. An item that `keep` is false for is dropped instead of sent; the decision is then made anew without
    /// it.
    pub fn next(&mut self, now: Instant, freed: bool, pace: &dyn Pace, mut keep: impl FnMut(&T) -> bool) -> Step<T> {
        while let Some(NextBatch { items, due, full }) = self.next_batch() {
            let outlook = Outlook { items, due, full, under_way: self.under_way, freed, now };
            let why = match pace.next(&outlook) {
                Verdict::Send(why) => why,
                Verdict::WaitUntil(time) if time.min(due) > now => return Step::WaitUntil(time.min(due)),
                Verdict::WaitUntil(_) => Why::Due,
            };
            if self.drop_gone(items, &mut keep) == 0 {
                self.under_way += 1;
                let items = self.waiting.take(items).map(|waiting| waiting.item).collect();
                return Step::Send { items, why };
            }
        }
        Step::Idle
    }

    /// Drops what waits and `keep` is false for, if that hasn't been looked for just now: under overload it would cost
    /// the most when it helps least.
    pub fn sweep(&mut self, now: Instant, mut keep: impl FnMut(&T) -> bool) {
        if may_sweep(&mut self.swept, now) {
            self.waiting.retain(|waiting| keep(&waiting.item));
        }
    }

    /// Whether another item would be refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= self.rule.queue_max
    }

    /// Whether nothing is waiting and nothing under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0
    }

    /// Returns the highest priority in the batch that would be sent next; `None` if nothing waits.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        self.waiting.iter().take(self.rule.size_max).map(|entry| entry.priority).max()
    }

    /// Returns the batch that would be sent now; `None` if nothing waits.
    fn next_batch(&self) -> Option<NextBatch> {
        let (mut items, mut bytes, mut size_max) = (0, 0_usize, self.rule.size_max);
        let mut due: Option<Instant> = None;
        for entry in self.waiting.iter().take(self.rule.size_max) {
            let terms = entry.what.terms;
            let sum = bytes.saturating_add(terms.bytes);
            let narrowed = terms.size_max.map_or(size_max, |own| size_max.min(own.max(1)));
            // The first one goes in any case: larger than a batch may be, it is sent alone.
            if items > 0 && (sum > self.rule.bytes_max || items + 1 > narrowed) {
                break;
            }
            let own = self.due(entry);
            due = Some(due.map_or(own, |due| due.min(own)));
            (items, bytes, size_max) = (items + 1, sum, narrowed);
        }
        let full = items == size_max || items < self.waiting.len() || bytes >= self.rule.bytes_max;
        due.map(|due| NextBatch { items, due, full: full || self.is_full() })
    }

    fn due(&self, entry: &Entry<Waiting<T>>) -> Instant {
        let wait_max = self.rule.wait_max;
        entry.since + entry.what.terms.wait_max.map_or(wait_max, |own| own.min(wait_max))
    }

    /// Drops those of the first `count` items that `keep` is false for, and returns how many they were.
    fn drop_gone(&mut self, count: usize, mut keep: impl FnMut(&T) -> bool) -> usize {
        let (mut at, mut end) = (0, count);
        while at < end {
            match self.waiting.get(at) {
                Some(entry) if keep(&entry.what.item) => at += 1,
                _ => {
                    self.waiting.remove(at);
                    end -= 1;
                }
            }
        }
        count - end
    }
}

/// Whether what was swept last at `swept` is swept again; if so, that is noted.
pub(super) fn may_sweep(swept: &mut Option<Instant>, now: Instant) -> bool {
    let may = swept.is_none_or(|last| now.saturating_duration_since(last) >= SWEEP_EVERY);
    if may {
        *swept = Some(now);
    }
    may
}

/// The items at the head of the queue that fit into one batch.
#[derive(Clone, Copy)]
struct NextBatch {
    items: usize,
    /// When the first of them has waited long enough.
    due: Instant,
    /// Waiting longer can't make the batch larger.
    full: bool,
}

#[cfg(test)]
mod tests;
