//! The listing of a route.

use std::fmt::Display;

use http::HeaderValue;
use serde_json::{Map, Value};

use super::values::{bytes, count, list, ms, named, option, size, table, text, texts};
use crate::config::{
    Candidate, FieldEdits, Fixed, ForwardPath, Mode, OnFault, OwnResponse, Protocol, QueryKey, RangeMiss, Redirect,
    Reload, Replicate, Rewrite, Route, StoreSetCookie, TenantBy, Wanted,
};

/// Returns a route in the keys of a file.
pub(super) fn route(route: &Route) -> Value {
    let members = |part: Value| match part {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    Value::Object([basics(route), caching(route), routing(route)].into_iter().flat_map(members).collect())
}

/// Returns what a route says of whom it takes, and how it is decided.
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
    // Keys that only an `infer` route may have, or only another one.
    let infers = protocol.is_some();
    let infer = |value: Value| if infers { value } else { Value::Null };
    let candidates = (!route.candidates.is_empty()).then_some(&route.candidates);
    let weights = (!route.tenant_weights.is_empty()).then_some(&route.tenant_weights);
    table([
        ("name", text(&route.name)),
        ("hosts", texts(&route.hosts)),
        ("path", text(&route.path)),
        ("forward_path", text(forward_path)),
        ("mode", text(mode)),
        ("protocol", option(protocol, |protocol| text(protocol_name(protocol)))),
        ("pool", option(Some(&route.pool).filter(|_| route.own.is_none()), text)),
        ("candidates", option(candidates, |candidates| list(candidates, candidate))),
        ("parents", option(route.parents.as_ref(), text)),
        ("parents_share_purges", if infers { Value::Null } else { Value::Bool(route.parents_share_purges) }),
        ("replicate", option(route.replicate.as_ref(), replicate)),
        ("policy", option(route.policy.as_ref(), text)),
        ("on_fault", text(on_fault)),
        ("ignore_headers", infer(texts(&route.ignore_headers))),
        ("key_client_region", Value::Bool(route.key_client_region)),
        ("key_without_body", infer(Value::Bool(route.key_without_body))),
        ("indivisible", infer(texts(&route.indivisible))),
        ("tenant", infer(tenant(&route.tenant))),
        ("tenant_weights", option(weights, |weights| named(weights, |weight| Value::from(*weight)))),
        ("compress", list(&route.compress.codings, |coding| text(coding.as_str()))),
        ("compress_bytes_min", bytes(route.compress.bytes_min)),
        ("compress_types", texts(&route.compress.types)),
        ("websocket", Value::Bool(route.websocket)),
    ])
}

/// Returns what a route says of what is stored.
fn caching(route: &Route) -> Value {
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
    let query_key = match route.extensions.query_key {
        QueryKey::Canonical => "canonical",
        QueryKey::Exact => "exact",
        QueryKey::Pass => "pass",
    };
    // Keys that only an `http` route may have.
    let http = |value: Value| if matches!(route.mode, Mode::Http) { value } else { Value::Null };
    table([
        ("ttl_ms", option(route.freshness.ttl, ms)),
        ("heuristic_max_ms", ms(route.freshness.heuristic_max)),
        ("grace_ms", ms(route.freshness.grace)),
        ("stale_if_error_ms", ms(route.freshness.stale_if_error)),
        ("deltas", http(list(&route.deltas.patterns, |pattern| text(pattern.as_str())))),
        ("deltas_max", http(count(route.deltas.dictionaries_max))),
        ("deltas_bytes_max", http(bytes(route.deltas.bytes_max))),
        ("deltas_wait_ms", http(ms(route.deltas.wait))),
        ("stale_if_unreachable_ms", http(ms(route.freshness.stale_if_unreachable))),
        ("keep_ms", ms(route.freshness.keep)),
        ("tag_headers", texts(&route.tag_headers)),
        ("range_miss", text(range_miss)),
        ("targeted", http(texts(&route.targeted))),
        ("reload", http(text(reload))),
        ("store_set_cookie", http(text(store_set_cookie))),
        ("underscores_in_headers", http(Value::Bool(route.underscores_in_headers))),
        ("refresh_ahead", http(Value::Bool(route.refresh_ahead))),
        ("query_key", http(text(query_key))),
        ("query_body_bytes_max", http(size(route.extensions.query_body_bytes_max))),
        ("cache_groups", http(Value::Bool(route.extensions.cache_groups))),
        ("no_vary_search", http(Value::Bool(route.extensions.no_vary_search))),
    ])
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

fn replicate(replicate: &Replicate) -> Value {
    table([("tags", texts(&replicate.tags)), ("prefixes", texts(&replicate.prefixes)), ("to", texts(&replicate.to))])
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
