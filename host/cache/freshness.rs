//! How long an answer is good for (RFC 9111, section 4.2), as pure functions of heads and `now`.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap,
    header::{AGE, DATE, EXPIRES},
};
use serde::{Deserialize, Serialize};

use super::control::Directives;
use crate::{
    clock::{Timestamp, millis},
    config::Defaults,
};

/// An answer's lifetimes in milliseconds, counted from its creation at the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetimes {
    /// Fresh for this long.
    pub ttl_ms: u64,
    /// Served stale for this long after, while it's refreshed.
    pub grace_ms: u64,
    /// Served stale for this long after if the origin fails.
    pub stale_if_error_ms: u64,
    /// Kept for this long after, for revalidation only.
    pub keep_ms: u64,
}

impl Lifetimes {
    /// From when on the entry is of no use, in milliseconds of age.
    #[must_use]
    pub fn end_ms(&self) -> u64 {
        self.ttl_ms.saturating_add(self.grace_ms.max(self.stale_if_error_ms).max(self.keep_ms))
    }
}

/// What an entry is good for at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Good without asking, for this many more milliseconds.
    Fresh {
        /// Remaining lifetime.
        left_ms: u64,
    },
    /// Past its lifetime by so many milliseconds.
    Stale {
        /// How far past.
        over_ms: u64,
        /// May be served now, while it's refreshed.
        grace: bool,
        /// May be served if the origin fails.
        if_error: bool,
    },
    /// Of no use but to be replaced.
    Dead,
}

/// Judges lifetimes at an age.
#[must_use]
pub fn judge(lifetimes: &Lifetimes, age_ms: u64) -> Freshness {
    if age_ms < lifetimes.ttl_ms {
        return Freshness::Fresh { left_ms: lifetimes.ttl_ms - age_ms };
    }
    if age_ms >= lifetimes.end_ms() {
        return Freshness::Dead;
    }
    let over_ms = age_ms - lifetimes.ttl_ms;
    Freshness::Stale { over_ms, grace: over_ms < lifetimes.grace_ms, if_error: over_ms < lifetimes.stale_if_error_ms }
}

/// The lifetimes a response states, completed by the route's defaults; `None` if nothing makes it storable.
#[must_use]
pub fn lifetimes(
    directives: &Directives,
    headers: &HeaderMap,
    received: Timestamp,
    defaults: &Defaults,
) -> Option<Lifetimes> {
    let explicit = directives.s_maxage.or(directives.max_age).or_else(|| expires_in(headers, received));
    let validated = headers.contains_key(http::header::ETAG) || headers.contains_key(http::header::LAST_MODIFIED);
    let ttl = match (directives.no_cache, explicit.or(defaults.ttl)) {
        // Stored, but asked about each time: worth it only if the origin can answer 304.
        (true, _) | (false, None) if validated && (directives.no_cache || defaults.keep > Duration::ZERO) => {
            Duration::ZERO
        }
        (true, _) | (false, None) => return None,
        (false, Some(ttl)) => ttl,
    };
    let strict = directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_some();
    let unless_strict = |stated: Option<Duration>, default: Duration| {
        if strict || directives.no_cache { Duration::ZERO } else { stated.unwrap_or(default) }
    };
    // Without the default keep an entry with a validator would vanish the moment it could save a transfer.
    let keep = if validated { defaults.keep.max(ttl.min(KEEP_MAX)).max(KEEP_MIN) } else { Duration::ZERO };
    Some(Lifetimes {
        ttl_ms: millis(ttl),
        grace_ms: millis(unless_strict(directives.grace, defaults.grace)),
        stale_if_error_ms: millis(unless_strict(directives.stale_if_error, defaults.stale_if_error)),
        keep_ms: millis(keep),
    })
}

/// Entries with a validator are kept for revalidation as long again as they were fresh, between these bounds.
const KEEP_MIN: Duration = Duration::from_secs(60);
const KEEP_MAX: Duration = Duration::from_secs(86_400);

/// The age in milliseconds that a response had when it arrived (section 4.2.3, corrected initial age).
#[must_use]
pub fn initial_age_ms(headers: &HeaderMap, requested: Timestamp, received: Timestamp) -> u64 {
    let apparent = date(headers, DATE).map_or(Duration::ZERO, |date| received.since(date));
    let stated = headers
        .get(AGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split(',').next()?.trim().parse::<u64>().ok())
        .unwrap_or(0);
    let corrected = Duration::from_secs(stated.min(1 << 31)) + received.since(requested);
    // `Date` has whole seconds: less than one apparent second is rounding, not age.
    let apparent = if apparent < Duration::from_secs(1) { Duration::ZERO } else { apparent };
    millis(apparent.max(if stated == 0 { Duration::ZERO } else { corrected }))
}

/// Lifetime by `Expires` against `Date`; an invalid `Expires` is in the past (section 5.3).
fn expires_in(headers: &HeaderMap, received: Timestamp) -> Option<Duration> {
    headers.get(EXPIRES)?;
    let from = date(headers, DATE).unwrap_or(received);
    Some(date(headers, EXPIRES).map_or(Duration::ZERO, |until| until.since(from)))
}

/// A date field (RFC 9110, section 5.6.7).
pub(super) fn date(headers: &HeaderMap, name: http::HeaderName) -> Option<Timestamp> {
    let text = headers.get(name)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok().map(|time: SystemTime| Timestamp::from(time))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    // Sun, 06 Nov 1994 08:49:37 GMT
    const THEN: Timestamp = Timestamp(784_111_777_000);

    #[test]
    fn explicit_lifetimes_in_their_order() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let later = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        for (lines, ttl_ms) in [
            (&[("cache-control", "max-age=5, s-maxage=9")][..], Some(9_000)),
            (&[("cache-control", "max-age=5"), date, later], Some(5_000)),
            (&[date, later], Some(60_000)),
            (&[later], Some(60_000)),
            (&[("expires", "0")], Some(0)),
            (&[("cache-control", "public")], None),
            (&[("cache-control", "no-cache, max-age=9")], None),
            (&[("cache-control", "no-cache"), ("etag", "\"a\"")], Some(0)),
            (&[], None),
        ] {
            let map = headers(lines);
            let lifetimes = lifetimes(&Directives::read(&map), &map, THEN, &Defaults::default());
            assert_eq!(lifetimes.map(|it| it.ttl_ms), ttl_ms, "{lines:?}");
        }
    }

    #[test]
    fn defaults_fill_in_and_must_revalidate_forbids_stale() {
        let defaults = Defaults {
            ttl: Some(Duration::from_secs(1)),
            grace: Duration::from_secs(2),
            stale_if_error: Duration::from_secs(3),
            keep: Duration::ZERO,
        };
        let of = |control: &'static str| {
            let map = headers(&[("cache-control", control)]);
            lifetimes(&Directives::read(&map), &map, THEN, &defaults).unwrap()
        };
        assert_eq!(of("public"), Lifetimes { ttl_ms: 1000, grace_ms: 2000, stale_if_error_ms: 3000, keep_ms: 0 });
        assert_eq!(of("max-age=9, stale-while-revalidate=1").grace_ms, 1000);
        assert_eq!(of("max-age=9, must-revalidate").grace_ms, 0);
        assert_eq!(of("s-maxage=9, stale-if-error=9").stale_if_error_ms, 0);
    }

    #[test]
    fn the_stages_of_a_life() {
        let life = Lifetimes { ttl_ms: 10, grace_ms: 5, stale_if_error_ms: 20, keep_ms: 30 };
        let stale = |over_ms, grace, if_error| Freshness::Stale { over_ms, grace, if_error };
        for (age, wanted) in [
            (0, Freshness::Fresh { left_ms: 10 }),
            (9, Freshness::Fresh { left_ms: 1 }),
            (10, stale(0, true, true)),
            (15, stale(5, false, true)),
            (30, stale(20, false, false)),
            (40, Freshness::Dead),
        ] {
            assert_eq!(judge(&life, age), wanted, "age {age}");
        }
    }

    #[test]
    fn age_counts_what_passed_before_us() {
        let at = |seconds: u64| THEN.plus(Duration::from_secs(seconds));
        for (lines, requested, received, wanted) in [
            (&[("age", "7")][..], at(0), at(2), 9_000),
            (&[("date", "Sun, 06 Nov 1994 08:49:37 GMT")], at(3), at(3), 3_000),
            (&[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("age", "1")], at(3), at(3), 3_000),
            (&[], at(0), at(2), 0),
            (&[("age", "x")], at(0), at(0), 0),
        ] {
            assert_eq!(initial_age_ms(&headers(lines), requested, received), wanted, "{lines:?}");
        }
    }
}
