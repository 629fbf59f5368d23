//! A configuration as the values of a file, every default filled in: it is shown to operators, and two configurations
//! are compared by it. Read as a file it makes the same configuration again.

mod route;
mod secrets;
mod values;

use serde_json::Value;

pub use self::secrets::{HIDDEN, is_secret_field, without_secrets};
pub(super) use self::secrets::{TENANT_WEIGHTS, hides_tenants, member_without_secrets, without_userinfo};
use self::{
    route::route,
    values::{bytes, count, list, ms, named, option, path, size, table, text, texts, us},
};
use super::{
    Admin, Batch, Breaker, Cache, Certificate, Collapse, Config, CutOff, Disk, Dns, Eject, Endpoint, Etcd, Global,
    Health, Http3, Limits, Listen, ListenTls, Log, Memo, Memory, NameSource, OriginHost, OriginHttp, OriginTls,
    Plugins, Policy, PolicyLimits, PolicySource, Pool, PoolProtocol, Prefetch, Purge, Redis, Region, Replication,
    Rollout, RolloutMode, Takeover, Timeouts, TlsVersion, Translation, check::CONNECTS,
};

/// Returns the configuration in the tables and keys of a file, secrets included.
#[must_use]
pub fn listing(config: &Config) -> Value {
    table([
        ("node", text(&config.node)),
        ("zone", option(config.zone.as_ref(), text)),
        ("region", option(config.region.as_ref(), region)),
        ("global", option(config.global.as_ref(), global)),
        ("watch", Value::Bool(config.watch)),
        ("listen", list(&config.listen, listen)),
        ("admin", option(config.admin.as_ref(), admin)),
        ("takeover", takeover(&config.takeover)),
        ("tls", tls(config)),
        ("http3", http3(&config.http3)),
        ("limits", limits(&config.limits)),
        ("timeouts", timeouts(&config.timeouts)),
        ("cache", cache(&config.cache)),
        ("plugins", plugins(&config.plugins)),
        ("central", option(config.central.as_ref(), |central| table([("dir", path(&central.dir))]))),
        ("policy", named(&config.policies, policy)),
        ("dns", dns(&config.dns)),
        ("pool", named(&config.pools, pool)),
        ("route", list(&config.routes, route)),
        ("prefetch", prefetch(&config.prefetch)),
        ("replicate", replication(&config.replication)),
        ("log", log(&config.log)),
    ])
}

fn region(region: &Region) -> Value {
    table([("name", text(&region.name)), ("client_field", option(region.client_field.as_ref(), text))])
}

fn listen(listen: &Listen) -> Value {
    let word = |mode: u32| CONNECTS.iter().find(|(_, known)| *known == mode).map(|(word, _)| *word);
    let mode = listen.unix.as_ref().and_then(|unix| word(unix.mode));
    table([
        ("address", text(listen.name())),
        ("mode", option(mode, text)),
        ("proxy_protocol", texts(&listen.proxy_protocol)),
        ("reuse_port", if listen.unix.is_some() { Value::Null } else { Value::Bool(listen.reuse_port) }),
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

fn takeover(takeover: &Takeover) -> Value {
    table([
        ("socket", option(takeover.socket.as_deref(), path)),
        ("grace_ms", ms(takeover.grace)),
        ("ready_ms", ms(takeover.ready)),
    ])
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
        ("early_data", Value::Bool(http3.early_data)),
        ("early_sessions_max", count(http3.early_sessions_max)),
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
        ("drain_delay_ms", ms(timeouts.drain_delay)),
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
        ("dictionaries_bytes_max", size(cache.dictionaries_bytes_max)),
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
        ("writes_at_once_max", count(redis.writes_at_once_max)),
        ("writes_at_once_bytes_max", bytes(redis.writes_at_once_bytes_max)),
        ("parts_at_once_bytes_max", bytes(redis.parts_at_once_bytes_max)),
        ("lease_ms", ms(redis.lease)),
        ("lease_wait_ms", ms(redis.lease_wait)),
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

fn global(global: &Global) -> Value {
    let Etcd { endpoints, user, password, ca, client, timeout } = &global.etcd;
    table([
        ("etcd", texts(endpoints)),
        ("namespace", text(&global.namespace)),
        ("user", option(user.as_ref(), text)),
        ("password", option(password.as_ref(), text)),
        ("ca_file", option(ca.as_deref(), path)),
        ("cert_file", option(client.as_ref(), |client| path(&client.certificate))),
        ("key_file", option(client.as_ref(), |client| path(&client.key))),
        ("timeout_ms", ms(*timeout)),
        ("purge", global_purge(&global.purge)),
    ])
}

fn global_purge(purge: &Purge) -> Value {
    table([
        ("tags_max", count(purge.tags_max)),
        ("patterns_max", count(purge.patterns_max)),
        ("log_max", count(purge.log_max)),
        ("ack_ms", ms(purge.ack)),
        ("fence_ms", ms(purge.fence)),
        ("cut_off", text(cut_off(purge.cut_off))),
        ("lost_ms", ms(purge.lost)),
    ])
}

const fn cut_off(cut_off: CutOff) -> &'static str {
    match cut_off {
        CutOff::Ask => "ask",
        CutOff::Serve => "serve",
    }
}

fn purge(purge: &Purge) -> Value {
    let mut shown = global_purge(purge);
    shown["invalidations_max"] = count(purge.invalidations_max);
    shown
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

fn replication(replication: &Replication) -> Value {
    table([
        ("concurrency", count(replication.concurrency)),
        ("queue_max", count(replication.queue_max)),
        ("queue_bytes_max", bytes(replication.queue_bytes_max)),
        ("object_bytes_max", size(replication.object_bytes_max)),
        ("send_ms_max", ms(replication.send)),
        ("fetch_concurrency", count(replication.fetch_concurrency)),
        ("fetch_queue_max", count(replication.fetch_queue_max)),
        ("fetch_ms_max", ms(replication.fetch)),
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

fn dns(dns: &Dns) -> Value {
    table([("servers", texts(&dns.servers)), ("ttl_ms_max", ms(dns.ttl_max))])
}

fn source(source: NameSource) -> &'static str {
    match source {
        NameSource::System => "system",
        NameSource::Records => "records",
    }
}

fn pool(pool: &Pool) -> Value {
    table([
        ("endpoints", list(&pool.endpoints, endpoint)),
        ("zones", texts(&pool.zones)),
        ("dns", text(source(pool.dns))),
        ("dns_ttl_ms", ms(pool.dns_ttl)),
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

/// Returns an endpoint as short as a file may have it.
fn endpoint(endpoint: &Endpoint) -> Value {
    let url = text(endpoint.written());
    let plain = Endpoint {
        socket: endpoint.socket.clone(),
        service: endpoint.service.clone(),
        ..Endpoint::new(endpoint.url.clone())
    };
    if *endpoint == plain {
        return url;
    }
    table([
        ("url", url),
        ("weight", Value::from(endpoint.weight)),
        ("backup", Value::Bool(endpoint.backup)),
        ("zone", option(endpoint.zone.as_ref(), text)),
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
        ("overdue_factor", Value::from(batch.overdue_factor)),
        ("overdue_ms", ms(batch.overdue_least)),
        ("guard", count(batch.guard)),
    ])
}
