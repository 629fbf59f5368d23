//! The byte streams of a connection: the socket at the bottom, TLS or not, and the front that hyper sees.

use std::{
    io::{self, IoSlice},
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

/// A TCP stream that notes whether it takes what is written. Below TLS, because there progress shows byte by byte.
/// Dropped in the middle of a response it is reset: a mere close would be the end of a body to HTTP/1.0.
pub(super) struct Socket {
    stream: TcpStream,
    activity: Arc<SocketActivity>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, activity: Arc<SocketActivity>) -> Self {
        Self { stream, activity }
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
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

/// The stream that hyper reads and writes: first the bytes that detection has read, then the transport's. Above TLS,
/// because there bytes are HTTP's; it notes that some came.
pub(super) struct Front {
    transport: Transport,
    replay: Bytes,
    activity: Arc<SocketActivity>,
}

impl Front {
    pub(super) fn new(transport: Transport, replay: Bytes, activity: Arc<SocketActivity>) -> Self {
        Self { transport, replay, activity }
    }

    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.replay.is_empty() {
            let len = self.replay.len().min(buf.remaining());
            buf.put_slice(&self.replay.split_to(len));
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
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Transport::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Transport::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(io) => io.is_write_vectored(),
            Transport::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
