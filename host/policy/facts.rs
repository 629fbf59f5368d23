//! The inputs that a policy may read of a request, and how the host reads them.

use std::{
    borrow::Cow,
    fmt::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, COOKIE},
};

use super::{
    Notes, PoolStats, Pools,
    json::{Json, Place},
    material::spell,
    tokens::Encoding,
};
use crate::{
    clock::{self, Timestamp},
    message::{
        RequestHead, coding,
        structured::{joined, joined_by},
        target,
    },
};

/// A declared input. The host passes these and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The request method.
    Method,
    /// `http` or `https`.
    Scheme,
    /// Host and port, lower case.
    Authority,
    /// The path in its [normal form](crate::message::target), still percent-encoded.
    Path,
    /// The values of one query parameter, still percent-encoded, several joined by `&`. Names are compared decoded, as
    /// origins read them: `us%65r` is `user`.
    Query(String),
    /// The whole query as sent.
    QueryAll,
    /// The values of one header field, several joined by `, ` (RFC 9110, section 5.3).
    Header(HeaderName),
    /// The values of one cookie, several joined by `; `.
    Cookie(String),
    /// The client's network, e.g. `203.0.113.0/24`; the bits are capped to the address family's size.
    ClientPrefix(u8),
    /// The client's region, in lower case, as a trusted proxy stated it.
    ClientRegion,
    /// The node's region.
    NodeRegion,
    /// blake3 of the body, 32 bytes. This and what follows read the body without its content codings, if it can be
    /// decoded.
    BodyDigest,
    /// The JSON text at a pointer (RFC 6901), members sorted; strings keep their quotes, so that `"1"` is not `1`.
    BodyJson(String),
    /// The first bytes of the body.
    BodyPrefix(u32),
    /// The body's length in decimal.
    BodyLength,
    /// How many tokens the text at a pointer has, or each element of the array there.
    BodyTokens(String, Encoding),
    /// Output of the `features` hook, by name.
    Feature(String),
    /// The arm of an experiment.
    Arm(String),
    /// The response's status in decimal.
    ResponseStatus,
    /// The values of one header field of the response.
    ResponseHeader(HeaderName),
    /// The response's length in decimal, if it is known.
    ResponseLength,
    /// Microseconds until the response's head, cut to a multiple of this.
    FetchUs(u32),
    /// Seconds since 1970, cut to a multiple of this.
    Clock(u32),
    /// The state of a pool as JSON.
    PoolStats(String),
}

/// Milliseconds for which a reading of a pool's state is used.
pub const POOL_STATS_MS: u64 = 100;

impl Input {
    /// Whether reading this needs the body in memory.
    #[must_use]
    pub const fn needs_body(&self) -> bool {
        matches!(
            self,
            Self::BodyDigest | Self::BodyJson(_) | Self::BodyPrefix(_) | Self::BodyLength | Self::BodyTokens(..)
        )
    }

    /// Whether this exists only once the origin has responded.
    #[must_use]
    pub const fn needs_response(&self) -> bool {
        matches!(self, Self::ResponseStatus | Self::ResponseHeader(_) | Self::ResponseLength | Self::FetchUs(_))
    }

    /// Returns when its value at `now` may change by itself.
    const fn changes_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Clock(seconds) => {
                let step = *seconds as u64 * 1000;
                Some(Timestamp(now.0 - now.0 % step + step))
            }
            Self::PoolStats(_) => Some(Timestamp(now.0 - now.0 % POOL_STATS_MS + POOL_STATS_MS)),
            _ => None,
        }
    }
}

impl fmt::Display for Input {
    /// Writes it as the contract does: `header(accept)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("method"),
            Self::Scheme => f.write_str("scheme"),
            Self::Authority => f.write_str("authority"),
            Self::Path => f.write_str("path"),
            Self::Query(name) => write!(f, "query({name})"),
            Self::QueryAll => f.write_str("query-all"),
            Self::Header(name) => write!(f, "header({name})"),
            Self::Cookie(name) => write!(f, "cookie({name})"),
            Self::ClientPrefix(bits) => write!(f, "client-prefix({bits})"),
            Self::ClientRegion => f.write_str("client-region"),
            Self::NodeRegion => f.write_str("node-region"),
            Self::BodyDigest => f.write_str("body-digest"),
            Self::BodyJson(pointer) => write!(f, "body-json({pointer})"),
            Self::BodyPrefix(length) => write!(f, "body-prefix({length})"),
            Self::BodyLength => f.write_str("body-length"),
            Self::BodyTokens(pointer, encoding) => write!(f, "body-tokens({pointer}, {})", encoding.name()),
            Self::Feature(name) => write!(f, "feature({name})"),
            Self::Arm(name) => write!(f, "arm({name})"),
            Self::ResponseStatus => f.write_str("response-status"),
            Self::ResponseHeader(name) => write!(f, "response-header({name})"),
            Self::ResponseLength => f.write_str("response-length"),
            Self::FetchUs(step) => write!(f, "fetch-us({step})"),
            Self::Clock(step) => write!(f, "clock({step})"),
            Self::PoolStats(pool) => write!(f, "pool-stats({pool})"),
        }
    }
}

/// The parts of the origin's response that `admit` may read.
#[derive(Clone, Copy, Debug)]
pub struct ResponseFacts<'a> {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The body's length, if it is known.
    pub length: Option<u64>,
    /// Microseconds from the request's sending to this head.
    pub fetch_us: u64,
}

/// Bytes of a decoded body, where no other limit is set.
const CONTENT_BYTES_MAX: u64 = 16 << 20;

/// A request as policies see it. The body is decoded and parsed at most once, and only if that is needed.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    request: &'a RequestHead,
    body: Option<&'a Bytes>,
    content_bytes_max: u64,
    notes: &'a Notes,
    response: Option<ResponseFacts<'a>>,
    pools: Option<&'a dyn Pools>,
    now: Option<Timestamp>,
}

impl<'a> Facts<'a> {
    /// Returns the facts of `request`, whose body, if it has been read, is `body`; `notes` holds what is found out
    /// about it.
    #[must_use]
    pub const fn new(request: &'a RequestHead, body: Option<&'a Bytes>, notes: &'a Notes) -> Self {
        Self { request, body, content_bytes_max: CONTENT_BYTES_MAX, notes, response: None, pools: None, now: None }
    }

    /// Sets another limit for the bytes of a decoded body.
    #[must_use]
    pub const fn decoded_within(self, content_bytes_max: u64) -> Self {
        Self { content_bytes_max, ..self }
    }

    /// Returns the limit for the bytes of a decoded body.
    #[must_use]
    pub const fn content_bytes_max(&self) -> u64 {
        self.content_bytes_max
    }

    /// Adds the origin's response.
    #[must_use]
    pub const fn with_response(self, response: ResponseFacts<'a>) -> Self {
        Self { response: Some(response), ..self }
    }

    /// Adds a view of the pools.
    #[must_use]
    pub const fn beside(self, pools: &'a dyn Pools) -> Self {
        Self { pools: Some(pools), ..self }
    }

    /// Sets this time instead of the current one.
    #[must_use]
    pub const fn at(self, now: Timestamp) -> Self {
        Self { now: Some(now), ..self }
    }

    /// Sets other notes: for another generation.
    #[must_use]
    pub const fn noted(self, notes: &'a Notes) -> Self {
        Self { notes, ..self }
    }

    /// Returns the request these facts are of.
    #[must_use]
    pub const fn request(&self) -> &'a RequestHead {
        self.request
    }

    /// Returns its body, if it has been read.
    #[must_use]
    pub const fn body(&self) -> Option<&'a Bytes> {
        self.body
    }

    /// Returns the origin's response, if there is one.
    #[must_use]
    pub const fn response(&self) -> Option<ResponseFacts<'a>> {
        self.response
    }

    /// Returns the state of a pool, if there is a view of the pools.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<PoolStats> {
        self.pools?.stats(name)
    }

    /// Returns the notes.
    #[must_use]
    pub const fn notes(&self) -> &'a Notes {
        self.notes
    }

    /// Returns the value of `input`, or `None` if the request has none. Borrows wherever it can.
    #[must_use]
    pub fn read(&self, input: &Input) -> Option<Cow<'a, [u8]>> {
        let request = self.request;
        match input {
            Input::Method => Some(borrowed(request.method.as_str())),
            Input::Scheme => Some(borrowed(request.scheme.as_str())),
            Input::Authority => Some(borrowed(request.authority())),
            Input::Path => Some(borrowed(request.target.path())),
            Input::Query(name) => query_values(request.target.query()?, name),
            Input::QueryAll => request.target.query().map(borrowed),
            Input::Header(name) => joined(&request.headers, name),
            Input::Cookie(name) => cookie_value(&request.headers, name),
            Input::ClientPrefix(bits) => Some(owned(network(request.client.ip, *bits))),
            Input::ClientRegion => request.near.client.as_deref().map(borrowed),
            Input::NodeRegion => request.near.node.as_deref().map(borrowed),
            Input::BodyDigest => Some(Cow::Owned(blake3::hash(self.content_or_body()?).as_bytes().to_vec())),
            Input::BodyJson(pointer) => Some(owned(self.place(pointer)?.value?.to_string())),
            Input::BodyPrefix(length) => {
                let body = self.content_or_body()?;
                let end = body.len().min(usize::try_from(*length).unwrap_or(usize::MAX));
                Some(Cow::Borrowed(&body[..end]))
            }
            Input::BodyLength => self.content_or_body().map(|body| decimal(body.len() as u64)),
            Input::BodyTokens(pointer, encoding) => Some(owned(encoding.count(self.place(pointer)?.value?))),
            Input::Feature(name) => self.notes.request_edits()?.feature(name).map(Cow::Borrowed),
            Input::Arm(name) => {
                let arm = self.notes.arms().iter().find(|arm| &*arm.experiment == name.as_str())?;
                Some(borrowed(&arm.name))
            }
            Input::ResponseStatus => self.response.map(|response| decimal(response.status.as_u16().into())),
            Input::ResponseHeader(name) => joined(self.response?.headers, name),
            Input::ResponseLength => self.response?.length.map(decimal),
            Input::FetchUs(step) => self.response.map(|response| decimal(cut(response.fetch_us, *step))),
            Input::Clock(step) => Some(decimal(cut(self.now().seconds(), *step))),
            Input::PoolStats(pool) => serde_json::to_vec(&self.pool(pool)?).ok().map(Cow::Owned),
        }
    }

    /// Returns when the first of these values may change by itself, if any does.
    #[must_use]
    pub fn good_until(&self, inputs: &[Input]) -> Option<Timestamp> {
        let volatile = |input: &Input| matches!(input, Input::Clock(_) | Input::PoolStats(_));
        if !inputs.iter().any(volatile) {
            return None;
        }
        let now = self.now();
        inputs.iter().filter_map(|input| input.changes_at(now)).min_by_key(|at| at.0)
    }

    fn now(&self) -> Timestamp {
        self.now.unwrap_or_else(clock::now)
    }

    /// Whether an input reads the body, and its value may not be what the origin finds there: the body can't be
    /// decoded or isn't JSON, or another reader may find something else at the pointer. Two such bodies may mean
    /// different requests although their values are equal.
    #[must_use]
    pub fn misreads(&self, input: &Input) -> bool {
        if self.body.is_none_or(Bytes::is_empty) {
            // All empty bodies are one.
            return false;
        }
        match input {
            Input::BodyJson(pointer) | Input::BodyTokens(pointer, _) => {
                self.place(pointer).is_none_or(|place| !place.clear)
            }
            Input::BodyDigest | Input::BodyPrefix(_) | Input::BodyLength => self.content().is_none(),
            _ => false,
        }
    }

    /// Returns a digest of the body as it came, and of the header fields that say how to read it.
    #[must_use]
    pub fn raw_digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            spell(joined(&self.request.headers, &name).as_deref(), |bytes| {
                hasher.update(bytes);
            });
        }
        hasher.update(self.body.map_or(&[][..], |body| &body[..]));
        *hasher.finalize().as_bytes()
    }

    /// Returns the body without its content codings. `None` if it can't be decoded, or has not been read.
    #[must_use]
    pub fn content(&self) -> Option<&'a Bytes> {
        let (body, headers) = (self.body?, &self.request.headers);
        if body.is_empty() || !coding::is_encoded(headers) {
            return Some(body);
        }
        self.notes.content(|| coding::decode(headers, body, self.content_bytes_max).ok())
    }

    fn content_or_body(&self) -> Option<&'a Bytes> {
        self.content().or(self.body)
    }

    /// Returns what is at a pointer of the body. `None` if the body can't be read as JSON.
    fn place(&self, pointer: &str) -> Option<Place<'a>> {
        let content = self.content()?;
        let read = || if is_unicode(&self.request.headers) { Json::read(content) } else { None };
        Some(self.notes.json(read)?.at(pointer))
    }
}

/// Whether a body may be taken for JSON by its `Content-Type`: there is none, or it is JSON in UTF-8.
#[must_use]
pub fn may_be_json(headers: &HeaderMap) -> bool {
    let is_json = |value: &http::HeaderValue| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        essence.to_ascii_lowercase().ends_with(b"json")
    };
    headers.get_all(CONTENT_TYPE).iter().all(is_json) && is_unicode(headers)
}

/// Whether a body is UTF-8, as JSON has to be, by its `Content-Type`: in another charset the same bytes are
/// other characters.
pub(super) fn is_unicode(headers: &HeaderMap) -> bool {
    let types = headers.get_all(CONTENT_TYPE).iter();
    let mut parameters = types.flat_map(|line| line.as_bytes().split(|byte| *byte == b';').skip(1));
    parameters.all(|parameter| {
        let mut parts = parameter.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        !name.eq_ignore_ascii_case(b"charset")
            || [&b"utf-8"[..], b"utf8", b"us-ascii"].iter().any(|known| value.eq_ignore_ascii_case(known))
    })
}

fn owned(text: String) -> Cow<'static, [u8]> {
    Cow::Owned(text.into_bytes())
}

fn decimal(number: u64) -> Cow<'static, [u8]> {
    owned(number.to_string())
}

/// Rounds down to a multiple of `step`; 0 is ruled out when a manifest is checked.
const fn cut(value: u64, step: u32) -> u64 {
    value - value % step as u64
}

fn borrowed(text: &str) -> Cow<'_, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

/// Returns the raw values of `name` in a query. `&` can't occur inside one, so joining by it loses nothing.
fn query_values<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    let values = query.split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        target::is_same_parameter(key, name).then_some(value)
    });
    joined_by(values.map(str::as_bytes), b"&")
}

/// Returns all values of a cookie: origins differ in which of several they take. `;` can't occur inside one.
fn cookie_value<'h>(headers: &'h HeaderMap, name: &str) -> Option<Cow<'h, [u8]>> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let values = pairs.map(<[u8]>::trim_ascii);
    joined_by(values.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")), b"; ")
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
    use crate::{
        message::{Client, Near, Scheme},
        policy::Arm,
    };

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
            received: None,
            headers: map,
            client: Client { ip: "203.0.113.77".parse().unwrap(), version: Version::HTTP_11 },
            near: Near { client: Some("eu".into()), node: Some("us".into()) },
        }
    }

    #[test]
    fn inputs_read_what_the_request_has_and_nothing_else() {
        let headers = [("accept", "a"), ("accept", "b"), ("cookie", "sid=1; theme=dark"), ("cookie", "x=")];
        let request = request(Method::POST, "/p/q?b=2&a=1&a=%20&flag", &headers);
        let body = Bytes::from_static(br#"{"model":"m","n":1,"deep":{"z":1,"a":"1"}}"#);
        let notes = Notes::default();
        let facts = Facts::new(&request, Some(&body), &notes);
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
            (Input::ClientRegion, Some("eu")),
            (Input::NodeRegion, Some("us")),
            (Input::BodyJson("/model".into()), Some("\"m\"")),
            (Input::BodyJson("/deep".into()), Some(r#"{"a":"1","z":1}"#)),
            (Input::BodyJson("/none".into()), None),
            (Input::BodyPrefix(3), Some("{\"m")),
            (Input::BodyLength, Some("42")),
            (Input::BodyTokens("/deep/a".into(), Encoding::O200kBase), Some("1")),
            (Input::BodyTokens("/none".into(), Encoding::O200kBase), None),
            (Input::Feature("f".into()), None),
            (Input::Arm("e".into()), None),
            (Input::ResponseStatus, None),
            (Input::PoolStats("models".into()), None),
        ];
        for (input, wanted) in table {
            assert_eq!(facts.read(&input).as_deref(), wanted.map(str::as_bytes), "{input:?}");
        }
        assert_eq!(facts.read(&Input::BodyDigest).unwrap().len(), 32);
    }

    #[test]
    fn a_parameter_is_read_whatever_its_name_is_spelled_like() {
        let notes = Notes::default();
        for (query, wanted) in [
            ("us%65r=evil&user=ann", Some("evil&ann")),
            ("%75ser=evil", Some("evil")),
            ("user=ann&user=evil", Some("ann&evil")),
            ("user=ann;user=evil", Some("ann;user=evil")),
            ("User=evil&%55ser=evil", None),
            ("user%=evil&use=evil", None),
        ] {
            let mut request = request(Method::GET, "/", &[]);
            request.target = format!("/?{query}").parse().unwrap();
            let read = Facts::new(&request, None, &notes).read(&Input::Query("user".into()));
            assert_eq!(read.as_deref(), wanted.map(str::as_bytes), "{query}");
        }
    }

    #[test]
    fn a_body_that_was_not_read_or_is_not_json_has_no_values() {
        let request = request(Method::GET, "/", &[]);
        let notes = Notes::default();
        assert_eq!(Facts::new(&request, None, &notes).read(&Input::BodyLength), None);
        let body = Bytes::from_static(b"not json");
        assert_eq!(Facts::new(&request, Some(&body), &notes).read(&Input::BodyJson("/a".into())), None);
    }

    /// Returns what an input reads of a body with these header fields, and whether it misreads it.
    fn read(headers: &[(&'static str, &'static str)], body: &[u8], input: &Input) -> (Option<String>, bool) {
        let request = request(Method::POST, "/", headers);
        let (body, notes) = (Bytes::copy_from_slice(body), Notes::default());
        let facts = Facts::new(&request, Some(&body), &notes).decoded_within(1_000);
        let value = facts.read(input).map(|value| String::from_utf8_lossy(&value).into_owned());
        (value, facts.misreads(input))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_body_is_a_value_nothing_or_misread() {
        const GZIP: &[(&str, &str)] = &[("content-encoding", "gzip")];
        let encoded = gzip(br#"{"a":1}"#);
        let (broken, bomb) = (encoded[..encoded.len() - 1].to_vec(), gzip(&[b' '; 2_000]));
        for (headers, body, value, misread) in [
            (&[][..], &br#"{"a":1}"#[..], Some("1"), false),
            (&[], br#"{"b":1}"#, None, false),
            (&[], b"", None, false),
            (&[], br#"{"a":"\ud83d"}"#, Some("\"\\ud83d\""), false),
            (&[], b"{\"a\":123456789012345678901234567890.10}", Some("123456789012345678901234567890.10"), false),
            (GZIP, &encoded, Some("1"), false),
            (GZIP, b"", None, false),
            (&[("content-type", "application/json; charset=\"UTF-8\"")], br#"{"a":1}"#, Some("1"), false),
            (&[("content-type", "application/json;charset=latin1")], br#"{"a":1}"#, None, true),
            (GZIP, &broken, None, true),
            (GZIP, &bomb, None, true),
            (GZIP, br#"{"a":1}"#, None, true),
            (&[("content-encoding", "snappy")], br#"{"a":1}"#, None, true),
            (&[], b"\xef\xbb\xbf{\"a\":1}", None, true),
            (&[], br#"{"a":1,}"#, None, true),
            (&[], br#"{"a":1,"b":NaN}"#, None, true),
            (&[], br#"{"a":1,"b":{"c":1,"c":2}}"#, None, true),
            (&[], br#"{"A":1}"#, None, true),
            (&[], br#"{"a":1,"A":2}"#, Some("1"), true),
            (&[], b"12", None, true),
            (&[], b"a=1", None, true),
        ] {
            let (found, unclear) = read(headers, body, &Input::BodyJson("/a".into()));
            let text = String::from_utf8_lossy(body);
            assert_eq!((found.as_deref(), unclear), (value, misread), "{headers:?} {text}");
            let tokens = read(headers, body, &Input::BodyTokens("/a".into(), Encoding::O200kBase));
            assert_eq!((tokens.0.is_some(), tokens.1), (value.is_some(), misread), "{headers:?} {text}");
        }
        for (headers, body, length, misread) in [
            (&[][..], &b"a=1"[..], "3", false),
            (GZIP, &encoded, "7", false),
            (GZIP, b"a=1", "3", true),
            (&[("content-encoding", "snappy")], b"a=1", "3", true),
        ] {
            assert_eq!(read(headers, body, &Input::BodyLength), (Some(length.to_owned()), misread), "{headers:?}");
            assert_eq!(read(headers, body, &Input::BodyDigest).1, misread, "{headers:?}");
        }
        assert_eq!(read(GZIP, &encoded, &Input::BodyPrefix(4)), (Some("{\"a\"".to_owned()), false));
        assert_eq!(read(GZIP, b"a=1", &Input::Path), (Some("/".to_owned()), false));
    }

    #[test]
    fn the_raw_digest_knows_the_bytes_and_how_they_are_to_be_read() {
        let digest = |headers: &[(&'static str, &'static str)], body: &'static [u8]| {
            let (request, body) = (request(Method::POST, "/", headers), Bytes::from_static(body));
            Facts::new(&request, Some(&body), &Notes::default()).raw_digest()
        };
        let digests = [
            digest(&[], b"a"),
            digest(&[], b"b"),
            digest(&[("content-type", "a")], b"a"),
            digest(&[("content-type", "a;charset=utf-16")], b"a"),
            digest(&[("content-encoding", "a")], b"a"),
        ];
        assert!((1..digests.len()).all(|at| !digests[..at].contains(&digests[at])));
        assert_eq!(digest(&[("x-a", "1")], b"a"), digest(&[], b"a"));
    }

    #[test]
    fn the_response_the_time_and_what_was_noted_are_read() {
        let request = request(Method::GET, "/", &[]);
        let arm = Arm { experiment: "e".into(), place: (0, 1), name: "large".into() };
        let notes = Notes::stated(Some(vec![arm]), Some(vec![("f".to_owned(), Bytes::from_static(b"1"))]));
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        let response = ResponseFacts { status: StatusCode::OK, headers: &headers, length: Some(7), fetch_us: 1_999 };
        let facts = Facts::new(&request, None, &notes).with_response(response).at(Timestamp(61_500)).beside(&One);
        let table: Vec<(Input, Option<&str>)> = vec![
            (Input::Feature("f".into()), Some("1")),
            (Input::Feature("g".into()), None),
            (Input::Arm("e".into()), Some("large")),
            (Input::ResponseStatus, Some("200")),
            (Input::ResponseHeader(HeaderName::from_static("x-a")), Some("1")),
            (Input::ResponseLength, Some("7")),
            (Input::FetchUs(1_000), Some("1000")),
            (Input::Clock(60), Some("60")),
            (Input::Clock(1), Some("61")),
            (Input::PoolStats("none".into()), None),
        ];
        for (input, wanted) in table {
            assert_eq!(facts.read(&input).as_deref(), wanted.map(str::as_bytes), "{input:?}");
        }
        let stats = facts.read(&Input::PoolStats("one".into())).unwrap();
        assert!(String::from_utf8_lossy(&stats).starts_with(r#"{"endpoints":1,"healthy":1,"inflight":0,"#));
        for (inputs, wanted) in [
            (vec![Input::Path], None),
            (vec![Input::Clock(60), Input::Path], Some(120_000)),
            (vec![Input::Clock(60), Input::Clock(1)], Some(62_000)),
            (vec![Input::Clock(60), Input::PoolStats("one".into())], Some(61_600)),
        ] {
            assert_eq!(facts.good_until(&inputs), wanted.map(Timestamp), "{inputs:?}");
        }
    }

    /// One pool.
    #[derive(Debug)]
    struct One;

    impl Pools for One {
        fn stats(&self, pool: &str) -> Option<PoolStats> {
            (pool == "one").then(|| PoolStats { endpoints: 1, healthy: 1, ..PoolStats::default() })
        }
    }
}
