//! The span of a connection, for the log at `debug`. At other levels no span is made, no field is formatted, and tasks
//! are spawned as they are.

use std::net::SocketAddr;

use tracing::{Level, Span, debug, debug_span, field, span_enabled};

use crate::message::Scheme;

/// Returns the span of a connection that was accepted from `peer`, disabled unless the log's level needs it.
pub(super) fn connection(peer: SocketAddr, scheme: Scheme) -> Span {
    debug_span!("connection", %peer, tls = scheme == Scheme::Https, protocol = field::Empty)
}

/// Notes the protocol in the connection's span.
pub(super) fn protocol(name: &'static str) {
    if span_enabled!(Level::DEBUG) {
        Span::current().record("protocol", name);
        debug!("protocol detected");
    }
}

/// Returns the connection's span for a task that it spawns, disabled unless the log's level needs it.
pub(super) fn current() -> Span {
    if span_enabled!(Level::DEBUG) { Span::current() } else { Span::none() }
}
