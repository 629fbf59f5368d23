//! `Proxy-Status` (RFC 9209): why this node has no response of the origin for its client.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use super::structured;

/// The header field.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// A registered error type (RFC 9209, section 2.3), of those that this node has a use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// There is no next hop for the request.
    DestinationNotFound,
    /// The next hop is out of reach, or down by its health checks.
    DestinationUnavailable,
    /// The next hop refused the connection.
    ConnectionRefused,
    /// The connection closed before the response was complete.
    ConnectionTerminated,
    /// The connection didn't come about in time.
    ConnectionTimeout,
    /// All connections that this node may have are busy.
    ConnectionLimitReached,
    /// TLS to the next hop failed.
    TlsProtocolError,
    /// The request is malformed, or can't be read.
    HttpRequestError,
    /// The request is refused by a limit or a rule of this node.
    HttpRequestDenied,
    /// The response broke off.
    HttpResponseIncomplete,
    /// The response has a content coding that can't be decoded.
    HttpResponseContentCoding,
    /// The response's head didn't come in time.
    HttpResponseTimeout,
    /// What came isn't a response.
    HttpProtocolError,
    /// The response is this node's own, and the origin wasn't asked.
    ProxyInternalResponse,
    /// Something in this node failed: a policy, say.
    ProxyInternalError,
    /// The request has been through this node before.
    ProxyLoopDetected,
    /// The request's body can't be forwarded as it comes (RFC 10036, section 4.1).
    IncrementalRefused,
}

impl ProxyError {
    /// Returns the token of the registry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DestinationNotFound => "destination_not_found",
            Self::DestinationUnavailable => "destination_unavailable",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionTerminated => "connection_terminated",
            Self::ConnectionTimeout => "connection_timeout",
            Self::ConnectionLimitReached => "connection_limit_reached",
            Self::TlsProtocolError => "tls_protocol_error",
            Self::HttpRequestError => "http_request_error",
            Self::HttpRequestDenied => "http_request_denied",
            Self::HttpResponseIncomplete => "http_response_incomplete",
            Self::HttpResponseContentCoding => "http_response_content_coding",
            Self::HttpResponseTimeout => "http_response_timeout",
            Self::HttpProtocolError => "http_protocol_error",
            Self::ProxyInternalResponse => "proxy_internal_response",
            Self::ProxyInternalError => "proxy_internal_error",
            Self::ProxyLoopDetected => "proxy_loop_detected",
            Self::IncrementalRefused => "incremental_refused",
        }
    }
}

/// Why this node has no response of the origin for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyStatus {
    /// None came, or none was asked for.
    Error(ProxyError),
    /// One of this status came, and something stored is served in its place.
    Received(u16),
}

impl ProxyStatus {
    /// Returns the reason of a response of this node's own of which only the status is known.
    #[must_use]
    pub fn of_own(status: StatusCode) -> Self {
        Self::Error(match status {
            StatusCode::TOO_MANY_REQUESTS => ProxyError::HttpRequestDenied,
            status if status.is_client_error() => ProxyError::HttpRequestError,
            _ => ProxyError::ProxyInternalResponse,
        })
    }

    /// Returns the member that `node` adds to the field, with a word of its own on the reason.
    #[must_use]
    pub fn render(self, node: &str, details: Option<&str>) -> HeaderValue {
        let mut text = String::with_capacity(64);
        structured::item(&mut text, node);
        // Writing to a String can't fail.
        let _ = match self {
            Self::Error(error) => write!(text, "; error={}", error.as_str()),
            Self::Received(status) => write!(text, "; received-status={status}"),
        };
        if let Some(details) = details {
            text.push_str("; details=");
            structured::string(&mut text, details);
        }
        HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static("holm"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_read_as_the_rfc_writes_them() {
        let timeout = ProxyStatus::Error(ProxyError::ConnectionTimeout);
        assert_eq!(
            timeout.render("holm", Some("connect-timeout")),
            "holm; error=connection_timeout; details=\"connect-timeout\""
        );
        assert_eq!(timeout.render("a b", None), "\"a b\"; error=connection_timeout");
        assert_eq!(ProxyStatus::Received(503).render("n1", None), "n1; received-status=503");
        let refused = ProxyStatus::Error(ProxyError::IncrementalRefused);
        assert_eq!(refused.render("n", None), "n; error=incremental_refused");
        assert_eq!(refused.render("a b", None), "\"a b\"; error=incremental_refused");
    }

    #[test]
    fn own_responses_have_their_reason_by_their_status() {
        for (status, wanted) in [
            (400, ProxyError::HttpRequestError),
            (413, ProxyError::HttpRequestError),
            (429, ProxyError::HttpRequestDenied),
            (501, ProxyError::ProxyInternalResponse),
            (504, ProxyError::ProxyInternalResponse),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(ProxyStatus::of_own(status), ProxyStatus::Error(wanted), "{status}");
        }
    }
}
