//! Connection IDs by which a process tells its own packets from those of the process whose place it has taken (RFC 9000,
//! section 5.1). Pure but for the key.
//!
//! An ID is a number that looks random and a tag of it by a key of the socket's owner. To anybody without the key all
//! IDs look alike, so that they can't be put together; with it an ID that a client has made up is taken for one of the
//! process's own once in four billion times.

use std::io;

use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::crypto::ring;

const NONCE: usize = 4;
const TAG: usize = 4;

/// Bytes of a connection ID.
pub(super) const LENGTH: usize = NONCE + TAG;

/// The bit of a packet's first byte that a long header has, and where its destination begins (RFC 8999, section 5.1).
const LONG: u8 = 0x80;
const LONG_AT: usize = 6;

/// The key of a socket's owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// Returns another key each time.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(super) fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        let filled = ring::default_provider().secure_random.fill(&mut bytes);
        filled.map_err(|_| io::Error::other("the system gives no random bytes"))?;
        Ok(Self(bytes))
    }

    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Whether a packet goes to a connection whose ID was issued by this key.
    pub(super) fn has_issued_for(&self, packet: &[u8]) -> bool {
        destination(packet).is_some_and(|id| self.tagged(id[..NONCE].try_into().unwrap_or_default()) == *id)
    }

    fn tagged(&self, nonce: [u8; NONCE]) -> [u8; LENGTH] {
        let mut id = [0; LENGTH];
        id[..NONCE].copy_from_slice(&nonce);
        id[NONCE..].copy_from_slice(&blake3::keyed_hash(&self.0, &nonce).as_bytes()[..TAG]);
        id
    }
}

/// Issues connection IDs by a key.
pub(super) struct Ids {
    key: Key,
    issued: u64,
}

impl Ids {
    pub(super) const fn new(key: Key) -> Self {
        Self { key, issued: 0 }
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.issued += 1;
        // Of another length than what is tagged, so that neither says anything of the other.
        let random = blake3::keyed_hash(&self.key.0, &self.issued.to_be_bytes());
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&random.as_bytes()[..NONCE]);
        ConnectionId::new(&self.key.tagged(nonce))
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Returns the connection ID that a packet is for, if it has the length of those that are issued here. Where it stands
/// is the same in all versions of QUIC.
fn destination(packet: &[u8]) -> Option<&[u8; LENGTH]> {
    let at = if packet.first()? & LONG == 0 {
        1
    } else {
        if usize::from(*packet.get(LONG_AT - 1)?) != LENGTH {
            return None;
        }
        LONG_AT
    };
    packet.get(at..)?.first_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(id: &[u8]) -> Vec<u8> {
        [&[0x40][..], id, b"encrypted"].concat()
    }

    fn long(id: &[u8]) -> Vec<u8> {
        [&[0xc0, 0, 0, 0, 1, u8::try_from(id.len()).unwrap()][..], id, b"\x08source-idand more"].concat()
    }

    #[test]
    fn the_ids_of_a_key_are_known_by_it_alone() {
        let (own, other) = (Key::random().unwrap(), Key::random().unwrap());
        let (mut ids, mut seen) = (Ids::new(own), std::collections::HashSet::new());
        for _ in 0..100 {
            let id = ids.generate_cid();
            assert_eq!(id.len(), LENGTH);
            for packet in [short(&id), long(&id)] {
                assert!(own.has_issued_for(&packet) && !other.has_issued_for(&packet));
                assert!(Key::from_bytes(own.to_bytes()).has_issued_for(&packet), "the key can be handed on");
            }
            seen.insert(id.to_vec());
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn what_a_client_has_made_up_is_for_nobody() {
        let key = Key::random().unwrap();
        let id = Ids::new(key).generate_cid();
        let mut wrong = id.to_vec();
        wrong[LENGTH - 1] ^= 1;
        let longer = [&id[..], &[0]].concat();
        for packet in [short(&wrong), long(&wrong), long(&longer), long(b""), long(&id)[..9].to_vec(), Vec::new()] {
            assert!(!key.has_issued_for(&packet), "{packet:02x?}");
        }
        assert!(!key.has_issued_for(&short(&id)[..LENGTH]), "it is cut");
    }
}
