//! Names of endpoints, looked up again and again: connections go to the addresses that they have now, and those to
//! others end.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::endpoint::Endpoint;

/// Looks an endpoint's name up at once and whenever `ttl` has passed; returns at once if it has none. What fails leaves
/// the addresses as they are.
pub(super) async fn follow(endpoint: Arc<Endpoint>, pool: Arc<str>, ttl: Duration) {
    let Some(name) = endpoint.reach().name() else { return };
    loop {
        match name.look_up().await {
            Ok(found) => {
                let change = name.take(&found);
                let (pool, name) = (&*pool, name.host());
                if change.has_recovered {
                    tracing::info!(pool, name, "name is resolved again");
                }
                if !change.gone.is_empty() {
                    tracing::info!(pool, name, gone = ?change.gone, "addresses are gone, and connections to them end");
                }
                endpoint.leave(&change.gone);
            }
            Err(error) if name.fail() => {
                let (pool, name) = (&*pool, name.host());
                tracing::warn!(pool, name, %error, "name isn't resolved; what is known of it holds");
            }
            Err(_) => {}
        }
        sleep(ttl).await;
    }
}
