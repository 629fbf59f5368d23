//! Whether a response is stored: by RFC 9111 and the route's defaults, and by the policy, which may decide otherwise.
//! Pure, but for the policy that is called and the count of refused tags.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, StatusCode, header::AUTHORIZATION};

use super::{advice::Advice, route::Route, trace};
use crate::{
    cache::{
        Cache,
        admit::{self, Admission, Exchange, Refusal, Rules, Storage},
        freshness::{Lifetimes, initial_age_ms},
        groups,
        purge::Mark,
        tag::{self, Tag},
        targeted,
        vary::{self, Vary},
    },
    clock::Timestamp,
    config::OnFault,
    message::tag::is_nameable,
    policy::{self, Decision, Facts, Hook, HookCall, ResponseFacts},
};

/// The decision about a response.
pub(super) struct Ruling {
    pub(super) admission: Admission,
    /// How long requests for the key go on without queueing, if the policy says so.
    pub(super) uncacheable: Option<Duration>,
    /// The policy's reason.
    pub(super) reason: Option<Arc<str>>,
}

/// The times of an exchange.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// Where the purge log stood when it began.
    pub(super) mark: Mark,
    pub(super) requested: Timestamp,
    pub(super) received: Timestamp,
    pub(super) fetch: Duration,
}

/// The parts of a response that the decision depends on.
#[derive(Clone, Copy)]
pub(super) struct Responded<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    /// The body's length, if it is known.
    pub(super) length: Option<u64>,
}

/// A response and the request that it is a response to.
pub(super) struct Case<'a> {
    exchange: Exchange<'a>,
    /// The age that it arrived with.
    initial_age_ms: u64,
    fetch: Duration,
}

impl<'a> Case<'a> {
    /// Returns the case of a response to a client's request, on a route, with this method and these header fields.
    pub(super) fn new(
        route: &'a Route,
        method: &'a Method,
        request: &'a HeaderMap,
        advice: &Advice,
        response: Responded<'a>,
        times: &Times,
    ) -> Self {
        let Responded { status, headers, length } = response;
        let (lent, received, targeted) = (advice.lends_credentials(), times.received, route.targeted());
        let exchange = Exchange { method, request, lent, status, response: headers, length, received, targeted };
        Self { exchange, initial_age_ms: initial_age_ms(headers, times.requested, received), fetch: times.fetch }
    }
}

/// The limits of what may be stored.
#[derive(Clone, Copy)]
struct Bounds {
    object_bytes_max: u64,
    object_tags_max: usize,
}

/// Rules on a response. `facts` are the request's.
pub(super) fn rule(cache: &Cache, route: &Route, advice: &Advice, facts: &Facts<'_>, case: &Case<'_>) -> Ruling {
    let config = cache.config();
    let bounds = Bounds { object_bytes_max: cache.object_bytes_max(), object_tags_max: config.object_tags_max };
    let ruling = ruled(bounds, route, advice, facts, case);
    if let Admission::Refuse(Refusal::TooManyTags | Refusal::BadTag) = ruling.admission {
        cache.metrics().tags_refused.inc();
    }
    trace::admitted(advice.span(), &ruling.admission, ruling.reason.as_deref());
    ruling
}

fn ruled(bounds: Bounds, route: &Route, advice: &Advice, facts: &Facts<'_>, case: &Case<'_>) -> Ruling {
    if advice.is_unedited() {
        let reason = advice.remarked().cloned();
        return Ruling { admission: Admission::Refuse(Refusal::Policy), uncacheable: None, reason };
    }
    let ruling = judged(bounds, route, advice, facts, case);
    let refusal = match &ruling.admission {
        // The client's field isn't the one that the origin responded to.
        Admission::Store(Storage { vary: Some(names), .. }) if names.iter().any(|name| advice.changed(name)) => {
            Some(Refusal::VaryAny)
        }
        // A policy may give it other tags, but its groups stay those that its origin invalidates.
        Admission::Store(_) if route.groups() => groups::refuse(case.exchange.response),
        _ => None,
    };
    match refusal {
        Some(refusal) => Admission::Refuse(refusal).into(),
        None => ruling,
    }
}

fn judged(bounds: Bounds, route: &Route, advice: &Advice, facts: &Facts<'_>, case: &Case<'_>) -> Ruling {
    let native = natively(bounds, route, case);
    if !advice.has(Hook::Admit) || is_final(&native) {
        return native.into();
    }
    let exchange = &case.exchange;
    let response = ResponseFacts {
        status: exchange.status,
        headers: exchange.response,
        length: exchange.length,
        fetch_us: u64::try_from(case.fetch.as_micros()).unwrap_or(u64::MAX),
    };
    let suggested = suggestion(&native, route, case);
    match advice.ask(&HookCall::Admit(&suggested), &facts.with_response(response)) {
        None => native.into(),
        Some(Ok(decision)) => match &*decision {
            Decision::Admit(said) if *said != suggested => overruled(said, &native, case, bounds.object_tags_max),
            _ => native.into(),
        },
        // The client has its response in any case; what is refused is storing it: the policy might have done so.
        Some(Err(fault)) if route.config.on_fault != OnFault::Native => Ruling {
            admission: Admission::Refuse(Refusal::Policy),
            uncacheable: None,
            reason: Some(fault.kind().into()),
        },
        Some(Err(_)) => native.into(),
    }
}

/// What RFC 9111, the route's defaults and the bounds say.
fn natively(bounds: Bounds, route: &Route, case: &Case<'_>) -> Admission {
    let (exchange, config) = (&case.exchange, &route.config);
    let rules = Rules {
        infer: route.infers(),
        defaults: &config.freshness,
        store_set_cookie: config.store_set_cookie,
        object_bytes_max: bounds.object_bytes_max,
    };
    let native = admit::decide(exchange, &rules);
    native.unless(|| admit::refuse_tags(exchange.response, &config.tag_headers, bounds.object_tags_max))
}

/// Whether a response can't be stored for the tags that a policy gives it.
fn tags_refusal(tags: &[String], max: usize) -> Option<Refusal> {
    if !tags.iter().all(|name| is_nameable(name.as_bytes())) {
        return Some(Refusal::BadTag);
    }
    (tags.len() > max).then_some(Refusal::TooManyTags)
}

/// Whether no policy can change it: it can't be stored, or the client asked that it not be.
const fn is_final(native: &Admission) -> bool {
    matches!(native, Admission::Refuse(Refusal::Method | Refusal::Status | Refusal::TooLarge | Refusal::RequestNoStore))
}

fn suggestion(native: &Admission, route: &Route, case: &Case<'_>) -> policy::Admission {
    let storage = match native {
        Admission::Refuse(refusal) => return policy::Admission::Pass(refusal.as_str().to_owned()),
        Admission::Store(storage) => storage,
    };
    let names = tag::names(case.exchange.response, &route.config.tag_headers);
    policy::Admission::Store(policy::Storage {
        ttl_ms: storage.lifetimes.ttl_ms.saturating_sub(case.initial_age_ms),
        grace_ms: storage.lifetimes.grace_ms,
        stale_if_error_ms: storage.lifetimes.stale_if_error_ms,
        keep_ms: storage.lifetimes.keep_ms,
        tags: names.map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        vary: storage.vary.clone().unwrap_or_default(),
    })
}

/// The ruling where the policy decides otherwise.
fn overruled(said: &policy::Admission, native: &Admission, case: &Case<'_>, tags_max: usize) -> Ruling {
    let storage = match said {
        policy::Admission::Pass(reason) => {
            // What wasn't to be stored anyway isn't, in the same way; only the word is the policy's.
            let refusal = match native {
                Admission::Refuse(refusal) => *refusal,
                Admission::Store(_) => Refusal::Policy,
            };
            let reason = Some(reason.as_str().into());
            return Ruling { admission: Admission::Refuse(refusal), uncacheable: None, reason };
        }
        policy::Admission::MarkUncacheable { ms } => {
            return Ruling {
                admission: Admission::Refuse(Refusal::Policy),
                uncacheable: Some(Duration::from_millis(*ms)),
                reason: Some("uncacheable".into()),
            };
        }
        policy::Admission::Store(storage) => storage,
    };
    if let Some(refusal) = tags_refusal(&storage.tags, tags_max) {
        return Admission::Refuse(refusal).into();
    }
    let (for_authorized, forbids_stale, stale_if_unreachable_ms) = match native {
        Admission::Store(native) => {
            (native.for_authorized, native.forbids_stale, native.lifetimes.stale_if_unreachable_ms)
        }
        // The policy decides (RFC 9111, section 3.5, left to the operator): it knows the key.
        Admission::Refuse(_) => {
            let exchange = &case.exchange;
            let directives = targeted::effective(exchange.response, exchange.targeted);
            let for_authorized = exchange.request.contains_key(AUTHORIZATION) || admit::for_authorized(&directives);
            (for_authorized, directives.forbids_stale(), 0)
        }
    };
    let bounded = Lifetimes {
        ttl_ms: storage.ttl_ms,
        grace_ms: storage.grace_ms,
        stale_if_error_ms: storage.stale_if_error_ms,
        stale_if_unreachable_ms,
        keep_ms: storage.keep_ms,
    }
    .bounded();
    let lifetimes = Lifetimes { ttl_ms: bounded.ttl_ms.saturating_add(case.initial_age_ms), ..bounded };
    if storage.ttl_ms.max(storage.grace_ms).max(storage.stale_if_error_ms).max(storage.keep_ms) == 0 {
        // Its lifetime is over on arrival: stored, it would only take space.
        return Admission::Refuse(Refusal::NoLifetime).into();
    }
    let vary = match vary::by(storage.vary.clone()) {
        Vary::No => None,
        Vary::By(names) => Some(names),
        Vary::Any => return Admission::Refuse(Refusal::VaryAny).into(),
    };
    Admission::Store(Storage {
        lifetimes,
        vary,
        for_authorized,
        forbids_stale,
        tags: Some(storage.tags.iter().map(|name| Tag::named(name.as_bytes())).collect()),
    })
    .into()
}

impl From<Admission> for Ruling {
    fn from(admission: Admission) -> Self {
        Self { admission, uncacheable: None, reason: None }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::{
        config::{self, Mode, Protocol},
        policy::{Notes, facts::tests::request},
    };

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    const BOUNDS: Bounds = Bounds { object_bytes_max: 100, object_tags_max: 2 };

    fn route(mode: Mode, ttl: Option<Duration>) -> Route {
        let mut config = config::Route::new("r", "p");
        (config.mode, config.freshness.ttl) = (mode, ttl);
        config.tag_headers = vec![HeaderName::from_static("x-tag")];
        Route::nowhere(config)
    }

    /// An exchange that took no time.
    fn case<'a>(method: &'a Method, request: &'a HeaderMap, response: &'a HeaderMap, length: u64) -> Case<'a> {
        let exchange = Exchange {
            method,
            request,
            lent: false,
            status: StatusCode::OK,
            response,
            length: Some(length),
            received: Timestamp(0),
            targeted: &[],
        };
        Case { exchange, initial_age_ms: 0, fetch: Duration::ZERO }
    }

    fn refusal(admission: &Admission) -> Option<Refusal> {
        match admission {
            Admission::Store(_) => None,
            Admission::Refuse(refusal) => Some(*refusal),
        }
    }

    #[test]
    fn what_is_ruled_without_a_policy() {
        const FRESH: (&str, &str) = ("cache-control", "max-age=60");
        let default = Some(Duration::from_secs(1));
        let (http, item) = (Mode::Http, Mode::Infer(Protocol::Plain));
        // mode, the route's lifetime, method, request, response, length, the refusal if there is one
        for (mode, ttl, method, sent, response, length, wanted) in [
            (http, None, Method::GET, &[][..], &[FRESH][..], 100, None),
            (http, None, Method::GET, &[], &[FRESH], 101, Some(Refusal::TooLarge)),
            (http, None, Method::GET, &[], &[], 1, Some(Refusal::NoLifetime)),
            (http, default, Method::GET, &[], &[], 1, None),
            (http, default, Method::POST, &[], &[], 1, Some(Refusal::Method)),
            (item, default, Method::POST, &[], &[], 1, None),
            (http, None, Method::GET, &[("authorization", "a")], &[FRESH], 1, Some(Refusal::Authorized)),
            (item, None, Method::POST, &[("authorization", "a")], &[FRESH], 1, None),
            (http, None, Method::GET, &[("cache-control", "no-store")], &[FRESH], 1, Some(Refusal::RequestNoStore)),
            (http, None, Method::GET, &[], &[FRESH, ("x-tag", "a b")], 1, None),
            (http, None, Method::GET, &[], &[FRESH, ("x-tag", "a b c")], 1, Some(Refusal::TooManyTags)),
            (http, None, Method::GET, &[], &[FRESH, ("cache-groups", "\"a\", \"b\", \"c\"")], 1, None),
            (http, None, Method::GET, &[], &[FRESH, ("cache-groups", "a")], 1, Some(Refusal::BadTag)),
            (item, default, Method::POST, &[], &[("cache-groups", "a")], 1, None),
            (http, None, Method::QUERY, &[], &[FRESH], 1, None),
        ] {
            let head = request(method, "/", sent);
            let (notes, response) = (Notes::default(), headers(response));
            let facts = Facts::new(&head, None, &notes);
            let case = case(&head.method, &head.headers, &response, length);
            let ruling = ruled(BOUNDS, &route(mode, ttl), &Advice::default(), &facts, &case);
            assert_eq!(refusal(&ruling.admission), wanted, "{mode:?} {sent:?} {response:?} {length}");
            assert_eq!((ruling.uncacheable, ruling.reason), (None, None));
        }
    }

    fn stored(ttl_ms: u64, tags: &[&str], vary: &[&str]) -> policy::Admission {
        let vary = vary.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).collect();
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        policy::Admission::Store(policy::Storage { ttl_ms, tags, vary, ..policy::Storage::default() })
    }

    /// The ruling on a response that is refused natively for this reason, if a policy says otherwise.
    fn overruling(said: &policy::Admission, native: Refusal) -> Ruling {
        let (method, headers) = (Method::GET, HeaderMap::new());
        overruled(said, &Admission::Refuse(native), &case(&method, &headers, &headers, 1), BOUNDS.object_tags_max)
    }

    #[test]
    fn what_a_policy_says_against_the_native_rules() {
        let pass = policy::Admission::Pass("odd".to_owned());
        let mark = policy::Admission::MarkUncacheable { ms: 7 };
        let (none, private) = (Refusal::NoLifetime, Refusal::Private);
        // what it says, the native refusal, the refusal then, the marker's time, the reason
        for (said, native, wanted, uncacheable, reason) in [
            (&stored(1, &["a", "b"], &[]), private, None, None, None),
            (&stored(1, &["a", "b", "c"], &[]), none, Some(Refusal::TooManyTags), None, None),
            (&stored(1, &["a\nb"], &[]), none, Some(Refusal::BadTag), None, None),
            (&stored(0, &[], &[]), none, Some(none), None, None),
            (&stored(1, &[], &["*"]), none, Some(Refusal::VaryAny), None, None),
            (&pass, private, Some(private), None, Some("odd")),
            (&mark, private, Some(Refusal::Policy), Some(Duration::from_millis(7)), Some("uncacheable")),
        ] {
            let ruling = overruling(said, native);
            assert_eq!(refusal(&ruling.admission), wanted, "{said:?}");
            assert_eq!((ruling.uncacheable, ruling.reason.as_deref()), (uncacheable, reason), "{said:?}");
        }
    }

    #[test]
    fn what_no_policy_is_asked_about() {
        for (refusal, wanted) in [
            (Refusal::Method, true),
            (Refusal::Status, true),
            (Refusal::TooLarge, true),
            (Refusal::RequestNoStore, true),
            (Refusal::NoStore, false),
            (Refusal::Private, false),
            (Refusal::Authorized, false),
            (Refusal::SetsCookie, false),
            (Refusal::NoLifetime, false),
            (Refusal::Cookie, false),
            (Refusal::VaryAny, false),
            (Refusal::TooManyTags, false),
        ] {
            assert_eq!(is_final(&Admission::Refuse(refusal)), wanted, "{refusal:?}");
        }
    }

    #[test]
    fn what_varies_by_what_no_request_can_be_known_to_match_is_not_stored() {
        let ruled = |names: &[&str]| overruling(&stored(1, &[], names), Refusal::NoLifetime).admission;
        for names in [&["*"][..], &["accept", "*"], &["x-forwarded-for"]] {
            assert_eq!(ruled(names), Admission::Refuse(Refusal::VaryAny), "{names:?}");
        }
        let Admission::Store(stored) = ruled(&["b", "a", "b"]) else { panic!("refused") };
        assert_eq!(stored.vary.unwrap(), ["a", "b"]);
        let Admission::Store(stored) = ruled(&[]) else { panic!("refused") };
        assert_eq!(stored.vary, None);
    }
}
