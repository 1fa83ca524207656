//! Cutting a log's end back: what goes, what must wait, and what comes back after a crash.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::{
    batch,
    bench::{Bench, EPOCH, segment_path},
    log_id,
    meddling::Meddling,
    read_all, sequenced,
};
use futures::FutureExt;
use millstream_env::{
    Disk, Env, OpenMode,
    sim::{DiskOperation, Fault},
};
use millstream_log::{AppendError, CommitError, PartitionLog, ReadError, Storage, Ticket, TruncateError};
use millstream_model::{Durability, LeaderEpoch, Offset};
use millstream_record::BatchHeader;

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

/// Whoever clears the trash finds a directory there that holds nothing yet, and takes it away.
#[test]
fn a_segment_goes_also_where_its_place_in_the_trash_has_gone_before_it() {
    let check = |step: fn(&Arc<PartitionLog>) -> Ticket, expected: &[u64]| {
        let mut bench = Bench::new(7, Durability::Fsync);
        bench.append_each(8, 1, 7_000);
        assert_eq!(bench.names("log"), [0, 2, 4, 6]);
        bench.close();
        let env = bench.world.env();
        let disk = Meddling::new(env.disk.clone());
        let (storage, _) = Storage::open(bench.options.clone(), Env { disk: disk.clone(), ..env }).unwrap();
        let log = storage.open_log(log_id(0), bench.log_options()).unwrap();
        disk.remove_next("/trash/");
        bench.world.run_until(step(&log)).unwrap();
        bench.world.run_for(Duration::from_secs(1));
        assert!(disk.has_removed(), "it did not come to that");
        assert_eq!(bench.names("log"), expected);
    };
    check(|log| log.truncate(Offset(3)).unwrap(), &[0, 2]);
    check(|log| log.advance_start(Offset(4)).unwrap(), &[4, 6]);
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
                log.find_duplicate(&BatchHeader::parse(&batch).unwrap()).map(|found| found.base_offset)
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

/// Producers' batches of a record each, some in every segment and some in one only; which producer sent the batch at an offset, and
/// with which sequence.
#[derive(Clone, Default)]
struct Sent(Vec<(i64, i32)>);

impl Sent {
    /// Sends `count` more, each durable before the next. `others`: by whom but for the first producer.
    fn send(&mut self, bench: &Bench, count: usize, others: std::ops::Range<i64>) {
        for at in 0..count {
            let producer = if at % 3 == 0 { 0 } else { others.start + at as i64 % (others.end - others.start) };
            let number = self.0.iter().filter(|(id, _)| *id == producer).count() as i32;
            let batch = sequenced(producer, 0, number, 1, 1_400, number.into());
            let appended = bench.log().append(batch, EPOCH).unwrap();
            assert!(!appended.duplicate);
            assert_eq!(appended.base_offset, Offset(self.0.len() as i64));
            bench.world.run_until(appended.ticket).unwrap();
            self.0.push((producer, number));
        }
    }

    /// Four segments' worth, each with producers that no other has.
    fn fill(&mut self, bench: &Bench) {
        for segment in 1..5 {
            self.send(bench, 13, 10 * segment..10 * segment + 3);
        }
    }

    /// The log must know the last five of each producer, and no more.
    fn check(&self, bench: &Bench, what: &str) {
        let log = bench.log();
        assert_eq!(log.end_offset(), Offset(self.0.len() as i64), "{what}");
        let mut seen = std::collections::HashMap::new();
        for (at, (producer, number)) in self.0.iter().enumerate().rev() {
            let header = BatchHeader::parse(&sequenced(*producer, 0, *number, 1, 1_400, 0)).unwrap();
            let found = log.find_duplicate(&header).map(|found| found.base_offset);
            let seen = seen.entry(producer).or_insert(0);
            *seen += 1;
            assert_eq!(found, (*seen <= 5).then_some(Offset(at as i64)), "{what}: {producer} {number}");
        }
        // Nor what it does not hold.
        for producer in (10..60).filter(|id| !self.0.iter().any(|(sent, _)| sent == id)) {
            let header = BatchHeader::parse(&sequenced(producer, 0, 0, 1, 1_400, 0)).unwrap();
            assert!(log.find_duplicate(&header).is_none(), "{what}: {producer}");
        }
    }
}

/// Flips a byte in each batch of the segments below an offset: whoever walks over them finds none.
fn rot(bench: &Bench, below: u64) -> usize {
    let bases: Vec<_> = bench.names("log").into_iter().filter(|base| *base < below).collect();
    for base in &bases {
        for at in (100..18_900).step_by(1_400) {
            bench.world.disk().corrupt(&segment_path(*base), at, 1).unwrap();
        }
    }
    bases.len()
}

fn snapshot_path(at: u64) -> std::path::PathBuf {
    segment_path(at).with_extension("producers")
}

#[test]
fn producers_are_found_again_from_the_segment_alone_in_which_the_log_is_cut() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        // As it was left, closed and opened, and killed; what is not synced yet is not walked over either.
        for (seconds, how) in [(0, "open"), (30, "open"), (30, "close"), (30, "kill")] {
            // At a segment's begin, in the middle of one, in the last.
            for end in [26, 30, 38, 45] {
                let mut bench = bench(durability);
                let mut sent = Sent::default();
                sent.fill(&bench);
                assert_eq!(bench.names("log"), [0, 13, 26, 39]);
                bench.world.run_for(Duration::from_secs(seconds));
                match how {
                    "close" => {
                        bench.close();
                        bench.open();
                    }
                    "kill" => bench.kill(),
                    _ => {}
                }
                assert_eq!(rot(&bench, end / 13 * 13), end as usize / 13);
                bench.truncate(end as i64);
                sent.0.truncate(end as usize);
                sent.check(&bench, &format!("{durability:?} {seconds} {how} {end}"));
                sent.send(&bench, 20, 50..53);
                sent.check(&bench, "sent again");
                bench.close();
                bench.open();
                sent.check(&bench, "opened again");
            }
        }
    }
}

#[test]
fn a_truncation_that_is_cut_short_anywhere_leaves_the_producers_of_what_is_there() {
    for operation in [
        DiskOperation::Write,
        DiskOperation::SyncData,
        DiskOperation::SyncDir,
        DiskOperation::Names,
        DiskOperation::Resize,
        DiskOperation::Open,
    ] {
        for nth in 1.. {
            // What a power cut leaves of what was not synced is different each time.
            let mut outcomes = Vec::new();
            for seed in 0..4 {
                let what = format!("{operation:?} {nth}, seed {seed}");
                let mut bench = Bench::new(seed, Durability::Fsync);
                let mut sent = Sent::default();
                sent.fill(&bench);
                match seed % 2 {
                    // The next sync of the log makes names durable, whatever they are.
                    0 => {
                        bench.close();
                        bench.open();
                    }
                    // It need not.
                    _ => bench.world.run_for(Duration::from_secs(30)),
                }
                bench.world.disk().inject(Fault::nth(operation, nth).for_good());
                let done = bench.log().truncate(Offset(17)).map(|ticket| bench.world.run_until(ticket));
                bench.world.first().crash();
                bench.world.disk().clear_faults();
                bench.storage = None;
                let left = bench.names("producers");
                bench.open();
                let end = bench.log().end_offset();
                let is_done = matches!(done, Ok(Ok(())));
                assert!(end == Offset(17) || (end == Offset(52) && !is_done), "{what}: {end}");
                assert!(
                    !is_done || left.iter().all(|at| *at <= 17),
                    "{what}: {left:?} from beyond the cut may come back"
                );
                assert!(bench.names("producers").iter().all(|at| *at <= end.0 as u64), "{what}: they are past the end");
                sent.0.truncate(end.0 as usize);
                sent.check(&bench, &what);
                // Others come in their place, and are cut, too.
                sent.send(&bench, 30, 50..53);
                sent.check(&bench, &what);
                let end = end.0 + 20;
                bench.world.run_for(Duration::from_secs(30 * (seed % 2)));
                bench.truncate(end);
                sent.0.truncate(end as usize);
                sent.check(&bench, &what);
                bench.crash();
                sent.check(&bench, &what);
                outcomes.push(is_done);
            }
            if outcomes.iter().all(|is_done| *is_done) {
                assert!(nth > 1, "{operation:?} is not called at all");
                break;
            }
        }
    }
}

#[test]
fn a_log_without_producers_is_not_walked_over() {
    let mut bench = bench(Durability::Fsync);
    let expected = bench.append(20);
    bench.world.run_for(Duration::from_secs(30));
    let reads = || bench.world.disk().counts().reads;
    let before = reads();
    let ticket = bench.log().truncate(Offset(39)).unwrap();
    let found = reads();
    bench.world.run_until(ticket).unwrap();
    // The snapshot, which is empty.
    assert!(found > before && reads() == found + 1, "{before} {found} {}", reads());
    bench.check(&expected[..19]);
}

/// As in a log that was appended to by others since: what was written down of offsets that are given again is not of them.
#[test]
fn a_snapshot_from_beyond_a_cut_is_of_no_use_to_the_next() {
    for seconds in [0, 30] {
        let bench = bench(Durability::Fsync);
        let mut sent = Sent::default();
        sent.fill(&bench);
        bench.world.run_for(Duration::from_secs(30));
        bench.truncate(20);
        sent.0.truncate(20);
        assert!(bench.names("producers").iter().all(|at| *at <= 20), "{:?}", bench.names("producers"));
        // The segments begin where they began before.
        sent.send(&bench, 30, 50..53);
        bench.world.run_for(Duration::from_secs(seconds));
        bench.truncate(43);
        sent.0.truncate(43);
        sent.check(&bench, "cut again");
    }
}

#[test]
fn producers_from_below_the_start_are_known_after_a_truncation() {
    for (seconds, start, end) in [(0, 14, 20), (30, 14, 20), (30, 26, 26), (30, 26, 39), (30, 30, 31), (30, 39, 45)] {
        for crashes in [false, true] {
            let mut bench = bench(Durability::Fsync);
            let mut sent = Sent::default();
            sent.fill(&bench);
            bench.world.run_for(Duration::from_secs(seconds));
            let moved = bench.log().advance_start(Offset(start)).unwrap();
            bench.world.run_until(moved).unwrap();
            bench.world.run_for(Duration::from_secs(seconds));
            if crashes {
                bench.crash();
            }
            let first = start as u64 / 13 * 13;
            assert!((seconds == 0 && !crashes) || bench.names("log")[0] == first, "what is below has gone");
            bench.truncate(end);
            sent.0.truncate(end as usize);
            let what = format!("{seconds} {start} {end} {crashes}");
            sent.check(&bench, &what);
            bench.crash();
            sent.check(&bench, &what);
        }
    }
}

/// A power cut may leave the name of a segment that no mark covers yet, and none of its batches: it is gone on with.
#[test]
fn a_segment_whose_batches_were_lost_has_producers_of_its_own_all_the_same() {
    let mut bench = bench(Durability::Replicated);
    let mut sent = Sent::default();
    sent.send(&bench, 13, 10..13);
    bench.close();
    let lost = bench.world.disk().open(&segment_path(13), OpenMode::Create).unwrap();
    lost.write_at(&[std::io::IoSlice::new(&[0; 512])], 0).unwrap();
    drop(lost);
    bench.open();
    sent.send(&bench, 20, 20..23);
    let moved = bench.log().advance_start(Offset(14)).unwrap();
    bench.world.run_until(moved).unwrap();
    bench.world.run_for(Duration::from_secs(30));
    assert_eq!(bench.names("log"), [13, 26]);
    bench.truncate(20);
    sent.0.truncate(20);
    sent.check(&bench, "cut");
}

#[test]
fn a_snapshot_that_is_not_sound_is_made_up_for_by_the_one_before() {
    // The one of the segment in which the log is cut, and all but the first.
    for lost in [vec![39], vec![26, 39], vec![13, 26, 39]] {
        for removed in [false, true] {
            let bench = bench(Durability::Fsync);
            let mut sent = Sent::default();
            sent.fill(&bench);
            bench.world.run_for(Duration::from_secs(30));
            for at in &lost {
                match removed {
                    true => bench.world.disk().remove_file(&snapshot_path(*at)).unwrap(),
                    false => bench.world.disk().corrupt(&snapshot_path(*at), 30, 0xff).unwrap(),
                }
            }
            // Those before it are not even looked at.
            assert_eq!(rot(&bench, lost[0] - 13), lost[0] as usize / 13 - 1);
            bench.truncate(45);
            sent.0.truncate(45);
            sent.check(&bench, &format!("{lost:?} {removed}"));
        }
    }
}

#[test]
fn a_start_that_finds_the_marks_snapshot_damaged_reads_from_the_one_before() {
    for damaged in [vec![52], vec![39, 52]] {
        let mut bench = bench(Durability::Fsync);
        let mut sent = Sent::default();
        sent.fill(&bench);
        bench.close();
        for at in &damaged {
            bench.world.disk().corrupt(&snapshot_path(*at), 30, 0xff).unwrap();
        }
        let before = if damaged.len() == 1 { 39 } else { 26 };
        assert_eq!(rot(&bench, before), before as usize / 13);
        bench.open();
        sent.check(&bench, &format!("{damaged:?}"));
    }
}

#[test]
fn snapshots_go_with_their_segments_and_strays_at_a_start() {
    let mut bench = bench(Durability::Fsync);
    let mut sent = Sent::default();
    sent.fill(&bench);
    bench.close();
    bench.open();
    // The last one is the mark's.
    assert_eq!(bench.names("producers"), [13, 26, 39, 52]);
    let moved = bench.log().advance_start(Offset(30)).unwrap();
    bench.world.run_until(moved).unwrap();
    bench.world.run_for(Duration::from_secs(30));
    assert_eq!((bench.names("log"), bench.names("producers")), (vec![26, 39], vec![26, 39, 52]));
    // Left half-written, from within a segment, and from past the end.
    for name in
        ["00000000000000000026.producers.new", "00000000000000000030.producers", "00000000000000000065.producers"]
    {
        let path = snapshot_path(0).with_file_name(name);
        bench.world.disk().open(&path, OpenMode::Create).unwrap().sync_data().unwrap();
        bench.world.disk().sync_dir(path.parent().unwrap()).unwrap();
    }
    bench.crash();
    assert_eq!(bench.names("producers"), [26, 39, 52]);
    assert!(bench.names("new").is_empty());
    sent.check(&bench, "started");
    // One that the mark names goes with the next, unless it is of where a segment begins.
    sent.send(&bench, 1, 50..53);
    bench.close();
    assert_eq!((bench.names("log"), bench.names("producers")), (vec![26, 39, 52], vec![26, 39, 52, 53]));
    bench.open();
    sent.check(&bench, "closed");
}
