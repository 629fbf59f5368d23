//! The origin: it stamps a version on everything it sends, changes its resources, records what it sent and when, and
//! lies when the schedule says so.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::{
    catalogue::{self, Resource, Sort},
    history::{Change, Event, Exchange, History, Micros},
    stamp::Stamp,
    wire::{Head, Wire},
};

/// Faults of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Half of the stated length, then the end.
    Short,
    /// Half of it in chunks, then the end without a last chunk.
    Unfinished,
    /// The stated length, then bytes that are no response.
    Long,
    /// The head comes late.
    Late,
    /// The body comes in drops.
    Drops,
    /// An error.
    Error,
    /// The connection is closed without a word.
    Silence,
}

const LIES: [Lie; 7] = [Lie::Short, Lie::Unfinished, Lie::Long, Lie::Late, Lie::Drops, Lie::Error, Lie::Silence];

/// A running origin.
pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    history: Arc<History>,
    resources: HashMap<String, Resource>,
    versions: Mutex<HashMap<String, u64>>,
    /// Draws lies; which request gets which doesn't follow from the seed.
    rng: Mutex<Rng>,
    /// Share of the responses, in percent, that are lies.
    lying: AtomicU64,
    /// The path of what breaks off in the middle of the body.
    breaking: Mutex<Option<String>>,
    under_way: AtomicUsize,
}

/// A GET, read.
struct GetRequest<'r> {
    resource: &'r Resource,
    key: String,
    client: String,
    head: Head,
    from: Micros,
}

impl Origin {
    pub(crate) async fn start(history: &Arc<History>, resources: &[Resource], seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            history: Arc::clone(history),
            resources: resources.iter().map(|resource| (resource.path.clone(), resource.clone())).collect(),
            versions: Mutex::default(),
            rng: Mutex::new(Rng::with_seed(seed ^ 0x11e5)),
            lying: AtomicU64::new(0),
            breaking: Mutex::default(),
            under_way: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this resource has another version.
    pub(crate) fn change(&self, path: &str) {
        self.shared.change(path);
    }

    /// From now on so many responses of a hundred are lies.
    pub(crate) fn lie(&self, percent: u64) {
        self.shared.lying.store(percent, Ordering::Relaxed);
    }

    /// From now on responses with the body of this path break off in the middle; none do without a path.
    pub(crate) fn break_off(&self, path: Option<&str>) {
        *self.shared.breaking.lock() = path.map(str::to_owned);
    }

    /// Waits until what is under way has been recorded, within a limit.
    pub(crate) async fn settle(&self) {
        for _ in 0..200 {
            if self.shared.under_way.load(Ordering::Acquire) == 0 {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // A node that goes away, or one that was lied to, isn't this origin's business.
            let _ = converse(stream, &shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wire = Wire::new(stream);
    while let Some(head) = wire.head().await? {
        let _counted = Counted::one(&shared.under_way);
        let from = shared.history.now();
        wire.body(head.request_framing()?).await;
        let (method, target) = head.request()?;
        let (method, target) = (method.to_owned(), target.to_owned());
        match shared.resources.get(&target) {
            None => wire.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await?,
            Some(resource) if method == "GET" => {
                let (key, client) = (key(resource, &head), head.get("x-client").unwrap_or("-").to_owned());
                shared.serve(&mut wire, GetRequest { resource, key, client, head, from }).await?;
            }
            Some(_) => shared.write(&mut wire, &head, &target).await?,
        }
    }
    Ok(())
}

fn key(resource: &Resource, head: &Head) -> String {
    let field = match resource.sort {
        Sort::Tenant => "x-tenant",
        Sort::Vary => "accept-language",
        _ => return resource.path.clone(),
    };
    resource.key(head.get(field).unwrap_or_default())
}

/// Counts an exchange for as long as it lasts.
struct Counted<'c>(&'c AtomicUsize);

impl<'c> Counted<'c> {
    fn one(count: &'c AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    fn change(&self, path: &str) -> u64 {
        let mut versions = self.versions.lock();
        let version = versions.entry(path.to_owned()).or_insert(1);
        *version += 1;
        *version
    }

    fn version(&self, path: &str) -> u64 {
        *self.versions.lock().entry(path.to_owned()).or_insert(1)
    }

    /// An unsafe method: the resource changes before the response is sent.
    async fn write(&self, wire: &mut Wire, head: &Head, target: &str) -> io::Result<()> {
        self.change(target);
        let at = self.history.now();
        let write = head.get("x-write").and_then(|number| number.parse().ok()).unwrap_or(0);
        self.history.push(Event::Change(Change { write, at }));
        let response: &[u8] = match write % 4 {
            0 => b"HTTP/1.1 204 No Content\r\n\r\n",
            1 => b"HTTP/1.1 303 See Other\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            2 => b"HTTP/1.1 201 Created\r\ncontent-length: 4\r\n\r\ndone",
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone",
        };
        wire.send(response).await
    }

    /// A GET. Each response that isn't shared has a version of its own.
    async fn serve(&self, wire: &mut Wire, request: GetRequest<'_>) -> io::Result<()> {
        let path = &request.resource.path;
        let shared = request.resource.sort.is_shared();
        let lie = if self.breaks_off(path) { Some(Lie::Short) } else { self.draw() };
        match lie {
            Some(Lie::Late) => {
                let wait_ms = 100 + self.rng.lock().u64(..1200);
                sleep(Duration::from_millis(wait_ms)).await;
            }
            Some(Lie::Silence) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Some(Lie::Error) => {
                wire.send(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 6\r\n\r\nerror\n").await?;
                return Ok(());
            }
            _ => {}
        }
        let version = if shared { self.version(path) } else { self.change(path) };
        let unchanged = shared && has(&request, version);
        let end =
            if unchanged { confirm(wire, &request, version).await } else { send(wire, &request, version, lie).await };
        let status = if unchanged { 304 } else { 200 };
        let whole = end.is_ok() && (unchanged || !matches!(lie, Some(Lie::Short | Lie::Unfinished)));
        let until = self.history.now();
        let from = request.from;
        self.history.push(Event::Exchange(Exchange { key: request.key, version, status, whole, from, until }));
        match lie {
            Some(Lie::Short | Lie::Unfinished | Lie::Long) if !unchanged => {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            _ => end,
        }
    }

    fn breaks_off(&self, path: &str) -> bool {
        self.breaking.lock().as_deref() == Some(path)
    }

    fn draw(&self) -> Option<Lie> {
        let percent = self.lying.load(Ordering::Relaxed);
        let mut rng = self.rng.lock();
        (rng.u64(..100) < percent).then(|| LIES[rng.usize(..LIES.len())])
    }
}

/// Whether the request's condition names this version.
fn has(request: &GetRequest<'_>, version: u64) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    if let (Some(tags), Some(ours)) = (request.head.get("if-none-match"), request.resource.etag(&request.key, version))
    {
        return tags.split(',').any(|tag| opaque(tag) == opaque(&ours));
    }
    let since = request.head.get("if-modified-since").and_then(catalogue::version_of);
    since.is_some_and(|since| since >= version)
}

async fn confirm(wire: &mut Wire, request: &GetRequest<'_>, version: u64) -> io::Result<()> {
    let fields = request.resource.fields(&request.key, version);
    wire.send(format!("HTTP/1.1 304 Not Modified\r\ndate: {}\r\n{fields}\r\n", date()).as_bytes()).await
}

async fn send(wire: &mut Wire, request: &GetRequest<'_>, version: u64, lie: Option<Lie>) -> io::Result<()> {
    let to = if request.resource.sort.is_shared() { "-".to_owned() } else { request.client.clone() };
    let body = Stamp { key: request.key.clone(), version, to, length: request.resource.length }.body();
    let fields = request.resource.fields(&request.key, version);
    let start = format!("HTTP/1.1 200 OK\r\ndate: {}\r\n{fields}", date());
    let chunked = lie == Some(Lie::Unfinished) || lie.is_none() && version.is_multiple_of(3);
    if chunked {
        wire.send(format!("{start}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?;
        let (first, second) = body.split_at(body.len() / 2);
        wire.send(&chunk(first)).await?;
        if lie.is_some() {
            return Ok(());
        }
        wire.send(&chunk(second)).await?;
        return wire.send(b"0\r\n\r\n").await;
    }
    wire.send(format!("{start}content-length: {}\r\n\r\n", body.len()).as_bytes()).await?;
    match lie {
        Some(Lie::Short) => wire.send(&body[..body.len() / 2]).await,
        Some(Lie::Long) => wire.send(&[&body[..], &b"and more than that"[..]].concat()).await,
        Some(Lie::Drops) => {
            for drop in body.chunks(body.len() / 8 + 1) {
                wire.send(drop).await?;
                sleep(Duration::from_millis(60)).await;
            }
            Ok(())
        }
        _ => wire.send(&body).await,
    }
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, &b"\r\n"[..]].concat()
}

fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}
