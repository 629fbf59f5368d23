//! The question what would be done with a request: its JSON, and why it may be refused.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header::HOST, uri::PathAndQuery};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::purge::{object, shortened};
use crate::message::{
    Client, Near, RequestHead, connection,
    target::{self, TargetInvalid},
    url::{Url, UrlInvalid},
};

/// Header fields that a question may have.
const HEADERS_MAX: usize = 256;

/// A request of which a node is to say what it would do with it.
#[derive(Clone, Debug)]
pub struct Why {
    /// Its head.
    pub head: RequestHead,
    /// Its body.
    pub body: Bytes,
}

/// Why a body isn't such a question, and what is allowed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WhyInvalid {
    /// The body isn't the JSON object that is expected.
    #[error(
        "the body is not a request: {0}; allowed is an object with \"url\", and optionally \"method\", \"headers\" (a list \
         of [name, value]), \"body\" (text) and \"client\" (an IP address)"
    )]
    Body(String),
    /// Not a URL that this node could serve.
    #[error("`{given}` is not a URL that could be requested: {reason}; allowed is http:// or https:// with a host")]
    Url {
        /// Its beginning.
        given: String,
        /// What is wrong with it.
        reason: UrlInvalid,
    },
    /// Not a method.
    #[error("`{0}` is not a method; allowed is a token such as GET")]
    Method(String),
    /// Not a header field.
    #[error(
        "`{0}` is not a header field; allowed are a name and a value of visible characters; the host is in the URL"
    )]
    Header(String),
    /// Too many header fields.
    #[error("{0} header fields are given; at most 256 are allowed")]
    Headers(usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    url: String,
    method: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    body: Option<String>,
    client: Option<IpAddr>,
}

impl Why {
    /// Reads the JSON of a question.
    ///
    /// # Errors
    /// [`WhyInvalid`] says what is allowed.
    pub fn parse(body: &[u8]) -> Result<Self, WhyInvalid> {
        let raw: Raw = object(body).map_err(WhyInvalid::Body)?;
        let method = raw.method.as_deref().unwrap_or("GET");
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| WhyInvalid::Method(shortened(method)))?;
        let ip = raw.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let client = Client { ip, version: Version::HTTP_11 };
        let mut headers = fields(&raw.headers)?;
        let has_body = raw.body.as_ref().is_some_and(|body| !body.is_empty());
        let switches = !has_body && connection::is_switch(&method, &headers);
        connection::remove_fields(&mut headers, switches);
        connection::join_cookies(&mut headers);
        let head = head(&raw.url, method, headers, client);
        let head = head.map_err(|reason| WhyInvalid::Url { given: shortened(&raw.url), reason })?;
        Ok(Self { head, body: raw.body.unwrap_or_default().into() })
    }

    /// Returns the JSON that [`Why::parse`] reads. What is wrong with it the node says.
    #[must_use]
    pub fn json(url: &str, method: Option<&str>, headers: &[(String, String)], body: Option<&str>) -> Value {
        json!({"url": url, "method": method, "headers": headers, "body": body})
    }
}

/// Returns the head as a listener would make it.
fn head(text: &str, method: Method, headers: HeaderMap, client: Client) -> Result<RequestHead, UrlInvalid> {
    let url = Url::parse(text)?;
    let authority = HeaderValue::try_from(url.authority.as_str()).map_err(|_| UrlInvalid::Host)?;
    let too_long = UrlInvalid::Target(TargetInvalid::TooLong);
    let query = url.query.map(target::normal_query);
    let normal = match &query {
        Some(query) => format!("{}?{query}", url.path),
        None => url.path.into_owned(),
    };
    // The query as it came, where a request could have it so.
    let received = received(text).and_then(|target| target::normalise(target).ok());
    let (target, received) = match received {
        Some(found) => found,
        None => (PathAndQuery::try_from(normal).map_err(|_| too_long)?, None),
    };
    let near = Near::default();
    Ok(RequestHead { method, scheme: url.scheme, authority, target, received, headers, client, near })
}

/// Returns path and query of a URL as they came, if they could be in a request.
fn received(text: &str) -> Option<PathAndQuery> {
    let (_, rest) = text.split_once("://")?;
    let rest = rest.split('#').next().unwrap_or_default();
    let target = rest.get(rest.find(['/', '?'])?..)?;
    let target = if target.starts_with('?') { format!("/{target}") } else { target.to_owned() };
    target.parse().ok()
}

fn fields(given: &[(String, String)]) -> Result<HeaderMap, WhyInvalid> {
    if given.len() > HEADERS_MAX {
        return Err(WhyInvalid::Headers(given.len()));
    }
    let mut headers = HeaderMap::with_capacity(given.len());
    for (name, value) in given {
        let invalid = || WhyInvalid::Header(shortened(name));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        if name == HOST {
            return Err(invalid());
        }
        headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| invalid())?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: &Value) -> Result<Why, WhyInvalid> {
        Why::parse(body.to_string().as_bytes())
    }

    #[test]
    fn a_question_is_read_as_a_listener_reads_a_request() {
        for (given, url, received) in [
            ("http://Shop.example:80/a//%62?x=%7e#part", "http://shop.example/a/b?x=~", Some("/a//%62?x=%7e")),
            ("https://shop.example", "https://shop.example/", None),
            ("https://shop.example?x", "https://shop.example/?x", None),
            ("http://bücher.example/ü y", "http://xn--bcher-kva.example/%C3%BC%20y", None),
        ] {
            let why = parsed(&json!({"url": given})).unwrap();
            assert_eq!((why.head.url().as_str(), why.head.method.as_str()), (url, "GET"), "{given}");
            if let Some(received) = received {
                assert_eq!(why.head.received.as_ref().map(PathAndQuery::as_str), Some(received), "{given}");
            }
        }
        let headers = [("Accept".to_owned(), " a ".to_owned()), ("accept".to_owned(), "b".to_owned())];
        let why = parsed(&Why::json("http://a/", Some("POST"), &headers, Some("{}"))).unwrap();
        assert_eq!((why.head.method.as_str(), &why.body[..]), ("POST", &b"{}"[..]));
        let hop = [("Connection", "x-a, upgrade"), ("x-a", "1"), ("upgrade", "websocket"), ("x-b", "2")];
        let hop = hop.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (method, left) in [("GET", &["upgrade", "x-b"][..]), ("POST", &["x-b"])] {
            let why = parsed(&Why::json("http://a/", Some(method), &hop, None)).unwrap();
            let mut names: Vec<&str> = why.head.headers.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, left, "{method}");
        }
        assert_eq!(why.head.headers.get_all("accept").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert!(parsed(&Why::json("http://a/", None, &[], None)).is_ok(), "what is null is left out");
    }

    #[test]
    fn anything_else_is_refused_with_what_is_allowed() {
        let long: Vec<(String, String)> = (0..=HEADERS_MAX).map(|n| (format!("x-{n}"), String::new())).collect();
        for (body, said) in [
            (json!([]), "it is not an object"),
            (json!({}), "missing field `url`"),
            (json!({"url": "http://a/", "purge": true}), "unknown field `purge`"),
            (json!({"url": "/a"}), "it isn't absolute"),
            (json!({"url": "http://a/../b"}), "above the root"),
            (json!({"url": "http://a/", "method": "G T"}), "not a method"),
            (json!({"url": "http://a/", "headers": [["a b", "c"]]}), "`a b` is not a header field"),
            (json!({"url": "http://a/", "headers": [["x", "a\nb"]]}), "`x` is not a header field"),
            (json!({"url": "http://a/", "headers": [["Host", "b"]]}), "the host is in the URL"),
            (json!({"url": "http://a/", "headers": long}), "at most 256"),
            (json!({"url": "http://a/", "client": "somewhere"}), "the body is not a request"),
        ] {
            let refused = parsed(&body).unwrap_err().to_string();
            assert!(refused.contains(said), "{body} was refused with: {refused}");
        }
    }
}
