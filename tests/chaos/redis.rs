//! A Redis of the run's own, that is frozen, killed, emptied and brought back with what it knew earlier.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{process::Running, schedule::Back};

/// Longest wait for a reply, and for a start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A Redis and its directory.
pub(crate) struct Redis {
    port: u16,
    dir: TempDir,
    running: Mutex<Option<Running>>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        // Somebody else may take the port between our look and Redis's bind; then it ends at once and we look again.
        for _ in 0..10 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let redis = Self { port, dir: tempfile::tempdir().unwrap(), running: Mutex::default() };
            if redis.launch().await {
                return redis;
            }
        }
        panic!("redis-server finds no free port");
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Stands still: connections stay and are even accepted, no command gets a reply.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    pub(crate) async fn flush(&self) {
        assert!(self.says("FLUSHALL", "+OK").await, "FLUSHALL");
    }

    /// Lays a copy of what it knows aside.
    pub(crate) async fn copy(&self) {
        assert!(self.says("SAVE", "+OK").await, "SAVE");
        fs::copy(self.dump(), self.older()).unwrap();
    }

    /// Ends it, as `kill -9` does, so that it will come back with what `back` says.
    pub(crate) async fn kill(&self, back: Back) {
        if back == Back::Same {
            assert!(self.says("SAVE", "+OK").await, "SAVE");
        }
        drop(self.running.lock().take());
        match back {
            Back::Same => {}
            // It may have nothing to lose: no copy was made since it began.
            Back::Empty => drop(fs::remove_file(self.dump())),
            Back::Older => drop(fs::copy(self.older(), self.dump())),
        }
    }

    pub(crate) async fn start_again(&self) {
        assert!(self.launch().await, "redis-server didn't start again");
    }

    fn dump(&self) -> PathBuf {
        self.dir.path().join("dump.rdb")
    }

    fn older(&self) -> PathBuf {
        self.dir.path().join("older.rdb")
    }

    fn signal(&self, name: &str) {
        if let Some(running) = &*self.running.lock() {
            running.signal(name);
        }
    }

    /// Returns true when it replies, false when it has ended.
    async fn launch(&self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--dbfilename", "dump.rdb", "--dir"]).arg(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = Running::start(&mut command);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if running.ended().is_some() {
                return false;
            }
            if self.says("PING", "+PONG").await {
                *self.running.lock() = Some(running);
                return true;
            }
            sleep(LOOK).await;
        }
        panic!("redis-server doesn't reply");
    }

    /// Whether it replies to a command as it should.
    async fn says(&self, command: &str, wanted: &str) -> bool {
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            stream.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
            let mut said = vec![0; wanted.len()];
            stream.read_exact(&mut said).await.ok()?;
            Some(said == wanted.as_bytes())
        };
        timeout(PATIENCE, exchange).await.ok().flatten().unwrap_or(false)
    }
}
