//! The metrics of certificates, by their files.

use std::path::Path;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type ByFile<M> = Family<[(&'static str, String); 1], M>;

/// Handles of the metrics of certificates; clones count into the same numbers.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct Metrics {
    not_after: ByFile<Gauge>,
    refused: ByFile<Gauge>,
    replaced: Counter,
    refusals: Counter,
}

impl Metrics {
    /// Puts the handles into `registry`.
    pub(in crate::http) fn register(&self, registry: &mut Registry) {
        registry.register(
            "tls_certificate_not_after_seconds",
            "When the certificate that is served expires, in seconds since 1970",
            self.not_after.clone(),
        );
        registry.register(
            "tls_certificate_refused",
            "Whether the files of the certificate can't be used, so that the former one is served",
            self.refused.clone(),
        );
        registry.register("tls_certificates_replaced", "Certificates whose files had changed", self.replaced.clone());
        registry.register(
            "tls_certificates_refused",
            "Changed files of certificates that could not be used",
            self.refusals.clone(),
        );
    }

    /// A certificate is served from now on.
    pub(super) fn serves(&self, file: &Path, not_after: Option<i64>) {
        match not_after {
            Some(not_after) => {
                self.not_after.get_or_create(&label(file)).set(not_after);
            }
            None => {
                self.not_after.remove(&label(file));
            }
        }
        self.refused.get_or_create(&label(file)).set(0);
    }

    /// No address has the certificate any more.
    pub(in crate::http) fn forget(&self, file: &Path) {
        self.not_after.remove(&label(file));
        self.refused.remove(&label(file));
    }

    /// A changed certificate is served from now on.
    pub(super) fn replaced(&self) {
        self.replaced.inc();
    }

    /// The files of a certificate have changed and can't be used.
    pub(super) fn refused(&self, file: &Path) {
        self.refused.get_or_create(&label(file)).set(1);
        self.refusals.inc();
    }
}

fn label(file: &Path) -> [(&'static str, String); 1] {
    [("certificate", file.display().to_string())]
}
