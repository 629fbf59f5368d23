//! Which [`Serving`] is at work, and how another one takes its place.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    error::Error,
    serving::{Base, Serving, assemble},
};
use crate::{cache::Cache, config::Config};

/// What a node serves by, and what exchanges it while the node runs.
pub struct Exchange {
    base: Base,
    serving: ArcSwap<Serving>,
    /// One at a time, so that the configuration that is given last is the one that holds.
    turn: Mutex<()>,
    /// Health checks of all pools in use.
    checks: TaskTracker,
    stop: CancellationToken,
}

impl Exchange {
    /// Makes the first configuration into what serves it, and begins the health checks of its pools.
    ///
    /// # Errors
    /// [`Error`] names what can't be made. Then the tiers are closed.
    pub(super) async fn begin(base: Base, config: &Config) -> Result<Arc<Self>, Error> {
        let serving = match Box::pin(assemble(&base, config, None)).await {
            Ok(serving) => Arc::new(serving),
            Err(error) => {
                base.cache.close().await;
                return Err(error);
            }
        };
        let exchange = Self {
            base,
            serving: ArcSwap::new(Arc::clone(&serving)),
            turn: Mutex::new(()),
            checks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        exchange.enter(&serving, None);
        Ok(Arc::new(exchange))
    }

    /// Has the node go on by another configuration. Requests that come from now on are served by it; those under way come
    /// to their end by the one they began with. What didn't change goes on with its connections, health, statistics and
    /// waiting items. Where the configuration says something else of a policy, another generation of it is loaded as its
    /// rollout says; should that one be refused, the log says so, and the policy goes on as it is.
    ///
    /// What needs a restart stays as it was: the node's name, the tiers, the purge log, listening addresses, their
    /// certificates and limits, the access log, and what holds for all policies.
    ///
    /// # Errors
    /// [`Error`] names what can't be made. Nothing has changed then.
    pub async fn adopt(&self, config: &Config) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let former = self.serving();
        let next = Arc::new(Box::pin(assemble(&self.base, config, Some(&former))).await?);
        self.serving.store(Arc::clone(&next));
        self.enter(&next, Some(&former));
        let policies: Vec<_> = next.policies().map(|(_, policy)| Arc::clone(policy)).collect();
        drop((next, former));
        for policy in policies {
            policy.load_changed().await;
        }
        Ok(())
    }

    /// What is at work now. A request takes it once.
    pub(super) fn serving(&self) -> Arc<Serving> {
        self.serving.load_full()
    }

    /// The tiers and the purge log.
    pub(super) const fn cache(&self) -> &Arc<Cache> {
        &self.base.cache
    }

    /// Ends the health checks and closes the tiers.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.checks.close();
        self.checks.wait().await;
        self.base.cache.close().await;
    }

    /// How many pools are being checked.
    #[cfg(test)]
    pub(super) fn checks(&self) -> usize {
        self.checks.len()
    }

    fn enter(&self, serving: &Serving, former: Option<&Serving>) {
        serving.take_over(former, &self.base.metrics);
        for pool in serving.pools_beside(former) {
            self.checks.spawn(pool.watch(self.stop.clone()));
        }
    }
}
