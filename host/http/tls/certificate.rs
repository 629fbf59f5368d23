//! A certificate with its key, and the files that both are read from.

use std::{
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
};

use blake3::Hash;
use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};

use super::der::{self, Facts};
use crate::{config, http::error::Error};

/// A certificate that can be served. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Certified {
    /// The chain, its key and what is stapled to it.
    pub(super) key: Arc<CertifiedKey>,
    /// What the certificate says; nothing if its form is an unusual one.
    pub(super) facts: Arc<Facts>,
}

/// The contents of a certificate's files.
pub(super) struct Files {
    chain: Vec<u8>,
    key: Vec<u8>,
    ocsp: Option<Vec<u8>>,
}

impl Files {
    /// Reads them. An OCSP response may be missing.
    ///
    /// # Errors
    /// The file that can't be read.
    pub(super) async fn read(pair: &config::Tls, ocsp: Option<&Path>) -> Result<Self, Error> {
        let ocsp = match ocsp {
            None => None,
            Some(file) => match read(file).await {
                Ok(response) => Some(response).filter(|response| !response.is_empty()),
                Err(Error::Read { reason, .. }) if reason.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
        };
        Ok(Self { chain: read(&pair.certificate).await?, key: read(&pair.key).await?, ocsp })
    }

    /// Returns a digest that is different for other contents.
    pub(super) fn digest(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        for part in [self.chain.as_slice(), self.key.as_slice(), self.ocsp.as_deref().unwrap_or_default()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hasher.finalize()
    }

    /// Parses them, and checks that the key is the certificate's.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(super) fn certified(self, pair: &config::Tls) -> Result<Certified, Error> {
        let chain = certificates(&pair.certificate, &self.chain)?;
        let key = private_key(&pair.key, &self.key)?;
        certified(chain, key, self.ocsp).map_err(|reason| Error::Tls {
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
            reason: Box::new(reason),
        })
    }
}

/// Makes a certificate that nobody has signed.
///
/// # Errors
/// A name that isn't one.
pub(super) fn self_signed(names: &[String]) -> Result<Certified, Error> {
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| Error::SelfSigned(error.to_string()))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let certified = certified(vec![made.cert.der().clone()], key.into(), None);
    certified.map_err(|error| Error::SelfSigned(error.to_string()))
}

/// Reads the authorities of clients' certificates.
///
/// # Errors
/// The file can't be read or has none.
pub(super) async fn authorities(file: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(certificates(file, &read(file).await?)?).0 == 0 {
        return Err(unfit(file, "none of its certificates can be used".to_owned()));
    }
    Ok(roots)
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ocsp: Option<Vec<u8>>,
) -> Result<Certified, rustls::Error> {
    // The provider is named here, so that it doesn't depend on which default was installed first.
    let mut key = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
    let facts = key.cert.first().and_then(|leaf| der::read(leaf)).unwrap_or_default();
    // One about another certificate, as after a renewal, would make clients refuse the connection.
    key.ocsp = ocsp.filter(|response| names_serial(response, &facts.serial));
    Ok(Certified { key: Arc::new(key), facts: Arc::new(facts) })
}

/// Whether an OCSP response is about the certificate of this serial number, which stands in it as it does in the
/// certificate (RFC 6960, section 4.1.1).
fn names_serial(response: &[u8], serial: &[u8]) -> bool {
    !serial.is_empty() && response.windows(serial.len()).any(|part| part == serial)
}

async fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || config::read_file(&path)).await;
    let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
    read.map_err(|reason| Error::Read { file: file.to_owned(), reason })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_response_about_the_certificate_is_stapled() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let der = made.cert.der();
        let serial = der::read(der).unwrap().serial;
        let about_it = [b"some bytes ", serial.as_slice(), b" and more"].concat();
        for (response, is_stapled) in
            [(about_it.clone(), true), (b"of another one".to_vec(), false), (Vec::new(), false)]
        {
            let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
            let certified = certified(vec![der.clone()], key.into(), Some(response)).unwrap();
            assert_eq!(certified.key.ocsp, is_stapled.then(|| about_it.clone()));
        }
    }

    #[test]
    fn a_self_signed_certificate_is_for_its_names() {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        assert_eq!(self_signed(&names).unwrap().facts.names, ["localhost"]);
    }
}
