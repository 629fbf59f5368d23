//! Routes, and which one takes a request: the most specific whose host, path and further conditions it meets. Where there
//! are many, an index finds it.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Method, uri::PathAndQuery};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    conditions,
    index::{self, Place, RouteIndex, RouteList},
    rewriting,
};
use crate::{
    batch::Slots,
    cache::{key::KeySpace, lookup::Demand, tag::Tag},
    clock,
    config::{self, ForwardPath, Mode, PoolProtocol, Reload},
    message::{self, RequestHead, target},
    origin::{
        Pool,
        protocol::{self, MODEL_INFER, Protocol, SplitRules},
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
    /// Nodes that are asked before them.
    pub parents: Option<Parents>,
    /// What is announced to nodes of other regions.
    pub replicas: Option<Replicas>,
    /// The policy that decides for it.
    pub policy: Option<Arc<dyn Roster>>,
    /// The places of its requests; `None` for no limit.
    pub places: Option<Arc<Semaphore>>,
}

/// No place of a route is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RouteFull;

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

/// The nodes, most often of another region, that a route asks before its origins.
pub struct Parents {
    /// Their pool.
    pub pool: Arc<Pool>,
    /// Whether each purge is applied there before it is acknowledged here.
    pub share_purges: bool,
}

/// Which responses of a route are announced to nodes of other regions, and to whom.
pub struct Replicas {
    /// Those with any of these tags are.
    pub tags: Vec<Tag>,
    /// So are those whose path lies at or below any of these, in their normal form.
    pub prefixes: Vec<String>,
    /// The nodes, a pool for each region.
    pub to: Vec<Arc<Pool>>,
}

impl Replicas {
    /// Returns what a configuration says, of these pools.
    #[must_use]
    pub fn new(said: &config::Replicate, to: Vec<Arc<Pool>>) -> Self {
        let tags = said.tags.iter().map(|tag| Tag::named(tag.as_bytes())).collect();
        Self { tags, prefixes: said.prefixes.clone(), to }
    }
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

    /// Whether a request is a call of gRPC, and those aren't simply passed on here: its bodies are split.
    pub(super) fn is_call(&self, head: &RequestHead) -> bool {
        self.infers() && head.method == Method::POST && message::is_grpc(&head.headers) && self.splits().is_some()
    }

    /// Whether it splits a call: one by which a model of KServe's infers.
    pub(super) fn splits_call(&self, head: &RequestHead) -> bool {
        let speaks_kserve = self.config.mode == Mode::Infer(config::Protocol::KServe);
        speaks_kserve && head.target.path() == MODEL_INFER && self.is_call(head)
    }

    /// Whether calls that it doesn't split are passed on: its clients and its pools speak KServe's protocol over gRPC.
    pub(super) fn passes_calls(&self) -> bool {
        let is_grpc = |pool: &Arc<config::Translation>| pool.protocol == PoolProtocol::KServeGrpc;
        let translation = self.config.translation.as_ref();
        self.config.mode == Mode::Infer(config::Protocol::KServe) && translation.is_some_and(is_grpc)
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

    /// Whether the groups count that its responses name (RFC 9875).
    #[must_use]
    pub const fn groups(&self) -> bool {
        !self.infers() && self.config.extensions.cache_groups
    }

    /// Whether its responses are served for all URLs that they say are equivalent (`No-Vary-Search`).
    #[must_use]
    pub const fn searches(&self) -> bool {
        !self.infers() && self.config.extensions.no_vary_search
    }

    /// Returns what a request for something newer than what is stored leads to.
    #[must_use]
    pub const fn reload(&self) -> Reload {
        if self.infers() { Reload::Honour } else { self.config.reload }
    }

    /// Returns the target that is sent to its candidates. One that can't be rewritten is refused before.
    #[must_use]
    pub fn target_sent(&self, head: &RequestHead) -> PathAndQuery {
        match &self.config.rewrite {
            None => self.received(head).unwrap_or(&head.target).clone(),
            Some(rewrite) => rewriting::target(rewrite, &head.target).unwrap_or(PathAndQuery::from_static("/")),
        }
    }

    /// Takes a place for a request, which is free again when all clones of it are dropped. `None` without a limit.
    ///
    /// # Errors
    /// [`RouteFull`].
    pub(super) fn place(&self) -> Result<Option<Arc<OwnedSemaphorePermit>>, RouteFull> {
        let Some(places) = &self.places else { return Ok(None) };
        Arc::clone(places).try_acquire_owned().map(|place| Some(Arc::new(place))).map_err(|_| RouteFull)
    }

    /// Returns the target as it was received, if that is what is sent and isn't the normal form. Such a request has
    /// keys of its own: an origin's response to `/a//b` needn't be that to `/a/b`.
    #[must_use]
    pub fn received<'h>(&self, head: &'h RequestHead) -> Option<&'h PathAndQuery> {
        head.received.as_ref().filter(|_| self.config.forward_path == ForwardPath::AsReceived)
    }

    /// Returns its host pattern that matches a request's authority; `None` if it takes any host.
    pub(super) fn host_pattern(&self, authority: &str) -> Option<&str> {
        index::host_pattern(&self.config.hosts, without_port(authority))
    }

    /// Whether it takes such a request at its hosts.
    fn takes(&self, head: &RequestHead, path: &str) -> bool {
        target::reaches(&self.config.path, path) && conditions::are_met(&self.config.conditions, head)
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

/// The routes in the order of the configuration, and how they are found.
pub struct Routes {
    routes: Vec<Arc<Route>>,
    finder: Finder,
    /// Whether some are told apart by header fields.
    is_by_headers: bool,
    /// The pools that routes lead to, by their names.
    pools: foldhash::HashMap<Arc<str>, Arc<Pool>>,
}

/// What finds routes.
enum Finder {
    List(RouteList),
    Index(RouteIndex),
}

impl Finder {
    fn first(&self, host: &str, path: &str, takes: impl FnMut(usize) -> bool) -> Option<usize> {
        match self {
            Self::List(list) => list.first(host, takes),
            Self::Index(index) => index.first(host, path, takes),
        }
    }
}

impl Routes {
    /// Returns these routes.
    #[must_use]
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        let finder = if routes.len() > WALKED_MAX {
            Finder::Index(RouteIndex::new(places(&routes)))
        } else {
            Finder::List(RouteList::new(places(&routes)))
        };
        let is_by_headers = routes.iter().any(|route| !route.config.conditions.headers.is_empty());
        let mut pools = foldhash::HashMap::<Arc<str>, Arc<Pool>>::default();
        for destination in routes.iter().flat_map(|route| &route.destinations) {
            pools.entry(Arc::clone(&destination.name)).or_insert_with(|| Arc::clone(&destination.pool));
        }
        Self { routes, finder, is_by_headers, pools }
    }

    /// Returns the most specific route that takes the request.
    #[must_use]
    pub fn find(&self, head: &RequestHead) -> Option<RouteMatch<'_>> {
        let (host, path) = (without_port(head.authority()), head.target.path());
        let route = self.first(host, path, head)?;
        // Where origins may take the path for one of another route, that one's rules might be the right ones.
        let is_another =
            |reading: &String| self.first(host, reading, head).is_none_or(|other| !Arc::ptr_eq(other, route));
        let is_unresolved = |received: &PathAndQuery| target::is_unresolved(received.path());
        let is_ambiguous = target::hides_dots(path)
            || target::readings(path).iter().any(is_another)
            || route.received(head).is_some_and(is_unresolved);
        Some(RouteMatch { route, is_ambiguous })
    }

    /// Returns the request header fields that the choice of a route for the request depends on: with others in these
    /// another route might take it, so that caches in front of this one have to be told.
    pub(super) fn varies_by(&self, head: &RequestHead) -> Vec<HeaderName> {
        let mut names: Vec<HeaderName> = Vec::new();
        if !self.is_by_headers {
            return names;
        }
        let (host, path) = (without_port(head.authority()), head.target.path());
        self.finder.first(host, path, |number| {
            let route = &*self.routes[number];
            if !target::reaches(&route.config.path, path) {
                return false;
            }
            let fields = route.config.conditions.headers.iter().map(|(name, _)| name);
            let new: Vec<HeaderName> = fields.filter(|name| !names.contains(name)).cloned().collect();
            names.extend(new);
            conditions::are_met(&route.config.conditions, head)
        });
        names
    }

    fn first(&self, host: &str, path: &str, head: &RequestHead) -> Option<&Arc<Route>> {
        let number = self.finder.first(host, path, |number| self.routes[number].takes(head, path));
        number.map(|number| &self.routes[number])
    }

    /// Returns the place of a route among all, from 0 on, and how many there are.
    pub(super) fn place(&self, route: &Arc<Route>) -> (usize, usize) {
        let place = self.routes.iter().position(|other| Arc::ptr_eq(other, route));
        (place.unwrap_or_default(), self.routes.len())
    }

    /// Whether routes are found by the index, and not by a walk.
    pub(super) const fn has_index(&self) -> bool {
        matches!(self.finder, Finder::Index(_))
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

fn places(routes: &[Arc<Route>]) -> impl Iterator<Item = Place<'_>> {
    routes.iter().map(|route| {
        let config::Route { hosts, path, conditions, .. } = &route.config;
        Place { hosts, path, conditions: conditions.count() }
    })
}

impl Pools for Routes {
    fn stats(&self, pool: &str) -> Option<PoolStats> {
        self.pool(pool).map(|pool| pool.stats(clock::uptime()))
    }
}

/// Returns the host of an authority.
pub(super) fn without_port(authority: &str) -> &str {
    // Nearly always one look at its last character.
    let before = authority.trim_end_matches(|character: char| character.is_ascii_digit());
    before.strip_suffix(':').unwrap_or(authority)
}

#[cfg(test)]
impl Route {
    /// Returns a route that nothing but its configuration says anything of, for tests of what that decides.
    pub(super) fn nowhere(config: config::Route) -> Self {
        let keys = KeySpace::new("n", &config.name);
        let destinations = Vec::new();
        Self { config, keys, destinations, parents: None, replicas: None, policy: None, places: None }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use http::{HeaderValue, Method, Version};
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::{
        config::{Conditions, Wanted},
        message::{Client, Near, Scheme},
    };

    #[test]
    fn hosts() {
        assert_eq!(without_port("a:80"), "a");
        assert_eq!(without_port("a:"), "a");
        assert_eq!(without_port("a1"), "a1");
        assert_eq!(without_port("a:b1"), "a:b1");
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port("[::1]:80"), "[::1]");
    }

    fn route(path: &str, forward_path: ForwardPath) -> Arc<Route> {
        let config = config::Route { path: path.to_owned(), forward_path, ..config::Route::new(path, "web") };
        Arc::new(Route::nowhere(config))
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
            near: Near::default(),
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

    #[test]
    fn the_fields_that_a_choice_depends_on_are_known() {
        let conditional = |path: &str, names: &[&'static str]| {
            let header = |&name: &&'static str| (HeaderName::from_static(name), Wanted::Present);
            let conditions = Conditions { headers: names.iter().map(header).collect(), ..Conditions::default() };
            let config = config::Route { path: path.to_owned(), conditions, ..config::Route::new("r", "web") };
            Arc::new(Route::nowhere(config))
        };
        let routes = |count: usize| {
            let mut routes =
                vec![conditional("/", &[]), conditional("/a", &["x-a"]), conditional("/a", &["x-a", "x-b"])];
            routes.extend((routes.len()..count).map(|number| conditional(&format!("/{number}"), &[])));
            Routes::new(routes)
        };
        for routes in [routes(3), routes(100)] {
            for (path, field, wanted) in [
                ("/", "x-a", &[][..]),
                ("/a", "x-c", &["x-a", "x-b"]),
                ("/a", "x-a", &["x-a", "x-b"]),
                ("/b", "x-a", &[]),
            ] {
                let mut head = head(path);
                head.headers.insert(field, HeaderValue::from_static("1"));
                assert_eq!(routes.varies_by(&head), wanted, "{path} {field}");
            }
        }
        assert!(Routes::new(vec![conditional("/", &[])]).varies_by(&head("/")).is_empty());
    }

    #[test]
    fn a_place_is_free_again_when_it_is_dropped() {
        let made = |places: Option<usize>| Route {
            places: places.map(Semaphore::new).map(Arc::new),
            ..Route::nowhere(config::Route::new("r", "web"))
        };
        assert!(matches!(made(None).place(), Ok(None)));
        let one = made(Some(1));
        let place = one.place().unwrap();
        assert_eq!(one.place().map(drop), Err(RouteFull));
        drop(place.clone());
        assert_eq!(one.place().map(drop), Err(RouteFull), "a clone holds it");
        drop(place);
        assert_eq!(one.place().map(drop), Ok(()));
    }

    /// What a generated route says: hosts, path, whether it wants GET, and the values that it wants of `x-a` and `v`.
    type Said = (Vec<String>, String, bool, Option<String>, Option<String>);

    fn generated((hosts, path, get, header, parameter): Said) -> Arc<Route> {
        let wanted = |value: String| if value == "*" { Wanted::Present } else { Wanted::Exactly(value) };
        let mut config = config::Route::new("r", "web");
        config.conditions = Conditions {
            methods: if get { vec![Method::GET] } else { Vec::new() },
            headers: header.map(|value| (HeaderName::from_static("x-a"), wanted(value))).into_iter().collect(),
            query: parameter.map(|value| ("v".to_owned(), wanted(value))).into_iter().collect(),
        };
        (config.hosts, config.path) = (hosts, path);
        Arc::new(Route::nowhere(config))
    }

    /// How specific a route is for a host that it takes, by the documented order; the least is the most specific.
    fn specificity(route: &Route, host: &str) -> Option<(u8, Reverse<usize>, Reverse<usize>, Reverse<usize>)> {
        let config::Route { hosts, path, conditions, .. } = &route.config;
        let of_host = |pattern: &String| match pattern.strip_prefix('*') {
            Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some((1, Reverse(suffix.len()))),
            None => (pattern == host).then_some((0, Reverse(0))),
        };
        let any = hosts.is_empty().then_some((2, Reverse(0)));
        let (class, suffix) = hosts.iter().filter_map(of_host).min().or(any)?;
        Some((class, suffix, Reverse(target::prefix_length(path)), Reverse(conditions.count())))
    }

    proptest! {
        #[test]
        fn the_list_and_the_index_find_the_most_specific(
            routes in vec(
                (
                    vec("(\\*\\.)?[ab](\\.[ab]){0,2}", 0..3),
                    "/(([ab@;]|%2F|%40)[/;]?){0,3}",
                    any::<bool>(),
                    option::of("[12*]"),
                    option::of("[12*]"),
                ),
                1..30,
            ),
            requests in vec(
                ("[ab](\\.[ab]){0,3}", "/([ab@;/]|%2F|%3B|%40|%61){0,6}", any::<bool>(), "[12]?", "(v=[12])?"),
                1..20,
            ),
        ) {
            let routes: Vec<Arc<Route>> = routes.into_iter().map(generated).collect();
            let (list, index) = (RouteList::new(places(&routes)), RouteIndex::new(places(&routes)));
            for (host, path, get, header, query) in requests {
                let mut head = head("/");
                head.target = format!("/?{query}").parse().unwrap();
                head.method = if get { Method::GET } else { Method::POST };
                if !header.is_empty() {
                    head.headers.insert("x-a", header.parse().unwrap());
                }
                let takes = |number: usize| routes[number].takes(&head, &path);
                let walked = (0..routes.len())
                    .filter(|number| takes(*number))
                    .filter_map(|number| Some((specificity(&routes[number], &host)?, number)))
                    .min()
                    .map(|(_, number)| number);
                prop_assert_eq!(list.first(&host, takes), walked, "{}{}", host, path);
                prop_assert_eq!(index.first(&host, &path, takes), walked, "{}{}", host, path);
            }
        }
    }
}
