//! How a value is written to disk and to Redis: a format version, the head as MessagePack, the body after it, raw.
//! What can't be read is a miss, never an error.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    control::Directives,
    entry::{DIGEST_BYTES, Digest, Head, Layout, Object, Value},
    freshness::Lifetimes,
    purge::Mark,
    tag::{Tag, Urls},
};
use crate::clock::Timestamp;

/// Bumped when the layout below changes, or what it means; other versions are misses. In version 1 an entry's tags may
/// be incomplete, and that of its URL of another spelling; version 2 has no checksum; in version 3 an entry has no tags for
/// the prefixes of its URL, so that a purge by prefix wouldn't reach it.
const FORMAT: u8 = 4;

const OBJECT: u8 = 1;
const PART: u8 = 2;
const VARIES: u8 = 3;

/// Format, kind, the length of the MessagePack that follows, and the checksum of all that.
const PREFIX: usize = 6 + DIGEST_BYTES;

/// The value as bytes: a prefix with the head, then the body as it is. `None` for what never leaves memory.
#[must_use]
pub fn encode(value: &Value) -> Option<(Vec<u8>, Bytes)> {
    let (kind, head, body) = match value {
        Value::Object(object) => {
            (OBJECT, rmp_serde::to_vec_named(&Wire::from(&object.head)).ok()?, object.body.clone())
        }
        Value::Part(bytes) => (PART, Vec::new(), bytes.clone()),
        Value::Varies(names) => {
            let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
            (VARIES, rmp_serde::to_vec_named(&names).ok()?, Bytes::new())
        }
        Value::Uncacheable(_) => return None,
    };
    let mut bytes = Vec::with_capacity(PREFIX + head.len());
    bytes.extend_from_slice(&[FORMAT, kind]);
    bytes.extend_from_slice(&u32::try_from(head.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(&checksum(kind, &head, &body));
    bytes.extend_from_slice(&head);
    Some((bytes, body))
}

/// The value that [`encode`] wrote; the body is a slice of `bytes`, not a copy. What was damaged since is `None`.
#[must_use]
pub fn decode(bytes: &Bytes) -> Option<Value> {
    let (prefix, _) = bytes.split_at_checked(PREFIX)?;
    let &[FORMAT, kind, a, b, c, d, ref stated @ ..] = prefix else { return None };
    let start = PREFIX.checked_add(u32::from_le_bytes([a, b, c, d]) as usize)?;
    let head = bytes.get(PREFIX..start)?;
    let body = bytes.slice(start..);
    if *stated != checksum(kind, head, &body) {
        return None;
    }
    match kind {
        OBJECT => {
            let head = rmp_serde::from_slice::<Wire>(head).ok()?.head()?;
            let whole = head.layout != Layout::Whole || head.length == body.len() as u64;
            whole.then(|| Value::Object(Object::new(head, body)))
        }
        PART => Some(Value::Part(body)),
        VARIES => {
            let names = rmp_serde::from_slice::<Vec<String>>(head).ok()?;
            let names: Option<Vec<HeaderName>> = names.iter().map(|name| name.parse().ok()).collect();
            Some(Value::Varies(names?.into()))
        }
        _ => None,
    }
}

/// The checksum of a value. A part needs none: the head of its body has its digest.
fn checksum(kind: u8, head: &[u8], body: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]).update(&(head.len() as u64).to_le_bytes()).update(head);
    if kind != PART {
        hasher.update(body);
    }
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..DIGEST_BYTES]);
    digest
}

/// A head as MessagePack: a map by name, so that a field can be added without a new format.
#[derive(Serialize, Deserialize)]
struct Wire {
    status: u16,
    headers: Vec<(String, ByteBuf)>,
    stored_at: Timestamp,
    initial_age_ms: u64,
    #[serde(default)]
    fetch_ms: u64,
    lifetimes: Lifetimes,
    tags: Vec<ByteBuf>,
    mark: Mark,
    for_authorized: bool,
    length: u64,
    parts: Option<(u64, u64)>,
    /// The digests of the parts, joined. Without them there is no telling what a part should be: such a head is a miss.
    #[serde(default)]
    digests: ByteBuf,
    /// Before there was this field, only `Cache-Control` could say it.
    #[serde(default)]
    forbids_stale: Option<bool>,
    #[serde(default)]
    own: Vec<(String, ByteBuf)>,
    #[serde(default)]
    requested_at: Timestamp,
    /// Without it, what a pattern may mean is confirmed by the origin after a purge by that.
    #[serde(default)]
    url: Option<String>,
    /// Whether it is for other queries of that URL as well.
    #[serde(default)]
    any_query: bool,
}

impl From<&Head> for Wire {
    fn from(head: &Head) -> Self {
        Self {
            status: head.status.as_u16(),
            headers: fields(&head.headers),
            stored_at: head.stored_at,
            initial_age_ms: head.initial_age_ms,
            fetch_ms: head.fetch_ms,
            lifetimes: head.lifetimes,
            tags: head.tags.iter().map(|tag| ByteBuf::from(&tag.as_bytes()[..])).collect(),
            mark: head.mark,
            for_authorized: head.for_authorized,
            length: head.length,
            parts: match head.layout {
                Layout::Whole => None,
                Layout::Parts { stamp, part_bytes, .. } => Some((stamp, part_bytes)),
            },
            digests: match &head.layout {
                Layout::Whole => ByteBuf::new(),
                Layout::Parts { digests, .. } => ByteBuf::from(digests.concat()),
            },
            forbids_stale: Some(head.forbids_stale),
            own: fields(&head.own),
            requested_at: head.requested_at,
            url: head.urls.fetched().map(str::to_owned),
            any_query: matches!(head.urls, Urls::Queries(_)),
        }
    }
}

fn fields(headers: &HeaderMap) -> Vec<(String, ByteBuf)> {
    headers.iter().map(|(name, value)| (name.to_string(), ByteBuf::from(value.as_bytes()))).collect()
}

fn header_map(fields: Vec<(String, ByteBuf)>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(if fields.is_empty() { 0 } else { fields.len() + 2 });
    for (name, value) in fields {
        let name: HeaderName = name.parse().ok()?;
        headers.append(name, HeaderValue::from_maybe_shared(Bytes::from(value.into_vec())).ok()?);
    }
    Some(headers)
}

impl Wire {
    fn head(self) -> Option<Head> {
        let headers = header_map(self.headers)?;
        let tags: Option<Vec<Tag>> =
            self.tags.iter().map(|tag| tag.as_slice().try_into().ok().map(Tag::from_bytes)).collect();
        Some(Head {
            status: StatusCode::from_u16(self.status).ok()?,
            forbids_stale: self.forbids_stale.unwrap_or_else(|| Directives::read(&headers).forbids_stale()),
            headers,
            own: header_map(self.own)?,
            requested_at: self.requested_at,
            stored_at: self.stored_at,
            initial_age_ms: self.initial_age_ms,
            fetch_ms: self.fetch_ms,
            lifetimes: self.lifetimes,
            tags: tags?,
            urls: match (self.url, self.any_query) {
                (None, _) => Urls::Unknown,
                (Some(url), false) => Urls::One(url.into()),
                (Some(url), true) => Urls::Queries(url.into()),
            },
            mark: self.mark,
            for_authorized: self.for_authorized,
            length: self.length,
            layout: match self.parts {
                None => Layout::Whole,
                Some((_, 0)) => return None,
                Some((stamp, part_bytes)) => {
                    let digests = digests(&self.digests, self.length.div_ceil(part_bytes))?;
                    Layout::Parts { stamp, part_bytes, digests }
                }
            },
        })
    }
}

/// Exactly `count` digests, if that's what the bytes are.
fn digests(bytes: &[u8], count: u64) -> Option<Arc<[Digest]>> {
    let (digests, rest) = bytes.as_chunks::<DIGEST_BYTES>();
    (rest.is_empty() && digests.len() as u64 == count).then(|| digests.into())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::purge::{Incarnation, Position};

    pub(crate) fn head(length: u64) -> Head {
        let mut headers = HeaderMap::new();
        headers.append("content-type", HeaderValue::from_static("text/plain"));
        headers.append("x-two", HeaderValue::from_static("1"));
        headers.append("x-two", HeaderValue::from_bytes(b"\xff2").unwrap());
        Head {
            status: StatusCode::OK,
            headers,
            own: HeaderMap::new(),
            requested_at: Timestamp(997_500),
            stored_at: Timestamp(1_000_000),
            initial_age_ms: 2_500,
            fetch_ms: 80,
            lifetimes: Lifetimes {
                ttl_ms: 60_000,
                grace_ms: 1,
                stale_if_error_ms: 2,
                stale_if_unreachable_ms: 4,
                keep_ms: 3,
            },
            tags: vec![Tag::url("http://a/"), Tag::named(b"t")],
            urls: Urls::one("http://a/"),
            mark: Mark { log: Incarnation(5), position: Position(6), ..Mark::default() },
            for_authorized: true,
            forbids_stale: false,
            length,
            layout: Layout::Whole,
        }
    }

    fn joined(value: &Value) -> Bytes {
        let (mut prefix, body) = encode(value).unwrap();
        prefix.extend_from_slice(&body);
        prefix.into()
    }

    #[test]
    fn values_come_back_as_they_were() {
        let body = Bytes::from_static(b"hello");
        let bytes = joined(&Value::Object(Object::new(head(5), body.clone())));
        let Some(Value::Object(object)) = decode(&bytes) else { panic!("not an object") };
        assert_eq!(object.head, head(5));
        assert_eq!(object.body, body);

        let Some(Value::Part(part)) = decode(&joined(&Value::Part(body.clone()))) else { panic!("not a part") };
        assert_eq!(part, body);

        let mut own = head(5);
        own.own.append("surrogate-control", HeaderValue::from_static("max-age=60"));
        own.forbids_stale = true;
        let bytes = joined(&Value::Object(Object::new(own.clone(), body.clone())));
        let Some(Value::Object(object)) = decode(&bytes) else { panic!("not an object") };
        assert_eq!(object.head, own);

        let names: Arc<[HeaderName]> = vec![http::header::ACCEPT].into();
        let Some(Value::Varies(read)) = decode(&joined(&Value::Varies(names.clone()))) else { panic!("not varies") };
        assert_eq!(read, names);
    }

    #[test]
    fn a_body_in_parts_is_known_by_their_digests_and_without_one_of_them_a_miss() {
        let with = |digests: Vec<Digest>| {
            let mut head = head(25);
            head.layout = Layout::Parts { stamp: 9, part_bytes: 10, digests: digests.into() };
            head
        };
        let kept = with(vec![[1; DIGEST_BYTES], [2; DIGEST_BYTES], [3; DIGEST_BYTES]]);
        let bytes = joined(&Value::Object(Object::new(kept.clone(), Bytes::new())));
        let Some(Value::Object(object)) = decode(&bytes) else { panic!("not an object") };
        assert_eq!(object.head, kept);
        for count in [0, 2, 4] {
            let head = with(vec![[1; DIGEST_BYTES]; count]);
            let bytes = joined(&Value::Object(Object::new(head, Bytes::new())));
            assert!(decode(&bytes).is_none(), "{count} digests of 3");
        }
        assert_eq!(digests(&[0; DIGEST_BYTES + 1], 1), None);
    }

    #[test]
    fn the_urls_of_a_response_come_back_and_without_them_they_are_unknown() {
        for urls in [Urls::Unknown, Urls::one("http://a/b?c"), Urls::Queries("http://a/b?c".into())] {
            let head = Head { urls, ..head(0) };
            let bytes = joined(&Value::Object(Object::new(head.clone(), Bytes::new())));
            let Some(Value::Object(object)) = decode(&bytes) else { panic!("not an object") };
            assert_eq!(object.head, head);
        }
        let before = Wire { url: None, ..Wire::from(&head(0)) };
        assert_eq!(before.head().map(|head| head.urls), Some(Urls::Unknown));
    }

    #[test]
    fn a_head_without_the_later_fields_forbids_what_its_cache_control_forbids() {
        for (control, wanted) in [("max-age=60", false), ("max-age=60, must-revalidate", true)] {
            let mut head = head(0);
            head.headers.insert("cache-control", HeaderValue::from_static(control));
            let mut wire = Wire::from(&head);
            wire.forbids_stale = None;
            assert_eq!(wire.head().map(|head| head.forbids_stale), Some(wanted), "{control}");
        }
    }

    #[test]
    fn another_format_and_a_short_body_are_misses() {
        let bytes = joined(&Value::Object(Object::new(head(5), Bytes::from_static(b"hello"))));
        assert!(decode(&bytes.slice(..bytes.len() - 1)).is_none(), "torn");
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(decode(&damaged.into()).is_none(), "one bit of byte {at}");
        }
        let mut other = bytes.to_vec();
        other[0] = FORMAT + 1;
        assert!(decode(&other.into()).is_none());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), format in any::<bool>()) {
            let mut bytes = bytes;
            if format && bytes.len() > 1 {
                bytes[0] = FORMAT;
                bytes[1] %= 4;
            }
            let _ = decode(&bytes.into());
        }
    }
}
