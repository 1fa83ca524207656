//! Compaction: which records stay, and that a crash at any point of a pass leaves a log that holds them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use common::{log_id, options, read_all};
use millstream_env::{
    Disk, OpenMode, real,
    sim::{DiskOperation, Fault, World},
};
use millstream_log::{
    AppendError, CompactError, Compacted, Compaction, Ended, LogOptions, PartitionLog, ReadError, Storage,
    StorageOptions,
};
use millstream_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};
use millstream_record::{Batch, BatchBuilder, BatchOptions};

const EPOCH: LeaderEpoch = LeaderEpoch(1);
const SEGMENT_BYTES: u64 = 3_000;
const HOUR: i64 = 3_600_000;

type Key = Option<u8>;
type Value = Option<Vec<u8>>;

/// A log and what was appended to it.
struct Bench {
    world: World,
    storage: Option<Storage>,
    appended: BTreeMap<i64, (Key, Value)>,
    sequence: i32,
    segment_bytes: u64,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let (world, appended) = (World::new(seed), BTreeMap::new());
        let mut bench = Self { world, storage: None, appended, sequence: 0, segment_bytes: SEGMENT_BYTES };
        bench.open();
        bench
    }

    fn open(&mut self) {
        let roomy = StorageOptions { open_segments_max: 8, ..options(Path::new("/data")) };
        self.storage = Some(Storage::open(roomy, self.world.env()).unwrap().0);
    }

    fn log(&self) -> Arc<PartitionLog> {
        let options = LogOptions { segment_bytes: self.segment_bytes, ..LogOptions::default() };
        let storage = self.storage.as_ref().unwrap();
        // One that has failed opens none, but has it open.
        storage.open_log(log_id(0), options).unwrap_or_else(|_| storage.log(log_id(0)).unwrap())
    }

    fn random(&self, below: u64) -> u64 {
        self.world.env().rng.next_u64() % below
    }

    fn now(&self) -> i64 {
        self.world.env().clock.wall_ms()
    }

    /// Appends a batch; some come from an idempotent producer.
    fn append(&mut self, records: &[(Key, Value)]) {
        self.try_append(records).unwrap();
    }

    /// The same, of a storage that may have failed: then the log is unchanged.
    fn try_append(&mut self, records: &[(Key, Value)]) -> Result<(), AppendError> {
        let log = self.log();
        let mut batch = BatchOptions::default();
        if self.random(3) == 0 {
            batch.producer_id = ProducerId(7);
            batch.producer_epoch = ProducerEpoch(0);
            batch.base_sequence = Sequence(self.sequence);
            self.sequence += records.len() as i32;
        }
        let mut builder = BatchBuilder::new(batch);
        for (key, value) in records {
            let key = key.map(|key| vec![key; 3]);
            builder.push(TimestampMs(self.now()), key.as_deref(), value.as_deref(), &[]).unwrap();
        }
        let base = log.end_offset();
        self.world.run_until(log.append(builder.build().unwrap(), EPOCH)?.ticket).unwrap();
        self.appended.extend((base.0..).zip(records.iter().cloned()));
        Ok(())
    }

    fn append_some(&mut self, batches: u64, keys: u64) {
        for _ in 0..batches {
            let count = 1 + self.random(6);
            let record = |bench: &Self| {
                let key = if bench.random(30) == 0 { None } else { Some(bench.random(keys) as u8) };
                let value = (bench.random(8) > 0).then(|| vec![bench.random(256) as u8; bench.random(200) as usize]);
                (key, value)
            };
            let records: Vec<_> = (0..count).map(|_| record(self)).collect();
            self.append(&records);
        }
    }

    fn rules(&self) -> Compaction {
        Compaction {
            dirty_ratio: 0.0,
            lag_ms: 0,
            lag_ms_max: i64::MAX,
            tombstone_ms: HOUR,
            // Several become one.
            segment_bytes: 3 * self.segment_bytes,
            keys_bytes_max: 1 << 20,
            below: Offset(i64::MAX),
        }
    }

    /// All that is closed becomes durable in the segments, as it does in time.
    fn restart(&mut self) {
        self.world.run_until(self.storage.as_ref().unwrap().close()).unwrap();
        self.storage = None;
        self.open();
    }

    /// The records that are there, by offset; and that the offsets are dense and what is there is what was appended.
    fn stored(&self) -> BTreeMap<i64, (Key, Value)> {
        let log = self.log();
        let mut stored = BTreeMap::new();
        for bytes_max in [1, 10_000] {
            stored.clear();
            for batch in read_all(&log, log.end_offset(), bytes_max) {
                for record in Batch::parse_one(batch).unwrap().records(1 << 20).unwrap() {
                    let record = record.unwrap();
                    let key = record.key.map(|key: Bytes| key[0]);
                    stored.insert(record.offset.0, (key, record.value.map(|value| value.to_vec())));
                }
            }
        }
        for (offset, record) in &stored {
            assert_eq!(Some(record), self.appended.get(offset), "offset {offset}");
        }
        stored
    }

    /// Checks that nothing is missing: the newest record of every key, all of those from `reached` on, and the tombstones.
    fn check(&self, gone_below: i64) {
        let stored = self.stored();
        let newest: HashMap<_, _> = self.appended.iter().map(|(offset, (key, _))| (key, *offset)).collect();
        for (offset, (key, value)) in &self.appended {
            let may_go = key.is_none() || newest[key] > *offset || (value.is_none() && *offset < gone_below);
            assert!(may_go || stored.contains_key(offset), "{offset} of key {key:?} is missing");
        }
    }

    /// Checks that below `reached` each key has one record.
    fn check_compacted(&self, reached: Offset) {
        let stored = self.stored();
        let mut seen = HashMap::new();
        for (offset, (key, _)) in stored.range(..reached.0) {
            assert!(key.is_some(), "a record without a key at {offset}");
            assert_eq!(seen.insert(key, *offset), None, "two of key {key:?} below {reached}, the other at {offset}");
        }
    }

    fn names(&self) -> Vec<String> {
        let dir = format!("/data/logs/{}/0/records-0", log_id(0).topic);
        let paths = self.world.disk().read_dir(Path::new(&dir)).unwrap();
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    /// Checks that there is no segment but the log's, and no snapshot but of where they begin, and the mark's.
    fn check_names(&self) {
        let closed = self.log().closed_segments().unwrap();
        let last = closed.last().map_or(Offset(0), |segment| segment.end_offset);
        let bases: Vec<_> = closed.iter().map(|segment| segment.base_offset).chain([last]).collect();
        let others = |suffix| {
            let offset = |name: &String| Some(Offset(name.strip_suffix(suffix)?.parse().unwrap()));
            let named: Vec<_> = self.names().iter().filter_map(offset).collect();
            named.into_iter().filter(|base| !bases.contains(base)).collect::<Vec<_>>()
        };
        assert_eq!(others(".log"), []);
        assert!(others(".producers").len() <= 1, "{:?}, of {bases:?}", others(".producers"));
    }

    fn compact(&self) -> Option<Compacted> {
        self.log().compact(&self.rules(), &|| true).unwrap()
    }
}

#[test]
fn the_newest_of_each_key_stays_at_its_offset_and_small_segments_become_one() {
    for seed in 0..40 {
        let mut bench = Bench::new(seed);
        bench.append_some(80, 12);
        bench.restart();
        let before = bench.log().size_bytes();
        let segments = bench.names().iter().filter(|name| name.ends_with(".log")).count();
        let done = bench.compact().unwrap();
        assert!(done.records_removed > 0 && done.bytes_after < done.bytes_before, "{done:?}");
        assert_eq!(before - bench.log().size_bytes(), done.bytes_before - done.bytes_after);
        bench.check(0);
        bench.check_compacted(done.reached);
        assert_eq!(bench.compact(), None, "nothing is left to do");
        // Once more, over what was compacted and what is new.
        bench.append_some(40, 20);
        bench.restart();
        bench.check(0);
        bench.check_compacted(done.reached);
        let done = bench.compact().unwrap();
        bench.check(0);
        bench.check_compacted(done.reached);
        bench.check_names();
        assert!(bench.names().iter().filter(|name| name.ends_with(".log")).count() < segments, "{:?}", bench.names());
        bench.world.first().crash();
        bench.open();
        bench.check(0);
        bench.check_compacted(done.reached);
    }
}

#[test]
fn what_was_closed_a_moment_ago_is_compacted_once_it_is_durable() {
    let mut bench = Bench::new(8);
    // A journal that is half full only later.
    let roomy = StorageOptions { journal_bytes_max: 4 << 20, open_segments_max: 64, ..options(Path::new("/data")) };
    bench.world.run_until(bench.storage.as_ref().unwrap().close()).unwrap();
    bench.storage = None;
    bench.storage = Some(Storage::open(roomy, bench.world.env()).unwrap().0);
    bench.append_some(60, 10);
    assert_eq!(bench.compact(), None);
    bench.world.run_for(std::time::Duration::from_millis(1));
    let done = bench.compact().unwrap();
    assert!(done.records_removed > 0, "{done:?}");
    bench.check(0);
}

/// A pass had a file open for each of the segments that become one: where there were thousands, it took all descriptors, and the next
/// pass did so again.
#[test]
fn many_small_segments_become_one_with_few_descriptors() {
    let mut bench = Bench::new(7);
    bench.segment_bytes = 400;
    bench.append_some(150, 40);
    bench.restart();
    let segments = |bench: &Bench| bench.names().iter().filter(|name| name.ends_with(".log")).count();
    let before = segments(&bench);
    assert!(before > 80, "{before}");
    let open = bench.world.disk().open_files();
    bench.world.disk().set_descriptors(Some(open + 12));
    let done = bench.log().compact(&Compaction { segment_bytes: 1 << 20, ..bench.rules() }, &|| true).unwrap().unwrap();
    bench.world.disk().set_descriptors(None);
    assert_eq!(segments(&bench), 2);
    bench.check(0);
    bench.check_compacted(done.reached);
}

#[test]
fn a_reader_in_the_middle_of_a_pass_goes_on_where_it_was() {
    let mut bench = Bench::new(1);
    bench.append_some(60, 10);
    bench.restart();
    let log = bench.log();
    let end = log.end_offset();
    // Its place is remembered, as a position in a segment that will be another's.
    let first = log.read(Offset(0), end, 500).unwrap();
    bench.compact().unwrap();
    let mut from = first.next;
    while from < end {
        let read = log.read(from, end, 500).unwrap();
        let batch = Batch::parse(read.batches).unwrap().0;
        assert!(batch.header().base_offset <= from && batch.header().end_offset() > from);
        from = read.next;
    }
}

#[test]
fn tombstones_stay_for_a_time_after_nothing_older_is_left() {
    let mut bench = Bench::new(2);
    for key in 0..20 {
        bench.append(&[(Some(key), Some(vec![1; 300]))]);
        bench.append(&[(Some(key), None)]);
    }
    bench.append_some(30, 5);
    bench.restart();
    let reached = bench.compact().unwrap().reached;
    assert!(reached > Offset(40));
    let tombstones = |bench: &Bench| bench.stored().range(..40).filter(|(_, (_, value))| value.is_none()).count();
    let kept = tombstones(&bench);
    assert!(kept >= 15, "{kept}");
    bench.world.run_for(std::time::Duration::from_millis(HOUR as u64 / 2));
    bench.append_some(30, 5);
    bench.restart();
    bench.compact().unwrap();
    assert_eq!(tombstones(&bench), kept);
    bench.world.run_for(std::time::Duration::from_millis(HOUR as u64 / 2));
    bench.append_some(30, 5);
    bench.restart();
    bench.compact().unwrap();
    assert_eq!(tombstones(&bench), 0);
    bench.check(reached.0);
}

#[test]
fn with_little_memory_it_takes_several_passes() {
    let mut bench = Bench::new(3);
    bench.append_some(120, 200);
    bench.restart();
    let rules = Compaction { keys_bytes_max: 4_000, ..bench.rules() };
    let mut reached = Offset(0);
    let mut passes = 0;
    while let Some(done) = bench.log().compact(&rules, &|| true).unwrap() {
        assert!(done.reached > reached);
        reached = done.reached;
        passes += 1;
        bench.check(0);
    }
    assert!(passes > 3, "{passes}");
    bench.check_compacted(reached);
}

#[test]
fn nothing_is_done_before_there_is_enough_to_gain_or_it_is_old_enough() {
    let mut bench = Bench::new(4);
    bench.append_some(60, 10);
    bench.restart();
    let rules = bench.rules();
    let end = bench.log().end_offset();
    let compact = |rules| bench.log().compact(&rules, &|| true).unwrap();
    assert_eq!(compact(Compaction { lag_ms: HOUR, ..rules }), None, "too young");
    assert_eq!(compact(Compaction { below: Offset(0), ..rules }), None, "past the high watermark");
    let done = compact(Compaction { dirty_ratio: 1.0, ..rules }).unwrap();
    assert!(done.reached < end, "the last segment is appended to");
    bench.append_some(20, 10);
    bench.restart();
    let compact = |rules| bench.log().compact(&rules, &|| true).unwrap();
    assert_eq!(compact(Compaction { dirty_ratio: 0.999, ..rules }), None, "too little");
    assert!(compact(Compaction { dirty_ratio: 0.999, lag_ms_max: 0, ..rules }).is_some(), "it has waited long enough");
}

#[test]
fn a_batch_that_is_sent_again_after_a_pass_is_known_even_where_nothing_but_batches_tells() {
    let mut bench = Bench::new(5);
    let sent = common::sequenced(9, 0, 0, 3, 100, 5);
    // Of this one nothing stays either: where the two could be one, the producer would be forgotten.
    bench.append(&[(None, None)]);
    let log = bench.log();
    bench.world.run_until(log.append(sent.clone(), EPOCH).unwrap().ticket).unwrap();
    // The same keys again: none of its records stays.
    let again = common::batch(3, 100, 5);
    bench.world.run_until(log.append(again, EPOCH).unwrap().ticket).unwrap();
    bench.appended.extend((1..7).map(|offset| (offset, (Some(b'5'), None))));
    drop(log);
    bench.append_some(40, 3);
    bench.restart();
    bench.compact().unwrap();
    bench.restart();
    for name in bench.names().iter().filter(|name| name.ends_with(".producers")) {
        let dir = format!("/data/logs/{}/0/records-0", log_id(0).topic);
        bench.world.disk().remove_file(&Path::new(&dir).join(name)).unwrap();
    }
    bench.restart();
    let found = bench.log().append(sent, EPOCH).unwrap();
    assert!(found.duplicate && found.base_offset == Offset(1), "{found:?}");
}

#[test]
fn a_pass_that_is_cut_off_anywhere_loses_nothing() {
    let operations = [
        DiskOperation::Open,
        DiskOperation::Write,
        DiskOperation::SyncData,
        DiskOperation::SyncDir,
        DiskOperation::Names,
    ];
    let (mut cut_off, mut whole) = (0, 0);
    for seed in 0..12 {
        for operation in operations {
            for nth in 1..40 {
                let mut bench = Bench::new(seed);
                bench.append_some(60, 8);
                bench.restart();
                let log = bench.log();
                bench.world.disk().inject(Fault::nth(operation, nth).for_good());
                let outcome = log.compact(&bench.rules(), &|| true);
                bench.world.disk().clear_faults();
                // What is left can be read at once, and after a power cut or a kill.
                bench.check(0);
                drop(log);
                match seed % 2 {
                    0 => bench.world.first().crash(),
                    _ => bench.world.first().kill(),
                }
                bench.open();
                bench.check(0);
                assert!(bench.names().iter().all(|name| !name.ends_with(".compacting")), "{:?}", bench.names());
                // And goes on from there, without what was left over.
                bench.restart();
                bench.check_names();
                if let Some(done) = bench.compact() {
                    bench.check_compacted(done.reached);
                }
                bench.check(0);
                match outcome {
                    Ok(_) => {
                        whole += 1;
                        break;
                    }
                    Err(_) => cut_off += 1,
                }
            }
        }
    }
    assert!(cut_off > 300 && whole > 30, "{cut_off} were cut off, {whole} were not");
}

/// A failed sync of the directory makes the kernel forget that the names of segments which were begun since the last one are not
/// durable. The log's own next sync went well, its mark said that they are, and their frames were written over.
#[test]
fn after_a_failed_sync_nothing_is_believed_that_a_later_one_says() {
    for (operation, nth) in [(DiskOperation::SyncDir, 1), (DiskOperation::SyncDir, 2), (DiskOperation::SyncData, 1)] {
        for seed in 0..16 {
            let mut bench = Bench::new(seed);
            bench.append_some(60, 8);
            bench.restart();
            let names = bench.names().len();
            while bench.names().len() < names + 2 {
                bench.append_some(1, 250);
            }
            bench.world.disk().inject(Fault::nth(operation, nth));
            let outcome = bench.log().compact(&bench.rules(), &|| true);
            assert!(outcome.is_err(), "{outcome:?}");
            // Enough for the journal to go round, if it goes on at all.
            let refused = (0..1_000).find_map(|_| bench.try_append(&[(Some(7), Some(vec![7; 1_000]))]).err());
            bench.world.run_for(std::time::Duration::from_secs(2));
            bench.world.first().crash();
            bench.open();
            bench.check(0);
            assert!(matches!(refused, Some(AppendError::Ended(Ended::Failed(_)))), "{operation:?} {nth}: {refused:?}");
            assert!(matches!(outcome, Err(CompactError::Failed(_))), "{outcome:?}");
        }
    }
}

/// The broker's shutdown waited for a whole pass, however long that took.
#[test]
fn a_pass_that_is_given_up_anywhere_ends_at_once_and_the_next_one_does_it_all() {
    let (mut given_up, mut removed_before) = (0, 0);
    for asked_max in 0.. {
        let mut bench = Bench::new(9);
        bench.append_some(60, 8);
        bench.restart();
        let size = bench.log().size_bytes();
        let asked = Cell::new(0);
        let go_on = || asked.replace(asked.get() + 1) < asked_max;
        let outcome = bench.log().compact(&bench.rules(), &go_on);
        if outcome.is_ok() {
            break;
        }
        assert!(matches!(outcome, Err(CompactError::GivenUp)), "{outcome:?}");
        assert_eq!(asked.get(), asked_max + 1, "it went on");
        assert!(bench.names().iter().all(|name| !name.ends_with(".compacting")), "{:?}", bench.names());
        bench.check(0);
        given_up += 1;
        removed_before += u64::from(bench.log().size_bytes() < size);
        if asked_max % 2 == 1 {
            bench.world.first().crash();
            bench.open();
        }
        let done = bench.compact().unwrap();
        bench.check(0);
        bench.check_compacted(done.reached);
        bench.check_names();
    }
    // While keys were noted, and between segments that were written anew.
    assert!(given_up > 80 && removed_before > 10, "{given_up}, {removed_before} of them with something done");
}

#[test]
fn no_index_is_taken_for_another_segments() {
    for seed in 0..20 {
        let mut bench = Bench::new(seed);
        bench.segment_bytes = 200_000;
        for at in 0..120 {
            bench.append(&[(Some(at % 60), Some(vec![at; 4_000]))]);
        }
        bench.restart();
        assert!(bench.names().iter().any(|name| name.ends_with(".index")));
        // The second time, the power fails before the new name is durable: it may be there all the same.
        if seed % 2 == 1 {
            bench.world.disk().inject(Fault::nth(DiskOperation::SyncDir, 2).for_good());
        }
        let outcome = bench.log().compact(&bench.rules(), &|| true);
        assert_eq!(outcome.is_err(), seed % 2 == 1, "{outcome:?}");
        bench.world.disk().clear_faults();
        bench.world.first().crash();
        bench.open();
        bench.check(0);
        let log = bench.log();
        for offset in 0..120 {
            let read = log.read(Offset(offset), log.end_offset(), 1).unwrap();
            let header = *Batch::parse(read.batches).unwrap().0.header();
            assert!(header.base_offset.0 <= offset && header.end_offset().0 > offset);
        }
    }
}

#[test]
fn what_is_damaged_is_not_written_anew_as_if_it_were_not() {
    let mut bench = Bench::new(6);
    bench.append(&[(Some(200), Some(vec![1; 500]))]);
    bench.append_some(60, 10);
    bench.restart();
    let path = format!("/data/logs/{}/0/records-0/{:020}.log", log_id(0).topic, 0);
    bench.world.disk().corrupt(Path::new(&path), 300, 0x10).unwrap();
    let refused = bench.log().compact(&bench.rules(), &|| true);
    assert!(matches!(refused, Err(CompactError::Read(ReadError::Damaged { .. }))), "{refused:?}");
    let read = bench.log().read(Offset(0), Offset(1000), 1);
    assert!(matches!(read, Err(ReadError::Damaged { .. })), "{read:?}");
}

/// A segment that is cut short where a batch begins looks whole. Joined with the next one, what is lost would hide that one's first
/// batches from readers, who look for each batch where the one before it ends.
#[test]
fn a_segment_that_is_cut_short_is_not_joined_with_the_next() {
    let mut bench = Bench::new(6);
    let fill = |bench: &mut Bench| (0..12).for_each(|key| bench.append(&[(Some(key), Some(vec![key; 300]))]));
    fill(&mut bench);
    let log = bench.log();
    let (end, base) = (log.end_offset(), log.closed_segments().unwrap().last().unwrap().end_offset);
    let last = log.read(Offset(end.0 - 1), end, 1).unwrap().batches.len() as u64;
    drop(log);
    bench.world.run_until(bench.storage.as_ref().unwrap().close()).unwrap();
    let path = format!("/data/logs/{}/0/records-0/{:020}.log", log_id(0).topic, base.0);
    let file = bench.world.disk().open(Path::new(&path), OpenMode::Write).unwrap();
    assert!(file.len().unwrap() > last, "there is a batch before it");
    file.set_len(file.len().unwrap() - last).unwrap();
    bench.restart();
    fill(&mut bench);
    // Once it is durable.
    bench.compact();
    bench.world.run_for(std::time::Duration::from_secs(1));
    for _ in 0..2 {
        let log = bench.log();
        let refused = log.compact(&Compaction { segment_bytes: 1 << 20, ..bench.rules() }, &|| true);
        assert!(matches!(refused, Err(CompactError::Read(ReadError::Damaged { .. }))), "{refused:?}");
        for offset in (0..24).filter(|offset| *offset != end.0 - 1) {
            let read = log.read(Offset(offset), log.end_offset(), 1);
            assert_eq!(read.unwrap_or_else(|error| panic!("{error}")).next, Offset(offset + 1));
        }
        drop(log);
        bench.restart();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn readers_see_what_stays_while_segments_change_under_them() {
    const RECORDS: i64 = 600;
    let dir = tempfile::tempdir().unwrap();
    // Files are closed and opened again all the time.
    let few = StorageOptions { open_segments_max: 1, ..options(dir.path()) };
    let log_options = LogOptions { segment_bytes: 4_000, ..LogOptions::default() };
    for round in 0..8 {
        let storage = Storage::open(few.clone(), real::env()).unwrap().0;
        let log = storage.open_log(log_id(round), log_options).unwrap();
        for at in 0..RECORDS {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            let key = (at % (300 - 30 * i64::from(round))).to_be_bytes();
            builder.push(TimestampMs(at), Some(&key), Some(&[at as u8; 150]), &[]).unwrap();
            storage.writable().await;
            let ticket = log.append(builder.build().unwrap(), EPOCH).unwrap().ticket;
            if at + 1 == RECORDS {
                ticket.await.unwrap();
            }
        }
        storage.close().await.unwrap();
        drop((log, storage));
        let storage = Storage::open(few.clone(), real::env()).unwrap().0;
        let log = storage.open_log(log_id(round), log_options).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (log, done) = (log.clone(), done.clone());
                std::thread::spawn(move || {
                    let mut reads = 0;
                    while !done.load(Ordering::Relaxed) || reads == 0 {
                        let mut from = Offset(reads * 37 % 100 + reader);
                        while from < Offset(RECORDS) {
                            let read = log.read(from, Offset(RECORDS), 1_000).unwrap();
                            assert!(read.next > from);
                            from = read.next;
                        }
                        let found = log.offset_for_timestamp(TimestampMs(RECORDS - 1)).unwrap();
                        assert_eq!(found.map(|(offset, _)| offset), Some(Offset(RECORDS - 1)));
                        reads += 1;
                    }
                })
            })
            .collect();
        // With memory for a few keys, it takes many passes.
        let rules = Compaction { keys_bytes_max: 3_000, segment_bytes: 8_000, ..Bench::new(1).rules() };
        while log.compact(&rules, &|| true).unwrap().is_some() {}
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
        storage.close().await.unwrap();
    }
}
