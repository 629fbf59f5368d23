//! The `holm` command.

mod cli;

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use holm::{
    admin::{Extent, Purge, Scope, client},
    app::{
        self, App,
        service_manager::{self, State},
    },
    config::{self, AccessLog, ByteSize, Config, FlagsTls},
    demo, telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::cli::admin::AdminFlags;

/// Many threads make and drop small things for every request. mimalloc is as fast at it as jemalloc, and builds with a C
/// compiler alone, where jemalloc wants make as well.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a purge may take beside the time that the node itself waits for its region.
const PURGE_TIME: Duration = Duration::from_secs(30);

/// A WebAssembly-extensible edge cache and batching node.
#[derive(Parser)]
#[command(name = "holm", version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Shows what holm does, with a model server and a web site of its own; then stays up to play with
    Demo(DemoFlags),
    /// Runs a node, from flags or from a file
    Serve(Box<ServeFlags>),
    /// Validates a configuration file
    Check {
        /// The TOML file
        file: PathBuf,
        /// Loads its policies as well, as a node would: compiles and configures each
        #[arg(long)]
        policies: bool,
    },
    /// Says what a running node would have otherwise with a configuration file, and what of that needs a restart; ends
    /// with 0 if nothing, 1 if something, 3 if something that needs a restart, 2 if it can't be told
    Diff(cli::diff::DiffFlags),
    /// Lists the nodes of a running node's region: who is live, with which configuration and policies
    Nodes(cli::nodes::NodesFlags),
    /// Has a running node, or all of its region, take no more requests and stop
    Drain(cli::nodes::DrainFlags),
    /// Purges what is stored by URL, prefix or pattern of URLs, key, tag or cache group
    Purge(PurgeFlags),
    /// Says what a running node would do with a request, and why: its route, its key, what is stored for it, and what
    /// differs if nothing is
    Why(cli::why::WhyFlags),
    /// Puts the configuration of many nodes into one place, from which they follow it, and shows what they make of it
    Config {
        #[command(subcommand)]
        action: cli::central::ConfigAction,
    },
    /// Makes, builds, tests and compares policies, and changes those of a running node
    Policy {
        #[command(subcommand)]
        action: cli::policy::PolicyAction,
    },
}

#[derive(Args)]
struct DemoFlags {
    /// End after the summary
    #[arg(long)]
    once: bool,
    /// Requests of the workload
    #[arg(long, default_value_t = demo::Options::default().requests)]
    requests: usize,
    /// Where the node listens; a free port if it's taken
    #[arg(long, default_value_t = demo::Options::default().listen)]
    listen: SocketAddr,
    /// Where its admin API listens; a free port if it's taken
    #[arg(long, default_value_t = demo::Options::default().admin)]
    admin: SocketAddr,
}

#[derive(Args)]
struct ServeFlags {
    /// A configuration file; with it no other flag is taken
    #[arg(long, conflicts_with_all = ["origin", "listen", "tls_cert", "tls_key", "tls_self_signed", "http3", "policy", "memory", "disk", "disk_size", "redis", "admin", "access_log"])]
    config: Option<PathBuf>,
    /// Takes the place of the process that runs, without a failed request; it is asked at `takeover.socket`
    #[arg(long, requires = "config")]
    takeover: bool,
    /// The origin's URL, http://host:port, https://host:port or unix:/path; several make a pool
    #[arg(long, required_unless_present = "config")]
    origin: Vec<String>,
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// The certificate's PEM file, leaf first: clients connect by TLS
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "tls_self_signed")]
    tls_cert: Option<PathBuf>,
    /// The PEM file of its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Clients connect by TLS, with a certificate that is made now, for this machine; nobody trusts it (curl -k)
    #[arg(long)]
    tls_self_signed: bool,
    /// Clients may connect by HTTP/3 as well, over QUIC on the UDP port of the same number; it takes one of the TLS flags
    #[arg(long)]
    http3: bool,
    /// A policy component
    #[arg(long)]
    policy: Option<PathBuf>,
    /// Capacity of the memory tier [default: 256MiB]
    #[arg(long)]
    memory: Option<ByteSize>,
    /// Directory of a disk tier
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Capacity of the disk tier [default: 1GiB]
    #[arg(long, requires = "disk")]
    disk_size: Option<ByteSize>,
    /// URL of a Redis tier
    #[arg(long)]
    redis: Option<String>,
    /// Where the admin API listens
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// Where the access log goes: off, stdout or a file [default: stdout]
    #[arg(long)]
    access_log: Option<AccessLog>,
}

#[derive(Args)]
struct PurgeFlags {
    #[command(flatten)]
    admin: AdminFlags,
    #[command(flatten)]
    scope: ScopeFlags,
    /// The scheme, host and port that the cache group is of, as clients ask for them
    #[arg(long, value_name = "URL", requires = "group")]
    origin: Option<String>,
    /// Mark stale instead of removing
    #[arg(long)]
    soft: bool,
    /// For which nodes: node (the one that is asked), region or world [default: the widest that it is configured for]
    #[arg(long = "scope", value_name = "SCOPE", value_parser = extent)]
    extent: Option<Extent>,
}

/// Reads the scope of a purge.
fn extent(text: &str) -> Result<Extent, String> {
    Extent::named(text).ok_or_else(|| "allowed is node, region or world".to_owned())
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct ScopeFlags {
    /// A URL as clients ask for it, in any spelling
    #[arg(long)]
    url: Option<String>,
    /// All URLs at or below a path: a URL without a query, as clients ask for it, or one that ends with /*
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// All URLs that match a URL with * in its path or query, each of which stands for any text, / and ? included
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
    /// A key, 64 hex digits, from the access log
    #[arg(long)]
    key: Option<String>,
    /// A tag (Surrogate-Key, Cache-Tag)
    #[arg(long)]
    tag: Option<String>,
    /// A cache group (Cache-Groups) of an origin
    #[arg(long, value_name = "NAME", requires = "origin", allow_hyphen_values = true)]
    group: Option<String>,
    /// A node that is known to be gone: purges no longer wait for it. NODE is one of the region, REGION/NODE one of
    /// another
    #[arg(long, value_name = "NODE")]
    sign_off: Option<String>,
}

fn main() -> ExitCode {
    let command = Command::parse();
    telemetry::init_logging();
    let runtime = match tokio::runtime::Builder::new_multi_thread().thread_name("holm").enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("holm: the runtime can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        survive_file_size_limits();
        match command.action {
            Action::Demo(flags) => demonstrate(flags).await,
            Action::Serve(flags) => serve(*flags).await,
            Action::Check { file, policies } => check(&file, policies).await,
            Action::Diff(flags) => Ok(cli::diff::run(flags).await),
            Action::Nodes(flags) => cli::nodes::list(flags).await,
            Action::Drain(flags) => cli::nodes::drain(flags).await,
            Action::Purge(flags) => purge(flags).await,
            Action::Why(flags) => cli::why::run(flags).await,
            Action::Config { action } => Box::pin(cli::central::run(action)).await,
            Action::Policy { action } => cli::policy::run(action).await,
        }
    });
    // Blocking work that is still under way (a look-up of a name, say) must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match done {
        Ok(code) => code,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// What a person reads when it went wrong.
type Done = Result<ExitCode, String>;

async fn demonstrate(flags: DemoFlags) -> Done {
    let DemoFlags { once, requests, listen, admin } = flags;
    let shown = Box::pin(demo::run(demo::Options { once, requests, listen, admin })).await;
    shown.map(|()| ExitCode::SUCCESS).map_err(|error| format!("holm demo: {error}"))
}

async fn serve(flags: ServeFlags) -> Done {
    survive_hangups();
    let takes_over = flags.takeover;
    let config = configured(flags)?;
    let listen = config.listen.clone();
    let admin_tls = config.admin.as_ref().is_some_and(|admin| admin.tls.is_some());
    let sockets = service_manager::sockets();
    let started = if takes_over {
        Box::pin(App::take_over(config, sockets)).await
    } else {
        Box::pin(App::start_with(config, sockets)).await
    };
    let app = started.map_err(|error| format!("holm can't start: {error}"))?;
    for (address, listen) in app.addresses().iter().zip(&listen) {
        let name = if listen.unix.is_some() { listen.name() } else { address.to_string() };
        info!("listening on {}://{name}", if listen.tls.is_some() { "https" } else { "http" });
        if listen.http3.is_some() {
            info!("HTTP/3 on https://{address}");
        }
    }
    if let Some(admin) = app.admin() {
        info!("admin on {}://{admin}", if admin_tls { "https" } else { "http" });
    }
    let drain = CancellationToken::new();
    tokio::spawn(drain_on_signal(drain.clone()));
    service_manager::notify(if takes_over { State::Succeeded } else { State::Ready });
    let drained = app.run(drain).await;
    info!(finished = drained.finished, cut = drained.cut, "stopped");
    Ok(if drained.cut == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn configured(flags: ServeFlags) -> Result<Config, String> {
    if let Some(file) = flags.config {
        return config::load(&file).map_err(|error| rendered(&error));
    }
    let base = config::Flags::default();
    let tls = match (flags.tls_cert, flags.tls_key) {
        (Some(certificate), Some(key)) => FlagsTls::Files { certificate, key },
        _ if flags.tls_self_signed => FlagsTls::SelfSigned,
        // Neither comes alone.
        _ => base.tls,
    };
    let flags = config::Flags {
        origin: flags.origin,
        listen: flags.listen.unwrap_or(base.listen),
        tls,
        http3: flags.http3,
        policy: flags.policy,
        memory: flags.memory.unwrap_or(base.memory),
        disk: flags.disk,
        disk_size: flags.disk_size.unwrap_or(base.disk_size),
        redis: flags.redis,
        admin: flags.admin,
        access_log: flags.access_log.unwrap_or(base.access_log),
    };
    config::from_flags(&flags).map_err(|error| rendered(&error))
}

/// What is wrong with a configuration, for a person to read.
fn rendered(error: &config::Error) -> String {
    error.render(std::io::stderr().is_terminal())
}

/// A write past a limit on file sizes (`ulimit -f`) fails like one to a full disk instead of ending the process: a handler
/// takes the place of the signal's default, and stays when the stream of signals is dropped.
fn survive_file_size_limits() {
    let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    if let Err(error) = signal(kind) {
        warn!(%error, "XFSZ can't be handled; writing past a limit on file sizes would end the node");
    }
}

/// A HUP that comes while the node starts must not end it: what it would read again is being read.
fn survive_hangups() {
    if let Err(error) = signal(SignalKind::hangup()) {
        warn!(%error, "HUP can't be handled; it would end the node");
    }
}

/// The first TERM or INT drains, the second ends at once.
async fn drain_on_signal(drain: CancellationToken) {
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => {
            warn!(%error, "signals can't be watched; the node ends only by force");
            return;
        }
    };
    let mut signalled = async || {
        tokio::select! {
            _ = term.recv() => "TERM",
            _ = int.recv() => "INT",
        }
    };
    let name = signalled().await;
    info!("{name}: draining; a second signal ends at once");
    service_manager::notify(State::Stopping);
    drain.cancel();
    signalled().await;
    std::process::exit(130);
}

async fn check(file: &std::path::Path, policies: bool) -> Done {
    let config = config::load(file).map_err(|error| rendered(&error))?;
    println!(
        "{} is valid: {} listeners, {} routes, {} pools, {} policies",
        file.display(),
        config.listen.len(),
        config.routes.len(),
        config.pools.len(),
        config.policies.len()
    );
    if policies { check_policies(&config).await } else { Ok(ExitCode::SUCCESS) }
}

/// Says of each policy what it is, or why a node would refuse it.
async fn check_policies(config: &Config) -> Done {
    let checked = app::check_policies(config).await.map_err(|error| format!("holm check: {error}"))?;
    let mut refused = 0;
    for policy in checked {
        match policy.outcome {
            Ok(info) => {
                let hooks: Vec<&str> = info.hooks.iter().map(|hook| hook.name.as_str()).collect();
                let (component, version) = (&info.component, &info.version);
                println!("policy `{}` loads: {component} {version}, with {}", policy.name, hooks.join(", "));
            }
            Err(error) => {
                refused += 1;
                eprintln!("holm check: {error}");
            }
        }
    }
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn purge(flags: PurgeFlags) -> Done {
    let PurgeFlags { admin, scope, origin, soft, extent } = flags;
    let admin = admin.access().map_err(|error| format!("holm purge: {error}"))?;
    if let Some(node) = scope.sign_off {
        // One segment of the path, whatever the name has.
        let path = format!("/nodes/{}/sign-off", node.replace('/', "%2F"));
        let body = serde_json::json!({});
        let responded = client::call(&admin, http::Method::POST, &path, Some(&body), PURGE_TIME).await;
        return reported(responded);
    }
    // Clap requires no argument that conflicts with one that is given, as all scopes do.
    if origin.is_some() && scope.group.is_none() {
        return Err("holm purge: --origin is of a cache group: give --group as well".to_owned());
    }
    let scope = match (&scope.url, &scope.prefix, &scope.pattern, &scope.key, &scope.group, &scope.tag) {
        (Some(url), ..) => Scope::url(url),
        (_, Some(prefix), ..) => Scope::prefix(prefix),
        (_, _, Some(pattern), ..) => Scope::pattern(pattern),
        (_, _, _, Some(key), ..) => Scope::key(key),
        (.., Some(group), _) => Scope::group(group, origin.as_deref().unwrap_or_default()),
        (.., tag) => Scope::tag(tag.as_deref().unwrap_or_default()),
    };
    let purge = Purge { scope: scope.map_err(|error| format!("holm purge: {error}"))?, soft, extent };
    reported(client::purge(&admin, &purge, PURGE_TIME).await)
}

/// Shows what the admin API replied to a purge.
fn reported(responded: Result<(http::StatusCode, serde_json::Value), client::ClientError>) -> Done {
    let (status, report) = responded.map_err(|error| format!("holm purge: {error}"))?;
    println!("{report}");
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
