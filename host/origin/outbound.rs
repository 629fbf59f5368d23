//! The requests to a pool and its responses.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    uri::PathAndQuery,
};

use crate::message::{self, RequestSpan, Response};

/// A request to a pool.
#[derive(Debug)]
pub struct Outbound {
    /// The request method.
    pub method: Method,
    /// Becomes the `Host` field.
    pub authority: HeaderValue,
    /// Path and query of the request.
    pub target: PathAndQuery,
    /// The header fields, those that concern only one connection already removed. `Host`, `Content-Length` and
    /// `Transfer-Encoding` are set here, whatever they say.
    pub headers: HeaderMap,
    /// The request body.
    pub body: OutboundBody,
    /// Whose limit of places it counts in; `None` if it belongs to no client.
    pub client: Option<IpAddr>,
    /// Whether it may be sent again although an endpoint may have acted on it. Where nothing was sent it may in any case.
    pub repeatable: bool,
    /// Whether the pool may send the body in a content coding and ask for the response in one, as it is configured: the
    /// sender decodes what comes.
    pub recodes: bool,
    /// How long it takes by what was measured of the pool, if it is a batch; `None` for other requests, and as long as
    /// nothing was measured.
    pub expected: Option<Duration>,
    /// The span that its attempts are logged in.
    pub span: RequestSpan,
}

/// A request body, by whether it can be sent twice.
#[derive(Debug)]
pub enum OutboundBody {
    /// No bytes.
    Empty,
    /// At hand, so it can be sent again.
    Replayable(Bytes),
    /// Comes in while the request is on its way. If it can be read to its end first it can be sent again; else it is sent
    /// on as it comes, and there is no second attempt once its first piece has been taken.
    Once(message::Body),
}

/// What a fetch brought.
#[derive(Debug)]
pub struct Fetched {
    /// The response, connection-specific fields removed; its body is a stream, or empty.
    pub response: Response,
    /// `host:port` of the endpoint that responded.
    pub endpoint: Arc<str>,
    /// How many attempts it took.
    pub attempts: u32,
}

/// Sets the fields that belong to the connection and to the framing. Only the client library knows how the body will
/// be framed, so a stated length would at best be right.
pub(super) fn set_connection_fields(headers: &mut HeaderMap, method: &Method, authority: HeaderValue, empty: bool) {
    headers.insert(HOST, authority);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(CONTENT_LENGTH);
    if empty {
        state_no_bytes(headers, method);
    }
}

/// States that there is no body, where one would have a meaning (RFC 9110, section 8.6).
pub(super) fn state_no_bytes(headers: &mut HeaderMap, method: &Method) {
    if [Method::POST, Method::PUT, Method::PATCH].contains(method) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stated_framing_is_dropped() {
        for (method, empty, length) in [
            (Method::GET, true, None),
            (Method::POST, true, Some("0")),
            (Method::PUT, true, Some("0")),
            (Method::POST, false, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("evil"));
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("99"));
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            set_connection_fields(&mut headers, &method, HeaderValue::from_static("a.example"), empty);
            assert_eq!(headers.get(HOST).unwrap(), "a.example");
            assert_eq!(headers.get(CONTENT_LENGTH).map(|value| value.to_str().unwrap()), length, "{method}");
            assert!(!headers.contains_key(TRANSFER_ENCODING));
        }
    }
}
