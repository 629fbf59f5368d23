//! One generation of one policy: a component that was loaded, with its instances, its remembered verdicts, and its
//! health.

use std::{borrow::Cow, fmt, sync::Arc};

use tracing::{debug, warn};

use super::{
    declared::Declared,
    engine::Engine,
    error::{Error, Refusal},
    generation::{self, Generation},
    health::Health,
    hook,
    instance::{Instance, Instances},
    limits::Limit,
    manifest,
    metrics::{Metrics, Sums, Tally},
    remember::{Recalled, Remembered},
};
use crate::{
    clock::{self, Timestamp, Uptime},
    config::{self, PolicySource},
    policy::{Arm, Decision, Experiment, Fault, Hook, HookCall, Input, KeyPlan, Outcome, Policy, experiment::Stats},
};

/// One generation of one policy.
pub struct Plugin {
    pub(super) generation: Generation,
    /// Name and version of the component.
    pub(super) component: (String, String),
    pub(super) key_plan: KeyPlan,
    meaning: [u8; 32],
    pub(super) reads: [Option<Vec<Input>>; Hook::ALL.len()],
    needs_body: bool,
    pub(super) experiments: Vec<Experiment>,
    pub(super) arms: Vec<Vec<Stats>>,
    call: Limit,
    pub(super) instances: Instances,
    /// Each hook's own: one that faults always must not be excused by another that never does.
    pub(super) health: [Health; Hook::ALL.len()],
    pub(super) remembered: Remembered,
    pub(super) tally: Tally,
    engine: Arc<Engine>,
}

impl Plugin {
    /// Returns the digest of the generation that a configuration makes now, without compiling it; `None` if its file
    /// can't be read.
    #[must_use]
    pub fn digest_of(config: &config::Policy) -> Option<String> {
        generation::digest_of(config).ok()
    }

    /// Compiles and configures a policy. Takes as long as a compiler does: not for a thread that serves requests.
    ///
    /// # Errors
    /// The component can't be read, isn't one, imports what no policy may import, or is not configured by `config`.
    pub fn load(
        engine: &Arc<Engine>,
        name: &str,
        config: &config::Policy,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, Error> {
        Self::try_load(engine, name, config, metrics).map(Arc::new).map_err(|refusal| Error::Refused {
            policy: name.to_owned(),
            file: file(&config.source),
            refusal: Box::new(refusal),
        })
    }

    /// Returns blake3 over component, configuration and limits, in hex. The generation is its first eight digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.generation.digest
    }

    /// Makes it time every call from now on, not one in sixteen.
    pub fn time_every_call(&self) {
        self.tally.set_exact(true);
    }

    fn try_load(engine: &Arc<Engine>, name: &str, config: &config::Policy, metrics: &Metrics) -> Result<Self, Refusal> {
        let _watched = engine.watch();
        let limits = &config.limits;
        let generation = Generation::prepare(engine, name, config)?;
        let tally = Tally::new(metrics, name, generation.short(), &generation.hooks);
        let (mut first, raw) = generation.instantiate(&tally)?;
        let declared = Declared::by(&mut first, raw, &generation.hooks, &generation.load)?;
        if let Some(pools) = engine.pools() {
            manifest::check_pools(&declared.reads, &pools)?;
        }
        warm_vocabularies(&declared.reads);
        let Declared { name: component, version, experiments, key_plan, reads } = declared;
        Ok(Self {
            meaning: key_plan.meaning(&format!("{component} {version} {}", config.config)),
            component: (component, version),
            key_plan,
            needs_body: reads.iter().flatten().flatten().any(Input::needs_body)
                || experiments.iter().any(|experiment| experiment.unit.needs_body()),
            reads,
            arms: experiments.iter().map(|it| it.arms.iter().map(|_| Stats::default()).collect()).collect(),
            experiments,
            call: Limit::of_call(limits),
            instances: Instances::new(limits.instances_max, limits.calls_max, limits.wait, first),
            health: Hook::ALL.map(|_| Health::new(limits.breaker)),
            remembered: Remembered::new(config.memo),
            tally,
            generation,
            engine: Arc::clone(engine),
        })
    }

    /// Calls an instance, and counts a fault.
    fn ask(&self, call: &HookCall<'_>, values: &[Option<Cow<'_, [u8]>>]) -> Result<Arc<Decision>, Fault> {
        let answer = self.answer(&clock::uptime, call, values);
        if let Err(fault) = &answer {
            self.tally.fault(call.hook(), fault);
            debug!(target: "policy", policy = %self.generation.label, hook = call.hook().name(), %fault, "no verdict");
        }
        answer.map(Arc::new)
    }

    /// Calls an instance unless the hook's breaker is open. `now` is called only while the policy isn't healthy.
    pub(super) fn answer(
        &self,
        now: &impl Fn() -> Uptime,
        call: &HookCall<'_>,
        values: &[Option<Cow<'_, [u8]>>],
    ) -> Result<Decision, Fault> {
        let hook = call.hook();
        if !self.health[hook.index()].permit(now) {
            return Err(Fault::Open);
        }
        let _watched = self.engine.watch();
        let (permit, idle) = self.instances.take()?;
        let mut instance = match idle {
            Some(instance) => instance,
            None => self.make(hook, now)?,
        };
        let timer = self.tally.call(hook);
        let answer = hook::ask(&mut instance, &self.call, call, values);
        if let Some(took) = self.tally.responded(hook, timer) {
            self.remembered.call_took(hook, took);
        }
        if let Some(burned) = instance.burned() {
            self.tally.burned(hook, burned);
        }
        // An error of the policy's own is a result like any other; after anything else the instance is not trusted.
        let sound = matches!(answer, Ok(_) | Err(Fault::Own { .. }));
        if sound && !permit.keep(instance) {
            self.tally.retired();
        }
        self.record(hook, sound, now);
        answer
    }

    fn make(&self, hook: Hook, now: &impl Fn() -> Uptime) -> Result<Box<Instance>, Fault> {
        let made = self.generation.instantiate(&self.tally);
        made.map(|(instance, _)| instance).map_err(|unmade| {
            self.record(hook, false, now);
            Fault::NoInstance(unmade.to_string())
        })
    }

    fn record(&self, hook: Hook, ok: bool, now: &impl Fn() -> Uptime) {
        if self.health[hook.index()].record(ok, now) {
            let (policy, hook) = (&*self.generation.label, hook.name());
            warn!(target: "policy", policy, hook, "faulted too often; not asked until it heals");
        }
    }

    /// Compares a remembered verdict with a new one of the policy, which is the error if they differ.
    fn check(
        &self,
        call: &HookCall<'_>,
        values: &[Option<Cow<'_, [u8]>>],
        remembered: &Decision,
    ) -> Result<(), Arc<Decision>> {
        let hook = call.hook();
        let Ok(now) = self.ask(call, values) else { return Ok(()) };
        if *now == *remembered {
            return Ok(());
        }
        if let Some(tally) = self.tally.of(hook) {
            tally.disagreements.inc();
        }
        if self.remembered.disagreed(hook) {
            warn!(
                target: "policy", policy = %self.generation.label, hook = hook.name(),
                before = %remembered.to_json(), now = %now.to_json(),
                "the policy disagrees with itself about the same inputs; what this hook says is no longer remembered"
            );
        }
        Err(now)
    }

    pub(super) fn sums(&self) -> [Sums; Hook::ALL.len()] {
        self.tally.sums()
    }
}

impl Policy for Plugin {
    fn label(&self) -> &Arc<str> {
        &self.generation.label
    }

    fn key_plan(&self) -> &KeyPlan {
        &self.key_plan
    }

    fn meaning(&self) -> &[u8; 32] {
        &self.meaning
    }

    fn reads(&self, hook: Hook) -> Option<&[Input]> {
        self.reads[hook.index()].as_deref()
    }

    fn needs_body(&self) -> bool {
        self.needs_body
    }

    fn experiments(&self) -> &[Experiment] {
        &self.experiments
    }

    fn decide(
        &self,
        call: &HookCall<'_>,
        values: &[Option<Cow<'_, [u8]>>],
        until: Option<Timestamp>,
    ) -> Result<Arc<Decision>, Fault> {
        let hook = call.hook();
        match self.remembered.recall(call, values, clock::uptime) {
            Recalled::Known(decision) => {
                let uses = self.tally.memo_hit(hook);
                if !self.remembered.is_to_be_checked(uses) {
                    return Ok(decision);
                }
                Ok(self.check(call, values, &decision).err().unwrap_or(decision))
            }
            Recalled::Unknown(place) => {
                let decision = self.ask(call, values)?;
                self.remembered.keep(place, &decision, until.map(lasting));
                Ok(decision)
            }
            Recalled::Off => self.ask(call, values),
        }
    }

    fn observe(&self, arms: &[Arm], outcome: &Outcome) {
        for arm in arms {
            let (experiment, place) = arm.place;
            if let Some(stats) = self.arms.get(experiment).and_then(|arms| arms.get(place)) {
                stats.record(outcome.hit, outcome.latency, outcome.cost_micro);
            }
        }
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

/// Returns a moment of the wall clock as one that no setting of it moves: what is remembered until then doesn't last an
/// hour longer because the clock is set back by one.
fn lasting(until: Timestamp) -> Uptime {
    clock::uptime().plus(until.since(clock::now()))
}

/// Loads the vocabularies that tokens will be counted by, so that no request waits for it.
fn warm_vocabularies(reads: &[Option<Vec<Input>>]) {
    for input in reads.iter().flatten().flatten() {
        if let Input::BodyTokens(_, encoding) = input {
            encoding.warm();
        }
    }
}

/// Returns where a component comes from, for messages.
pub(super) fn file(source: &PolicySource) -> String {
    match source {
        PolicySource::File(path) => path.display().to_string(),
        PolicySource::Embedded(_) => "embedded".to_owned(),
    }
}
