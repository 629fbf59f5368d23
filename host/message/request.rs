//! The request that the rooms pass to each other.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header::CONTENT_TYPE, uri::PathAndQuery};

use super::{body::Body, near::Near, scheme::Scheme, url};

/// The field of a request that came in early data, here or at a proxy in front (RFC 8470, section 5.1).
static EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

/// The client of a request.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The address of the connection's other end.
    pub ip: IpAddr,
    /// The HTTP version the client spoke.
    pub version: Version,
}

/// A request whose framing, host and target have been checked by the listener.
#[derive(Debug)]
pub struct Request {
    /// All of it but the body.
    pub head: RequestHead,
    /// The body.
    pub body: Body,
}

/// A request without its body. Clones share their bytes.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The request method.
    pub method: Method,
    /// The scheme the client used.
    pub scheme: Scheme,
    /// Host and optional port in their [normal form](super::authority::normal): from `:authority`, the absolute target
    /// or `Host`.
    pub authority: HeaderValue,
    /// The path in its [normal form](super::target::normalise), and the query as received.
    pub target: PathAndQuery,
    /// Path and query as received, if the path was spelled otherwise.
    pub received: Option<PathAndQuery>,
    /// The header fields, `Host` removed (it is [`RequestHead::authority`]).
    pub headers: HeaderMap,
    /// The client of a request.
    pub client: Client,
    /// The regions of its client and of the node; neither is known before the pipeline has it.
    pub near: Near,
}

impl RequestHead {
    /// Returns the authority as text. The listener has checked that it is visible ASCII.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    /// Whether it came in early data, so that somebody else than its client may have sent it again. Whatever the field
    /// says counts as 1 (RFC 8470, section 5.1).
    #[must_use]
    pub fn is_early(&self) -> bool {
        self.headers.contains_key(&EARLY_DATA)
    }

    /// Notes that it came in early data.
    pub fn mark_early(&mut self) {
        self.headers.insert(&EARLY_DATA, HeaderValue::from_static("1"));
    }

    /// Returns `scheme://authority/path?query` in the form by which a URL is purged: the same for all its spellings.
    #[must_use]
    pub fn url(&self) -> String {
        url::spelled(self.scheme, self.authority(), self.target.path(), self.target.query())
    }
}

/// Whether a message is one of gRPC, by its content type.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().split_at_checked(GRPC.len()))
        .is_some_and(|(kind, rest)| kind.eq_ignore_ascii_case(GRPC) && matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{
        target,
        url::{Url, UrlInvalid},
    };

    #[test]
    fn what_grpc_is() {
        for (content_type, wanted) in [
            (None, false),
            (Some("application/grpc"), true),
            (Some("Application/gRPC+proto"), true),
            (Some("application/grpc;charset=x"), true),
            (Some("application/grpc-web"), false),
            (Some("application/grp"), false),
            (Some("application/json"), false),
        ] {
            let value = content_type.map(|text| (CONTENT_TYPE, HeaderValue::from_static(text)));
            assert_eq!(is_grpc(&HeaderMap::from_iter(value)), wanted, "{content_type:?}");
        }
    }

    proptest! {
        /// Whatever spelling a client used, and whatever spelling it is purged by.
        #[test]
        fn a_request_and_a_url_have_the_same_form(path in "(/[a-z%éE29.;+ ]{0,4}){1,4}", query in "[a-z%{|é7eE&=+]{0,8}") {
            let target = format!("{path}?{query}");
            let purged = Url::parse(&format!("HTTP://Shop.Example.:80{target}#x")).map(|url| url.normal());
            // A space would end the target of a request.
            let asked = target.replace(' ', "%20").parse().unwrap();
            let asked = target::normalise(asked).map(|(target, received)| RequestHead {
                method: Method::GET,
                scheme: Scheme::Http,
                authority: HeaderValue::from_static("shop.example"),
                target,
                received,
                headers: HeaderMap::new(),
                client: Client { ip: [127, 0, 0, 1].into(), version: Version::HTTP_11 },
                near: Near::default(),
            });
            prop_assert_eq!(purged, asked.map(|head| head.url()).map_err(UrlInvalid::Target), "{}", target);
        }
    }
}
