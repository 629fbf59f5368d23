//! How two makers of keys divide the same requests. A changed key matters by which requests share a response, not by
//! how it is spelled. Pure: takes the keys of one request after the other, within a bound of memory.

use std::{borrow::Cow, collections::HashMap};

use http::Method;

use super::{
    Facts, KeyVerdict, Material, fields,
    key::{self, Transform},
};
use crate::message::RequestHead;

/// A digest by which keys are compared.
type Digest = [u8; 16];

/// Which responses a request may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Those of requests with the same digest.
    Key([u8; 16]),
    /// None: it is kept out of the cache.
    Bypass,
}

impl Sharing {
    /// Returns it by a policy's verdict on the request's key. As in the cache, the method is a part of it.
    #[must_use]
    pub fn of(request: &RequestHead, verdict: &KeyVerdict) -> Self {
        match verdict {
            KeyVerdict::Bypass(_) => Self::Bypass,
            KeyVerdict::Lookup(parts) => {
                let mut hasher = Hasher::of(&request.method);
                parts.iter().for_each(|part| hasher.part(part.as_deref()));
                hasher.finish()
            }
        }
    }

    /// Returns it by the native key: of a POST as an `infer` route makes it, of anything else as an `http` route does.
    #[must_use]
    pub fn native(facts: &Facts<'_>) -> Self {
        let method = &facts.request().method;
        let mut hasher = Hasher::of(method);
        if method == Method::POST {
            let body = facts.body().map_or(&b""[..], |body| body);
            let headers = facts.request().headers.keys();
            let mut sent: Vec<_> = headers.filter(|name| !fields::is_ignorable(name)).cloned().collect();
            sent.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
            key::infer_default(facts, &sent, &Transform::JsonCanonical.apply(Cow::Borrowed(body)), &mut hasher);
        } else {
            key::http_default(facts, &mut hasher);
        }
        hasher.finish()
    }
}

/// Whether requests of this method have a key at all.
#[must_use]
pub fn is_keyed(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::POST].contains(method)
}

struct Hasher(blake3::Hasher);

impl Hasher {
    fn of(method: &Method) -> Self {
        let mut hasher = Self(blake3::Hasher::new());
        hasher.part(Some(key::shared_method(method).as_str().as_bytes()));
        hasher
    }

    fn finish(self) -> Sharing {
        let mut digest = Digest::default();
        self.0.finalize_xof().fill(&mut digest);
        Sharing::Key(digest)
    }
}

impl Material for Hasher {
    fn part(&mut self, part: Option<&[u8]>) {
        key::spell(part, |bytes| {
            self.0.update(bytes);
        });
    }
}

/// A difference in how the new keys treat a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// It shares a response with a request that it didn't share one with.
    NewlyShared,
    /// It doesn't share a response with a request that it shared one with.
    NoLongerShared,
    /// It is kept out of the cache.
    NewlyBypassed,
    /// It is no longer kept out of the cache.
    NoLongerBypassed,
}

impl Change {
    /// All of them, the most dangerous first.
    pub const ALL: [Self; 4] = [Self::NewlyShared, Self::NoLongerShared, Self::NewlyBypassed, Self::NoLongerBypassed];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NewlyShared => "newly shared",
            Self::NoLongerShared => "no longer shared",
            Self::NewlyBypassed => "newly bypassed",
            Self::NoLongerBypassed => "no longer bypassed",
        }
    }
}

/// A change that one request shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding<E> {
    /// The change.
    pub change: Change,
    /// The request that it newly shares, or no longer shares, a response with.
    pub with: Option<E>,
}

/// The counts of the requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests of each [`Change`], in the order of [`Change::ALL`]; one request may be in two of them.
    pub changes: [u64; Change::ALL.len()],
    /// Distinct keys that the old maker made.
    pub old_keys: u64,
    /// Distinct keys that the new maker made.
    pub new_keys: u64,
}

/// Two partitions of the same requests, compared as the requests come. `E` names a request.
///
/// Each key is remembered with the first request that had it, up to a number of keys; beyond it those not seen for
/// longest are forgotten. So whatever is reported is true; something may be missed only if more keys than that lie
/// between two requests.
#[derive(Debug)]
pub struct Partition<E> {
    old: Classes<E>,
    new: Classes<E>,
    changes: [u64; Change::ALL.len()],
}

impl<E: Clone> Partition<E> {
    /// Remembers at least `keys_max` keys of each side, and at most twice as many.
    #[must_use]
    pub fn new(keys_max: usize) -> Self {
        Self { old: Classes::new(keys_max), new: Classes::new(keys_max), changes: Default::default() }
    }

    /// Takes the two keys of a request, and returns how the new one treats it differently.
    pub fn compare(&mut self, old: Sharing, new: Sharing, request: &E) -> Vec<Finding<E>> {
        let mut found = Vec::new();
        match (old, new) {
            (Sharing::Bypass, Sharing::Bypass) => {}
            (Sharing::Key(_), Sharing::Bypass) => found.push(Finding { change: Change::NewlyBypassed, with: None }),
            (Sharing::Bypass, Sharing::Key(_)) => found.push(Finding { change: Change::NoLongerBypassed, with: None }),
            (Sharing::Key(old), Sharing::Key(new)) => {
                let merged = self.new.meet(new, old, request);
                found.extend(merged.map(|with| Finding { change: Change::NewlyShared, with: Some(with) }));
                let split = self.old.meet(old, new, request);
                found.extend(split.map(|with| Finding { change: Change::NoLongerShared, with: Some(with) }));
            }
        }
        for finding in &found {
            self.changes[finding.change as usize] += 1;
        }
        found
    }

    /// Returns the counts so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        Counts { changes: self.changes, old_keys: self.old.count, new_keys: self.new.count }
    }
}

/// The keys that one maker has made.
#[derive(Debug)]
struct Classes<E> {
    recent: HashMap<Digest, First<E>>,
    /// Those that were in `recent` when it was last full, without those seen since.
    earlier: HashMap<Digest, First<E>>,
    keys_max: usize,
    count: u64,
}

/// The first request that had a key.
#[derive(Debug)]
struct First<E> {
    /// The key that the other maker made for it.
    other: Digest,
    request: E,
}

impl<E: Clone> Classes<E> {
    fn new(keys_max: usize) -> Self {
        Self { recent: HashMap::new(), earlier: HashMap::new(), keys_max: keys_max.max(1), count: 0 }
    }

    /// Returns the first request with this key if the other maker told the two apart.
    fn meet(&mut self, key: Digest, other: Digest, request: &E) -> Option<E> {
        let apart = |first: &First<E>| (first.other != other).then(|| first.request.clone());
        if let Some(first) = self.recent.get(&key) {
            return apart(first);
        }
        let (first, found) = if let Some(first) = self.earlier.remove(&key) {
            let found = apart(&first);
            (first, found)
        } else {
            self.count += 1;
            (First { other, request: request.clone() }, None)
        };
        if self.recent.len() >= self.keys_max {
            self.earlier = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key, first);
        found
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{
        super::{Notes, facts::tests::request},
        *,
    };

    /// A request, by the keys that both makers give it; 0 keeps it out of the cache.
    type KeyPair = (u8, u8);

    fn sharing(key: u8) -> Sharing {
        if key == 0 { Sharing::Bypass } else { Sharing::Key([key; 16]) }
    }

    fn compared(keys_max: usize, requests: &[KeyPair]) -> (Counts, Vec<(KeyPair, Finding<KeyPair>)>) {
        let mut partition = Partition::new(keys_max);
        let mut findings = Vec::new();
        for request in requests {
            let found = partition.compare(sharing(request.0), sharing(request.1), request);
            findings.extend(found.into_iter().map(|finding| (*request, finding)));
            let held = partition.old.recent.len() + partition.old.earlier.len();
            assert!(held <= 2 * keys_max.max(1), "{held}");
        }
        (partition.counts(), findings)
    }

    #[test]
    fn each_change_is_found() {
        for (what, requests, changes, keys) in [
            ("spelled otherwise", vec![(1, 7), (2, 8), (1, 7), (2, 8)], [0, 0, 0, 0], (2, 2)),
            ("all equal", vec![(1, 9), (2, 9), (3, 9), (2, 9)], [3, 0, 0, 0], (3, 1)),
            ("two of three merged", vec![(1, 7), (2, 7), (3, 8)], [1, 0, 0, 0], (3, 2)),
            ("split", vec![(1, 7), (1, 8), (1, 7)], [0, 1, 0, 0], (1, 2)),
            ("divided another way", vec![(1, 7), (1, 8), (2, 7), (2, 8)], [2, 2, 0, 0], (2, 2)),
            ("kept out", vec![(1, 0), (1, 0), (2, 8)], [0, 0, 2, 0], (1, 1)),
            ("let in", vec![(0, 7), (0, 0)], [0, 0, 0, 1], (0, 0)),
        ] {
            let (counts, _) = compared(16, &requests);
            assert_eq!((counts.changes, (counts.old_keys, counts.new_keys)), (changes, keys), "{what}");
        }
    }

    #[test]
    fn a_key_that_is_met_again_and_again_is_not_forgotten() {
        // One key for all, among as many old keys as there may be.
        let requests: Vec<KeyPair> = (1..=255).map(|old| (old, 1)).collect();
        assert_eq!(compared(2, &requests).0.changes, [254, 0, 0, 0]);
    }

    fn requests() -> impl Strategy<Value = Vec<KeyPair>> {
        prop::collection::vec((0_u8..6, 0_u8..6), 0..40)
    }

    proptest! {
        /// By the definition: two requests that share on one side and not on the other.
        #[test]
        fn partitions_differ_if_and_only_if_a_pair_tells(requests in requests()) {
            let (counts, _) = compared(16, &requests);
            let looked_up = |it: &&KeyPair| it.0 > 0 && it.1 > 0;
            let pair = |merged: bool| requests.iter().filter(looked_up).any(|a| {
                requests.iter().filter(looked_up).any(|b| {
                    if merged { a.1 == b.1 && a.0 != b.0 } else { a.0 == b.0 && a.1 != b.1 }
                })
            });
            prop_assert_eq!((counts.changes[0] > 0, counts.changes[1] > 0), (pair(true), pair(false)));
            let count = |is: fn(&KeyPair) -> bool| requests.iter().filter(|it| is(it)).count() as u64;
            prop_assert_eq!(counts.changes[2], count(|it| it.0 > 0 && it.1 == 0));
            prop_assert_eq!(counts.changes[3], count(|it| it.0 == 0 && it.1 > 0));
        }

        /// Whatever has been forgotten.
        #[test]
        fn each_pair_that_is_shown_is_one(requests in requests(), keys_max in 0_usize..4) {
            for (this, Finding { change, with }) in compared(keys_max, &requests).1 {
                match (change, with) {
                    (Change::NewlyShared, Some(with)) => prop_assert!(with.1 == this.1 && with.0 != this.0),
                    (Change::NoLongerShared, Some(with)) => prop_assert!(with.0 == this.0 && with.1 != this.1),
                    (Change::NewlyBypassed, None) => prop_assert!(this.0 > 0 && this.1 == 0),
                    (Change::NoLongerBypassed, None) => prop_assert!(this.0 == 0 && this.1 > 0),
                    other => return Err(TestCaseError::fail(format!("{other:?}"))),
                }
            }
        }

        #[test]
        fn other_names_for_the_same_classes_are_no_change(
            olds in prop::collection::vec(0_u8..20, 0..60),
            keys_max in 0_usize..30,
        ) {
            let renamed: Vec<KeyPair> = olds.iter().map(|old| (*old, if *old == 0 { 0 } else { 100 - old })).collect();
            prop_assert_eq!(compared(keys_max, &renamed).0.changes, [0; 4]);
        }
    }

    #[test]
    fn keys_are_equal_as_they_are_in_the_cache() {
        let head = |method, target| request(method, target, &[]);
        let of = |method, parts: &[&str]| {
            let parts = parts.iter().map(|part| Some(part.as_bytes().to_vec())).collect();
            Sharing::of(&head(method, "/"), &KeyVerdict::Lookup(parts))
        };
        assert_eq!(of(Method::GET, &["a"]), of(Method::HEAD, &["a"]));
        assert_ne!(of(Method::GET, &["a"]), of(Method::POST, &["a"]));
        assert_ne!(of(Method::GET, &["ab"]), of(Method::GET, &["a", "b"]));
        assert_eq!(Sharing::of(&head(Method::GET, "/"), &KeyVerdict::Bypass("no".into())), Sharing::Bypass);
        let native = |method, target, body: &'static str| {
            let (head, notes, body) = (head(method, target), Notes::default(), Bytes::from_static(body.as_bytes()));
            Sharing::native(&Facts::new(&head, Some(&body), &notes))
        };
        assert_eq!(native(Method::GET, "/a", ""), native(Method::HEAD, "/a", ""));
        assert_ne!(native(Method::GET, "/a", ""), native(Method::GET, "/a?", ""));
        let asked = |body| native(Method::POST, "/a", body);
        assert_eq!(asked(r#"{"a":1,"b":2}"#), asked(r#"{"b": 2, "a": 1}"#));
        assert_ne!(asked(r#"{"a":1}"#), asked(r#"{"a":2}"#));
        assert!(is_keyed(&Method::HEAD) && !is_keyed(&Method::PUT));
    }
}
