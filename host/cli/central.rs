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
    app::{
        self,
        central::{Component, FORMAT, Head, NodeState, Outcome, Pointer, Reach, Record, Seen, Store, Trial},
    },
    clock,
    config::{self, Config, PolicySource},
};
use tokio::time::{Instant, sleep};

use super::output::print;

/// Between two looks at what the nodes say.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Subcommand)]
pub(crate) enum ConfigAction {
    /// Checks a configuration and puts it into etcd with the components of its policies; then waits for the nodes. Ends
    /// with 0 if all that it is for have taken it, 1 otherwise
    Push(PushFlags),
    /// Says anew which nodes take the generation that is being rolled out; the others go back
    Rollout(RolloutFlags),
    /// Has all nodes go back to what a former generation said
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
    /// How many seconds the nodes may take, beside a trial
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
    /// The component
    file: PathBuf,
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
    if let Some(head) = head.as_ref().filter(|head| !head.reach.is_all()) {
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
    let head = written(&store, &seen, text, components, &reach).await?;
    ended(&store, &head, &wait).await
}

async fn pushed_policy(flags: PolicyPushFlags) -> Result<ExitCode, String> {
    let PolicyPushFlags { name, file, store, reach, wait } = flags;
    let store = store.open()?;
    let seen = settled(&store).await?;
    let (record, _) = store.generation(&present(&seen)?.generation).await.map_err(words)?;
    if !record.components.contains_key(&name) {
        let known: Vec<&str> = record.components.keys().map(String::as_str).collect();
        return Err(format!(
            "there is no policy `{name}` in the central configuration; its policies are: {}",
            known.join(", ")
        ));
    }
    let files = BTreeMap::from([(name.clone(), file.clone())]);
    let generation = format!("generation {}", record.generation);
    let mut config = config::parse_central(&generation, &record.text, files).map_err(|error| rendered(&error))?;
    config.policies.retain(|policy, _| *policy == name);
    check(&config).await?;
    let Record { text, mut components, .. } = record;
    components.insert(name, put(&store, &file).await?);
    let head = written(&store, &seen, text, components, &reach).await?;
    ended(&store, &head, &wait).await
}

/// Writes the next generation.
async fn written(
    store: &Store,
    seen: &Seen,
    text: String,
    components: BTreeMap<String, Component>,
    flags: &ReachFlags,
) -> Result<Head, String> {
    let former = seen.head.as_ref().map_err(words)?.as_ref().map(|head| head.generation.clone());
    next(store, seen, text, components, former, (flags.reach(), flags.trial())).await
}

async fn next(
    store: &Store,
    seen: &Seen,
    text: String,
    components: BTreeMap<String, Component>,
    former: Option<Pointer>,
    (reach, trial): (Reach, Option<Trial>),
) -> Result<Head, String> {
    let last = seen.head.as_ref().map_err(words)?.as_ref().map_or(0, |head| head.generation.number);
    let record = Record { format: FORMAT, generation: last + 1, pushed: clock::now(), text, components };
    // Its digest is known when it is written.
    let generation = Pointer { number: last + 1, digest: String::new() };
    let head = Head { format: FORMAT, generation, former, reach, trial };
    let head = store.push(seen, &record, head).await.map_err(words)?;
    print(format!("generation {} is for {}", head.generation.number, shown(&head.reach)));
    if let Err(error) = store.collect().await {
        eprintln!("what no generation names any more isn't deleted now: {error}");
    }
    Ok(head)
}

async fn rollout(flags: RolloutFlags) -> Result<ExitCode, String> {
    let RolloutFlags { all, store, reach, wait } = flags;
    if !all && reach.regions.is_empty() && reach.share == 100 {
        return Err("say to which nodes: --all, --regions or --share".to_owned());
    }
    let store = store.open()?;
    let seen = store.seen().await.map_err(words)?;
    let head = Head { reach: reach.reach(), trial: reach.trial(), ..present(&seen)?.clone() };
    store.point(&seen, &head).await.map_err(words)?;
    print(format!("generation {} is for {}", head.generation.number, shown(&head.reach)));
    ended(&store, &head, &wait).await
}

async fn rollback(flags: RollbackFlags) -> Result<ExitCode, String> {
    let RollbackFlags { to, store, wait } = flags;
    let store = store.open()?;
    let seen = store.seen().await.map_err(words)?;
    let head = went_back(&store, &seen, to).await?;
    ended(&store, &head, &wait).await
}

/// Writes a generation with what a former one says, for all nodes.
async fn went_back(store: &Store, seen: &Seen, to: Option<u64>) -> Result<Head, String> {
    let head = present(seen)?;
    let pointer = match to {
        Some(number) => store.pointer(number).await.map_err(words)?,
        None => head.former.clone().ok_or("there is no generation before this one")?,
    };
    let (record, _) = store.generation(&pointer).await.map_err(words)?;
    let Record { text, components, .. } = record;
    let former = Some(pointer).filter(|pointer| pointer.number <= head.generation.number);
    let head = next(store, seen, text, components, former.clone(), (Reach::all(), None)).await?;
    let number = former.map_or(0, |former| former.number);
    print(format!("generation {} says what generation {number} did", head.generation.number));
    Ok(head)
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
            print(format!("generation {} is for {}", head.generation.number, shown(&head.reach)));
            if !head.reach.is_all() {
                print(format!("the others run by {former}"));
            }
        }
        Ok(None) => print("nothing was pushed yet"),
        Err(error) => print(format!("wrong: {error}")),
    }
    for state in &states {
        let wanted = match &seen.head {
            Ok(Some(head)) => head.of_node(&state.region, &state.node),
            _ => None,
        };
        print(line(state, wanted));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns what a node has made of the generation that is its own.
fn line(state: &NodeState, wanted: Option<&Pointer>) -> String {
    let number = |pointer: Option<&Pointer>| pointer.map_or("none".to_owned(), |pointer| pointer.number.to_string());
    // A head that it doesn't understand says of no generation that it is wanted.
    let is_lost = state.outcome == Outcome::Refused && state.wanted.is_none();
    let is_silent = wanted.is_some() && state.wanted.as_ref() != wanted && !is_lost;
    let outcome = if is_silent { "silent" } else { state.outcome.as_str() };
    let mut line = format!("{}/{}: {outcome}, runs by {}", state.region, state.node, number(state.holds.as_ref()));
    for (policy, digest) in &state.components {
        line.push_str(&format!(", {policy} {}", digest.get(..8).unwrap_or(digest)));
    }
    if let Some(reason) = &state.reason {
        line.push_str(": ");
        line.push_str(reason);
    }
    line
}

/// Waits for the nodes that a generation is for, says what they have made of it, and stops the rollout if one does worse.
async fn ended(store: &Store, head: &Head, wait: &WaitFlags) -> Result<ExitCode, String> {
    let trial = head.trial.map_or(0, |trial| trial.seconds);
    let end = Instant::now() + Duration::from_secs(u64::from(wait.wait) + u64::from(trial));
    let states = loop {
        let states = store.states().await.map_err(words)?;
        let reached = || states.iter().filter(|state| head.reach.includes(&state.region, &state.node));
        let is_done = |state: &NodeState| {
            state.is_of(&head.generation) && (head.trial.is_none() || state.outcome != Outcome::Taken)
        };
        let is_worse = reached().any(|state| is_worse(state, head));
        if is_worse || reached().all(is_done) || Instant::now() >= end {
            break states;
        }
        sleep(LOOK).await;
    };
    let reached: Vec<&NodeState> =
        states.iter().filter(|state| head.reach.includes(&state.region, &state.node)).collect();
    for state in &reached {
        print(line(state, Some(&head.generation)));
    }
    if reached.is_empty() {
        print("no node that it is for is live");
    }
    if reached.iter().any(|state| is_worse(state, head)) {
        let seen = store.seen().await.map_err(words)?;
        if present(&seen)?.generation != head.generation {
            return Err("a node does worse by it, but another push came first: see `holm config status`".to_owned());
        }
        print("a node does worse by it: the rollout is stopped");
        went_back(store, &seen, None).await?;
        return Ok(ExitCode::FAILURE);
    }
    let has = |state: &&NodeState| state.is_of(&head.generation) && is_success(state.outcome, head);
    Ok(if reached.iter().all(has) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_worse(state: &NodeState, head: &Head) -> bool {
    state.is_of(&head.generation) && state.outcome == Outcome::Worse
}

fn is_success(outcome: Outcome, head: &Head) -> bool {
    outcome == Outcome::Steady || (outcome == Outcome::Taken && head.trial.is_none())
}
