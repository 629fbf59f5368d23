//! A connection that requests share, whose peer may have closed it. What the peer said before that may still wait to be
//! read: complete responses, and a GOAWAY, which names the requests that weren't processed (RFC 9113, section 6.8). The
//! client library ends a connection with the first write that fails, and with it all that it hasn't read. So a write that
//! fails because the peer has gone looks like one that went well, and the end is found where the peer put it: by reading.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tokio::time::{Sleep, sleep};

/// For how long a connection is read at most after a write has failed. What a peer said before it closed has come by
/// then: only one that goes on can take longer.
const READ_ON: Duration = Duration::from_secs(1);

/// Bytes that are read then, at most: more than systems keep of a connection that nobody reads.
const READ_ON_BYTES: usize = 8 << 20;

/// Bytes that are read at once then.
const PIECE_BYTES: usize = 16 * 1024;

/// Whether the peer of a connection was found to have gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone(Arc<AtomicBool>);

impl Gone {
    /// Whether it takes nothing any more. A request that is written from then on would be taken for one that was sent.
    pub(super) fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection that is read on when nothing can be written to it.
pub(super) struct ReadingOn<S> {
    stream: S,
    gone: Gone,
    /// What may still be read; `None` until a write has failed.
    rest: Option<Rest>,
}

/// How far a connection is read whose peer has gone.
struct Rest {
    /// How writing failed.
    failure: io::ErrorKind,
    bytes_max: usize,
    end: Pin<Box<Sleep>>,
}

impl<S> ReadingOn<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, gone: Gone::default(), rest: None }
    }

    /// Returns what tells that its peer has gone.
    pub(super) fn gone(&self) -> Gone {
        self.gone.clone()
    }

    /// Returns the outcome of a write; `all` if the peer has gone.
    fn taken<T>(&mut self, cx: &Context<'_>, outcome: Poll<io::Result<T>>, all: T) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Ready(Err(error)) if is_departure(error.kind()) => {
                let end = Box::pin(sleep(READ_ON));
                self.rest = Some(Rest { failure: error.kind(), bytes_max: READ_ON_BYTES, end });
                self.gone.0.store(true, Ordering::Relaxed);
                // The last read may have been before this.
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(all))
            }
            outcome => outcome,
        }
    }
}

/// Whether writing fails so because the peer has closed.
const fn is_departure(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted)
}

impl Rest {
    /// Reads a piece of it. It ends with the error of the write, unless the peer has ended it before.
    fn poll_read<S: Read + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes_max == 0 || self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(self.failure.into()));
        }
        // A cursor doesn't tell how much was read into it.
        let mut space = [MaybeUninit::uninit(); PIECE_BYTES];
        let most = PIECE_BYTES.min(buf.remaining()).min(self.bytes_max);
        let mut piece = ReadBuf::uninit(&mut space[..most]);
        ready!(Pin::new(stream).poll_read(cx, piece.unfilled()))?;
        self.bytes_max -= piece.filled().len();
        buf.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: Read + Unpin> Read for ReadingOn<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Self { stream, rest, .. } = self.get_mut();
        match rest {
            None => Pin::new(stream).poll_read(cx, buf),
            Some(rest) => rest.poll_read(stream, cx, buf),
        }
    }
}

impl<S: Write + Unpin> Write for ReadingOn<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.rest.is_some() {
            return Poll::Ready(Ok(buf.len()));
        }
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.taken(cx, outcome, buf.len())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_some() {
            return Poll::Ready(Ok(()));
        }
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.taken(cx, outcome, ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
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
        let all = bufs.iter().map(|buf| buf.len()).sum();
        if this.rest.is_some() {
            return Poll::Ready(Ok(all));
        }
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.taken(cx, outcome, all)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    async fn write(stream: &mut ReadingOn<impl Write + Unpin>, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, bytes)).await
    }

    /// Reads once, so many bytes at most.
    async fn read(stream: &mut ReadingOn<impl Read + Unpin>, most: usize) -> io::Result<Vec<u8>> {
        let mut space = vec![MaybeUninit::uninit(); most];
        let mut piece = ReadBuf::uninit(&mut space);
        poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, piece.unfilled())).await?;
        Ok(piece.filled().to_vec())
    }

    /// A stream to which nothing can be written, and from which so many bytes can be read before it is silent.
    struct Endless {
        failure: io::ErrorKind,
        bytes: usize,
    }

    impl Read for Endless {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            let most = this.bytes.min(buf.remaining());
            if most == 0 {
                return Poll::Pending;
            }
            this.bytes -= most;
            buf.put_slice(&vec![b'x'; most]);
            Poll::Ready(Ok(()))
        }
    }

    impl Write for Endless {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(self.failure.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.failure.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.failure.into()))
        }
    }

    #[tokio::test]
    async fn what_was_said_before_a_write_failed_is_read_to_its_end() {
        let (near, mut far) = duplex(1 << 10);
        let mut stream = ReadingOn::new(TokioIo::new(near));
        let gone = stream.gone();
        assert_eq!(write(&mut stream, b"one").await.unwrap(), 3);
        far.read_exact(&mut [0; 3]).await.unwrap();
        far.write_all(b"go away").await.unwrap();
        assert!(!gone.is_noted());
        drop(far);
        for bytes in [&b"two"[..], b"three"] {
            assert_eq!(write(&mut stream, bytes).await.unwrap(), bytes.len(), "it looks written");
            assert!(gone.is_noted());
        }
        poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.unwrap();
        assert_eq!(read(&mut stream, 3).await.unwrap(), b"go ");
        assert_eq!(read(&mut stream, 64).await.unwrap(), b"away");
        assert_eq!(read(&mut stream, 64).await.unwrap(), b"", "its end");
        poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_goes_on_is_not_read_for_ever() {
        for bytes in [10, usize::MAX] {
            let failure = io::ErrorKind::ConnectionReset;
            let mut stream = ReadingOn::new(Endless { failure, bytes });
            poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.unwrap();
            assert!(stream.gone().is_noted());
            let mut count = 0;
            let error = loop {
                match read(&mut stream, 2 * PIECE_BYTES).await {
                    Ok(piece) => count += piece.len(),
                    Err(error) => break error,
                }
            };
            assert_eq!((error.kind(), count), (failure, bytes.min(READ_ON_BYTES)), "{bytes} bytes");
        }
    }

    #[tokio::test]
    async fn another_failure_of_a_write_is_one() {
        let mut stream = ReadingOn::new(Endless { failure: io::ErrorKind::TimedOut, bytes: 10 });
        assert_eq!(write(&mut stream, b"one").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(!stream.gone().is_noted());
    }
}
