//! A log's producers as of an offset, so that a start need not walk over every batch for them.
//!
//! ```text
//! OFFSET.producers, made once and never changed; OFFSET: 20 digits, all batches below it are taken into account
//!  0  8 "MSprod" 0 1             magic and version
//!  8  4 CRC-32C of what follows
//! 12  8 the offset again
//! 20  4 number of producers, in the order in which they appended last
//! 24    for each:  8 producer id   2 epoch   8 when it was last heard of, ms since 1970   1 number of batches, 1 to 5
//!                  for each batch, oldest first:  8 base offset   4 last sequence   4 last offset's distance from the base
//! ```
//!
//! Which of them counts is in the log's mark. One that is missing or not sound is no loss: the batches tell the same.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut};
use millstream_env::Disk;
use millstream_model::{Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};
use millstream_record::crc32c;

use crate::{
    bytes_io::{read_file, replace_file},
    producers::{Appended, BATCHES_MAX, Limits, PRODUCERS_MAX, Producer, Producers},
};

const MAGIC: [u8; 8] = *b"MSprod\0\x01";
const HEAD_BYTES: usize = 12;
const PRODUCER_BYTES: usize = 19;
const BATCH_BYTES: usize = 16;
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
            batches.push(Appended { base_offset, last_sequence, last_offset_delta });
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
    use millstream_env::real::RealDisk;

    use super::*;
    use crate::producers::tests::header;

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
}
