//! The error types of `Proxy-Status` (RFC 9209, section 2.3) for the words by which this node names its failures. Pure.

use crate::message::proxy_status::ProxyError;

/// Returns the error type of a failure by its word in `Cache-Status` and the access log.
pub(super) fn error_of(reason: &str) -> ProxyError {
    match reason {
        "connect-refused" => ProxyError::ConnectionRefused,
        "connect-timeout" => ProxyError::ConnectionTimeout,
        "connect-failed" | "no-endpoint" => ProxyError::DestinationUnavailable,
        "no-route" => ProxyError::DestinationNotFound,
        "tls-failed" => ProxyError::TlsProtocolError,
        "connection-closed" | "connection-reset" => ProxyError::ConnectionTerminated,
        "invalid-response" | "bad-response" => ProxyError::HttpProtocolError,
        "response-timeout" | "body-timeout" | "deadline" | "route-timeout" => ProxyError::HttpResponseTimeout,
        "pool-full" | "wait-timeout" => ProxyError::ConnectionLimitReached,
        "client-limit" | "queue-full" | "upgrade" | "early-data" | "grpc" => ProxyError::HttpRequestDenied,
        "request-body" => ProxyError::HttpRequestError,
        "error-body" | "body-lost" | "response-body" => ProxyError::HttpResponseIncomplete,
        "response-coding" => ProxyError::HttpResponseContentCoding,
        "loop" => ProxyError::ProxyLoopDetected,
        // A policy's fault, or something that doesn't occur.
        _ => ProxyError::ProxyInternalError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::BodyError, origin::Reason, policy::Fault};

    /// Fails to compile when there is a further reason, so that the table gets a row for it.
    const fn row(reason: &Reason) -> usize {
        match reason {
            Reason::ConnectRefused => 0,
            Reason::ConnectTimeout => 1,
            Reason::ConnectFailed => 2,
            Reason::TlsFailed => 3,
            Reason::ConnectionClosed => 4,
            Reason::ConnectionReset => 5,
            Reason::InvalidResponse => 6,
            Reason::ResponseTimeout => 7,
            Reason::NoEndpoint => 8,
            Reason::PoolFull => 9,
            Reason::WaitTimeout => 10,
            Reason::ClientLimit => 11,
            Reason::RequestBody(_) => 12,
            Reason::Unsendable => 13,
        }
    }

    #[test]
    fn every_failure_at_an_origin_has_its_registered_type() {
        let table = [
            (Reason::ConnectRefused, "connection_refused"),
            (Reason::ConnectTimeout, "connection_timeout"),
            (Reason::ConnectFailed, "destination_unavailable"),
            (Reason::TlsFailed, "tls_protocol_error"),
            (Reason::ConnectionClosed, "connection_terminated"),
            (Reason::ConnectionReset, "connection_terminated"),
            (Reason::InvalidResponse, "http_protocol_error"),
            (Reason::ResponseTimeout, "http_response_timeout"),
            (Reason::NoEndpoint, "destination_unavailable"),
            (Reason::PoolFull, "connection_limit_reached"),
            (Reason::WaitTimeout, "connection_limit_reached"),
            (Reason::ClientLimit, "http_request_denied"),
            (Reason::RequestBody(BodyError::TooLarge { limit: 1 }), "http_request_error"),
            (Reason::Unsendable, "proxy_internal_error"),
        ];
        for (number, (reason, wanted)) in table.iter().enumerate() {
            assert_eq!(row(reason), number, "{reason:?}");
            assert_eq!(error_of(reason.as_str()).as_str(), *wanted, "{reason:?}");
        }
        for fault in Fault::KINDS {
            assert_eq!(error_of(fault), ProxyError::ProxyInternalError, "{fault}");
        }
    }

    #[test]
    fn so_has_every_limit_and_refusal_of_this_nodes_own() {
        for (reason, wanted) in [
            ("deadline", "http_response_timeout"),
            ("route-timeout", "http_response_timeout"),
            ("body-timeout", "http_response_timeout"),
            ("queue-full", "http_request_denied"),
            ("upgrade", "http_request_denied"),
            ("loop", "proxy_loop_detected"),
            ("no-route", "destination_not_found"),
            ("body-lost", "http_response_incomplete"),
            ("error-body", "http_response_incomplete"),
            ("response-body", "http_response_incomplete"),
            ("response-coding", "http_response_content_coding"),
            ("bad-response", "http_protocol_error"),
            ("batch-lost", "proxy_internal_error"),
            ("no-former", "proxy_internal_error"),
            ("no-candidate", "proxy_internal_error"),
        ] {
            assert_eq!(error_of(reason).as_str(), wanted, "{reason}");
        }
    }
}
