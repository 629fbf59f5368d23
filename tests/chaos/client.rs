//! Clients: they send requests, remember the responses, revalidate them, write, and purge. What they see goes
//! into the history.

use std::{collections::HashMap, fmt::Write as _, io, net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use fastrand::Rng;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    catalogue::{HOST, LANGUAGES, Resource, Sort, TENANTS},
    history::{Event, History, Purge, Request, Scope, Seen, Write},
    stamp::Stamp,
    wire::{Head, Wire},
};

/// The time that a client waits for a response; longer than most faults, so that a node that stood still can send its
/// response when it goes on.
const PATIENCE: Duration = Duration::from_secs(8);
/// The time that a purge may take: its own limit in the node, and something for the network.
const PURGE_PATIENCE: Duration = Duration::from_secs(10);
/// Between two requests of a client, at most.
const PAUSE_MS_MAX: u64 = 25;

/// The addresses of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// The addresses of each node; none of a node that is down.
pub(crate) struct Places(Mutex<Vec<Option<Place>>>);

impl Places {
    pub(crate) fn of(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![None; count])))
    }

    pub(crate) fn set(&self, node: usize, place: Option<Place>) {
        self.0.lock()[node] = place;
    }

    pub(crate) fn get(&self, node: usize) -> Option<Place> {
        self.0.lock()[node]
    }
}

/// The knowledge that clients share of a region.
#[derive(Clone)]
pub(crate) struct Region {
    pub(crate) history: Arc<History>,
    pub(crate) places: Arc<Places>,
    pub(crate) resources: Arc<[Resource]>,
}

/// A client of one node.
pub(crate) struct Client {
    region: Region,
    name: String,
    node: usize,
    rng: Rng,
    /// The last version that it was given of each key.
    has: HashMap<String, u64>,
    wire: Option<(SocketAddr, Wire)>,
}

/// How a response is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// From the cache or not.
    Any,
    /// From the origin.
    Anew,
    /// Only if it isn't this version.
    Unless(u64),
}

/// A request to be sent.
struct Plan {
    resource: usize,
    key: String,
    fields: String,
    reload: bool,
    condition: Option<u64>,
}

impl Client {
    pub(crate) fn new(region: &Region, number: usize, node: usize, seed: u64) -> Self {
        let rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9).wrapping_add(number as u64));
        let (region, name) = (region.clone(), format!("c{number}"));
        Self { region, name, node, rng, has: HashMap::new(), wire: None }
    }

    /// Asks one thing after the other.
    pub(crate) async fn run(mut self, until: Instant) {
        while Instant::now() < until {
            let plan = self.draw();
            self.ask(plan).await;
            sleep(Duration::from_millis(self.rng.u64(..=PAUSE_MS_MAX))).await;
        }
    }

    /// Asks once for what this path and `select` name, and returns what came.
    pub(crate) async fn get(&mut self, path: &str, select: &str, wish: Wish) -> Seen {
        let at = self.region.resources.iter().position(|resource| resource.path == path);
        let at = at.unwrap_or_else(|| panic!("the origin has no {path}"));
        let known = match wish {
            Wish::Unless(version) => Some(version),
            Wish::Any | Wish::Anew => None,
        };
        let plan = self.plan(at, select, wish == Wish::Anew, known);
        self.ask(plan).await
    }

    fn draw(&mut self) -> Plan {
        let at = self.rng.usize(..self.region.resources.len());
        let resource = &self.region.resources[at];
        // Long bodies are requested less often: a few are enough, and the machine has better to do.
        let at = if resource.length > 1 << 20 && self.rng.u32(..8) > 0 { 0 } else { at };
        let resource = &self.region.resources[at];
        let select = match resource.sort {
            Sort::Tenant => TENANTS[self.rng.usize(..TENANTS.len())],
            Sort::Vary => LANGUAGES[self.rng.usize(..LANGUAGES.len())],
            _ => "",
        };
        let reload = self.rng.u32(..32) == 0;
        let known = self.has.get(&resource.key(select)).filter(|_| self.rng.u32(..4) == 0).copied();
        self.plan(at, select, reload, known)
    }

    /// A request; it is conditional if the client knows a version of what has a validator.
    fn plan(&self, at: usize, select: &str, reload: bool, known: Option<u64>) -> Plan {
        let resource = &self.region.resources[at];
        let key = resource.key(select);
        let mut fields = format!("x-client: {}\r\n", self.name);
        match resource.sort {
            Sort::Tenant => write!(fields, "x-tenant: {select}\r\n").unwrap(),
            Sort::Vary => write!(fields, "accept-language: {select}\r\n").unwrap(),
            Sort::Authorized => write!(fields, "authorization: Bearer {}\r\n", self.name).unwrap(),
            _ => {}
        }
        if reload {
            fields += "cache-control: no-cache\r\n";
        }
        let condition = known.and_then(|version| Some((version, resource.condition(&key, version)?)));
        let condition = condition.map(|(version, field)| {
            fields += &field;
            version
        });
        Plan { resource: at, key, fields, reload, condition }
    }

    async fn ask(&mut self, plan: Plan) -> Seen {
        let Some(place) = self.region.places.get(self.node) else { return Seen::default() };
        let history = Arc::clone(&self.region.history);
        let path = &self.region.resources[plan.resource].path;
        let text = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n{}\r\n", plan.fields);
        let id = history.id();
        let sent = history.now();
        let seen = match timeout(PATIENCE, self.exchange(place.public, &text)).await {
            Ok(Ok(seen)) => seen,
            // It broke off before there was a head, or the client gave up: nobody takes that for a response.
            Ok(Err(_)) | Err(_) => Seen::default(),
        };
        let received = history.now();
        if !seen.whole {
            self.wire = None;
        }
        if let (Some(stamp), true) = (&seen.stamp, seen.status == 200 && seen.whole && seen.sound) {
            self.has.insert(plan.key.clone(), stamp.version);
        }
        let Plan { key, reload, condition, .. } = plan;
        let (client, node) = (self.name.clone(), self.node);
        let request = Request { id, client, node, key, reload, condition, sent, received, seen: seen.clone() };
        history.push(Event::Request(request));
        seen
    }

    async fn exchange(&mut self, address: SocketAddr, text: &str) -> io::Result<Seen> {
        let open = self.wire.take().filter(|(known, _)| *known == address);
        let mut wire = match open {
            Some((_, wire)) => wire,
            None => Wire::connect(address).await?,
        };
        wire.send(text.as_bytes()).await?;
        let (head, bytes, whole) = response(&mut wire).await?;
        let stamp = Stamp::read(&bytes);
        let sound = stamp.as_ref().is_some_and(|stamp| stamp.proves(&bytes));
        let field = |name: &str| head.get(name).map(str::to_owned);
        let (etag, cache, age) = (field("etag"), field("cache-status"), field("age"));
        let closes = head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if whole && !closes {
            self.wire = Some((address, wire));
        }
        Ok(Seen { status: head.status()?, whole, stamp, sound, etag, cache, age })
    }
}

/// A whole response, or what came of it.
async fn response(wire: &mut Wire) -> io::Result<(Head, Vec<u8>, bool)> {
    let head = wire.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let received = wire.body(head.response_framing()?).await;
    Ok((head, received.bytes, received.whole))
}

/// Sends one request over a connection of its own; `None` if no whole response came.
async fn once(address: SocketAddr, text: &str, patience: Duration) -> Option<(Head, Vec<u8>)> {
    let exchange = async {
        let mut wire = Wire::connect(address).await?;
        wire.send(text.as_bytes()).await?;
        let (head, bytes, whole) = response(&mut wire).await?;
        Ok::<_, io::Error>(whole.then_some((head, bytes)))
    };
    timeout(patience, exchange).await.ok()?.ok()?
}

/// Posts JSON to an admin API.
pub(crate) async fn command(admin: SocketAddr, target: &str, body: &Value) -> Option<(u16, Value)> {
    let body = body.to_string();
    let length = body.len();
    let text = format!(
        "POST {target} HTTP/1.1\r\nhost: {admin}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let (head, bytes) = once(admin, &text, PURGE_PATIENCE).await?;
    Some((head.status().ok()?, serde_json::from_slice(&bytes).unwrap_or_default()))
}

/// The status of a GET.
pub(crate) async fn status(address: SocketAddr, target: &str) -> Option<u16> {
    head(address, target).await?.status().ok()
}

/// The time by a node's clock, in seconds since the Unix epoch, as its admin API says it.
pub(crate) async fn clock(admin: SocketAddr) -> Option<u64> {
    let date = httpdate::parse_http_date(head(admin, "/readyz").await?.get("date")?).ok()?;
    Some(holm::clock::Timestamp::from(date).seconds())
}

/// The head of the response to a GET.
async fn head(address: SocketAddr, target: &str) -> Option<Head> {
    let text = format!("GET {target} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    once(address, &text, PATIENCE).await.map(|(head, _)| head)
}

/// Purges through a node, and returns whether that is complete. `hex` is the cache key of what [`Scope::Key`] names.
/// `nodes` are those of the node's region, if the purge is for them alone; else it is as wide as the node is configured.
pub(crate) async fn purge(
    region: &Region,
    node: usize,
    scope: Scope,
    hex: Option<&str>,
    soft: bool,
    nodes: Option<Range<usize>>,
) -> bool {
    let Some(place) = region.places.get(node) else { return false };
    let mut body = match &scope {
        Scope::Url(path) => json!({"url": format!("http://{HOST}{path}"), "soft": soft}),
        Scope::Tag(tag) => json!({"tag": tag, "soft": soft}),
        Scope::Key(_) => json!({"key": hex, "soft": soft}),
    };
    if nodes.is_some() {
        body["scope"] = json!("region");
    }
    let sent = region.history.now();
    let (status, report) = command(place.admin, "/purge", &body).await.unwrap_or_default();
    let done = region.history.now();
    let complete = status == 200 && report["complete"] == json!(true);
    let applied = report["applied"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let applied = applied.map(str::to_owned).collect();
    region.history.push(Event::Purge(Purge { node, scope, soft, sent, done, status, complete, applied, nodes }));
    complete
}

/// Sends an unsafe method through a node.
pub(crate) async fn write(region: &Region, node: usize, url: &str, method: &str) {
    let Some(place) = region.places.get(node) else { return };
    let id = region.history.id();
    let tenant = TENANTS[0];
    let text = format!(
        "{method} {url} HTTP/1.1\r\nhost: {HOST}\r\nx-write: {id}\r\nx-tenant: {tenant}\r\ncontent-length: 6\r\n\r\nchange"
    );
    let sent = region.history.now();
    let response = once(place.public, &text, PATIENCE).await;
    let status = response.and_then(|(head, _)| head.status().ok()).unwrap_or(0);
    let done = region.history.now();
    let (url, method) = (url.to_owned(), method.to_owned());
    region.history.push(Event::Write(Write { id, node, url, method, sent, done, status }));
}
