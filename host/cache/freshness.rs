//! Freshness of a response (RFC 9111, section 4.2), as pure functions of heads and `now`.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap,
    header::{AGE, DATE, ETAG, EXPIRES, LAST_MODIFIED},
};
use serde::{Deserialize, Serialize};

use super::control::{Directives, SECONDS_MAX, delta_seconds};
use crate::{
    clock::{Timestamp, millis},
    config::Defaults,
    planted::{Plant, planted},
};

/// A response's lifetimes in milliseconds, counted from its creation at the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetimes {
    /// Fresh for this long.
    pub ttl_ms: u64,
    /// Served stale for this long after, while it's refreshed.
    pub grace_ms: u64,
    /// Served stale for this long after if the origin fails.
    pub stale_if_error_ms: u64,
    /// Served stale for this long after if the origin can't be reached (section 4.2.4).
    #[serde(default)]
    pub stale_if_unreachable_ms: u64,
    /// Stored for this long after, for revalidation only.
    pub keep_ms: u64,
}

/// The longest that any stage of a life may last: what delta-seconds mean at most, whoever states it and how.
const STAGE_MS_MAX: u64 = SECONDS_MAX * 1000;

impl Lifetimes {
    /// The same with no stage longer than 2^31 seconds, so that no sum of a few of them overflows anywhere.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self {
            ttl_ms: self.ttl_ms.min(STAGE_MS_MAX),
            grace_ms: self.grace_ms.min(STAGE_MS_MAX),
            stale_if_error_ms: self.stale_if_error_ms.min(STAGE_MS_MAX),
            stale_if_unreachable_ms: self.stale_if_unreachable_ms.min(STAGE_MS_MAX),
            keep_ms: self.keep_ms.min(STAGE_MS_MAX),
        }
    }

    /// From when on the entry is of no use, in milliseconds of age.
    #[must_use]
    pub fn end_ms(&self) -> u64 {
        self.use_ends_ms().max(self.ttl_ms.saturating_add(self.stale_if_unreachable_ms))
    }

    /// From when on the entry is of no use while its origin can be reached, in milliseconds of age. What is of no use
    /// then on arrival isn't stored.
    #[must_use]
    pub fn use_ends_ms(&self) -> u64 {
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
        /// May be served if the origin can't be reached.
        if_unreachable: bool,
    },
    /// Of no use but to be replaced.
    Dead,
}

/// Judges lifetimes at an age.
#[must_use]
pub fn judge(lifetimes: &Lifetimes, age_ms: u64) -> Freshness {
    if age_ms < lifetimes.ttl_ms || planted(Plant::FreshnessIgnored) {
        return Freshness::Fresh { left_ms: lifetimes.ttl_ms.saturating_sub(age_ms) };
    }
    if age_ms >= lifetimes.end_ms() {
        return Freshness::Dead;
    }
    let over_ms = age_ms - lifetimes.ttl_ms;
    Freshness::Stale {
        over_ms,
        grace: over_ms < lifetimes.grace_ms,
        if_error: over_ms < lifetimes.stale_if_error_ms,
        if_unreachable: over_ms < lifetimes.stale_if_unreachable_ms,
    }
}

/// The lifetimes a response states, completed by the route's defaults; `None` if nothing makes it storable.
#[must_use]
pub fn lifetimes(
    directives: &Directives,
    headers: &HeaderMap,
    received: Timestamp,
    defaults: &Defaults,
) -> Option<Lifetimes> {
    let expires = || if directives.targeted { None } else { expires_in(headers, received) };
    let explicit = directives.s_maxage.or(directives.max_age).or_else(expires);
    let guessed = || defaults.ttl.or_else(|| heuristic(headers, received, defaults.heuristic_max));
    let validated = headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED);
    let ttl = match (directives.no_cache, explicit.or_else(guessed)) {
        // Stored, but revalidated each time: worth it only if the origin can send 304.
        (true, _) | (false, None) if validated && (directives.no_cache || defaults.keep > Duration::ZERO) => {
            Duration::ZERO
        }
        (true, _) | (false, None) => return None,
        (false, Some(ttl)) => ttl,
    };
    let unless_strict = |stated: Option<Duration>, default: Duration| {
        if directives.forbids_stale() { Duration::ZERO } else { stated.unwrap_or(default) }
    };
    // What was never fresh is no better for its origin being out of reach.
    let unreachable = if ttl.is_zero() { Duration::ZERO } else { defaults.stale_if_unreachable };
    // Without the default keep an entry with a validator would vanish the moment it could save a transfer.
    let keep = if validated { defaults.keep.max(ttl.min(KEEP_MAX)).max(KEEP_MIN) } else { Duration::ZERO };
    let lifetimes = Lifetimes {
        ttl_ms: millis(ttl),
        grace_ms: millis(unless_strict(directives.grace, defaults.grace)),
        stale_if_error_ms: millis(unless_strict(directives.stale_if_error, defaults.stale_if_error)),
        stale_if_unreachable_ms: millis(unless_strict(None, unreachable)),
        keep_ms: millis(keep),
    };
    Some(lifetimes.bounded())
}

/// A tenth of the time since the last modification, at most `max` (section 4.2.2); `None` if that can't be told.
fn heuristic(headers: &HeaderMap, received: Timestamp, max: Duration) -> Option<Duration> {
    if max.is_zero() {
        return None;
    }
    let modified = date(headers, LAST_MODIFIED)?;
    let made = date(headers, DATE).unwrap_or(received);
    Some((made.since(modified) / 10).min(max))
}

/// Entries with a validator stay stored for revalidation as long again as they were fresh, between these bounds.
const KEEP_MIN: Duration = Duration::from_secs(60);
const KEEP_MAX: Duration = Duration::from_secs(86_400);

/// The age in milliseconds that a response had when it arrived (section 4.2.3, corrected initial age).
#[must_use]
pub fn initial_age_ms(headers: &HeaderMap, requested: Timestamp, received: Timestamp) -> u64 {
    let apparent = date(headers, DATE).map_or(Duration::ZERO, |date| received.since(date));
    // The time in which the response was on its way counts as age, whether or not anybody stated one: it may have been
    // made right after it was asked for.
    let corrected = stated_age(headers).saturating_add(received.since(requested));
    // `Date` has whole seconds: less than one apparent second is rounding, not age.
    let apparent = if apparent < Duration::from_secs(1) { Duration::ZERO } else { apparent };
    millis(apparent.max(corrected))
}

/// What `Age` says: the first value of a list, and nothing if that isn't delta-seconds (section 5.1).
fn stated_age(headers: &HeaderMap) -> Duration {
    let first = headers.get(AGE).and_then(|value| value.as_bytes().split(|byte| *byte == b',').next());
    Duration::from_secs(first.and_then(|text| delta_seconds(text.trim_ascii())).unwrap_or(0))
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
    use proptest::prelude::*;

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
    fn a_lifetime_is_guessed_from_the_last_modification() {
        let modified = ("last-modified", "Sun, 06 Nov 1994 08:49:27 GMT");
        for (lines, max, ttl_ms) in [
            (&[modified][..], 3_600, Some(1_000)),
            (&[modified, ("date", "Sun, 06 Nov 1994 08:49:57 GMT")], 3_600, Some(3_000)),
            (&[modified, ("date", "Sun, 06 Nov 1994 08:49:57 GMT")], 2, Some(2_000)),
            (&[modified, ("cache-control", "max-age=9")], 3_600, Some(9_000)),
            (&[modified, ("cache-control", "no-cache")], 3_600, Some(0)),
            // Modified after it was made.
            (&[modified, ("date", "Sun, 06 Nov 1994 08:49:07 GMT")], 3_600, Some(0)),
            (&[("last-modified", "lately")], 3_600, None),
            (&[modified], 0, None),
        ] {
            let map = headers(lines);
            let defaults = Defaults { heuristic_max: Duration::from_secs(max), ..Defaults::default() };
            let lifetimes = lifetimes(&Directives::read(&map), &map, THEN, &defaults);
            assert_eq!(lifetimes.map(|it| it.ttl_ms), ttl_ms, "{lines:?}");
        }
    }

    #[test]
    fn defaults_fill_in_and_must_revalidate_forbids_stale() {
        let defaults = Defaults {
            ttl: Some(Duration::from_secs(1)),
            grace: Duration::from_secs(2),
            stale_if_error: Duration::from_secs(3),
            ..Defaults::default()
        };
        let of = |control: &'static str| {
            let map = headers(&[("cache-control", control)]);
            lifetimes(&Directives::read(&map), &map, THEN, &defaults).unwrap()
        };
        let stale_if_unreachable_ms = 3_600_000;
        let by_default = Lifetimes { ttl_ms: 1000, grace_ms: 2000, stale_if_error_ms: 3000, ..Lifetimes::default() };
        assert_eq!(of("public"), Lifetimes { stale_if_unreachable_ms, ..by_default });
        assert_eq!(of("max-age=9, stale-while-revalidate=1").grace_ms, 1000);
        assert_eq!(of("max-age=9, must-revalidate").grace_ms, 0);
        assert_eq!(of("s-maxage=9, stale-if-error=9").stale_if_error_ms, 0);
        for (control, wanted) in [
            ("max-age=9", stale_if_unreachable_ms),
            ("max-age=9, stale-if-error=1", stale_if_unreachable_ms),
            ("max-age=9, must-revalidate", 0),
            ("max-age=9, proxy-revalidate", 0),
            ("s-maxage=9", 0),
            ("max-age=0", 0),
        ] {
            assert_eq!(of(control).stale_if_unreachable_ms, wanted, "{control}");
        }
    }

    #[test]
    fn the_stages_of_a_life() {
        let life =
            Lifetimes { ttl_ms: 10, grace_ms: 5, stale_if_error_ms: 20, stale_if_unreachable_ms: 25, keep_ms: 30 };
        let stale = |over_ms, grace, if_error| {
            let if_unreachable = over_ms < 25;
            Freshness::Stale { over_ms, grace, if_error, if_unreachable }
        };
        for (age, wanted) in [
            (0, Freshness::Fresh { left_ms: 10 }),
            (9, Freshness::Fresh { left_ms: 1 }),
            (10, stale(0, true, true)),
            (15, stale(5, false, true)),
            (30, stale(20, false, false)),
            (35, stale(25, false, false)),
            (40, Freshness::Dead),
        ] {
            assert_eq!(judge(&life, age), wanted, "age {age}");
        }
        let longer = Lifetimes { stale_if_unreachable_ms: 50, ..life };
        assert_eq!((longer.use_ends_ms(), longer.end_ms()), (40, 60));
        let wanted = Freshness::Stale { over_ms: 49, grace: false, if_error: false, if_unreachable: true };
        assert_eq!((judge(&longer, 59), judge(&longer, 60)), (wanted, Freshness::Dead));
    }

    #[test]
    fn age_counts_what_passed_before_us() {
        let at = |seconds: u64| THEN.plus(Duration::from_secs(seconds));
        for (lines, requested, received, wanted) in [
            (&[("age", "7")][..], at(0), at(2), 9_000),
            (&[("date", "Sun, 06 Nov 1994 08:49:37 GMT")], at(3), at(3), 3_000),
            (&[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("age", "1")], at(3), at(3), 3_000),
            // The response delay, without an `Age` and with one that says nothing.
            (&[], at(0), at(2), 2_000),
            (&[("age", "0")], at(0), at(2), 2_000),
            (&[("age", "x")], at(0), at(2), 2_000),
            (&[("age", "-7")], at(0), at(0), 0),
            (&[("age", "1.5")], at(0), at(0), 0),
            (&[("age", "")], at(0), at(0), 0),
            (&[("age", "10, 99")], at(0), at(0), 10_000),
            (&[("age", " 7 ")], at(0), at(0), 7_000),
            // More than can be counted is 2^31 seconds, not nothing.
            (&[("age", "2147483649")], at(0), at(0), 2_147_483_648_000),
            (&[("age", "99999999999999999999")], at(0), at(1), 2_147_483_649_000),
            // Made, by its own clock, after it arrived; asked for, by ours, after that.
            (&[("date", "Sat, 06 Nov 2094 08:49:37 GMT")], at(0), at(1), 1_000),
            (&[("age", "7")], at(3_600), at(0), 7_000),
            // The larger of the two ages.
            (&[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("age", "1")], at(10), at(12), 12_000),
            (&[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("age", "30")], at(10), at(12), 32_000),
        ] {
            assert_eq!(initial_age_ms(&headers(lines), requested, received), wanted, "{lines:?}");
        }
    }

    #[test]
    fn no_life_is_longer_than_delta_seconds_can_say() {
        const MOST: u64 = (1 << 31) * 1000;
        const YEARS: &str = "Fri, 31 Dec 9999 23:59:59 GMT";
        for (lines, wanted) in [
            (&[("cache-control", "max-age=99999999999999999999999")][..], MOST),
            (&[("cache-control", "s-maxage=2147483648")], MOST),
            (&[("expires", YEARS)], MOST),
            (&[("expires", YEARS), ("cache-control", "max-age=60")], 60_000),
        ] {
            let map = headers(lines);
            let lifetimes = lifetimes(&Directives::read(&map), &map, THEN, &Defaults::default()).unwrap();
            assert_eq!(lifetimes.ttl_ms, wanted, "{lines:?}");
        }
        let life = |stale_if_unreachable_ms| Lifetimes { stale_if_unreachable_ms, keep_ms: 5, ..Lifetimes::default() };
        let longest = Lifetimes { ttl_ms: u64::MAX, grace_ms: MOST + 1, stale_if_error_ms: MOST, ..life(u64::MAX) };
        let bounded = Lifetimes { ttl_ms: MOST, grace_ms: MOST, stale_if_error_ms: MOST, ..life(MOST) };
        assert_eq!(longest.bounded(), bounded);
        assert_eq!(bounded.bounded(), bounded);
    }

    proptest! {
        /// Whatever an origin writes, and whatever the clock did meanwhile.
        #[test]
        fn ages_and_lives_of_any_length_are_counted(
            age in "[0-9]{0,40}",
            life in "[0-9]{1,40}",
            requested in any::<u64>(),
            received in any::<u64>(),
            later in any::<u64>(),
        ) {
            let mut map = HeaderMap::new();
            map.insert(AGE, HeaderValue::try_from(age.as_str()).unwrap());
            let control = format!("max-age={life}, stale-while-revalidate={life}, stale-if-error={life}");
            map.insert(http::header::CACHE_CONTROL, HeaderValue::try_from(control).unwrap());
            let seconds = |digits: &str| digits.parse::<u64>().map_or(1 << 31, |number| number.min(1 << 31));
            let stated = if age.is_empty() { 0 } else { seconds(&age) * 1000 };

            let initial = initial_age_ms(&map, Timestamp(requested), Timestamp(received));
            let delay = received.saturating_sub(requested);
            prop_assert_eq!(initial, stated.saturating_add(delay));

            let lifetimes = lifetimes(&Directives::read(&map), &map, Timestamp(received), &Defaults::default()).unwrap();
            prop_assert_eq!(lifetimes.ttl_ms, seconds(&life) * 1000);
            match judge(&lifetimes, initial.saturating_add(later)) {
                Freshness::Fresh { left_ms } => {
                    prop_assert!(left_ms > 0 && left_ms <= lifetimes.ttl_ms);
                }
                Freshness::Stale { over_ms, grace, if_error, if_unreachable } => {
                    prop_assert_eq!((grace, if_error), (over_ms < lifetimes.grace_ms, over_ms < lifetimes.grace_ms));
                    prop_assert!(grace || if_unreachable);
                }
                Freshness::Dead => {
                    prop_assert!(initial.saturating_add(later) >= lifetimes.end_ms());
                }
            }
        }
    }
}
