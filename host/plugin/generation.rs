//! A component that is compiled and linked, with its configuration: the source of instances.

use std::{
    borrow::Cow,
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
    contract,
    diagnostics::Voice,
    engine::Engine,
    error::{Refusal, Unmade, one_line},
    exports::{self, Indices},
    instance::{self, Instance},
    limits::{Allowance, Limit},
    metrics::Tally,
    state::State,
};
use crate::{
    config::{self, Memo, PolicyLimits, PolicySource},
    policy::Hook,
};

pub(super) struct Generation {
    /// Name and the digest's first eight digits.
    pub(super) label: Arc<str>,
    /// blake3 over component, configuration and limits, in hex.
    pub(super) digest: String,
    /// The hooks that the component exports.
    pub(super) hooks: Vec<Hook>,
    /// Limits of the calls that are made once in an instance.
    pub(super) load: Limit,
    memory_bytes_max: usize,
    config: String,
    counts_fuel: bool,
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
        let hooks = exports::exported(engine.wasm(), &component)?;
        let digest = digest(&bytes, config);
        let label: Arc<str> = format!("{name}@{}", &digest[..8]).into();
        Ok(Self {
            indices: Indices::of(&linked, &hooks)?,
            voice: Arc::new(Voice::new(Arc::clone(&label), config.limits.log_per_second_max)),
            label,
            digest,
            hooks,
            load: Limit::of_load(&config.limits),
            memory_bytes_max: config.limits.memory_bytes_max,
            config: config.config.clone(),
            counts_fuel: engine.counts_fuel(),
            linked,
        })
    }

    /// Returns the digest's first eight digits.
    pub(super) fn short(&self) -> &str {
        &self.digest[..8]
    }

    /// Makes an instance and configures it.
    pub(super) fn instantiate(&self, tally: &Tally) -> Result<(Box<Instance>, Manifest), Unmade> {
        let state = State { allowance: Allowance::new(self.memory_bytes_max), voice: Arc::clone(&self.voice) };
        let mut store = Store::new(self.linked.engine(), state);
        store.limiter(|state| &mut state.allowance);
        store.set_epoch_deadline(self.load.ticks);
        if self.counts_fuel {
            store.set_fuel(u64::MAX).map_err(|error| Unmade::Instance(one_line(&error)))?;
        }
        let instance = self.linked.instantiate(&mut store).map_err(|error| Unmade::Instance(one_line(&error)))?;
        let exports = self.indices.load(&mut store, &instance).map_err(|error| Unmade::Exports(one_line(&error)))?;
        let mut instance = Box::new(Instance::new(store, exports, self.counts_fuel, tally.instance()));
        let manifest = instance
            .call(&self.load, |exports, store| exports.plugin.call_configure(store, &self.config))
            .and_then(|answer| answer.map_err(|fault| instance::own_fault(&fault)))
            .map_err(Unmade::Configure)?;
        Ok((instance, manifest))
    }
}

/// Returns the digest of the generation that a configuration makes, without making it.
pub(super) fn digest_of(config: &config::Policy) -> Result<String, Refusal> {
    Ok(digest(&read(&config.source)?, config))
}

/// Bytes of a component. The largest known, Python's, have 18 MiB.
pub(crate) const COMPONENT_BYTES_MAX: u64 = 64 << 20;

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

/// Reads a file; `None` if it is over the limit.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let length = config::open_file(path)?.take(COMPONENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((length as u64 <= COMPONENT_BYTES_MAX).then_some(bytes))
}

/// Refuses a core module, the most common mistake, with a message of its own. Both begin with `\0asm`; then a module
/// says version 1, layer 0.
fn refuse_core_module(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.starts_with(b"\0asm\x01\0\0\0") { Err(Refusal::CoreModule) } else { Ok(()) }
}

/// Links a component with what policies may import: `diagnostics`, and for languages whose runtime insists on WASI,
/// functions that trap when called.
fn link(engine: &wasmtime::Engine, component: &Component) -> Result<InstancePre<State>, Refusal> {
    let unlinked = |error: wasmtime::Error| Refusal::Unlinked(one_line(&error));
    let mut linker = Linker::<State>::new(engine);
    holm_bindings::Policy::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state).map_err(unlinked)?;
    let mut wasi = false;
    for (name, _) in component.component_type().imports(engine) {
        contract::check("imports", name)?;
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

/// Classifies an import. `facts` has no functions: a component imports it for the types.
fn import(name: &str) -> Import {
    match name.split('@').next() {
        Some("holm:policy/diagnostics" | "holm:policy/facts") => Import::Given,
        Some(name) if name.starts_with("wasi:") => Import::Wasi,
        _ => Import::Refused,
    }
}

/// Returns the digest of everything that a generation's decisions depend on; how it takes over is not part of it.
fn digest(component: &[u8], config: &config::Policy) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [component, config.config.as_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let PolicyLimits {
        memory_bytes_max,
        call,
        load,
        instances_max,
        wait,
        calls_max,
        result_bytes_max,
        result_items_max,
        log_per_second_max,
        breaker,
    } = config.limits;
    let Memo { entries_max, check_every } = config.memo;
    for number in [
        memory_bytes_max as u128,
        call.as_nanos(),
        load.as_nanos(),
        instances_max as u128,
        wait.as_nanos(),
        u128::from(calls_max),
        result_bytes_max as u128,
        result_items_max as u128,
        u128::from(log_per_second_max),
        u128::from(breaker.failures),
        breaker.open.as_nanos(),
        breaker.open_max.as_nanos(),
        entries_max as u128,
        u128::from(check_every),
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
        let of = |component: &[u8], table: &str, limits: PolicyLimits, memo: Memo| {
            let source = PolicySource::Embedded(b"");
            let rollout = config::Rollout::default();
            digest(component, &config::Policy { source, config: table.to_owned(), limits, memo, rollout })
        };
        let (base, memo) = (PolicyLimits::default(), Memo::default());
        let mut digests = vec![
            of(b"c", "{}", base, memo),
            of(b"c{", "}", base, memo),
            of(b"c", "{}", PolicyLimits { memory_bytes_max: 1, ..base }, memo),
            of(b"c", "{}", PolicyLimits { call: base.call * 2, ..base }, memo),
            of(b"c", "{}", PolicyLimits { load: base.load * 2, ..base }, memo),
            of(b"c", "{}", PolicyLimits { instances_max: 77, ..base }, memo),
            of(b"c", "{}", PolicyLimits { wait: base.wait * 2, ..base }, memo),
            of(b"c", "{}", PolicyLimits { calls_max: 77, ..base }, memo),
            of(b"c", "{}", PolicyLimits { result_bytes_max: 77, ..base }, memo),
            of(b"c", "{}", PolicyLimits { result_items_max: 77, ..base }, memo),
            of(b"c", "{}", PolicyLimits { log_per_second_max: 77, ..base }, memo),
            of(b"c", "{}", base, Memo { entries_max: 1, ..memo }),
            of(b"c", "{}", base, Memo { check_every: 1, ..memo }),
        ];
        assert!(digests.iter().all(|digest| digest.len() == 64));
        let all = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), all);
    }
}
