//! Idempotent producers: is a batch that is sent again known again, after whatever happened, and never answered early?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use common::{batch, log_id, options, sequenced};
use futures::FutureExt;
use millstream_env::sim::{DiskOperation, Fault, World};
use millstream_log::{AppendError, Appended, LogOptions, PartitionLog, SequenceError, Storage, StorageOptions};
use millstream_model::{Durability, LeaderEpoch, Offset};
use millstream_record::BatchHeader;

const EPOCH: LeaderEpoch = LeaderEpoch(1);
const DIR: &str = "/data";

fn open_with(world: &World, options: StorageOptions) -> (Storage, Arc<PartitionLog>) {
    let (storage, _) = Storage::open(options, world.env()).unwrap();
    let log = storage.open_log(log_id(0), LogOptions { segment_bytes: 20_000, ..LogOptions::default() }).unwrap();
    (storage, log)
}

fn open(world: &World) -> (Storage, Arc<PartitionLog>) {
    open_with(world, options(Path::new(DIR)))
}

/// Appends a producer's batch of two records that numbers `number` among its batches.
fn send(log: &Arc<PartitionLog>, producer: i64, number: i32) -> Result<Appended, AppendError> {
    log.append(sequenced(producer, 0, number * 2, 2, 100, number.into()), EPOCH)
}

/// Appends `count` batches of a producer, durably.
fn fill(world: &World, log: &Arc<PartitionLog>, producer: i64, count: i32) {
    for number in 0..count {
        world.run_until(send(log, producer, number).unwrap().ticket).unwrap();
    }
}

fn duplicate_at(log: &Arc<PartitionLog>, producer: i64, number: i32) -> Option<i64> {
    let header = BatchHeader::parse(&sequenced(producer, 0, number * 2, 2, 100, 0)).unwrap();
    log.find_duplicate(&header).map(|found| found.base_offset.0)
}

fn log_dir() -> std::path::PathBuf {
    let id = log_id(0);
    Path::new(DIR).join(format!("logs/{}/{}/records-0", id.topic.0, id.partition))
}

/// But for those of where segments begin.
fn snapshots(world: &World) -> Vec<std::path::PathBuf> {
    let all = world.env().disk.read_dir(&log_dir()).unwrap();
    let begins = |path: &std::path::PathBuf| all.contains(&path.with_extension("log"));
    let is_one = |path: &&std::path::PathBuf| path.extension().is_some_and(|extension| extension == "producers");
    let mut found: Vec<_> = all.iter().filter(is_one).filter(|path| !begins(path)).cloned().collect();
    found.sort();
    found
}

#[test]
fn a_duplicate_is_never_answered_before_the_first_one_is_durable() {
    let world = World::new(1);
    let (_storage, log) = open(&world);
    let first = send(&log, 7, 0).unwrap();
    let mut again = send(&log, 7, 0).unwrap();
    assert!(again.duplicate && !first.duplicate);
    assert_eq!((again.base_offset, again.last_offset), (Offset(0), Offset(1)));
    assert_eq!(log.end_offset(), Offset(2), "it is there once");
    assert!((&mut again.ticket).now_or_never().is_none(), "nothing is synced yet");
    assert_eq!(log.flushed_end(), Offset(0));
    world.run_until(again.ticket).unwrap();
    assert_eq!(log.flushed_end(), Offset(2));
    first.ticket.now_or_never().unwrap().unwrap();
    // And of what is durable already it is answered at once.
    send(&log, 7, 0).unwrap().ticket.now_or_never().unwrap().unwrap();
}

#[test]
fn a_duplicate_of_what_will_never_be_durable_fails_as_the_first_one_does() {
    let world = World::new(1);
    let (_storage, log) = open(&world);
    world.disk().inject(Fault::nth(DiskOperation::SyncData, 1).for_good());
    let (first, again) = (send(&log, 7, 0).unwrap(), send(&log, 7, 0).unwrap());
    assert!(world.run_until(again.ticket).is_err());
    assert!(world.run_until(first.ticket).is_err());

    let world = World::new(1);
    let (storage, log) = open(&world);
    let (first, again) = (send(&log, 7, 0).unwrap(), send(&log, 7, 0).unwrap());
    drop(storage);
    assert!(world.run_until(again.ticket).is_err(), "nobody waits for a storage that has gone");
    assert!(world.run_until(first.ticket).is_err());
}

#[test]
fn a_batch_that_was_refused_leaves_no_trace_in_the_sequence() {
    let world = World::new(1);
    let (_storage, log) = open(&world);
    fill(&world, &log, 7, 3);
    world.disk().set_capacity(Some(world.disk().used_bytes()));
    let large = sequenced(7, 0, 6, 2, 15_000, 3);
    let refused = log.append(large.clone(), EPOCH);
    assert!(matches!(refused, Err(AppendError::StorageFull { .. })), "{refused:?}");
    world.disk().set_capacity(None);
    // What was sent behind it is out of order, as for any producer with several batches under way.
    let gap = send(&log, 7, 4);
    let Err(AppendError::Sequence(SequenceError::OutOfOrder { expected, .. })) = gap else { panic!("{gap:?}") };
    assert_eq!(expected.0, 6);
    let appended = log.append(large, EPOCH).unwrap();
    assert!(!appended.duplicate);
    assert_eq!(appended.base_offset, Offset(6));
    assert_eq!(send(&log, 7, 4).unwrap().base_offset, Offset(8));
}

#[test]
fn several_batches_at_once_are_not_an_idempotent_producers() {
    let world = World::new(1);
    let (_storage, log) = open(&world);
    let refused = log.append_many(vec![batch(1, 10, 0), sequenced(7, 0, 0, 1, 10, 0)], EPOCH);
    assert!(matches!(refused, Err(AppendError::NotAlone)), "{refused:?}");
    assert_eq!(log.end_offset(), Offset(0));
}

#[test]
fn a_log_without_a_journal_answers_duplicates_from_memory_and_keeps_them_over_a_kill() {
    let world = World::new(1);
    let id = log_id(1);
    let replicated = LogOptions { segment_bytes: 20_000, durability: Durability::Replicated, ..LogOptions::default() };
    let (storage, _) = Storage::open(options(Path::new(DIR)), world.env()).unwrap();
    let log = storage.open_log(id, replicated).unwrap();
    for number in 0..4 {
        send(&log, 7, number).unwrap().ticket.now_or_never().unwrap().unwrap();
    }
    assert!(send(&log, 7, 3).unwrap().ticket.now_or_never().is_some());
    drop((storage, log));
    world.first().kill();
    let (storage, _) = Storage::open(options(Path::new(DIR)), world.env()).unwrap();
    let log = storage.log(id).unwrap();
    assert_eq!(duplicate_at(&log, 7, 3), Some(6));
    assert_eq!(send(&log, 7, 4).unwrap().base_offset, Offset(8));
}

#[test]
fn producers_are_found_again_from_the_snapshot_the_batches_after_it_and_the_journal() {
    let world = World::new(1);
    let (storage, log) = open(&world);
    fill(&world, &log, 7, 50);
    world.run_until(storage.close()).unwrap();
    drop((storage, log));
    world.first().kill();
    assert_eq!(snapshots(&world).len(), 1, "an orderly close leaves one");

    let (storage, log) = open(&world);
    for number in 45..50 {
        assert_eq!(duplicate_at(&log, 7, number), Some(i64::from(number) * 2));
    }
    assert_eq!(duplicate_at(&log, 7, 44), None);
    fill(&world, &log, 8, 5);
    drop((storage, log));
    world.first().crash();
    // What recovery synced is behind the snapshot, and what comes now is in the journal only.
    let (storage, log) = open(&world);
    world.run_until(send(&log, 8, 5).unwrap().ticket).unwrap();
    drop((storage, log));
    world.first().crash();
    let (_storage, log) = open(&world);
    assert_eq!(duplicate_at(&log, 7, 49), Some(98));
    assert_eq!(duplicate_at(&log, 8, 0), None);
    assert_eq!(duplicate_at(&log, 8, 5), Some(110));
    assert_eq!(send(&log, 7, 50).unwrap().base_offset, Offset(112));
}

#[test]
fn a_start_reads_no_batches_where_the_snapshot_says_all() {
    let world = World::new(1);
    let one_segment = || {
        let (storage, _) = Storage::open(options(Path::new(DIR)), world.env()).unwrap();
        let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
        (storage, log)
    };
    let (storage, log) = one_segment();
    fill(&world, &log, 7, 300);
    world.run_until(storage.close()).unwrap();
    drop((storage, log));
    world.first().kill();
    // Rot at the front of the segment would stop whoever walks over it.
    world.disk().corrupt(&log_dir().join("00000000000000000000.log"), 16, 0xff).unwrap();
    let (_storage, log) = one_segment();
    assert_eq!(duplicate_at(&log, 7, 299), Some(598));
}

#[test]
fn a_snapshot_that_is_lost_or_damaged_is_made_again_from_the_batches() {
    for lost in [true, false] {
        let world = World::new(1);
        let (storage, log) = open(&world);
        fill(&world, &log, 7, 300);
        world.run_until(storage.close()).unwrap();
        drop((storage, log));
        world.first().kill();
        let found = snapshots(&world);
        assert_eq!(found.len(), 1);
        if lost {
            world.env().disk.remove_file(&found[0]).unwrap();
        } else {
            world.disk().corrupt(&found[0], 30, 0xff).unwrap();
        }
        let (storage, log) = open(&world);
        assert_eq!(duplicate_at(&log, 7, 295), Some(590), "lost: {lost}");
        assert_eq!(duplicate_at(&log, 7, 294), None);
        // The next one takes its place, alone.
        fill(&world, &log, 8, 1);
        world.run_until(storage.close()).unwrap();
        assert_eq!(snapshots(&world).len(), 1);
        assert!(snapshots(&world)[0].ends_with("00000000000000000602.producers"));
    }
}

#[test]
fn old_snapshots_do_not_pile_up() {
    let world = World::new(1);
    let (storage, log) = open(&world);
    // Enough to press the journal, so that the log is synced many times.
    fill(&world, &log, 7, 3000);
    let found = snapshots(&world);
    assert_eq!(found.len(), 1, "{found:?}");
    drop((storage, log));
    world.first().crash();
    let stray = found[0].with_file_name("00000000000000000001.producers");
    world.env().disk.open(&stray, millstream_env::OpenMode::Create).unwrap();
    let (_storage, log) = open(&world);
    assert_eq!(duplicate_at(&log, 7, 2999), Some(5998));
    assert!(!snapshots(&world).contains(&stray));
}

#[test]
fn a_silent_producer_is_forgotten_after_the_time_that_was_set() {
    let world = World::new(1);
    let day = Duration::from_secs(24 * 60 * 60);
    let (storage, log) = open_with(&world, StorageOptions { producer_expiration: day, ..options(Path::new(DIR)) });
    fill(&world, &log, 7, 1);
    world.run_for(day - Duration::from_secs(60));
    assert_eq!(duplicate_at(&log, 7, 0), Some(0));
    world.run_for(Duration::from_secs(120));
    assert_eq!(duplicate_at(&log, 7, 0), None);
    assert!(!send(&log, 7, 9).unwrap().duplicate, "and may begin anywhere");
    drop((storage, log));
}

#[test]
fn the_producers_that_are_known_can_be_listed() {
    let world = World::new(1);
    let day = Duration::from_secs(86_400);
    let (_storage, log) = open_with(&world, StorageOptions { producer_expiration: day, ..options(Path::new(DIR)) });
    assert_eq!(log.producers(), []);
    let listed = |log: &PartitionLog| -> Vec<_> {
        log.producers().into_iter().map(|known| (known.id.0, known.epoch.0, known.last_sequence.0)).collect()
    };
    fill(&world, &log, 9, 1);
    world.run_for(day / 2);
    let heard = world.env().clock.wall_ms();
    fill(&world, &log, 7, 3);
    assert_eq!(listed(&log), [(7, 0, 5), (9, 0, 1)]);
    assert!((log.producers()[0].heard.0 - heard).abs() < 1000, "{:?} at {heard}", log.producers());
    // One that would not be known again is not listed, though nothing has come that would make room of it.
    world.run_for(day / 2);
    assert_eq!(listed(&log), [(7, 0, 5)]);
}

#[test]
fn a_mark_that_is_not_durable_takes_no_snapshot_with_it() {
    // What of a failed sync, and of names, has reached the disk is different each time.
    for seed in 0..200 {
        let world = World::new(seed);
        let (storage, log) = open(&world);
        fill(&world, &log, 7, 1);
        // What is below the start is in the snapshot only.
        fill(&world, &log, 8, 3);
        world.run_until(log.advance_start(Offset(4)).unwrap()).unwrap();
        world.run_until(storage.close()).unwrap();
        drop((storage, log));
        let (storage, log) = open(&world);
        world.run_until(send(&log, 8, 3).unwrap().ticket).unwrap();
        // The next mark is written, and the snapshot that it names; and it is not durable for certain.
        world.disk().inject(Fault::nth(DiskOperation::SyncData, 1).on("/mark").for_good());
        assert!(world.run_until(storage.close()).is_err());
        drop((storage, log));
        world.first().kill();
        assert!(Storage::open(options(Path::new(DIR)), world.env()).is_err(), "it cannot be made durable either");
        world.disk().clear_faults();
        world.first().crash();
        let (_storage, log) = open(&world);
        assert_eq!((duplicate_at(&log, 7, 0), duplicate_at(&log, 8, 3)), (Some(0), Some(8)), "seed {seed}");
    }
}
