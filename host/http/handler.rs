//! The trait that a server calls with its requests.

use std::time::Duration;

use ::http::Method;

use crate::message::{Client, Request, Response, Scheme};

/// How a request came, beyond what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Time from the accept of the connection to the complete head of its first request; `None` for later ones. The
    /// handshake is in it, the client's own delays, and any wait for a thread of this node.
    pub since_accept: Option<Duration>,
}

/// A request that the listener refused by itself.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Its client.
    pub client: Client,
    /// The scheme of its connection.
    pub scheme: Scheme,
    /// Its method; `None` if it couldn't be parsed.
    pub method: Option<&'a Method>,
    /// Host and port as far as they were looked at, as the client wrote them.
    pub authority: &'a [u8],
    /// Path and query; empty if they couldn't be parsed.
    pub target: &'a str,
    /// How it came.
    pub arrival: Arrival,
}

/// Serves requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Serves one request. Dropped without being finished if the client goes away.
    fn handle(&self, request: Request, arrival: Arrival) -> impl Future<Output = Response> + Send;

    /// Completes the response to a request that the listener refused by itself, and accounts for it.
    fn refused(&self, response: Response, request: &Refused<'_>) -> Response {
        let _ = request;
        response
    }
}
