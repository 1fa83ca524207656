//! Closing segments that were written, where most of those that may be open wait to be synced: what was written is synced, and that is
//! all. It takes no descriptor, so it goes through where all are taken, and one sync, where a log's own takes several. The log's mark does
//! not move, and the log pins the journal as before; its own sync opens the files again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    PartitionLog, StorageFailed, bytes_io::failing, journal::Journal, queue::Queue, state::Part, sync_all::each,
    sync_log::write_back,
};

/// How many logs are looked at in one step: the sync loop has other work, too.
const STEP_LOGS: usize = 64;

/// How far the logs with something to be synced were looked at: each has its turn.
#[derive(Default)]
pub(crate) struct Round {
    /// Of those that pin the journal, the first frame that was not.
    pin: u64,
    /// How many of the others.
    others: usize,
}

impl Queue {
    /// The logs whose turn it is; none at the end of a round.
    fn next_of_round(&mut self) -> Vec<Arc<PartitionLog>> {
        let Round { pin, others } = &mut self.relief;
        let mut logs = Vec::with_capacity(STEP_LOGS);
        for (lsn, log) in self.pins.range(*pin..).take(STEP_LOGS) {
            logs.push(log.clone());
            *pin = lsn + 1;
        }
        let pinning = logs.len();
        logs.extend(self.unjournaled.iter().chain(&self.due).skip(*others).take(STEP_LOGS - pinning).cloned());
        *others += logs.len() - pinning;
        if logs.is_empty() {
            self.relief = Round::default();
        }
        logs
    }
}

impl PartitionLog {
    /// Syncs what was written to open segments, and closes those that are not written to meanwhile. Whether there was one. (None, where the
    /// log is being synced anyway.)
    ///
    /// # Errors
    /// The failure of a sync, which is spread.
    fn close_written(&self) -> Result<bool, StorageFailed> {
        let Some(_alone) = self.syncing().try_lock() else { return Ok(false) };
        let (written, durable) = {
            let state = self.state();
            if state.life.discarded {
                return Ok(false);
            }
            let open = |part: &Part| Some((part.clone(), part.segment.handle.unsynced()?));
            let written: Vec<_> = state.parts[state.durable.parts..].iter().filter_map(open).collect();
            (written, state.durable.mark)
        };
        let mut closed = false;
        for (part, file) in written {
            let from = durable.filter(|mark| mark.segment_base == part.segment.base).map_or(0, |mark| mark.segment_len);
            let synced = write_back(&*file, from, part.len).and_then(|()| file.sync_data());
            synced.map_err(failing("sync", &part.segment.path)).inspect_err(|failure| {
                self.journal().fail(failure.clone());
            })?;
            closed |= self.close_synced(&part);
        }
        Ok(closed)
    }

    /// Closes a segment of which all was synced that `part` counts, unless it was written to since, or cut. Whether it did.
    fn close_synced(&self, part: &Part) -> bool {
        // Under the lock nobody writes.
        let state = self.state();
        let same = state.len_of(&part.segment) == Some(part.len);
        if same {
            part.segment.handle.close_synced();
        }
        same
    }
}

/// Where most of the segments that may be open wait to be synced, has some of the logs close theirs. Whether to go on.
///
/// # Errors
/// As of [`PartitionLog::close_written`].
pub(crate) fn relieve(journal: &Journal) -> Result<bool, StorageFailed> {
    let closed = AtomicBool::new(false);
    let mut ends = 0;
    while journal.handles.is_pressed() && !closed.load(Ordering::Relaxed) {
        let logs = journal.queue().next_of_round();
        ends += u32::from(logs.is_empty());
        // It may have gone on in the middle of one.
        if ends == 2 {
            break;
        }
        each(journal, &logs, |log| {
            closed.fetch_or(log.close_written()?, Ordering::Relaxed);
            Ok::<_, StorageFailed>(())
        })?;
    }
    Ok(closed.into_inner())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millstream_env::sim::{DiskOperation, Fault, FaultError, World};
    use millstream_model::{Durability, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicId};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::{AppendError, LogId, LogOptions, Storage, StorageOptions, sync_plan::Cause};

    fn batch() -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(1), None, Some(&[7; 1000]), &[]).unwrap();
        builder.build().unwrap()
    }

    fn append(log: &Arc<PartitionLog>, times: usize) {
        for _ in 0..times {
            let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
        }
    }

    /// Logs of segments of three batches. The loops do not run unless they are let.
    fn logs(world: &World, durability: Durability, count: i32) -> (Storage, Vec<Arc<PartitionLog>>) {
        let options = StorageOptions { ballast_bytes: 4096, ..StorageOptions::new("/data") };
        let storage = Storage::open(options, world.env()).unwrap().0;
        let options = LogOptions { segment_bytes: 3500, durability, ..LogOptions::default() };
        let open = |at| storage.open_log(LogId::records(TopicId::NIL, PartitionId(at)), options).unwrap();
        let logs = (0..count).map(open).collect();
        (storage, logs)
    }

    fn unsynced(log: &PartitionLog) -> usize {
        log.journal().handles.all_unsynced().len()
    }

    #[test]
    fn what_is_written_meanwhile_stays_open() {
        let world = World::new(1);
        let (_storage, logs) = logs(&world, Durability::Fsync, 1);
        let log = &logs[0];
        append(log, 1);
        let first = log.state().active().clone();
        append(log, 1);
        assert!(!log.close_synced(&first), "it has grown");
        append(log, 2);
        let second = log.state().active().clone();
        assert!(!log.close_synced(&first), "it has grown, and is not the last any more");
        assert_eq!((unsynced(log), second.segment.base), (2, Offset(3)));
        drop(log.truncate(Offset(3)).unwrap());
        assert!(!log.close_synced(&second), "the log is being cut there");
        assert!(log.close_written().unwrap());
        assert_eq!(unsynced(log), 1, "what is cut is not closed before");
    }

    #[test]
    fn what_was_written_is_synced_and_closed_and_goes_on_to_pin_the_journal() {
        let world = World::new(1);
        let (_storage, logs) = logs(&world, Durability::Fsync, 1);
        let log = &logs[0];
        append(log, 4);
        let before = world.disk().counts().data_syncs;
        assert!(log.close_written().unwrap() && unsynced(log) == 0 && log.journal().handles.open_files() == 0);
        assert_eq!(world.disk().counts().data_syncs - before, 2);
        assert!(!log.close_written().unwrap(), "there is no more");
        assert_eq!(world.disk().counts().data_syncs - before, 2);
        assert!(log.state().durable.mark.is_none() && log.journal().queue().pins.contains_key(&1));
        append(log, 1);
        assert_eq!(unsynced(log), 1);
    }

    #[test]
    fn a_failed_sync_ends_the_storage_and_closes_nothing() {
        let world = World::new(1);
        let (_storage, logs) = logs(&world, Durability::Replicated, 1);
        append(&logs[0], 1);
        world.disk().inject(Fault::nth(DiskOperation::SyncData, 1).on(".log"));
        assert!(logs[0].close_written().is_err() && unsynced(&logs[0]) == 1);
        assert!(logs[0].journal().failure().is_some() && logs[0].append(batch(), LeaderEpoch(1)).is_err());
    }

    /// Nobody would sync it: there is nothing to be synced.
    #[test]
    fn what_an_undone_append_has_opened_may_be_closed() {
        for durability in [Durability::Fsync, Durability::Replicated] {
            let world = World::new(1);
            let (_storage, logs) = logs(&world, durability, 1);
            let log = &logs[0];
            let refused = || {
                world.disk().inject(Fault::nth(DiskOperation::Write, 1).on(".log").with(FaultError::Full));
                assert!(matches!(log.append(batch(), LeaderEpoch(1)), Err(AppendError::StorageFull { .. })));
            };
            refused();
            assert_eq!(unsynced(log), 0);
            append(log, 1);
            refused();
            assert_eq!(unsynced(log), 1, "what was written before");
            let plan = log.plan_sync(Cause::Turn).unwrap();
            refused();
            assert_eq!(unsynced(log), 1, "it is not synced yet");
            log.finish_sync(&plan);
            refused();
            assert_eq!(unsynced(log), 0);
        }
    }

    #[test]
    fn each_log_has_its_turn() {
        for durability in [Durability::Fsync, Durability::Replicated] {
            let world = World::new(1);
            let (_storage, logs) = logs(&world, durability, 150);
            for log in &logs {
                append(log, 1);
            }
            let mut queue = logs[0].journal().queue();
            for at in [0..64, 64..128, 128..150, 0..0, 0..64] {
                let next = queue.next_of_round();
                assert!(next.len() == at.len() && next.iter().zip(&logs[at.clone()]).all(|(a, b)| Arc::ptr_eq(a, b)));
            }
        }
    }
}
