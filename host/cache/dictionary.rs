//! Dictionaries for deltas (RFC 9842): bodies of responses that were stored, found by their SHA-256.
//!
//! A dictionary is stored in this node's tiers, beside the response and beyond its life, under a key that is made of its
//! route, its host and its hash: a client that names the hash of another host's response names nothing. It has the tags
//! of the response and its place in the purge log. Once that was purged, it isn't used any more, unless softly: what was
//! to be gone must not be shown by how much the next version has in common with it.

pub mod shelf;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use self::shelf::Added;
use super::{
    Cache,
    entry::{Head, Layout, Object, Value},
    key::{Decider, Key, KeySpace},
    purge::Standing,
};
use crate::{message::delta::DictionaryHash, policy::Material};

/// Bytes that a dictionary takes beside its body, about.
const HEAD_BYTES: u64 = 1_024;

/// Returns the key of the dictionary with this hash, of a route's responses for a host.
#[must_use]
pub fn key_of(route: &KeySpace, authority: &str, hash: &DictionaryHash) -> Key {
    named(route, b"holm dictionary", authority, hash.as_bytes())
}

/// Returns the key by which dictionaries are counted: those of a route's responses for a host that have this pattern.
#[must_use]
pub fn line_of(route: &KeySpace, authority: &str, pattern: &str) -> Key {
    named(route, b"holm dictionaries", authority, pattern.as_bytes())
}

/// Requests have keys of other material: theirs begins with a method, which has no space in it.
fn named(route: &KeySpace, kind: &[u8], authority: &str, name: &[u8]) -> Key {
    let mut hasher = route.hasher(Decider::Native);
    for part in [kind, authority.as_bytes(), name] {
        hasher.part(Some(part));
    }
    hasher.finish()
}

impl Cache {
    /// Stores a response's body as a dictionary, of which `line` may have `line_max`; the oldest make room.
    pub fn store_dictionary(&self, line: Key, key: Key, original: &Head, body: Bytes, line_max: usize) {
        let bytes = body.len() as u64;
        let added = self.shelf.lock().add(line, key, bytes + HEAD_BYTES, line_max);
        let Added::Stored(removed) = added else { return };
        for old in removed {
            self.tiers.remove(&old);
        }
        let (headers, own, layout) = (HeaderMap::new(), HeaderMap::new(), Layout::Whole);
        let head = Head { headers, own, layout, length: bytes, ..original.clone() };
        self.tiers.insert_local(key, Value::Object(Object::new(head, body)));
    }

    /// Whether a dictionary may be stored. Never waits; true may be wrong, false never is.
    #[must_use]
    pub fn may_have_dictionary(&self, key: &Key) -> bool {
        self.tiers.may_have(key)
    }

    /// Returns a dictionary from memory or disk. One that was purged is removed.
    pub async fn dictionary(&self, key: &Key) -> Option<Arc<Object>> {
        let value = match self.tiers.memory(key) {
            Some(value) => Some(value),
            None => self.tiers.disk(key).await,
        };
        let Some(Value::Object(object)) = value else { return None };
        match self.standing(&object) {
            Standing::Good | Standing::Stale => Some(object),
            Standing::Unconfirmed | Standing::Doubtful => None,
            Standing::Gone => {
                self.tiers.remove(key);
                None
            }
        }
    }

    /// Returns whether the delta that has this key may be used as far as its dictionary goes, whose tags it has. One whose
    /// dictionary was purged is removed.
    #[must_use]
    pub fn dictionary_standing(&self, key: &Key, delta: &Object) -> DictionaryStanding {
        match self.standing(delta) {
            Standing::Good | Standing::Stale => DictionaryStanding::Usable,
            Standing::Unconfirmed | Standing::Doubtful => DictionaryStanding::Unknown,
            Standing::Gone => {
                self.tiers.remove(key);
                DictionaryStanding::Purged
            }
        }
    }
}

/// Whether a dictionary may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DictionaryStanding {
    /// It was not purged, or softly: out of date is what it is meant to be.
    Usable,
    /// It was purged.
    Purged,
    /// Whether it was purged can't be known now.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Metrics, codec::tests::head},
        *,
    };
    use crate::config;

    #[tokio::test]
    async fn a_dictionary_is_of_one_route_and_host() {
        let (route, other) = (KeySpace::new("ns", "r"), KeySpace::new("ns", "s"));
        let hash = DictionaryHash::of(Bytes::from_static(b"a")).await.unwrap();
        let another = DictionaryHash::of(Bytes::from_static(b"b")).await.unwrap();
        let key = key_of(&route, "a.example", &hash);
        assert_eq!(key, key_of(&route, "a.example", &hash));
        for different in [
            key_of(&other, "a.example", &hash),
            key_of(&route, "b.example", &hash),
            key_of(&route, "a.example", &another),
            line_of(&route, "a.example", "/*"),
        ] {
            assert_ne!(key, different);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_stored_with_its_tags_and_without_its_fields_until_others_need_the_room() {
        let cache = Cache::open("n", &config::Cache::default(), Metrics::default()).await.unwrap();
        let original = Head { mark: cache.purger().mark(), ..head(0) };
        let (line, first, second) = (Key::from_bytes([1; 32]), Key::from_bytes([2; 32]), Key::from_bytes([3; 32]));
        cache.store_dictionary(line, first, &original, Bytes::from_static(b"one"), 1);
        assert!(cache.may_have_dictionary(&first));
        let stored = cache.dictionary(&first).await.unwrap();
        assert_eq!((&*stored.body, stored.head.length, stored.head.headers.len()), (&b"one"[..], 3, 0));
        assert_eq!((&stored.head.tags, stored.head.mark), (&original.tags, original.mark));
        assert_eq!(cache.dictionary_standing(&first, &stored), DictionaryStanding::Usable);
        cache.store_dictionary(line, second, &original, Bytes::from_static(b"two"), 1);
        assert!(cache.dictionary(&first).await.is_none());
        assert!(cache.dictionary(&second).await.is_some());
    }
}
