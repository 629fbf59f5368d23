//! Parts of bodies: where one is stored, and how it is known again.

use std::sync::Arc;

use super::lending::LentPart;
use crate::cache::{
    entry::{Digest, Layout, Object, digest},
    key::Key,
};

/// One part of a body: where it is stored, and how to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRef {
    /// Its key.
    pub key: Key,
    /// The offset of its first byte in the body.
    pub start: u64,
    /// Its length in bytes.
    pub length: usize,
    /// Its digest.
    pub digest: Digest,
}

impl PartRef {
    /// The part of a stored object that has the byte at `at`.
    #[must_use]
    pub fn in_object(key: &Key, object: &Object, at: u64) -> Option<Self> {
        let Layout::Parts { stamp, part_bytes, digests } = &object.head.layout else { return None };
        Self::of(key, *stamp, *part_bytes, digests, object.head.length, at)
    }

    /// The part that has the byte at `at`, of parts that are `length` bytes together.
    #[must_use]
    pub fn of(key: &Key, stamp: u64, part_bytes: u64, digests: &[Digest], length: u64, at: u64) -> Option<Self> {
        let index = at.checked_div(part_bytes)?;
        let digest = *digests.get(usize::try_from(index).ok()?)?;
        let start = index * part_bytes;
        let left = length.checked_sub(start).filter(|left| *left > 0)?;
        let length = usize::try_from(left.min(part_bytes)).ok()?;
        Some(Self { key: key.part(stamp, u32::try_from(index).ok()?), start, length, digest })
    }

    /// Whether these bytes are the part.
    #[must_use]
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.length && digest(bytes) == self.digest
    }
}

/// A part that has just been stored.
#[derive(Debug)]
pub struct Stored {
    /// The part, counted as being read.
    pub part: Arc<LentPart>,
    /// Its digest.
    pub digest: Digest,
}
