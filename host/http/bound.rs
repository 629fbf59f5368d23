//! The addresses that are listened on with their certificates, and their exchange for others.

use std::{
    collections::HashSet,
    io::{self, ErrorKind},
    mem,
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tracing::info;

use super::{
    error::Error,
    fronts::{
        quic::{self, Quic},
        tcp::{self, Tcp},
    },
    sockets::{Socket, Sockets},
    tls::{self, CertificateFiles, Certificates},
};
use crate::config;

/// How often ports are chosen by the system until one is free for TCP and UDP alike.
const CHOICES_MAX: u32 = 16;

/// The addresses that are listened on.
pub(super) struct Bound {
    rows: Mutex<Vec<Row>>,
    /// UDP ports that are closed to new connections and have open ones still, the last one at the end.
    closing: Mutex<Vec<quic::Handle>>,
    /// To whoever accepts. They have no limit of their own: listeners that wait there are those of the configuration.
    added: mpsc::UnboundedSender<tcp::Listener>,
    added_quic: mpsc::UnboundedSender<quic::Listener>,
    /// Notified when there are other certificates.
    renewed: Notify,
    metrics: tls::Metrics,
    /// Bound by others, for addresses that are new.
    inherited: Sockets,
}

/// One of them.
#[derive(Clone)]
struct Row {
    listen: config::Listen,
    /// For all fronts; `None` for cleartext.
    certificates: Option<Arc<Certificates>>,
    tcp: tcp::Handle,
    /// The UDP port of the same number, if the address has HTTP/3.
    quic: Option<quic::Handle>,
}

/// Addresses and certificates to be put in the place of others.
#[derive(Default)]
pub(super) struct Prepared {
    rows: Vec<Row>,
    tcp: Front<tcp::Listener, tcp::Handle, tcp::Settings>,
    quic: Front<quic::Listener, quic::Handle, quic::Settings>,
}

/// What a front has otherwise then.
struct Front<L, H, S> {
    new: Vec<L>,
    settings: Vec<(H, S)>,
    gone: Vec<H>,
}

impl<L, H, S> Default for Front<L, H, S> {
    fn default() -> Self {
        Self { new: Vec::new(), settings: Vec::new(), gone: Vec::new() }
    }
}

impl Bound {
    /// Loads certificates and binds every address. Returns the fronts as well, which accept there, and at addresses that
    /// are added later.
    ///
    /// # Errors
    /// The first address that can't be bound, or the first file that can't be used.
    pub(super) async fn bind(
        listen: &[config::Listen],
        metrics: &tls::Metrics,
        inherited: Sockets,
    ) -> Result<(Self, Tcp, Quic), Error> {
        let (added, arriving) = mpsc::unbounded_channel();
        let (added_quic, arriving_quic) = mpsc::unbounded_channel();
        let bound = Self {
            rows: Mutex::default(),
            closing: Mutex::default(),
            added,
            added_quic,
            renewed: Notify::new(),
            metrics: metrics.clone(),
            inherited,
        };
        let Prepared { rows, tcp, quic } = bound.prepare(listen).await?;
        bound.put(rows);
        Ok((bound, Tcp::new(tcp.new, arriving), Quic::new(quic.new, arriving_quic)))
    }

    /// Returns the bound addresses, in the order of the configuration.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.rows.lock().iter().map(|row| row.tcp.address()).collect()
    }

    /// Returns copies of all sockets.
    pub(super) fn copies(&self) -> io::Result<Vec<Socket>> {
        let mut copies = Vec::new();
        for row in &*self.rows.lock() {
            let own = |fd| Socket { name: row.listen.name(), fd, owns_file: row.tcp.owns_file(), key: None };
            copies.extend(row.tcp.copy()?.map(own));
            let Some(quic) = &row.quic else { continue };
            let Some(quic::Inherited { socket, formers }) = quic.copy()? else { continue };
            copies.push(own(socket));
            let name = quic.address().to_string();
            let way = |(key, fd)| Socket { name: name.clone(), fd, owns_file: false, key: Some(key) };
            copies.extend(formers.into_iter().map(way));
        }
        Ok(copies)
    }

    /// Leaves the files of Unix sockets to another process.
    pub(super) fn leave_files(&self) {
        self.rows.lock().iter().for_each(|row| row.tcp.leave_file());
    }

    /// Leaves the UDP sockets to the process that has got the last copies, which passes on what is for this one.
    pub(super) fn divert(&self) {
        self.rows.lock().iter().filter_map(|row| row.quic.as_ref()).for_each(quic::Handle::divert);
    }

    /// Closes the inherited sockets that no address has taken.
    pub(super) fn close_unused(&self) -> Vec<String> {
        self.inherited.close()
    }

    /// Returns the number of sockets that connections are accepted at.
    pub(super) fn sockets(&self) -> usize {
        self.rows.lock().iter().map(|row| 1 + usize::from(row.quic.is_some())).sum()
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
            let row = match former {
                Some(former) => self.go_on(former, one, certificates, &mut prepared)?,
                None => self.open(one, certificates, &mut prepared)?,
            };
            prepared.rows.push(row);
        }
        for row in known {
            prepared.tcp.gone.push(row.tcp);
            prepared.quic.gone.extend(row.quic);
        }
        Ok(prepared)
    }

    /// Has an address go on with what is said of it now.
    fn go_on(
        &self,
        former: Row,
        one: &config::Listen,
        certificates: Option<Arc<Certificates>>,
        prepared: &mut Prepared,
    ) -> Result<Row, Error> {
        let Row { listen, tcp, quic, .. } = former;
        let (same_tls, address) = (listen.tls == one.tls, tcp.address());
        let settings = if same_tls {
            tcp.settings_of(one)
        } else {
            tcp::Settings::new(one, certificates.as_deref(), address.port())?
        };
        prepared.tcp.settings.push((tcp.clone(), settings));
        let quic = match (quic, one.http3.as_ref().zip(certificates.as_deref())) {
            (Some(quic), Some((http3, certificates))) => {
                let settings =
                    if same_tls { quic.settings_of(http3) } else { quic::Settings::new(http3, certificates)? };
                prepared.quic.settings.push((quic.clone(), settings));
                Some(quic)
            }
            (None, Some(_)) => {
                let listener = self.quic(address, one, certificates.as_deref())?;
                let handle = listener.as_ref().map(|listener| listener.handle().clone());
                prepared.quic.new.extend(listener);
                handle
            }
            (gone, None) => {
                prepared.quic.gone.extend(gone);
                None
            }
        };
        Ok(Row { listen: one.clone(), certificates, tcp, quic })
    }

    /// Binds an address that is new.
    fn open(
        &self,
        one: &config::Listen,
        certificates: Option<Arc<Certificates>>,
        prepared: &mut Prepared,
    ) -> Result<Row, Error> {
        let mut choices = 1;
        let (listener, quic) = loop {
            let listener = tcp::Listener::bind(one, certificates.as_deref(), &self.inherited)?;
            match self.quic(listener.handle().address(), one, certificates.as_deref()) {
                Ok(quic) => break (listener, quic),
                // The system chose a port that is free for TCP alone.
                Err(Error::Listen { reason, .. })
                    if reason.kind() == ErrorKind::AddrInUse && one.address.port() == 0 && choices < CHOICES_MAX =>
                {
                    choices += 1;
                }
                Err(error) => return Err(error),
            }
        };
        let handle = quic.as_ref().map(|quic| quic.handle().clone());
        let row = Row { listen: one.clone(), certificates, tcp: listener.handle().clone(), quic: handle };
        prepared.tcp.new.push(listener);
        prepared.quic.new.extend(quic);
        Ok(row)
    }

    /// Binds the UDP port of an address, if it is to have HTTP/3.
    fn quic(
        &self,
        address: SocketAddr,
        one: &config::Listen,
        certificates: Option<&Certificates>,
    ) -> Result<Option<quic::Listener>, Error> {
        let Some((http3, certificates)) = one.http3.as_ref().zip(certificates) else { return Ok(None) };
        let inherited = self.inherited.datagram(address);
        let inherited =
            inherited.map(|socket| quic::Inherited { socket: socket.fd, formers: self.inherited.formers(address) });
        let closing = self.closing.lock();
        quic::Listener::bind((address, one.reuse_port), http3, certificates, (&closing, inherited)).map(Some)
    }

    /// Puts them in the place of those that there are.
    pub(super) fn commit(&self, prepared: Prepared) {
        let Prepared { rows, tcp, quic } = prepared;
        for (handle, settings) in tcp.settings {
            handle.set(settings);
        }
        for (handle, settings) in quic.settings {
            handle.set(settings);
        }
        self.put(rows);
        for listener in tcp.new {
            info!("listening on {}", listener.handle().url());
            // Nobody accepts any more if the server has stopped; then the socket is closed here.
            let _ = self.added.send(listener);
        }
        for listener in quic.new {
            info!("HTTP/3 on https://{}", listener.handle().address());
            let _ = self.added_quic.send(listener);
        }
        for handle in tcp.gone {
            info!("no longer listening on {}", handle.url());
            handle.close();
        }
        let mut closing = self.closing.lock();
        closing.retain(quic::Handle::is_open);
        for handle in quic.gone {
            info!("no longer HTTP/3 on https://{}", handle.address());
            handle.close();
            closing.push(handle);
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
    let suits = |row: &Row| row.listen.reuse_port == one.reuse_port && row.listen.unix == one.unix;
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

    fn over_quic(name: &str) -> config::Listen {
        let http3 = config::Http3 { socket_bytes: 64 * 1024, ..config::Http3::default() };
        config::Listen { http3: Some(http3), ..self_signed(name) }
    }

    async fn bind(listen: &[config::Listen]) -> (Bound, Tcp, Quic) {
        Bound::bind(listen, &tls::Metrics::default(), Sockets::default())
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    async fn exchange(bound: &Bound, listen: &[config::Listen]) {
        bound.commit(bound.prepare(listen).await.unwrap_or_else(|error| panic!("{error}")));
    }

    fn handle(bound: &Bound, at: usize) -> tcp::Handle {
        bound.rows.lock()[at].tcp.clone()
    }

    #[tokio::test]
    async fn addresses_that_stay_keep_their_sockets() {
        let (bound, _tcp, _quic) = bind(&[listen(any()), listen(any())]).await;
        let [first, second] = bound.addresses()[..] else { panic!("two addresses") };
        assert_ne!(first, second);
        // One is named by the port that the system chose, one is gone, and one is new.
        let prepared = bound.prepare(&[listen(first), listen(any())]).await.ok().unwrap();
        assert_eq!((prepared.tcp.new.len(), prepared.tcp.gone.len()), (0, 0), "the second is any as well");
        let prepared = bound.prepare(&[listen(first)]).await.ok().unwrap();
        assert_eq!(prepared.tcp.gone.iter().map(tcp::Handle::address).collect::<Vec<_>>(), [second]);
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
        let (bound, _tcp, _quic) = bind(&[listen(any())]).await;
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
        let (bound, _tcp, _quic) = bind(std::slice::from_ref(&said)).await;
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

    fn quic(bound: &Bound) -> Option<quic::Handle> {
        bound.rows.lock()[0].quic.clone()
    }

    #[tokio::test]
    async fn http_3_comes_and_goes_with_its_address() {
        let (tls, both) = (self_signed("a.example"), over_quic("a.example"));
        let (bound, _tcp, _quic) = bind(std::slice::from_ref(&tls)).await;
        let certificates = || bound.rows.lock()[0].certificates.clone().unwrap();
        let (made, address) = (certificates(), bound.addresses()[0]);
        assert!(quic(&bound).is_none() && bound.sockets() == 1);

        exchange(&bound, std::slice::from_ref(&both)).await;
        let first = quic(&bound).unwrap();
        assert!(Arc::ptr_eq(&made, &certificates()), "a self-signed certificate stays the same");
        assert_eq!((first.address(), bound.sockets()), (address, 2));
        let taken = std::net::UdpSocket::bind(address).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        let same = config::Listen {
            http3: both.http3.clone().map(|it| config::Http3 { port: Some(443), ..it }),
            ..both.clone()
        };
        exchange(&bound, &[same]).await;
        assert!(!first.is_closed() && first.is_open(), "another setting closes nothing");

        exchange(&bound, std::slice::from_ref(&tls)).await;
        assert!(first.is_closed() && quic(&bound).is_none() && bound.sockets() == 1);
        assert!(!handle(&bound, 0).is_closed(), "TCP goes on");
        // Nothing has accepted there, so that its socket is there still.
        exchange(&bound, &[both]).await;
        let second = quic(&bound).unwrap();
        assert_eq!((second.address(), second.is_closed()), (address, false), "a port that is being closed goes on");
        exchange(&bound, &[]).await;
        assert!(second.is_closed() && handles(&bound) == 0);
    }

    fn handles(bound: &Bound) -> usize {
        bound.rows.lock().len()
    }

    #[tokio::test]
    async fn a_port_that_is_taken_for_udp_is_refused_or_chosen_anew() {
        let (bound, _tcp, _quic) = bind(&[over_quic("a.example")]).await;
        assert_eq!(bound.addresses()[0], quic(&bound).unwrap().address());
        let taken = std::net::UdpSocket::bind(any()).unwrap();
        let address = taken.local_addr().unwrap();
        let wanted = config::Listen { address, ..over_quic("a.example") };
        let refused = bound.prepare(&[wanted]).await.err().unwrap().to_string();
        assert!(refused.contains(&address.to_string()) && refused.contains("UDP"), "{refused}");
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
        let (bound, _tcp, _quic) =
            Bound::bind(std::slice::from_ref(&one), &metrics, Sockets::default()).await.ok().unwrap();
        assert!(tells_of("one"));
        assert!(bound.prepare(&[other.clone(), wrong]).await.is_err());
        assert!(tells_of("one") && !tells_of("other"), "it is served by nobody");
        exchange(&bound, &[other]).await;
        assert!(!tells_of("one") && tells_of("other"));
    }
}
