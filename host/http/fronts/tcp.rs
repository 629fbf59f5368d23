//! HTTP/1.1 and HTTP/2 over TCP, cleartext or TLS.
//!
//! A connection goes `listener` (accept; behind a balancer `proxy` reads the client's address) → `connection` (handshake
//! by `tls`, or `detect`, then one of hyper's two state machines over `transport`, watched by `watch`, to which `arriving`
//! reports that a request has come whole; HTTP/2 streams by `stream`, to which `pieces` reports what it hands over;
//! `unparsed` refuses what hyper can't parse, `tunnel` runs what a client has switched to, by `extended` on a stream of
//! HTTP/2) → `linger` (the close).

mod advertisement;
mod arriving;
mod connection;
mod detect;
mod extended;
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

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::{sync::mpsc, task::JoinSet};

use super::{ended, report};
use crate::http::{
    handler::Handler,
    shared::{Rules, Shared},
};

pub(in crate::http) use self::listener::{Handle, Listener, Settings};

/// The listening sockets.
pub(in crate::http) struct Tcp {
    listeners: Vec<Listener>,
    /// Those that are added while it runs.
    added: mpsc::UnboundedReceiver<Listener>,
}

impl Tcp {
    /// Returns these listeners, and those that come from `added` while it runs; nothing is accepted yet.
    pub(in crate::http) const fn new(listeners: Vec<Listener>, added: mpsc::UnboundedReceiver<Listener>) -> Self {
        Self { listeners, added }
    }

    /// Accepts until the drain begins; connections that are open then go on.
    pub(in crate::http) async fn run<H: Handler>(mut self, shared: Arc<Shared<H>>, rules: Arc<ArcSwap<Rules>>) {
        let mut acceptors = JoinSet::new();
        for listener in self.listeners {
            acceptors.spawn(listener.accept(shared.clone(), rules.clone()));
        }
        loop {
            tokio::select! {
                biased;
                () = shared.drain.cancelled() => break,
                Some(listener) = self.added.recv() => {
                    acceptors.spawn(listener.accept(shared.clone(), rules.clone()));
                }
                Some(ended) = acceptors.join_next() => report(ended),
            }
        }
        // Those that were added too late are closed.
        drop(self.added);
        ended(&mut acceptors).await;
    }
}
