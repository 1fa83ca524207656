//! One instance at work: its calls, and what the engine's errors mean.

use bytes::Bytes;
use millstream_env::Monotonic;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap};

use crate::{
    CallError, Failure, Limits, Phase,
    compile::words,
    frame::{Checker, Emitted, InputFrame, OutputError, OutputRules, check_assignment, check_selection},
    host::{HostState, HostTrap},
    limits::{FUEL_PER_PARTITION, Grown, HOST_CALL_SLACK},
    worlds::{filter::Filter, mapper::Mapper, partitioner::Partitioner, types},
};

pub(crate) enum Exports {
    Partitioner(Partitioner),
    Filter(Filter),
    Mapper(Mapper),
}

/// A call.
#[derive(Clone, Copy)]
pub(crate) enum Job<'a> {
    Assign(&'a InputFrame, u32),
    Select(&'a InputFrame),
    Process(&'a InputFrame, &'a OutputRules),
}

/// Its result.
pub(crate) enum Answer {
    Assigned(Vec<i32>),
    Selected(Vec<bool>),
    Emitted(Vec<Emitted>),
}

/// What a call cost and reported.
pub(crate) struct Spent {
    pub(crate) fuel: u64,
    pub(crate) reported: Vec<(u32, f64)>,
}

pub(crate) struct Instance {
    store: Store<HostState>,
    exports: Exports,
    memory_at_start: usize,
    pub(crate) calls: u64,
    pub(crate) idle_since: Monotonic,
    // Given back when the store is gone: fields are dropped in this order.
    _slot: OwnedSemaphorePermit,
}

impl Instance {
    pub(crate) fn new(store: Store<HostState>, exports: Exports, slot: OwnedSemaphorePermit) -> Self {
        let memory_at_start = store.data().limiter.memory;
        Self { store, exports, memory_at_start, calls: 0, idle_since: Monotonic::default(), _slot: slot }
    }

    /// Whether it has leaked so much that a new one should take its place.
    pub(crate) fn is_swollen(&self) -> bool {
        self.store.data().limiter.is_swollen(self.memory_at_start)
    }

    /// Runs one call. After any error but [`CallError::Guest`] the instance must be discarded; likewise when the future is
    /// dropped before it has resolved.
    pub(crate) async fn run(&mut self, job: Job<'_>, limits: &Limits) -> (Result<Answer, CallError>, Spent) {
        let (frame, extra) = match job {
            Job::Assign(frame, partitions) => (frame, u64::from(partitions) * FUEL_PER_PARTITION),
            Job::Select(frame) | Job::Process(frame, _) => (frame, 0),
        };
        let fuel = limits.fuel(frame.count(), frame.bytes().len()).saturating_add(extra);
        let result = self.call(job, frame, limits, fuel).await;
        let left = self.store.get_fuel().unwrap_or(0);
        let spent = Spent { fuel: fuel.saturating_sub(left), reported: self.store.data_mut().take_reported() };
        self.calls += 1;
        (result, spent)
    }

    async fn call(
        &mut self,
        job: Job<'_>,
        frame: &InputFrame,
        limits: &Limits,
        fuel: u64,
    ) -> Result<Answer, CallError> {
        let count = frame.count();
        let output_bytes = limits.output_bytes(frame.bytes().len());
        let store = &mut self.store;
        store.data_mut().begin(Phase::Call, fuel, output_bytes);
        store.set_hostcall_fuel(output_bytes.saturating_add(HOST_CALL_SLACK));
        store.set_fuel(fuel).map_err(|error| CallError::Host { reason: words(&error) })?;
        let bytes: &[u8] = frame.bytes();
        let trapped = |error: wasmtime::Error| blame(&error, Phase::Call, fuel);
        match (job, &self.exports) {
            (Job::Assign(_, partitions), Exports::Partitioner(world)) => {
                let answer = world.millstream_ext_assigner().call_assign(store, bytes, partitions).await;
                let assigned = answer.map_err(trapped)?.map_err(|told| failure(&told, count))?;
                check_assignment(&assigned, count, partitions)?;
                Ok(Answer::Assigned(assigned))
            }
            (Job::Select(_), Exports::Filter(world)) => {
                let answer = world.millstream_ext_selector().call_select(store, bytes).await;
                let bits = answer.map_err(trapped)?.map_err(|told| failure(&told, count))?;
                Ok(Answer::Selected(check_selection(&bits, count)?))
            }
            (Job::Process(_, rules), Exports::Mapper(world)) => {
                let answer = world.millstream_ext_processor().call_process(&mut *store, bytes).await;
                let emitted = store.data_mut().take_emitted();
                answer.map_err(trapped)?.map_err(|told| failure(&told, count))?;
                let mut checker = Checker::new(frame, rules, limits.record_bytes);
                let check = |(output, frame)| checker.check(output, Bytes::from(frame));
                Ok(Answer::Emitted(emitted.into_iter().map(check).collect::<Result<_, _>>()?))
            }
            _ => Err(CallError::Host { reason: "the pool's module is not of the kind that the call is for".into() }),
        }
    }
}

/// What the guest told.
pub(crate) fn failure(told: &types::Failure, count: u32) -> CallError {
    CallError::Guest(Failure::new(told.code, told.at, &told.message, count))
}

/// What an error of the engine means.
pub(crate) fn blame(error: &wasmtime::Error, phase: Phase, fuel: u64) -> CallError {
    if let Some(grown) = error.downcast_ref::<Grown>() {
        return CallError::OutOfMemory { phase, reason: grown.to_string() };
    }
    match error.downcast_ref::<HostTrap>() {
        Some(HostTrap::OutOfFuel) => return CallError::OutOfFuel { phase, fuel },
        Some(HostTrap::Output(error)) => return CallError::Output(error.clone()),
        None => {}
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => return CallError::OutOfFuel { phase, fuel },
        Some(trap) => return CallError::Trap { phase, reason: trap.to_string() },
        None => {}
    }
    let reason = words(error);
    if error.is::<PoolConcurrencyLimitError>() {
        return CallError::Host { reason };
    }
    // The engine has no type for this one.
    if reason.contains("fuel allocated for hostcalls") {
        return CallError::Output(OutputError::TooMuch { what: "bytes in one call of the host", max: fuel });
    }
    match phase {
        // The module was linked before: what fails now is the machine's lack of something.
        Phase::Start => CallError::Host { reason },
        // Results that cannot be lifted: a pointer outside the memory, text that is not UTF-8, an unknown variant.
        _ => CallError::Trap { phase, reason },
    }
}
