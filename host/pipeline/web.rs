//! Requests with one response each: HTTP semantics, and items that aren't batched.

mod older;

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use tokio::sync::oneshot;
use tracing::debug;

use super::{
    advice::{Advice, PolicyContext},
    coding::CodingRequest,
    fetch::{self, Exchanged, Fetcher, KeyedRequest, Landing, Pump, UpstreamReport},
    forwarding,
    joining::{self, Stored, Turn},
    keying::{self, Content, Keyed},
    pass::{Passed, Passer},
    plan::{KeyedPlan, Miss, MissPlan, Why},
    reply::{Replies, Reply, found, note, note_failed},
    route::Route,
    slices::{Slicer, Unserved},
    trace,
    trail::{Lookup, Trail},
    upstream::{DEADLINE, Failed},
};
use crate::{
    cache::{
        Cache, Found, Query,
        admit::Refusal,
        collapse::{Flights, Follower, Joined, Lead},
        conditional,
        entry::Object,
        key::Key,
        lookup::{Demand, Outcome},
        purge::{Arrived, Subject},
        range,
        status::Forward,
        tag::{self, UrlTags},
        vary,
    },
    clock::{self, Timestamp},
    config::{RangeMiss, Reload},
    message::{Body, Request, RequestHead, Response, body::Bounded},
    origin::protocol,
    policy::{Facts, facts},
};

/// How often a request joins a flight before it fetches for itself: by its key, by its variant's, and once more if what
/// came was purged meanwhile.
const JOINS_MAX: usize = 3;

/// The parts of the node that these requests need.
#[derive(Debug)]
pub(super) struct Web {
    pub(super) cache: Arc<Cache>,
    pub(super) flights: Arc<Flights<Landing>>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) replies: Arc<Replies>,
    pub(super) passer: Arc<Passer>,
    pub(super) slicer: Arc<Slicer>,
    pub(super) policy_context: Arc<PolicyContext>,
}

/// The outcome of the look-up in memory alone.
pub(super) enum Quick {
    /// A fresh hit in memory.
    Hit(Response, Key),
    /// The full look-up is needed, with what has been made already: a policy is called once a request.
    Onward(Prepared),
}

/// What a look-up needs beside the request.
pub(super) struct Prepared {
    keyed: Keyed,
    /// The key by the rule that the last response for the path has declared.
    by_rule: Option<Key>,
    demand: Demand,
    /// What was found in memory is fresh, and this request is to refresh it all the same.
    is_ahead: bool,
}

/// Whether a hit may be left to the full look-up, which does more than serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Haste {
    Patient,
    AtOnce,
}

/// The body of a request without one.
static NOTHING: Bytes = Bytes::new();

impl Web {
    /// Serves a request at once if its response is fresh in memory and its key is made of its head alone.
    pub(super) fn quick(&self, route: &Arc<Route>, advice: &Advice, head: &RequestHead) -> Quick {
        let mut prepared = self.prepare(route, advice, head, &NOTHING, Content::None);
        let Keyed::Key { key, fault: None } = prepared.keyed else { return Quick::Onward(prepared) };
        if let Some(response) = self.memory_hit(route, advice, head, key, &mut prepared, Haste::Patient) {
            return Quick::Hit(response, key);
        }
        if let Some(key) = prepared.by_rule
            && !prepared.is_ahead
            && let Some(response) = self.memory_hit(route, advice, head, key, &mut prepared, Haste::Patient)
        {
            return Quick::Hit(response, key);
        }
        Quick::Onward(prepared)
    }

    /// Serves a request for which [`Web::quick`] wanted more than what is fresh in memory, and that can't go onward, with
    /// that alone: another one refreshes it, or gets the better form.
    pub(super) fn at_once(
        &self,
        route: &Arc<Route>,
        advice: &Advice,
        head: &RequestHead,
        prepared: &mut Prepared,
    ) -> Option<(Response, Key)> {
        let Keyed::Key { key, fault: None } = prepared.keyed else { return None };
        [Some(key), prepared.by_rule].into_iter().flatten().find_map(|key| {
            let response = self.memory_hit(route, advice, head, key, prepared, Haste::AtOnce)?;
            Some((response, key))
        })
    }

    fn prepare(
        &self,
        route: &Route,
        advice: &Advice,
        head: &RequestHead,
        body: &Bytes,
        content: Content<'_>,
    ) -> Prepared {
        let facts = advice.facts(&self.policy_context, head, Some(body));
        advice.draw(&facts);
        let keyed = keying::derive(route, advice, &facts, content);
        let by_rule = match keyed {
            Keyed::Key { fault: None, .. } => by_rule(&self.cache, route, advice, &facts),
            _ => None,
        };
        Prepared { keyed, by_rule, demand: route.demand(&head.headers), is_ahead: false }
    }

    fn memory_hit(
        &self,
        route: &Route,
        advice: &Advice,
        head: &RequestHead,
        key: Key,
        prepared: &mut Prepared,
        haste: Haste,
    ) -> Option<Response> {
        let demand = &prepared.demand;
        if demand.directives.no_store {
            return None;
        }
        let now = clock::now();
        let by_url = |prefixes| tag::of_url(&head.url(), prefixes);
        let url: Option<&(dyn Fn(bool) -> UrlTags + Sync)> = if advice.keys_natively() { None } else { Some(&by_url) };
        let query = Query { key, head, demand, url, now };
        let begun = advice.span().timer();
        let found_here = self.cache.peek(&query)?;
        let Outcome::Hit(object) = &found_here.outcome else { return None };
        if object.head.age_ms(now) >= object.head.lifetimes.ttl_ms {
            // A stale response that the client accepts: the full look-up notes that.
            return None;
        }
        match haste {
            Haste::Patient if is_due_ahead(route, head, object, now) => {
                prepared.is_ahead = true;
                return None;
            }
            Haste::AtOnce if prepared.is_ahead => {
                object.leave_refresh();
                prepared.is_ahead = false;
            }
            Haste::Patient | Haste::AtOnce => {}
        }
        let policy = advice.policy().map(|policy| policy.label());
        let request = CodingRequest { route, keys_natively: advice.keys_natively(), demand, head };
        let form = self.replies.coder.form(&request, found_here.key, object);
        if haste == Haste::Patient && form.is_provisional() && !head.is_early() {
            // The full look-up waits for the better one.
            return None;
        }
        let (_, served) = form.of(found_here.key, object);
        let response = self.replies.hit_reply(served, form.said(), policy, head.into(), now)?;
        trace::looked_up(advice.span(), &found_here, begun);
        Some(response)
    }

    /// Serves a request that is to be looked up, of a route whose bodies aren't split.
    pub(super) async fn serve(
        &self,
        route: Arc<Route>,
        advice: Arc<Advice>,
        request: Request,
        prepared: Option<Prepared>,
    ) -> Reply {
        let Request { head, body } = request;
        let body = if http_body::Body::is_end_stream(&body) { Body::Empty } else { body };
        if head.method == Method::QUERY {
            return Box::pin(self.query(route, advice, Request { head, body })).await;
        }
        let body = match body.collect(self.policy_context.body_bytes_max).await {
            Ok(body) => body,
            Err(error) => return self.replies.bad_body(&error, Trail::on(&route, &advice)),
        };
        let (body, canonical) = item(&route, &head.headers, body);
        let content = canonical.as_deref().map_or(Content::None, Content::Item);
        let prepared = prepared.unwrap_or_else(|| self.prepare(&route, &advice, &head, &body, content));
        self.prepared(route, advice, head, body, prepared).await
    }

    /// Serves a QUERY (RFC 10008) by its content, as far as that is read. One whose content can't be part of a key is
    /// passed on as it came.
    async fn query(&self, route: Arc<Route>, advice: Arc<Advice>, request: Request) -> Reply {
        let Request { head, body } = request;
        let body = match body.collect_bounded(route.config.extensions.query_body_bytes_max).await {
            Ok(Bounded::Whole(body)) => body,
            Ok(Bounded::Longer(body)) => {
                let request = Request { head, body };
                return Box::pin(self.passer.take(&route, &advice, request, Why::LargeBody)).await;
            }
            Err(error) => return self.replies.bad_body(&error, Trail::on(&route, &advice)),
        };
        match keying::content_digest(&route, &head, &body) {
            Ok(digest) => {
                let prepared = self.prepare(&route, &advice, &head, &body, Content::Query(&digest));
                Box::pin(self.prepared(route, advice, head, body, prepared)).await
            }
            Err(reason) => {
                debug!(%reason, "a QUERY is passed on");
                let request = Request { head, body: body.into() };
                Box::pin(self.passer.take(&route, &advice, request, Why::UnkeyedBody)).await
            }
        }
    }

    /// Serves a request whose key has been made.
    async fn prepared(
        &self,
        route: Arc<Route>,
        advice: Arc<Advice>,
        head: RequestHead,
        body: Bytes,
        prepared: Prepared,
    ) -> Reply {
        let Prepared { keyed, by_rule, demand, is_ahead } = prepared;
        let plan = KeyedPlan::of(&keyed, route.kind(), !body.is_empty(), &demand);
        if let Some((word, why)) = plan.change() {
            trace::planned(advice.span(), word, why);
        }
        // Made now: if a canary has faulted in the key, another generation decides than before.
        let trail = Trail { detail: keyed.remark().map(Cow::Owned), key: plan.key(), ..Trail::on(&route, &advice) };
        match plan {
            KeyedPlan::LookUp(key) => {
                let request = KeyedRequest::new(route, advice, head, body, demand, key);
                self.look_up(KeyedRequest { by_rule, ..request }, is_ahead, trail).await
            }
            KeyedPlan::Bypass(why, _) => {
                self.passer.pass(Passed { route: &route, advice: &advice, head, body: body.into(), why }, trail).await
            }
            KeyedPlan::Refuse(fault) => self.replies.fault_reply(&route, fault, trail),
        }
    }

    /// Serves a request that has a key. `is_ahead` says that it has been chosen to refresh what is fresh.
    async fn look_up(&self, mut request: KeyedRequest, is_ahead: bool, mut trail: Trail) -> Reply {
        let now = clock::now();
        let begun = request.advice.span().timer();
        let found_here = self.find(&request, &mut trail, now).await;
        trace::looked_up(request.advice.span(), &found_here, begun);
        request.key = found_here.key;
        let mut forward = if found_here.varied { Forward::VaryMiss } else { Forward::UriMiss };
        let mut is_by_request = false;
        match found_here.outcome {
            Outcome::Hit(object) => {
                // Past its lifetime it is a hit only because the client accepts that (`max-stale`).
                let fresh = object.head.age_ms(now) < object.head.lifetimes.ttl_ms;
                found(&mut trail, if fresh { Lookup::Hit } else { Lookup::Stale }, found_here.tier);
                let reply = self.replies.object_reply(&request, request.key, &object, trail.clone(), now).await;
                if let Some(reply) = reply {
                    if fresh && (is_ahead || is_due_ahead(&request.route, &request.head, &object, now)) {
                        self.refresh_ahead(request, object);
                    }
                    return reply;
                }
            }
            Outcome::Grace(object) => {
                found(&mut trail, Lookup::Stale, found_here.tier);
                let reply = self.replies.object_reply(&request, request.key, &object, trail.clone(), now).await;
                if let Some(reply) = reply {
                    self.refresh(request, object);
                    return reply;
                }
            }
            Outcome::Stale { object, if_error, if_unreachable, by_request } => {
                forward = if by_request { Forward::Request } else { Forward::Stale };
                is_by_request = by_request;
                (request.stale, request.if_error) = (Some(object), if_error);
                request.if_unreachable = if_unreachable;
            }
            Outcome::Miss => {}
        }
        (trail.lookup, trail.tier, trail.forward) = (Lookup::Miss, None, Some(forward));
        if forward == Forward::VaryMiss {
            trail.hint = self.cache.varying(&request.primary).map(|names| varying(&names));
        }
        let miss = Miss {
            demand: &request.demand,
            is_uncacheable: found_here.uncacheable,
            is_by_request,
            has_stale: request.stale.is_some(),
            has_range: asks_for_range(&request),
            passes_ranges: request.route.config.range_miss != RangeMiss::Whole,
            slices_ranges: request.route.config.range_miss == RangeMiss::Parts,
            is_conditional: conditional::is_conditional(&request.head.headers),
            coalesces_reloads: request.route.reload() == Reload::Coalesce,
        };
        let plan = MissPlan::of(&miss);
        let (word, why) = plan.words();
        trace::planned(request.advice.span(), word, why);
        match plan {
            MissPlan::Collapse => self.collapse(request, trail).await,
            MissPlan::CollapseReload => {
                request.is_reload = true;
                self.collapse(request, trail).await
            }
            MissPlan::Slices => self.slices(request, trail).await,
            MissPlan::Alone => self.fetch_alone(request, trail).await,
            MissPlan::Bypass(why) => self.bypass(request, why, trail).await,
            MissPlan::Refuse => self.not_cached(trail),
        }
    }

    /// Returns the refusal of a request whose client wants nothing from the origin (RFC 9111, section 5.2.1.7).
    fn not_cached(&self, mut trail: Trail) -> Reply {
        // It doesn't go forward (RFC 9211, section 2.2).
        (trail.forward, trail.hint, trail.detail) = (None, None, Some("only-if-cached".into()));
        let detail = "the request is only-if-cached, and nothing that may be used is stored";
        self.replies.own(StatusCode::GATEWAY_TIMEOUT, "Not cached", detail, trail)
    }

    /// Returns what is found by the request's URL, or where that is nothing to serve, by the rule of its path.
    async fn find(&self, request: &KeyedRequest, trail: &mut Trail, now: Timestamp) -> Found {
        let url = Arc::clone(&request.url);
        let by_url = move |prefixes| tag::of_url(&url, prefixes);
        let query = request.query(&by_url, now);
        let by_url = self.cache.look_up(&query).await;
        let Some(key) = request.by_rule.filter(|_| !is_served(&by_url.outcome)) else { return by_url };
        let by_rule = Box::pin(self.cache.look_up(&Query { key, ..query })).await;
        if !is_by_rule(&by_url.outcome, by_url.uncacheable, &by_rule.outcome) {
            return by_url;
        }
        if !matches!(by_rule.outcome, Outcome::Miss) {
            trail.key = Some(key);
        }
        by_rule
    }

    /// Serves a range from slices, or from a stale whole where the origin fails; or passes the request on where that
    /// can't be, unless the client wants nothing from the origin.
    async fn slices(&self, request: KeyedRequest, trail: Trail) -> Reply {
        let served = Box::pin(self.slicer.serve(&request, trail.clone())).await;
        match served {
            Ok(reply) => reply,
            Err(_) if request.demand.directives.only_if_cached => self.not_cached(trail),
            Err(Unserved::Failed(failed)) if self.may_fall_back(&request, &failed) => {
                self.or_stale(&request, &failed, trail).await
            }
            Err(Unserved::Failed(_) | Unserved::NoSlices) => self.bypass(request, Why::Range, trail).await,
        }
    }

    async fn bypass(&self, request: KeyedRequest, why: Why, trail: Trail) -> Reply {
        let KeyedRequest { route, advice, head, body, .. } = request;
        self.passer.pass(Passed { route: &route, advice: &advice, head, body: body.into(), why }, trail).await
    }

    /// Refreshes a fresh response that was served before its life is over, as if it were stale.
    fn refresh_ahead(&self, mut request: KeyedRequest, object: Arc<Object>) {
        request.is_ahead = true;
        self.refresh(request, object);
    }

    /// Refreshes a response that was served, in the background, unless a fetch is under way already.
    fn refresh(&self, mut request: KeyedRequest, object: Arc<Object>) {
        if self.cache.is_marked_for_cookie(&request.key, &request.head) {
            // What it would bring isn't stored.
            if request.is_ahead {
                object.leave_refresh();
            }
            return;
        }
        request.stale = Some(object);
        if let Joined::Lead(lead) = self.flights.join(&request.flight_key()) {
            if request.is_ahead {
                self.cache.metrics().refreshed_ahead.inc();
            }
            let span = request.advice.span().clone();
            trace::leads(&span, lead.number());
            trace::spawn(&span, fetch::lead(Arc::clone(&self.fetcher), request, lead, oneshot::channel().0));
        }
    }

    /// Waits for the one fetch that serves all requests for the same, starting it if need be.
    async fn collapse(&self, mut request: KeyedRequest, mut trail: Trail) -> Reply {
        for _ in 0..JOINS_MAX {
            let joined = self.cache.purger().arrived();
            let key = request.flight_key();
            let (follower, own) = match joining::join(&self.flights, &key, || self.look_again(&request)) {
                Turn::Full => break,
                Turn::Follow(follower) => {
                    trace::follows(request.advice.span(), follower.number());
                    (follower, None)
                }
                Turn::Lead(lead, stored) => {
                    if let Some(stored) = stored
                        && let Some(reply) = self.stored_reply(&request, &stored, &trail).await
                    {
                        trace::found_meanwhile(request.advice.span(), stored.tier.as_str());
                        return reply;
                    }
                    let (follower, own) = self.take_off(&request, lead);
                    (follower, Some(own))
                }
            };
            trail.collapsed = own.is_none();
            match self.land(&mut request, joined, follower, own, trail.clone()).await {
                Landed::Reply(reply) => return *reply,
                Landed::Again => trace::not_for_it(request.advice.span(), "join again"),
                Landed::Alone => {
                    trace::not_for_it(request.advice.span(), "fetch alone");
                    break;
                }
                Landed::Pass => {
                    trace::not_for_it(request.advice.span(), "pass its range on");
                    trail.collapsed = false;
                    return Box::pin(self.bypass(request, Why::Range, trail)).await;
                }
            }
        }
        trail.collapsed = false;
        self.fetch_alone(request, trail).await
    }

    /// Starts the fetch that `lead` is the leader of, in a task of its own.
    fn take_off(&self, request: &KeyedRequest, lead: Lead<Landing>) -> (Follower<Landing>, Own) {
        let (sender, own) = oneshot::channel();
        let follower = lead.follower();
        let span = request.advice.span();
        trace::leads(span, lead.number());
        trace::spawn(span, fetch::lead(Arc::clone(&self.fetcher), request.clone(), lead, sender));
        (follower, own)
    }

    /// Returns what memory has by now, for a request that found nothing fresh.
    fn look_again(&self, request: &KeyedRequest) -> Option<Found> {
        let url = |prefixes| tag::of_url(&request.url, prefixes);
        let query = request.query(&url, clock::now());
        let by_url = self.cache.peek(&query);
        let is_hit = |found: &Found| is_served(&found.outcome);
        match request.by_rule.filter(|_| !by_url.as_ref().is_some_and(is_hit)) {
            Some(key) => self.cache.peek(&Query { key, ..query }).or(by_url),
            None => by_url,
        }
    }

    async fn stored_reply(&self, request: &KeyedRequest, stored: &Stored, trail: &Trail) -> Option<Reply> {
        let mut trail = Trail { forward: None, ..trail.clone() };
        found(&mut trail, Lookup::Hit, stored.tier);
        self.replies.object_reply(request, stored.key, &stored.object, trail, clock::now()).await
    }

    async fn land(
        &self,
        request: &mut KeyedRequest,
        joined: Arrived,
        follower: Follower<Landing>,
        own: Option<Own>,
        trail: Trail,
    ) -> Landed {
        let flight = follower.number();
        // What was purged between the start of the flight and the moment we joined it is not for us.
        let url = Arc::clone(&request.url);
        let by_url = || tag::of_url(&url, true);
        let outdated = |subject: Subject<'_>| self.cache.purger().is_outdated(&subject, &joined, by_url);
        let begun = request.advice.span().timer();
        let landing = follower.landed().await;
        trace::landed(request.advice.span(), flight, landing.as_ref().map_or("lost", Landing::as_str), begun);
        let reply = match landing {
            None => None,
            Some(Landing::Shared(arrival)) => {
                if outdated(arrival.subject()) {
                    self.flights.retire(&request.flight_key(), flight);
                    return Landed::Again;
                }
                let is_older = |stale: &Arc<Object>| stale.head.mark.at > arrival.mark.at;
                if own.is_none() && request.stale.as_ref().is_some_and(is_older) {
                    // What this request found stale is newer.
                    self.flights.retire(&request.flight_key(), flight);
                    return Landed::Again;
                }
                if own.is_none() && arrival.ttl_ms == Some(0) {
                    // Good only for requests that came before it was made (RFC 9111, section 4).
                    return Landed::Alone;
                }
                if own.is_none() && arrival.is_over(clock::uptime()) {
                    // Its body takes longer to come than it is fresh.
                    self.flights.retire(&request.flight_key(), flight);
                    return Landed::Again;
                }
                if own.is_none() && arrival.ttl_ms.is_none() && has_unkeyed_credentials(request) {
                    // An error, made for a request without these credentials.
                    return Landed::Alone;
                }
                if request.primary_by(arrival.rule.as_deref(), &self.policy_context) != arrival.keys.primary {
                    // It doesn't say that it is for this URL.
                    request.leave_rule();
                    return Landed::Again;
                }
                if let Some(names) = &arrival.keys.names {
                    let variant = vary::variant(&arrival.keys.primary, names, &request.head);
                    if variant != arrival.keys.key {
                        request.key = variant;
                        return Landed::Again;
                    }
                }
                self.replies.arrival_reply(request, &arrival, trail).await
            }
            // Found good for the request that revalidated it; stale again, it is to be revalidated for each (RFC 9111,
            // section 5.2.2.4).
            Some(Landing::Renewed(object, _)) if own.is_none() && !object.head.is_fresh(clock::now()) => {
                return Landed::Alone;
            }
            Some(Landing::Renewed(object, _)) if outdated(object.head.subject()) => {
                // What was purged after it was found good must come anew, not be renewed again.
                (request.stale, request.if_error, request.if_unreachable) = (None, false, false);
                self.flights.retire(&request.flight_key(), flight);
                return Landed::Again;
            }
            Some(Landing::Renewed(object, report)) => self.renewed(request, &object, &report, trail).await,
            Some(Landing::Elsewhere) => return self.elsewhere(request, trail).await,
            // The time that a policy gave to one request says nothing of the others.
            Some(Landing::Failed(failed)) if own.is_none() && failed.reason == DEADLINE => {
                self.flights.retire(&request.flight_key(), flight);
                return Landed::Again;
            }
            Some(Landing::Failed(failed)) => Some(self.or_stale(request, &failed, trail).await),
            // It was made for the cookie of the one that asked: those without one share another.
            Some(Landing::Private(Refusal::Cookie))
                if own.is_none() && !request.head.headers.contains_key(header::COOKIE) =>
            {
                return Landed::Again;
            }
            Some(Landing::Private(refusal)) => return self.private(request, own, refusal, trail).await,
        };
        reply.map_or(Landed::Alone, |reply| Landed::Reply(Box::new(reply)))
    }

    /// Returns what another node of the region has stored, judged for this request as any hit; it joins again if nothing
    /// of that is for it.
    async fn elsewhere(&self, request: &mut KeyedRequest, mut trail: Trail) -> Landed {
        let found_here = Box::pin(self.find(request, &mut trail, clock::now())).await;
        request.key = found_here.key;
        let Outcome::Hit(object) = found_here.outcome else { return Landed::Again };
        trail.collapsed = false;
        let stored = Stored { object, key: found_here.key, tier: found_here.tier };
        let reply = self.stored_reply(request, &stored, &trail).await;
        reply.map_or(Landed::Alone, |reply| Landed::Reply(Box::new(reply)))
    }

    /// Returns what a response that isn't for all means for this request; the one that began the flight gets it.
    async fn private(&self, request: &KeyedRequest, own: Option<Own>, refusal: Refusal, trail: Trail) -> Landed {
        let Some(own) = own else {
            // Nothing that could be cut will be stored: the origin is the one to cut it.
            return if asks_for_range(request) { Landed::Pass } else { Landed::Alone };
        };
        match own.await {
            // Dropped, it is given up.
            Ok((response, _)) if self.is_too_large_to_cut(request, &response) => Landed::Pass,
            Ok((response, report)) => {
                Landed::Reply(Box::new(self.unstored(&request.head, response, &report, refusal, trail)))
            }
            Err(_) => Landed::Alone,
        }
    }

    /// Whether a response that isn't stored is to be given up, because the client wants a range and the whole would be
    /// read for it alone.
    fn is_too_large_to_cut(&self, request: &KeyedRequest, response: &Response) -> bool {
        let length = http_body::Body::size_hint(response.body()).exact();
        let is_too_large = length.is_some_and(|length| length > self.cache.object_bytes_max());
        is_too_large && response.status() == StatusCode::OK && asks_for_range(request)
    }

    async fn renewed(
        &self,
        request: &KeyedRequest,
        object: &Arc<Object>,
        report: &UpstreamReport,
        mut trail: Trail,
    ) -> Option<Reply> {
        note(&mut trail, report);
        trail.stored = !self.cache.is_gone(object, &request.url);
        self.replies.object_reply(request, request.key, object, trail, clock::now()).await
    }

    /// Returns the reply from a response that isn't stored, and notes why it isn't.
    fn unstored(
        &self,
        head: &RequestHead,
        response: Response,
        report: &UpstreamReport,
        refusal: Refusal,
        mut trail: Trail,
    ) -> Reply {
        let remark = report.remark.as_ref();
        let reason = || remark.map_or(Cow::Borrowed(refusal.as_str()), |remark| remark.to_string().into());
        trail.detail.get_or_insert_with(reason);
        self.replies.unstored_reply(response, report, head.into(), trail)
    }

    /// Whether what is stored may be served when the origin fails in this way.
    fn may_fall_back(&self, request: &KeyedRequest, failed: &Failed) -> bool {
        let if_unreachable = request.if_unreachable && failed.is_unreachable;
        let may =
            |object: &Arc<Object>| self.cache.may_stand_in(object, &request.url, request.if_error, if_unreachable);
        request.stale.as_ref().is_some_and(may)
    }

    /// Returns what is stored, if it may be served when the origin fails in this way, else the failure.
    async fn or_stale(&self, request: &KeyedRequest, failed: &Failed, trail: Trail) -> Reply {
        if let Some(object) = request.stale.as_ref().filter(|_| self.may_fall_back(request, failed)) {
            let mut stale = Trail { detail: Some(failed.reason.into()), ..trail.clone() };
            note_failed(&mut stale, failed);
            stale.lookup = Lookup::Stale;
            let reply = self.replies.object_reply(request, request.key, object, stale, clock::now());
            if let Some(reply) = reply.await {
                return reply;
            }
        }
        self.replies.failed_reply(failed, trail)
    }

    /// Fetches for one client only; what may be stored is stored.
    async fn fetch_alone(&self, mut request: KeyedRequest, trail: Trail) -> Reply {
        loop {
            let begun = self.cache.begin_fetch(&request.primary);
            let exchanged = fetch::exchange(&self.fetcher, &request, &begun).await;
            let is_given_up = matches!(
                &exchanged,
                Exchanged::Refused(response, ..) if self.is_too_large_to_cut(&request, response)
            );
            if is_given_up {
                drop(exchanged);
                return Box::pin(self.bypass(request, Why::Range, trail)).await;
            }
            let reply = match exchanged {
                Exchanged::Failed(failed) => return self.or_stale(&request, &failed, trail).await,
                Exchanged::Refused(response, report, refusal) => {
                    return self.unstored(&request.head, response, &report, refusal, trail);
                }
                Exchanged::Renewed(object, report) => self.renewed(&request, &object, &report, trail.clone()).await,
                Exchanged::Error(arrival) => self.replies.arrival_reply(&request, &arrival, trail.clone()).await,
                Exchanged::Stored(arrival, pump) => {
                    // After a `no-cache`, too, every request from now on finds what this fetch brings.
                    let reply = self.replies.arrival_reply(&request, &arrival, trail.clone()).await;
                    tokio::spawn(Pump::run(*pump, None));
                    reply
                }
            };
            match reply {
                Some(reply) => return reply,
                // The origin says that what is stored is good, but a part of it is gone: fetch the whole.
                None if request.stale.take().is_some() => {}
                None => return self.lost(trail),
            }
        }
    }

    /// Returns the reply when the response broke off before its first reader was there.
    fn lost(&self, mut trail: Trail) -> Reply {
        trail.note_failure("body-lost");
        trail.detail = Some("body-lost".into());
        self.replies.own(StatusCode::BAD_GATEWAY, "Bad gateway", "the origin's response broke off", trail)
    }
}

/// Whether something is found that is served, be it while it is refreshed.
pub(super) const fn is_served(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Hit(_) | Outcome::Grace(_))
}

/// Whether what is found by the rule of a path counts, where nothing is served by the URL: if it is served, or what the
/// URL has is of no use.
pub(super) const fn is_by_rule(by_url: &Outcome, is_uncacheable: bool, by_rule: &Outcome) -> bool {
    is_served(by_rule) || !is_uncacheable && matches!(by_url, Outcome::Miss)
}

/// What a landing means for a request that waited.
enum Landed {
    Reply(Box<Reply>),
    /// It was another variant, or it was purged meanwhile: join again.
    Again,
    Alone,
    /// The whole isn't read for its range: the origin is asked for that.
    Pass,
}

/// Returns the fields by which a variant that isn't stored would be selected, for `Cache-Status`.
fn varying(names: &[HeaderName]) -> Box<str> {
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    format!("vary:{}", names.join(",")).into()
}

/// The channel to the client that began a flight, for a response that isn't shared.
type Own = oneshot::Receiver<(Response, UpstreamReport)>;

/// Returns the request's key by what the last response for its path has said of queries (`No-Vary-Search`).
pub(super) fn by_rule(cache: &Cache, route: &Route, advice: &Advice, facts: &Facts<'_>) -> Option<Key> {
    let rules = cache.search_rules();
    if rules.is_empty() || !keying::may_search(route, advice, facts.request()) {
        return None;
    }
    let rule = rules.get(&keying::path(route, advice, facts))?;
    Some(keying::by_rule(route, advice, facts, &rule))
}

/// Returns what the key of a request has of its content, if it is a QUERY.
///
/// # Errors
/// Why it is passed on instead.
pub(super) fn query_digest(route: &Route, head: &RequestHead, body: &Bytes) -> Result<Option<[u8; 32]>, Why> {
    if head.method != Method::QUERY {
        return Ok(None);
    }
    if body.len() as u64 > route.config.extensions.query_body_bytes_max {
        return Err(Why::LargeBody);
    }
    keying::content_digest(route, head, body).map(Some).map_err(|_| Why::UnkeyedBody)
}

/// Whether this hit on what is fresh is the one that refreshes it ahead of its end. One in early data has no effect.
fn is_due_ahead(route: &Route, head: &RequestHead, object: &Object, now: Timestamp) -> bool {
    route.config.refresh_ahead
        && !head.is_early()
        && object.head.is_due_ahead(now, fastrand::f64)
        && object.begin_refresh()
}

fn asks_for_range(request: &KeyedRequest) -> bool {
    range::is_asked_for(&request.head.method, &request.head.headers)
}

fn has_unkeyed_credentials(request: &KeyedRequest) -> bool {
    forwarding::has_unkeyed_credentials(&request.route, &request.advice, &request.head.headers)
}

/// Returns the body as it is sent, and its canonical form if it is an item.
pub(super) fn item(route: &Route, headers: &HeaderMap, body: Bytes) -> (Bytes, Option<Bytes>) {
    if !route.infers() {
        return (body, None);
    }
    if !facts::may_be_json(headers) {
        return (body.clone(), Some(body));
    }
    let item = protocol::whole(&body);
    (item.body, Some(item.canonical))
}
