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
    error::{Refusal, one_line},
    limits::plain,
    state::State,
};
use crate::policy::Hook;

/// Returns the hooks that a component exports, in whatever version.
///
/// # Errors
/// It exports another interface of the contract's package.
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
    match exports.iter().find(|export| interface(export).is_some_and(|name| !is_known(name))) {
        Some(export) => Err(Refusal::Interface {
            interface: plain(export, EXPORT_CHARS_MAX),
            known: Hook::ALL.map(Hook::name).join(", "),
        }),
        None => Ok(Hook::ALL
            .into_iter()
            .filter(|hook| exports.iter().any(|export| interface(export) == Some(hook.name())))
            .collect()),
    }
}

/// Characters of an export's name in a message.
const EXPORT_CHARS_MAX: usize = 80;

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

/// `key` of `holm:policy/key@0.1.0`.
fn interface(export: &str) -> Option<&str> {
    export.strip_prefix("holm:policy/")?.split('@').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_no_hook_here_is_refused_by_its_name() {
        let plugin = "holm:policy/plugin@0.1.0";
        let of = |exports: &[&str]| hooks(exports).map_err(|refusal| refusal.to_string());
        let some = [plugin, "holm:policy/route@0.1.0", "holm:policy/facts@0.1.0", "holm:policy/key@0.2.0", "init"];
        assert_eq!(of(&some), Ok(vec![Hook::Key, Hook::Route]));
        assert_eq!(of(&[]), Ok(vec![]));
        for unknown in ["holm:policy/rank@0.1.0", "holm:policy/keys", "holm:policy/diagnostics@0.1.0"] {
            let refused = of(&[plugin, unknown]).unwrap_err();
            let wanted =
                format!("exports `{unknown}`, which this node doesn't know; the hooks that it knows are key, ");
            assert!(refused.starts_with(&wanted), "{refused}");
        }
    }

    #[test]
    fn hooks_are_recognised_by_their_interface() {
        for (export, wanted) in [
            ("holm:policy/key@0.1.0", Some("key")),
            ("holm:policy/admit", Some("admit")),
            ("holm:other/key@0.1.0", None),
            ("init", None),
        ] {
            assert_eq!(interface(export), wanted, "{export}");
        }
    }
}
