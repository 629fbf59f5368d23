//! The beginning of a response's body. It is looked at before the response is passed on: an endpoint that breaks off or
//! frames wrongly usually does so at once, and as long as nothing has been sent, the client can be told by a status.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::failure::{Fault, Reason, describe};
use crate::message::{BodyError, incremental::is_incremental};

/// How long a response's head waits for its body's beginning. What comes with the head is there sooner, and a stream that
/// pauses isn't held up by more than nobody notices.
const PATIENCE: Duration = Duration::from_millis(5);

/// Bytes that are looked at: what comes after them has been sent by a connection that works.
const BYTES: usize = 8 * 1024;

/// A body whose beginning has been looked at.
pub(super) struct Opening {
    /// Read, and not given on yet.
    ahead: VecDeque<Frame<Bytes>>,
    rest: Incoming,
    /// Whether nothing comes after what has been read.
    has_ended: bool,
    /// HTTP/2, where a body ends with its stream.
    ends_with_stream: bool,
}

/// Looks at the beginning of a response's body, unless it is to be forwarded as it comes (RFC 10036).
///
/// # Errors
/// The body has broken off already, or its framing is wrong.
pub(super) async fn opened(response: Response<Incoming>) -> Result<Response<Opening>, Fault> {
    let (head, rest) = response.into_parts();
    let ends_with_stream = head.version == Version::HTTP_2;
    let mut opening = Opening { ahead: VecDeque::new(), rest, has_ended: false, ends_with_stream };
    if !opening.rest.is_end_stream()
        && !is_incremental(&head.headers)
        && let Ok(Err(error)) = timeout(PATIENCE, opening.look()).await
    {
        return Err(Fault::new(Reason::InvalidResponse, error.to_string()));
    }
    Ok(Response::from_parts(head, opening))
}

impl Opening {
    /// Reads until there is enough or the body ends.
    async fn look(&mut self) -> Result<(), BodyError> {
        let mut bytes = 0;
        while bytes < BYTES && !self.rest.is_end_stream() {
            let Some(frame) = self.rest.frame().await else {
                self.has_ended = true;
                return self.cut().map_or(Ok(()), Err);
            };
            let frame = frame.map_err(|error| broken(&error))?;
            bytes += frame.data_ref().map_or(0, Bytes::len);
            self.ahead.push_back(frame);
        }
        Ok(())
    }

    /// Returns what is wrong with a body that has no more frames: the library takes the reset of a stream without an error
    /// (RFC 9113, section 8.1) for its end, and only the stream knows whether that had come.
    fn cut(&self) -> Option<BodyError> {
        let is_cut = self.ends_with_stream && !self.rest.is_end_stream();
        is_cut.then(|| BodyError::Broken("the stream was reset before its end".to_owned()))
    }
}

fn broken(error: &hyper::Error) -> BodyError {
    BodyError::Broken(describe(error))
}

impl HttpBody for Opening {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this.ahead.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if this.has_ended => Poll::Ready(None),
            None => Poll::Ready(match ready!(Pin::new(&mut this.rest).poll_frame(cx)) {
                None => this.cut().map(Err),
                Some(next) => Some(next.map_err(|error| broken(&error))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && (self.has_ended || self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let ahead: u64 = self.ahead.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        // One that was chunked stays without a stated length, whether or not its end has come: trailers may follow.
        let mut hint = self.rest.size_hint();
        let (lower, upper) = (hint.lower(), hint.upper());
        if let Some(upper) = upper {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(lower.saturating_add(ahead));
        hint
    }
}
