//! The way in: listeners, TLS, HTTP/1.1 and HTTP/2, for any [`Handler`].
//!
//! A connection goes `listener` (accept) → `connection` (handshake or `detect`, then one of hyper's two state
//! machines, watched by `watch`, its HTTP/2 streams by `stream`) → `service` (one request: `request` checks and
//! normalises its head, `body` bounds its body, `reply` guards the answer's). `guests` counts what one address has open,
//! `pace` is the rate that it has to keep. What lies in `service` and below knows neither sockets nor hyper's
//! connections, so that HTTP/3 becomes a third front over the same code.

mod authority;
mod body;
mod connection;
mod detect;
mod guests;
mod listener;
mod metrics;
mod pace;
mod reply;
mod request;
mod service;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod watch;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    message::{Request, Response},
};

use connection::Shared;
use listener::Listener;

pub use metrics::Metrics;

/// How long a connection that is being cut may take to notice.
const CUT_WAIT: Duration = Duration::from_secs(1);

/// Whatever answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request. Dropped without being finished if the client goes away.
    fn handle(&self, request: Request) -> impl Future<Output = Response> + Send;

    /// Completes the answer to a request that the listener refused by itself.
    fn refused(&self, response: Response) -> Response {
        response
    }
}

/// Bound addresses with their certificates and limits; [`Server::run`] opens the doors.
pub struct Server {
    listeners: Vec<Listener>,
    limits: config::Limits,
    timeouts: config::Timeouts,
    metrics: Metrics,
}

/// How the connections ended that were open when the drain began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that came to their own end in time.
    pub finished: usize,
    /// Connections that were still busy at the end of `timeouts.drain`.
    pub cut: usize,
}

/// Why a server can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address can't be bound.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
    /// A PEM file can't be read.
    #[error("cannot read {}: {reason}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// A PEM file holds something else than it should.
    #[error("{}: {reason}", .file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key can't be used.
    #[error("certificate {} with key {}: {reason}", .certificate.display(), .key.display())]
    Tls {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with them.
        reason: Box<rustls::Error>,
    },
}

impl Server {
    /// Binds every address and loads certificates; nothing is accepted yet.
    ///
    /// # Errors
    /// The first address that can't be bound, or the first file that can't be used.
    pub async fn bind(
        listen: &[config::Listen],
        limits: &config::Limits,
        timeouts: &config::Timeouts,
    ) -> Result<Self, Error> {
        let mut listeners = Vec::with_capacity(listen.len());
        for one in listen {
            listeners.push(Listener::bind(one).await?);
        }
        Ok(Self { listeners, limits: limits.clone(), timeouts: timeouts.clone(), metrics: Metrics::new() })
    }

    /// The bound addresses, in the order of the configuration, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// Handles of this server's metrics.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Accepts until `drain` is cancelled, then finishes what is open within `timeouts.drain`, then cuts.
    pub async fn run<H: Handler>(self, handler: H, drain: CancellationToken) -> Drained {
        let patience = self.timeouts.drain;
        let slots = self.limits.connections_max.max(self.listeners.len());
        let shared = Arc::new(Shared::new(handler, self.limits, self.timeouts, self.metrics, drain, slots));
        let mut acceptors = JoinSet::new();
        for listener in self.listeners {
            acceptors.spawn(listener.accept(shared.clone()));
        }
        while let Some(ended) = acceptors.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a listener stopped");
            }
        }
        drained(&shared, patience).await
    }
}

/// Waits for the open connections, cuts what is left at the end of `patience`, and counts both kinds.
async fn drained<H>(shared: &Shared<H>, patience: Duration) -> Drained {
    shared.tracker.close();
    if timeout(patience, shared.tracker.wait()).await.is_err() {
        shared.cut.cancel();
        // Bounded, because a connection whose handler blocks its thread can't notice anything.
        let _ = timeout(CUT_WAIT, shared.tracker.wait()).await;
    }
    let stuck = shared.tracker.len();
    Drained { finished: shared.finished.load(Ordering::Relaxed), cut: shared.cuts.load(Ordering::Relaxed) + stuck }
}
