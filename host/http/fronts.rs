//! The fronts: the transports that connections come in by. A front binds the configured addresses, takes a slot and has
//! each connection admitted (`shared`), brings its requests to a `service::Conversation`, and measures its clients'
//! progress: requests in an `Activity`, whatever else it can see by itself. It ends by the rules of `driver`.

pub(super) mod quic;
pub(super) mod tcp;

use tokio::task::{JoinError, JoinSet};

/// Waits until all tasks that accept have ended.
async fn ended(acceptors: &mut JoinSet<()>) {
    while let Some(ended) = acceptors.join_next().await {
        report(ended);
    }
}

/// Reports a task that accepts if it ended by a panic.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a listener stopped");
    }
}
