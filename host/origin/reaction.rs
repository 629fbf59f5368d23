//! What a response's status leads to: three sets side by side, so that none is taken for another. Pure.

use http::StatusCode;

/// What may follow a response, by its status alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// The endpoint can't serve at present: its health suffers, and another one of its pool may be tried.
    pub retries_endpoint: bool,
    /// Another candidate may do better.
    pub tries_next_candidate: bool,
    /// A failure for which `stale-if-error` allows what is stored (RFC 5861, section 4).
    pub permits_stale_if_error: bool,
}

impl Reaction {
    /// The reaction to a status. Whether a request may be repeated at all is another matter.
    #[must_use]
    pub const fn to(status: StatusCode) -> Self {
        let (retries_endpoint, tries_next_candidate, permits_stale_if_error) = match status.as_u16() {
            429 => (false, true, false),
            500 => (false, true, true),
            502..=504 => (true, true, true),
            _ => (false, false, false),
        };
        Self { retries_endpoint, tries_next_candidate, permits_stale_if_error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_status_leads_to() {
        // status, another endpoint, the next candidate, stale
        for (status, retries, next, stale) in [
            (200, false, false, false),
            (404, false, false, false),
            (408, false, false, false),
            (429, false, true, false),
            (500, false, true, true),
            (501, false, false, false),
            (502, true, true, true),
            (503, true, true, true),
            (504, true, true, true),
            (505, false, false, false),
            (599, false, false, false),
        ] {
            let wanted =
                Reaction { retries_endpoint: retries, tries_next_candidate: next, permits_stale_if_error: stale };
            assert_eq!(Reaction::to(StatusCode::from_u16(status).unwrap()), wanted, "{status}");
        }
    }
}
