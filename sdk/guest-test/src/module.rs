//! A module under test: loaded, given its parameters, called.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::ModuleKind;
use millstream_wasm::{
    CallError, Compiler, Declarations, Factory, Freshness, InitParams, Limits, LogLine, Pool, PoolOptions, Refused,
    Runtime, RuntimeError, RuntimeOptions, WrongKind,
    frame::{FrameError, FrameOptions, OutputRules},
};

use crate::record::{Output, Record, frame, outputs};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read, or there is nowhere to put compiled code.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The engine could not be made.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A broker would refuse the module.
    #[error("a broker would refuse {path}: {refused}")]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        refused: Refused,
    },
    /// The module is of another kind.
    #[error(transparent)]
    Kind(#[from] WrongKind),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The records of the test do not fit into a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A module loaded from a file.
pub struct Module {
    factory: Arc<Factory>,
    // Compiled code is kept there while the module is being loaded.
    _dir: tempfile::TempDir,
}

impl Module {
    /// Loads a component, as a broker does at a push. Needs a tokio runtime. The compiler runs in this process, without the
    /// broker's bounds on its time and memory.
    ///
    /// # Errors
    /// [`Error::Refused`] says what a broker would say.
    pub async fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = |source| Error::File { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(file)?;
        Self::from_bytes(path, bytes.into()).await
    }

    /// As [`Module::load`], from memory; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub async fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self, Error> {
        let dir = tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
        let mut options = RuntimeOptions::new(dir.path());
        options.compiler = Compiler::InProcess;
        options.instances_max = 8;
        let runtime = Runtime::new(options, millstream_env::real::env())?;
        let prepared = runtime.prepare(bytes, None).await;
        let prepared = prepared.map_err(|refused| Error::Refused { path: path.to_owned(), refused })?;
        Ok(Self { factory: Arc::clone(prepared.factory()), _dir: dir })
    }

    /// What it can be used for.
    #[must_use]
    pub fn kinds(&self) -> &[ModuleKind] {
        self.factory.kinds()
    }

    /// What it says of itself.
    #[must_use]
    pub fn declarations(&self) -> &Declarations {
        self.factory.declarations()
    }

    /// Begins to open it for one use; [`Open::start`] ends that.
    pub fn open(&self, kind: ModuleKind) -> Open<'_> {
        let params =
            InitParams { inputs: vec!["input".into()], outputs: vec!["output".into()], ..InitParams::default() };
        Open { module: self, kind, params, limits: Limits::default() }
    }
}

/// What a deployment would say about the module: one input and one output unless told otherwise.
#[must_use = "nothing runs before `start`"]
pub struct Open<'a> {
    module: &'a Module,
    kind: ModuleKind,
    params: InitParams,
    limits: Limits,
}

impl Open<'_> {
    /// Gives a parameter.
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.params.params.insert(name.into(), value.into());
        self
    }

    /// Names the output topics.
    pub fn outputs<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.params.outputs = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets other limits than a broker's defaults.
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Starts an instance, so that wrong parameters show.
    ///
    /// # Errors
    /// [`Error::Kind`], or [`Error::Call`] with what the module says about its parameters.
    pub async fn start(self) -> Result<Opened, Error> {
        let outputs = self.params.outputs.len();
        let options = PoolOptions {
            module: "module".into(),
            name: "test".into(),
            kind: self.kind,
            params: self.params,
            limits: self.limits,
        };
        let pool = self.module.factory.pool(options)?;
        pool.check().await?;
        let needs = self.module.factory.declarations().needs;
        let partitioner = self.kind == ModuleKind::Partitioner;
        let frames = FrameOptions {
            elide_values: partitioner && !needs.values,
            elide_headers: partitioner && !needs.headers,
            ..FrameOptions::default()
        };
        // Any partition that a test may think of exists.
        Ok(Opened { pool, frames, rules: OutputRules::transform(vec![i32::MAX as u32; outputs]) })
    }
}

/// A module with its parameters, ready for records. Each call is one frame.
pub struct Opened {
    pub(crate) pool: Pool,
    frames: FrameOptions,
    rules: OutputRules,
}

impl Opened {
    /// Asks a filter which records it lets through.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn select(&self, records: &[Record]) -> Result<Vec<bool>, Error> {
        match frame(records, 0, self.frames)? {
            Some(frame) => Ok(self.pool.select(&frame).await?),
            None => Ok(Vec::new()),
        }
    }

    /// Asks a partitioner for partitions: -1 leaves one to the default placement.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn assign(&self, records: &[Record], partitions: u32) -> Result<Vec<i32>, Error> {
        match frame(records, 0, self.frames)? {
            Some(frame) => Ok(self.pool.assign(&frame, partitions).await?),
            None => Ok(Vec::new()),
        }
    }

    /// Has a mapper process records as a transform: the outputs in the order of their emits.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn process(&self, records: &[Record]) -> Result<Vec<Output>, Error> {
        self.process_with(records, 0, &self.rules, Freshness::Any).await
    }

    /// Has a mapper process records as a view, which allows at most one record for each of its source.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn view(&self, records: &[Record]) -> Result<Vec<Output>, Error> {
        self.process_with(records, 0, &OutputRules::view(), Freshness::Any).await
    }

    async fn process_with(
        &self,
        records: &[Record],
        first: usize,
        rules: &OutputRules,
        freshness: Freshness,
    ) -> Result<Vec<Output>, Error> {
        match frame(records, first, self.frames)? {
            Some(frame) => Ok(outputs(&self.pool.process(&frame, rules, freshness).await?, first).collect()),
            None => Ok(Vec::new()),
        }
    }

    /// One part of a longer run: `records` begin with number `first` of it.
    pub(crate) async fn process_part(
        &self,
        records: &[Record],
        first: usize,
        freshness: Freshness,
    ) -> Result<Vec<Output>, Error> {
        self.process_with(records, first, &self.rules, freshness).await
    }

    /// What the module has logged so far.
    #[must_use]
    pub fn logs(&self) -> Vec<LogLine> {
        self.pool.logs().0
    }

    /// The sums of the metrics that it has reported so far.
    #[must_use]
    pub fn metrics(&self) -> Vec<(String, f64)> {
        self.pool.metrics()
    }
}
