//! What the regions share.

use std::path::PathBuf;

use http::Uri;
use toml::Spanned;

use super::cache;
use crate::config::{
    Etcd, Global, Tls,
    findings::Findings,
    raw::{self, Field},
    units::MINUTE_MS,
};

/// How an endpoint of etcd is written.
const ENDPOINT: &str = "write `http://host:2379` or, with TLS, `https://host:2379`";

/// Members of a cluster that may be named.
const ENDPOINTS_MAX: usize = 16;

pub(super) fn global(raw: &raw::Global, has_region: bool, findings: &mut Findings<'_>) -> Global {
    if !has_region {
        let help = "add `[region]` with `name = \"eu\"`";
        findings.refuse(raw.etcd.span(), "`[global]` needs the name of this node's region", help);
    }
    let base = Global::new(etcd(raw, findings));
    let given = &raw.purge;
    let purge = raw::Purge {
        tags_max: given.tags_max.clone(),
        patterns_max: given.patterns_max.clone(),
        log_max: given.log_max.clone(),
        ack_ms: given.ack_ms.clone(),
        fence_ms: given.fence_ms.clone(),
        cut_off: given.cut_off.clone(),
        lost_ms: given.lost_ms.clone(),
        invalidations_max: None,
    };
    Global {
        namespace: raw.namespace.as_ref().map_or(base.namespace, |given| findings.name(given, "namespace")),
        purge: cache::purge(&purge, &base.purge, findings),
        etcd: base.etcd,
    }
}

fn etcd(raw: &raw::Global, findings: &mut Findings<'_>) -> Etcd {
    let given = raw.etcd.get_ref();
    if given.is_empty() || given.len() > ENDPOINTS_MAX {
        findings.refuse(raw.etcd.span(), format!("`etcd` has {} endpoints", given.len()), "allowed are 1 to 16");
    }
    let mut endpoints: Vec<String> = Vec::with_capacity(given.len());
    for endpoint in given {
        let url = endpoint.get_ref();
        if let Some(fault) = fault(url) {
            findings.refuse(endpoint.span(), format!("{fault} an endpoint of etcd"), ENDPOINT);
        } else if endpoints.contains(url) {
            findings.refuse(endpoint.span(), format!("`{url}` is named twice"), "leave it out");
        } else {
            endpoints.push(url.clone());
        }
    }
    let base = Etcd::new(endpoints);
    if let (None, Some(password)) = (&raw.user, &raw.password) {
        findings.refuse(password.span(), "a password needs its user", "add `user = \"holm\"`");
    }
    let is_encrypted = base.endpoints.iter().any(|url| url.starts_with("https:"));
    for file in [&raw.ca_file, &raw.cert_file, &raw.key_file].into_iter().flatten().filter(|_| !is_encrypted) {
        findings.refuse(file.span(), "a file of TLS needs an endpoint with TLS", "write `https://host:2379`");
    }
    Etcd {
        user: raw.user.as_ref().map(|given| given.get_ref().clone()),
        password: raw.password.as_ref().map(|given| given.get_ref().clone()),
        ca: raw.ca_file.as_ref().map(|given| findings.file(given, "file of etcd's authorities")),
        client: client(&raw.cert_file, &raw.key_file, findings),
        timeout: findings.millis("timeout_ms", &raw.timeout_ms, base.timeout, &(50..=MINUTE_MS)),
        ..base
    }
}

fn client(certificate: &Field<PathBuf>, key: &Field<PathBuf>, findings: &mut Findings<'_>) -> Option<Tls> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Tls {
            certificate: findings.file(certificate, "certificate for etcd"),
            key: findings.file(key, "key of the certificate for etcd"),
        }),
        (Some(certificate), None) => {
            refuse_half(certificate, "`cert_file` needs `key_file`", findings);
            None
        }
        (None, Some(key)) => {
            refuse_half(key, "`key_file` needs `cert_file`", findings);
            None
        }
        (None, None) => None,
    }
}

fn refuse_half(given: &Spanned<PathBuf>, message: &str, findings: &mut Findings<'_>) {
    findings.refuse(given.span(), message, "both are PEM files");
}

/// Returns what keeps a text from being an endpoint, as the beginning of a message. The text may hold a password, so no
/// message shows it.
fn fault(url: &str) -> Option<&'static str> {
    let Ok(uri) = url.parse::<Uri>() else { return Some("what is no URL can't be") };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Some("a URL of another scheme than `http` and `https` can't be");
    }
    let Some(authority) = uri.authority() else { return Some("a URL without a host can't be") };
    if authority.as_str().contains('@') {
        return Some("a URL with a user in it can't be");
    }
    if uri.host().is_none_or(str::is_empty) || authority.port_u16().is_none() {
        return Some("a URL without a host and a port can't be");
    }
    let is_bare = uri.path_and_query().is_none_or(|rest| rest.as_str() == "/") && !url.contains('#');
    (!is_bare).then_some("a URL with a path or a query can't be")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_etcd() {
        for url in ["http://127.0.0.1:2379", "https://etcd-1.example:2379/", "http://[::1]:2379"] {
            assert_eq!(fault(url), None, "{url}");
        }
        for (url, reason) in [
            ("127.0.0.1:2379", "scheme"),
            ("ftp://h:1", "scheme"),
            ("http://h", "port"),
            ("http://u:p@h:1", "user"),
            ("http://h:1/v3", "path"),
            ("http://h:1?x", "path"),
            ("http://a b:1", "no URL"),
        ] {
            assert!(fault(url).is_some_and(|fault| fault.contains(reason)), "{url}: {:?}", fault(url));
        }
    }
}
