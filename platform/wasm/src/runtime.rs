//! The runtime: one per process. Owns the engine, the store of modules, the images and the budget of instances, and turns
//! bytes into factories.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    io,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millstream_env::{Env, Monotonic};
use millstream_model::Digest;
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    component::{Component, Linker},
};

use crate::{
    CallError, Compiler, ModuleStore, Refused, StoreError,
    compile::{CompileError, ImageCache, compile, words},
    factory::{Factory, Parts},
    host::{Host, HostState},
    inspect,
    limits::{CORE_INSTANCES_MAX, MEMORY_BYTES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX, operator_costs},
    pool::PoolInner,
    store::digest_of,
    worlds,
};

/// Address space of one memory slot with its guard, bytes: what the engine reserves so that no access needs a check.
const SLOT_BYTES: u64 = (4 << 30) + (32 << 20);
/// Mappings of one instance at work, as counted by `vm.max_map_count`.
const MAPPINGS_PER_INSTANCE: u64 = 8;
/// Stack of a guest, bytes.
const STACK_BYTES: usize = 512 << 10;
/// Stack on which a guest and the host functions that it calls run, bytes.
const FIBER_BYTES: usize = 1 << 20;
/// Most modules that may wait to be compiled.
const COMPILES_WAITING_MAX: u32 = 64;
/// How often idle instances are looked for.
const EVICT_EVERY: Duration = Duration::from_secs(5);

/// How the runtime is set up.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// The data directory: modules go to `modules/`, images to `images/` below it.
    pub dir: PathBuf,
    /// Who compiles.
    pub compiler: Compiler,
    /// Most instances of all modules together.
    pub instances_max: u32,
    /// Modules that are compiled at one time.
    pub compiles: u32,
    /// An instance that was not used for so long is given up.
    pub idle: Duration,
}

impl RuntimeOptions {
    /// The broker's settings for a data directory: the compiler is a child process of this executable.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            compiler: Compiler::this_executable(),
            instances_max: 256,
            compiles: 1,
            idle: Duration::from_secs(60),
        }
    }
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine could not be made.
    #[error("the WebAssembly engine could not be made: {reason}")]
    Engine {
        /// The engine's words.
        reason: String,
    },
    /// The modules could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The images could not be opened.
    #[error("the directory of compiled modules {dir}: {source}")]
    Images {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Why a stored module could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not there or damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is there, but this version of the broker does not take it any more, or it could not be compiled again.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// How memory is laid out. Part of what an image is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineMode {
    /// Slots of 4 GiB of address space, reserved at the start: no bounds checks, instances in microseconds.
    Pooling,
    /// Memories as they are needed: for processes whose address space is limited. Slower.
    OnDemand,
}

impl EngineMode {
    /// The mode's name, as the compiler takes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pooling => "pooling",
            Self::OnDemand => "on-demand",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Pooling, Self::OnDemand].into_iter().find(|mode| mode.as_str() == name)
    }

    /// What this process can do for so many instances, and why not more.
    fn for_process(instances_max: u32) -> (Self, Option<String>) {
        let need = u64::from(instances_max) * SLOT_BYTES;
        if let Some(limit) = getrlimit(Resource::As).current
            && limit < need
        {
            return (Self::OnDemand, Some(format!("the address space is limited to {limit} bytes (ulimit -v)")));
        }
        let number = |path| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if number("/proc/sys/vm/overcommit_memory") == Some(2) {
            return (Self::OnDemand, Some("memory is not overcommitted (vm.overcommit_memory = 2)".into()));
        }
        match number("/proc/sys/vm/max_map_count") {
            Some(limit) if limit < u64::from(instances_max) * MAPPINGS_PER_INSTANCE => {
                (Self::OnDemand, Some(format!("a process may have only {limit} mappings (vm.max_map_count)")))
            }
            _ => (Self::Pooling, None),
        }
    }
}

/// An engine with the settings of the contract. `instances_max`: how many instances it can hold; none for a compiler, which
/// holds none and reserves nothing. Engines of one mode take each other's images.
pub(crate) fn new_engine(mode: EngineMode, instances_max: Option<u32>) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .consume_fuel(true)
        .operator_cost(operator_costs())
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .memory_init_cow(true)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(FIBER_BYTES)
        .wasm_features(inspect::FEATURES.complement(), false)
        .wasm_features(inspect::FEATURES, true);
    match mode {
        EngineMode::Pooling => config.memory_reservation(4 << 30).memory_guard_size(32 << 20),
        EngineMode::OnDemand => config
            .memory_reservation(0)
            .memory_guard_size(64 << 10)
            .memory_reservation_for_growth(1 << 20)
            .memory_may_move(true),
    };
    if let (EngineMode::Pooling, Some(instances)) = (mode, instances_max) {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(instances)
            .total_core_instances(instances.saturating_mul(CORE_INSTANCES_MAX))
            .total_memories(instances)
            .total_tables(instances.saturating_mul(TABLES_MAX as u32))
            .total_stacks(instances)
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .max_memories_per_component(1)
            .max_memories_per_module(1)
            .max_tables_per_component(TABLES_MAX as u32)
            .max_tables_per_module(TABLES_MAX as u32)
            .table_elements(TABLE_ELEMENTS_MAX)
            .max_memory_size(MEMORY_BYTES_MAX)
            .linear_memory_keep_resident(2 << 20)
            .table_keep_resident(64 << 10)
            .pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    } else {
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    }
    Engine::new(&config)
}

/// Says which engines take each other's images: wasmtime's version, the settings and the machine.
pub(crate) fn engine_hash(engine: &Engine) -> Digest {
    struct Sum(Sha256);
    impl Hasher for Sum {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut sum = Sum(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut sum);
    Digest(sum.0.finalize().into())
}

/// The host of modules. Cheap to clone; all clones are one runtime.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<RuntimeInner>,
}

pub(crate) struct RuntimeInner {
    pub(crate) engine: Engine,
    pub(crate) env: Env,
    mode: EngineMode,
    linker: Linker<HostState>,
    store: ModuleStore,
    images: ImageCache,
    compiler: Compiler,
    compiles: Semaphore,
    compiles_waiting: AtomicU32,
    factories: Mutex<HashMap<Digest, Weak<Factory>>>,
    slots: Arc<Semaphore>,
    /// Calls that wait for a slot because other pools hold them all.
    slots_wanted: AtomicUsize,
    pools: Mutex<Vec<Weak<PoolInner>>>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("mode", &self.inner.mode).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Makes the engine and opens the modules. Falls back to memories on demand, with a warning, where the process cannot
    /// reserve a pool. Blocks for the disk.
    ///
    /// # Errors
    /// [`RuntimeError`].
    pub fn new(options: RuntimeOptions, env: Env) -> Result<Self, RuntimeError> {
        let instances = options.instances_max.max(1);
        let (mut mode, mut why_not) = EngineMode::for_process(instances);
        let mut engine = new_engine(mode, Some(instances));
        if let (EngineMode::Pooling, Err(error)) = (mode, &engine) {
            why_not = Some(words(error));
            mode = EngineMode::OnDemand;
            engine = new_engine(mode, Some(instances));
        }
        if let Some(reason) = why_not {
            tracing::warn!(reason, "modules run without a pool of memories, which is slower");
        }
        let failed = |error: &wasmtime::Error| RuntimeError::Engine { reason: words(error) };
        let engine = engine.map_err(|error| failed(&error))?;
        let store = ModuleStore::open(&options.dir.join("modules"), &env)?;
        let dir = options.dir.join("images");
        let images = ImageCache::open(&dir, engine_hash(&engine), &env)
            .map_err(|source| RuntimeError::Images { dir, source })?;
        let mut linker = Linker::new(&engine);
        worlds::mapper::Mapper::add_to_linker::<_, Host>(&mut linker, |state| state).map_err(|error| failed(&error))?;
        let inner = Arc::new(RuntimeInner {
            engine,
            mode,
            linker,
            store,
            images,
            compiler: options.compiler,
            compiles: Semaphore::new(options.compiles.max(1) as usize),
            compiles_waiting: AtomicU32::new(0),
            factories: Mutex::default(),
            slots: Arc::new(Semaphore::new(instances as usize)),
            slots_wanted: AtomicUsize::new(0),
            pools: Mutex::default(),
            env: env.clone(),
        });
        let (weak, clock, idle) = (Arc::downgrade(&inner), env.clock.clone(), options.idle);
        let evict = async move {
            loop {
                clock.sleep(EVICT_EVERY.min(idle.max(Duration::from_millis(10)))).await;
                let Some(inner) = weak.upgrade() else { return };
                inner.evict_before(Monotonic(clock.now().0.saturating_sub(idle)));
            }
        };
        env.spawn.spawn("wasm-evict", Box::pin(evict));
        Ok(Self { inner })
    }

    /// How memory is laid out in this process.
    #[must_use]
    pub fn mode(&self) -> EngineMode {
        self.inner.mode
    }

    /// The modules on disk.
    #[must_use]
    pub fn store(&self) -> &ModuleStore {
        &self.inner.store
    }

    /// Checks, compiles, starts and describes a module, without storing it.
    ///
    /// Dropping the future stops the work, the compiler's process included.
    ///
    /// # Errors
    /// [`Refused`] says what is wrong with the module.
    pub async fn prepare(&self, bytes: Bytes) -> Result<Arc<Factory>, Refused> {
        self.inner.prepare(bytes, None).await
    }

    /// As [`Runtime::prepare`], then stores the module: it is durable when this returns. Pushing what is there already is
    /// cheap and legal. `expected`: the digest that the client computed.
    ///
    /// # Errors
    /// [`Refused`]; nothing was stored.
    pub async fn push(&self, bytes: Bytes, expected: Option<Digest>) -> Result<Arc<Factory>, Refused> {
        let actual = digest_of(&bytes);
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(Refused::Digest { expected, actual });
        }
        let factory = self.inner.prepare(bytes.clone(), None).await?;
        let store = self.inner.store.clone();
        crate::blocking(&self.inner.env, "wasm-store", move || store.put(&bytes))
            .await
            .unwrap_or(Err(StoreError::Stopped))?;
        Ok(factory)
    }

    /// The factory of a stored module: from memory, from its image, or compiled again (after an upgrade of the broker).
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, digest: Digest) -> Result<Arc<Factory>, LoadError> {
        if let Some(factory) = self.inner.cached(digest) {
            return Ok(factory);
        }
        let store = self.inner.store.clone();
        let bytes = crate::blocking(&self.inner.env, "wasm-store", move || store.read(digest))
            .await
            .unwrap_or(Err(StoreError::Stopped))?;
        Ok(self.inner.prepare(bytes, Some(digest)).await?)
    }

    /// Removes a stored module and its image. Pools of it go on.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.inner);
        inner.factories.lock().remove(&digest);
        let work = move || {
            inner.images.remove(digest);
            inner.store.remove(digest)
        };
        crate::blocking(&self.inner.env, "wasm-store", work).await.unwrap_or(Err(StoreError::Stopped))
    }
}

impl RuntimeInner {
    fn cached(&self, digest: Digest) -> Option<Arc<Factory>> {
        self.factories.lock().get(&digest).and_then(Weak::upgrade)
    }

    async fn prepare(self: &Arc<Self>, bytes: Bytes, digest: Option<Digest>) -> Result<Arc<Factory>, Refused> {
        let stopped = || CompileError::Host { reason: "the runtime was stopped".into() };
        let module = bytes.clone();
        let checked = crate::blocking(&self.env, "wasm-inspect", move || {
            let kinds = inspect::check(&module)?;
            Ok::<_, Refused>((kinds, digest.unwrap_or_else(|| digest_of(&module))))
        });
        let (kinds, digest) = checked.await.ok_or_else(stopped)??;
        if let Some(factory) = self.cached(digest) {
            return Ok(factory);
        }
        let _permit = self.compile_permit().await?;
        // Somebody else may have made it meanwhile.
        if let Some(factory) = self.cached(digest) {
            return Ok(factory);
        }
        let size = bytes.len();
        let component = self.component(digest, bytes).await?;
        let parts = Parts { digest, size, kinds };
        let factory = Arc::new(Factory::new(self, parts, &component).await?);
        let mut factories = self.factories.lock();
        factories.retain(|_, factory| factory.strong_count() > 0);
        factories.insert(digest, Arc::downgrade(&factory));
        Ok(factory)
    }

    async fn compile_permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Refused> {
        let _waiting = Waiting::enter(&self.compiles_waiting, COMPILES_WAITING_MAX)
            .map_err(|waiting| Refused::Busy { waiting })?;
        self.compiles.acquire().await.map_err(|_| Refused::Busy { waiting: 0 })
    }

    /// The compiled component, from its image or from the compiler.
    async fn component(self: &Arc<Self>, digest: Digest, module: Bytes) -> Result<Component, Refused> {
        let host = |reason: String| Refused::Compile(CompileError::Host { reason });
        let inner = Arc::clone(self);
        let image = crate::blocking(&self.env, "wasm-image", move || {
            let image = inner.images.read(digest)?;
            // An image whose checksum is right may still be of another build of the engine.
            deserialize(&inner.engine, &image).ok()
        });
        if let Some(component) = image.await.flatten() {
            return Ok(component);
        }
        let image = compile(&self.compiler, &self.engine, self.mode, &self.env, module).await?;
        let inner = Arc::clone(self);
        let loaded = crate::blocking(&self.env, "wasm-image", move || {
            if let Err(error) = inner.images.write(digest, &image) {
                tracing::warn!(%digest, %error, "a compiled module could not be kept; it will be compiled again");
            }
            deserialize(&inner.engine, &image)
        });
        loaded
            .await
            .ok_or_else(|| host("the runtime was stopped".into()))?
            .map_err(|error| host(format!("load the image: {}", words(&error))))
    }

    pub(crate) fn linker(&self) -> &Linker<HostState> {
        &self.linker
    }

    pub(crate) fn register(&self, pool: &Arc<PoolInner>) {
        let mut pools = self.pools.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    /// Waits for the right to have one more instance. Gives up idle instances of other pools where that is needed.
    pub(crate) async fn slot(&self) -> Result<OwnedSemaphorePermit, CallError> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        // Counted before looking: whoever returns an instance either sees the count or has its instance seen.
        self.slots_wanted.fetch_add(1, Ordering::SeqCst);
        let wanted = Wanted(&self.slots_wanted);
        self.evict_one();
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        drop(wanted);
        slot.map_err(|_| CallError::Host { reason: "the runtime was stopped".into() })
    }

    /// Called when a pool has put an instance aside: gives it up again if another pool waits for a slot.
    pub(crate) fn returned(&self) {
        if self.slots_wanted.load(Ordering::SeqCst) > 0 {
            self.evict_one();
        }
    }

    fn live_pools(&self) -> Vec<Arc<PoolInner>> {
        self.pools.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn evict_one(&self) {
        let oldest = self.live_pools().into_iter().filter_map(|pool| Some((pool.oldest_idle()?, pool)));
        if let Some((_, pool)) = oldest.min_by_key(|(at, _)| *at) {
            pool.evict_oldest();
        }
    }

    fn evict_before(&self, deadline: Monotonic) {
        for pool in self.live_pools() {
            pool.evict_before(deadline);
        }
    }
}

struct Wanted<'a>(&'a AtomicUsize);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A place in a bounded queue; left on drop.
pub(crate) struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    /// # Errors
    /// The number of those who wait, when that is `max` already.
    pub(crate) fn enter(count: &'a AtomicU32, max: u32) -> Result<Self, u32> {
        count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| (waiting < max).then_some(waiting + 1))
            .map(|_| Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Loads native code.
#[expect(unsafe_code, reason = "the one way to load an image; see the comment")]
fn deserialize(engine: &Engine, image: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the image came from our own compiler, either this moment or by way of a private directory and a checksum over
    // the image, the engine and the module (`ImageCache::read`). Nothing that a client sent gets here. The engine itself
    // refuses images of other versions and settings.
    unsafe { Component::deserialize(engine, image) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The compiler's process reserves no pool; its images must fit all the same.
    #[test]
    fn a_compiler_and_a_runtime_of_one_mode_have_the_same_hash() {
        let hash = |mode, instances| engine_hash(&new_engine(mode, instances).unwrap());
        assert_eq!(hash(EngineMode::Pooling, None), hash(EngineMode::Pooling, Some(4)));
        assert_eq!(hash(EngineMode::OnDemand, None), hash(EngineMode::OnDemand, Some(4)));
        assert_ne!(hash(EngineMode::Pooling, None), hash(EngineMode::OnDemand, None));
    }

    #[test]
    fn a_queue_takes_no_more_than_it_may() {
        let count = AtomicU32::new(0);
        let first = Waiting::enter(&count, 1).unwrap();
        assert_eq!(Waiting::enter(&count, 1).err(), Some(1));
        drop(first);
        Waiting::enter(&count, 1).unwrap();
    }
}
