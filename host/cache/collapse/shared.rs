//! A body that many read while it arrives. What is to be kept is held whole, so that one who comes late starts at the
//! beginning; what isn't kept is held only between the slowest reader and the fetch, and the fetch waits for it.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use crate::message::BodyError;

/// The body, for whom it's written and from whom it's read. Clones are the same body.
#[derive(Clone, Debug)]
pub struct SharedBody(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    pieces: VecDeque<Bytes>,
    /// Number of the piece at the front.
    first: u64,
    buffered: u64,
    length: Option<u64>,
    end: Option<Result<(), BodyError>>,
    keep: bool,
    lag_bytes_max: u64,
    readers: HashMap<u64, Place>,
    next_reader: u64,
    writer: Option<Waker>,
}

/// Where a reader is.
#[derive(Debug, Default)]
struct Place {
    next: u64,
    waker: Option<Waker>,
}

/// Nobody reads and nothing is kept: the fetch may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwanted;

impl SharedBody {
    /// An empty body of which `length` bytes are expected, if that's known.
    #[must_use]
    pub fn new(length: Option<u64>, lag_bytes_max: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            pieces: VecDeque::new(),
            first: 0,
            buffered: 0,
            length,
            end: None,
            keep: true,
            lag_bytes_max,
            readers: HashMap::new(),
            next_reader: 0,
            writer: None,
        })))
    }

    /// A body that is there already.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        let body = Self::new(Some(bytes.len() as u64), 0);
        body.0.lock().push(bytes);
        body.finish(Ok(()));
        body
    }

    /// Adds a piece; waits while it's not kept and the slowest reader lags too far behind.
    ///
    /// # Errors
    /// [`Unwanted`] if it's not kept and nobody reads.
    pub async fn push(&self, piece: Bytes) -> Result<(), Unwanted> {
        self.0.lock().push(piece);
        std::future::poll_fn(|cx| self.0.lock().poll_room(cx)).await
    }

    /// Ends the body; only the first end counts.
    pub fn finish(&self, end: Result<(), BodyError>) {
        let mut state = self.0.lock();
        state.end.get_or_insert(end);
        state.wake_readers();
    }

    /// Stops holding it whole. Only for a body that nobody can join any more.
    pub fn release(&self) {
        let mut state = self.0.lock();
        state.keep = false;
        state.trim();
    }

    /// Reads from the beginning.
    ///
    /// # Errors
    /// [`Unwanted`] if the beginning isn't held any more.
    pub fn reader(&self) -> Result<Reader, Unwanted> {
        let mut state = self.0.lock();
        // Of a body that is not kept and broke off, nothing is to be had but the breach.
        if !state.keep && (state.first > 0 || matches!(state.end, Some(Err(_)))) {
            return Err(Unwanted);
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, Place::default());
        Ok(Reader { body: self.clone(), id })
    }
}

impl State {
    fn push(&mut self, piece: Bytes) {
        self.buffered += piece.len() as u64;
        self.pieces.push_back(piece);
        self.wake_readers();
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unwanted>> {
        if self.keep || (self.buffered <= self.lag_bytes_max && !self.readers.is_empty()) {
            return Poll::Ready(Ok(()));
        }
        if self.readers.is_empty() {
            return Poll::Ready(Err(Unwanted));
        }
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_piece(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let first = self.first;
        let Some(place) = self.readers.get_mut(&id) else { return Poll::Ready(None) };
        // A reader's place is never before the first piece: `trim` drops only what all have read.
        let index = usize::try_from(place.next - first).unwrap_or(usize::MAX);
        if let Some(piece) = self.pieces.get(index) {
            let piece = piece.clone();
            place.next += 1;
            self.trim();
            return Poll::Ready(Some(Ok(piece)));
        }
        match &self.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error.clone()))),
            None => {
                place.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Drops what all readers have read, unless it's kept.
    fn trim(&mut self) {
        if self.keep {
            return;
        }
        let end = self.first + self.pieces.len() as u64;
        let slowest = self.readers.values().map(|place| place.next).min().unwrap_or(end);
        while self.first < slowest {
            let Some(piece) = self.pieces.pop_front() else { break };
            self.first += 1;
            self.buffered -= piece.len() as u64;
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn wake_readers(&mut self) {
        self.readers.values_mut().filter_map(|place| place.waker.take()).for_each(Waker::wake);
    }
}

/// One reader of a shared body.
#[derive(Debug)]
pub struct Reader {
    body: SharedBody,
    id: u64,
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = self.body.0.lock().poll_piece(self.id, cx);
        piece.map(|piece| piece.map(|result| result.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.body.0.lock();
        let read = state.readers.get(&self.id).is_some_and(|place| place.next > 0);
        // Exact only before the first piece: that is when a server asks for it.
        match state.length {
            Some(length) if !read => SizeHint::with_exact(length),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.body.0.lock();
        state.readers.remove(&self.id);
        state.trim();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn piece(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    async fn rest(reader: Reader) -> Result<Bytes, BodyError> {
        reader.collect().await.map(http_body_util::Collected::to_bytes)
    }

    #[tokio::test]
    async fn a_late_reader_of_a_kept_body_starts_at_the_beginning() {
        let body = SharedBody::new(None, 0);
        body.push(piece("a")).await.unwrap();
        let reader = body.reader().unwrap();
        let reading = tokio::spawn(rest(reader));
        body.push(piece("b")).await.unwrap();
        body.finish(Ok(()));
        assert_eq!(reading.await.unwrap(), Ok(piece("ab")));
        assert_eq!(rest(body.reader().unwrap()).await, Ok(piece("ab")));
    }

    #[tokio::test]
    async fn a_broken_body_is_an_error_for_all() {
        let body = SharedBody::new(Some(9), 0);
        body.push(piece("a")).await.unwrap();
        body.finish(Err(BodyError::Broken("reset".into())));
        assert_eq!(rest(body.reader().unwrap()).await, Err(BodyError::Broken("reset".into())));
    }

    #[tokio::test]
    async fn what_is_not_kept_waits_for_its_slowest_reader_and_ends_without_any() {
        let body = SharedBody::new(None, 1);
        let mut reader = body.reader().unwrap();
        body.release();
        body.push(piece("a")).await.unwrap();
        let pushing = tokio::spawn({
            let body = body.clone();
            async move { body.push(piece("b")).await }
        });
        assert_eq!(reader.frame().await.unwrap().unwrap().into_data().unwrap(), piece("a"));
        assert_eq!(pushing.await.unwrap(), Ok(()));
        assert!(body.reader().is_err(), "the beginning is gone");
        drop(reader);
        assert_eq!(body.push(piece("c")).await, Err(Unwanted));
    }
}
