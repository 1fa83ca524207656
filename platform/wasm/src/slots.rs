//! Slots: how many instances there may be at one time, who waits for one, and who gives up an idle one for it.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use millstream_env::Monotonic;
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
    /// Calls that wait for a slot because others hold them all.
    wanted: AtomicUsize,
    keepers: Mutex<Vec<Weak<dyn Idle>>>,
}

impl Slots {
    pub(crate) fn new(instances: u32) -> Self {
        Self {
            free: Arc::new(Semaphore::new(instances as usize)),
            wanted: AtomicUsize::new(0),
            keepers: Mutex::default(),
        }
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
        self.evict_one();
        let slot = Arc::clone(&self.free).acquire_owned().await;
        drop(wanted);
        slot.map_err(|_| CallError::Host { reason: "the runtime was stopped".into() })
    }

    /// Called when an instance was put aside: gives one up again if somebody waits for a slot.
    pub(crate) fn returned(&self) {
        if self.wanted.load(Ordering::SeqCst) > 0 {
            self.evict_one();
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

    fn evict_one(&self) {
        let oldest = self.live().into_iter().filter_map(|keeper| Some((keeper.oldest_idle()?, keeper)));
        if let Some((_, keeper)) = oldest.min_by_key(|(at, _)| *at) {
            keeper.evict_oldest();
        }
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
