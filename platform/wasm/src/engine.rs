//! The engine: what of WebAssembly it takes, how it lays out memory, and which images fit it.

use std::hash::{Hash, Hasher};

use millstream_model::Digest;
use rustix::process::{Resource, getrlimit};
use sha2::{Digest as _, Sha256};
use wasmparser::WasmFeatures;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, component::Component,
};

use crate::limits::{CORE_INSTANCES_MAX, MEMORY_BYTES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX, operator_costs};

/// What WebAssembly a module may use: 2.0 with SIMD, relaxed SIMD (made deterministic) and extended constants; no threads,
/// no 64-bit memory, no garbage collector, no tail calls, no second memory.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::COMPONENT_MODEL)
    .difference(WasmFeatures::GC_TYPES);

/// Address space of one memory slot with its guard, bytes: what the engine reserves so that no access needs a check.
const SLOT_BYTES: u64 = (4 << 30) + (32 << 20);
/// Mappings of one instance at work, as counted by `vm.max_map_count`.
const MAPPINGS_PER_INSTANCE: u64 = 8;
/// Stack of a guest, bytes.
const STACK_BYTES: usize = 512 << 10;
/// Stack on which a guest and the host functions that it calls run, bytes.
const FIBER_BYTES: usize = 1 << 20;
/// Memory of a free slot that stays with the process, bytes: the next instance finds it there.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

/// How large the pool is.
#[derive(Clone, Copy)]
pub(crate) struct PoolSize {
    instances: u32,
    keep_resident: usize,
}

impl PoolSize {
    /// For so many instances, whose memories together may hold so much: what free slots keep beside that is a quarter of it
    /// at most.
    pub(crate) fn new(instances: u32, memory_bytes: usize) -> Self {
        let share = memory_bytes / 4 / instances.max(1) as usize;
        Self { instances, keep_resident: KEEP_RESIDENT_BYTES.min(share) }
    }
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
    pub(crate) fn for_process(instances_max: u32) -> (Self, Option<String>) {
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
pub(crate) fn new_engine(mode: EngineMode, pool_size: Option<PoolSize>) -> wasmtime::Result<Engine> {
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
        .wasm_features(FEATURES.complement(), false)
        .wasm_features(FEATURES, true);
    match mode {
        EngineMode::Pooling => config.memory_reservation(4 << 30).memory_guard_size(32 << 20),
        EngineMode::OnDemand => config
            .memory_reservation(0)
            .memory_guard_size(64 << 10)
            .memory_reservation_for_growth(1 << 20)
            .memory_may_move(true),
    };
    if let (EngineMode::Pooling, Some(size)) = (mode, pool_size) {
        let instances = size.instances;
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
            .linear_memory_keep_resident(size.keep_resident)
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

/// Loads native code.
#[expect(unsafe_code, reason = "the one way to load an image; see the comment")]
pub(crate) fn deserialize(engine: &Engine, image: &[u8]) -> wasmtime::Result<Component> {
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
        let hash = |mode, instances: Option<u32>| {
            engine_hash(&new_engine(mode, instances.map(|instances| PoolSize::new(instances, 1 << 30))).unwrap())
        };
        assert_eq!(hash(EngineMode::Pooling, None), hash(EngineMode::Pooling, Some(4)));
        assert_eq!(hash(EngineMode::OnDemand, None), hash(EngineMode::OnDemand, Some(4)));
        assert_ne!(hash(EngineMode::Pooling, None), hash(EngineMode::OnDemand, None));
    }
}
