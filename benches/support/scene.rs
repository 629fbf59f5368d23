//! A node that has a response in memory, keyed without a policy or by one.

use std::sync::Arc;

use holm::{
    config,
    message::{Request, RequestSpan, Response},
    pipeline::Pipeline,
    plugin::{Engine, EngineLimits, Generations, Metrics, Plugin},
    policy::Roster,
};
use http::Method;
use tokio::runtime::{Builder, Runtime};

use crate::node;

pub(crate) const TENANT_KEY: &[u8] = include_bytes!("../../plugins/dist/tenant-key.wasm");

/// A node whose origin sends 1 KB that is fresh for an hour.
pub(crate) struct Scene {
    pub(crate) runtime: Runtime,
    pub(crate) pipeline: Arc<Pipeline>,
}

impl Scene {
    pub(crate) fn new(policy: Option<Case>) -> Self {
        // One thread, so that what is done for a request is done by the thread that is measured.
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let pipeline = runtime.block_on(async {
            let head = "HTTP/1.1 200 OK\r\ncache-control: max-age=3600\r\netag: \"1\"\r\n\
                        content-type: text/plain\r\ncontent-length: 1024\r\n\r\n";
            let origin = node::origin([head.as_bytes(), &[b'x'; 1024]].concat()).await;
            let config = node::configuration(&origin, "");
            let roster = policy.map(|case| generations(case) as Arc<dyn Roster>);
            let cache = node::cache(&config).await;
            node::pipeline(config, cache, roster)
        });
        let scene = Self { runtime, pipeline };
        // The first response comes from the origin; the loop ends when it is in memory.
        while !scene.serve(request()).headers()["cache-status"].to_str().is_ok_and(|status| status.contains("hit")) {}
        scene
    }

    pub(crate) fn serve(&self, request: Request) -> Response {
        self.runtime.block_on(self.pipeline.serve(request, RequestSpan::none())).response
    }
}

/// A table for `tenant-key`, verdicts that are remembered, and calls of an instance.
pub(crate) type Case = (&'static str, usize, u64);

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

pub(crate) fn plugin(case: Case) -> Arc<Plugin> {
    let loaded = Plugin::load(&engine(), "tenant-key", &configured(case), &Metrics::new());
    loaded.unwrap_or_else(|error| panic!("{error}"))
}

fn generations(case: Case) -> Arc<Generations> {
    let started = Generations::start(&engine(), "tenant-key", &configured(case), &Metrics::new());
    started.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn request() -> Request {
    let fields = [("user-agent", "bench"), ("accept", "*/*"), ("x-tenant", "acme")];
    node::request(Method::GET, "/catalogue/item?id=17&lang=en", &fields)
}

/// The policy of each case: none, a recipe, a verdict that is remembered, a call, a call of a fresh instance.
const POLICIES: [(&str, Option<Case>); 5] = [
    ("native", None),
    ("recipe", Some(("{}", 4096, 100_000))),
    ("memo", Some((r#"{"require_tenant":true}"#, 4096, 100_000))),
    ("call", Some((r#"{"require_tenant":true}"#, 0, 1_000_000_000))),
    ("fresh", Some((r#"{"require_tenant":true}"#, 0, 1))),
];

pub(crate) const CASES: [&str; 5] = ["native", "recipe", "memo", "call", "fresh"];

pub(crate) fn policy_of(case: &str) -> Option<Case> {
    POLICIES.into_iter().find(|(name, _)| *name == case).and_then(|(_, case)| case)
}
