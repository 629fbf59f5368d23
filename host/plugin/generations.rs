//! The generations of one policy: the active one, the one on trial, and those that can be rolled back to.
//!
//! `loading → warm → (shadow | canary) → active → cooling → gone`: [`Generations::load`] compiles and configures one
//! off the request path; [`Generations::install`] activates it or begins its trial; [`Roster::choose`] returns the one
//! that a request keeps.

use std::{
    collections::VecDeque,
    io, iter,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use thiserror::Error;
use tracing::{info, warn};

use super::{
    component::{Plugin, file},
    engine::Engine,
    error::{Error, Refusal},
    examples, info,
    kept::Kept,
    manifest,
    metrics::Metrics,
    rollout::{self, Bounds, Mode, Verdict},
    shadow::Trial,
};
use crate::{
    clock,
    config::{self, RolloutMode},
    message::RequestHead,
    policy::{Chosen, Input, KeyPlan, Policy, Roster, Shadow, consult},
    report::{EndedTrial, Event, Loaded, PolicyInfo},
};

/// Events of a policy that are kept for the operator.
const EVENTS_MAX: usize = 32;

/// A policy with all its generations.
pub struct Generations {
    name: String,
    engine: Arc<Engine>,
    metrics: Metrics,
    deployment: ArcSwap<Deployment>,
    history: Mutex<History>,
    /// Allows one load at a time, so that the last one requested takes effect.
    loading: Mutex<()>,
    /// Whether its keys must depend on the body.
    keys_by_body: AtomicBool,
}

/// The generations that decide. Exchanged as a whole.
struct Deployment {
    active: Arc<Plugin>,
    trial: Option<Arc<Trial>>,
}

/// The former generations, trials and events; read only by operators' calls and changes.
struct History {
    rule: config::Rollout,
    kept: Kept<Arc<Plugin>>,
    /// The results of the last trial, to be read when it is over.
    last_trial: Option<EndedTrial>,
    events: VecDeque<Event>,
    loading: bool,
}

/// How a new generation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// At once, as a shadow, or as a canary.
    pub mode: RolloutMode,
    /// Share of the clients, in percent, for a canary.
    pub percent: u8,
}

/// Why a change was refused. Nothing has changed then.
#[derive(Debug, Error)]
pub enum Refused {
    /// Nothing is on trial.
    #[error("no generation of policy `{0}` is on trial")]
    NoTrial(String),
    /// There is no such former generation.
    #[error("policy `{policy}` has no former generation {wanted}; kept are: {kept}")]
    NotKept {
        /// The policy.
        policy: String,
        /// The generation that was requested.
        wanted: String,
        /// Those that there are.
        kept: String,
    },
    /// There is nothing to go back to.
    #[error("policy `{policy}` has no former generation to go back to; kept are: {kept}{}", by_name(kept))]
    NoFormer {
        /// The policy.
        policy: String,
        /// Those that were rolled back from.
        kept: String,
    },
    /// The component is refused.
    #[error(transparent)]
    Load(#[from] Error),
    /// There is no thread for a shadow.
    #[error("a shadow can't be started: {0}")]
    Thread(io::Error),
}

/// Returns the advice for a policy that has kept generations.
fn by_name(kept: &str) -> &'static str {
    if kept == NONE { "" } else { ", which were gone back from; name one in `to`" }
}

/// No former generation.
const NONE: &str = "none";

impl Introduction {
    /// Returns the introduction that is configured.
    #[must_use]
    pub const fn of(rule: &config::Rollout) -> Self {
        Self { mode: rule.mode, percent: rule.canary_percent }
    }
}

impl Generations {
    /// Loads the first generation, which decides at once. Takes as long as a compiler does.
    ///
    /// # Errors
    /// The component is refused.
    pub fn start(
        engine: &Arc<Engine>,
        name: &str,
        config: &config::Policy,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, Error> {
        let active = Plugin::load(engine, name, config, metrics)?;
        let what = format!("started with {}", active.generation.short());
        Ok(Arc::new(Self {
            name: name.to_owned(),
            engine: Arc::clone(engine),
            metrics: metrics.clone(),
            deployment: ArcSwap::from_pointee(Deployment { active, trial: None }),
            history: Mutex::new(History {
                rule: config.rollout.clone(),
                kept: Kept::new(),
                last_trial: None,
                events: VecDeque::from([Event { at: clock::now(), what }]),
                loading: false,
            }),
            loading: Mutex::new(()),
            keys_by_body: AtomicBool::new(false),
        }))
    }

    /// Checks whether a node with these pools can use the generations that decide, or are tried: none may make keys
    /// that don't depend on the body if `keys_by_body`. Changes nothing. `config` is where they come from, for
    /// messages.
    ///
    /// # Errors
    /// One of them can't be used.
    pub fn check(&self, keys_by_body: bool, pools: &[String], config: &config::Policy) -> Result<(), Error> {
        let deployment = self.deployment.load();
        let trial = deployment.trial.as_ref().map(|trial| &trial.plugin);
        for plugin in iter::once(&deployment.active).chain(trial) {
            if keys_by_body && is_blind(plugin) {
                return Err(self.refused(config, Refusal::KeyWithoutBody));
            }
            manifest::check_pools(&plugin.reads, pools).map_err(|flaw| self.refused(config, flaw.into()))?;
        }
        Ok(())
    }

    /// Says whether keys must depend on the body. If so, generations whose keys don't are neither loaded nor gone back
    /// to.
    pub fn require_body_in_key(&self, required: bool) {
        self.keys_by_body.store(required, Ordering::Relaxed);
        if required {
            self.history.lock().kept.retain(|plugin| !is_blind(plugin));
        }
    }

    /// Says which pools the node has. Generations that are loaded from now on may read the state of no others.
    pub fn set_pools(&self, pools: &[String]) {
        self.engine.set_pools(pools.iter());
    }

    /// Returns the generation, if the routes that use the policy accept its key.
    fn fitting(&self, plugin: Arc<Plugin>, config: &config::Policy) -> Result<Arc<Plugin>, Error> {
        if self.keys_by_body.load(Ordering::Relaxed) && is_blind(&plugin) {
            return Err(self.refused(config, Refusal::KeyWithoutBody));
        }
        Ok(plugin)
    }

    fn refused(&self, config: &config::Policy, refusal: Refusal) -> Error {
        Error::Refused { policy: self.name.clone(), file: file(&config.source), refusal: Box::new(refusal) }
    }

    /// Returns the active generation's digest.
    #[must_use]
    pub fn digest(&self) -> String {
        self.deployment.load().active.digest().to_owned()
    }

    /// Returns the policy's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Loads another generation, and has it take over as `introduction` says, or the configuration if there is none.
    /// Takes as long as a compiler does: not for a thread that serves requests.
    ///
    /// # Errors
    /// The component is refused; nothing has changed then.
    pub fn load(&self, config: &config::Policy, introduction: Option<Introduction>) -> Result<Loaded, Refused> {
        let _one = self.loading.lock();
        self.history.lock().loading = true;
        let plugin = Plugin::load(&self.engine, &self.name, config, &self.metrics);
        let plugin = plugin.and_then(|plugin| self.fitting(plugin, config));
        self.history.lock().loading = false;
        match plugin {
            Ok(plugin) => {
                let introduction = introduction.unwrap_or_else(|| Introduction::of(&config.rollout));
                let loaded = self.install(plugin, &config.rollout, introduction)?;
                self.metrics.loaded(&self.name, if loaded.unchanged { "unchanged" } else { "loaded" });
                Ok(loaded)
            }
            Err(error) => {
                self.metrics.loaded(&self.name, "refused");
                self.history.lock().record_event(format!("refused: {error}"));
                warn!(target: "policy", %error, "not loaded; the active generation goes on");
                Err(error.into())
            }
        }
    }

    /// Activates a generation, or begins its trial.
    fn install(&self, plugin: Arc<Plugin>, rule: &config::Rollout, how: Introduction) -> Result<Loaded, Refused> {
        let mut history = self.history.lock();
        history.rule = rule.clone();
        let deployment = self.deployment.load_full();
        if plugin.digest() == deployment.active.digest() {
            // Loading what is active already ends a trial.
            if deployment.trial.is_some() {
                self.end_trial(&mut history, &deployment, "the active generation was loaded again");
            }
            return Ok(Loaded { unchanged: true, ..loaded(&deployment.active, "active") });
        }
        if let Some(trial) = deployment.trial.as_ref().filter(|trial| trial.plugin.digest() == plugin.digest()) {
            return Ok(Loaded { unchanged: true, ..loaded(&plugin, state(trial.mode)) });
        }
        // One that is kept has its counters.
        let kept = history.kept.take(|kept| kept.digest() == plugin.digest());
        let was_kept = kept.is_some();
        let plugin = kept.unwrap_or(plugin);
        plugin.instances.open();
        let mode = match how.mode {
            RolloutMode::Swap => {
                self.end_trial(&mut history, &deployment, "another generation was loaded");
                self.activate(&mut history, &plugin, &deployment.active, false);
                return Ok(loaded(&plugin, "active"));
            }
            RolloutMode::Shadow => Mode::Shadow,
            RolloutMode::Canary => Mode::Canary { percent: how.percent },
        };
        let counters = self.metrics.shadow(&self.name);
        let rule = (bounds(&history.rule), history.rule.canary_header.clone());
        let trial = match Trial::begin(Arc::clone(&plugin), &deployment.active, mode, rule, was_kept, counters) {
            Ok(trial) => trial,
            Err(error) => {
                if was_kept {
                    history.kept.push_given_up(plugin);
                }
                return Err(Refused::Thread(error));
            }
        };
        self.end_trial(&mut history, &deployment, "another generation was loaded");
        plugin.tally.set_exact(true);
        deployment.active.tally.set_exact(true);
        self.deployment.store(Arc::new(Deployment { active: Arc::clone(&deployment.active), trial: Some(trial) }));
        history.record_event(format!("{} is tried as {}", plugin.generation.short(), described(mode)));
        info!(target: "policy", policy = %plugin.label(), mode = described(mode), "on trial");
        Ok(loaded(&plugin, state(mode)))
    }

    /// Makes the generation on trial the active one.
    ///
    /// # Errors
    /// Nothing is on trial.
    pub fn promote(&self) -> Result<Loaded, Refused> {
        let mut history = self.history.lock();
        let deployment = self.deployment.load_full();
        let Some(trial) = &deployment.trial else { return Err(Refused::NoTrial(self.name.clone())) };
        self.promoted(&mut history, &deployment, trial, "promoted by the operator");
        Ok(loaded(&trial.plugin, "active"))
    }

    /// Ends a trial; without one, goes back to a former generation: the one whose digest begins so, or the latest that
    /// wasn't rolled back from before, so that each step goes further back.
    ///
    /// # Errors
    /// There is no such former generation.
    pub fn rollback(&self, to: Option<&str>) -> Result<Loaded, Refused> {
        let mut history = self.history.lock();
        let deployment = self.deployment.load_full();
        if deployment.trial.is_some() && to.is_none() {
            self.end_trial(&mut history, &deployment, "by the operator");
            return Ok(loaded(&deployment.active, "active"));
        }
        let found = match to {
            None => history.kept.take_latest().map(|plugin| (plugin, false)),
            Some(to) => history.kept.take_wanted(|plugin| plugin.digest().starts_with(to)),
        };
        let Some((plugin, was_left)) = found else { return Err(self.not_kept(&history, to)) };
        self.end_trial(&mut history, &deployment, "by the operator");
        // Returning to a generation that was rolled back from is no rollback from the active one.
        self.activate(&mut history, &plugin, &deployment.active, !was_left);
        Ok(loaded(&plugin, "active"))
    }

    fn not_kept(&self, history: &History, to: Option<&str>) -> Refused {
        let kept: Vec<&str> = history.kept.iter().map(|plugin| plugin.generation.short()).collect();
        let kept = if kept.is_empty() { NONE.to_owned() } else { kept.join(", ") };
        let policy = self.name.clone();
        match to {
            Some(wanted) => Refused::NotKept { policy, wanted: wanted.to_owned(), kept },
            None => Refused::NoFormer { policy, kept },
        }
    }

    /// Returns the policy's state for the admin API.
    #[must_use]
    pub fn info(&self) -> PolicyInfo {
        let history = self.history.lock();
        let deployment = self.deployment.load_full();
        let mut generations = vec![deployment.active.info("active")];
        generations.extend(deployment.trial.iter().map(|trial| trial.plugin.info(state(trial.mode))));
        // The history holds one reference, a request that uses it another.
        let cooling = |plugin: &Arc<Plugin>| if Arc::strong_count(plugin) > 1 { "cooling" } else { "kept" };
        generations.extend(history.kept.iter().map(|plugin| plugin.info(cooling(plugin))));
        PolicyInfo {
            name: self.name.clone(),
            loading: history.loading,
            generations,
            trial: deployment.trial.as_ref().map(|trial| info::trial(trial, state(trial.mode))),
            last_trial: history.last_trial.clone(),
            experiments: info::experiments(&deployment.active),
            events: history.events.iter().cloned().collect(),
        }
    }

    /// Updates the metrics that are computed on demand; to be called before metrics are read.
    pub fn refresh_metrics(&self) {
        let deployment = self.deployment.load_full();
        deployment.active.refresh_metrics();
        deployment.active.refresh_arms(&self.name, &self.metrics);
        if let Some(trial) = &deployment.trial {
            trial.plugin.refresh_metrics();
        }
    }

    /// Makes `plugin` take over from `former`, which is kept for a while; `left` if it is rolled back from.
    fn activate(&self, history: &mut History, plugin: &Arc<Plugin>, former: &Arc<Plugin>, left: bool) {
        plugin.instances.open();
        plugin.tally.set_exact(false);
        self.deployment.store(Arc::new(Deployment { active: Arc::clone(plugin), trial: None }));
        former.instances.close();
        former.tally.set_exact(false);
        self.metrics.clear_arms();
        history.kept.push(Arc::clone(former), left, history.rule.kept_max);
        history.record_event(format!("{} is active, after {}", plugin.generation.short(), former.generation.short()));
        info!(target: "policy", policy = %plugin.label(), former = %former.label(), "active");
    }

    fn end_trial(&self, history: &mut History, deployment: &Deployment, why: &str) {
        let Some(trial) = &deployment.trial else { return };
        self.deployment.store(Arc::new(Deployment { active: Arc::clone(&deployment.active), trial: None }));
        trial.plugin.instances.close();
        if trial.was_kept {
            history.kept.push_given_up(Arc::clone(&trial.plugin));
        }
        deployment.active.tally.set_exact(false);
        history.remember(trial, format!("no longer tried: {why}"));
        history.record_event(format!("{} is no longer tried: {why}", trial.plugin.generation.short()));
        warn!(target: "policy", policy = %trial.plugin.label(), why, "no longer on trial");
    }

    /// Makes the generation on trial the active one.
    fn promoted(&self, history: &mut History, deployment: &Deployment, trial: &Trial, why: &str) {
        history.remember(trial, why.to_owned());
        self.activate(history, &trial.plugin, &deployment.active, false);
    }

    /// Whether a canary decides for this request.
    fn in_canary(&self, trial: &Trial, request: &RequestHead, percent: u8) -> bool {
        let address = request.client.ip.to_string();
        let named = trial.unit.as_ref().and_then(|name| request.headers.get(name));
        let unit = named.map_or(address.as_bytes(), HeaderValue::as_bytes);
        rollout::in_canary(unit, self.name.as_bytes(), percent)
    }

    /// Carries out the trial's verdict, once, if several requests come at the same time.
    fn judge(&self, deployment: &Arc<Deployment>, trial: &Trial) {
        let verdict = trial.judge(&deployment.active, clock::uptime());
        if verdict == Verdict::Wait {
            return;
        }
        let mut history = self.history.lock();
        if !Arc::ptr_eq(deployment, &self.deployment.load_full()) {
            return;
        }
        match verdict {
            Verdict::Wait => {}
            Verdict::Promote => self.promoted(&mut history, deployment, trial, "promoted: it kept its bounds"),
            Verdict::RollBack(reason) => self.end_trial(&mut history, deployment, &reason.to_string()),
        }
    }
}

impl Roster for Generations {
    fn choose(&self, request: &RequestHead) -> Chosen {
        let deployment = self.deployment.load();
        let active =
            |shadow| Chosen { policy: Arc::clone(&deployment.active) as Arc<dyn Policy>, fallback: None, shadow };
        let Some(trial) = &deployment.trial else { return active(None) };
        self.judge(&deployment, trial);
        match trial.mode {
            Mode::Shadow => {
                trial.requested();
                active(Some(Arc::clone(trial) as Arc<dyn Shadow>))
            }
            Mode::Canary { percent } => {
                if !self.in_canary(trial, request, percent) {
                    return active(None);
                }
                trial.requested();
                let fallback = Some(Arc::clone(&deployment.active) as Arc<dyn Policy>);
                let shadow = Some(Arc::clone(trial) as Arc<dyn Shadow>);
                Chosen { policy: Arc::clone(&trial.plugin) as Arc<dyn Policy>, fallback, shadow }
            }
        }
    }

    fn preview(&self, request: &RequestHead) -> Chosen {
        let deployment = self.deployment.load();
        let active = Arc::clone(&deployment.active) as Arc<dyn Policy>;
        match &deployment.trial {
            Some(trial) if matches!(trial.mode, Mode::Canary { percent } if self.in_canary(trial, request, percent)) => {
                let policy = Arc::clone(&trial.plugin) as Arc<dyn Policy>;
                Chosen { policy, fallback: Some(active), shadow: None }
            }
            _ => Chosen { policy: active, fallback: None, shadow: None },
        }
    }

    fn origin_responded(&self, failed: bool) {
        if let Some(trial) = &self.deployment.load().trial {
            trial.origin_responded(failed);
        }
    }
}

impl std::fmt::Debug for Generations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generations").field("name", &self.name).finish_non_exhaustive()
    }
}

impl History {
    fn record_event(&mut self, what: String) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event { at: clock::now(), what });
    }

    /// Keeps the results of a trial that ends now, and writes its examples to the log.
    fn remember(&mut self, trial: &Trial, outcome: String) {
        let ended = EndedTrial { trial: info::trial(trial, state(trial.mode)), ended: clock::now(), outcome };
        let policy = trial.plugin.label();
        ended.trial.examples.iter().for_each(|example| examples::log(example, policy));
        self.last_trial = Some(ended);
    }
}

/// Whether it makes keys without reading the body.
fn is_blind(plugin: &Plugin) -> bool {
    *plugin.key_plan() != KeyPlan::Native && !consult::key_reads(plugin).any(Input::needs_body)
}

fn loaded(plugin: &Plugin, state: &str) -> Loaded {
    Loaded { generation: plugin.generation.short().to_owned(), state: state.to_owned(), unchanged: false }
}

const fn state(mode: Mode) -> &'static str {
    match mode {
        Mode::Shadow => "shadow",
        Mode::Canary { .. } => "canary",
    }
}

fn described(mode: Mode) -> String {
    match mode {
        Mode::Shadow => "a shadow".to_owned(),
        Mode::Canary { percent } => format!("a canary for {percent} % of the clients"),
    }
}

const fn bounds(rule: &config::Rollout) -> Bounds {
    Bounds {
        requests_min: rule.requests_min,
        faults_ppm_max: rule.faults_ppm_max,
        disagreements_ppm_max: rule.disagreements_ppm_max,
        latency_percent_max: rule.latency_percent_max,
        origin_failures_ppm_max: rule.origin_failures_ppm_max,
        hold: rule.hold,
    }
}
