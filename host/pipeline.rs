//! The way of a request: plan → key → look-up → collapse → route → batch → upstream → admit → store → reply.
//!
//! `plan` decides what is done with it. `web` looks up requests with one response each, `infer` those that are split into
//! items, and `pass` sends on what isn't looked up; `keying`, `fetch`, `upstream`, `admission` and `reply` are the steps
//! they have in common. Every step's verdict ends up in the [`Trail`]. No step is handed more of the node than it
//! needs, and no two files use each other.

mod admission;
mod advice;
mod fetch;
mod forwarding;
pub mod infer;
mod joining;
mod keying;
mod pass;
mod plan;
mod prefetch;
mod reply;
mod rest;
mod route;
mod trail;
mod upstream;
mod web;

use std::sync::Arc;

use http::{Method, StatusCode};

use self::{
    advice::{Advice, Beside},
    fetch::{Fetcher, Landing},
    infer::{Batchers, Infer, Told},
    pass::Passer,
    plan::{Aspects, Basis, Plan},
    prefetch::Prefetcher,
    reply::Replies,
    web::{Quick, Web},
};
pub use self::{
    prefetch::Metrics,
    reply::Served,
    route::{Destination, Route, Routes, Taken},
    trail::{Lookup, Trail},
};
use crate::{
    cache::{Cache, collapse::Flights},
    clock, config,
    message::{Body, Request, RequestHead, Response},
    policy::{Decision, Hook, Question},
};

/// The way of all requests. Each step has its share of the node; here they are put together.
#[derive(Debug)]
pub struct Pipeline {
    cache: Arc<Cache>,
    beside: Arc<Beside>,
    replies: Arc<Replies>,
    passer: Arc<Passer>,
    web: Web,
    infer: Arc<Infer>,
    prefetcher: Arc<Prefetcher>,
    metrics: Metrics,
}

/// What a pipeline has in common with the one that takes its place.
struct Lasting {
    node: String,
    cache: Arc<Cache>,
    web: Arc<Flights<Landing>>,
    infer: Arc<Flights<Arc<Told>>>,
    prefetcher: Arc<Prefetcher>,
    metrics: Metrics,
}

impl Pipeline {
    /// A pipeline for `routes` over `cache`, whose questions gather in `batchers`.
    #[must_use]
    pub fn new(
        node: String,
        routes: Routes,
        batchers: Batchers,
        cache: Arc<Cache>,
        limits: config::Limits,
        prefetch: config::Prefetch,
        metrics: Metrics,
    ) -> Arc<Self> {
        let flights_max = cache.config().collapse.flights_max;
        let lasting = Lasting {
            node,
            cache,
            web: Flights::new(flights_max),
            infer: Flights::new(flights_max),
            prefetcher: Arc::new(Prefetcher::new(prefetch, metrics.clone())),
            metrics,
        };
        Self::over(lasting, routes, batchers, limits)
    }

    /// A pipeline for another configuration, which takes the place of this one. Both share the cache and the fetches under
    /// way, and hints that were followed unless there is another rule for them, so that an exchange makes no fetch twice.
    #[must_use]
    pub fn succeeded_by(
        &self,
        routes: Routes,
        batchers: Batchers,
        limits: config::Limits,
        prefetch: config::Prefetch,
    ) -> Arc<Self> {
        let prefetcher = if self.prefetcher.follows(&prefetch) {
            Arc::clone(&self.prefetcher)
        } else {
            Arc::new(Prefetcher::new(prefetch, self.metrics.clone()))
        };
        let lasting = Lasting {
            node: self.replies.node.clone(),
            cache: Arc::clone(&self.cache),
            web: Arc::clone(&self.web.flights),
            infer: Arc::clone(&self.infer.flights),
            prefetcher,
            metrics: self.metrics.clone(),
        };
        Self::over(lasting, routes, batchers, limits)
    }

    fn over(lasting: Lasting, routes: Routes, batchers: Batchers, limits: config::Limits) -> Arc<Self> {
        let Lasting { node, cache, web, infer, prefetcher, metrics } = lasting;
        let beside = Arc::new(Beside { routes: Arc::new(routes), body_bytes_max: limits.body_bytes_max });
        let fetcher = Arc::new(Fetcher { cache: Arc::clone(&cache), beside: Arc::clone(&beside) });
        let replies = Arc::new(Replies { node, cache: Arc::clone(&cache), fetcher: Arc::clone(&fetcher) });
        let passer = Arc::new(Passer {
            beside: Arc::clone(&beside),
            purger: Arc::clone(cache.purger()),
            replies: Arc::clone(&replies),
        });
        let web = Web {
            cache: Arc::clone(&cache),
            flights: web,
            fetcher,
            replies: Arc::clone(&replies),
            passer: Arc::clone(&passer),
            beside: Arc::clone(&beside),
        };
        let infer = Arc::new(Infer {
            cache: Arc::clone(&cache),
            flights: infer,
            replies: Arc::clone(&replies),
            beside: Arc::clone(&beside),
            batchers,
            limits,
        });
        Arc::new(Self { cache, beside, replies, passer, web, infer, prefetcher, metrics })
    }

    /// Answers a request, and sees to what its policy thinks will be asked next.
    pub async fn serve(self: &Arc<Self>, request: Request) -> Served {
        let Some(taken) = self.beside.routes.find(&request.head) else { return self.no_route(&request) };
        let advice = Advice::of(taken.route, &request.head);
        if !advice.has(Hook::Prefetch) {
            return self.serve_on(taken, advice, request).await;
        }
        let (ahead, head) = (advice.afresh(), request.head.clone());
        let served = self.serve_on(taken, advice, request).await;
        let hit = served.trail.is_hit();
        if !served.trail.failed && head.method == Method::GET {
            // The client doesn't wait for it.
            let pipeline = Arc::clone(self);
            tokio::spawn(async move { pipeline.look_ahead(&ahead, &head, hit) });
        }
        served
    }

    /// Answers a request of the node's own, which nothing follows from.
    async fn answer(&self, request: Request) -> Served {
        match self.beside.routes.find(&request.head) {
            None => self.no_route(&request),
            Some(taken) => self.serve_on(taken, Advice::of(taken.route, &request.head), request).await,
        }
    }

    async fn serve_on(&self, taken: Taken<'_>, advice: Advice, request: Request) -> Served {
        let Taken { route, is_ambiguous } = taken;
        let has_body = !http_body::Body::is_end_stream(&request.body);
        let plan = Plan::of(&Aspects {
            kind: route.kind(),
            method: &request.head.method,
            is_ambiguous,
            has_body,
            is_keyed_by_body: has_body && advice.keys_by_body(),
        });
        let prepared = match plan {
            // A fresh memory hit, the case that counts, never enters the large futures below.
            Plan::LookUp(Basis::Head) => match self.web.quick(route, &advice, &request.head) {
                Quick::Hit(response, key) => return Served { response, trail: Trail::of_hit(route, advice, key) },
                Quick::Onward(prepared) => Some(prepared),
            },
            Plan::LookUp(Basis::Body) => None,
            Plan::Bypass(why) | Plan::Pass(why) => {
                return Box::pin(self.passer.take(route, &advice, request, why)).await;
            }
        };
        let (route, advice) = (Arc::clone(route), Arc::new(advice));
        match route.splits() {
            Some(protocol) => Box::pin(infer::serve(&self.infer, route, protocol, advice, request)).await,
            None => Box::pin(self.web.serve(route, advice, request, prepared)).await,
        }
    }

    /// Asks the policy what will be asked after a GET, and sees to it.
    fn look_ahead(self: &Arc<Self>, advice: &Advice, head: &RequestHead, hit: bool) {
        let facts = advice.facts(&self.beside, head, None);
        let Some(Ok(decision)) = advice.ask(&Question::Prefetch { hit }, &facts) else { return };
        let Decision::Prefetch(hints) = &*decision else { return };
        for head in self.prefetcher.wanted(hints, head, clock::uptime()) {
            let pipeline = Arc::clone(self);
            tokio::spawn(async move { pipeline.prefetcher.run(Box::pin(pipeline.fetch_ahead(head))).await });
        }
    }

    /// Fetches what a policy foresees, and says what came of that.
    async fn fetch_ahead(&self, head: RequestHead) -> &'static str {
        let Served { response, trail } = self.answer(Request { head, body: Body::Empty }).await;
        // Read to its end, or it wouldn't be stored.
        let read = response.into_body().collect(self.cache.config().object_bytes_max).await;
        match (trail.failed || read.is_err(), trail.forward.is_none()) {
            (true, _) => "failed",
            (false, true) => "stored-already",
            (false, false) => "fetched",
        }
    }

    fn no_route(&self, request: &Request) -> Served {
        let detail = format!("no route takes {}{}", request.head.authority(), request.head.target.path());
        self.replies.own(StatusCode::NOT_FOUND, "No route", &detail, Trail::default())
    }

    /// Completes a response to what was refused before it could take its way.
    #[must_use]
    pub fn refused(&self, response: Response) -> Response {
        self.replies.completed(response, &Trail { detail: Some("refused".into()), ..Trail::default() })
    }

    /// How many fetches others wait for.
    #[must_use]
    pub fn flights_open(&self) -> usize {
        self.web.flights.open() + self.infer.flights.open()
    }
}
