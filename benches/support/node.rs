//! A node with one route and an origin in the same process, without sockets towards its client.

use std::sync::Arc;

use holm::{
    cache::{self, Cache, key::KeySpace},
    config,
    message::{Body, Client, Near, Request, RequestHead, Scheme},
    origin::Pool,
    pipeline::{self, Destination, Pipeline, Route, Routes, infer::Batchers},
    policy::Roster,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// As in the node: on the way of a call every sixth nanosecond is the allocator's.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Starts an origin that sends these bytes for each request, and returns its URL.
pub(crate) async fn origin(response: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let response: Arc<[u8]> = response.into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let response = Arc::clone(&response);
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    if stream.write_all(&response).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

/// Returns the configuration of a node with this origin; `more` is added to it.
pub(crate) fn configuration(origin: &str, more: &str) -> config::Config {
    let text = format!(
        "listen = [{{ address = \"127.0.0.1:0\" }}]\n{more}[pool.web]\nendpoints = [\"{origin}\"]\n\
         [[route]]\nname = \"web\"\npool = \"web\"\nmode = \"http\"\n"
    );
    config::parse("bench.toml", &text).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) async fn cache(config: &config::Config) -> Arc<Cache> {
    Cache::open("bench", &config.cache, cache::Metrics::default()).await.expect("a cache")
}

/// Returns the pipeline of a node with that one route.
pub(crate) fn pipeline(config: config::Config, cache: Arc<Cache>, policy: Option<Arc<dyn Roster>>) -> Arc<Pipeline> {
    let route = Route {
        config: config.routes[0].clone(),
        keys: KeySpace::new("bench", "web"),
        destinations: vec![Destination {
            name: "web".into(),
            pool: Pool::new("web", &config.pools["web"]).expect("a pool"),
            model: None,
            cost_micro: 0,
            slots: None,
        }],
        parents: None,
        replicas: None,
        policy,
        places: None,
    };
    let routes = Routes::new(vec![Arc::new(route)]);
    let settings = pipeline::Settings {
        limits: config.limits,
        prefetch: config.prefetch,
        replication: config.replication,
        region: config.region,
    };
    let metrics = pipeline::Metrics::default();
    Pipeline::new("bench".to_owned(), routes, Batchers::new(), cache, settings, metrics)
}

/// Returns a request without a body.
pub(crate) fn request(method: Method, target: &str, fields: &[(&'static str, &'static str)]) -> Request {
    let field = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let head = RequestHead {
        method,
        scheme: Scheme::Http,
        authority: HeaderValue::from_static("bench.example"),
        target: target.parse().expect("a target"),
        received: None,
        headers: fields.iter().map(field).collect::<HeaderMap>(),
        client: Client { ip: [127, 0, 0, 1].into(), version: Version::HTTP_11 },
        near: Near::default(),
    };
    Request { head, body: Body::Empty }
}
