//! The way of a request: plan → key → look-up → collapse → route → batch → upstream → admit → store → reply.
//!
//! `plan` decides what is done with it. `web` looks up requests with one response each, `infer` those that are split
//! into items, and `pass` sends on what isn't looked up; `keying`, `fetch`, `upstream`, `admission`, `coding` and `reply`
//! are the steps they have in common. Every step's verdict ends up in the [`Trail`]. No step gets more of the node than it
//! needs, and no two files use each other.

mod admission;
mod advice;
mod calls;
mod claims;
mod coding;
mod conditions;
mod fetch;
mod forwarding;
mod index;
pub mod infer;
mod inputs;
mod joining;
mod keying;
mod loops;
mod metrics;
mod momentary;
mod own;
mod parents;
mod pass;
mod plan;
mod prefetch;
mod proxy;
mod recent;
mod refusal;
mod replicate;
mod reply;
mod rest;
mod rewriting;
mod route;
mod slices;
mod trace;
mod trail;
mod upstream;
mod web;
mod why;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;

use self::{
    advice::{Advice, PolicyContext},
    coding::Coder,
    fetch::{Fetcher, Landing},
    forwarding::Proxies,
    infer::{Batchers, Infer, ItemResult, Places},
    loops::Loops,
    metrics::ReplyCodings,
    parents::Ties,
    pass::Passer,
    plan::{Aspects, Plan},
    prefetch::Prefetcher,
    recent::Recent,
    refusal::{Unforwardable, body_limit, unforwardable},
    replicate::{NotTaken, Replicator, Room, Said},
    reply::Replies,
    slices::Slicer,
    web::{Quick, Web},
    why::Explainer,
};
pub use self::{
    metrics::Metrics,
    reply::Reply,
    route::{Destination, Parents, Replicas, Route, RouteMatch, Routes},
    trail::{Lookup, Trail},
};
use crate::{
    cache::{Cache, collapse::Flights},
    clock,
    config::{self, OwnResponse},
    message::{Body, BodyError, Near, Request, RequestHead, RequestSpan, Response, proxy_status::ProxyStatus},
    policy::{Decision, Hook, HookCall},
    report::WhyReport,
};

/// The way of all requests. Each step has its share of the node; here they are put together.
#[derive(Debug)]
pub struct Pipeline {
    cache: Arc<Cache>,
    policy_context: Arc<PolicyContext>,
    replies: Arc<Replies>,
    passer: Arc<Passer>,
    web: Web,
    infer: Arc<Infer>,
    prefetcher: Arc<Prefetcher>,
    replicator: Arc<Replicator>,
    proxies: Arc<Proxies>,
    explainer: Explainer,
}

/// What a pipeline has of the configuration beside its routes.
#[derive(Debug)]
pub struct Settings {
    /// The limits of what clients may send, and the proxies that are believed.
    pub limits: config::Limits,
    /// Fetching ahead.
    pub prefetch: config::Prefetch,
    /// Announcing to other regions what was stored.
    pub replication: config::Replication,
    /// The node's region, if it has one.
    pub region: Option<config::Region>,
}

/// What a pipeline has in common with the one that takes its place.
struct Lasting {
    node: String,
    cache: Arc<Cache>,
    web: Arc<Flights<Landing>>,
    infer: Arc<Flights<Arc<ItemResult>>>,
    places: Arc<Places>,
    prefetcher: Arc<Prefetcher>,
    replicator: Arc<Replicator>,
    codings: ReplyCodings,
    loops: Loops,
    recent: Arc<Recent>,
    ties: Arc<Ties>,
}

impl Pipeline {
    /// A pipeline for `routes` over `cache`, whose items gather in `batchers`; what it does in the background keeps to
    /// the limits of `prefetch` and `replication`.
    #[must_use]
    pub fn new(
        node: String,
        routes: Routes,
        batchers: Batchers,
        cache: Arc<Cache>,
        settings: Settings,
        metrics: Metrics,
    ) -> Arc<Self> {
        let flights_max = cache.config().collapse.flights_max;
        let loops = cache.mark().map_or_else(Loops::new, Loops::of);
        let ties = Arc::new(Ties::new(cache.purger().mark(), metrics.parents));
        let lasting = Lasting {
            node,
            cache,
            web: Flights::new(flights_max),
            infer: Flights::new(flights_max),
            places: Arc::default(),
            prefetcher: Arc::new(Prefetcher::new(settings.prefetch, metrics.hints)),
            replicator: Arc::new(Replicator::new(settings.replication, metrics.replications)),
            codings: metrics.reply_codings,
            loops,
            recent: Arc::new(Recent::new()),
            ties,
        };
        Self::over(lasting, routes, batchers, settings)
    }

    /// A pipeline for another configuration, which takes the place of this one. Both share the cache and the fetches
    /// under way, and hints that were followed and announcements that wait unless there is another rule for them, so
    /// that an exchange makes no fetch twice.
    #[must_use]
    pub fn succeeded_by(&self, routes: Routes, batchers: Batchers, settings: Settings) -> Arc<Self> {
        let lasting = Lasting {
            node: self.replies.node_name.clone(),
            cache: Arc::clone(&self.cache),
            web: Arc::clone(&self.web.flights),
            infer: Arc::clone(&self.infer.flights),
            places: Arc::clone(&self.infer.places),
            prefetcher: self.prefetcher.under(settings.prefetch),
            replicator: self.replicator.under(settings.replication),
            codings: self.infer.codings.clone(),
            loops: self.policy_context.loops.clone(),
            recent: Arc::clone(&self.infer.recent),
            ties: Arc::clone(&self.web.fetcher.ties),
        };
        Self::over(lasting, routes, batchers, settings)
    }

    fn over(lasting: Lasting, routes: Routes, batchers: Batchers, settings: Settings) -> Arc<Self> {
        let Settings { limits, region, .. } = settings;
        let Lasting { node, cache, web, infer, places, prefetcher, replicator, codings, loops, recent, ties } = lasting;
        let (routes, body_bytes_max) = (Arc::new(routes), limits.body_bytes_max);
        let policy_context = Arc::new(PolicyContext { routes, body_bytes_max, loops });
        let proxies = Arc::new(Proxies::new(limits.forwarding_proxies.clone(), region));
        let coder = Arc::new(Coder::new(Arc::clone(&cache), codings.clone()));
        let fetcher = Arc::new(Fetcher {
            cache: Arc::clone(&cache),
            policy_context: Arc::clone(&policy_context),
            proxies: Arc::clone(&proxies),
            recent: Arc::clone(&recent),
            coder: Arc::clone(&coder),
            ties,
            replicator: Arc::clone(&replicator),
        });
        let replies =
            Arc::new(Replies { node_name: node, cache: Arc::clone(&cache), fetcher: Arc::clone(&fetcher), coder });
        let passer = Arc::new(Passer {
            policy_context: Arc::clone(&policy_context),
            proxies: Arc::clone(&proxies),
            purger: Arc::clone(cache.purger()),
            replies: Arc::clone(&replies),
        });
        let slicer = Arc::new(Slicer {
            cache: Arc::clone(&cache),
            flights: Arc::clone(&web),
            fetcher: Arc::clone(&fetcher),
            replies: Arc::clone(&replies),
        });
        let web = Web {
            cache: Arc::clone(&cache),
            flights: web,
            fetcher,
            slicer,
            replies: Arc::clone(&replies),
            passer: Arc::clone(&passer),
            policy_context: Arc::clone(&policy_context),
        };
        let explainer = Explainer {
            node: replies.node_name.clone(),
            cache: Arc::clone(&cache),
            policy_context: Arc::clone(&policy_context),
            proxies: Arc::clone(&proxies),
            recent: Arc::clone(&recent),
            items_max: limits.items_max,
        };
        let infer = Arc::new(Infer {
            cache: Arc::clone(&cache),
            flights: infer,
            places,
            replies: Arc::clone(&replies),
            policy_context: Arc::clone(&policy_context),
            batchers,
            limits,
            codings,
            recent,
        });
        Arc::new(Self {
            cache,
            policy_context,
            replies,
            passer,
            web,
            infer,
            prefetcher,
            replicator,
            proxies,
            explainer,
        })
    }

    /// Serves a request, and prefetches what its policy suggests after it. Its stages log in `span`.
    pub async fn serve(self: &Arc<Self>, mut request: Request, span: RequestSpan) -> Reply {
        self.proxies.believe(&mut request.head);
        if let Some(said) = self.proxies.announced(&mut request.head) {
            return self.announced(&request.head, said);
        }
        let child = self.proxies.child(&mut request.head);
        let near = child.as_ref().map(|_| request.head.near.clone()).unwrap_or_default();
        let varies_by = self.policy_context.routes.varies_by(&request.head);
        let taken = self.policy_context.routes.find(&request.head);
        trace::routed(&span, taken.map(|taken| taken.route.config.name.as_str()));
        let Some(taken) = taken else { return self.no_route(&request) };
        let advice = Advice::of(taken.route, &request.head, span);
        if child.as_ref().is_some_and(|child| *child != parents::terms(taken.route, advice.policy(), &near)) {
            return self.no_parent(taken.route, &advice);
        }
        let is_call = calls::ends_by_code(taken.route, &request.head);
        // One that somebody sent again has nothing fetched.
        if is_call || !advice.has(Hook::Prefetch) || request.head.is_early() {
            let mut reply = self.serve_on(taken, advice, request).await;
            reply.edit(&varies_by, child.is_none());
            acknowledge(&mut reply, child, &near);
            if is_call {
                calls::conclude(&mut reply);
            }
            return reply;
        }
        let (ahead, head) = (advice.afresh(), request.head.clone());
        let mut reply = self.serve_on(taken, advice, request).await;
        reply.edit(&varies_by, child.is_none());
        acknowledge(&mut reply, child, &near);
        let hit = reply.trail.is_hit();
        if !reply.trail.failed && head.method == Method::GET {
            // The client doesn't wait for it.
            let pipeline = Arc::clone(self);
            tokio::spawn(async move { pipeline.look_ahead(&ahead, &head, hit) });
        }
        reply
    }

    /// Serves a request of the node's own, after which nothing is prefetched.
    async fn answer(&self, request: Request) -> Reply {
        match self.policy_context.routes.find(&request.head) {
            None => self.no_route(&request),
            Some(taken) => {
                let advice = Advice::of(taken.route, &request.head, RequestSpan::none());
                self.serve_on(taken, advice, request).await
            }
        }
    }

    async fn serve_on(&self, taken: RouteMatch<'_>, advice: Advice, mut request: Request) -> Reply {
        let route = taken.route;
        if let Some(own) = &route.config.own {
            return self.own_reply(route, &advice, own, &request.head);
        }
        let has_body = !http_body::Body::is_end_stream(&request.body);
        let plan = Plan::of(&Aspects::of(taken, &advice, &request.head, has_body));
        let (word, why) = plan.words();
        trace::planned(advice.span(), word, why);
        let mut prepared = if plan.may_look(advice.is_repeatable(), || request.head.is_early()) {
            // A fresh memory hit, the case that counts, never enters the large futures below.
            match self.web.quick(route, &advice, &request.head) {
                Quick::Hit(response, key) => return Reply { response, trail: Trail::of_hit(route, advice, key) },
                Quick::Onward(prepared) => Some(prepared),
            }
        } else {
            None
        };
        if let Some(reply) = self.refusal(route, &advice, &request, plan) {
            return reply;
        }
        let Ok(place) = route.place() else {
            let hit = prepared.as_mut().and_then(|known| self.web.at_once(route, &advice, &request.head, known));
            return match hit {
                Some((response, key)) => Reply { response, trail: Trail::of_hit(route, advice, key) },
                None => self.replies.route_full(Trail::on(route, &advice)),
            };
        };
        if let Some(limit) = body_limit(route, plan) {
            request.body = request.body.limited(limit);
        }
        // Each is in a box of its own, and awaited here, so that this future is no larger for a hit.
        let mut reply = if let Plan::Bypass(why) | Plan::Pass(why) = plan {
            Box::pin(self.passer.take(route, &advice, request, why)).await
        } else {
            let (route, advice) = (Arc::clone(route), Arc::new(advice));
            match route.splits() {
                Some(protocol) if route.splits_call(&request.head) => {
                    Box::pin(calls::serve(&self.infer, route, protocol, advice, request)).await
                }
                Some(protocol) => Box::pin(infer::serve(&self.infer, route, protocol, advice, request, None)).await,
                None => Box::pin(self.web.serve(route, advice, request, prepared)).await,
            }
        };
        reply.trail.place = place;
        reply
    }

    /// Returns a route's own response.
    fn own_reply(&self, route: &Arc<Route>, advice: &Advice, own: &OwnResponse, head: &RequestHead) -> Reply {
        let trail = Trail { lookup: Lookup::Own, detail: Some(own::word(own).into()), ..Trail::on(route, advice) };
        match own::response(own, route.config.rewrite.as_ref(), head) {
            Ok(response) => Reply { response, trail },
            Err(fault) => self.replies.unwritable(fault, trail),
        }
    }

    /// Returns the reply to a request that must not be sent on, whatever is stored for it.
    fn refusal(&self, route: &Arc<Route>, advice: &Advice, request: &Request, plan: Plan) -> Option<Reply> {
        let (loops, length) = (&self.policy_context.loops, http_body::Body::size_hint(&request.body).lower());
        let reason = unforwardable(route, loops, &request.head, length, plan)?;
        let trail = |detail: &'static str| Trail {
            detail: Some(detail.into()),
            proxy_status: Some(ProxyStatus::Error(proxy::error_of(detail))),
            ..Trail::on(route, advice)
        };
        Some(match reason {
            Unforwardable::Early => {
                let detail = "it came in early data, from which only fresh responses in memory are served: send it again \
                              after the handshake";
                self.replies.own(StatusCode::TOO_EARLY, "Too Early", detail, trail("early-data"))
            }
            Unforwardable::Path(fault) => self.replies.unwritable(fault, Trail::on(route, advice)),
            Unforwardable::TooLarge { limit } => {
                self.replies.bad_body(&BodyError::TooLarge { limit }, Trail::on(route, advice))
            }
            Unforwardable::Loop => {
                let detail = "this node has sent the request on before: its origin leads back to it";
                self.replies.own(StatusCode::LOOP_DETECTED, "Loop Detected", detail, trail("loop"))
            }
            Unforwardable::Call(status, word, detail) => {
                let title = status.canonical_reason().unwrap_or("Not Implemented");
                self.replies.own(status, title, detail, trail(word))
            }
            Unforwardable::Switch => {
                let detail = "the route doesn't allow a switch to a WebSocket";
                self.replies.own(StatusCode::NOT_IMPLEMENTED, "Not Implemented", detail, trail("upgrade"))
            }
            Unforwardable::Incremental => {
                let detail = "the route reads bodies as a whole, and sends none on while it arrives";
                self.replies.incremental_refused(detail, trail("incremental"))
            }
        })
    }

    /// Returns what would be done with a request now, and why. Nothing is fetched, stored or counted; a policy's `key` and
    /// `features` hooks are called as they are for a request.
    pub async fn why(&self, head: RequestHead, body: Bytes) -> WhyReport {
        Box::pin(self.explainer.explain(head, body)).await
    }

    /// Calls the policy's `prefetch` hook after a GET, and fetches what it suggests.
    fn look_ahead(self: &Arc<Self>, advice: &Advice, head: &RequestHead, hit: bool) {
        let facts = advice.facts(&self.policy_context, head, None);
        let Some(Ok(decision)) = advice.ask(&HookCall::Prefetch { hit }, &facts) else { return };
        let Decision::Prefetch(hints) = &*decision else { return };
        for head in self.prefetcher.wanted(hints, head, clock::uptime()) {
            let pipeline = Arc::clone(self);
            tokio::spawn(async move { pipeline.prefetcher.run(Box::pin(pipeline.fetch_ahead(head))).await });
        }
    }

    /// Fetches what a policy suggests, and returns the outcome's label.
    async fn fetch_ahead(&self, head: RequestHead) -> &'static str {
        let Reply { response, trail } = self.answer(Request { head, body: Body::Empty }).await;
        // Read to its end, or it wouldn't be stored.
        let is_read = read_out(response.into_body(), self.cache.object_bytes_max()).await;
        match (trail.failed || !is_read, trail.forward.is_none()) {
            (true, _) => "failed",
            (false, true) => "stored-already",
            (false, false) => "fetched",
        }
    }

    /// Takes what another node says of a response that it has stored: it is fetched here as well, in the background, as
    /// if a client had sent a GET for it.
    fn announced(self: &Arc<Self>, announcement: &RequestHead, said: Result<Said, NotTaken>) -> Reply {
        let ahead = replicate::ahead(announcement, self.proxies.client_field());
        let is_own = self.policy_context.loops.has_sent(&announcement.headers);
        let said = said.and_then(|said| if is_own { Err(NotTaken::Own) } else { Ok(said) });
        match said.and_then(|said| Ok((self.room_for(&ahead, &said)?, said))) {
            Ok(((route, room), said)) => {
                let (pipeline, age_ms) = (Arc::clone(self), said.age_ms);
                tokio::spawn(async move {
                    let fetching = Box::pin(pipeline.fetch_announced(ahead, age_ms));
                    pipeline.replicator.received(room.run(fetching).await.unwrap_or("failed"));
                });
                let trail = Trail {
                    route: Some(route),
                    lookup: Lookup::Own,
                    detail: Some("replicate".into()),
                    ..Trail::default()
                };
                Reply { response: replicate::taken(said), trail }
            }
            Err(reason) => {
                self.replicator.received(reason.as_str());
                let (status, detail) = reason.told();
                let title = status.canonical_reason().unwrap_or("Not taken");
                let trail = Trail { detail: Some(reason.as_str().into()), ..Trail::default() };
                self.replies.own(status, title, detail, trail)
            }
        }
    }

    /// Returns room for fetching what another node has announced, and the route that takes it: one that decides as that
    /// node's does.
    fn room_for(&self, ahead: &RequestHead, said: &Said) -> Result<(Arc<Route>, Room), NotTaken> {
        let route = self.policy_context.routes.find(ahead).ok_or(NotTaken::NoRoute)?.route;
        let terms = parents::terms(route, Advice::preview(route, ahead).policy(), &ahead.near);
        if route.infers() || route.config.own.is_some() || terms != said.terms {
            return Err(NotTaken::OtherTerms);
        }
        let room = self.replicator.room(ahead).ok_or(NotTaken::Busy)?;
        Ok((Arc::clone(route), room))
    }

    /// Fetches what another node has announced, unless what is stored here is as young. Returns the outcome's label.
    async fn fetch_announced(&self, head: RequestHead, age_ms: u64) -> &'static str {
        let Reply { response, trail } = self.answer(Request { head: head.clone(), body: Body::Empty }).await;
        let is_read = read_out(response.into_body(), self.cache.object_bytes_max()).await;
        if trail.failed || !is_read {
            return "failed";
        }
        if trail.forward.is_some() {
            return if trail.stored { "fetched" } else { "not-stored" };
        }
        let Some(taken) = self.policy_context.routes.find(&head) else { return "failed" };
        let advice = Advice::of(taken.route, &head, RequestSpan::none());
        let is_refreshed = Box::pin(self.web.refresh_older(taken.route, advice, head, age_ms)).await;
        if is_refreshed { "refreshed" } else { "stored-already" }
    }

    /// Refuses a request of a node whose route of this name decides by other terms: it asks the origin itself.
    fn no_parent(&self, route: &Arc<Route>, advice: &Advice) -> Reply {
        let detail = "the route or its policy isn't the one of the node that asks this one as its parent";
        let trail = Trail { detail: Some("other-terms".into()), ..Trail::on(route, advice) };
        self.replies.own(StatusCode::CONFLICT, "Conflict", detail, trail)
    }

    fn no_route(&self, request: &Request) -> Reply {
        let detail = format!("no route takes {}{}", request.head.authority(), request.head.target.path());
        let proxy_status = Some(ProxyStatus::Error(proxy::error_of("no-route")));
        self.replies.own(StatusCode::NOT_FOUND, "No route", &detail, Trail { proxy_status, ..Trail::default() })
    }

    /// Completes a response to a request that was refused before the pipeline.
    #[must_use]
    pub fn refused(&self, response: Response) -> Reply {
        let proxy_status = Some(ProxyStatus::of_own(response.status()));
        let trail = Trail { detail: Some("refused".into()), failed: true, proxy_status, ..Trail::default() };
        Reply { response: self.replies.completed(response, &trail), trail }
    }

    /// Returns how many fetches others may wait for.
    #[must_use]
    pub fn flights_open(&self) -> usize {
        self.web.flights.open() + self.infer.flights.open()
    }
}

/// Has the response to a node that asked this one as its parent say by which terms it was made, if it was made for its
/// route by an origin, and it can be said as of when.
fn acknowledge(reply: &mut Reply, child: Option<HeaderValue>, near: &Near) {
    let Some(child) = child else { return };
    let Reply { response, trail } = reply;
    // What has no age counts as fetched for this request.
    let is_dated = !trail.collapsed || response.headers().contains_key(header::AGE);
    let is_made = !trail.is_refusal && trail.lookup != Lookup::Own && is_dated;
    let route = trail.route.as_ref().filter(|_| is_made);
    let made_by = route.map(|route| parents::terms(route, trail.policy.as_ref(), near));
    parents::acknowledge(response.headers_mut(), child, made_by.as_ref());
}

/// Reads a body of at most `limit` bytes to its end, holding nothing of it. Returns whether it was whole.
async fn read_out(mut body: Body, limit: u64) -> bool {
    let mut left = limit;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len) as u64) else { return false };
        left = rest;
    }
    true
}
