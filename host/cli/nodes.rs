//! `holm nodes` and `holm drain`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use holm::{
    admin::client,
    report::{DrainInfo, NodeInfo, NodesInfo},
    workbench::Table,
};
use serde_json::{Value, json};

use super::{admin::AdminFlags, output::print};

/// What the node may take.
const ADMIN_TIME: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct NodesFlags {
    #[command(flatten)]
    admin: AdminFlags,
    /// The JSON of the admin API instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct DrainFlags {
    #[command(flatten)]
    admin: AdminFlags,
    /// All nodes of its region, or of the region of this name, which read it from Redis or etcd within seconds; ends
    /// with 3 if some couldn't, which do when they can again
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    region: Option<String>,
    /// Call off a drain whose delay (`timeouts.drain_delay_ms`) isn't over
    #[arg(long, visible_alias = "undo")]
    cancel: bool,
}

/// The status of a drain that some nodes of the region haven't read.
const UNREAD: u8 = 3;

/// Shows the nodes. Ends with 1 if the list is out of date.
pub(crate) async fn list(flags: NodesFlags) -> Result<ExitCode, String> {
    let NodesFlags { admin, json: as_it_is } = flags;
    let responded = called(&admin, http::Method::GET, "/nodes", None).await;
    let report = responded.map_err(|error| format!("holm nodes: {error}"))?;
    if as_it_is {
        print(&report);
    }
    let info: NodesInfo =
        serde_json::from_value(report).map_err(|error| format!("holm nodes: the response can't be read: {error}"))?;
    if !as_it_is {
        print(table(&info.nodes).to_string().trim_end());
    }
    if let Some(error) = &info.error {
        eprintln!("holm nodes: this may be out of date: {error}");
    }
    Ok(if info.error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Has a node, or a region, drain. Ends with [`UNREAD`] if some nodes of the region couldn't read that.
pub(crate) async fn drain(flags: DrainFlags) -> Result<ExitCode, String> {
    let DrainFlags { admin, region, cancel } = flags;
    let whom = region.as_deref().map_or(Value::Bool(false), |name| match name {
        "" => Value::Bool(true),
        name => Value::from(name),
    });
    let body = json!({"region": whom, "cancel": cancel});
    let responded = called(&admin, http::Method::POST, "/drain", Some(&body)).await;
    let report = responded.map_err(|error| format!("holm drain: {error}"))?;
    let info: DrainInfo =
        serde_json::from_value(report).map_err(|error| format!("holm drain: the response can't be read: {error}"))?;
    let whom = info.order.as_ref().map_or_else(|| "the node".to_owned(), |order| order.read.join(" "));
    if info.draining {
        print(format!("{whom}: not ready from now on, and stopping in {} ms", info.delay_ms));
    } else {
        print(format!("{whom}: the drain is called off"));
    }
    let Some(order) = info.order else { return Ok(ExitCode::SUCCESS) };
    for error in &order.errors {
        eprintln!("holm drain: {error}");
    }
    if order.unread.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let (unread, seconds) = (order.unread.join(" "), order.counts_ms / 1_000);
    eprintln!("holm drain: not read yet by {unread}; who can read it within {seconds} s does as asked");
    Ok(ExitCode::from(UNREAD))
}

async fn called(admin: &AdminFlags, method: http::Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let access = admin.access()?;
    let (status, report) =
        client::call(&access, method, path, body, ADMIN_TIME).await.map_err(|error| error.to_string())?;
    if status.is_success() { Ok(report) } else { Err(format!("{} responded {status}: {report}", access.address)) }
}

/// Returns a line for each node, its columns aligned.
fn table(nodes: &[NodeInfo]) -> Table {
    let mut table = Table::new(&["node", "state", "config", "central", "version", "address", "policies"], &[]);
    for node in nodes {
        table.row(row(node));
    }
    table
}

fn row(node: &NodeInfo) -> [String; 7] {
    let said = &node.said;
    let digest = said.config_digest.as_deref().and_then(|digest| digest.get(..8)).unwrap_or("flags");
    let policies: Vec<String> = said.policies.iter().map(|(name, digest)| format!("{name}@{digest}")).collect();
    let own = if node.own { "*" } else { "" };
    let twice = if node.namesake { " (name twice)" } else { "" };
    [
        format!("{}{own}", node.name),
        format!("{}{twice}", node.state),
        format!("{}:{digest}", said.config_generation),
        said.central_generation.map_or("-".to_owned(), |generation| generation.to_string()),
        said.version.clone(),
        said.addresses.join(" "),
        policies.join(" "),
    ]
}
