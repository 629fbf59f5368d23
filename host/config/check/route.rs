//! Routes: which requests they take, and what they refer to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use http::HeaderName;
use toml::Spanned;

use super::{
    replicate,
    routing::{self, path_fault},
};
use crate::{
    config::{
        Candidate, Compress, Defaults, Deltas, Extensions, ForwardPath, Mode, OnFault, Protocol, QueryKey, RangeMiss,
        Reload, Route, StoreSetCookie, TENANT_NAME_BYTES_MAX, TENANT_WEIGHT_MAX, TenantBy,
        findings::Findings,
        raw::{self, Raw},
        units::{Count, GIB, MIB, YEAR_MS},
    },
    message::{
        compression::{self, Compression},
        delta::{BYTES_MAX, Pattern},
        target,
    },
};

const MODES: [(&str, Kind); 2] = [("http", Kind::Http), ("infer", Kind::Infer)];
const PROTOCOLS: [(&str, Protocol); 5] = [
    ("plain", Protocol::Plain),
    ("json-array", Protocol::JsonArray),
    ("openai-embeddings", Protocol::OpenAiEmbeddings),
    ("kserve", Protocol::KServe),
    ("msgpack-array", Protocol::MsgPackArray),
];
const ON_FAULT: [(&str, OnFault); 3] =
    [("bypass", OnFault::Bypass), ("native", OnFault::Native), ("refuse", OnFault::Refuse)];

const CODINGS: [(&str, Compression); 3] =
    [("zstd", Compression::Zstd), ("br", Compression::Brotli), ("gzip", Compression::Gzip)];

const FORWARD_PATH: [(&str, ForwardPath); 2] =
    [("normalized", ForwardPath::Normalized), ("as-received", ForwardPath::AsReceived)];

const RANGE_MISS: [(&str, RangeMiss); 3] =
    [("whole", RangeMiss::Whole), ("parts", RangeMiss::Parts), ("pass", RangeMiss::Pass)];

const RELOAD: [(&str, Reload); 3] =
    [("coalesce", Reload::Coalesce), ("honour", Reload::Honour), ("ignore", Reload::Ignore)];

const STORE_SET_COOKIE: [(&str, StoreSetCookie); 3] =
    [("shared", StoreSetCookie::Shared), ("explicit", StoreSetCookie::Explicit), ("never", StoreSetCookie::Never)];

const QUERY: [(&str, QueryKey); 3] =
    [("canonical", QueryKey::Canonical), ("exact", QueryKey::Exact), ("pass", QueryKey::Pass)];

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Infer,
}

/// Names a route may refer to.
struct Known<'a> {
    pools: Vec<&'a str>,
    policies: Vec<&'a str>,
    /// The region of a client can be known.
    client_region: bool,
}

pub(super) fn routes(raw: &Raw, findings: &mut Findings<'_>) -> Vec<Route> {
    let known = Known {
        pools: raw.pool.keys().map(|name| name.get_ref().as_str()).collect(),
        policies: raw.policy.keys().map(|name| name.get_ref().as_str()).collect(),
        client_region: raw.region.as_ref().is_some_and(|region| region.client_field.is_some()),
    };
    if raw.route.is_empty() {
        return implied(&known, findings).into_iter().collect();
    }
    let mut names = BTreeSet::new();
    let routes: Vec<Route> = raw.route.iter().map(|raw| route(raw, &known, &mut names, findings)).collect();
    routing::told_apart(&raw.route, &routes, findings);
    routes
}

/// Returns the route of a configuration without routes: to its pool, if it is the only one.
fn implied(known: &Known<'_>, findings: &mut Findings<'_>) -> Option<Route> {
    match known.pools.as_slice() {
        [pool] => Some(Route::new("default", *pool)),
        [] => {
            findings.missing(
                "there is no pool to send requests to",
                "add `[pool.web]` with `endpoints = [\"http://127.0.0.1:9000\"]`",
            );
            None
        }
        [first, ..] => {
            findings.missing(
                "there is more than one pool and no route to choose between them",
                format!("add `[[route]]` with `name = \"…\"` and `pool = \"{first}\"`"),
            );
            None
        }
    }
}

fn route<'a>(
    raw: &'a raw::Route,
    known: &Known<'_>,
    names: &mut BTreeSet<&'a str>,
    findings: &mut Findings<'_>,
) -> Route {
    let name = findings.name(&raw.name, "route");
    if !names.insert(raw.name.get_ref()) {
        findings.refuse(
            raw.name.span(),
            format!("there is another route `{name}`"),
            "give each route a name of its own",
        );
    }
    let mode = mode(raw, findings);
    if mode == Mode::Http {
        infer_only(raw, findings);
    } else {
        http_only(raw, findings);
    }
    if mode == Mode::Infer(Protocol::Plain)
        && let Some(given) = raw.compress.first()
    {
        let help = "leave it out: it is for routes of `mode = \"http\"`, and for protocols that split bodies";
        findings.refuse(given.span(), "a route of `protocol = \"plain\"` has no `compress`", help);
    }
    let path = raw.path.as_ref().map_or_else(|| "/".to_owned(), |given| path(given, findings));
    // How it is translated depends on the pools; see `translation`.
    let base = routing::of(raw, &path, Route::new(name.as_str(), pool(raw, known, findings)), findings);
    Route {
        hosts: raw.hosts.iter().map(|given| host(given, findings)).collect(),
        path,
        forward_path: forward_path(raw, findings),
        mode,
        range_miss: range_miss(raw, findings),
        candidates: candidates(raw, known, findings),
        parents: parents(raw, known, findings),
        parents_share_purges: raw.parents_share_purges.as_ref().is_some_and(|given| *given.get_ref()),
        replicate: replicate::of_route(raw, &known.pools, findings),
        policy: raw.policy.as_ref().map(|given| findings.reference(given, "policy", &known.policies)),
        on_fault: raw
            .on_fault
            .as_ref()
            .and_then(|given| findings.word("on_fault", given, &ON_FAULT))
            .unwrap_or_default(),
        ignore_headers: ignored(raw, findings),
        key_without_body: raw.key_without_body.as_ref().is_some_and(|given| *given.get_ref()),
        indivisible: raw.indivisible.as_ref().map_or(base.indivisible, |given| indivisible(given, findings)),
        tenant: raw.tenant.as_ref().map_or_else(TenantBy::default, |given| tenant(given, findings)),
        tenant_weights: tenant_weights(raw, findings),
        compress: compress(raw, findings),
        deltas: deltas(raw, findings),
        freshness: freshness(raw, mode != Mode::Http, findings),
        tag_headers: raw.tag_headers.iter().filter_map(|given| findings.header(given)).collect(),
        websocket: raw.websocket.unwrap_or(base.websocket),
        targeted: raw.targeted.as_ref().map_or(base.targeted, |given| targeted(given, findings)),
        reload: raw.reload.as_ref().and_then(|given| findings.word("reload", given, &RELOAD)).unwrap_or_default(),
        store_set_cookie: raw
            .store_set_cookie
            .as_ref()
            .and_then(|given| findings.word("store_set_cookie", given, &STORE_SET_COOKIE))
            .unwrap_or_default(),
        extensions: extensions(raw, findings),
        refresh_ahead: raw.refresh_ahead.as_ref().map_or(base.refresh_ahead, |given| *given.get_ref()),
        underscores_in_headers: raw.underscores_in_headers.as_ref().is_some_and(|given| *given.get_ref()),
        key_client_region: key_client_region(raw, known, findings),
        name,
        ..base
    }
}

fn key_client_region(raw: &raw::Route, known: &Known<'_>, findings: &mut Findings<'_>) -> bool {
    let Some(given) = raw.key_client_region.as_ref().filter(|given| *given.get_ref()) else { return false };
    if !known.client_region {
        let help = "add `client_field` to `[region]`: the header field in which proxies state it";
        findings.refuse(given.span(), "nothing states the region of a client, so that no key can have it", help);
    }
    true
}

/// Returns the name of a route's pool; an empty one if it gives its responses itself.
fn pool(raw: &raw::Route, known: &Known<'_>, findings: &mut Findings<'_>) -> String {
    if routing::is_own(raw) {
        return String::new();
    }
    match &raw.pool {
        Some(given) => findings.reference(given, "pool", &known.pools),
        None => {
            let message = format!("the route `{}` has no pool", raw.name.get_ref());
            findings.refuse(raw.name.span(), message, "add `pool`, or one of `redirect` and `respond`");
            String::new()
        }
    }
}

/// Returns the name of the pool of its parents. A pool of origins is none: its members wouldn't say that they are
/// nodes.
fn parents(raw: &raw::Route, known: &Known<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let Some(given) = &raw.parents else {
        if let Some(alone) = raw.parents_share_purges.as_ref().filter(|given| *given.get_ref()) {
            let message = "a route without `parents` shares no purges with them";
            findings.refuse(alone.span(), message, "leave it out, or add `parents` with the name of a pool of nodes");
        }
        return None;
    };
    let mut origins = raw.pool.iter().chain(raw.candidates.iter().map(|candidate| &candidate.pool));
    if origins.any(|pool| pool.get_ref() == given.get_ref()) {
        let message = format!("the pool `{}` can't be both the origin of a route and its parents", given.get_ref());
        findings.refuse(given.span(), message, "name a pool whose endpoints are holm nodes");
    }
    Some(findings.reference(given, "pool", &known.pools))
}

fn extensions(raw: &raw::Route, findings: &mut Findings<'_>) -> Extensions {
    let base = Extensions::default();
    let (given, allowed) = (&raw.query_body_bytes_max, &(1..=16 * MIB));
    let is_on = |given: &Option<Spanned<bool>>, base| given.as_ref().map_or(base, |given| *given.get_ref());
    Extensions {
        query_key: raw
            .query_key
            .as_ref()
            .and_then(|given| findings.word("query_key", given, &QUERY))
            .unwrap_or_default(),
        query_body_bytes_max: findings.bytes("query_body_bytes_max", given, base.query_body_bytes_max, allowed),
        cache_groups: is_on(&raw.cache_groups, base.cache_groups),
        no_vary_search: is_on(&raw.no_vary_search, base.no_vary_search),
    }
}

/// Targeted fields of a route: more than caches of one deployment need.
const TARGETED_MAX: usize = 16;

fn targeted(given: &[Spanned<String>], findings: &mut Findings<'_>) -> Vec<HeaderName> {
    if let Some(beyond) = given.get(TARGETED_MAX) {
        let message = format!("a route has at most {TARGETED_MAX} targeted fields");
        findings.refuse(beyond.span(), message, "name those that origins send");
    }
    let mut names: Vec<HeaderName> = Vec::with_capacity(given.len());
    for one in given {
        let Some(name) = findings.header(one) else { continue };
        let fault = if names.contains(&name) {
            Some("it is named twice")
        } else {
            (!is_targeted_name(&name)).then_some("its name doesn't end in `-control`, or it is `Cache-Control` itself")
        };
        if let Some(fault) = fault {
            let message = format!("`{}` is no targeted field: {fault}", one.get_ref());
            findings.refuse(one.span(), message, "write a name of your own once, such as `Example-Cache-Control`");
        }
        names.push(name);
    }
    names
}

/// Whether a field may be a targeted one: by RFC 9213, section 2, and the older `Surrogate-Control`. What is read as
/// directives isn't sent to clients, so that another field mustn't be named by mistake.
fn is_targeted_name(name: &HeaderName) -> bool {
    name.as_str().ends_with("-control") && *name != http::header::CACHE_CONTROL
}

/// Header fields that a route may ignore: more than clients make up.
const IGNORED_MAX: usize = 64;

fn ignored(raw: &raw::Route, findings: &mut Findings<'_>) -> Vec<HeaderName> {
    if let Some(given) = raw.ignore_headers.get(IGNORED_MAX) {
        let message = format!("a route ignores at most {IGNORED_MAX} header fields");
        findings.refuse(given.span(), message, "name those that matter least");
    }
    raw.ignore_headers.iter().filter_map(|given| findings.header(given)).collect()
}

/// Members that make a request indivisible: more than protocols have.
const INDIVISIBLE_MAX: usize = 64;

fn indivisible(given: &[Spanned<String>], findings: &mut Findings<'_>) -> Vec<String> {
    if let Some(beyond) = given.get(INDIVISIBLE_MAX) {
        let message = format!("at most {INDIVISIBLE_MAX} members make a request of a route indivisible");
        findings.refuse(beyond.span(), message, "name those that clients send");
    }
    if let Some(empty) = given.iter().find(|name| name.get_ref().is_empty()) {
        let help = "write the name of a member of the request's body, such as `late_chunking`";
        findings.refuse(empty.span(), "a member of `indivisible` has no name", help);
    }
    given.iter().map(|name| name.get_ref().clone()).collect()
}

fn tenant(given: &Spanned<String>, findings: &mut Findings<'_>) -> TenantBy {
    match given.get_ref().as_str() {
        "credentials" => return TenantBy::Credentials,
        "client" => return TenantBy::Client,
        "none" => return TenantBy::Nothing,
        _ => {}
    }
    let name = given.get_ref().strip_prefix("header:").and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    name.map_or_else(
        || {
            let message = format!("`tenant` can't be `{}`", given.get_ref());
            let help = "write `credentials`, `client`, `none`, or a header field such as `header:x-tenant`";
            findings.refuse(given.span(), message, help);
            TenantBy::default()
        },
        TenantBy::Header,
    )
}

/// Names of tenants that have a weight: more than an operator writes down.
const TENANT_WEIGHTS_MAX: usize = 1_000;

fn tenant_weights(raw: &raw::Route, findings: &mut Findings<'_>) -> BTreeMap<String, u32> {
    let given = &raw.tenant_weights;
    if let Some(beyond) = given.keys().nth(TENANT_WEIGHTS_MAX) {
        let message = format!("at most {TENANT_WEIGHTS_MAX} tenants of a route have a weight");
        findings.refuse(beyond.span(), message, "`\"*\"` is for all that aren't named");
    }
    if let Some(wrong) = given.keys().find(|name| !(1..=TENANT_NAME_BYTES_MAX).contains(&name.get_ref().len())) {
        let message = format!("the name of a tenant has 1 to {TENANT_NAME_BYTES_MAX} bytes");
        findings.refuse(wrong.span(), message, "write the field's value, the address, or the policy's name for it");
    }
    let is_nameless = |by: &Spanned<String>| matches!(by.get_ref().as_str(), "credentials" | "none");
    let has_names = raw.policy.is_some() || raw.tenant.as_ref().is_some_and(|by| !is_nameless(by));
    // On another route the key itself is refused.
    let is_infer = raw.mode.as_ref().is_some_and(|mode| mode.get_ref() == "infer");
    if let Some(first) = given.keys().next().filter(|_| is_infer && !has_names) {
        let help = "tell them apart by `tenant = \"header:x-tenant\"` or \"client\", or let a policy name them";
        findings.refuse(first.span(), "the tenants of this route have no names to give weights to", help);
    }
    let allowed = &(1..=u64::from(TENANT_WEIGHT_MAX));
    let weight = |(name, weight): (&Spanned<String>, &Spanned<Count>)| {
        let name = name.get_ref();
        (name.clone(), findings.count(name, &Some(weight.clone()), 1, allowed))
    };
    given.iter().map(weight).collect()
}

/// Media types that a route compresses: more than models have.
const COMPRESSED_TYPES_MAX: usize = 64;

fn compress(raw: &raw::Route, findings: &mut Findings<'_>) -> Compress {
    let base = Compress::default();
    let types = raw.compress_types.as_deref();
    if let Some(given) = types.and_then(|types| types.get(COMPRESSED_TYPES_MAX)) {
        let message = format!("a route compresses at most {COMPRESSED_TYPES_MAX} media types");
        findings.refuse(given.span(), message, "name a whole kind, such as `text/*`");
    }
    for given in types.unwrap_or_default().iter().filter(|given| !compression::is_media_range(given.get_ref())) {
        let help = "write it in lower case and without parameters: `application/json`, `text/*`, or `*+json`";
        findings.refuse(given.span(), format!("{:?} is no media type", given.get_ref()), help);
    }
    Compress {
        codings: raw.compress.iter().filter_map(|given| findings.word("compress", given, &CODINGS)).collect(),
        bytes_min: findings.bytes("compress_bytes_min", &raw.compress_bytes_min, base.bytes_min, &(0..=GIB)),
        types: types.map_or(base.types, |types| types.iter().map(|given| given.get_ref().clone()).collect()),
    }
}

/// Patterns of a route's deltas: each may be compared with each path.
const PATTERNS_MAX: usize = 16;

fn deltas(raw: &raw::Route, findings: &mut Findings<'_>) -> Deltas {
    let base = Deltas::default();
    if let Some(beyond) = raw.deltas.get(PATTERNS_MAX) {
        let message = format!("a route has at most {PATTERNS_MAX} patterns of deltas");
        findings.refuse(beyond.span(), message, "`*` stands for any characters, such as in `/app/*.js`");
    }
    let mut pattern = |given: &Spanned<String>| match Pattern::read(given.get_ref()) {
        Ok(pattern) => Some(pattern),
        Err(fault) => {
            let message = format!("{:?} is no pattern of deltas: {fault}", given.get_ref());
            findings.refuse(given.span(), message, "write a path in which `*` stands for any characters: `/app/*.js`");
            None
        }
    };
    Deltas {
        patterns: raw.deltas.iter().filter_map(&mut pattern).collect(),
        dictionaries_max: findings.count("deltas_max", &raw.deltas_max, base.dictionaries_max, &(1..=1_000)),
        bytes_max: findings.bytes("deltas_bytes_max", &raw.deltas_bytes_max, base.bytes_max, &(1..=BYTES_MAX as u64)),
        wait: findings.millis("deltas_wait_ms", &raw.deltas_wait_ms, base.wait, &(0..=10_000)),
    }
}

/// Refuses keys of `infer` routes on a route that isn't one.
fn infer_only(raw: &raw::Route, findings: &mut Findings<'_>) {
    if raw.mode.as_ref().is_some_and(|given| given.get_ref() != "http") {
        // Its mode is wrong, or its protocol; that is reported already.
        return;
    }
    let places = [
        ("ignore_headers", raw.ignore_headers.first().map(Spanned::span)),
        ("key_without_body", raw.key_without_body.as_ref().map(Spanned::span)),
        (
            "indivisible",
            raw.indivisible.as_deref().map(|given| given.first().map_or_else(|| raw.name.span(), Spanned::span)),
        ),
        ("tenant", raw.tenant.as_ref().map(Spanned::span)),
        ("tenant_weights", raw.tenant_weights.keys().next().map(Spanned::span)),
    ];
    for (key, span) in places {
        if let Some(span) = span {
            let message = format!("only a route of `mode = \"infer\"` has `{key}`");
            findings.refuse(span, message, "add `mode = \"infer\"` and a protocol, or leave it out");
        }
    }
}

/// Refuses keys of `http` routes on a route that isn't one.
fn http_only(raw: &raw::Route, findings: &mut Findings<'_>) {
    let places = [
        ("targeted", raw.targeted.as_deref().map(|given| given.first().map_or_else(|| raw.name.span(), Spanned::span))),
        ("reload", raw.reload.as_ref().map(Spanned::span)),
        ("store_set_cookie", raw.store_set_cookie.as_ref().map(Spanned::span)),
        ("refresh_ahead", raw.refresh_ahead.as_ref().map(Spanned::span)),
        ("parents", raw.parents.as_ref().map(Spanned::span)),
        ("parents_share_purges", raw.parents_share_purges.as_ref().map(Spanned::span)),
        ("replicate", raw.replicate.as_ref().map(Spanned::span)),
        ("underscores_in_headers", raw.underscores_in_headers.as_ref().map(Spanned::span)),
        ("stale_if_unreachable_ms", raw.stale_if_unreachable_ms.as_ref().map(Spanned::span)),
        ("query_key", raw.query_key.as_ref().map(Spanned::span)),
        ("query_body_bytes_max", raw.query_body_bytes_max.as_ref().map(Spanned::span)),
        ("cache_groups", raw.cache_groups.as_ref().map(Spanned::span)),
        ("no_vary_search", raw.no_vary_search.as_ref().map(Spanned::span)),
        ("deltas", raw.deltas.first().map(Spanned::span)),
        ("deltas_max", raw.deltas_max.as_ref().map(Spanned::span)),
        ("deltas_bytes_max", raw.deltas_bytes_max.as_ref().map(Spanned::span)),
        ("deltas_wait_ms", raw.deltas_wait_ms.as_ref().map(Spanned::span)),
    ];
    for (key, span) in places {
        if let Some(span) = span {
            let message = format!("only a route of `mode = \"http\"` has `{key}`");
            findings.refuse(span, message, "leave it out: the responses of models are served by their own rules");
        }
    }
}

/// Candidates of a route: more than a request would be tried at.
const CANDIDATES_MAX: usize = 64;

fn candidates(raw: &raw::Route, known: &Known<'_>, findings: &mut Findings<'_>) -> Vec<Candidate> {
    if raw.candidates.len() > CANDIDATES_MAX {
        let message = format!("a route has at most {CANDIDATES_MAX} candidates");
        findings.refuse(raw.name.span(), message, "name those that matter");
    }
    let candidate = |raw: &raw::Candidate| Candidate {
        pool: findings.reference(&raw.pool, "pool", &known.pools),
        model: raw.model.as_ref().map(|given| given.get_ref().clone()),
        cost_micro: findings.count("cost_micro", &raw.cost_micro, 0, &(0..=1_000_000_000_000)),
    };
    raw.candidates.iter().map(candidate).collect()
}

fn mode(raw: &raw::Route, findings: &mut Findings<'_>) -> Mode {
    let kind = match &raw.mode {
        None => Kind::Http,
        Some(given) => match findings.word("mode", given, &MODES) {
            Some(kind) => kind,
            // Which of the two was meant is unknown, so the protocol isn't checked.
            None => return Mode::Http,
        },
    };
    match (kind, &raw.protocol) {
        (Kind::Http, None) => Mode::Http,
        (Kind::Http, Some(given)) => {
            let help = "add `mode = \"infer\"`, or leave `protocol` out";
            findings.refuse(given.span(), "only a route of `mode = \"infer\"` has a protocol", help);
            Mode::Http
        }
        (Kind::Infer, Some(given)) => findings.word("protocol", given, &PROTOCOLS).map_or(Mode::Http, Mode::Infer),
        (Kind::Infer, None) => {
            let span = raw.mode.as_ref().map_or_else(|| raw.name.span(), Spanned::span);
            let names = PROTOCOLS.map(|(name, _)| format!("`{name}`")).join(", ");
            let help = format!("add `protocol` with one of {names}");
            findings.refuse(span, "a route of `mode = \"infer\"` needs a protocol", help);
            Mode::Http
        }
    }
}

fn freshness(raw: &raw::Route, infers: bool, findings: &mut Findings<'_>) -> Defaults {
    let base = Defaults::default();
    let allowed = &(0..=YEAR_MS);
    Defaults {
        ttl: raw.ttl_ms.as_ref().map(|_| findings.millis("ttl_ms", &raw.ttl_ms, Duration::ZERO, allowed)),
        heuristic_max: findings.millis("heuristic_max_ms", &raw.heuristic_max_ms, base.heuristic_max, allowed),
        grace: findings.millis("grace_ms", &raw.grace_ms, base.grace, allowed),
        stale_if_error: findings.millis("stale_if_error_ms", &raw.stale_if_error_ms, base.stale_if_error, allowed),
        stale_if_unreachable: findings.millis(
            "stale_if_unreachable_ms",
            &raw.stale_if_unreachable_ms,
            if infers { Duration::ZERO } else { base.stale_if_unreachable },
            allowed,
        ),
        keep: findings.millis("keep_ms", &raw.keep_ms, base.keep, allowed),
    }
}

fn host(given: &Spanned<String>, findings: &mut Findings<'_>) -> String {
    let host = given.get_ref();
    if let Some(fault) = host_fault(host) {
        let help =
            "write a name in lower case, such as `example.org` or `*.example.org`; leave `hosts` out for any host";
        findings.refuse(given.span(), format!("{host:?} is no host: {fault}"), help);
    }
    // Requests name an address in one form only.
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok());
    address.map_or_else(|| host.clone(), |address| format!("[{address}]"))
}

fn host_fault(host: &str) -> Option<&'static str> {
    if host.contains('/') {
        return Some("it has a scheme or a path");
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some("it has capitals");
    }
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').and_then(|address| address.parse::<Ipv6Addr>().ok());
        return address.is_none().then_some("it isn't an IPv6 address in brackets, without a port");
    }
    if host.contains(':') {
        return Some("it has a port");
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.contains('*') {
        return Some("`*` stands for whole labels, and only first, before a dot");
    }
    if !host.is_ascii() {
        return Some("outside ASCII it is written in its `xn--` form");
    }
    (name.len() > 253 || !name.split('.').all(is_label))
        .then_some("between dots stand 1 to 63 letters, digits, `-` or `_`, with no `-` at either end")
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn path(given: &Spanned<String>, findings: &mut Findings<'_>) -> String {
    let path = given.get_ref();
    if let Some(fault) = path_fault(path) {
        let help = "write where the paths of its requests begin, such as `/v1/embeddings`; `/` takes any";
        findings.refuse(given.span(), format!("{path:?} is no path of a route: {fault}"), help);
        return path.clone();
    }
    match target::normal_path(path) {
        Ok(normal) if normal == *path => {}
        Ok(normal) => findings.refuse(
            given.span(),
            format!("{path:?} is no path of a route: requests are matched in their normal form"),
            format!("write `{normal}`"),
        ),
        Err(invalid) => {
            let help = "write the path that it comes to";
            findings.refuse(given.span(), format!("{path:?} is no path of a route: {invalid}"), help);
        }
    }
    path.clone()
}

fn forward_path(raw: &raw::Route, findings: &mut Findings<'_>) -> ForwardPath {
    let given = raw.forward_path.as_ref();
    let word = given.and_then(|given| findings.word("forward_path", given, &FORWARD_PATH));
    if raw.rewrite.is_none() {
        return word.unwrap_or_default();
    }
    if let Some(given) = given.filter(|_| word == Some(ForwardPath::AsReceived)) {
        let help = "write `forward_path = \"normalized\"`, or leave it out";
        findings.refuse(given.span(), "a path is rewritten in its normal form", help);
    }
    ForwardPath::Normalized
}

fn range_miss(raw: &raw::Route, findings: &mut Findings<'_>) -> RangeMiss {
    raw.range_miss.as_ref().and_then(|given| findings.word("range_miss", given, &RANGE_MISS)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for host in
            ["localhost", "example.org", "*.example.org", "a_b.c-d", "10.0.0.1", "[::1]", "xn--bcher-kva.example"]
        {
            assert_eq!(host_fault(host), None, "{host}");
        }
        let table = [
            ("", "between dots"),
            ("Example.org", "capitals"),
            ("https://example.org", "scheme"),
            ("example.org/x", "path"),
            ("example.org:80", "port"),
            ("[::1]:80", "brackets"),
            ("[10.0.0.1]", "brackets"),
            ("*", "only first"),
            ("a.*.org", "only first"),
            ("*a.org", "only first"),
            ("*.*.org", "only first"),
            ("*.", "between dots"),
            ("a..b", "between dots"),
            ("example.org.", "between dots"),
            ("-a.org", "no `-`"),
            ("a b", "between dots"),
            ("bücher.example", "xn--"),
        ];
        for (host, reason) in table {
            assert!(host_fault(host).is_some_and(|fault| fault.contains(reason)), "{host}: {:?}", host_fault(host));
        }
        assert_eq!(host_fault(&["a"; 127].join(".")), None, "253 bytes");
        assert!(host_fault(&["a"; 128].join(".")).is_some(), "255 bytes");
    }

    #[test]
    fn paths() {
        for path in ["/", "/v1", "/v1/", "/a*b", "/%20"] {
            assert_eq!(path_fault(path), None, "{path}");
        }
        let table = [
            ("", "begin"),
            ("v1", "begin"),
            ("/a?b", "query"),
            ("/a#b", "query"),
            ("/api/*", "prefix"),
            ("/a b", "%20"),
        ];
        for (path, reason) in table {
            assert!(path_fault(path).is_some_and(|fault| fault.contains(reason)), "{path}");
        }
    }
}
