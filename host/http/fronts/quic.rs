//! HTTP/3 over QUIC (RFC 9114, RFC 9000): the UDP ports of addresses that have `http3`.
//!
//! A connection goes `listener` (accept, or Retry; `socket`, `settings`, and `early` for early data; closed alone, or
//! with the server) → `connection` (handshake, and a `session` under the driver) → `stream`, a task for each request
//! (`head` checks it, `upload` is its body, `patience` the time that its client is waited for).
//!
//! The library that speaks HTTP/3 is known to `by_h3` alone, behind the traits of `session`, and reaches the QUIC
//! library through `transport`, which makes its traps impossible: a stream that is dropped unfinished is reset, a read
//! that was given up harms nobody, and of each frame that is gathered in memory the length is looked at first
//! (`framing`). Which response goes first is a matter of `turns`.

mod by_h3;
mod connection;
mod date;
mod early;
mod framing;
mod head;
mod listener;
mod patience;
mod pieces;
mod session;
mod settings;
mod socket;
mod stream;
mod transport;
mod turns;
mod upload;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{ended, report};
use crate::http::{
    handler::Handler,
    shared::{Rules, Shared},
};

pub(in crate::http) use self::{
    listener::{Handle, Listener},
    settings::Settings,
};

/// How long the last packets of connections may take that have been closed.
const CLOSING: Duration = Duration::from_millis(500);

/// The UDP sockets.
pub(in crate::http) struct Quic {
    listeners: Vec<Listener>,
    /// Those that are added while it runs.
    added: mpsc::UnboundedReceiver<Listener>,
    /// Each ends when the last connection of its socket has.
    acceptors: JoinSet<()>,
}

impl Quic {
    /// Returns these listeners, and those that come from `added` while it runs; nothing is accepted yet.
    pub(in crate::http) fn new(listeners: Vec<Listener>, added: mpsc::UnboundedReceiver<Listener>) -> Self {
        Self { listeners, added, acceptors: JoinSet::new() }
    }

    /// Accepts until the drain begins; connections that are open then go on, and further ones are refused.
    pub(in crate::http) async fn run<H: Handler>(&mut self, shared: &Arc<Shared<H>>, rules: &Arc<ArcSwap<Rules>>) {
        for listener in self.listeners.drain(..) {
            self.acceptors.spawn(listener.accept(Arc::clone(shared), Arc::clone(rules)));
        }
        let retirement = &shared.retirement;
        let mut is_retired = false;
        loop {
            if is_retired && self.acceptors.is_empty() {
                retirement.close_quic();
            }
            tokio::select! {
                biased;
                () = shared.drain.cancelled() => break,
                () = retirement.begun(), if !is_retired => is_retired = true,
                Some(listener) = self.added.recv() => {
                    self.acceptors.spawn(listener.accept(Arc::clone(shared), Arc::clone(rules)));
                }
                Some(ended) = self.acceptors.join_next() => report(ended),
            }
        }
        // Those that were added too late are closed.
        self.added.close();
        while self.added.try_recv().is_ok() {}
        if is_retired {
            // Another process waits for it; each ends soon after its connections had their time.
            ended(&mut self.acceptors).await;
            retirement.close_quic();
        }
    }

    /// Waits until the clients have been told that their connections are closed, which takes packets that somebody has
    /// to send. Bounded, because a client may be gone.
    pub(in crate::http) async fn closed(&mut self) {
        let _ = timeout(CLOSING, ended(&mut self.acceptors)).await;
    }
}
