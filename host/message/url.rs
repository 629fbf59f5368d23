//! URLs that could be requested of this node, in all spellings, and the one form in which they are purged.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use idna::AsciiDenyList;
use thiserror::Error;

use super::{
    authority,
    scheme::Scheme,
    target::{self, TargetInvalid},
};

/// Why a text is no URL that could be requested of this node.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum UrlInvalid {
    /// Pasted with too much, or damaged.
    #[error("it has white space at an end, or a control character in it")]
    Unprintable,
    /// A path, say.
    #[error("it isn't absolute")]
    Relative,
    /// Another scheme.
    #[error("its scheme is neither `http` nor `https`")]
    Scheme,
    /// Requests have none.
    #[error("it has a user name")]
    UserInfo,
    /// No authority, or none that a request could name.
    #[error("it has no host that a request could name, with an optional port")]
    Host,
    /// The path.
    #[error(transparent)]
    Target(#[from] TargetInvalid),
}

/// An absolute URL: scheme, authority and path in their normal forms, the query as it came, no fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url<'a> {
    /// The scheme.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: String,
    /// The path.
    pub path: Cow<'a, str>,
    /// The query.
    pub query: Option<&'a str>,
}

impl<'a> Url<'a> {
    /// Reads a URL as people and programs write them: in any case, with the scheme's own port, with what is outside
    /// ASCII in its host (RFC 5891) or path, without a path.
    ///
    /// # Errors
    /// [`UrlInvalid`].
    pub fn parse(text: &'a str) -> Result<Self, UrlInvalid> {
        if text.trim() != text || text.contains(char::is_control) {
            return Err(UrlInvalid::Unprintable);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlInvalid::Relative)?;
        let scheme = match scheme {
            scheme if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
            scheme if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
            scheme if is_scheme(scheme) => return Err(UrlInvalid::Scheme),
            _ => return Err(UrlInvalid::Relative),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (named, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if named.contains('@') {
            return Err(UrlInvalid::UserInfo);
        }
        let authority = authority_of(named, scheme).ok_or(UrlInvalid::Host)?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let path = if path.is_empty() { Cow::Borrowed("/") } else { target::normal_path(path)? };
        Ok(Self { scheme, authority, path, query })
    }

    /// Returns the normal form, by which it is purged.
    #[must_use]
    pub fn normal(&self) -> String {
        spelled(self.scheme, &self.authority, &self.path, self.query)
    }
}

/// Whether a text is a scheme (RFC 3986, section 3.1).
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Returns the URL, in its normal form, that a reference in the response to a request names (RFC 3986, section 5.2), if
/// its scheme and authority are those of the request. `None` for any other origin, and for what is no reference.
#[must_use]
pub fn of_same_origin(scheme: Scheme, authority: &str, target: &PathAndQuery, reference: &str) -> Option<String> {
    let path = target.path();
    let origin = format!("{}://{authority}", scheme.as_str());
    let folder = || path.rfind('/').map_or("", |at| &path[..=at]);
    let absolute = match reference.as_bytes() {
        [] | [b'#', ..] => return Some(spelled(scheme, authority, path, target.query())),
        [b'/', b'/', ..] => format!("{}:{reference}", scheme.as_str()),
        [b'/', ..] => format!("{origin}{reference}"),
        [b'?', ..] => format!("{origin}{path}{reference}"),
        _ if Url::parse(reference) != Err(UrlInvalid::Relative) => reference.to_owned(),
        // A scheme without an authority, such as `mailto:`.
        _ if reference.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':')) => return None,
        _ => format!("{origin}{}{reference}", folder()),
    };
    let url = Url::parse(&absolute).ok()?;
    (url.scheme == scheme && url.authority == authority).then(|| url.normal())
}

/// Returns the authority as requests name it: in ASCII.
fn authority_of(named: &str, scheme: Scheme) -> Option<String> {
    let ascii = if named.is_ascii() {
        Cow::Borrowed(named)
    } else {
        let (host, port) = named.rsplit_once(':').map_or((named, None), |(host, port)| (host, Some(port)));
        let host = idna::domain_to_ascii_cow(host.as_bytes(), AsciiDenyList::URL).ok()?;
        Cow::Owned(port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}")))
    };
    let normal = authority::normal(ascii.as_bytes(), scheme)?;
    String::from_utf8(normal.into_owned()).ok()
}

/// Returns a URL from its parts, the query brought into its normal form.
pub(super) fn spelled(scheme: Scheme, authority: &str, path: &str, query: Option<&str>) -> String {
    let (scheme, query) = (scheme.as_str(), query.map(target::normal_query));
    match query {
        Some(query) => format!("{scheme}://{authority}{path}?{query}"),
        None => format!("{scheme}://{authority}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_a_response_are_urls_of_the_same_origin_or_none() {
        let origin = "http://shop.example:81";
        let of = |reference: &str| {
            of_same_origin(Scheme::Http, "shop.example:81", &PathAndQuery::from_static("/a/b/c?d=e"), reference)
        };
        for (reference, wanted) in [
            ("", Some("/a/b/c?d=e")),
            ("#part", Some("/a/b/c?d=e")),
            ("x", Some("/a/b/x")),
            ("./x?y=z", Some("/a/b/x?y=z")),
            ("../x", Some("/a/x")),
            ("../../..", None),
            ("?y", Some("/a/b/c?y")),
            ("/x/%61#part", Some("/x/a")),
            ("x:y", None),
            ("./x:y", Some("/a/b/x:y")),
            ("mailto:a@example.org", None),
            ("ftp://example.org/", None),
            ("//elsewhere.example/x", None),
            ("https://example.org/x", None),
            ("/a\tb", None),
        ] {
            let wanted = wanted.map(|target| format!("{origin}{target}"));
            assert_eq!(of(reference), wanted, "{reference}");
        }
        for whole in ["http://shop.example:81/x", "//shop.example:81/x", "HTTP://SHOP.example:81/x"] {
            assert_eq!(of(whole), Some(format!("{origin}/x")), "{whole}");
        }
    }

    #[test]
    fn urls_are_read_in_every_spelling() {
        for (given, wanted) in [
            ("http://example.org", "http://example.org/"),
            ("HTTP://Example.ORG:8080/A?B=c#part", "http://example.org:8080/A?B=c"),
            ("https://example.org:443/", "https://example.org/"),
            ("https://example.org:80/", "https://example.org:80/"),
            ("http://example.org./", "http://example.org/"),
            ("http://example.org?q=1", "http://example.org/?q=1"),
            ("http://example.org#/x", "http://example.org/"),
            ("http://example.org/?", "http://example.org/?"),
            ("https://[2001:DB8:0:0::1]/", "https://[2001:db8::1]/"),
            ("http://bücher.example:81/b%c3%bc", "http://xn--bcher-kva.example:81/b%C3%BC"),
            ("http://BÜCHER.example./bü", "http://xn--bcher-kva.example/b%C3%BC"),
            ("http://a/a b", "http://a/a%20b"),
            ("http://a//x/../%61", "http://a/a"),
            ("http://a/?x={\"a\":1}", "http://a/?x=%7B%22a%22:1%7D"),
            ("http://a/?b=2&a=%7e", "http://a/?b=2&a=~"),
        ] {
            assert_eq!(Url::parse(given).map(|url| url.normal()).as_deref(), Ok(wanted), "{given}");
        }
    }

    #[test]
    fn what_no_request_could_name_is_refused_with_its_reason() {
        for (given, wanted) in [
            ("", UrlInvalid::Relative),
            ("/a", UrlInvalid::Relative),
            ("//example.org/a", UrlInvalid::Relative),
            ("example.org", UrlInvalid::Relative),
            ("/redirect?to=http://a/", UrlInvalid::Relative),
            ("ftp://example.org/", UrlInvalid::Scheme),
            ("mailto://a", UrlInvalid::Scheme),
            ("http://user@example.org/", UrlInvalid::UserInfo),
            ("http://user:word@bücher.example/", UrlInvalid::UserInfo),
            ("http:///a", UrlInvalid::Host),
            ("http://", UrlInvalid::Host),
            ("http://a:99999/", UrlInvalid::Host),
            ("http://a b/", UrlInvalid::Host),
            ("http://a\\b/", UrlInvalid::Host),
            ("http://*.example.org/", UrlInvalid::Host),
            ("http://[::1/", UrlInvalid::Host),
            ("http://b%C3%BC.example/", UrlInvalid::Host),
            (" http://a/", UrlInvalid::Unprintable),
            ("http://a/\n", UrlInvalid::Unprintable),
            ("http://a/\u{7f}b", UrlInvalid::Unprintable),
            ("http://a/../b", UrlInvalid::Target(TargetInvalid::AboveRoot)),
        ] {
            assert_eq!(Url::parse(given).map(|url| url.normal()), Err(wanted), "{given}");
        }
    }
}
