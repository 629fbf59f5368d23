//! What travels between the rooms: a request, a response and their bodies, free of any server or client library.

pub mod authority;
pub mod body;
pub mod coding;
pub mod network;
pub mod problem;
pub mod tag;
pub mod target;
pub mod url;

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Method, Version, uri::PathAndQuery};

pub use body::{Body, BodyError};

/// A response on its way to a client or from an origin.
pub type Response = http::Response<Body>;

/// The scheme a client used (RFC 9110, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Cleartext.
    Http,
    /// TLS or QUIC.
    Https,
}

impl Scheme {
    /// `"http"` or `"https"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Who asks.
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
    /// Host and optional port in their [normal form](authority::normal): from `:authority`, the absolute target or
    /// `Host`.
    pub authority: HeaderValue,
    /// The path in its [normal form](target::normalise), and the query as received.
    pub target: PathAndQuery,
    /// Path and query as received, if the path was spelled otherwise.
    pub received: Option<PathAndQuery>,
    /// The header fields, `Host` removed (it is [`RequestHead::authority`]).
    pub headers: HeaderMap,
    /// Who asks.
    pub client: Client,
}

impl RequestHead {
    /// The authority as text. The listener has checked that it is visible ASCII.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    /// `scheme://authority/path?query` in the form by which a URL is purged: the same for all its spellings.
    #[must_use]
    pub fn url(&self) -> String {
        url::spelled(self.scheme, self.authority(), self.target.path(), self.target.query())
    }
}
