//! The policies of a node, and the three ways to another generation: a changed file, HUP, and the admin API.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Error;
use crate::{
    admin::{PolicyAction, PolicyFailure},
    config::{self, Config, PolicySource, RolloutMode},
    plugin::{self, Engine, EngineLimits, Generations, Introduction, Plugin},
    report::{GenerationInfo, Loaded, PolicyInfo},
};

/// An editor or a copy writes in several steps; what follows within this time is one change.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// All policies of a node.
pub(super) struct Policies {
    by_name: BTreeMap<String, Arc<Generations>>,
    /// What the file said last.
    configs: Mutex<BTreeMap<String, config::Policy>>,
    /// Digests of what was loaded last from the files: who sees the same again has nothing to do, and ends no trial of
    /// something else.
    seen: Mutex<BTreeMap<String, String>>,
    /// Read again on HUP.
    file: Option<PathBuf>,
    watch: bool,
}

impl Policies {
    /// Compiles and configures the first generation of each.
    pub(super) async fn start(config: &Config, metrics: &plugin::Metrics) -> Result<Self, Error> {
        let (mut by_name, mut seen) = (BTreeMap::new(), BTreeMap::new());
        if !config.policies.is_empty() {
            let engine = engine(config, config.plugins.cache_dir.clone())?;
            for (name, policy) in &config.policies {
                let (engine, key, loading, metrics) =
                    (Arc::clone(&engine), name.clone(), policy.clone(), metrics.clone());
                // Compiling keeps a core busy for tens of milliseconds.
                let generations = apart(move || Generations::start(&engine, &key, &loading, &metrics)).await?;
                if keys_questions(config, name) {
                    generations.require_body_in_key(policy)?;
                }
                seen.insert(name.clone(), generations.digest());
                by_name.insert(name.clone(), generations);
            }
        }
        Ok(Self {
            by_name,
            seen: Mutex::new(seen),
            configs: Mutex::new(config.policies.clone()),
            file: config.file.clone(),
            watch: config.plugins.watch,
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Generations>> {
        self.by_name.get(name)
    }

    pub(super) fn refresh_metrics(&self) {
        self.by_name.values().for_each(|policy| policy.refresh_metrics());
    }

    pub(super) fn info(&self) -> Vec<PolicyInfo> {
        self.by_name.values().map(|policy| policy.info()).collect()
    }

    /// Carries out what the admin API asks for.
    pub(super) async fn act(&self, name: &str, action: PolicyAction) -> Result<Loaded, PolicyFailure> {
        let Some(policy) = self.by_name.get(name).map(Arc::clone) else {
            let known: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(PolicyFailure::Unknown(format!("there is no policy `{name}`; configured are: {known}")));
        };
        let refused = |refused: plugin::Refused| PolicyFailure::Refused(refused.to_string());
        match action {
            PolicyAction::Promote => policy.promote().map_err(refused),
            PolicyAction::Rollback { to } => policy.rollback(to.as_deref()).map_err(refused),
            PolicyAction::Load { file, mode, percent } => {
                let mut config = self.reread(name)?;
                if let Some(file) = file {
                    config.source = PolicySource::File(PathBuf::from(file));
                }
                let default = Introduction::of(&config.rollout);
                let mode = mode.map_or(Ok(default.mode), |mode| rollout_mode(&mode))?;
                let introduction = Introduction { mode, percent: percent.unwrap_or(default.percent) };
                apart(move || policy.load(&config, Some(introduction))).await.map_err(refused)
            }
        }
    }

    /// What the configuration says of a policy now. A file that is wrong is refused; what it said before still holds.
    fn reread(&self, name: &str) -> Result<config::Policy, PolicyFailure> {
        self.reread_all().map_err(PolicyFailure::Refused)?;
        let configs = self.configs.lock();
        configs.get(name).cloned().ok_or_else(|| PolicyFailure::Unknown(format!("there is no policy `{name}`")))
    }

    fn reread_all(&self) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let config = config::load(file).map_err(|error| error.to_string())?;
        let mut configs = self.configs.lock();
        for (name, policy) in config.policies {
            match configs.get_mut(&name) {
                Some(known) => *known = policy,
                None => warn!(policy = name, "a policy that is new in the configuration is used after a restart"),
            }
        }
        Ok(())
    }

    /// Reads the configuration again and loads what has changed in it or in the components.
    pub(super) async fn reload(&self) {
        if let Err(error) = self.reread_all() {
            warn!(error, "the configuration is wrong; the policies go on as they are");
            return;
        }
        for name in self.by_name.keys() {
            self.load(name).await;
        }
    }

    /// Loads a policy if its component or its configuration has changed. What comes of it is in the log.
    async fn load(&self, name: &str) {
        let config = self.configs.lock().get(name).cloned();
        let (Some(policy), Some(config)) = (self.by_name.get(name).map(Arc::clone), config) else { return };
        let seen = self.seen.lock().get(name).cloned();
        let load = move || {
            let digest = Plugin::digest_of(&config);
            let is_news = digest.is_none() || digest != seen;
            is_news.then(|| policy.load(&config, None).map(|loaded| (loaded, digest)))
        };
        // `Generations` says why it refuses; what was refused is tried again when asked again.
        if let Some(Ok((loaded, digest))) = apart(load).await {
            self.seen.lock().extend(digest.map(|digest| (name.to_owned(), digest)));
            let Loaded { generation, state, unchanged } = loaded;
            info!(policy = name, generation, state, unchanged, "loaded");
        }
    }

    /// Loads policies whose files change, until told to stop.
    pub(super) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        if !self.watch || self.by_name.is_empty() {
            return;
        }
        let (changed, mut changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is an event as well, and loading reads.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // One that waits stands for all that follow.
                let _ = changed.try_send(());
            }
        });
        let mut watcher = match watcher {
            Ok(watcher) => watcher,
            Err(error) => return warn!(%error, "files can't be watched; policies are reloaded by HUP only"),
        };
        for folder in self.folders() {
            if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
                warn!(%error, folder = %folder.display(), "can't be watched; its policies are reloaded by HUP only");
            }
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                change = changes.recv() => if change.is_none() { return },
            }
            tokio::time::sleep(SETTLE_TIME).await;
            let _ = changes.try_recv();
            for name in self.by_name.keys() {
                self.load(name).await;
            }
        }
    }

    /// Where the files lie. Not the files themselves: editors and Kubernetes put another file in their place.
    fn folders(&self) -> Vec<PathBuf> {
        let configs = self.configs.lock();
        let folder = |policy: &config::Policy| match &policy.source {
            PolicySource::File(path) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                Some(folder.unwrap_or(Path::new(".")).to_owned())
            }
            PolicySource::Embedded(_) => None,
        };
        let mut folders: Vec<PathBuf> = configs.values().filter_map(folder).collect();
        folders.sort();
        folders.dedup();
        folders
    }
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
    // Not in the node's cache: whoever checks may be another user than the node is.
    let engine = engine(config, None)?;
    for (name, policy) in &config.policies {
        let (engine, key, policy) = (Arc::clone(&engine), name.clone(), policy.clone());
        let load = move || Plugin::load(&engine, &key, &policy, &plugin::Metrics::new());
        let outcome = apart(load).await.map(|plugin| plugin.info("loaded"));
        checked.push(CheckedPolicy { name: name.clone(), outcome });
    }
    Ok(checked)
}

/// The engine that all policies of a configuration run in.
fn engine(config: &Config, cache_dir: Option<PathBuf>) -> Result<Arc<Engine>, plugin::Error> {
    let limits = || config.policies.values().map(|policy| policy.limits);
    let engine = Engine::new(&EngineLimits {
        instances_max: limits().map(|limits| limits.instances_max).sum(),
        memory_bytes_max: limits().map(|limits| limits.memory_bytes_max).max().unwrap_or(0),
        cache_dir,
        cache_bytes_max: config.plugins.cache_bytes_max,
        fuel: false,
    })?;
    engine.set_pools(config.pools.keys());
    Ok(engine)
}

/// Whether a policy makes keys of questions, and no operator says that it may do so without reading them.
fn keys_questions(config: &Config, policy: &str) -> bool {
    let asks = |route: &config::Route| matches!(route.mode, config::Mode::Infer(_)) && !route.key_without_body;
    config.routes.iter().any(|route| asks(route) && route.policy.as_deref() == Some(policy))
}

fn rollout_mode(mode: &str) -> Result<RolloutMode, PolicyFailure> {
    match mode {
        "swap" => Ok(RolloutMode::Swap),
        "shadow" => Ok(RolloutMode::Shadow),
        "canary" => Ok(RolloutMode::Canary),
        other => Err(PolicyFailure::Invalid(format!("`mode` can't be `{other}`; allowed are swap, shadow, canary"))),
    }
}

/// Runs what keeps a core busy on a thread that serves nobody.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
