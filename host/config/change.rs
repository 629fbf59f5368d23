//! What one configuration has otherwise than another, and what of that a running node can't take.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Config,
    listing::{HIDDEN, TENANT_WEIGHTS, hides_tenants, listing, member_without_secrets},
};
use crate::report::ConfigChange;

/// When another value of a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// As soon as the configuration is adopted.
    Live,
    /// After a restart.
    Restart,
}

use Class::{Live, Restart};

/// Every key, by its table; `*` stands for a name that the operator chose.
const CLASSES: &[(&str, Class, &[&str])] = &[
    ("", Restart, &["node"]),
    ("", Live, &["watch", "zone"]),
    ("region", Restart, &["name"]),
    ("region", Live, &["client_field"]),
    ("global", Restart, &["etcd", "namespace", "user", "password", "ca_file", "cert_file", "key_file", "timeout_ms"]),
    // Which log a node follows, and by which fence it serves, is known to others from its start on.
    ("global.purge", Restart, &["tags_max", "patterns_max", "log_max", "ack_ms", "fence_ms", "cut_off", "lost_ms"]),
    ("listen", Live, &["address", "proxy_protocol", "http3", "http3_port"]),
    // The socket has it from the start on.
    ("listen", Restart, &["reuse_port", "mode"]),
    ("listen.tls", Live, &["certificate", "key", "ocsp", "further"]),
    ("admin", Restart, &["address", "token_file", "hosts", "unprotected"]),
    ("admin.tls", Restart, &["certificate", "key", "client_ca"]),
    ("takeover", Restart, &["socket"]),
    ("takeover", Live, &["grace_ms", "ready_ms"]),
    ("tls", Live, &["version_min", "reload_ms"]),
    (
        "http3",
        Live,
        &[
            "advertised_ms",
            "unvalidated_max",
            "send_bytes_max",
            "receive_bytes_max",
            "socket_bytes",
            "segmentation_offload",
            "early_data",
            "early_sessions_max",
        ],
    ),
    (
        "limits",
        Live,
        &[
            "connections_max",
            "streams_max",
            "headers_max",
            "header_bytes_max",
            "body_bytes_max",
            "items_max",
            "body_buffered_bytes_max",
            "spool_memory_bytes_max",
            "spool_bytes_max",
            "spool_dir",
            "client_spool_bytes_max",
            "client_connections_max",
            "client_streams_max",
            "client_places_max",
            "trusted_proxies",
            "forwarding_proxies",
        ],
    ),
    (
        "timeouts",
        Live,
        &[
            "first_byte_ms",
            "headers_ms",
            "body_ms",
            "send_ms",
            "rate_bytes_min",
            "rate_window_ms",
            "idle_ms",
            "linger_ms",
            "drain_ms",
            "drain_delay_ms",
        ],
    ),
    (
        "cache",
        Restart,
        &[
            "namespace",
            "object_bytes_max",
            "part_bytes",
            "clock_skew_ms",
            "object_tags_max",
            "search_rules_max",
            "part_ms",
            "bodies_bytes_max",
            "dictionaries_bytes_max",
        ],
    ),
    ("cache.memory", Restart, &["bytes", "value_bytes_max"]),
    ("cache.disk", Restart, &["dir", "bytes"]),
    (
        "cache.redis",
        Restart,
        &[
            "url",
            "budget_ms",
            "value_bytes_max",
            "writes_queued_max",
            "writes_at_once_max",
            "writes_at_once_bytes_max",
            "parts_at_once_bytes_max",
            "lease_ms",
            "lease_wait_ms",
        ],
    ),
    ("cache.redis.breaker", Restart, &["failures", "open_ms", "open_ms_max"]),
    ("cache.collapse", Restart, &["flights_max", "lag_bytes_max", "uncacheable_ms"]),
    ("cache.purge", Live, &["ack_ms"]),
    (
        "cache.purge",
        Restart,
        &["tags_max", "patterns_max", "log_max", "fence_ms", "cut_off", "lost_ms", "invalidations_max"],
    ),
    ("plugins", Restart, &["cache_dir", "cache_bytes_max"]),
    ("plugins", Live, &["watch"]),
    ("central", Restart, &["dir"]),
    ("policy.*", Live, &["file", "config"]),
    (
        "policy.*.limits",
        Live,
        &[
            "memory_bytes_max",
            "call_us",
            "load_ms",
            "instances_max",
            "wait_us",
            "calls_max",
            "result_bytes_max",
            "result_items_max",
            "log_per_second_max",
        ],
    ),
    ("policy.*.limits.breaker", Live, &["failures", "open_ms", "open_ms_max"]),
    ("policy.*.memo", Live, &["entries_max", "check_every"]),
    (
        "policy.*.rollout",
        Live,
        &[
            "mode",
            "canary_percent",
            "canary_header",
            "hold_ms",
            "requests_min",
            "faults_ppm_max",
            "disagreements_ppm_max",
            "latency_percent_max",
            "origin_failures_ppm_max",
            "kept_max",
        ],
    ),
    ("dns", Live, &["servers", "ttl_ms_max"]),
    (
        "pool.*",
        Live,
        &[
            "endpoints",
            "zones",
            "dns",
            "dns_ttl_ms",
            "connections_max",
            "waiting_max",
            "connect_ms",
            "response_ms",
            "idle_ms",
            "body_ms",
            "keep_alive_ms",
            "attempts_max",
            "response_headers_max",
            "response_header_bytes_max",
            "request_coding",
            "response_coding",
            "http",
            "ping_ms",
            "ping_timeout_ms",
            "host",
            "protocol",
        ],
    ),
    ("pool.*.translate", Live, &["model", "path", "input", "output", "datatype", "binary", "flat"]),
    ("pool.*.tls", Live, &["ca", "certificate", "key", "server_name"]),
    ("pool.*.health", Live, &["path", "interval_ms", "timeout_ms", "healthy_after", "unhealthy_after"]),
    ("pool.*.eject", Live, &["failures", "duration_ms", "percent_max"]),
    (
        "pool.*.batch",
        Live,
        &[
            "size_max",
            "bytes_max",
            "padded",
            "wait_us_max",
            "queue_max",
            "concurrency",
            "concurrency_min",
            "classes_max",
            "quarantine_max",
            "quarantine_ms",
            "tenants_max",
            "models_max",
            "overdue_factor",
            "overdue_ms",
            "guard",
        ],
    ),
    (
        "route",
        Live,
        &[
            "name",
            "hosts",
            "path",
            "methods",
            "headers",
            "query",
            "rewrite",
            "request_headers",
            "response_headers",
            "redirect",
            "respond",
            "body_bytes_max",
            "response_ms",
            "requests_max",
            "forward_path",
            "mode",
            "protocol",
            "pool",
            "candidates",
            "parents",
            "parents_share_purges",
            "replicate",
            "policy",
            "on_fault",
            "ignore_headers",
            "key_without_body",
            "indivisible",
            "tenant",
            "tenant_weights",
            "compress",
            "compress_bytes_min",
            "compress_types",
            "deltas",
            "deltas_max",
            "deltas_bytes_max",
            "deltas_wait_ms",
            "ttl_ms",
            "heuristic_max_ms",
            "grace_ms",
            "stale_if_error_ms",
            "stale_if_unreachable_ms",
            "keep_ms",
            "tag_headers",
            "websocket",
            "range_miss",
            "targeted",
            "reload",
            "store_set_cookie",
            "query_key",
            "query_body_bytes_max",
            "cache_groups",
            "no_vary_search",
            "refresh_ahead",
            "underscores_in_headers",
            "key_client_region",
        ],
    ),
    ("prefetch", Live, &["concurrency", "queue_max", "confidence_percent_min", "again_ms", "time_ms_max"]),
    (
        "replicate",
        Live,
        &[
            "concurrency",
            "queue_max",
            "queue_bytes_max",
            "object_bytes_max",
            "send_ms_max",
            "fetch_concurrency",
            "fetch_queue_max",
            "fetch_ms_max",
        ],
    ),
    ("log", Live, &["access", "lines_queued_max", "filter", "trace_ppm"]),
];

/// Tables whose members are of the operator's choice, or mean something together only.
const WHOLE: [&str; 10] = [
    "policy.*.config",
    "route.tenant_weights",
    "route.headers",
    "route.query",
    "route.rewrite",
    "route.request_headers",
    "route.response_headers",
    "route.redirect",
    "route.respond",
    "route.replicate",
];

/// Returns all keys whose values differ, in the order of their names; of a listener, pool, policy or route that only
/// one of them has just that. Secrets are compared, and left out of what is returned.
#[must_use]
pub fn changes(old: &Config, new: &Config) -> Vec<ConfigChange> {
    differences(&listing(old), &listing(new))
}

/// Returns the same of two listings.
#[must_use]
pub fn differences(old: &Value, new: &Value) -> Vec<ConfigChange> {
    let mut found = Vec::new();
    compare(&Key::default(), Some(&with_names(old)), Some(&with_names(new)), &mut found);
    found.extend(order(old, new));
    found
}

/// Characters of a value that are shown.
const SHOWN_MAX: usize = 200;

/// Returns a change in one line: `limits.headers_max: 100 -> 50`.
#[must_use]
pub fn described(change: &ConfigChange) -> String {
    let ConfigChange { key, old, new, needs_restart } = change;
    let is_whole = |value: &Option<Value>| value.as_ref().is_some_and(Value::is_object);
    let shown = |value: &Option<Value>| {
        let Some(value) = value else { return "none".to_owned() };
        let text = value.to_string();
        match text.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    };
    let what = match (old, new) {
        (None, Some(_)) if is_whole(new) => " is new".to_owned(),
        (Some(_), None) if is_whole(old) => " is gone".to_owned(),
        _ if key == "route" => format!(" order: {} -> {}", shown(old), shown(new)),
        _ => format!(": {} -> {}", shown(old), shown(new)),
    };
    let restart = if *needs_restart { " (needs a restart)" } else { "" };
    format!("{key}{what}{restart}")
}

/// Returns the keys of a listing whose values aren't shown, so that [`differences`] with another can't tell.
#[must_use]
pub fn hidden_keys(listing: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(&Key::default(), None, Some(&with_names(listing)), &mut found);
    found.retain(|change| change.new.as_ref().is_some_and(|value| value.to_string().contains(HIDDEN)));
    found.into_iter().map(|change| change.key).collect()
}

/// A key as operators read it, and as the table of classes has it.
#[derive(Default)]
struct Key {
    shown: String,
    table: String,
    name: String,
    /// Its value isn't shown.
    is_hidden: bool,
}

impl Key {
    fn member(&self, name: &str) -> Self {
        let is_named = matches!(self.table.as_str(), "policy" | "pool");
        let is_listed = matches!(self.table.as_str(), "listen" | "route") && !self.shown.contains('.');
        let table = match (is_named, is_listed) {
            (true, _) => joined(&self.table, "*"),
            (_, true) => self.table.clone(),
            _ => joined(&self.table, name),
        };
        Self { shown: joined(&self.shown, &bare(name)), table, name: name.to_owned(), is_hidden: false }
    }

    /// Whether it is a listener, pool, policy or route as a whole.
    fn is_item(&self) -> bool {
        match self.table.as_str() {
            "policy.*" | "pool.*" => true,
            "listen" | "route" => self.shown.contains('.'),
            _ => false,
        }
    }

    /// Whether its value is compared as a whole.
    fn is_leaf(&self) -> bool {
        WHOLE.contains(&self.table.as_str())
    }

    fn class(&self) -> Option<Class> {
        let (table, key) = self.table.rsplit_once('.').unwrap_or(("", self.table.as_str()));
        CLASSES.iter().find(|(known, _, keys)| *known == table && keys.contains(&key)).map(|(_, class, _)| *class)
    }

    fn change(&self, old: Option<&Value>, new: Option<&Value>) -> ConfigChange {
        let shown = |value: Option<&Value>| match value {
            Some(_) if self.is_hidden => Some(HIDDEN.into()),
            _ => value.map(|value| member_without_secrets(&self.name, value.clone())),
        };
        // A key that is on no table isn't taken for one that a running node can change.
        let needs_restart = !self.is_item() && self.class() != Some(Live);
        ConfigChange { key: self.shown.clone(), old: shown(old), new: shown(new), needs_restart }
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Returns a name as TOML has it in a key.
fn bare(name: &str) -> String {
    let is_bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if is_bare { name.to_owned() } else { format!("\"{name}\"") }
}

/// Returns a listing whose listeners and routes are tables by their addresses and names.
fn with_names(listing: &Value) -> Value {
    let mut listing = listing.clone();
    for (member, name) in [("listen", "address"), ("route", "name")] {
        let Some(Value::Array(items)) = listing.get_mut(member).map(Value::take) else { continue };
        let mut named = Map::new();
        for item in items {
            let name = item.get(name).and_then(Value::as_str).unwrap_or_default();
            // Port 0 may stand more than once.
            let mut unique = name.to_owned();
            for number in 2.. {
                if !named.contains_key(&unique) {
                    break;
                }
                unique = format!("{name}#{number}");
            }
            named.insert(unique, item);
        }
        listing[member] = Value::Object(named);
    }
    listing
}

fn compare(key: &Key, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<ConfigChange>) {
    if old == new {
        return;
    }
    let (old_members, new_members) = (members(old), members(new));
    let is_table = (old.is_none() || old_members.is_some()) && (new.is_none() || new_members.is_some());
    let is_whole = key.is_leaf() || (key.is_item() && (old.is_none() || new.is_none()));
    if !is_table || is_whole {
        found.push(key.change(old, new));
        return;
    }
    let mut both: BTreeMap<&str, (Option<&Value>, Option<&Value>)> = BTreeMap::new();
    for (name, value) in old_members.into_iter().flatten() {
        both.entry(name).or_default().0 = Some(value);
    }
    for (name, value) in new_members.into_iter().flatten() {
        both.entry(name).or_default().1 = Some(value);
    }
    let hides_tenants = [old_members, new_members].into_iter().flatten().any(hides_tenants);
    for (name, (old, new)) in both {
        let member = key.member(name);
        let is_hidden = hides_tenants && name == TENANT_WEIGHTS;
        compare(&Key { is_hidden, ..member }, old, new, found);
    }
}

fn members(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

/// Returns the routes that both have, if their order differs: of equally specific ones the first takes a request.
fn order(old: &Value, new: &Value) -> Option<ConfigChange> {
    fn names(listing: &Value) -> Vec<&str> {
        let routes = listing.get("route").and_then(Value::as_array).into_iter().flatten();
        routes.filter_map(|route| route.get("name").and_then(Value::as_str)).collect()
    }
    fn common<'a>(names: &[&'a str], others: &[&str]) -> Vec<&'a str> {
        let others: std::collections::HashSet<&str> = others.iter().copied().collect();
        names.iter().copied().filter(|name| others.contains(name)).collect()
    }
    let (old, new) = (names(old), names(new));
    let (before, after) = (common(&old, &new), common(&new, &old));
    (before != after).then(|| ConfigChange {
        key: "route".to_owned(),
        old: Some(before.into()),
        new: Some(after.into()),
        needs_restart: false,
    })
}

#[cfg(test)]
mod tests;
