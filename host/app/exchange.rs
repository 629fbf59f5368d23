//! Which [`Serving`] is at work, and how another one takes its place.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::{
    sync::{Mutex, Notify},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    components::{self, NodePolicy},
    error::Error,
    serving::{Base, Serving, assemble},
    tiers,
};
use crate::{
    cache::Cache,
    clock::{self, Timestamp},
    config::{self, Config},
    http::{CertificateFiles, Listeners},
    report::{ConfigChange, ConfigInfo},
    telemetry,
};

/// What a node serves by, and what exchanges it while the node runs.
pub struct Exchange {
    base: ArcSwap<Base>,
    listeners: Arc<Listeners>,
    serving: ArcSwap<Serving>,
    /// How many configurations there were, and since when the last one holds.
    age: parking_lot::Mutex<(u64, Timestamp)>,
    /// One at a time, so that the configuration that is given last is the one that holds.
    turn: Mutex<()>,
    /// Notified of each exchange.
    exchanged: Notify,
    /// Health checks of all pools in use.
    checks: TaskTracker,
    stop: CancellationToken,
    /// What reads the purge log and hands invalidations on to it, and how it is stopped.
    purging: parking_lot::Mutex<Option<(CancellationToken, JoinHandle<()>)>>,
}

impl Exchange {
    /// Makes the first configuration into what serves it, and begins the health checks of its pools.
    ///
    /// # Errors
    /// [`Error`] names what can't be made. Then the tiers are closed.
    pub(super) async fn begin(base: Base, config: &Config, listeners: Arc<Listeners>) -> Result<Arc<Self>, Error> {
        let serving = match Box::pin(assemble(&base, config, None)).await {
            Ok(serving) => Arc::new(serving),
            Err(error) => {
                base.cache.close().await;
                return Err(error);
            }
        };
        let exchange = Self {
            base: ArcSwap::from_pointee(base),
            listeners,
            serving: ArcSwap::new(Arc::clone(&serving)),
            age: parking_lot::Mutex::new((1, clock::now())),
            turn: Mutex::new(()),
            exchanged: Notify::new(),
            checks: TaskTracker::new(),
            stop: CancellationToken::new(),
            purging: parking_lot::Mutex::default(),
        };
        exchange.enter(&serving, None);
        Ok(Arc::new(exchange))
    }

    /// Has the node go on by another configuration, as a whole, and returns what has changed. Requests that come from now on
    /// are served by it; those under way come to their end by the one they began with. What didn't change goes on with its
    /// connections, health, statistics and waiting items. Where the configuration says something else of a policy, another
    /// generation of it is loaded as its rollout says.
    ///
    /// # Errors
    /// [`Error`] names the keys that need a restart, or what can't be made: an address that can't be bound, a policy that
    /// is refused. Nothing has changed then.
    pub async fn adopt(&self, config: &Config) -> Result<Vec<ConfigChange>, Error> {
        let _turn = self.turn.lock().await;
        let (base, former) = (self.base.load_full(), self.serving());
        let changes = config::changes(&former.config, config);
        let restart: Vec<String> =
            changes.iter().filter(|change| change.needs_restart).map(|change| change.key.clone()).collect();
        if !restart.is_empty() {
            return Err(Error::NeedsRestart(restart));
        }
        let known: Vec<(&str, &Arc<NodePolicy>)> = former.policies().collect();
        components::check_changed(config, &known).await?;
        drop(known);
        let next = Arc::new(Box::pin(assemble(&base, config, Some(&former))).await?);
        // Last of all that can fail, since clients may connect from then on.
        let listeners = self.listeners.prepare(&config.listen, &config.limits, &config.timeouts).await?;
        self.serving.store(Arc::clone(&next));
        self.listeners.commit(listeners);
        self.enter(&next, Some(&former));
        if former.config.log.filter != config.log.filter {
            telemetry::set_filter(&config.log.filter);
        }
        if !changes.is_empty() {
            let mut age = self.age.lock();
            *age = (age.0 + 1, clock::now());
        }
        let policies: Vec<_> = next.policies().map(|(_, policy)| Arc::clone(policy)).collect();
        drop((next, former));
        for policy in policies {
            policy.load_changed().await;
        }
        self.exchanged.notify_one();
        Ok(changes)
    }

    /// Waits until there was an exchange since the last call. For one caller.
    pub(super) async fn exchanged(&self) {
        self.exchanged.notified().await;
    }

    /// Waits until no exchange is under way, and all listeners are in their places.
    pub(super) async fn settled(&self) {
        drop(self.turn.lock().await);
    }

    /// Returns the certificates of the addresses that clients connect to.
    pub(super) fn certificates(&self) -> CertificateFiles {
        self.listeners.certificates()
    }

    /// Returns how many configurations the node has had.
    pub(super) fn generation(&self) -> u64 {
        self.age.lock().0
    }

    /// Returns the configuration that holds, without secrets.
    pub(super) fn info(&self) -> ConfigInfo {
        let (generation, since) = *self.age.lock();
        let serving = self.serving();
        let mut config = serving.config.clone();
        // A policy may have been loaded by what the file says since.
        for (name, policy) in serving.policies() {
            config.policies.insert(name.to_owned(), policy.config());
        }
        let file = config.file.as_ref().map(|file| file.display().to_string());
        ConfigInfo { generation, since, file, config: config::without_secrets(config::listing(&config)) }
    }

    /// What is at work now. A request takes it once.
    pub(super) fn serving(&self) -> Arc<Serving> {
        self.serving.load_full()
    }

    /// The tiers and the purge log.
    pub(super) fn cache(&self) -> Arc<Cache> {
        Arc::clone(&self.base.load().cache)
    }

    /// What accepts connections.
    pub(super) const fn listeners(&self) -> &Arc<Listeners> {
        &self.listeners
    }

    /// Begins to read the purge log, and to hand on to it what is invalidated.
    pub(super) fn follow_purges(&self) {
        let mut purging = self.purging.lock();
        if purging.is_none() {
            let stop = CancellationToken::new();
            let running = tokio::spawn(Arc::clone(self.cache().purger()).run(stop.clone()));
            *purging = Some((stop, running));
        }
    }

    async fn stop_purging(&self) {
        let purging = self.purging.lock().take();
        if let Some((stop, running)) = purging {
            stop.cancel();
            // One that panicked has ended as well.
            let _ = running.await;
        }
    }

    /// Closes the disk for another process, while requests are still served.
    pub(super) async fn release(&self) {
        let cache = self.cache();
        cache.purger().give_way();
        self.stop_purging().await;
        cache.release().await;
    }

    /// Opens the tiers again that were closed for another process, with what was stored on disk.
    ///
    /// # Errors
    /// [`Error`] names what can't be opened. Then requests are served as they were since, without a disk.
    pub(super) async fn reopen(&self) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let (base, former) = (self.base.load_full(), self.serving());
        let config = &former.config;
        let cache = tiers::open(config, base.cache.metrics().clone()).await?;
        let opened = Base { node: base.node.clone(), cache, metrics: Arc::clone(&base.metrics) };
        let next = match Box::pin(assemble(&opened, config, Some(&former))).await {
            Ok(next) => Arc::new(next),
            Err(error) => {
                opened.cache.close().await;
                return Err(error);
            }
        };
        self.base.store(Arc::new(opened));
        self.serving.store(Arc::clone(&next));
        self.enter(&next, Some(&former));
        self.follow_purges();
        // What was invalidated meanwhile is so for what was stored before.
        while let Some(bequest) = base.cache.purger().bequest_now() {
            let safe = self.cache().purger().take_bequest(bequest.tags(), bequest.is_everything()).await;
            base.cache.purger().bequeathed(&bequest, safe);
        }
        base.cache.metrics().released.set(0);
        Ok(())
    }

    /// Puts all listeners of the configuration in their places, once `until` is over. Until then the configuration isn't
    /// exchanged.
    ///
    /// # Errors
    /// The first address that can't be bound, or the first file that can't be used.
    pub(super) async fn complete_listeners(&self, until: impl Future<Output = ()>) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        until.await;
        let config = self.serving().config.clone();
        let listeners = self.listeners.prepare(&config.listen, &config.limits, &config.timeouts).await?;
        self.listeners.commit(listeners);
        Ok(())
    }

    /// Ends the health checks and closes the tiers.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.checks.close();
        self.checks.wait().await;
        self.stop_purging().await;
        self.cache().close().await;
    }

    /// How many pools are being checked.
    #[cfg(test)]
    pub(super) fn checks(&self) -> usize {
        self.checks.len()
    }

    fn enter(&self, serving: &Serving, former: Option<&Serving>) {
        serving.take_over(former, &self.base.load().metrics);
        for pool in serving.pools_beside(former) {
            self.checks.spawn(pool.watch(self.stop.clone()));
        }
    }
}
