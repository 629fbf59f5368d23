//! One connection from its first packet to its close.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use quinn::{Connection, ConnectionError, Incoming, ServerConfig, ZeroRttAccepted};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    by_h3::{Bounds, H3},
    session::{Code, Lost, Opening, Session},
    stream::Requests,
};
use crate::{
    config::Timeouts,
    http::{
        activity::Activity,
        driver::{Driver, Phase, Verdict},
        end::{End, Reason},
        handler::Handler,
        patience::CHECK_MIN,
        request,
        service::Conversation,
        shared::{Open, Peer, Shared},
        trace,
    },
};

/// How long at most a client is left to hear that it is to send no more requests, before an idle connection is closed.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// Counts a handshake with a client whose address may not be its own, until it is over.
pub(super) struct Unvalidated(Arc<AtomicUsize>);

impl Unvalidated {
    pub(super) fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Unvalidated {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection whose first packet has come.
pub(super) struct Arriving {
    pub(super) incoming: Incoming,
    pub(super) server: Arc<ServerConfig>,
    /// `None` if the client has shown that its address is its own.
    pub(super) unvalidated: Option<Unvalidated>,
    /// Bytes of responses that its buffers hold.
    pub(super) send_bytes_max: u64,
    /// Bytes of header sections that have begun to come, beside those of bodies.
    pub(super) gathered_bytes_max: u64,
    /// Whether requests are taken before the handshake is over.
    pub(super) takes_early_data: bool,
}

/// A connection on which requests may be taken.
struct Opened {
    connection: Connection,
    /// The end of the handshake, if early data is taken until then.
    handshake: Option<ZeroRttAccepted>,
}

/// Serves one connection and counts how it ended.
pub(super) async fn serve<H: Handler>(shared: Arc<Shared<H>>, arriving: Arriving, peer: Peer, open: Open) {
    let _open = open;
    let Arriving { incoming, server, unvalidated, send_bytes_max, gathered_bytes_max, takes_early_data } = arriving;
    let bounds = Bounds { section: request::section_max(&shared.limits) as u64, gathered: gathered_bytes_max };
    let activity = Arc::new(Activity::new(shared.metrics.panics.clone()));
    // A token of its own: the common one has a lock that every wake-up of every connection would take.
    let drain = shared.drain.child_token();
    let opened = opened(&shared, &drain, (incoming, server), takes_early_data).await;
    let Opened { connection, handshake } = match opened {
        Ok(opened) => opened,
        Err(end) => return shared.ended(end, &activity),
    };
    trace::protocol("http/3");

    // That of a handshake under way.
    activity.idle_from(activity.millis());
    let conversation = Conversation::new(shared.clone(), activity.clone(), peer);
    let requests = Arc::new(Requests::new(shared.clone(), conversation, activity.clone(), send_bytes_max));
    let end = {
        let mut conversing = pin!(converse(&shared, (&connection, bounds), &requests, &activity, &drain));
        let ended = match handshake {
            None => None,
            Some(handshake) => {
                let handshake = timeout(shared.timeouts.first_byte, handshake);
                tokio::select! {
                    biased;
                    end = conversing.as_mut() => Some(before_handshake(end)),
                    outcome = handshake => has_failed(outcome.is_ok(), &connection).then_some(End::Handshake),
                }
            }
        };
        drop(unvalidated);
        match ended {
            Some(end) => end,
            None => {
                // The client's time to send something begins now.
                activity.idle_from(activity.millis());
                conversing.await
            }
        }
    };
    // Whatever of it is still open is told so by this: a stream that isn't finished is no whole response.
    connection.close(Code::NoError.value().into(), b"");
    shared.ended(end, &activity);
    // Up to then the connection counts among those of its client's address.
    requests.ended().await;
}

/// Does the handshake, in time and before the server stops, or returns how the connection ended. Where early data is
/// taken it has only begun.
async fn opened<H>(
    shared: &Shared<H>,
    drain: &CancellationToken,
    (incoming, server): (Incoming, Arc<ServerConfig>),
    takes_early_data: bool,
) -> Result<Opened, End> {
    let opening = incoming.accept_with(server).map_err(|_| End::Handshake)?;
    let opening = if takes_early_data {
        match opening.into_0rtt() {
            Ok((connection, handshake)) => return Ok(Opened { connection, handshake: Some(handshake) }),
            Err(opening) => opening,
        }
    } else {
        opening
    };
    let opening = timeout(shared.timeouts.first_byte, opening);
    tokio::select! {
        biased;
        opened = opening => match opened {
            Ok(Ok(connection)) => Ok(Opened { connection, handshake: None }),
            Ok(Err(_)) | Err(_) => Err(End::Handshake),
        },
        () = given_up(shared, drain) => Err(End::Drained),
    }
}

/// Ready when handshakes that are under way are given up: at a drain, but not when another process accepts in this one's
/// place. A client that gets through can be told to connect again; one that doesn't would take that for an error.
async fn given_up<H>(shared: &Shared<H>, drain: &CancellationToken) {
    drain.cancelled().await;
    if shared.retirement.has_begun() {
        shared.cut.cancelled().await;
    }
}

/// Whether a handshake has failed that came to its end in time, or didn't.
fn has_failed(in_time: bool, connection: &Connection) -> bool {
    // What the library says of early data here is about clients.
    !in_time || connection.close_reason().is_some()
}

/// Classifies the end of a connection whose handshake wasn't over: unless it came to it in good order, that has failed.
const fn before_handshake(end: End) -> End {
    match end {
        End::Done | End::Drained | End::Cut => end,
        End::Timeout(_) | End::Unresponsive | End::Handshake | End::Malformed | End::Aborted | End::Broken => {
            End::Handshake
        }
    }
}

/// Speaks HTTP on an open connection to its end.
async fn converse<H: Handler>(
    shared: &Shared<H>,
    (connection, bounds): (&Connection, Bounds),
    requests: &Arc<Requests<H>>,
    activity: &Activity,
    drain: &CancellationToken,
) -> End {
    let wind_up = CancellationToken::new();
    let look = |now: Duration| {
        let state = State { open: requests.open(), has_begun: activity.begun() > 0, idle_since: activity.idle_since() };
        verdict(state, now, &shared.timeouts)
    };
    let end = |outcome, phase| ended(outcome, connection.close_reason().as_ref(), activity.is_idle(), phase);
    let driver = Driver { activity, look, drain, cut: &shared.cut };
    let talk = talk(connection.clone(), bounds, requests, &wind_up);
    driver.drive(talk, |_| wind_up.cancel(), end).await
}

/// Takes requests until the connection is lost, or has come to an end after it was asked to.
async fn talk<H: Handler>(
    connection: Connection,
    bounds: Bounds,
    requests: &Arc<Requests<H>>,
    wind_up: &CancellationToken,
) -> Result<(), Lost> {
    let mut session = tokio::select! {
        biased;
        begun = H3::begin(connection.clone(), bounds) => begun?,
        // It waits for the client's first packets where the handshake isn't over.
        () = wind_up.cancelled() => return Ok(()),
    };
    // Until when a client that was told to leave has time to hear it.
    let mut leaves = None;
    loop {
        tokio::select! {
            // What is there already is served.
            biased;
            accepted = session.accept() => match accepted? {
                Some(opening) if leaves.is_some() => opening.reject(),
                Some(opening) => requests.serve(opening),
                None => return Ok(()),
            },
            () = requests.exhausted() => {
                connection.close(Code::ExcessiveLoad.value().into(), b"too many requests without a header section");
                return Err(Lost);
            }
            () = wind_up.cancelled(), if leaves.is_none() => {
                // One that gives no credit can't be told.
                if let Ok(told) = timeout(FAREWELL_MAX, session.go_away()).await {
                    told?;
                }
                leaves = Some(Instant::now() + (connection.rtt() * 2).min(FAREWELL_MAX));
            }
            () = left(requests, leaves), if leaves.is_some() => return Ok(()),
        }
    }
}

/// Ready when no request is open and the client has had its time to hear that it is to leave. What closes a connection
/// overtakes all else that is to be sent on it, and a client that was told knows which of its requests it may repeat.
async fn left<H: Handler>(requests: &Requests<H>, heard: Option<Instant>) {
    if let Some(heard) = heard {
        sleep_until(heard).await;
    }
    requests.ended().await;
}

/// The state of a connection at one moment. Times count from its acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// Streams whose head is yet to come, or whose response is yet to be acknowledged.
    open: usize,
    /// Whether there has been a request.
    has_begun: bool,
    /// When the last stream ended; meaningless while one is open.
    idle_since: Duration,
}

/// Decides about a connection. Streams that are open are watched by their own tasks, and the connection's own silence by
/// QUIC.
fn verdict(state: State, now: Duration, timeouts: &Timeouts) -> Verdict {
    let (allowed, reason) =
        if state.has_begun { (timeouts.idle, Reason::Idle) } else { (timeouts.first_byte, Reason::FirstByte) };
    if state.open > 0 {
        return Verdict::Fine { check_at: now.saturating_add(allowed.max(CHECK_MIN)) };
    }
    let deadline = state.idle_since.saturating_add(allowed);
    if now >= deadline { Verdict::Close(reason) } else { Verdict::Fine { check_at: deadline } }
}

/// Classifies the end of a connection. `reason` is what QUIC says of it, and `is_idle` whether no response was on its way.
fn ended(outcome: Result<(), Lost>, reason: Option<&ConnectionError>, is_idle: bool, phase: Phase) -> End {
    let in_order = match phase {
        Phase::Open => End::Done,
        Phase::Draining => End::Drained,
        Phase::Closing => End::Timeout(Reason::Idle),
    };
    match (outcome, reason) {
        (Ok(()), _) => in_order,
        (Err(Lost), Some(ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_))) if is_idle => {
            in_order
        }
        (Err(Lost), Some(ConnectionError::TimedOut)) => End::Unresponsive,
        // The libraries close a connection that breaks the rules.
        (Err(Lost), Some(ConnectionError::TransportError(_) | ConnectionError::LocallyClosed) | None) => End::Malformed,
        (Err(Lost), Some(_)) => End::Broken,
    }
}

#[cfg(test)]
mod tests {
    use quinn::ApplicationClose;

    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_connection_is_closed_when_it_is_idle_for_too_long() {
        let timeouts = Timeouts { first_byte: secs(5), idle: secs(60), ..Timeouts::default() };
        let fine = |at| Verdict::Fine { check_at: secs(at) };
        let quiet = State { open: 0, has_begun: true, idle_since: secs(100) };
        let silent = State { has_begun: false, ..quiet };
        let cases = [
            ("silent, early", silent, 101, fine(105)),
            ("silent, late", silent, 105, Verdict::Close(Reason::FirstByte)),
            ("a head that is being read", State { open: 1, ..silent }, 105, fine(110)),
            ("idle, early", quiet, 159, fine(160)),
            ("idle, late", quiet, 160, Verdict::Close(Reason::Idle)),
            ("busy for long", State { open: 3, ..quiet }, 1_000, fine(1_060)),
        ];
        for (name, state, now, expected) in cases {
            assert_eq!(verdict(state, secs(now), &timeouts), expected, "{name}");
        }
    }

    #[test]
    fn what_ends_before_the_handshake_has_failed_unless_it_was_to_end() {
        for (end, expected) in [
            (End::Done, End::Done),
            (End::Drained, End::Drained),
            (End::Cut, End::Cut),
            (End::Malformed, End::Handshake),
            (End::Broken, End::Handshake),
            (End::Unresponsive, End::Handshake),
            (End::Timeout(Reason::FirstByte), End::Handshake),
        ] {
            assert_eq!(before_handshake(end), expected);
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let closed = ConnectionError::ApplicationClosed(ApplicationClose {
            error_code: Code::NoError.value().into(),
            reason: bytes::Bytes::new(),
        });
        let lost = |reason: ConnectionError| (Err(Lost), Some(reason));
        let cases = [
            ("asked to, and done", (Ok(()), None), true, Phase::Draining, End::Drained),
            ("the client's last word", (Ok(()), None), true, Phase::Open, End::Done),
            ("closed by the client", lost(closed.clone()), true, Phase::Open, End::Done),
            ("closed by it after it was asked to", lost(closed.clone()), true, Phase::Draining, End::Drained),
            ("in the middle of a response", lost(closed), false, Phase::Open, End::Broken),
            ("gone", lost(ConnectionError::TimedOut), true, Phase::Open, End::Unresponsive),
            ("restarted", lost(ConnectionError::Reset), true, Phase::Open, End::Broken),
            ("against the rules", lost(ConnectionError::LocallyClosed), true, Phase::Open, End::Malformed),
        ];
        for (name, (outcome, reason), is_idle, phase, expected) in cases {
            assert_eq!(ended(outcome, reason.as_ref(), is_idle, phase), expected, "{name}");
        }
    }
}
