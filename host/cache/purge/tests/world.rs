//! Nodes that follow two logs.

use std::path::Path;

use proptest::prelude::*;
use tokio::task::JoinHandle;

use super::{loss::killed, *};

/// The logs of one region and of the world.
#[derive(Default)]
pub(super) struct Logs {
    pub(super) region: Arc<FakeLog>,
    pub(super) world: Arc<FakeLog>,
}

impl Logs {
    /// Opens a node of the region `eu`, with these limits in both logs, once the one before has let go of its directory.
    async fn opened(&self, name: &str, dir: Option<&Path>, config: &config::Purge) -> Arc<Purges> {
        self.opened_with(name, dir, config, Some(config.clone())).await
    }

    async fn opened_with(
        &self,
        name: &str,
        dir: Option<&Path>,
        config: &config::Purge,
        world: Option<config::Purge>,
    ) -> Arc<Purges> {
        let end = clock::uptime().plus(Duration::from_secs(10));
        loop {
            let region = Arc::clone(&self.region) as Arc<dyn Log>;
            let log = Arc::clone(&self.world) as Arc<dyn Log>;
            let world = world.clone().map(|purge| World { region: "eu".to_owned(), log, purge });
            match Purges::open(name, config, dir, Some(region), world, &Metrics::default()) {
                Ok(purges) => return purges,
                Err(error) => assert!(clock::uptime() < end, "{error}"),
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Starts a node, and waits until it is in step with both logs.
    pub(super) async fn started(&self, name: &str, dir: Option<&Path>) -> Node {
        let node = Node::run(self.opened(name, dir, &config()).await);
        node.caught_up().await;
        node
    }
}

/// A node that follows its logs.
pub(super) struct Node {
    purges: Arc<Purges>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Node {
    fn run(purges: Arc<Purges>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&purges).run(stop.clone()));
        Self { purges, stop, task }
    }

    pub(super) async fn caught_up(&self) {
        until("step", || self.purges.in_step()).await;
    }

    /// Ends it as a process that is killed.
    pub(super) async fn kill(self) {
        killed(self.task).await;
    }

    /// Ends it in good order.
    async fn end(self) -> Arc<Purges> {
        self.stop.cancel();
        let _ = self.task.await;
        self.purges
    }
}

impl std::ops::Deref for Node {
    type Target = Arc<Purges>;

    fn deref(&self) -> &Arc<Purges> {
        &self.purges
    }
}

/// An entry as a hit judges it.
pub(super) struct Kept {
    tags: Vec<Tag>,
    urls: Urls,
    mark: Mark,
    checked: Checked,
}

impl Kept {
    pub(super) fn new(node: &Purges, tag: &str) -> Self {
        let tags = vec![Tag::named(tag.as_bytes())];
        Self { tags, urls: Urls::Unknown, mark: node.mark(), checked: Checked::default() }
    }

    /// One for this URL.
    pub(super) fn under(node: &Purges, url: &str) -> Self {
        Self { tags: tag::of_url(url, true).to_vec(), urls: Urls::one(url), ..Self::new(node, "") }
    }

    /// As another process, or this one after a restart, finds it in a tier.
    pub(super) fn read_back(&self) -> Self {
        let mark = Mark { local: 0, at: clock::Uptime::default(), ..self.mark };
        Self { tags: self.tags.clone(), urls: self.urls.clone(), mark, checked: Checked::default() }
    }

    pub(super) fn judged(&self, node: &Purges) -> Standing {
        let subject = Subject { tags: &self.tags, urls: &self.urls, mark: &self.mark };
        node.check(&subject, &self.checked, None::<&fn(bool) -> UrlTags>)
    }
}

pub(super) async fn purged(node: &Purges, extent: Extent, name: &str) -> Receipt {
    let (done, receipt) = node.purge(Some(extent), &tag(name), Kind::Hard, ACK).await.unwrap();
    assert_eq!(done, extent);
    assert!(receipt.missing.is_empty(), "{receipt:?}");
    receipt
}

#[tokio::test]
async fn an_entry_is_good_only_if_both_logs_say_so() {
    let logs = Logs::default();
    let node = logs.started("n", None).await;
    let [a, b, c] = ["a", "b", "c"].map(|tag| Kept::new(&node, tag));
    for kept in [&a, &b, &c] {
        assert_eq!((kept.judged(&node), kept.read_back().judged(&node)), (Standing::Good, Standing::Good));
    }
    assert_eq!(purged(&node, Extent::Region, "a").await.applied, ["n"]);
    let (widest, receipt) = node.purge(None, &tag("b"), Kind::Soft, ACK).await.unwrap();
    assert_eq!((widest, receipt.applied), (Extent::World, vec!["eu/n".to_owned()]));
    for (kept, wanted) in [(&a, Standing::Gone), (&b, Standing::Stale), (&c, Standing::Good)] {
        assert_eq!((kept.judged(&node), kept.read_back().judged(&node)), (wanted, wanted));
    }
    assert_eq!(Kept::new(&node, "b").judged(&node), Standing::Good, "fetched since");
}

/// A purge of the world takes what any node of the region has put into the tier that they share, whoever finds it there.
#[tokio::test]
async fn a_purge_of_the_world_takes_what_is_in_the_regions_shared_tier() {
    let logs = Logs::default();
    let (one, two) = (logs.started("one", None).await, logs.started("two", None).await);
    let shared = Kept::new(&one, "t").read_back();
    assert_eq!(shared.judged(&two), Standing::Good);
    assert_eq!(purged(&two, Extent::World, "t").await.applied, ["eu/one", "eu/two"]);
    assert_eq!((shared.judged(&one), shared.judged(&two)), (Standing::Gone, Standing::Gone));
}

#[tokio::test]
async fn what_was_stored_without_the_worlds_log_is_not_trusted_with_it() {
    let logs = Logs::default();
    let both = logs.started("both", None).await;
    let alone = Node::run(logs.opened_with("alone", None, &config(), None).await);
    alone.caught_up().await;
    let (with, without) = (Kept::new(&both, "t").read_back(), Kept::new(&alone, "t").read_back());
    assert_eq!((with.judged(&both), without.judged(&both)), (Standing::Good, Standing::Doubtful));
    assert_eq!((with.judged(&alone), without.judged(&alone)), (Standing::Good, Standing::Good));
    purged(&both, Extent::World, "t").await;
    assert_eq!(without.judged(&both), Standing::Gone);
    let refused = alone.purge(Some(Extent::World), &tag("t"), Kind::Hard, ACK).await.unwrap_err();
    assert!(matches!(&refused, Error::Extent { wanted: Extent::World, allowed } if allowed == "region"), "{refused}");
}

/// Whatever becomes of one log, the other one's word counts as before, and that of the first is doubtful.
#[tokio::test]
async fn a_fault_of_the_worlds_log_makes_doubtful_what_is_older_and_stops_neither_log() {
    for fault in ["put back", "wiped", "unreadable", "trimmed"] {
        let logs = Logs::default();
        let node = logs.started("n", None).await;
        let copy = logs.world.server.lock().clone();
        purged(&node, Extent::World, "x").await;
        let kept = Kept::new(&node, "t");
        match fault {
            "put back" => logs.world.restore(copy),
            "wiped" => logs.world.restore(Server::default()),
            "unreadable" => logs.world.add(None),
            _ => {
                let mut server = logs.world.server.lock();
                (0..3).for_each(|_| server.add(Some((Tag::named(b"y"), Kind::Hard))));
                server.records.drain(..3);
            }
        }
        until(fault, || kept.judged(&node) == Standing::Doubtful).await;
        node.caught_up().await;
        let again = Kept::new(&node, "t");
        until("trust", || again.judged(&node) == Standing::Good).await;
        purged(&node, Extent::Region, "u").await;
        purged(&node, Extent::World, "t").await;
        assert_eq!(again.judged(&node), Standing::Gone, "{fault}");
    }
}

#[tokio::test]
async fn both_fences_must_hold() {
    for down in [Extent::Region, Extent::World] {
        let logs = Logs::default();
        let node = logs.started("n", None).await;
        let kept = Kept::new(&node, "t");
        let (log, other) = match down {
            Extent::World => (&logs.world, Extent::Region),
            _ => (&logs.region, Extent::World),
        };
        log.set_down(true);
        until("the fence's end", || kept.judged(&node) == Standing::Unconfirmed).await;
        assert!(!node.in_step() && !node.is_serving_cut_off(), "{down}");
        assert_eq!(Kept::new(&node, "t").judged(&node), Standing::Good, "fetched less than a fence ago");
        let refused = node.purge(Some(down), &tag("u"), Kind::Hard, ACK).await;
        assert!(matches!(refused, Err(Error::Log(_))), "{down}: {refused:?}");
        purged(&node, other, "t").await;
        assert_eq!(kept.judged(&node), Standing::Gone, "{down}");
        log.set_down(false);
        node.caught_up().await;
    }
}

#[tokio::test]
async fn a_node_that_serves_on_without_the_worlds_log_says_so() {
    let logs = Logs::default();
    let serving = config::Purge { cut_off: config::CutOff::Serve, ..config() };
    let node = Node::run(logs.opened_with("n", None, &config(), Some(serving)).await);
    node.caught_up().await;
    let kept = Kept::new(&node, "t");
    assert!(!node.is_serving_cut_off());
    logs.world.set_down(true);
    until("the fence's end", || node.is_serving_cut_off()).await;
    assert_eq!(kept.judged(&node), Standing::Good);
    logs.region.set_down(true);
    until("the end of the region's fence", || kept.judged(&node) == Standing::Unconfirmed).await;
}

#[tokio::test]
async fn a_request_gets_nothing_that_either_log_purged_before_it_came() {
    for extent in [Extent::Region, Extent::World] {
        let logs = Logs::default();
        let node = logs.started("n", None).await;
        let (tags, by_url) = ([Tag::named(b"t")], || tag::of_url("u", true));
        let (mark, early) = (node.mark(), node.arrived());
        purged(&node, extent, "t").await;
        let subject = Subject { tags: &tags, urls: &Urls::Unknown, mark: &mark };
        assert!(!node.is_outdated(&subject, &early, by_url), "{extent}: it came before");
        assert!(node.is_outdated(&subject, &node.arrived(), by_url), "{extent}");
        assert!(node.is_gone(&subject, &tag::of_url("u", true)), "{extent}");
        let since = node.mark();
        let subject = Subject { mark: &since, ..subject };
        let then = node.arrived();
        assert!(!node.is_outdated(&subject, &then, by_url), "{extent}: fetched since");
        purged(&node, extent, "other").await;
        let later = node.mark();
        purged(&node, extent, "t").await;
        let subject = Subject { mark: &later, ..subject };
        assert!(!node.is_outdated(&subject, &then, by_url), "{extent}: fetched since, and purged after that");
        assert!(node.is_outdated(&subject, &node.arrived(), by_url), "{extent}: it came after that");
    }
}

#[tokio::test]
async fn both_tables_outlive_the_process() {
    let (logs, dir) = (Logs::default(), tempfile::tempdir().unwrap());
    let node = logs.started("n", Some(dir.path())).await;
    let kept = ["a", "b", "c"].map(|tag| Kept::new(&node, tag).read_back());
    purged(&node, Extent::Region, "a").await;
    purged(&node, Extent::World, "b").await;
    node.kill().await;
    for file in ["purge.redb", "purge-world.redb"] {
        assert!(dir.path().join(file).exists(), "{file}");
    }
    let node = Node::run(logs.opened("n", Some(dir.path()), &config()).await);
    let wanted = [Standing::Gone, Standing::Gone, Standing::Good];
    until("catching up", || {
        let judged = kept.each_ref().map(|kept| kept.judged(&node));
        assert!(judged[0] != Standing::Good && judged[1] != Standing::Good, "{judged:?}");
        judged == wanted
    })
    .await;
    until("the former process's being signed off", || (logs.region.nodes(), logs.world.nodes()) == (1, 1)).await;
    assert!(logs.world.server.lock().members.values().any(|member| member.node == "eu/n"));
    drop(node.end().await);
    assert_eq!((logs.region.nodes(), logs.world.nodes()), (0, 0), "it has signed off from both");
}

#[tokio::test]
async fn a_node_is_signed_off_from_both_logs_and_one_of_another_region_from_the_worlds() {
    let logs = Logs::default();
    let one = logs.started("one", None).await;
    let two = logs.started("two", None).await;
    two.kill().await;
    // Those of another region have another log there, and the same one of the world.
    let other = Logs { region: Arc::default(), world: Arc::clone(&logs.world) };
    let far = World { region: "us".to_owned(), log: Arc::clone(&other.world) as Arc<dyn Log>, purge: config() };
    let region = Arc::clone(&other.region) as Arc<dyn Log>;
    let far = Node::run(Purges::open("two", &config(), None, Some(region), Some(far), &Metrics::default()).unwrap());
    far.caught_up().await;
    far.kill().await;
    let off = |done| SignedOff { done, left: Some(0) };
    let listed = |log: &FakeLog, name: &str| log.server.lock().members.values().any(|member| member.node == name);
    assert!(listed(&logs.region, "two") && listed(&logs.world, "eu/two") && listed(&logs.world, "us/two"));
    assert_eq!(one.sign_off("us/two", ACK).await.unwrap(), off(1));
    assert!(listed(&logs.region, "two") && listed(&logs.world, "eu/two") && !listed(&logs.world, "us/two"));
    assert_eq!(one.sign_off("eu/two", ACK).await.unwrap(), off(1));
    assert!(!listed(&logs.region, "two") && !listed(&logs.world, "eu/two"));
    assert_eq!(one.sign_off("one", ACK).await.unwrap(), off(0), "it runs");
    assert_eq!(purged(&one, Extent::World, "t").await.applied, ["eu/one"]);
}

#[tokio::test]
async fn a_process_that_gave_way_trusts_nothing_and_leaves_both_tables_to_the_next() {
    let (logs, dir) = (Logs::default(), tempfile::tempdir().unwrap());
    let node = logs.started("n", Some(dir.path())).await;
    let kept = Kept::new(&node, "t");
    node.give_way();
    let former = node.end().await;
    former.close();
    assert!(!former.in_step() && kept.judged(&former) != Standing::Good);
    for extent in [Extent::Node, Extent::Region, Extent::World] {
        let refused = former.purge(Some(extent), &tag("t"), Kind::Hard, ACK).await;
        assert!(matches!(refused, Err(Error::Succeeded)), "{extent}: {refused:?}");
    }
    let next = logs.started("n", Some(dir.path())).await;
    let read_back = kept.read_back();
    until("trust", || read_back.judged(&next) == Standing::Good).await;
    purged(&next, Extent::World, "t").await;
    assert_eq!(read_back.judged(&next), Standing::Gone);
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Store(usize, u8),
    Purge(usize, u8, Extent),
    Restart(usize),
    /// The log's server is put back to what it was when this happened last.
    Lose(Extent),
    Down(Extent, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let log = || prop_oneof![Just(Extent::Region), Just(Extent::World)];
    let extent = prop_oneof![Just(Extent::Node), Just(Extent::Region), Just(Extent::World)];
    prop_oneof![
        4 => (0..NODES, 0..3_u8).prop_map(|(node, tag)| Step::Store(node, tag)),
        4 => (0..NODES, 0..3_u8, extent).prop_map(|(node, tag, extent)| Step::Purge(node, tag, extent)),
        1 => (0..NODES).prop_map(Step::Restart),
        1 => log().prop_map(Step::Lose),
        1 => (log(), any::<bool>()).prop_map(|(log, down)| Step::Down(log, down)),
    ]
}

const NODES: usize = 2;

/// An entry, by whom it was fetched, and for whom it has been purged since.
struct Entry {
    kept: Kept,
    node: usize,
    life: usize,
    tag: u8,
    purged: [bool; NODES],
}

/// Two nodes of a region, and what they have stored.
struct Region {
    logs: Logs,
    copies: [Server; 2],
    dirs: [tempfile::TempDir; NODES],
    nodes: Vec<Option<Node>>,
    lives: [usize; NODES],
    entries: Vec<Entry>,
}

/// Short, so that a purge that waits for a fence is done soon.
fn hasty() -> config::Purge {
    let (fence, ack) = (Duration::from_millis(60), Duration::from_millis(400));
    config::Purge { fence, ack, ..config() }
}

impl Region {
    async fn start() -> Self {
        let dirs = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let (copies, nodes) = (std::array::from_fn(|_| Server::default()), (0..NODES).map(|_| None).collect());
        let mut region = Self { logs: Logs::default(), copies, dirs, nodes, lives: [0; NODES], entries: Vec::new() };
        for node in 0..NODES {
            region.restart(node).await;
        }
        for node in &region.nodes {
            node.as_ref().unwrap().caught_up().await;
        }
        region
    }

    async fn restart(&mut self, node: usize) {
        if let Some(former) = self.nodes[node].take() {
            former.kill().await;
        }
        self.lives[node] += 1;
        let opened = self.logs.opened(&format!("n{node}"), Some(self.dirs[node].path()), &hasty()).await;
        self.nodes[node] = Some(Node::run(opened));
    }

    fn log(&self, extent: Extent) -> &FakeLog {
        if extent == Extent::World { &self.logs.world } else { &self.logs.region }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Store(node, tag) => {
                let kept = Kept::new(self.nodes[node].as_ref().unwrap(), &tag.to_string());
                self.entries.push(Entry { kept, node, life: self.lives[node], tag, purged: [false; NODES] });
            }
            Step::Purge(node, tag, extent) => {
                let before = self.entries.len();
                let purges = self.nodes[node].as_ref().unwrap();
                let done = purges.purge(Some(extent), &super::tag(&tag.to_string()), Kind::Hard, hasty().ack).await;
                if !done.is_ok_and(|(_, receipt)| receipt.missing.is_empty()) {
                    return;
                }
                for entry in self.entries[..before].iter_mut().filter(|entry| entry.tag == tag) {
                    for (at, purged) in entry.purged.iter_mut().enumerate() {
                        *purged |= extent != Extent::Node || at == node;
                    }
                }
            }
            Step::Restart(node) => self.restart(node).await,
            Step::Lose(extent) => {
                let now = self.log(extent).server.lock().clone();
                let copy = std::mem::replace(&mut self.copies[usize::from(extent == Extent::World)], now);
                self.log(extent).restore(copy);
            }
            Step::Down(extent, down) => self.log(extent).set_down(down),
        }
    }

    /// Returns an entry that is good for a node for which it has been purged.
    fn wrong(&self) -> Option<String> {
        for (at, entry) in self.entries.iter().enumerate() {
            for node in (0..NODES).filter(|node| entry.purged[*node]) {
                let purges = self.nodes[node].as_ref().unwrap();
                let is_here = entry.node == node && entry.life == self.lives[node];
                let here = is_here.then(|| entry.kept.judged(purges));
                let read_back = entry.kept.read_back().judged(purges);
                if here == Some(Standing::Good) || read_back == Standing::Good {
                    return Some(format!("entry {at} on node {node}: {here:?}, read back {read_back:?}"));
                }
            }
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 16, ..ProptestConfig::default() })]

    /// Whatever is stored, purged, restarted and lost, in whichever order: once a purge is acknowledged, what was stored
    /// before it is good for no node for which it was.
    #[test]
    fn what_an_acknowledged_purge_took_is_good_nowhere(steps in prop::collection::vec(step(), 4..16)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(async {
            let mut region = Region::start().await;
            for (at, step) in steps.iter().enumerate() {
                region.take(*step).await;
                if let Some(wrong) = region.wrong() {
                    return Err(TestCaseError::fail(format!("after step {at}: {wrong}")));
                }
            }
            Ok(())
        });
        outcome?;
    }
}
