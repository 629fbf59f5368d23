//! Loading a component as a node does.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};

use super::error::Error;
use crate::{
    config::{self, Breaker, Memo, Plugins, PolicyLimits, PolicySource, Rollout},
    plugin::{Engine, EngineLimits, Metrics, Plugin},
};

/// A component, what it is configured by, and what it may use.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The `.wasm` file.
    pub file: PathBuf,
    /// The operator's table, as JSON.
    pub config: String,
    /// Linear memory of one instance in bytes.
    pub memory_bytes_max: usize,
}

impl Subject {
    /// With an empty table and the memory that a node gives.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>) -> Self {
        let memory_bytes_max = PolicyLimits::default().memory_bytes_max;
        Self { file: file.into(), config: "{}".to_owned(), memory_bytes_max }
    }

    /// The file's name, for messages.
    pub(super) fn title(&self) -> String {
        self.file.file_name().unwrap_or(self.file.as_os_str()).to_string_lossy().into_owned()
    }
}

/// An operator's table from the command line: JSON, or `@` and the name of a file that has it.
///
/// # Errors
/// The file can't be read, or it isn't a JSON object.
pub fn config(argument: &str) -> Result<String, Error> {
    let text = match argument.strip_prefix('@') {
        Some(path) => fs::read_to_string(path).map_err(Error::unreadable(path))?,
        None => argument.to_owned(),
    };
    match serde_json::from_str::<Map<String, Value>>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Error::Asked(format!(
            "a configuration is a JSON object, such as '{{\"tenant_header\": \"x-org\"}}', or @FILE: {error}"
        ))),
    }
}

/// How strictly time is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// As in a node.
    Node,
    /// So long that a busy machine doesn't change what is decided. Only what has no end is cut off.
    Patient,
}

/// An engine of this process.
pub(super) struct Bench {
    engine: Arc<Engine>,
    metrics: Metrics,
}

impl Bench {
    /// `fuel` counts instructions, which costs time.
    pub(super) fn new(memory_bytes_max: usize, fuel: bool) -> Result<Self, Error> {
        let limits = EngineLimits {
            instances_max: INSTANCES_MAX,
            memory_bytes_max,
            cache_dir: cache_dir(),
            cache_bytes_max: Plugins::default().cache_bytes_max,
            fuel,
        };
        Ok(Self { engine: Engine::new(&limits)?, metrics: Metrics::new() })
    }

    /// Compiles and configures it. It is called every time, without remembered verdicts, unless `memo` says
    /// otherwise.
    pub(super) fn load(&self, subject: &Subject, clock: Clock, memo: Memo) -> Result<Arc<Plugin>, Error> {
        let defaults = PolicyLimits::default();
        let patient = PolicyLimits {
            call: Duration::from_secs(1),
            load: Duration::from_secs(10),
            // What one record brings about must not affect the call for the next one.
            breaker: Breaker { failures: u32::MAX, ..defaults.breaker },
            ..defaults
        };
        let limits = if clock == Clock::Node { defaults } else { patient };
        let config = config::Policy {
            source: PolicySource::File(subject.file.clone()),
            config: subject.config.clone(),
            limits: PolicyLimits { memory_bytes_max: subject.memory_bytes_max, instances_max: INSTANCES_MAX, ..limits },
            memo,
            rollout: Rollout::default(),
        };
        Ok(Plugin::load(&self.engine, &name(&subject.file), &config, &self.metrics)?)
    }
}

/// Hooks are called one after the other.
const INSTANCES_MAX: usize = 2;

/// Every call is made.
pub(super) const FORGETFUL: Memo = Memo { entries_max: 0, check_every: 1 };

fn name(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The directory of compiled components: Python's take seconds, and are loaded again and again while they are tested.
fn cache_dir() -> Option<PathBuf> {
    if cfg!(test) {
        return None;
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    let dir = caches.join("holm").join("policies");
    // Without it nothing is worse than slow.
    fs::create_dir_all(&dir).ok().map(|()| dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_an_object_or_a_file() {
        assert_eq!(config(r#"{"a":1}"#).unwrap(), r#"{"a":1}"#);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.json");
        fs::write(&file, "{}").unwrap();
        assert_eq!(config(&format!("@{}", file.display())).unwrap(), "{}");
        assert!(config("[]").unwrap_err().to_string().contains("is a JSON object"));
        assert!(config("@/nowhere/c.json").unwrap_err().to_string().contains("/nowhere/c.json can't be read"));
    }
}
