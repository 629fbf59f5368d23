//! What a policy may read of a request, and how the host reads it.

use std::{
    borrow::Cow,
    cell::OnceCell,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header::COOKIE};
use serde_json::Value;

use crate::message::RequestHead;

/// A declared input. The host hands over these and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The request method.
    Method,
    /// `http` or `https`.
    Scheme,
    /// Host and port, lower case.
    Authority,
    /// The path as sent.
    Path,
    /// The values of one query parameter, still percent-encoded, several joined by `&`.
    Query(String),
    /// The whole query as sent.
    QueryAll,
    /// The values of one header field, several joined by `, ` (RFC 9110, section 5.3).
    Header(HeaderName),
    /// The value of one cookie.
    Cookie(String),
    /// The client's network, e.g. `203.0.113.0/24`; the bits are capped to the address family's size.
    ClientPrefix(u8),
    /// blake3 of the body, 32 bytes.
    BodyDigest,
    /// The JSON text at a pointer (RFC 6901), members sorted; strings keep their quotes, so that `"1"` is not `1`.
    BodyJson(String),
    /// The first bytes of the body.
    BodyPrefix(u32),
    /// The body's length in decimal.
    BodyLength,
}

impl Input {
    /// Does reading this need the body in memory?
    #[must_use]
    pub const fn needs_body(&self) -> bool {
        matches!(self, Self::BodyDigest | Self::BodyJson(_) | Self::BodyPrefix(_) | Self::BodyLength)
    }
}

/// A request as policies see it. The body is parsed at most once, and only if somebody asks.
#[derive(Debug)]
pub struct Facts<'a> {
    request: &'a RequestHead,
    body: Option<&'a Bytes>,
    json: OnceCell<Option<Value>>,
}

impl<'a> Facts<'a> {
    /// Facts of `request`, whose body, if it has been read, is `body`.
    #[must_use]
    pub const fn new(request: &'a RequestHead, body: Option<&'a Bytes>) -> Self {
        Self { request, body, json: OnceCell::new() }
    }

    /// The request these facts are of.
    #[must_use]
    pub const fn request(&self) -> &'a RequestHead {
        self.request
    }

    /// The value of `input`, or `None` if the request has none. Borrows wherever it can.
    #[must_use]
    pub fn read(&self, input: &Input) -> Option<Cow<'_, [u8]>> {
        let request = self.request;
        match input {
            Input::Method => Some(borrowed(request.method.as_str())),
            Input::Scheme => Some(borrowed(request.scheme.as_str())),
            Input::Authority => Some(borrowed(request.authority())),
            Input::Path => Some(borrowed(request.target.path())),
            Input::Query(name) => query_values(request.target.query()?, name),
            Input::QueryAll => request.target.query().map(borrowed),
            Input::Header(name) => header_values(&request.headers, name),
            Input::Cookie(name) => cookie_value(&request.headers, name),
            Input::ClientPrefix(bits) => Some(Cow::Owned(network(request.client.ip, *bits).into_bytes())),
            Input::BodyDigest => Some(Cow::Owned(blake3::hash(self.body?).as_bytes().to_vec())),
            Input::BodyJson(pointer) => {
                self.json()?.pointer(pointer).map(|value| Cow::Owned(value.to_string().into_bytes()))
            }
            Input::BodyPrefix(length) => {
                let body = self.body?;
                let end = body.len().min(usize::try_from(*length).unwrap_or(usize::MAX));
                Some(Cow::Borrowed(&body[..end]))
            }
            Input::BodyLength => Some(Cow::Owned(self.body?.len().to_string().into_bytes())),
        }
    }

    fn json(&self) -> Option<&Value> {
        self.json.get_or_init(|| serde_json::from_slice(self.body?).ok()).as_ref()
    }
}

fn borrowed(text: &str) -> Cow<'_, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

/// The raw values of `name` in a query. `&` can't occur inside one, so joining by it loses nothing.
fn query_values<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    let values = query.split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    });
    joined(values.map(str::as_bytes), b"&")
}

fn header_values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    joined(headers.get_all(name).iter().map(|value| value.as_bytes()), b", ")
}

fn cookie_value<'h>(headers: &'h HeaderMap, name: &str) -> Option<Cow<'h, [u8]>> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .map(Cow::Borrowed)
}

/// Joins values; a single one, the usual case, stays borrowed.
fn joined<'v>(mut values: impl Iterator<Item = &'v [u8]>, separator: &[u8]) -> Option<Cow<'v, [u8]>> {
    let mut whole = Cow::Borrowed(values.next()?);
    for value in values {
        let owned = whole.to_mut();
        owned.extend_from_slice(separator);
        owned.extend_from_slice(value);
    }
    Some(whole)
}

fn network(ip: IpAddr, bits: u8) -> String {
    let mut text = String::new();
    let (masked, bits) = match ip {
        IpAddr::V4(v4) => {
            let bits = bits.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            (IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask)), bits)
        }
        IpAddr::V6(v6) => {
            let bits = bits.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            (IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask)), bits)
        }
    };
    // Writing to a String can't fail.
    let _ = write!(text, "{masked}/{bits}");
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use http::{HeaderValue, Method, Version};

    use super::*;
    use crate::message::{Client, Scheme};

    pub(crate) fn request(
        method: Method,
        target: &'static str,
        headers: &[(&'static str, &'static str)],
    ) -> RequestHead {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        RequestHead {
            method,
            scheme: Scheme::Https,
            authority: HeaderValue::from_static("shop.example"),
            target: target.parse().unwrap(),
            headers: map,
            client: Client { ip: "203.0.113.77".parse().unwrap(), version: Version::HTTP_11 },
        }
    }

    #[test]
    fn inputs_read_what_the_request_has_and_nothing_else() {
        let headers = [("accept", "a"), ("accept", "b"), ("cookie", "sid=1; theme=dark"), ("cookie", "x=")];
        let request = request(Method::POST, "/p/q?b=2&a=1&a=%20&flag", &headers);
        let body = Bytes::from_static(br#"{"model":"m","n":1,"deep":{"z":1,"a":"1"}}"#);
        let facts = Facts::new(&request, Some(&body));
        let accept = Input::Header(HeaderName::from_static("accept"));
        let table: Vec<(Input, Option<&str>)> = vec![
            (Input::Method, Some("POST")),
            (Input::Scheme, Some("https")),
            (Input::Authority, Some("shop.example")),
            (Input::Path, Some("/p/q")),
            (Input::Query("a".into()), Some("1&%20")),
            (Input::Query("flag".into()), Some("")),
            (Input::Query("c".into()), None),
            (Input::QueryAll, Some("b=2&a=1&a=%20&flag")),
            (accept, Some("a, b")),
            (Input::Header(HeaderName::from_static("x-none")), None),
            (Input::Cookie("theme".into()), Some("dark")),
            (Input::Cookie("x".into()), Some("")),
            (Input::Cookie("id".into()), None),
            (Input::ClientPrefix(24), Some("203.0.113.0/24")),
            (Input::ClientPrefix(0), Some("0.0.0.0/0")),
            (Input::ClientPrefix(200), Some("203.0.113.77/32")),
            (Input::BodyJson("/model".into()), Some("\"m\"")),
            (Input::BodyJson("/deep".into()), Some(r#"{"a":"1","z":1}"#)),
            (Input::BodyJson("/none".into()), None),
            (Input::BodyPrefix(3), Some("{\"m")),
            (Input::BodyLength, Some("42")),
        ];
        for (input, wanted) in table {
            assert_eq!(facts.read(&input).as_deref(), wanted.map(str::as_bytes), "{input:?}");
        }
        assert_eq!(facts.read(&Input::BodyDigest).unwrap().len(), 32);
    }

    #[test]
    fn a_body_that_was_not_read_or_is_not_json_has_no_values() {
        let request = request(Method::GET, "/", &[]);
        assert_eq!(Facts::new(&request, None).read(&Input::BodyLength), None);
        let body = Bytes::from_static(b"not json");
        assert_eq!(Facts::new(&request, Some(&body)).read(&Input::BodyJson("/a".into())), None);
    }
}
