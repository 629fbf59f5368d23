//! Asking a policy: what a hook reads is read, what it needs first is found out first.

use std::{borrow::Cow, sync::Arc};

use smallvec::SmallVec;

use super::{Arm, Decision, Facts, Fault, Hook, Input, KeyPlan, KeyVerdict, Material, Policy, Question, key};

/// Asks a hook. None if the policy doesn't have it.
pub fn ask(policy: &dyn Policy, question: &Question<'_>, facts: &Facts<'_>) -> Option<Result<Arc<Decision>, Fault>> {
    if question.hook() == Hook::Features {
        return extract(policy, facts).cloned();
    }
    let inputs = policy.reads(question.hook())?;
    Some(prepare(policy, inputs.iter(), facts).and_then(|()| decide(policy, question, inputs, facts)))
}

/// What `features` says of the request, asked once. None if the policy doesn't have the hook.
pub fn extract<'n>(policy: &dyn Policy, facts: &Facts<'n>) -> Option<&'n Result<Arc<Decision>, Fault>> {
    let inputs = policy.reads(Hook::Features)?;
    facts.notes().extracted(|| {
        arms(policy, inputs.iter(), facts);
        Some(decide(policy, &Question::Features, inputs, facts))
    })
}

/// Makes key material as the policy's plan says. `Ok(Some(reason))` keeps the request out of the cache.
///
/// # Errors
/// The policy faulted, or what its key reads did.
pub fn material(policy: &dyn Policy, facts: &Facts<'_>, material: &mut impl Material) -> Result<Option<String>, Fault> {
    match policy.key_plan() {
        KeyPlan::Native => Ok(None),
        KeyPlan::Recipe(parts) => {
            prepare(policy, parts.iter().map(|part| &part.input), facts)?;
            key::evaluate(parts, facts, material);
            Ok(None)
        }
        KeyPlan::Call(inputs) => {
            prepare(policy, inputs.iter(), facts)?;
            match &*decide(policy, &Question::Key, inputs, facts)? {
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

/// The same as a decision, whether by recipe or by call: for comparisons. None if the policy has no say about keys.
pub fn key(policy: &dyn Policy, facts: &Facts<'_>) -> Option<Result<Decision, Fault>> {
    if *policy.key_plan() == KeyPlan::Native {
        return None;
    }
    let mut parts = Parts::default();
    Some(material(policy, facts, &mut parts).map(|bypass| {
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

/// Finds out what the inputs need beside the request itself.
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

/// As many values as policies usually read are listed without an allocation.
pub const INPUTS_USUAL: usize = 8;

fn decide(
    policy: &dyn Policy,
    question: &Question<'_>,
    inputs: &[Input],
    facts: &Facts<'_>,
) -> Result<Arc<Decision>, Fault> {
    let values: SmallVec<[Option<Cow<'_, [u8]>>; INPUTS_USUAL]> =
        inputs.iter().map(|input| facts.read(input)).collect();
    policy.decide(question, &values, facts.good_until(inputs))
}
