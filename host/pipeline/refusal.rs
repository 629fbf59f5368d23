//! Requests that must not be sent on, whatever is stored for them. Pure: the same rules refuse a request and explain to
//! an operator that it would be.

use http::StatusCode;

use super::{
    calls,
    loops::Loops,
    plan::{Plan, Why},
    rewriting::{self, Unwritable},
    route::Route,
};
use crate::message::RequestHead;

/// Why a request must not be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unforwardable {
    /// It came in early data, which somebody may send again (RFC 8470).
    Early,
    /// Its path can't be rewritten.
    Path(Unwritable),
    /// Its body is larger than its route takes.
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// This node has sent it on before, and it would go round until something gives way (RFC 8586).
    Loop,
    /// It is a call of gRPC that its route can't serve: the status, the reason in a word, and what its client is told.
    Call(StatusCode, &'static str, &'static str),
    /// It switches to another protocol, which its route doesn't allow.
    Switch,
    /// Its body is to be sent on as it comes, and has to be read as a whole (RFC 10036).
    Incremental,
}

/// Returns why a request must not be sent on, if so. `length` is that of its body in bytes, as far as it is known.
pub(super) fn unforwardable(
    route: &Route,
    loops: &Loops,
    head: &RequestHead,
    length: u64,
    plan: Plan,
) -> Option<Unforwardable> {
    if head.is_early() {
        return Some(Unforwardable::Early);
    }
    if let Some(fault) = route.config.rewrite.as_ref().and_then(|rewrite| rewriting::fault(rewrite, head)) {
        return Some(Unforwardable::Path(fault));
    }
    if let Some(limit) = body_limit(route, plan).filter(|limit| length > *limit) {
        return Some(Unforwardable::TooLarge { limit });
    }
    if loops.has_sent(&head.headers) {
        return Some(Unforwardable::Loop);
    }
    if let Some((status, word, detail)) = calls::refusal(route, head) {
        return Some(Unforwardable::Call(status, word, detail));
    }
    match plan {
        Plan::Bypass(Why::Switch) if !route.config.websocket => Some(Unforwardable::Switch),
        Plan::Bypass(Why::Incremental) if route.infers() => Some(Unforwardable::Incremental),
        _ => None,
    }
}

/// Returns how large a request's body may be by its route's word. What is sent after a switch of protocols is none.
pub(super) fn body_limit(route: &Route, plan: Plan) -> Option<u64> {
    route.config.body_bytes_max.filter(|_| plan != Plan::Bypass(Why::Switch))
}
