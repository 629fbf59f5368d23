//! Which class of a pool gets the next free slot. Pure: events and the time are its arguments.
//!
//! The slots are the pool's. Classes in which items wait queue for them, as items queue within their class: each takes
//! a slot in its turn and then queues at the end again, so that none is kept out by another, however many items that
//! one has. A higher priority goes before what joined the line within the last second.

use std::{collections::HashMap, fmt, hash::Hash, time::Instant};

use super::{
    former::{Former, FormerRule, Full, Step, Terms, may_sweep},
    line::Line,
    pace::{Pace, Returned, Why},
};
use crate::config;

#[cfg(test)]
mod tests;

/// The limits of a pool's scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerRule {
    /// The limits of each class.
    pub former: FormerRule,
    /// Batches under way at once, of all classes together.
    pub concurrency: usize,
    /// Classes that wait or are under way at once. An item of a further one is a class of its own: it is sent alone,
    /// and at most [`FormerRule::queue_max`] of such items wait.
    pub classes_max: usize,
}

impl From<config::Batch> for SchedulerRule {
    fn from(batch: config::Batch) -> Self {
        let config::Batch { size_max, bytes_max, wait_max, queue_max, concurrency, classes_max, .. } = batch;
        Self { former: FormerRule { size_max, bytes_max, wait_max, queue_max }, concurrency, classes_max }
    }
}

/// The classes of one pool, what waits in each, and how many batches are under way. A class is known only as long as
/// something of it waits or is under way.
pub struct Scheduler<K, T> {
    rule: SchedulerRule,
    pace: Box<dyn Pace>,
    classes: HashMap<QueueId<K>, Queue<T>>,
    line: Line<QueueId<K>>,
    under_way: usize,
    /// A batch came back while items were waiting, and none was sent since.
    freed: bool,
    /// Items that wait to be sent alone, and how many there have ever been.
    alone: usize,
    numbered: u64,
    swept: Option<Instant>,
}

/// The identity of a queue: a class's, or that of a single item for which there are too many classes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueId<K> {
    /// The class.
    pub class: K,
    /// The item's number, if it is sent alone.
    alone: Option<u64>,
}

impl<K> QueueId<K> {
    /// Whether it is that of a single item.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.alone.is_some()
    }
}

/// The items that wait in a class, and the class's place in the line.
struct Queue<T> {
    former: Former<T>,
    /// The priority by which it waits in line; `None` if it doesn't.
    in_line: Option<u8>,
}

impl<T> Queue<T> {
    fn is_idle(&self) -> bool {
        self.in_line.is_none() && self.former.is_idle()
    }
}

/// A batch to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<K, T> {
    /// The queue that it is from, for [`Scheduler::finished`].
    pub queue_id: QueueId<K>,
    /// Its items; never empty.
    pub items: Vec<T>,
    /// Why it is sent now.
    pub why: Why,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<K, T> {
    /// Send this batch, and decide again; call [`Scheduler::finished`] when it is back.
    Send(Batch<K, T>),
    /// Decide again then, unless something happens before.
    WaitUntil(Instant),
    /// Nothing can be done until something happens: nothing waits, or every slot is taken.
    Idle,
}

impl<K: Clone + Eq + Hash, T> Scheduler<K, T> {
    /// Returns a scheduler that has nothing to do yet.
    #[must_use]
    pub fn new(rule: SchedulerRule, pace: Box<dyn Pace>) -> Self {
        // A zero would keep items waiting for ever.
        let rule = SchedulerRule { concurrency: rule.concurrency.max(1), ..rule };
        Self {
            rule,
            pace,
            classes: HashMap::new(),
            line: Line::new(),
            under_way: 0,
            freed: false,
            alone: 0,
            numbered: 0,
            swept: None,
        }
    }

    /// Takes an item in; its wait counts from `now`. In a full queue room is made by dropping items that `keep` is
    /// false for.
    ///
    /// # Errors
    /// [`Full`] with the item, if `queue_max` others of its class are waiting.
    pub fn arrive(
        &mut self,
        class: &K,
        item: T,
        terms: Terms,
        now: Instant,
        mut keep: impl FnMut(&T) -> bool,
    ) -> Result<(), Full<T>> {
        let Some(queue_id) = self.queue_for(class, now, &mut keep) else { return Err(Full(item)) };
        let rule = FormerRule {
            size_max: if queue_id.is_alone() { 1 } else { self.rule.former.size_max },
            ..self.rule.former
        };
        let made = || Queue { former: Former::new(rule), in_line: None };
        let queue = self.classes.entry(queue_id.clone()).or_insert_with(made);
        if queue.former.is_full() {
            queue.former.sweep(now, keep);
        }
        queue.former.arrive(item, terms, now)?;
        match queue.in_line {
            Some(priority) if priority >= terms.priority => {}
            Some(_) => {
                queue.in_line = Some(terms.priority);
                let at = self.line.iter().position(|entry| entry.what == queue_id);
                if let Some(at) = at {
                    self.line.raise(at, terms.priority, now);
                }
            }
            None => {
                queue.in_line = Some(terms.priority);
                self.line.join(queue_id, terms.priority, now);
            }
        }
        Ok(())
    }

    /// Returns the queue for a class's next item; `None` if there are too many classes, and too many items that are
    /// sent alone.
    fn queue_for(&mut self, class: &K, now: Instant, keep: impl FnMut(&T) -> bool) -> Option<QueueId<K>> {
        let queue_id = QueueId { class: class.clone(), alone: None };
        if self.classes.contains_key(&queue_id) || self.classes() < self.rule.classes_max {
            return Some(queue_id);
        }
        let alone_max = self.rule.former.queue_max.max(1);
        if self.alone >= alone_max {
            self.sweep_alone(now, keep);
        }
        if self.alone >= alone_max {
            return None;
        }
        self.alone += 1;
        self.numbered += 1;
        Some(QueueId { alone: Some(self.numbered), ..queue_id })
    }

    /// Drops the items that would be sent alone and `keep` is false for.
    fn sweep_alone(&mut self, now: Instant, mut keep: impl FnMut(&T) -> bool) {
        if !may_sweep(&mut self.swept, now) {
            return;
        }
        self.classes.retain(|queue_id, queue| {
            if queue_id.is_alone() {
                queue.former.sweep(now, &mut keep);
            }
            !queue_id.is_alone() || !queue.former.is_idle()
        });
        self.line.retain(|queue_id| self.classes.contains_key(queue_id));
        self.alone = self.classes.keys().filter(|queue_id| queue_id.is_alone()).count();
    }

    /// Returns what to do now. It is to be called after anything happened, until it no longer returns [`Next::Send`].
    /// An item that `keep` is false for is dropped instead of sent; the decision is then made anew without it.
    pub fn next(&mut self, now: Instant, mut keep: impl FnMut(&T) -> bool) -> Next<K, T> {
        let (mut at, mut wake): (usize, Option<Instant>) = (0, None);
        while self.under_way < self.rule.concurrency
            && let Some(entry) = self.line.get(at)
        {
            let queue_id = &entry.what;
            let step = self
                .classes
                .get_mut(queue_id)
                .map_or(Step::Idle, |queue| queue.former.next(now, self.freed, &*self.pace, &mut keep));
            match step {
                Step::Send { items, why } => {
                    let queue_id = queue_id.clone();
                    self.line.remove(at);
                    self.left(&queue_id, now);
                    return Next::Send(Batch { queue_id, items, why });
                }
                Step::WaitUntil(time) => {
                    wake = Some(wake.map_or(time, |wake| wake.min(time)));
                    at += 1;
                }
                Step::Idle => {
                    let queue_id = queue_id.clone();
                    self.line.remove(at);
                    self.leave_line(&queue_id);
                }
            }
        }
        wake.map_or(Next::Idle, Next::WaitUntil)
    }

    /// Notes that a batch of this queue was sent; what else waits there joins the line again.
    fn left(&mut self, queue_id: &QueueId<K>, now: Instant) {
        self.under_way += 1;
        self.freed = false;
        let Some(queue) = self.classes.get_mut(queue_id) else { return };
        queue.in_line = queue.former.priority();
        if let Some(priority) = queue.in_line {
            self.line.join(queue_id.clone(), priority, now);
        } else if queue_id.is_alone() {
            self.forget(queue_id);
        }
    }

    /// Notes that nothing waits in this queue any more.
    fn leave_line(&mut self, queue_id: &QueueId<K>) {
        let Some(queue) = self.classes.get_mut(queue_id) else { return };
        queue.in_line = None;
        if queue.is_idle() {
            self.forget(queue_id);
        }
    }

    fn forget(&mut self, queue_id: &QueueId<K>) {
        if self.classes.remove(queue_id).is_some() && queue_id.is_alone() {
            self.alone -= 1;
        }
    }

    /// Notes that a batch of this queue came back: its slot is free.
    pub fn finished(&mut self, queue_id: &QueueId<K>, returned: &Returned) {
        self.under_way = self.under_way.saturating_sub(1);
        self.freed = !self.line.is_empty();
        if let Some(queue) = self.classes.get_mut(queue_id) {
            queue.former.finished();
            if queue.is_idle() {
                self.forget(queue_id);
            }
        }
        self.pace.on_batch(returned);
    }

    /// Returns the number of classes of which something waits or is under way, without those of items that are sent
    /// alone.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes.len() - self.alone
    }

    /// Whether nothing is waiting and nothing under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.line.is_empty() && self.under_way == 0
    }
}

impl<K, T> fmt::Debug for Scheduler<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, pace, under_way, .. } = self;
        f.debug_struct("Scheduler")
            .field("rule", rule)
            .field("pace", pace)
            .field("under_way", under_way)
            .finish_non_exhaustive()
    }
}
