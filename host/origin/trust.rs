//! TLS to a pool's endpoints: whose certificates are trusted, and the client's own.

use std::{
    collections::HashSet,
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    slice,
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

/// The variable that names directories of such files, with a colon between them.
const SSL_CERT_DIR: &str = "SSL_CERT_DIR";

/// Files of a directory that are read: many times what systems have.
const FILES_MAX: usize = 10_000;

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

/// Returns the settings of a pool: it trusts its own `ca`, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, or the roots
/// that are compiled into the program. The files are read only if an endpoint needs them.
///
/// # Errors
/// [`TlsError`]: a file that can't be read or used.
pub(super) fn settings(pool: &config::Pool) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    if !pool.endpoints.iter().any(|endpoint| endpoint.url.scheme_str() == Some("https")) {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    }
    let roots = match &pool.tls.ca {
        Some(file) => Some(roots(slice::from_ref(file), &[])?),
        None => roots_named_by(env::var_os(SSL_CERT_FILE), env::var_os(SSL_CERT_DIR))?,
    };
    let builder = match roots {
        Some(roots) => builder.with_root_certificates(roots),
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

/// Returns the certificates of the file and the directories that the environment names; `None` if it names neither.
fn roots_named_by(file: Option<OsString>, dirs: Option<OsString>) -> Result<Option<RootCertStore>, TlsError> {
    let files: Vec<PathBuf> = file.filter(|file| !file.is_empty()).map(PathBuf::from).into_iter().collect();
    let split = |dirs: OsString| env::split_paths(&dirs).collect::<Vec<_>>();
    let dirs = dirs.map(split).unwrap_or_default();
    let dirs: Vec<PathBuf> = dirs.into_iter().filter(|dir| !dir.as_os_str().is_empty()).collect();
    if files.is_empty() && dirs.is_empty() { Ok(None) } else { roots(&files, &dirs).map(Some) }
}

/// Returns the certificates of these files, and of those in these directories. Bundles of a system may have
/// certificates that can't be used beside those that can, and its directories other files.
fn roots(files: &[PathBuf], dirs: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut found = HashSet::new();
    for file in files {
        found.extend(certificates(file)?);
    }
    for dir in dirs {
        found.extend(certificates_in(dir)?);
    }
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(found).0 == 0 {
        let file = files.iter().chain(dirs).next().cloned().unwrap_or_default();
        return Err(TlsError::Certificate { file, reason: "none is understood".to_owned() });
    }
    Ok(roots)
}

/// Returns the certificates of the files in a directory, of which one may be there under several names.
fn certificates_in(dir: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unfit = |error: io::Error| TlsError::Certificate { file: dir.to_owned(), reason: error.to_string() };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(unfit)?.take(FILES_MAX) {
        let path = entry.map_err(unfit)?.path();
        // A pipe would be waited for.
        if path.is_file() {
            found.extend(certificates(&path).unwrap_or_default());
        }
    }
    Ok(found)
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
    use super::*;

    fn pool(scheme: &str, ca: Option<PathBuf>) -> config::Pool {
        let url = format!("{scheme}://localhost:1").parse().unwrap();
        config::Pool {
            endpoints: vec![config::Endpoint::new(url)],
            tls: config::OriginTls { ca, ..config::OriginTls::default() },
            ..crate::origin::tests::config(&[])
        }
    }

    #[test]
    fn what_the_environment_names_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let sub = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (one, two, empty) = (sub("one"), sub("two"), sub("empty"));
        let certificate = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
        let file = dir.path().join("bundle.pem");
        fs::write(&file, certificate() + &certificate()).unwrap();
        let again = certificate();
        for name in ["a.pem", "0123abcd.0"] {
            fs::write(one.join(name), &again).unwrap();
        }
        fs::write(one.join("README"), "no certificate").unwrap();
        fs::create_dir(one.join("private")).unwrap();
        fs::write(two.join("b.pem"), certificate()).unwrap();
        let joined = |dirs: &[&Path]| Some(env::join_paths(dirs).unwrap());
        let named = |file: &Path| Some(file.as_os_str().to_owned());
        for (file, dirs, wanted) in [
            (None, None, Ok(None)),
            (Some(OsString::new()), Some(OsString::new()), Ok(None)),
            (named(&file), None, Ok(Some(2))),
            (None, joined(&[&one]), Ok(Some(1))),
            (None, joined(&[&one, &empty, &two]), Ok(Some(2))),
            (named(&file), joined(&[&two]), Ok(Some(3))),
            (None, joined(&[&empty]), Err("none is understood")),
            (None, joined(&[&dir.path().join("gone")]), Err("No such file")),
            (named(&dir.path().join("gone")), joined(&[&one]), Err("No such file")),
        ] {
            let shown = format!("{file:?} {dirs:?}");
            match (roots_named_by(file, dirs), wanted) {
                (Ok(found), Ok(count)) => assert_eq!(found.map(|roots| roots.len()), count, "{shown}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{shown}: {error}"),
                (found, wanted) => panic!("{shown}: {:?} and not {wanted:?}", found.map(|roots| roots.is_some())),
            }
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
