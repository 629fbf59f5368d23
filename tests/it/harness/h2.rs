//! Origins that speak HTTP/2: one with a handler, and one that says exactly the frames it is told to.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use http::{Request, Response, Version};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::client::OutBody;

/// What an origin has seen.
#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
    in_flight: AtomicUsize,
    most: AtomicUsize,
    versions: Mutex<Vec<Version>>,
}

/// An origin whose requests one handler serves.
pub(crate) struct H2Origin {
    address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl H2Origin {
    /// Starts an origin that takes so many requests at once on a connection. With TLS it speaks what is agreed on there,
    /// else HTTP/2.
    pub(crate) async fn start<F, R>(streams_max: u32, tls: Option<Arc<ServerConfig>>, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<OutBody>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(accept(listener, streams_max, tls, handler, Arc::clone(&counts)));
        Self { address, counts, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns its URL by name, for TLS.
    pub(crate) fn https_url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.counts.connections.load(SeqCst)
    }

    /// Returns the number of connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.counts.open.load(SeqCst)
    }

    /// Returns the number of requests that wait for their response's head.
    pub(crate) fn in_flight(&self) -> usize {
        self.counts.in_flight.load(SeqCst)
    }

    /// Returns the most requests that one connection had at once.
    pub(crate) fn most(&self) -> usize {
        self.counts.most.load(SeqCst)
    }

    /// Returns the version of each request so far.
    pub(crate) fn versions(&self) -> Vec<Version> {
        self.counts.versions.lock().clone()
    }
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<F, R>(
    listener: TcpListener,
    streams_max: u32,
    tls: Option<Arc<ServerConfig>>,
    handler: F,
    counts: Arc<Counts>,
) where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<OutBody>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        counts.connections.fetch_add(1, SeqCst);
        counts.open.fetch_add(1, SeqCst);
        let (tls, handler, counts) = (tls.clone(), handler.clone(), Arc::clone(&counts));
        connections.spawn(async move {
            match tls {
                None => serve(stream, Some(streams_max), handler, &counts).await,
                Some(config) => {
                    if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice());
                        serve(stream, is_http2.then_some(streams_max), handler, &counts).await;
                    }
                }
            }
            counts.open.fetch_sub(1, SeqCst);
        });
    }
}

/// Serves a connection over HTTP/2 with so many requests at once, or over HTTP/1.1.
async fn serve<S, F, R>(stream: S, streams_max: Option<u32>, handler: F, counts: &Arc<Counts>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<OutBody>> + Send + 'static,
{
    let (counts, here) = (Arc::clone(counts), Arc::new(AtomicUsize::new(0)));
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, counts, here) = (handler.clone(), Arc::clone(&counts), Arc::clone(&here));
        async move {
            counts.versions.lock().push(request.version());
            counts.most.fetch_max(here.fetch_add(1, SeqCst) + 1, SeqCst);
            counts.in_flight.fetch_add(1, SeqCst);
            let response = handler(request).await;
            counts.in_flight.fetch_sub(1, SeqCst);
            here.fetch_sub(1, SeqCst);
            Ok::<_, Infallible>(response)
        }
    });
    // A node that goes away is no error of this origin.
    match streams_max {
        None => drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await),
        Some(max) => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(max);
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        }
    }
}

/// Kinds of frames and their flags (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// `:status: 200` (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// The code of a stream that wasn't processed.
const REFUSED_STREAM: u32 = 7;

/// A connection over which a test speaks HTTP/2 frame by frame. It never responds to a ping.
pub(crate) struct Wire(TcpStream);

impl Wire {
    async fn accept(mut stream: TcpStream) -> io::Result<Self> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await?;
        let mut wire = Self(stream);
        wire.write(SETTINGS, 0, 0, &[]).await?;
        Ok(wire)
    }

    /// Returns the stream of the next request, as soon as its head is there.
    pub(crate) async fn next_request(&mut self) -> io::Result<u32> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await?;
            match kind {
                HEADERS => return Ok(u32::from_be_bytes(id)),
                SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await?,
                _ => {}
            }
        }
    }

    /// Sends 200 without a body.
    pub(crate) async fn respond(&mut self, stream: u32) -> io::Result<()> {
        self.write(HEADERS, END_STREAM | END_HEADERS, stream, &[STATUS_200]).await
    }

    /// Sends 200 with this body.
    pub(crate) async fn respond_with(&mut self, stream: u32, body: &[u8]) -> io::Result<()> {
        self.write(HEADERS, END_HEADERS, stream, &[STATUS_200]).await?;
        self.write(DATA, END_STREAM, stream, body).await
    }

    /// Sends the head of a response that may be stored for ten minutes, and these bytes of its body.
    pub(crate) async fn begin(&mut self, stream: u32, body: &[u8]) -> io::Result<()> {
        let (name, value) = (b"cache-control", b"max-age=600");
        let mut head = vec![STATUS_200, 0];
        for text in [&name[..], value] {
            head.push(u8::try_from(text.len()).unwrap());
            head.extend_from_slice(text);
        }
        self.write(HEADERS, END_HEADERS, stream, &head).await?;
        self.write(DATA, 0, stream, body).await
    }

    /// Gives a response up without an error, as servers do whose handler ends.
    pub(crate) async fn abandon(&mut self, stream: u32) -> io::Result<()> {
        self.write(RST_STREAM, 0, stream, &0_u32.to_be_bytes()).await
    }

    /// Closes the connection by a reset.
    pub(crate) fn reset(self) -> io::Result<()> {
        socket2::SockRef::from(&self.0).set_linger(Some(std::time::Duration::ZERO))
    }

    /// Says that the request wasn't processed.
    pub(crate) async fn refuse(&mut self, stream: u32) -> io::Result<()> {
        self.write(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes()).await
    }

    /// Says that no request after the one on this stream will be processed.
    pub(crate) async fn go_away(&mut self, last: u32) -> io::Result<()> {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&0_u32.to_be_bytes());
        self.write(GOAWAY, 0, 0, &payload).await
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await
    }
}

/// An origin that follows a script on each connection, numbered from 0.
pub(crate) struct WireOrigin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl WireOrigin {
    pub(crate) async fn start<S, R>(script: S) -> Self
    where
        S: Fn(usize, Wire) -> R + Send + 'static,
        R: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                // Else a script that closes with something unread takes back what it wrote last.
                stream.set_nodelay(true).unwrap();
                if let Ok(wire) = Wire::accept(stream).await {
                    connections.spawn(script(number, wire));
                }
            }
        });
        Self { address, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for WireOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}
