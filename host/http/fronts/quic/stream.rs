//! One request: its head, its way to the handler, and its response, in a task of its own.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use ::http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use super::{
    head,
    patience::{Patience, Tail},
    session::{Arrived, Broken, Code, Ending, Marks, NoHead, Opening, Receiving, Sending},
    upload::Upload,
};
use crate::{
    config::Limits,
    http::{
        activity::Activity, end::Reason, handler::Handler, reply::Reply, request::Early, service::Conversation,
        shared::Shared, trace,
    },
    message::Body,
};

/// Streams of one connection whose header section may fail to come: so many, or as many as bring one. The library
/// remembers each as long as the connection lives, so there is a last bound as well.
const HEADLESS_MAX: usize = 1_000;
const HEADLESS_EVER_MAX: usize = 100_000;

/// The requests of one connection.
pub(super) struct Requests<H> {
    shared: Arc<Shared<H>>,
    conversation: Conversation<H>,
    activity: Arc<Activity>,
    /// Bytes of responses that the connection's buffers hold.
    send_bytes_max: u64,
    /// The tasks of those whose stream is open, up to the acknowledgement of the response's last byte.
    open: TaskTracker,
    /// Streams so far whose header section has failed to come.
    headless: AtomicUsize,
    exhausted: CancellationToken,
}

/// A request that has come far enough to be served.
struct Call<S, R> {
    request: Request<Upload<R>>,
    sending: S,
    over: Ending,
    marks: Arc<Marks>,
    /// Notified when its body is wanted, if its client waits for that.
    wanted: Option<Arc<Notify>>,
}

/// Why a response isn't sent to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Its body broke off, or isn't as long as it states.
    Aborted,
    /// The client takes too long.
    Slow(Reason),
    /// The stream is broken.
    Broken,
}

impl<H: Handler> Requests<H> {
    pub(super) fn new(
        shared: Arc<Shared<H>>,
        conversation: Conversation<H>,
        activity: Arc<Activity>,
        send_bytes_max: u64,
    ) -> Self {
        Self {
            shared,
            conversation,
            activity,
            send_bytes_max,
            open: TaskTracker::new(),
            headless: AtomicUsize::new(0),
            exhausted: CancellationToken::new(),
        }
    }

    /// Returns the streams that are open.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Ready when no stream is open.
    pub(super) async fn ended(&self) {
        self.open.close();
        self.open.wait().await;
    }

    /// Ready when the header sections of too many streams have failed to come.
    pub(super) async fn exhausted(&self) {
        self.exhausted.cancelled().await;
    }

    fn has_no_head(&self) {
        let count = self.headless.fetch_add(1, Ordering::Relaxed) + 1;
        if is_too_many(count, self.activity.begun() as usize) {
            self.exhausted.cancel();
        }
    }

    /// Serves a request in a task of its own.
    pub(super) fn serve<O: Opening>(self: &Arc<Self>, opening: O) {
        let served = serve(Arc::clone(self), opening);
        let span = trace::current();
        if span.is_disabled() {
            self.open.spawn(served);
        } else {
            self.open.spawn(served.instrument(span));
        }
    }

    /// Has the request served, and sends the response.
    async fn respond<S, R>(&self, call: Call<S, R>)
    where
        S: Sending,
        R: Receiving,
    {
        let Call { request, mut sending, mut over, marks, wanted } = call;
        let mut patience = Patience::new(&self.shared.timeouts);
        let response = {
            let mut answering = pin!(self.conversation.answer(request));
            loop {
                tokio::select! {
                    biased;
                    response = answering.as_mut() => break response,
                    // The client doesn't want it, so that the handler is given up.
                    _ = &mut over => return sending.reset(Code::RequestCancelled),
                    () = told(wanted.as_deref()) => {
                        if taken(patience.wait(&marks, sending.head(interim(), false)).await).is_err() {
                            return sending.reset(Code::RequestCancelled);
                        }
                    }
                }
            }
        };
        if marks.is_malformed() {
            return sending.reset(Code::MessageError);
        }
        // What the origin says of it counts more than what the client does (RFC 9218, section 8).
        if let Some(urgency) = head::urgency(response.headers()) {
            marks.settle_urgency(urgency);
        }
        let (head, reply) = head::divided(response);
        let sent = tokio::select! {
            biased;
            sent = send(&mut sending, head, reply, &marks, &mut patience) => sent,
            _ = &mut over => return sending.reset(Code::RequestCancelled),
        };
        match sent {
            Ok(()) => self.deliver(sending, over).await,
            Err(Failure::Slow(reason)) => {
                self.shared.metrics.reset(reason.as_str());
                sending.reset(Code::RequestCancelled);
            }
            Err(Failure::Aborted) if marks.is_malformed() => sending.reset(Code::MessageError),
            Err(Failure::Aborted | Failure::Broken) => sending.reset(Code::InternalError),
        }
    }

    /// Waits until the client has acknowledged a response that has been sent to its end: a connection that is closed
    /// before would take it along.
    async fn deliver<S: Sending>(&self, mut sending: S, mut over: Ending) {
        let mut tail = Tail::new(&self.shared.timeouts, self.send_bytes_max, sending.frames_sent());
        loop {
            let since = Instant::now();
            if timeout(tail.look(), &mut over).await.is_ok() {
                return;
            }
            if tail.is_over(since.elapsed(), sending.frames_sent()) {
                self.shared.metrics.reset(Reason::Send.as_str());
                return sending.reset(Code::RequestCancelled);
            }
        }
    }
}

/// Whether the header sections of too many streams have failed to come, beside so many that came.
const fn is_too_many(headless: usize, begun: usize) -> bool {
    headless > HEADLESS_EVER_MAX || (headless > HEADLESS_MAX && headless > begun)
}

/// Serves a request from its first byte to the acknowledgement of its response's last.
async fn serve<H: Handler, O: Opening>(requests: Arc<Requests<H>>, opening: O) {
    let shared = &requests.shared;
    match timeout(shared.timeouts.headers, arrive(opening, &shared.limits)).await {
        Ok(Ok(call)) => requests.respond(call).await,
        Ok(Err(NoHead::TooLarge)) => shared.metrics.rejected(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Ok(Err(NoHead::Broken)) => requests.has_no_head(),
        Err(_) => {
            shared.metrics.reset(Reason::Headers.as_str());
            requests.has_no_head();
        }
    }
    // What is acknowledged late keeps a connection from being idle.
    requests.activity.idle_from(requests.activity.millis());
}

/// Reads a request's head, and of its body what is there.
async fn arrive<O: Opening>(opening: O, limits: &Limits) -> Result<Call<O::Sending, O::Receiving>, NoHead> {
    let Arrived { mut request, mut sending, receiving, over, marks, is_early } = opening.head().await?;
    if head::is_malformed(&request) {
        sending.reset(Code::MessageError);
        return Err(NoHead::Broken);
    }
    if is_early {
        request.extensions_mut().insert(Early);
    }
    marks.set_urgency(head::urgency(request.headers()).unwrap_or_default());
    let stated = head::stated_length(request.headers());
    let mut upload = Upload::new(receiving, stated, limits.headers_max, Arc::clone(&marks));
    let wanted = head::expects_continue(request.headers()).then(|| Arc::new(Notify::new()));
    if let Some(wanted) = &wanted {
        upload.tell(Arc::clone(wanted));
    }
    if let Err(error) = upload.look_ahead(head::is_bare(&request)).await {
        sending.reset(error.code());
        return Err(NoHead::Broken);
    }
    Ok(Call { request: request.map(|()| upload), sending, over, marks, wanted })
}

/// Ready when the body is wanted of a client that waits for that.
async fn told(wanted: Option<&Notify>) {
    match wanted {
        Some(wanted) => wanted.notified().await,
        None => std::future::pending().await,
    }
}

/// Returns the response that has a client send its body (RFC 9110, section 15.2.1).
fn interim() -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::CONTINUE;
    head
}

/// Sends a response to its end, as fast as the client takes it.
async fn send<S: Sending>(
    sending: &mut S,
    head: Response<()>,
    mut reply: Reply<Body>,
    marks: &Marks,
    patience: &mut Patience,
) -> Result<(), Failure> {
    // A body that is left out has a length all the same.
    let is_left_out = reply.is_end_stream();
    let stated = head::stated_length(head.headers()).filter(|_| !is_left_out);
    let mut sent = 0;
    // What is there already is written together with the head, which saves time and maybe a packet.
    let mut ahead = poll_fn(|cx| Poll::Ready(Pin::new(&mut reply).poll_frame(cx))).await;
    let is_followed = match &ahead {
        Poll::Ready(Some(Ok(frame))) => frame.data_ref().is_none_or(|data| !data.is_empty()),
        Poll::Ready(next) => next.is_none(),
        Poll::Pending => false,
    };
    taken(patience.wait(marks, sending.head(head, is_followed)).await)?;
    loop {
        let next = match std::mem::replace(&mut ahead, Poll::Pending) {
            Poll::Ready(next) => next,
            Poll::Pending => reply.frame().await,
        };
        let Some(frame) = next else { break };
        match frame.map_err(|_| Failure::Aborted)?.into_data() {
            // It would be a frame of nothing.
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                sent += data.len() as u64;
                taken(patience.wait(marks, sending.data(data)).await)?;
            }
            Err(frame) => {
                let Ok(trailers) = frame.into_trailers() else { continue };
                taken(patience.wait(marks, sending.trailers(trailers)).await)?;
            }
        }
    }
    if stated.is_some_and(|stated| stated != sent) {
        return Err(Failure::Aborted);
    }
    // The request is over, whenever the client has the rest.
    drop(reply);
    taken(patience.wait(marks, sending.finish()).await)
}

/// Returns how a step of sending went.
fn taken(step: Result<Result<(), Broken>, Reason>) -> Result<(), Failure> {
    match step {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Broken)) => Err(Failure::Broken),
        Err(reason) => Err(Failure::Slow(reason)),
    }
}

#[cfg(test)]
mod tests {
    use std::{task::Context, time::Duration};

    use ::http::HeaderMap;
    use bytes::Bytes;
    use http_body::{Body as HttpBody, Frame};
    use parking_lot::Mutex;
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::{config::Timeouts, http::activity::InFlight, message::BodyError};

    /// A half of a stream that notes what is done with it, and has no room after some bytes.
    #[derive(Clone)]
    struct Noting {
        said: Arc<Mutex<Vec<String>>>,
        room: usize,
    }

    impl Noting {
        fn new(room: usize) -> Self {
            Self { said: Arc::default(), room }
        }

        fn note(&self, said: String) {
            self.said.lock().push(said);
        }
    }

    impl Sending for Noting {
        async fn head(&mut self, head: Response<()>, is_followed: bool) -> Result<(), Broken> {
            let alone = if is_followed { "" } else { " alone" };
            self.note(format!("head {}{alone}", head.status().as_u16()));
            Ok(())
        }

        async fn data(&mut self, data: Bytes) -> Result<(), Broken> {
            let Some(left) = self.room.checked_sub(data.len()) else { return std::future::pending().await };
            self.room = left;
            self.note(format!("data {}", data.len()));
            Ok(())
        }

        async fn trailers(&mut self, trailers: HeaderMap) -> Result<(), Broken> {
            self.note(format!("trailers {}", trailers.len()));
            Ok(())
        }

        async fn finish(&mut self) -> Result<(), Broken> {
            self.note("end".to_owned());
            Ok(())
        }

        fn reset(&mut self, code: Code) {
            self.note(format!("reset {code:?}"));
        }

        fn frames_sent(&self) -> u64 {
            0
        }
    }

    /// A body that plays its frames; one that is late has none at first.
    struct Frames {
        frames: std::vec::IntoIter<Result<Frame<Bytes>, BodyError>>,
        is_late: bool,
    }

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            if std::mem::take(&mut self.is_late) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(self.frames.next())
        }
    }

    fn frames(frames: Vec<Result<Frame<Bytes>, BodyError>>) -> Body {
        Body::stream(Frames { frames: frames.into_iter(), is_late: false })
    }

    fn late(frames: Vec<Result<Frame<Bytes>, BodyError>>) -> Body {
        Body::stream(Frames { frames: frames.into_iter(), is_late: true })
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn trailers() -> Result<Frame<Bytes>, BodyError> {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", ::http::HeaderValue::from_static("0"));
        Ok(Frame::trailers(fields))
    }

    /// Sends a body after a head that states this length, and returns the outcome and all that was done.
    async fn sent(stated: Option<u64>, body: Body, room: usize) -> (Result<(), Failure>, String) {
        let mut response = Response::builder();
        if let Some(stated) = stated {
            response = response.header("content-length", stated);
        }
        let activity = Arc::new(Activity::new(Counter::default()));
        let reply = Reply::new(body, InFlight::begin(&activity), None);
        let timeouts = Timeouts { send: Duration::from_millis(30), rate_bytes_min: 0, ..Timeouts::default() };
        let (mut noting, mut patience) = (Noting::new(room), Patience::new(&timeouts));
        let head = response.body(()).unwrap();
        let outcome = send(&mut noting, head, reply, &Marks::default(), &mut patience).await;
        assert_eq!(activity.in_flight(), 0, "it is over for the counts");
        let said = noting.said.lock().join(", ");
        (outcome, said)
    }

    #[test]
    fn giving_up_is_allowed_within_bounds() {
        let cases = [
            (1_000, 0, false),
            (1_001, 0, true),
            (1_001, 1_000, true),
            (50_000, 50_000, false),
            (100_001, usize::MAX, true),
        ];
        for (headless, begun, expected) in cases {
            assert_eq!(is_too_many(headless, begun), expected, "{headless} of {begun}");
        }
    }

    #[tokio::test]
    async fn only_a_whole_response_ends() {
        let broken = || Err(BodyError::Broken("on purpose".to_owned()));
        let cases = [
            ("whole", Some(5), frames(vec![data("hel"), data("lo")]), Ok(()), "head 200, data 3, data 2, end"),
            ("trailers", None, frames(vec![data("x"), trailers()]), Ok(()), "head 200, data 1, trailers 1, end"),
            ("late", Some(5), late(vec![data("hello")]), Ok(()), "head 200 alone, data 5, end"),
            ("broken at once", Some(5), frames(vec![broken()]), Err(Failure::Aborted), "head 200 alone"),
            ("nothing between", None, frames(vec![data(""), data("x")]), Ok(()), "head 200 alone, data 1, end"),
            ("of HEAD", Some(5), Body::Empty, Ok(()), "head 200, end"),
            ("broken", None, frames(vec![data("hel"), broken()]), Err(Failure::Aborted), "head 200, data 3"),
            ("short", Some(5), frames(vec![data("hel")]), Err(Failure::Aborted), "head 200, data 3"),
            ("long", Some(2), frames(vec![data("hel")]), Err(Failure::Aborted), "head 200, data 3"),
        ];
        for (name, stated, body, outcome, said) in cases {
            assert_eq!(sent(stated, body, 1_000).await, (outcome, said.to_owned()), "{name}");
        }
    }

    #[tokio::test]
    async fn a_client_without_room_is_given_up() {
        let body = frames(vec![data("hel"), data("lo")]);
        let slow = Err(Failure::Slow(Reason::Send));
        assert_eq!(sent(None, body, 3).await, (slow, "head 200, data 3".to_owned()));
    }
}
