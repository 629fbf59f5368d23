//! Deadlines that a policy gives: one request's is for no other. The policy is made here, of a module that is written
//! out.

use std::path::Path;

use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    harness::{
        eventually,
        model::{ARRAY, batches, doubling},
        node::{Builder, Node},
        origin::{Gate, Origin, Reply},
    },
    tenants::{REALLOC, component, words},
};

const WORLD: &str = "package holm:hasty; \
     world policy { export holm:policy/plugin@0.1.0; export holm:policy/route@0.1.0; }";

/// Returns a core module whose `route` hook gives a deadline to requests with `x-urgent`. The constants are laid out by
/// the canonical ABI.
fn module() -> String {
    let manifest = words(&[0, 1064, 5, 1072, 5, 0, 0]);
    let arguments = words(&[1088, 8]);
    let inputs = words(&[1080, 6, 1096, 1]);
    let reads = words(&[0, 1120, 1]);
    let order = words(&[0]);
    // No error, one candidate, no hedge, and a deadline of one second, if there is any.
    let choice = words(&[0, 1240, 1, 0, 0, 0, 1_000_000]);
    format!(
        r#"(module
            (memory (export "memory") 2)
            (data (i32.const 1064) "hasty")
            (data (i32.const 1072) "0.0.1")
            (data (i32.const 1080) "header")
            (data (i32.const 1088) "x-urgent")
            (data (i32.const 1096) "{arguments}")
            (data (i32.const 1120) "{inputs}")
            (data (i32.const 1168) "{reads}")
            (data (i32.const 1200) "{manifest}")
            (data (i32.const 1240) "{order}")
            (data (i32.const 1248) "{choice}")
            {REALLOC}
            (func (export "holm:policy/plugin@0.1.0#configure") (param i32 i32) (result i32) (i32.const 1200))
            (func (export "holm:policy/route@0.1.0#reads") (result i32) (i32.const 1168))
            (func (export "holm:policy/route@0.1.0#choose") (param $values i32) (param i32 i32 i32) (result i32)
                (i32.store8 (i32.const 1268) (i32.load8_u (local.get $values)))
                (i32.const 1248)))"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_of_one_request_ends_no_other_ones_wait() {
    let dir = tempfile::tempdir().unwrap();
    let file = component(dir.path(), "hasty", WORLD, &module());
    for infers in [false, true] {
        let (origin, gate) = (Origin::start().await, Gate::closed());
        let held = gate.clone();
        origin.on(ARRAY, move |_| Reply::fresh(600, "[1]").behind(&held));
        let builder = Node::builder().origin(&origin.url()).policy("hasty", &file, "{}").route("policy = \"hasty\"");
        let builder =
            if infers { builder.infer("json-array").route("ignore_headers = [\"x-urgent\"]") } else { builder };
        let node = builder.start().await;
        let ask = || if infers { node.post(ARRAY).json(&json!({"n": 1})) } else { node.get(ARRAY) };
        let urgent = tokio::spawn(ask().header("x-urgent", "1").send());
        eventually("the fetch", async || origin.hits(ARRAY) == 1).await;
        let (mut conn, patient) = (node.h2().await, ask());
        let patient = tokio::spawn(async move { conn.send(patient).await });
        node.took_over_h2(1).await;
        let urgent = urgent.await.unwrap();
        assert_eq!(urgent.status, 504, "infer: {infers}: {}", urgent.text());
        if !infers {
            eventually("the other one's fetch", async || origin.hits(ARRAY) == 2).await;
        }
        gate.open();
        let patient = patient.await.unwrap();
        assert_eq!((patient.status, patient.text()), (200, if infers { "1" } else { "[1]" }), "infer: {infers}");
        assert_eq!(origin.hits(ARRAY), if infers { 1 } else { 2 }, "a model goes on with what others wait for");
    }
}

/// A node before a model that takes lists, with that policy.
fn hasty(dir: &Path, origin: &Origin, batch: &str) -> Builder {
    let file = component(dir, "hasty", WORLD, &module());
    let route = "policy = \"hasty\"\nignore_headers = [\"x-urgent\"]\nttl_ms = 600000";
    let builder = Node::builder().origin(&origin.url()).policy("hasty", &file, "{}").infer("json-array");
    builder.route(route).set("pool.web.batch", batch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_several_wait_for_outlasts_the_deadline_of_one_in_the_queue() {
    let (dir, origin, gate) = (tempfile::tempdir().unwrap(), Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let node = hasty(dir.path(), &origin, "size_max = 1\nconcurrency = 1").start().await;
    let conn = node.h2().await;
    let ask = |n: u64, is_urgent: bool| {
        let (mut stream, request) = (conn.stream(), node.post(ARRAY).json(&json!({"n": n})));
        let request = if is_urgent { request.header("x-urgent", "1") } else { request };
        tokio::spawn(async move { (n, stream.send(request).await) })
    };
    let busy = ask(0, false);
    eventually("a batch", async || origin.hits(ARRAY) == 1).await;
    // One item is the urgent request's, and another one waits with it; of another one it is the other way round.
    let leads = ask(1, true);
    node.waiting(1.0).await;
    let patient = [ask(1, false), ask(2, false)];
    node.waiting(2.0).await;
    let follows = ask(2, true);
    for urgent in [leads, follows] {
        let (n, response) = urgent.await.unwrap();
        assert_eq!(response.status, 504, "{n}: {}", response.text());
        assert!(response.cache().get("detail").ends_with(":deadline"), "{n}: {:?}", response.cache());
    }
    gate.open();
    for other in patient.into_iter().chain([busy]) {
        let (n, response) = other.await.unwrap();
        assert_eq!((response.status, response.json()), (200, json!({"double": 2 * n})), "{n}");
    }
    let sent = batches(&origin, ARRAY).concat();
    assert_eq!(sent.len(), 3, "each was sent once: {sent:?}");
    assert_eq!(node.metric("holm_batch_refused_total", "reason=\"expired\"").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_with_one_whose_time_is_over_share_what_it_began() {
    const PATIENT: u32 = 6;
    let (dir, origin, gate) = (tempfile::tempdir().unwrap(), Origin::start().await, Gate::closed());
    doubling(&origin, gate.clone());
    let node = hasty(dir.path(), &origin, "size_max = 1\nconcurrency = 16").start().await;
    let ask = || node.post(ARRAY).json(&json!({"n": 1}));
    let urgent = tokio::spawn(ask().header("x-urgent", "1").send());
    eventually("the fetch", async || origin.hits(ARRAY) == 1).await;
    let (conn, mut patient) = (node.h2().await, JoinSet::new());
    for _ in 0..PATIENT {
        let (mut stream, request) = (conn.stream(), ask());
        patient.spawn(async move { stream.send(request).await });
    }
    node.took_over_h2(PATIENT).await;
    assert_eq!(urgent.await.unwrap().status, 504);
    gate.open();
    for response in patient.join_all().await {
        assert_eq!((response.status, response.json()), (200, json!({"double": 2})));
    }
    assert_eq!(origin.hits(ARRAY), 1, "one for all of them");
}
