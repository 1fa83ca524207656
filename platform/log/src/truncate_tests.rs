//! Truncations over several segments whose power is cut after each change of the disk: what does the next start find?

use bytes::Bytes;
use millstream_env::sim::{DiskOperation, Fault, World};
use millstream_model::{PartitionId, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicId};
use millstream_record::{BatchBuilder, BatchHeader, BatchOptions, batches};

use super::*;
use crate::{LogId, LogOptions, Storage, StorageOptions, sync_plan::Cause};

/// Twelve batches of two records each, three to a segment: segments begin at 0, 6, 12 and 18.
const END: Offset = Offset(24);
/// Where each epoch begins. The last one holds nothing.
const EPOCHS: [(i32, i64); 4] = [(1, 0), (2, 8), (3, 18), (4, 24)];

/// How a log is made that is cut then.
#[derive(Clone, Copy, Debug)]
struct Case {
    durability: Durability,
    /// How many batches a mark covers; with all, the last epoch, too.
    marked: usize,
    /// The log's start, moved just before.
    start: i64,
    /// Where it is cut.
    to: i64,
    /// Its files are cut before the journal gets the frame, or after.
    files_first: bool,
}

struct Bench {
    world: World,
    storage: Option<Storage>,
    log: Option<Arc<PartitionLog>>,
    durability: Durability,
    /// For messages.
    what: String,
}

/// What a log says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    start: Offset,
    end: Offset,
    flushed: Offset,
    /// For each epoch that may be asked for.
    epochs: Vec<Option<(LeaderEpoch, Offset)>>,
    /// The first offset and the epoch of each batch that can be read.
    batches: Vec<(Offset, LeaderEpoch)>,
}

impl Found {
    fn latest(&self) -> i32 {
        self.epochs.last().copied().flatten().map_or(0, |(epoch, _)| epoch.0)
    }
}

fn batch(at: usize) -> Bytes {
    let options = BatchOptions {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(2 * at as i32),
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    for record in 0..2 {
        builder.push(TimestampMs(at as i64 + record), None, Some(&[7; 500]), &[]).unwrap();
    }
    builder.build().unwrap()
}

fn id() -> LogId {
    LogId::records(TopicId::NIL, PartitionId(0))
}

impl Bench {
    fn new(seed: u64, durability: Durability, what: String) -> Self {
        let mut bench = Self { world: World::new(seed), storage: None, log: None, durability, what };
        assert!(bench.start());
        bench
    }

    /// Starts the storage. Whether the disk let it.
    fn start(&mut self) -> bool {
        let options = StorageOptions {
            journal_file_bytes: 64 << 10,
            journal_bytes_max: 1 << 20,
            queue_bytes_max: 64 << 10,
            group_bytes_max: 8 << 10,
            ballast_bytes: 4096,
            reserve_bytes: 4096,
            ..StorageOptions::new("/data")
        };
        let Ok((storage, _)) = Storage::open(options, self.world.env()) else { return false };
        let refused = storage.out_of_service();
        let options = LogOptions { segment_bytes: 3500, durability: self.durability, ..LogOptions::default() };
        assert!(refused.is_empty(), "{}: {refused:?}", self.what);
        self.log = storage.open_log(id(), options).ok();
        self.storage = Some(storage);
        self.log.is_some()
    }

    fn log(&self) -> &Arc<PartitionLog> {
        self.log.as_ref().unwrap()
    }

    /// The disk changes so many times more, and no more.
    fn cut_power_after(&self, changes: u64) {
        self.world.disk().inject(Fault::nth(DiskOperation::Change, changes + 1).for_good());
    }

    /// What a power cut leaves; all that is not durable is lost, or some of it.
    fn crash(&mut self, all: bool) {
        if all {
            self.world.disk().crash_losing_all();
            self.world.first().kill();
        } else {
            self.world.first().crash();
        }
        (self.storage, self.log) = (None, None);
        self.world.disk().clear_faults();
    }

    fn fill(&self, case: Case) {
        let log = self.log();
        for at in 0..12 {
            let offset = 2 * at as i64;
            let (epoch, _) = EPOCHS.iter().rfind(|(_, start)| *start <= offset).unwrap();
            self.world.run_until(log.append(batch(at), LeaderEpoch(*epoch)).unwrap().ticket).unwrap();
            if at + 1 == case.marked {
                assert!(matches!(log.sync(Cause::Turn), Ok(crate::sync_log::Synced::Done)));
            }
        }
        let (epoch, start) = EPOCHS[3];
        assert_eq!((log.end_offset(), END), (Offset(start), Offset(start)));
        self.world.run_until(log.start_epoch(LeaderEpoch(epoch)).unwrap()).unwrap();
        if case.marked == 12 {
            assert!(matches!(log.sync(Cause::Turn), Ok(crate::sync_log::Synced::Done)));
        }
    }

    fn found(&self) -> Found {
        let log = self.log();
        let (start, end) = (log.start_offset(), log.end_offset());
        let mut next = start;
        let mut found = Vec::new();
        while next < end {
            let read = log.read(next, end, 1_000).unwrap();
            for batch in batches(read.batches) {
                let header = *batch.unwrap().header();
                found.push((header.base_offset, header.partition_leader_epoch));
            }
            next = read.next;
        }
        let epochs = (0..6).map(|epoch| log.end_offset_for_epoch(LeaderEpoch(epoch))).collect();
        Found { start, end, flushed: log.flushed_end(), epochs, batches: found }
    }

    /// Checks what a start finds. `done`: the truncation was acknowledged; `moved`: the start was.
    fn check(&self, case: Case, done: bool, moved: bool, what: &str) -> Found {
        let found = self.found();
        let cut = Offset(case.to - case.to % 2).max(Offset(case.start.min(case.to)));
        let what = format!("{what}: {found:?}");
        let start_is_right = found.start == Offset(case.start) || (!moved && found.start == Offset(0));
        assert!(start_is_right, "{what}: its start");
        assert_eq!(found.flushed, found.end, "{what}: what is found is durable");
        // Records: a prefix, which holds all that was acknowledged and not to be cut.
        let durable = match case.durability {
            Durability::Fsync => 24,
            Durability::Replicated => 2 * case.marked as i64,
        };
        let least = cut.min(Offset(durable)).max(found.start);
        assert!(found.end >= least && found.end <= END, "{what}: its end, of at least {least}");
        assert!(!done || found.end <= cut, "{what}: it was cut");
        // Between the two is only what was not durable.
        let whole = found.end <= cut || found.end >= Offset(durable);
        assert!(whole, "{what}: records that were durable are lost past the cut, and others there are not");
        let first = found.start.0 - found.start.0 % 2;
        let expected: Vec<_> = match found.start == found.end {
            true => Vec::new(),
            false => (first..found.end.0).step_by(2).map(|at| (Offset(at), epoch_at(at))).collect(),
        };
        assert_eq!(found.batches, expected, "{what}: its records");
        // Epochs: where there is more than the cut would leave, nothing came of it, and each that had begun has. Each of the records
        // ends where the next one begins.
        let latest = match found.end > cut {
            true => 4,
            false => expected.last().map_or(0, |(_, epoch)| epoch.0),
        };
        assert!(found.latest() >= latest, "{what}: its last epoch, of at least {latest}");
        for (epoch, begin) in EPOCHS.windows(2).map(|pair| (pair[0].0, pair[1].1)) {
            if expected.iter().any(|(_, of)| of.0 == epoch) {
                let end = Offset(begin).min(found.end);
                assert_eq!(found.epochs[epoch as usize], Some((LeaderEpoch(epoch), end)), "{what}: epoch {epoch}");
            }
        }
        assert!(!done || found.latest() == latest, "{what}: an epoch has come back");
        // A producer's last batch is known, and none that is gone.
        for at in 0..12 {
            let header = BatchHeader::parse(&batch(at)).unwrap();
            let is_known = self.log().find_duplicate(&header).is_some();
            let count = found.end.0 / 2;
            let is_there = (at as i64) < count && at as i64 + 5 >= count;
            assert!(is_known == is_there || found.start == found.end, "{what}: batch {at} is known: {is_known}");
        }
        found
    }
}

fn epoch_at(at: i64) -> LeaderEpoch {
    LeaderEpoch(EPOCHS.iter().rfind(|(_, start)| *start <= at).unwrap().0)
}

/// One truncation, whose power is cut after that many changes of the disk, and so is that of the start after it. Whether it was done by
/// then.
fn run(case: Case, changes: u64, seed: u64) -> bool {
    let what = format!("{case:?}, power cut after {changes} changes, seed {seed}");
    let mut bench = Bench::new(seed, case.durability, what.clone());
    bench.fill(case);
    bench.cut_power_after(changes);
    let log = bench.log().clone();
    let moved = (case.start > 0).then(|| log.advance_start(Offset(case.start)).unwrap());
    let cut = log.truncate(Offset(case.to)).unwrap();
    if case.files_first {
        drop(log.sync(Cause::Turn));
    }
    let moved = moved.is_none_or(|ticket| bench.world.run_until(ticket).is_ok());
    let done = bench.world.run_until(cut).is_ok();
    drop(log);
    bench.crash(seed.is_multiple_of(3));
    // The start after it is cut off, too, and the one after that.
    for turn in 0..3 {
        bench.cut_power_after(bench.world.rng().below(30));
        if bench.start() {
            bench.check(case, done, moved, &format!("{what}, start {turn}"));
        }
        bench.crash((seed + turn).is_multiple_of(2));
    }
    assert!(bench.start());
    let found = bench.check(case, done, moved, &what);
    // It is the same each time; and when it has grown past where epochs began, none comes back.
    bench.crash(true);
    assert!(bench.start());
    assert_eq!(bench.found(), found, "{what}: started again");
    let log = bench.log().clone();
    let epoch = LeaderEpoch(found.latest().max(1));
    for at in 12..30 {
        bench.world.run_until(log.append(batch_alone(at), epoch).unwrap().ticket).unwrap();
    }
    assert!(matches!(log.sync(Cause::Turn), Ok(crate::sync_log::Synced::Done)));
    drop(log);
    let grown = bench.found();
    assert_eq!(grown.latest(), epoch.0, "{what}: grown");
    bench.crash(true);
    assert!(bench.start());
    assert_eq!(bench.found(), grown, "{what}: grown, and started again");
    done
}

/// Of no producer that is remembered.
fn batch_alone(at: i64) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(TimestampMs(at), None, Some(&[7; 1000]), &[]).unwrap();
    builder.build().unwrap()
}

/// Records, epochs, the start and what is said to be durable are those of before or of after. They were not, where the log starts within
/// the batch that is cut: a mark that ended below the start spoke of a segment that had gone, and epochs were lost with a start that was
/// not durable yet. With `LOG_SEEDS` more is tried of what a power cut leaves.
#[test]
fn a_truncation_over_several_segments_that_is_cut_short_anywhere_is_done_or_is_not() {
    let more = std::env::var("LOG_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let seeds = more.unwrap_or(1);
    for durability in [Durability::Fsync, Durability::Replicated] {
        for marked in [0, 2, 4, 7, 12] {
            // In the middle of a segment; where one begins, and an epoch; at the beginning; within a batch; and where the start is in
            // that, so that nothing is left.
            for (start, to) in [(0, 10), (0, 8), (0, 12), (0, 18), (0, 0), (0, 23), (3, 9), (9, 9), (3, 3), (13, 13)] {
                for files_first in [false, true] {
                    let case = Case { durability, marked, start, to, files_first };
                    for changes in 0.. {
                        let one = |seed| run(case, changes, 100 * changes + seed);
                        let outcomes: Vec<_> = (0..seeds).map(one).collect();
                        if outcomes.iter().all(|done| *done) {
                            assert!(changes > 2, "{case:?}: nothing has to be changed");
                            break;
                        }
                    }
                }
            }
        }
    }
}
