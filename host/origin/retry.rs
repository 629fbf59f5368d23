//! Whether another attempt may follow. Pure. Whether a request may be repeated although an endpoint may have acted on
//! it is decided by who sends it ([`super::Outbound::repeatable`]); here that is obeyed.
//!
//! A timeout of the response is never followed by another attempt: the client has waited as long as the operator
//! allows, a second try could double that, and the endpoint may still be at work on the first. Neither is a response
//! that isn't HTTP.
//!
//! An endpoint closes connections that were idle for too long, and a request may meet that moment. It says nothing about
//! the endpoint, and the first request on a new connection can't meet it: such an attempt is repeated there at once, and
//! isn't counted. Neither is one that an endpoint says it hasn't processed (HTTP/2: GOAWAY, REFUSED_STREAM).

use http::StatusCode;

use super::{failure::Reason, reaction::Reaction};

/// Attempts of a request that aren't counted, at most: an endpoint that processes nothing isn't asked for ever.
pub(super) const UNCOUNTED_MAX: u32 = 8;

/// What may follow an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sequel {
    /// Nothing: this is the outcome.
    End,
    /// An attempt at another endpoint, if there is one.
    Elsewhere,
    /// Another attempt at this endpoint, on a connection of its own.
    OnNewConnection,
}

/// What may follow an attempt that brought no response head. `body` says that the request body can be sent (again),
/// `lapsed` that the connection had carried a request before and closed before a byte of this response came, or that the
/// endpoint hasn't processed the request.
pub(super) fn after_fault(reason: &Reason, lapsed: bool, repeatable: bool, body: bool) -> Sequel {
    match reason {
        Reason::ConnectionClosed if body && lapsed => Sequel::OnNewConnection,
        // Nothing was processed, so there is nothing that could happen twice, whatever the method.
        reason if reason.is_unsent() && body => Sequel::Elsewhere,
        Reason::ConnectionReset if repeatable && body && lapsed => Sequel::OnNewConnection,
        Reason::ConnectionReset if repeatable && body => Sequel::Elsewhere,
        _ => Sequel::End,
    }
}

/// What may follow a response with this status.
pub(super) fn after_status(status: StatusCode, repeatable: bool, body: bool) -> Sequel {
    if Reaction::to(status).retries_endpoint && repeatable && body { Sequel::Elsewhere } else { Sequel::End }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::BodyError;

    #[test]
    fn which_faults_are_followed_by_another_attempt() {
        use Sequel::{Elsewhere, End, OnNewConnection};
        // reason, lapsed, repeatable, body can be sent (again), expected
        let cases = [
            (Reason::ConnectRefused, false, true, true, Elsewhere),
            (Reason::ConnectRefused, false, false, true, Elsewhere),
            (Reason::ConnectRefused, false, true, false, End),
            (Reason::ConnectTimeout, false, false, true, Elsewhere),
            (Reason::ConnectFailed, false, false, true, Elsewhere),
            (Reason::TlsFailed, false, false, true, Elsewhere),
            (Reason::ConnectionClosed, false, false, true, Elsewhere),
            (Reason::ConnectionClosed, true, false, true, OnNewConnection),
            (Reason::ConnectionClosed, true, true, false, End),
            (Reason::ConnectionReset, false, true, true, Elsewhere),
            (Reason::ConnectionReset, true, true, true, OnNewConnection),
            (Reason::ConnectionReset, true, true, false, End),
            (Reason::ConnectionReset, true, false, true, End),
            (Reason::ResponseTimeout, true, true, true, End),
            (Reason::InvalidResponse, true, true, true, End),
            (Reason::PoolFull, false, true, true, End),
            (Reason::WaitTimeout, false, true, true, End),
            (Reason::Unsendable, false, true, true, End),
            (Reason::RequestBody(BodyError::Stalled { idle_ms: 1 }), false, true, true, End),
        ];
        for (reason, lapsed, repeatable, body, expected) in cases {
            assert_eq!(
                after_fault(&reason, lapsed, repeatable, body),
                expected,
                "{reason:?}, lapsed {lapsed}, repeatable {repeatable}, body {body}"
            );
        }
    }

    #[test]
    fn which_statuses_are_followed_by_another_attempt() {
        for (status, repeatable, body, expected) in [
            (502, true, true, Sequel::Elsewhere),
            (503, true, true, Sequel::Elsewhere),
            (504, true, true, Sequel::Elsewhere),
            (503, false, true, Sequel::End),
            (503, true, false, Sequel::End),
            (500, true, true, Sequel::End),
            (501, true, true, Sequel::End),
            (200, true, true, Sequel::End),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(after_status(status, repeatable, body), expected, "{status}");
        }
    }
}
