//! A response's body in the pieces that an HTTP/2 stream takes.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::stream::Marks;

/// Bytes that an HTTP/2 stream is given at a time: a frame of the usual size.
const PIECE: usize = 16 * 1024;

/// A piece of a body as hyper writes it.
///
/// A client may open its window by a few bytes at a time, and hyper asks for the next piece only once the whole of the
/// one before has been let through. So a piece notes each part of it that is written.
pub(super) struct Piece {
    bytes: Bytes,
    /// Of the HTTP/2 stream.
    marks: Option<Arc<Marks>>,
}

impl Piece {
    /// Returns a piece that notes nothing.
    fn plain(bytes: Bytes) -> Self {
        Self { bytes, marks: None }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(marks) = self.marks.as_ref().filter(|_| count > 0) {
            marks.wrote(count);
        }
    }
}

/// Marks on HTTP/2 whether the client takes the body.
///
/// There a client can stop one stream while the socket stays writable, and hyper takes whatever it is handed: so it
/// gets small pieces, each only when the one before has found room. On HTTP/1 the socket holds back by itself.
pub(super) struct Pieces<B> {
    body: B,
    /// The rest of the frame that is being handed over.
    rest: Bytes,
    /// Of the HTTP/2 stream.
    marks: Option<Arc<Marks>>,
}

impl<B> Pieces<B> {
    /// Returns a body to be sent; `marks` are those of the HTTP/2 stream, if it is one.
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
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let this = self.get_mut();
        let plain = |frame: Frame<Bytes>| frame.map_data(Piece::plain);
        let Some(marks) = &this.marks else { return Pin::new(&mut this.body).poll_frame(cx).map_ok(plain) };
        if this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(plain(trailers)))),
                },
                other => {
                    // Polled for more, so all that there was has found room.
                    marks.pause();
                    return other.map_ok(plain);
                }
            }
        }
        let bytes = this.rest.split_to(this.rest.len().min(PIECE));
        marks.gave();
        Poll::Ready(Some(Ok(Frame::data(Piece { bytes, marks: Some(Arc::clone(marks)) }))))
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
            lens.push(frame.unwrap().into_data().ok().unwrap().remaining());
            assert_eq!(body.size_hint().exact(), Some((PIECE + 1 - lens.iter().sum::<usize>()) as u64));
        }
        assert_eq!(lens, [PIECE, 1]);
    }

    #[tokio::test]
    async fn what_is_written_of_a_piece_is_noted_byte_by_byte() {
        let marks = Arc::new(Marks::default());
        let mut body = pieces(PIECE, Some(Arc::clone(&marks)));
        let mut piece = body.frame().await.unwrap().unwrap().into_data().ok().unwrap();
        assert_eq!(marks.took(), 0, "handed over, and no more");
        piece.advance(10);
        assert_eq!((marks.took(), piece.remaining(), piece.chunk().len()), (10, PIECE - 10, PIECE - 10));
    }

    #[tokio::test]
    async fn http_1_gets_a_body_in_one_piece() {
        let mut body = pieces(PIECE + 1, None);
        let frame = body.frame().await.unwrap().unwrap().into_data().ok().unwrap();
        assert_eq!(frame.remaining(), PIECE + 1);
        assert!(body.is_end_stream());
    }
}
