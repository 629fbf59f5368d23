//! The default values. Written here once; `config/holm.toml` documents the same values, and a
//! test compares the two.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::HeaderName;

use super::{
    AccessLog, Admin, Batch, Breaker, Cache, Certificate, Collapse, Compress, Conditions, CutOff, Defaults, Deltas,
    Disk, Dns, Eject, Endpoint, Etcd, Extensions, FieldEdits, ForwardPath, Global, Health, Http3, Limits, Listen,
    ListenTls, Log, Memo, Memory, Mode, NameSource, OnFault, OriginHost, OriginHttp, OriginTls, Plugins, PolicyLimits,
    Pool, PoolProtocol, Prefetch, Purge, QueryKey, RangeMiss, Redis, Reload, Rollout, RolloutMode, Route,
    StoreSetCookie, Takeover, TenantBy, Timeouts, TlsVersion, Translation, UnixSocket, endpoint::UNIX,
    findings::is_name,
};
use crate::message::network::Cidr;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Owner and group may connect to a Unix socket.
const UNIX_MODE: u32 = 0o660;

/// The most batches of a pool that may be under way at once.
const BATCHES_MAX: usize = 1_000;

/// Members by which the inputs of a request belong together: embeddings that depend on the whole document (Jina), a
/// conversation instead of inputs (vLLM), a response in pieces.
const INDIVISIBLE: [&str; 3] = ["late_chunking", "messages", "stream"];

/// Returns the host's name where the environment has it, else `holm`.
pub(super) fn node() -> String {
    std::env::var("HOSTNAME").ok().filter(|name| is_name(name)).unwrap_or_else(|| "holm".to_owned())
}

impl Listen {
    /// Cleartext at `address`, for clients that connect by themselves.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, unix: None, tls: None, http3: None, proxy_protocol: Vec::new(), reuse_port: false }
    }

    /// Cleartext at a Unix socket whose owner and group may connect. Its clients count as 127.0.0.1: they are on this
    /// machine.
    #[must_use]
    pub fn unix(path: PathBuf) -> Self {
        let unix = Some(UnixSocket { path, mode: UNIX_MODE });
        Self { unix, ..Self::new(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)) }
    }

    /// Returns the address as a file has it.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.unix {
            Some(unix) => format!("{UNIX}{}", unix.path.display()),
            None => self.address.to_string(),
        }
    }
}

impl Default for Takeover {
    /// None; 2 s for one more request, and a minute for the other process.
    fn default() -> Self {
        Self { socket: None, grace: Duration::from_secs(2), ready: Duration::from_secs(60) }
    }
}

impl ListenTls {
    /// TLS 1.2 and 1.3 with these certificates, whose files are looked at every 10 s; no client certificates.
    #[must_use]
    pub fn new(certificates: Vec<Certificate>) -> Self {
        Self { certificates, version_min: TlsVersion::default(), reload: Duration::from_secs(10), client_ca: None }
    }
}

impl Admin {
    /// Cleartext at `address`, called by IP address or `localhost`, with no token but that of the environment.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, tls: None, token_file: None, hosts: Vec::new(), unprotected: false }
    }
}

impl Default for Limits {
    /// 10,000 connections of 128 streams; 100 header fields of 64 KiB altogether; bodies of 16 MiB, of which 1 MiB is
    /// read into memory first; 64 MiB of memory and 1 GiB of disk for bodies that wait; 1,000 connections, 1,000
    /// requests, 64 places and a quarter of the room for bodies that wait for each client address that isn't loopback.
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            streams_max: 128,
            headers_max: 100,
            header_bytes_max: 64 * KIB,
            body_bytes_max: 16 << 20,
            items_max: 2_048,
            body_buffered_bytes_max: MIB,
            spool_memory_bytes_max: 64 * MIB,
            spool_bytes_max: 1 << 30,
            spool_dir: None,
            client_spool_bytes_max: 272 << 20,
            client_connections_max: 1_000,
            client_streams_max: 1_000,
            client_places_max: 64,
            trusted_proxies: Cidr::LOOPBACK.to_vec(),
            forwarding_proxies: Vec::new(),
        }
    }
}

impl Default for Http3 {
    /// The address's own port, advertised for a day; 100 handshakes with clients that may be anybody; 1 MiB of responses
    /// and of what its client sends for each connection; 4 MiB for the socket; no early data.
    fn default() -> Self {
        Self {
            port: None,
            advertised: Duration::from_secs(86_400),
            unvalidated_max: 100,
            send_bytes_max: 1 << 20,
            receive_bytes_max: 1 << 20,
            socket_bytes: 4 * MIB,
            segmentation_offload: true,
            early_data: false,
            early_sessions_max: 10_000,
        }
    }
}

impl Default for Timeouts {
    /// 10 s for a request's head, 30 s without progress in a body and at least 128 bytes a second over 30 s, 75 s
    /// between requests, 30 s to close, 30 s to drain and 5 s before that for balancers to see it.
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(10),
            headers: Duration::from_secs(10),
            body: Duration::from_secs(30),
            send: Duration::from_secs(30),
            rate_bytes_min: 128,
            rate_window: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            linger: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            drain_delay: Duration::from_secs(5),
        }
    }
}

impl Default for Cache {
    /// Memory alone, bodies of up to 64 MiB, in parts of 1 MiB that may take a second, with up to 1,024 tags; 256 MiB
    /// of bodies on their way; 32 MiB of dictionaries; clocks that differ by 2 s agree.
    fn default() -> Self {
        Self {
            namespace: "holm".to_owned(),
            object_bytes_max: 64 << 20,
            part_bytes: MIB,
            // Clocks that are kept by NTP differ by milliseconds; past this one of them is wrong.
            clock_skew: Duration::from_secs(2),
            object_tags_max: 1_024,
            search_rules_max: 10_000,
            part_time: Duration::from_secs(1),
            bodies_bytes_max: 256 << 20,
            dictionaries_bytes_max: 32 << 20,
            memory: Memory::default(),
            disk: None,
            redis: None,
            collapse: Collapse::default(),
            purge: Purge::default(),
        }
    }
}

impl Default for Memory {
    /// 256 MiB; values of up to 2 MiB, so that a part of the default size and its head have room.
    fn default() -> Self {
        Self { bytes: 256 * MIB, value_bytes_max: 2 * MIB }
    }
}

impl Disk {
    /// 1 GiB in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), bytes: GIB }
    }
}

impl Redis {
    /// 20 ms a look-up; values of up to 1 MiB and a head of 64 KiB; 16,384 writes waiting, 512 or 1 MiB of them sent at
    /// once; 4 MiB of parts read at once; leases of 2 s, others' fetches waited for up to 10 s.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            budget: Duration::from_millis(20),
            value_bytes_max: MIB + 64 * KIB,
            writes_queued_max: 16_384,
            writes_at_once_max: 512,
            writes_at_once_bytes_max: MIB,
            parts_at_once_bytes_max: 4 * MIB,
            lease: Duration::from_secs(2),
            lease_wait: Duration::from_secs(10),
            breaker: Breaker::TIER,
        }
    }
}

impl Breaker {
    /// Of a tier: 5 failures open it for 1 s, at last for 30 s.
    pub const TIER: Self = Self { failures: 5, open: Duration::from_secs(1), open_max: Duration::from_secs(30) };

    /// Of a policy: 5 faults open it for 1 s, at last for 60 s.
    pub const POLICY: Self = Self { failures: 5, open: Duration::from_secs(1), open_max: Duration::from_secs(60) };
}

impl Default for Collapse {
    /// 10,000 flights; a slow reader may lag 1 MiB; an uncacheable response is remembered for 10 s.
    fn default() -> Self {
        Self { flights_max: 10_000, lag_bytes_max: 1 << 20, uncacheable: Duration::from_secs(10) }
    }
}

impl Default for Purge {
    /// 100,000 rows, 64 patterns, a log of 100,000 entries, 5 s to acknowledge, a fence of 4 s past which what is
    /// stored is revalidated.
    fn default() -> Self {
        Self {
            tags_max: 100_000,
            patterns_max: 64,
            log_max: 100_000,
            ack: Duration::from_secs(5),
            fence: Duration::from_secs(4),
            cut_off: CutOff::Ask,
            lost: Duration::from_secs(3_600),
            invalidations_max: 10_000,
        }
    }
}

impl Global {
    /// Purges as those of a region but for a fence of 10 s, 12 s to acknowledge, since it reaches further.
    #[must_use]
    pub fn new(etcd: Etcd) -> Self {
        let purge = Purge { ack: Duration::from_secs(12), fence: Duration::from_secs(10), ..Purge::default() };
        Self { etcd, namespace: "holm".to_owned(), purge }
    }
}

impl Etcd {
    /// 1 s for each call, without a user.
    #[must_use]
    pub const fn new(endpoints: Vec<String>) -> Self {
        let timeout = Duration::from_secs(1);
        Self { endpoints, user: None, password: None, ca: None, client: None, timeout }
    }
}

impl Default for Plugins {
    /// Compiled components are held in memory only, 1 GiB of them where there is a directory; changed files are loaded.
    fn default() -> Self {
        Self { cache_dir: None, cache_bytes_max: 1 << 30, watch: true }
    }
}

impl Default for Prefetch {
    /// 4 fetches at once, 256 waiting, of what is requested in half of all cases, each at most every 10 s and for
    /// 30 s.
    fn default() -> Self {
        Self {
            concurrency: 4,
            queue_max: 256,
            confidence_percent_min: 50,
            again: Duration::from_secs(10),
            time_max: Duration::from_secs(30),
        }
    }
}

impl Default for Memo {
    /// 4,096 verdicts, of which one use in 256 is checked.
    fn default() -> Self {
        Self { entries_max: 4_096, check_every: 256 }
    }
}

impl Default for Rollout {
    /// At once. On trial: 5 % of the clients for a canary, a minute and 200 calls within the bounds, 1 % of faults, 1 %
    /// of other decisions, twice the time, while at most 5 % of the origin's responses fail; three former generations
    /// are kept.
    fn default() -> Self {
        Self {
            mode: RolloutMode::Swap,
            canary_percent: 5,
            canary_header: None,
            hold: Duration::from_secs(60),
            requests_min: 200,
            faults_ppm_max: 10_000,
            disagreements_ppm_max: 10_000,
            latency_percent_max: 200,
            origin_failures_ppm_max: 50_000,
            kept_max: 3,
        }
    }
}

impl Default for PolicyLimits {
    /// 16 MiB and 10 ms a call, 2 s to load, 64 instances of 100,000 calls, 1 ms to wait for one, results of 64 KiB and
    /// as many items as the contract allows, 50 messages a second.
    fn default() -> Self {
        Self {
            memory_bytes_max: 16 * MIB,
            call: Duration::from_millis(10),
            load: Duration::from_secs(2),
            instances_max: 64,
            wait: Duration::from_millis(1),
            calls_max: 100_000,
            result_bytes_max: 64 * KIB,
            result_items_max: 1_024,
            log_per_second_max: 50,
            breaker: Breaker::POLICY,
        }
    }
}

impl Default for Dns {
    /// The system's servers; records hold for five minutes at most.
    fn default() -> Self {
        Self { servers: Vec::new(), ttl_max: Duration::from_secs(300) }
    }
}

impl Pool {
    /// Names looked up by the system's resolver every 5 s; 256 connections an endpoint, 4,096 requests waiting; 2 s to
    /// connect, 60 s to respond, 30 s between two pieces of a body, 60 s for all of one to a batch; unused connections
    /// stay for 60 s; two attempts; heads of 1,000 fields and 256 KiB; HTTP/1.1 (with HTTP/2 a ping after 20 s, to be
    /// responded to within 5 s); no active checks; a batch an endpoint under way.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        let in_use = endpoints.iter().filter(|endpoint| !endpoint.backup).count();
        Self {
            endpoints,
            zone: None,
            zones: Vec::new(),
            dns: NameSource::default(),
            records: Dns::default(),
            dns_ttl: Duration::from_secs(5),
            connections_max: 256,
            waiting_max: 4096,
            connect: Duration::from_secs(2),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            body: Duration::from_secs(60),
            keep_alive: Duration::from_secs(60),
            attempts_max: 2,
            response_headers_max: 1_000,
            response_header_bytes_max: 256 * KIB,
            request_coding: None,
            response_coding: false,
            http: OriginHttp::default(),
            ping: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(5),
            host: OriginHost::default(),
            tls: OriginTls::default(),
            health: None,
            eject: Eject::default(),
            batch: Batch { concurrency: in_use.clamp(1, BATCHES_MAX), endpoints: in_use, ..Batch::default() },
            translation: None,
        }
    }
}

impl Translation {
    /// The model that a request names, at the protocol's path; one tensor `input`, whose texts and single numbers are
    /// rows of one element, as JSON.
    #[must_use]
    pub fn new(protocol: PoolProtocol) -> Self {
        Self {
            protocol,
            model: None,
            path: None,
            input: "input".to_owned(),
            output: None,
            datatype: None,
            binary: false,
            flat: false,
        }
    }
}

impl Health {
    /// Requests `path` every 5 s and waits 1 s; two good checks bring an endpoint back, three bad ones take it out.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy_after: 2,
            unhealthy_after: 3,
        }
    }
}

impl Default for Eject {
    /// 5 failures eject for 10 s, half of the pool at most.
    fn default() -> Self {
        Self { failures: 5, duration: Duration::from_secs(10), percent_max: 50 }
    }
}

impl Default for Batch {
    /// 32 items of 1 MiB altogether, not padded, held for 10 ms at most; 4,096 items waiting; one batch under way at
    /// once, so that items gather while the model is busy; 256 classes and as many tenants, 32 models by name; 1,024
    /// items that failed in company are sent alone for a minute; a batch's slot counts no more after eight times as
    /// long as expected, and a second at least.
    fn default() -> Self {
        Self {
            size_max: 32,
            bytes_max: MIB,
            padded: false,
            wait_max: Duration::from_millis(10),
            queue_max: 4096,
            concurrency: 1,
            concurrency_min: 1,
            classes_max: 256,
            quarantine_max: 1_024,
            quarantine: Duration::from_secs(60),
            tenants_max: 256,
            models_max: 32,
            overdue_factor: 8,
            overdue_least: Duration::from_secs(1),
            guard: 0,
            endpoints: 1,
        }
    }
}

impl Route {
    /// Takes every request for `pool`, with HTTP semantics and no policy.
    #[must_use]
    pub fn new(name: impl Into<String>, pool: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            hosts: Vec::new(),
            path: "/".to_owned(),
            conditions: Conditions::default(),
            rewrite: None,
            request_headers: FieldEdits::default(),
            response_headers: FieldEdits::default(),
            own: None,
            body_bytes_max: None,
            response: None,
            requests_max: None,
            forward_path: ForwardPath::default(),
            mode: Mode::Http,
            translation: None,
            range_miss: RangeMiss::default(),
            pool: pool.into(),
            candidates: Vec::new(),
            parents: None,
            parents_share_purges: false,
            replicate: None,
            policy: None,
            on_fault: OnFault::default(),
            ignore_headers: Vec::new(),
            key_without_body: false,
            indivisible: INDIVISIBLE.map(str::to_owned).to_vec(),
            tenant: TenantBy::default(),
            tenant_weights: BTreeMap::new(),
            compress: Compress::default(),
            deltas: Deltas::default(),
            freshness: Defaults::default(),
            tag_headers: Vec::new(),
            websocket: true,
            targeted: TARGETED.map(HeaderName::from_static).to_vec(),
            reload: Reload::default(),
            store_set_cookie: StoreSetCookie::default(),
            extensions: Extensions::default(),
            refresh_ahead: false,
            underscores_in_headers: false,
            key_client_region: false,
        }
    }
}

/// The targeted fields that have a meaning beyond one deployment, the older one last.
const TARGETED: [&str; 2] = ["cdn-cache-control", "surrogate-control"];

/// What is text, or nearly. The formats of images, sound and films are compressed already.
const COMPRESSED_TYPES: [&str; 9] = [
    "text/*",
    "application/json",
    "application/x-ndjson",
    "application/javascript",
    "application/xml",
    "application/wasm",
    "application/msgpack",
    "*+json",
    "*+xml",
];

impl Default for Defaults {
    fn default() -> Self {
        Self {
            ttl: None,
            heuristic_max: Duration::from_secs(3_600),
            grace: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            // Longer than a restart or a failover takes, and shorter than anybody would take for current what is older.
            stale_if_unreachable: Duration::from_secs(3_600),
            keep: Duration::ZERO,
        }
    }
}

impl Default for Extensions {
    /// All of them; a QUERY with up to 64 KiB.
    fn default() -> Self {
        Self {
            query_key: QueryKey::default(),
            query_body_bytes_max: 64 * KIB as u64,
            cache_groups: true,
            no_vary_search: true,
        }
    }
}

impl Default for Compress {
    /// Nothing; where codings are given, bodies of 1 KiB or more of what is text, or nearly.
    fn default() -> Self {
        // A smaller one fits into a packet as it is.
        Self { codings: Vec::new(), bytes_min: KIB, types: COMPRESSED_TYPES.map(str::to_owned).to_vec() }
    }
}

impl Default for Deltas {
    /// None; where patterns are given, 64 dictionaries for each of them and each host, bodies of up to 4 MiB, and a
    /// quarter of a second for a delta that is being made.
    fn default() -> Self {
        // A bundle of a megabyte takes about half of that time, or twice as long.
        let wait = Duration::from_millis(250);
        Self { patterns: Vec::new(), dictionaries_max: 64, bytes_max: 4 * MIB, wait }
    }
}

impl Default for Log {
    /// Standard output; 65,536 lines waiting; `info`, at `debug` a span for each request.
    fn default() -> Self {
        Self { access: AccessLog::Stdout, lines_queued_max: 65_536, filter: String::new(), trace_ppm: 1_000_000 }
    }
}
