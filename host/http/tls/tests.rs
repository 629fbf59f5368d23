//! Tests of the certificates of an address: which is served to whom, and what becomes of changed files.

use std::{fs, path::PathBuf, time::Duration};

use rcgen::generate_simple_self_signed;
use rustls::{
    ClientConfig, ClientConnection, ServerConnection, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tempfile::TempDir;

use super::*;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// Writes a certificate for these names and its key; returns what the configuration says of it and its DER.
    fn pair(&self, file: &str, names: &[&str]) -> (config::Certificate, CertificateDer<'static>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = generate_simple_self_signed(names).unwrap();
        let certificate = self.write(&format!("{file}.pem"), &made.cert.pem());
        let key = self.write(&format!("{file}.key"), &made.signing_key.serialize_pem());
        let said = config::Certificate::Files { pair: config::Tls { certificate, key }, ocsp: None };
        (said, made.cert.der().clone())
    }
}

fn tls(certificates: Vec<config::Certificate>) -> config::ListenTls {
    config::ListenTls::new(certificates)
}

async fn loaded(certificates: Vec<config::Certificate>) -> Certificates {
    let metrics = Metrics::default();
    Certificates::load(&tls(certificates), &metrics).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Takes any certificate: what matters here is which.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Does a handshake in memory, and returns the certificate that the client was shown.
fn shown(
    server: ServerConfig,
    host: &'static str,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<CertificateDer<'static>, rustls::Error> {
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from(host).unwrap())?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(client.peer_certificates().unwrap()[0].clone().into_owned())
}

fn serves(certificates: &Certificates, host: &'static str, wanted: &CertificateDer<'_>) -> bool {
    let server = certificates.server_config(&[b"h2"]).unwrap();
    shown(server, host, &[&TLS13, &TLS12]).unwrap() == *wanted
}

#[tokio::test]
async fn a_matching_pair_offers_what_the_front_speaks() {
    let folder = Folder::new();
    let settings = loaded(vec![folder.pair("a", &["localhost"]).0]).await.server_config(&[b"h2", b"http/1.1"]).unwrap();
    assert_eq!(settings.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(settings.ticketer.enabled());
}

#[tokio::test]
async fn the_oldest_version_is_the_configurations() {
    let folder = Folder::new();
    let (said, der) = folder.pair("a", &["a.example"]);
    for (version_min, speaks_12) in [(TlsVersion::Tls12, true), (TlsVersion::Tls13, false)] {
        let tls = config::ListenTls { version_min, ..tls(vec![said.clone()]) };
        let certificates = Certificates::load(&tls, &Metrics::default()).await.ok().unwrap();
        let server = || certificates.server_config(&[]).unwrap();
        assert_eq!(shown(server(), "a.example", &[&TLS12]).is_ok(), speaks_12);
        assert_eq!(shown(server(), "a.example", &[&TLS13]), Ok(der.clone()));
    }
}

#[tokio::test]
async fn each_host_is_shown_its_certificate_and_others_the_first() {
    let folder = Folder::new();
    let (first, first_der) = folder.pair("first", &["first.example"]);
    let (shop, shop_der) = folder.pair("shop", &["shop.example", "*.shop.example"]);
    let (www, www_der) = folder.pair("www", &["www.shop.example"]);
    let certificates = loaded(vec![first, shop, www]).await;
    for (host, der) in [
        ("first.example", &first_der),
        ("shop.example", &shop_der),
        ("a.shop.example", &shop_der),
        ("www.shop.example", &www_der),
        ("a.b.shop.example", &first_der),
        ("other.example", &first_der),
        // An IP address isn't sent as a host.
        ("192.0.2.1", &first_der),
    ] {
        assert!(serves(&certificates, host, der), "{host}");
    }
}

#[tokio::test]
async fn of_two_for_a_host_the_first_that_the_client_can_use_is_shown() {
    let folder = Folder::new();
    let (one, two) = (folder.pair("one", &["a.example"]), folder.pair("two", &["a.example"]));
    let certificates = loaded(vec![one.0, two.0]).await;
    let table = certificates.served.0.load();
    let [one, two] = [&one.1, &two.1];
    let chosen =
        |can_use: &dyn Fn(&CertifiedKey) -> bool| table.choose(Some("a.example"), can_use).unwrap().cert[0].clone();
    assert_eq!(chosen(&|_| true), *one);
    assert_eq!(chosen(&|key| key.cert[0] == *two), *two);
    assert_eq!(chosen(&|_| false), *one);
}

#[tokio::test]
async fn changed_files_are_served_and_wrong_ones_are_not() {
    let folder = Folder::new();
    let (said, former) = folder.pair("a", &["a.example"]);
    let certificates = loaded(vec![said]).await;
    let settings = certificates.server_config(&[]).unwrap();
    assert!(certificates.look(false).await.is_empty());

    // The key of another one, as in the middle of a renewal.
    let other = generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    folder.write("a.key", &other.signing_key.serialize_pem());
    let refused = certificates.look(false).await;
    assert!(refused.len() == 1 && refused[0].to_string().contains("a.key"), "{refused:?}");
    assert!(serves(&certificates, "a.example", &former));
    assert!(certificates.look(false).await.is_empty(), "it is reported once");
    assert_eq!(certificates.look(true).await.len(), 1, "unless all is to be read again");

    folder.write("a.pem", &other.cert.pem());
    assert!(certificates.look(false).await.is_empty());
    // Settings that were made before serve it as well.
    assert_eq!(shown(settings, "a.example", &[&TLS13]), Ok(other.cert.der().clone()));

    fs::remove_file(folder.path("a.pem")).unwrap();
    assert_eq!(certificates.look(false).await.len(), 1);
    assert!(serves(&certificates, "a.example", other.cert.der()));
}

#[tokio::test]
async fn files_are_looked_at_until_it_is_stopped() {
    let folder = Folder::new();
    let (said, _) = folder.pair("a", &["a.example"]);
    let tls = config::ListenTls { reload: Duration::from_millis(1), ..tls(vec![said]) };
    let certificates = Arc::new(Certificates::load(&tls, &Metrics::default()).await.ok().unwrap());
    let stop = CancellationToken::new();
    let watching = tokio::spawn(CertificateFiles::new(vec![Arc::clone(&certificates)]).watch(stop.clone()));
    let (_, changed) = folder.pair("a", &["a.example"]);
    let seen = async {
        while !serves(&certificates, "a.example", &changed) {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    time::timeout(Duration::from_secs(30), seen).await.expect("the changed certificate is served");
    stop.cancel();
    time::timeout(Duration::from_secs(30), watching).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn an_error_names_the_file_and_what_is_wrong() {
    let folder = Folder::new();
    let pair = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = folder.write("good.crt", &pair.cert.pem());
    let key = folder.write("good.key", &pair.signing_key.serialize_pem());
    let foreign = folder.write("foreign.key", &other.signing_key.serialize_pem());
    let empty = folder.write("empty.pem", "nothing here");
    let missing = folder.path("missing.pem");

    let cases = [
        (&missing, &key, "missing.pem", "cannot read"),
        (&empty, &key, "empty.pem", "no PEM certificate"),
        (&certificate, &empty, "empty.pem", "no PEM private key"),
        (&certificate, &foreign, "foreign.key", "certificate"),
    ];
    for (certificate, key, file, words) in cases {
        let pair = config::Tls { certificate: certificate.clone(), key: key.clone() };
        let said = config::Certificate::Files { pair, ocsp: None };
        let error = Certificates::load(&tls(vec![said]), &Metrics::default()).await.err().unwrap().to_string();
        assert!(error.contains(file) && error.contains(words), "{error}");
    }

    let files = config::Certificate::Files { pair: config::Tls { certificate, key }, ocsp: None };
    let tls = config::ListenTls { client_ca: Some(empty), ..tls(vec![files]) };
    let error = Certificates::load(&tls, &Metrics::default()).await.err().unwrap().to_string();
    assert!(error.contains("empty.pem"), "{error}");
}
