//! The addresses that are listened on with their certificates, and their exchange for others.

use std::{collections::HashSet, mem, net::SocketAddr, path::Path, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tracing::info;

use super::{
    error::Error,
    fronts::tcp::{Handle, Listener, Settings, Tcp},
    tls::{self, CertificateFiles, Certificates},
};
use crate::config;

/// The addresses that are listened on.
pub(super) struct Bound {
    rows: Mutex<Vec<Row>>,
    /// To whoever accepts. It has no limit of its own: listeners that wait there are those of the configuration.
    added: mpsc::UnboundedSender<Listener>,
    /// Notified when there are other certificates.
    renewed: Notify,
    metrics: tls::Metrics,
}

/// One of them.
#[derive(Clone)]
struct Row {
    listen: config::Listen,
    /// For all fronts; `None` for cleartext.
    certificates: Option<Arc<Certificates>>,
    /// The front over TCP. Another one of this address is a further handle here, and is bound, set and closed with it.
    tcp: Handle,
}

/// Addresses and certificates to be put in the place of others.
#[derive(Default)]
pub(super) struct Prepared {
    rows: Vec<Row>,
    new: Vec<Listener>,
    settings: Vec<(Handle, Settings)>,
    gone: Vec<Handle>,
}

impl Bound {
    /// Loads certificates and binds every address. Returns the front as well, which accepts there, and at addresses that are
    /// added later.
    ///
    /// # Errors
    /// The first address that can't be bound, or the first file that can't be used.
    pub(super) async fn bind(listen: &[config::Listen], metrics: &tls::Metrics) -> Result<(Self, Tcp), Error> {
        let (added, arriving) = mpsc::unbounded_channel();
        let bound = Self { rows: Mutex::default(), added, renewed: Notify::new(), metrics: metrics.clone() };
        let Prepared { rows, new, .. } = bound.prepare(listen).await?;
        bound.put(rows);
        Ok((bound, Tcp::new(new, arriving)))
    }

    /// Returns the bound addresses, in the order of the configuration.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.rows.lock().iter().map(|row| row.tcp.address()).collect()
    }

    /// Returns the certificates of all addresses.
    pub(super) fn certificates(&self) -> CertificateFiles {
        CertificateFiles::new(certificates(&self.rows.lock()))
    }

    /// Waits until there are other certificates than at the last call. For one caller.
    pub(super) async fn renewed(&self) {
        self.renewed.notified().await;
    }

    /// Loads the certificates that are new, and binds the addresses that are.
    ///
    /// # Errors
    /// The first address that can't be bound, or the first file that can't be used.
    pub(super) async fn prepare(&self, listen: &[config::Listen]) -> Result<Prepared, Error> {
        let mut known = self.rows.lock().clone();
        let mut prepared = Prepared::default();
        for one in listen {
            let former = take(&mut known, one);
            // What is the same goes on: a certificate that was made at the start, keys of tickets, and what is known of files.
            let same_tls = former.as_ref().filter(|row| row.listen.tls == one.tls);
            let certificates = match (same_tls, &one.tls) {
                (Some(row), _) => row.certificates.clone(),
                (None, Some(tls)) => Some(Arc::new(Certificates::load(tls, &self.metrics).await?)),
                (None, None) => None,
            };
            let tcp = if let Some(row) = &former {
                let settings = match same_tls {
                    Some(_) => row.tcp.settings_of(one),
                    None => Settings::new(one, certificates.as_deref())?,
                };
                prepared.settings.push((row.tcp.clone(), settings));
                row.tcp.clone()
            } else {
                let listener = Listener::bind(one, certificates.as_deref())?;
                let handle = listener.handle().clone();
                prepared.new.push(listener);
                handle
            };
            prepared.rows.push(Row { listen: one.clone(), certificates, tcp });
        }
        prepared.gone = known.into_iter().map(|row| row.tcp).collect();
        Ok(prepared)
    }

    /// Puts them in the place of those that there are.
    pub(super) fn commit(&self, prepared: Prepared) {
        let Prepared { rows, new, settings, gone } = prepared;
        for (handle, settings) in settings {
            handle.set(settings);
        }
        self.put(rows);
        for listener in new {
            info!("listening on {}://{}", listener.handle().scheme().as_str(), listener.handle().address());
            // Nobody accepts any more if the server has stopped; then the socket is closed here.
            let _ = self.added.send(listener);
        }
        for handle in gone {
            info!("no longer listening on {}://{}", handle.scheme().as_str(), handle.address());
            handle.close();
        }
    }

    /// Exchanges the rows, and has the metrics of certificates follow.
    fn put(&self, rows: Vec<Row>) {
        let now = certificates(&rows);
        let before = certificates(&mem::replace(&mut *self.rows.lock(), rows));
        let is_in =
            |all: &[Arc<Certificates>], one: &Arc<Certificates>| all.iter().any(|other| Arc::ptr_eq(one, other));
        let files: HashSet<&Path> = now.iter().flat_map(|certificates| certificates.files()).collect();
        let gone: Vec<_> = before.iter().filter(|one| !is_in(&now, one)).collect();
        let new: Vec<_> = now.iter().filter(|one| !is_in(&before, one)).collect();
        for file in gone.iter().flat_map(|certificates| certificates.files()).filter(|file| !files.contains(file)) {
            self.metrics.forget(file);
        }
        for certificates in &new {
            certificates.account();
        }
        if !(gone.is_empty() && new.is_empty()) {
            self.renewed.notify_one();
        }
    }
}

/// Takes the row of a listener out of those that are known, if it has one.
fn take(known: &mut Vec<Row>, one: &config::Listen) -> Option<Row> {
    // A socket has that from the start on.
    let suits = |row: &Row| row.listen.reuse_port == one.reuse_port;
    let is_configured = |row: &Row| suits(row) && row.listen.address == one.address;
    // A port that the system chose may be named from now on.
    let is_bound = |row: &Row| suits(row) && row.tcp.address() == one.address;
    let at = known.iter().position(is_configured).or_else(|| known.iter().position(is_bound))?;
    Some(known.remove(at))
}

fn certificates(rows: &[Row]) -> Vec<Arc<Certificates>> {
    rows.iter().filter_map(|row| row.certificates.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    fn listen(address: SocketAddr) -> config::Listen {
        config::Listen::new(address)
    }

    fn any() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn self_signed(name: &str) -> config::Listen {
        let certificate = config::Certificate::SelfSigned { names: vec![name.to_owned()] };
        config::Listen { tls: Some(config::ListenTls::new(vec![certificate])), ..listen(any()) }
    }

    async fn bind(listen: &[config::Listen]) -> (Bound, Tcp) {
        Bound::bind(listen, &tls::Metrics::default()).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn exchange(bound: &Bound, listen: &[config::Listen]) {
        bound.commit(bound.prepare(listen).await.unwrap_or_else(|error| panic!("{error}")));
    }

    fn handle(bound: &Bound, at: usize) -> Handle {
        bound.rows.lock()[at].tcp.clone()
    }

    #[tokio::test]
    async fn addresses_that_stay_keep_their_sockets() {
        let (bound, _tcp) = bind(&[listen(any()), listen(any())]).await;
        let [first, second] = bound.addresses()[..] else { panic!("two addresses") };
        assert_ne!(first, second);
        // One is named by the port that the system chose, one is gone, and one is new.
        let prepared = bound.prepare(&[listen(first), listen(any())]).await.ok().unwrap();
        assert_eq!((prepared.new.len(), prepared.gone.len()), (0, 0), "the second is any as well");
        let prepared = bound.prepare(&[listen(first)]).await.ok().unwrap();
        assert_eq!(prepared.gone.iter().map(Handle::address).collect::<Vec<_>>(), [second]);
        drop(prepared);
        assert_eq!(bound.addresses(), [first, second], "nothing was committed");

        exchange(&bound, &[listen(first), listen(any()), listen(any())]).await;
        assert_eq!(bound.addresses()[..2], [first, second]);
        let third = handle(&bound, 2);
        exchange(&bound, &[listen(first)]).await;
        assert!(third.is_closed() && !handle(&bound, 0).is_closed());
    }

    #[tokio::test]
    async fn an_address_in_use_is_refused_and_nothing_changes() {
        let (bound, _tcp) = bind(&[listen(any())]).await;
        let before = bound.addresses();
        let taken = std::net::TcpListener::bind(any()).unwrap();
        let address = taken.local_addr().unwrap();
        let refused = bound.prepare(&[listen(address)]).await.err().unwrap().to_string();
        assert!(refused.contains(&address.to_string()), "{refused}");
        assert_eq!(bound.addresses(), before);
    }

    #[tokio::test]
    async fn what_is_said_the_same_of_tls_keeps_its_certificates() {
        let said = self_signed("a.example");
        let (bound, _tcp) = bind(std::slice::from_ref(&said)).await;
        let certificates = || bound.rows.lock()[0].certificates.clone().unwrap();
        let (made, address) = (certificates(), bound.addresses());
        assert_eq!(handle(&bound, 0).proxies(), 0);
        exchange(&bound, &[config::Listen { proxy_protocol: vec!["10.0.0.0/8".parse().unwrap()], ..said }]).await;
        assert!(Arc::ptr_eq(&made, &certificates()), "a self-signed certificate stays the same");
        assert_eq!((handle(&bound, 0).proxies(), bound.addresses()), (1, address.clone()));
        exchange(&bound, &[self_signed("b.example")]).await;
        assert!(!Arc::ptr_eq(&made, &certificates()));
        exchange(&bound, &[listen(any())]).await;
        assert_eq!((handle(&bound, 0).scheme().as_str(), bound.addresses()), ("http", address));
    }

    #[tokio::test]
    async fn metrics_tell_of_certificates_that_are_served_alone() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| -> PathBuf {
            let path = dir.path().join(file);
            fs::write(&path, text).unwrap();
            path
        };
        let said = |name: &str| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            let certificate = write(&format!("{name}.pem"), &made.cert.pem());
            let key = write(&format!("{name}.key"), &made.signing_key.serialize_pem());
            let files = config::Certificate::Files { pair: config::Tls { certificate, key }, ocsp: None };
            config::Listen { tls: Some(config::ListenTls::new(vec![files])), ..listen(any()) }
        };
        let (one, other, wrong) = (said("one"), said("other"), said("wrong"));
        write("wrong.key", "no key");
        let (metrics, mut registry) = (tls::Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let tells_of = |name: &str| {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text.contains(&format!("{name}.pem"))
        };
        let (bound, _tcp) = Bound::bind(std::slice::from_ref(&one), &metrics).await.ok().unwrap();
        assert!(tells_of("one"));
        assert!(bound.prepare(&[other.clone(), wrong]).await.is_err());
        assert!(tells_of("one") && !tells_of("other"), "it is served by nobody");
        exchange(&bound, &[other]).await;
        assert!(!tells_of("one") && tells_of("other"));
    }
}
