//! One exchange with the origin: ask, judge the answer, store it while it arrives, and tell everybody who waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::{
    Advice, Pipeline, Route,
    admission::{self, Case, Ruling},
    forwarding,
    travel::{self, Arrived, Load, Parcel},
};
use crate::{
    cache::{
        admit::{self, Admission, Refusal, Storage},
        body::intake::Intake,
        collapse::{Lead, shared::SharedBody},
        conditional,
        control::Directives,
        entry::Object,
        freshness::initial_age_ms,
        key::Key,
        purge::Mark,
        record::{Origins, Place, Recorder, head},
        tag::Tag,
        vary::{self, Vary},
    },
    clock::{self, Timestamp, Uptime},
    message::{Body, RequestHead, Response},
    origin::Failure,
    policy::key,
};

/// An error body up to this size is shared with all who wait; a larger one goes to one of them.
const SHARED_ERROR_BYTES_MAX: u64 = 64 << 10;

/// What is to be fetched, for a request that could be answered from the cache.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The route that took it.
    pub route: Arc<Route>,
    /// The client's request.
    pub head: RequestHead,
    /// Its body, if it's a question.
    pub body: Bytes,
    /// Its policy.
    pub advice: Arc<Advice>,
    /// The request's key.
    pub primary: Key,
    /// The key under which it waits: of the variant, if one is known.
    pub key: Key,
    /// What is stored already, if it may be renewed or fallen back on.
    pub stale: Option<Arc<Object>>,
    /// May what is stored be served if the origin fails?
    pub if_error: bool,
}

/// How a flight landed, for everybody on it.
#[derive(Clone, Debug)]
pub enum Landing {
    /// An answer that all may have.
    Shared(Arrival),
    /// What was stored is good again.
    Renewed(Arc<Object>, Served),
    /// An answer for one only: the others ask by themselves.
    Private(Refusal),
    /// No answer.
    Failed(Failed),
}

/// Who answered.
#[derive(Clone, Debug)]
pub struct Served {
    /// The endpoint.
    pub endpoint: Arc<str>,
    /// Attempts it took.
    pub attempts: u32,
    /// The origin's status.
    pub status: StatusCode,
    /// What the candidate that answered costs.
    pub cost_micro: u64,
    /// A word on what the policy did out of the ordinary.
    pub remark: Option<Arc<str>>,
}

impl Served {
    pub(super) fn of(arrived: &Arrived, advice: &Advice) -> Self {
        let fetched = &arrived.fetched;
        Self {
            endpoint: Arc::clone(&fetched.endpoint),
            attempts: fetched.attempts,
            status: fetched.response.status(),
            cost_micro: arrived.cost_micro,
            remark: advice.remarked().cloned(),
        }
    }
}

/// An answer on its way in.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its end-to-end header fields.
    pub headers: Arc<HeaderMap>,
    /// Its body.
    pub body: SharedBody,
    /// Where it's stored, and so which variant it is.
    pub place: Place,
    /// What it can be purged by.
    pub tags: Arc<[Tag]>,
    /// Where the purge log stood when its fetch began.
    pub mark: Mark,
    /// Its freshness at arrival in milliseconds; `None` if it's shared but not stored.
    pub ttl_ms: Option<u64>,
    /// Its age at arrival in milliseconds.
    pub age_ms: u64,
    /// When its head arrived.
    pub at: Uptime,
    /// Who answered.
    pub served: Served,
}

impl Arrival {
    /// Whether its lifetime has passed since its head arrived.
    pub(super) fn is_over(&self, now: Uptime) -> bool {
        self.ttl_ms.is_some_and(|ttl_ms| clock::millis(now.since(self.at)) >= ttl_ms)
    }
}

/// No answer came, or one that is as good as none.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What the client is answered with.
    pub status: StatusCode,
    /// A word.
    pub reason: &'static str,
    /// A sentence.
    pub detail: Arc<str>,
    /// The endpoint, if one was asked.
    pub endpoint: Option<Arc<str>>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            status: failure.status(),
            reason: failure.reason(),
            detail: failure.to_string().into(),
            endpoint: failure.endpoint().map(Arc::from),
        }
    }
}

/// What an exchange came to.
pub enum Exchanged {
    /// What was stored is good again.
    Renewed(Arc<Object>, Served),
    /// To be stored: [`Pump::run`] takes the body in.
    Stored(Arrival, Box<Pump>),
    /// An error that all may have.
    Error(Arrival),
    /// Not to be stored.
    Refused(Response, Served, Refusal),
    /// No answer.
    Failed(Failed),
}

/// Leads a flight to its end; runs by itself, whether or not its client stays.
pub async fn lead(
    node: Arc<Pipeline>,
    route: Arc<Route>,
    ask: Ask,
    lead: Lead<Landing>,
    own: oneshot::Sender<(Response, Served)>,
) {
    match exchange(&node, &route, &ask).await {
        Exchanged::Renewed(object, served) => lead.land(Landing::Renewed(object, served)),
        Exchanged::Error(arrival) => lead.land(Landing::Shared(arrival)),
        // One client's limit says nothing about the others who wait: each asks by itself, and so does this one.
        Exchanged::Failed(failed) if failed.status == StatusCode::TOO_MANY_REQUESTS => {
            lead.land(Landing::Private(Refusal::Status));
        }
        Exchanged::Failed(failed) => {
            debug!(reason = failed.reason, detail = %failed.detail, "a fetch failed");
            lead.land(Landing::Failed(failed));
        }
        Exchanged::Stored(arrival, pump) => {
            lead.land(Landing::Shared(arrival));
            pump.run(Some(lead)).await;
        }
        Exchanged::Refused(response, served, refusal) => {
            if refusal.holds_for_key() {
                node.cache.mark_uncacheable(ask.key, clock::uptime(), None);
            }
            lead.land(Landing::Private(refusal));
            // The client may be gone; then nobody wants this answer.
            let _ = own.send((response, served));
        }
    }
}

/// Asks the origin and judges what comes.
pub async fn exchange(node: &Arc<Pipeline>, route: &Arc<Route>, ask: &Ask) -> Exchanged {
    let mut renewable = ask.stale.as_ref().filter(|object| conditional::renewable(&object.head.headers));
    loop {
        let mark = node.cache.purger().begin(&Tag::url(&ask.head.url()));
        let requested = clock::now();
        // Renewed under the new mark, a purge since the look-up would be forgotten.
        renewable = renewable.filter(|object| !node.cache.is_gone(object, &ask.head.url()));
        let begun = Instant::now();
        let arrived = match send(node, ask, outbound(ask, renewable.map(AsRef::as_ref))).await {
            Ok(arrived) => arrived,
            Err(failed) => return Exchanged::Failed(failed),
        };
        let times = Times { mark, requested, received: clock::now(), fetch: begun.elapsed() };
        match (renewable.take(), arrived.fetched.response.status()) {
            (Some(object), StatusCode::NOT_MODIFIED) => {
                let served = Served::of(&arrived, &ask.advice);
                if let Some(renewed) = renew(node, route, ask, object, arrived.fetched.response.headers(), &times) {
                    return Exchanged::Renewed(renewed, served);
                }
                // The 304 spoke of an answer we don't have: ask again, for the whole.
            }
            _ => return settle(node, route, ask, arrived, &times).await,
        }
    }
}

/// Sends the request as the policy shapes it, to whom the policy chooses.
pub(super) async fn send(node: &Pipeline, ask: &Ask, mut parcel: Parcel) -> Result<Arrived, Failed> {
    let route = &ask.route;
    let facts = ask.advice.facts(node, &ask.head, Some(&ask.body));
    let faulted = |fault| Pipeline::faulted(route, &fault);
    let shape = ask.advice.shape(route, &facts).map_err(faulted)?;
    parcel.open(route, shape.as_ref(), &facts);
    if let Some(shape) = &shape {
        parcel.apply(shape);
    }
    let choice = travel::choose(route, &ask.advice, &facts).map_err(faulted)?;
    parcel.send(route, &choice).await
}

/// When an exchange took place.
struct Times {
    mark: Mark,
    requested: Timestamp,
    received: Timestamp,
    fetch: Duration,
}

/// The request to the origin: without the client's conditions, because what is to be stored must come whole.
pub(super) fn outbound(ask: &Ask, renewable: Option<&Object>) -> Parcel {
    let route = &ask.route;
    let mut headers =
        if route.infers() { forwarding::of_question(route, &ask.advice, &ask.head) } else { forwarded(&ask.head) };
    for name in &conditional::CONDITIONS {
        headers.remove(name);
    }
    if let Some(object) = renewable {
        conditional::ask(&mut headers, &object.head.headers);
    }
    // What answers GET answers HEAD as well.
    let method = key::shared_method(&ask.head.method).clone();
    let body = Load::Bytes(ask.body.clone());
    Parcel {
        method,
        authority: ask.head.authority.clone(),
        target: route.target_sent(&ask.head),
        headers,
        body,
        client: Some(ask.head.client.ip),
    }
}

/// The client's header fields as they travel on: what it said, and through whom it came (RFC 9110, section 7.6.3).
#[must_use]
pub fn forwarded(head: &RequestHead) -> HeaderMap {
    let mut headers = head.headers.clone();
    headers.append(header::VIA, HeaderValue::from_static("1.1 holm"));
    let mut chain: Vec<u8> = headers.get_all("x-forwarded-for").iter().fold(Vec::new(), |mut chain, line| {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
        chain
    });
    chain.extend_from_slice(head.client.ip.to_string().as_bytes());
    if let Ok(chain) = HeaderValue::from_bytes(&chain) {
        headers.insert("x-forwarded-for", chain);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static(head.scheme.as_str()));
    headers.insert("x-forwarded-host", head.authority.clone());
    headers
}

fn renew(
    node: &Arc<Pipeline>,
    route: &Route,
    ask: &Ask,
    object: &Object,
    not_modified: &HeaderMap,
    times: &Times,
) -> Option<Arc<Object>> {
    let mut headers = object.head.headers.clone();
    conditional::renew(&mut headers, not_modified);
    let exchange = admit::Exchange {
        method: &ask.head.method,
        request: &ask.head.headers,
        lent: ask.advice.lends_credentials(),
        status: object.head.status,
        response: &headers,
        length: Some(object.head.length),
        received: times.received,
    };
    // An answer that may no longer be shared, or is another variant now, must come whole.
    let Admission::Store(storage) = rule(node, route, ask, exchange, times).admission else { return None };
    let place = place(ask, &storage);
    if place.key != ask.key {
        return None;
    }
    let url = ask.head.url();
    node.cache.renew(object, not_modified, &storage, &place, &origins(route, &url, times))
}

async fn settle(node: &Arc<Pipeline>, route: &Arc<Route>, ask: &Ask, arrived: Arrived, times: &Times) -> Exchanged {
    let mut served = Served::of(&arrived, &ask.advice);
    let (parts, body) = arrived.fetched.response.into_parts();
    if ask.if_error && is_failure(parts.status) {
        let detail = format!("endpoint {} answered {}", served.endpoint, parts.status);
        let endpoint = Some(served.endpoint);
        return Exchanged::Failed(Failed {
            status: parts.status,
            reason: "origin-error",
            detail: detail.into(),
            endpoint,
        });
    }
    let length = body.size_hint().exact();
    let exchange = admit::Exchange {
        method: &ask.head.method,
        request: &ask.head.headers,
        lent: ask.advice.lends_credentials(),
        status: parts.status,
        response: &parts.headers,
        length,
        received: times.received,
    };
    let ruling = rule(node, route, ask, exchange, times);
    served.remark = ruling.reason.or_else(|| ask.advice.remarked().cloned());
    if ruling.uncacheable.is_some() {
        node.cache.mark_uncacheable(ask.key, clock::uptime(), ruling.uncacheable);
    }
    match ruling.admission {
        Admission::Refuse(refusal) if parts.status.is_server_error() && refusal.is_shareable() => {
            share_error(node, route, ask, Response::from_parts(parts, body), served, times.mark).await
        }
        Admission::Refuse(refusal) => Exchanged::Refused(Response::from_parts(parts, body), served, refusal),
        Admission::Store(storage) => {
            arriving(node, route, ask, Response::from_parts(parts, body), &storage, served, times)
        }
    }
}

/// What is to be stored, on its way in.
fn arriving(
    node: &Arc<Pipeline>,
    route: &Route,
    ask: &Ask,
    response: Response,
    storage: &Storage,
    served: Served,
    times: &Times,
) -> Exchanged {
    let (parts, body) = response.into_parts();
    let place = place(ask, storage);
    let url = ask.head.url();
    let head = head(parts.status, &parts.headers, storage, &place, &origins(route, &url, times));
    let mut headers = head.headers.clone();
    if let Some(age) = parts.headers.get(header::AGE) {
        headers.insert(header::AGE, age.clone());
    }
    let tags = head.tags.as_slice().into();
    let mark = head.mark;
    let age_ms = head.initial_age_ms;
    let ttl_ms = Some(storage.lifetimes.ttl_ms.saturating_sub(age_ms));
    let recorder = Recorder::new(Arc::clone(&node.cache), place.clone(), head);
    let shared = recorder.shared(body.size_hint().exact());
    let (headers, body_read, at) = (Arc::new(headers), shared.clone(), clock::uptime());
    let arrival = Arrival { headers, body: body_read, place, tags, mark, ttl_ms, age_ms, at, served };
    Exchanged::Stored(arrival, Box::new(Pump { body, intake: Intake::new(shared, recorder) }))
}

/// An error isn't stored, but those who already wait get it together, instead of asking a failing origin each: if it
/// isn't for one of them only.
async fn share_error(
    node: &Arc<Pipeline>,
    route: &Route,
    ask: &Ask,
    response: Response,
    served: Served,
    mark: Mark,
) -> Exchanged {
    let (parts, body) = response.into_parts();
    let place = match shared_place(route, ask, &parts.headers) {
        Ok(place) => place,
        Err(refusal) => return Exchanged::Refused(Response::from_parts(parts, body), served, refusal),
    };
    if body.size_hint().lower() > SHARED_ERROR_BYTES_MAX {
        return Exchanged::Refused(Response::from_parts(parts, body), served, Refusal::Status);
    }
    let bytes = match body.collect(SHARED_ERROR_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(error) => {
            return Exchanged::Failed(Failed {
                status: StatusCode::BAD_GATEWAY,
                reason: "error-body",
                detail: format!("endpoint {} answered {}, but {error}", served.endpoint, parts.status).into(),
                endpoint: Some(served.endpoint),
            });
        }
    };
    debug!(node = node.node, status = %parts.status, "an error answer is shared with all who wait for it");
    Exchanged::Error(Arrival {
        headers: Arc::new(parts.headers),
        body: SharedBody::whole(bytes),
        place,
        tags: [Tag::url(&ask.head.url()), Tag::key(&ask.primary)].into(),
        mark,
        ttl_ms: None,
        age_ms: 0,
        at: clock::uptime(),
        served,
    })
}

/// For whom an error is that several wait for: which variant it is, or why it is for one client only.
fn shared_place(route: &Route, ask: &Ask, response: &HeaderMap) -> Result<Place, Refusal> {
    let directives = Directives::read(response);
    let rules = [
        (directives.no_store, Refusal::NoStore),
        (directives.private, Refusal::Private),
        (response.contains_key(header::SET_COOKIE), Refusal::SetsCookie),
        (forwarding::has_unkeyed_credentials(route, &ask.advice, &ask.head.headers), Refusal::Authorized),
    ];
    if let Some(refusal) = rules.into_iter().find_map(|(applies, refusal)| applies.then_some(refusal)) {
        return Err(refusal);
    }
    match vary::read(response) {
        // A flight may be of a variant already.
        Vary::No => Ok(Place { primary: ask.primary, key: ask.key, names: None }),
        Vary::By(names) if !names.iter().any(|name| ask.advice.changed(name)) => Ok(variant_place(ask, &names)),
        // What the origin answered to isn't what the client sent.
        Vary::By(_) | Vary::Any => Err(Refusal::VaryAny),
    }
}

fn variant_place(ask: &Ask, names: &[HeaderName]) -> Place {
    Place { primary: ask.primary, key: vary::variant(&ask.primary, names, &ask.head), names: Some(names.into()) }
}

fn rule(node: &Pipeline, route: &Route, ask: &Ask, exchange: admit::Exchange<'_>, times: &Times) -> Ruling {
    let facts = ask.advice.facts(node, &ask.head, Some(&ask.body));
    let initial_age_ms = initial_age_ms(exchange.response, times.requested, times.received);
    let case = Case { exchange, initial_age_ms, fetch: times.fetch };
    admission::rule(node, route, &ask.advice, &facts, &case)
}

fn place(ask: &Ask, storage: &Storage) -> Place {
    match &storage.vary {
        None => Place { primary: ask.primary, key: ask.primary, names: None },
        Some(names) => variant_place(ask, names),
    }
}

fn origins<'a>(route: &'a Route, url: &'a str, times: &Times) -> Origins<'a> {
    Origins {
        url,
        mark: times.mark,
        requested: times.requested,
        received: times.received,
        tag_headers: &route.config.tag_headers,
    }
}

/// The failures for which `stale-if-error` was made (RFC 5861, section 4).
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Takes a body in: into the tiers, and to all who read along.
pub struct Pump {
    body: Body,
    intake: Intake<Lead<Landing>>,
}

impl Pump {
    /// Runs to the body's end. The flight, if there is one, stays open until the answer can be found in the tiers.
    pub async fn run(mut self, lead: Option<Lead<Landing>>) {
        self.intake.keep(lead);
        loop {
            match self.body.frame().await {
                None => return self.intake.finish(),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if self.intake.take(data).await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => {
                    warn!(%error, "an answer broke off; it isn't stored");
                    return self.intake.fail(error);
                }
            }
        }
    }
}
