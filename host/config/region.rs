//! The region of a node.

use http::HeaderName;

/// The nodes that a node shares a purge log with, and how near its clients are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// The header field in which trusted proxies state the region of their client; `None` if none does.
    pub client_field: Option<HeaderName>,
}
