//! A node of the region: `holm serve` in a process of its own, with tiers of its own.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use holm::planted::{self, Plant};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    client::{self, Place, Places},
    process::Running,
};

/// Longest wait for a start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes at the end of an access log that are searched for a key.
const LOG_TAIL: usize = 512 << 10;

/// A node and its directory.
pub(crate) struct Node {
    number: usize,
    dir: PathBuf,
    /// The directory of its standard error, a file for each start, to look into a violation.
    said: PathBuf,
    /// The bug that it has on purpose.
    plant: Option<Plant>,
    /// What sets its clock; none where that can't be done.
    clock: Option<Clock>,
    starts: AtomicUsize,
    places: Arc<Places>,
    running: Mutex<Option<Running>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The servers and tiers of a node.
pub(crate) struct Surroundings<'s> {
    pub(crate) origin: SocketAddr,
    pub(crate) redis: SocketAddr,
    pub(crate) policy: &'s Path,
}

impl Node {
    /// Starts node `number` with its tiers in `dir` and its standard error in files in `said`.
    pub(crate) async fn start(
        number: usize,
        dir: &Path,
        said: &Path,
        surroundings: &Surroundings<'_>,
        places: &Arc<Places>,
    ) -> Self {
        let dir = dir.join(format!("n{number}"));
        let config = config(number, &dir, surroundings);
        Self::with(number, dir, said, &config, None, places).await
    }

    /// Starts node `number` with this configuration, which is written to `dir`, and with a bug if one is planted.
    pub(crate) async fn with(
        number: usize,
        dir: PathBuf,
        said: &Path,
        config: &str,
        plant: Option<Plant>,
        places: &Arc<Places>,
    ) -> Self {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("holm.toml"), config).unwrap();
        let (said, places, starts) = (said.to_owned(), Arc::clone(places), AtomicUsize::new(0));
        let clock = Clock::of(&dir);
        let node = Self { number, dir, said, plant, clock, starts, places, running: Mutex::default() };
        node.launch().await;
        node
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&self) {
        self.places.set(self.number, None);
        if let Some(running) = self.running.lock().take() {
            let id = running.id();
            drop(running);
            if self.clock.is_some() {
                forget_clock(id);
            }
        }
    }

    /// Starts it, and returns when it is ready. It may refuse for a while: the region may still know the process before
    /// it under its name.
    pub(crate) async fn launch(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut running = self.run();
            while running.ended().is_none() {
                if let Some(place) = self.ready().await {
                    *self.running.lock() = Some(running);
                    self.places.set(self.number, Some(place));
                    return;
                }
                assert!(Instant::now() < end, "node {} isn't ready:\n{}", self.number, self.words());
                sleep(LOOK).await;
            }
            assert!(Instant::now() < end, "node {} doesn't start:\n{}", self.number, self.words());
            sleep(LOOK * 20).await;
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        if let Some(running) = &*self.running.lock() {
            running.signal(name);
        }
    }

    /// From now on its files may grow to `bytes` only; `unlimited` ends that. False if this system can't do it.
    pub(crate) fn limit_files(&self, bytes: &str) -> bool {
        let Some(id) = self.running.lock().as_ref().map(Running::id) else { return false };
        let status = Command::new("prlimit").args(["--pid", &id.to_string(), &format!("--fsize={bytes}:")]).status();
        status.is_ok_and(|status| status.success())
    }

    /// Sets its clock ahead of the time by so many seconds, or back; it notices within a second. False if this system
    /// can't do it.
    pub(crate) fn set_clock(&self, seconds: i64) -> bool {
        self.clock.as_ref().is_some_and(|clock| clock.set(seconds))
    }

    /// The cache key of a path, as the access log names it.
    pub(crate) fn key(&self, path: &str) -> Option<String> {
        let text = fs::read(self.dir.join("access.log")).ok()?;
        let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL)..]);
        let lines = tail.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["target"] == path && line["method"] == "GET")
            .find_map(|line| Some(line["key"].as_str()?.to_owned()))
    }

    /// A shell makes what ends a process that writes past its limit a mere error, as the file system's own limit is.
    fn run(&self) -> Running {
        self.starts.fetch_add(1, Ordering::Relaxed);
        let program = env!("CARGO_BIN_EXE_holm");
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" serve --config \"$1\"", program]);
        command.arg(self.dir.join("holm.toml")).env("NO_COLOR", "1");
        if let Some(plant) = self.plant {
            command.env(planted::VARIABLE, plant.name());
        }
        if let Some(clock) = &self.clock {
            clock.apply_to(&mut command);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(self.log()).unwrap());
        Running::start(&mut command)
    }

    async fn ready(&self) -> Option<Place> {
        let words = self.words();
        let place =
            Place { public: announced(&words, "listening on http")?, admin: announced(&words, "admin on http")? };
        (client::status(place.admin, "/readyz").await == Some(200)).then_some(place)
    }

    fn log(&self) -> PathBuf {
        self.said.join(format!("n{}-{}.log", self.number, self.starts.load(Ordering::Relaxed)))
    }

    fn words(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

/// The wall clock of a node, which libfaketime has it read from a file. The clocks that only go forward stay as they are.
struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// The clock of the node in `dir`, if libfaketime is there.
    fn of(dir: &Path) -> Option<Self> {
        let library = faketime()?;
        let clock = Self { library, file: dir.join("clock") };
        clock.set(0).then_some(clock)
    }

    fn apply_to(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        // The file is read again after a second.
        command.envs([("FAKETIME_CACHE_DURATION", "1"), ("DONT_FAKE_MONOTONIC", "1")]);
    }

    /// The file is exchanged, so that a half-written one is never read.
    fn set(&self, seconds: i64) -> bool {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).and_then(|()| fs::rename(&new, &self.file)).is_ok()
    }
}

/// Removes what libfaketime shares between the processes that it finds itself in: one that is killed leaves it behind.
fn forget_clock(process: u32) {
    for name in [format!("faketime_shm_{process}"), format!("sem.faketime_sem_{process}")] {
        // Where there is none, it has ended by itself.
        let _ = fs::remove_file(Path::new("/dev/shm").join(name));
    }
}

/// Whether [`Node::set_clock`] works on this system.
pub(crate) fn can_set_clocks() -> bool {
    faketime().is_some()
}

/// The library of libfaketime for programs of several threads, where Debian and Fedora have it.
fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let mut folders = folders.chain(["/usr/lib64", "/usr/lib"].map(PathBuf::from));
    folders.find_map(|folder| {
        let file = folder.join("faketime/libfaketimeMT.so.1");
        file.exists().then_some(file)
    })
}

/// The address in a line such as `listening on http://127.0.0.1:8080`.
fn announced(text: &str, words: &str) -> Option<SocketAddr> {
    let rest = text.split_once(words)?.1.strip_prefix("://")?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))?;
    rest[..end].parse().ok()
}

/// The beginning of a configuration: addresses, tiers and a pool. Little memory, so that disk and Redis have their part.
pub(crate) fn basics(number: usize, dir: &Path, origin: SocketAddr, redis: SocketAddr) -> String {
    let disk = quoted(&dir.join("disk"));
    format!(
        r#"node = "n{number}"
[[listen]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[cache.memory]
bytes = "8MiB"
[cache.disk]
dir = {disk}
bytes = "64MiB"
[cache.redis]
url = "redis://{redis}"
budget_ms = 100
[cache.redis.breaker]
failures = 3
open_ms = 50
open_ms_max = 500
[pool.web]
endpoints = ["http://{origin}"]
response_ms = 3000
idle_ms = 3000
[pool.web.eject]
failures = 1000000
"#
    )
}

/// The route for what no other one takes, in the pool of [`basics`].
pub(crate) const REST: &str = r#"[[route]]
name = "everything"
path = "/"
pool = "web"
stale_if_unreachable_ms = 0
"#;

/// A purge may wait until the fence of a node that is cut off has certainly expired.
fn config(number: usize, dir: &Path, surroundings: &Surroundings<'_>) -> String {
    let (log, compiled) = (quoted(&dir.join("access.log")), quoted(&dir.join("compiled")));
    let Surroundings { origin, redis, policy } = surroundings;
    let (basics, policy) = (basics(number, dir, *origin, *redis), quoted(policy));
    format!(
        r#"{basics}[log]
access = {log}
[cache.purge]
ack_ms = 7000
[plugins]
cache_dir = {compiled}
watch = false
[policy.tenant]
file = {policy}
config = {{ require_tenant = true }}
[policy.tenant.limits]
call_us = 1000000
wait_us = 1000000
[policy.tenant.rollout]
hold_ms = 1000
requests_min = 50
[[route]]
name = "tenants"
path = "/t"
pool = "web"
policy = "tenant"
stale_if_unreachable_ms = 0
{REST}"#
    )
}

/// A path as a configuration has it.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

#[test]
fn addresses_are_found_amid_other_words() {
    let text = "INFO listening on http://127.0.0.1:8443 node=n1\nINFO admin on http://127.0.0.1:9000\n";
    assert_eq!(announced(text, "listening on http"), "127.0.0.1:8443".parse().ok());
    assert_eq!(announced(text, "admin on http"), "127.0.0.1:9000".parse().ok());
    assert_eq!(announced("listening on http://127.0.0.1:84", "listening on http"), None, "not all of it is there");
}

#[test]
fn the_configuration_is_one() {
    let address = "127.0.0.1:1".parse().unwrap();
    let policy = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("plugins/dist/tenant-key.wasm");
    let surroundings = Surroundings { origin: address, redis: address, policy: &policy };
    let text = config(2, Path::new("dir"), &surroundings);
    if let Err(error) = holm::config::parse("chaos.toml", &text) {
        panic!("{error}\n{text}");
    }
}
