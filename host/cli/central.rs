//! `holm config …` and `holm policy push`: the configuration of many nodes, in etcd.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use holm::{
    admin::Trust,
    app::{
        self,
        central::{Component, FORMAT, Head, NodeState, Outcome, Pointer, Reach, Record, Seen, Store, Trial, Written},
    },
    clock,
    config::{self, Config, PolicySource},
    registry::{self, Reference},
};
use tokio::time::{Instant, sleep};

use super::output::print;

/// Between two looks at what the nodes say.
const LOOK: Duration = Duration::from_millis(200);

/// How a command ends when no node that it is for is live.
const NOBODY: u8 = 3;

#[derive(Subcommand)]
pub(crate) enum ConfigAction {
    /// Checks a configuration and puts it into etcd with the components of its policies; then waits for the nodes. Ends
    /// with 0 if all that it is for have taken it, 3 if none of them is live, 1 otherwise
    Push(PushFlags),
    /// Says anew which nodes take the generation that is being rolled out; the others go back. Ends as a push does
    Rollout(RolloutFlags),
    /// Has all nodes go back to what a former generation said, or to their own files if there was none. Ends as a push
    /// does
    Rollback(RollbackFlags),
    /// Shows which generation holds, and what the nodes have made of it
    Status {
        #[command(flatten)]
        store: StoreFlags,
    },
    /// Prints the text of a generation
    Show {
        /// Its number [default: the last one]
        #[arg(long)]
        generation: Option<u64>,
        #[command(flatten)]
        store: StoreFlags,
    },
}

/// Where etcd is.
#[derive(Args)]
pub(crate) struct StoreFlags {
    /// The configuration file of a node, whose `[global]` says where etcd is
    #[arg(long, value_name = "FILE", required_unless_present = "etcd")]
    config: Option<PathBuf>,
    /// The URL of a member of etcd, which needs neither a user nor certificates; several are of one cluster
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    etcd: Vec<String>,
    /// What each of its keys begins with
    #[arg(long, default_value = "holm", conflicts_with = "config")]
    namespace: String,
}

/// Which nodes, and how they judge it.
#[derive(Args)]
struct ReachFlags {
    /// Only nodes of these regions
    #[arg(long, value_name = "REGION,…", value_delimiter = ',')]
    regions: Vec<String>,
    /// Only this share of the nodes, 1% to 100%; they are picked by their names
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "100")]
    share: u8,
    /// Nodes watch themselves for so many seconds, and go back if they do worse; then the rollout is stopped
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(10..=86_400))]
    trial: Option<u32>,
    /// To how many percent of what they were before failures and latency may rise
    #[arg(long, value_name = "PERCENT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(101..=10_000))]
    worse: u32,
}

/// How long the nodes are waited for.
#[derive(Args)]
struct WaitFlags {
    /// How many seconds the nodes may take, beside a trial, and until one is live; with 0 it only looks
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u32,
}

#[derive(Args)]
pub(crate) struct PushFlags {
    /// The TOML file
    file: PathBuf,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    reach: ReachFlags,
    #[command(flatten)]
    wait: WaitFlags,
}

#[derive(Args)]
pub(crate) struct RolloutFlags {
    /// All nodes
    #[arg(long, conflicts_with_all = ["regions", "share"])]
    all: bool,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    reach: ReachFlags,
    #[command(flatten)]
    wait: WaitFlags,
}

#[derive(Args)]
pub(crate) struct RollbackFlags {
    /// The number of that generation [default: the one before]
    #[arg(long)]
    to: Option<u64>,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    wait: WaitFlags,
}

#[derive(Args)]
pub(crate) struct PolicyPushFlags {
    /// The policy's name in the central configuration
    name: String,
    /// The component: a file, or what an OCI registry has, by its manifest's digest:
    /// `oci://HOST[:PORT]/REPOSITORY@sha256:DIGEST`
    #[arg(value_name = "FILE|oci://…")]
    file: PathBuf,
    /// PEM file of the authorities of the registry's certificate [default: the public roots]
    #[arg(long, value_name = "FILE")]
    registry_ca: Option<PathBuf>,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    reach: ReachFlags,
    #[command(flatten)]
    wait: WaitFlags,
}

/// Reads a share.
fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok();
    number.filter(|number| (1..=100).contains(number)).ok_or_else(|| "allowed are 1% to 100%".to_owned())
}

/// Carries out the request.
///
/// # Errors
/// What a person reads when it went wrong.
pub(crate) async fn run(action: ConfigAction) -> Result<ExitCode, String> {
    let done = match action {
        ConfigAction::Push(flags) => push(flags).await,
        ConfigAction::Rollout(flags) => rollout(flags).await,
        ConfigAction::Rollback(flags) => rollback(flags).await,
        ConfigAction::Status { store } => status(&store).await,
        ConfigAction::Show { generation, store } => show(generation, &store).await,
    };
    done.map_err(|error| format!("holm config: {error}"))
}

/// Carries out `holm policy push`.
///
/// # Errors
/// What a person reads when it went wrong.
pub(crate) async fn push_policy(flags: PolicyPushFlags) -> Result<ExitCode, String> {
    pushed_policy(flags).await.map_err(|error| format!("holm policy push: {error}"))
}

fn words(error: impl Display) -> String {
    error.to_string()
}

fn rendered(error: &config::Error) -> String {
    error.render(io::stderr().is_terminal())
}

impl StoreFlags {
    fn open(&self) -> Result<Store, String> {
        let (etcd, namespace) = match &self.config {
            Some(file) => {
                let config = config::load(file).map_err(|error| rendered(&error))?;
                let global = config.global.ok_or_else(|| format!("{} has no `[global]`", file.display()))?;
                (global.etcd, global.namespace)
            }
            None => (config::Etcd::new(self.etcd.clone()), self.namespace.clone()),
        };
        Store::new(&etcd, &namespace).map_err(words)
    }
}

impl ReachFlags {
    fn reach(&self) -> Reach {
        Reach { regions: self.regions.clone(), percent: self.share }
    }

    fn trial(&self) -> Option<Trial> {
        self.trial.map(|seconds| Trial { seconds, percent: self.worse })
    }
}

/// Returns the head as it was read, if no rollout is under way.
async fn settled(store: &Store) -> Result<Seen, String> {
    let seen = store.seen().await.map_err(words)?;
    let head = seen.head.as_ref().map_err(words)?;
    if let Some(head) = head.as_ref().filter(|head| !head.is_settled()) {
        return Err(format!(
            "generation {} is being rolled out to {}; finish that with `holm config rollout --all`, or end it with \
             `holm config rollback`",
            head.generation.number,
            shown(&head.reach)
        ));
    }
    Ok(seen)
}

fn present(seen: &Seen) -> Result<&Head, String> {
    let head = seen.head.as_ref().map_err(words)?;
    head.as_ref().ok_or_else(|| "nothing was pushed yet".to_owned())
}

fn shown(reach: &Reach) -> String {
    if reach.is_nobody() {
        return "nobody".to_owned();
    }
    let regions = if reach.regions.is_empty() { "all regions".to_owned() } else { reach.regions.join(", ") };
    format!("{} % of the nodes of {regions}", reach.percent)
}

/// Refuses policies that a node would refuse.
async fn check(config: &Config) -> Result<(), String> {
    let checked = app::check_policies(config).await.map_err(words)?;
    let wrong: Vec<String> = checked.into_iter().filter_map(|policy| policy.outcome.err()).map(words).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

async fn put(store: &Store, file: &Path) -> Result<Component, String> {
    let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    store.put_component(&bytes).await.map_err(words)
}

/// Reads the component that a registry has; `None` if a file is meant.
async fn pulled(given: &Path, ca: Option<PathBuf>) -> Result<Option<Vec<u8>>, String> {
    let Some(text) = given.to_str().filter(|text| text.starts_with(registry::SCHEME)) else { return Ok(None) };
    let reference: Reference = text.parse().map_err(words)?;
    registry::pull(&reference, &Trust { ca, client: None }).await.map(Some).map_err(words)
}

async fn push(flags: PushFlags) -> Result<ExitCode, String> {
    let PushFlags { file, store, reach, wait } = flags;
    let (config, text) = config::load_central(&file).map_err(|error| rendered(&error))?;
    check(&config).await?;
    let store = store.open()?;
    // Before what takes long, so that a push that comes meanwhile isn't overwritten.
    let seen = settled(&store).await?;
    let mut components = BTreeMap::new();
    for (name, policy) in &config.policies {
        if let PolicySource::File(file) = &policy.source {
            components.insert(name.clone(), put(&store, file).await?);
        }
    }
    let written = written(&store, &seen, text, components, &reach).await?;
    ended(&store, &written, &wait).await
}

async fn pushed_policy(flags: PolicyPushFlags) -> Result<ExitCode, String> {
    let PolicyPushFlags { name, file, registry_ca, store, reach, wait } = flags;
    let store = store.open()?;
    let seen = settled(&store).await?;
    let head = present(&seen)?;
    let Some(base) = head.base() else {
        let number = head.generation.number;
        return Err(format!("generation {number} is for nobody: push a configuration first (`holm config push`)"));
    };
    let (record, _) = store.generation(base).await.map_err(words)?;
    if !record.components.contains_key(&name) {
        let known: Vec<&str> = record.components.keys().map(String::as_str).collect();
        return Err(format!(
            "there is no policy `{name}` in the central configuration; its policies are: {}",
            known.join(", ")
        ));
    }
    let pulled = pulled(&file, registry_ca).await?;
    let files = BTreeMap::from([(name.clone(), file.clone())]);
    let generation = format!("generation {}", record.generation);
    let mut config = config::parse_central(&generation, &record.text, files).map_err(|error| rendered(&error))?;
    config.policies.retain(|policy, _| *policy == name);
    if let (Some(bytes), Some(policy)) = (&pulled, config.policies.get_mut(&name)) {
        // For the rest of this process, which ends with the push.
        policy.source = PolicySource::Embedded(Vec::leak(bytes.clone()));
    }
    check(&config).await?;
    let Record { text, mut components, .. } = record;
    let component = match &pulled {
        Some(bytes) => store.put_component(bytes).await.map_err(words)?,
        None => put(&store, &file).await?,
    };
    components.insert(name, component);
    let written = written(&store, &seen, text, components, &reach).await?;
    ended(&store, &written, &wait).await
}

/// Writes the next generation.
async fn written(
    store: &Store,
    seen: &Seen,
    text: String,
    components: BTreeMap<String, Component>,
    flags: &ReachFlags,
) -> Result<Written, String> {
    let former = seen.head.as_ref().map_err(words)?.as_ref().and_then(|head| head.base().cloned());
    next(store, seen, text, components, former, (flags.reach(), flags.trial())).await
}

async fn next(
    store: &Store,
    seen: &Seen,
    text: String,
    components: BTreeMap<String, Component>,
    former: Option<Pointer>,
    (reach, trial): (Reach, Option<Trial>),
) -> Result<Written, String> {
    let last = seen.head.as_ref().map_err(words)?.as_ref().map_or(0, |head| head.generation.number);
    let record = Record { format: FORMAT, generation: last + 1, pushed: clock::now(), text, components };
    // Its digest is known when it is written.
    let generation = Pointer { number: last + 1, digest: String::new() };
    let head = Head { format: FORMAT, generation, former, reach, trial };
    let written = store.push(seen, &record, head).await.map_err(words)?;
    print(summary(&written.head));
    if let Err(error) = store.collect().await {
        eprintln!("what no generation names any more isn't deleted now: {error}");
    }
    Ok(written)
}

fn summary(head: &Head) -> String {
    format!("generation {} is for {}", head.generation.number, shown(&head.reach))
}

async fn rollout(flags: RolloutFlags) -> Result<ExitCode, String> {
    let RolloutFlags { all, store, reach, wait } = flags;
    if !all && reach.regions.is_empty() && reach.share == 100 {
        return Err("say to which nodes: --all, --regions or --share".to_owned());
    }
    let store = store.open()?;
    let seen = store.seen().await.map_err(words)?;
    let head = Head { reach: reach.reach(), trial: reach.trial(), ..present(&seen)?.clone() };
    let written = store.point(&seen, head).await.map_err(words)?;
    print(summary(&written.head));
    ended(&store, &written, &wait).await
}

async fn rollback(flags: RollbackFlags) -> Result<ExitCode, String> {
    let RollbackFlags { to, store, wait } = flags;
    let store = store.open()?;
    let seen = store.seen().await.map_err(words)?;
    let written = went_back(&store, &seen, to).await?;
    ended(&store, &written, &wait).await
}

/// Writes a generation with what a former one says, for all nodes. If there was none, the present one is for nobody.
async fn went_back(store: &Store, seen: &Seen, to: Option<u64>) -> Result<Written, String> {
    let head = present(seen)?;
    let pointer = match to {
        Some(number) => Some(store.pointer(number).await.map_err(words)?),
        None => head.former.clone(),
    };
    let Some(pointer) = pointer else { return withdrawn(store, seen, head).await };
    let (record, _) = store.generation(&pointer).await.map_err(words)?;
    let Record { text, components, .. } = record;
    let number = pointer.number;
    let former = Some(pointer).filter(|pointer| pointer.number <= head.generation.number);
    let written = next(store, seen, text, components, former, (Reach::all(), None)).await?;
    print(format!("generation {} says what generation {number} did", written.head.generation.number));
    Ok(written)
}

/// Has a generation before which there was none be for nobody.
async fn withdrawn(store: &Store, seen: &Seen, head: &Head) -> Result<Written, String> {
    let number = head.generation.number;
    if head.reach.is_nobody() {
        return Err(format!("generation {number} is for nobody, and there is none before it"));
    }
    let head = Head { reach: Reach::nobody(), trial: None, ..head.clone() };
    let written = store.point(seen, head).await.map_err(words)?;
    print(format!("{}: there is none before it, and nodes run by their own files", summary(&written.head)));
    Ok(written)
}

async fn show(generation: Option<u64>, store: &StoreFlags) -> Result<ExitCode, String> {
    let store = store.open()?;
    let pointer = match generation {
        Some(number) => store.pointer(number).await.map_err(words)?,
        None => present(&store.seen().await.map_err(words)?)?.generation.clone(),
    };
    let (record, _) = store.generation(&pointer).await.map_err(words)?;
    print(record.text);
    Ok(ExitCode::SUCCESS)
}

async fn status(store: &StoreFlags) -> Result<ExitCode, String> {
    let store = store.open()?;
    let seen = store.seen().await.map_err(words)?;
    let states = store.states().await.map_err(words)?;
    match &seen.head {
        Ok(Some(head)) => {
            let former =
                head.former.as_ref().map_or("their own files".to_owned(), |it| format!("generation {}", it.number));
            print(summary(head));
            if !head.reach.is_all() {
                let others = if head.reach.is_nobody() { "all nodes" } else { "the others" };
                print(format!("{others} run by {former}"));
            }
        }
        Ok(None) => print("nothing was pushed yet"),
        Err(error) => print(format!("wrong: {error}")),
    }
    for state in &states {
        print(line(state, seen.changed));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns what a node has made of the head that was written at `changed`.
fn line(state: &NodeState, changed: i64) -> String {
    let holds = state.holds.as_ref().map_or("its own file".to_owned(), |pointer| pointer.number.to_string());
    let outcome = if state.head < changed { "silent" } else { state.outcome.as_str() };
    let mut line = format!("{}/{}: {outcome}, runs by {holds}", state.region, state.node);
    for (policy, digest) in &state.components {
        line.push_str(&format!(", {policy} {}", digest.get(..8).unwrap_or(digest)));
    }
    if let Some(reason) = &state.reason {
        line.push_str(": ");
        line.push_str(reason);
    }
    line
}

/// Waits for the nodes that a head is for, says what they have made of it, and stops the rollout if one does worse.
async fn ended(store: &Store, written: &Written, wait: &WaitFlags) -> Result<ExitCode, String> {
    let (head, begun) = (&written.head, Instant::now());
    let trial = head.trial.map_or(0, |trial| trial.seconds);
    let states = loop {
        let mut states = store.states().await.map_err(words)?;
        states.retain(|state| concerns(head, state));
        let is_worse = states.iter().any(|state| is_worse(state, written));
        let is_done = !states.is_empty() && states.iter().all(|state| is_done(state, written));
        // A trial takes no time where nobody is.
        let seconds = u64::from(wait.wait) + if states.is_empty() { 0 } else { u64::from(trial) };
        if is_worse || is_done || begun.elapsed() >= Duration::from_secs(seconds) {
            break states;
        }
        if store.seen().await.map_err(words)?.changed != written.changed {
            // What the nodes say from now on, they say of that.
            return Err("another command came first: see `holm config status`".to_owned());
        }
        sleep(LOOK).await;
    };
    for state in &states {
        print(line(state, written.changed));
    }
    if states.is_empty() {
        print("nobody has taken it: no node that it is for is live");
        return Ok(ExitCode::from(NOBODY));
    }
    if states.iter().any(|state| is_worse(state, written)) {
        let seen = store.seen().await.map_err(words)?;
        if seen.changed != written.changed {
            return Err("a node does worse by it, but another push came first: see `holm config status`".to_owned());
        }
        print("a node does worse by it: the rollout is stopped");
        went_back(store, &seen, None).await?;
        return Ok(ExitCode::FAILURE);
    }
    if states.iter().any(|state| is_done(state, written) && state.outcome == Outcome::Unwatched) {
        print("a node had taken it before and didn't watch itself: a trial of it there says nothing");
    }
    let has = |state: &NodeState| is_done(state, written) && is_success(state.outcome, head);
    Ok(if states.iter().all(has) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a node is waited for: one that the head's generation is for, and each if it is for nobody any more.
fn concerns(head: &Head, state: &NodeState) -> bool {
    head.reach.is_nobody() || head.reach.includes(&state.region, &state.node)
}

/// Whether a node has said what there is to say of a head.
fn is_done(state: &NodeState, written: &Written) -> bool {
    let head = &written.head;
    let is_of = state.wanted.as_ref() == head.of_node(&state.region, &state.node);
    state.head >= written.changed && is_of && (head.trial.is_none() || state.outcome != Outcome::Taken)
}

fn is_worse(state: &NodeState, written: &Written) -> bool {
    state.head >= written.changed && state.is_of(&written.head.generation) && state.outcome == Outcome::Worse
}

fn is_success(outcome: Outcome, head: &Head) -> bool {
    outcome == Outcome::Steady || (outcome == Outcome::Taken && head.trial.is_none())
}
