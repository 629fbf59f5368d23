//! `holm policy …`

use std::{fmt::Display, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use holm::{
    config::ByteSize,
    workbench::{self, Against, Error, Golden, Introduce, Language, New, Remote, Replay, Subject},
};

use super::{
    admin::AdminFlags,
    central::{PolicyPushFlags, push_policy},
    output::print,
};

#[derive(Subcommand)]
pub(crate) enum PolicyAction {
    /// Makes the folder of a new policy: one that works, with tests
    New(NewFlags),
    /// Builds a policy's folder into a component, and checks it
    Build(BuildFlags),
    /// Loads a component as a node does, and says what it is
    Check(CheckFlags),
    /// Calls a policy for recorded requests, compares with what is expected, and measures
    Test(TestFlags),
    /// Shows which decisions change for recorded traffic
    Replay(ReplayFlags),
    /// Shows the policies of a node: generations, trials, experiments
    List {
        /// Only this policy
        name: Option<String>,
        #[command(flatten)]
        node: NodeFlags,
    },
    /// Has a node load a policy's component again, or another one
    Load(LoadFlags),
    /// Puts another component of a policy of the central configuration into etcd, for the nodes that follow it
    Push(PolicyPushFlags),
    /// Makes the generation on trial the active one
    Promote {
        /// The policy's name in the node's configuration
        name: String,
        #[command(flatten)]
        node: NodeFlags,
    },
    /// Ends a trial; without one, goes back to a former generation
    Rollback {
        /// The policy's name in the node's configuration
        name: String,
        /// How the digest of that generation begins [default: the latest that wasn't rolled back from]
        #[arg(long)]
        to: Option<String>,
        #[command(flatten)]
        node: NodeFlags,
    },
}

#[derive(Args)]
pub(crate) struct NewFlags {
    /// The policy's name: a to z, 0 to 9 and `-`
    name: String,
    /// What it is written in: rust, c, go, js or python
    #[arg(long)]
    lang: Language,
    /// Its folder [default: ./NAME]
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct BuildFlags {
    /// The policy's folder, with its policy.toml
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where the component goes [default: DIR/NAME.wasm]
    #[arg(short, long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub(crate) struct CheckFlags {
    /// The component
    file: PathBuf,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub(crate) struct TestFlags {
    /// The component, or the folder of a policy that has been built
    #[arg(default_value = ".")]
    policy: PathBuf,
    /// Recorded requests [default: golden.jsonl beside the policy]
    #[arg(long)]
    records: Option<PathBuf>,
    /// Write what is decided now into the file of records
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub(crate) struct ReplayFlags {
    /// The component
    file: PathBuf,
    /// What it is compared with: another component, or `-` for what a node decides without a policy
    #[arg(long)]
    against: PathBuf,
    /// The traffic: an access log of a node, or a HAR file (.har) of a browser or proxy
    #[arg(long)]
    log: PathBuf,
    /// The configuration of the other component: JSON, or @FILE [default: {}]
    #[arg(long, value_name = "JSON|@FILE", value_parser = workbench::config)]
    against_config: Option<String>,
    /// Changed decisions to show, and requests of each kind of change to keys
    #[arg(long, default_value_t = 10)]
    examples: usize,
    /// End with exit code 1 if any decision changes
    #[arg(long)]
    fail_on_change: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub(crate) struct LoadFlags {
    /// The policy's name in the node's configuration
    name: String,
    /// Another component's file, as the node can read it
    #[arg(long)]
    file: Option<PathBuf>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    node: NodeFlags,
}

#[derive(Args)]
#[group(multiple = false)]
struct How {
    /// Call it beside the active one first; it decides nothing
    #[arg(long)]
    shadow: bool,
    /// Let it decide for this share of the clients first
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    canary: Option<u8>,
    /// Let it take over at once
    #[arg(long)]
    swap: bool,
}

#[derive(Args)]
pub(crate) struct NodeFlags {
    #[command(flatten)]
    admin: AdminFlags,
}

/// How a component is loaded.
#[derive(Args)]
struct Settings {
    /// The policy's configuration: JSON, or @FILE [default: {}]
    #[arg(long, value_name = "JSON|@FILE", value_parser = workbench::config)]
    config: Option<String>,
    /// Memory of an instance [default: 16MiB, as in a node]
    #[arg(long)]
    memory: Option<ByteSize>,
}

impl Settings {
    fn subject(&self, file: PathBuf) -> Subject {
        self.apply(Subject::new(file))
    }

    fn apply(&self, mut subject: Subject) -> Subject {
        if let Some(config) = &self.config {
            subject.config.clone_from(config);
        }
        if let Some(memory) = self.memory {
            subject.memory_bytes_max = usize::try_from(memory.0).unwrap_or(usize::MAX);
        }
        subject
    }
}

/// Carries out the request.
///
/// # Errors
/// What a person reads when it went wrong.
pub(crate) async fn run(action: PolicyAction) -> Result<ExitCode, String> {
    let done = match action {
        PolicyAction::New(flags) => new(flags),
        PolicyAction::Build(flags) => build(&flags),
        PolicyAction::Check(flags) => workbench::check(&flags.settings.subject(flags.file.clone())).map(say),
        PolicyAction::Test(flags) => test(flags),
        PolicyAction::Replay(flags) => replay(flags),
        PolicyAction::List { name, node } => list(name.as_deref(), &node).await,
        PolicyAction::Load(flags) => load(flags).await,
        PolicyAction::Push(flags) => return Box::pin(push_policy(flags)).await,
        PolicyAction::Promote { name, node } => promote(&name, &node).await,
        PolicyAction::Rollback { name, to, node } => rollback(&name, to.as_deref(), &node).await,
    };
    done.map_err(|error| format!("holm policy: {error}"))
}

/// Prints what there is to say of a success.
fn say(words: impl Display) -> ExitCode {
    print(words);
    ExitCode::SUCCESS
}

fn new(flags: NewFlags) -> Result<ExitCode, Error> {
    let NewFlags { name, lang, dir } = flags;
    let dir = workbench::create(&New { name, language: lang, dir })?;
    let at = dir.display();
    Ok(say(format!(
        "{at} is a policy. Next:\n    holm policy build {at}\n    holm policy test {at}\n{at}/README.md has the rest"
    )))
}

fn build(flags: &BuildFlags) -> Result<ExitCode, Error> {
    workbench::build(&flags.dir, flags.out.as_deref(), |file| flags.settings.subject(file)).map(say)
}

fn test(flags: TestFlags) -> Result<ExitCode, Error> {
    let golden = Golden::of(&flags.policy, flags.records)?;
    let golden = Golden { subject: flags.settings.apply(golden.subject), ..golden };
    if flags.update {
        let records = workbench::update(&golden)?;
        return Ok(say(format!("{}: what is decided now is expected of {records} records", golden.records.display())));
    }
    let tested = workbench::test(&golden)?;
    print(&tested);
    Ok(if tested.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn replay(flags: ReplayFlags) -> Result<ExitCode, Error> {
    let subject = flags.settings.subject(flags.file);
    let against = if flags.against.as_os_str() == "-" {
        Against::Native
    } else {
        let config = flags.against_config.unwrap_or_else(|| "{}".to_owned());
        Against::Component(Subject { file: flags.against, config, ..subject })
    };
    let replay = Replay { subject, against, traffic: flags.log, examples_max: flags.examples };
    let replayed = workbench::replay(&replay)?;
    print(&replayed);
    let failed = flags.fail_on_change && replayed.changed();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn load(flags: LoadFlags) -> Result<ExitCode, Error> {
    let introduce = match flags.how {
        How { shadow: true, .. } => Introduce::Shadow,
        How { canary: Some(percent), .. } => Introduce::Canary(percent),
        How { swap: true, .. } => Introduce::Swap,
        How { .. } => Introduce::Configured,
    };
    flags.node.remote()?.load(&flags.name, flags.file, introduce).await.map(say)
}

async fn list(name: Option<&str>, node: &NodeFlags) -> Result<ExitCode, Error> {
    node.remote()?.list(name).await.map(say)
}

async fn promote(name: &str, node: &NodeFlags) -> Result<ExitCode, Error> {
    node.remote()?.promote(name).await.map(say)
}

async fn rollback(name: &str, to: Option<&str>, node: &NodeFlags) -> Result<ExitCode, Error> {
    node.remote()?.rollback(name, to).await.map(say)
}

impl NodeFlags {
    fn remote(&self) -> Result<Remote, Error> {
        Ok(Remote { admin: self.admin.access().map_err(Error::Asked)? })
    }
}
