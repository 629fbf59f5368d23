//! A real Redis on a port of its own, that tests stop, freeze and start again.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{eventually, free_address, process::signal};

/// A running, frozen or stopped Redis; gone with this value.
pub(crate) struct Redis {
    port: u16,
    dir: TempDir,
    child: Mutex<Option<Child>>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Another process may take the port between the look and Redis's bind; then it ends at once, and another port
        // is tried.
        for _ in 0..10 {
            let port = free_address().port();
            let mut child = run(port, &dir);
            if responds_or_ends(port, &mut child).await {
                return Self { port, dir, child: Mutex::new(Some(child)) };
            }
        }
        panic!("redis-server finds no free port");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends it a command, and returns the reply.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    /// Returns the names of values that a cache has stored here, with their lengths in bytes.
    pub(crate) async fn values(&self) -> BTreeMap<Vec<u8>, usize> {
        let mut connection = self.connection().await;
        let names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*:o:*").query_async(&mut connection).await.unwrap();
        let mut values = BTreeMap::new();
        for name in names {
            let length = redis::cmd("STRLEN").arg(name.as_slice()).query_async(&mut connection).await.unwrap();
            values.insert(name, length);
        }
        values
    }

    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// Ends it; connections are refused from now on. Its data is lost, unless `SAVE` was called.
    pub(crate) fn stop(&self) {
        if let Some(mut child) = self.child.lock().take() {
            end(&mut child);
        }
    }

    /// Starts it again on the same port, empty or with what was last saved.
    pub(crate) async fn start_again(&self) {
        let mut child = run(self.port, &self.dir);
        assert!(responds_or_ends(self.port, &mut child).await, "redis-server didn't start again");
        *self.child.lock() = Some(child);
    }

    /// Freezes it: connections stay and are even accepted, but get no response.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// Returns the reply to a command, as text.
    pub(crate) async fn command(&self, words: &[&str]) -> String {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let (name, arguments) = words.split_first().unwrap();
        let value: redis::Value = redis::cmd(name).arg(arguments).query_async(&mut connection).await.unwrap();
        match redis::FromRedisValue::from_redis_value(value.clone()) {
            Ok(text) => text,
            Err(_) => format!("{value:?}"),
        }
    }

    /// Returns the URL for a user of its own, which may do everything.
    pub(crate) async fn user(&self, name: &str) -> String {
        self.command(&["ACL", "SETUSER", name, "on", ">word", "~*", "&*", "+@all"]).await;
        format!("redis://{name}:word@127.0.0.1:{}", self.port)
    }

    fn signal(&self, name: &str) {
        signal(self.child.lock().as_ref().expect("Redis runs").id(), name);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(port: u16, dir: &TempDir) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
    command.arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("redis-server: {error}; tests/run installs it"),
    }
}

/// Returns true when it responds, false when it has ended.
async fn responds_or_ends(port: u16, child: &mut Child) -> bool {
    let mut alive = true;
    eventually("redis-server responding", async || {
        alive = child.try_wait().unwrap().is_none();
        !alive || pong(port).await
    })
    .await;
    alive
}

async fn pong(port: u16) -> bool {
    let mut said = [0; 5];
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    stream.write_all(b"PING\r\n").await.is_ok() && stream.read_exact(&mut said).await.is_ok() && said == *b"+PONG"
}

fn end(child: &mut Child) {
    // It may have ended by itself; waiting reaps it in any case.
    let _ = child.kill();
    let _ = child.wait();
}
