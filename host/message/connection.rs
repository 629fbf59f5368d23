//! What a request's header fields say of its connection: a switch to another protocol, and the fields that end at this
//! hop. Pure.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::structured::joined_by;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Whether a request of HTTP/1.1 is one to switch to a protocol that is known: a WebSocket (RFC 6455, section 4.1). Any
/// other wish is ignored, as RFC 9110, section 7.8 allows.
#[must_use]
pub fn is_switch(method: &Method, headers: &HeaderMap) -> bool {
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

/// Removes the fields that must not be forwarded by RFC 9110, section 7.6.1; `Upgrade` stays if it is acted on.
pub fn remove_fields(headers: &mut HeaderMap, switches: bool) {
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
pub fn tokens(list: &HeaderValue) -> impl Iterator<Item = &[u8]> {
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

/// Joins the cookies that HTTP/2 and HTTP/3 may split into many fields, which nothing else expects (RFC 9113, section
/// 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let cookies = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    // What is borrowed is in one field already.
    let Some(Cow::Owned(joined)) = joined_by(cookies, b"; ") else { return };
    // Pieces of values make a value.
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}
