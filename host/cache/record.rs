//! Storing a body while it arrives, and renewing one by a 304.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{
    Cache, Metrics,
    admit::{Storage, strip_for_storage},
    body::part::Stored,
    collapse::shared::{SharedBody, Spill},
    conditional,
    entry::{self, Digest, Head, Layout, Object, Value},
    fetches::Fetch,
    freshness::initial_age_ms,
    groups,
    key::Key,
    purge::Mark,
    store::DiskRoom,
    tag::{self, Tag, Urls},
    targeted,
};
use crate::clock::{self, Timestamp};

/// The keys under which a response is stored.
#[derive(Clone, Debug)]
pub struct StorageKeys {
    /// The request's key.
    pub primary: Key,
    /// The key of the response: the variant's, if it varies.
    pub key: Key,
    /// The fields it varies by.
    pub names: Option<Arc<[HeaderName]>>,
}

/// What a head is made of beside the response itself.
#[derive(Clone, Copy, Debug)]
pub struct Origins<'a> {
    /// The requested URL.
    pub url: &'a str,
    /// The key that it can be purged by.
    pub key: &'a Key,
    /// Where the purge log stood when the fetch began.
    pub mark: Mark,
    /// When the request was sent.
    pub requested: Timestamp,
    /// When the response's head arrived.
    pub received: Timestamp,
    /// The route's own tag headers.
    pub tag_headers: &'a [HeaderName],
    /// The route's targeted fields (RFC 9213).
    pub targeted: &'a [HeaderName],
    /// Whether its cache groups count (RFC 9875).
    pub groups: bool,
    /// The key that it is stored by, if that is of what its `No-Vary-Search` leaves of the URL.
    pub by_rule: Option<Key>,
}

/// Makes the head of a response that is to be stored.
#[must_use]
pub fn head(status: StatusCode, headers: &HeaderMap, storage: &Storage, origins: &Origins<'_>) -> Head {
    let mut tags = storage.tags.clone().unwrap_or_else(|| tag::named(headers, origins.tag_headers));
    tags.extend(tag::of_url(origins.url, true));
    tags.push(Tag::key(origins.key));
    if origins.groups {
        tags.extend(groups::tags(origins.url, headers));
    }
    if let Some(by_rule) = &origins.by_rule {
        // It is purged by each of its URLs: by the one without a query, and with the path by any other.
        let path = tag::without_query(origins.url);
        tags.extend([Tag::url(path), Tag::search(path), Tag::key(by_rule)]);
    }
    let url = origins.url.into();
    let urls = if origins.by_rule.is_some() { Urls::Queries(url) } else { Urls::One(url) };
    let initial_age_ms = initial_age_ms(headers, origins.requested, origins.received);
    let mut headers = detached(headers);
    let own = targeted::take_own(&mut headers, origins.targeted);
    // RFC 9110, section 6.6.1: without it later hits would claim to have been made when they are sent.
    headers.entry(header::DATE).or_insert_with(|| http_date(origins.received));
    Head {
        status,
        headers,
        own,
        requested_at: origins.requested,
        stored_at: origins.received,
        initial_age_ms,
        // Less than a millisecond isn't nothing.
        fetch_ms: clock::millis(origins.received.since(origins.requested)).max(1),
        lifetimes: storage.lifetimes,
        tags,
        urls,
        mark: origins.mark,
        for_authorized: storage.for_authorized,
        forbids_stale: storage.forbids_stale,
        length: 0,
        layout: Layout::Whole,
    }
}

fn http_date(time: Timestamp) -> HeaderValue {
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_millis(time.0));
    HeaderValue::try_from(date).unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

/// A copy of the end-to-end fields whose values don't keep the connection's read buffer alive.
fn detached(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            kept.append(name.clone(), value);
        }
    }
    strip_for_storage(&mut kept);
    kept
}

/// Stores one body, part by part as it arrives. Dropped before [`Recorder::finish`], it leaves nothing that could be
/// found; and neither does a body whose fetch was overtaken by another, or that was purged while it arrived.
#[derive(Debug)]
pub struct Recorder {
    cache: Arc<Cache>,
    fetch: Arc<Fetch>,
    keys: StorageKeys,
    head: Head,
    part_bytes: usize,
    stamp: u64,
    digests: Vec<Digest>,
    /// The disk had no room for the last part in time.
    disk_lags: bool,
}

/// The body is over [`Cache::object_bytes_max`]; what was stored of it is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Recorder {
    /// Begins to store the response of a fetch.
    #[must_use]
    pub fn new(cache: Arc<Cache>, fetch: Arc<Fetch>, keys: StorageKeys, head: Head) -> Self {
        let part_bytes = cache.config().part_bytes;
        Self { cache, fetch, keys, head, part_bytes, stamp: fastrand::u64(..), digests: Vec::new(), disk_lags: false }
    }

    /// The body as others read it while it arrives, of `length` bytes if that's known.
    #[must_use]
    pub fn shared(&self, length: Option<u64>) -> SharedBody {
        self.note_length(length.unwrap_or(0));
        let spill = Spill {
            cache: Arc::clone(&self.cache),
            key: self.keys.key,
            stamp: self.stamp,
            part_bytes: self.part_bytes as u64,
            expires: clock::now().plus(Duration::from_millis(self.head.lifetimes.end_ms())),
        };
        SharedBody::arriving(length, spill)
    }

    /// Bytes of each part but the last.
    #[must_use]
    pub const fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// The counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.cache.metrics()
    }

    /// Notes that the body is longer by `bytes`.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn grow(&mut self, bytes: usize) -> Result<(), TooLarge> {
        self.head.length += bytes as u64;
        self.note_length(self.head.length);
        if self.head.length > self.cache.object_bytes_max() { Err(TooLarge) } else { Ok(()) }
    }

    /// Notes that the body has at least so many bytes. If it is longer than a value in Redis, no other node waits for it:
    /// it could be read there only when all of it has come.
    fn note_length(&self, length: u64) {
        let redis = self.cache.config().redis.as_ref();
        if redis.is_some_and(|redis| length > redis.value_bytes_max as u64) {
            self.fetch.release_others();
        }
    }

    /// Waits until the disk, if there is one, may be given the next part: at most as long as a part may take, and not
    /// again for a disk that took longer, until it has caught up.
    pub async fn disk_room(&mut self) -> Option<DiskRoom> {
        if !self.cache.tiers.has_disk() {
            return None;
        }
        let limit = if self.disk_lags { Duration::ZERO } else { self.cache.config().part_time };
        let room = self.cache.tiers.disk_room(self.part_bytes, limit).await;
        self.disk_lags = room.is_none();
        room
    }

    /// Stores the next part, which consists of `pieces`. They are copied into memory of the part's own: a piece may
    /// keep a far larger buffer alive, and what is stored isn't counted as being on its way. `room` is given back when it
    /// is on disk.
    pub fn part(&mut self, pieces: &[Bytes], room: Option<DiskRoom>) -> Stored {
        let bytes = joined(pieces);
        let digest = entry::digest(&bytes);
        let key = self.keys.key.part(self.stamp, u32::try_from(self.digests.len()).unwrap_or(u32::MAX));
        self.digests.push(digest);
        self.cache.tiers.insert(key, Value::Part(bytes.clone()), self.head.lifetimes.end_ms(), None);
        if let Some(room) = room {
            self.cache.tiers.give_back(room);
        }
        let held = self.cache.lending.budget().force(bytes.len());
        Stored { part: self.cache.lending.lend(key, bytes, held), digest }
    }

    /// The body ends with `pieces`, which no part has yet: from now on it can be found. With its last part, if it is
    /// stored in parts.
    pub fn finish(mut self, pieces: &[Bytes]) -> (Arc<Object>, Option<Stored>) {
        if self.digests.is_empty() {
            let body = joined(pieces);
            return (self.store(body).0, None);
        }
        let last = self.part(pieces, None);
        self.head.layout = Layout::Parts {
            stamp: self.stamp,
            part_bytes: self.part_bytes as u64,
            digests: std::mem::take(&mut self.digests).into(),
        };
        (self.store(Bytes::new()).0, Some(last))
    }

    /// Stores a body that is there already, in one piece. Returns the object, and whether it is stored: not if it was
    /// purged since its fetch began, or a later fetch has stored another.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn whole(mut self, body: &[u8]) -> Result<(Arc<Object>, bool), TooLarge> {
        self.grow(body.len())?;
        Ok(self.store(Bytes::copy_from_slice(body)))
    }

    fn store(self, body: Bytes) -> (Arc<Object>, bool) {
        let object = Object::new(self.head, body);
        let index = self.keys.names.map(|names| (self.keys.primary, names));
        let is_stored = self.cache.store(&self.fetch, self.keys.key, &object, index, clock::now());
        (object, is_stored)
    }
}

/// The pieces as one, without spare capacity: what is weighed is what is held.
fn joined(pieces: &[Bytes]) -> Bytes {
    let mut bytes = Vec::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    bytes.into()
}

impl Cache {
    /// Renews a stored object by a 304 and puts it back. `None` if the 304 is about another response.
    pub fn renew(
        &self,
        fetch: &Fetch,
        object: &Object,
        not_modified: &HeaderMap,
        storage: &Storage,
        keys: &StorageKeys,
        origins: &Origins<'_>,
    ) -> Option<Arc<Object>> {
        if !conditional::same(&object.head.headers, not_modified) {
            return None;
        }
        let mut headers = object.head.all_headers();
        conditional::renew(&mut headers, &detached(not_modified));
        let mut renewed = head(object.head.status, &headers, storage, origins);
        renewed.initial_age_ms = initial_age_ms(not_modified, origins.requested, origins.received);
        renewed.length = object.head.length;
        renewed.layout = object.head.layout.clone();
        let renewed = Object::new(renewed, object.body.clone());
        let index = keys.names.clone().map(|names| (keys.primary, names));
        self.store(fetch, keys.key, &renewed, index, origins.received);
        Some(renewed)
    }
}
