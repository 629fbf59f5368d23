//! A request's body within its limits.

use std::{
    fmt::Display,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use ::http::{HeaderMap, Version, header, request::Parts};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    pace::{Account, Pace},
    rejection::Rejection,
};
use crate::{
    clock::millis,
    message::{Body, BodyError},
};

/// Wraps a body as it comes from a front; one that says itself that it is too large is refused unread. It fails when it
/// pauses for longer than `stall`, or comes more slowly than `pace` while it is waited for.
pub(super) fn admit<B>(
    body: B,
    bytes_max: u64,
    stall: Duration,
    pace: Pace,
    (trailers, ends): (Trailers, Ends),
) -> Result<Body, Rejection>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Display,
{
    if body.is_end_stream() {
        return Ok(Body::Empty);
    }
    if body.size_hint().lower() > bytes_max {
        return Err(Rejection::BodyTooLarge);
    }
    Ok(Body::stream(Bounded {
        body,
        limit: bytes_max,
        left: bytes_max,
        trailers,
        ends,
        stall,
        account: Account::new(pace),
        patience: Patience::Unspent,
        sleep: None,
    }))
}

/// The trailers that a request's body may have. On HTTP/1 they are text, in which the parser takes a bare LF for the end of a
/// field, and what follows, perhaps the next request, for more of the section (RFC 9112, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trailers {
    /// Any: no text delimits them.
    Any,
    /// Those that its head announces. The connection ends with the response, so that nothing is taken for one of them.
    Announced,
    /// None, since it announces none.
    Unannounced,
}

/// How the end of a request's body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// By its front.
    AsSaid,
    /// By the end of its stream of HTTP/2: the library takes a reset without an error (RFC 9113, section 8.1) for the end,
    /// and only the stream knows whether that had come.
    WithStream,
}

impl Ends {
    /// Returns how the end of the body of a request with this head is known.
    pub(super) fn of(parts: &Parts) -> Self {
        if parts.version == Version::HTTP_2 { Self::WithStream } else { Self::AsSaid }
    }
}

impl Trailers {
    /// Returns the trailers that the body of a request with this head may have.
    pub(super) fn of(parts: &Parts) -> Self {
        match parts.version {
            version if version >= Version::HTTP_2 => Self::Any,
            _ if parts.headers.contains_key(header::TRAILER) => Self::Announced,
            _ => Self::Unannounced,
        }
    }

    /// Whether these may come. HTTP/1's parser returns none at all for a section that begins with a bare LF.
    fn allow(self, trailers: &HeaderMap) -> bool {
        match self {
            Self::Any => true,
            Self::Announced => !trailers.is_empty(),
            Self::Unannounced => false,
        }
    }
}

/// Bounds a body's size, its pauses and its pace.
struct Bounded<B> {
    body: B,
    limit: u64,
    left: u64,
    trailers: Trailers,
    ends: Ends,
    stall: Duration,
    account: Account,
    patience: Patience,
    /// Made at the first pause; a body that is there at once needs none.
    sleep: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Bytes came since the last pause.
    Unspent,
    /// The body has paused since then.
    Running(Instant),
    /// The body has failed.
    Over,
}

impl<B> Bounded<B> {
    fn count(&mut self, data: Bytes) -> Result<Frame<Bytes>, BodyError> {
        let waited = match std::mem::replace(&mut self.patience, Patience::Unspent) {
            Patience::Running(since) => since.elapsed(),
            Patience::Unspent | Patience::Over => Duration::ZERO,
        };
        self.account.book(data.len() as u64, waited);
        match self.left.checked_sub(data.len() as u64) {
            Some(left) => {
                self.left = left;
                Ok(Frame::data(data))
            }
            None => Err(BodyError::TooLarge { limit: self.limit }),
        }
    }

    /// Ready once the pause has been too long, or has used up the window of the minimum rate.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let since = match self.patience {
            Patience::Running(since) => since,
            Patience::Unspent | Patience::Over => Instant::now(),
        };
        self.patience = Patience::Running(since);
        let slow = self.account.left().filter(|left| *left < self.stall);
        let deadline = since + slow.unwrap_or(self.stall);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(match slow {
            Some(_) => self.account.pace.error(),
            None => BodyError::Stalled { idle_ms: millis(self.stall) },
        })
    }
}

impl<B> Bounded<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Display,
{
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Poll::Ready(next) = Pin::new(&mut self.body).poll_frame(cx) else {
                let stalled = ready!(self.poll_stalled(cx));
                return Poll::Ready(Some(Err(stalled)));
            };
            match next {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(self.count(data))),
                    // The front has bounded them.
                    Err(other) => {
                        let Ok(trailers) = other.into_trailers() else { continue };
                        if !self.trailers.allow(&trailers) {
                            let words = "trailers that weren't announced, or whose lines don't end in CRLF".to_owned();
                            return Poll::Ready(Some(Err(BodyError::Broken(words))));
                        }
                        self.patience = Patience::Unspent;
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Broken(error.to_string())))),
                None if self.ends == Ends::WithStream && !self.body.is_end_stream() => {
                    let words = "the stream was reset before its end".to_owned();
                    return Poll::Ready(Some(Err(BodyError::Broken(words))));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<B> HttpBody for Bounded<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Display,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.patience == Patience::Over {
            return Poll::Ready(None);
        }
        let next = ready!(this.poll_data(cx));
        if matches!(next, Some(Err(_))) {
            this.patience = Patience::Over;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use ::http::HeaderValue;
    use http_body_util::BodyExt;

    use super::*;
    use crate::config::Timeouts;

    const LIMIT: u64 = 10;
    const STALL: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    /// A body that plays its steps and then ends, or hangs.
    #[derive(Default)]
    struct Scripted {
        steps: VecDeque<Result<Frame<Bytes>, &'static str>>,
        hangs: bool,
        /// Its end hasn't come, although it has no more frames.
        lacks_end: bool,
        declared: Option<u64>,
    }

    impl Scripted {
        fn new(steps: impl IntoIterator<Item = Result<Frame<Bytes>, &'static str>>) -> Self {
            Self { steps: steps.into_iter().collect(), ..Self::default() }
        }
    }

    impl HttpBody for Scripted {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            match self.steps.pop_front() {
                None if self.hangs => Poll::Pending,
                step => Poll::Ready(step),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.steps.is_empty() && !self.hangs && !self.lacks_end
        }

        fn size_hint(&self) -> SizeHint {
            self.declared.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    fn pace(rate_bytes_min: u64, rate_window: Duration) -> Pace {
        Pace::of(&Timeouts { rate_bytes_min, rate_window, ..Timeouts::default() })
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn what_is_known_at_once_is_decided_at_once() {
        assert!(matches!(
            admit(Scripted::new([]), LIMIT, LONG, pace(0, LONG), (Trailers::Any, Ends::AsSaid)),
            Ok(Body::Empty)
        ));
        for (declared, admitted) in [(LIMIT, true), (LIMIT + 1, false)] {
            let body = Scripted { declared: Some(declared), ..Scripted::new([data("0")]) };
            assert_eq!(
                admit(body, LIMIT, LONG, pace(0, LONG), (Trailers::Any, Ends::AsSaid)).is_ok(),
                admitted,
                "{declared}"
            );
        }
    }

    #[tokio::test]
    async fn what_comes_is_passed_on_up_to_the_limit() {
        let trailers = || {
            let fields = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("\"x\""))]);
            Ok(Frame::trailers(fields))
        };
        let cases = [
            (vec![data("01234"), data("56789"), trailers()], Ok("0123456789")),
            (vec![trailers(), data("01")], Ok("01")),
            (vec![data("01234"), data("567890")], Err(BodyError::TooLarge { limit: LIMIT })),
            (vec![data("0"), Err("gone")], Err(BodyError::Broken("gone".to_owned()))),
        ];
        for (steps, expected) in cases {
            let body = admit(Scripted::new(steps), LIMIT, LONG, pace(0, LONG), (Trailers::Any, Ends::AsSaid)).unwrap();
            let collected = body.collect(1000).await;
            assert_eq!(collected, expected.map(|text: &str| Bytes::copy_from_slice(text.as_bytes())));
        }
    }

    #[tokio::test]
    async fn a_body_of_http_2_ends_with_its_stream() {
        for (has_end, ends, is_whole) in
            [(true, Ends::WithStream, true), (false, Ends::WithStream, false), (false, Ends::AsSaid, true)]
        {
            let body = Scripted { lacks_end: !has_end, ..Scripted::new([data("01")]) };
            let body = admit(body, LIMIT, LONG, pace(0, LONG), (Trailers::Any, ends)).unwrap();
            assert_eq!(body.collect(1000).await.is_ok(), is_whole, "{has_end} {ends:?}");
        }
    }

    #[tokio::test]
    async fn a_pause_that_is_too_long_fails_the_body_for_good() {
        let hanging = Scripted { hangs: true, ..Scripted::new([data("0"), data("1")]) };
        let Ok(Body::Stream(mut body)) = admit(hanging, LIMIT, STALL, pace(0, LONG), (Trailers::Any, Ends::AsSaid))
        else {
            panic!("admitted as a stream")
        };
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_ok());
        let failed = body.frame().await.unwrap();
        assert_eq!(failed.err(), Some(BodyError::Stalled { idle_ms: 20 }));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn trailers_that_were_not_announced_break_the_body() {
        let fields = || HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("\"x\""))]);
        for (trailers, fields, is_whole) in [
            (Trailers::Any, fields(), true),
            (Trailers::Any, HeaderMap::new(), true),
            (Trailers::Announced, fields(), true),
            (Trailers::Announced, HeaderMap::new(), false),
            (Trailers::Unannounced, fields(), false),
        ] {
            let scripted = Scripted::new([data("0"), Ok(Frame::trailers(fields))]);
            let collected =
                admit(scripted, LIMIT, LONG, pace(0, LONG), (trailers, Ends::AsSaid)).unwrap().collect(1000).await;
            assert_eq!(collected.is_ok(), is_whole, "{trailers:?}: {collected:?}");
        }
    }

    /// A byte every few milliseconds, for ever.
    struct Trickle(Pin<Box<Sleep>>);

    impl HttpBody for Trickle {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            ready!(self.0.as_mut().poll(cx));
            self.0.as_mut().reset(Instant::now() + STALL / 10);
            Poll::Ready(Some(data("0")))
        }
    }

    #[tokio::test]
    async fn a_body_that_trickles_is_too_slow_although_it_never_pauses_for_long() {
        let trickle = Trickle(Box::pin(sleep_until(Instant::now())));
        let body = admit(trickle, u64::MAX, LONG, pace(1_000_000, STALL * 2), (Trailers::Any, Ends::AsSaid)).unwrap();
        assert_eq!(body.collect(u64::MAX).await, Err(BodyError::TooSlow { rate: 1_000_000, window_ms: 40 }));
    }
}
