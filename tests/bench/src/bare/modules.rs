//! Wasmtime without a host around it: one instance of a component, kept, called again and again. No pool, no checks of what
//! comes out, no limits but (optionally) fuel.

use std::path::Path;

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Store,
    component::{Component, HasSelf, Linker},
};

use self::{
    mapper::{
        Mapper,
        millstream::ext::{log, metrics, sink, types},
    },
    partitioner::Partitioner,
};
use crate::closed_loop::{Lane, Moved};

mod mapper {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "mapper",
        imports: { default: trappable },
        exports: { default: async },
    });
}

mod partitioner {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "partitioner",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "millstream:ext/types@0.1.0": super::mapper::millstream::ext::types,
            "millstream:ext/log@0.1.0": super::mapper::millstream::ext::log,
            "millstream:ext/metrics@0.1.0": super::mapper::millstream::ext::metrics,
        },
    });
}

/// Fuel of a call: more than any needs.
const FUEL: u64 = 1 << 40;

/// Whether guests are compiled to count what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    Fuel,
    None,
}

/// What a guest reaches.
#[derive(Default)]
struct Sink {
    emitted: Vec<Vec<u8>>,
}

impl types::Host for Sink {}

impl log::Host for Sink {
    fn write(&mut self, _: log::Level, _: String) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl metrics::Host for Sink {
    fn report(&mut self, _: Vec<(u32, f64)>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl sink::Host for Sink {
    fn emit(&mut self, _: u32, frame: Vec<u8>) -> wasmtime::Result<()> {
        self.emitted.push(frame);
        Ok(())
    }
}

/// The engine's errors in words, cause by cause.
fn said(error: wasmtime::Error) -> anyhow::Error {
    anyhow!("{error:#}")
}

/// An engine with a component.
pub(crate) struct Linked {
    engine: Engine,
    linker: Linker<Sink>,
    component: Component,
    budget: Budget,
}

impl Linked {
    /// Compiles a component with the settings that the broker's engine has, but for its budgets.
    pub(crate) fn compile(path: &Path, budget: Budget) -> anyhow::Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(4)
            .total_core_instances(64)
            .total_memories(4)
            .total_tables(16)
            .total_stacks(4)
            .max_tables_per_module(2)
            .max_memory_size(1 << 30)
            .linear_memory_keep_resident(2 << 20);
        let mut config = Config::new();
        config
            .concurrency_support(false)
            .consume_fuel(budget == Budget::Fuel)
            .cranelift_opt_level(OptLevel::Speed)
            .cranelift_nan_canonicalization(true)
            .memory_init_cow(true)
            .memory_reservation(4 << 30)
            .memory_guard_size(32 << 20)
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).map_err(said)?;
        let component = Component::from_file(&engine, path).map_err(said)?;
        let mut linker = Linker::new(&engine);
        Mapper::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state).map_err(said)?;
        Ok(Self { engine, linker, component, budget })
    }

    fn store(&self) -> anyhow::Result<Store<Sink>> {
        let mut store = Store::new(&self.engine, Sink::default());
        refuel(&mut store, self.budget)?;
        Ok(store)
    }

    /// An instance that places records.
    pub(crate) async fn assigner(&self, frame: Bytes, records: u64, partitions: u32) -> anyhow::Result<KeptAssigner> {
        let mut store = self.store()?;
        let world = Partitioner::instantiate_async(&mut store, &self.component, &self.linker).await.map_err(said)?;
        world
            .millstream_ext_module()
            .call_init(&mut store, &params(1))
            .await
            .map_err(said)?
            .map_err(|failure| anyhow!("init: {}", failure.message))?;
        Ok(KeptAssigner { store, world, budget: self.budget, frame, records, partitions })
    }

    /// An instance that maps records.
    pub(crate) async fn mapper(&self, frame: Bytes, records: u64) -> anyhow::Result<KeptMapper> {
        let mut store = self.store()?;
        let world = Mapper::instantiate_async(&mut store, &self.component, &self.linker).await.map_err(said)?;
        world
            .millstream_ext_module()
            .call_init(&mut store, &params(1))
            .await
            .map_err(said)?
            .map_err(|failure| anyhow!("init: {}", failure.message))?;
        Ok(KeptMapper { store, world, budget: self.budget, frame, records })
    }
}

fn params(outputs: usize) -> types::InitParams {
    types::InitParams {
        inputs: vec!["input".into()],
        outputs: vec!["output".into(); outputs],
        params: Vec::new(),
        host: Vec::new(),
    }
}

fn refuel(store: &mut Store<Sink>, budget: Budget) -> anyhow::Result<()> {
    match budget {
        Budget::Fuel => store.set_fuel(FUEL).map_err(said),
        Budget::None => Ok(()),
    }
}

/// Asks for partitions, one frame a step.
pub(crate) struct KeptAssigner {
    store: Store<Sink>,
    world: Partitioner,
    budget: Budget,
    frame: Bytes,
    records: u64,
    partitions: u32,
}

impl Lane for KeptAssigner {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        refuel(&mut self.store, self.budget)?;
        let assigner = self.world.millstream_ext_assigner();
        let answer = assigner.call_assign(&mut self.store, &self.frame, self.partitions).await.map_err(said)?;
        let assigned = answer.map_err(|failure| anyhow!("assign: {}", failure.message))?;
        ensure!(assigned.len() as u64 == self.records, "{} of {} records placed", assigned.len(), self.records);
        Ok(Moved { bytes: self.frame.len() as u64, records: self.records })
    }
}

/// Has a frame processed and takes what was emitted, one frame a step.
pub(crate) struct KeptMapper {
    store: Store<Sink>,
    world: Mapper,
    budget: Budget,
    frame: Bytes,
    records: u64,
}

impl Lane for KeptMapper {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        refuel(&mut self.store, self.budget)?;
        let processor = self.world.millstream_ext_processor();
        let answer = processor.call_process(&mut self.store, &self.frame).await.map_err(said)?;
        answer.map_err(|failure| anyhow!("process: {}", failure.message))?;
        let emitted = std::mem::take(&mut self.store.data_mut().emitted);
        let bytes: usize = emitted.iter().map(Vec::len).sum();
        ensure!(bytes > self.frame.len(), "{bytes} bytes emitted for {}", self.frame.len());
        Ok(Moved { bytes: self.frame.len() as u64, records: self.records })
    }
}
