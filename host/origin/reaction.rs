//! What a response's status leads to: four sets side by side, so that none is taken for another. Pure.

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
    /// A single item of the request may have brought it about, so that the others of its batch are sent again without
    /// it. A status that speaks of the server (unavailable, overloaded) or of the whole request (its credentials, its
    /// target) says nothing about an item.
    pub may_blame_item: bool,
}

impl Reaction {
    /// The reaction to a status. Whether a request may be repeated at all is another matter.
    #[must_use]
    pub const fn to(status: StatusCode) -> Self {
        let (retries_endpoint, tries_next_candidate, permits_stale_if_error, may_blame_item) = match status.as_u16() {
            // 507: out of memory for so many, or for one that is too long.
            400 | 413 | 422 | 507 => (false, false, false, true),
            429 => (false, true, false, false),
            500 => (false, true, true, true),
            502..=504 => (true, true, true, false),
            _ => (false, false, false, false),
        };
        Self { retries_endpoint, tries_next_candidate, permits_stale_if_error, may_blame_item }
    }

    /// Whether a status says that there are too many requests: fewer at once may be of use.
    #[must_use]
    pub const fn is_overload(status: StatusCode) -> bool {
        matches!(status.as_u16(), 429 | 503)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_status_leads_to() {
        // status, another endpoint, the next candidate, stale, an item's fault perhaps
        for (status, retries, next, stale, item) in [
            (200, false, false, false, false),
            (400, false, false, false, true),
            (401, false, false, false, false),
            (403, false, false, false, false),
            (404, false, false, false, false),
            (408, false, false, false, false),
            (413, false, false, false, true),
            (415, false, false, false, false),
            (422, false, false, false, true),
            (429, false, true, false, false),
            (500, false, true, true, true),
            (501, false, false, false, false),
            (502, true, true, true, false),
            (503, true, true, true, false),
            (504, true, true, true, false),
            (505, false, false, false, false),
            (507, false, false, false, true),
            (599, false, false, false, false),
        ] {
            let wanted = Reaction {
                retries_endpoint: retries,
                tries_next_candidate: next,
                permits_stale_if_error: stale,
                may_blame_item: item,
            };
            assert_eq!(Reaction::to(StatusCode::from_u16(status).unwrap()), wanted, "{status}");
        }
    }
}
