//! Bit rot in a segment: is every flipped bit found when it is read, and is all else served as it was written?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use common::{batch, log_id, options, stored};
use millstream_env::sim::World;
use millstream_log::{Hole, LogOptions, PartitionLog, ReadError, Storage};
use millstream_model::{LeaderEpoch, Offset};
use millstream_record::{HEADER_BYTES, batches};

const SEGMENT_BYTES: u64 = 130_000;
/// Where a batch's length lies: of what is damaged, only this hides where the next one begins.
const LENGTH: std::ops::Range<usize> = 8..12;

/// One batch that was appended: its segment's base, its position there, its bytes, and its offsets.
struct Appended {
    segment: Offset,
    at: u64,
    bytes: Bytes,
    base: Offset,
    end: Offset,
}

/// A log with a closed segment and one that is appended to, each with several index entries, appended in two leader epochs.
struct Bench {
    world: World,
    storage: Storage,
    log: Arc<PartitionLog>,
    appended: Vec<Appended>,
}

impl Bench {
    fn new() -> Self {
        let world = World::new(11);
        let storage = Storage::open(options(std::path::Path::new("/data")), world.env()).unwrap().0;
        let of = LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() };
        let log = storage.open_log(log_id(0), of).unwrap();
        let (mut appended, mut segment, mut at) = (Vec::new(), Offset(0), 0);
        for nth in 0..60 {
            let batch = batch(1 + nth % 3, 1_000 + 37 * nth, nth as i64);
            let epoch = LeaderEpoch(if nth < 20 { 3 } else { 5 });
            let given = log.append(batch.clone(), epoch).unwrap();
            if at + batch.len() as u64 > SEGMENT_BYTES {
                (segment, at) = (given.base_offset, 0);
            }
            let (base, end) = (given.base_offset, Offset(given.last_offset.0 + 1));
            appended.push(Appended { segment, at, bytes: stored(&batch, base, epoch), base, end });
            at += batch.len() as u64;
            world.run_until(given.ticket).unwrap();
        }
        assert!(segment > Offset(0), "there is one segment only");
        Self { world, storage, log, appended }
    }

    fn path(&self, of: &Appended) -> PathBuf {
        format!("/data/logs/{}/0/records-0/{:020}.log", log_id(0).topic, of.segment.0).into()
    }

    fn flip(&self, nth: usize, byte: usize, xor: u8) {
        let of = &self.appended[nth];
        self.world.disk().corrupt(&self.path(of), of.at + byte as u64, xor).unwrap();
    }

    /// Reads from every offset, and all from the start on. What is read must be what was appended; gives the one hole there is.
    fn check(&self, context: &str) -> Option<Hole> {
        let mut hole = None;
        let mut lost = |found: Hole| {
            assert_eq!(*hole.get_or_insert(found), found, "{context}");
            found.next
        };
        for batch in &self.appended {
            for offset in batch.base.0..batch.end.0 {
                match self.read(Offset(offset), 1, context) {
                    Ok(found) => assert_eq!(found, [&batch.bytes], "{context}: {offset}"),
                    Err(hole) => {
                        assert!((hole.base.0..hole.next.0).contains(&offset), "{context}: {offset} in {hole:?}");
                        lost(hole);
                    }
                }
            }
        }
        let (mut from, end) = (Offset(0), self.log.end_offset());
        while from < end {
            let first = self.appended.partition_point(|batch| batch.base < from);
            match self.read(from, 20_000, context) {
                Ok(found) => {
                    let expected = &self.appended[first..first + found.len()];
                    assert!(expected.iter().map(|batch| &batch.bytes).eq(&found), "{context}: {from}");
                    from = expected[found.len() - 1].end;
                }
                Err(hole) => {
                    assert_eq!(hole.base, from, "{context}: what is sound before it is served");
                    from = lost(hole);
                }
            }
        }
        hole
    }

    fn read(&self, from: Offset, bytes_max: usize, context: &str) -> Result<Vec<Bytes>, Hole> {
        match self.log.read(from, self.log.end_offset(), bytes_max) {
            Ok(read) => {
                let found: Vec<_> = batches(read.batches).map(|batch| batch.unwrap().into_bytes()).collect();
                assert!(!found.is_empty() && read.next > from, "{context}: {from}");
                Ok(found)
            }
            Err(ReadError::Damaged { hole: Some(hole), .. }) => Err(hole),
            Err(error) => panic!("{context}: {error}"),
        }
    }

    /// The offsets from a batch on to the next place that an index knows, or a segment's end: what a damaged length hides.
    fn hidden_end(&self, nth: usize) -> Offset {
        let of = &self.appended[nth];
        let (mut last_entry, mut end) = (0, of.end);
        for batch in self.appended.iter().filter(|batch| batch.segment == of.segment) {
            let is_entry = batch.at - last_entry >= 32 << 10;
            last_entry = if is_entry { batch.at } else { last_entry };
            if is_entry && batch.at > of.at {
                return batch.base;
            }
            end = batch.end;
        }
        end
    }
}

#[test]
fn every_flipped_bit_is_found_and_nothing_wrong_is_served() {
    let bench = Bench::new();
    assert_eq!(bench.check("sound"), None);
    let mut flips = 0;
    for nth in [0, 1, 7, 19, 20, 33, bench.appended.len() - 2, bench.appended.len() - 1] {
        let of = &bench.appended[nth];
        let body = (HEADER_BYTES..of.bytes.len()).step_by(211).chain([of.bytes.len() - 1]);
        for byte in (0..HEADER_BYTES).chain(body) {
            let xor = 1 << ((nth + byte) % 8);
            bench.flip(nth, byte, xor);
            let context = format!("batch {nth}, byte {byte} ^ {xor:#x}");
            let hole = bench.check(&context).unwrap_or_else(|| panic!("{context}: not found"));
            let next = if hole.hides { bench.hidden_end(nth) } else { of.end };
            assert_eq!((hole.base, hole.next), (of.base, next), "{context}");
            assert!(!hole.hides || LENGTH.contains(&byte), "{context}");
            bench.flip(nth, byte, xor);
            flips += 1;
        }
    }
    assert!(flips > 500);
    assert_eq!(bench.check("mended"), None);
    drop(bench.storage);
}

/// Of what is below the start, the log knows no epoch. A batch that holds the start is served whole.
#[test]
fn the_epoch_of_the_batch_that_holds_the_start_is_checked() {
    let bench = Bench::new();
    // The first of its epoch: those below it are of another.
    let holds = 20;
    assert_eq!(bench.appended[holds].end.0 - bench.appended[holds].base.0, 3);
    let start = bench.appended[holds].end.0 - 1;
    bench.world.run_until(bench.log.advance_start(Offset(start)).unwrap()).unwrap();
    let read = |from: i64| bench.read(Offset(from), 1, "the start");
    assert_eq!(read(start).unwrap(), [&bench.appended[holds].bytes]);
    for xor in [1, 0x40] {
        // The lowest byte of its leader epoch.
        bench.flip(holds, 15, xor);
        let hole = read(start).err().unwrap();
        assert_eq!((hole.base, hole.next), (bench.appended[holds].base, bench.appended[holds].end));
        assert_eq!(read(start + 1).unwrap(), [&bench.appended[holds + 1].bytes]);
        bench.flip(holds, 15, xor);
    }
}

#[test]
fn a_batch_within_a_value_does_not_stand_in_for_what_is_lost() {
    // The value is a batch whose offset is that of the batch that follows. The length of the one that holds it is damaged so
    // that the next one seems to begin there.
    let world = World::new(12);
    let storage = Storage::open(options(std::path::Path::new("/data")), world.env()).unwrap().0;
    let of = LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() };
    let log = storage.open_log(log_id(0), of).unwrap();
    let epoch = LeaderEpoch(1);
    let inner = stored(&batch(1, 10, 7), Offset(1), epoch);
    let mut builder = millstream_record::BatchBuilder::new(Default::default());
    builder.push(millstream_model::TimestampMs(0), None, Some(&inner), &[]).unwrap();
    let outer = builder.build().unwrap();
    let within = outer.windows(inner.len()).position(|bytes| bytes == inner).unwrap();
    for batch in [outer.clone(), batch(1, 40_000, 1), batch(1, 100, 2)] {
        world.run_until(log.append(batch, epoch).unwrap().ticket).unwrap();
    }
    let path = PathBuf::from(format!("/data/logs/{}/0/records-0/{:020}.log", log_id(0).topic, 0));
    let (is, shall) = (u32::try_from(outer.len()).unwrap() - 12, u32::try_from(within).unwrap() - 12);
    for (at, (is, shall)) in is.to_be_bytes().into_iter().zip(shall.to_be_bytes()).enumerate() {
        world.disk().corrupt(&path, 8 + at as u64, is ^ shall).unwrap();
    }
    let read = |from: i64| log.read(Offset(from), log.end_offset(), 1);
    let Err(ReadError::Damaged { hole: Some(hole), .. }) = read(0) else { panic!("{:?}", read(0)) };
    assert!(hole.base == Offset(0) && hole.next >= Offset(1), "{hole:?}");
    match read(1) {
        Err(ReadError::Damaged { .. }) => {}
        Ok(read) => assert_ne!(read.batches, inner),
        Err(error) => panic!("{error}"),
    }
    assert!(read(2).is_ok());
}

#[test]
fn the_message_names_file_place_and_offsets() {
    let bench = Bench::new();
    bench.flip(7, 100, 4);
    let of = &bench.appended[7];
    let error = bench.log.read(of.base, bench.log.end_offset(), 1).unwrap_err().to_string();
    let path = bench.path(of);
    let (at, base, last, next) = (of.at, of.base, of.end.0 - 1, of.end);
    let place = format!("{} is damaged at byte {at}:", path.display());
    let offsets = format!("offsets {base} to {last} cannot be served: read on from {next},");
    assert!(error.starts_with(&place) && error.contains(&offsets), "{error}");
}
