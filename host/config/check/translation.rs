//! Pools that speak another protocol than the clients of a route.

use std::{collections::BTreeMap, sync::Arc};

use http::uri::PathAndQuery;
use toml::Spanned;

use crate::config::{
    Mode, OriginHttp, Pool, PoolProtocol, Protocol, Route, Translation,
    findings::Findings,
    raw::{self, Raw},
};

const PROTOCOLS: [(&str, PoolProtocol); 4] = [
    ("json-array", PoolProtocol::JsonArray),
    ("msgpack-array", PoolProtocol::MsgPackArray),
    ("kserve", PoolProtocol::KServe),
    ("kserve-grpc", PoolProtocol::KServeGrpc),
];

const DATATYPES: [(&str, &str); 10] = [
    ("UINT8", "UINT8"),
    ("UINT16", "UINT16"),
    ("UINT32", "UINT32"),
    ("UINT64", "UINT64"),
    ("INT8", "INT8"),
    ("INT16", "INT16"),
    ("INT32", "INT32"),
    ("INT64", "INT64"),
    ("FP32", "FP32"),
    ("FP64", "FP64"),
];

/// Reads what a pool speaks, if it says.
pub(super) fn of_pool(raw: &raw::Pool, findings: &mut Findings<'_>) -> Option<Translation> {
    let Some(given) = &raw.protocol else {
        if let Some(table) = &raw.translate {
            let help = "add `protocol` to the pool, or leave `translate` out";
            findings.refuse(table.span(), "only a pool with a `protocol` of its own has `translate`", help);
        }
        return None;
    };
    let base = Translation::new(findings.word("protocol", given, &PROTOCOLS)?);
    let Some(raw) = raw.translate.as_ref().map(Spanned::get_ref) else { return Some(base) };
    Some(Translation {
        model: raw.model.as_ref().map(|given| named("model", given, findings)),
        path: raw.path.as_ref().map(|given| path(given, findings)),
        input: raw.input.as_ref().map_or(base.input, |given| named("input", given, findings)),
        output: raw.output.as_ref().map(|given| named("output", given, findings)),
        datatype: raw.datatype.as_ref().and_then(|given| findings.word("datatype", given, &DATATYPES)),
        binary: raw.binary.unwrap_or(base.binary),
        flat: raw.flat.unwrap_or(base.flat),
        ..base
    })
}

/// Returns the version of HTTP of a pool: gRPC needs HTTP/2, and its default is that.
pub(super) fn version(
    translation: Option<&Translation>,
    raw: &raw::Pool,
    http: OriginHttp,
    findings: &mut Findings<'_>,
) -> OriginHttp {
    if translation.is_none_or(|translation| translation.protocol != PoolProtocol::KServeGrpc) {
        return http;
    }
    if let Some(given) = raw.http.as_ref().filter(|_| http != OriginHttp::Http2) {
        let help = "write `http = \"2\"`, or leave it out";
        findings.refuse(given.span(), "a pool of `protocol = \"kserve-grpc\"` speaks HTTP/2", help);
    }
    OriginHttp::Http2
}

fn named(key: &str, given: &Spanned<String>, findings: &mut Findings<'_>) -> String {
    let name = given.get_ref();
    if name.is_empty() || matches!(name.as_str(), "." | "..") {
        findings.refuse(given.span(), format!("`{key}` can't be {name:?}"), "write the name that the model server has");
    }
    name.clone()
}

fn path(given: &Spanned<String>, findings: &mut Findings<'_>) -> String {
    let path = given.get_ref();
    let shown = path.replace("{model}", "m");
    if !shown.starts_with('/') || shown.contains(['?', '#', '{', '}']) || PathAndQuery::try_from(&*shown).is_err() {
        let help = "it begins with `/`, as in `/v2/models/{model}/infer`";
        findings.refuse(given.span(), format!("{path:?} is no path to send requests to"), help);
    }
    path.clone()
}

/// Sets how the items of each route are translated for its pools.
pub(super) fn assign(raw: &Raw, routes: &mut [Route], pools: &BTreeMap<String, Pool>, findings: &mut Findings<'_>) {
    for (raw, route) in raw.route.iter().zip(routes) {
        if let Mode::Infer(client) = route.mode {
            route.translation = of_route(raw, client, pools, findings).map(Arc::new);
        }
    }
}

fn of_route(
    raw: &raw::Route,
    client: Protocol,
    pools: &BTreeMap<String, Pool>,
    findings: &mut Findings<'_>,
) -> Option<Translation> {
    let names: Vec<&Spanned<String>> = if raw.candidates.is_empty() {
        raw.pool.iter().collect()
    } else {
        raw.candidates.iter().map(|candidate| &candidate.pool).collect()
    };
    let translation = |name: &Spanned<String>| {
        let pool = pools.get(name.get_ref())?;
        pool.translation.as_ref().filter(|translation| !is_spoken(translation.protocol, client))
    };
    let first = names.first()?;
    let own = translation(first);
    if let Some(other) = names.iter().copied().find(|name| translation(name) != own) {
        let message = format!("the pools `{}` and `{}` are sent different requests", first.get_ref(), other.get_ref());
        let help = "give all pools of a route the same `protocol` and `translate`";
        findings.refuse(other.span(), message, help);
    }
    let own = own?;
    if client == Protocol::Plain {
        let help = "give the route another protocol, or lead it to a pool without one";
        findings.refuse(first.span(), "a route of `protocol = \"plain\"` can't be translated for its pool", help);
    }
    if let Some(model) = raw.candidates.iter().find_map(|candidate| candidate.model.as_ref()) {
        let help = "leave it out, and name the model in `translate.model` of the pool";
        findings.refuse(model.span(), "a candidate whose pool has another protocol has no `model`", help);
    }
    let is_array = matches!(client, Protocol::JsonArray | Protocol::MsgPackArray);
    if is_array && own.model.is_none() && names_model(own) {
        let message = format!("the pool `{}` needs `translate.model`", first.get_ref());
        findings.refuse(first.span(), message, "requests with arrays name no model, and KServe's path does");
    }
    Some(own.clone())
}

/// Whether a pool of this protocol is sent requests as these clients send them.
const fn is_spoken(pool: PoolProtocol, client: Protocol) -> bool {
    matches!(
        (pool, client),
        (PoolProtocol::JsonArray, Protocol::JsonArray)
            | (PoolProtocol::MsgPackArray, Protocol::MsgPackArray)
            | (PoolProtocol::KServe, Protocol::KServe)
    )
}

/// Whether a request names its model.
fn names_model(translation: &Translation) -> bool {
    match (translation.protocol, &translation.path) {
        (PoolProtocol::KServeGrpc, _) | (PoolProtocol::KServe, None) => true,
        (_, Some(path)) => path.contains("{model}"),
        (PoolProtocol::JsonArray | PoolProtocol::MsgPackArray, None) => false,
    }
}
