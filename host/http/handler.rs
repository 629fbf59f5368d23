//! The trait that a server calls with its requests.

use crate::message::{Request, Response};

/// Serves requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Serves one request. Dropped without being finished if the client goes away.
    fn handle(&self, request: Request) -> impl Future<Output = Response> + Send;

    /// Completes the response to a request that the listener refused by itself.
    fn refused(&self, response: Response) -> Response {
        response
    }
}
