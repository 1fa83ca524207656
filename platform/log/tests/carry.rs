//! Carrying logs forward in the journal: what it saves, and what a crash leaves of what was carried.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{batch, log_id, options, read_all, sequenced, stored};
use millstream_env::{
    Disk, OpenMode,
    sim::{DiskOperation, Fault, World},
};
use millstream_log::{LogOptions, OpenError, PartitionLog, Storage, StorageOptions, Ticket};
use millstream_model::{LeaderEpoch, Offset};
use millstream_record::BatchHeader;

const EPOCH: LeaderEpoch = LeaderEpoch(1);
/// Above what the busy log appends.
const REF_BYTES: usize = 20_000;
/// The log that fills the journal.
const BUSY: i32 = 1_000;

struct Bench {
    world: World,
    storage: Option<Storage>,
    time: i64,
    /// What was acknowledged of the logs before the busy one.
    stored: Vec<Vec<Bytes>>,
}

impl Bench {
    fn new(seed: u64, logs: usize) -> Self {
        let mut bench = Self { world: World::new(seed), storage: None, time: 0, stored: vec![Vec::new(); logs] };
        bench.open().unwrap();
        bench
    }

    fn open(&mut self) -> Result<(), OpenError> {
        // What is carried is at most a fourth of a file; no log is synced for want of open files.
        let options = StorageOptions {
            append_ref_bytes: REF_BYTES,
            journal_file_bytes: 256 << 10,
            journal_bytes_max: 1 << 20,
            open_segments_max: 1_000,
            ..options(Path::new("/data"))
        };
        self.storage = None;
        self.storage = Some(Storage::open(options, self.world.env())?.0);
        Ok(())
    }

    fn log(&self, partition: i32) -> Arc<PartitionLog> {
        self.storage.as_ref().unwrap().open_log(log_id(partition), LogOptions::default()).unwrap()
    }

    /// Appends one batch to each of the logs that are not busy.
    fn append_to_all(&mut self) {
        let mut tickets = Vec::new();
        for partition in 0..self.stored.len() {
            self.time += 1;
            let batch = batch(1, 100, self.time);
            let appended = self.log(partition as i32).append(batch.clone(), EPOCH).unwrap();
            self.stored[partition].push(stored(&batch, appended.base_offset, EPOCH));
            tickets.push(appended.ticket);
        }
        for ticket in tickets {
            self.world.run_until(ticket).unwrap();
        }
    }

    fn append_busy(&mut self) -> Option<Ticket> {
        self.time += 1;
        let log = self.storage.as_ref().unwrap().log(log_id(BUSY)).unwrap_or_else(|| self.log(BUSY));
        let appended = log.append(batch(1, 12_000, self.time), EPOCH).ok()?;
        self.world.run_for(Duration::from_millis(1));
        Some(appended.ticket)
    }

    /// Fills as many journal files.
    fn turn(&mut self, files: usize) {
        for _ in 0..files * 21 {
            let ticket = self.append_busy().unwrap();
            self.world.run_until(ticket).unwrap();
        }
    }

    fn check(&self) {
        for (partition, stored) in self.stored.iter().enumerate() {
            let log = self.log(partition as i32);
            assert_eq!(&read_all(&log, log.end_offset(), 5_000), stored, "log {partition}");
        }
    }

    fn crash(&mut self) {
        self.end(false);
    }

    /// The process is killed or the power fails, and there is a start.
    fn end(&mut self, kill: bool) {
        match kill {
            true => self.world.first().kill(),
            false => self.world.first().crash(),
        }
        self.open().unwrap();
    }

    /// The journal's frames of one kind: the file, and where it is there.
    fn frames(&self, kind: u8) -> Vec<(std::path::PathBuf, u64)> {
        let mut found = Vec::new();
        for path in self.world.disk().read_dir(Path::new("/data/journal")).unwrap() {
            if path.extension().is_none_or(|extension| extension != "journal") {
                continue;
            }
            let file = self.world.disk().open(&path, OpenMode::Read).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(&mut bytes, 0).unwrap();
            let nonce = bytes[40..48].to_vec();
            let is_one = |head: &[u8]| head[..4] == *b"MSfr" && head[8..16] == nonce && head[32] == kind;
            let frames = bytes.windows(104).enumerate().filter(|(_, head)| is_one(head));
            found.extend(frames.map(|(at, _)| (path.clone(), at as u64)));
        }
        found
    }
}

/// Twelve turns of the journal with a batch of each of many logs in each turn: how many syncs, of files and of directories.
fn syncs(others: bool) -> (u64, u64) {
    let mut bench = Bench::new(1, 60);
    let before = bench.world.disk().counts();
    for turn in 0..12 {
        bench.append_to_all();
        if others {
            // A frame that is no batch's: the log must be synced.
            for partition in 0..bench.stored.len() as i32 {
                let log = bench.log(partition);
                drop(log.advance_start(Offset(turn)).unwrap());
            }
        }
        bench.turn(2);
    }
    let after = bench.world.disk().counts();
    (after.data_syncs - before.data_syncs, after.dir_syncs - before.dir_syncs)
}

#[test]
fn carrying_saves_the_syncs_of_logs_with_little_traffic() {
    let (files, names) = syncs(false);
    let (files_synced, names_synced) = syncs(true);
    eprintln!("syncs of files and directories: {files} and {names} carried, {files_synced} and {names_synced} synced");
    // The commits of the busy log are in both.
    assert!(files + 500 < files_synced, "{files} of {files_synced}");
    assert!(names * 4 < names_synced, "{names} of {names_synced}");
}

#[test]
fn what_was_carried_is_there_after_a_crash_though_its_first_frames_are_gone() {
    for (seed, kill) in [(1, false), (2, false), (3, true)] {
        let mut bench = Bench::new(seed, 5);
        // In the first file, in the middle, and near the end.
        bench.append_to_all();
        bench.turn(1);
        bench.append_to_all();
        bench.turn(2);
        bench.append_to_all();
        let carried = bench.frames(8).len();
        assert_eq!(carried, 5, "each was carried once");
        let first = format!("{:020}.journal", 1);
        assert!(!bench.world.disk().exists(&Path::new("/data/journal").join(first)).unwrap(), "which is recycled");
        let marks = (0..5).filter(|partition| {
            let dir = format!("/data/logs/{}/{partition}/records-0/mark", log_id(0).topic);
            bench.world.disk().exists(Path::new(&dir)).unwrap()
        });
        assert_eq!(marks.count(), 0, "and none was ever synced");
        bench.end(kill);
        bench.check();
        // And goes on.
        for _ in 0..3 {
            bench.append_to_all();
            bench.turn(3);
            bench.crash();
            bench.check();
        }
    }
}

#[test]
fn a_crash_at_any_call_of_the_disk_loses_nothing_of_what_is_carried() {
    let mut carried = 0;
    for operation in [
        DiskOperation::Write,
        DiskOperation::SyncData,
        DiskOperation::SyncDir,
        DiskOperation::Names,
        DiskOperation::Open,
    ] {
        for nth in 1.. {
            let mut bench = Bench::new(nth, 3);
            bench.append_to_all();
            bench.turn(1);
            bench.append_to_all();
            // The journal is half full soon: what follows carries, recycles, and goes on to another file.
            bench.world.disk().inject(Fault::nth(operation, nth).for_good());
            let failed = (0..35).any(|_| bench.append_busy().is_none());
            bench.world.first().crash();
            bench.world.disk().clear_faults();
            carried += bench.frames(8).len();
            bench.open().unwrap();
            bench.check();
            bench.crash();
            bench.check();
            if !failed {
                assert!(nth > 1, "{operation:?} is not called at all");
                break;
            }
        }
    }
    assert!(carried > 0, "nothing was carried");
}

/// Of batches of which the journal has no more than a reference nothing is carried, wherever they lie among others.
#[test]
fn what_was_synced_for_a_reference_is_not_carried() {
    for kill in [false, true] {
        let mut bench = Bench::new(1, 3);
        let append = |bench: &mut Bench, partition: usize, bytes| {
            bench.time += 1;
            let batch = batch(1, bytes, bench.time);
            let appended = bench.log(partition as i32).append(batch.clone(), EPOCH).unwrap();
            bench.stored[partition].push(stored(&batch, appended.base_offset, EPOCH));
            bench.world.run_until(appended.ticket).unwrap();
        };
        for (partition, sizes) in
            [[100, REF_BYTES, 100], [REF_BYTES, 100, 100], [100, 100, REF_BYTES]].iter().enumerate()
        {
            sizes.iter().for_each(|bytes| append(&mut bench, partition, *bytes));
        }
        bench.turn(3);
        let carried = bench.frames(8);
        let bases = carried.iter().map(|(path, at)| {
            let mut bytes = [0; 40];
            let file = bench.world.disk().open(path, OpenMode::Read).unwrap();
            file.read_at(&mut bytes, at + 56).unwrap();
            let offset = |at| i64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
            (i32::from_be_bytes(bytes[..4].try_into().unwrap()), offset(24), offset(32))
        });
        // The third has nothing past its mark.
        assert_eq!(bases.collect::<Vec<_>>(), [(0, 2, 3), (1, 1, 3)]);
        assert_eq!(bench.frames(2).len(), 0, "the file with the references is recycled");
        bench.end(kill);
        bench.check();
        for partition in 0..3 {
            append(&mut bench, partition, REF_BYTES);
            append(&mut bench, partition, 100);
        }
        bench.turn(3);
        bench.end(kill);
        bench.check();
    }
}

#[test]
fn epochs_and_producers_are_carried_with_their_batches() {
    let mut bench = Bench::new(1, 0);
    let log = bench.log(0);
    let send = |first, epoch| log.append(sequenced(7, 0, first, 1, 50, 1), LeaderEpoch(epoch)).unwrap();
    for (first, epoch) in [(0, 1), (1, 1), (2, 4), (3, 6)] {
        bench.world.run_until(send(first, epoch).ticket).unwrap();
    }
    drop(log);
    bench.turn(3);
    assert!(!bench.frames(8).is_empty(), "it was carried");
    bench.crash();
    let log = bench.log(0);
    let epoch_of = |epoch| log.end_offset_for_epoch(LeaderEpoch(epoch)).map(|(epoch, end)| (epoch.0, end.0));
    assert_eq!((epoch_of(1), epoch_of(5), epoch_of(9)), (Some((1, 2)), Some((4, 3)), Some((6, 4))));
    for first in 0..4 {
        let header = BatchHeader::parse(&sequenced(7, 0, first, 1, 50, 1)).unwrap();
        assert_eq!(log.find_duplicate(&header).map(|found| found.base_offset.0), Some(first.into()));
    }
}

#[test]
fn a_log_that_was_carried_can_be_cut_moved_and_deleted() {
    for kill in [false, true] {
        let mut bench = Bench::new(1, 4);
        bench.append_to_all();
        bench.turn(1);
        bench.append_to_all();
        bench.turn(2);
        bench.append_to_all();
        assert!(!bench.frames(8).is_empty());
        bench.world.run_until(bench.log(0).truncate(Offset(1)).unwrap()).unwrap();
        bench.stored[0].truncate(1);
        bench.world.run_until(bench.log(1).advance_start(Offset(2)).unwrap()).unwrap();
        bench.stored[1].drain(..2);
        bench.world.run_until(bench.storage.as_ref().unwrap().delete_log(log_id(3)).unwrap()).unwrap();
        bench.stored.pop();
        bench.end(kill);
        bench.check();
        assert!(bench.storage.as_ref().unwrap().log(log_id(3)).is_none());
        bench.append_to_all();
        bench.crash();
        bench.check();
    }
}

#[test]
fn a_carry_that_the_medium_has_lost_is_damage() {
    let mut bench = Bench::new(1, 2);
    bench.append_to_all();
    bench.turn(3);
    let frames = bench.frames(8);
    assert_eq!(frames.len(), 2);
    bench.world.first().crash();
    let (path, at) = &frames[1];
    bench.world.disk().corrupt(path, at + 104 + 70, 1).unwrap();
    assert!(matches!(bench.open(), Err(OpenError::Damaged { .. })));
    bench.world.disk().corrupt(path, at + 104 + 70, 1).unwrap();
    bench.world.first().crash();
    bench.open().unwrap();
    bench.check();
}
