//! The clients: they send a plan over real sockets and keep-alive connections, and measure what comes back.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use blake3::Hash;
use bytes::Bytes;
use http::{Request, StatusCode, header, response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use thiserror::Error;
use tokio::{net::TcpStream, sync::Barrier, task::JoinSet, time::timeout};

use super::{
    response::{Tally, embeddings_meaning, page_meaning},
    workload::{Ask, CLIENTS, Pace, Phase, Plan},
};

/// How long one response may take, to its last byte.
const RESPONSE_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of one response's body.
const RESPONSE_BYTES_MAX: usize = 16 << 20;

/// What became of a plan.
#[derive(Debug)]
pub(super) struct Run {
    /// One for each of the plan's requests, in its order.
    pub(super) outcomes: Vec<Outcome>,
    /// From the first request to the last response.
    pub(super) wall: Duration,
}

/// What became of a request.
pub(super) type Outcome = Result<Received, Failure>;

/// A whole response.
#[derive(Debug)]
pub(super) struct Received {
    /// Its status.
    pub(super) status: StatusCode,
    /// Equal for responses that mean the same.
    pub(super) meaning: Hash,
    /// From the request to the last byte.
    pub(super) latency: Duration,
    /// Where it came from, by its own account.
    pub(super) tally: Tally,
}

/// Why there is no response.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    /// The request can't be written.
    #[error("not a request: {0}")]
    Request(#[source] http::Error),
    /// The connection broke.
    #[error("the connection failed: {0}")]
    Connection(#[source] hyper::Error),
    /// The body broke off or was too large.
    #[error("no whole body: {0}")]
    Body(String),
    /// It took too long.
    #[error("no whole response within {} s", RESPONSE_TIME_MAX.as_secs())]
    Slow,
    /// Its client ended before it came to it.
    #[error("never asked")]
    NotAsked,
}

/// Sends the whole plan to `target`.
pub(super) async fn drive(plan: &Arc<Plan>, target: SocketAddr, progress: &ProgressBar) -> Run {
    let crew = Arc::new(Crew {
        plan: Arc::clone(plan),
        next: plan.phases.iter().map(|phase| AtomicUsize::new(phase.asks.start)).collect(),
        start: Barrier::new(CLIENTS),
        target,
        progress: progress.clone(),
    });
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(work(number, Arc::clone(&crew)));
    }
    let begun = Instant::now();
    let mut outcomes: Vec<Outcome> = plan.asks.iter().map(|_| Err(Failure::NotAsked)).collect();
    while let Some(client) = clients.join_next().await {
        // Of a client that could not end, the runtime reports why, and its requests stay `NotAsked`.
        for (index, outcome) in client.unwrap_or_default() {
            outcomes[index] = outcome;
        }
    }
    Run { outcomes, wall: begun.elapsed() }
}

/// What the clients share.
struct Crew {
    plan: Arc<Plan>,
    /// The next request of each phase.
    next: Vec<AtomicUsize>,
    /// All clients begin a phase together.
    start: Barrier,
    target: SocketAddr,
    progress: ProgressBar,
}

impl Crew {
    /// The index of the next request for a client that has had `had` of this phase.
    fn take(&self, phase: &Phase, next: &AtomicUsize, client: usize, had: usize) -> Option<usize> {
        let index = match phase.pace {
            Pace::Burst if had > 0 => return None,
            Pace::Burst => phase.asks.start + client,
            Pace::Spread => next.fetch_add(1, Relaxed),
        };
        (index < phase.asks.end).then_some(index)
    }
}

async fn work(number: usize, crew: Arc<Crew>) -> Vec<(usize, Outcome)> {
    let mut connection = Connection { target: crew.target, sender: None };
    // A connection that can't be opened now is tried again, and its failure counted, by the first request.
    let _ = connection.sender().await;
    let mut outcomes = Vec::new();
    for (phase, next) in crew.plan.phases.iter().zip(&crew.next) {
        crew.start.wait().await;
        let mut had = 0;
        while let Some(index) = crew.take(phase, next, number, had) {
            outcomes.push((index, connection.ask(&crew.plan.asks[index]).await));
            crew.progress.inc(1);
            had += 1;
        }
    }
    outcomes
}

/// One keep-alive connection.
struct Connection {
    target: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    async fn ask(&mut self, ask: &Ask) -> Outcome {
        let request = request(ask, self.target).map_err(Failure::Request)?;
        let begun = Instant::now();
        let exchanged = timeout(RESPONSE_TIME_MAX, self.exchange(request)).await.unwrap_or(Err(Failure::Slow));
        let latency = begun.elapsed();
        // After a failure nobody knows what is still in the pipe.
        let (head, body) = exchanged.inspect_err(|_| self.sender = None)?;
        let status = head.headers.get_all("cache-status").iter().next_back().and_then(|value| value.to_str().ok());
        Ok(Received {
            status: head.status,
            meaning: if ask.is_call() { embeddings_meaning(&body) } else { page_meaning(&body) },
            latency,
            tally: Tally::read(status, ask.items.max(1) as u64),
        })
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(response::Parts, Bytes), Failure> {
        let response = self.sender().await?.send_request(request).await.map_err(Failure::Connection)?;
        let (head, body) = response.into_parts();
        let whole = Limited::new(body, RESPONSE_BYTES_MAX).collect().await;
        let bytes = whole.map_err(|error| Failure::Body(error.to_string()))?.to_bytes();
        Ok((head, bytes))
    }

    async fn sender(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, Failure> {
        let sender = match self.open().await {
            Some(sender) => sender,
            None => connect(self.target).await?,
        };
        Ok(self.sender.insert(sender))
    }

    /// The connection at hand, if it can take a request.
    async fn open(&mut self) -> Option<SendRequest<Full<Bytes>>> {
        let mut sender = self.sender.take()?;
        sender.ready().await.ok()?;
        Some(sender)
    }
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(target).await.map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Connect)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Failure::Connection)?;
    // It ends with its sender; what fails in it reaches the sender too.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

fn request(ask: &Ask, target: SocketAddr) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut builder = Request::get(ask.target.as_str()).header(header::HOST, target.to_string());
    if let Some(tenant) = ask.tenant {
        builder = builder.header("x-tenant", tenant);
    }
    match &ask.body {
        Some(body) => {
            builder.method("POST").header(header::CONTENT_TYPE, "application/json").body(Full::new(body.clone()))
        }
        None => builder.body(Full::default()),
    }
}
