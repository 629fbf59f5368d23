//! Opening connections: one limit for the name, the TCP and the TLS handshake together.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Extensions, Uri};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};
use tower::Service;

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Bytes that are read of a connection at once, and so the longest piece of a response's body: a body on its way holds a
/// few pieces that nobody counts.
pub(super) const PIECE_BYTES: usize = 16 * 1024;

/// Opens connections, cleartext or TLS by the URI's scheme.
#[derive(Clone)]
pub(super) struct Dialer {
    https: HttpsConnector<HttpConnector>,
    limit: Duration,
}

/// Why a connection didn't come about.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error("no connection within {limit_ms} ms")]
    Timeout { limit_ms: u64 },
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Dialer {
    /// A dialer that gives up after `limit` and trusts the roots compiled into the program.
    ///
    /// # Errors
    /// If the TLS library refuses its own defaults.
    pub(super) fn new(limit: Duration) -> Result<Self, rustls::Error> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        // Shares the limit out between the addresses of a name, so that a dead one doesn't use it up.
        http.set_connect_timeout(Some(limit));
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Ok(Self { https, limit })
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
        let (dialing, limit) = (self.https.call(uri), self.limit);
        Box::pin(async move {
            match timeout(limit, dialing).await {
                Ok(Ok(stream)) => Ok(Line { stream, used: Used::default() }),
                Ok(Err(error)) => Err(DialError::Failed(error)),
                Err(_) => Err(DialError::Timeout { limit_ms: crate::clock::millis(limit) }),
            }
        })
    }
}

/// An open connection that remembers what it has carried.
pub(super) struct Line {
    stream: Stream,
    used: Used,
}

/// Whether a connection has brought a response before, and whether anything has come since the last request: one that
/// closes in between may only have been idle for too long.
#[derive(Clone, Default)]
pub(super) struct Used(Arc<Marks>);

#[derive(Default)]
struct Marks {
    /// It has brought a response.
    responded: AtomicBool,
    /// A byte has come since something was written last.
    heard: AtomicBool,
}

impl Used {
    /// Notes in a response's extensions that its connection has brought a response.
    pub(super) fn mark(extensions: &Extensions) {
        if let Some(Self(marks)) = extensions.get::<Self>() {
            marks.responded.store(true, Ordering::Relaxed);
        }
    }

    /// Whether this connection has brought a response before, and nothing of one to the request that was written last.
    pub(super) fn lapsed(connected: &Connected) -> bool {
        let mut extensions = Extensions::new();
        connected.get_extras(&mut extensions);
        extensions.get::<Self>().is_some_and(|used| used.0.responded.load(Ordering::Relaxed) && !used.has_heard())
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

impl Connection for Line {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.used.clone())
    }
}

impl Read for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Self { stream, used } = self.get_mut();
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
        let Self { stream, used } = self.get_mut();
        used.set_heard(false);
        Pin::new(stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
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
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, used } = self.get_mut();
        used.set_heard(false);
        Pin::new(stream).poll_write_vectored(cx, bufs)
    }
}
