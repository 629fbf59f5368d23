//! Listings and what is told apart by them.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::config::{listing::without_secrets, parse};

const HOLM: &str = include_str!("../../../config/holm.toml");

/// What every configuration needs.
const SERVED: &str = "
    [[listen]]
    address = \"127.0.0.1:8080\"
    [pool.web]
    endpoints = [\"http://127.0.0.1:9000\"]
";

/// Words that aren't defaults, and routes of each protocol.
const OTHER_WORDS: &str = r#"
    watch = false
    zone = "a"
    tls = { version_min = "1.3", reload_ms = 0 }
    dns = { servers = ["10.0.0.53", "[::1]:5353"], ttl_ms_max = 1_000 }
    http3 = { advertised_ms = 0, segmentation_offload = false, early_data = true }
    [[listen]]
    address = "127.0.0.1:0"
    proxy_protocol = ["10.0.0.0/8", "2001:db8::/32"]
    reuse_port = true
    [[listen]]
    address = "127.0.0.1:0"
    tls = { certificate = "c.pem", key = "k.pem" }
    http3 = true
    [[listen]]
    address = "unix:holm.sock"
    mode = "owner"
    [admin]
    address = "127.0.0.1:0"
    hosts = ["edge-1.example"]
    unprotected = true
    [cache.purge]
    cut_off = "serve"
    [region]
    name = "eu"
    client_field = "X-Region"
    [global]
    etcd = ["http://127.0.0.1:2379", "http://127.0.0.2:2379"]
    [global.purge]
    cut_off = "serve"
    [policy."a.b"]
    file = "p.wasm"
    rollout.mode = "shadow"
    [policy.c]
    file = "p.wasm"
    rollout.mode = "canary"
    [pool.web]
    endpoints = ["https://origin.example"]
    request_coding = "zstd"
    response_coding = true
    http = "auto"
    host = "client"
    [pool.other]
    endpoints = [
        "https://[::1]:8443",
        "http://b",
        { url = "unix:/run/b.sock", weight = 7 },
        { url = "unix:/run/b.sock:/v1", backup = true, zone = "b" },
        "srv+http://_http._tcp.b.example",
        { url = "srv+https://_https._tcp.b.example/v1", weight = 2 },
    ]
    zones = ["b"]
    dns = "records"
    dns_ttl_ms = 100
    http = "2"
    host = "origin.example:8080"
    [pool.grpc]
    endpoints = ["http://c"]
    protocol = "kserve-grpc"
    translate = { model = "m", binary = true, flat = true }
    [pool.arrays]
    endpoints = ["http://d"]
    protocol = "json-array"
    batch = { concurrency_min = 2, models_max = 0 }
    [pool.packed]
    endpoints = ["http://e"]
    protocol = "msgpack-array"
    [[route]]
    name = "grpc"
    path = "/grpc"
    pool = "grpc"
    mode = "infer"
    protocol = "openai-embeddings"
    [[route]]
    name = "kserve"
    path = "/kserve"
    pool = "web"
    mode = "infer"
    protocol = "kserve"
    on_fault = "refuse"
    tenant = "client"
    indivisible = []
    [[route]]
    name = "json"
    path = "/json"
    pool = "web"
    mode = "infer"
    protocol = "json-array"
    on_fault = "native"
    tenant = "header:x-tenant"
    tenant_weights = { "a.b" = 3, "*" = 2 }
    ignore_headers = ["x-id"]
    key_without_body = true
    key_client_region = true
    [[route]]
    name = "msgpack"
    path = "/msgpack"
    pool = "web"
    mode = "infer"
    protocol = "msgpack-array"
    tenant = "none"
    [[route]]
    name = "plain"
    hosts = ["*.example.org"]
    pool = "web"
    mode = "infer"
    protocol = "plain"
    [[route]]
    name = "rest"
    pool = "other"
    forward_path = "normalized"
    ttl_ms = 0
    heuristic_max_ms = 0
    tag_headers = ["x-tags"]
    compress = ["gzip"]
    compress_types = ["text/*"]
    deltas = ["/app/*.js"]
    deltas_max = 8
    websocket = false
    range_miss = "pass"
    targeted = ["Example-Cache-Control"]
    reload = "ignore"
    store_set_cookie = "never"
    query_key = "exact"
    query_body_bytes_max = 9
    cache_groups = false
    no_vary_search = false
    refresh_ahead = true
    underscores_in_headers = true
    stale_if_unreachable_ms = 5
    methods = ["GET", "HEAD"]
    headers = { "X-Version" = "2", "x-beta" = true }
    query = { debug = true, v = "a b" }
    rewrite = { prefix = "/v2" }
    request_headers = { set = { authorization = "Basic YTpi" }, remove = ["Cookie"] }
    response_headers = { set = { x-frame-options = "DENY" } }
    body_bytes_max = "1MiB"
    response_ms = 5
    requests_max = 7
    [[route]]
    name = "moved"
    path = "/old"
    rewrite = { strip_prefix = "/old" }
    redirect = { status = 301, to = "https://{host}/new{path}{query}" }
    [[route]]
    name = "gone"
    path = "/gone"
    respond = { status = 410 }
    [log]
    access = "./access.log"
    filter = "info,holm::cache=debug"
"#;

fn valid(text: &str) -> Config {
    parse("t.toml", text).unwrap_or_else(|error| panic!("{}", error.render(false)))
}

/// `holm.toml` with its examples in use.
fn examples() -> String {
    let lines: Vec<&str> = HOLM.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect();
    lines.join("\n")
}

fn as_toml(value: &Value) -> toml::Value {
    match value {
        Value::String(text) => toml::Value::String(text.clone()),
        Value::Bool(flag) => toml::Value::Boolean(*flag),
        Value::Number(number) => toml::Value::Integer(number.as_i64().unwrap()),
        Value::Array(items) => toml::Value::Array(items.iter().map(as_toml).collect()),
        Value::Object(members) => {
            toml::Value::Table(members.iter().map(|(name, value)| (name.clone(), as_toml(value))).collect())
        }
        Value::Null => panic!("null has no TOML"),
    }
}

#[test]
fn a_listing_read_as_a_file_is_the_same_configuration() {
    for text in [examples().as_str(), HOLM, SERVED, OTHER_WORDS] {
        let config = valid(text);
        let file = toml::to_string(&as_toml(&listing(&config))).unwrap();
        assert_eq!(format!("{:#?}", valid(&file)), format!("{config:#?}"), "{file}");
    }
}

/// Every key of a file, by its table.
fn documented(value: &toml::Value, table: &str, out: &mut BTreeSet<String>) {
    let toml::Value::Table(members) = value else { panic!("{table} is no table") };
    for (name, value) in members {
        let name = if matches!(table, "policy" | "pool") { "*" } else { name.as_str() };
        let key = joined(table, name);
        match value {
            toml::Value::Table(_) if !WHOLE.contains(&key.as_str()) => {
                documented(value, &key, out);
            }
            toml::Value::Array(items) if matches!(key.as_str(), "listen" | "route") => {
                items.iter().for_each(|item| documented(item, &key, out));
            }
            _ => {
                out.insert(key);
            }
        }
    }
}

/// Every key of a listing, by its table.
fn listed(key: &Key, value: &Value, out: &mut BTreeSet<String>) {
    match value.as_object().filter(|_| !key.is_leaf()) {
        Some(members) => members.iter().for_each(|(name, value)| listed(&key.member(name), value, out)),
        None => {
            out.insert(key.table.clone());
        }
    }
}

#[test]
fn every_key_is_listed_and_has_a_class() {
    let mut classes = BTreeSet::new();
    for (table, _, keys) in CLASSES {
        for key in *keys {
            assert!(classes.insert(joined(table, key)), "{table} {key} has two classes");
        }
    }
    let (mut in_file, mut in_listing) = (BTreeSet::new(), BTreeSet::new());
    documented(&toml::Value::Table(examples().parse().unwrap()), "", &mut in_file);
    listed(&Key::default(), &with_names(&listing(&valid(&examples()))), &mut in_listing);
    assert_eq!(in_file, classes, "the classes of all keys (left: documented, right: with a class)");
    assert_eq!(in_listing, classes, "the listing of all keys (left: listed, right: with a class)");
}

#[test]
fn a_key_of_no_class_needs_a_restart() {
    let (old, new) = (json!({"limits": {"new_max": 1}}), json!({"limits": {"new_max": 2}}));
    let found = differences(&old, &new);
    assert!(found.len() == 1 && found[0].needs_restart, "{found:?}");
}

fn shown(old: &str, new: &str) -> Vec<String> {
    changes(&valid(old), &valid(new)).iter().map(described).collect()
}

const LISTEN: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\n";

fn route(name: &str, more: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\npool = \"web\"\n{more}\n")
}

/// Each row has what two files say beside [`SERVED`], and the changes.
fn check_changes(table: &[(String, String, &[&str])]) {
    for (old, new, wanted) in table {
        let whole = |more: &String| format!("{more}\n{SERVED}");
        assert_eq!(shown(&whole(old), &whole(new)), *wanted, "{old}\n{new}");
    }
}

#[test]
fn changes_are_named_by_their_keys() {
    let redis = |url: &str| format!("[cache.redis]\nurl = \"{url}\"\n");
    let health = "[pool.web.health]\npath = \"/\"\n";
    let policy = |more: &str| format!("[policy.p]\nfile = \"p.wasm\"\n{more}\n");
    let global =
        |more: &str| format!("[region]\nname = \"eu\"\n[global]\netcd = [\"http://h:1\"]\nuser = \"u\"\n{more}\n");
    let table: &[(String, String, &[&str])] = &[
        (String::new(), "[limits]\nheaders_max = 100".to_owned(), &[]),
        (String::new(), "[limits]\nheaders_max = 9".to_owned(), &["limits.headers_max: 100 -> 9"]),
        (
            String::new(),
            "[cache.memory]\nbytes = \"512MiB\"".to_owned(),
            &["cache.memory.bytes: \"256MiB\" -> \"512MiB\" (needs a restart)"],
        ),
        (
            String::new(),
            "[cache.disk]\ndir = \"d\"".to_owned(),
            &[
                "cache.disk.bytes: none -> \"1GiB\" (needs a restart)",
                "cache.disk.dir: none -> \"d\" (needs a restart)",
            ],
        ),
        (
            redis("redis://:a@h"),
            redis("redis://:b@h"),
            &["cache.redis.url: \"redis://***@h\" -> \"redis://***@h\" (needs a restart)"],
        ),
        (String::new(), "dns = { servers = [\"::1\"] }".to_owned(), &["dns.servers: [] -> [\"[::1]:53\"]"]),
        ("cache.purge = { ack_ms = 1 }".to_owned(), String::new(), &["cache.purge.ack_ms: 1 -> 5000"]),
        (
            "cache.purge = { log_max = 1 }".to_owned(),
            String::new(),
            &["cache.purge.log_max: 1 -> 100000 (needs a restart)"],
        ),
        (
            global("password = \"a\""),
            global("password = \"b\"\npurge.ack_ms = 1"),
            &[
                "global.password: \"***\" -> \"***\" (needs a restart)",
                "global.purge.ack_ms: 12000 -> 1 (needs a restart)",
            ],
        ),
        ("node = \"a\"".to_owned(), "node = \"b\"".to_owned(), &["node: \"a\" -> \"b\" (needs a restart)"]),
        (
            String::new(),
            format!("{LISTEN}{LISTEN}"),
            &["listen.\"127.0.0.1:0\" is new", "listen.\"127.0.0.1:0#2\" is new"],
        ),
        (
            String::new(),
            "[pool.\"a.b\"]\nendpoints = [\"http://a\"]\n".to_owned() + &route("x", ""),
            &["pool.\"a.b\" is new", "route.default is gone", "route.x is new"],
        ),
        (
            policy(""),
            policy("config = { a = { api_key = \"k\" } }"),
            &["policy.p.config: {} -> {\"a\":{\"api_key\":\"***\"}}"],
        ),
        (
            route("a", "") + &route("b", "path = \"/b\""),
            route("b", "path = \"/c\"") + &route("a", ""),
            &["route.b.path: \"/b\" -> \"/c\"", "route order: [\"a\",\"b\"] -> [\"b\",\"a\"]"],
        ),
        (route("a", "ttl_ms = 1"), route("a", ""), &["route.a.ttl_ms: 1 -> none"]),
        (
            route("a", "headers = { x-a = true }\nrequests_max = 1"),
            route("a", "headers = { x-a = \"1\", x-api-key = \"k\" }"),
            &[
                "route.a.headers: {\"x-a\":true} -> {\"x-a\":\"1\",\"x-api-key\":\"***\"}",
                "route.a.requests_max: 1 -> none",
            ],
        ),
        (
            route("a", "request_headers = { set = { authorization = \"a\" } }"),
            route("a", "request_headers = { set = { authorization = \"b\" } }"),
            &["route.a.request_headers: {\"remove\":[],\"set\":{\"authorization\":\"***\"}} -> \
                 {\"remove\":[],\"set\":{\"authorization\":\"***\"}}"],
        ),
    ];
    check_changes(table);
    let checked = shown(SERVED, &format!("{SERVED}{health}"));
    assert_eq!(checked.first().map(String::as_str), Some("pool.web.health.healthy_after: none -> 2"));
}

#[test]
fn addresses_and_tenants_have_classes_of_their_own() {
    let tenants = |field: &str, weight: u32| {
        let infer = "mode = \"infer\"\nprotocol = \"json-array\"";
        format!("{infer}\ntenant = \"header:{field}\"\ntenant_weights = {{ gold = {weight} }}")
    };
    let with_tls = |more: &str, common: &str| {
        format!("{LISTEN}{more}\ntls = {{ certificate = \"c.pem\", key = \"k.pem\" }}\n{common}")
    };
    check_changes(&[
        (
            route("a", &tenants("x-tenant", 1)),
            route("a", &tenants("x-tenant", 2)),
            &["route.a.tenant_weights: {\"gold\":1} -> {\"gold\":2}"],
        ),
        (
            route("a", &tenants("authorization", 1)),
            route("a", &tenants("authorization", 2)),
            &["route.a.tenant_weights: \"***\" -> \"***\""],
        ),
        (String::new(), "[tls]\nversion_min = \"1.3\"".to_owned(), &[]),
        (with_tls("", ""), with_tls("", "[tls]\nversion_min = \"1.3\""), &["tls.version_min: \"1.2\" -> \"1.3\""]),
        (
            with_tls("", ""),
            with_tls("reuse_port = true", ""),
            &["listen.\"127.0.0.1:0\".reuse_port: false -> true (needs a restart)"],
        ),
        (
            with_tls("", ""),
            with_tls("http3 = true\nhttp3_port = 443", ""),
            &["listen.\"127.0.0.1:0\".http3: false -> true", "listen.\"127.0.0.1:0\".http3_port: none -> 443"],
        ),
        (
            with_tls("http3 = true", ""),
            with_tls("http3 = true", "[http3]\nsocket_bytes = \"8MiB\""),
            &["http3.socket_bytes: \"4MiB\" -> \"8MiB\""],
        ),
        (
            "[admin]\naddress = \"127.0.0.1:9\"".to_owned(),
            "[admin]\naddress = \"127.0.0.1:9\"\nhosts = [\"a.example\"]".to_owned(),
            &["admin.hosts: [] -> [\"a.example\"] (needs a restart)"],
        ),
    ]);
}

#[test]
fn what_is_not_shown_is_named() {
    let text = format!("[cache.redis]\nurl = \"redis://:a@h\"\n{SERVED}");
    let listing = without_secrets(listing(&valid(&text)));
    assert_eq!(hidden_keys(&listing), ["cache.redis.url"]);
    assert!(!listing.to_string().contains(":a@"));
}
