//! A generation on trial: its counts, and the thread on which its decisions are compared with the active one's, so that
//! no request waits for that.

use std::{
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};

use super::{
    component::Plugin,
    examples::{self, Examples, Keyed},
    metrics::Sums,
    rollout::{self, Bounds, Counts, Evidence, Mode, Origin, Verdict},
};
use crate::{
    clock::{self, Timestamp, Uptime},
    message::RequestHead,
    policy::{
        Admission, Candidate, Decision, Facts, Fault, Hook, HookCall, Input, KeyPlan, Notes, Policy, PoolStats, Pools,
        ResponseFacts, Shadow, consult,
        partition::{Change, Partition, Sharing},
    },
    report::Example,
};

/// Decisions that may wait to be compared; further ones are skipped.
const QUEUE_MAX: usize = 256;
/// Bytes of a body. A request with a larger one isn't compared, because what waits holds it in memory.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Keys of either generation that are remembered at least, to see which requests share a response.
const KEYS_MAX: usize = 2_048;

/// A number for each hook.
type ByHook<T> = [T; Hook::ALL.len()];

/// The trial of a generation beside the active one.
pub(super) struct Trial {
    pub(super) plugin: Arc<Plugin>,
    pub(super) mode: Mode,
    /// When it began, for display.
    pub(super) since: Timestamp,
    began: Uptime,
    /// The header field that tells clients apart, if it isn't their address.
    pub(super) unit: Option<HeaderName>,
    bounds: Bounds,
    /// The active generation, with whose keys a canary's are compared; weak, so that it isn't kept alive by that.
    active: Weak<Plugin>,
    /// Whether either makes keys, so that there is something to compare.
    keys: bool,
    /// The counts of both when the trial began.
    before: (ByHook<Sums>, ByHook<Sums>),
    /// Whether it was kept from an earlier time, so that it is kept again if the trial ends.
    pub(super) was_kept: bool,
    /// Requests since then, by which a recipe is judged, which is never called.
    requests: AtomicU64,
    waiting: AtomicUsize,
    compared: ByHook<Compared>,
    partition: Mutex<Partition<Arc<Keyed>>>,
    examples: Examples,
    origin: Mutex<Origin>,
    cases: SyncSender<Case>,
    counters: (Counter, Counter),
}

/// The counts of comparing the decisions of one hook.
#[derive(Debug, Default)]
struct Compared {
    compared: AtomicU64,
    disagreed: AtomicU64,
    faulted: AtomicU64,
    skipped: AtomicU64,
}

impl Trial {
    /// Starts a trial beside `active`.
    ///
    /// # Errors
    /// There is no thread for the comparisons.
    pub(super) fn begin(
        plugin: Arc<Plugin>,
        active: &Arc<Plugin>,
        mode: Mode,
        (bounds, unit): (Bounds, Option<HeaderName>),
        was_kept: bool,
        counters: (Counter, Counter),
    ) -> io::Result<Arc<Self>> {
        let (cases, inbox) = sync_channel(QUEUE_MAX);
        let keys = [&plugin, active].into_iter().any(|plugin| plugin.key_plan != KeyPlan::Native);
        let trial = Arc::new(Self {
            before: (plugin.sums(), active.sums()),
            keys,
            active: Arc::downgrade(active),
            plugin,
            mode,
            since: clock::now(),
            began: clock::uptime(),
            was_kept,
            requests: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            unit,
            bounds,
            compared: Default::default(),
            partition: Mutex::new(Partition::new(KEYS_MAX)),
            examples: Examples::default(),
            origin: Mutex::default(),
            cases,
            counters,
        });
        let own = Arc::downgrade(&trial);
        thread::Builder::new().name("holm-policy-shadow".to_owned()).spawn(move || work(&own, &inbox))?;
        Ok(trial)
    }

    /// Returns the verdict on the trial as of `now`.
    pub(super) fn judge(&self, active: &Plugin, now: Uptime) -> Verdict {
        let (sums, before) = (active.sums(), &self.before.1);
        let evidence = Evidence {
            trial: self.counts(),
            active: Hook::ALL.map(|hook| since(sums[hook.index()], before[hook.index()])),
            requests: self.requests(),
            origin: *self.origin.lock(),
        };
        rollout::judge(&self.bounds, &evidence, self.began, now)
    }

    /// Counts a request that it decides for, or that it is compared on.
    pub(super) fn requested(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Records whether the origin failed for a request of the policy.
    pub(super) fn origin_responded(&self, failed: bool) {
        self.origin.lock().record(failed, self.bounds.origin_failures_ppm_max, clock::uptime());
    }

    /// Whether the origin fails too often for a promotion.
    pub(super) fn origin_fails(&self) -> bool {
        self.origin.lock().is_failing(self.bounds.origin_failures_ppm_max)
    }

    /// Returns the requests since it began.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the counts of each hook since it began, by [`Hook::index`].
    pub(super) fn counts(&self) -> ByHook<Counts> {
        let sums = self.plugin.sums();
        Hook::ALL.map(|hook| {
            let asked = since(sums[hook.index()], self.before.0[hook.index()]);
            let compared = &self.compared[hook.index()];
            let [count, disagreed, faulted, skipped] =
                [&compared.compared, &compared.disagreed, &compared.faulted, &compared.skipped]
                    .map(|counter| counter.load(Ordering::Relaxed));
            let tried = match self.mode {
                Mode::Shadow => count + faulted,
                Mode::Canary { .. } if hook == Hook::Key && self.is_recipe() => self.requests(),
                Mode::Canary { .. } => asked.calls,
            };
            // What a canary does is seen without a comparison.
            let skipped = if self.mode == Mode::Shadow { skipped } else { 0 };
            Counts { tried, compared: count, disagreed, skipped, ..asked }
        })
    }

    /// Returns an example of each kind of difference so far.
    pub(super) fn examples(&self) -> Vec<Example> {
        self.examples.list()
    }

    fn is_recipe(&self) -> bool {
        matches!(self.plugin.key_plan, KeyPlan::Recipe(_))
    }

    fn compare(&self, case: &Case) {
        let hook = case.call().hook();
        if hook == Hook::Key {
            return self.compare_keys(case);
        }
        // A hook that it doesn't have is decided natively.
        let said = match case.ask(&*self.plugin) {
            Some(Err(fault)) => return self.faulted(case, &fault),
            Some(Ok(said)) => Some(said),
            None => case.call().native(),
        };
        let (Some(decided), Some(said)) = (case.decided.as_deref(), said) else { return };
        let differs = *decided != said;
        if differs {
            self.examples.differs(hook, &case.title(), decided, &said);
        }
        self.count(hook, differs);
    }

    /// Compares keys by their effect: which requests share a response.
    fn compare_keys(&self, case: &Case) {
        let trial = match case.ask(&*self.plugin).transpose() {
            Err(fault) => return self.faulted(case, &fault),
            Ok(trial) => trial,
        };
        let active = match self.mode {
            Mode::Shadow => case.decided.as_deref().cloned(),
            Mode::Canary { .. } => {
                let Some(active) = self.active.upgrade() else { return };
                match case.ask(&*active).transpose() {
                    // There is nothing to compare with.
                    Err(_) => return,
                    Ok(active) => active,
                }
            }
        };
        let keyed =
            Arc::new(Keyed { request: case.title(), active: shown(active.as_ref()), trial: shown(trial.as_ref()) });
        let (old, new) = (case.sharing(active.as_ref()), case.sharing(trial.as_ref()));
        let findings = self.partition.lock().compare(old, new, &keyed);
        for finding in &findings {
            self.examples.shares(finding.change, &keyed, finding.with.as_deref());
        }
        // What a canary divides more finely costs its own clients hits. What it merges may be one client's response to
        // another's request, and can't be taken back.
        let counts = |change| self.mode == Mode::Shadow || change == Change::NewlyShared;
        self.count(Hook::Key, findings.iter().any(|finding| counts(finding.change)));
    }

    /// Counts a comparison. Examples are taken before, so that a reader of the count finds them.
    fn count(&self, hook: Hook, disagreed: bool) {
        let counts = &self.compared[hook.index()];
        if disagreed {
            counts.disagreed.fetch_add(1, Ordering::Relaxed);
        }
        counts.compared.fetch_add(1, Ordering::Relaxed);
        self.counters.0.inc();
    }

    fn faulted(&self, case: &Case, fault: &Fault) {
        let hook = case.call().hook();
        self.examples.faulted(hook, &case.title(), fault.kind(), json!(fault.to_string()));
        self.compared[hook.index()].faulted.fetch_add(1, Ordering::Relaxed);
    }

    fn skip(&self, hook: Hook) {
        self.compared[hook.index()].skipped.fetch_add(1, Ordering::Relaxed);
        self.counters.1.inc();
    }
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trial").field("plugin", &self.plugin).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Returns a key for display, or the text for the native one.
fn shown(decision: Option<&Decision>) -> Value {
    decision.map_or_else(|| json!("the native key"), |decision| examples::bounded(decision.to_readable()))
}

impl Shadow for Trial {
    fn compares(&self, hook: Hook) -> bool {
        self.mode == Mode::Shadow || hook == Hook::Key && self.keys
    }

    fn witness(&self, call: &HookCall<'_>, facts: &Facts<'_>, decided: Option<&Result<Arc<Decision>, Fault>>) {
        let hook = call.hook();
        let has_say =
            if hook == Hook::Key { self.keys } else { decided.is_some() || self.plugin.reads(hook).is_some() };
        if !has_say || !self.compares(hook) {
            return;
        }
        // Where the active one faulted there is nothing to compare with.
        let decided = match decided {
            Some(Err(_)) => return,
            Some(Ok(decided)) => Some(Arc::clone(decided)),
            None => call.native().map(Arc::new),
        };
        let unread = facts.body().is_none() && self.plugin.needs_body();
        let large = facts.body().is_some_and(|body| body.len() > BODY_BYTES_MAX);
        if unread || large || self.waiting.load(Ordering::Relaxed) >= QUEUE_MAX {
            return self.skip(hook);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // A canary's key is compared with the active one's of the same request.
        let active = if self.mode == Mode::Shadow { None } else { self.active.upgrade() };
        let plugins = [Some(&*self.plugin), active.as_deref()];
        match self.cases.try_send(Case::new(call, facts, decided, plugins)) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.skip(hook);
            }
        }
    }
}

/// Runs the comparisons on a thread of their own until the trial ends.
fn work(trial: &Weak<Trial>, inbox: &Receiver<Case>) {
    while let Ok(case) = inbox.recv() {
        let Some(trial) = trial.upgrade() else { return };
        trial.waiting.fetch_sub(1, Ordering::Relaxed);
        trial.compare(&case);
    }
}

fn since(now: Sums, before: Sums) -> Counts {
    Counts {
        calls: now.asked().saturating_sub(before.asked()),
        faults: now.faults.saturating_sub(before.faults),
        call_ns_sum: now.timed_ns.saturating_sub(before.timed_ns),
        timed: now.timed.saturating_sub(before.timed),
        ..Counts::default()
    }
}

/// A call that was decided, with everything that the decision may depend on.
struct Case {
    call: OwnedHookCall,
    head: RequestHead,
    body: Option<Bytes>,
    content_bytes_max: u64,
    response: Option<(StatusCode, HeaderMap, Option<u64>, u64)>,
    pools: Seen,
    now: Timestamp,
    decided: Option<Arc<Decision>>,
}

/// A [`HookCall`] that owns its values.
enum OwnedHookCall {
    Key,
    Features,
    Admit(Admission),
    Route(Vec<Candidate>),
    Batch,
    Prefetch { hit: bool },
}

impl Case {
    fn new(
        call: &HookCall<'_>,
        facts: &Facts<'_>,
        decided: Option<Arc<Decision>>,
        plugins: [Option<&Plugin>; 2],
    ) -> Self {
        let mut pools = Vec::new();
        for plugin in plugins.into_iter().flatten() {
            let read = [call.hook(), Hook::Features].into_iter().filter_map(|hook| plugin.reads(hook)).flatten();
            for input in read {
                if let Input::PoolStats(pool) = input
                    && let Some(stats) = facts.pool(pool)
                {
                    pools.push((pool.clone(), stats));
                }
            }
        }
        Self {
            call: match call {
                HookCall::Key => OwnedHookCall::Key,
                HookCall::Features => OwnedHookCall::Features,
                HookCall::Admit(suggested) => OwnedHookCall::Admit((*suggested).clone()),
                HookCall::Route(candidates) => OwnedHookCall::Route(candidates.to_vec()),
                HookCall::Batch => OwnedHookCall::Batch,
                HookCall::Prefetch { hit } => OwnedHookCall::Prefetch { hit: *hit },
            },
            head: facts.request().clone(),
            body: facts.body().cloned(),
            content_bytes_max: facts.content_bytes_max(),
            response: facts.response().map(|it| (it.status, it.headers.clone(), it.length, it.fetch_us)),
            pools: Seen(pools),
            now: clock::now(),
            decided,
        }
    }

    /// Returns the decision of this policy for the same call.
    fn ask(&self, policy: &dyn Policy) -> Option<Result<Decision, Fault>> {
        let notes = Notes::default();
        let facts = Facts::new(&self.head, self.body.as_ref(), &notes).decoded_within(self.content_bytes_max);
        let mut facts = facts.beside(&self.pools).at(self.now);
        if let Some((status, headers, length, fetch_us)) = &self.response {
            facts =
                facts.with_response(ResponseFacts { status: *status, headers, length: *length, fetch_us: *fetch_us });
        }
        match self.call() {
            HookCall::Key => consult::key(policy, &facts),
            call => consult::ask(policy, &call, &facts).map(|said| said.map(|said| (*said).clone())),
        }
    }

    /// Returns which requests share its response by this key; by the native one if there is none.
    fn sharing(&self, key: Option<&Decision>) -> Sharing {
        match key {
            Some(Decision::Key(verdict)) => Sharing::of(&self.head, verdict),
            _ => Sharing::native(&Facts::new(&self.head, self.body.as_ref(), &Notes::default())),
        }
    }

    /// Returns the request in a line.
    fn title(&self) -> String {
        examples::title(self.head.method.as_str(), &self.head.url())
    }

    fn call(&self) -> HookCall<'_> {
        match &self.call {
            OwnedHookCall::Key => HookCall::Key,
            OwnedHookCall::Features => HookCall::Features,
            OwnedHookCall::Admit(suggested) => HookCall::Admit(suggested),
            OwnedHookCall::Route(candidates) => HookCall::Route(candidates),
            OwnedHookCall::Batch => HookCall::Batch,
            OwnedHookCall::Prefetch { hit } => HookCall::Prefetch { hit: *hit },
        }
    }
}

/// The state of pools at the time of a call.
#[derive(Debug)]
struct Seen(Vec<(String, PoolStats)>);

impl Pools for Seen {
    fn stats(&self, pool: &str) -> Option<PoolStats> {
        self.0.iter().find(|(name, _)| name == pool).map(|(_, stats)| *stats)
    }
}
