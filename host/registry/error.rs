//! Why a component can't be had from a registry.

use std::io;

use http::StatusCode;
use thiserror::Error;

use crate::admin::TrustError;

/// Why a registry has no component for us.
#[derive(Debug, Error)]
pub enum Error {
    /// TLS can't be set up.
    #[error("TLS to the registry: {0}")]
    Trust(#[from] TrustError),
    /// It leads to what isn't asked: another scheme than `https` beyond loopback, or no URL at all.
    #[error("the registry leads to `{0}`, which isn't asked: only `https`, or `http` on loopback for a registry there")]
    Url(String),
    /// No connection.
    #[error("no connection to {url}: {cause}")]
    Connect {
        /// What was to be read.
        url: String,
        /// The error of the system.
        cause: io::Error,
    },
    /// The connection broke, or what comes is too long.
    #[error("{url} can't be read: {reason}")]
    Exchange {
        /// What was to be read.
        url: String,
        /// What happened.
        reason: String,
    },
    /// It doesn't give it.
    #[error("{url}: the registry responded {status}")]
    Status {
        /// What was to be read.
        url: String,
        /// Its status.
        status: StatusCode,
    },
    /// It leads from one URL to another without an end.
    #[error("the registry leads from one URL to the next, the last of which was {0}")]
    Redirects(String),
    /// It wants to know who asks, in a way that isn't known, or gives no token.
    #[error("the registry gives no token to those who don't sign in: {0}")]
    Token(String),
    /// The manifest names no component.
    #[error("the manifest can't be used: {0}")]
    Manifest(String),
    /// Something else came than was asked for.
    #[error("what came as {0} has another digest")]
    Digest(String),
    /// It took too long.
    #[error("the registry took more than {0} s")]
    Timeout(u64),
}
