//! The hooks a component may export. Each that the host calls has a module of its own, which knows its types.

pub(super) mod key;

use holm_bindings::exports::holm::policy::{key as key_exports, plugin};
use wasmtime::{
    Store,
    component::{self, Component, InstancePre},
};

use super::{error::Refusal, instance::State};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Key,
    Features,
    Admit,
    Route,
    Batch,
    Prefetch,
}

impl Hook {
    pub(super) const ALL: [Self; 6] =
        [Self::Key, Self::Features, Self::Admit, Self::Route, Self::Batch, Self::Prefetch];

    /// As the contract calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Features => "features",
            Self::Admit => "admit",
            Self::Route => "route",
            Self::Batch => "batch",
            Self::Prefetch => "prefetch",
        }
    }

    /// Does this version of the host call it?
    pub(super) const fn called(self) -> bool {
        matches!(self, Self::Key)
    }

    /// Those that a component exports, in whatever version.
    pub(super) fn exported(engine: &wasmtime::Engine, component: &Component) -> Vec<Self> {
        let kind = component.component_type();
        let names: Vec<&str> = kind.exports(engine).filter_map(|(name, _)| interface(name)).collect();
        Self::ALL.into_iter().filter(|hook| names.contains(&hook.name())).collect()
    }
}

impl From<plugin::Hook> for Hook {
    fn from(hook: plugin::Hook) -> Self {
        match hook {
            plugin::Hook::Key => Self::Key,
            plugin::Hook::Features => Self::Features,
            plugin::Hook::Admit => Self::Admit,
            plugin::Hook::Route => Self::Route,
            plugin::Hook::Batch => Self::Batch,
            plugin::Hook::Prefetch => Self::Prefetch,
        }
    }
}

/// Where the exports are in a component.
pub(super) struct Indices {
    plugin: plugin::GuestIndices,
    key: Option<key_exports::GuestIndices>,
}

impl Indices {
    pub(super) fn of(linked: &InstancePre<State>, hooks: &[Hook]) -> Result<Self, Refusal> {
        let plugin = plugin::GuestIndices::new(linked).map_err(|_| Refusal::NoPlugin)?;
        let key = hooks.contains(&Hook::Key).then(|| key_exports::GuestIndices::new(linked));
        let key = key.transpose().map_err(|error| other_version(Hook::Key, &error))?;
        Ok(Self { plugin, key })
    }

    /// Finds the exports in an instance and checks their types.
    pub(super) fn load(&self, store: &mut Store<State>, instance: &component::Instance) -> wasmtime::Result<Exports> {
        let plugin = self.plugin.load(&mut *store, instance)?;
        let key = self.key.as_ref().map(|key| key.load(&mut *store, instance)).transpose()?;
        Ok(Exports { plugin, key })
    }
}

/// The exports of an instance.
pub(super) struct Exports {
    pub(super) plugin: plugin::Guest,
    pub(super) key: Option<key_exports::Guest>,
}

/// `key` of `holm:policy/key@0.1.0`.
fn interface(export: &str) -> Option<&str> {
    export.strip_prefix("holm:policy/")?.split('@').next()
}

fn other_version(hook: Hook, error: &wasmtime::Error) -> Refusal {
    Refusal::Hook { hook: hook.name(), detail: format!("{error:#}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_told_by_their_interface() {
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
