//! HTTP/1.1 and HTTP/2 over TCP, cleartext or TLS.
//!
//! A connection goes `listener` (accept; behind a balancer `proxy` reads the client's address) → `connection` (handshake
//! by `tls`, or `detect`, then one of hyper's two state machines over `transport`, watched by `watch`, to which `arriving`
//! reports that a request has come whole; HTTP/2 streams by `stream`, to which `pieces` reports what it hands over;
//! `unparsed` refuses what hyper can't parse, `tunnel` runs what a client has switched to) → `linger` (the close).

mod arriving;
mod connection;
mod detect;
mod linger;
mod listener;
mod pieces;
mod proxy;
mod stream;
mod tls;
mod transport;
mod tunnel;
mod unparsed;
mod watch;

use std::{net::SocketAddr, sync::Arc};

use tokio::task::JoinSet;

use self::{connection::Builders, listener::Listener};
use crate::{
    config,
    http::{error::Error, handler::Handler, shared::Shared, tls::Certificates},
};

/// The listening sockets.
pub(in crate::http) struct Tcp {
    listeners: Vec<Listener>,
}

impl Tcp {
    /// Binds every address, each with its certificates if it has TLS; nothing is accepted yet.
    ///
    /// # Errors
    /// The first address that can't be bound.
    pub(in crate::http) fn bind(
        listen: &[config::Listen],
        certificates: &[Option<Arc<Certificates>>],
    ) -> Result<Self, Error> {
        let places = listen.iter().zip(certificates);
        let listeners = places.map(|(listen, certificates)| Listener::bind(listen, certificates.as_deref()));
        Ok(Self { listeners: listeners.collect::<Result<_, _>>()? })
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
