//! Syncs that are overtaken, refused or cut off half-way, step by step.

use bytes::Bytes;
use millstream_env::sim::{DiskOperation, Fault, FaultError, World};
use millstream_model::{Durability, LeaderEpoch, TimestampMs};
use millstream_record::{BatchBuilder, BatchOptions};

use super::*;
use crate::{
    LogId, LogOptions, Storage, StorageOptions,
    mark::Mark,
    pin::Pin,
    sync_plan::{SNAPSHOT_STEP_PART, SNAPSHOT_STEPS},
};

fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(TimestampMs(1), None, Some(&[7; 1000]), &[]).unwrap();
    builder.build().unwrap()
}

/// A log of twelve records in segments of three, with a sync of it that has been planned and no more.
fn planned(world: &World, durability: Durability) -> (Storage, Arc<PartitionLog>, Plan) {
    let options = StorageOptions { ballast_bytes: 4096, ..StorageOptions::new("/data") };
    let storage = Storage::open(options, world.env()).unwrap().0;
    let id = LogId::records(millstream_model::TopicId::NIL, millstream_model::PartitionId(0));
    let log = storage.open_log(id, LogOptions { segment_bytes: 3500, durability, ..LogOptions::default() }).unwrap();
    for _ in 0..12 {
        let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
    }
    let plan = log.plan_sync(Cause::Turn).unwrap();
    assert_eq!(plan.parts.len(), 4);
    (storage, log, plan)
}

fn carry_on(log: &Arc<PartitionLog>, plan: &Plan) {
    assert!(log.carry_out(plan).is_ok());
    log.finish_sync(plan);
}

/// A sync that writes all but the mark, and then a start.
fn lose_the_mark(world: &World, storage: Storage, log: Arc<PartitionLog>, power: bool) -> (Storage, Arc<PartitionLog>) {
    let plan = log.plan_sync(Cause::Turn).unwrap();
    world.disk().inject(Fault::nth(DiskOperation::Write, 1).on("/mark").for_good());
    assert!(log.carry_out(&plan).is_err());
    start_again(world, storage, log, power)
}

/// A start on a disk that has healed, with what was durable or with what a killed process leaves.
fn start_again(world: &World, storage: Storage, log: Arc<PartitionLog>, power: bool) -> (Storage, Arc<PartitionLog>) {
    world.disk().clear_faults();
    if power {
        world.disk().crash_losing_all();
    }
    world.first().kill();
    let id = log.id();
    drop((storage, log));
    let options = StorageOptions { ballast_bytes: 4096, ..StorageOptions::new("/data") };
    let storage = Storage::open(options, world.env()).unwrap().0;
    let log = storage.log(id).unwrap();
    (storage, log)
}

#[test]
fn a_start_that_overtakes_a_sync_leaves_nothing_that_counts_as_synced_and_is_not() {
    let world = World::new(1);
    let (_storage, log, plan) = planned(&world, Durability::Fsync);
    drop(log.advance_start(Offset(7)).unwrap());
    for _ in 0..6 {
        let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
    }
    carry_on(&log, &plan);
    let state = log.state();
    let bases: Vec<_> = state.parts.iter().map(|part| part.segment.base.0).collect();
    assert_eq!(bases, [6, 9, 12, 15]);
    // The one that begins at 9 was appended to when the sync was planned.
    assert_eq!(state.durable.parts, 1);
    assert_eq!(state.retired.len(), 2, "this mark does not say yet that they may go");
}

/// Then the epochs file is cut to a start that neither the mark nor the journal tells of.
#[test]
fn a_start_that_is_lost_takes_no_epoch_of_what_is_past_the_mark_with_it() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let world = World::new(1);
        let (storage, log, plan) = planned(&world, durability);
        carry_on(&log, &plan);
        for epoch in [1, 2, 2] {
            world.run_until(log.append(batch(), LeaderEpoch(epoch)).unwrap().ticket).unwrap();
        }
        drop(log.advance_start(Offset(15)).unwrap());
        let (_storage, log) = lose_the_mark(&world, storage, log, durability == Durability::Fsync);
        assert_eq!((log.start_offset(), log.end_offset()), (Offset(0), Offset(15)), "{durability:?}");
        assert_eq!(log.end_offset_for_epoch(LeaderEpoch(1)), Some((LeaderEpoch(1), Offset(13))), "{durability:?}");
    }
}

/// The same of an epoch that the mark covers, and no batch below it tells of.
#[test]
fn a_start_that_is_lost_takes_no_epoch_below_the_mark_with_it() {
    let world = World::new(1);
    let (storage, log, plan) = planned(&world, Durability::Fsync);
    carry_on(&log, &plan);
    world.run_until(log.start_epoch(LeaderEpoch(2)).unwrap()).unwrap();
    assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
    for _ in 0..3 {
        let _ = log.append(batch(), LeaderEpoch(2)).unwrap();
    }
    drop(log.advance_start(Offset(15)).unwrap());
    let (_storage, log) = lose_the_mark(&world, storage, log, true);
    assert_eq!((log.end_offset(), log.latest_epoch()), (Offset(12), Some(LeaderEpoch(2))));
}

/// A commit waits for it, and with it everybody else.
#[test]
fn a_sync_for_a_reference_leaves_to_the_background_what_can_wait() {
    let world = World::new(1);
    let (_storage, log, plan) = planned(&world, Durability::Fsync);
    carry_on(&log, &plan);
    let left = || {
        let state = log.state();
        (state.retired.len(), state.frames.pin)
    };
    assert_eq!(left(), (0, Pin::Free));
    let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
    drop(log.advance_start(Offset(7)).unwrap());
    let lsn = log.state().frames.last;
    assert!(!log.is_marked(lsn));
    assert!(log.sync_for_reference(lsn).unwrap() && log.is_marked(lsn));
    assert_eq!(log.state().durable.mark.unwrap().start, Offset(7));
    assert_eq!(left(), (2, Pin::At(13)), "segments go later, and so that this is known");
    assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
    assert_eq!(left(), (0, Pin::Free));

    // Producers are written down seldom, and not never: a start walks over what follows.
    let few = log.journal().options.journal_bytes_max / SNAPSHOT_STEP_PART;
    let saved_at = |unsaved_bytes, cause| {
        let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
        (log.state().producers.saved.behind, log.state().producers.unsaved_bytes) = (true, unsaved_bytes);
        let lsn = log.state().frames.last;
        match cause {
            Cause::Reference => assert!(log.sync_for_reference(lsn).unwrap()),
            cause => assert!(matches!(log.sync(cause), Ok(Synced::Done))),
        }
        let state = log.state();
        (state.producers.saved.at == state.end, state.durable.mark.unwrap().producers == state.producers.saved)
    };
    assert_eq!(saved_at(few, Cause::Turn), (true, true));
    assert_eq!(saved_at(few * SNAPSHOT_STEPS - 1, Cause::Reference), (false, true));
    assert_eq!(saved_at(few * SNAPSHOT_STEPS, Cause::Reference), (true, true));

    // Another sync is under way.
    let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
    let lsn = log.state().frames.last;
    let syncing = log.syncing().lock();
    let (answered, answer) = std::sync::mpsc::channel();
    let asking = log.clone();
    std::thread::spawn(move || answered.send(asking.sync_for_reference(lsn).unwrap()));
    assert_eq!(answer.recv_timeout(std::time::Duration::from_secs(10)), Ok(false), "nobody waits for it");
    drop(syncing);
    // More than a queue full would have to be synced with it.
    let most = log.journal().options.queue_bytes_max as u64;
    let unsynced_bytes = std::mem::replace(&mut log.state().unsynced.bytes, most + 1);
    assert!(!log.sync_for_reference(lsn).unwrap());
    log.state().unsynced.bytes = unsynced_bytes;
    // The log is being cut.
    drop(log.truncate(Offset(12)).unwrap());
    assert!(!log.sync_for_reference(lsn).unwrap() && !log.is_marked(lsn));
}

/// The journal's syncs have their turns between the pieces, and one that fails is as final as a sync.
#[test]
fn what_is_to_be_synced_is_written_in_pieces() {
    let world = World::new(1);
    let (_storage, log, plan) = planned(&world, Durability::Fsync);
    carry_on(&log, &plan);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(TimestampMs(1), None, Some(&[7; 500_000]), &[]).unwrap();
    let large = builder.build().unwrap();
    log.state().growth.segment_bytes = 1 << 30;
    let pieces = |count| {
        for _ in 0..count {
            let _ = log.append(large.clone(), LeaderEpoch(1)).unwrap();
        }
        let before = world.disk().counts().write_backs;
        let synced = log.sync(Cause::Turn);
        (world.disk().counts().write_backs - before, synced)
    };
    assert!(matches!(pieces(2), (0, Ok(Synced::Done))));
    assert!(matches!(pieces(11), (2, Ok(Synced::Done))), "only what is not durable yet");
    world.disk().inject(Fault::nth(DiskOperation::SyncData, 1).on(".log"));
    assert!(matches!(pieces(6), (1, Err(_))));
}

/// The mark tells of it, and the deletion may never become durable.
#[test]
fn a_truncation_that_a_deletion_overtakes_is_carried_out_all_the_same() {
    let world = World::new(1);
    let (_storage, log, plan) = planned(&world, Durability::Fsync);
    carry_on(&log, &plan);
    drop(log.truncate(Offset(7)).unwrap());
    drop(log.delete().unwrap());
    assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
    let state = log.state();
    let (mark, active) = (state.durable.mark.unwrap(), state.active());
    assert_eq!((mark.end, active.segment.len().unwrap()), (Offset(7), mark.segment_len));
}

/// The mark that ends where such a log is cut tells of no frame since the one before: what is past it is found again. So is the epoch
/// that had begun at the end and was marked, of which no batch tells, and no frame any more: it was forgotten.
#[test]
fn a_truncation_that_is_lost_half_way_takes_no_epoch_with_it() {
    for (durability, marked) in [
        (Durability::Fsync, false),
        (Durability::Fsync, true),
        (Durability::Replicated, false),
        (Durability::Replicated, true),
    ] {
        let world = World::new(1);
        let (storage, log, plan) = planned(&world, durability);
        carry_on(&log, &plan);
        world.run_until(log.start_epoch(LeaderEpoch(2)).unwrap()).unwrap();
        if marked {
            assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
        }
        drop(log.truncate(Offset(10)).unwrap());
        world.disk().inject(Fault::nth(DiskOperation::Resize, 1).on(".log"));
        assert!(log.cut_files().is_err());
        assert_eq!(log.state().durable.mark.unwrap().end, Offset(10));
        let (_storage, log) = start_again(&world, storage, log, true);
        // With a journal, nothing past the mark counts: it is as if the log had been cut.
        let expected = match durability {
            Durability::Fsync => (Offset(10), Some(LeaderEpoch(1))),
            Durability::Replicated => (Offset(12), Some(LeaderEpoch(2))),
        };
        assert_eq!((log.end_offset(), log.latest_epoch()), expected, "{durability:?}, marked: {marked}");
    }
}

/// The epochs file still has it, and the log grows to where it began.
#[test]
fn an_epoch_that_was_cut_off_does_not_come_back() {
    let world = World::new(1);
    let (storage, log, plan) = planned(&world, Durability::Replicated);
    carry_on(&log, &plan);
    world.run_until(log.start_epoch(LeaderEpoch(2)).unwrap()).unwrap();
    assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
    // The journal has no frame of the log from here on, for which it would be synced at the next start.
    let (storage, log) = start_again(&world, storage, log, false);
    drop(log.truncate(Offset(10)).unwrap());
    assert!(log.cut_files().is_ok());
    let (storage, log) = start_again(&world, storage, log, true);
    assert_eq!((log.end_offset(), log.latest_epoch()), (Offset(10), Some(LeaderEpoch(1))));
    for _ in 0..2 {
        let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
    }
    let (_storage, log) = start_again(&world, storage, log, false);
    assert_eq!((log.end_offset(), log.latest_epoch()), (Offset(12), Some(LeaderEpoch(1))));
}

/// A crash may leave it; what it says is believed then, also of a log that was cut meanwhile.
#[test]
fn a_first_mark_whose_name_could_not_be_synced_is_cut_with_the_log() {
    let world = World::new(1);
    let (_storage, log, plan) = planned(&world, Durability::Fsync);
    // The log's directory is synced first.
    let lacking = Fault::nth(DiskOperation::SyncDir, 2).on("/records-0").with(FaultError::Descriptors);
    world.disk().inject(lacking);
    assert!(matches!(log.carry_out(&plan), Err(SyncError::Lacking(Lack::Descriptors, _))));
    log.postpone_sync(&plan, Vec::new());
    let stored = || {
        let file = Mark::open(world.disk(), &log.mark_path()).unwrap().unwrap();
        Mark::load(world.disk(), &log.mark_path(), file).unwrap().mark
    };
    assert_eq!((log.state().durable.mark, stored().end), (None, Offset(12)), "nothing may rely on it");
    drop(log.truncate(Offset(7)).unwrap());
    assert!(log.cut_files().is_ok());
    assert_eq!((log.state().durable.mark, stored().end), (None, Offset(7)));
    assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
    assert_eq!(log.state().durable.mark, Some(stored()));
}

/// What a start cuts off is past the mark, and counts as nothing there; but past that of a log without a journal it would count.
#[test]
fn what_was_cut_to_nothing_does_not_come_back_when_the_durability_has_changed() {
    let world = World::new(1);
    let (storage, log, plan) = planned(&world, Durability::Fsync);
    carry_on(&log, &plan);
    world.run_until(log.truncate(Offset(0)).unwrap()).unwrap();
    let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
    let (storage, log) = lose_the_mark(&world, storage, log, true);
    assert_eq!(log.end_offset(), Offset(0), "nobody was promised it");
    world.run_until(log.change_durability(Durability::Replicated).unwrap()).unwrap();
    let (_storage, log) = start_again(&world, storage, log, true);
    assert_eq!((log.end_offset(), log.durability()), (Offset(0), Durability::Replicated));
}

/// The caller's thread may come in between the two.
#[test]
fn a_truncation_that_begins_as_a_sync_is_planned_has_its_files_cut_before_a_mark_covers_it() {
    let world = World::new(1);
    let (_storage, log, plan) = planned(&world, Durability::Replicated);
    carry_on(&log, &plan);
    let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
    drop(log.truncate(Offset(7)).unwrap());
    assert!(log.plan_sync(Cause::Turn).is_none());
    assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
    let state = log.state();
    let (mark, active) = (state.durable.mark.unwrap(), state.active());
    assert_eq!((mark.lsn, active.segment.len().unwrap()), (state.frames.last, mark.segment_len));
}

#[test]
fn a_truncation_that_overtakes_a_sync_is_not_undone_by_it() {
    let world = World::new(1);
    let (_storage, log, plan) = planned(&world, Durability::Fsync);
    drop(log.truncate(Offset(7)).unwrap());
    carry_on(&log, &plan);
    assert_eq!(log.flushed_end(), Offset(0), "what was synced is of before");
    assert_eq!(log.state().durable.mark.unwrap().end, Offset(12));
    assert_eq!(log.state().durable.parts, 2);
    assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
    let mark = log.state().durable.mark.unwrap();
    assert_eq!((mark.end, mark.segment_base), (Offset(7), Offset(6)));
    assert_eq!(log.flushed_end(), Offset(7));
    assert!(log.state().life.cut.is_some(), "its frame is not durable yet");
}
