//! How numbers are written in the journal, and how its errors are told.

use crate::cache::purge::Error;

pub(super) fn pair(first: u64, second: u64) -> [u8; 16] {
    let mut packed = [0; 16];
    packed[..8].copy_from_slice(&first.to_le_bytes());
    packed[8..].copy_from_slice(&second.to_le_bytes());
    packed
}

pub(super) fn halves(packed: [u8; 16]) -> (u64, u64) {
    let value = u128::from_le_bytes(packed);
    #[expect(clippy::cast_possible_truncation, reason = "the low and high halves are meant")]
    (value as u64, (value >> 64) as u64)
}

pub(super) fn journal(error: impl std::fmt::Display) -> Error {
    Error::Journal(error.to_string())
}
