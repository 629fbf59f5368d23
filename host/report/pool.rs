//! Pools and their endpoints: `GET /pools`.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// The pool's name.
    pub name: String,
    /// Requests that wait for a connection.
    pub waiting: usize,
    /// Its members, in the order of the configuration.
    pub endpoints: Vec<EndpointInfo>,
}

/// An endpoint of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// `host:port`, or `unix:` and the path of a socket; and the path in front of the requests' own.
    pub address: String,
    /// The addresses that its name has now; none if it has no name, or hasn't been looked up.
    pub addresses: Vec<String>,
    /// Its share of the requests in relation to others.
    pub weight: u32,
    /// Whether it gets requests only while no other endpoint is of use.
    pub backup: bool,
    /// Where it is, if that is known.
    pub zone: Option<String>,
    /// Requests that hold a connection.
    pub inflight: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
    /// Whether it isn't down by its active checks; an ejected endpoint may be healthy.
    pub healthy: bool,
    /// When its ejection ends, by the wall clock as it is set now, in milliseconds since 1970; if it is ejected.
    pub ejected_until: Option<Timestamp>,
    /// Requests with a complete response, since start.
    pub ok: u64,
    /// Requests that failed or had a response of 502 to 504, since start.
    pub failed: u64,
}
