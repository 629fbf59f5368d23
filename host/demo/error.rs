//! How a demo fails.

use std::{io, net::SocketAddr};

use thiserror::Error;

use super::workload::REQUESTS_MAX;
use crate::{app, config};

/// Why a demo failed.
#[derive(Debug, Error)]
pub enum Error {
    /// So many requests are not sent.
    #[error("{0} requests can't be sent: the demo sends 1 to {max}", max = REQUESTS_MAX)]
    Requests(usize),
    /// No directory for the disk tier.
    #[error("no temporary directory: {0}")]
    Directory(#[source] io::Error),
    /// The embedded origin can't listen.
    #[error("the embedded origin can't listen: {0}")]
    Origin(#[source] io::Error),
    /// The node can't listen, for another reason than that the port is taken.
    #[error("can't listen on {address}: {cause}")]
    Address {
        /// The request.
        address: SocketAddr,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// The embedded configuration is refused.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The node can't start.
    #[error(transparent)]
    App(#[from] app::Error),
    /// The summary can't be written.
    #[error("the summary can't be written: {0}")]
    Output(#[source] io::Error),
    /// The signals that stop the demo can't be watched.
    #[error("signals can't be watched: {0}")]
    Signal(#[source] io::Error),
    /// A response through holm differs from the origin's.
    #[error("{count} of {total} responses are missing or not the same through holm as without it; the first: {first}")]
    Mismatch {
        /// How many.
        count: usize,
        /// Of how many.
        total: usize,
        /// What is wrong with the first.
        first: String,
    },
}
