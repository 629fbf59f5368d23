//! Calling a policy's hooks: reads their inputs, and extracts the features and draws the arms among them first.

use std::{borrow::Cow, sync::Arc};

use smallvec::SmallVec;

use super::{Arm, Decision, Facts, Fault, Hook, HookCall, Input, KeyPlan, KeyVerdict, Material, Policy, key};

/// Calls a hook. `None` if the policy doesn't have it.
pub fn ask(policy: &dyn Policy, call: &HookCall<'_>, facts: &Facts<'_>) -> Option<Result<Arc<Decision>, Fault>> {
    if call.hook() == Hook::Features {
        return extract(policy, facts).cloned();
    }
    let inputs = policy.reads(call.hook())?;
    Some(prepare(policy, inputs.iter(), facts).and_then(|()| decide(policy, call, inputs, facts)))
}

/// Returns the verdict of `features` on the request, which is called once. `None` if the policy doesn't have the hook.
pub fn extract<'n>(policy: &dyn Policy, facts: &Facts<'n>) -> Option<&'n Result<Arc<Decision>, Fault>> {
    let inputs = policy.reads(Hook::Features)?;
    facts.notes().extracted(|| {
        arms(policy, inputs.iter(), facts);
        Some(decide(policy, &HookCall::Features, inputs, facts))
    })
}

/// Makes key material as the policy's plan says. `Ok(Some(reason))` keeps the request out of the cache.
///
/// Keys fall closed: where something that the key depends on couldn't be read of the body, a digest of the body as it
/// came is part of the material, whatever the policy returns. It follows a missing part: of a recipe the number of
/// parts is fixed, and a call's are never missing, so that no other material is spelled alike.
///
/// # Errors
/// The policy faulted, or what its key reads did.
pub fn material(policy: &dyn Policy, facts: &Facts<'_>, material: &mut impl Material) -> Result<Option<String>, Fault> {
    let bypass = stated(policy, facts, material)?;
    // Most requests have no body; theirs is the hot path.
    let has_body = facts.body().is_some_and(|body| !body.is_empty());
    if has_body && bypass.is_none() && key_reads(policy).any(|input| facts.misreads(input)) {
        material.part(None);
        material.part(Some(&facts.raw_digest()));
    }
    Ok(bypass)
}

/// Returns everything that a policy's key depends on: what it reads itself, and what the features and the arms among
/// that are made from. Nothing if the key is native.
pub fn key_reads(policy: &dyn Policy) -> impl Iterator<Item = &Input> {
    let reads = |hook| policy.reads(hook).unwrap_or_default();
    let key: &[Input] = if *policy.key_plan() == KeyPlan::Native { &[] } else { reads(Hook::Key) };
    let by_feature = key.iter().any(|input| matches!(input, Input::Feature(_)));
    let features: &[Input] = if by_feature { reads(Hook::Features) } else { &[] };
    let by_arm = key.iter().chain(features).any(|input| matches!(input, Input::Arm(_)));
    let units = policy.experiments().iter().filter(move |_| by_arm).map(|experiment| &experiment.unit);
    key.iter().chain(features).chain(units)
}

/// Returns the material that the policy itself states.
fn stated(policy: &dyn Policy, facts: &Facts<'_>, material: &mut impl Material) -> Result<Option<String>, Fault> {
    match policy.key_plan() {
        KeyPlan::Native => Ok(None),
        KeyPlan::Recipe(parts) => {
            prepare(policy, parts.iter().map(|part| &part.input), facts)?;
            key::evaluate(parts, facts, material);
            Ok(None)
        }
        KeyPlan::Call(inputs) => {
            prepare(policy, inputs.iter(), facts)?;
            match &*decide(policy, &HookCall::Key, inputs, facts)? {
                Decision::Key(KeyVerdict::Lookup(parts)) => {
                    parts.iter().for_each(|part| material.part(part.as_deref()));
                    Ok(None)
                }
                Decision::Key(KeyVerdict::Bypass(reason)) => Ok(Some(reason.clone())),
                other => Err(Fault::mismatch(Hook::Key, other)),
            }
        }
    }
}

/// Returns the policy's decision about the key, whether by recipe or by call: for comparisons, and so without what the
/// host adds to it. `None` if the policy doesn't make keys.
pub fn key(policy: &dyn Policy, facts: &Facts<'_>) -> Option<Result<Decision, Fault>> {
    if *policy.key_plan() == KeyPlan::Native {
        return None;
    }
    let mut parts = Parts::default();
    Some(stated(policy, facts, &mut parts).map(|bypass| {
        Decision::Key(match bypass {
            Some(reason) => KeyVerdict::Bypass(reason),
            None => KeyVerdict::Lookup(parts.0),
        })
    }))
}

#[derive(Default)]
struct Parts(Vec<Option<Vec<u8>>>);

impl Material for Parts {
    fn part(&mut self, part: Option<&[u8]>) {
        self.0.push(part.map(<[u8]>::to_vec));
    }
}

/// Draws the arms of the policy's experiments, once.
pub fn draw<'n>(policy: &dyn Policy, facts: &Facts<'n>) -> &'n [Arm] {
    facts.notes().draw(|| {
        let experiments = policy.experiments().iter().enumerate();
        experiments
            .filter_map(|(at, experiment)| {
                let arm = experiment.draw(&facts.read(&experiment.unit)?);
                let name = experiment.arms.get(arm)?.name.as_str().into();
                Some(Arm { experiment: experiment.name.as_str().into(), place: (at, arm), name })
            })
            .collect()
    })
}

/// Extracts the features and draws the arms that the inputs need.
fn prepare<'i>(
    policy: &dyn Policy,
    inputs: impl Iterator<Item = &'i Input> + Clone,
    facts: &Facts<'_>,
) -> Result<(), Fault> {
    if inputs.clone().any(|input| matches!(input, Input::Feature(_)))
        && let Some(Err(fault)) = extract(policy, facts)
    {
        return Err(fault.clone());
    }
    arms(policy, inputs, facts);
    Ok(())
}

fn arms<'i>(policy: &dyn Policy, mut inputs: impl Iterator<Item = &'i Input>, facts: &Facts<'_>) {
    if inputs.any(|input| matches!(input, Input::Arm(_))) {
        draw(policy, facts);
    }
}

/// Values that are listed without an allocation: as many as policies usually read.
pub const INPUTS_USUAL: usize = 8;

fn decide(
    policy: &dyn Policy,
    call: &HookCall<'_>,
    inputs: &[Input],
    facts: &Facts<'_>,
) -> Result<Arc<Decision>, Fault> {
    let values: SmallVec<[Option<Cow<'_, [u8]>>; INPUTS_USUAL]> =
        inputs.iter().map(|input| facts.read(input)).collect();
    policy.decide(call, &values, facts.good_until(inputs))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderName, Method};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::Timestamp,
        policy::{
            Experiment, Notes, Outcome, RequestEdits, experiment, facts::tests::request, key::Part, key::Transform,
        },
    };

    /// A policy that returns what it reads.
    #[derive(Debug)]
    struct Echo {
        label: Arc<str>,
        plan: KeyPlan,
        key: Vec<Input>,
        features: Vec<Input>,
        experiments: Vec<Experiment>,
    }

    impl Policy for Echo {
        fn label(&self) -> &Arc<str> {
            &self.label
        }

        fn key_plan(&self) -> &KeyPlan {
            &self.plan
        }

        fn meaning(&self) -> &[u8; 32] {
            &[0; 32]
        }

        fn reads(&self, hook: Hook) -> Option<&[Input]> {
            match hook {
                Hook::Key => Some(&self.key),
                Hook::Features => Some(&self.features),
                _ => None,
            }
        }

        fn experiments(&self) -> &[Experiment] {
            &self.experiments
        }

        fn decide(
            &self,
            call: &HookCall<'_>,
            values: &[Option<Cow<'_, [u8]>>],
            _: Option<Timestamp>,
        ) -> Result<Arc<Decision>, Fault> {
            let values = values.iter().map(|value| value.as_deref().unwrap_or_default().to_vec());
            Ok(Arc::new(match call {
                HookCall::Key => Decision::Key(KeyVerdict::Lookup(values.map(Some).collect())),
                _ => {
                    let features = values.map(|value| ("f".to_owned(), value.into())).collect();
                    Decision::Features(RequestEdits { features, ..RequestEdits::default() })
                }
            }))
        }

        fn observe(&self, _: &[Arm], _: &Outcome) {}

        fn needs_body(&self) -> bool {
            true
        }
    }

    fn input() -> Input {
        Input::BodyJson("/input".into())
    }

    fn recipe(input: Input, features: Vec<Input>, unit: Option<Input>) -> Echo {
        let part = Part { input: input.clone(), transform: Transform::Identity };
        let arms =
            vec![experiment::Arm { name: "a".into(), weight: 1 }, experiment::Arm { name: "b".into(), weight: 1 }];
        let experiments = unit.map(|unit| Experiment { name: "e".into(), unit, arms }).into_iter().collect();
        Echo { label: "echo".into(), plan: KeyPlan::Recipe(vec![part]), key: vec![input], features, experiments }
    }

    /// Every way in which a key may come to depend on `/input`.
    fn policies() -> Vec<Echo> {
        let direct = recipe(input(), vec![], None);
        let call = Echo { plan: KeyPlan::Call(vec![input()]), ..recipe(input(), vec![], None) };
        vec![
            direct,
            call,
            recipe(Input::Feature("f".into()), vec![input()], None),
            recipe(Input::Feature("f".into()), vec![Input::Arm("e".into())], Some(input())),
            recipe(Input::Arm("e".into()), vec![], Some(input())),
        ]
    }

    fn made(policy: &Echo, headers: &[(&'static str, &'static str)], body: &[u8]) -> Vec<Option<Vec<u8>>> {
        let request = request(Method::POST, "/", headers);
        let (body, notes, mut parts) = (Bytes::copy_from_slice(body), Notes::default(), Parts::default());
        assert_eq!(material(policy, &Facts::new(&request, Some(&body), &notes), &mut parts), Ok(None));
        parts.0
    }

    #[test]
    fn only_what_is_misread_adds_to_the_key() {
        for policy in policies() {
            assert_eq!(made(&policy, &[], br#"{"input":"a","x":1}"#), made(&policy, &[], br#"{"x":2,"input":"a"}"#));
            assert_eq!(made(&policy, &[], br#"{"input":"a"}"#).len(), 1, "{policy:?}");
            assert_eq!(made(&policy, &[], b"{}").len(), 1, "nothing there: {policy:?}");
            assert_eq!(made(&policy, &[], b"").len(), 1, "no body: {policy:?}");
            let misread = made(&policy, &[], b"{\"input\":NaN}");
            assert_eq!((misread.len(), &misread[1]), (3, &None), "{policy:?}");
            let stated = key(&policy, &Facts::new(&request(Method::POST, "/", &[]), None, &Notes::default()));
            assert!(matches!(stated, Some(Ok(Decision::Key(KeyVerdict::Lookup(parts)))) if parts.len() == 1));
        }
        let header = recipe(Input::Header(HeaderName::from_static("x-a")), vec![input()], Some(input()));
        assert_eq!(made(&header, &[], b"not json").len(), 1, "the body isn't its business");
    }

    #[test]
    fn a_key_depends_on_what_its_features_and_arms_do() {
        let native = Echo { plan: KeyPlan::Native, ..recipe(input(), vec![], None) };
        assert_eq!(key_reads(&native).count(), 0);
        let path = recipe(Input::Path, vec![input()], Some(input()));
        assert_eq!(key_reads(&path).collect::<Vec<_>>(), [&Input::Path]);
        for policy in policies() {
            assert!(key_reads(&policy).any(|read| *read == input()), "{policy:?}");
        }
    }

    /// Bodies that differ, and what may be wrong with them.
    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let wrong = prop::sample::select(vec![
            ("", ",}"),
            ("\u{feff}", "}"),
            ("", ",\"x\":NaN}"),
            ("", ",\"input\":\"a\"}"),
            ("", ",\"INPUT\":1}"),
            ("// c\n", "}"),
        ]);
        ("[a-d]{1,2}", wrong)
            .prop_map(|(text, (before, after))| format!("{before}{{\"input\":\"{text}\"{after}").into_bytes())
    }

    proptest! {
        #[test]
        fn unreadable_bodies_that_differ_have_different_keys(one in bodies(), other in bodies()) {
            for policy in policies() {
                prop_assert_eq!(one == other, made(&policy, &[], &one) == made(&policy, &[], &other), "{:?}", policy);
            }
        }

        /// Neither does one that can be read have the key of one that can't.
        #[test]
        fn readable_bodies_are_apart_from_all_that_are_not(text in "[a-d]{1,2}", other in bodies()) {
            let readable = format!("{{\"input\":\"{text}\"}}");
            for policy in policies() {
                prop_assert_ne!(made(&policy, &[], readable.as_bytes()), made(&policy, &[], &other));
            }
        }
    }
}
