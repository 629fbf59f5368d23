//! The regions, their nodes and engines, a proxy for each connection that may fail, and a schedule that is carried out.

use std::{fs, net::SocketAddr, ops::Range, path::Path, sync::Arc, time::Duration};

use holm::planted::Plant;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};

use super::{
    etcd::Cluster,
    faults::{self, Act, Death, Fault, Links, Loss, Purge},
    healthy_time, latency,
};
use crate::{
    catalogue::{self, Sort, TAGS},
    client::{self, Client, Places, Region},
    drive,
    history::{self, Event, History, Scope},
    node::{self, Node},
    origin::Origin,
    proxy::{Mode, Proxy},
    redis::Redis,
    schedule::{Lane, Target},
};

pub(super) const REGIONS: usize = 3;
/// Nodes of all regions.
pub(super) const NODES: usize = 2 * REGIONS;
/// Members of etcd.
pub(super) const MEMBERS: usize = 3;
/// From each region to etcd and back, in milliseconds.
pub(super) const ROUND_TRIPS_MS: [u64; REGIONS] = [4, 20, 40];

/// Clients of each node.
const CLIENTS: usize = 2;
/// Purges that may wait for their acknowledgement at a time; further ones aren't sent.
const PURGES_MAX: usize = 32;

/// How many there are.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) regions: usize,
    /// Nodes of each region.
    pub(super) nodes: usize,
    pub(super) members: usize,
}

impl Shape {
    /// The nodes of a region, which are neighbours.
    pub(super) const fn nodes_of(self, region: usize) -> Range<usize> {
        region * self.nodes..(region + 1) * self.nodes
    }

    const fn region_of(self, node: usize) -> usize {
        node / self.nodes
    }
}

/// All regions and what they stand on.
pub(super) struct World {
    pub(super) shape: Shape,
    /// What clients know of all regions.
    pub(super) clients: Region,
    pub(super) origin: Origin,
    /// Of each region.
    pub(super) redis: Vec<Redis>,
    etcd: Cluster,
    /// Of each node.
    links: Vec<NodeLinks>,
    nodes: Vec<Node>,
    purges: Arc<Semaphore>,
    /// Holds the tiers.
    _dir: TempDir,
}

/// What a node reaches its engines through.
struct NodeLinks {
    redis: Proxy,
    /// One to each member.
    etcd: Vec<Proxy>,
}

/// Runs a schedule of so many seconds; what the nodes write to standard error goes to files in `said`. Returns the history,
/// and what purges took while nothing failed.
pub(super) async fn run(seed: u64, seconds: u64, said: &Path) -> (Vec<Event>, latency::Latencies) {
    let shape = Shape { regions: REGIONS, nodes: NODES / REGIONS, members: MEMBERS };
    let world = Arc::new(World::start(shape, seed, said, None).await);
    world.clients.history.push(Event::Begun { seed, seconds });
    let healthy = healthy_time(seconds);
    let latencies = latency::measure(&world, healthy).await;
    let seconds = seconds.saturating_sub(healthy.as_secs());
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let clients = (0..NODES * CLIENTS).map(|number| Client::new(&world.clients, number, number % NODES, seed).run(end));
    let mut tasks: Vec<_> = clients.map(tokio::spawn).collect();
    for lane in faults::draw(seed, seconds, &world.clients.resources) {
        tasks.push(tokio::spawn(play(Arc::clone(&world), lane, begin)));
    }
    for task in tasks {
        task.await.unwrap();
    }
    (world.finish().await, latencies)
}

async fn play(world: Arc<World>, lane: Lane<Act>, begin: Instant) {
    for step in lane {
        sleep_until(begin + Duration::from_millis(step.at_ms)).await;
        world.act(step.act).await;
    }
}

impl World {
    /// Starts everything, and returns when each node is ready. The nodes have a bug if one is planted.
    pub(super) async fn start(shape: Shape, seed: u64, said: &Path, plant: Option<Plant>) -> Self {
        fs::create_dir_all(said).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (history, mut resources) = (History::begin(), catalogue::generate(seed));
        // These need a policy.
        resources.retain(|resource| resource.sort != Sort::Tenant);
        for resource in &resources {
            history.push(Event::Resource(resource.clone()));
        }
        let places = Places::of(shape.regions * shape.nodes);
        let clients = Region { history, places, resources: resources.into() };
        let origin = Origin::start(&clients.history, &clients.resources, seed).await;
        let etcd = Cluster::start(shape.members).await;
        let (mut redis, mut links, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        for region in 0..shape.regions {
            let own = Redis::start().await;
            for number in shape.nodes_of(region) {
                let between = NodeLinks::start(own.port(), &etcd).await;
                let dir = dir.path().join(format!("n{number}"));
                let config = config(number, region, &dir, origin.address(), &between);
                nodes.push(Node::with(number, dir, said, &config, plant, &clients.places).await);
                links.push(between);
            }
            redis.push(own);
        }
        let purges = Arc::new(Semaphore::new(PURGES_MAX));
        let world = Self { shape, clients, origin, redis, etcd, links, nodes, purges, _dir: dir };
        world.introduce().await;
        (0..shape.regions).for_each(|region| world.set(Links::Region(region), None));
        world
    }

    /// Tells each log that there are no nodes but those that were started. Before that each purge would wait for a fence:
    /// a log that has just begun may have lost some.
    async fn introduce(&self) {
        for region in 0..self.shape.regions {
            let first = self.shape.nodes_of(region).start;
            let place = self.clients.places.get(first).unwrap();
            let said = client::command(place.admin, "/nodes/*/sign-off", &json!({})).await;
            // 404: the region's strangers have never been there, and the world's are gone already.
            assert!(matches!(said, Some((200 | 404, _))), "{said:?}");
        }
    }

    /// Returns the history, once the origin has recorded what is under way.
    pub(super) async fn finish(&self) -> Vec<Event> {
        self.origin.settle().await;
        self.clients.history.take()
    }

    async fn act(&self, act: Act) {
        match act {
            Act::Change { resource } => self.origin.change(&self.clients.resources[resource].path),
            Act::Purge(purge) => self.purge(purge),
            Act::CopyRedis => {
                for redis in &self.redis {
                    redis.copy().await;
                }
            }
            Act::Fault { fault, ms } => {
                let from = self.clients.history.now();
                self.begin(fault).await;
                sleep(Duration::from_millis(ms)).await;
                self.end(fault).await;
                let until = self.clients.history.now();
                let (what, node) = (fault.name(), fault.node());
                self.clients.history.push(Event::Fault(history::Fault { what, node, cuts_off: true, from, until }));
            }
        }
    }

    /// Changes what a purge names, and sends the purge; nobody waits for its acknowledgement, which may take as long as a
    /// fence.
    fn purge(&self, purge: Purge) {
        let Ok(permit) = Arc::clone(&self.purges).try_acquire_owned() else { return };
        let scope = match purge.target {
            Target::Url(at) | Target::Key(at) => Scope::Url(self.clients.resources[at].path.clone()),
            Target::Tag(at) => Scope::Tag(TAGS[at].to_owned()),
        };
        drive::publish_all(&self.origin, &self.clients, &scope);
        let Purge { node, soft, is_for_all, .. } = purge;
        let nodes = (!is_for_all).then(|| self.shape.nodes_of(self.shape.region_of(node)));
        let clients = self.clients.clone();
        tokio::spawn(async move {
            client::purge(&clients, node, scope, None, soft, nodes).await;
            drop(permit);
        });
    }

    /// Has something fail.
    pub(super) async fn begin(&self, fault: Fault) {
        match fault {
            Fault::Node(node, Death::Kill) => self.nodes[node].kill(),
            Fault::Node(node, Death::Freeze) => self.nodes[node].signal("STOP"),
            Fault::Clock(node, by_s) => self.set_clock(node, by_s),
            Fault::Redis(region, Loss::Frozen) => self.redis[region].freeze(),
            Fault::Redis(region, Loss::Emptied) => self.redis[region].flush().await,
            Fault::Redis(region, Loss::Killed(back)) => self.redis[region].kill(back).await,
            Fault::Etcd { first, count, death } => self.etcd.harm(first, count, death),
            Fault::Links(links, mode) => self.set(links, Some(mode)),
        }
    }

    async fn end(&self, fault: Fault) {
        match fault {
            Fault::Node(node, Death::Kill) => self.nodes[node].launch().await,
            Fault::Node(node, Death::Freeze) => self.nodes[node].signal("CONT"),
            Fault::Clock(node, _) => self.set_clock(node, 0),
            Fault::Redis(region, Loss::Frozen) => self.redis[region].thaw(),
            Fault::Redis(_, Loss::Emptied) => {}
            Fault::Redis(region, Loss::Killed(_)) => self.redis[region].start_again().await,
            Fault::Etcd { first, count, death } => self.etcd.mend(first, count, death).await,
            Fault::Links(links, _) => self.set(links, None),
        }
    }

    pub(super) fn set_clock(&self, node: usize, by_s: i64) {
        if !self.nodes[node].set_clock(by_s) {
            println!("regions: the clock of node {node} can't be set here: libfaketime isn't installed");
        }
    }

    /// Treats what passes from now on in this way; as the distance has it without one.
    fn set(&self, links: Links, mode: Option<Mode>) {
        let nodes = match links {
            Links::Redis(node) => return self.links[node].redis.set(mode.unwrap_or_default()),
            Links::Etcd(node) => node..node + 1,
            Links::Region(region) => self.shape.nodes_of(region),
        };
        for node in nodes {
            let there_and_back = Duration::from_millis(ROUND_TRIPS_MS[self.shape.region_of(node)]);
            let mode = mode.unwrap_or(Mode::Delay(there_and_back / 2));
            self.links[node].etcd.iter().for_each(|link| link.set(mode));
        }
    }
}

impl NodeLinks {
    async fn start(redis: u16, etcd: &Cluster) -> Self {
        let mut links = Self { redis: Proxy::start(redis).await, etcd: Vec::new() };
        for port in etcd.ports() {
            links.etcd.push(Proxy::start(port).await);
        }
        links
    }
}

/// Short fences, so that a minute has many of them; a purge may wait until that of a node which is cut off has certainly
/// expired.
fn config(number: usize, region: usize, dir: &Path, origin: SocketAddr, links: &NodeLinks) -> String {
    let basics = node::basics(number, dir, origin, links.redis.address());
    let etcd: Vec<String> = links.etcd.iter().map(|link| format!("\"http://{}\"", link.address())).collect();
    let (etcd, rest) = (etcd.join(", "), node::REST);
    format!(
        r#"{basics}[log]
access = "off"
[region]
name = "r{region}"
[global]
etcd = [{etcd}]
[global.purge]
fence_ms = 3_000
ack_ms = 8_000
[cache.purge]
fence_ms = 2_000
ack_ms = 6_000
{rest}"#
    )
}

#[tokio::test]
async fn the_configuration_is_one() {
    let links = NodeLinks { redis: Proxy::start(1).await, etcd: vec![Proxy::start(2).await, Proxy::start(3).await] };
    let text = config(5, 2, Path::new("dir"), "127.0.0.1:1".parse().unwrap(), &links);
    if let Err(error) = holm::config::parse("regions.toml", &text) {
        panic!("{error}\n{text}");
    }
}
