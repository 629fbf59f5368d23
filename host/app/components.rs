//! Loading policies: the first generation of each, and another when its component or its configuration has changed.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tracing::info;

use super::error::Error;
use crate::{
    config::{self, Config},
    plugin::{self, Engine, EngineLimits, Generations, Introduction, Plugin, Refused},
    report::{GenerationInfo, Loaded},
};

/// A policy of the node: all its generations, and what the last one was loaded from. It outlives an exchange of the
/// configuration; a change of what the configuration says of it leads to another generation, as its rollout says.
pub(super) struct NodePolicy {
    pub(super) generations: Arc<Generations>,
    /// What the configuration said last.
    config: Mutex<config::Policy>,
    /// Digest of what was loaded last from the configuration. To load the same again would only end a trial of something
    /// else.
    seen: Mutex<String>,
    /// One at a time looks for news: a file that has changed may come by several ways at once.
    turn: tokio::sync::Mutex<()>,
}

impl NodePolicy {
    fn new(generations: Arc<Generations>, config: config::Policy) -> Arc<Self> {
        let seen = Mutex::new(generations.digest());
        Arc::new(Self { generations, config: Mutex::new(config), seen, turn: tokio::sync::Mutex::new(()) })
    }

    /// Returns what the configuration says of it.
    pub(super) fn config(&self) -> config::Policy {
        self.config.lock().clone()
    }

    /// Notes what the configuration says of it from now on, without loading anything.
    pub(super) fn set_config(&self, config: config::Policy) {
        *self.config.lock() = config;
    }

    /// Whether `config` leads to another generation than the one that was loaded last from the configuration.
    async fn is_news(&self, config: &config::Policy) -> bool {
        let (config, seen) = (config.clone(), self.seen.lock().clone());
        on_spare_thread(move || Plugin::digest_of(&config) != Some(seen)).await
    }

    /// Loads another generation if the component or its configuration has changed. The outcome is logged.
    pub(super) async fn load_changed(&self) {
        let _turn = self.turn.lock().await;
        let (generations, config, seen) = (Arc::clone(&self.generations), self.config(), self.seen.lock().clone());
        let load = move || {
            let digest = Plugin::digest_of(&config);
            let is_news = digest.as_ref() != Some(&seen);
            is_news.then(|| generations.load(&config, None).map(|loaded| (loaded, digest)))
        };
        // `Generations` says why it refuses; what was refused is tried again when asked again.
        if let Some(Ok((loaded, digest))) = on_spare_thread(load).await {
            if let Some(digest) = digest {
                *self.seen.lock() = digest;
            }
            let Loaded { generation, state, unchanged } = loaded;
            info!(policy = self.generations.name(), generation, state, unchanged, "loaded");
        }
    }

    /// Loads another generation from `config`, introduced as said.
    ///
    /// # Errors
    /// The component is refused; nothing has changed then.
    pub(super) async fn load(&self, config: config::Policy, introduction: Introduction) -> Result<Loaded, Refused> {
        let generations = Arc::clone(&self.generations);
        on_spare_thread(move || generations.load(&config, Some(introduction))).await
    }
}

/// Compiles and configures the first generation of each of these policies of the configuration, in an engine of their own.
///
/// # Errors
/// A component is refused, or there is no engine on this machine.
pub(super) async fn start(
    config: &Config,
    new: &[(&String, &config::Policy)],
    metrics: &plugin::Metrics,
) -> Result<BTreeMap<String, Arc<NodePolicy>>, Error> {
    let mut started = BTreeMap::new();
    if new.is_empty() {
        return Ok(started);
    }
    let engine = engine(config, new.iter().map(|(_, policy)| *policy), config.plugins.cache_dir.clone())?;
    for (name, policy) in new {
        let (engine, key, loading, metrics) =
            (Arc::clone(&engine), (*name).clone(), (*policy).clone(), metrics.clone());
        // Compiling keeps a core busy for tens of milliseconds.
        let generations = on_spare_thread(move || Generations::start(&engine, &key, &loading, &metrics)).await?;
        started.insert((*name).clone(), NodePolicy::new(generations, (*policy).clone()));
    }
    Ok(started)
}

/// Loads what `config` says otherwise of policies that are there, and lets it go again: a configuration of which a
/// generation can't be loaded is refused as a whole.
///
/// # Errors
/// A component is refused, or there is no engine on this machine.
pub(super) async fn check_changed(config: &Config, known: &[(&str, &Arc<NodePolicy>)]) -> Result<(), Error> {
    let mut changed = Vec::new();
    for (name, policy) in known {
        if let Some(said) = config.policies.get(*name)
            && policy.is_news(said).await
        {
            changed.push((*name, said));
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let engine = engine(config, changed.iter().map(|(_, said)| *said), config.plugins.cache_dir.clone())?;
    let pools: Vec<String> = config.pools.keys().cloned().collect();
    for (name, said) in changed {
        let (engine, key, loading) = (Arc::clone(&engine), name.to_owned(), said.clone());
        let load = move || Generations::start(&engine, &key, &loading, &plugin::Metrics::new());
        on_spare_thread(load).await?.check(must_key_by_body(config, name), &pools, said)?;
    }
    Ok(())
}

/// A policy of a configuration, loaded as a node loads it: what it is, or why it is refused.
#[derive(Debug)]
pub struct CheckedPolicy {
    /// Its name in the configuration.
    pub name: String,
    /// The component, configured.
    pub outcome: Result<GenerationInfo, plugin::Error>,
}

/// Loads each policy of a configuration, and lets it go again. A fault of one doesn't keep the others from being
/// loaded.
///
/// # Errors
/// There is no WebAssembly engine on this machine.
pub async fn check_policies(config: &Config) -> Result<Vec<CheckedPolicy>, Error> {
    let mut checked = Vec::new();
    if config.policies.is_empty() {
        return Ok(checked);
    }
    // Not in the node's cache: the user that checks may be another than the node's.
    let engine = engine(config, config.policies.values(), None)?;
    for (name, policy) in &config.policies {
        let (engine, key, policy) = (Arc::clone(&engine), name.clone(), policy.clone());
        let load = move || Plugin::load(&engine, &key, &policy, &plugin::Metrics::new());
        let outcome = on_spare_thread(load).await.map(|plugin| plugin.info("loaded"));
        checked.push(CheckedPolicy { name: name.clone(), outcome });
    }
    Ok(checked)
}

/// The engine that these policies of a configuration run in.
fn engine<'c>(
    config: &Config,
    policies: impl Iterator<Item = &'c config::Policy>,
    cache_dir: Option<PathBuf>,
) -> Result<Arc<Engine>, plugin::Error> {
    let limits: Vec<config::PolicyLimits> = policies.map(|policy| policy.limits).collect();
    let engine = Engine::new(&EngineLimits {
        instances_max: limits.iter().map(|limits| limits.instances_max).sum(),
        memory_bytes_max: limits.iter().map(|limits| limits.memory_bytes_max).max().unwrap_or(0),
        cache_dir,
        cache_bytes_max: config.plugins.cache_bytes_max,
        fuel: false,
    })?;
    engine.set_pools(config.pools.keys());
    Ok(engine)
}

/// Whether the configuration's routes need keys of this policy that depend on the body: it makes keys of items, and no
/// operator says that it may do so without reading them.
pub(super) fn must_key_by_body(config: &Config, policy: &str) -> bool {
    let asks = |route: &config::Route| matches!(route.mode, config::Mode::Infer(_)) && !route.key_without_body;
    config.routes.iter().any(|route| asks(route) && route.policy.as_deref() == Some(policy))
}

/// Runs what keeps a core busy on a thread that serves no requests.
pub(super) async fn on_spare_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
