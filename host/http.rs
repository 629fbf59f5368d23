//! The HTTP server: listeners, TLS, HTTP/1.1 and HTTP/2, for any [`Handler`].
//!
//! A front (`fronts/tcp`) accepts connections and speaks HTTP on them. All fronts have the rest in common: `shared`
//! (the limits, counts and tokens of a server; `guests` counts the open connections and requests of one address),
//! `driver` (runs a connection to its end, within its timeouts and the drain), `activity` (the state of its requests),
//! and `service` (one request: `request` checks and normalises its head, `body` bounds its body, `reply` guards the
//! response's). `pace` is the minimum rate of a client. Only `fronts` depends on sockets and hyper's connections, so
//! HTTP/3 becomes another file there.

mod activity;
mod authority;
mod body;
mod driver;
mod end;
mod error;
mod fronts;
mod guests;
mod handler;
mod metrics;
mod pace;
mod rejection;
mod reply;
mod request;
mod service;
mod shared;
#[cfg(test)]
mod tests;
mod tls;
mod trace;

use std::{net::SocketAddr, sync::Arc};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{fronts::tcp::Tcp, shared::Shared, tls::Certificates};
use crate::config;

pub use self::{
    error::Error,
    handler::{Arrival, Handler, Refused},
    metrics::Metrics,
    shared::Drained,
    tls::CertificateFiles,
};

/// Bound addresses with their certificates and limits; [`Server::run`] accepts connections.
pub struct Server {
    tcp: Tcp,
    certificates: CertificateFiles,
    limits: config::Limits,
    timeouts: config::Timeouts,
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
        let metrics = Metrics::new();
        let mut certificates = Vec::with_capacity(listen.len());
        for one in listen {
            certificates.push(match &one.tls {
                Some(tls) => Some(Arc::new(Certificates::load(tls, &metrics.tls).await?)),
                None => None,
            });
        }
        let tcp = Tcp::bind(listen, &certificates)?;
        let certificates = CertificateFiles::new(certificates.into_iter().flatten().collect());
        Ok(Self { tcp, certificates, limits: limits.clone(), timeouts: timeouts.clone(), metrics })
    }

    /// Returns the bound addresses, in the order of the configuration, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.addresses()
    }

    /// Returns the certificates of all addresses, to have them read again.
    #[must_use]
    pub fn certificates(&self) -> CertificateFiles {
        self.certificates.clone()
    }

    /// Returns handles of this server's metrics.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Accepts until `drain` is cancelled, then finishes what is open within `timeouts.drain`, then cuts.
    pub async fn run<H: Handler>(self, handler: H, drain: CancellationToken) -> Drained {
        // A listener holds a slot while it waits for a connection, so each has one at least.
        let slots = self.limits.connections_max.max(self.tcp.addresses().len());
        let watching = AbortOnDropHandle::new(tokio::spawn(self.certificates.watch(drain.clone())));
        let shared = Arc::new(Shared::new(handler, self.limits, self.timeouts, self.metrics, drain, slots));
        self.tcp.run(shared.clone()).await;
        drop(watching);
        shared.drained().await
    }
}
