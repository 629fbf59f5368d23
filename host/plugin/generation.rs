//! A component, compiled, linked and told its configuration: what instances are made of.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use holm_bindings::exports::holm::policy::plugin::Manifest;
use wasmtime::{
    Store,
    component::{Component, HasSelf, InstancePre, Linker},
};

use super::{
    diagnostics::Voice,
    engine::Engine,
    error::{Refusal, Unmade},
    hook::{Hook, Indices},
    instance::{self, Instance, State},
    limits::{Allowance, Limit},
    metrics::Tally,
};
use crate::config::{self, PolicyLimits, PolicySource};

pub(super) struct Generation {
    /// Name and the digest's first eight digits.
    pub(super) label: String,
    /// blake3 over component, configuration and limits, in hex.
    pub(super) digest: String,
    /// What the component exports.
    pub(super) hooks: Vec<Hook>,
    /// Limits of what is called once in an instance.
    pub(super) load: Limit,
    memory_bytes_max: usize,
    config: String,
    linked: InstancePre<State>,
    indices: Indices,
    voice: Arc<Voice>,
}

impl Generation {
    /// Reads, compiles and links a component. Runs nothing of it.
    pub(super) fn prepare(engine: &Engine, name: &str, config: &config::Policy) -> Result<Self, Refusal> {
        let bytes = read(&config.source)?;
        refuse_core_module(&bytes)?;
        let component = engine.compile(&bytes)?;
        let linked = link(engine.wasm(), &component)?;
        let hooks = Hook::exported(engine.wasm(), &component);
        let digest = digest(&bytes, &config.config, &config.limits);
        let label = format!("{name}@{}", &digest[..8]);
        Ok(Self {
            indices: Indices::of(&linked, &hooks)?,
            voice: Arc::new(Voice::new(label.clone())),
            label,
            digest,
            hooks,
            load: Limit::of_load(&config.limits),
            memory_bytes_max: config.limits.memory_bytes_max,
            config: config.config.clone(),
            linked,
        })
    }

    /// Makes an instance and configures it.
    pub(super) fn instantiate(&self, tally: &Tally) -> Result<(Instance, Manifest), Unmade> {
        let state = State { allowance: Allowance::new(self.memory_bytes_max), voice: Arc::clone(&self.voice) };
        let mut store = Store::new(self.linked.engine(), state);
        store.limiter(|state| &mut state.allowance);
        store.set_epoch_deadline(self.load.ticks);
        let instance = self.linked.instantiate(&mut store).map_err(|error| Unmade::Instance(format!("{error:#}")))?;
        let exports =
            self.indices.load(&mut store, &instance).map_err(|error| Unmade::Exports(format!("{error:#}")))?;
        let mut instance = Instance::new(store, exports, tally.instance());
        let manifest = instance
            .call(&self.load, |exports, store| exports.plugin.call_configure(store, &self.config))
            .and_then(|answer| answer.map_err(|fault| instance::own_fault(&fault)))
            .map_err(Unmade::Configure)?;
        Ok((instance, manifest))
    }
}

/// The largest known, Python's, have 18 MiB.
const COMPONENT_BYTES_MAX: u64 = 64 << 20;

fn read(source: &PolicySource) -> Result<Cow<'static, [u8]>, Refusal> {
    match source {
        PolicySource::Embedded(bytes) => Ok(Cow::Borrowed(*bytes)),
        PolicySource::File(path) => {
            let bytes = read_file(path).map_err(Refusal::Unreadable)?;
            match bytes {
                Some(bytes) => Ok(Cow::Owned(bytes)),
                None => Err(Refusal::TooLarge { limit: COMPONENT_BYTES_MAX }),
            }
        }
    }
}

/// None if there is more than is allowed.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let length = File::open(path)?.take(COMPONENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((length as u64 <= COMPONENT_BYTES_MAX).then_some(bytes))
}

/// The commonest mistake has its own words. Both begin with `\0asm`; then a module says version 1, layer 0.
fn refuse_core_module(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.starts_with(b"\0asm\x01\0\0\0") { Err(Refusal::CoreModule) } else { Ok(()) }
}

/// Gives a component what policies are given: `diagnostics`, and for languages whose runtime insists on WASI, functions
/// that trap when called.
fn link(engine: &wasmtime::Engine, component: &Component) -> Result<InstancePre<State>, Refusal> {
    let unlinked = |error: wasmtime::Error| Refusal::Unlinked(format!("{error:#}"));
    let mut linker = Linker::<State>::new(engine);
    holm_bindings::Policy::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state).map_err(unlinked)?;
    let mut wasi = false;
    for (name, _) in component.component_type().imports(engine) {
        match import(name) {
            Import::Given => {}
            Import::Wasi => wasi = true,
            Import::Refused => return Err(Refusal::Import(name.to_owned())),
        }
    }
    if wasi {
        linker.define_unknown_imports_as_traps(component).map_err(unlinked)?;
    }
    linker.instantiate_pre(component).map_err(unlinked)
}

#[derive(Debug, PartialEq, Eq)]
enum Import {
    Given,
    Wasi,
    Refused,
}

/// `facts` has no functions: a component names it for the types.
fn import(name: &str) -> Import {
    match name.split('@').next() {
        Some("holm:policy/diagnostics" | "holm:policy/facts") => Import::Given,
        Some(name) if name.starts_with("wasi:") => Import::Wasi,
        _ => Import::Refused,
    }
}

fn digest(component: &[u8], config: &str, limits: &PolicyLimits) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [component, config.as_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let PolicyLimits { memory_bytes_max, call, load, instances_max, calls_max, result_bytes_max, breaker } = limits;
    for number in [
        *memory_bytes_max as u128,
        call.as_nanos(),
        load.as_nanos(),
        *instances_max as u128,
        u128::from(*calls_max),
        *result_bytes_max as u128,
        u128::from(breaker.failures),
        breaker.open.as_nanos(),
        breaker.open_max.as_nanos(),
    ] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_diagnostics_and_wasi_may_be_imported() {
        for (name, wanted) in [
            ("holm:policy/diagnostics@0.1.0", Import::Given),
            ("holm:policy/facts@0.1.0", Import::Given),
            ("wasi:clocks/wall-clock@0.2.0", Import::Wasi),
            ("wasi:cli/environment", Import::Wasi),
            ("holm:policy/key@0.1.0", Import::Refused),
            ("holm:policy/diagnostics-and-more@0.1.0", Import::Refused),
            ("wasix:cli/environment", Import::Refused),
            ("evil", Import::Refused),
        ] {
            assert_eq!(import(name), wanted, "{name}");
        }
    }

    #[test]
    fn each_limit_is_part_of_the_generation() {
        let base = PolicyLimits::default();
        let mut digests = vec![
            digest(b"c", "{}", &base),
            digest(b"c{", "}", &base),
            digest(b"c", "{}", &PolicyLimits { memory_bytes_max: 1, ..base }),
            digest(b"c", "{}", &PolicyLimits { call: base.call * 2, ..base }),
            digest(b"c", "{}", &PolicyLimits { load: base.load * 2, ..base }),
            digest(b"c", "{}", &PolicyLimits { instances_max: 77, ..base }),
            digest(b"c", "{}", &PolicyLimits { calls_max: 77, ..base }),
            digest(b"c", "{}", &PolicyLimits { result_bytes_max: 77, ..base }),
        ];
        assert!(digests.iter().all(|digest| digest.len() == 64));
        let all = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), all);
    }
}
