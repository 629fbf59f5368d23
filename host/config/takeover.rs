//! Sockets by which processes of one machine reach each other: that of clients, and that of the next process.

use std::{path::PathBuf, time::Duration};

/// A Unix socket that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its file.
    pub path: PathBuf,
    /// Who may connect, as the permissions of the file.
    pub mode: u32,
}

/// How another process takes the place of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// The Unix socket at which it asks for that; without one none can.
    pub socket: Option<PathBuf>,
    /// How long connections that are open then may wait for one more request.
    pub grace: Duration,
    /// How long the other process may take until it is ready.
    pub ready: Duration,
}
