//! Routes, and which one takes a request: the first, in their order, whose host and path match. Where there are many, an
//! index finds it.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, uri::PathAndQuery};

use super::index::RouteIndex;
use crate::{
    batch::Slots,
    cache::{key::KeySpace, lookup::Demand},
    clock,
    config::{self, ForwardPath, Mode, Reload},
    message::{RequestHead, target},
    origin::{
        Pool,
        protocol::{self, Protocol, SplitRules},
    },
    policy::{PoolStats, Pools, Roster},
};

/// How the requests of a route are keyed and served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// By HTTP's rules.
    Http,
    /// By their body, which is one item.
    Item,
    /// By their body, which is split into items.
    Items,
}

/// A route with everything that a request needs on its way.
pub struct Route {
    /// What the operator wrote.
    pub config: config::Route,
    /// The start of its keys.
    pub keys: KeySpace,
    /// Where its requests may be sent; at least one.
    pub destinations: Vec<Destination>,
    /// The policy that decides for it.
    pub policy: Option<Arc<dyn Roster>>,
}

/// A candidate: a pool, and perhaps a model, that may serve a route's requests.
pub struct Destination {
    /// The pool's name.
    pub name: Arc<str>,
    /// The pool.
    pub pool: Arc<Pool>,
    /// Replaces `/model` in a JSON body.
    pub model: Option<Arc<str>>,
    /// What a request costs there.
    pub cost_micro: u64,
    /// The slots for batches there, and how long one that comes from another pool waits for one. `None` for no limit.
    pub slots: Option<(Arc<dyn Slots>, Duration)>,
}

impl Route {
    /// Whether it is of mode `infer`: its responses depend on the body.
    #[must_use]
    pub const fn infers(&self) -> bool {
        matches!(self.config.mode, Mode::Infer(_))
    }

    /// Returns the protocol by which its bodies are split, if they are.
    #[must_use]
    pub fn splits(&self) -> Option<&'static dyn Protocol> {
        let protocol = match self.config.mode {
            Mode::Infer(name) if self.config.translation.is_some() => Some(protocol::translated(name)),
            Mode::Infer(name) => Some(protocol::of(name)),
            Mode::Http => None,
        };
        protocol.filter(|protocol| protocol.batches())
    }

    /// Returns the rules by which its requests, of so many items at most, are split.
    #[must_use]
    pub fn split_rules(&self, items_max: usize) -> SplitRules<'_> {
        SplitRules { items_max, indivisible: &self.config.indivisible, translation: self.config.translation.as_ref() }
    }

    /// Returns how its requests are keyed and served.
    pub(super) fn kind(&self) -> Kind {
        match (self.splits(), self.infers()) {
            (Some(_), _) => Kind::Items,
            (None, true) => Kind::Item,
            (None, false) => Kind::Http,
        }
    }

    /// Returns a request's demands on the cache. The credentials of an item are in its key, or a policy decides about
    /// them.
    #[must_use]
    pub fn demand(&self, headers: &HeaderMap) -> Demand {
        let mut demand = Demand::of(headers);
        demand.authorized &= !self.infers();
        if self.reload() == Reload::Ignore {
            demand.ignore_reload();
        }
        demand
    }

    /// Returns the response header fields whose directives take the place of `Cache-Control`.
    #[must_use]
    pub fn targeted(&self) -> &[HeaderName] {
        if self.infers() { &[] } else { &self.config.targeted }
    }

    /// Returns what a request for something newer than what is stored leads to.
    #[must_use]
    pub const fn reload(&self) -> Reload {
        if self.infers() { Reload::Honour } else { self.config.reload }
    }

    /// Returns the target that is sent to its candidates.
    #[must_use]
    pub fn target_sent(&self, head: &RequestHead) -> PathAndQuery {
        self.received(head).unwrap_or(&head.target).clone()
    }

    /// Returns the target as it was received, if that is what is sent and isn't the normal form. Such a request has
    /// keys of its own: an origin's response to `/a//b` needn't be that to `/a/b`.
    #[must_use]
    pub fn received<'h>(&self, head: &'h RequestHead) -> Option<&'h PathAndQuery> {
        head.received.as_ref().filter(|_| self.config.forward_path == ForwardPath::AsReceived)
    }

    fn takes(&self, host: &str, path: &str) -> bool {
        takes_host(&self.config.hosts, host) && target::reaches(&self.config.path, path)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The route that takes a request.
#[derive(Clone, Copy, Debug)]
pub struct RouteMatch<'r> {
    /// The route.
    pub route: &'r Arc<Route>,
    /// Whether origins may take the request's path for another than this node does. Such a request bypasses the cache:
    /// its response isn't shared, and it gets none of another's.
    pub is_ambiguous: bool,
}

/// Routes that are walked faster than they are found in an index.
const WALKED_MAX: usize = 16;

/// The routes in their order.
pub struct Routes {
    routes: Vec<Arc<Route>>,
    /// `None` if there are few.
    index: Option<RouteIndex>,
    /// The pools that routes lead to, by their names.
    pools: foldhash::HashMap<Arc<str>, Arc<Pool>>,
}

impl Routes {
    /// Returns these routes.
    #[must_use]
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        let index = (routes.len() > WALKED_MAX).then(|| indexed(&routes));
        let mut pools = foldhash::HashMap::<Arc<str>, Arc<Pool>>::default();
        for destination in routes.iter().flat_map(|route| &route.destinations) {
            pools.entry(Arc::clone(&destination.name)).or_insert_with(|| Arc::clone(&destination.pool));
        }
        Self { routes, index, pools }
    }

    /// Returns the first route that takes the request.
    #[must_use]
    pub fn find(&self, head: &RequestHead) -> Option<RouteMatch<'_>> {
        let (host, path) = (without_port(head.authority()), head.target.path());
        let route = self.first(host, path)?;
        // Where origins may take the path for one of another route, that one's rules might be the right ones.
        let is_another = |reading: &String| self.first(host, reading).is_none_or(|other| !Arc::ptr_eq(other, route));
        let is_unresolved = |received: &PathAndQuery| target::is_unresolved(received.path());
        let is_ambiguous = target::hides_dots(path)
            || target::readings(path).iter().any(is_another)
            || route.received(head).is_some_and(is_unresolved);
        Some(RouteMatch { route, is_ambiguous })
    }

    fn first(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        match &self.index {
            None => self.routes.iter().find(|route| route.takes(host, path)),
            Some(index) => {
                let number = index.first(host, path, |number| self.routes[number].takes(host, path));
                number.map(|number| &self.routes[number])
            }
        }
    }

    /// Returns the pool of this name, if a route leads to it.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.get(name)
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.routes).finish()
    }
}

fn indexed(routes: &[Arc<Route>]) -> RouteIndex {
    RouteIndex::new(routes.iter().map(|route| (route.config.hosts.as_slice(), route.config.path.as_str())))
}

impl Pools for Routes {
    fn stats(&self, pool: &str) -> Option<PoolStats> {
        self.pool(pool).map(|pool| pool.stats(clock::uptime()))
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

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method, Version};
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::message::{Client, Scheme};

    #[test]
    fn hosts() {
        let patterns = ["a.example".to_owned(), "*.b.example".to_owned()];
        for (host, wanted) in
            [("a.example", true), ("x.b.example", true), ("x.y.b.example", true), ("b.example", false), ("c", false)]
        {
            assert_eq!(takes_host(&patterns, host), wanted, "{host}");
        }
        assert_eq!(without_port("a:80"), "a");
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port("[::1]:80"), "[::1]");
    }

    fn route(path: &str, forward_path: ForwardPath) -> Arc<Route> {
        let config = config::Route { path: path.to_owned(), forward_path, ..config::Route::new(path, "web") };
        let keys = KeySpace::new("test", path);
        Arc::new(Route { config, keys, destinations: Vec::new(), policy: None })
    }

    fn head(path: &str) -> RequestHead {
        let (target, received) = target::normalise(path.parse().unwrap()).unwrap();
        RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: HeaderValue::from_static("a.example"),
            target,
            received,
            headers: HeaderMap::new(),
            client: Client { ip: [127, 0, 0, 1].into(), version: Version::HTTP_11 },
        }
    }

    #[test]
    fn no_spelling_of_a_path_escapes_its_route() {
        let paths = ["/account", "/@me", "/"];
        let routes = |forward| Routes::new(paths.iter().map(|path| route(path, forward)).collect());
        let (normal, as_received) = (routes(ForwardPath::Normalized), routes(ForwardPath::AsReceived));
        // The route, and whether it is ambiguous where the normal form is sent, and where it isn't.
        for (path, wanted) in [
            ("/account", (0, false, false)),
            ("/account/x?y", (0, false, false)),
            ("/%61ccount", (0, false, false)),
            ("/account//x", (0, false, false)),
            ("//account", (0, false, true)),
            ("/./account", (0, false, true)),
            ("/x/../account", (0, false, true)),
            ("/x/%2e%2E/account", (0, false, true)),
            ("/account/../x", (2, false, true)),
            ("/account;x", (0, false, false)),
            ("/account;x/y", (0, false, false)),
            ("/account;x/..;/y", (0, true, true)),
            ("/x/..;/account", (2, true, true)),
            ("/account%2Fx", (2, true, true)),
            ("/%2faccount", (2, true, true)),
            ("/account%2F..%2Fx", (2, true, true)),
            ("/account%2F%2E%2E%2Fx", (2, true, true)),
            ("/x/..%2faccount", (2, true, true)),
            ("/x\\..\\account", (2, true, true)),
            ("/account%3Bx", (2, true, true)),
            ("/%40me", (1, false, false)),
            ("/x%2Fy", (2, false, false)),
            ("/x;y", (2, false, false)),
            ("/accounts", (2, false, false)),
        ] {
            let head = head(path);
            let taken = |routes: &Routes| {
                let RouteMatch { route, is_ambiguous } = routes.find(&head).unwrap();
                (route.config.path.clone(), is_ambiguous)
            };
            assert_eq!(taken(&normal), (paths[wanted.0].to_owned(), wanted.1), "{path}");
            assert_eq!(taken(&as_received), (paths[wanted.0].to_owned(), wanted.2), "{path} as received");
        }
    }

    #[test]
    fn what_is_sent_is_the_normal_form_or_what_came() {
        let head = head("/a//b?c");
        for (forward, sent, received) in
            [(ForwardPath::Normalized, "/a/b?c", None), (ForwardPath::AsReceived, "/a//b?c", Some("/a//b?c"))]
        {
            let route = route("/", forward);
            assert_eq!(route.target_sent(&head), sent);
            assert_eq!(route.received(&head).map(PathAndQuery::as_str), received);
        }
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_walk_finds(
            routes in vec((vec("(\\*\\.)?[ab](\\.[ab]){0,2}", 0..3), "/(([ab@;]|%2F|%40)[/;]?){0,3}"), 1..30),
            requests in vec(("[ab](\\.[ab]){0,3}", "/([ab@;/]|%2F|%3B|%40|%61){0,6}"), 1..20),
        ) {
            let route = |(hosts, path): (Vec<String>, String)| {
                let mut route = Route {
                    config: config::Route::new("r", "web"),
                    keys: KeySpace::new("test", "r"),
                    destinations: Vec::new(),
                    policy: None,
                };
                (route.config.hosts, route.config.path) = (hosts, path);
                Arc::new(route)
            };
            let routes: Vec<Arc<Route>> = routes.into_iter().map(route).collect();
            let index = indexed(&routes);
            for (host, path) in requests {
                let walked = routes.iter().position(|route| route.takes(&host, &path));
                let found = index.first(&host, &path, |number| routes[number].takes(&host, &path));
                prop_assert_eq!(found, walked, "{}{}", host, path);
            }
        }
    }
}
