//! Checks and normalisation of a head as a front has parsed it, so that the rest of the program may trust it: one host,
//! one framing, a target, and no field that was meant for this connection only. Whatever is ambiguous is refused,
//! because a server behind this one might resolve it the other way.

use std::net::SocketAddr;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, request::Parts, uri::PathAndQuery};

use super::{authority, rejection::Rejection};
use crate::{
    config::Limits,
    message::{Client, RequestHead, Scheme, target},
};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Marks a request that came in early data, which somebody else than its client may have sent again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Early;

/// Marks a request that was an extended CONNECT for a WebSocket (RFC 8441): its stream becomes a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtendedConnect;

/// A head that has been checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) head: RequestHead,
    /// Whether its client wants to switch to another protocol. `Upgrade` is left then, and only then.
    pub(super) switches: bool,
}

/// Checks and normalises a request's head, which came to the address `local`. It is taken out of `parts`; of one that is
/// refused, method and target stay there. The body is left empty, to be put in by the caller.
pub(super) fn normalise(
    parts: &mut Parts,
    scheme: Scheme,
    local: Option<SocketAddr>,
    client: Client,
    limits: &Limits,
) -> Result<Checked, Rejection> {
    let Parts { method, uri, version, headers, extensions, .. } = parts;
    check_method(method)?;
    check_size(uri, headers, *version, limits)?;
    check_framing(headers, *version)?;
    check_expectation(headers)?;
    check_form(uri, method)?;
    let authority = authority::resolve(uri, headers, *version, scheme, local)?;
    let (target, received) = target::normalise(stated_target(uri)?)?;
    let switches = match *version {
        Version::HTTP_11 => is_switch(method, headers),
        _ => extensions.get::<ExtendedConnect>().is_some(),
    };
    remove_connection_fields(headers, switches);
    join_cookies(headers);
    let (method, headers) = (std::mem::take(method), std::mem::take(headers));
    let head = RequestHead { method, scheme, authority, target, received, headers, client };
    Ok(Checked { head, switches })
}

/// Whether a request is one to switch to a protocol that is known: a WebSocket (RFC 6455, section 4.1). Any other wish is
/// ignored, as RFC 9110, section 7.8 allows.
fn is_switch(method: &Method, headers: &HeaderMap) -> bool {
    const LENGTH_NONE: &[u8] = b"0";
    let mut wishes = headers.get_all(header::UPGRADE).iter();
    // Several would all be sent on, and the origin would choose.
    let (Some(wanted), None) = (wishes.next(), wishes.next()) else { return false };
    let mut options = headers.get_all(header::CONNECTION).iter().flat_map(tokens);
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != LENGTH_NONE);
    *method == Method::GET
        && wanted.as_bytes().eq_ignore_ascii_case(b"websocket")
        && options.any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && !has_body
}

fn check_method(method: &Method) -> Result<(), Rejection> {
    match *method {
        Method::CONNECT => Err(Rejection::Connect),
        Method::TRACE => Err(Rejection::Trace),
        _ => Ok(()),
    }
}

/// Bytes that HTTP/2 and HTTP/3 count for a field beside its own (RFC 9113, section 6.5.2; RFC 9114, section 4.2.2).
const FIELD_OVERHEAD: usize = 32;

/// Returns the most that a header section may have as HTTP/2 and HTTP/3 count it. Only a first check; the limits
/// themselves are enforced here. Twice as much: what exceeds it is refused by a library, with a response that doesn't
/// say why.
pub(super) fn section_max(limits: &Limits) -> usize {
    let fields = limits.headers_max.saturating_mul(FIELD_OVERHEAD);
    limits.header_bytes_max.saturating_add(fields).saturating_mul(2)
}

fn check_size(uri: &Uri, headers: &HeaderMap, version: Version, limits: &Limits) -> Result<(), Rejection> {
    if uri.path_and_query().is_some_and(|target| target.as_str().len() > limits.header_bytes_max) {
        return Err(Rejection::TargetTooLong);
    }
    if headers.len() > limits.headers_max {
        return Err(Rejection::TooManyFields);
    }
    // In HTTP/1 the parser has counted the whole section, white space included.
    let is_counted = version < Version::HTTP_2;
    let bytes = || headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
    if !is_counted && bytes() > limits.header_bytes_max {
        return Err(Rejection::FieldsTooLarge);
    }
    Ok(())
}

/// Checks the framing. hyper refuses most of this itself, and of two framings it drops `Content-Length` and closes
/// after the response, as RFC 9112, section 6.1 allows. The rules are here nevertheless, for every front alike.
fn check_framing(headers: &mut HeaderMap, version: Version) -> Result<(), Rejection> {
    if let Some(coding) = headers.get(header::TRANSFER_ENCODING) {
        if version != Version::HTTP_11 {
            return Err(Rejection::TransferEncodingForbidden);
        }
        if headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Rejection::TwoFramings);
        }
        let is_single = headers.get_all(header::TRANSFER_ENCODING).iter().nth(1).is_none();
        if !is_single || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Rejection::TransferCodingUnknown);
        }
    }
    unite_lengths(headers)
}

/// Checks every `Content-Length` and keeps one of several equal ones.
fn unite_lengths(headers: &mut HeaderMap) -> Result<(), Rejection> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(()) };
    let length = read_length(first)?;
    let mut is_repeated = false;
    for other in values {
        if read_length(other)? != length {
            return Err(Rejection::LengthsDiffer);
        }
        is_repeated = true;
    }
    if is_repeated {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

pub(super) fn read_length(value: &HeaderValue) -> Result<u64, Rejection> {
    // `parse` alone would let a plus sign pass.
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(Rejection::LengthMalformed)
}

/// Unites the expectations of 100, or refuses any other: the front sends 100 when reading of the body begins. One that is
/// kept is for the origin, which may refuse the body before it has been sent.
fn check_expectation(headers: &mut HeaderMap) -> Result<(), Rejection> {
    let Some(first) = headers.get(header::EXPECT) else { return Ok(()) };
    let is_known = |value: &HeaderValue| tokens(value).all(|token| token.eq_ignore_ascii_case(b"100-continue"));
    if !is_known(first) || !headers.get_all(header::EXPECT).iter().all(is_known) {
        return Err(Rejection::ExpectationUnknown);
    }
    headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    Ok(())
}

/// Refuses targets that aren't in origin-form or absolute-form (RFC 9112, section 3.2).
fn check_form(uri: &Uri, method: &Method) -> Result<(), Rejection> {
    if uri.path() == "*" {
        return Err(if *method == Method::OPTIONS { Rejection::Asterisk } else { Rejection::TargetMalformed });
    }
    match uri.scheme_str() {
        // The scheme itself is the connection's: what a client claims must not choose under which URL its response is
        // stored.
        None | Some("http" | "https") => Ok(()),
        Some(_) => Err(Rejection::TargetMalformed),
    }
}

/// Returns path and query; an absolute target may lack the path.
fn stated_target(uri: &Uri) -> Result<PathAndQuery, Rejection> {
    let given = uri.path_and_query().cloned().ok_or(Rejection::TargetMalformed)?;
    match given.as_str().as_bytes() {
        [b'/', ..] => Ok(given),
        [b'?', ..] => format!("/{}", given.as_str()).parse().map_err(|_| Rejection::TargetMalformed),
        _ => Err(Rejection::TargetMalformed),
    }
}

/// Removes the fields that must not be forwarded by RFC 9110, section 7.6.1; `Upgrade` stays if it is acted on.
fn remove_connection_fields(headers: &mut HeaderMap, switches: bool) {
    if headers.contains_key(header::CONNECTION) {
        let nominated: Vec<HeaderName> =
            headers.get_all(header::CONNECTION).iter().flat_map(tokens).filter_map(nominated).collect();
        for name in nominated {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
    headers.remove(&HTTP2_SETTINGS);
    headers.remove(header::TRANSFER_ENCODING);
    if !switches {
        headers.remove(header::UPGRADE);
    }
    if headers.contains_key(header::TE) {
        let is_trailers = |token: &[u8]| token.eq_ignore_ascii_case(b"trailers");
        if headers.get_all(header::TE).iter().flat_map(tokens).any(is_trailers) {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(header::TE);
        }
    }
}

/// Returns the members of a list without the white space around them.
fn tokens(list: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    list.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Returns the field that a connection option names, unless it is one that has its own treatment here. The usual
/// options name none, and so cost no allocation.
fn nominated(option: &[u8]) -> Option<HeaderName> {
    const OURS: [&[u8]; 6] = [b"close", b"keep-alive", b"upgrade", b"te", b"content-length", b"transfer-encoding"];
    if OURS.iter().any(|ours| option.eq_ignore_ascii_case(ours)) {
        return None;
    }
    HeaderName::from_bytes(option).ok()
}

/// HTTP/2 and HTTP/3 may split the cookies into many fields, which nothing else expects (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    // Pieces of values make a value.
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

#[cfg(test)]
mod tests;
