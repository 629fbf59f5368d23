//! Clients that send requests without a pause and check every response, while a test changes something.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    eventually, is_sealed,
    node::NodeHandle,
    origin::{Origin, Reply},
    sealed, within,
};

/// Clients at work.
pub(crate) struct Load {
    tally: Arc<Tally>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Tally {
    begun: AtomicUsize,
    good: AtomicUsize,
    bad: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
}

/// Makes `origin` respond to every path with a sealed body that names the request; `version` is part of it.
pub(crate) fn sealed_origin(origin: &Origin, version: &'static str, length: usize) {
    origin.on("*", move |seen| {
        let body = sealed(&format!("{version} {}", seen.target), length);
        Reply::fresh(600, body).header("x-for", &seen.target).header("x-version", version)
    });
}

impl Load {
    /// Starts so many clients, each requesting `target(n)` with ever higher `n`.
    pub(crate) fn start(handle: &NodeHandle, clients: usize, target: fn(usize) -> String) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), CancellationToken::new());
        let mut set = JoinSet::new();
        for _ in 0..clients {
            let (handle, tally, stop) = (handle.clone(), Arc::clone(&tally), stop.clone());
            set.spawn(async move {
                while !stop.is_cancelled() {
                    ask(&handle, &tally, target).await;
                }
            });
        }
        Self { tally, stop, clients: set }
    }

    /// Waits until `count` more requests have had a good response.
    pub(crate) async fn more(&self, count: usize) {
        let goal = self.tally.good.load(SeqCst) + count;
        eventually("the load going on", async || self.tally.good.load(SeqCst) >= goal).await;
    }

    /// Ends it, and returns what went wrong, and how long the slowest request took.
    pub(crate) async fn finish(self) -> (Vec<String>, Duration) {
        self.stop.cancel();
        within("the clients ending", self.clients.join_all()).await;
        let bad = std::mem::take(&mut *self.tally.bad.lock());
        (bad, *self.tally.slowest.lock())
    }
}

async fn ask(handle: &NodeHandle, tally: &Tally, target: fn(usize) -> String) {
    let target = target(tally.begun.fetch_add(1, SeqCst));
    let begun = Instant::now();
    let wrong = match handle.get(&target).try_send().await {
        Err(error) => Some(format!("{target}: {error}")),
        Ok(response) if response.status != 200 => Some(format!("{target}: {} {:?}", response.status, response.headers)),
        Ok(response) if response.header("x-for") != target => Some(format!("{target}: the response of another")),
        Ok(response) if !is_sealed(&response.body) => Some(format!("{target}: a torn body")),
        Ok(_) => None,
    };
    let mut slowest = tally.slowest.lock();
    *slowest = begun.elapsed().max(*slowest);
    match wrong {
        None => {
            tally.good.fetch_add(1, SeqCst);
        }
        Some(wrong) => tally.bad.lock().push(wrong),
    }
}
