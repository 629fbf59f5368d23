//! The steps of a run, and their times: drawn from a seed, pure. Things that exclude each other share a lane.

use std::{ops::Range, time::Duration};

use super::topology::{MEMBERS, NODES, REGIONS};
use crate::{
    catalogue::{Resource, TAGS},
    proxy::Mode,
    schedule::{Back, Lane, Lot, Step, Target, draw_lanes},
};

/// Longer than the fence of either log, and than what is added to it to be certain.
const LONG_MS: Range<u64> = 3_500..5_000;

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// What a purge names changes, and is purged.
    Purge(Purge),
    /// A resource changes, and nothing is purged.
    Change { resource: usize },
    /// A copy of what each Redis has is laid aside, for [`Back::Older`].
    CopyRedis,
    /// Something fails for a while.
    Fault { fault: Fault, ms: u64 },
}

/// A purge through a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Purge {
    pub(super) node: usize,
    pub(super) target: Target,
    pub(super) soft: bool,
    /// It is for all regions; else for the node's.
    pub(super) is_for_all: bool,
}

/// Something that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A node.
    Node(usize, Death),
    /// The wall clock of a node is ahead by so many seconds, or behind.
    Clock(usize, i64),
    /// The Redis of a region.
    Redis(usize, Loss),
    /// So many members of etcd, from the first one on.
    Etcd { first: usize, count: usize, death: Death },
    /// What is between nodes and an engine.
    Links(Links, Mode),
}

/// The end of a process, which may be for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// `kill -9`.
    Kill,
    /// `SIGSTOP`.
    Freeze,
}

/// What happens to a Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It stands still.
    Frozen,
    /// It forgets everything.
    Emptied,
    /// It is killed, and comes back with this.
    Killed(Back),
}

/// Connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Those of a node to its Redis.
    Redis(usize),
    /// Those of a node to etcd.
    Etcd(usize),
    /// Those of all nodes of a region to etcd.
    Region(usize),
}

impl Fault {
    /// The kind of fault, without the numbers of what it happens to.
    pub(super) fn name(self) -> String {
        let mode_name = |mode: Mode| match mode {
            Mode::Pass => "passes",
            Mode::Delay(_) => "delayed",
            Mode::Hold => "held",
            Mode::HoldThere => "held there",
            Mode::HoldBack => "held back",
            Mode::Cut => "cut",
        };
        match self {
            Self::Node(_, death) => format!("node: {death:?}"),
            Self::Clock(_, 0..) => "clock of a node: ahead".to_owned(),
            Self::Clock(..) => "clock of a node: behind".to_owned(),
            Self::Redis(_, loss) => format!("redis: {loss:?}"),
            Self::Etcd { count, death, .. } => format!("etcd, {count} of {MEMBERS}: {death:?}"),
            Self::Links(Links::Redis(_), mode) => format!("link of a node and redis: {}", mode_name(mode)),
            Self::Links(Links::Etcd(_), mode) => format!("links of a node and etcd: {}", mode_name(mode)),
            Self::Links(Links::Region(_), mode) => format!("links of a region and etcd: {}", mode_name(mode)),
        }
    }

    /// The node that alone has this fault, if it is one.
    pub(super) const fn node(self) -> Option<usize> {
        match self {
            Self::Node(node, _) | Self::Clock(node, _) | Self::Links(Links::Redis(node) | Links::Etcd(node), _) => {
                Some(node)
            }
            Self::Redis(..) | Self::Etcd { .. } | Self::Links(Links::Region(_), _) => None,
        }
    }
}

/// Draws everything that is to happen within `seconds`.
pub(super) fn draw(seed: u64, seconds: u64, resources: &[Resource]) -> Vec<Lane<Act>> {
    let lanes: [fn(&mut Lot<'_>) -> Lane<Act>; 9] = [
        processes,
        redis,
        links_to_redis,
        links_to_etcd,
        etcd,
        purges_of_the_world,
        purges_of_regions,
        changes,
        clocks,
    ];
    draw_lanes(&lanes, seed, seconds, resources, NODES)
}

/// An act, and how long its lane is busy with it.
fn fault(fault: Fault, ms: u64, after_ms: u64) -> (Act, u64) {
    (Act::Fault { fault, ms }, ms + after_ms)
}

fn processes(lot: &mut Lot<'_>) -> Lane<Act> {
    lot.lane(1_500..4_000, &[0, 1, 2], |lot, card| {
        let (node, short, long) = (lot.node(), lot.rng.u64(200..2_000), lot.rng.u64(LONG_MS));
        match card {
            0 => fault(Fault::Node(node, Death::Kill), short, 1_500),
            1 => fault(Fault::Node(node, Death::Freeze), short, 0),
            _ => fault(Fault::Node(node, Death::Freeze), long, 0),
        }
    })
}

/// Before each fault a copy is laid aside, so that an older one is a second or two old.
fn redis(lot: &mut Lot<'_>) -> Lane<Act> {
    let faults = lot.lane(2_000..4_500, &[0, 1, 2, 3, 4, 5], |lot, card| {
        let (region, short, long) = (lot.rng.usize(..REGIONS), lot.rng.u64(100..1_500), lot.rng.u64(LONG_MS));
        let (loss, ms) = match card {
            0 => (Loss::Frozen, short),
            1 => (Loss::Frozen, long),
            2 => (Loss::Killed(Back::Empty), short),
            3 => (Loss::Killed(Back::Same), short),
            4 => (Loss::Killed(Back::Older), short),
            _ => (Loss::Emptied, 0),
        };
        fault(Fault::Redis(region, loss), ms, 0)
    });
    let copy = |step: &Step<Act>| Step { at_ms: step.at_ms.saturating_sub(1_500), act: Act::CopyRedis };
    faults.iter().flat_map(|step| [copy(step), *step]).collect()
}

/// The ways in which a connection fails, and for how long.
const WAYS: [usize; 6] = [0, 1, 2, 3, 4, 5];

fn failing(lot: &mut Lot<'_>, way: usize) -> (Mode, u64) {
    let (short, long) = (lot.rng.u64(200..2_000), lot.rng.u64(LONG_MS));
    match way {
        0 => (Mode::Delay(Duration::from_millis(lot.rng.u64(50..400))), long),
        1 => (Mode::Cut, short),
        2 => (Mode::Cut, long),
        3 => (Mode::Hold, long),
        4 => (Mode::HoldThere, long),
        _ => (Mode::HoldBack, long),
    }
}

fn links_to_redis(lot: &mut Lot<'_>) -> Lane<Act> {
    lot.lane(1_500..4_000, &WAYS, |lot, way| {
        let (node, (mode, ms)) = (lot.node(), failing(lot, way));
        fault(Fault::Links(Links::Redis(node), mode), ms, 0)
    })
}

fn links_to_etcd(lot: &mut Lot<'_>) -> Lane<Act> {
    lot.lane(1_500..4_000, &WAYS, |lot, way| {
        let (mode, ms) = failing(lot, way);
        let links = if lot.rng.bool() { Links::Etcd(lot.node()) } else { Links::Region(lot.rng.usize(..REGIONS)) };
        fault(Fault::Links(links, mode), ms, 0)
    })
}

/// A minority of etcd, and a majority. Afterwards they need a moment to elect a leader.
fn etcd(lot: &mut Lot<'_>) -> Lane<Act> {
    lot.lane(2_500..5_000, &[0, 1, 2, 3], |lot, card| {
        let first = lot.rng.usize(..MEMBERS);
        let (count, death, ms) = match card {
            0 => (1, Death::Kill, lot.rng.u64(500..3_000)),
            1 => (1, Death::Freeze, lot.rng.u64(500..3_000)),
            2 => (MEMBERS / 2 + 1, Death::Kill, lot.rng.u64(500..3_000)),
            _ => (MEMBERS / 2 + 1, Death::Freeze, lot.rng.u64(LONG_MS)),
        };
        fault(Fault::Etcd { first, count, death }, ms, 1_500)
    })
}

fn purges_of_the_world(lot: &mut Lot<'_>) -> Lane<Act> {
    purges(lot, true)
}

fn purges_of_regions(lot: &mut Lot<'_>) -> Lane<Act> {
    purges(lot, false)
}

fn purges(lot: &mut Lot<'_>, is_for_all: bool) -> Lane<Act> {
    lot.lane(30..170, &[0, 0, 0, 1], |lot, card| {
        let target = if card == 0 { Target::Url(lot.resource()) } else { Target::Tag(lot.rng.usize(..TAGS.len())) };
        let (node, soft) = (lot.node(), lot.rng.u32(..8) == 0);
        (Act::Purge(Purge { node, target, soft, is_for_all }), 0)
    })
}

fn changes(lot: &mut Lot<'_>) -> Lane<Act> {
    lot.lane(100..800, &[0], |lot, _| (Act::Change { resource: lot.resource() }, 0))
}

/// A clock that is off by less than `clock_skew_ms` is taken as it is. These are far off: by more than most things are
/// kept, and by less.
fn clocks(lot: &mut Lot<'_>) -> Lane<Act> {
    lot.lane(1_500..5_000, &[-1, 1], |lot, sign| {
        let (node, by_s, ms) = (lot.node(), sign * lot.rng.i64(60..7_200), lot.rng.u64(LONG_MS));
        fault(Fault::Clock(node, by_s), ms, 1_500)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::catalogue::generate;

    #[test]
    fn a_seed_is_a_schedule_and_ninety_seconds_have_every_kind_of_fault() {
        let draw = |seed| draw(seed, 90, &generate(seed));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let kind = |step: &Step<Act>| match step.act {
            Act::Fault { fault, .. } => Some(fault.name()),
            Act::Purge(_) | Act::Change { .. } | Act::CopyRedis => None,
        };
        for seed in 0..20 {
            let lanes = draw(seed);
            assert!(lanes.iter().all(|lane| lane.is_sorted_by_key(|step| step.at_ms)), "{seed}");
            let kinds: BTreeSet<String> = lanes.iter().flatten().filter_map(kind).collect();
            // Of the links to etcd chance decides between those of a node and of a region.
            let certain = kinds.iter().filter(|kind| !kind.contains("and etcd")).count();
            assert_eq!(certain, 2 + 2 + 5 + 5 + 4, "{seed}: {kinds:?}");
        }
    }
}
