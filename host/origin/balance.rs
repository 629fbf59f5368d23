//! Which endpoint takes the next request: the less loaded of two drawn at random, and for a batch the least loaded of
//! those where it adds most to what is done. Pure; the caller brings the draw.

/// What is known of a member's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// In service.
    Up,
    /// Left out for a while, because requests to it failed.
    Ejected,
    /// Left out until its active checks succeed.
    Down,
}

/// A member of the pool as the balance sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// Its health.
    pub(super) standing: Standing,
    /// Requests in flight to it and waiting for a place at it.
    pub(super) load: usize,
    /// No place is free at it.
    pub(super) full: bool,
}

/// Why no endpoint can be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoEndpoint {
    /// All endpoints that could be tried have been tried in this fetch.
    Tried,
    /// All are down by their active checks.
    Down,
}

/// Picks a member that isn't in `excluded`: of two drawn at random the one with the smaller load.
///
/// Only members that are up count, and among them those with a free place come first. When nobody in the whole pool is
/// up, those that are merely ejected are picked from (panic mode): some responses are better than none, and a success
/// brings its endpoint back. A member that is down by active checks is never picked.
pub(super) fn pick(members: &[Member], excluded: &[usize], random: u64) -> Result<usize, NoEndpoint> {
    chosen(members, excluded, |fits| less_loaded(members, fits, random))
}

/// The part of the best member's gain, and how much less than that, with which another is as good: what is measured isn't
/// exact, and equal ones are to have equal loads.
const GAIN_PART: f64 = 0.5;
const GAIN_SLACK: f64 = 0.1;

/// Picks a member for a batch as [`pick`] does for other requests, but the least loaded of all those where it adds about
/// as much to the work that is done as at the best one. `gains` has how much that is, by member.
///
/// Batches are few and long: two of them at one endpoint while another is idle are a loss.
pub(super) fn pick_for_batch(
    members: &[Member],
    gains: &[f64],
    excluded: &[usize],
    random: u64,
) -> Result<usize, NoEndpoint> {
    chosen(members, excluded, |fits| most_useful(members, gains, fits, random))
}

/// Has one of the members chosen that may be, of those with a free place if there are any.
fn chosen(
    members: &[Member],
    excluded: &[usize],
    choose: impl Fn(&dyn Fn(usize) -> bool) -> Option<usize>,
) -> Result<usize, NoEndpoint> {
    if members.iter().all(|member| member.standing == Standing::Down) {
        return Err(NoEndpoint::Down);
    }
    let calm = members.iter().any(|member| member.standing == Standing::Up);
    let wanted = if calm { Standing::Up } else { Standing::Ejected };
    let fits = |at: usize| members[at].standing == wanted && !excluded.contains(&at);
    choose(&|at: usize| fits(at) && !members[at].full).or_else(|| choose(&fits)).ok_or(NoEndpoint::Tried)
}

/// The least loaded of the members that fit and gain about as much as the best one; one drawn from those that are equal.
fn most_useful(members: &[Member], gains: &[f64], fits: impl Fn(usize) -> bool, random: u64) -> Option<usize> {
    let gain = |at: usize| gains.get(at).copied().unwrap_or_default();
    let mut useful: Vec<usize> = (0..members.len()).filter(|at| fits(*at)).collect();
    let best = useful.iter().map(|at| gain(*at)).fold(0.0, f64::max);
    useful.retain(|at| gain(*at) + GAIN_SLACK >= best * GAIN_PART);
    let least = useful.iter().map(|at| members[*at].load).min()?;
    useful.retain(|at| members[*at].load == least);
    useful.get(scale(random & u64::from(u32::MAX), useful.len())).copied()
}

/// The less loaded of two members drawn from those that fit; the first drawn when they are equal.
fn less_loaded(members: &[Member], fits: impl Fn(usize) -> bool, random: u64) -> Option<usize> {
    let nth = |nth: usize| (0..members.len()).filter(|at| fits(*at)).nth(nth);
    let count = (0..members.len()).filter(|at| fits(*at)).count();
    if count < 2 {
        return nth(0);
    }
    let (first, second) = draw_two(random, count);
    let (first, second) = (nth(first)?, nth(second)?);
    Some(if members[second].load < members[first].load { second } else { first })
}

/// Two different numbers below `count`, which is at least two, from the two halves of `random`.
fn draw_two(random: u64, count: usize) -> (usize, usize) {
    let first = scale(random & u64::from(u32::MAX), count);
    let second = scale(random >> 32, count - 1);
    (first, if second < first { second } else { second + 1 })
}

/// Maps 32 random bits to a number below `count`.
fn scale(bits: u64, count: usize) -> usize {
    // The product is below `count << 32`, so what is left after the shift is below `count`.
    ((u128::from(bits) * count as u128) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Name, members, who is excluded, who is picked.
    type Case = (&'static str, Vec<Member>, &'static [usize], Result<usize, NoEndpoint>);

    fn member(standing: Standing, load: usize, full: bool) -> Member {
        Member { standing, load, full }
    }

    #[test]
    fn who_is_picked() {
        use Standing::{Down, Ejected, Up};
        let cases: Vec<Case> = vec![
            ("the only one", vec![member(Up, 9, false)], &[], Ok(0)),
            ("the less loaded", vec![member(Up, 2, false), member(Up, 1, false)], &[], Ok(1)),
            ("not the excluded", vec![member(Up, 2, false), member(Up, 1, false)], &[1], Ok(0)),
            ("nobody is left", vec![member(Up, 0, false)], &[0], Err(NoEndpoint::Tried)),
            ("not the ejected", vec![member(Ejected, 0, false), member(Up, 5, false)], &[], Ok(1)),
            (
                "a retry doesn't go to the ejected",
                vec![member(Ejected, 0, false), member(Up, 5, false)],
                &[1],
                Err(NoEndpoint::Tried),
            ),
            ("panic: all are ejected", vec![member(Ejected, 3, false), member(Ejected, 1, false)], &[], Ok(1)),
            ("panic, but not the tried", vec![member(Ejected, 3, false), member(Ejected, 1, false)], &[1], Ok(0)),
            ("panic leaves out the down", vec![member(Down, 0, false), member(Ejected, 7, false)], &[], Ok(1)),
            ("all are down", vec![member(Down, 0, false), member(Down, 0, false)], &[], Err(NoEndpoint::Down)),
            (
                "a free place comes first",
                vec![member(Up, 4, true), member(Up, 4, true), member(Up, 5, false)],
                &[],
                Ok(2),
            ),
            ("all are full", vec![member(Up, 4, true), member(Up, 6, true)], &[], Ok(0)),
            ("no members", vec![], &[], Err(NoEndpoint::Down)),
        ];
        for (name, members, excluded, expected) in cases {
            for random in [0, 1, u64::MAX, 0x8000_0000, 0x8000_0000_8000_0000] {
                assert_eq!(pick(&members, excluded, random), expected, "{name}, draw {random:x}");
            }
        }
    }

    #[test]
    fn a_batch_goes_where_it_adds_most_and_to_the_least_loaded_of_equals() {
        use Standing::{Ejected, Up};
        let up = |load: usize| member(Up, load, false);
        for (name, members, gains, excluded, expected) in [
            ("the idle one of many", vec![up(1), up(1), up(1), up(1), up(0)], vec![1.0; 5], &[][..], Ok(4)),
            ("one that gains little is left idle", vec![up(0), up(3)], vec![0.2, 1.0], &[], Ok(1)),
            ("unless it is the only one", vec![up(0), up(3)], vec![0.2, 1.0], &[1], Ok(0)),
            ("what differs little is equal", vec![up(2), up(3)], vec![0.7, 1.0], &[], Ok(0)),
            ("where none gains anything", vec![up(2), up(1)], vec![0.0, 0.05], &[], Ok(1)),
            ("not the ejected", vec![member(Ejected, 0, false), up(5)], vec![1.0; 2], &[], Ok(1)),
            ("a free place comes first", vec![member(Up, 4, true), up(5)], vec![1.0; 2], &[], Ok(1)),
            ("nobody is left", vec![up(0)], vec![1.0], &[0], Err(NoEndpoint::Tried)),
        ] {
            for random in [0, 1, u64::MAX, 0x8000_0000, 0x8000_0000_8000_0000] {
                assert_eq!(pick_for_batch(&members, &gains, excluded, random), expected, "{name}, draw {random:x}");
            }
        }
    }

    #[test]
    fn equal_members_share() {
        let members = [member(Standing::Up, 1, false); 4];
        let mut counts = [0_u32; 4];
        for step in 0..4000_u64 {
            counts[pick(&members, &[], step.wrapping_mul(0x9E37_79B9_7F4A_7C15)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    fn standing() -> impl Strategy<Value = Standing> {
        prop_oneof![Just(Standing::Up), Just(Standing::Ejected), Just(Standing::Down)]
    }

    fn members() -> impl Strategy<Value = Vec<Member>> {
        let one = (standing(), 0_usize..9, any::<bool>());
        prop::collection::vec(one.prop_map(|(standing, load, full)| member(standing, load, full)), 0..12)
    }

    proptest! {
        #[test]
        fn never_an_excluded_or_a_down_one(
            members in members(),
            excluded in prop::collection::vec(0_usize..12, 0..6),
            random in any::<u64>(),
        ) {
            let calm = members.iter().any(|member| member.standing == Standing::Up);
            let wanted = if calm { Standing::Up } else { Standing::Ejected };
            let fits = |at: &usize| members[*at].standing == wanted && !excluded.contains(at);
            let left = (0..members.len()).filter(fits).count();
            match pick(&members, &excluded, random) {
                Ok(at) => {
                    prop_assert!(!excluded.contains(&at));
                    prop_assert_eq!(members[at].standing, wanted);
                }
                Err(NoEndpoint::Down) => prop_assert!(members.iter().all(|member| member.standing == Standing::Down)),
                Err(NoEndpoint::Tried) => prop_assert_eq!(left, 0),
            }
        }

        #[test]
        fn the_less_loaded_of_the_two_drawn(loads in prop::collection::vec(0_usize..9, 2..12), random in any::<u64>()) {
            let members: Vec<_> = loads.iter().map(|load| member(Standing::Up, *load, false)).collect();
            let (first, second) = draw_two(random, loads.len());
            prop_assert!(first < loads.len() && second < loads.len() && first != second);
            let picked = pick(&members, &[], random);
            prop_assert!(picked == Ok(first) || picked == Ok(second));
            prop_assert_eq!(picked.map(|at| loads[at]), Ok(loads[first].min(loads[second])));
        }
    }
}
