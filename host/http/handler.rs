//! The trait that a server calls with its requests.

use std::time::Duration;

use crate::message::{Request, Response};

/// How a request came, beyond what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Time from the accept of the connection to the complete head of its first request; `None` for later ones. The
    /// handshake is in it, the client's own delays, and any wait for a thread of this node.
    pub since_accept: Option<Duration>,
}

/// Serves requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Serves one request. Dropped without being finished if the client goes away.
    fn handle(&self, request: Request, arrival: Arrival) -> impl Future<Output = Response> + Send;

    /// Completes the response to a request that the listener refused by itself.
    fn refused(&self, response: Response) -> Response {
        response
    }
}
