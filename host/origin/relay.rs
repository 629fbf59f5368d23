//! A response's body between its origin and its client. As long as the client keeps up, each piece goes straight through,
//! and nothing runs beside it. A client that lets pieces lie is noticed (`lagging` looks at all bodies now and then):
//! then a task takes the body in, into the spool, at the origin's speed, so that the place is free when the response has
//! arrived; and the client reads from there.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    task::{AbortHandle, JoinHandle},
    time::{sleep, timeout},
};

use super::{
    download::{Download, remove_connection_fields},
    lagging::Watched,
    ledger::Slot,
    opening::Opening,
    spool::{Room, Scratch, Segment, Stash},
};
use crate::message::{self, Body, BodyError};

/// How long an origin may pause before others have the turn.
const TURN_PAUSE: Duration = Duration::from_millis(10);

/// Bytes after which others have the turn.
const TURN_BYTES: usize = 4 << 20;

/// How long a body that finds no room holds its place without a share of those that may be held so.
const GRACE: Duration = Duration::from_millis(250);

/// How often a body that finds no room looks for some.
const RETRY: Duration = Duration::from_millis(50);

/// A response that can be sent on. The slot is held until its body has arrived or is dropped; a client that lets it
/// wait reads from the room that it has in the spool.
///
/// A response without a body needs no room, and looking for the client's costs a lock.
pub(super) fn receive(
    response: Response<Opening>,
    mut slot: Slot,
    idle: Duration,
    room: impl FnOnce() -> Room,
) -> message::Response {
    let (head, incoming) = response.into_parts();
    let (body, switch) = if incoming.is_end_stream() {
        slot.report(true);
        (Body::Empty, None)
    } else {
        let lent = slot.lent();
        let relay = Relay::new(Download::new(incoming, slot, idle), room(), lent);
        let switch = SpoolSwitch(Arc::downgrade(&relay.shared));
        (Body::stream(relay), Some(switch))
    };
    // The version of the hop before, and the library's extensions, end here.
    let mut received = Response::new(body);
    *received.status_mut() = head.status;
    *received.headers_mut() = head.headers;
    remove_connection_fields(received.headers_mut());
    if let Some(switch) = switch {
        received.extensions_mut().insert(switch);
    }
    received
}

/// Keeps a response's body out of the spool, for a reader that stores it: all that makes such a reader wait is this node's
/// own disk, on which the spool would be one more copy. It is in the extensions of a response that has a body.
#[derive(Clone)]
pub struct SpoolSwitch(Weak<Shared>);

impl SpoolSwitch {
    /// Has the body go straight through, however long its reader lets it wait, while what is returned lives.
    #[must_use]
    pub fn off(&self) -> SpoolOff {
        if let Some(shared) = self.0.upgrade() {
            shared.off.fetch_add(1, Ordering::Relaxed);
        }
        SpoolOff(self.0.clone())
    }
}

/// A body doesn't go into the spool while this lives.
pub struct SpoolOff(Weak<Shared>);

impl Drop for SpoolOff {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            // It lags from now on, if it does.
            shared.state.lock().touched = true;
            shared.off.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A body as its client reads it.
struct Relay {
    shared: Arc<Shared>,
    /// Wakes [`Bell`], which wakes the reader.
    waker: Waker,
    /// A piece that is being read from the file.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// Bytes that the client has yet to get, if the response says so.
    left: Option<u64>,
}

/// What the client's side and the origin's side of a body have in common.
struct Shared {
    state: Mutex<State>,
    bell: Arc<Bell>,
    /// The readers that keep it out of the spool.
    off: AtomicUsize,
    /// The client took a piece that waited.
    took: Notify,
    /// What the endpoint lends to clients that are waited for.
    lent: Arc<Semaphore>,
    /// Where it may wait.
    room: Room,
}

struct State {
    /// As long as each piece goes straight through.
    direct: Option<Download>,
    /// The client has been here since the last look.
    touched: bool,
    /// The client has requested more than there was.
    waits: bool,
    stash: Stash,
    /// Once some of it has been written to the file, until all of it has been read.
    scratch: Option<Scratch>,
    reader: Option<Waker>,
    /// Those of a body that has been taken in; the client gets them last.
    trailers: Option<HeaderMap>,
    end: Option<Result<(), BodyError>>,
    task: Option<AbortHandle>,
    /// The client has left, or what waited for it is lost.
    is_abandoned: bool,
}

/// Notes that the origin has brought something for a client that waits.
struct Bell {
    rung: AtomicBool,
    reader: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.reader.wake();
    }
}

type Piece = Option<Result<Frame<Bytes>, BodyError>>;

impl Relay {
    /// A body that has begun to arrive. Looked at from now on by a task that all bodies have in common.
    fn new(download: Download, room: Room, lent: Arc<Semaphore>) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(false), reader: AtomicWaker::new() });
        let left = download.size_hint().exact();
        let state = State {
            direct: Some(download),
            touched: true,
            waits: false,
            stash: Stash::new(&room),
            scratch: None,
            reader: None,
            trailers: None,
            end: None,
            task: None,
            is_abandoned: false,
        };
        let waker = Waker::from(Arc::clone(&bell));
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            bell,
            off: AtomicUsize::new(0),
            took: Notify::new(),
            lent,
            room,
        });
        let body = Arc::downgrade(&shared);
        shared.room.spool().lagging.add(body);
        Self { shared, waker, reading: None, left }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        if self.reading.is_some() {
            return self.poll_file(cx);
        }
        let mut state = self.shared.state.lock();
        state.touched = true;
        if let Some(direct) = &mut state.direct {
            // In this order: what rings from here on has not been seen by the poll.
            self.shared.bell.rung.store(false, Ordering::Release);
            self.shared.bell.reader.register(cx.waker());
            let piece = Pin::new(direct).poll_frame(&mut Context::from_waker(&self.waker));
            state.waits = piece.is_pending();
            return piece;
        }
        match state.stash.next() {
            None => state.poll_end(cx),
            Some(Segment::Memory(bytes)) => {
                drop(state);
                self.shared.took.notify_one();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Segment::Filed { at, len }) => {
                // What is filed has a file.
                self.reading = state.scratch.as_ref().map(|scratch| scratch.take(at, len));
                drop(state);
                self.poll_file(cx)
            }
        }
    }

    fn poll_file(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        match read.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            Ok(bytes) => {
                let mut state = self.shared.state.lock();
                state.stash.read(bytes.len() as u64);
                let done = state.stash.is_empty() && state.end.is_some();
                let scratch = if done { state.scratch.take() } else { None };
                drop(state);
                drop(scratch);
                self.shared.took.notify_one();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Err(error) => self.fail(&error),
        }
    }

    /// What waited is lost, so the body breaks off.
    fn fail(&self, error: &io::Error) -> Poll<Piece> {
        tracing::warn!(%error, "a response that waited for its client can't be read back");
        self.shared.abandon();
        Poll::Ready(Some(Err(BodyError::Broken(format!("what waited for the client can't be read: {error}")))))
    }
}

impl HttpBody for Relay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Piece> {
        let this = self.get_mut();
        let piece = this.poll_piece(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(left)) = (&piece, &mut this.left) {
            *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        piece
    }

    fn is_end_stream(&self) -> bool {
        if self.reading.is_some() {
            return false;
        }
        let state = self.shared.state.lock();
        match &state.direct {
            Some(direct) => direct.is_end_stream(),
            None => state.stash.is_empty() && state.trailers.is_none() && matches!(state.end, Some(Ok(()))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Relay {
    /// A client that leaves ends the exchange.
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

impl State {
    /// No piece waits: the trailers and the end, if they have come.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match &self.end {
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => {
                let error = error.clone();
                // Returned once; after that the end is.
                self.end = Some(Ok(()));
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl Shared {
    /// Ends the exchange, whoever has it, and forgets what waits.
    fn abandon(&self) {
        let mut state = self.state.lock();
        let (direct, task, scratch) = (state.direct.take(), state.task.take(), state.scratch.take());
        state.is_abandoned = true;
        state.stash.clear();
        state.trailers = None;
        state.end = Some(Ok(()));
        drop(state);
        if let Some(task) = task {
            task.abort();
        }
        drop((direct, scratch));
    }

    /// Adds what `add` adds to what waits, and notifies the client.
    fn add(&self, add: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        add(&mut state);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Watched for Shared {
    /// Looks whether the client keeps up, and has the body taken in if it doesn't. False if no further look is needed.
    fn look(self: Arc<Self>) -> bool {
        let mut state = self.state.lock();
        let waits = state.waits && !self.bell.rung.load(Ordering::Acquire);
        let is_off = self.off.load(Ordering::Relaxed) > 0;
        let keeps_up = std::mem::replace(&mut state.touched, false) || waits || is_off;
        if keeps_up {
            return state.direct.is_some();
        }
        let Some(download) = state.direct.take_if(|download| !download.is_end_stream()) else { return false };
        drop(state);
        // Not under the lock: a runtime that shuts down drops what it is given at once, and that takes the lock.
        let intake = Intake::new(Arc::clone(&self));
        let task = tokio::spawn(intake.run(download)).abort_handle();
        let mut state = self.state.lock();
        if state.is_abandoned {
            drop(state);
            task.abort();
        } else {
            state.task = Some(task);
        }
        false
    }
}

/// Takes a body in for a client that lags.
struct Intake {
    shared: Arc<Shared>,
    scratch: Scratch,
    /// Held while the body finds no room.
    share: Option<OwnedSemaphorePermit>,
}

impl Intake {
    fn new(shared: Arc<Shared>) -> Self {
        let scratch = Scratch::new(&shared.room);
        Self { shared, scratch, share: None }
    }

    async fn run(mut self, mut download: Download) {
        let end = self.take_in(&mut download).await;
        // The place first, then the client.
        drop(download);
        self.shared.add(|state| state.end = Some(end));
    }

    /// Takes turns with other bodies: a turn ends when the origin pauses, or after so many bytes.
    async fn take_in(&mut self, download: &mut Download) -> Result<(), BodyError> {
        let spool = Arc::clone(self.shared.room.spool());
        let (mut turn, mut bytes): (Option<SemaphorePermit<'_>>, usize) = (None, 0);
        loop {
            let frame = if turn.is_some() {
                let Ok(frame) = timeout(TURN_PAUSE, download.frame()).await else {
                    turn = None;
                    continue;
                };
                frame
            } else {
                download.frame().await
            };
            let Some(frame) = frame else { return Ok(()) };
            let piece = match frame?.into_data() {
                Ok(piece) => piece,
                Err(other) => {
                    self.shared.add(|state| state.trailers = other.into_trailers().ok());
                    continue;
                }
            };
            if turn.is_none() || bytes > TURN_BYTES {
                drop(turn.take());
                (turn, bytes) = (spool.turns.acquire().await.ok(), 0);
            }
            bytes += piece.len();
            if let Some(piece) = self.store(piece).await {
                turn = None;
                self.wait_for_room(piece).await?;
            } else {
                self.share = None;
            }
        }
    }

    /// Stores a piece in memory or in the file; returned if neither has room.
    async fn store(&mut self, piece: Bytes) -> Option<Bytes> {
        let mut refused = None;
        let mut at = 0;
        self.shared.add(|state| {
            refused = state.stash.push(piece).err();
            at = state.stash.file_end();
        });
        let piece = refused?;
        if !self.scratch.write(&piece, at).await {
            return Some(piece);
        }
        let len = piece.len() as u64;
        self.shared.add(|state| {
            state.scratch.get_or_insert_with(|| self.scratch.clone());
            state.stash.push_filed(at, len);
        });
        None
    }

    /// Holds the origin up until there is room or the client has taken all that waits; then the piece, which is no longer
    /// than [`super::dial::PIECE_BYTES`], waits in any case. So may only as many bodies as the endpoint lends; the others
    /// break off.
    async fn wait_for_room(&mut self, mut piece: Bytes) -> Result<(), BodyError> {
        self.shared.room.spool().meters.full.inc();
        let mut patience = std::pin::pin!(sleep(GRACE));
        loop {
            if self.shared.state.lock().stash.is_empty() {
                self.shared.add(|state| state.stash.force(&piece));
                return Ok(());
            }
            if self.share.is_none() {
                self.share = Arc::clone(&self.shared.lent).try_acquire_owned().ok();
            }
            tokio::select! {
                () = self.shared.took.notified() => {}
                () = sleep(RETRY) => {}
                () = &mut patience, if self.share.is_none() => {
                    return Err(BodyError::Broken("too many slow clients for the room that bodies have".to_owned()));
                }
            }
            match self.store(piece).await {
                None => return Ok(()),
                Some(back) => piece = back,
            }
        }
    }
}

impl Drop for Intake {
    /// Whatever ended it, the client doesn't wait for it any longer.
    fn drop(&mut self) {
        self.shared.add(|state| {
            state.end.get_or_insert_with(|| Err(BodyError::Broken("taking the response in ended early".to_owned())));
        });
    }
}
