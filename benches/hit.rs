//! What a memory hit costs, step by step: the key, the look-up, the reply's headers, and all of it.
//! `cargo bench --bench hit`

use std::sync::Arc;

use divan::{Bencher, black_box};
use holm::{
    batch,
    cache::{self, Cache, key::KeySpace},
    config,
    message::{Body, Client, Request, RequestHead, Scheme},
    origin::Pool,
    pipeline::{self, Destination, Pipeline, Route, Routes, infer},
    plugin::{Engine, EngineLimits, Generations, Metrics, Plugin},
    policy::{Decision, Facts, HookCall, Notes, Policy, Roster, consult},
};
use holm_bindings::{
    exports::holm::policy::{key as key_export, plugin as plugin_export},
    holm::policy::{diagnostics, facts},
};
use http::{HeaderMap, HeaderValue, Method, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
};
use wasmtime::{
    Config, Store,
    component::{Component, HasSelf, Linker},
};

/// As in the node: on the way of a call every sixth nanosecond is the allocator's.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TENANT_KEY: &[u8] = include_bytes!("../plugins/dist/tenant-key.wasm");

fn main() {
    divan::main();
}

/// A node whose origin answers 1 KB, good for an hour.
struct Scene {
    runtime: Runtime,
    pipeline: Arc<Pipeline>,
}

impl Scene {
    fn new(policy: Option<Case>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let pipeline = runtime.block_on(pipeline(policy));
        let scene = Self { runtime, pipeline };
        // The first answer comes from the origin; the loop ends when it is in memory.
        while !scene.serve().headers()["cache-status"].to_str().is_ok_and(|status| status.contains("hit")) {}
        scene
    }

    fn serve(&self) -> holm::message::Response {
        self.runtime.block_on(self.pipeline.serve(request())).response
    }
}

async fn pipeline(policy: Option<Case>) -> Arc<Pipeline> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(origin(listener));
    let text = format!(
        "listen = [{{ address = \"127.0.0.1:0\" }}]\n[pool.web]\nendpoints = [\"{url}\"]\n\
         [[route]]\nname = \"web\"\npool = \"web\"\nmode = \"http\"\n"
    );
    let config = config::parse("bench.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    let cache = Cache::open("bench", &config.cache, cache::Metrics::default()).await.expect("a cache");
    let route = Route {
        config: config.routes[0].clone(),
        keys: KeySpace::new("bench", "web"),
        destinations: vec![Destination {
            name: "web".into(),
            pool: Pool::new("web", &config.pools["web"]).expect("a pool"),
            model: None,
            cost_micro: 0,
        }],
        policy: policy.map(|case| generations(case) as Arc<dyn Roster>),
    };
    let routes = Routes::new(vec![Arc::new(route)]);
    let metrics = pipeline::Metrics::default();
    let batchers = infer::Batchers::new();
    Pipeline::new("bench".to_owned(), routes, batchers, cache, config.limits, config.prefetch, metrics)
}

/// One answer for everything, on every connection.
async fn origin(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            let head = "HTTP/1.1 200 OK\r\ncache-control: max-age=3600\r\netag: \"1\"\r\n\
                        content-type: text/plain\r\ncontent-length: 1024\r\n\r\n";
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                let answer = [head.as_bytes(), &[b'x'; 1024]].concat();
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A table for `tenant-key`, verdicts that are remembered, and calls of an instance.
type Case = (&'static str, usize, u64);

fn engine() -> Arc<Engine> {
    let limits =
        EngineLimits { instances_max: 4, memory_bytes_max: 16 << 20, cache_dir: None, cache_bytes_max: 0, fuel: false };
    Engine::new(&limits).expect("an engine")
}

fn configured((table, entries_max, calls_max): Case) -> config::Policy {
    config::Policy {
        source: config::PolicySource::Embedded(TENANT_KEY),
        config: table.to_owned(),
        limits: config::PolicyLimits { calls_max, ..config::PolicyLimits::default() },
        memo: config::Memo { entries_max, ..config::Memo::default() },
        rollout: config::Rollout::default(),
    }
}

fn plugin(case: Case) -> Arc<Plugin> {
    let loaded = Plugin::load(&engine(), "tenant-key", &configured(case), &Metrics::new());
    loaded.unwrap_or_else(|error| panic!("{error}"))
}

fn generations(case: Case) -> Arc<Generations> {
    let started = Generations::start(&engine(), "tenant-key", &configured(case), &Metrics::new());
    started.unwrap_or_else(|error| panic!("{error}"))
}

fn head() -> RequestHead {
    let mut headers = HeaderMap::new();
    for (name, value) in [("user-agent", "bench"), ("accept", "*/*"), ("x-tenant", "acme")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: HeaderValue::from_static("bench.example"),
        target: "/catalogue/item?id=17&lang=en".parse().expect("a target"),
        received: None,
        headers,
        client: Client { ip: [127, 0, 0, 1].into(), version: Version::HTTP_11 },
    }
}

fn request() -> Request {
    Request { head: head(), body: Body::Empty }
}

/// The policy of each case: none, a recipe, a verdict that is remembered, a call, a call of a fresh instance.
const POLICIES: [(&str, Option<Case>); 5] = [
    ("native", None),
    ("recipe", Some(("{}", 4096, 100_000))),
    ("memo", Some((r#"{"require_tenant":true}"#, 4096, 100_000))),
    ("call", Some((r#"{"require_tenant":true}"#, 0, 1_000_000_000))),
    ("fresh", Some((r#"{"require_tenant":true}"#, 0, 1))),
];

const CASES: [&str; 5] = ["native", "recipe", "memo", "call", "fresh"];

fn policy_of(case: &str) -> Option<Case> {
    POLICIES.into_iter().find(|(name, _)| *name == case).and_then(|(_, case)| case)
}

/// A whole memory hit: from a request to a response, without sockets.
#[divan::bench(args = CASES)]
fn memory_hit(bencher: Bencher<'_, '_>, case: &str) {
    let scene = Scene::new(policy_of(case));
    bencher.with_inputs(request).bench_values(|request| {
        let served = scene.runtime.block_on(scene.pipeline.serve(request));
        assert_eq!(served.response.status(), 200);
        served
    });
}

/// The key alone.
#[divan::bench(args = CASES)]
fn key(bencher: Bencher<'_, '_>, case: &str) {
    use holm::{cache::key::Decider, policy::key};
    let keys = KeySpace::new("bench", "web");
    let policy = policy_of(case).map(plugin);
    let head = head();
    bencher.bench_local(|| {
        let notes = Notes::default();
        let facts = Facts::new(black_box(&head), None, &notes);
        match &policy {
            None => {
                let mut hasher = keys.hasher(Decider::Native);
                key::http_default(&facts, &mut hasher);
                hasher.finish()
            }
            Some(policy) => {
                let mut hasher = keys.hasher(Decider::Policy { meaning: policy.meaning() });
                assert!(consult::material(&**policy, &facts, &mut hasher).is_ok());
                hasher.finish()
            }
        }
    });
}

/// What a component imports, said to nobody.
struct Silent;

impl facts::Host for Silent {}

impl diagnostics::Host for Silent {
    fn enabled(&mut self, _: diagnostics::Level) -> bool {
        false
    }

    fn log(&mut self, _: diagnostics::Level, _: String) {}
}

/// The engine's share of the next one: the same values handed to the same component, without anything of holm's.
#[divan::bench]
fn bare_call(bencher: Bencher<'_, '_>) {
    let mut config = Config::new();
    config.epoch_interruption(true).concurrency_support(false);
    let engine = wasmtime::Engine::new(&config).expect("an engine");
    let mut linker = Linker::<Silent>::new(&engine);
    holm_bindings::Policy::add_to_linker::<_, HasSelf<Silent>>(&mut linker, |it| it).expect("a linker");
    let component = Component::new(&engine, TENANT_KEY).expect("a component");
    let linked = linker.instantiate_pre(&component).expect("its imports");
    let mut store = Store::new(&engine, Silent);
    store.set_epoch_deadline(1);
    let instance = linked.instantiate(&mut store).expect("an instance");
    let plugin =
        plugin_export::GuestIndices::new(&linked).and_then(|it| it.load(&mut store, &instance)).expect("a plugin");
    let key = key_export::GuestIndices::new(&linked).and_then(|it| it.load(&mut store, &instance)).expect("a key");
    let configured = plugin.call_configure(&mut store, r#"{"require_tenant":true}"#);
    assert!(matches!(configured, Ok(Ok(_))));
    let values: [Option<&[u8]>; 3] = [Some(b"acme"), Some(b"bench.example"), Some(b"/catalogue/item")];
    bencher.bench_local(|| {
        let answer = key.call_derive(&mut store, black_box(&values));
        assert!(matches!(answer, Ok(Ok(key_export::Verdict::Lookup(_)))));
    });
}

/// A call with three inputs, extraction included: one reused instance.
#[divan::bench]
fn call_of_three_inputs(bencher: Bencher<'_, '_>) {
    use holm::policy::Input;
    let policy = plugin((r#"{"require_tenant":true}"#, 0, 1_000_000_000));
    let inputs = [Input::Header(http::HeaderName::from_static("x-tenant")), Input::Authority, Input::Path];
    let head = head();
    bencher.bench_local(|| {
        let notes = Notes::default();
        let facts = Facts::new(black_box(&head), None, &notes);
        let values = inputs.each_ref().map(|input| facts.read(input));
        let decision = policy.decide(&HookCall::Key, &values, None);
        assert!(matches!(decision.as_deref(), Ok(Decision::Key(_))));
    });
}

fn former_rule(size_max: usize) -> batch::FormerRule {
    let wait_max = std::time::Duration::from_millis(2);
    batch::FormerRule { size_max, bytes_max: 1 << 20, wait_max, queue_max: 4096 }
}

/// One item through a former that sends it at once, and one that fills a batch of 32.
#[divan::bench(args = [1, 32])]
fn former(bencher: Bencher<'_, '_>, size: usize) {
    let rule = former_rule(size);
    let now = std::time::Instant::now();
    bencher.counter(divan::counter::ItemsCount::new(size)).bench_local(|| {
        let mut former = batch::Former::new(rule);
        for item in 0..size {
            assert!(
                former.arrive(black_box(item), batch::Terms { bytes: 100, ..batch::Terms::default() }, now).is_ok()
            );
        }
        former.next(now, false, &batch::Gather, |_| true)
    });
}

/// The same through a scheduler with one slot, and the batch's way back.
#[divan::bench(args = [1, 32])]
fn scheduler(bencher: Bencher<'_, '_>, size: usize) {
    let rule = batch::SchedulerRule { former: former_rule(size), concurrency: 1, classes_max: 256 };
    let mut scheduler = batch::Scheduler::new(rule, Box::new(batch::Gather));
    let class = batch::Class { pool: "web".into(), group: bytes::Bytes::from_static(&[7; 32]) };
    let terms = batch::Terms { bytes: 100, ..batch::Terms::default() };
    let (now, took) = (std::time::Instant::now(), std::time::Duration::from_millis(5));
    let returned = batch::Returned { items: size, took, outcome: batch::Outcome::Answered };
    bencher.counter(divan::counter::ItemsCount::new(size)).bench_local(|| {
        for item in 0..size {
            assert!(scheduler.arrive(&class, black_box(item), terms, now, |_| true).is_ok());
        }
        let batch::Next::Send(batch) = scheduler.next(now, |_| true) else { panic!("a slot is free") };
        scheduler.finished(&batch.queue_id, &returned);
        batch.items
    });
}
