//! How long a connection that nothing is sent on may be used again. Pure.
//!
//! An endpoint that closes idle connections says so at best (`Keep-Alive: timeout=5`). A request that is sent just as
//! one is closed fails without having been read, so connections are given up a little earlier than the endpoint does.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

/// The field's name. HTTP has no such field any more (RFC 9112, appendix C.2.2), and many servers send it.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How much earlier: what a request and the endpoint's clock may take. Of short times the half.
const MARGIN: Duration = Duration::from_secs(1);

/// Returns how long the endpoint says that it keeps an unused connection; `None` if it doesn't say, or not in whole
/// seconds.
pub(super) fn stated(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(KEEP_ALIVE).iter().filter_map(|line| line.to_str().ok());
    let seconds = lines.flat_map(|line| line.split([',', ';'])).filter_map(timeout);
    seconds.min().map(Duration::from_secs)
}

fn timeout(parameter: &str) -> Option<u64> {
    let (name, value) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().trim_matches('"').parse().ok()).flatten()
}

/// Returns how long an unused connection stays of use, if the endpoint keeps it for `stated`.
pub(super) fn of_use(stated: Duration) -> Duration {
    stated - MARGIN.min(stated / 2)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn how_long_an_endpoint_keeps_connections() {
        for (lines, wanted) in [
            (&[][..], None),
            (&["timeout=5"], Some(5)),
            (&["timeout=5, max=100"], Some(5)),
            (&["max=100,Timeout = 7"], Some(7)),
            (&["timeout=\"5\""], Some(5)),
            (&["timeout=9", "timeout=3"], Some(3)),
            (&["timeout=0"], Some(0)),
            (&["timeout=-1"], None),
            (&["timeout=1.5"], None),
            (&["timeout"], None),
            (&["max=3"], None),
        ] {
            let line = |line: &&'static str| (KEEP_ALIVE, HeaderValue::from_static(line));
            let headers: HeaderMap = lines.iter().map(line).collect();
            assert_eq!(stated(&headers), wanted.map(Duration::from_secs), "{lines:?}");
        }
    }

    #[test]
    fn a_connection_is_given_up_before_the_endpoint_does() {
        for (stated_ms, wanted_ms) in [(0, 0), (1_000, 500), (2_000, 1_000), (5_000, 4_000), (75_000, 74_000)] {
            let found = of_use(Duration::from_millis(stated_ms));
            assert_eq!(found, Duration::from_millis(wanted_ms), "{stated_ms} ms");
        }
    }
}
