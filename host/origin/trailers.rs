//! Trailers on their way through, as gRPC has them (`grpc-status`). They aren't stored, and a peer that speaks HTTP/1.1
//! gets none, since it would have had to be told of them in the head.

use http::{HeaderMap, HeaderName, header};

/// Fields that a recipient which merges trailers into the head would obey there (RFC 9110, section 6.5.1): framing,
/// routing, credentials, what caches may do, and what describes the body.
static BARRED: [HeaderName; 24] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::FORWARDED,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VARY,
    header::VIA,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("x-forwarded-for"),
];

/// Returns the trailers that may be sent on.
pub(super) fn passed_on(mut trailers: HeaderMap) -> HeaderMap {
    for name in &BARRED {
        trailers.remove(name);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_belongs_into_a_head_is_dropped() {
        let value = || HeaderValue::from_static("1");
        let all = BARRED.iter().cloned().chain([HeaderName::from_static("grpc-status")]);
        let passed = passed_on(all.map(|name| (name, value())).collect());
        assert_eq!(passed, HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), value())]));
    }
}
