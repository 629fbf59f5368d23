//! Pools: their endpoints, and what guards each.

use std::collections::BTreeMap;

use http::Uri;
use toml::Spanned;

use crate::config::{
    Batch, Eject, Endpoint, Health, Pool,
    findings::Findings,
    raw::{self, Named},
    units::{DAY_MS, GIB, HOUR_MS, MINUTE_MS},
};

pub(super) fn pools(raw: &Named<raw::Pool>, it: &mut Findings<'_>) -> BTreeMap<String, Pool> {
    raw.iter().map(|(name, raw)| (it.name(name, "pool"), pool(name, raw, it))).collect()
}

fn pool(name: &Spanned<String>, raw: &raw::Pool, it: &mut Findings<'_>) -> Pool {
    let base = Pool::new(endpoints(name, raw, it));
    let allowed = &(1..=DAY_MS);
    Pool {
        connections_max: it.count("connections_max", &raw.connections_max, base.connections_max, &(1..=100_000)),
        waiting_max: it.count("waiting_max", &raw.waiting_max, base.waiting_max, &(0..=1_000_000)),
        connect: it.millis("connect_ms", &raw.connect_ms, base.connect, allowed),
        response: it.millis("response_ms", &raw.response_ms, base.response, allowed),
        idle: it.millis("idle_ms", &raw.idle_ms, base.idle, allowed),
        keep_alive: it.millis("keep_alive_ms", &raw.keep_alive_ms, base.keep_alive, &(0..=DAY_MS)),
        attempts_max: it.count("attempts_max", &raw.attempts_max, base.attempts_max, &(1..=10)),
        health: raw.health.as_ref().map(|raw| health(raw, it)),
        eject: eject(&raw.eject, it),
        batch: batch(&raw.batch, base.batch, it),
        ..base
    }
}

fn endpoints(name: &Spanned<String>, raw: &raw::Pool, it: &mut Findings<'_>) -> Vec<Endpoint> {
    let given = raw.endpoints.as_ref().filter(|given| !given.get_ref().is_empty());
    let Some(given) = given else {
        let span = raw.endpoints.as_ref().map_or_else(|| name.span(), Spanned::span);
        let help = "write `endpoints = [\"http://127.0.0.1:9000\"]`";
        it.refuse(span, format!("the pool `{}` has no endpoint", name.get_ref()), help);
        return Vec::new();
    };
    let mut out: Vec<Endpoint> = Vec::with_capacity(given.get_ref().len());
    for given in given.get_ref() {
        let text = given.get_ref();
        match endpoint(text) {
            Err(fault) => it.refuse(
                given.span(),
                format!("`{text}` is no endpoint: {fault}"),
                "write `http://host:port` or `https://host:port`",
            ),
            Ok(url) if out.iter().any(|known| known.url == url) => {
                it.refuse(
                    given.span(),
                    format!("the endpoint `{text}` is in this pool twice"),
                    "name each endpoint once",
                );
            }
            Ok(url) => out.push(Endpoint { url }),
        }
    }
    out
}

fn health(raw: &raw::Health, it: &mut Findings<'_>) -> Health {
    let path = raw.path.get_ref();
    if !(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')) {
        it.refuse(raw.path.span(), format!("{path:?} is no path to ask for"), "it begins with `/`, as in `/healthz`");
    }
    let base = Health::new(path.as_str());
    Health {
        interval: it.millis("interval_ms", &raw.interval_ms, base.interval, &(10..=HOUR_MS)),
        timeout: it.millis("timeout_ms", &raw.timeout_ms, base.timeout, &(1..=10 * MINUTE_MS)),
        healthy_after: it.count("healthy_after", &raw.healthy_after, base.healthy_after, &(1..=100)),
        unhealthy_after: it.count("unhealthy_after", &raw.unhealthy_after, base.unhealthy_after, &(1..=100)),
        ..base
    }
}

fn eject(raw: &raw::Eject, it: &mut Findings<'_>) -> Eject {
    let base = Eject::default();
    Eject {
        failures: it.count("failures", &raw.failures, base.failures, &(1..=1_000_000)),
        duration: it.millis("duration_ms", &raw.duration_ms, base.duration, &(1..=HOUR_MS)),
        percent_max: it.count("percent_max", &raw.percent_max, base.percent_max, &(0..=100)),
    }
}

fn batch(raw: &raw::Batch, base: Batch, it: &mut Findings<'_>) -> Batch {
    Batch {
        size_max: it.count("size_max", &raw.size_max, base.size_max, &(1..=10_000)),
        bytes_max: it.bytes("bytes_max", &raw.bytes_max, base.bytes_max, &(1..=GIB)),
        wait_max: it.micros("wait_us_max", &raw.wait_us_max, base.wait_max, &(0..=10_000_000)),
        queue_max: it.count("queue_max", &raw.queue_max, base.queue_max, &(1..=1_000_000)),
        concurrency: it.count("concurrency", &raw.concurrency, base.concurrency, &(1..=1_000)),
        classes_max: it.count("classes_max", &raw.classes_max, base.classes_max, &(1..=100_000)),
    }
}

/// The path and the query are the client's, so an endpoint has none of its own.
fn endpoint(text: &str) -> Result<Uri, &'static str> {
    let url: Uri = text.parse().map_err(|_| "it isn't a URL")?;
    match url.scheme_str() {
        Some("http" | "https") => {}
        Some(_) => return Err("its scheme is neither `http` nor `https`"),
        None => return Err("it doesn't begin with `http://` or `https://`"),
    }
    let Some(authority) = url.authority().filter(|authority| !authority.host().is_empty()) else {
        return Err("it names no host");
    };
    if authority.as_str().contains('@') {
        return Err("it holds a user's name, which would be dropped");
    }
    if authority.port().is_none() && authority.as_str() != authority.host() {
        return Err("its port isn't a number up to 65535");
    }
    if url.path() != "/" || url.query().is_some() || text.contains('#') {
        return Err("it has a path or a query, which come from the client");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_urls() {
        for text in ["http://localhost", "http://10.0.0.1:9000", "https://[::1]:8443/", "HTTP://a.example:80"] {
            assert!(endpoint(text).is_ok(), "{text}: {:?}", endpoint(text));
        }
        let table = [
            ("", "isn't a URL"),
            ("http://", "isn't a URL"),
            ("localhost:9000", "doesn't begin"),
            ("/path", "doesn't begin"),
            ("ftp://host", "scheme"),
            ("http://user@host", "user's name"),
            ("http://host:99999", "port"),
            ("http://host/v1", "path or a query"),
            ("http://host?x=1", "path or a query"),
            ("http://host#x", "path or a query"),
        ];
        for (text, reason) in table {
            assert!(endpoint(text).is_err_and(|fault| fault.contains(reason)), "{text}: {:?}", endpoint(text));
        }
    }
}
