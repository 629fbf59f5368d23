//! The configuration of many nodes in one place: what is pushed into a real etcd reaches the nodes that it is for, and
//! nothing that is wrong does.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use holm::{
    app::central::{Error, FORMAT, Head, NodeState, Outcome, Pointer, Reach, Record, Store},
    clock::Timestamp,
};
use tempfile::TempDir;

use crate::harness::{
    LIMIT,
    etcd::{Etcd, is_there},
    eventually,
    node::{Builder, Node},
    origin::{Origin, Reply},
    process::{Process, run, words},
    quoted, repository,
};

/// An etcd, and the origins that the nodes' own files and the central configurations lead to.
struct World {
    etcd: Etcd,
    own: Origin,
    first: Origin,
    second: Origin,
    dir: TempDir,
}

impl World {
    async fn start() -> Self {
        let world = Self {
            etcd: Etcd::start().await,
            own: Origin::start().await,
            first: Origin::start().await,
            second: Origin::start().await,
            dir: tempfile::tempdir().unwrap(),
        };
        for (origin, body) in [(&world.own, "own"), (&world.first, "first"), (&world.second, "second")] {
            origin.on("*", move |_| Reply::ok(body));
        }
        world
    }

    /// Returns a node that follows the central configuration.
    fn node(&self, region: &str, name: &str) -> Builder {
        let dir = self.dir.path().join(name).display().to_string();
        Node::builder()
            .name(name)
            .origin(&self.own.url())
            .set("region", &format!("name = {}", quoted(region)))
            .set("global", &format!("etcd = [{}]", quoted(&self.etcd.url())))
            .set("central", &format!("dir = {}", quoted(&dir)))
    }

    /// Starts nodes by their regions and names, and waits until they are known.
    async fn nodes<const N: usize>(&self, names: [(&str, &str); N]) -> [Process; N] {
        let mut nodes = Vec::new();
        for (region, name) in names {
            nodes.push(self.node(region, name).spawn().await);
        }
        for (_, name) in names {
            eventually("the node's state", async || self.state(name).await.is_some()).await;
        }
        let Ok(nodes) = <[Process; N]>::try_from(nodes) else { panic!("as many as names") };
        nodes
    }

    fn store(&self) -> Store {
        Store::new(&self.etcd.config(), "holm").unwrap()
    }

    async fn state(&self, node: &str) -> Option<NodeState> {
        let states = self.store().states().await.unwrap();
        states.into_iter().find(|state| state.node == node)
    }

    async fn head(&self) -> Head {
        self.store().seen().await.unwrap().head.unwrap().expect("a generation")
    }

    /// Writes a central configuration that leads everything to this origin.
    fn file(&self, origin: &Origin, more: &str) -> PathBuf {
        self.file_of(&format!(
            "[pool.web]\nendpoints = [{}]\n{more}\n[[route]]\nname = \"all\"\npath = \"/\"\npool = \"web\"\n",
            quoted(&origin.url())
        ))
    }

    fn file_of(&self, text: &str) -> PathBuf {
        let file = self.dir.path().join("central.toml");
        fs::write(&file, text).unwrap();
        file
    }

    async fn holm(&self, words: &[&str]) -> Output {
        let url = self.etcd.url();
        let mut all = words.to_vec();
        all.extend(["--etcd", &url]);
        run(&all, LIMIT * 2).await
    }

    /// Pushes a configuration, and returns whether all nodes took it, and what was said.
    async fn push(&self, file: &Path, more: &[&str]) -> (bool, String) {
        let file = file.display().to_string();
        let mut all = vec!["config", "push", &file];
        all.extend(more);
        said(&self.holm(&all).await)
    }
}

fn said(output: &Output) -> (bool, String) {
    (output.status.success(), words(output))
}

async fn serves(node: &Process, wanted: &str) -> bool {
    node.fetch("/").await.text() == wanted
}

/// A generation without components.
fn record(generation: u64, text: &str) -> Record {
    Record { format: FORMAT, generation, pushed: Timestamp(1), text: text.to_owned(), components: BTreeMap::new() }
}

/// A head that names a generation, for all nodes.
fn head(number: u64, former: Option<Pointer>) -> Head {
    let generation = Pointer { number, digest: String::new() };
    Head { format: FORMAT, generation, former, reach: Reach::all(), trial: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_reaches_the_nodes_of_all_regions_and_a_rollback_leads_back() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [a, b] = world.nodes([("eu", "a"), ("us", "b")]).await;
    assert!(serves(&a, "own").await && serves(&b, "own").await, "by their own files until something is pushed");
    for (origin, body, number) in [(&world.first, "first", 1), (&world.second, "second", 2)] {
        let (done, said) = world.push(&world.file(origin, ""), &[]).await;
        assert!(done, "{said}");
        for line in [format!("eu/a: taken, runs by {number}"), format!("us/b: taken, runs by {number}")] {
            assert!(said.contains(&line), "{line} is missing in {said}");
        }
        assert!(serves(&a, body).await && serves(&b, body).await, "{body}");
    }
    let (done, said) = said(&world.holm(&["config", "rollback"]).await);
    assert!(done && said.contains("generation 3 says what generation 1 did"), "{said}");
    assert!(serves(&a, "first").await && serves(&b, "first").await);
    let shown = words(&world.holm(&["config", "show", "--generation", "2"]).await);
    assert!(shown.contains(&world.second.url()), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_by_the_push_and_by_the_nodes() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [node] = world.nodes([("eu", "a")]).await;
    for (text, reason) in [
        ("nonsense = 1", "unknown key `nonsense`"),
        ("node = \"x\"", "`node` belongs to one node"),
        ("[pool.web]", "central.toml"),
        ("[pool.web]\nendpoints = [\"http://h:1\"]\n[policy.p]\nfile = \"absent.wasm\"", "absent.wasm"),
    ] {
        let (done, said) = world.push(&world.file_of(text), &[]).await;
        assert!(!done && said.contains(reason), "{text}: {said}");
    }
    assert_eq!(world.store().seen().await.unwrap().head, Ok(None), "nothing of it was written");
    assert!(world.push(&world.file(&world.first, ""), &[]).await.0);
    // By another way than the command's.
    let store = world.store();
    let former = world.head().await.generation;
    let wrong = record(2, "[pool.web]\nnonsense = 1");
    store.push(&store.seen().await.unwrap(), &wrong, head(2, Some(former.clone()))).await.unwrap();
    let refusal = async |reason: &str| {
        eventually(reason, async || {
            let state = world.state("a").await.expect("a node");
            state.outcome == Outcome::Refused && state.reason.is_some_and(|said| said.contains(reason))
        })
        .await;
        assert_eq!(world.state("a").await.expect("a node").holds, Some(former.clone()));
        assert!(serves(&node, "first").await);
        let status = words(&world.holm(&["config", "status"]).await);
        assert!(status.contains("eu/a: refused, runs by 1") && status.contains(reason), "{status}");
    };
    refusal("generation 2 of the central configuration:2:1: unknown key `nonsense`").await;
    world.etcd.control(&["put", "holm/config/head", "{\"format\":9}"]);
    refusal("the format 9; this version knows 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_without_etcd_runs_by_what_it_had_last() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [node] = world.nodes([("eu", "a")]).await;
    let component = repository("plugins/dist/tenant-key.wasm");
    let policy = format!("[policy.keys]\nfile = {}", quoted(&component.display().to_string()));
    let (done, said) = world.push(&world.file(&world.first, &policy), &[]).await;
    assert!(done, "{said}");
    node.kill();
    world.etcd.kill();
    let node = world.node("eu", "a").spawn().await;
    assert!(serves(&node, "first").await, "{}", node.said());
    // And by what was pushed meanwhile, once there is an etcd.
    world.etcd.start_again().await;
    assert!(world.push(&world.file(&world.second, ""), &["--wait", "0"]).await.1.contains("generation 2 is for"));
    eventually("the generation that it missed", async || serves(&node, "second").await).await;
    let spoiled = world.dir.path().join("a/generation.json");
    eventually("the generation on disk", async || {
        fs::read_to_string(&spoiled).is_ok_and(|text| text.contains("\"generation\":2"))
    })
    .await;
    node.kill();
    fs::write(&spoiled, "{").unwrap();
    let node = world.node("eu", "a").spawn().await;
    eventually("the generation from etcd", async || serves(&node, "second").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pushes_at_once_one_is_refused() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let store = world.store();
    let seen = store.seen().await.unwrap();
    let (one, other) = (record(1, "# one"), record(1, "# other"));
    let (first, second) =
        tokio::join!(store.push(&seen, &one, head(1, None)), store.push(&seen, &other, head(1, None)));
    let outcomes = [first, second];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(Error::Overtaken))), "{outcomes:?}");
    let written = store.generation(&world.head().await.generation).await.unwrap().0;
    assert_eq!(outcomes[0].is_ok(), written == one, "the one that was told so is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_are_whole_or_refused_and_deleted_when_nothing_names_them() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let store = world.store();
    // Several chunks, the last of which isn't full.
    let bytes: Vec<u8> = (0..(2_u32 << 20) + 5).map(|at| (at % 251) as u8).collect();
    let component = store.put_component(&bytes).await.unwrap();
    assert_eq!(store.put_component(&bytes).await.unwrap(), component, "it is there already");
    assert!(store.component(&component).await.unwrap() == bytes);
    let chunk = format!("holm/config/chunk/{}/0001", component.digest);
    world.etcd.control(&["put", &chunk, "another"]);
    assert!(matches!(store.component(&component).await, Err(Error::Digest(_))));
    world.etcd.control(&["del", &chunk]);
    assert!(matches!(store.component(&component).await, Err(Error::Missing(_))));
    // No generation names it.
    assert!(world.push(&world.file(&world.first, ""), &[]).await.0);
    let left = world.etcd.control(&["get", "--prefix", "--keys-only", "holm/config/"]);
    assert!(!left.contains(&component.digest), "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_exchanged_by_a_push() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [node] = world.nodes([("eu", "a")]).await;
    let component = repository("plugins/dist/tenant-key.wasm");
    let policy = format!("[policy.keys]\nfile = {}", quoted(&component.display().to_string()));
    let (done, said_first) = world.push(&world.file(&world.first, &policy), &[]).await;
    assert!(done, "{said_first}");
    let digest = |file: &Path| blake3::hash(&fs::read(file).unwrap()).to_hex().to_string();
    let runs_by = async || world.state("a").await.expect("a node").components["keys"].clone();
    assert_eq!(runs_by().await, digest(&component));
    // The same with a custom section, which makes it another one that does the same.
    let other = world.dir.path().join("other.wasm");
    let mut bytes = fs::read(&component).unwrap();
    bytes.extend([0, 3, 1, b'm', b'x']);
    fs::write(&other, bytes).unwrap();
    let name = other.display().to_string();
    let (done, refused) = said(&world.holm(&["policy", "push", "absent", &name]).await);
    assert!(!done && refused.contains("no policy `absent`") && refused.contains("keys"), "{refused}");
    let wrong = world.file_of("no component").display().to_string();
    let (done, refused) = said(&world.holm(&["policy", "push", "keys", &wrong]).await);
    assert!(!done && refused.contains("central.toml"), "{refused}");
    let (done, pushed) = said(&world.holm(&["policy", "push", "keys", &name]).await);
    assert!(done && pushed.contains("eu/a: taken, runs by 2"), "{pushed}");
    assert_eq!(runs_by().await, digest(&other));
    let policies = node.admin("/policies").send().await;
    assert!(policies.text().contains("keys"), "{}", policies.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_reaches_only_the_nodes_that_it_names_until_it_is_for_all() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    // Names of which a share of half the nodes has one, and not the other.
    let half = Reach { regions: Vec::new(), percent: 50 };
    let name = |wanted: bool| {
        let mut names = (0..1_000).map(|number| format!("n{number}"));
        names.find(|name| half.includes("us", name) == wanted).expect("a name")
    };
    let (within, beyond) = (name(true), name(false));
    let [a, b, c] = world.nodes([("eu", "a"), ("us", within.as_str()), ("us", beyond.as_str())]).await;
    let serve = async |wanted: [&str; 3]| {
        for (node, wanted) in [&a, &b, &c].into_iter().zip(wanted) {
            eventually(wanted, async || serves(node, wanted).await).await;
        }
    };
    assert!(world.push(&world.file(&world.first, ""), &[]).await.0);
    serve(["first", "first", "first"]).await;
    let (done, pushed) = world.push(&world.file(&world.second, ""), &["--regions", "eu"]).await;
    assert!(done && pushed.contains("eu/a: taken, runs by 2") && !pushed.contains("us/"), "{pushed}");
    serve(["second", "first", "first"]).await;
    let (done, refused) = world.push(&world.file(&world.first, ""), &[]).await;
    assert!(!done && refused.contains("is being rolled out"), "{refused}");
    let (done, wider) = said(&world.holm(&["config", "rollout", "--regions", "us", "--share", "50%"]).await);
    assert!(done, "{wider}");
    serve(["first", "second", "first"]).await;
    let (done, all) = said(&world.holm(&["config", "rollout", "--all"]).await);
    assert!(done, "{all}");
    serve(["second", "second", "second"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_by_which_a_node_does_worse_is_stopped() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [node] = world.nodes([("eu", "a")]).await;
    assert!(world.push(&world.file(&world.first, ""), &[]).await.0);
    world.second.on("*", |_| Reply::status(500));
    let file = world.file(&world.second, "");
    let pushing = world.push(&file, &["--trial", "30"]);
    let failing = async {
        let mut number = 0;
        // Another path each time, so that nothing that is stored stands in for the origin.
        let mut status = async || {
            number += 1;
            node.fetch(&format!("/{number}")).await.status
        };
        eventually("the generation on trial", async || status().await == 500).await;
        // Until the node goes back by itself.
        eventually("the generation before", async || status().await == 200).await;
    };
    let ((done, said), ()) = tokio::join!(pushing, failing);
    assert!(!done && said.contains("eu/a: worse") && said.contains("the rollout is stopped"), "{said}");
    assert!(said.contains("generation 3 says what generation 1 did"), "{said}");
    assert!(serves(&node, "first").await);
}
