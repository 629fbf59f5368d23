//! How many instructions a request costs on its ways through the node. `benches/ruler` runs it and compares with the
//! figures in `benches/instructions.txt`.

#![allow(missing_docs, reason = "the macros make public items without docs")]

use std::{hint::black_box, sync::Arc, time::Duration};

use gungraun::{library_benchmark, library_benchmark_group, main};
use holm::{
    batch,
    message::{Body, Request, RequestSpan, Response},
    origin::protocol,
};
use http::{HeaderValue, Method, header};
use scene::{Scene, policy_of, request};

#[path = "support/node.rs"]
mod node;
#[allow(dead_code, reason = "`hit` uses the rest")]
#[path = "support/scene.rs"]
mod scene;

/// A node that has the response to [`request`] in memory, under a key that is made in this way.
fn warm(case: &str) -> (Scene, Request) {
    (Scene::new(policy_of(case)), request())
}

/// The same node, and a request of its own kind.
fn warm_and(change: impl FnOnce(&mut Request)) -> (Scene, Request) {
    let (scene, mut request) = warm("native");
    // What only the first request of a kind costs isn't what is measured.
    let mut first = scene::request();
    first.head.target = "/first".parse().expect("a target");
    scene.serve(first);
    change(&mut request);
    (scene, request)
}

fn unchanged() -> (Scene, Request) {
    warm_and(|request| {
        request.head.headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"1\""));
    })
}

fn unknown() -> (Scene, Request) {
    warm_and(|request| request.head.target = "/unknown".parse().expect("a target"))
}

fn passed() -> (Scene, Request) {
    warm_and(|request| {
        request.head.method = Method::POST;
    })
}

// From a request to a response: what is stored and fresh, what is known to the client, what comes from the origin.
#[library_benchmark]
#[bench::native(warm("native"))]
#[bench::recipe(warm("recipe"))]
#[bench::remembered(warm("memo"))]
#[bench::called(warm("call"))]
#[bench::not_modified(unchanged())]
#[bench::miss(unknown())]
fn reply((scene, request): (Scene, Request)) -> (Scene, Response) {
    let response = scene.serve(black_box(request));
    (scene, response)
}

// Eight requests in turn that are passed on: a single one differs by how the sockets' events fall together.
#[library_benchmark]
#[bench::eight(passed())]
fn pass((scene, request): (Scene, Request)) -> Scene {
    for _ in 0..8 {
        let again = Request { head: request.head.clone(), body: Body::Full(b"hello".as_slice().into()) };
        assert_eq!(scene.serve(again).status(), 200);
    }
    scene
}

// Eight requests at once for what isn't stored, of which one is sent to the origin.
#[library_benchmark]
#[bench::eight(unknown())]
fn flight((scene, request): (Scene, Request)) -> Scene {
    let again = || Request { head: request.head.clone(), body: Body::Empty };
    scene.runtime.block_on(async {
        let all = (0..8).map(|_| {
            let (pipeline, request) = (Arc::clone(&scene.pipeline), again());
            tokio::spawn(async move { pipeline.serve(request, RequestSpan::none()).await })
        });
        for one in all.collect::<Vec<_>>() {
            assert_eq!(one.await.expect("a response").response.status(), 200);
        }
    });
    scene
}

fn scheduler() -> batch::Scheduler<batch::Class, usize> {
    let wait_max = Duration::from_millis(2);
    let former = batch::FormerRule { size_max: 32, bytes_max: 1 << 20, padded: false, wait_max, queue_max: 4096 };
    let rule = batch::SchedulerRule {
        former,
        concurrency: 1,
        concurrency_min: 1,
        classes_max: 256,
        tenants_max: 256,
        overdue: batch::OverdueRule::default(),
        guard: 0,
    };
    batch::Scheduler::new(rule, Box::new(batch::Adaptive::new()))
}

// Items of one class that become a batch.
#[library_benchmark]
#[bench::of_32(scheduler())]
fn gather(mut scheduler: batch::Scheduler<batch::Class, usize>) -> usize {
    let class = batch::Class { pool: "web".into(), group: bytes::Bytes::from_static(&[7; 32]), apart: None };
    let terms = batch::Terms { bytes: 100, ..batch::Terms::default() };
    let now = std::time::Instant::now();
    for item in 0..32 {
        assert!(scheduler.arrive(&class, black_box(item), terms, now, |_| true).is_ok());
    }
    match scheduler.next(now, |_| true) {
        batch::Next::Send(batch) => batch.items.len(),
        _ => panic!("a slot is free"),
    }
}

fn asked() -> bytes::Bytes {
    let body = bytes::Bytes::from_static(br#"{"model":"small", "input":"how far is the moon", "temperature":0.20}"#);
    // The first call finds out what the processor can do, which costs more on some than on others.
    assert!(!protocol::whole(&body).canonical.is_empty());
    body
}

// The canonical form of an item, which its key is made of.
#[library_benchmark]
#[bench::json(asked())]
fn item(body: bytes::Bytes) -> usize {
    protocol::whole(black_box(&body)).canonical.len()
}

library_benchmark_group!(name = ways, benchmarks = [reply, pass, flight, gather, item]);
main!(library_benchmark_groups = ways);
