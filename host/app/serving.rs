//! What requests are served by: one whole that a configuration makes, and that is exchanged as a whole. Each request
//! takes it once and keeps it to its end.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::sync::Semaphore;

use super::{
    components::{self, NodePolicy},
    error::Error,
};
use crate::{
    batch::{self, Slots},
    cache::{Cache, key::KeySpace},
    config::{self, Config},
    origin::{self, Bounds, Pool},
    pipeline::{
        self, Destination, Parents, Pipeline, Replicas, Route, Routes,
        infer::{Batchers, Batches},
    },
    plugin,
    policy::Roster,
    report::BatchingInfo,
    telemetry::{AccessLog, Requests, RouteMetrics, Sampler, access},
};

/// The route's name in metrics and logs when none takes the request.
pub(super) const NO_ROUTE: &str = "(none)";

/// What outlives every exchange of the configuration: the tiers with the purge log, and what is counted.
pub(super) struct Base {
    /// The node's name.
    pub(super) node: String,
    pub(super) cache: Arc<Cache>,
    pub(super) metrics: Arc<Metrics>,
}

/// The metrics of what a configuration is made into. Rows of equal labels are the same, whoever asks for them.
#[derive(Default)]
pub(super) struct Metrics {
    pub(super) origin: origin::Metrics,
    pub(super) batch: batch::Metrics,
    pub(super) plugin: plugin::Metrics,
    pub(super) pipeline: pipeline::Metrics,
    pub(super) requests: Requests,
    pub(super) log: access::Metrics,
}

/// One configuration, ready to serve.
pub(super) struct Serving {
    /// What it was made from.
    pub(super) config: Config,
    /// The tiers that the pipeline stands on.
    cache: Arc<Cache>,
    /// The way of all requests, along these routes.
    pub(super) pipeline: Arc<Pipeline>,
    routes: Vec<Arc<Route>>,
    pools: BTreeMap<String, NodePool>,
    policies: BTreeMap<String, PolicyUse>,
    bounds: Bounds,
    /// By route.
    metrics: foldhash::HashMap<String, Arc<RouteMetrics>>,
    /// `None` if nothing is logged.
    pub(super) log: Option<Arc<AccessLog>>,
    /// Picks the requests that have a span in the node's own log.
    pub(super) sampler: Sampler,
}

/// A pool and the place where its items gather.
struct NodePool {
    config: config::Pool,
    pool: Arc<Pool>,
    batches: Arc<Batches>,
}

/// A policy, and what this configuration says of it.
struct PolicyUse {
    policy: Arc<NodePolicy>,
    config: config::Policy,
    /// Whether its keys must depend on the body.
    keys_by_body: bool,
}

/// Makes a configuration into what serves it. What `previous` has is taken from there where the configuration says the
/// same of it: a pool with its connections, health and statistics, its batcher with the items that wait, a route, and a
/// route's metrics by its name. A pool of which it says something else takes over what is known of the endpoints that
/// it still has. A policy is known by its name alone, and its generations go on. Nothing of `previous` is changed.
///
/// # Errors
/// [`Error`] names what can't be made. `previous` can go on.
pub(super) async fn assemble(base: &Base, config: &Config, previous: Option<&Serving>) -> Result<Serving, Error> {
    let policies = policies(base, config, previous).await?;
    let kept = previous.map(|previous| &previous.bounds).filter(|bounds| bounds.suit(&config.limits));
    let bounds = kept.cloned().unwrap_or_else(|| Bounds::new(&config.limits, &base.metrics.origin));
    let pools = pools(base, config, &bounds, kept.is_some(), previous)?;
    let routes = routes(base, config, &pools, &policies, previous)?;
    let log = access_log(base, config, previous)?;
    // From here on nothing can fail.
    let batchers: Batchers =
        pools.iter().map(|(name, pool)| (Arc::<str>::from(name.as_str()), Arc::clone(&pool.batches))).collect();
    let settings = pipeline::Settings {
        limits: config.limits.clone(),
        prefetch: config.prefetch,
        replication: config.replication,
        region: config.region.clone(),
    };
    // Tiers that were opened anew share nothing with those before: neither entries nor fetches under way.
    let pipeline = match previous.filter(|previous| Arc::ptr_eq(&previous.cache, &base.cache)) {
        Some(previous) => previous.pipeline.succeeded_by(Routes::new(routes.clone()), batchers, settings),
        None => {
            let (node, cache, metrics) = (base.node.clone(), Arc::clone(&base.cache), base.metrics.pipeline.clone());
            Pipeline::new(node, Routes::new(routes.clone()), batchers, cache, settings, metrics)
        }
    };
    Ok(Serving {
        config: config.clone(),
        cache: Arc::clone(&base.cache),
        metrics: route_metrics(base, config, previous),
        pipeline,
        routes,
        pools,
        policies,
        bounds,
        log,
        sampler: Sampler::new(config.log.trace_ppm),
    })
}

impl Serving {
    /// The metrics of the route of this name, or of requests that none takes.
    pub(super) fn route_metrics(&self, route: Option<&str>) -> Option<&RouteMetrics> {
        self.metrics.get(route.unwrap_or(NO_ROUTE)).map(|metrics| &**metrics)
    }

    /// All pools.
    pub(super) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values().map(|known| &known.pool)
    }

    /// How long the batches of each pool took.
    pub(super) fn batching(&self) -> impl Iterator<Item = BatchingInfo> {
        self.pools.iter().map(|(name, known)| known.batches.info(name))
    }

    /// All policies, by their names.
    pub(super) fn policies(&self) -> impl Iterator<Item = (&str, &Arc<NodePolicy>)> {
        self.policies.iter().map(|(name, used)| (name.as_str(), &used.policy))
    }

    /// The policy of this name.
    pub(super) fn policy(&self, name: &str) -> Option<&Arc<NodePolicy>> {
        self.policies.get(name).map(|used| &used.policy)
    }

    /// The pools that `former` doesn't have, or has another one of.
    pub(super) fn pools_beside(&self, former: Option<&Self>) -> Vec<Arc<Pool>> {
        let is_known = |name: &str, own: &NodePool| {
            let known = former.and_then(|former| former.pools.get(name));
            known.is_some_and(|known| Arc::ptr_eq(&known.pool, &own.pool))
        };
        let new = self.pools.iter().filter(|(name, own)| !is_known(name, own));
        new.map(|(_, own)| Arc::clone(&own.pool)).collect()
    }

    /// Has what it shares with `former` go by its own configuration, and lets go what is no more. To be called once, when it
    /// takes the place of `former`.
    pub(super) fn take_over(&self, former: Option<&Self>, metrics: &Metrics) {
        let pools: Vec<String> = self.pools.keys().cloned().collect();
        for used in self.policies.values() {
            used.policy.set_config(used.config.clone());
            used.policy.generations.set_pools(&pools);
            used.policy.generations.require_body_in_key(used.keys_by_body);
        }
        let Some(former) = former else { return };
        for gone in former.metrics.keys().filter(|name| !self.metrics.contains_key(*name)) {
            metrics.requests.forget(gone);
        }
    }
}

/// The access log of the configuration; `None` if there is to be none. One that changes is closed with the last request
/// that began with it.
fn access_log(base: &Base, config: &Config, previous: Option<&Serving>) -> Result<Option<Arc<AccessLog>>, Error> {
    let log = &config.log;
    let is_same = |former: &config::Log| former.access == log.access && former.lines_queued_max == log.lines_queued_max;
    if let Some(previous) = previous.filter(|previous| is_same(&previous.config.log)) {
        return Ok(previous.log.clone());
    }
    if log.access == config::AccessLog::Off {
        return Ok(None);
    }
    AccessLog::start(log, &base.metrics.log).map(|log| Some(Arc::new(log))).map_err(Error::AccessLog)
}

/// The policies of the configuration: known ones with their generations, new ones with their first.
async fn policies(
    base: &Base,
    config: &Config,
    previous: Option<&Serving>,
) -> Result<BTreeMap<String, PolicyUse>, Error> {
    let known = |name: &str| previous.and_then(|previous| previous.policy(name));
    let new: Vec<_> = config.policies.iter().filter(|(name, _)| known(name).is_none()).collect();
    let mut started = components::start(config, &new, &base.metrics.plugin).await?;
    let pools: Vec<String> = config.pools.keys().cloned().collect();
    let mut policies = BTreeMap::new();
    for (name, said) in &config.policies {
        // It is either.
        let Some(policy) = started.remove(name).or_else(|| known(name).cloned()) else { continue };
        let keys_by_body = components::must_key_by_body(config, name);
        policy.generations.check(keys_by_body, &pools, said)?;
        policies.insert(name.clone(), PolicyUse { policy, config: said.clone(), keys_by_body });
    }
    Ok(policies)
}

/// The pools of the configuration. The items of a pool gather in one place, whichever routes lead to it: its slots are
/// theirs together, also while requests of `previous` use another pool of this name.
fn pools(
    base: &Base,
    config: &Config,
    bounds: &Bounds,
    keeps_bounds: bool,
    previous: Option<&Serving>,
) -> Result<BTreeMap<String, NodePool>, Error> {
    let mut pools = BTreeMap::new();
    for (name, said) in &config.pools {
        let known = previous.and_then(|previous| previous.pools.get(name));
        let pool = match known {
            Some(known) if keeps_bounds && known.config == *said => Arc::clone(&known.pool),
            _ => Pool::of_node(name, said, &base.metrics.origin, bounds, known.map(|known| &*known.pool))
                .map_err(|reason| Error::Pool { name: name.clone(), reason: Box::new(reason) })?,
        };
        let batches = match known {
            Some(known) if known.config.batch == said.batch => Arc::clone(&known.batches),
            _ => Batches::new(said.batch, base.metrics.batch.of_pool(name)),
        };
        pools.insert(name.clone(), NodePool { config: said.clone(), pool, batches });
    }
    Ok(pools)
}

/// The routes of the configuration, in its order.
fn routes(
    base: &Base,
    config: &Config,
    pools: &BTreeMap<String, NodePool>,
    policies: &BTreeMap<String, PolicyUse>,
    previous: Option<&Serving>,
) -> Result<Vec<Arc<Route>>, Error> {
    let known: HashMap<&str, &Arc<Route>> = previous
        .into_iter()
        .flat_map(|previous| &previous.routes)
        .map(|route| (route.config.name.as_str(), route))
        .collect();
    let mut routes = Vec::with_capacity(config.routes.len());
    for said in &config.routes {
        let mut made = route(base, said, pools, policies)?;
        let known = known.get(said.name.as_str()).copied();
        if let Some(known) = known.filter(|known| known.config.requests_max == said.requests_max) {
            // Requests under way go on to count.
            made.places.clone_from(&known.places);
        }
        let same = known.filter(|known| is_same(known, &made));
        routes.push(same.cloned().unwrap_or_else(|| Arc::new(made)));
    }
    Ok(routes)
}

fn route(
    base: &Base,
    said: &config::Route,
    pools: &BTreeMap<String, NodePool>,
    policies: &BTreeMap<String, PolicyUse>,
) -> Result<Route, Error> {
    let dangling =
        |what: &'static str, name: &String| Error::Dangling { route: said.name.clone(), what, name: name.clone() };
    let alone = [config::Candidate { pool: said.pool.clone(), model: None, cost_micro: 0 }];
    let candidates: &[config::Candidate] = match &said.own {
        // It needs none.
        Some(_) => &[],
        None if said.candidates.is_empty() => &alone[..],
        None => &said.candidates,
    };
    let mut destinations = Vec::with_capacity(candidates.len());
    for to in candidates {
        let known = pools.get(&to.pool).ok_or_else(|| dangling("pool", &to.pool))?;
        destinations.push(Destination {
            name: to.pool.as_str().into(),
            pool: Arc::clone(&known.pool),
            model: to.model.as_deref().map(Into::into),
            cost_micro: to.cost_micro,
            slots: Some((Arc::clone(&known.batches) as Arc<dyn Slots>, known.config.connect)),
        });
    }
    let parents = match &said.parents {
        None => None,
        Some(name) => {
            let pool = Arc::clone(&pools.get(name).ok_or_else(|| dangling("pool", name))?.pool);
            Some(Parents { pool, share_purges: said.parents_share_purges })
        }
    };
    let replicas = match &said.replicate {
        None => None,
        Some(replicate) => {
            let known = |name: &String| pools.get(name).ok_or_else(|| dangling("pool", name));
            let to = replicate.to.iter().map(|name| Ok(Arc::clone(&known(name)?.pool)));
            Some(Replicas::new(replicate, to.collect::<Result<_, Error>>()?))
        }
    };
    let policy = match &said.policy {
        None => None,
        Some(name) => Some(&policies.get(name).ok_or_else(|| dangling("policy", name))?.policy),
    };
    Ok(Route {
        config: said.clone(),
        // The tiers' own namespace: a changed one is no use before they are opened anew.
        keys: KeySpace::new(&base.cache.config().namespace, &key_name(said)),
        destinations,
        parents,
        replicas,
        policy: policy.map(|policy| Arc::clone(&policy.generations) as Arc<dyn Roster>),
        places: said.requests_max.map(|places| Arc::new(Semaphore::new(places))),
    })
}

/// Returns the name that the keys of a route begin with: with the rules by which its responses are stored, so that what
/// was stored, or is being fetched, by other rules is never found by these. No two routes have the same, so that none
/// serves what another has stored. Where requests are translated, rewritten or edited, what an origin is sent depends on
/// how, and so does its response.
fn key_name(said: &config::Route) -> String {
    // No name has a line break in it.
    let mut name = format!("{}\n{}", said.name, said.storing_rules());
    let mut add = |line: String| name.push_str(&line);
    if let Some(translation) = &said.translation {
        add(format!("\n{translation:?}"));
    }
    if let Some(rewrite) = &said.rewrite {
        add(format!("\nrewrite {rewrite:?}"));
    }
    if !said.request_headers.is_empty() {
        add(format!("\nrequest_headers {:?}", said.request_headers));
    }
    if said.key_client_region {
        add("\nkey_client_region".to_owned());
    }
    name
}

/// The pools of nodes that are told what a route stores.
fn told(route: &Route) -> impl Iterator<Item = &Arc<Pool>> {
    route.replicas.iter().flat_map(|replicas| &replicas.to)
}

/// Whether two routes of one name are the same, with all that they lead to.
fn is_same(one: &Route, other: &Route) -> bool {
    // Names, models and costs of destinations are in the configuration.
    let (to, also_to) = (&one.destinations, &other.destinations);
    let same_policy = match (&one.policy, &other.policy) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    };
    let same_parents = match (&one.parents, &other.parents) {
        (Some(one), Some(other)) => Arc::ptr_eq(&one.pool, &other.pool),
        (one, other) => one.is_none() && other.is_none(),
    };
    // How many there are is in the configuration.
    let same_replicas = told(one).zip(told(other)).all(|(one, other)| Arc::ptr_eq(one, other));
    one.config == other.config
        && same_policy
        && same_parents
        && same_replicas
        && to.len() == also_to.len()
        && to.iter().zip(also_to).all(|(one, other)| Arc::ptr_eq(&one.pool, &other.pool))
}

/// The metrics of all routes by their names, and of requests that no route takes.
fn route_metrics(
    base: &Base,
    config: &Config,
    previous: Option<&Serving>,
) -> foldhash::HashMap<String, Arc<RouteMetrics>> {
    let known = |name: &str| previous.and_then(|previous| previous.metrics.get(name)).map(Arc::clone);
    let make = |name: &str| {
        let metrics = known(name).unwrap_or_else(|| Arc::new(base.metrics.requests.for_route(name)));
        (name.to_owned(), metrics)
    };
    config.routes.iter().map(|route| route.name.as_str()).chain([NO_ROUTE]).map(make).collect()
}
