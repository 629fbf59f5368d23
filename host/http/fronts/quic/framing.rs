//! The frames of a stream (RFC 9114, section 7.1), as its bytes come. Pure.
//!
//! The HTTP/3 library gathers a frame that isn't DATA in memory, whatever its length; takes a DATA frame of no bytes for
//! the end of the body; and panics over one that the end of the stream cuts short. So it is handed the bytes through
//! here.

use arrayvec::ArrayVec;
use bytes::{Buf, Bytes};

use super::head;

/// The type of frames that carry a body.
const DATA: u64 = 0;

/// The type of the unidirectional stream that carries frames (RFC 9114, section 6.2.1).
const CONTROL: u64 = 0;

/// The type of frames that say how urgent the response to a request is from now on (RFC 9218, section 7.2), and how many
/// bytes of one are looked at.
const PRIORITY_UPDATE: u64 = 0xf_0700;
const UPDATE_MAX: u64 = 128;

/// Bytes of a frame's type and length at most.
const HEAD: usize = 16;

/// Bytes that a piece of a frame costs beside its own, where it is gathered.
const PIECE: u64 = 64;

/// The error of a frame that is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// What comes next on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The type of a unidirectional stream.
    Type,
    /// A frame's type and length.
    Head,
    /// So many bytes of a frame.
    Payload(u64),
    /// Bytes that aren't frames, up to the end.
    Unframed,
}

/// The bytes of a stream on their way to the library.
pub(super) struct Frames {
    /// The most bytes of a frame that isn't DATA.
    bytes_max: u64,
    next: Next,
    /// What has come and hasn't been handed on.
    ahead: Bytes,
    /// What has come of a type and a length.
    head: ArrayVec<u8, HEAD>,
    is_control: bool,
    /// Whether the frame is one of a body.
    is_data: bool,
    /// What the library has of a frame that isn't whole yet nor one of a body, in bytes of memory.
    pending: u64,
    /// What has come of a change of urgency.
    gathered: Option<Vec<u8>>,
    update: Option<Update>,
}

/// The client's word on how much more urgent than others the response to a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Update {
    /// The number of the request's stream.
    pub(super) stream: u64,
    pub(super) urgency: i32,
}

impl Frames {
    /// Returns the frames of a request's stream.
    pub(super) fn of_request(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            next: Next::Head,
            ahead: Bytes::new(),
            head: ArrayVec::new(),
            is_control: false,
            is_data: false,
            pending: 0,
            gathered: None,
            update: None,
        }
    }

    /// Returns the frames of a unidirectional stream, if it turns out to have any.
    pub(super) fn of_unidirectional(bytes_max: u64) -> Self {
        Self { next: Next::Type, ..Self::of_request(bytes_max) }
    }

    /// Takes bytes as they came, once all before have been handed on.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.ahead = bytes;
    }

    /// Returns the next bytes to be handed on; `None` until more have come.
    ///
    /// # Errors
    /// [`TooLong`] at the beginning of such a frame.
    pub(super) fn take(&mut self) -> Result<Option<Bytes>, TooLong> {
        while !self.ahead.is_empty() {
            match self.next {
                Next::Unframed => return Ok(Some(std::mem::take(&mut self.ahead))),
                Next::Payload(left) => {
                    let piece = self.payload(left);
                    // The library gathers it, and would hold the whole datagram for each byte of it.
                    return Ok(Some(if self.is_data { piece } else { Bytes::copy_from_slice(&piece) }));
                }
                Next::Type => {
                    self.head.push(self.ahead.get_u8());
                    if let Some((kind, _)) = number(&self.head) {
                        self.is_control = kind == CONTROL;
                        self.next = if self.is_control { Next::Head } else { Next::Unframed };
                        return Ok(Some(self.complete()));
                    }
                }
                Next::Head => {
                    self.head.push(self.ahead.get_u8());
                    if let Some((kind, length)) = frame(&self.head) {
                        let head = self.complete();
                        if kind != DATA && length > self.bytes_max {
                            return Err(TooLong);
                        }
                        self.next = payload(length);
                        self.is_data = kind == DATA;
                        let is_update = self.is_control && kind == PRIORITY_UPDATE && length <= UPDATE_MAX;
                        self.gathered = is_update.then(Vec::new);
                        if kind != DATA || length > 0 {
                            return Ok(Some(head));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns the change of urgency that ended with the bytes that were handed on last, if one did. The library knows
    /// nothing of them.
    pub(super) fn take_update(&mut self) -> Option<Update> {
        self.update.take()
    }

    /// Whether the stream may end here: in the middle of no frame.
    pub(super) fn may_end(&self) -> bool {
        self.ahead.is_empty() && self.head.is_empty() && !matches!(self.next, Next::Payload(_))
    }

    /// Returns how much memory the library needs for a frame of which only some has been handed on: none for one of a
    /// body, which it hands on in turn.
    pub(super) const fn pending(&self) -> u64 {
        self.pending
    }

    fn payload(&mut self, left: u64) -> Bytes {
        let length = usize::try_from(left).map_or(self.ahead.len(), |left| left.min(self.ahead.len()));
        self.next = payload(left - length as u64);
        let bytes = self.ahead.split_to(length);
        let is_whole = self.is_data || self.next == Next::Head;
        self.pending = if is_whole { 0 } else { self.pending + length as u64 + PIECE };
        if let Some(gathered) = &mut self.gathered {
            gathered.extend_from_slice(&bytes);
            if self.next == Next::Head {
                self.update = update(gathered);
                self.gathered = None;
            }
        }
        bytes
    }

    fn complete(&mut self) -> Bytes {
        let head = Bytes::copy_from_slice(&self.head);
        self.head.clear();
        head
    }
}

fn payload(left: u64) -> Next {
    if left == 0 { Next::Head } else { Next::Payload(left) }
}

/// Reads a change of urgency. What it doesn't state has its default (RFC 9218, section 7).
fn update(bytes: &[u8]) -> Option<Update> {
    let (stream, value) = number(bytes)?;
    let value = std::str::from_utf8(value).ok()?;
    Some(Update { stream, urgency: head::urgency_of(value).unwrap_or_default() })
}

/// Returns a frame's type and length, if they are complete.
fn frame(bytes: &[u8]) -> Option<(u64, u64)> {
    let (kind, rest) = number(bytes)?;
    let (length, _) = number(rest)?;
    Some((kind, length))
}

/// Returns the number that the bytes begin with, if it is complete, and what follows (RFC 9000, section 16).
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let first = *bytes.first()?;
    let (own, rest) = bytes.split_at_checked(1_usize << (first >> 6))?;
    let value = own[1..].iter().fold(u64::from(first & 0x3f), |value, byte| (value << 8) | u64::from(*byte));
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADERS: u64 = 1;

    /// Returns the number in so many bytes.
    fn spelled(number: u64, bytes: usize) -> Vec<u8> {
        let mut spelled = number.to_be_bytes()[8 - bytes..].to_vec();
        spelled[0] |= u8::try_from(bytes.ilog2() << 6).unwrap();
        spelled
    }

    fn framed(kind: u64, payload: &[u8]) -> Vec<u8> {
        [spelled(kind, 1), spelled(payload.len() as u64, 2), payload.to_vec()].concat()
    }

    /// Hands on `bytes`, which come in pieces of this size.
    fn handed_on(frames: &mut Frames, bytes: &[u8], size: usize) -> Result<Vec<u8>, TooLong> {
        let mut all = Vec::new();
        for piece in bytes.chunks(size) {
            frames.push(Bytes::copy_from_slice(piece));
            while let Some(handed) = frames.take()? {
                assert!(!handed.is_empty());
                all.extend_from_slice(&handed);
            }
        }
        Ok(all)
    }

    #[test]
    fn numbers_are_read_in_each_length() {
        for (value, bytes) in [(37, 1), (37, 2), (15_293, 2), (494_878_333, 4), (151_288_809_941_952_652, 8)] {
            let spelled = spelled(value, bytes);
            assert_eq!(number(&[&spelled[..], b"x"].concat()), Some((value, &b"x"[..])), "{value}");
            assert_eq!(number(&spelled[..bytes - 1]), None, "{value}, cut");
        }
    }

    #[test]
    fn what_would_be_gathered_is_bounded_and_a_body_is_not() {
        let long = [0; 101];
        for (kind, payload, passes) in [
            (HEADERS, &long[..100], true),
            (HEADERS, &long[..], false),
            (0x21, &long[..], false),
            (DATA, &long[..], true),
        ] {
            let taken = handed_on(&mut Frames::of_request(100), &framed(kind, payload), 1000);
            assert_eq!(taken.is_ok(), passes, "{kind}: {}", payload.len());
        }
        // Refused by what it says, long before it has come.
        let head = [spelled(HEADERS, 1), spelled(1 << 40, 8)].concat();
        assert_eq!(handed_on(&mut Frames::of_request(100), &head, 3), Err(TooLong));
    }

    #[test]
    fn what_the_library_gathers_is_known_until_the_frame_is_whole() {
        for (kind, size, expected) in [
            (HEADERS, 100, &[0][..]),
            (HEADERS, 3, &[3 + PIECE, 6 + 2 * PIECE, 9 + 3 * PIECE, 0][..]),
            (DATA, 3, &[0, 0, 0, 0][..]),
        ] {
            let (mut frames, bytes) = (Frames::of_request(100), framed(kind, &[0; 10]));
            // Its head comes alone, so that all pieces but the last are of this size.
            assert_eq!(handed_on(&mut frames, &bytes[..3], 3).map(|head| head.len()), Ok(3));
            let pending = bytes[3..].chunks(size).map(|piece| {
                handed_on(&mut frames, piece, size).unwrap();
                frames.pending()
            });
            assert_eq!(pending.collect::<Vec<_>>(), expected, "{kind} by {size}");
        }
    }

    #[test]
    fn a_stream_may_end_between_frames() {
        let whole = framed(DATA, b"body");
        for length in 0..=whole.len() {
            let mut frames = Frames::of_request(100);
            handed_on(&mut frames, &whole[..length], 1).unwrap();
            assert_eq!(frames.may_end(), length == 0 || length == whole.len(), "{length}");
        }
    }

    #[test]
    fn of_unidirectional_streams_only_the_control_stream_has_frames() {
        let large = framed(HEADERS, &[0; 101]);
        for (kind, passes) in [(0, false), (2, true), (3, true), (0x2f, true)] {
            let bytes = [spelled(kind, 1), large.clone()].concat();
            let taken = handed_on(&mut Frames::of_unidirectional(100), &bytes, 1000);
            assert_eq!(taken.map(|taken| taken == bytes), if passes { Ok(true) } else { Err(TooLong) }, "{kind}");
        }
    }

    #[test]
    fn changes_of_urgency_are_read_on_the_control_stream_and_handed_on() {
        let framed = |kind, value: &str| {
            let payload = [spelled(4_000, 2), value.as_bytes().to_vec()].concat();
            [spelled(kind, 4), spelled(payload.len() as u64, 2), payload].concat()
        };
        let long = format!("u=1, x={}", "1".repeat(128));
        for (name, stream, frame, expected) in [
            ("stated", CONTROL, framed(PRIORITY_UPDATE, "u=1, i"), Some(2)),
            ("not stated", CONTROL, framed(PRIORITY_UPDATE, ""), Some(0)),
            ("of a push", CONTROL, framed(PRIORITY_UPDATE + 1, "u=1"), None),
            ("long", CONTROL, framed(PRIORITY_UPDATE, &long), None),
            ("elsewhere", 2, framed(PRIORITY_UPDATE, "u=1"), None),
        ] {
            let bytes = [spelled(stream, 1), frame].concat();
            for size in [1, 7, 1_000] {
                let (mut frames, mut handed, mut updates) = (Frames::of_unidirectional(500), Vec::new(), Vec::new());
                for piece in bytes.chunks(size) {
                    frames.push(Bytes::copy_from_slice(piece));
                    while let Some(bytes) = frames.take().unwrap() {
                        handed.extend_from_slice(&bytes);
                        updates.extend(frames.take_update());
                    }
                }
                assert_eq!(handed, bytes, "{name}");
                let expected: Vec<Update> =
                    expected.map(|urgency| Update { stream: 4_000, urgency }).into_iter().collect();
                assert_eq!(updates, expected, "{name}, in pieces of {size}");
            }
        }
    }

    proptest! {
        /// Whatever comes, and in whatever pieces, is handed on but for DATA frames of no bytes.
        #[test]
        fn all_but_empty_data_is_handed_on(
            kinds in prop::collection::vec((0_u64..4, prop::collection::vec(any::<u8>(), 0..50)), 0..20),
            size in 1_usize..70,
        ) {
            let all: Vec<u8> = kinds.iter().flat_map(|(kind, payload)| framed(*kind, payload)).collect();
            let is_kept = |(kind, payload): &&(u64, Vec<u8>)| *kind != DATA || !payload.is_empty();
            let kept: Vec<u8> =
                kinds.iter().filter(is_kept).flat_map(|(kind, payload)| framed(*kind, payload)).collect();
            let mut frames = Frames::of_request(100);
            prop_assert_eq!(handed_on(&mut frames, &all, size), Ok(kept));
            prop_assert!(frames.may_end());
        }
    }
}
