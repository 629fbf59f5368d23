//! A request's body while it arrives.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ::http::HeaderMap;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::session::{Broken, Code, Marks, Receiving};

/// Why a body isn't whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UploadError {
    /// The client broke it off, or broke the rules of HTTP/3.
    #[error("the client broke it off")]
    Broken,
    /// It is longer or shorter than it was to be.
    #[error("its length isn't the one that `Content-Length` states")]
    Length,
    /// It has too many trailers.
    #[error("it has more trailers than it may have fields")]
    Trailers,
}

impl UploadError {
    /// Returns the code by which the request's stream is reset.
    pub(super) const fn code(self) -> Code {
        match self {
            Self::Broken => Code::RequestCancelled,
            Self::Length => Code::MessageError,
            Self::Trailers => Code::ExcessiveLoad,
        }
    }
}

impl From<Broken> for UploadError {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

/// What of a body comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Data,
    Trailers,
    Nothing,
}

/// A request's body.
pub(super) struct Upload<R> {
    receiving: R,
    /// Bytes that are still to come, if the request states it.
    left: Option<u64>,
    fields_max: usize,
    next: Next,
    /// What has been read ahead.
    ahead: Option<Frame<Bytes>>,
    /// Notified when the body is wanted whose client waits for that.
    wanted: Option<Arc<Notify>>,
    marks: Arc<Marks>,
}

impl<R: Receiving> Upload<R> {
    /// Returns the body of a request that states this length, if any; it may have so many trailers.
    pub(super) const fn new(receiving: R, stated: Option<u64>, fields_max: usize, marks: Arc<Marks>) -> Self {
        Self { receiving, left: stated, fields_max, next: Next::Data, ahead: None, wanted: None, marks }
    }

    /// Has `wanted` notified when the body is read for the first time and nothing of it is there.
    pub(super) fn tell(&mut self, wanted: Arc<Notify>) {
        self.wanted = Some(wanted);
    }

    /// Reads ahead, so that a body which is empty is known to be. Waits for the first bytes or the end if it `waits`,
    /// and else takes what is there.
    ///
    /// # Errors
    /// [`UploadError`] if it is known already that the body isn't whole.
    pub(super) async fn look_ahead(&mut self, waits: bool) -> Result<(), UploadError> {
        let next = poll_fn(|cx| match self.poll_next(cx) {
            Poll::Pending if !waits => Poll::Ready(None),
            other => other.map(Some),
        });
        self.ahead = match next.await {
            Some(Some(frame)) => Some(frame?),
            Some(None) | None => None,
        };
        Ok(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let next = ready!(self.poll_part(cx));
        if !matches!(next, Ok(Some(_))) {
            self.next = Next::Nothing;
        }
        if matches!(next, Err(UploadError::Length)) {
            self.marks.malformed();
        }
        Poll::Ready(next.transpose())
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, UploadError>> {
        if self.next == Next::Data {
            if let Some(data) = ready!(self.receiving.poll_data(cx))? {
                return Poll::Ready(self.counted(data).map(Some));
            }
            if self.left.is_some_and(|left| left > 0) {
                return Poll::Ready(Err(UploadError::Length));
            }
            self.next = Next::Trailers;
        }
        if self.next == Next::Nothing {
            return Poll::Ready(Ok(None));
        }
        let trailers = ready!(self.receiving.poll_trailers(cx))?;
        self.next = Next::Nothing;
        Poll::Ready(trailers.map(|trailers| self.bounded(trailers)).transpose())
    }

    fn counted(&mut self, data: Bytes) -> Result<Frame<Bytes>, UploadError> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(data.len() as u64).ok_or(UploadError::Length)?;
        }
        Ok(Frame::data(data))
    }

    fn bounded(&self, trailers: HeaderMap) -> Result<Frame<Bytes>, UploadError> {
        if trailers.len() > self.fields_max {
            return Err(UploadError::Trailers);
        }
        Ok(Frame::trailers(trailers))
    }

    /// Returns the bytes that have been read ahead.
    fn bytes_ahead(&self) -> u64 {
        self.ahead.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64)
    }
}

impl<R: Receiving> Body for Upload<R> {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = self.get_mut();
        let wanted = this.wanted.take();
        if let Some(frame) = this.ahead.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let next = this.poll_next(cx);
        if let Some(wanted) = wanted.filter(|_| next.is_pending()) {
            wanted.notify_one();
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.next == Next::Nothing && self.ahead.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left + self.bytes_ahead()),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use ::http::{HeaderName, HeaderValue};
    use http_body_util::BodyExt;

    use super::*;

    /// A half of a stream that plays its steps; `None` is a moment at which nothing is there.
    struct Scripted {
        steps: VecDeque<Option<Result<&'static str, Broken>>>,
        trailers: Option<HeaderMap>,
    }

    impl Receiving for Scripted {
        fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
            match self.steps.pop_front() {
                Some(None) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Some(Some(step)) => Poll::Ready(step.map(|text| Some(Bytes::from_static(text.as_bytes())))),
                None => Poll::Ready(Ok(None)),
            }
        }

        fn poll_trailers(&mut self, _: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Broken>> {
            Poll::Ready(Ok(self.trailers.take()))
        }
    }

    type Steps = &'static [Option<Result<&'static str, Broken>>];

    fn upload(steps: Steps, stated: Option<u64>, trailers: usize) -> (Upload<Scripted>, Arc<Marks>) {
        let name = |n| HeaderName::try_from(format!("x-{n}")).unwrap();
        let fields = (0..trailers).map(|n| (name(n), HeaderValue::from_static("1")));
        let trailers = (trailers > 0).then(|| fields.collect());
        let marks = Arc::new(Marks::default());
        let receiving = Scripted { steps: steps.iter().copied().collect(), trailers };
        (Upload::new(receiving, stated, 2, Arc::clone(&marks)), marks)
    }

    async fn read(mut upload: Upload<Scripted>) -> Result<(String, usize), UploadError> {
        let (mut text, mut trailers) = (String::new(), 0);
        while let Some(frame) = upload.frame().await {
            match frame?.into_data() {
                Ok(data) => text += std::str::from_utf8(&data).unwrap(),
                Err(frame) => trailers = frame.into_trailers().unwrap().len(),
            }
        }
        assert!(upload.is_end_stream() && upload.frame().await.is_none());
        Ok((text, trailers))
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_it_states_or_an_error() {
        use UploadError::{Broken as Cut, Length, Trailers};
        let cases: [(&str, Steps, Option<u64>, usize, Result<(&str, usize), UploadError>); 9] = [
            ("no length", &[Some(Ok("ab")), None, Some(Ok("c"))], None, 0, Ok(("abc", 0))),
            ("its length", &[Some(Ok("ab")), Some(Ok("c"))], Some(3), 0, Ok(("abc", 0))),
            ("trailers", &[Some(Ok("abc"))], Some(3), 2, Ok(("abc", 2))),
            ("trailers alone", &[], None, 1, Ok(("", 1))),
            ("too many of them", &[Some(Ok("abc"))], None, 3, Err(Trailers)),
            ("too short", &[Some(Ok("ab"))], Some(3), 0, Err(Length)),
            ("too short, with trailers", &[], Some(3), 1, Err(Length)),
            ("too long", &[Some(Ok("ab")), Some(Ok("cd"))], Some(3), 0, Err(Length)),
            ("broken off", &[Some(Ok("ab")), Some(Err(Broken))], Some(3), 0, Err(Cut)),
        ];
        for (name, steps, stated, trailers, expected) in cases {
            for waits in [None, Some(false), Some(true)] {
                let (mut upload, marks) = upload(steps, stated, trailers);
                let looked = match waits {
                    Some(waits) => upload.look_ahead(waits).await,
                    None => Ok(()),
                };
                let got = match looked {
                    Ok(()) => read(upload).await,
                    Err(error) => Err(error),
                };
                let got = got.as_ref().map(|(text, trailers)| (text.as_str(), *trailers)).map_err(|error| *error);
                assert_eq!(got, expected, "{name}");
                assert_eq!(marks.is_malformed(), expected == Err(Length), "{name}");
            }
        }
    }

    #[tokio::test]
    async fn a_body_is_wanted_once_it_is_read_and_nothing_of_it_is_there() {
        let cases: [(Steps, bool); 2] = [(&[None, Some(Ok("abc"))], true), (&[Some(Ok("abc"))], false)];
        for (steps, wanted) in cases {
            let (mut upload, _) = upload(steps, Some(3), 0);
            let notify = Arc::new(Notify::new());
            upload.tell(Arc::clone(&notify));
            upload.look_ahead(false).await.unwrap();
            let is_notified = || futures_util::FutureExt::now_or_never(notify.notified()).is_some();
            assert!(!is_notified(), "it isn't wanted yet");
            // What was a moment's nothing has been used up by the look.
            upload.receiving.steps.push_front(None);
            upload.frame().await.unwrap().unwrap();
            assert_eq!(is_notified(), wanted, "{steps:?}");
        }
    }

    #[tokio::test]
    async fn an_empty_body_is_known_once_its_end_is_there() {
        let (mut late, _) = upload(&[None], None, 0);
        late.look_ahead(false).await.unwrap();
        assert!(!late.is_end_stream(), "nothing is known yet");
        let (mut waited_for, _) = upload(&[None], None, 0);
        waited_for.look_ahead(true).await.unwrap();
        assert!(waited_for.is_end_stream());

        let (mut full, _) = upload(&[Some(Ok("abc"))], Some(3), 0);
        full.look_ahead(true).await.unwrap();
        assert_eq!((full.is_end_stream(), full.size_hint().exact()), (false, Some(3)), "read ahead, not lost");
    }
}
