//! What the tiers keep: a head, and a body in one piece or in parts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{AGE, DATE},
};

use super::{
    ahead,
    control::SECONDS_MAX,
    freshness::{self, Freshness, Lifetimes},
    purge::{Checked, Mark, Subject},
    status::{self, CACHE_STATUS, CUT_OFF},
    tag::{Tag, Urls},
};
use crate::clock::{Timestamp, Uptime};

/// The metadata of a stored response.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// End-to-end header fields as the origin sent them, `Age` and [`Head::own`] left out.
    pub headers: HeaderMap,
    /// Fields of the origin that are for this cache alone (RFC 9213): needed to renew it, and never sent to clients.
    pub own: HeaderMap,
    /// When its request (or the one that renewed it) was sent. Zero if that isn't known.
    pub requested_at: Timestamp,
    /// When the response (or the 304 that renewed it) arrived.
    pub stored_at: Timestamp,
    /// The age it had then, in milliseconds.
    pub initial_age_ms: u64,
    /// How long the origin took for it (or for that 304), in milliseconds; 0 if that isn't known.
    pub fetch_ms: u64,
    /// How long it's good for.
    pub lifetimes: Lifetimes,
    /// What it can be purged by.
    pub tags: Vec<Tag>,
    /// The URLs that it is for, which patterns are compared with.
    pub urls: Urls,
    /// Where the purge log stood when its fetch began.
    pub mark: Mark,
    /// Whether it may be served to a request with `Authorization` (RFC 9111, section 3.5).
    pub for_authorized: bool,
    /// Whether its directives forbid that it is ever served stale (RFC 9111, section 4.2.4).
    pub forbids_stale: bool,
    /// Length of the body in bytes.
    pub length: u64,
    /// How the body is stored.
    pub layout: Layout,
}

/// How a body is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In one piece, with the head.
    Whole,
    /// In parts with keys of their own ([`super::key::Key::part`]).
    Parts {
        /// Distinguishes this body's parts from an older one's.
        stamp: u64,
        /// Bytes of each part but the last.
        part_bytes: u64,
        /// The digest of each part. Whatever a tier or the origin has for a part, it is that part only if this fits.
        digests: Arc<[Digest]>,
    },
}

/// Parts of a body at most: their digests, 8 MiB of them, are one value of a tier with the rest of its head.
pub const PARTS_MAX: u64 = 1 << 19;

/// The beginning of a part's blake3.
pub type Digest = [u8; DIGEST_BYTES];

/// Bytes of a [`Digest`].
pub const DIGEST_BYTES: usize = 16;

/// The digest of a part.
#[must_use]
pub fn digest(part: &[u8]) -> Digest {
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(&blake3::hash(part).as_bytes()[..DIGEST_BYTES]);
    digest
}

impl Head {
    /// Returns what a purge may mean.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject { tags: &self.tags, urls: &self.urls, mark: &self.mark }
    }

    /// The current age in milliseconds (RFC 9111, section 4.2.3). Counts from the time of storing, and so not at all where
    /// that lies ahead.
    #[must_use]
    pub fn age_ms(&self, now: Timestamp) -> u64 {
        self.initial_age_ms.saturating_add(now.0.saturating_sub(self.stored_at.0))
    }

    /// Whether it was stored more than `skew` after `now`: this node's clock was set back, or another node's is ahead. Its
    /// age can't be told then.
    #[must_use]
    pub fn is_from_future(&self, now: Timestamp, skew: Duration) -> bool {
        // Nearly always the first comparison is all there is to do.
        self.stored_at > now && self.stored_at > now.plus(skew)
    }

    /// Whether this response, which another process has stored, is newer than `other`: its request was sent later, by more
    /// than clocks may differ (`skew`), or within that it was made later (`Date`; RFC 9111, section 4). What is ahead of
    /// `now` by more counts for nothing.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self, now: Timestamp, skew: Duration) -> bool {
        if self.requested_at > now.plus(skew) || other.requested_at > self.requested_at.plus(skew) {
            return false;
        }
        let made = |head: &Self| freshness::date(&head.headers, DATE);
        self.requested_at > other.requested_at.plus(skew) || made(self) > made(other)
    }

    /// Whether it is within its lifetime at `now`.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.age_ms(now) < self.lifetimes.ttl_ms
    }

    /// Whether a hit at `now` begins a refresh ahead of its end. `random` draws a number from 0 to 1.
    #[must_use]
    pub fn is_due_ahead(&self, now: Timestamp, random: impl FnOnce() -> f64) -> bool {
        // A response may be old when it arrives: what counts is the time that it has here.
        let ttl_ms = self.lifetimes.ttl_ms.saturating_sub(self.initial_age_ms);
        ahead::is_due(now.0.saturating_sub(self.stored_at.0), ttl_ms, self.fetch_ms, random)
    }

    /// What it's good for at `now`, purges left aside.
    #[must_use]
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        freshness::judge(&self.lifetimes, self.age_ms(now))
    }

    /// Returns all fields that the origin sent, those for this cache included.
    #[must_use]
    pub fn all_headers(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.extend(self.own.clone());
        headers
    }

    /// Milliseconds from now until it's of no use.
    #[must_use]
    pub fn left_ms(&self, now: Timestamp) -> u64 {
        self.lifetimes.end_ms().saturating_sub(self.age_ms(now))
    }
}

/// A response in the tiers.
#[derive(Debug)]
pub struct Object {
    /// Its head.
    pub head: Head,
    /// Its body, if [`Layout::Whole`].
    pub body: Bytes,
    /// The versions of the purge tables at which it was last found good.
    pub checked: Checked,
    /// A refresh ahead of its end has begun.
    refreshed: AtomicBool,
    /// Whether its body was stored as a dictionary, or is about to be.
    pub is_dictionary: AtomicBool,
    /// The header block of a memory hit, made once a second.
    reply: ArcSwapOption<Reply>,
}

#[derive(Debug)]
struct Reply {
    second: u64,
    /// The generation that made the key, as `Cache-Status` names it.
    policy: Option<Arc<str>>,
    is_cut_off: bool,
    headers: HeaderMap,
}

impl Object {
    /// An object not yet checked against the purge table.
    #[must_use]
    pub fn new(head: Head, body: Bytes) -> Arc<Self> {
        let (checked, refreshed) = (Checked::default(), AtomicBool::new(false));
        let is_dictionary = AtomicBool::new(false);
        Arc::new(Self { head, body, checked, refreshed, is_dictionary, reply: ArcSwapOption::empty() })
    }

    /// Whether the caller is the first that wants to refresh it ahead of its end. There is no second attempt: an origin
    /// that has failed isn't asked again with each hit.
    #[must_use]
    pub fn begin_refresh(&self) -> bool {
        !self.refreshed.swap(true, Ordering::Relaxed)
    }

    /// Leaves the refresh that the caller has begun to a later one.
    pub fn leave_refresh(&self) {
        self.refreshed.store(false, Ordering::Relaxed);
    }

    /// The headers of a fresh memory hit at `now`, `Age` and `Cache-Status` included; `policy` is who made the key, and
    /// `is_cut_off` whether the node serves on although it is past a fence. They change once a second, so all hits of a
    /// second share one block.
    #[must_use]
    pub fn hit_headers(&self, node: &str, policy: Option<&Arc<str>>, is_cut_off: bool, now: Timestamp) -> HeaderMap {
        let second = self.head.age_ms(now) / 1000;
        let same = |made_for: &Option<Arc<str>>| match (made_for, policy) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        if let Some(reply) = &*self.reply.load()
            && reply.second == second
            && same(&reply.policy)
            && reply.is_cut_off == is_cut_off
        {
            return reply.headers.clone();
        }
        // At the end of that second, since the block is good until then.
        let left_ms = self.head.lifetimes.ttl_ms.saturating_sub(second * 1000 + 999);
        let mut headers = self.aged_headers(now);
        let detail = if is_cut_off { CUT_OFF } else { "memory" };
        headers.append(CACHE_STATUS, status::hit(node, left_ms, policy.map(|policy| &**policy), detail));
        let reply = Reply { second, policy: policy.cloned(), is_cut_off, headers: headers.clone() };
        self.reply.store(Some(Arc::new(reply)));
        headers
    }

    /// The stored headers with the current `Age`.
    #[must_use]
    pub fn aged_headers(&self, now: Timestamp) -> HeaderMap {
        let mut headers = self.head.headers.clone();
        headers.reserve(2);
        headers.insert(AGE, HeaderValue::from((self.head.age_ms(now) / 1000).min(SECONDS_MAX)));
        headers
    }

    /// Whether its body is here, in one piece.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.head.layout == Layout::Whole
    }

    /// Bytes it takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        // Twice the headers: the prepared reply holds them again.
        let bytes = |headers: &HeaderMap| -> usize {
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum()
        };
        let (headers, own) = (bytes(&self.head.headers), bytes(&self.head.own));
        let digests = match &self.head.layout {
            Layout::Whole => 0,
            Layout::Parts { digests, .. } => DIGEST_BYTES * digests.len(),
        };
        let url = self.head.urls.fetched().map_or(0, str::len);
        512 + 2 * headers + own + 16 * self.head.tags.len() + url + digests + self.body.len()
    }
}

/// A value under a key.
#[derive(Clone, Debug)]
pub enum Value {
    /// A response.
    Object(Arc<Object>),
    /// One part of a body.
    Part(Bytes),
    /// The response under this key varies by these request fields; its variants have keys of their own.
    Varies(Arc<[HeaderName]>),
    /// Not to be stored: until then requests for this key don't wait for each other.
    Uncacheable(Uptime),
}

impl Value {
    /// Returns the bytes of a part.
    #[must_use]
    pub fn into_part(self) -> Option<Bytes> {
        match self {
            Self::Part(bytes) => Some(bytes),
            Self::Object(_) | Self::Varies(_) | Self::Uncacheable(_) => None,
        }
    }

    /// Bytes it takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Object(object) => object.weight(),
            Self::Part(bytes) => 64 + bytes.len(),
            Self::Varies(names) => 64 + names.iter().map(|name| name.as_str().len() + 32).sum::<usize>(),
            Self::Uncacheable(_) => 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::codec::tests::head, *};

    #[test]
    fn which_of_two_processes_responses_is_newer() {
        const SKEW: Duration = Duration::from_secs(2);
        let at = |requested_ms: u64, second: u64| {
            let mut head = head(0);
            head.requested_at = Timestamp(requested_ms);
            let date = format!("Sun, 06 Nov 1994 08:49:{second:02} GMT");
            head.headers.insert(DATE, HeaderValue::from_str(&date).unwrap());
            head
        };
        let now = Timestamp(100_000);
        for (stored, own, wanted) in [
            // More than clocks differ: whatever `Date` says.
            (at(52_001, 1), at(50_000, 9), true),
            (at(50_000, 9), at(52_001, 1), false),
            // Within that, by `Date`.
            (at(52_000, 2), at(50_000, 1), true),
            (at(50_000, 2), at(52_000, 1), true),
            (at(52_000, 1), at(50_000, 1), false),
            (at(52_000, 1), at(50_000, 2), false),
            // Of a clock that is ahead.
            (at(102_001, 9), at(50_000, 1), false),
            // Of a time before this was remembered.
            (at(0, 9), at(50_000, 1), false),
        ] {
            let found = stored.is_newer_than(&own, now, SKEW);
            assert_eq!(found, wanted, "{} after {}", own.requested_at.0, stored.requested_at.0);
        }
    }
    #[test]
    fn no_hit_is_said_to_be_fresh_for_longer_than_it_is() {
        let mut head = head(0);
        (head.stored_at, head.initial_age_ms, head.lifetimes.ttl_ms) = (Timestamp(50_000), 0, 4_000);
        // Whenever in a second the block for all of it is made.
        for (first, later, wanted) in [(0, 999, "3"), (1_000, 1_500, "2"), (2_999, 2_000, "1"), (3_000, 3_999, "0")] {
            let object = Object::new(head.clone(), Bytes::new());
            for age_ms in [first, later] {
                let headers = object.hit_headers("n", None, false, Timestamp(50_000 + age_ms));
                let wanted = format!("n; hit; ttl={wanted}; detail=memory");
                assert_eq!(headers[CACHE_STATUS], wanted, "{age_ms} ms, after {first} ms");
            }
        }
    }
}
