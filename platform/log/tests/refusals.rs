//! Is a start refused when something is missing that acknowledged records may be in, and not when it may be missing?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use common::{batch, log_id, options, read_all};
use millstream_env::{
    Disk, OpenMode,
    sim::{DiskOperation, Fault, FaultError, World},
};
use millstream_log::{LogOptions, OpenError, OpenLogError, Storage, StorageOptions};
use millstream_model::{Durability, LeaderEpoch, Offset};

const EPOCH: LeaderEpoch = LeaderEpoch(1);

/// How a storage ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Kill,
    PowerCut,
}

fn open(world: &World) -> Result<Storage, OpenError> {
    // Eight files: none of the first three is used again before there is a fourth.
    let options = StorageOptions { journal_bytes_max: 512 << 10, ..options(Path::new("/data")) };
    Storage::open(options, world.env()).map(|(storage, _)| storage)
}

/// So much in one log that the journal goes on to a third file and none has gone yet, and then the end.
fn world(end: End) -> World {
    let world = World::new(5);
    let storage = open(&world).unwrap();
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    let mut time = 0;
    while files(&world).len() < 3 {
        world.run_until(log.append(batch(1, 9_000, time), EPOCH).unwrap().ticket).unwrap();
        time += 10;
    }
    if end == End::Close {
        world.run_until(storage.close()).unwrap();
    }
    match end {
        End::Close | End::Kill => world.first().kill(),
        End::PowerCut => world.first().crash(),
    }
    world
}

/// The journal's files, oldest first.
fn files(world: &World) -> Vec<PathBuf> {
    let paths = world.disk().read_dir(Path::new("/data/journal")).unwrap();
    paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "journal")).collect()
}

fn records(storage: &Storage) -> usize {
    let log = storage.log(log_id(0)).unwrap();
    read_all(&log, log.end_offset(), 100_000).len()
}

#[test]
fn a_journal_file_that_went_missing_after_a_crash_is_named() {
    for end in [End::Kill, End::PowerCut] {
        for nth in 0..3 {
            let world = world(end);
            let path = files(&world)[nth].clone();
            world.disk().remove_file(&path).unwrap();
            match open(&world) {
                Err(OpenError::JournalMissing { path: missing }) => assert_eq!(missing, path, "{end:?}"),
                other => panic!("{end:?} without file {nth}: {:?}", other.err()),
            }
        }
    }
}

#[test]
fn a_journal_that_went_missing_after_a_crash_is_named() {
    for note in [true, false] {
        let world = world(End::Kill);
        world.disk().remove_dir_all(Path::new("/data/journal")).unwrap();
        if !note {
            // Then it is a directory of a version that had none.
            world.disk().remove_file(Path::new("/data/JOURNAL")).unwrap();
        }
        assert!(matches!(open(&world), Err(OpenError::JournalMissing { .. })), "note: {note}");
        // And again: the refused start has changed nothing about it.
        assert!(matches!(open(&world), Err(OpenError::JournalMissing { .. })), "note: {note}");
    }
}

#[test]
fn what_is_put_back_is_served() {
    let world = world(End::Kill);
    let count = 3;
    let path = files(&world)[1].clone();
    let aside = Path::new("/data/aside");
    world.disk().rename(&path, aside).unwrap();
    assert!(open(&world).is_err());
    world.disk().rename(aside, &path).unwrap();
    let storage = open(&world).unwrap();
    assert!(records(&storage) > count);
}

#[test]
fn after_an_orderly_close_nobody_needs_the_journal() {
    let whole = records(&open(&world(End::Close)).unwrap());
    // Not the one between: that there is nothing to be replayed does not excuse a hole in what is there.
    for nth in [0, 2] {
        let world = world(End::Close);
        world.disk().remove_file(&files(&world)[nth]).unwrap();
        assert_eq!(records(&open(&world).unwrap()), whole);
    }
    let world = world(End::Close);
    world.disk().remove_dir_all(Path::new("/data/journal")).unwrap();
    let storage = open(&world).unwrap();
    assert_eq!(records(&storage), whole);
    // It goes on from there, and the journal is needed again.
    let log = storage.log(log_id(0)).unwrap();
    let appended = log.append(batch(1, 10, 0), EPOCH).unwrap();
    assert_eq!(appended.base_offset, Offset(whole as i64));
    world.run_until(appended.ticket).unwrap();
    world.first().kill();
    drop(storage);
    world.disk().remove_file(&files(&world)[0]).unwrap();
    assert!(matches!(open(&world), Err(OpenError::JournalMissing { .. })));
}

/// Without room for a new journal file a start gives up the old ones first: a crash just then leaves logs without a journal.
#[test]
fn a_crash_between_two_journals_on_a_full_disk_is_no_reason_to_refuse() {
    let whole = records(&open(&world(End::Kill)).unwrap());
    for end in [End::Kill, End::PowerCut] {
        let world = world(End::Kill);
        for path in world.disk().read_dir(Path::new("/data/journal")).unwrap() {
            if path.file_name().unwrap().to_str().unwrap().starts_with("spare") {
                world.disk().remove_file(&path).unwrap();
            }
        }
        // No room for a new file; the old ones go; the one that is to serve again fails.
        world.disk().inject(Fault::nth(DiskOperation::Resize, 1).on("spare").with(FaultError::Full).for_good());
        world.disk().inject(Fault::nth(DiskOperation::Write, 1).on("spare").with(FaultError::Io));
        open(&world).err().unwrap();
        assert!(files(&world).is_empty(), "the window that is asked about");
        match end {
            End::PowerCut => world.first().crash(),
            _ => world.first().kill(),
        }
        world.disk().clear_faults();
        assert_eq!(records(&open(&world).unwrap()), whole, "{end:?}");
    }
}

/// A log without a journal has nothing but its mark to tell what its segments are worth.
#[test]
fn a_mark_that_went_missing_from_a_log_without_a_journal_is_named_and_nothing_is_cut() {
    let options = LogOptions { durability: Durability::Replicated, ..LogOptions::default() };
    let mark = PathBuf::from(format!("/data/logs/{}/0/records-0/mark", log_id(0).topic));
    for (epoch, end) in [(true, End::Kill), (true, End::PowerCut), (false, End::Kill), (false, End::PowerCut)] {
        let world = World::new(5);
        let storage = open(&world).unwrap();
        let log = storage.open_log(log_id(0), options).unwrap();
        if epoch {
            world.run_until(log.start_epoch(EPOCH).unwrap()).unwrap();
        }
        for time in 0..5 {
            world.run_until(log.append(batch(1, 1_000, time * 10), EPOCH).unwrap().ticket).unwrap();
        }
        world.run_for(Duration::from_secs(12));
        drop((log, storage));
        match end {
            End::PowerCut => world.first().crash(),
            _ => world.first().kill(),
        }
        let aside = Path::new("/data/aside");
        world.disk().rename(&mark, aside).unwrap();
        for _ in 0..2 {
            let storage = open(&world).unwrap();
            let Err(OpenLogError::OutOfService { source, .. }) = storage.open_log(log_id(0), options) else { panic!() };
            assert!(matches!(&*source, OpenError::MarkMissing { path } if *path == mark), "{epoch}: {source}");
            storage.open_log(log_id(1), options).unwrap();
            drop(storage);
            world.first().kill();
        }
        world.disk().rename(aside, &mark).unwrap();
        let storage = open(&world).unwrap();
        storage.open_log(log_id(0), options).unwrap();
        assert_eq!(records(&storage), 5, "{end:?}");
    }
}

/// A mark that can be read may not be durable, and what the journal had of its log is beside it only, whatever is synced meanwhile.
#[test]
fn what_was_kept_of_a_log_out_of_service_goes_only_once_its_mark_is_durable() {
    let world = World::new(5);
    let mark = PathBuf::from(format!("/data/logs/{}/0/records-0/mark", log_id(0).topic));
    for life in 0..2 {
        let storage = open(&world).unwrap();
        let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
        if life == 0 {
            world.run_until(log.start_epoch(EPOCH).unwrap()).unwrap();
        }
        for time in 0..3 {
            world.run_until(log.append(batch(1, 1_000, time * 10), EPOCH).unwrap().ticket).unwrap();
        }
        if life == 1 {
            world.disk().inject(Fault::nth(DiskOperation::SyncData, 1).on("/mark"));
        }
        assert_eq!(world.run_until(storage.close()).is_ok(), life == 0);
        drop((log, storage));
        world.first().kill();
        world.disk().clear_faults();
    }
    let aside = Path::new("/data/aside");
    let rename = |from: &Path, to: &Path| {
        world.disk().rename(from, to).unwrap();
        [from, to].iter().for_each(|path| world.disk().sync_dir(path.parent().unwrap()).unwrap());
    };
    rename(&mark, aside);
    let storage = open(&world).unwrap();
    let opened = storage.open_log(log_id(0), LogOptions::default());
    assert!(matches!(opened, Err(OpenLogError::OutOfService { .. })), "{opened:?}");
    world.run_until(storage.close()).unwrap();
    drop(storage);
    world.first().kill();
    rename(aside, &mark);
    for _ in 0..2 {
        let storage = open(&world).unwrap();
        assert_eq!(records(&storage), 6);
        assert!(!world.disk().exists(&mark.with_file_name("held")).unwrap());
        drop(storage);
        // A file system may make names durable at any time.
        world.disk().sync_dir(mark.parent().unwrap()).unwrap();
        world.first().kill();
        world.disk().crash_losing_all();
    }
}

/// The slot that is damaged told that the log was cut; the other one does not know what the file lost, and why.
#[test]
fn a_log_that_is_shorter_than_the_sound_slot_of_its_mark_says_is_out_of_service() {
    let world = World::new(5);
    let mark = PathBuf::from(format!("/data/logs/{}/0/records-0/mark", log_id(0).topic));
    let storage = open(&world).unwrap();
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    for time in 0..6 {
        world.run_until(log.append(batch(1, 1_000, time * 10), EPOCH).unwrap().ticket).unwrap();
    }
    world.run_until(storage.close()).unwrap();
    drop((log, storage));
    world.first().kill();
    let storage = open(&world).unwrap();
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    // The mark before the cut can be written, and the one after it cannot.
    let lacking = Fault::nth(DiskOperation::Open, 2).on("/0/records-0/mark").with(FaultError::Descriptors);
    world.disk().inject(lacking.for_good());
    drop(log.truncate(Offset(3)).unwrap());
    world.run_for(Duration::from_secs(1));
    drop((log, storage));
    world.first().kill();
    world.disk().clear_faults();
    let ends = [0, 1].map(|slot| {
        let mut end = [0; 8];
        world.disk().open(&mark, OpenMode::Read).unwrap().read_at(&mut end, slot * 4096 + 32).unwrap();
        u64::from_be_bytes(end)
    });
    let newest = ends.iter().position(|end| *end == 3).unwrap() as u64;
    assert!(ends.contains(&6), "the window that is asked about: {ends:?}");
    let flip = || world.disk().corrupt(&mark, newest * 4096 + 40, 1).unwrap();
    flip();
    for _ in 0..2 {
        let storage = open(&world).unwrap();
        let opened = storage.open_log(log_id(0), LogOptions::default());
        let Err(OpenLogError::OutOfService { source, .. }) = opened else { panic!("{opened:?}") };
        assert!(matches!(&*source, OpenError::Damaged { path, .. } if *path == mark), "{source}");
        storage.open_log(log_id(1), LogOptions::default()).unwrap();
        drop(storage);
        world.first().kill();
    }
    flip();
    assert_eq!(records(&open(&world).unwrap()), 3);
}

/// What a power cut may take of the names that were not synced must not look like a mark that somebody lost.
#[test]
fn a_power_cut_leaves_no_records_without_their_mark() {
    let options = LogOptions { durability: Durability::Replicated, ..LogOptions::default() };
    for seed in 0..100 {
        let world = World::new(seed);
        let storage = open(&world).unwrap();
        let log = storage.open_log(log_id(0), options).unwrap();
        world.run_until(log.start_epoch(EPOCH).unwrap()).unwrap();
        world.run_until(log.append(batch(1, 5_000, 0), EPOCH).unwrap().ticket).unwrap();
        drop((log, storage));
        world.first().crash();
        let storage = open(&world).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        storage.open_log(log_id(0), options).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// A journaled log may have records and no mark: they were never acknowledged, or the journal has them.
#[test]
fn a_log_that_the_journal_has_needs_no_mark() {
    for durable in [true, false] {
        let world = World::new(5);
        let storage = open(&world).unwrap();
        let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
        let appended = log.append(batch(1, 1_000, 0), EPOCH).unwrap();
        if durable {
            world.run_until(appended.ticket).unwrap();
        }
        drop((log, storage));
        world.first().kill();
        let storage = open(&world).unwrap();
        let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
        assert_eq!(records(&storage), usize::from(durable));
        world.run_until(log.append(batch(1, 500, 0), EPOCH).unwrap().ticket).unwrap();
        assert_eq!(records(&storage), usize::from(durable) + 1);
    }
}

/// What the operator removes then, such as a journal that is damaged, the next start does without: the segments have all of it.
#[test]
fn a_start_that_is_refused_leaves_the_note_that_the_last_run_ended_in_order() {
    let world = World::new(1);
    let storage = open(&world).unwrap();
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    for time in 0..5 {
        world.run_until(log.append(batch(1, 100, time), LeaderEpoch(0)).unwrap().ticket).unwrap();
    }
    world.run_until(storage.close()).unwrap();
    drop((log, storage));
    let clean = Path::new("/data/CLEAN");
    let journal = world.disk().read_dir(Path::new("/data/journal")).unwrap();
    let active = journal.iter().find(|path| path.extension().is_some_and(|of| of == "journal")).unwrap();
    world.disk().corrupt(active, 20, 1).unwrap();
    for turn in 0..2 {
        world.first().kill();
        assert!(world.disk().exists(clean).unwrap(), "start {turn}");
        let refused = open(&world).err().unwrap();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    }
    world.first().kill();
    for path in &journal {
        world.disk().remove_file(path).unwrap();
    }
    let (storage, recovered) = Storage::open(options(Path::new("/data")), world.env()).unwrap();
    assert!(recovered.clean);
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    assert_eq!(log.end_offset(), Offset(5));
    assert!(!world.disk().exists(clean).unwrap(), "it is in use");
}
