//! One policy, `lane`, in five languages: built by `holm policy build`, and called alike by the node's own engine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use holm::{
    config::{Memo, Policy, PolicyLimits, PolicySource, Rollout},
    plugin::{Engine, EngineLimits, Metrics, Plugin},
    policy::Hook,
    workbench::{self, Golden, Group, Subject},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::repository;

/// The languages whose tools are there; `tests/run` installs them and sets it.
const LANGUAGES: &str = "HOLM_LANGUAGES";

/// Python's interpreter is compiled to machine code here, with a compiler that is hardly optimized itself.
const BUILD_TIME: Duration = Duration::from_secs(900);

/// The directory of compiled components below `XDG_CACHE_HOME`.
const COMPILED: &str = "holm/policies";

/// The memory that Python needs.
const MEMORY_BYTES: usize = 32 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_policy_in_five_languages_decides_the_same() {
    let known = std::env::var(LANGUAGES).unwrap_or_default();
    let (lane, rust) = (repository("plugins/lane"), repository("plugins/dist/lane-rust.wasm"));
    let records = lane.join("requests.jsonl");
    let golden = workbench::test(&Golden { subject: Subject::new(&rust), records: records.clone() }).unwrap();
    assert_eq!((golden.passed, golden.failed), (40, 0), "{golden}");
    let groups = workbench::parse_records(&fs::read_to_string(records).unwrap()).unwrap();
    let reference = decisions(&rust, &groups, None);
    assert!(reference.len() > 150, "only {} decisions", reference.len());
    let dir = tempfile::tempdir().unwrap();
    for language in ["c", "go", "js", "python"] {
        if !known.split_whitespace().any(|known| known == language) {
            eprintln!("skipped: {language}; tests/run installs its tools and sets {LANGUAGES}");
            continue;
        }
        let file = dir.path().join(format!("{language}.wasm"));
        build(&lane.join(language), &file, dir.path()).await;
        let decided = decisions(&file, &groups, Some(dir.path().join(COMPILED)));
        for (ours, theirs) in reference.iter().zip(&decided) {
            assert_eq!(theirs, ours, "{language}");
        }
        assert_eq!(decided.len(), reference.len(), "{language}");
    }
}

/// Builds it, and leaves the machine code in `cache`. With the least priority: other tests have deadlines to keep.
async fn build(project: &Path, file: &Path, cache: &Path) {
    let mut command = Command::new("nice");
    command.args(["-n", "19", env!("CARGO_BIN_EXE_holm"), "policy", "build"]).arg(project).arg("-o").arg(file);
    command.env("XDG_CACHE_HOME", cache).stdin(Stdio::null());
    let building = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = timeout(BUILD_TIME, building).await.expect("built in time").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The verdicts of every hook on every record that it can be called for, each with the record's title.
fn decisions(file: &Path, groups: &[Group], cache_dir: Option<PathBuf>) -> Vec<(String, Hook, Value)> {
    let limits = EngineLimits {
        instances_max: 2,
        memory_bytes_max: MEMORY_BYTES,
        cache_dir,
        cache_bytes_max: 1 << 30,
        fuel: false,
    };
    let engine = Engine::new(&limits).unwrap();
    groups.iter().flat_map(|group| of_group(&load(&engine, file, group), group)).collect()
}

fn of_group(plugin: &Plugin, group: &Group) -> Vec<(String, Hook, Value)> {
    let evaluated = workbench::evaluate(plugin, &group.records);
    let said = group.records.iter().zip(&evaluated).flat_map(|(record, evaluated)| {
        Hook::ALL.into_iter().filter_map(|hook| Some((record.title(), hook, evaluated.json(hook)?)))
    });
    said.collect()
}

fn load(engine: &Arc<Engine>, file: &Path, group: &Group) -> Arc<Plugin> {
    // As much time as a busy machine needs: only the verdicts are compared.
    let long = Duration::from_secs(60);
    let limits = PolicyLimits {
        memory_bytes_max: MEMORY_BYTES,
        load: long,
        call: Duration::from_secs(10),
        ..PolicyLimits::default()
    };
    let policy = Policy {
        source: PolicySource::File(PathBuf::from(file)),
        config: group.config.clone().unwrap_or_else(|| "{}".to_owned()),
        limits,
        memo: Memo { entries_max: 0, ..Memo::default() },
        rollout: Rollout::default(),
    };
    Plugin::load(engine, "lane", &policy, &Metrics::new()).unwrap_or_else(|error| panic!("{error}"))
}
