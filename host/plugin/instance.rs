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
    /// Calls it has had.
    responded: u64,
    counts_fuel: bool,
    live: Live,
}

impl Instance {
    pub(super) fn new(store: Store<State>, exports: Exports, counts_fuel: bool, live: Live) -> Self {
        Self { exports, store, responded: 0, counts_fuel, live }
    }

    /// Returns the fuel that the last call has burned, if it is counted.
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

/// Returns a component's own error, fit for headers and the log.
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

/// The beginning of wasmtime's error when a guest returns more than it may; the type isn't public.
const COPIED_TOO_MUCH: &str = "too much data is being copied";

/// The instances of one generation. The one used last is used next, so that its memory is in the cache and a burst's
/// surplus stays cold.
pub(super) struct Instances {
    pool: Mutex<PoolState>,
    /// Notified when an instance was returned, or a permit became free.
    freed: Condvar,
    instances_max: usize,
    calls_max: u64,
    wait: Duration,
}

struct PoolState {
    #[expect(clippy::vec_box, reason = "an instance has hundreds of bytes; each call takes one out and lays it back")]
    idle: Vec<Box<Instance>>,
    live: usize,
    /// Whether instances that are returned are dropped.
    closed: bool,
}

impl Instances {
    /// Returns the instances of a generation, with the one that the policy was loaded with. At the limit a call waits
    /// for as long as `wait`.
    pub(super) fn new(instances_max: usize, calls_max: u64, wait: Duration, first: Box<Instance>) -> Self {
        let pool = PoolState { idle: vec![first], live: 1, closed: false };
        Self { pool: Mutex::new(pool), freed: Condvar::new(), instances_max, calls_max, wait }
    }

    /// Returns an idle instance, or none where the caller is to make one. A caller holds a thread, so there are never
    /// more callers than threads; only with fewer instances than threads does a call wait, and not for long.
    pub(super) fn take(&self) -> Result<(InstancePermit<'_>, Option<Box<Instance>>), Fault> {
        let mut pool = self.pool.lock();
        let mut until = None;
        loop {
            let idle = pool.idle.pop();
            if idle.is_some() || pool.live < self.instances_max {
                pool.live += usize::from(idle.is_none());
                return Ok((InstancePermit(self), idle));
            }
            let until = *until.get_or_insert_with(|| Instant::now() + self.wait);
            let full = |pool: &PoolState| pool.idle.is_empty() && pool.live >= self.instances_max;
            if self.freed.wait_until(&mut pool, until).timed_out() && full(&pool) {
                return Err(Fault::NoInstance(format!("all {} are busy", self.instances_max)));
            }
        }
    }

    /// Drops idle instances, and from now on those that are returned: for a generation that cools.
    pub(super) fn close(&self) {
        let mut pool = self.pool.lock();
        pool.closed = true;
        let idle = mem::take(&mut pool.idle);
        pool.live -= idle.len();
    }

    /// Keeps instances that are returned, again.
    pub(super) fn open(&self) {
        self.pool.lock().closed = false;
    }

    pub(super) fn live(&self) -> usize {
        self.pool.lock().live
    }
}

/// The right to have one live instance. It is dropped after the instance.
pub(super) struct InstancePermit<'a>(&'a Instances);

impl InstancePermit<'_> {
    /// Returns an instance to the pool for the next call. Returns false if it has had all its calls and is dropped
    /// instead.
    pub(super) fn keep(self, mut instance: Box<Instance>) -> bool {
        let instances = self.0;
        instance.responded += 1;
        if instance.responded >= instances.calls_max {
            return false;
        }
        let mut pool = instances.pool.lock();
        if !pool.closed {
            // Its instance lives on.
            mem::forget(self);
            pool.idle.push(instance);
            drop(pool);
            instances.freed.notify_one();
        }
        true
    }
}

impl Drop for InstancePermit<'_> {
    fn drop(&mut self) {
        self.0.pool.lock().live -= 1;
        self.0.freed.notify_one();
    }
}
