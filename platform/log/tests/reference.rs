//! Appends that travel by reference: is what the journal only refers to as durable as what it holds, wherever the disk fails?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use common::{batch, log_id, options, read_all, sequenced, stored};
use futures::FutureExt;
use millstream_env::{
    Disk, OpenMode,
    sim::{DiskOperation, Fault, FaultError, World},
};
use millstream_log::{LogOptions, OpenError, OpenLogError, PartitionLog, ReadError, Storage, StorageOptions};
use millstream_model::{Durability, LeaderEpoch, Offset};

const EPOCH: LeaderEpoch = LeaderEpoch(1);
const REF_BYTES: usize = 4_000;
const SEGMENT_BYTES: u64 = 30_000;

fn open(world: &World) -> Result<(Storage, Arc<PartitionLog>), OpenError> {
    let options = StorageOptions { append_ref_bytes: REF_BYTES, ..options(Path::new("/data")) };
    let (storage, _) = Storage::open(options, world.env())?;
    let log = storage.open_log(log_id(0), LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() });
    match log {
        Ok(log) => Ok((storage, log)),
        Err(OpenLogError::OutOfService { source, .. }) => match &*source {
            OpenError::MarkMissing { path } => Err(OpenError::MarkMissing { path: path.clone() }),
            error => panic!("{error}"),
        },
        Err(error) => panic!("{error}"),
    }
}

/// The bytes of journal files that are frames of this kind, by their headers.
fn frames(world: &World, kind: u8) -> usize {
    let disk = world.env().disk;
    let mut count = 0;
    for path in disk.read_dir(Path::new("/data/journal")).unwrap() {
        let file = disk.open(&path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        count += bytes.windows(33).filter(|window| window.starts_with(b"MSfr") && window[32] == kind).count();
    }
    count
}

fn dir() -> String {
    format!("/data/logs/{}/0/records-0", log_id(0).topic)
}

/// Appends small and large batches in turns, an epoch in between; stops at the first that fails. Gives what was appended, and how
/// much of it was acknowledged.
fn fill(world: &World, log: &Arc<PartitionLog>, from: usize, count: usize) -> (Vec<Bytes>, usize) {
    let (mut appended, mut acknowledged) = (Vec::new(), 0);
    for nth in from..from + count {
        // A third of them large, one far above the threshold, one exactly a segment's rest.
        let bytes = if nth % 3 == 1 { 4_500 + 2_000 * (nth % 4) } else { 700 };
        let sent = sequenced(7, 0, nth as i32, 1, bytes, nth as i64);
        let Ok(given) = log.append(sent.clone(), EPOCH) else { break };
        appended.push(stored(&sent, given.base_offset, EPOCH));
        if world.run_until(given.ticket).is_err() {
            break;
        }
        acknowledged = appended.len();
    }
    (appended, acknowledged)
}

#[test]
fn what_is_large_is_journaled_by_reference_alone_or_together() {
    let world = World::new(1);
    let (storage, log) = open(&world).unwrap();
    let commit = |batches: Vec<Bytes>| world.run_until(log.append_many(batches, EPOCH).unwrap().ticket).unwrap();
    commit(vec![batch(1, REF_BYTES - 200, 1)]);
    assert_eq!((frames(&world, 1), frames(&world, 2)), (1, 0));
    commit(vec![batch(1, REF_BYTES, 2)]);
    assert_eq!((frames(&world, 1), frames(&world, 2)), (1, 1));
    commit(vec![batch(1, REF_BYTES / 2, 3), batch(1, REF_BYTES / 2, 4)]);
    assert_eq!((frames(&world, 1), frames(&world, 2)), (1, 3));
    // What waits together is synced once: the segment and the mark, then the journal.
    let syncs = world.disk().counts().data_syncs;
    let tickets: Vec<_> = (5..9).map(|time| log.append(batch(1, REF_BYTES, time), EPOCH).unwrap().ticket).collect();
    for ticket in tickets {
        world.run_until(ticket).unwrap();
    }
    assert_eq!((frames(&world, 1), frames(&world, 2)), (1, 7));
    assert_eq!(world.disk().counts().data_syncs - syncs, 3);
    drop(storage);
    world.first().crash();
    let (storage, log) = open(&world).unwrap();
    assert_eq!(log.end_offset(), Offset(8));
    assert_eq!(read_all(&log, Offset(8), 5_000).len(), 8);
    // A log without a journal has none of either.
    let before = (frames(&world, 1), frames(&world, 2));
    let replicated = LogOptions { durability: Durability::Replicated, ..LogOptions::default() };
    let log = storage.open_log(log_id(1), replicated).unwrap();
    world.run_until(log.append(batch(1, REF_BYTES, 9), EPOCH).unwrap().ticket).unwrap();
    assert_eq!((frames(&world, 1), frames(&world, 2)), before);
}

/// Whatever call of the disk fails from some moment on, what was acknowledged is there, and nothing else than what was appended.
#[test]
fn a_disk_that_fails_at_any_call_loses_nothing_acknowledged() {
    use DiskOperation::{Names, Open, Resize, SyncData, SyncDir, Write};
    for operation in [Write, SyncData, SyncDir, Names, Resize, Open] {
        let mut failed = 0;
        for nth in 1.. {
            // A kill leaves what the page cache shows; after a failed sync of names only a power cut can follow.
            for kill in [false, true] {
                let world = World::new(nth);
                let (storage, log) = open(&world).unwrap();
                let (before, _) = fill(&world, &log, 0, 5);
                world.disk().inject(Fault::nth(operation, nth).for_good());
                let (after, acknowledged) = fill(&world, &log, 5, 14);
                failed += usize::from(acknowledged < 14);
                let context = format!("{operation:?} {nth} kill {kill}: {acknowledged} acknowledged");
                drop((storage, log));
                match kill && operation != SyncDir {
                    true => world.first().kill(),
                    false => world.first().crash(),
                }
                world.disk().clear_faults();
                let expected = [before, after].concat();
                // A second time after a power cut: what one start believes, the next one finds.
                let mut ends = Vec::new();
                for _ in 0..2 {
                    let (storage, log) = open(&world).unwrap_or_else(|error| panic!("{context}: {error}"));
                    let end = log.end_offset();
                    assert!(end.0 as usize >= 5 + acknowledged, "{context}: it ends at {end}");
                    assert!(read_all(&log, end, 5_000) == expected[..end.0 as usize], "{context}");
                    let known = log.find_duplicate(&header(&expected[end.0 as usize - 1]));
                    assert_eq!(known.map(|known| known.last_offset.0 + 1), Some(end.0), "{context}");
                    ends.push(end);
                    drop((storage, log));
                    world.first().crash();
                }
                assert_eq!(ends[0], ends[1], "{context}");
            }
            if failed < 2 * nth as usize {
                assert!(nth > 3 || operation == Resize, "{operation:?}: {failed}");
                break;
            }
        }
    }
}

fn header(batch: &Bytes) -> millstream_record::BatchHeader {
    millstream_record::BatchHeader::parse(batch).unwrap()
}

/// A process was killed after its log's mark had been written and before that was durable: the journal names the log nowhere, the
/// start believed the mark, and a power cut took it away with what was read by then.
#[test]
fn a_mark_ahead_of_the_journal_is_made_durable_before_it_is_believed() {
    let world = World::new(1);
    let (storage, log) = open(&world).unwrap();
    world.run_until(log.append(batch(1, REF_BYTES, 1), EPOCH).unwrap().ticket).unwrap();
    world.run_until(storage.close()).unwrap();
    drop((storage, log));
    let (storage, log) = open(&world).unwrap();
    world.disk().inject(Fault::nth(DiskOperation::SyncData, 1).on("/mark").for_good());
    let failed = world.run_until(log.append(batch(1, REF_BYTES, 2), EPOCH).unwrap().ticket);
    assert!(failed.is_err());
    drop((storage, log));
    world.first().kill();
    world.disk().clear_faults();
    let (storage, log) = open(&world).unwrap();
    assert_eq!(log.end_offset(), Offset(2), "the page cache has it");
    drop((storage, log));
    world.first().crash();
    assert_eq!(open(&world).unwrap().1.end_offset(), Offset(2));
}

/// A crash between two of the steps: what only the segment has is no record; what the mark covers is one for good, though its
/// producer was never told, and the journal goes on after numbers that it does not have.
#[test]
fn what_a_crash_leaves_without_its_frame_counts_once_the_mark_covers_it() {
    for (file, kept) in [("/mark", 0), ("/journal/", 3)] {
        for kill in [true, false] {
            // A write that failed has torn a slot of the mark, which cannot be told from damage: what the segments have stays.
            let kept = if kill { 3 } else { kept };
            let world = World::new(1);
            let (storage, log) = open(&world).unwrap();
            let (mut expected, _) = fill(&world, &log, 0, 5);
            world.disk().inject(Fault::nth(DiskOperation::Write, 1).on(file).for_good());
            let append = |time| {
                let sent = batch(1, REF_BYTES, time);
                let given = log.append(sent.clone(), EPOCH).unwrap();
                (stored(&sent, given.base_offset, EPOCH), given.ticket)
            };
            let (attempted, tickets): (Vec<_>, Vec<_>) = (10..13).map(append).unzip();
            for ticket in tickets {
                assert!(world.run_until(ticket).is_err(), "{file}");
            }
            drop((storage, log));
            world.disk().clear_faults();
            if !kill {
                world.disk().crash_losing_all();
                assert_eq!(frames(&world, 2), 2, "{file}: those of before");
            }
            world.first().kill();
            expected.extend_from_slice(&attempted[..kept]);
            // After power cuts, too, one of which comes before anything is appended; what takes its place stays.
            for round in 0..3 {
                let (storage, log) = open(&world).unwrap_or_else(|error| panic!("{file} kill {kill}: {error}"));
                let end = log.end_offset();
                assert!(read_all(&log, end, 5_000) == expected, "{file} kill {kill} round {round}: it ends at {end}");
                for time in (20..22).take(2 * round) {
                    let sent = batch(1, if time == 20 { 100 } else { REF_BYTES }, time);
                    let given = log.append(sent.clone(), EPOCH).unwrap();
                    expected.push(stored(&sent, given.base_offset, EPOCH));
                    world.run_until(given.ticket).unwrap();
                }
                drop((storage, log));
                world.first().crash();
            }
        }
    }
}

/// The log's own files cannot be written to for want of descriptors or room: the journal takes it all, as it takes what is small.
#[test]
fn what_cannot_be_marked_is_journaled_whole() {
    for lacking in [FaultError::Full, FaultError::Descriptors] {
        let world = World::new(1);
        let (storage, log) = open(&world).unwrap();
        let (mut expected, _) = fill(&world, &log, 0, 6);
        let before = (frames(&world, 1), frames(&world, 2));
        world.disk().inject(Fault::nth(DiskOperation::Write, 1).on("/mark").with(lacking).for_good());
        world.disk().inject(Fault::nth(DiskOperation::Open, 1).on("/mark").with(lacking).for_good());
        world.run_until(log.append(batch(1, REF_BYTES, 9), EPOCH).unwrap().ticket).unwrap();
        assert_eq!((frames(&world, 1), frames(&world, 2)), (before.0 + 1, before.1), "{lacking:?}");
        expected.push(stored(&batch(1, REF_BYTES, 9), Offset(6), EPOCH));
        drop((storage, log));
        world.first().crash();
        world.disk().clear_faults();
        let (_storage, log) = open(&world).unwrap();
        assert!(read_all(&log, log.end_offset(), 5_000) == expected, "{lacking:?}");
    }
}

/// Batches by reference that are cut off again, durably or not, with others in their place.
#[test]
fn a_truncation_after_a_reference_is_replayed_or_never_was() {
    for cut in [1, 2, 4, 7, 9] {
        for waits in [true, false] {
            let world = World::new(cut as u64);
            let (storage, log) = open(&world).unwrap();
            let (mut expected, _) = fill(&world, &log, 0, 10);
            // One more, which need not be durable yet.
            let last = batch(1, 6_000, 77);
            let ticket = log.append(last.clone(), EPOCH).unwrap().ticket;
            let truncation = log.truncate(Offset(cut)).unwrap();
            expected.truncate(cut as usize);
            if waits {
                world.run_until(truncation).unwrap();
                assert!(ticket.now_or_never().unwrap().is_err(), "it was cut");
                for time in [80, 81] {
                    let given = log.append(batch(1, 5_000, time), EPOCH).unwrap();
                    expected.push(stored(&batch(1, 5_000, time), given.base_offset, EPOCH));
                    world.run_until(given.ticket).unwrap();
                }
            }
            drop((storage, log));
            world.first().crash();
            let (_storage, log) = open(&world).unwrap();
            let found = read_all(&log, log.end_offset(), 5_000);
            assert!(found.starts_with(&expected) && (!waits || found.len() == expected.len()), "{cut} {waits}");
        }
    }
}

#[test]
fn a_start_that_moves_past_references_is_kept() {
    let world = World::new(1);
    let (storage, log) = open(&world).unwrap();
    let (expected, _) = fill(&world, &log, 0, 20);
    world.run_until(log.advance_start(Offset(12)).unwrap()).unwrap();
    world.run_until(log.append(batch(1, 6_000, 50), EPOCH).unwrap().ticket).unwrap();
    drop((storage, log));
    world.first().crash();
    let (storage, log) = open(&world).unwrap();
    assert_eq!((log.start_offset(), log.end_offset()), (Offset(12), Offset(21)));
    assert!(read_all(&log, Offset(20), 5_000) == expected[12..]);
    // Deleted, its references are nobody's.
    world.run_until(storage.delete_log(log_id(0)).unwrap()).unwrap();
    drop((storage, log));
    world.first().crash();
    let (_storage, log) = open(&world).unwrap();
    assert_eq!(log.end_offset(), Offset(0));
}

/// The mark alone tells that the segments have what the journal only refers to: nothing is cut for want of it.
#[test]
fn a_mark_that_is_missing_is_asked_for() {
    let world = World::new(1);
    let (storage, log) = open(&world).unwrap();
    // The journal has the first one, and the log from its beginning on, it seems.
    for bytes in [100, REF_BYTES] {
        world.run_until(log.append(batch(1, bytes, 1), EPOCH).unwrap().ticket).unwrap();
    }
    let expected = read_all(&log, Offset(2), 5_000);
    drop((storage, log));
    world.first().crash();
    let (disk, mark, aside) = (world.disk(), format!("{}/mark", dir()), format!("{}/aside", dir()));
    let rename = |from: &str, to: &str| {
        disk.rename(Path::new(from), Path::new(to)).unwrap();
        disk.sync_dir(Path::new(&dir())).unwrap();
    };
    rename(&mark, &aside);
    for _ in 0..2 {
        match open(&world) {
            Err(OpenError::MarkMissing { path }) => assert_eq!(path, Path::new(&mark)),
            other => panic!("{:?}", other.map(|(_, log)| log)),
        }
        world.first().crash();
    }
    rename(&aside, &mark);
    let (_storage, log) = open(&world).unwrap();
    assert!(read_all(&log, log.end_offset(), 5_000) == expected);
}

/// The journal has no second copy, so that what has rotted is lost: it is told, and only it.
#[test]
fn what_has_rotted_is_told() {
    let world = World::new(1);
    let (storage, log) = open(&world).unwrap();
    let (expected, _) = fill(&world, &log, 0, 3);
    let at = expected[0].len() as u64 + 100;
    drop((storage, log));
    world.first().crash();
    world.disk().corrupt(Path::new(&format!("{}/{:020}.log", dir(), 0)), at, 1).unwrap();
    let (storage, log) = open(&world).unwrap();
    let damaged = log.read(Offset(1), Offset(3), 10_000);
    assert!(matches!(damaged, Err(ReadError::Damaged { .. })), "{damaged:?}");
    assert_eq!(log.read(Offset(2), Offset(3), 10_000).unwrap().batches, expected[2]);
    drop((storage, log));
    world.first().crash();
    // Of a mark: the one before says less than the journal needs. (It has two slots, written in turn.) What lies past that, also in
    // other segments, is there no other time, and kept.
    world.disk().corrupt(Path::new(&format!("{}/{:020}.log", dir(), 0)), at, 1).unwrap();
    let (storage, log) = open(&world).unwrap();
    for (bytes, time) in [(REF_BYTES, 10), (100, 11), (SEGMENT_BYTES as usize - 1_000, 12)] {
        world.run_until(log.append(batch(1, bytes, time), EPOCH).unwrap().ticket).unwrap();
    }
    let expected = read_all(&log, log.end_offset(), 5_000);
    drop((storage, log));
    world.first().crash();
    let mark = format!("{}/mark", dir());
    let file = world.env().disk.open(Path::new(&mark), OpenMode::Read).unwrap();
    let sequence = |slot: u64| {
        let mut bytes = [0; 8];
        file.read_at(&mut bytes, slot * 4096 + 16).unwrap();
        u64::from_be_bytes(bytes)
    };
    let newest = u64::from(sequence(1) > sequence(0));
    world.disk().corrupt(Path::new(&mark), newest * 4096 + 40, 1).unwrap();
    let (_storage, log) = open(&world).unwrap();
    assert!(read_all(&log, log.end_offset(), 5_000) == expected);
}
