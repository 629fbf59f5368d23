//! The checks that turn a file's values into a configuration: every value within its bounds, every name defined. No I/O
//! here: the files that must exist are listed, and looked for by the caller.

mod cache;
mod dns;
mod endpoint;
mod global;
mod location;
mod policy;
mod pool;
mod replicate;
mod route;
mod routing;
mod socket;
mod tls;
mod translation;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use toml::Spanned;

use super::{
    Admin, Central, Config, Error, Http3, Limits, Listen, Log, Prefetch, Region, Takeover, Timeouts, UnixSocket,
    defaults,
    endpoint::UNIX,
    error::Problem,
    findings::{Findings, NeededFile},
    raw::{self, Raw},
    units::{DAY_MS, GIB, HOUR_MS, KIB, MIB, TIB, YEAR_MS},
};
use crate::message::{Scheme, authority};

/// Who may connect to a Unix socket, and the permissions of its file.
pub(super) const CONNECTS: [(&str, u32); 3] = [("owner", 0o600), ("group", 0o660), ("everyone", 0o666)];

/// A configuration, and all problems that keep it from being used.
pub(super) struct Checked {
    config: Config,
    problems: Vec<Problem>,
    files: Vec<NeededFile>,
}

impl Checked {
    /// Adds a problem for every file that can't be read, those that are known left aside.
    pub(super) fn look_for_files(&mut self, known: &BTreeSet<PathBuf>) {
        let new = self.files.iter().filter(|file| !known.contains(&file.path));
        self.problems.extend(new.filter_map(NeededFile::problem));
    }

    /// Adds problems that were found elsewhere.
    pub(super) fn add(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
    }

    /// Takes out the problems whose places are at `from` or after it, and counts these from there. What is missing
    /// altogether is among them, unless it is an address to listen on.
    pub(super) fn take_from(&mut self, from: usize) -> Vec<Problem> {
        let has_address = !self.config.listen.is_empty();
        let is_after = |problem: &Problem| problem.span.as_ref().map_or(has_address, |span| span.start >= from);
        let (taken, left): (Vec<Problem>, _) = std::mem::take(&mut self.problems).into_iter().partition(is_after);
        self.problems = left;
        taken.into_iter().map(|problem| problem.counted_from(from)).collect()
    }

    /// Returns the configuration, if nothing is wrong with it.
    pub(super) fn finish(self, name: &str, text: &str) -> Result<Config, Error> {
        if !self.problems.is_empty() {
            return Err(Error::invalid(name, text, self.problems));
        }
        let needed = self.files.into_iter().map(|file| file.path).collect();
        Ok(Config { needed, ..self.config })
    }
}

/// Checks everything that can be checked without I/O. Relative paths begin at `base`.
pub(super) fn check(raw: &Raw, base: &Path) -> Checked {
    let mut findings = Findings::new(base);
    let mut taken = BTreeSet::new();
    let tls = tls::common(&raw.tls, &mut findings);
    let http3 = http3(&raw.http3, &mut findings);
    let dns = dns::dns(&raw.dns, &mut findings);
    let mut config = Config {
        node: raw.node.as_ref().map_or_else(defaults::node, |given| findings.name(given, "node")),
        zone: raw.zone.as_ref().map(|given| findings.name(given, "zone")),
        region: raw.region.as_ref().map(|given| region(given, &mut findings)),
        global: raw.global.as_ref().map(|given| global::global(given, raw.region.is_some(), &mut findings)),
        watch: raw.watch.unwrap_or(true),
        listen: listen(&raw.listen, (&tls, &http3), &mut taken, &mut findings),
        http3,
        admin: raw.admin.as_ref().and_then(|raw| admin(raw, &tls, &mut taken, &mut findings)),
        takeover: takeover(&raw.takeover, &mut findings),
        limits: limits(&raw.limits, &mut findings),
        timeouts: timeouts(&raw.timeouts, &mut findings),
        cache: cache::cache(&raw.cache, &mut findings),
        plugins: policy::plugins(&raw.plugins, &mut findings),
        central: raw.central.as_ref().map(|given| central(given, raw.global.is_some(), &mut findings)),
        policies: policy::policies(&raw.policy, &mut findings),
        pools: pool::pools(&raw.pool, raw.zone.as_ref().map(Spanned::get_ref), &dns, &mut findings),
        dns,
        routes: route::routes(raw, &mut findings),
        prefetch: prefetch(&raw.prefetch, &mut findings),
        replication: replicate::of_node(&raw.replicate, &mut findings),
        log: log(&raw.log, &mut findings),
        generation: None,
        file: None,
        digest: None,
        needed: BTreeSet::new(),
    };
    translation::assign(raw, &mut config.routes, &config.pools, &mut findings);
    Checked { config, problems: findings.problems, files: findings.files }
}

fn region(raw: &raw::Region, findings: &mut Findings<'_>) -> Region {
    let client_field = raw.client_field.as_ref().and_then(|given| {
        let field = findings.header(given)?;
        if field.as_str().contains('_') {
            // A field with `-` in its place is taken for the same by some servers.
            let help = "name a field without `_`, such as `x-client-region`";
            findings.refuse(given.span(), format!("`{field}` can't state the region of a client"), help);
        }
        Some(field)
    });
    Region { name: findings.name(&raw.name, "region"), client_field }
}

fn listen(
    raw: &[raw::Listen],
    (common, http3): (&tls::Common, &Http3),
    taken: &mut BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Vec<Listen> {
    if raw.is_empty() {
        findings.missing("there is no address to listen on", "add `[[listen]]` with `address = \"127.0.0.1:8080\"`");
    }
    let mut out = Vec::with_capacity(raw.len());
    for listen in raw {
        let tls = listen.tls.as_ref().map(|raw| tls::listen(raw, common, findings));
        let http3 = over_quic(listen, http3, findings);
        let proxies = listen.proxy_protocol.iter().filter_map(|network| findings.network(network)).collect();
        let base = match listen.address.get_ref().strip_prefix(UNIX) {
            Some(path) => Some(at_file(path, listen, taken, findings)),
            None => at_port(listen, taken, findings),
        };
        out.extend(base.map(|base| Listen { tls, http3, proxy_protocol: proxies, ..base }));
    }
    out
}

/// Returns a Unix socket.
fn at_file(path: &str, raw: &raw::Listen, taken: &mut BTreeSet<String>, findings: &mut Findings<'_>) -> Listen {
    let path = socket::bound(&Spanned::new(raw.address.span(), PathBuf::from(path)), "Unix socket", findings);
    if socket::has_colon(&path) {
        let message = format!("the path of the Unix socket has a colon: `{}`", path.display());
        let help = "name it otherwise: where it is another node's endpoint, its path would end there";
        findings.refuse(raw.address.span(), message, help);
    }
    let base = Listen::unix(path);
    if !taken.insert(base.name()) {
        refuse_taken(&raw.address, findings);
    }
    for given in [&raw.http3, &raw.reuse_port].into_iter().flatten().filter(|given| *given.get_ref()) {
        let help = "leave it out, or listen on an IP address and a port";
        findings.refuse(given.span(), "a Unix socket has no port", help);
    }
    let mode = raw.mode.as_ref().and_then(|given| findings.word("mode", given, &CONNECTS));
    let unix = base.unix.clone().map(|unix| UnixSocket { mode: mode.unwrap_or(unix.mode), ..unix });
    Listen { unix, ..base }
}

fn at_port(raw: &raw::Listen, taken: &mut BTreeSet<String>, findings: &mut Findings<'_>) -> Option<Listen> {
    if let Some(given) = &raw.mode {
        let help = "leave it out, or write `address = \"unix:/run/holm.sock\"`";
        findings.refuse(given.span(), "only a Unix socket has a `mode`", help);
    }
    let base = Listen::new(address(&raw.address, taken, findings)?);
    let reuse_port = raw.reuse_port.as_ref().map_or(base.reuse_port, |given| *given.get_ref());
    Some(Listen { reuse_port, ..base })
}

/// Returns the settings of HTTP/3 on this address, if it is to have it.
fn over_quic(raw: &raw::Listen, base: &Http3, findings: &mut Findings<'_>) -> Option<Http3> {
    let port = raw.http3_port.is_some().then(|| findings.count("http3_port", &raw.http3_port, 443, &(1..=65_535)));
    let wanted = raw.http3.as_ref().filter(|wanted| *wanted.get_ref());
    match (wanted, &raw.http3_port) {
        (Some(wanted), _) if raw.tls.is_none() => {
            let help = "HTTP/3 is always encrypted: add `tls = { certificate = \"…\", key = \"…\" }`";
            findings.refuse(wanted.span(), "`http3` needs a certificate", help);
        }
        (None, Some(port)) => {
            let help = "add `http3 = true`, or leave the port out";
            findings.refuse(port.span(), "only an address with `http3 = true` has `http3_port`", help);
        }
        _ => {}
    }
    wanted.map(|_| Http3 { port, ..base.clone() })
}

fn http3(raw: &raw::Http3, findings: &mut Findings<'_>) -> Http3 {
    let base = Http3::default();
    // A window of a few packets would have a connection wait for each acknowledgement.
    let window = &(64 * KIB..=64 * MIB);
    Http3 {
        port: None,
        advertised: findings.millis("advertised_ms", &raw.advertised_ms, base.advertised, &(0..=YEAR_MS)),
        unvalidated_max: findings.count(
            "unvalidated_max",
            &raw.unvalidated_max,
            base.unvalidated_max,
            &(0..=1_000_000),
        ),
        send_bytes_max: findings.bytes("send_bytes_max", &raw.send_bytes_max, base.send_bytes_max, window),
        receive_bytes_max: findings.bytes("receive_bytes_max", &raw.receive_bytes_max, base.receive_bytes_max, window),
        socket_bytes: findings.bytes("socket_bytes", &raw.socket_bytes, base.socket_bytes, &(64 * KIB..=GIB)),
        segmentation_offload: raw
            .segmentation_offload
            .as_ref()
            .map_or(base.segmentation_offload, |given| *given.get_ref()),
        early_data: raw.early_data.as_ref().map_or(base.early_data, |given| *given.get_ref()),
        early_sessions_max: findings.count(
            "early_sessions_max",
            &raw.early_sessions_max,
            base.early_sessions_max,
            &(1..=1_000_000),
        ),
    }
}

fn admin(
    raw: &raw::Admin,
    common: &tls::Common,
    taken: &mut BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Option<Admin> {
    let tls = raw.tls.as_ref().map(|raw| tls::admin(raw, common, findings));
    let token_file = raw.token_file.as_ref().map(|given| findings.file(given, "file of the admin token"));
    let hosts = raw.hosts.iter().filter_map(|given| host(given, findings)).collect();
    let base = Admin::new(address(&raw.address, taken, findings)?);
    Some(Admin { tls, token_file, hosts, unprotected: raw.unprotected.unwrap_or(base.unprotected), ..base })
}

/// Reads a name by which the admin API may be called.
fn host(given: &Spanned<String>, findings: &mut Findings<'_>) -> Option<String> {
    let text = given.get_ref();
    // Neither a port nor a wildcard, and in the form that the authorities of requests have.
    let normal = authority::normal(text.as_bytes(), Scheme::Http).filter(|normal| **normal == *text.as_bytes());
    if normal.is_none() || text.contains([':', '*']) {
        let help = "write a name in lower case and without a port, such as `edge-1.example.org`";
        findings.refuse(given.span(), format!("{text:?} is no name of the admin API"), help);
        return None;
    }
    Some(text.clone())
}

fn address(given: &Spanned<String>, taken: &mut BTreeSet<String>, findings: &mut Findings<'_>) -> Option<SocketAddr> {
    let text = given.get_ref();
    let Ok(address) = text.parse::<SocketAddr>() else {
        let help = "write an IP address and a port, such as `127.0.0.1:8080`, `0.0.0.0:80` or `[::]:80`";
        findings.refuse(given.span(), format!("`{text}` is no address to listen on"), help);
        return None;
    };
    // Port 0 asks the system for a free one, so any number of listeners may have it.
    if address.port() != 0 && !taken.insert(address.to_string()) {
        refuse_taken(given, findings);
    }
    Some(address)
}

fn refuse_taken(given: &Spanned<String>, findings: &mut Findings<'_>) {
    let message = format!("`{}` is listened on already", given.get_ref());
    findings.refuse(given.span(), message, "give each listener its own address");
}

fn takeover(raw: &raw::Takeover, findings: &mut Findings<'_>) -> Takeover {
    let base = Takeover::default();
    Takeover {
        socket: raw.socket.as_ref().map(|given| socket::bound(given, "socket of `[takeover]`", findings)),
        grace: findings.millis("grace_ms", &raw.grace_ms, base.grace, &(0..=HOUR_MS)),
        ready: findings.millis("ready_ms", &raw.ready_ms, base.ready, &(1_000..=HOUR_MS)),
    }
}

fn central(raw: &raw::Central, has_global: bool, findings: &mut Findings<'_>) -> Central {
    if !has_global {
        let help = "add `[global]` with `etcd = [\"https://host:2379\"]`";
        findings.refuse(raw.dir.span(), "`[central]` needs an etcd to follow", help);
    }
    Central { dir: findings.path(&raw.dir, "directory of the central configuration") }
}

fn limits(raw: &raw::Limits, findings: &mut Findings<'_>) -> Limits {
    let base = Limits::default();
    let spool_memory_bytes_max =
        findings.bytes("spool_memory_bytes_max", &raw.spool_memory_bytes_max, base.spool_memory_bytes_max, &(0..=TIB));
    let spool_bytes_max =
        findings.bytes("spool_bytes_max", &raw.spool_bytes_max, base.spool_bytes_max, &(0..=1024 * TIB));
    Limits {
        connections_max: findings.count(
            "connections_max",
            &raw.connections_max,
            base.connections_max,
            &(1..=1_000_000),
        ),
        streams_max: findings.count("streams_max", &raw.streams_max, base.streams_max, &(1..=10_000)),
        headers_max: findings.count("headers_max", &raw.headers_max, base.headers_max, &(8..=10_000)),
        // 8 KiB is the least that hyper reads a request's head with.
        header_bytes_max: findings.bytes(
            "header_bytes_max",
            &raw.header_bytes_max,
            base.header_bytes_max,
            &(8 * KIB..=16 * MIB),
        ),
        body_bytes_max: findings.bytes("body_bytes_max", &raw.body_bytes_max, base.body_bytes_max, &(0..=TIB)),
        items_max: findings.count("items_max", &raw.items_max, base.items_max, &(1..=1_000_000)),
        body_buffered_bytes_max: findings.bytes(
            "body_buffered_bytes_max",
            &raw.body_buffered_bytes_max,
            base.body_buffered_bytes_max,
            &(0..=GIB),
        ),
        spool_memory_bytes_max,
        spool_bytes_max,
        spool_dir: raw.spool_dir.as_ref().map(|given| findings.path(given, "spool")),
        client_spool_bytes_max: findings.bytes(
            "client_spool_bytes_max",
            &raw.client_spool_bytes_max,
            (spool_memory_bytes_max as u64 + spool_bytes_max) / 4,
            &(0..=1024 * TIB),
        ),
        client_connections_max: findings.count(
            "client_connections_max",
            &raw.client_connections_max,
            base.client_connections_max,
            &(1..=1_000_000),
        ),
        client_streams_max: findings.count(
            "client_streams_max",
            &raw.client_streams_max,
            base.client_streams_max,
            &(1..=1_000_000),
        ),
        client_places_max: findings.count(
            "client_places_max",
            &raw.client_places_max,
            base.client_places_max,
            &(1..=1_000_000),
        ),
        trusted_proxies: match &raw.trusted_proxies {
            Some(given) => given.iter().filter_map(|network| findings.network(network)).collect(),
            None => base.trusted_proxies,
        },
        forwarding_proxies: match &raw.forwarding_proxies {
            Some(given) => given.iter().filter_map(|network| findings.network(network)).collect(),
            None => base.forwarding_proxies,
        },
    }
}

fn timeouts(raw: &raw::Timeouts, findings: &mut Findings<'_>) -> Timeouts {
    let base = Timeouts::default();
    let allowed = &(1..=DAY_MS);
    Timeouts {
        first_byte: findings.millis("first_byte_ms", &raw.first_byte_ms, base.first_byte, allowed),
        headers: findings.millis("headers_ms", &raw.headers_ms, base.headers, allowed),
        body: findings.millis("body_ms", &raw.body_ms, base.body, allowed),
        send: findings.millis("send_ms", &raw.send_ms, base.send, allowed),
        rate_bytes_min: findings.bytes("rate_bytes_min", &raw.rate_bytes_min, base.rate_bytes_min, &(0..=MIB)),
        rate_window: findings.millis("rate_window_ms", &raw.rate_window_ms, base.rate_window, &(100..=HOUR_MS)),
        idle: findings.millis("idle_ms", &raw.idle_ms, base.idle, allowed),
        linger: findings.millis("linger_ms", &raw.linger_ms, base.linger, &(0..=HOUR_MS)),
        drain: findings.millis("drain_ms", &raw.drain_ms, base.drain, &(0..=DAY_MS)),
        drain_delay: findings.millis("drain_delay_ms", &raw.drain_delay_ms, base.drain_delay, &(0..=HOUR_MS)),
    }
}

fn prefetch(raw: &raw::Prefetch, findings: &mut Findings<'_>) -> Prefetch {
    let base = Prefetch::default();
    Prefetch {
        concurrency: findings.count("concurrency", &raw.concurrency, base.concurrency, &(0..=1_000)),
        queue_max: findings.count("queue_max", &raw.queue_max, base.queue_max, &(1..=1_000_000)),
        confidence_percent_min: findings.count(
            "confidence_percent_min",
            &raw.confidence_percent_min,
            base.confidence_percent_min,
            &(0..=100),
        ),
        again: findings.millis("again_ms", &raw.again_ms, base.again, &(0..=HOUR_MS)),
        time_max: findings.millis("time_ms_max", &raw.time_ms_max, base.time_max, &(1..=HOUR_MS)),
    }
}

fn log(raw: &raw::Log, findings: &mut Findings<'_>) -> Log {
    let base = Log::default();
    Log {
        access: raw.access.as_ref().and_then(|given| findings.access_log(given)).unwrap_or(base.access),
        lines_queued_max: findings.count(
            "lines_queued_max",
            &raw.lines_queued_max,
            base.lines_queued_max,
            &(1..=10_000_000),
        ),
        filter: raw.filter.as_ref().map_or(base.filter, |given| findings.log_filter(given)),
        trace_ppm: findings.count("trace_ppm", &raw.trace_ppm, base.trace_ppm, &(0..=1_000_000)),
    }
}
