//! What the demo runs on: the embedded origin, a whole node in front of it, and a directory that goes when they go.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use http::Uri;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Error, origin::Origin};
use crate::{
    app::App,
    config::{self, Certificate, Config, Endpoint, Http3, Listen, ListenTls, PolicySource},
};

/// The file that is shown, and that the node runs with but for the places it can't know.
const FILE: &str = include_str!("../../config/demo.toml");
/// The file's policy, so that the program needs no other file.
const POLICY: &[u8] = include_bytes!("../../plugins/dist/tenant-key.wasm");

/// Bytes of the UDP socket's buffers: as many as systems give without being told to.
const SOCKET_BYTES: usize = 64 * 1024;

/// A running origin and a running node.
pub(super) struct Scene {
    /// The origin, for its counts.
    pub(super) origin: Origin,
    /// Where clients of this machine reach the node.
    pub(super) address: SocketAddr,
    /// The same by TLS and HTTP/3, with a certificate that nobody trusts.
    pub(super) encrypted: SocketAddr,
    /// The same for its admin API.
    pub(super) admin: SocketAddr,
    drain: CancellationToken,
    node: JoinHandle<()>,
    directory: Directory,
}

/// What the file can't know.
struct Places<'p> {
    listen: SocketAddr,
    admin: SocketAddr,
    origin: SocketAddr,
    disk: &'p Path,
}

impl Scene {
    /// Starts everything. An address that is taken is replaced by a free port.
    pub(super) async fn set(listen: SocketAddr, admin: SocketAddr) -> Result<Self, Error> {
        let directory = Directory::create().map_err(Error::Directory)?;
        fs::write(directory.file(), FILE).map_err(Error::Directory)?;
        let origin = Origin::start().await.map_err(Error::Origin)?;
        let (listen, admin) = free_pair(listen, admin)?;
        let disk = directory.path.join("cache");
        let config = configuration(&Places { listen, admin, origin: origin.address(), disk: &disk })?;
        let app = Box::pin(App::start(config)).await?;
        let addresses = app.addresses();
        let address = reachable(addresses.first().copied().unwrap_or(listen));
        let encrypted = addresses.last().copied().map_or(address, reachable);
        let admin = reachable(app.admin().unwrap_or(admin));
        let drain = CancellationToken::new();
        let stopping = drain.clone();
        let node = tokio::spawn(async move {
            // What was cut at the deadline is in the node's own log and metrics.
            let _drained = app.run(stopping).await;
        });
        Ok(Self { origin, address, encrypted, admin, drain, node, directory })
    }

    /// Where the configuration can be read.
    pub(super) fn file(&self) -> PathBuf {
        self.directory.file()
    }

    /// Drains the node, then stops the origin.
    pub(super) async fn strike(self) {
        self.drain.cancel();
        // Its only failure is a panic, which the runtime has reported already.
        let _ = self.node.await;
        self.origin.stop().await;
    }
}

/// The file's configuration with the places of this run put in.
fn configuration(places: &Places<'_>) -> Result<Config, config::Error> {
    let mut config = config::parse("demo.toml", FILE)?;
    for listen in &mut config.listen {
        listen.address = places.listen;
    }
    config.listen.push(encrypted(places.listen.ip()));
    config.admin = Some(config::Admin::new(places.admin));
    if let Some(disk) = &mut config.cache.disk {
        disk.dir = places.disk.to_owned();
    }
    for policy in config.policies.values_mut() {
        policy.source = PolicySource::Embedded(POLICY);
    }
    let origin = places.origin.to_string();
    for pool in config.pools.values_mut() {
        // Scheme and path are constants and a socket's address is always an authority, so this can't fail.
        let url = Uri::builder().scheme("http").authority(origin.as_str()).path_and_query("/").build();
        pool.endpoints = url.into_iter().map(Endpoint::new).collect();
    }
    Ok(config)
}

/// A listener with TLS and HTTP/3 at a port that the system chooses.
fn encrypted(ip: IpAddr) -> Listen {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    Listen {
        tls: Some(ListenTls::new(vec![Certificate::SelfSigned { names }])),
        http3: Some(Http3 { socket_bytes: SOCKET_BYTES, ..Http3::default() }),
        ..Listen::new(SocketAddr::new(ip, 0))
    }
}

/// Both addresses, each with another port if its own is taken.
fn free_pair(listen: SocketAddr, admin: SocketAddr) -> Result<(SocketAddr, SocketAddr), Error> {
    // Both sockets are held until both ports are known, so that they differ.
    let (_listener, listen) = bind(listen)?;
    let (_admin_listener, admin) = bind(admin)?;
    Ok((listen, admin))
}

fn bind(wanted: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let bound = match TcpListener::bind(wanted) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => TcpListener::bind((wanted.ip(), 0)),
        bound => bound,
    };
    let told = bound.and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    told.map_err(|cause| Error::Address { address: wanted, cause })
}

/// An address to connect to: a listener on all addresses is reached on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A directory of this run's own.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("holm-demo-{:016x}", fastrand::u64(..)));
        // Not `create_dir_all`: a directory that somebody else has made is not ours to use.
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    fn file(&self) -> PathBuf {
        self.path.join("demo.toml")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What can't be removed is left to the system's own cleaning of its temporary files.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_file_is_valid_and_takes_the_places_of_a_run() {
        let (listen, admin, origin) = (address("127.0.0.1:1"), address("127.0.0.1:2"), address("127.0.0.1:3"));
        let places = Places { listen, admin, origin, disk: Path::new("elsewhere") };
        let config = configuration(&places).unwrap();
        assert_eq!(config.listen.iter().map(|it| it.address).collect::<Vec<_>>(), [listen, address("127.0.0.1:0")]);
        assert_eq!(config.listen.iter().map(|it| it.http3.is_some()).collect::<Vec<_>>(), [false, true]);
        assert_eq!(config.admin, Some(config::Admin::new(admin)));
        assert_eq!(config.cache.disk.unwrap().dir, Path::new("elsewhere"));
        let endpoints: Vec<String> =
            config.pools.values().flat_map(|pool| &pool.endpoints).map(|endpoint| endpoint.url.to_string()).collect();
        assert!(!endpoints.is_empty());
        assert!(endpoints.iter().all(|url| url == "http://127.0.0.1:3/"), "{endpoints:?}");
        assert!(config.policies.values().all(|policy| matches!(policy.source, PolicySource::Embedded(_))));
    }

    #[test]
    fn the_file_uses_a_policy_and_both_modes() {
        let config = config::parse("demo.toml", FILE).unwrap();
        assert!(config.routes.iter().any(|route| route.mode == config::Mode::Http));
        let asked = config.routes.iter().find(|route| route.path == super::super::workload::EMBEDDINGS).unwrap();
        assert_eq!(asked.mode, config::Mode::Infer(config::Protocol::OpenAiEmbeddings));
        assert!(asked.policy.as_ref().is_some_and(|name| config.policies.contains_key(name)));
    }

    #[test]
    fn a_taken_port_is_replaced_and_the_two_differ() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let wanted = taken.local_addr().unwrap();
        let (listen, admin) = free_pair(wanted, wanted).unwrap();
        assert_eq!((listen.ip(), admin.ip()), (wanted.ip(), wanted.ip()));
        assert!(listen != wanted && admin != wanted && listen != admin);
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        for (listens, reached) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")]
        {
            assert_eq!(reachable(address(listens)), address(reached));
        }
    }

    #[test]
    fn a_directory_goes_with_its_owner() {
        let directory = Directory::create().unwrap();
        let path = directory.path.clone();
        fs::write(directory.file(), "x").unwrap();
        assert!(path.is_dir());
        drop(directory);
        assert!(!path.exists());
    }
}
