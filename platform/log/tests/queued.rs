//! A batch that is queued before it is written to its segment: does it count as there, for readers and on a full disk?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    path::Path,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use common::{
    batch,
    bench::{Bench, EPOCH},
    log_id,
    meddling::Meddling,
    options, read_all, stored,
};
use millstream_env::{
    Env, real,
    sim::{DiskOperation, Fault, World},
};
use millstream_log::{AppendError, Ended, LogOptions, Storage};
use millstream_model::Durability;

/// How long a reader gets that should be waiting. One that is not needs far less.
const PATIENCE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_batch_is_durable_before_it_is_written_and_read_only_after() {
    let dir = tempfile::tempdir().unwrap();
    let env = real::env();
    let disk = Meddling::new(env.disk.clone());
    let storage = Storage::open(options(dir.path()), Env { disk: disk.clone(), ..env }).unwrap().0;
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    // The first one makes the file.
    log.append(batch(1, 10, 0), EPOCH).unwrap().ticket.await.unwrap();
    let (base, batch) = (log.end_offset(), batch(3, 1000, 10));

    let write = disk.hold(".log");
    let appending = thread::spawn({
        let (log, batch) = (log.clone(), batch.clone());
        move || log.append(batch, EPOCH)
    });
    write.wait();
    // It is in the journal already: whoever waits for the log to become durable hears of it.
    while log.flushed_end() == base {
        thread::yield_now();
    }
    let (read, reading) = channel();
    thread::spawn({
        let log = log.clone();
        move || read.send(log.read(base, log.flushed_end(), 1 << 20))
    });
    assert!(
        matches!(reading.recv_timeout(PATIENCE), Err(RecvTimeoutError::Timeout)),
        "it was read before it was there"
    );
    write.wait();
    let appended = appending.join().unwrap().unwrap();
    assert_eq!(appended.base_offset, base);
    assert_eq!(reading.recv().unwrap().unwrap().batches, stored(&batch, base, EPOCH));
    appended.ticket.await.unwrap();
    storage.close().await.unwrap();
}

#[test]
fn a_queued_batch_is_written_on_a_full_disk_too_and_the_next_is_refused() {
    let mut bench = Bench::new(11, Durability::Fsync);
    bench.append_each(1, 1, 1000);
    let disk = bench.world.disk().clone();
    disk.set_capacity(Some(disk.used_bytes()));
    bench.append_each(1, 1, 6000);
    for _ in 0..3 {
        assert!(matches!(bench.append_one(1, 6000), Err(AppendError::StorageFull { .. })));
    }
    let check = |bench: &Bench| assert_eq!(read_all(&bench.log(), bench.log().end_offset(), 5000), bench.appended);
    check(&bench);
    bench.crash();
    check(&bench);
    disk.set_capacity(None);
    bench.crash();
    bench.append_each(3, 1, 1000);
    check(&bench);
}

#[test]
fn one_too_large_for_what_is_set_aside_is_refused_on_a_full_disk_as_it_ever_was() {
    let mut bench = Bench::new(12, Durability::Fsync);
    bench.options.ballast_bytes = 8 << 10;
    bench.close();
    bench.open();
    bench.append_each(1, 1, 1000);
    let disk = bench.world.disk().clone();
    disk.set_capacity(Some(disk.used_bytes()));
    for _ in 0..2 {
        assert!(matches!(bench.append_one(1, 5000), Err(AppendError::StorageFull { .. })));
    }
    disk.set_capacity(None);
    bench.append_each(1, 1, 5000);
    assert_eq!(read_all(&bench.log(), bench.log().end_offset(), 50_000), bench.appended);
}

#[test]
fn a_limit_on_files_lengths_refuses_a_lone_batch_and_not_the_storage() {
    let world = World::new(14);
    let disk = Meddling::new(world.env().disk);
    let env = Env { disk: disk.clone(), ..world.env() };
    let storage = Storage::open(options(Path::new("/data")), env).unwrap().0;
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    let append =
        |bytes| world.run_until(log.append(batch(1, bytes, 0), EPOCH)?.ticket).map_err(|_| Ended::Closed.into());
    append(6_000).unwrap();
    disk.limit(9_000);
    let end = log.end_offset();
    for _ in 0..2 {
        assert!(matches!(append(6_000), Err(AppendError::StorageFull { .. })));
    }
    assert_eq!(log.end_offset(), end);
    disk.limit(u64::MAX);
    append(6_000).unwrap();
}

#[test]
fn a_failed_write_of_a_queued_batch_ends_the_storage_and_loses_nothing() {
    let mut bench = Bench::new(13, Durability::Fsync);
    let acknowledged = bench.append_each(2, 1, 1000).len();
    let log = bench.log();
    let end = log.end_offset();
    bench.world.disk().inject(Fault::nth(DiskOperation::Write, 1).on(".log"));
    let failed = bench.next_batch(1, 1000);
    assert!(matches!(log.append(failed.clone(), EPOCH), Err(AppendError::Ended(Ended::Failed(_)))));
    assert_eq!(log.end_offset(), end, "what has failed is not there");
    assert_eq!(read_all(&log, end, 5000), bench.appended);
    assert!(matches!(log.append(bench.next_batch(1, 10), EPOCH), Err(AppendError::Ended(Ended::Failed(_)))));
    drop(log);
    bench.crash();
    // Whether it was committed is up to the journal; a part of it is never there.
    let found = read_all(&bench.log(), bench.log().end_offset(), 5000);
    assert_eq!(found[..acknowledged], bench.appended);
    assert!(found.len() == acknowledged || found[acknowledged..] == [stored(&failed, end, EPOCH)]);
}
