//! One exchange with the origin: sends the request, decides about the response, stores it while it arrives, and lands
//! the flight for all that wait.

mod announcing;
mod by_parents;
mod landing;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tracing::{debug, warn};

pub(super) use self::landing::{Arrival, Landing, UpstreamReport};
use super::{
    admission::{self, Case, Responded, Ruling, Times},
    advice::{Advice, PolicyContext},
    coding::{Coder, CodingRequest},
    forwarding::{self, Proxies},
    inputs, keying, loops, momentary,
    parents::Ties,
    recent::Recent,
    replicate::{Announcement, Replicator, announce},
    route::Route,
    trace,
    upstream::{Arrived, Failed, UpstreamBody, UpstreamRequest},
};
use crate::{
    cache::{
        Cache, Query,
        admit::{Admission, Refusal, Storage},
        body::intake::Intake,
        collapse::{Lead, shared::SharedBody},
        conditional,
        entry::Object,
        fetches::Fetch,
        key::Key,
        lookup::Demand,
        purge::Mark,
        record::{Origins, Recorder, StorageKeys, head},
        region::Joined,
        search::Rule,
        slice::Slice,
        tag::{self, Tag, UrlTags, Urls},
        targeted,
        vary::{self, Vary},
    },
    clock::{self, Timestamp},
    message::{Body, RequestHead, Response},
    origin::{Reaction, SpoolOff, SpoolSwitch},
    policy::{Facts, key},
};

/// An error body up to this size is shared with all requests that wait; a larger one is for one of them.
const SHARED_ERROR_BYTES_MAX: u64 = 64 << 10;

/// The reason of a failure that is a response of 5xx, in whose place something stored is served.
pub(super) const ORIGIN_ERROR: &str = "origin-error";

/// The parts of the node that fetching needs.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) cache: Arc<Cache>,
    pub(super) policy_context: Arc<PolicyContext>,
    pub(super) proxies: Arc<Proxies>,
    pub(super) recent: Arc<Recent>,
    pub(super) coder: Arc<Coder>,
    pub(super) ties: Arc<Ties>,
    pub(super) replicator: Arc<Replicator>,
}

/// A request that has a key, and what is known of it by now.
#[derive(Clone, Debug)]
pub(super) struct KeyedRequest {
    pub(super) route: Arc<Route>,
    pub(super) head: RequestHead,
    /// Its body, if its key is made of that.
    pub(super) body: Bytes,
    pub(super) advice: Arc<Advice>,
    /// Its demands on the cache.
    pub(super) demand: Demand,
    /// The URL that it can be purged by, and that one's tag.
    pub(super) url: Arc<str>,
    pub(super) url_tag: Tag,
    /// Its key.
    pub(super) primary: Key,
    /// Its key by the rule that the last response for its path has declared, if it has (`No-Vary-Search`).
    pub(super) by_rule: Option<Key>,
    /// The key under which it waits: of the variant, if one is known.
    pub(super) key: Key,
    /// The key that what is stored for it can be purged by.
    pub(super) purge_key: Key,
    /// The slice of the body that is wanted, if not all of it.
    pub(super) slice: Option<Slice>,
    /// What is stored already, if it may be renewed or fallen back on.
    pub(super) stale: Option<Arc<Object>>,
    /// Whether that may be served if the origin fails.
    pub(super) if_error: bool,
    /// Whether that may be served if the origin can't be reached.
    pub(super) if_unreachable: bool,
    /// Whether it wants something newer than what is stored, so that it shares a fetch only with others that do.
    pub(super) is_reload: bool,
    /// Whether it refreshes what is still fresh.
    pub(super) is_ahead: bool,
}

impl KeyedRequest {
    /// A request of which nothing is known beside its key.
    pub(super) fn new(
        route: Arc<Route>,
        advice: Arc<Advice>,
        head: RequestHead,
        body: Bytes,
        demand: Demand,
        key: Key,
    ) -> Self {
        let url = head.url();
        let (url_tag, url) = (Tag::url(&url), url.into());
        Self {
            route,
            head,
            body,
            advice,
            demand,
            url,
            url_tag,
            primary: key,
            by_rule: None,
            key,
            purge_key: key,
            slice: None,
            stale: None,
            if_error: false,
            if_unreachable: false,
            is_reload: false,
            is_ahead: false,
        }
    }

    /// Returns the request for a slice of the body, which is looked up, fetched and stored by itself.
    pub(super) fn of_slice(&self, slice: Slice) -> Self {
        let key = slice.key(&self.primary);
        let whole = Self { by_rule: None, stale: None, if_error: false, if_unreachable: false, ..self.clone() };
        Self { primary: key, key, slice: Some(slice), ..whole }
    }

    /// Returns the key of the flight that it joins. Those that want something newer than what is stored have flights of
    /// their own: another one may have begun before what they want was there. So have those that came from a node, on a
    /// route that asks others: if two nodes asked each other, each would wait for the other's flight.
    pub(super) fn flight_key(&self) -> Key {
        let key = if self.is_reload { self.key.reload() } else { self.key };
        if self.is_relayed() { key.relayed() } else { key }
    }

    /// Whether it came from a node, on a route that asks others.
    fn is_relayed(&self) -> bool {
        self.route.parents.is_some() && loops::depth(&self.head.headers) > 0
    }

    /// Returns what the form of its response depends on.
    pub(super) fn coding(&self) -> CodingRequest<'_> {
        let keys_natively = self.advice.keys_natively();
        CodingRequest { route: &self.route, keys_natively, demand: &self.demand, head: &self.head }
    }

    /// Returns what policies may read of it.
    pub(super) fn facts<'a>(&'a self, policy_context: &'a PolicyContext) -> Facts<'a> {
        self.advice.facts(policy_context, &self.head, Some(&self.body))
    }

    /// Returns the key under which a response with this rule is stored for it, before variants are told apart.
    pub(super) fn primary_by(&self, rule: Option<&Rule>, policy_context: &PolicyContext) -> Key {
        let by_rule = |rule| keying::by_rule(&self.route, &self.advice, &self.facts(policy_context), rule);
        rule.map_or(self.primary, by_rule)
    }

    /// Forgets what was found by the rule of its path: what came isn't for its URL. It is looked for by its URL alone.
    pub(super) fn leave_rule(&mut self) {
        (self.by_rule, self.key) = (None, self.primary);
        (self.stale, self.if_error, self.if_unreachable) = (None, false, false);
    }

    /// Returns its look-up; `url` makes what stands for its URL.
    pub(super) fn query<'a>(&'a self, url: &'a (dyn Fn(bool) -> UrlTags + Sync), now: Timestamp) -> Query<'a> {
        Query { key: self.primary, head: &self.head, demand: &self.demand, url: Some(url), now }
    }
}

/// The outcome of an exchange.
pub(super) enum Exchanged {
    /// What was stored is good again.
    Renewed(Arc<Object>, UpstreamReport),
    /// To be stored: [`Pump::run`] takes the body in.
    Stored(Arrival, Box<Pump>),
    /// An error that all may have.
    Error(Arrival),
    /// Not to be stored.
    Refused(Response, UpstreamReport, Refusal),
    /// No response.
    Failed(Failed),
}

/// Leads a flight to its end; runs by itself, whether or not its client stays.
pub(super) async fn lead(
    fetcher: Arc<Fetcher>,
    request: KeyedRequest,
    lead: Lead<Landing>,
    own: oneshot::Sender<(Response, UpstreamReport)>,
) {
    // A node that asks for no lease has nothing to wait for.
    let fetch = if request.is_reload || fetcher.cache.mark().is_none() {
        Some(fetcher.cache.begin_fetch(&request.primary))
    } else {
        Box::pin(begin(&fetcher, &request)).await
    };
    let Some(fetch) = fetch else {
        lead.land(Landing::Elsewhere);
        return;
    };
    let exchanged = exchange(&fetcher, &request, &fetch).await;
    // Once a client knows of a failure, it may ask again and means the origin; after a reload, what comes may want
    // something newer than the response that has begun.
    if request.is_reload || matches!(exchanged, Exchanged::Failed(_) | Exchanged::Error(_)) {
        lead.close();
    }
    match exchanged {
        Exchanged::Renewed(object, report) => lead.land(Landing::Renewed(object, report)),
        Exchanged::Error(arrival) => lead.land(Landing::Shared(arrival)),
        // One client's limit says nothing about the others that wait: each fetches by itself, and so does this one.
        Exchanged::Failed(failed) if failed.status == StatusCode::TOO_MANY_REQUESTS => {
            lead.land(Landing::Private(Refusal::Status));
        }
        Exchanged::Failed(failed) => {
            debug!(reason = failed.reason, detail = %failed.detail, "a fetch failed");
            lead.land(Landing::Failed(failed));
        }
        Exchanged::Stored(arrival, pump) => {
            lead.land(Landing::Shared(arrival));
            // It lasts for as long as the response is being stored: other nodes may wait for that.
            drop(fetch);
            pump.run(Some(lead)).await;
        }
        Exchanged::Refused(response, report, refusal) => {
            // What one client's request brings is no reason to give up what is still fresh for all.
            if !request.is_ahead && !fetch.is_overtaken(&request.key) {
                if refusal == Refusal::Cookie {
                    fetcher.cache.mark_uncacheable_with_cookie(&request.key, clock::uptime());
                } else if refusal.holds_for_key() {
                    fetcher.cache.mark_uncacheable_by(&fetch, request.key, clock::uptime(), None);
                }
            }
            lead.land(Landing::Private(refusal));
            // The client may have left; then this response isn't needed.
            let _ = own.send((response, report));
        }
    }
}

/// Begins the fetch of a flight for the whole region. `None` if another node of it has stored what the request wants.
async fn begin(fetcher: &Fetcher, request: &KeyedRequest) -> Option<Arc<Fetch>> {
    let cache = &fetcher.cache;
    let by_url = |prefixes| tag::of_url(&request.url, prefixes);
    let looked_for = request.query(&by_url, clock::now());
    let query = Query { key: request.by_rule.unwrap_or(request.primary), ..looked_for };
    let has = request.stale.as_deref();
    let joined = match cache.join_region(&request.key, &query, has).await {
        // The node that has the lease may wait, by its own parents, for this very request.
        Joined::Wait(..) if request.is_relayed() => Joined::Fetch(None),
        Joined::Wait(turn, pause) => cache.wait_in_region(&request.key, &query, has, (turn, pause)).await,
        joined => joined,
    };
    match joined {
        Joined::Fetch(lease) => Some(cache.begin_leased(&request.primary, lease)),
        Joined::Wait(..) => Some(cache.begin_fetch(&request.primary)),
        Joined::Stored => None,
    }
}

/// Sends the request to the origin and decides about the response.
pub(super) async fn exchange(fetcher: &Fetcher, request: &KeyedRequest, fetch: &Arc<Fetch>) -> Exchanged {
    let mut parents = fetcher.parents_of(request);
    let mut renewable = request.stale.as_ref().filter(|object| conditional::renewable(&object.head.headers));
    loop {
        if keying::may_search(&request.route, &request.advice, &request.head) {
            fetcher.cache.purger().foresee(&request.url);
        }
        let mark = fetcher.cache.purger().begin(&request.url_tag);
        let requested = clock::now();
        // Renewed under the new mark, a purge since the look-up would be forgotten.
        renewable = renewable.filter(|object| !fetcher.cache.is_gone(object, &request.url));
        let begun = Instant::now();
        let times = |mark| Times { mark, requested, received: clock::now(), fetch: begun.elapsed() };
        if let Some(parents) = parents.take() {
            let asking = fetcher.ask_parents(request, fetch, parents, renewable, (mark, times));
            match Box::pin(asking).await {
                Some(exchanged) => return exchanged,
                None => continue,
            }
        }
        let outbound = outbound(fetcher, request, renewable.map(AsRef::as_ref));
        let arrived = match send(fetcher, request, outbound).await {
            Ok(arrived) => arrived,
            Err(failed) => return Exchanged::Failed(failed),
        };
        let times = times(mark);
        match (renewable.take(), arrived.fetched.response.status()) {
            (Some(object), StatusCode::NOT_MODIFIED) => {
                let report = UpstreamReport::of(&arrived, &request.advice);
                let not_modified = arrived.fetched.response.headers();
                if let Some((renewed, announcement)) = renew(fetcher, request, fetch, object, not_modified, &times) {
                    announce(announcement, &renewed);
                    trace::renewed(request.advice.span());
                    return Exchanged::Renewed(renewed, report);
                }
                // The 304 is about a response that isn't stored here: fetch again, the whole.
            }
            _ => return settle(fetcher, request, fetch, arrived, &times).await,
        }
    }
}

/// Sends the request with the policy's edits, to the candidates that the policy chooses.
pub(super) async fn send(
    fetcher: &Fetcher,
    request: &KeyedRequest,
    mut upstream: UpstreamRequest,
) -> Result<Arrived, Failed> {
    let route = &request.route;
    fetcher.policy_context.loops.mark(&mut upstream.headers, &request.head.headers);
    let prepared = upstream.prepare(route, &request.advice, &request.facts(&fetcher.policy_context));
    let choice = prepared.map_err(|fault| Failed::of_fault(route, &fault))?;
    upstream.send(route, &choice).await
}

/// Returns the request to the origin: without the client's conditions, because what is to be stored must come whole.
pub(super) fn outbound(fetcher: &Fetcher, request: &KeyedRequest, renewable: Option<&Object>) -> UpstreamRequest {
    let (route, advice, head) = (&request.route, &request.advice, &request.head);
    let mut headers = if route.infers() {
        forwarding::of_item(route, advice, head)
    } else {
        fetcher.proxies.of_request(route, advice, head)
    };
    for name in &conditional::CONDITIONS {
        headers.remove(name);
    }
    if let Some(object) = renewable {
        conditional::ask(&mut headers, &object.head.headers);
    }
    if let Some(slice) = &request.slice {
        slice.ask(&mut headers);
    }
    UpstreamRequest {
        // A response to GET serves HEAD as well.
        method: key::shared_method(&head.method).clone(),
        authority: head.authority.clone(),
        target: route.target_sent(head),
        headers,
        body: UpstreamBody::Bytes(request.body.clone()),
        client: Some(head.client.ip),
        home: None,
        expected: None,
        is_refused: false,
        recodes: false,
        span: request.advice.span().clone(),
    }
}

fn renew(
    fetcher: &Fetcher,
    request: &KeyedRequest,
    fetch: &Fetch,
    object: &Object,
    not_modified: &HeaderMap,
    times: &Times,
) -> Option<(Arc<Object>, Option<Announcement>)> {
    let mut not_modified = not_modified.clone();
    if request.route.infers() {
        momentary::strip(&mut not_modified);
        take_cookies(&mut not_modified);
    } else if not_modified.contains_key(header::SET_COOKIE) {
        // What was stored may be for all clients, and this is for one.
        return None;
    }
    let mut headers = object.head.all_headers();
    conditional::renew(&mut headers, &not_modified);
    // A slice is judged as the whole that it is of, and renewed only by what says nothing of another version.
    let is_slice = request.slice.is_some();
    if is_slice && not_modified.get(header::ETAG).is_some_and(|tag| headers.get(header::ETAG) != Some(tag)) {
        return None;
    }
    let status = if is_slice { StatusCode::OK } else { object.head.status };
    let response = Responded { status, headers: &headers, length: Some(object.head.length) };
    // A response that may no longer be shared, or is another variant now, must come whole.
    let Admission::Store(storage) = rule(fetcher, request, response, times).admission else { return None };
    let rule = search_rule(request, &headers);
    let keys = storage_keys(request, &storage, request.primary_by(rule.as_ref(), &fetcher.policy_context));
    if keys.key != request.key {
        return None;
    }
    let origins = origins(request, times, &keys);
    let renewed = fetcher.cache.renew(fetch, object, &not_modified, &storage, &keys, &origins)?;
    let announcement = fetcher.announcement(request, &renewed.head.tags, &keys);
    Some((renewed, announcement))
}

/// Returns what a response says of the queries that it is for, if that counts for this request.
fn search_rule(request: &KeyedRequest, response: &HeaderMap) -> Option<Rule> {
    // Slices are found by the key of their whole.
    let may_search = request.slice.is_none() && keying::may_search(&request.route, &request.advice, &request.head);
    may_search.then(|| Rule::of(response)).flatten()
}

async fn settle(
    fetcher: &Fetcher,
    request: &KeyedRequest,
    fetch: &Arc<Fetch>,
    arrived: Arrived,
    times: &Times,
) -> Exchanged {
    let mut report = UpstreamReport::of(&arrived, &request.advice);
    let (mut parts, body) = arrived.fetched.response.into_parts();
    // All that a model's response depends on is in the key: its cookie is one of a network on the way, and no reason not
    // to store or share the rest. Only a client that gets the response alone gets its cookie.
    let cookies = if request.route.infers() { take_cookies(&mut parts.headers) } else { Vec::new() };
    if request.if_error && Reaction::to(parts.status).permits_stale_if_error {
        let detail = format!("endpoint {} sent {}", report.endpoint, parts.status);
        let (status, reason, detail, endpoint) = (parts.status, ORIGIN_ERROR, detail.into(), Some(report.endpoint));
        return Exchanged::Failed(Failed { status, reason, detail, endpoint, is_unreachable: false });
    }
    let response = Responded { status: parts.status, headers: &parts.headers, length: body.size_hint().exact() };
    let ruling = match request.slice {
        None => rule(fetcher, request, response, times),
        Some(slice) => rule_on_slice(fetcher, request, slice, response, times),
    };
    report.remark = ruling.reason.or_else(|| request.advice.remarked().cloned());
    if ruling.uncacheable.is_some() && !fetch.is_overtaken(&request.key) {
        fetcher.cache.mark_uncacheable_by(fetch, request.key, clock::uptime(), ruling.uncacheable);
    }
    let mut response = Response::from_parts(parts, body);
    match ruling.admission {
        Admission::Refuse(refusal)
            if response.status().is_server_error() && refusal.is_shareable() && !is_coded_query(request) =>
        {
            share_error(request, response, report, times.mark).await
        }
        Admission::Refuse(refusal) => {
            for cookie in cookies {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            Exchanged::Refused(response, report, refusal)
        }
        Admission::Store(storage) => arriving(fetcher, request, fetch, response, &storage, report, times),
    }
}

/// Whether it is a QUERY in a content coding: others that ask the same may come in none, and an origin that doesn't
/// understand the coding says so to this request alone.
fn is_coded_query(request: &KeyedRequest) -> bool {
    request.head.method == http::Method::QUERY && request.head.headers.contains_key(header::CONTENT_ENCODING)
}

/// Takes the cookies out of a response's header fields.
fn take_cookies(headers: &mut HeaderMap) -> Vec<HeaderValue> {
    let cookies = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    headers.remove(header::SET_COOKIE);
    cookies
}

/// Returns the exchange of a response that is to be stored while it arrives.
fn arriving(
    fetcher: &Fetcher,
    request: &KeyedRequest,
    fetch: &Arc<Fetch>,
    response: Response,
    storage: &Storage,
    report: UpstreamReport,
    times: &Times,
) -> Exchanged {
    let (parts, body) = response.into_parts();
    let rule = search_rule(request, &parts.headers).map(Arc::new);
    let keys = storage_keys(request, storage, request.primary_by(rule.as_deref(), &fetcher.policy_context));
    if request.slice.is_none() {
        // A slice's key is no request's.
        note(fetcher, request, &keys);
    }
    let mut head = head(parts.status, &parts.headers, storage, &origins(request, times, &keys));
    let mut headers = head.headers.clone();
    if request.route.infers() {
        // Those who wait for it get it whole.
        momentary::strip(&mut head.headers);
    }
    if let Some(age) = parts.headers.get(header::AGE) {
        headers.insert(header::AGE, age.clone());
    }
    let announcement = fetcher.announcement(request, &head.tags, &keys);
    let tags = head.tags.as_slice().into();
    let (urls, mark) = (head.urls.clone(), head.mark);
    let age_ms = head.initial_age_ms;
    let ttl_ms = Some(storage.lifetimes.ttl_ms.saturating_sub(age_ms));
    let recorder = Recorder::new(Arc::clone(&fetcher.cache), Arc::clone(fetch), keys.clone(), head);
    let shared = recorder.shared(body.size_hint().exact());
    let (headers, body_read, at) = (Arc::new(headers), shared.clone(), clock::uptime());
    let declared = rule.as_ref().map(|rule| Declared {
        cache: Arc::clone(&fetcher.cache),
        path: keying::path(&request.route, &request.advice, &request.facts(&fetcher.policy_context)),
        rule: Arc::clone(rule),
    });
    let takes_part = !request.route.config.deltas.patterns.is_empty() && request.slice.is_none();
    let coded =
        takes_part.then(|| Coded { coder: Arc::clone(&fetcher.coder), request: request.clone(), key: keys.key });
    let switch = parts.extensions.get::<SpoolSwitch>().filter(|_| fetcher.cache.config().disk.is_some());
    let unspooled = switch.map(SpoolSwitch::off);
    let arrival = Arrival { headers, body: body_read, keys, rule, tags, urls, mark, ttl_ms, age_ms, at, report };
    let intake = Intake::new(shared, recorder);
    Exchanged::Stored(arrival, Box::new(Pump { body, intake, unspooled, declared, coded, announcement }))
}

/// Remembers what the key is made of under which a response is being stored.
fn note(fetcher: &Fetcher, request: &KeyedRequest, keys: &StorageKeys) {
    fetcher.recent.note(&keys.key, clock::uptime(), || {
        let facts = request.facts(&fetcher.policy_context);
        let digest = match request.head.method {
            http::Method::QUERY => keying::content_digest(&request.route, &request.head, &request.body).ok(),
            _ => None,
        };
        let content = digest.as_ref().map_or(&request.body[..], |digest| &digest[..]);
        let mut made_of = inputs::of(&request.route, &request.advice, &facts, Some(content));
        if let Some(names) = &keys.names {
            made_of.extend(inputs::of_variant(&request.head, names));
        }
        made_of
    });
}

/// Shares an error, without storing it, with the requests that wait already, so that each doesn't go to a failing
/// origin; unless it is specific to one of them.
async fn share_error(request: &KeyedRequest, response: Response, report: UpstreamReport, mark: Mark) -> Exchanged {
    let (mut parts, body) = response.into_parts();
    let mut tags = tag::of_url(&request.url, true).to_vec();
    tags.push(Tag::key(&request.purge_key));
    let keys = match shared_storage_keys(request, &parts.headers) {
        Ok(keys) => keys,
        Err(refusal) => return Exchanged::Refused(Response::from_parts(parts, body), report, refusal),
    };
    if body.size_hint().lower() > SHARED_ERROR_BYTES_MAX {
        return Exchanged::Refused(Response::from_parts(parts, body), report, Refusal::Status);
    }
    let bytes = match body.collect(SHARED_ERROR_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(error) => {
            return Exchanged::Failed(Failed {
                status: StatusCode::BAD_GATEWAY,
                reason: "error-body",
                detail: format!("endpoint {} sent {}, but {error}", report.endpoint, parts.status).into(),
                endpoint: Some(report.endpoint),
                is_unreachable: false,
            });
        }
    };
    debug!(status = %parts.status, "an error response is shared with all who wait for it");
    targeted::take_own(&mut parts.headers, request.route.targeted());
    Exchanged::Error(Arrival {
        headers: Arc::new(parts.headers),
        body: SharedBody::whole(bytes),
        keys,
        rule: None,
        tags: tags.into(),
        urls: Urls::One(Arc::clone(&request.url)),
        mark,
        ttl_ms: None,
        age_ms: 0,
        at: clock::uptime(),
        report,
    })
}

/// Returns the keys of an error that several requests wait for: of its variant, or why it is for one client only.
fn shared_storage_keys(request: &KeyedRequest, response: &HeaderMap) -> Result<StorageKeys, Refusal> {
    let KeyedRequest { route, advice, head, .. } = request;
    let directives = targeted::effective(response, route.targeted());
    let rules = [
        (directives.no_store, Refusal::NoStore),
        (directives.private, Refusal::Private),
        (response.contains_key(header::SET_COOKIE), Refusal::SetsCookie),
        (forwarding::has_unkeyed_credentials(route, advice, &head.headers), Refusal::Authorized),
    ];
    if let Some(refusal) = rules.into_iter().find_map(|(applies, refusal)| applies.then_some(refusal)) {
        return Err(refusal);
    }
    match vary::read(response) {
        // A flight may be of a variant already.
        Vary::No => Ok(StorageKeys { primary: request.primary, key: request.key, names: None }),
        Vary::By(names) if !names.iter().any(|name| advice.changed(name)) => {
            Ok(variant_storage_keys(request, &names, request.primary))
        }
        // What the origin responded to isn't what the client sent.
        Vary::By(_) | Vary::Any => Err(Refusal::VaryAny),
    }
}

fn variant_storage_keys(request: &KeyedRequest, names: &[HeaderName], primary: Key) -> StorageKeys {
    StorageKeys { primary, key: vary::variant(&primary, names, &request.head), names: Some(names.into()) }
}

fn rule(fetcher: &Fetcher, request: &KeyedRequest, response: Responded<'_>, times: &Times) -> Ruling {
    let KeyedRequest { route, advice, head, .. } = request;
    let case = Case::new(route, &head.method, &head.headers, advice, response, times);
    admission::rule(&fetcher.cache, route, advice, &request.facts(&fetcher.policy_context), &case)
}

/// Rules on a response that is to be a slice: as on the whole that it is of. What is no slice isn't stored, and if it isn't
/// an error either, there are none of this response.
fn rule_on_slice(
    fetcher: &Fetcher,
    request: &KeyedRequest,
    slice: Slice,
    response: Responded<'_>,
    times: &Times,
) -> Ruling {
    let is_partial = response.status == StatusCode::PARTIAL_CONTENT;
    if is_partial && slice.version(response.headers, response.length).is_some() {
        return rule(fetcher, request, Responded { status: StatusCode::OK, ..response }, times);
    }
    if response.status.is_success() {
        fetcher.cache.mark_unsliced(&request.purge_key, clock::uptime());
    }
    Admission::Refuse(Refusal::Status).into()
}

fn storage_keys(request: &KeyedRequest, storage: &Storage, primary: Key) -> StorageKeys {
    match &storage.vary {
        None => StorageKeys { primary, key: primary, names: None },
        Some(names) => variant_storage_keys(request, names, primary),
    }
}

fn origins<'a>(request: &'a KeyedRequest, times: &Times, keys: &StorageKeys) -> Origins<'a> {
    Origins {
        url: &request.url,
        key: &request.purge_key,
        mark: times.mark,
        requested: times.requested,
        received: times.received,
        tag_headers: &request.route.config.tag_headers,
        targeted: request.route.targeted(),
        groups: request.route.groups(),
        by_rule: (keys.primary != request.primary).then_some(keys.primary),
    }
}

/// Takes a body in: into the tiers, and to all readers.
pub(super) struct Pump {
    body: Body,
    intake: Intake<Kept>,
    unspooled: Option<SpoolOff>,
    declared: Option<Declared>,
    coded: Option<Coded>,
    announcement: Option<Announcement>,
}

/// What is kept for as long as a response is stored while it arrives: its place in the table of flights, and that it waits
/// for the disk where it is.
struct Kept {
    _lead: Option<Lead<Landing>>,
    _unspooled: Option<SpoolOff>,
}

/// What a response has said of the queries of its path. It counts once the response can be found by it.
struct Declared {
    cache: Arc<Cache>,
    path: Key,
    rule: Arc<Rule>,
}

/// Of a response that may become a dictionary, what is to be known when it is stored.
struct Coded {
    coder: Arc<Coder>,
    request: KeyedRequest,
    key: Key,
}

impl Pump {
    /// Runs to the body's end. The flight, if there is one, stays open until the response can be found in the tiers.
    pub(super) async fn run(mut self, lead: Option<Lead<Landing>>) {
        self.intake.keep(Some(Kept { _lead: lead, _unspooled: self.unspooled.take() }));
        loop {
            match self.body.frame().await {
                None => {
                    if let Some(Declared { cache, path, rule }) = &self.declared {
                        cache.search_rules().note(*path, rule);
                    }
                    let Some(object) = self.intake.finish() else { return };
                    if let Some(coded) = self.coded {
                        coded.coder.stored(&coded.request.coding(), coded.key, &object);
                    }
                    return announce(self.announcement, &object);
                }
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if self.intake.take(data).await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => {
                    warn!(%error, "a response broke off; it isn't stored");
                    return self.intake.fail(error);
                }
            }
        }
    }
}
