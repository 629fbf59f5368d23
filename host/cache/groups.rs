//! Cache groups (RFC 9875): names by which an origin says which of its responses belong together, and that an unsafe
//! method has changed all of a group. Pure: fields in, tags out.
//!
//! The groups of one origin (scheme, host and port) have nothing to do with another's, nor with tags. Where a field
//! can't be read or is too long, the closed side is taken: such a response isn't stored, since no invalidation would
//! find it, and such an invalidation is one of all groups of its origin.

use http::{HeaderMap, HeaderName};
use sfv::{List, ListEntry, Parser};

use super::{admit::Refusal, tag::Tag};
use crate::message::{structured::joined, tag::GROUP_CHARS_MAX};

/// The groups that a response belongs to (section 2).
const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");

/// The groups that a response to an unsafe method invalidates (section 3).
const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// Groups that one field may name; the RFC wants at least 32.
pub const GROUPS_MAX: usize = 64;

/// Why the groups of a field aren't known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// It isn't a List of Strings.
    Unreadable,
    /// It names more groups than may be.
    TooMany,
    /// A name is longer than may be.
    TooLong,
}

/// Returns the names of a field, each once; none if it isn't there.
fn names(headers: &HeaderMap, field: &HeaderName) -> Result<Vec<String>, Unknown> {
    let Some(text) = joined(headers, field) else { return Ok(Vec::new()) };
    let list = Parser::new(&text).parse::<List>().map_err(|_| Unknown::Unreadable)?;
    if list.len() > GROUPS_MAX {
        return Err(Unknown::TooMany);
    }
    // Parameters mean nothing that is known (section 2).
    let name = |entry: &ListEntry| match entry {
        ListEntry::Item(item) => item.bare_item.as_string().map(|name| name.as_str().to_owned()),
        ListEntry::InnerList(_) => None,
    };
    let mut names = list.iter().map(name).collect::<Option<Vec<String>>>().ok_or(Unknown::Unreadable)?;
    if names.iter().any(|name| name.len() > GROUP_CHARS_MAX) {
        return Err(Unknown::TooLong);
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Whether a response can't be stored for its groups.
#[must_use]
pub fn refuse(response: &HeaderMap) -> Option<Refusal> {
    match names(response, &CACHE_GROUPS) {
        Ok(_) => None,
        Err(Unknown::TooMany) => Some(Refusal::TooManyTags),
        Err(Unknown::Unreadable | Unknown::TooLong) => Some(Refusal::BadTag),
    }
}

/// Returns the tags of the groups that a response of this URL belongs to, if it belongs to any.
#[must_use]
pub fn tags(url: &str, response: &HeaderMap) -> Vec<Tag> {
    let names = names(response, &CACHE_GROUPS).unwrap_or_default();
    let mut tags: Vec<Tag> = names.iter().map(|name| Tag::group(origin(url), name)).collect();
    if !tags.is_empty() {
        tags.push(Tag::groups(origin(url)));
    }
    tags
}

/// Returns the tags of what a response to an unsafe method of this URL invalidates.
#[must_use]
pub fn invalidated(url: &str, response: &HeaderMap) -> Vec<Tag> {
    match names(response, &CACHE_GROUP_INVALIDATION) {
        Ok(names) => names.iter().map(|name| Tag::group(origin(url), name)).collect(),
        // Which of them is meant isn't known.
        Err(_) => vec![Tag::groups(origin(url))],
    }
}

/// Returns the origin of a URL in its normal form (RFC 9110, section 4.3.1): all before its path.
fn origin(url: &str) -> &str {
    let begins = url.find("://").map_or(0, |at| at + 3);
    let ends = url[begins..].find('/').map_or(url.len(), |at| begins + at);
    &url[..ends]
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const URL: &str = "https://shop.example/a?b";

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), HeaderValue::from_str(line).unwrap())).collect()
    }

    fn of(lines: &[&str]) -> Vec<Tag> {
        tags(URL, &headers(&CACHE_GROUPS, lines))
    }

    fn group(name: &str) -> Tag {
        Tag::group("https://shop.example", name)
    }

    fn list(count: usize, chars: usize) -> String {
        let names: Vec<String> = (0..count).map(|number| format!("\"{number:0>chars$}\"")).collect();
        names.join(", ")
    }

    /// Rows of sentences of RFC 9875.
    #[test]
    fn what_a_response_belongs_to() {
        let all = Tag::groups("https://shop.example");
        for (lines, wanted) in [
            (&[][..], &[][..]),
            // 2: "The Cache-Groups HTTP response header field is a List of Strings".
            (&["\"scripts\""], &["scripts"]),
            // 2: "The ordering of members is not significant."
            (&["\"b\", \"a\""], &["a", "b"]),
            (&["\"a\"", "\"b\""], &["a", "b"]),
            (&["\"a\", \"a\""], &["a"]),
            // 2: "Unrecognised Parameters are to be ignored."
            (&["\"a\";x=1"], &["a"]),
            (&[""], &[]),
            // 2.1: "when compared character-by-character (case sensitive)".
            (&["\"A\", \"a\""], &["A", "a"]),
            (&["\"\""], &[""]),
        ] {
            let mut wanted: Vec<Tag> = wanted.iter().map(|name| group(name)).collect();
            if !wanted.is_empty() {
                wanted.push(all);
            }
            assert_eq!(of(lines), wanted, "{lines:?}");
            assert_eq!(refuse(&headers(&CACHE_GROUPS, lines)), None, "{lines:?}");
        }
    }

    /// 2: "Implementations MUST support at least 32 groups in a field value, with up to at least 32 characters in each
    /// member."
    #[test]
    fn what_is_beyond_the_limits_is_not_stored() {
        let refused = |line: &str| refuse(&headers(&CACHE_GROUPS, &[line]));
        for (line, wanted) in [
            (list(32, 32), None),
            (list(GROUPS_MAX, GROUP_CHARS_MAX), None),
            (list(GROUPS_MAX + 1, 2), Some(Refusal::TooManyTags)),
            (list(1, GROUP_CHARS_MAX + 1), Some(Refusal::BadTag)),
            ("scripts".to_owned(), Some(Refusal::BadTag)),
            ("\"a\", (\"b\")".to_owned(), Some(Refusal::BadTag)),
            ("\"a\", 1".to_owned(), Some(Refusal::BadTag)),
            ("\"a".to_owned(), Some(Refusal::BadTag)),
            ("\"a\",".to_owned(), Some(Refusal::BadTag)),
        ] {
            assert_eq!(refused(&line), wanted, "{line}");
            assert_eq!(of(&[&line]).is_empty(), wanted.is_some(), "{line}");
        }
    }

    #[test]
    fn what_an_unsafe_method_invalidates() {
        let invalidated = |line: &str| super::invalidated(URL, &headers(&CACHE_GROUP_INVALIDATION, &[line]));
        let all = vec![Tag::groups("https://shop.example")];
        // 3: "Each member of the List is a value that identifies a group that the response invalidates".
        assert_eq!(invalidated("\"b\", \"a\""), [group("a"), group("b")]);
        assert_eq!(invalidated(&list(32, 32)).len(), 32);
        for line in [list(GROUPS_MAX + 1, 2), list(1, GROUP_CHARS_MAX + 1), "a".to_owned(), "\"a\", b".to_owned()] {
            assert_eq!(invalidated(&line), all, "{line}");
        }
        assert!(super::invalidated(URL, &HeaderMap::new()).is_empty());
        let own = headers(&CACHE_GROUPS, &["\"a\""]);
        assert!(super::invalidated(URL, &own).is_empty(), "what it belongs to isn't changed by it");
    }

    /// 2.1: "They both share the same URI origin".
    #[test]
    fn groups_of_different_origins_and_tags_of_the_same_name_never_meet() {
        let at = |url: &str| tags(url, &headers(&CACHE_GROUPS, &["\"a\""]));
        let urls =
            ["https://a.example/", "http://a.example/", "https://a.example:444/", "https://b.example/", "https://a/"];
        for (number, url) in urls.iter().enumerate() {
            assert!(urls[..number].iter().all(|other| at(other).iter().all(|tag| !at(url).contains(tag))), "{url}");
        }
        assert_eq!(at("https://a.example/x?y"), at("https://a.example/"));
        for tag in at("https://a.example/") {
            assert!(
                ![Tag::named(b"a"), Tag::url("https://a.example/"), Tag::named(b"https://a.example\0a")].contains(&tag)
            );
        }
    }
}
