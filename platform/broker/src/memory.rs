//! Memory for records at work in modules: one bound over all transforms and views of a broker; for fetch sessions, subscriptions,
//! and fetches that name many partitions.
//!
//! What is read and unpacked waits for its turn; it is held for a call or a few and given back before anything else is
//! waited for, so the queue moves. What modules have emitted cannot be given back before it is written, so nothing waits
//! for that: whoever gets no room writes what he has.
//!
//! What a view shows is kept until its answer has a share of the memory for frames. So the order is: room to show, room to
//! unpack (given back), a share of frames. Who holds one of them waits only for those that come later; loading a module
//! comes before all, since it may wait behind others that are compiled.

use millstream_env::{Budget, Share};
use millstream_model::limits::BATCH_BYTES_MAX;

use tokio::sync::watch;

use crate::metrics::MemoryMetrics;

/// For what is read and unpacked at one time, bytes.
const UNPACKED_BYTES_MAX: usize = 384 << 20;
/// For what is emitted and not written yet, bytes.
const EMITTED_BYTES_MAX: usize = 256 << 20;
/// For what fetch sessions remember, bytes.
const SESSIONS_BYTES_MAX: usize = 64 << 20;
/// For what fetches hold that name many partitions, bytes.
const FETCHES_BYTES_MAX: usize = 128 << 20;
/// For what subscriptions remember, bytes: of more than a hundred thousand partitions.
const SUBSCRIPTIONS_BYTES_MAX: usize = 64 << 20;
/// What each takes beside its partitions, as much as so many of these.
const SUBSCRIPTION_PARTITIONS: usize = 8;
/// So many partitions may be named for nothing: as many requests as a connection may have under way take little then.
const FETCH_PARTITIONS_FREE: usize = 64;
/// What each takes while it is waited for, bytes; rounded up from what was measured (360).
const FETCH_PARTITION_BYTES: usize = 512;
/// For what views show until it is part of an answer, bytes.
const SHOWN_BYTES_MAX: usize = 128 << 20;

// Two that read the largest batch and unpack it to the largest size (which takes twice that while it grows) get their turn.
const _: () = assert!(UNPACKED_BYTES_MAX >= 2 * (BATCH_BYTES_MAX + 2 * BATCH_BYTES_MAX));

/// See the file's head.
pub(crate) struct Memory {
    unpacked: Budget,
    emitted: Budget,
    shown: Budget,
    fetches: Budget,
    subscriptions: Budget,
    /// How many fetches wait for that.
    fetches_waiting: watch::Sender<usize>,
    /// Of fetch sessions.
    pub(crate) sessions: Budget,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            unpacked: Budget::new(UNPACKED_BYTES_MAX),
            emitted: Budget::new(EMITTED_BYTES_MAX),
            shown: Budget::new(SHOWN_BYTES_MAX),
            fetches: Budget::new(FETCHES_BYTES_MAX),
            subscriptions: Budget::new(SUBSCRIPTIONS_BYTES_MAX),
            fetches_waiting: watch::Sender::new(0),
            sessions: Budget::new(SESSIONS_BYTES_MAX),
        }
    }

    /// What is held of each, and of the memory for frames.
    pub(crate) fn metrics(&self, frames: &Budget) -> Vec<MemoryMetrics> {
        let purposes = [
            ("frames", frames),
            ("unpacked", &self.unpacked),
            ("emitted", &self.emitted),
            ("shown", &self.shown),
            ("fetch_sessions", &self.sessions),
            ("fetches", &self.fetches),
            ("subscriptions", &self.subscriptions),
        ];
        let metrics = |(purpose, budget): (_, &Budget)| {
            let max = budget.total_bytes();
            MemoryMetrics { purpose, used: max.saturating_sub(budget.free_bytes()), max }
        };
        purposes.into_iter().map(metrics).collect()
    }

    /// Waits, in the order of the calls, for room for what a request's views show. Once for a request: see the file's head.
    pub(crate) async fn show(&self, bytes: usize) -> Share {
        self.shown.take(bytes).await
    }

    /// Waits, in the order of the calls, for room to read and unpack. While you hold it, wait for nothing but the calls of
    /// modules: not for their loading, and for no other room.
    pub(crate) async fn unpack(&self, bytes: usize) -> Share {
        self.unpacked.take(bytes).await
    }

    /// Room for a fetch that names so many partitions, itself and its answer before that is one; `None` where it needs none. Waits where there
    /// is none, and has those that wait for records answer at once meanwhile, as [`Memory::is_pressed`] tells them: who asks for much beside
    /// many others asks again and again.
    pub(crate) fn fetch(&self, partitions: usize) -> Option<impl Future<Output = Share> + Send + use<>> {
        if partitions <= FETCH_PARTITIONS_FREE {
            return None;
        }
        let (fetches, waiting) = (self.fetches.clone(), self.fetches_waiting.clone());
        Some(async move {
            let bytes = partitions.saturating_mul(FETCH_PARTITION_BYTES);
            if let Some(share) = fetches.try_take(bytes) {
                return share;
            }
            waiting.send_modify(|count| *count += 1);
            // Also where the wait is given up.
            let _waits = Waits(waiting);
            fetches.take(bytes).await
        })
    }

    /// Room for a subscription to so many partitions, for as long as it lasts; none where others have it all.
    pub(crate) fn subscribe(&self, partitions: usize) -> Option<Share> {
        let bytes = partitions.saturating_add(SUBSCRIPTION_PARTITIONS).saturating_mul(FETCH_PARTITION_BYTES);
        self.subscriptions.try_take(bytes).filter(|_| bytes <= SUBSCRIPTIONS_BYTES_MAX)
    }

    /// Resolves when a fetch waits for room. Who has some should be done soon.
    pub(crate) async fn is_pressed(&self) {
        // The sender is here.
        let _ = self.fetches_waiting.subscribe().wait_for(|count| *count > 0).await;
    }

    /// Room for what a module has emitted; none when there is too much of it already.
    pub(crate) fn emit(&self, bytes: usize) -> Option<Share> {
        self.emitted.try_take(bytes)
    }
}

/// One that waits.
struct Waits(watch::Sender<usize>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn fetches_of_many_partitions_wait_for_room_and_have_the_others_hurry() {
        let memory = Memory::new();
        assert!(memory.fetch(FETCH_PARTITIONS_FREE).is_none());
        let take = || memory.fetch(100_000).unwrap();
        let (first, second) = (take().now_or_never().unwrap(), take().now_or_never().unwrap());
        assert!(memory.is_pressed().now_or_never().is_none());
        let mut third = Box::pin(take());
        assert!(third.as_mut().now_or_never().is_none());
        assert!(memory.is_pressed().now_or_never().is_some());
        drop(first);
        let third = third.as_mut().now_or_never().unwrap();
        assert!(memory.is_pressed().now_or_never().is_none());
        // One that goes away waits no more.
        let mut gone = Box::pin(take());
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        assert!(memory.is_pressed().now_or_never().is_none());
        drop((second, third));
        assert_eq!(memory.fetches.free_bytes(), memory.fetches.total_bytes());
    }

    #[test]
    fn readers_wait_for_their_turn_and_writers_are_told_to_write() {
        let memory = Memory::new();
        let largest = 2 * BATCH_BYTES_MAX;
        let held: Vec<Share> = (0..3).map(|_| memory.unpack(largest).now_or_never().unwrap()).collect();
        assert!(memory.unpack(largest).now_or_never().is_none());
        drop(held);
        assert!(memory.unpack(usize::MAX).now_or_never().is_some(), "however much is asked for, there is an answer");
        let held = memory.emit(EMITTED_BYTES_MAX).unwrap();
        assert!(memory.emit(1).is_none());
        drop(held);
        assert!(memory.emit(1).is_some());
    }
}
