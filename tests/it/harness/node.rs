//! A node in this process, or its configuration for one in a process of its own.

use std::{collections::BTreeMap, fmt::Write, net::SocketAddr, ops::Deref, path::Path, sync::Arc};

use holm::{
    app::{App, Exchange},
    http::Drained,
};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    client::{Ask, Conn, HOST_NAME, Response},
    eventually, found,
    process::Process,
    quoted,
    redis::Redis,
    within,
};

/// The addresses of a node, and the requests that can be sent there.
#[derive(Clone, Debug)]
pub(crate) struct NodeHandle {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl NodeHandle {
    pub(crate) fn ask(&self, method: Method, target: &str) -> Ask {
        Ask::new(self.address, method, target)
    }

    pub(crate) fn get(&self, target: &str) -> Ask {
        self.ask(Method::GET, target)
    }

    pub(crate) fn post(&self, target: &str) -> Ask {
        self.ask(Method::POST, target)
    }

    /// GETs it, from the cache or the origin.
    pub(crate) async fn fetch(&self, target: &str) -> Response {
        self.get(target).send().await
    }

    /// Returns what the cache has, without the origin.
    pub(crate) async fn cached(&self, target: &str) -> Option<Response> {
        let response = self.get(target).header("cache-control", "only-if-cached").send().await;
        (response.status != 504).then_some(response)
    }

    /// Returns what the cache has, as soon as it has it: storing goes on after the response's last byte.
    pub(crate) async fn hit(&self, target: &str) -> Response {
        found("a hit", async || self.cached(target).await.filter(Response::is_hit)).await
    }

    /// Returns what the cache has of a response that is stale by now, as soon as it has it.
    pub(crate) async fn stale(&self, target: &str) -> Response {
        found("a stale response", async || {
            let control = "only-if-cached, max-stale=600";
            let response = self.get(target).header("cache-control", control).send().await;
            (response.status == 200).then_some(response)
        })
        .await
    }

    pub(crate) async fn h1(&self) -> Conn {
        Conn::h1(self.address).await.unwrap()
    }

    pub(crate) async fn h2(&self) -> Conn {
        Conn::h2(self.address).await.unwrap()
    }

    /// Returns a request to the admin API.
    pub(crate) fn admin(&self, target: &str) -> Ask {
        Ask::new(self.admin, Method::GET, target).host(&self.admin.to_string())
    }

    /// Requests a purge, and returns the admin API's response.
    pub(crate) async fn try_purge(&self, what: &Value) -> Response {
        Ask::new(self.admin, Method::POST, "/purge").json(what).send().await
    }

    /// Purges, expects that to succeed, and returns what the admin API says of it.
    pub(crate) async fn purge(&self, what: &Value) -> Value {
        let response = self.try_purge(what).await;
        assert_eq!(response.status, 200, "{what}: {}", response.text());
        response.json()
    }

    /// Purges the URL by which requests of the tests name `target`.
    pub(crate) async fn purge_url(&self, target: &str, soft: bool) -> Value {
        self.purge(&json!({"url": url(target), "soft": soft})).await
    }

    /// Returns the sum of all samples whose name is `name` and whose labels contain `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.admin("/metrics").send().await.text().to_owned();
        samples(&text).filter(|sample| sample.0 == name && sample.1.contains(labels)).map(|sample| sample.2).sum()
    }

    /// Waits until so many items are in the queue of the pool `web`.
    pub(crate) async fn waiting(&self, count: f64) {
        eventually("the queue", async || self.metric("holm_batch_waiting", "pool=\"web\"").await == count).await;
    }

    /// Waits until so many requests have come in over HTTP/2, and have had their chance to get as far as they can.
    pub(crate) async fn took_over_h2(&self, count: u32) {
        eventually("the requests", async || {
            self.metric("holm_http_requests_total", "version=\"2\"").await >= f64::from(count)
        })
        .await;
        for _ in 0..5 {
            self.admin("/readyz").send().await;
        }
    }
}

/// Returns the URL by which requests of the tests name `target`.
pub(crate) fn url(target: &str) -> String {
    format!("http://{HOST_NAME}{target}")
}

/// Returns name, labels and value of each sample of a metrics page.
pub(crate) fn samples(text: &str) -> impl Iterator<Item = (&str, &str, f64)> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        (name, labels.trim_end_matches('}'), value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
    })
}

/// A node in this process.
pub(crate) struct Node {
    handle: NodeHandle,
    drain: CancellationToken,
    running: Option<JoinHandle<Drained>>,
    exchange: Arc<Exchange>,
}

impl Deref for Node {
    type Target = NodeHandle;

    fn deref(&self) -> &NodeHandle {
        &self.handle
    }
}

impl Node {
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// Exchanges its configuration for another, or returns why that is refused.
    pub(crate) async fn adopt(&self, builder: &Builder) -> Result<(), String> {
        let config = holm::config::parse("test.toml", &builder.text()).map_err(|error| error.to_string())?;
        let adopted = within("the exchange", self.exchange.adopt(&config)).await;
        adopted.map(drop).map_err(|error| error.to_string())
    }

    /// Drains it and waits until it has stopped.
    pub(crate) async fn stop(mut self) {
        self.drain.cancel();
        if let Some(running) = self.running.take() {
            within("the node draining", running).await.unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.drain.cancel();
    }
}

/// Builds a configuration: one listener, one pool `web`, one route for everything, and what a test adds.
#[derive(Clone)]
pub(crate) struct Builder {
    name: String,
    zone: Option<String>,
    listen: String,
    tables: BTreeMap<String, Vec<String>>,
    routes: Vec<String>,
    mode: String,
    route: String,
    access_log: String,
    memory: String,
    in_step: bool,
    fence_ms: Option<u64>,
}

/// Short, since the first purges of a node wait for it.
const FENCE_MS: u64 = 700;

impl Default for Builder {
    fn default() -> Self {
        let builder = Self {
            name: "n1".to_owned(),
            zone: None,
            listen: String::new(),
            tables: BTreeMap::new(),
            routes: Vec::new(),
            mode: "mode = \"http\"".to_owned(),
            route: String::new(),
            access_log: quoted("off"),
            memory: quoted("16MiB"),
            in_step: false,
            fence_ms: None,
        };
        builder.set("admin", &format!("address = \"127.0.0.1:0\"\nhosts = [{}]", quoted(HOST_NAME)))
    }
}

impl Builder {
    pub(crate) fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sets the node's zone.
    pub(crate) fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(quoted(zone));
        self
    }

    /// Adds lines to a table.
    pub(crate) fn set(mut self, table: &str, lines: &str) -> Self {
        self.tables.entry(table.to_owned()).or_default().push(lines.to_owned());
        self
    }

    /// Sets the URLs of the pool `web`.
    pub(crate) fn endpoints<U: AsRef<str>>(self, urls: &[U]) -> Self {
        let urls: Vec<String> = urls.iter().map(|url| quoted(url.as_ref())).collect();
        self.set("pool.web", &format!("endpoints = [{}]", urls.join(", ")))
    }

    /// Sets the one URL of the pool `web`.
    pub(crate) fn origin(self, url: &str) -> Self {
        self.endpoints(&[url])
    }

    /// Lines for the route that takes everything.
    pub(crate) fn route(mut self, lines: &str) -> Self {
        self.route.push_str(lines);
        self.route.push('\n');
        self
    }

    /// Makes the route that takes everything an `infer` route of this protocol.
    pub(crate) fn infer(mut self, protocol: &str) -> Self {
        self.mode = format!("mode = \"infer\"\nprotocol = {}", quoted(protocol));
        self
    }

    /// Adds a whole route, tried before the one that takes everything.
    pub(crate) fn route_before(mut self, lines: &str) -> Self {
        self.routes.push(lines.to_owned());
        self
    }

    pub(crate) fn memory(mut self, bytes: &str) -> Self {
        self.memory = quoted(bytes);
        self
    }

    pub(crate) fn disk(self, dir: &Path) -> Self {
        let dir = quoted(&dir.display().to_string());
        self.set("cache.disk", &format!("dir = {dir}\nbytes = \"64MiB\""))
    }

    /// Adds a Redis with an ample budget; tests of the budget set their own.
    pub(crate) fn redis(self, redis: &Redis) -> Self {
        self.redis_within(redis, 2000)
    }

    pub(crate) fn redis_within(self, redis: &Redis, budget_ms: u64) -> Self {
        self.redis_at(&redis.url(), budget_ms)
    }

    /// Adds a Redis at this URL.
    pub(crate) fn redis_at(mut self, url: &str, budget_ms: u64) -> Self {
        self.in_step = true;
        let url = quoted(url);
        let breaker = "failures = 3\nopen_ms = 50\nopen_ms_max = 200";
        self.set("cache.redis", &format!("url = {url}\nbudget_ms = {budget_ms}\nvalue_bytes_max = \"4MiB\""))
            .set("cache.redis.breaker", breaker)
            .fence(FENCE_MS)
    }

    /// Sets how long stored responses are served after the region's log was last read.
    pub(crate) fn fence(mut self, ms: u64) -> Self {
        self.fence_ms = Some(ms);
        self
    }

    /// Begins as soon as it is ready, without waiting until it follows the region's purge log.
    pub(crate) fn at_once(mut self) -> Self {
        self.in_step = false;
        self
    }

    pub(crate) fn tls(self, certificate: &Path, key: &Path) -> Self {
        let path = |path: &Path| quoted(&path.display().to_string());
        self.listen(&format!("tls = {{ certificate = {}, key = {} }}", path(certificate), path(key)))
    }

    /// Sets lines for the listener.
    pub(crate) fn listen(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.listen);
        self
    }

    /// Has the listener speak HTTP/3 as well, with this certificate.
    pub(crate) fn http3(self, certificate: &Path, key: &Path) -> Self {
        let mut builder = self.tls(certificate, key);
        builder.listen.push_str("\nhttp3 = true");
        // What systems give without being told to, so that no test says that it got less.
        builder.set("http3", "socket_bytes = \"64KiB\"")
    }

    /// Adds lines to the table of the listener.
    pub(crate) fn listener(mut self, lines: &str) -> Self {
        self.listen.push('\n');
        self.listen.push_str(lines);
        self
    }

    pub(crate) fn policy(self, name: &str, file: &Path, config: &str) -> Self {
        let file = quoted(&file.display().to_string());
        self.set(&format!("policy.{name}"), &format!("file = {file}\nconfig = {config}"))
    }

    pub(crate) fn access_log(mut self, file: &Path) -> Self {
        self.access_log = quoted(&file.display().to_string());
        self
    }

    /// Returns the configuration as a file would have it.
    pub(crate) fn text(&self) -> String {
        let log = self.tables.get("log").map(|lines| lines.join("\n")).unwrap_or_default();
        let zone = self.zone.as_ref().map(|zone| format!("zone = {zone}\n")).unwrap_or_default();
        let mut text = format!("node = {}\n{zone}[log]\naccess = {}\n{log}\n", quoted(&self.name), self.access_log);
        write!(text, "[[listen]]\naddress = \"127.0.0.1:0\"\n{}\n", self.listen).unwrap();
        write!(text, "[cache.memory]\nbytes = {}\n", self.memory).unwrap();
        let mut tables = self.tables.clone();
        if let Some(ms) = self.fence_ms {
            tables.entry("cache.purge".to_owned()).or_default().push(format!("fence_ms = {ms}"));
        }
        for (table, lines) in tables.iter().filter(|(table, _)| *table != "log") {
            write!(text, "[{table}]\n{}\n", lines.join("\n")).unwrap();
        }
        for route in &self.routes {
            write!(text, "[[route]]\n{route}\n").unwrap();
        }
        let (mode, route) = (&self.mode, &self.route);
        write!(text, "[[route]]\nname = \"all\"\npath = \"/\"\npool = \"web\"\n{mode}\n{route}\n").unwrap();
        text
    }

    /// Starts it in this process.
    pub(crate) async fn start(&self) -> Node {
        match self.try_start().await {
            Ok(node) => node,
            Err(error) => panic!("{error}\n{}", self.text()),
        }
    }

    /// Starts it in this process, or returns why it doesn't start.
    pub(crate) async fn try_start(&self) -> Result<Node, String> {
        let node = self.launch().await?;
        eventually("/readyz", async || node.admin("/readyz").send().await.status == 200).await;
        self.settle(&node).await;
        Ok(node)
    }

    /// Starts it in this process, and doesn't wait until it is ready.
    pub(crate) async fn launch(&self) -> Result<Node, String> {
        let config = holm::config::parse("test.toml", &self.text()).map_err(|error| error.to_string())?;
        let starting = within("the node starting", Box::pin(App::start(config)));
        let app = starting.await.map_err(|error| format!("{error} {error:?}"))?;
        let admin = app.admin().expect("tests have an admin address");
        let handle = NodeHandle { address: app.addresses()[0], admin };
        let (drain, exchange) = (CancellationToken::new(), app.exchange());
        let running = Some(tokio::spawn(app.run(drain.clone())));
        Ok(Node { handle, drain, running, exchange })
    }

    /// Waits until a node with a region follows its purge log, and the world's if it has one: before that it has a log of
    /// its own, and whatever it stores is doubtful as soon as it joins the region's.
    async fn settle(&self, handle: &NodeHandle) {
        if !self.in_step {
            return;
        }
        eventually("following the world's purge log", async || {
            handle.metric("holm_cache_purge_world_in_step", "").await > 0.5
        })
        .await;
        let nothing = json!({"tag": "nothing has this tag", "scope": "region"});
        eventually("following the purge log", async || {
            let response = handle.try_purge(&nothing).await;
            let applied = response.json()["applied"].clone();
            response.status == 200
                && applied.as_array().is_some_and(|names| names.iter().any(|name| *name == self.name))
        })
        .await;
    }

    /// Starts it in a process of its own.
    pub(crate) async fn spawn(&self) -> Process {
        let process = Process::serve(&self.text()).await;
        self.settle(&process).await;
        process
    }

    /// Starts it in a process of its own, whose log these directives filter.
    pub(crate) async fn spawn_logging(&self, directives: &str) -> Process {
        let process = Process::serve_logging(&self.text(), directives).await;
        self.settle(&process).await;
        process
    }
}
