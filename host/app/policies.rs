//! Leads policies to other generations: changed components, and the requests of the admin API. What a changed
//! configuration says of them comes by an exchange.

use std::{path::PathBuf, sync::Arc};

use super::{
    components::{NodePolicy, on_spare_thread},
    exchange::Exchange,
};
use crate::{
    admin::{PolicyAction, PolicyFailure},
    config::{self, PolicySource, RolloutMode},
    plugin::{Introduction, Refused},
    report::{Loaded, PolicyInfo},
};

/// Leads the policies that serve at present to other generations.
pub(super) struct Policies {
    exchange: Arc<Exchange>,
}

impl Policies {
    /// The policies of `exchange`.
    pub(super) const fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange }
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
                self.reread(name, &policy).await.map_err(PolicyFailure::Refused)?;
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

    /// Reads again what the configuration's file says of this policy. All else in it holds once it is adopted.
    async fn reread(&self, name: &str, policy: &NodePolicy) -> Result<(), String> {
        let running = self.exchange.serving();
        let Some(file) = running.config.file.clone() else { return Ok(()) };
        let loaded = on_spare_thread(move || config::load_beside(&file, &running.config)).await;
        let mut config = loaded.map_err(|error| error.to_string())?;
        if let Some(said) = config.policies.remove(name) {
            policy.set_config(said);
        }
        Ok(())
    }

    /// Loads those whose components have changed.
    pub(super) async fn load_changed(&self) {
        for policy in self.all() {
            policy.load_changed().await;
        }
    }

    /// Returns the files of the components.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let file = |policy: &Arc<NodePolicy>| match policy.config().source {
            PolicySource::File(path) => Some(path),
            PolicySource::Embedded(_) => None,
        };
        self.all().iter().filter_map(file).collect()
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
