//! Content codings between this node and a pool, where the configuration wants them and the sender of a request reads
//! what comes back: the sides may change them, because it is this node that asks (RFC 9110, section 8.4).

use std::time::Duration;

use http::HeaderValue;

use crate::{clock::Uptime, config, message::compression::Compression};

/// Bytes of the smallest body that is coded: a smaller one fits into a packet as it is.
pub(super) const REQUEST_BYTES_MIN: usize = 1 << 10;

/// How long an endpoint that refused a coded body is sent none: what a server reads changes when it is replaced, and
/// until then each further refusal costs a round trip.
const REFUSAL_TIME: Duration = Duration::from_secs(600);

/// What a pool's configuration says of codings.
#[derive(Clone, Debug)]
pub(super) struct Codings {
    /// That of requests.
    pub(super) request: Option<Compression>,
    /// What is accepted of responses, as `Accept-Encoding` says it. Without that field an endpoint could choose a coding
    /// that can't be read here.
    pub(super) accepted: HeaderValue,
}

impl Codings {
    pub(super) fn of(pool: &config::Pool) -> Self {
        let accepted = if pool.response_coding { "zstd, br, gzip" } else { "identity" };
        Self { request: pool.request_coding, accepted: HeaderValue::from_static(accepted) }
    }
}

/// Whether an endpoint takes coded bodies, by its last refusal. Pure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Willingness {
    refuses_until: Option<Uptime>,
}

impl Willingness {
    /// Whether it may be sent one.
    pub(super) fn takes_coded(self, now: Uptime) -> bool {
        self.refuses_until.is_none_or(|until| until <= now)
    }

    /// Takes note that it refused one with 415 (RFC 9110, section 15.5.16).
    pub(super) fn refused(&mut self, now: Uptime) {
        self.refuses_until = Some(now.plus(REFUSAL_TIME));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_refused_is_tried_again_after_a_while() {
        let mut willingness = Willingness::default();
        assert!(willingness.takes_coded(Uptime(0)));
        willingness.refused(Uptime(5));
        for (now, wanted) in [(5, false), (600_004, false), (600_005, true), (u64::MAX, true)] {
            assert_eq!(willingness.takes_coded(Uptime(now)), wanted, "{now}");
        }
        willingness.refused(Uptime(600_005));
        assert!(!willingness.takes_coded(Uptime(1_200_004)));
    }

    #[test]
    fn what_is_asked_for_is_what_is_read() {
        let mut pool = super::super::tests::config(&[]);
        assert_eq!(Codings::of(&pool).accepted, "identity");
        pool.response_coding = true;
        assert_eq!(Codings::of(&pool).accepted, "zstd, br, gzip");
    }
}
