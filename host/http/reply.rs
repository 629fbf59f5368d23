//! An answer's body on its way out.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::watch::{InFlight, Protocol};

/// What an HTTP/2 stream is handed at a time: a frame of the usual size.
const PIECE: usize = 16 * 1024;

/// Keeps its request in flight until the body is sent or given up, and on HTTP/2 notes whether the client takes it.
///
/// There a client can stop one stream while the socket stays writable, and hyper takes whatever it is handed: so it
/// gets small pieces, each only when the one before has found room.
pub(super) struct Reply<B> {
    body: B,
    /// What is left of the frame that is being handed over.
    rest: Bytes,
    pacing: Pacing,
    in_flight: InFlight,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pacing {
    /// The socket holds back by itself.
    None,
    /// The last piece has been taken.
    Taken,
    /// The last piece lies ready.
    Untaken,
}

impl<B> Reply<B> {
    pub(super) fn new(body: B, protocol: Protocol, in_flight: InFlight) -> Self {
        let pacing = match protocol {
            Protocol::Http1 => Pacing::None,
            Protocol::Http2 => Pacing::Taken,
        };
        Self { body, rest: Bytes::new(), pacing, in_flight }
    }

    fn give(&mut self) -> Bytes {
        self.pacing = Pacing::Untaken;
        self.in_flight.activity().gave_piece();
        let len = self.rest.len().min(PIECE);
        self.rest.split_to(len)
    }

    fn taken(&mut self) {
        if self.pacing == Pacing::Untaken {
            self.pacing = Pacing::Taken;
            self.in_flight.activity().piece_taken();
        }
    }
}

impl<B> Drop for Reply<B> {
    fn drop(&mut self) {
        self.taken();
    }
}

impl<B> Body for Reply<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if this.pacing == Pacing::None {
            return Pin::new(&mut this.body).poll_frame(cx);
        }
        this.taken();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(this.give()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(body.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::{BodyExt, Full};
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::http::watch::Activity;

    fn reply(len: usize, protocol: Protocol) -> (Reply<Full<Bytes>>, Arc<Activity>) {
        let activity = Arc::new(Activity::new(Counter::default()));
        let body = Full::new(Bytes::from(vec![b'x'; len]));
        (Reply::new(body, protocol, InFlight::begin(&activity)), activity)
    }

    #[tokio::test]
    async fn http_2_gets_pieces_and_notes_whether_they_are_taken() {
        let (mut reply, activity) = reply(PIECE + 1, Protocol::Http2);
        let mut lens = Vec::new();
        while let Some(frame) = reply.frame().await {
            assert!(activity.snapshot().untaken_since.is_some());
            lens.push(frame.unwrap().into_data().unwrap().len());
            assert_eq!(reply.size_hint().exact(), Some((PIECE + 1 - lens.iter().sum::<usize>()) as u64));
        }
        assert_eq!(lens, [PIECE, 1]);
        assert!(activity.snapshot().untaken_since.is_none());
    }

    #[tokio::test]
    async fn http_1_gets_a_body_in_one_piece() {
        let (mut reply, activity) = reply(PIECE + 1, Protocol::Http1);
        let frame = reply.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.len(), PIECE + 1);
        assert!(reply.is_end_stream());
        assert_eq!(activity.snapshot().untaken_since, None);
    }

    #[tokio::test]
    async fn a_request_is_in_flight_until_its_answer_is_dropped() {
        let (mut reply, activity) = reply(1, Protocol::Http2);
        reply.frame().await.unwrap().unwrap();
        assert_eq!(activity.snapshot().in_flight, 1);
        drop(reply);
        let marks = activity.snapshot();
        assert_eq!((marks.in_flight, marks.untaken_since), (0, None));
    }
}
