//! Ranges (RFC 9110, section 14): what a client is sent of a response whose length is known. Pure.
//!
//! Whatever can't be read, is too much or isn't certain is ignored, which the RFC leaves to a server: the client gets
//! the whole.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE,
    },
};

use smallvec::{SmallVec, smallvec};

use super::{control::digits, freshness::date};
use crate::message::delta::USE_AS_DICTIONARY;

/// Ranges that one request may name; a field with more of them is ignored.
pub const RANGES_MAX: usize = 16;

/// The ranges that a request names, at least one (section 14.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(Vec<Spec>);

/// One range, before the length is known (section 14.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// From a byte on, up to and with the last one, if that is named.
    From { first: u64, last: Option<u64> },
    /// So many bytes at the end.
    Suffix(u64),
}

/// The ranges of a body of known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The field is ignored.
    Whole,
    /// One range, not empty.
    One(Range<u64>),
    /// Several, none empty; they neither overlap nor touch, and are in the order in which the client named them.
    Several(Vec<Range<u64>>),
    /// The body has none of the bytes.
    Unsatisfiable,
}

impl Ranges {
    /// Reads a request's `Range`. `None` if it has none, or one that is ignored: of another unit than bytes, malformed,
    /// sent twice, or with more than [`RANGES_MAX`] ranges.
    #[must_use]
    pub fn of(request: &HeaderMap) -> Option<Self> {
        let mut lines = request.get_all(RANGE).iter();
        let line = lines.next()?;
        if lines.next().is_some() { None } else { Self::parse(line.to_str().ok()?) }
    }

    fn parse(field: &str) -> Option<Self> {
        let (unit, set) = field.trim_ascii().split_once('=')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let mut specs = Vec::new();
        // Empty elements of a list count for nothing (section 5.6.1.2).
        for spec in set.split(',').map(str::trim_ascii).filter(|spec| !spec.is_empty()) {
            if specs.len() == RANGES_MAX {
                return None;
            }
            specs.push(Spec::parse(spec)?);
        }
        (!specs.is_empty()).then_some(Self(specs))
    }

    /// Returns the offset of the first byte that it names, if it is one range; of the end of a body, whose length isn't
    /// known yet, 0.
    #[must_use]
    pub fn first_of_one(&self) -> Option<u64> {
        match self.0.as_slice() {
            [Spec::From { first, .. }] => Some(*first),
            [Spec::Suffix(_)] => Some(0),
            _ => None,
        }
    }

    /// Selects them in a body of `length` bytes. Ranges that overlap or touch are made one, so that no byte is sent
    /// twice however often it is named.
    #[must_use]
    pub fn select(&self, length: u64) -> Selection {
        // Section 14.1.2: such a suffix is satisfiable by a body without bytes, and `Content-Range` can't say so.
        if length == 0 && self.0.iter().any(|spec| matches!(spec, Spec::Suffix(1..))) {
            return Selection::Whole;
        }
        let mut ranges = coalesced(self.0.iter().filter_map(|spec| spec.within(length)));
        match ranges.len() {
            0 => Selection::Unsatisfiable,
            1 => Selection::One(ranges.swap_remove(0)),
            _ => Selection::Several(ranges),
        }
    }
}

impl Spec {
    fn parse(spec: &str) -> Option<Self> {
        let (first, last) = spec.split_once('-')?;
        match (first.is_empty(), last.is_empty()) {
            (true, _) => digits(last.as_bytes()).map(Self::Suffix),
            (false, true) => Some(Self::From { first: digits(first.as_bytes())?, last: None }),
            (false, false) => {
                let (first, last) = (digits(first.as_bytes())?, digits(last.as_bytes())?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// Its bytes in a body of `length`, if that has any of them.
    fn within(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From { first, last } => first..last.map_or(length, |last| last.saturating_add(1).min(length)),
            Self::Suffix(bytes) => length.saturating_sub(bytes)..length,
        };
        (!range.is_empty()).then_some(range)
    }
}

/// The ranges with those that overlap or touch made one, each in the place of its first.
fn coalesced(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut ascending: Vec<(usize, Range<u64>)> = ranges.enumerate().collect();
    ascending.sort_by_key(|(_, range)| range.start);
    let mut merged: Vec<(usize, Range<u64>)> = Vec::with_capacity(ascending.len());
    for (place, range) in ascending {
        match merged.last_mut() {
            Some((first, last)) if range.start <= last.end => {
                last.end = last.end.max(range.end);
                *first = place.min(*first);
            }
            _ => merged.push((place, range)),
        }
    }
    merged.sort_by_key(|(place, _)| *place);
    merged.into_iter().map(|(_, range)| range).collect()
}

/// Whether a request asks for a range: section 14.2 defines that for GET alone, and RFC 10008, section 2.8, for QUERY.
#[must_use]
pub fn is_asked_for(method: &Method, request: &HeaderMap) -> bool {
    (method == Method::GET || method == Method::QUERY) && Ranges::of(request).is_some()
}

/// Whether `If-Range`, if the request has it, names the response that there is (section 13.1.5): by its strong entity
/// tag, or by a `Last-Modified` that is a strong validator, because the response was made a second later or more
/// (section 8.8.2.2).
#[must_use]
pub fn is_same(request: &HeaderMap, response: &HeaderMap) -> bool {
    let mut lines = request.get_all(IF_RANGE).iter();
    let Some(condition) = lines.next() else { return true };
    if lines.next().is_some() {
        return false;
    }
    let condition = condition.as_bytes().trim_ascii();
    if condition.ends_with(b"\"") {
        let is_strong = condition.len() > 1 && condition.starts_with(b"\"");
        return is_strong && response.get(ETAG).is_some_and(|tag| tag.as_bytes().trim_ascii() == condition);
    }
    let (named, modified, made) = (date(request, IF_RANGE), date(response, LAST_MODIFIED), date(response, DATE));
    let (Some(modified), Some(made)) = (modified, made) else { return false };
    named == Some(modified) && made.since(modified) >= Duration::from_secs(1)
}

/// A response of which a range may be sent.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Its body's length in bytes, if that's known.
    pub length: Option<u64>,
    /// Whether its body can be read in one direction only.
    pub is_arriving: bool,
}

/// What is sent of a response to GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// A part, as 206.
    Partial(Partial),
    /// Nothing: a body of so many bytes has none of the range, which is 416.
    Unsatisfiable(u64),
}

impl Extent {
    /// Judges a response to a GET with these header fields, whose other conditions have been met (section 13.2.2).
    /// `boundary` makes what separates the parts of a multipart body and is in none of them: a random number.
    #[must_use]
    pub fn of(request: &HeaderMap, candidate: &Candidate<'_>, boundary: impl FnOnce() -> u128) -> Self {
        // Nearly always this look is all there is to do.
        if !request.contains_key(RANGE) || candidate.status != StatusCode::OK {
            return Self::Whole;
        }
        let (Some(ranges), Some(length)) = (Ranges::of(request), candidate.length) else { return Self::Whole };
        if !is_same(request, candidate.headers) {
            return Self::Whole;
        }
        match ranges.select(length) {
            Selection::Whole => Self::Whole,
            Selection::Unsatisfiable => Self::Unsatisfiable(length),
            Selection::One(range) => Self::Partial(Partial::one(range, length)),
            // Of the parts or of all of them together: there is no telling what the coding would be of.
            Selection::Several(_) if candidate.headers.contains_key(CONTENT_ENCODING) => Self::Whole,
            Selection::Several(mut ranges) => {
                if candidate.is_arriving {
                    ranges.sort_by_key(|range| range.start);
                }
                let media_type = candidate.headers.get(CONTENT_TYPE);
                Self::Partial(Partial::several(&ranges, length, media_type, boundary()))
            }
        }
    }
}

/// Of a whole response's fields, those that are wrong for a part of it, which is no dictionary either. `Repr-Digest` is of
/// the whole, and stays.
static OF_ALL_BYTES: [HeaderName; 5] = [
    CONTENT_LENGTH,
    CONTENT_RANGE,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    USE_AS_DICTIONARY,
];

/// A part of a response, or several as one multipart body (section 15.3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    sections: Sections,
    /// The field that says what it is: `Content-Range`, or of several the type.
    name: HeaderName,
    value: HeaderValue,
}

impl Partial {
    fn one(range: Range<u64>, length: u64) -> Self {
        let value = value(&content_range(&range, length));
        Self { sections: Sections::One(range), name: CONTENT_RANGE, value }
    }

    fn several(ranges: &[Range<u64>], length: u64, media_type: Option<&HeaderValue>, boundary: u128) -> Self {
        let boundary = format!("{boundary:032x}");
        let media_type = media_type.map(|value| [&b"Content-Type: "[..], value.as_bytes(), &b"\r\n"[..]].concat());
        let before = |index: usize, range: &Range<u64>| {
            let delimiter = format!("{}--{boundary}\r\n", if index == 0 { "" } else { "\r\n" });
            let stretch = format!("Content-Range: {}\r\n\r\n", content_range(range, length));
            [delimiter.as_bytes(), media_type.as_deref().unwrap_or_default(), stretch.as_bytes()].concat()
        };
        let section = |(index, range): (usize, &Range<u64>)| Section {
            before: before(index, range).into(),
            range: range.clone(),
        };
        let end = Section { before: format!("\r\n--{boundary}--\r\n").into(), range: 0..0 };
        let sections = ranges.iter().enumerate().map(section).chain([end]).collect();
        let value = value(&format!("multipart/byteranges; boundary={boundary}"));
        Self { sections: Sections::Several(sections), name: CONTENT_TYPE, value }
    }

    /// What is sent of the body.
    #[must_use]
    pub const fn sections(&self) -> &Sections {
        &self.sections
    }

    /// Makes the header fields of the whole response those of this part.
    pub fn describe(&self, headers: &mut HeaderMap) {
        for name in &OF_ALL_BYTES {
            headers.remove(name);
        }
        headers.insert(&self.name, self.value.clone());
        if let Some(bytes) = self.sections.bytes() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        }
    }
}

/// The bytes that a range has, as `Content-Range` names them (section 14.4).
fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1))
}

/// Returns `Content-Range` of a 416: the length of the body that has none of the bytes (section 15.5.17).
#[must_use]
pub fn unsatisfied(length: u64) -> HeaderValue {
    value(&format!("bytes */{length}"))
}

/// What is made here is ASCII without control characters: always a value.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// What is sent of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sections {
    /// All of it.
    Whole,
    /// One range.
    One(Range<u64>),
    /// Several ranges, one after the other.
    Several(Vec<Section>),
}

/// A range of a body, and what is sent before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Bytes that aren't of the body.
    pub before: Bytes,
    /// The range; empty if only `before` is sent.
    pub range: Range<u64>,
}

impl Section {
    /// A range with nothing before it.
    #[must_use]
    pub const fn plain(range: Range<u64>) -> Self {
        Self { before: Bytes::new(), range }
    }

    /// How many bytes are sent.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.before.len() as u64).saturating_add(self.range.end.saturating_sub(self.range.start))
    }
}

impl Sections {
    /// How many bytes are sent; `None` of a whole body.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::Whole => None,
            Self::One(range) => Some(range.end.saturating_sub(range.start)),
            Self::Several(sections) => Some(sections.iter().map(Section::bytes).sum()),
        }
    }

    /// One by one. The range of a whole body has no end of its own.
    #[must_use]
    pub fn into_list(self) -> SmallVec<[Section; 1]> {
        match self {
            Self::Whole => smallvec![Section::plain(0..u64::MAX)],
            Self::One(range) => smallvec![Section::plain(range)],
            Self::Several(sections) => sections.into(),
        }
    }
}

#[cfg(test)]
mod tests;
