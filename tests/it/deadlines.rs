//! Deadlines that a policy gives: one request's is for no other. The policy is made here, of a module that is written
//! out.

use serde_json::json;

use crate::{
    harness::{
        eventually,
        model::ARRAY,
        node::Node,
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
        eventually("the other one's fetch", async || origin.hits(ARRAY) == 2).await;
        gate.open();
        let patient = patient.await.unwrap();
        assert_eq!((patient.status, patient.text()), (200, if infers { "1" } else { "[1]" }), "infer: {infers}");
    }
}
