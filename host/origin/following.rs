//! Names of endpoints, looked up again and again: connections go to the addresses that they have now, and those to
//! others end.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::endpoint::Endpoint;
use crate::config;

/// How long what a look-up has found holds at least: records whose TTL is zero hold for no time at all.
const TTL_MIN: Duration = Duration::from_secs(1);

/// How long names hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    /// Where no TTL is known, as after a look-up that failed.
    unsaid: Duration,
    /// The longest, whatever the TTL.
    ttl_max: Duration,
}

impl Holding {
    /// Returns how long the names of a pool hold.
    pub(super) const fn of(pool: &config::Pool) -> Self {
        Self { unsaid: pool.dns_ttl, ttl_max: pool.records.ttl_max }
    }

    /// Returns the time until a name is looked up again.
    fn pause(self, ttl: Option<Duration>) -> Duration {
        ttl.map_or(self.unsaid, |ttl| ttl.min(self.ttl_max).max(TTL_MIN))
    }
}

/// Looks an endpoint's name up at once and whenever what was found doesn't hold any more; returns at once if it has
/// none. What fails leaves the addresses as they are.
pub(super) async fn follow(endpoint: Arc<Endpoint>, pool: Arc<str>, holding: Holding) {
    let Some(name) = endpoint.reach().name() else { return };
    loop {
        let mut ttl = None;
        match name.look_up().await {
            Ok(found) => {
                ttl = found.ttl;
                if found.is_partial {
                    tracing::warn!(pool = &*pool, name = name.host(), "some hosts of the service aren't resolved");
                }
                let change = name.take(found);
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
        sleep(holding.pause(ttl)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_name_holds() {
        let holding = Holding { unsaid: Duration::from_millis(100), ttl_max: Duration::from_secs(60) };
        for (ttl, wanted_ms) in [
            (None, 100),
            (Some(0), 1_000),
            (Some(1), 1_000),
            (Some(30), 30_000),
            (Some(60), 60_000),
            (Some(86_400), 60_000),
        ] {
            let pause = holding.pause(ttl.map(Duration::from_secs));
            assert_eq!(pause, Duration::from_millis(wanted_ms), "{ttl:?}");
        }
    }
}
