//! One connection from accept to close.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use ::http::{HeaderValue, Request, Response, StatusCode, Version, header};
use bytes::Bytes;
use http_body::Body as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    arriving::Arriving,
    detect::detect,
    extended,
    linger::{self, Stops},
    pieces::Pieces,
    stream::{Marks, Streams},
    tls,
    transport::{Front, Refusal, Socket, Transport},
    tunnel::{self, Tunnel},
    unparsed,
    watch::{Protocol, SocketActivity, verdict},
};
use crate::{
    config::{Limits, Timeouts},
    http::{
        activity::Activity,
        driver::{Driver, Phase},
        end::{End, Reason},
        handler::Handler,
        metrics::Metrics,
        pace::Pace,
        rejection::Rejection,
        reply::Reply,
        request,
        service::Conversation,
        shared::{Open, Peer, Shared},
        trace,
    },
    message::{Body, body::Sender},
};

/// hyper's smallest buffer.
const BUFFER_MIN: usize = 8192;

/// Header fields that hyper parses without an allocation.
const FIELDS_INLINE: usize = 100;

/// Bytes of one response that HTTP/2 may hold until its client takes them.
const SEND_BUFFER: usize = 64 * 1024;

/// Bytes of the longest target that the types of URIs can hold, and a little more: HTTP/2 takes any such one, so that one
/// that is too long is refused with a reason.
const TARGET_BYTES_MAX: usize = 64 * 1024;

const PING_MIN: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// hyper's two state machines, within the limits of this node.
pub(super) struct Builders {
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
}

impl Builders {
    pub(super) fn new(limits: &Limits, timeouts: &Timeouts, metrics: &Metrics) -> Self {
        Self { http1: http1(limits), http2: http2(limits, timeouts, Streams::new(timeouts, metrics.clone())) }
    }
}

/// Classifies hyper's own end of a connection.
fn end(outcome: hyper::Result<()>, phase: Phase) -> End {
    match (outcome, phase) {
        (Ok(()), Phase::Open) => End::Done,
        (Ok(()), Phase::Draining) => End::Drained,
        (Ok(()), Phase::Closing) => End::Timeout(Reason::Idle),
        (Err(error), _) if error.is_parse() => End::Malformed,
        (Err(error), _) if error.is_timeout() => End::Unresponsive,
        (Err(error), _) if error.is_user() => End::Aborted,
        (Err(_), _) => End::Broken,
    }
}

/// Whether the client may have something left to read after such an end, so that its socket is closed in stages.
const fn lingers(end: End) -> bool {
    match end {
        End::Done
        | End::Drained
        | End::Malformed
        | End::Aborted
        | End::Broken
        | End::Timeout(Reason::Headers | Reason::Idle) => true,
        // A client that hasn't been sent anything, or was waited for long enough.
        End::Handshake
        | End::Unresponsive
        | End::Cut
        | End::Timeout(Reason::FirstByte | Reason::Send | Reason::Rate) => false,
    }
}

/// Whether the end of the connection is the end of this response to HTTP/1.0.
fn is_close_delimited(response: &Response<Reply<Body>>) -> bool {
    let body = response.body();
    !body.is_end_stream()
        && body.size_hint().exact().is_none()
        && !response.headers().contains_key(header::CONTENT_LENGTH)
}

/// Serves one connection and counts how it ended; `common` is the state that it shares with all others, and `address`
/// what it has of its address: the TLS, and the `Alt-Svc` of its responses.
pub(super) async fn serve<H: Handler>(
    common: (Arc<Shared<H>>, Arc<Builders>),
    stream: TcpStream,
    address: (Option<TlsAcceptor>, Option<HeaderValue>),
    peer: Peer,
    open: Open,
) {
    let (shared, builders) = common;
    let (tls, alternative) = address;
    let _open = open;
    let activity = Arc::new(Activity::new(shared.metrics.panics.clone()));
    let socket = Arc::new(SocketActivity::new(activity.clone(), Pace::of(&shared.timeouts)));
    // A token of its own: the common one has a lock that every wake-up of every connection would take.
    let drain = shared.drain.child_token();
    let (transport, protocol, ahead) = match opened(&shared, &drain, Socket::new(stream, socket.clone()), tls).await {
        Ok(opened) => opened,
        Err(end) => return shared.ended(end, &activity),
    };
    trace::protocol(protocol.as_str());

    socket.begin();
    let mut front = Front::new(transport, ahead, socket.clone());
    if protocol == Protocol::Http1 {
        front.speaks_http1();
    }
    let conversation = Conversation::new(shared.clone(), activity.clone(), peer);
    // Lives until the socket is closed: up to then the connection counts among those of its client's address.
    let requests = Arc::new(Service {
        shared: shared.clone(),
        conversation,
        activity: socket,
        protocol,
        alternative,
        tunnel: Mutex::new(None),
        unparsed: Mutex::new(None),
    });
    let end = converse(&shared, &builders, &requests, &activity, &mut front, &drain).await;
    let rejection = requests.unparsed.lock().take();
    if let (Some(Refusal { status, date }), Some(rejection)) = (front.take_unparsed(), rejection) {
        let is_long_line = front.has_long_line(shared.limits.header_bytes_max);
        let response = requests.conversation.unparsed(unparsed::of_size(rejection, status, is_long_line));
        let refusal = unparsed::written(response, &date);
        // A client that takes nothing is cut; one that has gone has nobody to tell.
        let _ = timeout(shared.timeouts.send, refuse(&mut front, &refusal)).await;
    }
    shared.ended(end, &activity);
    if lingers(end) {
        // hyper refuses what it can't parse by itself, so that isn't among the requests.
        let since = if end == End::Malformed { activity.now() } else { activity.idle_since() };
        let since = Instant::from_std(activity.instant(since));
        let stops = Stops { drain: &drain, cut: &shared.cut };
        linger::close(front.into_socket(), since, shared.timeouts.linger, stops).await;
    }
}

/// The service that hyper calls with the requests of one connection.
struct Service<H> {
    shared: Arc<Shared<H>>,
    conversation: Conversation<H>,
    activity: Arc<SocketActivity>,
    protocol: Protocol,
    /// The `Alt-Svc` of responses that have none.
    alternative: Option<HeaderValue>,
    /// The bytes of the protocol that the client has switched to, until HTTP is over.
    tunnel: Mutex<Option<Tunnel>>,
    /// Why HTTP/1 couldn't be parsed.
    unparsed: Mutex<Option<Rejection>>,
}

impl<H: Handler> Service<H> {
    async fn answer(&self, request: Request<Incoming>) -> Response<Pieces<Reply<Body>>> {
        let version = request.version();
        self.activity.head_complete(version);
        let (marks, arrives) = match self.protocol {
            Protocol::Http1 => (None, Some(&self.activity)),
            Protocol::Http2 => (Marks::current(&self.activity), None),
        };
        let request = request.map(|body| Arriving::new(body, arrives));
        let mut response = match self.protocol {
            Protocol::Http1 => self.over_http1(self.conversation.answer_or_switch(request).await),
            Protocol::Http2 if extended::is_websocket(&request) => Box::pin(self.over_stream(request)).await,
            Protocol::Http2 => self.conversation.answer(request).await,
        };
        let is_last = self.protocol == Protocol::Http1 && self.shared.retirement.has_begun();
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // Its next request goes to the process that accepts now.
            response.headers_mut().entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
        }
        if let Some(alternative) = &self.alternative {
            response.headers_mut().entry(header::ALT_SVC).or_insert_with(|| alternative.clone());
        }
        if version == Version::HTTP_10 && is_close_delimited(&response) {
            self.activity.ends_with_connection();
        }
        response.map(|reply| Pieces::new(reply, marks))
    }

    /// Returns the response that HTTP ends with if the client switches to another protocol; what both sides send after it
    /// is set aside.
    fn over_http1(&self, (response, from_client): (Response<Reply<Body>>, Option<Sender>)) -> Response<Reply<Body>> {
        let Some(from_client) = from_client else { return response };
        let (head, to_client) = response.into_parts();
        *self.tunnel.lock() = Some(Tunnel { to_client, from_client });
        Response::from_parts(head, Reply::instead(Body::Empty))
    }

    /// Returns the response to a client that wants a stream of HTTP/2 to be a WebSocket. What both sides send after it has a
    /// task of its own, which ends with the stream, and with which the stream ends.
    async fn over_stream(&self, mut request: Request<Arriving<Incoming>>) -> Response<Reply<Body>> {
        let switched = hyper::upgrade::on(&mut request);
        extended::translate(&mut request);
        let (response, from_client) = self.conversation.answer_or_switch(request).await;
        let Some(from_client) = from_client else { return extended::refused(response) };
        let (head, to_client) = response.into_parts();
        let (tunnel, shared) = (Tunnel { to_client, from_client }, Arc::clone(&self.shared));
        let running = async move {
            // One whose stream is reset before has no tunnel.
            if let Ok(stream) = switched.await {
                tunnel::run(&mut TokioIo::new(stream), tunnel, shared.timeouts.idle, &shared.cut).await;
            }
        };
        tokio::spawn(running.instrument(trace::current()));
        extended::accepted(Response::from_parts(head, ()))
    }
}

/// Sends the response to what couldn't be parsed, and the end.
async fn refuse(front: &mut Front, refusal: &[u8]) -> io::Result<()> {
    front.write_all(refusal).await?;
    front.flush().await?;
    front.shutdown().await
}

/// Opens a connection, or returns how it ended: in time, and before the server stops.
async fn opened<H>(
    shared: &Shared<H>,
    drain: &CancellationToken,
    socket: Socket,
    tls: Option<TlsAcceptor>,
) -> Result<(Transport, Protocol, Bytes), End> {
    let too_late = match tls {
        Some(_) => End::Handshake,
        None => End::Timeout(Reason::FirstByte),
    };
    let opening = timeout(shared.timeouts.first_byte, open(socket, tls));
    tokio::select! {
        biased;
        opened = opening => opened.unwrap_or(Err(too_late)),
        () = drain.cancelled() => Err(End::Drained),
    }
}

/// Speaks HTTP on an open connection to its end.
async fn converse<H: Handler>(
    shared: &Shared<H>,
    builders: &Builders,
    requests: &Arc<Service<H>>,
    activity: &Activity,
    front: &mut Front,
    drain: &CancellationToken,
) -> End {
    let (socket, protocol) = (&requests.activity, requests.protocol);
    let service = {
        let requests = requests.clone();
        service_fn(move |request: Request<Incoming>| {
            let requests = requests.clone();
            async move { Ok::<_, Infallible>(requests.answer(request).await) }
        })
    };
    let look = |now: Duration| verdict(&socket.snapshot(), protocol, now, &shared.timeouts);
    let retire;
    let drain = match protocol {
        Protocol::Http1 => drain,
        // Its client can be told to send no more requests without one being lost.
        Protocol::Http2 => {
            retire = shared.retire.child_token();
            &retire
        }
    };
    let driver = Driver { activity, look, drain, cut: &shared.cut };
    let end = |outcome: hyper::Result<()>, phase| {
        if let Err(error) = &outcome
            && let Some(rejection) = unparsed::reason(error)
        {
            *requests.unparsed.lock() = Some(rejection);
        }
        let end = end(outcome, phase);
        // The response's body has gone by now, and the socket has to know.
        if end == End::Aborted {
            socket.fail();
        }
        end
    };
    let io = TokioIo::new(front);
    // Borrowed by the driver, so that the requests under way are still there when HTTP is over.
    match protocol {
        Protocol::Http1 => {
            let mut connection = builders.http1.serve_connection(io, service);
            let driven = Pin::new(&mut connection);
            let mut end = driver.drive(driven, |it| it.get_mut().as_mut().graceful_shutdown(), end).await;
            let tunnel = requests.tunnel.lock().take();
            if let Some(tunnel) = tunnel
                && matches!(end, End::Done | End::Drained)
            {
                let parts = connection.into_parts();
                let front = parts.io.into_inner();
                front.put_back(&parts.read_buf);
                socket.switched();
                end = Box::pin(tunnel::run(front, tunnel, shared.timeouts.idle, &shared.cut)).await;
            }
            socket.over();
            end
        }
        Protocol::Http2 => {
            let mut connection = pin!(builders.http2.serve_connection(io, service));
            let end = driver.drive(connection.as_mut(), |it| it.get_mut().as_mut().graceful_shutdown(), end).await;
            socket.over();
            end
        }
    }
}

/// Does the TLS handshake, or on cleartext reads the first bytes. The caller bounds the time.
async fn open(mut socket: Socket, tls: Option<TlsAcceptor>) -> Result<(Transport, Protocol, Bytes), End> {
    let Some(acceptor) = tls else {
        return match detect(&mut socket).await {
            Ok(Some((protocol, replay))) => Ok((Transport::Plain(socket), protocol, replay)),
            Ok(None) => Err(End::Done),
            Err(_) => Err(End::Broken),
        };
    };
    let stream = acceptor.accept(socket).await.map_err(|_| End::Handshake)?;
    let protocol = tls::protocol(&stream);
    Ok((Transport::Tls(Box::new(stream)), protocol, Bytes::new()))
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(true)
        // `transport` sees whether a client has gone.
        .half_close(true)
        // `watch` times it at less cost.
        .header_read_timeout(None)
        // It would flatten bodies into one buffer without a bound.
        .pipeline_flush(false)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(limits.header_bytes_max.max(BUFFER_MIN));
    // Up to that many are parsed on the stack, and `request` counts them again.
    if limits.headers_max > FIELDS_INLINE {
        builder.max_headers(limits.headers_max);
    }
    builder
}

fn http2(limits: &Limits, timeouts: &Timeouts, streams: Streams) -> http2::Builder<Streams> {
    // Any target as well, so that one that is too long is refused with a reason.
    let list = request::section_max(limits).saturating_add(TARGET_BYTES_MAX);
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        // For WebSockets (RFC 8441).
        .enable_connect_protocol()
        .keep_alive_interval((timeouts.idle / 2).max(PING_MIN))
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
