//! The request body on its way to an endpoint.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    outbound::OutboundBody,
    read_ahead::{ReadAhead, Replay, Whole, read_ahead},
    spool::Room,
    trailers::passed_on,
};
use crate::message::{Body, BodyError};

/// A request body between attempts.
pub(super) enum Payload {
    /// At hand; perhaps no bytes at all.
    Whole(Bytes),
    /// Read to its end, and waiting in memory or in a file.
    Stored(Arc<Whole>),
    /// Lent to one attempt at a time; it comes home if that attempt took nothing of it.
    Once(BodySlot),
}

type BodySlot = Arc<Mutex<Home>>;

/// The place of a body that is lent.
pub(super) struct Home {
    body: Option<Body>,
    /// What it failed with on its way.
    failure: Option<BodyError>,
}

/// Returns the place of a body that is at home.
fn at_home(body: Body) -> BodySlot {
    Arc::new(Mutex::new(Home { body: Some(body), failure: None }))
}

impl Payload {
    /// Takes what the caller brought.
    pub(super) fn new(body: OutboundBody) -> Self {
        match body {
            OutboundBody::Empty | OutboundBody::Once(Body::Empty) => Self::Whole(Bytes::new()),
            OutboundBody::Replayable(bytes) | OutboundBody::Once(Body::Full(bytes)) => Self::Whole(bytes),
            OutboundBody::Once(body) if body.is_end_stream() => Self::Whole(Bytes::new()),
            OutboundBody::Once(body) => Self::Once(at_home(body)),
        }
    }

    /// No bytes.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    /// Whether some of it is yet to come from the client.
    pub(super) const fn comes_in(&self) -> bool {
        matches!(self, Self::Once(_))
    }

    /// Reads as much of it as is read before the request takes a place, if some of it is yet to come; without a stated
    /// length for as long as `patience`.
    ///
    /// # Errors
    /// What the body fails with.
    pub(super) async fn read_ahead(&mut self, room: &Room, patience: Duration) -> Result<(), BodyError> {
        let Self::Once(slot) = self else { return Ok(()) };
        let Some(body) = slot.lock().body.take() else { return Ok(()) };
        *self = match read_ahead(body, room, patience).await? {
            ReadAhead::Whole(whole) if whole.is_empty() => Self::Whole(Bytes::new()),
            ReadAhead::Whole(whole) => Self::Stored(whole),
            ReadAhead::Streams(body) => Self::Once(at_home(body)),
        };
        Ok(())
    }

    /// Whether it is available for an attempt (again).
    pub(super) fn is_available(&self) -> bool {
        match self {
            Self::Whole(_) | Self::Stored(_) => true,
            Self::Once(slot) => slot.lock().body.is_some(),
        }
    }

    /// Returns what it failed with while it was sent as it came.
    pub(super) fn failure(&self) -> Option<BodyError> {
        match self {
            Self::Whole(_) | Self::Stored(_) => None,
            Self::Once(slot) => slot.lock().failure.clone(),
        }
    }

    /// Like [`Payload::lend`], for a request that states the expectation of 100: a body that is yet to come waits for the
    /// endpoint's word.
    pub(super) fn lend_at_word(&self, word: watch::Receiver<Word>) -> (Upload, Option<watch::Receiver<WaitsFor>>) {
        let (mut upload, progress) = self.lend();
        if let Upload::Once(borrowed) = &mut upload {
            borrowed.gate = Some(Box::pin(word_from(word)));
        }
        (upload, progress)
    }

    /// The body for one attempt and, if it comes in piece by piece, a watcher of the side that it waits for.
    pub(super) fn lend(&self) -> (Upload, Option<watch::Receiver<WaitsFor>>) {
        match self {
            Self::Whole(bytes) => (Upload::Whole(bytes.clone()), None),
            Self::Stored(whole) => {
                let (progress, watcher) = watch::channel(WaitsFor::Endpoint);
                (Upload::Stored(Replay::new(Arc::clone(whole)), progress), Some(watcher))
            }
            Self::Once(slot) => {
                let (progress, watcher) = watch::channel(WaitsFor::Endpoint);
                let body = slot.lock().body.take();
                let slot = Arc::clone(slot);
                let borrowed = BorrowedBody { body, slot, taken: false, progress: Some(progress), gate: None };
                (Upload::Once(borrowed), Some(watcher))
            }
        }
    }
}

/// The side that has to act before more of a body can be sent. Only the time spent waiting for the endpoint counts
/// against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// The client, to send more.
    Client,
    /// The endpoint, to take what there is.
    Endpoint,
}

/// The endpoint's word about a body that it was told to expect (RFC 9110, section 10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// None yet.
    Awaited,
    /// It is to be sent.
    Continue,
    /// The endpoint has responded without it.
    Responded,
}

/// How long an endpoint may take for its word: many don't know the expectation, and wait for the body.
const WORD_AFTER: Duration = Duration::from_secs(1);

/// How long the rest of a response may take whose request's body isn't sent. The connection then ends, since the body
/// that it was told of doesn't come.
const UNSENT_LINGER: Duration = Duration::from_secs(30);

/// Returns whether the body is to be sent.
async fn word_from(mut word: watch::Receiver<Word>) -> bool {
    let known = timeout(WORD_AFTER, word.wait_for(|word| *word != Word::Awaited)).await;
    !matches!(known, Ok(Ok(said)) if *said == Word::Responded)
}

/// A request body in one attempt.
pub(super) enum Upload {
    /// All bytes at once.
    Whole(Bytes),
    /// From memory and file, each piece news of progress.
    Stored(Replay, watch::Sender<WaitsFor>),
    /// Piece by piece.
    Once(BorrowedBody),
}

impl Upload {
    /// No bytes.
    pub(super) const fn empty() -> Self {
        Self::Whole(Bytes::new())
    }
}

/// A body that goes home when it is dropped untouched.
pub(super) struct BorrowedBody {
    body: Option<Body>,
    slot: BodySlot,
    taken: bool,
    progress: Option<watch::Sender<WaitsFor>>,
    /// Whether it is to be sent, until that is known.
    gate: Option<BoxFuture<'static, bool>>,
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stored(replay, progress) => {
                let frame = replay.poll_frame(cx);
                if frame.is_ready() {
                    progress.send_replace(WaitsFor::Endpoint);
                }
                frame
            }
            Self::Once(borrowed) => borrowed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stored(replay, _) => replay.is_over(),
            Self::Once(borrowed) => {
                borrowed.gate.is_none() && borrowed.body.as_ref().is_none_or(HttpBody::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stored(replay, _) => SizeHint::with_exact(replay.left()),
            Self::Once(borrowed) => borrowed.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint),
        }
    }
}

impl BorrowedBody {
    /// Ready once the body may be sent.
    ///
    /// # Errors
    /// It isn't to be sent any more.
    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while let Some(gate) = &mut self.gate {
            if ready!(gate.as_mut().poll(cx)) {
                self.gate = None;
            } else if self.body.take().is_some() {
                // The client is to know at once that nobody wants it.
                self.gate = Some(Box::pin(async {
                    sleep(UNSENT_LINGER).await;
                    false
                }));
            } else {
                self.gate = None;
                return Poll::Ready(Err(BodyError::Broken("the endpoint has responded without it".to_owned())));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The next piece, or the trailers.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(error) = ready!(self.poll_gate(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
            let frame = match Pin::new(body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    self.waits_for(WaitsFor::Client);
                    return Poll::Pending;
                }
            };
            self.taken = true;
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    self.waits_for(WaitsFor::Endpoint);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Ok(Err(other))) => {
                    let Ok(trailers) = other.into_trailers() else { continue };
                    return Poll::Ready(Some(Ok(Frame::trailers(passed_on(trailers)))));
                }
                Some(Err(error)) => {
                    self.slot.lock().failure = Some(error.clone());
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    // Dropping the sender says that all has been sent.
                    self.progress = None;
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// Reports to the attempt which side the body waits for, at each piece.
    fn waits_for(&self, whom: WaitsFor) {
        let Some(progress) = &self.progress else { return };
        progress.send_if_modified(|known| {
            let news = whom == WaitsFor::Endpoint || *known != whom;
            *known = whom;
            news
        });
    }
}

impl Drop for BorrowedBody {
    fn drop(&mut self) {
        if !self.taken {
            self.slot.lock().body = self.body.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    fn stream(bytes: &'static [u8]) -> Body {
        Body::stream(Full::new(Bytes::from_static(bytes)).map_err(|never| -> BodyError { match never {} }))
    }

    #[test]
    fn which_bodies_can_be_sent_again_from_the_start() {
        let cases = [
            ("empty", OutboundBody::Empty, true),
            ("at hand", OutboundBody::Once(Body::Full(Bytes::from_static(b"a"))), true),
            ("an empty stream", OutboundBody::Once(stream(b"")), true),
            ("a stream", OutboundBody::Once(stream(b"a")), false),
        ];
        for (name, body, whole) in cases {
            assert_eq!(matches!(Payload::new(body), Payload::Whole(_)), whole, "{name}");
        }
    }

    #[tokio::test]
    async fn an_untouched_body_comes_home_and_a_touched_one_does_not() {
        let payload = Payload::new(OutboundBody::Once(stream(b"abc")));
        let (upload, _watcher) = payload.lend();
        assert_eq!(upload.size_hint().exact(), Some(3));
        assert!(!payload.is_available());
        drop(upload);
        assert!(payload.is_available());

        let (mut upload, _watcher) = payload.lend();
        assert_eq!(upload.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        drop(upload);
        assert!(!payload.is_available());
    }

    #[tokio::test]
    async fn the_end_of_the_body_ends_the_progress() {
        let payload = Payload::new(OutboundBody::Once(stream(b"abc")));
        let (mut upload, watcher) = payload.lend();
        let mut watcher = watcher.unwrap();
        upload.frame().await.unwrap().unwrap();
        assert!(watcher.changed().await.is_ok(), "a piece is news");
        assert!(upload.frame().await.is_none());
        assert!(watcher.changed().await.is_err());
    }

    #[tokio::test]
    async fn a_body_that_is_expected_waits_for_the_endpoints_word() {
        let short = Duration::from_millis(50);
        for (word, is_sent) in [(Word::Continue, true), (Word::Responded, false)] {
            let payload = Payload::new(OutboundBody::Once(stream(b"abc")));
            let (said, heard) = watch::channel(Word::Awaited);
            let (mut upload, _watcher) = payload.lend_at_word(heard);
            assert!(timeout(short, upload.frame()).await.is_err(), "{word:?}: nothing is known yet");
            assert!(!upload.is_end_stream());
            said.send_replace(word);
            if is_sent {
                assert_eq!(upload.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
            } else {
                assert!(timeout(short, upload.frame()).await.is_err(), "its response may still be arriving");
                drop(upload);
                assert!(!payload.is_available(), "its client has been told that nobody wants it");
            }
        }
    }
}
