//! What a stored response may be used for, for one request, now. Pure.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, header::AUTHORIZATION};

use super::{control::Directives, entry::Object, freshness::Freshness, purge::Standing};
use crate::{
    clock::{Timestamp, millis},
    planted::{Plant, planted},
};

/// The demands of a request on a cache, read once.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// Its directives.
    pub directives: Directives,
    /// It carries `Authorization`.
    pub authorized: bool,
}

impl Demand {
    /// Reads a request's headers.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        Self { directives: Directives::of_request(headers), authorized: headers.contains_key(AUTHORIZATION) }
    }

    /// Forgets that it wants something newer than what is stored.
    pub const fn ignore_reload(&mut self) {
        self.directives.no_cache = false;
        self.directives.max_age = None;
        self.directives.min_fresh = None;
    }
}

/// What a stored response may be used for.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Serve it.
    Hit(Arc<Object>),
    /// Serve it, and fetch anew in the background.
    Grace(Arc<Object>),
    /// Ask the origin first. What is stored may be renewed by a 304, and served if the origin fails and `if_error`, or
    /// can't be reached and `if_unreachable`.
    Stale {
        /// What is stored.
        object: Arc<Object>,
        /// May be served if the origin fails.
        if_error: bool,
        /// May be served if the origin can't be reached (RFC 9111, section 4.2.4).
        if_unreachable: bool,
        /// The request itself demands the origin's response.
        by_request: bool,
    },
    /// Nothing that may be used.
    Miss,
}

/// Judges `object` for a request at `now`, where clocks that differ by `skew` agree.
#[must_use]
pub fn judge(object: Arc<Object>, standing: Standing, demand: &Demand, now: Timestamp, skew: Duration) -> Outcome {
    if standing == Standing::Gone || (demand.authorized && !object.head.for_authorized) {
        return Outcome::Miss;
    }
    let directives = &demand.directives;
    let stale = |object, if_error, by_request| Outcome::Stale { object, if_error, if_unreachable: false, by_request };
    if standing == Standing::Doubtful {
        return stale(object, false, false);
    }
    // How old it really is, nobody knows: it is of use only if the origin says so, whatever its lifetimes allow.
    if object.head.is_from_future(now, skew) {
        return stale(object, false, false);
    }
    match by_standing(object.head.freshness(now), standing, &object) {
        Freshness::Dead => Outcome::Miss,
        Freshness::Fresh { .. } if directives.no_cache && !planted(Plant::ReloadIgnored) => stale(object, false, true),
        Freshness::Fresh { left_ms } if !fresh_enough(&object, left_ms, directives, now) => stale(object, true, true),
        Freshness::Fresh { .. } => Outcome::Hit(object),
        Freshness::Stale { over_ms, .. } if accepts_stale(&object, over_ms, standing, directives) => {
            Outcome::Hit(object)
        }
        Freshness::Stale { grace: true, .. } if !directives.no_cache && directives.max_age.is_none() => {
            Outcome::Grace(object)
        }
        Freshness::Stale { if_error, if_unreachable, .. } => {
            let by_request = directives.no_cache;
            let (if_error, if_unreachable) = (if_error && !by_request, if_unreachable && !by_request);
            Outcome::Stale { object, if_error, if_unreachable, by_request }
        }
    }
}

/// Why a stored response may be used for a request in the way that [`judge`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It is within its lifetime, and the request accepts it.
    Fresh,
    /// It is stale, and the request accepts that (`max-stale`).
    AcceptedStale,
    /// It is stale, and may be served while it is refreshed.
    Grace,
    /// It is stale.
    Stale,
    /// It is stale, and past any use.
    Over,
    /// The request has `no-cache`.
    NoCache,
    /// The request has a `max-age` or `min-fresh` that it doesn't meet.
    TooOld,
    /// The request has `Authorization`, and the response doesn't say that it may be shared.
    Credentials,
    /// It was purged.
    Purged,
    /// It was softly purged.
    PurgedSoftly,
    /// This node hasn't read its region's purge log, or the world's, for longer than its fence.
    Unconfirmed,
    /// Whether it was purged can't be known.
    Doubtful,
    /// It was stored by a clock that is ahead of this node's.
    FromFuture,
}

impl Because {
    /// Returns the reason as a sentence.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Fresh => "it is within its lifetime",
            Self::AcceptedStale => "it is stale, and the request's max-stale accepts that",
            Self::Grace => "it is stale, within its grace: it is served while it is refreshed",
            Self::Stale => "it is stale",
            Self::Over => "its lifetime and all that follows are over",
            Self::NoCache => "the request has no-cache, so that the origin is asked first",
            Self::TooOld => {
                "it is fresh, but not as young or for as long as the request's max-age or min-fresh demands"
            }
            Self::Credentials => {
                "the request has Authorization, and the response doesn't say that it may be shared then \
                 (public, s-maxage or must-revalidate)"
            }
            Self::Purged => "it was purged after its fetch began",
            Self::PurgedSoftly => "it was softly purged after its fetch began: it counts as stale",
            Self::Unconfirmed => {
                "this node hasn't read its region's purge log within cache.purge.fence_ms, or the world's within \
                 global.purge.fence_ms: the origin confirms it first"
            }
            Self::Doubtful => {
                "whether it was purged can't be known (another log, a row or pattern that the table has no room for \
                 any more, or a pattern that may match a URL which it is for): the origin confirms it first"
            }
            Self::FromFuture => {
                "it was stored by a clock that is ahead of this node's by more than cache.clock_skew_ms: its age isn't known"
            }
        }
    }

    /// Returns the section that says so; `None` if the rule is this node's own.
    #[must_use]
    pub const fn section(self) -> Option<&'static str> {
        match self {
            Self::Fresh => Some("RFC 9111, section 4.2"),
            Self::AcceptedStale => Some("RFC 9111, section 5.2.1.2"),
            Self::Grace => Some("RFC 5861, section 3"),
            Self::Stale | Self::Over => Some("RFC 9111, section 4.2.4"),
            Self::NoCache => Some("RFC 9111, section 5.2.1.4"),
            Self::TooOld => Some("RFC 9111, sections 5.2.1.1 and 5.2.1.3"),
            Self::Credentials => Some("RFC 9111, section 3.5"),
            Self::FromFuture => Some("RFC 9111, section 4.2.3"),
            Self::Purged | Self::PurgedSoftly | Self::Unconfirmed | Self::Doubtful => None,
        }
    }
}

/// Returns why [`judge`] decides as it does.
#[must_use]
pub fn because(object: &Object, standing: Standing, demand: &Demand, now: Timestamp, skew: Duration) -> Because {
    let (head, directives) = (&object.head, &demand.directives);
    if standing == Standing::Gone {
        return Because::Purged;
    }
    if demand.authorized && !head.for_authorized {
        return Because::Credentials;
    }
    if standing == Standing::Doubtful {
        return Because::Doubtful;
    }
    if head.is_from_future(now, skew) {
        return Because::FromFuture;
    }
    match by_standing(head.freshness(now), standing, object) {
        Freshness::Dead => Because::Over,
        Freshness::Fresh { .. } if directives.no_cache => Because::NoCache,
        Freshness::Fresh { left_ms } if !fresh_enough(object, left_ms, directives, now) => Because::TooOld,
        Freshness::Fresh { .. } => Because::Fresh,
        Freshness::Stale { over_ms, .. } if accepts_stale(object, over_ms, standing, directives) => {
            Because::AcceptedStale
        }
        Freshness::Stale { grace: true, .. } if !directives.no_cache && directives.max_age.is_none() => Because::Grace,
        Freshness::Stale { .. } => match standing {
            Standing::Unconfirmed => Because::Unconfirmed,
            Standing::Stale => Because::PurgedSoftly,
            Standing::Good | Standing::Doubtful | Standing::Gone => Because::Stale,
        },
    }
}

/// A soft purge makes a fresh entry stale from now on: grace and the rest are counted from the end of its life. One that is
/// to be confirmed is stale as well, but not to be served while it is refreshed: it may have been purged.
fn by_standing(freshness: Freshness, standing: Standing, object: &Object) -> Freshness {
    let lifetimes = &object.head.lifetimes;
    match (standing, freshness) {
        (Standing::Stale | Standing::Unconfirmed, Freshness::Fresh { .. }) => Freshness::Stale {
            over_ms: 0,
            grace: standing == Standing::Stale && lifetimes.grace_ms > 0,
            if_error: lifetimes.stale_if_error_ms > 0,
            if_unreachable: false,
        },
        // A soft purge says that it has changed: an origin out of reach is no reason to serve it.
        (Standing::Stale | Standing::Unconfirmed, Freshness::Stale { over_ms, grace, if_error, .. }) => {
            let grace = grace && standing == Standing::Stale;
            Freshness::Stale { over_ms, grace, if_error, if_unreachable: false }
        }
        (_, freshness) => freshness,
    }
}

/// `max-age` and `min-fresh` of a request (RFC 9111, section 5.2.1).
fn fresh_enough(object: &Object, left_ms: u64, directives: &Directives, now: Timestamp) -> bool {
    let young = directives.max_age.is_none_or(|age| object.head.age_ms(now) <= millis(age));
    young && directives.min_fresh.is_none_or(|fresh| left_ms >= millis(fresh))
}

/// `max-stale` of a request, unless the response forbids stale reuse.
fn accepts_stale(object: &Object, over_ms: u64, standing: Standing, directives: &Directives) -> bool {
    let Some(accepted) = directives.max_stale else { return false };
    standing == Standing::Good && !object.head.forbids_stale && !directives.no_cache && over_ms <= millis(accepted)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::cache::{
        codec::tests::head,
        freshness::Lifetimes,
        purge::table::{Incarnation, Kind, Mark, Position, Reach, Record, Room, Table},
        tag::Tag,
    };

    /// Stored at 1,000,000 with age 2.5 s, fresh for 60 s, grace and stale-if-error as given.
    fn judged(standing: Standing, demand: &Demand, at_ms: u64) -> &'static str {
        let mut head = head(0);
        head.lifetimes.grace_ms = 10_000;
        head.lifetimes.stale_if_error_ms = 20_000;
        head.lifetimes.keep_ms = 30_000;
        described(judge(Object::new(head, Bytes::new()), standing, demand, Timestamp(1_000_000 - 2_500 + at_ms), SKEW))
    }

    const SKEW: Duration = Duration::from_secs(2);

    fn described(outcome: Outcome) -> &'static str {
        match outcome {
            Outcome::Hit(_) => "hit",
            Outcome::Grace(_) => "grace",
            Outcome::Stale { if_error: true, by_request: false, .. } => "stale",
            Outcome::Stale { if_unreachable: true, by_request: false, .. } => "unreachable",
            Outcome::Stale { if_error: false, by_request: false, .. } => "doubtful",
            Outcome::Stale { if_error: true, by_request: true, .. } => "asked",
            Outcome::Stale { if_error: false, by_request: true, .. } => "forced",
            Outcome::Miss => "miss",
        }
    }

    #[test]
    fn no_setting_of_the_clock_brings_back_what_was_purged() {
        const NOON: u64 = 43_200_000;
        const HOUR: u64 = 3_600_000;
        let (tag, log) = (Tag::named(b"news"), Incarnation(7));
        for kind in [Kind::Hard, Kind::Soft] {
            let mut table = Table::new(log, Room::rows(10));
            table.apply(&Record { position: Position(5), tag, kind, reach: Reach::Entries });
            let judged = |position, stored_at, now| {
                let mut head = head(0);
                head.stored_at = Timestamp(stored_at);
                let mark = Mark { log, position: Position(position), ..Mark::default() };
                let object = Object::new(head, Bytes::new());
                described(judge(object, table.check([tag], &mark), &Demand::default(), Timestamp(now), SKEW))
            };
            // What the clock said when it was stored, and what it says now, less than a minute later.
            for (stored_at, now) in [(0, 0), (0, HOUR), (HOUR, 0), (HOUR, HOUR), (0, 2 * HOUR), (2 * HOUR, 0)] {
                let (stored_at, now) = (NOON - HOUR + stored_at, NOON - HOUR + now);
                let what = format!("{kind:?}, stored at {stored_at}, asked at {now}");
                // Its fetch began before the purge.
                let outcome = judged(4, stored_at, now);
                assert!(if kind == Kind::Hard { outcome == "miss" } else { outcome != "hit" }, "{what}: {outcome}");
                // Its fetch began after it.
                if stored_at == now {
                    assert_eq!(judged(5, stored_at, now), "hit", "{what}");
                }
            }
        }
    }

    #[test]
    fn outcomes_in_a_table() {
        let plain = Demand::default();
        let with = |directives| Demand { directives, authorized: false };
        let no_cache = with(Directives { no_cache: true, ..Directives::default() });
        let young = with(Directives { max_age: Some(Duration::from_secs(10)), ..Directives::default() });
        let lasting = with(Directives { min_fresh: Some(Duration::from_secs(30)), ..Directives::default() });
        let lenient = with(Directives { max_stale: Some(Duration::from_secs(15)), ..Directives::default() });
        for (standing, demand, at_ms, wanted) in [
            (Standing::Good, &plain, 59_999, "hit"),
            (Standing::Good, &plain, 60_000, "grace"),
            (Standing::Good, &plain, 75_000, "stale"),
            (Standing::Good, &plain, 85_000, "doubtful"),
            (Standing::Good, &plain, 90_000, "miss"),
            (Standing::Stale, &plain, 10_000, "grace"),
            (Standing::Unconfirmed, &plain, 10_000, "stale"),
            (Standing::Unconfirmed, &plain, 65_000, "stale"),
            (Standing::Unconfirmed, &lenient, 75_000, "stale"),
            (Standing::Unconfirmed, &no_cache, 10_000, "forced"),
            (Standing::Doubtful, &plain, 10_000, "doubtful"),
            (Standing::Gone, &plain, 10_000, "miss"),
            (Standing::Good, &no_cache, 10_000, "forced"),
            (Standing::Good, &no_cache, 65_000, "forced"),
            (Standing::Good, &young, 10_000, "hit"),
            (Standing::Good, &young, 10_001, "asked"),
            (Standing::Good, &lasting, 30_000, "hit"),
            (Standing::Good, &lasting, 30_001, "asked"),
            (Standing::Good, &lenient, 75_000, "hit"),
            (Standing::Good, &lenient, 75_001, "stale"),
            (Standing::Stale, &lenient, 10_000, "grace"),
        ] {
            assert_eq!(judged(standing, demand, at_ms), wanted, "{standing:?} {demand:?} at {at_ms}");
        }
    }

    #[test]
    fn what_is_served_while_the_origin_is_out_of_reach() {
        let with = |directives| Demand { directives, authorized: false };
        let plain = Demand::default();
        let no_cache = with(Directives { no_cache: true, ..Directives::default() });
        let lenient = with(Directives { max_stale: Some(Duration::MAX), ..Directives::default() });
        let reload = with(Directives { max_age: Some(Duration::ZERO), ..Directives::default() });
        let lasting = with(Directives { min_fresh: Some(Duration::from_secs(1)), ..Directives::default() });
        for (standing, demand, at_ms, forbids_stale, wanted) in [
            (Standing::Good, &plain, 59_999, false, "hit"),
            (Standing::Good, &plain, 60_000, false, "unreachable"),
            (Standing::Good, &plain, 99_999, false, "unreachable"),
            (Standing::Good, &plain, 100_000, false, "miss"),
            (Standing::Good, &no_cache, 60_000, false, "forced"),
            // A reload asks for the origin, and has something to show if that is out of reach.
            (Standing::Good, &reload, 0, false, "hit"),
            (Standing::Good, &reload, 1, false, "asked"),
            (Standing::Good, &reload, 60_000, false, "unreachable"),
            (Standing::Good, &lasting, 60_000, false, "unreachable"),
            (Standing::Stale, &reload, 60_000, false, "doubtful"),
            (Standing::Stale, &plain, 10_000, false, "doubtful"),
            (Standing::Stale, &plain, 60_000, false, "doubtful"),
            (Standing::Unconfirmed, &plain, 60_000, false, "doubtful"),
            (Standing::Doubtful, &plain, 60_000, false, "doubtful"),
            (Standing::Gone, &plain, 60_000, false, "miss"),
            (Standing::Good, &lenient, 60_000, false, "hit"),
            (Standing::Good, &lenient, 60_000, true, "unreachable"),
        ] {
            let mut head = head(0);
            head.lifetimes = Lifetimes { ttl_ms: 60_000, stale_if_unreachable_ms: 40_000, ..Lifetimes::default() };
            (head.initial_age_ms, head.forbids_stale) = (0, forbids_stale);
            let now = Timestamp(1_000_000 + at_ms);
            let outcome = described(judge(Object::new(head, Bytes::new()), standing, demand, now, SKEW));
            assert_eq!(outcome, wanted, "{standing:?} {demand:?} at {at_ms}");
        }
    }

    #[test]
    fn an_authorized_request_needs_a_response_that_permits_it() {
        let authorized = Demand { authorized: true, ..Demand::default() };
        assert_eq!(judged(Standing::Good, &authorized, 10_000), "hit");
        let mut head = head(0);
        head.for_authorized = false;
        let outcome = judge(Object::new(head, Bytes::new()), Standing::Good, &authorized, Timestamp(1_000_000), SKEW);
        assert!(matches!(outcome, Outcome::Miss));
    }

    #[test]
    fn what_was_stored_in_the_future_is_of_no_use_without_asking() {
        let plain = Demand::default();
        let any_stale = Directives { max_stale: Some(Duration::MAX), ..Directives::default() };
        let lenient = Demand { directives: any_stale, authorized: false };
        let ask = |stored_at, now, skew: u64, demand: &Demand| {
            let mut head = head(0);
            head.stored_at = Timestamp(stored_at);
            head.lifetimes.grace_ms = 10_000;
            head.lifetimes.stale_if_error_ms = 20_000;
            let skew = Duration::from_millis(skew);
            described(judge(Object::new(head, Bytes::new()), Standing::Good, demand, Timestamp(now), skew))
        };
        for (stored_at, now, skew, demand, wanted) in [
            (1_000_000, 1_000_000, 0, &plain, "hit"),
            (1_000_001, 1_000_000, 0, &plain, "doubtful"),
            (1_002_000, 1_000_000, 2_000, &plain, "hit"),
            (1_002_001, 1_000_000, 2_000, &plain, "doubtful"),
            (1_300_000, 1_000_000, 2_000, &plain, "doubtful"),
            (1_300_000, 1_000_000, 2_000, &lenient, "doubtful"),
            (u64::MAX, 1_000_000, 2_000, &plain, "doubtful"),
            (u64::MAX, u64::MAX, u64::MAX, &plain, "hit"),
            // Time has caught up: its age counts from when it says it was stored.
            (1_300_000, 1_300_000, 2_000, &plain, "hit"),
            (1_300_000, 1_357_499, 2_000, &plain, "hit"),
            (1_300_000, 1_357_500, 2_000, &plain, "grace"),
        ] {
            assert_eq!(ask(stored_at, now, skew, demand), wanted, "stored at {stored_at}, {now} by now, {skew} ms");
        }
    }

    proptest! {
        #[test]
        fn the_reason_is_that_of_the_judgement(
            standing in prop::sample::select(vec![
                Standing::Good, Standing::Stale, Standing::Unconfirmed, Standing::Doubtful, Standing::Gone,
            ]),
            (no_cache, authorized, for_authorized, forbids_stale) in any::<(bool, bool, bool, bool)>(),
            limits in prop::array::uniform3(prop::option::of(0_u64..100)),
            (stored_at, at_ms) in (950_000_u64..1_050_000, 1_000_000_u64..1_100_000),
        ) {
            let mut head = head(0);
            (head.stored_at, head.for_authorized, head.forbids_stale) = (Timestamp(stored_at), for_authorized, forbids_stale);
            (head.lifetimes.grace_ms, head.lifetimes.stale_if_error_ms) = (10_000, 20_000);
            let [max_age, min_fresh, max_stale] = limits.map(|seconds| seconds.map(Duration::from_secs));
            let directives = Directives { no_cache, max_age, min_fresh, max_stale, ..Directives::default() };
            let (demand, now) = (Demand { directives, authorized }, Timestamp(at_ms));
            let object = Object::new(head, Bytes::new());
            let reason = because(&object, standing, &demand, now, SKEW);
            let wanted: &[Because] = match described(judge(object, standing, &demand, now, SKEW)) {
                "hit" => &[Because::Fresh, Because::AcceptedStale],
                "grace" => &[Because::Grace],
                "miss" => &[Because::Purged, Because::Credentials, Because::Over],
                "asked" => &[Because::TooOld],
                "forced" => &[
                    Because::NoCache, Because::Stale, Because::PurgedSoftly, Because::Unconfirmed,
                ],
                _ => &[
                    Because::Stale, Because::PurgedSoftly, Because::Unconfirmed, Because::Doubtful, Because::FromFuture,
                ],
            };
            prop_assert!(wanted.contains(&reason), "{reason:?} and not one of {wanted:?}");
        }

        /// Whatever times and lives a damaged or foreign entry states.
        #[test]
        fn nothing_from_the_future_or_past_its_life_is_a_hit(
            stored_at in any::<u64>(),
            initial_age_ms in any::<u64>(),
            ttl_ms in any::<u64>(),
            grace_ms in any::<u64>(),
            now in any::<u64>(),
            skew_ms in 0_u64..3_600_000,
        ) {
            let mut head = head(0);
            (head.stored_at, head.initial_age_ms) = (Timestamp(stored_at), initial_age_ms);
            (head.lifetimes.ttl_ms, head.lifetimes.grace_ms) = (ttl_ms, grace_ms);
            let skew = Duration::from_millis(skew_ms);
            let object = Object::new(head, Bytes::new());
            let outcome = judge(object, Standing::Good, &Demand::default(), Timestamp(now), skew);
            let ahead = stored_at > now.saturating_add(skew_ms);
            let age = initial_age_ms.saturating_add(now.saturating_sub(stored_at));
            match described(outcome) {
                "hit" => prop_assert!(!ahead && age < ttl_ms),
                "grace" => prop_assert!(!ahead && age >= ttl_ms && age - ttl_ms < grace_ms),
                "doubtful" | "stale" | "unreachable" | "miss" => prop_assert!(ahead || age >= ttl_ms),
                other => prop_assert!(false, "{other}"),
            }
        }
    }
}
