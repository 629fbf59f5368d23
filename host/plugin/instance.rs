//! Instances of a component: calling into one, and keeping those that are idle.

use std::{mem, sync::Arc};

use holm_bindings::holm::policy::facts;
use parking_lot::Mutex;
use wasmtime::{Store, Trap};

use super::{
    diagnostics::Voice,
    hook::Exports,
    limits::{Allowance, Limit, plain},
    metrics::Live,
};
use crate::policy::Fault;

/// One instance with a store of its own: a trap poisons a store, and memory is given back only with it.
pub(super) struct Instance {
    exports: Exports,
    store: Store<State>,
    /// Questions it has answered.
    answered: u64,
    _live: Live,
}

/// What the host keeps for an instance.
pub(super) struct State {
    pub(super) allowance: Allowance,
    pub(super) voice: Arc<Voice>,
}

impl Instance {
    pub(super) fn new(store: Store<State>, exports: Exports, live: Live) -> Self {
        Self { exports, store, answered: 0, _live: live }
    }

    /// Calls into the component, under these limits.
    pub(super) fn call<T>(
        &mut self,
        limit: &Limit,
        call: impl FnOnce(&Exports, &mut Store<State>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        self.store.set_epoch_deadline(limit.ticks);
        self.store.set_hostcall_fuel(limit.copied_bytes());
        let answer = call(&self.exports, &mut self.store);
        answer.map_err(|error| fault(&error, limit, self.store.data().allowance.exhausted()))
    }
}

/// A component's own error, fit for headers and the log.
pub(super) fn own_fault(fault: &facts::Fault) -> Fault {
    Fault::Own { code: fault.code, detail: plain(&fault.detail, DETAIL_CHARS_MAX) }
}

const DETAIL_CHARS_MAX: usize = 256;

fn fault(error: &wasmtime::Error, limit: &Limit, memory_exhausted: Option<usize>) -> Fault {
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::Interrupt) {
        return Fault::Overrun { limit_us: u64::try_from(limit.time.as_micros()).unwrap_or(u64::MAX) };
    }
    let cause = error.root_cause().to_string();
    if cause.starts_with(COPIED_TOO_MUCH) {
        return Fault::TooLarge { bytes: limit.result_bytes.saturating_add(1), limit: limit.result_bytes };
    }
    let cause = plain(cause.strip_prefix("wasm trap: ").unwrap_or(&cause), DETAIL_CHARS_MAX);
    Fault::Trap(match memory_exhausted {
        Some(bytes) => format!("out of its {bytes} bytes of memory: {cause}"),
        None => cause,
    })
}

/// How wasmtime's error begins when a guest hands over more than it may; the type isn't public.
const COPIED_TOO_MUCH: &str = "too much data is being copied";

/// The instances of one generation. The one used last is used next, so that its memory is in the cache and a burst's
/// surplus stays cold.
pub(super) struct Instances {
    shelf: Mutex<Shelf>,
    instances_max: usize,
    calls_max: u64,
}

struct Shelf {
    idle: Vec<Instance>,
    live: usize,
}

impl Instances {
    /// With the one that the policy was loaded with.
    pub(super) fn new(instances_max: usize, calls_max: u64, first: Instance) -> Self {
        let shelf = Shelf { idle: vec![first], live: 1 };
        Self { shelf: Mutex::new(shelf), instances_max, calls_max }
    }

    /// An idle instance, or none where the caller is to make one. Nobody waits: whoever calls holds a thread, so there
    /// are never more callers than threads, and the limit is meant to lie above that.
    pub(super) fn take(&self) -> Result<(Place<'_>, Option<Instance>), Fault> {
        let mut shelf = self.shelf.lock();
        let idle = shelf.idle.pop();
        if idle.is_none() {
            if shelf.live >= self.instances_max {
                return Err(Fault::NoInstance(format!("all {} are busy", self.instances_max)));
            }
            shelf.live += 1;
        }
        Ok((Place(self), idle))
    }

    pub(super) fn live(&self) -> usize {
        self.shelf.lock().live
    }
}

/// The right to have one live instance. Whoever drops it has dropped the instance.
pub(super) struct Place<'a>(&'a Instances);

impl Place<'_> {
    /// Lays an instance aside for the next call. Returns false if it has had all its calls and is dropped instead.
    pub(super) fn keep(self, mut instance: Instance) -> bool {
        let instances = self.0;
        instance.answered += 1;
        if instance.answered >= instances.calls_max {
            return false;
        }
        // Its instance lives on.
        mem::forget(self);
        instances.shelf.lock().idle.push(instance);
        true
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.shelf.lock().live -= 1;
    }
}
