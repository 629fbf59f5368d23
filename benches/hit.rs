//! What a memory hit costs, step by step: the key, the look-up, the reply's headers, and all of it.
//! `cargo bench --bench hit`

use divan::{Bencher, black_box};
use holm::{
    batch,
    cache::key::KeySpace,
    message::RequestSpan,
    policy::{Decision, Facts, HookCall, Notes, Policy, consult},
};
use holm_bindings::{
    exports::holm::policy::{key as key_export, plugin as plugin_export},
    holm::policy::{diagnostics, facts},
};
use scene::{CASES, Scene, TENANT_KEY, plugin, policy_of, request};
use wasmtime::{
    Config, Store,
    component::{Component, HasSelf, Linker},
};

#[path = "support/node.rs"]
mod node;
#[path = "support/scene.rs"]
mod scene;

fn main() {
    divan::main();
}

/// A whole memory hit: from a request to a response, without sockets.
#[divan::bench(args = CASES)]
fn memory_hit(bencher: Bencher<'_, '_>, case: &str) {
    let scene = Scene::new(policy_of(case));
    bencher.with_inputs(request).bench_values(|request| {
        let served = scene.runtime.block_on(scene.pipeline.serve(request, RequestSpan::none()));
        assert_eq!(served.response.status(), 200);
        served
    });
}

/// The key alone.
#[divan::bench(args = CASES)]
fn key(bencher: Bencher<'_, '_>, case: &str) {
    use holm::{cache::key::Decider, policy::key};
    let keys = KeySpace::new("bench", "web");
    let policy = policy_of(case).map(plugin);
    let head = request().head;
    bencher.bench_local(|| {
        let notes = Notes::default();
        let facts = Facts::new(black_box(&head), None, &notes);
        match &policy {
            None => {
                let mut hasher = keys.hasher(Decider::Native);
                key::http_default(&facts, &mut hasher);
                hasher.finish()
            }
            Some(policy) => {
                let mut hasher = keys.hasher(Decider::Policy { meaning: policy.meaning() });
                assert!(consult::material(&**policy, &facts, &mut hasher).is_ok());
                hasher.finish()
            }
        }
    });
}

/// What a component imports, said to nobody.
struct Silent;

impl facts::Host for Silent {}

impl diagnostics::Host for Silent {
    fn enabled(&mut self, _: diagnostics::Level) -> bool {
        false
    }

    fn log(&mut self, _: diagnostics::Level, _: String) {}
}

/// The engine's share of the next one: the same values handed to the same component, without anything of holm's.
#[divan::bench]
fn bare_call(bencher: Bencher<'_, '_>) {
    let mut config = Config::new();
    config.epoch_interruption(true).concurrency_support(false);
    let engine = wasmtime::Engine::new(&config).expect("an engine");
    let mut linker = Linker::<Silent>::new(&engine);
    holm_bindings::Policy::add_to_linker::<_, HasSelf<Silent>>(&mut linker, |it| it).expect("a linker");
    let component = Component::new(&engine, TENANT_KEY).expect("a component");
    let linked = linker.instantiate_pre(&component).expect("its imports");
    let mut store = Store::new(&engine, Silent);
    store.set_epoch_deadline(1);
    let instance = linked.instantiate(&mut store).expect("an instance");
    let plugin =
        plugin_export::GuestIndices::new(&linked).and_then(|it| it.load(&mut store, &instance)).expect("a plugin");
    let key = key_export::GuestIndices::new(&linked).and_then(|it| it.load(&mut store, &instance)).expect("a key");
    let configured = plugin.call_configure(&mut store, r#"{"require_tenant":true}"#);
    assert!(matches!(configured, Ok(Ok(_))));
    let values: [Option<&[u8]>; 3] = [Some(b"acme"), Some(b"bench.example"), Some(b"/catalogue/item")];
    bencher.bench_local(|| {
        let verdict = key.call_derive(&mut store, black_box(&values));
        assert!(matches!(verdict, Ok(Ok(key_export::Verdict::Lookup(_)))));
    });
}

/// A call with three inputs, extraction included: one reused instance.
#[divan::bench]
fn call_of_three_inputs(bencher: Bencher<'_, '_>) {
    use holm::policy::Input;
    let policy = plugin((r#"{"require_tenant":true}"#, 0, 1_000_000_000));
    let inputs = [Input::Header(http::HeaderName::from_static("x-tenant")), Input::Authority, Input::Path];
    let head = request().head;
    bencher.bench_local(|| {
        let notes = Notes::default();
        let facts = Facts::new(black_box(&head), None, &notes);
        let values = inputs.each_ref().map(|input| facts.read(input));
        let decision = policy.decide(&HookCall::Key, &values, None);
        assert!(matches!(decision.as_deref(), Ok(Decision::Key(_))));
    });
}

fn former_rule(size_max: usize) -> batch::FormerRule {
    let wait_max = std::time::Duration::from_millis(2);
    batch::FormerRule { size_max, bytes_max: 1 << 20, padded: false, wait_max, queue_max: 4096 }
}

/// Items that become one batch of a scheduler with one slot, and the batch's way back.
#[divan::bench(args = [1, 32])]
fn scheduler(bencher: Bencher<'_, '_>, size: usize) {
    let rule = batch::SchedulerRule {
        former: former_rule(size),
        concurrency: 1,
        concurrency_min: 1,
        classes_max: 256,
        tenants_max: 256,
        overdue: batch::OverdueRule::default(),
        guard: 0,
    };
    let mut scheduler = batch::Scheduler::new(rule, Box::new(batch::Adaptive::new()));
    let class = batch::Class { pool: "web".into(), group: bytes::Bytes::from_static(&[7; 32]), apart: None };
    let terms = batch::Terms { bytes: 100, ..batch::Terms::default() };
    let (now, took) = (std::time::Instant::now(), std::time::Duration::from_millis(5));
    let returned = batch::Returned { items: size, took, outcome: batch::Outcome::Responded, endpoint: None };
    bencher.counter(divan::counter::ItemsCount::new(size)).bench_local(|| {
        for item in 0..size {
            assert!(scheduler.arrive(&class, black_box(item), terms, now, |_| true).is_ok());
        }
        let batch::Next::Send(batch) = scheduler.next(now, |_| true) else { panic!("a slot is free") };
        scheduler.finished(&batch.queue_id, &returned, now);
        batch.items
    });
}
