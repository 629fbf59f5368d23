//! What a server serves.

use crate::message::{Request, Response};

/// Whatever answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request. Dropped without being finished if the client goes away.
    fn handle(&self, request: Request) -> impl Future<Output = Response> + Send;

    /// Completes the answer to a request that the listener refused by itself.
    fn refused(&self, response: Response) -> Response {
        response
    }
}
