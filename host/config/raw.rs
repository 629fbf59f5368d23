//! The values of a file: checked for names and types only. Values that are checked later carry their place.
//! `config/holm.toml` explains every key.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::units::{ByteSize, Count, Micros, Millis};

/// A key that may be left out.
pub(super) type Field<T> = Option<Spanned<T>>;
/// Tables under names of the operator's choice.
pub(super) type Named<T> = BTreeMap<Spanned<String>, T>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Raw {
    pub(super) node: Field<String>,
    pub(super) zone: Field<String>,
    pub(super) region: Option<Region>,
    pub(super) global: Option<Global>,
    pub(super) watch: Option<bool>,
    pub(super) listen: Vec<Listen>,
    pub(super) admin: Option<Admin>,
    pub(super) takeover: Takeover,
    pub(super) tls: Tls,
    pub(super) http3: Http3,
    pub(super) limits: Limits,
    pub(super) timeouts: Timeouts,
    pub(super) cache: Cache,
    pub(super) plugins: Plugins,
    pub(super) central: Option<Central>,
    pub(super) policy: Named<Policy>,
    pub(super) dns: Dns,
    pub(super) pool: Named<Pool>,
    pub(super) route: Vec<Route>,
    pub(super) prefetch: Prefetch,
    pub(super) replicate: Replication,
    pub(super) log: Log,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Listen {
    pub(super) address: Spanned<String>,
    pub(super) tls: Option<ListenTls>,
    pub(super) http3: Field<bool>,
    pub(super) http3_port: Field<Count>,
    #[serde(default)]
    pub(super) proxy_protocol: Vec<Spanned<String>>,
    pub(super) reuse_port: Field<bool>,
    pub(super) mode: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Takeover {
    pub(super) socket: Field<PathBuf>,
    pub(super) grace_ms: Field<Millis>,
    pub(super) ready_ms: Field<Millis>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Http3 {
    pub(super) advertised_ms: Field<Millis>,
    pub(super) unvalidated_max: Field<Count>,
    pub(super) send_bytes_max: Field<ByteSize>,
    pub(super) receive_bytes_max: Field<ByteSize>,
    pub(super) socket_bytes: Field<ByteSize>,
    pub(super) segmentation_offload: Field<bool>,
    pub(super) early_data: Field<bool>,
    pub(super) early_sessions_max: Field<Count>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { certificate = \"…\", key = \"…\" }")]
pub(super) struct ListenTls {
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
    pub(super) ocsp: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) further: Vec<Certificate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { certificate = \"…\", key = \"…\" }")]
pub(super) struct Certificate {
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
    pub(super) ocsp: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Admin {
    pub(super) address: Spanned<String>,
    pub(super) tls: Option<AdminTls>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) hosts: Vec<Spanned<String>>,
    pub(super) unprotected: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { certificate = \"…\", key = \"…\" }")]
pub(super) struct AdminTls {
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
    pub(super) client_ca: Option<Spanned<PathBuf>>,
}

/// What holds for all listeners with TLS.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Tls {
    pub(super) version_min: Field<String>,
    pub(super) reload_ms: Field<Millis>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Limits {
    pub(super) connections_max: Field<Count>,
    pub(super) streams_max: Field<Count>,
    pub(super) headers_max: Field<Count>,
    pub(super) header_bytes_max: Field<ByteSize>,
    pub(super) body_bytes_max: Field<ByteSize>,
    pub(super) items_max: Field<Count>,
    pub(super) body_buffered_bytes_max: Field<ByteSize>,
    pub(super) spool_memory_bytes_max: Field<ByteSize>,
    pub(super) spool_bytes_max: Field<ByteSize>,
    pub(super) spool_dir: Option<Spanned<PathBuf>>,
    pub(super) client_spool_bytes_max: Field<ByteSize>,
    pub(super) client_connections_max: Field<Count>,
    pub(super) client_streams_max: Field<Count>,
    pub(super) client_places_max: Field<Count>,
    pub(super) trusted_proxies: Option<Vec<Spanned<String>>>,
    pub(super) forwarding_proxies: Option<Vec<Spanned<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Timeouts {
    pub(super) first_byte_ms: Field<Millis>,
    pub(super) headers_ms: Field<Millis>,
    pub(super) body_ms: Field<Millis>,
    pub(super) send_ms: Field<Millis>,
    pub(super) rate_bytes_min: Field<ByteSize>,
    pub(super) rate_window_ms: Field<Millis>,
    pub(super) idle_ms: Field<Millis>,
    pub(super) linger_ms: Field<Millis>,
    pub(super) drain_ms: Field<Millis>,
    pub(super) drain_delay_ms: Field<Millis>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Cache {
    pub(super) namespace: Field<String>,
    pub(super) object_bytes_max: Field<ByteSize>,
    pub(super) part_bytes: Field<ByteSize>,
    pub(super) clock_skew_ms: Field<Millis>,
    pub(super) object_tags_max: Field<Count>,
    pub(super) search_rules_max: Field<Count>,
    pub(super) part_ms: Field<Millis>,
    pub(super) bodies_bytes_max: Field<ByteSize>,
    pub(super) dictionaries_bytes_max: Field<ByteSize>,
    pub(super) memory: Memory,
    pub(super) disk: Option<Disk>,
    pub(super) redis: Option<Redis>,
    pub(super) collapse: Collapse,
    pub(super) purge: Purge,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Memory {
    pub(super) bytes: Field<ByteSize>,
    pub(super) value_bytes_max: Field<ByteSize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Disk {
    pub(super) dir: Spanned<PathBuf>,
    pub(super) bytes: Field<ByteSize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Redis {
    pub(super) url: Spanned<String>,
    pub(super) budget_ms: Field<Millis>,
    pub(super) value_bytes_max: Field<ByteSize>,
    pub(super) writes_queued_max: Field<Count>,
    pub(super) writes_at_once_max: Field<Count>,
    pub(super) writes_at_once_bytes_max: Field<ByteSize>,
    pub(super) parts_at_once_bytes_max: Field<ByteSize>,
    pub(super) lease_ms: Field<Millis>,
    pub(super) lease_wait_ms: Field<Millis>,
    #[serde(default)]
    pub(super) breaker: Breaker,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Breaker {
    pub(super) failures: Field<Count>,
    pub(super) open_ms: Field<Millis>,
    pub(super) open_ms_max: Field<Millis>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Collapse {
    pub(super) flights_max: Field<Count>,
    pub(super) lag_bytes_max: Field<ByteSize>,
    pub(super) uncacheable_ms: Field<Millis>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Purge {
    pub(super) tags_max: Field<Count>,
    pub(super) patterns_max: Field<Count>,
    pub(super) log_max: Field<Count>,
    pub(super) ack_ms: Field<Millis>,
    pub(super) fence_ms: Field<Millis>,
    pub(super) cut_off: Field<String>,
    pub(super) lost_ms: Field<Millis>,
    pub(super) invalidations_max: Field<Count>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Region {
    pub(super) name: Spanned<String>,
    pub(super) client_field: Field<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Global {
    pub(super) etcd: Spanned<Vec<Spanned<String>>>,
    pub(super) namespace: Field<String>,
    pub(super) user: Field<String>,
    pub(super) password: Field<String>,
    pub(super) ca_file: Field<PathBuf>,
    pub(super) cert_file: Field<PathBuf>,
    pub(super) key_file: Field<PathBuf>,
    pub(super) timeout_ms: Field<Millis>,
    #[serde(default)]
    pub(super) purge: GlobalPurge,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct GlobalPurge {
    pub(super) tags_max: Field<Count>,
    pub(super) patterns_max: Field<Count>,
    pub(super) log_max: Field<Count>,
    pub(super) ack_ms: Field<Millis>,
    pub(super) fence_ms: Field<Millis>,
    pub(super) cut_off: Field<String>,
    pub(super) lost_ms: Field<Millis>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Plugins {
    pub(super) cache_dir: Option<Spanned<PathBuf>>,
    pub(super) cache_bytes_max: Field<ByteSize>,
    pub(super) watch: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Central {
    pub(super) dir: Spanned<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Prefetch {
    pub(super) concurrency: Field<Count>,
    pub(super) queue_max: Field<Count>,
    pub(super) confidence_percent_min: Field<Count>,
    pub(super) again_ms: Field<Millis>,
    pub(super) time_ms_max: Field<Millis>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Replication {
    pub(super) concurrency: Field<Count>,
    pub(super) queue_max: Field<Count>,
    pub(super) queue_bytes_max: Field<ByteSize>,
    pub(super) object_bytes_max: Field<ByteSize>,
    pub(super) send_ms_max: Field<Millis>,
    pub(super) fetch_concurrency: Field<Count>,
    pub(super) fetch_queue_max: Field<Count>,
    pub(super) fetch_ms_max: Field<Millis>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Policy {
    pub(super) file: Spanned<PathBuf>,
    pub(super) config: Field<toml::Table>,
    #[serde(default)]
    pub(super) limits: PolicyLimits,
    #[serde(default)]
    pub(super) memo: Memo,
    #[serde(default)]
    pub(super) rollout: Rollout,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Memo {
    pub(super) entries_max: Field<Count>,
    pub(super) check_every: Field<Count>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Rollout {
    pub(super) mode: Field<String>,
    pub(super) canary_percent: Field<Count>,
    pub(super) canary_header: Field<String>,
    pub(super) hold_ms: Field<Millis>,
    pub(super) requests_min: Field<Count>,
    pub(super) faults_ppm_max: Field<Count>,
    pub(super) disagreements_ppm_max: Field<Count>,
    pub(super) latency_percent_max: Field<Count>,
    pub(super) origin_failures_ppm_max: Field<Count>,
    pub(super) kept_max: Field<Count>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct PolicyLimits {
    pub(super) memory_bytes_max: Field<ByteSize>,
    pub(super) call_us: Field<Micros>,
    pub(super) load_ms: Field<Millis>,
    pub(super) instances_max: Field<Count>,
    pub(super) wait_us: Field<Micros>,
    pub(super) calls_max: Field<Count>,
    pub(super) result_bytes_max: Field<ByteSize>,
    pub(super) result_items_max: Field<Count>,
    pub(super) log_per_second_max: Field<Count>,
    pub(super) breaker: Breaker,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Dns {
    pub(super) servers: Vec<Spanned<String>>,
    pub(super) ttl_ms_max: Field<Millis>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Pool {
    pub(super) endpoints: Field<Vec<Spanned<Endpoint>>>,
    pub(super) zones: Vec<Spanned<String>>,
    pub(super) dns: Field<String>,
    pub(super) dns_ttl_ms: Field<Millis>,
    pub(super) connections_max: Field<Count>,
    pub(super) waiting_max: Field<Count>,
    pub(super) connect_ms: Field<Millis>,
    pub(super) response_ms: Field<Millis>,
    pub(super) idle_ms: Field<Millis>,
    pub(super) body_ms: Field<Millis>,
    pub(super) keep_alive_ms: Field<Millis>,
    pub(super) attempts_max: Field<Count>,
    pub(super) response_headers_max: Field<Count>,
    pub(super) response_header_bytes_max: Field<ByteSize>,
    pub(super) request_coding: Field<String>,
    pub(super) response_coding: Field<bool>,
    pub(super) http: Field<String>,
    pub(super) ping_ms: Field<Millis>,
    pub(super) ping_timeout_ms: Field<Millis>,
    pub(super) host: Field<String>,
    pub(super) tls: OriginTls,
    pub(super) health: Option<Health>,
    pub(super) eject: Eject,
    pub(super) batch: Batch,
    pub(super) protocol: Field<String>,
    pub(super) translate: Field<Translate>,
}

/// An endpoint: its URL alone, or a table with it.
#[derive(Debug)]
pub(super) enum Endpoint {
    Url(String),
    Table(EndpointTable),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct EndpointTable {
    pub(super) url: Spanned<String>,
    pub(super) weight: Field<Count>,
    pub(super) backup: Option<bool>,
    pub(super) zone: Field<String>,
}

impl Endpoint {
    pub(super) fn url(&self) -> &str {
        match self {
            Self::Url(url) => url,
            Self::Table(table) => table.url.get_ref(),
        }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UrlOrTable)
    }
}

struct UrlOrTable;

impl<'de> de::Visitor<'de> for UrlOrTable {
    type Value = Endpoint;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL, or a table such as { url = \"…\", weight = 2 }")
    }

    fn visit_str<E: de::Error>(self, url: &str) -> Result<Endpoint, E> {
        Ok(Endpoint::Url(url.to_owned()))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, members: A) -> Result<Endpoint, A::Error> {
        EndpointTable::deserialize(de::value::MapAccessDeserializer::new(members)).map(Endpoint::Table)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Translate {
    pub(super) model: Field<String>,
    pub(super) path: Field<String>,
    pub(super) input: Field<String>,
    pub(super) output: Field<String>,
    pub(super) datatype: Field<String>,
    pub(super) binary: Option<bool>,
    pub(super) flat: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct OriginTls {
    pub(super) ca: Option<Spanned<PathBuf>>,
    pub(super) certificate: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) server_name: Field<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Health {
    pub(super) path: Spanned<String>,
    pub(super) interval_ms: Field<Millis>,
    pub(super) timeout_ms: Field<Millis>,
    pub(super) healthy_after: Field<Count>,
    pub(super) unhealthy_after: Field<Count>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Eject {
    pub(super) failures: Field<Count>,
    pub(super) duration_ms: Field<Millis>,
    pub(super) percent_max: Field<Count>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Batch {
    pub(super) size_max: Field<Count>,
    pub(super) bytes_max: Field<ByteSize>,
    pub(super) padded: Option<bool>,
    pub(super) wait_us_max: Field<Micros>,
    pub(super) queue_max: Field<Count>,
    pub(super) concurrency: Field<Count>,
    pub(super) concurrency_min: Field<Count>,
    pub(super) classes_max: Field<Count>,
    pub(super) quarantine_max: Field<Count>,
    pub(super) quarantine_ms: Field<Millis>,
    pub(super) tenants_max: Field<Count>,
    pub(super) models_max: Field<Count>,
    pub(super) overdue_factor: Field<Count>,
    pub(super) overdue_ms: Field<Millis>,
    pub(super) guard: Field<Count>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct Route {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) hosts: Vec<Spanned<String>>,
    pub(super) path: Field<String>,
    #[serde(default)]
    pub(super) methods: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) headers: Named<Spanned<Wanted>>,
    #[serde(default)]
    pub(super) query: Named<Spanned<Wanted>>,
    pub(super) rewrite: Field<Rewrite>,
    #[serde(default)]
    pub(super) request_headers: FieldEdits,
    #[serde(default)]
    pub(super) response_headers: FieldEdits,
    pub(super) redirect: Field<Redirect>,
    pub(super) respond: Field<Respond>,
    pub(super) body_bytes_max: Field<ByteSize>,
    pub(super) response_ms: Field<Millis>,
    pub(super) requests_max: Field<Count>,
    pub(super) forward_path: Field<String>,
    pub(super) mode: Field<String>,
    pub(super) range_miss: Field<String>,
    pub(super) protocol: Field<String>,
    pub(super) pool: Field<String>,
    #[serde(default)]
    pub(super) candidates: Vec<Candidate>,
    pub(super) parents: Field<String>,
    pub(super) parents_share_purges: Field<bool>,
    pub(super) replicate: Field<Replicate>,
    pub(super) policy: Field<String>,
    pub(super) on_fault: Field<String>,
    #[serde(default)]
    pub(super) ignore_headers: Vec<Spanned<String>>,
    pub(super) key_without_body: Field<bool>,
    pub(super) indivisible: Option<Vec<Spanned<String>>>,
    pub(super) tenant: Field<String>,
    #[serde(default)]
    pub(super) tenant_weights: Named<Spanned<Count>>,
    #[serde(default)]
    pub(super) compress: Vec<Spanned<String>>,
    pub(super) compress_bytes_min: Field<ByteSize>,
    pub(super) compress_types: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) deltas: Vec<Spanned<String>>,
    pub(super) deltas_max: Field<Count>,
    pub(super) deltas_bytes_max: Field<ByteSize>,
    pub(super) deltas_wait_ms: Field<Millis>,
    pub(super) ttl_ms: Field<Millis>,
    pub(super) heuristic_max_ms: Field<Millis>,
    pub(super) grace_ms: Field<Millis>,
    pub(super) stale_if_error_ms: Field<Millis>,
    pub(super) stale_if_unreachable_ms: Field<Millis>,
    pub(super) keep_ms: Field<Millis>,
    #[serde(default)]
    pub(super) tag_headers: Vec<Spanned<String>>,
    pub(super) websocket: Option<bool>,
    pub(super) targeted: Option<Vec<Spanned<String>>>,
    pub(super) reload: Field<String>,
    pub(super) store_set_cookie: Field<String>,
    pub(super) query_key: Field<String>,
    pub(super) query_body_bytes_max: Field<ByteSize>,
    pub(super) cache_groups: Field<bool>,
    pub(super) no_vary_search: Field<bool>,
    pub(super) refresh_ahead: Field<bool>,
    pub(super) underscores_in_headers: Field<bool>,
    pub(super) key_client_region: Field<bool>,
}

/// What a header field or a query parameter has to be.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "the text that it has to be, or `true` for any")]
pub(super) enum Wanted {
    Present(bool),
    Exactly(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table such as { strip_prefix = \"/api\", prefix = \"/v2\" }")]
pub(super) struct Rewrite {
    pub(super) strip_prefix: Field<String>,
    pub(super) prefix: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table such as { set = { x-name = \"…\" }, remove = [\"…\"] }")]
pub(super) struct FieldEdits {
    pub(super) set: Named<Spanned<String>>,
    pub(super) remove: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { tags = [\"…\"], to = [\"…\"] }")]
pub(super) struct Replicate {
    #[serde(default)]
    pub(super) tags: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) prefixes: Vec<Spanned<String>>,
    pub(super) to: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { status = 308, to = \"…\" }")]
pub(super) struct Redirect {
    pub(super) status: Field<Count>,
    pub(super) to: Spanned<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table such as { status = 404, body = \"…\" }")]
pub(super) struct Respond {
    pub(super) status: Field<Count>,
    pub(super) body: Field<String>,
    pub(super) content_type: Field<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { pool = \"…\", model = \"…\" }")]
pub(super) struct Candidate {
    pub(super) pool: Spanned<String>,
    pub(super) model: Field<String>,
    pub(super) cost_micro: Field<Count>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Log {
    pub(super) access: Field<String>,
    pub(super) lines_queued_max: Field<Count>,
    pub(super) filter: Field<String>,
    pub(super) trace_ppm: Field<Count>,
}
