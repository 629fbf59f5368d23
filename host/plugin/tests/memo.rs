//! Remembered verdicts against those of calls.

use proptest::prelude::*;

use super::*;
use crate::{
    clock,
    policy::{Admission, Hook, Storage},
};

const MEMO: Memo = Memo { entries_max: 64, check_every: 1_000_000 };

fn remembering(component: &'static [u8], table: &str, memo: Memo) -> Arc<Plugin> {
    Plugin::load(&ENGINE, "p", &config(component, table, LIMITS, memo), &Metrics::new()).unwrap()
}

fn hits(plugin: &Plugin) -> u64 {
    plugin.sums().iter().map(|sums| sums.memo_hits).sum()
}

#[test]
fn the_same_inputs_are_asked_about_once() {
    let plugin = remembering(MAD, r#"{"do": "call"}"#, MEMO);
    for _ in 0..3 {
        assert_eq!(ask(&plugin, "echo"), Ok(lookup(&["echo", "/p"])));
    }
    assert_eq!((calls(&plugin), hits(&plugin)), (1, 2));
    assert_eq!(ask(&plugin, "other"), Ok(lookup(&["other", "/p"])));
    assert_eq!((calls(&plugin), hits(&plugin)), (2, 2));
}

#[test]
fn faults_are_not_remembered() {
    let plugin = remembering(MAD, r#"{"do": "ask"}"#, MEMO);
    for _ in 0..2 {
        assert!(ask(&plugin, "trap").is_err());
        assert!(ask(&plugin, "fault").is_err());
    }
    assert_eq!((calls(&plugin), hits(&plugin)), (4, 0));
}

#[test]
fn what_changes_by_itself_is_forgotten_in_time() {
    let plugin = remembering(MAD, r#"{"do": "call"}"#, MEMO);
    let inputs = values(&[Some("a"), None]);
    let ask = |until| plugin.decide(&HookCall::Key, &inputs, Some(until)).unwrap();
    ask(clock::now());
    ask(clock::now().plus(Duration::from_secs(3_600)));
    ask(clock::now().plus(Duration::from_secs(3_600)));
    assert_eq!((calls(&plugin), hits(&plugin)), (2, 1), "the first had expired at once");
}

#[test]
fn a_policy_that_keeps_state_is_found_out_and_no_longer_remembered() {
    let plugin = remembering(MAD, r#"{"do": "count"}"#, Memo { check_every: 4, ..MEMO });
    let answers: Vec<String> = (0..12).map(|_| count(&plugin)).collect();
    // The fourth use of what is remembered is a check: it counts on, and from then on every call does.
    assert_eq!(answers, ["1", "1", "1", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let hook = &info(&plugin).hooks[0];
    assert_eq!((&*hook.memo, hook.memo_hits), ("stateful", 4));
    assert_eq!(plugin.tally.of(Hook::Key).unwrap().disagreements.get(), 1);
}

#[test]
fn what_is_asked_beside_the_inputs_counts_as_well() {
    let plugin = remembering(MAD, r#"{"do": "call"}"#, MEMO);
    let values = values(&[Some("x"), Some("/p"), Some("200")]);
    let suggestions = [Admission::Pass("a".into()), Admission::Store(Storage::default()), Admission::Pass("b".into())];
    for _ in 0..2 {
        for suggested in &suggestions {
            let decided = plugin.decide(&HookCall::Admit(suggested), &values, None).unwrap();
            assert_eq!(*decided, Decision::Admit(suggested.clone()));
        }
    }
    assert_eq!((calls(&plugin), hits(&plugin)), (3, 3));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    /// With few entries and few words, so that verdicts are found, displaced and confused if they can be.
    #[test]
    fn remembered_verdicts_are_those_that_would_be_given(
        questions in prop::collection::vec(
            prop::array::uniform5(prop::option::of(prop::sample::select(vec!["", "a", "b", "A", "a=1&b=2", "b=2&a=1"]))),
            1..40,
        ),
    ) {
        let table = r#"{"require_tenant": true, "body": ["/model"]}"#;
        let (with, without) =
            (remembering(TENANT_KEY, table, Memo { entries_max: 8, ..MEMO }), load(TENANT_KEY, table, LIMITS).unwrap());
        for question in questions {
            let question = values(&question);
            prop_assert_eq!(derive(&with, &question), derive(&without, &question));
        }
    }
}
