//! Weights of tenants, and tenants that a policy names. The policy is made here, of a module that is written out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use wit_bindgen_core::wit_parser::Resolve;
use wit_component::{ComponentEncoder, StringEncoding};

use crate::harness::{
    client::{Conn, Response},
    eventually,
    model::{ARRAY, batches, doubling},
    node::{Builder, Node},
    origin::{Gate, Origin},
};

const CONTRACT: &str = include_str!("../../wit/policy.wit");

/// What the canonical ABI wants of a module that is handed lists.
pub(crate) const REALLOC: &str = include_str!("../../host/workbench/realloc.wat");

const WORLD: &str = "package holm:naming; \
     world policy { export holm:policy/plugin@0.1.0; export holm:policy/features@0.1.0; }";

/// Returns words as a data segment has them.
pub(crate) fn words(words: &[u32]) -> String {
    words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect()
}

/// Returns a core module whose `features` hook names the tenant by `x-team`, and its weight by `x-weight` if that is
/// there. The constants are laid out by the canonical ABI.
fn module() -> String {
    let manifest = words(&[0, 1064, 6, 1072, 5, 0, 0]);
    let arguments = words(&[1088, 6, 1096, 8]);
    let inputs = words(&[1080, 6, 1120, 1, 1080, 6, 1128, 1]);
    let reads = words(&[0, 1136, 2]);
    // No error, two features at most, no edits, no header fields.
    let shape = words(&[0, 1280, 0, 0, 0, 0, 0]);
    // Each has a name and a text, which is filled in.
    let features = words(&[1024, 11, 0, 0, 0, 0, 1040, 18, 0, 0, 0, 0]);
    format!(
        r#"(module
            (memory (export "memory") 2)
            (data (i32.const 1024) "holm:tenant")
            (data (i32.const 1040) "holm:tenant-weight")
            (data (i32.const 1064) "naming")
            (data (i32.const 1072) "0.0.1")
            (data (i32.const 1080) "header")
            (data (i32.const 1088) "x-team")
            (data (i32.const 1096) "x-weight")
            (data (i32.const 1120) "{arguments}")
            (data (i32.const 1136) "{inputs}")
            (data (i32.const 1168) "{reads}")
            (data (i32.const 1200) "{manifest}")
            (data (i32.const 1240) "{shape}")
            (data (i32.const 1280) "{features}")
            {REALLOC}
            (func (export "holm:policy/plugin@0.1.0#configure") (param i32 i32) (result i32) (i32.const 1200))
            (func (export "holm:policy/features@0.1.0#reads") (result i32) (i32.const 1168))
            (func (export "holm:policy/features@0.1.0#extract") (param $values i32) (param $count i32) (result i32)
                (i32.store (i32.const 1296) (i32.load offset=4 (local.get $values)))
                (i32.store (i32.const 1300) (i32.load offset=8 (local.get $values)))
                (i32.store (i32.const 1320) (i32.load offset=16 (local.get $values)))
                (i32.store (i32.const 1324) (i32.load offset=20 (local.get $values)))
                (i32.store (i32.const 1248) (i32.mul
                    (i32.load8_u (local.get $values))
                    (i32.add (i32.const 1) (i32.load8_u offset=12 (local.get $values)))))
                (i32.const 1240)))"#
    )
}

/// Writes the policy as a component, and returns its file.
fn naming(dir: &Path) -> PathBuf {
    component(dir, "naming", WORLD, &module())
}

/// Writes a core module as a component of this world, and returns its file.
pub(crate) fn component(dir: &Path, name: &str, world: &str, module: &str) -> PathBuf {
    let mut resolve = Resolve::default();
    resolve.push_str("policy.wit", CONTRACT).unwrap();
    let package = resolve.push_str("world.wit", world).unwrap();
    let world = resolve.select_world(&[package], Some("policy")).unwrap();
    let mut core = wat::parse_str(module).unwrap();
    wit_component::embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).unwrap();
    let component = ComponentEncoder::default().validate(true).module(&core).unwrap().encode().unwrap();
    let file = dir.join(format!("{name}.wasm"));
    fs::write(&file, component).unwrap();
    file
}

fn asking(origin: &Origin, batch: &str) -> Builder {
    Node::builder().origin(&origin.url()).infer("json-array").set("pool.web.batch", batch)
}

/// Sends the item `n` on a stream of its own, for this team. All have the same credentials.
fn ask(node: &Node, conn: &Conn, asks: &mut JoinSet<Response>, n: u64, team: &str, weight: &str) {
    let mut stream = conn.stream();
    let request = node.post(ARRAY).header("authorization", "Bearer all").json(&json!({"n": n}));
    let request = request.header("x-team", team).header("x-weight", weight);
    asks.spawn(async move { stream.send(request).await });
}

/// Returns the numbers of the items that a model has had, in their order.
fn numbers(origin: &Origin) -> Vec<u64> {
    batches(origin, ARRAY).concat().iter().map(|item| item["n"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_names_the_tenant_instead_of_the_route() {
    let (dir, origin, gate) = (tempfile::tempdir().unwrap(), Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let builder = asking(&origin, "size_max = 1\nqueue_max = 4\nconcurrency = 1");
    let node = builder.policy("naming", &naming(dir.path()), "{}").route("policy = \"naming\"").start().await;
    let (conn, mut asks) = (node.h2().await, JoinSet::new());
    for n in 0..5 {
        ask(&node, &conn, &mut asks, n, "greedy", "1");
        // The first one is under way.
        node.waiting(f64::from(u32::try_from(n).unwrap())).await;
    }
    let refused = node.post(ARRAY).header("x-team", "greedy").json(&json!({"n": 5})).send().await;
    assert_eq!(refused.status, 429, "without its credentials it is of the same team: {}", refused.text());
    ask(&node, &conn, &mut asks, 7, "modest", "1");
    node.waiting(5.0).await;
    gate.open();
    assert!(asks.join_all().await.iter().all(|response| response.status == 200));
    assert_eq!(numbers(&origin)[1], 7, "the tenant that was served least is next");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_served_by_the_weights_of_the_policy_or_of_the_route() {
    let dir = tempfile::tempdir().unwrap();
    let file = naming(dir.path());
    for by_policy in [true, false] {
        let (origin, gate) = (Origin::start().await, Gate::closed());
        doubling(&origin, gate.clone());
        let builder = asking(&origin, "size_max = 1\nconcurrency = 1");
        let builder = if by_policy {
            builder.policy("naming", &file, "{}").route("policy = \"naming\"")
        } else {
            builder.route("tenant = \"header:x-team\"\ntenant_weights = { gold = 3 }")
        };
        let node = builder.start().await;
        let (conn, mut asks) = (node.h2().await, JoinSet::new());
        ask(&node, &conn, &mut asks, 0, "first", "1");
        eventually("a batch", async || origin.hits(ARRAY) == 1).await;
        for n in 1..=12 {
            ask(&node, &conn, &mut asks, n, "basic", "1");
            ask(&node, &conn, &mut asks, 100 + n, "gold", "3");
        }
        node.waiting(24.0).await;
        gate.open();
        assert!(asks.join_all().await.iter().all(|response| response.status == 200));
        let order = numbers(&origin).split_off(1);
        assert_eq!(order.len(), 24);
        // As long as both have something waiting, three of four are gold's.
        for sent in 1..=16 {
            let gold = order[..sent].iter().filter(|n| **n > 100).count();
            assert!((4 * gold).abs_diff(3 * sent) <= 8, "by policy: {by_policy}, {gold} of {sent}: {order:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_of_a_list_is_sent_in_the_turn_of_a_request_that_waits_for_it_alone() {
    for team in ["long", "short"] {
        let (origin, gate) = (Origin::start().await, Gate::closed());
        doubling(&origin, gate.clone());
        let builder = asking(&origin, "size_max = 4\nconcurrency = 1");
        let by_field = "ttl_ms = 600000\ntenant = \"header:x-team\"\nignore_headers = [\"x-team\"]";
        let node = builder.route(by_field).start().await;
        let (conn, mut asks) = (node.h2().await, JoinSet::new());
        let list: Vec<Value> = (0..100).map(|n| json!({"n": n})).collect();
        let request = node.post(ARRAY).header("x-team", "long").json(&Value::Array(list));
        let mut stream = conn.stream();
        asks.spawn(async move { stream.send(request).await });
        eventually("a batch", async || origin.hits(ARRAY) == 1).await;
        let request = node.post(ARRAY).header("x-team", team).json(&json!({"n": 99}));
        let mut stream = conn.stream();
        let short = tokio::spawn(async move { stream.send(request).await });
        eventually("a further place", async || node.metric("holm_batch_hastened_total", "").await == 1.0).await;
        // The batch under way, one of the list, and that of the short request.
        gate.release(3);
        let response = short.await.unwrap();
        assert_eq!((response.status, response.json()), (200, json!({"double": 198})), "{team}");
        assert!(origin.hits(ARRAY) <= 4, "{team}: {} batches", origin.hits(ARRAY));
        gate.open();
        assert!(asks.join_all().await.iter().all(|response| response.status == 200), "{team}");
        let mut sent = numbers(&origin);
        sent.sort_unstable();
        assert_eq!(sent, (0..100).collect::<Vec<_>>(), "{team}: each once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weight_that_is_none_is_a_fault_and_the_route_says_the_tenant() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Origin::start().await);
    doubling(&origin, Gate::opened());
    let builder = asking(&origin, "size_max = 1").policy("naming", &naming(dir.path()), "{}");
    let node = builder.route("policy = \"naming\"").start().await;
    let request = node.post(ARRAY).header("x-team", "gold").header("x-weight", "0").json(&json!({"n": 1}));
    let response = request.send().await;
    assert_eq!((response.status, response.json()), (200, json!({"double": 2})));
    assert!(node.metric("holm_plugin_faults_total", "kind=\"malformed\"").await >= 1.0);
    let items: Vec<Value> = batches(&origin, ARRAY).concat();
    assert_eq!(items, [json!({"n": 1})]);
}
