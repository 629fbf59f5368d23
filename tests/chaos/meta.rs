//! Whether the checker finds what it is for. Each bug that a debug build of holm can have is planted in real nodes, which
//! clients of a seed read, purge and write to, while the steps of that bug bring it about for certain: the checker must
//! find what the bug breaks, and nothing in the same run without it.

use std::{
    fs::{self, File},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures_util::stream::{self, StreamExt as _};
use holm::planted::{self, Plant};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    SLACK,
    catalogue::{self, Resource, Sort, TAGS, Validator},
    checker::{self, Rule, Violation},
    client::{self, Client, Places, Region, Wish},
    drive,
    history::{self, Event, Fault, History, Micros, Scope},
    node::Node,
    origin::Origin,
    process::Running,
    proxy::{Mode, Proxy},
    redis::Redis,
    schedule::{self, Act, Lane, Target},
};

const SEED: u64 = 11;
/// A run lasts at least so long, whatever its steps take.
const RUN_MIN: Duration = Duration::from_secs(1);
/// The time for which events are drawn from the seed; no run is longer.
const SECONDS: u64 = 120;
/// Clients of each node that request what the seed draws.
const CLIENTS: usize = 2;
/// Bugs that are looked for at a time.
const AT_ONCE: usize = 2;
/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// The fence of a node that has a region.
const FENCE_MS: u64 = 1_000;

// Resources that only the steps request.
const PLAIN: &str = "/m/plain";
const PAGES: [&str; 2] = ["/m/list?page=1", "/m/list?page=2"];
const LANGUAGES: &str = "/m/languages";
const PRIVATE: &str = "/m/private";
const BRIEF: &str = "/m/brief";
const LARGE: &str = "/m/large";

/// The rule that a node with this bug breaks.
const fn broken(plant: Plant) -> Rule {
    match plant {
        Plant::PurgeIgnored | Plant::FenceIgnored => Rule::Purged,
        Plant::WriteIgnored => Rule::Written,
        Plant::KeyWithoutQuery | Plant::VaryIgnored => Rule::AnotherKey,
        Plant::PrivateShared => Rule::AnotherClient,
        Plant::BodyCutShort | Plant::PartsUnstamped => Rule::Torn,
        Plant::FreshnessIgnored => Rule::Expired,
        Plant::ReloadIgnored => Rule::Reload,
        Plant::ConditionIgnored => Rule::NotModified,
    }
}

/// A run under way.
struct Run {
    region: Region,
    /// The same without the resources that only the steps request.
    crowd: Region,
    origin: Arc<Origin>,
    nodes: Vec<Node>,
    /// Between each node and Redis, if the run has a region of two nodes and not one node alone.
    links: Vec<Proxy>,
    _redis: Option<Redis>,
    _dir: TempDir,
}

impl Run {
    async fn start(plant: Plant, is_planted: bool) -> Self {
        let said = crate::folder().join("meta").join(label(plant, is_planted));
        fs::create_dir_all(&said).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (history, mut resources) = (History::begin(), catalogue::generate(SEED));
        // These need a policy, which takes longer to compile than a run.
        resources.retain(|resource| resource.sort != Sort::Tenant);
        let crowd = resources.clone().into();
        resources.extend(subjects());
        for resource in &resources {
            history.push(Event::Resource(resource.clone()));
        }
        let redis = if plant == Plant::FenceIgnored { Some(Redis::start().await) } else { None };
        let count = if redis.is_some() { 2 } else { 1 };
        let region = Region { history, places: Places::of(count), resources: resources.into() };
        let crowd = Region { resources: crowd, ..region.clone() };
        let origin = Arc::new(Origin::start(&region.history, &region.resources, SEED).await);
        let bug = is_planted.then_some(plant);
        let (mut nodes, mut links) = (Vec::new(), Vec::new());
        for number in 0..count {
            if let Some(redis) = &redis {
                links.push(Proxy::start(redis.port()).await);
            }
            let config = config(number, origin.address(), links.last().map(Proxy::address));
            let dir = dir.path().join(format!("n{number}"));
            nodes.push(Node::with(number, dir, &said, &config, bug, &region.places).await);
        }
        Self { region, crowd, origin, nodes, links, _redis: redis, _dir: dir }
    }

    /// Starts the clients, purges and writes of the seed. They end when this is dropped.
    fn begin(&self) -> JoinSet<()> {
        let begin = Instant::now();
        let end = begin + Duration::from_secs(SECONDS);
        let mut tasks = JoinSet::new();
        let nodes = self.nodes.len();
        for number in 0..nodes * CLIENTS {
            tasks.spawn(Client::new(&self.crowd, number, number % nodes, SEED).run(end));
        }
        for lane in schedule::draw_calm(SEED, SECONDS, &self.crowd.resources) {
            tasks.spawn(play(Arc::clone(&self.origin), self.crowd.clone(), lane, begin));
        }
        tasks
    }

    /// A client of a node, for the steps.
    fn client(&self, number: usize, node: usize) -> Client {
        Client::new(&self.region, 100 + number, node, SEED)
    }

    /// Brings a bug about. Each step waits for what the next one builds on.
    async fn steps(&self, plant: Plant) {
        let (mut one, mut other) = (self.client(1, 0), self.client(2, self.nodes.len() - 1));
        match plant {
            Plant::PurgeIgnored => {
                stored(&mut one, PLAIN, "").await;
                self.renew(PLAIN).await;
                one.get(PLAIN, "", Wish::Any).await;
            }
            Plant::FenceIgnored => {
                stored(&mut other, PLAIN, "").await;
                let from = self.region.history.now();
                self.links[1].set(Mode::Cut);
                self.renew(PLAIN).await;
                other.get(PLAIN, "", Wish::Any).await;
                let (what, until) = ("link cut".to_owned(), self.region.history.now());
                self.region.history.push(Event::Fault(Fault { what, node: Some(1), cuts_off: true, from, until }));
            }
            Plant::WriteIgnored => {
                stored(&mut one, PLAIN, "").await;
                client::write(&self.region, 0, PLAIN, "POST").await;
                one.get(PLAIN, "", Wish::Any).await;
            }
            Plant::KeyWithoutQuery => {
                stored(&mut one, PAGES[0], "").await;
                one.get(PAGES[1], "", Wish::Any).await;
            }
            Plant::VaryIgnored => {
                stored(&mut one, LANGUAGES, "de").await;
                one.get(LANGUAGES, "en", Wish::Any).await;
            }
            Plant::PrivateShared => {
                one.get(PRIVATE, "", Wish::Any).await;
                other.get(PRIVATE, "", Wish::Any).await;
            }
            Plant::BodyCutShort => {
                stored(&mut one, LARGE, "").await;
            }
            Plant::PartsUnstamped => {
                stored(&mut one, LARGE, "").await;
                // The first part of the new body is stored when it breaks off, and what is stored is still fresh.
                self.origin.change(LARGE);
                self.origin.break_off(Some(LARGE));
                one.get(LARGE, "", Wish::Anew).await;
                self.origin.break_off(None);
                one.get(LARGE, "", Wish::Any).await;
            }
            Plant::FreshnessIgnored => {
                stored(&mut one, BRIEF, "").await;
                outlast(self.life(BRIEF)).await;
                one.get(BRIEF, "", Wish::Any).await;
            }
            Plant::ReloadIgnored => {
                stored(&mut one, PLAIN, "").await;
                outlast(0).await;
                one.get(PLAIN, "", Wish::Anew).await;
            }
            Plant::ConditionIgnored => {
                let had = stored(&mut one, PLAIN, "").await;
                self.renew(PLAIN).await;
                stored(&mut one, PLAIN, "").await;
                one.get(PLAIN, "", Wish::Unless(had)).await;
            }
        }
    }

    /// Changes a resource, and purges it through the first node until that is acknowledged as complete.
    async fn renew(&self, path: &str) {
        self.origin.change(path);
        let end = Instant::now() + PATIENCE;
        while !client::purge(&self.region, 0, Scope::Url(path.to_owned()), None, false, None).await {
            assert!(Instant::now() < end, "no purge of {path} is complete");
            sleep(LOOK).await;
        }
    }

    fn life(&self, path: &str) -> Micros {
        let resource = self.region.resources.iter().find(|resource| resource.path == path);
        resource.map_or(0, Resource::life)
    }
}

/// Asks until the response comes from the cache, so that it is stored for certain, and returns its version.
pub(crate) async fn stored(client: &mut Client, path: &str, select: &str) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = client.get(path, select, Wish::Any).await;
        let is_hit = seen.cache.as_deref().is_some_and(|cache| cache.contains("; hit"));
        if let (true, Some(stamp)) = (is_hit, &seen.stamp) {
            return stamp.version;
        }
        assert!(Instant::now() < end, "{path} doesn't come from the cache: {seen:?}");
        sleep(LOOK).await;
    }
}

/// Waits until what has come by now is older than this, whatever the checker allows for.
async fn outlast(age: Micros) {
    sleep(Duration::from_micros(age + SLACK) + LOOK).await;
}

/// The resources that only the steps request. All live long but for one.
fn subjects() -> Vec<Resource> {
    let subject = |path: &str, sort: Sort, ttl_s: u64, length: usize| Resource {
        path: path.to_owned(),
        sort,
        ttl_s,
        grace_s: 0,
        if_error_s: 0,
        validator: if sort.is_shared() { Validator::Strong } else { Validator::None },
        length,
        tags: Vec::new(),
    };
    vec![
        subject(PLAIN, Sort::Plain, 600, 5_000),
        subject(PAGES[0], Sort::Plain, 600, 5_000),
        subject(PAGES[1], Sort::Plain, 600, 5_000),
        subject(LANGUAGES, Sort::Vary, 600, 5_000),
        subject(PRIVATE, Sort::Private, 600, 5_000),
        subject(BRIEF, Sort::Plain, 1, 5_000),
        // Three parts, the first of them in its first half.
        subject(LARGE, Sort::Plain, 600, 2_500_000),
    ]
}

async fn play(origin: Arc<Origin>, region: Region, lane: Lane, begin: Instant) {
    for step in lane {
        sleep_until(begin + Duration::from_millis(step.at_ms)).await;
        match step.act {
            Act::Change { resource } => origin.change(&region.resources[resource].path),
            Act::Write { node, resource, method } => {
                let path = &region.resources[resource].path;
                client::write(&region, node, path, method.as_str()).await;
            }
            Act::Purge { node, target: Target::Url(at), soft, publish } => {
                let scope = Scope::Url(region.resources[at].path.clone());
                purge(&origin, &region, node, scope, soft, publish).await;
            }
            Act::Purge { node, target: Target::Tag(at), soft, publish } => {
                purge(&origin, &region, node, Scope::Tag(TAGS[at].to_owned()), soft, publish).await;
            }
            _ => {}
        }
    }
}

async fn purge(origin: &Origin, region: &Region, node: usize, scope: Scope, soft: bool, publish: bool) {
    if publish {
        drive::publish_all(origin, region, &scope);
    }
    client::purge(region, node, scope, None, soft, None).await;
}

/// The rules that were broken in a run with this bug, or in the same run without it.
async fn violations(plant: Plant, is_planted: bool) -> Vec<Violation> {
    let run = Run::start(plant, is_planted).await;
    let enough = Instant::now() + RUN_MIN;
    let mut tasks = run.begin();
    run.steps(plant).await;
    sleep_until(enough).await;
    tasks.shutdown().await;
    run.origin.settle().await;
    let events = run.region.history.take();
    let violations = checker::check(&events, SLACK);
    let is_found = violations.iter().any(|violation| violation.rule == broken(plant));
    let is_right = if is_planted { is_found } else { violations.is_empty() };
    if !is_right {
        history::write(&crate::folder().join("meta").join(label(plant, is_planted) + ".jsonl"), &events).unwrap();
    }
    violations
}

fn label(plant: Plant, is_planted: bool) -> String {
    let how = if is_planted { "planted" } else { "absent" };
    format!("{}-{how}", plant.name())
}

/// The checker's mistake about a bug, if it made one.
async fn misjudged(plant: Plant) -> Option<String> {
    let (absent, planted) = tokio::join!(violations(plant, false), violations(plant, true));
    if let Some(violation) = absent.first() {
        return Some(format!("without {plant:?}, {} responses are called wrong: {violation}", absent.len()));
    }
    if planted.iter().any(|violation| violation.rule == broken(plant)) {
        return None;
    }
    let found: Vec<Rule> = planted.iter().map(|violation| violation.rule).collect();
    Some(format!("{plant:?} is planted, and {found:?} were found, but not {:?}", broken(plant)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build can have bugs planted")]
async fn each_planted_bug_is_found_and_nothing_without_it() {
    let judged = stream::iter(Plant::ALL).map(|plant| misjudged(*plant)).buffer_unordered(AT_ONCE);
    let wrong: Vec<String> = judged.filter_map(std::future::ready).collect().await;
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[tokio::test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build can have bugs planted")]
async fn a_bug_that_is_not_known_keeps_the_node_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("said");
    let mut command = Command::new(env!("CARGO_BIN_EXE_holm"));
    command.args(["serve", "--origin", "http://127.0.0.1:1", "--listen", "127.0.0.1:0"]);
    command.env(planted::VARIABLE, "fence").env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
    let mut node = Running::start(&mut command);
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = node.ended() {
            break status;
        }
        assert!(Instant::now() < end, "it runs");
        sleep(LOOK).await;
    };
    let said = fs::read_to_string(&said).unwrap();
    assert!(!status.success() && said.contains("HOLM_PLANTED_BUG is \"fence\""), "{said}");
    assert!(Plant::ALL.iter().all(|plant| said.contains(plant.name())), "{said}");
}

/// One node alone has a log that is always at hand, so that no wait decides what it serves.
fn config(number: usize, origin: SocketAddr, redis: Option<SocketAddr>) -> String {
    let region = redis.map_or_else(String::new, |address| {
        format!("[cache.redis]\nurl = \"redis://{address}\"\n[cache.purge]\nfence_ms = {FENCE_MS}\nack_ms = 7000\n")
    });
    format!(
        r#"node = "n{number}"
[[listen]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[log]
access = "off"
[cache.memory]
bytes = "64MiB"
{region}[pool.web]
endpoints = ["http://{origin}"]
[pool.web.eject]
failures = 1000000
[[route]]
name = "everything"
path = "/"
pool = "web"
stale_if_unreachable_ms = 0
"#
    )
}

#[test]
fn the_configurations_are_ones() {
    let address = "127.0.0.1:1".parse().unwrap();
    for redis in [None, Some(address)] {
        let text = config(0, address, redis);
        if let Err(error) = holm::config::parse("meta.toml", &text) {
            panic!("{error}\n{text}");
        }
    }
}
