//! Another process accepts connections from now on, and this one only finishes those that it has: without a client
//! losing a request.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// Whether a server accepts no more connections because another process does. Clones are of the same server.
#[derive(Clone, Debug, Default)]
pub(super) struct Retirement(Arc<State>);

#[derive(Debug, Default)]
struct State {
    begun: CancellationToken,
    /// The same without a lock, for each response.
    has_begun: AtomicBool,
    grace: OnceLock<Duration>,
    /// Cancelled once no UDP socket is read any more.
    quic_closed: CancellationToken,
}

impl Retirement {
    /// Begins it. Connections may wait for one more request for as long as `grace`.
    pub(super) fn begin(&self, grace: Duration) {
        let _ = self.0.grace.set(grace);
        self.0.has_begun.store(true, Ordering::Release);
        self.0.begun.cancel();
    }

    /// Whether it has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::Acquire)
    }

    /// Waits until it begins.
    pub(super) async fn begun(&self) {
        self.0.begun.cancelled().await;
    }

    /// Returns how long connections may wait for one more request.
    pub(super) fn grace(&self) -> Duration {
        self.0.grace.get().copied().unwrap_or_default()
    }

    /// Notes that no UDP socket is read any more.
    pub(super) fn close_quic(&self) {
        self.0.quic_closed.cancel();
    }

    /// Waits until no UDP socket is read any more.
    pub(super) async fn quic_closed(&self) {
        self.0.quic_closed.cancelled().await;
    }
}
