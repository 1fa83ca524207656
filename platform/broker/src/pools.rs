//! Modules at work: pools by module, use and parameters, made when they are first needed.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use millstream_catalog::{Module, State, Topic, View};
use millstream_env::Env;
use millstream_model::{Digest, ModuleKind, ModuleRef, TopicConfig, TopicName};
use millstream_protocol::ErrorCode;
use millstream_wasm::{
    Factory, InitParams, Limits, LoadError, Pool, PoolOptions, Refused, Runtime, RuntimeError, RuntimeOptions,
    StoreError,
};
use parking_lot::Mutex;

use crate::{BrokerOptions, errors::WireError};

/// Why the module host did not start.
pub(crate) type ModulesError = RuntimeError;

/// The module host and the pools in use.
pub(crate) struct Modules {
    runtime: Runtime,
    pools: Mutex<HashMap<PoolKey, Pool>>,
}

/// Two users share instances only if nothing that an instance is told tells them apart.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    digest: Digest,
    kind: ModuleKind,
    /// What the pool works for: a topic's routing, a view, a transform. Never shared between owners.
    owner: String,
    params: InitParams,
}

impl Modules {
    pub(crate) fn open(options: &BrokerOptions, env: &Env) -> Result<Self, ModulesError> {
        let runtime_options =
            RuntimeOptions { compiler: options.compiler.clone(), ..RuntimeOptions::new(&options.data_dir) };
        Ok(Self { runtime: Runtime::new(runtime_options, env.clone())?, pools: Mutex::default() })
    }

    /// Inspects, compiles and durably stores a module's bytes. The catalog does not know it yet.
    pub(crate) async fn push(&self, bytes: Bytes, expected: Option<Digest>) -> Result<Arc<Factory>, Refused> {
        self.runtime.push(bytes, expected).await
    }

    /// The pool of a topic's partitioner; none if the topic has none.
    pub(crate) async fn partitioner(&self, state: &State, topic: &Topic) -> Result<Option<Pool>, WireError> {
        self.partitioner_for(state, &topic.name, &topic.config).await
    }

    /// As [`Modules::partitioner`], for a topic that may not exist yet.
    pub(crate) async fn partitioner_for(
        &self,
        state: &State,
        name: &TopicName,
        config: &TopicConfig,
    ) -> Result<Option<Pool>, WireError> {
        let Some(module) = &config.partitioner else { return Ok(None) };
        let params = InitParams {
            inputs: vec![name.to_string()],
            outputs: Vec::new(),
            params: config.partitioner_params.clone(),
        };
        self.pool(state, module, ModuleKind::Partitioner, partitioner_owner(name), params).await.map(Some)
    }

    /// The pools of a view's chain, in its order.
    pub(crate) async fn chain(&self, state: &State, view: &View, topic: &Topic) -> Result<Vec<Pool>, WireError> {
        let mut chain = Vec::with_capacity(view.chain.len());
        for module in &view.chain {
            let params =
                InitParams { inputs: vec![topic.name.to_string()], outputs: Vec::new(), params: view.params.clone() };
            let kind = match find(state, module)?.kinds.contains(&ModuleKind::Filter) {
                true => ModuleKind::Filter,
                false => ModuleKind::Mapper,
            };
            chain.push(self.pool(state, module, kind, view_owner(&view.name), params).await?);
        }
        Ok(chain)
    }

    /// The pool for a module in one use, loaded if it is not at work yet.
    pub(crate) async fn pool(
        &self,
        state: &State,
        module: &ModuleRef,
        kind: ModuleKind,
        owner: String,
        params: InitParams,
    ) -> Result<Pool, WireError> {
        let digest = find(state, module)?.digest;
        let key = PoolKey { digest, kind, owner, params };
        if let Some(pool) = self.pools.lock().get(&key) {
            return Ok(pool.clone());
        }
        let factory = self.runtime.load(digest).await.map_err(|error| unloadable(module, &error))?;
        let options =
            PoolOptions { name: key.owner.clone(), kind, params: key.params.clone(), limits: Limits::default() };
        let pool = factory.pool(options).map_err(|error| WireError::new(ErrorCode::WrongKind, error))?;
        // Two may have come this far at once: the first one's pool is used by both.
        Ok(self.pools.lock().entry(key).or_insert(pool).clone())
    }

    /// Forgets the pools of an owner that is gone; calls under way end as they would.
    pub(crate) fn forget(&self, owner: &str) {
        self.pools.lock().retain(|key, _| key.owner != owner);
    }

    /// For an owner that may not come to be: refused, or given up by whoever asked for it.
    pub(crate) fn try_out(&self, owner: String) -> Trial<'_> {
        Trial { modules: self, owner }
    }
}

/// Forgets the pools of its owner when it is dropped. Where there was such an owner before, they are made again.
pub(crate) struct Trial<'a> {
    modules: &'a Modules,
    owner: String,
}

impl Trial<'_> {
    /// The owner is there to stay.
    pub(crate) fn passed(mut self) {
        self.owner.clear();
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !self.owner.is_empty() {
            self.modules.forget(&self.owner);
        }
    }
}

/// Who owns the pool of a topic's partitioner.
pub(crate) fn partitioner_owner(topic: &TopicName) -> String {
    format!("partitioner of {topic}")
}

/// Who owns the pools of a view.
pub(crate) fn view_owner(view: &TopicName) -> String {
    format!("view {view}")
}

/// The module, as the catalog knows it.
pub(crate) fn find<'a>(state: &'a State, module: &ModuleRef) -> Result<&'a Arc<Module>, WireError> {
    state.modules.get(module).ok_or_else(|| {
        WireError::new(
            ErrorCode::ModuleNotFound,
            format!("no module {module}: push it, or see `millstream module list`"),
        )
    })
}

fn unloadable(module: &ModuleRef, error: &LoadError) -> WireError {
    let code = match error {
        LoadError::Refused(refused) if refused.is_retriable() => ErrorCode::Overloaded,
        LoadError::Store(StoreError::Io { .. } | StoreError::Stopped) => ErrorCode::KafkaStorage,
        LoadError::Refused(_) | LoadError::Store(_) => ErrorCode::CallFailed,
    };
    WireError::new(code, format!("module {module} cannot be loaded: {error}"))
}
