//! A budget of bytes that many share: those who need more than there is wait for others to give back.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What bytes are counted in: a budget of any size fits the counter, and a small frame is not for nothing.
const UNIT: usize = 4 << 10;

/// Bytes that may be held at the same time. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    units: u32,
}

/// A part of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    permit: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of `bytes`, rounded up to whole units of 4 KiB; one unit at least, 16 TiB at most.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1);
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// More than anybody has.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// All bytes that there are: what was asked for, rounded up.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        (self.units as usize).saturating_mul(UNIT)
    }

    /// Bytes that nobody holds at the moment.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.free.available_permits().saturating_mul(UNIT)
    }

    fn units(&self, bytes: usize) -> u32 {
        // Whoever needs more than there is gets all of it: it waits until it is alone.
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units)
    }

    /// A share of `bytes`, if it can be had at once and nobody waits for it.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let permit = self.free.clone().try_acquire_many_owned(self.units(bytes)).ok()?;
        Some(Share { permit })
    }

    /// A share of `bytes` (of the whole budget, where that is less), in the order of asking. Dropping the future takes the
    /// place in the queue back.
    #[expect(clippy::expect_used, reason = "the semaphore is never closed")]
    pub async fn take(&self, bytes: usize) -> Share {
        let units = self.units(bytes);
        Share { permit: self.free.clone().acquire_many_owned(units).await.expect("the budget is open") }
    }
}

impl Share {
    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let spare = self.permit.num_permits().saturating_sub(bytes.div_ceil(UNIT));
        drop(self.permit.split(spare));
    }

    /// The bytes, which hold the share for as long as any slice of them lives.
    #[must_use]
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Holding { bytes, _share: self })
    }

    /// As [`Share::hold`], for bytes that lie in several places and share the share.
    #[must_use]
    pub fn hold_shared(this: &Arc<Self>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Holding { bytes, _share: this.clone() })
    }
}

/// Bytes and what they hold.
struct Holding<S> {
    bytes: Bytes,
    _share: S,
}

impl<S> AsRef<[u8]> for Holding<S> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_share_is_held_by_the_last_slice() {
        let budget = Budget::new(2 * UNIT - 1);
        assert_eq!(budget.total_bytes(), 2 * UNIT);
        let held = budget.take(UNIT + 1).now_or_never().unwrap().hold(Bytes::from_static(b"abc"));
        assert_eq!(budget.free_bytes(), 0);
        let slice = held.slice(1..2);
        drop(held);
        assert_eq!((budget.free_bytes(), &slice[..]), (0, &b"b"[..]));
        drop(slice);
        assert_eq!(budget.free_bytes(), 2 * UNIT);
    }

    #[test]
    fn more_than_there_is_waits_to_be_alone_and_nobody_overtakes() {
        let budget = Budget::new(3 * UNIT);
        let mut first = budget.try_take(2 * UNIT).unwrap();
        let mut all = Box::pin(budget.take(100 * UNIT));
        assert!((&mut all).now_or_never().is_none());
        assert!(budget.try_take(UNIT).is_none(), "what is left is promised");
        first.shrink(1);
        assert!((&mut all).now_or_never().is_none());
        drop(first);
        assert!((&mut all).now_or_never().is_some());
        assert_eq!(budget.free_bytes(), 3 * UNIT);
    }
}
