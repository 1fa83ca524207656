//! Changing a log's durability: what holds before, meanwhile and after, and what a crash on the way leaves.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use common::{
    batch,
    bench::{Bench, EPOCH},
    log_id, read_all, sequenced,
};
use futures::FutureExt;
use millstream_env::{
    Disk, OpenMode,
    sim::{DiskOperation, Fault, FaultError, World},
};
use millstream_log::{
    AppendError, ChangeError, CommitError, Ended, LogOptions, OpenError, OpenLogError, Ticket, TruncateError,
};
use millstream_model::{Durability, LeaderEpoch, Offset};

const BOTH: [(Durability, Durability); 2] =
    [(Durability::Fsync, Durability::Replicated), (Durability::Replicated, Durability::Fsync)];

impl Bench {
    /// Appends batches of two records, each acknowledged before the next; gives them as they are stored.
    fn append(&mut self, count: usize) -> Vec<Bytes> {
        self.append_each(count, 2, 2_000)
    }

    fn change(&self, to: Durability) {
        let ticket = self.log().change_durability(to).unwrap();
        self.world.run_until(ticket).unwrap();
        assert_eq!(self.log().durability(), to);
    }

    fn read(&self) -> Vec<Bytes> {
        read_all(&self.log(), self.log().end_offset(), 5_000)
    }

    /// From the `nth` try on no mark can be written.
    fn refuse_marks(&self, nth: u64) {
        let lacking = Fault::nth(DiskOperation::Open, nth).on("/mark").with(FaultError::Descriptors);
        self.world.disk().inject(lacking.for_good());
    }
}

#[test]
fn each_append_is_kept_by_the_durability_of_its_time() {
    for (from, to) in BOTH {
        for ends_by_crash in [true, false] {
            let mut bench = Bench::new(5, from);
            let mut expected = bench.append(9);
            bench.change(to);
            assert_eq!(bench.log().flushed_end(), bench.log().end_offset(), "all that was before is durable");
            let kept = expected.len();
            expected.extend(bench.append(9));
            let flushed = bench.log().flushed_end() == bench.log().end_offset();
            assert_eq!(flushed, to == Durability::Fsync, "an append to {to:?} waits for the disk or not");
            assert_eq!(bench.read(), expected);
            if ends_by_crash {
                bench.crash();
            } else {
                bench.kill();
            }
            assert_eq!(bench.log().durability(), to, "whatever the log is opened with");
            let found = bench.read();
            let least = if ends_by_crash && to == Durability::Replicated { kept } else { expected.len() };
            assert!(found.len() >= least && expected.starts_with(&found), "{} of {}", found.len(), expected.len());
            // And back, in the next life, with what was recovered as it is.
            bench.change(from);
            let mut expected = found;
            expected.extend(bench.append(3));
            bench.kill();
            assert_eq!((bench.read(), bench.log().durability()), (expected, from));
        }
    }
}

#[test]
fn a_change_that_is_none_is_done_at_once_and_one_at_a_time_is_made() {
    for (from, to) in BOTH {
        let mut bench = Bench::new(5, from);
        bench.append(2);
        assert!(bench.log().change_durability(from).unwrap().now_or_never().is_some());
        let done = bench.log().change_durability(to).unwrap();
        for other in [from, to] {
            assert!(matches!(bench.log().change_durability(other), Err(ChangeError::UnderWay)));
        }
        assert!(matches!(bench.log().truncate(Offset(0)), Err(TruncateError::Changing)));
        bench.world.run_until(done).unwrap();
        assert!(bench.log().change_durability(to).unwrap().now_or_never().is_some());
        let cut = bench.log().truncate(Offset(2)).unwrap();
        assert!(matches!(bench.log().change_durability(from), Err(ChangeError::Truncating)));
        bench.world.run_until(cut).unwrap();
        bench.change(from);
        assert_eq!(bench.read().len(), 1);
    }
}

#[test]
fn a_change_that_a_deletion_a_close_or_a_failure_overtakes_is_told_so() {
    for (from, to) in BOTH {
        let mut bench = Bench::new(5, from);
        bench.append(2);
        let done = bench.log().change_durability(to).unwrap();
        let deleted = bench.storage().delete_log(log_id(0)).unwrap();
        assert!(matches!(bench.world.run_until(done), Err(CommitError::Deleted)));
        bench.world.run_until(deleted).unwrap();
        bench.kill();
        assert!(bench.storage().log(log_id(0)).is_none());

        let mut bench = Bench::new(5, from);
        let expected = bench.append(2);
        let log = bench.log();
        let done = log.change_durability(to).unwrap();
        bench.world.run_until(bench.storage().close()).unwrap();
        let other = if log.durability() == to { from } else { to };
        assert!(matches!(log.change_durability(other), Err(ChangeError::UnderWay | ChangeError::Ended(Ended::Closed))));
        let outcome = bench.world.run_until(done);
        drop(log);
        bench.kill();
        let now = bench.log().durability();
        assert!(if outcome.is_ok() { now == to } else { now == from }, "{outcome:?}: {now:?}");
        assert_eq!(bench.read(), expected);

        let mut bench = Bench::new(5, from);
        bench.append(2);
        let done = bench.log().change_durability(to).unwrap();
        bench.world.disk().inject(Fault::nth(DiskOperation::SyncData, 1).for_good());
        assert!(matches!(bench.world.run_until(done), Err(CommitError::Failed(_))));
    }
}

/// The disk stops at each call of each kind in turn, with the power or with the process, while appends go on.
#[test]
fn a_crash_on_the_way_leaves_the_one_or_the_other_and_all_that_it_promised() {
    use DiskOperation::{Names, Open, Resize, SyncData, SyncDir, Write};
    for (from, to) in BOTH {
        for ends_by_crash in [true, false] {
            for operation in [Write, SyncData, SyncDir, Names, Resize, Open] {
                // Until one gets through with the disk as it is.
                let mut changed = 0;
                for nth in 1.. {
                    let mut bench = Bench::new(5, from);
                    let mut expected = bench.append(5);
                    bench.world.run_for(Duration::from_secs(20));
                    expected.extend(bench.append(3));
                    let acknowledged = if from == Durability::Fsync { expected.len() } else { 5 };
                    bench.world.disk().inject(Fault::nth(operation, nth).for_good());
                    let mut done = bench.log().change_durability(to).unwrap();
                    let mut waiting = Vec::new();
                    let mut outcome = None;
                    for _ in 0..200 {
                        if let Ok((batch, ticket)) = bench.append_one(2, 2_000) {
                            let journaled = bench.log().durability() == Durability::Fsync;
                            expected.push(batch);
                            waiting.push((expected.len(), journaled, ticket));
                        }
                        bench.world.run_for(Duration::from_micros(50));
                        outcome = (&mut done).now_or_never();
                        if outcome.is_some() {
                            break;
                        }
                    }
                    // What was appended before the change was done counts as durable, too.
                    let mut promised = acknowledged;
                    for (count, journaled, ticket) in waiting {
                        if let Some(Ok(())) = ticket.now_or_never()
                            && (journaled || matches!(outcome, Some(Ok(()))))
                        {
                            promised = promised.max(count);
                        }
                    }
                    let through = matches!(outcome, Some(Ok(())));
                    // A directory that could not be synced shows what is not durable: only a new machine can go on from there.
                    match ends_by_crash || matches!(operation, SyncDir | Names) {
                        true => bench.world.first().crash(),
                        false => bench.world.first().kill(),
                    }
                    bench.storage = None;
                    bench.world.disk().clear_faults();
                    bench.open();
                    let now = bench.log().durability();
                    let at = format!("{from:?} to {to:?}, {operation:?} {nth}, crash {ends_by_crash}");
                    assert!(now == to || (now == from && !through), "{at}: it is {now:?}");
                    let found = bench.read();
                    assert!(
                        found.len() >= promised && expected.starts_with(&found),
                        "{at}: {} found of {}, {promised} promised",
                        found.len(),
                        expected.len()
                    );
                    // It goes on by what it is.
                    let mut expected = found;
                    expected.extend(bench.append(2));
                    bench.kill();
                    assert_eq!((bench.read(), bench.log().durability()), (expected, now), "{at}");
                    changed += usize::from(now == to);
                    if through {
                        break;
                    }
                }
                assert!(changed > 0);
            }
        }
    }
}

#[test]
fn appends_are_refused_for_the_last_sync_only_and_none_is_lost() {
    for (from, to) in BOTH {
        let mut bench = Bench::new(5, from);
        let mut expected = bench.append(20);
        let mut done = bench.log().change_durability(to).unwrap();
        let (mut taken, mut refused) = (0, 0);
        loop {
            match bench.append_one(2, 2_000) {
                Ok((batch, _)) => {
                    expected.push(batch);
                    taken += 1;
                }
                Err(AppendError::Changing) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            bench.world.run_for(Duration::from_nanos(100));
            if let Some(outcome) = (&mut done).now_or_never() {
                outcome.unwrap();
                break;
            }
        }
        assert!(taken > 0, "of {refused} appends none was taken");
        expected.extend(bench.append(1));
        assert_eq!(bench.read(), expected);
        bench.kill();
        assert_eq!(bench.read(), expected);
    }
}

/// A log that was changed and changed back, with records on both sides and `more` of them at its end, and those records.
fn changed_twice(from: Durability, to: Durability, more: usize) -> (Bench, Vec<Bytes>) {
    let mut bench = Bench::new(5, from);
    let mut records = bench.append(3);
    bench.change(to);
    bench.change(from);
    records.extend(bench.append(more));
    (bench, records)
}

/// What comes after the change is only where a mark of the new durability can tell of it.
#[test]
fn where_a_mark_cannot_be_written_the_change_waits_and_appends_go_on_as_long_as_they_may() {
    for (from, to) in BOTH {
        // Of the two syncs before the change, and of the one after it.
        for nth in 1..=3 {
            let (mut bench, mut expected) = changed_twice(from, to, 3);
            bench.refuse_marks(nth);
            let mut done = bench.log().change_durability(to).unwrap();
            bench.world.run_for(Duration::from_secs(20));
            assert!((&mut done).now_or_never().is_none(), "{nth}");
            match bench.append_one(2, 2_000) {
                Ok((batch, ticket)) => {
                    assert!(nth < 3, "{from:?}: an append is taken, which a crash would lose");
                    bench.world.run_until(ticket).unwrap();
                    expected.push(batch);
                }
                Err(AppendError::Changing) => assert_eq!(nth, 3),
                Err(error) => panic!("{nth}: {error}"),
            }
            bench.world.disk().clear_faults();
            bench.world.run_for(Duration::from_secs(20));
            done.now_or_never().expect("it is done when it can be").unwrap();
            expected.extend(bench.append(3));
            bench.kill();
            assert_eq!((bench.read(), bench.log().durability()), (expected, to), "{nth}");
        }
    }
}

/// Before the frame, and where it is durable and no mark tells of it yet.
#[test]
fn a_power_cut_while_no_mark_can_be_written_leaves_what_the_journal_tells() {
    for (from, to) in BOTH {
        for nth in 1..=3 {
            let (mut bench, expected) = changed_twice(from, to, 9);
            bench.refuse_marks(nth);
            let done = bench.log().change_durability(to).unwrap();
            bench.world.run_for(Duration::from_secs(1));
            assert!(done.now_or_never().is_none());
            let journaled = bench.log().durability() == to;
            assert_eq!(journaled, nth == 3);
            bench.world.first().crash();
            bench.storage = None;
            bench.world.disk().clear_faults();
            bench.open();
            assert_eq!(bench.log().durability(), if journaled { to } else { from });
            let found = bench.read();
            let all = journaled || from == Durability::Fsync;
            assert!(if all { found == expected } else { expected.starts_with(&found) }, "{nth}: {}", found.len());
            let (mut expected, now) = (found, bench.log().durability());
            expected.extend(bench.append(3));
            bench.kill();
            assert_eq!((bench.read(), bench.log().durability()), (expected, now));
        }
    }
}

#[test]
fn what_a_log_says_of_itself_stays_through_changes() {
    for (from, to) in BOTH {
        let mut bench = Bench::new(5, from);
        let wait = |bench: &Bench, ticket: Ticket| bench.world.run_until(ticket).unwrap();
        let first = sequenced(7, 0, 0, 1, 10, 1);
        wait(&bench, bench.log().append(first.clone(), EPOCH).unwrap().ticket);
        bench.append(4);
        wait(&bench, bench.log().start_epoch(LeaderEpoch(3)).unwrap());
        wait(&bench, bench.log().advance_start(Offset(2)).unwrap());
        // A start and an epoch are journaled while it changes, too.
        let done = bench.log().change_durability(to).unwrap();
        let epoch = bench.log().start_epoch(LeaderEpoch(4)).unwrap();
        let start = bench.log().advance_start(Offset(3)).unwrap();
        wait(&bench, done);
        wait(&bench, epoch);
        wait(&bench, start);
        wait(&bench, bench.log().start_epoch(LeaderEpoch(5)).unwrap());
        wait(&bench, bench.log().advance_start(Offset(5)).unwrap());
        for _ in 0..2 {
            let log = bench.log();
            assert_eq!((log.start_offset(), log.end_offset(), log.durability()), (Offset(5), Offset(9), to));
            assert_eq!(log.latest_epoch(), Some(LeaderEpoch(5)));
            let again = log.append(first.clone(), LeaderEpoch(5)).unwrap();
            assert!(again.duplicate && again.ticket.now_or_never().is_some());
            drop(log);
            bench.crash();
        }
    }
}

/// What the journal tells of a log whose directory is gone is passed over up to its deletion.
#[test]
fn a_log_that_changed_and_was_deleted_does_not_come_back() {
    for (from, to) in BOTH {
        for seconds in [0, 30] {
            let mut bench = Bench::new(5, from);
            bench.append(3);
            bench.change(to);
            bench.append(3);
            bench.change(from);
            let deleted = bench.storage().delete_log(log_id(0)).unwrap();
            bench.world.run_until(deleted).unwrap();
            bench.world.run_for(Duration::from_secs(seconds));
            bench.crash();
            assert!(bench.storage().logs().is_empty());
        }
    }
}

/// What the journal has of it is kept as long as that takes: the change, and what was appended before and after it.
#[test]
fn a_log_that_lost_its_mark_has_its_changes_when_that_is_put_back() {
    for (from, to) in BOTH {
        // The frame of the second change is durable, and no mark tells of it.
        for unmarked in [true, false] {
            let mut bench = Bench::new(5, from);
            let mut expected = bench.append(3);
            bench.change(to);
            expected.extend(bench.append(3));
            if unmarked {
                let lacking = Fault::nth(DiskOperation::Open, 6).on("/mark").with(FaultError::Descriptors);
                bench.world.disk().inject(lacking.for_good());
                drop(bench.log().change_durability(from).unwrap());
                bench.world.run_for(Duration::from_secs(1));
                bench.world.disk().clear_faults();
            }
            let now = bench.log().durability();
            assert_eq!(now, if unmarked { from } else { to });
            bench.world.first().kill();
            bench.storage = None;
            let (mark, aside) = (mark(), Path::new("/data/aside"));
            bench.world.disk().rename(&mark, aside).unwrap();
            for _ in 0..2 {
                bench.open();
                let opened = bench.storage().open_log(log_id(0), LogOptions::default());
                let Err(OpenLogError::OutOfService { source, .. }) = opened else { panic!("{from:?}: {opened:?}") };
                assert!(matches!(&*source, OpenError::MarkMissing { path } if *path == mark), "{source}");
                bench.world.run_until(bench.storage().close()).unwrap();
                bench.world.first().kill();
                bench.storage = None;
            }
            bench.world.disk().rename(aside, &mark).unwrap();
            for _ in 0..2 {
                bench.open();
                assert_eq!((bench.read(), bench.log().durability()), (expected.clone(), now), "{from:?} {unmarked}");
                expected.extend(bench.append(1));
                bench.world.first().kill();
                bench.storage = None;
            }
        }
    }
}

/// The journal tells of the change as long as it has its frame, and afterwards by the frames that follow it. No record goes.
#[test]
fn a_change_that_a_damaged_slot_of_the_mark_told_of_counts() {
    for (from, to) in BOTH {
        for has_gone in [true, false] {
            let mut bench = Bench::new(5, from);
            let mut expected = bench.append(3);
            bench.change(to);
            bench.change(from);
            expected.extend(bench.append(3));
            // The frame is durable before the one mark of it, which no other follows.
            let lacking = |nth: u64| {
                let lacking = Fault::nth(DiskOperation::Open, nth).on("/0/records-0/mark");
                bench.world.disk().inject(lacking.with(FaultError::Descriptors).for_good());
            };
            lacking(3);
            let done = bench.log().change_durability(to).unwrap();
            bench.world.run_for(Duration::from_secs(1));
            bench.world.disk().clear_faults();
            lacking(2);
            bench.world.run_until(done).unwrap();
            bench.world.disk().clear_faults();
            let kept = [slot(&bench.world, 0), slot(&bench.world, 1)];
            assert_ne!(kept[0].0, kept[1].0, "the window that is asked about");
            lacking(1);
            if has_gone {
                let other = bench.storage().open_log(log_id(1), LogOptions::default()).unwrap();
                while frames(&bench.world, 7) > 0 {
                    bench.world.run_until(other.append(batch(1, 9_000, 0), EPOCH).unwrap().ticket).unwrap();
                }
            }
            expected.extend(bench.append(3));
            bench.world.run_until(bench.log().start_epoch(LeaderEpoch(2)).unwrap()).unwrap();
            bench.world.first().kill();
            bench.storage = None;
            bench.world.disk().clear_faults();
            assert_eq!([slot(&bench.world, 0), slot(&bench.world, 1)], kept);
            let newest = u64::from(kept[1].1 > kept[0].1);
            bench.world.disk().corrupt(&mark(), newest * 4096 + 40, 1).unwrap();
            for _ in 0..2 {
                bench.open();
                let at = format!("{from:?} to {to:?}, its frame has gone: {has_gone}");
                assert_eq!((bench.read(), bench.log().durability()), (expected.clone(), to), "{at}");
                bench.world.first().kill();
                bench.storage = None;
            }
        }
    }
}

fn mark() -> PathBuf {
    format!("/data/logs/{}/0/records-0/mark", log_id(0).topic).into()
}

/// What one of the mark's two slots says: the code of the durability, and the mark's number.
fn slot(world: &World, slot: u64) -> (u8, u64) {
    let file = world.env().disk.open(&mark(), OpenMode::Read).unwrap();
    let mut bytes = [0; 12];
    file.read_at(&mut bytes, slot * 4096 + 12).unwrap();
    (bytes[0], u64::from_be_bytes(bytes[4..].try_into().unwrap()))
}

/// How many frames of this kind the journal's files have, spares included.
fn frames(world: &World, kind: u8) -> usize {
    let disk = world.env().disk;
    let count = |path: PathBuf| {
        let file = disk.open(&path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes.windows(33).filter(|window| window.starts_with(b"MSfr") && window[32] == kind).count()
    };
    disk.read_dir(Path::new("/data/journal")).unwrap().into_iter().map(count).sum()
}
