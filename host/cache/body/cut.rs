//! Cutting a body that isn't read from parts: one that is in memory, and one that passes without being stored.

use std::{
    collections::VecDeque,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{
    cache::range::{Section, Sections},
    message::{Body, BodyError, body::Stream},
};

/// Returns sections of a body in one piece, as slices of it.
#[must_use]
pub fn slices(whole: Bytes, sections: Sections) -> Body {
    match sections {
        Sections::Whole => Body::Full(whole),
        Sections::One(range) => Body::Full(slice(&whole, &range)),
        Sections::Several(sections) => {
            let both = |Section { before, range }| [before, slice(&whole, &range)];
            let pieces: VecDeque<Bytes> = sections.into_iter().flat_map(both).filter(|it| !it.is_empty()).collect();
            Body::stream(Slices(pieces))
        }
    }
}

/// A range, cut to what there is.
fn slice(whole: &Bytes, range: &Range<u64>) -> Bytes {
    let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(whole.len());
    let (start, end) = (within(range.start), within(range.end));
    whole.slice(start.min(end)..end)
}

struct Slices(VecDeque<Bytes>);

impl HttpBody for Slices {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

/// Returns a range of a body as it passes. The bytes before it are skipped, and those after it aren't waited for. A body
/// that ends before the range does breaks off.
#[must_use]
pub fn passing(body: Body, range: &Range<u64>) -> Body {
    match body {
        Body::Empty => Body::Empty,
        Body::Full(whole) => Body::Full(slice(&whole, range)),
        Body::Stream(stream) => {
            let left = range.end.saturating_sub(range.start);
            Body::stream(Passing { stream: (left > 0).then_some(stream), skip: range.start, left })
        }
    }
}

struct Passing {
    /// Gone once the last byte, or an error, has been given.
    stream: Option<Stream>,
    /// Bytes before the range.
    skip: u64,
    /// Bytes of the range that are still to come.
    left: u64,
}

impl Passing {
    /// The bytes of the range in what came next.
    fn cut(&mut self, mut data: Bytes) -> Bytes {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(data.len());
        data.advance(skipped);
        self.skip -= skipped as u64;
        data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= data.len() as u64;
        data
    }
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
            match ready!(stream.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers are of the whole body.
                    let data = self.cut(frame.into_data().unwrap_or_default());
                    if self.left == 0 {
                        self.stream = None;
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Some(Err(error)) => {
                    self.stream = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.stream = None;
                    return Poll::Ready(Some(Err(BodyError::Broken("it ended before its range did".to_owned()))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use proptest::prelude::*;

    use super::*;

    const BODY: &[u8] = b"0123456789";

    #[tokio::test]
    async fn a_body_in_memory_is_sliced_and_not_copied() {
        let whole = Bytes::from_static(BODY);
        let Body::Full(one) = slices(whole.clone(), Sections::One(3..5)) else { panic!("one piece") };
        assert_eq!((one.as_ptr(), &one[..]), (whole[3..].as_ptr(), &b"34"[..]));
        let sections = [("a", 8..10), ("b", 0..1), ("c", 0..0)];
        let sections = sections.map(|(before, range)| Section { before: before.into(), range });
        let body = slices(whole.clone(), Sections::Several(sections.into()));
        assert_eq!(body.size_hint().exact(), Some(6));
        assert_eq!(body.collect(100).await.unwrap(), "a89b0c");
        assert_eq!(slices(whole.clone(), Sections::One(8..99)).collect(100).await.unwrap(), "89");
        assert_eq!(slices(whole, Sections::Whole).collect(100).await.unwrap(), BODY);
    }

    /// A body that comes in pieces of this size, and then breaks off.
    fn pieces(size: usize) -> Body {
        let mut frames: Vec<_> = BODY.chunks(size).map(|piece| Ok(Frame::data(Bytes::from_static(piece)))).collect();
        frames.push(Err(BodyError::Broken("cut".to_owned())));
        Body::stream(StreamBody::new(stream::iter(frames)))
    }

    proptest! {
        #[test]
        fn a_body_that_passes_is_cut_to_its_range(size in 1_usize..12, start in 0_u64..10, length in 1_u64..10) {
            let end = (start + length).min(10);
            let wanted = slice(&Bytes::from_static(BODY), &(start..end));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            // What comes after the range is of no account, not even a breach.
            let body = passing(pieces(size), &(start..end));
            prop_assert_eq!(body.size_hint().exact(), Some(end - start));
            prop_assert_eq!(runtime.block_on(body.collect(100)).unwrap(), wanted);
        }
    }

    #[tokio::test]
    async fn a_body_that_ends_before_its_range_is_broken() {
        let short =
            || Body::stream(StreamBody::new(stream::iter([Ok::<_, BodyError>(Frame::data(Bytes::from_static(BODY)))])));
        assert!(matches!(passing(short(), &(5..11)).collect(100).await, Err(BodyError::Broken(_))));
        let mut whole = passing(short(), &(5..10));
        assert_eq!(whole.frame().await.unwrap().unwrap().into_data().unwrap(), "56789");
        assert!(whole.is_end_stream() && whole.frame().await.is_none());
        let broken = passing(pieces(3), &(5..11)).collect(100).await;
        assert_eq!(broken, Err(BodyError::Broken("cut".to_owned())));
    }
}
