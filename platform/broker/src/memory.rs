//! Memory for records at work in modules: one bound over all transforms and views of a broker.
//!
//! What is read and unpacked waits for its turn; it is held for a call or a few and given back before anything else is
//! waited for, so the queue moves. What modules have emitted cannot be given back before it is written, so nothing waits
//! for that: whoever gets no room writes what he has.
//!
//! What a view shows is kept until its answer has a share of the memory for frames. So the order is: room to show, room to
//! unpack (given back), a share of frames. Who holds one of them waits only for those that come later; loading a module
//! comes before all, since it may wait behind others that are compiled.

use std::sync::Arc;

use millstream_model::limits::BATCH_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// For what is read and unpacked at one time, bytes.
const UNPACKED_BYTES_MAX: usize = 384 << 20;
/// For what is emitted and not written yet, bytes.
const EMITTED_BYTES_MAX: usize = 256 << 20;
/// For what views show until it is part of an answer, bytes.
const SHOWN_BYTES_MAX: usize = 128 << 20;
/// What permits are counted in, bytes.
const UNIT: usize = 1 << 10;

// Two that read the largest batch and unpack it to the largest size (which takes twice that while it grows) get their turn.
const _: () = assert!(UNPACKED_BYTES_MAX >= 2 * (BATCH_BYTES_MAX + 2 * BATCH_BYTES_MAX));

/// See the file's head.
pub(crate) struct Memory {
    unpacked: Arc<Semaphore>,
    emitted: Arc<Semaphore>,
    shown: Arc<Semaphore>,
}

/// Memory that was given; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Gives back all but `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            let spare = permit.num_permits().saturating_sub(bytes.div_ceil(UNIT));
            drop(permit.split(spare));
        }
    }
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            unpacked: Arc::new(Semaphore::new(UNPACKED_BYTES_MAX / UNIT)),
            emitted: Arc::new(Semaphore::new(EMITTED_BYTES_MAX / UNIT)),
            shown: Arc::new(Semaphore::new(SHOWN_BYTES_MAX / UNIT)),
        }
    }

    /// Waits, in the order of the calls, for room for what a request's views show. Once for a request: see the file's head.
    pub(crate) async fn show(&self, bytes: usize) -> Held {
        let units = units(bytes.min(SHOWN_BYTES_MAX));
        // It is never closed.
        Held { permit: self.shown.clone().acquire_many_owned(units).await.ok() }
    }

    /// Waits, in the order of the calls, for room to read and unpack. While you hold it, wait for nothing but the calls of
    /// modules: not for their loading, and for no other room.
    pub(crate) async fn unpack(&self, bytes: usize) -> Held {
        let units = units(bytes.min(UNPACKED_BYTES_MAX));
        // It is never closed.
        Held { permit: self.unpacked.clone().acquire_many_owned(units).await.ok() }
    }

    /// Room for what a module has emitted; none when there is too much of it already.
    pub(crate) fn emit(&self, bytes: usize) -> Option<Held> {
        let permit = self.emitted.clone().try_acquire_many_owned(units(bytes)).ok()?;
        Some(Held { permit: Some(permit) })
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn readers_wait_for_their_turn_and_writers_are_told_to_write() {
        let memory = Memory::new();
        let largest = 2 * BATCH_BYTES_MAX;
        let held: Vec<Held> = (0..3).map(|_| memory.unpack(largest).now_or_never().unwrap()).collect();
        assert!(memory.unpack(largest).now_or_never().is_none());
        drop(held);
        assert!(memory.unpack(usize::MAX).now_or_never().is_some(), "however much is asked for, there is an answer");
        let held = memory.emit(EMITTED_BYTES_MAX).unwrap();
        assert!(memory.emit(1).is_none());
        drop(held);
        assert!(memory.emit(1).is_some());
    }
}
