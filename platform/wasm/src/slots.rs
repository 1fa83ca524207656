//! Slots: how many instances there may be at one time and how much memory they may hold together, who waits for that,
//! and who gives up an idle instance for it.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use millstream_env::{Clock, Monotonic};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::CallError;

/// Somebody who keeps idle instances and can give them up.
pub(crate) trait Idle: Send + Sync {
    /// Since when the oldest idle instance has been idle; none if there is none.
    fn oldest_idle(&self) -> Option<Monotonic>;
    /// Gives up the oldest idle instance.
    fn evict_oldest(&self);
    /// Gives up all that were idle before `deadline` already.
    fn evict_before(&self, deadline: Monotonic);
}

/// The instances that all pools together may have.
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    instances_max: usize,
    /// Calls that wait for a slot because others hold them all.
    wanted: AtomicUsize,
    keepers: Mutex<Vec<Weak<dyn Idle>>>,
    /// What all instances together may hold, bytes, and what they hold.
    memory_max: usize,
    memory: AtomicUsize,
    wait_max: Duration,
    clock: Arc<dyn Clock>,
}

impl Slots {
    pub(crate) fn new(instances: u32, memory_max: usize, wait_max: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            free: Arc::new(Semaphore::new(instances as usize)),
            instances_max: instances as usize,
            wanted: AtomicUsize::new(0),
            keepers: Mutex::default(),
            memory_max,
            memory: AtomicUsize::new(0),
            wait_max,
            clock,
        }
    }

    /// How many instances there are, and how many there may be.
    pub(crate) fn instances(&self) -> (usize, usize) {
        (self.instances_max.saturating_sub(self.free.available_permits()), self.instances_max)
    }

    /// What all instances together hold, and what they may hold, bytes.
    pub(crate) fn memory(&self) -> (usize, usize) {
        (self.memory.load(Ordering::Relaxed), self.memory_max)
    }

    /// How long a call may wait for an instance.
    pub(crate) fn wait_max(&self) -> Duration {
        self.wait_max
    }

    /// Makes a keeper of idle instances known, for as long as it lives.
    pub(crate) fn register(&self, keeper: Weak<dyn Idle>) {
        let mut keepers = self.keepers.lock();
        keepers.retain(|keeper| keeper.strong_count() > 0);
        keepers.push(keeper);
    }

    /// Waits for the right to have one more instance. Has idle instances given up where that is needed.
    pub(crate) async fn take(&self) -> Result<OwnedSemaphorePermit, CallError> {
        if let Ok(slot) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(slot);
        }
        // Counted before looking: whoever returns an instance either sees the count or has its instance seen.
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let wanted = Wanted(&self.wanted);
        let _ = self.evict_one();
        let slot = crate::within(&*self.clock, self.wait_max, Arc::clone(&self.free).acquire_owned()).await;
        let waiting = u32::try_from(self.wanted.load(Ordering::SeqCst)).unwrap_or(u32::MAX);
        drop(wanted);
        let slot = slot.ok_or(CallError::Exhausted { waiting })?;
        slot.map_err(|_| CallError::Host { reason: "the runtime was stopped".into() })
    }

    /// Called when an instance was put aside: gives one up again if somebody waits for a slot.
    pub(crate) fn returned(&self) {
        if self.wanted.load(Ordering::SeqCst) > 0 {
            let _ = self.evict_one();
        }
    }

    /// Gives up all instances that were idle before `deadline` already.
    pub(crate) fn evict_before(&self, deadline: Monotonic) {
        for keeper in self.live() {
            keeper.evict_before(deadline);
        }
    }

    fn live(&self) -> Vec<Arc<dyn Idle>> {
        self.keepers.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether there was one to give up.
    fn evict_one(&self) -> bool {
        let oldest = self.live().into_iter().filter_map(|keeper| Some((keeper.oldest_idle()?, keeper)));
        let Some((_, keeper)) = oldest.min_by_key(|(at, _)| *at) else { return false };
        keeper.evict_oldest();
        true
    }

    fn take_memory(&self, bytes: usize) -> bool {
        let add = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.memory_max);
        self.memory.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }
}

/// What one instance holds of the memory of all; given back on drop.
pub(crate) struct Share {
    slots: Arc<Slots>,
    held: usize,
}

impl Share {
    pub(crate) fn new(slots: Arc<Slots>) -> Self {
        Self { slots, held: 0 }
    }

    /// What all instances together may hold, bytes.
    pub(crate) fn max(&self) -> usize {
        self.slots.memory_max
    }

    /// Takes more, if there is more: idle instances are given up for it, the oldest first.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        while !self.slots.take_memory(bytes) {
            if !self.slots.evict_one() {
                return false;
            }
        }
        self.held += bytes;
        true
    }

    /// Gives a part back.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        self.slots.memory.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.held);
    }
}

struct Wanted<'a>(&'a AtomicUsize);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A place in a bounded queue; left on drop.
pub(crate) struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    /// # Errors
    /// The number of those who wait, when that is `max` already.
    pub(crate) fn enter(count: &'a AtomicU32, max: u32) -> Result<Self, u32> {
        count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| (waiting < max).then_some(waiting + 1))
            .map(|_| Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_takes_no_more_than_it_may() {
        let count = AtomicU32::new(0);
        let first = Waiting::enter(&count, 1).unwrap();
        assert_eq!(Waiting::enter(&count, 1).err(), Some(1));
        drop(first);
        Waiting::enter(&count, 1).unwrap();
    }
}
