//! Certificates, keys and the TLS settings of an address, for every front.
//!
//! Which certificate a client is shown is decided in each handshake (`names`), so that those that were read again from
//! their files (`certificate`) are used from the next connection on; connections that are open keep theirs.

mod certificate;
mod der;
mod metrics;
mod names;

use std::{path::Path, sync::Arc};

use arc_swap::ArcSwap;
use blake3::Hash;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{sync::Mutex, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    certificate::{Certified, Files},
    names::Names,
};
use super::error::Error;
use crate::config::{self, TlsVersion};

pub(super) use self::metrics::Metrics;

/// The certificates of one address, for all fronts that listen there.
pub(super) struct Certificates {
    tls: config::ListenTls,
    served: Arc<Served>,
    /// Asks clients for a certificate.
    client: Option<Arc<dyn ClientCertVerifier>>,
    /// Digests of what the files had at the last look; it is held while they are looked at.
    seen: Mutex<Vec<Hash>>,
    metrics: Metrics,
}

impl Certificates {
    /// Reads all files. Nothing is served yet.
    ///
    /// # Errors
    /// The first file that can't be read or used.
    pub(super) async fn load(tls: &config::ListenTls, metrics: &Metrics) -> Result<Self, Error> {
        let (mut certificates, mut seen) = (Vec::new(), Vec::new());
        for said in &tls.certificates {
            let (certified, digest) = match said {
                config::Certificate::SelfSigned { names } => {
                    (certificate::self_signed(names)?, Hash::from_bytes([0; blake3::OUT_LEN]))
                }
                config::Certificate::Files { pair, ocsp } => {
                    let files = Files::read(pair, ocsp.as_deref()).await?;
                    let digest = files.digest();
                    (files.certified(pair)?, digest)
                }
            };
            certificates.push(certified);
            seen.push(digest);
        }
        Ok(Self {
            tls: tls.clone(),
            served: Arc::new(Served(ArcSwap::from_pointee(Table::new(certificates)))),
            client: client_verifier(tls).await?,
            seen: Mutex::new(seen),
            metrics: metrics.clone(),
        })
    }

    /// Has the metrics tell of its certificates, which are served from now on.
    pub(super) fn account(&self) {
        let served = self.served.0.load();
        for (said, certified) in self.tls.certificates.iter().zip(&served.certificates) {
            if let config::Certificate::Files { pair, .. } = said {
                serves(pair, certified, &self.metrics);
            }
        }
    }

    /// Returns the files of its certificates, by which metrics tell them apart.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.tls.certificates.iter().filter_map(|said| match said {
            config::Certificate::Files { pair, .. } => Some(pair.certificate.as_path()),
            config::Certificate::SelfSigned { .. } => None,
        })
    }

    /// Whether clients are asked for a certificate.
    pub(super) const fn asks_clients(&self) -> bool {
        self.client.is_some()
    }

    /// Returns the settings of a front; they always serve the certificates that were read last. `protocols` are those that
    /// are offered, by their names in ALPN (RFC 7301), the preferred one first.
    ///
    /// # Errors
    /// There is no randomness for the keys of session tickets.
    pub(super) fn server_config(&self, protocols: &[&[u8]]) -> Result<ServerConfig, Error> {
        self.settings(protocols).map_err(|error| Error::Settings(Box::new(error)))
    }

    fn settings(&self, protocols: &[&[u8]]) -> Result<ServerConfig, rustls::Error> {
        let (both, latest) = ([&TLS13, &TLS12], [&TLS13]);
        let versions: &[&'static SupportedProtocolVersion] = match self.tls.version_min {
            TlsVersion::Tls12 => &both,
            TlsVersion::Tls13 => &latest,
        };
        // The provider is named here, so that it doesn't depend on which default was installed first.
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions)?;
        let builder = match &self.client {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
        };
        let mut settings = builder.with_cert_resolver(self.served.clone());
        settings.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        // Stateless tickets: resumption costs no memory per client. Their keys are exchanged every six hours, and a ticket is
        // accepted for twelve.
        settings.ticketer = ring::Ticketer::new()?;
        Ok(settings)
    }

    /// Looks at the files every now and then and serves what has changed, until it is stopped.
    async fn watch(&self, stop: &CancellationToken) {
        if self.tls.reload.is_zero() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(self.tls.reload) => {}
            }
            for error in self.look(false).await {
                warn!(%error, "a changed certificate can't be used; the former one is served on");
            }
        }
    }

    /// Reads the files and serves what has changed. Returns what can't be used: all of it, or only what has changed since
    /// the last look.
    async fn look(&self, all: bool) -> Vec<Error> {
        let mut seen = self.seen.lock().await;
        let mut certificates = self.served.0.load().certificates.clone();
        let (mut has_changed, mut refused) = (false, Vec::new());
        let places = certificates.iter_mut().zip(seen.iter_mut());
        for (said, (served, seen)) in self.tls.certificates.iter().zip(places) {
            let config::Certificate::Files { pair, ocsp } = said else { continue };
            let files = Files::read(pair, ocsp.as_deref()).await;
            let digest = match &files {
                Ok(files) => files.digest(),
                Err(error) => blake3::hash(error.to_string().as_bytes()),
            };
            let is_new = digest != *seen;
            if !is_new && !all {
                continue;
            }
            *seen = digest;
            match files.and_then(|files| files.certified(pair)) {
                Ok(certified) if is_new => {
                    serves(pair, &certified, &self.metrics);
                    self.metrics.replaced();
                    info!(certificate = %pair.certificate.display(), "a changed certificate is served from now on");
                    *served = certified;
                    has_changed = true;
                }
                Ok(_) => {}
                Err(error) => {
                    if is_new {
                        self.metrics.refused(&pair.certificate);
                    }
                    refused.push(error);
                }
            }
        }
        if has_changed {
            self.served.0.store(Arc::new(Table::new(certificates)));
        }
        refused
    }
}

/// Notes that a certificate is served from now on.
fn serves(pair: &config::Tls, certified: &Certified, metrics: &Metrics) {
    let not_after = Some(certified.facts.not_after).filter(|_| !certified.facts.serial.is_empty());
    metrics.serves(&pair.certificate, not_after);
}

async fn client_verifier(tls: &config::ListenTls) -> Result<Option<Arc<dyn ClientCertVerifier>>, Error> {
    let Some(file) = &tls.client_ca else { return Ok(None) };
    let roots = Arc::new(certificate::authorities(file).await?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(ring::default_provider())).build();
    let refused = |reason: String| Error::ClientCertificates { authorities: file.clone(), reason };
    verifier.map(Some).map_err(|error| refused(error.to_string()))
}

/// What is served at present.
#[derive(Debug)]
struct Served(ArcSwap<Table>);

#[derive(Debug)]
struct Table {
    certificates: Vec<Certified>,
    names: Names,
}

impl Table {
    fn new(certificates: Vec<Certified>) -> Self {
        let names = Names::new(certificates.iter().map(|certified| certified.facts.names.as_slice()));
        Self { certificates, names }
    }

    /// Returns the certificate for a host: of several the first that the client can use, and the first of all for a host
    /// that none is for.
    fn choose(&self, host: Option<&str>, can_use: impl Fn(&CertifiedKey) -> bool) -> Option<&Arc<CertifiedKey>> {
        let found = host.map(|host| self.names.find(host)).unwrap_or_default();
        let position = match found {
            [] => 0,
            [only] => *only,
            // As of two with an ECDSA and an RSA key.
            [first, ..] => {
                let usable = |at: &&usize| self.certificates.get(**at).is_some_and(|certified| can_use(&certified.key));
                *found.iter().find(usable).unwrap_or(first)
            }
        };
        self.certificates.get(position).map(|certified| &certified.key)
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.0.load();
        let can_use = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        table.choose(hello.server_name(), can_use).cloned()
    }
}

/// The certificates of all addresses of a server, to be read again. Clones are the same.
#[derive(Clone, Default)]
pub struct CertificateFiles(Vec<Arc<Certificates>>);

impl CertificateFiles {
    pub(super) fn new(certificates: Vec<Arc<Certificates>>) -> Self {
        Self(certificates)
    }

    /// Reads all certificates, keys and OCSP responses again, and serves those that have changed to new connections.
    /// Returns what can't be used; in its place the former certificate is served on.
    pub async fn reload(&self) -> Vec<Error> {
        let mut refused = Vec::new();
        for certificates in &self.0 {
            refused.append(&mut certificates.look(true).await);
        }
        refused
    }

    /// Looks at the files as often as the configuration says, until it is stopped.
    pub(super) async fn watch(self, stop: CancellationToken) {
        let watching = self.0.iter().map(|certificates| certificates.watch(&stop));
        futures_util::future::join_all(watching).await;
    }
}

#[cfg(test)]
mod tests;
