//! What this front needs of a library that speaks HTTP/3. `by_h3` has it from the one in use; nothing else in the front
//! knows which that is.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use ::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use parking_lot::Mutex;

/// Why a stream or a connection ends (RFC 9114, section 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// H3_NO_ERROR.
    NoError = 0x100,
    /// H3_INTERNAL_ERROR.
    InternalError = 0x102,
    /// H3_FRAME_ERROR.
    FrameError = 0x106,
    /// H3_EXCESSIVE_LOAD.
    ExcessiveLoad = 0x107,
    /// H3_REQUEST_REJECTED: the client may send the request again, because nothing has been done for it.
    RequestRejected = 0x10b,
    /// H3_REQUEST_CANCELLED.
    RequestCancelled = 0x10c,
    /// H3_MESSAGE_ERROR.
    MessageError = 0x10e,
}

impl Code {
    /// Returns the code as it is sent.
    pub(super) const fn value(self) -> u32 {
        self as u32
    }
}

/// The error of a connection that is closed, by whomever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// The error of a stream that the client has broken off, or that broke with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// Why a request's header section couldn't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHead {
    /// It is larger than the client was told that it may be. The client has been sent 431.
    TooLarge,
    /// It is malformed, or the client broke it off.
    Broken,
}

/// How the client's part in a response has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// It has acknowledged all of it.
    Delivered,
    /// It doesn't want it, or is gone.
    Unwanted,
}

/// Ready when the client's part in a response has ended.
pub(super) type Ending = Pin<Box<dyn Future<Output = Over> + Send>>;

/// A connection that speaks HTTP/3, on its server's side.
pub(super) trait Session: Send {
    type Opening: Opening;

    /// Waits for the next request, and meanwhile looks after the connection's own streams. `None` if the client has said
    /// that there will be no more, and those that there were are over. May be given up at any time.
    fn accept(&mut self) -> impl Future<Output = Result<Option<Self::Opening>, Lost>> + Send;

    /// Tells the client that no request will be served beyond those that have been accepted (GOAWAY).
    fn go_away(&mut self) -> impl Future<Output = Result<(), Lost>> + Send;
}

/// A request whose header section is yet to be read. If it is dropped, its stream is reset.
pub(super) trait Opening: Send + 'static {
    type Sending: Sending;
    type Receiving: Receiving;

    /// Reads the header section. May be given up; the stream is reset then.
    fn head(self) -> impl Future<Output = Result<Arrived<Self::Sending, Self::Receiving>, NoHead>> + Send;

    /// Resets the stream so that the client may send the request again.
    fn reject(self);
}

/// A request whose header section has come.
pub(super) struct Arrived<S, R> {
    pub(super) request: Request<()>,
    pub(super) sending: S,
    pub(super) receiving: R,
    pub(super) over: Ending,
    pub(super) marks: Arc<Marks>,
    /// Whether it came before the handshake was over, so that it may be one that was sent again by somebody else.
    pub(super) is_early: bool,
}

/// The response's half of a stream. If it is dropped unfinished, it is reset with H3_INTERNAL_ERROR, so that no part of
/// a response is taken for the whole. Of an operation that was given up only [`Sending::reset`] may follow.
pub(super) trait Sending: Send + 'static {
    /// If something follows at once, the head may be held back until then.
    fn head(&mut self, head: Response<()>, is_followed: bool) -> impl Future<Output = Result<(), Broken>> + Send;

    /// Returns when all of it has been let through by the client's windows, or is buffered within this side's.
    fn data(&mut self, data: Bytes) -> impl Future<Output = Result<(), Broken>> + Send;

    fn trailers(&mut self, trailers: HeaderMap) -> impl Future<Output = Result<(), Broken>> + Send;

    /// Marks the end of the response; it is delivered after that, even if this half is dropped.
    fn finish(&mut self) -> impl Future<Output = Result<(), Broken>> + Send;

    /// Breaks the response off, and drops what hasn't been delivered of one that is finished.
    fn reset(&mut self, code: Code);

    /// Returns a number that grows as long as the connection sends what its buffers hold.
    fn frames_sent(&self) -> u64;
}

/// The request's half of a stream. If it is dropped before its end, the client is told with H3_NO_ERROR to stop.
pub(super) trait Receiving: Send + Unpin + 'static {
    /// Returns the next bytes of the body; `None` at its end. Not to be called again after that, or an error.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>>;

    /// Returns the trailers, if there are any, once the body has ended.
    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Broken>>;
}

/// What the two halves of a stream and the task that serves it note for each other. No order between them is needed.
#[derive(Debug, Default)]
pub(super) struct Marks {
    written: AtomicU64,
    urgency: AtomicI32,
    is_settled: AtomicBool,
    is_served: AtomicBool,
    is_malformed: AtomicBool,
    is_rejected: AtomicBool,
    is_held: AtomicBool,
    lent: Mutex<Option<Bytes>>,
}

impl Marks {
    /// Notes bytes of the response that were let through.
    pub(super) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the bytes of the response that were let through so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Notes how much more urgent than others the response is.
    pub(super) fn set_urgency(&self, urgency: i32) {
        self.urgency.store(urgency, Ordering::Relaxed);
    }

    /// Notes that it is so urgent, whatever the client says from now on.
    pub(super) fn settle_urgency(&self, urgency: i32) {
        self.set_urgency(urgency);
        self.is_settled.store(true, Ordering::Relaxed);
    }

    /// Whether the client has no say in how urgent the response is any more.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Relaxed)
    }

    /// Returns how much more urgent than others the response is.
    pub(super) fn urgency(&self) -> i32 {
        self.urgency.load(Ordering::Relaxed)
    }

    /// Notes that the request is this node's to respond to: from now on only a finished response is a whole one.
    pub(super) fn serve(&self) {
        self.is_served.store(true, Ordering::Relaxed);
    }

    /// Whether the library itself has responded, and the response may end as it is.
    pub(super) fn has_refusal(&self) -> bool {
        !self.is_served.load(Ordering::Relaxed) && self.written() > 0
    }

    /// Notes whether what is to be written is held back until more follows.
    pub(super) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    /// Whether what is to be written is held back until more follows.
    pub(super) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    /// Hands over the bytes of the next frame of a body beside the library, which would only let them be copied.
    pub(super) fn lend(&self, data: Bytes) {
        *self.lent.lock() = Some(data);
    }

    /// Returns the bytes that have been handed over.
    pub(super) fn take_lent(&self) -> Option<Bytes> {
        self.lent.lock().take()
    }

    /// Notes that the request isn't as long as it says.
    pub(super) fn malformed(&self) {
        self.is_malformed.store(true, Ordering::Relaxed);
    }

    /// Whether the request isn't as long as it says.
    pub(super) fn is_malformed(&self) -> bool {
        self.is_malformed.load(Ordering::Relaxed)
    }

    /// Notes that nothing has been done for the request, and nothing will be.
    pub(super) fn reject(&self) {
        self.is_rejected.store(true, Ordering::Relaxed);
    }

    /// Returns the code by which a stream is reset that is dropped unfinished.
    pub(super) fn dropped_with(&self) -> Code {
        if self.is_rejected.load(Ordering::Relaxed) { Code::RequestRejected } else { Code::InternalError }
    }
}
