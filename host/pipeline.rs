//! The way of a request: key → look-up → collapse → route → batch → origin → admit → store → reply.
//!
//! `web` walks it for one answer per request, `infer` for requests that are split into questions; `keying`, `fetch`
//! and `reply` are the steps both take. Every step's verdict ends up in the [`Trail`].

pub mod fetch;
pub mod infer;
pub mod keying;
pub mod reply;
pub mod route;
pub mod trail;
pub mod web;

use std::sync::Arc;

use http::StatusCode;

use self::{fetch::Landing, infer::Told, web::Quick};
pub use self::{
    route::{Route, Routes},
    trail::{Lookup, Trail},
};
use crate::{
    cache::{Cache, collapse::Flights},
    config,
    message::{Request, Response, problem::problem},
};

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
}

impl Pipeline {
    /// A pipeline for `routes` over `cache`.
    #[must_use]
    pub fn new(node: String, routes: Routes, cache: Arc<Cache>, limits: config::Limits) -> Arc<Self> {
        let flights_max = cache.config().collapse.flights_max;
        Arc::new(Self {
            node,
            routes,
            cache,
            limits,
            flights: Flights::new(flights_max),
            questions: Flights::new(flights_max),
        })
    }

    /// Answers a request.
    pub async fn serve(self: &Arc<Self>, request: Request) -> Served {
        let Some(route) = self.routes.find(&request.head) else {
            let detail = format!("no route takes {}{}", request.head.authority(), request.head.target.path());
            return self.own(StatusCode::NOT_FOUND, "No route", &detail, Trail::default());
        };
        // A fresh memory hit, the case that counts, never enters the large futures below.
        let keyed = match web::quick(self, route, &request) {
            Quick::Served(served) => return served,
            Quick::Onward(keyed) => keyed,
        };
        let route = Arc::clone(route);
        match route.splits() {
            Some(protocol) => Box::pin(infer::serve(self, route, protocol, request)).await,
            None => Box::pin(web::serve(self, route, request, keyed)).await,
        }
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
