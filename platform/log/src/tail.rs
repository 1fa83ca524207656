//! The tail cache: the newest batches of the logs that somebody watches, so that who reads at the end touches no disk.
//!
//! A log is *watched* from when a reader has come to its end until a batch is let go that nobody has read. Only then are its
//! batches kept, as they are on disk, each in memory of its own: the producer's bytes are a slice of a request, which would stay
//! in memory as a whole and take its share of what all requests may. A log that nobody watches costs a flag.
//!
//! What is kept of a log follows without a gap and ends where the log does, or is nothing. The oldest batch of all logs is let
//! go first:
//!
//! ```text
//! order:   a7  b3  a8  c1  a9        (log, number of the batch)
//! a: 7 8 9    b: 3    c: 1           what is cut off a log leaves its number in the order, to be passed over
//! ```

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use millstream_model::Offset;
use parking_lot::Mutex;

/// What a kept batch takes beside its bytes, about: its entries here, its allocation and its counter.
const OVERHEAD_BYTES: usize = 160;
/// Batches of less than this are handed out together, in a copy: each piece of an answer has its cost.
const SMALL_BYTES: usize = 8 << 10;
/// How many batches are handed out at once.
const BATCHES_MAX: usize = 1024;

/// All tails of a storage.
pub(crate) struct Tails {
    bytes_max: usize,
    order: Mutex<Order>,
}

#[derive(Default)]
struct Order {
    /// Of what is kept, and of the entries here.
    bytes: usize,
    batches: VecDeque<(Weak<Tail>, u64)>,
}

/// What is kept of one log. Changed under the lock of the log's state, but for what is let go.
pub(crate) struct Tail {
    tails: Arc<Tails>,
    watched: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    batches: VecDeque<Batch>,
    /// The next batch's number.
    next: u64,
    /// How far readers have come.
    read: Offset,
}

struct Batch {
    number: u64,
    base: Offset,
    end: Offset,
    bytes: Bytes,
}

/// A copy of a batch, to be kept once it was appended for good.
pub(crate) struct Copied {
    base: Offset,
    end: Offset,
    bytes: Bytes,
}

impl Copied {
    /// `prefix` and `body` together are the batch as it is on disk.
    pub(crate) fn new(base: Offset, end: Offset, prefix: &[u8], body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(prefix.len() + body.len());
        bytes.extend_from_slice(prefix);
        bytes.extend_from_slice(body);
        Self { base, end, bytes: bytes.into() }
    }
}

impl Tails {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, order: Mutex::default() })
    }

    /// The tail of a log, of which nothing is kept.
    pub(crate) fn tail(self: &Arc<Self>) -> Arc<Tail> {
        Arc::new(Tail { tails: self.clone(), watched: AtomicBool::new(false), kept: Mutex::default() })
    }

    /// Counts what was kept, and lets the oldest go while it is too much. Their memory is given back with no lock held, and so
    /// are tails whose logs have gone meanwhile: what such a one still keeps it takes out of the order, under the order's lock.
    fn keep(&self, tail: &Arc<Tail>, numbers: std::ops::Range<u64>, bytes: usize) {
        let mut gone = Vec::new();
        let mut order = self.order.lock();
        order.bytes += bytes;
        for number in numbers {
            order.bytes += OVERHEAD_BYTES;
            order.batches.push_back((Arc::downgrade(tail), number));
        }
        while order.bytes > self.bytes_max {
            let Some((tail, number)) = order.batches.pop_front() else { break };
            order.bytes -= OVERHEAD_BYTES;
            let Some(tail) = tail.upgrade() else { continue };
            let bytes = tail.let_go(number);
            order.bytes -= bytes.as_ref().map_or(0, Bytes::len);
            gone.push((bytes, tail));
        }
        drop(order);
    }

    /// Bytes that are kept, with what that takes.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.order.lock().bytes
    }
}

impl Tail {
    /// Says that a reader has come to the end: what is appended from now on is kept.
    pub(crate) fn watch_from(&self, end: Offset) {
        if self.tails.bytes_max > 0 {
            self.watched.store(true, Ordering::Relaxed);
            let mut kept = self.kept.lock();
            kept.read = kept.read.max(end);
        }
    }

    /// Whether what is appended is to be kept.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// Keeps what was appended; nothing, if the log is not watched. Called for every append.
    pub(crate) fn push(self: &Arc<Self>, copied: Vec<Copied>) {
        let mut kept = self.kept.lock();
        let follows = copied.first().is_some_and(|first| kept.batches.back().is_none_or(|last| last.end == first.base));
        if !follows && !kept.batches.is_empty() {
            drop(kept);
            self.clear();
            kept = self.kept.lock();
        }
        if copied.is_empty() {
            return;
        }
        let first = kept.next;
        let mut bytes = 0;
        for Copied { base, end, bytes: batch } in copied {
            bytes += batch.len();
            let number = kept.next;
            kept.next += 1;
            kept.batches.push_back(Batch { number, base, end, bytes: batch });
        }
        let numbers = first..kept.next;
        drop(kept);
        self.tails.keep(self, numbers, bytes);
    }

    /// Lets all of it go: the log was cut, or is deleted.
    pub(crate) fn clear(&self) {
        let batches = std::mem::take(&mut self.kept.lock().batches);
        let bytes: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
        self.tails.order.lock().bytes -= bytes;
    }

    /// Lets the batch of this number go, if it is still there: then it is the oldest.
    fn let_go(&self, number: u64) -> Option<Bytes> {
        let mut kept = self.kept.lock();
        if kept.batches.front()?.number != number {
            return None;
        }
        let batch = kept.batches.pop_front()?;
        if kept.batches.is_empty() {
            // Its memory too: many logs are watched, and few are written to.
            kept.batches = VecDeque::new();
        }
        if batch.base >= kept.read {
            self.watched.store(false, Ordering::Relaxed);
        }
        Some(batch.bytes)
    }

    /// Whether the batch that holds an offset is kept.
    pub(crate) fn keeps(&self, from: Offset) -> bool {
        let kept = self.kept.lock();
        let (first, last) = (kept.batches.front(), kept.batches.back());
        first.zip(last).is_some_and(|(first, last)| (first.base..last.end).contains(&from))
    }

    /// Reads whole batches as [`crate::PartitionLog::read`] does; none if the one that holds `from` is not kept. `log_end`: where
    /// the log ends.
    pub(crate) fn read(
        &self,
        from: Offset,
        end: Offset,
        bytes_max: usize,
        log_end: Offset,
    ) -> Option<(Vec<Bytes>, Offset)> {
        let mut kept = self.kept.lock();
        if kept.batches.back()?.end != log_end {
            // The log was cut.
            drop(kept);
            self.clear();
            return None;
        }
        let first = kept.batches.partition_point(|batch| batch.end <= from);
        if kept.batches.get(first)?.base > from {
            return None;
        }
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, from);
        for batch in kept.batches.range(first..).take(BATCHES_MAX) {
            let more = bytes + batch.bytes.len();
            if batch.end > end || (more > bytes_max && !found.is_empty()) {
                break;
            }
            found.push(batch.bytes.clone());
            bytes = more;
            next = batch.end;
        }
        kept.read = kept.read.max(next);
        drop(kept);
        Some((join_small(found), next))
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Has what is small and follows each other in one piece.
fn join_small(parts: Vec<Bytes>) -> Vec<Bytes> {
    let is_small = |part: &Bytes| part.len() < SMALL_BYTES;
    if !parts.windows(2).any(|pair| is_small(&pair[0]) && is_small(&pair[1])) {
        return parts;
    }
    let mut joined: Vec<Bytes> = Vec::new();
    for run in parts.chunk_by(|a, b| is_small(a) && is_small(b)) {
        match run {
            [one] => joined.push(one.clone()),
            many => {
                let mut piece = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
                many.iter().for_each(|part| piece.extend_from_slice(part));
                joined.push(piece.freeze());
            }
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(base: i64, bytes: usize) -> Copied {
        Copied::new(Offset(base), Offset(base + 1), &[], &vec![base as u8; bytes])
    }

    fn append(tail: &Arc<Tail>, base: i64, bytes: usize) {
        let copies = if tail.is_watched() { vec![copied(base, bytes)] } else { Vec::new() };
        tail.push(copies);
    }

    fn is_kept(tail: &Tail, at: i64, end: i64) -> bool {
        tail.read(Offset(at), Offset(at + 1), 1, Offset(end)).is_some_and(|(parts, _)| parts[0][0] == at as u8)
    }

    #[test]
    fn only_what_is_watched_is_kept() {
        let tail = Tails::new(1 << 20).tail();
        append(&tail, 0, 100);
        assert!(!is_kept(&tail, 0, 1) && tail.tails.bytes() == 0);
        tail.watch_from(Offset(1));
        append(&tail, 1, 100);
        assert!(!is_kept(&tail, 0, 2) && is_kept(&tail, 1, 2));
    }

    #[test]
    fn the_oldest_of_all_logs_goes_first_and_the_bound_holds() {
        let tails = Tails::new(10 * (1000 + OVERHEAD_BYTES));
        let logs: Vec<_> = (0..3).map(|_| tails.tail()).collect();
        logs.iter().for_each(|log| log.watch_from(Offset(0)));
        for base in 0..50 {
            for log in &logs {
                append(log, base, 1000);
                log.watch_from(Offset(base + 1));
                assert!(tails.bytes() <= tails.bytes_max);
            }
        }
        let kept = logs.iter().map(|log| (0..50).filter(|at| is_kept(log, *at, 50)).collect::<Vec<_>>());
        assert_eq!(kept.collect::<Vec<_>>(), [vec![47, 48, 49], vec![47, 48, 49], vec![46, 47, 48, 49]]);
        drop(logs);
        assert_eq!(tails.bytes(), 10 * OVERHEAD_BYTES, "it goes with its log");
    }

    /// The log of the batch that is let go is closed meanwhile: the last reference to its tail was dropped under the lock that
    /// a tail takes when it goes, and the appender waited for itself.
    #[test]
    fn a_log_may_go_while_its_batches_are_let_go() {
        const BATCHES: i64 = 3_000;
        let bytes_max = BATCHES as usize * (1 + OVERHEAD_BYTES);
        for round in 0..40 {
            let tails = Tails::new(bytes_max);
            let (going, other) = (tails.tail(), tails.tail());
            for tail in [&going, &other] {
                tail.watch_from(Offset(BATCHES));
            }
            (0..BATCHES).for_each(|base| append(&going, base, 1));
            let (done, appended) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                append(&other, 0, bytes_max - 2 * OVERHEAD_BYTES);
                let _ = done.send(());
            });
            // In the middle of it: half of them have gone.
            while going.kept.lock().batches.len() > BATCHES as usize / 2 {
                std::hint::spin_loop();
            }
            drop(going);
            let outcome = appended.recv_timeout(std::time::Duration::from_secs(20));
            assert!(outcome.is_ok(), "round {round}: the appender hangs");
            assert!(tails.bytes() <= bytes_max);
        }
    }

    #[test]
    fn who_reads_no_more_is_watched_no_more() {
        let tails = Tails::new(5 * (1000 + OVERHEAD_BYTES));
        let tail = tails.tail();
        tail.watch_from(Offset(0));
        for base in 0..100 {
            append(&tail, base, 1000);
        }
        assert!(!tail.is_watched() && tails.bytes() <= 5 * OVERHEAD_BYTES, "{}", tails.bytes());
        tail.watch_from(Offset(100));
        append(&tail, 100, 1000);
        assert!(is_kept(&tail, 100, 101));
    }

    #[test]
    fn what_was_cut_off_is_not_read() {
        let tails = Tails::new(1 << 20);
        let tail = tails.tail();
        tail.watch_from(Offset(0));
        (0..5).for_each(|base| append(&tail, base, 100));
        // Cut to 3, and written on while nobody watches.
        assert!(!is_kept(&tail, 2, 3), "the end tells");
        (3..5).for_each(|base| tail.push(vec![copied(base, 100)]));
        tail.push(Vec::new());
        assert!(!is_kept(&tail, 3, 5) && !is_kept(&tail, 4, 5));
        assert_eq!(tails.bytes(), 7 * OVERHEAD_BYTES);
        // What is left in the order is let go in its turn.
        let small = Tails::new(500);
        let tail = small.tail();
        for base in 0..1000 {
            tail.push(vec![copied(base, 10)]);
            tail.clear();
        }
        assert!(small.bytes() <= 500 && small.order.lock().batches.len() < 10);
    }

    #[test]
    fn small_batches_come_in_one_piece() {
        let sizes = |sizes: &[usize]| {
            let parts = sizes.iter().map(|size| Bytes::from(vec![1; *size])).collect();
            join_small(parts).iter().map(Bytes::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[10, 20, 9000, 30, 9000, 9000, 1, 2, 3]), [30, 9000, 30, 9000, 9000, 6]);
        assert_eq!(sizes(&[9000, 10]), [9000, 10]);
        assert_eq!(sizes(&[]), [0; 0]);
    }
}
