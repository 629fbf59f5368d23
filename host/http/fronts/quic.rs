//! HTTP/3 over QUIC (RFC 9114, RFC 9000): the UDP ports of addresses that have `http3`.
//!
//! A connection goes `listener` (accept, or Retry; `socket`, `settings`, and `early` for early data; closed alone, or
//! with the server; `datagrams` reads the socket, and after a takeover passes on by `connection_id` and `forwarding` what
//! is another process's) → `connection` (handshake, and a `session` under the driver) → `stream`, a task for each request
//! (`head` checks it, `upload` is its body, `patience` the time that its client is waited for).
//!
//! The library that speaks HTTP/3 is known to `by_h3` alone, behind the traits of `session`, and reaches the QUIC
//! library through `transport`, which makes its traps impossible: a stream that is dropped unfinished is reset, a read
//! that was given up harms nobody, and of each frame that is gathered in memory the length is looked at first
//! (`framing`), and what all have gathered is bounded (`gathering`). Which response goes first is a matter of `turns`.

mod by_h3;
mod connection;
mod connection_id;
mod datagrams;
mod date;
mod early;
mod forwarding;
mod framing;
mod gathering;
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
use tokio_util::task::TaskTracker;

use super::{ended, report};
use crate::http::{
    handler::Handler,
    shared::{Rules, Shared},
};

pub(in crate::http) use self::{
    listener::{Handle, Inherited, Listener},
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
    /// Those whose socket no other process may read yet.
    reading: TaskTracker,
}

impl Quic {
    /// Returns these listeners, and those that come from `added` while it runs; nothing is accepted yet.
    pub(in crate::http) fn new(listeners: Vec<Listener>, added: mpsc::UnboundedReceiver<Listener>) -> Self {
        Self { listeners, added, acceptors: JoinSet::new(), reading: TaskTracker::new() }
    }

    /// Accepts until the drain begins; connections that are open then go on, and further ones are refused.
    pub(in crate::http) async fn run<H: Handler>(&mut self, shared: &Arc<Shared<H>>, rules: &Arc<ArcSwap<Rules>>) {
        for listener in std::mem::take(&mut self.listeners) {
            self.accept(listener, shared, rules);
        }
        let retirement = &shared.retirement;
        let (mut is_retired, mut has_left) = (false, false);
        loop {
            tokio::select! {
                biased;
                () = shared.drain.cancelled() => break,
                () = retirement.begun(), if !is_retired => {
                    is_retired = true;
                    self.reading.close();
                }
                () = self.reading.wait(), if is_retired && !has_left => {
                    has_left = true;
                    retirement.close_quic();
                }
                Some(listener) = self.added.recv() => self.accept(listener, shared, rules),
                Some(ended) = self.acceptors.join_next() => report(ended),
            }
        }
        // Those that were added too late are closed.
        self.added.close();
        while self.added.try_recv().is_ok() {}
        if retirement.has_begun() {
            // Another process waits for it; each leaves its socket soon after its connections had their time.
            self.reading.close();
            self.reading.wait().await;
            retirement.close_quic();
        }
    }

    /// Accepts in a task of its own.
    fn accept<H: Handler>(&mut self, listener: Listener, shared: &Arc<Shared<H>>, rules: &Arc<ArcSwap<Rules>>) {
        let reading = self.reading.token();
        self.acceptors.spawn(listener.accept(Arc::clone(shared), Arc::clone(rules), reading));
    }

    /// Waits until the clients have been told that their connections are closed, which takes packets that somebody has
    /// to send. Bounded, because a client may be gone.
    pub(in crate::http) async fn closed(&mut self) {
        let _ = timeout(CLOSING, ended(&mut self.acceptors)).await;
    }
}
