//! `holm demo`: a node, an origin and clients in one process, joined by real sockets. Everything it shows is counted.

mod drive;
mod error;
mod model;
mod origin;
mod report;
mod response;
mod scene;
mod site;
mod workload;

use std::{
    future,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use self::{
    drive::{Run, drive},
    report::{Side, count, duration},
    scene::Scene,
    workload::{Ask, Plan, Rate, plan},
};
pub use self::{error::Error, workload::REQUESTS_MAX};

/// Drawn from it, the workload is the same every time.
const SEED: u64 = 7;

/// The options of a demo.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// End after the summary.
    pub once: bool,
    /// Requests of the workload, 1 to [`REQUESTS_MAX`].
    pub requests: usize,
    /// Where the node listens; a free port of the same address if this one is taken.
    pub listen: SocketAddr,
    /// The same for its admin API.
    pub admin: SocketAddr,
}

impl Default for Options {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { once: false, requests: 3_000, listen: local(8080), admin: local(9090) }
    }
}

/// Runs the demo until its summary is printed (`once`), or until INT or TERM.
///
/// # Errors
/// [`Error`], of which [`Error::Mismatch`] means that a response through holm was wrong.
pub async fn run(options: Options) -> Result<(), Error> {
    if options.requests == 0 || options.requests > REQUESTS_MAX {
        return Err(Error::Requests(options.requests));
    }
    let scene = Box::pin(Scene::set(options.listen, options.admin)).await?;
    let outcome = tokio::select! {
        shown = Box::pin(show(options, &scene)) => shown,
        stopped = stop_signal() => stopped.map_err(Error::Signal),
    };
    scene.strike().await;
    outcome
}

/// The whole play: the same requests without and with holm, the comparison, the table, and the stage left open.
async fn show(options: Options, scene: &Scene) -> Result<(), Error> {
    let plan = Arc::new(plan(SEED, options.requests, &scene.origin.paths()));
    say(&introduction(options, scene, &plan));

    let without = act("without holm", &plan, scene.origin.address()).await;
    let without_side = Side::new(&plan, &without, scene.origin.take_counts());
    let with = act("with holm", &plan, scene.address).await;
    let with_side = Side::new(&plan, &with, scene.origin.take_counts());

    print(&format!("\n{}\n", report::render(&plan, &without_side, &with_side)))?;
    compare(&plan, &without, &with)?;
    print(&format!("All {} responses through holm equal the origin's own.\n", count(plan.asks.len() as u64)))?;
    if options.once {
        return Ok(());
    }
    print(&invitation(scene, &plan))?;
    future::pending().await
}

/// Sends the plan to one address, showing how far it is.
async fn act(label: &'static str, plan: &Arc<Plan>, target: SocketAddr) -> Run {
    // Draws on standard error, and nothing at all where that is no terminal.
    let progress = ProgressBar::new(plan.asks.len() as u64).with_message(label);
    if let Ok(style) = ProgressStyle::with_template("  {msg:12} {wide_bar} {human_pos}/{human_len}  {elapsed}") {
        progress.set_style(style);
    }
    let run = drive(plan, target, &progress).await;
    progress.finish_and_clear();
    say(&format!("  {label}: {} requests in {}", count(plan.asks.len() as u64), duration(run.wall)));
    run
}

/// Every response must be there, good, and the same with and without holm.
fn compare(plan: &Plan, without: &Run, with: &Run) -> Result<(), Error> {
    let pairs = plan.asks.iter().zip(without.outcomes.iter().zip(&with.outcomes));
    let mut wrong = pairs.filter_map(|(ask, (without, with))| Some((ask, difference(without, with)?)));
    let Some((ask, difference)) = wrong.next() else { return Ok(()) };
    let first = format!("{} {}: {difference}", if ask.is_call() { "POST" } else { "GET" }, ask.target);
    Err(Error::Mismatch { count: 1 + wrong.count(), total: plan.asks.len(), first })
}

fn difference(without: &drive::Outcome, with: &drive::Outcome) -> Option<String> {
    match (without, with) {
        (Err(failure), _) => Some(format!("without holm: {failure}")),
        (_, Err(failure)) => Some(format!("with holm: {failure}")),
        (Ok(without), Ok(with)) if without.status != with.status || !with.status.is_success() => {
            Some(format!("{} without holm, {} with it", without.status, with.status))
        }
        (Ok(without), Ok(with)) if without.meaning != with.meaning => {
            Some("the bodies say different things".to_owned())
        }
        _ => None,
    }
}

fn introduction(options: Options, scene: &Scene, plan: &Plan) -> String {
    let milliseconds = |time: Duration| time.as_micros() as f64 / 1e3;
    let mut text = String::from("holm demo\n");
    for (what, wanted, got) in [("holm", options.listen, scene.address), ("admin", options.admin, scene.admin)] {
        if wanted.port() != 0 && wanted.port() != got.port() {
            text += &format!("  {wanted} is taken, so {what} listens on another port\n");
        }
    }
    text += &format!("  holm        http://{}, admin http://{}\n", scene.address, scene.admin);
    text +=
        &format!("  origin      http://{}, in this process: a model server and a web site\n", scene.origin.address());
    text += "              The model is a stand-in for a GPU: it hashes words to 64 numbers, one batch at a time,\n";
    text += &format!(
        "              and takes {} ms a batch and {} ms an item. A page takes {} ms.\n",
        milliseconds(model::BATCH_COST),
        milliseconds(model::ITEM_COST),
        milliseconds(origin::RENDER_COST),
    );
    let calls = plan.asks.iter().filter(|ask| ask.is_call()).count();
    text += &format!(
        "  workload    {} requests, drawn from seed {SEED}: {} page views and\n",
        count(plan.asks.len() as u64),
        count((plan.asks.len() - calls) as u64),
    );
    text += &format!(
        "              {} embedding calls with {} items; in {} bursts 50 clients or more send the same at once\n",
        count(calls as u64),
        count(plan.items() as u64),
        plan.bursts(),
    );
    text +=
        "              They arrive at the same times without and with holm, whatever the responses take: a third at\n";
    text += &format!(
        "              {} a second, which the origin alone can carry, the rest at {} a second, which it can't\n",
        count(Rate::Steady.per_second().into()),
        count(Rate::Rush.per_second().into()),
    );
    text
}

/// What a person may try now.
fn invitation(scene: &Scene, plan: &Plan) -> String {
    let (address, admin) = (scene.address, scene.admin);
    let mut text = String::from("\nholm stays up. To try, with an eye on `cache-status`:\n");
    let mut offer = |what: &str, command: &str| text += &format!("\n  # {what}\n  {command}\n");
    offer("a page, stored in memory", &format!("curl -sI http://{address}/articles/3"));
    offer(
        "the same over HTTP/3, if this curl has it; nobody trusts the certificate",
        &format!("curl -skI --http3-only https://{}/articles/3", scene.encrypted),
    );
    offer(
        "a large asset: stored on disk, in memory once it is asked for again",
        &format!("curl -sI http://{address}/assets/app.js"),
    );
    if let Some(Ask { tenant: Some(tenant), body: Some(body), .. }) = plan.asks.iter().find(|ask| ask.items == 1) {
        let call = format!(
            "curl -s -D - -o /dev/null http://{address}{} -H 'content-type: application/json' -H 'x-tenant: {tenant}'",
            workload::EMBEDDINGS
        );
        // Bodies of the plan are JSON text of ASCII words without an apostrophe, so a shell takes them as they are.
        let known = String::from_utf8_lossy(body);
        let more = known.replace("\"input\":", "\"input\":[\"something new\",").replace("?\"", "?\"]");
        offer("an item whose response is stored", &format!("{call} -d '{known}'"));
        offer("the same beside a new one: only that one is sent", &format!("{call} -d '{more}'"));
    }
    let purge = "-H 'content-type: application/json' -d '{\"tag\":\"articles\"}'";
    offer("purges all articles; then ask for the page again", &format!("curl -s http://{admin}/purge {purge}"));
    offer("everything that is counted", &format!("curl -s http://{admin}/metrics"));
    offer("the configuration, worth copying", &format!("cat {}", scene.file().display()));
    text += "\nCtrl-C to stop.\n";
    text
}

/// For what is going on: standard error.
fn say(text: &str) {
    // Nobody has to listen.
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
}

/// For results: standard output.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
}

/// Comes back when somebody wants the program to end.
#[cfg(unix)]
async fn stop_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// Comes back when somebody wants the program to end.
#[cfg(not(unix))]
async fn stop_signal() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}
