//! What is taken over from one configuration to the next, and what isn't.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, uri::PathAndQuery};
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    app::exchange::Exchange,
    cache,
    config::PolicySource,
    message::{RequestSpan, network::Cidr},
    origin::{Outbound, OutboundBody},
    telemetry::{Registry, Verdict},
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const TENANT_KEY: &[u8] = include_bytes!("../../../plugins/dist/tenant-key.wasm");

/// A configuration with pools of these names at an endpoint that nobody listens at, and a route to each.
fn config(names: &[&str], more: &str) -> Config {
    let mut text =
        "listen = [{ address = \"127.0.0.1:0\" }]\nlog.access = \"off\"\n[cache.memory]\nbytes = \"16MiB\"\n"
            .to_owned();
    for name in names {
        // A port that only the system's administrator could listen at, and doesn't.
        text += &format!("[pool.{name}]\nendpoints = [\"http://127.0.0.1:1\"]\n");
        text += &format!("[[route]]\nname = \"{name}\"\npath = \"/{name}\"\npool = \"{name}\"\nmode = \"http\"\n");
    }
    let mut config = config::parse("test.toml", &(text + more)).unwrap_or_else(|error| panic!("{error}"));
    for policy in config.policies.values_mut() {
        policy.source = PolicySource::Embedded(TENANT_KEY);
        (policy.limits.load, policy.limits.instances_max) = (PATIENCE, 2);
    }
    config
}

/// A policy whose keys know nothing of a body, and what a route that uses it says.
const POLICY: &str = "[policy.p]\nfile = \"p.wasm\"\n";
const ROUTE: &str = "[[route]]\nname = \"asked\"\npool = \"web\"\npolicy = \"p\"\n";

async fn base() -> Base {
    let cache = config(&["web"], "").cache;
    let cache = Cache::open("n", &cache, cache::Metrics::default()).await.unwrap();
    Base { node: "n".to_owned(), cache, metrics: Arc::new(Metrics::default()) }
}

/// Returns a configuration at work, with listeners that nothing accepts at.
async fn begun(base: Base, config: &Config) -> Arc<Exchange> {
    let server = http_server(config).await;
    Exchange::begin(base, config, server.listeners()).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn http_server(config: &Config) -> crate::http::Server {
    let bound = crate::http::Server::bind(&config.listen, &config.limits, &config.timeouts).await;
    bound.unwrap_or_else(|error| panic!("{error}"))
}

async fn assembled(base: &Base, config: &Config, previous: Option<&Serving>) -> Serving {
    assemble(base, config, previous).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Asks for something, in vain.
async fn ask(pool: &Arc<Pool>) {
    let outbound = Outbound {
        method: Method::GET,
        authority: HeaderValue::from_static("shop.example"),
        target: PathAndQuery::from_static("/"),
        headers: HeaderMap::new(),
        body: OutboundBody::Empty,
        client: None,
        repeatable: false,
        recodes: false,
        expected: None,
        span: RequestSpan::none(),
    };
    assert!(timeout(PATIENCE, pool.fetch(outbound)).await.unwrap().is_err());
}

fn pool<'s>(serving: &'s Serving, name: &str) -> &'s Arc<Pool> {
    &serving.pools[name].pool
}

fn failed(pool: &Pool) -> u64 {
    pool.info().endpoints[0].failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_change_goes_on() {
    let base = base().await;
    let said = config(&["web", "models"], &format!("{POLICY}{ROUTE}mode = \"http\"\n"));
    let former = assembled(&base, &said, None).await;
    ask(pool(&former, "web")).await;
    let failures = failed(pool(&former, "web"));
    assert!(failures > 0);

    let next = assembled(&base, &said, Some(&former)).await;
    for name in ["web", "models"] {
        assert!(Arc::ptr_eq(pool(&former, name), pool(&next, name)), "{name}");
        assert!(Arc::ptr_eq(&former.pools[name].batches, &next.pools[name].batches), "{name}");
        assert!(Arc::ptr_eq(&former.metrics[name], &next.metrics[name]), "{name}");
    }
    assert_eq!(failed(pool(&next, "web")), failures, "its counters go on");
    assert!(next.pools_beside(Some(&former)).is_empty(), "nothing new is to be checked");
    for (one, other) in former.routes.iter().zip(&next.routes) {
        assert!(Arc::ptr_eq(one, other), "{}", one.config.name);
    }
    let policy = |serving: &Serving| Arc::clone(serving.policy("p").unwrap());
    assert!(Arc::ptr_eq(&policy(&former), &policy(&next)));
    let generation = policy(&former).generations.digest();

    // What the configuration says of a policy leads to another generation of the same.
    let mut other = said;
    other.policies.get_mut("p").unwrap().config = r#"{"require_tenant": true}"#.to_owned();
    let next = assembled(&base, &other, Some(&former)).await;
    assert!(Arc::ptr_eq(&policy(&former), &policy(&next)));
    assert_eq!(policy(&former).generations.digest(), generation, "nothing was exchanged");
    next.take_over(Some(&former), &base.metrics);
    policy(&next).load_changed().await;
    assert_ne!(policy(&former).generations.digest(), generation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_pool_is_another_one_and_the_old_one_ends_with_its_last_request() {
    let base = base().await;
    let said = config(&["web", "models"], "");
    let former = assembled(&base, &said, None).await;
    let mut other = said;
    other.pools.get_mut("web").unwrap().waiting_max += 1;
    let next = assembled(&base, &other, Some(&former)).await;
    assert!(!Arc::ptr_eq(pool(&former, "web"), pool(&next, "web")));
    assert!(Arc::ptr_eq(pool(&former, "models"), pool(&next, "models")));
    assert!(Arc::ptr_eq(&former.pools["web"].batches, &next.pools["web"].batches), "its rule is the same");
    let new = next.pools_beside(Some(&former));
    assert!(new.len() == 1 && Arc::ptr_eq(&new[0], pool(&next, "web")));
    drop(new);

    // The route of a request that is under way.
    let used = Arc::clone(&former.routes[0]);
    assert!(Arc::ptr_eq(&used.destinations[0].pool, pool(&former, "web")));
    assert!(Arc::ptr_eq(&next.routes[0].destinations[0].pool, pool(&next, "web")), "the route leads to the new one");
    let (old, new) = (pool(&former, "web").stop_token(), pool(&next, "web").stop_token());
    drop(former);
    assert!(!old.is_cancelled());
    drop(used);
    assert!(old.is_cancelled() && !new.is_cancelled());

    other.pools.get_mut("models").unwrap().batch.size_max += 1;
    let last = assembled(&base, &other, Some(&next)).await;
    assert!(!Arc::ptr_eq(&next.pools["models"].batches, &last.pools["models"].batches));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_limits_that_pools_share_make_other_pools() {
    let base = base().await;
    let said = config(&["web"], "");
    let former = assembled(&base, &said, None).await;
    let cases: &[(&str, fn(&mut config::Limits), bool)] = &[
        ("headers_max", |limits| limits.headers_max += 1, true),
        ("body_bytes_max", |limits| limits.body_bytes_max += 1, true),
        ("client_streams_max", |limits| limits.client_streams_max += 1, true),
        ("forwarding_proxies", |limits| limits.forwarding_proxies.push(Cidr::LOOPBACK[0]), true),
        ("client_places_max", |limits| limits.client_places_max += 1, false),
        ("spool_bytes_max", |limits| limits.spool_bytes_max += 1, false),
        ("trusted_proxies", |limits| limits.trusted_proxies.clear(), said.limits.trusted_proxies.is_empty()),
    ];
    for (name, change, is_same) in cases {
        let mut other = said.clone();
        change(&mut other.limits);
        let next = assembled(&base, &other, Some(&former)).await;
        assert_eq!(Arc::ptr_eq(pool(&former, "web"), pool(&next, "web")), *is_same, "{name}");
    }
}

/// Rows of the routes' metrics.
fn rows(registry: &Registry) -> Vec<String> {
    let text = registry.encode();
    let rows = text.lines().filter(|line| line.starts_with("holm_requests_total{") && !line.ends_with(" 0"));
    let mut rows: Vec<String> = rows.map(str::to_owned).collect();
    rows.sort();
    rows
}

fn count(serving: &Serving, route: Option<&str>) {
    serving.route_metrics(route).unwrap().record(Verdict::Miss, StatusCode::OK, Duration::from_millis(1));
}

fn row(route: &str, count: u32) -> String {
    format!("holm_requests_total{{route=\"{route}\",verdict=\"miss\"}} {count}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_has_its_metrics_by_its_name() {
    let (base, registry) = (base().await, Registry::new());
    registry.register_with(|inner| base.metrics.requests.register(inner));
    let exchange = begun(base, &config(&["gone", "moved", "stays"], "")).await;
    let former = exchange.serving();
    for route in [Some("gone"), Some("moved"), Some("stays"), None] {
        count(&former, route);
    }
    exchange.adopt(&config(&["stays", "new", "moved"], "")).await.unwrap();
    for route in [Some("new"), Some("moved"), Some("stays"), None] {
        count(&exchange.serving(), route);
    }
    // A request that is under way counts in what it began with.
    count(&former, Some("gone"));
    count(&former, Some("moved"));
    assert_eq!(rows(&registry), [row("(none)", 2), row("moved", 3), row("new", 1), row("stays", 2)]);
    assert!(exchange.serving().route_metrics(Some("gone")).is_none());
    assert!(!registry.encode().contains("route=\"gone\""));
    exchange.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_assembled_changes_nothing() {
    let (base, registry) = (base().await, Registry::new());
    registry.register_with(|inner| base.metrics.requests.register(inner));
    let said = config(&["web"], &format!("{POLICY}{ROUTE}mode = \"http\"\n"));
    let exchange = begun(base, &said).await;
    let former = exchange.serving();
    count(&former, Some("web"));
    let before = rows(&registry);
    let generations = Arc::clone(&former.policy("p").unwrap().generations);
    let cases: &[(&str, fn(&mut Config))] = &[
        ("pool web: ", |config| config.pools.get_mut("web").unwrap().endpoints.clear()),
        ("route web names pool none", |config| config.routes[0].pool = "none".to_owned()),
        ("route web names policy none", |config| config.routes[0].policy = Some("none".to_owned())),
        ("policy `new` ", |config| {
            let mut policy = config.policies["p"].clone();
            policy.source = PolicySource::Embedded(b"\0asm");
            config.policies.insert("new".to_owned(), policy);
        }),
        ("policy `p` (embedded) makes keys without the body", |config| {
            config.routes[1].mode = config::Mode::Infer(config::Protocol::JsonArray);
        }),
    ];
    for (wanted, spoil) in cases {
        let mut wrong = said.clone();
        // Not to be seen anywhere.
        wrong.routes.push(config::Route::new("extra", "web"));
        spoil(&mut wrong);
        let error = exchange.adopt(&wrong).await.unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
        assert!(Arc::ptr_eq(&former, &exchange.serving()), "{wanted}");
        assert!(!pool(&former, "web").stop_token().is_cancelled(), "{wanted}");
        assert_eq!(rows(&registry), before, "{wanted}");
        assert!(!registry.encode().contains("route=\"extra\""), "{wanted}");
    }
    // Nor may it be told that its keys must depend on the body.
    let mut policy = said.policies["p"].clone();
    policy.config = r#"{"require_tenant": true}"#.to_owned();
    assert!(!generations.load(&policy, None).unwrap().unchanged);
    exchange.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_ends_the_checks_of_pools_that_are_no_more() {
    let checked = "[pool.web.health]\npath = \"/\"\ninterval_ms = 100\n[pool.models.health]\npath = \"/\"\n";
    let said = config(&["web", "models"], checked);
    let exchange = begun(base().await, &said).await;
    let former = exchange.serving();
    let stop = pool(&former, "web").stop_token();
    assert_eq!(exchange.checks(), 2);
    let mut other = said;
    other.pools.get_mut("web").unwrap().health.as_mut().unwrap().interval += Duration::from_millis(1);
    exchange.adopt(&other).await.unwrap();
    assert_eq!(exchange.checks(), 3, "a request uses the old one still");
    assert!(!stop.is_cancelled());
    drop(former);
    assert!(stop.is_cancelled());
    let ended = async {
        while exchange.checks() > 2 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, ended).await.unwrap();
    timeout(PATIENCE, exchange.close()).await.unwrap();
    assert_eq!(exchange.checks(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_or_can_not_be_bound_changes_nothing() {
    let said = config(&["web"], &format!("{POLICY}{ROUTE}mode = \"http\"\n"));
    let exchange = begun(base().await, &said).await;
    let former = exchange.serving();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let cases: &[(&str, &dyn Fn(&mut Config))] = &[
        ("needs a restart: cache.memory.bytes, node", &|config| {
            (config.node, config.cache.memory.bytes) = ("other".to_owned(), 32 << 20);
        }),
        ("cannot listen on 127.0.0.1:", &|config| {
            config.listen.push(config::Listen::new(taken.local_addr().unwrap()));
        }),
        // What the policy that goes on would be loaded from.
        ("policy `p` ", &|config| {
            config.policies.get_mut("p").unwrap().source = PolicySource::Embedded(b"\0asm");
        }),
        ("the access log: ", &|config| {
            config.log.access = config::AccessLog::File("/nowhere/at/all/access.log".into());
        }),
    ];
    for (wanted, change) in cases {
        let mut wrong = said.clone();
        wrong.routes.push(config::Route::new("extra", "web"));
        change(&mut wrong);
        let error = exchange.adopt(&wrong).await.unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
        assert!(Arc::ptr_eq(&former, &exchange.serving()), "{wanted}");
        assert_eq!(exchange.generation(), 1, "{wanted}");
    }
    let mut right = said.clone();
    right.routes.push(config::Route::new("extra", "web"));
    let changes: Vec<String> = exchange.adopt(&right).await.unwrap().into_iter().map(|change| change.key).collect();
    assert_eq!((changes, exchange.generation()), (vec!["route.extra".to_owned()], 2));
    assert!(exchange.adopt(&right).await.unwrap().is_empty());
    assert_eq!(exchange.generation(), 2, "nothing has changed");
    let info = exchange.info();
    assert_eq!((info.generation, &info.config["route"][2]["name"]), (2, &serde_json::json!("extra")));
    exchange.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_access_log_takes_the_place_of_the_former() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = config(&["web"], "");
    let exchange = begun(base().await, &said).await;
    assert!(exchange.serving().log.is_none());
    let file = dir.path().join("access.log");
    said.log.access = config::AccessLog::File(file.clone());
    exchange.adopt(&said).await.unwrap();
    let log = exchange.serving().log.clone().unwrap();
    assert!(file.exists());
    said.limits.headers_max += 1;
    exchange.adopt(&said).await.unwrap();
    assert!(Arc::ptr_eq(&log, exchange.serving().log.as_ref().unwrap()), "it is the same");
    said.log.lines_queued_max += 1;
    exchange.adopt(&said).await.unwrap();
    assert!(!Arc::ptr_eq(&log, exchange.serving().log.as_ref().unwrap()));
    exchange.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_of_the_rules_by_which_responses_are_stored() {
    let base = base().await;
    let key = |serving: &Serving| serving.routes[0].keys.hasher(cache::key::Decider::Native).finish();
    let said = config(&["web"], "");
    let former = assembled(&base, &said, None).await;
    assert_eq!(key(&assembled(&base, &said, None).await), key(&former), "a restart finds what is stored");
    let changes: [(fn(&mut config::Route), bool); 4] = [
        (|route| route.tag_headers.push(http::HeaderName::from_static("x-tags")), false),
        (|route| route.store_set_cookie = config::StoreSetCookie::Never, false),
        (|route| route.freshness.ttl = Some(Duration::from_secs(1)), false),
        (|route| route.websocket = false, true),
    ];
    for (at, (change, is_same)) in changes.into_iter().enumerate() {
        let mut other = said.clone();
        change(&mut other.routes[0]);
        let next = assembled(&base, &other, Some(&former)).await;
        assert_eq!(key(&next) == key(&former), is_same, "change {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_of_a_pool_that_is_gone_go() {
    let (base, registry) = (base().await, Registry::new());
    registry.register_with(|inner| base.metrics.origin.register(inner));
    registry.register_with(|inner| base.metrics.batch.register(inner));
    let exchange = begun(base, &config(&["gone", "stays"], "")).await;
    let former = exchange.serving();
    for name in ["gone", "stays"] {
        ask(pool(&former, name)).await;
    }
    let tells_of = |pool: &str| registry.encode().contains(&format!("pool=\"{pool}\""));
    exchange.adopt(&config(&["stays"], "")).await.unwrap();
    assert!(tells_of("gone"), "a request may be under way there");
    drop(former);
    let going = async {
        while tells_of("gone") {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, going).await.unwrap();
    assert!(tells_of("stays"));
    exchange.close().await;
}
