//! The way of a request: key → look-up → collapse → route → batch → origin → admit → store → reply.
//!
//! `web` walks it for one answer per request, `infer` for requests that are split into questions; `keying`, `fetch`
//! and `reply` are the steps both take. Every step's verdict ends up in the [`Trail`].

mod admission;
pub mod advice;
pub mod fetch;
mod forwarding;
pub mod infer;
pub mod keying;
mod prefetch;
pub mod reply;
mod rest;
pub mod route;
pub mod trail;
mod travel;
pub mod web;

use std::sync::Arc;

use http::{Method, StatusCode};

pub use self::{
    advice::Advice,
    prefetch::Metrics,
    route::{Destination, Route, Routes, Taken},
    trail::{Lookup, Trail},
};
use self::{fetch::Landing, infer::Told, keying::Keyed, prefetch::Prefetcher, web::Quick};
use crate::{
    cache::{Cache, collapse::Flights, status::Forward},
    clock, config,
    message::{Request, Response, problem::problem},
    policy::{Hook, PoolStats, Pools},
};

/// Why a request whose path origins may take for one of another route is kept out of the cache.
const AMBIGUOUS: &str = "ambiguous-path";

/// What a request is answered with, and why.
#[derive(Debug)]
pub struct Served {
    /// The answer.
    pub response: Response,
    /// The verdicts on its way.
    pub trail: Trail,
}

/// Everything the stages share.
#[derive(Debug)]
pub struct Pipeline {
    node: String,
    routes: Routes,
    cache: Arc<Cache>,
    limits: config::Limits,
    flights: Arc<Flights<Landing>>,
    questions: Arc<Flights<Arc<Told>>>,
    prefetcher: Prefetcher,
}

impl Pipeline {
    /// A pipeline for `routes` over `cache`.
    #[must_use]
    pub fn new(
        node: String,
        routes: Routes,
        cache: Arc<Cache>,
        limits: config::Limits,
        prefetch: config::Prefetch,
        metrics: Metrics,
    ) -> Arc<Self> {
        let flights_max = cache.config().collapse.flights_max;
        Arc::new(Self {
            node,
            routes,
            cache,
            limits,
            flights: Flights::new(flights_max),
            questions: Flights::new(flights_max),
            prefetcher: Prefetcher::new(prefetch, metrics),
        })
    }

    /// Answers a request, and sees to what its policy thinks will be asked next.
    pub async fn serve(self: &Arc<Self>, request: Request) -> Served {
        let Some(taken) = self.routes.find(&request.head) else { return self.no_route(&request) };
        let advice = Advice::of(taken.route, &request.head);
        if !advice.has(Hook::Prefetch) {
            return self.serve_on(taken, advice, request).await;
        }
        let (ahead, head) = (advice.afresh(), request.head.clone());
        let served = self.serve_on(taken, advice, request).await;
        let hit = served.trail.forward.is_none() && matches!(served.trail.lookup, Lookup::Hit | Lookup::Stale);
        if !served.trail.failed && head.method == Method::GET {
            // The client doesn't wait for it.
            let node = Arc::clone(self);
            tokio::spawn(async move { node.look_ahead(&ahead, &ahead.facts(&node, &head, None), hit) });
        }
        served
    }

    /// Answers a request of the node's own, which nothing follows from.
    async fn answer(self: &Arc<Self>, request: Request) -> Served {
        match self.routes.find(&request.head) {
            None => self.no_route(&request),
            Some(taken) => self.serve_on(taken, Advice::of(taken.route, &request.head), request).await,
        }
    }

    async fn serve_on(self: &Arc<Self>, taken: Taken<'_>, advice: Advice, request: Request) -> Served {
        let Taken { route, is_ambiguous } = taken;
        let keyed = if is_ambiguous {
            Some(Keyed::Bypass(AMBIGUOUS.to_owned()))
        } else {
            // A fresh memory hit, the case that counts, never enters the large futures below.
            match web::quick(self, route, &advice, &request) {
                Quick::Hit(response, key) => return Served { response, trail: Trail::of_hit(route, advice, key) },
                Quick::Onward(keyed) => keyed,
            }
        };
        let (route, advice) = (Arc::clone(route), Arc::new(advice));
        match route.splits() {
            Some(_) if is_ambiguous => {
                let trail = Trail { detail: Some(AMBIGUOUS.into()), ..Trail::on(&route, &advice) };
                Box::pin(self.pass(&route, &advice, request, Forward::Bypass, trail)).await
            }
            Some(protocol) => Box::pin(infer::serve(self, route, protocol, advice, request)).await,
            None => Box::pin(web::serve(self, route, advice, request, keyed)).await,
        }
    }

    fn no_route(&self, request: &Request) -> Served {
        let detail = format!("no route takes {}{}", request.head.authority(), request.head.target.path());
        self.own(StatusCode::NOT_FOUND, "No route", &detail, Trail::default())
    }

    /// Completes an answer to what was refused before it could take its way.
    #[must_use]
    pub fn refused(&self, mut response: Response) -> Response {
        let trail = Trail { detail: Some("refused".into()), ..Trail::default() };
        response.headers_mut().insert(crate::cache::status::CACHE_STATUS, trail.cache_status(&self.node));
        response
    }

    /// How many fetches others wait for.
    #[must_use]
    pub fn flights_open(&self) -> usize {
        self.flights.open() + self.questions.open()
    }

    /// An answer of holm's own: a refusal or a failure, as problem+json (RFC 9457).
    fn own(&self, status: StatusCode, title: &str, detail: &str, mut trail: Trail) -> Served {
        trail.failed = status.is_server_error();
        let mut response = problem(status, title, detail);
        response.headers_mut().insert(crate::cache::status::CACHE_STATUS, trail.cache_status(&self.node));
        Served { response, trail }
    }
}

impl Pools for Pipeline {
    fn stats(&self, pool: &str) -> Option<PoolStats> {
        self.routes.pool(pool).map(|pool| pool.stats(clock::uptime()))
    }
}
