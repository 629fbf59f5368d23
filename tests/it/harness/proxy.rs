//! A TCP proxy that is slow to pass on what comes back, or stops to.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinHandle, JoinSet},
};

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// A piece over this many bytes belongs to a large reply.
const SMALL: usize = 4 << 10;

/// A proxy in front of a server. Small replies pass at once; large ones wait at every piece, and past a number of bytes
/// for ever.
pub(crate) struct Proxy {
    address: SocketAddr,
    rule: Arc<Rule>,
    task: JoinHandle<()>,
}

struct Rule {
    wait_ms: AtomicU64,
    /// Bytes of large replies that still pass.
    left: AtomicU64,
}

impl Proxy {
    /// Starts a proxy for the server at this address, not slow yet.
    pub(crate) async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rule = Arc::new(Rule { wait_ms: AtomicU64::new(0), left: AtomicU64::new(u64::MAX) });
        let task = tokio::spawn(accept(listener, server.to_owned(), Arc::clone(&rule)));
        Self { address, rule, task }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes each piece of a large reply wait for this long.
    pub(crate) fn wait(&self, time: Duration) {
        self.rule.wait_ms.store(u64::try_from(time.as_millis()).unwrap(), SeqCst);
    }

    /// Lets only so many more bytes of large replies pass.
    pub(crate) fn stop_after(&self, bytes: u64) {
        self.rule.left.store(bytes, SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: String, rule: Arc<Rule>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&server).await else { continue };
        let (mut from_client, to_client) = client.into_split();
        let (from_server, mut to_server) = server.into_split();
        connections.spawn(async move {
            // Either side may go away when it likes.
            let _ = io::copy(&mut from_client, &mut to_server).await;
        });
        connections.spawn(back(from_server, to_client, Arc::clone(&rule)));
    }
}

async fn back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, rule: Arc<Rule>) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if length > SMALL {
            tokio::time::sleep(Duration::from_millis(rule.wait_ms.load(SeqCst))).await;
            let took = rule.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(length as u64));
            if took.is_err() {
                std::future::pending::<()>().await;
            }
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
