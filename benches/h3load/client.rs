//! A load client for HTTP/1.1 and HTTP/2 over TLS and for HTTP/3, and an origin that `benches/versus-h3` puts behind the
//! servers it compares. One thread, since it is pinned to one core.
//! `cargo run --release --example h3load -- hits --address 127.0.0.1:8443 --ca certificate.pem --protocol h3`

mod hits;
mod link;
mod origin;
mod priorities;
mod wire;

use std::{error::Error, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// Why there is no result.
type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Requests one object as often as the server responds, and prints one line of JSON
    Hits(hits::Flags),
    /// Requests a small urgent object alone, and on a connection that downloads a large one, and prints one line of JSON
    Priorities(priorities::Flags),
    /// Responds to `/object` with 1 KB and to `/bulk` with 32 MiB, both fresh for an hour
    Origin(origin::Flags),
}

/// The server that is measured.
#[derive(Args)]
struct Server {
    /// Where it listens, over TCP and UDP
    #[arg(long)]
    address: SocketAddr,
    /// PEM file of its certificate, which is one for `localhost`
    #[arg(long)]
    ca: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    match Flags::parse().command {
        Command::Hits(flags) => hits::run(&flags).await,
        Command::Priorities(flags) => priorities::run(&flags).await,
        Command::Origin(flags) => origin::run(&flags).await,
    }
}

/// Returns the value below which this share of the sorted ones lies.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() as f64 * share) as usize).or(sorted.get(last)).copied().unwrap_or_default()
}

fn rounded(value: f64, places: i32) -> f64 {
    (value * 10_f64.powi(places)).round() / 10_f64.powi(places)
}
