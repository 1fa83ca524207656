//! What a storage tells of itself in numbers: its journal, its logs, its open files.

use std::time::Duration;

use millstream_env::Buckets;
use millstream_model::Offset;

use crate::{LogId, PartitionLog, Storage, journal::Journal};

/// Of how long the journal's syncs take: from what a disk with a cache of its own needs to what makes clients give up.
pub(crate) static SYNC_BOUNDS: [Duration; 13] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// The journal at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalMetrics {
    /// Bytes of files that hold frames which are not recycled yet.
    pub used_bytes: u64,
    /// Most that all files may take together.
    pub max_bytes: u64,
    /// Files, spares included.
    pub files: u64,
    /// Frames that are queued or being written: whoever has appended them is not answered yet.
    pub waiting: usize,
    /// Bytes of those.
    pub waiting_bytes: usize,
    /// Bytes that were written since the start, padding included.
    pub written_bytes: u64,
    /// How long its syncs took, since the start.
    pub syncs: Buckets,
}

/// One log at some moment: what one look at it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMetrics {
    /// The first offset that can be read.
    pub start: Offset,
    /// The offset that the next record gets.
    pub end: Offset,
    /// What its batches take on disk, bytes.
    pub bytes: u64,
    /// Its segments.
    pub segments: usize,
}

impl Journal {
    fn metrics(&self) -> JournalMetrics {
        let (waiting, waiting_bytes) = {
            let queue = self.queue();
            (queue.frames, queue.bytes)
        };
        let (used_bytes, files) = self.ring().taken(&self.options);
        JournalMetrics {
            used_bytes,
            max_bytes: self.options.journal_bytes_max,
            files,
            waiting,
            waiting_bytes,
            written_bytes: self.written_bytes.load(std::sync::atomic::Ordering::Relaxed),
            syncs: self.syncs.buckets(),
        }
    }
}

impl PartitionLog {
    /// Where it begins and ends, and what it takes. One look, under the log's lock: it waits for an append that is being written.
    #[must_use]
    pub fn metrics(&self) -> LogMetrics {
        let state = self.state();
        LogMetrics { start: state.start, end: state.end, bytes: state.size_bytes(), segments: state.parts.len() }
    }
}

impl Storage {
    /// The journal now. Waits for nobody but for a moment.
    #[must_use]
    pub fn journal_metrics(&self) -> JournalMetrics {
        self.journal().metrics()
    }

    /// The files of segments that are open now.
    #[must_use]
    pub fn segments_open(&self) -> usize {
        self.journal().handles.open_files()
    }

    /// Each log in service, one after the other: no two of them are held at a time, so that the whole is of no one moment. In no
    /// order.
    #[must_use]
    pub fn log_metrics(&self) -> Vec<(LogId, LogMetrics)> {
        self.open_logs().iter().map(|log| (log.id(), log.metrics())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_env::sim::World;
    use millstream_model::{LeaderEpoch, PartitionId, TimestampMs, TopicId};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::{LogOptions, StorageOptions};

    #[test]
    fn what_is_appended_is_told_and_what_waits_is_told_until_it_is_durable() {
        let world = World::new(1);
        let storage = Storage::open(StorageOptions::new("/data"), world.env()).unwrap().0;
        let id = LogId::records(TopicId::NIL, PartitionId(0));
        let log = storage.open_log(id, LogOptions::default()).unwrap();
        let before = storage.journal_metrics();
        assert_eq!((before.waiting, before.waiting_bytes, before.syncs.count()), (0, 0, 0));
        let mut builder = BatchBuilder::new(BatchOptions::default());
        (0..3).for_each(|at| builder.push(TimestampMs(at), None, Some(b"value"), &[]).unwrap());
        let batch = builder.build().unwrap();
        let bytes = batch.len() as u64;
        let ticket = log.append(batch, LeaderEpoch(1)).unwrap().ticket;
        let queued = storage.journal_metrics();
        assert_eq!(queued.waiting, 1);
        assert!(queued.waiting_bytes as u64 > bytes, "{queued:?}");
        world.run_until(ticket).unwrap();
        let after = storage.journal_metrics();
        assert_eq!((after.waiting, after.waiting_bytes, after.syncs.count()), (0, 0, 1));
        // A group is a page, or several.
        assert_eq!((after.written_bytes - before.written_bytes, after.used_bytes - before.used_bytes), (4096, 4096));
        assert!(after.files >= 1 && after.used_bytes < after.max_bytes, "{after:?}");
        let told = LogMetrics { start: Offset(0), end: Offset(3), bytes, segments: 1 };
        assert_eq!((storage.log_metrics(), storage.segments_open()), (vec![(id, told)], 1));
        world.run_until(storage.close()).unwrap();
    }

    /// An append that waits for its disk holds its log. Whoever looks at all logs waits there, with nothing in its hands.
    #[test]
    fn who_looks_at_logs_and_waits_for_one_holds_up_no_other() {
        let world = World::new(2);
        let storage = Storage::open(StorageOptions::new("/data"), world.env()).unwrap().0;
        let open = |at| storage.open_log(LogId::records(TopicId::NIL, PartitionId(at)), LogOptions::default()).unwrap();
        let log = open(0);
        let before = Arc::strong_count(&log);
        std::thread::scope(|scope| {
            let held = log.state();
            let looking = scope.spawn(|| storage.log_metrics());
            // Until it has come to the logs.
            while Arc::strong_count(&log) == before {
                std::thread::yield_now();
            }
            let (done, is_done) = std::sync::mpsc::channel();
            let open = &open;
            scope.spawn(move || {
                let _ = done.send(open(1).end_offset());
            });
            assert_eq!(is_done.recv_timeout(Duration::from_secs(60)), Ok(Offset(0)), "it holds what others need");
            assert!(!looking.is_finished());
            drop(held);
            assert_eq!(looking.join().unwrap().len(), 1);
        });
    }
}
