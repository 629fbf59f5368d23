//! The configuration of many nodes in one place: what is pushed into a real etcd reaches the nodes that it is for, and
//! nothing that is wrong does.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use holm::{
    app::central::{Error, FORMAT, Head, NodeState, Outcome, Pointer, Reach, Record, Store, Trial},
    clock::Timestamp,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::{
    harness::{
        LIMIT,
        etcd::{Etcd, is_there},
        eventually,
        node::{Builder, Node},
        origin::{Origin, Reply, Seen},
        process::{Process, run, words},
        quoted, repository,
    },
    http_versions::Certificate,
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

    /// Waits until a node says this of a generation.
    async fn becomes(&self, node: &str, number: u64, outcome: Outcome) {
        eventually(&format!("{node}: {outcome:?} {number}"), async || {
            let state = self.state(node).await.expect("a node");
            state.outcome == outcome && state.wanted.is_some_and(|wanted| wanted.number == number)
        })
        .await;
    }

    async fn head(&self) -> Head {
        self.store().seen().await.unwrap().head.unwrap().expect("a generation")
    }

    /// Writes a generation, and a head with this reach and trial, by another way than the command's. It isn't checked.
    async fn write(&self, text: &str, reach: Reach, trial: Option<Trial>) {
        let store = self.store();
        let seen = store.seen().await.unwrap();
        let former = self.head().await.generation;
        let number = former.number + 1;
        let head = Head { reach, trial, ..head(number, Some(former)) };
        store.push(&seen, &record(number, text), head).await.unwrap();
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

/// The policy of a central configuration.
fn policy(component: &Path) -> String {
    format!("[policy.keys]\nfile = {}", quoted(&component.display().to_string()))
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
    let former = world.head().await.generation;
    world.write("[pool.web]\nnonsense = 1", Reach::all(), None).await;
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
    let (done, said) = world.push(&world.file(&world.first, &policy(&component)), &[]).await;
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
    assert!(world.push(&world.file(&world.first, ""), &["--wait", "0"]).await.1.contains("generation 1 is for"));
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
    let (done, said_first) = world.push(&world.file(&world.first, &policy(&component)), &[]).await;
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

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// A registry with one component, which gives a token to all who ask, and has its blobs at another address.
struct Registry {
    front: Origin,
    store: Origin,
    /// The digest of the manifest.
    digest: String,
}

impl Registry {
    async fn start(component: Vec<u8>) -> Self {
        let (front, store) = (Origin::start().await, Origin::start().await);
        let layer = json!({"mediaType": "application/wasm", "digest": sha256(&component), "size": component.len()});
        let manifest = json!({"schemaVersion": 2, "config": {}, "layers": [layer]}).to_string();
        let digest = sha256(manifest.as_bytes());
        let realm = format!("{}/token", front.url());
        let guarded = move |seen: &Seen, reply: Reply| {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"here\",scope=\"repository:team/keys:pull\"");
            let has_token = seen.header("authorization") == "Bearer a-token";
            if has_token { reply } else { Reply::status(401).header("www-authenticate", &challenge) }
        };
        front.on("/token", |seen| {
            let is_asked = seen.target == "/token?scope=repository%3Ateam%2Fkeys%3Apull&service=here";
            if is_asked { Reply::ok("{\"token\":\"a-token\"}") } else { Reply::status(400) }
        });
        let guard = guarded.clone();
        front.on(&format!("/v2/team/keys/manifests/{digest}"), move |seen| guard(seen, Reply::ok(manifest.clone())));
        let elsewhere = format!("{}/blob", store.url());
        front.on(&format!("/v2/team/keys/blobs/{}", sha256(&component)), move |seen| {
            guarded(seen, Reply::status(307).header("location", &elsewhere))
        });
        store.on("/blob", move |_| Reply::ok(component.clone()));
        Self { front, store, digest }
    }

    fn reference(&self, digest: &str) -> String {
        format!("oci://{}/team/keys@{digest}", self.front.address())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_comes_from_a_registry_if_it_is_the_one_that_is_meant() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [_node] = world.nodes([("eu", "a")]).await;
    let component = repository("plugins/dist/tenant-key.wasm");
    assert!(world.push(&world.file(&world.first, &policy(&component)), &[]).await.0);
    // The same with a custom section, which makes it another one that does the same.
    let mut other = fs::read(&component).unwrap();
    other.extend([0, 3, 1, b'm', b'x']);
    let registry = Registry::start(other.clone()).await;
    let push = async |reference: &str| said(&world.holm(&["policy", "push", "keys", reference]).await);
    let (done, pushed) = push(&registry.reference(&registry.digest)).await;
    assert!(done && pushed.contains("eu/a: taken, runs by 2"), "{pushed}");
    let runs_by = world.state("a").await.expect("a node").components["keys"].clone();
    assert_eq!(runs_by, blake3::hash(&other).to_hex().to_string());
    let asked = registry.store.seen("/blob");
    assert!(asked.len() == 1 && asked[0].header("authorization").is_empty(), "the token isn't for others");
    // What isn't what it should be isn't pushed.
    let absent = sha256(b"absent");
    let wrong = format!("/v2/team/keys/manifests/{absent}");
    registry.front.on(&wrong, |_| Reply::ok("{}"));
    registry.store.on("/blob", |_| Reply::ok("another"));
    for (reference, reason) in [
        (registry.reference(&registry.digest), "has another digest"),
        (registry.reference(&absent), "has another digest"),
        (registry.reference(&sha256(b"unknown")), "responded 404"),
        (registry.reference("sha256:1"), "the digest isn't one"),
    ] {
        let (done, refused) = push(&reference).await;
        assert!(!done && refused.contains(reason), "{reference}: {refused}");
    }
    registry.front.on(&wrong, |_| Reply::status(307).header("location", "http://registry.invalid/"));
    let (done, refused) = push(&registry.reference(&absent)).await;
    assert!(!done && refused.contains("http://registry.invalid/"), "{refused}");
    assert_eq!(world.head().await.generation.number, 2, "nothing of it was written");
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

/// Requests until the generation on trial fails, then until the node has gone back by itself.
async fn goes_back(node: &Process) {
    let mut number = 0;
    // Another path each time, so that nothing that is stored stands in for the origin.
    let mut status = async || {
        number += 1;
        node.fetch(&format!("/{number}")).await.status
    };
    eventually("the generation on trial", async || status().await == 500).await;
    eventually("what it ran by before", async || status().await == 200).await;
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
    let ((done, said), ()) = tokio::join!(pushing, goes_back(&node));
    assert!(!done && said.contains("eu/a: worse") && said.contains("the rollout is stopped"), "{said}");
    assert!(said.contains("generation 3 says what generation 1 did"), "{said}");
    assert!(serves(&node, "first").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_generation_that_is_taken_back_leaves_the_nodes_to_their_own_files() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [a, b] = world.nodes([("eu", "a"), ("us", "b")]).await;
    let runs_by = async || {
        let report = a.admin("/nodes").send().await.json();
        report["nodes"][0]["said"].get("central_generation").cloned()
    };
    let (done, pushed) = world.push(&world.file(&world.first, ""), &["--regions", "eu"]).await;
    assert!(done && pushed.contains("eu/a: taken, runs by 1"), "{pushed}");
    assert!(serves(&a, "first").await && serves(&b, "own").await);
    assert_eq!(runs_by().await, Some(json!(1)));
    let (done, back) = said(&world.holm(&["config", "rollback"]).await);
    assert!(done && back.contains("generation 1 is for nobody"), "{back}");
    for node in ["eu/a", "us/b"] {
        assert!(back.contains(&format!("{node}: taken, runs by its own file")), "{back}");
    }
    assert!(serves(&a, "own").await && serves(&b, "own").await);
    assert_eq!(runs_by().await, None::<Value>);
    let status = words(&world.holm(&["config", "status"]).await);
    assert!(status.contains("generation 1 is for nobody\nall nodes run by their own files"), "{status}");
    assert!(!world.dir.path().join("a/generation.json").exists(), "nor does a start without etcd bring it back");
    let (done, again) = said(&world.holm(&["config", "rollback"]).await);
    assert!(!done && again.contains("there is none before it"), "{again}");
    // It is in nobody's way, and nothing to go back to.
    let (done, pushed) = world.push(&world.file(&world.second, ""), &["--regions", "us"]).await;
    assert!(done && pushed.contains("us/b: taken, runs by 2"), "{pushed}");
    assert!(serves(&a, "own").await && serves(&b, "second").await);
    let (done, back) = said(&world.holm(&["config", "rollback"]).await);
    assert!(done && back.contains("generation 2 is for nobody"), "{back}");
    let (done, all) = said(&world.holm(&["config", "rollout", "--all"]).await);
    assert!(done && serves(&a, "second").await && serves(&b, "second").await, "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_generation_by_which_a_node_does_worse_is_for_nobody() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [node] = world.nodes([("eu", "a")]).await;
    world.second.on("*", |_| Reply::status(500));
    let file = world.file(&world.second, "");
    let ((done, said), ()) = tokio::join!(world.push(&file, &["--trial", "30"]), goes_back(&node));
    assert!(!done && said.contains("eu/a: worse") && said.contains("generation 1 is for nobody"), "{said}");
    eventually("its own file", async || {
        let state = world.state("a").await.expect("a node");
        (state.wanted, state.holds, state.outcome) == (None, None, Outcome::Taken)
    })
    .await;
    assert!(serves(&node, "own").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_that_is_lifted_or_changed_is_so_at_once() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [_node] = world.nodes([("eu", "a")]).await;
    assert!(world.push(&world.file(&world.first, ""), &[]).await.0);
    let text = fs::read_to_string(world.file(&world.second, "")).unwrap();
    let long = Some(Trial { seconds: 86_400, percent: 200 });
    world.write(&text, Reach::all(), long).await;
    world.becomes("a", 2, Outcome::Taken).await;
    // Lifted: it isn't waited for, and when there is one again it doesn't begin anew.
    let (done, lifted) = said(&world.holm(&["config", "rollout", "--all"]).await);
    assert!(done && lifted.contains("eu/a: taken, runs by 2"), "{lifted}");
    let (done, again) = said(&world.holm(&["config", "rollout", "--all", "--trial", "86400"]).await);
    assert!(!done && again.contains("eu/a: unwatched, runs by 2") && again.contains("says nothing"), "{again}");
    // Shortened.
    world.write(&text, Reach::all(), long).await;
    world.becomes("a", 3, Outcome::Taken).await;
    let (done, shorter) = said(&world.holm(&["config", "rollout", "--all", "--trial", "10"]).await);
    assert!(done && shorter.contains("eu/a: steady, runs by 3"), "{shorter}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_whose_trial_another_command_lifts_says_so() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [_node] = world.nodes([("eu", "a")]).await;
    let lifted = async {
        world.becomes("a", 1, Outcome::Taken).await;
        said(&world.holm(&["config", "rollout", "--all"]).await)
    };
    let file = world.file(&world.first, "");
    let ((done, pushed), (is_lifted, lifted)) = tokio::join!(world.push(&file, &["--trial", "86400"]), lifted);
    assert!(is_lifted, "{lifted}");
    assert!(!done && pushed.contains("another command came first"), "{pushed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_again_why_it_refuses_what_comes_back_to_it() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [node] = world.nodes([("eu", "a")]).await;
    assert!(world.push(&world.file(&world.first, ""), &[]).await.0);
    let of = |region: &str| Reach { regions: vec![region.to_owned()], percent: 100 };
    world.write("[pool.web]\nnonsense = 1", of("eu"), None).await;
    world.becomes("a", 2, Outcome::Refused).await;
    let (done, away) = said(&world.holm(&["config", "rollout", "--regions", "us", "--wait", "0"]).await);
    assert!(!done && away.contains("no node that it is for is live"), "{away}");
    world.becomes("a", 1, Outcome::Taken).await;
    let (done, back) = said(&world.holm(&["config", "rollout", "--regions", "eu"]).await);
    assert!(!done && back.contains("eu/a: refused, runs by 1") && back.contains("unknown key"), "{back}");
    let status = words(&world.holm(&["config", "status"]).await);
    assert!(status.contains("eu/a: refused, runs by 1"), "{status}");
    assert!(serves(&node, "first").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_for_want_of_a_file_is_taken_once_it_is_there() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let [node] = world.nodes([("eu", "a")]).await;
    let ca = world.dir.path().join("ca.pem");
    let spare = format!(
        "[pool.spare]\nendpoints = [\"https://127.0.0.1:1\"]\n[pool.spare.tls]\nca = {}",
        quoted(&ca.display().to_string())
    );
    let (done, refused) = world.push(&world.file(&world.first, &spare), &[]).await;
    assert!(!done && refused.contains("eu/a: refused, runs by its own file"), "{refused}");
    assert!(refused.contains("trusted certificates can't be read"), "{refused}");
    assert!(serves(&node, "own").await);
    let certificate = Certificate::new();
    fs::copy(&certificate.certificate, &ca).unwrap();
    world.becomes("a", 1, Outcome::Taken).await;
    assert!(serves(&node, "first").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_no_live_node_is_meant_by_doesnt_end_as_if_one_had_taken_it() {
    if !is_there() {
        return;
    }
    let world = World::start().await;
    let first = world.file(&world.first, "").display().to_string();
    let nobody = async |more: &[&str]| {
        let mut all = vec!["config", "push", first.as_str(), "--wait", "0"];
        all.extend(more);
        let pushed = world.holm(&all).await;
        let said = words(&pushed);
        assert!(pushed.status.code() == Some(3) && said.contains("nobody has taken it"), "{said}");
    };
    nobody(&[]).await;
    // It holds for those that come.
    let [node] = world.nodes([("eu", "a")]).await;
    eventually("the generation", async || serves(&node, "first").await).await;
    nobody(&["--regions", "us"]).await;
    let back = world.holm(&["config", "rollback"]).await;
    assert_eq!(back.status.code(), Some(0), "{}", words(&back));
}
