//! Which route takes a request. Routes are tried in order; the first whose host and path match wins.

use std::{fmt, sync::Arc};

use http::HeaderMap;

use super::infer::Batches;
use crate::{
    cache::{key::KeySpace, lookup::Demand},
    config::{self, Mode, Protocol},
    message::RequestHead,
    origin::Pool,
    policy::Roster,
};

/// A route with everything a request needs on its way.
pub struct Route {
    /// Its place among the routes.
    pub index: usize,
    /// What the operator wrote.
    pub config: config::Route,
    /// The start of its keys.
    pub keys: KeySpace,
    /// Where its requests may go; at least one.
    pub destinations: Vec<Destination>,
    /// What decides for it.
    pub policy: Option<Arc<dyn Roster>>,
}

/// One of those who may answer.
pub struct Destination {
    /// The pool's name.
    pub name: Arc<str>,
    /// The pool.
    pub pool: Arc<Pool>,
    /// Replaces `/model` in a JSON body.
    pub model: Option<Arc<str>>,
    /// What a request costs there.
    pub cost_micro: u64,
    /// The former of the pool's questions, if the route's protocol batches.
    pub batches: Option<Arc<Batches>>,
}

impl Route {
    /// Are its requests questions?
    #[must_use]
    pub const fn infers(&self) -> bool {
        matches!(self.config.mode, Mode::Infer(_))
    }

    /// The protocol by which its bodies are split, if they are.
    #[must_use]
    pub const fn splits(&self) -> Option<Protocol> {
        match self.config.mode {
            Mode::Infer(protocol @ (Protocol::JsonArray | Protocol::OpenAiEmbeddings)) => Some(protocol),
            Mode::Infer(Protocol::Plain) | Mode::Http => None,
        }
    }

    /// What a request asks of the cache. By whose right a question is asked is in its key, or a policy has the say.
    #[must_use]
    pub fn demand(&self, headers: &HeaderMap) -> Demand {
        let demand = Demand::of(headers);
        Demand { authorized: demand.authorized && !self.infers(), ..demand }
    }

    fn takes(&self, host: &str, path: &str) -> bool {
        takes_host(&self.config.hosts, host) && takes_path(&self.config.path, path)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The routes in their order.
#[derive(Debug)]
pub struct Routes(Vec<Arc<Route>>);

impl Routes {
    /// These routes.
    #[must_use]
    pub const fn new(routes: Vec<Arc<Route>>) -> Self {
        Self(routes)
    }

    /// The first route that takes the request.
    #[must_use]
    pub fn find(&self, head: &RequestHead) -> Option<&Arc<Route>> {
        let (host, path) = (without_port(head.authority()), head.target.path());
        self.0.iter().find(|route| route.takes(host, path))
    }

    /// The pool of this name, if a route leads to it.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        let mut destinations = self.0.iter().flat_map(|route| &route.destinations);
        destinations.find(|destination| &*destination.name == name).map(|destination| &destination.pool)
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn takes_host(patterns: &[String], host: &str) -> bool {
    patterns.is_empty()
        || patterns.iter().any(|pattern| match pattern.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => pattern == host,
        })
}

/// A prefix matches at a segment border: `/api` takes `/api` and `/api/x`, not `/apix`.
fn takes_path(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_paths() {
        let patterns = ["a.example".to_owned(), "*.b.example".to_owned()];
        for (host, wanted) in
            [("a.example", true), ("x.b.example", true), ("x.y.b.example", true), ("b.example", false), ("c", false)]
        {
            assert_eq!(takes_host(&patterns, host), wanted, "{host}");
        }
        for (prefix, path, wanted) in [
            ("/", "/any", true),
            ("/api", "/api", true),
            ("/api", "/api/x", true),
            ("/api", "/apix", false),
            ("/api/", "/api/x", true),
            ("/api/", "/api", false),
        ] {
            assert_eq!(takes_path(prefix, path), wanted, "{prefix} {path}");
        }
        assert_eq!(without_port("a:80"), "a");
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port("[::1]:80"), "[::1]");
    }
}
