//! An etcd of the run's own, whose members are frozen, killed, and started again on their directories.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Command, Stdio},
    time::Duration,
};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::faults::Death;
use crate::{client, process::Running};

/// Set, and empty, if plain `cargo test` is to do without etcd.
const WANTED: &str = "HOLM_ETCD";
/// Longest wait for a leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Whether there is an etcd for tests. Says so if not.
pub(super) fn is_wanted() -> bool {
    let is_wanted = std::env::var_os(WANTED).is_none_or(|given| !given.is_empty());
    if !is_wanted {
        eprintln!("skipped: {WANTED} is empty");
    }
    is_wanted
}

/// The members.
pub(super) struct Cluster(Vec<Member>);

struct Member {
    client: u16,
    peer: u16,
    /// Before the directory, so that it ends first.
    running: Mutex<Option<Running>>,
    dir: TempDir,
}

impl Cluster {
    /// Starts so many members, and returns when they have a leader.
    pub(super) async fn start(count: usize) -> Self {
        // Somebody else may take a port between the look and etcd's bind; then that member ends, and others are tried.
        for _ in 0..10 {
            let cluster = Self::prepare(count);
            (0..count).for_each(|at| cluster.launch(at));
            if cluster.has_leader().await {
                return cluster;
            }
        }
        panic!("etcd finds no free ports");
    }

    fn prepare(count: usize) -> Self {
        // Held until all are chosen, so that they differ.
        let held: Vec<TcpListener> = (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let port = |at: usize| held[at].local_addr().unwrap().port();
        let member = |at: usize| Member {
            client: port(2 * at),
            peer: port(2 * at + 1),
            running: Mutex::default(),
            dir: tempfile::tempdir().unwrap(),
        };
        Self((0..count).map(member).collect())
    }

    /// The ports for clients.
    pub(super) fn ports(&self) -> Vec<u16> {
        self.0.iter().map(|member| member.client).collect()
    }

    /// Does this to `count` members, from `first` on.
    pub(super) fn harm(&self, first: usize, count: usize, death: Death) {
        for at in self.meant(first, count) {
            match death {
                Death::Kill => drop(self.0[at].running.lock().take()),
                Death::Freeze => self.signal(at, "STOP"),
            }
        }
    }

    /// Undoes [`Cluster::harm`], and returns when there is a leader again.
    pub(super) async fn mend(&self, first: usize, count: usize, death: Death) {
        for at in self.meant(first, count) {
            match death {
                Death::Kill => self.launch(at),
                Death::Freeze => self.signal(at, "CONT"),
            }
        }
        assert!(self.has_leader().await, "a member of etcd didn't start again");
    }

    fn meant(&self, first: usize, count: usize) -> impl Iterator<Item = usize> {
        let all = self.0.len();
        (first..first + count).map(move |at| at % all)
    }

    fn signal(&self, at: usize, name: &str) {
        if let Some(running) = &*self.0[at].running.lock() {
            running.signal(name);
        }
    }

    fn launch(&self, at: usize) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let member = &self.0[at];
        let all: Vec<String> = (0..self.0.len()).map(|at| format!("m{at}={}", url(self.0[at].peer))).collect();
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(member.dir.path().join("data")).arg("--name").arg(format!("m{at}"));
        command.arg("--initial-cluster").arg(all.join(","));
        for (what, port) in [("client", member.client), ("peer", member.peer)] {
            command.arg(format!("--listen-{what}-urls")).arg(url(port));
        }
        command.arg("--advertise-client-urls").arg(url(member.client));
        command.arg("--initial-advertise-peer-urls").arg(url(member.peer));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        *member.running.lock() = Some(Running::start(&mut command));
    }

    /// Returns true when each member knows a leader, false when one has ended.
    async fn has_leader(&self) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let mut knowing = 0;
            for member in &self.0 {
                if member.running.lock().as_mut().is_none_or(|running| running.ended().is_some()) {
                    return false;
                }
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, member.client));
                knowing += usize::from(client::status(address, "/health").await == Some(200));
            }
            if knowing == self.0.len() {
                return true;
            }
            sleep(LOOK).await;
        }
        panic!("etcd has no leader");
    }
}
