//! Storing a body while it arrives, renewing one by a 304, and reading one back.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{
    Cache,
    admit::{Storage, strip_for_storage},
    conditional,
    entry::{Head, Layout, Object, Value},
    freshness::initial_age_ms,
    key::Key,
    purge::Mark,
    tag::{self, Tag},
};
use crate::{
    clock::{self, Timestamp},
    message::{Body, BodyError, body::Sender},
};

/// Parts that may be read ahead of a slow client.
const READ_AHEAD: usize = 1;

/// Under which keys an answer is stored.
#[derive(Clone, Debug)]
pub struct Place {
    /// The request's key.
    pub primary: Key,
    /// The key of the answer: the variant's, if it varies.
    pub key: Key,
    /// The fields it varies by.
    pub names: Option<Arc<[HeaderName]>>,
}

/// What a head is made of beside the answer itself.
#[derive(Clone, Copy, Debug)]
pub struct Origins<'a> {
    /// The URL that was asked for.
    pub url: &'a str,
    /// Where the purge log stood when the fetch began.
    pub mark: Mark,
    /// When the request was sent.
    pub requested: Timestamp,
    /// When the answer's head arrived.
    pub received: Timestamp,
    /// The route's own tag headers.
    pub tag_headers: &'a [HeaderName],
}

/// Makes the head of an answer that is to be stored.
#[must_use]
pub fn head(status: StatusCode, headers: &HeaderMap, storage: &Storage, place: &Place, origins: &Origins<'_>) -> Head {
    let mut tags = storage.tags.clone().unwrap_or_else(|| tag::named(headers, origins.tag_headers));
    tags.extend([Tag::url(origins.url), Tag::key(&place.primary)]);
    let initial_age_ms = initial_age_ms(headers, origins.requested, origins.received);
    let mut headers = detached(headers);
    // RFC 9110, section 6.6.1: without it later hits would claim to have been made when they are sent.
    headers.entry(header::DATE).or_insert_with(|| http_date(origins.received));
    Head {
        status,
        headers,
        stored_at: origins.received,
        initial_age_ms,
        lifetimes: storage.lifetimes,
        tags,
        mark: origins.mark,
        for_authorized: storage.for_authorized,
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

/// Stores one body as it arrives. Dropped before [`Recorder::finish`], it leaves nothing that could be found.
#[derive(Debug)]
pub struct Recorder {
    cache: Arc<Cache>,
    place: Place,
    head: Head,
    pending: BytesMut,
    part_bytes: usize,
    stamp: u64,
    parts: u32,
}

/// The body is over `object_bytes_max`; what was stored of it is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Recorder {
    /// Begins to store an answer of `length` bytes, if that's known.
    #[must_use]
    pub fn new(cache: Arc<Cache>, place: Place, head: Head, length: Option<u64>) -> Self {
        let part_bytes = cache.config().part_bytes;
        let expected = usize::try_from(length.unwrap_or(0)).unwrap_or(usize::MAX);
        let pending = BytesMut::with_capacity(expected.min(part_bytes));
        Self { cache, place, head, pending, part_bytes, stamp: fastrand::u64(..), parts: 0 }
    }

    /// Adds a piece. It is copied once, into memory of its own: a piece from a connection may keep a far larger
    /// buffer alive.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), TooLarge> {
        self.head.length += piece.len() as u64;
        if self.head.length > self.cache.config().object_bytes_max {
            return Err(TooLarge);
        }
        while self.pending.len() + piece.len() > self.part_bytes {
            let (fits, rest) = piece.split_at(self.part_bytes - self.pending.len());
            self.pending.extend_from_slice(fits);
            self.write_part();
            piece = rest;
        }
        self.pending.extend_from_slice(piece);
        Ok(())
    }

    /// The body is complete: from now on it can be found.
    pub fn finish(mut self) -> Arc<Object> {
        let body = if self.parts == 0 {
            exact(self.pending)
        } else {
            self.write_part();
            self.head.layout = Layout::Parts { stamp: self.stamp, part_bytes: self.part_bytes as u64 };
            Bytes::new()
        };
        let object = Object::new(self.head, body);
        let index = self.place.names.map(|names| (self.place.primary, names));
        self.cache.store(self.place.key, &object, index, clock::now());
        object
    }

    fn write_part(&mut self) {
        let bytes = exact(std::mem::take(&mut self.pending));
        let key = self.place.key.part(self.stamp, self.parts);
        self.cache.tiers.insert(key, Value::Part(bytes), self.head.lifetimes.end_ms());
        self.parts += 1;
    }
}

/// Bytes without spare capacity: what is weighed is what is held.
fn exact(bytes: BytesMut) -> Bytes {
    if bytes.capacity() > bytes.len() + bytes.len() / 8 { Bytes::copy_from_slice(&bytes) } else { bytes.freeze() }
}

impl Cache {
    /// Renews a stored object by a 304 and puts it back. `None` if the 304 speaks of another answer.
    pub fn renew(
        &self,
        object: &Object,
        not_modified: &HeaderMap,
        storage: &Storage,
        place: &Place,
        origins: &Origins<'_>,
    ) -> Option<Arc<Object>> {
        if !conditional::same(&object.head.headers, not_modified) {
            return None;
        }
        let mut headers = object.head.headers.clone();
        conditional::renew(&mut headers, &detached(not_modified));
        let mut renewed = head(object.head.status, &headers, storage, place, origins);
        renewed.initial_age_ms = initial_age_ms(not_modified, origins.requested, origins.received);
        renewed.length = object.head.length;
        renewed.layout = object.head.layout;
        let renewed = Object::new(renewed, object.body.clone());
        let index = place.names.clone().map(|names| (place.primary, names));
        self.store(place.key, &renewed, index, origins.received);
        Some(renewed)
    }

    /// The body of a stored object; `None` if a part of it is missing.
    pub async fn body(self: &Arc<Self>, key: Key, object: &Object) -> Option<Body> {
        let Layout::Parts { stamp, .. } = object.head.layout else {
            return Some(Body::Full(object.body.clone()));
        };
        let count = object.head.layout.parts(object.head.length);
        // What is in memory now is held, so that it can't leave while a slow client reads.
        let parts: Vec<(Key, Option<Bytes>)> = (0..count)
            .map(|index| key.part(stamp, index))
            .map(|part| (part, self.tiers.memory(&part).and_then(bytes_of)))
            .collect();
        let elsewhere: Vec<Key> = parts
            .iter()
            .filter(|(part, held)| held.is_none() && !self.tiers.may_have(part))
            .map(|(key, _)| *key)
            .collect();
        if !self.tiers.redis_has(&elsewhere).await {
            self.tiers.remove(&key);
            return None;
        }
        let (sender, body) = Body::channel(READ_AHEAD, Some(object.head.length));
        tokio::spawn(send_parts(Arc::clone(self), key, parts, sender));
        Some(body)
    }

    async fn part(&self, key: &Key) -> Option<Bytes> {
        match self.tiers.disk(key).await {
            Some(value) => bytes_of(value),
            None => {
                let value = self.tiers.redis(key).await?;
                self.tiers.insert_local(*key, value.clone());
                bytes_of(value)
            }
        }
    }
}

async fn send_parts(cache: Arc<Cache>, key: Key, parts: Vec<(Key, Option<Bytes>)>, sender: Sender) {
    for (part, held) in parts {
        let bytes = match held {
            Some(bytes) => Some(bytes),
            None => cache.part(&part).await,
        };
        let Some(bytes) = bytes else {
            cache.metrics.parts_missing.inc();
            cache.tiers.remove(&key);
            sender.fail(BodyError::Broken("a part of it is no longer stored".to_owned())).await;
            return;
        };
        if sender.send(bytes).await.is_err() {
            return;
        }
    }
}

fn bytes_of(value: Value) -> Option<Bytes> {
    match value {
        Value::Part(bytes) => Some(bytes),
        _ => None,
    }
}
