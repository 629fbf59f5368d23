//! What a look-up has found, and the order in which a connection tries it. Pure.

use std::{net::SocketAddr, time::Duration};

/// What a look-up has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The hosts: one of a name, and those that its records have of a service. None if the records say that there is no
    /// such service.
    pub(super) targets: Vec<Target>,
    /// How long that holds, if it is known.
    pub(super) ttl: Option<Duration>,
    /// Whether more hosts are there, whose addresses couldn't be looked up.
    pub(super) is_partial: bool,
}

/// A host, as an SRV record has it (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The lowest is tried first.
    pub(super) priority: u16,
    /// Its share in relation to others of its priority.
    pub(super) weight: u16,
    /// Its addresses, each with the service's port.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Target {
    /// Returns the only host of a name.
    pub(super) const fn only(addresses: Vec<SocketAddr>) -> Self {
        Self { priority: 0, weight: 0, addresses }
    }
}

/// Returns the addresses in the order in which a connection tries them, each once: those of the targets in the order of
/// [`by_priority`], and of one target as [`in_turn`] has them.
pub(super) fn in_order(targets: &[Target], turn: usize, draw: impl FnMut(u32) -> u32) -> Vec<SocketAddr> {
    let mut order = Vec::new();
    for target in by_priority(targets, draw) {
        for address in in_turn(&target.addresses, turn) {
            if !order.contains(&address) {
                order.push(address);
            }
        }
    }
    order
}

/// Returns the targets in an order of RFC 2782: by priority, and those of one priority drawn one after the other, each
/// with a chance in proportion to its weight. `draw` returns a random number up to the one that it is given, included.
fn by_priority(targets: &[Target], mut draw: impl FnMut(u32) -> u32) -> Vec<&Target> {
    let mut left: Vec<&Target> = targets.iter().collect();
    // Of one priority, those without a weight come first.
    left.sort_by_key(|target| (target.priority, target.weight > 0));
    let mut order = Vec::with_capacity(left.len());
    while let Some(priority) = left.first().map(|target| target.priority) {
        let equals = left.iter().take_while(|target| target.priority == priority).count();
        let drawn = drawn(&left[..equals], &mut draw);
        order.push(left.remove(drawn));
    }
    order
}

/// Returns which of these targets, of one priority and with those without a weight in front, is next.
fn drawn(equals: &[&Target], draw: &mut impl FnMut(u32) -> u32) -> usize {
    let last = equals.len().saturating_sub(1);
    let sum: u32 = equals.iter().map(|target| u32::from(target.weight)).sum();
    match sum {
        _ if last == 0 => 0,
        // The RFC leaves their order open. Any other than a random one would send everything to the same.
        0 => u32::try_from(last).map_or(0, |last| draw(last) as usize).min(last),
        _ => {
            // The RFC draws from 0 on, so that a target without a weight is chosen at times. Where there is none, the
            // 0 would only add to the share of the first.
            let least = u32::from(equals[0].weight > 0);
            let number = least + draw(sum - least);
            let mut running = 0;
            let is_reached = |target: &&Target| {
                running += u32::from(target.weight);
                running >= number
            };
            equals.iter().position(is_reached).unwrap_or(last)
        }
    }
}

/// Returns the addresses in the order in which a connection tries them: of both families in turns, that of the first
/// one first (RFC 8305, section 4), and each connection begins with another one of a family.
fn in_turn(addresses: &[SocketAddr], turn: usize) -> Vec<SocketAddr> {
    let is_v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == is_v6_first);
    let rotated = |mut family: Vec<SocketAddr>| {
        if !family.is_empty() {
            let by = turn % family.len();
            family.rotate_left(by);
        }
        family.into_iter()
    };
    let (mut first, mut second) = (rotated(first), rotated(second));
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(first.next());
        order.extend(second.next());
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn v4(numbers: &[u8]) -> Vec<SocketAddr> {
        numbers.iter().map(|number| SocketAddr::from(([192, 0, 2, *number], 80))).collect()
    }

    /// A target whose address has its number.
    fn target(priority: u16, weight: u16, number: u8) -> Target {
        Target { priority, weight, addresses: v4(&[number]) }
    }

    #[test]
    fn families_take_turns_and_connections_begin_with_another_address() {
        let both = addresses(&["[2001:db8::1]:80", "[2001:db8::2]:80", "192.0.2.1:80"]);
        for (turn, wanted) in [
            (0, ["[2001:db8::1]:80", "192.0.2.1:80", "[2001:db8::2]:80"]),
            (1, ["[2001:db8::2]:80", "192.0.2.1:80", "[2001:db8::1]:80"]),
            (2, ["[2001:db8::1]:80", "192.0.2.1:80", "[2001:db8::2]:80"]),
        ] {
            assert_eq!(in_turn(&both, turn), addresses(&wanted), "{turn}");
        }
        assert_eq!(in_turn(&v4(&[1, 2, 3]), 5), v4(&[3, 1, 2]));
        assert!(in_turn(&[], 1).is_empty());
    }

    #[test]
    fn targets_are_tried_by_priority_and_drawn_by_weight() {
        let table: &[(&[(u16, u16)], &[u32], &[u8])] = &[
            // Nothing is drawn where there is no choice.
            (&[], &[], &[]),
            (&[(10, 5)], &[], &[0]),
            (&[(20, 9), (10, 0), (30, 1)], &[], &[1, 0, 2]),
            // 1 to 4, of which three are the first one's.
            (&[(0, 3), (0, 1)], &[0], &[0, 1]),
            (&[(0, 3), (0, 1)], &[2], &[0, 1]),
            (&[(0, 3), (0, 1)], &[3], &[1, 0]),
            // 0 to 4, of which 0 is that of the one without a weight.
            (&[(0, 3), (0, 0), (0, 1)], &[0, 0], &[1, 0, 2]),
            (&[(0, 3), (0, 0), (0, 1)], &[1, 0], &[0, 1, 2]),
            (&[(0, 3), (0, 0), (0, 1)], &[4, 3], &[2, 0, 1]),
            // Without any weight each is as likely.
            (&[(0, 0), (0, 0), (0, 0)], &[2, 1], &[2, 1, 0]),
            (&[(0, 0), (0, 0), (0, 0)], &[0, 0], &[0, 1, 2]),
            // Each priority is drawn by itself.
            (&[(2, 1), (1, 1), (2, 1), (1, 1)], &[1, 1], &[3, 1, 2, 0]),
        ];
        for (records, draws, wanted) in table {
            let targets: Vec<Target> =
                (0..).zip(*records).map(|(number, (priority, weight))| target(*priority, *weight, number)).collect();
            let mut left = draws.iter();
            let order = in_order(&targets, 0, |_| *left.next().expect("one draw too many"));
            assert_eq!(order, v4(wanted), "{records:?} with {draws:?}");
            assert_eq!(left.next(), None, "{records:?} with {draws:?}");
        }
    }

    #[test]
    fn first_ones_are_shared_by_weight() {
        let targets = [target(1, 60, 0), target(1, 30, 1), target(1, 10, 2), target(2, 900, 3)];
        // Every number that the first draw can give.
        let mut firsts: HashMap<SocketAddr, u32> = HashMap::new();
        for number in 0..100 {
            let mut is_first = true;
            let order = in_order(&targets, 0, |max| if std::mem::take(&mut is_first) { number } else { max });
            *firsts.entry(order[0]).or_default() += 1;
        }
        let counts: Vec<Option<&u32>> = v4(&[0, 1, 2, 3]).iter().map(|address| firsts.get(address)).collect();
        assert_eq!(counts, [Some(&60), Some(&30), Some(&10), None]);
    }

    proptest! {
        #[test]
        fn every_address_is_tried_once_and_none_before_a_lower_priority(
            records in prop::collection::vec((0..4_u16, 0..3_u16, any::<u8>()), 0..40),
            turn in any::<usize>(),
            seed in any::<u64>(),
        ) {
            let targets: Vec<Target> =
                records.iter().map(|(priority, weight, number)| target(*priority, *weight, *number)).collect();
            let mut random = fastrand::Rng::with_seed(seed);
            let order = in_order(&targets, turn, |max| random.u32(..=max));
            let mut lowest: HashMap<SocketAddr, u16> = HashMap::new();
            for target in &targets {
                let known = lowest.entry(target.addresses[0]).or_insert(target.priority);
                *known = target.priority.min(*known);
            }
            prop_assert_eq!(order.len(), lowest.len());
            prop_assert!(order.is_sorted_by_key(|address| lowest[address]));
        }
    }
}
