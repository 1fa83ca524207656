//! A log's producers as of an offset, so that a start need not walk over every batch for them.
//!
//! ```text
//! OFFSET.producers, replaced as a whole; OFFSET: 20 digits, all batches below it are taken into account
//!  0  8 "MSprod" 0 1             magic and version
//!  8  4 CRC-32C of what follows
//! 12  8 the offset again
//! 20  4 number of producers, in the order in which they appended last
//! 24    for each:  8 producer id   2 epoch   8 when it was last heard of, ms since 1970   1 number of batches, 1 to 5
//!                  for each batch, oldest first:  8 base offset   4 last sequence   4 last offset's distance from the base
//! ```
//!
//! There is one of where each segment begins but the first, and the one that the log's mark names: the newest. So a truncation walks
//! over no more than the segment in which it cuts. One that is missing or not sound is no loss: the one before and the batches since
//! tell the same.
//!
//! One that is of no later offset than the mark's end is of what the log holds. For that, those past the place of a truncation go
//! after the mark says less and, durably, before the log takes another batch; and a start removes those past the mark.

use std::{
    io,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf, BufMut};
use millstream_env::Disk;
use millstream_model::{Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};
use millstream_record::{BatchHeader, crc32c};

use crate::{
    bytes_io::{read_file, replace_file},
    mark::Saved,
    producers::{BATCHES_MAX, KnownBatch, Limits, PRODUCERS_MAX, Producer, Producers},
};

const MAGIC: [u8; 8] = *b"MSprod\0\x01";
const HEAD_BYTES: usize = 12;
const PRODUCER_BYTES: usize = 19;
const BATCH_BYTES: usize = 16;
/// So many producers are kept of all segments that began since the log was last synced, at most; each segment counts as one more, and
/// those of the last one are kept however many they are.
const KEPT_MAX: usize = PRODUCERS_MAX;
/// How many bytes of batches follow the snapshot where that is not known: the next one is due as soon as there is cause for one.
pub(crate) const UNKNOWN_BYTES: u64 = u64::MAX >> 1;
/// The largest that is written, and so the largest that is read.
const FILE_BYTES_MAX: usize = HEAD_BYTES + 12 + PRODUCERS_MAX * (PRODUCER_BYTES + BATCHES_MAX * BATCH_BYTES);

/// The file of the snapshot at `at`.
pub(crate) fn path(dir: &Path, at: Offset) -> PathBuf {
    dir.join(format!("{:020}.producers", at.0))
}

/// Whether a file's name is that of a snapshot, or of one that was never finished.
pub(crate) fn is_snapshot(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".producers") || name.ends_with(".producers.new")
}

/// The offset in a snapshot's file name; none for another file.
pub(crate) fn offset_in(path: &Path) -> Option<Offset> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".producers")?;
    let at = Offset(digits.parse().ok()?);
    (at.0 >= 0 && digits.len() == 20).then_some(at)
}

/// The offsets of the snapshots that a log's directory has, in order.
pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<Offset>> {
    let mut found: Vec<_> = disk.read_dir(dir)?.iter().filter_map(|path| offset_in(path)).collect();
    found.sort();
    Ok(found)
}

/// The last sound one of those at `offsets`, which are in order, and its offset.
pub(crate) fn load_last(
    disk: &dyn Disk,
    dir: &Path,
    offsets: &[Offset],
    limits: Limits,
) -> io::Result<Option<(Offset, Producers)>> {
    for at in offsets.iter().rev() {
        if let Some(producers) = load(disk, dir, *at, limits)? {
            return Ok(Some((*at, producers)));
        }
        let path = path(dir, *at);
        tracing::warn!(path = %path.display(), "not sound; the producers are taken from what is before, and the batches since");
    }
    Ok(None)
}

/// Writes the snapshot of `at`; synced, its name once the directory is.
pub(crate) fn store(disk: &dyn Disk, dir: &Path, at: Offset, producers: &Producers) -> io::Result<()> {
    replace_file(disk, &path(dir, at), &[&encode(at, producers)], true)
}

/// Reads the snapshot of `at`; none if it is missing or not sound.
pub(crate) fn load(disk: &dyn Disk, dir: &Path, at: Offset, limits: Limits) -> io::Result<Option<Producers>> {
    match read_file(disk, &path(dir, at), FILE_BYTES_MAX as u64) {
        Ok(bytes) => Ok(bytes.and_then(|bytes| decode(&bytes, at, limits))),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(error),
    }
}

/// A log's producers, and how far they are written down.
pub(crate) struct Remembered {
    producers: Producers,
    /// Where they are written down, as far as they are.
    pub(crate) saved: Saved,
    /// Those as of where segments begin, as long as that is not written down; in order.
    pub(crate) at_bases: Vec<(Offset, Arc<Producers>)>,
    /// Bytes of batches since they were written down last.
    pub(crate) unsaved_bytes: u64,
}

impl Remembered {
    /// Of a log where nothing is written down.
    pub(crate) fn new(producers: Producers) -> Self {
        Self { producers, saved: Saved::default(), at_bases: Vec::new(), unsaved_bytes: 0 }
    }

    /// Notes a batch that was appended for good, for its producer.
    pub(crate) fn note(&mut self, header: &BatchHeader, now: TimestampMs) {
        self.saved.behind |= self.producers.note(header, now);
        self.unsaved_bytes += header.batch_bytes() as u64;
    }

    /// Keeps the producers, which are as of `at`, where a segment begins, until they are written down. Where there are too many to be
    /// kept, those of earlier segments are given up: a truncation looks further back then.
    pub(crate) fn keep(&mut self, at: Offset) {
        if at == Offset(0) {
            return;
        }
        self.at_bases.retain(|(before, _)| *before < at);
        self.at_bases.push((at, Arc::new(self.producers.clone())));
        let mut kept: usize = self.at_bases.iter().map(|(_, producers)| 1 + producers.iter().len()).sum();
        let excess = self.at_bases.iter().take_while(|(_, producers)| {
            let is_excess = kept > KEPT_MAX;
            kept -= 1 + producers.iter().len();
            is_excess
        });
        let excess = excess.count().min(self.at_bases.len() - 1);
        self.at_bases.drain(..excess);
    }

    /// Takes the producers as they are now, at `end`, to be written down, and the offset of the snapshot before. They count as written.
    pub(crate) fn take(&mut self, end: Offset, now: TimestampMs) -> (Producers, Offset) {
        self.producers.expire(now);
        let before = std::mem::replace(&mut self.saved, Saved { at: end, behind: false }).at;
        self.unsaved_bytes = 0;
        (self.producers.clone(), before)
    }

    /// What was taken has not been written: the snapshot before, of offset `before`, is the last one still.
    pub(crate) fn put_back(&mut self, before: Offset) {
        self.saved = Saved { at: before, behind: true };
        self.unsaved_bytes = UNKNOWN_BYTES;
    }

    /// Has others in the place of what a truncation has cut, not written down beyond `saved`.
    pub(crate) fn replace(&mut self, producers: Producers, saved: Saved) {
        (self.producers, self.saved) = (producers, saved);
        self.unsaved_bytes = UNKNOWN_BYTES;
    }

    /// Forgets all at once, and those as of where segments begin past `end`: they are to be found again.
    pub(crate) fn cut(&mut self, none: Producers, end: Offset) {
        self.at_bases.retain(|(at, _)| *at <= end);
        self.producers = none;
    }
}

impl Deref for Remembered {
    type Target = Producers;

    fn deref(&self) -> &Producers {
        &self.producers
    }
}

fn encode(at: Offset, producers: &Producers) -> Vec<u8> {
    let all = producers.iter();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + 12 + all.len() * (PRODUCER_BYTES + BATCHES_MAX * BATCH_BYTES));
    bytes.put_slice(&MAGIC);
    bytes.put_u32(0);
    bytes.put_i64(at.0);
    // At most `PRODUCERS_MAX`.
    bytes.put_u32(u32::try_from(all.len()).unwrap_or(u32::MAX));
    for (id, producer) in all {
        bytes.put_i64(id.0);
        bytes.put_i16(producer.epoch.0);
        bytes.put_i64(producer.heard.0);
        bytes.put_u8(u8::try_from(producer.batches().len()).unwrap_or(u8::MAX));
        for batch in producer.batches() {
            bytes.put_i64(batch.base_offset.0);
            bytes.put_i32(batch.last_sequence.0);
            bytes.put_i32(batch.last_offset_delta);
        }
    }
    let crc = crc32c(&bytes[HEAD_BYTES..]);
    bytes[8..HEAD_BYTES].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8], at: Offset, limits: Limits) -> Option<Producers> {
    let (magic, mut rest) = bytes.split_first_chunk::<8>()?;
    let crc = rest.try_get_u32().ok()?;
    if *magic != MAGIC || crc != crc32c(rest) || rest.try_get_i64().ok()? != at.0 {
        return None;
    }
    let mut producers = Producers::new(limits);
    let mut last = None;
    for _ in 0..rest.try_get_u32().ok()? {
        let id = ProducerId(rest.try_get_i64().ok()?);
        let epoch = ProducerEpoch(rest.try_get_i16().ok()?);
        let heard = TimestampMs(rest.try_get_i64().ok()?);
        let mut batches = Vec::with_capacity(BATCHES_MAX);
        for _ in 0..rest.try_get_u8().ok()? {
            let base_offset = Offset(rest.try_get_i64().ok()?);
            let last_sequence = Sequence(rest.try_get_i32().ok()?);
            let last_offset_delta = rest.try_get_i32().ok()?;
            let end = base_offset.0.checked_add(i64::from(last_offset_delta)).filter(|last| *last < at.0);
            if base_offset.0 < 0 || last_sequence.0 < 0 || last_offset_delta < 0 || end.is_none() {
                return None;
            }
            batches.push(KnownBatch { base_offset, last_sequence, last_offset_delta });
        }
        let newest = batches.last()?.base_offset;
        if !batches.is_sorted_by_key(|batch| batch.base_offset) || last.is_some_and(|last| last >= newest) {
            return None;
        }
        last = Some(newest);
        producers.restore(id, Producer::new(epoch, heard, &batches)?);
    }
    rest.is_empty().then_some(producers)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millstream_env::{
        real::RealDisk,
        sim::{DiskOperation, Fault, FaultError, World},
    };
    use millstream_model::{LeaderEpoch, PartitionId, TopicId};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::{
        AppendError, LogId, LogOptions, Storage, StorageOptions, producers::tests::header, sync_log::Synced,
        sync_plan::Cause,
    };

    const LIMITS: Limits = Limits { producers_max: PRODUCERS_MAX, expiration_ms: 1000 };

    fn known() -> Producers {
        let mut producers = Producers::new(LIMITS);
        for (id, epoch, first, count, base) in
            [(7, 2, i32::MAX, 2, 0), (1_000_000_007, 0, 5, 1, 2), (7, 2, 1, 3, 3), (9, 1, 0, 1, 6)]
        {
            producers.note(&header(id, epoch, first, count, base), TimestampMs(500 + base));
        }
        producers
    }

    fn shown(producers: &Producers) -> Vec<(ProducerId, Producer)> {
        producers.iter().map(|(id, producer)| (id, *producer)).collect()
    }

    #[test]
    fn the_bytes_are_these() {
        let expected = concat!(
            "4d5370726f640001",
            "1532ded7",
            "0000000000000007",
            "00000003",
            "000000003b9aca07",
            "0000",
            "00000000000001f6",
            "01", //
            "0000000000000002",
            "00000005",
            "00000000",
            "0000000000000007",
            "0002",
            "00000000000001f7",
            "02", //
            "0000000000000000",
            "00000000",
            "00000001", //
            "0000000000000003",
            "00000003",
            "00000002",
            "0000000000000009",
            "0001",
            "00000000000001fa",
            "01", //
            "0000000000000006",
            "00000000",
            "00000000",
        );
        let bytes = encode(Offset(7), &known());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
        assert_eq!(path(Path::new("d"), Offset(7)), Path::new("d/00000000000000000007.producers"));
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(&RealDisk, dir.path(), Offset(7), LIMITS).unwrap().is_none());
        store(&RealDisk, dir.path(), Offset(7), &known()).unwrap();
        let read = load(&RealDisk, dir.path(), Offset(7), LIMITS).unwrap().unwrap();
        assert_eq!(shown(&read), shown(&known()));
        // The most that there can be is still read.
        let mut many = Producers::new(LIMITS);
        for at in 0..5 * (PRODUCERS_MAX as i64 + 10) {
            let (round, id) = (at / (PRODUCERS_MAX as i64 + 10), at % (PRODUCERS_MAX as i64 + 10));
            many.note(&header(id, 0, round as i32, 1, at), TimestampMs(0));
        }
        store(&RealDisk, dir.path(), Offset(1 << 30), &many).unwrap();
        let read = load(&RealDisk, dir.path(), Offset(1 << 30), LIMITS).unwrap().unwrap();
        assert_eq!(shown(&read), shown(&many));
        assert_eq!(read.iter().len(), PRODUCERS_MAX);
    }

    #[test]
    fn what_is_not_sound_is_none() {
        let sound = encode(Offset(7), &known());
        assert!(decode(&sound, Offset(7), LIMITS).is_some());
        assert!(decode(&sound, Offset(8), LIMITS).is_none(), "another offset's");
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            assert!(decode(&bytes, Offset(7), LIMITS).is_none(), "byte {at}");
            assert!(decode(&sound[..at], Offset(7), LIMITS).is_none(), "cut at {at}");
        }
        // Sums that are right do not make sense of nonsense: a batch past the offset, none, six, out of order.
        let broken: [(usize, u8); 4] = [(24 + 19 + 7, 9), (24 + 18, 0), (24 + 18, 6), (24 + 35 + 19 + 7, 4)];
        for (at, byte) in broken {
            let mut bytes = sound.clone();
            assert_ne!(bytes[at], byte, "byte {at} is another");
            bytes[at] = byte;
            let crc = crc32c(&bytes[HEAD_BYTES..]);
            bytes[8..HEAD_BYTES].copy_from_slice(&crc.to_be_bytes());
            assert!(decode(&bytes, Offset(7), LIMITS).is_none(), "byte {at} = {byte}");
        }
    }

    fn batch() -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(1), None, Some(&[7; 1000]), &[]).unwrap();
        builder.build().unwrap()
    }

    #[test]
    fn those_of_where_segments_begin_are_kept_until_they_are_written() {
        let world = World::new(1);
        let options = StorageOptions { ballast_bytes: 4096, ..StorageOptions::new("/data") };
        let (storage, _) = Storage::open(options, world.env()).unwrap();
        let id = LogId::records(TopicId::NIL, PartitionId(0));
        let log = storage.open_log(id, LogOptions { segment_bytes: 3500, ..LogOptions::default() }).unwrap();
        let kept = || log.state().producers.at_bases.iter().map(|(at, _)| at.0).collect::<Vec<_>>();
        let written = || list(log.disk(), log.dir()).unwrap().iter().map(|at| at.0).collect::<Vec<_>>();
        for _ in 0..10 {
            let _ = log.append(batch(), LeaderEpoch(1)).unwrap();
        }
        assert_eq!(kept(), [3, 6, 9]);
        // Segments that go again as the append that began them is refused.
        world.disk().inject(Fault::nth(DiskOperation::Write, 8).on(".log").with(FaultError::Full));
        let refused = log.append_many(vec![batch(); 9], LeaderEpoch(1));
        assert!(matches!(refused, Err(AppendError::StorageFull { .. })), "{refused:?}");
        assert_eq!((kept(), log.state().parts.len()), (vec![3, 6, 9], 4));
        // What is postponed is still to be done.
        world.disk().inject(Fault::nth(DiskOperation::Open, 2).on(".producers").with(FaultError::Descriptors));
        assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Postponed(..))));
        assert_eq!((kept(), written()), (vec![3, 6, 9], vec![3]));
        // What is cut is not.
        drop(log.truncate(Offset(7)).unwrap());
        assert_eq!(kept(), [3, 6]);
        assert!(matches!(log.sync(Cause::Reference), Ok(Synced::Done)));
        assert_eq!((kept(), written()), (vec![], vec![3, 6]));
        // All is cut off of the one that begins there.
        world.run_for(std::time::Duration::from_secs(1));
        drop(log.truncate(Offset(6)).unwrap());
        assert!(matches!(log.sync(Cause::Turn), Ok(Synced::Done)));
        assert_eq!((kept(), written(), log.state().active().len), (vec![], vec![3, 6], 0));
    }

    #[test]
    fn no_more_are_kept_of_all_segments_than_of_one() {
        let world = World::new(1);
        let options = StorageOptions { ballast_bytes: 4096, ..StorageOptions::new("/data") };
        let (storage, _) = Storage::open(options, world.env()).unwrap();
        let log = storage.open_log(LogId::records(TopicId::NIL, PartitionId(0)), LogOptions::default()).unwrap();
        let mut state = log.state();
        let mut check = |producers: usize, at: i64, expected: &[i64]| {
            let known = producers as i64 - state.producers.iter().len() as i64;
            for id in 0..known {
                let base = 10_000 * at + id;
                state.producers.note(&header(base, 0, 0, 1, base), TimestampMs(0));
            }
            state.producers.keep(Offset(at));
            let kept: Vec<_> = state.producers.at_bases.iter().map(|(at, _)| at.0).collect();
            assert_eq!(kept, expected);
        };
        check(1000, 1, &[1]);
        check(1000, 2, &[1, 2]);
        check(2047, 3, &[1, 2, 3]);
        check(2047, 4, &[3, 4]);
        check(PRODUCERS_MAX, 5, &[5]);
        check(PRODUCERS_MAX, 6, &[6]);
        // The same again.
        check(PRODUCERS_MAX, 6, &[6]);
    }
}
