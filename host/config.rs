//! The validated configuration. `raw` has the values of a file or the command line; `check` turns them into these
//! types, so that everything past start-up works with values that are valid together.

mod caching;
mod central;
mod change;
mod check;
mod defaults;
mod dns;
mod endpoint;
mod error;
mod file;
mod findings;
mod flags;
mod listing;
mod load;
mod merge;
mod nearest;
mod needed;
mod policies;
mod prefetch;
mod raw;
mod region;
mod replicate;
mod routing;
mod storing;
mod takeover;
mod translation;
mod units;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue};

use crate::message::{compression::Compression, network::Cidr};

pub use caching::{Compress, Defaults, Deltas, Extensions, QueryKey, RangeMiss, Reload, StoreSetCookie};
pub use central::{Central, Generation};
pub use change::{changes, described, differences, hidden_keys};
pub use dns::{Dns, NameSource};
pub use endpoint::Endpoint;
pub use error::{Error, Invalid};
pub use file::{open_file, read_file};
pub use flags::{Flags, FlagsTls, from_flags};
pub use listing::{HIDDEN, is_secret_field, listing, without_secrets};
pub use load::{CENTRAL_BYTES_MAX, load, load_beside, load_central, load_with, parse, parse_central};
pub use policies::{Memo, Plugins, Policy, PolicyLimits, PolicySource, Rollout, RolloutMode};
pub use prefetch::Prefetch;
pub use region::Region;
pub use replicate::{Replicate, Replication};
pub use routing::{Conditions, FieldEdits, Fixed, ForwardPath, OwnResponse, Piece, Redirect, Rewrite, Wanted};
pub use takeover::{Takeover, UnixSocket};
pub use translation::{PoolProtocol, Translation};
pub use units::{AccessLogError, ByteSize, ByteSizeError};

/// The configuration of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name: in `Cache-Status`, in purge acknowledgements and in logs.
    pub node: String,
    /// Where this node is, as the endpoints of pools name it; `None` if that makes no difference.
    pub zone: Option<String>,
    /// This node's region; `None` if nothing reaches beyond it.
    pub region: Option<Region>,
    /// What the regions share, if there are several.
    pub global: Option<Global>,
    /// Whether the file is read again when it changes.
    pub watch: bool,
    /// Addresses that clients connect to; at least one.
    pub listen: Vec<Listen>,
    /// What the addresses with HTTP/3 have in common; each has it with what is its own.
    pub http3: Http3,
    /// The admin API, if there is to be one.
    pub admin: Option<Admin>,
    /// How another process takes the place of this one.
    pub takeover: Takeover,
    /// The limits of what a client may send.
    pub limits: Limits,
    /// The timeouts of clients.
    pub timeouts: Timeouts,
    /// The tiers.
    pub cache: Cache,
    /// What applies to all policies.
    pub plugins: Plugins,
    /// How it follows the configuration that is kept in one place for many nodes; `None` if its file says all.
    pub central: Option<Central>,
    /// Policy components by name.
    pub policies: BTreeMap<String, Policy>,
    /// How records of names are asked for; each pool that asks for any has it as well.
    pub dns: Dns,
    /// Origins by name.
    pub pools: BTreeMap<String, Pool>,
    /// Routes; of those that take a request, the most specific does.
    pub routes: Vec<Route>,
    /// Fetching ahead, as policies suggest it.
    pub prefetch: Prefetch,
    /// The limits of announcing responses to other regions, and of fetching what these announce.
    pub replication: Replication,
    /// The logs.
    pub log: Log,
    /// The generation of the central configuration that is part of it, if one is.
    pub generation: Option<Arc<Generation>>,
    /// The configuration file, if there is one: read again when the configuration is reloaded.
    pub file: Option<PathBuf>,
    /// Digest of its text, to see whether it has changed since.
    pub digest: Option<blake3::Hash>,
    /// The files that must be there when a node starts: certificates and their keys, authorities, the admin API's token,
    /// components of policies.
    pub needed: BTreeSet<PathBuf>,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address and port; port 0 lets the system choose. Of a Unix socket, the address that its clients count as.
    pub address: SocketAddr,
    /// The Unix socket that is listened at instead.
    pub unix: Option<UnixSocket>,
    /// TLS; without it the address speaks cleartext HTTP.
    pub tls: Option<ListenTls>,
    /// HTTP/3 on the UDP port of the same number; only with TLS.
    pub http3: Option<Http3>,
    /// Networks whose connections begin with the client's address (PROXY protocol).
    pub proxy_protocol: Vec<Cidr>,
    /// Whether other processes may listen on the address as well (`SO_REUSEPORT`).
    pub reuse_port: bool,
}

/// HTTP/3 on a listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http3 {
    /// The port that responses over TCP advertise; `None` is the address's own.
    pub port: Option<u16>,
    /// How long clients may remember that the address speaks HTTP/3; zero advertises nothing.
    pub advertised: Duration,
    /// Handshakes under way with clients that haven't shown that their address is theirs; further ones have to, by a
    /// Retry (RFC 9000, section 8.1.2).
    pub unvalidated_max: usize,
    /// Bytes of responses that are held for one connection until its client has acknowledged them.
    pub send_bytes_max: u64,
    /// Bytes that the client of one connection may send ahead of what is read; a single stream gets a quarter of them.
    pub receive_bytes_max: u32,
    /// Bytes of the receive and of the send buffer that are asked of the system for the UDP socket.
    pub socket_bytes: usize,
    /// Whether the system is handed many packets at once (GSO).
    pub segmentation_offload: bool,
    /// Whether early data is taken (RFC 8446, section 2.3), in which nothing but fresh hits in memory are served.
    pub early_data: bool,
    /// Sessions of one address that are kept for clients to resume with early data; older ones make room.
    pub early_sessions_max: usize,
}

/// The admin API: where it listens and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address and port; port 0 lets the system choose.
    pub address: SocketAddr,
    /// TLS; without it the address speaks cleartext HTTP.
    pub tls: Option<ListenTls>,
    /// The file of the token that requests have to show; without one that of the environment, if it has one.
    pub token_file: Option<PathBuf>,
    /// Names by which requests may call it, in lower case and without port, beside `localhost` and IP addresses.
    pub hosts: Vec<String>,
    /// Whether it may listen beyond loopback although it asks for neither a token nor a client certificate.
    pub unprotected: bool,
}

/// TLS of a listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// The certificates, at least one. The first is for clients that name no host, or one that no certificate has.
    pub certificates: Vec<Certificate>,
    /// The oldest version that is spoken.
    pub version_min: TlsVersion,
    /// Between two looks at the files; 0 for none.
    pub reload: Duration,
    /// PEM file of the authorities of which each client has to show a certificate; without one none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// A certificate of a listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// From files.
    Files {
        /// The certificate and its key.
        pair: Tls,
        /// DER file of an OCSP response, sent with the certificate if it is there.
        ocsp: Option<PathBuf>,
    },
    /// Made when the address is bound, and trusted by nobody.
    SelfSigned {
        /// Names and IP addresses.
        names: Vec<String>,
    },
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// PEM files of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Limits on what a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, all listeners together; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Concurrent requests of one HTTP/2 or HTTP/3 connection.
    pub streams_max: u32,
    /// Header fields of a request; more are refused with 431.
    pub headers_max: usize,
    /// Bytes of a request's header section; more are refused with 431.
    pub header_bytes_max: usize,
    /// Bytes of a request body; more are refused with 413.
    pub body_bytes_max: u64,
    /// Items that a request to a route which splits bodies may have; more are refused with 400.
    pub items_max: usize,
    /// Bytes of a request body that are read into memory before the request takes a place at an origin; what goes
    /// beyond is read into the spool.
    pub body_buffered_bytes_max: usize,
    /// Bytes of bodies that wait in memory for their origin or their client, all together; what goes beyond waits in
    /// the spool.
    pub spool_memory_bytes_max: usize,
    /// Bytes of the spool's files, all together; past it bodies stream, and at most half of an endpoint's places are
    /// lent to clients that are waited for.
    pub spool_bytes_max: u64,
    /// Directory of the spool's files, which have no name there; the system's directory for temporary files if `None`.
    pub spool_dir: Option<PathBuf>,
    /// Bytes of bodies that wait for one client address, in memory and in files, of each the same fraction; past it its
    /// bodies are treated as if there were no more room.
    pub client_spool_bytes_max: u64,
    /// Open connections of one client address; further ones are closed.
    pub client_connections_max: usize,
    /// Concurrent requests of one client address; further ones are refused with 429.
    pub client_streams_max: usize,
    /// Places at origins that one client address holds or waits for; further requests for one are refused with 429.
    pub client_places_max: usize,
    /// Networks whose clients aren't limited per address.
    pub trusted_proxies: Vec<Cidr>,
    /// Networks of proxies in front of the node that are believed what they forward about their clients.
    pub forwarding_proxies: Vec<Cidr>,
}

/// How long a client may take. Past any of them its connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept (or the end of the TLS handshake) to the first byte; also bounds the handshake itself.
    pub first_byte: Duration,
    /// From the first byte of a request to the end of its header section.
    pub headers: Duration,
    /// Between two pieces of a request body.
    pub body: Duration,
    /// Without progress while a response is being written.
    pub send: Duration,
    /// Bytes a second that a client has to send or take while it is waited for; 0 for no minimum.
    pub rate_bytes_min: u64,
    /// Time of waiting over which the minimum rate is measured.
    pub rate_window: Duration,
    /// Between two requests of a connection.
    pub idle: Duration,
    /// From a connection's last response until it is closed, whatever its client still sends.
    pub linger: Duration,
    /// From TERM or INT until what is still open is cut.
    pub drain: Duration,
    /// From the request to drain, which makes the node not ready, until it stops as by TERM.
    pub drain_delay: Duration,
}

/// The tiers and their limits.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Separates deployments that share a Redis; part of every key.
    pub namespace: String,
    /// Bytes of the largest body that is stored at all.
    pub object_bytes_max: u64,
    /// Bodies over this many bytes are stored in parts of this size.
    pub part_bytes: usize,
    /// How far ahead of this node's clock the time of storing may lie; what lies further ahead is stale.
    pub clock_skew: Duration,
    /// Different tags that a response may have; with more it isn't stored.
    pub object_tags_max: usize,
    /// Paths whose last `No-Vary-Search` is known; of more, any are forgotten. 0 for none.
    pub search_rules_max: usize,
    /// How long a part of a body that is being sent may take to come from a tier; past it the rest comes from the
    /// origin.
    pub part_time: Duration,
    /// Bytes of bodies that may be held outside of the tiers, all together.
    pub bodies_bytes_max: u64,
    /// Bytes of the dictionaries for deltas, of all routes together.
    pub dictionaries_bytes_max: u64,
    /// The first tier.
    pub memory: Memory,
    /// The second tier.
    pub disk: Option<Disk>,
    /// The third tier, shared by the nodes of a region; it also carries the purge log.
    pub redis: Option<Redis>,
    /// One fetch for many waiters.
    pub collapse: Collapse,
    /// The purge table.
    pub purge: Purge,
}

/// The memory tier.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Capacity in bytes, heads included.
    pub bytes: usize,
    /// Values over this many bytes skip memory when there is a disk tier.
    pub value_bytes_max: usize,
}

/// The disk tier.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Directory; created if missing. The purge table lives there too.
    pub dir: PathBuf,
    /// Capacity in bytes.
    pub bytes: usize,
}

/// The Redis tier.
#[derive(Clone, Debug)]
pub struct Redis {
    /// `redis://` or `rediss://` URL.
    pub url: String,
    /// How long one look-up may take before it counts as a miss.
    pub budget: Duration,
    /// Values over this many bytes are not sent to Redis.
    pub value_bytes_max: usize,
    /// Writes that may wait; further ones are dropped and counted.
    pub writes_queued_max: usize,
    /// Writes that are sent at once, in one pipeline.
    pub writes_at_once_max: usize,
    /// Bytes of the writes that are sent at once; a larger one is sent alone.
    pub writes_at_once_bytes_max: usize,
    /// Bytes of a body's parts that are read by one command.
    pub parts_at_once_bytes_max: usize,
    /// How long a lease lasts after its node was last heard of; zero if there are none.
    pub lease: Duration,
    /// How long a node waits for what another one fetches.
    pub lease_wait: Duration,
    /// When Redis is no longer used.
    pub breaker: Breaker,
}

/// When a circuit opens and how long it stays open.
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    /// Consecutive failures that open it.
    pub failures: u32,
    /// First time it stays open; doubles up to [`Breaker::open_max`] while probes fail.
    pub open: Duration,
    /// Longest time it stays open.
    pub open_max: Duration,
}

/// Collapsing.
#[derive(Clone, Debug)]
pub struct Collapse {
    /// Fetches in flight; a further miss goes to the origin by itself.
    pub flights_max: usize,
    /// Bytes of an arriving body that are held for readers which lag behind.
    pub lag_bytes_max: u64,
    /// How long an uncacheable response lets later requests for its key go on without queueing.
    pub uncacheable: Duration,
}

/// The purge table.
#[derive(Clone, Debug)]
pub struct Purge {
    /// Rows; past it the oldest fold into a floor below which everything counts as purged.
    pub tags_max: usize,
    /// Patterns; past it the oldest leaves, and what its URLs may be stored under is confirmed by the origin.
    pub patterns_max: usize,
    /// Approximate length of the region's purge log in Redis.
    pub log_max: usize,
    /// How long a purge waits for the region's nodes to apply it.
    pub ack: Duration,
    /// How long after its last read of the region's log a node serves what is stored without revalidation.
    pub fence: Duration,
    /// What a node does past its fence.
    pub cut_off: CutOff,
    /// How long purges wait for the fence of a node that is silent. Longer than `fence`.
    pub lost: Duration,
    /// Invalidations that may wait for the log.
    pub invalidations_max: usize,
}

/// What the regions share.
#[derive(Clone, Debug)]
pub struct Global {
    /// Where it is.
    pub etcd: Etcd,
    /// Separates deployments that share an etcd: what each of its keys begins with.
    pub namespace: String,
    /// Purges of all regions, through a log of their own.
    pub purge: Purge,
}

/// A cluster of etcd.
#[derive(Clone, Debug)]
pub struct Etcd {
    /// `http://` or `https://` URLs of its members; at least one.
    pub endpoints: Vec<String>,
    /// The user that the node is there, if it asks for one.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<String>,
    /// PEM file of the authorities that are trusted; the roots that are compiled into the program without one.
    pub ca: Option<PathBuf>,
    /// The certificate and key that the node shows.
    pub client: Option<Tls>,
    /// How long one call may take.
    pub timeout: Duration,
}

/// What a node does once it hasn't read its region's log for longer than its fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutOff {
    /// Revalidates what is stored before it serves it.
    Ask,
    /// Goes on serving; then no purge that it hasn't applied is complete.
    Serve,
}

/// A named set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Members; at least one.
    pub endpoints: Vec<Endpoint>,
    /// The node's own zone, if any member has one.
    pub zone: Option<String>,
    /// The zones that are used after the node's own one, in this order; then all others.
    pub zones: Vec<String>,
    /// Who is asked for the addresses of its members' names.
    pub dns: NameSource,
    /// How records are asked for, if it asks for any; else the default.
    pub records: Dns,
    /// How long the addresses of its members' names hold until they are looked up again, where no TTL says it.
    pub dns_ttl: Duration,
    /// Requests in flight to one endpoint; further ones wait.
    pub connections_max: usize,
    /// Requests that may wait for a connection to the pool; further ones get 503.
    pub waiting_max: usize,
    /// How long opening a connection may take, TLS included.
    pub connect: Duration,
    /// From the request being sent until its response's head.
    pub response: Duration,
    /// Between two pieces of a response body.
    pub idle: Duration,
    /// From the head of a response to a batch until all of its body is there.
    pub body: Duration,
    /// How long an unused connection stays open; less if the endpoint says so (`Keep-Alive`).
    pub keep_alive: Duration,
    /// Attempts at an idempotent request, the first included.
    pub attempts_max: u32,
    /// Header fields of a response; one with more is a failure.
    pub response_headers_max: usize,
    /// Bytes of a response's header section; one with more is a failure.
    pub response_header_bytes_max: usize,
    /// The content coding of requests with a batch of an `infer` route.
    pub request_coding: Option<Compression>,
    /// Whether the responses to such requests may come in a content coding.
    pub response_coding: bool,
    /// The version of HTTP that is spoken to its endpoints.
    pub http: OriginHttp,
    /// How long nothing has come on an HTTP/2 connection with requests under way before it is pinged; 0 for never.
    pub ping: Duration,
    /// How long the response to a ping may take; past it the connection has failed.
    pub ping_timeout: Duration,
    /// The host that is named to its endpoints.
    pub host: OriginHost,
    /// TLS to its endpoints.
    pub tls: OriginTls,
    /// Active checks.
    pub health: Option<Health>,
    /// Passive ejection.
    pub eject: Eject,
    /// Batches of an `infer` route.
    pub batch: Batch,
    /// What its endpoints speak, if the configuration says so; else what the clients of a route do.
    pub translation: Option<Translation>,
}

/// The version of HTTP that is spoken to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OriginHttp {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: on TLS the endpoint has to choose it (ALPN), on cleartext it is known to speak it.
    Http2,
    /// On TLS the one that the endpoint chooses, on cleartext HTTP/1.1.
    Auto,
}

/// The host that is named to endpoints, in `Host` or `:authority`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OriginHost {
    /// That of the endpoint's URL if it is a name, and the client's if it is an IP address.
    #[default]
    ByUrl,
    /// The client's.
    Client,
    /// This one.
    Named(HeaderValue),
}

/// TLS to endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginTls {
    /// PEM file of the certificates that are trusted; without one those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, or the
    /// roots that are compiled into the program.
    pub ca: Option<PathBuf>,
    /// The certificate and key that the node shows to endpoints which want to see one.
    pub client: Option<Tls>,
    /// The name that is sent to endpoints (SNI), and that their certificates must have; that of the URL if `None`.
    pub server_name: Option<String>,
}

/// Active health checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Path that is requested with GET; 2xx is healthy.
    pub path: String,
    /// Between two checks.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// Consecutive good checks that bring an endpoint back.
    pub healthy_after: u32,
    /// Consecutive bad checks that take it out.
    pub unhealthy_after: u32,
}

/// Passive ejection on failed requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eject {
    /// Consecutive failures (connect, reset, timeout, 502–504) that eject an endpoint.
    pub failures: u32,
    /// First ejection; doubles up to ten times as long while it keeps failing.
    pub duration: Duration,
    /// Share of the pool, in percent, that may be ejected at once; at least one member always stays.
    pub percent_max: u32,
}

/// How items are batched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Items of one batch; 1 sends every item alone.
    pub size_max: usize,
    /// Bytes of one batch's items.
    pub bytes_max: usize,
    /// Whether the models pad each item to the longest of its batch, so that a batch counts as its longest item times
    /// their number.
    pub padded: bool,
    /// How long the oldest item may wait for others.
    pub wait_max: Duration,
    /// Items waiting in the pool, of a list as many as two batches may have; further requests get 429.
    pub queue_max: usize,
    /// Batches of the pool under way at once, of all classes and routes together; fewer if its model gains nothing by
    /// them.
    pub concurrency: usize,
    /// How many may be under way in any case.
    pub concurrency_min: usize,
    /// Classes of which something waits or is under way; items of further ones are sent alone, each in its turn.
    pub classes_max: usize,
    /// Items that are sent alone because they failed in company; of more, those that failed longest ago are forgotten.
    pub quarantine_max: usize,
    /// How long each of them is sent alone, since it failed last.
    pub quarantine: Duration,
    /// Tenants whose shares are told apart; further ones share one.
    pub tenants_max: usize,
    /// Models that metrics tell apart by name; further ones count as `other`.
    pub models_max: usize,
    /// How many times as long as expected a batch may take, before its slot counts no more; 0 means any time.
    pub overdue_factor: u32,
    /// How long it may take in any case.
    pub overdue_least: Duration,
    /// Slots that are left to tenants which want less than their share, as long as there are such.
    pub guard: usize,
    /// The pool's endpoints that are no backups.
    pub endpoints: usize,
}

/// A route: which requests it takes, and how they are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name in logs and metrics; unique.
    pub name: String,
    /// Hosts without port, lower case; empty means any. `*.example.org` matches one or more labels.
    pub hosts: Vec<String>,
    /// Path prefix in its normal form, matched at a segment border; `/` means any.
    pub path: String,
    /// Conditions beside host and path.
    pub conditions: Conditions,
    /// Another path for its origins; `forward_path` is the normal form then.
    pub rewrite: Option<Rewrite>,
    /// Edits of the header fields that are sent to its origins.
    pub request_headers: FieldEdits,
    /// Edits of the header fields that clients get; what is stored is what the origin sent.
    pub response_headers: FieldEdits,
    /// Its response, if it needs no origin; then it has no pool.
    pub own: Option<OwnResponse>,
    /// Bytes of a request body; more are refused with 413. That of [`Limits`] if `None`.
    pub body_bytes_max: Option<u64>,
    /// From a request being sent on until the head of its response, all attempts and candidates together; past it
    /// the client gets 504. That of the pool, for each attempt, if `None`.
    pub response: Option<Duration>,
    /// Concurrent requests, but for those served from memory at once; further ones are refused with 503.
    pub requests_max: Option<usize>,
    /// Which spelling of a path is sent to its origins.
    pub forward_path: ForwardPath,
    /// HTTP semantics, or items of a protocol.
    pub mode: Mode,
    /// How its items are sent to its pools, if these speak another protocol than its clients.
    pub translation: Option<Arc<Translation>>,
    /// What is fetched for a range of what isn't stored.
    pub range_miss: RangeMiss,
    /// Name of the pool; empty if it needs no origin.
    pub pool: String,
    /// The candidates, for a policy to order; without one, in this order. The pool alone if there are none.
    pub candidates: Vec<Candidate>,
    /// Name of the pool of nodes that an `http` route asks before its origins.
    pub parents: Option<String>,
    /// Whether each purge is applied at these before it is acknowledged here.
    pub parents_share_purges: bool,
    /// Which of its responses are announced to other regions; `None` for none.
    pub replicate: Option<Replicate>,
    /// Name of the policy.
    pub policy: Option<String>,
    /// What happens when the policy faults.
    pub on_fault: OnFault,
    /// Request header fields of an `infer` route that neither are part of its keys nor are sent, beside those that
    /// never are.
    pub ignore_headers: Vec<HeaderName>,
    /// Whether a policy may make the keys of an `infer` route without reading the body.
    pub key_without_body: bool,
    /// Names of members of a request that make it indivisible, unless their value is `false` or `null`.
    pub indivisible: Vec<String>,
    /// Between whom the slots of a pool are shared, of an `infer` route.
    pub tenant: TenantBy,
    /// The weights of tenants by their names, from 1 to [`TENANT_WEIGHT_MAX`]; `*` is for all others, which have 1
    /// without it.
    pub tenant_weights: BTreeMap<String, u32>,
    /// Which replies are compressed: those of an `infer` route that splits bodies, and stored ones of an `http` route.
    pub compress: Compress,
    /// Which stored responses of an `http` route are sent as deltas to earlier ones.
    pub deltas: Deltas,
    /// Lifetimes for responses that state none.
    pub freshness: Defaults,
    /// Response headers whose values are tags, beside `Surrogate-Key` and `Cache-Tag`.
    pub tag_headers: Vec<HeaderName>,
    /// Whether a client may switch to a WebSocket; its connection is a tunnel to the origin from then on.
    pub websocket: bool,
    /// Response header fields whose directives take the place of `Cache-Control` and `Expires`, of an `http` route: the
    /// first that says something (RFC 9213).
    pub targeted: Vec<HeaderName>,
    /// What a request for something newer than what is stored leads to, of an `http` route.
    pub reload: Reload,
    /// Which responses that set a cookie may be stored, of an `http` route.
    pub store_set_cookie: StoreSetCookie,
    /// What it honours of the standards that extend HTTP caching, if it is an `http` route.
    pub extensions: Extensions,
    /// Whether what is asked for often is fetched anew before it is stale, of an `http` route.
    pub refresh_ahead: bool,
    /// Whether request header fields with a `_` in their names are sent to its origins, of an `http` route.
    pub underscores_in_headers: bool,
    /// Whether the client's region is a part of native keys.
    pub key_client_region: bool,
}

/// A pool, and perhaps a model, that may serve the requests of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the pool.
    pub pool: String,
    /// Replaces `/model` in a JSON body.
    pub model: Option<String>,
    /// What a request costs there, in millionths of whatever the operator counts in.
    pub cost_micro: u64,
}

/// The two modes of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// RFC 9110/9111 semantics.
    Http,
    /// A POST whose response depends on its body.
    Infer(Protocol),
}

/// How a body is split into items and joined again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The whole body is one item; never batched.
    Plain,
    /// A JSON array is many items, anything else is one.
    JsonArray,
    /// OpenAI's `/v1/embeddings`.
    OpenAiEmbeddings,
    /// KServe's REST protocol, version 2: a row of all inputs is one.
    KServe,
    /// A MessagePack array is many items, anything else is one.
    MsgPackArray,
}

/// The largest weight of a tenant.
pub const TENANT_WEIGHT_MAX: u32 = 1_000;
/// Bytes of a tenant's name, as the operator or a policy writes it.
pub const TENANT_NAME_BYTES_MAX: usize = 256;

/// What tells the tenants of a route apart, between whom the slots of a pool are shared by their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TenantBy {
    /// All header fields that hold credentials and are sent to the model.
    #[default]
    Credentials,
    /// One header field.
    Header(HeaderName),
    /// The address of the client.
    Client,
    /// Nothing: all requests are one tenant's.
    Nothing,
}

/// What happens to a request whose policy faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFault {
    /// Where `key` faults it isn't looked up, stored or collapsed, and where `admit` does its response isn't stored;
    /// for other hooks the native default decides.
    #[default]
    Bypass,
    /// The native default decides.
    Native,
    /// The request is refused with 503.
    Refuse,
}

/// The access log, and which requests the node's own log tells of.
#[derive(Clone, Debug)]
pub struct Log {
    /// Where JSON lines are written.
    pub access: AccessLog,
    /// Lines that may wait for the writer; further ones are dropped and counted.
    pub lines_queued_max: usize,
    /// Which events the node's own log has: directives such as `info,holm::cache=debug`, or none for `info`. The
    /// environment's `HOLM_LOG` takes precedence.
    pub filter: String,
    /// Share of the requests, in a million, that have a span in the node's own log, if that is at `debug`.
    pub trace_ppm: u32,
}

/// Destination of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// No access log.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file, reopened on HUP.
    File(PathBuf),
}
