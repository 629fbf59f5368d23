//! A body that many read while it arrives.
//!
//! While it is **stored**, its finished parts leave for the tiers and only a window of it is held here: the part that
//! is not finished yet, and what precedes it by less than the window. A reader that joins late or falls behind reads
//! finished parts from the tiers. The fetch waits for readers in two cases only: all of them are behind the window, and
//! this node has no disk to put what comes in the meantime; or a part that no tier of this node has taken is needed by all
//! of them, or by one that could not have it from the origin either. So a slow reader holds up none that is faster.
//!
//! Once it is **released** it isn't stored any more: what the slowest reader has yet to read is held, and the fetch
//! waits for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::{
    cache::{
        Cache,
        body::{
            budget::{Budget, Held, SCARCE_BYTES},
            lending::LentPart,
            part::{PartRef, Stored},
        },
        entry::Digest,
        key::Key,
    },
    clock::Timestamp,
    message::BodyError,
};

/// Pieces up to this size together are joined, so that a body that arrives byte by byte doesn't take a hundred times
/// its size.
const JOIN_BYTES: usize = 4 << 10;

/// How often a fetch that waits looks whether a tier has taken a part by now.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where the finished parts of an arriving body are stored.
#[derive(Clone, Debug)]
pub struct Spill {
    /// The tiers.
    pub cache: Arc<Cache>,
    /// The body's key.
    pub key: Key,
    /// Distinguishes its parts from those of another body under the same key.
    pub stamp: u64,
    /// Bytes of each part but the last.
    pub part_bytes: u64,
    /// When its parts are of no use any more.
    pub expires: Timestamp,
}

/// The body, for whom it's written and from whom it's read. Clones are the same body.
#[derive(Clone, Debug)]
pub struct SharedBody(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spill: Option<Spill>,
    length: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Finished parts in the window, one after the other; the last ends where `open` begins.
    kept: VecDeque<Arc<LentPart>>,
    /// Pieces that belong to no finished part, each with the offset of its first byte.
    open: VecDeque<(u64, Bytes)>,
    /// Where `open` begins.
    open_at: u64,
    /// Bytes that have arrived.
    front: u64,
    /// Digests of all finished parts.
    digests: Vec<Digest>,
    /// How long the finished parts are together.
    finished: u64,
    released: bool,
    end: Option<Result<(), BodyError>>,
    readers: HashMap<u64, Place>,
    next_reader: u64,
    writer: Option<Waker>,
}

/// Where a reader is.
#[derive(Debug, Default)]
struct Place {
    at: u64,
    /// What it misses, it can have from the origin.
    resumable: bool,
    waker: Option<Waker>,
}

/// It has no reader and nothing is stored: the fetch may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwanted;

/// Why a piece wasn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has no reader and nothing is stored.
    Unwanted,
    /// All bodies together hold as much as they may; this one can't be stored.
    Scarce,
}

/// What a reader gets next.
#[derive(Debug)]
pub enum Step {
    /// These bytes.
    Piece(Bytes),
    /// Bytes of this part, which has left the window.
    Part(PartRef),
    /// Nothing more.
    End,
    /// Nothing more, and that isn't all.
    Broken(BodyError),
}

impl SharedBody {
    /// An empty body of which `length` bytes are expected, if that's known.
    #[must_use]
    pub fn arriving(length: Option<u64>, spill: Spill) -> Self {
        Self(Arc::new(Inner { spill: Some(spill), length, state: Mutex::default() }))
    }

    /// A small body that is there already, and isn't stored.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        let open = VecDeque::from([(0, bytes)]);
        let state = State { open, front: length, end: Some(Ok(())), ..State::default() };
        Self(Arc::new(Inner { spill: None, length: Some(length), state: Mutex::new(state) }))
    }

    /// Its length in bytes, if that was known from the start.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.0.length
    }

    /// Where its parts are stored.
    #[must_use]
    pub fn spill(&self) -> Option<&Spill> {
        self.0.spill.as_ref()
    }

    /// Adds a copy of a piece of at most [`SCARCE_BYTES`]; waits for readers if need be.
    ///
    /// # Errors
    /// [`Refused`]. A body that is released is never refused as [`Refused::Scarce`].
    pub async fn push(&self, piece: &[u8]) -> Result<(), Refused> {
        let Some(spill) = &self.0.spill else { return Err(Refused::Unwanted) };
        let config = spill.cache.config();
        let budget = spill.cache.lending.budget();
        let lag_bytes_max = usize::try_from(config.collapse.lag_bytes_max).unwrap_or(usize::MAX);
        self.room(piece.len(), lag_bytes_max).await?;
        let held = match budget.take(piece.len()) {
            Some(held) => held,
            None if self.is_small_with(piece.len()) => budget.force(piece.len()),
            None if self.is_released() => {
                self.room(piece.len(), SCARCE_BYTES).await?;
                budget.force(piece.len())
            }
            None => budget.take_within(piece.len(), config.part_time).await.ok_or(Refused::Scarce)?,
        };
        self.0.state.lock().push(piece, held, budget);
        Ok(())
    }

    /// Waits until `bytes` may be added. Of a body that is released, `lag_bytes_max` may be held.
    async fn room(&self, bytes: usize, lag_bytes_max: usize) -> Result<(), Refused> {
        loop {
            let waiting = std::future::poll_fn(|cx| {
                let mut state = self.0.state.lock();
                let room = state.has_room(self.spill(), bytes, lag_bytes_max);
                if room.is_none() {
                    state.writer = Some(cx.waker().clone());
                }
                room.map_or(Poll::Pending, Poll::Ready)
            });
            // Readers wake us; a tier that has taken a part doesn't.
            if let Ok(room) = timeout(LOOK_AGAIN, waiting).await {
                return room.map_err(|Unwanted| Refused::Unwanted);
            }
        }
    }

    fn is_released(&self) -> bool {
        self.0.state.lock().released
    }

    fn is_small_with(&self, bytes: usize) -> bool {
        self.0.state.lock().held() + bytes <= SCARCE_BYTES
    }

    /// The pieces of the part that isn't finished yet.
    #[must_use]
    pub fn open_pieces(&self) -> Vec<Bytes> {
        self.0.state.lock().open.iter().map(|(_, piece)| piece.clone()).collect()
    }

    /// The open pieces are a part now, and it is stored.
    pub fn spilled(&self, Stored { part, digest }: Stored) {
        let mut state = self.0.state.lock();
        state.open.clear();
        state.open_at += part.len() as u64;
        state.finished = state.open_at;
        state.kept.push_back(part);
        state.digests.push(digest);
        state.trim(self.spill());
    }

    /// Ends the body; only the first end counts.
    pub fn finish(&self, end: Result<(), BodyError>) {
        let mut state = self.0.state.lock();
        state.end.get_or_insert(end);
        state.trim(self.spill());
        state.wake_readers();
    }

    /// Stops storing it. Only for a body that no request can join any more.
    pub fn release(&self) {
        let mut state = self.0.state.lock();
        state.released = true;
        state.trim(self.spill());
    }

    /// A reader at the beginning. `resumable` if it can have from the origin what is no longer here nor in a tier.
    ///
    /// # Errors
    /// [`Unwanted`] if the beginning isn't to be had any more.
    pub fn reader(&self, resumable: bool) -> Result<Reader, Unwanted> {
        let mut state = self.0.state.lock();
        // Of a body that is not stored and broke off, nothing is to be had but the breach.
        if state.released && (state.start(self.spill()) > 0 || matches!(state.end, Some(Err(_)))) {
            return Err(Unwanted);
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, Place { resumable, ..Place::default() });
        drop(state);
        Ok(Reader { body: self.clone(), id })
    }
}

impl State {
    /// Where the window begins.
    fn start(&self, spill: Option<&Spill>) -> u64 {
        let part_bytes = spill.map_or(0, |spill| spill.part_bytes);
        match self.kept.len() as u64 {
            0 => self.open_at,
            kept => (self.digests.len() as u64 - kept) * part_bytes,
        }
    }

    /// Bytes in the window.
    fn held(&self) -> usize {
        let kept: usize = self.kept.iter().map(|part| part.len()).sum();
        kept + usize::try_from(self.front - self.open_at).unwrap_or(usize::MAX)
    }

    fn push(&mut self, piece: &[u8], held: Held, budget: &Arc<Budget>) {
        let at = self.front;
        self.front += piece.len() as u64;
        match self.open.back_mut() {
            Some((_, last)) if last.len() + piece.len() <= JOIN_BYTES => {
                let joined = [&last[..], piece].concat();
                drop(held);
                *last = budget.force(joined.len()).over(joined);
            }
            _ => self.open.push_back((at, held.over(piece.to_vec()))),
        }
        self.wake_readers();
    }

    /// Whether `bytes` may be added now; `None` if readers must get on first.
    fn has_room(&mut self, spill: Option<&Spill>, bytes: usize, lag_bytes_max: usize) -> Option<Result<(), Unwanted>> {
        if self.released {
            if self.readers.is_empty() {
                return Some(Err(Unwanted));
            }
            // Who reads a range further on needs none of what arrives before it, and nothing else would let go of it.
            self.trim(spill);
            let held = self.held();
            return (held == 0 || held.saturating_add(bytes) <= lag_bytes_max).then_some(Ok(()));
        }
        let Some((spill, fastest)) = spill.zip(self.readers.values().map(|place| place.at).max()) else {
            return Some(Ok(()));
        };
        self.trim(Some(spill));
        let window = spill.window();
        let untaken = self.front - self.start(Some(spill)) > window.saturating_add(spill.part_bytes.saturating_mul(2));
        // A reader of a range may be ahead of all that has arrived: it waits for the fetch to go on.
        let ahead = self.front.saturating_sub(fastest) > window && !spill.cache.tiers.has_disk();
        (!untaken && !ahead).then_some(Ok(()))
    }

    fn poll_step(&mut self, spill: Option<&Spill>, id: u64, at: u64, cx: &mut Context<'_>) -> Poll<Step> {
        let Some(place) = self.readers.get_mut(&id) else { return Poll::Ready(Step::End) };
        if place.at != at {
            place.at = at;
            self.trim(spill);
            self.wake_writer();
        }
        if let Some(step) = self.step(spill, at) {
            return Poll::Ready(step);
        }
        if let Some(place) = self.readers.get_mut(&id) {
            place.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// What is at `at`; `None` if that has yet to arrive.
    fn step(&self, spill: Option<&Spill>, at: u64) -> Option<Step> {
        if at >= self.front {
            return match self.end.as_ref()? {
                Ok(()) => Some(Step::End),
                Err(error) => Some(Step::Broken(error.clone())),
            };
        }
        if at >= self.open_at {
            let index = self.open.partition_point(|(begin, _)| *begin <= at).checked_sub(1)?;
            let (begin, piece) = self.open.get(index)?;
            return Some(Step::Piece(piece.slice(offset(*begin, at)..)));
        }
        let spill = spill?;
        let part = spill.part(&self.digests, self.finished, at)?;
        let start = self.start(Some(spill));
        let kept = at.checked_sub(start).and_then(|behind| self.kept.get(offset(0, behind / spill.part_bytes)));
        Some(kept.map_or_else(|| Step::Part(part), |kept| Step::Piece(kept.slice(offset(part.start, at)))))
    }

    /// Drops what need not be held.
    fn trim(&mut self, spill: Option<&Spill>) {
        let slowest = self.readers.values().map(|place| place.at).min().unwrap_or(u64::MAX);
        if let Some(spill) = spill {
            self.trim_parts(spill, self.needed().unwrap_or(u64::MAX));
        }
        while self.released
            && let Some((begin, piece)) = self.open.front()
            && begin + piece.len() as u64 <= slowest
        {
            self.open_at = begin + piece.len() as u64;
            self.open.pop_front();
        }
    }

    /// From where on parts are needed that nobody has but us: by the fastest reader, and by those that have no other way.
    /// A reader that is ahead of all that has arrived needs none of it.
    fn needed(&self) -> Option<u64> {
        let front = self.front;
        let reading = || self.readers.values().filter(move |place| place.at <= front);
        let fastest = reading().map(|place| place.at).max()?;
        let bound = reading().filter(|place| !place.resumable).map(|place| place.at).min();
        Some(bound.map_or(fastest, |bound| bound.min(fastest)))
    }

    fn trim_parts(&mut self, spill: &Spill, needed: u64) {
        while let Some(part) = self.kept.front() {
            let start = self.start(Some(spill));
            let end = start + part.len() as u64;
            // One that joins in a moment, or is only just behind, need not ask a tier.
            let near = self.front - end < spill.window() && self.end.is_none();
            if near && !self.released {
                break;
            }
            let index = start / spill.part_bytes;
            if end > needed && !spill.has(index) {
                break;
            }
            self.kept.pop_front();
        }
    }

    fn wake_readers(&mut self) {
        self.readers.values_mut().filter_map(|place| place.waker.take()).for_each(Waker::wake);
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

/// How far `at` is from `begin`, in a window that is in memory.
fn offset(begin: u64, at: u64) -> usize {
    usize::try_from(at - begin).unwrap_or(usize::MAX)
}

impl Spill {
    /// Bytes before the unfinished part that are held for readers near the front.
    fn window(&self) -> u64 {
        self.cache.config().collapse.lag_bytes_max.max(self.part_bytes)
    }

    /// Whether this node's tiers have taken a part.
    fn has(&self, index: u64) -> bool {
        u32::try_from(index).is_ok_and(|index| self.cache.tiers.may_have(&self.key.part(self.stamp, index)))
    }

    /// The finished part that has the byte at `at`, of `digests.len()` parts that are `finished` bytes together.
    fn part(&self, digests: &[Digest], finished: u64, at: u64) -> Option<PartRef> {
        PartRef::of(&self.key, self.stamp, self.part_bytes, digests, finished, at)
    }
}

/// One reader of a shared body.
#[derive(Debug)]
pub struct Reader {
    body: SharedBody,
    id: u64,
}

impl Reader {
    /// The body.
    #[must_use]
    pub const fn body(&self) -> &SharedBody {
        &self.body
    }

    /// Goes to `at`, which may be ahead of what has arrived. Everything before it counts as read.
    pub fn seek(&self, at: u64) {
        let mut state = self.body.0.state.lock();
        let Some(place) = state.readers.get_mut(&self.id).filter(|place| place.at != at) else { return };
        place.at = at;
        state.trim(self.body.spill());
        state.wake_writer();
    }

    /// What is at `at`, if that has arrived.
    #[must_use]
    pub fn peek(&self, at: u64) -> Option<Step> {
        self.body.0.state.lock().step(self.body.spill(), at)
    }

    /// What is at `at`, as soon as that has arrived. Everything before `at` counts as read.
    pub async fn next(&self, at: u64) -> Step {
        let poll = |cx: &mut Context<'_>| self.body.0.state.lock().poll_step(self.body.spill(), self.id, at, cx);
        std::future::poll_fn(poll).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.body.0.state.lock();
        state.readers.remove(&self.id);
        state.trim(self.body.spill());
        state.wake_writer();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    /// A body that isn't stored any more, with readers at these places.
    fn released(places: &[u64]) -> State {
        let place = |(id, at): (usize, &u64)| (id as u64, Place { at: *at, ..Place::default() });
        State { released: true, readers: places.iter().enumerate().map(place).collect(), ..State::default() }
    }

    #[test]
    fn a_fetch_goes_on_to_what_its_readers_wait_for() {
        const PIECE: usize = SCARCE_BYTES / 4;
        let budget = Budget::new(u64::MAX, Gauge::default());
        for (places, wanted) in [
            // All of them want what is further on: a range, or the next section of several.
            (&[1 << 30][..], 64),
            (&[1 << 30, 1 << 20], 64),
            // One wants what is there, and is waited for.
            (&[0], 4),
            (&[0, 1 << 30], 4),
            (&[PIECE as u64 * 3, 1 << 30], 7),
        ] {
            let mut body = released(places);
            let mut taken = 0;
            while taken < 64 && body.has_room(None, PIECE, SCARCE_BYTES) == Some(Ok(())) {
                body.push(&[0; PIECE], budget.force(PIECE), &budget);
                taken += 1;
            }
            assert_eq!(taken, wanted, "{places:?}");
        }
        assert_eq!(released(&[]).has_room(None, PIECE, SCARCE_BYTES), Some(Err(Unwanted)));
    }
}
