//! Which requests have a span in the node's own log, and the first and the last event in it.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tracing::{Instrument, Level, Span, debug, debug_span, span_enabled};

use crate::{
    cache::{status::Forward, store::Tier},
    message::{Request, RequestHead, RequestSpan, SPAN_TARGET as TARGET},
    pipeline::{Pipeline, Reply, Trail},
    telemetry::{RequestTrace, Sampler},
};

/// Returns the span of a request; empty, and nothing done for it, unless the log's level needs it and the sampler picks
/// the request.
pub(super) fn span(sampler: Sampler, head: &RequestHead, trace: &RequestTrace) -> RequestSpan {
    if !span_enabled!(target: TARGET, Level::DEBUG) || !sampler.picks(trace) {
        return RequestSpan::none();
    }
    let id = trace.id.to_str().unwrap_or_default();
    let trace_id = trace.trace_id.map(|trace_id| format!("{:032x}", u128::from_be_bytes(trace_id)));
    let span = debug_span!(target: TARGET, "request", %id, trace_id = trace_id.as_deref());
    let (method, scheme, target) = (head.method.as_str(), head.scheme.as_str(), head.target.as_str());
    let (authority, version) = (head.authority(), head.client.version);
    debug!(target: TARGET, parent: &span, method, scheme, authority, target, ?version, "request received");
    RequestSpan::new(span)
}

/// Serves a sampled request, so that whatever is logged for it is within its span.
pub(super) async fn serve(pipeline: &Arc<Pipeline>, request: Request, span: &RequestSpan, within: &Span) -> Reply {
    let mut awaited = Awaited(Some(within));
    let reply = pipeline.serve(request, span.clone()).instrument(within.clone()).await;
    awaited.0 = None;
    reply
}

/// A response that a client waits for. Dropped before it is there, it logs that the client has left.
struct Awaited<'a>(Option<&'a Span>);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if let Some(span) = self.0 {
            debug!(target: TARGET, parent: span, "the client left before its response");
        }
    }
}

/// Logs the reply, when its last byte has been handed over or the client has left.
pub(super) fn replied(span: &RequestSpan, trail: &Trail, status: StatusCode, bytes: u64, took: Duration) {
    let Some(span) = span.get() else { return };
    let (status, lookup, tier) = (status.as_u16(), trail.lookup.as_str(), trail.tier.map(Tier::as_str));
    let (fwd, detail) = (trail.forward.map(Forward::as_str), trail.detail.as_deref());
    let (stored, collapsed) = (trail.stored, trail.collapsed);
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    debug!(
        target: TARGET, parent: span,
        status, bytes, lookup, tier, fwd, stored, collapsed, detail, took_us,
        "replied"
    );
}
