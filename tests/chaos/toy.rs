//! A naive cache with a switch for each bug that the checker must be able to find. It stands where a node stands, so
//! that clients, purges and checker are the same as in a real run.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    catalogue::{HOST, Resource, Sort},
    client::{Place, Places},
    wire::{Head, Wire},
};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Purges are acknowledged and forgotten.
    IgnoresPurges,
    /// Unsafe methods leave what is stored alone.
    IgnoresWrites,
    /// The tenant isn't in the key.
    MixesTenants,
    /// What is stored is served without its end, as if it were whole.
    Tears,
    /// What is stored lives for ever.
    IgnoresMaxAge,
    /// Every condition is answered with 304.
    ConfirmsAnything,
    /// `private`, `no-store`, `Set-Cookie` and `Authorization` mean nothing.
    SharesPrivate,
}

/// A stored response.
#[derive(Clone)]
struct Stored {
    url: String,
    fields: String,
    etag: Option<String>,
    modified: Option<String>,
    tags: Vec<String>,
    bytes: Vec<u8>,
    /// Before its request was sent.
    begun: Instant,
    life: Duration,
}

/// A running toy.
pub(crate) struct Toy {
    task: JoinHandle<()>,
    admin: JoinHandle<()>,
}

struct Shared {
    origin: SocketAddr,
    bug: Option<Bug>,
    resources: Arc<[Resource]>,
    stored: Mutex<HashMap<String, Stored>>,
    /// When what was purged: a URL or a tag.
    purged: Mutex<HashMap<String, Instant>>,
}

impl Toy {
    /// Starts one as node 0.
    pub(crate) async fn start(
        origin: SocketAddr,
        bug: Option<Bug>,
        resources: &Arc<[Resource]>,
        places: &Places,
    ) -> Self {
        let (public, admin) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let place = Place { public: public.local_addr().unwrap(), admin: admin.local_addr().unwrap() };
        let (stored, purged) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { origin, bug, resources: Arc::clone(resources), stored, purged });
        let task = tokio::spawn(accept(public, Arc::clone(&shared), false));
        let admin = tokio::spawn(accept(admin, shared, true));
        places.set(0, Some(place));
        Self { task, admin }
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.task.abort();
        self.admin.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, is_admin: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A connection that breaks is its client's to notice.
            let _ = converse(stream, &shared, is_admin).await;
        });
    }
}

async fn converse(stream: TcpStream, shared: &Shared, is_admin: bool) -> io::Result<()> {
    let mut wire = Wire::new(stream);
    while let Some(head) = wire.head().await? {
        let body = wire.body(head.request_framing()?).await.bytes;
        let reply = if is_admin { shared.purge(&body) } else { shared.answer(&head, &body).await? };
        wire.send(&reply).await?;
    }
    Ok(())
}

impl Shared {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn purge(&self, body: &[u8]) -> Vec<u8> {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let url = body["url"].as_str().and_then(|url| url.strip_prefix("http://")?.strip_prefix(HOST));
        if let (Some(what), false) = (url.or(body["tag"].as_str()), self.has(Bug::IgnoresPurges)) {
            self.purged.lock().insert(what.to_owned(), Instant::now());
        }
        let said = json!({"complete": true, "applied": ["toy"]}).to_string();
        whole("200 OK", "", said.as_bytes())
    }

    async fn answer(&self, head: &Head, body: &[u8]) -> io::Result<Vec<u8>> {
        let (method, target) = head.request()?;
        if method != "GET" {
            let reply = self.fetch(head, body).await?.0;
            if !self.has(Bug::IgnoresWrites) {
                self.purged.lock().insert(target.to_owned(), Instant::now());
            }
            return Ok(reply);
        }
        let key = self.key(head, target);
        let reload = head.get("cache-control").is_some();
        let known = self.stored.lock().get(&key).filter(|stored| self.is_good(stored) && !reload).cloned();
        if let Some(stored) = known {
            return Ok(self.hit(head, &stored));
        }
        let begun = Instant::now();
        let (reply, response, bytes) = self.fetch(head, body).await?;
        let resource = self.resources.iter().find(|resource| resource.path == target);
        if let (200, Some(resource)) = (response.status()?, resource)
            && (resource.sort.is_shared() || self.has(Bug::SharesPrivate))
        {
            let field = |name: &str| response.get(name).map(str::to_owned);
            let stored = Stored {
                url: target.to_owned(),
                fields: response.end_to_end(),
                etag: field("etag"),
                modified: field("last-modified"),
                tags: resource.tags.clone(),
                bytes,
                begun,
                life: Duration::from_secs(resource.ttl_s),
            };
            self.stored.lock().insert(key, stored);
        }
        Ok(reply)
    }

    fn key(&self, head: &Head, target: &str) -> String {
        let resource = self.resources.iter().find(|resource| resource.path == target);
        let field = match resource.map(|resource| resource.sort) {
            Some(Sort::Tenant) if !self.has(Bug::MixesTenants) => "x-tenant",
            Some(Sort::Vary) => "accept-language",
            _ => return target.to_owned(),
        };
        format!("{target}#{}", head.get(field).unwrap_or_default())
    }

    fn is_good(&self, stored: &Stored) -> bool {
        let purged = self.purged.lock();
        let mut names = stored.tags.iter().chain([&stored.url]);
        let is_purged = names.any(|name| purged.get(name).is_some_and(|at| *at >= stored.begun));
        let is_fresh = stored.begun.elapsed() < stored.life || self.has(Bug::IgnoresMaxAge);
        is_fresh && !is_purged
    }

    fn hit(&self, head: &Head, stored: &Stored) -> Vec<u8> {
        let same = |name: &str, ours: &Option<String>| ours.is_some() && head.get(name) == ours.as_deref();
        let has_condition = head.get("if-none-match").or(head.get("if-modified-since")).is_some();
        let confirms_anything = self.has(Bug::ConfirmsAnything) && has_condition;
        if confirms_anything || same("if-none-match", &stored.etag) || same("if-modified-since", &stored.modified) {
            return whole("304 Not Modified", &stored.fields, b"");
        }
        let end = if self.has(Bug::Tears) { stored.bytes.len() * 3 / 4 } else { stored.bytes.len() };
        whole("200 OK", &stored.fields, &stored.bytes[..end])
    }

    /// Asks the origin: the response as it is sent on, its head and its body.
    async fn fetch(&self, head: &Head, body: &[u8]) -> io::Result<(Vec<u8>, Head, Vec<u8>)> {
        let mut wire = Wire::connect(self.origin).await?;
        let (first, fields) = (&head.first, head.end_to_end());
        wire.send(format!("{first}\r\n{fields}content-length: {}\r\n\r\n", body.len()).as_bytes()).await?;
        wire.send(body).await?;
        let response = wire.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let received = wire.body(response.response_framing()?).await;
        if !received.whole {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = response.first.strip_prefix("HTTP/1.1 ").unwrap_or_default();
        Ok((whole(line, &response.end_to_end(), &received.bytes), response, received.bytes))
    }
}

/// A response that claims to be whole.
fn whole(status: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let framing = match status.get(..3) {
        Some("204" | "304") => String::new(),
        _ => format!("content-length: {}\r\n", body.len()),
    };
    [format!("HTTP/1.1 {status}\r\n{fields}{framing}\r\n").as_bytes(), body].concat()
}
