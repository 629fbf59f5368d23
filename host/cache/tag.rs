//! Tags: what an entry can be purged by. URL and key are tags as well.

use std::{ops::Deref, sync::Arc};

use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::key::Key;
use crate::message::{
    pattern::Pattern,
    target::{self, PREFIXES_MAX},
};

/// Tags of a URL that are listed without an allocation.
const TAGS_USUAL: usize = 6;

/// What stands for a URL that is asked for: its tag, and, if they are wanted, that of each prefix of its path and its
/// text, which patterns are compared with.
#[derive(Clone, Debug, Default)]
pub struct UrlTags {
    tags: SmallVec<[Tag; TAGS_USUAL]>,
    text: Option<Box<str>>,
}

impl UrlTags {
    /// Returns the URL, if it was wanted.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

impl Deref for UrlTags {
    type Target = [Tag];

    fn deref(&self) -> &[Tag] {
        &self.tags
    }
}

impl IntoIterator for UrlTags {
    type Item = Tag;
    type IntoIter = smallvec::IntoIter<[Tag; TAGS_USUAL]>;

    fn into_iter(self) -> Self::IntoIter {
        self.tags.into_iter()
    }
}

/// The URLs that a response is for, in their normal form, as far as they are known. A policy may let further ones share
/// it; requests are checked by their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Urls {
    /// Not known: a version that didn't write it down has stored the response.
    #[default]
    Unknown,
    /// This one.
    One(Arc<str>),
    /// This one, and its path with other queries (`No-Vary-Search`).
    Queries(Arc<str>),
}

impl Urls {
    /// Returns the one URL.
    #[must_use]
    pub fn one(url: &str) -> Self {
        Self::One(url.into())
    }

    /// Returns the URL that it was fetched for, if that is known.
    #[must_use]
    pub fn fetched(&self) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::One(url) | Self::Queries(url) => Some(url),
        }
    }
}

/// A tag by its digest: 16 bytes, whatever its text. Should two texts meet, a purge takes one entry too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tag([u8; 16]);

impl Tag {
    /// The tag of a response's URL.
    #[must_use]
    pub fn url(url: &str) -> Self {
        Self::digest(b"url", url.as_bytes())
    }

    /// The tag of the URLs at or below a prefix, which is one without a query, in its normal form. `None` if the prefix
    /// has more segments than a stored response has tags for.
    #[must_use]
    pub fn prefix(prefix: &str) -> Option<Self> {
        let (base, path) = divided(prefix);
        // Beyond the limit they are cut off, and the last one would be that of a shorter prefix.
        if depth(path) < PREFIXES_MAX { prefixes(base, path).last() } else { None }
    }

    /// The tag of a pattern. Nothing that is stored carries it: it stands for the pattern where a tag is wanted.
    #[must_use]
    pub fn pattern(pattern: &Pattern) -> Self {
        Self::digest(b"pattern", pattern.as_str().as_bytes())
    }

    /// The tag of the longest prefix that all URLs which a pattern matches have in common. What is stored for one of
    /// them carries it.
    #[must_use]
    pub fn above(pattern: &Pattern) -> Self {
        let beginning = pattern.beginning();
        let (base, path) = divided(beginning);
        // Without the query's beginning the path is whole; else its last segment may go on behind the `*`.
        let end = if beginning.contains('?') { path.len() } else { path.rfind('/').map_or(0, |at| at + 1) };
        let deepest = prefixes(base, &path[..end]).last();
        deepest.unwrap_or_else(|| Self::digest(b"prefix", base.as_bytes()))
    }

    /// The tag of a response's key.
    #[must_use]
    pub fn key(key: &Key) -> Self {
        Self::digest(b"key", key.as_bytes())
    }

    /// A tag that the origin named, case-sensitive.
    #[must_use]
    pub fn named(name: &[u8]) -> Self {
        Self::digest(b"tag", name)
    }

    /// The tag of a group that an origin names (RFC 9875); `origin` is its scheme, host and port, as URLs have them.
    #[must_use]
    pub fn group(origin: &str, name: &str) -> Self {
        Self::digest(b"group", &[origin.as_bytes(), b"\0", name.as_bytes()].concat())
    }

    /// The tag of all responses of an origin that belong to any group.
    #[must_use]
    pub fn groups(origin: &str) -> Self {
        Self::digest(b"groups", origin.as_bytes())
    }

    /// The tag of all responses for the path of a URL that are served for several queries (`No-Vary-Search`).
    #[must_use]
    pub fn search(url: &str) -> Self {
        Self::digest(b"search", without_query(url).as_bytes())
    }

    /// The tag with these bytes, from a log.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The tag's bytes, for a log.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    fn digest(kind: &[u8], text: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(kind).update(b"\0").update(text);
        let mut tag = [0; 16];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(tag)
    }
}

/// A URL without its query.
#[must_use]
pub fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(path, _)| path)
}

/// Returns what stands for a URL in its normal form; the tags of its prefixes and its text only if it `is_whole`.
#[must_use]
pub fn of_url(url: &str, is_whole: bool) -> UrlTags {
    let mut tags: SmallVec<[Tag; TAGS_USUAL]> = SmallVec::new();
    tags.push(Tag::url(url));
    if is_whole {
        let (base, path) = divided(url);
        tags.extend(prefixes(base, path));
    }
    UrlTags { tags, text: is_whole.then(|| url.into()) }
}

/// Divides a URL into its scheme and authority, and its path. The query is left out.
fn divided(url: &str) -> (&str, &str) {
    let start = url.find("://").map_or(0, |at| at + "://".len());
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    let (base, target) = url.split_at(end);
    (base, target.split('?').next().unwrap_or_default())
}

/// Returns the tags of the prefixes of a path, the root's first. Each is the digest of the one before and its own segment,
/// so that a long path costs one short hash a segment.
fn prefixes(base: &str, path: &str) -> impl Iterator<Item = Tag> {
    let mut last = Tag::digest(b"prefix", base.as_bytes());
    let mut text: SmallVec<[u8; 128]> = SmallVec::new();
    let further = target::segments(path).map(move |segment| {
        text.clear();
        text.extend_from_slice(&last.0);
        // A symbol is a byte, or an escape that stands for itself.
        segment.for_each(|symbol| text.extend_from_slice(&symbol.to_le_bytes()));
        last = Tag::digest(b"prefix", &text);
        last
    });
    std::iter::once(last).chain(further).take(PREFIXES_MAX)
}

/// Returns how many segments a path has.
fn depth(path: &str) -> usize {
    target::segments(path).count()
}

/// The tags that a response names, each once.
#[must_use]
pub fn named(response: &HeaderMap, headers: &[HeaderName]) -> Vec<Tag> {
    let mut tags: Vec<Tag> = names(response, headers).map(Tag::named).collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// The same as text: `Surrogate-Key` separates by white space, `Cache-Tag` by commas, the route's own `headers` by
/// either.
pub fn names<'r>(response: &'r HeaderMap, headers: &'r [HeaderName]) -> impl Iterator<Item = &'r [u8]> {
    let space: fn(&u8) -> bool = u8::is_ascii_whitespace;
    let comma: fn(&u8) -> bool = |byte| *byte == b',';
    let either: fn(&u8) -> bool = |byte| *byte == b',' || byte.is_ascii_whitespace();
    let rules = [(HeaderName::from_static("surrogate-key"), space), (HeaderName::from_static("cache-tag"), comma)];
    rules
        .into_iter()
        .chain(headers.iter().map(move |name| (name.clone(), either)))
        .flat_map(|(name, border)| response.get_all(name).into_iter().map(move |value| (value, border)))
        .flat_map(|(value, border)| value.as_bytes().split(border))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tags_are_read_as_their_header_separates_them() {
        let mut headers = HeaderMap::new();
        headers.append("surrogate-key", HeaderValue::from_static("a b  a"));
        headers.append("cache-tag", HeaderValue::from_static("two words, c,"));
        headers.append("x-tags", HeaderValue::from_static("d,e f"));
        let tags = named(&headers, &[HeaderName::from_static("x-tags")]);
        let wanted = ["a", "b", "two words", "c", "d", "e", "f"].map(|name| Tag::named(name.as_bytes()));
        assert_eq!(tags.len(), wanted.len());
        assert!(wanted.iter().all(|tag| tags.contains(tag)));
    }

    #[test]
    fn a_prefix_is_a_tag_of_all_that_is_at_or_below_it() {
        for (prefix, url, wanted) in [
            ("http://a/", "http://a/", true),
            ("http://a/", "http://a/x/y?z", true),
            ("http://a", "http://a/x", true),
            ("http://a/x", "http://a/x", true),
            ("http://a/x", "http://a/x?y", true),
            ("http://a/x", "http://a/x/", true),
            ("http://a/x/", "http://a/x", true),
            ("http://a/x", "http://a/x/y/z", true),
            ("http://a/x", "http://a/x;v=1/y", true),
            ("http://a/x;v=1", "http://a/x;v=1/y", true),
            ("http://a/x;v=1", "http://a/x/y", false),
            ("http://a/@me", "http://a/%40me/x", true),
            ("http://a/x", "http://a/xy", false),
            ("http://a/x/y", "http://a/x", false),
            ("http://a/x/y", "http://a/x%2Fy", false),
            ("http://a/x%2Fy", "http://a/x%2Fy/z", true),
            ("http://a/y", "http://a/x/y", false),
            ("http://a/x", "https://a/x", false),
            ("http://a/x", "http://a:81/x", false),
            ("http://a/x", "http://b/x", false),
        ] {
            let tag = Tag::prefix(prefix).unwrap();
            assert_eq!(of_url(url, true).contains(&tag), wanted, "{prefix} of {url}");
            assert!(!of_url(url, false).contains(&tag), "{url}");
        }
    }

    #[test]
    fn a_prefix_of_more_segments_than_there_are_tags_for_is_none() {
        let path = |segments: usize| format!("http://a{}", "/x".repeat(segments));
        let deep = path(40);
        for segments in 0..40 {
            let tag = Tag::prefix(&path(segments));
            assert_eq!(tag.is_some(), segments < PREFIXES_MAX, "{segments}");
            assert!(tag.is_none_or(|tag| of_url(&deep, true).contains(&tag)), "{segments}");
        }
        assert_eq!(of_url(&deep, true).len(), 1 + PREFIXES_MAX);
    }

    #[test]
    fn whatever_a_pattern_matches_has_the_tag_of_what_is_above_it() {
        let deep = |segments: usize| format!("http://a{}/y", "/x".repeat(segments));
        for (pattern, above, url) in [
            ("http://a/*", "http://a/", "http://a/x/y"),
            ("http://a/x*", "http://a/", "http://a/xy/z"),
            ("http://a/x/*.json", "http://a/x", "http://a/x/y/1.json"),
            ("http://a/x/y?*", "http://a/x/y", "http://a/x/y?z"),
            ("http://a/x;v=1/*", "http://a/x;v=1", "http://a/x;v=1/y"),
            ("http://a/x;v*", "http://a/", "http://a/x;v=1/y"),
            ("http://a/%2Fx/*", "http://a/%2Fx", "http://a/%2Fx/y"),
            ("http://a/x?/*", "http://a/x", "http://a/x?/y"),
            (deep(30).replace("/y", "/*").as_str(), deep(15).trim_end_matches("/y"), deep(30).as_str()),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            let tag = Tag::above(&pattern);
            assert_eq!(Some(tag), Tag::prefix(above), "{pattern}");
            let asked = of_url(url, true);
            assert!(pattern.matches(url) && asked.contains(&tag), "{pattern} of {url}");
            assert_eq!((asked.text(), of_url(url, false).text().is_none()), (Some(url), true));
        }
    }

    #[test]
    fn kinds_of_tags_are_apart() {
        let pattern = Tag::pattern(&Pattern::parse("http://a/*").unwrap());
        assert_ne!(pattern, Tag::url("http://a/*"));
        let tags = [Tag::url("x"), Tag::named(b"x"), Tag::search("x"), Tag::groups("x"), Tag::group("x", "")];
        assert!((1..tags.len()).all(|at| !tags[..at].contains(&tags[at])));
        assert_ne!(Tag::group("a", "b"), Tag::group("ab", ""));
        assert_eq!(Tag::search("http://a/b?c?d"), Tag::search("http://a/b"));
        assert_ne!(Some(Tag::url("http://a/")), Tag::prefix("http://a/"));
    }
}
