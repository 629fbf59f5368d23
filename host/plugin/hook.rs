//! The hooks a component may export. Each has a module of its own, which knows its types and what makes sense of it.

mod admit;
mod batch;
mod bounds;
mod features;
mod key;
mod prefetch;
mod route;

use std::borrow::Cow;

use holm_bindings::{exports::holm::policy::key::Keying, holm::policy::facts::Input};
use smallvec::SmallVec;

use super::{
    exports::present,
    instance::{Instance, own_fault},
    limits::Limit,
};
use crate::policy::{Decision, Fault, Hook, Question, consult::INPUTS_USUAL};

/// Asks an instance.
pub(super) fn ask(
    instance: &mut Instance,
    limit: &Limit,
    question: &Question<'_>,
    values: &[Option<Cow<'_, [u8]>>],
) -> Result<Decision, Fault> {
    let values: SmallVec<[Option<&[u8]>; INPUTS_USUAL]> = values.iter().map(Option::as_deref).collect();
    match question {
        Question::Key => key::derive(instance, limit, &values).map(Decision::Key),
        Question::Features => features::extract(instance, limit, &values).map(Decision::Features),
        Question::Admit(suggested) => admit::decide(instance, limit, &values, suggested).map(Decision::Admit),
        Question::Route(candidates) => route::choose(instance, limit, &values, candidates).map(Decision::Route),
        Question::Batch => batch::classify(instance, limit, &values).map(Decision::Batch),
        Question::Prefetch { hit } => prefetch::suggest(instance, limit, &values, *hit).map(Decision::Prefetch),
    }
}

/// Asks an instance how keys are made.
pub(super) fn plan(instance: &mut Instance, limit: &Limit) -> Result<Keying, Fault> {
    key::plan(instance, limit)
}

/// Asks an instance what a hook reads.
pub(super) fn reads(instance: &mut Instance, limit: &Limit, hook: Hook) -> Result<Vec<Input>, Fault> {
    let answer = instance.call(limit, |exports, store| match hook {
        Hook::Key => present(exports.key.as_ref())?.call_reads(store),
        Hook::Features => present(exports.features.as_ref())?.call_reads(store),
        Hook::Admit => present(exports.admit.as_ref())?.call_reads(store),
        Hook::Route => present(exports.route.as_ref())?.call_reads(store),
        Hook::Batch => present(exports.batch.as_ref())?.call_reads(store),
        Hook::Prefetch => present(exports.prefetch.as_ref())?.call_reads(store),
    })?;
    answer.map_err(|fault| own_fault(&fault))
}
