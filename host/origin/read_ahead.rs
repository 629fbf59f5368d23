//! Request bodies, read before their request takes a place at an endpoint, so that a client that sends slowly holds none.
//!
//! A body that states its length is read to its end: up to `limits.body_buffered_bytes_max` into memory, what goes beyond
//! into a file. One that states none may be a stream by design, whose client waits for something before it sends more: it
//! is read ahead for [`STREAM_AFTER`] (of gRPC, which streams more often, for less), and if it hasn't ended by then, the
//! request goes on its way with what there is and the rest follows as it comes. So does a body for which its client or the node has no room. Those streams hold a place
//! while their client is waited for, so an endpoint lends them a share of its places only, and the listener holds them to a
//! minimum rate.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    spool::{READ_BYTES, Room, Scratch, Segment, Stash, Stored},
    trailers::passed_on,
};
use crate::message::{self, Body, BodyError};

/// How long a body without a stated length is read ahead.
const STREAM_AFTER: Duration = Duration::from_millis(500);

/// How long one of gRPC is: a call of one message ends at once, and one of several waits for what comes back.
const GRPC_STREAM_AFTER: Duration = Duration::from_millis(20);

/// The last piece of a body that is let in although there is no room.
const LAST_BYTES: usize = 64 * 1024;

/// A request body that has been read ahead.
pub(super) enum ReadAhead {
    /// To its end.
    Whole(Arc<Whole>),
    /// Not to its end; the rest comes as the client sends it.
    Streams(Body),
}

/// Returns how long the body of a request with these fields is read ahead, if it has no stated length.
pub(super) fn patience(headers: &HeaderMap) -> Duration {
    if message::is_grpc(headers) { GRPC_STREAM_AFTER } else { STREAM_AFTER }
}

/// Reads a body as far as it is read before its request takes a place; one without a stated length for as long as
/// `patience`.
///
/// # Errors
/// What the body fails with.
pub(super) async fn read_ahead(mut body: Body, room: &Room, patience: Duration) -> Result<ReadAhead, BodyError> {
    let may_stream = body.size_hint().exact().is_none();
    let mut patience = pin!(sleep(patience));
    let mut ahead = Ahead::new(room);
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = &mut patience, if may_stream => return Ok(ReadAhead::Streams(ahead.resumed(Bytes::new(), body))),
        };
        let Some(frame) = frame else { return Ok(ReadAhead::Whole(Arc::new(ahead.whole()))) };
        let piece = match frame?.into_data() {
            Ok(piece) => piece,
            Err(other) => {
                ahead.trailers = other.into_trailers().ok().map(passed_on);
                continue;
            }
        };
        if let Some(piece) = ahead.store(piece).await {
            if body.is_end_stream() && piece.len() <= LAST_BYTES {
                // So little is let in when there is no room, too: those who take the room must not stop everybody.
                ahead.stash.force(&piece);
                return Ok(ReadAhead::Whole(Arc::new(ahead.whole())));
            }
            return Ok(ReadAhead::Streams(ahead.resumed(piece, body)));
        }
    }
}

/// What has been read so far.
struct Ahead {
    stash: Stash,
    scratch: Scratch,
    /// Bytes that may still go to memory.
    memory: usize,
    /// Bytes in the file.
    filed: u64,
    trailers: Option<HeaderMap>,
}

impl Ahead {
    fn new(room: &Room) -> Self {
        let memory = room.spool().buffered_max;
        Self { stash: Stash::new(room), scratch: Scratch::new(room), memory, filed: 0, trailers: None }
    }

    /// Stores a piece; returned if there is no room.
    async fn store(&mut self, mut piece: Bytes) -> Option<Bytes> {
        let len = piece.len();
        if len <= self.memory {
            match self.stash.push(piece) {
                Ok(()) => {
                    self.memory -= len;
                    return None;
                }
                Err(back) => piece = back,
            }
        }
        if !self.scratch.write(&piece, self.filed).await {
            return Some(piece);
        }
        self.stash.push_filed(self.filed, len as u64);
        self.filed += len as u64;
        None
    }

    fn whole(self) -> Whole {
        Whole { stored: self.stash.finish(), scratch: self.scratch, trailers: self.trailers }
    }

    /// All that was read, then this piece, then the rest.
    fn resumed(self, piece: Bytes, rest: Body) -> Body {
        Body::stream(Resumed { ahead: Some(Replay::new(Arc::new(self.whole()))), piece, rest })
    }
}

/// A body that is there as a whole, and its file.
pub(super) struct Whole {
    stored: Stored,
    scratch: Scratch,
    trailers: Option<HeaderMap>,
}

impl Whole {
    /// No bytes, and nothing after them.
    pub(super) const fn is_empty(&self) -> bool {
        self.stored.len == 0 && self.trailers.is_none()
    }
}

/// Reads a whole body from its beginning.
pub(super) struct Replay {
    whole: Arc<Whole>,
    /// Number of the segment that is being read.
    segment: usize,
    /// Bytes of it that have been read, if it is in the file.
    offset: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// The trailers are yet to be read.
    trails: bool,
}

impl Replay {
    pub(super) fn new(whole: Arc<Whole>) -> Self {
        let (left, trails) = (whole.stored.len, whole.trailers.is_some());
        Self { whole, segment: 0, offset: 0, left, reading: None, trails }
    }

    /// Whether all has been read.
    pub(super) const fn is_over(&self) -> bool {
        self.left == 0 && !self.trails
    }

    /// The next piece, and after the last one the trailers.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = ready!(self.poll_piece(cx)) {
            return Poll::Ready(Some(piece.map(Frame::data)));
        }
        let trailers = if std::mem::take(&mut self.trails) { self.whole.trailers.clone() } else { None };
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    /// Bytes that are yet to be read.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// The next piece.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let read = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                return Poll::Ready(Some(self.took(read.unwrap_or_else(|panicked| Err(io::Error::other(panicked))))));
            }
            match self.whole.stored.segments.get(self.segment) {
                None => return Poll::Ready(None),
                Some(Segment::Memory(bytes)) => {
                    self.segment += 1;
                    self.left = self.left.saturating_sub(bytes.len() as u64);
                    return Poll::Ready(Some(Ok(bytes.clone())));
                }
                Some(Segment::Filed { len, .. }) if self.offset >= *len => {
                    self.segment += 1;
                    self.offset = 0;
                }
                Some(Segment::Filed { at, len }) => {
                    let piece = (len - self.offset).min(READ_BYTES as u64);
                    self.reading = Some(self.whole.scratch.read(at + self.offset, piece));
                }
            }
        }
    }

    fn took(&mut self, read: io::Result<Bytes>) -> Result<Bytes, BodyError> {
        let bytes = read.map_err(|error| {
            tracing::warn!(%error, "a request body that waited can't be read back");
            BodyError::Broken(format!("what waited can't be read: {error}"))
        })?;
        self.offset += bytes.len() as u64;
        self.left = self.left.saturating_sub(bytes.len() as u64);
        Ok(bytes)
    }
}

/// A body of which the beginning has been read ahead.
struct Resumed {
    /// Gone once it has been read: it isn't read again, and its room is for others.
    ahead: Option<Replay>,
    /// Found no room; empty if there is none.
    piece: Bytes,
    rest: Body,
}

impl Resumed {
    /// Bytes that are there and have yet to be handed on.
    fn left(&self) -> u64 {
        self.ahead.as_ref().map_or(0, Replay::left) + self.piece.len() as u64
    }
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(ahead) = &mut this.ahead {
            if let Some(frame) = ready!(ahead.poll_frame(cx)) {
                return Poll::Ready(Some(frame));
            }
            this.ahead = None;
        }
        if !this.piece.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.piece)))));
        }
        Pin::new(&mut this.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        let is_over = self.ahead.as_ref().is_none_or(Replay::is_over) && self.piece.is_empty();
        is_over && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (ahead, rest) = (self.left(), self.rest.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http::{HeaderName, HeaderValue};
    use http_body_util::StreamBody;

    use super::*;
    use crate::{
        config,
        origin::{metrics::Metrics, spool::Spool},
    };

    fn spool(buffered: usize, memory: usize, disk: u64) -> Arc<Spool> {
        let limits = config::Limits {
            body_buffered_bytes_max: buffered,
            spool_memory_bytes_max: memory,
            spool_bytes_max: disk,
            ..config::Limits::default()
        };
        Spool::new(&limits, &Metrics::new())
    }

    /// `pieces` of 1,000 bytes each, stated to be so many.
    async fn sent(pieces: usize) -> Body {
        let (sender, body) = Body::channel(pieces, Some(pieces as u64 * 1_000));
        for piece in 0..pieces {
            sender.send(vec![u8::try_from(piece).unwrap(); 1_000].into()).await.unwrap();
        }
        body
    }

    fn expected(pieces: usize) -> Vec<u8> {
        (0..pieces).flat_map(|piece| vec![u8::try_from(piece).unwrap(); 1_000]).collect()
    }

    async fn replayed(whole: &Arc<Whole>) -> Vec<u8> {
        let (mut replay, mut bytes) = (Replay::new(Arc::clone(whole)), Vec::new());
        while let Some(piece) = std::future::poll_fn(|cx| replay.poll_piece(cx)).await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(replay.left(), 0);
        bytes
    }

    #[tokio::test]
    async fn a_whole_body_is_read_from_memory_and_file_as_often_as_wanted() {
        for (buffered, memory, disk) in [(1 << 20, 1 << 20, 0), (5_500, 1 << 20, 1 << 20), (1 << 20, 0, 1 << 20)] {
            let spool = spool(buffered, memory, disk);
            let ReadAhead::Whole(whole) = read_ahead(sent(20).await, &spool.room(None), STREAM_AFTER).await.unwrap()
            else {
                panic!("whole")
            };
            assert_eq!(replayed(&whole).await, expected(20));
            assert_eq!(replayed(&whole).await, expected(20));
            drop(whole);
            assert_eq!(spool.used(), (0, 0));
        }
    }

    #[tokio::test]
    async fn a_body_without_room_streams_from_its_beginning_with_its_length() {
        let spool = spool(3_000, 1 << 20, 4_000);
        let ReadAhead::Streams(body) = read_ahead(sent(20).await, &spool.room(None), STREAM_AFTER).await.unwrap()
        else {
            panic!("a stream")
        };
        assert_eq!(body.size_hint().exact(), Some(20_000));
        assert_eq!(body.collect(20_000).await.unwrap(), expected(20));
        assert_eq!(spool.used(), (0, 0));
    }

    #[tokio::test]
    async fn what_was_read_ahead_of_a_stream_gives_its_room_back_when_it_has_been_sent() {
        let spool = spool(100, 100, 100);
        let (sender, body) = Body::channel(2, None);
        sender.send(Bytes::from_static(b"first")).await.unwrap();
        let ReadAhead::Streams(mut body) = read_ahead(body, &spool.room(None), STREAM_AFTER).await.unwrap() else {
            panic!("a stream")
        };
        assert_eq!(spool.used(), (5, 0));
        for piece in ["first", "second"] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
            sender.send(Bytes::from_static(b"second")).await.unwrap();
        }
        assert_eq!(spool.used(), (0, 0), "although its end has yet to come");
    }

    #[tokio::test]
    async fn trailers_are_replayed_too() {
        let trailers = || HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("1"))]);
        for data in ["", "data"] {
            let frames = [Ok(Frame::data(Bytes::from_static(data.as_bytes()))), Ok(Frame::trailers(trailers()))];
            let body = Body::stream(StreamBody::new(stream::iter(frames)));
            let spool = spool(100, 100, 100);
            let ReadAhead::Whole(whole) = read_ahead(body, &spool.room(None), STREAM_AFTER).await.unwrap() else {
                panic!("whole")
            };
            assert!(!whole.is_empty());
            for _ in 0..2 {
                let (mut replay, mut bytes) = (Replay::new(Arc::clone(&whole)), Vec::new());
                let found = loop {
                    let frame = std::future::poll_fn(|cx| replay.poll_frame(cx)).await.unwrap().unwrap();
                    match frame.into_data() {
                        Ok(piece) => bytes.extend_from_slice(&piece),
                        Err(other) => break other.into_trailers().unwrap(),
                    }
                };
                assert_eq!((bytes.as_slice(), found), (data.as_bytes(), trailers()));
                assert!(replay.is_over());
                assert!(std::future::poll_fn(|cx| replay.poll_frame(cx)).await.is_none());
            }
        }
    }

    #[tokio::test]
    async fn a_body_without_a_length_that_pauses_streams() {
        let (sender, body) = Body::channel(2, None);
        sender.send(Bytes::from_static(b"first ")).await.unwrap();
        let ahead = read_ahead(body, &spool(100, 100, 100).room(None), STREAM_AFTER).await.unwrap();
        let ReadAhead::Streams(body) = ahead else { panic!("a stream") };
        sender.send(Bytes::from_static(b"second")).await.unwrap();
        drop(sender);
        assert_eq!(body.collect(100).await.unwrap(), "first second");
    }
}
