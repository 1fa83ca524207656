//! Watches what one instance allocates, against its own limits and against the memory of all guests together.

use wasmtime::ResourceLimiter;

use crate::{
    limits::{CORE_INSTANCES_MAX, MEMORY_BYTES_MAX, RECYCLE_SIXTEENTHS, TABLE_ELEMENTS_MAX, TABLES_MAX},
    slots::Share,
};

/// Why an instance could not grow. Travels through the engine as the cause of a trap.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Grown {
    #[error("memory grew past {limit} bytes")]
    Memory { limit: usize },
    #[error("a table grew past {limit} elements")]
    Table { limit: usize },
    /// Nothing that the guest could know of.
    #[error("all modules together may hold {max} bytes of memory, which are in use")]
    Budget { max: usize },
    /// The machine's lack, not the guest's fault.
    #[error("the machine gave no memory: {reason}")]
    Host { reason: String },
}

/// What one instance holds. A refused growth traps: guests that meet an error there abort anyway, and so the cause is
/// known.
pub(crate) struct Limiter {
    memory_max: usize,
    /// What the instance's memory holds, bytes.
    pub(crate) memory: usize,
    pub(crate) share: Share,
}

impl Limiter {
    pub(crate) fn new(memory_max: usize, share: Share) -> Self {
        Self { memory_max: memory_max.min(MEMORY_BYTES_MAX), memory: 0, share }
    }

    /// Whether the instance holds so much that it should be replaced.
    pub(crate) fn is_swollen(&self, memory_at_start: usize) -> bool {
        self.memory > memory_at_start && self.memory > self.memory_max / 16 * RECYCLE_SIXTEENTHS
    }

    fn fail<T>(&self, grown: Grown) -> wasmtime::Result<T> {
        Err(wasmtime::Error::new(grown))
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.memory_max || maximum.is_some_and(|maximum| desired > maximum) {
            return self.fail(Grown::Memory { limit: self.memory_max });
        }
        if !self.share.grow(desired.saturating_sub(self.memory)) {
            return self.fail(Grown::Budget { max: self.share.max() });
        }
        self.memory = desired;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let reason = crate::compile::words(&error);
        // Asked for more than 32 bits can address: refused by the engine before anybody else is asked. It has no type for
        // that; a test holds its words.
        if reason.contains("memory type's limits") {
            return self.fail(Grown::Memory { limit: self.memory_max });
        }
        self.fail(Grown::Host { reason })
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX || maximum.is_some_and(|maximum| desired > maximum) {
            return self.fail(Grown::Table { limit: TABLE_ELEMENTS_MAX });
        }
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // Within the limits that were checked just now, so it is the machine.
        self.fail(Grown::Host { reason: crate::compile::words(&error) })
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        1
    }
}
