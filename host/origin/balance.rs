//! Which endpoint takes the next request: the less loaded of two drawn at random, by weights, and for a batch the least
//! loaded of those where it adds most to what is done; of those that come first by zone and by being no backup. Pure; the
//! caller brings the draw.

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

/// Which members take requests before others: those of a smaller rank, as long as one of them is of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// It is a backup. This weighs more than the zone.
    pub(super) is_backup: bool,
    /// How far away it is, by the pool's order of zones; 0 in the node's own zone.
    pub(super) distance: usize,
}

/// Returns how far away a member in `zone` is from a node in `own`, for a pool whose zones are used in this order: 0 in
/// the node's own zone, and if the member is in none; then by its place in the order; then all other zones alike.
/// Without an order, and for a node in no zone, all are equally near.
pub(super) fn distance(zone: Option<&str>, own: Option<&str>, order: &[String]) -> usize {
    let Some(zone) = zone else { return 0 };
    if own == Some(zone) || own.is_none() && order.is_empty() {
        return 0;
    }
    order.iter().position(|named| named == zone).unwrap_or(order.len()) + 1
}

/// A member of the pool as the balance sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// Its health.
    pub(super) standing: Standing,
    /// Who comes before it.
    pub(super) rank: Rank,
    /// Its share in relation to others of its rank. 0 counts as 1.
    pub(super) weight: u32,
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

/// Picks a member that isn't in `excluded`: of two drawn at random, as often as their weights say, the one whose load
/// is the smaller for its weight. Where loads are equal that way, shares are as the weights.
///
/// Only members that are up count, of these only those of the smallest rank, and among them those with a free place
/// come first: a rank that is merely busy is of use. When nobody in the whole pool is up, those that are ejected are
/// picked from (panic mode): some responses are better than none, and a success brings its endpoint back. A member that
/// is down by active checks is never picked. Members that are excluded are of no use to this request, so its next
/// attempt may be at one of a higher rank.
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
    let is_of_use = |at: usize| members[at].standing == wanted && !excluded.contains(&at);
    let of_use = (0..members.len()).filter(|at| is_of_use(*at));
    let rank = of_use.map(|at| members[at].rank).min().ok_or(NoEndpoint::Tried)?;
    let fits = |at: usize| members[at].rank == rank && is_of_use(at);
    choose(&|at: usize| fits(at) && !members[at].full).or_else(|| choose(&fits)).ok_or(NoEndpoint::Tried)
}

/// The least loaded, for its weight, of the members that fit and gain about as much as the best one; one drawn from those
/// that are equal.
fn most_useful(members: &[Member], gains: &[f64], fits: impl Fn(usize) -> bool, random: u64) -> Option<usize> {
    let gain = |at: usize| gains.get(at).copied().unwrap_or_default();
    let mut useful: Vec<usize> = (0..members.len()).filter(|at| fits(*at)).collect();
    let best = useful.iter().map(|at| gain(*at)).fold(0.0, f64::max);
    useful.retain(|at| gain(*at) + GAIN_SLACK >= best * GAIN_PART);
    let less = |least: usize, at: usize| if is_less_loaded(&members[at], &members[least]) { at } else { least };
    let least = useful.iter().copied().reduce(less)?;
    useful.retain(|at| !is_less_loaded(&members[least], &members[*at]));
    drawn(members, |at| useful.contains(&at), random & u64::from(u32::MAX))
}

/// The less loaded of two members drawn from those that fit; the first drawn when they are equal.
fn less_loaded(members: &[Member], fits: impl Fn(usize) -> bool, random: u64) -> Option<usize> {
    let first = drawn(members, &fits, random & u64::from(u32::MAX))?;
    let Some(second) = drawn(members, |at| at != first && fits(at), random >> 32) else { return Some(first) };
    Some(if is_less_loaded(&members[second], &members[first]) { second } else { first })
}

/// A member of those that fit, each as probable as its weight says, from 32 random bits.
fn drawn(members: &[Member], fits: impl Fn(usize) -> bool, bits: u64) -> Option<usize> {
    let fitting = (0..members.len()).filter(|at| fits(*at));
    let mut left = scale(bits, fitting.clone().map(|at| members[at].share()).sum());
    for at in fitting {
        let share = members[at].share();
        if left < share {
            return Some(at);
        }
        left -= share;
    }
    None
}

/// Whether one member has less to do for its weight than the other.
fn is_less_loaded(one: &Member, other: &Member) -> bool {
    let load = |member: &Member, other: &Member| member.load as u128 * u128::from(other.share());
    load(one, other) < load(other, one)
}

impl Member {
    fn share(&self) -> u64 {
        u64::from(self.weight.max(1))
    }
}

/// Maps 32 random bits to a number below `count`; to 0 if that is 0.
fn scale(bits: u64, count: u64) -> u64 {
    // The product is below `count << 32`, so what is left after the shift is below `count`.
    ((u128::from(bits) * u128::from(count)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Name, members, who is excluded, who is picked.
    type Case = (&'static str, Vec<Member>, &'static [usize], Result<usize, NoEndpoint>);

    fn member(standing: Standing, load: usize, full: bool) -> Member {
        Member { standing, rank: Rank::default(), weight: 1, load, full }
    }

    /// The members in this order: of the own zone, of another, backups of both.
    fn ranked(standings: [Standing; 4]) -> Vec<Member> {
        let rank = |at: usize| Rank { is_backup: at > 1, distance: at % 2 };
        let ranked = |(at, standing): (usize, Standing)| Member { rank: rank(at), ..member(standing, 0, false) };
        standings.into_iter().enumerate().map(ranked).collect()
    }

    fn weighing(weights: &[u32]) -> Vec<Member> {
        weights.iter().map(|weight| Member { weight: *weight, ..member(Standing::Up, 0, false) }).collect()
    }

    /// Random numbers that are the same in each run (splitmix64).
    fn randoms(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        }
    }

    /// The largest difference between a member's share of what was picked and that of its weight.
    fn deviation(counts: &[u32], weights: &[u32]) -> f64 {
        let share = |of: &[u32], at: usize| f64::from(of[at]) / f64::from(of.iter().sum::<u32>());
        let deviations = (0..weights.len()).map(|at| (share(counts, at) - share(weights, at)).abs());
        deviations.fold(0.0, f64::max)
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
            ("the own zone", ranked([Up, Up, Up, Up]), &[], Ok(0)),
            ("another zone, if the own is of no use", ranked([Ejected, Up, Up, Up]), &[], Ok(1)),
            ("a backup, if no other is of use", ranked([Down, Ejected, Up, Up]), &[], Ok(2)),
            ("a backup of another zone at last", ranked([Down, Ejected, Down, Up]), &[], Ok(3)),
            ("a retry goes to another zone", ranked([Up, Up, Up, Up]), &[0], Ok(1)),
            ("a retry goes to a backup", ranked([Up, Down, Up, Up]), &[0], Ok(2)),
            ("panic: the own zone", ranked([Ejected, Ejected, Down, Ejected]), &[], Ok(0)),
            (
                "a busy rank is of use",
                vec![
                    member(Up, 9, true),
                    Member { rank: Rank { is_backup: true, distance: 0 }, ..member(Up, 0, false) },
                ],
                &[],
                Ok(0),
            ),
            (
                "the less loaded for its weight",
                vec![Member { weight: 3, ..member(Up, 5, false) }, Member { weight: 1, ..member(Up, 2, false) }],
                &[],
                Ok(0),
            ),
            ("a weight of 0 is 1", vec![Member { weight: 0, ..member(Up, 5, false) }], &[], Ok(0)),
        ];
        for (name, members, excluded, expected) in cases {
            for random in [0, 1, u64::MAX, 0x8000_0000, 0x8000_0000_8000_0000] {
                assert_eq!(pick(&members, excluded, random), expected, "{name}, draw {random:x}");
            }
        }
    }

    #[test]
    fn the_own_zone_comes_first_then_those_of_the_order_then_all_others() {
        let order = |zones: &[&str]| zones.iter().map(|zone| (*zone).to_owned()).collect::<Vec<_>>();
        for (own, zones, wanted) in [
            (Some("eu"), &["us", "ap"][..], [0, 0, 1, 2, 3]),
            (Some("us"), &["eu", "us"], [0, 1, 0, 3, 3]),
            (Some("sa"), &["eu"], [0, 1, 2, 2, 0]),
            (Some("eu"), &[], [0, 0, 1, 1, 1]),
            (None, &["us", "eu"], [0, 2, 1, 3, 3]),
            (None, &[], [0, 0, 0, 0, 0]),
        ] {
            let members = [None, Some("eu"), Some("us"), Some("ap"), Some("sa")];
            assert_eq!(members.map(|zone| distance(zone, own, &order(zones))), wanted, "{own:?} {zones:?}");
        }
    }

    #[test]
    fn while_a_zone_of_the_order_is_up_no_later_one_is_used_and_weights_hold_within_it() {
        use Standing::{Down, Up};
        let at = |standing, distance, weight| {
            let rank = Rank { distance, ..Rank::default() };
            Member { rank, weight, ..member(standing, 0, false) }
        };
        let members = [at(Down, 0, 9), at(Up, 1, 1), at(Up, 1, 3), at(Up, 2, 9), at(Up, 3, 9)];
        let (mut counts, mut random) = ([0_u32; 5], randoms(7));
        for _ in 0..8_000 {
            counts[pick(&members, &[], random()).unwrap()] += 1;
        }
        assert_eq!([counts[0], counts[3], counts[4]], [0, 0, 0]);
        assert!(deviation(&counts[1..3], &[1, 3]) < 0.03, "{counts:?}");
        assert_eq!(pick(&members, &[1, 2], random()), Ok(3), "a retry goes to the next zone");
        assert_eq!(pick(&members, &[1, 2, 3], random()), Ok(4));
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

    fn ranks() -> impl Strategy<Value = Vec<Member>> {
        let one = (standing(), any::<bool>(), 0_usize..3, 1_u32..9, 0_usize..9, any::<bool>());
        let made = |(standing, is_backup, distance, weight, load, full)| Member {
            rank: Rank { is_backup, distance },
            weight,
            ..member(standing, load, full)
        };
        prop::collection::vec(one.prop_map(made), 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn shares_are_as_the_weights(weights in prop::collection::vec(1_u32..=20, 2..7), seed in any::<u64>()) {
            let (members, mut random) = (weighing(&weights), randoms(seed));
            let mut counts = vec![0; weights.len()];
            for _ in 0..8_000 {
                counts[pick(&members, &[], random()).unwrap()] += 1;
            }
            prop_assert!(deviation(&counts, &weights) < 0.03, "{counts:?} of {weights:?}");
        }

        #[test]
        fn shares_are_as_the_weights_among_busy_ones(
            weights in prop::collection::vec(1_u32..=10, 2..6),
            seed in any::<u64>(),
        ) {
            let (mut members, mut random) = (weighing(&weights), randoms(seed));
            let (mut counts, mut under_way) = (vec![0; weights.len()], Vec::new());
            for _ in 0..6_000 {
                if under_way.len() == 64 {
                    let done: usize = under_way.swap_remove((random() % 64) as usize);
                    members[done].load -= 1;
                }
                let at = pick(&members, &[], random()).unwrap();
                members[at].load += 1;
                under_way.push(at);
                counts[at] += 1;
            }
            prop_assert!(deviation(&counts, &weights) < 0.05, "{counts:?} of {weights:?}");
        }
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
        fn a_rank_gets_nothing_while_a_smaller_one_is_of_use_and_retries_move_on(
            members in ranks(),
            seed in any::<u64>(),
        ) {
            let calm = members.iter().any(|member| member.standing == Standing::Up);
            let wanted = if calm { Standing::Up } else { Standing::Ejected };
            let (mut tried, mut random) = (Vec::new(), randoms(seed));
            let end = loop {
                match pick(&members, &tried, random()) {
                    Ok(at) => tried.push(at),
                    Err(end) => break end,
                }
            };
            let mut of_use: Vec<usize> = (0..members.len()).filter(|at| members[*at].standing == wanted).collect();
            let is_down = members.iter().all(|member| member.standing == Standing::Down);
            prop_assert_eq!(end, if is_down { NoEndpoint::Down } else { NoEndpoint::Tried });
            let ranks: Vec<Rank> = tried.iter().map(|at| members[*at].rank).collect();
            prop_assert!(ranks.is_sorted(), "{ranks:?}");
            tried.sort_unstable();
            of_use.sort_unstable();
            prop_assert_eq!(tried, of_use, "each is tried once");
        }

        #[test]
        fn the_less_loaded_of_the_two_drawn(loads in prop::collection::vec(0_usize..9, 2..12), random in any::<u64>()) {
            let members: Vec<_> = loads.iter().map(|load| member(Standing::Up, *load, false)).collect();
            let first = drawn(&members, |_| true, random & u64::from(u32::MAX)).unwrap();
            let second = drawn(&members, |at| at != first, random >> 32).unwrap();
            prop_assert!(first < loads.len() && second < loads.len() && first != second);
            let picked = pick(&members, &[], random);
            prop_assert!(picked == Ok(first) || picked == Ok(second));
            prop_assert_eq!(picked.map(|at| loads[at]), Ok(loads[first].min(loads[second])));
        }
    }
}
