//! The framing of gRPC, read as a call arrives: before a message stands whether it is compressed, and its length. Pure.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::{
    PREFIX_BYTES,
    status::{INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED},
};

/// The body of a call with one message, as far as it has arrived.
#[derive(Debug)]
pub struct Framing {
    gathered: BytesMut,
    bytes_max: u64,
}

/// The one message of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unframed {
    /// The message.
    pub message: Bytes,
    /// Whether it is compressed, as the call's `grpc-encoding` says.
    pub is_compressed: bool,
}

/// Why the body of a call isn't one message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Misframed {
    /// There is none.
    #[error("the call has no message")]
    Nothing,
    /// Another one follows, or bytes that are none.
    #[error("the call goes on after its first message, and the method takes one")]
    Several,
    /// It ends before the message does.
    #[error("the call breaks off within its message")]
    Short,
    /// The flag before the message is none that there is.
    #[error("the flag before the message is {0}: it can be 0, or 1 for a compressed one")]
    Flag(u8),
    /// The message says that it is longer than it may be.
    #[error("the message has {stated} bytes, and {max} are the most that it may have")]
    Long {
        /// Its length.
        stated: u64,
        /// The limit in bytes.
        max: u64,
    },
}

impl Misframed {
    /// Returns the code of gRPC for it, as its documents on status codes have it.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Nothing | Self::Several => UNIMPLEMENTED,
            Self::Short | Self::Flag(_) => INTERNAL,
            Self::Long { .. } => RESOURCE_EXHAUSTED,
        }
    }
}

impl Framing {
    /// Returns the beginning of a call whose message may have so many bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self { gathered: BytesMut::new(), bytes_max }
    }

    /// Takes the next bytes of the body.
    ///
    /// # Errors
    /// [`Misframed`] as soon as it is known: a length is refused before its message has arrived.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Misframed> {
        self.gathered.extend_from_slice(bytes);
        let Some((_, stated)) = prefix(&self.gathered)? else { return Ok(()) };
        if stated > self.bytes_max {
            return Err(Misframed::Long { stated, max: self.bytes_max });
        }
        let goes_on = self.gathered.len() as u64 > stated + PREFIX_BYTES as u64;
        if goes_on { Err(Misframed::Several) } else { Ok(()) }
    }

    /// Returns the message of the body, which has ended.
    ///
    /// # Errors
    /// [`Misframed`] if there is none, or not all of it.
    pub fn finish(self) -> Result<Unframed, Misframed> {
        if self.gathered.is_empty() {
            return Err(Misframed::Nothing);
        }
        let Some((is_compressed, stated)) = prefix(&self.gathered)? else { return Err(Misframed::Short) };
        let message = self.gathered.freeze().split_off(PREFIX_BYTES);
        let is_whole = message.len() as u64 == stated;
        if is_whole { Ok(Unframed { message, is_compressed }) } else { Err(Misframed::Short) }
    }
}

/// Returns whether a message is compressed, and its length; `None` if that hasn't arrived.
fn prefix(body: &[u8]) -> Result<Option<(bool, u64)>, Misframed> {
    let Some(([flag, length @ ..], _)) = body.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    match flag {
        0 | 1 => Ok(Some((*flag == 1, u32::from_be_bytes(*length).into()))),
        other => Err(Misframed::Flag(*other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Unframed, Misframed> {
        let mut framing = Framing::new(4);
        pieces.iter().try_for_each(|piece| framing.push(piece))?;
        framing.finish()
    }

    #[test]
    fn a_call_is_one_message() {
        let message = |bytes: &'static [u8], is_compressed| Unframed { message: bytes.into(), is_compressed };
        for (body, wanted, code) in [
            (&b"\0\0\0\0\x02ab"[..], Ok(message(b"ab", false)), 0),
            (b"\x01\0\0\0\x02ab", Ok(message(b"ab", true)), 0),
            (b"\0\0\0\0\0", Ok(message(b"", false)), 0),
            (b"", Err(Misframed::Nothing), 12),
            (b"\0\0\0\0", Err(Misframed::Short), 13),
            (b"\0\0\0\0\x02a", Err(Misframed::Short), 13),
            (b"\0\0\0\0\x02ab\0", Err(Misframed::Several), 12),
            (b"\0\0\0\0\x02ab\0\0\0\0\x02ab", Err(Misframed::Several), 12),
            (b"\x02\0\0\0\x02ab", Err(Misframed::Flag(2)), 13),
            (b"\0\0\0\0\x05", Err(Misframed::Long { stated: 5, max: 4 }), 8),
            (b"\0\xff\xff\xff\xffabcd", Err(Misframed::Long { stated: 0xffff_ffff, max: 4 }), 8),
        ] {
            let found = read(&[body]);
            assert_eq!(found.as_ref().map_or_else(|fault| fault.code(), |_| 0), code, "{body:?}");
            assert_eq!(found, wanted, "{body:?}");
        }
    }

    proptest! {
        /// However it is cut, and whatever it is.
        #[test]
        fn pieces_make_no_difference(body in prop::collection::vec(0_u8..6, 0..16), size in 1_usize..6) {
            let pieces: Vec<&[u8]> = body.chunks(size).collect();
            prop_assert_eq!(read(&pieces), read(&[&body[..]]));
        }
    }
}
