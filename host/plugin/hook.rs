//! The hooks a component may export. Each has a module of its own, which converts its types and checks its verdicts.

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
use crate::policy::{Decision, Fault, Hook, HookCall, consult::INPUTS_USUAL};

/// Calls a hook of an instance.
pub(super) fn ask(
    instance: &mut Instance,
    limit: &Limit,
    call: &HookCall<'_>,
    values: &[Option<Cow<'_, [u8]>>],
) -> Result<Decision, Fault> {
    let values: SmallVec<[Option<&[u8]>; INPUTS_USUAL]> = values.iter().map(Option::as_deref).collect();
    match call {
        HookCall::Key => key::derive(instance, limit, &values).map(Decision::Key),
        HookCall::Features => features::extract(instance, limit, &values).map(Decision::Features),
        HookCall::Admit(suggested) => admit::decide(instance, limit, &values, suggested).map(Decision::Admit),
        HookCall::Route(candidates) => route::choose(instance, limit, &values, candidates).map(Decision::Route),
        HookCall::Batch => batch::classify(instance, limit, &values).map(Decision::Batch),
        HookCall::Prefetch { hit } => prefetch::suggest(instance, limit, &values, *hit).map(Decision::Prefetch),
    }
}

/// Calls `plan` of an instance: how keys are made.
pub(super) fn plan(instance: &mut Instance, limit: &Limit) -> Result<Keying, Fault> {
    key::plan(instance, limit)
}

/// Calls `reads` of a hook of an instance: its inputs.
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
