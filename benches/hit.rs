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
    pipeline::{Pipeline, Route, Routes},
    plugin::{Engine, EngineLimits, Metrics, Plugin},
    policy::{Facts, Policy},
};
use http::{HeaderMap, HeaderValue, Method, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
};

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
    fn new(policy: Option<&str>) -> Self {
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

async fn pipeline(policy: Option<&str>) -> Arc<Pipeline> {
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
        index: 0,
        config: config.routes[0].clone(),
        keys: KeySpace::new("bench", "web", ""),
        pool: Pool::new("web", &config.pools["web"]).expect("a pool"),
        policy: policy.map(|table| plugin(table) as Arc<dyn Policy>),
        batches: None,
    };
    Pipeline::new("bench".to_owned(), Routes::new(vec![Arc::new(route)]), cache, config.limits)
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

fn plugin(table: &str) -> Arc<Plugin> {
    let engine = Engine::new(EngineLimits { instances_max: 4, memory_bytes_max: 16 << 20 }).expect("an engine");
    let config = config::Policy {
        source: config::PolicySource::Embedded(TENANT_KEY),
        config: table.to_owned(),
        limits: config::PolicyLimits::default(),
    };
    Plugin::load(&engine, "tenant-key", &config, Metrics::new()).unwrap_or_else(|error| panic!("{error}"))
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
        headers,
        client: Client { ip: [127, 0, 0, 1].into(), version: Version::HTTP_11 },
    }
}

fn request() -> Request {
    Request { head: head(), body: Body::Empty }
}

/// The policy of each case: none, a recipe, a call.
const POLICIES: [(&str, Option<&str>); 3] =
    [("native", None), ("recipe", Some("{}")), ("call", Some(r#"{"require_tenant":true}"#))];

fn policy_of(case: &str) -> Option<&'static str> {
    POLICIES.into_iter().find(|(name, _)| *name == case).and_then(|(_, table)| table)
}

/// A whole memory hit: from a request to a response, without sockets.
#[divan::bench(args = ["native", "recipe", "call"])]
fn memory_hit(bencher: Bencher<'_, '_>, case: &str) {
    let scene = Scene::new(policy_of(case));
    bencher.with_inputs(request).bench_values(|request| {
        let served = scene.runtime.block_on(scene.pipeline.serve(request));
        assert_eq!(served.response.status(), 200);
        served
    });
}

/// The key alone.
#[divan::bench(args = ["native", "recipe", "call"])]
fn key(bencher: Bencher<'_, '_>, case: &str) {
    use holm::{
        cache::key::Decider,
        policy::{KeyPlan, KeyVerdict, Material, key},
    };
    let keys = KeySpace::new("bench", "web", "");
    let policy = policy_of(case).map(plugin);
    let head = head();
    bencher.bench_local(|| {
        let facts = Facts::new(black_box(&head), None);
        let mut hasher = keys.hasher(if policy.is_some() { Decider::Policy } else { Decider::Native });
        match policy.as_ref().map(|policy| (policy, policy.key_plan())) {
            None | Some((_, KeyPlan::Native)) => key::http_default(&facts, &mut hasher),
            Some((_, KeyPlan::Recipe(parts))) => key::evaluate(parts, &facts, &mut hasher),
            Some((policy, KeyPlan::Call(inputs))) => {
                let values: Vec<_> = inputs.iter().map(|input| facts.read(input)).collect();
                if let Ok(KeyVerdict::Lookup(parts)) = policy.derive_key(&values) {
                    parts.iter().for_each(|part| hasher.part(Some(part)));
                }
            }
        }
        hasher.finish()
    });
}

/// One item through a former that sends it at once, and one that fills a batch of 32.
#[divan::bench(args = [1, 32])]
fn former(bencher: Bencher<'_, '_>, size: usize) {
    let rule = batch::FormerRule {
        size_max: size,
        bytes_max: 1 << 20,
        wait_max: std::time::Duration::from_millis(2),
        queue_max: 4096,
        concurrency: 1,
    };
    let now = std::time::Instant::now();
    bencher.counter(divan::counter::ItemsCount::new(size)).bench_local(|| {
        let mut former = batch::Former::new(rule);
        for item in 0..size {
            assert!(former.arrive(black_box(item), 100, now).is_ok());
        }
        former.next(now, |_| true)
    });
}
