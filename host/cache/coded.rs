//! Stored responses in a content coding that this node has made (RFC 9110, section 8.4), beside the response that each
//! was made of.
//!
//! Such a variant has a key of its own, made of what its original is known by: a response that is stored anew, or
//! renewed, has none until it is made again. It isn't judged by itself. Whether it may be served is decided about the
//! original, whose tags and place in the purge log it has.

use std::{sync::Arc, time::Duration};

use http::header::{ETAG, HeaderValue};

use super::{
    Cache,
    entry::{Head, Object, Value},
    key::{Key, KeyHasher},
};
use crate::{
    clock,
    message::delta::{DCZ, DictionaryHash},
    policy::Material,
};

/// How long it is remembered that a response doesn't get smaller.
const USELESS: Duration = Duration::from_secs(600);

/// What is known of a response in a content coding.
#[derive(Clone, Debug)]
pub enum Coded {
    /// It was made.
    Stored(Arc<Object>),
    /// It isn't worth making: it is no smaller.
    Useless,
    /// Nothing is known.
    Missing,
}

/// Returns the key of a variant in this coding. It is made of what the original is known by, so that no variant is taken
/// for that of another response under the same key.
#[must_use]
pub fn key_of(original: &Key, head: &Head, coding: &str) -> Key {
    let mut hasher = KeyHasher::under(original);
    let tag = head.headers.get(ETAG).map(HeaderValue::as_bytes);
    for part in [Some(&b"holm coded"[..]), Some(coding.as_bytes()), tag] {
        hasher.part(part);
    }
    for number in [head.stored_at.0, head.initial_age_ms, head.length] {
        hasher.part(Some(&number.to_le_bytes()));
    }
    hasher.finish()
}

/// Returns the key of the delta from the dictionary with this hash to a response. Whether the dictionary was purged since
/// is decided by the delta's own tags and mark, so that those of the original are in its key.
#[must_use]
pub fn delta_key(original: &Key, head: &Head, hash: &DictionaryHash) -> Key {
    let mut hasher = KeyHasher::under(&key_of(original, head, DCZ));
    hasher.part(Some(hash.as_bytes()));
    let mark = &head.mark;
    for number in [mark.log.0, mark.position.0, mark.local] {
        hasher.part(Some(&number.to_le_bytes()));
    }
    hasher.finish()
}

impl Cache {
    /// Looks in memory for a response in a content coding, which has this key ([`key_of`]); never waits.
    #[must_use]
    pub fn coded(&self, key: &Key) -> Coded {
        known(self.tiers.memory(key))
    }

    /// Looks on disk as well; what is found there is in memory afterwards.
    pub async fn coded_on_disk(&self, key: &Key) -> Coded {
        match self.coded(key) {
            Coded::Missing => known(self.tiers.disk(key).await),
            coded => coded,
        }
    }

    /// Stores a response in a content coding in this node's tiers.
    pub fn store_coded(&self, key: Key, object: Arc<Object>) {
        self.tiers.insert_local(key, Value::Object(object));
    }

    /// Notes that a response isn't worth this coding.
    pub fn mark_useless(&self, key: Key) {
        self.tiers.insert_local(key, Value::Uncacheable(clock::uptime().plus(USELESS)));
    }
}

fn known(value: Option<Value>) -> Coded {
    match value {
        Some(Value::Object(object)) => Coded::Stored(object),
        Some(Value::Uncacheable(until)) if clock::uptime() < until => Coded::Useless,
        Some(Value::Uncacheable(_) | Value::Part(_) | Value::Varies(_)) | None => Coded::Missing,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{super::codec::tests::head, *};

    #[tokio::test]
    async fn a_delta_is_of_one_response_and_one_dictionary() {
        let original = Key::from_bytes([7; 32]);
        let hash = DictionaryHash::of(Bytes::from_static(b"a")).await.unwrap();
        let another = DictionaryHash::of(Bytes::from_static(b"b")).await.unwrap();
        let key = delta_key(&original, &head(0), &hash);
        assert_eq!(key, delta_key(&original, &head(0), &hash));
        assert_ne!(key, delta_key(&original, &head(0), &another));
        assert_ne!(key, key_of(&original, &head(0), DCZ));
        let (mut later, mut changed) = (head(0), head(0));
        later.mark.local += 1;
        changed.length += 1;
        assert_ne!(key, delta_key(&original, &later, &hash));
        assert_ne!(key, delta_key(&original, &changed, &hash));
    }

    #[test]
    fn a_variant_is_of_one_response_in_one_coding() {
        let original = Key::from_bytes([7; 32]);
        let key = key_of(&original, &head(0), "zstd");
        assert_eq!(key, key_of(&original, &head(0), "zstd"));
        assert_ne!(key, key_of(&original, &head(0), "br"));
        assert_ne!(key, key_of(&Key::from_bytes([8; 32]), &head(0), "zstd"));
        let changes: [fn(&mut Head); 4] = [
            |head| head.stored_at.0 += 1,
            |head| head.initial_age_ms += 1,
            |head| head.length += 1,
            |head| drop(head.headers.insert(ETAG, HeaderValue::from_static("\"another\""))),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut changed = head(0);
            change(&mut changed);
            assert_ne!(key, key_of(&original, &changed, "zstd"), "change {at}");
        }
    }
}
