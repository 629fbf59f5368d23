//! A well-behaved origin whose responses the tests program, and which records all requests.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use super::{
    client::{OutBody, Pipe, full, piped},
    found,
};

/// A request as the origin got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    /// Returns a header field's value, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A response.
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: OutBody,
    gate: Option<Gate>,
    delay: Duration,
}

impl Reply {
    /// Returns 200 with this body.
    pub(crate) fn ok(body: impl Into<Bytes>) -> Self {
        Self { status: 200, headers: Vec::new(), body: full(body), gate: None, delay: Duration::ZERO }
    }

    /// Returns 200 that may be stored for this many seconds.
    pub(crate) fn fresh(max_age: u64, body: impl Into<Bytes>) -> Self {
        Self::ok(body).header("cache-control", &format!("max-age={max_age}"))
    }

    /// Returns this status with its number as body.
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::ok(if status == 304 { String::new() } else { status.to_string() }) }
    }

    /// Returns this status with this body.
    pub(crate) fn says(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, ..Self::ok(body) }
    }

    /// Returns the response to a request for this body: all of it, or with `Range: bytes=N-` the rest, as 206.
    pub(crate) fn ranged(seen: &Seen, max_age: u64, body: &Bytes) -> Self {
        let range = seen.header("range").strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
        let Some(first) = range else { return Self::fresh(max_age, body.clone()) };
        let rest = body.slice(first.parse::<usize>().unwrap()..);
        let range = format!("bytes {first}-{}/{}", body.len() - 1, body.len());
        Self { status: 206, ..Self::fresh(max_age, rest).header("content-range", &range) }
    }

    /// Returns a response that breaks off: the connection is closed.
    pub(crate) fn cut() -> Self {
        let (pipe, body) = piped();
        pipe.try_send(Err(io::Error::other("cut"))).unwrap();
        Self { body, ..Self::ok("") }
    }

    /// Takes so long, as a model that computes does.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub(crate) fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self { body: full(body), ..self }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Holds it back, head and all, until the gate lets it through.
    pub(crate) fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Sets a body that the test feeds through `taps`, a pipe for each request.
    pub(crate) fn fed(mut self, taps: &Taps) -> Self {
        let (pipe, body) = piped();
        taps.0.lock().push_back(pipe);
        self.body = body;
        self
    }

    /// Sets a body whose length its head doesn't say.
    pub(crate) fn streaming(mut self, body: &Bytes) -> Self {
        let pieces: Vec<_> = body.chunks(1 << 20).map(|piece| Ok(Frame::data(body.slice_ref(piece)))).collect();
        self.body = StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync();
        self
    }

    async fn into_response(self) -> Response<OutBody> {
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        response.body(self.body).unwrap()
    }
}

/// A gate that lets responses through one by one, or all.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Returns one that lets everything through.
    pub(crate) fn opened() -> Self {
        let gate = Self::closed();
        gate.open();
        gate
    }

    /// Lets `count` responses through, now or when they come.
    pub(crate) fn release(&self, count: usize) {
        self.0.add_permits(count);
    }

    /// Lets everything through from now on.
    pub(crate) fn open(&self) {
        self.release(1_000_000);
    }

    async fn pass(&self) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

/// The bodies of responses that are [`Reply::fed`].
#[derive(Clone, Default)]
pub(crate) struct Taps(Arc<Mutex<VecDeque<Pipe>>>);

impl Taps {
    /// Returns the next request's body.
    pub(crate) async fn next(&self) -> Pipe {
        found("a request whose response is fed", async || self.0.lock().pop_front()).await
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

#[derive(Default)]
struct State {
    handlers: Mutex<HashMap<String, Handler>>,
    begun: Mutex<Vec<String>>,
    seen: Mutex<Vec<Seen>>,
    body_bytes: Mutex<HashMap<String, usize>>,
}

/// A well-behaved origin.
pub(crate) struct Origin {
    url: String,
    /// `None` at a Unix socket.
    address: Option<SocketAddr>,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Starts an origin that responds with 404 to everything until it is programmed.
    pub(crate) async fn start() -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts one at this address.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { url: format!("http://{address}"), address: Some(address), state, task }
    }

    /// Starts one at a Unix socket.
    pub(crate) fn at_socket(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = Arc::new(State::default());
        let task = tokio::spawn(accept_at_socket(listener, Arc::clone(&state)));
        Self { url: format!("unix:{}", path.display()), address: None, state, task }
    }

    /// From now on `path` (without query; `*` is any other) is served by `handler`.
    pub(crate) fn on(&self, path: &str, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        self.state.handlers.lock().insert(path.to_owned(), Arc::new(handler));
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Returns its address, if it isn't at a Unix socket.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// Returns the number of requests for exactly this path and query whose head has arrived.
    pub(crate) fn hits(&self, target: &str) -> usize {
        self.state.begun.lock().iter().filter(|begun| *begun == target).count()
    }

    /// Returns the number of all requests whose head has arrived.
    pub(crate) fn total(&self) -> usize {
        self.state.begun.lock().len()
    }

    /// Returns the whole requests for this path and query, oldest first.
    pub(crate) fn seen(&self, target: &str) -> Vec<Seen> {
        self.state.seen.lock().iter().filter(|seen| seen.target == target).cloned().collect()
    }

    /// Returns the bytes of request bodies that have arrived so far for this path and query.
    pub(crate) fn body_bytes(&self, target: &str) -> usize {
        self.state.body_bytes.lock().get(target).copied().unwrap_or(0)
    }

    /// Refuses further connections and cuts the open ones.
    pub(crate) async fn stop(self) {
        self.task.abort();
        eventually_refused(self.address()).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn eventually_refused(address: SocketAddr) {
    super::eventually("the origin refusing", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&state)));
    }
}

async fn accept_at_socket(listener: UnixListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&state)));
    }
}

async fn serve<S>(stream: S, state: Arc<State>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| respond(Arc::clone(&state), request));
    // A client that goes away is no error of this origin.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(state: Arc<State>, request: Request<Incoming>) -> Result<Response<OutBody>, Infallible> {
    let (head, mut incoming) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    state.begun.lock().push(target.clone());
    let mut body = BytesMut::new();
    while let Some(Ok(frame)) = incoming.frame().await {
        if let Ok(data) = frame.into_data() {
            *state.body_bytes.lock().entry(target.clone()).or_default() += data.len();
            body.extend_from_slice(&data);
        }
    }
    let seen = Seen { method: head.method, target, headers: head.headers, body: body.freeze() };
    let handler = {
        let handlers = state.handlers.lock();
        handlers.get(head.uri.path()).or_else(|| handlers.get("*")).cloned()
    };
    let reply = handler.map_or_else(|| Reply::status(404), |handler| handler(&seen));
    state.seen.lock().push(seen);
    Ok(reply.into_response().await)
}
