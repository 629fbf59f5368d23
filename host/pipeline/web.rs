//! Requests with one answer each: HTTP semantics, and questions that aren't batched.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::sync::oneshot;
use tracing::warn;

use super::{
    Advice, Lookup, Pipeline, Route, Served, Trail,
    fetch::{self, Ask, Exchanged, Landing, Pump},
    forwarding,
    keying::{self, Keyed},
    reply::{found, note},
    travel::{self, Load, Parcel},
};
use crate::{
    cache::{
        Found, Query,
        admit::Refusal,
        collapse::{Follower, Joined},
        conditional,
        entry::Object,
        key::Key,
        lookup::{Demand, Outcome},
        purge::{Arrived, Mark, Purger},
        status::Forward,
        store::Tier,
        tag::Tag,
        vary,
    },
    clock,
    config::Protocol,
    message::{Body, BodyError, Request, RequestHead, Response},
    origin::protocol,
    policy::{Fault, facts},
};

/// How often a request joins a flight before it asks for itself: by its key, by its variant's, and once more if what
/// came was purged meanwhile.
const JOINS_MAX: usize = 3;

/// Invalidating after an unsafe method must not hold up its answer for longer than this.
const INVALIDATE_TIME: std::time::Duration = std::time::Duration::from_millis(250);

/// What the quick way came to.
pub(super) enum Quick {
    /// A fresh hit in memory.
    Hit(Response, Key),
    /// The long way. The key, if it was made: a policy is asked once a request.
    Onward(Option<Keyed>),
}

/// The body of a request without one.
static NOTHING: Bytes = Bytes::new();

/// Answers at once what is fresh in memory and needs no body to be keyed.
pub(super) fn quick(node: &Pipeline, route: &Arc<Route>, advice: &Advice, request: &Request) -> Quick {
    let head = &request.head;
    let asks = head.method == Method::GET || head.method == Method::HEAD;
    if route.infers() || !asks || !http_body::Body::is_end_stream(&request.body) {
        return Quick::Onward(None);
    }
    let facts = advice.facts(node, head, Some(&NOTHING));
    advice.draw(&facts);
    let keyed = keying::derive(route, advice, &facts, None);
    match &keyed {
        Keyed::Key { key, fault: None } => match memory_hit(node, route, advice, head, *key) {
            Some(response) => Quick::Hit(response, *key),
            None => Quick::Onward(Some(keyed)),
        },
        _ => Quick::Onward(Some(keyed)),
    }
}

fn memory_hit(node: &Pipeline, route: &Route, advice: &Advice, head: &RequestHead, key: Key) -> Option<Response> {
    let demand = route.demand(&head.headers);
    if demand.directives.no_store {
        return None;
    }
    let now = clock::now();
    let tag = || Tag::url(&head.url());
    let url: Option<&(dyn Fn() -> Tag + Sync)> = if advice.keys_natively() { None } else { Some(&tag) };
    let query = Query { key, head, demand: &demand, url, now };
    let Some(Found { outcome: Outcome::Hit(object), .. }) = node.cache.peek(&query) else { return None };
    if object.head.age_ms(now) >= object.head.lifetimes.ttl_ms {
        // A stale answer that the client accepts: the long way says so.
        return None;
    }
    let policy = advice.policy().map(|policy| policy.label());
    node.hit_reply(&object, policy, head.into(), now)
}

/// Answers any request of a route whose bodies aren't split.
pub(super) async fn serve(
    node: &Arc<Pipeline>,
    route: Arc<Route>,
    advice: Arc<Advice>,
    request: Request,
    keyed: Option<Keyed>,
) -> Served {
    let Request { head, body } = request;
    let asks = head.method == Method::GET || head.method == Method::HEAD;
    let answered = asks || route.infers() && head.method == Method::POST;
    let trail = Trail::on(&route, &advice);
    let empty = http_body::Body::is_end_stream(&body);
    let body = if empty {
        Body::Empty
    } else if advice.needs_body(!answered) || answered && route.infers() {
        match body.collect(node.limits.body_bytes_max).await {
            Ok(bytes) => Body::from(bytes),
            Err(error) => return node.bad_body(&error, trail),
        }
    } else {
        body
    };
    // A GET with a body that its key doesn't depend on has no meaning that a cache could know.
    let understood = route.infers() || advice.keys_by_body();
    let bytes = match body {
        Body::Empty if answered => Bytes::new(),
        Body::Full(bytes) if answered && understood => bytes,
        body => {
            let forward = if answered { Forward::Bypass } else { Forward::Method };
            return Passing { route: &route, advice: &advice, head, body, forward }.pass(node, trail).await;
        }
    };
    let (bytes, canonical) = question(&route, &head.headers, bytes);
    let keyed = keyed.unwrap_or_else(|| {
        let facts = advice.facts(node, &head, Some(&bytes));
        advice.draw(&facts);
        keying::derive(&route, &advice, &facts, canonical.as_deref())
    });
    let trail = Trail { arms: advice.arms().to_vec(), ..trail };
    let keyed = match keyed {
        // The native key doesn't know the body; the policy's would have.
        Keyed::Key { fault: Some(fault), .. } if !route.infers() && !bytes.is_empty() => {
            Keyed::Bypass(fault.kind().to_owned())
        }
        keyed => keyed,
    };
    match way(node, &route, &head, keyed, trail) {
        Way::LookUp(asked) => look_up(node, &route, &advice, head, bytes, asked).await,
        Way::Around(forward, trail) => {
            let body = Body::from(bytes);
            Passing { route: &route, advice: &advice, head, body, forward }.pass(node, trail).await
        }
        Way::Done(served) => *served,
    }
}

/// The body as it travels on, and its canonical form if it's a question.
fn question(route: &Route, headers: &HeaderMap, body: Bytes) -> (Bytes, Option<Bytes>) {
    if !route.infers() {
        return (body, None);
    }
    if !facts::may_be_json(headers) {
        return (body.clone(), Some(body));
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
    trail.detail = keyed.remark().map(Cow::Owned);
    let key = match keyed {
        Keyed::Key { key, .. } => key,
        Keyed::Bypass(_) => return Way::Around(Forward::Bypass, trail),
        Keyed::Refused(fault) => return Way::Done(Box::new(node.refused_reply(route, &fault, trail))),
    };
    trail.key = Some(key);
    let demand = route.demand(&head.headers);
    if demand.directives.no_store {
        return Way::Around(Forward::Request, trail);
    }
    Way::LookUp(Asked { key, demand, trail })
}

async fn look_up(
    node: &Arc<Pipeline>,
    route: &Arc<Route>,
    advice: &Arc<Advice>,
    head: RequestHead,
    body: Bytes,
    asked: Asked,
) -> Served {
    let Asked { key, demand, mut trail } = asked;
    let now = clock::now();
    let tag = Tag::url(&head.url());
    let query = Query { key, head: &head, demand: &demand, url: Some(&move || tag), now };
    let found_here = node.cache.look_up(&query).await;
    let mut ask = Ask {
        route: Arc::clone(route),
        head,
        body,
        advice: Arc::clone(advice),
        primary: key,
        key: found_here.key,
        stale: None,
        if_error: false,
    };
    let mut forward = if found_here.varied { Forward::VaryMiss } else { Forward::UriMiss };
    // A flight that is under way began before the client asked for something newer.
    let mut alone = found_here.uncacheable || demand.authorized || demand.directives.no_cache;
    match found_here.outcome {
        Outcome::Hit(object) => {
            // Past its lifetime it is a hit only because the client accepts that (`max-stale`).
            let fresh = object.head.age_ms(now) < object.head.lifetimes.ttl_ms;
            found(&mut trail, if fresh { Lookup::Hit } else { Lookup::Stale }, found_here.tier);
            if let Some(served) = node.object_reply(&ask, ask.key, &object, trail.clone(), now).await {
                return served;
            }
        }
        Outcome::Grace(object) => {
            found(&mut trail, Lookup::Stale, found_here.tier);
            if let Some(served) = node.object_reply(&ask, ask.key, &object, trail.clone(), now).await {
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
    // Ranges of what isn't stored come from the origin as they are; and where nothing will be stored, the origin is the
    // one to say that the client's copy is good.
    let has_range = ask.head.headers.contains_key(header::RANGE);
    let conditional = alone && ask.stale.is_none() && conditional::is_conditional(&ask.head.headers);
    if has_range || conditional {
        let (body, forward) = (ask.body.into(), Forward::Bypass);
        return Passing { route, advice: &ask.advice, head: ask.head, body, forward }.pass(node, trail).await;
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
        let joined = node.cache.purger().arrived();
        let (follower, own) = match node.flights.join(&ask.key) {
            Joined::Full => break,
            Joined::Follow(follower) => (follower, None),
            Joined::Lead(lead) => {
                // Between our look-up and this flight an earlier one may have landed and stored what we want.
                if let Some(served) = already_stored(node, route, &ask, &trail).await {
                    return served;
                }
                let (sender, own) = oneshot::channel();
                let follower = lead.follower();
                tokio::spawn(fetch::lead(Arc::clone(node), Arc::clone(route), ask.clone(), lead, sender));
                (follower, Some(own))
            }
        };
        trail.collapsed = own.is_none();
        match land(node, route, &mut ask, joined, follower, own, trail.clone()).await {
            Landed::Served(served) => return *served,
            Landed::Again => {}
            Landed::Alone => break,
        }
    }
    trail.collapsed = false;
    fetch_alone(node, route, ask, trail).await
}

async fn already_stored(node: &Arc<Pipeline>, route: &Route, ask: &Ask, trail: &Trail) -> Option<Served> {
    if ask.stale.is_some() {
        return None;
    }
    let demand = route.demand(&ask.head.headers);
    let now = clock::now();
    let tag = Tag::url(&ask.head.url());
    let query = Query { key: ask.primary, head: &ask.head, demand: &demand, url: Some(&move || tag), now };
    let Some(Found { outcome: Outcome::Hit(object), key, .. }) = node.cache.peek(&query) else { return None };
    let mut trail = Trail { forward: None, ..trail.clone() };
    found(&mut trail, Lookup::Hit, Tier::Memory);
    node.object_reply(ask, key, &object, trail, now).await
}

/// What a landing means for one who waited.
enum Landed {
    Served(Box<Served>),
    /// It was another variant, or it was purged meanwhile: join again.
    Again,
    Alone,
}

type Own = oneshot::Receiver<(Response, fetch::Served)>;

async fn land(
    node: &Arc<Pipeline>,
    route: &Route,
    ask: &mut Ask,
    joined: Arrived,
    follower: Follower<Landing>,
    own: Option<Own>,
    trail: Trail,
) -> Landed {
    let flight = follower.number();
    // What was purged between the start of the flight and the moment we joined it is not for us.
    let url = Tag::url(&ask.head.url());
    let outdated = |tags: &[Tag], mark: &Mark| node.cache.purger().is_outdated(tags, mark, &joined, || url);
    let served = match follower.landed().await {
        None => None,
        Some(Landing::Shared(arrival)) => {
            if outdated(&arrival.tags, &arrival.mark) {
                node.flights.retire(&ask.key, flight);
                return Landed::Again;
            }
            if own.is_none() && arrival.ttl_ms == Some(0) {
                // Good only for whoever asked before it was made (RFC 9111, section 4).
                return Landed::Alone;
            }
            if own.is_none() && arrival.is_over(clock::uptime()) {
                // Its body takes longer to come than it is fresh.
                node.flights.retire(&ask.key, flight);
                return Landed::Again;
            }
            if own.is_none()
                && arrival.ttl_ms.is_none()
                && forwarding::has_unkeyed_credentials(route, &ask.advice, &ask.head.headers)
            {
                // An error, made for somebody without these credentials.
                return Landed::Alone;
            }
            if let Some(names) = &arrival.place.names {
                let variant = vary::variant(&ask.primary, names, &ask.head);
                if variant != arrival.place.key {
                    ask.key = variant;
                    return Landed::Again;
                }
            }
            node.arrival_reply(ask, &arrival, trail).await
        }
        // Found good for the one who asked; stale again, it is to be asked about for each (RFC 9111, section 5.2.2.4).
        Some(Landing::Renewed(object, _)) if own.is_none() && !object.head.is_fresh(clock::now()) => {
            return Landed::Alone;
        }
        Some(Landing::Renewed(object, _)) if outdated(&object.head.tags, &object.head.mark) => {
            // What was purged after it was found good must come anew, not be renewed again.
            (ask.stale, ask.if_error) = (None, false);
            node.flights.retire(&ask.key, flight);
            return Landed::Again;
        }
        Some(Landing::Renewed(object, served)) => renewed(node, ask, &object, &served, trail).await,
        Some(Landing::Failed(failed)) => Some(or_stale(node, ask, &failed, trail).await),
        Some(Landing::Private(refusal)) => match own {
            Some(own) => {
                own.await.ok().map(|(response, served)| refused(node, &ask.head, response, &served, refusal, trail))
            }
            None => None,
        },
    };
    served.map_or(Landed::Alone, |served| Landed::Served(Box::new(served)))
}

async fn renewed(
    node: &Arc<Pipeline>,
    ask: &Ask,
    object: &Arc<Object>,
    served: &fetch::Served,
    mut trail: Trail,
) -> Option<Served> {
    note(&mut trail, served);
    trail.stored = true;
    node.object_reply(ask, ask.key, object, trail, clock::now()).await
}

/// The answer that isn't stored, and why it isn't.
fn refused(
    node: &Pipeline,
    head: &RequestHead,
    response: crate::message::Response,
    served: &fetch::Served,
    refusal: Refusal,
    mut trail: Trail,
) -> Served {
    let reason = || served.remark.as_ref().map_or(Cow::Borrowed(refusal.as_str()), |remark| remark.to_string().into());
    trail.detail.get_or_insert_with(reason);
    node.refused_answer(response, served, head.into(), trail)
}

/// The origin failed: what is stored, if it may be served then, else the failure.
async fn or_stale(node: &Arc<Pipeline>, ask: &Ask, failed: &fetch::Failed, trail: Trail) -> Served {
    let usable = |object: &&Arc<Object>| ask.if_error && !node.cache.is_gone(object, &ask.head.url());
    if let Some(object) = ask.stale.as_ref().filter(usable) {
        let mut stale = Trail { detail: Some(failed.reason.into()), ..trail.clone() };
        stale.note_failure(failed.reason);
        stale.lookup = Lookup::Stale;
        if let Some(served) = node.object_reply(ask, ask.key, object, stale, clock::now()).await {
            return served;
        }
    }
    node.failed_reply(failed, trail)
}

/// Fetches for one client only; what may be stored is stored.
async fn fetch_alone(node: &Arc<Pipeline>, route: &Arc<Route>, mut ask: Ask, trail: Trail) -> Served {
    loop {
        let reply = match fetch::exchange(node, route, &ask).await {
            Exchanged::Failed(failed) => return or_stale(node, &ask, &failed, trail).await,
            Exchanged::Refused(response, served, refusal) => {
                return refused(node, &ask.head, response, &served, refusal, trail);
            }
            Exchanged::Renewed(object, served) => renewed(node, &ask, &object, &served, trail.clone()).await,
            Exchanged::Error(arrival) => node.arrival_reply(&ask, &arrival, trail.clone()).await,
            Exchanged::Stored(arrival, pump) => {
                // Whoever asked `no-cache`, and every request from now on, finds what this fetch brings.
                let reply = node.arrival_reply(&ask, &arrival, trail.clone()).await;
                tokio::spawn(Pump::run(*pump, None));
                reply
            }
        };
        match reply {
            Some(served) => return served,
            // The origin says that what we have is good, but a part of it is gone: ask for the whole.
            None if ask.stale.take().is_some() => {}
            None => return lost(node, trail),
        }
    }
}

/// The answer broke off before its first reader was there.
fn lost(node: &Pipeline, mut trail: Trail) -> Served {
    (trail.origin_failed, trail.detail) = (true, Some("body-lost".into()));
    node.own(StatusCode::BAD_GATEWAY, "Bad gateway", "the origin's answer broke off", trail)
}

/// A request that is passed through, with its answer.
struct Passing<'a> {
    route: &'a Arc<Route>,
    advice: &'a Advice,
    head: RequestHead,
    body: Body,
    forward: Forward,
}

impl Passing<'_> {
    /// Passes it on as the policy shapes it, to whom the policy chooses. An unsafe method that succeeds outdates what is
    /// stored for its URL (RFC 9111, section 4.4).
    async fn pass(self, node: &Arc<Pipeline>, mut trail: Trail) -> Served {
        let Self { route, advice, head, body, forward } = self;
        trail.lookup = if forward == Forward::Method { Lookup::Pass } else { Lookup::Bypass };
        trail.forward = Some(forward);
        let bytes = match &body {
            Body::Empty => Some(Bytes::new()),
            Body::Full(bytes) => Some(bytes.clone()),
            Body::Stream(_) => None,
        };
        let facts = advice.facts(node, &head, bytes.as_ref());
        advice.draw(&facts);
        trail.arms = advice.arms().to_vec();
        let parcel = Parcel {
            method: head.method.clone(),
            authority: head.authority.clone(),
            target: route.target_sent(&head),
            headers: fetch::forwarded(&head),
            body: Load::from(body),
            client: Some(head.client.ip),
        };
        // From here on the request may have an effect, whether or not its client waits for the response.
        let changing = (!head.method.is_safe() && !route.infers()).then(|| Changing::new(node, &head));
        match shaped(route, advice, &facts, parcel) {
            Err(fault) => node.refused_reply(route, &fault, trail),
            Ok((parcel, choice)) => match parcel.send(route, &choice).await {
                Err(failed) => node.failed_reply(&failed, trail),
                Ok(arrived) => {
                    let status = arrived.fetched.response.status();
                    if let Some(changing) = changing {
                        changing.over();
                        if status.is_success() || status.is_redirection() {
                            invalidate(node, route, &head).await;
                        }
                    }
                    let served = fetch::Served::of(&arrived, advice);
                    node.passed_reply(arrived.fetched.response, &served, trail)
                }
            },
        }
    }
}

/// A request as the policy shapes it, and to whom it goes.
fn shaped(
    route: &Route,
    advice: &Advice,
    facts: &crate::policy::Facts<'_>,
    mut parcel: Parcel,
) -> Result<(Parcel, crate::policy::Choice), Fault> {
    let shape = advice.shape(route, facts)?;
    parcel.open(route, shape.as_ref(), facts);
    if let Some(shape) = &shape {
        parcel.apply(shape);
    }
    let choice = travel::choose(route, advice, facts)?;
    Ok((parcel, choice))
}

/// An unsafe request of which nobody knows yet what it did. Dropped before its response is there (the client left, or the
/// origin failed), it invalidates its URL.
struct Changing(Option<(Arc<Purger>, Tag)>);

impl Changing {
    fn new(node: &Pipeline, head: &RequestHead) -> Self {
        Self(Some((Arc::clone(node.cache.purger()), Tag::url(&head.url()))))
    }

    /// Its response is there.
    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        if let Some((purger, url)) = self.0.take() {
            tokio::spawn(async move { purger.invalidate(url).await });
        }
    }
}

/// Invalidates the URL, unless nothing can be stored for it nor be on its way: most writes of an API need no line in the
/// log. Where a policy makes the keys, what was fetched for one URL may be the response to another.
async fn invalidate(node: &Arc<Pipeline>, route: &Route, head: &RequestHead) {
    let (purger, url) = (node.cache.purger(), Tag::url(&head.url()));
    if route.policy.is_none() && !purger.may_hold(&url) {
        return;
    }
    if tokio::time::timeout(INVALIDATE_TIME, purger.invalidate(url)).await.is_err() {
        warn!(
            url = head.url(),
            "an unsafe method has invalidated a URL on this node; neither the purge log nor the disk has taken it for the \
             others yet"
        );
    }
}

impl Pipeline {
    /// The answer when the policy faulted and the route wants none then.
    pub(super) fn refused_reply(&self, route: &Route, fault: &Fault, mut trail: Trail) -> Served {
        trail.detail.get_or_insert(fault.kind().into());
        let detail = format!("the policy of route {} gave no verdict: {fault}", route.config.name);
        self.own(StatusCode::SERVICE_UNAVAILABLE, "Policy fault", &detail, trail)
    }

    /// The answer to a request whose body could not be read.
    pub(super) fn bad_body(&self, error: &BodyError, trail: Trail) -> Served {
        let status = match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Stalled { .. } | BodyError::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        let title = status.canonical_reason().unwrap_or("Bad body");
        self.own(status, title, &error.to_string(), trail)
    }

    /// Passes a request through as it is, for the reason that `forward` gives.
    pub(super) async fn pass(
        self: &Arc<Self>,
        route: &Arc<Route>,
        advice: &Advice,
        request: Request,
        forward: Forward,
        trail: Trail,
    ) -> Served {
        let Request { head, body } = request;
        Passing { route, advice, head, body, forward }.pass(self, trail).await
    }
}
