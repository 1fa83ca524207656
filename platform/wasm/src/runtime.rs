//! The runtime: one per process. Owns the engine, the store of modules, the images and the budget of instances.

use std::{collections::HashSet, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_env::{Env, Monotonic};
use millstream_model::Digest;
use wasmtime::component::Linker;

use crate::{
    Factory, LoadError, ModuleStore, Prepared, Refused, RuntimeOptions, StoreError,
    compile::words,
    engine::{EngineMode, PoolSize, engine_hash, new_engine},
    ground::Ground,
    host::Host,
    images::ImageCache,
    metrics::Counters,
    prepare::Preparer,
    slots::Slots,
    worlds,
};

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

/// The host of modules. Cheap to clone; all clones are one runtime.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<RuntimeInner>,
}

struct RuntimeInner {
    ground: Arc<Ground>,
    mode: EngineMode,
    store: ModuleStore,
    preparer: Preparer,
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
        let hash = engine_hash(&engine);
        let (store, images) = match &options.dir {
            Some(top) => {
                let (store, dir) = (ModuleStore::open(&top.join("modules"), &env)?, top.join("images"));
                let images = ImageCache::open(&dir, hash, &env);
                (store, images.map_err(|source| RuntimeError::Images { dir, source })?)
            }
            None => (ModuleStore::nowhere(&env), ImageCache::nowhere(hash, &env)),
        };
        let mut linker = Linker::new(&engine);
        worlds::mapper::Mapper::add_to_linker::<_, Host>(&mut linker, |state| state).map_err(|error| failed(&error))?;
        let slots = Slots::new(instances, options.memory_bytes, options.instance_wait, Arc::clone(&env.clock));
        let (slots, counters) = (Arc::new(slots), Counters::default());
        let ground = Arc::new(Ground { engine, linker, env: env.clone(), slots, counters });
        let preparer = Preparer::new(Arc::clone(&ground), mode, store.clone(), images, &options);
        let inner = Arc::new(RuntimeInner { ground, mode, store, preparer });
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

    pub(crate) fn ground(&self) -> &Ground {
        &self.inner.ground
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

    /// Checks, compiles, starts and describes a module. Nothing of it is written: see [`Runtime::keep`]. `expected`: the
    /// digest that the client computed.
    ///
    /// Dropping the future stops the work, the compiler's process included.
    ///
    /// # Errors
    /// [`Refused`] says what is wrong with the module.
    pub async fn prepare(&self, bytes: Bytes, expected: Option<Digest>) -> Result<Prepared, Refused> {
        self.inner.preparer.upload(bytes, expected).await
    }

    /// Stores a prepared module: it is durable when this returns. Storing what is there already is cheap and legal.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored.
    pub async fn keep(&self, prepared: Prepared) -> Result<Arc<Factory>, StoreError> {
        let factory = Arc::clone(prepared.factory());
        let Prepared { bytes, image, .. } = prepared;
        let store = self.inner.store.clone();
        self.blocking(move || store.put(&bytes)).await?;
        if let Some(image) = image {
            self.inner.preparer.keep_image(factory.digest(), image).await;
        }
        Ok(factory)
    }

    /// [`Runtime::prepare`] and [`Runtime::keep`] in one.
    ///
    /// # Errors
    /// [`Refused`]; nothing was stored.
    pub async fn push(&self, bytes: Bytes, expected: Option<Digest>) -> Result<Arc<Factory>, Refused> {
        let prepared = self.prepare(bytes, expected).await?;
        Ok(self.keep(prepared).await?)
    }

    /// The factory of a stored module: from memory, from its image, or compiled again (after an upgrade of the broker).
    /// All who ask at one time wait for one load and have its result.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, digest: Digest) -> Result<Arc<Factory>, Arc<LoadError>> {
        self.inner.preparer.load(digest).await
    }

    /// Removes a stored module and its image. Pools of it go on.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.inner);
        self.blocking(move || inner.preparer.remove(digest)).await
    }

    /// Removes all stored modules but `needed`, and their images; says how many there were. For the start, when no module
    /// is being stored: what an interrupted or refused upload left behind goes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn retain(&self, needed: HashSet<Digest>) -> Result<usize, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.blocking(move || inner.preparer.retain(|digest| needed.contains(&digest))).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        crate::blocking(&self.inner.ground.env, "wasm-store", work).await.unwrap_or(Err(StoreError::Stopped))
    }
}
