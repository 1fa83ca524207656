//! How bytes become factories: uploads and stored modules each in a queue of their own, so that nobody's uploads keep a stored
//! module from its work; and whoever wants the same stored module waits for the same load.
//!
//! ```text
//! upload --> turn of uploads --> inspect --> image? else compile --> link, describe --> prepared: nothing is written yet
//! load ----> turn of reading --> read, inspect, image? --------------> link, describe, known
//!                                              \--> turn of compiling again --> compile --^
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millstream_model::Digest;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Component;

use crate::{
    Compiler, ModuleStore, Refused, RuntimeOptions, StoreError,
    compile::{CompileError, compile, words},
    engine::{EngineMode, deserialize},
    factory::{Factory, Parts},
    ground::Ground,
    images::ImageCache,
    inspect,
    slots::Waiting,
    store::digest_of,
};

/// Most uploads that may wait for their turn. Each holds its module's bytes meanwhile.
pub(crate) const UPLOADS_WAITING_MAX: u32 = 8;
/// Stored modules that are read at one time.
const READS: usize = 2;
/// How long a compiler may take by the clock; what bounds its work is processor time.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(600);

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

/// A module that was found good and is kept nowhere yet. While it lives, it holds its turn among the uploads.
pub struct Prepared {
    factory: Arc<Factory>,
    pub(crate) bytes: Bytes,
    /// What the compiler made; none if it was on disk already.
    pub(crate) image: Option<Vec<u8>>,
    _turn: OwnedSemaphorePermit,
}

impl Prepared {
    /// The module, ready for use.
    #[must_use]
    pub fn factory(&self) -> &Arc<Factory> {
        &self.factory
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("factory", &self.factory).finish_non_exhaustive()
    }
}

type Loading = OnceCell<Result<Arc<Factory>, Arc<LoadError>>>;

/// Makes factories.
pub(crate) struct Preparer {
    ground: Arc<Ground>,
    mode: EngineMode,
    store: ModuleStore,
    images: ImageCache,
    compiler: Compiler,
    uploads: Arc<Semaphore>,
    uploads_waiting: AtomicU32,
    upload_wait: Duration,
    reads: Semaphore,
    recompiles: Semaphore,
    factories: Mutex<HashMap<Digest, Weak<Factory>>>,
    /// Loads under way. An entry lives as long as somebody waits for it: a load that failed is tried again by the next one.
    loading: Mutex<HashMap<Digest, Weak<Loading>>>,
}

impl Preparer {
    pub(crate) fn new(
        ground: Arc<Ground>,
        mode: EngineMode,
        store: ModuleStore,
        images: ImageCache,
        options: &RuntimeOptions,
    ) -> Self {
        let compiles = options.compiles.max(1) as usize;
        Self {
            ground,
            mode,
            store,
            images,
            compiler: options.compiler.clone(),
            uploads: Arc::new(Semaphore::new(compiles)),
            uploads_waiting: AtomicU32::new(0),
            upload_wait: options.upload_wait,
            reads: Semaphore::new(READS),
            recompiles: Semaphore::new(compiles),
            factories: Mutex::default(),
            loading: Mutex::default(),
        }
    }

    /// Checks, compiles, starts and describes what somebody sent. `expected`: the digest that was announced.
    pub(crate) async fn upload(&self, bytes: Bytes, expected: Option<Digest>) -> Result<Prepared, Refused> {
        let turn = self.upload_turn().await?;
        let module = bytes.clone();
        let checked = crate::blocking(&self.ground.env, "wasm-inspect", move || {
            let kinds = inspect::check(&module)?;
            let actual = digest_of(&module);
            match expected.filter(|expected| *expected != actual) {
                Some(expected) => Err(Refused::Digest { expected, actual }),
                None => Ok(Parts { digest: actual, size: module.len(), kinds }),
            }
        });
        let parts = checked.await.ok_or_else(stopped)??;
        if let Some(factory) = self.known(parts.digest) {
            return Ok(Prepared { factory, bytes, image: None, _turn: turn });
        }
        let (component, image) = match self.cached_image(parts.digest).await {
            Some(component) => (component, None),
            None => {
                let (component, image) = self.compiled(bytes.clone()).await?;
                (component, Some(image))
            }
        };
        let factory = self.described(parts, &component).await?;
        Ok(Prepared { factory, bytes, image, _turn: turn })
    }

    async fn upload_turn(&self) -> Result<OwnedSemaphorePermit, Refused> {
        if let Ok(turn) = Arc::clone(&self.uploads).try_acquire_owned() {
            return Ok(turn);
        }
        let _waiting =
            Waiting::enter(&self.uploads_waiting, UPLOADS_WAITING_MAX).map_err(|waiting| Refused::Busy { waiting })?;
        let turn = Arc::clone(&self.uploads).acquire_owned();
        match crate::within(&*self.ground.env.clock, self.upload_wait, turn).await {
            Some(turn) => turn.map_err(|_| stopped()),
            None => Err(Refused::Busy { waiting: self.uploads_waiting.load(Ordering::Relaxed) }),
        }
    }

    /// The factory of a stored module. However many ask at one time: it is loaded once, and all have the same result. If
    /// the one that loads gives up, another goes on.
    pub(crate) async fn load(&self, digest: Digest) -> Result<Arc<Factory>, Arc<LoadError>> {
        if let Some(factory) = self.known(digest) {
            return Ok(factory);
        }
        let loading = {
            let mut loading = self.loading.lock();
            match loading.get(&digest).and_then(Weak::upgrade) {
                Some(cell) => cell,
                None => {
                    loading.retain(|_, cell| cell.strong_count() > 0);
                    let cell = Arc::new(Loading::new());
                    loading.insert(digest, Arc::downgrade(&cell));
                    cell
                }
            }
        };
        loading.get_or_init(async || self.load_now(digest).await.map_err(Arc::new)).await.clone()
    }

    async fn load_now(&self, digest: Digest) -> Result<Arc<Factory>, LoadError> {
        if let Some(factory) = self.known(digest) {
            return Ok(factory);
        }
        let turn = self.reads.acquire().await.map_err(|_| stopped())?;
        let (parts, bytes) = self.read(digest).await?;
        let image = self.cached_image(digest).await;
        drop(turn);
        let component = match image {
            Some(component) => component,
            None => {
                // Read again when it is its turn: many may wait after an upgrade, and none holds its bytes meanwhile.
                drop(bytes);
                let _turn = self.recompiles.acquire().await.map_err(|_| stopped())?;
                let (_, bytes) = self.read(digest).await?;
                let (component, image) = self.compiled(bytes).await?;
                self.keep_image(digest, image).await;
                component
            }
        };
        Ok(self.described(parts, &component).await?)
    }

    /// A stored module, inspected by today's rules: this version may be stricter than the one that stored it.
    async fn read(&self, digest: Digest) -> Result<(Parts, Bytes), LoadError> {
        let store = self.store.clone();
        let work = move || {
            let bytes = store.read(digest)?;
            let kinds = inspect::check(&bytes)?;
            Ok((Parts { digest, size: bytes.len(), kinds }, bytes))
        };
        crate::blocking(&self.ground.env, "wasm-load", work).await.unwrap_or_else(|| Err(StoreError::Stopped.into()))
    }

    fn known(&self, digest: Digest) -> Option<Arc<Factory>> {
        self.factories.lock().get(&digest).and_then(Weak::upgrade)
    }

    /// Keeps an image, so that nobody waits for the compiler again.
    pub(crate) async fn keep_image(&self, digest: Digest, image: Vec<u8>) {
        let images = self.images.clone();
        let work = move || images.write(digest, &image);
        if let Some(Err(error)) = crate::blocking(&self.ground.env, "wasm-image", work).await {
            tracing::warn!(%digest, %error, "a compiled module could not be kept; it will be compiled again");
        }
    }

    /// Removes a module that nobody needs any more, and its image. Blocks. Pools of it go on.
    pub(crate) fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        self.factories.lock().remove(&digest);
        self.images.remove(digest);
        self.store.remove(digest)
    }

    /// Removes all modules that are not needed, and their images; says how many modules. Blocks.
    pub(crate) fn retain(&self, is_needed: impl Fn(Digest) -> bool) -> Result<usize, StoreError> {
        self.images.retain(&is_needed);
        let unneeded: Vec<_> = self.store.list()?.into_iter().filter(|digest| !is_needed(*digest)).collect();
        for digest in &unneeded {
            self.remove(*digest)?;
        }
        Ok(unneeded.len())
    }

    async fn cached_image(&self, digest: Digest) -> Option<Component> {
        let (images, ground) = (self.images.clone(), Arc::clone(&self.ground));
        let work = move || {
            let image = images.read(digest)?;
            // An image whose checksum is right may still be of another build of the engine.
            deserialize(&ground.engine, &image).ok()
        };
        crate::blocking(&self.ground.env, "wasm-image", work).await.flatten()
    }

    async fn compiled(&self, module: Bytes) -> Result<(Component, Vec<u8>), Refused> {
        let host = |reason: String| Refused::Compile(CompileError::Host { reason });
        let Ground { engine, env, counters, .. } = &*self.ground;
        let begun = env.clock.now();
        let compiling = compile(&self.compiler, engine, self.mode, env, module);
        let image = crate::within(&*env.clock, COMPILE_TIME_MAX, compiling).await;
        match &image {
            Some(Ok(_)) => counters.compiled.record(env.clock.now() - begun),
            _ => _ = counters.compile_failures.fetch_add(1, Ordering::Relaxed),
        }
        let image = image.ok_or_else(|| host(format!("it was not done within {COMPILE_TIME_MAX:?}")))??;
        let engine = engine.clone();
        let work = move || deserialize(&engine, &image).map(|component| (component, image));
        let loaded = crate::blocking(env, "wasm-image", work).await.ok_or_else(stopped)?;
        loaded.map_err(|error| host(format!("load the image: {}", words(&error))))
    }

    async fn described(&self, parts: Parts, component: &Component) -> Result<Arc<Factory>, Refused> {
        let digest = parts.digest;
        let factory = Arc::new(Factory::new(&self.ground, parts, component).await?);
        let mut factories = self.factories.lock();
        factories.retain(|_, factory| factory.strong_count() > 0);
        factories.insert(digest, Arc::downgrade(&factory));
        Ok(factory)
    }
}

fn stopped() -> Refused {
    Refused::Compile(CompileError::Host { reason: "the runtime was stopped".into() })
}
