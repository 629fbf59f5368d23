//! Every hook of a component that misbehaves in each.

use super::*;
use crate::policy::{Admission, Candidate, Hint, Hook, Storage};

const HOOKS: [&str; 6] = ["key", "features", "admit", "route", "batch", "prefetch"];

/// Loads a component that does in this hook what each request says.
fn obedient_in(hook: &str) -> Arc<Plugin> {
    load(MAD, &format!(r#"{{"do": "ask", "in": "{hook}"}}"#), LIMITS).unwrap()
}

fn candidates() -> Vec<Candidate> {
    let candidate = |pool: &str| Candidate { pool: pool.into(), ..Candidate::default() };
    vec![candidate("a"), candidate("b"), candidate("c")]
}

fn ask_in(plugin: &Plugin, hook: &str, what: &str) -> Result<Arc<Decision>, Fault> {
    let suggested = Admission::Store(Storage::default());
    let candidates = candidates();
    let call = match Hook::named(hook).unwrap() {
        Hook::Key => HookCall::Key,
        Hook::Features => HookCall::Features,
        Hook::Admit => HookCall::Admit(&suggested),
        Hook::Route => HookCall::Route(&candidates),
        Hook::Batch => HookCall::Batch,
        Hook::Prefetch => HookCall::Prefetch { hit: true },
    };
    plugin.decide(&call, &values(&[Some(what), Some("/p"), Some("200")][..inputs(hook)]), None)
}

/// `admit` reads the status as well.
fn inputs(hook: &str) -> usize {
    if hook == "admit" { 3 } else { 2 }
}

#[test]
fn who_behaves_is_heard_in_every_hook() {
    for hook in HOOKS {
        let plugin = obedient_in(hook);
        let decided = ask_in(&plugin, hook, "behave").unwrap_or_else(|fault| panic!("{hook}: {fault}"));
        assert_eq!(decided.hook().name(), hook);
        match &*decided {
            Decision::Features(request_edits) => assert_eq!(request_edits.feature("f"), Some(b"1".as_slice())),
            Decision::Admit(admission) => assert_eq!(*admission, Admission::Store(Storage::default())),
            Decision::Route(choice) => assert_eq!(choice.order, [0, 1, 2]),
            Decision::Prefetch(hints) => assert_eq!(*hints, Vec::<Hint>::new()),
            Decision::Key(_) | Decision::Batch(_) => {}
        }
    }
}

#[test]
fn each_misdeed_in_each_hook_is_a_fault_of_its_kind_and_the_next_call_is_served() {
    for hook in HOOKS {
        let plugin = obedient_in(hook);
        for (what, kinds) in [
            ("trap", &["trap"][..]),
            ("alloc", &["trap"]),
            ("recurse", &["trap"]),
            ("giant", &["too-large"]),
            ("crowd", &["malformed", "too-large"]),
            ("nonsense", &["malformed"]),
            ("fault", &["fault"]),
        ] {
            // A batch's verdict has no list, and nothing in it can be malformed.
            if hook == "batch" && matches!(what, "crowd" | "nonsense") || hook == "key" && what == "nonsense" {
                continue;
            }
            let fault = ask_in(&plugin, hook, what).expect_err(what);
            assert!(kinds.contains(&fault.kind()), "{hook} {what}: {fault}");
            assert!(ask_in(&plugin, hook, "behave").is_ok(), "{hook} after {what}");
        }
        assert_eq!(info(&plugin).instances, 1, "{hook}");
    }
}

#[test]
fn what_a_policy_may_not_set_is_named() {
    for (hook, what, words) in [
        ("admit", "nonsense-tag", "tag 0, counted from 0, is empty"),
        ("features", "nonsense-header", "the header field `no name` has no valid name"),
        ("features", "nonsense-header-value", "the header field `x-a` has characters that no value has"),
        ("prefetch", "nonsense-header", "the header field `no name` has no valid name"),
    ] {
        let fault = ask_in(&obedient_in(hook), hook, what).expect_err(what);
        assert!(fault.kind() == "malformed" && fault.to_string().contains(words), "{hook} {what}: {fault}");
    }
}

#[test]
fn an_endless_loop_is_ended_in_every_hook() {
    for hook in HOOKS {
        let limits = PolicyLimits { call: Duration::from_millis(20), ..LIMITS };
        let plugin = load(MAD, &format!(r#"{{"do": "ask", "in": "{hook}"}}"#), limits).unwrap();
        assert_eq!(ask_in(&plugin, hook, "loop"), Err(Fault::Overrun { limit_us: 20_000 }), "{hook}");
    }
}

#[test]
fn a_hook_counts_by_itself() {
    let plugin = obedient_in("admit");
    assert!(ask_in(&plugin, "admit", "behave").is_ok());
    assert!(ask_in(&plugin, "admit", "trap").is_err());
    assert!(ask_in(&plugin, "route", "trap").is_ok(), "it misbehaves in `admit` only");
    let hooks = info(&plugin).hooks;
    let counts: Vec<(&str, u64, u64)> = hooks.iter().map(|hook| (&*hook.name, hook.calls, hook.faults)).collect();
    assert_eq!(
        counts,
        [("key", 0, 0), ("features", 0, 0), ("admit", 2, 1), ("route", 1, 0), ("batch", 0, 0), ("prefetch", 0, 0)]
    );
}
