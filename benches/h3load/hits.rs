//! Requests for one object, each stream's next as soon as it has the response to its last.

use std::{
    fs,
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Args;
use http::Request;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    Failure, Server, percentile, rounded,
    wire::{Protocol, Wire},
};

#[derive(Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    server: Server,
    /// Protocol
    #[arg(long)]
    protocol: Protocol,
    /// Path of the object
    #[arg(long, default_value = "/object")]
    path: String,
    /// Bytes that each response must have
    #[arg(long, default_value_t = 1024)]
    bytes: u64,
    /// Connections; of HTTP/1.1 so many for each stream
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests under way on each connection
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// A process of the server, whose CPU time is read; may be repeated
    #[arg(long)]
    pid: Vec<u32>,
    /// Units of CPU time in a second (`getconf CLK_TCK`)
    #[arg(long, default_value_t = 100.0)]
    hertz: f64,
}

/// What there was at one moment.
struct Sample {
    at: Instant,
    /// Responses so far.
    done: u64,
    /// The CPU time of each of the server's processes so far; `None` of one that has ended, as nginx's cache loader does.
    ticks: Vec<Option<u64>>,
}

/// What all streams have in common.
struct Run {
    request: Request<()>,
    bytes: u64,
    /// Responses so far.
    done: AtomicU64,
    /// When responses are measured.
    begin: Instant,
    end: Instant,
}

pub(crate) async fn run(flags: &Flags) -> Result<(), Failure> {
    let mut wires = Vec::new();
    for _ in 0..flags.connections {
        let first = Wire::connect(&flags.server, flags.protocol).await?;
        for _ in 1..flags.streams {
            let another = match first.another() {
                Some(another) => another,
                None => Wire::connect(&flags.server, flags.protocol).await?,
            };
            wires.push(another);
        }
        wires.push(first);
    }
    let begin = Instant::now() + Duration::try_from_secs_f64(flags.warmup)?;
    let run = Arc::new(Run {
        request: flags.protocol.request(flags.server.address, &flags.path)?,
        bytes: flags.bytes,
        done: AtomicU64::new(0),
        begin,
        end: begin + Duration::try_from_secs_f64(flags.seconds)?,
    });
    let mut streams = JoinSet::new();
    for wire in wires {
        streams.spawn(stream(wire, Arc::clone(&run)));
    }
    let before = sample(run.begin, &run, &flags.pid).await?;
    let after = sample(run.end, &run, &flags.pid).await?;
    let mut latencies = Vec::new();
    while let Some(stream) = streams.join_next().await {
        latencies.append(&mut stream??);
    }
    latencies.sort_by(f64::total_cmp);
    println!("{}", line(flags, (&before, &after), &latencies));
    Ok(())
}

/// Sends one request after the other to the end, and returns the latencies of those that are measured, in microseconds.
async fn stream(mut wire: Wire, run: Arc<Run>) -> Result<Vec<f64>, Failure> {
    let mut latencies = Vec::new();
    loop {
        let sent = Instant::now();
        if sent >= run.end {
            return Ok(latencies);
        }
        let bytes = wire.get(run.request.clone()).await?;
        if bytes != run.bytes {
            return Err(format!("a response has {bytes} bytes and not {}", run.bytes).into());
        }
        run.done.fetch_add(1, Relaxed);
        if sent >= run.begin {
            latencies.push(sent.elapsed().as_secs_f64() * 1e6);
        }
    }
}

async fn sample(at: Instant, run: &Run, pids: &[u32]) -> Result<Sample, Failure> {
    sleep_until(at).await;
    let ticks = pids.iter().map(|pid| ticks(*pid)).collect::<Result<_, Failure>>()?;
    Ok(Sample { at: Instant::now(), done: run.done.load(Relaxed), ticks })
}

/// Returns the CPU time of a process so far, as user and as system; `None` if it has ended.
fn ticks(pid: u32) -> Result<Option<u64>, Failure> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        stat => stat?,
    };
    // The name of the program may have spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc has another form")?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    match (times.next(), times.next()) {
        (Some(user), Some(system)) => Ok(Some(user? + system?)),
        _ => Err("/proc has another form".into()),
    }
}

fn line(flags: &Flags, (before, after): (&Sample, &Sample), latencies: &[f64]) -> String {
    let seconds = (after.at - before.at).as_secs_f64();
    let requests = (after.done - before.done) as f64;
    let ticks = before.ticks.iter().zip(&after.ticks).filter_map(|(before, after)| (*after)?.checked_sub((*before)?));
    let cpu = ticks.sum::<u64>() as f64 / flags.hertz * 1e6 / requests.max(1.0);
    json!({
        "protocol": flags.protocol.name(),
        "requests": requests,
        "per_second": rounded(requests / seconds, 1),
        "p50_us": rounded(percentile(latencies, 0.5), 1),
        "p90_us": rounded(percentile(latencies, 0.9), 1),
        "p99_us": rounded(percentile(latencies, 0.99), 1),
        "p999_us": rounded(percentile(latencies, 0.999), 1),
        "cpu_us": rounded(cpu, 2),
    })
    .to_string()
}
