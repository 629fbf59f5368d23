//! TLS to a pool's endpoints: whose certificates are trusted, and the client's own.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper_rustls::ConfigBuilderExt;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName,
        pem::{self, PemObject},
    },
};
use thiserror::Error;

use crate::config;

/// The variable that names a file of trusted certificates, as OpenSSL, curl and Go read it.
const SSL_CERT_FILE: &str = "SSL_CERT_FILE";

/// Why TLS can't be set up.
#[derive(Debug, Error)]
pub(super) enum TlsError {
    #[error("`{}` has no certificate that can be used: {reason}", file.display())]
    Certificate { file: PathBuf, reason: String },
    /// Without the parser's words, which may quote a line of the file.
    #[error("`{}` has no private key that can be used", file.display())]
    Key { file: PathBuf },
    #[error("`server_name` is no name: {0}")]
    ServerName(#[from] InvalidDnsNameError),
    #[error("{0}")]
    Refused(#[from] rustls::Error),
}

/// Returns the settings of a pool: it trusts its own `ca`, or those of `SSL_CERT_FILE`, or the roots that are compiled
/// into the program. The files are read only if an endpoint needs them.
///
/// # Errors
/// [`TlsError`]: a file that can't be read or used.
pub(super) fn settings(pool: &config::Pool) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    if !pool.endpoints.iter().any(|endpoint| endpoint.url.scheme_str() == Some("https")) {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    }
    let from_environment = || env::var_os(SSL_CERT_FILE).filter(|file| !file.is_empty()).map(PathBuf::from);
    let builder = match pool.tls.ca.clone().or_else(from_environment) {
        Some(file) => builder.with_root_certificates(roots(&file)?),
        None => builder.with_webpki_roots(),
    };
    Ok(match &pool.tls.client {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_auth_cert(certificates(&own.certificate)?, private_key(&own.key)?)?,
    })
}

/// Returns the name that is sent to endpoints (SNI) and that their certificates must have, if it isn't the URL's.
///
/// # Errors
/// [`TlsError::ServerName`] if it isn't a name.
pub(super) fn server_name(tls: &config::OriginTls) -> Result<Option<ServerName<'static>>, TlsError> {
    Ok(tls.server_name.clone().map(ServerName::try_from).transpose()?)
}

/// Bundles of a system may have certificates that can't be used beside those that can.
fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(certificates(file)?).0 == 0 {
        return Err(TlsError::Certificate { file: file.to_owned(), reason: "none is understood".to_owned() });
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unfit = |reason: String| TlsError::Certificate { file: file.to_owned(), reason };
    let text = config::read_file(file).map_err(|error| unfit(error.to_string()))?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err(unfit("there is none in PEM".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unfit(error.to_string())),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let unfit = || TlsError::Key { file: file.to_owned() };
    let text = config::read_file(file).map_err(|_| unfit())?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| unfit())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pool(scheme: &str, ca: Option<PathBuf>) -> config::Pool {
        let url = format!("{scheme}://localhost:1").parse().unwrap();
        config::Pool {
            endpoints: vec![config::Endpoint { url }],
            tls: config::OriginTls { ca, ..config::OriginTls::default() },
            ..crate::origin::tests::config(&[])
        }
    }

    #[test]
    fn files_must_have_what_they_are_named_for_if_an_endpoint_needs_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (path("c", &pair.cert.pem()), path("k", &pair.signing_key.serialize_pem()));
        let (empty, gone) = (path("e", ""), dir.path().join("gone"));
        for (ca, wanted) in [
            (&certificate, None),
            (&key, Some("none in PEM")),
            (&empty, Some("none in PEM")),
            (&gone, Some("No such file")),
        ] {
            let made = settings(&pool("https", Some(ca.clone()))).map(drop).map_err(|error| error.to_string());
            match wanted {
                None => assert_eq!(made, Ok(())),
                Some(words) => assert!(made.clone().is_err_and(|error| error.contains(words)), "{words}: {made:?}"),
            }
            assert!(settings(&pool("http", Some(ca.clone()))).is_ok());
        }
        let client = |certificate: &Path, key: &Path| {
            let mut pool = pool("https", None);
            pool.tls.ca = Some(dir.path().join("c"));
            pool.tls.client = Some(config::Tls { certificate: certificate.to_owned(), key: key.to_owned() });
            settings(&pool).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(client(&certificate, &key), Ok(()));
        assert!(client(&certificate, &empty).is_err_and(|error| error.contains("no private key")));
    }
}
