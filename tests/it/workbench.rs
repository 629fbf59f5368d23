//! `holm policy`, as authors and operators use it.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use crate::harness::{
    node::Node,
    origin::{Origin, Reply},
    process::run,
    repository,
};

const LIMIT: Duration = Duration::from_secs(300);

fn component(name: &str) -> PathBuf {
    repository("plugins/dist").join(format!("{name}.wasm"))
}

/// Runs `holm policy` with these words and paths.
async fn policy<const N: usize>(arguments: [&dyn AsRef<Path>; N]) -> Output {
    let mut all: Vec<OsString> = vec!["policy".into()];
    all.extend(arguments.iter().map(|argument| argument.as_ref().as_os_str().to_owned()));
    run(&all, LIMIT).await
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_is_taken_or_refused_with_the_nodes_reason() {
    let taken = policy([&"check", &component("lane-rust"), &"--config", &r#"{"premium":["acme"]}"#]).await;
    let text = said(&taken);
    assert!(taken.status.success(), "{text}");
    for words in ["lane 0.1.0", "of holm:policy@0.1.0: ", "route     feature(urgent), feature(premium), arm(size)"] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    for (name, config, words) in [
        ("nosy", "{}", "imports `holm:evil/clock"),
        ("lane-rust", r#"{"prenium":[]}"#, "unknown field \"prenium\""),
        ("none", "{}", "No such file"),
    ] {
        let refused = policy([&"check", &component(name), &"--config", &config]).await;
        assert!(refused.status.code() == Some(1) && said(&refused).contains(words), "{name}: {}", said(&refused));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_that_are_not_as_expected_are_shown() {
    let records = repository("plugins/lane/requests.jsonl");
    let good = policy([&"test", &component("lane-rust"), &"--records", &records]).await;
    assert!(good.status.success() && said(&good).contains("40 passed, 0 failed"), "{}", said(&good));
    let dir = tempfile::tempdir().unwrap();
    let changed = dir.path().join("changed.jsonl");
    fs::write(&changed, fs::read_to_string(records).unwrap().replace("\"x-lane\":\"slow\"", "\"x-lane\":\"slower\""))
        .unwrap();
    let bad = policy([&"test", &component("lane-rust"), &"--records", &changed]).await;
    let text = said(&bad);
    assert_eq!(bad.status.code(), Some(1), "{text}");
    assert!(text.contains("slower") && text.contains("features") && !text.contains(" 0 failed"), "{text}");
    let updated = policy([&"test", &component("lane-rust"), &"--records", &changed, &"--update"]).await;
    assert!(updated.status.success(), "{}", said(&updated));
    let again = policy([&"test", &component("lane-rust"), &"--records", &changed]).await;
    assert!(again.status.success(), "{}", said(&again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_change_for_past_traffic_is_counted() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::fresh(600, "page"));
    let log = dir.path().join("access.jsonl");
    let node = Node::builder().origin(&origin.url()).access_log(&log).start().await;
    for n in 0..5 {
        node.get(&format!("/page/{n}?b=2&a=1")).send().await;
    }
    node.stop().await;
    let lane = component("lane-rust");
    let compared =
        policy([&"replay", &lane, &"--against", &component("tenant-key"), &"--log", &log, &"--fail-on-change"]).await;
    let text = said(&compared);
    assert_eq!(compared.status.code(), Some(1), "{text}");
    assert!(text.contains("key") && text.contains("no tenant"), "{text}");
    let same = policy([&"replay", &lane, &"--against", &lane, &"--log", &log, &"--fail-on-change"]).await;
    assert!(same.status.success(), "{}", said(&same));
}

/// A changed key changes which requests share a response.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_compared_by_whose_responses_they_share() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::fresh(600, "page"));
    let log = dir.path().join("access.jsonl");
    let node = Node::builder().origin(&origin.url()).access_log(&log).start().await;
    for n in [0, 1, 2, 1] {
        node.get(&format!("/page/{n}")).send().await;
    }
    node.stop().await;
    let mad = component("mad");
    let (plain, salted, equal) = (r#"{"do":"call"}"#, r#"{"do":"call","salt":"v2"}"#, r#"{"do":"chatter"}"#);
    let replay = async |against: &Path, new: &str, old: &str| {
        let log: &dyn AsRef<Path> = &log;
        let compared = policy([
            &"replay",
            &mad,
            &"--against",
            &against,
            &"--log",
            log,
            &"--config",
            &new,
            &"--against-config",
            &old,
            &"--fail-on-change",
        ])
        .await;
        (compared.status.code(), said(&compared))
    };
    let (code, text) = replay(&mad, salted, plain).await;
    assert!(code == Some(0), "parts that are spelled otherwise are no change: {text}");
    // `features` decides otherwise than a node by itself, but the native key tells the same requests apart.
    let (_, text) = replay(Path::new("-"), plain, "{}").await;
    let counted = text.lines().any(|line| line.split_whitespace().eq(["key", "4", "0", "0"]));
    assert!(counted && !text.contains("keys:"), "{text}");
    for against in [mad.as_path(), Path::new("-")] {
        let (code, text) = replay(against, equal, plain).await;
        assert_eq!(code, Some(1), "{text}");
        for words in [
            "EVERY REQUEST HAS THE SAME KEY: 4 requests that had 3 keys",
            "keys: 3 before, 1 now",
            "newly shared: 3 requests",
            "/page/1\n    and line 1, GET http://",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_which_nothing_can_be_read_is_no_proof_of_anything() {
    let (dir, mad) = (tempfile::tempdir().unwrap(), component("mad"));
    for (name, text, words) in [
        ("empty.log", "", "it has no line"),
        ("nginx.log", "1.2.3.4 - - \"GET / HTTP/1.1\" 200\n", "its one line is not a request"),
        ("other.jsonl", "{\"a\":1}\n{\"a\":2}\n", "none of its 2 lines is a request"),
        ("empty.har", "{\"log\":{\"entries\":[]}}", "it has no entry"),
    ] {
        let log = dir.path().join(name);
        fs::write(&log, text).unwrap();
        let compared = policy([&"replay", &mad, &"--against", &"-", &"--log", &log]).await;
        let text = said(&compared);
        assert!(compared.status.code() == Some(1) && text.contains(words) && text.contains(name), "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_nodes_policies_are_listed_and_changed() {
    let (origin, dir) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.on("*", |_| Reply::fresh(600, "page"));
    let file = component("tenant-key");
    let node =
        Node::builder().origin(&origin.url()).policy("keys", &file, "{}").route("policy = \"keys\"").start().await;
    node.get("/").header("x-tenant", "t").send().await;
    let other = dir.path().join("other.wasm");
    let mut bytes = fs::read(&file).unwrap();
    // An empty custom section named `m`: another component that does the same.
    bytes.extend([0, 2, 1, b'm']);
    fs::write(&other, bytes).unwrap();
    let admin = node.admin.to_string();
    let output_of = async |arguments: &[&dyn AsRef<Path>]| {
        let mut all: Vec<OsString> = vec!["policy".into()];
        all.extend(arguments.iter().map(|argument| argument.as_ref().as_os_str().to_owned()));
        all.extend(["--admin".into(), admin.clone().into()]);
        let output = run(&all, LIMIT).await;
        (output.status.success(), said(&output))
    };
    let (listed, text) = output_of(&[&"list"]).await;
    assert!(listed && text.contains("tenant-key 0.1.0") && text.contains("active"), "{text}");
    let (loaded, text) = output_of(&[&"load", &"keys", &"--file", &other, &"--shadow"]).await;
    assert!(loaded && text.contains("is called beside the active generation"), "{text}");
    let (promoted, text) = output_of(&[&"promote", &"keys"]).await;
    assert!(promoted && text.contains("decides for all requests"), "{text}");
    let (again, text) = output_of(&[&"promote", &"keys"]).await;
    assert!(!again && text.contains("on trial"), "{text}");
    let (back, text) = output_of(&[&"rollback", &"keys"]).await;
    assert!(back && text.contains("decides for all requests"), "{text}");
    let (_, text) = output_of(&[&"list", &"keys"]).await;
    assert!(text.contains("kept") && text.contains("is active, after"), "{text}");
    let (unknown, text) = output_of(&[&"rollback", &"locks"]).await;
    assert!(!unknown && text.contains("configured are: keys"), "{text}");
}

/// `new` writes a policy that can be built and passes its tests; with the language whose tools build fastest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_project_builds_and_passes_its_tests() {
    if !std::env::var("HOLM_LANGUAGES").is_ok_and(|known| known.split_whitespace().any(|known| known == "c")) {
        eprintln!("skipped: tests/run installs a C compiler for WebAssembly and sets HOLM_LANGUAGES");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = policy([&"new", &"my-policy", &"--lang", &"c", &"--dir", &dir.path().join("my-policy")]).await;
    assert!(made.status.success(), "{}", said(&made));
    let project = dir.path().join("my-policy");
    let built = policy([&"build", &project]).await;
    assert!(built.status.success() && project.join("my-policy.wasm").exists(), "{}", said(&built));
    let tested = policy([&"test", &project]).await;
    assert!(tested.status.success() && said(&tested).contains("4 passed, 0 failed"), "{}", said(&tested));
    let twice = policy([&"new", &"my-policy", &"--lang", &"c", &"--dir", &project]).await;
    assert!(!twice.status.success(), "nothing is overwritten");
}

/// Names the directory of `plugins/build --out DIR`; `.ci/run` sets it.
const FRESH: &str = "HOLM_PLUGINS_FRESH";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_decide_as_their_records_say() {
    let Some(fresh) = std::env::var_os(FRESH) else {
        eprintln!("skipped: set {FRESH} to the directory of `plugins/build --out DIR`");
        return;
    };
    for name in ["language-key", "prompt-features", "prompt-window", "model-router", "hot-prefetch"] {
        let component = Path::new(&fresh).join(format!("{name}.wasm"));
        let records = repository("plugins").join(name).join("golden.jsonl");
        let tested = policy([&"test", &component, &"--records", &records]).await;
        let text = said(&tested);
        assert!(tested.status.success() && text.contains(" passed, 0 failed"), "{name}: {text}");
    }
}
