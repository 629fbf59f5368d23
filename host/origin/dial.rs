//! Opening connections: one limit for the name, the socket (`reach`) and the TLS handshake together.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{Extensions, Uri};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use thiserror::Error;
use tokio::time::timeout;
use tower::Service;

use super::{
    reach::{Reach, Socket},
    trust::{self, TlsError},
};
use crate::{clock, config, message::raw_query};

type Stream = MaybeHttpsStream<TokioIo<Socket>>;

/// Bytes that are read of a connection at once, and so the longest piece of a response's body: a body on its way holds a
/// few pieces that nobody counts.
pub(super) const PIECE_BYTES: usize = 16 * 1024;

/// Opens connections to one endpoint, cleartext or TLS by the URI's scheme.
#[derive(Clone)]
pub(super) struct Dialer {
    https: HttpsConnector<Reach>,
    limit: Duration,
    /// Whether each connection is opened for one request, which no other takes.
    is_for_one: bool,
}

/// Why a connection didn't come about.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error("no connection within {limit_ms} ms")]
    Timeout { limit_ms: u64 },
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the HTTP/2 connection failed before it could be used: {0}")]
    Handshake(#[source] hyper::Error),
    #[error("the HTTP/2 connection closed before the endpoint had sent its settings")]
    NoSettings,
    #[error("the endpoint doesn't choose HTTP/2 (ALPN)")]
    NotHttp2,
}

/// The protocols that are offered to a peer by TLS (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    /// None, which means HTTP/1.1.
    Nothing,
    Http2,
    /// HTTP/2 first, and HTTP/1.1.
    Both,
}

/// What the dialers of a pool have in common.
pub(super) struct Dialers {
    tls: ClientConfig,
    name: Option<ServerName<'static>>,
    /// What is offered for HTTP/2.
    offer: Offer,
    limit: Duration,
}

impl Dialers {
    /// Returns what the dialers of a pool have in common. Files are read if any of its endpoints needs them.
    ///
    /// # Errors
    /// A file that can't be read or used.
    pub(super) fn new(pool: &config::Pool) -> Result<Self, TlsError> {
        let tls = trust::settings(pool)?;
        let name = trust::server_name(&pool.tls)?;
        let offer = if pool.http == config::OriginHttp::Auto { Offer::Both } else { Offer::Http2 };
        Ok(Self { tls, name, offer, limit: pool.connect })
    }

    /// Returns what opens an endpoint's connections for HTTP/1.1.
    pub(super) fn http1(&self, reach: &Reach) -> Dialer {
        self.dialer(reach, Offer::Nothing)
    }

    /// Returns what opens an endpoint's connections for HTTP/2, on which a peer may choose HTTP/1.1 if the pool allows
    /// that.
    pub(super) fn http2(&self, reach: &Reach) -> Dialer {
        self.dialer(reach, self.offer)
    }

    fn dialer(&self, reach: &Reach, offer: Offer) -> Dialer {
        let resolver = self.name.clone().map(FixedServerNameResolver::new);
        Dialer::new(self.limit, self.tls.clone(), resolver, offer, reach.clone())
    }
}

impl Dialer {
    /// A dialer that gives up after `limit`.
    fn new(
        limit: Duration,
        tls: ClientConfig,
        name: Option<FixedServerNameResolver>,
        offer: Offer,
        reach: Reach,
    ) -> Self {
        let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        if let Some(name) = name {
            builder = builder.with_server_name_resolver(name);
        }
        let https = match offer {
            Offer::Nothing => builder.enable_http1().wrap_connector(reach),
            Offer::Http2 => builder.enable_http2().wrap_connector(reach),
            Offer::Both => builder.enable_http1().enable_http2().wrap_connector(reach),
        };
        Self { https, limit, is_for_one: false }
    }

    /// Returns it for connections that have one request each.
    pub(super) fn for_one(self) -> Self {
        Self { is_for_one: true, ..self }
    }

    /// How long opening a connection may take.
    pub(super) const fn limit(&self) -> Duration {
        self.limit
    }

    /// Returns the error when it takes longer.
    pub(super) fn timeout(&self) -> DialError {
        DialError::Timeout { limit_ms: clock::millis(self.limit) }
    }
}

impl Service<Uri> for Dialer {
    type Response = Line;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Line, DialError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Service::<Uri>::poll_ready(&mut self.https, cx).map_err(DialError::Failed)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (dialing, limit, late, is_for_one) = (self.https.call(uri), self.limit, self.timeout(), self.is_for_one);
        Box::pin(async move {
            match timeout(limit, dialing).await {
                Ok(Ok(stream)) => Ok(Line { used: Used::since(Instant::now(), is_for_one), ..Line::new(stream) }),
                Ok(Err(error)) => Err(DialError::Failed(error)),
                Err(_) => Err(late),
            }
        })
    }
}

/// An open connection that remembers what it has carried.
pub(super) struct Line {
    stream: Stream,
    used: Used,
    /// Whether many requests share it, so that it can't be known what a byte that comes belongs to.
    is_shared: bool,
    /// Whether anything has been written.
    has_begun: bool,
    /// Whether the peer takes nothing any more.
    is_deaf: bool,
    /// A request line that is written otherwise than the client library has it, until it is.
    line: Option<RequestLine>,
}

/// A connection whose first request is written this soon was opened for it. Another one was opened for a request that
/// found a free connection meanwhile, or the system was busy: then a request is repeated once more than it need be, on a
/// connection that can't have waited.
const AT_ONCE: Duration = Duration::from_millis(1);

/// A request line as it is written.
struct RequestLine {
    /// What is yet to be written.
    left: Vec<u8>,
    /// Bytes of the line as the client library has it.
    stands_for: usize,
}

impl Line {
    fn new(stream: Stream) -> Self {
        Self { stream, used: Used::default(), is_shared: false, has_begun: false, is_deaf: false, line: None }
    }

    /// Whether it is protected by TLS.
    pub(super) const fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Https(_))
    }

    /// Returns the address at its other end; `None` of a Unix socket.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Http(socket) => socket.inner().peer(),
            Stream::Https(tls) => tls.inner().get_ref().0.inner().inner().peer(),
        }
    }

    /// Whether the peer has chosen HTTP/2 (ALPN).
    pub(super) fn has_chosen_http2(&self) -> bool {
        self.stream.connected().is_negotiated_h2()
    }

    /// Returns the connection for requests that share it.
    pub(super) fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }
}

/// Whether a connection has waited for its request, and whether anything has come since the last one: one that closes in
/// between may only have been idle for too long.
#[derive(Clone)]
pub(super) struct Used(Arc<Marks>);

struct Marks {
    /// When it was opened.
    opened: Instant,
    /// It was opened for the only request that it has.
    is_for_one: bool,
    /// It has brought a response, or was opened for a request that another connection took.
    has_waited: AtomicBool,
    /// A byte has come since something was written last.
    heard: AtomicBool,
    /// There was more to read than the responses so far, when another request was to be written.
    is_spoilt: AtomicBool,
}

impl Default for Used {
    fn default() -> Self {
        Self::since(Instant::now(), false)
    }
}

impl Used {
    /// Returns the marks of a connection that was opened at this time; whether for the only request that it has.
    fn since(opened: Instant, is_for_one: bool) -> Self {
        let [has_waited, heard, is_spoilt] = [const { AtomicBool::new(false) }; 3];
        Self(Arc::new(Marks { opened, is_for_one, has_waited, heard, is_spoilt }))
    }

    /// Notes that the first request is written.
    fn begin(&self) {
        if !self.0.is_for_one && self.0.opened.elapsed() >= AT_ONCE {
            self.0.has_waited.store(true, Ordering::Relaxed);
        }
    }

    /// Notes in a response's extensions that its connection has brought a response.
    pub(super) fn mark(extensions: &Extensions) {
        if let Some(Self(marks)) = extensions.get::<Self>() {
            marks.has_waited.store(true, Ordering::Relaxed);
        }
    }

    /// Whether this connection has waited for the request that was written last, and brought nothing of a response to it.
    pub(super) fn lapsed(connected: &Connected) -> bool {
        let mut extensions = Extensions::new();
        connected.get_extras(&mut extensions);
        extensions.get::<Self>().is_some_and(|used| used.0.has_waited.load(Ordering::Relaxed) && !used.has_heard())
    }

    /// Whether this connection was given up before anything of the request was written, because there was something to
    /// read that would have been taken for its response.
    pub(super) fn is_spoilt(connected: &Connected) -> bool {
        let mut extensions = Extensions::new();
        connected.get_extras(&mut extensions);
        extensions.get::<Self>().is_some_and(|used| used.0.is_spoilt.load(Ordering::Relaxed))
    }

    fn has_heard(&self) -> bool {
        self.0.heard.load(Ordering::Relaxed)
    }

    fn set_heard(&self, heard: bool) {
        if self.has_heard() != heard {
            self.0.heard.store(heard, Ordering::Relaxed);
        }
    }
}

impl Line {
    /// Whether what is written begins another request, although there is something to read: a body after a response to HEAD,
    /// a 204 or a 304, or another response that nobody asked for. The client library closes an idle connection on which
    /// it sees such bytes; it sees them once the runtime has been told of them, which may be after it has written.
    fn would_mistake(&self, bufs: &[IoSlice<'_>]) -> bool {
        let begins = || bufs.iter().find(|buf| !buf.is_empty()).is_some_and(|first| is_request(first));
        !self.is_shared && self.has_begun && self.used.has_heard() && begins() && self.unread() > 0
    }

    /// Returns the bytes that have come and haven't been read; 0 if the system can't tell.
    fn unread(&self) -> u64 {
        match &self.stream {
            Stream::Http(socket) => socket.inner().unread(),
            Stream::Https(tls) => tls.inner().get_ref().0.inner().inner().unread(),
        }
    }

    /// Returns the outcome of a write. One that failed has the connection read on: a peer that refuses a request by its
    /// head and closes has sent its response before that (RFC 9112, section 9.5), and the end of what it sends, or the
    /// error, comes as well.
    fn heard_out<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.is_shared || !(self.is_deaf || matches!(outcome, Poll::Ready(Err(_)))) {
            return outcome;
        }
        if !std::mem::replace(&mut self.is_deaf, true) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Looks at the first bytes that are written, which are those of a request: what of its target was raw is written raw.
    /// Such a request has a connection of its own, so that no bytes of a body are ever taken for a request's.
    fn begins(&mut self, bytes: &[u8]) {
        if !self.is_shared
            && let Some(end) = bytes.iter().position(|byte| *byte == b'\n')
            && let Some(left) = raw_query::unmarked(&bytes[..=end])
        {
            self.line = Some(RequestLine { left, stands_for: end + 1 });
        }
    }

    /// Writes the request line, if it is written otherwise; returns how many bytes of the client library's that was, or
    /// `None` if there was nothing to do.
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let Some(line) = &mut self.line else { return Poll::Ready(Ok(None)) };
        while !line.left.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &line.left))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            line.left.drain(..written);
        }
        let stands_for = line.stands_for;
        self.line = None;
        Poll::Ready(Ok(Some(stands_for)))
    }
}

/// Whether bytes that are written begin with a request line, as the client library writes it.
fn is_request(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').next().is_some_and(|line| line.ends_with(b" HTTP/1.1\r"))
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.used.clone())
    }
}

impl Read for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Self { stream, used, is_shared, .. } = self.get_mut();
        if *is_shared {
            return Pin::new(stream).poll_read(cx, buf);
        }
        let most = match stream {
            // The client library doubles its buffer when a read has filled it.
            Stream::Http(_) => PIECE_BYTES - 1,
            // A full record, which would otherwise leave a byte for the next read.
            Stream::Https(_) => PIECE_BYTES,
        };
        if buf.remaining() <= most && used.has_heard() {
            return Pin::new(stream).poll_read(cx, buf);
        }
        // A cursor can't be made shorter, so what is read into a shorter one is copied. So is the first piece of a
        // response, since a cursor doesn't tell how much was read either.
        let mut space = [MaybeUninit::uninit(); PIECE_BYTES];
        let mut piece = ReadBuf::uninit(&mut space[..most.min(buf.remaining())]);
        ready!(Pin::new(stream).poll_read(cx, piece.unfilled()))?;
        buf.put_slice(piece.filled());
        if !piece.filled().is_empty() {
            used.set_heard(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.heard_out(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_deaf {
            return Poll::Pending;
        }
        if this.would_mistake(bufs) {
            this.used.0.is_spoilt.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::other("the endpoint has sent more than its response")));
        }
        this.used.set_heard(false);
        if !std::mem::replace(&mut this.has_begun, true) {
            this.used.begin();
            if let Some(first) = bufs.iter().find(|buf| !buf.is_empty()) {
                this.begins(first);
            }
        }
        let outcome = match this.poll_line(cx) {
            Poll::Ready(Ok(None)) => Pin::new(&mut this.stream).poll_write_vectored(cx, bufs),
            Poll::Ready(Ok(Some(stands_for))) => Poll::Ready(Ok(stands_for)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        this.heard_out(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n";

    async fn write(line: &mut Line, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *line).poll_write(cx, bytes)).await
    }

    #[tokio::test]
    async fn what_comes_after_a_response_is_never_that_to_the_next_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let mut line = Line::new(Stream::Http(TokioIo::new(Socket::Tcp(near))));
        let connected = line.connected();
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";
        for _ in 0..2 {
            assert_eq!(write(&mut line, HEAD).await.unwrap(), HEAD.len());
            far.read_exact(&mut [0; 32][..HEAD.len()]).await.unwrap();
            far.write_all(response).await.unwrap();
            let mut space = [MaybeUninit::uninit(); 64];
            let mut read = ReadBuf::uninit(&mut space);
            poll_fn(|cx| Pin::new(&mut line).poll_read(cx, read.unfilled())).await.unwrap();
            assert_eq!(read.filled(), response);
        }
        far.write_all(b"body").await.unwrap();
        while line.unread() == 0 {
            tokio::task::yield_now().await;
        }
        // A body that goes on may have its response already.
        assert_eq!(write(&mut line, b"more").await.unwrap(), 4);
        line.used.set_heard(true);
        assert!(!Used::is_spoilt(&connected));
        assert!(write(&mut line, HEAD).await.is_err());
        assert!(Used::is_spoilt(&connected), "nothing of it was written");
    }

    #[test]
    fn a_connection_that_was_not_opened_for_its_first_request_has_waited_for_it() {
        let now = Instant::now();
        // An `Instant` that is yet to come counts as this one.
        let before = now.checked_sub(AT_ONCE).unwrap();
        for (opened, is_for_one, wanted) in
            [(before, false, true), (before, true, false), (now + Duration::from_secs(3_600), false, false)]
        {
            let used = Used::since(opened, is_for_one);
            let connected = Connected::new().extra(used.clone());
            assert!(!Used::lapsed(&connected), "nothing has been written");
            used.begin();
            assert_eq!(Used::lapsed(&connected), wanted);
            used.set_heard(true);
            assert!(!Used::lapsed(&connected), "a response has begun");
            used.set_heard(false);
            let mut extensions = Extensions::new();
            connected.get_extras(&mut extensions);
            Used::mark(&extensions);
            assert!(Used::lapsed(&connected), "it has brought a response, and nothing of the next");
        }
    }
}
