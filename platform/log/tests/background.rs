//! The loops in the background: what they say is durable, how they end, and what a start and a deletion leave them to do.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{batch, log_id, options};
use millstream_env::{Disk, Env, Rng, real, sim::World};
use millstream_log::{LogOptions, Storage, StorageOptions};
use millstream_model::{Durability, LeaderEpoch, Offset};

const EPOCH: LeaderEpoch = LeaderEpoch(1);
const REPLICATED: LogOptions =
    LogOptions { segment_bytes: 20_000, segment_ms: u64::MAX, durability: Durability::Replicated, made_by: 0 };

fn open(world: &World) -> Storage {
    Storage::open(options(Path::new("/data")), world.env()).unwrap().0
}

#[test]
fn a_journaled_epoch_does_not_make_unsynced_records_durable() {
    let world = World::new(1);
    let storage = open(&world);
    let log = storage.open_log(log_id(0), REPLICATED).unwrap();
    world.run_until(log.append(batch(3, 10, 0), EPOCH).unwrap().ticket).unwrap();
    world.run_until(log.start_epoch(LeaderEpoch(2)).unwrap()).unwrap();
    assert_eq!(log.flushed_end(), Offset(0), "in the page cache only");
    world.run_for(Duration::from_secs(12));
    assert_eq!(log.flushed_end(), Offset(3));
}

#[test]
fn a_close_that_is_dropped_leaves_the_end_to_wait_for_to_the_next_one() {
    let world = World::new(1);
    let storage = open(&world);
    let log = storage.open_log(log_id(0), REPLICATED).unwrap();
    drop(log.append(batch(3, 10, 0), EPOCH).unwrap());
    for _ in 0..2 {
        let mut close = Box::pin(storage.close());
        let mut waits = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(close.as_mut().poll(&mut waits).is_pending(), "nothing has run since it was asked");
    }
    world.run_until(storage.close()).unwrap();
    assert_eq!(log.flushed_end(), Offset(3));
    assert!(world.disk().exists(Path::new("/data/CLEAN")).unwrap());
    world.run_until(storage.close()).unwrap();
}

/// Panics once it is told to.
struct Fuse {
    rng: Arc<dyn Rng>,
    lit: AtomicBool,
}

impl Rng for Fuse {
    fn fill(&self, buffer: &mut [u8]) {
        assert!(!self.lit.load(Ordering::Relaxed), "a panic in a loop, on purpose");
        self.rng.fill(buffer);
    }
}

#[tokio::test]
async fn a_panic_in_the_background_fails_the_storage_instead_of_hanging_it() {
    let dir = tempfile::tempdir().unwrap();
    let env = real::env();
    let fuse = Arc::new(Fuse { rng: env.rng.clone(), lit: AtomicBool::new(false) });
    let storage = Storage::open(options(dir.path()), Env { rng: fuse.clone(), ..env }).unwrap().0;
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    fuse.lit.store(true, Ordering::Relaxed);
    // The next journal file gets a random number when the first is half full.
    let appends = async {
        for at in 0.. {
            storage.writable().await;
            let Ok(appended) = log.append(batch(1, 9_000, at), EPOCH) else { return };
            if appended.ticket.await.is_err() {
                return;
            }
        }
    };
    let ended =
        tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(storage.failed(), appends).0 }).await;
    assert!(ended.unwrap().to_string().contains("log-sync has panicked"));
}

#[test]
fn a_start_syncs_only_what_may_not_be_durable() {
    const LOGS: u64 = 20;
    let world = World::new(1);
    let storage = open(&world);
    for at in 0..LOGS {
        let log = storage.open_log(log_id(at as i32), LogOptions::default()).unwrap();
        world.run_until(log.start_epoch(EPOCH).unwrap()).unwrap();
        world.run_until(log.append(batch(1, 10, 0), EPOCH).unwrap().ticket).unwrap();
    }
    world.run_until(storage.close()).unwrap();
    world.first().kill();
    // After an orderly close: nothing of the logs.
    let before = world.disk().counts();
    let storage = open(&world);
    let after = world.disk().counts();
    let (data, names) = (after.data_syncs - before.data_syncs, after.dir_syncs - before.dir_syncs);
    assert!(data < 10 && names < 10, "{data} and {names} syncs");
    // After a kill: each log that the journal still tells of, but not again the directories above it.
    for at in 0..LOGS {
        let log = storage.log(log_id(at as i32)).unwrap();
        world.run_until(log.append(batch(1, 10, 0), EPOCH).unwrap().ticket).unwrap();
    }
    world.first().kill();
    let before = world.disk().counts();
    drop(open(&world));
    let names = world.disk().counts().dir_syncs - before.dir_syncs;
    assert!((5..LOGS + 10).contains(&names), "{names} syncs of directories");
}

#[test]
fn a_deleted_log_leaves_no_directories() {
    let world = World::new(1);
    let storage = open(&world);
    for at in 0..3 {
        drop(storage.open_log(log_id(at), LogOptions::default()).unwrap());
    }
    for at in 0..3 {
        world.run_until(storage.delete_log(log_id(at)).unwrap()).unwrap();
    }
    world.run_for(Duration::from_secs(12));
    for dir in ["/data/logs", "/data/trash"] {
        let left = world.disk().read_dir(Path::new(dir)).unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The journal tells of what was made and deleted again until its file is used anew, which may be hundreds of thousands of logs.
#[test]
fn a_start_pays_nothing_for_logs_that_were_made_and_deleted_again() {
    const LOGS: u64 = 50;
    for kill in [false, true] {
        let world = World::new(1);
        let storage = open(&world);
        let kept = storage.open_log(log_id(1_000), LogOptions::default()).unwrap();
        world.run_until(kept.start_epoch(EPOCH).unwrap()).unwrap();
        for at in 0..LOGS {
            let log = storage.open_log(log_id(at as i32), LogOptions::default()).unwrap();
            world.run_until(log.start_epoch(EPOCH).unwrap()).unwrap();
            world.run_until(storage.delete_log(log_id(at as i32)).unwrap()).unwrap();
        }
        world.run_for(Duration::from_secs(12));
        if !kill {
            world.run_until(storage.close()).unwrap();
        }
        world.first().kill();
        let before = world.disk().counts();
        let storage = open(&world);
        let names = world.disk().counts().dir_syncs - before.dir_syncs;
        assert!(names < 15, "{names} syncs of directories, kill: {kill}");
        assert_eq!(storage.logs(), [log_id(1_000)]);
        let kept = storage.log(log_id(1_000)).unwrap();
        assert_eq!(kept.latest_epoch(), Some(EPOCH));
        world.run_until(kept.append(batch(1, 10, 0), EPOCH).unwrap().ticket).unwrap();
    }
}

#[test]
fn the_names_above_many_logs_are_synced_once() {
    const LOGS: u64 = 40;
    let world = World::new(1);
    // Room for all in the journal and open: no log is synced before the end.
    let roomy = StorageOptions { journal_bytes_max: 4 << 20, open_segments_max: 64, ..options(Path::new("/data")) };
    let storage = Storage::open(roomy, world.env()).unwrap().0;
    for partition in 0..LOGS as i32 {
        let log = storage.open_log(log_id(partition), LogOptions::default()).unwrap();
        world.run_until(log.append(batch(1, 10, 0), EPOCH).unwrap().ticket).unwrap();
    }
    let before = world.disk().counts().dir_syncs;
    world.run_until(storage.close()).unwrap();
    // Of each log its own directory, with its mark and without, and PARTITION; then TOPIC, logs, and the data directory.
    assert_eq!(world.disk().counts().dir_syncs - before, 3 * LOGS + 3);
}

#[test]
fn a_replicated_log_that_is_deleted_before_its_first_sync_is_no_hindrance_to_a_close() {
    let world = World::new(4);
    let storage = open(&world);
    let log = storage.open_log(log_id(0), REPLICATED).unwrap();
    // It waits for the next tick now.
    drop(log.append(batch(1, 10, 1), EPOCH).unwrap());
    let gone = storage.delete_log(log_id(0)).unwrap();
    world.run_until(gone).unwrap();
    world.run_until(storage.close()).unwrap();
}
