//! One connection from accept to close.

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::http::Request;
use bytes::Bytes;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Handler, Metrics,
    detect::detect,
    guests::{Guest, Guests},
    pace::Pace,
    service::Conversation,
    stream::Streams,
    tls,
    transport::{Front, Socket, Transport},
    watch::{Activity, Protocol, Reason, Verdict, verdict},
};
use crate::{
    config::{Limits, Timeouts},
    message::Scheme,
};

/// How long an idle connection that was told to close may take over it.
const LINGER: Duration = Duration::from_secs(5);

/// hyper's smallest buffer.
const BUFFER_MIN: usize = 8192;

/// Header fields that hyper parses without an allocation.
const FIELDS_INLINE: usize = 100;

/// What HTTP/2 may hold of one answer that its client has yet to take.
const SEND_BUFFER: usize = 64 * 1024;

/// What HTTP/2's header list size counts for a field beside its bytes (RFC 9113, section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

const PING_MIN: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What all connections of a server have in common.
pub(super) struct Shared<H> {
    pub(super) handler: H,
    pub(super) limits: Limits,
    pub(super) timeouts: Timeouts,
    pub(super) metrics: Metrics,
    /// Connections that may still be opened.
    pub(super) slots: Arc<Semaphore>,
    /// What each client address has open.
    pub(super) guests: Arc<Guests>,
    pub(super) tracker: TaskTracker,
    /// Finish what is under way.
    pub(super) drain: CancellationToken,
    /// Don't even finish.
    pub(super) cut: CancellationToken,
    /// Connections that ended by themselves after the drain had begun.
    pub(super) finished: AtomicUsize,
    /// Connections that were cut.
    pub(super) cuts: AtomicUsize,
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
}

impl<H> Shared<H> {
    pub(super) fn new(
        handler: H,
        limits: Limits,
        timeouts: Timeouts,
        metrics: Metrics,
        drain: CancellationToken,
        slots: usize,
    ) -> Self {
        Self {
            http1: http1(&limits),
            http2: http2(&limits, &timeouts, Streams::new(&timeouts, metrics.clone())),
            guests: Guests::new(&limits),
            handler,
            limits,
            timeouts,
            metrics,
            slots: Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS))),
            tracker: TaskTracker::new(),
            drain,
            cut: CancellationToken::new(),
            finished: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By the client, or after an answer that announced it.
    Done,
    /// In good order because the server stops.
    Drained,
    /// Too busy at the end of the drain.
    Cut,
    /// The client took too long.
    Timeout(Reason),
    /// No ping was answered.
    Unresponsive,
    /// No TLS session came about.
    Handshake,
    /// What came wasn't HTTP, or its header section was too large.
    Malformed,
    /// An answer broke off on our side, and the client must not take it for complete.
    Aborted,
    /// The client broke off in the middle of something.
    Broken,
}

impl End {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Drained => "drained",
            Self::Cut => "cut",
            Self::Timeout(reason) => reason.as_str(),
            Self::Unresponsive => "unresponsive",
            Self::Handshake => "handshake",
            Self::Malformed => "malformed",
            Self::Aborted => "aborted",
            Self::Broken => "broken",
        }
    }

    fn of(outcome: hyper::Result<()>, phase: Phase) -> Self {
        match (outcome, phase) {
            (Ok(()), Phase::Open) => Self::Done,
            (Ok(()), Phase::Draining) => Self::Drained,
            (Ok(()), Phase::Closing) => Self::Timeout(Reason::Idle),
            (Err(error), _) if error.is_parse() => Self::Malformed,
            (Err(error), _) if error.is_timeout() => Self::Unresponsive,
            (Err(error), _) if error.is_user() => Self::Aborted,
            (Err(_), _) => Self::Broken,
        }
    }
}

/// Whether a connection takes further requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It does.
    Open,
    /// It has been told to close after having been idle.
    Closing,
    /// It has been told to close because the server stops.
    Draining,
}

/// Who opened a connection.
pub(super) struct Caller {
    pub(super) ip: IpAddr,
    /// `None` if its address isn't limited.
    pub(super) guest: Option<Guest>,
}

/// Serves one connection and counts how it ended.
pub(super) async fn serve<H: Handler>(
    shared: Arc<Shared<H>>,
    stream: TcpStream,
    caller: Caller,
    tls: Option<TlsAcceptor>,
    slot: OwnedSemaphorePermit,
) {
    let _open = Open::new(shared.metrics.open.clone(), slot);
    let end = converse(&shared, stream, caller, tls).await;
    shared.metrics.closed(end.as_str());
    if end == End::Handshake {
        shared.metrics.handshakes_failed.inc();
    }
    if end == End::Cut {
        shared.cuts.fetch_add(1, Ordering::Relaxed);
    } else if shared.drain.is_cancelled() {
        shared.finished.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a connection as open and holds its slot, also through a panic.
struct Open {
    gauge: Gauge,
    _slot: OwnedSemaphorePermit,
}

impl Open {
    fn new(gauge: Gauge, slot: OwnedSemaphorePermit) -> Self {
        gauge.inc();
        Self { gauge, _slot: slot }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

async fn converse<H: Handler>(
    shared: &Arc<Shared<H>>,
    stream: TcpStream,
    caller: Caller,
    tls: Option<TlsAcceptor>,
) -> End {
    let activity = Arc::new(Activity::new(shared.metrics.panics.clone(), Pace::of(&shared.timeouts)));
    // A token of its own: the common one has a lock that every wake-up of every connection would take.
    let drain = shared.drain.child_token();
    let (scheme, too_late) = match tls {
        Some(_) => (Scheme::Https, End::Handshake),
        None => (Scheme::Http, End::Timeout(Reason::FirstByte)),
    };
    let opening = timeout(shared.timeouts.first_byte, open(Socket::new(stream, activity.clone()), tls));
    let opened = tokio::select! {
        biased;
        opened = opening => opened.unwrap_or(Err(too_late)),
        () = drain.cancelled() => Err(End::Drained),
    };
    let (transport, protocol, replay) = match opened {
        Ok(opened) => opened,
        Err(end) => return end,
    };

    activity.begin();
    let io = TokioIo::new(Front::new(transport, replay, activity.clone()));
    let Caller { ip, guest } = caller;
    let conversation = Arc::new(Conversation::new(shared.clone(), activity.clone(), scheme, ip, guest));
    let service = service_fn(move |request: Request<Incoming>| {
        let conversation = conversation.clone();
        async move { Ok::<_, Infallible>(conversation.answer(request).await) }
    });
    let driver = Driver { activity: &activity, protocol, timeouts: &shared.timeouts, drain: &drain, cut: &shared.cut };
    match protocol {
        Protocol::Http1 => driver.drive(shared.http1.serve_connection(io, service), |it| it.graceful_shutdown()).await,
        Protocol::Http2 => driver.drive(shared.http2.serve_connection(io, service), |it| it.graceful_shutdown()).await,
    }
}

/// The TLS handshake, or on cleartext the first bytes. The caller bounds the time.
async fn open(mut socket: Socket, tls: Option<TlsAcceptor>) -> Result<(Transport, Protocol, Bytes), End> {
    let Some(acceptor) = tls else {
        return match detect(&mut socket).await {
            Ok(Some((protocol, replay))) => Ok((Transport::Plain(socket), protocol, replay)),
            Ok(None) => Err(End::Done),
            Err(_) => Err(End::Broken),
        };
    };
    let stream = acceptor.accept(socket).await.map_err(|_| End::Handshake)?;
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(tls::ALPN_HTTP_2) => Protocol::Http2,
        _ => Protocol::Http1,
    };
    Ok((Transport::Tls(Box::new(stream)), protocol, Bytes::new()))
}

/// Keeps a connection going and within its time.
struct Driver<'a> {
    activity: &'a Activity,
    protocol: Protocol,
    timeouts: &'a Timeouts,
    drain: &'a CancellationToken,
    cut: &'a CancellationToken,
}

impl Driver<'_> {
    /// Polls `connection` to its end, or to the end of our patience. `wind_up` tells it to finish what is under way.
    async fn drive<C>(&self, connection: C, wind_up: impl Fn(Pin<&mut C>)) -> End
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut connection = pin!(connection);
        let mut check = pin!(sleep_until(self.instant(self.activity.now())));
        let mut phase = Phase::Open;
        loop {
            tokio::select! {
                // The connection first: a request that is already there is answered, whatever else has come up.
                biased;
                outcome = connection.as_mut() => return End::of(outcome, phase),
                () = self.drain.cancelled(), if phase == Phase::Open => {
                    phase = Phase::Draining;
                    wind_up(connection.as_mut());
                }
                () = self.cut.cancelled(), if phase != Phase::Open => return End::Cut,
                () = check.as_mut() => match (self.look(), phase) {
                    (Verdict::Fine { check_at }, _) => check.as_mut().reset(self.instant(check_at)),
                    (Verdict::Close(Reason::Idle), Phase::Open) => {
                        phase = Phase::Closing;
                        wind_up(connection.as_mut());
                        check.as_mut().reset(Instant::now() + LINGER);
                    }
                    (Verdict::Close(reason), _) => return End::Timeout(reason),
                },
            }
        }
    }

    fn look(&self) -> Verdict {
        verdict(&self.activity.snapshot(), self.protocol, self.activity.now(), self.timeouts)
    }

    fn instant(&self, at: Duration) -> Instant {
        Instant::from_std(self.activity.instant(at))
    }
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(true)
        .half_close(false)
        // `watch` does it at less cost.
        .header_read_timeout(None)
        // It would flatten bodies into one buffer without a bound.
        .pipeline_flush(false)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(limits.header_bytes_max.max(BUFFER_MIN));
    // Up to that many are parsed on the stack, and `request` counts them again.
    if limits.headers_max > FIELDS_INLINE {
        builder.max_headers(limits.headers_max);
    }
    builder
}

fn http2(limits: &Limits, timeouts: &Timeouts, streams: Streams) -> http2::Builder<Streams> {
    // Just a first sieve, in HTTP/2's own way of counting; `request` holds the limits themselves.
    let list = limits.header_bytes_max.saturating_add(limits.headers_max.saturating_mul(FIELD_OVERHEAD));
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval((timeouts.idle / 2).max(PING_MIN))
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
