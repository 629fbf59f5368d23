//! The hooks that a component exports, and where they are.

use holm_bindings::exports::holm::policy::{
    admit as admit_exports, batch as batch_exports, features as features_exports, key as key_exports, plugin,
    prefetch as prefetch_exports, route as route_exports,
};
use wasmtime::{
    Store,
    component::{self, Component, InstancePre},
};

use super::{
    contract::{self, interface},
    error::{Refusal, one_line},
    state::State,
};
use crate::policy::Hook;

/// Returns the hooks that a component exports.
///
/// # Errors
/// It exports one in a version that isn't compatible with this node's, or another interface of the contract's package.
pub(super) fn exported(engine: &wasmtime::Engine, component: &Component) -> Result<Vec<Hook>, Refusal> {
    let kind = component.component_type();
    let names: Vec<&str> = kind.exports(engine).map(|(name, _)| name).collect();
    hooks(&names)
}

/// Interfaces that are no hooks: the one that every component exports, and the one that has types only.
const OTHERS: [&str; 2] = ["plugin", "facts"];

/// Returns the hooks among exports. A hook that this node doesn't have would never be called, and the policy would
/// decide something else than its author meant: so such a component is refused.
fn hooks(exports: &[&str]) -> Result<Vec<Hook>, Refusal> {
    let is_known = |name: &str| OTHERS.contains(&name) || Hook::named(name).is_some();
    exports.iter().try_for_each(|export| contract::check("exports", export))?;
    match exports.iter().find(|export| interface(export).is_some_and(|name| !is_known(name))) {
        Some(export) => {
            Err(Refusal::Interface { interface: contract::shown(export), known: Hook::ALL.map(Hook::name).join(", ") })
        }
        None => Ok(Hook::ALL
            .into_iter()
            .filter(|hook| exports.iter().any(|export| interface(export) == Some(hook.name())))
            .collect()),
    }
}

/// Where the exports are in a component.
pub(super) struct Indices {
    plugin: plugin::GuestIndices,
    key: Option<key_exports::GuestIndices>,
    features: Option<features_exports::GuestIndices>,
    admit: Option<admit_exports::GuestIndices>,
    route: Option<route_exports::GuestIndices>,
    batch: Option<batch_exports::GuestIndices>,
    prefetch: Option<prefetch_exports::GuestIndices>,
}

/// The exports of an instance.
pub(super) struct Exports {
    pub(super) plugin: plugin::Guest,
    pub(super) key: Option<key_exports::Guest>,
    pub(super) features: Option<features_exports::Guest>,
    pub(super) admit: Option<admit_exports::Guest>,
    pub(super) route: Option<route_exports::Guest>,
    pub(super) batch: Option<batch_exports::Guest>,
    pub(super) prefetch: Option<prefetch_exports::Guest>,
}

impl Indices {
    pub(super) fn of(linked: &InstancePre<State>, hooks: &[Hook]) -> Result<Self, Refusal> {
        /// Returns the exports of one hook, if the component has it.
        fn found<I>(
            hooks: &[Hook],
            hook: Hook,
            indices: impl FnOnce() -> wasmtime::Result<I>,
        ) -> Result<Option<I>, Refusal> {
            let indices = hooks.contains(&hook).then(indices).transpose();
            indices.map_err(|error| Refusal::Hook { hook: hook.name(), detail: one_line(&error) })
        }
        Ok(Self {
            plugin: plugin::GuestIndices::new(linked).map_err(|_| Refusal::NoPlugin)?,
            key: found(hooks, Hook::Key, || key_exports::GuestIndices::new(linked))?,
            features: found(hooks, Hook::Features, || features_exports::GuestIndices::new(linked))?,
            admit: found(hooks, Hook::Admit, || admit_exports::GuestIndices::new(linked))?,
            route: found(hooks, Hook::Route, || route_exports::GuestIndices::new(linked))?,
            batch: found(hooks, Hook::Batch, || batch_exports::GuestIndices::new(linked))?,
            prefetch: found(hooks, Hook::Prefetch, || prefetch_exports::GuestIndices::new(linked))?,
        })
    }

    /// Finds the exports in an instance and checks their types.
    pub(super) fn load(&self, store: &mut Store<State>, instance: &component::Instance) -> wasmtime::Result<Exports> {
        Ok(Exports {
            plugin: self.plugin.load(&mut *store, instance)?,
            key: self.key.as_ref().map(|it| it.load(&mut *store, instance)).transpose()?,
            features: self.features.as_ref().map(|it| it.load(&mut *store, instance)).transpose()?,
            admit: self.admit.as_ref().map(|it| it.load(&mut *store, instance)).transpose()?,
            route: self.route.as_ref().map(|it| it.load(&mut *store, instance)).transpose()?,
            batch: self.batch.as_ref().map(|it| it.load(&mut *store, instance)).transpose()?,
            prefetch: self.prefetch.as_ref().map(|it| it.load(&mut *store, instance)).transpose()?,
        })
    }
}

/// Returns a hook's export. A caller has found it in the list of what is exported.
pub(super) fn present<G>(guest: Option<&G>) -> wasmtime::Result<&G> {
    guest.ok_or_else(|| wasmtime::Error::msg("the component doesn't export the hook"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_no_hook_here_is_refused_by_its_name() {
        let plugin = "holm:policy/plugin@0.1.0";
        let of = |exports: &[&str]| hooks(exports).map_err(|refusal| refusal.to_string());
        let some = [plugin, "holm:policy/route@0.1.0", "holm:policy/facts@0.1.0", "holm:policy/key@0.1.9", "init"];
        assert_eq!(of(&some), Ok(vec![Hook::Key, Hook::Route]));
        assert_eq!(of(&[]), Ok(vec![]));
        for unknown in ["holm:policy/rank@0.1.0", "holm:policy/keys@0.1.3", "holm:policy/diagnostics@0.1.0"] {
            let refused = of(&[plugin, unknown]).unwrap_err();
            let wanted =
                format!("exports `{unknown}`, which this node doesn't know; the hooks that it knows are key, ");
            assert!(refused.starts_with(&wanted), "{refused}");
        }
        for of_another_version in ["holm:policy/key@0.2.0", "holm:policy/rank@0.2.0", "holm:policy/keys"] {
            let refused = of(&[plugin, of_another_version]).unwrap_err();
            assert!(refused.starts_with(&format!("exports `{of_another_version}`, but this node has ")), "{refused}");
        }
    }
}
