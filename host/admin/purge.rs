//! A purge: its scope, its JSON, and why it may be refused.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use thiserror::Error;

use crate::message::{
    pattern::{PATTERN_BYTES_MAX, Pattern, PatternInvalid, STARS_MAX},
    tag::{self, GROUP_CHARS_MAX, NAME_BYTES_MAX},
    target::{self, PREFIXES_MAX},
    url::{Url, UrlInvalid},
};

/// Characters of the input that a refusal repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// What to purge, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// The entries that are meant.
    pub scope: Scope,
    /// Whether they are marked stale instead of removed.
    pub soft: bool,
    /// For which nodes: the widest that the node is configured for, if nothing is said.
    pub extent: Option<Extent>,
}

/// The nodes that a purge is for: the member `scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// The node that is asked.
    Node,
    /// The nodes of its region.
    Region,
    /// The nodes of all regions.
    World,
}

impl Extent {
    /// Returns the extent of this name; `None` if there is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "node" => Some(Self::Node),
            "region" => Some(Self::Region),
            "world" => Some(Self::World),
            _ => None,
        }
    }
}

/// The entries that a purge means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All variants of one URL, in its [normal form](Url::normal).
    Url(String),
    /// One cache key.
    Key([u8; 32]),
    /// All that carry a tag.
    Tag(String),
    /// All URLs at or below one, which has no query, in its [normal form](Url::normal).
    Prefix(String),
    /// All URLs that match.
    Pattern(Pattern),
    /// All that belong to a cache group (RFC 9875).
    Group {
        /// The scheme, host and port that the group is of, in their normal form.
        origin: String,
        /// Its name.
        name: String,
    },
}

/// Why nothing was purged.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PurgeFailure {
    /// It failed, for this reason.
    #[error("{0}")]
    Failed(String),
    /// The node isn't configured for what was asked, and what is allowed.
    #[error("{0}")]
    Scope(String),
}

/// Why a request isn't a purge, and what is allowed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PurgeInvalid {
    /// The body isn't the JSON object that is expected.
    #[error(
        "the body is not a purge: {0}; allowed is an object with exactly one of \"url\", \"prefix\", \"pattern\", \
         \"key\", \"tag\" and \"group\" (which has an \"origin\" beside it), and optionally \"soft\": true or false and \
         \"scope\": \"node\", \"region\" or \"world\""
    )]
    Body(String),
    /// Not exactly one scope.
    #[error(
        "{found} of \"url\", \"prefix\", \"pattern\", \"key\", \"tag\" and \"group\" are given; exactly one is allowed"
    )]
    Scopes {
        /// How many there are.
        found: usize,
    },
    /// Not a URL that this node could have served.
    #[error(
        "`{given}` is not a URL that can be purged: {reason}; allowed is http:// or https:// with a host, and no user name"
    )]
    Url {
        /// Its beginning.
        given: String,
        /// What is wrong with it.
        reason: UrlInvalid,
    },
    /// Not a prefix by which stored responses can be found.
    #[error(
        "`{given}` is not a prefix that can be purged: {reason}; allowed is a URL of fewer than {max} segments, without a \
         query, that may end with /*",
        max = PREFIXES_MAX
    )]
    Prefix {
        /// Its beginning.
        given: String,
        /// What is wrong with it.
        reason: PrefixInvalid,
    },
    /// Not a pattern of URLs.
    #[error(
        "`{given}` is not a pattern that can be purged: {reason}; allowed is a URL of at most {bytes} bytes, with 1 to \
         {stars} `*` in its path or query, each of which stands for any text, `/` and `?` included",
        bytes = PATTERN_BYTES_MAX,
        stars = STARS_MAX
    )]
    Pattern {
        /// Its beginning.
        given: String,
        /// What is wrong with it.
        reason: PatternInvalid,
    },
    /// Not a cache key.
    #[error("`{0}` is not a cache key; allowed are 64 hex digits, as the access log shows them")]
    Key(String),
    /// Not a tag.
    #[error(
        "a tag of {bytes} bytes is not allowed; it has 1 to {max} bytes, no control characters but tabs, and no white \
         space at its ends",
        max = NAME_BYTES_MAX
    )]
    Tag {
        /// Its length.
        bytes: usize,
    },
    /// Not a cache group.
    #[error(
        "a cache group of {chars} characters is not allowed; it has at most {max}, all of them printable ASCII, and its case \
         counts",
        max = GROUP_CHARS_MAX
    )]
    Group {
        /// Its length.
        chars: usize,
    },
    /// Not the origin of a cache group.
    #[error(
        "`{given}` is not the origin of a cache group: {reason}; allowed beside \"group\", and only there, is \"origin\": \
         http:// or https:// with a host, without a path"
    )]
    Origin {
        /// Its beginning.
        given: String,
        /// What is wrong with it.
        reason: OriginInvalid,
    },
}

/// What is wrong with the origin of a cache group.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OriginInvalid {
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlInvalid),
    /// It has a path, a query or a fragment: a group is of all of its origin.
    #[error("it has more than a scheme, a host and a port")]
    Longer,
    /// There is none, or none is allowed.
    #[error("a group has an origin, and nothing else has")]
    Misplaced,
}

/// What is wrong with a prefix.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PrefixInvalid {
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlInvalid),
    /// A pattern that would take a search through all that is stored.
    #[error(
        "a `*` stands only for all that follows a `/`, at the end (a path's own `*` is written %2A; \"pattern\" takes it \
         anywhere)"
    )]
    Pattern,
    /// It has a query.
    #[error("it has a query")]
    Query,
    /// It has too many segments.
    #[error("it has too many segments")]
    TooDeep,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    url: Option<String>,
    prefix: Option<String>,
    pattern: Option<String>,
    key: Option<String>,
    tag: Option<String>,
    group: Option<String>,
    origin: Option<String>,
    #[serde(default)]
    soft: bool,
    scope: Option<Extent>,
}

impl Purge {
    /// Reads the JSON body of a purge.
    ///
    /// # Errors
    /// [`PurgeInvalid`] says what is allowed.
    pub fn parse(body: &[u8]) -> Result<Self, PurgeInvalid> {
        let raw: Raw = object(body).map_err(PurgeInvalid::Body)?;
        if let (None, Some(origin)) = (&raw.group, &raw.origin) {
            return Err(misplaced(origin));
        }
        let scope = match (&raw.url, &raw.prefix, &raw.pattern, &raw.key, &raw.tag, &raw.group) {
            (Some(url), None, None, None, None, None) => Scope::url(url)?,
            (None, Some(prefix), None, None, None, None) => Scope::prefix(prefix)?,
            (None, None, Some(pattern), None, None, None) => Scope::pattern(pattern)?,
            (None, None, None, Some(key), None, None) => Scope::key(key)?,
            (None, None, None, None, Some(tag), None) => Scope::tag(tag)?,
            (None, None, None, None, None, Some(name)) => {
                Scope::group(name, raw.origin.as_deref().ok_or_else(|| misplaced(""))?)?
            }
            (url, prefix, pattern, key, tag, group) => {
                let found = [url, prefix, pattern, key, tag, group].into_iter().flatten().count();
                return Err(PurgeInvalid::Scopes { found });
            }
        };
        Ok(Self { scope, soft: raw.soft, extent: raw.scope })
    }

    /// Returns the JSON that [`Purge::parse`] reads.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut purge = match &self.scope {
            Scope::Url(url) => json!({"url": url}),
            Scope::Prefix(prefix) => json!({"prefix": prefix}),
            Scope::Pattern(pattern) => json!({"pattern": pattern.as_str()}),
            Scope::Key(key) => json!({"key": hex(key)}),
            Scope::Tag(tag) => json!({"tag": tag}),
            Scope::Group { origin, name } => json!({"group": name, "origin": origin}),
        };
        purge["soft"] = self.soft.into();
        if let Some(extent) = self.extent {
            purge["scope"] = json!(extent);
        }
        purge
    }
}

impl Scope {
    /// Returns the scope of a URL in any spelling.
    ///
    /// # Errors
    /// [`PurgeInvalid::Url`]
    pub fn url(text: &str) -> Result<Self, PurgeInvalid> {
        match Url::parse(text) {
            Ok(url) => Ok(Self::Url(url.normal())),
            Err(reason) => Err(PurgeInvalid::Url { given: shortened(text), reason }),
        }
    }

    /// Returns the scope of all URLs at or below one in any spelling, which may end with `/*`.
    ///
    /// # Errors
    /// [`PurgeInvalid::Prefix`]
    pub fn prefix(text: &str) -> Result<Self, PurgeInvalid> {
        prefix(text).map(Self::Prefix).map_err(|reason| PurgeInvalid::Prefix { given: shortened(text), reason })
    }

    /// Returns the scope of all URLs that match a pattern, which is in any spelling.
    ///
    /// # Errors
    /// [`PurgeInvalid::Pattern`]
    pub fn pattern(text: &str) -> Result<Self, PurgeInvalid> {
        let invalid = |reason| PurgeInvalid::Pattern { given: shortened(text), reason };
        Pattern::parse(text).map(Self::Pattern).map_err(invalid)
    }

    /// Returns the scope of a key in hex.
    ///
    /// # Errors
    /// [`PurgeInvalid::Key`]
    pub fn key(text: &str) -> Result<Self, PurgeInvalid> {
        unhex(text).map(Self::Key).ok_or_else(|| PurgeInvalid::Key(shortened(text)))
    }

    /// Returns the scope of a tag, as an origin or a policy gave it.
    ///
    /// # Errors
    /// [`PurgeInvalid::Tag`]
    pub fn tag(text: &str) -> Result<Self, PurgeInvalid> {
        if tag::is_nameable(text.as_bytes()) {
            Ok(Self::Tag(text.to_owned()))
        } else {
            Err(PurgeInvalid::Tag { bytes: text.len() })
        }
    }

    /// Returns the scope of a cache group, whose origin is a URL in any spelling, without a path.
    ///
    /// # Errors
    /// [`PurgeInvalid::Group`], [`PurgeInvalid::Origin`]
    pub fn group(name: &str, origin: &str) -> Result<Self, PurgeInvalid> {
        if !tag::is_group(name) {
            return Err(PurgeInvalid::Group { chars: name.chars().count() });
        }
        match origin_of(origin) {
            Ok(origin) => Ok(Self::Group { origin, name: name.to_owned() }),
            Err(reason) => Err(PurgeInvalid::Origin { given: shortened(origin), reason }),
        }
    }
}

fn misplaced(origin: &str) -> PurgeInvalid {
    PurgeInvalid::Origin { given: shortened(origin), reason: OriginInvalid::Misplaced }
}

fn origin_of(text: &str) -> Result<String, OriginInvalid> {
    let url = Url::parse(text)?;
    let is_alone = url.path == "/" && url.query.is_none() && !text.contains('#');
    if is_alone { Ok(format!("{}://{}", url.scheme.as_str(), url.authority)) } else { Err(OriginInvalid::Longer) }
}

fn prefix(text: &str) -> Result<String, PrefixInvalid> {
    let below = text.strip_suffix("/*").unwrap_or(text);
    if below.contains('*') {
        return Err(PrefixInvalid::Pattern);
    }
    let url = Url::parse(below)?;
    if url.query.is_some() {
        return Err(PrefixInvalid::Query);
    }
    if target::segments(&url.path).count() >= PREFIXES_MAX {
        return Err(PrefixInvalid::TooDeep);
    }
    Ok(url.normal())
}

/// Reads the members of a JSON object.
///
/// # Errors
/// What is wrong with it.
pub(super) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    // The decoder would take the members in an array, too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("it is not an object".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

fn hex(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 2 * key.len() {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (char::from(pair[0]).to_digit(16)?, char::from(pair[1]).to_digit(16)?);
        // Two hex digits fit into a byte.
        *byte = (high * 16 + low) as u8;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exactly_one_scope_and_soft_are_read() {
        let key = "0F".repeat(32);
        for (body, scope, soft) in [
            (r#"{"url":"https://example.org/a?b"}"#.to_owned(), Scope::Url("https://example.org/a?b".into()), false),
            (format!(r#"{{"key":"{key}","soft":true}}"#), Scope::Key([15; 32]), true),
            (r#"{"soft":false,"tag":"news"}"#.to_owned(), Scope::Tag("news".into()), false),
            (r#"{"url":null,"tag":"news"}"#.to_owned(), Scope::Tag("news".into()), false),
        ] {
            assert_eq!(Purge::parse(body.as_bytes()), Ok(Purge { scope, soft, extent: None }), "{body}");
        }
    }

    #[test]
    fn whom_a_purge_is_for_may_be_said() {
        for (word, extent) in [("node", Extent::Node), ("region", Extent::Region), ("world", Extent::World)] {
            let body = format!(r#"{{"tag":"a","scope":"{word}"}}"#);
            assert_eq!(Purge::parse(body.as_bytes()).map(|purge| purge.extent), Ok(Some(extent)), "{word}");
            assert_eq!(Extent::named(word), Some(extent));
        }
        assert_eq!(Extent::named("galaxy"), None);
    }

    #[test]
    fn anything_else_is_refused_with_what_is_allowed() {
        for (body, said) in [
            ("", "the body is not a purge"),
            ("[null,null,\"a\",true]", "it is not an object"),
            (r#"{"tag":"a"} {}"#, "the body is not a purge"),
            (r#"{"tag":"a","glob":"/"}"#, "unknown field `glob`"),
            (r#"{"tag":"a","pattern":"http://a/*"}"#, "2 of"),
            (r#"{"pattern":"http://a/b"}"#, "one URL is purged by \"url\" (`--url`)"),
            (r#"{"pattern":"/a/*"}"#, "it isn't absolute"),
            (r#"{"pattern":"http://*.example/b"}"#, "are to be given in full"),
            (r#"{"pattern":"http://a/*/../b"}"#, "behind a `*` it has an empty segment or one of dots"),
            (r#"{"pattern":"http://a/*#b"}"#, "allowed is a URL of at most 2048 bytes, with 1 to 16 `*`"),
            (r#"{"tag":"a","prefix":"http://a/"}"#, "2 of"),
            (r#"{"prefix":"/a"}"#, "it isn't absolute"),
            (r#"{"prefix":"http://a/b?c"}"#, "it has a query"),
            (r#"{"prefix":"http://a/*/b"}"#, "only for all that follows a `/`, at the end"),
            (r#"{"prefix":"http://a/b*"}"#, "only for all that follows"),
            (r#"{"prefix":"http://*.example/b"}"#, "only for all that follows"),
            (r#"{"prefix":"http://a/*?b=*"}"#, "only for all that follows"),
            (r#"{"prefix":"http://a/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16"}"#, "too many segments"),
            (r#"{"tag":"a","tag":"b"}"#, "duplicate field"),
            (r#"{"tag":"a","soft":"yes"}"#, "expected a boolean"),
            (r#"{"tag":"a","scope":"galaxy"}"#, "expected one of `node`, `region`, `world`"),
            (r#"{"tag":7}"#, "expected a string"),
            ("{}", "0 of"),
            (r#"{"soft":true}"#, "0 of"),
            (r#"{"tag":"a","url":"http://a/"}"#, "2 of"),
            (r#"{"tag":""}"#, "a tag of 0 bytes"),
            (r#"{"tag":"a\nb"}"#, "no control characters"),
            (r#"{"group":"a"}"#, "a group has an origin"),
            (r#"{"origin":"http://a"}"#, "nothing else has"),
            (r#"{"tag":"a","origin":"http://a"}"#, "nothing else has"),
            (r#"{"group":"a","tag":"b","origin":"http://a"}"#, "2 of"),
            (r#"{"group":"a\tb","origin":"http://a"}"#, "a cache group of 3 characters"),
            (r#"{"group":"a","origin":"shop.example"}"#, "it isn't absolute"),
            (r#"{"group":"a","origin":"http://a/b"}"#, "more than a scheme, a host and a port"),
            (r#"{"group":"a","origin":"http://a/?b"}"#, "more than a scheme, a host and a port"),
            (r#"{"group":"a","origin":"http://*.a"}"#, "no host that a request could name"),
            (r#"{"key":"0f"}"#, "64 hex digits"),
            (r#"{"tag":" a"}"#, "no white space at its ends"),
            (r#"{"url":"/a"}"#, "http:// or https://"),
            (r#"{"url":"/a"}"#, "it isn't absolute"),
            (r#"{"url":"ftp://a/"}"#, "its scheme is neither"),
            (r#"{"url":"http://*.example.org/"}"#, "no host that a request could name"),
            (r#"{"url":"http://a/../b"}"#, "above the root"),
        ] {
            let refused = Purge::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(said), "{body} was refused with: {refused}");
        }
    }

    #[test]
    fn urls_take_the_form_that_requests_have() {
        for (given, expected) in [
            ("http://example.org", Some("http://example.org/")),
            ("HTTP://Example.ORG:8080/A?B=c#part", Some("http://example.org:8080/A?B=c")),
            ("https://[2001:DB8::1]/", Some("https://[2001:db8::1]/")),
            ("https://example.org:443/", Some("https://example.org/")),
            ("https://example.org:80/", Some("https://example.org:80/")),
            ("http://example.org?q=1", Some("http://example.org/?q=1")),
            ("http://example.org/?", Some("http://example.org/?")),
            ("ftp://example.org/", None),
            ("http://user@example.org/", None),
            ("example.org", None),
            ("http:///a", None),
            ("http://example.org/a b", Some("http://example.org/a%20b")),
            ("http://Bücher.example./%7e//x/../ü#top", Some("http://xn--bcher-kva.example/~/%C3%BC")),
            ("", None),
        ] {
            let scope = Scope::url(given).ok();
            assert_eq!(scope, expected.map(|url| Scope::Url(url.to_owned())), "{given}");
        }
    }

    #[test]
    fn prefixes_take_the_form_that_urls_have() {
        for (given, expected) in [
            ("http://example.org", "http://example.org/"),
            ("http://example.org/*", "http://example.org/"),
            ("HTTP://Example.ORG:80//A/%62/*", "http://example.org/A/b"),
            ("https://example.org/a/", "https://example.org/a/"),
            ("https://example.org/a%2A", "https://example.org/a%2A"),
        ] {
            assert_eq!(Scope::prefix(given), Ok(Scope::Prefix(expected.to_owned())), "{given}");
        }
    }

    #[test]
    fn origins_of_groups_take_the_form_that_urls_have() {
        for (given, expected) in [
            ("http://example.org", "http://example.org"),
            ("HTTP://Example.ORG.:80/", "http://example.org"),
            ("https://example.org:443", "https://example.org"),
            ("https://example.org:80", "https://example.org:80"),
            ("https://[2001:DB8:0::1]:8443/", "https://[2001:db8::1]:8443"),
            ("https://B\u{fc}cher.example", "https://xn--bcher-kva.example"),
        ] {
            let (origin, name) = (expected.to_owned(), "A b".to_owned());
            assert_eq!(Scope::group("A b", given), Ok(Scope::Group { origin, name }), "{given}");
        }
    }

    #[test]
    fn keys_are_64_hex_digits() {
        for (given, valid) in [
            ("a".repeat(64), true),
            ("A".repeat(64), true),
            ("a".repeat(63), false),
            ("a".repeat(65), false),
            ("g".repeat(64), false),
            ("ä".repeat(32), false),
            (format!("+{}", "a".repeat(63)), false),
        ] {
            assert_eq!(Scope::key(&given).is_ok(), valid, "{given}");
        }
    }

    #[test]
    fn tags_have_a_longest() {
        assert!(Scope::tag(&"x".repeat(NAME_BYTES_MAX)).is_ok());
        let refused = Scope::tag(&"x".repeat(NAME_BYTES_MAX + 1));
        assert_eq!(refused, Err(PurgeInvalid::Tag { bytes: NAME_BYTES_MAX + 1 }));
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_is_read(
            key in any::<[u8; 32]>(),
            soft in any::<bool>(),
            extent in 0..4_usize,
        ) {
            let extent = [None, Some(Extent::Node), Some(Extent::Region), Some(Extent::World)][extent];
            let group = Scope::Group { origin: "https://a:81".to_owned(), name: "\"a\"".to_owned() };
            for scope in [Scope::Key(key), group, Scope::pattern("http://A/b/*?c").unwrap()] {
                let purge = Purge { scope, soft, extent };
                prop_assert_eq!(Purge::parse(purge.to_json().to_string().as_bytes()), Ok(purge));
            }
        }
    }
}
