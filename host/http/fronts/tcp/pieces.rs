//! An answer's body as an HTTP/2 stream takes it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::stream::Marks;

/// What an HTTP/2 stream is handed at a time: a frame of the usual size.
const PIECE: usize = 16 * 1024;

/// Marks on HTTP/2 whether the client takes the body.
///
/// There a client can stop one stream while the socket stays writable, and hyper takes whatever it is handed: so it
/// gets small pieces, each only when the one before has found room. On HTTP/1 the socket holds back by itself.
pub(super) struct Pieces<B> {
    body: B,
    /// What is left of the frame that is being handed over.
    rest: Bytes,
    /// Of the HTTP/2 stream.
    marks: Option<Arc<Marks>>,
}

impl<B> Pieces<B> {
    /// A body on its way; `marks` are those of the HTTP/2 stream, if it is one.
    pub(super) fn new(body: B, marks: Option<Arc<Marks>>) -> Self {
        Self { body, rest: Bytes::new(), marks }
    }
}

impl<B> Drop for Pieces<B> {
    fn drop(&mut self) {
        if let Some(marks) = &self.marks {
            marks.pause();
        }
    }
}

impl<B> Body for Pieces<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let Some(marks) = &this.marks else { return Pin::new(&mut this.body).poll_frame(cx) };
        if this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => {
                    // Asked for more than there is, so all that there was has found room.
                    marks.pause();
                    return other;
                }
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        marks.gave(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
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
    use http_body_util::{BodyExt, Full};

    use super::*;

    fn pieces(len: usize, marks: Option<Arc<Marks>>) -> Pieces<Full<Bytes>> {
        Pieces::new(Full::new(Bytes::from(vec![b'x'; len])), marks)
    }

    #[tokio::test]
    async fn http_2_gets_pieces() {
        let mut body = pieces(PIECE + 1, Some(Arc::default()));
        let mut lens = Vec::new();
        while let Some(frame) = body.frame().await {
            lens.push(frame.unwrap().into_data().unwrap().len());
            assert_eq!(body.size_hint().exact(), Some((PIECE + 1 - lens.iter().sum::<usize>()) as u64));
        }
        assert_eq!(lens, [PIECE, 1]);
    }

    #[tokio::test]
    async fn http_1_gets_a_body_in_one_piece() {
        let mut body = pieces(PIECE + 1, None);
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.len(), PIECE + 1);
        assert!(body.is_end_stream());
    }
}
