//! The sandbox itself: the engine, the modules that are loaded, and calls.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Lift, Lower};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, ResourceLimiter,
    Store, StoreContextMut, Trap, UpdateDeadline,
};

use super::abi::{self, Description, Outcome};
use super::compiled::CodeCache;
use super::epochs::{EPOCH_MS, Epochs};
use super::failure::{Bounds, Failure, InvalidModule, classify, one_line};
use super::lanes::MAX_SLOW_CALLS;
use super::limits::{MAX_WORKERS, SandboxLimits};
use super::module::{Counters, Loaded, compile, encode, link};
use super::workers::may_go_on;
use crate::protocol::catalog::Digest;
use crate::protocol::effect::{GuestSibling, Operation, View};
use crate::protocol::id::ItemKey;
use crate::reconcile::ModuleFigures;

/// How many modules a node has loaded at most. Each is some hundred kilobytes
/// of compiled code; a catalog names at most as many reconcilers.
pub const MAX_LOADED_MODULES: usize = 1024;
/// How many calls may run at once beside those of the workers: law checks, dry
/// runs. One more is [`Failure::Busy`].
const MAX_OTHER_CALLS: usize = 16;
/// A component that wit-component makes of one core module has one instance of
/// it and at most two of its own making. One that has its engine and stubs in the
/// place of what the engine would import has an instance for each stubbed
/// interface: 13 with QuickJS.
const MAX_CORE_INSTANCES: u32 = 16;
/// Such a component has a memory for its engine and empty ones for what adapts
/// the stubs: 3 with QuickJS. All of a component's memories count against one
/// limit, so more of them buy a guest nothing.
const MAX_MEMORIES: u32 = 4;
/// Tables hold the functions that a guest calls by pointer.
const MAX_TABLES: u32 = 8;
const MAX_TABLE_ELEMENTS: usize = 20_000;
/// How many epochs a call may begin in the quick lane: some 20 ms, a thousand
/// times what a fold of usual values takes.
const QUANTUM_EPOCHS: u64 = 2;
/// How many epochs go by before a call that outlasted its quantum is looked at
/// again, in case that the sandbox closes.
const LOOK_EPOCHS: u64 = 50;
/// What a result may hold beside its bytes: lengths, names, content types.
const OUTPUT_OVERHEAD_BYTES: u64 = 64 << 10;
/// What samples for the law check, a description or an error may take; a guest's
/// memory is the nearer bound.
const MAX_SAMPLES_BYTES: u64 = 16 << 20;
/// The longest content type that a view may carry: it becomes a header.
const MAX_CONTENT_TYPE_BYTES: usize = 256;

thread_local! {
    /// See [`fuel_burnt`].
    static FUEL_BURNT: Cell<u64> = const { Cell::new(0) };
}

/// What the calls that this thread made have burnt in all. A call runs on the
/// thread that makes it, so the difference over some calls is what they took.
pub fn fuel_burnt() -> u64 {
    FUEL_BURNT.get()
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("the WebAssembly engine does not start; are the limits too large for this machine?")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the folder for compiled code cannot be used")]
    Cache(#[source] io::Error),
    #[error("a thread of the sandbox does not start")]
    Thread(#[source] io::Error),
}

/// Compiles modules and calls them.
pub struct Sandbox {
    engine: Engine,
    limits: SandboxLimits,
    cache: Option<CodeCache>,
    loaded: RwLock<BTreeMap<Digest, Arc<Loaded>>>,
    pub(super) epochs: Epochs,
}

/// What a store knows of its guest: what its memories have in all, and whether
/// it asked for more than it may have.
pub(super) struct Guest {
    memory_bytes: usize,
    memory_used: usize,
    memory_denied: bool,
    /// How many epochs are left of its wall-clock backstop.
    epochs_left: u64,
    /// Whether it was told to end to make room.
    is_cut_short: bool,
}

/// Epochs that a call runs before it is looked at, of those that it has left.
fn next_look(guest: &mut Guest, epochs: u64) -> u64 {
    let epochs = epochs.clamp(1, guest.epochs_left.max(1));
    guest.epochs_left = guest.epochs_left.saturating_sub(epochs);
    epochs
}

/// What becomes of a call that runs for so long already.
fn look(mut context: StoreContextMut<'_, Guest>) -> wasmtime::Result<UpdateDeadline> {
    let guest = context.data_mut();
    if guest.epochs_left == 0 {
        return Err(Trap::Interrupt.into());
    }
    if !may_go_on() {
        guest.is_cut_short = true;
        return Err(Trap::Interrupt.into());
    }
    Ok(UpdateDeadline::Continue(next_look(guest, LOOK_EPOCHS)))
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.memory_used + desired.saturating_sub(current);
        let allowed = used <= self.memory_bytes;
        if allowed {
            self.memory_used = used;
        }
        self.memory_denied |= !allowed;
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }
}

fn engine(limits: &SandboxLimits) -> wasmtime::Result<Engine> {
    let workers = limits.worker_count().max(MAX_WORKERS);
    let calls = (workers + MAX_SLOW_CALLS + MAX_OTHER_CALLS) as u32;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls * MAX_CORE_INSTANCES)
        .total_memories(calls * MAX_MEMORIES)
        .total_tables(calls * MAX_TABLES)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_memories_per_module(1)
        .max_tables_per_module(MAX_TABLES)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_memory_size(limits.memory_bytes);

    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_init_cow(true)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        // Nobody reads them, and unwinding for them costs more than most folds.
        .wasm_backtrace_max_frames(None);
    // Threads and shared memories are not compiled in: the crate's feature
    // `threads` is off.
    Engine::new(&config)
}

impl Sandbox {
    /// A sandbox with nothing loaded. Compiled code is kept in `cache_dir`, if
    /// there is one; see `compiled.rs` for who must not write there.
    pub fn new(limits: SandboxLimits, cache_dir: Option<PathBuf>) -> Result<Self, SandboxError> {
        let engine = engine(&limits).map_err(|error| SandboxError::Engine(error.into()))?;
        let cache = cache_dir
            .map(|folder| CodeCache::open(folder, &engine))
            .transpose()
            .map_err(SandboxError::Cache)?;
        let epochs = Epochs::of(&engine).map_err(SandboxError::Thread)?;
        Ok(Sandbox {
            engine,
            limits,
            cache,
            loaded: RwLock::default(),
            epochs,
        })
    }

    /// The limits of every call.
    pub fn limits(&self) -> &SandboxLimits {
        &self.limits
    }

    /// The component that a core module with an embedded type is made into on
    /// arrival; a component stays as it is. [`Sandbox::prepare`] does this too.
    pub fn encode(&self, bytes: &[u8]) -> Result<Vec<u8>, InvalidModule> {
        encode(&self.engine, bytes)
    }

    /// Makes a module of uploaded bytes, without keeping it loaded. Blocks while
    /// it compiles (tens of milliseconds).
    pub fn prepare(&self, bytes: &[u8]) -> Result<Arc<Loaded>, InvalidModule> {
        let digest = Digest::of(bytes);
        if let Some(loaded) = self.loaded(digest) {
            return Ok(loaded);
        }
        let cached = self
            .cache
            .as_ref()
            .and_then(|cache| cache.get(&self.engine, digest));
        let component = match cached {
            Some(component) => component,
            None => {
                let component = compile(&self.engine, &encode(&self.engine, bytes)?)?;
                // What the contract refuses is not worth keeping.
                link(&self.engine, &component)?;
                if let Some(cache) = &self.cache {
                    cache.put(digest, &component);
                }
                component
            }
        };
        let (pre, exports) = link(&self.engine, &component)?;
        let mut loaded = Loaded {
            digest,
            size_bytes: bytes.len() as u64,
            description: Description {
                summary: String::new(),
                version: String::new(),
                eager: false,
            },
            pre,
            exports,
            counters: Counters::default(),
        };
        let index = loaded.exports.describe;
        let (description,) = self
            .call::<_, abi::DescribeResult>(&loaded, index, (), OUTPUT_OVERHEAD_BYTES)
            .map_err(InvalidModule::NoDescription)?;
        loaded.description = Description {
            summary: one_line(&description.summary),
            version: one_line(&description.version),
            ..description
        };
        Ok(Arc::new(loaded))
    }

    /// Makes a module of uploaded bytes and keeps it for requests. Blocks while
    /// it compiles.
    pub fn load(&self, bytes: &[u8]) -> Result<Arc<Loaded>, InvalidModule> {
        let prepared = self.prepare(bytes)?;
        let mut modules = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let room = modules.len() < MAX_LOADED_MODULES || modules.contains_key(&prepared.digest);
        if !room {
            return Err(InvalidModule::TooMany {
                limit: MAX_LOADED_MODULES,
            });
        }
        // Of two that load it at once the first stays, with its figures.
        Ok(modules.entry(prepared.digest).or_insert(prepared).clone())
    }

    /// A module that is loaded.
    pub fn loaded(&self, digest: Digest) -> Option<Arc<Loaded>> {
        let modules = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        modules.get(&digest).cloned()
    }

    /// Forgets a module that no table needs any more; calls that run go on.
    pub fn unload(&self, digest: Digest) {
        let mut modules = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        modules.remove(&digest);
    }

    /// What each loaded module has done.
    pub fn figures(&self) -> BTreeMap<Digest, ModuleFigures> {
        let modules = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let figures = modules
            .iter()
            .map(|(digest, loaded)| (*digest, loaded.figures()));
        figures.collect()
    }

    /// Calls one function in a fresh instance.
    fn call<Params, Return>(
        &self,
        loaded: &Loaded,
        index: ComponentExportIndex,
        params: Params,
        max_output_bytes: u64,
    ) -> Result<Return, Failure>
    where
        Params: ComponentNamedList + Lower,
        Return: ComponentNamedList + Lift + 'static,
    {
        let mut guest = Guest {
            memory_bytes: self.limits.memory_bytes,
            memory_used: 0,
            memory_denied: false,
            epochs_left: self.limits.deadline_ms.div_ceil(EPOCH_MS).max(1) + 1,
            is_cut_short: false,
        };
        let _in_hand = self.epochs.begin();
        let quantum = next_look(&mut guest, QUANTUM_EPOCHS);
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| guest);
        store.set_epoch_deadline(quantum);
        store.epoch_deadline_callback(look);
        let hostcall_fuel = max_output_bytes.saturating_add(OUTPUT_OVERHEAD_BYTES);
        store.set_hostcall_fuel(usize::try_from(hostcall_fuel).unwrap_or(usize::MAX));
        let run = |store: &mut Store<Guest>| {
            store.set_fuel(self.limits.fuel)?;
            let instance = loaded.pre.instantiate(&mut *store)?;
            let func = instance.get_typed_func::<Params, Return>(&mut *store, &index)?;
            func.call(&mut *store, params)
        };
        let result = run(&mut store);
        let left = store.get_fuel().unwrap_or(0);
        let burnt = self.limits.fuel.saturating_sub(left);
        let counters = &loaded.counters;
        counters.fuel.fetch_add(burnt, Ordering::Relaxed);
        counters.fuel_peak.fetch_max(burnt, Ordering::Relaxed);
        let memory_peak = store.data().memory_used as u64;
        counters
            .memory_peak
            .fetch_max(memory_peak, Ordering::Relaxed);
        FUEL_BURNT.set(FUEL_BURNT.get().wrapping_add(burnt));
        result.map_err(|error| {
            if store.data().is_cut_short {
                return Failure::Busy;
            }
            let bounds = Bounds {
                fuel: self.limits.fuel,
                deadline_ms: self.limits.deadline_ms,
                memory_bytes: self.limits.memory_bytes,
                output_bytes: max_output_bytes,
            };
            classify(&error, store.data().memory_denied, &bounds)
        })
    }

    /// Folds siblings, in the order in which they are given.
    pub fn fold(
        &self,
        loaded: &Loaded,
        call: &Call<'_>,
        siblings: &[GuestSibling],
    ) -> Result<Outcome, Failure> {
        let actors: Vec<[u8; 16]> = siblings
            .iter()
            .map(|sibling| sibling.dot.actor.to_bytes())
            .collect();
        let lowered: Vec<abi::Sibling<'_>> = siblings
            .iter()
            .zip(&actors)
            .map(|(sibling, actor)| abi::Sibling::of(sibling, actor))
            .collect();
        let (outcome,) = self.call::<abi::FoldParams<'_>, abi::FoldResult>(
            loaded,
            loaded.exports.fold,
            (call.item(), &lowered),
            call.max_output_bytes,
        )?;
        let outcome = outcome.map_err(|reason| Failure::Refused(one_line(&reason)))?;
        if let Outcome::Merged(value) = &outcome {
            call.check_size(value.len())?;
        }
        Ok(outcome)
    }

    /// Applies an operation; [`Failure::Refused`] is the module's "bad operation".
    pub fn apply(
        &self,
        loaded: &Loaded,
        call: &Call<'_>,
        state: Option<&[u8]>,
        operation: &Operation,
    ) -> Result<Bytes, Failure> {
        let exports = loaded.exports.data_type.as_ref();
        let index = exports.ok_or_else(takes_no_operations)?.apply;
        let actor = operation.dot.actor.to_bytes();
        let event = abi::Event {
            dot: abi::Dot {
                actor: &actor,
                counter: operation.dot.counter,
            },
            written_at: operation.written_at_us,
        };
        let (state,) = self.call::<abi::ApplyParams<'_>, abi::ApplyResult>(
            loaded,
            index,
            (call.item(), state, &operation.body, event),
            call.max_output_bytes,
        )?;
        let state = state.map_err(|reason| Failure::Refused(one_line(&reason)))?;
        call.check_size(state.len())?;
        Ok(state.into())
    }

    /// Renders a state for a client.
    pub fn render(
        &self,
        loaded: &Loaded,
        state: &[u8],
        max_output_bytes: u64,
    ) -> Result<View, Failure> {
        let exports = loaded.exports.data_type.as_ref();
        let index = exports.ok_or_else(takes_no_operations)?.render;
        let (view,) = self.call::<abi::RenderParams<'_>, abi::RenderResult>(
            loaded,
            index,
            (state,),
            max_output_bytes,
        )?;
        let view = view.map_err(|reason| Failure::Refused(one_line(&reason)))?;
        check_size(view.body.len(), max_output_bytes)?;
        let fits = view.content_type.len() <= MAX_CONTENT_TYPE_BYTES;
        if !fits || view.content_type.chars().any(char::is_control) {
            return Err(Failure::Malformed(
                "the view's content type is no header".to_owned(),
            ));
        }
        Ok(View {
            body: view.body.into(),
            content_type: view.content_type.into(),
        })
    }

    /// The module's own sample values: none when it makes none.
    pub fn samples(
        &self,
        loaded: &Loaded,
        seed: u64,
        count: u32,
    ) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let index = loaded.exports.generate;
        index
            .map(|index| self.generate(loaded, index, seed, count))
            .transpose()
    }

    /// The module's own sample operations: none when it takes none.
    pub fn operations(
        &self,
        loaded: &Loaded,
        seed: u64,
        count: u32,
    ) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let exports = loaded.exports.data_type.as_ref();
        exports
            .map(|exports| self.generate(loaded, exports.operations, seed, count))
            .transpose()
    }

    fn generate(
        &self,
        loaded: &Loaded,
        index: ComponentExportIndex,
        seed: u64,
        count: u32,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        let params: abi::GenerateParams = (seed, count);
        let (samples,) =
            self.call::<_, abi::GenerateResult>(loaded, index, params, MAX_SAMPLES_BYTES)?;
        Ok(samples)
    }

    /// Makes an instance and calls `describe`: what a call costs before any
    /// merging. For the bench.
    pub fn describe(&self, loaded: &Loaded) -> Result<Description, Failure> {
        let index = loaded.exports.describe;
        let result = self.call::<_, abi::DescribeResult>(loaded, index, (), OUTPUT_OVERHEAD_BYTES);
        result.map(|(description,)| description)
    }
}

fn takes_no_operations() -> Failure {
    Failure::Malformed("the module is no data type: it takes no operations".to_owned())
}

fn check_size(size: usize, limit_bytes: u64) -> Result<(), Failure> {
    if size as u64 > limit_bytes {
        return Err(Failure::OutputTooLarge { limit_bytes });
    }
    Ok(())
}

/// What every call about an item has in common.
pub struct Call<'a> {
    table: &'a str,
    partition_key: Vec<u8>,
    sort_key: Option<Vec<u8>>,
    max_output_bytes: u64,
}

impl<'a> Call<'a> {
    /// A call about this item of the table with this name.
    pub fn new(table: &'a str, key: &ItemKey, max_output_bytes: u64) -> Self {
        let (_, partition_key, sort_key) = key.parts();
        Call {
            table,
            partition_key,
            sort_key,
            max_output_bytes,
        }
    }

    fn item(&self) -> abi::Item<'_> {
        abi::Item {
            table: self.table,
            partition_key: &self.partition_key,
            sort_key: self.sort_key.as_deref(),
        }
    }

    fn check_size(&self, size: usize) -> Result<(), Failure> {
        check_size(size, self.max_output_bytes)
    }
}
