//! A body: nothing, one piece of bytes, or a stream of pieces.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use thiserror::Error;
use tokio::sync::mpsc;

/// Why a body could not be read to its end. Cloneable, because one failed fetch fails all requests that wait for it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BodyError {
    /// More bytes than the limit allows.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// No byte arrived for too long.
    #[error("no byte of the body arrived for {idle_ms} ms")]
    Stalled {
        /// The limit in milliseconds.
        idle_ms: u64,
    },
    /// The client was slower than it may be.
    #[error("the client was slower than {rate} bytes a second over {window_ms} ms")]
    TooSlow {
        /// The least rate in bytes a second.
        rate: u64,
        /// The window over which it is measured, in milliseconds.
        window_ms: u64,
    },
    /// The body ended before its declared end, or its framing was broken.
    #[error("the body broke off: {0}")]
    Broken(String),
}

/// A body that was read as far as a limit allows.
#[derive(Debug)]
pub enum Bounded {
    /// All of it.
    Whole(Bytes),
    /// It is longer, or ends with trailers: still the whole body, with what has been read of it.
    Longer(Body),
}

/// A stream of body frames.
pub type Stream = Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>;

/// A request or response body.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// All bytes, in memory; shared, never copied.
    Full(Bytes),
    /// Frames as they arrive.
    Stream(Stream),
}

impl Body {
    /// Wraps any stream of frames.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error = BodyError> + Send + 'static,
    {
        Self::Stream(Box::pin(body))
    }

    /// Returns a body fed by its [`Sender`], `depth` pieces ahead of the reader. Dropping the sender ends it; to break
    /// it off use [`Sender::fail`].
    #[must_use]
    pub fn channel(depth: usize, length: Option<u64>) -> (Sender, Self) {
        let (sender, pieces) = mpsc::channel(depth);
        (Sender(sender), Self::stream(Channel { pieces, left: length }))
    }

    /// Returns the body, which fails with [`BodyError::TooLarge`] past `limit` bytes if it is a stream.
    #[must_use]
    pub fn limited(self, limit: u64) -> Self {
        match self {
            Self::Stream(stream) => Self::stream(Limited { stream, limit, left: limit }),
            whole => whole,
        }
    }

    /// Reads the whole body into one piece.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] past `limit` bytes, or what the stream itself fails with.
    pub async fn collect(self, limit: u64) -> Result<Bytes, BodyError> {
        Ok(self.collect_with_trailers(limit).await?.0)
    }

    /// Reads the body into one piece, as far as `limit` bytes. What is longer can be sent on as it came.
    ///
    /// # Errors
    /// What the stream itself fails with.
    pub async fn collect_bounded(self, limit: u64) -> Result<Bounded, BodyError> {
        let mut stream = match self {
            Self::Empty => return Ok(Bounded::Whole(Bytes::new())),
            Self::Full(bytes) if bytes.len() as u64 <= limit => return Ok(Bounded::Whole(bytes)),
            Self::Full(_) => return Ok(Bounded::Longer(self)),
            Self::Stream(stream) if stream.size_hint().lower() > limit => {
                return Ok(Bounded::Longer(Self::Stream(stream)));
            }
            Self::Stream(stream) => stream,
        };
        let mut ahead = Gathered::default();
        while let Some(frame) = stream.frame().await {
            let next = match frame?.into_data() {
                Ok(data) => {
                    ahead.push(data);
                    None
                }
                Err(other) => Some(other),
            };
            if next.is_some() || ahead.len() > limit {
                let ahead = ahead.finish();
                return Ok(Bounded::Longer(Self::stream(Resumed { ahead, next, rest: stream })));
            }
        }
        Ok(Bounded::Whole(ahead.finish()))
    }

    /// Reads the whole body into one piece, and the trailers after it.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] past `limit` bytes, or what the stream itself fails with.
    pub async fn collect_with_trailers(self, limit: u64) -> Result<(Bytes, HeaderMap), BodyError> {
        let mut trailers = HeaderMap::new();
        let mut stream = match self {
            Self::Empty => return Ok((Bytes::new(), trailers)),
            Self::Full(bytes) if bytes.len() as u64 > limit => return Err(BodyError::TooLarge { limit }),
            Self::Full(bytes) => return Ok((bytes, trailers)),
            Self::Stream(stream) => stream,
        };
        if stream.size_hint().lower() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        let mut whole = Gathered::default();
        while let Some(frame) = stream.frame().await {
            match frame?.into_data() {
                Ok(data) => whole.push(data),
                Err(other) => trailers.extend(other.into_trailers().unwrap_or_default()),
            }
            if whole.len() > limit {
                return Err(BodyError::TooLarge { limit });
            }
        }
        Ok((whole.finish(), trailers))
    }
}

/// A stream of so many bytes at most.
struct Limited {
    stream: Stream,
    limit: u64,
    left: u64,
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(self.stream.as_mut().poll_frame(cx));
        let length = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len) as u64,
            _ => 0,
        };
        let left = self.left.checked_sub(length);
        // Nothing comes after it has been too much.
        self.left = left.unwrap_or(0);
        Poll::Ready(if left.is_some() { frame } else { Some(Err(BodyError::TooLarge { limit: self.limit })) })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.size_hint()
    }
}

/// Feeds a body made by [`Body::channel`].
#[derive(Debug)]
pub struct Sender(mpsc::Sender<Result<Bytes, BodyError>>);

/// The error of a body whose reader is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread;

impl Sender {
    /// Adds a piece; waits while the reader lags.
    ///
    /// # Errors
    /// [`Unread`] if the reader is gone.
    pub async fn send(&self, piece: Bytes) -> Result<(), Unread> {
        self.0.send(Ok(piece)).await.map_err(|_| Unread)
    }

    /// Returns when the reader is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    /// Breaks the body off.
    pub async fn fail(self, error: BodyError) {
        // If the reader is gone, the error has no receiver.
        let _ = self.0.send(Err(error)).await;
    }
}

struct Channel {
    pieces: mpsc::Receiver<Result<Bytes, BodyError>>,
    left: Option<u64>,
}

impl HttpBody for Channel {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = self.pieces.poll_recv(cx);
        if let (Poll::Ready(Some(Ok(bytes))), Some(left)) = (&piece, &mut self.left) {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        piece.map(|piece| piece.map(|result| result.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body of which the beginning has been read.
struct Resumed {
    ahead: Bytes,
    /// What came after that and is no data.
    next: Option<Frame<Bytes>>,
    rest: Stream,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.ahead)))));
        }
        match this.next.take() {
            Some(next) => Poll::Ready(Some(Ok(next))),
            None => this.rest.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.next.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, ahead) = (self.rest.size_hint(), self.ahead.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ahead));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint
    }
}

/// Pieces of a body, joined without a copy when there is only one.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    joined: BytesMut,
}

impl Gathered {
    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = data;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.joined.extend_from_slice(&data);
    }

    fn len(&self) -> u64 {
        (self.first.len() + self.joined.len()) as u64
    }

    fn finish(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Stream(stream) => stream.as_mut().poll_frame(cx),
            Self::Empty => Poll::Ready(None),
            Self::Full(_) => match std::mem::take(this) {
                Self::Full(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Full(text.into())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Stream(stream) => write!(f, "Stream({:?})", stream.size_hint()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_piece_is_collected_without_a_copy_and_the_limit_holds() {
        let piece = Bytes::from_static(b"0123456789");
        let kept = Body::Full(piece.clone()).collect(10).await.unwrap();
        assert_eq!(kept.as_ptr(), piece.as_ptr());
        assert_eq!(Body::Full(piece).collect(9).await, Err(BodyError::TooLarge { limit: 9 }));
    }

    #[tokio::test]
    async fn a_limited_stream_fails_with_the_first_byte_too_many() {
        for (limit, wanted) in [(6, Ok("abcdef")), (5, Err(BodyError::TooLarge { limit: 5 }))] {
            let (sender, body) = Body::channel(2, None);
            for piece in ["abc", "def"] {
                sender.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
            }
            drop(sender);
            let read = body.limited(limit).collect(100).await;
            assert_eq!(read.as_deref(), wanted.as_ref().map(|text| text.as_bytes()), "{limit}");
        }
    }

    /// A stream of these pieces that states no length, and ends with a trailer if there is one.
    fn pieces(pieces: &[&'static str], trailer: bool) -> Body {
        let data = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let mut frames: Vec<Result<Frame<Bytes>, BodyError>> = data.collect();
        if trailer {
            let field = (http::header::ETAG, http::HeaderValue::from_static("\"t\""));
            frames.push(Ok(Frame::trailers([field].into_iter().collect())));
        }
        Body::stream(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
    }

    #[tokio::test]
    async fn what_is_longer_than_the_limit_is_still_whole() {
        for (given, trailer, limit, is_whole) in [
            (&["abc", "def"][..], false, 6, true),
            (&["abc", "def"], false, 5, false),
            (&["abc", "def"], false, 2, false),
            (&["abc"], true, 9, false),
            (&[], true, 9, false),
            (&[], false, 0, true),
        ] {
            let what = format!("{given:?}, trailer {trailer}, limit {limit}");
            let read = match pieces(given, trailer).collect_bounded(limit).await.unwrap() {
                Bounded::Whole(bytes) => {
                    assert!(is_whole, "{what}");
                    (bytes, HeaderMap::new())
                }
                Bounded::Longer(body) => {
                    assert!(!is_whole, "{what}");
                    body.collect_with_trailers(100).await.unwrap()
                }
            };
            assert_eq!((&read.0[..], read.1.len()), (given.concat().as_bytes(), usize::from(trailer)), "{what}");
        }
        let full = Body::Full(Bytes::from_static(b"abc"));
        assert!(matches!(full.collect_bounded(2).await, Ok(Bounded::Longer(Body::Full(bytes))) if bytes.len() == 3));
    }
}
