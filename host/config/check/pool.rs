//! Pools: their endpoints and limits.

use std::collections::BTreeMap;

use http::{HeaderValue, uri::Authority};
use rustls::pki_types::ServerName;
use toml::Spanned;

use super::{endpoint::endpoints, translation};
use crate::{
    config::{
        Batch, Dns, Eject, Endpoint, Health, NameSource, OriginHost, OriginHttp, OriginTls, Pool, Tls,
        findings::Findings,
        nearest::choices,
        raw::{self, Named},
        units::{DAY_MS, GIB, HOUR_MS, KIB, MIB, MINUTE_MS},
    },
    message::compression::Compression,
};

const REQUEST_CODINGS: [(&str, Option<Compression>); 4] = [
    ("none", None),
    ("zstd", Some(Compression::Zstd)),
    ("br", Some(Compression::Brotli)),
    ("gzip", Some(Compression::Gzip)),
];

/// Reads all pools of a node in this zone, which asks for records like this.
pub(super) fn pools(
    raw: &Named<raw::Pool>,
    zone: Option<&String>,
    dns: &Dns,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, Pool> {
    let mut pools = BTreeMap::new();
    for (name, raw) in raw {
        let pool = pool(name, raw, findings);
        // Another pool is none of another zone.
        let is_told_apart = pool.endpoints.iter().any(|endpoint| endpoint.zone.is_some());
        let zone = zone.filter(|_| is_told_apart).cloned();
        let zones = zones(&raw.zones, &pool.endpoints, findings);
        // Nor is a pool that asks for no records another one when they are asked for otherwise.
        let asks = pool.dns == NameSource::Records || pool.endpoints.iter().any(|endpoint| endpoint.service.is_some());
        let records = if asks { dns.clone() } else { Dns::default() };
        pools.insert(findings.name(name, "pool"), Pool { zone, zones, records, ..pool });
    }
    pools
}

/// Reads in which order zones are used. One that no endpoint is in is a slip of the pen.
fn zones(raw: &[Spanned<String>], endpoints: &[Endpoint], findings: &mut Findings<'_>) -> Vec<String> {
    let mut known: Vec<&str> = endpoints.iter().filter_map(|endpoint| endpoint.zone.as_deref()).collect();
    known.sort_unstable();
    known.dedup();
    let mut zones: Vec<String> = Vec::with_capacity(raw.len());
    for given in raw {
        let zone = findings.name(given, "zone");
        if zones.contains(&zone) {
            findings.refuse(given.span(), format!("the zone `{zone}` is named twice"), "leave it out");
        } else if !known.contains(&zone.as_str()) {
            let help = if known.is_empty() {
                "no endpoint of the pool has a `zone`".to_owned()
            } else {
                choices("its endpoints are in", &known, &zone)
            };
            findings.refuse(given.span(), format!("no endpoint of the pool is in the zone `{zone}`"), help);
        } else {
            zones.push(zone);
        }
    }
    zones
}

fn pool(name: &Spanned<String>, raw: &raw::Pool, findings: &mut Findings<'_>) -> Pool {
    let base = Pool::new(endpoints(name, raw, findings));
    let allowed = &(1..=DAY_MS);
    let translation = translation::of_pool(raw, findings);
    let http = raw.http.as_ref().and_then(|given| findings.word("http", given, &VERSIONS)).unwrap_or(base.http);
    Pool {
        dns: raw.dns.as_ref().and_then(|given| findings.word("dns", given, &SOURCES)).unwrap_or(base.dns),
        dns_ttl: findings.millis("dns_ttl_ms", &raw.dns_ttl_ms, base.dns_ttl, &(100..=HOUR_MS)),
        connections_max: findings.count("connections_max", &raw.connections_max, base.connections_max, &(1..=100_000)),
        waiting_max: findings.count("waiting_max", &raw.waiting_max, base.waiting_max, &(0..=1_000_000)),
        connect: findings.millis("connect_ms", &raw.connect_ms, base.connect, allowed),
        response: findings.millis("response_ms", &raw.response_ms, base.response, allowed),
        idle: findings.millis("idle_ms", &raw.idle_ms, base.idle, allowed),
        body: findings.millis("body_ms", &raw.body_ms, base.body, allowed),
        keep_alive: findings.millis("keep_alive_ms", &raw.keep_alive_ms, base.keep_alive, &(0..=DAY_MS)),
        attempts_max: findings.count("attempts_max", &raw.attempts_max, base.attempts_max, &(1..=10)),
        response_headers_max: findings.count(
            "response_headers_max",
            &raw.response_headers_max,
            base.response_headers_max,
            &(8..=10_000),
        ),
        response_header_bytes_max: findings.bytes(
            "response_header_bytes_max",
            &raw.response_header_bytes_max,
            base.response_header_bytes_max,
            &(8 * KIB..=16 * MIB),
        ),
        request_coding: raw
            .request_coding
            .as_ref()
            .and_then(|given| findings.word("request_coding", given, &REQUEST_CODINGS))
            .unwrap_or(base.request_coding),
        response_coding: raw.response_coding.as_ref().map_or(base.response_coding, |given| *given.get_ref()),
        http: translation::version(translation.as_ref(), raw, http, findings),
        ping: findings.millis("ping_ms", &raw.ping_ms, base.ping, &(0..=HOUR_MS)),
        ping_timeout: findings.millis("ping_timeout_ms", &raw.ping_timeout_ms, base.ping_timeout, &(1..=HOUR_MS)),
        host: raw.host.as_ref().and_then(|given| host(given, findings)).unwrap_or(base.host),
        tls: tls(&raw.tls, findings),
        health: raw.health.as_ref().map(|raw| health(raw, findings)),
        eject: eject(&raw.eject, findings),
        batch: batch(&raw.batch, base.batch, findings),
        translation,
        ..base
    }
}

const SOURCES: [(&str, NameSource); 2] = [("system", NameSource::System), ("records", NameSource::Records)];

const VERSIONS: [(&str, OriginHttp); 3] =
    [("1.1", OriginHttp::Http1), ("2", OriginHttp::Http2), ("auto", OriginHttp::Auto)];

/// Reads the host that is named to endpoints: a word, or a name with or without a port.
fn host(given: &Spanned<String>, findings: &mut Findings<'_>) -> Option<OriginHost> {
    match given.get_ref().as_str() {
        "auto" => return Some(OriginHost::ByUrl),
        "client" => return Some(OriginHost::Client),
        _ => {}
    }
    let text = given.get_ref();
    let authority = text.parse::<Authority>().ok().filter(|authority| {
        // A port that isn't a number is neither a port nor part of the host.
        let is_whole = authority.port().is_some() || authority.as_str() == authority.host();
        is_whole && !authority.host().is_empty() && !text.contains('@')
    });
    let named = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if named.is_none() {
        let help = "allowed are `auto`, `client` and a host such as `origin.example` or `origin.example:8080`";
        findings.refuse(given.span(), format!("`host` can't be `{text}`"), help);
    }
    named.map(OriginHost::Named)
}

fn tls(raw: &raw::OriginTls, findings: &mut Findings<'_>) -> OriginTls {
    let client = match (&raw.certificate, &raw.key) {
        (Some(certificate), Some(key)) => Some(Tls {
            certificate: findings.file(certificate, "certificate"),
            key: findings.file(key, "certificate's key"),
        }),
        (None, None) => None,
        (Some(given), None) => {
            findings.refuse(given.span(), "a certificate needs its key", "add `key` beside `certificate`");
            None
        }
        (None, Some(given)) => {
            findings.refuse(given.span(), "a key needs its certificate", "add `certificate` beside `key`");
            None
        }
    };
    if let Some(given) = &raw.server_name
        && ServerName::try_from(given.get_ref().as_str()).is_err()
    {
        let help = "write a name such as `origin.example`, without a port";
        findings.refuse(given.span(), format!("`server_name` can't be `{}`", given.get_ref()), help);
    }
    OriginTls {
        ca: raw.ca.as_ref().map(|given| findings.file(given, "file of trusted certificates")),
        client,
        server_name: raw.server_name.as_ref().map(|given| given.get_ref().clone()),
    }
}

fn health(raw: &raw::Health, findings: &mut Findings<'_>) -> Health {
    let path = raw.path.get_ref();
    if !(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')) {
        findings.refuse(
            raw.path.span(),
            format!("{path:?} is no path to ask for"),
            "it begins with `/`, as in `/healthz`",
        );
    }
    let base = Health::new(path.as_str());
    Health {
        interval: findings.millis("interval_ms", &raw.interval_ms, base.interval, &(10..=HOUR_MS)),
        timeout: findings.millis("timeout_ms", &raw.timeout_ms, base.timeout, &(1..=10 * MINUTE_MS)),
        healthy_after: findings.count("healthy_after", &raw.healthy_after, base.healthy_after, &(1..=100)),
        unhealthy_after: findings.count("unhealthy_after", &raw.unhealthy_after, base.unhealthy_after, &(1..=100)),
        ..base
    }
}

fn eject(raw: &raw::Eject, findings: &mut Findings<'_>) -> Eject {
    let base = Eject::default();
    Eject {
        failures: findings.count("failures", &raw.failures, base.failures, &(1..=1_000_000)),
        duration: findings.millis("duration_ms", &raw.duration_ms, base.duration, &(1..=HOUR_MS)),
        percent_max: findings.count("percent_max", &raw.percent_max, base.percent_max, &(0..=100)),
    }
}

fn batch(raw: &raw::Batch, base: Batch, findings: &mut Findings<'_>) -> Batch {
    Batch {
        size_max: findings.count("size_max", &raw.size_max, base.size_max, &(1..=10_000)),
        bytes_max: findings.bytes("bytes_max", &raw.bytes_max, base.bytes_max, &(1..=GIB)),
        padded: raw.padded.unwrap_or(base.padded),
        wait_max: findings.micros("wait_us_max", &raw.wait_us_max, base.wait_max, &(0..=10_000_000)),
        queue_max: findings.count("queue_max", &raw.queue_max, base.queue_max, &(1..=1_000_000)),
        concurrency: findings.count("concurrency", &raw.concurrency, base.concurrency, &(1..=1_000)),
        concurrency_min: findings.count("concurrency_min", &raw.concurrency_min, base.concurrency_min, &(1..=1_000)),
        classes_max: findings.count("classes_max", &raw.classes_max, base.classes_max, &(1..=100_000)),
        quarantine_max: findings.count("quarantine_max", &raw.quarantine_max, base.quarantine_max, &(0..=1_000_000)),
        quarantine: findings.millis("quarantine_ms", &raw.quarantine_ms, base.quarantine, &(1..=DAY_MS)),
        tenants_max: findings.count("tenants_max", &raw.tenants_max, base.tenants_max, &(1..=10_000)),
        models_max: findings.count("models_max", &raw.models_max, base.models_max, &(0..=1_000)),
        overdue_factor: findings.count("overdue_factor", &raw.overdue_factor, base.overdue_factor, &(0..=1_000)),
        overdue_least: findings.millis("overdue_ms", &raw.overdue_ms, base.overdue_least, &(1..=HOUR_MS)),
        guard: findings.count("guard", &raw.guard, base.guard, &(0..=1_000)),
        endpoints: base.endpoints,
    }
}
