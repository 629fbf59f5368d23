//! The declarations of a component, made once when it is loaded: its manifest, how keys are made, what each of its
//! hooks reads.

use holm_bindings::{
    exports::holm::policy::{key::Keying, plugin::Manifest as RawManifest},
    holm::policy::facts::Input as RawInput,
};

use super::{
    error::Refusal,
    hook,
    instance::Instance,
    limits::Limit,
    manifest::{self, Scope},
};
use crate::policy::{Experiment, Hook, Input, KeyPlan};

/// The checked declarations of a component.
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) experiments: Vec<Experiment>,
    pub(super) key_plan: KeyPlan,
    /// What each hook that the component exports reads; by [`Hook::index`]. Of a recipe, the inputs of its parts.
    pub(super) reads: [Option<Vec<Input>>; Hook::ALL.len()],
}

impl Declared {
    /// Reads the declarations of an instance that was configured and returned the manifest `raw`, each call within
    /// `limit`.
    ///
    /// # Errors
    /// A call gave no result, or one that this node refuses.
    pub(super) fn by(
        instance: &mut Instance,
        raw: RawManifest,
        hooks: &[Hook],
        limit: &Limit,
    ) -> Result<Self, Refusal> {
        let manifest = manifest::check(raw, hooks)?;
        let scope = manifest.scope(hooks);
        let mut key_plan = KeyPlan::Native;
        let mut reads = Hook::ALL.map(|_| None);
        for hook in hooks.iter().copied() {
            let inputs = if hook == Hook::Key {
                key_plan = plan(instance, limit, &scope)?;
                key_plan.inputs()
            } else {
                scope.inputs(hook, &asked(instance, limit, hook)?)?
            };
            reads[hook.index()] = Some(inputs);
        }
        let manifest::Manifest { name, version, experiments } = manifest;
        Ok(Self { name, version, experiments, key_plan, reads })
    }
}

/// Returns how keys are made. `reads` is called only if `derive` is called with its inputs.
fn plan(instance: &mut Instance, limit: &Limit, scope: &Scope<'_>) -> Result<KeyPlan, Refusal> {
    Ok(match hook::plan(instance, limit).map_err(Refusal::Plan)? {
        Keying::Recipe(parts) => scope.recipe(&parts)?,
        Keying::Call => scope.call(&asked(instance, limit, Hook::Key)?)?,
    })
}

/// Returns the inputs of a hook, as the component writes them.
fn asked(instance: &mut Instance, limit: &Limit, hook: Hook) -> Result<Vec<RawInput>, Refusal> {
    hook::reads(instance, limit, hook).map_err(|fault| Refusal::Reads { hook: hook.name(), fault })
}
