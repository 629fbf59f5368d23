//! Clients that ask without a pause and check every answer, while a test pulls at something.

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
    node::Doors,
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

/// Makes `origin` answer every path with a sealed body that names what was asked; `version` is part of it.
pub(crate) fn sealed_origin(origin: &Origin, version: &'static str, length: usize) {
    origin.on("*", move |seen| {
        let body = sealed(&format!("{version} {}", seen.target), length);
        Reply::fresh(600, body).header("x-for", &seen.target).header("x-version", version)
    });
}

impl Load {
    /// So many clients, each asking for `target(n)` with ever higher `n`.
    pub(crate) fn start(doors: &Doors, clients: usize, target: fn(usize) -> String) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), CancellationToken::new());
        let mut set = JoinSet::new();
        for _ in 0..clients {
            let (doors, tally, stop) = (doors.clone(), Arc::clone(&tally), stop.clone());
            set.spawn(async move {
                while !stop.is_cancelled() {
                    ask(&doors, &tally, target).await;
                }
            });
        }
        Self { tally, stop, clients: set }
    }

    /// Waits until `count` more requests have been answered well.
    pub(crate) async fn more(&self, count: usize) {
        let goal = self.tally.good.load(SeqCst) + count;
        eventually("the load going on", async || self.tally.good.load(SeqCst) >= goal).await;
    }

    /// Ends it; what went wrong, and how long the slowest request took.
    pub(crate) async fn finish(self) -> (Vec<String>, Duration) {
        self.stop.cancel();
        within("the clients ending", self.clients.join_all()).await;
        let bad = std::mem::take(&mut *self.tally.bad.lock());
        (bad, *self.tally.slowest.lock())
    }
}

async fn ask(doors: &Doors, tally: &Tally, target: fn(usize) -> String) {
    let target = target(tally.begun.fetch_add(1, SeqCst));
    let begun = Instant::now();
    let wrong = match doors.get(&target).try_send().await {
        Err(error) => Some(format!("{target}: {error}")),
        Ok(answer) if answer.status != 200 => Some(format!("{target}: {} {:?}", answer.status, answer.headers)),
        Ok(answer) if answer.header("x-for") != target => Some(format!("{target}: the answer of another")),
        Ok(answer) if !is_sealed(&answer.body) => Some(format!("{target}: a torn body")),
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
