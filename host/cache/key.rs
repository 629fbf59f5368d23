//! Keys: 32 bytes of blake3 over length-prefixed material. The host hashes; a policy only ever names material.

use std::{
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use arc_swap::ArcSwapOption;

use crate::policy::Material;

/// Bumped when the meaning of key material changes, so that old entries are misses.
const SCHEME: u64 = 1;

/// What an answer is stored under.
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
        hasher.update(&stamp.to_le_bytes());
        hasher.update(&index.to_le_bytes());
        Self(*hasher.finalize().as_bytes())
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

/// The start of every key of one route: hashed once, cloned per request.
#[derive(Debug)]
pub struct KeySpace {
    native: blake3::Hasher,
    policy: blake3::Hasher,
    /// The start of the keys of the policy's generation that was asked last, which is nearly always the active one.
    latest: ArcSwapOption<([u8; 32], blake3::Hasher)>,
}

impl KeySpace {
    /// Keys of `route` in `namespace`.
    #[must_use]
    pub fn new(namespace: &str, route: &str) -> Self {
        let start = |decider: &str| {
            let mut hasher = KeyHasher(blake3::Hasher::new());
            hasher.part(Some(&SCHEME.to_le_bytes()));
            for part in [namespace, route, decider] {
                hasher.part(Some(part.as_bytes()));
            }
            hasher.0
        };
        Self { native: start("native"), policy: start("policy"), latest: ArcSwapOption::empty() }
    }

    /// A hasher for one request's material.
    #[must_use]
    pub fn hasher(&self, decider: Decider<'_>) -> KeyHasher {
        match decider {
            Decider::Native => KeyHasher(self.native.clone()),
            Decider::Policy { meaning } => match &*self.latest.load() {
                Some(latest) if latest.0 == *meaning => KeyHasher(latest.1.clone()),
                _ => self.begin(meaning),
            },
        }
    }

    fn begin(&self, meaning: &[u8; 32]) -> KeyHasher {
        let mut hasher = KeyHasher(self.policy.clone());
        hasher.part(Some(meaning));
        self.latest.store(Some(Arc::new((*meaning, hasher.0.clone()))));
        hasher
    }
}

/// Turns material into a [`Key`].
#[derive(Debug)]
pub struct KeyHasher(blake3::Hasher);

impl KeyHasher {
    /// A hasher that starts at another key: for the variants of an answer.
    #[must_use]
    pub fn under(key: &Key) -> Self {
        let mut hasher = Self(blake3::Hasher::new());
        hasher.part(Some(key.as_bytes()));
        hasher
    }

    /// The key.
    #[must_use]
    pub fn finish(self) -> Key {
        Key(*self.0.finalize().as_bytes())
    }
}

impl Material for KeyHasher {
    fn part(&mut self, part: Option<&[u8]>) {
        match part {
            // No value is as long as this, so absence can't be confused with any content.
            None => self.0.update(&u64::MAX.to_le_bytes()),
            Some(bytes) => self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes),
        };
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

    proptest! {
        #[test]
        fn different_material_has_different_keys(
            a in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..4)), 0..4),
            b in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..4)), 0..4),
        ) {
            prop_assert_eq!(a == b, key(&a) == key(&b));
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
