//! Which of a connection's responses writes first when its buffers have room again (RFC 9218, section 10).
//!
//! The QUIC library sends what is in its buffers by urgency, but a download keeps the buffers full, and when some of
//! them is free again all that wait are woken. So a less urgent response lets the others go first.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::framing::Update;

/// The levels of urgency (RFC 9218, section 4.1), and the most urgent one as `Marks` has it.
const LEVELS: usize = 8;
const MOST_URGENT: i32 = 3;

/// The client's last words on urgencies that are remembered for each connection: they may come long before a response
/// does.
const UPDATES_MAX: usize = 128;

/// The responses of a connection, and how urgent they are.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// How many wait for room, by level. No order between the counts is needed.
    waiting: [AtomicUsize; LEVELS],
    updates: Mutex<VecDeque<Update>>,
    /// How many updates there have been, so that hardly anybody takes the lock.
    updated: AtomicUsize,
}

impl Turns {
    /// Notes what the client says of a response.
    pub(super) fn update(&self, update: Update) {
        let mut updates = self.updates.lock();
        updates.retain(|other| other.stream != update.stream);
        if updates.len() >= UPDATES_MAX {
            updates.pop_front();
        }
        updates.push_back(update);
        self.updated.fetch_add(1, Ordering::Release);
    }
}

/// A response's place among those of its connection.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    /// The number of its stream.
    stream: u64,
    /// How many updates there had been when they were looked through last.
    seen: usize,
    /// The level at which it waits, if it does.
    waits: Option<usize>,
    has_yielded: bool,
}

impl Turn {
    pub(super) const fn new(turns: Arc<Turns>, stream: u64) -> Self {
        Self { turns, stream, seen: 0, waits: None, has_yielded: false }
    }

    /// Returns how much more urgent than others the response is by the client's last word, if that is new.
    pub(super) fn update(&mut self) -> Option<i32> {
        let updated = self.turns.updated.load(Ordering::Acquire);
        if std::mem::replace(&mut self.seen, updated) == updated {
            return None;
        }
        let updates = self.turns.updates.lock();
        updates.iter().find(|update| update.stream == self.stream).map(|update| update.urgency)
    }

    /// Whether the response, which has waited, is to let a more urgent one write first. Only once each time that it is
    /// woken: what keeps the other one waiting may be its own window, which says nothing about the connection.
    pub(super) fn yields(&mut self) -> bool {
        let Some(level) = self.waits else { return false };
        let more_urgent = &self.turns.waiting[..level];
        self.has_yielded = !self.has_yielded && more_urgent.iter().any(|waiting| waiting.load(Ordering::Relaxed) > 0);
        self.has_yielded
    }

    /// Notes that the response, which is this much more urgent than others, waits for room.
    pub(super) fn wait(&mut self, urgency: i32) {
        let level = usize::try_from(MOST_URGENT - urgency).unwrap_or_default().min(LEVELS - 1);
        if self.waits != Some(level) {
            self.go_on();
            self.turns.waiting[level].fetch_add(1, Ordering::Relaxed);
            self.waits = Some(level);
        }
    }

    /// Notes that it doesn't wait any more.
    pub(super) fn go_on(&mut self) {
        if let Some(level) = self.waits.take() {
            self.turns.waiting[level].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.go_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a response that waits with this urgency.
    fn waiting(turns: &Arc<Turns>, urgency: i32) -> Turn {
        let mut turn = Turn::new(Arc::clone(turns), 0);
        turn.wait(urgency);
        turn
    }

    #[test]
    fn the_more_urgent_writes_first() {
        for (urgency, other, expected) in
            [(0, 3, true), (0, 1, true), (-4, -3, true), (0, 0, false), (0, -4, false), (3, 3, false), (3, -4, false)]
        {
            let turns = Arc::default();
            let (mut turn, _other) = (waiting(&turns, urgency), waiting(&turns, other));
            assert_eq!(turn.yields(), expected, "{urgency} beside {other}");
        }
    }

    #[test]
    fn a_response_yields_once_each_time_that_it_is_woken() {
        let turns = Arc::default();
        let (mut bulk, urgent) = (waiting(&turns, 0), waiting(&turns, 3));
        assert_eq!([0; 4].map(|_| bulk.yields()), [true, false, true, false]);
        drop(urgent);
        assert!(!bulk.yields(), "the other one is gone");
    }

    #[test]
    fn the_last_words_on_urgencies_are_remembered_within_bounds() {
        let turns = Arc::<Turns>::default();
        let mut turn = Turn::new(Arc::clone(&turns), 4);
        assert_eq!(turn.update(), None);
        for (stream, urgency) in [(4, 1), (8, 2), (4, 3)] {
            turns.update(Update { stream, urgency });
        }
        assert_eq!([turn.update(), turn.update()], [Some(3), None], "the last one, and once");
        let mut late = Turn::new(Arc::clone(&turns), 8);
        assert_eq!(late.update(), Some(2), "what came before the response");
        for stream in 100..100 + UPDATES_MAX as u64 {
            turns.update(Update { stream, urgency: 1 });
        }
        assert_eq!(Turn::new(Arc::clone(&turns), 4).update(), None, "forgotten");
        assert_eq!(turns.updates.lock().len(), UPDATES_MAX);
    }

    #[test]
    fn only_those_that_wait_count() {
        let turns = Arc::default();
        let (mut bulk, mut urgent) = (waiting(&turns, 0), waiting(&turns, 3));
        urgent.go_on();
        assert!(!bulk.yields(), "the other one has written");
        urgent.wait(3);
        bulk.go_on();
        assert!(!bulk.yields(), "it has room");
        bulk.wait(0);
        urgent.wait(-4);
        assert!(!bulk.yields() && urgent.yields(), "the other one has become less urgent");
    }
}
