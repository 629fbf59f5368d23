//! The hooks a component may export. Each has a module of its own, which knows its types and what makes sense of it.

mod admit;
mod batch;
mod features;
pub(super) mod key;
mod prefetch;
mod route;

use std::borrow::Cow;

use holm_bindings::exports::holm::policy::{
    admit as admit_exports, batch as batch_exports, features as features_exports, key as key_exports, plugin,
    prefetch as prefetch_exports, route as route_exports,
};
use http::{HeaderName, HeaderValue, header};
use smallvec::SmallVec;
use wasmtime::{
    Store,
    component::{self, Component, InstancePre},
};

use super::{
    error::{Refusal, told},
    instance::{Instance, State},
    limits::{FIELD_NAME_BYTES_MAX, FIELD_VALUE_BYTES_MAX, Limit, plain},
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

/// The hooks that a component exports, in whatever version.
pub(super) fn exported(engine: &wasmtime::Engine, component: &Component) -> Vec<Hook> {
    let kind = component.component_type();
    let names: Vec<&str> = kind.exports(engine).filter_map(|(name, _)| interface(name)).collect();
    Hook::ALL.into_iter().filter(|hook| names.contains(&hook.name())).collect()
}

/// The contract's word for a hook.
pub(super) const fn of_contract(hook: plugin::Hook) -> Hook {
    match hook {
        plugin::Hook::Key => Hook::Key,
        plugin::Hook::Features => Hook::Features,
        plugin::Hook::Admit => Hook::Admit,
        plugin::Hook::Route => Hook::Route,
        plugin::Hook::Batch => Hook::Batch,
        plugin::Hook::Prefetch => Hook::Prefetch,
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
    key: Option<key_exports::Guest>,
    features: Option<features_exports::Guest>,
    admit: Option<admit_exports::Guest>,
    route: Option<route_exports::Guest>,
    batch: Option<batch_exports::Guest>,
    prefetch: Option<prefetch_exports::Guest>,
}

impl Indices {
    pub(super) fn of(linked: &InstancePre<State>, hooks: &[Hook]) -> Result<Self, Refusal> {
        /// Those of one hook, if the component exports it.
        fn found<I>(
            hooks: &[Hook],
            hook: Hook,
            indices: impl FnOnce() -> wasmtime::Result<I>,
        ) -> Result<Option<I>, Refusal> {
            let indices = hooks.contains(&hook).then(indices).transpose();
            indices.map_err(|error| Refusal::Hook { hook: hook.name(), detail: told(&error) })
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

/// A hook's export. Who asks a hook has found it in the list of what is exported.
fn present<G>(guest: Option<&G>) -> wasmtime::Result<&G> {
    guest.ok_or_else(|| wasmtime::Error::msg("the component doesn't export the hook"))
}

/// `key` of `holm:policy/key@0.1.0`.
fn interface(export: &str) -> Option<&str> {
    export.strip_prefix("holm:policy/")?.split('@').next()
}

/// A list that is within the contract's limit, and the operator's.
fn counted<T>(what: &'static str, list: &[T], max: usize, limit: &Limit) -> Result<(), Fault> {
    let max = max.min(limit.result_items);
    if list.len() <= max {
        return Ok(());
    }
    Err(Fault::Malformed(format!("{} {what}; at most {max} are allowed", list.len())))
}

/// Sizes that together are within the limit of a result.
fn weighed(sizes: impl Iterator<Item = usize>, limit: &Limit) -> Result<(), Fault> {
    let bytes: usize = sizes.sum();
    if bytes <= limit.result_bytes { Ok(()) } else { Err(Fault::TooLarge { bytes, limit: limit.result_bytes }) }
}

/// A header field of a request, as a component names it; without a value it is one to be removed.
fn request_field(name: &str, value: Option<&str>) -> Result<(HeaderName, Option<HeaderValue>), Fault> {
    let wrong = |why: String| Fault::Malformed(format!("the header field `{}` {why}", plain(name, 80)));
    if name.len() > FIELD_NAME_BYTES_MAX {
        return Err(wrong(format!("has a name of {} bytes; at most {FIELD_NAME_BYTES_MAX} are allowed", name.len())));
    }
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("has no valid name".to_owned()))?;
    if is_hosts(&name) {
        return Err(wrong(
            "is not a policy's to set: it belongs to the connection, or says where a request ends".to_owned(),
        ));
    }
    let Some(value) = value else { return Ok((name, None)) };
    if value.len() > FIELD_VALUE_BYTES_MAX {
        return Err(wrong(format!(
            "has a value of {} bytes; at most {FIELD_VALUE_BYTES_MAX} are allowed",
            value.len()
        )));
    }
    let value = HeaderValue::from_str(value).map_err(|_| wrong("has characters that no value has".to_owned()))?;
    Ok((name, Some(value)))
}

/// Whether a field is the host's own: by it a connection knows where a request ends and whom it is for, or it is for
/// one hop only (RFC 9110, section 7.6.1).
fn is_hosts(name: &HeaderName) -> bool {
    const OWN: [HeaderName; 10] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::EXPECT,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
    ];
    OWN.contains(name) || ["keep-alive", "proxy-connection", "http2-settings"].contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_set_removed_or_refused_with_the_reason() {
        let (long, large) = ("x".repeat(FIELD_NAME_BYTES_MAX + 1), "x".repeat(FIELD_VALUE_BYTES_MAX + 1));
        for (name, value, words) in [
            ("a b", Some("1"), "`a b` has no valid name"),
            ("", None, "`` has no valid name"),
            (&*long, None, "has a name of 257 bytes; at most 256"),
            ("x-a", Some("a\nb"), "`x-a` has characters that no value has"),
            ("x-a", Some(&*large), "`x-a` has a value of 8193 bytes; at most 8192"),
            ("Content-Length", Some("1"), "`Content-Length` is not a policy's to set"),
            ("host", None, "`host` is not a policy's to set"),
            ("Connection", None, "is not a policy's to set"),
            ("keep-alive", Some("1"), "is not a policy's to set"),
            ("proxy-authorization", Some("1"), "is not a policy's to set"),
            ("te", Some("trailers"), "is not a policy's to set"),
        ] {
            let fault = request_field(name, value).unwrap_err().to_string();
            assert!(fault.contains(words), "{fault}");
        }
        let (name, value) = request_field("X-A", Some(&large[1..])).unwrap();
        assert_eq!((name.as_str(), value.map(|value| value.len())), ("x-a", Some(FIELD_VALUE_BYTES_MAX)));
        assert!(matches!(request_field("authorization", None), Ok((_, None))));
    }

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
