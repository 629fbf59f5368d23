//! The state that all connections of a server share, whichever front they come by: limits, counts, and the tokens by
//! which it stops.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span, debug};

use super::{
    activity::Activity,
    end::End,
    guests::{Guest, Guests},
    metrics::Metrics,
    retirement::Retirement,
    slots::{Slot, Slots},
    trace,
};
use crate::{
    config::{Limits, Timeouts},
    message::Scheme,
};

/// How long a connection that is being cut may take to notice.
const CUT_WAIT: Duration = Duration::from_secs(1);

/// How long a listener may take to hand on the connection that it was accepting when another process began to.
const ACCEPT_TIME: Duration = Duration::from_millis(50);

/// The rules for connections that are opened from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) limits: Limits,
    pub(super) timeouts: Timeouts,
}

/// The state that all connections of a server share, and the rules that some of them were opened by.
pub(super) struct Shared<H> {
    pub(super) handler: H,
    pub(super) limits: Limits,
    pub(super) timeouts: Timeouts,
    pub(super) metrics: Metrics,
    /// Cancelled when connections shall finish what is under way.
    pub(super) drain: CancellationToken,
    /// Cancelled when connections that can be told so take no further requests, with `drain` or before it.
    pub(super) retire: CancellationToken,
    /// Whether another process accepts from now on.
    pub(super) retirement: Retirement,
    /// Cancelled when connections shall be cut.
    pub(super) cut: CancellationToken,
    /// Cancelled when the server stops, and `drain` with it.
    stopping: CancellationToken,
    /// Connections that may still be opened.
    slots: Slots,
    /// The open connections and requests of each client address.
    guests: Arc<Guests>,
    tracker: TaskTracker,
    /// Connections that ended by themselves after the drain had begun.
    finished: Arc<AtomicUsize>,
    /// Connections that were cut.
    cuts: Arc<AtomicUsize>,
}

/// The counts of how the connections ended that were open when the drain began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended by themselves in time.
    pub finished: usize,
    /// Connections that were still busy at the end of `timeouts.drain`.
    pub cut: usize,
}

/// The client's end of a connection.
pub(super) struct Peer {
    /// An IPv4 address if it came over IPv4, whatever the socket is.
    pub(super) ip: IpAddr,
    /// The scheme of the connection.
    pub(super) scheme: Scheme,
    /// `None` if its address isn't limited.
    pub(super) guest: Option<Guest>,
    /// When the connection was accepted.
    pub(super) accepted: Instant,
    /// The address of the connection's near end, if the front knows it.
    pub(super) local: Option<SocketAddr>,
}

/// A connection within all limits.
pub(super) struct Admitted {
    pub(super) peer: Peer,
    pub(super) open: Open,
    /// Disabled unless the log's level needs it.
    pub(super) span: Span,
}

/// Counts a connection as open and holds its slot, also through a panic.
pub(super) struct Open {
    gauge: Gauge,
    _slot: Slot,
}

impl Open {
    fn new(gauge: Gauge, slot: Slot) -> Self {
        gauge.inc();
        Self { gauge, _slot: slot }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl<H> Shared<H> {
    /// Returns a server that serves until `drain` is cancelled, as many connections at once as there are slots.
    pub(super) fn new(
        handler: H,
        limits: Limits,
        timeouts: Timeouts,
        metrics: Metrics,
        drain: CancellationToken,
        (slots, retirement): (Slots, Retirement),
    ) -> Self {
        Self {
            guests: Guests::new(&limits),
            handler,
            limits,
            timeouts,
            metrics,
            stopping: drain.clone(),
            retire: drain.child_token(),
            retirement,
            drain,
            cut: CancellationToken::new(),
            slots,
            tracker: TaskTracker::new(),
            finished: Arc::default(),
            cuts: Arc::default(),
        }
    }

    /// Returns the same server for connections that are opened by these rules and finish what is under way when `drain` is
    /// cancelled, which is a child of the server's own; `retire` is one of `drain`.
    pub(super) fn under(&self, rules: &Rules, drain: CancellationToken, retire: CancellationToken) -> Self
    where
        H: Clone,
    {
        Self {
            guests: self.guests.under(&rules.limits),
            handler: self.handler.clone(),
            limits: rules.limits.clone(),
            timeouts: rules.timeouts.clone(),
            metrics: self.metrics.clone(),
            drain,
            retire,
            retirement: self.retirement.clone(),
            cut: self.cut.clone(),
            stopping: self.stopping.clone(),
            slots: self.slots.clone(),
            tracker: self.tracker.clone(),
            finished: Arc::clone(&self.finished),
            cuts: Arc::clone(&self.cuts),
        }
    }

    /// Waits until another connection may be opened. A front takes a slot before it accepts.
    pub(super) async fn slot(&self) -> io::Result<Slot> {
        self.slots.take().await
    }

    /// Counts a connection that was accepted just now; `None` if its address has as many open as it may.
    pub(super) fn admit(&self, address: SocketAddr, scheme: Scheme, slot: Slot) -> Option<Admitted> {
        self.metrics.accepted.inc();
        // A client of an IPv6 socket that came over IPv4 has an IPv4 address.
        let ip = address.ip().to_canonical();
        let Ok(guest) = self.guests.admit(ip) else {
            self.metrics.closed("client-limit");
            debug!(peer = %address, "connection refused: its address has as many open as it may");
            return None;
        };
        let span = trace::connection(address, scheme);
        debug!(parent: &span, "connection accepted");
        let open = Open::new(self.metrics.open.clone(), slot);
        Some(Admitted { peer: Peer { ip, scheme, guest, accepted: Instant::now(), local: None }, open, span })
    }

    /// Runs a connection to its end; the drain waits for it.
    pub(super) fn spawn<F>(&self, span: Span, connection: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if span.is_disabled() {
            self.tracker.spawn(connection);
        } else {
            self.tracker.spawn(connection.instrument(span));
        }
    }

    /// Counts how a connection ended.
    pub(super) fn ended(&self, end: End, activity: &Activity) {
        self.metrics.closed(end.as_str());
        debug!(
            reason = end.as_str(),
            requests = activity.begun(),
            unfinished = activity.in_flight(),
            open_ms = activity.millis(),
            "connection closed"
        );
        if end == End::Handshake {
            self.metrics.handshakes_failed.inc();
        }
        if end == End::Cut {
            self.cuts.fetch_add(1, Ordering::Relaxed);
        } else if self.stopping.is_cancelled() {
            self.finished.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Once another process accepts, waits until no connection is open, or until they had time for one more request, and
    /// begins the drain.
    pub(super) async fn retired(&self) {
        tokio::select! {
            () = self.drain.cancelled() => return,
            () = self.retirement.begun() => {}
        }
        self.tracker.close();
        let last = async {
            sleep(ACCEPT_TIME).await;
            self.tracker.wait().await;
        };
        tokio::select! {
            () = self.drain.cancelled() => {}
            _ = timeout(self.retirement.grace(), last) => {}
        }
        self.drain.cancel();
    }

    /// Waits for the open connections, cuts what is left at the end of `timeouts.drain`, and counts both kinds. Called
    /// once no front accepts any more.
    pub(super) async fn drained(&self) -> Drained {
        self.tracker.close();
        if timeout(self.timeouts.drain, self.tracker.wait()).await.is_err() {
            self.cut.cancel();
            // Bounded, because a connection whose handler blocks its thread can't notice anything.
            let _ = timeout(CUT_WAIT, self.tracker.wait()).await;
        }
        let stuck = self.tracker.len();
        Drained { finished: self.finished.load(Ordering::Relaxed), cut: self.cuts.load(Ordering::Relaxed) + stuck }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    fn shared(slots: usize, limits: &Limits) -> Shared<()> {
        let timeouts = Timeouts { drain: Duration::from_millis(20), ..Timeouts::default() };
        let shared = (Slots::new(slots), Retirement::default());
        Shared::new((), limits.clone(), timeouts, Metrics::new(), CancellationToken::new(), shared)
    }

    async fn admit(shared: &Shared<()>, address: &str) -> Option<Admitted> {
        let slot = shared.slot().await.unwrap();
        shared.admit(address.parse().unwrap(), Scheme::Https, slot)
    }

    #[tokio::test]
    async fn a_connection_is_counted_while_it_is_open_and_no_address_has_too_many() {
        let limits = Limits { client_connections_max: 1, ..Limits::default() };
        let shared = shared(2, &limits);
        let first = admit(&shared, "[::ffff:192.0.2.1]:9").await.unwrap();
        assert_eq!(first.peer.ip, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(first.peer.scheme, Scheme::Https);
        assert!(admit(&shared, "192.0.2.1:10").await.is_none(), "one address, however it is written");
        assert_eq!((shared.metrics.accepted.get(), shared.metrics.closes("client-limit")), (2, 1));

        let second = admit(&shared, "192.0.2.2:9").await.unwrap();
        assert_eq!((shared.metrics.open.get(), shared.slots.free()), (2, 0));
        drop((first, second));
        assert_eq!((shared.metrics.open.get(), shared.slots.free()), (0, 2));
    }

    #[tokio::test]
    async fn other_rules_share_what_is_counted() {
        let shared = shared(3, &Limits { client_connections_max: 1, ..Limits::default() });
        let first = admit(&shared, "192.0.2.1:9").await.unwrap();
        let limits = Limits { client_connections_max: 2, ..Limits::default() };
        let drain = shared.drain.child_token();
        let other = shared.under(&Rules { limits, timeouts: Timeouts::default() }, drain.clone(), drain.child_token());
        let second = admit(&other, "192.0.2.1:10").await.unwrap();
        assert!(admit(&other, "192.0.2.1:11").await.is_none(), "both count");
        assert_eq!((shared.metrics.open.get(), other.slots.free()), (2, 1));
        drop(first);
        assert!(admit(&shared, "192.0.2.1:12").await.is_none(), "it has one by the other rules");
        drop(second);
        // A listener that is closed is no drain of the server.
        other.drain.cancel();
        other.ended(End::Drained, &Activity::new(Counter::default()));
        assert!(!shared.drain.is_cancelled());
        assert_eq!(shared.drained().await, Drained { finished: 0, cut: 0 });
    }

    #[tokio::test]
    async fn ends_are_counted_by_reason_and_whether_they_came_in_time() {
        let shared = shared(1, &Limits::default());
        let activity = Activity::new(Counter::default());
        shared.ended(End::Handshake, &activity);
        assert_eq!((shared.metrics.closes("handshake"), shared.metrics.handshakes_failed.get()), (1, 1));
        assert_eq!(shared.drained().await, Drained { finished: 0, cut: 0 }, "it ended before the drain");
        shared.drain.cancel();
        shared.ended(End::Done, &activity);
        shared.ended(End::Drained, &activity);
        shared.ended(End::Cut, &activity);
        assert_eq!(shared.drained().await, Drained { finished: 2, cut: 1 });
    }

    #[tokio::test]
    async fn a_server_that_is_succeeded_drains_with_its_last_connection_or_when_their_time_is_over() {
        for is_open in [false, true] {
            let shared = shared(1, &Limits::default());
            let cut = shared.cut.clone();
            if is_open {
                shared.spawn(Span::none(), async move { cut.cancelled().await });
            }
            shared.retirement.begin(if is_open { Duration::from_millis(20) } else { Duration::from_secs(3600) });
            timeout(Duration::from_secs(20), shared.retired()).await.unwrap();
            assert!(shared.drain.is_cancelled() && shared.retirement.has_begun());
        }
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_stopped_at_the_end_of_the_drain() {
        let shared = shared(1, &Limits::default());
        let cut = shared.cut.clone();
        shared.spawn(Span::none(), async move { cut.cancelled().await });
        assert_eq!(shared.drained().await, Drained { finished: 0, cut: 0 });
        assert!(shared.cut.is_cancelled() && shared.tracker.is_empty());
    }
}
