//! Calls into modules through the broker's own pools, beside the same components called bare.
//!
//! Measured from "frame ready" to "emitted frame received": taking an instance out of the pool, budgets, the call, the checks
//! of what came out, and putting the instance back.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use millstream_model::{ModuleKind, Offset, TimestampMs};
use millstream_test_support::{cli, tree};
use millstream_wasm::{
    Compiler, Freshness, InitParams, Limits, Pool, PoolOptions, Runtime, RuntimeOptions,
    frame::{FrameBuilder, FrameOptions, InputFrame, OutputRules},
};

use crate::{
    bare::{Budget, Linked},
    closed_loop::{Lane, Moved, Sample, measure},
    suite::Plan,
    workload::{RECORDS, TIMESTAMP},
};

/// Bytes of a value of the identity transform's records.
const VALUE_BYTES: usize = 1000;
/// Partitions to choose from.
const PARTITIONS: u32 = 16;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The broker's way.
    Pool,
    /// A kept instance that counts fuel.
    Bare,
    /// A kept instance that counts nothing.
    BareUnlimited,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Module {
    /// Places 100 records by their keys, which are all that it is shown.
    Partitioner,
    /// Emits 100 records of 1 KB as they came.
    Identity,
}

/// The two modules, ready to be called in every way.
pub(crate) struct Modules {
    _runtime: Runtime,
    partitioner: Called,
    identity: Called,
}

struct Called {
    pool: Pool,
    bare: Linked,
    unlimited: Linked,
    frame: InputFrame,
}

impl Modules {
    /// Builds the guests and compiles them.
    pub(crate) async fn build(dir: &Path) -> anyhow::Result<Self> {
        let components = build_guests(dir)?;
        let options = RuntimeOptions { compiler: Compiler::InProcess, ..RuntimeOptions::new(dir.join("runtime")) };
        let runtime = Runtime::new(options, millstream_env::real::env())?;
        let keys = FrameOptions { elide_values: true, elide_headers: true, ..FrameOptions::default() };
        let partitioner =
            called(&runtime, &components.join("partition-by-key.wasm"), ModuleKind::Partitioner, frame(keys)?).await?;
        let all = FrameOptions::default();
        let identity = called(&runtime, &components.join("identity.wasm"), ModuleKind::Mapper, frame(all)?).await?;
        Ok(Self { _runtime: runtime, partitioner, identity })
    }

    /// One caller, one call after the other.
    pub(crate) async fn call(&self, plan: &Plan, module: Module, caller: Caller) -> anyhow::Result<Sample> {
        let called = match module {
            Module::Partitioner => &self.partitioner,
            Module::Identity => &self.identity,
        };
        let (bytes, records) = (called.frame.bytes().clone(), u64::from(called.frame.count()));
        let bare = match caller {
            Caller::Bare => &called.bare,
            _ => &called.unlimited,
        };
        let time = plan.time;
        match (module, caller) {
            (_, Caller::Pool) => {
                let rules = OutputRules::transform(vec![PARTITIONS]);
                let lane = PoolLane { module, pool: called.pool.clone(), frame: called.frame.clone(), rules };
                measure(vec![lane], time, None).await
            }
            (Module::Partitioner, _) => {
                measure(vec![bare.assigner(bytes, records, PARTITIONS).await?], time, None).await
            }
            (Module::Identity, _) => measure(vec![bare.mapper(bytes, records).await?], time, None).await,
        }
    }
}

/// Has the program build the guests, as an author would.
fn build_guests(dir: &Path) -> anyhow::Result<PathBuf> {
    let out = dir.join("guests");
    let mut command = std::process::Command::new(cli::millstream()?);
    command.args(["module", "build"]).arg(tree::root().join("tests/bench/guests")).arg("--out").arg(&out);
    let status = command.stdout(std::process::Stdio::null()).status().context("start millstream module build")?;
    ensure!(status.success(), "millstream module build ended with {status}");
    Ok(out)
}

async fn called(runtime: &Runtime, component: &Path, kind: ModuleKind, frame: InputFrame) -> anyhow::Result<Called> {
    let bytes = std::fs::read(component).with_context(|| component.display().to_string())?;
    let prepared = runtime.prepare(bytes.into(), None).await?;
    let factory = prepared.factory();
    let options = PoolOptions {
        module: "bench@1".into(),
        name: "bench".into(),
        kind,
        params: InitParams { inputs: vec!["input".into()], outputs: vec!["output".into()], ..InitParams::default() },
        limits: Limits::default(),
    };
    let pool = factory.pool(options)?;
    pool.check().await?;
    let bare = Linked::compile(component, Budget::Fuel)?;
    let unlimited = Linked::compile(component, Budget::None)?;
    Ok(Called { pool, bare, unlimited, frame })
}

/// 100 records with keys like those of flights.
fn frame(options: FrameOptions) -> anyhow::Result<InputFrame> {
    let mut builder = FrameBuilder::new(options);
    let value: Vec<u8> = (0..VALUE_BYTES).map(|at| (at * 31) as u8).collect();
    for record in 0..RECORDS as i64 {
        let key = format!("N{}", 10_000 + record * 37);
        let at = TimestampMs(TIMESTAMP.0 + record);
        builder.push(Offset(record), at, Some(key.as_bytes()), Some(&value), &[])?;
    }
    builder.take().context("the frame is empty")
}

/// A call a step.
struct PoolLane {
    module: Module,
    pool: Pool,
    frame: InputFrame,
    rules: OutputRules,
}

impl Lane for PoolLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        let records = match self.module {
            Module::Partitioner => self.pool.assign(&self.frame, PARTITIONS).await?.len(),
            Module::Identity => {
                let emitted = self.pool.process(&self.frame, &self.rules, Freshness::Any).await?;
                emitted.iter().map(|emitted| emitted.len()).sum()
            }
        };
        ensure!(records == self.frame.count() as usize, "{records} of {} records came out", self.frame.count());
        Ok(Moved { bytes: self.frame.bytes().len() as u64, records: records as u64 })
    }
}
