//! Refreshing ahead of expiry: whether a hit begins a fetch of what it was served from, so that what many clients want
//! never goes stale. Pure.
//!
//! Each hit decides by itself and by chance (A. Vattani et al., "Optimal Probabilistic Cache Stampede Prevention", 2015):
//! the nearer the end of the life and the longer the last fetch took, the likelier. A response that is asked for n times
//! while it is fetched is so refreshed about ln n fetches' time before its end; one that is hardly asked for isn't at
//! all, because there its chance never comes up.

/// Of the time that the last fetch took, how many times before the end a refresh may begin. One that is due earlier comes
/// up once in 5 * 10^8 draws; without them most hits draw no number.
const REACH: u64 = 20;

/// Whether a hit begins a refresh, at an age and of a lifetime that both count from when the response was stored. `cost_ms`
/// is how long its last fetch took, or 0 if that isn't known; `random` draws a number from 0 to 1.
///
/// Never in the first half of the lifetime: else what takes longer to fetch than it is fresh would be fetched without
/// pause.
#[must_use]
pub fn is_due(age_ms: u64, ttl_ms: u64, cost_ms: u64, random: impl FnOnce() -> f64) -> bool {
    let Some(left_ms) = ttl_ms.checked_sub(age_ms).filter(|left| *left > 0) else { return false };
    if left_ms > cost_ms.saturating_mul(REACH) || left_ms > ttl_ms / 2 {
        return false;
    }
    // Exponential with the cost as its mean. Of a number that is 0 it is beyond all that is left.
    left_ms as f64 <= cost_ms as f64 * -random().ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_refresh_is_due_near_the_end_of_a_life() {
        for (age_ms, ttl_ms, cost_ms, random, wanted) in [
            // e^-1 is 0.368: drawn by one in three when a fetch's time is left.
            (900, 1_000, 100, 0.367, true),
            (900, 1_000, 100, 0.369, false),
            // e^-2 is 0.135.
            (800, 1_000, 100, 0.135, true),
            (800, 1_000, 100, 0.136, false),
            (999, 1_000, 100, 0.98, true),
            (999, 1_000, 100, 1.0, false),
            // Whatever is drawn: past its end, in its first half, too early, or nobody knows what it costs.
            (1_000, 1_000, 100, 0.0, false),
            (2_000, 1_000, 100, 0.0, false),
            (0, 0, 100, 0.0, false),
            (499, 1_000, 10_000, 0.0, false),
            (500, 1_000, 10_000, 0.0, true),
            (97_999, 100_000, 100, 0.0, false),
            (98_000, 100_000, 100, 0.0, true),
            (999, 1_000, 0, 0.0, false),
            (u64::MAX - 1, u64::MAX, u64::MAX, 0.5, true),
        ] {
            let due = is_due(age_ms, ttl_ms, cost_ms, || random);
            assert_eq!(due, wanted, "age {age_ms} of {ttl_ms}, cost {cost_ms}, drawn {random}");
        }
    }

    #[test]
    fn most_hits_draw_nothing() {
        assert!(!is_due(1_000, 60_000, 50, || panic!("there is nothing to decide")));
    }

    proptest! {
        /// Once due, it is due at any later moment of the life, with a greater cost and a smaller number.
        #[test]
        fn the_nearer_the_end_and_the_dearer_the_likelier(
            ttl_ms in 2_u64..1_000_000,
            at in 0_u64..1_000_000,
            later in 0_u64..1_000,
            cost_ms in 1_u64..100_000,
            dearer in 0_u64..100_000,
            random in 0.0..1.0_f64,
        ) {
            let age_ms = at % ttl_ms;
            if is_due(age_ms, ttl_ms, cost_ms, || random) {
                prop_assert!(age_ms >= ttl_ms / 2);
                let after = (age_ms + later).min(ttl_ms - 1);
                prop_assert!(is_due(after, ttl_ms, cost_ms + dearer, || random / 2.0));
            }
            prop_assert!(!is_due(ttl_ms + later, ttl_ms, cost_ms, || random));
        }
    }
}
