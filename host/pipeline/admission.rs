//! Whether an answer is kept: by RFC 9111 and the route's defaults, and by the policy, which may think otherwise.

use std::{sync::Arc, time::Duration};

use http::header::AUTHORIZATION;

use super::{Advice, Pipeline, Route};
use crate::{
    cache::{
        admit::{self, Admission, Exchange, Refusal, Storage},
        freshness::Lifetimes,
        tag::{self, Tag},
        vary::{self, Vary},
    },
    config::OnFault,
    message::tag::is_nameable,
    policy::{self, Answer, Decision, Facts, Hook, Question},
};

/// What is done about an answer.
pub(super) struct Ruling {
    pub(super) admission: Admission,
    /// How long requests for the key go on without queueing, if the policy says so.
    pub(super) uncacheable: Option<Duration>,
    /// The policy's reason.
    pub(super) reason: Option<Arc<str>>,
}

/// An answer and what it is an answer to.
pub(super) struct Case<'a> {
    pub(super) exchange: Exchange<'a>,
    /// The age that it arrived with.
    pub(super) initial_age_ms: u64,
    pub(super) fetch: Duration,
}

/// Rules on an answer. `facts` are the request's.
pub(super) fn rule(node: &Pipeline, route: &Route, advice: &Advice, facts: &Facts<'_>, case: &Case<'_>) -> Ruling {
    if advice.is_unshaped() {
        let reason = advice.remarked().cloned();
        return Ruling { admission: Admission::Refuse(Refusal::Policy), uncacheable: None, reason };
    }
    let ruling = judged(node, route, advice, facts, case);
    match &ruling.admission {
        // The client's field isn't the one that the origin answered to.
        Admission::Store(Storage { vary: Some(names), .. }) if names.iter().any(|name| advice.changed(name)) => {
            Admission::Refuse(Refusal::VaryAny).into()
        }
        Admission::Refuse(Refusal::TooManyTags | Refusal::BadTag) => {
            node.cache.metrics().tags_refused.inc();
            ruling
        }
        _ => ruling,
    }
}

fn judged(node: &Pipeline, route: &Route, advice: &Advice, facts: &Facts<'_>, case: &Case<'_>) -> Ruling {
    let exchange = &case.exchange;
    let native = admit::decide(exchange, route.infers(), &route.config.freshness, node.cache.config().object_bytes_max);
    let native = native.unless(|| tag::refusal(exchange.response, &route.config.tag_headers, tags_max(node)));
    if !advice.has(Hook::Admit) || is_final(&native) {
        return native.into();
    }
    let answer = Answer {
        status: exchange.status,
        headers: exchange.response,
        length: exchange.length,
        fetch_us: u64::try_from(case.fetch.as_micros()).unwrap_or(u64::MAX),
    };
    let suggested = suggestion(&native, route, case);
    match advice.ask(&Question::Admit(&suggested), &facts.answered(answer)) {
        None => native.into(),
        Some(Ok(decision)) => match &*decision {
            Decision::Admit(said) if *said != suggested => overruled(said, &native, case, tags_max(node)),
            _ => native.into(),
        },
        // The client has its answer in any case; what is refused is keeping it: the policy might have done so.
        Some(Err(fault)) if route.config.on_fault != OnFault::Native => Ruling {
            admission: Admission::Refuse(Refusal::Policy),
            uncacheable: None,
            reason: Some(fault.kind().into()),
        },
        Some(Err(_)) => native.into(),
    }
}

/// Different tags that a response may have and be stored.
fn tags_max(node: &Pipeline) -> usize {
    node.cache.config().object_tags_max
}

/// Whether a response can't be stored for the tags that a policy gives it.
fn tags_refusal(tags: &[String], max: usize) -> Option<Refusal> {
    if !tags.iter().all(|name| is_nameable(name.as_bytes())) {
        return Some(Refusal::BadTag);
    }
    (tags.len() > max).then_some(Refusal::TooManyTags)
}

/// What no policy can change: it can't be kept, or the client asked that it not be.
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

/// The policy thinks otherwise.
fn overruled(said: &policy::Admission, native: &Admission, case: &Case<'_>, tags_max: usize) -> Ruling {
    let storage = match said {
        policy::Admission::Pass(reason) => {
            // What wasn't to be kept anyway isn't, in the same way; only the word is the policy's.
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
    let for_authorized = match native {
        Admission::Store(native) => native.for_authorized,
        // The policy has the say (RFC 9111, section 3.5, left to the operator): it knows what it keeps it under.
        Admission::Refuse(_) => {
            let exchange = &case.exchange;
            exchange.request.contains_key(AUTHORIZATION) || admit::permits_authorized(exchange.response)
        }
    };
    let bounded = Lifetimes {
        ttl_ms: storage.ttl_ms,
        grace_ms: storage.grace_ms,
        stale_if_error_ms: storage.stale_if_error_ms,
        keep_ms: storage.keep_ms,
    }
    .bounded();
    let lifetimes = Lifetimes { ttl_ms: bounded.ttl_ms.saturating_add(case.initial_age_ms), ..bounded };
    if storage.ttl_ms.max(storage.grace_ms).max(storage.stale_if_error_ms).max(storage.keep_ms) == 0 {
        // Dead on arrival: kept it would only be in the way.
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
    use http::{HeaderMap, HeaderName, Method, StatusCode};

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn what_varies_by_what_no_request_can_be_known_to_match_is_not_stored() {
        let (method, headers) = (Method::GET, HeaderMap::new());
        let exchange = Exchange {
            method: &method,
            request: &headers,
            lent: false,
            status: StatusCode::OK,
            response: &headers,
            length: Some(1),
            received: Timestamp(0),
        };
        let case = Case { exchange, initial_age_ms: 0, fetch: Duration::ZERO };
        let native = Admission::Refuse(Refusal::NoLifetime);
        let ruled = |names: &[&str]| {
            let vary = names.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).collect();
            let said = policy::Admission::Store(policy::Storage { ttl_ms: 1, vary, ..policy::Storage::default() });
            overruled(&said, &native, &case, 10).admission
        };
        for names in [&["*"][..], &["accept", "*"], &["x-forwarded-for"]] {
            assert_eq!(ruled(names), Admission::Refuse(Refusal::VaryAny), "{names:?}");
        }
        let Admission::Store(stored) = ruled(&["b", "a", "b"]) else { panic!("refused") };
        assert_eq!(stored.vary.unwrap(), ["a", "b"]);
        let Admission::Store(stored) = ruled(&[]) else { panic!("refused") };
        assert_eq!(stored.vary, None);
    }
}
