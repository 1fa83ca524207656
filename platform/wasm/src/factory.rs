//! A factory: one compiled, linked and described module, which makes instances.

use std::{collections::BTreeMap, sync::Arc};

use millstream_model::{Digest, ModuleKind};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{
    Store,
    component::{Component, InstancePre},
};

use crate::{
    CallError, Declarations, Limits, Phase, Refused,
    compile::words,
    ground::Ground,
    host::HostState,
    instance::{Budget, Exports, Instance, blame, failure},
    limiter::Limiter,
    limits::{CALL_TIME_DEFAULT, FUEL_DESCRIBE, FUEL_INIT, FUEL_START, FUEL_YIELD},
    logs::LogRing,
    slots::Share,
    worlds::{
        base::BaseIndices,
        filter::{FilterIndices, FilterPre},
        mapper::{MapperIndices, MapperPre},
        partitioner::{PartitionerIndices, PartitionerPre},
        types,
    },
};

/// What an instance is told in `init`. With the module's digest it decides all that the instance will ever do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct InitParams {
    /// Names of the input topics, in the order of their numbers.
    pub inputs: Vec<String>,
    /// Names of the output topics, in the order of their numbers.
    pub outputs: Vec<String>,
    /// The deployment's parameters.
    pub params: BTreeMap<String, String>,
}

/// How a pool is set up.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// What the module is called where it is used: its name and version.
    pub module: String,
    /// What log lines are filed under: the deployment's name.
    pub name: String,
    /// What the module is used for.
    pub kind: ModuleKind,
    /// What its instances are told.
    pub params: InitParams,
    /// What they are given.
    pub limits: Limits,
}

/// The module cannot be used for what was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the module is a {}, not a {wanted}", .kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" and a "))]
pub struct WrongKind {
    /// What it is.
    pub kinds: Vec<ModuleKind>,
    /// What was asked.
    pub wanted: ModuleKind,
}

/// What inspection found.
pub(crate) struct Parts {
    pub(crate) digest: Digest,
    pub(crate) size: usize,
    pub(crate) kinds: Vec<ModuleKind>,
}

/// A module that is ready to be instantiated. Shared by its pools; dropped with the last of them.
pub struct Factory {
    pub(crate) ground: Arc<Ground>,
    parts: Parts,
    declarations: Declarations,
    pres: Vec<(ModuleKind, Pre)>,
}

enum Pre {
    Partitioner(PartitionerPre<HostState>),
    Filter(FilterPre<HostState>),
    Mapper(MapperPre<HostState>),
}

impl std::fmt::Debug for Factory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Factory").field("digest", &self.parts.digest).field("kinds", &self.parts.kinds).finish()
    }
}

impl Factory {
    /// Links a compiled module, starts it once and asks it to describe itself.
    pub(crate) async fn new(ground: &Arc<Ground>, parts: Parts, component: &Component) -> Result<Self, Refused> {
        let wrong_type = |error: wasmtime::Error| Refused::WrongType { reason: words(&error) };
        let linked = ground.linker.instantiate_pre(component).map_err(wrong_type)?;
        let mut pres = Vec::new();
        for &kind in &parts.kinds {
            let pre = match kind {
                ModuleKind::Partitioner => PartitionerPre::new(linked.clone()).map(Pre::Partitioner),
                ModuleKind::Filter => FilterPre::new(linked.clone()).map(Pre::Filter),
                ModuleKind::Mapper => MapperPre::new(linked.clone()).map(Pre::Mapper),
                ModuleKind::Transform => return Err(Refused::NotBuilt { name: "state and timers".into() }),
            };
            pres.push((kind, pre.map_err(wrong_type)?));
        }
        let describing = describe(ground, &linked, &parts);
        let described = crate::within(&*ground.env.clock, CALL_TIME_DEFAULT, describing).await;
        let described = described.ok_or_else(|| Refused::Describe(CallError::slow(CALL_TIME_DEFAULT)))??;
        let declarations = Declarations::new(described)?;
        Ok(Self { ground: Arc::clone(ground), parts, declarations, pres })
    }

    /// The module's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.parts.digest
    }

    /// The module's size, bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.parts.size
    }

    /// What it can be used for: sorted, at least one.
    #[must_use]
    pub fn kinds(&self) -> &[ModuleKind] {
        &self.parts.kinds
    }

    /// What it says of itself.
    #[must_use]
    pub fn declarations(&self) -> &Declarations {
        &self.declarations
    }

    /// Makes an instance and takes it through `init`.
    pub(crate) async fn instance(
        &self,
        options: &PoolOptions,
        logs: &Arc<LogRing>,
        slot: OwnedSemaphorePermit,
    ) -> Result<Instance, CallError> {
        let PoolOptions { kind, params, limits, .. } = options;
        let metrics = self.declarations.metrics.len();
        let mut store = new_store(&self.ground, limits, metrics, Arc::clone(logs))?;
        let Some((_, pre)) = self.pres.iter().find(|(known, _)| known == kind) else {
            return Err(CallError::Host { reason: format!("the module is not a {kind}") });
        };
        let budget = begin(&mut store, limits, Phase::Start, FUEL_START)?;
        let exports = match pre {
            Pre::Partitioner(pre) => pre.instantiate_async(&mut store).await.map(Exports::Partitioner),
            Pre::Filter(pre) => pre.instantiate_async(&mut store).await.map(Exports::Filter),
            Pre::Mapper(pre) => pre.instantiate_async(&mut store).await.map(Exports::Mapper),
        };
        let exports = exports.map_err(|error| blame(&error, Phase::Start, budget))?;
        let params = init_params(params);
        let budget = begin(&mut store, limits, Phase::Init, FUEL_INIT)?;
        let answer = match &exports {
            Exports::Partitioner(world) => world.millstream_ext_module().call_init(&mut store, &params).await,
            Exports::Filter(world) => world.millstream_ext_module().call_init(&mut store, &params).await,
            Exports::Mapper(world) => world.millstream_ext_module().call_init(&mut store, &params).await,
        };
        let trapped = |error| blame(&error, Phase::Init, budget).with_last_error(store.data_mut().last_error());
        answer.map_err(trapped)?.map_err(|told| failure(&told, 0))?;
        Ok(Instance::new(store, exports, slot))
    }
}

/// Starts the module once, checks the types of its exports against its worlds, and has it describe itself.
async fn describe(
    ground: &Arc<Ground>,
    linked: &InstancePre<HostState>,
    parts: &Parts,
) -> Result<Vec<types::Declaration>, Refused> {
    let wrong_type = |error: wasmtime::Error| Refused::WrongType { reason: words(&error) };
    let _slot = ground.slots.take().await.map_err(Refused::Describe)?;
    let logs = Arc::new(LogRing::new(&parts.digest.to_string(), "its own description", &ground.env));
    let limits = Limits::default();
    let mut store = new_store(ground, &limits, 0, logs).map_err(Refused::Describe)?;
    let budget = begin(&mut store, &limits, Phase::Start, FUEL_START).map_err(Refused::Describe)?;
    let started = linked.instantiate_async(&mut store).await;
    let instance = started.map_err(|error| Refused::Describe(blame(&error, Phase::Start, budget)))?;
    for kind in &parts.kinds {
        match kind {
            ModuleKind::Partitioner => {
                PartitionerIndices::new(linked).and_then(|indices| indices.load(&mut store, &instance)).map(drop)
            }
            ModuleKind::Filter => {
                FilterIndices::new(linked).and_then(|indices| indices.load(&mut store, &instance)).map(drop)
            }
            ModuleKind::Mapper => {
                MapperIndices::new(linked).and_then(|indices| indices.load(&mut store, &instance)).map(drop)
            }
            ModuleKind::Transform => return Err(Refused::NotBuilt { name: "state and timers".into() }),
        }
        .map_err(wrong_type)?;
    }
    let base = BaseIndices::new(linked).and_then(|indices| indices.load(&mut store, &instance)).map_err(wrong_type)?;
    let budget = begin(&mut store, &limits, Phase::Describe, FUEL_DESCRIBE).map_err(Refused::Describe)?;
    let answer = base.millstream_ext_module().call_describe(&mut store).await;
    answer.map_err(|error| Refused::Describe(blame(&error, Phase::Describe, budget)))
}

fn new_store(
    ground: &Ground,
    limits: &Limits,
    metrics: usize,
    logs: Arc<LogRing>,
) -> Result<Store<HostState>, CallError> {
    let host = |error: &wasmtime::Error| CallError::Host { reason: words(error) };
    let limiter = Limiter::new(limits.memory_bytes, Share::new(Arc::clone(&ground.slots)));
    let mut store = Store::new(&ground.engine, HostState::new(limiter, metrics, logs));
    store.limiter(|state| &mut state.limiter);
    store.fuel_async_yield_interval(Some(FUEL_YIELD)).map_err(|error| host(&error))?;
    Ok(store)
}

/// Starts a phase of an instance's life that may not emit.
fn begin(store: &mut Store<HostState>, limits: &Limits, phase: Phase, fuel: u64) -> Result<Budget, CallError> {
    let budget = Budget { fuel, host_call_bytes: limits.output_bytes(0) };
    store.data_mut().begin(phase, fuel, 0);
    store.set_hostcall_fuel(budget.host_call_bytes);
    store.set_fuel(fuel).map_err(|error| CallError::Host { reason: words(&error) })?;
    Ok(budget)
}

fn init_params(params: &InitParams) -> types::InitParams {
    let pair = |(name, value): (&String, &String)| types::Pair { name: name.clone(), value: value.clone() };
    types::InitParams {
        inputs: params.inputs.clone(),
        outputs: params.outputs.clone(),
        params: params.params.iter().map(pair).collect(),
        // Constant: a guest's output may not depend on the machine that it runs on.
        host: vec![types::Pair { name: "contract".into(), value: "0.1.0".into() }],
    }
}
