//! TLS of the command line to an admin API, or to another server that it asks.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper_rustls::ConfigBuilderExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use thiserror::Error;

/// The files by which an admin API of `https://` and its client know each other.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// PEM file of the authorities of the API's certificate; without one the public roots that are compiled into the
    /// program.
    pub ca: Option<PathBuf>,
    /// PEM files of the certificate that the client shows, and of its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why TLS can't be set up.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file of certificates.
    #[error("`{}` has no certificate that can be used", .0.display())]
    Certificate(PathBuf),
    /// A file with a key. Its parser's words may quote a line of it.
    #[error("`{}` has no private key that can be used", .0.display())]
    Key(PathBuf),
    /// Something else.
    #[error(transparent)]
    Refused(#[from] rustls::Error),
}

impl Trust {
    /// Reads the files.
    pub(crate) fn config(&self) -> Result<ClientConfig, TrustError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.ca {
            None => builder.with_webpki_roots(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(file)?);
                builder.with_root_certificates(roots)
            }
        };
        let Some((certificate, key)) = &self.client else { return Ok(builder.with_no_client_auth()) };
        let own = PrivateKeyDer::from_pem_file(key).map_err(|_| TrustError::Key(key.clone()))?;
        Ok(builder.with_client_auth_cert(certificates(certificate)?, own)?)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found = CertificateDer::pem_file_iter(file).and_then(|found| found.collect::<Result<Vec<_>, _>>());
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| TrustError::Certificate(file.to_owned()))
}
