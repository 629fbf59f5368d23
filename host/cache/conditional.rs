//! Conditional requests (RFC 9110, section 13): evaluating a client's, and making our own to renew an entry.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, IF_MATCH, IF_MODIFIED_SINCE,
        IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
    },
};

use super::{control::split_unquoted, freshness::date};
use crate::planted::{Plant, planted};

/// Fields that make a request conditional or partial. A fetch that is to be stored leaves them out.
pub const CONDITIONS: [HeaderName; 6] =
    [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE];

/// Whether the client gets 304: only for a stored 200 (section 13.2.1).
#[must_use]
pub fn not_modified(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> bool {
    if status != StatusCode::OK {
        return false;
    }
    if request.contains_key(IF_NONE_MATCH) {
        // Section 13.1.3: `If-Modified-Since` is ignored beside it.
        return planted(Plant::ConditionIgnored) || none_match_fails(request, stored);
    }
    let Some(since) = date(request, IF_MODIFIED_SINCE) else { return false };
    // RFC 9111, section 4.3.2: without `Last-Modified` the time at which it was made counts.
    date(stored, LAST_MODIFIED).or_else(|| date(stored, DATE)).is_some_and(|modified| modified <= since)
}

/// Whether the request is conditional.
#[must_use]
pub fn is_conditional(request: &HeaderMap) -> bool {
    CONDITIONS.iter().any(|name| request.contains_key(name))
}

/// Weak comparison (section 8.8.3.2) of the stored tag with each that the client has.
fn none_match_fails(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let ours = stored.get(ETAG).map(|tag| opaque(tag.as_bytes()));
    request.get_all(IF_NONE_MATCH).iter().any(|line| {
        split_unquoted(line.as_bytes(), b',')
            .map(<[u8]>::trim_ascii)
            .any(|theirs| theirs == b"*" || ours.is_some_and(|ours| ours == opaque(theirs)))
    })
}

fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.trim_ascii();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Whether the stored response can be revalidated.
#[must_use]
pub fn renewable(stored: &HeaderMap) -> bool {
    stored.contains_key(ETAG) || stored.contains_key(LAST_MODIFIED)
}

/// Adds the conditions that renew the stored response (RFC 9111, section 4.3.1).
pub fn ask(request: &mut HeaderMap, stored: &HeaderMap) {
    for (validator, condition) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
        if let Some(value) = stored.get(validator) {
            request.insert(condition, value.clone());
        }
    }
}

/// Fields that describe the bytes that are stored, of which a 304 has none.
const OF_THE_BYTES: [HeaderName; 5] = [
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
];

/// The stored headers renewed by a 304 (RFC 9111, section 3.2): its fields replace ours, except those that describe
/// the bytes we have.
pub fn renew(stored: &mut HeaderMap, not_modified: &HeaderMap) {
    for name in not_modified.keys() {
        // Weakly equal tags of one response are two spellings of the stored one.
        if OF_THE_BYTES.contains(name) || *name == ETAG && stored.contains_key(ETAG) {
            continue;
        }
        stored.remove(name);
        for value in not_modified.get_all(name) {
            stored.append(name.clone(), value.clone());
        }
    }
}

/// Whether the 304 is about the stored response (RFC 9111, section 4.3.4). Where both have an entity tag, that decides,
/// else the date of the last change where both have one. Without a validator of its own it is.
///
/// Tags are compared weakly, although a strong one in the 304 names what has exactly that tag: servers that compress
/// (nginx) weaken the tag of what they encode, and a 304, of which nothing is encoded, has it as it was.
#[must_use]
pub fn same(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    match (stored.get(ETAG), not_modified.get(ETAG)) {
        (Some(ours), Some(theirs)) => opaque(ours.as_bytes()) == opaque(theirs.as_bytes()),
        // A strong validator that nothing stored has.
        (None, Some(theirs)) => theirs.as_bytes().starts_with(b"W/") && is_of_date(stored, not_modified),
        (Some(_) | None, None) => is_of_date(stored, not_modified),
    }
}

/// Whether no other date of the last change is stated: an origin that went back to an older version has nothing that is
/// newer than `If-Modified-Since`, and says 304 of something else. What isn't a date is the same only in the same words.
fn is_of_date(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    let (Some(ours), Some(theirs)) = (stored.get(LAST_MODIFIED), not_modified.get(LAST_MODIFIED)) else { return true };
    let is_same_date =
        || date(stored, LAST_MODIFIED).is_some_and(|ours| Some(ours) == date(not_modified, LAST_MODIFIED));
    ours == theirs || is_same_date()
}

/// Asks for a body from `offset` on, up to `end` if that is given, if it is still the one that was stored (RFC 9110, section 13.1.5). Only a strong
/// validator can say so; without one, what comes is known by its bytes.
pub fn ask_rest(request: &mut HeaderMap, whole: &Whole, offset: u64, end: Option<u64>) {
    let last = end.map(|end| end.saturating_sub(1).to_string()).unwrap_or_default();
    let Ok(range) = HeaderValue::try_from(format!("bytes={offset}-{last}")) else { return };
    request.insert(RANGE, range);
    if let Some(tag) = whole.tag.as_ref().filter(|tag| !tag.as_bytes().starts_with(b"W/")) {
        request.insert(IF_RANGE, tag.clone());
    }
}

/// A body of which the rest is fetched.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The status that it came with.
    pub status: StatusCode,
    /// Its validator.
    pub tag: Option<HeaderValue>,
    /// Its length in bytes, if that's known.
    pub length: Option<u64>,
    /// How its origin has to confirm that it is the same.
    pub strictness: Strictness,
}

/// How a response has to say that its body is another one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Nothing that it says differs: what comes is compared with digests.
    Nothing,
    /// A whole has the same entity tag.
    Tag,
}

/// Where a response begins that was asked for a body from `offset` on: there, or at its beginning. `None` if it is
/// another body, or none.
#[must_use]
pub fn begins_at(whole: &Whole, offset: u64, status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    if let (Some(stored), Some(now)) = (&whole.tag, headers.get(ETAG))
        && opaque(stored.as_bytes()) != opaque(now.as_bytes())
    {
        return None;
    }
    if whole.strictness == Strictness::Tag && !is_same_strong_tag(whole.tag.as_ref(), headers.get(ETAG)) {
        return None;
    }
    let (begins, length) = if status == StatusCode::PARTIAL_CONTENT {
        content_range(headers).filter(|(first, _)| *first == offset)?
    } else if status == whole.status {
        (0, headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()))
    } else {
        return None;
    };
    let same = length.is_none() || whole.length.is_none() || length == whole.length;
    same.then_some(begins)
}

/// Whether two responses have the same bytes, as only a strong tag says (RFC 9110, sections 8.8.3.2 and 15.3.7).
fn is_same_strong_tag(stored: Option<&HeaderValue>, now: Option<&HeaderValue>) -> bool {
    stored.is_some_and(|stored| now == Some(stored) && !stored.as_bytes().starts_with(b"W/"))
}

/// The first byte of a range of bytes, and the length of the whole, if it's stated (RFC 9110, section 14.4).
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, length) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let length = if length == "*" { None } else { Some(length.trim().parse().ok()?) };
    Some((first.trim().parse().ok()?, length))
}

/// Fields of a stored response that a 304 to the client repeats (RFC 9110, section 15.4.5): all but the body's own.
pub fn strip_for_not_modified(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE, CONTENT_RANGE] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_client_that_has_the_stored_response_is_recognised() {
        const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
        for (request, stored, wanted) in [
            (&[("if-none-match", "\"a\"")][..], &[("etag", "\"a\"")][..], true),
            (&[("if-none-match", "W/\"a\"")], &[("etag", "\"a\"")], true),
            (&[("if-none-match", "\"x,y\", \"a\"")], &[("etag", "\"a\"")], true),
            (&[("if-none-match", "*")], &[], true),
            (&[("if-none-match", "\"b\"")], &[("etag", "\"a\"")], false),
            (
                &[("if-none-match", "\"b\""), ("if-modified-since", THEN)],
                &[("etag", "\"a\""), ("last-modified", THEN)],
                false,
            ),
            (&[("if-modified-since", THEN)], &[("last-modified", THEN)], true),
            (&[("if-modified-since", THEN)], &[("last-modified", LATER)], false),
            (&[("if-modified-since", "soon")], &[("last-modified", THEN)], false),
            (&[("if-modified-since", THEN)], &[], false),
            (&[("if-modified-since", THEN)], &[("date", THEN)], true),
            (&[("if-modified-since", THEN)], &[("date", LATER)], false),
            (&[("if-modified-since", THEN)], &[("date", THEN), ("last-modified", LATER)], false),
        ] {
            let result = not_modified(&headers(request), StatusCode::OK, &headers(stored));
            assert_eq!(result, wanted, "{request:?} of {stored:?}");
        }
        let both = headers(&[("if-none-match", "*")]);
        assert!(!not_modified(&both, StatusCode::NOT_FOUND, &HeaderMap::new()));
    }

    #[test]
    fn a_304_renews_all_but_what_describes_the_bytes() {
        let mut stored = headers(&[
            ("content-type", "a/b"),
            ("content-encoding", "gzip"),
            ("content-md5", "a"),
            ("etag", "\"a\""),
            ("cache-control", "max-age=1"),
            ("x-old", "1"),
        ]);
        let not_modified = [
            ("cache-control", "max-age=9"),
            ("content-type", "a/b;charset=utf-8"),
            ("content-encoding", "br"),
            ("content-length", "0"),
            ("content-md5", "b"),
            ("etag", "W/\"a\""),
            ("x-new", "2"),
        ];
        renew(&mut stored, &headers(&not_modified));
        let wanted = headers(&[
            ("content-type", "a/b;charset=utf-8"),
            ("content-encoding", "gzip"),
            ("content-md5", "a"),
            ("etag", "\"a\""),
            ("cache-control", "max-age=9"),
            ("x-old", "1"),
            ("x-new", "2"),
        ]);
        assert_eq!(stored, wanted);
    }

    #[test]
    fn a_304_is_of_the_response_that_has_its_validators() {
        const STRONG: (&str, &str) = ("etag", "\"a\"");
        const WEAK: (&str, &str) = ("etag", "W/\"a\"");
        const OTHER: (&str, &str) = ("etag", "\"b\"");
        const DATED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:39:37 GMT");
        // The same time, as others spell it.
        const SPELLED: (&str, &str) = ("last-modified", "Sunday, 06-Nov-94 08:39:37 GMT");
        const EARLIER: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:39:36 GMT");
        const LATER: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:39:38 GMT");
        const SOON: (&str, &str) = ("last-modified", "soon");
        for (stored, said, wanted) in [
            (&[STRONG][..], &[STRONG][..], true),
            (&[STRONG], &[WEAK], true),
            (&[WEAK], &[STRONG], true),
            (&[WEAK], &[WEAK], true),
            (&[STRONG], &[OTHER], false),
            (&[WEAK], &[OTHER], false),
            (&[STRONG], &[], true),
            (&[DATED], &[], true),
            (&[DATED], &[WEAK], true),
            // Nothing stored has it.
            (&[DATED], &[STRONG], false),
            (&[DATED], &[STRONG, DATED], false),
            (&[DATED], &[DATED], true),
            (&[DATED], &[SPELLED], true),
            (&[DATED], &[EARLIER], false),
            (&[DATED], &[LATER], false),
            (&[DATED], &[WEAK, EARLIER], false),
            (&[DATED], &[WEAK, DATED], true),
            (&[DATED], &[SOON], false),
            (&[SOON], &[SOON], true),
            // A tag that both have says more than a date.
            (&[STRONG, DATED], &[STRONG, EARLIER], true),
            (&[STRONG, DATED], &[OTHER, DATED], false),
            (&[STRONG, DATED], &[DATED], true),
            (&[STRONG, DATED], &[EARLIER], false),
            (&[WEAK, DATED], &[EARLIER], false),
            (&[STRONG], &[EARLIER], true),
        ] {
            assert_eq!(same(&headers(stored), &headers(said)), wanted, "{stored:?} {said:?}");
        }
    }

    #[test]
    fn the_rest_is_asked_for_only_of_the_same_body() {
        for (tag, end, wanted) in [
            (Some("\"a\""), None, &[("range", "bytes=7-"), ("if-range", "\"a\"")][..]),
            (Some("W/\"a\""), None, &[("range", "bytes=7-")]),
            (None, None, &[("range", "bytes=7-")]),
            (None, Some(9), &[("range", "bytes=7-8")]),
        ] {
            let mut request = HeaderMap::new();
            let tag = tag.map(HeaderValue::from_static);
            ask_rest(
                &mut request,
                &Whole { status: StatusCode::OK, tag: tag.clone(), length: None, strictness: Strictness::Nothing },
                7,
                end,
            );
            assert_eq!(request, headers(wanted), "{tag:?} {end:?}");
        }
    }

    #[test]
    fn the_rest_begins_where_it_was_asked_for_or_at_the_beginning() {
        let tag = Some(HeaderValue::from_static("\"a\""));
        let whole = Whole { status: StatusCode::OK, tag, length: Some(10), strictness: Strictness::Nothing };
        for (status, response, wanted) in [
            (206, &[("content-range", "bytes 7-9/10")][..], Some(7)),
            (206, &[("content-range", "bytes 7-9/*"), ("etag", "\"a\"")], Some(7)),
            (206, &[("content-range", "bytes 7-9/10"), ("etag", "\"b\"")], None),
            (206, &[("content-range", "bytes 7-9/11")], None),
            (206, &[("content-range", "bytes 6-9/10")], None),
            (206, &[("content-range", "lines 7-9/10")], None),
            (206, &[("content-range", "bytes 7")], None),
            (206, &[("content-type", "multipart/byteranges; boundary=x")], None),
            (200, &[("content-length", "10")], Some(0)),
            (200, &[("etag", "W/\"a\"")], Some(0)),
            (200, &[("content-length", "9")], None),
            (200, &[("etag", "\"b\"")], None),
            (416, &[("content-range", "bytes */9")], None),
            (304, &[], None),
            (404, &[], None),
            (500, &[], None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(begins_at(&whole, 7, status, &headers(response)), wanted, "{status} {response:?}");
        }
        let strict = Whole { strictness: Strictness::Tag, ..whole };
        for (status, response, wanted) in [
            (200, &[("content-length", "10")][..], None),
            (200, &[("content-length", "10"), ("etag", "\"a\"")], Some(0)),
            (200, &[("content-length", "10"), ("etag", "W/\"a\"")], None),
            (206, &[("content-range", "bytes 7-9/10"), ("etag", "\"a\"")], Some(7)),
            (206, &[("content-range", "bytes 7-9/10"), ("etag", "W/\"a\"")], None),
            (206, &[("content-range", "bytes 7-9/10")], None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(begins_at(&strict, 7, status, &headers(response)), wanted, "{status} {response:?}");
        }
        let unknown = Whole { status: StatusCode::NOT_FOUND, tag: None, length: None, strictness: Strictness::Nothing };
        let any = headers(&[("content-length", "3"), ("etag", "\"b\"")]);
        assert_eq!(begins_at(&unknown, 7, StatusCode::NOT_FOUND, &any), Some(0));
        assert_eq!(begins_at(&unknown, 7, StatusCode::OK, &any), None);
    }
}
