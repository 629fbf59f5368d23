//! The byte streams of a connection: the socket at the bottom, TLS or not, and the front that hyper sees.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use ::http::StatusCode;
use bytes::Bytes;
use futures_util::FutureExt;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use super::watch::{SocketActivity, unacknowledged};
use crate::message::raw_query;

/// Bytes that are read at most of what a client sends while its request is being served.
const AHEAD: usize = 2048;

/// The time between two looks at a socket that isn't read. Its unread bytes keep the task from being woken by what
/// comes after them.
const LOOK: Duration = Duration::from_millis(250);

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

    /// Returns what the system has reported of the socket so far. That the client has ended its side or reset the
    /// connection shows here although bytes are unread.
    fn reported(&self) -> Ready {
        let known = self.stream.ready(Interest::READABLE | Interest::WRITABLE).now_or_never();
        known.and_then(Result::ok).unwrap_or(Ready::EMPTY)
    }

    /// Returns the bytes that have come and haven't been read; 0 if the system can't tell.
    fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.stream).unwrap_or(0)
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
    /// Whether the client, which may be reading on, has ended its sending side. Bytes ahead of its end may be unread.
    has_ended: bool,
    /// Bytes in the socket at the last look; on cleartext only.
    unread: u64,
    /// Wakes the task for the next look; made at the first, which few connections need.
    alarm: Option<Pin<Box<Sleep>>>,
    /// Whether HTTP/1 is spoken.
    is_http1: bool,
    /// The line that begins the head which came last; on HTTP/1 only.
    line: RequestLine,
    /// hyper's own refusal of what it couldn't parse, which wasn't sent.
    unparsed: Option<Refusal>,
    activity: Arc<SocketActivity>,
}

/// How much of a request line has come.
#[derive(Default)]
struct RequestLine {
    bytes: usize,
    has_ended: bool,
}

impl RequestLine {
    /// Takes what was read; `begins` says that it begins another head.
    fn take(&mut self, read: &[u8], begins: bool) {
        if begins {
            *self = Self::default();
        }
        if self.has_ended {
            return;
        }
        let end = read.iter().position(|byte| *byte == b'\n');
        self.has_ended = end.is_some();
        self.bytes = self.bytes.saturating_add(end.map_or(read.len(), |at| at + 1));
    }
}

impl Front {
    /// Returns a stream that begins with the bytes in `ahead`.
    pub(super) fn new(transport: Transport, ahead: Bytes, activity: Arc<SocketActivity>) -> Self {
        let (is_http1, line, unparsed) = (false, RequestLine::default(), None);
        Self { transport, ahead, has_ended: false, unread: 0, alarm: None, is_http1, line, unparsed, activity }
    }

    /// HTTP/1 is spoken: request lines are looked at, and hyper's own refusals are held back.
    pub(super) const fn speaks_http1(&mut self) {
        self.is_http1 = true;
    }

    /// Whether the line that began the last head is longer than that by itself, or hasn't ended.
    pub(super) const fn has_long_line(&self, bytes_max: usize) -> bool {
        !self.line.has_ended || self.line.bytes > bytes_max
    }

    /// Returns hyper's own refusal of what it couldn't parse. It says nothing, so it was held back, and the socket is open for
    /// another.
    pub(super) const fn take_unparsed(&mut self) -> Option<Refusal> {
        self.unparsed.take()
    }

    /// Puts back bytes that were read, and belong to whatever follows HTTP.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.ahead = [bytes, &self.ahead[..]].concat().into();
        }
    }

    /// Marks the raw characters in the query of a request line that has just been read whole, from `before` on.
    fn mark(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let Some((line, rest)) = buf.filled()[before..].split_at_checked(self.line.bytes) else { return };
        let Some(marked) = raw_query::marked(line) else { return };
        self.activity.mark(raw_query::marked_in(line.len(), marked.len()));
        // It is longer now, and perhaps too long for the buffer.
        self.ahead = [&marked[..], rest, &self.ahead[..]].concat().into();
        buf.set_filled(before);
        let len = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(len));
    }

    /// Holds back what hyper writes if it is its own refusal of what it can't parse, which no request was counted for, and
    /// which has no body. Returns how many bytes that is.
    fn hold_back(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.is_http1 || !self.activity.is_idle() {
            return None;
        }
        self.unparsed = Some(refusal(bytes)?);
        Some(bytes.len())
    }

    /// Returns the socket; what TLS still holds is given up.
    pub(super) fn into_socket(self) -> Socket {
        match self.transport {
            Transport::Plain(io) => io,
            Transport::Tls(io) => (*io).into_inner().0,
        }
    }

    /// Looks whether the client has gone while its request is being served, and has the task woken when it does. What
    /// it sends meanwhile is its next request, and is kept; what there is no room for stays in the socket.
    ///
    /// # Errors
    /// That of the transport, or that the client has gone.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.activity.is_served() {
            return Ok(());
        }
        // Until there are no more bytes: only then is the task woken by the next ones, or by the end.
        while !self.has_ended && self.ahead.len() < AHEAD {
            let Poll::Ready(outcome) = self.read_ahead(cx) else { return Ok(()) };
            outcome?;
        }
        self.look(cx)
    }

    /// Reads some of the next request, or the end of what the client sends.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::<u8>::uninit(); AHEAD];
        let mut ahead = ReadBuf::uninit(&mut space);
        ahead.put_slice(&self.ahead);
        ready!(self.receive(cx, &mut ahead))?;
        if ahead.filled().len() > self.ahead.len() {
            self.activity.heard();
            self.ahead = Bytes::copy_from_slice(ahead.filled());
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.ended(Duration::ZERO))
    }

    /// Looks at the socket without reading it, and has the task woken to look again.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(LOOK)));
        while alarm.as_mut().poll(cx).is_ready() {
            alarm.as_mut().reset(Instant::now() + LOOK);
        }
        let (socket, is_plain) = match &self.transport {
            Transport::Plain(io) => (io, true),
            Transport::Tls(io) => (io.get_ref().0, false),
        };
        let reported = socket.reported();
        if reported.is_write_closed() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.has_ended {
            return Ok(());
        }
        // The last bytes that TLS sends say that it ends, and are none of a request.
        let unread = if is_plain { socket.unread() } else { 0 };
        if std::mem::replace(&mut self.unread, unread) != unread {
            self.activity.heard();
        }
        if reported.is_read_closed() { self.ended(LOOK) } else { Ok(()) }
    }

    /// The client has ended its sending side, up to `late` ago.
    ///
    /// # Errors
    /// That it has gone.
    fn ended(&mut self, late: Duration) -> io::Result<()> {
        self.has_ended = true;
        if self.activity.half_closes(late) { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
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
        self.receive(cx, buf)
    }

    /// Reads the transport, past what has been read ahead.
    fn receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
            if self.is_http1 {
                let begins = self.activity.awaits_head();
                self.line.take(&buf.filled()[before..], begins);
                if begins && self.line.has_ended {
                    self.mark(buf, before);
                }
            }
            self.activity.heard();
        }
        outcome
    }
}

impl AsyncWrite for Front {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(held) = self.hold_back(buf) {
            return Poll::Ready(Ok(held));
        }
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
        if let [only] = bufs
            && let Some(held) = self.hold_back(only)
        {
            return Poll::Ready(Ok(held));
        }
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
        if self.unparsed.is_some() {
            // The refusal is yet to be sent.
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// hyper's own refusal of what it can't parse.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The value of `Date`.
    pub(super) date: Vec<u8>,
}

/// Returns hyper's own refusal of what it can't parse: a status of 4xx, a length of 0, and no field but those that it adds
/// to every response. Responses to requests say more.
fn refusal(bytes: &[u8]) -> Option<Refusal> {
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'4', ..] = bytes else { return None };
    let mut lines = bytes.strip_suffix(b"\r\n\r\n")?.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let status = StatusCode::from_bytes(lines.next()?.get(9..12)?).ok()?;
    let (mut closes, mut is_empty, mut date) = (false, false, None);
    for line in lines {
        match line {
            b"connection: close" => closes = true,
            b"content-length: 0" => is_empty = true,
            _ => date = Some(line.strip_prefix(b"date: ")?.to_vec()),
        }
    }
    date.filter(|_| closes && is_empty).map(|date| Refusal { status, date })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

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

    /// Waits until an end of what the client sends is no longer that of its requests.
    async fn silent(activity: &SocketActivity) {
        while activity.half_closes(LOOK) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends so many bytes ahead, and flushes until all of them have been seen.
    async fn sends_ahead(front: &mut Front, client: &mut TcpStream, bytes: usize) {
        client.write_all(&vec![b'x'; bytes]).await.unwrap();
        let seeing = async {
            while front.ahead.len() + usize::try_from(front.unread).unwrap() < bytes {
                front.flush().await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seeing).await.expect("in time");
    }

    /// How the watch over a client that goes ends. Nothing but what it asked for itself wakes it.
    async fn woken(front: &mut Front) -> io::ErrorKind {
        let going = poll_fn(|cx| match Pin::new(&mut *front).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error.kind()),
            _ => Poll::Pending,
        });
        tokio::time::timeout(Duration::from_secs(20), going).await.expect("in time")
    }

    #[tokio::test]
    async fn a_client_that_goes_is_seen_to_go_whatever_it_has_sent_ahead() {
        for bytes in [1, AHEAD - 1, AHEAD, 3 * AHEAD] {
            let (mut front, mut client, activity, _request) = served().await;
            activity.heard();
            sends_ahead(&mut front, &mut client, bytes).await;
            silent(&activity).await;
            drop(client);
            assert_eq!(woken(&mut front).await, io::ErrorKind::ConnectionAborted, "{bytes} bytes");

            let (mut front, mut client, activity, _request) = served().await;
            activity.heard();
            sends_ahead(&mut front, &mut client, bytes).await;
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            assert_eq!(woken(&mut front).await, io::ErrorKind::ConnectionReset, "{bytes} bytes");
        }
    }

    #[tokio::test]
    async fn a_client_that_half_closes_with_its_last_request_gets_all_its_responses() {
        for bytes in [1, AHEAD, 3 * AHEAD] {
            let (mut front, mut client, activity, _request) = served().await;
            // The first request came long ago, the next ones have just come.
            silent(&activity).await;
            sends_ahead(&mut front, &mut client, bytes).await;
            client.shutdown().await.unwrap();
            flushed(&mut front).await.unwrap();
            silent(&activity).await;
            front.flush().await.unwrap();
            let mut said = Vec::new();
            AsyncReadExt::read_to_end(&mut front, &mut said).await.unwrap();
            assert_eq!(said.len(), bytes);
        }
    }

    #[tokio::test]
    async fn a_client_that_half_closes_and_resets_later_has_gone() {
        for bytes in [0, 1, 3 * AHEAD] {
            let (mut front, mut client, activity, _request) = served().await;
            activity.heard();
            sends_ahead(&mut front, &mut client, bytes).await;
            client.shutdown().await.unwrap();
            flushed(&mut front).await.unwrap();
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            assert_eq!(woken(&mut front).await, io::ErrorKind::ConnectionReset, "{bytes} bytes");
        }
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
        silent(&activity).await;
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

    #[test]
    fn the_parsers_own_refusal_is_known_from_responses() {
        let date = "date: Sat, 28 Nov 2026 16:00:00 GMT\r\n";
        let own =
            |line: &str, more: &str| format!("{line}\r\n{more}connection: close\r\ncontent-length: 0\r\n{date}\r\n");
        for (bytes, wanted) in [
            (own("HTTP/1.1 400 Bad Request", ""), Some(400)),
            (own("HTTP/1.0 431 Request Header Fields Too Large", ""), Some(431)),
            (own("HTTP/1.1 404 Not Found", "cache-status: n1\r\n"), None),
            (own("HTTP/1.1 200 OK", ""), None),
            (own("HTTP/1.1 400 Bad Request", "") + "x", None),
            (format!("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n{date}\r\n"), None),
            ("HTTP/1.1 4".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(refusal(bytes.as_bytes()).map(|refusal| refusal.status.as_u16()), wanted, "{bytes}");
        }
    }

    #[tokio::test]
    async fn raw_characters_are_marked_in_the_line_that_begins_a_head_and_nowhere_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let requests = Arc::new(Activity::new(Counter::default()));
        let activity = Arc::new(SocketActivity::new(requests, Pace::of(&Timeouts::default())));
        let ahead = Bytes::from_static(b"GET /?<a> HTTP/1.1\r\nx: <b>\r\n");
        let socket = Socket::new(stream, activity.clone());
        let mut front = Front::new(Transport::Plain(socket), ahead, activity);
        front.speaks_http1();
        client.write_all(b"GET /?<c> HTTP/1.1\r\n").await.unwrap();
        drop(client);
        let mut said = String::new();
        front.read_to_string(&mut said).await.unwrap();
        let marked = "GET /?\u{E03C}a\u{E03E} HTTP/1.1\r\nx: <b>\r\n";
        assert_eq!(said, format!("{marked}GET /?<c> HTTP/1.1\r\n"), "what comes after it may be the rest of the head");
    }
}
