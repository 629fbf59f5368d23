//! Requests with one answer each: HTTP semantics, and questions that aren't batched.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use tokio::sync::oneshot;
use tracing::warn;

use super::{
    Lookup, Pipeline, Route, Served, Trail,
    fetch::{self, Ask, Exchanged, Landing, Pump},
    keying::{self, Keyed},
    reply::found,
};
use crate::{
    cache::{
        Found, Query,
        admit::Refusal,
        collapse::{Follower, Joined},
        entry::Object,
        key::Key,
        lookup::{Demand, Outcome},
        purge::Mark,
        status::Forward,
        store::Tier,
        tag::Tag,
        vary,
    },
    clock,
    config::Protocol,
    message::{Body, BodyError, Request, RequestHead},
    origin::{Outbound, OutboundBody, protocol},
    policy::{Facts, Fault},
};

/// How often a request joins a flight before it asks for itself: by its key, by its variant's, and once more if what
/// came was purged meanwhile.
const JOINS_MAX: usize = 3;

/// Invalidating after an unsafe method must not hold up its answer for longer than this.
const INVALIDATE_TIME: std::time::Duration = std::time::Duration::from_millis(250);

/// What the quick way came to.
#[expect(clippy::large_enum_variant, reason = "the large variant is the one that must not allocate")]
pub(super) enum Quick {
    /// A fresh hit in memory.
    Served(Served),
    /// The long way. The key, if it was made: a policy is asked once a request.
    Onward(Option<Keyed>),
}

/// Answers at once what is fresh in memory and needs no body to be keyed.
pub(super) fn quick(node: &Pipeline, route: &Arc<Route>, head: &RequestHead) -> Quick {
    if route.needs_body() || !(head.method == Method::GET || head.method == Method::HEAD) {
        return Quick::Onward(None);
    }
    let keyed = keying::derive(route, &Facts::new(head, None), None);
    match &keyed {
        Keyed::Key { key, fault: None } => match memory_hit(node, route, head, *key) {
            Some(served) => Quick::Served(served),
            None => Quick::Onward(Some(keyed)),
        },
        _ => Quick::Onward(Some(keyed)),
    }
}

fn memory_hit(node: &Pipeline, route: &Arc<Route>, head: &RequestHead, key: Key) -> Option<Served> {
    let demand = Demand::of(&head.headers);
    if demand.directives.no_store {
        return None;
    }
    let now = clock::now();
    let url = || Tag::url(&head.url());
    let query = Query { key, headers: &head.headers, demand: &demand, url: &url, now };
    let Some(Found { outcome: Outcome::Hit(object), .. }) = node.cache.peek(&query) else { return None };
    let response = node.hit_reply(&object, head.into(), now)?;
    let mut trail = Trail { key: Some(key), ..Trail::on(route) };
    found(&mut trail, Lookup::Hit, Tier::Memory);
    Some(Served { response, trail })
}

/// Answers any request of a route whose bodies aren't split.
pub(super) async fn serve(node: &Arc<Pipeline>, route: Arc<Route>, request: Request, keyed: Option<Keyed>) -> Served {
    let Request { head, body } = request;
    let asks = head.method == Method::GET || head.method == Method::HEAD;
    let trail = Trail::on(&route);
    if !(asks || route.infers() && head.method == Method::POST) {
        return pass(node, &route, head, body, Forward::Method, trail).await;
    }
    let bytes = if route.needs_body() {
        match body.collect(node.limits.body_bytes_max).await {
            Ok(bytes) => bytes,
            Err(error) => return bad_body(node, &error, trail),
        }
    } else if http_body::Body::is_end_stream(&body) {
        Bytes::new()
    } else {
        // A GET with a body that nothing reads has no meaning that a cache could know.
        return pass(node, &route, head, body, Forward::Bypass, trail).await;
    };
    let (bytes, canonical) = question(&route, bytes);
    let keyed = keyed.unwrap_or_else(|| keying::derive(&route, &Facts::new(&head, Some(&bytes)), canonical.as_deref()));
    match way(node, &route, &head, keyed, trail) {
        Way::LookUp(request) => look_up(node, &route, head, bytes, request).await,
        Way::Around(forward, trail) => pass(node, &route, head, Body::Full(bytes), forward, trail).await,
        Way::Done(served) => *served,
    }
}

/// The body as it travels on, and its canonical form if it's a question.
fn question(route: &Route, body: Bytes) -> (Bytes, Option<Bytes>) {
    if !route.infers() {
        return (body, None);
    }
    match protocol::split(Protocol::Plain, &body, 1).map(|split| split.questions.into_iter().next()) {
        Ok(Some(question)) => (question.body, Some(question.canonical)),
        // Whatever isn't JSON stands for itself.
        Ok(None) | Err(_) => (body.clone(), Some(body)),
    }
}

/// Where a request goes once its key is known.
enum Way {
    LookUp(Asked),
    Around(Forward, Trail),
    Done(Box<Served>),
}

/// A keyed request.
struct Asked {
    key: Key,
    demand: Demand,
    trail: Trail,
}

fn way(node: &Pipeline, route: &Route, head: &RequestHead, keyed: Keyed, mut trail: Trail) -> Way {
    trail.detail = keyed.remark(route).map(Cow::Owned);
    let key = match keyed {
        Keyed::Key { key, .. } => key,
        Keyed::Bypass(_) => return Way::Around(Forward::Bypass, trail),
        Keyed::Refused(fault) => return Way::Done(Box::new(node.refused_reply(route, &fault, trail))),
    };
    trail.key = Some(key);
    let demand = Demand::of(&head.headers);
    if demand.directives.no_store {
        return Way::Around(Forward::Request, trail);
    }
    Way::LookUp(Asked { key, demand, trail })
}

async fn look_up(node: &Arc<Pipeline>, route: &Arc<Route>, head: RequestHead, body: Bytes, asked: Asked) -> Served {
    let Asked { key, demand, mut trail } = asked;
    let now = clock::now();
    let url = Tag::url(&head.url());
    let query = Query { key, headers: &head.headers, demand: &demand, url: &move || url, now };
    let found_here = match node.cache.peek(&query) {
        Some(found) => found,
        None => node.cache.look_up(&query).await,
    };
    let mut ask = Ask { head, body, primary: key, key: found_here.key, stale: None, if_error: false };
    let mut forward = if found_here.varied { Forward::VaryMiss } else { Forward::UriMiss };
    let mut alone = found_here.uncacheable || demand.authorized || ask.head.headers.contains_key(header::RANGE);
    match found_here.outcome {
        Outcome::Hit(object) => {
            // Past its lifetime it is a hit only because the client accepts that (`max-stale`).
            let fresh = object.head.age_ms(now) < object.head.lifetimes.ttl_ms;
            found(&mut trail, if fresh { Lookup::Hit } else { Lookup::Stale }, found_here.tier);
            if let Some(served) = node.object_reply(ask.key, &object, (&ask.head).into(), trail.clone(), now) {
                return served;
            }
        }
        Outcome::Grace(object) => {
            found(&mut trail, Lookup::Stale, found_here.tier);
            if let Some(served) = node.object_reply(ask.key, &object, (&ask.head).into(), trail.clone(), now) {
                refresh(node, route, ask, object);
                return served;
            }
        }
        Outcome::Stale { object, if_error, by_request } => {
            forward = if by_request { Forward::Request } else { Forward::Stale };
            alone |= by_request;
            (ask.stale, ask.if_error) = (Some(object), if_error);
        }
        Outcome::Miss => {}
    }
    (trail.lookup, trail.tier, trail.forward) = (Lookup::Miss, None, Some(forward));
    if demand.directives.only_if_cached {
        let detail = "the request is only-if-cached, and nothing that may be used is stored";
        return node.own(StatusCode::GATEWAY_TIMEOUT, "Not cached", detail, trail);
    }
    if ask.head.headers.contains_key(header::RANGE) {
        // Ranges of what isn't stored come from the origin as they are.
        return pass(node, route, ask.head, Body::Empty, Forward::Bypass, trail).await;
    }
    if alone { fetch_alone(node, route, ask, trail).await } else { collapse(node, route, ask, trail).await }
}

/// A stale answer was served: fetch anew in the background, unless somebody does already.
fn refresh(node: &Arc<Pipeline>, route: &Arc<Route>, mut ask: Ask, object: Arc<Object>) {
    ask.stale = Some(object);
    if let Joined::Lead(lead) = node.flights.join(&ask.key) {
        tokio::spawn(fetch::lead(Arc::clone(node), Arc::clone(route), ask, lead, oneshot::channel().0));
    }
}

/// Waits for the one fetch that serves all who ask the same, starting it if need be.
async fn collapse(node: &Arc<Pipeline>, route: &Arc<Route>, mut ask: Ask, mut trail: Trail) -> Served {
    for _ in 0..JOINS_MAX {
        let joined = node.cache.purger().mark();
        let (follower, own) = match node.flights.join(&ask.key) {
            Joined::Full => break,
            Joined::Follow(follower) => (follower, None),
            Joined::Lead(lead) => {
                // Between our look-up and this flight an earlier one may have landed and stored what we want.
                if let Some(served) = already_stored(node, &ask, &trail) {
                    return served;
                }
                let (sender, own) = oneshot::channel();
                let follower = lead.follower();
                tokio::spawn(fetch::lead(Arc::clone(node), Arc::clone(route), ask.clone(), lead, sender));
                (follower, Some(own))
            }
        };
        trail.collapsed = own.is_none();
        match land(node, &mut ask, joined, follower, own, trail.clone()).await {
            Landed::Served(served) => return *served,
            Landed::Again => {}
            Landed::Alone => break,
        }
    }
    trail.collapsed = false;
    fetch_alone(node, route, ask, trail).await
}

fn already_stored(node: &Arc<Pipeline>, ask: &Ask, trail: &Trail) -> Option<Served> {
    if ask.stale.is_some() {
        return None;
    }
    let demand = Demand::of(&ask.head.headers);
    let now = clock::now();
    let url = || Tag::url(&ask.head.url());
    let query = Query { key: ask.primary, headers: &ask.head.headers, demand: &demand, url: &url, now };
    let Some(Found { outcome: Outcome::Hit(object), key, .. }) = node.cache.peek(&query) else { return None };
    let mut trail = Trail { forward: None, ..trail.clone() };
    found(&mut trail, Lookup::Hit, Tier::Memory);
    node.object_reply(key, &object, (&ask.head).into(), trail, now)
}

/// What a landing means for one who waited.
enum Landed {
    Served(Box<Served>),
    /// It was another variant, or it was purged meanwhile: join again.
    Again,
    Alone,
}

type Own = oneshot::Receiver<(crate::message::Response, fetch::Served)>;

async fn land(
    node: &Arc<Pipeline>,
    ask: &mut Ask,
    joined: Mark,
    follower: Follower<Landing>,
    own: Option<Own>,
    trail: Trail,
) -> Landed {
    let flight = follower.number();
    // What was purged between the start of the flight and the moment we joined it is not for us.
    let outdated = |tags: &[Tag], mark: &Mark| *mark != joined && node.cache.purger().is_outdated(tags, mark);
    let served = match follower.landed().await {
        None => None,
        Some(Landing::Shared(arrival)) => {
            if outdated(&arrival.tags, &arrival.mark) {
                node.flights.retire(&ask.key, flight);
                return Landed::Again;
            }
            if let Some(names) = &arrival.place.names {
                let variant = vary::variant(&ask.primary, names, &ask.head.headers);
                if variant != arrival.place.key {
                    ask.key = variant;
                    return Landed::Again;
                }
            }
            node.arrival_reply(&arrival, (&ask.head).into(), trail)
        }
        Some(Landing::Renewed(object, _)) if outdated(&object.head.tags, &object.head.mark) => {
            // What was purged after it was found good must come anew, not be renewed again.
            (ask.stale, ask.if_error) = (None, false);
            node.flights.retire(&ask.key, flight);
            return Landed::Again;
        }
        Some(Landing::Renewed(object, served)) => renewed(node, ask, &object, &served, trail),
        Some(Landing::Failed(failed)) => Some(or_stale(node, ask, &failed, trail)),
        Some(Landing::Private(refusal)) => match own {
            Some(own) => own.await.ok().map(|(response, served)| refused(node, response, &served, refusal, trail)),
            None => None,
        },
    };
    served.map_or(Landed::Alone, |served| Landed::Served(Box::new(served)))
}

fn renewed(
    node: &Pipeline,
    ask: &Ask,
    object: &Arc<Object>,
    served: &fetch::Served,
    mut trail: Trail,
) -> Option<Served> {
    trail.forward_status = Some(served.status.as_u16());
    trail.endpoint = Some(Arc::clone(&served.endpoint));
    (trail.attempts, trail.stored) = (served.attempts, true);
    node.object_reply(ask.key, object, (&ask.head).into(), trail, clock::now())
}

/// The answer that isn't stored, and why it isn't.
fn refused(
    node: &Pipeline,
    response: crate::message::Response,
    served: &fetch::Served,
    refusal: Refusal,
    mut trail: Trail,
) -> Served {
    trail.detail.get_or_insert(refusal.as_str().into());
    node.passed_reply(response, served, trail)
}

/// The origin failed: what is stored, if it may be served then, else the failure.
fn or_stale(node: &Pipeline, ask: &Ask, failed: &fetch::Failed, trail: Trail) -> Served {
    if let (Some(object), true) = (&ask.stale, ask.if_error) {
        let mut stale = Trail { detail: Some(failed.reason.into()), ..trail.clone() };
        stale.lookup = Lookup::Stale;
        if let Some(served) = node.object_reply(ask.key, object, (&ask.head).into(), stale, clock::now()) {
            return served;
        }
    }
    node.failed_reply(failed, trail)
}

/// Fetches for one client only; what may be stored is stored.
async fn fetch_alone(node: &Arc<Pipeline>, route: &Arc<Route>, ask: Ask, trail: Trail) -> Served {
    match fetch::exchange(node, route, &ask).await {
        Exchanged::Failed(failed) => or_stale(node, &ask, &failed, trail),
        Exchanged::Refused(response, served, refusal) => refused(node, response, &served, refusal, trail),
        Exchanged::Renewed(object, served) => {
            renewed(node, &ask, &object, &served, trail.clone()).unwrap_or_else(|| lost_parts(node, trail))
        }
        Exchanged::Error(arrival) => {
            node.arrival_reply(&arrival, (&ask.head).into(), trail.clone()).unwrap_or_else(|| lost_parts(node, trail))
        }
        Exchanged::Stored(arrival, pump) => {
            // Whoever asked `no-cache`, and every request from now on, finds what this fetch brings.
            let reply = node.arrival_reply(&arrival, (&ask.head).into(), trail.clone());
            tokio::spawn(Pump::run(*pump, None));
            reply.unwrap_or_else(|| lost_parts(node, trail))
        }
    }
}

/// The origin says what we have is good, but a part of it has left the tiers in the meantime.
fn lost_parts(node: &Pipeline, mut trail: Trail) -> Served {
    trail.detail = Some("parts-lost".into());
    let detail = "a part of the stored answer is gone; the next request fetches it anew";
    node.own(StatusCode::BAD_GATEWAY, "Bad gateway", detail, trail)
}

/// Passes a request and its answer through. An unsafe method that succeeds outdates what is stored for its URL
/// (RFC 9111, section 4.4).
async fn pass(
    node: &Arc<Pipeline>,
    route: &Arc<Route>,
    head: RequestHead,
    body: Body,
    forward: Forward,
    mut trail: Trail,
) -> Served {
    trail.lookup = if forward == Forward::Method { Lookup::Pass } else { Lookup::Bypass };
    trail.forward = Some(forward);
    let outbound = Outbound {
        method: head.method.clone(),
        authority: head.authority.clone(),
        target: head.target.clone(),
        headers: fetch::forwarded(&head),
        body: match body {
            Body::Empty => OutboundBody::Empty,
            Body::Full(bytes) if bytes.is_empty() => OutboundBody::Empty,
            Body::Full(bytes) => OutboundBody::Replayable(bytes),
            Body::Stream(_) => OutboundBody::Once(body),
        },
    };
    match route.pool.fetch(outbound).await {
        Err(failure) => node.failed_reply(&failure.into(), trail),
        Ok(fetched) => {
            let status = fetched.response.status();
            if !head.method.is_safe() && (status.is_success() || status.is_redirection()) && !route.infers() {
                invalidate(node, route, head).await;
            }
            let served = fetch::Served { endpoint: fetched.endpoint, attempts: fetched.attempts, status };
            node.passed_reply(fetched.response, &served, trail)
        }
    }
}

async fn invalidate(node: &Arc<Pipeline>, route: &Route, mut head: RequestHead) {
    head.method = Method::GET;
    let key = keying::natively(route, &Facts::new(&head, None), None);
    // One URL is one key here, and nothing is stored under it: most writes of an API need no line in the log.
    if route.is_keyed_natively() && !node.cache.may_have(&key) {
        return;
    }
    match tokio::time::timeout(INVALIDATE_TIME, node.cache.purger().invalidate(&head.url())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "could not invalidate after an unsafe method"),
        Err(_) => warn!("invalidating after an unsafe method takes too long; it goes on without waiting"),
    }
}

fn bad_body(node: &Pipeline, error: &BodyError, trail: Trail) -> Served {
    let status = match error {
        BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::Stalled { .. } => StatusCode::REQUEST_TIMEOUT,
        BodyError::Broken(_) => StatusCode::BAD_REQUEST,
    };
    let title = status.canonical_reason().unwrap_or("Bad body");
    node.own(status, title, &error.to_string(), trail)
}

impl Pipeline {
    /// The answer when the policy faulted and the route wants none then.
    pub(super) fn refused_reply(&self, route: &Route, fault: &Fault, trail: Trail) -> Served {
        let detail = format!("the policy of route {} gave no verdict: {fault}", route.config.name);
        self.own(StatusCode::SERVICE_UNAVAILABLE, "Policy fault", &detail, trail)
    }

    /// The answer to a request whose body could not be read.
    pub(super) fn bad_body(&self, error: &BodyError, trail: Trail) -> Served {
        bad_body(self, error, trail)
    }

    /// Passes a request through, for a route whose questions it isn't one of.
    pub(super) async fn pass(self: &Arc<Self>, route: &Arc<Route>, request: Request, trail: Trail) -> Served {
        pass(self, route, request.head, request.body, Forward::Method, trail).await
    }
}
