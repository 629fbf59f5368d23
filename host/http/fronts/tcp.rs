//! HTTP/1.1 and HTTP/2 over TCP, cleartext or TLS.
//!
//! A connection goes `listener` (accept) → `connection` (handshake by `tls`, or `detect`, then one of hyper's two state
//! machines over `transport`, watched by `watch`, to which `arriving` reports that a request has come whole; HTTP/2
//! streams by `stream`, to which `pieces` reports what it hands over) → `linger` (the close).

mod arriving;
mod connection;
mod detect;
mod linger;
mod listener;
mod pieces;
mod stream;
mod tls;
mod transport;
mod watch;

use std::{net::SocketAddr, sync::Arc};

use tokio::task::JoinSet;

use self::{connection::Builders, listener::Listener};
use crate::{
    config,
    http::{error::Error, handler::Handler, shared::Shared},
};

/// The listening sockets.
pub(in crate::http) struct Tcp {
    listeners: Vec<Listener>,
}

impl Tcp {
    /// Loads certificates and binds every address; nothing is accepted yet.
    ///
    /// # Errors
    /// The first address that can't be bound, or the first file that can't be used.
    pub(in crate::http) async fn bind(listen: &[config::Listen]) -> Result<Self, Error> {
        let mut listeners = Vec::with_capacity(listen.len());
        for one in listen {
            listeners.push(Listener::bind(one).await?);
        }
        Ok(Self { listeners })
    }

    /// Returns the bound addresses, in the order of the configuration.
    pub(in crate::http) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// Accepts until the drain begins; connections that are open then go on.
    pub(in crate::http) async fn run<H: Handler>(self, shared: Arc<Shared<H>>) {
        let builders = Arc::new(Builders::new(&shared.limits, &shared.timeouts, &shared.metrics));
        let mut acceptors = JoinSet::new();
        for listener in self.listeners {
            acceptors.spawn(listener.accept(shared.clone(), builders.clone()));
        }
        while let Some(ended) = acceptors.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a listener stopped");
            }
        }
    }
}
