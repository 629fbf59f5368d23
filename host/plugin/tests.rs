//! Real components against the host's limits. `plugins/mad` does what its input says; `plugins/build` makes it.

mod generations;
mod hooks;
mod memo;

use std::{
    borrow::Cow,
    cell::Cell,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::HeaderName;

use super::*;
use crate::{
    clock::Uptime,
    config::{self, Breaker, Memo, PolicyLimits, PolicySource, Rollout},
    policy::{
        Decision, Fault, HookCall, Input, KeyPlan, KeyVerdict, Policy,
        key::{Part, Transform},
    },
    report::GenerationInfo,
};

const MAD: &[u8] = include_bytes!("../../plugins/dist/mad.wasm");
const NOSY: &[u8] = include_bytes!("../../plugins/dist/nosy.wasm");
const TENANT_KEY: &[u8] = include_bytes!("../../plugins/dist/tenant-key.wasm");

const ENGINE_LIMITS: EngineLimits = EngineLimits {
    instances_max: 1,
    memory_bytes_max: 32 << 20,
    cache_dir: None,
    cache_bytes_max: 1 << 30,
    fuel: false,
};

/// One for all tests, so that each component is compiled once.
static ENGINE: LazyLock<Arc<Engine>> =
    LazyLock::new(|| Engine::new(&EngineLimits { instances_max: 32, ..ENGINE_LIMITS }).unwrap());

const LIMITS: PolicyLimits = PolicyLimits {
    memory_bytes_max: 32 << 20,
    // So long that no busy machine cuts a call short; tests of overruns shorten it.
    call: Duration::from_secs(20),
    load: Duration::from_secs(20),
    instances_max: 4,
    wait: Duration::ZERO,
    calls_max: 1_000,
    result_bytes_max: 4_096,
    result_items_max: 1_024,
    log_per_second_max: 50,
    breaker: Breaker { failures: 1_000, open: Duration::from_millis(100), open_max: Duration::from_millis(100) },
};

/// A memo that remembers nothing: these tests are about calls.
const FORGETFUL: Memo = Memo { entries_max: 0, check_every: 1 };

fn config(component: &'static [u8], table: &str, limits: PolicyLimits, memo: Memo) -> config::Policy {
    let source = PolicySource::Embedded(component);
    config::Policy { source, config: table.to_owned(), limits, memo, rollout: Rollout::default() }
}

fn load(component: &'static [u8], table: &str, limits: PolicyLimits) -> Result<Arc<Plugin>, Error> {
    Plugin::load(&ENGINE, "p", &config(component, table, limits, FORGETFUL), &Metrics::new())
}

/// Loads a component that does this at every call.
fn mad(what: &str, limits: PolicyLimits) -> Result<Arc<Plugin>, Error> {
    load(MAD, &format!(r#"{{"do": "{what}"}}"#), limits)
}

/// Loads a component that does what each request says.
fn obedient(limits: PolicyLimits) -> Arc<Plugin> {
    mad("ask", limits).unwrap()
}

fn values<'a>(values: &[Option<&'a str>]) -> Vec<Option<Cow<'a, [u8]>>> {
    values.iter().map(|value| value.map(|text| Cow::Borrowed(text.as_bytes()))).collect()
}

/// Returns the key of a request with these values.
fn derive(plugin: &Plugin, values: &[Option<Cow<'_, [u8]>>]) -> Result<KeyVerdict, Fault> {
    plugin.decide(&HookCall::Key, values, None).map(|decision| match &*decision {
        Decision::Key(verdict) => verdict.clone(),
        other => panic!("{other:?}"),
    })
}

fn lookup(parts: &[&str]) -> KeyVerdict {
    KeyVerdict::Lookup(parts.iter().map(|part| Some(part.as_bytes().to_vec())).collect())
}

fn ask(plugin: &Plugin, what: &str) -> Result<KeyVerdict, Fault> {
    derive(plugin, &values(&[Some(what), Some("/p")]))
}

fn info(plugin: &Plugin) -> GenerationInfo {
    plugin.info("active")
}

fn faults(info: &GenerationInfo) -> Vec<(&str, u64)> {
    info.faults.iter().map(|(kind, count)| (kind.as_str(), *count)).collect()
}

fn calls(plugin: &Plugin) -> u64 {
    plugin.sums().iter().map(|sums| sums.calls).sum()
}

/// Returns how many calls the instance that is called has had.
fn count(plugin: &Plugin) -> String {
    match ask(plugin, "count") {
        Ok(KeyVerdict::Lookup(parts)) => String::from_utf8(parts.into_iter().flatten().flatten().collect()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_recipe_is_read_at_load_and_costs_no_call() {
    let plugin = mad("recipe", LIMITS).unwrap();
    let tenant = Input::Header(HeaderName::from_static("x-tenant"));
    let wanted = vec![
        Part { input: tenant, transform: Transform::Lowercase },
        Part { input: Input::Path, transform: Transform::Identity },
    ];
    assert_eq!(*plugin.key_plan(), KeyPlan::Recipe(wanted));
    let info = info(&plugin);
    assert_eq!((info.component.as_str(), info.version.as_str(), calls(&plugin)), ("mad", "0.1.0", 0));
    let names: Vec<&str> = info.hooks.iter().map(|hook| hook.name.as_str()).collect();
    assert_eq!(names, ["key", "features", "admit", "route", "batch", "prefetch"]);
    assert_eq!(info.hooks[0].reads, ["header(x-tenant)", "path"]);
    assert_eq!(info.plan, "recipe: header(x-tenant) lowercase, path");
}

#[test]
fn a_call_is_given_the_declared_inputs() {
    let plugin = obedient(LIMITS);
    let wanted = vec![Input::Header(HeaderName::from_static("x-do")), Input::Path];
    assert_eq!(*plugin.key_plan(), KeyPlan::Call(wanted));
    assert_eq!(ask(&plugin, "echo"), Ok(lookup(&["echo", "/p"])));
    assert_eq!(calls(&plugin), 1);
    assert!(info(&plugin).faults.is_empty());
}

#[test]
fn the_tenant_key_policy_keys_by_tenant() {
    let plugin = load(TENANT_KEY, r#"{"tenant_header": "X-Org"}"#, LIMITS).unwrap();
    assert_eq!(info(&plugin).plan, "recipe: header(x-org) lowercase, authority, path, query-all sort-query");
    let plugin = load(TENANT_KEY, r#"{"require_tenant": true, "body": ["/model"]}"#, LIMITS).unwrap();
    assert_eq!(info(&plugin).plan, "call: header(x-tenant), authority, path, query-all, body-json(/model)");
    let key = |tenant, query| derive(&plugin, &values(&[tenant, Some("a.example"), Some("/p"), query, None])).unwrap();
    assert_eq!(key(None, None), KeyVerdict::Bypass("no tenant".into()));
    assert_eq!(key(Some("ACME"), Some("b=2&a=1")), key(Some("acme"), Some("a=1&b=2")));
    assert_ne!(key(Some("acme"), None), key(Some("umbrella"), None));
    assert_ne!(key(Some("acme"), None), key(Some("acme"), Some("")));
}

#[test]
fn each_misdeed_is_a_fault_and_the_next_call_has_a_fresh_instance() {
    let plugin = obedient(LIMITS);
    for (what, kind, words) in [
        ("trap", "trap", "unreachable"),
        ("alloc", "trap", "out of its 33554432 bytes of memory"),
        ("recurse", "trap", "call stack exhausted"),
        ("giant", "too-large", "4097 bytes or more is over the limit of 4096"),
        ("large", "too-large", "5000 bytes or more is over the limit of 4096"),
        ("crowd", "malformed", "65 parts of a key; at most 64 are allowed"),
        ("nothing", "malformed", "no parts"),
    ] {
        let fault = ask(&plugin, what).unwrap_err();
        assert_eq!(fault.kind(), kind, "{what}: {fault}");
        assert!(fault.to_string().contains(words), "{what}: {fault}");
        assert_eq!(count(&plugin), "1", "after {what}");
    }
    let info = info(&plugin);
    assert_eq!(faults(&info), [("malformed", 2), ("too-large", 2), ("trap", 3)]);
    assert_eq!((calls(&plugin), info.instances), (14, 1));
}

#[test]
fn a_call_without_end_is_ended() {
    let plugin = obedient(PolicyLimits { call: Duration::from_millis(20), ..LIMITS });
    assert_eq!(ask(&plugin, "loop"), Err(Fault::Overrun { limit_us: 20_000 }));
    assert_eq!(info(&plugin).instances, 0, "its instance is gone");
}

#[test]
fn an_error_of_its_own_leaves_the_instance_and_the_breaker_alone() {
    let breaker = Breaker { failures: 1, ..LIMITS.breaker };
    let plugin = obedient(PolicyLimits { breaker, ..LIMITS });
    assert_eq!(count(&plugin), "1");
    assert_eq!(ask(&plugin, "fault"), Err(Fault::Own { code: 7, detail: "as ordered".into() }));
    assert_eq!(count(&plugin), "3");
    assert_eq!(faults(&info(&plugin)), [("fault", 1)]);
}

#[test]
fn a_reason_to_bypass_is_cut_to_what_a_header_holds() {
    let Ok(KeyVerdict::Bypass(reason)) = ask(&obedient(LIMITS), "bypass") else { panic!("no bypass") };
    assert!(reason.starts_with("because??xxx") && reason.len() == 128, "{reason}");
}

#[test]
fn a_chatterbox_is_survived() {
    assert!(ask(&obedient(LIMITS), "chatter").is_ok());
}

#[test]
fn an_instance_is_replaced_after_its_calls() {
    let plugin = obedient(PolicyLimits { calls_max: 2, ..LIMITS });
    let counts: Vec<String> = (0..5).map(|_| count(&plugin)).collect();
    assert_eq!(counts, ["1", "2", "1", "2", "1"]);
    assert_eq!(info(&plugin).instances, 1);
}

#[test]
fn there_are_no_more_instances_than_allowed() {
    let plugin = obedient(PolicyLimits { instances_max: 1, ..LIMITS });
    let (place, instance) = plugin.instances.take().unwrap();
    assert_eq!(ask(&plugin, "echo"), Err(Fault::NoInstance("all 1 are busy".into())));
    place.keep(instance.unwrap());
    assert!(ask(&plugin, "echo").is_ok());
}

#[test]
fn a_call_waits_briefly_for_an_instance() {
    let plugin = obedient(PolicyLimits { instances_max: 1, wait: Duration::from_secs(20), ..LIMITS });
    let (place, instance) = plugin.instances.take().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&plugin, "echo"));
        place.keep(instance.unwrap());
        assert!(waiting.join().unwrap().is_ok());
    });
    assert_eq!((info(&plugin).instances, calls(&plugin)), (1, 1));
}

#[test]
fn a_generation_on_its_way_out_keeps_no_instances() {
    let plugin = obedient(LIMITS);
    let (place, instance) = plugin.instances.take().unwrap();
    plugin.instances.close();
    place.keep(instance.unwrap());
    assert_eq!(info(&plugin).instances, 0);
    assert!(ask(&plugin, "echo").is_ok(), "who began with it is served");
    assert_eq!(info(&plugin).instances, 0);
    plugin.instances.open();
    assert!(ask(&plugin, "echo").is_ok());
    assert_eq!(info(&plugin).instances, 1);
}

#[test]
fn fuel_is_counted_where_it_is_wanted() {
    let engine = Engine::new(&EngineLimits { fuel: true, ..ENGINE_LIMITS }).unwrap();
    let mad = config(MAD, r#"{"do": "ask"}"#, LIMITS, FORGETFUL);
    let plugin = Plugin::load(&engine, "p", &mad, &Metrics::new()).unwrap();
    assert!(ask(&plugin, "echo").is_ok());
    let short = info(&plugin).hooks[0].mean_fuel;
    assert!(ask(&plugin, "chatter").is_ok());
    let mean = info(&plugin).hooks[0].mean_fuel;
    assert!(short > 0 && mean > 2 * short, "{short}, {mean}");
}

/// Starts anew with compiled components in `dir`, has one decide, and returns the only file there with its inode:
/// another one has been written anew.
fn started_with(dir: &std::path::Path) -> (std::path::PathBuf, u64) {
    let engine = Engine::new(&EngineLimits { cache_dir: Some(dir.to_owned()), ..ENGINE_LIMITS }).unwrap();
    let mad = config(MAD, r#"{"do": "ask"}"#, LIMITS, FORGETFUL);
    let plugin = Plugin::load(&engine, "p", &mad, &Metrics::new()).unwrap();
    assert!(ask(&plugin, "echo").is_ok());
    let files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &*files else { panic!("one file and not {files:?}") };
    (file.clone(), std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(file).unwrap()))
}

#[test]
fn compiled_components_are_found_again_and_damaged_ones_are_compiled_anew() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("compiled");
    let (file, mut written) = started_with(&cache);
    assert_eq!(started_with(&cache), (file.clone(), written), "found again");
    let whole = std::fs::read(&file).unwrap();
    let middle = whole.len() / 2;
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (what, bytes) in [
        ("a bit in the code", flipped(middle)),
        ("a bit in the checksum", flipped(10)),
        ("cut off", whole[..middle].to_vec()),
        ("empty", Vec::new()),
        ("zeros to the end, as after a power failure", [&whole[..100], &vec![0_u8; middle]].concat()),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let (same, again) = started_with(&cache);
        assert!(same == file && again != written, "{what}");
        assert!(std::fs::read(&file).unwrap().starts_with(&whole[..8]), "{what}");
        written = again;
        assert_eq!(started_with(&cache), (file.clone(), written), "{what}: found again");
    }
}

#[test]
fn the_breaker_opens_and_heals() {
    let time = Cell::new(0);
    let now = || Uptime(time.get());
    let breaker = Breaker { failures: 3, ..LIMITS.breaker };
    let plugin = obedient(PolicyLimits { breaker, ..LIMITS });
    let ask = |what| plugin.answer(&now, &HookCall::Key, &values(&[Some(what), None]));
    for _ in 0..3 {
        assert!(matches!(ask("trap"), Err(Fault::Trap(_))));
    }
    assert_eq!(ask("echo"), Err(Fault::Open));
    assert!(info(&plugin).hooks[0].breaker_open && !info(&plugin).hooks[1].breaker_open);
    time.set(100);
    assert!(ask("echo").is_ok(), "the probe");
    assert!(ask("echo").is_ok());
    assert!(!info(&plugin).hooks[0].breaker_open);
}

#[test]
fn what_cannot_be_configured_is_refused_with_its_reason() {
    for (what, words) in [
        ("refuse-config", "doesn't start: `configure` returned fault 7: not in the mood"),
        ("trap-in-config", "doesn't start: `configure` trapped: wasm `unreachable`"),
        ("read-response", "is refused: input response-status is not provided to the key hook"),
        ("features-read-feature", "input feature(x) is not provided to the features hook"),
        ("arm-undeclared", "input arm(nope) is not provided to the key hook"),
        ("arms-bad", "all its arms have the weight 0"),
        ("arms-many", "it has not 1 to 16 arms"),
        ("experiment-twice", "there is another of the same name"),
        ("read-bad-header", "input header(a b): not the name of a header field"),
        ("read-bad-pointer", "input body-json(model): not a pointer"),
        ("read-much", "the key hook declares 65 inputs; at most 64 are allowed"),
        ("read-nothing", "its call reads nothing"),
        ("read-unknown", "is refused: input moon-phase(full) is none that this node knows: method, scheme, authority"),
        ("read-too-few", "is refused: input header: it takes one argument"),
        ("unknown-transform", "is refused: transform rot13 is none that this node knows: identity, lowercase"),
        ("refuse-reads", "doesn't say what its route hook reads: returned fault 7: no reads"),
        ("trap-in-reads", "doesn't say what its route hook reads: trapped: wasm `unreachable`"),
        ("nameless", "the manifest's name is not 1 to 64 visible ASCII characters"),
        ("empty-recipe", "its recipe reads nothing"),
        ("long-recipe", "the recipe has 65 parts; at most 64 are allowed"),
        ("refuse-plan", "has no plan for keys: returned fault 7: no plan"),
    ] {
        let error = mad(what, LIMITS).unwrap_err().to_string();
        assert!(error.starts_with("policy `p` (embedded) ") && error.contains(words), "{what}: {error}");
    }
}

#[test]
fn configuring_has_limits_too() {
    let hasty = PolicyLimits { load: Duration::from_millis(20), ..LIMITS };
    let error = mad("loop-in-config", hasty).unwrap_err().to_string();
    assert!(error.contains("`configure` took longer than 20000 µs"), "{error}");
    // Long enough for the calls before that one, on any machine.
    let patient = PolicyLimits { load: Duration::from_millis(500), ..LIMITS };
    let error = mad("loop-in-reads", patient).unwrap_err().to_string();
    assert!(error.contains("its route hook reads: took longer than 500000 µs"), "{error}");
    let small = PolicyLimits { memory_bytes_max: 64 << 10, ..LIMITS };
    let error = mad("echo", small).unwrap_err().to_string();
    assert!(error.contains("not instantiated: ") && error.contains("memory"), "{error}");
}

#[test]
fn what_is_no_policy_is_refused_with_its_reason() {
    for (bytes, words) in [
        (NOSY, "imports `holm:evil/clock`"),
        (b"\0asm\x01\0\0\0".as_slice(), "is a core module"),
        (b"\0asm\x0d\0\x01\0".as_slice(), "doesn't export `holm:policy/plugin@0.1.0`"),
        (b"#!/bin/sh".as_slice(), "is not a component"),
    ] {
        let error = load(bytes, "{}", LIMITS).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let source = PolicySource::File("no/such.wasm".into());
    let config = config::Policy { source, ..config(MAD, "{}", LIMITS, FORGETFUL) };
    let error = Plugin::load(&ENGINE, "p", &config, &Metrics::new()).unwrap_err().to_string();
    assert!(error.starts_with("policy `p` (no/such.wasm) can't be read: "), "{error}");
}

#[test]
fn a_generation_is_named_by_what_it_is_made_of() {
    let one = mad("echo", LIMITS).unwrap();
    assert_eq!(**one.label(), format!("p@{}", &one.digest()[..8]));
    assert_eq!(one.digest(), mad("echo", LIMITS).unwrap().digest());
    assert_ne!(one.digest(), mad("ask", LIMITS).unwrap().digest());
    assert_ne!(one.digest(), mad("echo", PolicyLimits { calls_max: 1, ..LIMITS }).unwrap().digest());
}

#[test]
fn instances_are_shared_by_threads() {
    let plugin = obedient(PolicyLimits { instances_max: 4, ..LIMITS });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|_| assert!(ask(&plugin, "echo").is_ok())));
        }
    });
    assert_eq!(calls(&plugin), 800);
    assert!((1..=4).contains(&info(&plugin).instances));
}

/// Names the directory with components freshly built from `plugins/`; `.ci/run` sets it.
const FRESH: &str = "HOLM_PLUGINS_FRESH";

/// Configurations in which the committed and the fresh component must agree, each with the inputs of their calls.
const AGREED: [(&str, &str, &[&[Option<&str>]]); 5] = [
    ("tenant-key", "{}", &[]),
    ("tenant-key", r#"{"tenant_header":"x-org","body":["/model","/input"]}"#, &[]),
    (
        "tenant-key",
        r#"{"require_tenant":true,"body":["/model"]}"#,
        &[
            &[Some("ACME"), Some("a.example"), Some("/p"), Some("b=2&&a=1"), Some("{\"b\":1,\"a\":2}")],
            &[Some("acme"), Some("a.example"), Some("/p"), None, None],
            &[None, Some("a.example"), Some("/p"), Some("x=1"), None],
            &[Some(""), None, None, None, None],
        ],
    ),
    ("mad", r#"{"do":"call"}"#, &[&[Some("x"), Some("/p")], &[None, None]]),
    ("mad", r#"{"do":"bypass"}"#, &[&[Some("x"), Some("/p")]]),
];

/// The committed components decide as their sources do. Their bytes may differ: another standard library.
#[test]
fn committed_components_decide_as_their_sources_do() {
    let Some(fresh) = std::env::var_os(FRESH) else {
        eprintln!("skipped: set {FRESH} to the directory of `plugins/build --out DIR`");
        return;
    };
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/dist");
    for (name, table, questions) in AGREED {
        let [ours, theirs] = [committed.as_ref(), fresh.as_os_str()].map(|dir: &std::ffi::OsStr| {
            let file = std::path::Path::new(dir).join(format!("{name}.wasm"));
            let source = PolicySource::File(file);
            let config = config::Policy { source, ..config(MAD, table, LIMITS, FORGETFUL) };
            Plugin::load(&ENGINE, name, &config, &Metrics::new()).unwrap()
        });
        assert_eq!(ours.key_plan(), theirs.key_plan(), "{name} {table}");
        for question in questions {
            let question = values(question);
            assert_eq!(derive(&ours, &question), derive(&theirs, &question), "{name} {table} {question:?}");
        }
    }
}
