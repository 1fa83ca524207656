//! A disk that is full, out of descriptors, or rotten, one fault at a time: does the log refuse, keep and recover what it must?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use common::{batch, log_id, options, read_all, stored};
use millstream_env::{
    Disk, OpenMode,
    sim::{SimDisk, World},
};
use millstream_log::{AppendError, LogOptions, OpenError, PartitionLog, Storage};
use millstream_model::{Durability, LeaderEpoch};

const EPOCH: LeaderEpoch = LeaderEpoch(1);
const SEGMENT_BYTES: u64 = 20_000;

/// A storage on a simulated disk, and what was appended to its first log.
struct Bench {
    world: World,
    durability: Durability,
    storage: Option<Storage>,
    appended: Vec<Bytes>,
    time: i64,
}

impl Bench {
    fn new(durability: Durability) -> Self {
        let world = World::new(7);
        let mut bench = Self { world, durability, storage: None, appended: Vec::new(), time: 0 };
        bench.open();
        bench
    }

    fn open(&mut self) {
        self.storage = Some(Storage::open(options(Path::new("/data")), self.world.env()).unwrap().0);
    }

    fn disk(&self) -> &SimDisk {
        self.world.disk()
    }

    fn storage(&self) -> &Storage {
        self.storage.as_ref().unwrap()
    }

    fn log(&self) -> Arc<PartitionLog> {
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, durability: self.durability };
        self.storage().open_log(log_id(0), options).unwrap()
    }

    /// Appends one record of so many bytes.
    fn append(&mut self, bytes: usize) -> Result<(), AppendError> {
        self.time += 10;
        let batch = batch(1, bytes, self.time);
        let appended = self.log().append(batch.clone(), EPOCH)?;
        self.appended.push(stored(&batch, appended.base_offset, EPOCH));
        self.world.run_until(appended.ticket).unwrap();
        Ok(())
    }

    /// Lets nothing grow any more.
    fn fill(&self) {
        self.disk().set_capacity(Some(0));
    }

    fn free(&self) {
        self.disk().set_capacity(None);
    }

    fn kill(&mut self) {
        self.world.first().kill();
        self.storage = None;
        self.open();
    }

    fn crash(&mut self) {
        self.world.first().crash();
        self.storage = None;
        self.open();
    }

    fn close(&mut self) {
        let storage = self.storage.take().unwrap();
        self.world.run_until(storage.close()).unwrap();
        self.world.first().kill();
    }

    /// Everything that was appended is there, and nothing else.
    fn check(&self) {
        let log = self.log();
        assert_eq!(read_all(&log, log.end_offset(), 5_000), self.appended);
    }

    fn segments(&self) -> Vec<String> {
        let dir = format!("/data/logs/{}/0/records-0", log_id(0).topic);
        let paths = self.disk().read_dir(Path::new(&dir)).unwrap();
        let names = paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
        names.filter(|name| name.ends_with(".log")).collect()
    }

    fn segment_path(&self, base: u32) -> std::path::PathBuf {
        format!("/data/logs/{}/0/records-0/{base:020}.log", log_id(0).topic).into()
    }
}

/// Fills most of the first segment, then has the disk refuse the next one.
fn refused_roll(durability: Durability) -> Bench {
    let mut bench = Bench::new(durability);
    for _ in 0..3 {
        bench.append(5_000).unwrap();
    }
    bench.fill();
    assert!(matches!(bench.append(6_000), Err(AppendError::StorageFull { .. })));
    bench.free();
    bench
}

#[test]
fn a_refused_segment_leaves_no_name_behind() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let mut bench = refused_roll(durability);
        assert_eq!(bench.segments().len(), 1, "{:?}", bench.segments());
        // A small one still fits the segment before; what comes then opens the next.
        bench.append(300).unwrap();
        for _ in 0..6 {
            bench.append(7_000).unwrap();
        }
        bench.check();
        bench.kill();
        bench.check();
        bench.close();
        bench.open();
        bench.check();
    }
}

#[test]
fn an_empty_or_torn_segment_between_others_hides_nothing() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        for left in [0, 100] {
            let mut bench = refused_roll(durability);
            // As a power cut may leave it, whose directory was not synced after the removal.
            let path = bench.segment_path(3);
            let file = bench.disk().open(&path, OpenMode::CreateNew).unwrap();
            file.write_at(&[std::io::IoSlice::new(&vec![1; left])], 0).unwrap();
            drop(file);
            bench.append(300).unwrap();
            for _ in 0..6 {
                bench.append(7_000).unwrap();
            }
            bench.kill();
            bench.check();
            bench.close();
            bench.open();
            bench.check();
            bench.append(10).unwrap();
            bench.crash();
            if durability == Durability::Fsync {
                bench.check();
            }
        }
    }
}

#[test]
fn a_segment_that_went_missing_is_noticed() {
    let mut bench = Bench::new(Durability::Fsync);
    for _ in 0..8 {
        bench.append(7_000).unwrap();
    }
    bench.close();
    // Two batches a segment: this is neither the first nor the last.
    bench.disk().remove_file(&bench.segment_path(2)).unwrap();
    assert!(Storage::open(options(Path::new("/data")), bench.world.env()).is_err());
}

/// The journal's files, oldest first.
fn journal_files(bench: &Bench) -> Vec<std::path::PathBuf> {
    let paths = bench.disk().read_dir(Path::new("/data/journal")).unwrap();
    paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "journal")).collect()
}

#[test]
fn rot_in_the_first_group_of_the_journal_is_noticed_once_anything_follows_it() {
    // Groups on one page each in one file; then so much that it goes on in a second.
    for (groups, bytes, files, noticed) in
        [(1, 100, 1, false), (2, 100, 1, true), (3, 100, 1, true), (9, 9_000, 2, true)]
    {
        let mut bench = Bench::new(Durability::Fsync);
        for _ in 0..groups {
            bench.append(bytes).unwrap();
        }
        let journal = journal_files(&bench);
        assert!(journal.len() >= files, "{journal:?}");
        bench.world.first().kill();
        bench.storage = None;
        // In a frame's header: the frame is not seen any more, let alone its payload.
        bench.disk().corrupt(&journal[0], 4096 + 20, 1).unwrap();
        let opened = Storage::open(options(Path::new("/data")), bench.world.env());
        match opened {
            // A single group may have been torn by the crash, before anybody was told of it.
            Ok(_) => assert!(!noticed, "{groups} groups"),
            Err(OpenError::Damaged { path, .. }) => assert!(noticed && path == journal[0], "{groups} groups: {path:?}"),
            Err(error) => panic!("{error}"),
        }
    }
}
