//! A run: a region of real processes, clients that send requests all the time, and a schedule that is carried out.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    catalogue::{self, TAGS},
    client::{self, Client, Places, Region},
    history::{Event, Fault, History, Scope},
    node::{Node, Surroundings},
    origin::Origin,
    proxy::{Mode, Proxy},
    redis::Redis,
    schedule::{self, Act, Lane, Target},
};

const NODES: usize = 3;
/// Clients of each node: enough that several request the same at once.
const CLIENTS: usize = 3;
/// Bytes that a file of a node on a full disk may have.
const FULL: &str = "4096";

/// A region and what it stands on.
struct World {
    region: Region,
    origin: Origin,
    redis: Redis,
    links: Vec<Proxy>,
    nodes: Vec<Node>,
    /// Two components that do the same.
    policies: [PathBuf; 2],
    /// Holds the tiers.
    _dir: TempDir,
}

/// Runs a schedule of so many seconds; what the nodes write to standard error goes to files in `said`.
pub(crate) async fn run(seed: u64, seconds: u64, said: &Path) -> Vec<Event> {
    let resources = catalogue::generate(seed);
    let lanes = schedule::draw(seed, seconds, &resources, NODES);
    let history = History::begin();
    history.push(Event::Begun { seed, seconds });
    for resource in &resources {
        history.push(Event::Resource(resource.clone()));
    }
    let places = Places::of(NODES);
    let region = Region { history: Arc::clone(&history), places, resources: resources.into() };
    let world = Arc::new(World::start(region, seed, said).await);
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let clients = (0..NODES * CLIENTS).map(|number| Client::new(&world.region, number, number % NODES, seed));
    let clients: Vec<_> = clients.map(|client| tokio::spawn(client.run(end))).collect();
    let lanes: Vec<_> = lanes.into_iter().map(|lane| tokio::spawn(play(Arc::clone(&world), lane, begin))).collect();
    for task in lanes.into_iter().chain(clients) {
        task.await.unwrap();
    }
    world.origin.settle().await;
    history.take()
}

async fn play(world: Arc<World>, lane: Lane, begin: Instant) {
    for step in lane {
        sleep_until(begin + Duration::from_millis(step.at_ms)).await;
        world.act(step.act).await;
    }
}

impl World {
    async fn start(region: Region, seed: u64, said: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(said).unwrap();
        let policies = [0, 1].map(|mark| component(dir.path(), mark));
        let origin = Origin::start(&region.history, &region.resources, seed).await;
        let redis = Redis::start().await;
        let (mut links, mut nodes) = (Vec::new(), Vec::new());
        for number in 0..NODES {
            let link = Proxy::start(redis.port()).await;
            let surroundings = Surroundings { origin: origin.address(), redis: link.address(), policy: &policies[0] };
            nodes.push(Node::start(number, dir.path(), said, &surroundings, &region.places).await);
            links.push(link);
        }
        Self { region, origin, redis, links, nodes, policies, _dir: dir }
    }

    async fn act(&self, act: Act) {
        match act {
            Act::Change { resource } => self.origin.change(&self.region.resources[resource].path),
            Act::Purge { node, target, soft, publish } => self.purge(node, target, soft, publish),
            Act::Write { node, resource, method } => {
                let (region, path) = (self.region.clone(), self.region.resources[resource].path.clone());
                tokio::spawn(async move { client::write(&region, node, &path, method.as_str()).await });
            }
            Act::Lie { ms, percent } => {
                self.origin.lie(percent);
                self.fault("origin lies", None, false, ms).await;
                self.origin.lie(0);
            }
            Act::Load { node, file, mode } => {
                let body = json!({"file": self.policies[file], "mode": mode.as_str()});
                self.policy(node, "load", &body).await;
            }
            Act::Promote { node } => self.policy(node, "promote", &json!({})).await,
            Act::RollBack { node } => self.policy(node, "rollback", &json!({})).await,
            Act::Kill { .. } | Act::Stop { .. } | Act::FullDisk { .. } => self.harm_node(act).await,
            Act::Delay { node, ms, by_ms } => {
                self.link("delayed", node, ms, Mode::Delay(Duration::from_millis(by_ms))).await;
            }
            Act::Cut { node, ms } => self.link("cut", node, ms, Mode::Cut).await,
            Act::Hold { node, ms } => self.link("held", node, ms, Mode::Hold).await,
            Act::FreezeRedis { .. } | Act::KillRedis { .. } | Act::FlushRedis | Act::CopyRedis => {
                self.harm_redis(act).await;
            }
        }
    }

    /// Sends a purge; nobody waits for its acknowledgement, which may take as long as a fence.
    fn purge(&self, node: usize, target: Target, soft: bool, publish: bool) {
        let resources = &self.region.resources;
        let (scope, hex) = match target {
            Target::Url(at) => (Scope::Url(resources[at].path.clone()), None),
            Target::Tag(at) => (Scope::Tag(TAGS[at].to_owned()), None),
            Target::Key(at) => {
                let path = &resources[at].path;
                // Its key isn't known before it has been requested.
                let Some(hex) = self.nodes.iter().find_map(|node| node.key(path)) else { return };
                (Scope::Key(path.clone()), Some(hex))
            }
        };
        if publish {
            publish_all(&self.origin, &self.region, &scope);
        }
        let region = self.region.clone();
        tokio::spawn(async move { client::purge(&region, node, scope, hex.as_deref(), soft, None).await });
    }

    async fn harm_node(&self, act: Act) {
        match act {
            Act::Kill { node, ms } => {
                let from = self.region.history.now();
                self.nodes[node].kill();
                sleep(Duration::from_millis(ms)).await;
                self.nodes[node].launch().await;
                self.record("node killed", Some(node), true, from);
            }
            Act::Stop { node, ms } => {
                self.nodes[node].signal("STOP");
                self.fault("node stopped", Some(node), true, ms).await;
                self.nodes[node].signal("CONT");
            }
            Act::FullDisk { node, ms } => {
                if self.nodes[node].limit_files(FULL) {
                    self.fault("disk full", Some(node), true, ms).await;
                    self.nodes[node].limit_files("unlimited");
                } else {
                    println!("the disk of node {node} can't be filled here: prlimit doesn't work");
                }
            }
            _ => {}
        }
    }

    async fn harm_redis(&self, act: Act) {
        match act {
            Act::FreezeRedis { ms } => {
                self.redis.freeze();
                self.fault("redis frozen", None, true, ms).await;
                self.redis.thaw();
            }
            Act::KillRedis { ms, back } => {
                let from = self.region.history.now();
                self.redis.kill(back).await;
                sleep(Duration::from_millis(ms)).await;
                self.redis.start_again().await;
                self.record(&format!("redis killed, back {back:?}"), None, true, from);
            }
            Act::FlushRedis => {
                let from = self.region.history.now();
                self.redis.flush().await;
                self.record("redis flushed", None, true, from);
            }
            Act::CopyRedis => self.redis.copy().await,
            _ => {}
        }
    }

    async fn link(&self, what: &str, node: usize, ms: u64, mode: Mode) {
        self.links[node].set(mode);
        self.fault(&format!("link {what}"), Some(node), true, ms).await;
        self.links[node].set(Mode::Pass);
    }

    async fn policy(&self, node: usize, action: &str, body: &serde_json::Value) {
        let from = self.region.history.now();
        if let Some(place) = self.region.places.get(node) {
            // A trial that isn't under way can't end; that is no fault of the node.
            let _ = client::command(place.admin, &format!("/policies/tenant/{action}"), body).await;
            self.record(&format!("policy {action}"), Some(node), false, from);
        }
    }

    /// Lets a fault that has begun last for a while, and records it.
    async fn fault(&self, what: &str, node: Option<usize>, cuts_off: bool, ms: u64) {
        let from = self.region.history.now();
        sleep(Duration::from_millis(ms)).await;
        self.record(what, node, cuts_off, from);
    }

    fn record(&self, what: &str, node: Option<usize>, cuts_off: bool, from: u64) {
        let (what, until) = (what.to_owned(), self.region.history.now());
        self.region.history.push(Event::Fault(Fault { what, node, cuts_off, from, until }));
    }
}

/// Everything that a purge names changes at the origin.
pub(crate) fn publish_all(origin: &Origin, region: &Region, scope: &Scope) {
    for resource in region.resources.iter() {
        let named = match scope {
            Scope::Url(path) | Scope::Key(path) => resource.path == *path,
            Scope::Tag(tag) => resource.tags.contains(tag),
        };
        if named {
            origin.change(&resource.path);
        }
    }
}

/// A copy of the shipped component with a custom section, which makes it another one that does the same.
fn component(dir: &Path, mark: u8) -> PathBuf {
    let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("plugins/dist/tenant-key.wasm");
    let mut bytes = fs::read(shipped).unwrap();
    bytes.extend([0, 3, 1, b'm', mark]);
    let file = dir.join(format!("tenant-{mark}.wasm"));
    fs::write(&file, bytes).unwrap();
    file
}
