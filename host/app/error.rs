//! Why a node can't be put together.

use std::{io, net::SocketAddr, path::PathBuf};

use thiserror::Error;

use crate::{cache, etcd, http, origin, plugin};

/// Why a node can't start, or can't take another configuration.
#[derive(Debug, Error)]
pub enum Error {
    /// A listener.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The admin API's listener.
    #[error("the admin API: {0}")]
    Admin(#[source] http::Error),
    /// Who may use the admin API.
    #[error("the admin API: {0}")]
    AdminAccess(#[from] AdminError),
    /// The tiers or the purge log.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The list of the region's nodes.
    #[error(transparent)]
    Nodes(#[from] cache::nodes::NodeListError),
    /// The nodes of all regions.
    #[error("the nodes of all regions: {0}")]
    WorldNodes(#[from] etcd::Error),
    /// Another live process has the node's name.
    #[error(
        "a live process has the name `{node}` of this node, {holder}: give each node of a region a name of its own, or \
         end that one; `--takeover` takes its place"
    )]
    NameTaken {
        /// The name.
        node: String,
        /// Where the other one is.
        holder: String,
    },
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
    /// The socket at which another process may ask for the place of this one.
    #[error("the socket of `[takeover]`, {}: {reason}", .path.display())]
    TakeoverSocket {
        /// Its file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        reason: io::Error,
    },
    /// The process whose place this one was to take.
    #[error("the place of the process that runs can't be taken: {0}")]
    Takeover(#[source] io::Error),
    /// There is no socket at which it could be asked.
    #[error("`takeover.socket` isn't set, so that no process can be asked for its place")]
    NoTakeover,
    /// Keys whose new values need a restart.
    #[error("needs a restart: {}", .0.join(", "))]
    NeedsRestart(Vec<String>),
    /// The access log can't be opened.
    #[error("the access log: {0}")]
    AccessLog(#[source] io::Error),
}

/// Why an admin API isn't opened.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The file of its token can't be read.
    #[error("cannot read the token in {}: {cause}", .file.display())]
    TokenFile {
        /// The file.
        file: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// What a file or the environment has isn't a token.
    #[error("{0} has no token: one has 16 or more characters, all of them visible ASCII")]
    Token(String),
    /// Everyone who reaches its address could use it.
    #[error(
        "everyone who reaches {0} could purge and exchange policies: set `admin.token_file` or HOLM_ADMIN_TOKEN, or \
         `admin.tls.client_ca`, or listen on loopback; `admin.unprotected = true` says that it is meant"
    )]
    Open(SocketAddr),
}
