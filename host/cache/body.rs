//! Reading a body: from a stored object, or from one that still arrives.
//!
//! A [`BodySource`] fetches parts one by one while it is read. Before the first byte it looks for the first part only,
//! so that a body which isn't there is a miss. After that it never ends early: a part that a tier is slow to give gets
//! patience; for one that is gone, or isn't what was stored, the origin is asked, and what it sends is given on only if
//! its digest is the part's. Else the body breaks off, which the client sees as a reset.
//!
//! What is handed out is counted in the budget. A body, or a part of one, for which that has no room is read in windows
//! (`window`).

mod ahead;
pub mod budget;
pub mod cut;
pub mod intake;
pub mod lending;
pub mod part;
mod refill;
#[cfg(test)]
mod tests;
mod window;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http_body::{Body as HttpBody, Frame, SizeHint};
use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::warn;

pub use self::refill::{Rest, Resumed};
use self::{
    ahead::Ahead,
    budget::{Held, SCARCE_BYTES},
    part::PartRef,
    refill::Refill,
    window::Windows,
};
use super::{
    Cache,
    collapse::shared::{Reader, SharedBody, Step},
    entry::{Object, Value},
    key::Key,
    range::{Section, Sections},
    store::TierReply,
};
use crate::{
    clock,
    message::{Body, BodyError},
    planted::{Plant, planted},
};

/// Between two looks for a part that a tier may have but didn't give.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A body that can be read.
#[derive(Debug)]
pub struct BodySource {
    cache: Arc<Cache>,
    kind: Kind,
    rest: Option<Arc<dyn Rest>>,
}

#[derive(Debug)]
enum Kind {
    /// Of an object in parts, which was found under this key.
    Stored(Key, Arc<Object>),
    /// Of an object in one piece, of which so many bytes are read in windows.
    Whole(u64),
    Arriving(Reader),
}

impl BodySource {
    /// The body of an object that is stored in parts.
    #[must_use]
    pub fn stored(cache: Arc<Cache>, key: Key, object: Arc<Object>, rest: Option<Arc<dyn Rest>>) -> Self {
        Self { cache, kind: Kind::Stored(key, object), rest }
    }

    /// A body that still arrives.
    #[must_use]
    pub fn arriving(cache: Arc<Cache>, reader: Reader, rest: Option<Arc<dyn Rest>>) -> Self {
        Self { cache, kind: Kind::Arriving(reader), rest }
    }

    /// Opens sections of the body for reading, cut to its length. `None` if the first byte isn't to be had from the tiers.
    /// Those of a body that still arrives must be in ascending order.
    pub async fn open(self, sections: Sections) -> Option<Body> {
        let length = match &self.kind {
            Kind::Stored(_, object) => Some(object.head.length),
            Kind::Whole(length) => Some(*length),
            Kind::Arriving(reader) => reader.body().length(),
        };
        let (sections, left) = fitted(sections, length);
        if left == Some(0) {
            return Some(Body::Empty);
        }
        let start = sections.first()?.range.start;
        let first = match &self.kind {
            Kind::Stored(key, object) => Some(PartRef::in_object(key, object, start)?),
            Kind::Whole(_) => None,
            Kind::Arriving(reader) => {
                reader.seek(start);
                match reader.peek(start) {
                    Some(Step::Part(part)) => Some(part),
                    _ => None,
                }
            }
        };
        let begun = Instant::now();
        let ready = match first {
            Some(part) => Some(self.first_piece(&part, start).await?),
            None => None,
        };
        let ahead = Ahead::after(begun.elapsed());
        Some(Reading { exact: length.is_some(), ready, ahead, ..Reading::of(self, sections) }.into_body(left))
    }

    /// The piece at `at`. If the part is gone, so is the object: whoever comes next fetches it anew.
    async fn first_piece(&self, part: &PartRef, at: u64) -> Option<Bytes> {
        let deadline = Instant::now() + self.cache.config.part_time;
        match self.cache.piece(part, offset(part, at), false, deadline).await {
            Ok(piece) => Some(piece),
            Err(missing) => {
                self.cache.metrics.parts_missing.inc();
                if missing == Missing::Gone {
                    self.remove();
                }
                None
            }
        }
    }

    /// Removes the object, if it is what is stored under its key. What isn't in memory may be another's: it stays, and is
    /// in memory when it is found again.
    fn remove(&self) {
        let Kind::Stored(key, object) = &self.kind else { return };
        let tiers = &self.cache.tiers;
        if matches!(tiers.memory(key), Some(Value::Object(now)) if now.head.layout == object.head.layout) {
            tiers.remove_everywhere(key);
        }
    }

    /// Stores a part again that had been lost.
    fn heal(&self, part: &PartRef, bytes: &Bytes) {
        let now = clock::now();
        let left_ms = match &self.kind {
            Kind::Stored(_, object) => object.head.left_ms(now),
            // It has no parts.
            Kind::Whole(_) => return,
            Kind::Arriving(reader) => reader.body().spill().map_or(0, |spill| clock::millis(spill.expires.since(now))),
        };
        self.cache.tiers.insert(part.key, Value::Part(bytes.clone()), left_ms, None);
    }
}

/// The sections cut to a body of this length, and how many bytes they are together, if that can be told.
fn fitted(sections: Sections, length: Option<u64>) -> (SmallVec<[Section; 1]>, Option<u64>) {
    let mut sections = sections.into_list();
    for Section { range, .. } in &mut sections {
        let end = length.map_or(range.end, |length| range.end.min(length));
        range.end = if planted(Plant::BodyCutShort) { end.saturating_sub(1) } else { end };
    }
    let left = length.map(|_| sections.iter().map(Section::bytes).sum::<u64>());
    (sections, left)
}

/// Where `at` is in the part that has it.
fn offset(part: &PartRef, at: u64) -> usize {
    usize::try_from(at.saturating_sub(part.start)).unwrap_or(usize::MAX)
}

/// A body that is being read.
struct Reading {
    source: BodySource,
    /// Sent before the byte at `at`.
    before: Bytes,
    /// The offset of the next byte.
    at: u64,
    /// Where the section ends that is being read.
    end: u64,
    /// The sections after it.
    then: smallvec::IntoIter<[Section; 1]>,
    /// The body must reach `end`.
    exact: bool,
    /// The first piece, if it was looked up before the body was begun.
    ready: Option<Bytes>,
    /// Parts that are here before their turn.
    ahead: Ahead,
    /// The rest as it comes from the origin, once a part was missing. There is no second, unless a part is read in
    /// windows and gone again meanwhile.
    refill: Option<Refill>,
    /// The body, or the part of it, for all of which there was no room.
    windows: Option<Windows>,
    /// All tiers responded that they don't have the part that was missing.
    gone: bool,
}

impl Reading {
    /// Nothing of the sections has been read yet.
    fn of(source: BodySource, sections: SmallVec<[Section; 1]>) -> Self {
        Self {
            source,
            before: Bytes::new(),
            at: 0,
            end: 0,
            then: sections.into_iter(),
            exact: true,
            ready: None,
            ahead: Ahead::default(),
            refill: None,
            windows: None,
            gone: false,
        }
    }

    /// The body, `left` bytes of it if that's known.
    fn into_body(self, left: Option<u64>) -> Body {
        let pieces = stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            match reading.next().await? {
                Ok(piece) => Some((Ok(piece), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        });
        of_pieces(pieces.boxed(), left)
    }

    async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        loop {
            if !self.before.is_empty() {
                return Some(Ok(std::mem::take(&mut self.before)));
            }
            if self.at < self.end {
                return self.take().await;
            }
            let Section { before, range } = self.then.next()?;
            // What the origin sends may be past the section already, or far before it.
            (self.before, self.at, self.end, self.refill) = (before, range.start, range.end, None);
        }
    }

    /// The next piece of the section; `None` at the end of a body of unknown length.
    async fn take(&mut self) -> Option<Result<Bytes, BodyError>> {
        let fetched = match self.ready.take() {
            Some(piece) => Ok(Some(piece)),
            None => self.fetch().await,
        };
        match fetched {
            Ok(Some(mut piece)) => {
                piece.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
                self.at += piece.len() as u64;
                Some(Ok(piece))
            }
            Ok(None) if self.exact => Some(Err(BodyError::Broken("it ended early".to_owned()))),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    async fn fetch(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(window) = self.windows.as_ref().and_then(|windows| windows.at(self.at)) {
            return self.window(&window).await.map(Some);
        }
        self.windows = None;
        let part = match &self.source.kind {
            Kind::Stored(key, object) => PartRef::in_object(key, object, self.at).ok_or_else(lost)?,
            Kind::Whole(_) => return Err(lost()),
            Kind::Arriving(reader) => match reader.next(self.at).await {
                Step::Part(part) => part,
                Step::Piece(piece) => {
                    self.refill = None;
                    return Ok(Some(piece));
                }
                Step::End => return Ok(None),
                Step::Broken(error) => return Err(error),
            },
        };
        if self.refill.is_none() {
            let cache = &self.source.cache;
            let deadline = Instant::now() + cache.config.part_time;
            if let Kind::Stored(key, object) = &self.source.kind {
                self.ahead.fill(cache, key, object, &(self.at..self.end), deadline).await;
            }
            match cache.piece(&part, offset(&part, self.at), true, deadline).await {
                Ok(piece) => return Ok(Some(piece)),
                Err(missing) => self.resume(&part, missing).await?,
            }
        }
        self.refilled(&part).await.map(Some)
    }

    /// A window of what there is no room for: from a tier that still has it, else from the origin.
    async fn window(&mut self, window: &PartRef) -> Result<Bytes, BodyError> {
        let Some(windows) = &self.windows else { return Err(lost()) };
        // What comes from the origin may be past it, if it was the whole part that came from there.
        if self.refill.as_ref().is_none_or(|refill| !refill.may_have(window)) {
            match self.source.cache.window(windows, window).await {
                Ok(piece) => return Ok(piece.slice(offset(window, self.at)..)),
                Err(missing) => self.resume(window, missing).await?,
            }
        }
        let held = self.source.cache.lending.budget().force(window.length);
        let bytes = self.ask_origin(window).await?;
        Ok(held.over(bytes).slice(offset(window, self.at)..))
    }

    /// Begins to take the rest from the origin.
    async fn resume(&mut self, part: &PartRef, missing: Missing) -> Result<(), BodyError> {
        let is_first = self.refill.take().is_none();
        self.source.cache.metrics.parts_missing.inc();
        self.gone = missing == Missing::Gone;
        let rest = self.source.rest.clone();
        self.refill = match rest {
            Some(rest) => Refill::begin(rest, part.start, self.rest_ends()).await,
            None => None,
        };
        if self.refill.is_none() {
            return Err(self.give_up("a part of it is no longer stored, and its origin can't be asked for it"));
        }
        if is_first {
            self.source.cache.metrics.bodies_resumed.inc();
        }
        Ok(())
    }

    /// Where the parts end that the section needs, if the body goes on after them: somebody who reads a little of a huge
    /// body isn't to make its origin send the rest.
    fn rest_ends(&self) -> Option<u64> {
        let Kind::Stored(key, object) = &self.source.kind else { return None };
        let last = PartRef::in_object(key, object, self.end.checked_sub(1)?)?;
        Some(last.start + last.length as u64).filter(|end| *end < object.head.length)
    }

    /// The next piece from the origin: the part, and nothing but it. It must be there as a whole before any of it can be
    /// given on. Without room for that it is there for a moment only, in turn with others, and is read in windows then.
    async fn refilled(&mut self, part: &PartRef) -> Result<Bytes, BodyError> {
        let lending = Arc::clone(&self.source.cache.lending);
        let mut room = lending.room_to_refill(part.length).await;
        let counted = room.held.is_none().then(|| lending.budget().force(part.length));
        let bytes = self.ask_origin(part).await?;
        self.source.heal(part, &bytes);
        let from = offset(part, self.at);
        if let Some(held) = room.held.take() {
            return Ok(lending.lend(part.key, bytes, held).slice(from));
        }
        let windows = Windows::of(part.key, part.start, &bytes);
        let window = windows.at(self.at).ok_or_else(lost)?;
        let to = offset(part, window.start) + window.length;
        let piece = self.source.cache.copied(bytes.get(from..to).unwrap_or_default());
        self.windows = Some(windows);
        drop((counted, room));
        Ok(piece)
    }

    /// A part, or a window, from the origin.
    async fn ask_origin(&mut self, part: &PartRef) -> Result<Bytes, BodyError> {
        let Some(refill) = &mut self.refill else { return Err(lost()) };
        match refill.part(part).await {
            Ok(bytes) => Ok(bytes),
            Err(refill::Failure::Changed) => {
                self.gone = true;
                Err(self.give_up("a part of it is no longer stored, and its origin has another by now"))
            }
            Err(refill::Failure::Broken) => {
                Err(self.give_up("a part of it is no longer stored, and its origin broke off"))
            }
        }
    }

    /// What can't be whole any more breaks off, and isn't begun again.
    fn give_up(&self, reason: &'static str) -> BodyError {
        self.source.cache.metrics.bodies_cut.inc();
        if self.gone {
            self.source.remove();
        }
        warn!(reason, "a body that was stored broke off");
        BodyError::Broken(reason.to_owned())
    }
}

/// What doesn't happen to a body whose head could be read.
fn lost() -> BodyError {
    BodyError::Broken("it has no such part".to_owned())
}

/// Why a part can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// No tier has it.
    Gone,
    /// A tier that may have it didn't respond in time.
    NoReply,
}

impl Cache {
    /// Sections of the body of a stored object; `None` if their beginning is missing. `rest` is where the rest comes from
    /// should another part be.
    pub async fn body(
        self: &Arc<Self>,
        key: Key,
        object: &Arc<Object>,
        sections: Sections,
        rest: impl FnOnce() -> Option<Arc<dyn Rest>>,
    ) -> Option<Body> {
        if object.is_whole() {
            return Some(self.whole_body(key, object, sections, rest).await);
        }
        let source = BodySource::stored(Arc::clone(self), key, Arc::clone(object), rest());
        Box::pin(source.open(sections)).await
    }

    /// Sections of the body of an object in one piece: slices of that piece, or windows of it if there is no room for it.
    async fn whole_body(
        self: &Arc<Self>,
        key: Key,
        object: &Object,
        sections: Sections,
        rest: impl FnOnce() -> Option<Arc<dyn Rest>>,
    ) -> Body {
        if let Some(bytes) = self.lend(&object.body) {
            return cut::slices(bytes, sections);
        }
        let rest = rest();
        // Nobody makes up for what the tiers lose of it meanwhile: better late than broken off.
        if rest.is_none()
            && let Some(bytes) = self.hold(&object.body).await
        {
            return cut::slices(bytes, sections);
        }
        let length = object.body.len() as u64;
        let (sections, left) = fitted(sections, Some(length));
        let start = sections.first().map_or(0, |section| usize::try_from(section.range.start).unwrap_or(usize::MAX));
        let end = start.saturating_add(SCARCE_BYTES).min(object.body.len());
        let source = BodySource { cache: Arc::clone(self), kind: Kind::Whole(length), rest };
        let reading = Reading {
            ready: Some(self.copied(object.body.get(start..end).unwrap_or_default())),
            windows: Some(Windows::of(key, 0, &object.body)),
            ..Reading::of(source, sections)
        };
        reading.into_body(left)
    }

    /// A body in one piece for a client, whose tier may drop it meanwhile. Over [`SCARCE_BYTES`] it is counted, once
    /// however many read it; `None` if there is no room for it.
    #[must_use]
    pub fn lend(&self, body: &Bytes) -> Option<Bytes> {
        if body.len() <= SCARCE_BYTES { Some(body.clone()) } else { self.lending.lend_whole(body) }
    }

    /// Like [`Cache::lend`], but waits for room as long as a part may take.
    pub async fn hold(&self, body: &Bytes) -> Option<Bytes> {
        match self.lend(body) {
            Some(bytes) => Some(bytes),
            None => self.lending.budget().within(self.config.part_time, || self.lend(body)).await,
        }
    }

    /// Sections of a body that still arrives, in ascending order; `None` if their beginning is missing.
    pub async fn arriving(
        self: &Arc<Self>,
        body: &SharedBody,
        sections: Sections,
        rest: impl FnOnce() -> Option<Arc<dyn Rest>>,
    ) -> Option<Body> {
        let part_bytes = self.config.part_bytes as u64;
        let may_spill = body.spill().is_some() && body.length().is_none_or(|length| length > part_bytes);
        let rest = if may_spill { rest() } else { None };
        let reader = body.reader(rest.is_some()).ok()?;
        Box::pin(BodySource::arriving(Arc::clone(self), reader, rest).open(sections)).await
    }

    /// The bytes of a part from `from` on, as many of them as may be held. With `patience`, a tier that doesn't answer
    /// is asked again, until `deadline`.
    async fn piece(&self, part: &PartRef, from: usize, patience: bool, deadline: Instant) -> Result<Bytes, Missing> {
        loop {
            if let Some(lent) = self.lending.get(&part.key) {
                return Ok(lent.slice(from));
            }
            if let Some(bytes) =
                self.tiers.memory(&part.key).and_then(Value::into_part).filter(|it| it.len() == part.length)
            {
                return Ok(self.hand_out(part, bytes, from, self.lending.budget().take_to_read(part.length)));
            }
            let mut room = self.lending.room(part.length).await;
            let missing = match self.find(part, deadline, patience).await {
                Ok(bytes) => return Ok(self.hand_out(part, bytes, from, room.held.take())),
                Err(missing) => missing,
            };
            drop(room);
            let again = Instant::now() + LOOK_AGAIN;
            if missing == Missing::Gone || !patience || again >= deadline {
                return Err(missing);
            }
            sleep_until(again).await;
        }
    }

    /// Looks for a part where it takes time.
    async fn find(&self, part: &PartRef, deadline: Instant, patience: bool) -> Result<Bytes, Missing> {
        let mut missing = Missing::Gone;
        match timeout_at(deadline, self.tiers.disk_part(&part.key, part.length)).await {
            Ok(Some(value)) => match value.into_part().filter(|bytes| part.is(bytes)) {
                Some(bytes) => return Ok(bytes),
                None => self.tiers.remove(&part.key),
            },
            Ok(None) => {}
            Err(_) => missing = Missing::NoReply,
        }
        let limit = deadline.saturating_duration_since(Instant::now());
        match self.tiers.redis_part(&part.key, limit, patience).await {
            TierReply::Found(value) => {
                if let Some(bytes) = value.into_part().filter(|bytes| part.is(bytes)) {
                    self.tiers.insert_local(part.key, Value::Part(bytes.clone()));
                    return Ok(bytes);
                }
            }
            TierReply::Missing => {}
            TierReply::NoReply => missing = Missing::NoReply,
        }
        Err(missing)
    }

    /// A part's bytes from `from` on; without room for all of it, a copy of some.
    fn hand_out(&self, part: &PartRef, bytes: Bytes, from: usize, held: Option<Held>) -> Bytes {
        if let Some(held) = held {
            return self.lending.lend(part.key, bytes, held).slice(from);
        }
        let to = from.saturating_add(SCARCE_BYTES).min(bytes.len());
        self.copied(bytes.get(from..to).unwrap_or_default())
    }

    /// A window of what is stored, copied, if a tier still has it.
    async fn window(&self, windows: &Windows, window: &PartRef) -> Result<Bytes, Missing> {
        let cut = |value| windows.cut(window, value).map(|bytes| self.copied(&bytes));
        if let Some(piece) = self.tiers.memory(&window.key).and_then(cut) {
            return Ok(piece);
        }
        // All of it is there for a moment.
        let _turn = self.lending.turn().await;
        let deadline = Instant::now() + self.config.part_time;
        let mut missing = Missing::Gone;
        match timeout_at(deadline, self.tiers.disk(&window.key)).await {
            Ok(value) => {
                if let Some(piece) = value.and_then(cut) {
                    return Ok(piece);
                }
            }
            Err(_) => missing = Missing::NoReply,
        }
        let limit = deadline.saturating_duration_since(Instant::now());
        match self.tiers.redis_part(&window.key, limit, true).await {
            TierReply::Found(value) => cut(value).ok_or(missing),
            TierReply::Missing => Err(missing),
            TierReply::NoReply => Err(Missing::NoReply),
        }
    }

    /// A copy of at most [`SCARCE_BYTES`], counted as held whether or not there is room for it.
    fn copied(&self, piece: &[u8]) -> Bytes {
        self.lending.budget().force(piece.len()).over(piece.to_vec())
    }
}

/// Makes a body of its pieces as they are fetched, `left` bytes of it if that is known.
#[must_use]
pub fn of_pieces(pieces: BoxStream<'static, Result<Bytes, BodyError>>, left: Option<u64>) -> Body {
    Body::stream(Pieces { pieces: Some(pieces), left })
}

/// The pieces of a body as they are fetched.
struct Pieces {
    /// Gone once the end, or an error, has been given.
    pieces: Option<BoxStream<'static, Result<Bytes, BodyError>>>,
    left: Option<u64>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(pieces) = &mut self.pieces else { return Poll::Ready(None) };
        let piece = ready!(pieces.poll_next_unpin(cx));
        if let (Some(Ok(bytes)), Some(left)) = (&piece, &mut self.left) {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        // Whatever is held for reading on is given back with the last piece, not when the client has taken it.
        if !matches!(piece, Some(Ok(_))) || self.left == Some(0) {
            self.pieces = None;
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
