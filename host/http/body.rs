//! A request's body within its limits.

use std::{
    fmt::Display,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::request::Rejection;
use crate::{
    clock::millis,
    message::{Body, BodyError},
};

/// Wraps a body as it comes from a front; one that says itself that it is too large is refused unread.
pub(super) fn admit<B>(body: B, bytes_max: u64, stall: Duration) -> Result<Body, Rejection>
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
        stall,
        patience: Patience::Unspent,
        sleep: None,
    }))
}

/// Bounds a body's size and its pauses.
struct Bounded<B> {
    body: B,
    limit: u64,
    left: u64,
    stall: Duration,
    patience: Patience,
    /// Made at the first pause; a body that is there at once needs none.
    sleep: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Something came since the last pause.
    Unspent,
    /// The body pauses and the clock runs.
    Running,
    /// The body has failed.
    Over,
}

impl<B> Bounded<B> {
    fn account(&mut self, data: Bytes) -> Result<Frame<Bytes>, BodyError> {
        match self.left.checked_sub(data.len() as u64) {
            Some(left) => {
                self.left = left;
                Ok(Frame::data(data))
            }
            None => Err(BodyError::TooLarge { limit: self.limit }),
        }
    }

    /// Ready once the pause has been too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let starts = self.patience == Patience::Unspent;
        self.patience = Patience::Running;
        let stall = self.stall;
        let asleep = self.sleep.is_some();
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(stall)));
        if starts && asleep {
            sleep.as_mut().reset(Instant::now() + stall);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(BodyError::Stalled { idle_ms: millis(stall) })
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
            self.patience = Patience::Unspent;
            match next {
                Some(Ok(frame)) => {
                    // Trailers aren't passed on: nothing behind knows what to do with them.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(self.account(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Broken(error.to_string())))),
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

    use ::http::HeaderMap;
    use http_body_util::BodyExt;

    use super::*;

    const LIMIT: u64 = 10;
    const STALL: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    /// A body that plays its steps and then ends, or hangs.
    #[derive(Default)]
    struct Scripted {
        steps: VecDeque<Result<Frame<Bytes>, &'static str>>,
        hangs: bool,
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
            self.steps.is_empty() && !self.hangs
        }

        fn size_hint(&self) -> SizeHint {
            self.declared.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn what_is_known_at_once_is_decided_at_once() {
        assert!(matches!(admit(Scripted::new([]), LIMIT, LONG), Ok(Body::Empty)));
        for (declared, admitted) in [(LIMIT, true), (LIMIT + 1, false)] {
            let body = Scripted { declared: Some(declared), ..Scripted::new([data("0")]) };
            assert_eq!(admit(body, LIMIT, LONG).is_ok(), admitted, "{declared}");
        }
    }

    #[tokio::test]
    async fn what_comes_is_passed_on_up_to_the_limit() {
        let trailers = || Ok(Frame::trailers(HeaderMap::new()));
        let cases = [
            (vec![data("01234"), data("56789"), trailers()], Ok("0123456789")),
            (vec![trailers(), data("01")], Ok("01")),
            (vec![data("01234"), data("567890")], Err(BodyError::TooLarge { limit: LIMIT })),
            (vec![data("0"), Err("gone")], Err(BodyError::Broken("gone".to_owned()))),
        ];
        for (steps, expected) in cases {
            let body = admit(Scripted::new(steps), LIMIT, LONG).unwrap();
            let collected = body.collect(1000).await;
            assert_eq!(collected, expected.map(|text: &str| Bytes::copy_from_slice(text.as_bytes())));
        }
    }

    #[tokio::test]
    async fn a_pause_that_is_too_long_fails_the_body_for_good() {
        let hanging = Scripted { hangs: true, ..Scripted::new([data("0"), data("1")]) };
        let Ok(Body::Stream(mut body)) = admit(hanging, LIMIT, STALL) else { panic!("admitted as a stream") };
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_ok());
        let failed = body.frame().await.unwrap();
        assert_eq!(failed.err(), Some(BodyError::Stalled { idle_ms: 20 }));
        assert!(body.frame().await.is_none());
    }
}
