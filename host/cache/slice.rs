//! Slices: aligned stretches of a body that are fetched and stored by themselves, so that a range of what isn't stored
//! costs its origin little more than that range (RFC 9111, sections 3.3 and 3.4; RFC 9110, section 15.3.7). Pure, but for
//! the note that something has none.
//!
//! A slice is a response of its own, with a key, lifetimes, tags and a place in the purge log. Slices are put together
//! only if they are of one [`Version`].

use std::ops::Range;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_RANGE, ETAG, RANGE},
};

use super::{
    Cache,
    control::digits,
    entry::Value,
    key::{Key, KeyHasher},
};
use crate::{
    clock::{self, Uptime},
    policy::Material,
};

/// A stretch of a body, of so many bytes unless that ends before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    start: u64,
    bytes: u64,
}

/// What a slice is of: slices with the same strong validator are of the same bytes (RFC 9110, section 8.8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The strong entity tag.
    tag: HeaderValue,
    /// The length of the whole body in bytes.
    length: u64,
}

impl Version {
    /// Returns the strong entity tag.
    #[must_use]
    pub const fn tag(&self) -> &HeaderValue {
        &self.tag
    }

    /// Returns the length of the whole body in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }
}

impl Slice {
    /// Returns the slice that has the byte at `offset`, where slices are of so many bytes.
    #[must_use]
    pub fn at(offset: u64, bytes: usize) -> Self {
        let bytes = (bytes as u64).max(1);
        Self { start: offset / bytes * bytes, bytes }
    }

    /// Returns the offset at which the next slice begins.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }

    /// Whether a slice begins at `offset`.
    #[must_use]
    pub fn begins_at(&self, offset: u64) -> bool {
        offset.is_multiple_of(self.bytes)
    }

    /// Returns the bytes of a range of the body that it has, counted from its own first byte.
    #[must_use]
    pub fn cut(&self, range: &Range<u64>) -> Range<u64> {
        let within = |at: u64| at.clamp(self.start, self.end()) - self.start;
        within(range.start)..within(range.end)
    }

    /// Asks for it, and nothing else.
    pub fn ask(&self, request: &mut HeaderMap) {
        let range = format!("bytes={}-{}", self.start, self.end() - 1);
        if let Ok(range) = HeaderValue::try_from(range) {
            request.insert(RANGE, range);
        }
    }

    /// Returns the key under which requests for it are looked up, if that of the whole is `whole`.
    #[must_use]
    pub fn key(&self, whole: &Key) -> Key {
        let mut hasher = KeyHasher::under(whole);
        hasher.part(Some(b"holm slice"));
        for number in [self.bytes, self.start] {
            hasher.part(Some(&number.to_le_bytes()));
        }
        hasher.finish()
    }

    /// Returns what a partial response with these header fields, and `length` bytes of content, is a slice of. `None` if
    /// it isn't this slice and nothing else, doesn't say how long the whole is, or has no strong validator.
    #[must_use]
    pub fn version(&self, headers: &HeaderMap, length: Option<u64>) -> Option<Version> {
        let (range, whole) = content_range(only(headers, &CONTENT_RANGE)?)?;
        let wanted = self.start..self.end().min(whole);
        let tag = only(headers, &ETAG)?;
        let is_it = range == wanted && length == Some(wanted.end - wanted.start);
        (is_it && is_strong(tag)).then(|| Version { tag: tag.clone(), length: whole })
    }
}

/// The value of a field that has one line.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

fn is_strong(tag: &HeaderValue) -> bool {
    let tag = tag.as_bytes();
    tag.len() > 1 && tag.starts_with(b"\"") && tag.ends_with(b"\"")
}

/// A range of bytes that isn't empty, and the length of the whole (RFC 9110, section 14.4).
fn content_range(value: &HeaderValue) -> Option<(Range<u64>, u64)> {
    let (range, whole) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, whole) = (digits(first.as_bytes())?, digits(last.as_bytes())?, digits(whole.as_bytes())?);
    (first <= last && last < whole).then(|| (first..last + 1, whole))
}

/// Under which it is noted that a response has no slices.
fn note_key(whole: &Key) -> Key {
    let mut hasher = KeyHasher::under(whole);
    hasher.part(Some(b"holm unsliced"));
    hasher.finish()
}

impl Cache {
    /// Whether the response that has this key was found to have no slices lately: its origin serves no ranges, or says
    /// nothing by which slices could be known to belong together.
    #[must_use]
    pub fn is_unsliced(&self, whole: &Key) -> bool {
        matches!(self.tiers.memory(&note_key(whole)), Some(Value::Uncacheable(until)) if clock::uptime() < until)
    }

    /// Notes that, for as long as responses that can't be stored are remembered.
    pub fn mark_unsliced(&self, whole: &Key, now: Uptime) {
        self.mark_uncacheable(note_key(whole), now, None);
    }

    /// Removes a slice of what its origin has replaced.
    pub fn remove_slice(&self, key: &Key) {
        self.tiers.remove_everywhere(key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_the_very_slice_of_a_known_version_is_one() {
        const TAG: (&str, &str) = ("etag", "\"a\"");
        let (second, last) = (Slice::at(15, 10), Slice::at(20, 10));
        assert_eq!((second.start, last.start), (10, 20));
        for (slice, lines, length, wanted) in [
            (second, &[("content-range", "bytes 10-19/25"), TAG][..], Some(10), Some(25)),
            (second, &[("content-range", "bytes 10-19/20"), TAG], Some(10), Some(20)),
            (last, &[("content-range", "bytes 20-24/25"), TAG], Some(5), Some(25)),
            // Another range, more of it, less of it.
            (second, &[("content-range", "bytes 0-9/25"), TAG], Some(10), None),
            (second, &[("content-range", "bytes 10-24/25"), TAG], Some(15), None),
            (second, &[("content-range", "bytes 10-18/25"), TAG], Some(9), None),
            (last, &[("content-range", "bytes 20-23/25"), TAG], Some(4), None),
            // Its content isn't what it says, or nobody knows how long that is.
            (second, &[("content-range", "bytes 10-19/25"), TAG], Some(9), None),
            (second, &[("content-range", "bytes 10-19/25"), TAG], None, None),
            // How long the whole is, isn't known, or can't be.
            (second, &[("content-range", "bytes 10-19/*"), TAG], Some(10), None),
            (second, &[("content-range", "bytes 10-19/19"), TAG], Some(10), None),
            (second, &[("content-range", "bytes */25"), TAG], Some(10), None),
            (second, &[("content-range", "lines 10-19/25"), TAG], Some(10), None),
            (second, &[("content-range", "bytes 10-+19/25"), TAG], Some(10), None),
            (second, &[("content-range", "bytes 10-19/25"), ("content-range", "bytes 10-19/25"), TAG], Some(10), None),
            (second, &[("content-type", "multipart/byteranges; boundary=x"), TAG], Some(10), None),
            // No strong validator.
            (second, &[("content-range", "bytes 10-19/25")], Some(10), None),
            (second, &[("content-range", "bytes 10-19/25"), ("etag", "W/\"a\"")], Some(10), None),
            (second, &[("content-range", "bytes 10-19/25"), ("etag", "\"")], Some(10), None),
            (second, &[("content-range", "bytes 10-19/25"), TAG, ("etag", "\"b\"")], Some(10), None),
        ] {
            let version = slice.version(&headers(lines), length);
            assert_eq!(version.map(|it| it.length), wanted, "{slice:?} {lines:?} {length:?}");
        }
    }

    #[test]
    fn versions_differ_by_tag_and_by_length() {
        let of = |range: &'static str, tag: &'static str| {
            Slice::at(0, 10).version(&headers(&[("content-range", range), ("etag", tag)]), Some(10)).unwrap()
        };
        let version = of("bytes 0-9/25", "\"a\"");
        assert_eq!(version, of("bytes 0-9/25", "\"a\""));
        assert_ne!(version, of("bytes 0-9/25", "\"b\""));
        assert_ne!(version, of("bytes 0-9/26", "\"a\""));
    }

    #[test]
    fn slices_of_another_place_size_or_response_have_other_keys() {
        let whole = Key::from_bytes([7; 32]);
        let key = Slice::at(10, 10).key(&whole);
        assert_eq!(key, Slice::at(19, 10).key(&whole));
        for other in [Slice::at(20, 10).key(&whole), Slice::at(10, 5).key(&whole), whole, note_key(&whole)] {
            assert_ne!(key, other);
        }
        assert_ne!(key, Slice::at(10, 10).key(&Key::from_bytes([8; 32])));
    }

    proptest! {
        /// Whatever numbers an origin states, of any length.
        #[test]
        fn a_slice_is_where_it_says(
            first in "[0-9]{1,25}",
            last in "[0-9]{1,25}",
            whole in "[0-9]{1,25}",
            offset in any::<u64>(),
            bytes in any::<usize>(),
            length in any::<u64>(),
        ) {
            let mut headers = headers(&[("etag", "\"a\"")]);
            headers.insert(CONTENT_RANGE, format!("bytes {first}-{last}/{whole}").parse().unwrap());
            let slice = Slice::at(offset, bytes);
            slice.ask(&mut headers);
            if let Some(version) = slice.version(&headers, Some(length)) {
                prop_assert!(slice.start < version.length && length <= slice.bytes);
                prop_assert_eq!(digits(first.as_bytes()), Some(slice.start));
            }
        }

        /// One after the other, the slices of a range are the range.
        #[test]
        fn each_byte_of_a_range_is_in_one_slice(start in 0_u64..100, length in 1_u64..100, bytes in 1_usize..20) {
            let range = start..start + length;
            let mut at = range.start;
            while at < range.end {
                let slice = Slice::at(at, bytes);
                let cut = slice.cut(&(at..range.end));
                prop_assert!(!cut.is_empty());
                prop_assert_eq!(slice.start + cut.start, at);
                at = slice.start + cut.end;
                prop_assert!(at == range.end || slice.begins_at(at));
            }
            prop_assert_eq!(at, range.end);
        }
    }
}
