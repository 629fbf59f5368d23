//! Windows: what there is no room for is read a little at a time, and looked up again for each piece.

use bytes::Bytes;

use super::{budget::SCARCE_BYTES, part::PartRef};
use crate::cache::{
    entry::{Digest, Value, digest},
    key::Key,
};

/// A body in one piece, or one part of a body, that is read in windows. All that is held of it are their digests, by
/// which each is known again, wherever it comes from.
#[derive(Debug)]
pub(super) struct Windows {
    /// Under which it is stored.
    key: Key,
    /// The offset of its first byte in the body.
    start: u64,
    length: usize,
    digests: Box<[Digest]>,
}

impl Windows {
    /// The windows of `bytes`, which are stored under `key` and begin at `start` of the body.
    pub(super) fn of(key: Key, start: u64, bytes: &[u8]) -> Self {
        Self { key, start, length: bytes.len(), digests: bytes.chunks(SCARCE_BYTES).map(digest).collect() }
    }

    /// The window that has the byte at `at` of the body.
    pub(super) fn at(&self, at: u64) -> Option<PartRef> {
        let behind = usize::try_from(at.checked_sub(self.start)?).ok().filter(|behind| *behind < self.length)?;
        let index = behind / SCARCE_BYTES;
        let from = index * SCARCE_BYTES;
        Some(PartRef {
            key: self.key,
            start: self.start + from as u64,
            length: SCARCE_BYTES.min(self.length - from),
            digest: *self.digests.get(index)?,
        })
    }

    /// The bytes of a window in what is stored under the key; `None` if that is something else by now.
    pub(super) fn cut(&self, window: &PartRef, value: Value) -> Option<Bytes> {
        let bytes = match value {
            Value::Part(bytes) => bytes,
            Value::Object(object) if object.is_whole() => object.body.clone(),
            Value::Object(_) | Value::Varies(_) | Value::Uncacheable(_) => return None,
        };
        let from = usize::try_from(window.start.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(window.length)?;
        if bytes.len() != self.length || to > bytes.len() {
            return None;
        }
        Some(bytes.slice(from..to)).filter(|bytes| window.is(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_one_window_and_only_the_same_bytes_are_it() {
        let key = Key::from_bytes([1; 32]);
        let bytes = Bytes::from(vec![7_u8; 2 * SCARCE_BYTES + 5]);
        let windows = Windows::of(key, 100, &bytes);
        let size = SCARCE_BYTES as u64;
        for (at, start, length) in [
            (100, 100, SCARCE_BYTES),
            (100 + size - 1, 100, SCARCE_BYTES),
            (100 + size, 100 + size, SCARCE_BYTES),
            (100 + 2 * size, 100 + 2 * size, 5),
            (100 + 2 * size + 4, 100 + 2 * size, 5),
        ] {
            let window = windows.at(at).unwrap();
            assert_eq!((window.key, window.start, window.length), (key, start, length), "{at}");
            let from = usize::try_from(start - 100).unwrap();
            assert_eq!(windows.cut(&window, Value::Part(bytes.clone())), Some(bytes.slice(from..from + length)));
        }
        assert_eq!((windows.at(99), windows.at(100 + 2 * size + 5)), (None, None));

        let last = windows.at(100 + 2 * size).unwrap();
        let shorter = bytes.slice(1..);
        let mut other = bytes.to_vec();
        other[2 * SCARCE_BYTES] = 0;
        for value in [Value::Part(shorter), Value::Part(other.into()), Value::Varies(Vec::new().into())] {
            assert_eq!(windows.cut(&last, value), None);
        }
    }
}
