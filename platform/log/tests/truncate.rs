//! Cutting a log's end back: what goes, what must wait, and what comes back after a crash.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{
    batch,
    bench::{Bench, EPOCH},
    log_id, read_all, sequenced,
};
use futures::FutureExt;
use millstream_env::sim::{DiskOperation, Fault};
use millstream_log::{AppendError, CommitError, ReadError, TruncateError};
use millstream_model::{Durability, LeaderEpoch, Offset};

fn bench(durability: Durability) -> Bench {
    Bench::new(5, durability)
}

impl Bench {
    /// Appends batches of two records each; gives them as they are stored.
    fn append(&mut self, count: usize) -> Vec<Bytes> {
        self.append_each(count, 2, 2_000)
    }

    fn truncate(&self, end: i64) {
        let ticket = self.log().truncate(Offset(end)).unwrap();
        self.world.run_until(ticket).unwrap();
    }

    fn check(&self, expected: &[Bytes]) {
        assert_eq!(read_all(&self.log(), self.log().end_offset(), 5_000), expected);
    }
}

#[test]
fn the_batch_that_reaches_past_the_new_end_goes_as_a_whole_and_its_offsets_are_given_again() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        // Where they are synced already, and where not; at a segment's end, and at the log's.
        for (seconds, end, kept) in [(0, 13, 6), (30, 13, 6), (0, 8, 4), (30, 8, 4), (30, 39, 19), (30, 1, 0)] {
            let mut bench = bench(durability);
            let mut expected = bench.append(20);
            bench.world.run_for(Duration::from_secs(seconds));
            let log = bench.log();
            let ticket = log.truncate(Offset(end)).unwrap();
            expected.truncate(kept);
            assert_eq!(log.end_offset(), Offset(2 * kept as i64), "{end}");
            assert!(log.flushed_end() <= log.end_offset());
            assert!(matches!(log.read(Offset(40), Offset(40), 1), Err(ReadError::OutOfRange { .. })));
            bench.check(&expected);
            assert!(matches!(log.append(batch(1, 1, 1), EPOCH), Err(AppendError::Truncating)));
            assert!(matches!(log.start_epoch(LeaderEpoch(9)), Err(AppendError::Truncating)));
            assert!(matches!(log.truncate(Offset(0)), Err(TruncateError::UnderWay)));
            bench.world.run_until(ticket).unwrap();
            bench.check(&expected);
            drop(log);
            expected.extend(bench.append(9));
            bench.check(&expected);
            bench.kill();
            bench.check(&expected);
            if durability == Durability::Fsync {
                bench.crash();
                bench.check(&expected);
            }
        }
    }
}

#[test]
fn what_waits_for_a_batch_that_is_cut_fails() {
    let mut bench = bench(Durability::Fsync);
    bench.append(2);
    let (_, kept) = bench.append_one(2, 2_000).unwrap();
    let (_, cut) = bench.append_one(2, 2_000).unwrap();
    let once = sequenced(7, 0, 0, 1, 10, 1);
    let first = bench.log().append(once.clone(), EPOCH).unwrap().ticket;
    let again = bench.log().append(once.clone(), EPOCH).unwrap();
    assert!(again.duplicate);
    let done = bench.log().truncate(Offset(6)).unwrap();
    let failed = |ticket| matches!(bench.world.run_until(ticket), Err(CommitError::Truncated));
    assert!(failed(cut) && failed(first) && failed(again.ticket));
    bench.world.run_until(kept).unwrap();
    bench.world.run_until(done).unwrap();
    assert_eq!((bench.log().end_offset(), bench.log().flushed_end()), (Offset(6), Offset(6)));
    assert!(!bench.log().append(once, EPOCH).unwrap().duplicate, "the producer has not sent it");
}

#[test]
fn producers_and_epochs_are_those_of_what_is_left() {
    for seconds in [0, 30] {
        let mut bench = bench(Durability::Fsync);
        for (epoch, producer, first) in [(1, 7, 0), (2, 8, 0), (2, 7, 1), (3, 9, 0), (3, 7, 2)] {
            let batch = sequenced(producer, 0, first, 1, 10, 1);
            bench.world.run_until(bench.log().append(batch, LeaderEpoch(epoch)).unwrap().ticket).unwrap();
        }
        bench.world.run_until(bench.log().start_epoch(LeaderEpoch(6)).unwrap()).unwrap();
        bench.world.run_for(Duration::from_secs(seconds));
        bench.truncate(3);
        for _ in 0..2 {
            let log = bench.log();
            assert_eq!(log.latest_epoch(), Some(LeaderEpoch(2)));
            assert_eq!(log.end_offset_for_epoch(LeaderEpoch(6)), Some((LeaderEpoch(2), Offset(3))));
            let known = |producer, first| {
                let batch = sequenced(producer, 0, first, 1, 10, 1);
                log.find_duplicate(&millstream_record::BatchHeader::parse(&batch).unwrap())
                    .map(|found| found.base_offset)
            };
            assert_eq!((known(7, 0), known(8, 0), known(7, 1)), (Some(Offset(0)), Some(Offset(1)), Some(Offset(2))));
            assert_eq!((known(9, 0), known(7, 2)), (None, None));
            drop(log);
            bench.crash();
        }
    }
}

#[test]
fn epochs_without_records_go_too() {
    let bench = bench(Durability::Fsync);
    bench.world.run_until(bench.log().start_epoch(LeaderEpoch(4)).unwrap()).unwrap();
    bench.truncate(0);
    assert_eq!(bench.log().latest_epoch(), None);
    // Else there is nothing to be done.
    assert!(bench.log().truncate(Offset(0)).unwrap().now_or_never().is_some());
    assert!(bench.log().truncate(Offset(5)).unwrap().now_or_never().is_some());
}

#[test]
fn a_log_that_starts_within_the_batch_that_is_cut_is_empty_and_no_start_moves_back() {
    for seconds in [0, 30] {
        let mut bench = bench(Durability::Fsync);
        bench.append(20);
        bench.world.run_for(Duration::from_secs(seconds));
        let started = bench.log().advance_start(Offset(15)).unwrap();
        bench.world.run_until(started).unwrap();
        assert!(matches!(bench.log().truncate(Offset(14)), Err(TruncateError::BelowStart { .. })));
        bench.truncate(15);
        assert_eq!((bench.log().start_offset(), bench.log().end_offset()), (Offset(15), Offset(15)));
        bench.crash();
        assert_eq!((bench.log().start_offset(), bench.log().end_offset()), (Offset(15), Offset(15)));
        let more = bench.append(7);
        bench.check(&more);
        bench.crash();
        bench.check(&more);
    }
}

#[test]
fn a_truncation_that_a_deletion_or_a_failure_overtakes_is_told_so() {
    let mut bench = bench(Durability::Fsync);
    bench.append(5);
    let overtaken = bench.log().truncate(Offset(4)).unwrap();
    let gone = bench.storage().delete_log(log_id(0)).unwrap();
    assert!(matches!(bench.world.run_until(overtaken), Err(CommitError::Deleted)));
    bench.world.run_until(gone).unwrap();

    let mut failing = self::bench(Durability::Fsync);
    failing.append(5);
    let ticket = failing.log().truncate(Offset(4)).unwrap();
    failing.world.disk().inject(Fault::nth(DiskOperation::SyncData, 1).for_good());
    assert!(matches!(failing.world.run_until(ticket), Err(CommitError::Failed(_))));
}

#[test]
fn a_start_that_moves_to_the_new_end_takes_no_epoch_with_it() {
    for operation in [DiskOperation::Write, DiskOperation::SyncData, DiskOperation::SyncDir, DiskOperation::Names] {
        for nth in 1.. {
            let mut bench = bench(Durability::Fsync);
            bench.append(5);
            // So that a mark reaches past the new end.
            bench.world.run_until(bench.storage.take().unwrap().close()).unwrap();
            bench.open();
            bench.world.disk().inject(Fault::nth(operation, nth).for_good());
            let (cut, moved) = (bench.log().truncate(Offset(4)), bench.log().advance_start(Offset(4)));
            let outcomes = [bench.world.run_until(cut.unwrap()), bench.world.run_until(moved.unwrap())];
            bench.world.first().crash();
            bench.world.disk().clear_faults();
            bench.storage = None;
            bench.open();
            assert_eq!(bench.log().latest_epoch(), Some(EPOCH), "{operation:?} {nth}");
            if outcomes.iter().all(Result::is_ok) {
                assert!(nth > 1, "{operation:?} is not called at all");
                break;
            }
        }
    }
}
