//! Why a request doesn't reach the handler, and its response.

use ::http::{HeaderValue, StatusCode, Version, header};

use crate::message::{Response, problem::problem, target::TargetInvalid};

/// The methods that a response of 405 names.
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Why a request doesn't reach the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    Connect,
    Trace,
    Asterisk,
    TargetMalformed,
    TargetAboveRoot,
    TargetTooLong,
    /// It has characters that stand for others inside this node.
    TargetReserved,
    TooManyFields,
    FieldsTooLarge,
    HostMissing,
    HostRepeated,
    HostMalformed,
    HostDiffers,
    TransferEncodingForbidden,
    TransferCodingUnknown,
    TwoFramings,
    LengthMalformed,
    LengthsDiffer,
    ExpectationUnknown,
    BodyTooLarge,
    /// The parser found it in no place that has a name of its own here.
    HeadMalformed,
    MethodMalformed,
    VersionUnknown,
}

impl From<TargetInvalid> for Rejection {
    fn from(invalid: TargetInvalid) -> Self {
        match invalid {
            TargetInvalid::AboveRoot => Self::TargetAboveRoot,
            TargetInvalid::TooLong => Self::TargetTooLong,
        }
    }
}

impl Rejection {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Connect | Self::Asterisk | Self::TransferCodingUnknown => StatusCode::NOT_IMPLEMENTED,
            Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooManyFields | Self::FieldsTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ExpectationUnknown => StatusCode::EXPECTATION_FAILED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::VersionUnknown => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeadMalformed
            | Self::MethodMalformed
            | Self::TargetMalformed
            | Self::TargetAboveRoot
            | Self::TargetReserved
            | Self::HostMissing
            | Self::HostRepeated
            | Self::HostMalformed
            | Self::HostDiffers
            | Self::TransferEncodingForbidden
            | Self::TwoFramings
            | Self::LengthMalformed
            | Self::LengthsDiffer => StatusCode::BAD_REQUEST,
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT is not supported: this is no tunnel",
            Self::Trace => "TRACE is not supported",
            Self::Asterisk => "OPTIONS * is not supported: ask about a path",
            Self::TargetMalformed => "the request target is neither a path nor an http or https URI",
            Self::TargetAboveRoot => "`..` in the request's path leads above the root",
            Self::TargetTooLong => "the request target is too long",
            Self::TargetReserved => "U+E022, U+E03C and U+E03E must be percent-encoded in a query",
            Self::TooManyFields => "the request has too many header fields",
            Self::FieldsTooLarge => "the request's header fields are too large",
            Self::HostMissing => "the request names no host",
            Self::HostRepeated => "the request has more than one Host",
            Self::HostMalformed => "the request's host is not a host with an optional port",
            Self::HostDiffers => "Host and :authority differ",
            Self::TransferEncodingForbidden => "Transfer-Encoding does not exist in this version of HTTP",
            Self::TransferCodingUnknown => "no transfer coding but chunked is supported",
            Self::TwoFramings => "the request has both Content-Length and Transfer-Encoding",
            Self::LengthMalformed => "Content-Length is not a number of bytes",
            Self::LengthsDiffer => "the request has several different Content-Length",
            Self::ExpectationUnknown => "no expectation but 100-continue is supported",
            Self::BodyTooLarge => "the request body is too large",
            Self::HeadMalformed => "the request's header section is malformed",
            Self::MethodMalformed => "the request's method is malformed",
            Self::VersionUnknown => "the request's version of HTTP is not 1.0 or 1.1, or is malformed",
        }
    }

    /// Returns the response. HTTP/1 closes after it: the client may also have framed the next bytes otherwise.
    pub(super) fn response(self, version: Version) -> Response {
        let status = self.status();
        let mut response = problem(status, status.canonical_reason().unwrap_or("Refused"), self.detail());
        let headers = response.headers_mut();
        // Some of these statuses may be stored by default (RFC 9110, section 15.1).
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self == Self::Trace {
            headers.insert(header::ALLOW, ALLOW);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_says_why_and_is_not_stored() {
        let response = Rejection::Trace.response(Version::HTTP_11);
        let headers = response.headers().clone();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(headers[header::CONNECTION], "close");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert!(headers[header::ALLOW].to_str().unwrap().contains("GET"));
        let body = response.into_body().collect(1000).await.unwrap();
        let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read["status"], 405);
        assert_eq!(read["detail"], Rejection::Trace.detail());

        let response = Rejection::HostMissing.response(Version::HTTP_2);
        assert!(!response.headers().contains_key(header::CONNECTION));
    }
}
