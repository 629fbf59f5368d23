//! Clients of a model, each request with an item of its own: a number of clients, each of which asks again as soon as
//! it has its response (`--clients`), or requests at random times, whatever became of those before (`--rate`).
//! Prints one line of JSON: what was reached beside the ideal for a model of known cost (`examples/model.rs`).
//! `cargo run --release --example load -- --url http://127.0.0.1:9000/infer --clients 8`

use std::{
    collections::VecDeque,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Args, Parser};
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet, time::sleep};

/// Why a request got no response.
type Failure = Box<dyn Error + Send + Sync>;

/// Requests that are due and not yet sent.
const DUE_MAX: usize = 4096;

/// The time before a looping client asks again after a failure.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Parser)]
struct Flags {
    /// Where items are posted, http://host:port/path
    #[arg(long)]
    url: Uri,
    /// Clients that each ask again as soon as they have their response
    #[arg(long, required_unless_present = "rate", conflicts_with = "rate")]
    clients: Option<usize>,
    /// Requests per second on average, at random times (a Poisson process)
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Which random times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    cost: Cost,
}

/// The cost of a call of the model, for the ideal.
#[derive(Args, Clone, Copy)]
struct Cost {
    /// Microseconds of a call, however few items are in it
    #[arg(long, default_value_t = 20_000)]
    fixed_us: u64,
    /// Microseconds of each item
    #[arg(long, default_value_t = 1_000)]
    item_us: u64,
    /// Items of a call
    #[arg(long, default_value_t = 32)]
    size_max: usize,
}

impl Cost {
    /// Returns the seconds of a call of so many items.
    fn seconds(self, items: usize) -> f64 {
        (self.fixed_us as f64 + self.item_us as f64 * items as f64) / 1e6
    }

    /// Returns the items per second of so many looping clients if their next items came without any delay, and every
    /// call had all of them, or as many as fit.
    fn ideal_rate(self, clients: usize) -> f64 {
        let items = clients.min(self.size_max);
        items as f64 / self.seconds(items)
    }

    /// Returns the latencies of items that arrive at these times, if each call begins as soon as the model is free,
    /// with all that wait or as many as fit, and nothing else takes time.
    fn greedy(self, arrivals: &[f64]) -> Vec<f64> {
        let (mut latencies, mut free_at, mut next) = (Vec::with_capacity(arrivals.len()), 0.0_f64, 0);
        while let Some(first) = arrivals.get(next) {
            let begins = free_at.max(*first);
            let waiting = arrivals[next..].iter().take(self.size_max).take_while(|arrival| **arrival <= begins);
            let items = waiting.count().max(1);
            free_at = begins + self.seconds(items);
            latencies.extend(arrivals[next..next + items].iter().map(|arrival| free_at - arrival));
            next += items;
        }
        latencies
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let flags = Flags::parse();
    let (warmup, measured) = (seconds(flags.warmup)?, seconds(flags.seconds)?);
    let target = Arc::new(Target::new(&flags.url)?);
    let begin = Instant::now();
    let window = (begin + warmup, begin + warmup + measured);
    let line = match (flags.clients, flags.rate) {
        (Some(clients), _) => {
            let samples = looping(&target, clients, window.1).await;
            let inside = samples.iter().filter(|sample| sample.done >= window.0 && sample.done < window.1);
            let summary = Summary::of(inside, measured);
            let ideal = flags.cost.ideal_rate(clients);
            summary.line(&format!("looping {clients}"), summary.per_second / ideal, ideal)
        }
        (None, rate) => {
            let rate = rate.filter(|rate| *rate > 0.0).ok_or("a rate is above 0")?;
            let arrivals = poisson(rate, (warmup + measured).as_secs_f64(), flags.seed);
            let samples = open(&target, begin, arrivals.clone()).await;
            let inside = samples.iter().filter(|sample| sample.due >= window.0);
            let summary = Summary::of(inside, measured);
            // Those of the warm-up count in the queue, and not in the mean.
            let before = arrivals.iter().take_while(|arrival| **arrival < warmup.as_secs_f64()).count();
            let ideal = mean(&flags.cost.greedy(&arrivals)[before..]);
            summary.line(&format!("poisson {rate}"), ideal / summary.mean, ideal * 1e3)
        }
    };
    println!("{line}");
    Ok(())
}

fn seconds(value: f64) -> Result<Duration, Failure> {
    Ok(Duration::try_from_secs_f64(value)?)
}

/// Returns the times of a Poisson process of this rate, in seconds from its beginning.
fn poisson(rate: f64, until: f64, seed: u64) -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut times = Vec::new();
    let mut time = 0.0;
    loop {
        // Of 1 less a number below 1 there is a logarithm.
        time -= (1.0 - random.f64()).ln() / rate;
        if time >= until {
            return times;
        }
        times.push(time);
    }
}

/// One request.
struct Sample {
    /// When it should have been sent.
    due: Instant,
    done: Instant,
    /// Whether it had the response to its own item.
    is_right: bool,
}

/// Has so many clients ask until the end, each one request after the other.
async fn looping(target: &Arc<Target>, clients: usize, end: Instant) -> Vec<Sample> {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let target = Arc::clone(target);
        tasks.spawn(async move {
            let (mut samples, mut connection) = (Vec::new(), None);
            while Instant::now() < end {
                let due = Instant::now();
                let is_right = target.ask(&mut connection).await;
                samples.push(Sample { due, done: Instant::now(), is_right });
                if !is_right {
                    sleep(PAUSE).await;
                }
            }
            samples
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// Asks at these times, each on a connection that nobody uses then.
async fn open(target: &Arc<Target>, begin: Instant, arrivals: Vec<f64>) -> Vec<Sample> {
    let (send, mut due) = mpsc::channel(DUE_MAX);
    // On a thread of its own, since the timers of the runtime are only good to a millisecond.
    let clock = thread::spawn(move || {
        for arrival in arrivals {
            let at = begin + Duration::try_from_secs_f64(arrival).unwrap_or_default();
            while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                thread::park_timeout(left);
            }
            if send.blocking_send(at).is_err() {
                return;
            }
        }
    });
    let (mut tasks, idle) = (JoinSet::new(), Arc::new(Mutex::new(VecDeque::new())));
    while let Some(due) = due.recv().await {
        let (target, idle) = (Arc::clone(target), Arc::clone(&idle));
        tasks.spawn(async move {
            let mut connection = idle.lock().pop_back();
            let is_right = target.ask(&mut connection).await;
            idle.lock().extend(connection);
            Sample { due, done: Instant::now(), is_right }
        });
    }
    // It has ended, since its channel is closed.
    let _ = clock.join();
    tasks.join_all().await
}

type Connection = SendRequest<Full<Bytes>>;

/// The server that is asked.
struct Target {
    authority: String,
    address: String,
    path: String,
    /// The next item. No run has those of another.
    next: AtomicU64,
}

/// An item, and the response to it.
#[derive(Deserialize)]
struct Item {
    id: u64,
}

impl Target {
    fn new(url: &Uri) -> Result<Self, Failure> {
        let authority = url.authority().ok_or("the URL has no host")?;
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let path = url.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let next = AtomicU64::new(u64::from(fastrand::u32(..)) << 20);
        Ok(Self { authority: authority.to_string(), address, path, next })
    }

    /// Asks for an item on this connection, or on a new one, and returns whether the response is to that item.
    async fn ask(&self, connection: &mut Option<Connection>) -> bool {
        let id = self.next.fetch_add(1, Relaxed);
        let asked = self.try_ask(id, connection).await;
        if asked.is_err() {
            *connection = None;
        }
        asked.is_ok_and(|is_right| is_right)
    }

    async fn try_ask(&self, id: u64, connection: &mut Option<Connection>) -> Result<bool, Failure> {
        if connection.as_ref().is_none_or(SendRequest::is_closed) {
            *connection = Some(self.connect().await?);
        }
        let Some(sender) = connection else { return Ok(false) };
        sender.ready().await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(json!({"id": id}).to_string())))?;
        let response = sender.send_request(request).await?;
        let is_success = response.status().is_success();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(is_success && serde_json::from_slice::<Item>(&body).is_ok_and(|item| item.id == id))
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Some requests in figures.
struct Summary {
    right: usize,
    failed: usize,
    per_second: f64,
    mean: f64,
    p50: f64,
    p99: f64,
}

impl Summary {
    fn of<'s>(samples: impl Iterator<Item = &'s Sample>, measured: Duration) -> Self {
        let (mut latencies, mut failed) = (Vec::new(), 0);
        for sample in samples {
            if sample.is_right {
                latencies.push(sample.done.saturating_duration_since(sample.due).as_secs_f64());
            } else {
                failed += 1;
            }
        }
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
        let per_second = latencies.len() as f64 / measured.as_secs_f64();
        Self { right: latencies.len(), failed, per_second, mean: mean(&latencies), p50: at(0.5), p99: at(0.99) }
    }

    /// Returns the line; `ideal` is what the share is of: items per second, or milliseconds on average.
    fn line(&self, load: &str, share: f64, ideal: f64) -> String {
        let rounded = |value: f64, places: i32| (value * 10_f64.powi(places)).round() / 10_f64.powi(places);
        json!({
            "load": load,
            "right": self.right,
            "failed": self.failed,
            "per_second": rounded(self.per_second, 1),
            "mean_ms": rounded(self.mean * 1e3, 2),
            "p50_ms": rounded(self.p50 * 1e3, 2),
            "p99_ms": rounded(self.p99 * 1e3, 2),
            "ideal": rounded(ideal, 2),
            "share": rounded(share, 3),
        })
        .to_string()
    }
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}
