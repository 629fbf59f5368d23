//! Why a node can't be put together.

use std::io;

use thiserror::Error;

use crate::{cache, http, origin, plugin};

/// Why a node can't start, or can't take another configuration.
#[derive(Debug, Error)]
pub enum Error {
    /// A listener.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The admin API's listener.
    #[error("the admin API: {0}")]
    Admin(#[source] http::Error),
    /// The tiers or the purge log.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// A pool.
    #[error("pool {name}: {reason}")]
    Pool {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        reason: Box<origin::Error>,
    },
    /// A policy.
    #[error(transparent)]
    Policy(#[from] plugin::Error),
    /// A route names what isn't there; `config` refuses such files, so only code can bring it about.
    #[error("route {route} names {what} {name}, which is not configured")]
    Dangling {
        /// The route.
        route: String,
        /// A pool or a policy.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The bug that a debug build is to have isn't known.
    #[cfg(debug_assertions)]
    #[error(transparent)]
    Planted(#[from] crate::planted::UnknownBug),
    /// The access log can't be opened.
    #[error("the access log: {0}")]
    AccessLog(#[source] io::Error),
}
