//! The HTTP server: listeners, TLS, HTTP/1.1, HTTP/2 and HTTP/3, for any [`Handler`].
//!
//! A front (`fronts/tcp`, `fronts/quic`) accepts connections and speaks HTTP on them. All fronts have the rest in
//! common: `shared` (the limits, counts and tokens of a server; `guests` counts the open connections and requests of one
//! address), `driver` (runs a connection to its end, within its timeouts and the drain), `activity` (the state of its
//! requests), and `service` (one request: `request` checks and normalises its head, `body` bounds its body, `reply`
//! guards the response's). `pace` is the minimum rate of a client, `patience` the time that one which reads is waited for. `listeners` is what may be exchanged while a
//! server runs: its addresses with their certificates (`bound`), and the rules for new connections, whose slots
//! (`slots`) they share. `sockets` are those that other processes have bound, `socket_file` the files of Unix
//! sockets, and `retirement` is how a server goes on that accepts no more. Beside these only `fronts` depends on sockets,
//! and it alone on the libraries that speak HTTP on them.

mod activity;
mod authority;
mod body;
mod bound;
mod driver;
mod end;
mod error;
mod fronts;
mod guests;
mod handler;
mod listeners;
mod metrics;
mod pace;
mod patience;
mod rejection;
mod reply;
mod request;
mod retirement;
mod service;
mod shared;
mod slots;
mod socket_file;
mod sockets;
#[cfg(test)]
mod tests;
mod tls;
mod trace;

use std::{net::SocketAddr, sync::Arc};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    bound::Bound,
    fronts::{quic::Quic, tcp::Tcp},
    shared::{Rules, Shared},
};
use crate::config;

pub use self::{
    error::Error,
    handler::{Arrival, Handler, Refused},
    listeners::{Listeners, Prepared},
    metrics::Metrics,
    shared::Drained,
    socket_file::SocketFile,
    sockets::{Socket, Sockets},
    tls::CertificateFiles,
};

/// Bound addresses with their certificates and limits; [`Server::run`] accepts connections.
pub struct Server {
    tcp: Tcp,
    quic: Quic,
    listeners: Arc<Listeners>,
    metrics: Metrics,
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
        Self::inherit(listen, limits, timeouts, Sockets::default()).await
    }

    /// The same, where an address takes one of `sockets` if it is bound to it. Those that are left are open until
    /// [`Listeners::close_unused`].
    ///
    /// # Errors
    /// The first address that can't be bound, or the first file that can't be used.
    pub async fn inherit(
        listen: &[config::Listen],
        limits: &config::Limits,
        timeouts: &config::Timeouts,
        sockets: Sockets,
    ) -> Result<Self, Error> {
        let metrics = Metrics::new();
        let (bound, tcp, quic) = Bound::bind(listen, &metrics.tls, sockets).await?;
        let rules = Rules { limits: limits.clone(), timeouts: timeouts.clone() };
        Ok(Self { tcp, quic, listeners: Arc::new(Listeners::new(bound, rules)), metrics })
    }

    /// Returns what may be exchanged while it runs.
    #[must_use]
    pub fn listeners(&self) -> Arc<Listeners> {
        Arc::clone(&self.listeners)
    }

    /// Returns the bound addresses, in the order of the configuration, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// Returns the certificates of the addresses that there are now, to have them read again.
    #[must_use]
    pub fn certificates(&self) -> CertificateFiles {
        self.listeners.certificates()
    }

    /// Returns handles of this server's metrics.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Accepts until `drain` is cancelled, then finishes what is open within `timeouts.drain`, then cuts. If another
    /// process accepts instead ([`Listeners::retire`]), `drain` is cancelled here once what is open had time to end.
    pub async fn run<H: Handler>(self, handler: H, drain: CancellationToken) -> Drained {
        let Self { tcp, mut quic, listeners, metrics } = self;
        let (rules, slots) = (listeners.rules(), listeners.slots().clone());
        let watching = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&listeners).watch(drain.clone())));
        let Rules { limits, timeouts } = Rules::clone(&rules.load());
        let retirement = listeners.retirement().clone();
        let shared = Arc::new(Shared::new(handler, limits, timeouts, metrics, drain, (slots, retirement)));
        tokio::join!(tcp.run(shared.clone(), Arc::clone(rules)), quic.run(&shared, rules), shared.retired());
        drop(watching);
        // In the time that is allowed by now.
        let rules = rules.load_full();
        let drained = shared.under(&rules, shared.drain.clone(), shared.drain.clone()).drained().await;
        quic.closed().await;
        drained
    }
}
