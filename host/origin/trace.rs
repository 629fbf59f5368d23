//! The events that attempts log for a sampled request, at `debug`, in the request's span. For a request that isn't
//! sampled each of these is one comparison, and nothing is formatted.

use std::time::Instant;

use tracing::debug;

use crate::message::{RequestSpan, SPAN_TARGET as TARGET};

/// Logs that an attempt has its place at an endpoint, and how long it waited for that.
pub(super) fn sending(span: &RequestSpan, pool: &str, endpoint: &str, attempt: u32, begun: Option<Instant>) {
    let (Some(span), Some(begun)) = (span.get(), begun) else { return };
    let waited_us = micros(begun);
    debug!(target: TARGET, parent: span, pool, endpoint, attempt, waited_us, "sending");
}

/// Logs what an attempt brought, and how long that took from when it wanted a place: a status, or why there is none.
pub(super) fn attempted(
    span: &RequestSpan,
    endpoint: &str,
    outcome: Result<u16, (&str, &str)>,
    begun: Option<Instant>,
) {
    let (Some(span), Some(begun)) = (span.get(), begun) else { return };
    let took_us = micros(begun);
    match outcome {
        Ok(status) => debug!(target: TARGET, parent: span, endpoint, status, took_us, "responded"),
        Err((reason, detail)) => {
            debug!(target: TARGET, parent: span, endpoint, reason, detail, took_us, "attempt failed")
        }
    }
}

/// Logs at which endpoint the request is tried again.
pub(super) fn retried(span: &RequestSpan, endpoint: &str) {
    let Some(span) = span.get() else { return };
    debug!(target: TARGET, parent: span, endpoint, "trying again");
}

fn micros(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}
