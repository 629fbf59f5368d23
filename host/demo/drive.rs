//! The clients: they send a plan over real sockets and keep-alive connections, and measure what comes back. Requests
//! arrive when the plan says, however long others take: one that has to wait for a connection has waited since then.

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
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    response::{Tally, embeddings_meaning, page_meaning},
    workload::{Ask, Phase, Plan},
};

/// Connections for page views. They are others than those for calls, as browsers are others than programs, so that
/// neither waits for the other's responses.
const VIEWERS: usize = 64;
/// Connections for embedding calls: more than a burst has, and few enough for 1,024 open files.
const CALLERS: usize = 128;
/// How late a timer may be by itself; that isn't counted as latency.
const TIMER_STEP: Duration = Duration::from_millis(2);
/// From the start of a phase until its arrivals begin to count, for all clients to be there.
const LEAD: Duration = Duration::from_millis(20);
/// How long one response may take, to its last byte.
const RESPONSE_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of one response's body.
const RESPONSE_BYTES_MAX: usize = 16 << 20;

/// What became of a plan.
#[derive(Debug)]
pub(super) struct Run {
    /// One for each of the plan's requests, in its order.
    pub(super) outcomes: Vec<Outcome>,
    /// One for each of the plan's phases: how long after its last request its last response came.
    pub(super) lags: Vec<Duration>,
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
    /// From the request's arrival by the plan to the last byte.
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
    let mut clients = Vec::new();
    for (is_caller, number) in [(true, CALLERS), (false, VIEWERS)] {
        for _ in 0..number {
            let mut connection = Connection { target, sender: None };
            // A connection that can't be opened now is tried again, and its failure counted, by the first request.
            let _ = connection.sender().await;
            clients.push(Client { is_caller, connection });
        }
    }
    let begun = Instant::now();
    let mut outcomes: Vec<Outcome> = plan.asks.iter().map(|_| Err(Failure::NotAsked)).collect();
    let mut lags = Vec::new();
    for phase in &plan.phases {
        let turn = Arc::new(Turn::new(plan, phase, progress));
        let mut working = JoinSet::new();
        for client in clients.drain(..) {
            working.spawn(client.work(Arc::clone(&turn)));
        }
        while let Some(done) = working.join_next().await {
            // Of a client that could not end, the runtime reports why, and its requests stay `NotAsked`.
            let Ok((client, received)) = done else { continue };
            clients.push(client);
            for (index, outcome) in received {
                outcomes[index] = outcome;
            }
        }
        lags.push(turn.lag(phase));
    }
    Run { outcomes, lags, wall: begun.elapsed() }
}

/// One phase, as its clients share it.
struct Turn {
    plan: Arc<Plan>,
    /// The arrivals of the plan count from here.
    begun: Instant,
    calls: Queue,
    views: Queue,
    progress: ProgressBar,
}

/// Requests that are still to be taken, in the order of their arrivals.
struct Queue {
    indices: Vec<usize>,
    next: AtomicUsize,
}

impl Turn {
    fn new(plan: &Arc<Plan>, phase: &Phase, progress: &ProgressBar) -> Self {
        let (calls, views): (Vec<usize>, Vec<usize>) =
            phase.asks.clone().partition(|index| plan.asks[*index].is_call());
        let queue = |indices| Queue { indices, next: AtomicUsize::new(0) };
        Self {
            plan: Arc::clone(plan),
            begun: Instant::now() + LEAD,
            calls: queue(calls),
            views: queue(views),
            progress: progress.clone(),
        }
    }

    /// When a request arrives.
    fn due(&self, index: usize) -> Instant {
        self.begun + self.plan.arrivals[index]
    }

    /// How long ago the last request of the phase arrived.
    fn lag(&self, phase: &Phase) -> Duration {
        phase.asks.clone().next_back().map_or(Duration::ZERO, |last| self.due(last).elapsed())
    }
}

impl Queue {
    fn take(&self) -> Option<usize> {
        self.indices.get(self.next.fetch_add(1, Relaxed)).copied()
    }
}

/// One client.
struct Client {
    /// Whether it sends embedding calls; otherwise it views pages.
    is_caller: bool,
    connection: Connection,
}

impl Client {
    /// Sends requests of a phase, each when it arrives or as soon after that as this client is free, until none is left.
    async fn work(mut self, turn: Arc<Turn>) -> (Self, Vec<(usize, Outcome)>) {
        let queue = if self.is_caller { &turn.calls } else { &turn.views };
        let mut outcomes = Vec::new();
        while let Some(index) = queue.take() {
            let due = turn.due(index);
            let mut arrived = due;
            if due > Instant::now() {
                sleep_until(due.into()).await;
                arrived = Instant::now().min(due + TIMER_STEP);
            }
            outcomes.push((index, self.connection.ask(&turn.plan.asks[index], arrived).await));
            turn.progress.inc(1);
        }
        (self, outcomes)
    }
}

/// One keep-alive connection.
struct Connection {
    target: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    async fn ask(&mut self, ask: &Ask, arrived: Instant) -> Outcome {
        let request = request(ask, self.target).map_err(Failure::Request)?;
        let exchanged = timeout(RESPONSE_TIME_MAX, self.exchange(request)).await.unwrap_or(Err(Failure::Slow));
        let latency = arrived.elapsed();
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
