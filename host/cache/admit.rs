//! Whether a response may be stored, and for how long (RFC 9111, section 3). Pure: heads in, a verdict with its reason
//! out.

use std::time::Duration;

use http::{
    HeaderMap, Method, StatusCode,
    header::{
        AGE, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, ETAG, EXPIRES, HeaderName,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

use super::{
    control::Directives,
    freshness::{self, Lifetimes},
    tag::{self, Tag},
    targeted,
    vary::{self, Vary},
};
use crate::{
    clock::Timestamp,
    config::{Defaults, StoreSetCookie},
    message::{incremental::is_incremental, tag::is_nameable},
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
    /// Whether its directives forbid that it is ever served stale.
    pub forbids_stale: bool,
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
    /// It sets a cookie, and doesn't say that it is for all (RFC 9111, section 7.3).
    SetsCookie,
    /// It is a stream of events, made for the one that listens, and doesn't say for how long it's good.
    EventStream,
    /// It is to be forwarded as it comes (RFC 10036), and doesn't say for how long it's good.
    Incremental,
    /// A status that isn't stored: partial, informational, not modified, or a refusal until the protocol is switched.
    Status,
    /// Nothing says for how long it's good.
    NoLifetime,
    /// Nothing says for how long it's good, and it was made for a request with a cookie: without one the lifetime could be
    /// guessed.
    Cookie,
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
            Self::EventStream => "event-stream",
            Self::Incremental => "incremental",
            Self::Status => "status",
            Self::NoLifetime => "no-lifetime",
            Self::Cookie => "cookie",
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
            Self::Private
                | Self::NoStore
                | Self::SetsCookie
                | Self::Cookie
                | Self::EventStream
                | Self::Incremental
                | Self::Authorized
                | Self::VaryAny
                | Self::Policy
        )
    }

    /// Whether the next response under this key will probably be refused as well. What depends on the one
    /// request says nothing about the next.
    #[must_use]
    pub const fn holds_for_key(self) -> bool {
        !matches!(self, Self::RequestNoStore | Self::Authorized | Self::Cookie | Self::Status | Self::Policy)
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
    /// The fields whose directives take the place of `Cache-Control` and `Expires` (RFC 9213), in their order.
    pub targeted: &'a [HeaderName],
}

/// The rules of a route.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Whether the request is an item, by POST, whose response depends on its body.
    pub infer: bool,
    /// Lifetimes for responses that state none.
    pub defaults: &'a Defaults,
    /// Which responses that set a cookie may be stored.
    pub store_set_cookie: StoreSetCookie,
    /// Bytes of the largest body that is stored.
    pub object_bytes_max: u64,
}

/// Decides about a response to a GET, HEAD or QUERY, or to an item.
#[must_use]
pub fn decide(exchange: &Exchange<'_>, rules: &Rules<'_>) -> Admission {
    let directives = targeted::effective(exchange.response, exchange.targeted);
    if let Some(refusal) = refusal(exchange, &directives, rules) {
        return Admission::Refuse(refusal);
    }
    let vary = match vary::read(exchange.response) {
        Vary::No => None,
        Vary::By(names) => Some(names),
        Vary::Any => return Admission::Refuse(Refusal::VaryAny),
    };
    let age_ms = freshness::initial_age_ms(exchange.response, exchange.received, exchange.received);
    let lifetimes = |is_of_one| {
        if is_of_one && only_confirms(exchange, &directives, rules) {
            return None;
        }
        let defaults = guessable(exchange, &directives, rules, is_of_one);
        let by = |defaults| freshness::lifetimes(&directives, exchange.response, exchange.received, defaults);
        let stated = match by(&defaults) {
            // Nor does "for no time" say that it is for everybody: others get it stale only if the response allows that.
            Some(Lifetimes { ttl_ms: 0, .. }) if is_of_one => by(&without_grace(defaults)),
            stated => stated,
        };
        // If its lifetime is over on arrival, it would only take space.
        stated.filter(|lifetimes| lifetimes.use_ends_ms() > age_ms)
    };
    let (has_cookie, sets_cookie) = (exchange.request.contains_key(COOKIE), exchange.response.contains_key(SET_COOKIE));
    match lifetimes(has_cookie || sets_cookie) {
        Some(lifetimes) => {
            let (for_authorized, forbids_stale) = (for_authorized(&directives), directives.forbids_stale());
            Admission::Store(Storage { lifetimes, vary, for_authorized, forbids_stale, tags: None })
        }
        // It says nothing of the next request, which may have no cookie.
        None if has_cookie && !sets_cookie && lifetimes(false).is_some() => Admission::Refuse(Refusal::Cookie),
        None => Admission::Refuse(Refusal::NoLifetime),
    }
}

fn refusal(exchange: &Exchange<'_>, directives: &Directives, rules: &Rules<'_>) -> Option<Refusal> {
    let infer = rules.infer;
    let asks = infer || [Method::GET, Method::HEAD, Method::QUERY].contains(exchange.method);
    // An item's key has all the credentials that are sent with it: see `pipeline::forwarding`.
    let presented = exchange.lent || !infer && exchange.request.contains_key(AUTHORIZATION);
    let authorized = presented && !for_authorized(directives);
    let is_explicit = states_lifetime(directives, exchange.response);
    let cookie =
        exchange.response.contains_key(SET_COOKIE) && !may_set_cookie(directives, is_explicit, rules.store_set_cookie);
    let checks = [
        (!asks, Refusal::Method),
        (Directives::of_request(exchange.request).no_store, Refusal::RequestNoStore),
        (directives.must_understand && !is_understood(exchange.status), Refusal::Status),
        // Section 5.2.2.3: `no-store` beside `must-understand` is for caches that don't.
        (directives.no_store && !directives.must_understand, Refusal::NoStore),
        (directives.private && !planted(Plant::PrivateShared), Refusal::Private),
        (authorized, Refusal::Authorized),
        (cookie, Refusal::SetsCookie),
        (!infer && !is_explicit && is_event_stream(exchange.response), Refusal::EventStream),
        (!infer && !is_explicit && is_incremental(exchange.response), Refusal::Incremental),
        (!storable(exchange), Refusal::Status),
        (exchange.length.is_some_and(|length| length > rules.object_bytes_max), Refusal::TooLarge),
    ];
    checks.into_iter().find_map(|(applies, refusal)| applies.then_some(refusal))
}

/// Whether all that the response says of its storing is that it is to be confirmed before each use, and a date is all
/// that tells it from others: an origin that confirms it by that may mean another client's.
fn only_confirms(exchange: &Exchange<'_>, directives: &Directives, rules: &Rules<'_>) -> bool {
    let has_strong_tag = || exchange.response.get(ETAG).is_some_and(|tag| !tag.as_bytes().starts_with(b"W/"));
    let only_confirms = !rules.infer && directives.no_cache && !directives.public;
    only_confirms && is_unsaid(exchange, directives, rules) && !has_strong_tag()
}

/// Whether neither the response nor the route says for how long it's good.
fn is_unsaid(exchange: &Exchange<'_>, directives: &Directives, rules: &Rules<'_>) -> bool {
    rules.defaults.ttl.is_none() && !states_lifetime(directives, exchange.response)
}

/// Returns a route's defaults for a response that it doesn't serve stale by itself.
fn without_grace(defaults: Defaults) -> Defaults {
    let never = Duration::ZERO;
    Defaults { grace: never, stale_if_error: never, stale_if_unreachable: never, ..defaults }
}

/// Whether the response states for how long it's good, be it for no time at all.
fn states_lifetime(directives: &Directives, response: &HeaderMap) -> bool {
    let is_in_directives = directives.s_maxage.is_some() || directives.max_age.is_some();
    is_in_directives || !directives.targeted && response.contains_key(EXPIRES)
}

/// Whether a response that sets a cookie may be stored, cookie and all. RFC 9111, section 7.3, lets caches store any;
/// but origins that mean a cookie for one client often state a lifetime for that client's own cache. `public`,
/// `s-maxage` and what targeted fields say is said to shared caches.
fn may_set_cookie(directives: &Directives, is_explicit: bool, rule: StoreSetCookie) -> bool {
    let to_shared = directives.public || directives.s_maxage.is_some() || directives.targeted && is_explicit;
    match rule {
        StoreSetCookie::Never => false,
        StoreSetCookie::Shared => to_shared,
        StoreSetCookie::Explicit => to_shared || is_explicit,
    }
}

/// Whether it is a stream of events (HTML, section 9.2), which begins when its client comes and has no end.
fn is_event_stream(response: &HeaderMap) -> bool {
    let Some(value) = response.get(CONTENT_TYPE) else { return false };
    let media_type = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// The longest that an error which states no lifetime is stored for: long enough for a flood of requests for what isn't
/// there, and too short to be worth provoking.
const ERROR_TTL_MAX: Duration = Duration::from_secs(10);

/// The defaults that count for this response, if it states no lifetime (RFC 9110, section 15.1; RFC 9111, section 4.2.2).
///
/// What is only guessed to be for everybody mustn't have been made for one client: `is_of_one` says that this one sent a
/// cookie, or gets one. Nor is such a response stored to be revalidated: the route's grace would serve it to others before.
fn guessable(exchange: &Exchange<'_>, directives: &Directives, rules: &Rules<'_>, is_of_one: bool) -> Defaults {
    let Rules { infer, defaults, .. } = *rules;
    let status = exchange.status;
    // A model's response has no date of its own.
    let guess = !infer && !is_of_one;
    let heuristic_max = if guess { defaults.heuristic_max } else { Duration::ZERO };
    let is_unsaid_of_one = !infer && is_of_one && is_unsaid(exchange, directives, rules);
    let keep = if is_unsaid_of_one { Duration::ZERO } else { defaults.keep };
    let defaults = &Defaults { keep, ..*defaults };
    if infer && status.is_success() || is_cacheable(status) && !status.is_client_error() && !status.is_server_error() {
        return Defaults { heuristic_max, ..*defaults };
    }
    if status.is_success() {
        // It has to say for how long it is fresh; what follows is the route's.
        let heuristic_max = if directives.public { heuristic_max.min(ERROR_TTL_MAX) } else { Duration::ZERO };
        return Defaults { ttl: None, heuristic_max, ..*defaults };
    }
    let (ttl, stale_if_unreachable) = (None, Duration::ZERO);
    let none = Defaults { ttl, heuristic_max: Duration::ZERO, stale_if_unreachable, ..Defaults::default() };
    let error_max = heuristic_max.min(ERROR_TTL_MAX);
    match (is_cacheable(status), directives.public) {
        (true, _) => Defaults { ttl: defaults.ttl.map(|ttl| ttl.min(ERROR_TTL_MAX)), heuristic_max: error_max, ..none },
        (false, true) => Defaults { heuristic_max: error_max, ..none },
        (false, false) => none,
    }
}

/// Whether a cache may guess the lifetime of a response with this status (RFC 9110, section 15.1), 206 aside.
fn is_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Whether all that a status means for caching is known here: the final ones of RFC 9110 but 206 and 304, and those of
/// RFC 6585, 7725 and 8470.
fn is_understood(status: StatusCode) -> bool {
    let status = status.as_u16();
    matches!(status, 200..=205 | 300..=303 | 305..=308 | 400..=417 | 421 | 422 | 425 | 426 | 428 | 429 | 431 | 451)
        || matches!(status, 500..=505 | 511)
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

/// Section 3: a final status that is understood. 206 and 304 need what a later version brings; with any other status
/// `Content-Range` means nothing (RFC 9110, section 14.4).
fn storable(exchange: &Exchange<'_>) -> bool {
    let status = exchange.status;
    // That of a switch of protocols is for a client that has to ask in another way, and not for those who ask as before.
    let is_of_switch = status == StatusCode::UPGRADE_REQUIRED;
    // A QUERY has the same key with and without a content coding, which an origin may not understand (415).
    let is_coded_query = *exchange.method == Method::QUERY && exchange.request.contains_key(CONTENT_ENCODING);
    !status.is_informational()
        && status != StatusCode::NOT_MODIFIED
        && status != StatusCode::PARTIAL_CONTENT
        && !is_of_switch
        && (status.is_success() || !is_coded_query)
}

/// Whether the response to a request with `Authorization` may be shared, by its directives (section 3.5).
#[must_use]
pub const fn for_authorized(directives: &Directives) -> bool {
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
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn rules(defaults: &Defaults, object_bytes_max: u64) -> Rules<'_> {
        Rules { infer: false, defaults, store_set_cookie: StoreSetCookie::Shared, object_bytes_max }
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
            targeted: &[],
        };
        decide(&exchange, &rules(&Defaults::default(), 10))
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
            (Method::GET, 426, &[], &[FRESH], Refusal::Status),
            (Method::GET, 599, &[], &[("cache-control", "max-age=60, must-understand")], Refusal::Status),
            (Method::GET, 200, &[], &[("cache-control", "max-age=60"), ("age", "60")], Refusal::NoLifetime),
            (Method::GET, 200, &[], &[("cache-control", "max-age=60"), ("age", "60, 0")], Refusal::NoLifetime),
            (Method::GET, 200, &[], &[], Refusal::NoLifetime),
            (Method::GET, 200, &[], &[FRESH, ("vary", "*")], Refusal::VaryAny),
            (Method::QUERY, 415, &[("content-encoding", "gzip")], &[FRESH], Refusal::Status),
            (Method::QUERY, 200, &[], &[FRESH, ("vary", "*")], Refusal::VaryAny),
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
            (&[], &[("cache-control", "max-age=60, no-store, must-understand")]),
            (&[], &[("cache-control", "max-age=60"), ("content-range", "bytes 0-1/2")]),
            (&[], &[("cache-control", "max-age=60"), ("age", "59")]),
        ] {
            let decision = decided(Method::GET, 200, request, response);
            assert!(matches!(decision, Admission::Store(_)), "{response:?}: {decision:?}");
        }
        assert!(matches!(decided(Method::GET, 404, &[], &[("cache-control", "max-age=1")]), Admission::Store(_)));
        for (status, request) in [(200, &[][..]), (404, &[]), (200, &[("content-encoding", "gzip")])] {
            let decision = decided(Method::QUERY, status, request, &[("cache-control", "max-age=1")]);
            assert!(matches!(decision, Admission::Store(_)), "{status} {request:?}: {decision:?}");
        }
    }

    #[test]
    fn a_targeted_field_decides_instead_of_cache_control_and_expires() {
        const LIST: [HeaderName; 2] =
            [HeaderName::from_static("cdn-cache-control"), HeaderName::from_static("surrogate-control")];
        const CDN: &str = "cdn-cache-control";
        const LATER: (&str, &str) = ("expires", "Sat, 06 Nov 2094 08:50:37 GMT");
        let fresh = |seconds: u64| Some(seconds * 1000);
        for (request, response, wanted) in [
            (&[][..], &[("cache-control", "no-store"), (CDN, "max-age=60")][..], Ok(fresh(60))),
            (&[], &[("cache-control", "private"), (CDN, "max-age=60")], Ok(fresh(60))),
            (&[], &[("cache-control", "max-age=9"), (CDN, "no-store")], Err(Refusal::NoStore)),
            (&[], &[("cache-control", "max-age=9"), (CDN, "private")], Err(Refusal::Private)),
            (&[], &[LATER, (CDN, "max-age=0")], Err(Refusal::NoLifetime)),
            (&[], &[LATER, (CDN, "public")], Err(Refusal::NoLifetime)),
            (&[], &[LATER, (CDN, "max-age=60, !")], Ok(Some((1 << 31) * 1000))),
            (&[], &[(CDN, "max-age=60"), ("age", "60")], Err(Refusal::NoLifetime)),
            (&[], &[("cache-control", "no-store"), ("surrogate-control", "max-age=60;holm")], Ok(fresh(60))),
            (&[], &[("cache-control", "max-age=9"), ("surrogate-control", "no-store")], Err(Refusal::NoStore)),
            (&[], &[("cache-control", "max-age=9"), ("surrogate-control", "no-store;abc")], Ok(fresh(9))),
            (&[("authorization", "a")], &[(CDN, "max-age=60, public")], Ok(fresh(60))),
            (&[("authorization", "a")], &[("cache-control", "public"), (CDN, "max-age=60")], Err(Refusal::Authorized)),
            (&[], &[("set-cookie", "a=b"), (CDN, "max-age=60")], Ok(fresh(60))),
        ] {
            let (request, headers) = (headers(request), headers(response));
            let exchange = Exchange {
                method: &Method::GET,
                request: &request,
                lent: false,
                status: StatusCode::OK,
                response: &headers,
                length: Some(10),
                received: Timestamp(0),
                targeted: &LIST,
            };
            let found = match decide(&exchange, &rules(&Defaults::default(), 10)) {
                Admission::Store(storage) => Ok(Some(storage.lifetimes.ttl_ms)),
                Admission::Refuse(refusal) => Err(refusal),
            };
            assert_eq!(found, wanted, "{response:?}");
        }
    }

    #[test]
    fn which_responses_that_set_a_cookie_are_stored() {
        use StoreSetCookie::{Explicit, Never, Shared};
        const LATER: (&str, &str) = ("expires", "Sat, 06 Nov 2094 08:50:37 GMT");
        const MODIFIED: (&str, &str) = ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT");
        let cases: [(&[(&str, &str)], [bool; 3]); 9] = [
            (&[("cache-control", "max-age=60, public")], [false, true, true]),
            (&[("cache-control", "s-maxage=60")], [false, true, true]),
            (&[("cache-control", "max-age=60"), ("cdn-cache-control", "max-age=60")], [false, true, true]),
            (&[("cache-control", "max-age=60"), ("cdn-cache-control", "foo"), MODIFIED], [false, false, false]),
            (&[("cache-control", "max-age=60")], [false, false, true]),
            (&[LATER], [false, false, true]),
            (&[MODIFIED], [false, false, false]),
            (&[("cache-control", "public"), MODIFIED], [false, false, false]),
            (&[("cache-control", "max-age=60, private")], [false, false, false]),
        ];
        for (response, wanted) in cases {
            let fields = response.iter().map(|(name, value)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
            });
            let mut map: HeaderMap = fields.collect();
            map.insert(SET_COOKIE, HeaderValue::from_static("a=b"));
            let request = HeaderMap::new();
            let exchange = Exchange {
                method: &Method::GET,
                request: &request,
                lent: false,
                status: StatusCode::OK,
                response: &map,
                length: Some(10),
                received: Timestamp(784_111_777_000),
                targeted: &[HeaderName::from_static("cdn-cache-control")],
            };
            let defaults = Defaults::default();
            let stores = |store_set_cookie| {
                let rules = Rules { store_set_cookie, ..rules(&defaults, 10) };
                matches!(decide(&exchange, &rules), Admission::Store(_))
            };
            assert_eq!([Never, Shared, Explicit].map(stores), wanted, "{response:?}");
        }
    }

    #[test]
    fn what_was_made_for_a_cookie_is_stored_only_if_somebody_says_so() {
        const MODIFIED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:39:37 GMT");
        const TAG: (&str, &str) = ("etag", "\"1\"");
        const COOKIE: (&str, &str) = ("cookie", "a=b");
        let of = |ttl, keep: u64, grace: u64| Defaults {
            ttl,
            keep: Duration::from_secs(keep),
            grace: Duration::from_secs(grace),
            ..Defaults::default()
        };
        let (none, kept) = (of(None, 0, 0), of(None, 60, 60));
        let timed = of(Some(Duration::from_secs(5)), 60, 60);
        let (cookie, no_lifetime) = (Err(Refusal::Cookie), Err(Refusal::NoLifetime));
        // The request, the response, the route, and the lifetime or why there is none.
        for (request, response, defaults, wanted) in [
            (&[][..], &[MODIFIED][..], &none, Ok(60_000)),
            (&[COOKIE], &[MODIFIED], &none, cookie),
            (&[COOKIE], &[MODIFIED, ("cache-control", "public")], &none, cookie),
            (&[COOKIE], &[MODIFIED, ("vary", "cookie")], &none, cookie),
            // Stored to be revalidated: only for requests without one, where the route keeps such responses.
            (&[], &[TAG], &none, no_lifetime),
            (&[], &[TAG], &kept, Ok(0)),
            (&[COOKIE], &[TAG], &none, no_lifetime),
            (&[COOKIE], &[TAG], &kept, cookie),
            // The origin says so, or the route does.
            (&[COOKIE], &[MODIFIED, ("cache-control", "max-age=7")], &kept, Ok(7_000)),
            (&[COOKIE], &[("cache-control", "no-cache"), TAG], &kept, Ok(0)),
            // By its date alone an origin may confirm another client's.
            (&[], &[("cache-control", "no-cache"), MODIFIED], &kept, Ok(0)),
            (&[COOKIE], &[("cache-control", "no-cache"), MODIFIED], &kept, cookie),
            (&[COOKIE], &[("cache-control", "no-cache"), ("etag", "W/\"1\"")], &kept, cookie),
            (&[COOKIE], &[("cache-control", "no-cache, public"), MODIFIED], &kept, Ok(0)),
            // Stated to be good for no time: others get it only when it is confirmed, not in the route's grace.
            (&[COOKIE], &[("cache-control", "max-age=0"), TAG], &kept, Ok(0)),
            (&[COOKIE], &[("cache-control", "max-age=0")], &kept, cookie),
            (&[COOKIE], &[("expires", "0")], &kept, cookie),
            (&[], &[("cache-control", "max-age=0")], &kept, Ok(0)),
            (&[COOKIE], &[("expires", "Sun, 06 Nov 1994 08:49:46 GMT")], &none, Ok(9_000)),
            (&[COOKIE], &[MODIFIED], &timed, Ok(5_000)),
            (&[COOKIE], &[], &timed, Ok(5_000)),
            // A response that sets one: `public` lets it be stored, and states no lifetime.
            (&[], &[("set-cookie", "a=b"), ("cache-control", "public"), MODIFIED], &none, no_lifetime),
            (&[], &[("set-cookie", "a=b"), ("cache-control", "public"), TAG], &kept, no_lifetime),
            (&[COOKIE], &[("set-cookie", "a=b"), ("cache-control", "public"), MODIFIED], &none, no_lifetime),
            (&[COOKIE], &[("set-cookie", "a=b"), MODIFIED], &none, Err(Refusal::SetsCookie)),
            (&[COOKIE], &[("set-cookie", "a=b"), ("cache-control", "s-maxage=7")], &none, Ok(7_000)),
        ] {
            let (sent, headers) = (headers(request), headers(response));
            let exchange = Exchange {
                method: &Method::GET,
                request: &sent,
                lent: false,
                status: StatusCode::OK,
                response: &headers,
                length: Some(10),
                received: Timestamp(784_111_777_000),
                targeted: &[],
            };
            let found = match decide(&exchange, &rules(defaults, 10)) {
                Admission::Store(storage) => Ok(storage.lifetimes.ttl_ms),
                Admission::Refuse(refusal) => Err(refusal),
            };
            assert_eq!(found, wanted, "{request:?} {response:?} {defaults:?}");
        }
        assert!(!Refusal::Cookie.holds_for_key() && !Refusal::Cookie.is_shareable());
    }

    #[test]
    fn a_stream_of_events_is_stored_only_if_it_says_for_how_long() {
        let defaults = Defaults { ttl: Some(Duration::from_secs(60)), ..Defaults::default() };
        let stream = ("content-type", "Text/Event-Stream; charset=utf-8");
        for (response, infer, wanted) in [
            (&[stream][..], false, Some(Refusal::EventStream)),
            (&[stream, ("cache-control", "public")], false, Some(Refusal::EventStream)),
            (&[stream, ("cache-control", "max-age=5")], false, None),
            (&[stream], true, None),
            (&[("content-type", "text/event-streams")], false, None),
            (&[("incremental", "?1")], false, Some(Refusal::Incremental)),
            (&[("incremental", "?1"), ("cache-control", "max-age=5")], false, None),
            (&[("incremental", "?0")], false, None),
            (&[("incremental", "?1")], true, None),
            (&[], false, None),
        ] {
            let (request, headers) = (HeaderMap::new(), headers(response));
            let exchange = Exchange {
                method: if infer { &Method::POST } else { &Method::GET },
                request: &request,
                lent: false,
                status: StatusCode::OK,
                response: &headers,
                length: None,
                received: Timestamp(0),
                targeted: &[],
            };
            let found = match decide(&exchange, &Rules { infer, ..rules(&defaults, 10) }) {
                Admission::Store(_) => None,
                Admission::Refuse(refusal) => Some(refusal),
            };
            assert_eq!(found, wanted, "{response:?}");
        }
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
            targeted: &[],
        };
        let defaults = Defaults { ttl: Some(Duration::from_secs(1)), ..Defaults::default() };
        assert_eq!(decide(&exchange, &rules(&defaults, 10)), Admission::Refuse(Refusal::TooLarge));
        assert!(matches!(decide(&exchange, &rules(&defaults, 11)), Admission::Store(_)));
        exchange.status = StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(decide(&exchange, &rules(&defaults, 11)), Admission::Refuse(Refusal::NoLifetime));
    }

    #[test]
    fn lifetimes_are_guessed_by_status_and_never_long_for_errors() {
        let ttl = |status: u16, request: &[_], response: &[_], infer, ttl: Option<u64>| {
            let (request, response) = (headers(request), headers(response));
            let exchange = Exchange {
                method: if infer { &Method::POST } else { &Method::GET },
                request: &request,
                lent: false,
                status: StatusCode::from_u16(status).unwrap(),
                response: &response,
                length: Some(10),
                received: Timestamp(784_111_777_000),
                targeted: &[],
            };
            let defaults = Defaults { ttl: ttl.map(Duration::from_secs), ..Defaults::default() };
            match decide(&exchange, &Rules { infer, ..rules(&defaults, 10) }) {
                Admission::Store(storage) => Some(storage.lifetimes.ttl_ms),
                Admission::Refuse(_) => None,
            }
        };
        let long_ago = [("last-modified", "Sun, 06 Nov 1994 00:00:00 GMT")];
        let public = [long_ago[0], ("cache-control", "public")];
        for (status, guessed, by_default, by_public) in [
            (200, Some(3_177_700), Some(60_000), Some(3_177_700)),
            (204, Some(3_177_700), Some(60_000), Some(3_177_700)),
            (301, Some(3_177_700), Some(60_000), Some(3_177_700)),
            (201, None, None, Some(10_000)),
            (202, None, None, Some(10_000)),
            (302, None, None, Some(10_000)),
            (400, None, None, Some(10_000)),
            (403, None, None, Some(10_000)),
            (404, Some(10_000), Some(10_000), Some(10_000)),
            (410, Some(10_000), Some(10_000), Some(10_000)),
            (501, Some(10_000), Some(10_000), Some(10_000)),
            (503, None, None, Some(10_000)),
            (599, None, None, Some(10_000)),
        ] {
            assert_eq!(ttl(status, &[], &long_ago, false, None), guessed, "{status}, guessed");
            assert_eq!(ttl(status, &[], &[], false, Some(60)), by_default, "{status}, by default");
            assert_eq!(ttl(status, &[], &public, false, None), by_public, "{status}, public");
        }
        assert_eq!(ttl(200, &[("cookie", "a=b")], &long_ago, false, None), None);
        assert_eq!(ttl(200, &[], &[], false, None), None);
        assert_eq!(ttl(200, &[], &[], true, Some(60)), Some(60_000));
        assert_eq!(ttl(202, &[], &[], true, Some(60)), Some(60_000));
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
