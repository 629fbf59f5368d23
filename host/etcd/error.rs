//! How a call to etcd fails.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why there is no client, or why a call has no result.
#[derive(Debug, Error)]
pub enum Error {
    /// An endpoint that can't be used as it is configured.
    #[error("`{endpoint}` can't be used as an endpoint of etcd: {reason}")]
    Endpoint {
        /// Its URL.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate, a key or a file of authorities that can't be read.
    #[error("{}: {cause}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// The call has certainly changed nothing: it wasn't sent, or it only reads.
    #[error("etcd can't be reached at {endpoint} for {call}: {reason}")]
    Unreachable {
        /// The endpoint that was tried last.
        endpoint: String,
        /// The call.
        call: &'static str,
        /// What happened.
        reason: String,
    },
    /// A call that writes was sent and its reply was lost: it may have taken effect, or still take effect.
    #[error("etcd's reply to {call} at {endpoint} was lost, so that it isn't known whether it took effect: {reason}")]
    Unknown {
        /// The endpoint.
        endpoint: String,
        /// The call.
        call: &'static str,
        /// What happened.
        reason: String,
    },
    /// The server refused the call, which has changed nothing.
    #[error("etcd refuses {call} at {endpoint}: {reason}")]
    Refused {
        /// The endpoint.
        endpoint: String,
        /// The call.
        call: &'static str,
        /// The server's message.
        reason: String,
    },
    /// The server's reply has another form than the call's.
    #[error("etcd's reply to {call} at {endpoint} has an unexpected form")]
    Reply {
        /// The endpoint.
        endpoint: String,
        /// The call.
        call: &'static str,
    },
    /// A watch has ended. Events may have been missed since its last one.
    #[error("the watch at {endpoint} has ended: {reason}")]
    WatchEnded {
        /// The endpoint.
        endpoint: String,
        /// What happened.
        reason: String,
    },
    /// There is no such lease any more.
    #[error("the lease {0:016x} has expired")]
    Expired(i64),
}
