//! Keys: 32 bytes of keyed blake3 over material that is spelled part by part. The host hashes; a policy only ever names
//! material.

use std::{
    array, fmt,
    hash::{BuildHasher, Hash, Hasher},
};

use arrayvec::ArrayVec;

use crate::{
    planted::{Plant, planted},
    policy::{Material, key::spell},
};

/// Bumped when the meaning of key material changes, so that old entries are misses.
const SCHEME: u64 = 3;

/// The key and value of a stored response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Where part `index` of the body stamped `stamp` is stored. A newer body of the same key has another stamp,
    /// so parts of two bodies never meet.
    #[must_use]
    pub fn part(&self, stamp: u64, index: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"holm part");
        hasher.update(&self.0);
        if !planted(Plant::PartsUnstamped) {
            hasher.update(&stamp.to_le_bytes());
        }
        hasher.update(&index.to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// Under which requests share a fetch that want something newer than what is stored under this key. Nothing is
    /// stored there.
    #[must_use]
    pub fn reload(&self) -> Self {
        Self(*blake3::Hasher::new().update(b"holm reload").update(&self.0).finalize().as_bytes())
    }

    /// Under which requests that came from another node share a fetch, which isn't one of those that wait for that
    /// node. Nothing is stored there.
    #[must_use]
    pub fn relayed(&self) -> Self {
        Self(*blake3::Hasher::new().update(b"holm relayed").update(&self.0).finalize().as_bytes())
    }

    /// Under which it is noted that responses to requests with a cookie aren't stored under this key. Nothing is stored
    /// there.
    #[must_use]
    pub fn with_cookie(&self) -> Self {
        Self(*blake3::Hasher::new().update(b"holm cookie").update(&self.0).finalize().as_bytes())
    }

    /// The key's first eight bytes: uniform already, so they serve as its hash.
    const fn prefix(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.prefix());
    }
}

/// Passes a key's own bytes on as its hash; stable over restarts, as the disk tier needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyHash(u64);

impl BuildHasher for KeyHash {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for KeyHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Who decided what the key is made of. Verdicts of different deciders never meet in one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decider<'a> {
    /// The native default.
    Native,
    /// A policy's recipe or call.
    Policy {
        /// What its material means, so that what one recipe or version stored is not found by another.
        meaning: &'a [u8; 32],
    },
}

/// What keyed blake3 is keyed with. Everything that the keys of a route and a decider share is in it, so that it is hashed
/// once and not with every request.
type Start = [u8; 32];

/// The starts of the keys of one route.
#[derive(Clone, Copy, Debug)]
pub struct KeySpace {
    native: Start,
    policy: Start,
}

impl KeySpace {
    /// Keys of `route` in `namespace`.
    #[must_use]
    pub fn new(namespace: &str, route: &str) -> Self {
        let start = |decider: &str| {
            let mut hasher = KeyHasher::new([0; 32]);
            hasher.part(Some(&SCHEME.to_le_bytes()));
            for part in [namespace, route, decider] {
                hasher.part(Some(part.as_bytes()));
            }
            hasher.finish().0
        };
        Self { native: start("native"), policy: start("policy") }
    }

    /// A hasher for one request's material.
    #[must_use]
    pub fn hasher(&self, decider: Decider<'_>) -> KeyHasher {
        KeyHasher::new(match decider {
            Decider::Native => self.native,
            // Two digests, neither of which a client can choose: that two such pairs have the same sum is as unlikely
            // as that two digests are the same.
            Decider::Policy { meaning } => array::from_fn(|at| self.policy[at] ^ meaning[at]),
        })
    }
}

/// The material of most keys fits in here.
const PENDING_BYTES_MAX: usize = 256;

/// Turns material into a [`Key`].
#[derive(Debug)]
pub struct KeyHasher {
    start: Start,
    /// Material to be hashed: a hash of one piece costs less than a hash of twenty.
    pending: ArrayVec<u8, PENDING_BYTES_MAX>,
    /// Has what came before it, once there has been too much.
    before: Option<Box<blake3::Hasher>>,
}

impl KeyHasher {
    fn new(start: Start) -> Self {
        Self { start, pending: ArrayVec::new(), before: None }
    }

    /// A hasher that starts at another key: for the variants of a response.
    #[must_use]
    pub fn under(key: &Key) -> Self {
        Self::new(key.0)
    }

    /// The key.
    #[must_use]
    pub fn finish(self) -> Key {
        let hash = match self.before {
            None => blake3::keyed_hash(&self.start, &self.pending),
            Some(mut before) => before.update(&self.pending).finalize(),
        };
        Key(*hash.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.pending.try_extend_from_slice(bytes).is_ok() {
            return;
        }
        let start = &self.start;
        let before = self.before.get_or_insert_with(|| Box::new(blake3::Hasher::new_keyed(start)));
        before.update(&self.pending).update(bytes);
        self.pending.clear();
    }
}

impl Material for KeyHasher {
    fn part(&mut self, part: Option<&[u8]>) {
        spell(part, |bytes| self.write(bytes));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(parts: &[Option<Vec<u8>>]) -> Key {
        let mut hasher = KeySpace::new("ns", "route").hasher(Decider::Policy { meaning: &[1; 32] });
        parts.iter().for_each(|part| hasher.part(part.as_deref()));
        hasher.finish()
    }

    fn parts(bytes: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
        prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), bytes)), 0..4)
    }

    proptest! {
        #[test]
        fn different_material_has_different_keys(a in parts(0..4), b in parts(0..4)) {
            prop_assert_eq!(a == b, key(&a) == key(&b));
        }

        /// Some fit into what is pending, some fill it, some are longer.
        #[test]
        fn material_is_hashed_as_it_is_spelled(parts in parts(0..2 * PENDING_BYTES_MAX)) {
            let mut hasher = KeyHasher::under(&Key([7; 32]));
            let mut spelled = Vec::new();
            for part in &parts {
                hasher.part(part.as_deref());
                spell(part.as_deref(), |bytes| spelled.extend_from_slice(bytes));
            }
            prop_assert_eq!(hasher.finish().0, *blake3::keyed_hash(&[7; 32], &spelled).as_bytes());
        }
    }

    #[test]
    fn deciders_routes_namespaces_and_parts_are_apart() {
        let finish = |namespace, route, decider| KeySpace::new(namespace, route).hasher(decider).finish();
        let keys = [
            finish("a", "r", Decider::Native),
            finish("a", "r", Decider::Policy { meaning: &[1; 32] }),
            finish("a", "r", Decider::Policy { meaning: &[2; 32] }),
            finish("b", "r", Decider::Native),
            finish("a", "s", Decider::Native),
            finish("a", "r", Decider::Native).part(1, 0),
            finish("a", "r", Decider::Native).part(1, 1),
            finish("a", "r", Decider::Native).part(2, 0),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert!(keys[index + 1..].iter().all(|other| other != one));
        }
    }
}
