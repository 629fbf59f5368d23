//! Checks and normalisation of a head as a front has parsed it, so that the rest of the program may trust it: one host,
//! one framing, a target, and no field that was meant for this connection only. Whatever is ambiguous is refused,
//! because a server behind this one might resolve it the other way.

use std::net::SocketAddr;

use ::http::{HeaderMap, HeaderValue, Method, Uri, Version, header, request::Parts, uri::PathAndQuery};

use super::{authority, rejection::Rejection};
use crate::{
    config::Limits,
    message::{Client, Near, RequestHead, Scheme, connection, target},
};

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
        Version::HTTP_11 => connection::is_switch(method, headers),
        _ => extensions.get::<ExtendedConnect>().is_some(),
    };
    connection::remove_fields(headers, switches);
    connection::join_cookies(headers);
    let (method, headers) = (std::mem::take(method), std::mem::take(headers));
    let head = RequestHead { method, scheme, authority, target, received, headers, client, near: Near::default() };
    Ok(Checked { head, switches })
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
    let is_known =
        |value: &HeaderValue| connection::tokens(value).all(|token| token.eq_ignore_ascii_case(b"100-continue"));
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

#[cfg(test)]
mod tests;
