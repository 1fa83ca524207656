//! Damage in the files of one log: does the storage start, are all other logs whole, does that log serve what is not damaged and
//! nothing else, and do appends go on?
//!
//! One seed is one history: some logs with a few segments each, a life's end, then one damaged file of one of them (a flipped bit, a
//! file cut short, a file that is gone), and lives after that. What was written to that log before is known batch by batch, and
//! which of it the damaged bytes were: all else must be served, what is lost must be named, and no other byte may be served.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use common::{batch, log_id, options, sequenced};
use millstream_env::{
    Disk, OpenMode,
    sim::{SimRng, World},
};
use millstream_log::{
    CompactError, Compaction, Hole, LogOptions, OpenLogError, PartitionLog, ReadError, Storage, StorageOptions,
};
use millstream_model::{Durability, LeaderEpoch, Offset, TimestampMs};
use millstream_record::{Batch, BatchHeader, HEADER_BYTES, Record, batches};

const SEGMENT_BYTES: u64 = 9_000;
/// The log that is damaged, and the others.
const LOGS: i32 = 3;
const PRODUCERS: u64 = 3;
/// Where a batch's length lies: of what is damaged, only this hides where the next one begins.
const LENGTH: Range<u64> = 8..12;

/// Which file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Closed,
    Active,
    Index,
    Epochs,
    Producers,
    Compacted,
    Mark,
}

/// What is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Flip,
    Cut,
    Remove,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Kill,
    PowerCut,
}

/// What is known of a log.
#[derive(Default)]
struct Known {
    /// As stored: base offset, end offset, bytes.
    batches: Vec<(Offset, Offset, Bytes)>,
    start: Offset,
    end: Offset,
    /// Offsets whose batches were damaged.
    touched: Vec<Range<i64>>,
    /// Damage may hide where batches begin.
    hides: bool,
}

struct History {
    world: World,
    rng: SimRng,
    storage: Option<Storage>,
    durability: Durability,
    known: Vec<Known>,
    epoch: i32,
    time: i64,
    /// The file that was damaged, as it was.
    whole: Option<(PathBuf, Vec<u8>)>,
    context: String,
}

impl History {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let rng = world.rng().fork();
        let durability = if rng.one_in(3) { Durability::Replicated } else { Durability::Fsync };
        let known = (0..LOGS).map(|_| Known::default()).collect();
        let context = format!("seed {seed}");
        let mut history =
            Self { world, rng, storage: None, durability, known, epoch: 1, time: 0, whole: None, context };
        history.open();
        history
    }

    fn open(&mut self) {
        // Nothing is served from memory: a pass of compaction would not be seen there.
        let options = StorageOptions { open_segments_max: 8, tail_bytes_max: 0, ..options(Path::new("/data")) };
        let opened = Storage::open(options, self.world.env());
        self.storage = Some(opened.unwrap_or_else(|error| panic!("{}: {error}", self.context)).0);
    }

    fn log_options(&self, log: i32) -> LogOptions {
        let durability = if log == 0 { self.durability } else { Durability::Fsync };
        LogOptions { segment_bytes: SEGMENT_BYTES, durability, ..LogOptions::default() }
    }

    fn log(&self, log: i32) -> Arc<PartitionLog> {
        let opened = self.storage.as_ref().unwrap().open_log(log_id(log), self.log_options(log));
        opened.unwrap_or_else(|error| panic!("{}: {error}", self.context))
    }

    fn pick(&self, range: Range<i64>) -> i64 {
        range.start + self.rng.below((range.end - range.start).max(1) as u64) as i64
    }

    /// Appends a batch, by an idempotent producer or not, and waits until it is durable.
    fn append(&mut self, of: i32) {
        let log = self.log(of);
        self.time += 1;
        let bytes = if self.rng.one_in(5) { 4_000 } else { self.rng.below(900) as usize };
        let count = 1 + self.rng.below(3) as usize;
        let batch = match self.rng.one_in(2) {
            // In the order in which they come, and each begins a sequence of its own: what is lost is nobody's business here.
            true => sequenced(self.rng.below(PRODUCERS) as i64, self.time as i16, 0, count, bytes, self.time * 10),
            false => batch(count, bytes, self.time * 10),
        };
        let appended =
            log.append(batch, LeaderEpoch(self.epoch)).unwrap_or_else(|error| panic!("{}: {error}", self.context));
        assert_eq!(
            (appended.base_offset, appended.duplicate),
            (self.known[of as usize].end, false),
            "{}",
            self.context
        );
        self.world.run_until(appended.ticket).unwrap();
        let end = appended.last_offset.plus(1);
        let read = log.read(appended.base_offset, end, 1).unwrap_or_else(|error| panic!("{}: {error}", self.context));
        let known = &mut self.known[of as usize];
        known.batches.push((appended.base_offset, end, read.batches));
        known.end = end;
    }

    fn live(&mut self, kind: Kind) {
        for _ in 0..20 + self.rng.below(30) {
            match self.rng.below(12) {
                0 => {
                    self.epoch += 1;
                    for log in 0..LOGS {
                        let ticket = self.log(log).start_epoch(LeaderEpoch(self.epoch)).unwrap();
                        self.world.run_until(ticket).unwrap();
                    }
                }
                1 if self.rng.one_in(3) => self.world.run_for(Duration::from_secs(6)),
                // A start that only the damaged slot of a mark told of is not known any more.
                2 if self.rng.one_in(4) && kind != Kind::Mark => self.advance_start(),
                3 if self.rng.one_in(4) => self.compact(),
                3 if self.rng.one_in(6) => self.change_durability(),
                4..6 => self.append(1 + self.rng.below(LOGS as u64 - 1) as i32),
                _ => self.append(0),
            }
        }
        if self.durability == Durability::Replicated || self.rng.one_in(2) {
            // Longer than the interval of syncs.
            self.world.run_for(Duration::from_secs(12));
        }
    }

    fn change_durability(&mut self) {
        self.durability = match self.durability {
            Durability::Fsync => Durability::Replicated,
            Durability::Replicated => Durability::Fsync,
        };
        let changed = self.log(0).change_durability(self.durability).unwrap();
        self.world.run_until(changed).unwrap();
    }

    fn advance_start(&mut self) {
        let start = Offset(self.pick(self.known[0].start.0..self.known[0].end.0));
        self.world.run_until(self.log(0).advance_start(start).unwrap()).unwrap();
        self.known[0].start = start;
        self.known[0].batches.retain(|(_, end, _)| *end > start);
    }

    /// Whatever it does, what can be read afterwards is what there is. (Damage is passed over or refused.)
    fn compact(&mut self) {
        let rules = Compaction {
            dirty_ratio: 0.0,
            lag_ms: 0,
            lag_ms_max: i64::MAX,
            tombstone_ms: 0,
            segment_bytes: SEGMENT_BYTES,
            keys_bytes_max: 1 << 20,
            below: Offset(i64::MAX),
        };
        let log = self.log(0);
        match log.compact(&rules, &|| true) {
            Ok(_) => {}
            Err(CompactError::Read(ReadError::Damaged { .. })) if !self.known[0].touched.is_empty() => {}
            Err(error) => panic!("{}: {error}", self.context),
        }
        // Records may have gone, and none may have changed.
        let before = self.records(0);
        let known = &mut self.known[0];
        let (mut from, mut found) = (known.start, Vec::new());
        while from < known.end {
            match log.read(from, known.end, 1) {
                Ok(read) => {
                    let header = BatchHeader::parse(&read.batches).unwrap();
                    found.push((header.base_offset, header.end_offset(), read.batches));
                    from = read.next;
                }
                Err(ReadError::Damaged { hole: Some(hole), .. }) => {
                    // As far as it goes: batches that it cuts are compacted now, or lost.
                    let lost = known.batches.iter().filter(|(base, end, _)| *end > hole.base && *base < hole.next);
                    found.extend(lost.cloned());
                    from = hole.next;
                }
                Err(error) => panic!("{}: {error}", self.context),
            }
        }
        known.batches = found;
        for (offset, record) in self.records(0) {
            assert_eq!(before.get(&offset), Some(&record), "{}: {offset} after a pass", self.context);
        }
    }

    /// The records of a log, as far as they are known.
    fn records(&self, of: usize) -> BTreeMap<Offset, String> {
        let batches = self.known[of].batches.iter().map(|(_, _, bytes)| Batch::parse_one(bytes.clone()).unwrap());
        let records = batches.flat_map(|batch| batch.records(1 << 20).unwrap().collect::<Vec<_>>());
        records
            .map(|record| {
                record
                    .map(|Record { offset, timestamp, key, value, .. }| {
                        (offset, format!("{timestamp:?} {key:?} {value:?}"))
                    })
                    .unwrap()
            })
            .collect()
    }

    fn end(&mut self) -> End {
        let storage = self.storage.take().unwrap();
        let end = [End::Close, End::Kill, End::PowerCut][self.rng.below(3) as usize];
        match end {
            End::Close => {
                self.world.run_until(storage.close()).unwrap();
                self.world.first().kill();
            }
            End::Kill => self.world.first().kill(),
            End::PowerCut => self.world.first().crash(),
        }
        drop(storage);
        self.context = format!("{}, {end:?}", self.context);
        end
    }

    fn dir(&self) -> PathBuf {
        format!("/data/logs/{}/0/records-0", log_id(0).topic).into()
    }

    fn content(&self, path: &Path) -> Vec<u8> {
        let file = self.world.disk().open(path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
        bytes
    }

    /// Damages one file of the log, if there is one of that kind, and notes which batches that concerns.
    fn damage(&mut self, kind: Kind, harm: Harm) -> bool {
        // A power cut may have left the log in the journal only.
        let Ok(paths) = self.world.disk().read_dir(&self.dir()) else { return false };
        let of = |suffix: &str| -> Vec<PathBuf> {
            let mut found: Vec<_> = paths.iter().filter(|path| named(path, suffix)).cloned().collect();
            found.sort();
            found
        };
        let mut found = match kind {
            Kind::Closed | Kind::Active => of(".log"),
            Kind::Index => of(".index"),
            Kind::Epochs => of("/epochs"),
            Kind::Producers => of(".producers"),
            Kind::Compacted => of("/compacted"),
            Kind::Mark => of("/mark"),
        };
        match kind {
            Kind::Closed => drop(found.pop()),
            Kind::Active => drop(found.drain(..found.len().saturating_sub(1))),
            _ => {}
        }
        if found.is_empty() {
            return false;
        }
        let path = found[self.rng.below(found.len() as u64) as usize].clone();
        let bytes = self.content(&path);
        if bytes.is_empty() {
            return false;
        }
        let len = bytes.len() as u64;
        let starts = || {
            let lengths =
                batches(bytes.clone().into()).map_while(Result::ok).map(|batch| batch.header().batch_bytes() as u64);
            lengths.scan(0, |at, length| Some(std::mem::replace(at, *at + length))).collect::<Vec<_>>()
        };
        let at = match path.extension() {
            // Headers are a small part of what is there, and most is learned from them.
            Some(extension) if extension == "log" && !starts().is_empty() && self.rng.one_in(2) => {
                let starts = starts();
                starts[self.rng.below(starts.len() as u64) as usize] + self.rng.below(HEADER_BYTES as u64)
            }
            // Its two slots.
            _ if kind == Kind::Mark && harm == Harm::Flip => self.rng.below(2) * 4096 + self.rng.below(72),
            _ => self.rng.below(len),
        };
        self.whole = Some((path.clone(), bytes.clone()));
        let disk = self.world.disk();
        match harm {
            Harm::Flip => disk.corrupt(&path, at, 1 << self.rng.below(8)).unwrap(),
            Harm::Cut => {
                let file = disk.open(&path, OpenMode::Write).unwrap();
                file.set_len(at).unwrap();
                file.sync_data().unwrap();
            }
            Harm::Remove => {
                disk.remove_file(&path).unwrap();
                disk.sync_dir(&self.dir()).unwrap();
            }
        }
        self.context = format!("{}, {kind:?} {harm:?} {} at {at} of {len}", self.context, path.display());
        if !matches!(kind, Kind::Closed | Kind::Active) {
            return true;
        }
        let damaged = match harm {
            Harm::Flip => at..at + 1,
            Harm::Cut => at..len,
            Harm::Remove => 0..len,
        };
        let mut position = 0;
        for batch in batches(bytes.into()).map_while(Result::ok) {
            let (header, length) = (*batch.header(), batch.header().batch_bytes() as u64);
            if position < damaged.end && position + length > damaged.start {
                self.known[0].touched.push(header.base_offset.0..header.end_offset().0);
                self.known[0].hides |= harm == Harm::Flip && LENGTH.contains(&(at - position));
            }
            position += length;
        }
        true
    }

    /// Reads all of a log, and from every offset: what is read must be what was appended, and what is not must be named, and have
    /// been damaged.
    fn check(&self, of: i32) {
        let (log, known, context) = (self.log(of), &self.known[of as usize], &self.context);
        assert_eq!((log.start_offset(), log.end_offset()), (known.start, known.end), "{context}: log {of}");
        let touched =
            |hole: &Hole| known.touched.iter().any(|range| range.start < hole.next.0 && range.end > hole.base.0);
        let mut from = known.start;
        while from < known.end {
            let next = self.read(&log, known, from, 20_000);
            from = match next {
                Ok(next) => next,
                Err(hole) => {
                    assert!(touched(&hole), "{context}: log {of}: {hole:?} of {:?}", known.touched);
                    hole.next
                }
            };
        }
        for (base, end, _) in &known.batches {
            let own = known.touched.iter().any(|range| range.start < end.0 && range.end > base.0);
            for offset in base.0.max(known.start.0)..end.0 {
                if let Err(hole) = self.read(&log, known, Offset(offset), 1) {
                    assert!((hole.base.0..hole.next.0).contains(&offset), "{context}: log {of}: {offset} in {hole:?}");
                    assert!(
                        own || (touched(&hole) && hole.hides && known.hides),
                        "{context}: log {of}: {offset} is sound"
                    );
                }
            }
        }
        let latest = log.latest_epoch().map_or(0, |epoch| epoch.0);
        let is_sound = |batch: &&(Offset, Offset, Bytes)| self.read(&log, known, batch.0.max(known.start), 1).is_ok();
        let sound: Vec<_> = known.batches.iter().filter(is_sound).collect();
        let newest = sound.last().map_or(0, |batch| BatchHeader::parse(&batch.2).unwrap().partition_leader_epoch.0);
        assert!((newest..=self.epoch).contains(&latest), "{context}: log {of}: epoch {latest}, of {newest}");
        // Who has sent what is served and sends it again is told so; and what was never sent is not taken for sent.
        for producer in 0..PRODUCERS as i64 {
            let own = |batch: &&&(Offset, Offset, Bytes)| {
                let header = BatchHeader::parse(&batch.2).unwrap();
                header.producer_id.0 == producer && header.base_sequence.0 >= 0
            };
            let Some((base, end, bytes)) = sound.iter().rfind(own) else { continue };
            let header = BatchHeader::parse(bytes).unwrap();
            match log.find_duplicate(&header) {
                Some(found) => assert_eq!((found.base_offset, found.last_offset.plus(1)), (*base, *end), "{context}"),
                // It has gone on since, in an epoch that is lost.
                None => assert!(!known.touched.is_empty(), "{context}: log {of}: {producer} is forgotten"),
            }
        }
        let first = log.offset_for_timestamp(TimestampMs(0)).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(first.is_some(), !sound.is_empty(), "{context}: log {of}: {first:?}");
        log.closed_segments().unwrap_or_else(|error| panic!("{context}: {error}"));
    }

    fn read(&self, log: &PartitionLog, known: &Known, from: Offset, bytes_max: usize) -> Result<Offset, Hole> {
        match log.read(from, known.end, bytes_max) {
            Ok(read) => {
                let first = known.batches.partition_point(|(_, end, _)| *end <= from);
                let found: Vec<_> = batches(read.batches).map(|batch| batch.unwrap().into_bytes()).collect();
                let expected = known.batches[first..].iter().map(|(_, _, bytes)| bytes).take(found.len());
                assert!(!found.is_empty() && expected.eq(&found), "{}: what is served at {from}", self.context);
                assert_eq!(read.next, known.batches[first + found.len() - 1].1);
                Ok(read.next)
            }
            Err(ReadError::Damaged { hole: Some(hole), .. }) => Err(hole),
            Err(error) => panic!("{}: {from}: {error}", self.context),
        }
    }

    /// Where the log is out of service: the others serve, nothing of it is touched for however long, and when the file is put back
    /// all is there.
    fn put_back(&mut self, kind: Kind, harm: Harm) {
        let Err(error) = self.storage.as_ref().unwrap().open_log(log_id(0), self.log_options(0)) else { return };
        assert!(matches!(error, OpenLogError::OutOfService { .. }), "{}: {error}", self.context);
        // Only a mark tells what the log holds, and with a second one written it has another slot.
        let marks = &self.whole.as_ref().unwrap().1;
        let has_two = [0, 4096].iter().all(|slot| marks[*slot..slot + 8] != [0; 8]);
        assert!(kind == Kind::Mark && (harm != Harm::Flip || !has_two), "{}: {error}", self.context);
        let files = |history: &Self| -> Vec<(PathBuf, Vec<u8>)> {
            let mut paths = history.world.disk().read_dir(&history.dir()).unwrap();
            paths.sort();
            // What is not synced a power cut may take: it is made again.
            paths.retain(|path| !named(path, ".index") && !named(path, "/compacted") && !named(path, ".new"));
            // And a segment without a byte of it holds nothing.
            let found = paths.into_iter().map(|path| (path.clone(), history.content(&path)));
            found.filter(|(path, bytes)| !named(path, ".log") || !bytes.is_empty()).collect()
        };
        for life in 0..2 {
            let before = files(self);
            (1..LOGS).for_each(|log| self.check(log));
            // The journal turns.
            for _ in 0..60 {
                self.append(1);
            }
            self.world.run_for(Duration::from_secs(6));
            assert!(files(self) == before, "{}: its files were touched in life {life}", self.context);
            // (A power cut takes what it can.)
            self.end();
            if life == 0 {
                let before = files(self);
                self.open();
                assert!(files(self) == before, "{}: its files were touched by a start", self.context);
            }
        }
        let (path, bytes) = self.whole.clone().unwrap();
        let file = self.world.disk().open(&path, OpenMode::Create).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        file.write_at(&[std::io::IoSlice::new(&bytes)], 0).unwrap();
        file.sync_data().unwrap();
        self.world.disk().sync_dir(&self.dir()).unwrap();
        self.known[0].touched.clear();
        self.context = format!("{}, put back", self.context);
        self.open();
    }

    fn check_all(&self) {
        (0..LOGS).for_each(|log| self.check(log));
    }
}

fn named(path: &Path, suffix: &str) -> bool {
    path.to_str().unwrap().ends_with(suffix)
}

fn run(seed: u64, kind: Kind, harm: Harm) -> bool {
    let mut history = History::new(seed);
    history.live(kind);
    history.check_all();
    history.end();
    if !history.damage(kind, harm) {
        return false;
    }
    for _ in 0..3 {
        history.open();
        history.put_back(kind, harm);
        history.check_all();
        if history.rng.one_in(3) {
            history.compact();
            history.check_all();
        }
        for _ in 0..history.rng.below(12) {
            history.append(0);
        }
        if history.rng.one_in(4) {
            history.append(1);
        }
        if history.durability == Durability::Replicated || history.rng.one_in(2) {
            history.world.run_for(Duration::from_secs(12));
        }
        history.check_all();
        history.end();
    }
    true
}

#[test]
fn one_damaged_file_costs_what_it_held_and_no_more() {
    let seeds = std::env::var("DAMAGE_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12);
    let first = std::env::var("DAMAGE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let kinds = [Kind::Closed, Kind::Active, Kind::Index, Kind::Epochs, Kind::Producers, Kind::Compacted, Kind::Mark];
    let mut failed = Vec::new();
    for kind in kinds {
        for harm in [Harm::Flip, Harm::Cut, Harm::Remove] {
            let run = |seed| {
                std::panic::catch_unwind(|| run(seed, kind, harm)).unwrap_or_else(|_| {
                    failed.push(format!("{kind:?} {harm:?}: DAMAGE_SEED={seed} DAMAGE_SEEDS=1 runs it again"));
                    true
                })
            };
            let done = (first..first + seeds).map(run).filter(|done| *done).count();
            assert!(done > 0 || seeds < 12, "{kind:?} {harm:?}: no seed had such a file");
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
