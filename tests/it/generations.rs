//! Policies that are exchanged while requests are under way.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::harness::{
    client::Ask,
    eventually, found,
    load::{Load, sealed_origin},
    node::{Builder, Node, NodeHandle},
    origin::{Origin, Reply},
    process::Process,
    repository,
};

fn component(name: &str) -> PathBuf {
    repository("plugins/dist").join(format!("{name}.wasm"))
}

/// The component with a custom section, which makes it another one that does the same.
fn marked(name: &str, mark: &str) -> Vec<u8> {
    let mut bytes = fs::read(component(name)).unwrap();
    let size = u8::try_from(mark.len() + 2).unwrap();
    bytes.extend([0, size, 1, b'm']);
    bytes.extend_from_slice(mark.as_bytes());
    bytes
}

/// Puts a file in place as editors do: written beside it, then renamed.
fn put(file: &Path, bytes: &[u8]) {
    let beside = file.with_extension("new");
    fs::write(&beside, bytes).unwrap();
    fs::rename(beside, file).unwrap();
}

fn node(origin: &Origin, file: &Path, config: &str) -> Builder {
    Node::builder().origin(&origin.url()).policy("p", file, config).route("policy = \"p\"")
}

async fn generations(handle: &NodeHandle) -> Value {
    handle.admin("/policies").send().await.json()[0].clone()
}

async fn active(handle: &NodeHandle) -> String {
    generations(handle).await["generations"][0]["generation"].as_str().unwrap().to_owned()
}

async fn act(handle: &NodeHandle, action: &str, body: &Value) -> (u16, Value) {
    let ask = Ask::new(handle.admin, http::Method::POST, &format!("/policies/p/{action}"));
    let response = ask.json(body).send().await;
    (response.status, response.json())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_loaded_and_a_bad_one_changes_nothing() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::fresh(600, "page"));
    let file = dir.path().join("policy.wasm");
    put(&file, &marked("tenant-key", "1"));
    let node = node(&origin, &file, "{}").start().await;
    let first = active(&node).await;
    put(&file, &marked("tenant-key", "2"));
    eventually("the second generation", async || active(&node).await != first).await;
    let second = active(&node).await;
    // Written in place, and broken.
    fs::write(&file, b"\0asm\x0d\0\x01\0broken").unwrap();
    eventually("the refusal", async || {
        let events = generations(&node).await["events"].to_string();
        events.contains("refused: policy `p`") && events.contains("is not a component")
    })
    .await;
    assert_eq!(active(&node).await, second);
    assert_eq!(node.get("/").header("x-tenant", "t").send().await.status, 200);
    assert!(node.metric("holm_plugin_loads_total", "outcome=\"refused\"").await >= 1.0);
}

/// A ConfigMap or a Secret of Kubernetes: the file is a link through `..data`, which is exchanged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_volume_that_is_exchanged_is_loaded() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    let version = |name: &str| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("policy.wasm"), marked("tenant-key", name)).unwrap();
        symlink(name, dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    };
    version("..1");
    let file = dir.path().join("policy.wasm");
    symlink("..data/policy.wasm", &file).unwrap();
    let node = node(&origin, &file, "{}").start().await;
    let first = active(&node).await;
    version("..2");
    eventually("the second generation", async || active(&node).await != first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hup_reloads_what_the_configuration_says_now() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "page"));
    let builder = node(&origin, &component("tenant-key"), "{}").set("plugins", "watch = false");
    let process = builder.spawn().await;
    let first = active(&process).await;
    let asked = |process: &Process| process.get("/x").send();
    assert_ne!(asked(&process).await.cache().get("fwd"), "bypass");
    let changed = builder.text().replace("config = {}", "config = { require_tenant = true }");
    fs::write(process.config(), changed).unwrap();
    process.signal("HUP");
    eventually("the new configuration", async || asked(&process).await.cache().get("fwd") == "bypass").await;
    let second = active(&process).await;
    assert_ne!(first, second);
    fs::write(process.config(), "nonsense = 1").unwrap();
    process.signal("HUP");
    eventually("the refusal", async || process.said().contains("the configuration is wrong")).await;
    assert_eq!(active(&process).await, second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_api_loads_promotes_and_rolls_back() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::fresh(600, "page"));
    let node = node(&origin, &component("tenant-key"), "{}").start().await;
    let first = active(&node).await;
    let other = dir.path().join("other.wasm");
    put(&other, &marked("tenant-key", "2"));
    let load = json!({"file": other, "mode": "shadow"});
    let (status, loaded) = act(&node, "load", &load).await;
    assert_eq!((status, &loaded["state"], &loaded["unchanged"]), (200, &json!("shadow"), &json!(false)), "{loaded}");
    for n in 0..5 {
        node.get(&format!("/{n}")).header("x-tenant", "t").send().await;
    }
    eventually("the comparisons", async || generations(&node).await["trial"]["compared"] == json!(5)).await;
    let trial = generations(&node).await["trial"].clone();
    assert_eq!((&trial["disagreed"], &trial["mode"]), (&json!(0), &json!("shadow")), "{trial}");
    assert_eq!(act(&node, "promote", &json!({})).await.0, 200);
    assert_ne!(active(&node).await, first);
    assert_eq!(act(&node, "promote", &json!({})).await.0, 409, "nothing is on trial");
    assert_eq!(act(&node, "rollback", &json!({})).await.0, 200);
    assert_eq!(active(&node).await, first);
    let (status, refused) = act(&node, "load", &json!({"file": "no/such.wasm"})).await;
    assert!(status == 409 && refused["detail"].as_str().unwrap().contains("can't be read"), "{refused}");
    assert_eq!(act(&node, "load", &json!({"mode": "slowly"})).await.0, 400);
    let unknown = Ask::new(node.admin, http::Method::POST, "/policies/q/promote").json(&json!({})).send().await;
    assert!(unknown.status == 404 && unknown.text().contains("configured are: p"), "{}", unknown.text());
}

/// Responses stored under a canary are found by its own clients only, and by nobody once it has gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_canary_decided_goes_with_it() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "page"));
    let builder = node(&origin, &component("mad"), "{ do = \"call\" }")
        .set("policy.p.rollout", "mode = \"canary\"\ncanary_percent = 100\nrequests_min = 1000000");
    let node = builder.start().await;
    let ask = || node.get("/x").header("x-do", "a").send();
    ask().await;
    eventually("a hit", async || ask().await.is_hit()).await;
    let (dir, other) = (tempfile::tempdir().unwrap(), marked("mad", "2"));
    let file = dir.path().join("other.wasm");
    put(&file, &other);
    assert_eq!(act(&node, "load", &json!({"file": file})).await.1["state"], json!("canary"));
    assert!(!ask().await.is_hit(), "the canary has keys of its own");
    eventually("a hit of the canary's", async || ask().await.is_hit()).await;
    assert_eq!(origin.hits("/x"), 2);
    assert_eq!(act(&node, "rollback", &json!({})).await.0, 200);
    assert!(ask().await.is_hit(), "what was there before still is");
    assert_eq!(origin.hits("/x"), 2);
}

/// The results of the canary may have 256 bytes, and the key of a long body has more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_canary_faults_in_is_credited_to_the_generation_that_decided() {
    for protocol in ["plain", "json-array"] {
        let origin = Origin::start().await;
        origin.on("*", |_| Reply::fresh(600, "[1]").header("content-type", "application/json"));
        let limit = "result_bytes_max = 65536";
        let rollout = "mode = \"canary\"\ncanary_percent = 100\nrequests_min = 1000000\nfaults_ppm_max = 1000000";
        let builder = node(&origin, &component("tenant-key"), "{ require_tenant = true, body = [\"/q\"] }")
            .infer(protocol)
            .set("policy.p.rollout", rollout)
            .set("policy.p.limits", &format!("{limit}\ncall_us = 1000000"));
        let process = builder.spawn().await;
        let first = active(&process).await;
        fs::write(process.config(), builder.text().replace(limit, "result_bytes_max = 256")).unwrap();
        process.signal("HUP");
        let canary = found("the canary", async || {
            generations(&process).await["trial"]["generation"].as_str().map(str::to_owned)
        })
        .await;
        for (text, decided) in [("short".to_owned(), &canary), ("long".repeat(100), &first)] {
            let request = process.post("/x").header("x-tenant", "t").json(&json!({"q": text}));
            let response = request.send().await;
            assert_eq!(response.status, 200, "{protocol}: {}", response.text());
            let (status, label) = (response.cache(), format!("p@{decided}"));
            assert!(status.get("detail").starts_with(&label), "{protocol} {text}: {status:?} and not {label}");
        }
    }
}

/// Returns the outcomes of trials, oldest first.
async fn rollbacks(handle: &NodeHandle) -> Vec<String> {
    let policy = generations(handle).await;
    let events = policy["events"].as_array().unwrap().iter().map(|event| event["what"].as_str().unwrap().to_owned());
    events.filter(|what| what.contains("is no longer tried")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_goes_bad_is_rolled_back_while_clients_see_no_error() {
    let origin = Origin::start().await;
    sealed_origin(&origin, "v1", 1_000);
    let config = "{ do = \"call\" }";
    let builder = node(&origin, &component("mad"), config)
        .set("policy.p.rollout", "mode = \"canary\"\ncanary_percent = 100\nfaults_ppm_max = 10000")
        .set("policy.p.limits", "call_us = 50000");
    let process = builder.spawn().await;
    let first = active(&process).await;
    let load = Load::start(&process, 6, |n| format!("/c/{}", n % 50));
    load.more(100).await;
    for (n, what) in ["trap", "loop", "alloc", "giant"].into_iter().enumerate() {
        fs::write(process.config(), builder.text().replace(config, &format!("{{ do = \"{what}\" }}"))).unwrap();
        process.signal("HUP");
        let ended = found("the rollback", async || rollbacks(&process).await.get(n).cloned()).await;
        // "… faulted in 60.0 % of 5 calls; 1.0 % are allowed"
        let calls = ended.split_once(" % of ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        assert!(calls.is_some_and(|calls: u64| calls < 40), "{what}: within its bound: {ended}");
        load.more(50).await;
    }
    assert_eq!(active(&process).await, first);
    let (wrong, _) = load.finish().await;
    assert_eq!(wrong, Vec::<String>::new());
}

/// In 3 % of the calls of one hook where 1 % is allowed; of the calls of all hooks together it is less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_hook_is_not_hidden_by_the_good_ones() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::fresh(600, "page"));
    let node = node(&origin, &component("mad"), "{ do = \"ask\" }")
        .set("policy.p.rollout", "mode = \"canary\"\ncanary_percent = 100\nrequests_min = 100\nhold_ms = 0")
        // The time of a call depends on what else the machine does.
        .set("policy.p.rollout", "latency_percent_max = 100000")
        .set("policy.p.memo", "entries_max = 0")
        .set("policy.p.limits", "call_us = 50000\nbreaker = { failures = 1000 }")
        .start()
        .await;
    let (first, file) = (active(&node).await, dir.path().join("other.wasm"));
    put(&file, &marked("mad", "2"));
    assert_eq!(act(&node, "load", &json!({"file": file})).await.1["state"], json!("canary"));
    let mut asked = 0;
    let ended = found("the rollback", async || {
        for _ in 0..33 {
            asked += 1;
            let order = if asked % 33 == 0 { "trap" } else { "behave" };
            let response = node.get(&format!("/{asked}")).header("x-do", order).send().await;
            assert_eq!(response.status, 200, "{:?}", response.headers);
        }
        rollbacks(&node).await.first().cloned()
    })
    .await;
    assert!(ended.contains("key faulted in ") && ended.contains("1.0 % are allowed"), "{ended}");
    assert_eq!(active(&node).await, first);
    let hooks = generations(&node).await["last_trial"]["hooks"].clone();
    let calls = |of: &str| hooks.as_array().unwrap().iter().map(|hook| hook[of].as_u64().unwrap()).sum::<u64>();
    assert!(calls("faults") * 100 < calls("calls") * 3, "the others dilute it: {hooks}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_promoted_while_its_origin_fails() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::status(503));
    let node = node(&origin, &component("tenant-key"), "{}")
        .set("policy.p.rollout", "mode = \"canary\"\ncanary_percent = 100\nrequests_min = 10\nhold_ms = 0")
        .start()
        .await;
    let (first, file) = (active(&node).await, dir.path().join("other.wasm"));
    put(&file, &marked("tenant-key", "2"));
    assert_eq!(act(&node, "load", &json!({"file": file})).await.1["state"], json!("canary"));
    node.fetch("/0").await;
    eventually("the origin's failure being known", async || {
        generations(&node).await["trial"]["origin_fails"] == json!(true)
    })
    .await;
    for n in 1..30 {
        node.fetch(&format!("/{n}")).await;
    }
    assert_eq!(active(&node).await, first, "it has had three times the requests that it needs");
    origin.on("*", |_| Reply::fresh(600, "page"));
    let mut n = 30;
    eventually("the promotion", async || {
        n += 1;
        node.fetch(&format!("/{n}")).await;
        active(&node).await != first
    })
    .await;
    assert!(n > 30 + 100, "the failures had to leave the last 128 responses first, but for 5 %: {n}");
}

/// Tenants had keys of their own, and share them now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_whose_key_is_shared_by_others_goes_and_shows_a_pair() {
    let origin = Origin::start().await;
    origin.on("*", |_| Reply::fresh(600, "page"));
    let config = "{ do = \"call\" }";
    let builder = node(&origin, &component("mad"), config)
        .set("policy.p.rollout", "mode = \"canary\"\ncanary_percent = 100\nrequests_min = 1000000")
        .set("policy.p.limits", "call_us = 1000000");
    let process = builder.spawn().await;
    let first = active(&process).await;
    // All requests have one key.
    fs::write(process.config(), builder.text().replace(config, "{ do = \"chatter\" }")).unwrap();
    process.signal("HUP");
    eventually("the canary", async || generations(&process).await["trial"]["mode"] == json!("canary")).await;
    let mut asked = 0;
    let ended = found("the rollback", async || {
        asked += 1;
        process.fetch(&format!("/{asked}")).await;
        rollbacks(&process).await.first().cloned()
    })
    .await;
    assert!(ended.contains("which requests share a response"), "{ended}");
    assert_eq!(active(&process).await, first);
    let policy = generations(&process).await;
    let example = &policy["last_trial"]["examples"][0];
    assert_eq!((&example["hook"], &example["kind"]), (&json!("key"), &json!("newly shared")), "{policy}");
    assert!(example["with"].is_string() && example["differs"] == json!(["/lookup/1"]), "{example}");
    eventually("the example in the log", async || process.said().contains("seen on trial")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rollback_goes_further_back_and_an_empty_name_is_none() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    let node = node(&origin, &component("tenant-key"), "{}").start().await;
    let mut generations = vec![active(&node).await];
    for mark in ["2", "3"] {
        let file = dir.path().join(format!("{mark}.wasm"));
        put(&file, &marked("tenant-key", mark));
        assert_eq!(act(&node, "load", &json!({"file": file})).await.0, 200);
        generations.push(active(&node).await);
    }
    let (status, refused) = act(&node, "rollback", &json!({"to": ""})).await;
    assert!(status == 400 && refused["detail"].as_str().unwrap().contains("`to` is empty"), "{refused}");
    assert_eq!(active(&node).await, generations[2], "nothing has changed");
    for wanted in [&generations[1], &generations[0]] {
        assert_eq!(act(&node, "rollback", &json!({})).await.0, 200);
        assert_eq!(active(&node).await, *wanted);
    }
    let (status, refused) = act(&node, "rollback", &json!({})).await;
    assert!(status == 409 && refused["detail"].as_str().unwrap().contains("no former generation"), "{refused}");
    assert_eq!(act(&node, "rollback", &json!({"to": generations[2]})).await.0, 200);
    assert_eq!(active(&node).await, generations[2], "by its name it can be had");
}

/// Reloads under load; the first hundred are for everything to find its size.
const RELOADS: usize = 1_000;

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reloads_under_load_fail_no_request_and_leave_nothing_behind() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    sealed_origin(&origin, "v1", 1_000);
    let files = ["a", "b"].map(|mark| dir.path().join(format!("{mark}.wasm")));
    put(&files[0], &marked("tenant-key", "a"));
    put(&files[1], &marked("tenant-key", "b"));
    // None is kept, so that each is made anew and goes as soon as its last request has its response.
    let process = node(&origin, &files[0], "{ require_tenant = true }")
        .set("plugins", "watch = false")
        .set("policy.p.rollout", "kept_max = 0")
        .memory("4MiB")
        .spawn()
        .await;
    let load = Load::start(&process, 4, |n| format!("/r/{}", n % 200));
    let mut early = None;
    for n in 1..=RELOADS {
        if n % 100 == 0 {
            // Once in a while it is a component that has never been compiled.
            put(&files[n % 2], &marked("tenant-key", &n.to_string()));
        }
        let (status, loaded) = act(&process, "load", &json!({"file": files[n % 2]})).await;
        assert_eq!((status, &loaded["state"]), (200, &json!("active")), "{n}: {loaded}");
        if n == 101 {
            early = Some(process.footprint());
        }
    }
    load.more(100).await;
    let (wrong, _) = load.finish().await;
    assert_eq!(wrong, Vec::<String>::new());
    let ((rss_early, maps_early), (rss, maps)) = (early.unwrap(), process.footprint());
    assert!(maps <= maps_early + 40, "mappings: {maps_early} after a hundred, {maps} after a thousand");
    assert!(rss <= rss_early + rss_early / 4, "KiB: {rss_early} after a hundred, {rss} after a thousand");
    let text = process.admin("/metrics").send().await.text().to_owned();
    let rows = text.lines().filter(|line| line.starts_with("holm_plugin_calls_total")).count();
    assert_eq!(rows, 1, "the rows of generations that are gone");
}
