//! A disk that is full, out of descriptors, or rotten, one fault at a time: does the log refuse, keep and recover what it must?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{path::Path, time::Duration};

use common::{
    batch,
    bench::{Bench, EPOCH, segment_path},
    log_id, options, read_all, stored,
};
use millstream_env::{
    Disk, OpenMode,
    sim::{DiskOperation, Fault, FaultError, SimDisk},
};
use millstream_log::{AppendError, LogOptions, OpenError, OpenLogError, ReadError, Storage};
use millstream_model::{Durability, Offset};

fn bench(durability: Durability) -> Bench {
    Bench::new(7, durability)
}

impl Bench {
    fn disk(&self) -> &SimDisk {
        self.world.disk()
    }

    /// Appends one record of so many bytes.
    fn append(&mut self, bytes: usize) -> Result<(), AppendError> {
        let (_, ticket) = self.append_one(1, bytes)?;
        self.world.run_until(ticket).unwrap();
        Ok(())
    }

    /// Lets nothing grow any more.
    fn fill(&self) {
        self.disk().set_capacity(Some(self.disk().used_bytes()));
    }

    fn free(&self) {
        self.disk().set_capacity(None);
    }

    /// Everything that was appended is there, and nothing else.
    fn check(&self) {
        let log = self.log();
        assert_eq!(read_all(&log, log.end_offset(), 5_000), self.appended);
    }
}

/// Fills most of the first segment, then has the disk refuse the next one.
fn refused_roll(durability: Durability) -> Bench {
    let mut bench = bench(durability);
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
        assert_eq!(bench.names("log"), [0]);
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
            let path = segment_path(3);
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
fn a_segment_that_went_missing_is_named_to_readers() {
    let mut bench = bench(Durability::Fsync);
    for _ in 0..8 {
        bench.append(7_000).unwrap();
    }
    bench.close();
    // Two batches a segment: this is neither the first nor the last.
    bench.disk().remove_file(&segment_path(2)).unwrap();
    bench.open();
    let log = bench.log();
    let read = |from| log.read(Offset(from), log.end_offset(), 1);
    for lost in [2, 3] {
        match read(lost) {
            Err(ReadError::Damaged { hole: Some(hole), .. }) => {
                assert_eq!((hole.base, hole.next), (Offset(2), Offset(4)));
            }
            other => panic!("{other:?}"),
        }
    }
    for there in [0, 1, 4, 5, 6, 7] {
        assert_eq!(read(there).unwrap().next, Offset(there + 1));
    }
    bench.append(10).unwrap();
}

/// A segment that holds what others hold, too, is one that joined them, and they go. A damaged header must not pass for that.
#[test]
fn a_segment_that_seems_to_reach_over_the_next_one_does_not_remove_it() {
    let mut bench = bench(Durability::Fsync);
    for _ in 0..5 {
        bench.append(15_000).unwrap();
    }
    bench.close();
    assert_eq!(bench.names("log"), [0, 1, 2, 3, 4]);
    // The lowest byte of the last offset delta of the only batch: two records, it seems.
    bench.disk().corrupt(&segment_path(1), 26, 1).unwrap();
    for _ in 0..2 {
        bench.open();
        let log = bench.log();
        let read = |from| log.read(Offset(from), log.end_offset(), 1);
        let Err(ReadError::Damaged { hole: Some(hole), .. }) = read(1) else { panic!("{:?}", read(1)) };
        assert_eq!((hole.base, hole.next), (Offset(1), Offset(2)));
        for there in [0, 2, 3, 4] {
            let read = read(there).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((read.batches, read.next), (bench.appended[there as usize].clone(), Offset(there + 1)));
        }
        bench.close();
    }
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
        let mut bench = bench(Durability::Fsync);
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

/// Where that other log is.
fn elsewhere() -> std::path::PathBuf {
    format!("/data/logs/{}/1/records-0", log_id(1).topic).into()
}

impl Bench {
    /// Fails no ticket and no storage; whether an append is taken.
    fn takes_appends(&mut self) -> bool {
        match self.append(10) {
            Ok(()) => true,
            Err(AppendError::StorageFull { .. } | AppendError::Descriptors { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Appends to another log.
    fn append_elsewhere(&self) {
        let log = self.storage().open_log(log_id(1), self.log_options()).unwrap();
        self.world.run_until(log.append(batch(1, 100, 0), EPOCH).unwrap().ticket).unwrap();
    }

    /// Lets the background have its ticks.
    fn wait(&self) {
        self.world.run_for(Duration::from_secs(12));
    }

    /// Journals more than the journal holds, without a record.
    fn journal_a_lot(&self) {
        let log = self.log();
        for _ in 0..100 {
            let ticket = log.start_epoch(EPOCH).unwrap();
            self.world.run_until(ticket).unwrap();
        }
    }
}

#[test]
fn a_full_disk_refuses_records_and_nothing_else() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let mut bench = bench(durability);
        bench.append(3_000).unwrap();
        bench.fill();
        let mut refused = 0;
        while bench.takes_appends() {
            refused += 1;
            assert!(refused < 1000, "the disk is full");
        }
        // Marks, epochs and deletions find the room that was set aside.
        bench.journal_a_lot();
        bench.storage().open_log(log_id(1), bench.log_options()).unwrap();
        bench.world.run_until(bench.storage().delete_log(log_id(1)).unwrap()).unwrap();
        bench.wait();
        bench.check();
        assert!(!bench.takes_appends());
        // Killed or cut off: it starts and serves what it has.
        bench.kill();
        bench.check();
        bench.crash();
        if durability == Durability::Fsync {
            bench.check();
        }
        assert!(!bench.takes_appends());
        bench.free();
        bench.wait();
        if durability == Durability::Fsync {
            assert!(bench.takes_appends());
            bench.check();
        }
    }
}

#[test]
fn a_start_without_room_for_a_journal_file_uses_an_old_one() {
    let mut bench = bench(Durability::Fsync);
    bench.append(3_000).unwrap();
    bench.world.first().kill();
    bench.storage = None;
    for path in bench.disk().read_dir(Path::new("/data/journal")).unwrap() {
        if path.file_name().unwrap().to_str().unwrap().starts_with("spare") {
            bench.disk().remove_file(&path).unwrap();
        }
    }
    bench.fill();
    bench.open();
    bench.check();
    bench.crash();
    bench.check();
    bench.free();
    bench.wait();
    assert!(bench.takes_appends());
    bench.check();
}

/// It has its mark before the journal speaks of it, and the journal never had its records.
#[test]
fn a_log_without_a_journal_that_has_gone_is_out_of_service_and_does_not_begin_empty() {
    let mut bench = bench(Durability::Replicated);
    let epoch = bench.log().start_epoch(EPOCH).unwrap();
    bench.world.run_until(epoch).unwrap();
    bench.append_each(3, 1, 1000);
    let dir = format!("/data/logs/{}", log_id(0).topic);
    let kill = |bench: &mut Bench| {
        bench.world.first().kill();
        bench.storage = None;
    };
    kill(&mut bench);
    bench.disk().remove_dir_all(Path::new(&dir)).unwrap();
    for _ in 0..3 {
        bench.open();
        let refused = bench.storage().open_log(log_id(0), bench.log_options()).unwrap_err();
        assert!(matches!(refused, OpenLogError::OutOfService { .. }), "{refused}");
        assert!(refused.to_string().contains(&dir), "{refused}");
        kill(&mut bench);
    }
    bench.open();
    let deleted = bench.storage().delete_log(log_id(0)).unwrap();
    bench.world.run_until(deleted).unwrap();
    for _ in 0..2 {
        kill(&mut bench);
        bench.open();
        assert!(bench.storage().logs().is_empty() && bench.storage().out_of_service().is_empty());
    }
}

/// Nothing could be deleted if it did not go through.
#[test]
fn a_start_on_a_full_disk_takes_what_makes_room() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let mut bench = bench(durability);
        // A log's first files take more than 16 KiB.
        bench.options.reserve_bytes = 24 << 10;
        bench.kill();
        bench.append(3_000).unwrap();
        for _ in 0..2 {
            bench.world.first().kill();
            bench.storage = None;
            // Given up, and taken by others.
            let _ = bench.disk().remove_file(Path::new("/data/BALLAST"));
            bench.fill();
            bench.open();
            bench.check();
            assert!(!bench.takes_appends());
            // What is left of it is there for the next one.
            assert!(bench.disk().exists(Path::new("/data/RESERVE")).unwrap());
            bench.free();
            bench.wait();
            assert!(bench.takes_appends());
        }
        bench.crash();
        if durability == Durability::Fsync {
            bench.check();
        }
    }
}

/// What a deleted log had was written again first, and its room was not there any more: no start went through.
#[test]
fn a_start_on_a_full_disk_writes_nothing_of_what_was_deleted() {
    for power_goes in [false, true] {
        let mut bench = bench(Durability::Fsync);
        bench.options.ballast_bytes = 16 << 10;
        bench.kill();
        bench.append(100).unwrap();
        let log = bench.storage().open_log(log_id(1), bench.log_options()).unwrap();
        for time in 0..5 {
            bench.world.run_until(log.append(batch(1, 9_000, time), EPOCH).unwrap().ticket).unwrap();
        }
        drop(log);
        bench.world.run_until(bench.storage().delete_log(log_id(1)).unwrap()).unwrap();
        bench.wait();
        assert!(bench.disk().read_dir(Path::new("/data/trash")).unwrap().is_empty());
        bench.append(100).unwrap();
        for _ in 0..3 {
            match power_goes {
                true => bench.world.first().crash(),
                false => bench.world.first().kill(),
            }
            bench.storage = None;
            // Somebody else has the room by now, but for what a power cut took of the other log.
            bench.disk().set_capacity(Some(bench.disk().used_bytes() + (24 << 10)));
            bench.open();
            bench.check();
            assert_eq!(bench.storage().logs(), [log_id(0)]);
        }
        bench.free();
        bench.wait();
        assert!(bench.takes_appends());
        bench.crash();
        bench.check();
    }
}

#[test]
fn a_sync_that_lacks_something_is_postponed() {
    for error in [FaultError::Full, FaultError::Descriptors] {
        let open = |path| Fault::nth(DiskOperation::Open, 1).on(path);
        let write = |path| Fault::nth(DiskOperation::Write, 1).on(path);
        let mut faults =
            vec![open("/mark"), write("/mark"), open("/epochs"), write("/epochs"), open("BALLAST"), open("trash")];
        if error == FaultError::Descriptors {
            // A directory is opened to be synced. Where the sync itself fails, that is final: see below.
            let sync_dir = |path, nth| Fault::nth(DiskOperation::SyncDir, nth).on(path);
            faults.extend([sync_dir("/logs", 1), sync_dir("/records-0", 1), sync_dir("/records-0", 2)]);
        }
        for fault in faults {
            let mut bench = bench(Durability::Fsync);
            bench.append(3_000).unwrap();
            bench.disk().inject(fault.clone().with(error).for_good());
            // So much that the journal must be recycled: at some point it is refused, and nothing fails.
            let mut taken = 0;
            while taken < 200 && bench.takes_appends() {
                taken += 1;
            }
            bench.check();
            bench.wait();
            bench.check();
            bench.disk().clear_faults();
            bench.wait();
            for _ in 0..100 {
                assert!(bench.takes_appends(), "{fault:?} {error:?} after {taken}");
            }
            bench.crash();
            bench.check();
        }
    }
}

/// The file has its new name by then, and is not to be looked for by the one before.
#[test]
fn a_journal_file_whose_name_cannot_be_made_durable_at_once_is_used_later() {
    for nth in 1..=6 {
        let mut bench = bench(Durability::Fsync);
        for _ in 0..40 {
            bench.append(9_000).unwrap();
        }
        let fault = Fault::nth(DiskOperation::SyncDir, nth).on("/journal").with(FaultError::Descriptors);
        bench.disk().inject(fault.times(2));
        for _ in 0..100 {
            while bench.append(9_000).is_err() {
                bench.wait();
            }
            let files = bench.disk().read_dir(Path::new("/data/journal")).unwrap();
            assert!(files.len() <= 3, "{files:?}");
            for path in &files {
                let len = bench.disk().open(path, OpenMode::Read).unwrap().len().unwrap();
                assert_eq!(len, 64 << 10, "{nth}: all room of {path:?} is reserved");
            }
        }
        bench.check();
        bench.crash();
        bench.check();
    }
}

/// No sync sets free what the deletion pins, and nobody comes to move the directory away later.
#[test]
fn a_close_that_cannot_move_a_deleted_log_away_ends_and_says_so() {
    use DiskOperation::{Names, SyncDir};
    // Before its directory has another name, and after.
    for fault in [
        Fault::nth(Names, 1).on("/logs").with(FaultError::Full),
        Fault::nth(Names, 1).on("/trash").with(FaultError::Full),
        Fault::nth(SyncDir, 1).on("/logs").with(FaultError::Descriptors),
    ] {
        let mut bench = bench(Durability::Fsync);
        bench.append(3_000).unwrap();
        bench.append_elsewhere();
        bench.disk().inject(fault.clone().for_good());
        bench.world.run_until(bench.storage().delete_log(log_id(1)).unwrap()).unwrap();
        let failure = bench.world.run_until(bench.storage().close()).unwrap_err();
        assert_eq!((failure.action, failure.path), ("remove", elsewhere()), "{fault:?}");
        assert!(!bench.disk().exists(Path::new("/data/CLEAN")).unwrap(), "the next start has something to do");
        bench.disk().clear_faults();
        bench.kill();
        bench.check();
        assert_eq!(bench.storage().logs(), [log_id(0)]);
        bench.close();
    }
}

/// Its directory may be gone when the disk cannot tell that this is durable: nobody may look for its files there.
#[test]
fn a_deleted_log_whose_directory_has_gone_is_not_synced_any_more() {
    let mut bench = bench(Durability::Fsync);
    bench.append_elsewhere();
    bench.disk().inject(Fault::nth(DiskOperation::SyncDir, 1).on("/logs").with(FaultError::Descriptors).for_good());
    bench.world.run_until(bench.storage().delete_log(log_id(1)).unwrap()).unwrap();
    bench.wait();
    assert!(!bench.disk().exists(&elsewhere()).unwrap(), "the window that is asked about");
    // The journal asks for what pins it to be synced, and is full one day.
    let mut taken = 0;
    while taken < 200 && bench.takes_appends() {
        taken += 1;
    }
    assert!(taken < 200, "its deletion pins the journal");
    bench.wait();
    bench.disk().clear_faults();
    bench.wait();
    for _ in 0..200 {
        assert!(bench.takes_appends());
    }
    bench.crash();
    bench.check();
    assert_eq!(bench.storage().logs(), [log_id(0)]);
}

/// Nobody can tell what the disk has of the names: also not where it had no room for them, in steps that can be repeated otherwise.
#[test]
fn a_directory_whose_sync_fails_for_want_of_room_ends_the_storage() {
    type Step = fn(&mut Bench);
    let steps: [(&str, Step); 4] = [
        ("/records-0", |bench| drop(bench.log().advance_start(Offset(6)).unwrap())),
        ("/records-0", |bench| drop(bench.log().truncate(Offset(4)).unwrap())),
        ("/logs", |bench| {
            drop(bench.storage().open_log(log_id(1), bench.log_options()).unwrap());
            drop(bench.storage().delete_log(log_id(1)).unwrap());
        }),
        ("/journal", |bench| {
            let log = bench.log();
            for time in 0..20 {
                if let Ok(appended) = log.append(batch(1, 9_000, time), EPOCH) {
                    let _ = bench.world.run_until(appended.ticket);
                }
            }
        }),
    ];
    for (nth, (path, step)) in steps.into_iter().enumerate() {
        let mut bench = bench(Durability::Fsync);
        for _ in 0..8 {
            bench.append(7_000).unwrap();
        }
        // All names are durable from here on.
        bench.world.run_until(bench.log().advance_start(Offset(3)).unwrap()).unwrap();
        bench.wait();
        bench.disk().inject(Fault::nth(DiskOperation::SyncDir, 1).on(path).with(FaultError::Full));
        step(&mut bench);
        bench.wait();
        let failure = bench.world.run_until(bench.storage().close()).unwrap_err();
        assert!(failure.to_string().contains("injected: SyncDir"), "{nth}: {failure}");
    }
}

#[test]
fn a_replicated_log_that_cannot_be_made_is_refused_and_made_later() {
    for error in [FaultError::Full, FaultError::Descriptors] {
        let mut faults = vec![Fault::nth(DiskOperation::Open, 1).on("mark")];
        if error == FaultError::Descriptors {
            faults.extend(["/records-0", "/logs"].map(|path| Fault::nth(DiskOperation::SyncDir, 1).on(path)));
        }
        for fault in faults {
            let bench = bench(Durability::Replicated);
            let options = bench.log_options();
            bench.disk().inject(fault.with(error).for_good());
            assert!(matches!(bench.storage().open_log(log_id(1), options), Err(OpenLogError::Io { .. })));
            bench.disk().clear_faults();
            bench.storage().open_log(log_id(1), options).unwrap();
        }
    }
}

/// Segments that were written took all of them, and what would have freed some had none for itself; nor did a start.
#[test]
fn appends_to_many_logs_leave_descriptors_for_others() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let mut bench = bench(durability);
        let idle = bench.disk().open_files();
        let options = bench.log_options();
        let logs: Vec<_> = (1..120).map(|at| bench.storage().open_log(log_id(at), options).unwrap()).collect();
        // Of which 32 at most are for segments that wait to be synced.
        bench.disk().set_descriptors(Some(idle + 36));
        let mut appended = vec![Vec::new(); logs.len()];
        for round in 1..=3 {
            for turn in 0.. {
                assert!(turn < 60, "round {round}: {} logs are refused", logs.len());
                let behind = |at: &usize| appended[*at].len() < round;
                let behind: Vec<_> = (0..logs.len()).filter(behind).collect();
                if behind.is_empty() {
                    break;
                }
                let mut tickets = Vec::new();
                for at in behind {
                    let batch = bench.next_batch(1, 100);
                    match logs[at].append(batch.clone(), EPOCH) {
                        Ok(done) => {
                            appended[at].push(stored(&batch, done.base_offset, EPOCH));
                            tickets.push(done.ticket);
                        }
                        Err(AppendError::Descriptors { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                let open = bench.disk().open_files() - idle;
                assert!(open <= 33, "{open} files are open");
                assert!(bench.disk().open(Path::new("/other"), OpenMode::Create).is_ok());
                for ticket in tickets {
                    bench.world.run_until(ticket).unwrap();
                }
                bench.world.run_for(Duration::from_millis(1));
            }
        }
        // The segments of some are ahead of the journal.
        let ahead: Vec<_> = logs.iter().filter_map(|log| log.append(batch(1, 10, 0), EPOCH).ok()).collect();
        assert!(ahead.len() > 20 && ahead.len() < logs.len(), "{}", ahead.len());
        drop((logs, ahead));
        // A start takes fewer than what it goes on from.
        let open = bench.disk().open_files();
        bench.disk().set_descriptors(Some(open - 16));
        bench.kill();
        for (at, appended) in (1..).zip(&appended) {
            let log = bench.storage().open_log(log_id(at), options).unwrap();
            assert!(read_all(&log, log.end_offset(), 5_000).starts_with(appended), "{at}");
        }
        bench.append(10).unwrap();
        bench.crash();
        bench.close();
    }
}

#[test]
fn many_logs_share_few_descriptors() {
    let mut bench = bench(Durability::Fsync);
    let idle = bench.disk().open_files();
    let options = |at: i32| LogOptions {
        durability: if at % 3 == 0 { Durability::Replicated } else { Durability::Fsync },
        ..bench.log_options()
    };
    let logs: Vec<_> = (1..40).map(|at| bench.storage().open_log(log_id(at), options(at)).unwrap()).collect();
    let mut expected = vec![Vec::new(); logs.len()];
    for round in 0..8 {
        for (log, expected) in logs.iter().zip(&mut expected) {
            let batch = bench.next_batch(1, 4_000);
            let appended = log.append(batch.clone(), EPOCH).unwrap();
            expected.push(stored(&batch, appended.base_offset, EPOCH));
            bench.world.run_until(appended.ticket).unwrap();
            let open = bench.disk().open_files() - idle;
            assert!(open < 16, "round {round}: {open} files are open");
        }
        for (log, expected) in logs.iter().zip(&expected) {
            assert_eq!(read_all(log, log.end_offset(), 5_000), *expected);
        }
    }
    // Where there is none left, an append is refused, and taken again later.
    bench.wait();
    bench.disk().set_descriptors(Some(0));
    let mut refused = 0;
    for log in &logs {
        match log.append(batch(1, 10, 0), EPOCH) {
            Ok(_) => {}
            Err(AppendError::Descriptors { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 20, "{refused}");
    bench.wait();
    bench.disk().set_descriptors(None);
    bench.wait();
    for log in &logs {
        bench.world.run_until(log.append(batch(1, 10, 0), EPOCH).unwrap().ticket).unwrap();
    }
}

/// After a start the newest segment is open to be read only. Where it cannot be opened to be written, nothing was written to it.
#[test]
fn what_is_open_only_to_be_read_is_not_cut_after_a_refused_append() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let mut bench = bench(durability);
        let (_, ticket) = bench.append_one(3, 100).unwrap();
        bench.world.run_until(ticket).unwrap();
        bench.close();
        bench.open();
        let log = bench.log();
        assert_eq!(read_all(&log, log.end_offset(), 5_000), bench.appended);
        bench.disk().set_descriptors(Some(0));
        let refused = log.append(batch(1, 10, 0), EPOCH).unwrap_err();
        assert!(matches!(refused, AppendError::Descriptors { .. }), "{refused}");
        bench.disk().set_descriptors(None);
        let (_, ticket) = bench.append_one(1, 10).unwrap();
        bench.world.run_until(ticket).unwrap();
        assert_eq!(read_all(&log, log.end_offset(), 5_000), bench.appended);
    }
}
