//! What routes say beside host, path and pool, and whether they can be told apart.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use toml::Spanned;

use super::location;
use crate::{
    config::{
        Conditions, FieldEdits, Fixed, OwnResponse, Redirect, Rewrite, Route, Wanted,
        findings::Findings,
        raw,
        units::{ByteSize, DAY_MS, KIB, Quantity, TIB},
    },
    message::target,
};

/// Adds to a route, whose path this is, its conditions, edits, own response and limits.
pub(super) fn of(raw: &raw::Route, path: &str, base: Route, findings: &mut Findings<'_>) -> Route {
    let allowed = &(0..=TIB);
    let body_bytes_max =
        raw.body_bytes_max.as_ref().map(|_| findings.bytes("body_bytes_max", &raw.body_bytes_max, 0, allowed));
    let allowed = &(1..=DAY_MS);
    let response =
        raw.response_ms.as_ref().map(|_| findings.millis("response_ms", &raw.response_ms, Duration::ZERO, allowed));
    let allowed = &(1..=1_000_000);
    let requests_max = raw.requests_max.as_ref().map(|_| findings.count("requests_max", &raw.requests_max, 1, allowed));
    without_origin(raw, findings);
    Route {
        conditions: conditions(raw, findings),
        rewrite: rewrite(raw, path, findings),
        request_headers: edits(&raw.request_headers, &REQUEST_FIXED, findings),
        response_headers: edits(&raw.response_headers, &RESPONSE_FIXED, findings),
        own: own(raw, findings),
        body_bytes_max,
        response,
        requests_max,
        ..base
    }
}

/// Whether a route gives its responses itself.
pub(super) const fn is_own(raw: &raw::Route) -> bool {
    raw.redirect.is_some() || raw.respond.is_some()
}

/// Refuses what a route without an origin has no use for.
fn without_origin(raw: &raw::Route, findings: &mut Findings<'_>) {
    if !is_own(raw) {
        return;
    }
    let infer = raw.mode.as_ref().filter(|given| given.get_ref() != "http");
    let edits = &raw.request_headers;
    let edited = edits.set.keys().next().or_else(|| edits.remove.first());
    let places = [
        ("pool", raw.pool.as_ref().map(Spanned::span)),
        ("candidates", raw.candidates.first().map(|candidate| candidate.pool.span())),
        ("parents", raw.parents.as_ref().map(Spanned::span)),
        ("replicate", raw.replicate.as_ref().map(Spanned::span)),
        ("policy", raw.policy.as_ref().map(Spanned::span)),
        ("mode", infer.map(Spanned::span)),
        ("request_headers", edited.map(Spanned::span)),
        ("rewrite", raw.rewrite.as_ref().filter(|_| raw.redirect.is_none()).map(Spanned::span)),
        ("body_bytes_max", raw.body_bytes_max.as_ref().map(Spanned::span)),
        ("response_ms", raw.response_ms.as_ref().map(Spanned::span)),
        ("requests_max", raw.requests_max.as_ref().map(Spanned::span)),
    ];
    for (key, span) in places {
        if let Some(span) = span {
            let message = format!("a route with `redirect` or `respond` has no `{key}`");
            findings.refuse(span, message, "leave it out: nothing is sent to an origin");
        }
    }
}

/// Methods, header fields or parameters in the conditions of a route: more than requests are told apart by.
const CONDITIONS_MAX: usize = 16;

fn conditions(raw: &raw::Route, findings: &mut Findings<'_>) -> Conditions {
    let beyond = [
        ("methods", raw.methods.get(CONDITIONS_MAX).map(Spanned::span)),
        ("headers", raw.headers.keys().nth(CONDITIONS_MAX).map(Spanned::span)),
        ("query", raw.query.keys().nth(CONDITIONS_MAX).map(Spanned::span)),
    ];
    for (key, span) in beyond {
        if let Some(span) = span {
            let message = format!("`{key}` of a route has at most {CONDITIONS_MAX}");
            findings.refuse(span, message, "name those that tell its requests apart");
        }
    }
    Conditions { methods: methods(raw, findings), headers: headers(raw, findings), query: query(raw, findings) }
}

fn methods(raw: &raw::Route, findings: &mut Findings<'_>) -> Vec<Method> {
    let mut methods = Vec::new();
    for given in &raw.methods {
        let text = given.get_ref();
        let is_plain = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| is_plain);
        match method {
            None => {
                let help = "write it in capitals, such as `GET`; case counts";
                findings.refuse(given.span(), format!("{text:?} is no method"), help);
            }
            Some(method) if methods.contains(&method) => {
                findings.refuse(given.span(), format!("`{text}` is named twice"), "name each method once");
            }
            Some(method) => methods.push(method),
        }
    }
    methods
}

fn headers(raw: &raw::Route, findings: &mut Findings<'_>) -> Vec<(HeaderName, Wanted)> {
    let mut headers: Vec<(HeaderName, Wanted)> = Vec::new();
    for (given, value) in &raw.headers {
        let Some(name) = findings.header(given) else { continue };
        if name == http::header::HOST {
            findings.refuse(given.span(), "`host` is no condition of a header field", "write `hosts`");
        }
        if headers.iter().any(|(other, _)| *other == name) {
            findings.refuse(given.span(), format!("`{name}` is named twice"), "name each header field once");
        }
        let Some(wanted) = wanted(value, findings) else { continue };
        if let Wanted::Exactly(text) = &wanted
            && field_value(text).is_none()
        {
            let help = "write it as requests have it, without spaces around it; `true` is any value";
            findings.refuse(value.span(), format!("{text:?} is no value of a header field"), help);
        }
        headers.push((name, wanted));
    }
    headers.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    headers
}

fn query(raw: &raw::Route, findings: &mut Findings<'_>) -> Vec<(String, Wanted)> {
    let mut query: Vec<(String, Wanted)> = Vec::new();
    for (given, value) in &raw.query {
        let name = given.get_ref();
        if name.is_empty() || name.contains(['&', '=', '#']) {
            let help = "write the name of one parameter; `%26`, `%3D` and `%23` stand for `&`, `=` and `#`";
            findings.refuse(given.span(), format!("{name:?} is no name of a parameter"), help);
        }
        if query.iter().any(|(other, _)| target::is_same_parameter(other, name)) {
            findings.refuse(given.span(), format!("`{name}` is named twice"), "name each parameter once");
        }
        let Some(wanted) = wanted(value, findings) else { continue };
        if let Wanted::Exactly(text) = &wanted
            && text.contains(['&', '#'])
        {
            let help = "write `%26` and `%23` for `&` and `#`";
            findings.refuse(value.span(), format!("{text:?} is no value of a parameter"), help);
        }
        query.push((name.clone(), wanted));
    }
    query
}

fn wanted(given: &Spanned<raw::Wanted>, findings: &mut Findings<'_>) -> Option<Wanted> {
    match given.get_ref() {
        raw::Wanted::Present(true) => Some(Wanted::Present),
        raw::Wanted::Exactly(text) => Some(Wanted::Exactly(text.clone())),
        raw::Wanted::Present(false) => {
            let help = "requests without it are for a route that doesn't name it";
            findings.refuse(given.span(), "a condition can't be `false`", help);
            None
        }
    }
}

fn rewrite(raw: &raw::Route, path: &str, findings: &mut Findings<'_>) -> Option<Rewrite> {
    let given = raw.rewrite.as_ref()?;
    let parts = given.get_ref();
    if parts.strip_prefix.is_none() && parts.prefix.is_none() {
        findings.refuse(given.span(), "`rewrite` changes nothing", "give it `strip_prefix`, `prefix`, or both");
    }
    let strip_prefix = parts.strip_prefix.as_ref().map(|given| folder("strip_prefix", given, findings));
    if let (Some(given), Some(stripped)) = (&parts.strip_prefix, &strip_prefix)
        && given.get_ref().starts_with('/')
        && !target::reaches(stripped, path)
    {
        let message = format!("`strip_prefix` can't be `{stripped}`: not all paths of the route begin with it");
        findings.refuse(
            given.span(),
            message,
            format!("allowed is the route's `path`, `{path}`, or what it begins with"),
        );
    }
    let prefix = parts.prefix.as_ref().map(|given| folder("prefix", given, findings));
    Some(Rewrite { strip_prefix, prefix })
}

/// Bytes of a rewrite's prefixes: more than paths need, and less than would make a target too long.
const FOLDER_BYTES_MAX: usize = 1_024;

fn folder(key: &str, given: &Spanned<String>, findings: &mut Findings<'_>) -> String {
    let path = given.get_ref();
    let fault = if let Some(fault) = path_fault(path) {
        Some(fault)
    } else if path.len() > FOLDER_BYTES_MAX {
        Some("it has more than 1024 bytes")
    } else if path.len() > 1 && path.ends_with('/') {
        Some("it ends with `/`")
    } else if path == "/" && key == "strip_prefix" {
        Some("nothing is stripped")
    } else if target::hides_dots(path) || target::normal_path(path).is_ok_and(|normal| normal != *path) {
        Some("it isn't in its normal form")
    } else {
        target::normal_path(path).is_err().then_some("it leads above the root")
    };
    if let Some(fault) = fault {
        findings.refuse(given.span(), format!("`{key}` can't be {path:?}: {fault}"), "write it such as `/api`");
    }
    path.clone()
}

/// Returns why a text is no path of a route or for an origin, if it is none.
pub(super) fn path_fault(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("it doesn't begin with `/`");
    }
    if path.contains(['?', '#']) {
        return Some("it has a query or a fragment");
    }
    if path.ends_with("/*") {
        return Some("it is a prefix already, without `*`");
    }
    (!path.bytes().all(|byte| byte.is_ascii_graphic()))
        .then_some("spaces and what is outside ASCII are written as `%20`")
}

/// Request header fields that frame the message, are of one connection, or are the node's own: what it asks an origin
/// for, and where a request has been.
const REQUEST_FIXED: [&str; 20] = [
    "cdn-loop",
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-connection",
    "range",
    "sec-websocket-key",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// The same of responses, with the fields by which caches tell what a response is and how old.
const RESPONSE_FIXED: [&str; 18] = [
    "age",
    "cache-status",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "date",
    "etag",
    "host",
    "keep-alive",
    "last-modified",
    "proxy-connection",
    "sec-websocket-accept",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "x-request-id",
];

/// Fields that a route sets, and that it removes: more than messages have by default.
const EDITS_MAX: usize = 64;

fn edits(raw: &raw::FieldEdits, fixed: &[&str], findings: &mut Findings<'_>) -> FieldEdits {
    for beyond in [raw.set.keys().nth(EDITS_MAX), raw.remove.get(EDITS_MAX)].into_iter().flatten() {
        let message = format!("a route edits at most {EDITS_MAX} header fields of a kind");
        findings.refuse(beyond.span(), message, "edit those that matter");
    }
    let (mut names, mut edits) = (BTreeSet::new(), FieldEdits::default());
    for (given, value) in &raw.set {
        let Some(name) = edited(given, fixed, &mut names, findings) else { continue };
        match field_value(value.get_ref()) {
            Some(value) => edits.set.push((name, value)),
            None => {
                let help = "write visible ASCII without spaces around it and without line breaks";
                findings.refuse(value.span(), format!("{:?} is no value of a header field", value.get_ref()), help);
            }
        }
    }
    edits.remove.extend(raw.remove.iter().filter_map(|given| edited(given, fixed, &mut names, findings)));
    edits
}

fn edited(
    given: &Spanned<String>,
    fixed: &[&str],
    names: &mut BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Option<HeaderName> {
    let name = findings.header(given)?;
    if fixed.contains(&name.as_str()) {
        let help = "it frames the message, belongs to the connection, or is what caches go by; leave it out";
        findings.refuse(given.span(), format!("`{name}` can't be edited"), help);
    }
    if !names.insert(name.as_str().to_owned()) {
        findings.refuse(given.span(), format!("`{name}` is named twice"), "set it or remove it, once");
    }
    Some(name)
}

/// Bytes of a header field's value.
const VALUE_BYTES_MAX: usize = 4_096;

fn field_value(text: &str) -> Option<HeaderValue> {
    if text.trim() != text || text.len() > VALUE_BYTES_MAX {
        return None;
    }
    HeaderValue::from_str(text).ok()
}

const REDIRECTS: [u64; 5] = [301, 302, 303, 307, 308];

/// Bytes of a fixed body: a page that says what is going on.
const BODY_BYTES_MAX: u64 = 64 * KIB;

fn own(raw: &raw::Route, findings: &mut Findings<'_>) -> Option<OwnResponse> {
    if let (Some(_), Some(respond)) = (&raw.redirect, &raw.respond) {
        let help = "leave one of them out, or make it a route of its own";
        findings.refuse(respond.span(), "a route has `redirect` or `respond`, not both", help);
    }
    if let Some(given) = &raw.redirect {
        return redirect(given.get_ref(), findings).map(OwnResponse::Redirect);
    }
    raw.respond.as_ref().and_then(|given| respond(given, findings)).map(OwnResponse::Fixed)
}

fn redirect(raw: &raw::Redirect, findings: &mut Findings<'_>) -> Option<Redirect> {
    let number = raw.status.as_ref().map_or(308, |given| given.get_ref().number());
    if let Some(given) = raw.status.as_ref().filter(|_| !REDIRECTS.contains(&number)) {
        findings.refuse(
            given.span(),
            format!("`status` of a redirect can't be {number}"),
            "allowed are 301, 302, 303, 307 and 308",
        );
    }
    let to = raw.to.get_ref();
    let pieces = match location::pieces(to) {
        Ok(pieces) => pieces,
        Err(fault) => {
            let help = "write a URL such as `https://{host}{path}{query}`, or a path; the names are {scheme}, {host}, \
                        {authority}, {path} and {query}";
            findings.refuse(raw.to.span(), format!("{to:?} is no target of a redirect: {fault}"), help);
            return None;
        }
    };
    Some(Redirect { status: status(number)?, to: to.clone(), pieces })
}

fn respond(given: &Spanned<raw::Respond>, findings: &mut Findings<'_>) -> Option<Fixed> {
    let raw = given.get_ref();
    let number = raw.status.as_ref().map_or(200, |given| given.get_ref().number());
    let body = raw.body.as_ref().map(|given| given.get_ref().clone()).unwrap_or_default();
    if let Some(given) = raw.status.as_ref().filter(|_| !(200..=599).contains(&number) || matches!(number, 206 | 304)) {
        let message = format!("`status` of a fixed response can't be {number}");
        findings.refuse(given.span(), message, "allowed are 200 to 599, but for 206 and 304");
    }
    if let Some(given) = raw.body.as_ref().filter(|_| !body.is_empty() && matches!(number, 204 | 205)) {
        findings.refuse(given.span(), format!("a response of {number} has no body"), "leave `body` out");
    }
    if let Some(given) = raw.body.as_ref().filter(|_| body.len() as u64 > BODY_BYTES_MAX) {
        let message = format!("`body` has more than {}", ByteSize(BODY_BYTES_MAX));
        findings.refuse(given.span(), message, "serve it from an origin");
    }
    let content_type = raw.content_type.as_ref().map_or("text/plain; charset=utf-8", |given| given.get_ref().as_str());
    let Some(content_type) = field_value(content_type).filter(|_| content_type.contains('/')) else {
        let span = raw.content_type.as_ref().map_or_else(|| given.span(), Spanned::span);
        findings.refuse(span, format!("{content_type:?} is no media type"), "write it such as `text/html`");
        return None;
    };
    Some(Fixed { status: status(number)?, body: body.into(), content_type })
}

fn status(number: u64) -> Option<StatusCode> {
    u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok())
}

/// Routes for the same host and path: those are told apart one after the other.
const SAME_PLACE_MAX: usize = 64;

/// Refuses routes that can't be told apart from another or are never reached, and too many for one host and path.
pub(super) fn told_apart(raw: &[raw::Route], routes: &[Route], findings: &mut Findings<'_>) {
    let mut places: BTreeMap<(&str, u64), Vec<usize>> = BTreeMap::new();
    for (number, route) in routes.iter().enumerate().take(raw.len()) {
        let path = target::prefix_digest(&route.path);
        for host in hosts(route) {
            places.entry((host, path)).or_default().push(number);
        }
    }
    // The hosts at which another route takes everything, and that one.
    let mut hidden: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    let mut reported = BTreeSet::new();
    for numbers in places.values_mut() {
        if let Some(beyond) = numbers.get(SAME_PLACE_MAX) {
            let message = format!("more than {SAME_PLACE_MAX} routes are for the same host and path");
            findings.refuse(raw[*beyond].name.span(), message, "tell them apart by their hosts or paths");
            continue;
        }
        numbers.sort_by_key(|number| (Reverse(routes[*number].conditions.count()), *number));
        for (at, number) in numbers.iter().enumerate() {
            let (route, before) = (&routes[*number], &numbers[..at]);
            let takes_all = |other: &&usize| {
                let other = &routes[**other];
                other.name != route.name && other.conditions.is_implied_by(&route.conditions)
            };
            let Some(other) = before.iter().find(takes_all) else { continue };
            if !route.conditions.is_implied_by(&routes[*other].conditions) {
                hidden.entry(*number).or_insert((0, *other)).0 += 1;
            } else if reported.insert(*number) {
                let message = format!("the routes `{}` and `{}` can't be told apart", routes[*other].name, route.name);
                let help =
                    "they have a host, the path and all conditions in common: change one of them, or leave it out";
                findings.refuse(raw[*number].name.span(), message, help);
            }
        }
    }
    for (number, (count, other)) in hidden {
        if count == hosts(&routes[number]).len() && !reported.contains(&number) {
            let message = format!(
                "the route `{}` is never reached: `{}` takes all of it",
                routes[number].name, routes[other].name
            );
            findings.refuse(raw[number].name.span(), message, "put it first, or give it a further condition");
        }
    }
}

/// Returns the hosts of a route, each once; an empty one stands for any.
fn hosts(route: &Route) -> BTreeSet<&str> {
    if route.hosts.is_empty() { BTreeSet::from([""]) } else { route.hosts.iter().map(String::as_str).collect() }
}
