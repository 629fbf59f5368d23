//! The HTTP/2 connections of one endpoint. Its requests share them: each connection has as many at a time as the peer
//! allows (`SETTINGS_MAX_CONCURRENT_STREAMS`), and when all are full another one is opened, one after the other, so
//! that a burst doesn't open one for each request. None is used before the peer's settings are known, since a stream beyond
//! its limit would be refused.
//!
//! A connection that is closed, or that the peer is about to close (GOAWAY), takes no further requests. The client
//! library hands back what it hasn't begun to send; what the peer didn't process it names (`failure`). Both hold only
//! if one task looks at the requests that come and at what the peer says, one after the other (`Driven`), and what it said
//! before it closed is read although nothing can be written any more (`reading_on`).

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use http::{Request, Response, Uri, Version};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http2::{self, SendRequest},
    },
    rt::Executor,
};
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tower::ServiceExt;

use super::{
    dial::{DialError, Dialer, Line},
    failure::Fault,
    reading_on::{Gone, ReadingOn},
    upload::Upload,
};
use crate::config;

/// Bytes that HTTP/2's header list size counts for a field beside its own (RFC 9113, section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Bytes of one request's body that the client library takes before the peer does.
const SEND_BYTES_MAX: usize = 128 * 1024;

/// Bytes of one response that its peer may send ahead of its reader.
const STREAM_WINDOW: u32 = 512 * 1024;

/// Bounds of what it may send ahead on one connection.
const CONNECTION_WINDOW_MIN: u32 = 4 << 20;
const CONNECTION_WINDOW_MAX: u32 = 256 << 20;

/// How long a connection on which nothing has been sent yet stays open at least: those who opened it are about to.
const FIRST_USE: Duration = Duration::from_secs(1);

/// The HTTP/2 connections of one endpoint.
pub(super) struct Multiplexer(Arc<Core>);

/// How connections are opened and how long they are kept.
struct Settings {
    /// How long an unused one stays open.
    keep_alive: Duration,
    /// How long nothing has come before the peer is pinged, while requests are under way; `None` if it never is.
    ping: Option<Duration>,
    /// How long the peer may take to respond to that.
    ping_timeout: Duration,
    window: u32,
    /// Size of a response's header list, in HTTP/2's own way of counting.
    head_size_max: u32,
    /// Whether the peer may choose HTTP/1.1 (ALPN).
    may_fall_back: bool,
}

struct Core {
    dialer: Dialer,
    uri: Uri,
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Vec<Arc<Connection>>,
    /// The one that is being opened; gone if all who waited for it have left.
    opening: Option<WeakShared<Opening>>,
    /// Connections opened so far.
    opened: u64,
}

/// The version that the peer chose.
type Opening = BoxFuture<'static, Result<Version, Arc<DialError>>>;

/// What a connection needs to be polled. The library makes two tasks of it, and in two threads one of them would begin
/// to send a request while the other reads the GOAWAY that refuses it, which is then told of a request that the peer
/// has processed.
struct Driven {
    /// Takes requests and begins to send them.
    dispatch: Pin<Box<http2::Connection<ReadingOn<Line>, Upload, Spawner>>>,
    /// Reads and writes frames; `None` when the connection has ended.
    wire: Option<BoxFuture<'static, ()>>,
    /// Whether the peer takes nothing any more.
    gone: Gone,
}

impl Driven {
    /// Polls both. It is ready when no further request is taken; those under way need `wire` until they end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        if let Some(wire) = &mut self.wire
            && wire.as_mut().poll(cx).is_ready()
        {
            self.wire = None;
        }
        if self.is_read_on() {
            // A request that was begun now would be taken for one that was sent. It comes back when all is read.
            return Poll::Pending;
        }
        self.dispatch.as_mut().poll(cx)
    }

    /// Whether only what the peer has said before it closed is still read.
    fn is_read_on(&self) -> bool {
        self.wire.is_some() && self.gone.is_noted()
    }

    /// Returns how many requests the peer allows at a time; 0 until its settings are known.
    fn streams_max(&self) -> usize {
        self.dispatch.current_max_send_streams()
    }
}

/// A connection that has been opened and isn't driven yet.
struct Opened {
    sender: SendRequest<Upload>,
    driven: Driven,
    peer: Option<SocketAddr>,
}

impl Multiplexer {
    /// Returns the connections of an endpoint, none of which is open yet.
    pub(super) fn new(uri: Uri, pool: &config::Pool, dialer: Dialer) -> Self {
        let settings = Settings {
            keep_alive: pool.keep_alive,
            ping: (!pool.ping.is_zero()).then_some(pool.ping),
            ping_timeout: pool.ping_timeout,
            window: connection_window(pool.connections_max),
            head_size_max: head_size(pool.response_headers_max, pool.response_header_bytes_max),
            may_fall_back: pool.http == config::OriginHttp::Auto,
        };
        Self(Arc::new(Core { dialer, uri, settings, state: Mutex::default() }))
    }

    /// Returns a place on a connection, which is opened if all that are open are full; `None` if the peer chose
    /// HTTP/1.1. `newer` wants one that isn't open yet.
    ///
    /// # Errors
    /// A fault, if no connection came about within the time to connect.
    pub(super) async fn lease(&self, newer: bool) -> Result<Option<Lease>, Fault> {
        let after = if newer { self.0.state.lock().opened } else { 0 };
        match timeout(self.0.dialer.limit(), self.0.lease(after)).await {
            Ok(leased) => leased.map_err(|error| Fault::of_dial(&error)),
            Err(_) => Err(Fault::of_dial(&self.0.dialer.timeout())),
        }
    }

    /// Returns a place on a connection of its own, which nothing else uses; `None` if the peer chose HTTP/1.1.
    ///
    /// # Errors
    /// A fault, if it didn't come about within the time to connect.
    pub(super) async fn lease_alone(&self) -> Result<Option<Lease>, Fault> {
        let connected = timeout(self.0.dialer.limit(), Box::pin(self.0.connect())).await;
        let connected = connected.unwrap_or_else(|_| Err(self.0.dialer.timeout()));
        let Some(opened) = connected.map_err(|error| Fault::of_dial(&error))? else { return Ok(None) };
        let (connection, driven) = Connection::new(0, opened);
        let connection = Arc::new(connection);
        let lease = connection.lease();
        tokio::spawn(drive(driven, connection, Weak::new(), Duration::ZERO));
        Ok(lease)
    }

    /// Has further requests take no connections to these addresses, which are closed as soon as nothing uses them.
    pub(super) fn leave(&self, gone: &[SocketAddr]) {
        let is_gone = |peer: SocketAddr| gone.iter().any(|gone| (gone.ip(), gone.port()) == (peer.ip(), peer.port()));
        for connection in &self.0.state.lock().open {
            if connection.peer.is_some_and(is_gone) {
                connection.is_retired.store(true, Ordering::Relaxed);
                connection.freed.notify_one();
            }
        }
    }
}

/// Returns how much a peer may send ahead on one connection: so much that half of the places at an endpoint, which is
/// what clients that are waited for may hold, don't keep it from sending for the others.
fn connection_window(connections_max: usize) -> u32 {
    let waited_for = u32::try_from(connections_max / 2 + 2).unwrap_or(u32::MAX);
    STREAM_WINDOW.saturating_mul(waited_for).clamp(CONNECTION_WINDOW_MIN, CONNECTION_WINDOW_MAX)
}

/// Returns the size of the header list that a response of so many fields and bytes may have at most.
fn head_size(fields_max: usize, bytes_max: usize) -> u32 {
    u32::try_from(bytes_max.saturating_add(fields_max.saturating_mul(FIELD_OVERHEAD))).unwrap_or(u32::MAX)
}

impl Core {
    async fn lease(self: &Arc<Self>, after: u64) -> Result<Option<Lease>, Arc<DialError>> {
        loop {
            let opening = {
                let mut state = self.state.lock();
                if let Some(lease) = state.lease(after) {
                    return Ok(Some(lease));
                }
                self.opening(&mut state)
            };
            if opening.await? != Version::HTTP_2 {
                return Ok(None);
            }
        }
    }

    /// Returns the connection that is being opened; it goes on as long as somebody waits for it.
    fn opening(self: &Arc<Self>, state: &mut State) -> Shared<Opening> {
        if let Some(opening) = state.opening.as_ref().and_then(WeakShared::upgrade) {
            return opening;
        }
        let core = Arc::clone(self);
        let opening = async move { core.open().await.map_err(Arc::new) }.boxed().shared();
        state.opening = opening.downgrade();
        opening
    }

    async fn open(self: &Arc<Self>) -> Result<Version, DialError> {
        let connected = self.connect().await;
        let mut state = self.state.lock();
        // Who comes from here on sees what has been opened, or opens another.
        state.opening = None;
        let Some(opened) = connected? else { return Ok(Version::HTTP_11) };
        state.opened += 1;
        let (connection, driven) = Connection::new(state.opened, opened);
        let connection = Arc::new(connection);
        state.open.push(Arc::clone(&connection));
        drop(state);
        tokio::spawn(drive(driven, connection, Arc::downgrade(self), self.settings.keep_alive));
        Ok(Version::HTTP_2)
    }

    /// Opens a connection and waits for the peer's settings; `None` if the peer chose HTTP/1.1.
    async fn connect(&self) -> Result<Option<Opened>, DialError> {
        let line = self.dialer.clone().oneshot(self.uri.clone()).await?;
        if line.is_tls() && !line.has_chosen_http2() {
            return if self.settings.may_fall_back { Ok(None) } else { Err(DialError::NotHttp2) };
        }
        let peer = line.peer();
        let (spawner, line) = (Spawner::default(), ReadingOn::new(line.shared()));
        let gone = line.gone();
        let (sender, dispatch) = self.builder(&spawner).handshake(line).await.map_err(DialError::Handshake)?;
        let mut driven = Driven { dispatch: Box::pin(dispatch), wire: spawner.wire(), gone };
        poll_fn(|cx| match driven.poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(DialError::NoSettings)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(DialError::Handshake(error))),
            Poll::Pending if driven.streams_max() == 0 => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await?;
        Ok(Some(Opened { sender, driven, peer }))
    }

    fn builder(&self, spawner: &Spawner) -> http2::Builder<Spawner> {
        let mut builder = http2::Builder::new(spawner.clone());
        builder
            .timer(TokioTimer::new())
            .initial_max_send_streams(0_usize)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(self.settings.window)
            .max_header_list_size(self.settings.head_size_max)
            .max_send_buf_size(SEND_BYTES_MAX)
            .keep_alive_interval(self.settings.ping)
            .keep_alive_timeout(self.settings.ping_timeout);
        builder
    }
}

impl State {
    /// Returns a place on the oldest connection that has one, so that those which aren't needed any more fall idle.
    fn lease(&mut self, after: u64) -> Option<Lease> {
        self.open.retain(|connection| !connection.is_closed() && !connection.is_retired.load(Ordering::Relaxed));
        self.open.iter().filter(|connection| connection.number > after).find_map(Connection::lease)
    }

    fn remove(&mut self, connection: &Arc<Connection>) {
        self.open.retain(|other| !Arc::ptr_eq(other, connection));
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        for connection in &self.state.get_mut().open {
            connection.freed.notify_one();
        }
    }
}

/// An open connection.
struct Connection {
    /// Newer ones have higher numbers.
    number: u64,
    /// Gone when the connection takes no further requests: what is put into the library's queue as its reader ends
    /// comes back to its sender only when the last of these is dropped.
    sender: Mutex<Option<Sender>>,
    /// The address at its other end, if it has one.
    peer: Option<SocketAddr>,
    /// Requests that have it at present.
    streams: AtomicUsize,
    /// How many the peer allows.
    streams_max: AtomicUsize,
    is_used: AtomicBool,
    /// It has brought a response.
    has_responded: AtomicBool,
    /// It takes no further requests.
    is_retired: AtomicBool,
    /// Nothing uses it any more.
    freed: Notify,
}

impl Connection {
    /// Returns it, and the task that it needs.
    fn new(number: u64, Opened { sender, driven, peer }: Opened) -> (Self, Driven) {
        let connection = Self {
            number,
            sender: Mutex::new(Some(Sender(sender))),
            peer,
            streams: AtomicUsize::new(0),
            streams_max: AtomicUsize::new(driven.streams_max()),
            is_used: AtomicBool::new(false),
            has_responded: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            freed: Notify::new(),
        };
        (connection, driven)
    }

    /// Returns a place on it, if the peer allows one more. Called under the lock of the state only, so that the count
    /// is right.
    fn lease(self: &Arc<Self>) -> Option<Lease> {
        let is_full = self.streams.load(Ordering::Acquire) >= self.streams_max.load(Ordering::Relaxed);
        if is_full || self.is_retired.load(Ordering::Relaxed) {
            return None;
        }
        self.streams.fetch_add(1, Ordering::AcqRel);
        self.is_used.store(true, Ordering::Relaxed);
        Some(Lease(Arc::clone(self)))
    }

    fn is_closed(&self) -> bool {
        self.sender.lock().as_ref().is_none_or(|sender| sender.0.is_closed())
    }

    fn is_free(&self) -> bool {
        self.streams.load(Ordering::Acquire) == 0
    }
}

/// A request's place on a connection, from before it is sent until its response's body has ended or is dropped.
pub(super) struct Lease(Arc<Connection>);

/// A request under way. What the library hasn't begun to send comes back with the error.
pub(super) type Sending =
    Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>> + Send>>;

/// The way by which one request goes onto a connection.
#[derive(Clone)]
pub(super) struct Sender(SendRequest<Upload>);

impl Sender {
    /// Sends a request, whose URI has the authority to be named.
    pub(super) fn send(mut self, request: Request<Upload>) -> Sending {
        Box::pin(self.0.try_send_request(request))
    }
}

impl Lease {
    /// Returns the way by which its request goes onto the connection; `None` if that takes no further requests.
    pub(super) fn sender(&self) -> Option<Sender> {
        self.0.sender.lock().clone()
    }

    /// Notes that the connection has brought a response.
    pub(super) fn note_response(&self) {
        self.0.has_responded.store(true, Ordering::Relaxed);
    }

    /// Whether the connection has brought a response.
    pub(super) fn has_responded(&self) -> bool {
        self.0.has_responded.load(Ordering::Relaxed)
    }

    /// Has further requests take other connections: on this one the peer has left something unsaid, perhaps in the
    /// middle of a header section, in which nothing else can be said either (RFC 9113, section 4.3).
    pub(super) fn retire(&self) {
        self.0.is_retired.store(true, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.freed.notify_one();
        }
    }
}

/// Runs a connection to its end, or until nothing has used it for `keep`. Those that belong to no endpoint any more end
/// so as well.
async fn drive(mut driven: Driven, connection: Arc<Connection>, core: Weak<Core>, keep: Duration) {
    loop {
        let unused = connection.is_free();
        let patience = if connection.is_used.load(Ordering::Relaxed) { keep } else { keep.max(FIRST_USE) };
        let ended = poll_fn(|cx| {
            let polled = driven.poll(cx);
            connection.streams_max.store(driven.streams_max(), Ordering::Relaxed);
            if driven.is_read_on() {
                connection.is_retired.store(true, Ordering::Relaxed);
            }
            polled.map(drop)
        });
        tokio::select! {
            () = ended => break,
            // What belongs to no endpoint any more isn't used again, nor is what is given up.
            () = connection.freed.notified() => if is_over(&core, &connection) && retires(&core, &connection) {
                break;
            },
            () = sleep(patience), if unused => if retires(&core, &connection) {
                break;
            },
        }
    }
    if let Some(core) = core.upgrade() {
        core.state.lock().remove(&connection);
    }
    let Driven { dispatch, wire, .. } = driven;
    drop(dispatch);
    *connection.sender.lock() = None;
    drop(connection);
    if let Some(wire) = wire {
        wire.await;
    }
}

/// Whether no request is to get the connection any more.
fn is_over(core: &Weak<Core>, connection: &Connection) -> bool {
    core.strong_count() == 0 || connection.is_retired.load(Ordering::Relaxed)
}

/// Whether the connection is given up, after which no request gets it any more.
fn retires(core: &Weak<Core>, connection: &Arc<Connection>) -> bool {
    let Some(core) = core.upgrade() else { return connection.is_free() };
    let mut state = core.state.lock();
    let retires = connection.is_free();
    if retires {
        state.remove(connection);
    }
    retires
}

/// Runs the tasks of a connection, but for its first one, which reads and writes: that is the driver's.
#[derive(Clone, Default)]
struct Spawner(Arc<First>);

#[derive(Default)]
struct First {
    has_come: AtomicBool,
    task: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Spawner {
    /// Returns the first task.
    fn wire(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.task.lock().take()
    }
}

impl<F> Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        if self.0.has_come.swap(true, Ordering::Relaxed) {
            tokio::spawn(task);
        } else {
            *self.0.task.lock() = Some(task.boxed());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io::{self, ErrorKind},
    };

    use hyper::rt::{Read, ReadBufCursor, Write};

    use super::{super::failure::Reason, *};

    /// Frames (RFC 9113, section 6): settings without any, and that no stream was processed.
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// A peer that closes when it is told to. What it said last comes as the first write fails.
    struct Peer {
        said: VecDeque<u8>,
        closes: Arc<AtomicBool>,
        has_closed: bool,
    }

    impl Read for Peer {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            if this.said.is_empty() && !this.has_closed {
                return Poll::Pending;
            }
            let most = this.said.len().min(buf.remaining());
            buf.put_slice(&this.said.drain(..most).collect::<Vec<_>>());
            Poll::Ready(Ok(()))
        }
    }

    impl Write for Peer {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            if !this.closes.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(bytes.len()));
            }
            this.said.extend(GOAWAY);
            this.has_closed = true;
            Poll::Ready(Err(ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_goaway_that_is_read_after_a_write_has_failed_counts() {
        let closes = Arc::new(AtomicBool::new(false));
        let peer = Peer { said: SETTINGS.into(), closes: Arc::clone(&closes), has_closed: false };
        let (line, spawner) = (ReadingOn::new(peer), Spawner::default());
        let gone = line.gone();
        let mut builder = http2::Builder::new(spawner.clone());
        builder.timer(TokioTimer::new()).initial_max_send_streams(0_usize);
        let (mut sender, dispatch) = builder.handshake(line).await.unwrap();
        let (mut dispatch, mut wire) = (Box::pin(dispatch), spawner.wire());
        let mut is_over = false;
        let mut drive = |cx: &mut Context<'_>| {
            if let Some(task) = &mut wire
                && task.as_mut().poll(cx).is_ready()
            {
                wire = None;
            }
            if !is_over && (wire.is_none() || !gone.is_noted()) {
                is_over = dispatch.as_mut().poll(cx).is_ready();
            }
            dispatch.current_max_send_streams()
        };
        poll_fn(|cx| if drive(cx) == 0 { Poll::Pending } else { Poll::Ready(()) }).await;
        closes.store(true, Ordering::Relaxed);
        let mut sending = Box::pin(sender.try_send_request(Request::post("http://a/").body(Upload::empty()).unwrap()));
        let outcome = poll_fn(|cx| {
            drive(cx);
            sending.as_mut().poll(cx)
        });
        let fault = Fault::of_stream(outcome.await.unwrap_err().error(), false);
        assert_eq!((fault.reason, fault.lapsed), (Reason::ConnectionClosed, true), "{}", fault.detail);
        assert!(gone.is_noted());
    }

    #[test]
    fn a_connection_is_never_full_of_bodies_that_wait_for_their_clients() {
        for (connections_max, wanted) in [(1, 4 << 20), (64, 17 << 20), (256, 65 << 20), (100_000, 256 << 20)] {
            assert_eq!(connection_window(connections_max), wanted, "{connections_max}");
        }
    }
}
