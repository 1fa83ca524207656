//! What was sent and has no fate yet, so that a flush waits for what was sent before it, and for nothing else.
//!
//! Every flush closes a generation: what is sent later belongs to the next one. A flush waits for all generations that are closed; a
//! record's number says whether a flush came after it, so that it need not linger.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Counts what was sent and has no fate yet, by generation.
#[derive(Default)]
pub(super) struct Outstanding(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    /// What is sent now counts here.
    open: Arc<Generation>,
    /// Those before it that were not seen empty.
    closed: Vec<Arc<Generation>>,
}

/// What was sent between two flushes.
#[derive(Default)]
struct Generation {
    number: u64,
    count: AtomicUsize,
    zero: Notify,
}

impl Generation {
    fn is_over(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    async fn over(&self) {
        loop {
            let mut zero = std::pin::pin!(self.zero.notified());
            zero.as_mut().enable();
            if self.is_over() {
                return;
            }
            zero.await;
        }
    }
}

impl Outstanding {
    /// Counts one until it is dropped.
    pub(super) fn one(&self) -> Counted {
        let generations = self.0.lock();
        let open = Arc::clone(&generations.open);
        // Under the lock: nothing joins a generation that was closed.
        open.count.fetch_add(1, Ordering::AcqRel);
        Counted(open)
    }

    /// Closes the generation: its number, and all that is to be waited for.
    pub(super) fn close(&self) -> (u64, Closed) {
        let mut generations = self.0.lock();
        let number = generations.open.number;
        let next = Arc::new(Generation { number: number + 1, ..Generation::default() });
        let open = std::mem::replace(&mut generations.open, next);
        generations.closed.push(open);
        generations.closed.retain(|closed| !closed.is_over());
        (number, Closed(generations.closed.clone()))
    }
}

/// Generations that nothing joins any more.
pub(super) struct Closed(Vec<Arc<Generation>>);

impl Closed {
    /// Ready once all that was sent in them has its fate.
    pub(super) async fn over(self) {
        for generation in self.0 {
            generation.over().await;
        }
    }
}

/// One that was sent and has no fate yet.
pub(super) struct Counted(Arc<Generation>);

impl Counted {
    /// The number of the flush that it is the first to wait for.
    pub(super) fn generation(&self) -> u64 {
        self.0.number
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.zero.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_flush_waits_for_what_was_sent_before_it_and_for_nothing_else() {
        let outstanding = Outstanding::default();
        let (first, second) = (outstanding.one(), outstanding.one());
        let (number, closed) = outstanding.close();
        assert_eq!((number, first.generation()), (0, 0));
        let later = outstanding.one();
        assert_eq!(later.generation(), 1);
        let mut over = pin!(closed.over());
        assert!(over.as_mut().now_or_never().is_none());
        drop(first);
        assert!(over.as_mut().now_or_never().is_none());
        drop(second);
        assert!(over.as_mut().now_or_never().is_some(), "what was sent later is not waited for");
        drop(later);
    }

    #[test]
    fn a_later_flush_waits_for_what_an_earlier_one_left() {
        let outstanding = Outstanding::default();
        let first = outstanding.one();
        let (_, earlier) = outstanding.close();
        drop(earlier);
        let (number, later) = outstanding.close();
        assert_eq!(number, 1);
        let mut over = pin!(later.over());
        assert!(over.as_mut().now_or_never().is_none());
        drop(first);
        assert!(over.as_mut().now_or_never().is_some());
        assert_eq!(outstanding.close().1.0.len(), 0, "those that are over are not kept");
    }
}
