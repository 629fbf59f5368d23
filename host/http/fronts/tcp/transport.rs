//! The byte streams of a connection: the socket at the bottom, TLS or not, and the front that hyper sees.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::watch::{SocketActivity, unacknowledged};

/// Bytes that are read at once of what a client sends while its request is being served.
const AHEAD: usize = 2048;

/// A TCP stream that notes whether it takes what is written. Below TLS, because there progress shows byte by byte.
/// Dropped in the middle of a response it is reset: a mere close would be the end of a body to HTTP/1.0.
pub(super) struct Socket {
    stream: TcpStream,
    activity: Arc<SocketActivity>,
    /// Whether all that the client sends has been read.
    has_ended: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, activity: Arc<SocketActivity>) -> Self {
        Self { stream, activity, has_ended: false }
    }

    /// Whether all that the client sends has been read: nothing more can come.
    pub(super) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Returns the bytes that the client hasn't acknowledged; `None` if the system can't tell.
    pub(super) fn unacknowledged(&self) -> Option<u64> {
        unacknowledged(&self.stream)
    }

    /// Returns the marks of the connection.
    pub(super) fn activity(&self) -> &SocketActivity {
        &self.activity
    }

    fn note(&self, outcome: &Poll<io::Result<usize>>) {
        self.activity.wrote(taken(outcome), || unacknowledged(&self.stream));
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.activity.breaks_off() {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.remaining();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if before > 0 && buf.remaining() == before && matches!(outcome, Poll::Ready(Ok(()))) {
            self.has_ended = true;
        }
        outcome
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Returns the bytes that the socket took; `None` if it had no room. On a broken one the client isn't waited for.
fn taken(outcome: &Poll<io::Result<usize>>) -> Option<usize> {
    match outcome {
        Poll::Ready(written) => Some(*written.as_ref().unwrap_or(&0)),
        Poll::Pending => None,
    }
}

/// Cleartext or TLS. One type, so that hyper is compiled for one.
pub(super) enum Transport {
    /// Cleartext.
    Plain(Socket),
    /// TLS; boxed, being many times larger.
    Tls(Box<TlsStream<Socket>>),
}

/// The stream that hyper reads and writes: first the bytes that have been read ahead, then the transport's. Above TLS,
/// because there bytes are HTTP's; it notes that some came.
///
/// While an HTTP/1 request is being served hyper reads nothing, and so this does: that its client has gone shows
/// nowhere else.
pub(super) struct Front {
    transport: Transport,
    /// Bytes that were read ahead, by detection or while a request was served.
    ahead: Bytes,
    /// Whether the client, which may be reading on, sends nothing more.
    has_ended: bool,
    activity: Arc<SocketActivity>,
}

impl Front {
    /// Returns a stream that begins with the bytes in `ahead`.
    pub(super) fn new(transport: Transport, ahead: Bytes, activity: Arc<SocketActivity>) -> Self {
        Self { transport, ahead, has_ended: false, activity }
    }

    /// Returns the socket; what TLS still holds is given up.
    pub(super) fn into_socket(self) -> Socket {
        match self.transport {
            Transport::Plain(io) => io,
            Transport::Tls(io) => (*io).into_inner().0,
        }
    }

    /// Looks whether the client has gone while its request is being served, and has the task woken when it does. What
    /// it sends meanwhile is its next request, and is kept.
    ///
    /// # Errors
    /// That of the transport, or that the client has gone.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.has_ended || !self.ahead.is_empty() || !self.activity.is_served() {
            return Ok(());
        }
        let mut space = [MaybeUninit::<u8>::uninit(); AHEAD];
        let mut ahead = ReadBuf::uninit(&mut space);
        let Poll::Ready(outcome) = self.read(cx, &mut ahead) else { return Ok(()) };
        outcome?;
        self.ahead = Bytes::copy_from_slice(ahead.filled());
        self.has_ended = self.ahead.is_empty();
        if self.has_ended && !self.activity.half_closes() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Returns the outcome of a write. After one that found no room hyper doesn't flush, so this is where to look.
    fn watched(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if outcome.is_pending() {
            self.watch(cx)?;
        }
        outcome
    }

    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let len = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(len));
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Transport::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for Front {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = self.read(cx, buf);
        if buf.filled().len() > before {
            self.activity.heard();
        }
        outcome
    }
}

impl AsyncWrite for Front {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Transport::Tls(io) => Pin::new(io).poll_write(cx, buf),
        };
        self.watched(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Transport::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        };
        self.watched(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(io) => io.is_write_vectored(),
            Transport::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper does so each time it is polled.
        self.watch(cx)?;
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_flush(cx),
            Transport::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        config::Timeouts,
        http::{
            activity::{Activity, InFlight},
            pace::Pace,
        },
    };

    /// What a client reads to its end of a connection that is dropped after such a response.
    async fn read(under_way: bool) -> io::Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let requests = Arc::new(Activity::new(Counter::default()));
        let activity = Arc::new(SocketActivity::new(requests.clone(), Pace::of(&Timeouts::default())));
        let mut socket = Socket::new(stream, activity.clone());
        activity.head_complete(::http::Version::HTTP_10);
        let request = InFlight::begin(&requests);
        socket.write_all(&[b'x'; 10_000]).await.unwrap();
        let request = under_way.then_some(request);
        drop(socket);
        drop(request);
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.map(|_| said)
    }

    #[tokio::test]
    async fn a_response_that_breaks_off_ends_in_a_reset_and_a_complete_one_arrives() {
        assert_eq!(read(true).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(read(false).await.unwrap().len(), 10_000);
    }

    /// A connection whose one request is being served, and its client.
    async fn served() -> (Front, TcpStream, Arc<SocketActivity>, InFlight) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let requests = Arc::new(Activity::new(Counter::default()));
        let activity = Arc::new(SocketActivity::new(requests.clone(), Pace::of(&Timeouts::default())));
        let socket = Socket::new(stream, activity.clone());
        let front = Front::new(Transport::Plain(socket), Bytes::new(), activity.clone());
        activity.head_complete(::http::Version::HTTP_11);
        activity.request_whole();
        let request = InFlight::begin(&requests);
        (front, client, activity, request)
    }

    /// Flushes it until that fails, or until it has been found that the client sends nothing more.
    async fn flushed(front: &mut Front) -> io::Result<()> {
        let looking = async {
            while !front.has_ended {
                front.flush().await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok::<_, io::Error>(())
        };
        tokio::time::timeout(Duration::from_secs(20), looking).await.expect("in time")
    }

    #[tokio::test]
    async fn a_client_that_half_closes_is_served_and_one_that_resets_has_gone() {
        let (mut front, mut client, activity, request) = served().await;
        activity.heard();
        client.shutdown().await.unwrap();
        flushed(&mut front).await.unwrap();
        let read = AsyncReadExt::read(&mut front, &mut [0; 8]).await.unwrap();
        assert_eq!(read, 0, "hyper sees it once it reads again");
        drop((front, request));

        let (mut front, client, activity, _request) = served().await;
        activity.heard();
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(flushed(&mut front).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_client_that_closes_later_has_gone() {
        let (mut front, client, activity, _request) = served().await;
        activity.heard();
        while activity.half_closes() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(client);
        assert_eq!(flushed(&mut front).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn what_a_client_sends_while_it_is_served_is_kept() {
        let (mut front, mut client, _activity, request) = served().await;
        client.write_all(b"GET /next").await.unwrap();
        while front.ahead.is_empty() {
            front.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client.write_all(b" HTTP/1.1").await.unwrap();
        drop((client, request));
        let mut said = String::new();
        front.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "GET /next HTTP/1.1");
    }

    #[tokio::test]
    async fn the_replay_comes_first_in_pieces_of_any_size_and_counts_as_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let requests = Arc::new(Activity::new(Counter::default()));
        let activity = Arc::new(SocketActivity::new(requests, Pace::of(&Timeouts::default())));
        let socket = Socket::new(stream, activity.clone());
        let mut front = Front::new(Transport::Plain(socket), Bytes::from_static(b"GET "), activity.clone());

        let mut piece = [0; 3];
        assert!(!activity.snapshot().heard);
        front.read_exact(&mut piece).await.unwrap();
        assert_eq!(&piece, b"GET");
        assert!(activity.snapshot().heard);

        client.write_all(b"/ HTTP/1.1").await.unwrap();
        drop(client);
        let mut rest = String::new();
        front.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, " / HTTP/1.1");
    }
}
