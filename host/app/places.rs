//! Where the nodes of a region are found: in its Redis, and in the etcd that regions share. Each has the names that are
//! taken and what all are asked to do; a node may have one of them, both, or none, and is alone then.

use std::{collections::HashMap, time::Duration};

use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{
    claim::{Claim, Starter, Step, Watch},
    error::Error,
    orders::Order,
    world_nodes::{CLAIM_MAX, WorldNodes},
};
use crate::{
    cache::nodes::{NAME_TIME, NodeList},
    clock,
    config::Config,
    report::NodeFacts,
};

/// Between two looks at a name that another process holds.
const LOOK: Duration = Duration::from_millis(250);

/// The lists that a node is on.
pub(super) struct Places {
    /// That of its region's Redis.
    pub(super) redis: Option<NodeList>,
    /// That of the etcd that regions share.
    pub(super) etcd: Option<WorldNodes>,
}

/// A process of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The name of its node.
    pub(super) name: String,
    /// The process.
    pub(super) process: String,
    /// The order that it has read last.
    pub(super) order: Option<String>,
}

/// What is known of a region.
#[derive(Debug, Default)]
pub(super) struct Region {
    /// Its processes, as far as any list has them.
    pub(super) known: Vec<Known>,
    /// The orders that count now, by their ids, and those that its processes have read last.
    pub(super) orders: Vec<String>,
    /// Why lists couldn't be read, or orders not given.
    pub(super) errors: Vec<String>,
    /// Lists that were read, or that took an order.
    pub(super) reached: usize,
}

/// Whose nodes are meant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose<'n> {
    /// Those of the node's own region.
    Own,
    /// Those of another one, which only etcd has.
    Of(&'n str),
}

impl Places {
    /// Prepares.
    ///
    /// # Errors
    /// The URL of Redis isn't one, or etcd can't be used as it is configured.
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let redis = config.cache.redis.as_ref();
        let redis = redis.map(|redis| NodeList::new(&config.cache.namespace, redis)).transpose()?;
        // `config` refuses the one without the other.
        let etcd = match (&config.global, &config.region) {
            (Some(global), Some(region)) => Some(WorldNodes::new(global, &region.name, &config.node)?),
            _ => None,
        };
        Ok(Self { redis, etcd })
    }

    /// Looks in both whether `former`, the process whose place this one takes, has the node's name, or nobody, or one
    /// that doesn't live. Takes nothing. One that can't be reached has no say.
    ///
    /// # Errors
    /// [`Error::NameTaken`]: another live process has it.
    pub(super) async fn see_name(&self, node: &str, former: &str) -> Result<(), Error> {
        let starter = Starter { own: None, ended: &[], former: Some(former) };
        if let Some(list) = &self.redis {
            let mut watch = Watch::new(NAME_TIME, Step::Take, clock::uptime());
            loop {
                let held = list.holder(node).await;
                if settled(node, held, &mut watch, &starter).await?.is_none_or(|taken| !taken.is_empty()) {
                    break;
                }
            }
        }
        if let Some(world) = &self.etcd {
            let mut watch = Watch::new(CLAIM_MAX, Step::Refuse, clock::uptime());
            loop {
                let held = world.look().await.map(|(held, _)| held);
                if settled(node, held, &mut watch, &starter).await?.is_none_or(|taken| !taken.is_empty()) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes the node's name in both. One that can't be reached for some seconds has no say: a node has to start
    /// without.
    ///
    /// # Errors
    /// [`Error::NameTaken`]: another live process has it.
    pub(super) async fn take_name(&self, node: &str, claims: [(Claim, Starter<'_>); 2]) -> Result<(), Error> {
        let [(in_redis, redis_starter), (in_etcd, etcd_starter)] = claims;
        if let Some(list) = &self.redis {
            let (word, mut watch) = (in_redis.text(), Watch::new(NAME_TIME, Step::Take, clock::uptime()));
            let mut expected = String::new();
            loop {
                let claimed = list.claim(node, &expected, &word).await;
                match settled(node, claimed, &mut watch, &redis_starter).await? {
                    Some(next) => expected = next,
                    None => break,
                }
            }
        }
        if let Some(world) = &self.etcd {
            // Without renewals that could be seen, a key that outlives its lease has a holder that renews it.
            let (word, mut watch) = (in_etcd.text(), Watch::new(CLAIM_MAX, Step::Refuse, clock::uptime()));
            let mut expected = String::new();
            loop {
                let claimed = world.claim(&expected, &word).await;
                match settled(node, claimed, &mut watch, &etcd_starter).await? {
                    Some(next) => expected = next,
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Reads what is known of the nodes of a region.
    pub(super) async fn region(&self, whose: Whose<'_>) -> Region {
        let mut region = Region::default();
        if let (Some(list), Whose::Own) = (&self.redis, whose) {
            match list.read().await {
                Ok(listed) => region.add(said(&listed.nodes), listed.order),
                Err(error) => region.errors.push(error.to_string()),
            }
        }
        if let Some(world) = &self.etcd {
            let name = world.named(whose);
            match world.members(name).await {
                Ok((members, order)) => region.add(claimed(members), order),
                Err(error) => region.errors.push(error.to_string()),
            }
        }
        region
    }

    /// Asks the nodes of a region to do something, for so long, in each place where they look. Returns how many have
    /// taken the order, and why others haven't.
    pub(super) async fn give(&self, whose: Whose<'_>, order: &str, time: Duration) -> (usize, Vec<String>) {
        let (mut taken, mut errors) = (0, Vec::new());
        let mut note = |given: Result<(), String>| match given {
            Ok(()) => taken += 1,
            Err(error) => errors.push(error),
        };
        if let (Some(list), Whose::Own) = (&self.redis, whose) {
            note(list.order(order, time).await.map_err(|error| error.to_string()));
        }
        if let Some(world) = &self.etcd {
            note(world.order(world.named(whose), order, time).await.map_err(|error| error.to_string()));
        }
        (taken, errors)
    }
}

impl Region {
    fn add(&mut self, known: Vec<Known>, order: Option<String>) {
        self.reached += 1;
        self.orders.extend(known.iter().filter_map(|known| known.order.clone()));
        self.known.extend(known);
        let order = order.and_then(|text| serde_json::from_str::<Order>(&text).ok());
        self.orders.extend(order.map(|order| order.id));
    }
}

impl WorldNodes {
    /// Returns the name of the region that is meant.
    fn named<'n>(&'n self, whose: Whose<'n>) -> &'n str {
        match whose {
            Whose::Own => self.region(),
            Whose::Of(name) => name,
        }
    }
}

/// Returns the processes that have said something in Redis. What can't be read is nobody.
fn said(words: &HashMap<String, String>) -> Vec<Known> {
    let facts = words.values().filter_map(|word| serde_json::from_str::<NodeFacts>(word).ok());
    facts.map(|facts| Known { name: facts.name, process: facts.process, order: facts.order }).collect()
}

/// Returns the processes that have claimed a name in etcd.
fn claimed(members: Vec<(String, String)>) -> Vec<Known> {
    let known = |(name, word): (String, String)| {
        let claim = Claim::read(&word)?;
        Some(Known { name, process: claim.process, order: claim.order })
    };
    members.into_iter().filter_map(known).collect()
}

/// Judges an attempt to take a name. Returns whose claim the next one is to replace, after a pause if nobody's; `None`
/// if there is to be no other.
async fn settled<E: std::fmt::Display>(
    node: &str,
    attempt: Result<Option<String>, E>,
    watch: &mut Watch,
    starter: &Starter<'_>,
) -> Result<Option<String>, Error> {
    let held = match attempt {
        Ok(None) => return Ok(None),
        Ok(Some(held)) => held,
        Err(error) if !watch.gives_up(starter, clock::uptime()) => {
            debug!(%error, "who has this node's name can't be told now; asking again");
            sleep(LOOK).await;
            return Ok(Some(String::new()));
        }
        Err(error) => {
            warn!(%error, "whether another node has this node's name can't be told; starting all the same");
            return Ok(None);
        }
    };
    let is_first = !watch.has_begun();
    match watch.look(&held, starter, clock::uptime()) {
        Step::Take => Ok(Some(held)),
        Step::Wait => {
            if is_first {
                let holder = Claim::holder(&held);
                info!(node, holder, "the node's name is taken; waiting whether its holder lives");
            }
            sleep(LOOK).await;
            Ok(Some(String::new()))
        }
        Step::Refuse => Err(Error::NameTaken { node: node.to_owned(), holder: Claim::holder(&held) }),
    }
}
