//! A real etcd on ports of its own, alone or as a member of a cluster, that tests stop, freeze and start again.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use holm::config;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use super::{eventually, free_address, process::signal};

/// Set, and empty, if the tests are to do without etcd.
const WANTED: &str = "HOLM_ETCD";

/// Whether there is an etcd for tests. Says so if not.
pub(crate) fn is_there() -> bool {
    let is_there = std::env::var_os(WANTED).is_none_or(|given| !given.is_empty());
    if !is_there {
        eprintln!("skipped: {WANTED} is empty");
    }
    is_there
}

/// A running, frozen or stopped member; gone with this value.
pub(crate) struct Etcd {
    name: String,
    client: u16,
    peer: u16,
    dir: TempDir,
    /// The members that the cluster began with, as its command line has them.
    cluster: String,
    /// Whether it speaks TLS with its clients, by the files of [`CERTIFICATES`].
    is_secured: bool,
    child: Mutex<Option<Child>>,
}

/// The files of an authority, and of a certificate that it has signed, with its key.
const CERTIFICATES: [&str; 3] = ["ca.pem", "certificate.pem", "key.pem"];

impl Etcd {
    /// Starts a cluster of one.
    pub(crate) async fn start() -> Self {
        Self::cluster(1).await.remove(0)
    }

    /// Starts a cluster of one, which speaks TLS, and with clients only that have a certificate of its authority.
    pub(crate) async fn secured() -> Self {
        Self::started(1, true).await.remove(0)
    }

    /// Starts a cluster of so many members.
    pub(crate) async fn cluster(count: usize) -> Vec<Self> {
        Self::started(count, false).await
    }

    async fn started(count: usize, is_secured: bool) -> Vec<Self> {
        // Another process may take a port between the look and etcd's bind; then it ends at once, and other ports are
        // tried.
        for _ in 0..10 {
            let members = Self::prepared(count, is_secured);
            members.iter().for_each(Self::run);
            let mut alive = true;
            for member in &members {
                alive = alive && member.responds_or_ends().await;
            }
            if alive {
                return members;
            }
        }
        panic!("etcd finds no free ports");
    }

    fn prepared(count: usize, is_secured: bool) -> Vec<Self> {
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_address().port(), free_address().port())).collect();
        let named: Vec<String> =
            ports.iter().enumerate().map(|(at, (_, peer))| format!("m{at}=http://127.0.0.1:{peer}")).collect();
        let member = |(at, (client, peer)): (usize, &(u16, u16))| Self {
            name: format!("m{at}"),
            client: *client,
            peer: *peer,
            dir: tempfile::tempdir().unwrap(),
            cluster: named.join(","),
            is_secured,
            child: Mutex::new(None),
        };
        let members: Vec<Self> = ports.iter().enumerate().map(member).collect();
        members.iter().filter(|member| member.is_secured).for_each(Self::certify);
        members
    }

    /// Writes the files that it has for TLS.
    fn certify(&self) {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let texts = [authority.pem(), certificate.pem(), key.serialize_pem()];
        for (name, text) in CERTIFICATES.iter().zip(texts) {
            std::fs::write(self.dir.path().join(name), text).unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_secured { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client)
    }

    /// Returns how it is called, with all that it wants to see of a client.
    pub(crate) fn config(&self) -> config::Etcd {
        let config = config::Etcd::new(vec![self.url()]);
        if !self.is_secured {
            return config;
        }
        let [ca, certificate, key] = CERTIFICATES.map(|name| self.dir.path().join(name));
        config::Etcd { ca: Some(ca), client: Some(config::Tls { certificate, key }), ..config }
    }

    /// Freezes it: connections stay and are even accepted, but get no response.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
    }

    pub(crate) fn cont(&self) {
        self.signal("CONT");
    }

    /// Ends it as `kill -9` does. What it has acknowledged is on its disk.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.lock().take() {
            // It may have ended by itself; waiting reaps it in any case.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same ports with what it has on its disk.
    pub(crate) async fn start_again(&self) {
        self.run();
        assert!(self.responds_or_ends().await, "etcd didn't start again");
    }

    /// Puts a member that was killed, and the cluster that it is alone in, back to what `snapshot` has.
    pub(crate) fn restore(&self, snapshot: &Path) {
        std::fs::remove_dir_all(self.data()).unwrap();
        let (data, cluster, peer) = (self.data(), &self.cluster, self.peer_url());
        let said = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"])
            .arg(snapshot)
            .arg("--data-dir")
            .arg(data)
            .args(["--name", &self.name, "--initial-cluster", cluster, "--initial-advertise-peer-urls", &peer])
            .output()
            .unwrap();
        assert!(said.status.success(), "{said:?}");
    }

    /// Calls its command line, and returns what it says.
    pub(crate) fn control(&self, words: &[&str]) -> String {
        let called =
            Command::new("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]).args(words).output();
        let said = called.unwrap_or_else(|error| panic!("etcdctl: {error}; tests/run installs it"));
        assert!(said.status.success(), "{words:?}: {said:?}");
        String::from_utf8(said.stdout).unwrap()
    }

    /// Returns a client of it alone, which gives up a call after a second.
    pub(crate) fn connected(&self) -> holm::etcd::Etcd {
        holm::etcd::Etcd::new(&self.config()).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    fn signal(&self, name: &str) {
        signal(self.child.lock().as_ref().expect("etcd runs").id(), name);
    }

    fn run(&self) {
        let (url, peer) = (self.url(), self.peer_url());
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.data()).args(["--name", &self.name, "--initial-cluster", &self.cluster]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        if self.is_secured {
            let [ca, certificate, key] = CERTIFICATES.map(|name| self.dir.path().join(name));
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
        }
        // Leaders are elected sooner than by default, so that a test needn't wait for one.
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => *self.child.lock() = Some(child),
            Err(error) => panic!("etcd: {error}; tests/run installs it"),
        }
    }

    /// Returns true when it responds, which takes a majority, false when it has ended.
    async fn responds_or_ends(&self) -> bool {
        let config = config::Etcd { timeout: Duration::from_millis(500), ..self.config() };
        let client = holm::etcd::Etcd::new(&config).unwrap();
        let mut alive = true;
        eventually("etcd responding", async || {
            alive = self.child.lock().as_mut().is_some_and(|child| child.try_wait().unwrap().is_none());
            !alive || matches!(client.get("a").await, Ok(_) | Err(holm::etcd::Error::Refused { .. }))
        })
        .await;
        alive
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
