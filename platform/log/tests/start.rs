//! Moving a log's start forward: what is refused, what goes, and that nothing goes too early.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use common::{
    batch,
    bench::{Bench, EPOCH, segment_path},
    log_id,
    meddling::Meddling,
    options, read_all, sequenced, stored,
};
use futures::FutureExt;
use millstream_env::{
    Disk, Env,
    sim::{DiskOperation, Fault},
};
use millstream_log::{AppendError, LogOptions, MoveStartError, PartitionLog, ReadError, Storage};
use millstream_model::{Durability, LeaderEpoch, Offset, TimestampMs};

/// Four batches of one record and 4,000 bytes fit a segment, and a fifth does not.
fn bench(durability: Durability) -> Bench {
    Bench::new(3, durability)
}

impl Bench {
    /// Appends batches of one record each, whose time is ten times its offset; gives them as they are stored.
    fn append(&self, count: usize) -> Vec<Bytes> {
        let log = self.log();
        let append = |_| {
            let base = log.end_offset();
            let batch = batch(1, 4_000, 10 * base.0);
            self.world.run_until(log.append(batch.clone(), EPOCH).unwrap().ticket).unwrap();
            stored(&batch, base, EPOCH)
        };
        (0..count).map(append).collect()
    }

    fn advance(&self, start: i64) {
        let ticket = self.log().advance_start(Offset(start)).unwrap();
        self.world.run_until(ticket).unwrap();
    }

    fn trash(&self) -> usize {
        self.world.disk().read_dir(Path::new("/data/trash")).unwrap().len()
    }
}

#[test]
fn what_is_below_the_start_is_not_read_and_its_segments_go_in_the_background() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let mut bench = bench(durability);
        let stored = bench.append(14);
        assert_eq!(bench.names("log"), [0, 4, 8, 12]);
        let log = bench.log();
        let whole = log.size_bytes();
        bench.advance(9);
        assert_eq!((log.start_offset(), log.end_offset()), (Offset(9), Offset(14)));
        assert!(log.size_bytes() < whole * 6 / 10, "{} of {whole}", log.size_bytes());
        for below in [0, 4, 8] {
            let refused = log.read(Offset(below), Offset(14), 1000);
            assert!(matches!(refused, Err(ReadError::OutOfRange { start: Offset(9), .. })), "{refused:?}");
        }
        assert_eq!(log.offset_for_timestamp(TimestampMs(0)).unwrap().unwrap().0, Offset(9));
        assert_eq!(read_all(&log, Offset(14), 1000), stored[9..]);
        bench.world.run_for(Duration::from_secs(1));
        assert_eq!(bench.names("log"), [8, 12]);
        assert_eq!(bench.trash(), 0, "and their room is given back");
        assert!(bench.names("index").iter().all(|base| *base >= 8));
        bench.crash();
        assert_eq!(bench.log().start_offset(), Offset(9));
        assert_eq!(read_all(&bench.log(), bench.log().end_offset(), 1000)[..3], stored[9..12]);
    }
}

#[test]
fn an_acknowledged_start_is_kept_by_whatever_comes() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let mut bench = bench(durability);
        let stored = bench.append(10);
        let log = bench.log();
        let first = log.advance_start(Offset(6)).unwrap();
        let mut again = log.advance_start(Offset(2)).unwrap();
        assert!((&mut again).now_or_never().is_none(), "it is not durable yet");
        bench.world.run_until(first).unwrap();
        bench.world.run_until(again).unwrap();
        assert!(log.advance_start(Offset(6)).unwrap().now_or_never().is_some(), "it is durable already");
        drop(log);
        bench.kill();
        assert_eq!(bench.log().start_offset(), Offset(6));
        assert_eq!(read_all(&bench.log(), Offset(10), 1000), stored[6..]);
        bench.crash();
        assert_eq!(bench.log().start_offset(), Offset(6));
        assert_eq!(read_all(&bench.log(), Offset(10), 1000), stored[6..]);
    }
}

#[test]
fn a_start_past_the_end_is_refused_and_one_at_the_end_leaves_an_empty_log() {
    let mut bench = bench(Durability::Fsync);
    bench.append(6);
    let past = bench.log().advance_start(Offset(7));
    assert!(matches!(past, Err(MoveStartError::BeyondEnd { start: Offset(7), end: Offset(6) })), "{past:?}");
    assert_eq!(bench.log().start_offset(), Offset(0));
    bench.advance(6);
    assert_eq!(read_all(&bench.log(), Offset(6), 1000), Vec::<Bytes>::new());
    let more = bench.append(5);
    bench.world.run_for(Duration::from_secs(1));
    bench.crash();
    assert_eq!(bench.log().start_offset(), Offset(6));
    assert_eq!(read_all(&bench.log(), Offset(11), 1000), more);
}

#[test]
fn a_replicated_log_that_lost_its_tail_begins_empty_at_the_start() {
    let mut bench = bench(Durability::Replicated);
    bench.append(3);
    // The journal is synced, and the segment is not.
    bench.advance(2);
    bench.crash();
    assert_eq!((bench.log().start_offset(), bench.log().end_offset()), (Offset(2), Offset(2)), "this seed loses all");
    let more = bench.append(6);
    bench.kill();
    assert_eq!(bench.log().start_offset(), Offset(2));
    assert_eq!(read_all(&bench.log(), Offset(8), 1000), more);
}

#[test]
fn segments_that_a_power_cut_brings_back_go_at_the_next_start() {
    let mut bench = bench(Durability::Fsync);
    let stored = bench.append(14);
    bench.close();
    let copy: Vec<_> = [0, 4].map(|base| (base, bytes_of(&bench, base))).into();
    bench.open();
    bench.advance(9);
    bench.world.run_for(Duration::from_secs(1));
    bench.close();
    // One whole, one torn.
    for (base, bytes) in copy {
        let keep = if base == 0 { bytes.len() } else { bytes.len() / 2 };
        write(&bench, base, &bytes[..keep]);
    }
    bench.open();
    bench.world.run_for(Duration::from_secs(1));
    assert_eq!(bench.names("log"), [8, 12]);
    assert_eq!(read_all(&bench.log(), Offset(14), 1000), stored[9..]);
}

fn bytes_of(bench: &Bench, base: u64) -> Vec<u8> {
    let file = bench.world.disk().open(&segment_path(base), millstream_env::OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn write(bench: &Bench, base: u64, bytes: &[u8]) {
    let file = bench.world.disk().open(&segment_path(base), millstream_env::OpenMode::Create).unwrap();
    file.write_at(&[std::io::IoSlice::new(bytes)], 0).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn a_producer_whose_batches_went_is_still_known_after_a_restart() {
    let mut bench = bench(Durability::Fsync);
    // Producers are written down after a part of it.
    bench.options.journal_bytes_max = 1 << 30;
    bench.kill();
    let once = sequenced(7, 0, 0, 1, 4_000, 1);
    let ticket = bench.log().append(once.clone(), EPOCH).unwrap().ticket;
    bench.world.run_until(ticket).unwrap();
    bench.append(9);
    bench.advance(8);
    bench.world.run_for(Duration::from_secs(1));
    bench.crash();
    let log = bench.log();
    assert!(log.append(once, EPOCH).unwrap().duplicate);
    let gap = log.append(sequenced(7, 0, 5, 1, 10, 1), EPOCH);
    assert!(matches!(gap, Err(AppendError::Sequence(_))), "{gap:?}");
    assert!(!log.append(sequenced(7, 0, 1, 1, 10, 1), EPOCH).unwrap().duplicate);
}

#[test]
fn on_a_full_disk_the_start_moves_and_makes_room() {
    let bench = bench(Durability::Fsync);
    bench.append(14);
    bench.world.run_for(Duration::from_secs(1));
    bench.world.disk().set_capacity(Some(bench.world.disk().used_bytes()));
    let full = loop {
        match bench.log().append(batch(1, 4_000, 0), EPOCH) {
            Ok(appended) => bench.world.run_until(appended.ticket).unwrap(),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, AppendError::StorageFull { .. }), "{full}");
    bench.advance(12);
    bench.world.run_for(Duration::from_secs(20));
    assert_eq!(bench.names("log")[0], 12);
    bench.append(1);
}

#[test]
fn closed_segments_say_how_large_and_how_old_they_are() {
    let bench = bench(Durability::Fsync);
    bench.append(10);
    let closed = bench.log().closed_segments().unwrap();
    let found: Vec<_> = closed.iter().map(|one| (one.base_offset.0, one.end_offset.0, one.newest.unwrap().0)).collect();
    assert_eq!(found, [(0, 4, 30), (4, 8, 70)]);
    assert_eq!(closed.iter().map(|one| one.bytes).sum::<u64>(), bench.log().size_bytes() * 8 / 10);
    bench.advance(5);
    assert_eq!(bench.log().closed_segments().unwrap(), closed[1..]);
}

#[test]
fn epochs_below_the_start_are_forgotten_and_the_one_it_is_in_begins_there() {
    let mut bench = bench(Durability::Fsync);
    let log = bench.log();
    for (epoch, count) in [(1, 3), (2, 4), (5, 3)] {
        for _ in 0..count {
            let batch = batch(1, 4_000, 0);
            bench.world.run_until(log.append(batch, LeaderEpoch(epoch)).unwrap().ticket).unwrap();
        }
    }
    drop(log);
    bench.advance(4);
    for _ in 0..2 {
        let end_of = |epoch| bench.log().end_offset_for_epoch(LeaderEpoch(epoch)).map(|(epoch, end)| (epoch.0, end.0));
        assert_eq!((end_of(1), end_of(2), end_of(3), end_of(9)), (None, Some((2, 7)), Some((2, 7)), Some((5, 10))));
        bench.crash();
    }
}

/// The epochs file then tells of a start that no mark knows of, and that lies past what is left.
#[test]
fn an_epoch_is_kept_by_a_start_that_is_cut_off_with_all_that_was_above_it() {
    for marked in [0, 3] {
        let mut bench = bench(Durability::Replicated);
        bench.append(marked);
        let begun = bench.log().start_epoch(LeaderEpoch(2)).unwrap();
        bench.world.run_until(begun).unwrap();
        // It is nowhere else but in that file from here on.
        bench.world.run_until(bench.storage().close()).unwrap();
        bench.kill();
        for at in 0..5 {
            bench.world.run_until(bench.log().append(batch(1, 100, at), LeaderEpoch(2)).unwrap().ticket).unwrap();
        }
        let end = bench.log().end_offset();
        bench.advance(end.0);
        // Of the records nothing was synced; and the next start ends before its mark is written.
        bench.world.disk().crash_losing_all();
        bench.storage = None;
        bench.world.disk().inject(Fault::nth(DiskOperation::Write, 1).on("/mark").for_good());
        let failed = Storage::open(options(Path::new("/data")), bench.world.env());
        assert!(failed.is_err(), "the start was to fail");
        bench.world.disk().clear_faults();
        bench.kill();
        assert_eq!(bench.log().latest_epoch(), Some(LeaderEpoch(2)), "{marked} records were marked");
        assert_eq!(bench.log().end_offset(), end);
    }
}

/// Whoever has seen the log's list before the start moved, and comes too late for the files, looks again.
#[test]
fn a_look_whose_segment_goes_in_the_middle_of_it_is_a_look_at_what_is_left() {
    type Look = fn(&PartitionLog) -> String;
    let looks: [(Look, &str); 3] = [
        (
            |log| format!("{:?}", log.read(Offset(1), Offset(14), 1000)),
            "Err(OutOfRange { offset: Offset(1), start: Offset(9), end: Offset(14) })",
        ),
        (|log| format!("{:?}", log.offset_for_timestamp(TimestampMs(5))), "Ok(Some((Offset(9), TimestampMs(90))))"),
        (|log| format!("{:?}", log.closed_segments().map(|closed| closed.len())), "Ok(1)"),
    ];
    for (look, expected) in looks {
        let mut bench = bench(Durability::Fsync);
        bench.append(14);
        // So that no file is open, and no index known.
        bench.close();
        let env = bench.world.env();
        let disk = Meddling::new(env.disk.clone());
        let (storage, _) = Storage::open(bench.options.clone(), Env { disk: disk.clone(), ..env }).unwrap();
        let log = storage.open_log(log_id(0), bench.log_options()).unwrap();
        let moved = log.clone();
        disk.go(format!("/{:020}.", 0), move || drop(moved.advance_start(Offset(9)).unwrap()));
        assert_eq!(look(&log), expected);
        assert!(disk.has_gone(), "it did not come to that");
    }
}

/// Segments are moved away, shrunk and removed under the readers' hands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_whose_segment_goes_is_told_that_it_is_out_of_range() {
    const ENDS: i64 = 400;
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = Storage::open(options(dir.path()), millstream_env::real::env()).unwrap();
    let log = storage.open_log(log_id(0), LogOptions { segment_bytes: 5_000, ..LogOptions::default() }).unwrap();
    for at in 0..ENDS {
        storage.writable().await;
        log.append(batch(1, 4_000, at), EPOCH).unwrap().ticket.await.unwrap();
    }
    let readers: Vec<_> = (0..2)
        .map(|reader| {
            let log = log.clone();
            std::thread::spawn(move || {
                let mut refused = 0;
                let mut at = reader;
                while log.start_offset() < Offset(ENDS) {
                    // Around the start, where segments go.
                    at = (at * 5 + 3) % 16;
                    let from = Offset((log.start_offset().0 + at - 2).clamp(0, ENDS));
                    match log.read(from, Offset(ENDS), 9_000) {
                        Ok(_) => {}
                        Err(ReadError::OutOfRange { .. }) => refused += 1,
                        Err(error) => panic!("{from}: {error}"),
                    }
                    match log.offset_for_timestamp(TimestampMs(from.0)) {
                        Ok(_) => {}
                        Err(error) => panic!("at {from}: {error}"),
                    }
                    log.closed_segments().unwrap();
                }
                refused
            })
        })
        .collect();
    for start in 1..=ENDS {
        log.advance_start(Offset(start)).unwrap().await.unwrap();
    }
    let refused: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    assert!(refused > 0, "no reader came too late");
}
