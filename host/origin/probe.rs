//! Active health checks: a GET now and then, whose response should be 2xx.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Limited};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    endpoint::{Connect, Endpoint, Exchanged},
    ledger::Ledger,
};

/// Bytes of a check's response that are read, so that its connection can be used again; a longer one loses it.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// Shortest time between two checks, whatever the configuration says: without a pause they would be a flood.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// The requests, and how often each is sent.
pub(super) struct Check {
    pub(super) target: PathAndQuery,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
}

/// Checks every endpoint by itself, in tasks among these. The first checks go out at once. A check takes no place: it
/// must get through when the endpoint is busy.
pub(super) fn begin(tasks: &mut JoinSet<()>, endpoints: &[Arc<Endpoint>], ledger: &Arc<Ledger>, check: &Arc<Check>) {
    for endpoint in endpoints {
        tasks.spawn(repeat(Arc::clone(endpoint), Arc::clone(ledger), Arc::clone(check)));
    }
}

async fn repeat(endpoint: Arc<Endpoint>, ledger: Arc<Ledger>, check: Arc<Check>) {
    loop {
        let outcome = timeout(check.timeout, ask(&endpoint, &check)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no response within {:?}", check.timeout)));
        ledger.checked(&endpoint, &outcome);
        sleep(jittered(check.interval, fastrand::f64())).await;
    }
}

async fn ask(endpoint: &Endpoint, check: &Check) -> Result<(), String> {
    let headers = HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static("holm-health"))]);
    let request = endpoint.check(check.target.clone(), headers).map_err(|fault| fault.detail)?;
    // On a connection of its own: one that was idle may close at any moment, which says nothing about the endpoint.
    let exchanged = endpoint.exchange(request, None, check.timeout, Connect::Own).await;
    let Exchanged { response, lease: _lease } = exchanged.map_err(|fault| fault.detail)?;
    let status = response.status();
    // The status is the result; if the body fails, only the connection is lost.
    let _ = Limited::new(response.into_body(), RESPONSE_BYTES_MAX).collect().await;
    if status.is_success() { Ok(()) } else { Err(format!("status {status}")) }
}

/// The interval, up to a tenth shorter or longer, so that the checks of many nodes don't march in step.
fn jittered(interval: Duration, random: f64) -> Duration {
    let factor = 0.9 + 0.2 * random;
    // A tenth more than the longest duration isn't a duration; nobody waits for either.
    let jittered = Duration::try_from_secs_f64(interval.as_secs_f64() * factor).unwrap_or(interval);
    jittered.max(INTERVAL_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        for (interval_ms, random, expected_ms) in [(1000, 0.0, 900), (1000, 0.5, 1000), (2000, 1.0, 2200), (1, 0.5, 10)]
        {
            let jittered = jittered(Duration::from_millis(interval_ms), random);
            assert_eq!((jittered.as_secs_f64() * 1000.0).round() as u64, expected_ms);
        }
        assert_eq!(jittered(Duration::MAX, 1.0), Duration::MAX);
    }
}
