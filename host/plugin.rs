//! Policies that are WebAssembly components: loading, limits, instances, calls.
//!
//! A [`Plugin`] is one generation of one policy and never changes; a reload makes another. What it answers to the rest
//! of the program is [`crate::policy::Policy`]; nobody else knows wasmtime or the bindings.

mod diagnostics;
mod engine;
mod error;
mod generation;
mod health;
mod hook;
mod info;
mod instance;
mod limits;
mod manifest;
mod metrics;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt, sync::Arc};

use tracing::{debug, warn};

use self::{
    generation::Generation,
    health::Health,
    hook::Hook,
    instance::{Instance, Instances},
    limits::Limit,
    manifest::Manifest,
    metrics::Tally,
};
use crate::{
    clock::{self, Timestamp},
    config::{self, PolicySource},
    policy::{Fault, KeyPlan, KeyVerdict, Policy},
};

pub use self::{
    engine::{Engine, EngineLimits},
    error::{Error, Flaw, Refusal, Unmade},
    info::{HookInfo, PluginInfo},
    metrics::Metrics,
};

/// One generation of one policy.
pub struct Plugin {
    name: String,
    generation: Generation,
    manifest: Manifest,
    version: String,
    key_plan: KeyPlan,
    call: Limit,
    instances: Instances,
    health: Health,
    tally: Tally,
    engine: Arc<Engine>,
}

impl Plugin {
    /// Compiles and configures a policy. Takes as long as a compiler does: not for a thread that serves requests.
    ///
    /// # Errors
    /// The component can't be read, isn't one, imports what no policy is given, or is not configured by `config`.
    pub fn load(
        engine: &Arc<Engine>,
        name: &str,
        config: &config::Policy,
        metrics: Metrics,
    ) -> Result<Arc<Self>, Error> {
        let plugin = Self::try_load(engine, name, config, metrics).map_err(|refusal| Error::Refused {
            policy: name.to_owned(),
            file: file(&config.source),
            refusal: Box::new(refusal),
        })?;
        plugin.warn_of_what_is_unused();
        Ok(Arc::new(plugin))
    }

    /// blake3 over component, configuration and limits, in hex. The generation is its first eight digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.generation.digest
    }

    /// What an operator wants to know of it.
    #[must_use]
    pub fn info(&self) -> PluginInfo {
        PluginInfo {
            name: self.name.clone(),
            component: self.manifest.name.clone(),
            version: self.manifest.version.clone(),
            digest: self.generation.digest.clone(),
            hooks: self
                .generation
                .hooks
                .iter()
                .map(|hook| HookInfo { name: hook.name(), called: hook.called() })
                .collect(),
            plan: info::plan(&self.key_plan),
            calls: self.tally.calls(),
            faults: self.tally.faults(),
            instances: self.instances.live(),
            breaker_open: self.health.is_open(),
        }
    }

    fn try_load(engine: &Arc<Engine>, name: &str, config: &config::Policy, metrics: Metrics) -> Result<Self, Refusal> {
        let _watched = engine.watch();
        let limits = &config.limits;
        let tally = Tally::new(metrics, name);
        let generation = Generation::prepare(engine, name, config)?;
        let (mut first, manifest) = generation.instantiate(&tally)?;
        let mut manifest = manifest::check(manifest)?;
        let key_plan = if generation.hooks.contains(&Hook::Key) {
            let keying = hook::key::plan(&mut first, &generation.load).map_err(Refusal::Plan)?;
            manifest::key_plan(keying, std::mem::take(&mut manifest.key_inputs))?
        } else {
            KeyPlan::Native
        };
        Ok(Self {
            name: name.to_owned(),
            version: format!("{} {}", manifest.name, manifest.version),
            manifest,
            key_plan,
            call: Limit::of_call(limits),
            instances: Instances::new(limits.instances_max, limits.calls_max, first),
            health: Health::new(limits.breaker),
            tally,
            generation,
            engine: Arc::clone(engine),
        })
    }

    /// Asks an instance. `now` is called only while the policy isn't healthy.
    fn ask<T>(
        &self,
        now: impl Fn() -> Timestamp,
        question: impl FnOnce(&mut Instance) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let answer = self.answer(&now, question);
        if let Err(fault) = &answer {
            self.tally.fault(fault);
            debug!(target: "policy", policy = %self.generation.label, %fault, "no verdict");
        }
        answer
    }

    fn answer<T>(
        &self,
        now: &impl Fn() -> Timestamp,
        question: impl FnOnce(&mut Instance) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if !self.health.permit(now) {
            return Err(Fault::Open);
        }
        let _watched = self.engine.watch();
        let (place, idle) = self.instances.take()?;
        let mut instance = match idle {
            Some(instance) => instance,
            None => self.make(now)?,
        };
        let timer = self.tally.call();
        let answer = question(&mut instance);
        self.tally.answered(timer);
        // An error of the policy's own is an answer like any other; after anything else the instance is not trusted.
        let sound = matches!(answer, Ok(_) | Err(Fault::Own { .. }));
        if sound && !place.keep(instance) {
            self.tally.retired();
        }
        self.record(sound, now);
        answer
    }

    fn make(&self, now: &impl Fn() -> Timestamp) -> Result<Instance, Fault> {
        let made = self.generation.instantiate(&self.tally);
        made.map(|(instance, _)| instance).map_err(|unmade| {
            self.record(false, now);
            Fault::NoInstance(unmade.to_string())
        })
    }

    fn record(&self, ok: bool, now: &impl Fn() -> Timestamp) {
        if self.health.record(ok, now) {
            warn!(target: "policy", policy = %self.generation.label, "faulted too often; not asked until it heals");
        }
    }

    fn warn_of_what_is_unused(&self) {
        let policy = self.generation.label.as_str();
        for hook in self.generation.hooks.iter().filter(|hook| !hook.called()) {
            warn!(target: "policy", policy, hook = hook.name(), "this version doesn't call the hook");
        }
        if self.manifest.experiments > 0 {
            warn!(target: "policy", policy, "this version draws no arms: the declared experiments do nothing");
        }
    }
}

impl Policy for Plugin {
    fn label(&self) -> &str {
        &self.generation.label
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn key_plan(&self) -> &KeyPlan {
        &self.key_plan
    }

    fn derive_key(&self, values: &[Option<Cow<'_, [u8]>>]) -> Result<KeyVerdict, Fault> {
        self.ask(clock::now, |instance| hook::key::derive(instance, &self.call, values))
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("label", &self.generation.label)
            .field("key_plan", &self.key_plan)
            .finish_non_exhaustive()
    }
}

fn file(source: &PolicySource) -> String {
    match source {
        PolicySource::File(path) => path.display().to_string(),
        PolicySource::Embedded(_) => "embedded".to_owned(),
    }
}
