//! A configuration as the values of a file, every default filled in: it is shown to operators, and two configurations
//! are compared by it. Read as a file it makes the same configuration again.

use std::{collections::BTreeMap, fmt::Display, path::Path, time::Duration};

use http::HeaderValue;
use serde_json::{Map, Value};

use super::{
    Admin, Batch, Breaker, Cache, Candidate, Certificate, Collapse, Config, CutOff, Disk, Eject, Extensions,
    FieldEdits, Fixed, ForwardPath, Health, Http3, Limits, Listen, ListenTls, Log, Memo, Memory, Mode, OnFault,
    OriginHost, OriginHttp, OriginTls, OwnResponse, Plugins, Policy, PolicyLimits, PolicySource, Pool, PoolProtocol,
    Prefetch, Protocol, Purge, QueryKey, RangeMiss, Redirect, Redis, Reload, Rewrite, Rollout, RolloutMode, Route,
    StoreSetCookie, TenantBy, Timeouts, TlsVersion, Translation, Wanted, units::ByteSize,
};
use crate::clock;

/// The text that takes the place of a secret.
pub(super) const HIDDEN: &str = "***";

/// Pieces of the names of members whose text is a secret.
const SECRET_NAMES: [&str; 10] =
    ["secret", "token", "password", "passwd", "credential", "authorization", "api_key", "api-key", "apikey", "private"];

/// Returns the configuration in the tables and keys of a file, secrets included.
#[must_use]
pub fn listing(config: &Config) -> Value {
    table([
        ("node", text(&config.node)),
        ("watch", Value::Bool(config.watch)),
        ("listen", list(&config.listen, listen)),
        ("admin", option(config.admin.as_ref(), admin)),
        ("tls", tls(config)),
        ("http3", http3(&config.http3)),
        ("limits", limits(&config.limits)),
        ("timeouts", timeouts(&config.timeouts)),
        ("cache", cache(&config.cache)),
        ("plugins", plugins(&config.plugins)),
        ("policy", named(&config.policies, policy)),
        ("pool", named(&config.pools, pool)),
        ("route", list(&config.routes, route)),
        ("prefetch", prefetch(&config.prefetch)),
        ("log", log(&config.log)),
    ])
}

/// Returns a listing, or a part of one, without secrets: what a URL has before `@`, and text under a name that is one
/// of a secret.
#[must_use]
pub fn without_secrets(value: Value) -> Value {
    hide(value, false)
}

/// Returns the value of a member of this name without secrets.
pub(super) fn member_without_secrets(name: &str, value: Value) -> Value {
    hide_member(name, value, false)
}

/// Members whose own members are header fields, or have them.
const FIELD_TABLES: [&str; 3] = ["headers", "request_headers", "response_headers"];

fn hide_member(name: &str, value: Value, is_hidden: bool) -> Value {
    match value {
        Value::Object(fields) if FIELD_TABLES.contains(&name) && !is_hidden => hide_fields(fields),
        other => hide(other, is_hidden || is_secret(name)),
    }
}

/// Hides the values of header fields with credentials.
fn hide_fields(fields: Map<String, Value>) -> Value {
    let hidden = |(name, value): (String, Value)| {
        let value = match value {
            Value::Object(set) => hide_fields(set),
            Value::String(_) if is_secret_field(&name) => text(HIDDEN),
            other => hide(other, is_secret(&name)),
        };
        (name, value)
    };
    Value::Object(fields.into_iter().map(hidden).collect())
}

fn hide(value: Value, is_hidden: bool) -> Value {
    match value {
        Value::String(_) if is_hidden => text(HIDDEN),
        Value::String(given) => Value::String(without_userinfo(given)),
        Value::Array(items) => Value::Array(items.into_iter().map(|item| hide(item, is_hidden)).collect()),
        Value::Object(members) => {
            let hides_tenants = hides_tenants(&members);
            let hidden = |(name, value): (String, Value)| {
                if hides_tenants && name == TENANT_WEIGHTS {
                    return (name, text(HIDDEN));
                }
                let value = hide_member(&name, value, is_hidden);
                (name, value)
            };
            Value::Object(members.into_iter().map(hidden).collect())
        }
        other => other,
    }
}

/// Whether text under this name is a secret. Names of files aren't.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.ends_with("_file") && SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// The member of a route whose members are named by its tenants.
pub(super) const TENANT_WEIGHTS: &str = "tenant_weights";

/// Whether the names of a route's tenants are secrets: they are the values of a header field with credentials.
pub(super) fn hides_tenants(route: &Map<String, Value>) -> bool {
    let tenant = route.get("tenant").and_then(Value::as_str);
    let field = tenant.and_then(|tenant| tenant.strip_prefix("header:"));
    field.is_some_and(is_secret_field)
}

/// Whether a header field holds credentials, by its name.
fn is_secret_field(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    is_secret(&name) || ["auth", "cookie", "key", "session", "signature"].iter().any(|word| name.contains(word))
}

/// Hides what stands between `://` and the last `@`: a password may hold any character.
pub(super) fn without_userinfo(given: String) -> String {
    let Some((scheme, rest)) = given.split_once("://") else { return given };
    match rest.rsplit_once('@') {
        Some((_, place)) => format!("{scheme}://{HIDDEN}@{place}"),
        None => given,
    }
}

/// Returns a table; members that are `null` are left out.
fn table<const N: usize>(members: [(&str, Value); N]) -> Value {
    let given = members.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(given.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn named<T>(items: &BTreeMap<String, T>, show: impl Fn(&T) -> Value) -> Value {
    Value::Object(items.iter().map(|(name, item)| (name.clone(), show(item))).collect())
}

fn list<T>(items: &[T], show: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(show).collect())
}

fn option<T>(given: Option<T>, show: impl FnOnce(T) -> Value) -> Value {
    given.map_or(Value::Null, show)
}

fn text(value: impl Display) -> Value {
    Value::String(value.to_string())
}

fn path(value: &Path) -> Value {
    text(value.display())
}

fn count(value: usize) -> Value {
    Value::from(value)
}

fn bytes(value: usize) -> Value {
    size(value as u64)
}

fn size(value: u64) -> Value {
    text(ByteSize(value))
}

fn ms(time: Duration) -> Value {
    Value::from(clock::millis(time))
}

fn us(time: Duration) -> Value {
    Value::from(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

fn texts<T: Display>(items: &[T]) -> Value {
    Value::Array(items.iter().map(text).collect())
}

fn listen(listen: &Listen) -> Value {
    table([
        ("address", text(listen.address)),
        ("proxy_protocol", texts(&listen.proxy_protocol)),
        ("reuse_port", Value::Bool(listen.reuse_port)),
        ("http3", Value::Bool(listen.http3.is_some())),
        ("http3_port", option(listen.http3.as_ref().and_then(|http3| http3.port), Value::from)),
        ("tls", option(listen.tls.as_ref(), listen_tls)),
    ])
}

fn listen_tls(tls: &ListenTls) -> Value {
    let mut shown = option(tls.certificates.first(), certificate);
    if let Some(members) = shown.as_object_mut() {
        let further = tls.certificates.iter().skip(1).map(certificate).collect();
        members.insert("further".to_owned(), Value::Array(further));
    }
    shown
}

fn certificate(certificate: &Certificate) -> Value {
    match certificate {
        Certificate::Files { pair, ocsp } => table([
            ("certificate", path(&pair.certificate)),
            ("key", path(&pair.key)),
            ("ocsp", option(ocsp.as_deref(), path)),
        ]),
        Certificate::SelfSigned { .. } => table([("certificate", text("(self-signed)"))]),
    }
}

fn admin(admin: &Admin) -> Value {
    table([
        ("address", text(admin.address)),
        ("token_file", option(admin.token_file.as_deref(), path)),
        ("hosts", texts(&admin.hosts)),
        ("unprotected", Value::Bool(admin.unprotected)),
        ("tls", option(admin.tls.as_ref(), admin_tls)),
    ])
}

fn admin_tls(tls: &ListenTls) -> Value {
    let mut shown = option(tls.certificates.first(), certificate);
    if let (Some(members), Some(file)) = (shown.as_object_mut(), &tls.client_ca) {
        members.insert("client_ca".to_owned(), path(file));
    }
    shown
}

/// Returns what holds for all listeners with TLS; the defaults if there is none.
fn tls(config: &Config) -> Value {
    let mut all = config.listen.iter().map(|listen| &listen.tls).chain(config.admin.as_ref().map(|admin| &admin.tls));
    let common = all.find_map(Option::as_ref).cloned().unwrap_or_else(|| ListenTls::new(Vec::new()));
    let version = match common.version_min {
        TlsVersion::Tls12 => "1.2",
        TlsVersion::Tls13 => "1.3",
    };
    table([("version_min", text(version)), ("reload_ms", ms(common.reload))])
}

fn http3(http3: &Http3) -> Value {
    table([
        ("advertised_ms", ms(http3.advertised)),
        ("unvalidated_max", count(http3.unvalidated_max)),
        ("send_bytes_max", size(http3.send_bytes_max)),
        ("receive_bytes_max", size(http3.receive_bytes_max.into())),
        ("socket_bytes", bytes(http3.socket_bytes)),
        ("segmentation_offload", Value::Bool(http3.segmentation_offload)),
    ])
}

fn limits(limits: &Limits) -> Value {
    table([
        ("connections_max", count(limits.connections_max)),
        ("streams_max", Value::from(limits.streams_max)),
        ("headers_max", count(limits.headers_max)),
        ("header_bytes_max", bytes(limits.header_bytes_max)),
        ("body_bytes_max", size(limits.body_bytes_max)),
        ("items_max", count(limits.items_max)),
        ("body_buffered_bytes_max", bytes(limits.body_buffered_bytes_max)),
        ("spool_memory_bytes_max", bytes(limits.spool_memory_bytes_max)),
        ("spool_bytes_max", size(limits.spool_bytes_max)),
        ("spool_dir", option(limits.spool_dir.as_deref(), path)),
        ("client_spool_bytes_max", size(limits.client_spool_bytes_max)),
        ("client_connections_max", count(limits.client_connections_max)),
        ("client_streams_max", count(limits.client_streams_max)),
        ("client_places_max", count(limits.client_places_max)),
        ("trusted_proxies", texts(&limits.trusted_proxies)),
        ("forwarding_proxies", texts(&limits.forwarding_proxies)),
    ])
}

fn timeouts(timeouts: &Timeouts) -> Value {
    table([
        ("first_byte_ms", ms(timeouts.first_byte)),
        ("headers_ms", ms(timeouts.headers)),
        ("body_ms", ms(timeouts.body)),
        ("send_ms", ms(timeouts.send)),
        ("rate_bytes_min", size(timeouts.rate_bytes_min)),
        ("rate_window_ms", ms(timeouts.rate_window)),
        ("idle_ms", ms(timeouts.idle)),
        ("linger_ms", ms(timeouts.linger)),
        ("drain_ms", ms(timeouts.drain)),
    ])
}

fn cache(cache: &Cache) -> Value {
    table([
        ("namespace", text(&cache.namespace)),
        ("object_bytes_max", size(cache.object_bytes_max)),
        ("part_bytes", bytes(cache.part_bytes)),
        ("clock_skew_ms", ms(cache.clock_skew)),
        ("object_tags_max", count(cache.object_tags_max)),
        ("search_rules_max", count(cache.search_rules_max)),
        ("part_ms", ms(cache.part_time)),
        ("bodies_bytes_max", size(cache.bodies_bytes_max)),
        ("memory", memory(&cache.memory)),
        ("disk", option(cache.disk.as_ref(), disk)),
        ("redis", option(cache.redis.as_ref(), redis)),
        ("collapse", collapse(&cache.collapse)),
        ("purge", purge(&cache.purge)),
    ])
}

fn memory(memory: &Memory) -> Value {
    table([("bytes", bytes(memory.bytes)), ("value_bytes_max", bytes(memory.value_bytes_max))])
}

fn disk(disk: &Disk) -> Value {
    table([("dir", path(&disk.dir)), ("bytes", bytes(disk.bytes))])
}

fn redis(redis: &Redis) -> Value {
    table([
        ("url", text(&redis.url)),
        ("budget_ms", ms(redis.budget)),
        ("value_bytes_max", bytes(redis.value_bytes_max)),
        ("writes_queued_max", count(redis.writes_queued_max)),
        ("breaker", breaker(&redis.breaker)),
    ])
}

fn breaker(breaker: &Breaker) -> Value {
    table([
        ("failures", Value::from(breaker.failures)),
        ("open_ms", ms(breaker.open)),
        ("open_ms_max", ms(breaker.open_max)),
    ])
}

fn collapse(collapse: &Collapse) -> Value {
    table([
        ("flights_max", count(collapse.flights_max)),
        ("lag_bytes_max", size(collapse.lag_bytes_max)),
        ("uncacheable_ms", ms(collapse.uncacheable)),
    ])
}

fn purge(purge: &Purge) -> Value {
    let cut_off = match purge.cut_off {
        CutOff::Ask => "ask",
        CutOff::Serve => "serve",
    };
    table([
        ("tags_max", count(purge.tags_max)),
        ("log_max", count(purge.log_max)),
        ("ack_ms", ms(purge.ack)),
        ("fence_ms", ms(purge.fence)),
        ("cut_off", text(cut_off)),
        ("lost_ms", ms(purge.lost)),
        ("invalidations_max", count(purge.invalidations_max)),
    ])
}

fn plugins(plugins: &Plugins) -> Value {
    table([
        ("cache_dir", option(plugins.cache_dir.as_deref(), path)),
        ("cache_bytes_max", size(plugins.cache_bytes_max)),
        ("watch", Value::Bool(plugins.watch)),
    ])
}

fn prefetch(prefetch: &Prefetch) -> Value {
    table([
        ("concurrency", count(prefetch.concurrency)),
        ("queue_max", count(prefetch.queue_max)),
        ("confidence_percent_min", Value::from(prefetch.confidence_percent_min)),
        ("again_ms", ms(prefetch.again)),
        ("time_ms_max", ms(prefetch.time_max)),
    ])
}

fn log(log: &Log) -> Value {
    table([
        ("access", text(&log.access)),
        ("lines_queued_max", count(log.lines_queued_max)),
        ("filter", text(&log.filter)),
        ("trace_ppm", Value::from(log.trace_ppm)),
    ])
}

fn policy(policy: &Policy) -> Value {
    let file = match &policy.source {
        PolicySource::File(file) => path(file),
        PolicySource::Embedded(_) => text("(embedded)"),
    };
    table([
        ("file", file),
        ("config", serde_json::from_str(&policy.config).unwrap_or_else(|_| text(&policy.config))),
        ("limits", policy_limits(&policy.limits)),
        ("memo", memo(policy.memo)),
        ("rollout", rollout(&policy.rollout)),
    ])
}

fn policy_limits(limits: &PolicyLimits) -> Value {
    table([
        ("memory_bytes_max", bytes(limits.memory_bytes_max)),
        ("call_us", us(limits.call)),
        ("load_ms", ms(limits.load)),
        ("instances_max", count(limits.instances_max)),
        ("wait_us", us(limits.wait)),
        ("calls_max", Value::from(limits.calls_max)),
        ("result_bytes_max", bytes(limits.result_bytes_max)),
        ("result_items_max", count(limits.result_items_max)),
        ("log_per_second_max", Value::from(limits.log_per_second_max)),
        ("breaker", breaker(&limits.breaker)),
    ])
}

fn memo(memo: Memo) -> Value {
    table([("entries_max", count(memo.entries_max)), ("check_every", Value::from(memo.check_every))])
}

fn rollout(rollout: &Rollout) -> Value {
    let mode = match rollout.mode {
        RolloutMode::Swap => "swap",
        RolloutMode::Shadow => "shadow",
        RolloutMode::Canary => "canary",
    };
    table([
        ("mode", text(mode)),
        ("canary_percent", Value::from(rollout.canary_percent)),
        ("canary_header", option(rollout.canary_header.as_ref(), text)),
        ("hold_ms", ms(rollout.hold)),
        ("requests_min", Value::from(rollout.requests_min)),
        ("faults_ppm_max", Value::from(rollout.faults_ppm_max)),
        ("disagreements_ppm_max", Value::from(rollout.disagreements_ppm_max)),
        ("latency_percent_max", Value::from(rollout.latency_percent_max)),
        ("origin_failures_ppm_max", Value::from(rollout.origin_failures_ppm_max)),
        ("kept_max", count(rollout.kept_max)),
    ])
}

fn pool(pool: &Pool) -> Value {
    table([
        ("endpoints", list(&pool.endpoints, |endpoint| text(endpoint.url.to_string().trim_end_matches('/')))),
        ("connections_max", count(pool.connections_max)),
        ("waiting_max", count(pool.waiting_max)),
        ("connect_ms", ms(pool.connect)),
        ("response_ms", ms(pool.response)),
        ("idle_ms", ms(pool.idle)),
        ("body_ms", ms(pool.body)),
        ("keep_alive_ms", ms(pool.keep_alive)),
        ("attempts_max", Value::from(pool.attempts_max)),
        ("response_headers_max", count(pool.response_headers_max)),
        ("response_header_bytes_max", bytes(pool.response_header_bytes_max)),
        ("request_coding", text(pool.request_coding.map_or("none", |coding| coding.as_str()))),
        ("response_coding", Value::Bool(pool.response_coding)),
        ("http", text(version(pool.http))),
        ("ping_ms", ms(pool.ping)),
        ("ping_timeout_ms", ms(pool.ping_timeout)),
        ("host", host(&pool.host)),
        ("tls", origin_tls(&pool.tls)),
        ("health", option(pool.health.as_ref(), health)),
        ("eject", eject(&pool.eject)),
        ("batch", batch(&pool.batch)),
        ("protocol", option(pool.translation.as_ref(), |to| text(pool_protocol(to.protocol)))),
        ("translate", option(pool.translation.as_ref(), translate)),
    ])
}

const fn pool_protocol(protocol: PoolProtocol) -> &'static str {
    match protocol {
        PoolProtocol::JsonArray => "json-array",
        PoolProtocol::MsgPackArray => "msgpack-array",
        PoolProtocol::KServe => "kserve",
        PoolProtocol::KServeGrpc => "kserve-grpc",
    }
}

fn translate(translation: &Translation) -> Value {
    table([
        ("model", option(translation.model.as_ref(), text)),
        ("path", option(translation.path.as_ref(), text)),
        ("input", text(&translation.input)),
        ("output", option(translation.output.as_ref(), text)),
        ("datatype", option(translation.datatype, text)),
        ("binary", Value::Bool(translation.binary)),
        ("flat", Value::Bool(translation.flat)),
    ])
}

const fn version(http: OriginHttp) -> &'static str {
    match http {
        OriginHttp::Http1 => "1.1",
        OriginHttp::Http2 => "2",
        OriginHttp::Auto => "auto",
    }
}

fn host(host: &OriginHost) -> Value {
    match host {
        OriginHost::ByUrl => text("auto"),
        OriginHost::Client => text("client"),
        OriginHost::Named(name) => text(String::from_utf8_lossy(name.as_bytes())),
    }
}

fn origin_tls(tls: &OriginTls) -> Value {
    table([
        ("ca", option(tls.ca.as_deref(), path)),
        ("certificate", option(tls.client.as_ref(), |client| path(&client.certificate))),
        ("key", option(tls.client.as_ref(), |client| path(&client.key))),
        ("server_name", option(tls.server_name.as_ref(), text)),
    ])
}

fn health(health: &Health) -> Value {
    table([
        ("path", text(&health.path)),
        ("interval_ms", ms(health.interval)),
        ("timeout_ms", ms(health.timeout)),
        ("healthy_after", Value::from(health.healthy_after)),
        ("unhealthy_after", Value::from(health.unhealthy_after)),
    ])
}

fn eject(eject: &Eject) -> Value {
    table([
        ("failures", Value::from(eject.failures)),
        ("duration_ms", ms(eject.duration)),
        ("percent_max", Value::from(eject.percent_max)),
    ])
}

fn batch(batch: &Batch) -> Value {
    table([
        ("size_max", count(batch.size_max)),
        ("bytes_max", bytes(batch.bytes_max)),
        ("padded", Value::Bool(batch.padded)),
        ("wait_us_max", us(batch.wait_max)),
        ("queue_max", count(batch.queue_max)),
        ("concurrency", count(batch.concurrency)),
        ("concurrency_min", count(batch.concurrency_min)),
        ("classes_max", count(batch.classes_max)),
        ("quarantine_max", count(batch.quarantine_max)),
        ("quarantine_ms", ms(batch.quarantine)),
        ("tenants_max", count(batch.tenants_max)),
        ("models_max", count(batch.models_max)),
    ])
}

fn route(route: &Route) -> Value {
    let mut shown = basics(route);
    if route.mode == Mode::Http
        && let (Some(members), Value::Object(further)) = (shown.as_object_mut(), extensions(route.extensions))
    {
        members.extend(further);
    }
    shown
}

fn extensions(extensions: Extensions) -> Value {
    let query_key = match extensions.query_key {
        QueryKey::Canonical => "canonical",
        QueryKey::Exact => "exact",
        QueryKey::Pass => "pass",
    };
    table([
        ("query_key", text(query_key)),
        ("query_body_bytes_max", size(extensions.query_body_bytes_max)),
        ("cache_groups", Value::Bool(extensions.cache_groups)),
        ("no_vary_search", Value::Bool(extensions.no_vary_search)),
    ])
}

/// Returns a route without what it honours of the standards that extend HTTP caching.
fn basics(route: &Route) -> Value {
    let (mode, protocol) = match route.mode {
        Mode::Http => ("http", None),
        Mode::Infer(protocol) => ("infer", Some(protocol)),
    };
    let forward_path = match route.forward_path {
        ForwardPath::AsReceived => "as-received",
        ForwardPath::Normalized => "normalized",
    };
    let on_fault = match route.on_fault {
        OnFault::Bypass => "bypass",
        OnFault::Native => "native",
        OnFault::Refuse => "refuse",
    };
    let range_miss = match route.range_miss {
        RangeMiss::Whole => "whole",
        RangeMiss::Parts => "parts",
        RangeMiss::Pass => "pass",
    };
    let reload = match route.reload {
        Reload::Honour => "honour",
        Reload::Coalesce => "coalesce",
        Reload::Ignore => "ignore",
    };
    let store_set_cookie = match route.store_set_cookie {
        StoreSetCookie::Shared => "shared",
        StoreSetCookie::Explicit => "explicit",
        StoreSetCookie::Never => "never",
    };
    // Keys that only an `infer` route may have, or only another one.
    let infers = protocol.is_some();
    let infer = |value: Value| if infers { value } else { Value::Null };
    let http = |value: Value| if infers { Value::Null } else { value };
    let candidates = (!route.candidates.is_empty()).then_some(&route.candidates);
    let weights = (!route.tenant_weights.is_empty()).then_some(&route.tenant_weights);
    let mut shown = table([
        ("name", text(&route.name)),
        ("hosts", texts(&route.hosts)),
        ("path", text(&route.path)),
        ("forward_path", text(forward_path)),
        ("mode", text(mode)),
        ("protocol", option(protocol, |protocol| text(protocol_name(protocol)))),
        ("pool", option(Some(&route.pool).filter(|_| route.own.is_none()), text)),
        ("candidates", option(candidates, |candidates| list(candidates, candidate))),
        ("policy", option(route.policy.as_ref(), text)),
        ("on_fault", text(on_fault)),
        ("ignore_headers", infer(texts(&route.ignore_headers))),
        ("key_without_body", infer(Value::Bool(route.key_without_body))),
        ("indivisible", infer(texts(&route.indivisible))),
        ("tenant", infer(tenant(&route.tenant))),
        ("tenant_weights", option(weights, |weights| named(weights, |weight| Value::from(*weight)))),
        ("compress", list(&route.compress.codings, |coding| text(coding.as_str()))),
        ("compress_bytes_min", bytes(route.compress.bytes_min)),
        ("compress_types", texts(&route.compress.types)),
        ("ttl_ms", option(route.freshness.ttl, ms)),
        ("heuristic_max_ms", ms(route.freshness.heuristic_max)),
        ("grace_ms", ms(route.freshness.grace)),
        ("stale_if_error_ms", ms(route.freshness.stale_if_error)),
        ("stale_if_unreachable_ms", http(ms(route.freshness.stale_if_unreachable))),
        ("keep_ms", ms(route.freshness.keep)),
        ("tag_headers", texts(&route.tag_headers)),
        ("websocket", Value::Bool(route.websocket)),
        ("range_miss", text(range_miss)),
        ("targeted", http(texts(&route.targeted))),
        ("reload", http(text(reload))),
        ("store_set_cookie", http(text(store_set_cookie))),
        ("refresh_ahead", http(Value::Bool(route.refresh_ahead))),
    ]);
    if let (Value::Object(members), Value::Object(more)) = (&mut shown, routing(route)) {
        members.extend(more);
    }
    shown
}

/// Returns what a route says beside host, path, pool and what is stored.
fn routing(route: &Route) -> Value {
    let (redirected, fixed) = match &route.own {
        None => (Value::Null, Value::Null),
        Some(OwnResponse::Redirect(to)) => (redirect(to), Value::Null),
        Some(OwnResponse::Fixed(fixed)) => (Value::Null, respond(fixed)),
    };
    table([
        ("methods", texts(&route.conditions.methods)),
        ("headers", all_wanted(&route.conditions.headers)),
        ("query", all_wanted(&route.conditions.query)),
        ("rewrite", option(route.rewrite.as_ref(), rewrite)),
        ("request_headers", edits(&route.request_headers)),
        ("response_headers", edits(&route.response_headers)),
        ("redirect", redirected),
        ("respond", fixed),
        ("body_bytes_max", option(route.body_bytes_max, size)),
        ("response_ms", option(route.response, ms)),
        ("requests_max", option(route.requests_max, count)),
    ])
}

fn all_wanted<N: Display>(conditions: &[(N, Wanted)]) -> Value {
    let shown = |(name, wanted): &(N, Wanted)| {
        let value = match wanted {
            Wanted::Present => Value::Bool(true),
            Wanted::Exactly(value) => text(value),
        };
        (name.to_string(), value)
    };
    Value::Object(conditions.iter().map(shown).collect())
}

fn rewrite(rewrite: &Rewrite) -> Value {
    table([
        ("strip_prefix", option(rewrite.strip_prefix.as_ref(), text)),
        ("prefix", option(rewrite.prefix.as_ref(), text)),
    ])
}

fn edits(edits: &FieldEdits) -> Value {
    // They were text in a file once.
    let shown = |value: &HeaderValue| text(String::from_utf8_lossy(value.as_bytes()));
    let set = edits.set.iter().map(|(name, value)| (name.to_string(), shown(value))).collect();
    table([("remove", texts(&edits.remove)), ("set", Value::Object(set))])
}

fn redirect(redirect: &Redirect) -> Value {
    table([("status", Value::from(redirect.status.as_u16())), ("to", text(&redirect.to))])
}

fn respond(fixed: &Fixed) -> Value {
    table([
        ("status", Value::from(fixed.status.as_u16())),
        ("body", text(String::from_utf8_lossy(&fixed.body))),
        ("content_type", text(String::from_utf8_lossy(fixed.content_type.as_bytes()))),
    ])
}

const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Plain => "plain",
        Protocol::JsonArray => "json-array",
        Protocol::OpenAiEmbeddings => "openai-embeddings",
        Protocol::KServe => "kserve",
        Protocol::MsgPackArray => "msgpack-array",
    }
}

fn tenant(tenant: &TenantBy) -> Value {
    match tenant {
        TenantBy::Credentials => text("credentials"),
        TenantBy::Header(name) => text(format_args!("header:{name}")),
        TenantBy::Client => text("client"),
        TenantBy::Nothing => text("none"),
    }
}

fn candidate(candidate: &Candidate) -> Value {
    table([
        ("pool", text(&candidate.pool)),
        ("model", option(candidate.model.as_ref(), text)),
        ("cost_micro", Value::from(candidate.cost_micro)),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_left_out_wherever_they_stand() {
        let table = [
            (json!({"url": "redis://:hunter2@10.0.0.1:6379/0"}), json!({"url": "redis://***@10.0.0.1:6379/0"})),
            (json!({"url": "rediss://user:pa/s@s@h"}), json!({"url": "rediss://***@h"})),
            (json!({"url": "redis://h:6379"}), json!({"url": "redis://h:6379"})),
            (json!({"Api_Key": "a", "tokens_max": 5}), json!({"Api_Key": "***", "tokens_max": 5})),
            (json!({"a": [{"passwords": ["x", {"y": "z"}]}]}), json!({"a": [{"passwords": ["***", {"y": "***"}]}]})),
            (json!({"tenant_header": "x-tenant"}), json!({"tenant_header": "x-tenant"})),
            (
                json!({"tenant": "header:authorization", "tenant_weights": {"Basic YTpi": 4}}),
                json!({"tenant": "header:authorization", "tenant_weights": "***"}),
            ),
            (
                json!({"tenant": "header:x-tenant", "tenant_weights": {"gold": 4}}),
                json!({"tenant": "header:x-tenant", "tenant_weights": {"gold": 4}}),
            ),
            (
                json!({"request_headers": {"set": {"Authorization": "Basic YTpi", "x-origin-key": "k", "x-a": "b"}}}),
                json!({"request_headers": {"set": {"Authorization": "***", "x-origin-key": "***", "x-a": "b"}}}),
            ),
            (
                json!({"headers": {"x-api-key": "k", "x-beta": true}, "remove": ["cookie"]}),
                json!({"headers": {"x-api-key": "***", "x-beta": true}, "remove": ["cookie"]}),
            ),
            (json!({"token_file": "t", "key": "tls/key.pem"}), json!({"token_file": "t", "key": "tls/key.pem"})),
        ];
        for (given, shown) in table {
            assert_eq!(without_secrets(given.clone()), shown, "{given}");
        }
        assert_eq!(member_without_secrets("token", json!("a")), json!("***"));
    }
}
