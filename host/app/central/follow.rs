//! How a node follows the central configuration: it reads the head, takes on the generation that is its own as it takes a
//! changed file, says what became of it, and waits until the head changes.
//!
//! Each look is a linearizable read of what holds now, so that it doesn't matter how many changes were missed. A watch only
//! wakes it, and that nothing was heard, or that a watch has ended, moves no revision on.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    declined::{Asked, Cause, Declined},
    judge::{Figures, Verdict, course, judge},
    record::{FORMAT, Head, NodeState, Outcome, Pointer, RecordError, Trial},
    saved::Saved,
    store::{Error, Store},
};
use crate::{
    admin::ConfigFailure,
    app::{components::on_spare_thread, reload::Reloader},
    clock::{self, Uptime},
    config::{Config, Generation},
    etcd::{self, LeaseId, Watch, Watched},
};

/// Between two renewals of the lease of the node's state, and two looks at a trial.
const TICK: Duration = Duration::from_secs(5);

/// How long the state of a node that says nothing more is there.
const LEASE: Duration = Duration::from_secs(20);

/// Ticks after which the head is read although the watch said nothing, the node's state is written again, and its figures
/// are noted.
const TICKS_PER_LOOK: u32 = 12;

/// Notes of the node's figures: the minutes before a generation.
const NOTES_MAX: usize = 6;

/// Between two attempts while etcd doesn't reply.
const RETRY: Duration = Duration::from_secs(1);

/// How long the node's state may take to be withdrawn when the node stops.
const LEAVE_TIME: Duration = Duration::from_millis(500);

/// Characters of a reason that are shown.
const REASON_MAX: usize = 4_000;

/// Returns the page of the node's metrics.
pub(in crate::app) type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// Has the node follow the central configuration until it is stopped, if its file says so.
pub(in crate::app) async fn follow(reloader: Arc<Reloader>, page: Page, stop: CancellationToken) {
    let serving = reloader.exchange().serving();
    let made = Follower::new(&serving.config, reloader, page);
    // Or else it would last as long as the node.
    drop(serving);
    let Some(mut follower) = made else { return };
    tokio::select! {
        () = stop.cancelled() => {}
        () = Box::pin(follower.run()) => {}
    }
    follower.leave().await;
}

/// A generation that the node watches itself by.
struct Watching {
    rule: Trial,
    of: Pointer,
    began: Uptime,
    /// What was counted in the minutes before.
    before: Figures,
    /// The figures at the beginning.
    at: Figures,
    /// What the node goes back to.
    former: Option<Arc<Generation>>,
}

struct Follower {
    reloader: Arc<Reloader>,
    store: Store,
    saved: Saved,
    region: String,
    node: String,
    page: Page,
    /// What the node runs by; `None` if by its own file alone.
    held: Option<Arc<Generation>>,
    /// What it was to run by and doesn't.
    declined: Option<Declined>,
    watching: Option<Watching>,
    /// The node's figures, once a minute.
    notes: VecDeque<Figures>,
    state: NodeState,
    lease: Option<LeaseId>,
    /// The state as it was written, so that it isn't written again.
    written: Option<NodeState>,
    /// The last look failed, which is logged once.
    is_cut_off: bool,
}

impl Follower {
    /// Returns `None` if the node follows nothing.
    fn new(config: &Config, reloader: Arc<Reloader>, page: Page) -> Option<Self> {
        let (central, global) = (config.central.as_ref()?, config.global.as_ref()?);
        let region = config.region.as_ref()?.name.clone();
        let store = match Store::new(&global.etcd, &global.namespace) {
            Ok(store) => store,
            Err(error) => {
                warn!(%error, "the central configuration can't be followed");
                return None;
            }
        };
        let saved = Saved::new(central.dir.clone());
        let held = config.generation.clone();
        let state = NodeState {
            format: FORMAT,
            region: region.clone(),
            node: config.node.clone(),
            head: 0,
            wanted: None,
            holds: None,
            outcome: Outcome::Taken,
            reason: None,
            components: BTreeMap::new(),
        };
        let node = config.node.clone();
        Some(Self {
            reloader,
            store,
            saved,
            region,
            node,
            page,
            held,
            declined: None,
            watching: None,
            notes: VecDeque::new(),
            state,
            lease: None,
            written: None,
            is_cut_off: false,
        })
    }

    /// Follows until another process has taken this one's place.
    async fn run(&mut self) {
        while !self.is_retired() {
            let looked = Box::pin(self.look()).await;
            let pause = match looked {
                Ok(revision) => Box::pin(self.wait(revision)).await,
                Err(error) => {
                    Box::pin(self.judge()).await;
                    self.complain(&error)
                }
            };
            sleep(pause).await;
        }
    }

    /// Another process has taken this one's place, and what it has on its disk.
    fn is_retired(&self) -> bool {
        self.reloader.exchange().listeners().is_retired()
    }

    /// Logs a failure, unless the look before failed as well. Returns how long to wait.
    fn complain(&mut self, error: &impl Display) -> Duration {
        if !std::mem::replace(&mut self.is_cut_off, true) {
            warn!(%error, "the central configuration can't be followed now; what holds goes on");
        }
        RETRY
    }

    /// Reads the head and does what it says. Returns the revision up to which that is known.
    async fn look(&mut self) -> Result<i64, Error> {
        let seen = self.store.seen().await?;
        match seen.head {
            Ok(Some(head)) => self.act(&head, seen.changed).await?,
            // Nothing was pushed, or the store was wiped: neither is a reason to give up what holds.
            Ok(None) => {
                self.declined = None;
                self.say(held(self.held.as_ref()), Outcome::Taken, None);
            }
            Err(error) => {
                self.declined = None;
                self.refuse_head(&error);
            }
        }
        self.state.head = seen.changed;
        self.publish().await?;
        self.is_cut_off = false;
        Ok(seen.revision)
    }

    fn refuse_head(&mut self, error: &RecordError) {
        if self.state.reason.as_deref() != Some(error.to_string().as_str()) {
            warn!(%error, "the central configuration isn't understood; nothing has changed");
        }
        self.say(None, Outcome::Refused, Some(error.to_string()));
    }

    async fn act(&mut self, head: &Head, changed: i64) -> Result<(), Error> {
        let generation = head.of_node(&self.region, &self.node).cloned();
        let trial = head.trial.filter(|_| generation.as_ref() == Some(&head.generation));
        let asked = Asked { generation, head: changed };
        let (own, now) = (self.reloader.exchange().generation(), clock::uptime());
        if let Some(declined) = self.declined.as_ref().filter(|declined| declined.still(&asked, own, now)) {
            // Said again: what was said of it may be gone, or be of an earlier head.
            let (outcome, reason) = (declined.outcome(), declined.reason().to_owned());
            self.say(asked.generation, outcome, Some(reason));
            return Ok(());
        }
        if asked.generation == held(self.held.as_ref()) {
            self.declined = None;
            self.go_on(asked.generation, trial);
            return Ok(());
        }
        self.watching = None;
        match self.fetch(asked.generation.as_ref()).await {
            Ok(taken) => self.take(asked, taken, trial).await,
            // Nobody could be told of it, and it is read again soon.
            Err(Error::Etcd(error)) if !matches!(error, etcd::Error::Refused { .. }) => return Err(error.into()),
            Err(error) => {
                let cause = if matches!(error, Error::Record(_)) { Cause::Lasting } else { Cause::Passing };
                self.refuse(asked, error.to_string(), cause);
            }
        }
        Ok(())
    }

    /// The node runs by what it is to run by; only its trial may be another.
    fn go_on(&mut self, wanted: Option<Pointer>, trial: Option<Trial>) {
        let said = (self.state.wanted == wanted).then_some(self.state.outcome);
        let (rule, outcome) = course(self.watching.as_ref().map(|watching| watching.rule), trial, said);
        self.watching = self.watching.take().zip(rule).map(|(watching, rule)| Watching { rule, ..watching });
        self.say(wanted, outcome, None);
    }

    /// Reads a generation, and the components that aren't on the disk.
    async fn fetch(&self, wanted: Option<&Pointer>) -> Result<Option<Arc<Generation>>, Error> {
        let Some(pointer) = wanted else { return Ok(None) };
        let (record, bytes) = self.store.generation(pointer).await?;
        if record.generation != pointer.number {
            return Err(Error::Digest(format!("generation {}", pointer.number)));
        }
        for component in record.components.values() {
            let (disk, wanted) = (self.saved.clone(), component.clone());
            if on_spare_thread(move || disk.has(&wanted)).await {
                continue;
            }
            let whole = self.store.component(component).await?;
            let (disk, wanted) = (self.saved.clone(), component.clone());
            let written = on_spare_thread(move || disk.put(&wanted, &whole)).await;
            written.map_err(|error| Error::Disk(error.to_string()))?;
        }
        Ok(Some(Arc::new(self.saved.generation(&record, &bytes))))
    }

    /// Has the node go on by a generation, or refuses it.
    async fn take(&mut self, asked: Asked, taken: Option<Arc<Generation>>, trial: Option<Trial>) {
        let before = match trial {
            Some(_) => Some(self.figures().await),
            None => None,
        };
        if self.is_retired() {
            return;
        }
        let outcome = Box::pin(self.reloader.take(taken.clone())).await;
        if let Err(failure) = outcome {
            let is_lasting = matches!(failure, ConfigFailure::NoFile | ConfigFailure::NeedsRestart(_));
            self.refuse(asked, failure.to_string(), if is_lasting { Cause::Lasting } else { Cause::Passing });
            return;
        }
        let former = std::mem::replace(&mut self.held, taken);
        self.keep(former.as_ref()).await;
        self.declined = None;
        let Asked { generation: wanted, .. } = asked;
        info!(generation = wanted.as_ref().map_or(0, |pointer| pointer.number), "the central configuration is taken");
        self.say(wanted.clone(), Outcome::Taken, None);
        if let (Some(rule), Some(of), Some(before)) = (trial, wanted, before) {
            let oldest = self.notes.front().cloned().unwrap_or_default();
            let at = self.figures().await;
            let before = before.since(&oldest);
            self.watching = Some(Watching { rule, of, began: clock::uptime(), before, at, former });
        }
    }

    /// Saves what the node has taken, for a start without etcd.
    async fn keep(&self, former: Option<&Arc<Generation>>) {
        let (disk, held, former) = (self.saved.clone(), self.held.clone(), former.cloned());
        let reloader = Arc::clone(&self.reloader);
        let kept = on_spare_thread(move || {
            // The directory is the other process's, which may be further.
            if reloader.exchange().listeners().is_retired() {
                return Ok(());
            }
            disk.keep(held.as_deref(), former.as_deref())
        });
        if let Err(error) = kept.await {
            warn!(%error, "the generation that was taken isn't saved; a node that starts without etcd runs by the former");
        }
    }

    fn refuse(&mut self, asked: Asked, reason: String, cause: Cause) {
        let number = asked.generation.as_ref().map_or(0, |pointer| pointer.number);
        let own = self.reloader.exchange().generation();
        let former = self.declined.take();
        let declined = Declined::refused(asked.clone(), (reason, cause), own, former.as_ref(), clock::uptime());
        let error = declined.reason().to_owned();
        if former.is_some_and(|former| former.says_as(&declined)) {
            debug!(generation = number, error, "the central configuration is refused once more");
        } else {
            warn!(generation = number, error, "the central configuration is refused; nothing has changed");
        }
        self.declined = Some(declined);
        self.say(asked.generation, Outcome::Refused, Some(error));
    }

    /// Notes what is to be said of the node.
    fn say(&mut self, wanted: Option<Pointer>, outcome: Outcome, reason: Option<String>) {
        let components = self.held.iter().flat_map(|generation| &generation.components);
        // A file is named by its digest.
        let digest = |file: &Path| file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let components = components.filter_map(|(policy, file)| Some((policy.clone(), digest(file)?))).collect();
        self.state.components = components;
        self.state.wanted = wanted;
        self.state.holds = held(self.held.as_ref());
        self.state.outcome = outcome;
        self.state.reason = reason.map(|reason| reason.chars().take(REASON_MAX).collect());
    }

    /// Writes the node's state, unless it is there.
    async fn publish(&mut self) -> Result<(), Error> {
        let is_there = self.lease.is_some() && self.written.as_ref() == Some(&self.state);
        // What the other process says would go with this one's lease.
        if is_there || self.is_retired() {
            return Ok(());
        }
        let lease = match self.lease {
            Some(lease) => lease,
            None => self.store.etcd().lease_grant(LEASE).await?,
        };
        // One that has expired is of no more use.
        self.lease = None;
        self.store.put_state(&self.state, lease).await?;
        self.lease = Some(lease);
        self.written = Some(self.state.clone());
        Ok(())
    }

    /// Waits until the head may have changed. Returns how long to wait before it is read again.
    async fn wait(&mut self, revision: i64) -> Duration {
        let mut watch: Watch = match self.store.watch(revision + 1).await {
            Ok(watch) => watch,
            Err(error) => return self.complain(&error),
        };
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 1_u32.. {
            // Nothing of the watch is lost by a tick that comes first.
            loop {
                tokio::select! {
                    watched = watch.next() => match watched {
                        Ok(Watched::Progress { .. }) => {}
                        Ok(Watched::Events { .. } | Watched::Compacted { .. }) => return Duration::ZERO,
                        Err(error) => return self.complain(&error),
                    },
                    _ = ticks.tick() => break,
                }
            }
            // It needs no etcd to go back.
            Box::pin(self.judge()).await;
            if let Err(error) = self.renew().await {
                return self.complain(&error);
            }
            if self.declined.as_ref().is_some_and(|declined| declined.is_due(clock::uptime())) {
                return Duration::ZERO;
            }
            if tick >= TICKS_PER_LOOK || self.is_retired() {
                break;
            }
        }
        // A process whose place this one took may have written over it, and taken it away as it ended.
        self.written = None;
        self.note().await;
        Duration::ZERO
    }

    /// Renews the lease of the node's state, or writes it again if it is gone.
    async fn renew(&mut self) -> Result<(), Error> {
        if let Some(lease) = self.lease
            && let Err(error) = self.store.etcd().lease_keep_alive(lease).await
        {
            if !matches!(error, crate::etcd::Error::Expired(_)) {
                return Err(error.into());
            }
            self.lease = None;
        }
        self.publish().await
    }

    async fn figures(&self) -> Figures {
        let page = Arc::clone(&self.page);
        on_spare_thread(move || Figures::read(&page())).await
    }

    async fn note(&mut self) {
        let figures = self.figures().await;
        self.notes.push_back(figures);
        if self.notes.len() > NOTES_MAX {
            self.notes.pop_front();
        }
    }

    /// Judges the generation on trial, if one is, and goes back if the node does worse by it.
    async fn judge(&mut self) {
        if self.watching.is_none() || self.is_retired() {
            return;
        }
        let figures = self.figures().await;
        let Some(watching) = &self.watching else { return };
        let since = figures.since(&watching.at);
        let verdict = judge(watching.rule, &watching.before, &since, watching.began, clock::uptime());
        if verdict == Verdict::Pending {
            return;
        }
        let Some(Watching { of, former, .. }) = self.watching.take() else { return };
        if let Verdict::Worse(reason) = verdict {
            self.go_back(of, former, reason).await;
        } else {
            self.say(Some(of), Outcome::Steady, None);
        }
    }

    async fn go_back(&mut self, from: Pointer, to: Option<Arc<Generation>>, reason: String) {
        warn!(generation = from.number, reason, "the node does worse by this generation and goes back");
        let outcome = Box::pin(self.reloader.take(to.clone())).await;
        let reason = match outcome {
            Ok(_) => {
                self.held = to;
                self.keep(None).await;
                reason
            }
            Err(failure) => format!("{reason}; it can't go back: {failure}"),
        };
        let asked = Asked { generation: Some(from.clone()), head: self.state.head };
        self.declined = Some(Declined::worse(asked, reason.clone()));
        self.say(Some(from), Outcome::Worse, Some(reason));
    }

    /// Withdraws the node's state.
    async fn leave(self) {
        if let Some(lease) = self.lease {
            // It goes by itself otherwise.
            let _ = timeout(LEAVE_TIME, self.store.etcd().lease_revoke(lease)).await;
        }
    }
}

/// Returns the generation that was taken.
fn held(taken: Option<&Arc<Generation>>) -> Option<Pointer> {
    let generation = taken?;
    Some(Pointer { number: generation.number, digest: generation.digest.clone() })
}
