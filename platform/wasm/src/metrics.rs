//! What a runtime tells of itself in numbers: what all its pools have done, its compiler, and what its instances hold.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use millstream_env::{Buckets, Histogram};

use crate::{CallError, Runtime, ground::Ground};

/// Of how long compiling takes: a small module to the largest that is taken.
static COMPILE_BOUNDS: [Duration; 7] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
];

/// What all pools of a runtime have done since it was made, those included that are gone.
pub(crate) struct Counters {
    pub(crate) calls: CallCounters,
    /// Compilations that gave an image, and how long they took.
    pub(crate) compiled: Histogram,
    /// Compilations that did not.
    pub(crate) compile_failures: AtomicU64,
}

/// What calls have come to.
#[derive(Default)]
pub(crate) struct CallCounters {
    calls: AtomicU64,
    failures: AtomicU64,
    traps: AtomicU64,
    fuel: AtomicU64,
    started: AtomicU64,
}

/// What calls have come to, up to some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallMetrics {
    /// Calls that gave a result.
    pub calls: u64,
    /// Calls that failed, for whatever reason.
    pub failures: u64,
    /// Of those, calls that cost their instance: they trapped, used up their fuel or asked for too much memory.
    pub traps: u64,
    /// Fuel that calls used, failed ones included.
    pub fuel: u64,
    /// Instances that were made.
    pub started: u64,
}

/// A runtime at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeMetrics {
    /// Of all pools, those included that are gone.
    pub calls: CallMetrics,
    /// Instances that there are, at work and idle.
    pub instances: usize,
    /// Most that there may be.
    pub instances_max: usize,
    /// What they hold together, bytes.
    pub memory_bytes: usize,
    /// Most that they may hold.
    pub memory_bytes_max: usize,
    /// How long compilations took that gave an image.
    pub compiled: Buckets,
    /// Compilations that gave none: refused, or failed.
    pub compile_failures: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            calls: CallCounters::default(),
            compiled: Histogram::new(&COMPILE_BOUNDS),
            compile_failures: AtomicU64::new(0),
        }
    }
}

impl CallCounters {
    /// Counts a call by what it came to.
    pub(crate) fn count<T>(&self, result: &Result<T, CallError>) {
        let outcome = if result.is_ok() { &self.calls } else { &self.failures };
        outcome.fetch_add(1, Ordering::Relaxed);
        if let Err(CallError::Trap { .. } | CallError::OutOfFuel { .. } | CallError::OutOfMemory { .. }) = result {
            self.traps.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn add_fuel(&self, fuel: u64) {
        self.fuel.fetch_add(fuel, Ordering::Relaxed);
    }

    pub(crate) fn add_started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn metrics(&self) -> CallMetrics {
        CallMetrics {
            calls: self.calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            traps: self.traps.load(Ordering::Relaxed),
            fuel: self.fuel.load(Ordering::Relaxed),
            started: self.started.load(Ordering::Relaxed),
        }
    }
}

impl std::ops::AddAssign for CallMetrics {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.failures += other.failures;
        self.traps += other.traps;
        // A module may use all that there is to count.
        self.fuel = self.fuel.saturating_add(other.fuel);
        self.started += other.started;
    }
}

impl Runtime {
    /// What it has done and holds now. Waits for nobody.
    #[must_use]
    pub fn metrics(&self) -> RuntimeMetrics {
        let Ground { slots, counters, .. } = self.ground();
        let (instances, instances_max) = slots.instances();
        let (memory_bytes, memory_bytes_max) = slots.memory();
        RuntimeMetrics {
            calls: counters.calls.metrics(),
            instances,
            instances_max,
            memory_bytes,
            memory_bytes_max,
            compiled: counters.compiled.buckets(),
            compile_failures: counters.compile_failures.load(Ordering::Relaxed),
        }
    }
}
