//! How the names of endpoints are looked up.

use std::{net::SocketAddr, time::Duration};

/// Who is asked for the addresses of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameSource {
    /// The system's resolver, which doesn't say how long an address holds.
    #[default]
    System,
    /// The servers of [`Dns`], whose records have a TTL.
    Records,
}

/// How records are asked for: those of services (SRV), and those of names where the pool wants that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The servers; those of the system's configuration if there is none here.
    pub servers: Vec<SocketAddr>,
    /// How long a record holds at most, whatever its TTL.
    pub ttl_max: Duration,
}
