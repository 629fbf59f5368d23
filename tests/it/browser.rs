//! What a real browser does with the node's responses. Skipped unless one is named.

use std::{ffi::OsStr, process::Command, time::Duration};

use tokio::{task::spawn_blocking, time::timeout};

use crate::harness::{process::words, repository};

/// The path of Chromium, 130 or newer: `apt-get install chromium`, then `HOLM_CHROMIUM=/usr/bin/chromium`.
const CHROMIUM: &str = "HOLM_CHROMIUM";

/// Two processes and a browser start, on few cores.
const BROWSER_TIME: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_has_the_former_version_gets_the_difference() {
    let Some(browser) = std::env::var_os(CHROMIUM).filter(|browser| !browser.is_empty()) else {
        eprintln!("skipped: no browser is named; set {CHROMIUM} to the path of Chromium");
        return;
    };
    let mut command = Command::new("bash");
    command
        .arg(repository("tests/browser/deltas"))
        .env(CHROMIUM, browser)
        .env("HOLM", OsStr::new(env!("CARGO_BIN_EXE_holm")));
    let running = spawn_blocking(move || command.output().unwrap());
    let output = timeout(BROWSER_TIME, running).await.expect("done in time").unwrap();
    assert!(output.status.success(), "{}", words(&output));
}
