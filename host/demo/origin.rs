//! The embedded origin: the model server and the web site behind one loopback socket, counting what they do.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    model::{Accelerator, Call, Refusal},
    site::Site,
    workload::EMBEDDINGS,
};

/// Open connections; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// Bytes of a request body.
const BODY_BYTES_MAX: usize = 16 << 20;
/// What rendering a page takes.
pub(super) const RENDER_COST: Duration = Duration::from_millis(2);
/// From the end of one request to the end of the next one's header section. Longer than holm keeps an idle connection,
/// so that it is holm that closes.
const HEADERS: Duration = Duration::from_secs(120);
/// Before the next accept after a failed one, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A running origin.
#[derive(Debug)]
pub(super) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

/// What the origin did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests for the site.
    pub(super) pages: u64,
    /// Calls of the model, each of them one batch for its accelerator.
    pub(super) batches: u64,
    /// Items in those batches.
    pub(super) items: u64,
    /// Items of the largest one.
    pub(super) batch_items_max: u64,
    /// Bytes of response bodies.
    pub(super) body_bytes: u64,
}

#[derive(Debug)]
struct Shared {
    site: Site,
    accelerator: Mutex<Accelerator>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    pages: AtomicU64,
    batches: AtomicU64,
    items: AtomicU64,
    batch_items_max: AtomicU64,
    body_bytes: AtomicU64,
}

impl Origin {
    /// Listens on a free loopback port and begins to serve.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { site: Site::new(), accelerator: Mutex::default(), counters: Counters::default() });
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        Ok(Self { address, shared, stop, accepting })
    }

    /// Where it listens.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The site's paths, the most popular first.
    pub(super) fn paths(&self) -> Vec<String> {
        self.shared.site.paths()
    }

    /// What it did since this was read last.
    pub(super) fn take_counts(&self) -> Counts {
        let counters = &self.shared.counters;
        Counts {
            pages: counters.pages.swap(0, Relaxed),
            batches: counters.batches.swap(0, Relaxed),
            items: counters.items.swap(0, Relaxed),
            batch_items_max: counters.batch_items_max.swap(0, Relaxed),
            body_bytes: counters.body_bytes.swap(0, Relaxed),
        }
    }

    /// Stops listening and cuts what is open.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        // Its only failure is a panic, which the runtime has reported already.
        let _ = self.accepting.await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            // The semaphore is never closed, so there is always a permit to come.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let Some((slot, accepted)) = stop.run_until_cancelled(next).await else { return };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, Arc::clone(&shared), stop.clone(), slot));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, stop: CancellationToken, _slot: Option<OwnedSemaphorePermit>) {
    // Without it responses are only later, not wrong.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.respond(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off is no failure here; it counts the missing response itself.
    let _ = stop.run_until_cancelled(connection).await;
}

impl Shared {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let response =
            if head.uri.path() == EMBEDDINGS { self.call(&head.method, body).await } else { self.page(&head).await };
        self.counters.body_bytes.fetch_add(response.body().size_hint().lower(), Relaxed);
        response
    }

    async fn page(&self, head: &request::Parts) -> Response<Full<Bytes>> {
        self.counters.pages.fetch_add(1, Relaxed);
        tokio::time::sleep(RENDER_COST).await;
        self.site.respond(&head.method, head.uri.path(), &head.headers)
    }

    async fn call(&self, method: &Method, body: Incoming) -> Response<Full<Bytes>> {
        let (status, body) = if method == Method::POST {
            match self.infer(body).await {
                Ok(body) => (StatusCode::OK, body),
                Err(refusal) => (refusal.status(), refusal.body()),
            }
        } else {
            (StatusCode::METHOD_NOT_ALLOWED, Bytes::new())
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    async fn infer(&self, body: Incoming) -> Result<Bytes, Refusal> {
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|_| Refusal::Body)?.to_bytes();
        let call = Call::parse(&body)?;
        let done = self.accelerator.lock().take(call.items(), Instant::now()).ok_or(Refusal::Busy)?;
        self.counters.batch(call.items() as u64);
        let response = call.respond();
        tokio::time::sleep_until(done.into()).await;
        Ok(response)
    }
}

impl Counters {
    fn batch(&self, items: u64) {
        self.batches.fetch_add(1, Relaxed);
        self.items.fetch_add(items, Relaxed);
        self.batch_items_max.fetch_max(items, Relaxed);
    }
}
