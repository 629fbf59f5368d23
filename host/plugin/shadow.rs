//! A generation on trial: what it is measured by, and, for a shadow, the thread on which it is asked what it would
//! have decided.

use std::{
    collections::VecDeque,
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
    Plugin, Sums,
    rollout::{self, Bounds, Counts, Mode, Verdict},
};
use crate::{
    clock::{self, Timestamp},
    message::RequestHead,
    policy::{
        Admission, Answer, Candidate, Decision, Facts, Fault, Hook, Input, Notes, Policy, PoolStats, Pools, Question,
        Shadow, consult,
    },
};

/// Decisions that may wait to be compared; further ones are skipped.
const QUEUE_MAX: usize = 256;
/// A request with a larger body isn't compared: what waits holds it.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Disagreements that are kept to be looked at.
const EXAMPLES_MAX: usize = 20;

/// A generation that has to prove itself beside the active one.
pub(super) struct Trial {
    pub(super) plugin: Arc<Plugin>,
    pub(super) mode: Mode,
    pub(super) since: Timestamp,
    /// The header field that tells clients apart, if it isn't their address.
    pub(super) unit: Option<HeaderName>,
    bounds: Bounds,
    /// What both had counted when the trial began.
    before: (Sums, Sums),
    /// It was kept from an earlier time, and is kept again if the trial ends.
    pub(super) was_kept: bool,
    /// Requests since: a recipe is never called, and has to prove itself all the same.
    requests: AtomicU64,
    waiting: AtomicUsize,
    compared: AtomicU64,
    disagreed: AtomicU64,
    examples: Mutex<VecDeque<Value>>,
    cases: Option<SyncSender<Case>>,
    counters: (Counter, Counter),
}

impl Trial {
    /// Starts a trial beside `active`.
    ///
    /// # Errors
    /// There is no thread for the shadow.
    pub(super) fn begin(
        plugin: Arc<Plugin>,
        active: &Plugin,
        mode: Mode,
        (bounds, unit): (Bounds, Option<HeaderName>),
        was_kept: bool,
        counters: (Counter, Counter),
    ) -> io::Result<Arc<Self>> {
        let (cases, inbox) = sync_channel(QUEUE_MAX);
        let trial = Arc::new(Self {
            before: (plugin.sums(), active.sums()),
            plugin,
            mode,
            since: clock::now(),
            was_kept,
            requests: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            unit,
            bounds,
            compared: AtomicU64::new(0),
            disagreed: AtomicU64::new(0),
            examples: Mutex::default(),
            cases: (mode == Mode::Shadow).then_some(cases),
            counters,
        });
        if trial.cases.is_some() {
            let own = Arc::downgrade(&trial);
            thread::Builder::new().name("holm-policy-shadow".to_owned()).spawn(move || work(&own, &inbox))?;
        }
        Ok(trial)
    }

    /// Has it proved itself, or failed?
    pub(super) fn judge(&self, active: &Plugin, now: Timestamp) -> Verdict {
        rollout::judge(self.mode, &self.bounds, &self.counts(), &since(active.sums(), self.before.1), self.since, now)
    }

    /// A request came that it decides for, or that it is compared on.
    pub(super) fn requested(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// What it has done since it began.
    pub(super) fn counts(&self) -> Counts {
        let asked = since(self.plugin.sums(), self.before.0);
        Counts {
            calls: asked.calls.max(self.requests.load(Ordering::Relaxed)),
            compared: self.compared.load(Ordering::Relaxed),
            disagreed: self.disagreed.load(Ordering::Relaxed),
            ..asked
        }
    }

    /// The latest disagreements.
    pub(super) fn examples(&self) -> Vec<Value> {
        self.examples.lock().iter().cloned().collect()
    }

    fn compare(&self, case: &Case) {
        // What it has no say about is decided natively.
        let said = match case.ask(&*self.plugin) {
            Some(Err(_)) => return,
            Some(Ok(said)) => Some(said),
            None => case.question().native(),
        };
        self.compared.fetch_add(1, Ordering::Relaxed);
        self.counters.0.inc();
        if case.decided.as_deref() == said.as_ref() {
            return;
        }
        self.disagreed.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples.lock();
        if examples.len() == EXAMPLES_MAX {
            examples.pop_front();
        }
        examples.push_back(json!({
            "hook": case.question().hook().name(),
            "request": format!("{} {}", case.head.method, case.head.url()),
            "active": shown(case.decided.as_deref()),
            "trial": shown(said.as_ref()),
        }));
    }
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trial").field("plugin", &self.plugin).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// A decision, or that the host makes it.
fn shown(decision: Option<&Decision>) -> Value {
    decision.map_or_else(|| json!("native"), Decision::to_json)
}

impl Shadow for Trial {
    fn witness(&self, question: &Question<'_>, facts: &Facts<'_>, decided: Option<&Result<Arc<Decision>, Fault>>) {
        if decided.is_none() && self.plugin.reads(question.hook()).is_none() {
            // Neither has a say.
            return;
        }
        // Where the active one faulted there is nothing to compare with.
        let decided = match decided {
            Some(Err(_)) => return,
            Some(Ok(decided)) => Some(Arc::clone(decided)),
            None => question.native().map(Arc::new),
        };
        let Some(cases) = &self.cases else { return };
        let unread = facts.body().is_none() && self.plugin.needs_body();
        let large = facts.body().is_some_and(|body| body.len() > BODY_BYTES_MAX);
        if unread || large || self.waiting.load(Ordering::Relaxed) >= QUEUE_MAX {
            self.counters.1.inc();
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        match cases.try_send(Case::new(question, facts, decided, &*self.plugin)) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.counters.1.inc();
            }
        }
    }
}

/// The shadow's thread: ends with its trial.
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
        compared: 0,
        disagreed: 0,
    }
}

/// A question that was decided, with all that the decision could be made from.
struct Case {
    asked: Asked,
    head: RequestHead,
    body: Option<Bytes>,
    answer: Option<(StatusCode, HeaderMap, Option<u64>, u64)>,
    pools: Seen,
    now: Timestamp,
    decided: Option<Arc<Decision>>,
}

/// A question that holds what it is about.
enum Asked {
    Key,
    Features,
    Admit(Admission),
    Route(Vec<Candidate>),
    Batch,
    Prefetch { hit: bool },
}

impl Case {
    fn new(question: &Question<'_>, facts: &Facts<'_>, decided: Option<Arc<Decision>>, asked: &dyn Policy) -> Self {
        let hooks = [question.hook(), Hook::Features].into_iter().filter_map(|hook| asked.reads(hook)).flatten();
        let asked_pools = hooks.filter_map(|input| match input {
            Input::PoolStats(pool) => Some((pool.clone(), facts.pool(pool)?)),
            _ => None,
        });
        Self {
            asked: match question {
                Question::Key => Asked::Key,
                Question::Features => Asked::Features,
                Question::Admit(suggested) => Asked::Admit((*suggested).clone()),
                Question::Route(candidates) => Asked::Route(candidates.to_vec()),
                Question::Batch => Asked::Batch,
                Question::Prefetch { hit } => Asked::Prefetch { hit: *hit },
            },
            head: facts.request().clone(),
            body: facts.body().cloned(),
            answer: facts.answer().map(|it| (it.status, it.headers.clone(), it.length, it.fetch_us)),
            pools: Seen(asked_pools.collect()),
            now: clock::now(),
            decided,
        }
    }

    /// What this policy would have said.
    fn ask(&self, policy: &dyn Policy) -> Option<Result<Decision, Fault>> {
        let notes = Notes::default();
        let mut facts = Facts::new(&self.head, self.body.as_ref(), &notes).beside(&self.pools).at(self.now);
        if let Some((status, headers, length, fetch_us)) = &self.answer {
            facts = facts.answered(Answer { status: *status, headers, length: *length, fetch_us: *fetch_us });
        }
        match self.question() {
            Question::Key => consult::key(policy, &facts),
            question => consult::ask(policy, &question, &facts).map(|said| said.map(|said| (*said).clone())),
        }
    }

    fn question(&self) -> Question<'_> {
        match &self.asked {
            Asked::Key => Question::Key,
            Asked::Features => Question::Features,
            Asked::Admit(suggested) => Question::Admit(suggested),
            Asked::Route(candidates) => Question::Route(candidates),
            Asked::Batch => Question::Batch,
            Asked::Prefetch { hit } => Question::Prefetch { hit: *hit },
        }
    }
}

/// How pools did when a question was asked.
#[derive(Debug)]
struct Seen(Vec<(String, PoolStats)>);

impl Pools for Seen {
    fn stats(&self, pool: &str) -> Option<PoolStats> {
        self.0.iter().find(|(name, _)| name == pool).map(|(_, stats)| *stats)
    }
}
