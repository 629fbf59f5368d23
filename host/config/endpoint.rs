//! The members of pools.

use std::path::PathBuf;

use http::Uri;

/// A member of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://host:port` or `https://host:port`, perhaps with a path in its normal form that is put in front of the
    /// requests' own; `http://localhost` and that path where it has a socket; the service's domain where it is one.
    pub url: Uri,
    /// Path of the Unix socket that it listens at, if it has no address.
    pub socket: Option<PathBuf>,
    /// The name of the SRV records that say which hosts and ports it is (RFC 2782), if any do.
    pub service: Option<String>,
    /// Its share of the requests in relation to others of its pool; 1 or more.
    pub weight: u32,
    /// Whether it gets requests only while no other endpoint is of use.
    pub backup: bool,
    /// Where it is; `None` if it is as near to every node.
    pub zone: Option<String>,
}

/// What the URL or the address of a Unix socket begins with.
pub(super) const UNIX: &str = "unix:";

/// What the URL of a service begins with, `http` or `https` left aside.
pub(super) const SRV: &str = "srv+";

impl Endpoint {
    /// Takes its part of the requests with those of its pool, whatever their zone.
    #[must_use]
    pub const fn new(url: Uri) -> Self {
        Self { url, socket: None, service: None, weight: 1, backup: false, zone: None }
    }

    /// Returns the path that is put in front of the requests' own, without a `/` at its end; mostly there is none.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }

    /// Whether another one is reached by the same URL.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.url == other.url && self.socket == other.socket && self.service == other.service
    }

    /// Returns its URL as a file has it.
    #[must_use]
    pub fn written(&self) -> String {
        if let Some(service) = &self.service {
            return format!("{SRV}{}://{service}{}", self.url.scheme_str().unwrap_or_default(), self.prefix());
        }
        let Some(socket) = &self.socket else { return self.url.to_string().trim_end_matches('/').to_owned() };
        let colon = if self.prefix().is_empty() { "" } else { ":" };
        format!("{UNIX}{}{colon}{}", socket.display(), self.prefix())
    }
}
