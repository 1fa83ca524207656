//! One instance at work: its calls, and what the engine's errors mean.

use bytes::Bytes;
use millstream_env::Monotonic;
use millstream_model::PartitionId;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap};

use crate::{
    CallError, Failure, Limits, Phase,
    compile::words,
    frame::{Checker, Emitted, InputFrame, OutputError, OutputRules, check_assignment, check_selection},
    host::{HostState, HostTrap, yield_now},
    limiter::Grown,
    limits::{FUEL_PER_PARTITION, FUEL_YIELD, HOST_CALL_SLACK},
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
    /// What is added to each declared metric; empty if nothing was reported.
    pub(crate) reported: Vec<f64>,
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

    /// The fuel of a call.
    pub(crate) fn fuel(job: Job<'_>, limits: &Limits) -> u64 {
        let (frame, extra) = match job {
            Job::Assign(frame, partitions) => (frame, u64::from(partitions) * FUEL_PER_PARTITION),
            Job::Select(frame) | Job::Process(frame, _) => (frame, 0),
        };
        limits.fuel(frame.count(), frame.bytes().len()).saturating_add(extra)
    }

    /// Runs one call. After any error but [`CallError::Guest`] the instance must be discarded; likewise when the future is
    /// dropped before it has resolved.
    pub(crate) async fn run(&mut self, job: Job<'_>, limits: &Limits) -> (Result<Answer, CallError>, Spent) {
        let fuel = Self::fuel(job, limits);
        let result = self.call(job, limits, fuel).await;
        let result = result.map_err(|error| error.with_last_error(self.store.data_mut().last_error()));
        let left = self.store.get_fuel().unwrap_or(0);
        let spent = Spent { fuel: fuel.saturating_sub(left), reported: self.store.data().reported() };
        self.calls += 1;
        (result, spent)
    }

    async fn call(&mut self, job: Job<'_>, limits: &Limits, fuel: u64) -> Result<Answer, CallError> {
        let (Job::Assign(frame, _) | Job::Select(frame) | Job::Process(frame, _)) = job;
        let count = frame.count();
        let output_bytes = limits.output_bytes(frame.bytes().len());
        let budget = Budget { fuel, host_call_bytes: output_bytes.saturating_add(HOST_CALL_SLACK) };
        let store = &mut self.store;
        store.data_mut().begin(Phase::Call, fuel, output_bytes);
        store.data_mut().set_partition(PartitionId(frame.header().partition));
        store.set_hostcall_fuel(budget.host_call_bytes);
        store.set_fuel(fuel).map_err(|error| CallError::Host { reason: words(&error) })?;
        let bytes: &[u8] = frame.bytes();
        let trapped = |error: wasmtime::Error| blame(&error, Phase::Call, budget);
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
                // A record may always be passed on as it is: batches are compressed, so one may be larger than its topic's
                // limit for batches says.
                let mut checker = Checker::new(frame, rules, limits.record_bytes.max(frame.bytes().len()));
                let mut checked = Vec::with_capacity(emitted.len());
                let mut in_turn = 0;
                for (output, frame) in emitted {
                    in_turn += frame.len();
                    checked.push(checker.check(output, Bytes::from(frame))?);
                    if in_turn as u64 >= FUEL_YIELD {
                        in_turn = 0;
                        yield_now().await;
                    }
                }
                Ok(Answer::Emitted(checked))
            }
            _ => Err(CallError::Host { reason: "the pool's module is not of the kind that the call is for".into() }),
        }
    }
}

/// What the guest told.
pub(crate) fn failure(told: &types::Failure, count: u32) -> CallError {
    CallError::Guest(Failure::new(told.code, told.at, &told.message, count))
}

/// What a phase was given.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) fuel: u64,
    /// What may cross to the host in one call of it, bytes.
    pub(crate) host_call_bytes: usize,
}

/// What an error of the engine means.
pub(crate) fn blame(error: &wasmtime::Error, phase: Phase, budget: Budget) -> CallError {
    let Budget { fuel, host_call_bytes } = budget;
    if let Some(grown) = error.downcast_ref::<Grown>() {
        let reason = grown.to_string();
        return match grown {
            Grown::Memory { .. } | Grown::Table { .. } => CallError::OutOfMemory { phase, reason },
            // Another instance, or the same one later, may be given it.
            Grown::Budget { .. } | Grown::Host { .. } => CallError::Host { reason },
        };
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
        return CallError::Output(OutputError::TooMuch {
            what: "bytes in one call of the host",
            max: host_call_bytes as u64,
        });
    }
    match phase {
        // The module was linked before: what fails now is the machine's lack of something.
        Phase::Start => CallError::Host { reason },
        // Results that cannot be lifted: a pointer outside the memory, text that is not UTF-8, an unknown variant.
        _ => CallError::Trap { phase, reason },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmtime::ResourceLimiter;

    use super::*;
    use crate::{
        Blame,
        limiter::Limiter,
        slots::{Share, Slots},
    };

    const BUDGET: Budget = Budget { fuel: 7, host_call_bytes: 9 };

    /// A machine without memory must not stop a transform for ever, nor make it leave a record out.
    #[test]
    fn memory_that_the_machine_does_not_give_is_not_the_guests_fault() {
        let clock = Arc::new(millstream_env::real::RealClock::default());
        let slots = Arc::new(Slots::new(1, 1 << 20, std::time::Duration::MAX, clock));
        let mut limiter = Limiter::new(1 << 20, Share::new(slots));
        let lack = || wasmtime::Error::msg("mprotect failed: cannot allocate memory");
        for phase in [Phase::Start, Phase::Call] {
            for error in [limiter.memory_grow_failed(lack()), limiter.table_grow_failed(lack())] {
                let error = blame(&error.unwrap_err(), phase, BUDGET);
                assert!(matches!(&error, CallError::Host { reason } if reason.contains("mprotect")), "{error:?}");
                assert_eq!(error.blame(), Blame::Host);
            }
        }
    }

    #[test]
    fn too_much_for_one_host_call_names_the_bytes_allowed() {
        let error = wasmtime::Error::msg("too much data: fuel allocated for hostcalls has been exhausted");
        let CallError::Output(OutputError::TooMuch { max, .. }) = blame(&error, Phase::Call, BUDGET) else { panic!() };
        assert_eq!(max, 9);
    }
}
