//! `holm diff`

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use holm::{
    admin::client::{self, Access},
    config,
};
use serde_json::Value;

use super::admin::AdminFlags;

/// What the node may take to show its configuration.
const ADMIN_TIME: Duration = Duration::from_secs(30);

/// Something would change, all of it while the node runs.
const CHANGES: u8 = 1;

/// It can't be told.
const TROUBLE: u8 = 2;

/// Something would change that needs a restart: a running node refuses the file.
const RESTART: u8 = 3;

#[derive(Args)]
pub(crate) struct DiffFlags {
    /// The TOML file
    file: PathBuf,
    #[command(flatten)]
    admin: AdminFlags,
}

/// Says what the node would have otherwise with this file.
pub(crate) async fn run(flags: DiffFlags) -> ExitCode {
    match compared(flags).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(TROUBLE)
        }
    }
}

async fn compared(flags: DiffFlags) -> Result<u8, String> {
    let DiffFlags { file, admin } = flags;
    let admin = admin.access().map_err(|error| format!("holm diff: {error}"))?;
    let file = config::load(&file).map_err(|error| error.render(std::io::stderr().is_terminal()))?;
    let running = running(&admin).await?;
    let wanted = config::without_secrets(config::listing(&file));
    let changes = config::differences(&running, &wanted);
    for change in &changes {
        println!("{}", config::described(change));
    }
    let untold = config::hidden_keys(&wanted);
    if !untold.is_empty() {
        println!("not compared, since no node shows them: the secrets in {}", untold.join(", "));
    }
    let restart = changes.iter().filter(|change| change.needs_restart).count();
    if restart > 0 {
        println!("a running node refuses this file: {restart} of {} changes need a restart", changes.len());
    }
    Ok(match (changes.is_empty(), restart) {
        (true, _) => 0,
        (false, 0) => CHANGES,
        _ => RESTART,
    })
}

/// Returns the configuration that the node runs by.
async fn running(admin: &Access) -> Result<Value, String> {
    let responded = client::call(admin, http::Method::GET, "/config", None, ADMIN_TIME).await;
    let (status, mut info) = responded.map_err(|error| format!("holm diff: {error}"))?;
    match info.get_mut("config").map(Value::take) {
        Some(config) if status.is_success() => Ok(config),
        _ => {
            let address = &admin.address;
            Err(format!("holm diff: {address} responded {status}, and doesn't show its configuration: {info}"))
        }
    }
}
