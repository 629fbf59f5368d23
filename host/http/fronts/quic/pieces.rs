//! What is written to a stream at once, in as few pieces as possible and without copying a body. Pure.

use bytes::{Buf, Bytes, BytesMut};

/// Frames, or parts of them, that are yet to be written.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// What is small, and goes first.
    copied: BytesMut,
    /// That, once it is being written, and the bytes of a body.
    slices: [Bytes; 2],
}

impl Pieces {
    /// Adds a frame, before which no body may be left. Where its bytes are those of `lent` it isn't copied: the HTTP/3
    /// library hides what its frames are made of.
    pub(super) fn add(&mut self, mut frame: impl Buf, mut lent: Bytes) {
        while frame.has_remaining() {
            let chunk = frame.chunk();
            let length = chunk.len();
            if std::ptr::eq(chunk, &lent[..]) {
                self.slices[1] = std::mem::take(&mut lent);
            } else {
                self.copied.extend_from_slice(chunk);
            }
            frame.advance(length);
        }
    }

    /// Whether nothing is left to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.copied.is_empty() && self.slices.iter().all(Bytes::is_empty)
    }

    /// Returns what is to be written, in this order. What is taken out of it counts as written.
    pub(super) fn slices(&mut self) -> &mut [Bytes] {
        if !self.copied.is_empty() {
            self.slices[0] = std::mem::take(&mut self.copied).freeze();
        }
        &mut self.slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pieces: &mut Pieces) -> Vec<Bytes> {
        pieces.slices().iter_mut().map(std::mem::take).filter(|slice| !slice.is_empty()).collect()
    }

    #[test]
    fn a_head_and_a_body_are_two_pieces_and_the_body_is_not_copied() {
        let body = Bytes::from(vec![b'x'; 1_000]);
        let mut pieces = Pieces::default();
        pieces.add(&b"the head "[..], Bytes::new());
        pieces.add(Bytes::from_static(b"of data ").chain(body.clone()), body.clone());
        assert!(!pieces.is_empty());
        let slices = taken(&mut pieces);
        assert_eq!(slices, [Bytes::from_static(b"the head of data "), body.clone()]);
        assert!(std::ptr::eq(&slices[1][..], &body[..]), "the same bytes");
        assert!(pieces.is_empty());
    }

    #[test]
    fn what_was_not_lent_is_copied() {
        let body = Bytes::from(vec![b'x'; 1_000]);
        for lent in [Bytes::new(), Bytes::from(vec![b'x'; 1_000]), body.slice(..999)] {
            let mut pieces = Pieces::default();
            pieces.add(Bytes::from_static(b"head ").chain(body.clone()), lent);
            let slices = taken(&mut pieces);
            assert_eq!(slices, [[&b"head "[..], &body[..]].concat()]);
        }
    }

    #[test]
    fn what_is_left_of_a_piece_is_written_next() {
        let body = Bytes::from_static(b"body");
        let mut pieces = Pieces::default();
        pieces.add(Bytes::from_static(b"head").chain(body.clone()), body);
        assert_eq!(pieces.slices()[0].split_to(3), "hea");
        assert_eq!(taken(&mut pieces), ["d", "body"]);
    }
}
