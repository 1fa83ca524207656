//! Segments' life: when is one closed and the next begun, and does it matter to what is read or recovered?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use common::{batch, bench::Bench, log_id, options, read_all, stored};
use millstream_env::{Disk, OpenMode, sim::World};
use millstream_log::{AppendError, LogOptions, PartitionLog, Storage, StorageOptions};
use millstream_model::{Durability, LeaderEpoch, Offset, TimestampMs};

const EPOCH: LeaderEpoch = LeaderEpoch(1);
const DIR: &str = "/data";
const SEGMENT_MS: u64 = 1000;

fn open(world: &World) -> (Storage, Arc<PartitionLog>) {
    let (storage, _) = Storage::open(options(Path::new(DIR)), world.env()).unwrap();
    let log = storage.open_log(log_id(0), LogOptions { segment_ms: SEGMENT_MS, ..LogOptions::default() }).unwrap();
    (storage, log)
}

/// Appends one record of that time, durably.
fn append(world: &World, log: &Arc<PartitionLog>, time: i64) {
    world.run_until(log.append(batch(1, 50, time), EPOCH).unwrap().ticket).unwrap();
}

/// The base offsets of the segments that have a file.
fn segments(world: &World) -> Vec<i64> {
    let id = log_id(0);
    let dir = Path::new(DIR).join(format!("logs/{}/{}/records-0", id.topic.0, id.partition));
    let files = world.env().disk.read_dir(&dir).unwrap();
    let base = |path: std::path::PathBuf| path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok();
    let mut bases: Vec<i64> = files.into_iter().filter_map(base).collect();
    bases.sort_unstable();
    bases
}

fn close(world: &World, storage: &Storage) {
    world.run_until(storage.close()).unwrap();
}

fn check_content(log: &Arc<PartitionLog>, times: &[i64]) {
    let expected: Vec<_> =
        (0..).zip(times).map(|(base, time)| stored(&batch(1, 50, *time), Offset(base), EPOCH)).collect();
    assert!(read_all(log, log.end_offset(), 100) == expected, "all is there, in order");
}

#[test]
fn a_segment_takes_no_batch_that_is_too_far_from_its_first() {
    let world = World::new(1);
    let (storage, log) = open(&world);
    // The clock says nothing here: these records are older than it by far. A late one (500) belongs where it comes.
    let times = [10_000, 11_000, 500, 11_001, 12_001, 12_002];
    for time in times {
        append(&world, &log, time);
    }
    assert_eq!(segments(&world), [0, 3, 5]);
    close(&world, &storage);
    drop((storage, log));
    // How old the last segment is, is read from it.
    let (_storage, log) = open(&world);
    append(&world, &log, 13_002);
    append(&world, &log, 13_003);
    assert_eq!(segments(&world), [0, 3, 5, 7]);
    check_content(&log, &[10_000, 11_000, 500, 11_001, 12_001, 12_002, 13_002, 13_003]);
}

#[test]
fn batches_without_a_time_are_told_apart_by_the_clock() {
    let world = World::new(1);
    let (_storage, log) = open(&world);
    append(&world, &log, -1);
    world.run_for(Duration::from_millis(900));
    append(&world, &log, -1);
    assert_eq!(segments(&world), [0]);
    world.run_for(Duration::from_millis(200));
    append(&world, &log, -1);
    assert_eq!(segments(&world), [0, 2]);
}

#[test]
fn a_roll_closes_what_holds_something_and_survives_a_power_cut() {
    let world = World::new(1);
    let (storage, log) = open(&world);
    assert!(!log.roll(), "there is nothing to close");
    append(&world, &log, 1);
    append(&world, &log, 2);
    assert!(log.roll() && !log.roll());
    assert_eq!(segments(&world), [0], "its file comes with its first batch");
    check_content(&log, &[1, 2]);
    // Synced with an empty last segment.
    close(&world, &storage);
    drop((storage, log));
    world.first().crash();
    let (_storage, log) = open(&world);
    check_content(&log, &[1, 2]);
    append(&world, &log, 3);
    assert!(log.roll());
    append(&world, &log, 4);
    // The journal alone knows of these.
    world.first().crash();
    drop((_storage, log));
    let (_storage, log) = open(&world);
    check_content(&log, &[1, 2, 3, 4]);
}

#[test]
fn an_append_that_is_refused_leaves_the_segment_as_old_as_it_was() {
    let world = World::new(1);
    let (_storage, log) = open(&world);
    append(&world, &log, 10_000);
    world.disk().set_capacity(Some(world.disk().used_bytes()));
    // It would have begun a segment.
    assert!(matches!(log.append(batch(1, 5000, 11_500), EPOCH), Err(AppendError::StorageFull { .. })));
    world.disk().set_capacity(None);
    append(&world, &log, 11_900);
    assert_eq!(segments(&world), [0, 1]);
    check_content(&log, &[10_000, 11_900]);
}

/// A log of one closed segment and an active one, each of many intervals of its index; times go up by tens, each batch's once
/// back and forth.
fn long_log(world: &World, storage: &Storage) -> Arc<PartitionLog> {
    let log = storage.open_log(log_id(0), LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() }).unwrap();
    for at in 0..LONG {
        world.run_until(storage.writable());
        let time = 10 * (at ^ 1);
        world.run_until(log.append(batch(2, 4000, time), EPOCH).unwrap().ticket).unwrap();
    }
    assert_eq!(segments(world).len(), 2);
    log
}

const LONG: i64 = 200;

/// Where the first record is at or after that time, by the batches as `long_log` made them.
fn expected(target: i64) -> Option<(Offset, TimestampMs)> {
    let records = (0..LONG).flat_map(|at| [0, 1].map(|nth| (Offset(2 * at + nth), TimestampMs(10 * (at ^ 1) + nth))));
    records.into_iter().find(|(_, time)| time.0 >= target)
}

#[test]
fn a_time_costs_a_short_stretch_of_one_segment() {
    let world = World::new(1);
    let (storage, _) = Storage::open(options(Path::new(DIR)), world.env()).unwrap();
    let log = long_log(&world, &storage);
    for target in (-1..10 * LONG + 12).step_by(7) {
        assert_eq!(log.offset_for_timestamp(TimestampMs(target)).unwrap(), expected(target), "{target}");
    }
    let reads = |target| {
        let before = world.disk().counts().reads;
        assert_eq!(log.offset_for_timestamp(TimestampMs(target)).unwrap(), expected(target));
        world.disk().counts().reads - before
    };
    // Two windows of headers, and the batch. A segment is sixteen windows.
    for target in [5, 950, 1995, 10 * LONG + 9] {
        let reads = reads(target);
        assert!(reads <= 3, "{reads} reads for {target}");
    }
    assert_eq!(reads(10 * LONG + 20), 0, "nothing is so late");
    let newest_below = |below| log.newest_record(Offset(below)).unwrap().map(|(offset, time)| (offset.0, time.0));
    let newest = || newest_below(i64::MAX);
    let reads_before = world.disk().counts().reads;
    assert_eq!(newest(), Some((2 * LONG - 3, 10 * (LONG - 1) + 1)), "the last but one batch has the last one's time");
    let reads = world.disk().counts().reads - reads_before;
    assert!(reads <= 3, "{reads} reads for the newest");
    for below in (1..2 * LONG).step_by(17) {
        let records = (0..LONG).flat_map(|at| [0, 1].map(|nth| (2 * at + nth, 10 * (at ^ 1) + nth)));
        let greatest = records.filter(|(offset, _)| *offset < below).max_by_key(|(offset, time)| (*time, -offset));
        assert_eq!(newest_below(below), greatest, "below {below}");
    }
    assert_eq!(newest_below(0), None);
    // What was deleted is not found, and does not hide what is there.
    world.run_until(log.advance_start(Offset(41)).unwrap()).unwrap();
    assert_eq!(log.offset_for_timestamp(TimestampMs(0)).unwrap(), Some((Offset(41), TimestampMs(211))));
    // The newest that the index knows of is deleted: the last batch is left, and its times are older.
    world.run_until(log.advance_start(Offset(2 * LONG - 2)).unwrap()).unwrap();
    assert_eq!(newest(), Some((2 * LONG - 1, 10 * (LONG - 2) + 1)));
    world.run_until(log.advance_start(Offset(2 * LONG)).unwrap()).unwrap();
    assert_eq!(newest(), None);
}

#[test]
fn an_index_of_an_older_version_is_made_again() {
    let world = World::new(1);
    let (storage, _) = Storage::open(options(Path::new(DIR)), world.env()).unwrap();
    let log = long_log(&world, &storage);
    close(&world, &storage);
    drop((storage, log));
    let id = log_id(0);
    let dir = Path::new(DIR).join(format!("logs/{}/{}/records-0", id.topic.0, id.partition));
    for base in segments(&world) {
        // Its version, the last of the eight bytes that it begins with.
        world.disk().corrupt(&dir.join(format!("{base:020}.index")), 7, 2 ^ 1).unwrap();
    }
    let (storage, _) = Storage::open(options(Path::new(DIR)), world.env()).unwrap();
    let log = storage.log(id).unwrap();
    // That of the closed segment is there again, so that the next start need not look through the segment.
    let mut magic = [0; 8];
    let file = world.disk().open(&dir.join(format!("{:020}.index", 0)), OpenMode::Read).unwrap();
    assert_eq!((file.read_at(&mut magic, 0).unwrap(), &magic), (8, b"MSindx\0\x02"));
    for target in (-1..10 * LONG + 12).step_by(50) {
        assert_eq!(log.offset_for_timestamp(TimestampMs(target)).unwrap(), expected(target), "{target}");
    }
}

#[test]
fn a_killed_process_leaves_the_segments_that_there_were() {
    let world = World::new(1);
    // So much room in the journal, and so many descriptors, that nothing is synced.
    let options = options(Path::new(DIR));
    let roomy = StorageOptions { journal_file_bytes: 1 << 20, journal_bytes_max: 4 << 20, ..options };
    let roomy = StorageOptions { open_segments_max: 100, ..roomy };
    let (storage, _) = Storage::open(roomy.clone(), world.env()).unwrap();
    let small = LogOptions { segment_bytes: 15_000, ..LogOptions::default() };
    let log = storage.open_log(log_id(0), small).unwrap();
    for time in 0..10 {
        world.run_until(log.append(batch(1, 5000, time), EPOCH).unwrap().ticket).unwrap();
    }
    let before = segments(&world);
    assert_eq!(before, [0, 2, 4, 6, 8]);
    drop((storage, log));
    world.first().kill();
    let (storage, recovered) = Storage::open(roomy, world.env()).unwrap();
    assert!(recovered.replayed_frames >= 10, "{recovered:?}");
    assert_eq!(segments(&world), before);
    let log = storage.log(log_id(0)).unwrap();
    assert_eq!(log.closed_segments().unwrap().len(), 4);
    assert_eq!(read_all(&log, log.end_offset(), 100).len(), 10);
}

#[test]
fn the_last_segment_is_closed_for_its_age_only_if_all_of_it_is_older() {
    let world = World::new(1);
    let (storage, log) = open(&world);
    let roll_older = |log: &Arc<PartitionLog>, than| log.roll_older(TimestampMs(than)).unwrap();
    assert!(!roll_older(&log, i64::MAX), "there is nothing to close");
    append(&world, &log, 2_000);
    append(&world, &log, 1_500);
    assert!(!roll_older(&log, 2_000), "as old is not older");
    close(&world, &storage);
    drop((storage, log));
    // Its newest record is known after a start too.
    let (_storage, log) = open(&world);
    assert!(!roll_older(&log, 2_000) && roll_older(&log, 2_001) && !roll_older(&log, i64::MAX));
    append(&world, &log, -1);
    assert!(!roll_older(&log, i64::MAX), "what has no time is not old");
    assert_eq!(log.closed_segments().unwrap().len(), 1);
}

/// A broker was killed after retention had moved a log's start to its end: the segment, open again, was closed and stayed for good.
#[test]
fn a_segment_that_is_closed_below_the_start_goes() {
    let world = World::new(1);
    let (_storage, log) = open(&world);
    append(&world, &log, 1);
    append(&world, &log, 2);
    world.run_until(log.advance_start(Offset(2)).unwrap()).unwrap();
    world.run_for(Duration::from_secs(20));
    assert_eq!(segments(&world), [0], "it is appended to");
    assert!(log.roll_older(TimestampMs(3)).unwrap());
    world.run_for(Duration::from_secs(20));
    assert!(segments(&world).is_empty());
    append(&world, &log, 3);
    assert_eq!(segments(&world), [2]);
}

#[test]
fn an_index_whose_segment_is_gone_does_not_wait_for_the_next_with_its_name() {
    let world = World::new(1);
    let (storage, log) = open(&world);
    append(&world, &log, 0);
    close(&world, &storage);
    drop((storage, log));
    let id = log_id(0);
    let dir = Path::new(DIR).join(format!("logs/{}/{}/records-0", id.topic.0, id.partition));
    // What a power cut can leave of a segment that began at 1; what it says does not matter.
    let path = dir.join(format!("{:020}.index", 1));
    drop(world.disk().open(&path, OpenMode::Create).unwrap());
    let (_storage, _log) = open(&world);
    assert_eq!(segments(&world), [0]);
    assert!(!world.disk().exists(&path).unwrap());
}

#[test]
fn a_segment_that_is_written_again_from_its_beginning_has_no_index_of_before() {
    let world = World::new(1);
    let (storage, log) = open(&world);
    append(&world, &log, 0);
    world.first().kill();
    drop((storage, log));
    // Nothing was synced: there is no mark, and the journal writes all of it again.
    let id = log_id(0);
    let path = Path::new(DIR).join(format!("logs/{}/{}/records-0/{:020}.index", id.topic.0, id.partition, 0));
    assert!(!world.disk().exists(&path.with_file_name("mark")).unwrap());
    drop(world.disk().open(&path, OpenMode::Create).unwrap());
    let (_storage, log) = open(&world);
    assert!(!world.disk().exists(&path).unwrap());
    check_content(&log, &[0]);
}

/// The mark tells how the last segment begins, and a start that finds it otherwise takes it for another log's.
#[test]
fn a_segment_that_had_no_room_says_nothing_of_how_the_one_before_begins() {
    let mut bench = Bench::new(3, Durability::Fsync);
    bench.append_each(8, 1, 2_000);
    bench.world.disk().set_capacity(Some(bench.world.disk().used_bytes()));
    let refused = bench.append_one(1, 9_000);
    assert!(matches!(refused, Err(AppendError::StorageFull { .. })), "{refused:?}");
    bench.world.disk().set_capacity(None);
    bench.world.run_for(Duration::from_secs(30));
    bench.append_each(1, 1, 100);
    assert_eq!(bench.names("log"), [0]);
    bench.close();
    bench.open();
    assert!(bench.storage().out_of_service().is_empty(), "{:?}", bench.storage().out_of_service());
    assert_eq!(bench.log().end_offset(), Offset(9));
}
