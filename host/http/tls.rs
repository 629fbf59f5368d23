//! Certificates, keys and the TLS settings of an address, for every front.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

use super::error::Error;
use crate::config;

/// Loads an address's files. `protocols` are those that are offered there, by their names in ALPN (RFC 7301), the
/// preferred one first.
///
/// # Errors
/// The file that can't be read or used.
pub(super) async fn server(files: &config::Tls, protocols: &[&[u8]]) -> Result<ServerConfig, Error> {
    let chain = certificates(&files.certificate, &read(&files.certificate).await?)?;
    let key = private_key(&files.key, &read(&files.key).await?)?;
    settings(chain, key, protocols).map_err(|reason| Error::Tls {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        reason: Box::new(reason),
    })
}

async fn read(file: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(file).await.map_err(|reason| Error::Read { file: file.to_owned(), reason })
}

fn certificates(file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(|error| unfit(file, error.to_string()))?;
    if chain.is_empty() {
        return Err(unfit(file, "no PEM certificate in it".to_owned()));
    }
    Ok(chain)
}

fn private_key(file: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => unfit(file, "no PEM private key in it".to_owned()),
        // The parser's message may quote a line of the file, which is a secret here.
        _ => unfit(file, "not a well-formed PEM private key".to_owned()),
    })
}

fn unfit(file: &Path, reason: String) -> Error {
    Error::Pem { file: file.to_owned(), reason }
}

fn settings(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    // The provider is named here, so that it doesn't depend on which default was installed first.
    let mut settings = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    settings.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // Stateless tickets: resumption costs no memory per client.
    settings.ticketer = ring::Ticketer::new()?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use rcgen::generate_simple_self_signed;
    use tempfile::TempDir;

    use super::*;

    struct Files {
        dir: TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    #[tokio::test]
    async fn a_matching_pair_offers_what_the_front_speaks() {
        let files = Files::new();
        let pair = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = files.write("a.crt", &pair.cert.pem());
        let key = files.write("a.key", &pair.signing_key.serialize_pem());
        let settings = server(&config::Tls { certificate, key }, &[b"h2", b"http/1.1"]).await.unwrap();
        assert_eq!(settings.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[tokio::test]
    async fn an_error_names_the_file_and_what_is_wrong() {
        let files = Files::new();
        let pair = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let other = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = files.write("good.crt", &pair.cert.pem());
        let key = files.write("good.key", &pair.signing_key.serialize_pem());
        let foreign = files.write("foreign.key", &other.signing_key.serialize_pem());
        let empty = files.write("empty.pem", "nothing here");
        let missing = files.dir.path().join("missing.pem");

        let cases = [
            (&missing, &key, "missing.pem", "cannot read"),
            (&empty, &key, "empty.pem", "no PEM certificate"),
            (&certificate, &empty, "empty.pem", "no PEM private key"),
            (&certificate, &foreign, "foreign.key", "certificate"),
        ];
        for (certificate, key, file, words) in cases {
            let files = config::Tls { certificate: certificate.clone(), key: key.clone() };
            let error = server(&files, &[b"h2"]).await.err().unwrap().to_string();
            assert!(error.contains(file) && error.contains(words), "{error}");
        }
    }
}
