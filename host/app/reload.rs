//! The ways to another configuration: HUP, a changed file (`watching`), the admin API, and another generation of the
//! central one (`central`). Each reads the file again and has it adopted as a whole, or refused.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tracing::{info, warn};

use super::{components::on_spare_thread, error::Error, exchange::Exchange, policies::Policies};
use crate::{
    admin::ConfigFailure,
    clock,
    config::{self, Config, Generation},
    http::CertificateFiles,
    report::ConfigReload,
};

/// Bytes of a file that are looked at to see whether it has changed; none that is longer is read.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Changes that are logged one by one.
const CHANGES_LOGGED_MAX: usize = 100;

/// What became of the configurations.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    generation: Gauge,
    last_success: Gauge,
    reloads: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "config_generation",
            "Configurations that the node has had, the present one included",
            self.generation.clone(),
        );
        registry.register_with_unit(
            "config_last_success_timestamp",
            "When the configuration was adopted last, or found unchanged, since the Unix epoch",
            Unit::Seconds,
            self.last_success.clone(),
        );
        registry.register("config_reloads", "Times that the configuration was read again", self.reloads.clone());
    }

    fn adopted(&self) {
        self.last_success.set(i64::try_from(clock::now().seconds()).unwrap_or(i64::MAX));
    }

    fn count(&self, outcome: &'static str) {
        self.reloads.get_or_create(&[("outcome", outcome)]).inc();
    }
}

/// Reads the configuration's file again, and has the node adopt it.
pub(super) struct Reloader {
    exchange: Arc<Exchange>,
    policies: Arc<Policies>,
    /// Those of the admin API.
    admin_certificates: CertificateFiles,
    metrics: Metrics,
    /// Digest of the file when it was read last.
    seen: Mutex<Option<blake3::Hash>>,
    /// One at a time, so that what was read last is the one that holds.
    turn: tokio::sync::Mutex<()>,
}

impl Reloader {
    pub(super) fn new(
        exchange: Arc<Exchange>,
        policies: Arc<Policies>,
        admin_certificates: CertificateFiles,
        metrics: Metrics,
    ) -> Self {
        metrics.adopted();
        let seen = exchange.serving().config.digest;
        let (seen, turn) = (Mutex::new(seen), tokio::sync::Mutex::new(()));
        Self { exchange, policies, admin_certificates, metrics, seen, turn }
    }

    /// Brings up to date what is only read when it is asked for.
    pub(super) fn refresh_metrics(&self) {
        self.metrics.generation.set(i64::try_from(self.exchange.generation()).unwrap_or(i64::MAX));
    }

    pub(super) const fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// Reads the certificates again, then the file, and has it adopted. The outcome is logged and counted.
    ///
    /// # Errors
    /// [`ConfigFailure`] says why not. Nothing has changed then, but for certificates.
    pub(super) async fn reload(&self) -> Result<ConfigReload, ConfigFailure> {
        let file = self.file().ok_or(ConfigFailure::NoFile)?;
        let _turn = self.turn.lock().await;
        self.renew_certificates().await;
        let generation = self.exchange.serving().config.generation.clone();
        let outcome = Box::pin(self.read_and_adopt(file, generation)).await;
        self.account_for(&outcome);
        outcome
    }

    /// Reads the file again, and has it adopted together with this generation of the central configuration, or without
    /// one. The outcome is logged and counted.
    ///
    /// # Errors
    /// As [`Reloader::reload`].
    pub(super) async fn take(&self, generation: Option<Arc<Generation>>) -> Result<ConfigReload, ConfigFailure> {
        let file = self.file().ok_or(ConfigFailure::NoFile)?;
        let _turn = self.turn.lock().await;
        let outcome = Box::pin(self.read_and_adopt(file, generation)).await;
        self.account_for(&outcome);
        outcome
    }

    fn account_for(&self, outcome: &Result<ConfigReload, ConfigFailure>) {
        match outcome {
            Ok(ConfigReload { generation, changes }) => {
                self.metrics.adopted();
                self.metrics.count(if changes.is_empty() { "unchanged" } else { "adopted" });
                for change in changes.iter().take(CHANGES_LOGGED_MAX) {
                    info!("{}", config::described(change));
                }
                info!(generation, changes = changes.len(), "the configuration is adopted");
            }
            Err(failure) => {
                self.metrics.count("refused");
                warn!(error = %failure, "the configuration is wrong; nothing has changed");
            }
        }
    }

    /// HUP: the file is read again. A node without one looks at its certificates and the components of its policies.
    pub(super) async fn on_hangup(&self) {
        // The files are the other process's, and so are addresses that are new.
        if self.exchange.listeners().is_retired() {
            return;
        }
        if self.file().is_some() {
            // The outcome is in the log.
            let _ = self.reload().await;
        } else {
            self.renew_certificates().await;
            self.policies.load_changed().await;
        }
    }

    /// Reads again the files of certificates that are served. They change by themselves as well, so they don't depend on
    /// what becomes of the configuration: one that can't be used keeps nothing else out.
    async fn renew_certificates(&self) {
        for files in [self.exchange.certificates(), self.admin_certificates.clone()] {
            for error in files.reload().await {
                warn!(%error, "a certificate can't be used; the former one is served on");
            }
        }
    }

    /// Looks at what is watched, some of which may have changed.
    pub(super) async fn look_again(&self) {
        // The files are the other process's, and so are addresses that are new.
        if self.exchange.listeners().is_retired() {
            return;
        }
        let serving = self.exchange.serving();
        let (watches_file, watches_components) = (serving.config.watch, serving.config.plugins.watch);
        drop(serving);
        if watches_file && let Some(file) = self.file() {
            // One that can't be read may be about to be exchanged for another.
            let now = on_spare_thread(move || digest(&file)).await;
            let seen = *self.seen.lock();
            if now.is_some() && now != seen {
                let _ = self.reload().await;
            }
        }
        if watches_components {
            self.policies.load_changed().await;
        }
    }

    /// Returns the files that are watched.
    pub(super) fn watched(&self) -> Vec<PathBuf> {
        let serving = self.exchange.serving();
        let config = &serving.config;
        let mut files = if config.plugins.watch { self.policies.files() } else { Vec::new() };
        files.extend(config.file.clone().filter(|_| config.watch));
        files
    }

    fn file(&self) -> Option<PathBuf> {
        self.exchange.serving().config.file.clone()
    }

    async fn read_and_adopt(
        &self,
        file: PathBuf,
        generation: Option<Arc<Generation>>,
    ) -> Result<ConfigReload, ConfigFailure> {
        let running = self.exchange.serving();
        let (digest, loaded, gone) = on_spare_thread(move || {
            let running = &running.config;
            (digest(&file), load(file, generation.as_ref(), running), running.files_gone())
        })
        .await;
        *self.seen.lock() = digest;
        for file in gone {
            warn!(file = %file.display(), "it is gone; what was read of it holds until the node ends");
        }
        let config = loaded.map_err(|error| ConfigFailure::Invalid(error.findings()))?;
        let changes = Box::pin(self.exchange.adopt(&config)).await.map_err(|error| match error {
            Error::NeedsRestart(keys) => ConfigFailure::NeedsRestart(keys),
            other => ConfigFailure::Refused(other.to_string()),
        })?;
        Ok(ConfigReload { generation: self.exchange.generation(), changes })
    }
}

/// Reads a configuration. What may be written at any time, such as a pipe, isn't waited for.
fn load(file: PathBuf, generation: Option<&Arc<Generation>>, running: &Config) -> Result<Config, config::Error> {
    match fs::metadata(&file) {
        Ok(metadata) if !metadata.is_file() => {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
            Err(config::Error::Read { path: file, cause })
        }
        Ok(_) | Err(_) => config::load_with(&file, generation, running),
    }
}

/// Returns the digest of a file; `None` if it can't be read.
fn digest(file: &Path) -> Option<blake3::Hash> {
    let mut bytes = Vec::new();
    fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
    File::open(file).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(blake3::hash(&bytes))
}
