//! Instances of a component: calling into one, and keeping those that are idle.

use std::{
    mem,
    time::{Duration, Instant},
};

use holm_bindings::holm::policy::facts;
use parking_lot::{Condvar, Mutex};
use wasmtime::{Store, Trap};

use super::{
    exports::Exports,
    limits::{Limit, plain},
    metrics::Live,
    state::State,
};
use crate::policy::Fault;

/// One instance with a store of its own: a trap poisons a store, and memory is given back only with it.
pub(super) struct Instance {
    exports: Exports,
    store: Store<State>,
    /// Questions it has answered.
    answered: u64,
    counts_fuel: bool,
    live: Live,
}

impl Instance {
    pub(super) fn new(store: Store<State>, exports: Exports, counts_fuel: bool, live: Live) -> Self {
        Self { exports, store, answered: 0, counts_fuel, live }
    }

    /// What the last call has burned, if it is counted.
    pub(super) fn burned(&self) -> Option<u64> {
        if self.counts_fuel { self.store.get_fuel().ok().map(|left| FUEL.saturating_sub(left)) } else { None }
    }

    /// Calls into the component, under these limits.
    pub(super) fn call<T>(
        &mut self,
        limit: &Limit,
        call: impl FnOnce(&Exports, &mut Store<State>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        self.store.set_epoch_deadline(limit.ticks);
        if self.counts_fuel {
            self.store.set_fuel(FUEL).map_err(|error| fault(&error, limit, None))?;
        }
        self.store.set_hostcall_fuel(limit.copied_bytes());
        let answer = call(&self.exports, &mut self.store);
        self.live.holds(self.store.data().allowance.memory_bytes());
        answer.map_err(|error| fault(&error, limit, self.store.data().allowance.exhausted()))
    }
}

/// More than any call burns in its time.
const FUEL: u64 = 1 << 60;

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
    /// An instance was laid aside, or a place became free.
    freed: Condvar,
    instances_max: usize,
    calls_max: u64,
    wait: Duration,
}

struct Shelf {
    #[expect(clippy::vec_box, reason = "an instance has hundreds of bytes; each call takes one out and lays it back")]
    idle: Vec<Box<Instance>>,
    live: usize,
    /// Nothing is kept for later any more.
    closed: bool,
}

impl Instances {
    /// With the one that the policy was loaded with. At the limit a call waits for as long as `wait`.
    pub(super) fn new(instances_max: usize, calls_max: u64, wait: Duration, first: Box<Instance>) -> Self {
        let shelf = Shelf { idle: vec![first], live: 1, closed: false };
        Self { shelf: Mutex::new(shelf), freed: Condvar::new(), instances_max, calls_max, wait }
    }

    /// An idle instance, or none where the caller is to make one. Whoever calls holds a thread, so there are never more
    /// callers than threads; only with fewer instances than threads does anybody wait, and not for long.
    pub(super) fn take(&self) -> Result<(Place<'_>, Option<Box<Instance>>), Fault> {
        let mut shelf = self.shelf.lock();
        let mut until = None;
        loop {
            let idle = shelf.idle.pop();
            if idle.is_some() || shelf.live < self.instances_max {
                shelf.live += usize::from(idle.is_none());
                return Ok((Place(self), idle));
            }
            let until = *until.get_or_insert_with(|| Instant::now() + self.wait);
            let full = |shelf: &Shelf| shelf.idle.is_empty() && shelf.live >= self.instances_max;
            if self.freed.wait_until(&mut shelf, until).timed_out() && full(&shelf) {
                return Err(Fault::NoInstance(format!("all {} are busy", self.instances_max)));
            }
        }
    }

    /// Drops what is idle, and from now on what is laid aside: for a generation that is on its way out.
    pub(super) fn close(&self) {
        let mut shelf = self.shelf.lock();
        shelf.closed = true;
        let idle = mem::take(&mut shelf.idle);
        shelf.live -= idle.len();
    }

    /// Keeps instances again.
    pub(super) fn open(&self) {
        self.shelf.lock().closed = false;
    }

    pub(super) fn live(&self) -> usize {
        self.shelf.lock().live
    }
}

/// The right to have one live instance. Whoever drops it has dropped the instance.
pub(super) struct Place<'a>(&'a Instances);

impl Place<'_> {
    /// Lays an instance aside for the next call. Returns false if it has had all its calls and is dropped instead.
    pub(super) fn keep(self, mut instance: Box<Instance>) -> bool {
        let instances = self.0;
        instance.answered += 1;
        if instance.answered >= instances.calls_max {
            return false;
        }
        let mut shelf = instances.shelf.lock();
        if !shelf.closed {
            // Its instance lives on.
            mem::forget(self);
            shelf.idle.push(instance);
            drop(shelf);
            instances.freed.notify_one();
        }
        true
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.shelf.lock().live -= 1;
        self.0.freed.notify_one();
    }
}
