//! Tests of the room as a whole: `config/holm.toml` documents the real defaults and bounds, and every mistake is
//! reported at its place.

mod dns;
mod global;
mod near;
mod replicate;
mod routing;
mod translation;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use super::{error::quoted, raw::Raw, *};

const HOLM: &str = include_str!("../../config/holm.toml");

/// `holm.toml` without what has a default.
const SPARSE: &str = r#"
    [[listen]]
    address = "127.0.0.1:8080"
    [pool.web]
    endpoints = ["http://127.0.0.1:9000"]
    [[route]]
    name = "everything"
    pool = "web"
"#;

/// The same with its examples in use.
const SPARSE_EXAMPLES: &str = r#"
    node = "holm"
    zone = "eu-1"
    admin.address = "127.0.0.1:9901"
    admin.token_file = "admin-token"
    admin.tls.certificate = "tls/admin.pem"
    admin.tls.key = "tls/admin-key.pem"
    admin.tls.client_ca = "tls/operators.pem"
    takeover.socket = "/run/holm/takeover.sock"
    limits.spool_dir = "/var/tmp"
    cache.disk.dir = "/var/cache/holm"
    cache.redis.url = "redis://127.0.0.1:6379"
    region.name = "eu"
    region.client_field = "x-client-region"
    global.etcd = ["https://127.0.0.1:2379"]
    global.user = "holm"
    global.password = "a secret"
    global.ca_file = "tls/etcd-ca.pem"
    global.cert_file = "tls/etcd.pem"
    global.key_file = "tls/etcd-key.pem"
    plugins.cache_dir = "/var/cache/holm-policies"
    central.dir = "/var/lib/holm"
    [[listen]]
    address = "127.0.0.1:8080"
    [[listen]]
    address = "127.0.0.1:8443"
    http3 = true
    http3_port = 443
    proxy_protocol = ["10.0.0.0/8"]
    [listen.tls]
    certificate = "tls/certificate.pem"
    key = "tls/key.pem"
    ocsp = "tls/ocsp.der"
    further = [{ certificate = "tls/other.pem", key = "tls/other-key.pem", ocsp = "tls/other-ocsp.der" }]
    [[listen]]
    address = "unix:/run/holm/holm.sock"
    [policy.tenant-key]
    file = "policies/tenant-key.wasm"
    config = { tenant_header = "x-tenant", body = ["/model", "/input"] }
    rollout.canary_header = "x-user"
    [pool.web]
    endpoints = ["http://127.0.0.1:9000"]
    tls.ca = "tls/ca.pem"
    tls.certificate = "tls/client.pem"
    tls.key = "tls/client-key.pem"
    tls.server_name = "origin.example"
    health.path = "/healthz"
    [pool.models]
    endpoints = [
        { url = "http://127.0.0.1:9100", weight = 3, zone = "eu-1" },
        { url = "unix:/run/model.sock", backup = true },
    ]
    zones = ["eu-1"]
    [pool.tensors]
    endpoints = ["http://127.0.0.1:9200"]
    protocol = "kserve"
    translate.model = "minilm"
    translate.path = "/v2/models/{model}/versions/1/infer"
    translate.output = "embedding"
    translate.datatype = "INT32"
    [pool.shield]
    endpoints = ["https://shield.example:8443"]
    [pool.us]
    endpoints = ["https://us.example:8443"]
    [[route]]
    name = "embeddings"
    path = "/v1/embeddings"
    mode = "infer"
    protocol = "openai-embeddings"
    pool = "models"
    candidates = [{ pool = "models", model = "small", cost_micro = 20 }, { pool = "web", cost_micro = 900 }]
    policy = "tenant-key"
    tenant_weights = { gold = 4 }
    compress = ["zstd", "br", "gzip"]
    ttl_ms = 60_000
    body_bytes_max = "1MiB"
    response_ms = 60_000
    requests_max = 1_000
    [[route]]
    name = "beta"
    path = "/api"
    pool = "web"
    methods = ["GET", "HEAD"]
    headers = { x-beta = true, x-api-version = "2" }
    query = { debug = true, v = "2" }
    rewrite = { strip_prefix = "/api", prefix = "/v2" }
    request_headers = { set = { x-edge = "holm" }, remove = ["cookie"] }
    response_headers = { set = { x-frame-options = "DENY" }, remove = ["server"] }
    [[route]]
    name = "moved"
    hosts = ["www.example.org"]
    redirect = { status = 308, to = "https://example.org{path}{query}" }
    [[route]]
    name = "robots"
    path = "/robots.txt"
    respond = { status = 200, body = "User-agent: *", content_type = "text/plain" }
    [[route]]
    name = "everything"
    pool = "web"
    parents = "shield"
    replicate = { tags = ["hot"], prefixes = ["/assets"], to = ["us"] }
    deltas = ["/app/*.js", "/app/*.css"]
"#;

/// Stands after a wrong piece, so that everything else is right.
const SERVED: &str = "
    [[listen]]
    address = \"127.0.0.1:8080\"
    [pool.web]
    endpoints = [\"http://127.0.0.1:9000\"]
";

const LISTENING: &str = "listen = [{ address = \"127.0.0.1:8080\" }]\n";

fn debug(it: impl fmt::Debug) -> String {
    format!("{it:#?}")
}

fn valid(text: &str) -> Config {
    parse("t.toml", text).unwrap_or_else(|error| panic!("{}", error.render(false)))
}

/// `holm.toml` with its examples in use.
fn examples() -> String {
    let lines: Vec<&str> = HOLM.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect();
    lines.join("\n")
}

#[test]
fn documented_defaults_are_the_real_ones() {
    assert_eq!(debug(valid(HOLM)), debug(valid(SPARSE)));
    assert_eq!(debug(valid(&examples())), debug(valid(SPARSE_EXAMPLES)));
}

#[test]
fn documented_bounds_are_the_real_ones() {
    let text = examples();
    let lines: Vec<&str> = text.lines().collect();
    let mut seen = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(allowed) = line.strip_prefix("# Allowed: ").and_then(|it| it.strip_suffix('.')) else { continue };
        let (key, _) = lines[at + 1].split_once(" = ").expect("a key follows its bounds");
        let beyond = format!("{key} = {}", i64::MAX);
        let mut changed = lines.clone();
        changed[at + 1] = &beyond;
        let said = parse("holm.toml", &changed.join("\n")).expect_err("beyond any bound").to_string();
        let place = format!("holm.toml:{}:{}: `{key}` can't be", at + 2, key.len() + 4);
        assert!(said.starts_with(&place), "{place}\n{said}");
        assert!(said.contains(&format!("(allowed are {allowed})")), "{allowed}\n{said}");
        seen += 1;
    }
    assert!(seen > 50, "only {seen} bounds were found");
}

#[test]
fn a_clients_share_of_the_spool_follows_the_spool_unless_it_is_given() {
    let share = |limits: &str| valid(&format!("{limits}{SERVED}")).limits.client_spool_bytes_max;
    assert_eq!(share(""), Limits::default().client_spool_bytes_max);
    assert_eq!(share("limits = { spool_memory_bytes_max = \"8MiB\", spool_bytes_max = 0 }"), 2 << 20);
    assert_eq!(share("limits = { spool_bytes_max = 0, client_spool_bytes_max = \"3MiB\" }"), 3 << 20);
}

#[test]
fn every_number_has_its_bounds_documented() {
    let text = examples();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        let Some((_, value)) = pair[1].split_once(" = ").filter(|_| !pair[1].starts_with('#')) else { continue };
        let is_number = value.replace(['_', '"'], "").parse::<ByteSize>().is_ok();
        assert!(!is_number || pair[0].starts_with("# Allowed: "), "{}", pair[1]);
    }
}

#[test]
fn every_key_is_documented() {
    let mut documented = BTreeMap::new();
    let examples: toml::Value = toml::Value::Table(examples().parse().unwrap());
    tables(&examples, "", &mut documented);
    assert!(documented.len() > 15, "{documented:?}");
    for (table, keys) in documented {
        assert_eq!(keys, accepted(&table), "[{table}]");
    }
}

/// The keys of every table, those of operator-named tables under `*`.
fn tables(value: &toml::Value, path: &str, out: &mut BTreeMap<String, BTreeSet<String>>) {
    if let toml::Value::Array(items) = value {
        items.iter().filter(|item| item.is_table()).for_each(|item| tables(item, path, out));
    }
    let toml::Value::Table(table) = value else { return };
    // A policy's own configuration is checked by the policy, and tenants and header fields have the names that they have.
    let is_named_by_others =
        ["policy.*.config", "route.tenant_weights", "route.headers", "route.query"].contains(&path);
    if is_named_by_others || path.ends_with("_headers.set") {
        return;
    }
    let named = matches!(path, "policy" | "pool");
    for (key, value) in table {
        if !named {
            out.entry(path.to_owned()).or_default().insert(key.clone());
        }
        let name = if named { "*" } else { key.as_str() };
        let below = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        tables(value, &below, out);
    }
}

/// A key that doesn't exist makes the reader name those that do.
fn accepted(table: &str) -> BTreeSet<String> {
    let header = match table {
        "" => String::new(),
        "listen" | "route" => format!("[[{table}]]"),
        "route.candidates" => "[[route]]\n[[route.candidates]]".to_owned(),
        route if route.starts_with("route.") => format!("[[route]]\n[{route}]"),
        "listen.tls" => "[[listen]]\n[listen.tls]".to_owned(),
        "pool.*.endpoints" => "[[pool.any.endpoints]]".to_owned(),
        "listen.tls.further" => "[[listen]]\n[[listen.tls.further]]".to_owned(),
        other => format!("[{}]", other.replace('*', "any")),
    };
    let error = toml::from_str::<Raw>(&format!("{header}\nno-such-key = 0")).expect_err("no such key");
    assert!(error.message().starts_with("unknown field `no-such-key`"), "{table}: {error}");
    quoted(error.message()).skip(1).map(str::to_owned).collect()
}

/// The line that ends in `# !` is wrong, or the file as a whole; nothing else is.
fn check_refusal(text: &str, phrases: &[&str]) {
    let error = parse("t.toml", text).map(drop).expect_err(text);
    let shown = error.render(false);
    if let Some(at) = text.lines().position(|line| line.ends_with("# !")) {
        assert!(shown.contains(&format!("[t.toml:{}:", at + 1)), "line {}:\n{shown}", at + 1);
    } else {
        assert!(shown.contains("× t.toml: "), "{shown}");
    }
    for phrase in phrases {
        assert!(shown.contains(phrase), "{phrase} is missing in\n{shown}");
    }
    assert!(!shown.contains(" problems"), "one mistake, one problem:\n{shown}");
}

#[test]
fn mistakes_in_the_form_are_named_where_they_stand() {
    let table: [(&str, &[&str]); 13] = [
        ("node holm # !", &["key with no value, expected `=`"]),
        ("node = holm # !", &["must be quoted"]),
        ("limits = 5 # !", &["integer `5` doesn't belong here", "expected is a table"]),
        ("[limit] # !", &["unknown key `limit`", "did you mean `limits`?"]),
        ("[limits]\nheaders = 1 # !", &["unknown key `headers`", "`headers_max`"]),
        ("[limits]\nheaders_max = 9\nheaders_max = 9 # !", &["duplicate key"]),
        ("[limits]\nheaders_max = -1 # !", &["integer `-1` doesn't belong here", "a whole number, 0 or more"]),
        ("[limits]\nbody_bytes_max = \"1.5GiB\" # !", &["`.5GiB` is no unit", "KiB, MiB, GiB"]),
        ("[limits]\nbody_bytes_max = true # !", &["boolean `true` doesn't belong here", "such as \"256MiB\""]),
        ("[timeouts]\nidle_ms = \"5s\" # !", &["string \"5s\" doesn't belong here", "whole number of milliseconds"]),
        ("[route] # !\nname = \"a\"", &["a table doesn't belong here", "`[[…]]`"]),
        ("[[route]] # !\npool = \"web\"", &["the key `name` is missing"]),
        ("[cache.disk] # !\nbytes = \"1GiB\"", &["the key `dir` is missing"]),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("{text}\n{SERVED}"), phrases);
    }
}

#[test]
fn values_out_of_bounds_are_named_where_they_stand() {
    let table: [(&str, &[&str]); 33] = [
        ("[log]\nfilter = \"holm=loud\" # !", &["`filter` can't be `holm=loud`", "`info,holm::cache=debug`"]),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = [\"10.0.0.0/33\"] # !",
            &["`10.0.0.0/33` is no network"],
        ),
        ("[tls]\nversion_min = \"1.1\" # !", &["`version_min` can't be `1.1`", "`1.2`", "`1.3`"]),
        ("[tls]\nreload_ms = 86_400_001 # !", &["`reload_ms` can't be 86_400_001 ms", "0 ms to"]),
        (
            "[admin]\naddress = \"127.0.0.1:1\"\nhosts = [\"Edge\"] # !",
            &["\"Edge\" is no name of the admin API", "in lower case"],
        ),
        (
            "[admin]\naddress = \"127.0.0.1:1\"\nhosts = [\"edge:9901\"] # !",
            &["\"edge:9901\" is no name", "without a port"],
        ),
        ("[admin]\naddress = \"127.0.0.1:1\"\n[admin.tls] # !\ncertificate = \"c.pem\"", &["the key `key` is missing"]),
        ("[limits]\ntrusted_proxies = [\"10.0.0.0/33\"] # !", &["`10.0.0.0/33` is no network", "such as `10.0.0.0/8`"]),
        ("[limits]\nforwarding_proxies = [\"proxy\"] # !", &["`proxy` is no network", "such as `10.0.0.0/8`"]),
        ("[limits]\nspool_dir = \"\" # !", &["the path of the spool is empty"]),
        ("[timeouts]\nrate_window_ms = 99 # !", &["`rate_window_ms` can't be 99 ms", "100 ms to"]),
        ("[timeouts]\nlinger_ms = 3_600_001 # !", &["`linger_ms` can't be 3_600_001 ms", "0 ms to"]),
        ("node = \"a b\" # !", &["\"a b\" can't be the name of a node", "1 to 253"]),
        ("[limits]\nheaders_max = 0 # !", &["`headers_max` can't be 0", "8 to 10_000"]),
        ("[timeouts]\nidle_ms = 0 # !", &["`idle_ms` can't be 0 ms", "1 ms to"]),
        ("[cache]\npart_bytes = 1024 # !", &["`part_bytes` can't be 1KiB", "4KiB to 16MiB"]),
        ("[cache]\npart_bytes = \"17MiB\" # !", &["`part_bytes` can't be 17MiB"]),
        ("[cache]\nobject_tags_max = 0 # !", &["`object_tags_max` can't be 0", "1 to 100_000"]),
        (
            "[cache]\npart_bytes = \"2MiB\"\nbodies_bytes_max = \"15MiB\" # !",
            &["less than 8 parts", "allowed is 16MiB"],
        ),
        ("[cache]\nnamespace = \"a{b}\" # !", &["the name of a namespace"]),
        ("[cache.memory]\nbytes = \"1000kB\" # !", &["`bytes` can't be", "1MiB to"]),
        (
            "[cache.memory]\nbytes = \"1MiB\"\nvalue_bytes_max = \"2MiB\" # !",
            &["more than the memory tier", "1MiB, or less"],
        ),
        ("[cache.disk]\ndir = \"d\"\nbytes = \"63MiB\" # !", &["`bytes` can't be 63MiB", "64MiB to"]),
        ("[cache.disk]\ndir = \"\" # !", &["the path of the disk tier is empty"]),
        ("[cache.redis]\nurl = \"http://:secret@h\" # !", &["another scheme", "rediss://"]),
        ("[cache.redis]\nurl = \"redis://h\"\nbudget_ms = 0 # !", &["`budget_ms` can't be 0 ms"]),
        (
            "[cache.redis]\nurl = \"redis://h\"\n[cache.redis.breaker]\nopen_ms = 2000\nopen_ms_max = 1999 # !",
            &["`open_ms_max` is less than `open_ms`", "2000 or more"],
        ),
        ("[log]\naccess = \"stdot\" # !", &["`stdot` is neither", "`./stdot`"]),
        ("[log]\nlines_queued_max = 0 # !", &["`lines_queued_max` can't be 0"]),
        ("[admin]\naddress = \"localhost:9901\" # !", &["`localhost:9901` is no address", "127.0.0.1:8080"]),
        ("[admin]\naddress = \"127.0.0.1:8080\" # !", &["`127.0.0.1:8080` is listened on already"]),
        ("[[listen]]\naddress = \"8081\" # !", &["`8081` is no address"]),
        (
            "[[listen]]\naddress = \"127.0.0.1:8443\"\ntls = { certificate = \"c.pem\" } # !",
            &["the key `key` is missing"],
        ),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("{text}\n{SERVED}"), phrases);
    }
}

#[test]
fn wrong_settings_of_http3_are_named_where_they_stand() {
    let table: [(&str, &[&str]); 4] = [
        ("[http3]\nsend_bytes_max = \"63KiB\" # !", &["`send_bytes_max` can't be 63KiB", "64KiB to 64MiB"]),
        (
            "[[listen]]\naddress = \"127.0.0.1:8443\"\nhttp3 = true # !",
            &["`http3` needs a certificate", "add `tls = {"],
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:8443\"\nhttp3_port = 443 # !",
            &["only an address with `http3 = true` has `http3_port`"],
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:8443\"\ntls = { certificate = \"c.pem\", key = \"k.pem\" }\n\
             http3 = true\nhttp3_port = 65_536 # !",
            &["`http3_port` can't be 65_536", "1 to 65_535"],
        ),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("{text}\n{SERVED}"), phrases);
    }
}

#[test]
fn wrong_unix_sockets_are_named_where_they_stand() {
    let unix = "[[listen]]\naddress = \"unix:/run/a\"";
    let long = |bytes: usize| format!("/{}", "s".repeat(bytes - 1));
    let table: [(String, &[&str]); 8] = [
        (
            format!("[[listen]]\naddress = \"unix:{}\" # !", long(100)),
            &["the path of the Unix socket has 100 bytes", "allowed are 99"],
        ),
        ("[[listen]]\naddress = \"unix:/run/a:b\" # !".to_owned(), &["has a colon: `/run/a:b`", "would end there"]),
        (
            format!("[takeover]\nsocket = \"{}\" # !", long(100)),
            &["the path of the socket of `[takeover]` has 100 bytes", "allowed are 99"],
        ),
        ("[[listen]]\naddress = \"unix:\" # !".to_owned(), &["the path of the Unix socket is empty"]),
        (format!("{unix}\nmode = \"all\" # !"), &["`mode` can't be `all`", "`owner`", "`group`", "`everyone`"]),
        (format!("{unix}\nreuse_port = true # !"), &["a Unix socket has no port"]),
        (format!("{unix}\n{unix} # !"), &["`unix:/run/a` is listened on already"]),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\nmode = \"group\" # !".to_owned(),
            &["only a Unix socket has a `mode`", "unix:/run/holm.sock"],
        ),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("{text}\n{SERVED}"), phrases);
    }
    let longest = format!("[[listen]]\naddress = \"unix:{}\"\n[takeover]\nsocket = \"/run{}\"", long(99), long(95));
    valid(&format!("{longest}\n{SERVED}"));
    let config = valid(&format!("{unix}\nmode = \"everyone\"\n{SERVED}"));
    assert_eq!((config.listen[0].name().as_str(), config.listen[1].name().as_str()), ("unix:/run/a", "127.0.0.1:8080"));
    assert_eq!(config.listen[0].unix.as_ref().map(|unix| unix.mode), Some(0o666));
}

#[test]
fn wrong_policies_and_routes_are_named_where_they_stand() {
    let table: [(&str, &[&str]); 5] = [
        ("[policy.p] # !\nconfig = {}", &["the key `file` is missing"]),
        ("[policy.\"p q\"] # !\nfile = \"p.wasm\"", &["can't be the name of a policy"]),
        ("[policy.p]\nfile = \"p.wasm\"\nconfig = { a = nan } # !", &["no `nan`"]),
        (
            "[policy.p]\nfile = \"p.wasm\"\nlimits.call_us = 1 # !",
            &["`call_us` can't be 1 µs", "10 µs to 10_000_000 µs"],
        ),
        ("[policy.p]\nfile = \"p.wasm\"\nlimits.calls_max = 0 # !", &["`calls_max` can't be 0"]),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("{text}\n{SERVED}"), phrases);
    }
    let table: [(&str, &[&str]); 40] = [
        ("pool = \"wbe\" # !", &["there is no pool `wbe`", "did you mean `web`?"]),
        ("pool = \"web\"\npolicy = \"p\" # !", &["there is no policy `p`", "`[policy.p]`"]),
        ("pool = \"web\"\n[[route]]\npool = \"web\"\nname = \"a\" # !", &["there is another route `a`"]),
        ("pool = \"web\"\nmode = \"htp\" # !", &["`mode` can't be `htp`", "did you mean `http`?"]),
        ("pool = \"web\"\nprotocol = \"plain\"\nmode = \"inver\" # !", &["did you mean `infer`?"]),
        ("pool = \"web\"\nmode = \"infer\" # !", &["needs a protocol", "`json-array`", "`msgpack-array`"]),
        ("pool = \"web\"\nprotocol = \"plain\" # !", &["only a route of `mode = \"infer\"` has a protocol"]),
        ("pool = \"web\"\nmode = \"infer\"\nprotocol = \"jsonarray\" # !", &["did you mean `json-array`?"]),
        ("pool = \"web\"\non_fault = \"refuze\" # !", &["did you mean `refuse`?"]),
        (
            "pool = \"web\"\nignore_headers = [\"x-id\"] # !",
            &["only a route of `mode = \"infer\"` has `ignore_headers`"],
        ),
        (
            "pool = \"web\"\nindivisible = [\"late_chunking\"] # !",
            &["only a route of `mode = \"infer\"` has `indivisible`"],
        ),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"kserve\"\nindivisible = [\"a\", \"\"] # !",
            &["a member of `indivisible` has no name", "such as `late_chunking`"],
        ),
        ("pool = \"web\"\nkey_without_body = true # !", &["only a route of `mode = \"infer\"` has `key_without_body`"]),
        ("pool = \"web\"\ntenant = \"client\" # !", &["only a route of `mode = \"infer\"` has `tenant`"]),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\ntenant = \"header:x id\" # !",
            &["`tenant` can't be `header:x id`", "`header:x-tenant`"],
        ),
        (
            "pool = \"web\"\ntenant_weights = { a = 2 } # !",
            &["only a route of `mode = \"infer\"` has `tenant_weights`"],
        ),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\ntenant_weights = { a = 2 } # !",
            &["have no names to give weights to", "`tenant = \"header:x-tenant\"`"],
        ),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\ntenant = \"client\"\ntenant_weights = { a = 0 } # !",
            &["`a` can't be 0", "allowed are 1 to 1_000"],
        ),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\ntenant = \"client\"\ntenant_weights = { \"\" = 1 } # !",
            &["the name of a tenant has 1 to 256 bytes"],
        ),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\ntenant_weights = 4 # !",
            &["integer `4` doesn't belong here", "expected is a table"],
        ),
        ("pool = \"web\"\nkey_without_body = \"yes\" # !", &["string \"yes\" doesn't belong here"]),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\nignore_headers = [\"x id\"] # !",
            &["\"x id\" is no header's name"],
        ),
        ("pool = \"web\"\nhosts = [\"a.org\", \"A.org\"] # !", &["\"A.org\" is no host: it has capitals"]),
        ("pool = \"web\"\npath = \"v1\" # !", &["\"v1\" is no path of a route: it doesn't begin with `/`"]),
        ("pool = \"web\"\npath = \"/a//%62\" # !", &["requests are matched in their normal form", "write `/a/b`"]),
        ("pool = \"web\"\npath = \"/../a\" # !", &["`..` in its path leads above the root"]),
        ("pool = \"web\"\nforward_path = \"as_received\" # !", &["did you mean `as-received`?"]),
        ("pool = \"web\"\nrange_miss = \"hole\" # !", &["did you mean `whole`?"]),
        ("pool = \"web\"\ntag_headers = [\"x tags\"] # !", &["\"x tags\" is no header's name"]),
        ("pool = \"web\"\nreload = \"honor\" # !", &["`reload` can't be `honor`", "did you mean `honour`?"]),
        ("pool = \"web\"\nstore_set_cookie = \"public\" # !", &["`store_set_cookie` can't be `public`", "`shared`"]),
        ("pool = \"web\"\ntargeted = [\"X-Control\", \"X-Key\"] # !", &["`X-Key` is no targeted field"]),
        ("pool = \"web\"\ntargeted = [\"Cache-Control\"] # !", &["`Cache-Control` is no targeted field"]),
        ("pool = \"web\"\ntargeted = [\"a-control\", \"A-Control\"] # !", &["it is named twice"]),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\nreload = \"ignore\" # !",
            &["only a route of `mode = \"http\"` has `reload`"],
        ),
        ("pool = \"web\"\nquery_key = \"json\" # !", &["`query_key` can't be `json`", "`canonical`"]),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\ncache_groups = false # !",
            &["only a route of `mode = \"http\"` has `cache_groups`"],
        ),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\nrefresh_ahead = true # !",
            &["only a route of `mode = \"http\"` has `refresh_ahead`"],
        ),
        (
            "pool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\nunderscores_in_headers = true # !",
            &["only a route of `mode = \"http\"` has `underscores_in_headers`"],
        ),
        ("pool = \"web\"\nttl_ms = 99_000_000_000 # !", &["`ttl_ms` can't be 99_000_000_000 ms"]),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("[[route]]\nname = \"a\"\n{text}\n{SERVED}"), phrases);
    }
}

#[test]
fn weights_are_those_of_the_tenants_that_are_named() {
    let weights = |route: &str| {
        let text = format!(
            "[[route]]\nname = \"a\"\npool = \"web\"\nmode = \"infer\"\nprotocol = \"plain\"\n{route}\n{SERVED}"
        );
        valid(&text).routes.remove(0).tenant_weights
    };
    assert_eq!(weights(""), BTreeMap::new());
    let given = weights("tenant = \"header:x-tenant\"\ntenant_weights = { gold = 1_000, \"*\" = 2, \"10.0.0.1\" = 1 }");
    assert_eq!(
        given,
        BTreeMap::from([("gold", 1_000), ("*", 2), ("10.0.0.1", 1)].map(|(name, of)| (name.to_owned(), of)))
    );
}

#[test]
fn wrong_codings_are_named_where_they_stand() {
    let infer = "pool = \"web\"\nmode = \"infer\"\nprotocol = ";
    let table: [(String, &[&str]); 6] = [
        (
            format!("{infer}\"json-array\"\ncompress = [\"zstd\", \"gzp\"] # !"),
            &["`compress` can't be `gzp`", "`gzip`"],
        ),
        (format!("{infer}\"json-array\"\ncompress = true # !"), &["boolean `true` doesn't belong here"]),
        (format!("{infer}\"plain\"\ncompress = [\"gzip\"] # !"), &["`protocol = \"plain\"` has no `compress`"]),
        ("pool = \"web\"\ncompress = [\"deflate\"] # !".to_owned(), &["`compress` can't be `deflate`"]),
        (
            format!("{infer}\"json-array\"\ncompress_types = [\"text/html; charset=utf-8\"] # !"),
            &["\"text/html; charset=utf-8\" is no media type", "without parameters"],
        ),
        (format!("{infer}\"json-array\"\ncompress_bytes_min = \"2GiB\" # !"), &["`compress_bytes_min` can't be 2GiB"]),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("[[route]]\nname = \"a\"\n{text}\n{SERVED}"), phrases);
    }
    let pool = "[pool.web]\nendpoints = [\"http://h\"]\nrequest_coding = \"gzipp\" # !";
    check_refusal(&format!("{LISTENING}{pool}"), &["`request_coding` can't be `gzipp`", "did you mean `gzip`?"]);
    let types = Compress::default().types;
    assert!(types.iter().all(|range| crate::message::compression::is_media_range(range)), "{types:?}");
}

#[test]
fn wrong_deltas_are_named_where_they_stand() {
    let many = format!("deltas = [{}] # !", vec!["\"/a\""; 17].join(", "));
    let table: [(&str, &[&str]); 7] = [
        ("deltas = [\"app.js\"] # !", &["\"app.js\" is no pattern of deltas"]),
        ("deltas = [\"/app/:id\"] # !", &["\"/app/:id\" is no pattern of deltas"]),
        (many.as_str(), &["at most 16 patterns of deltas"]),
        ("deltas_max = 0 # !", &["`deltas_max` can't be 0"]),
        ("deltas_bytes_max = \"9MiB\" # !", &["`deltas_bytes_max` can't be 9MiB"]),
        ("deltas_wait_ms = 10_001 # !", &["`deltas_wait_ms` can't be 10_001 ms"]),
        (
            "mode = \"infer\"\nprotocol = \"plain\"\ndeltas = [\"/a\"] # !",
            &["only a route of `mode = \"http\"` has `deltas`"],
        ),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("[[route]]\nname = \"a\"\npool = \"web\"\n{text}\n{SERVED}"), phrases);
    }
}

#[test]
fn wrong_pools_are_named_where_they_stand() {
    let table: [(&str, &[&str]); 24] = [
        ("[pool.web] # !", &["the pool `web` has no endpoint"]),
        ("[pool.web]\nendpoints = [] # !", &["the pool `web` has no endpoint"]),
        ("[pool.web]\nendpoints = [\"http://h?x\"] # !", &["`http://h?x` is no endpoint: it has a query"]),
        ("[pool.web]\nendpoints = [{ url = \"h\" }] # !", &["`h` is no endpoint: it doesn't begin"]),
        ("[pool.web]\nendpoints = [5] # !", &["integer `5` doesn't belong here", "a URL, or a table"]),
        ("[pool.web]\nendpoints = [{ wieght = 1 }] # !", &["unknown key `wieght`", "did you mean `weight`?"]),
        (
            "[pool.web]\nendpoints = [{ url = \"http://h\", weight = 0 }] # !",
            &["`weight` can't be 0", "allowed are 1 to 1_000"],
        ),
        (
            "[pool.web]\nendpoints = [{ url = \"http://h\", zone = \"eu 1\" }] # !",
            &["\"eu 1\" can't be the name of a zone"],
        ),
        (
            "[pool.web]\nendpoints = [\"http://h:1\", { url = \"http://h:1/\", weight = 2 }] # !",
            &["`http://h:1/` is in this pool twice"],
        ),
        ("[pool.web]\nendpoints = [\"http://h\"]\ndns_ttl_ms = 99 # !", &["`dns_ttl_ms` can't be 99 ms", "100 ms to"]),
        ("[pool.web]\nendpoints = [\"http://h:1\", \"http://h:1/\"] # !", &["`http://h:1/` is in this pool twice"]),
        ("[pool.web]\nendpoints = [\"http://h\"]\nattempts_max = 0 # !", &["`attempts_max` can't be 0"]),
        (
            "[pool.web]\nendpoints = [\"http://h\"]\nhealth.path = \"healthz\" # !",
            &["\"healthz\" is no path to ask for"],
        ),
        (
            "[pool.web]\nendpoints = [\"http://h\"]\neject.percent_max = 101 # !",
            &["`percent_max` can't be 101", "0 to 100"],
        ),
        ("[pool.web]\nendpoints = [\"http://h\"]\nbatch.size_max = 0 # !", &["`size_max` can't be 0"]),
        ("[pool.web]\nendpoints = [\"http://h\"]\nhttp = \"3\" # !", &["`http` can't be `3`", "`1.1`, `2`"]),
        (
            "[pool.web]\nendpoints = [\"http://h\"]\nping_timeout_ms = 0 # !",
            &["`ping_timeout_ms` can't be 0 ms", "1 ms to"],
        ),
        ("[pool.web]\nendpoints = [\"http://h\"]\nhost = \"a b\" # !", &["`host` can't be `a b`", "`client`"]),
        ("[pool.web]\nendpoints = [\"http://h\"]\nhost = \"h:x\" # !", &["`host` can't be `h:x`"]),
        ("[pool.web]\nendpoints = [\"http://h\"]\nhost = \"u@h\" # !", &["`host` can't be `u@h`"]),
        ("[pool.web]\nendpoints = [\"http://h\"]\ntls.certificate = \"c.pem\" # !", &["a certificate needs its key"]),
        ("[pool.web]\nendpoints = [\"http://h\"]\ntls.key = \"k.pem\" # !", &["a key needs its certificate"]),
        (
            "[pool.web]\nendpoints = [\"http://h\"]\ntls.server_name = \"h:1\" # !",
            &["`server_name` can't be `h:1`", "without a port"],
        ),
        ("[pool.\"w b\"] # !\nendpoints = [\"http://h\"]", &["can't be the name of a pool"]),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("{LISTENING}{text}"), phrases);
    }
}

#[test]
fn a_pool_knows_the_zone_of_its_node_if_it_has_any() {
    let pool = |node: &str, endpoint: &str| {
        valid(&format!("{node}\n{LISTENING}[pool.web]\nendpoints = [{endpoint}]")).pools["web"].clone()
    };
    let (own, plain) = ("zone = \"a\"", "\"http://h\"");
    let other = "{ url = \"http://h\", zone = \"b\" }";
    assert_eq!(pool(own, other).zone.as_deref(), Some("a"));
    assert_eq!(pool("", other).zone, None);
    assert_eq!(pool(own, plain), pool("", plain), "it makes no difference");
    let endpoint = pool("", "{ url = \"http://h/x\", weight = 9, backup = true }").endpoints.remove(0);
    let wanted = Endpoint { weight: 9, backup: true, ..Endpoint::new("http://h/x".parse().unwrap()) };
    assert_eq!(endpoint, wanted);
}

#[test]
fn a_pool_has_a_batch_under_way_for_each_endpoint_unless_configured_otherwise() {
    let concurrency = |line: &str| {
        let text = format!("{LISTENING}[pool.web]\nendpoints = [\"http://a\", \"http://b\"]\n{line}");
        valid(&text).pools["web"].batch.concurrency
    };
    assert_eq!((concurrency(""), concurrency("batch.concurrency = 1")), (2, 1));
    let backup = "[pool.web]\nendpoints = [\"http://a\", { url = \"http://b\", backup = true }]";
    assert_eq!(valid(&format!("{LISTENING}{backup}")).pools["web"].batch.concurrency, 1);
}

#[test]
fn what_is_missing_altogether_is_named() {
    let pools = "[pool.a]\nendpoints = [\"http://h\"]\n[pool.b]\nendpoints = [\"http://h\"]";
    check_refusal("[pool.a]\nendpoints = [\"http://h\"]", &["there is no address to listen on", "[[listen]]"]);
    check_refusal(LISTENING, &["there is no pool to send requests to", "[pool.web]"]);
    check_refusal(&format!("{LISTENING}{pools}"), &["more than one pool and no route", "pool = \"a\""]);
    let address = "address = \"127.0.0.1:1\"";
    check_refusal(
        &format!("[[listen]]\n{address}\n[[listen]]\n{address} # !\n{pools}\n[[route]]\nname = \"a\"\npool = \"a\""),
        &["listened on already"],
    );
}

#[test]
fn all_mistakes_are_named_at_once() {
    let text = "[limits]\nheaders_max = 0\n[[route]]\nname = \"a\"\npool = \"b\"\npath = \"c\"\n";
    let said = parse("t.toml", text).expect_err(text).to_string();
    let places: Vec<&str> = said.lines().filter_map(|line| line.split_once(": ").map(|(place, _)| place)).collect();
    assert_eq!(places, ["t.toml", "t.toml:2:15", "t.toml:5:8", "t.toml:6:8"], "{said}");
}

#[test]
fn a_routes_own_indivisible_members_replace_the_default() {
    let route = |line: &str| {
        let text = format!(
            "[[route]]\nname = \"a\"\npool = \"web\"\nmode = \"infer\"\nprotocol = \"openai-embeddings\"\n{line}"
        );
        valid(&format!("{text}\n{SERVED}")).routes.remove(0).indivisible
    };
    assert_eq!(route(""), ["late_chunking", "messages", "stream"]);
    assert_eq!(route("indivisible = [\"contextual\"]"), ["contextual"]);
    assert!(route("indivisible = []").is_empty());
}

#[test]
fn a_single_pool_needs_no_route() {
    assert_eq!(debug(valid(SERVED).routes), debug([Route::new("default", "web")]));
}

#[test]
fn what_looks_odd_but_makes_sense_is_taken() {
    let config = valid(&format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n[timeouts]\ndrain_ms = 0\n\
         [cache.memory]\nbytes = \"1MiB\"\n[cache.redis]\nurl = \"redis://h\"\nbreaker.open_ms = 90_000\n{SERVED}"
    ));
    assert_eq!(config.listen.len(), 3);
    assert!(config.timeouts.drain.is_zero());
    assert_eq!(config.cache.memory.value_bytes_max, 1 << 20, "no more than the tier holds");
    let breaker = config.cache.redis.expect("a Redis tier").breaker;
    assert_eq!(breaker.open_max, breaker.open, "no less than at first");
}

/// Returns the examples' text and files in a directory of their own.
fn on_disk() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["tls", "policies"] {
        fs::create_dir(dir.path().join(sub)).unwrap();
    }
    let tls =
        ["admin", "admin-key", "ca", "certificate", "client", "client-key", "key", "operators", "other", "other-key"];
    let etcd = ["etcd", "etcd-ca", "etcd-key"];
    let tls: Vec<String> = tls.iter().chain(&etcd).map(|file| format!("tls/{file}.pem")).collect();
    for file in tls.iter().map(String::as_str).chain(["admin-token", "policies/tenant-key.wasm"]) {
        fs::write(dir.path().join(file), "").unwrap();
    }
    fs::write(dir.path().join("holm.toml"), examples()).unwrap();
    dir
}

#[test]
fn files_are_looked_for_beside_the_configuration() {
    let dir = on_disk();
    let config = load(&dir.path().join("holm.toml")).unwrap_or_else(|error| panic!("{}", error.render(false)));
    let source = debug(&config.policies["tenant-key"].source);
    assert_eq!(source, debug(PolicySource::File(dir.path().join("policies/tenant-key.wasm"))));
    assert_eq!(config.policies["tenant-key"].config, r#"{"body":["/model","/input"],"tenant_header":"x-tenant"}"#);
    let tls = config.listen[1].tls.as_ref().expect("TLS");
    let files = |certificate: &str, key: &str, ocsp: &str| Certificate::Files {
        pair: Tls { certificate: dir.path().join(certificate), key: dir.path().join(key) },
        ocsp: Some(dir.path().join(ocsp)),
    };
    assert_eq!(
        tls.certificates,
        [
            files("tls/certificate.pem", "tls/key.pem", "tls/ocsp.der"),
            files("tls/other.pem", "tls/other-key.pem", "tls/other-ocsp.der")
        ]
    );
    let admin = config.admin.as_ref().expect("an admin API");
    assert_eq!(admin.token_file, Some(dir.path().join("admin-token")));
    assert_eq!(config.cache.disk.expect("a disk tier").dir, Path::new("/var/cache/holm"));
}

#[test]
fn files_that_a_running_node_has_read_may_be_gone() {
    let dir = on_disk();
    let file = dir.path().join("holm.toml");
    let running = load(&file).unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert_eq!(running.files_gone(), Vec::<std::path::PathBuf>::new());
    for sub in ["tls", "policies", "admin-token"] {
        fs::rename(dir.path().join(sub), dir.path().join(format!("{sub}.gone"))).unwrap();
    }
    let error = load(&file).expect_err("nothing is there");
    let again = load_beside(&file, &running).unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert_eq!(running.files_gone().len(), error.findings().len(), "all are known");
    assert_eq!(debug(again), debug(&running));
    // A new one must be there.
    fs::write(&file, examples().replace("tls/other.pem", "tls/new.pem")).unwrap();
    let shown = load_beside(&file, &running).expect_err("a new file").render(false);
    assert!(shown.contains("tls/new.pem`") && !shown.contains("tls/ca.pem"), "{shown}");
}

#[test]
fn a_missing_file_is_named_where_it_is_mentioned() {
    let dir = on_disk();
    fs::remove_file(dir.path().join("tls/key.pem")).unwrap();
    let shown = load(&dir.path().join("holm.toml")).expect_err("no key").render(false);
    let line = examples().lines().position(|line| line.starts_with("key = \"tls/key.pem\"")).expect("a line") + 1;
    for phrase in [format!("holm.toml:{line}:").as_str(), "the certificate's key can't be read", "tls/key.pem`"] {
        assert!(shown.contains(phrase), "{phrase} is missing in\n{shown}");
    }
}

fn refused(path: &Path) -> String {
    load(path).expect_err("unreadable").render(false)
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holm.toml");
    assert!(refused(&path).contains("holm.toml: No such file"), "{}", refused(&path));
    fs::write(&path, vec![b'#'; (4 << 20) + 1]).unwrap();
    assert!(refused(&path).contains("longer than the 4MiB"), "{}", refused(&path));
    fs::write(&path, b"\xff").unwrap();
    assert!(refused(&path).contains("UTF-8"), "{}", refused(&path));
}
