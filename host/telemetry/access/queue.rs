//! The bounded queue between the requests' threads and the writer: one buffer that is filled while the other is
//! written. [`State`] decides without waiting; [`Queue`] puts it behind a lock that is held for a copy or a swap.

use std::{mem, time::Duration};

use parking_lot::{Condvar, Mutex};
use thiserror::Error;

use crate::clock;

/// Bytes that are written at once without waiting for more.
const BATCH_BYTES: usize = 64 * 1024;
/// The longest that a line waits for company.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// Bytes of a line that the queue reckons with: so many lines as it may hold, of this size on average.
const LINE_BYTES_MEAN: usize = 1024;
/// A queue of few lines still takes the longest line there can be.
const QUEUE_BYTES_MIN: usize = 1024 * 1024;
/// A buffer that a burst has blown up is given back.
const BUFFER_BYTES_KEPT: usize = 4 * BATCH_BYTES;

/// The writer didn't finish in time; it goes on by itself as long as the process lives.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{lines} lines of the access log were not written within {limit_ms} ms")]
pub struct StillWriting {
    /// Lines queued or being written.
    pub lines: usize,
    /// The limit.
    pub limit_ms: u64,
}

/// What the queue holds and when it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Lines queued or being written; further ones are dropped.
    pub(super) lines_max: usize,
    /// Their bytes; further lines are dropped.
    pub(super) bytes_max: usize,
    /// Bytes that are written at once.
    pub(super) batch_bytes: usize,
    /// How long fewer wait.
    pub(super) flush_every: Duration,
}

impl Bounds {
    pub(super) fn new(lines_max: usize) -> Self {
        Self {
            lines_max,
            bytes_max: lines_max.saturating_mul(LINE_BYTES_MEAN).max(QUEUE_BYTES_MIN),
            batch_bytes: BATCH_BYTES,
            flush_every: FLUSH_EVERY,
        }
    }
}

/// Whole lines, one after the other.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    lines: usize,
}

impl Batch {
    #[cfg(test)]
    pub(super) fn of(bytes: &[u8], lines: usize) -> Self {
        Self { bytes: bytes.to_vec(), lines }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) const fn lines(&self) -> usize {
        self.lines
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.lines == 0
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(BUFFER_BYTES_KEPT);
        self.lines = 0;
    }
}

/// What the writer does next, beside writing the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// Open the destination again first.
    pub(super) reopen: bool,
    /// Nothing comes after this batch.
    pub(super) last: bool,
}

/// The queue as its users see it.
pub(super) struct Queue {
    bounds: Bounds,
    state: Mutex<State>,
    /// The writer has something to do.
    due: Condvar,
    /// The writer is done for good.
    closed: Condvar,
}

impl Queue {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Mutex::default(), due: Condvar::new(), closed: Condvar::new() }
    }

    /// Appends a line. Returns false if there is no room for it.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        // The lock is given back before the writer is woken, so that it doesn't wake into a wait.
        let pushed = self.state.lock().push(line, &self.bounds);
        if pushed == Pushed::Due {
            self.due.notify_one();
        }
        pushed != Pushed::Refused
    }

    pub(super) fn reopen(&self) {
        self.state.lock().reopen = true;
        self.due.notify_one();
    }

    pub(super) fn close(&self, limit: Duration) -> Result<(), StillWriting> {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
            self.due.notify_one();
        }
        self.closed.wait_while_for(&mut state, |state| state.phase != Phase::Closed, limit);
        match state.phase {
            Phase::Closed => Ok(()),
            Phase::Open | Phase::Closing => {
                Err(StillWriting { lines: state.lines_held(), limit_ms: clock::millis(limit) })
            }
        }
    }

    /// For the writer: waits until there is something to do, and swaps the lines that have gathered for `written`.
    pub(super) fn next(&self, written: &mut Batch) -> Next {
        let mut state = self.state.lock();
        state.writing = Held::default();
        if !state.is_due() {
            self.due.wait_for(&mut state, self.bounds.flush_every);
        }
        state.take(written)
    }

    /// For the writer: however it ends, nothing waits for it any longer.
    pub(super) const fn closes_when_dropped(&self) -> Closes<'_> {
        Closes(self)
    }
}

/// Closes the queue for good when dropped.
pub(super) struct Closes<'a>(&'a Queue);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.phase = Phase::Closed;
        state.writing = Held::default();
        self.0.closed.notify_all();
    }
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    /// Taken by the writer and not written yet.
    writing: Held,
    /// The writer has been notified to write the batch now.
    due: bool,
    reopen: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    lines: usize,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Lines are taken.
    #[default]
    Open,
    /// The writer is to write what is queued and end.
    Closing,
    /// The writer has ended.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pushed {
    /// Appended; the writer finds it when it looks.
    Queued,
    /// Appended, and this line makes the batch due.
    Due,
    /// The queue is full or closed.
    Refused,
}

impl State {
    fn push(&mut self, line: &[u8], bounds: &Bounds) -> Pushed {
        let bytes = self.batch.bytes.len() + self.writing.bytes + line.len();
        if self.phase != Phase::Open || self.lines_held() >= bounds.lines_max || bytes > bounds.bytes_max {
            return Pushed::Refused;
        }
        self.batch.bytes.extend_from_slice(line);
        self.batch.lines += 1;
        // Half a queue is due as well: a queue shorter than a batch must not fill up before it is looked at.
        let due = self.batch.bytes.len() >= bounds.batch_bytes || self.batch.lines * 2 >= bounds.lines_max;
        if due && !mem::replace(&mut self.due, true) { Pushed::Due } else { Pushed::Queued }
    }

    /// Whether there is a reason not to wait.
    fn is_due(&self) -> bool {
        self.due || self.reopen || self.phase != Phase::Open
    }

    fn take(&mut self, written: &mut Batch) -> Next {
        written.clear();
        mem::swap(written, &mut self.batch);
        self.writing = Held { lines: written.lines, bytes: written.bytes.len() };
        self.due = false;
        Next { reopen: mem::take(&mut self.reopen), last: self.phase != Phase::Open }
    }

    const fn lines_held(&self) -> usize {
        self.batch.lines + self.writing.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds { lines_max: 6, bytes_max: 50, batch_bytes: 20, flush_every: Duration::ZERO }
    }

    #[test]
    fn a_batch_is_due_once_by_its_bytes_or_at_half_the_queue() {
        let mut by_bytes = State::default();
        assert_eq!(by_bytes.push(&[b'x'; 19], &bounds()), Pushed::Queued);
        assert_eq!(by_bytes.push(b"x", &bounds()), Pushed::Due);
        assert_eq!(by_bytes.push(b"x", &bounds()), Pushed::Queued, "said before");

        let mut by_lines = State::default();
        let pushed: Vec<_> = (0..4).map(|_| by_lines.push(b"x", &bounds())).collect();
        assert_eq!(pushed, [Pushed::Queued, Pushed::Queued, Pushed::Due, Pushed::Queued]);
    }

    #[test]
    fn lines_and_bytes_are_bounded_and_what_is_being_written_counts() {
        let (mut state, mut written) = (State::default(), Batch::default());
        for _ in 0..4 {
            assert_ne!(state.push(b"x", &bounds()), Pushed::Refused);
        }
        assert_eq!(state.take(&mut written), Next { reopen: false, last: false });
        assert_eq!(written.lines(), 4);
        assert_ne!(state.push(b"x", &bounds()), Pushed::Refused);
        assert_ne!(state.push(b"x", &bounds()), Pushed::Refused);
        assert_eq!(state.push(b"x", &bounds()), Pushed::Refused, "four and two are six");

        let mut long = State::default();
        assert_ne!(long.push(&[b'x'; 50], &bounds()), Pushed::Refused);
        assert_eq!(long.push(b"x", &bounds()), Pushed::Refused, "51 bytes");
    }

    #[test]
    fn taking_swaps_the_buffers_and_forgets_what_was_asked() {
        let (mut state, mut written) = (State::default(), Batch::of(b"old", 1));
        state.push(b"new", &bounds());
        state.reopen = true;
        assert!(state.is_due());
        assert_eq!(state.take(&mut written), Next { reopen: true, last: false });
        assert_eq!((written.bytes(), written.lines()), (&b"new"[..], 1));
        assert!(!state.is_due() && state.batch.is_empty());
    }

    #[test]
    fn once_closing_nothing_is_taken_and_the_next_batch_is_the_last() {
        let (mut state, mut written) = (State::default(), Batch::default());
        state.push(b"x", &bounds());
        state.phase = Phase::Closing;
        assert_eq!(state.push(b"y", &bounds()), Pushed::Refused);
        assert!(state.is_due());
        assert_eq!(state.take(&mut written), Next { reopen: false, last: true });
        assert_eq!(written.bytes(), b"x");
    }

    #[test]
    fn a_short_queue_takes_the_longest_line() {
        assert_eq!(Bounds::new(1).bytes_max, QUEUE_BYTES_MIN);
        assert_eq!(Bounds::new(usize::MAX).bytes_max, usize::MAX);
    }
}
