//! The steps of a run, and their times: drawn from a seed, pure. Things that exclude each other share a lane and follow
//! one another there; lanes know nothing of each other.

use fastrand::Rng;
use serde::Serialize;

use crate::catalogue::{Resource, Sort, TAGS};

/// At the end nothing is broken any more, so that the last responses are those of a whole region.
const QUIET_MS: u64 = 2_000;

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Act {
    /// A resource changes, and nothing is purged.
    Change { resource: usize },
    /// A purge, after what it names has changed if `publish`.
    Purge { node: usize, target: Target, soft: bool, publish: bool },
    /// An unsafe method.
    Write { node: usize, resource: usize, method: Method },
    /// `kill -9`, and a start after a while.
    Kill { node: usize, ms: u64 },
    /// `SIGSTOP`, and `SIGCONT` after a while.
    Stop { node: usize, ms: u64 },
    /// The node's files may grow no further for a while.
    FullDisk { node: usize, ms: u64 },
    /// Redis stands still for a while.
    FreezeRedis { ms: u64 },
    /// Redis is killed and started again after a while.
    KillRedis { ms: u64, back: Back },
    /// Redis forgets everything.
    FlushRedis,
    /// A copy of what Redis has is laid aside, for [`Back::Older`].
    CopyRedis,
    /// Bytes between a node and Redis take longer for a while.
    Delay { node: usize, ms: u64, by_ms: u64 },
    /// Connections between a node and Redis are cut, and none is let through for a while.
    Cut { node: usize, ms: u64 },
    /// Nothing gets through between a node and Redis for a while, and no connection breaks.
    Hold { node: usize, ms: u64 },
    /// The origin lies for a while.
    Lie { ms: u64, percent: u64 },
    /// Another policy component is loaded.
    Load { node: usize, file: usize, mode: Mode },
    /// The trial ends well.
    Promote { node: usize },
    /// The trial ends badly, or a former generation comes back.
    RollBack { node: usize },
}

/// The target of a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// A resource's URL.
    Url(usize),
    /// The key of a resource that has only one.
    Key(usize),
    /// A tag.
    Tag(usize),
}

/// An unsafe method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Method {
    Post,
    Put,
    Delete,
}

impl Method {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// The data of Redis when it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Back {
    /// Nothing.
    Empty,
    /// All it had.
    Same,
    /// What it had when the last copy was made.
    Older,
}

/// The way in which a policy takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    Swap,
    Shadow,
    Canary,
}

impl Mode {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Swap => "swap",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
        }
    }
}

/// Something to do, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Step<A = Act> {
    /// Milliseconds after the beginning; later if what is before it in its lane takes longer.
    pub(crate) at_ms: u64,
    pub(crate) act: A,
}

/// Steps that follow one another.
pub(crate) type Lane<A = Act> = Vec<Step<A>>;

/// Draws everything that is to happen within `seconds`.
pub(crate) fn draw(seed: u64, seconds: u64, resources: &[Resource], nodes: usize) -> Vec<Lane> {
    let faults: [fn(&mut Lot<'_>) -> Lane; 7] = [processes, redis, links, origin, policies, purges, writes];
    draw_lanes(&faults, seed, seconds, resources, nodes)
}

/// Draws each of these lanes, none of which depends on another.
pub(crate) fn draw_lanes<A>(
    lanes: &[fn(&mut Lot<'_>) -> Lane<A>],
    seed: u64,
    seconds: u64,
    resources: &[Resource],
    nodes: usize,
) -> Vec<Lane<A>> {
    let lot = |number: usize| Lot {
        rng: Rng::with_seed(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        end_ms: (seconds * 1000).saturating_sub(QUIET_MS),
        resources,
        nodes,
    };
    lanes.iter().enumerate().map(|(number, lane)| lane(&mut lot(number))).collect()
}

/// Only purges and unsafe methods, for a node that has nothing that could break.
pub(crate) fn draw_calm(seed: u64, seconds: u64, resources: &[Resource]) -> Vec<Lane> {
    let mut lanes = draw(seed, seconds, resources, 1).split_off(5);
    for lane in &mut lanes {
        lane.retain(|step| !matches!(step.act, Act::Purge { target: Target::Key(_), .. }));
    }
    lanes
}

/// Draws the events of a lane.
pub(crate) struct Lot<'r> {
    pub(crate) rng: Rng,
    end_ms: u64,
    resources: &'r [Resource],
    nodes: usize,
}

impl Lot<'_> {
    pub(crate) fn node(&mut self) -> usize {
        self.rng.usize(..self.nodes)
    }

    pub(crate) fn resource(&mut self) -> usize {
        self.rng.usize(..self.resources.len())
    }

    /// A resource that has one key only.
    fn plain(&mut self) -> usize {
        let plain = |at: &usize| self.resources[*at].sort == Sort::Plain;
        let all: Vec<usize> = (0..self.resources.len()).filter(plain).collect();
        all[self.rng.usize(..all.len())]
    }

    /// Steps with pauses of `pause_ms` between them; `deal` returns what is done next and how long that lasts. Each kind
    /// of a round's `cards` comes once before one comes again, so that a minute has them all.
    pub(crate) fn lane<C: Copy, A>(
        &mut self,
        pause_ms: std::ops::Range<u64>,
        cards: &[C],
        mut deal: impl FnMut(&mut Self, C) -> (A, u64),
    ) -> Lane<A> {
        let (mut lane, mut at_ms, mut left) = (Vec::new(), 0, Vec::new());
        loop {
            at_ms += self.rng.u64(pause_ms.clone());
            if left.is_empty() {
                left = cards.to_vec();
                self.rng.shuffle(&mut left);
            }
            let Some(card) = left.pop() else { return lane };
            let (act, lasts_ms) = deal(self, card);
            if at_ms + lasts_ms >= self.end_ms {
                return lane;
            }
            lane.push(Step { at_ms, act });
            at_ms += lasts_ms;
        }
    }
}

/// The faults of the nodes' processes. The longest stop is longer than a fence.
fn processes(lot: &mut Lot<'_>) -> Lane {
    lot.lane(1_000..3_000, &[0, 1, 2, 3], |lot, card| {
        let node = lot.node();
        let (short, long, while_down) = (lot.rng.u64(200..2_000), lot.rng.u64(5_500..7_000), lot.rng.u64(0..2_500));
        match card {
            0 => (Act::Kill { node, ms: while_down }, while_down + 1_500),
            1 => (Act::Stop { node, ms: short }, short),
            2 => (Act::Stop { node, ms: long }, long),
            _ => (Act::FullDisk { node, ms: short + 500 }, short + 500),
        }
    })
}

/// The faults of Redis. Before each fault a copy is laid aside, so that an older one is a few seconds old.
fn redis(lot: &mut Lot<'_>) -> Lane {
    let faults = lot.lane(2_500..5_000, &[0, 1, 2, 3, 4, 5], |lot, card| {
        let (short, long) = (lot.rng.u64(100..1_500), lot.rng.u64(4_500..6_500));
        match card {
            0 => (Act::FreezeRedis { ms: short }, short),
            1 => (Act::FreezeRedis { ms: long }, long),
            2 => (Act::KillRedis { ms: short, back: Back::Empty }, short),
            3 => (Act::KillRedis { ms: short, back: Back::Same }, short),
            4 => (Act::KillRedis { ms: short, back: Back::Older }, short),
            _ => (Act::FlushRedis, 0),
        }
    });
    let copy = |step: &Step| Step { at_ms: step.at_ms.saturating_sub(2_000), act: Act::CopyRedis };
    faults.iter().flat_map(|step| [copy(step), *step]).collect()
}

/// The faults of the connections between nodes and Redis.
fn links(lot: &mut Lot<'_>) -> Lane {
    lot.lane(1_500..4_000, &[0, 1, 2, 3], |lot, card| {
        let (node, by_ms) = (lot.node(), lot.rng.u64(5..400));
        let (short, long) = (lot.rng.u64(200..2_500), lot.rng.u64(5_000..6_500));
        match card {
            0 => (Act::Delay { node, ms: long, by_ms }, long),
            1 => (Act::Cut { node, ms: short }, short),
            2 => (Act::Cut { node, ms: long }, long),
            _ => (Act::Hold { node, ms: short }, short),
        }
    })
}

fn origin(lot: &mut Lot<'_>) -> Lane {
    lot.lane(1_000..4_000, &[5, 20, 60], |lot, percent| {
        let ms = lot.rng.u64(500..3_000);
        (Act::Lie { ms, percent }, ms)
    })
}

fn policies(lot: &mut Lot<'_>) -> Lane {
    lot.lane(700..2_500, &[0, 1, 2, 3, 4, 5], |lot, card| {
        let (node, file) = (lot.node(), lot.rng.usize(..2));
        let act = match card {
            0 | 1 => Act::Load { node, file, mode: Mode::Swap },
            2 => Act::Load { node, file, mode: Mode::Shadow },
            3 => Act::Load { node, file, mode: Mode::Canary },
            4 => Act::Promote { node },
            _ => Act::RollBack { node },
        };
        (act, 0)
    })
}

fn purges(lot: &mut Lot<'_>) -> Lane {
    lot.lane(60..400, &[0, 0, 0, 1, 2], |lot, card| {
        let target = match card {
            0 => Target::Url(lot.resource()),
            1 => Target::Key(lot.plain()),
            _ => Target::Tag(lot.rng.usize(..TAGS.len())),
        };
        let (soft, publish) = (lot.rng.u32(..4) == 0, lot.rng.u32(..8) > 0);
        (Act::Purge { node: lot.node(), target, soft, publish }, 0)
    })
}

fn writes(lot: &mut Lot<'_>) -> Lane {
    lot.lane(60..500, &[0, 1, 2, 3], |lot, card| {
        let (node, resource) = (lot.node(), lot.resource());
        let act = match card {
            0 => Act::Write { node, resource, method: Method::Post },
            1 => Act::Write { node, resource, method: Method::Put },
            2 => Act::Write { node, resource, method: Method::Delete },
            _ => Act::Change { resource },
        };
        (act, 0)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::catalogue::generate;

    fn bytes(seed: u64, seconds: u64) -> String {
        serde_json::to_string(&draw(seed, seconds, &generate(seed), 3)).unwrap()
    }

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(bytes(1, 60), bytes(1, 60));
        assert_ne!(bytes(1, 60), bytes(2, 60));
    }

    #[test]
    fn a_minute_has_every_kind_and_ends_quietly() {
        for seed in 0..20 {
            let lanes = draw(seed, 60, &generate(seed), 3);
            let mut kinds = BTreeSet::new();
            for lane in &lanes {
                assert!(lane.is_sorted_by_key(|step| step.at_ms), "{seed}");
                assert!(lane.iter().all(|step| step.at_ms + QUIET_MS < 60_000), "{seed}");
                kinds.extend(lane.iter().map(|step| kind(step.act)));
            }
            assert_eq!(kinds.len(), 17, "{seed}: {kinds:?}");
        }
        assert!(draw(1, 1, &generate(1), 3).iter().all(Vec::is_empty), "too short for anything");
    }

    fn kind(act: Act) -> String {
        let text = format!("{act:?}");
        text.split(' ').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_calm_one_has_purges_and_writes_of_one_node() {
        let steps: Vec<Step> = draw_calm(1, 5, &generate(1)).concat();
        assert!(steps.iter().any(|step| matches!(step.act, Act::Purge { node: 0, .. })));
        assert!(steps.iter().any(|step| matches!(step.act, Act::Write { node: 0, .. })));
        let calm = |step: &Step| matches!(step.act, Act::Purge { .. } | Act::Write { .. } | Act::Change { .. });
        assert!(steps.iter().all(calm));
    }
}
