//! Which class of a pool gets the next free slot. Pure: it is told what happens and what time it is.
//!
//! The slots are the pool's. Classes that have something waiting stand in line for them, as items stand in line within
//! their class: each takes a slot in its turn and then stands at the end again, so that none is kept out by another,
//! however much that one asks. A higher priority goes before what joined the line within the last second.

use std::{collections::HashMap, fmt, hash::Hash, time::Instant};

use super::{
    former::{Former, FormerRule, Full, Step, Terms, may_sweep},
    line::Line,
    pace::{Pace, Returned, Why},
};
use crate::config;

#[cfg(test)]
mod tests;

/// What a pool's scheduler may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerRule {
    /// What each class may do.
    pub former: FormerRule,
    /// Batches under way at once, of all classes together.
    pub concurrency: usize,
    /// Classes that wait or are under way at once. An item of a further one is a class of its own: it travels alone, and
    /// at most [`FormerRule::queue_max`] of such items wait.
    pub classes_max: usize,
}

impl From<config::Batch> for SchedulerRule {
    fn from(batch: config::Batch) -> Self {
        let config::Batch { size_max, bytes_max, wait_max, queue_max, concurrency, classes_max } = batch;
        Self { former: FormerRule { size_max, bytes_max, wait_max, queue_max }, concurrency, classes_max }
    }
}

/// The classes of one pool, what waits in each, and how many batches are under way. A class is known only as long as
/// something of it waits or is under way.
pub struct Scheduler<K, T> {
    rule: SchedulerRule,
    pace: Box<dyn Pace>,
    classes: HashMap<Seat<K>, Queue<T>>,
    line: Line<Seat<K>>,
    under_way: usize,
    /// A batch came back while items were waiting, and none has left since.
    freed: bool,
    /// Items that wait to travel alone, and how many there have ever been.
    alone: usize,
    numbered: u64,
    swept: Option<Instant>,
}

/// Whose turn it is: a class's, or a single item's for which there are too many classes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seat<K> {
    /// The class.
    pub class: K,
    /// The item's number, if it travels alone.
    alone: Option<u64>,
}

impl<K> Seat<K> {
    /// Whether it is that of a single item.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.alone.is_some()
    }
}

/// What waits in a class, and where the class stands.
struct Queue<T> {
    former: Former<T>,
    /// The priority by which it stands in line; `None` if it doesn't.
    in_line: Option<u8>,
}

impl<T> Queue<T> {
    fn is_idle(&self) -> bool {
        self.in_line.is_none() && self.former.is_idle()
    }
}

/// A batch that leaves.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<K, T> {
    /// Whose it is; [`Scheduler::finished`] wants to know it.
    pub seat: Seat<K>,
    /// Its items; never empty.
    pub items: Vec<T>,
    /// Why it leaves now.
    pub why: Why,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<K, T> {
    /// Send this batch, and ask again; tell [`Scheduler::finished`] when it is back.
    Send(Batch<K, T>),
    /// Ask again then, unless something happens before.
    WaitUntil(Instant),
    /// Nothing can be done until something happens: nothing waits, or every slot is taken.
    Idle,
}

impl<K: Clone + Eq + Hash, T> Scheduler<K, T> {
    /// A scheduler that has nothing to do yet.
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

    /// Takes an item in; its wait counts from `now`. In a full queue room is made by dropping items that `keep` is false
    /// for.
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
        let Some(seat) = self.seat(class, now, &mut keep) else { return Err(Full(item)) };
        let rule =
            FormerRule { size_max: if seat.is_alone() { 1 } else { self.rule.former.size_max }, ..self.rule.former };
        let made = || Queue { former: Former::new(rule), in_line: None };
        let queue = self.classes.entry(seat.clone()).or_insert_with(made);
        if queue.former.is_full() {
            queue.former.sweep(now, keep);
        }
        queue.former.arrive(item, terms, now)?;
        match queue.in_line {
            Some(priority) if priority >= terms.priority => {}
            Some(_) => {
                queue.in_line = Some(terms.priority);
                let at = self.line.iter().position(|place| place.what == seat);
                if let Some(at) = at {
                    self.line.raise(at, terms.priority, now);
                }
            }
            None => {
                queue.in_line = Some(terms.priority);
                self.line.join(seat, terms.priority, now);
            }
        }
        Ok(())
    }

    /// The seat for a class's next item; `None` if there are too many classes, and too many items without one.
    fn seat(&mut self, class: &K, now: Instant, keep: impl FnMut(&T) -> bool) -> Option<Seat<K>> {
        let seat = Seat { class: class.clone(), alone: None };
        if self.classes.contains_key(&seat) || self.classes() < self.rule.classes_max {
            return Some(seat);
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
        Some(Seat { alone: Some(self.numbered), ..seat })
    }

    /// Drops the items that would travel alone and `keep` is false for.
    fn sweep_alone(&mut self, now: Instant, mut keep: impl FnMut(&T) -> bool) {
        if !may_sweep(&mut self.swept, now) {
            return;
        }
        self.classes.retain(|seat, queue| {
            if seat.is_alone() {
                queue.former.sweep(now, &mut keep);
            }
            !seat.is_alone() || !queue.former.is_idle()
        });
        self.line.retain(|seat| self.classes.contains_key(seat));
        self.alone = self.classes.keys().filter(|seat| seat.is_alone()).count();
    }

    /// Returns what to do now. It is to be asked after anything happened, until it no longer says [`Next::Send`]. An item
    /// that `keep` is false for is dropped instead of sent; the decision is then made anew without it.
    pub fn next(&mut self, now: Instant, mut keep: impl FnMut(&T) -> bool) -> Next<K, T> {
        let (mut at, mut wake): (usize, Option<Instant>) = (0, None);
        while self.under_way < self.rule.concurrency
            && let Some(place) = self.line.get(at)
        {
            let seat = &place.what;
            let step = self
                .classes
                .get_mut(seat)
                .map_or(Step::Idle, |queue| queue.former.next(now, self.freed, &*self.pace, &mut keep));
            match step {
                Step::Send { items, why } => {
                    let seat = seat.clone();
                    self.line.remove(at);
                    self.left(&seat, now);
                    return Next::Send(Batch { seat, items, why });
                }
                Step::WaitUntil(time) => {
                    wake = Some(wake.map_or(time, |wake| wake.min(time)));
                    at += 1;
                }
                Step::Idle => {
                    let seat = seat.clone();
                    self.line.remove(at);
                    self.leave_line(&seat);
                }
            }
        }
        wake.map_or(Next::Idle, Next::WaitUntil)
    }

    /// A batch of this seat has left; what else waits there stands in line anew.
    fn left(&mut self, seat: &Seat<K>, now: Instant) {
        self.under_way += 1;
        self.freed = false;
        let Some(queue) = self.classes.get_mut(seat) else { return };
        queue.in_line = queue.former.priority();
        if let Some(priority) = queue.in_line {
            self.line.join(seat.clone(), priority, now);
        } else if seat.is_alone() {
            self.forget(seat);
        }
    }

    /// Nothing of this seat waits any more.
    fn leave_line(&mut self, seat: &Seat<K>) {
        let Some(queue) = self.classes.get_mut(seat) else { return };
        queue.in_line = None;
        if queue.is_idle() {
            self.forget(seat);
        }
    }

    fn forget(&mut self, seat: &Seat<K>) {
        if self.classes.remove(seat).is_some() && seat.is_alone() {
            self.alone -= 1;
        }
    }

    /// Notes that a batch of this seat came back: its slot is free.
    pub fn finished(&mut self, seat: &Seat<K>, returned: &Returned) {
        self.under_way = self.under_way.saturating_sub(1);
        self.freed = !self.line.is_empty();
        if let Some(queue) = self.classes.get_mut(seat) {
            queue.former.finished();
            if queue.is_idle() {
                self.forget(seat);
            }
        }
        self.pace.on_batch(returned);
    }

    /// Classes of which something waits or is under way, without those of items that travel alone.
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
