//! The program itself, as an operator runs it.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    net::SocketAddr,
    ops::Deref,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::timeout;

use super::{LIMIT, eventually, found, node::NodeHandle};

/// The configuration file's name.
const CONFIG: &str = "holm.toml";

/// Returns everything that a process has written.
pub(crate) fn words(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), output.stderr.as_slice()].concat()).unwrap()
}

/// `holm serve`, running; killed with this value.
pub(crate) struct Process {
    handle: NodeHandle,
    child: Running,
    said: Arc<Mutex<String>>,
    /// Holds the configuration file.
    dir: TempDir,
}

impl Deref for Process {
    type Target = NodeHandle;

    fn deref(&self) -> &NodeHandle {
        &self.handle
    }
}

impl Process {
    /// Starts `holm serve --config` with this text, and waits until it is ready.
    pub(crate) async fn serve(config: &str) -> Self {
        let (mut command, dir) = configured(config);
        Self::launch(&mut command, dir).await
    }

    /// The same, with a log that these directives filter.
    pub(crate) async fn serve_logging(config: &str, directives: &str) -> Self {
        let (mut command, dir) = configured(config);
        Self::launch(command.env("HOLM_LOG", directives), dir).await
    }

    /// The same, with this variable in its environment.
    pub(crate) async fn serve_in(config: &str, variable: &str, value: &OsStr) -> Self {
        let (mut command, dir) = configured(config);
        Self::launch(command.env(variable, value), dir).await
    }

    /// Starts `holm serve --config --takeover` with this text, and waits until it has taken the place of the process that
    /// runs and is ready.
    pub(crate) async fn succeed(config: &str) -> Self {
        let (mut command, dir) = configured(config);
        Self::launch(command.arg("--takeover"), dir).await
    }

    /// Starts it as systemd does that has bound its socket and is told of its state at `notified`.
    pub(crate) async fn activated(config: &str, socket: std::net::TcpListener, notified: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(CONFIG);
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" serve --config \"$1\" 3<&0"])
            .args([OsStr::new(env!("CARGO_BIN_EXE_holm")), file.as_os_str()])
            .env("NOTIFY_SOCKET", notified)
            .stdin(Stdio::from(OwnedFd::from(socket)));
        Self::launch(&mut command, dir).await
    }

    /// Starts `holm serve` with flags alone, and waits until it is ready.
    pub(crate) async fn serve_with<S: AsRef<OsStr>>(flags: &[S]) -> Self {
        let mut command = holm(["serve"]);
        command.args(flags);
        Self::launch(&mut command, tempfile::tempdir().unwrap()).await
    }

    async fn launch(command: &mut Command, dir: TempDir) -> Self {
        command.env("NO_COLOR", "1").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Running(command.spawn().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, heard) = (child.0.stderr.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut heard = heard.lock();
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        let (address, admin) = found("both addresses on standard error", async || {
            let text = said.lock().clone();
            if let Some(status) = child.0.try_wait().unwrap() {
                panic!("holm ended with {status}:\n{text}");
            }
            Some((announced(&text, "listening on http")?, announced(&text, "admin on http")?))
        })
        .await;
        let process = Self { handle: NodeHandle { address, admin }, child, said, dir };
        eventually("/readyz", async || {
            process.admin("/readyz").try_send().await.is_ok_and(|ready| ready.status == 200)
        })
        .await;
        process
    }

    /// Returns the configuration file that it was started with.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join(CONFIG)
    }

    /// Returns its resident memory in KiB, and the number of its mappings.
    #[cfg(target_os = "linux")]
    pub(crate) fn footprint(&self) -> (usize, usize) {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", self.id())).unwrap();
        let status = read("status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib = resident.trim().trim_end_matches(" kB").parse().unwrap();
        (kib, read("maps").lines().count())
    }

    /// Returns everything it has written to standard error.
    pub(crate) fn said(&self) -> String {
        self.said.lock().clone()
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn id(&self) -> u32 {
        self.child.0.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.0.id(), name);
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.0.try_wait().unwrap().is_none()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        found("the process ending", async || self.child.0.try_wait().unwrap()).await
    }
}

/// A child that doesn't outlive the test, whether or not it came to be ready.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; waiting reaps it in any case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a signal by name.
pub(crate) fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name} {process}");
    if name == "STOP" {
        // On a busy machine its threads go on for a while after the signal was sent.
        let end = Instant::now() + LIMIT;
        while !has_stopped(process) {
            assert!(Instant::now() < end, "process {process} doesn't stop");
            std::thread::yield_now();
        }
    }
}

/// Whether each thread of a process stands still.
fn has_stopped(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut states =
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default());
    // The state follows the name, which stands in parentheses and may have some of its own.
    states.all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}

/// Runs `holm` to its end.
pub(crate) async fn run<S: AsRef<OsStr>>(arguments: &[S], limit: Duration) -> Output {
    let mut command = holm(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let process = child.id();
    let ending = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    match timeout(limit, ending).await {
        Ok(output) => output.unwrap(),
        Err(_) => {
            signal(process, "KILL");
            panic!("holm didn't end within {limit:?}");
        }
    }
}

/// Returns `holm serve --config` with this text, and the directory that the file is in.
fn configured(config: &str) -> (Command, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(CONFIG);
    std::fs::write(&file, config).unwrap();
    (holm([OsStr::new("serve"), OsStr::new("--config"), file.as_os_str()]), dir)
}

fn holm<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holm"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Returns the address in a line such as `listening on http://127.0.0.1:8080`.
fn announced(text: &str, words: &str) -> Option<SocketAddr> {
    let rest = text.split_once(words)?.1.trim_start_matches('s').strip_prefix("://")?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))?;
    rest[..end].trim_end_matches('.').parse().ok()
}

#[test]
fn addresses_are_found_amid_other_words() {
    let text = "INFO listening on https://127.0.0.1:8443 node=n1\nINFO admin on http://127.0.0.1:9000\n";
    assert_eq!(announced(text, "listening on http"), "127.0.0.1:8443".parse().ok());
    assert_eq!(announced(text, "admin on http"), "127.0.0.1:9000".parse().ok());
    assert_eq!(announced("listening on http://127.0.0.1:84", "listening on http"), None);
}
