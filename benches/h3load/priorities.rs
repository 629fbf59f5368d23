//! A small urgent object behind a download on the same connection (RFC 9218), and alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Args;
use http::{HeaderValue, Request};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    Failure, Server, link, percentile, rounded,
    wire::{Protocol, Quic},
};

/// Bytes of the download that come before the first urgent request, so that all its windows and buffers are full.
const AHEAD: u64 = 8 << 20;

/// Requests before those that are measured.
const WARMUP: usize = 5;

/// The most that the download may take to come so far.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    server: Server,
    /// Path of the small object
    #[arg(long, default_value = "/object")]
    urgent: String,
    /// Path of the large object
    #[arg(long, default_value = "/bulk")]
    bulk: String,
    /// Milliseconds of a round trip on the link between client and server
    #[arg(long, default_value_t = 40)]
    rtt_ms: u32,
    /// Urgent requests, alone and behind the download
    #[arg(long, default_value_t = 100)]
    samples: usize,
}

pub(crate) async fn run(flags: &Flags) -> Result<(), Failure> {
    let delay = Duration::from_millis(flags.rtt_ms.into()) / 2;
    let address = link::open(flags.server.address, delay).await?;
    let server = Server { address, ca: flags.server.ca.clone() };
    let mut connection = Quic::connect(&server).await?;
    // The authority is the same as without the link, so that it is a hit.
    let mut urgent = Protocol::H3.request(flags.server.address, &flags.urgent)?;
    urgent.headers_mut().insert("priority", HeaderValue::from_static("u=0"));
    let bulk = Protocol::H3.request(flags.server.address, &flags.bulk)?;

    latencies(&mut connection, &urgent, WARMUP).await?;
    let alone = latencies(&mut connection, &urgent, flags.samples).await?;
    let read = Arc::new(AtomicU64::new(0));
    let downloading = tokio::spawn(download(connection.clone(), bulk, Arc::clone(&read)));
    let begin = Instant::now();
    while read.load(Relaxed) < AHEAD {
        if downloading.is_finished() || begin.elapsed() > PATIENCE {
            return Err("the download doesn't come".into());
        }
        sleep(Duration::from_millis(1)).await;
    }
    let (begin, before) = (Instant::now(), read.load(Relaxed));
    let behind = latencies(&mut connection, &urgent, flags.samples).await?;
    let rate = (read.load(Relaxed) - before) as f64 / begin.elapsed().as_secs_f64();
    if downloading.is_finished() {
        return Err("the download broke off".into());
    }
    downloading.abort();
    println!("{}", line(&alone, &behind, rate));
    Ok(())
}

/// Requests an object one time after the other, and returns the latencies in milliseconds, sorted.
async fn latencies(connection: &mut Quic, request: &Request<()>, count: usize) -> Result<Vec<f64>, Failure> {
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let sent = Instant::now();
        connection.get(request.clone(), |_| {}).await?;
        latencies.push(sent.elapsed().as_secs_f64() * 1e3);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

/// Downloads an object again and again. `read` counts its bytes as they come.
async fn download(mut connection: Quic, request: Request<()>, read: Arc<AtomicU64>) -> Result<(), Failure> {
    loop {
        connection
            .get(request.clone(), |bytes| {
                read.fetch_add(bytes, Relaxed);
            })
            .await?;
    }
}

fn line(alone: &[f64], behind: &[f64], rate: f64) -> String {
    let of = |latencies: &[f64]| {
        json!({
            "p50_ms": rounded(percentile(latencies, 0.5), 2),
            "p90_ms": rounded(percentile(latencies, 0.9), 2),
            "p99_ms": rounded(percentile(latencies, 0.99), 2),
        })
    };
    let ratio = |share| rounded(percentile(behind, share) / percentile(alone, share), 3);
    json!({
        "alone": of(alone),
        "behind": of(behind),
        "download_mib_per_second": rounded(rate / f64::from(1 << 20), 1),
        "p50_ratio": ratio(0.5),
        "p90_ratio": ratio(0.9),
    })
    .to_string()
}
