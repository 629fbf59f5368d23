//! The engine that all policies of a process share: the compiler, the memory of their instances, and the clock that
//! ends calls.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
};

use parking_lot::{Mutex, RwLock};
use tracing::warn;
use wasmtime::{Config, OptLevel, PoolingAllocationConfig, component::Component};

use super::{
    compiled::{self, Compiled},
    error::{Error, Refusal, one_line},
    limits::{TABLE_ELEMENTS_MAX, TICK},
};

/// The WebAssembly engine of a process.
pub struct Engine {
    wasm: wasmtime::Engine,
    /// The latest components by digest: a policy whose configuration or limits changed is not compiled again.
    compiled: Mutex<VecDeque<(blake3::Hash, Component)>>,
    /// The compiled components on disk.
    kept: Option<Compiled>,
    ticker: Arc<Ticker>,
    fuel: bool,
    /// The node's pools, where there is a node: policies may read the state of these.
    pools: RwLock<Option<Arc<[String]>>>,
}

/// The limits of the instances of all policies together.
#[derive(Clone, Debug)]
pub struct EngineLimits {
    /// Live instances of one generation of each policy.
    pub instances_max: usize,
    /// Linear memory of one instance in bytes; at least that of the policy with the most.
    pub memory_bytes_max: usize,
    /// The directory of compiled components. A checksum detects damaged ones, not forged ones.
    pub cache_dir: Option<PathBuf>,
    /// Bytes of compiled components that are stored there; past it those used least recently are deleted.
    pub cache_bytes_max: u64,
    /// Whether to count the fuel of calls, about one per instruction. It costs a tenth to a quarter of their time: for
    /// measuring.
    pub fuel: bool,
}

impl Engine {
    /// Reserves address space for all instances and starts the clock.
    ///
    /// # Errors
    /// The machine isn't one that wasmtime supports, has no more threads, or the directory of compiled components can't
    /// be made.
    pub fn new(limits: &EngineLimits) -> Result<Arc<Self>, Error> {
        let open = |dir: &PathBuf| {
            let opened = Compiled::open(dir, limits.cache_bytes_max);
            opened.map_err(|reason| Error::CacheDir { dir: dir.display().to_string(), reason })
        };
        let kept = limits.cache_dir.as_ref().map(open).transpose()?;
        let wasm = wasm_engine(limits).map_err(|error| Error::Engine(one_line(&error)))?;
        let ticker = Ticker::start(wasm.clone()).map_err(Error::Ticker)?;
        Ok(Arc::new(Self {
            wasm,
            compiled: Mutex::default(),
            kept,
            ticker,
            fuel: limits.fuel,
            pools: RwLock::default(),
        }))
    }

    /// Sets the names of the node's pools. Policies that are loaded from then on may read the state of no others;
    /// without it, as at the workbench, of any.
    pub fn set_pools<'n>(&self, names: impl Iterator<Item = &'n String>) {
        *self.pools.write() = Some(names.cloned().collect());
    }

    /// Returns the node's pools, if they are known.
    pub(super) fn pools(&self) -> Option<Arc<[String]>> {
        self.pools.read().clone()
    }

    /// Keeps the clock running until the returned guard is dropped. It is held while a guest runs.
    pub(super) fn watch(&self) -> Watched<'_> {
        self.ticker.calls.fetch_add(1, Ordering::SeqCst);
        if self.ticker.asleep.load(Ordering::SeqCst) {
            self.ticker.wake();
        }
        Watched(&self.ticker)
    }

    /// Whether fuel is counted.
    pub(super) const fn counts_fuel(&self) -> bool {
        self.fuel
    }

    pub(super) const fn wasm(&self) -> &wasmtime::Engine {
        &self.wasm
    }

    /// Compiles a component, one at a time, on all cores.
    pub(super) fn compile(&self, bytes: &[u8]) -> Result<Component, Refusal> {
        let digest = blake3::hash(bytes);
        let mut compiled = self.compiled.lock();
        if let Some((_, component)) = compiled.iter().find(|(known, _)| *known == digest) {
            return Ok(component.clone());
        }
        let component = self.kept_or_compiled(bytes, &digest)?;
        compiled.truncate(COMPILED_MAX - 1);
        compiled.push_front((digest, component.clone()));
        Ok(component)
    }

    fn kept_or_compiled(&self, bytes: &[u8], digest: &blake3::Hash) -> Result<Component, Refusal> {
        let compile =
            || Component::from_binary(&self.wasm, bytes).map_err(|error| Refusal::NotAComponent(one_line(&error)));
        let Some(kept) = &self.kept else { return compile() };
        let name = compiled::name(&self.wasm, digest);
        if let Some(component) = kept.load(&self.wasm, &name) {
            return Ok(component);
        }
        let component = compile()?;
        kept.store(&name, &component);
        Ok(component)
    }
}

/// Compiled components that are kept beside those in use: for a change of configuration, not of components.
const COMPILED_MAX: usize = 2;

/// A component of a language with a runtime of its own is made of dozens of core modules.
const CORE_INSTANCES_PER_INSTANCE: u32 = 50;
const TABLES_PER_INSTANCE: u32 = 8;
const MEMORIES_PER_INSTANCE: u32 = 2;
/// Places of instances that are gone which keep the image of their component's memory mapped. Instances are kept, not
/// made anew for each call, so that more would only be the traces of old generations.
const WARM_SLOTS_MAX: u32 = 8;
/// Bytes of a memory that are zeroed by `memset` instead of given back to the system when an instance ends: most are
/// smaller.
const MEMORY_KEPT_BYTES: usize = 64 << 10;
const TABLE_KEPT_BYTES: usize = 16 << 10;
/// Generations that have instances at once: the active one, one on trial, one that cools.
const GENERATIONS_AT_ONCE: usize = 3;
/// The least that is reserved for a memory: only addresses, and a policy that is loaded later may need more than those
/// at the start.
const MEMORY_BYTES_LEAST: usize = 64 << 20;
/// The bytes that 32 bits can address.
const MEMORY_BYTES_LIMIT: usize = 4 << 30;
const INSTANCE_BYTES_MAX: usize = 16 << 20;

fn wasm_engine(limits: &EngineLimits) -> wasmtime::Result<wasmtime::Engine> {
    let mut pooled = base(limits);
    pooled.allocation_strategy(pool(limits));
    wasmtime::Engine::new(&pooled).or_else(|error| {
        let error = one_line(&error);
        warn!(error, "no address space for a pool of policy instances; each is allocated when it is made");
        wasmtime::Engine::new(&base(limits))
    })
}

fn base(limits: &EngineLimits) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.concurrency_support(false);
    config.epoch_interruption(true);
    config.consume_fuel(limits.fuel);
    config.cranelift_opt_level(OptLevel::Speed);
    config
}

fn pool(limits: &EngineLimits) -> PoolingAllocationConfig {
    let instances = limits.instances_max.max(1).saturating_mul(GENERATIONS_AT_ONCE);
    let instances = u32::try_from(instances).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances);
    pool.total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_INSTANCE));
    pool.total_memories(instances.saturating_mul(MEMORIES_PER_INSTANCE));
    pool.total_tables(instances.saturating_mul(TABLES_PER_INSTANCE));
    pool.max_component_instance_size(INSTANCE_BYTES_MAX);
    pool.max_core_instance_size(INSTANCE_BYTES_MAX);
    pool.max_memory_size(limits.memory_bytes_max.clamp(MEMORY_BYTES_LEAST, MEMORY_BYTES_LIMIT));
    pool.table_elements(TABLE_ELEMENTS_MAX);
    pool.max_unused_warm_slots(WARM_SLOTS_MAX);
    pool.linear_memory_keep_resident(MEMORY_KEPT_BYTES);
    pool.table_keep_resident(TABLE_KEPT_BYTES);
    pool
}

/// The clock that ends calls: a thread that counts ticks while guests run, and sleeps while none has for a while, so
/// that a node whose policies are recipes is not woken a thousand times a second.
struct Ticker {
    calls: AtomicUsize,
    asleep: AtomicBool,
    ended: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

/// Ticks without a guest after which the clock sleeps.
const IDLE_TICKS: u32 = 64;

impl Ticker {
    fn start(engine: wasmtime::Engine) -> io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            calls: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        let own = Arc::clone(&ticker);
        let thread = thread::Builder::new().name("holm-policy-clock".to_owned()).spawn(move || own.run(&engine))?;
        *ticker.thread.lock() = Some(thread.thread().clone());
        Ok(ticker)
    }

    /// Counts ticks. One that comes late is not made up for: on a machine that is short of time, so is the policy.
    fn run(&self, engine: &wasmtime::Engine) {
        let mut idle = 0;
        while !self.ended.load(Ordering::SeqCst) {
            if idle < IDLE_TICKS {
                thread::park_timeout(TICK);
                engine.increment_epoch();
            } else {
                self.asleep.store(true, Ordering::SeqCst);
                // A call that began before the clock was marked asleep is seen here; one that begins later wakes it.
                if self.calls.load(Ordering::SeqCst) == 0 {
                    thread::park();
                }
                self.asleep.store(false, Ordering::SeqCst);
                idle = 0;
            }
            idle = if self.calls.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
        }
    }

    fn wake(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.unpark();
        }
    }
}

/// A guard while a guest is running.
pub(super) struct Watched<'e>(&'e Ticker);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.ticker.ended.store(true, Ordering::SeqCst);
        self.ticker.wake();
    }
}
