//! Tags: what an entry can be purged by. URL and key are tags as well.

use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};

use super::key::Key;

/// A tag by its digest: 16 bytes, whatever its text. Should two texts meet, a purge takes one entry too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tag([u8; 16]);

impl Tag {
    /// The tag of a response's URL.
    #[must_use]
    pub fn url(url: &str) -> Self {
        Self::digest(b"url", url.as_bytes())
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
    fn kinds_of_tags_are_apart() {
        let tags = [Tag::url("x"), Tag::named(b"x"), Tag::search("x"), Tag::groups("x"), Tag::group("x", "")];
        assert!((1..tags.len()).all(|at| !tags[..at].contains(&tags[at])));
        assert_ne!(Tag::group("a", "b"), Tag::group("ab", ""));
        assert_eq!(Tag::search("http://a/b?c?d"), Tag::search("http://a/b"));
    }
}
