//! Small clients: HTTP/1.1, HTTP/2 by prior knowledge and by ALPN, and raw bytes.

use std::{
    collections::HashMap,
    error::Error,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Version,
    header::{CONTENT_TYPE, HOST},
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{LIMIT, within};

/// The authority that requests name by default; the same for every node, because it is part of the key.
pub(crate) const HOST_NAME: &str = "shop.test";

/// Header fields that a response may have.
const FIELDS_MAX: usize = 1_000;

/// Why a request got no whole response.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// A body that a test sends, as a client or as an origin.
pub(crate) type OutBody = UnsyncBoxBody<Bytes, io::Error>;

/// Writes pieces of a body while it is being sent; dropping it ends the body.
pub(crate) type Pipe = mpsc::Sender<io::Result<Bytes>>;

/// Returns all bytes at once.
pub(crate) fn full(bytes: impl Into<Bytes>) -> OutBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Returns a body that the test feeds piece by piece.
pub(crate) fn piped() -> (Pipe, OutBody) {
    let (pipe, pieces) = mpsc::channel(1);
    (pipe, Piped(pieces).boxed_unsync())
}

struct Piped(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.get_mut().0.poll_recv(cx).map(|piece| piece.map(|bytes| bytes.map(Frame::data)))
    }
}

/// A request to be sent.
pub(crate) struct Ask {
    address: SocketAddr,
    method: Method,
    host: String,
    target: String,
    headers: HeaderMap,
    body: OutBody,
}

impl Ask {
    pub(crate) fn new(address: SocketAddr, method: Method, target: &str) -> Self {
        let (host, target) = (HOST_NAME.to_owned(), target.to_owned());
        Self { address, method, host, target, headers: HeaderMap::new(), body: full("") }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    pub(crate) fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    pub(crate) fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        self.body = full(bytes);
        self
    }

    pub(crate) fn stream(mut self, body: OutBody) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn json(mut self, value: &serde_json::Value) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body(value.to_string())
    }

    /// Returns it as a request that names its host in the target, as HTTP/2 and HTTP/3 have it.
    pub(crate) fn into_request(self, scheme: &str) -> Result<Request<OutBody>, Failure> {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.headers_mut() = self.headers;
        *request.uri_mut() = format!("{scheme}://{}{}", self.host, self.target).parse()?;
        Ok(request)
    }

    /// Sends it over an HTTP/1.1 connection of its own and reads the whole response.
    pub(crate) async fn send(self) -> Response {
        let what = format!("{} {}", self.method, self.target);
        match self.try_send().await {
            Ok(response) => response,
            Err(error) => panic!("{what}: {error}"),
        }
    }

    pub(crate) async fn try_send(self) -> Result<Response, Failure> {
        timeout(LIMIT, async { self.open().await?.whole().await }).await?
    }

    /// Sends it over an HTTP/1.1 connection of its own and returns when the response's head is there.
    pub(crate) async fn open(self) -> Result<Opened, Failure> {
        let mut conn = Conn::h1(self.address).await?;
        let mut opened = conn.open(self).await?;
        opened._held = Some(conn);
        Ok(opened)
    }
}

/// A response whose head is there and whose body may still be arriving.
pub(crate) struct Opened {
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    _held: Option<Conn>,
}

impl Opened {
    /// Returns the next bytes of the body; `None` at its end.
    pub(crate) async fn piece(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        within("a piece of the body", self.body.frame())
            .await
            .map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
    }

    /// Reads the body to its end, and returns it with its trailers; without any they are empty.
    pub(crate) async fn with_trailers(self) -> Result<(Bytes, HeaderMap), Failure> {
        let collected = within("the body", self.body.collect()).await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok((collected.to_bytes(), trailers))
    }

    pub(crate) async fn whole(mut self) -> Result<Response, Failure> {
        let mut body = BytesMut::new();
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                body.extend_from_slice(&data);
            }
        }
        Ok(Response { status: self.status, version: self.version, headers: self.headers, body: body.freeze() })
    }
}

/// A whole response.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Response {
    /// Returns a header field's value, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{} is not JSON ({error}): {}", self.status, String::from_utf8_lossy(&self.body)),
        }
    }

    pub(crate) fn cache(&self) -> CacheStatus {
        let last = self.headers.get_all("cache-status").iter().next_back();
        CacheStatus::parse(last.map_or("", |value| value.to_str().unwrap()))
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.cache().has("hit")
    }
}

/// The last member of a `Cache-Status` list: the cache nearest to the client.
#[derive(Debug)]
pub(crate) struct CacheStatus {
    pub(crate) node: String,
    params: HashMap<String, String>,
}

impl CacheStatus {
    fn parse(value: &str) -> Self {
        let member = outside_quotes(value, ',').pop().unwrap_or_default();
        let mut pieces = outside_quotes(member, ';').into_iter().map(str::trim);
        let node = pieces.next().unwrap_or_default().to_owned();
        let params = pieces.map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            (name.to_owned(), value.trim_matches('"').to_owned())
        });
        Self { node, params: params.collect() }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.params.contains_key(name)
    }

    /// Returns a parameter's value, or nothing.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    pub(crate) fn ttl(&self) -> i64 {
        self.get("ttl").parse().unwrap_or_else(|_| panic!("no ttl in {self:?}"))
    }
}

fn outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    text.split(|c: char| {
        quoted ^= c == '"';
        !quoted && c == separator
    })
    .collect()
}

/// A connection to a node.
pub(crate) struct Conn {
    sender: Sender,
    scheme: &'static str,
    running: Arc<Running>,
}

enum Sender {
    H1(http1::SendRequest<OutBody>),
    H2(http2::SendRequest<OutBody>),
}

/// Drives a connection; when the last handle goes, so does the socket.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Conn {
    pub(crate) async fn h1(address: SocketAddr) -> Result<Self, Failure> {
        Self::over_h1(TcpStream::connect(address).await?, "http").await
    }

    /// Connects by HTTP/2 on cleartext, by prior knowledge.
    pub(crate) async fn h2(address: SocketAddr) -> Result<Self, Failure> {
        Self::over_h2(TcpStream::connect(address).await?, "http").await
    }

    /// Connects by HTTP/2 on cleartext as a client that lets no byte of any body through.
    pub(crate) async fn h2_shut(address: SocketAddr) -> Result<Self, Failure> {
        Self::h2_ahead(address, 0).await
    }

    /// Connects by HTTP/2 on cleartext as a client that lets so many bytes of a body through before the test reads it.
    pub(crate) async fn h2_ahead(address: SocketAddr, bytes: u32) -> Result<Self, Failure> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(bytes);
        let (sender, connection) = builder.handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
        let running = Running(tokio::spawn(async move { drop(connection.await) }));
        Ok(Self { sender: Sender::H2(sender), scheme: "http", running: Arc::new(running) })
    }

    /// Connects by TLS to `localhost`, trusting `root`, with the protocols offered in this order; the server chooses.
    pub(crate) async fn tls(
        address: SocketAddr,
        root: &CertificateDer<'static>,
        offered: &[&str],
    ) -> Result<Self, Failure> {
        Self::tls_to(address, "localhost", root, offered).await
    }

    /// Connects by TLS to a host of this name, trusting `root`.
    pub(crate) async fn tls_to(
        address: SocketAddr,
        name: &str,
        root: &CertificateDer<'static>,
        offered: &[&str],
    ) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::tls_by(address, name, config).await
    }

    /// Connects by TLS to a host of this name.
    pub(crate) async fn tls_by(address: SocketAddr, name: &str, config: ClientConfig) -> Result<Self, Failure> {
        let name = ServerName::try_from(name.to_owned())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await?;
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        if chosen.as_deref() == Some(b"h2") {
            Self::over_h2(stream, "https").await
        } else {
            Self::over_h1(stream, "https").await
        }
    }

    async fn over_h1<T>(stream: T, scheme: &'static str) -> Result<Self, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            http1::Builder::new().max_headers(FIELDS_MAX).handshake(TokioIo::new(stream)).await?;
        let running = Running(tokio::spawn(async move { drop(connection.await) }));
        Ok(Self { sender: Sender::H1(sender), scheme, running: Arc::new(running) })
    }

    async fn over_h2<T>(stream: T, scheme: &'static str) -> Result<Self, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await?;
        let running = Running(tokio::spawn(async move { drop(connection.await) }));
        Ok(Self { sender: Sender::H2(sender), scheme, running: Arc::new(running) })
    }

    /// Returns another handle to the same HTTP/2 connection.
    pub(crate) fn stream(&self) -> Self {
        let Sender::H2(sender) = &self.sender else { panic!("only HTTP/2 has streams") };
        Self { sender: Sender::H2(sender.clone()), scheme: self.scheme, running: Arc::clone(&self.running) }
    }

    /// Whether it takes another request.
    pub(crate) async fn is_open(&mut self) -> bool {
        match &mut self.sender {
            Sender::H1(sender) => sender.ready().await.is_ok(),
            Sender::H2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request and returns when the response's head is there.
    pub(crate) async fn open(&mut self, ask: Ask) -> Result<Opened, Failure> {
        let mut request = Request::new(ask.body);
        *request.method_mut() = ask.method;
        *request.headers_mut() = ask.headers;
        let response = match &mut self.sender {
            Sender::H1(sender) => {
                *request.uri_mut() = ask.target.parse()?;
                request.headers_mut().insert(HOST, HeaderValue::from_str(&ask.host)?);
                sender.ready().await?;
                within("a response head", sender.send_request(request)).await?
            }
            Sender::H2(sender) => {
                *request.uri_mut() = format!("{}://{}{}", self.scheme, ask.host, ask.target).parse()?;
                sender.ready().await?;
                within("a response head", sender.send_request(request)).await?
            }
        };
        let (head, body) = response.into_parts();
        Ok(Opened { status: head.status.as_u16(), version: head.version, headers: head.headers, body, _held: None })
    }

    /// Sends a request and reads the whole response.
    pub(crate) async fn send(&mut self, ask: Ask) -> Response {
        let what = format!("{} {}", ask.method, ask.target);
        let response = async { self.open(ask).await?.whole().await };
        match within(&what, response).await {
            Ok(response) => response,
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

/// Writes `bytes`, closes the sending side if `finished`, and returns all that comes back until the other side closes.
/// A reset counts as a close.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8], finished: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may refuse before it has read everything; then writing fails, which is allowed.
    let _ = stream.write_all(bytes).await;
    if finished {
        let _ = stream.shutdown().await;
    }
    read_to_close(&mut stream).await
}

/// Reads until the other side closes or resets.
pub(crate) async fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let _ = within("the other side closing", stream.read_to_end(&mut said)).await;
    said
}

#[test]
fn cache_status_is_read_as_structured_fields_are() {
    let status = CacheStatus::parse(r#"far; hit, n1; fwd=stale; ttl=-3; detail="a; b, c""#);
    assert_eq!((status.node.as_str(), status.get("fwd"), status.ttl()), ("n1", "stale", -3));
    assert_eq!((status.get("detail"), status.has("hit")), ("a; b, c", false));
}
