//! A TCP proxy that is far away, is slow to pass on what comes back, or stops to.

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
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// A piece over this many bytes belongs to a large reply.
const SMALL: usize = 4 << 10;

/// A proxy in front of a server. Replies are under way for a while; large ones wait at every piece besides, and past a
/// number of bytes for ever.
pub(crate) struct Proxy {
    address: SocketAddr,
    rule: Arc<Rule>,
    task: JoinHandle<()>,
}

struct Rule {
    delay_ms: AtomicU64,
    wait_ms: AtomicU64,
    /// Bytes of large replies that still pass.
    left: AtomicU64,
}

impl Proxy {
    /// Starts a proxy for the server at this address, not slow yet.
    pub(crate) async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rule =
            Arc::new(Rule { delay_ms: AtomicU64::new(0), wait_ms: AtomicU64::new(0), left: AtomicU64::new(u64::MAX) });
        let task = tokio::spawn(accept(listener, server.to_owned(), Arc::clone(&rule)));
        Self { address, rule, task }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes all replies arrive this much later, as from a server that is so far away: what follows isn't held up.
    pub(crate) fn delay(&self, time: Duration) {
        self.rule.delay_ms.store(u64::try_from(time.as_millis()).unwrap(), SeqCst);
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

async fn back(from: OwnedReadHalf, to: OwnedWriteHalf, rule: Arc<Rule>) {
    let (under_way, arriving) = mpsc::unbounded_channel();
    tokio::join!(set_out(from, under_way, &rule), arrive(arriving, to));
}

/// Puts each piece on its way with the time when it is to arrive.
async fn set_out(mut from: OwnedReadHalf, under_way: UnboundedSender<(Instant, Vec<u8>)>, rule: &Rule) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if length > SMALL {
            tokio::time::sleep(Duration::from_millis(rule.wait_ms.load(SeqCst))).await;
            let took = rule.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(length as u64));
            if took.is_err() {
                std::future::pending::<()>().await;
            }
        }
        let due = Instant::now() + Duration::from_millis(rule.delay_ms.load(SeqCst));
        if under_way.send((due, piece[..length].to_vec())).is_err() {
            return;
        }
    }
}

async fn arrive(mut arriving: UnboundedReceiver<(Instant, Vec<u8>)>, mut to: OwnedWriteHalf) {
    while let Some((due, piece)) = arriving.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}
