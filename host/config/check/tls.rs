//! TLS of listening addresses.

use std::{path::PathBuf, time::Duration};

use toml::Spanned;

use crate::config::{Certificate, ListenTls, Tls, TlsVersion, findings::Findings, raw, units::DAY_MS};

const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];

/// What holds for all listeners with TLS.
pub(super) struct Common {
    version_min: TlsVersion,
    reload: Duration,
}

pub(super) fn common(raw: &raw::Tls, findings: &mut Findings<'_>) -> Common {
    let base = ListenTls::new(Vec::new());
    let version = raw.version_min.as_ref().and_then(|given| findings.word("version_min", given, &VERSIONS));
    Common {
        version_min: version.unwrap_or(base.version_min),
        reload: findings.millis("reload_ms", &raw.reload_ms, base.reload, &(0..=DAY_MS)),
    }
}

pub(super) fn listen(raw: &raw::ListenTls, common: &Common, findings: &mut Findings<'_>) -> ListenTls {
    let mut certificates = vec![files(&raw.certificate, &raw.key, raw.ocsp.as_ref(), findings)];
    certificates.extend(raw.further.iter().map(|raw| files(&raw.certificate, &raw.key, raw.ocsp.as_ref(), findings)));
    settings(certificates, common)
}

pub(super) fn admin(raw: &raw::AdminTls, common: &Common, findings: &mut Findings<'_>) -> ListenTls {
    let certificates = vec![files(&raw.certificate, &raw.key, None, findings)];
    let client_ca = raw.client_ca.as_ref().map(|given| findings.file(given, "file of the clients' authorities"));
    ListenTls { client_ca, ..settings(certificates, common) }
}

fn settings(certificates: Vec<Certificate>, common: &Common) -> ListenTls {
    ListenTls { version_min: common.version_min, reload: common.reload, ..ListenTls::new(certificates) }
}

fn files(
    certificate: &Spanned<PathBuf>,
    key: &Spanned<PathBuf>,
    ocsp: Option<&Spanned<PathBuf>>,
    findings: &mut Findings<'_>,
) -> Certificate {
    Certificate::Files {
        pair: Tls {
            certificate: findings.file(certificate, "certificate"),
            key: findings.file(key, "certificate's key"),
        },
        // It may come later than the certificate.
        ocsp: ocsp.map(|given| findings.path(given, "OCSP response")),
    }
}
