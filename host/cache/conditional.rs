//! Conditional requests (RFC 9110, section 13): answering a client's, and making our own to renew an entry.

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_MODIFIED_SINCE,
        IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
    },
};

use super::{control::split_unquoted, freshness::date};

/// Fields that make a request conditional or partial. A fetch that is to be stored leaves them out.
pub const CONDITIONS: [HeaderName; 6] =
    [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE];

/// Would the client rather hear 304? Only for a stored 200 (section 13.2.1).
#[must_use]
pub fn not_modified(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> bool {
    if status != StatusCode::OK {
        return false;
    }
    if request.contains_key(IF_NONE_MATCH) {
        // Section 13.1.3: `If-Modified-Since` is ignored beside it.
        return none_match_fails(request, stored);
    }
    let Some(since) = date(request, IF_MODIFIED_SINCE) else { return false };
    date(stored, LAST_MODIFIED).is_some_and(|modified| modified <= since)
}

/// Does the request depend on what the client has?
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

/// Can the stored answer be renewed by asking whether it changed?
#[must_use]
pub fn renewable(stored: &HeaderMap) -> bool {
    stored.contains_key(ETAG) || stored.contains_key(LAST_MODIFIED)
}

/// Adds the conditions that renew the stored answer (RFC 9111, section 4.3.1).
pub fn ask(request: &mut HeaderMap, stored: &HeaderMap) {
    for (validator, condition) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
        if let Some(value) = stored.get(validator) {
            request.insert(condition, value.clone());
        }
    }
}

/// The stored headers renewed by a 304 (RFC 9111, section 3.2): its fields replace ours, except those that describe
/// the bytes we have.
pub fn renew(stored: &mut HeaderMap, not_modified: &HeaderMap) {
    for name in not_modified.keys() {
        if [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE, CONTENT_RANGE].contains(name) {
            continue;
        }
        stored.remove(name);
        for value in not_modified.get_all(name) {
            stored.append(name.clone(), value.clone());
        }
    }
}

/// Does the 304 speak of the answer we have? Without a validator of its own it does (RFC 9111, section 4.3.4).
#[must_use]
pub fn same(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    match (stored.get(ETAG), not_modified.get(ETAG)) {
        (Some(ours), Some(theirs)) => opaque(ours.as_bytes()) == opaque(theirs.as_bytes()),
        _ => true,
    }
}

/// Fields of a stored answer that a 304 to the client repeats (RFC 9110, section 15.4.5): all but the body's own.
pub fn strip_for_not_modified(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE, CONTENT_RANGE] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_client_that_has_it_is_told_so() {
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
        ] {
            let result = not_modified(&headers(request), StatusCode::OK, &headers(stored));
            assert_eq!(result, wanted, "{request:?} of {stored:?}");
        }
        let both = headers(&[("if-none-match", "*")]);
        assert!(!not_modified(&both, StatusCode::NOT_FOUND, &HeaderMap::new()));
    }

    #[test]
    fn a_304_renews_all_but_what_describes_the_bytes() {
        let mut stored = headers(&[("content-type", "a/b"), ("cache-control", "max-age=1"), ("x-old", "1")]);
        renew(&mut stored, &headers(&[("cache-control", "max-age=9"), ("content-type", "c/d"), ("x-new", "2")]));
        assert_eq!(
            stored,
            headers(&[("content-type", "a/b"), ("cache-control", "max-age=9"), ("x-old", "1"), ("x-new", "2")])
        );
    }
}
