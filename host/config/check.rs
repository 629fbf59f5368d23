//! From what a file says to what holds: every value within its bounds, every name defined. No I/O here: the files that
//! must exist are listed, and looked for by the caller.

mod cache;
mod policy;
mod pool;
mod route;

use std::{collections::BTreeSet, net::SocketAddr, path::Path};

use toml::Spanned;

use super::{
    Config, Error, Limits, Listen, Log, Prefetch, Timeouts, Tls, defaults,
    error::Problem,
    findings::{Findings, NeededFile},
    raw::{self, Raw},
    units::{DAY_MS, GIB, HOUR_MS, KIB, MIB, TIB},
};

/// A configuration, and all that keeps it from being used.
pub(super) struct Checked {
    config: Config,
    problems: Vec<Problem>,
    files: Vec<NeededFile>,
}

impl Checked {
    /// Adds a problem for every file that can't be read.
    pub(super) fn look_for_files(&mut self) {
        self.problems.extend(self.files.iter().filter_map(NeededFile::problem));
    }

    /// The configuration, if nothing is wrong with it.
    pub(super) fn finish(self, name: &str, text: &str) -> Result<Config, Error> {
        if self.problems.is_empty() { Ok(self.config) } else { Err(Error::invalid(name, text, self.problems)) }
    }
}

/// Checks everything that can be checked without looking elsewhere. Relative paths begin at `base`.
pub(super) fn check(raw: &Raw, base: &Path) -> Checked {
    let mut it = Findings::new(base);
    let mut taken = BTreeSet::new();
    let config = Config {
        node: raw.node.as_ref().map_or_else(defaults::node, |given| it.name(given, "node")),
        listen: listen(&raw.listen, &mut taken, &mut it),
        admin: raw.admin.as_ref().and_then(|admin| address(&admin.address, &mut taken, &mut it)),
        limits: limits(&raw.limits, &mut it),
        timeouts: timeouts(&raw.timeouts, &mut it),
        cache: cache::cache(&raw.cache, &mut it),
        plugins: policy::plugins(&raw.plugins, &mut it),
        policies: policy::policies(&raw.policy, &mut it),
        pools: pool::pools(&raw.pool, &mut it),
        routes: route::routes(raw, &mut it),
        prefetch: prefetch(&raw.prefetch, &mut it),
        log: log(&raw.log, &mut it),
        file: None,
    };
    Checked { config, problems: it.problems, files: it.files }
}

fn listen(raw: &[raw::Listen], taken: &mut BTreeSet<SocketAddr>, it: &mut Findings<'_>) -> Vec<Listen> {
    if raw.is_empty() {
        it.missing("there is no address to listen on", "add `[[listen]]` with `address = \"127.0.0.1:8080\"`");
    }
    let mut out = Vec::with_capacity(raw.len());
    for listen in raw {
        let tls = listen.tls.as_ref().map(|tls| Tls {
            certificate: it.file(&tls.certificate, "certificate"),
            key: it.file(&tls.key, "certificate's key"),
        });
        out.extend(address(&listen.address, taken, it).map(|address| Listen { address, tls }));
    }
    out
}

fn address(given: &Spanned<String>, taken: &mut BTreeSet<SocketAddr>, it: &mut Findings<'_>) -> Option<SocketAddr> {
    let text = given.get_ref();
    let Ok(address) = text.parse::<SocketAddr>() else {
        let help = "write an IP address and a port, such as `127.0.0.1:8080`, `0.0.0.0:80` or `[::]:80`";
        it.refuse(given.span(), format!("`{text}` is no address to listen on"), help);
        return None;
    };
    // Port 0 asks the system for a free one, so any number of listeners may have it.
    if address.port() != 0 && !taken.insert(address) {
        it.refuse(given.span(), format!("`{address}` is listened on already"), "give each listener its own address");
    }
    Some(address)
}

fn limits(raw: &raw::Limits, it: &mut Findings<'_>) -> Limits {
    let base = Limits::default();
    let spool_memory_bytes_max =
        it.bytes("spool_memory_bytes_max", &raw.spool_memory_bytes_max, base.spool_memory_bytes_max, &(0..=TIB));
    let spool_bytes_max = it.bytes("spool_bytes_max", &raw.spool_bytes_max, base.spool_bytes_max, &(0..=1024 * TIB));
    Limits {
        connections_max: it.count("connections_max", &raw.connections_max, base.connections_max, &(1..=1_000_000)),
        streams_max: it.count("streams_max", &raw.streams_max, base.streams_max, &(1..=10_000)),
        headers_max: it.count("headers_max", &raw.headers_max, base.headers_max, &(8..=10_000)),
        // 8 KiB is the least that hyper reads a request's head with.
        header_bytes_max: it.bytes(
            "header_bytes_max",
            &raw.header_bytes_max,
            base.header_bytes_max,
            &(8 * KIB..=16 * MIB),
        ),
        body_bytes_max: it.bytes("body_bytes_max", &raw.body_bytes_max, base.body_bytes_max, &(0..=TIB)),
        questions_max: it.count("questions_max", &raw.questions_max, base.questions_max, &(1..=1_000_000)),
        body_buffered_bytes_max: it.bytes(
            "body_buffered_bytes_max",
            &raw.body_buffered_bytes_max,
            base.body_buffered_bytes_max,
            &(0..=GIB),
        ),
        spool_memory_bytes_max,
        spool_bytes_max,
        spool_dir: raw.spool_dir.as_ref().map(|given| it.path(given, "spool")),
        client_spool_bytes_max: it.bytes(
            "client_spool_bytes_max",
            &raw.client_spool_bytes_max,
            (spool_memory_bytes_max as u64 + spool_bytes_max) / 4,
            &(0..=1024 * TIB),
        ),
        client_connections_max: it.count(
            "client_connections_max",
            &raw.client_connections_max,
            base.client_connections_max,
            &(1..=1_000_000),
        ),
        client_streams_max: it.count(
            "client_streams_max",
            &raw.client_streams_max,
            base.client_streams_max,
            &(1..=1_000_000),
        ),
        client_places_max: it.count(
            "client_places_max",
            &raw.client_places_max,
            base.client_places_max,
            &(1..=1_000_000),
        ),
        trusted_proxies: match &raw.trusted_proxies {
            Some(given) => given.iter().filter_map(|network| it.network(network)).collect(),
            None => base.trusted_proxies,
        },
    }
}

fn timeouts(raw: &raw::Timeouts, it: &mut Findings<'_>) -> Timeouts {
    let base = Timeouts::default();
    let allowed = &(1..=DAY_MS);
    Timeouts {
        first_byte: it.millis("first_byte_ms", &raw.first_byte_ms, base.first_byte, allowed),
        headers: it.millis("headers_ms", &raw.headers_ms, base.headers, allowed),
        body: it.millis("body_ms", &raw.body_ms, base.body, allowed),
        send: it.millis("send_ms", &raw.send_ms, base.send, allowed),
        rate_bytes_min: it.bytes("rate_bytes_min", &raw.rate_bytes_min, base.rate_bytes_min, &(0..=MIB)),
        rate_window: it.millis("rate_window_ms", &raw.rate_window_ms, base.rate_window, &(100..=HOUR_MS)),
        idle: it.millis("idle_ms", &raw.idle_ms, base.idle, allowed),
        drain: it.millis("drain_ms", &raw.drain_ms, base.drain, &(0..=DAY_MS)),
    }
}

fn prefetch(raw: &raw::Prefetch, it: &mut Findings<'_>) -> Prefetch {
    let base = Prefetch::default();
    Prefetch {
        concurrency: it.count("concurrency", &raw.concurrency, base.concurrency, &(0..=1_000)),
        queue_max: it.count("queue_max", &raw.queue_max, base.queue_max, &(1..=1_000_000)),
        confidence_percent_min: it.count(
            "confidence_percent_min",
            &raw.confidence_percent_min,
            base.confidence_percent_min,
            &(0..=100),
        ),
        again: it.millis("again_ms", &raw.again_ms, base.again, &(0..=HOUR_MS)),
        time_max: it.millis("time_ms_max", &raw.time_ms_max, base.time_max, &(1..=HOUR_MS)),
    }
}

fn log(raw: &raw::Log, it: &mut Findings<'_>) -> Log {
    let base = Log::default();
    Log {
        access: raw.access.as_ref().and_then(|given| it.access_log(given)).unwrap_or(base.access),
        lines_queued_max: it.count("lines_queued_max", &raw.lines_queued_max, base.lines_queued_max, &(1..=10_000_000)),
    }
}
