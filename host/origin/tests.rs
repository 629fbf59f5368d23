//! The room as a whole, over loopback sockets. Every wait is bounded; none is for luck.

mod attempts;
mod bodies;
mod endpoints;
mod exchange;
mod places;
mod slow;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, uri::PathAndQuery};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Fetched, Outbound, OutboundBody, Pool};
use crate::{config, message::RequestSpan, report::EndpointInfo};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A pool of these addresses: patient, trusting, two attempts.
pub(super) fn config(addresses: &[SocketAddr]) -> config::Pool {
    let url = |address: &SocketAddr| config::Endpoint::new(format!("http://{address}").parse().unwrap());
    config::Pool {
        endpoints: addresses.iter().map(url).collect(),
        zone: None,
        zones: Vec::new(),
        dns: config::NameSource::System,
        records: config::Dns::default(),
        dns_ttl: PATIENCE,
        connections_max: 64,
        waiting_max: 64,
        connect: PATIENCE,
        response: PATIENCE,
        idle: PATIENCE,
        body: PATIENCE,
        keep_alive: PATIENCE,
        attempts_max: 2,
        response_headers_max: 200,
        response_header_bytes_max: 128 << 10,
        request_coding: None,
        response_coding: false,
        http: config::OriginHttp::Http1,
        ping: Duration::ZERO,
        ping_timeout: PATIENCE,
        host: config::OriginHost::ByUrl,
        tls: config::OriginTls::default(),
        health: None,
        eject: config::Eject { failures: u32::MAX, duration: PATIENCE, percent_max: 100 },
        translation: None,
        batch: config::Batch {
            size_max: 1,
            bytes_max: 1024,
            padded: false,
            wait_max: Duration::ZERO,
            queue_max: 1,
            concurrency: 1,
            concurrency_min: 1,
            models_max: 1,
            classes_max: 1,
            quarantine_max: 0,
            quarantine: Duration::ZERO,
            tenants_max: 1,
            overdue_factor: 0,
            overdue_least: Duration::ZERO,
            guard: 0,
            endpoints: 1,
        },
    }
}

fn pool(addresses: &[SocketAddr]) -> Arc<Pool> {
    Pool::new("test", &config(addresses)).unwrap()
}

fn request(method: Method, body: OutboundBody) -> Outbound {
    Outbound {
        repeatable: method.is_idempotent(),
        method,
        authority: HeaderValue::from_static("shop.example"),
        target: PathAndQuery::from_static("/a?b=c"),
        headers: HeaderMap::new(),
        body,
        client: None,
        recodes: false,
        expected: None,
        span: RequestSpan::none(),
    }
}

fn get() -> Outbound {
    request(Method::GET, OutboundBody::Empty)
}

fn post(body: &'static str) -> Outbound {
    request(Method::POST, OutboundBody::Replayable(Bytes::from_static(body.as_bytes())))
}

fn endpoint(pool: &Pool, index: usize) -> EndpointInfo {
    pool.info().endpoints.swap_remove(index)
}

async fn text(fetched: Fetched) -> String {
    let body = within(fetched.response.into_body().collect(1024)).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Waits until it is so.
async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    within(waiting).await;
}

/// A raw TCP server.
struct Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Hands each connection, numbered from zero, to `script`.
    async fn start<S, F>(script: S) -> Self
    where
        S: Fn(usize, TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(script(count.fetch_add(1, Ordering::SeqCst), stream));
            }
        });
        Self { address, connections, task }
    }

    /// Reads one request of each connection, says this, and closes.
    async fn saying(response: &'static str) -> Self {
        Self::start(move |_, mut stream| async move {
            read_request(&mut stream).await;
            write(&mut stream, response).await;
        })
        .await
    }

    /// Reads one request of each connection and never responds.
    async fn silent() -> Self {
        Self::start(|_, mut stream| async move {
            read_request(&mut stream).await;
            std::future::pending::<()>().await;
        })
        .await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address at which nothing listens.
///
/// The port stays bound, and nothing listens on it: a free one could become that of another test's origin.
async fn nobody() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

/// The next request of a connection, body included; nothing at its end.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            let whole = if head.contains("\r\ntransfer-encoding: chunked") {
                body.ends_with("0\r\n\r\n")
            } else {
                body.len() >= length
            };
            if whole {
                return Some(text);
            }
        }
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(length) => text.push_str(std::str::from_utf8(&piece[..length]).unwrap()),
        }
    }
}

async fn write(stream: &mut TcpStream, response: &str) {
    // The pool may have left already; a test that minds will notice.
    let _ = stream.write_all(response.as_bytes()).await;
}
