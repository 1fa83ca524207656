//! The runtime: one per process. Owns the engine, the store of modules, the images and the budget of instances, and turns
//! bytes into factories.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Weak, atomic::AtomicU32},
    time::Duration,
};

use bytes::Bytes;
use millstream_env::{Env, Monotonic};
use millstream_model::Digest;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use wasmtime::component::{Component, Linker};

use crate::{
    Compiler, ModuleStore, Refused, RuntimeOptions, StoreError,
    compile::{CompileError, compile, words},
    engine::{EngineMode, PoolSize, deserialize, engine_hash, new_engine},
    factory::{Factory, Parts},
    ground::Ground,
    host::Host,
    images::ImageCache,
    inspect,
    slots::{Slots, Waiting},
    store::digest_of,
    worlds,
};

/// Most modules that may wait to be compiled.
const COMPILES_WAITING_MAX: u32 = 64;
/// How often idle instances are looked for.
const EVICT_EVERY: Duration = Duration::from_secs(5);

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

/// The host of modules. Cheap to clone; all clones are one runtime.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<RuntimeInner>,
}

struct RuntimeInner {
    ground: Arc<Ground>,
    mode: EngineMode,
    store: ModuleStore,
    images: ImageCache,
    compiler: Compiler,
    compiles: Semaphore,
    compiles_waiting: AtomicU32,
    factories: Mutex<HashMap<Digest, Weak<Factory>>>,
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
        let size = PoolSize::new(instances, options.memory_bytes);
        let mut engine = new_engine(mode, Some(size));
        if let (EngineMode::Pooling, Err(error)) = (mode, &engine) {
            why_not = Some(words(error));
            mode = EngineMode::OnDemand;
            engine = new_engine(mode, Some(size));
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
        let slots = Slots::new(instances, options.memory_bytes, options.instance_wait, Arc::clone(&env.clock));
        let inner = Arc::new(RuntimeInner {
            ground: Arc::new(Ground { engine, linker, env: env.clone(), slots: Arc::new(slots) }),
            mode,
            store,
            images,
            compiler: options.compiler,
            compiles: Semaphore::new(options.compiles.max(1) as usize),
            compiles_waiting: AtomicU32::new(0),
            factories: Mutex::default(),
        });
        let (weak, clock, idle) = (Arc::downgrade(&inner), env.clock.clone(), options.idle);
        let evict = async move {
            loop {
                clock.sleep(EVICT_EVERY.min(idle.max(Duration::from_millis(10)))).await;
                let Some(inner) = weak.upgrade() else { return };
                inner.ground.slots.evict_before(Monotonic(clock.now().0.saturating_sub(idle)));
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
        crate::blocking(&self.inner.ground.env, "wasm-store", move || store.put(&bytes))
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
        let bytes = crate::blocking(&self.inner.ground.env, "wasm-store", move || store.read(digest))
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
        crate::blocking(&self.inner.ground.env, "wasm-store", work).await.unwrap_or(Err(StoreError::Stopped))
    }
}

impl RuntimeInner {
    fn cached(&self, digest: Digest) -> Option<Arc<Factory>> {
        self.factories.lock().get(&digest).and_then(Weak::upgrade)
    }

    async fn prepare(self: &Arc<Self>, bytes: Bytes, digest: Option<Digest>) -> Result<Arc<Factory>, Refused> {
        let stopped = || CompileError::Host { reason: "the runtime was stopped".into() };
        let module = bytes.clone();
        let checked = crate::blocking(&self.ground.env, "wasm-inspect", move || {
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
        let factory = Arc::new(Factory::new(&self.ground, parts, &component).await?);
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
        let image = crate::blocking(&self.ground.env, "wasm-image", move || {
            let image = inner.images.read(digest)?;
            // An image whose checksum is right may still be of another build of the engine.
            deserialize(&inner.ground.engine, &image).ok()
        });
        if let Some(component) = image.await.flatten() {
            return Ok(component);
        }
        let image = compile(&self.compiler, &self.ground.engine, self.mode, &self.ground.env, module).await?;
        let inner = Arc::clone(self);
        let loaded = crate::blocking(&self.ground.env, "wasm-image", move || {
            if let Err(error) = inner.images.write(digest, &image) {
                tracing::warn!(%digest, %error, "a compiled module could not be kept; it will be compiled again");
            }
            deserialize(&inner.ground.engine, &image)
        });
        loaded
            .await
            .ok_or_else(|| host("the runtime was stopped".into()))?
            .map_err(|error| host(format!("load the image: {}", words(&error))))
    }
}
