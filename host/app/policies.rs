//! Three ways to another generation of a policy: a changed file, HUP, and the admin API.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{components::NodePolicy, exchange::Exchange};
use crate::{
    admin::{PolicyAction, PolicyFailure},
    config::{self, Config, PolicySource, RolloutMode},
    plugin::{Introduction, Refused},
    report::{Loaded, PolicyInfo},
};

/// An editor or a copy writes in several steps; what follows within this time is one change.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Leads the policies that serve at present to other generations.
pub(super) struct Policies {
    exchange: Arc<Exchange>,
    /// Read again on HUP.
    file: Option<PathBuf>,
    watch: bool,
}

impl Policies {
    /// The policies of `exchange`, as the configuration has it watched.
    pub(super) fn new(exchange: Arc<Exchange>, config: &Config) -> Self {
        Self { exchange, file: config.file.clone(), watch: config.plugins.watch }
    }

    /// The policies that serve at present.
    fn all(&self) -> Vec<Arc<NodePolicy>> {
        self.exchange.serving().policies().map(|(_, policy)| Arc::clone(policy)).collect()
    }

    pub(super) fn refresh_metrics(&self) {
        self.all().iter().for_each(|policy| policy.generations.refresh_metrics());
    }

    pub(super) fn info(&self) -> Vec<PolicyInfo> {
        self.all().iter().map(|policy| policy.generations.info()).collect()
    }

    /// Carries out the requests of the admin API.
    pub(super) async fn act(&self, name: &str, action: PolicyAction) -> Result<Loaded, PolicyFailure> {
        let policy = self.known(name)?;
        let refused = |refused: Refused| PolicyFailure::Refused(refused.to_string());
        match action {
            PolicyAction::Promote => policy.generations.promote().map_err(refused),
            PolicyAction::Rollback { to } => policy.generations.rollback(to.as_deref()).map_err(refused),
            PolicyAction::Load { file, mode, percent } => {
                // A file that is wrong is refused; what it said before still holds.
                self.reread().map_err(PolicyFailure::Refused)?;
                let mut config = policy.config();
                if let Some(file) = file {
                    config.source = PolicySource::File(PathBuf::from(file));
                }
                let default = Introduction::of(&config.rollout);
                let mode = mode.map_or(Ok(default.mode), |mode| rollout_mode(&mode))?;
                let introduction = Introduction { mode, percent: percent.unwrap_or(default.percent) };
                policy.load(config, introduction).await.map_err(refused)
            }
        }
    }

    fn known(&self, name: &str) -> Result<Arc<NodePolicy>, PolicyFailure> {
        let serving = self.exchange.serving();
        serving.policy(name).map(Arc::clone).ok_or_else(|| {
            let known: Vec<&str> = serving.policies().map(|(name, _)| name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            PolicyFailure::Unknown(format!("there is no policy `{name}`; configured are: {known}"))
        })
    }

    /// Reads again what the configuration says of the policies.
    fn reread(&self) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let config = config::load(file).map_err(|error| error.to_string())?;
        let serving = self.exchange.serving();
        for (name, policy) in config.policies {
            match serving.policy(&name) {
                Some(known) => known.set_config(policy),
                None => warn!(policy = name, "a policy that is new in the configuration is used after a restart"),
            }
        }
        Ok(())
    }

    /// Reads the configuration again and loads what has changed in it or in the components.
    pub(super) async fn reload(&self) {
        if let Err(error) = self.reread() {
            warn!(error, "the configuration is wrong; the policies go on as they are");
            return;
        }
        self.load_changed().await;
    }

    async fn load_changed(&self) {
        for policy in self.all() {
            policy.load_changed().await;
        }
    }

    /// Loads policies whose files change, until it is stopped.
    pub(super) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let folders = self.folders();
        if !self.watch || folders.is_empty() {
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
        for folder in folders {
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
            self.load_changed().await;
        }
    }

    /// Where the files lie. Not the files themselves: editors and Kubernetes put another file in their place.
    fn folders(&self) -> Vec<PathBuf> {
        let folder = |policy: &Arc<NodePolicy>| match policy.config().source {
            PolicySource::File(path) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                Some(folder.unwrap_or(Path::new(".")).to_owned())
            }
            PolicySource::Embedded(_) => None,
        };
        let mut folders: Vec<PathBuf> = self.all().iter().filter_map(folder).collect();
        folders.sort();
        folders.dedup();
        folders
    }
}

fn rollout_mode(mode: &str) -> Result<RolloutMode, PolicyFailure> {
    match mode {
        "swap" => Ok(RolloutMode::Swap),
        "shadow" => Ok(RolloutMode::Shadow),
        "canary" => Ok(RolloutMode::Canary),
        other => Err(PolicyFailure::Invalid(format!("`mode` can't be `{other}`; allowed are swap, shadow, canary"))),
    }
}
