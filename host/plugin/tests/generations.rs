//! Generations that are loaded, tried and rolled back.

use std::net::{IpAddr, Ipv4Addr};

use http::Method;
use serde_json::json;

use super::*;
use crate::{
    config::RolloutMode,
    message::RequestHead,
    plugin::generations::{Introduction, Refused},
    policy::{Facts, Notes, Roster, consult, facts::tests::request},
    report::TrialInfo,
};

/// Returns a `mad` that puts this in front of its keys.
fn salted(what: &str, salt: &str, rollout: &Rollout) -> config::Policy {
    let table = format!(r#"{{"do": "{what}", "salt": "{salt}"}}"#);
    config::Policy { rollout: rollout.clone(), ..config(MAD, &table, LIMITS, FORGETFUL) }
}

fn start(rollout: &Rollout) -> Arc<Generations> {
    Generations::start(&ENGINE, "p", &salted("call", "one", rollout), &Metrics::new()).unwrap()
}

static TRIAL: Rollout = Rollout {
    mode: RolloutMode::Canary,
    canary_percent: 50,
    canary_header: None,
    hold: Duration::ZERO,
    requests_min: 20,
    faults_ppm_max: 10_000,
    disagreements_ppm_max: 10_000,
    latency_percent_max: 100_000,
    origin_failures_ppm_max: 50_000,
    kept_max: 2,
};

fn from(client: u32) -> RequestHead {
    let mut head = request(Method::GET, "/p", &[("x-do", "behave")]);
    head.client.ip = IpAddr::V4(Ipv4Addr::from_bits(client));
    head
}

#[test]
fn a_key_that_knows_nothing_of_items_is_refused_where_it_would_make_theirs() {
    let blind = salted("call", "one", &Rollout::default());
    let generations = Generations::start(&ENGINE, "p", &blind, &Metrics::new()).unwrap();
    generations.check(false, &[], &blind).unwrap();
    let refused = generations.check(true, &[], &blind).unwrap_err().to_string();
    assert!(refused.starts_with("policy `p` (embedded) makes keys without the body"), "{refused}");

    let reading = config(TENANT_KEY, r#"{"body": ["/input"]}"#, LIMITS, FORGETFUL);
    let generations = Generations::start(&ENGINE, "p", &reading, &Metrics::new()).unwrap();
    generations.check(true, &[], &reading).unwrap();
    generations.require_body_in_key(true);
    let digest = generations.digest();
    for table in ["{}", r#"{"require_tenant": true}"#] {
        let refused = generations.load(&config(TENANT_KEY, table, LIMITS, FORGETFUL), None).unwrap_err().to_string();
        assert!(refused.contains("key_without_body"), "{refused}");
        assert_eq!(generations.digest(), digest);
    }
    assert!(!generations.load(&config(TENANT_KEY, r#"{"body": ["/b"]}"#, LIMITS, FORGETFUL), None).unwrap().unchanged);
}

#[test]
fn what_routes_can_not_use_is_not_gone_back_to() {
    let blind = salted("call", "one", &Rollout::default());
    let generations = Generations::start(&ENGINE, "p", &blind, &Metrics::new()).unwrap();
    let reading = config(TENANT_KEY, r#"{"body": ["/input"]}"#, LIMITS, FORGETFUL);
    assert!(!generations.load(&reading, None).unwrap().unchanged);
    generations.require_body_in_key(true);
    assert!(matches!(generations.rollback(None), Err(Refused::NoFormer { .. })));
    assert!(!generations.load(&config(TENANT_KEY, r#"{"body": ["/b"]}"#, LIMITS, FORGETFUL), None).unwrap().unchanged);
    assert_eq!(generations.rollback(None).unwrap().generation, generations.digest()[..8]);
}

/// Returns the salt of the key that the request's generation makes, or its fallback if it faults.
fn salt_of(generations: &Generations, head: &RequestHead) -> String {
    let chosen = generations.choose(head);
    let notes = Notes::default();
    let facts = Facts::new(head, None, &notes);
    let made = consult::key(&*chosen.policy, &facts).unwrap();
    let made = made.or_else(|fault| match &chosen.fallback {
        Some(fallback) => consult::key(&**fallback, &facts.noted(&Notes::default())).unwrap(),
        None => Err(fault),
    });
    let decision = made.unwrap();
    if let Some(shadow) = &chosen.shadow {
        shadow.witness(&HookCall::Key, &facts, Some(&Ok(Arc::new(decision.clone()))));
    }
    let Decision::Key(KeyVerdict::Lookup(parts)) = decision else { panic!("{decision:?}") };
    String::from_utf8(parts[0].clone().unwrap()).unwrap()
}

fn states(generations: &Generations) -> Vec<String> {
    generations.info().generations.into_iter().map(|generation| generation.state).collect()
}

#[test]
fn a_swap_is_for_those_who_come_after_it() {
    let generations = start(&Rollout::default());
    let before = generations.choose(&from(1));
    let loaded = generations.load(&salted("call", "two", &Rollout::default()), None).unwrap();
    assert_eq!((loaded.state.as_str(), loaded.unchanged), ("active", false));
    assert_eq!(salt_of(&generations, &from(1)), "two");
    assert_ne!(before.policy.label(), generations.choose(&from(1)).policy.label());
    assert_eq!(states(&generations), ["active", "cooling"], "a request is under way with it");
    drop(before);
    assert_eq!(states(&generations), ["active", "kept"]);
    let again = generations.load(&salted("call", "two", &Rollout::default()), None).unwrap();
    assert!(again.unchanged && again.generation == loaded.generation);
}

#[test]
fn what_is_refused_changes_nothing_and_says_why() {
    let generations = start(&Rollout::default());
    let refused = generations.load(&salted("refuse-config", "two", &Rollout::default()), None).unwrap_err();
    assert!(refused.to_string().contains("not in the mood"), "{refused}");
    assert_eq!(salt_of(&generations, &from(1)), "one");
    let info = generations.info();
    assert!(info.events.last().unwrap().what.contains("not in the mood"), "{:?}", info.events);
    assert_eq!((info.generations.len(), info.loading), (1, false));
}

#[test]
fn the_last_ones_can_be_gone_back_to() {
    let rollout = Rollout { kept_max: 2, ..Rollout::default() };
    let generations = start(&rollout);
    let mut digests = vec![generations.info().generations[0].digest.clone()];
    for salt in ["two", "three", "four"] {
        generations.load(&salted("call", salt, &rollout), None).unwrap();
        digests.push(generations.info().generations[0].digest.clone());
    }
    assert_eq!(states(&generations), ["active", "kept", "kept"]);
    generations.rollback(None).unwrap();
    assert_eq!(salt_of(&generations, &from(1)), "three");
    generations.rollback(Some(&digests[1])).unwrap();
    assert_eq!(salt_of(&generations, &from(1)), "two");
    let gone = generations.rollback(Some(&digests[0])).unwrap_err();
    assert!(matches!(gone, Refused::NotKept { .. }), "{gone}");
    assert!(matches!(generations.promote(), Err(Refused::NoTrial(_))));
}

#[test]
fn a_canary_decides_for_its_share_and_then_for_all() {
    let generations = start(&TRIAL);
    let loaded = generations.load(&salted("call", "two", &TRIAL), None).unwrap();
    assert_eq!(loaded.state, "canary");
    let rollout = Rollout { requests_min: 1_000_000, ..TRIAL.clone() };
    let slow = start(&rollout);
    slow.load(&salted("call", "two", &rollout), None).unwrap();
    let twos = (0..1_000).filter(|client| salt_of(&slow, &from(*client)) == "two").count();
    assert!((400..600).contains(&twos), "{twos}");
    for client in 0..20 {
        let first = salt_of(&slow, &from(client));
        assert!((0..5).all(|_| salt_of(&slow, &from(client)) == first), "a client stays in or out");
    }
    for client in 0..1_000 {
        salt_of(&generations, &from(client));
    }
    assert_eq!(states(&generations), ["active", "kept"]);
    assert!((0..100).all(|client| salt_of(&generations, &from(client)) == "two"));
}

#[test]
fn a_header_may_tell_a_canarys_clients_apart() {
    let header = Some(HeaderName::from_static("x-do"));
    let rollout = Rollout { canary_header: header, requests_min: 1_000_000, ..TRIAL.clone() };
    let generations = start(&rollout);
    generations.load(&salted("call", "two", &rollout), None).unwrap();
    let first = salt_of(&generations, &from(0));
    assert!((0..100).all(|client| salt_of(&generations, &from(client)) == first), "all have the same `x-do`");
}

#[test]
fn a_canary_that_faults_is_rolled_back_and_nobody_notices() {
    let generations = start(&TRIAL);
    generations.load(&salted("trap", "two", &TRIAL), None).unwrap();
    for client in 0..100 {
        assert_eq!(salt_of(&generations, &from(client)), "one");
    }
    let info = generations.info();
    assert_eq!(states(&generations), ["active"]);
    assert!(info.trial.is_none());
    let last = &info.events.last().unwrap().what;
    // Not in all: the trial's own thread may be in the middle of a call when it is judged.
    assert!(last.contains("is no longer tried: key faulted in "), "{last}");
    // What it showed is read when it is over.
    let ended = info.last_trial.expect("it is remembered");
    assert!(ended.outcome.contains("key faulted in"), "{}", ended.outcome);
    assert_eq!((ended.trial.hooks.len(), ended.trial.hooks[0].name.as_str()), (1, "key"));
    assert!(ended.trial.hooks[0].faults >= 3, "{:?}", ended.trial.hooks);
}

/// Waits until the trial has compared so many decisions.
fn compared(generations: &Generations, count: u64) -> TrialInfo {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let trial = generations.info().trial.expect("a trial");
        if trial.compared >= count {
            return trial;
        }
        assert!(std::time::Instant::now() < deadline, "{trial:?}");
        std::thread::yield_now();
    }
}

/// Returns a request of the client, for a path of its own.
fn apart(client: u32) -> RequestHead {
    let mut head = from(client);
    head.target = format!("/{client}").parse().unwrap();
    head
}

#[test]
fn a_shadow_has_no_say_and_other_words_for_the_same_keys_are_no_disagreement() {
    let rollout = Rollout { mode: RolloutMode::Shadow, requests_min: 1_000, ..TRIAL.clone() };
    let generations = start(&rollout);
    generations.load(&salted("call", "two", &rollout), None).unwrap();
    for client in 0..10 {
        assert_eq!(salt_of(&generations, &apart(client % 5)), "one");
    }
    let trial = compared(&generations, 10);
    assert_eq!((trial.mode.as_str(), trial.disagreed, trial.faults, trial.examples.len()), ("shadow", 0, 0, 0));
    let promoted = generations.promote().unwrap();
    assert_eq!(promoted.state, "active");
    assert_eq!(salt_of(&generations, &from(1)), "two");
}

/// `count` makes a key of how often the instance was called.
#[test]
fn a_shadow_tells_which_requests_would_no_longer_share_a_response() {
    let rollout =
        Rollout { mode: RolloutMode::Shadow, requests_min: 1_000, disagreements_ppm_max: 1_000_000, ..TRIAL.clone() };
    let generations = start(&rollout);
    generations.load(&salted("count", "two", &rollout), None).unwrap();
    for _ in 0..5 {
        salt_of(&generations, &apart(7));
    }
    let trial = compared(&generations, 5);
    assert_eq!((trial.disagreed, trial.examples.len()), (4, 1));
    let example = &trial.examples[0];
    assert_eq!((example.hook.as_str(), example.kind.as_str(), example.times), ("key", "no longer shared", 4));
    assert!(example.request.starts_with("GET https://shop.example/7"), "{example:?}");
    assert_eq!(example.with.as_deref(), Some(example.request.as_str()));
    assert_eq!(example.differs, ["/lookup/1"]);
    assert_eq!((&example.trial[0]["lookup"][0], &example.active["lookup"][0]), (&json!("two"), &json!("one")));
    // It is still there when the trial is over.
    generations.rollback(None).unwrap();
    let ended = generations.info().last_trial.unwrap();
    assert_eq!((ended.trial.examples[0].times, ended.outcome.as_str()), (4, "no longer tried: by the operator"));
}

/// `chatter` makes one key of all requests. Such a canary is rolled back, whatever else it does right.
#[test]
fn a_canary_whose_key_makes_all_equal_is_rolled_back() {
    let rollout = Rollout { canary_percent: 100, requests_min: 1_000_000, ..TRIAL.clone() };
    let generations = start(&rollout);
    generations.load(&salted("chatter", "two", &rollout), None).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let mut client = 0;
    while generations.info().trial.is_some() {
        salt_of(&generations, &apart(client));
        client += 1;
        assert!(std::time::Instant::now() < deadline);
    }
    let ended = generations.info().last_trial.unwrap();
    assert!(ended.outcome.contains("which requests share a response"), "{}", ended.outcome);
    let example = &ended.trial.examples[0];
    assert_eq!((example.kind.as_str(), &example.trial["lookup"][0]), ("newly shared", &json!("two")));
    assert!(example.with.is_some() && example.differs == ["/lookup/2"], "{example:?}");
}

#[test]
fn a_shadow_that_disagrees_too_often_is_dropped() {
    let rollout = Rollout { mode: RolloutMode::Shadow, requests_min: 1_000, ..TRIAL.clone() };
    let generations = start(&rollout);
    generations.load(&salted("bypass", "two", &rollout), None).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while generations.info().trial.is_some() {
        salt_of(&generations, &from(1));
        assert!(std::time::Instant::now() < deadline);
    }
    let events = generations.info().events;
    assert!(events.last().unwrap().what.contains("key disagreed in 100.0 % of"), "{events:?}");
}

#[test]
fn nothing_takes_over_while_its_origin_fails() {
    let generations = start(&TRIAL);
    generations.load(&salted("recipe", "two", &TRIAL), None).unwrap();
    generations.origin_responded(true);
    for client in 0..200 {
        generations.choose(&from(client));
    }
    assert_eq!(states(&generations), ["active", "canary"]);
    assert!(generations.info().trial.unwrap().origin_fails);
    // 1 of 20 is what is allowed.
    (0..19).for_each(|_| generations.origin_responded(false));
    generations.choose(&from(1));
    assert_eq!(states(&generations), ["active", "kept"]);
}

#[test]
fn each_rollback_goes_further_back() {
    let rollout = Rollout { kept_max: 5, ..Rollout::default() };
    let generations = start(&rollout);
    for salt in ["two", "three"] {
        generations.load(&salted("call", salt, &rollout), None).unwrap();
    }
    let bad = generations.digest();
    for wanted in ["two", "one"] {
        generations.rollback(None).unwrap();
        assert_eq!(salt_of(&generations, &from(1)), wanted);
    }
    let none = generations.rollback(None).unwrap_err();
    assert!(matches!(none, Refused::NoFormer { .. }), "{none}");
    assert!(none.to_string().contains("no former generation to go back to") && none.to_string().contains(&bad[..8]));
    assert_eq!(salt_of(&generations, &from(1)), "one", "nothing has changed");
    generations.rollback(Some(&bad)).unwrap();
    assert_eq!(salt_of(&generations, &from(1)), "three", "by its name it can be had");
}

#[test]
fn loading_what_is_active_ends_a_trial() {
    let generations = start(&TRIAL);
    let introduction = Introduction { mode: RolloutMode::Canary, percent: 1 };
    generations.load(&salted("call", "two", &TRIAL), Some(introduction)).unwrap();
    assert_eq!(states(&generations), ["active", "canary"]);
    assert!(generations.load(&salted("call", "one", &TRIAL), None).unwrap().unchanged);
    assert_eq!(states(&generations), ["active"]);
}

/// A recipe is never called, and is judged by its requests.
#[test]
fn a_recipe_on_trial_is_promoted_by_its_requests() {
    let generations = start(&TRIAL);
    generations.load(&salted("recipe", "two", &TRIAL), None).unwrap();
    assert_eq!(states(&generations), ["active", "canary"]);
    for client in 0..200 {
        generations.choose(&from(client));
    }
    assert_eq!(states(&generations), ["active", "kept"]);
}

#[test]
fn a_shadow_that_has_lost_a_hook_disagrees() {
    let rollout = Rollout {
        mode: RolloutMode::Shadow,
        requests_min: 1_000_000,
        disagreements_ppm_max: 1_000_000,
        ..TRIAL.clone()
    };
    let generations = start(&rollout);
    // `tenant-key` has no `batch`.
    let other = config::Policy { rollout: rollout.clone(), ..config(TENANT_KEY, "{}", LIMITS, FORGETFUL) };
    generations.load(&other, None).unwrap();
    let (head, notes) = (from(1), Notes::default());
    let facts = Facts::new(&head, None, &notes);
    let chosen = generations.choose(&head);
    let shadow = chosen.shadow.unwrap();
    let grouped = Decision::Batch(crate::policy::Grouping { priority: 9, ..crate::policy::Grouping::default() });
    shadow.witness(&HookCall::Batch, &facts, Some(&Ok(Arc::new(grouped))));
    // Neither has the hook: there is nothing to compare.
    shadow.witness(&HookCall::Batch, &facts, None);
    let trial = compared(&generations, 1);
    assert_eq!((trial.compared, trial.disagreed), (1, 1));
    let example = &trial.examples[0];
    assert_eq!(
        (example.hook.as_str(), example.kind.as_str(), &example.trial["priority"]),
        ("batch", "priority", &json!(0))
    );
}

#[test]
fn one_that_was_kept_is_kept_again_after_its_trial() {
    let generations = start(&TRIAL);
    let now = Introduction { mode: RolloutMode::Swap, percent: 1 };
    generations.load(&salted("call", "two", &TRIAL), Some(now)).unwrap();
    assert_eq!(states(&generations), ["active", "kept"]);
    generations.load(&salted("call", "one", &TRIAL), None).unwrap();
    assert_eq!(states(&generations), ["active", "canary"]);
    generations.rollback(None).unwrap();
    assert_eq!(states(&generations), ["active", "kept"]);
}
