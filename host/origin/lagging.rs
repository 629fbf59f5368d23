//! Response bodies that go straight through to their clients, and the task that looks at all of them now and then.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

/// Between two looks at the bodies under way. A client that has let a piece lie for that long lags.
const LOOK: Duration = Duration::from_millis(50);

/// A body whose client may lag.
pub(super) trait Watched: Send + Sync {
    /// Looks whether the client keeps up, and helps if it doesn't. False if no further look is needed.
    fn look(self: Arc<Self>) -> bool;
}

/// The bodies that go straight through. Looked at together, by one task that runs while there are any.
#[derive(Default)]
pub(super) struct Lagging(Mutex<Bodies>);

#[derive(Default)]
struct Bodies {
    bodies: Vec<Weak<dyn Watched>>,
    /// The task runs.
    running: bool,
}

impl Lagging {
    /// Has a body looked at until it needs no further look, or is gone.
    pub(super) fn add(self: &Arc<Self>, body: Weak<dyn Watched>) {
        let mut watched = self.0.lock();
        watched.bodies.push(body);
        if !std::mem::replace(&mut watched.running, true) {
            tokio::spawn(look_at_all(Arc::downgrade(self)));
        }
    }

    /// False if there are none any more.
    fn look(&self) -> bool {
        let mut watched = self.0.lock();
        watched.bodies.retain(|body| body.upgrade().is_some_and(|body| body.look()));
        watched.running = !watched.bodies.is_empty();
        watched.running
    }
}

async fn look_at_all(lagging: Weak<Lagging>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once.
    looks.tick().await;
    loop {
        looks.tick().await;
        let Some(lagging) = lagging.upgrade() else { return };
        if !lagging.look() {
            return;
        }
    }
}
