//! The QUIC library as the HTTP/3 library wants it.
//!
//! It differs in some ways from the adapter that comes with the HTTP/3 library. A request's stream that is dropped
//! before its response is finished is reset: otherwise it would end in good order, and a response that broke off would
//! look whole. A read that is given up leaves the stream where it was, so that the client can be told to stop at any
//! time. What comes passes through [`Frames`]. A body's bytes are written without being copied, and a head together with
//! what follows it at once. And when a connection has room again, the more urgent responses write first ([`Turns`]).

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use parking_lot::Mutex;
use quinn::VarInt;

use super::{
    framing::Frames,
    gathering::{Gathering, Share},
    pieces::Pieces,
    session::{Code, Ending, Marks, Over},
    turns::{Turn, Turns},
};

/// Bytes that are read of a stream at a time, at most.
const CHUNK: usize = 64 * 1024;

type Accepting<T> = Pin<Box<dyn Stream<Item = Result<T, quinn::ConnectionError>> + Send>>;
type OpeningSend = Pin<Box<dyn Future<Output = Result<quinn::SendStream, quinn::ConnectionError>> + Send>>;

/// What the front has of a request's stream beside the library.
pub(super) struct Accepted {
    pub(super) marks: Arc<Marks>,
    pub(super) over: Ending,
    /// Whether the handshake wasn't over when it was accepted. Once that is over, what came in early data is known to be
    /// this client's as well (RFC 8470, section 3).
    pub(super) is_early: bool,
}

/// The stream that a connection has accepted last, until the front takes it.
pub(super) type Latest = Arc<Mutex<Option<Accepted>>>;

/// A connection.
pub(super) struct Transport {
    connection: quinn::Connection,
    requests: Accepting<(quinn::SendStream, quinn::RecvStream)>,
    others: Accepting<quinn::RecvStream>,
    opening: Option<OpeningSend>,
    latest: Latest,
    frame_bytes_max: u64,
    gathering: Arc<Gathering>,
    turns: Arc<Turns>,
}

impl Transport {
    /// Returns a connection on which no frame but DATA may have more bytes than `frame_bytes_max`, and all that have begun
    /// to come no more than `gathered_bytes_max`.
    pub(super) fn new(connection: quinn::Connection, frame_bytes_max: u64, gathered_bytes_max: u64) -> Self {
        // Made once each, and not for each stream: a wait that is dropped would miss what comes next.
        let requests = stream::unfold(connection.clone(), |connection| async move {
            let accepted = connection.accept_bi().await;
            Some((accepted, connection))
        });
        let others = stream::unfold(connection.clone(), |connection| async move {
            let accepted = connection.accept_uni().await;
            Some((accepted, connection))
        });
        Self {
            connection,
            requests: Box::pin(requests),
            others: Box::pin(others),
            opening: None,
            latest: Latest::default(),
            frame_bytes_max,
            gathering: Gathering::new(gathered_bytes_max),
            turns: Arc::default(),
        }
    }

    /// Returns where the front finds the stream that was accepted last.
    pub(super) fn latest(&self) -> Latest {
        Arc::clone(&self.latest)
    }
}

impl quic::Connection<Bytes> for Transport {
    type RecvStream = RecvStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let stream = ready!(accepted(&mut self.others, cx))?;
        let frames = Frames::of_unidirectional(self.frame_bytes_max);
        Poll::Ready(RecvStream::new(stream, frames, &self.gathering, Some(Arc::clone(&self.turns))))
    }

    fn poll_accept_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream, ConnectionErrorIncoming>> {
        let (send, recv) = ready!(accepted(&mut self.requests, cx))?;
        let (marks, is_early) = (Arc::new(Marks::default()), recv.is_0rtt());
        let stopped = send.stopped();
        let over = Box::pin(async move {
            match stopped.await {
                Ok(None) => Over::Delivered,
                Ok(Some(_)) | Err(_) => Over::Unwanted,
            }
        });
        let send = SendStream::new(send, Arc::clone(&self.turns), Some(Arc::clone(&marks)))?;
        let recv = RecvStream::new(recv, Frames::of_request(self.frame_bytes_max), &self.gathering, None)?;
        *self.latest.lock() = Some(Accepted { marks, over, is_early });
        Poll::Ready(Ok(BidiStream { send, recv }))
    }

    fn opener(&self) -> Opener {
        Opener
    }
}

impl quic::OpenStreams<Bytes> for Transport {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        Poll::Ready(Err(unsupported()))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opening = self.opening.get_or_insert_with(|| {
            let connection = connection.clone();
            Box::pin(async move { connection.open_uni().await })
        });
        let opened = ready!(opening.as_mut().poll(cx));
        self.opening = None;
        let of_connection = |connection_error| StreamErrorIncoming::ConnectionErrorIncoming { connection_error };
        let stream = opened.map_err(|error| of_connection(connection_error(error)))?;
        Poll::Ready(SendStream::new(stream, Arc::clone(&self.turns), None).map_err(of_connection))
    }

    fn close(&mut self, code: h3::error::Code, reason: &[u8]) {
        self.connection.close(var_int(code.value()), reason);
    }
}

/// Opens nothing: all streams that this side opens are opened with the connection.
pub(super) struct Opener;

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        Poll::Ready(Err(unsupported()))
    }

    fn poll_open_send(&mut self, _: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        Poll::Ready(Err(unsupported()))
    }

    fn close(&mut self, _: h3::error::Code, _: &[u8]) {}
}

/// A request's stream.
pub(super) struct BidiStream {
    send: SendStream,
    recv: RecvStream,
}

impl quic::BidiStream<Bytes> for BidiStream {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.recv)
    }
}

impl quic::RecvStream for BidiStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.recv.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.id
    }
}

impl quic::SendStream<Bytes> for BidiStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.id
    }
}

/// The sending half of a stream.
pub(super) struct SendStream {
    stream: quinn::SendStream,
    id: StreamId,
    pieces: Pieces,
    /// Whether the last frame isn't written, nor held back.
    is_writing: bool,
    /// Of a request's stream.
    marks: Option<Arc<Marks>>,
    urgency: i32,
    turn: Turn,
    /// Whether it is finished or reset.
    is_over: bool,
}

impl SendStream {
    fn new(
        stream: quinn::SendStream,
        turns: Arc<Turns>,
        marks: Option<Arc<Marks>>,
    ) -> Result<Self, ConnectionErrorIncoming> {
        let id = stream_id(stream.id())?;
        Ok(Self {
            stream,
            id,
            pieces: Pieces::default(),
            is_writing: false,
            marks,
            urgency: 0,
            turn: Turn::new(turns, id.into_inner()),
            is_over: false,
        })
    }

    /// Applies the urgency that was found out about the response.
    fn prioritise(&mut self) {
        let Some(marks) = &self.marks else { return };
        if let Some(urgency) = self.turn.update().filter(|_| !marks.is_settled()) {
            marks.set_urgency(urgency);
        }
        let urgency = marks.urgency();
        if urgency != self.urgency {
            self.urgency = urgency;
            // One that is closed has nothing more to send.
            let _ = self.stream.set_priority(urgency);
        }
    }

    /// Writes all that there is, by as few calls as possible: each takes the connection's lock.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.prioritise();
        if self.turn.yields() {
            // Behind those that have been woken with it.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        while !self.pieces.is_empty() {
            let written = {
                // If it has to wait nothing is written, and the library keeps the waker by the stream.
                let writing = pin!(self.stream.write_chunks(self.pieces.slices()));
                writing.poll(cx)
            };
            let Poll::Ready(written) = written else {
                self.turn.wait(self.urgency);
                return Poll::Pending;
            };
            self.turn.go_on();
            let written = written.map_err(write_error)?;
            if let Some(marks) = &self.marks {
                marks.wrote(written.bytes);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl quic::SendStream<Bytes> for SendStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if !self.marks.as_ref().is_some_and(|marks| marks.is_held()) {
            ready!(self.poll_write(cx))?;
        }
        self.is_writing = false;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.is_writing {
            let connection_error = ConnectionErrorIncoming::InternalError("two writes at once".to_owned());
            return Err(StreamErrorIncoming::ConnectionErrorIncoming { connection_error });
        }
        self.is_writing = true;
        let frame: WriteBuf<Bytes> = data.into();
        let lent = self.marks.as_ref().and_then(|marks| marks.take_lent());
        self.pieces.add(frame, lent.unwrap_or_default());
        Ok(())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        // A head that was held back may have no body.
        ready!(self.poll_write(cx))?;
        self.is_over = true;
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, code: u64) {
        self.is_over = true;
        // One that is reset already stays so.
        let _ = self.stream.reset(var_int(code));
    }

    fn send_id(&self) -> StreamId {
        self.id
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        // The connection's own streams live as long as it does, and end with it.
        let Some(marks) = self.marks.as_ref().filter(|_| !self.is_over) else { return };
        if marks.has_refusal() {
            let _ = self.stream.finish();
        } else {
            let _ = self.stream.reset(marks.dropped_with().value().into());
        }
    }
}

/// The receiving half of a stream.
pub(super) struct RecvStream {
    stream: quinn::RecvStream,
    id: StreamId,
    frames: Frames,
    gathered: Share,
    /// Of one that may say how urgent responses are.
    turns: Option<Arc<Turns>>,
    /// Whether it has ended or is stopped.
    is_over: bool,
}

impl RecvStream {
    fn new(
        stream: quinn::RecvStream,
        frames: Frames,
        gathering: &Arc<Gathering>,
        turns: Option<Arc<Turns>>,
    ) -> Result<Self, ConnectionErrorIncoming> {
        let (id, gathered) = (stream_id(stream.id())?, Share::new(Arc::clone(gathering)));
        Ok(Self { stream, id, frames, gathered, turns, is_over: false })
    }

    /// Refuses what would take more memory than there is for it.
    fn refuse(&mut self) -> StreamErrorIncoming {
        self.stop(Code::ExcessiveLoad.value().into());
        terminated(Code::ExcessiveLoad)
    }

    fn stop(&mut self, code: VarInt) {
        self.is_over = true;
        // One that has been reset by the client needn't be stopped.
        let _ = self.stream.stop(code);
    }
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            match self.frames.take() {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    if !self.gathered.set(self.frames.pending()) {
                        return Poll::Ready(Err(self.refuse()));
                    }
                    if let (Some(turns), Some(update)) = (&self.turns, self.frames.take_update()) {
                        turns.update(update);
                    }
                    return Poll::Ready(Ok(Some(bytes)));
                }
                Err(_) => return Poll::Ready(Err(self.refuse())),
            }
            if self.is_over {
                return Poll::Ready(Ok(None));
            }
            // The library keeps the waker by the stream, so that nothing is lost with this future.
            let read = {
                let reading = pin!(self.stream.read_chunk(CHUNK, true));
                ready!(reading.poll(cx))
            };
            match read {
                Ok(Some(chunk)) => self.frames.push(chunk.bytes),
                Ok(None) => {
                    self.is_over = true;
                    let ended = if self.frames.may_end() { Ok(None) } else { Err(terminated(Code::FrameError)) };
                    return Poll::Ready(ended);
                }
                Err(error) => {
                    self.is_over = true;
                    return Poll::Ready(Err(read_error(error)));
                }
            }
        }
    }

    fn stop_sending(&mut self, code: u64) {
        self.stop(var_int(code));
    }

    fn recv_id(&self) -> StreamId {
        self.id
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if !self.is_over {
            self.stop(Code::NoError.value().into());
        }
    }
}

/// Returns the next stream that the client has opened.
fn accepted<T>(streams: &mut Accepting<T>, cx: &mut Context<'_>) -> Poll<Result<T, ConnectionErrorIncoming>> {
    Poll::Ready(match ready!(streams.as_mut().poll_next(cx)) {
        Some(accepted) => accepted.map_err(connection_error),
        None => Err(ConnectionErrorIncoming::InternalError("no more streams".to_owned())),
    })
}

fn stream_id(id: quinn::StreamId) -> Result<StreamId, ConnectionErrorIncoming> {
    let of_bounds = |_| ConnectionErrorIncoming::InternalError("a stream's number is out of bounds".to_owned());
    StreamId::try_from(u64::from(id)).map_err(of_bounds)
}

fn var_int(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn unsupported() -> StreamErrorIncoming {
    StreamErrorIncoming::Unknown("a server opens no such stream".into())
}

fn terminated(code: Code) -> StreamErrorIncoming {
    StreamErrorIncoming::StreamTerminated { error_code: code.value().into() }
}

fn connection_error(error: quinn::ConnectionError) -> ConnectionErrorIncoming {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        quinn::ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn write_error(error: quinn::WriteError) -> StreamErrorIncoming {
    match error {
        quinn::WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        quinn::WriteError::ConnectionLost(error) => {
            StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection_error(error) }
        }
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

fn read_error(error: quinn::ReadError) -> StreamErrorIncoming {
    match error {
        quinn::ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        quinn::ReadError::ConnectionLost(error) => {
            StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection_error(error) }
        }
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}
