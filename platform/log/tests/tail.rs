//! Readers at the end of a log: are they served from memory, with what was appended, and no more memory than there may be?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{path::Path, sync::Arc};

use common::{batch, log_id, options, stored};
use millstream_env::sim::{DiskOperation, Fault, World};
use millstream_log::{LogOptions, PartitionLog, ReadError, Storage, StorageOptions};
use millstream_model::{LeaderEpoch, Offset};

const EPOCH: LeaderEpoch = LeaderEpoch(1);

fn open(world: &World, tail_bytes_max: usize) -> Storage {
    let options = StorageOptions { tail_bytes_max, ..options(Path::new("/data")) };
    Storage::open(options, world.env()).unwrap().0
}

fn append(world: &World, log: &Arc<PartitionLog>, bytes: usize, time: i64) -> (Offset, bytes::Bytes) {
    let batch = batch(1, bytes, time);
    let appended = log.append(batch.clone(), EPOCH).unwrap();
    world.run_until(appended.ticket).unwrap();
    (appended.base_offset, stored(&batch, appended.base_offset, EPOCH))
}

#[test]
fn who_waits_at_the_end_touches_no_disk() {
    for waits in [true, false] {
        let world = World::new(3);
        let storage = open(&world, 1 << 20);
        let logs = [0, 1].map(|at| storage.open_log(log_id(at), LogOptions::default()).unwrap());
        for log in &logs {
            append(&world, log, 100, 0);
            if waits {
                log.watch_tail();
            } else {
                log.read(Offset(0), log.end_offset(), 1 << 20).unwrap();
            }
        }
        world.disk().inject(Fault::nth(DiskOperation::Read, 1).on(".log").for_good());
        for time in 0..50 {
            for log in &logs {
                let (at, expected) = append(&world, log, 10 + 400 * time as usize, time);
                let read = log.read(at, log.end_offset(), 1 << 20).unwrap();
                assert_eq!((read.batches, read.next), (expected, log.end_offset()), "{time}");
            }
        }
        // What came before the reader is on the disk.
        assert!(matches!(logs[0].read(Offset(0), Offset(1), 1), Err(ReadError::Io { .. })));
    }
}

#[test]
fn what_is_kept_is_cut_like_what_is_on_disk() {
    let world = World::new(4);
    let (kept, stored) = (open(&world, 1 << 20), log_id(0));
    let log = kept.open_log(stored, LogOptions::default()).unwrap();
    log.watch_tail();
    let all: Vec<_> = (0..40).map(|time| append(&world, &log, 3_000 * (time as usize % 5), time).1).collect();
    let end = log.end_offset();
    for from in 0..40 {
        for (high_watermark, bytes_max) in
            [(40, 1), (40, 10_000), (40, 1 << 20), (33, 1 << 20), (from + 1, 50_000), (from, 9)]
        {
            let read = log.read(Offset(from), Offset(high_watermark), bytes_max).unwrap();
            let mut expected = Vec::new();
            let mut next = from;
            for batch in &all[from as usize..high_watermark.max(from) as usize] {
                if !expected.is_empty() && expected.len() + batch.len() > bytes_max {
                    break;
                }
                expected.extend_from_slice(batch);
                next += 1;
            }
            let context = format!("{from} {high_watermark} {bytes_max}");
            assert!(read.batches == expected && read.next == Offset(next), "{context}");
            let parts = log.read_parts(Offset(from), Offset(high_watermark), bytes_max).unwrap();
            assert!(parts.parts.concat() == expected && parts.bytes() == expected.len(), "{context}");
            assert!(parts.parts.iter().all(|part| !part.is_empty()), "{context}");
        }
    }
    assert!(matches!(log.read(Offset(41), end, 1), Err(ReadError::OutOfRange { .. })));
    drop(kept.delete_log(stored).unwrap());
    assert!(matches!(log.read(Offset(39), end, 1), Err(ReadError::Deleted)));
}

#[test]
fn an_append_that_is_refused_is_not_read() {
    let world = World::new(5);
    let storage = open(&world, 1 << 20);
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    append(&world, &log, 10, 0);
    log.watch_tail();
    for time in 1..20 {
        world.disk().set_capacity(Some(world.disk().used_bytes()));
        assert!(log.append(batch(1, 20_000, 1000 + time), EPOCH).is_err());
        assert!(log.read(log.end_offset(), Offset(i64::MAX), 1 << 20).unwrap().batches.is_empty());
        world.disk().set_capacity(None);
        let (at, expected) = append(&world, &log, 5_000, time);
        assert_eq!(log.read(at, log.end_offset(), 1 << 20).unwrap().batches, expected);
    }
}

#[test]
fn who_reads_what_is_old_pushes_nothing_out() {
    let world = World::new(6);
    // Room for what is kept below, and not for what is old.
    let storage = open(&world, 64 << 10);
    let [old, live] = [0, 1].map(|at| storage.open_log(log_id(at), LogOptions::default()).unwrap());
    for time in 0..50 {
        append(&world, &old, 10_000, time);
        append(&world, &live, 10_000, time);
    }
    live.watch_tail();
    let kept: Vec<_> = (50..54).map(|time| append(&world, &live, 10_000, time)).collect();
    // Of the same log too, and again and again.
    for log in [&old, &live, &old, &live] {
        let mut at = Offset(0);
        while at < Offset(50) {
            assert!(!log.keeps(at), "{at}");
            at = log.read(at, Offset(50), 30_000).unwrap().next;
        }
    }
    world.disk().inject(Fault::nth(DiskOperation::Read, 1).on(".log").for_good());
    for (at, expected) in kept {
        assert!(live.keeps(at), "{at}");
        assert_eq!(live.read(at, live.end_offset(), 1).unwrap().batches, expected);
    }
    assert!(!live.keeps(live.end_offset()), "there is nothing yet");
}
