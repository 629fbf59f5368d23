//! Whether a response may be stored, and for how long (RFC 9111, section 3). Pure: heads in, a verdict with its reason
//! out.

use http::{
    HeaderMap, Method, StatusCode,
    header::{
        AGE, AUTHORIZATION, CONNECTION, CONTENT_RANGE, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE,
        TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

use super::{
    control::Directives,
    freshness::{self, Lifetimes},
    tag::{self, Tag},
    vary::{self, Vary},
};
use crate::{
    clock::Timestamp,
    config::Defaults,
    message::tag::is_nameable,
    planted::{Plant, planted},
};

/// The decision about a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Store it.
    Store(Storage),
    /// Don't, for this reason.
    Refuse(Refusal),
}

impl Admission {
    /// This, unless what would be stored can't be, for another reason.
    #[must_use]
    pub fn unless(self, refusal: impl FnOnce() -> Option<Refusal>) -> Self {
        match self {
            Self::Store(storage) => refusal().map_or(Self::Store(storage), Self::Refuse),
            refused @ Self::Refuse(_) => refused,
        }
    }
}

/// How a response is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// For how long.
    pub lifetimes: Lifetimes,
    /// Request fields that select it, if any.
    pub vary: Option<Vec<HeaderName>>,
    /// Whether it may be served to requests with `Authorization`.
    pub for_authorized: bool,
    /// What it can be purged by, if a policy says so instead of the response.
    pub tags: Option<Vec<Tag>>,
}

/// Why a response isn't stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The method isn't one whose responses are reused.
    Method,
    /// The request said `no-store`.
    RequestNoStore,
    /// The response says `no-store`.
    NoStore,
    /// The response is for one user.
    Private,
    /// The request was authorized and the response doesn't permit sharing.
    Authorized,
    /// It sets a cookie and doesn't say `public`.
    SetsCookie,
    /// A status that isn't stored: partial, informational or not modified.
    Status,
    /// Nothing says for how long it's good.
    NoLifetime,
    /// It varies by something that no later request can be known to match.
    VaryAny,
    /// Its body is over `object_bytes_max`.
    TooLarge,
    /// It has more tags than `object_tags_max`.
    TooManyTags,
    /// It has a tag that no purge could name.
    BadTag,
    /// It is an item's result that isn't what its type says, such as JSON with `NaN` in it.
    Unreadable,
    /// The policy wants it so.
    Policy,
}

impl Refusal {
    /// A word for the access log and `Cache-Status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::RequestNoStore => "request-no-store",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorized => "authorized",
            Self::SetsCookie => "set-cookie",
            Self::Status => "status",
            Self::NoLifetime => "no-lifetime",
            Self::VaryAny => "vary",
            Self::TooLarge => "too-large",
            Self::TooManyTags => "too-many-tags",
            Self::BadTag => "bad-tag",
            Self::Unreadable => "unreadable",
            Self::Policy => "policy",
        }
    }

    /// Whether requests that wait for the same may get it, although it isn't stored.
    #[must_use]
    pub const fn is_shareable(self) -> bool {
        !matches!(
            self,
            Self::Private | Self::NoStore | Self::SetsCookie | Self::Authorized | Self::VaryAny | Self::Policy
        )
    }

    /// Whether the next response under this key will probably be refused as well. What depends on the one
    /// request says nothing about the next.
    #[must_use]
    pub const fn holds_for_key(self) -> bool {
        !matches!(self, Self::RequestNoStore | Self::Authorized | Self::Status | Self::Policy)
    }
}

/// One exchange with the origin.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The client's method.
    pub method: &'a Method,
    /// The client's header fields.
    pub request: &'a HeaderMap,
    /// Credentials that the key knows nothing of were presented on the client's behalf.
    pub lent: bool,
    /// The response's status.
    pub status: StatusCode,
    /// The response's header fields.
    pub response: &'a HeaderMap,
    /// The response's length, if it's known.
    pub length: Option<u64>,
    /// When the head arrived.
    pub received: Timestamp,
}

/// Decides about a response to a GET or HEAD, or to an item (`infer`, by POST).
#[must_use]
pub fn decide(exchange: &Exchange<'_>, infer: bool, defaults: &Defaults, object_bytes_max: u64) -> Admission {
    let directives = Directives::read(exchange.response);
    if let Some(refusal) = refusal(exchange, &directives, infer, object_bytes_max) {
        return Admission::Refuse(refusal);
    }
    let vary = match vary::read(exchange.response) {
        Vary::No => None,
        Vary::By(names) => Some(names),
        Vary::Any => return Admission::Refuse(Refusal::VaryAny),
    };
    // A default lifetime is for responses that are reusable by their status; errors must state one themselves.
    let defaults =
        if exchange.status.is_success() || redirects(exchange.status) { *defaults } else { Defaults::default() };
    match freshness::lifetimes(&directives, exchange.response, exchange.received, &defaults) {
        // Its lifetime is over on arrival: stored it would only take space.
        Some(lifetimes) if lifetimes.end_ms() == 0 => Admission::Refuse(Refusal::NoLifetime),
        Some(lifetimes) => {
            Admission::Store(Storage { lifetimes, vary, for_authorized: for_authorized(&directives), tags: None })
        }
        None => Admission::Refuse(Refusal::NoLifetime),
    }
}

fn refusal(exchange: &Exchange<'_>, directives: &Directives, infer: bool, object_bytes_max: u64) -> Option<Refusal> {
    let asks = exchange.method == Method::GET || exchange.method == Method::HEAD || infer;
    // An item's key has all the credentials that are sent with it: see `pipeline::forwarding`.
    let presented = exchange.lent || !infer && exchange.request.contains_key(AUTHORIZATION);
    let authorized = presented && !for_authorized(directives);
    let cookie = exchange.response.contains_key(SET_COOKIE) && !directives.public;
    let rules = [
        (!asks, Refusal::Method),
        (Directives::of_request(exchange.request).no_store, Refusal::RequestNoStore),
        (directives.no_store, Refusal::NoStore),
        (directives.private && !planted(Plant::PrivateShared), Refusal::Private),
        (authorized, Refusal::Authorized),
        (cookie, Refusal::SetsCookie),
        (!storable(exchange), Refusal::Status),
        (exchange.length.is_some_and(|length| length > object_bytes_max), Refusal::TooLarge),
    ];
    rules.into_iter().find_map(|(applies, refusal)| applies.then_some(refusal))
}

/// Whether a response can't be stored for the tags that it names: more than `max` different ones, or one that no purge
/// could name. To store it without them would acknowledge their purges and go on serving it.
#[must_use]
pub fn refuse_tags(response: &HeaderMap, headers: &[HeaderName], max: usize) -> Option<Refusal> {
    let mut count = 0;
    for name in tag::names(response, headers) {
        if !is_nameable(name) {
            return Some(Refusal::BadTag);
        }
        count += 1;
    }
    // Only now is it worth telling them apart: a response may name the same tags in two fields.
    (count > max && tag::named(response, headers).len() > max).then_some(Refusal::TooManyTags)
}

/// Section 3: a final status that is understood. 206 and 304 need what a later version brings.
fn storable(exchange: &Exchange<'_>) -> bool {
    let status = exchange.status;
    let partial = status == StatusCode::PARTIAL_CONTENT || exchange.response.contains_key(CONTENT_RANGE);
    !status.is_informational() && status != StatusCode::NOT_MODIFIED && !partial
}

fn redirects(status: StatusCode) -> bool {
    status == StatusCode::MOVED_PERMANENTLY || status == StatusCode::PERMANENT_REDIRECT
}

/// Whether a response to a request with `Authorization` may be shared, by its directives (section 3.5).
#[must_use]
pub fn permits_authorized(response: &HeaderMap) -> bool {
    for_authorized(&Directives::read(response))
}

/// Section 3.5.
const fn for_authorized(directives: &Directives) -> bool {
    directives.public || directives.must_revalidate || directives.s_maxage.is_some()
}

/// Fields that belong to one connection or one hop and are never stored (section 3.1); `Age` is computed anew.
pub fn strip_for_storage(headers: &mut HeaderMap) {
    for name in [
        AGE,
        CONNECTION,
        HeaderName::from_static("keep-alive"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn decided(
        method: Method,
        status: u16,
        request: &[(&'static str, &'static str)],
        response: &[(&'static str, &'static str)],
    ) -> Admission {
        let (request, response) = (headers(request), headers(response));
        let exchange = Exchange {
            method: &method,
            request: &request,
            lent: false,
            status: StatusCode::from_u16(status).unwrap(),
            response: &response,
            length: Some(10),
            received: Timestamp(0),
        };
        decide(&exchange, false, &Defaults { ttl: None, ..Defaults::default() }, 10)
    }

    #[test]
    fn refusals_in_a_table() {
        const FRESH: (&str, &str) = ("cache-control", "max-age=60");
        for (method, status, request, response, wanted) in [
            (Method::POST, 200, &[][..], &[FRESH][..], Refusal::Method),
            (Method::GET, 200, &[("cache-control", "no-store")], &[FRESH], Refusal::RequestNoStore),
            (Method::GET, 200, &[], &[("cache-control", "max-age=60, no-store")], Refusal::NoStore),
            (Method::GET, 200, &[], &[("cache-control", "max-age=60, private")], Refusal::Private),
            (Method::GET, 200, &[("authorization", "a")], &[FRESH], Refusal::Authorized),
            (Method::GET, 200, &[], &[FRESH, ("set-cookie", "a=b")], Refusal::SetsCookie),
            (Method::GET, 206, &[], &[FRESH], Refusal::Status),
            (Method::GET, 304, &[], &[FRESH], Refusal::Status),
            (Method::GET, 200, &[], &[FRESH, ("content-range", "bytes 0-1/2")], Refusal::Status),
            (Method::GET, 200, &[], &[], Refusal::NoLifetime),
            (Method::GET, 200, &[], &[FRESH, ("vary", "*")], Refusal::VaryAny),
        ] {
            assert_eq!(
                decided(method, status, request, response),
                Admission::Refuse(wanted),
                "{request:?} {response:?}"
            );
        }
    }

    #[test]
    fn what_is_stored() {
        for (request, response) in [
            (&[][..], &[("cache-control", "max-age=60")][..]),
            (&[("authorization", "a")], &[("cache-control", "max-age=60, public")]),
            (&[("authorization", "a")], &[("cache-control", "s-maxage=60")]),
            (&[], &[("cache-control", "max-age=60, public"), ("set-cookie", "a=b")]),
        ] {
            let decision = decided(Method::GET, 200, request, response);
            assert!(matches!(decision, Admission::Store(_)), "{response:?}: {decision:?}");
        }
        assert!(matches!(decided(Method::GET, 404, &[], &[("cache-control", "max-age=1")]), Admission::Store(_)));
    }

    #[test]
    fn too_large_and_default_lifetimes() {
        let (request, response) = (HeaderMap::new(), HeaderMap::new());
        let mut exchange = Exchange {
            method: &Method::GET,
            request: &request,
            lent: false,
            status: StatusCode::OK,
            response: &response,
            length: Some(11),
            received: Timestamp(0),
        };
        let defaults = Defaults { ttl: Some(Duration::from_secs(1)), ..Defaults::default() };
        assert_eq!(decide(&exchange, false, &defaults, 10), Admission::Refuse(Refusal::TooLarge));
        assert!(matches!(decide(&exchange, false, &defaults, 11), Admission::Store(_)));
        exchange.status = StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(decide(&exchange, false, &defaults, 11), Admission::Refuse(Refusal::NoLifetime));
    }

    #[test]
    fn a_response_has_tags_that_purges_can_name_and_not_too_many() {
        let long = "x".repeat(1025);
        for (field, value, wanted) in [
            ("cache-tag", &b""[..], None),
            ("cache-tag", b"a,b,c", None),
            ("cache-tag", b"a, b,c,,d", Some(Refusal::TooManyTags)),
            ("surrogate-key", b"a b c a b c", None),
            ("surrogate-key", b"a b c d", Some(Refusal::TooManyTags)),
            ("x-tags", b"a b,c d", Some(Refusal::TooManyTags)),
            ("cache-tag", b"two words\tand a tab", None),
            ("cache-tag", "größe".as_bytes(), None),
            ("cache-tag", b"gr\xf6\xdfe", Some(Refusal::BadTag)),
            ("surrogate-key", long.as_bytes(), Some(Refusal::BadTag)),
            ("x-other", b"a b c d", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(field, HeaderValue::from_bytes(value).unwrap());
            headers.append("surrogate-key", HeaderValue::from_static("a"));
            let own = [HeaderName::from_static("x-tags")];
            assert_eq!(refuse_tags(&headers, &own, 3), wanted, "{field}: {}", value.escape_ascii());
        }
    }
}
